"""The rule: tangents of the block (X, L)."""

from .adjoint import (
    ImplicitAdjoint as ImplicitAdjoint,
    SylvesterSolve as SylvesterSolve,
)
from .bordered import (
    left_vector as left_vector,
    separation as separation,
    solve_bordered as solve_bordered,
)
from .rule import block_root as block_root
