"""Which eigenvalues are wanted, and of which operator: A, B⁻¹A or (A − σB)⁻¹B."""

from .inverse import (
    default_linear_solver as default_linear_solver,
    factorises as factorises,
    Inverse as Inverse,
    shift_dtype as shift_dtype,
    ShiftedPencil as ShiftedPencil,
)
from .order import order as order, surely_worse as surely_worse
from .transformation import (
    AbstractTransformation as AbstractTransformation,
    Direct as Direct,
    MassInverted as MassInverted,
    ShiftInverted as ShiftInverted,
)
from .which import (
    AbstractSelection as AbstractSelection,
    as_selection as as_selection,
    as_shift as as_shift,
    BothEnds as BothEnds,
    check_direction as check_direction,
    check_vector as check_vector,
    HermitianWhich as HermitianWhich,
    Known as Known,
    Named as Named,
    Nearest as Nearest,
    Overlap as Overlap,
    rescaled_shift as rescaled_shift,
    Shifted as Shifted,
    Which as Which,
)
