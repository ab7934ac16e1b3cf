"""Hermitian and definite pencils: real eigenvalues, left vectors that are the right ones,
and eigenvalue derivatives without a solve."""

from .block import (
    asymmetric as asymmetric,
    hermitian_part as hermitian_part,
    HermitianBlock as HermitianBlock,
    without as without,
)
from .given import given_block as given_block
from .minres import MinresSolve as MinresSolve
from .pairs import (
    MassOrthonormal as MassOrthonormal,
    pairs_of_hermitian as pairs_of_hermitian,
    ties_of as ties_of,
)
from .rule import hermitian_root as hermitian_root
from .runs import (
    dense_block as dense_block,
    krylov_block as krylov_block,
    shift_invert_block as shift_invert_block,
)
