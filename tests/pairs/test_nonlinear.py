"""`nonlinear_eigs` and `polyeig`: values and derivatives against closed forms, the count of
a region, and what is refused."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but


scipy = pytest.importorskip("scipy")
from scipy.linalg import eigvals  # noqa: E402
from scipy.special import lambertw  # noqa: E402


def relaxed(fn):
    """The user's own function is under no strict rules."""

    def call(*args):
        with jax.numpy_dtype_promotion("standard"):
            return fn(*args)

    return call


def of_delay(a, delay):
    """x'(t) = −a x(t) + x(t − delay)."""

    @relaxed
    def T(z):
        return (-z - a + jnp.exp(-delay * z)).reshape(1, 1)

    return T


def exact(a, delay):
    return complex(-a + lambertw(delay * np.exp(a * delay)) / delay)


def test_a_delay_has_the_lambert_function_and_its_derivatives():
    def rate(p):
        return ieig.nonlinear_eigs(of_delay(*p), guess=-0.5).eigenvalues[0].real

    p = jnp.array([2.0, 1.0])
    np.testing.assert_allclose(rate(p), exact(2.0, 1.0).real, rtol=1e-13)
    # z(1 + τe) = −1 and z(1 + τe) = −z e in closed form, with e = exp(−τz).
    z = exact(2.0, 1.0).real
    e = np.exp(-z)
    expected = np.array([-1 / (1 + e), -z * e / (1 + e)])
    np.testing.assert_allclose(jax.grad(rate)(p), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(rate)(p), expected, rtol=1e-12)
    h = 1e-4
    along = [(exact(2 + h, 1), exact(2, 1), exact(2 - h, 1))]
    along.append((exact(2, 1 + h), exact(2, 1), exact(2, 1 - h)))
    second = [(a - 2 * b + c).real / h**2 for a, b, c in along]
    np.testing.assert_allclose(np.diag(jax.hessian(rate)(p)), second, rtol=1e-5)


RNG = np.random.default_rng(0)
N = 5
QUADRATIC = tuple(jnp.asarray(RNG.normal(size=(N, N))) for _ in range(3))


def of(coefficients):
    def T(z):
        return sum(a.astype(z.dtype) * z**i for i, a in enumerate(coefficients))

    return T


def by_scipy(coefficients):
    a0, a1, a2 = (np.asarray(a) for a in coefficients)
    n, eye = len(a0), np.eye(len(a0))
    zero = np.zeros((n, n))
    return eigvals(
        np.block([[zero, eye], [-a0, -a1]]), np.block([[eye, zero], [zero, a2]])
    )


def matched(found, expected, rtol=1e-10):
    """As sets."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    gap = np.abs(found[:, None] - expected[None, :])
    assert sorted(gap.argmin(axis=1)) == list(range(len(found)))
    assert (gap.min(axis=1) <= rtol * (1 + np.abs(found))).all()


@pytest.mark.parametrize(
    "region",
    [
        ieig.Disk(0.0, 1.0),
        ieig.Ellipse(0.1j, 1.5, 0.4, np.pi / 2),
        ieig.Rectangle(-1 - 1j, 0.9 + 1.2j),
    ],
)
def test_all_eigenvalues_in_a_region(region):
    everything = by_scipy(QUADRATIC)
    inside = everything[np.asarray(region.contains(jnp.asarray(everything, complex)))]
    solver = ieig.Contour(num_nodes=128)
    found = ieig.nonlinear_eigs(of(QUADRATIC), 10, region=region, eigensolver=solver)
    count = int(found.stats["num_inside"])
    assert count == len(inside)
    matched(found.eigenvalues[:count], inside)
    assert np.isnan(found.eigenvalues[count:]).all()
    real = np.asarray(found.eigenvalues[:count].real)
    assert (np.diff(real) <= 1e-8).all()


@pytest.mark.parametrize("sparse", slow_but([True], [False, True]))
def test_all_eigenvalues_of_a_pencil_in_a_region(sparse):
    n = 30
    rng = np.random.default_rng(3)
    a = np.diag(np.linspace(-1.0, 1.0, n)) + np.diag(rng.normal(size=n - 1), 1) / 9
    b = np.diag(1 + 0.1 * np.sin(np.arange(n)))
    expected = eigvals(a, b)
    expected = expected[abs(expected - 0.2) < 0.2]

    def found(a):
        operator, mass = a, jnp.asarray(b)
        if sparse:
            rows, columns = np.nonzero(np.asarray(b) + np.eye(n, k=1))
            operator = ieig.SparseOperator(a[rows, columns], rows, columns, n)
            mass = ieig.SparseOperator(mass[rows, columns], rows, columns, n)
        region = ieig.Inside(ieig.Disk(0.2, 0.2))
        return ieig.eigs(operator, 14, region, mass=mass)

    solution = found(jnp.asarray(a))
    count = int(solution.stats["num_inside"])
    matched(solution.eigenvalues[:count], expected, 1e-9)
    # Each of them: a factor beside an eigenvalue has half of the digits.
    gradients = jax.jacrev(lambda a: found(a).eigenvalues[:count].real)(jnp.asarray(a))
    for value, gradient in zip(solution.eigenvalues, gradients, strict=False):
        # Of a triangular pencil λ = a_ii / b_ii.
        place = np.argmin(abs(np.diag(a) / np.diag(b) - float(value.real)))
        np.testing.assert_allclose(gradient[place, place], 1 / b[place, place], rtol=1e-8)


def test_too_many_for_the_room_are_counted():
    region = ieig.Disk(0.0, 1.0)
    found = ieig.nonlinear_eigs(of(QUADRATIC), 2, region=region, throw=False)
    assert found.result == ieig.RESULTS.region_overflow
    assert found.stats["num_inside"] == sum(abs(by_scipy(QUADRATIC)) < 1)
    with pytest.raises(Exception, match="more eigenvalues in the region"):
        ieig.nonlinear_eigs(of(QUADRATIC), 2, region=region)


def test_an_empty_region():
    found = ieig.nonlinear_eigs(of(QUADRATIC), 2, region=ieig.Disk(30.0, 1.0))
    assert found.stats["num_inside"] == 0
    assert np.isnan(found.eigenvalues).all()


@pytest.mark.slow
def test_a_double_eigenvalue_in_a_region_has_both_vectors_and_no_derivative():
    base = jnp.diag(jnp.array([0.3, 0.3, 0.6, 2.0]))

    def value(t):
        a = base.at[0, 1].add(t).at[2, 2].add(t)
        T = relaxed(lambda z: a - z * jnp.eye(4))
        found = ieig.nonlinear_eigs(T, 4, region=ieig.Disk(0.0, 1.0), throw=False)
        return found.eigenvalues.real, found

    values, found = value(0.0)
    np.testing.assert_allclose(values[:3], [0.6, 0.3, 0.3], atol=1e-12)
    gram = np.abs(found.eigenvectors[:, 1].conj() @ found.eigenvectors[:, 2])
    assert gram < 0.99
    tangents = jax.jvp(lambda t: value(t)[0], (0.0,), (1.0,))[1]
    np.testing.assert_allclose(tangents[0], 1.0, rtol=1e-10)
    assert np.isnan(tangents[1:]).all()
    assert np.isnan(jax.grad(lambda t: value(t)[0][1])(0.0))
    np.testing.assert_allclose(jax.grad(lambda t: value(t)[0][0])(0.0), 1.0)


def test_gradients_of_pairs_and_left_vectors():
    start = by_scipy(QUADRATIC)[3] * 1.01

    def loss(*coefficients):
        found = ieig.nonlinear_eigs(of(coefficients), guess=start)
        v = found.eigenvectors[:, 0]
        return found.eigenvalues[0].real + jnp.sum(jnp.abs(v) ** 4)

    gradients = jax.grad(loss, (0, 1, 2))(*QUADRATIC)
    for i, gradient in enumerate(gradients):
        direction = jnp.asarray(RNG.normal(size=(N, N)))
        up, down = (
            loss(*(a + s * float(j == i) * direction for j, a in enumerate(QUADRATIC)))
            for s in (1e-6, -1e-6)
        )
        expected = (up - down) / 2e-6
        np.testing.assert_allclose(jnp.sum(gradient * direction), expected, rtol=1e-6)
    found = ieig.nonlinear_eigs(of(QUADRATIC), guess=start, left=True)
    z, u = found.eigenvalues[0], found.left_eigenvectors[:, 0]
    v = found.eigenvectors[:, 0]
    assert np.abs(u.conj() @ of(QUADRATIC)(z)).max() < 1e-12
    slope = QUADRATIC[1].astype(complex) + 2 * z * QUADRATIC[2].astype(complex)
    np.testing.assert_allclose(u.conj() @ slope @ v, -1, rtol=1e-10)
    # λ̇ = −uᴴ Ṫ v / uᴴ T′ v
    of_value = jax.grad(
        lambda a: (
            ieig.nonlinear_eigs(of((a, *QUADRATIC[1:])), guess=start).eigenvalues[0].real
        )
    )(QUADRATIC[0])
    np.testing.assert_allclose(of_value, jnp.outer(u.conj(), v).real, atol=1e-10)


def test_several_guesses_and_a_start_vector():
    everything = by_scipy(QUADRATIC)[:3]
    found = ieig.nonlinear_eigs(of(QUADRATIC), 3, guess=everything * 1.001)
    np.testing.assert_allclose(found.eigenvalues, everything, rtol=1e-10)
    start = complex(everything[1] * 1.001), found.eigenvectors[:, 1]
    one = ieig.nonlinear_eigs(of(QUADRATIC), guess=start)
    np.testing.assert_allclose(one.eigenvalues[0], everything[1], rtol=1e-10)


def test_published_quadratic_with_an_infinite_eigenvalue():
    """Tisseur and Meerbergen 2001, section 3.1: 1/3, 1/2, 1, ±i, ∞."""
    mass = np.array([[0.0, 6, 0], [0, 6, 0], [0, 0, 1]])
    damping = np.array([[1.0, -6, 0], [2, -7, 0], [0, 0, 0]])
    found = ieig.polyeig((np.eye(3), damping, mass), 5)
    matched(found.eigenvalues, [1 / 3, 1 / 2, 1, 1j, -1j], 1e-12)
    assert found.stats["num_infinite"] == 1
    near = ieig.polyeig((np.eye(3), damping, mass), 2, sigma=0.4)
    np.testing.assert_allclose(near.eigenvalues, [1 / 3, 1 / 2], rtol=1e-12)
    with pytest.raises(Exception, match="finite"):
        ieig.polyeig((np.eye(3), damping, mass), 6)


@pytest.mark.slow
def test_cubic_gradients():
    cubic = tuple(jnp.asarray(RNG.normal(size=(4, 4))) for _ in range(4))

    def loss(*coefficients):
        found = ieig.polyeig(coefficients, 3, "LR")
        v = found.eigenvectors[:, 2]
        return found.eigenvalues[0].real + jnp.sum(jnp.abs(v) ** 4)

    gradients = jax.grad(loss, (0, 1, 2, 3))(*cubic)
    for i, gradient in enumerate(gradients):
        direction = jnp.asarray(RNG.normal(size=(4, 4)))
        up, down = (
            loss(*(a + s * float(j == i) * direction for j, a in enumerate(cubic)))
            for s in (1e-6, -1e-6)
        )
        expected = (up - down) / 2e-6
        np.testing.assert_allclose(jnp.sum(gradient * direction), expected, rtol=1e-5)


def test_sparse_coefficients_take_one_factorisation():
    n = 120
    i = np.arange(n)
    rows, columns = np.r_[i, i[1:], i[:-1]], np.r_[i, i[:-1], i[1:]]
    chain = jnp.concatenate([2 * jnp.ones(n), -jnp.ones(2 * n - 2)])

    def modes(damping, sparse):
        operators = (
            ieig.SparseOperator(chain, rows, columns, n),
            ieig.SparseOperator(damping, i, i, n),
            ieig.SparseOperator(jnp.ones(n), i, i, n),
        )
        if not sparse:
            operators = tuple(a.as_matrix() for a in operators)
        return ieig.polyeig(operators, 3, sigma=0.1j)

    def loss(damping, sparse):
        found = modes(damping, sparse)
        v = found.eigenvectors[:, 0]
        weights = jnp.arange(float(n))
        return found.eigenvalues[1].real + (v.real**2 + v.imag**2) @ weights, found

    damping = jnp.asarray(0.1 + 0.05 * np.sin(i / 7))
    derivative = jax.grad(loss, has_aux=True)
    (sparse, ours), (full, dense) = (derivative(damping, x) for x in (True, False))
    np.testing.assert_allclose(ours.eigenvalues, dense.eigenvalues, rtol=1e-9)
    assert ours.stats["num_factorizations"] == 1
    np.testing.assert_allclose(sparse, full, rtol=1e-6, atol=1e-7)


def test_under_jit_and_vmap():
    def rate(delay):
        return ieig.nonlinear_eigs(of_delay(2.0, delay), guess=-0.5).eigenvalues[0].real

    delays = jnp.array([0.5, 1.0])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(rate)))(delays)
    for delay, value, slope in zip(delays, values, slopes, strict=True):
        z = exact(2.0, float(delay)).real
        e = np.exp(-delay * z)
        np.testing.assert_allclose(value, z, rtol=1e-12)
        np.testing.assert_allclose(slope, -z * e / (1 + delay * e), rtol=1e-10)


def test_a_function_of_a_vector():
    diagonal = jnp.linspace(1.0, 2.0, 30)

    def T(z):
        return relaxed(lambda v: (diagonal - z * z) * v + 0.1 * jnp.roll(v, 1))

    solver = ieig.Newton(linear_solver=lx.LU())
    found = ieig.nonlinear_eigs(
        T, guess=1.02, like=jnp.zeros(30, complex), eigensolver=solver
    )
    matrix = jnp.diag(diagonal) + 0.1 * jnp.roll(jnp.eye(30), 1, axis=0)
    z = np.asarray(found.eigenvalues[0])
    assert np.abs(np.linalg.eigvals(matrix) - z**2).min() < 1e-10


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: ieig.nonlinear_eigs(of(QUADRATIC)), "guess"),
        (lambda: ieig.nonlinear_eigs(np.eye(3), guess=1.0), "function"),
        (lambda: ieig.nonlinear_eigs(lambda z: jnp.eye(3), guess=1.0), "depend on λ"),
        (
            lambda: ieig.nonlinear_eigs(
                relaxed(lambda z: jnp.eye(2) * z.conj() - 1), guess=0.9
            ),
            "not holomorphic",
        ),
        (lambda: ieig.nonlinear_eigs(of(QUADRATIC), 2, guess=1.0), "k = 2"),
        (lambda: ieig.nonlinear_eigs(of(QUADRATIC), region=1.0), "region"),
        (
            lambda: ieig.nonlinear_eigs(
                of(QUADRATIC), guess=100.0, eigensolver=ieig.Newton(max_steps=1)
            ),
            "0 of 1",
        ),
        (lambda: ieig.Disk(0.0, -1.0), "positive"),
        (lambda: ieig.Rectangle(1.0, 0.0), "lower_left"),
        (lambda: ieig.polyeig((np.eye(2),)), "two or more"),
        (lambda: ieig.polyeig((np.eye(2), np.eye(3))), r"coefficients\[1\]"),
        (lambda: ieig.polyeig((np.eye(2), np.eye(2)), 3), "d n = 2"),
        (
            lambda: ieig.polyeig(
                (lambda v: v, lambda v: v), 1, like=jnp.zeros(4), sigma=None
            ),
            "sigma",
        ),
    ],
)
def test_what_is_refused(call, word):
    with pytest.raises(Exception, match=word):
        call()
