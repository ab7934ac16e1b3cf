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
    finds_hermitian_pairs as finds_hermitian_pairs,
    hermitian_block as hermitian_block,
)
