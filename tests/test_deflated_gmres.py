"""DeflatedGMRES: right gradients from the fewest products, whatever it is given."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from .oracles import product_that_sees_dtypes, random_matrix, relative, with_spectrum


K = 3
WIDE = {np.float32: np.float64, np.complex64: np.complex128}


def matrix(n, dtype=np.float64, seed=0):
    """One real value and a pair (or three complex ones) apart from a disc."""
    a = np.array(random_matrix(seed, n, dtype)) / dtype(np.sqrt(n))
    a[:3, :3] += np.array([[3.0, 1.0, 0], [-1.0, 3.0, 0], [0, 0, 2.2]], dtype)
    return jnp.asarray(a)


def loss(s):
    weight = jnp.linspace(0.5, 2.0, s.eigenvectors.shape[0])[:, None]
    w = s.eigenvalues
    return jnp.sum(weight.astype(w.real.dtype) * jnp.abs(s.eigenvectors) ** 4) + jnp.sum(
        (w * w).real
    )


def by_gmres(preconditioner=None, rtol=None, **options):
    return ieig.ImplicitAdjoint(
        ieig.DeflatedGMRES(**options), preconditioner=preconditioner, rtol=rtol
    )


def of_dense(a):
    return loss(ieig.eigs(a, K, "LR"))


def apply(a):
    return lx.FunctionLinearOperator(
        lambda v: a @ v, jax.ShapeDtypeStruct(a.shape[:1], a.dtype)
    )


def sparse(a):
    rows, columns = np.indices(a.shape).reshape(2, -1)
    return ieig.SparseOperator(a[rows, columns], rows, columns, a.shape[0])


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32, np.complex64])
@pytest.mark.parametrize("kind", [lambda a: a, apply, sparse], ids=["array", "function", "sparse"])
def test_gradients_agree_with_the_dense_formula(kind, dtype, preconditioned):
    n = 50
    a = matrix(n, dtype)
    inverse = None
    if preconditioned:
        crude = a + 0.02 * random_matrix(4, n, dtype)
        inverse = jnp.linalg.inv(crude - 2.9 * jnp.eye(n, dtype=dtype)).astype(dtype)
    adjoint = by_gmres(inverse, restart=30)
    f = lambda a: loss(
        ieig.eigs(
            kind(a), K, "LR", adjoint=adjoint, eigensolver=ieig.KrylovSchur(krylov_dim=24)
        )
    )
    got = jax.jit(jax.grad(f))(a)
    assert got.dtype == dtype
    want = jax.jit(jax.grad(of_dense))(a.astype(WIDE.get(dtype, dtype)))
    assert relative(got, want) < (1e-3 if dtype in WIDE else 1e-8)
