"""What a user sees while an iterative eigensolver runs."""

import abc
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class AbstractProgressMeter(eqx.Module):
    """Base class of progress meters.

    A run calls `step` once a restart, under `jit`. Runs of derivatives call nothing: a
    gradient shows the run that finds the pairs, and `left=True` one more on the
    transposed operator.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        class Dots(ieig.AbstractProgressMeter):
            def step(self, restart, converged, wanted, worst, last):
                jax.debug.callback(lambda: print(".", end=""))

        rates = jnp.linspace(0.0, 1.0, 100)
        mv = lambda v: rates * v + 0.1 * jnp.roll(v, 1)
        ieig.eigs(mv, k=2, which="LR", like=rates, progress_meter=Dots())
        ```
    """

    @abc.abstractmethod
    def step(
        self,
        restart: Int[Array, ""],
        converged: Int[Array, ""],
        wanted: Int[Array, ""],
        worst: Float[Array, ""],
        last: Bool[Array, ""],
    ) -> None:
        """Shows the number of converged pairs of those wanted, and the worst residual.

        `restart` counts from one. `last` tells that the run ends here, successful or not.
        """


class NoProgressMeter(AbstractProgressMeter):
    """Shows nothing and costs nothing.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        ieig.eigs(a, k=1, progress_meter=ieig.NoProgressMeter())
        ```
    """

    def step(self, restart, converged, wanted, worst, last):
        pass


class TextProgressMeter(AbstractProgressMeter):
    """Prints a line a restart, and one when the run is about to be compiled. Under `vmap`
    a CPU runs one member after the other, and each prints its own; elsewhere the member
    furthest behind does.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        rates = jnp.linspace(0.0, 1.0, 100)
        mv = lambda v: rates * v + 0.1 * jnp.roll(v, 1)
        ieig.eigs(mv, 2, "LR", like=rates, progress_meter=ieig.TextProgressMeter())
        ```
    """

    def step(self, restart, converged, wanted, worst, last):
        def show(restart: Any, converged: Any, wanted: Any, worst: Any, last: Any):
            del last
            _COMPILING.clear()
            print(
                f"restart {int(restart):4d}  converged {int(converged)}/{int(wanted)}  "
                f"worst residual {float(worst):.2e}"
            )

        _say_that_it_compiles(print)
        _report(show, restart, converged, wanted, worst, last)


class TqdmProgressMeter(AbstractProgressMeter):
    """A tqdm bar of the digits that the worst residual has gained, of those it needs: the
    default tolerance of its precision, relative to the first one. It is full when all
    pairs have converged, and closed when the run ends, also without success. Under `vmap`
    a CPU runs one member after the other, each with a bar; elsewhere there is one, that
    of the member furthest behind.

    Needs tqdm, the extra `implicit_eig[progress]`.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        rates = jnp.linspace(0.0, 1.0, 100)
        mv = lambda v: rates * v + 0.1 * jnp.roll(v, 1)
        ieig.eigs(mv, 2, "LR", like=rates, progress_meter=ieig.TqdmProgressMeter())
        ```
    """

    def __check_init__(self):
        _import_tqdm()

    def step(self, restart, converged, wanted, worst, last):
        _say_that_it_compiles(_import_tqdm().tqdm.write)
        _report(_Bar(), restart, converged, wanted, worst, last)


class History(NamedTuple):
    """Of one run, restart by restart; arrays of shape `(restarts,)`."""

    residuals: np.ndarray  # the worst one of the wanted pairs, relative
    converged: np.ndarray  # pairs
    wanted: np.ndarray  # pairs; of a real operator a pair more while one is cut


class RecordingProgressMeter(AbstractProgressMeter):
    """Shows nothing, and keeps what each restart reached: for
    [`implicit_eig.plot.convergence`][].

    `histories()` are those of all runs so far, in order: a plain call of `eigs` whose
    restarts stagnate makes several, `left=True` one more, and under `vmap` a CPU one for
    each member. `clear()` forgets them.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig

        rates, meter = jnp.linspace(0.0, 1.0, 100), ieig.RecordingProgressMeter()
        mv = lambda v: rates * v + 0.1 * jnp.roll(v, 1)
        ieig.eigs(mv, k=2, which="LR", like=rates, progress_meter=meter)
        meter.histories()[-1].residuals
        ```
    """

    _rows: "_Rows" = eqx.field(static=True, default_factory=lambda: _Rows())

    def step(self, restart, converged, wanted, worst, last):
        _report(self._rows, restart, converged, wanted, worst, last)

    def histories(self) -> list[History]:
        jax.effects_barrier()
        return [
            History(*map(np.array, zip(*run, strict=True))) for run in self._rows.runs
        ]

    def clear(self) -> None:
        jax.effects_barrier()
        self._rows.runs.clear()


class _Rows:
    """The host's side of a recording meter."""

    def __init__(self):
        self.runs: list[list[tuple[float, int, int]]] = []

    def __call__(self, restart: Any, converged: Any, wanted: Any, worst: Any, last: Any):
        del last
        if int(restart) == 1 or not self.runs:
            self.runs.append([])
        self.runs[-1].append((float(worst), int(converged), int(wanted)))


_FULL = 100


class _Bar:
    """The host's side of a bar. One serves all runs of a compiled program."""

    def __init__(self):
        self.bar = None

    def __call__(self, restart: Any, converged: Any, wanted: Any, worst: Any, last: Any):
        _COMPILING.clear()
        restart, converged, wanted = int(restart), int(converged), int(wanted)
        if restart == 1:
            self.close()  # left open by a run that an exception cut short
        if self.bar is None:
            self.bar = _import_tqdm().tqdm(
                desc="eigs",
                total=_FULL,
                bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
            )
            # Of a real operator the last pair may be whole in one restart and not in the
            # next one: the least number is what was asked for.
            self.wanted, self.first = wanted, float(worst)
        self.wanted = min(self.wanted, wanted)
        done = bool(last) and converged == wanted
        self.bar.n = _FULL if done else max(self.bar.n, self.share(worst))
        self.bar.set_postfix_str(
            f"{min(converged, self.wanted)}/{self.wanted} pairs, restart {restart}, "
            f"residual {float(worst):.1e}"
        )
        if bool(last):
            self.close()

    def share(self, worst: Any) -> int:
        """Of the digits the residual needs those it has, short of all."""
        residual, eps = float(worst), float(np.finfo(np.asarray(worst).dtype).eps)
        if not (0 < residual < self.first):
            return 0
        needed = math.log(max(10 * eps, min(eps ** (2 / 3), 1e-6)))
        return min(_FULL - 1, int(_FULL * math.log(residual / self.first) / needed))

    def close(self):
        if self.bar is not None:
            self.bar.close()
        self.bar = None


# Not empty while a run that was traced has not made its first step: it is traced several
# times for one compilation.
_COMPILING: list[bool] = []


def _say_that_it_compiles(write: Callable[[str], Any]) -> None:
    """`step` itself runs when the program is traced, just before it is compiled."""
    if not _COMPILING:
        _COMPILING.append(True)
        write("eigs: compiling, which takes some seconds")


def _import_tqdm() -> Any:
    try:
        import tqdm
    except ImportError as error:
        raise ImportError(
            "`TqdmProgressMeter` needs tqdm: install the extra `implicit_eig[progress]`."
        ) from error
    return tqdm


def _report(
    show: Callable[..., None],
    restart: Int[Array, ""],
    converged: Int[Array, ""],
    wanted: Int[Array, ""],
    worst: Float[Array, ""],
    last: Bool[Array, ""],
) -> None:
    """Calls `show` on the host, once for a whole batch."""
    missing = eqxi.unvmap_max(wanted - converged)
    wanted = eqxi.unvmap_max(wanted)
    jax.debug.callback(
        show,
        eqxi.unvmap_max(restart),
        wanted - missing,
        wanted,
        eqxi.unvmap_max(worst),
        eqxi.unvmap_all(last),
    )
