"""Eigenpairs of general matrices, found where the program runs: by LAPACK on CPUs, and on
accelerators by a QR iteration in XLA, for which JAX would ask the host."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Complex, Inexact

from .batched_eig import eig_by_qr
from .scaling import times_real


# Beyond it the launches of the QR iteration take longer than the way to the host.
LARGEST = 64


class Eig(NamedTuple):
    values: Complex[Array, "*batch n"]
    left: Complex[Array, "*batch n n"] | None  # unit columns, like those of `right`
    right: Complex[Array, "*batch n n"]


def device_eig(a: Inexact[Array, "*batch n n"], *, left: bool = False) -> Eig:
    """All eigenpairs, left ones too if asked for. No order can be relied on but that
    conjugate pairs of real matrices stand side by side, the one with positive imaginary
    part first. Has no derivatives."""
    values, *vectors = _eig_p.bind(a, left=left)
    return Eig(values, *vectors) if left else Eig(values, None, *vectors)


def _by_lapack(a: Array, *, left: bool) -> list[Array]:
    return list(jax.lax.linalg.eig(a, compute_left_eigenvectors=left))


def _on_accelerators(a: Array, *, left: bool) -> list[Array]:
    if a.shape[-1] > LARGEST:
        return _by_lapack(a, left=left)
    values, vectors, duals = eig_by_qr(a)
    if not left:
        return [values, vectors]
    dual = duals.conj().swapaxes(-1, -2)
    left_vectors = times_real(dual, 1 / jnp.linalg.norm(dual, axis=-2, keepdims=True))
    return [values, left_vectors, vectors]


_eig_p = Primitive("implicit_eig_device_eig")
_eig_p.multiple_results = True


@functools.partial(jax.jit, static_argnames="left")
def _impl(a: Array, *, left: bool) -> list[Array]:
    return _eig_p.bind(a, left=left)


def _abstract(a, *, left: bool):
    dtype = np.result_type(a.dtype, np.complex64)
    vectors = jax.core.ShapedArray(a.shape, dtype)
    return [jax.core.ShapedArray(a.shape[:-1], dtype), *[vectors] * (2 if left else 1)]


def _batch(args, axes, *, left: bool):
    out = _eig_p.bind(jnp.moveaxis(args[0], axes[0], 0), left=left)
    return out, [0] * len(out)


_eig_p.def_impl(_impl)
_eig_p.def_abstract_eval(_abstract)
mlir.register_lowering(_eig_p, mlir.lower_fun(_on_accelerators, multiple_results=True))
mlir.register_lowering(
    _eig_p, mlir.lower_fun(_by_lapack, multiple_results=True), platform="cpu"
)
batching.primitive_batchers[_eig_p] = _batch
