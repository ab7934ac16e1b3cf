"""Solvers of the bordered Sylvester systems."""

from .columnwise import Columnwise as Columnwise
from .deflated_gmres import DeflatedGMRES as DeflatedGMRES
from .eigenbasis import Eigenbasis as Eigenbasis
from .krylov_sylvester import KrylovSylvester as KrylovSylvester
from .probed import Probed as Probed
from .system import (
    AbstractSylvesterSolver as AbstractSylvesterSolver,
    ProjectedSylvester as ProjectedSylvester,
)
