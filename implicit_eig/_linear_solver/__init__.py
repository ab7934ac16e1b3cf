"""Who solves the bordered systems."""

from .columnwise import Columnwise as Columnwise
from .deflated_gmres import DeflatedGMRES as DeflatedGMRES
from .eigenbasis import Eigenbasis as Eigenbasis
from .jaxopt import JaxoptSolver as JaxoptSolver
from .krylov_sylvester import KrylovSylvester as KrylovSylvester
from .system import (
    AbstractSylvesterSolver as AbstractSylvesterSolver,
    ProjectedSylvester as ProjectedSylvester,
)
