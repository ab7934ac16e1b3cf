"""Waveguide modes: the index of a mode, its gradient, and a shape that moves it.

    python docs/examples/waveguide.py [--small] [--figures FOLDER]

Quasi-TE modes of a silicon strip in oxide at 1.55 µm, semi-vectorial: the field E
along x, ∂x ε⁻¹ ∂x (ε E) + ∂y² E + k₀² ε E = β² E, effective index β / k₀. Not symmetric
where ε jumps. Lengths in µm. Needs optax. Checked: the TM mode
of a slab, whose dispersion equation is a closed form; gradients, against differences.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)

K0 = 2 * np.pi / 1.55
CORE, CLADDING = 3.476**2, 1.444**2


def check(name, value, expected, tolerance):
    if not abs(value - expected) <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: {value:.8g}, expected {expected:.8g}: FAILED")
    print(f"{name}: {value:.8g}, expected {expected:.8g} within {tolerance:g}: ok")


def centres(shape, size):
    """The middles of the cells, as a column x and a row y."""
    x, y = (
        (np.arange(n) + 0.5) / n * s - s / 2 for n, s in zip(shape, size, strict=True)
    )
    return x[:, None], y[None, :]


def unit(field):
    return field.ravel() / np.linalg.norm(field)


# --8<-- [start:operator]
def operator(epsilon, size):
    """The sparse matrix of a permittivity map; E = 0 outside. Differentiable in ε."""
    nx, ny = epsilon.shape
    hx, hy = size[0] / nx, size[1] / ny
    number = np.arange(nx * ny).reshape(nx, ny)
    # εE and ε⁻¹∂x(εE) are continuous: between two cells ε is their mean.
    padded = jnp.pad(epsilon, ((1, 1), (0, 0)), mode="edge")
    between = 2 / (padded[1:] + padded[:-1]) / hx**2
    diagonal = (K0**2 - between[1:] - between[:-1]) * epsilon - 2 / hy**2
    vertical = jnp.full((nx, ny - 1), 1 / hy**2)
    left, right = between[1:-1] * epsilon[:-1], between[1:-1] * epsilon[1:]
    rows = (number, number[1:], number[:-1], number[:, 1:], number[:, :-1])
    columns = (number, number[:-1], number[1:], number[:, :-1], number[:, 1:])
    values = (diagonal, left, right, vertical, vertical)
    rows, columns = (np.concatenate([p.ravel() for p in x]) for x in (rows, columns))
    values = jnp.concatenate([p.ravel() for p in values])
    return ieig.SparseOperator(values, rows, columns, nx * ny)


def mode(epsilon, size, index, like, fibre):
    """Near a target index the mode most like a given field: n_eff, power in a fibre's."""
    a, sigma = operator(epsilon, size), (K0 * index) ** 2
    pair = ieig.eigs(a, 1, ieig.Overlap(like), sigma=sigma, v0=like)
    n_eff = jnp.sqrt(pair.eigenvalues[0].real) / K0
    v = pair.eigenvectors[:, 0]  # of unit norm; the overlap has no phase in it
    values = jnp.stack([n_eff, jnp.abs(jnp.vdot(fibre + 0j, v)) ** 2])
    return values, (values, v.real)


# Both gradients from one factorisation; one program serves all below.
solve = jax.jit(jax.jacrev(mode, has_aux=True))
# --8<-- [end:operator]


def slab_index(width):
    """Fundamental TM mode: tan(κw/2) = (ε₁/ε₂) γ/κ, by bisection."""
    lower, upper = np.sqrt(CLADDING), np.sqrt(CORE)
    for _ in range(60):
        index = (lower + upper) / 2
        kappa, gamma = K0 * np.sqrt(CORE - index**2), K0 * np.sqrt(index**2 - CLADDING)
        phase = kappa * width / 2 - np.arctan(CORE / CLADDING * gamma / kappa)
        lower, upper = (index, upper) if phase > 0 else (lower, index)
    return float(index)  # a NumPy number would be another type to `jit`


def check_slab(shape, tolerance, width=0.48):
    """A map uniform in y, where the mode is a sine, whose part of β² is known.

    Interfaces are half-way between cells for both spacings: the order is two.
    """
    exact, found = slab_index(width), []
    for length in (2.4, 1.6):
        size = np.array([length, 1.2])
        x, y = centres(shape, size)
        epsilon = np.where(np.abs(x) < width / 2, CORE, CLADDING) + 0 * y
        like = unit(np.exp(-((x / 0.2) ** 2)) * np.cos(np.pi * y / size[1]))
        _, (values, _) = solve(epsilon, size, exact, like, like)
        sine = (2 * shape[1] / size[1] * np.sin(np.pi / (2 * (shape[1] + 1)))) ** 2
        found.append(np.sqrt(float(values[0]) ** 2 + sine / K0**2))
        print(f"  cells of {length / shape[0] * 1e3:.1f} nm: slab index {found[-1]:.6f}")
    errors, ratio = np.abs(np.array(found) - exact), 1.5
    check("slab, order", np.log(errors[0] / errors[1]) / np.log(ratio), 2, 0.05)
    limit = (ratio**2 * found[1] - found[0]) / (ratio**2 - 1)
    check("slab index, extrapolated", limit, exact, tolerance)


def check_gradients(gradients, epsilon, others, step=1e-4):
    """Along a random change of the whole map, and of one pixel at a side wall."""
    pixel = np.zeros(epsilon.shape)
    pixel[np.argmax(epsilon.max(1) > 2 * CLADDING), epsilon.shape[1] // 2] = 1
    whole = np.random.default_rng(0).standard_normal(epsilon.shape)
    for where, change in (("whole map", whole), ("one pixel", pixel)):
        ends = [solve(epsilon + s * change, *others)[1][0] for s in (step, -step)]
        differences = np.asarray(ends[0] - ends[1]) / (2 * step)
        slopes = np.sum(np.asarray(gradients) * change, axis=(1, 2))
        for i, name in enumerate(("∂n_eff", "∂overlap")):
            tolerance = 1e-5 * abs(differences[i])
            check(f"{name}, {where}", slopes[i], differences[i], tolerance)


# --8<-- [start:design]
def design(epsilon_of, rho, size, target, like, fibre, steps):
    """Moves the index of one mode to a target; the mode is followed by its overlap."""
    # Polyak's step halves n_eff − target wherever that is linear.
    optimiser = optax.polyak_sgd(max_learning_rate=np.inf)

    @jax.jit
    def update(rho, state, distance, gradient):
        _, pull_back = jax.vjp(epsilon_of, rho)
        slope = pull_back(2 * distance * gradient)[0]
        updates, state = optimiser.update(slope, state, rho, value=distance**2)
        return optax.apply_updates(rho, updates), state

    state, history = optimiser.init(rho), []
    for i in range(steps + 1):
        epsilon = epsilon_of(rho)
        # `like` is the mode of the last step: another one may lie nearer to the target.
        gradients, (values, like) = solve(epsilon, size, target, like, fibre)
        history.append(np.asarray(values))
        print(f"  step {i:2d}: n_eff = {values[0]:.5f}, overlap {values[1]:.4f}")
        rho, state = update(rho, state, values[0] - target, gradients[0])
    return like, epsilon, np.stack(history)


# --8<-- [end:design]


def picture(path, size, epsilon, panels, history, target):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, axes = plt.subplots(2, 2, figsize=(10, 5.4), layout="constrained")
    x, y = centres(epsilon.shape, size)
    for axis, (values, title, colours, low) in zip(axes.flat, panels, strict=False):
        ends = np.abs(values).max() * np.array([low, 1])
        image = axis.pcolormesh(x[:, 0], y[0], values.T, cmap=colours)
        image.set_clim(*ends)
        core = np.asarray(epsilon > CLADDING).T * 1.0
        axis.contour(x[:, 0], y[0], core, [0.5], colors="gray", linewidths=0.8)
        axis.set(title=title, xlabel="x [µm]", ylabel="y [µm]", aspect="equal")
        figure.colorbar(image, ax=axis, shrink=0.8)
    last = axes[1, 1]
    last.plot(history[:, 0], ".-", label="followed mode")
    last.axhline(target, color="gray", ls=":", label="target")
    last.set(xlabel="step", ylabel="effective index", title="Inverse design")
    last.legend()
    figure.savefig(path, dpi=100)


def main(small=False, figures=Path("docs/gallery")):
    shape, size = (40, 24) if small else (120, 64), np.array([2.4, 1.2])
    check_slab(shape, 1e-4 if small else 2e-6)

    x, y = centres(shape, size)
    core = (np.abs(x) < 0.6) & (np.abs(y) < 0.15)
    fibre = unit(np.exp(-(x**2 + y**2) / 0.3**2))

    @jax.jit
    def epsilon_of(rho):
        return CLADDING + (CORE - CLADDING) * jax.nn.sigmoid(rho) * core

    rho = jnp.ones(shape)
    start = epsilon_of(rho)
    others = (size, 2.8, fibre, fibre)
    gradients, (values, like) = solve(start, *others)
    target = float(values[0]) - 0.2
    odd = unit(x * np.exp(-(x**2 + y**2) / 0.3**2))
    second = solve(start, size, target, odd, fibre)[1][0][0]
    print(f"  n_eff = {values[0]:.5f}, of the odd mode {second:.5f}, target {target:.5f}")
    check_gradients(gradients, np.asarray(start), others)

    field, epsilon, history = design(epsilon_of, rho, size, target, like, fibre, 10)
    figures.mkdir(parents=True, exist_ok=True)
    field, gradients = np.abs(field).reshape(shape), np.asarray(gradients)
    panels = [
        (field / field.max(), "Designed mode, |E| / largest", "viridis", 0),
        (gradients[0] * 1e3, "∂n_eff/∂ε of a pixel, · 10³", "RdBu_r", -1),
        (gradients[1] * 1e3, "∂overlap/∂ε of a pixel, · 10³", "RdBu_r", -1),
    ]
    picture(figures / "waveguide.png", size, epsilon, panels, history, target)
    check("designed index", history[-1, 0], target, 1e-3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a coarse grid")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
