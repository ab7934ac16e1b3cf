"""Who solves the bordered systems."""

from .columnwise import Columnwise as Columnwise
from .krylov_sylvester import KrylovSylvester as KrylovSylvester
from .system import (
    AbstractSylvesterSolver as AbstractSylvesterSolver,
    ProjectedSylvester as ProjectedSylvester,
)
