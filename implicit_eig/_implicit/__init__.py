"""The rule: tangents of the block (X, L)."""

from .adjoint import (
    ImplicitAdjoint as ImplicitAdjoint,
    SylvesterSolve as SylvesterSolve,
)
from .bordered import separation as separation, solve_bordered as solve_bordered
from .rule import block_root as block_root
