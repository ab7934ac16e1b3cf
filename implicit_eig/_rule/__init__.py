"""The rule: tangents of the block (X, L), and of the pairs made from it."""

from .adjoint import ImplicitAdjoint as ImplicitAdjoint, SylvesterSolve as SylvesterSolve
from .bordered import (
    left_vector as left_vector,
    separation as separation,
    solve_bordered as solve_bordered,
)
from .pairs import (
    accuracy_of as accuracy_of,
    check_ties as check_ties,
    default_tie_rtol as default_tie_rtol,
    PairOptions as PairOptions,
    pairs_of_block as pairs_of_block,
    Ties as Ties,
)
from .rule import block_root as block_root, triangle as triangle
from .small_eig import (
    blur as blur,
    eigen_of_block as eigen_of_block,
    inverse_of_conjugates as inverse_of_conjugates,
    tied as tied,
)
from .symmetric import (
    symmetric_left as symmetric_left,
    tagged_symmetric as tagged_symmetric,
    untrue_tag as untrue_tag,
)
