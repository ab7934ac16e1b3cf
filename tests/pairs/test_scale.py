"""The size of an operator, of its rows and of its mass matrix does not matter."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import random_matrix, relative, slow_but


N = 6
DEFECTIVE = np.array([[2.0, 1, 0], [0, 2, 0], [0, 0, 1]])


def pairs_of_eigs(a):
    s = ieig.eigs(a, 3, "LR", throw=False)
    return s.eigenvalues, jnp.abs(s.eigenvectors) ** 2


def pairs_of_eig(a):
    w, v = ieig.eig(a)
    return w, jnp.abs(v) ** 2


@functools.partial(jax.jit, static_argnums=0)
def with_derivatives(find, a, e):
    """Tangents, and the gradient of the real parts of all values and of vectors."""
    values, tangents = jax.jvp(find, (a,), (e,))
    of = lambda i: jax.grad(lambda a: jnp.sum(find(a)[i].real[..., 0]))(a)
    return values, tangents, (of(0), of(1))


SCALES = {
    np.float64: (1e-300, 1e-155, 1e-100, 1e154, 1e300),
    np.complex128: (1e-290, 1e290),
    np.float32: (1e-35, 1e-20, 1e19, 1e35),
}


@pytest.mark.parametrize(
    "dtype, find",
    slow_but(
        [
            (np.float64, pairs_of_eigs),
            (np.complex128, pairs_of_eig),
            (np.float32, pairs_of_eig),
        ],
        itertools.product(SCALES, [pairs_of_eigs, pairs_of_eig]),
    ),
)
def test_values_and_derivatives_of_matrices_of_any_size(find, dtype):
    a, e = (np.asarray(random_matrix(i, N, dtype)) for i in range(2))
    w, t, g = with_derivatives(find, jnp.asarray(a), jnp.asarray(e))
    room = 2e3 * np.finfo(dtype).eps
    for scale in np.asarray(SCALES[dtype], np.finfo(dtype).dtype):
        found = with_derivatives(find, jnp.asarray(a * scale), jnp.asarray(e * scale))
        (values, vectors), (t_values, t_vectors), (g_values, g_vectors) = found
        assert relative(np.asarray(values) / scale, w[0]) < room
        assert relative(vectors, w[1]) < room
        assert relative(np.asarray(t_values) / scale, t[0]) < room
        assert relative(t_vectors, t[1]) < room
        assert relative(g_values, g[0]) < room
        assert relative(np.asarray(g_vectors) * scale, g[1]) < room


@pytest.mark.parametrize("scale", [1e-300, 1e-156, 1.0, 1e200])
@pytest.mark.parametrize(
    "values",
    [
        lambda a: ieig.eig(a).eigenvalues,
        ieig.eigvals,
        lambda a: ieig.eigs(a, 3, "LR", throw=False).eigenvalues,
    ],
)
def test_a_defective_eigenvalue_has_no_derivative_at_any_size(values, scale):
    a = jnp.asarray(scale * DEFECTIVE)
    jacobian = jax.jacrev(lambda a: values(a).real)(a)
    lost = np.isnan(jacobian).all(axis=(1, 2))
    assert np.array_equal(lost, np.isclose(np.asarray(values(a)).real / scale, 2))
    simple = jacobian[np.argmin(lost)]
    # x, y with (A − 1) x = 0 and yᵀ (A − 1) = 0.
    np.testing.assert_allclose(simple, np.diag([0.0, 0, 1]), atol=1e-13)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_a_right_zero_eigenvalue_has_a_residual_of_rounding(scale):
    a = scale * np.array([[-1.0, 1, 0], [1, -1, 0], [0, 0, 3]])
    for eigensolver in (ieig.Dense(), None):
        solution = ieig.eigs(a, 3, "SM", eigensolver=eigensolver)
        np.testing.assert_allclose(
            np.asarray(solution.eigenvalues) / scale, [0, -2, 3], atol=1e-14
        )
        assert np.all(solution.residuals < 1e-15)


def test_residuals_are_backward_errors():
    a, b = (np.asarray(random_matrix(i, N)) for i in range(2))
    for factor, mass_factor in ((1.0, 1.0), (1e-9, 1e9), (1e200, 1e-90)):
        mass = mass_factor * (b + 4 * np.eye(N))
        s = ieig.eigs(factor * a, 2, mass=mass, throw=False)
        w, v = np.asarray(s.eigenvalues), np.asarray(s.eigenvectors)
        w, v = w * mass_factor / factor, v + 1e-4 * np.eye(N)[:, :2]
        given = ieig.attach(
            factor * a, w * factor / mass_factor, v, mass=mass, throw=False
        )
        defect = np.linalg.norm(a @ v - (mass / mass_factor) @ v * w, axis=0)
        norms = [np.linalg.norm(x, 2) for x in (a, mass / mass_factor)]
        size = (norms[0] + abs(w) * norms[1]) * np.linalg.norm(v, axis=0)
        ratio = np.asarray(given.residuals) / (defect / size)
        # Norms are estimates.
        assert np.all((ratio > 0.5) & (ratio < 10))
        assert np.all(s.residuals < 1e-14)


def test_a_zero_matrix_has_the_value_zero():
    s = ieig.eigs(jnp.zeros((6, 6)), 2)
    assert np.array_equal(s.eigenvalues, [0, 0]) and np.all(s.residuals == 0)


def tridiagonal(n=40):
    i = np.arange(n)
    return np.diag(2 + 0.01 * i) - np.eye(n, k=1) - 0.98 * np.eye(n, k=-1)


class TestPencilsOfUnevenRows:
    """Rows, or columns, multiplied by anything: the same eigenvalues."""

    n = 40
    target = 3.0

    def exact(self):
        w, v = np.linalg.eig(tridiagonal(self.n))
        best = np.argsort(abs(w - self.target))[:2]
        u = np.linalg.inv(v)
        return w[best], np.outer(u[best[0]], v[:, best[0]])

    @functools.partial(jax.jit, static_argnums=0)
    def found(self, a, rows, columns):
        def pairs(a):
            matrix, mass = rows[:, None] * a * columns, jnp.diag(rows * columns)
            s = ieig.eigs(matrix, 2, sigma=self.target, mass=mass, left=True, throw=False)
            return s.eigenvalues[0].real, s

        return jax.grad(pairs, has_aux=True)(a)

    @pytest.mark.parametrize("p", [25, -25, 16, 150, -150])
    def test_rows(self, p):
        w, gradient = self.exact()
        a = tridiagonal(self.n)
        for exponents in (np.linspace(0, p, self.n), p * np.cos(np.arange(self.n))):
            d = 10.0**exponents
            g, s = self.found(a, d, np.ones(self.n))
            np.testing.assert_allclose(s.eigenvalues, w, rtol=1e-12)
            assert s.result == ieig.RESULTS.successful
            assert relative(g, gradient) < 1e-10
            # uᴴ A = λ uᴴ B, whose rows weigh what they weigh.
            u = np.asarray(s.left_eigenvectors).conj().T * d
            assert relative(u @ a, w[:, None] * u) < 1e-10

    @pytest.mark.parametrize("p", [25, -25, 16, -16])
    def test_columns(self, p):
        d = 10.0 ** np.linspace(0, p, self.n)
        _, s = self.found(tridiagonal(self.n), np.ones(self.n), d)
        np.testing.assert_allclose(s.eigenvalues, self.exact()[0], rtol=1e-12)
        assert s.result != ieig.RESULTS.singular

    def test_what_is_singular_stays_so(self):
        a, b = tridiagonal(8), np.eye(8)
        a[3], b[3] = 0, 0
        for d in (np.ones(8), 10.0 ** np.linspace(0, 20, 8)):
            s = ieig.eigs(d[:, None] * a, 2, mass=d[:, None] * b, throw=False)
            assert s.result == ieig.RESULTS.singular

    @pytest.mark.parametrize("p", [0, 20, -30])
    def test_of_a_sparse_pencil(self, p):
        n, i = 300, np.arange(300)
        a, d = tridiagonal(n), 10.0 ** np.linspace(0, p, n)
        rows, columns = np.nonzero(a)
        w = np.linalg.eigvals(a)
        w = w[np.argsort(abs(w - 3.3))[:2]]
        matrix = ieig.SparseOperator(d[rows] * a[rows, columns], rows, columns, n)
        s = ieig.eigs(matrix, 2, sigma=3.3, mass=ieig.SparseOperator(d, i, i, n))
        np.testing.assert_allclose(s.eigenvalues, w, rtol=1e-10)
