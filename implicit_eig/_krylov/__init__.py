"""Krylov–Schur: Arnoldi with thick restarts (Stewart 2001), in real arithmetic for real
operators, wholly inside one `while_loop`.

Upward: `basis` (vectors, and what is done with many of them), `arnoldi` (the
factorisation: grown by a step, cut at a restart), `schur` (the eigenpairs of a small
matrix), `ritz` (what is known of the spectrum), `driver` (restarts until all is found).
No eigensolver is here, so that the adjoint solver can stand on the same code.
"""

from .arnoldi import (
    KrylovDecomposition as KrylovDecomposition,
    orthogonalise as orthogonalise,
    place as place,
)
from .basis import (
    combination as combination,
    combinations as combinations,
    default_start as default_start,
    from_rows as from_rows,
    norm_estimate as norm_estimate,
    start_vector as start_vector,
    to_rows as to_rows,
)
from .driver import (
    krylov_schur as krylov_schur,
    KrylovResult as KrylovResult,
    Search as Search,
)
from .ritz import leading as leading, nearest_outside as nearest_outside
from .schur import schur_basis as schur_basis
