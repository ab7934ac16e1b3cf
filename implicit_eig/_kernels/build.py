"""Compiles the kernels: `python implicit_eig/_kernels/build.py`, or the build of a wheel.

Uses only the standard library, not the package, which is not installed yet.
"""

import functools
import hashlib
import importlib.util
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig


HERE = pathlib.Path(__file__).parent
SOURCES = [HERE / name for name in ("kernels.cc", "restart.cc")]
_HEADER = HERE / "handlers.h"
LIBRARY = "libkernels.so"  # loaded by its path, so the ending is free
# Sums may be reordered where the source says so, and nothing else may.
FLAGS = [
    *("-std=c++17", "-O3", "-funroll-loops", "-fopenmp-simd"),
    *("-fPIC", "-fvisibility=hidden", "-shared"),
]


class NotBuilt(Exception):
    """Why there are no kernels."""


@functools.cache
def source_hash() -> str:
    everything = b"".join(file.read_bytes() for file in [_HEADER, *SOURCES])
    return hashlib.sha256(everything).hexdigest()[:16]


def build(folder: pathlib.Path = HERE) -> pathlib.Path:
    """The library, compiled into `folder`."""
    # The compiler first: without one, a build does not install jaxlib for its headers.
    compile_it = [*compiler(), *FLAGS]
    library = folder / LIBRARY
    unfinished = library.with_name(f"{LIBRARY}.{os.getpid()}")
    sources = [str(file) for file in SOURCES]
    places = [f"-isystem{headers()}", *sources, "-o", str(unfinished)]
    name = f'-DIMPLICIT_EIG_SOURCE="{source_hash()}"'
    # Not every compiler and C library can select a function by processor.
    for variant in [], ["-DIMPLICIT_EIG_PLAIN"]:
        command = [*compile_it, name, *variant, *places]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            unfinished.replace(library)  # atomic: nobody can load half a library
            return library
    unfinished.unlink(missing_ok=True)
    raise NotBuilt(f"`{shlex.join(command)}` failed:\n{done.stderr.strip()}")


def compiler() -> list[str]:
    """The C++ compiler of `CXX`, or the first one found."""
    if os.environ.get("IMPLICIT_EIG_KERNELS") == "off":
        raise NotBuilt("IMPLICIT_EIG_KERNELS=off")
    if sys.platform == "win32":
        raise NotBuilt("kernels are built on Linux and macOS only")
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        words = shlex.split(name)
        if shutil.which(words[0]):
            return words
    raise NotBuilt(f"no C++ compiler: {named or 'c++, g++, clang++'} not found")


def headers() -> pathlib.Path:
    """The headers for XLA custom calls, which jaxlib includes."""
    found = importlib.util.find_spec("jaxlib")
    if found is None or found.origin is None:
        raise NotBuilt("jaxlib, which has the headers, is not installed")
    folder = pathlib.Path(found.origin).parent / "include"
    if not (folder / "xla" / "ffi" / "api" / "ffi.h").is_file():
        raise NotBuilt(f"no headers of XLA's calls in {folder}")
    return folder


def platform_tag() -> str:
    """The tag of a wheel with this library, which does not call Python."""
    # On a Mac, a Python for both processors does not make the compiler target both.
    where = sysconfig.get_platform().replace("universal2", platform.machine())
    return f"py3-none-{where.replace('-', '_').replace('.', '_')}"


if __name__ == "__main__":
    try:
        print(build())
    except NotBuilt as reason:
        sys.exit(f"No kernels; everything works without them. {reason}")
