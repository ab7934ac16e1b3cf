"""Finds the block (X, L) of the selected pairs. No derivatives."""

from .base import (
    AbstractEigensolver as AbstractEigensolver,
    biorthogonal as biorthogonal,
    combine as combine,
    InvariantBlock as InvariantBlock,
    of_moderate_size as of_moderate_size,
    pair_residuals as pair_residuals,
    times_real as times_real,
)
from .dense import Dense as Dense
from .krylov_schur import KrylovSchur as KrylovSchur
