"""Checks whether a loss depends on the arbitrary scale of eigenvectors."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Inexact

from ._eigs import eigs
from ._gauge import relative_dependence, tolerance, Vectors
from ._solution import Solution


class GaugeReport(eqx.Module):
    """How much a loss depends on the scale of each eigenvector.

    **Attributes:**

    - `eigenvalues`: shape `(k,)`, to identify the pairs.
    - `phase`, `norm`: shape `(k,)`, the derivatives of the loss with respect to the
        phase and to log ‖v‖, in modulus, relative to `‖∂f/∂v‖ ‖v‖` (plus
        `‖∂f/∂u‖ ‖u‖` with left vectors). From 0 (no dependence) to 1 (no other).
    - `tolerance`: values above it are more than rounding.

    `phase_invariant` and `norm_invariant` say whether all pairs are below it, `invariant`
    or `bool(report)` whether both hold. `print(report)` shows a table.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])

        share = lambda s: jnp.abs(s.eigenvectors[0, 0]) ** 2
        report = ieig.check_gauge_invariance(share, a, k=1)
        assert report.phase_invariant
        ```
    """

    eigenvalues: Complex[Array, " k"]
    phase: Float[Array, " k"]
    norm: Float[Array, " k"]
    tolerance: float = eqx.field(static=True)

    @property
    def phase_invariant(self) -> Bool[Array, ""]:
        return jnp.all(self.phase <= self.tolerance)

    @property
    def norm_invariant(self) -> Bool[Array, ""]:
        return jnp.all(self.norm <= self.tolerance)

    @property
    def invariant(self) -> Bool[Array, ""]:
        return self.phase_invariant & self.norm_invariant

    def __bool__(self) -> bool:
        return bool(self.invariant)

    def __str__(self) -> str:
        columns = [np.asarray(x) for x in (self.eigenvalues, self.phase, self.norm)]
        lines = [f"{'pair':>4}  {'eigenvalue':>23}  {'phase':>7}  {'norm':>7}"]
        parts = ("the phase", "the norm")
        for i, (w, *sizes) in enumerate(zip(*columns, strict=True)):
            # Not `> tolerance`, so that NaN counts as dependence.
            on = [p for p, x in zip(parts, sizes, strict=True) if not x <= self.tolerance]
            row = f"{i:4d}  {w:23.6g}  {sizes[0]:7.1e}  {sizes[1]:7.1e}"
            lines.append(row + (f"  depends on {' and '.join(on)}" if on else ""))
        if self:
            lines.append("The loss does not depend on the scale of any vector.")
        return "\n".join(lines)


def check_gauge_invariance(
    loss: Callable[[Solution], Any], operator: Any, **eigs_kwargs: Any
) -> GaugeReport:
    """Tells whether a loss depends on the arbitrary scale of the vectors, and how much.

    An eigenvector may be multiplied by any number: `v → c v`, with the left vector
    `u → u / c̄`, which keeps `uᴴBv = 1`. A dependence on `arg c` is always arbitrary. A
    dependence on `|c|` is arbitrary if another norm might have been chosen; a loss that
    relies on the unit norm may have it: then ask `report.phase_invariant`.

    **Arguments:**

    - `loss`: takes the [`implicit_eig.Solution`][] and returns a real scalar. It must
        be differentiable in the solution's vectors, and traceable by JAX.
    - `operator`, `eigs_kwargs`: as in [`implicit_eig.eigs`][], whose solution the loss
        receives; `left=True` for a loss of left vectors.

    **Returns:** a [`implicit_eig.GaugeReport`][], pair by pair.

    Derivatives are taken at two representatives of each vector, in the gauge and rotated
    by one radian, and the larger one is reported: at a real vector, `Re v` has no
    derivative along the phase, yet depends on it. So `v.real ** 2` of a real vector is
    reported; take `abs(v) ** 2`. A jump, such as that of the sign of `Re v`, has no
    derivative and is missed.

    **Raises:** `TypeError` or `ValueError` for a loss that is not a real scalar, and what
    `eigs` raises. If a derivative is NaN, so are the figures, which then count as not
    invariant.

    **Cost:** one call of `eigs`, two gradients of the loss with respect to the vectors;
    no derivative of the eigenproblem.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig

        a = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.5, 0.0]])
        loss = lambda solution: solution.eigenvectors[0, 0].real
        report = ieig.check_gauge_invariance(loss, a, k=3)
        print(report)  # pair 0 depends on the phase and the norm
        assert not report

        v = lambda solution: jnp.abs(solution.eigenvectors)
        share = lambda solution: (v(solution)[0] / v(solution)[1]).sum()
        assert ieig.check_gauge_invariance(share, a, k=3)
        ```
    """
    if not callable(loss):
        raise TypeError(f"`loss` must be a function of a solution; got {loss!r}.")
    solution = eigs(operator, **eigs_kwargs)
    vectors = [solution.eigenvectors]
    if solution.left_eigenvectors is not None:
        vectors.append(solution.left_eigenvectors)

    def of_vectors(vectors: list[Any]) -> Inexact[Array, ""]:
        left = vectors[1] if len(vectors) == 2 else None
        value = loss(
            eqx.tree_at(
                lambda s: (s.eigenvectors, s.left_eigenvectors),
                solution,
                (vectors[0], left),
                is_leaf=lambda x: x is None,
            )
        )
        return _real_scalar(value)

    turned = jtu.tree_map(lambda v: v * jnp.exp(1j).astype(v.dtype), vectors)
    flat = eqx.filter_jit(lambda v: _dependence(jax.grad(of_vectors)(v), v))
    phase, norm = (
        jnp.maximum(*both) for both in zip(flat(vectors), flat(turned), strict=True)
    )
    return GaugeReport(solution.eigenvalues, phase, norm, tolerance(phase.dtype))


def _dependence(cotangents, vectors):
    return relative_dependence(_blocks(cotangents), _blocks(vectors))


def _blocks(vectors: list[Any]) -> Vectors:
    """Vectors of any structure as blocks of flat columns."""
    return tuple(
        jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in jtu.tree_leaves(tree)])
        for tree in vectors
    )


def _real_scalar(value: Any) -> Inexact[Array, ""]:
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(f"`loss` must return a scalar; got shape {value.shape}.")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"`loss` must return a real number; got {value.dtype}.")
    return value
