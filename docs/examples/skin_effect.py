"""Non-Hermitian physics: the skin effect, and derivatives at an exceptional point.

    python docs/examples/skin_effect.py [--small] [--figures FOLDER]

1. The Hatano–Nelson chain (Phys. Rev. Lett. 77 (1996) 570): hopping t e^g to the right,
   t e^−g to the left. Energies 2t cos(kπ/(n + 1)), all vectors piled up at one end.
2. Two coupled sites with gain iγ and loss −iγ: E = ±√(t² − γ²), which meet at γ = t.

All is checked against closed forms. Energies in units of t.
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


# --8<-- [start:chain]
def hatano_nelson(n, t, g, bond):
    """`bond` links the last site back to the first one."""
    right = jnp.diag(jnp.full(n - 1, t * jnp.exp(g)), -1)
    left = jnp.diag(jnp.full(n - 1, t * jnp.exp(-g)), 1)
    return (right + left).at[0, -1].add(bond)


def top_energy(parameters, n):
    matrix = hatano_nelson(n, *parameters)
    solution = ieig.eigs(matrix, k=1, which="LR", left=True)
    return solution.eigenvalues[0].real, solution


# --8<-- [end:chain]


def chain(n, g):
    # The k = 1 mode: v_j = e^(gj) sin(jπ/(n + 1)), its left vector has e^(−gj).
    j = np.arange(1, n + 1)
    sine = np.sin(j * np.pi / (n + 1))
    v, u = np.exp(g * j) * sine, np.exp(-g * j) * sine
    slopes, solution = jax.grad(top_energy, has_aux=True)((1.0, g, 0.0), n)
    energy, kappa = 2 * np.cos(np.pi / (n + 1)), np.linalg.norm(u) * np.linalg.norm(v)
    check("energy", solution.eigenvalues[0], energy, 1e-10)
    check("condition number κ", solution.condition_numbers[0], kappa / (u @ v), 1e-8)
    check("∂E/∂t", slopes[0], energy, 1e-8)
    # A bond that closes the ring joins the large ends of both: e^(g(n−1)) times stronger.
    check("∂E/∂bond", slopes[2], u[0] * v[-1] / (u @ v), 1e-8)
    print(f"  n = {n}, g = {g}: κ = {solution.condition_numbers[0]:.2e}")
    print(f"  ∂E/∂g = {slopes[1]:.1e} (0 exactly), ∂E/∂bond = {slopes[2]:.3e}")
    vector = np.abs(np.asarray(solution.eigenvectors[:, 0]))
    left = np.abs(np.asarray(solution.left_eigenvectors[:, 0]))
    return vector / vector.max(), left / left.max()


# --8<-- [start:point]
def three_sites(gamma, t=1.0):
    """Gain and loss, coupled by t, and a third site at energy 3 that looks on."""
    real = jnp.array([[0.0, t, 0.5], [t, 0.0, 0.2], [0.0, 0.0, 3.0]])
    return real + 1j * gamma * jnp.diag(jnp.array([1.0, -1.0, 0.0]))


def upper_energy(gamma):
    """One of the two: no derivative where they meet."""
    pair = ieig.eigs(three_sites(gamma), k=2, which="SM", throw=False)
    defective = pair.result == ieig.RESULTS.defective
    return jnp.max(pair.eigenvalues.real), defective


def sum_of_squares(gamma):
    """E₁² + E₂² = 2(t² − γ²), from the two as one cluster: smooth everywhere."""
    block = ieig.invariant_subspace(three_sites(gamma), k=2, which="SM").block
    return jnp.trace(block @ block).real


def evolution(gamma, time):
    """exp(−iHτ) of the two sites, a function of the matrix: smooth everywhere."""
    return ieig.funm(three_sites(gamma)[:2, :2], lambda e: jnp.exp(-1j * e * time))


# --8<-- [end:point]


def exceptional_point(slope, defective):
    if not (jnp.isnan(slope) and defective):
        raise SystemExit(f"a derivative at the exceptional point: {slope}: FAILED")
    print(f"  one energy at γ = t: derivative {slope}, reported as defective")
    check("cluster, ∂(E₁² + E₂²)/∂γ at γ = t", jax.grad(sum_of_squares)(1.0), -4.0, 1e-8)
    # exp(−iHτ) = cos Ωτ − i H sin Ωτ/Ω with Ω² = t² − γ², expanded at Ω = 0.
    time = 2.0
    h, dh = np.array([[1j, 1], [1, -1j]]), np.diag([1j, -1j])
    expected = time**2 * np.eye(2) - 1j * time**3 / 3 * h - 1j * time * dh
    found = jax.jacfwd(evolution)(1.0, time)
    check("funm, ∂exp(−iHτ)/∂γ at γ = t", found, expected, 1e-8)


def slopes_near_the_point(count):
    """At the point itself, and at distances from it, in one batch."""
    distance = np.append(np.logspace(-1, -10, count), 0.0)
    slope, defective = jax.vmap(jax.grad(upper_energy, has_aux=True))(1 - distance)
    exceptional_point(slope[-1], defective[-1])
    distance, slope = distance[:-1], slope[:-1]
    exact = (1 - distance) / np.sqrt(distance * (2 - distance))
    check("∂E/∂γ at γ = 0.9 t", -slope[0], exact[0], 1e-10)
    return distance, np.asarray(-slope), exact


def picture(path, vectors, near):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for vector, label in zip(vectors, ("right vector", "left vector"), strict=True):
        left.semilogy(np.arange(1, vector.size + 1), vector, ".-", label=label)
    left.set(xlabel="site", ylabel="|amplitude| / largest")
    left.set_title("Skin effect: left and right hardly meet")
    left.legend()
    distance, slope, exact = near
    right.loglog(distance, exact, color="tab:gray", label="γ / √(t² − γ²)")
    right.loglog(distance, slope, "o", color="tab:red", label="computed (gap: NaN)")
    right.set(xlabel="1 − γ/t", ylabel="|∂E/∂γ|", title="Towards the exceptional point")
    right.invert_xaxis()
    right.legend()
    figure.savefig(path, dpi=100)


def main(small=False, figures=Path("docs/gallery")):
    print("1. Hatano–Nelson chain")
    vectors = chain(20 if small else 40, 0.3)
    print("2. Exceptional point")
    near = slopes_near_the_point(7 if small else 28)
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "skin_effect.png", vectors, near)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a short chain")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
