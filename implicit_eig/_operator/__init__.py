"""What the user gives becomes one lineax operator."""

from .coerce import (
    as_matrix as as_matrix,
    as_operator as as_operator,
    as_pencil as as_pencil,
)
from .counting import CountingOperator as CountingOperator
from .entries import entries as entries, together as together
from .pencil import complex_dtype as complex_dtype, Domain as Domain, Pencil as Pencil
from .sparse import SparseOperator as SparseOperator
from .structure import promises_nothing as promises_nothing
