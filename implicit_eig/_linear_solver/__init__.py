"""Linear solvers for lineax: sparse factorisations, and jaxopt's methods."""

from .jaxopt import JaxoptSolver as JaxoptSolver
from .klu import KLU as KLU
from .sparse_lu import SparseLU as SparseLU
