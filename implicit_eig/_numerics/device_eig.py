"""Eigenpairs of general matrices, found where the program runs: by LAPACK on CPUs, and by
a QR iteration in XLA on accelerators, where JAX would ask the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import PartitionSpec
from jaxtyping import Array, Complex, Inexact

from .._kernels import option
from .batched_eig import Finder, in_step, kernel_for, pairs_from_both_sides


# On accelerators, the host is asked beyond it.
LARGEST = 64


def device_eig(
    a: Inexact[Array, "*batch n n"],
) -> tuple[Complex[Array, "*batch n"], Complex[Array, "*batch n n"]]:
    """All eigenvalues and their vectors, unit columns. The order is arbitrary, except
    that conjugate pairs of real matrices stand side by side, the one with positive
    imaginary part first. Has no derivatives.

    With `IMPLICIT_EIG_KERNELS=off` JAX's own `eig` is taken on accelerators too.
    """
    values, vectors = _eig_p.bind(a, left=False, find=_finder(a.shape[-1]))
    return values, vectors


def device_eig_from_both_sides(
    a: Inexact[Array, "*batch n n"],
) -> tuple[
    Complex[Array, "*batch n"], Complex[Array, "*batch n n"], Complex[Array, "*batch n n"]
]:
    """The same with left vectors, before the right ones."""
    values, left, right = _eig_p.bind(a, left=True, find=_finder(a.shape[-1]))
    return values, left, right


def _finder(n: int) -> Finder | None:
    """The QR iteration that accelerators take, unless they take JAX's `eig`."""
    if n > LARGEST or option() == "off":
        return None
    return kernel_for(n) or in_step


def _by_jax(a: Array, *, left: bool, find: Finder | None) -> list[Array]:
    del find
    return list(jax.lax.linalg.eig(a, compute_left_eigenvectors=left))


def _by_qr(a: Array, *, left: bool, find: Finder | None) -> list[Array]:
    if find is None:
        return _by_jax(a, left=left, find=None)
    n = a.shape[-1]
    # A program is lowered without the settings under which it was traced.
    with jax.numpy_rank_promotion("allow"):
        values, *vectors = pairs_from_both_sides(find, a.reshape(-1, n, n))
    out = [values, *vectors] if left else [values, vectors[-1]]
    return [x.reshape(*a.shape[:-2], *x.shape[1:]) for x in out]


_eig_p = Primitive("implicit_eig_device_eig")
_eig_p.multiple_results = True


@functools.partial(jax.jit, static_argnames=("left", "find"))
def _compiled(a: Array, *, left: bool, find: Finder | None) -> list[Array]:
    return _eig_p.bind(a, left=left, find=find)


def _impl(a: Array, *, left: bool, find: Finder | None) -> list[Array]:
    # It has to be compiled: only a lowering knows the platform.
    with jax.disable_jit(False):
        return _compiled(a, left=left, find=find)


def _abstract(a, *, left: bool, find: Finder | None):
    del find
    # What else is known of A, such as the axes of a `shard_map`, is known of them.
    vectors = a.update(dtype=np.result_type(a.dtype, np.complex64), weak_type=False)
    spec = PartitionSpec(*a.sharding.spec[:-1])
    sharding = a.sharding.update(spec=spec)
    values = vectors.update(shape=a.shape[:-1], sharding=sharding)
    return [values, *[vectors] * (2 if left else 1)]


def _batch(args, axes, *, left: bool, find: Finder | None):
    out = _eig_p.bind(jnp.moveaxis(args[0], axes[0], 0), left=left, find=find)
    return out, [0] * len(out)


_eig_p.def_impl(_impl)
_eig_p.def_abstract_eval(_abstract)
_on_accelerators = mlir.lower_fun(_by_qr, multiple_results=True)
_on_cpus = mlir.lower_fun(_by_jax, multiple_results=True)
mlir.register_lowering(_eig_p, _on_accelerators)
mlir.register_lowering(_eig_p, _on_cpus, platform="cpu")
batching.primitive_batchers[_eig_p] = _batch
