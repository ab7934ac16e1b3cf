"""Non-symmetric eigenvalue problems with known answers, differentiable in parameters."""

import jax.numpy as jnp
import numpy as np


def clement(n, above=1.0, below=1.0):
    """Kac's tridiagonal matrix (Clement 1959): ±(n − 1), ±(n − 3), … times √(above·below)."""
    i = jnp.arange(1.0, n)
    return jnp.diag(above * i, 1) + jnp.diag(below * i[::-1], -1)


def clement_eigenvalues(n):
    return np.arange(n - 1.0, -n, -2)


def hatano_nelson(n, below, centre, above):
    """A Toeplitz tridiagonal chain with unequal hopping: κ(V) = |below/above|^((n−1)/2)."""
    return (
        jnp.diag(below * jnp.ones(n - 1), -1)
        + jnp.diag(centre * jnp.ones(n))
        + jnp.diag(above * jnp.ones(n - 1), 1)
    )


def hatano_nelson_pairs(n, below, centre, above):
    """Eigenvalues, largest first, and vectors whose first entry is sin(kπ/(n+1))."""
    angle = jnp.arange(1.0, n + 1) * (jnp.pi / (n + 1))
    j = jnp.arange(1.0, n + 1)[:, None]
    vectors = (below / above) ** ((j - 1) / 2) * jnp.sin(j * angle)
    return centre + 2 * jnp.sqrt(below * above) * jnp.cos(angle), vectors


def frank(n):
    """Upper Hessenberg of determinant one; eigenvalues in reciprocal pairs (Frank 1958)."""
    row, column = np.indices((n, n))
    return jnp.asarray(np.where(row <= column + 1, n - np.maximum(row, column), 0.0))


FRANK_12 = [32.2288915, 20.1989886, 12.3110774, 6.96153309, 3.51185595, 1.55398871]


def random_walk(m, bias=1.0):
    """Stewart's walk on a triangular grid (Saad 1992): column-stochastic, n = (m+1)(m+2)/2.

    At (i, j) it steps down with probability ((i+j)/m)^bias, split evenly between the
    steps that stay on the grid, else up. Returns values, rows, columns and n.
    """
    state = {}
    for i in range(m + 1):
        for j in range(m + 1 - i):
            state[i, j] = len(state)
    rows, columns, height, share, down = [], [], [], [], []
    for (i, j), source in state.items():
        for sign in (-1, 1):
            ends = [(i + sign, j), (i, j + sign)]
            ends = [state[end] for end in ends if end in state]
            for end in ends:
                rows.append(end)
                columns.append(source)
                height.append((i + j) / m)
                share.append(1 / len(ends))
                down.append(sign < 0)
    height, share = jnp.asarray(height), jnp.asarray(share)
    # The power's derivative at height zero is never asked for: nothing steps down there.
    probability = jnp.where(height > 0, jnp.where(height > 0, height, 1.0) ** bias, 0.0)
    values = share * jnp.where(jnp.asarray(down), probability, 1 - probability)
    return values, np.array(rows), np.array(columns), len(state)


def brusselator(n, length, alpha=2.0, beta=5.45, diffusion=(0.008, 0.004)):
    """The linearised reaction–diffusion tube (Saad 1992) of order 2n: v ↦ A v."""
    tau = [d * ((n + 1) / length) ** 2 for d in diffusion]

    def laplacian(x):
        padded = jnp.pad(x, 1)
        return padded[2:] - 2 * x + padded[:-2]

    def mv(v):
        x, y = v[:n], v[n:]
        return jnp.concatenate(
            [
                tau[0] * laplacian(x) + (beta - 1) * x + alpha**2 * y,
                tau[1] * laplacian(y) - beta * x - alpha**2 * y,
            ]
        )

    return mv


def brusselator_blocks(n, length, alpha=2.0, beta=5.45, diffusion=(0.008, 0.004)):
    """The 2×2 blocks, of shape (n, 2, 2), whose eigenvalues are those of the operator;
    block j acts on the mode sin(jπx) of both components."""
    mode = -4 * jnp.sin(jnp.arange(1.0, n + 1) * (jnp.pi / (2 * (n + 1)))) ** 2
    tau = [d * ((n + 1) / length) ** 2 for d in diffusion]
    one = jnp.ones(n)
    return jnp.stack(
        [
            jnp.stack([tau[0] * mode + beta - 1, alpha**2 * one], axis=1),
            jnp.stack([-beta * one, tau[1] * mode - alpha**2], axis=1),
        ],
        axis=1,
    )


def brusselator_eigenvalues(n, length, **kwargs):
    """Closed form, shape (2n,)."""
    (a, b), (c, d) = jnp.moveaxis(brusselator_blocks(n, length, **kwargs), 0, -1)
    root = jnp.sqrt((((a - d) / 2) ** 2 + b * c).astype(complex))
    centre = ((a + d) / 2).astype(root.dtype)
    return jnp.concatenate([centre + root, centre - root])
