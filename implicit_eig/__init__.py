"""Differentiable eigenpairs of any linear operator, by implicit differentiation."""

from . import plot as plot
from ._attach import attach as attach
from ._costs import (
    damping_ratio as damping_ratio,
    spectral_abscissa as spectral_abscissa,
    spectral_radius as spectral_radius,
)
from ._diagnose import diagnose as diagnose, Diagnostics as Diagnostics
from ._eig import eig as eig, EigResult as EigResult, eigvals as eigvals
from ._eigensolver import (
    AbstractEigensolver as AbstractEigensolver,
    Arpack as Arpack,
    Dense as Dense,
    InvariantBlock as InvariantBlock,
    KrylovSchur as KrylovSchur,
    ShiftInvert as ShiftInvert,
)
from ._eigh import eigh as eigh, EighResult as EighResult
from ._eigs import eigs as eigs
from ._eigsh import eigsh as eigsh
from ._follow import follow as follow
from ._funm import funm as funm, spectral_projector as spectral_projector
from ._gauge import (
    AbstractGauge as AbstractGauge,
    Bilinear as Bilinear,
    Functional as Functional,
    GaugeDependenceWarning as GaugeDependenceWarning,
    Lapack as Lapack,
    LargestReal as LargestReal,
    UnitNorm as UnitNorm,
)
from ._gauge_invariance import (
    check_gauge_invariance as check_gauge_invariance,
    GaugeReport as GaugeReport,
)
from ._invariant_subspace import invariant_subspace as invariant_subspace
from ._linear_solver import JaxoptSolver as JaxoptSolver, KLU as KLU, SparseLU as SparseLU
from ._nonlinear import (
    AbstractRegion as AbstractRegion,
    Contour as Contour,
    Disk as Disk,
    Ellipse as Ellipse,
    Inside as Inside,
    Newton as Newton,
    Rectangle as Rectangle,
)
from ._nonlinear_eigs import nonlinear_eigs as nonlinear_eigs
from ._operator import (
    CountingOperator as CountingOperator,
    entries as entries,
    SparseOperator as SparseOperator,
)
from ._polyeig import polyeig as polyeig
from ._progress_meter import (
    AbstractProgressMeter as AbstractProgressMeter,
    NoProgressMeter as NoProgressMeter,
    RecordingProgressMeter as RecordingProgressMeter,
    TextProgressMeter as TextProgressMeter,
    TqdmProgressMeter as TqdmProgressMeter,
)
from ._residual import eigenpair_residual as eigenpair_residual
from ._rule import ImplicitAdjoint as ImplicitAdjoint
from ._show_config import show_config as show_config
from ._solution import RESULTS as RESULTS, Solution as Solution
from ._spectral import (
    AbstractSelection as AbstractSelection,
    Nearest as Nearest,
    Overlap as Overlap,
)
from ._subspace import Subspace as Subspace
from ._sylvester import (
    AbstractSylvesterSolver as AbstractSylvesterSolver,
    DeflatedGMRES as DeflatedGMRES,
    KrylovSylvester as KrylovSylvester,
    ProjectedSylvester as ProjectedSylvester,
)


__version__ = "0.1.0"
