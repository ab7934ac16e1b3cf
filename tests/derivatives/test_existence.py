"""Where a derivative does not exist, or has no digit, it is NaN; beside it, it is right."""

import functools
import itertools

import jax
import jax.numpy as jnp
import lineax as lx
import mpmath
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import relative, slow_but


def with_eigenvalues(w, seed=0):
    """A matrix of moderate condition, its eigenvectors V and V⁻¹."""
    v = np.random.default_rng(seed).normal(size=(len(w), len(w))) / 4 + np.eye(len(w))
    inverse = np.linalg.inv(v)
    return v @ np.diag(w) @ inverse, v, inverse


def tied_matrix(dtype):
    """3, 3, 3, 1, −1, and the spectral projector of the triple one."""
    a, v, inverse = with_eigenvalues([3.0, 3, 3, 1, -1])
    return jnp.asarray(a, dtype), v[:, :3] @ inverse[:3]


def attached(a):
    w, v = np.linalg.eig(np.asarray(tied_matrix(np.float64)[0]))
    best = np.argsort(-w.real)[:4]
    return ieig.attach(a, w[best], v[:, best], tie_rtol=1e-10).eigenvalues


def of_subspace(a):
    return ieig.invariant_subspace(a, 4, "LR").eigenvalues


FINDERS = {
    "eig": lambda a: ieig.eig(a).eigenvalues,
    "eigvals": ieig.eigvals,
    "eigs": lambda a: ieig.eigs(a, 4, "LR").eigenvalues,
    "pencil": lambda a: ieig.eigs(a, 4, "LR", mass=jnp.eye(5, dtype=a.dtype)).eigenvalues,
    "attach": attached,
    "subspace": of_subspace,
}


@pytest.mark.parametrize(
    "find, dtype",
    slow_but(
        [
            ("eigvals", np.float64),
            ("eigs", np.complex64),
            ("pencil", np.float64),
            ("attach", np.float64),
        ],
        itertools.product(FINDERS, [np.float64, np.complex64]),
    ),
)
def test_of_tied_eigenvalues_only_symmetric_functions_have_gradients(find, dtype):
    if find == "attach" and dtype != np.float64:
        pytest.skip("pairs of a rounded matrix")
    find = FINDERS[find]
    a, projector = tied_matrix(dtype)
    tol = 1e3 * float(jnp.finfo(dtype).eps)

    def rows(a):
        """One of the three, their sum of squares, and the simple eigenvalue."""
        w = find(a)
        inside = jnp.abs(w - 3) < 0.1
        one = jnp.argmax(inside)
        simple = jnp.argmin(jnp.abs(w - 1))
        return jnp.stack([w[one], jnp.sum(jnp.where(inside, w, 0) ** 2), w[simple]]).real

    jacobian = jax.jacrev(rows)(a)
    assert np.all(np.isnan(jacobian[0]))
    assert relative(jacobian[1], 6 * projector.T) < tol
    _, v, inverse = with_eigenvalues([3.0, 3, 3, 1, -1])
    assert relative(jacobian[2], np.outer(inverse[3], v[:, 3])) < tol
    assert np.all(np.isfinite(jax.jvp(rows, (a,), (a,))[1]))


def test_dropping_leaves_cotangents_as_they_are():
    a, _ = tied_matrix(np.float64)
    f = lambda a: jnp.real(ieig.eig(a, ties="drop").eigenvalues[0])
    assert np.all(np.isfinite(jax.grad(f)(a)))


def test_members_of_a_batch_are_judged_one_by_one():
    apart, v, inverse = with_eigenvalues([4.0, 3, 2, 1, -1], seed=1)
    batch = jnp.stack([tied_matrix(np.float64)[0], jnp.asarray(apart)])
    f = lambda a: jnp.sum(ieig.eigs(a, 1, ieig.Nearest(4.0)).eigenvalues.real)
    got = jax.vmap(jax.grad(f))(batch)
    assert np.all(np.isnan(got[0]))
    assert relative(got[1], np.outer(inverse[0], v[:, 0])) < 1e-11


@pytest.mark.parametrize(
    "hessian",
    [
        jax.hessian,
        pytest.param(lambda f: jax.jacfwd(jax.jacfwd(f)), marks=pytest.mark.slow),
        pytest.param(lambda f: jax.jacrev(jax.grad(f)), marks=pytest.mark.slow),
    ],
    ids=["forward over reverse", "forward", "reverse"],
)
def test_second_derivatives_of_tied_eigenvalues_are_nan_in_every_mode(hessian):
    a, _ = tied_matrix(np.float64)

    def f(a):
        w = ieig.eig(a).eigenvalues
        inside = jnp.abs(w - 3) < 0.1
        simple = w[jnp.argmin(jnp.abs(w - 1))]
        return jnp.stack([jnp.sum(jnp.where(inside, w, 0) ** 2), simple]).real

    def direction(t):
        return f(a + t[0] * a.T + t[1] * jnp.diag(jnp.arange(5.0)))

    tied, simple = (hessian(lambda t, i=i: direction(t)[i])(jnp.zeros(2)) for i in (0, 1))
    assert np.all(np.isnan(tied))
    h = 1e-4
    line = [direction(jnp.asarray([s * h, 0.0]))[1] for s in (1, 0, -1)]
    assert relative(simple[0, 0], (line[0] - 2 * line[1] + line[2]) / h**2) < 1e-5


@pytest.mark.parametrize("left", slow_but([False], [False, True]))
def test_vectors_of_a_tie_have_nan_gradients_and_no_solve_is_blamed(left):
    a, _ = tied_matrix(np.float64)

    def entry(a, j):
        return jnp.abs(ieig.eigs(a, 4, "LR", left=left).eigenvectors[0, j]) ** 2

    assert np.all(np.isnan(jax.grad(entry)(a, 0)))
    h = 1e-6 * a.T
    difference = (entry(a + h, 3) - entry(a - h, 3)) / 2e-6
    assert relative(jnp.sum(jax.grad(entry)(a, 3) * a.T), difference) < 1e-6


def coupled(n):
    """1, and a chain of n values 0.5 with couplings of 2: the separation from 1 is about
    4⁻ⁿ, the gap 0.5, and κ(1) = 1. The pair, and the tangent of its vector along E, in
    60 digits."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(n + 1, n + 1)))[0]
    b = np.zeros((n + 1, n + 1))
    b[0, 0], b[1:, 1:] = 1, 0.5 * np.eye(n) + 2 * np.eye(n, k=1)
    e = rng.normal(size=(n + 1, n + 1))
    with mpmath.workdps(60):
        shifted = mpmath.matrix((b[1:, 1:] - np.eye(n)).tolist())
        rhs = mpmath.matrix((q.T @ e @ q)[1:, :1].tolist())
        y = mpmath.lu_solve(shifted, -rhs)
        tangent = q[:, 1:] @ np.array([float(x) for x in y])
    return jnp.asarray(q @ b @ q.T), jnp.asarray(e), q[:, 0], tangent


def share(a, **options):
    v = ieig.eigs(a, 1, ieig.Nearest(1.0), throw=False, **options).eigenvectors
    return jnp.abs(v[2, 0]) ** 2


@pytest.mark.parametrize(
    "adjoint", slow_but([None], [None, ieig.ImplicitAdjoint(lx.QR())])
)
def test_a_vector_without_a_digit_has_no_derivative(adjoint):
    f = functools.partial(share, adjoint=adjoint)

    @jax.jit
    def both_modes(a, e):
        return jnp.stack([jax.jvp(f, (a,), (e,))[1], jnp.sum(jax.grad(f)(a) * e)])

    for n, digits in ((14, 1e-5), (40, None)):
        a, e, v, tangent = coupled(n)
        got = both_modes(a, e)
        if digits is None:
            assert np.all(np.isnan(got))
        else:
            assert relative(got, 2 * v[2] * tangent[2] * np.ones(2)) < digits


def test_a_plain_call_raises_where_no_digit_is_known():
    a, *_ = coupled(40)
    with pytest.raises(RuntimeError, match="no digit"):
        jax.grad(
            lambda a: jnp.abs(ieig.eigs(a, 1, ieig.Nearest(1.0)).eigenvectors[2, 0])
        )(a)


M = 6


def grid():
    """A square grid: 1 copy of the best eigenvalue, 2 of the next one."""
    t = 1.2 * np.eye(M, k=1) + 0.8 * np.eye(M, k=-1)
    return np.kron(t, np.eye(M)) + np.kron(np.eye(M), t)


def two_of_the_grid(a, p):
    """The best pair, and one copy of the second: a mixture of both."""
    w, v = np.linalg.eig(a)
    best = np.argsort(-w.real)[:3]
    v = np.stack([v[:, best[0]], 0.6 * v[:, best[1]] + 0.8 * v[:, best[2]]], axis=1)
    operator = lambda x: jnp.asarray(a) @ x + p * x
    found = ieig.attach(operator, w[best[:2]].real, v, throw=False, like=p)
    return found.eigenvalues.real


@pytest.mark.parametrize("complex_values", slow_but([False], [False, True]))
def test_an_eigenvalue_of_which_a_copy_was_left_out_has_no_derivative(complex_values):
    a = grid()
    w, v = np.linalg.eig(a)
    best = np.argmax(w.real)
    exact = np.linalg.inv(v)[best] * v[:, best]
    p = jnp.zeros(M * M)
    if complex_values:
        turn = np.diag(np.exp(1j * np.arange(M * M)))
        a, p = turn @ a @ turn.conj(), p.astype(complex)
    f = lambda p: two_of_the_grid(a, p)
    jacobian = jax.jacrev(f, holomorphic=False)(p)
    assert relative(jacobian[0].real, exact.real) < 1e-10
    assert np.all(np.isnan(jacobian[1]))
    e = jnp.asarray(np.random.default_rng(0).normal(size=M * M), p.dtype)
    assert np.isnan(jax.jvp(f, (p,), (e,))[1][1])


@pytest.mark.parametrize(
    "find, dtype",
    slow_but(
        [("eig", np.complex64), ("eigs", np.float64)],
        itertools.product(["eig", "eigs", "pencil"], [np.float64, np.complex64]),
    ),
)
def test_an_entry_that_vanishes_by_symmetry_is_no_phase(find, dtype):
    """A chain that looks the same from both ends: every second mode has a node at its
    middle."""
    n = 9
    s = np.exp(0.5 * np.sin(np.arange(n)))
    s = s * s[::-1]
    a = jnp.asarray(s[:, None] * (np.eye(n, k=1) + np.eye(n, k=-1)) / s, dtype)
    e = jnp.asarray(np.random.default_rng(1).normal(size=(n, n)), dtype)
    order = np.argsort(-np.linalg.eigvals(np.asarray(a, complex)).real)
    exact = np.linalg.eig(np.asarray(a, complex))[1][:, order[0]]

    def vectors(a, gauge):
        if find == "eig":
            w, v = ieig.eig(a, gauge=gauge)
            return v[:, jnp.argsort(-w.real)]
        mass = jnp.eye(n, dtype=a.dtype) if find == "pencil" else None
        return ieig.eigs(a, 3, "LR", mass=mass, gauge=gauge).eigenvectors

    for gauge in (ieig.UnitNorm(n // 2), ieig.Functional(jnp.zeros(n).at[n // 2].set(1))):
        f = lambda a, gauge=gauge: vectors(a, gauge)
        share = lambda a, f=f: jnp.sum(jnp.abs(f(a)[:3, 0]) ** 2)
        run = lambda a, f=f, share=share: (jax.jvp(f, (a,), (e,)), jax.grad(share)(a))
        (v, t), gradient = jax.jit(run)(a)
        for x in (v, t):
            assert np.all(np.isnan(x[:, 1]))
            assert np.all(np.isfinite(x[:, ::2][:, :2]))
        same = exact * (np.asarray(v)[n // 2, 0] / exact[n // 2])
        assert relative(v[:, 0], same) < 1e3 * float(jnp.finfo(dtype).eps)
        assert np.all(np.isfinite(gradient))


def two_copies(w, seed=0):
    a, v, inverse = with_eigenvalues(w, seed)
    return jnp.asarray(a), v, inverse


CUT = {
    "Dense": lambda a, k: ieig.eigs(a, k, "LR"),
    "Dense, left vectors": lambda a, k: ieig.eigs(a, k, "LR", left=True),
    "pencil": lambda a, k: ieig.eigs(a, k, "LR", mass=2 * jnp.eye(len(a))),
    "KrylovSchur": lambda a, k: ieig.eigs(
        a, k, "LR", eigensolver=ieig.KrylovSchur(repeated=True)
    ),
    "ShiftInvert": lambda a, k: ieig.eigs(
        a, k, eigensolver=ieig.ShiftInvert(9.0, inner=ieig.KrylovSchur(repeated=True))
    ),
}


@pytest.mark.parametrize("name", slow_but(["Dense", "KrylovSchur"], CUT))
def test_a_tie_that_is_cut_is_said_aloud_and_raises_nothing(name):
    """5, 4, 4 and below: k = 2 takes one of the two fours."""
    find = CUT[name]
    a, v, inverse = two_copies(np.r_[5.0, 4, 4, np.linspace(3, -3, 37)])
    scale = 2 if name == "pencil" else 1

    def values(a):
        s = find(a, 2)
        return s.eigenvalues.real * scale, s

    jacobian, s = jax.jacrev(values, has_aux=True)(a)
    assert s.result == ieig.RESULTS.cut_tie
    np.testing.assert_allclose(s.eigenvalues * scale, [5, 4], rtol=1e-11)
    assert relative(jacobian[0], np.outer(inverse[0], v[:, 0])) < 1e-8
    assert np.all(np.isnan(jacobian[1]))
    s = find(a, 3)
    assert s.result == ieig.RESULTS.successful
    assert relative(s.eigenvalues * scale, np.asarray([5, 4, 4])) < 1e-11


def test_a_defective_pair_is_told_before_a_tie_that_is_cut():
    """A Jordan block of 4 and one of 3, and a second copy of 2 that is not selected."""
    t = np.diag([4.0, 4, 3, 2, 2, 0]) + np.diag([1.0, 0, 0, 0, 0], 1)
    cut = lambda t, k: ieig.eigs(jnp.asarray(t), k, "LR", throw=False)
    assert cut(t, 4).result == ieig.RESULTS.defective
    assert cut(t[2:, 2:], 2).result == ieig.RESULTS.cut_tie
    assert cut(t, 5).result == ieig.RESULTS.defective
    assert cut(t, 3).result == ieig.RESULTS.defective
    assert cut(t[2:, 2:], 3).result == ieig.RESULTS.successful


def test_members_of_a_batch_tell_each_of_its_own_cut():
    apart, *_ = with_eigenvalues([5.0, 4, 3, 1, -1])
    tied, *_ = with_eigenvalues([5.0, 4, 4, 1, -1])
    results = jax.vmap(lambda a: ieig.eigs(a, 2, "LR").result == ieig.RESULTS.cut_tie)(
        jnp.stack([apart, tied])
    )
    assert np.array_equal(results, [False, True])


@pytest.mark.parametrize(
    "find",
    slow_but([ieig.eigvals], [ieig.eigvals, of_subspace]),
    ids=["eigvals", "subspace"],
)
def test_where_the_gradient_vanishes_in_a_tie_its_derivative_exists_if_symmetric(find):
    """(Σλ − 9)² over a triple 3: no gradient, and the Hessian 2 ∇Σ ∇Σᵀ."""
    a, projector = tied_matrix(np.float64)

    def inside(a):
        w = find(a)
        return w, jnp.abs(w - 3) < 0.1

    def together(a):
        w, here = inside(a)
        total = jnp.sum(jnp.where(here, w, 0))
        return jnp.real(total - jax.lax.stop_gradient(total)) ** 2

    def alone(a):
        w, here = inside(a)
        w = w[jnp.argmax(here)]
        return jnp.real(w - jax.lax.stop_gradient(w)) ** 2

    gradient = lambda f: jax.jit(jax.jacrev(jax.grad(f)))(a)
    exact = 2 * projector.T[:, :, None, None] * projector.T
    assert relative(gradient(together), exact) < 1e-10
    assert np.all(np.isnan(gradient(alone)))


@pytest.mark.parametrize("left", slow_but([False], [False, True]))
@pytest.mark.parametrize("off", [0.0, 1e-15, 1e-10])
def test_a_target_on_the_one_eigenvalue_asked_for(off, left):
    n = 60
    t = np.diag(np.arange(1.0, n + 1)) + 0.3 * np.eye(n, k=1)
    index = np.nonzero(t)
    # Of an upper triangle: y with yᵀ (T − 7) = 0 and y_7 = 1, and x likewise.
    w, v = np.linalg.eig(t)
    i = np.argmin(abs(w - 7))
    exact = np.outer(np.linalg.inv(v)[i], v[:, i])[index]

    def value(entries):
        operator = ieig.SparseOperator(entries, *index, n)
        solver = ieig.ShiftInvert(7.0 + off)
        return ieig.eigs(operator, 1, eigensolver=solver, left=left).eigenvalues[0].real

    got, gradient = jax.value_and_grad(value)(jnp.asarray(t[index]))
    assert abs(got - 7) < 1e-13
    assert relative(gradient, exact) < 1e-10


class TestTheZeroMatrix:
    n, like = 50, jax.ShapeDtypeStruct((50,), np.float64)

    @pytest.mark.parametrize("which", ["LM", "LR", "SI"])
    @pytest.mark.parametrize("repeated", slow_but([True], [False, True]))
    def test_matrix_free(self, which, repeated):
        solver = ieig.KrylovSchur(repeated=repeated)
        s = ieig.eigs(lambda v: 0 * v, 3, which, like=self.like, eigensolver=solver)
        assert np.array_equal(s.eigenvalues, np.zeros(3)) and np.all(s.residuals == 0)
        v = np.asarray(s.eigenvectors)
        assert relative(v.conj().T @ v, np.eye(3)) < 1e-12

    def test_beside_a_mass_matrix(self):
        i = np.arange(self.n)
        mass = ieig.SparseOperator(2.0 + np.cos(i), i, i, self.n)
        zero = ieig.SparseOperator(np.zeros(self.n), i, i, self.n)
        s = ieig.eigs(zero, 2, mass=mass)
        assert np.array_equal(s.eigenvalues, np.zeros(2))
        assert s.result == ieig.RESULTS.cut_tie

    def test_its_eigenvalues_have_no_gradient(self):
        f = lambda c: ieig.eigs(lambda v: c * v, 2, "LR", like=c).eigenvalues[0].real
        assert np.all(np.isnan(jax.grad(f)(jnp.zeros(self.n))))


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("mass_scale", [None, 1e-9, 1e9])
@pytest.mark.parametrize("given", [0.0, 1e-17])
def test_a_null_vector_found_elsewhere_is_an_eigenvector(given, mass_scale, scale):
    """The stationary distribution of a Markov chain: ∂λ/∂A = u v ᵀ / (uᵀ B v), u = 1."""
    n = 12
    q = np.random.default_rng(0).random((n, n))
    q -= np.diag(q.sum(axis=0))
    w, v = np.linalg.eig(q)
    v = v[:, [np.argmin(abs(w))]].real
    mass = None if mass_scale is None else mass_scale * np.eye(n)
    a = jnp.asarray(scale * q)

    def value(a):
        w = np.asarray([given * scale / (mass_scale or 1)])
        s = ieig.attach(a, w, v, np.ones((n, 1)), mass=mass)
        return s.eigenvalues[0].real, s

    gradient, s = jax.grad(value, has_aux=True)(a)
    assert s.residuals[0] < 1e-15
    exact = np.outer(np.ones(n), v) / (v.sum() * (1 if mass is None else mass_scale))
    assert relative(gradient, exact) < 1e-12


def test_a_pair_given_wrong_leaves_the_others_their_derivatives_and_their_place():
    a, v, inverse = two_copies([4.0, 3, 2, 1, -1])
    u = inverse.T
    w = jnp.asarray([4.0, 3.1, 2])
    for left in (None, u[:, :3]):

        def values(a, left=left):
            s = ieig.attach(a, w, v[:, :3], left, throw=False)
            return s.eigenvalues.real, s

        jacobian, s = jax.jacrev(values, has_aux=True)(a)
        assert s.result == ieig.RESULTS.residual_too_large
        assert np.array_equal(s.eigenvalues, w) and s.stats["num_converged"] == 2
        assert s.residuals[1] > 1e-3 and np.all(s.residuals[::2] < 1e-14)
        assert np.all(np.isnan(jacobian[1]))
        for i in (0, 2):
            assert relative(jacobian[i], np.outer(inverse[i], v[:, i])) < 1e-11


@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_the_rounding_of_a_solve_is_that_of_both_matrices(scale):
    """Small A, large λ: |λ|‖B‖ is far more than ‖A‖ where B is ill-conditioned, and a gap
    below its rounding leaves a vector no digit."""
    b = np.diag([1e-12, 1e-12 * (1 + 1e-4), 1.0, 1.0])
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    a, b = (jnp.asarray(scale * q @ x @ q.T) for x in (np.diag([1.0, 1, 3, 2]), b))

    def share(a):
        s = ieig.eigs(a, 1, "LM", mass=b, throw=False)
        return jnp.abs(s.eigenvectors[0, 0]) ** 2

    assert np.isnan(jax.grad(share)(a)).all()


def test_an_eigenvalue_zero_beside_a_mass_matrix():
    """Heat on an insulated rod, and its stationary mode."""
    n, i = 60, np.arange(60)
    q = np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)
    q[0, 0] = q[-1, -1] = -1
    index, heat = np.nonzero(q), 1 + 0.1 * np.cos(i)
    mass = ieig.SparseOperator(heat, i, i, n)

    def value(entries):
        operator = ieig.SparseOperator(entries, *index, n)
        solver = ieig.KrylovSchur(krylov_dim=30)
        s = ieig.eigs(operator, 2, "LR", mass=mass, eigensolver=solver)
        return s.eigenvalues[0].real, s

    gradient, s = jax.grad(value, has_aux=True)(jnp.asarray(q[index]))
    w = np.sort(np.linalg.eigvals(q / heat[:, None]).real)[::-1]
    np.testing.assert_allclose(s.eigenvalues, w[:2], atol=1e-12)
    assert relative(gradient, np.full(len(index[0]), 1 / heat.sum())) < 1e-8
