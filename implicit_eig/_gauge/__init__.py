"""The scale of an eigenvector, applied last; and a guard in case nobody chose one."""

from .gauge import (
    AbstractGauge as AbstractGauge,
    as_gauge as as_gauge,
    Bilinear as Bilinear,
    DefaultGauge as DefaultGauge,
    Functional as Functional,
    Gauge as Gauge,
    Lapack as Lapack,
    largest as largest,
    LargestReal as LargestReal,
    phase as phase,
    UnitNorm as UnitNorm,
    vanishing as vanishing,
)
from .guard import (
    GaugeDependenceWarning as GaugeDependenceWarning,
    relative_dependence as relative_dependence,
    tolerance as tolerance,
    Vectors as Vectors,
    watched_phases as watched_phases,
    without_gauge as without_gauge,
)
