"""Hydrodynamic stability: when does the flow between two plates become unstable?

    python docs/examples/orr_sommerfeld.py [--small] [--figures FOLDER]

A wave exp(iα(x − ct)) on plane Poiseuille flow U = 1 − y² grows where Im c > 0. Checked:
c of Orszag, J. Fluid Mech. 50 (1971) 689, at Re = 10⁴, α = 1, and his critical point,
Re = 5772.22, α = 1.02056. Lengths in half-widths, speeds in that of the centre line.
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
    if not error <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: {value}, expected {expected}: FAILED")
    print(f"{name}: {value}, expected {expected} within {tolerance:g}: ok")


def even_derivatives(degree):
    """y > 0, D² and D⁴ for even φ with φ = φ′ = 0 at y = ±1, at Chebyshev points.

    The clamped D⁴ is that of (1 − y²) q(y); Trefethen, Spectral Methods in MATLAB (2000).
    """
    y = np.cos(np.pi * np.arange(degree + 1) / degree)
    c = np.r_[2, np.ones(degree - 1), 2] * (-1.0) ** np.arange(degree + 1)
    d = np.outer(c, 1 / c) / (y[:, None] - y + np.eye(degree + 1))
    d -= np.diag(d.sum(1))
    d2, d3 = d @ d, d @ d @ d
    d4 = np.diag(1 - y**2) @ d3 @ d - 8 * np.diag(y) @ d3 - 12 * d2
    inner, half = slice(1, degree), (degree - 1) // 2
    scale = np.diag(1 / (1 - y[inner] ** 2))

    def fold(m):  # φ(−y) = φ(y): columns of −y are added to those of y
        return m[:half, :half] + m[:half, ::-1][:, :half]

    return y[1 : half + 1], fold(d2[inner, inner]), fold(d4[inner, inner] @ scale)


# --8<-- [start:pencil]
def orr_sommerfeld(alpha, reynolds, y, d2, d4):
    """A φ = c B φ. An odd `degree` leaves no point at y = 0."""
    one = jnp.eye(y.size)
    b = d2 - alpha**2 * one
    viscous = (d4 - 2 * alpha**2 * d2 + alpha**4 * one) / (alpha * reynolds)
    return jax.lax.complex((1 - y**2)[:, None] * b + 2 * one, viscous), b + 0j


def wave_speed(point, discretisation):
    """c of the least stable wave at `point` = (Re / 1000, α)."""
    a, b = orr_sommerfeld(point[1], 1000 * point[0], *discretisation)
    return ieig.eigs(a, k=1, which="LI", mass=b).eigenvalues[0]


# --8<-- [end:pencil]


# --8<-- [start:newton]
def expansion(point, discretisation):
    """c, and of Im c the first and second derivatives: one program serves all below."""

    def growth(point):
        c = wave_speed(point, discretisation)
        return c.imag, c

    def slope(point):
        gradient, c = jax.grad(growth, has_aux=True)(point)
        return gradient, (c, gradient)

    second, (c, first) = jax.jacfwd(slope, has_aux=True)(point)
    return c, first, second


def critical_point(expand, point):
    """Newton for Im c = 0 = ∂ Im c / ∂α: its Jacobian holds second derivatives."""
    for step in range(8):
        c, first, second = expand(point)
        value = jnp.stack([c.imag, first[1]])
        print(f"  {step}: Re = {1000 * point[0]:.4f}, α = {point[1]:.6f}", end="")
        print(f", Im c = {value[0]:+.1e}, ∂Im c/∂α = {value[1]:+.1e}")
        if jnp.max(jnp.abs(value)) < 1e-9:
            break
        point = point - jnp.linalg.solve(jnp.stack([first, second[1]]), value)
    return point


# --8<-- [end:newton]


# --8<-- [start:curve]
def neutral_curve(expand, point, steps, length):
    """Im c = 0: a step along the tangent, then Newton along the gradient."""
    scale = np.array([1.0, 0.03])  # steps of like size in Re / 1000 and in α
    points, last = [np.asarray(point)], np.array([0.0, np.sign(length)])
    gradient = np.asarray(expand(point)[1]) * scale
    for _ in range(steps):
        tangent = np.array([-gradient[1], gradient[0]]) / np.linalg.norm(gradient)
        last = tangent * np.sign(tangent @ last)
        here = points[-1] + abs(length) * last * scale
        for _ in range(3):
            c, gradient, _ = expand(jnp.asarray(here))
            gradient = np.asarray(gradient) * scale
            here = here - float(c.imag) * gradient / (gradient @ gradient) * scale
        points.append(here)
    return np.stack(points)


# --8<-- [end:curve]


def picture(path, c, curves, critical):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(c.real, c.imag, ".", color="tab:gray", label="even modes")
    left.plot(c[0].real, c[0].imag, "o", color="tab:red", label="the unstable one")
    left.axhline(0, color="gray", lw=0.8)
    left.set(xlim=(0, 1), ylim=(-1, 0.1), xlabel="Re c / U₀", ylabel="Im c / U₀")
    left.set_title("Wave speeds at Re = 10⁴, α = 1")
    left.legend()
    for curve in curves:
        right.plot(1000 * curve[:, 0], curve[:, 1], color="tab:blue")
    right.plot(
        1000 * critical[0],
        critical[1],
        "o",
        color="tab:orange",
        label="critical point (Newton)",
    )
    right.plot(10_000, 1, "s", color="tab:red", label="the wave on the left")
    right.set(xlabel="Reynolds number U₀h/ν", ylabel="wave number αh")
    right.set_title("Neutral curve Im c = 0; unstable inside")
    right.legend(loc=(0.45, 0.22))
    figure.savefig(path, dpi=100)


def main(small=False, figures=Path("docs/gallery")):
    discretisation = tuple(map(jnp.asarray, even_derivatives(61 if small else 81)))
    expand = jax.jit(lambda point: expansion(point, discretisation))
    c = complex(expand(jnp.array([10.0, 1.0]))[0])
    check("c at Re = 10⁴, α = 1", c, 0.23752649 + 0.00373967j, 2e-8)

    print("Newton for the critical point:")
    critical = critical_point(expand, jnp.array([6.0, 1.0]))
    reaches = ((2, 0.3), (2, -0.3)) if small else ((30, 0.3), (30, -0.3))
    curves = [neutral_curve(expand, critical, *reach) for reach in reaches]
    a, b = orr_sommerfeld(1.0, 1e4, *discretisation)
    spectrum = np.linalg.eigvals(np.linalg.solve(b, a))  # for the picture alone
    spectrum = spectrum[np.argsort(-spectrum.imag)]
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "orr_sommerfeld.png", spectrum, curves, critical)
    check("critical Reynolds number", float(1000 * critical[0]), 5772.22, 0.01)
    # Re is flat there along α: 1.3 units of the last digit that Orszag printed.
    check("critical wave number", float(critical[1]), 1.02056, 2e-5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a coarse grid")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
