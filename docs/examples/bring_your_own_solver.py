"""Bring your own solver: ARPACK finds the modes of a channel, `attach` differentiates them.

    python docs/examples/bring_your_own_solver.py [--small] [--figures FOLDER]

A dye in a stream, −Δu + c·∇u + q u = λ u with u = 0 at the walls of a rectangle. Checked: the
closed form of the eigenvalues of central differences at q = 0 and its derivative in c, and
differences between runs of ARPACK. SLEPc's pairs go the same way: docs/how-do-i/slepc.md.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)

SIZE = np.array([1.0, 0.7])
STREAM = np.array([6.0, 2.0])


def check(name, value, expected, tolerance):
    error = float(np.max(np.abs(np.asarray(value) - np.asarray(expected))))
    error /= float(np.max(np.abs(expected)))
    if not error <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: relative error {error:.1e} > {tolerance:g}: FAILED")
    print(f"{name}: relative error {error:.1e} < {tolerance:g}: ok")


def pattern(shape):
    """Rows and columns of the centre, the east, west, north and south neighbours."""
    index = np.arange(shape[0] * shape[1]).reshape(shape)
    east, west = (index[:-1], index[1:]), (index[1:], index[:-1])
    north, south = (index[:, :-1], index[:, 1:]), (index[:, 1:], index[:, :-1])
    parts = [(index, index), east, west, north, south]
    rows, columns = (np.concatenate([p[i].ravel() for p in parts]) for i in (0, 1))
    return rows, columns, [p[0].size for p in parts]


# --8<-- [start:attach]
def entries(stream, absorption, shape, sizes):
    """The values of the matrix, differentiable in both."""
    h = jnp.asarray(SIZE) / (jnp.asarray(shape) + 1)
    centre = 2 * jnp.sum(1 / h**2) + absorption
    ahead, behind = -1 / h**2 + stream / (2 * h), -1 / h**2 - stream / (2 * h)
    neighbours = [ahead[0], behind[0], ahead[1], behind[1]]
    return jnp.concatenate(
        [centre, *(jnp.full(s, x) for s, x in zip(sizes[1:], neighbours, strict=True))]
    )


def by_arpack(values, rows, columns, k):
    """Pairs nearest to zero, and left ones: SciPy knows nothing of JAX."""
    n = rows.max() + 1
    a = scipy.sparse.csc_array((np.asarray(values), (rows, columns)), shape=(n, n))
    w, v = scipy.sparse.linalg.eigs(a, k, sigma=0, v0=np.ones(n))
    left, u = scipy.sparse.linalg.eigs(a.T, k, sigma=0, v0=np.ones(n))
    # Each sorts its own: Aᵀū = λ̄ū is the left vector of λ.
    order, left_order = np.argsort(w.real), np.argsort(left.real)
    return w[order], v[:, order], u[:, left_order].conj()


# --8<-- [end:attach]


# --8<-- [start:loss]
def modes(stream, absorption, pairs, shape):
    """ARPACK's pairs as a function of the coefficients."""
    rows, columns, sizes = pattern(shape)
    values = entries(stream, absorption, shape, sizes)
    operator = ieig.SparseOperator(values, rows, columns, rows.max() + 1)
    return ieig.attach(operator, *pairs)


def decay(stream, absorption, pairs, shape):
    """The slowest rate, which takes no linear solve: the left vectors are there."""
    return modes(stream, absorption, pairs, shape).eigenvalues[0].real


def upstream(stream, absorption, pairs, shape):
    """The share of the slowest mode in the left half, which takes one."""
    density = jnp.abs(modes(stream, absorption, pairs, shape).eigenvectors[:, 0]) ** 2
    return jnp.sum(density.reshape(shape)[: shape[0] // 2]) / jnp.sum(density)


# --8<-- [end:loss]


def closed_form(stream, shape):
    """All eigenvalues at q = 0, and their derivatives in the stream: sums of those of two
    tridiagonal Toeplitz matrices, d + 2√(bc) cos(jπ/(m + 1))."""
    h, parts, slopes = SIZE / (np.array(shape) + 1), [], []
    for m, hx, c in zip(shape, h, stream, strict=True):
        root = np.sqrt(1 / hx**4 - (c / (2 * hx)) ** 2)
        cosine = np.cos(np.arange(1, m + 1) * np.pi / (m + 1))
        parts.append(2 / hx**2 - 2 * root * cosine)
        slopes.append(c / (2 * hx**2) / root * cosine)
    values = parts[0][:, None] + parts[1]
    slopes = np.broadcast_arrays(slopes[0][:, None], slopes[1])
    order = np.argsort(values, axis=None)
    return values.ravel()[order], np.stack([s.ravel()[order] for s in slopes], axis=1)


def picture(path, shape, w, exact, gradients):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    axes[0].plot(exact[: 2 * w.size], "o", mfc="none", label="closed form")
    axes[0].plot(w.real, "x", label="ARPACK")
    axes[0].set(xlabel="number", ylabel="λ [diffusivity / length²]")
    axes[0].set_title("Decay rates, slowest first")
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend()
    titles = ["∂λ₁/∂q: where absorption counts", "∂(share upstream)/∂q"]
    for axis, title, field in zip(axes[1:], titles, gradients, strict=True):
        field = np.asarray(field).reshape(shape).T * field.size
        most = np.abs(field).max()
        how = {"cmap": "RdBu_r", "vmin": -most, "vmax": most, "origin": "lower"}
        drawn = axis.imshow(field, extent=(0, SIZE[0], 0, SIZE[1]), **how)
        axis.set(
            title=title, xlabel="x / length (the stream goes right)", ylabel="y / length"
        )
        figure.colorbar(drawn, ax=axis, shrink=0.8, label="per unit of area fraction")
    figure.savefig(path, dpi=100)


def main(small=False, figures=Path("docs/gallery")):
    shape, k = ((20, 14), 4) if small else ((60, 42), 6)
    rows, columns, sizes = pattern(shape)
    stream, absorption = jnp.asarray(STREAM), jnp.zeros(shape[0] * shape[1])

    def find(stream, absorption):
        return by_arpack(entries(stream, absorption, shape, sizes), rows, columns, k)

    pairs = find(stream, absorption)
    exact, slopes = closed_form(STREAM, shape)
    check("eigenvalues, closed form", pairs[0], exact[:k], 1e-11)
    rates = jax.jit(jax.grad(decay, (0, 1)), static_argnums=3)
    in_stream, in_absorption = rates(stream, absorption, pairs, shape)
    check("∂λ₁/∂(stream), closed form", in_stream, slopes[0], 1e-9)

    share = jax.jit(jax.value_and_grad(upstream, 1), static_argnums=3)
    _, sensitivity = share(stream, absorption, pairs, shape)
    direction = np.random.default_rng(0).normal(size=absorption.size)
    there, back = (
        share(stream, q, find(stream, q), shape)[0]
        for q in (absorption + 1e-3 * direction, absorption - 1e-3 * direction)
    )
    difference = (there - back) / 2e-3
    check("∂(share upstream), differences", sensitivity @ direction, difference, 1e-5)

    # What ARPACK did not find well is not taken.
    w, v, u = pairs
    noise = 1e-4 * np.random.default_rng(1).normal(size=v.shape)
    try:
        decay(stream, absorption, (w, v + noise, u), shape)
    except RuntimeError as error:
        told = next(line for line in str(error).splitlines() if "residual" in line)
        print("noise on the vectors:", told.strip()[:200])
    else:
        raise SystemExit("unconverged pairs were taken: FAILED")

    figures.mkdir(parents=True, exist_ok=True)
    path = figures / "bring_your_own_solver.png"
    picture(path, shape, pairs[0], exact, (in_absorption, sensitivity))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a coarse grid")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
