"""DeflatedGMRES: right gradients from the fewest products, whatever it is given."""

import re
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import (
    product_that_sees_dtypes,
    random_matrix,
    relative,
    slow_but,
    with_spectrum,
)


K = 3
WIDE = {np.float32: np.float64, np.complex64: np.complex128}


def matrix(n, dtype=np.float64, seed=0):
    """One real value and a pair (or three complex ones) apart from a disc."""
    a = np.array(random_matrix(seed, n, dtype)) / dtype(np.sqrt(n))
    a[:3, :3] += np.array([[3.0, 1.0, 0], [-1.0, 3.0, 0], [0, 0, 2.2]], dtype)
    return jnp.asarray(a)


def loss(s):
    weight = jnp.linspace(0.5, 2.0, s.eigenvectors.shape[0])[:, None]
    w = s.eigenvalues
    return jnp.sum(weight.astype(w.real.dtype) * jnp.abs(s.eigenvectors) ** 4) + jnp.sum(
        (w * w).real
    )


def by_gmres(preconditioner=None, rtol=None, **options):
    return ieig.ImplicitAdjoint(
        ieig.DeflatedGMRES(**options), preconditioner=preconditioner, rtol=rtol
    )


def of_dense(a):
    return loss(ieig.eigs(a, K, "LR"))


def apply(a):
    return lx.FunctionLinearOperator(
        lambda v: a @ v, jax.ShapeDtypeStruct(a.shape[:1], a.dtype)
    )


def sparse(a):
    rows, columns = np.indices(a.shape).reshape(2, -1)
    return ieig.SparseOperator(a[rows, columns], rows, columns, a.shape[0])


@pytest.mark.parametrize(
    "kind, dtype, preconditioned",
    [
        (apply, np.float64, False),
        (apply, np.complex64, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (apply, np.float64, True),
                (apply, np.complex128, False),
                (apply, np.complex128, True),
                (apply, np.float32, False),
                (jnp.asarray, np.float32, True),
                (sparse, np.complex64, False),
            )
        ),
    ],
)
def test_gradients_agree_with_the_dense_formula(kind, dtype, preconditioned):
    n = 50
    a = matrix(n, dtype)
    inverse = None
    if preconditioned:
        crude = a + 0.02 * random_matrix(4, n, dtype)
        inverse = jnp.linalg.inv(crude - 2.9 * jnp.eye(n, dtype=dtype)).astype(dtype)
    adjoint = by_gmres(inverse, restart=30)
    f = lambda a: loss(
        ieig.eigs(
            kind(a), K, "LR", adjoint=adjoint, eigensolver=ieig.KrylovSchur(krylov_dim=24)
        )
    )
    got = jax.jit(jax.grad(f))(a)
    assert got.dtype == dtype
    want = jax.jit(jax.grad(of_dense))(a.astype(WIDE.get(dtype, dtype)))
    assert relative(got, want) < (1e-3 if dtype in WIDE else 1e-8)


def test_a_real_operator_only_ever_meets_real_vectors():
    a = matrix(40)
    product, seen = product_that_sees_dtypes()
    inverse, met = product_that_sees_dtypes()
    m = jnp.linalg.inv(a - 2.9 * jnp.eye(40))
    adjoint = by_gmres(lambda v: inverse(m, v))

    def f(a):
        mv = lambda v: product(a, v)
        krylov = ieig.KrylovSchur(krylov_dim=20)
        s = ieig.eigs(mv, K, "LR", like=a[0], adjoint=adjoint, eigensolver=krylov)
        assert jnp.iscomplexobj(s.eigenvalues)
        return loss(s)

    gradient = jax.jit(jax.grad(f))(a)
    assert seen == met == {np.dtype(np.float64)}
    assert relative(gradient, jax.grad(of_dense)(a)) < 1e-8


@pytest.mark.slow
def test_of_a_complex_preconditioner_a_real_operator_takes_the_real_part():
    a = matrix(60)
    inverse = jnp.linalg.inv(
        a.astype(complex) - jnp.asarray(2.9 + 0.9j) * jnp.eye(60, dtype=complex)
    )
    f = lambda a, m: loss(ieig.eigs(a, K, "LR", adjoint=by_gmres(m)))
    want = jax.grad(of_dense)(a)
    assert relative(jax.jit(jax.grad(f))(a, inverse), want) < 1e-9
    # One column of a real block: lineax solvers then see a real system, too.
    pair = jnp.asarray([2.0]), jnp.eye(20)[:, :1]
    b = jnp.diag(jnp.arange(2.0, 22.0)) + jnp.triu(random_matrix(3, 20), 1) / 20
    inverse = jnp.linalg.inv(
        b.astype(complex) - jnp.asarray(2.0 + 0.3j) * jnp.eye(20, dtype=complex)
    )
    for solver in (ieig.DeflatedGMRES(), lx.GMRES(1e-12, 1e-12)):
        adjoint = ieig.ImplicitAdjoint(solver, inverse)
        g = lambda b, s: ieig.attach(b, *pair, adjoint=s).eigenvectors[3, 0].real
        assert relative(jax.grad(g)(b, adjoint), jax.grad(g)(b, None)) < 1e-8


class TestCounts:
    """Products against the least there can be. A solve's check takes one product a column
    more; the products of the Jacobian and of S are those of any gradient."""

    def solve(
        self, spectrum, selected, rhs, *, tied=False, inverse=None, dtype=float, **kw
    ):
        """Products with A and with M of one solve, and its answer's residual."""
        n, m = len(spectrum), selected
        v = np.eye(n) + np.random.default_rng(0).normal(size=(n, n)) / np.sqrt(n)
        a = jnp.asarray((v * np.asarray(spectrum)) @ np.linalg.inv(v), dtype)
        x = jnp.asarray(np.linalg.qr(v[:, :m])[0], dtype)
        counting = ieig.CountingOperator(apply(a))
        pencil = eqx.tree_at(
            lambda p: p.operator, ieig._operator.Pencil(apply(a), None), counting
        )
        l = x.conj().T @ a @ x
        system = ieig.ProjectedSylvester(pencil, x, x, l, jnp.max(jnp.abs(l)))
        applied = preconditioner = None
        if inverse is not None:
            applied = ieig.CountingOperator(apply(inverse(np.asarray(a))))
            preconditioner = ieig._operator.Pencil(applied, None)
        b = system.project(rhs(n, m).astype(dtype))
        y = ieig.DeflatedGMRES(**kw).solve(
            system, b, selection=None, k=m, preconditioner=preconditioner, rtol=1e-10
        )
        products = sum(counting.counts())
        residual = relative(system.mm(y), b)
        return products, applied and sum(applied.counts()), residual

    one = staticmethod(
        lambda n, m: jnp.asarray(np.random.default_rng(1).normal(size=(n, m)))
    )

    def test_one_pair_takes_as_many_products_as_there_are_other_eigenvalues(self):
        products, _, residual = self.solve([5.0] + 10 * [1.0, 2.0, 3.0], 1, self.one)
        assert products == 3 and residual < 1e-9

    def test_of_a_complex_operator_too(self):
        spectrum = [5.0 + 1j] + 10 * [1.0, 2.0j, 3.0]
        products, _, residual = self.solve(spectrum, 1, self.one, dtype=complex)
        assert products == 3 and residual < 1e-9

    def test_pairs_share_what_was_found_for_others(self):
        # Whatever the pairs, the complement's minimal polynomial has degree 3: a block of
        # right sides needs three times its rank.
        spectrum = [5.0, 4.5, 4.0] + 10 * [1.0, 2.0, 3.0]
        column = lambda n, m: self.one(n, 1) * jnp.asarray([1.0, -2.0, 0.5])[:m]
        for rhs, rank in ((self.one, 3), (column, 1)):
            products, _, residual = self.solve(spectrum, 3, rhs)
            assert products == 3 * rank and residual < 1e-9

    def test_a_conjugate_pair_shares_its_space(self):
        block = np.array([[5.0, 1.0], [-1.0, 5.0]])
        a = np.array(with_spectrum(2, [1.0, 2.0, 3.0] * 8))
        a = jnp.asarray(np.block([[block, np.zeros((2, 24))], [np.zeros((24, 2)), a]]))
        x = jnp.eye(26)[:, :2]
        counting = ieig.CountingOperator(apply(a))
        pencil = ieig._operator.Pencil(counting, None)
        system = ieig.ProjectedSylvester(pencil, x, x, a[:2, :2], jnp.asarray(5.0))
        b = system.project(self.one(26, 2))
        y = ieig.DeflatedGMRES().solve(
            system, b, selection=None, k=2, preconditioner=None, rtol=1e-10
        )
        assert sum(counting.counts()) == 6
        assert relative(system.mm(y), b) < 1e-9

    def test_an_exact_preconditioner_leaves_a_step_a_pair(self):
        # Exact for one pair; the other's system is then a rank-one space away.
        spectrum = np.array([5.0, 4.0, *np.linspace(1, 3, 30)])
        inverse = lambda a: np.linalg.inv(a - (5.0 + 1e-9) * np.eye(32))
        products, applied, residual = self.solve(spectrum, 1, self.one, inverse=inverse)
        assert products == applied <= 2 and residual < 1e-8

    def test_shifted_inverses_are_shared(self):
        n = 200
        spectrum = np.array([5.0, 4.9, 4.8, 4.7, *np.linspace(1, 4.5, n - 4)])
        inverse = lambda a: np.linalg.inv(a - 4.95 * np.eye(n))
        together, applied, residual = self.solve(spectrum, 4, self.one, inverse=inverse)
        assert together == applied and residual < 1e-8
        apart = sum(
            self.solve(
                spectrum,
                4,
                lambda n, m, j=j: self.one(n, m) * (jnp.arange(m) == j).astype(float),
                inverse=inverse,
            )[0]
            for j in range(4)
        )
        assert together < 0.8 * apart

    def test_a_right_side_of_rounding_errors_costs_nothing(self):
        spectrum = [5.0, 4.5, 4.0] + 10 * [1.0, 2.0, 3.0]
        rhs = lambda n, m: self.one(n, m) * jnp.asarray([1.0, 1e-13, 0.0])
        products, _, _ = self.solve(spectrum, 3, rhs)
        assert products == 3

    def test_nothing_to_solve_takes_no_product(self):
        products, _, _ = self.solve(
            [5.0, 1.0, 2.0, 3.0], 1, lambda n, m: jnp.zeros((n, m))
        )
        assert products == 0

    def test_recycling_saves_products_where_cycles_are_short(self):
        n = 400
        spectrum = np.array([5.0, 4.9, 4.8, 4.79, 4.7, 4.6, *np.linspace(0, 3, n - 6)])
        counts = [
            self.solve(spectrum, 3, self.one, restart=24, recycle=r)[0] for r in (0, 12)
        ]
        assert counts[1] < 0.75 * counts[0]

    def test_where_gmres_stagnates_it_goes_on(self):
        # A cyclic shift: no residual falls before the last step (Greenbaum, Ptak and
        # Strakos 1996).
        n = 20
        a = jnp.zeros((n + 1, n + 1)).at[1:, 1:].set(jnp.roll(jnp.eye(n), 1, axis=0))
        x = jnp.eye(n + 1)[:, :1]
        counting = ieig.CountingOperator(apply(a))
        pencil = ieig._operator.Pencil(counting, None)
        system = ieig.ProjectedSylvester(
            pencil, x, x, jnp.zeros((1, 1)), jnp.asarray(1.0)
        )
        b = jnp.eye(n + 1)[:, 1:2]
        y = ieig.DeflatedGMRES().solve(
            system, b, selection=None, k=1, preconditioner=None, rtol=1e-10
        )
        assert sum(counting.counts()) == n
        assert relative(system.mm(y), b) < 1e-12

    def test_in_a_gradient_it_takes_its_directions_and_one_check(self):
        a = with_spectrum(0, np.array([5.0] + 10 * [1.0, 2.0, 3.0]))
        w, v = np.linalg.eig(np.asarray(a))
        i = np.argmax(w.real)
        pair = w[[i]].real, v[:, [i]].real

        def products(solver):
            counting = ieig.CountingOperator(apply(a))
            f = lambda a, solver: jnp.sum(
                ieig.attach(
                    eqx.tree_at(lambda c: c.operator, counting, apply(a)),
                    *pair,
                    adjoint=ieig.ImplicitAdjoint(solver),
                ).eigenvectors.real
                ** 3
            )
            gradient = jax.jit(jax.grad(f), static_argnums=1)
            got = gradient(a, solver)
            assert relative(got, jax.grad(f)(a, lx.LU())) < 1e-8
            counting.reset()
            gradient(a, solver)
            return sum(counting.counts())

        # LU takes n products for the matrix and one for a random right side, which tells
        # whether it is singular; the others are those of any gradient.
        assert products(ieig.DeflatedGMRES()) == products(lx.LU()) - 32 + 3


@pytest.mark.parametrize("preconditioned", slow_but([True], [False, True]))
def test_members_of_a_batch_converge_at_different_steps(preconditioned):
    n = 30
    easy = jnp.diag(jnp.asarray([5.0, 4.0, 3.0, *np.ones(n - 3)])) + jnp.diag(
        jnp.ones(n - 1).at[4:].set(0.0), 1
    )
    batch = jnp.stack([matrix(n), easy, matrix(n, seed=1), 1e8 * matrix(n, seed=2)])

    def f(a):
        inverse = None
        if preconditioned:
            size = jnp.max(jnp.abs(a))
            inverse = jnp.linalg.inv(a - 0.9 * size * jnp.eye(n))
        adjoint = by_gmres(inverse, restart=16)
        return loss(ieig.eigs(a, K, "LR", adjoint=adjoint))

    got = jax.jit(jax.vmap(jax.grad(f)))(batch)
    for gradient, a in zip(got, batch, strict=True):
        assert relative(gradient, jax.grad(of_dense)(a)) < 1e-7


@pytest.mark.parametrize(
    "dtype, preconditioned",
    slow_but(
        [(np.float64, True)],
        [(np.float64, True), (np.float64, False), (np.complex128, True)],
    ),
)
@pytest.mark.slow
def test_mass_matrices(dtype, preconditioned):
    n = 40
    a = matrix(n, dtype)
    b = jnp.eye(n, dtype=dtype) + random_matrix(7, n, dtype) / 20
    inverse = jnp.linalg.inv(a - 2.9 * b) if preconditioned else None

    def f(a, b, adjoint):
        return loss(ieig.eigs(a, K, "LR", mass=b, adjoint=adjoint))

    gradient = jax.jit(jax.grad(f, argnums=(0, 1)))
    got, want = gradient(a, b, by_gmres(inverse)), gradient(a, b, None)
    assert relative(got, want) < 1e-8


def test_defective_and_tied_eigenvalues_inside_the_selection():
    n = 20
    a = jnp.diag(jnp.asarray([5.0, 5.0, 4.0, *np.linspace(0, 1, n - 3)]))
    a = (a + random_matrix(0, n) / 40).at[:, :2].set(0.0)
    a = a.at[:2, :2].set(jnp.asarray([[5.0, 1.0], [0.0, 5.0]]))
    l, x = a[:2, :2], jnp.eye(n)[:, :2]
    system = ieig.ProjectedSylvester(
        ieig._operator.Pencil(apply(a), None), x, x, l, jnp.asarray(5.0)
    )
    b = system.project(random_matrix(1, n)[:, :2])
    for s in (system, system.transpose()):
        y = ieig.DeflatedGMRES().solve(
            s, b, selection=None, k=2, preconditioner=None, rtol=1e-11
        )
        rest = s.pencil.operator.as_matrix()[2:, 2:]
        y_want = jnp.linalg.solve(
            jnp.kron(jnp.eye(2), rest) - jnp.kron(s.matrix.T, jnp.eye(n - 2)),
            b[2:].T.reshape(-1),
        )
        assert relative(y[2:], y_want.reshape(2, -1).T) < 1e-9


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"restart": 0}, ValueError, "got 0"),
        ({"restart": 2.5}, TypeError, "got 2.5"),
        ({"max_restarts": 0}, ValueError, "got 0"),
        ({"recycle": -1}, ValueError, "got -1"),
        ({"restart": 8, "recycle": 8}, ValueError, "below `restart=8`; got 8"),
        ({"rtol": 0.0}, ValueError, "got 0.0"),
    ],
)
def test_options_that_cannot_be_meant_are_named(options, error, text):
    with pytest.raises(error, match=text):
        ieig.DeflatedGMRES(**options)


@pytest.mark.slow
def test_the_docstrings_example_runs():
    code = re.search(r"```python\n(.*?)```", ieig.DeflatedGMRES.__doc__, re.S).group(1)
    *code, last = textwrap.dedent(code).rstrip().split("\n")
    scope = {}
    exec("\n".join(code), scope)
    assert np.all(np.isfinite(eval(last, scope)))
