"""Nonlinear problems of the literature, and what is hard about them: many eigenvalues in a
region, repeated and defective ones, none at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but
from .test_nonlinear import matched, relaxed


def test_the_bicycle_benchmark():
    """Meijaard, Papadopoulos, Ruina and Schwab, Proc. R. Soc. A 463, 2007, table 2."""
    mass = jnp.array([[80.81722, 2.31941332208709], [2.31941332208709, 0.29784188199686]])
    fixed = jnp.array(
        [[-80.95, -2.59951685249872], [-2.59951685249872, -0.80329488458618]]
    )
    speeded = jnp.array([[0, 76.59734589573222], [0, 2.65431523794604]])
    damping = jnp.array([[0, 33.86641391492494], [-0.85035641456978, 1.68540397397560]])

    def modes(speed):
        stiffness = 9.81 * fixed + speed**2 * speeded
        return ieig.polyeig((stiffness, speed * damping, mass), 4, "SR").eigenvalues

    weave = -0.775341882195845 + 4.46486771378823j
    capsize, caster = -0.322866429004087, -14.0783896927982
    matched(modes(5.0), [weave, weave.conjugate(), capsize, caster], 1e-13)
    # Stable between the weave and the capsize speed, 4.2924 and 6.0243 m/s.
    speed = 4.2
    for _ in range(5):
        growth, slope = jax.value_and_grad(lambda v: jnp.max(modes(v).real))(speed)
        speed = speed - growth / slope
    np.testing.assert_allclose(speed, 4.29238253634111, rtol=1e-9)


def loaded_string(n, load=1.0):
    """Solov'ëv 2006: −u″ = λu, a load on a spring at the end."""
    a = n * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    b = (4 * np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)) / (6 * n)
    a[-1, -1], b[-1, -1] = n, 2 / (6 * n)
    end = np.zeros((n, n))
    end[-1, -1] = 1.0
    a, b, end = (jnp.asarray(x) for x in (a, b, end))
    return relaxed(lambda z: a - z * b + load * z / (z - 1.0) * end)


def test_the_loaded_string():
    """Betcke, Higham, Mehrmann, Schröder and Tisseur, ACM Trans. Math. Softw. 39, 2013."""
    published = [4.482176546, 24.223573113, 63.723821142, 123.031221068, 202.200899143]
    guesses = jnp.round(jnp.array(published))
    found = ieig.nonlinear_eigs(loaded_string(100), 5, guess=guesses)
    np.testing.assert_allclose(found.eigenvalues, published, rtol=1e-9)

    # A pole inside takes one off the count: said, not guessed.
    region = ieig.Ellipse(20.0, 20.0, 10.0)
    T = loaded_string(12)
    found = ieig.nonlinear_eigs(T, 4, region=region, throw=False)
    assert found.result == ieig.RESULTS.not_converged
    with pytest.raises(Exception, match="no pole of T inside"):
        ieig.nonlinear_eigs(T, 4, region=region)


def butterfly(m, c):
    """Mehrmann and Watkins 2002: a quartic of order m², T(−λ) = T(λ)ᵀ."""
    shift, eye = np.eye(m, k=-1), np.eye(m)
    parts = [
        (4 * eye + shift + shift.T) / 6,
        shift - shift.T,
        -(2 * eye - shift - shift.T),
        shift - shift.T,
        2 * eye - shift - shift.T,
    ]
    return tuple(
        jnp.asarray(a * np.kron(eye, x) + b * np.kron(x, eye))
        for (a, b), x in zip(c, parts, strict=True)
    )


BUTTERFLY = ((0.6, 1.3), (1.3, 0.1), (0.1, 1.2), (1.0, 1.0), (1.2, 1.0))


@pytest.mark.parametrize("m", slow_but([3], [3, 8]))
def test_the_butterfly(m):
    found = ieig.polyeig(butterfly(m, BUTTERFLY), 4 * m * m)
    values = np.asarray(found.eigenvalues)
    assert (np.asarray(found.residuals) < 1e-15).all()
    matched(-values, values, 1e-11)
    matched(values.conj(), values, 1e-11)


def test_an_acoustic_wave():
    """Chaitin-Chatelin and van Gijzen 2006: λ²M + λD + K; of the continuous problem
    λ = (k + atan(iζ)/π)/2, to which linear elements converge as h²."""

    def error(n):
        h, zeta = 1 / n, 1.2
        mass = -4 * np.pi**2 * h * np.eye(n)
        mass[-1, -1] /= 2
        damping = np.zeros((n, n), complex)
        damping[-1, -1] = 2j * np.pi / zeta
        stiffness = (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) / h
        stiffness[-1, -1] = 1 / h
        parts = tuple(jnp.asarray(x, complex) for x in (stiffness, damping, mass))
        exact = (1 + np.arctan(1j * zeta) / np.pi) / 2
        found = ieig.polyeig(parts, 1, sigma=complex(exact)).eigenvalues[0]
        return abs(complex(found) - exact) / abs(exact)

    assert 3.5 < error(20) / error(40) < 4.5


def chain(n, damping):
    """λ² + cλ + μ_j = 0, μ_j = 4 sin²(πj / 2(n+1)) of the chain."""
    mu = 4 * np.sin(np.pi * np.arange(1, n + 1) / (2 * n + 2)) ** 2
    return -damping / 2 + np.sqrt(damping**2 / 4 - mu + 0j)


@pytest.mark.parametrize("n", slow_but([300], [300, 10_000]))
def test_a_damped_chain_by_one_factorisation(n):
    i = np.arange(n)
    rows, columns = np.r_[i, i[1:], i[:-1]], np.r_[i, i[:-1], i[1:]]
    values = jnp.concatenate([2 * jnp.ones(n), -jnp.ones(2 * n - 2)])

    def modes(damping):
        parts = (
            ieig.SparseOperator(values, rows, columns, n),
            ieig.SparseOperator(damping * jnp.ones(n), i, i, n),
            ieig.SparseOperator(jnp.ones(n), i, i, n),
        )
        found = ieig.polyeig(parts, 3, sigma=1.3j)
        return found.eigenvalues.real.sum(), found

    damping = 0.02
    (_, found), slope = jax.value_and_grad(modes, has_aux=True)(damping)
    assert found.stats["num_factorizations"] == 1
    exact = chain(n, damping)
    exact = exact[np.argsort(abs(exact - 1.3j))[:3]]
    matched(found.eigenvalues, exact, 1e-10)
    np.testing.assert_allclose(slope, 3 * -0.5, rtol=1e-8)


def forty(defective):
    """(λ − a)(λ − b) of order 30, mixed: forty in the unit disc, a₀ = a₁ a double one and
    a₄ = a₅ a defective one."""
    n, rng = 30, np.random.default_rng(0)
    a = np.exp(2j * np.pi * np.arange(n) / n) * np.linspace(0.3, 0.9, n)
    b = 3.0 + np.arange(n) + 0j
    b[:10] = 0.2 * np.exp(2j * np.pi * (np.arange(10) + 0.5) / 10)
    a[1], a[5] = a[0], a[4]
    a0, a1 = np.diag(a * b), np.diag(-(a + b))
    if defective:
        a0[4, 5], a1[4, 5] = -b[4], 1.0
    x = rng.normal(size=(n, n)) / n**0.5 + np.eye(n)
    parts = [jnp.asarray(x @ m @ np.linalg.inv(x)) for m in (a0, a1, np.eye(n))]
    inside = np.r_[a, b]
    return parts, inside[abs(inside) < 1], (a[0], a[4])


def test_forty_in_a_region_a_double_and_a_defective_one_among_them():
    parts, expected, (double, defective) = forty(True)
    assert len(expected) == 40

    def inside(first, **options):
        T = relaxed(lambda z: first + z * parts[1] + z * z * parts[2])
        return ieig.nonlinear_eigs(T, 42, region=ieig.Disk(0.0, 1.0), **options)

    found = inside(parts[0])
    assert found.stats["num_inside"] == 40
    assert found.result == ieig.RESULTS.defective
    values = np.asarray(found.eigenvalues[:40])
    gap = np.abs(values[:, None] - expected)
    assert gap.min(axis=0).max() < 1e-6 and gap.min(axis=1).max() < 1e-6
    tangents = jax.jvp(
        lambda a: inside(a, throw=False).eigenvalues,
        (parts[0],),
        (jnp.eye(30, dtype=complex),),
    )[1]
    near = np.minimum(abs(values - double), abs(values - defective)) < 1e-6
    assert near.sum() == 4
    np.testing.assert_array_equal(np.isnan(tangents[:40]), near)


@pytest.mark.parametrize("split", [0.0, 1e-9, 1e-4])
def test_a_guess_at_a_defective_eigenvalue_has_no_derivative(split):
    block = np.diag([1.0, 1.0 + split, 3.0, 4.0, 5.0])
    block[0, 1] = 1.0
    x = np.random.default_rng(0).normal(size=(5, 5)) / 2 + np.eye(5)
    a = jnp.asarray(x @ block @ np.linalg.inv(x))

    def value(a):
        T = relaxed(lambda z: a - z * jnp.eye(5))
        found = ieig.nonlinear_eigs(T, guess=1.01, throw=False)
        return found.eigenvalues[0].real, found.result

    gradient, result = jax.grad(value, has_aux=True)(a)
    lost = split < 1e-6
    assert (result == ieig.RESULTS.defective) == lost
    assert np.isnan(gradient).all() == lost
    if not lost:
        np.testing.assert_allclose(jnp.trace(gradient), 1.0, rtol=1e-6)


def test_a_large_condition_number_alone_takes_nothing():
    n = 10
    a = jnp.diag(jnp.arange(1.0, n + 1)) + 30 * jnp.diag(jnp.ones(n - 1), 1)

    def value(a):
        T = relaxed(lambda z: a - z * jnp.eye(n))
        found = ieig.nonlinear_eigs(T, guess=4.001, left=True)
        return found.eigenvalues[0].real, found

    gradient, found = jax.grad(value, has_aux=True)(a)
    assert found.condition_numbers[0] > 1e9
    np.testing.assert_allclose(np.diag(gradient), np.arange(n) == 3, atol=1e-6)


def test_a_singular_problem_and_an_eigenvalue_on_the_boundary_are_said():
    slope = jnp.diag(jnp.array([1.0, 2.0, 0.0]))
    singular = relaxed(lambda z: slope * (z - 0.5))
    with pytest.raises(Exception, match="singular"):
        ieig.nonlinear_eigs(singular, 3, region=ieig.Disk(0.0, 1.0))
    with pytest.raises(Exception, match="singular"):
        ieig.polyeig((slope, slope), 2)
    with pytest.raises(Exception, match="NaN or inf"):
        ieig.nonlinear_eigs(
            relaxed(lambda z: jnp.nan * slope + z), 3, region=ieig.Disk(0.0, 1.0)
        )
    parts, *_ = forty(False)
    T = relaxed(lambda z: parts[0] + z * parts[1] + z * z * parts[2])
    through = float(np.linspace(0.3, 0.9, 30)[7])
    with pytest.raises(Exception, match="on its boundary"):
        ieig.nonlinear_eigs(T, 42, region=ieig.Disk(0.0, through))


def test_a_normal_problem_has_derivatives_at_every_parameter():
    """What the border leaves of the right side is rounding, and nothing to be solved."""
    a = jnp.array([[0.1, 1.0], [-1.0, 0.1]])
    p = jnp.array([[-0.2584165271211979, 0.9463203609870818], [0.3, 0.7], [-0.1, 0.2]])

    def value(p):
        T = relaxed(lambda z: (z - p[0] * jnp.exp(-p[1] * z)) * jnp.eye(2) - a)
        return ieig.nonlinear_eigs(T, guess=1.2j, throw=False).eigenvalues[0]

    forward = jax.vmap(jax.jacfwd(value))(p)
    backward = jax.vmap(jax.grad(lambda p: value(p).real))(p)
    z, (gain, delay) = np.asarray(jax.vmap(value)(p)), np.asarray(p.T)
    # z − g exp(−τz) = 0.1 ± i.
    decay = np.exp(-delay * z)
    slope = 1 + gain * delay * decay
    exact = np.stack([decay / slope, -gain * z * decay / slope], axis=1)
    np.testing.assert_allclose(forward, exact, rtol=1e-10)
    np.testing.assert_allclose(backward, exact.real, rtol=1e-10)
