"""Memory of compiled programs: one Krylov basis, and a few blocks of k vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig


N, K = 1_000_000, 6


def solution(rates, krylov_dim):
    def mv(v):
        return rates * v + 0.3 * jnp.roll(v, 1)

    solver = ieig.KrylovSchur(krylov_dim=krylov_dim)
    return ieig.eigs(mv, K, "LR", like=rates, eigensolver=solver)


def loss(rates, krylov_dim):
    found = solution(rates, krylov_dim)
    values, vectors = jnp.abs(found.eigenvalues), jnp.abs(found.eigenvectors)
    return jnp.sum(values) + jnp.sum(vectors**3)


def vectors_held(fn, krylov_dim, dtype):
    """Temporary memory of the compiled function, in vectors of length N."""
    rates = jax.ShapeDtypeStruct((N,), dtype)
    compiled = jax.jit(lambda rates: fn(rates, krylov_dim)).lower(rates).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (N * np.dtype(dtype).itemsize)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_run_holds_its_basis_and_a_few_blocks(dtype):
    dim = 40
    # X stands beside the basis, its products take the basis' place.
    assert dim + 1 <= vectors_held(solution, dim, dtype) <= dim + 1 + K + 3


def test_a_gradient_holds_one_basis():
    small, large = (
        vectors_held(jax.value_and_grad(loss), dim, np.float64) for dim in (20, 40)
    )
    assert large - small <= 1.2 * 20


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_gradient_of_all_pairs_holds_a_few_matrices(dtype):
    n = 100

    def loss(a):
        found = ieig.eig(a)
        return jnp.sum(jnp.abs(found.eigenvectors) ** 4) + jnp.sum(
            jnp.abs(found.eigenvalues) ** 2
        )

    like = jax.ShapeDtypeStruct((n, n), dtype)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(like).compile()
    held = compiled.memory_analysis().temp_size_in_bytes / (16 * n**2)
    # Seven of them in JAX's; the others are those of refinements that few runs take, and
    # of telling whether a vector's derivative has a digit. (21.1: the solution of the first
    # round is held beside the refined one, so that batches that need none run faster.)
    assert held < 22
