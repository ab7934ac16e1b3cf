"""SciPy's `LinearOperator` as an operator, and what else SciPy's users type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg as spla

import implicit_eig as ieig

from ..oracles import random_matrix, relative, slow_but


N = 40
A = np.asarray(random_matrix(0, N)) + np.diag(np.linspace(0, 30, N))


@pytest.mark.parametrize("dtype", slow_but([np.complex128], [np.float64, np.complex128]))
def test_pairs_and_left_vectors(dtype):
    a = A.astype(dtype)
    s = ieig.eigs(spla.aslinearoperator(a), 2, "LR", left=True)
    w = np.linalg.eigvals(a)
    assert relative(np.sort(s.eigenvalues.real), np.sort(w.real)[-2:]) < 1e-9
    u, v, values = map(np.asarray, (s.left_eigenvectors, s.eigenvectors, s.eigenvalues))
    assert relative(a @ v, v * values) < 1e-8
    assert relative(u.conj().T @ a, values[:, None] * u.conj().T) < 1e-8


def test_what_it_is_added_to_has_derivatives():
    constant = spla.aslinearoperator(A)

    def top(t):
        w, v = spla.eigs(A, 1, which="LR")
        s = ieig.attach(constant, w, v, mass=(1 + t) * jnp.eye(N))
        return s.eigenvalues[0].real

    value, slope = jax.value_and_grad(top)(0.0)
    assert np.isclose(slope, -value, rtol=1e-6)


def test_without_rmatvec_left_vectors_are_refused():
    op = spla.LinearOperator((N, N), matvec=lambda v: A @ v, dtype=float)
    assert np.isfinite(ieig.eigs(op, 1, "LR").eigenvalues).all()
    with pytest.raises(Exception, match="rmatvec"):
        jax.block_until_ready(ieig.eigs(op, 1, "LR", left=True))


@pytest.mark.parametrize(
    "name, ours", [("ncv", "krylov_dim"), ("M", "mass"), ("tol", "rtol")]
)
def test_scipys_keywords_are_answered(name, ours):
    with pytest.raises(TypeError, match=f"no argument `{name}`.*{ours}"):
        ieig.eigs(A, 2, **{name: 1})


def test_a_gauge_is_no_selection():
    with pytest.raises(TypeError, match=r"LargestReal.*is a gauge"):
        ieig.eigs(A, 2, which=ieig.LargestReal())


def test_a_linear_operator_must_be_square():
    with pytest.raises(ValueError, match=r"square.*\(40, 3\)"):
        ieig.eigs(spla.aslinearoperator(A[:, :3]), 1)
