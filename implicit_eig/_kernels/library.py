"""Finds the compiled library, checks that it is of this source, and registers it."""

import ctypes
import functools
import os

import jax

from . import build


OPTION = "IMPLICIT_EIG_KERNELS"
# The handlers of `kernels.cc` and `restart.cc`.
_NAMES = "orthogonalise", "project", "rotate", "schur", "reorder"


def option() -> str:
    """What the user wants: "auto", "off", or "on". On CPUs "on" makes it an error if
    kernels cannot be used; on accelerators it switches on a kernel that no GPU
    has run yet, and "off" leaves small eigenproblems to JAX."""
    wanted = os.environ.get(OPTION) or "auto"
    if wanted not in ("auto", "off", "on"):
        raise ValueError(
            f"The environment variable {OPTION} must be auto, off or on; got {wanted!r}."
        )
    return wanted


def in_use() -> bool:
    """Whether a program traced now uses kernels."""
    reason = reason_against()
    if reason is not None and option() == "on" and jax.default_backend() == "cpu":
        raise RuntimeError(f"{OPTION}=on, but there are no kernels: {reason}.")
    return reason is None


def reason_against() -> str | None:
    """Why such a program has no kernels; None if it has."""
    return f"{OPTION}=off" if option() == "off" else _unusable_here() or load()


def _unusable_here() -> str | None:
    if jax.default_backend() != "cpu":
        return f"they are for CPUs, and JAX runs on {jax.default_backend()!r}"
    if jax.device_count() > 1:
        # XLA would gather a sharded array for a call it does not understand.
        return f"with {jax.device_count()} devices arrays may be sharded"
    return None


def target(name: str) -> str:
    """The name of a kernel for XLA. It depends on the source, since JAX keeps compiled
    programs on disk, which must not call kernels of another source."""
    return f"implicit_eig_{name}_{build.source_hash()[:8]}"


@functools.cache
def load() -> str | None:
    """Registers the kernels with XLA, once. Returns why that failed, or None."""
    path = build.HERE / build.LIBRARY
    if not path.is_file():
        return "not built (a C++ compiler is needed when the package is installed)"
    try:
        library = ctypes.CDLL(str(path))
        source = library.implicit_eig_source
        source.restype = ctypes.c_char_p
        if source().decode() != build.source_hash():
            return "built from another version of the package: install it again"
        library.implicit_eig_lapack(_lapack())
        for name in _NAMES:
            handler = jax.ffi.pycapsule(getattr(library, f"implicit_eig_{name}"))
            jax.ffi.register_ffi_target(target(name), handler, platform="cpu")
    except Exception as error:  # built for another processor or another jaxlib
        return f"not loaded ({error})"
    return None


def _lapack() -> ctypes.Array:
    """The functions of SciPy's LAPACK that `restart.cc` calls, in its order. JAX, which
    calls them too, brings SciPy along."""
    from scipy.linalg import cython_lapack  # pyright: ignore[reportAttributeAccessIssue]

    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = (
        ctypes.c_void_p,
        [ctypes.py_object, ctypes.c_char_p],
    )
    functions = []
    for dtype in "sdcz":
        for routine in ("gees", "trevc", "trexc"):
            capsule = cython_lapack.__pyx_capi__[dtype + routine]
            signature = name(capsule)
            if b" int *" not in signature:
                raise RuntimeError(f"SciPy's {dtype + routine} is {signature.decode()}")
            functions.append(pointer(capsule, signature))
    return (ctypes.c_void_p * len(functions))(*functions)
