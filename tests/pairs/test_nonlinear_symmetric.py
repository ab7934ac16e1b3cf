"""`polyeig` and `nonlinear_eigs` of operators tagged symmetric: left vectors are the
conjugates of right ones, and gradients of eigenvalues take no linear solve."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but
from .test_nonlinear import relaxed


N = 40
I = np.arange(N)
ROWS, COLUMNS = np.r_[I, I[1:], I[:-1]], np.r_[I, I[:-1], I[1:]]
CHAIN = jnp.concatenate([2 * jnp.ones(N), -jnp.ones(2 * N - 2)])
DAMPING = jnp.asarray(0.1 + 0.05 * np.sin(I / 3))


class Counted(ieig.AbstractSylvesterSolver):
    """GMRES that counts its calls, on the host."""

    calls: itertools.count = eqx.field(static=True)

    def solve(self, system, rhs, **options):
        add = lambda entry: (next(self.calls), entry)[1]
        entry = jax.pure_callback(add, rhs[0, 0], rhs[0, 0], vmap_method="sequential")
        return ieig.DeflatedGMRES().solve(system, rhs.at[0, 0].set(entry), **options)


def tagged(operator, tag=True):
    return lx.TaggedLinearOperator(operator, lx.symmetric_tag) if tag else operator


def coefficients(damping, dense, tag):
    parts = (
        ieig.SparseOperator(CHAIN, ROWS, COLUMNS, N),
        ieig.SparseOperator(damping, I, I, N),
        ieig.SparseOperator(jnp.ones(N), I, I, N),
    )
    if dense:
        parts = [lx.MatrixLinearOperator(a.as_matrix()) for a in parts]
    return tuple(tagged(a, tag) for a in parts)


def modes(damping, dense=False, tag=True, **options):
    parts = coefficients(damping, dense, tag)
    return ieig.polyeig(parts, 3, sigma=0.1 + 0.3j, **options)


def values(damping, dense=False, tag=True, **options):
    found = modes(damping, dense, tag, **options)
    return jnp.sum(found.eigenvalues.real * jnp.array([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("dense", [False, True])
def test_eigenvalues_have_gradients_without_a_solve(dense):
    calls = itertools.count()
    adjoint = ieig.ImplicitAdjoint(Counted(calls))
    ours = jax.grad(values)(DAMPING, dense, adjoint=adjoint)
    assert next(calls) == 0
    jax.grad(values)(DAMPING, dense, False, adjoint=adjoint)
    assert next(calls) > 1
    found = modes(DAMPING, dense, left=True)
    # λ̇ = −λ vᵀ Ċ v / vᵀ (2λM + C) v
    v, z = np.asarray(found.eigenvectors), np.asarray(found.eigenvalues)
    slope = np.sum(v * v * (2 * z + np.asarray(DAMPING)[:, None]), axis=0)
    exact = (-z * v * v / slope).real @ np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(ours, exact, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours, jax.grad(values)(DAMPING, True, False), rtol=1e-8)
    u = found.left_eigenvectors
    np.testing.assert_allclose(u, (-v / slope).conj(), rtol=1e-8, atol=1e-10)
    plain = modes(DAMPING, dense, False, left=True)
    np.testing.assert_allclose(
        found.condition_numbers, plain.condition_numbers, rtol=1e-7
    )
    if not dense:
        assert found.stats["num_factorizations"] == 1
        assert found.stats["num_solves"] == plain.stats["num_solves"]


def of_all(damping, tag):
    found = modes(damping, True, tag, left=True, gauge=ieig.UnitNorm(0))
    u, v = found.left_eigenvectors, found.eigenvectors
    inside = jnp.sum((u.conj() * v)[3] * found.eigenvalues)
    return inside.real + jnp.sum(found.condition_numbers) + u[1, 0].imag * v[2, 0].real


@pytest.mark.parametrize("second", slow_but([False], [False, True]))
def test_derivatives_are_those_without_the_tag(second):
    direction = jnp.asarray(np.cos(I))

    def derivative(tag):
        slope = jax.grad(lambda t: of_all(DAMPING + t * direction, tag))
        return jax.jvp(slope, (0.0,), (1.0,))[1] if second else slope(0.0)

    np.testing.assert_allclose(derivative(True), derivative(False), rtol=1e-7)


def delayed(delay, tag=True):
    a = jnp.diag(jnp.array([1.0, 2.0, 4.0])) + 0.3 * jnp.ones((3, 3))
    b = jnp.array([[0.5, 0.1, 0.0], [0.1, 0.2, 0.3], [0.0, 0.3, 0.4]])

    @relaxed
    def T(z):
        matrix = lx.MatrixLinearOperator(-z * jnp.eye(3) - a + b * jnp.exp(-delay * z))
        return tagged(matrix, tag)

    return T


@pytest.mark.parametrize("where", [{"guess": -1.0}, {"region": ieig.Disk(-0.9, 0.3)}])
def test_of_a_delay(where):
    def rate(delay, tag, **options):
        found = ieig.nonlinear_eigs(delayed(delay, tag), **where, **options)
        return found.eigenvalues[0].real, found

    calls = itertools.count()
    adjoint = ieig.ImplicitAdjoint(Counted(calls))
    derivative = jax.grad(rate, has_aux=True)
    ours, found = derivative(0.7, True, adjoint=adjoint, left=True)
    assert next(calls) == 0
    theirs, plain = derivative(0.7, False, left=True)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    np.testing.assert_allclose(
        found.left_eigenvectors, plain.left_eigenvectors, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("which", [0, 2])
def test_a_tag_that_is_not_true_is_refused(dense, which):
    skew = np.zeros((N, N))
    skew[3, 4] = 0.01
    parts = list(coefficients(DAMPING, dense, True))
    matrix = parts[which].as_matrix() + skew
    untrue = lx.MatrixLinearOperator(matrix)
    if not dense:
        rows, columns = np.nonzero(np.asarray(matrix))
        untrue = ieig.SparseOperator(matrix[rows, columns], rows, columns, N)
    parts[which] = tagged(untrue)

    with pytest.raises(eqx.EquinoxRuntimeError, match="tagged symmetric"):
        ieig.polyeig(parts, 3, sigma=0.1 + 0.3j)


def test_pairs_of_an_untrue_tag_have_no_derivatives():
    skew = jnp.zeros((3, 3)).at[0, 2].set(1e-3)

    def rate(delay, throw):
        true = delayed(delay)
        T = relaxed(lambda z: tagged(lx.MatrixLinearOperator(true(z).as_matrix() + skew)))
        found = ieig.nonlinear_eigs(T, guess=-1.0, throw=throw)
        return found.eigenvalues[0].real, found.result

    gradient, result = jax.grad(rate, has_aux=True)(0.7, False)
    assert np.isnan(gradient)
    assert result == ieig.RESULTS.not_symmetric
    assert np.isnan(jax.jit(rate, static_argnums=1)(0.7, None)[0])
    with pytest.raises(eqx.EquinoxRuntimeError, match="tagged symmetric"):
        rate(0.7, None)


@pytest.mark.parametrize("coupling", [0.0, 1e-3])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_double_eigenvalue_of_a_symmetric_polynomial_has_no_derivative(
    sparse, coupling
):
    """Two equal chains: nothing solves a linear system here that would tell of it."""
    stiffness = np.kron(np.eye(2), np.diag(np.linspace(1.0, 3.0, 12)))
    stiffness[0, 12] = stiffness[12, 0] = coupling
    rows, columns = np.nonzero(stiffness)
    n, j = 24, np.arange(24)

    def value(entries):
        parts = (
            ieig.SparseOperator(entries, rows, columns, n),
            ieig.SparseOperator(0.1 * jnp.ones(n), j, j, n),
            ieig.SparseOperator(jnp.ones(n), j, j, n),
        )
        if not sparse:
            parts = (lx.MatrixLinearOperator(a.as_matrix()) for a in parts)
        parts = tuple(tagged(a) for a in parts)
        found = ieig.polyeig(parts, 2, sigma=1.0j, throw=False)
        return jnp.sum(found.eigenvalues.imag)

    gradient = jax.grad(value)(jnp.asarray(stiffness[rows, columns]))
    assert np.isnan(gradient).all() == (coupling == 0.0)
