"""Finds the block (X, L) of the selected pairs. No derivatives."""

from .arpack import Arpack as Arpack
from .base import AbstractEigensolver as AbstractEigensolver
from .block import (
    InvariantBlock as InvariantBlock,
    nonfinite as nonfinite,
    Spectrum as Spectrum,
    without as without,
)
from .dense import Dense as Dense, is_linear as is_linear
from .krylov_schur import KrylovSchur as KrylovSchur
from .rayleigh_ritz import combine as combine
from .shift_invert import ShiftInvert as ShiftInvert
