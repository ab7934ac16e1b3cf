"""Markov chains: how fast a random walk mixes, and what one edited rate does to it.

    python docs/examples/markov_chain.py [--small] [--figures FOLDER]

Stewart's walk on a triangular grid (Bai, Day, Demmel & Dongarra, A Test Matrix Collection
for Non-Hermitian Eigenvalue Problems, 1997), made lazy: it has period 2, and eigenvalues ±λ.
Checked: λ₂ against the 0.97137 that SLEPc prints for 15 points a side (its tutorial ex5),
heights i + j against Ehrenfest's binomial law (Kac, Amer. Math. Monthly 54 (1947) 369),
derivatives against closed forms, a direct solve and differences.
"""

import argparse
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)


def check(name, value, expected, tolerance):
    error = float(np.max(np.abs(np.asarray(value) - np.asarray(expected))))
    error /= float(np.max(np.abs(expected)))
    if not error <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: relative error {error:.1e} > {tolerance:g}: FAILED")
    print(f"{name}: relative error {error:.1e} < {tolerance:g}: ok")


# --8<-- [start:walk]
def random_walk(m):
    """Nodes (i, j) with i + j ≤ m, and rates: the probabilities of jumps (to, from).

    Half of the time nothing happens. Else a step goes down, towards (0, 0), with
    probability (i + j)/m, or up; by i or by j with equal chances, if both are on the grid.
    """
    nodes = [(i, j) for i in range(m + 1) for j in range(m + 1 - i)]
    number = {node: l for l, node in enumerate(nodes)}
    jumps = []
    for (i, j), here in number.items():
        for sign, chance in ((-1, (i + j) / m), (1, 1 - (i + j) / m)):
            ends = [(i + sign, j), (i, j + sign)]
            ends = [number[end] for end in ends if end in number]
            jumps += [(chance / len(ends) / 2, end, here) for end in ends]
    rates, to, start = map(np.array, zip(*jumps, strict=True))
    return np.array(nodes), rates, to, start


def transition_matrix(rates, to, start, n):
    """Column-stochastic: who does not jump stays, so editing one rate edits two entries."""
    stay = jnp.ones(n).at[start].add(-rates)
    rows, columns = np.append(to, range(n)), np.append(start, range(n))
    return ieig.SparseOperator(jnp.append(rates, stay), rows, columns, n)


# --8<-- [end:walk]


# --8<-- [start:mixing]
def programs(to, start, n):
    """The relaxation time, with the pairs and its gradient in every rate; the stationary
    distribution, with its tangent where rates are edited."""

    def relaxation_time(rates):
        chain = transition_matrix(rates, to, start, n)
        pairs = ieig.eigs(chain, k=2, sigma=1 + 1 / n, left=True)
        return 1 / (1 - pairs.eigenvalues[1].real), pairs

    def stationary(rates):
        chain = transition_matrix(rates, to, start, n)
        total = ieig.Functional(jnp.ones(n))  # entries sum to one
        pair = ieig.eigs(chain, k=1, sigma=1 + 1 / n, gauge=total)
        return pair.eigenvectors[:, 0].real

    edited = lambda rates, edit: jax.jvp(stationary, (rates,), (edit,))
    return jax.jit(jax.value_and_grad(relaxation_time, has_aux=True)), jax.jit(edited)


# --8<-- [end:mixing]


def by_direct_solve(rates, to, start, pi, edit):
    """(I − P) x = Ṗ π, Σx = 0: Schweitzer, J. Appl. Probab. 5 (1968) 401; Meyer, SIAM
    Review 17 (1975) 443. One row and column left out, no eigenvalues."""
    n = pi.size
    jumps = scipy.sparse.coo_array((rates, (to, start)), (n, n))
    generator = (scipy.sparse.diags_array(jumps.sum(0)) - jumps).tocsc()
    flow = edit * pi[start]
    right = np.bincount(to, flow, n) - np.bincount(start, flow, n)
    x = np.append(0.0, scipy.sparse.linalg.splu(generator[1:, 1:]).solve(right[1:]))
    return x - x.sum() * pi


def study(m):
    nodes, rates, to, start = random_walk(m)
    n = len(nodes)
    time_and_slopes, edited = programs(to, start, n)
    (time, pairs), slopes = time_and_slopes(rates)
    u, v = pairs.left_eigenvectors[:, 1].real, pairs.eigenvectors[:, 1].real
    print(f"{m + 1} points a side, n = {n}, relaxation time {time:.2f} steps")
    if m == 14:
        check("λ₂ of SLEPc, not lazy", 2 * pairs.eigenvalues[1] - 1, 0.97137, 5e-6)
    expected = time**2 * (u[to] - u[start]) * v[start]
    check("∂T/∂rate = T² (u_to − u_from) v_from", slopes, expected, 1e-8)
    check("Σ rate ∂T/∂rate = −T, the unit of time", slopes @ rates, -time, 1e-8)

    # One rate: of the jump by j from a node halfway up, nearer to one side.
    i, j = 3 * m // 8, m // 2 - 3 * m // 8
    at = {tuple(node): l for l, node in enumerate(nodes.tolist())}
    one_rate = 1.0 * ((start == at[i, j]) & (to == at[i, j + 1]))
    pi, change = map(np.asarray, edited(rates, one_rate))
    binomial = [math.comb(m, h) / 2**m for h in range(m + 1)]
    heights = np.bincount(nodes.sum(1), pi)
    check("heights: Ehrenfest's binomial law", heights, binomial, 1e-10)
    direct = by_direct_solve(rates, to, start, pi, one_rate)
    check("one rate edited: direct solve", change, direct, 1e-8)
    plus, minus = (edited(rates + h * one_rate, one_rate)[0] for h in (1e-4, -1e-4))
    check("one rate edited: differences", change, (plus - minus) / 2e-4, 1e-5)
    # Who leaves a node twice as fast is found there half as often.
    faster = edited(rates, rates * (start == at[i, j]))[1]
    expected = pi[at[i, j]] * (pi - (np.arange(n) == at[i, j]))
    check("one node sped up: closed form", faster, expected, 1e-8)
    return nodes, (i, j), pi, np.bincount(start, slopes * rates / time, n), change


def picture(path, nodes, edited, pi, by_node, change):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    n, m = pi.size, nodes.max()
    band = abs(nodes.sum(1) - m / 2) < 2 * np.sqrt(m)
    x, y = (nodes @ [1, -1])[band], (nodes @ [1, 1])[band]
    top = np.max(np.abs(change)) * n / 4
    panels = (
        ("probability × n", pi, "viridis", np.linspace(0, n * pi.max(), 25)),
        ("∂ log T/∂ log (rates of a node) × n", by_node, "viridis_r", 24),
        ("∂ probability/∂ (one rate) × n", change, "RdBu_r", np.linspace(-top, top, 24)),
    )
    for axis, (title, values, colours, levels) in zip(axes, panels, strict=True):
        values = n * values[band]
        mesh = axis.tricontourf(x, y, values, levels, cmap=colours, extend="both")
        figure.colorbar(mesh, ax=axis, orientation="horizontal", format="%.1f")
        axis.set(title=title, xlabel="across, i − j")
    axes[0].set_ylabel("height, i + j")
    axes[2].plot(edited[0] - edited[1], sum(edited), "k.", label="the edited node")
    axes[2].legend()
    figure.savefig(path, dpi=100)


def main(small=False, figures=Path("docs/gallery")):
    for m in [14] if small else [14, 199]:
        results = study(m)
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "markov_chain.png", *results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a coarse grid")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
