"""A first tour of `implicit_eig`: three problems, every number checked.

    python docs/examples/quickstart.py            # about a minute on two cores
    python docs/examples/quickstart.py --small    # a coarse grid: little but compilation
    python docs/examples/quickstart.py --no-plot  # without the picture

1. Killer whales: growth rate, sensitivities and elasticities of a 4×4 population matrix,
   against 50-digit arithmetic.
2. A stirred box: the slowest modes of a matrix-free convection-diffusion operator, and
   how they depend on every entry of the velocity field; three linear solvers swapped in,
   finite differences beside them.
3. The picture of it, `quickstart.png`.

The exit status is 1 when a check fails.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)

HERE = Path(__file__).resolve().parent
failed_checks = []


# ------------------------------------------------------------------------- printing


def check(error, limit):
    """`error < limit` as text; a failure is remembered for the exit status."""
    passed = bool(error < limit)  # NaN fails
    if not passed:
        failed_checks.append((error, limit))
    return f"{error:.1e} < {limit:.0e} {'ok' if passed else 'FAILED'}"


def table(*rows):
    """Prints rows of text in columns, the first row as their heading."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    rows.insert(1, ["─" * width for width in widths])
    for row in rows:
        print("   " + "  ".join(map(str.ljust, row, widths)).rstrip())
    print(flush=True)


def compiled(fn, *args):
    """`fn`, compiled for such arguments, so that no timing holds a compilation."""
    return jax.jit(fn).lower(*args).compile()


def seconds(fn, *args):
    """Runs `fn` and waits for it: its result, and how long it took."""
    began = time.perf_counter()
    result = jax.block_until_ready(fn(*args))
    return result, time.perf_counter() - began


# ------------------------------------------------------------- 1. a matrix: who grows


def killer_whales():
    """Brault & Caswell (1993): yearling, juvenile, mature, post-reproductive females.

    One pair of a dense array: the gradient of its eigenvalue needs no linear solve.
    """
    print("1. Killer whales: a 4×4 population matrix, against 50-digit arithmetic\n")
    reference = json.loads((HERE / "killer_whale.json").read_text())

    def growth(matrix):
        pair = ieig.eigs(matrix, k=1, which="LR")
        vector = pair.eigenvectors[:, 0].real
        return pair.eigenvalues[0].real, vector / jnp.sum(vector)

    @jax.jit
    def analyse(matrix):
        (rate, stages), sensitivities = jax.value_and_grad(growth, has_aux=True)(matrix)
        return {
            "growth rate": rate,  # λ
            "stage distribution": stages,  # w
            "sensitivities": sensitivities,  # ∂λ/∂a
            "elasticities": matrix / rate * sensitivities,  # ∂log λ/∂log a
            "derivatives of the distribution": jax.jacobian(
                lambda matrix: growth(matrix)[1]
            )(matrix),  # ∂w/∂a
        }

    computed = analyse(jnp.array(reference["matrix"]))
    rows = []
    for name in sorted(computed, key=list(reference).index):
        error = np.max(np.abs(computed[name] - np.array(reference[name])))
        rows.append((name, f"{np.max(computed[name]):.6f}", check(error, 1e-12)))
    table(("quantity", "largest entry", "largest error"), *rows)


# ------------------------------------------- 2. an operator: slow modes of a stirred box
#
# A scalar (heat, a dye) diffuses in the unit square, is stirred by a velocity field
# (a, b), and is lost at the walls. In units of the box and its diffusion time:
#
#     ∂u/∂t = A u,    A u = Δu − (a ∂u/∂x + b ∂u/∂y),    u = 0 on the boundary,
#
# by central differences on a grid of nx × ny interior points. What survives longest is
# the mode whose eigenvalue, the growth rate, is rightmost.


def spacing(shape):
    return 1 / (shape[0] + 1), 1 / (shape[1] + 1)


def grid(shape):
    """The coordinates of the interior points, each of the grid's shape."""
    axes = [np.arange(1, n + 1) / (n + 1) for n in shape]
    return np.meshgrid(*axes, indexing="ij")


def central_differences(u):
    """∂u/∂x and ∂u/∂y of a field that vanishes on the walls."""
    hx, hy = spacing(u.shape)
    p = jnp.pad(u, 1)
    return (
        (p[2:, 1:-1] - p[:-2, 1:-1]) / (2 * hx),
        (p[1:-1, 2:] - p[1:-1, :-2]) / (2 * hy),
    )


def laplacian(u):
    hx, hy = spacing(u.shape)
    p = jnp.pad(u, 1)
    along_x = p[2:, 1:-1] - 2 * u + p[:-2, 1:-1]
    along_y = p[1:-1, 2:] - 2 * u + p[1:-1, :-2]
    return along_x / hx**2 + along_y / hy**2


def convection_diffusion(velocity):
    """The operator, as a function: `eigs` needs no more than its products."""

    def apply(u):
        u_x, u_y = central_differences(u)
        return laplacian(u) - (velocity[0] * u_x + velocity[1] * u_y)

    return apply


def stirring(shape, speed=40.0):
    """Two counter-rotating cells of unequal size; an array of shape (2, nx, ny)."""
    x, y = (np.pi * coordinate for coordinate in grid(shape))
    velocity = np.zeros((2, *shape))
    # The stream function speed / 2π · Σ c sin(pπx) sin(qπy).
    for c, p, q in ((1.0, 2, 1), (0.4, 1, 2), (0.2, 1, 1)):
        velocity[0] += speed / 2 * c * q * np.sin(p * x) * np.cos(q * y)
        velocity[1] -= speed / 2 * c * p * np.cos(p * x) * np.sin(q * y)
    return velocity


def smooth_direction(shape, seed):
    """A random change of the velocity field, of largest speed one."""
    x, y = grid(shape)
    waves = np.pi * np.arange(1, 4)[:, None, None]
    weights = np.random.default_rng(seed).normal(size=(2, 3, 3))
    change = np.einsum("cij,ixy,jxy->cxy", weights, np.sin(waves * x), np.sin(waves * y))
    return change / np.max(np.hypot(*change))


def fast_poisson(shape):
    """The inverse of the Laplacian, by sine transforms: a good preconditioner for A."""

    def transform(n):
        j = np.arange(1, n + 1)
        sines = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(j, j) / (n + 1))
        return sines, -((2 * (n + 1) * np.sin(np.pi * j / (2 * (n + 1)))) ** 2)

    (sines_x, values_x), (sines_y, values_y) = transform(shape[0]), transform(shape[1])
    values = values_x[:, None] + values_y

    def solve(u):
        return sines_x @ ((sines_x @ u @ sines_y) / values) @ sines_y

    return lx.FunctionLinearOperator(
        solve, jax.ShapeDtypeStruct(shape, float), lx.symmetric_tag
    )


def rightmost(operator, start, k, adjoint=None):
    """The k rightmost eigenpairs. Differentiable; `adjoint` says who solves for that."""
    return ieig.eigs(
        operator,
        k=k,
        which="LR",
        like=start,
        v0=start,
        eigensolver=ieig.KrylovSchur(krylov_dim=40),
        adjoint=adjoint,
    )


def window_of_the_right_cell(shape):
    x, y = grid(shape)
    return np.exp(-((x - 0.74) ** 2 + (y - 0.64) ** 2) / (2 * 0.12**2))


def growth_and_share(modes):
    """The growth rate of the rightmost mode, and how much of it is in the right cell.

    Vectors have unit norm and an arbitrary phase: |v|² does not depend on it.
    """
    mode = modes.eigenvectors[..., 0]
    share = jnp.sum(window_of_the_right_cell(mode.shape) * (mode * mode.conj()).real)
    return jnp.stack([modes.eigenvalues[0].real, share])


def stirred_box(shape):
    """Returns what the picture shows: the velocity field, the mode, two gradients."""
    velocity = stirring(shape)
    x, y = grid(shape)
    start = x * (1 - x) * y * (1 - y)  # any vector will do; a good guess saves products
    cell = float(np.max(np.abs(velocity))) * max(spacing(shape))
    print(f"2. A stirred box: {shape[0]} × {shape[1]} grid, n = {start.size:_}")
    print(f"   largest velocity × spacing (cell Péclet number) {cell:.2f}\n")

    def modes_of(velocity, start):
        modes = rightmost(convection_diffusion(velocity), start, k=4)
        return modes, growth_and_share(modes)

    find = compiled(modes_of, velocity, start)
    (modes, _), wall = seconds(find, velocity, start)
    products = int(modes.stats["num_matvecs"])
    print(f"   The 4 rightmost modes: {products} products with A, {wall:.1f} s\n")
    rows = [
        (f"λ{i}", f"{w.real:.8f}", f"{w.imag:+.8f}", check(r, 1e-9))
        for i, (w, r) in enumerate(
            zip(modes.eigenvalues, modes.residuals, strict=True), start=1
        )
    ]
    table(("", "growth rate", "frequency", "residual |Av − λv| / |λ||v|"), *rows)

    # From here on the search starts from what was found. Real vectors: real arithmetic.
    found = modes.eigenvectors.real
    differences, direction = along_a_direction(find, velocity, found.sum(axis=-1))
    gradients = gradients_by_three_solvers(
        velocity, found[..., 0], differences, direction
    )
    return velocity, found[..., 0], gradients


def along_a_direction(find, velocity, start):
    """Central differences of both quantities along a random smooth direction.

    The step balances h² against the tolerance of the eigenvalues over h.
    """
    direction = smooth_direction(velocity.shape[1:], seed=7)
    step = 1e-2
    (ahead, behind), wall = seconds(
        lambda: [find(velocity + h * direction, start) for h in (step, -step)]
    )
    products = sum(int(modes.stats["num_matvecs"]) for modes, _ in (ahead, behind))
    print(
        f"   Central differences along a direction: {products} products, {wall:.1f} s\n"
    )
    return (ahead[1] - behind[1]) / (2 * step), direction


def three_linear_solvers(shape):
    """Who may solve the linear system of a derivative. `None` is the package's choice."""
    poisson = fast_poisson(shape)
    gmres = lx.GMRES(rtol=1e-8, atol=1e-12, restart=30)
    bicgstab = lx.BiCGStab(rtol=1e-8, atol=1e-12)
    return {
        "default: KrylovSylvester": None,
        "GMRES, fast Poisson": ieig.ImplicitAdjoint(gmres, preconditioner=poisson),
        "BiCGStab, fast Poisson": ieig.ImplicitAdjoint(bicgstab, preconditioner=poisson),
    }


def gradients_by_three_solvers(velocity, start, differences, direction):
    """The gradients of both quantities with respect to the whole velocity field.

    Krylov–Schur finds the pair each time; only who solves for its derivative changes.
    One pair is differentiated, so one pair is asked for.
    """
    print(f"   Gradients with respect to {velocity.size:_} velocities\n", flush=True)

    def operator(velocity):
        structure = jax.ShapeDtypeStruct(start.shape, start.dtype)
        return lx.FunctionLinearOperator(convection_diffusion(velocity), structure)

    # Counts products, those inside derivatives too. One counter for all: only the
    # operator in it is exchanged.
    counter = ieig.CountingOperator(operator(velocity))

    def quantity(velocity, which, adjoint):
        counted = eqx.tree_at(lambda c: c.operator, counter, operator(velocity))
        return growth_and_share(rightmost(counted, start, 1, adjoint))[which]

    programs = {}
    for name, adjoint in three_linear_solvers(start.shape).items():
        value_and_gradient = jax.value_and_grad(partial(quantity, adjoint=adjoint))
        programs[name] = compiled(value_and_gradient, velocity, 0)

    rows, gradients = [], []
    for which, quantity_name in enumerate(("growth rate", "share")):
        default = None
        for solver, program in programs.items():
            counter.reset()
            (value, gradient), wall = seconds(program, velocity, which)
            products, transposed = counter.counts()
            agreement = "–"
            if default is None:
                default = gradient
            else:
                gap = np.linalg.norm(gradient - default) / np.linalg.norm(default)
                agreement = check(gap, 1e-8)
            slope = np.vdot(gradient, direction) / differences[which]
            error = check(abs(slope - 1), 1e-5)
            row = (quantity_name, f"{value:.6f}", solver, products, transposed)
            rows.append((*row, f"{wall:.1f}", agreement, error))
        gradients.append(default)
    heading = ("gradient of", "value", "linear solver", "A", "Aᵀ", "s")
    table((*heading, "apart from default", "from differences"), *rows)
    return gradients


# -------------------------------------------------------------------------- 3. a picture


def picture(path, velocity, mode, gradients):
    """The mode, and the two gradients: where to push the flow, and which way."""
    print("3. A picture\n")
    try:
        import matplotlib
    except ImportError:
        print("   none: it needs matplotlib (pip install 'implicit_eig[plot]')\n")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    x, y = grid(mode.shape)
    area = np.prod(spacing(mode.shape))
    growth, share = (np.asarray(gradient) / area for gradient in gradients)
    mode = np.abs(mode)
    window = window_of_the_right_cell(mode.shape)
    arrows = np.s_[:: len(x) // 15, :: len(x) // 15]

    figure, axes = plt.subplots(
        1, 3, figsize=(15, 4.6), layout="constrained", sharey=True
    )
    panels = [
        (mode / mode.max(), "viridis", "|v| / max |v|", "the slowest mode, and the flow"),
        (
            np.hypot(*growth),
            "magma",
            "|∂λ/∂(a, b)| per unit area  [1 / L³]",
            "where to push the flow to raise λ",
        ),
        (
            np.hypot(*share),
            "magma",
            "|∂share/∂(a, b)| per unit area  [1 / (D L)]",
            "where to push it to fill the dashed window",
        ),
    ]
    for axis, (colour, colours, label, title) in zip(axes, panels, strict=True):
        image = axis.pcolormesh(x, y, colour, cmap=colours, shading="gouraud")
        figure.colorbar(image, ax=axis, label=label, fraction=0.046, pad=0.02)
        axis.contour(x, y, window, [0.5], colors="white", linestyles="dashed")
        axis.set(title=title, xlabel="x / L", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    axes[0].set_ylabel("y / L")
    flow = velocity[0].T, velocity[1].T
    axes[0].streamplot(x[:, 0], y[0], *flow, color="white", linewidth=0.7)
    for axis, (along_x, along_y) in zip(axes[1:], (growth, share), strict=True):
        pushes = along_x[arrows], along_y[arrows]
        axis.quiver(x[arrows], y[arrows], *pushes, color="white", width=0.004)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"   {path}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a coarse grid")
    parser.add_argument("--no-plot", action="store_true", help="no picture")
    parser.add_argument("--picture", default=HERE / "quickstart.png", help="its file")
    options = parser.parse_args()
    began = time.perf_counter()
    killer_whales()
    found = stirred_box((24, 25) if options.small else (201, 203))
    if not options.no_plot:
        picture(options.picture, *found)
    print(f"{time.perf_counter() - began:.0f} s altogether; ", end="")
    print(
        f"{len(failed_checks)} checks FAILED" if failed_checks else "every check passed"
    )
    return 1 if failed_checks else 0


if __name__ == "__main__":
    sys.exit(main())
