"""How many vectors of a Krylov decomposition a restart keeps."""

from collections.abc import Callable
from typing import NamedTuple

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
    drop the same Ritz values each time, and with them the seed of a wanted pair.
    """
    m, wanted = restart.krylov_dim, restart.wanted
    part = 40 + (restart.count * 21) % 34
    room = m - wanted + restart.converged
    return jnp.minimum(wanted + part * room // 100, m - 2)
