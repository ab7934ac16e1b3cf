"""Non-symmetric eigenvalue problems made from a formula, as coordinate triplets."""

import numpy as np


def random_walk(m):
    """Random walk on a triangular grid with m + 1 points a side (Stewart's MVMRWK): the
    column-stochastic transition matrix of order (m + 1)(m + 2)/2. Its spectrum is real and
    comes in pairs ±λ."""
    j, i = (x.ravel() for x in np.meshgrid(range(m + 1), range(m + 1), indexing="ij"))
    inside = i + j <= m
    j, i = j[inside], i[inside]
    number = np.full((m + 2, m + 2), -1)
    number[j, i] = np.arange(j.size)
    down = (i + j) / m
    up = 1 - down
    rows, columns, values = [], [], []
    # Towards the corner by either coordinate, all of it by one where the other is zero.
    steps = [
        (-1, 0, down * np.where(i > 0, 0.5, 1.0), j > 0),
        (0, -1, down * np.where(j > 0, 0.5, 1.0), i > 0),
        (1, 0, up / 2, i + j < m),
        (0, 1, up / 2, i + j < m),
    ]
    for dj, di, p, possible in steps:
        rows.append(number[j[possible] + dj, i[possible] + di])
        columns.append(number[j[possible], i[possible]])
        values.append(p[possible])
    return np.concatenate(values), np.concatenate(rows), np.concatenate(columns), j.size


def convection_diffusion(m, p=(25.0, 50.0, 250.0)):
    """h²(−Δu + p₁u_x + p₂u_y − p₃u) on the unit square, Dirichlet, central differences,
    m points a side (MVMMCD of the Matrix Market)."""
    h = 1 / (m + 1)
    b, g, s = p[0] * h, p[1] * h, p[2] * h * h
    number = np.arange(m * m).reshape(m, m)
    parts = [
        (number, number, 4 - s),
        (number[:, 1:], number[:, :-1], -(g + 1)),
        (number[:, :-1], number[:, 1:], g - 1),
        (number[1:], number[:-1], -(b + 1)),
        (number[:-1], number[1:], b - 1),
    ]
    rows = np.concatenate([r.ravel() for r, _, _ in parts])
    columns = np.concatenate([c.ravel() for _, c, _ in parts])
    values = np.concatenate([np.full(r.size, v) for r, _, v in parts])
    return values, rows, columns, m * m
