"""Kernels of our own for CPUs, in C++: operations that XLA does not have.

They are optional. `build.py` compiles `kernels.cc` and `restart.cc` if there is a
compiler, `library` finds what was built, and a function marked by `kernel` becomes the
custom call where possible, and its own JAX code everywhere else. Imports nothing from the
package.
"""

from .kernel import kernel as kernel
from .library import option as option, reason_against as reason_against
