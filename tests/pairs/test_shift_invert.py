"""Shift-invert: the nearest eigenvalues, and one factorisation for all that follows."""

import functools
import itertools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import implicit_eig as ieig
import implicit_eig._linear_solver.sparse_lu as sparse_lu

from ..oracles import central_difference, random_matrix, relative, slow_but


N, K = 40, 3
RUNTIME = Exception


@functools.cache
def matrix(dtype, seed=0):
    """Banded and non-normal, eigenvalues all over a disc."""
    a = np.array(random_matrix(seed, N, dtype))
    return np.where(np.abs(np.subtract.outer(range(N), range(N))) < 6, a, 0)


def sparse(a):
    rows, columns = np.nonzero(np.abs(np.subtract.outer(range(N), range(N))) < 6)
    return ieig.SparseOperator(a[rows, columns], rows, columns, N)


def nearest(a, sigma, k=K):
    w = np.linalg.eigvals(np.asarray(a).astype(np.complex128))
    return w[np.lexsort((-w.imag, np.round(abs(w - sigma), 4)))][:k]


def shift_invert(sigma, rtol=1e-11, **kwargs):
    return ieig.ShiftInvert(sigma, inner=ieig.KrylovSchur(rtol=rtol), **kwargs)


def loss(solution):
    w, v = solution.eigenvalues, solution.eigenvectors
    weight = jnp.asarray(np.linspace(0.5, 2.0, v.size).reshape(v.shape).astype(v.dtype))
    return jnp.sum((weight * v * v).real + (weight * v).imag) + jnp.sum((w * w).real)


def many_tangents(f):
    """Seven of them, in a batch."""

    def derivatives(x):
        directions = np.random.default_rng(0).normal(size=(7, *x.shape))
        tangent = lambda d: jax.jvp(f, (x,), (d,))[1]
        return jax.vmap(tangent)(jnp.asarray(directions))

    return derivatives


@pytest.fixture
def calls(monkeypatch):
    """Factorisations made, and the dtype of each solve."""
    made = {"factors": 0, "dtypes": []}
    factorise, solve = sparse_lu.factorise, sparse_lu._solve_block

    def counted(*args):
        made["factors"] += 1
        return factorise(*args)

    def seen(number, b, *args):
        made["dtypes"].append(b.dtype)
        return solve(number, b, *args)

    monkeypatch.setattr(sparse_lu, "factorise", counted)
    monkeypatch.setattr(sparse_lu, "_solve_block", seen)
    return made


class TestFinding:
    @pytest.mark.parametrize(
        "dtype, sigma",
        slow_but(
            [(np.float64, 1.0 + 1.0j), (np.complex64, 0.3)],
            itertools.product(
                [np.float32, np.float64, np.complex64, np.complex128], [0.3, 1.0 + 1.0j]
            ),
        ),
    )
    def test_the_nearest_eigenvalues_are_found(self, dtype, sigma):
        a = matrix(dtype)
        rtol = 1e-11 if np.finfo(dtype).eps < 1e-10 else None
        solution = ieig.eigs(sparse(a), K, eigensolver=shift_invert(sigma, rtol))
        tol = 1e-9 if np.finfo(dtype).eps < 1e-10 else 2e-4
        assert solution.eigenvalues.dtype == np.result_type(dtype, np.complex64)
        np.testing.assert_allclose(solution.eigenvalues, nearest(a, sigma), atol=tol)
        v = np.asarray(solution.eigenvectors)
        np.testing.assert_allclose(a @ v, v * solution.eigenvalues, atol=10 * tol)

    def test_dense_sparse_and_matrix_free_agree(self):
        a, sigma = matrix(np.float64), 0.7
        free = lambda v: jnp.asarray(a) @ v
        like = jnp.zeros(N)
        lu = shift_invert(sigma, linear_solver=lx.LU())
        gmres = lx.GMRES(1e-14, 1e-14, restart=N, stagnation_iters=N)
        rough = jnp.linalg.inv(jnp.asarray(a) - sigma * jnp.eye(N))
        krylov = shift_invert(sigma, linear_solver=gmres, preconditioner=1.01 * rough)
        runs = [
            ieig.eigs(sparse(a), K, sigma=sigma, eigensolver=None),
            ieig.eigs(a, K, eigensolver=shift_invert(sigma)),
            ieig.eigs(free, K, like=like, eigensolver=lu),
            ieig.eigs(free, K, like=like, eigensolver=krylov),
        ]
        for run in runs:
            np.testing.assert_allclose(run.eigenvalues, nearest(a, sigma), atol=1e-9)
            assert run.result == ieig.RESULTS.successful
        assert [int(r.stats["num_factorizations"]) for r in runs[1:]] == [1, 1, 0]

    def test_left_vectors_come_from_the_same_factor(self, calls):
        a = matrix(np.float64)
        solution = ieig.eigs(sparse(a), K, eigensolver=shift_invert(0.3), left=True)
        u, v = map(np.asarray, (solution.left_eigenvectors, solution.eigenvectors))
        np.testing.assert_allclose(u.conj().T @ v, np.eye(K), atol=1e-9)
        w = solution.eigenvalues[:, None]
        np.testing.assert_allclose(u.conj().T @ a, w * u.conj().T, atol=1e-8)
        assert calls["factors"] == 1

    def test_a_mode_is_followed_near_a_target(self):
        a = matrix(np.float64)
        w, v = np.linalg.eig(a)
        mode = np.argsort(abs(w - 0.3))[2]
        which = ieig.Overlap(v[:, mode])
        solution = ieig.eigs(
            sparse(a), 1, which, eigensolver=shift_invert(0.3), throw=False
        )
        np.testing.assert_allclose(solution.eigenvalues[0], w[mode], atol=1e-8)

    def test_a_callable_chooses_near_a_target(self):
        a, sigma = matrix(np.float64), 0.3
        which = lambda w: jnp.where(w.imag > 1e-6, -jnp.abs(w - sigma), -jnp.inf)
        solution = ieig.eigs(
            sparse(a), 1, which, eigensolver=shift_invert(sigma), throw=False
        )
        w = np.linalg.eigvals(a)
        w = w[w.imag > 1e-6]
        best = w[np.argmin(abs(w - sigma))]
        assert min(abs(np.asarray(solution.eigenvalues[0]) - [best, best.conj()])) < 1e-8

    def test_a_batch_of_matrices_and_of_targets(self, calls):
        batch = np.stack([matrix(np.float64, seed) for seed in (0, 1)])
        rows, columns = np.nonzero(np.abs(np.subtract.outer(range(N), range(N))) < 6)
        sigmas = jnp.array([0.3, 1.3])

        @jax.jit
        @jax.vmap
        def run(values, sigma):
            operator = ieig.SparseOperator(values, rows, columns, N)
            s = ieig.eigs(operator, K, eigensolver=shift_invert(sigma), throw=False)
            return s.eigenvalues

        values = run(jnp.asarray(batch[:, rows, columns]), sigmas)
        for w, a, sigma in zip(values, batch, (0.3, 1.3), strict=True):
            np.testing.assert_allclose(w, nearest(a, sigma), atol=1e-8)
        assert calls["factors"] == 2

    def test_a_factor_that_was_given_up_is_made_again(self, calls, monkeypatch):
        first = ieig.eigs(sparse(matrix(np.float64)), K, eigensolver=shift_invert(0.3))
        solve = sparse_lu._solve_block
        turns = iter(range(10**6))

        def forgetful(number, *args):
            if next(turns) == 5:
                sparse_lu._factors.alive.clear()
            return solve(number, *args)

        monkeypatch.setattr(sparse_lu, "_solve_block", forgetful)
        again = ieig.eigs(sparse(matrix(np.float64)), K, eigensolver=shift_invert(0.3))
        np.testing.assert_array_equal(first.eigenvalues, again.eigenvalues)
        assert calls["factors"] == 3

    def test_old_factors_make_room_for_new_ones(self, monkeypatch):
        monkeypatch.setattr(sparse_lu, "_memory", lambda: 0)
        for seed in (0, 1):
            ieig.eigs(sparse(matrix(np.float64, seed)), K, eigensolver=shift_invert(0.3))
        assert len(sparse_lu._factors.alive) == 1


@jax.jit
def nearest_of_300(values, rows, columns, sigma):
    operator = ieig.SparseOperator(values, rows, columns, 300)
    s = ieig.eigs(operator, 4, sigma=sigma, throw=False)
    good = s.result == ieig.RESULTS.successful
    return s.eigenvalues, good, s.stats["num_factorizations"]


class TestShiftsThatAreEigenvalues:
    @pytest.mark.parametrize("n", slow_but([60], [40, 60]))
    def test_the_shift_is_moved(self, n):
        """The Laplacian of a path: 0 is an eigenvalue, and the matrix is exactly
        singular."""
        path = sp.diags_array([2.0] * n) - sp.diags_array(
            [[1.0] * (n - 1)] * 2, offsets=[1, -1]
        )
        path = sp.csr_array(path)
        path[0, 0] = path[-1, -1] = 1.0
        solution = ieig.eigs(path, 3, eigensolver=shift_invert(0.0, 1e-9))
        exact = 4 * np.sin(np.pi * np.arange(3) / (2 * n)) ** 2
        np.testing.assert_allclose(solution.eigenvalues, exact, atol=1e-9)
        assert solution.stats["num_factorizations"] == 3

    @pytest.mark.parametrize("sigma", [0.0, 1e-9, -1e-6, 1e-3])
    @pytest.mark.parametrize(
        "name",
        slow_but(
            ["directed", "path", "two components"],
            ["directed", "path", "two components", "complex path", "float32"],
        ),
    )
    def test_the_pair_at_the_target_drowns_no_other(self, name, sigma):
        """Laplacians: of a directed graph, of a path, of two; and one of a path with
        complex weights, which is not Hermitian."""
        n = 300
        e, ring = np.arange(n), (np.arange(n) + 1) % n
        rng = np.random.default_rng(1)
        if name in ("directed", "float32"):
            graph = sp.random(n, n, density=0.02, random_state=1, format="csr")
            graph = graph + sp.csr_array((np.ones(n), (e, ring)), shape=(n, n))
        else:
            weights = 1 + rng.random(n - 1) * (1 if name != "complex path" else 1j)
            if name == "two components":
                weights[n // 2] = 0
            edges = sp.csr_array((weights, (e[:-1], e[1:])), shape=(n, n))
            graph = n**2 * (edges + edges.T)
        a = sp.diags_array(np.asarray(graph.sum(1)).ravel()) - graph
        a = a.astype(np.float32) if name == "float32" else a
        entries = 6144
        values, rows, columns = np.zeros(entries, a.dtype), *np.zeros((2, entries), int)
        coo = sp.coo_array(a)
        values[: coo.nnz] = coo.data
        rows[: coo.nnz], columns[: coo.nnz] = coo.coords
        got, good, factors = nearest_of_300(values, rows, columns, sigma)
        assert good
        exact = np.linalg.eigvals(a.toarray().astype(np.complex128))
        tol = 1e-10 if a.dtype != np.float32 else 1e-5
        np.testing.assert_allclose(
            np.sort(np.abs(got - sigma)),
            np.sort(np.abs(exact - sigma))[:4],
            atol=tol * np.max(np.abs(exact)),
        )
        assert factors <= 3

    @pytest.mark.parametrize("sigma", [0.0, 1e-9])
    def test_derivatives_beside_the_target(self, sigma):
        n = 300
        graph = sp.random(n, n, density=0.02, random_state=1, format="csr")
        ring = (np.ones(n), (np.arange(n), (np.arange(n) + 1) % n))
        graph = graph + sp.csr_array(ring, shape=(n, n))
        a = sp.coo_array(sp.diags_array(np.asarray(graph.sum(1)).ravel()) - graph)
        weight = np.random.default_rng(0).normal(size=n).astype(complex)

        def f(values, operator):
            s = ieig.eigs(operator(values), 3, sigma=sigma)
            v = s.eigenvectors
            share = jnp.abs(v.T @ weight) ** 2 / jnp.sum(jnp.abs(v) ** 2, axis=0)
            return jnp.sum(share) + s.eigenvalues[1].real

        sparse = lambda x: ieig.SparseOperator(x, *a.coords, n)
        dense = lambda x: jnp.zeros((n, n)).at[tuple(map(jnp.asarray, a.coords))].set(x)
        values = jnp.asarray(a.data)
        gradients = [jax.grad(f)(values, operator) for operator in (sparse, dense)]
        assert relative(*gradients) < 1e-7

    def test_a_singular_pencil_is_reported(self):
        a, b = np.eye(N), np.eye(N)
        a[-1], b[-1] = 0, 0
        a, b = sp.coo_array(a + np.diag(a.diagonal()[1:], 1)), sp.coo_array(b)
        run = functools.partial(
            ieig.eigs, a, 2, mass=b, eigensolver=shift_invert(0.5), throw=False
        )
        assert run().result == ieig.RESULTS.singular


class TestDerivatives:
    @pytest.mark.parametrize(
        "dtype, left",
        slow_but(
            [(np.complex128, True)],
            itertools.product([np.float64, np.complex128], [False, True]),
        ),
    )
    def test_gradients_equal_those_of_the_dense_spectrum(self, dtype, left):
        a = jnp.asarray(matrix(dtype))
        rows, columns = np.nonzero(np.abs(np.subtract.outer(range(N), range(N))) < 6)

        def by_shift_invert(values):
            operator = ieig.SparseOperator(values, rows, columns, N)
            solver = shift_invert(0.3)
            return loss(ieig.eigs(operator, K, eigensolver=solver, left=left))

        def by_dense(values):
            full = jnp.zeros((N, N), values.dtype).at[rows, columns].set(values)
            return loss(ieig.eigs(full, K, sigma=0.3, eigensolver=ieig.Dense()))

        values = a[rows, columns]
        ours, theirs = jax.grad(by_shift_invert)(values), jax.grad(by_dense)(values)
        assert relative(ours, theirs) < 1e-8

    @pytest.mark.parametrize(
        "left, what",
        [
            pytest.param(False, jax.value_and_grad, marks=pytest.mark.slow),
            (True, jax.value_and_grad),
            pytest.param(False, many_tangents, marks=pytest.mark.slow),
            pytest.param(
                False, lambda f: many_tangents(jax.grad(f)), marks=pytest.mark.slow
            ),
        ],
        ids=["gradient", "gradient, left", "many tangents", "many second derivatives"],
    )
    def test_one_factorisation_serves_all_derivatives(self, calls, left, what):
        rows, columns = np.nonzero(np.abs(np.subtract.outer(range(N), range(N))) < 6)

        def f(values):
            operator = ieig.SparseOperator(values, rows, columns, N)
            s = ieig.eigs(operator, K, eigensolver=shift_invert(0.31), left=left)
            return loss(s)

        jax.jit(what(f))(jnp.asarray(matrix(np.float64)[rows, columns]))
        assert calls["factors"] == 1
        # A real operator and a real target: never a complex right side.
        assert set(calls["dtypes"]) == {np.dtype(np.float64)}

    def test_a_complex_target_of_a_real_operator_has_real_gradients(self):
        a = matrix(np.float64)
        rows, columns = np.nonzero(np.abs(np.subtract.outer(range(N), range(N))) < 6)

        def f(values, eigensolver):
            operator = ieig.SparseOperator(values, rows, columns, N)
            return loss(ieig.eigs(operator, K, eigensolver=eigensolver))

        def g(values):
            full = jnp.zeros((N, N)).at[rows, columns].set(values)
            return loss(ieig.eigs(full, K, sigma=1 + 1j, eigensolver=ieig.Dense()))

        values = jnp.asarray(a[rows, columns])
        ours = jax.grad(f)(values, shift_invert(1 + 1j))
        assert ours.dtype == np.float64
        assert relative(ours, jax.grad(g)(values)) < 1e-8

    def test_forward_over_reverse(self):
        rows, columns = np.nonzero(np.abs(np.subtract.outer(range(N), range(N))) < 6)

        def f(values):
            operator = ieig.SparseOperator(values, rows, columns, N)
            return loss(ieig.eigs(operator, 2, eigensolver=shift_invert(0.3, 1e-13)))

        values = jnp.asarray(matrix(np.float64)[rows, columns])
        direction = jnp.asarray(np.random.default_rng(0).normal(size=values.shape))
        both = jax.jit(lambda v: jax.jvp(jax.grad(f), (v,), (direction,)))
        gradient = lambda v: both(v)[0]
        differences = central_difference(gradient, values, direction, 1e-5)
        assert relative(both(values)[1], differences) < 1e-5

    def test_another_linear_solver_takes_the_factor_as_preconditioner(self):
        """With (A − σ)⁻¹ at hand GMRES needs far fewer steps than the order."""
        rows, columns = np.nonzero(np.abs(np.subtract.outer(range(N), range(N))) < 6)
        gmres = lx.GMRES(1e-13, 1e-13, restart=25, max_steps=25, stagnation_iters=25)

        def f(values, adjoint=None):
            operator = ieig.SparseOperator(values, rows, columns, N)
            solver = shift_invert(0.3)
            return loss(ieig.eigs(operator, K, eigensolver=solver, adjoint=adjoint))

        values = jnp.asarray(matrix(np.float64)[rows, columns])
        gradient = jax.grad(f)(values, ieig.ImplicitAdjoint(gmres))
        assert relative(gradient, jax.grad(f)(values)) < 1e-8


class TestBadInput:
    @pytest.mark.parametrize(
        ("call", "text"),
        [
            (lambda op: ieig.eigs(op, 2, sigma=np.nan), "nan"),
            (lambda op: ieig.ShiftInvert([1.0, 2.0]), "(2,)"),
            (lambda op: ieig.eigs(op, 2, "LR", sigma=1.0), "LR"),
            (lambda op: ieig.eigs(op, 2, ieig.Nearest(2.0), sigma=1.0), "Nearest"),
            (
                lambda op: ieig.eigs(op, 2, sigma=1.5, eigensolver=shift_invert(1.0)),
                "sigma=1.5",
            ),
            (
                lambda op: ieig.eigs(
                    lambda v: v, 2, like=jnp.zeros(300), eigensolver=shift_invert(2.5)
                ),
                "linear_solver",
            ),
        ],
    )
    def test_what_cannot_be_meant_is_named(self, call, text):
        with pytest.raises(
            ValueError, match=text.replace("(", r"\(").replace(")", r"\)")
        ):
            call(sparse(matrix(np.float64)))

    @pytest.mark.parametrize("name", ["linear_solver", "inner"])
    def test_solvers_of_another_kind_are_refused(self, name):
        with pytest.raises(TypeError, match=name):
            ieig.ShiftInvert(0.0, **{name: "LU"})

    def test_a_nan_in_the_operator_is_reported(self):
        a = matrix(np.float64).copy()
        a[3, 3] = np.nan
        solver = shift_invert(0.3)
        solution = ieig.eigs(sparse(a), K, eigensolver=solver, throw=False)
        assert solution.result == ieig.RESULTS.nonfinite
        assert np.isnan(solution.eigenvalues).all()

    def test_a_linear_solver_that_gives_up_is_seen(self):
        """Three steps of GMRES are no inverse: pairs do not converge, and say so."""
        a = matrix(np.float64)
        gmres = lx.GMRES(1e-14, 1e-14, restart=3, max_steps=3)
        solver = ieig.ShiftInvert(0.3, gmres, ieig.KrylovSchur(max_restarts=5))
        solution = ieig.eigs(a, K, eigensolver=solver, throw=False)
        assert solution.result != ieig.RESULTS.successful


class TestSparseLU:
    """The factorisation as a lineax solver of its own."""

    @pytest.mark.parametrize("dtype", [np.float32, np.complex128])
    def test_it_solves_and_differentiates_like_any_other(self, dtype):
        a = matrix(dtype) + 3 * np.eye(N, dtype=dtype)
        b = np.asarray(random_matrix(3, N, dtype))[0]

        def solve(operator, b, solver):
            return lx.linear_solve(operator, b, solver).value

        operator = sparse(a)
        tol = 1e-4 if dtype == np.float32 else 1e-11
        x = solve(operator, b, ieig.SparseLU())
        np.testing.assert_allclose(x, np.linalg.solve(a, b), atol=tol)
        transposed = solve(operator.transpose(), b, ieig.SparseLU())
        np.testing.assert_allclose(transposed, np.linalg.solve(a.T, b), atol=tol)
        _, pullback = jax.vjp(lambda b: solve(operator, b, ieig.SparseLU()), b)
        np.testing.assert_allclose(pullback(b)[0], np.linalg.solve(a.T, b), atol=tol)
        many = jax.vmap(lambda b: solve(operator, b, ieig.SparseLU()))(
            jnp.stack([b, 2 * b])
        )
        np.testing.assert_allclose(many[1], 2 * x, atol=tol)

    def test_its_state_is_conjugated_and_transposed(self):
        a = matrix(np.complex128) + 3 * np.eye(N)
        b = np.asarray(random_matrix(3, N, np.complex128))[0]
        solver = ieig.SparseLU()
        state, _ = solver.conj(solver.init(sparse(a), {}), {})
        np.testing.assert_allclose(
            solver.compute(state, b, {})[0], np.linalg.solve(a.conj(), b), atol=1e-10
        )
        state, _ = solver.transpose(state, {})
        np.testing.assert_allclose(
            solver.compute(state, b, {})[0], np.linalg.solve(a.conj().T, b), atol=1e-10
        )

    def test_sums_and_multiples_are_factorised(self):
        a = matrix(np.float64)
        identity = lx.IdentityLinearOperator(jax.ShapeDtypeStruct((N,), jnp.float64))
        diagonal = lx.DiagonalLinearOperator(jnp.arange(1.0, N + 1))
        three = lx.TridiagonalLinearOperator(
            jnp.ones(N), jnp.ones(N - 1), jnp.full(N - 1, 2.0)
        )
        operator = sparse(a) * 2.0 - identity / 4.0 + diagonal + three
        full = np.asarray(operator.as_matrix())
        b = jnp.arange(1.0, N + 1)
        x = lx.linear_solve(operator, b, ieig.SparseLU()).value
        np.testing.assert_allclose(full @ x, b, atol=1e-9)

    def test_a_singular_matrix_is_reported(self):
        operator = ieig.SparseOperator([1.0, 0.0], [0, 1], [0, 1], 2)
        solution = lx.linear_solve(operator, jnp.ones(2), ieig.SparseLU(), throw=False)
        assert solution.result == lx.RESULTS.singular
        assert np.isnan(solution.value).all()

    def test_an_operator_without_entries_is_refused(self):
        operator = lx.MatrixLinearOperator(jnp.eye(2))
        with pytest.raises(ValueError, match="MatrixLinearOperator"):
            ieig.SparseLU().init(operator, {})


class TestUnits:
    """Rows or columns of a pencil in other units: the same eigenvalues, never singular."""

    def pencil(self, rows, columns):
        i = np.arange(N)
        a = sp.coo_array(
            sp.diags_array(
                [2 + 0.1 * i, -np.ones(N - 1), -0.98 * np.ones(N - 1)],
                offsets=[0, 1, -1],
            )
        )
        values = jnp.asarray(rows[a.row] * a.data * columns[a.col])
        mass = rows * columns
        w = np.linalg.eigvals(a.toarray())
        w = w[np.argsort(abs(w - 3.01))][:2]
        return (
            ieig.SparseOperator(values, a.row, a.col, N),
            ieig.SparseOperator(mass, i, i, N),
            w,
        )

    @functools.cached_property
    def run(self):
        def run(a, b):
            s = ieig.eigs(a, 2, mass=b, eigensolver=shift_invert(3.01, 1e-9), throw=False)
            return s.eigenvalues, s.result

        return jax.jit(run)

    def test_eigenvalues_do_not_depend_on_them(self):
        ramp = np.linspace(0, 1, N)
        random = np.random.default_rng(0).uniform(0, 1, (2, N))
        one = np.ones(N)
        run = self.run
        for rows, columns in (
            (10 ** (25 * ramp), one),
            (10 ** (-25 * random[0]), one),
            (one, 10 ** (8 * random[1])),
            (10 ** (16 * random[0]), 10 ** (6 * ramp)),
            (1e-140 * one, 1e30 * one),
        ):
            a, b, want = self.pencil(rows, columns)
            got, result = run(a, b)
            assert result == ieig.RESULTS.successful, result
            np.testing.assert_allclose(got, want, rtol=1e-8)

    def test_a_singular_pencil_stays_singular(self):
        ramp = 10 ** (20 * np.linspace(0, 1, N))
        for rows, columns in ((ramp, np.ones(N)), (np.ones(N), ramp)):
            a, b, _ = self.pencil(rows, columns)
            gone = np.where(np.arange(N) == 7, 0.0, 1.0)
            keep = lambda op, gone=gone: ieig.SparseOperator(
                op.entries[0] * gone[op.entries[1]], *op.entries[1:], N
            )
            assert self.run(keep(a), keep(b))[1] == ieig.RESULTS.singular
