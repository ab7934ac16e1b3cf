"""Eigenpairs of many small general matrices in XLA alone: no LAPACK, no cuSOLVER, no
host."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Inexact

from .._kernels import option
from .hessenberg import balanced
from .qr_iteration import Schur, schur
from .qr_kernel import schur_by_kernel
from .scaling import largest_part, power_of_two, times_real
from .triangular import conjugates, duals_of, triangular, vectors_of
from .turns import square


# Orders for which the kernel is worth its launch, and fits into registers.
LEAST, MOST = 16, 64


class Eigensystem(NamedTuple):
    """NaN if it does not exist: the matrix is not finite, or did not converge."""

    values: Complex[Array, "*batch n"]
    vectors: Complex[Array, "*batch n n"]  # W: unit columns, their largest entry real
    duals: Complex[Array, "*batch n n"]  # W⁻¹


def eig_by_qr(a: Inexact[Array, "*batch n n"]) -> Eigensystem:
    """The eigenpairs of many matrices, in the order of their Schur forms: conjugate pairs
    of real matrices stand side by side, the one with positive imaginary part first."""
    n = a.shape[-1]
    flat = _one_batch(a.reshape(-1, n, n))
    return Eigensystem(*(x.reshape(*a.shape[:-2], *x.shape[1:]) for x in flat))


@jax.custom_batching.custom_vmap
def _one_batch(a: Inexact[Array, "b n n"]) -> Eigensystem:
    step_by_step = functools.partial(schur, each=False)
    ways = {"cpu": _in_pieces, "default": functools.partial(_eigensystem, step_by_step)}
    if option() == "on" and LEAST <= a.shape[-1] <= MOST:
        ways["cuda"] = functools.partial(_eigensystem, schur_by_kernel)
    return jax.lax.platform_dependent(a, **ways)


@_one_batch.def_vmap
def _(size, batched, a):
    del size, batched
    # All batch axes are merged into one: a further axis would not be the last one.
    return eig_by_qr(a), Eigensystem(True, True, True)  # pyright: ignore[reportArgumentType]


# Keeps the data of a sweep in a CPU's cache, and no piece waits for another's slowest.
_PIECE = 2**17


def _in_pieces(a: Inexact[Array, "b n n"]) -> Eigensystem:
    b, n, _ = a.shape
    size = min(b, max(_PIECE // (2 * n * n * a.dtype.itemsize), 16))
    pieces = -(-b // size)
    a = jnp.pad(a, ((0, pieces * size - b), (0, 0), (0, 0)))
    find = functools.partial(_eigensystem, functools.partial(schur, each=True))
    out = jax.lax.map(find, a.reshape(pieces, size, n, n))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:b], out)


def _eigensystem(
    schur: Callable[[Inexact[Array, "n n b"]], Schur], a: Inexact[Array, "b n n"]
) -> Eigensystem:
    """The batch axis is first outside this function, last inside."""
    a = jnp.moveaxis(a, 0, -1)
    largest = jnp.max(largest_part(a), axis=(0, 1), initial=0)
    finite = jnp.isfinite(largest)
    size = power_of_two(jnp.where(finite, largest, 1))
    a = jnp.where(finite, times_real(a, 1 / size), 0)
    a, scale = balanced(a)
    found = schur(a)
    system = triangular(found.blocks, found.basis, found.cut)
    x = vectors_of(system)
    if not jnp.iscomplexobj(a):
        x = conjugates(system, x)
    duals = times_real(duals_of(system, x.inside), 1 / scale)
    vectors = times_real(x.vectors, scale[:, None])
    values = system.values
    vectors, duals = _normal(vectors, duals)
    values = times_real(values, size)
    nan = jnp.asarray(complex(jnp.nan, jnp.nan), values.dtype)
    out = (jnp.where(finite & found.converged, x, nan) for x in (values, vectors, duals))
    return Eigensystem(*(jnp.moveaxis(x, -1, 0) for x in out))


def _normal(
    vectors: Complex[Array, "n n b"], duals: Complex[Array, "n n b"]
) -> tuple[Complex[Array, "n n b"], Complex[Array, "n n b"]]:
    """Vectors of unit norm with a real largest entry, and the duals that go with them."""
    sizes = square(vectors)
    norm = jnp.sqrt(jnp.sum(sizes, axis=0))
    largest = jnp.arange(len(sizes))[:, None, None] == jnp.argmax(sizes, axis=0)
    head = jnp.sum(jnp.where(largest, vectors, 0), axis=0)
    size = jnp.sqrt(square(head))
    vectors = times_real(vectors * head.conj(), 1 / (size * norm))
    duals = duals * times_real(head, norm / size)[:, None]
    real = jax.lax.complex(vectors.real, jnp.zeros_like(norm, shape=vectors.shape))
    return jnp.where(largest, real, vectors), duals
