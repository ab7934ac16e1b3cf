"""Which operator's Krylov spaces are built: A, B⁻¹A or (A − σB)⁻¹B."""

from .inverse import (
    default_linear_solver as default_linear_solver,
    factorises as factorises,
    Inverse as Inverse,
    shift_dtype as shift_dtype,
    ShiftedPencil as ShiftedPencil,
)
from .klu import KLU as KLU
from .sparse_lu import SparseLU as SparseLU
from .transformation import (
    AbstractTransformation as AbstractTransformation,
    Direct as Direct,
    MassInverted as MassInverted,
    ShiftInverted as ShiftInverted,
)
