"""SciPy's SuperLU: chooses ordering, pivots and scales, and checks the accuracy. NumPy
arrays in, NumPy arrays out."""

import numpy as np


# Pivots on the diagonal are accepted down to this fraction of the largest: on meshes,
# grids, graphs and generators, symmetric or not and however numbered, they keep the fill
# of minimum degree, the least there is. The loss of accuracy is checked, and repaired by
# a step of refinement.
_DIAGONAL_PIVOT = 1e-3
_ACCURATE = 16  # units of rounding
ORDERINGS = "colamd", "mmd", "natural"


class Factor:
    """P R A C Q = L U, with scales R and C; `refined`: solves are refined once."""

    def __init__(self, lu, matrix, rows, columns, refined: bool = False):
        self.lu, self.rows, self.columns = lu, rows[:, None], columns[:, None]
        self.matrix = matrix if refined else None  # R A C
        self.size = lu.nnz + (matrix.nnz if refined else 0)
        self.size *= matrix.data.itemsize + matrix.indices.itemsize

    def solve(self, b: np.ndarray, trans: str) -> np.ndarray:
        left, right = self.rows, self.columns
        if trans == "T":
            left, right = right, left
        return right * self.solve_scaled(left * b, trans)

    def solve_scaled(self, b: np.ndarray, trans: str = "N") -> np.ndarray:
        b = np.asfortranarray(b)
        x = self.lu.solve(b, trans)
        if self.matrix is not None:
            matrix = self.matrix.T if trans == "T" else self.matrix
            x += self.lu.solve(np.asfortranarray(b - matrix @ x), trans)
        return x


def factorise(
    values, rows, columns, n: int, ordering: str | None = None
) -> Factor | None:
    """The factor, or `None` for a matrix that is singular or not finite."""
    import scipy.sparse as sp

    if not np.isfinite(values).all():
        return None
    matrix = sp.csc_array((values, (rows, columns)), shape=(n, n))
    matrix.eliminate_zeros()
    scales = _equilibrate(matrix)
    if scales is None:
        return None
    hub = _has_a_hub(matrix)
    if ordering is None:
        # For saddle points and descriptor pencils, pivots leave the diagonal and COLAMD
        # fills less; but it uses AᵀA, in which each row through a hub is a dense block.
        small = np.abs(matrix.diagonal()) < _DIAGONAL_PIVOT
        ordering = "mmd" if hub or np.mean(small) < 0.05 else "colamd"
    if ordering == "mmd":
        lu = _superlu(matrix, "MMD_AT_PLUS_A", diag_pivot_thresh=_DIAGONAL_PIVOT)
        for refined in () if lu is None else (False, True):
            factor = Factor(lu, matrix, *scales, refined)
            if _backward_error(factor, matrix) < _ACCURATE * np.finfo(matrix.dtype).eps:
                return factor
        ordering = "mmd_at_plus_a" if hub else "colamd"
    lu = _superlu(matrix, ordering.upper())
    return None if lu is None else Factor(lu, matrix, *scales)


def _superlu(matrix, permutation: str, **options):
    """Factorises without relaxed supernodes, whose padding is most of the factor if
    columns are in no order. Avoids SuperLU's symmetric mode, which crashes on zeros on
    the diagonal."""
    from scipy.sparse.linalg import splu

    try:
        return splu(matrix, permc_spec=permutation, relax=1, **options)
    except RuntimeError as error:
        if "singular" in str(error):
            return None
        raise


def _equilibrate(matrix) -> tuple[np.ndarray, np.ndarray] | None:
    """Scales rows and columns in place, by powers of two: first so that the logarithms of
    all entries are near zero in the mean (Curtis and Reid 1972), which finds the units of
    rows and columns; then so that the largest entry of each is about 1. `None` if a row
    or a column is empty."""
    size = np.maximum(np.abs(matrix.data.real), np.abs(matrix.data.imag))
    i, starts, counts = matrix.indices, matrix.indptr[:-1], np.diff(matrix.indptr)
    in_row = np.bincount(i, minlength=matrix.shape[0])
    if not (counts.all() and in_row.all()):
        return None
    size, exponent = np.frexp(size)
    rows = columns = np.zeros(counts.size)
    for _ in range(_SWEEPS if np.ptp(exponent) > _EVEN else 0):
        rows = -np.bincount(i, exponent + np.repeat(columns, counts)) / in_row
        columns = -np.add.reduceat(exponent + rows[i], starts) / counts
    rows, columns = (np.rint(x).astype(np.int32) for x in (rows, columns))
    exponent += rows[i] + np.repeat(columns, counts)
    # Of the dtype of the exponents: `at` is forty times slower if it has to convert.
    largest = np.full(counts.size, np.iinfo(np.int32).min, exponent.dtype)
    np.maximum.at(largest, i, exponent)
    rows, exponent = rows - largest, exponent - largest[i]
    largest = np.maximum.reduceat(exponent, starts)
    columns, exponent = columns - largest, exponent - np.repeat(largest, counts)
    # Clipped to the powers that the dtype has.
    most = np.finfo(size.dtype).maxexp - 2
    rows, columns = (
        np.ldexp(np.ones(1, size.dtype), np.clip(x, -most, most)) for x in (rows, columns)
    )
    matrix.data = matrix.data * rows[i] * np.repeat(columns, counts)
    return rows, columns


_SWEEPS = 5
_EVEN = 8  # powers of two between entries that were given in one unit


def _has_a_hub(matrix) -> bool:
    longest = max(np.diff(matrix.indptr).max(), np.bincount(matrix.indices).max())
    return longest > 2 * matrix.shape[0] ** 0.5


def _backward_error(factor: Factor, matrix) -> float:
    """The backward error of two solves: a random solution, and a random right side."""
    random = np.random.default_rng(0).normal(size=(matrix.shape[0], 2))
    b = random.astype(matrix.dtype)
    b[:, 0] = matrix @ b[:, 0]
    with np.errstate(all="ignore"):
        x = factor.solve_scaled(b)
        residual = np.abs(matrix @ x - b).max(axis=0)
        norm = np.bincount(matrix.indices, np.abs(matrix.data)).max()
        size = norm * np.abs(x).max(axis=0) + np.abs(b).max(axis=0)
        return (residual / size).max()
