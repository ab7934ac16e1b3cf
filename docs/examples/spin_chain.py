"""The ground state of a spin chain, matrix-free, and how an expectation value moves.

    python docs/examples/spin_chain.py [--small] [--figures FOLDER]

The Ising ring in a transverse field, H = −Σ Z_j Z_{j+1} − Σ h_j X_j, n = 12 spins. Its
ground state energy in a uniform field is −Σ_k √(1 + h² − 2h cos k), k = (2j + 1)π/n
(Pfeuty, Ann. Phys. 57 (1970) 79), and what is checked follows from it.
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
def hamiltonian(fields):
    n = fields.size
    spins = 1 - 2 * ((jnp.arange(2**n)[:, None] >> jnp.arange(n)) & 1)
    bonds = jnp.sum(spins * jnp.roll(spins, 1, axis=1), axis=1).astype(fields.dtype)

    def apply(v):
        flips = [flipped(v, j) for j in range(n)]
        return -bonds * v - fields @ jnp.stack(flips)

    return apply


def flipped(v, j):
    """X_j v."""
    return v.reshape(-1, 2, 2**j)[:, ::-1].reshape(-1)


def ground_state(fields):
    like = jax.ShapeDtypeStruct((2**fields.size,), fields.dtype)
    found = ieig.eigsh(hamiltonian(fields), 1, like=like)
    return found.eigenvalues[0], found.eigenvectors[:, 0]


def magnetisation(fields):
    """⟨Σ X_j⟩ in the ground state."""
    _, v = ground_state(fields)
    return sum(v @ flipped(v, j) for j in range(fields.size))


# --8<-- [end:chain]


def energy(h, n):
    k = (2 * jnp.arange(n) + 1) * jnp.pi / n
    return -jnp.sum(jnp.sqrt(1 + h**2 - 2 * h * jnp.cos(k)))


def main(small=False, figures=Path("docs/gallery")):
    n = 8 if small else 12
    uniform = jax.jit(jax.value_and_grad(lambda h: magnetisation(jnp.full(n, h))))
    check("energy", ground_state(jnp.full(n, 0.9))[0], energy(0.9, n), 1e-12)
    first = jax.grad(energy)
    strengths = np.linspace(0.6, 1.6, 5 if small else 15)
    found = np.array([uniform(h) for h in strengths])
    exact = np.array([[-first(h, n), -jax.grad(first)(h, n)] for h in strengths])
    check("⟨Σ X⟩ = −E′(h)", found[:, 0], exact[:, 0], 1e-9)
    check("its derivative = −E″(h)", found[:, 1], exact[:, 1], 1e-7)

    def correlation(fields):
        """⟨Z_0 Z_r⟩ across the ring."""
        _, v = ground_state(fields)
        index = jnp.arange(2**n)
        apart = ((index >> 0) ^ (index >> (n // 2))) & 1
        return jnp.sum(v**2 * (1 - 2 * apart))

    fields = jnp.full(n, 1.0)
    gradient = jax.grad(correlation)(fields)
    step = 1e-4 * jnp.eye(n)[1]
    difference = (correlation(fields + step) - correlation(fields - step)) / 2e-4
    check("one field: differences", gradient[1], difference, 1e-6)
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "spin_chain.png", strengths, found / n, exact / n, gradient)


def picture(path, strengths, found, exact, gradient):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for i, label in enumerate(("⟨X⟩ per spin", "its derivative in h")):
        left.plot(strengths, found[:, i], "o", label=label)
        left.plot(strengths, exact[:, i], "-", color="gray", lw=0.8)
    left.set(xlabel="field h", title="Lines: Pfeuty's solution")
    left.legend()
    right.bar(np.arange(gradient.size), gradient)
    right.set(
        xlabel="spin j", ylabel="∂⟨Z₀ Zᵣ⟩/∂h_j", title="At h = 1, r across the ring"
    )
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="eight spins")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
