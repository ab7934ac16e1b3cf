"""Eigenpairs of many small general matrices in XLA alone: no LAPACK, no cuSOLVER, no
host."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Inexact

from .._kernels import option
from .hessenberg import balanced
from .qr_iteration import Schur, schur
from .qr_kernel import schur_by_kernel
from .scaling import largest_part, power_of_two, times_real
from .triangular import adjoint_of, conjugates, duals_of, triangular, vectors_of
from .turns import square


# Orders that the kernel does not pad by much, and that fit into registers.
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
    ways = {"cpu": _in_pieces, "default": functools.partial(_eigensystem, in_step)}
    if (kernel := kernel_for(a.shape[-1])) is not None:
        ways["cuda"] = functools.partial(_eigensystem, kernel)
    return jax.lax.platform_dependent(a, **ways)


# Schur forms of a batch that is the last axis.
Finder = Callable[[Inexact[Array, "n n b"]], Schur]
in_step: Finder = functools.partial(schur, each=False)


def kernel_for(n: int) -> Finder | None:
    """The kernel for GPUs, if it is switched on and made for this order."""
    return schur_by_kernel if option() == "on" and LEAST <= n <= MOST else None


@_one_batch.def_vmap
def _(size, batched, a):
    del size, batched
    # All batch axes are merged into one: a further axis would not be the last one.
    return eig_by_qr(a), Eigensystem(True, True, True)  # pyright: ignore[reportArgumentType]


# Keeps the data of a sweep in a CPU's cache, and no piece waits for another's slowest.
_PIECE = 2**17


def _in_pieces(a: Inexact[Array, "b n n"]) -> Eigensystem:
    b, n, _ = a.shape
    size = max(1, min(b, max(_PIECE // (2 * n * n * a.dtype.itemsize), 16)))
    pieces = -(-b // size)
    a = jnp.pad(a, ((0, pieces * size - b), (0, 0), (0, 0)))
    find = functools.partial(_eigensystem, functools.partial(schur, each=True))
    out = jax.lax.map(find, a.reshape(pieces, size, n, n))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:b], out)


def _eigensystem(find: Finder, a: Inexact[Array, "b n n"]) -> Eigensystem:
    """The batch axis is first outside this function, last inside."""
    a, size, scale, finite = _prepared(a)
    found = find(a)
    system = triangular(found.blocks, found.basis, found.cut)
    x = vectors_of(system)
    if not jnp.iscomplexobj(a):
        x = conjugates(system, x)
    duals = times_real(duals_of(system, x.inside), 1 / scale)
    vectors, duals = _normal(times_real(x.vectors, scale[:, None]), duals)
    values = times_real(system.values, size)
    return Eigensystem(*_results((values, vectors, duals), finite & found.converged))


def pairs_from_both_sides(
    find: Finder, a: Inexact[Array, "b n n"]
) -> tuple[Complex[Array, "b n"], Complex[Array, "b n n"], Complex[Array, "b n n"]]:
    """Eigenvalues, left vectors and right ones, of unit norm. The left ones come from the
    Schur form, as in LAPACK's `trevc`, so that their residuals are small even where those
    of rows of an inverse are not."""
    a, size, scale, finite = _prepared(a)
    found = find(a)
    system = triangular(found.blocks, found.basis, found.cut)
    right = vectors_of(system)
    left = vectors_of(adjoint_of(system)).vectors[:, ::-1]
    if not jnp.iscomplexobj(a):
        right, left = conjugates(system, right), _real_or_paired(system.values, left)
    right = times_real(right.vectors, scale[:, None])
    left = times_real(left, 1 / scale[:, None])
    out = times_real(system.values, size), _unit_columns(left), _unit_columns(right)
    values, left, right = _results(out, finite & found.converged)
    return values, left, right


def _prepared(a: Inexact[Array, "b n n"]):
    """`D⁻¹ A D / s` with the batch axis last, s, D, and whether A is finite."""
    a = jnp.moveaxis(a, 0, -1)
    largest = jnp.max(largest_part(a), axis=(0, 1), initial=0)
    finite = jnp.isfinite(largest)
    size = power_of_two(jnp.where(finite, largest, 1))
    a, scale = balanced(jnp.where(finite, times_real(a, 1 / size), 0))
    return a, size, scale, finite


def _results(out: tuple[Complex[Array, "*n b"], ...], there: Bool[Array, " b"]):
    """With the batch axis first; NaN for members that are not `there`."""
    nan = jnp.asarray(complex(jnp.nan, jnp.nan), out[0].dtype)
    return tuple(jnp.moveaxis(jnp.where(there, x, nan), -1, 0) for x in out)


def _real_or_paired(
    values: Complex[Array, "n b"], vectors: Complex[Array, "n n b"]
) -> Complex[Array, "n n b"]:
    """Vectors of a real matrix: real ones for real eigenvalues, and conjugate ones for
    pairs. Both parts of a vector are eigenvectors; one may be only rounding."""
    real, second = values.imag == 0, values.imag < 0
    imag = jnp.sum(vectors.real**2, axis=0) < jnp.sum(vectors.imag**2, axis=0)
    part = jnp.where(imag, vectors.imag, vectors.real)
    vectors = jnp.where(real, jax.lax.complex(part, jnp.zeros_like(part)), vectors)
    return jnp.where(second, jnp.roll(vectors, 1, axis=1).conj(), vectors)


def _unit_columns(x: Complex[Array, "n n b"]) -> Complex[Array, "n n b"]:
    largest = jnp.max(largest_part(x), axis=0)
    x = times_real(x, 1 / jnp.where(largest > 0, largest, 1))
    return times_real(x, 1 / jnp.sqrt(jnp.sum(square(x), axis=0)))


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
