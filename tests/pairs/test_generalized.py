"""A v = λ B v: dense, sparse and matrix-free, with derivatives in both matrices."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sl
import scipy.sparse as sp

import implicit_eig as ieig

from ..oracles import central_difference, matched, random_matrix, relative, slow_but


N, K = 30, 3


def beam(n=N, speed=20.0):
    """Linear finite elements for −u″ + speed·u′ = λ u on (0, 1): stiffness and mass, as
    coordinate triplets of one pattern. λ ≈ speed²/4 + (jπ)²."""
    h = 1 / (n + 1)
    three = np.ones(n), np.ones(n - 1), np.ones(n - 1)
    offsets = [0, -1, 1]
    a = sp.diags_array(
        [
            2 / h * three[0],
            (-1 / h - speed / 2) * three[1],
            (-1 / h + speed / 2) * three[2],
        ],
        offsets=offsets,
    ).tocoo()
    b = sp.diags_array(
        [4 * h / 6 * three[0], h / 6 * three[1], h / 6 * three[2]], offsets=offsets
    ).tocoo()
    return a, b


def operators(a, b):
    return [ieig.SparseOperator(x.data, x.row, x.col, N) for x in (a, b)]


def finite(a, b, k, key=lambda w: -abs(w)):
    w = sl.eigvals(a, b)
    w = w[np.isfinite(w) & (abs(w) < 1e7)]
    return w[np.argsort([key(x) for x in w], kind="stable")][:k]


def assert_pairs(a, b, solution, tol=1e-9):
    v, w = np.asarray(solution.eigenvectors), np.asarray(solution.eigenvalues)
    a, b = np.asarray(a), np.asarray(b)
    size = np.linalg.norm(a) + np.abs(w) * np.linalg.norm(b)
    assert np.max(np.linalg.norm(a @ v - b @ v * w, axis=0) / size) < tol


class TestDense:
    @pytest.mark.parametrize("dtype", [np.float64, np.complex128])
    def test_a_regular_mass_matrix(self, dtype):
        a, b = (np.asarray(random_matrix(seed, 8, dtype)) for seed in (0, 1))
        solution = ieig.eigs(a, 4, "LM", mass=b, left=True)
        found = np.abs(solution.eigenvalues)
        np.testing.assert_allclose(found, np.abs(finite(a, b, 4)), rtol=1e-9)
        u, v = map(np.asarray, (solution.left_eigenvectors, solution.eigenvectors))
        np.testing.assert_allclose(u.conj().T @ b @ v, np.eye(4), atol=1e-9)
        w = np.asarray(solution.eigenvalues)[:, None]
        np.testing.assert_allclose(
            u.conj().T @ a, w * (u.conj().T @ b), atol=1e-8 * np.linalg.norm(u)
        )

    @pytest.mark.parametrize("dtype", [np.float64, np.complex128])
    def test_infinite_eigenvalues_of_a_singular_mass_matrix_are_left_out(self, dtype):
        a = np.asarray(random_matrix(2, 12, dtype))
        b = (
            np.asarray(random_matrix(3, 12, dtype))[:, :7]
            @ random_matrix(4, 12, dtype)[:7]
        )
        solution = ieig.eigs(a, 7, "LM", mass=b)
        found, exact = np.asarray(solution.eigenvalues), finite(a, b, 7)
        np.testing.assert_allclose(found[matched(found, exact)], exact, rtol=1e-8)
        assert_pairs(a, b, solution)
        assert solution.stats["num_infinite"] == 5

    def test_infinite_eigenvalues_with_jordan_blocks(self):
        """A constrained motion, differential index 2: two of three are infinite, in a
        block of order 2 that rounding makes ±1e8."""
        a = np.array([[1.0, 2, 1], [0, 3, 1], [1, 1, 0]])
        b = np.diag([1.0, 1, 0])
        solution = ieig.eigs(a, 1, "LM", mass=b, left=True)
        np.testing.assert_allclose(solution.eigenvalues, [1.0], atol=1e-12)
        assert_pairs(a, b, solution, 1e-14)
        few = ieig.eigs(a, 2, "LM", mass=b, throw=False)
        assert few.result == ieig.RESULTS.infinite
        np.testing.assert_allclose(few.eigenvalues[0], 1.0, atol=1e-12)

    @pytest.mark.parametrize("rank", [8, 5])
    def test_derivatives_in_both_matrices(self, rank):
        """dλ = uᴴ(dA − λ dB)v / uᴴBv, and differences for the vectors. A singular B stays
        singular: it moves as X Yᵀ."""
        a = random_matrix(0, 8)
        x, y = random_matrix(1, 8)[:, :rank], random_matrix(2, 8)[:rank]

        def f(m):
            a, x, y = m
            s = ieig.eigs(a, 2, "LR", mass=x @ y)
            return s.eigenvalues, jnp.abs(s.eigenvectors) ** 2

        rng = np.random.default_rng(5)
        at = jnp.concatenate([a.ravel(), x.ravel(), y.ravel()])

        def flat(m):
            sizes = np.cumsum([a.size, x.size])
            parts = jnp.split(m, sizes)
            return f(
                [
                    p.reshape(s)
                    for p, s in zip(parts, (a.shape, x.shape, y.shape), strict=True)
                ]
            )

        direction = jnp.asarray(rng.normal(size=at.shape))
        _, tangent = jax.jvp(flat, (at,), (direction,))
        assert relative(tangent, central_difference(flat, at, direction)) < 1e-6

        s = ieig.eigs(a, 2, "LR", mass=x @ y, left=True)
        u, v, w = s.left_eigenvectors, s.eigenvectors, s.eigenvalues
        da, dx, dy = jnp.split(direction, np.cumsum([a.size, x.size]))
        db = dx.reshape(x.shape) @ y + x @ dy.reshape(y.shape)
        da = da.reshape(a.shape).astype(v.dtype)
        moved = jnp.sum(u.conj() * (da @ v - db.astype(v.dtype) @ v * w), axis=0)
        assert relative(tangent[0], moved) < 1e-9

    def test_a_batch_with_a_singular_member(self):
        a = random_matrix(0, 5)
        b = jnp.stack([jnp.eye(5), jnp.diag(jnp.array([1.0, 2, 0, 0, 1]))])
        w = jax.vmap(lambda b: ieig.eigs(a, 2, "LM", mass=b, throw=False).eigenvalues)(b)
        for one, mass in zip(w, b, strict=True):
            alone = ieig.eigs(a, 2, "LM", mass=mass).eigenvalues
            np.testing.assert_allclose(one, alone, rtol=1e-10)


class TestSparse:
    def test_extreme_eigenvalues_by_the_inverse_of_the_mass(self):
        a, b = beam()
        solver = ieig.KrylovSchur(rtol=1e-11)
        solution = ieig.eigs(
            operators(a, b)[0], K, mass=operators(a, b)[1], eigensolver=solver
        )
        exact = finite(a.toarray(), b.toarray(), K)
        np.testing.assert_allclose(solution.eigenvalues, exact, rtol=1e-9)
        assert_pairs(a.toarray(), b.toarray(), solution)
        assert solution.stats["num_factorizations"] == 1

    def test_the_users_solver_for_the_mass(self):
        a, b = beam()
        mass = lx.FunctionLinearOperator(
            lambda v: operators(a, b)[1].mv(v), jax.ShapeDtypeStruct((N,), jnp.float64)
        )
        spd = lx.TaggedLinearOperator(mass, lx.positive_semidefinite_tag)
        cg = lx.Normal(lx.CG(1e-13, 1e-13))
        solver = ieig.KrylovSchur(rtol=1e-10, mass_solver=cg)
        solution = ieig.eigs(operators(a, b)[0], K, mass=spd, eigensolver=solver)
        exact = finite(a.toarray(), b.toarray(), K)
        np.testing.assert_allclose(solution.eigenvalues, exact, rtol=1e-8)

    @pytest.mark.parametrize("left", slow_but([True], [False, True]))
    def test_the_nearest_to_a_target(self, left):
        a, b = beam()
        operator, mass = operators(a, b)
        solver = ieig.ShiftInvert(0.0, inner=ieig.KrylovSchur(rtol=1e-11))
        solution = ieig.eigs(operator, K, mass=mass, eigensolver=solver, left=left)
        exact = finite(a.toarray(), b.toarray(), K, abs)
        np.testing.assert_allclose(solution.eigenvalues, exact, rtol=1e-9)
        assert_pairs(a.toarray(), b.toarray(), solution)
        if left:
            u, v = map(np.asarray, (solution.left_eigenvectors, solution.eigenvectors))
            np.testing.assert_allclose(u.conj().T @ b @ v, np.eye(K), atol=1e-8)

    @pytest.mark.parametrize("sigma", slow_but([0.0], [None, 0.0]))
    def test_gradients_in_the_values_of_both_equal_those_of_the_dense_pencil(self, sigma):
        a, b = beam()
        inner = ieig.KrylovSchur(rtol=1e-12)
        solver = inner if sigma is None else ieig.ShiftInvert(sigma, inner=inner)

        def loss(s):
            weight = jnp.linspace(0.5, 2.0, N * K).reshape(N, K)
            return jnp.sum(weight * jnp.abs(s.eigenvectors) ** 2) + 1e-2 * jnp.sum(
                s.eigenvalues.real
            )

        def ours(va, vb):
            x, y = (
                ieig.SparseOperator(v, m.row, m.col, N) for v, m in ((va, a), (vb, b))
            )
            return loss(ieig.eigs(x, K, mass=y, eigensolver=solver))

        def dense(va, vb):
            x, y = (
                jnp.zeros((N, N)).at[m.row, m.col].set(v) for v, m in ((va, a), (vb, b))
            )
            return loss(ieig.eigs(x, K, sigma=sigma, mass=y, eigensolver=ieig.Dense()))

        at = jnp.asarray(a.data), jnp.asarray(b.data)
        grads = [jax.grad(f, argnums=(0, 1))(*at) for f in (ours, dense)]
        assert relative(grads[0][0], grads[1][0]) < 1e-7
        assert relative(grads[0][1], grads[1][1]) < 1e-7

    def test_no_infinite_eigenvalue_comes_back(self):
        """Half of the mass is missing."""
        a, b = beam()
        b = b.toarray()
        b[::2], b[:, ::2] = 0, 0
        mass = ieig.SparseOperator(
            *[x for x in (sp.coo_array(b).data, *sp.coo_array(b).coords)], N
        )
        solver = ieig.ShiftInvert(0.0, inner=ieig.KrylovSchur(rtol=1e-11))
        solution = ieig.eigs(operators(a, beam()[1])[0], K, mass=mass, eigensolver=solver)
        exact = finite(a.toarray(), b, K, abs)
        np.testing.assert_allclose(solution.eigenvalues, exact, rtol=1e-8)
        assert_pairs(a.toarray(), b, solution)

    def test_a_singular_mass_is_reported_where_it_must_be_inverted(self):
        a, b = beam()
        values = b.data.copy()
        values[(b.row == 3) | (b.col == 3)] = 0
        mass = ieig.SparseOperator(values, b.row, b.col, N)
        run = lambda **kwargs: ieig.eigs(
            operators(a, b)[0], K, mass=mass, eigensolver=ieig.KrylovSchur(), **kwargs
        )
        assert run(throw=False).result == ieig.RESULTS.singular
        with pytest.raises(Exception, match="mass matrix"):
            run()

    def test_an_indefinite_mass_gives_eigenvalues(self):
        """Where SciPy's `eigs(M=...)`, which asks for a definite M, silently returns numbers
        that are none (scipy#23163)."""
        a, b = beam()
        signs = sp.diags_array(np.where(np.arange(N) % 3, 1.0, -1.0))
        b = sp.coo_array(b @ signs)
        mass = ieig.SparseOperator(b.data, b.row, b.col, N)
        solver = ieig.KrylovSchur(rtol=1e-10)
        for which, key in (("LR", lambda w: -w.real), ("SR", lambda w: w.real)):
            solution = ieig.eigs(
                operators(a, b)[0], 2, which, mass=mass, eigensolver=solver, throw=False
            )
            assert solution.result == ieig.RESULTS.successful
            exact = finite(a.toarray(), b.toarray(), 2, key)
            found = solution.eigenvalues[matched(solution.eigenvalues, exact)]
            np.testing.assert_allclose(found, exact, rtol=1e-7)
