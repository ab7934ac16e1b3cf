"""Information with which a bug report should begin."""

import importlib.metadata
import platform

import jax

from ._kernels import option, reason_against


_PACKAGES = "jax", "jaxlib", "lineax", "equinox", "numpy", "scipy"


def show_config() -> None:
    """Prints versions, devices, and whether programs get kernels for CPUs, or why not.

    The kernels are optional: without them everything is computed by XLA, with the same
    results to rounding. The environment variable `IMPLICIT_EIG_KERNELS` switches them
    "off", or makes it an error if they cannot be used ("on"; on a GPU it switches on a
    kernel for small matrices). It is read whenever a program is traced. The page "Kernels
    of our own" says more.

    ```python
    import implicit_eig as ieig

    ieig.show_config()
    ```
    """
    print(f"implicit_eig {_version('implicit_eig')}")
    print(f"python       {platform.python_version()} on {platform.platform()}")
    for name in _PACKAGES:
        print(f"{name:12} {_version(name)}")
    devices = [f"{d.platform}:{d.id}" for d in jax.devices()]
    print(f"devices      {', '.join(devices)}")
    print(f"64 bits      {'yes' if jax.config.jax_enable_x64 else 'no'}")  # pyright: ignore[reportAttributeAccessIssue]
    reason = reason_against()
    kernels = "yes" if reason is None else f"no: {reason}"
    if option() == "on" and jax.default_backend() == "gpu":
        kernels = "that for small matrices on GPUs"
    print(f"kernels      {kernels}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
