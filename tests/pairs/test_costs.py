"""Costs made of eigenvalues, and what their derivatives are at ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig


def similar(eigenvalues):
    """A matrix with these eigenvalues, and the gradients of each, `conj(u) vᵀ`, where
    `uᴴ v = 1`."""
    n = len(eigenvalues)
    v = np.eye(n) + 0.3 * np.random.default_rng(1).normal(size=(n, n))
    u = np.linalg.inv(v).conj().T
    a = v @ np.diag(eigenvalues) @ np.linalg.inv(v)
    return jnp.asarray(a), [np.outer(u[:, i].conj(), v[:, i]) for i in range(n)]


abscissa, radius, damping = (
    jax.jit(jax.value_and_grad(f))
    for f in (ieig.spectral_abscissa, ieig.spectral_radius, ieig.damping_ratio)
)


def test_one_real_eigenvalue_attains_it():
    a, gradients = similar([1.0, -2.0, 0.5])
    value, slope = abscissa(a)
    assert value == pytest.approx(1.0, abs=1e-13)
    np.testing.assert_allclose(slope, gradients[0], atol=1e-12)
    value, slope = radius(a)
    assert value == pytest.approx(2.0, abs=1e-13)
    np.testing.assert_allclose(slope, -gradients[1], atol=1e-12)
    value, slope = damping(a)
    assert value == pytest.approx(-1.0, abs=1e-13)
    np.testing.assert_allclose(slope, 0, atol=1e-12)


def test_two_distinct_eigenvalues_attain_it():
    """±2 for the radius; 1 twice, not defective, for the abscissa."""
    a, gradients = similar([2.0, -2.0, 0.5])
    np.testing.assert_allclose(
        radius(a)[1], (gradients[0] - gradients[1]) / 2, atol=1e-12
    )
    a, gradients = similar([1.0, 1.0, 0.5])
    np.testing.assert_allclose(
        abscissa(a)[1], (gradients[0] + gradients[1]) / 2, atol=1e-12
    )
    value, slope = abscissa(jnp.eye(3))
    assert value == 1
    np.testing.assert_allclose(slope, np.eye(3) / 3, atol=1e-14)


def test_a_pair_attains_it():
    """[[−c, 1], [−1, −c]] has −c ± i: ζ = c / √(1 + c²)."""

    def matrix(c):
        return jnp.array([[-c, 1.0, 0.0], [-1.0, -c, 0.0], [0.0, 0.0, -2.0]])

    def slope(f):
        return jax.value_and_grad(lambda c: f(matrix(c)))(0.3)

    size = (1 + 0.3**2) ** 0.5
    np.testing.assert_allclose(slope(ieig.spectral_abscissa), (-0.3, -1.0), atol=1e-13)
    np.testing.assert_allclose(
        slope(ieig.damping_ratio), (0.3 / size, size**-3), atol=1e-13
    )


def test_a_defective_one_has_no_derivative_unless_it_does_not_attain_it():
    jordan = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.5]])
    value, slope = abscissa(jordan)
    assert value == pytest.approx(1.0)
    assert np.isnan(slope).all()
    beside = jordan.at[2, 2].set(3.0)
    value, slope = abscissa(beside)
    np.testing.assert_allclose(slope, np.diag([0.0, 0.0, 1.0]), atol=1e-12)


def test_zero_has_no_modulus_to_differentiate_and_no_damping_ratio():
    assert np.isnan(radius(jnp.zeros((3, 3)))[1]).all()
    a, gradients = similar([2.0, 0.0, 0.5])
    np.testing.assert_allclose(radius(a)[1], gradients[0], atol=1e-12)
    assert np.isnan(damping(a)[0])


def test_nan_comes_out():
    for f in (abscissa, radius, damping):
        assert np.isnan(f(jnp.full((3, 3), jnp.nan))[0])


def test_a_batch_has_one_for_each():
    a = jnp.stack([similar([1.0, -2.0, 0.5])[0], similar([0.0, -1.0, 0.7])[0]])
    np.testing.assert_allclose(ieig.spectral_abscissa(a), [1.0, 0.7], atol=1e-13)


def test_second_derivatives():
    """λ = t ± √(1 + t²) of [[2t, 1], [1, 0]]."""
    ones = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    f = lambda t: ieig.spectral_abscissa(jnp.diag(jnp.array([2.0, 0.0])) * t + ones)
    np.testing.assert_allclose(jax.grad(jax.grad(f))(0.5), 1.25**-1.5, atol=1e-12)


def test_operators_and_pencils():
    n, i = 60, jnp.arange(60.0)

    def operator(shift):
        return lambda v: (i + shift) * v + 0.3 * jnp.roll(v, 1)

    def f(shift):
        return ieig.spectral_abscissa(operator(shift), like=i)

    dense = jax.vmap(operator(0.0), in_axes=1, out_axes=1)(jnp.eye(n))
    value, slope = jax.value_and_grad(f)(0.0)
    assert value == pytest.approx(float(ieig.spectral_abscissa(dense)), abs=1e-9)
    assert slope == pytest.approx(1.0, abs=1e-8)
    # (A, B) = (diag(1, −3), diag(1, 2)): 1 and −1.5.
    pencil = lambda b: ieig.spectral_radius(jnp.diag(jnp.array([1.0, -3.0])), mass=b)
    value, slope = jax.value_and_grad(pencil)(jnp.diag(jnp.array([1.0, 2.0])))
    assert value == pytest.approx(1.5)
    np.testing.assert_allclose(slope, [[0, 0], [0, -0.75]], atol=1e-13)
    # 0.1 ± 5i are less damped than what has a larger real part.
    blocks = jnp.array([[-0.1, 5.0], [-5.0, -0.1]])
    a = jax.scipy.linalg.block_diag(blocks, jnp.array([[-0.05]]), jnp.array([[-2.0]]))
    ratio = ieig.damping_ratio(a, eigensolver=ieig.Dense())
    assert ratio == pytest.approx(0.1 / (25.01**0.5), abs=1e-13)
