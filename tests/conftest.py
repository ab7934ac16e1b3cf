"""64-bit and strict dtype promotion: a silent cast inside the package is an error."""

import importlib.metadata
import os
import pathlib
import tempfile


# Tests compile much and compute little. Read when JAX is first imported. A version that does
# not know a flag refuses to start, so the others are for those that were tried.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0"
    + (
        " --xla_cpu_use_fusion_emitters=false"
        " --xla_cpu_parallel_codegen_split_count=1"
        " --xla_llvm_disable_expensive_passes=true"
    )
    * importlib.metadata.version("jaxlib").startswith(("0.9.", "0.10."))
)

# Workers share what they compile, and so do one run and the next one on this machine. (JAX
# itself keeps apart what other versions, flags and processors compiled.)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(tempfile.gettempdir(), f"implicit_eig-programs-{os.getuid()}")),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_configure(config):
    # Raw Jacobians of vectors are what many tests are about, and depend on the phase.
    # Not in pyproject.toml: the category is imported, and JAX before the flags above.
    ignored = "ignore::implicit_eig.GaugeDependenceWarning"
    config.addinivalue_line("filterwarnings", ignored)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiled programs are kept for ever otherwise, and the run's memory grows."""
    yield
    jax.clear_caches()
