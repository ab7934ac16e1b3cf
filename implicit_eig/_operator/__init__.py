"""Turns what the user passes into one lineax operator."""

from .._numerics import times_real as times_real
from .coerce import (
    as_matrix as as_matrix,
    as_operator as as_operator,
    as_pencil as as_pencil,
    check_axes as check_axes,
)
from .counting import CountingOperator as CountingOperator
from .entries import entries as entries, together as together
from .pencil import complex_dtype as complex_dtype, Domain as Domain, Pencil as Pencil
from .scaling import (
    entries_of_matrix as entries_of_matrix,
    of_moderate_size as of_moderate_size,
    of_norm_one as of_norm_one,
    pencil_of_moderate_size as pencil_of_moderate_size,
    safe_norm as safe_norm,
    Scaling as Scaling,
    uneven as uneven,
    without_denormals as without_denormals,
)
from .sparse import SparseOperator as SparseOperator
from .structure import promises_nothing as promises_nothing
