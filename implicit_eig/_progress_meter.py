"""What a user sees while an iterative eigensolver runs."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
from jaxtyping import Array, Bool, Float, Int


class AbstractProgressMeter(eqx.Module):
    """Base class of progress meters.

    A run calls `step` once a restart, under `jit`. Runs of derivatives call nothing: a
    gradient shows the run that finds the pairs, and `left=True` one more on the
    transposed operator.
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
    """Shows nothing and costs nothing."""

    def step(self, restart, converged, wanted, worst, last):
        pass


class TextProgressMeter(AbstractProgressMeter):
    """Prints a line a restart. Under `vmap` a CPU runs one member after the other, and
    each prints its own; elsewhere the member furthest behind does."""

    def step(self, restart, converged, wanted, worst, last):
        def show(restart: Any, converged: Any, wanted: Any, worst: Any, last: Any):
            del last
            print(
                f"restart {int(restart):4d}  converged {int(converged)}/{int(wanted)}  "
                f"worst residual {float(worst):.2e}"
            )

        _report(show, restart, converged, wanted, worst, last)


class TqdmProgressMeter(AbstractProgressMeter):
    """A tqdm bar of converged pairs. It is closed when the run ends, also without
    success. Under `vmap` a CPU runs one member after the other, each with a bar;
    elsewhere there is one, that of the member furthest behind.

    Needs tqdm, the extra `implicit_eig[progress]`.
    """

    def __check_init__(self):
        _import_tqdm()

    def step(self, restart, converged, wanted, worst, last):
        _report(_Bar(), restart, converged, wanted, worst, last)


class _Bar:
    """The host's side of a bar. One serves all runs of a compiled program."""

    def __init__(self):
        self.bar = None

    def __call__(self, restart: Any, converged: Any, wanted: Any, worst: Any, last: Any):
        if int(restart) == 1:
            self.close()  # left open by a run that an exception cut short
        if self.bar is None:
            self.bar = _import_tqdm().tqdm(desc="eigs", unit="pair")
        self.bar.total, self.bar.n = int(wanted), int(converged)
        self.bar.set_postfix_str(f"restart {int(restart)}, residual {float(worst):.1e}")
        if bool(last):
            self.close()

    def close(self):
        if self.bar is not None:
            self.bar.close()
        self.bar = None


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
