"""Finds the block (X, L) of the selected pairs. No derivatives."""

from .base import (
    AbstractEigensolver as AbstractEigensolver,
    biorthogonal as biorthogonal,
    combine as combine,
    InvariantBlock as InvariantBlock,
    pair_residuals as pair_residuals,
)
from .dense import Dense as Dense
from .krylov_schur import KrylovSchur as KrylovSchur
