"""What is not Hermitian, not definite or too small for its dtype is named, or NaN where no
error can be raised: whoever finds the pairs, in either precision."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but


sparse = pytest.importorskip("scipy.sparse")
N = 40


def symmetric(n=N, seed=0):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return (a + a.T) / 2


def lopsided(n=N):
    """One entry of a thousand is off."""
    a = symmetric(n)
    a[2, 9] += 1.0
    return a


def drift(n=N):
    """u″ − x u′ on a grid: what is not symmetric of it is its own mirror image."""
    x = np.linspace(-1, 1, n)
    step = x[1] - x[0]
    second = np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)
    first = np.eye(n, k=1) - np.eye(n, k=-1)
    return second - 10 * step * x[:, None] * first


def product(a):
    a = jnp.asarray(a)
    return lambda v: a @ v


def operators(a, dtype):
    a = a.astype(dtype)
    return {
        "dense": (jnp.asarray(a), {}),
        "callable": (product(a), {"like": jnp.zeros(len(a), dtype)}),
        "callable, Dense": (
            product(a),
            {"like": jnp.zeros(len(a), dtype), "eigensolver": ieig.Dense()},
        ),
        "sparse": (sparse.csr_array(a), {}),
        "sparse, Dense": (sparse.csr_array(a), {"eigensolver": ieig.Dense()}),
        "shift-invert": (
            sparse.csr_array(a),
            {"eigensolver": ieig.ShiftInvert(np.asarray(0.1, dtype))},
        ),
    }


KINDS = list(operators(np.eye(2), float))


@pytest.mark.parametrize("dtype", slow_but(["float64"], ["float64", "float32"]))
@pytest.mark.parametrize("make", slow_but([drift], [drift, lopsided]))
@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_that_is_not_hermitian(kind, make, dtype):
    operator, options = operators(make(), dtype)[kind]
    with pytest.raises(Exception, match="not Hermitian"):
        ieig.eigsh(operator, 2, **options)


def test_a_small_function_that_is_not_hermitian_or_not_linear():
    """Below the Krylov dimension a matrix is made of it."""
    like = jnp.zeros(6)
    with pytest.raises(Exception, match="not Hermitian"):
        ieig.eigsh(product(lopsided(12)[:6, 4:10]), 2, like=like)
    with pytest.raises(Exception, match="not linear"):
        ieig.eigsh(lambda v: 2 * v + 1, 2, like=like)
    found = jax.jit(lambda x: ieig.eigsh(lambda v: x * v + 1, 2, like=like))(2.0)
    assert np.isnan(found.eigenvalues).all()


def test_a_symmetric_tag_that_is_not_true_of_a_mirror_image():
    a = drift() + 1j * np.diag(np.cos(np.linspace(-1, 1, N)))
    operator = lx.TaggedLinearOperator(lx.MatrixLinearOperator(a), lx.symmetric_tag)
    with pytest.raises(Exception, match="tagged symmetric"):
        ieig.eigs(operator, 2, "LR", left=True)


def test_eigh_of_what_is_not_hermitian_is_nan_in_a_compiled_program():
    a = jnp.stack([symmetric(5), lopsided(12)[:5, 5:10]])
    w, v = jax.jit(ieig.eigh)(a)
    assert np.isfinite(w[0]).all() and np.isfinite(v[0]).all()
    assert np.isnan(w[1]).all() and np.isnan(v[1]).all()


MASSES = {
    "indefinite": np.diag(np.linspace(-1, 1.1, N)),
    "negative": -np.eye(N),
    "a part of no mass": np.diag((np.arange(N) > 0) * 1.0),
    "one negative mass": np.diag(np.where(np.arange(N) == 5, -1e-3, 1.0)),
    "zero": np.zeros((N, N)),
}
SINGULAR = np.eye(N) - np.ones((N, N)) / N  # no constant part, and a full diagonal


@pytest.mark.parametrize("kind", ["dense", "sparse, Dense", "shift-invert"])
@pytest.mark.parametrize(
    "name", slow_but(["one negative mass", "a part of no mass", "zero"], MASSES)
)
def test_a_mass_that_is_not_definite(name, kind):
    operator, options = operators(symmetric(), float)[kind]
    mass = MASSES[name]
    mass = mass if kind == "dense" else sparse.csr_array(mass)
    with pytest.raises(Exception, match="not positive definite"):
        ieig.eigsh(operator, 2, mass=mass, **options)


@pytest.mark.parametrize("seed", range(3))
def test_a_mass_that_is_singular_to_rounding(seed):
    a = symmetric(seed=seed)
    with pytest.raises(Exception, match="not positive definite"):
        ieig.eigsh(a, 2, mass=SINGULAR)
    assert np.isnan(ieig.eigh(a, SINGULAR).eigenvalues).all()


def test_what_an_ill_conditioned_mass_leaves_of_no_pair_is_named():
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(N, N)))
    sizes = np.where(np.arange(N) == 0, 3e-13, 1.0)
    mass = (q * sizes) @ q.T
    with pytest.raises(Exception, match=r"residual|not positive definite"):
        ieig.eigsh(symmetric(), N, mass=(mass + mass.T) / 2)


@pytest.mark.parametrize("sigma", [np.nan, np.inf])
def test_a_traced_target_that_is_no_number(sigma):
    found = jax.jit(lambda s: ieig.eigsh(symmetric(), 2, sigma=s))(sigma)
    assert found.result == ieig.RESULTS.nonfinite
    assert np.isnan(found.eigenvalues).all()


@pytest.mark.parametrize("sigma", [1j, np.complex64(1 + 1j)])
def test_a_complex_target(sigma):
    for options in (
        {"sigma": sigma},
        {"which": ieig.Nearest(sigma)},
        {"eigensolver": ieig.ShiftInvert(sigma)},
    ):
        with pytest.raises(ValueError, match="must be real"):
            ieig.eigsh(symmetric(), 2, **options)


# float32 has no normal numbers below 1.2e-38, and XLA on CPUs no others.
TINY = [1e-45, 1e-40, 1e-38, 1e-37, 1e-36, 1e-34, 1e-30]


def right_or_nan(values, expected):
    values, expected = np.asarray(values, float), np.asarray(expected)
    if np.isnan(values).any():
        return True
    room = 1e-5 * np.max(np.abs(expected))
    return np.all(np.abs(values - expected) <= room)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_denormal_entries_give_nan_or_the_right_values(dtype):
    a = symmetric(6) + (1j * np.triu(np.ones((6, 6)), 1) if dtype != "float32" else 0)
    a = (a + a.conj().T) / 2
    mass = np.diag(np.arange(1.0, 7.0))
    ways = {
        "eigh": lambda a, b: ieig.eigh(a).eigenvalues,
        "eig": lambda a, b: jnp.sort(ieig.eig(a).eigenvalues.real),
        "eigsh": lambda a, b: ieig.eigsh(a, 6).eigenvalues,
        "eigs": lambda a, b: jnp.sort(ieig.eigs(a, 6).eigenvalues.real),
        "mass": lambda a, b: ieig.eigh(mass.astype(dtype), b).eigenvalues,
    }
    ways = {name: jax.jit(f) for name, f in ways.items()}
    certain = 0
    for size in TINY:
        scaled, b = (a * size).astype(dtype), (mass * size).astype(dtype)
        given = np.linalg.eigvalsh(scaled.astype(complex))
        for name, find in ways.items():
            expected = given
            if name == "mass":
                real = np.diag(b).real.astype(float)
                expected = np.sort(np.diag(mass) / np.where(real > 0, real, np.nan))
            found = find(jnp.asarray(scaled), jnp.asarray(b))
            assert right_or_nan(found, expected), (name, size)
            certain += not np.isnan(np.asarray(found)).any()
    assert certain >= 2 * len(ways)


def test_denormal_entries_are_named_in_a_plain_call():
    a = (symmetric(6) * 1e-38).astype("float32")
    for find in (ieig.eigsh, ieig.eigs):
        with pytest.raises(Exception, match="denormal"):
            find(a, 2)
    with pytest.raises(Exception, match="denormal"):
        ieig.eigsh(sparse.csr_array((symmetric() * 1e-38).astype("float32")), 2)
