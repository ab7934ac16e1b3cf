"""Problems T(λ) v = 0, T holomorphic in λ: solvers for their pairs, and the rule."""

from .companion import polynomial_operator as polynomial_operator
from .contour import Contour as Contour
from .given import as_nonlinear as as_nonlinear
from .left import duals as duals, left_of as left_of
from .newton import Newton as Newton
from .operator import NonlinearOperator as NonlinearOperator
from .region import (
    AbstractRegion as AbstractRegion,
    Disk as Disk,
    Ellipse as Ellipse,
    Inside as Inside,
    Rectangle as Rectangle,
)
from .rule import (
    no_transpose as no_transpose,
    nonlinear_root as nonlinear_root,
    solver_at as solver_at,
)
