"""Dampers of a chain of masses, placed by gradient.

    python docs/examples/dampers.py [--small] [--figures FOLDER]

Masses between springs and two walls, each with a viscous damper to the ground:
(λ²M + λC + K) v = 0. Which dampers, of a given sum, let the slowest mode decay fastest?

1. Proportional damping, λ² + cλ + μ_j = 0, and two masses by hand.
2. Equal masses: the 2n eigenvalues sum to −tr C, so no placing beats −tr C/2n.
3. One heavy mass: no closed form, and proportional damping is not the best.
4. The modes in a region, by a contour integral and by the argument principle.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)

BUDGET = 2.0  # the sum of all dampers


def check(name, value, expected, tolerance):
    error = float(np.max(np.abs(np.asarray(value) - np.asarray(expected))))
    error /= float(np.max(np.abs(expected)))
    if not error <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: relative error {error:.1e}: FAILED")
    print(f"{name}: relative error {error:.1e} < {tolerance:g}: ok")


# --8<-- [start:chain]
def chain(masses, dampers):
    """(K, C, M), all springs 1."""
    n = masses.size
    stiffness = 2 * jnp.eye(n) - jnp.eye(n, k=1) - jnp.eye(n, k=-1)
    return stiffness, jnp.diag(dampers), jnp.diag(masses)


def all_modes(masses, dampers):
    return ieig.polyeig(chain(masses, dampers), 2 * masses.size, "LR").eigenvalues


# --8<-- [end:chain]


# --8<-- [start:design]
def slowest(shares, masses, sharpness):
    """The largest real part, smoothed: at the best placing many modes attain it."""
    dampers = BUDGET * jax.nn.softmax(shares)  # positive, of the given sum
    modes = all_modes(masses, dampers)
    smooth = jax.nn.logsumexp(sharpness * modes.real) / sharpness
    return smooth, (modes, dampers)


slope_of = jax.jit(jax.grad(slowest, has_aux=True))


def place(masses, shares, steps):
    """From the first to the best: largest real parts, and dampers."""
    adam = optax.adam(0.1)
    state, rates, placings = adam.init(shares), [], []
    for step in range(steps):
        sharpness = 100.0 if step < steps // 2 else 400.0
        slope, (modes, dampers) = slope_of(shares, masses, sharpness)
        rates.append(modes.real.max())
        placings.append(dampers)
        update, state = adam.update(slope, state)
        shares = optax.apply_updates(shares, update)
    best = np.argmin(rates)
    return rates[0], rates[best], placings[best]


# --8<-- [end:design]


def modes_of(masses, dampers):
    """All modes, by the program of the design."""
    return np.asarray(slope_of(jnp.log(dampers / BUDGET), masses, 100.0)[1][0])


def closed_forms(n):
    c = BUDGET / n
    modes = modes_of(jnp.ones(n), jnp.full(n, c))
    mu = 4 * np.sin(np.arange(1, n + 1) * np.pi / (2 * (n + 1))) ** 2
    upper = -c / 2 + 1j * np.sqrt(mu - c**2 / 4)
    found = modes[modes.imag > 0]
    found = found[np.argsort(found.imag)]
    check("proportional damping", found, upper, 1e-12)

    # Two masses: p(λ) = q₁q₂ − 1 with q_i = λ² + c_i λ + 2, and ∂λ/∂c₁ = −λ q₂/p′.
    dampers = np.array([0.5, 0.1])
    q1, q2 = (np.poly1d([1.0, c, 2.0]) for c in dampers)
    p = q1 * q2 - 1
    root = p.roots[np.argmax(p.roots.real)]
    slopes = (-root * q(root) / p.deriv()(root) for q in (q2, q1))

    def abscissa(dampers):
        return ieig.polyeig(chain(jnp.ones(2), dampers), 1, "LR").eigenvalues[0].real

    found, slope = jax.value_and_grad(abscissa)(dampers)
    check("two masses", found, root.real, 1e-12)
    check("two masses, derivatives", slope, [x.real for x in slopes], 1e-12)


def equal_masses(n, steps):
    crowded = jnp.zeros(n).at[0].set(2.0)
    first, rate, _ = place(jnp.ones(n), crowded, steps)
    print(f"  half of it on one mass: {first:.4f}; placed: {rate:.4f}")
    check("trace bound −tr C/2n", rate, -BUDGET / (2 * n), 2e-2)
    if rate < -BUDGET / (2 * n) * (1 + 1e-9):
        raise SystemExit("below the bound: FAILED")


def heavy_mass(n, steps):
    masses = jnp.ones(n).at[2].set(4.0)
    proportional = -BUDGET / (2 * masses.sum())
    modes = modes_of(masses, BUDGET * masses / masses.sum())
    check("proportional damping, all modes", modes.real, proportional, 1e-12)
    even, rate, dampers = place(masses, jnp.zeros(n), steps)
    print(f"  even: {even:.4f}; proportional: {proportional:.4f}; placed: {rate:.4f}")
    if not rate < 1.05 * proportional:
        raise SystemExit("no better than proportional damping: FAILED")
    print(f"  on the heavy mass: {dampers[2] / BUDGET:.1%} of the damping")
    return masses, dampers, {"even": even, "proportional": proportional, "placed": rate}


# --8<-- [start:region]
def modes_inside(masses, dampers, region, num_nodes):
    stiffness, damping, mass = chain(masses, dampers)

    def T(z):
        return stiffness + z * damping + z**2 * mass

    def slope(z):
        return damping + 2 * z * mass

    found = ieig.nonlinear_eigs(
        T, masses.size, region=region, eigensolver=ieig.Contour(num_nodes)
    )
    # The argument principle, on the same nodes: (1/2πi) ∮ tr T(z)⁻¹T′(z) dz.
    nodes, weights = region.quadrature(num_nodes)
    logarithmic = jnp.linalg.solve(jax.vmap(T)(nodes), jax.vmap(slope)(nodes))
    traces = jnp.trace(logarithmic, axis1=1, axis2=2)
    count = jnp.sum(weights * traces) / 2j / jnp.pi
    return found, count, nodes


# --8<-- [end:region]


def contour(masses, dampers):
    region = ieig.Rectangle(-0.3 + 0.13j, 0.1 + 1.25j)
    found, count, nodes = modes_inside(masses, dampers, region, 128)
    everything = modes_of(masses, dampers)
    inside = np.asarray(region.contains(jnp.asarray(everything)))
    number = int(found.stats["num_inside"])
    print(f"  {number} of {everything.size} modes inside; counted {count.real:.6f}")
    check("argument principle", count, number, 1e-3)
    expected = everything[inside]
    order = np.argsort(-expected.imag)
    eigenvalues = found.eigenvalues[:number]
    eigenvalues = eigenvalues[np.argsort(-eigenvalues.imag)]
    check("found in the region", eigenvalues, expected[order], 1e-10)
    return np.asarray(eigenvalues), everything[~inside], np.asarray(nodes)


def picture(path, design, plane):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    masses, dampers, rates = design
    site = np.arange(1, masses.size + 1)
    left.bar(site, dampers, color="tab:red", label=f"placed: {rates['placed']:.3f}")
    share = BUDGET * masses / masses.sum()
    label = f"proportional: {rates['proportional']:.3f}"
    left.step(site, share, where="mid", color="tab:blue", label=label)
    label = f"even: {rates['even']:.3f}"
    left.axhline(BUDGET / site.size, color="tab:gray", ls="--", label=label)
    left.text(3, share[2] + 0.02, "heavy", ha="center")
    left.set(xlabel="mass", ylabel="damper", title="Dampers, and the largest Re λ")
    left.set_ylim(0, 1.05)
    left.legend(loc="upper right")
    found, outside, nodes = plane
    right.plot(
        nodes.real, nodes.imag, ".-", color="tab:gray", ms=4, lw=0.6, label="nodes"
    )
    right.plot(found.real, found.imag, "o", color="tab:red", label="found")
    style = {"mfc": "none", "color": "tab:blue", "label": "outside: not found"}
    right.plot(outside.real, outside.imag, "o", **style)
    right.set(xlabel="Re λ", ylabel="Im λ", title=f"{found.size} modes in a rectangle")
    right.set(xlim=(-0.35, 0.15))
    right.legend(loc="lower right")
    figure.savefig(path, dpi=100)


def main(small=False, figures=Path("docs/gallery")):
    n, steps = 8, 120 if small else 400
    print("1. Closed forms")
    closed_forms(n)
    print("2. Equal masses")
    equal_masses(n, steps)
    print("3. A heavy mass")
    design = heavy_mass(n, steps)
    print("4. Modes in a region")
    plane = contour(*design[:2])
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "dampers.png", design, plane)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few steps")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
