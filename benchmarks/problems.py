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


def brusselator(m, length=0.51302, d=(0.008, 0.004), alpha=2.0, beta=5.45):
    """The linearised reaction–diffusion tube of order 2m (Saad's MVMBWM); at this length
    the rightmost pair is ±2.1395i."""
    t = [x * ((m + 1) / length) ** 2 for x in d]
    i = np.arange(m)
    one = np.ones(m)
    blocks = [
        (i, i, -2 * t[0] + beta - 1),
        (i, m + i, alpha**2),
        (m + i, i, -beta),
        (m + i, m + i, -2 * t[1] - alpha**2),
    ]
    for first, diffusion in ((0, t[0]), (m, t[1])):
        blocks += [(first + i[1:], first + i[:-1], diffusion)]
        blocks += [(first + i[:-1], first + i[1:], diffusion)]
    rows = np.concatenate([r for r, _, _ in blocks])
    columns = np.concatenate([c for _, c, _ in blocks])
    values = np.concatenate([v * one[: r.size] for r, _, v in blocks])
    return values, rows, columns, 2 * m


def waveguide(m, wavelength=1.55, width=1.5, height=0.22, size=(4.0, 2.0)):
    """Semi-vectorial modes, quasi-TE, of a silicon strip in oxide, lengths in µm:
    ∂x ε⁻¹ ∂x (ε E) + ∂y² E + k₀² ε E = β² E, on 2m×m points. Not symmetric where ε jumps."""
    nx, ny = 2 * m, m
    x = (np.arange(nx) + 0.5) / nx * size[0] - size[0] / 2
    y = (np.arange(ny) + 0.5) / ny * size[1] - size[1] / 2
    inside = (np.abs(x)[:, None] < width / 2) & (np.abs(y) < height / 2)
    epsilon = np.where(inside, 3.476**2, 1.444**2)
    hx, hy = size[0] / nx, size[1] / ny
    k0 = 2 * np.pi / wavelength
    number = np.arange(nx * ny).reshape(nx, ny)
    # Between two cells of a row 1/ε is that of their mean.
    between = 2 / (epsilon[1:] + epsilon[:-1]) / hx**2
    loss = np.zeros_like(epsilon)
    loss[1:] += between
    loss[:-1] += between
    # Outside there is nothing but oxide, and E = 0.
    loss[[0, -1]] += 1 / epsilon[[0, -1]] / hx**2
    parts = [
        (number[1:], number[:-1], between * epsilon[:-1]),
        (number[:-1], number[1:], between * epsilon[1:]),
        (number[:, 1:], number[:, :-1], np.full((nx, ny - 1), 1 / hy**2)),
        (number[:, :-1], number[:, 1:], np.full((nx, ny - 1), 1 / hy**2)),
        (number, number, k0**2 * epsilon - loss * epsilon - 2 / hy**2),
    ]
    rows, columns, values = (
        np.concatenate([p[i].ravel() for p in parts]) for i in range(3)
    )
    return values, rows, columns, nx * ny


def complex_shift(m, p=(25.0, 50.0, 250.0)):
    """Convection–diffusion with a complex, varying diagonal."""
    values, rows, columns, n = convection_diffusion(m, p)
    shift = 1j * np.linspace(0, 1, n) ** 2
    index = np.arange(n)
    return (
        np.concatenate([values.astype(complex), shift]),
        np.concatenate([rows, index]),
        np.concatenate([columns, index]),
        n,
    )


def separated(n):
    """Upper bidiagonal, eigenvalues 1, 1/2, 1/3 …: as hard at every order."""
    i = np.arange(n)
    values = np.concatenate([1 / (1 + i), np.full(n - 1, 0.05)])
    rows, columns = np.concatenate([i, i[:-1]]), np.concatenate([i, i[1:]])
    return values, rows, columns, n


def ladder(n):
    """Upper bidiagonal, eigenvalues 1, 0.99, …, 0.01 and small ones: room for many pairs."""
    i = np.arange(n)
    diagonal = np.where(i < 100, 1 - i / 100, -i / n)
    values = np.concatenate([diagonal, np.full(n - 1, 0.002)])
    rows, columns = np.concatenate([i, i[:-1]]), np.concatenate([i, i[1:]])
    return values, rows, columns, n


# Of convection–diffusion: the six largest eigenvalues have condition numbers below 100, and
# beyond 1/eps.
MILD, HARSH = (3.0, 7.0, 0.0), (25.0, 50.0, 250.0)


def membrane(m, stretch=1.3):
    """h²(−u_xx − s u_yy) on the unit square, Dirichlet, five points, m a side. Symmetric;
    `stretch` keeps eigenvalues simple."""
    number = np.arange(m * m).reshape(m, m)
    parts = [
        (number, number, 2 + 2 * stretch),
        (number[:, 1:], number[:, :-1], -1.0),
        (number[:, :-1], number[:, 1:], -1.0),
        (number[1:], number[:-1], -stretch),
        (number[:-1], number[1:], -stretch),
    ]
    rows = np.concatenate([r.ravel() for r, _, _ in parts])
    columns = np.concatenate([c.ravel() for _, c, _ in parts])
    values = np.concatenate([np.full(r.size, v) for r, _, v in parts])
    return values, rows, columns, m * m
