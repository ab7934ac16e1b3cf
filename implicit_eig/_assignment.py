"""The cheapest one-to-one assignment of rows to columns."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def assignment(cost: Float[Array, "k m"]) -> Int[Array, " k"]:
    """The column of each row, k ≤ m, each used at most once, at the least total cost.

    Rows are added one by one, each along a shortest augmenting path of reduced costs:
    the Hungarian method in the form of Jonker and Volgenant (Computing 38, 1987,
    doi:10.1007/BF02278710). O(k² m), or O(k m) if no two rows want the same column.
    """
    k, m = cost.shape

    def add(row, state):
        rows, columns, row_of, column_of = state  # prices, and the current matching

        def advance(path):
            i, _, least, distance, back, reached = path
            through = least + cost[i] - rows[i] - columns
            shorter = ~reached & (through < distance)
            distance = jnp.where(shorter, through, distance)
            back = jnp.where(shorter, i, back)
            j = jnp.argmin(jnp.where(reached, jnp.inf, distance))
            return row_of[j], j, distance[j], distance, back, reached.at[j].set(True)

        far, nobody = jnp.full(m, jnp.inf, cost.dtype), -jnp.ones(m, row.dtype)
        path = row, row, jnp.zeros((), cost.dtype), far, nobody, jnp.zeros(m, bool)
        path = jax.lax.while_loop(lambda path: path[0] >= 0, advance, path)
        _, j, least, distance, back, reached = path

        gain = jnp.where(reached, least - distance, 0)
        rows = rows + jnp.where(column_of >= 0, gain[column_of], 0)
        rows = rows.at[row].add(least)

        def turn(ends):
            j, row_of, column_of = ends
            i = back[j]
            return column_of[i], row_of.at[j].set(i), column_of.at[i].set(j)

        ends = j, row_of, column_of
        ends = jax.lax.while_loop(lambda ends: ends[0] >= 0, turn, ends)
        return rows, columns - gain, *ends[1:]

    index = jnp.arange(k)
    state = jnp.zeros(k, cost.dtype), jnp.zeros(m, cost.dtype)
    state += -jnp.ones(m, index.dtype), -jnp.ones(k, index.dtype)
    state, _ = jax.lax.scan(lambda state, row: (add(row, state), None), state, index)
    return state[-1]
