"""How many vectors of a Krylov decomposition a restart keeps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int


class Restart(NamedTuple):
    """What is known when a restart is due."""

    krylov_dim: int
    wanted: Int[Array, ""]  # how many Ritz pairs are wanted
    converged: Int[Array, ""]  # how many of these have converged
    count: Int[Array, ""]  # restarts so far
    values: Inexact[Array, " m"]  # Ritz values, best first


# Returns how many of the best Ritz vectors are kept: no fewer than the wanted ones, at
# most `krylov_dim − 2`. `python -m benchmarks.restarts` compares policies.
Truncation = Callable[[Restart], Int[Array, ""]]


def varying_share(restart: Restart) -> Int[Array, ""]:
    """The wanted ones and a share of the others; more as pairs converge, so that locked
    vectors do not use up the room for new ones (Stathopoulos, Saad and Wu 1998).

    The share varies between 0.4 and 0.73, in steps of the golden ratio. A fixed one may
    drop the same Ritz values each time, and with them the seed of a wanted pair. Once all
    have converged, and the run looks for copies, it varies between 0.45 and 0.64 of those
    that are not locked, which takes as many products in fewer restarts.
    """
    m, wanted, converged = restart.krylov_dim, restart.wanted, restart.converged
    # Of numbers that are not negative; `//` and `%` are a dozen equations each.
    phase = jax.lax.rem(restart.count * 21, 34)
    part = jax.lax.div((40 + phase) * (m - wanted + converged), 100)
    beyond = jax.lax.div((77 + phase) * (m - wanted), 170)
    keep = wanted + jax.lax.select(converged < wanted, part, beyond)
    return jnp.minimum(keep, m - 2)
