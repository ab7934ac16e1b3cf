"""A mast whose lowest frequency is double, raised by moving material.

    python docs/examples/mast.py [--small] [--figures FOLDER]

A truss of square storeys with a load on top: K v = λ M v, λ = ω². It bends equally well in
x and in y, so the lowest eigenvalue is double in every symmetric design, and has no gradient.
The sum of 1/λ over the pair has, and each step keeps the symmetry. (Olhoff and Rasmussen,
Int. J. Solids Struct. 27, 1991, on double frequencies in optimal design.)
"""

import argparse
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)


def check(name, value, expected, tolerance):
    error = float(np.max(np.abs(np.asarray(value) - np.asarray(expected))))
    error /= float(np.max(np.abs(expected)))
    if not error <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: relative error {error:.1e}: FAILED")
    print(f"{name}: relative error {error:.1e} < {tolerance:g}: ok")


def mast(storeys):
    """Nodes, and bars: legs, rungs, and both diagonals of every face and every floor."""
    corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
    nodes = np.array([(x, y, z) for z in range(storeys + 1) for x, y in corners], float)
    bars = []
    for z, i in itertools.product(range(storeys), range(4)):
        low, high, beside = 4 * z, 4 * z + 4, (i + 1) % 4
        bars += [(low + i, high + i), (high + i, high + beside)]
        bars += [(low + i, high + beside), (low + beside, high + i)]
        if i < 2:
            bars.append((high + i, high + i + 2))
    return nodes, np.array(bars)


# --8<-- [start:mast]
def matrices(areas, nodes, bars):
    """K and M of bars of length ℓ: a/ℓ along each, half of its mass aℓ at either end, and a
    load on the top four nodes. The lowest four stand fast."""
    along = nodes[bars[:, 1]] - nodes[bars[:, 0]]
    length = np.linalg.norm(along, axis=1)
    stretch = np.zeros((len(bars), len(nodes), 3))
    for end, sign in ((0, -1), (1, 1)):
        stretch[np.arange(len(bars)), bars[:, end]] = sign * along / length[:, None]
    stretch = stretch.reshape(len(bars), -1)[:, 12:]
    stiffness = stretch.T @ (areas[:, None] / length[:, None] * stretch)
    ends = np.zeros((len(nodes), len(bars)))
    ends[bars.T, np.arange(len(bars))] = length / 2
    load = np.r_[np.zeros(len(nodes) - 4), np.full(4, 2.0)]
    return stiffness, jnp.diag(jnp.repeat((ends @ areas + load)[4:], 3))


def compliance(areas, nodes, bars):
    """Σ 1/λ over the lowest pair, and λ."""
    k, m = matrices(areas, nodes, bars)
    pair = ieig.invariant_subspace(k, 2, "SA", mass=m, hermitian=True)
    return jnp.sum(1 / pair.eigenvalues), pair.eigenvalues


def step(areas, nodes, bars):
    """Material to where it lowers Σ 1/λ the most, none lost, no bar thinner than 0.3."""
    grad = jax.value_and_grad(compliance, has_aux=True)
    (_, values), slope = grad(areas, nodes, bars)
    length = np.linalg.norm(nodes[bars[:, 1]] - nodes[bars[:, 0]], axis=1)
    mass = areas @ length
    new = areas * jnp.maximum(-slope / length, 1e-12) ** 0.2
    new = jnp.maximum(new * mass / (new @ length), 0.3)
    return new * mass / (new @ length), values


# --8<-- [end:mast]


def main(small=False, figures=Path("docs/gallery")):
    nodes, bars = mast(3 if small else 6)
    areas = jnp.ones(len(bars))
    k, m = (np.asarray(x) for x in matrices(areas, nodes, bars))
    slope = jax.grad(compliance, has_aux=True)(areas, nodes, bars)[0]
    # By its formula, from LAPACK's pairs: dλ = vᵀ (dK − λ dM) v.
    w, u = np.linalg.eigh(
        np.diag(m.diagonal() ** -0.5) @ k @ np.diag(m.diagonal() ** -0.5)
    )
    v = u[:, :2] / np.sqrt(m.diagonal())[:, None]
    parts = jax.jacfwd(lambda a: jnp.stack(matrices(a, nodes, bars)))(areas)
    turned = np.einsum("in,mijb,jn->mbn", v, np.asarray(parts), v)
    check("∂Σ1/λ/∂areas", slope, -(turned[0] - turned[1] * w[:2]) @ w[:2] ** -2, 1e-8)
    history = []
    for _ in range(5 if small else 15):
        areas, values = step(areas, nodes, bars)
        history.append(np.asarray(values))
    history = np.array(history)
    check("the pair is still a pair", history[-1, 0], history[-1, 1], 1e-9)
    if not history[-1, 0] > 2 * history[0, 0]:
        raise SystemExit(f"λ went from {history[0]} to {history[-1]}: FAILED")
    print(f"  λ from {history[0, 0]:.4f} to {history[-1, 0]:.4f}, material the same")
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "mast.png", nodes, bars, np.asarray(areas), history)


def picture(path, nodes, bars, areas, history):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure = plt.figure(figsize=(9, 4), layout="constrained")
    left = figure.add_subplot(1, 2, 1, projection="3d")
    for (i, j), area in zip(bars, areas, strict=True):
        left.plot(*nodes[[i, j]].T, color="tab:blue", lw=2 * area)
    left.set(title="Bars after the last step", box_aspect=(1, 1, 3))
    left.set_axis_off()
    right = figure.add_subplot(1, 2, 2)
    right.plot(history[:, 0], "o", label="λ₁")
    right.plot(history[:, 1], "+", label="λ₂")
    right.set(xlabel="step", title="The double lowest λ = ω²")
    right.legend()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="three storeys")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
