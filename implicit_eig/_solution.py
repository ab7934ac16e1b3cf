"""What comes back: result codes and the solution of an eigenvalue problem."""

import functools
import html
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array, Bool, Complex, Float, PyTree


class RESULTS(eqx.Enumeration):
    """Why a run ended. The text of each member is the sentence a user reads.

    `unconfirmed`, `defective`, `cut_tie` and `ambiguous` are notices, not failures: the
    pairs are right, and `throw=True` does not raise. Unconfirmed pairs may not be the
    best; defective ones have no derivatives, nor have those of a tie that is cut;
    ambiguous modes may have been confused. If several notices apply, `defective` has
    precedence, then `cut_tie`. Every other member except `successful` is a failure, and
    overrides them.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        s = ieig.eigs(a, k=1)
        assert s.result == ieig.RESULTS.successful
        print(ieig.RESULTS[s.result])
        ```
    """

    successful = "successful"
    not_converged = (
        "Fewer than `k` eigenpairs converged, or the run ended before it was seen that "
        "there are no better ones. The converged ones stand first in the "
        "solution; the others are the best approximations at hand and have no "
        "derivatives. Try a larger `krylov_dim`, more `max_restarts`, a looser `rtol`, "
        "or a target `sigma`."
    )
    nonfinite = (
        "NaN or inf was met: the operator, the mass matrix or the start vector `v0` "
        "contains or produces non-finite values, so no eigenpairs exist."
    )
    infinite = (
        "Fewer than `k` eigenvalues are finite: the mass matrix is singular. What stands "
        "after the finite ones has no derivatives."
    )
    singular = (
        "The pencil A − λB is singular, or the mass matrix B where it has to be "
        "inverted: no eigenvalues can be told. Take `sigma`, or another target."
    )
    not_linear = (
        "The operator or the mass matrix is a function that is not linear: what it does "
        "to a vector is not what its matrix does. A constant part, such as a boundary "
        "value, has no place in it."
    )
    region_overflow = (
        "There are more eigenvalues in the region than the `k` there is room for: "
        "`stats['num_inside']` tells how many. Take a larger `k`."
    )
    not_holomorphic = (
        "T is not holomorphic in λ: it moves along the imaginary axis otherwise than "
        "along the real one. Conjugates, absolute values and real parts of λ have no "
        "place in it."
    )
    not_hermitian = (
        "The operator or the mass matrix is not Hermitian: ⟨x, A y⟩ is not ⟨A x, y⟩. "
        "`eigs` takes it."
    )
    not_definite = "The mass matrix is not positive definite. `eigs` takes it."
    not_symmetric = (
        "The operator and the mass matrix are tagged symmetric (or are of a class that "
        "is), and one is not: xᵀ A y is not yᵀ A x. Leave `lineax.symmetric_tag` out."
    )
    extreme_size = (
        "Products with the operator or the mass matrix, or the eigenvalues, are so large "
        "or small that they, or their squares, over- or underflow. Scale the operator, "
        "or pass its entries (a matrix, or `SparseOperator`), which are scaled here, as "
        "far as they are no denormal numbers."
    )
    zero_start_vector = "The start vector `v0` is zero (or underflows to zero)."
    residual_too_large = (
        "The residual of an eigenpair is too large for it to be an eigenpair of this "
        "operator."
    )
    dependent = (
        "The eigenvectors given are linearly dependent, or so nearly that they do not "
        "determine the invariant subspace they span."
    )
    left_not_found = (
        "The left invariant subspace does not match the right one: the run on the "
        "adjoint operator missed its tolerance or found other eigenvalues, or an "
        "eigenvalue is defective to rounding."
    )
    cut = (
        "The selection cuts a conjugate pair of a real operator, or eigenvalues that are "
        "tied to rounding, in two: `k` of them make no invariant subspace of their own. "
        "Take a larger or a smaller `k`."
    )
    ill_conditioned = (
        "The invariant subspace is ill-conditioned: its separation from the rest of the "
        "spectrum is of the size of rounding errors, so no digit of it is known. Select "
        "the eigenvalues close to it as well."
    )
    defective = (
        "The pairs returned are eigenpairs, but one of the eigenvalues is defective, or "
        "cannot be told from a defective one: a change of the operator by its rounding "
        "merges it with another. Its derivatives, and those of its vector, do not exist "
        "and are NaN; all other pairs keep theirs. `invariant_subspace` has derivatives "
        "there, and double precision may tell apart what single does not."
    )
    cut_tie = (
        "The pairs returned are eigenpairs, but a selected eigenvalue cannot be told "
        "from one that is not selected: which of the two is here, and in which mixture "
        "of their vectors, is arbitrary. Its derivatives, and those of its vector, do "
        "not exist and are NaN (unless `ties='drop'`); all other pairs keep theirs. Take "
        "a larger or a smaller `k`; then sums over the tie have derivatives, and "
        "`invariant_subspace` has them for the whole."
    )
    unconfirmed = (
        "The `k` pairs returned are eigenpairs, and no better ones turned up; but "
        "products with the operator alone cannot show that there are none. The "
        "selection asks for more than the rim of the spectrum, or `krylov_dim` is below "
        "its default. `Dense()` sees the whole spectrum."
    )
    ambiguous = (
        "The pairs of this step are eigenpairs, but by overlaps alone it is not certain "
        "which mode of the step before goes on as which: two of them mix, or a conjugate "
        "pair turned real. Take smaller steps; where modes mix, follow the cluster by "
        "`invariant_subspace`."
    )


RESULTS.__module__ = "implicit_eig"  # shown when a result is printed


class Solution(eqx.Module):
    """The selected eigenpairs of `A v = λ B v`.

    **Attributes:**

    - `eigenvalues`: shape `(k,)`, best first as ranked by `which`.
    - `eigenvectors`: shape `(n, k)`; for an operator on a pytree, that structure with a
        trailing axis `k`. Columns are vectors, in the chosen gauge.
    - `left_eigenvectors`: the same shape, or `None`. `uᴴ A = λ uᴴ B`, `uᴴ B v = 1`.
    - `residuals`: shape `(k,)`, backward errors `‖Av − λBv‖ / ((‖A‖ + |λ|‖B‖) ‖v‖)` of
        the returned pairs, with estimates of the norms.
    - `condition_numbers`: shape `(k,)`, `κ(λ) = ‖u‖ ‖v‖ / |uᴴ B v|`, or `None`.
    - `stats`: counts of the run, or of all runs if wider spaces were tried; at least
        `num_matvecs`, `num_restarts`, `num_converged`. Derivatives are taken later, and
        are not counted.
    - `result`: a member of [`implicit_eig.RESULTS`][].

    `eigenvalues`, `eigenvectors`, `left_eigenvectors` and `condition_numbers` are
    differentiable with respect to the operator and the mass matrix, in either mode and
    to any order; `residuals` and `stats` carry no derivative.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        s = ieig.eigs(a, k=2, left=True)
        w, v, u = s.eigenvalues, s.eigenvectors, s.left_eigenvectors
        assert jnp.allclose(u.conj().T @ v, jnp.eye(2), atol=1e-5)
        print(s)  # a row for each pair, the result, the counts
        ```
    """

    eigenvalues: Complex[Array, " k"]
    eigenvectors: PyTree[Complex[Array, "..."]]
    left_eigenvectors: PyTree[Complex[Array, "..."]] | None
    residuals: Float[Array, " k"]
    condition_numbers: Float[Array, " k"] | None
    stats: dict[str, Any]
    result: RESULTS
    # For each pair, the nearest eigenvalue that the eigensolver saw but did not select.
    _outside: Complex[Array, " k"] | None = None

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        """A line for each pair; shapes if values are traced or a batch."""
        columns = self._columns()
        return self._shapes() if columns is None else table(columns) + summary(self)

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        columns = self._columns()
        if columns is None:
            return f"<pre>{html.escape(self._shapes())}</pre>"
        return html_table(columns) + f"<pre>{html.escape(summary(self))}</pre>"

    def __getitem__(self, item: Any) -> Any:
        raise TypeError(
            "A `Solution` is no tuple. Take `s.eigenvalues` and `s.eigenvectors`: "
            "`w, v = s.eigenvalues, s.eigenvectors`; of a batch of solutions "
            "`jax.tree.map(lambda x: x[i], s)`."
        )

    def _shapes(self) -> str:
        return shapes(self, ("eigenvalues", "eigenvectors", "left_eigenvectors"))

    def _columns(self) -> dict[str, list[str]] | None:
        if not has_values(self) or jnp.ndim(self.eigenvalues) != 1:
            return None
        columns = {"eigenvalue": [number(x) for x in self.eigenvalues]}
        columns["residual"] = [f"{float(x):.1e}" for x in self.residuals]
        if self.condition_numbers is not None:
            columns["κ"] = [f"{float(x):.1e}" for x in self.condition_numbers]
        converged = int(self.stats["num_converged"])
        if converged < len(self.residuals):
            marks = ["" if i < converged else "not" for i in range(len(self.residuals))]
            columns["converged"] = marks
        return columns


def table(columns: dict[str, list[str]]) -> str:
    """Numbered rows under the names of their columns."""
    k = len(next(iter(columns.values())))
    columns = {"": [str(i) for i in range(k)]} | columns
    lines = []
    for name, cells in columns.items():
        width = max(len(x) for x in (name, *cells))
        lines.append([x.rjust(width) for x in (name, *cells)])
    return "\n".join("  ".join(row) for row in zip(*lines, strict=True)) + "\n"


def html_table(columns: dict[str, list[str]]) -> str:
    """The same as an HTML table."""

    def row(tag: str, cells: Any) -> str:
        cells = "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in cells)
        return f"<tr>{cells}</tr>"

    rows = zip(*columns.values(), strict=True)
    body = "".join(row("td", (str(i), *cells)) for i, cells in enumerate(rows))
    head = row("th", ("", *columns))
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def number(x: Any) -> str:
    x = complex(x)
    return f"{x.real:.8g}" if x.imag == 0 else f"{x.real:.8g}{x.imag:+.8g}j"


def has_values(tree: PyTree) -> bool:
    """Whether all arrays in it have values."""
    leaves = jtu.tree_leaves(tree)
    return all(not isinstance(x, Tracer) and eqx.is_array_like(x) for x in leaves)


def shapes(tree: Any, names: tuple[str, ...]) -> str:
    """`Name(field=float64[3,2], …)`."""

    def one(x: Any) -> str:
        return f"{x.dtype}[{','.join(str(d) for d in x.shape)}]"

    fields = []
    for name in names:
        leaves = [x for x in jtu.tree_leaves(getattr(tree, name)) if hasattr(x, "dtype")]
        if leaves:
            fields.append(f"{name}=" + ", ".join(one(x) for x in leaves))
    return f"{type(tree).__name__}({'; '.join(fields)})"


def summary(tree: Any) -> str:
    """The result and the counts; the tree must have values."""
    counts = ", ".join(f"{name}={int(x)}" for name, x in sorted(tree.stats.items()))
    return f"result: {RESULTS[tree.result]}\n{counts}"


NO_FAILURES = (
    RESULTS.successful,
    RESULTS.unconfirmed,
    RESULTS.defective,
    RESULTS.ambiguous,
    RESULTS.cut_tie,
)
FAILURES = (
    RESULTS.not_converged,
    RESULTS.nonfinite,
    RESULTS.infinite,
    RESULTS.singular,
    RESULTS.not_linear,
    RESULTS.region_overflow,
    RESULTS.not_holomorphic,
    RESULTS.not_hermitian,
    RESULTS.not_definite,
    RESULTS.not_symmetric,
    RESULTS.extreme_size,
    RESULTS.zero_start_vector,
    RESULTS.residual_too_large,
    RESULTS.dependent,
    RESULTS.left_not_found,
    RESULTS.cut,
    RESULTS.ill_conditioned,
)


def is_good(result: RESULTS) -> Bool[Array, "..."]:
    """Whether it is not a failure: successful, or a notice."""
    return functools.reduce(jnp.logical_or, (result == r for r in NO_FAILURES))
