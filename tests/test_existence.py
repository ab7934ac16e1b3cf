"""Where a derivative does not exist, or has no digit, it is NaN; beside it, it is right."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import mpmath
import numpy as np
import pytest

import implicit_eig as ieig

from .oracles import relative


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


@pytest.mark.parametrize("find", FINDERS.values(), ids=FINDERS)
@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_of_tied_eigenvalues_only_symmetric_functions_have_gradients(find, dtype):
    if find is attached and dtype != np.float64:
        pytest.skip("pairs of a rounded matrix")
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
        lambda f: jax.jacfwd(jax.jacfwd(f)),
        lambda f: jax.jacrev(jax.grad(f)),
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


@pytest.mark.parametrize("left", [False, True])
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


@pytest.mark.parametrize("adjoint", [None, ieig.ImplicitAdjoint(lx.QR())])
def test_a_vector_without_a_digit_has_no_derivative(adjoint):
    f = functools.partial(share, adjoint=adjoint)
    for n, digits in ((14, 1e-5), (40, None)):
        a, e, v, tangent = coupled(n)
        got = [jax.jvp(f, (a,), (e,))[1], jnp.sum(jax.grad(f)(a) * e)]
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


@pytest.mark.parametrize("complex_values", [False, True])
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


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
@pytest.mark.parametrize("find", ["eig", "eigs", "pencil"])
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
        v, t = jax.jvp(f, (a,), (e,))
        for x in (v, t):
            assert np.all(np.isnan(x[:, 1]))
            assert np.all(np.isfinite(x[:, ::2][:, :2]))
        same = exact * (np.asarray(v)[n // 2, 0] / exact[n // 2])
        assert relative(v[:, 0], same) < 1e3 * float(jnp.finfo(dtype).eps)
        gradient = jax.grad(lambda a, f=f: jnp.sum(jnp.abs(f(a)[:3, 0]) ** 2))(a)
        assert np.all(np.isfinite(gradient))
