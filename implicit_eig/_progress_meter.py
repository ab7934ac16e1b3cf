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

    A run calls `step` once per restart, under `jit`. Runs for derivatives do not call it:
    a gradient shows the run that finds the pairs, and `left=True` one more for the
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
        """Shows how many of the wanted pairs have converged, and the worst residual.

        `restart` counts from one. `last` says that the run ends here, successful or not.
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
    """Prints a line per restart, and one when the run is about to be compiled. Under
    `vmap`, a CPU runs one member after the other, and each prints its own lines;
    elsewhere the member furthest behind does.

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
    """A tqdm bar for the digits that the worst residual has gained, as a share of those
    from the first residual to the default tolerance of its precision. It is full when all
    pairs have converged, and closes when the run ends, even without success. Under
    `vmap`, a CPU runs one member after the other, each with a bar; elsewhere there is a
    single bar, for the member furthest behind.

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
    """The history of one run, restart by restart; arrays of shape `(restarts,)`."""

    residuals: np.ndarray  # the worst one of the wanted pairs, relative
    converged: np.ndarray  # number of pairs
    wanted: np.ndarray  # number of pairs; one more while k cuts a conjugate pair


class RecordingProgressMeter(AbstractProgressMeter):
    """Shows nothing, but records what each restart reached, for
    [`implicit_eig.plot.convergence`][].

    `histories()` returns those of all runs so far, in order: a plain call of `eigs` whose
    restarts stagnate makes several runs, `left=True` one more, and under `vmap` a CPU
    makes one for each member. `clear()` discards them.

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
    """The host side of a recording meter."""

    def __init__(self):
        self.runs: list[list[tuple[float, int, int]]] = []

    def __call__(self, restart: Any, converged: Any, wanted: Any, worst: Any, last: Any):
        del last
        if int(restart) == 1 or not self.runs:
            self.runs.append([])
        self.runs[-1].append((float(worst), int(converged), int(wanted)))


_FULL = 100


class _Bar:
    """The host side of a bar. One serves all runs of a compiled program."""

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
            # For a real operator, the last pair may be whole in one restart and cut in
            # the next: the smallest number is the one asked for.
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
        """The share of the needed digits that the residual has, short of all."""
        residual, eps = float(worst), float(np.finfo(np.asarray(worst).dtype).eps)
        if not (0 < residual < self.first):
            return 0
        needed = math.log(max(10 * eps, min(eps ** (2 / 3), 1e-6)))
        return min(_FULL - 1, int(_FULL * math.log(residual / self.first) / needed))

    def close(self):
        if self.bar is not None:
            self.bar.close()
        self.bar = None


# Not empty until a traced run has made its first step, as it is traced several times for
# one compilation.
_COMPILING: list[bool] = []


def _say_that_it_compiles(write: Callable[[str], Any]) -> None:
    """Says so, from `step`, which is called when the program is traced."""
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
