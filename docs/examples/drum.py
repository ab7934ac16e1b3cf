"""Modes of a square drum, two of which have one frequency.

    python docs/examples/drum.py [--small] [--figures FOLDER]

A membrane by five points, with a mass on every node: (1/ρ) (−Δ) v = ω² v. All is checked
against closed forms: modes sin(pπx) sin(qπy), and perturbation theory inside the pair.
"""

import argparse
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


# --8<-- [start:drum]
def drum(density):
    """The symmetric operator ρ^(−½) (−h²Δ) ρ^(−½), of which only products are needed."""
    scale = 1 / jnp.sqrt(density)

    def apply(v):
        u = jnp.pad(scale * v, 1)
        around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
        return scale * (4 * u[1:-1, 1:-1] - around)

    return apply


def pair(density):
    """ω² of the second and the third mode: one number, twice, on a uniform drum."""
    return ieig.eigsh(drum(density), 3, like=density, throw=False).eigenvalues[1:]


def total(density):
    return jnp.sum(pair(density))


def second(density):
    return pair(density)[0]


# --8<-- [end:drum]


def modes(m):
    """The two, on the grid, and their ω²."""
    x = np.arange(1, m + 1) * np.pi / (m + 1)
    first, other = (np.sin(k * x) * np.sqrt(2 / (m + 1)) for k in (1, 2))
    value = 4 - 2 * np.cos(x[0]) - 2 * np.cos(2 * x[0])
    return np.stack([np.outer(other, first), np.outer(first, other)]), value


def main(small=False, figures=Path("docs/gallery")):
    m = 12 if small else 30
    uniform = jnp.ones((m, m))
    v, value = modes(m)
    check("both copies of ω²", pair(uniform), [value, value], 1e-10)
    slope = jax.grad(total)(uniform)
    check("∂(ω₂² + ω₃²)/∂ρ = −ω² (v₂² + v₃²)", slope, -value * np.sum(v**2, 0), 1e-8)
    alone = jax.grad(second)(uniform)
    if not jnp.all(jnp.isnan(alone)):
        raise SystemExit(f"a derivative of one of the two: {alone}: FAILED")
    print("  ω₂² alone: derivative NaN")
    # A little mass at one place: the pair splits along ± the eigenvalues of a 2 × 2 matrix.
    spot = np.zeros((m, m))
    spot[m // 4, m // 4] = 1.0
    inside = -value * np.einsum("ixy,xy,jxy->ij", v, spot, v)
    slopes = np.linalg.eigvalsh(inside)
    masses = np.linspace(-0.5, 0.5, 5 if small else 21)
    split = jax.lax.map(lambda t: pair(uniform + t * spot), jnp.asarray(masses))
    step = 1e-5
    found = (pair(uniform + step * spot) - value) / step
    check("slopes to the right of the crossing", np.sort(found), slopes, 1e-4)
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "drum.png", slope, masses, np.asarray(split))


def picture(path, slope, masses, split):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    shown = left.imshow(slope, cmap="viridis")
    left.set(title="∂(ω₂² + ω₃²)/∂ρ: it exists", xticks=[], yticks=[])
    figure.colorbar(shown, ax=left)
    right.plot(masses, split[:, 0], "o-", label="ω₂²")
    right.plot(masses, split[:, 1], "s-", label="ω₃²")
    right.plot(masses, split.mean(1), "--", color="gray", label="their mean")
    right.set(xlabel="mass added at one node", title="One of two: a kink")
    right.legend()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a coarse grid")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
