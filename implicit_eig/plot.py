"""Pictures of spectra (the extra `plot`, which is matplotlib).

Each function draws on one `Axes`, a new one unless one is given, and returns it. New ones
are transparent, in colours and greys that are readable on white and on black.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike, Complex, Float
from numpy.typing import NDArray

from ._check import check_integer
from ._nonlinear import AbstractRegion
from ._operator import as_matrix
from ._progress_meter import RecordingProgressMeter
from ._solution import RESULTS, Solution


_GREY = "#808080"
_COLOURS = ("#3f8fd2", "#e0782f", "#35a06a", "#c65fb0", "#b08f1e", "#8a7be0")


def spectrum(
    solution: Solution,
    *,
    others: ArrayLike | None = None,
    target: complex | None = None,
    region: AbstractRegion | None = None,
    ax: Any = None,
) -> Any:
    """The eigenvalues of a solution in the complex plane.

    A disk is a pair; its size shows the residual, from 1e-16 to 1, and its colour the
    condition number if the solution has left vectors. A ring is the nearest eigenvalue
    that the eigensolver saw but did not select, a dot one of `others`.

    **Arguments:**

    - `solution`: a single [`implicit_eig.Solution`][] with values, not a stack.
    - `others`: more eigenvalues, such as the whole spectrum.
    - `target`: the target `sigma`, drawn as a cross.
    - `region`: such as [`implicit_eig.Disk`][]: its boundary is drawn.
    - `ax`: a matplotlib `Axes`.

    **Returns:** the `Axes`.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        ax = ieig.plot.spectrum(ieig.eigs(a, k=1), others=ieig.eigvals(a))
        ```
    """
    if not isinstance(solution, Solution):
        raise TypeError(
            f"`solution` must be a `Solution`; got {type(solution).__name__}."
        )
    values = _known("solution", solution.eigenvalues)
    if values.ndim != 1:
        raise ValueError(
            f"`solution` must be one solution; got eigenvalues of shape {values.shape}: "
            "`sweep` draws a stack."
        )
    if not isinstance(region, AbstractRegion | None):
        raise TypeError(f"`region` must be a region such as `Disk`; got {region!r}.")
    ax = _axes(ax)
    if region is not None:
        z = _known("region", region.quadrature(400)[0])
        z = np.concatenate([z, z[:1]])
        ax.plot(z.real, z.imag, color=_COLOURS[1], linewidth=1, label="region")
    if others is not None:
        z = _known("others", others).ravel()
        ax.scatter(z.real, z.imag, s=6, c=_GREY, linewidths=0, label="others")
    if solution._outside is not None:
        z = _known("solution", solution._outside)
        ring = {"facecolors": "none", "edgecolors": _GREY}
        ax.scatter(z.real, z.imag, 40, label="not selected", **ring)
    exponent = np.log10(np.clip(np.asarray(solution.residuals), 1e-16, 1))
    size = 20 + 5 * np.nan_to_num(exponent + 16)
    colour = {"color": _COLOURS[0]}
    if solution.condition_numbers is not None:
        kappa = np.log10(np.asarray(solution.condition_numbers))
        colour = {"c": kappa, "cmap": _colour_map()}
    style = {"label": "selected", "linewidths": 0, "zorder": 3}
    drawn = ax.scatter(values.real, values.imag, size, **colour, **style)
    if solution.condition_numbers is not None:
        _colorbar(drawn, ax, "condition number, log₁₀ κ")
    if target is not None:
        target = complex(target)
        ax.scatter(
            target.real, target.imag, 60, marker="x", color=_COLOURS[1], label="target"
        )
    _plane(ax)
    _legend(ax)
    return ax


def pseudospectrum(
    a: ArrayLike,
    *,
    levels: ArrayLike | None = None,
    points: int = 60,
    box: tuple[float, float, float, float] | None = None,
    ax: Any = None,
) -> Any:
    """The ε-pseudospectra of a dense matrix, with its eigenvalues: where these may move
    under a change of norm ε, `{z : σ_min(zI − A) ≤ ε}`.

    Trefethen & Embree, *Spectra and Pseudospectra*, Princeton 2005.

    **Arguments:**

    - `a`: shape `(n, n)`, finite.
    - `levels`: the exponents log₁₀ ε of the contours; by default about eight.
    - `points`: number of grid points in either direction.
    - `box`: `(left, right, bottom, top)`; by default half again as large as the spectrum.
    - `ax`: a matplotlib `Axes`.

    **Returns:** the `Axes`.

    **Cost:** `points²` singular value decompositions of order n, a few seconds at n = 50.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        ax = ieig.plot.pseudospectrum(a, points=20)
        ```
    """
    points = check_integer("points", points, 2)
    a = _known("a", as_matrix(a, "a"))
    if a.ndim != 2 or a.size == 0 or not np.isfinite(a).all():
        raise ValueError(f"`a` must be one matrix, finite; got shape {a.shape}.")
    ax = _axes(ax)
    w = np.linalg.eigvals(a)
    left, right, bottom, top = _around(w) if box is None else box  # pyright: ignore[reportArgumentType]
    x, y = np.linspace(left, right, points), np.linspace(bottom, top, points)
    least = _least_singular_values(a, x[None, :] + 1j * y[:, None])
    floor = np.finfo(least.dtype).eps * max(np.linalg.norm(a, 2), np.finfo(float).tiny)
    drawn = ax.contour(
        x,
        y,
        np.log10(np.maximum(least, floor)),
        levels=8 if levels is None else np.sort(np.atleast_1d(levels)),
        cmap=_colour_map(),
        linewidths=1.2,
    )
    if len(drawn.levels) > 1:
        _colorbar(drawn, ax, "log₁₀ ε")
    ax.scatter(w.real, w.imag, 14, color=_COLOURS[1], linewidths=0, zorder=3)
    _plane(ax)
    ax.set_aspect("equal")
    return ax


def sweep(
    solutions: Solution,
    p: ArrayLike,
    *,
    part: Literal["real", "imag", "abs"] | Callable[[Any], Any] = "real",
    ax: Any = None,
) -> Any:
    """Draws each mode of a path as a line over the parameter.

    **Arguments:**

    - `solutions`: a stack, as [`implicit_eig.follow`][] returns it.
    - `p`: shape `(steps,)`, real.
    - `part`: which part of the eigenvalues to draw: `"real"`, `"imag"`, `"abs"` or a
        function of the array `(steps, k)`.
    - `ax`: a matplotlib `Axes`.

    Steps that failed are gaps. A small grey circle marks the modes of a step that is
    `RESULTS.ambiguous`.

    **Returns:** the `Axes`.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        matrix = lambda t: jnp.array([[t, 0.1], [0.1, 1 - t]])
        t = jnp.linspace(0.0, 1.0, 9)
        modes = ieig.follow(matrix, t, ieig.eigs(matrix(t[0]), 2))
        ax = ieig.plot.sweep(modes, t)
        ```
    """
    if not isinstance(solutions, Solution):
        raise TypeError(
            f"`solutions` must be a `Solution`; got {type(solutions).__name__}."
        )
    values, p = _known("solutions", solutions.eigenvalues), _known("p", p)
    if values.ndim != 2 or p.shape != values.shape[:1]:
        raise ValueError(
            "`solutions` must be a stack, and `p` have one number for each of its "
            f"members; got eigenvalues of shape {values.shape} and {p.shape}."
        )
    parts = {"real": np.real, "imag": np.imag, "abs": np.abs}
    names = {"real": "Re λ", "imag": "Im λ", "abs": "|λ|"}
    if not callable(part) and part not in parts:
        raise ValueError(
            f"`part` must be one of {', '.join(parts)}, or a callable; got {part!r}."
        )
    shown = np.asarray((part if callable(part) else parts[part])(values))
    ax = _axes(ax)
    for i in range(values.shape[1]):
        colour = _COLOURS[i % len(_COLOURS)]
        ax.plot(p, shown[:, i], color=colour, linewidth=1.6, label=f"mode {i}")
    unsure = np.asarray(solutions.result == RESULTS.ambiguous)
    if unsure.any():
        at = np.repeat(p[unsure], values.shape[1])
        ax.scatter(at, shown[unsure].ravel(), 30, facecolors="none", edgecolors=_GREY)
    ax.set_ylabel(getattr(part, "__name__", "") if callable(part) else names[part])
    _legend(ax)
    return ax


def convergence(
    meter: RecordingProgressMeter, *, rtol: float | None = None, ax: Any = None
) -> Any:
    """The worst residual of the wanted pairs, restart by restart, on a logarithmic scale;
    with a line for each run that the meter has seen, one after the other.

    **Arguments:**

    - `meter`: a [`implicit_eig.RecordingProgressMeter`][] that was passed to a run.
    - `rtol`: a tolerance, drawn as a line.
    - `ax`: a matplotlib `Axes`.

    **Returns:** the `Axes`.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        rates, meter = jnp.linspace(0.0, 1.0, 100), ieig.RecordingProgressMeter()
        mv = lambda v: rates * v + 0.1 * jnp.roll(v, 1)
        ieig.eigs(mv, k=2, which="LR", like=rates, progress_meter=meter)
        ax = ieig.plot.convergence(meter)
        ```
    """
    if not isinstance(meter, RecordingProgressMeter):
        raise TypeError(
            f"`meter` must be a `RecordingProgressMeter`; got {type(meter).__name__}."
        )
    histories = meter.histories()
    if not histories:
        raise ValueError("`meter` has seen no run: pass it as `progress_meter=`.")
    ax, start = _axes(ax), 0
    for i, run in enumerate(histories):
        at = start + np.arange(1, run.residuals.size + 1)
        colour = _COLOURS[i % len(_COLOURS)]
        residuals = np.where(run.residuals > 0, run.residuals, np.nan)
        ax.plot(at, residuals, "o-", color=colour, markersize=3, label=f"run {i + 1}")
        start += run.residuals.size
    if rtol is not None:
        ax.axhline(rtol, color=_GREY, linewidth=1, linestyle="--", label="rtol")
    ax.set_yscale("log")
    ax.set_xlabel("restart")
    ax.set_ylabel("worst residual")
    _legend(ax)
    return ax


def _known(name: str, x: Any) -> NDArray[np.complexfloating]:
    if isinstance(x, Tracer):
        raise ValueError(f"`{name}` must have values to be drawn: not under `jax.jit`.")
    return np.asarray(x)


def _axes(ax: Any) -> Any:
    """The given axes, or new ones."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "`implicit_eig.plot` draws with matplotlib: pip install 'implicit_eig[plot]'."
        ) from error
    figure, ax = plt.subplots(figsize=(5.2, 3.9), layout="constrained")
    figure.patch.set_alpha(0)
    ax.patch.set_alpha(0)
    ax.grid(color=_GREY, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    _grey(ax)
    return ax


def _grey(ax: Any) -> None:
    """Draws frame, ticks and words in a grey that is readable on white and on black."""
    ax.tick_params(colors=_GREY, which="both")
    for spine in ax.spines.values():
        spine.set_color(_GREY)
    for words in (ax.xaxis.label, ax.yaxis.label, ax.title):
        words.set_color(_GREY)


def _colour_map() -> Any:
    """A colour map with neither white nor black at its ends."""
    from matplotlib.colors import LinearSegmentedColormap

    ends = _COLOURS[0], _COLOURS[3], _COLOURS[1]
    return LinearSegmentedColormap.from_list("implicit_eig", ends)


def _colorbar(drawn: Any, ax: Any, label: str) -> None:
    bar = ax.figure.colorbar(drawn, ax=ax, label=label)
    bar.outline.set_edgecolor(_GREY)
    bar.ax.patch.set_alpha(0)
    _grey(bar.ax)


def _legend(ax: Any) -> None:
    legend = ax.legend(framealpha=0, labelcolor=_GREY, fontsize="small")
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([24])


def _plane(ax: Any) -> None:
    ax.set_xlabel("Re λ")
    ax.set_ylabel("Im λ")


def _around(w: NDArray[np.complexfloating]) -> tuple[float, float, float, float]:
    """A box with some room around the points."""
    extent = max(np.ptp(w.real), np.ptp(w.imag))
    half = 0.75 * (extent or np.abs(w).max() or 1.0)
    x, y = (w.real.max() + w.real.min()) / 2, (w.imag.max() + w.imag.min()) / 2
    return x - half, x + half, y - half, y + half


def _least_singular_values(
    a: np.ndarray, z: Complex[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "rows columns"]:
    """σ_min(zI − A), row by row of the grid."""
    identity = np.eye(a.shape[0])
    return np.stack(
        [
            np.linalg.svd(row[:, None, None] * identity - a, compute_uv=False)[:, -1]
            for row in z
        ]
    )
