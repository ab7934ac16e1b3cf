"""Krylov–Schur: Arnoldi with thick restarts (Stewart 2001), in real arithmetic for real
operators, wholly inside one `while_loop`.

Upward: `basis` (vectors, and what is done with many of them), `arnoldi` (the
factorisation: grown by a step, cut at a restart), `ritz` (what it knows of the
spectrum), `driver` (restarts until all is found). No eigensolver is here, so that the
adjoint solver can stand on the same code.
"""

from .arnoldi import KrylovDecomposition as KrylovDecomposition
from .basis import (
    default_start as default_start,
    norm_estimate as norm_estimate,
    random_pair as random_pair,
    start_vector as start_vector,
)
from .driver import (
    krylov_schur as krylov_schur,
    KrylovResult as KrylovResult,
    Search as Search,
)
from .ritz import (
    leading as leading,
    nearest_outside as nearest_outside,
    schur_basis as schur_basis,
)
