"""Kernels of our own for CPUs, in C++: what XLA has no operation for.

They are optional. `build.py` compiles `kernels.cc` and `restart.cc` where there is a
compiler, `library` finds what was built, and a function marked by `kernel` is the custom
call where that may be, and its own JAX code everywhere else. Nothing of the package is
imported from here.
"""

from .kernel import kernel as kernel
from .library import option as option, reason_against as reason_against
