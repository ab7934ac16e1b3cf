"""`polyeig` and `nonlinear_eigs` where an answer does not exist or is not certain: nothing
wrong comes back without a word."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but
from .test_nonlinear import relaxed


N = 50
RNG = np.random.default_rng(0)
# Well-conditioned and banded, so that blocks are mixed and entries are few.
LEFT = np.eye(N) + 0.3 * np.diag(np.ones(N - 1), 1) + 0.2 * np.diag(np.ones(N - 1), -1)
RIGHT = np.eye(N) + 0.3 * np.diag(np.ones(N - 1), 1)


def sparse(matrices, first):
    """Operators of a fixed pattern, with the entries `first` in the first."""
    operators = []
    for matrix in matrices:
        rows, columns = np.nonzero(matrix)
        entries = jnp.asarray(matrix)[rows, columns] if operators else first
        operators.append(ieig.SparseOperator(entries, rows, columns, N))
    return operators


def derivative(matrices, k, sigma, which=0):
    """Of an eigenvalue of sparse coefficients, by the entries of the first; the run."""

    def value(first):
        parts = sparse(matrices, first)
        found = ieig.polyeig(parts, k, sigma=sigma, throw=False)
        return found.eigenvalues[which].real, found

    rows, columns = np.nonzero(matrices[0])
    return jax.grad(value, has_aux=True)(jnp.asarray(matrices[0][rows, columns]))


def mixed(*diagonals):
    return [LEFT @ np.diag(x) @ RIGHT for x in diagonals]


REST = np.linspace(3, 9, N - 2)


def scalar_double(split):
    """(λ + 1)² = split² at one place: one equation, a double root."""
    first = np.r_[1.0 - split**2, 3.0, REST]
    return mixed(first, np.r_[2.0, 0.3 * np.ones(N - 1)], np.ones(N))


def jordan_block(split):
    """(λ + 1)(λ + 2) twice, coupled."""
    first = np.diag(np.r_[2.0, 2.0 * (1 + split), REST])
    first[0, 1] = 0.5
    second = np.diag(np.r_[3.0, 3.0 + split, 0.3 * np.ones(N - 2)])
    return [LEFT @ x @ RIGHT for x in (first, second, np.eye(N))]


@pytest.mark.parametrize("make", [scalar_double, jordan_block])
@pytest.mark.parametrize("k", slow_but([1], [1, 2, 3]))
def test_a_defective_eigenvalue_of_sparse_coefficients_has_no_derivative(make, k):
    gradient, found = derivative(make(0.0), k, -0.9)
    np.testing.assert_allclose(found.eigenvalues[0], -1, atol=1e-6)
    assert np.isnan(gradient).all()
    assert found.result == ieig.RESULTS.defective
    parts = sparse(make(0.0), jnp.asarray(make(0.0)[0][np.nonzero(make(0.0)[0])]))
    assert ieig.polyeig(parts, k, sigma=-0.9).result == ieig.RESULTS.defective


def test_close_eigenvalues_that_are_not_defective_keep_their_derivatives():
    split = 1e-3
    gradient, found = derivative(scalar_double(split), 2, -0.9)
    assert found.result == ieig.RESULTS.successful
    # λ = −1 ± split: dλ/da = −uᴴ Ȧ v / uᴴ P′ v = −(L⁻¹)₀ᵢ (R⁻¹)ⱼ₀ / 2(λ + 1).
    z = complex(found.eigenvalues[0]).real
    exact = -np.outer(np.linalg.inv(LEFT)[0], np.linalg.inv(RIGHT)[:, 0]) / (2 * z + 2)
    rows, columns = np.nonzero(scalar_double(split)[0])
    np.testing.assert_allclose(gradient, exact[rows, columns], rtol=1e-6, atol=1e-6)


def test_a_repeated_eigenvalue_of_sparse_coefficients_has_no_derivative():
    first = np.r_[2.0, 2.0, REST]
    second = np.r_[3.0, 3.0, 0.3 * np.ones(N - 2)]
    matrices = mixed(first, second, np.ones(N))
    for k in (1, 2):
        gradient, found = derivative(matrices, k, -0.9)
        np.testing.assert_allclose(found.eigenvalues[0], -1, atol=1e-9)
        assert np.isnan(gradient).all()


def test_a_pair_without_derivative_takes_nothing_from_the_others():
    # (λ + 1)(λ + 1.3) and (λ + 1)(λ + 2)
    first = np.r_[1.3, 2.0, REST]
    second = np.r_[2.3, 3.0, 0.3 * np.ones(N - 2)]
    matrices = mixed(first, second, np.ones(N))
    values = jnp.asarray(matrices[0][np.nonzero(matrices[0])])

    def of(j):
        def value(values):
            parts = sparse(matrices, values)
            found = ieig.polyeig(parts, 3, sigma=-0.9, throw=False)
            return found.eigenvalues[j].real, found.eigenvalues

        return jax.grad(value, has_aux=True)(values)

    (pair, _), (other, eigenvalues) = of(0), of(2)
    np.testing.assert_allclose(eigenvalues[0], -1, atol=1e-9)
    np.testing.assert_allclose(eigenvalues[2], -1.3, atol=1e-9)
    assert np.isnan(pair).all()
    assert np.isfinite(other).all()


def test_a_double_root_of_matrices_and_of_a_function():
    a = jnp.asarray(np.diag([1.0, 3, 4, 5]) + np.eye(4, k=1))
    b = jnp.diag(jnp.array([2.0, 0.3, 0.3, 0.3]))

    def by_polyeig(a):
        found = ieig.polyeig((a, b, jnp.eye(4)), 1, sigma=-0.9, throw=False)
        return found.eigenvalues[0].real, found.result

    def by_newton(a):
        T = relaxed(lambda z: a + z * b + z * z * jnp.eye(4))
        found = ieig.nonlinear_eigs(T, guess=-0.99, throw=False)
        return found.eigenvalues[0].real, found.result

    def attached(a):
        T = relaxed(lambda z: a + z * b + z * z * jnp.eye(4))
        v = jnp.eye(4, dtype=complex)[:, :1]
        found = ieig.attach(T, jnp.array([-1.0 + 0j]), v, throw=False)
        return found.eigenvalues[0].real, found.result

    for value in (by_polyeig, by_newton, attached):
        gradient, result = jax.grad(value, has_aux=True)(a)
        assert np.isnan(gradient).all()
        assert result != ieig.RESULTS.successful


def iterated(v):
    """The same vector, by a loop that JAX cannot transpose."""
    step = lambda s: (s[0] + 1, s[1] * jnp.ones_like(s[1]))
    return jax.lax.while_loop(lambda s: s[0] < 2, step, (0, v))[1]


DIAGONAL = jnp.linspace(1.0, 2.0, 30)


def untransposed(scale=1.0):
    def T(z):
        return relaxed(
            lambda v: scale * iterated(DIAGONAL * v) + 0.1 * jnp.roll(v, 1) - z * z * v
        )

    return T


LIKE = jnp.zeros(30, complex)
NEWTON = ieig.Newton(linear_solver=lx.LU())
REFUSED = "need products with T.* JAX cannot transpose .*while_loop"


def test_a_function_without_transpose_has_values():
    matrix = jnp.diag(DIAGONAL) + 0.1 * jnp.roll(jnp.eye(30), 1, axis=0)
    exact = np.sqrt(np.linalg.eigvals(matrix).astype(complex))
    found = ieig.nonlinear_eigs(untransposed(), guess=1.02, like=LIKE, eigensolver=NEWTON)
    assert np.abs(exact - found.eigenvalues[0]).min() < 1e-12
    contour = ieig.Contour(linear_solver=lx.LU(), polish=NEWTON)
    disk = ieig.Disk(1.02, 0.05)
    found = ieig.nonlinear_eigs(
        untransposed(), 10, region=disk, like=LIKE, eigensolver=contour
    )
    inside = np.asarray(disk.contains(jnp.asarray(exact)))
    assert found.stats["num_inside"] == inside.sum()
    found = ieig.polyeig(
        (lambda v: untransposed()(0.0)(v), lambda v: 0 * v, lambda v: -v),
        2,
        sigma=1.02,
        like=DIAGONAL,
        linear_solver=lx.LU(),
    )
    assert np.abs(exact[:, None] - found.eigenvalues).min(axis=0).max() < 1e-10


@pytest.mark.parametrize("mode", ["left", "grad", "jvp"])
def test_what_needs_the_transpose_says_so(mode):
    def value(scale, **options):
        found = ieig.nonlinear_eigs(
            untransposed(scale), guess=1.02, like=LIKE, eigensolver=NEWTON, **options
        )
        return found.eigenvalues[0].real

    with pytest.raises(TypeError, match=REFUSED) as caught:
        if mode == "left":
            value(1.0, left=True)
        elif mode == "grad":
            jax.grad(value)(1.0)
        else:
            jax.jvp(value, (1.0,), (1.0,))
    assert "\n" not in str(caught.value).strip().split("---")[0].strip()


def test_infinite_eigenvalues_of_sparse_coefficients_are_not_taken_for_large_ones():
    j, masses = np.arange(N), jnp.where(jnp.arange(N) < 4, 1.0, 0.0)

    def modes(k, masses, **options):
        parts = [
            ieig.SparseOperator(x, j, j, N)
            for x in (jnp.linspace(1.0, 5.0, N), 0.0 * masses, masses)
        ]
        return ieig.polyeig(parts, k, sigma=0.9j, **options)

    found = modes(8, masses)
    exact = np.sqrt(np.linspace(1.0, 5.0, N)[:4])
    np.testing.assert_allclose(np.sort(abs(found.eigenvalues)), np.repeat(exact, 2))
    with pytest.raises(Exception, match="Fewer than `k` eigenvalues are finite"):
        modes(10, masses)
    found = modes(10, masses, throw=False)
    assert found.stats["num_infinite"] == 2
    assert found.stats["num_converged"] == 8
    slope = jax.jacobian(lambda m: modes(10, m, throw=False).eigenvalues.imag)(masses)
    assert np.isnan(slope[8:]).all()


ZERO = jnp.zeros((N, N))


def diagonal(values):
    return ieig.SparseOperator(values, np.arange(N), np.arange(N), N)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: ieig.polyeig((ZERO, ZERO, ZERO), 2), "singular"),
        (
            lambda: ieig.polyeig([diagonal(jnp.zeros(N))] * 3, 2, sigma=1.0),
            "singular",
        ),
        (
            lambda: ieig.polyeig([diagonal(jnp.full(N, jnp.nan))] * 3, 2, sigma=1.0),
            "NaN or inf",
        ),
        (
            lambda: ieig.nonlinear_eigs(relaxed(lambda z: z * ZERO[:3, :3]), guess=1.0),
            "NaN or inf",
        ),
        (
            lambda: ieig.nonlinear_eigs(
                relaxed(lambda z: z * jnp.eye(3) - 1), guess=jnp.nan
            ),
            "NaN or inf",
        ),
        (
            lambda: ieig.nonlinear_eigs(relaxed(lambda z: jnp.ones((2, 3)) * z), guess=1),
            "square",
        ),
        (
            lambda: ieig.polyeig([diagonal(jnp.ones(N)), jnp.eye(4)], 2, sigma=1.0),
            r"coefficients\[1\]",
        ),
    ],
)
def test_what_has_no_answer_is_said(call, word):
    with pytest.raises(Exception, match=word):
        call()


def test_pairs_of_a_function_that_is_not_holomorphic_have_no_derivatives():
    def value(a):
        T = relaxed(lambda z: a * jnp.eye(2) * z.conj() - 1)
        return ieig.nonlinear_eigs(T, guess=0.9, throw=False).eigenvalues[0].real

    assert np.isnan(jax.grad(value)(1.0))


def test_how_near_a_pair_is_to_a_singular_system_is_told_too():
    """Derivatives refuse such a system; `diagnose` is asked for just that number."""
    n, gap = 60, 1e-13
    index, values = np.arange(n), np.linspace(2, 50, n)
    values[:2] = 1, 1 + gap

    def t(z):
        return ieig.SparseOperator(jnp.asarray(values, complex) - z, index, index, n)

    vector = jnp.zeros((n, 1), complex).at[0].set(1)
    found = ieig.attach(t, jnp.asarray([1.0 + 0j]), vector, throw=False)
    assert np.isclose(ieig.diagnose(t, found).separation[0], gap, rtol=0.01)
