"""`lx.symmetric_tag`: left vectors of Aᵀ = A are the conjugates of the right ones."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but
from ..program.test_counts import Counted


N, K = 60, 2


def symmetric(seed, n=N):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, n)) + 1j * rng.normal(size=(n, n))
    return jnp.asarray(a + a.T)


def operator(a, tag=True):
    like = jax.ShapeDtypeStruct((a.shape[0],), a.dtype)
    op = lx.FunctionLinearOperator(lambda v: a @ v, like)
    return lx.TaggedLinearOperator(op, lx.symmetric_tag) if tag else op


A, DIRECTION = symmetric(0), symmetric(1)


def eigs(a, tag=True, **options):
    krylov = ieig.KrylovSchur(krylov_dim=20)
    return ieig.eigs(operator(a, tag), K, "LM", eigensolver=krylov, **options)


def test_left_vectors_are_conjugates_and_cost_no_run():
    counting = ieig.CountingOperator(operator(A))
    op = lx.TaggedLinearOperator(counting, lx.symmetric_tag)
    found = ieig.eigs(op, K, left=True, eigensolver=ieig.KrylovSchur(krylov_dim=20))
    v, u = found.eigenvectors, found.left_eigenvectors
    scale = jnp.sum(v**2, axis=0)
    np.testing.assert_allclose(u, v.conj() / scale.conj(), atol=1e-12)
    np.testing.assert_allclose(u.conj().T @ A, (u * found.eigenvalues.conj()).conj().T)
    assert counting.counts() == (found.stats["num_matvecs"], 0)
    plain = eigs(A, tag=False)
    assert found.stats["num_matvecs"] <= plain.stats["num_matvecs"] + 2


@pytest.mark.parametrize("left", [False, True])
def test_gradients_of_eigenvalues_solve_nothing(left):
    calls = itertools.count()
    adjoint = ieig.ImplicitAdjoint(Counted(calls))

    def loss(a, **options):
        return jnp.sum(eigs(a, left=left, **options).eigenvalues ** 2).real

    gradient = jax.grad(loss)(A, adjoint=adjoint)
    assert next(calls) == 0
    w, v = np.linalg.eig(A)
    best = np.argsort(-abs(w))[:K]
    v = v[:, best] / np.sqrt(np.sum(v[:, best] ** 2, axis=0))
    expected = 2 * (v * w[best]) @ v.T  # Σ λ² has the derivative 2 Σ λ v vᵀ
    np.testing.assert_allclose(gradient, expected, atol=1e-9)


def of_all(a, tag):
    found = eigs(a, tag, left=True, gauge=ieig.UnitNorm(0))
    u, v = found.left_eigenvectors, found.eigenvectors
    inside = jnp.sum((u.conj() * v)[3] * found.eigenvalues)
    return inside.real + jnp.sum(found.condition_numbers) + u[1, 0].imag * v[2, 0].real


def test_one_solve_gives_the_derivatives_of_both_sides():
    def loss(a, adjoint):
        found = eigs(a, left=True, adjoint=adjoint)
        return jnp.sum(found.condition_numbers)

    calls = itertools.count()
    jax.grad(loss)(A, ieig.ImplicitAdjoint(Counted(calls)))
    assert next(calls) == 1


@pytest.mark.parametrize("second", slow_but([False], [False, True]))
def test_derivatives_are_those_without_the_tag(second):
    def along(t, tag):
        return of_all(A + jnp.asarray(t, complex) * DIRECTION, tag)

    def derivative(tag):
        slope = jax.grad(lambda t: along(t, tag))
        return jax.jvp(slope, (0.0,), (1.0,))[1] if second else slope(0.0)

    ours, theirs = derivative(True), derivative(False)
    np.testing.assert_allclose(ours, theirs, rtol=1e-7)


@pytest.mark.parametrize("solver", ["dense", "shift-invert"])
def test_pencils(solver):
    n = 12
    a, b = symmetric(2, n), 0.1 * symmetric(3, n) + jnp.eye(n, dtype=complex)

    def loss(a, b):
        options = {}
        if solver == "shift-invert":
            inner = ieig.KrylovSchur(krylov_dim=8)
            solver_ = ieig.ShiftInvert(0.5 + 0.1j, lx.LU(), inner=inner)
            options = {"eigensolver": solver_}
        else:
            options = {"sigma": 0.5 + 0.1j}
        a, b = (lx.MatrixLinearOperator(x, lx.symmetric_tag) for x in (a, b))
        found = ieig.eigs(a, 2, mass=b, **options)
        return jnp.sum(found.eigenvalues**2).real

    gradients = jax.grad(loss, (0, 1))(a, b)
    w, v = np.linalg.eig(np.linalg.solve(b, a))
    near = np.argsort(abs(w - 0.5 - 0.1j))[:2]
    w, v = w[near], v[:, near]
    v = v / np.sqrt(np.sum(v * (b @ v), axis=0))
    np.testing.assert_allclose(gradients[0], 2 * (v * w) @ v.T, atol=1e-9)
    np.testing.assert_allclose(gradients[1], -2 * (v * w**2) @ v.T, atol=1e-9)


def test_a_real_indefinite_pencil_keeps_its_conjugate_pairs():
    rng = np.random.default_rng(5)
    a = rng.normal(size=(9, 9))
    a, b = jnp.asarray(a + a.T), jnp.diag(jnp.asarray([1.0, -1, 1, -1, 1, 1, -1, 1, 1]))
    tagged = [lx.MatrixLinearOperator(x, lx.symmetric_tag) for x in (a, b)]
    found = ieig.eigs(tagged[0], 4, "LI", mass=tagged[1], left=True)
    assert jnp.max(jnp.abs(found.eigenvalues.imag)) > 0.1
    u, w = np.asarray(found.left_eigenvectors.conj().T), np.asarray(found.eigenvalues)
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(u @ a, w[:, None] * (u @ b), atol=1e-12)
    np.testing.assert_allclose(
        u @ b @ np.asarray(found.eigenvectors), np.eye(4), atol=1e-12
    )


@pytest.mark.parametrize("below", [0.4, 1e-3, 1e-7])
def test_kappa_tells_of_an_exceptional_point(below):
    """λ = ±√(1 − g²), at which vᵀv vanishes as g comes to 1: κ = 1/√(1 − g²)."""
    g = 1 - below
    a = jnp.array([[1, 1j * g], [1j * g, -1]])
    tagged = lx.MatrixLinearOperator(a, lx.symmetric_tag)
    found = ieig.eigs(tagged, 1, "LR", left=True, gauge=ieig.Bilinear())
    expected = 1 / np.sqrt(below * (2 - below))
    np.testing.assert_allclose(found.condition_numbers[0], expected, rtol=1e-6)
    size = jnp.sum(jnp.abs(found.eigenvectors) ** 2)
    np.testing.assert_allclose(size, expected, rtol=1e-6)


def test_the_left_basis_of_a_subspace_comes_by_itself():
    s = ieig.invariant_subspace(
        operator(A), K, eigensolver=ieig.KrylovSchur(krylov_dim=20)
    )
    left = s.left_basis.conj().T
    np.testing.assert_allclose(left @ A, s.block @ left, atol=1e-9)
    np.testing.assert_allclose(left @ s.basis, np.eye(K), atol=1e-12)


@pytest.mark.parametrize("kind", ["Hermitian", "mass", "matrix"])
def test_a_tag_that_is_not_true_is_refused(kind):
    skew = jnp.asarray(np.random.default_rng(6).normal(size=(N, N)) * 1j)
    a, mass = A, None
    if kind == "Hermitian":
        a = A.real.astype(complex) + skew - skew.T
    elif kind == "mass":
        mass = lx.MatrixLinearOperator(
            jnp.eye(N, dtype=complex) + 0.01 * skew, lx.symmetric_tag
        )
    else:
        a = A + skew
    tagged = operator(a) if kind == "Hermitian" else None
    if tagged is None:
        tagged = lx.MatrixLinearOperator(a, lx.symmetric_tag)
    with pytest.raises(eqx.EquinoxRuntimeError, match="tagged symmetric"):
        ieig.eigs(tagged, K, mass=mass)


def test_an_untrue_tag_in_a_compiled_program_is_nan():
    tagged = operator(A + jnp.triu(A))
    found = jax.jit(lambda: ieig.eigs(tagged, K))()
    assert np.isnan(found.eigenvalues).all()
    assert found.result == ieig.RESULTS.not_symmetric
