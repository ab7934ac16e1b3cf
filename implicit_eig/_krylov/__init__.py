"""Krylov–Schur: Arnoldi with thick restarts (Stewart 2001), in real arithmetic for real
operators, entirely inside one `while_loop`.

From the bottom up: `basis` (vectors, and operations on many of them), `arnoldi` (the
factorisation: extended step by step, truncated at a restart), `schur` (eigenpairs of a
small matrix), `ritz` (what is known about the spectrum), `confirmation` (searches for
what a run may have missed), `driver` (restarts until everything is found). There is no
eigensolver here, so that the adjoint solver can use the same code.
"""

from .arnoldi import (
    append_within as append_within,
    KrylovDecomposition as KrylovDecomposition,
)
from .basis import (
    combination as combination,
    combinations as combinations,
    default_start as default_start,
    from_rows as from_rows,
    norm_estimate as norm_estimate,
    random_pair as random_pair,
    start_vector as start_vector,
    to_rows as to_rows,
)
from .confirmation import Search as Search, steps_to_purify as steps_to_purify
from .driver import krylov_schur as krylov_schur, KrylovResult as KrylovResult
from .ritz import leading as leading, nearest_outside as nearest_outside
from .schur import schur_basis as schur_basis
