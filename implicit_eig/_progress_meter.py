"""What a user sees while an iterative eigensolver runs."""

import abc
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int


class AbstractProgressMeter(eqx.Module):
    """Base class of progress meters. `step` is called once a restart, under `jit`."""

    @abc.abstractmethod
    def step(
        self,
        restart: Int[Array, ""],
        converged: Int[Array, ""],
        wanted: Int[Array, ""],
        worst: Float[Array, ""],
    ) -> None:
        """Shows the number of converged pairs and the worst residual."""


class NoProgressMeter(AbstractProgressMeter):
    """Shows nothing and costs nothing."""

    def step(self, restart, converged, wanted, worst):
        pass


class TextProgressMeter(AbstractProgressMeter):
    """Prints a line a restart."""

    def step(self, restart, converged, wanted, worst):
        def show(restart: Any, converged: Any, wanted: Any, worst: Any) -> None:
            print(
                f"restart {int(restart):4d}  converged {int(converged)}/{int(wanted)}  "
                f"worst residual {float(worst):.2e}"
            )

        jax.debug.callback(show, restart, converged, wanted, worst)
