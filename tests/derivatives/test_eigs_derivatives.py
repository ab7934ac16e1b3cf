"""Derivatives of selected pairs: every kind of operator, solver and dtype, one answer."""

import itertools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.experimental import sparse

import implicit_eig as ieig
from benchmarks.problems import convection_diffusion

from ..oracles import (
    central_difference,
    flagged_eig,
    largest_real,
    product_that_sees_dtypes,
    random_matrix,
    real_dot,
    relative,
    slow_but,
)


K = 3
KRYLOV = ieig.KrylovSchur(rtol=1e-12, krylov_dim=24)
ADJOINTS = {
    "default": None,
    "LU": ieig.ImplicitAdjoint(lx.LU()),
    "GMRES": ieig.ImplicitAdjoint(
        lx.GMRES(1e-13, 1e-13, restart=120, stagnation_iters=120)
    ),
    "NormalCG": ieig.ImplicitAdjoint(lx.Normal(lx.CG(1e-13, 1e-13, max_steps=5000))),
}


def matrix(n, dtype=np.float64, seed=0):
    """The selected end stands apart: three real values or one and a pair."""
    a = np.array(random_matrix(seed, n, dtype)) / dtype(np.sqrt(n))
    a[:3, :3] += np.array([[3.0, 1.0, 0], [-1.0, 3.0, 0], [0, 0, 2.2]], dtype)
    return jnp.asarray(a)


def loss(solution):
    """A real function of values and vectors that sees their phases."""
    w, v = solution.eigenvalues, solution.eigenvectors
    n, k = v.shape
    weight = jnp.asarray(np.linspace(0.5, 2.0, n * k).reshape(n, k).astype(v.dtype))
    return jnp.sum((weight * v * v).real + (weight * v).imag) + jnp.sum((w * w).real)


def reference(a):
    """The same from JAX's derivative of the full decomposition."""
    w, v = flagged_eig(a)
    order = jnp.lexsort((-w.imag, -jnp.round(w.real, 9)))[:K]

    class Pairs:
        eigenvalues, eigenvectors = w[order], largest_real(v[:, order])

    return loss(Pairs)


def dense(a, **kwargs):
    return ieig.eigs(a, K, "LR", **kwargs)


def matrix_free(a, **kwargs):
    like = jax.ShapeDtypeStruct(a.shape[:1], a.dtype)
    return ieig.eigs(lambda v: a @ v, K, "LR", like=like, eigensolver=KRYLOV, **kwargs)


@pytest.fixture(scope="module")
def exact():
    a = matrix(300)
    return a, jax.jit(jax.grad(reference))(a)


@pytest.mark.parametrize(
    "find, adjoint",
    slow_but(
        [
            (dense, "default"),
            (dense, "NormalCG"),
            (matrix_free, "LU"),
            (matrix_free, "GMRES"),
        ],
        itertools.product([dense, matrix_free], ADJOINTS),
    ),
)
def test_gradients_by_every_linear_solver_agree_with_the_dense_formula(
    find, adjoint, exact
):
    a, gradient = exact
    got = jax.jit(jax.grad(lambda a: loss(find(a, adjoint=ADJOINTS[adjoint]))))(a)
    assert got.dtype == a.dtype
    assert relative(got, gradient) < 1e-8


@pytest.mark.parametrize(
    "find, dtype, left",
    slow_but(
        [
            (dense, np.float64, True),
            (matrix_free, np.complex128, False),
        ],
        itertools.product(
            [dense, matrix_free], [np.float64, np.complex128], [False, True]
        ),
    ),
)
class TestBothModes:
    n = 40

    def pairs(self, find, left):
        def fn(a):
            s = find(a, left=left)
            extra = (s.left_eigenvectors, s.condition_numbers) if left else ()
            return (s.eigenvalues, s.eigenvectors, *extra)

        return fn

    def test_jvp_agrees_with_differences_and_vjp_is_its_transpose(
        self, find, dtype, left
    ):
        a, e = matrix(self.n, dtype), random_matrix(1, self.n, dtype)
        fn = self.pairs(find, left)
        both = jax.jit(lambda a: jax.jvp(fn, (a,), (e,)))
        tangent = both(a)[1]
        difference = central_difference(lambda a: both(a)[0], a, e, 1e-5)
        assert relative(tangent, difference) < 1e-6
        rng = np.random.default_rng(2)
        cotangent = jax.tree.map(
            lambda t: jnp.asarray(
                (rng.normal(size=t.shape) * (1 + 0.3j)).astype(t.dtype)
                if jnp.iscomplexobj(t)
                else rng.normal(size=t.shape).astype(t.dtype)
            ),
            tangent,
        )
        (back,) = jax.jit(lambda a, c: jax.vjp(fn, a)[1](c))(a, cotangent)
        scale = np.linalg.norm(back) * np.linalg.norm(e)
        assert abs(real_dot(tangent, cotangent) - real_dot(back, e)) < 1e-9 * scale


@pytest.mark.parametrize(
    "find, dtype",
    slow_but(
        [(dense, np.complex128)],
        itertools.product([dense, matrix_free], [np.float64, np.complex128]),
    ),
)
@pytest.mark.slow
def test_hessian_vector_products_of_values_and_both_vectors(find, dtype):
    a, e = matrix(40, dtype), random_matrix(1, 40, dtype)

    def f(a):
        s = find(a, left=True)
        w, v, u = s.eigenvalues, s.eigenvectors, s.left_eigenvectors
        smooth = jnp.sum((w * w).real) + jnp.sum((v**3).real) + jnp.sum((u * u).real)
        return smooth + jnp.sum(s.condition_numbers**2)

    both = jax.jit(lambda a: jax.jvp(jax.grad(f), (a,), (e,)))
    difference = central_difference(lambda a: both(a)[0], a, e, 1e-5)
    assert relative(both(a)[1], difference) < 1e-5


@pytest.mark.parametrize(
    "find", slow_but([ieig.eig, matrix_free], [ieig.eig, dense, matrix_free])
)
def test_mixed_derivatives_agree_in_all_orders_of_the_modes(find):
    """With respect to A and to a parameter that enters the loss alone."""
    a, x = matrix(40), jnp.linspace(-1.0, 2.0, 40)

    def f(a, t):
        v = find(a).eigenvectors
        i = jnp.argmax(jnp.abs(v[0]) ** 2 + jnp.abs(v[1]) ** 2)
        return jnp.sum((1 + t * x) ** 2 * jnp.abs(v[:, i]) ** 2)

    want = jax.jit(jax.grad(lambda a: jax.jvp(lambda t: f(a, t), (0.0,), (1.0,))[1]))(a)
    for jacobian in (jax.jacfwd, jax.jacrev):
        mixed = jax.jit(jacobian(jax.grad(f), argnums=1))(a, 0.0)
        assert relative(mixed, want) < 1e-9


@pytest.mark.slow
def test_hessian_agrees_with_the_dense_formula(exact):
    a = matrix(12)
    e = random_matrix(1, 12)
    hvp = lambda f: jax.jit(lambda a: jax.jvp(jax.grad(f), (a,), (e,))[1])(a)
    want = hvp(reference)
    assert relative(hvp(lambda a: loss(dense(a))), want) < 1e-8
    krylov = ieig.KrylovSchur(rtol=1e-13, krylov_dim=10)
    free = lambda a: loss(
        ieig.eigs(lambda v: a @ v, K, "LR", like=a[0], eigensolver=krylov)
    )
    assert relative(hvp(free), want) < 1e-8


@pytest.mark.slow
def test_gradients_reach_closures_sparse_values_and_leaves_of_operators():
    n = 30
    a = jnp.where(random_matrix(3, n) > 0.3, matrix(n), 0)
    f = lambda s: jnp.abs(s.eigenvectors[0, 0]) ** 2 + s.eigenvalues[0].real ** 2
    solve = lambda op, **kw: f(ieig.eigs(op, K, "LR", eigensolver=KRYLOV, **kw))
    want = jax.jit(jax.grad(lambda a: f(dense(a))))(a)
    closure = jax.jit(jax.grad(lambda a: solve(lambda v: a @ v, like=a[0])))(a)
    assert relative(closure, want) < 1e-9
    leaf = jax.jit(jax.grad(lambda a: solve(lx.MatrixLinearOperator(a))))(a)
    assert relative(leaf, want) < 1e-9
    product = jax.jit(
        jax.grad(
            lambda a: solve(lx.MatrixLinearOperator(a) @ lx.DiagonalLinearOperator(a[0]))
        )
    )
    composed = jax.jit(jax.grad(lambda a: f(dense(a * a[0]))))
    head = a + jnp.eye(n)
    assert relative(product(head), composed(head)) < 1e-9
    mat = sparse.BCOO.fromdense(a)
    rows, columns = mat.indices.T
    values = jax.jit(
        jax.grad(lambda data: solve(sparse.BCOO((data, mat.indices), shape=(n, n))))
    )(mat.data)
    assert relative(values, want[rows, columns]) < 1e-9
    triplets = jax.jit(
        jax.grad(lambda data: solve(ieig.SparseOperator(data, rows, columns, n)))
    )(mat.data)
    assert relative(triplets, want[rows, columns]) < 1e-9


def test_a_real_operator_only_ever_meets_real_vectors():
    a = matrix(40)
    product, seen = product_that_sees_dtypes()

    def f(a):
        s = ieig.eigs(
            lambda v: product(a, v), K, "LR", like=a[0], eigensolver=KRYLOV, left=True
        )
        assert jnp.iscomplexobj(s.eigenvalues)
        return loss(s)

    assert jax.grad(f)(a).dtype == np.float64
    assert seen == {np.dtype(np.float64)}


def test_a_complex_operator_satisfies_cauchy_riemann():
    a, e = matrix(20, np.complex128), random_matrix(1, 20, np.complex128)
    for find in (dense, matrix_free):
        along = jax.jit(lambda e, f=find: jax.jvp(lambda a: f(a).eigenvalues, (a,), (e,)))
        assert relative(along(1j * e)[1], 1j * along(e)[1]) < 1e-9


@pytest.mark.slow
def test_vmap_over_operators_is_the_loop_over_them():
    a = jnp.stack([matrix(30, seed=s) for s in range(3)])
    for find in (dense, matrix_free):
        g = jax.value_and_grad(lambda a, f=find: loss(f(a)))
        together = jax.jit(jax.vmap(g))(a)
        g = jax.jit(g)
        for i in range(3):
            assert relative(jax.tree.map(lambda x, i=i: x[i], together), g(a[i])) < 1e-9
        if find is dense:
            total = jax.grad(lambda a: jnp.sum(jax.vmap(lambda a: loss(dense(a)))(a)))
            assert relative(jax.jit(total)(a), together[1]) < 1e-9


def test_zero_beyond_a_negative_spectrum_does_not_enter_the_adjoint_run():
    # Projecting the mode out puts a zero into the spectrum, right of every eigenvalue.
    n = 1000
    above, below = 1.02 * n**2, 0.98 * n**2
    krylov = ieig.KrylovSchur(krylov_dim=20, max_restarts=5000)

    def share(s):
        return jnp.sum(jnp.abs(s.eigenvectors[: n // 3, 0]) ** 2)

    def free(d):
        def product(v):
            return (
                d * v + above * jnp.pad(v[1:], (0, 1)) + below * jnp.pad(v[:-1], (1, 0))
            )

        return share(ieig.eigs(product, 1, "LR", like=d, eigensolver=krylov))

    def dense(d):
        a = jnp.diag(d) + above * jnp.eye(n, k=1) + below * jnp.eye(n, k=-1)
        return share(ieig.eigs(a, 1, "LR"))

    d = jnp.full(n, -2.0 * n**2)
    assert relative(jax.jit(jax.grad(free))(d), jax.jit(jax.grad(dense))(d)) < 1e-5


@pytest.mark.slow
def test_a_tie_among_unselected_values_is_harmless():
    n = 20
    d = jnp.concatenate([jnp.asarray([5.0, 4.0, 3.5]), jnp.ones(n - 3)])
    v = jnp.eye(n) + random_matrix(5, n) / 10
    a, e = v @ jnp.diag(d) @ jnp.linalg.inv(v), random_matrix(6, n)
    for find in (dense, matrix_free):
        f = lambda a, g=find: loss(g(a))
        gradient = jax.jit(jax.grad(f))(a)
        difference = central_difference(jax.jit(f), a, e, 1e-6)
        assert np.isclose(jnp.vdot(gradient, e), difference, rtol=1e-6)


@pytest.mark.parametrize(
    "find, dtype",
    slow_but(
        [(matrix_free, np.float32)],
        itertools.product([dense, matrix_free], [np.float32, np.complex64]),
    ),
)
def test_single_precision_stays_single(find, dtype):
    a = matrix(30, dtype)
    krylov = ieig.KrylovSchur(krylov_dim=16)
    kwargs = {} if find is dense else {"eigensolver": krylov}

    def f(a):
        if find is dense:
            return loss(dense(a))
        s = ieig.eigs(lambda v: a @ v, K, "LR", like=a[0], **kwargs)
        assert s.eigenvectors.dtype == np.complex64
        return loss(s)

    wide = {np.float32: np.float64, np.complex64: np.complex128}[dtype]
    gradient = jax.jit(jax.grad(f))(a)
    assert gradient.dtype == dtype
    exact = jax.jit(jax.grad(lambda a: loss(dense(a))))(a.astype(wide))
    assert relative(gradient, exact) < 1e-3


def test_everything_runs_with_64_bit_disabled():
    with jax.enable_x64(False):
        a = matrix(30, np.float32)
        assert a.dtype == np.float32
        like = jax.ShapeDtypeStruct((30,), a.dtype)
        krylov = ieig.KrylovSchur(krylov_dim=16)
        free = lambda a: loss(
            ieig.eigs(lambda v: a @ v, K, "LR", like=like, eigensolver=krylov)
        )
        want = jax.jit(jax.grad(lambda a: loss(dense(a))))(a)
        assert relative(jax.jit(jax.grad(free))(a), want) < 1e-3
        w, _ = ieig.eig(a)
        assert w.dtype == np.complex64


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_stationary_vector_has_a_gradient(shift):
    """The rightmost eigenvalue of a Markov generator is 0: nothing is measured by it."""
    n, rng = 100, np.random.default_rng(0)
    rates = rng.random((n, n)) * (rng.random((n, n)) < 0.05)
    rates = rates + np.eye(n, k=-1) + np.eye(n, k=n - 1)
    np.fill_diagonal(rates, 0)
    # By its sum the vector is fixed: [Q; 1] v = [0; 1].
    generator = np.vstack([rates - np.diag(rates.sum(0)), np.ones(n)])
    v = np.linalg.lstsq(generator, np.eye(n + 1)[n], rcond=None)[0]
    moved = np.zeros(n + 1)
    moved[[0, 1]] = v[0], -v[0]
    want = np.linalg.lstsq(generator, moved, rcond=None)[0][0]

    def share(t):
        moving = jnp.asarray(rates).at[1, 0].add(t)
        q = moving - jnp.diag(moving.sum(0)) - shift * jnp.eye(n)
        s = ieig.eigs(lambda x: q @ x, 1, "LR", like=jnp.zeros(n))
        v = s.eigenvectors[:, 0].real
        return v[0] / v.sum()

    value, gradient = jax.value_and_grad(share)(0.0)
    np.testing.assert_allclose([value, gradient], [v[0], want], rtol=1e-8)


@pytest.mark.parametrize("p", [(3.0, 7.0, 0.0), (5.0, 3.0, 20.0)])
def test_single_precision_reaches_its_tolerance(p):
    """Eigenvalues of a fine grid lie close together: the parts of the augmented vector
    must not differ by as much as their distance to the rest of the spectrum."""
    values, rows, columns, n = convection_diffusion(40, p)
    weight = np.random.default_rng(0).normal(size=n)

    def gradient(dtype):
        def share(values):
            operator = ieig.SparseOperator(values, rows, columns, n)
            v = ieig.eigs(operator, 3).eigenvectors[:, 0].real
            return (jnp.asarray(weight, dtype) @ v) ** 2

        return np.asarray(jax.grad(share)(jnp.asarray(values, dtype)), float)

    assert relative(gradient(np.float32), gradient(np.float64)) < 5e-2
