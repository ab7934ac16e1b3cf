"""Resonances of an open, dispersive resonator, and a higher quality factor by gradient.

    python docs/examples/resonator.py [--small] [--figures FOLDER]

Light in layers open on both sides, E″ + ω² ε(x, ω) E = 0 with outgoing waves outside
(c = 1, exp(−iωt)): quasi-normal modes (QNMs) at complex ω, Q = −Re ω / 2 Im ω.

1. A slab without dispersion: ω = (mπ − i ln((n + 1)/(n − 1))) / (n d).
2. A slab of Lorentz permittivity, all modes in a region.
3. Mirrors around it: thicknesses and index, within bounds, for the largest Q.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)

THICKNESS = (0.05, 0.4)  # bounds of each layer of a mirror
INDEX = (1.5, 2.5)  # and of the dense ones


def check(name, value, expected, tolerance):
    error = float(np.max(np.abs(np.asarray(value) - np.asarray(expected))))
    error /= float(np.max(np.abs(expected)))
    if not error <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: relative error {error:.1e}: FAILED")
    print(f"{name}: relative error {error:.1e} < {tolerance:g}: ok")


# --8<-- [start:layers]
def lorentz(omega, strength=1.0, resonance=9.0, loss=0.01):
    """Permittivity of the core."""
    return 4.0 + strength * resonance**2 / (resonance**2 - omega**2 - 1j * loss * omega)


def through(field, omega, epsilon, thickness):
    """(E, E′) at the far side of a layer: entire in ω, whichever root k is taken."""
    k = omega * jnp.sqrt(epsilon)
    cos, sin = jnp.cos(k * thickness), jnp.sin(k * thickness)
    e, slope = field
    return jnp.array([cos * e + sin / k * slope, cos * slope - k * sin * e])


def condition(layers):
    """T(ω), 1 × 1: from an outgoing wave on the left to one on the right."""

    def T(omega):
        field = jnp.array([1.0, -1j * omega])
        for epsilon, thickness in layers(omega):
            field = through(field, omega, epsilon, thickness)
        return (field[1] - 1j * omega * field[0]).reshape(1, 1)

    return T


# --8<-- [end:layers]


# --8<-- [start:quality]
def quality(omega):
    return -omega.real / (2 * omega.imag)


def resonator(design):
    """A core between two mirrors of three layers, dense, thin, dense."""

    def layers(omega):
        dense = design["index"] ** 2
        a, b, c = design["mirror"]
        mirror = [(dense, a), (1.0 + 0.0 * omega, b), (dense, c)]
        return [*mirror, (lorentz(omega), design["core"]), *mirror[::-1]]

    return layers


def log_quality(design, guess):
    mode = ieig.nonlinear_eigs(condition(resonator(design)), guess=guess).eigenvalues[0]
    return jnp.log(quality(mode)), mode


# --8<-- [end:quality]


def slab(index, thickness, order):
    """Without dispersion, in closed form."""
    leak = np.log((index + 1) / (index - 1))
    return (order * np.pi - 1j * leak) / (index * thickness)


def plain_slab(index=2.2, thickness=1.0):
    exact = slab(index, thickness, np.array([2, 5]))

    def qualities(index, thickness):
        T = condition(lambda omega: [(index**2 + 0 * omega, thickness)])
        modes = ieig.nonlinear_eigs(T, 2, guess=exact + 0.05).eigenvalues
        return quality(modes), modes

    derivatives = jax.jacobian(qualities, argnums=(0, 1), has_aux=True)
    (by_index, by_thickness), modes = derivatives(index, thickness)
    check("slab", modes, exact, 1e-12)
    # Q = mπ/2L with L = ln((n + 1)/(n − 1)) and ∂L/∂n = −2/(n² − 1), whatever d is.
    leak = np.log((index + 1) / (index - 1))
    expected = np.pi * np.array([2, 5]) / (index**2 - 1) / leak**2
    check("∂Q/∂n", by_index, expected, 1e-10)
    if not np.max(np.abs(by_thickness)) < 1e-10:
        raise SystemExit("∂Q/∂d is not zero: FAILED")


# --8<-- [start:region]
def dispersive_slab(thickness=1.0):
    """All modes below the resonance of the material, where many more pile up."""
    T = condition(lambda omega: [(lorentz(omega), thickness)])
    region = ieig.Rectangle(0.5 - 1.0j, 7.5 + 0.2j)
    contour = ieig.Contour(num_nodes=128, num_moments=10)
    return ieig.nonlinear_eigs(T, 8, region=region, eigensolver=contour), region


# --8<-- [end:region]


def lorentz_slab():
    found, region = dispersive_slab()
    number = int(found.stats["num_inside"])
    modes = np.asarray(found.eigenvalues[:number])
    print(f"  {number} modes in the region")
    # The closed form at n(ω), a fixed point: n(ω) d ω = mπ − i ln((n + 1)/(n − 1)).
    modes = modes[np.argsort(modes.real)]
    n = np.sqrt(lorentz(modes))
    phase = n * modes + 1j * np.log((n + 1) / (n - 1))
    check("closed form at n(ω)", phase, np.pi * np.round(phase.real / np.pi), 1e-10)
    print("  orders", np.round(phase.real / np.pi).astype(int))
    return modes, region


def bounded(low, high, x):
    return low + (high - low) * jax.nn.sigmoid(x)


def as_design(free):
    return {
        "mirror": bounded(*THICKNESS, free["mirror"]),
        "index": bounded(*INDEX, free["index"]),
        "core": bounded(0.4, 0.6, free["core"]),
    }


# --8<-- [start:raise]
def cost(free, guess, target):
    """log Q is raised while Re ω stays where it is."""
    value, mode = log_quality(as_design(free), guess)
    return 100 * (mode.real / target - 1) ** 2 - value, mode


cost_and_slope = jax.jit(jax.value_and_grad(cost, has_aux=True))


def raise_quality(free, guess, steps):
    adam = optax.adam(0.1)
    state, history, target = adam.init(free), [], guess.real
    for _ in range(steps):
        (_, guess), slope = cost_and_slope(free, guess, target)  # the next guess
        history.append((guess, as_design(free)))
        update, state = adam.update(slope, state)
        free = optax.apply_updates(free, update)
    return history


# --8<-- [end:raise]


def field_of(design, omega, points):
    """|E|² through the layers, and where these begin and end."""
    field, edge, x, intensity, edges = jnp.array([1.0, -1j * omega]), 0.0, [], [], [0.0]
    for epsilon, thickness in resonator(design)(omega):
        inside = np.linspace(0.0, thickness, points)
        e = jax.vmap(lambda s: through(field, omega, epsilon, s)[0])(inside)  # noqa: B023
        x.append(edge + inside)
        intensity.append(np.abs(e) ** 2)
        field = through(field, omega, epsilon, thickness)
        edge += float(thickness)
        edges.append(edge)
    x, intensity = np.concatenate(x), np.concatenate(intensity)
    return x - edge / 2, intensity / intensity.max(), np.array(edges) - edge / 2


def design(steps):
    free = {"mirror": jnp.zeros(3), "index": jnp.zeros(()), "core": jnp.zeros(())}
    history = raise_quality(free, 4.66 - 0.13j, steps)

    # The gradient against a difference along a line.
    start, step = history[0][0], 1e-4

    def moved(h):
        along = jax.tree.map(lambda x: x + h, free)
        return cost_and_slope(along, start, start.real)

    slope = sum(jnp.sum(x) for x in jax.tree.leaves(moved(0.0)[1]))
    up, down = moved(step)[0][0], moved(-step)[0][0]
    check("gradient, by a difference", slope, (up - down) / (2 * step), 1e-6)

    for number in (0, steps // 4, steps // 2, steps - 1):
        mode, best = history[number]
        text = f"ω = {mode:.4f}, Q = {quality(mode):.1f}, index {best['index']:.3f}"
        print(f"  step {number:3d}: {text}, mirror {np.round(best['mirror'], 3)}")
    (before, _), (after, best) = history[0], history[-1]
    if not quality(after) > 2 * quality(before):
        raise SystemExit("Q was not raised: FAILED")
    # The best mirror is known: quarter waves, n d = π/(2 Re ω).
    quarter = np.pi / (2 * after.real)
    index = np.array([best["index"], 1.0])
    check("quarter waves", index * best["mirror"][:2], quarter, 0.02)
    return history


def picture(path, modes, region, history):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    plain = slab(2.0, 1.0, np.arange(1, 5))
    style = {"color": "tab:blue", "mfc": "none"}
    left.plot(plain.real, plain.imag, "s", label="n = 2, closed form", **style)
    left.plot(modes.real, modes.imag, "o", color="tab:red", label="Lorentz slab")
    nodes = np.asarray(region.quadrature(128)[0])
    left.plot(nodes.real, nodes.imag, ".", color="tab:gray", ms=3, label="nodes")
    left.set(xlabel="Re ω", ylabel="Im ω", title="QNMs below the resonance")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 0.06))
    for (mode, layers), color in zip(
        (history[0], history[-1]), ("tab:gray", "tab:red"), strict=True
    ):
        x, intensity, edges = field_of(layers, mode, 60)
        right.plot(x, intensity, color=color, label=f"Q = {quality(mode):.0f}")
    for i in (0, 2, 3, 4, 6):  # of the last design
        shade = "tab:orange" if i == 3 else "tab:blue"
        right.axvspan(edges[i], edges[i + 1], color=shade, alpha=0.15, lw=0)
    right.set(
        xlabel="x", ylabel="|E|² / largest", title="Before and after; mirrors, core"
    )
    right.legend()
    figure.savefig(path, dpi=100)


def main(small=False, figures=Path("docs/gallery")):
    print("1. Slab")
    plain_slab()
    print("2. Lorentz slab")
    modes, region = lorentz_slab()
    print("3. Design")
    history = design(120 if small else 400)
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "resonator.png", modes, region, history)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few steps")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
