"""Population biology: what growth depends on, from matrices in the literature.

    python docs/examples/population.py [--small] [--figures FOLDER]

Growth rate λ, its sensitivities ∂λ/∂a, its elasticities ∂log λ/∂log a, and what becomes of
them when adults live longer, of two stage-classified populations:

- killer whale, Brault & Caswell, Ecology 74 (1993) 1444, eq. 2: λ = 1.0254
- desert tortoise, Doak, Kareiva & Klepetka, Ecol. Appl. 4 (1994) 446: λ = 0.958

Checked against these, 50-digit arithmetic on the published matrices, and closed forms.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)

POPULATIONS = {  # the published growth rate, half a unit of its last digit; the adults
    "killer_whale": (1.0254, 5e-5, 2),
    "desert_tortoise": (0.958, 5e-4, 6),
}


def check(name, value, expected, tolerance):
    error = float(np.max(np.abs(np.asarray(value) - np.asarray(expected))))
    if not error <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: error {error:.1e} > {tolerance:g}: FAILED")
    print(f"{name}: error {error:.1e} < {tolerance:g}: ok")


# --8<-- [start:growth]
def growth(matrix):
    """λ, and the pair: stages in shares that sum to one, reproductive values uᴴv = 1."""
    shares = ieig.Functional(jnp.ones(matrix.shape[0]))
    pair = ieig.eigs(matrix, k=1, which="LR", left=True, gauge=shares)
    return pair.eigenvalues[0].real, pair


def analyse(matrix):
    (rate, pair), sensitivities = jax.value_and_grad(growth, has_aux=True)(matrix)
    return {
        "growth rate": rate,
        "stage distribution": pair.eigenvectors[:, 0].real,
        "reproductive values": pair.left_eigenvectors[:, 0].real,
        "sensitivities": sensitivities,
        "elasticities": matrix / rate * sensitivities,
    }


# --8<-- [end:growth]


# --8<-- [start:change]
@jax.jit
def analyse_with_change(matrix, row, column):
    """All of it, and its derivatives with respect to log a of one entry."""
    direction = jnp.zeros_like(matrix).at[row, column].set(matrix[row, column])
    return jax.jvp(analyse, (matrix,), (direction,))


# --8<-- [end:change]


def second_derivatives(matrix, row, column):
    """∂²λ/∂a∂a(row, column) by all eigenpairs: Caswell, Ecology 77 (1996) 870."""
    w, v = np.linalg.eig(matrix)
    first, *others = np.argsort(-w.real)
    u = np.linalg.inv(v).conj().T
    terms = np.einsum("im,jm->mij", u.conj(), v)  # ∂λ_m/∂a_ij
    rest = sum(terms[m] / (w[first] - w[m]) for m in others)
    s = terms[first]
    change = np.outer(s[:, column], rest[row]) + np.outer(rest[:, column], s[row])
    return change.real


def population(name):
    published, half_a_digit, adult = POPULATIONS[name]
    exact = json.loads((Path(__file__).parent / f"{name}.json").read_text())
    stages, matrix = exact["stages"], np.array(exact["matrix"])
    found, change = analyse_with_change(jnp.asarray(matrix), adult, adult)

    print(f"{name.replace('_', ' ')}, λ = {found['growth rate']:.6f}")
    print("  from           to                rate   ∂λ/∂a  elasticity  its change")
    for j, i in np.argwhere(matrix.T):
        rate, sensitivity = matrix[i, j], found["sensitivities"][i, j]
        elasticity, moves = found["elasticities"][i, j], change["elasticities"][i, j]
        print(f"  {stages[j]:14} {stages[i]:14}  {rate:.4f}  {sensitivity:.4f}", end="")
        print(f"      {elasticity:.4f}     {moves:+.4f}")
    check("published growth rate", found["growth rate"], published, half_a_digit)
    for key in ("growth rate", "stage distribution", "sensitivities", "elasticities"):
        check(f"{key}, 50 digits", found[key], exact[key], 1e-12)
    outer = np.outer(found["reproductive values"], found["stage distribution"])
    check("sensitivities are u vᵀ", found["sensitivities"], outer, 1e-12)
    check("sum of elasticities is 1", np.sum(found["elasticities"]), 1.0, 1e-12)
    check("sum of their changes is 0", np.sum(change["elasticities"]), 0.0, 1e-11)
    second = second_derivatives(matrix, adult, adult) * matrix[adult, adult]
    check("second derivatives, Caswell (1996)", change["sensitivities"], second, 1e-11)
    return stages, matrix, found, change


def picture(path, populations):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    shape = (len(populations), 3)
    figure, axes = plt.subplots(*shape, figsize=(11, 3.6 * shape[0]), squeeze=False)
    panels = {
        "sensitivity ∂λ/∂a": ("Greens", 0, "sensitivities"),
        "elasticity ∂log λ/∂log a": ("Blues", 0, "elasticities"),
        "∂ elasticity/∂ log (adult survival)": ("RdBu_r", -1, "elasticities"),
    }
    for row, (name, population) in zip(axes, populations.items(), strict=True):
        stages, matrix, found, change = population
        for axis, (title, (colours, low, key)) in zip(row, panels.items(), strict=True):
            table = np.asarray(change[key] if low else found[key])
            limit = np.max(np.abs(table[matrix != 0]))
            shown = np.where(matrix != 0, table, np.nan)
            axis.imshow(shown, cmap=colours, vmin=low * limit, vmax=limit)
            for i, j in np.argwhere(matrix):
                colour = "w" if abs(table[i, j]) > 0.6 * limit else "k"
                number = f"{table[i, j]:.2f}".replace("-0.00", "0.00")
                size = 9 if len(stages) < 5 else 7
                axis.text(j, i, number, ha="center", va="center", color=colour, size=size)
            axis.set_xticks(range(len(stages)), stages, rotation=40, ha="right")
            axis.set_yticks(range(len(stages)), [])
            axis.set(title=title, xlabel="from stage")
        row[0].set_yticks(range(len(stages)), stages)
        row[0].set_ylabel(f"{name.replace('_', ' ')}: to stage")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main(small=False, figures=Path("docs/gallery")):
    names = list(POPULATIONS)[: 1 if small else None]
    populations = {name: population(name) for name in names}
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "population.png", populations)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the killer whale alone")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
