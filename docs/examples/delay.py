"""Where a delayed feedback goes unstable, traced by Newton's method.

    python docs/examples/delay.py [--small] [--figures FOLDER]

1. x′(t) = −x(t) + b x(t − τ). Characteristic equation λ + 1 = b exp(−λτ), solved by the
   branches of Lambert's W function, λ = W(bτ exp(τ))/τ − 1; for b < −1 the boundary of
   stability is τ = arccos(1/b)/√(b² − 1).
2. An oscillator that gains energy, held by a delayed force:
   x″ − 2g x′ + x = b x(t − τ). Closed forms too; its boundaries enclose islands.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import lambertw

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)

GAIN = 0.03  # growth rate of the oscillator without feedback


def check(name, value, expected, tolerance):
    error = float(np.max(np.abs(np.asarray(value) - np.asarray(expected))))
    error /= float(np.max(np.abs(expected)))
    if not error <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: relative error {error:.1e}: FAILED")
    print(f"{name}: relative error {error:.1e} < {tolerance:g}: ok")


# --8<-- [start:delay]
def delayed(A, B):
    """T(λ) of x′(t) = A x(t) + b B x(t − τ), for p = (b, τ)."""
    eye = jnp.eye(len(A))
    return lambda p: lambda z: z * eye - A - p[0] * jnp.exp(-p[1] * z) * B


def growth_of(A, B):
    """The growth rate of the mode near a guess, and its eigenvalue for the next guess."""
    T = delayed(A, B)

    def growth(p, guess):
        mode = ieig.nonlinear_eigs(T(p), guess=guess).eigenvalues[0]
        return mode.real, mode

    return growth


# --8<-- [end:delay]


# --8<-- [start:trace]
def newton_on(growth):
    """A step back onto `growth(p) = 0`, along the gradient; and the tangent there."""

    @jax.jit
    def newton(p, guess):
        (value, mode), slope = jax.value_and_grad(growth, has_aux=True)(p, guess)
        return p - value * slope / (slope @ slope), slope, mode, value

    return newton


def trace(newton, p, guess, step, count, top=1.0):
    """Follows the curve in the (b, τ) plane: a step along it, then Newton's method."""
    curve = []
    while len(curve) < count and p[0] < top:
        for _ in range(8):
            p, slope, guess, value = newton(p, guess)
            if abs(value) < 1e-14:
                break
        curve.append((*p, guess, *slope))
        p = p + step * jnp.array([-slope[1], slope[0]]) / jnp.linalg.norm(slope)
    return [np.array(column) for column in zip(*curve, strict=True)]


# --8<-- [end:trace]


def lambert(b, tau, branch=0):
    return lambertw(b * tau * np.exp(tau), branch) / tau - 1


def lambert_derivatives(b, tau):
    """First and second derivatives of the principal one in (b, τ), by hand from
    W′(x) = W/(x(1 + W))."""
    w = lambertw(b * tau * np.exp(tau))
    s, rate = w / (1 + w), 1 / tau + 1
    ds = w / (1 + w) ** 3  # x d/dx of s
    first = np.array([s / (b * tau), rate * s / tau - w / tau**2])
    bb = (ds - s) / (b**2 * tau)
    bt = (rate * ds - s / tau) / (b * tau)
    tt = rate**2 * ds / tau - 2 * rate * s / tau**2 + 2 * w / tau**3 - s / tau**3
    return first.real, np.array([[bb, bt], [bt, tt]]).real


def arccos_boundary(b):
    return jnp.arccos(1 / b) / jnp.sqrt(b**2 - 1)


def one_mode(count):
    """All modes in a region against Lambert's W, then the boundary from one of them."""
    one, p = jnp.ones((1, 1)), jnp.array([-2.0, 1.5])
    region = ieig.Rectangle(-2.0 - 12.0j, 1.0 + 12.0j)
    found = ieig.nonlinear_eigs(
        delayed(-one, one)(p),
        6,
        region=region,
        eigensolver=ieig.Contour(128, num_moments=6),
    )
    number = int(found.stats["num_inside"])
    branches = lambert(-2.0, 1.5, np.arange(-6, 6))
    branches = branches[np.asarray(region.contains(jnp.asarray(branches)))]
    order = np.argsort(branches.imag)
    modes = found.eigenvalues[:number]
    print(f"  {number} modes in the region")
    check("all modes, Lambert W", modes[np.argsort(modes.imag)], branches[order], 1e-10)

    growth, start = growth_of(-one, one), modes[np.argmax(modes.real)]
    newton = newton_on(growth)
    first, second = lambert_derivatives(-2.0, 1.5)
    check("∂Re λ, Lambert W", newton(p, start)[1], first, 1e-10)
    hessian = jax.jit(jax.hessian(growth, has_aux=True))(p, start)[0]
    check("∂²Re λ, Lambert W", hessian, second, 1e-9)

    p = jnp.array([-1.5, 2.3])
    b, tau, mode, by_b, by_tau = trace(newton, p, start, 0.12, count)
    check("boundary, arccos", tau, arccos_boundary(b), 1e-10)
    check("frequency on it", np.abs(mode.imag), np.sqrt(b**2 - 1), 1e-10)
    slope = jax.vmap(jax.grad(arccos_boundary))(b)
    check("its slope", -by_b / by_tau, slope, 1e-10)
    return b, tau


def hopf(b, sign):
    """The frequency at which a pair crosses, and the first delay at which it does:
    1 − ω² − 2igω = b exp(−iωτ)."""
    c = 1 - 2 * GAIN**2
    omega = np.sqrt(c + sign * np.sqrt(c**2 - 1 + b**2))
    return omega, np.angle(b / (1 - omega**2 - 2j * GAIN * omega)) % (2 * np.pi) / omega


def unstable_pairs(b, tau):
    """One without delay; faster crossings add one each, slower ones take one away."""
    number = np.ones(np.shape(tau), int)
    if b <= 2 * GAIN * np.sqrt(1 - GAIN**2):
        return number  # no delay changes it
    for sign in (1, -1):
        omega, first = hopf(b, sign)
        turns = np.floor((tau - first) * omega / (2 * np.pi)) + 1
        number = number + sign * np.maximum(turns, 0).astype(int)
    return number


def oscillator(count):
    A = jnp.array([[0.0, 1.0], [-1.0, 2 * GAIN]])
    B = jnp.array([[0.0, 0.0], [1.0, 0.0]])

    # --8<-- [start:count]
    @jax.jit
    def count_unstable(p):
        right = ieig.Rectangle(-2.0j, 1.5 + 2.0j)  # no mode grows faster than this
        contour = ieig.Contour(256, num_moments=4)
        T = delayed(A, B)(p)
        return ieig.nonlinear_eigs(T, 8, region=right, eigensolver=contour).stats

    # --8<-- [end:count]

    points = [(0.04, 3.0), (0.5, 1.5), (0.5, 4.5), (0.2, 8.0), (0.6, 9.0)]
    found = [int(count_unstable(jnp.array(p))["num_inside"]) for p in points]
    print(f"  modes in the right half-plane at five points: {found}")
    check("their number", found, [2 * unstable_pairs(*p) for p in points], 0)

    newton, curves = newton_on(growth_of(A, B)), []
    for turn, gain in enumerate((0.8, 0.4)):
        omega, tau = hopf(gain, 1)
        p = jnp.array([gain, tau + 0.05 + 2 * np.pi * turn / omega])
        b, tau, mode, *_ = trace(newton, p, 1j * omega, 0.1, count, top=0.85)
        curves.append((b, tau))
        omega, first = np.where(mode.imag > 1, hopf(b, 1), hopf(b, -1))
        # Within rounding of the fold, ω² is the root of next to nothing.
        check(f"island {turn + 1}, frequency", mode.imag, omega, 1e-8)
        turns = np.round((tau - first) * omega / (2 * np.pi))
        check(f"island {turn + 1}, delay", tau, first + 2 * np.pi * turns / omega, 1e-8)
    return curves


def picture(path, boundary, islands):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    b, tau = np.linspace(-5.5, 1.0, 130), np.linspace(0.05, 2.5, 100)
    rate = lambert(b[:, None], tau[None, :]).real
    shades = left.contourf(
        tau, b, rate, np.linspace(-1.2, 1.2, 13), cmap="RdBu_r", extend="both"
    )
    figure.colorbar(shades, ax=left, label="growth rate max Re λ (Lambert W)")
    curve = np.linspace(-5.5, -1.08, 200)
    left.plot(arccos_boundary(curve), curve, color="black", label="arccos(1/b)/√(b² − 1)")
    left.plot(
        boundary[1], boundary[0], "o", color="gold", mec="black", ms=5, label="traced"
    )
    left.set(xlabel="delay τ", ylabel="feedback b", title="x′ = −x + b x(t − τ)")
    left.set(xlim=(0.05, 2.5), ylim=(-5.5, 1.0))
    left.legend(loc="lower right", frameon=True, labelcolor="black")
    b, tau = np.linspace(0.0, 0.98, 300), np.linspace(0.0, 12.0, 600)
    pairs = np.array([unstable_pairs(x, tau) for x in b])
    right.contourf(tau, b, pairs, [-0.5, 0.5, 1.5, 2.5, 3.5], cmap="Reds")
    for i, (b, tau) in enumerate(islands):
        label = "traced" if i == 0 else None
        right.plot(tau, b, "o", color="gold", mec="black", ms=4, label=label)
    right.set(xlabel="delay τ", ylabel="feedback b", xlim=(0, 12), ylim=(0, 0.98))
    right.set_title("x″ − 2g x′ + x = b x(t − τ)")
    right.text(1.35, 0.5, "stable", ha="center", color="black")
    right.text(4.7, 0.5, "one unstable pair", ha="center", color="black")
    right.text(9.0, 0.8, "two", ha="center", color="black")
    right.legend(loc="lower right", frameon=True, labelcolor="black")
    figure.savefig(path, dpi=100)


def main(small=False, figures=Path("docs/gallery")):
    print("1. One variable")
    boundary = one_mode(12 if small else 40)
    print("2. An oscillator")
    islands = oscillator(10 if small else 45)
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "delay.png", boundary, islands)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few points")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
