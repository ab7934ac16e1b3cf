"""Polynomial and nonlinear eigenproblems: SciPy's `eigs` on the companion pencil (SuperLU of
order dn), SLEPc's PEP and NEP (TOAR, SLP), and value and gradient in terms of our own forward
run. The loss depends on eigenvalues and vectors.

SLEPc has no rows of complex problems (see `extremal`).
"""

import functools
import pathlib
import tempfile

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import implicit_eig as ieig

from . import slepc_nonlinear_worker, slepc_worker
from .extremal import compiled
from .harness import Peer, Task
from .peers import in_order
from .worker import Worker


K, RTOL = 4, 1e-9


def bands(below, diagonal, above):
    """Rows of a tridiagonal matrix; what lies outside is zero."""
    n = len(diagonal)
    out = np.stack([np.broadcast_to(x, n) for x in (below, diagonal, above)])
    out = out.astype(np.result_type(out, float))
    out[0, 0] = out[2, -1] = 0
    return out


def triplets(a):
    n, i = a.shape[1], np.arange(a.shape[1])
    rows, columns = np.r_[i[1:], i, i[:-1]], np.r_[i[:-1], i, i[1:]]
    values = np.r_[a[0, 1:], a[1], a[2, :-1]]
    there = (values != 0) | (rows == columns)
    return values[there], rows[there], columns[there], n


def damped_chain(n):
    """Overdamped, so that all eigenvalues are real: λ² + 5λ + μ."""
    return (
        bands(-1, np.full(n, 2.0), -1),
        bands(0, np.full(n, 5.0), 0),
        bands(0, np.ones(n), 0),
    )


def acoustic_wave(n):
    """Chaitin-Chatelin and van Gijzen 2006, ζ = 1.2."""
    h, zeta, end = 1 / n, 1.2, np.arange(n) == n - 1
    stiffness = bands(-1 / h, np.where(end, 1 / h, 2 / h) + 0j, -1 / h)
    damping = bands(0, np.where(end, 2j * np.pi / zeta, 0), 0)
    mass = bands(0, -4 * np.pi**2 * h * np.where(end, 0.5, 1.0) + 0j, 0)
    return stiffness, damping, mass


def delayed_heat(n):
    """u_t = u_xx + 20 u + b(x) u(t − τ), SLEPc's example 22."""
    h = np.pi / (n + 1)
    x = h * np.arange(1, n + 1)
    b = -4.1 + x * (1 - np.exp(x - np.pi))
    return bands(1 / h**2, 20 - 2 / h**2 + 0 * x, 1 / h**2), bands(0, b, 0)


def by_companion(matrices, sigma):
    """The same companion pencil as here, assembled."""
    a = [
        sp.csc_array((v, (i, j)), shape=(n, n)) for v, i, j, n in map(triplets, matrices)
    ]
    d, n = len(a) - 1, a[0].shape[0]
    eye = sp.eye_array(n)
    top = [[eye if j == i + 1 else None for j in range(d)] for i in range(d - 1)]
    left = sp.csc_array(sp.block_array([*top, [-x for x in a[:-1]]]))
    right = sp.csc_array(sp.block_diag([eye] * (d - 1) + [a[-1]]))
    dtype = np.result_type(left.dtype, type(sigma))
    v0 = np.random.default_rng(0).normal(size=d * n)

    def run():
        shifted = sp.csc_array((left - sigma * right).astype(dtype))
        factor = spla.splu(shifted, permc_spec="MMD_AT_PLUS_A")
        inverse = spla.LinearOperator(
            left.shape, lambda x: factor.solve(right @ x.astype(dtype)), dtype=dtype
        )
        theta = spla.eigs(inverse, K, tol=RTOL, v0=v0)[0]
        return sigma + 1 / theta

    return Peer("SciPy, companion", lambda: run, None, in_order)


@functools.cache
def _slepc_lacks():
    return slepc_worker.lacks()


def slepc(kind, matrices, sigma, k, **options):
    workers = []

    def make():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "problem.npz"
            arrays = {f"a{i}": a for i, a in enumerate(matrices)}
            np.savez(path, kind=kind, sigma=sigma, k=k, rtol=RTOL, **arrays, **options)
            script = str(pathlib.Path(slepc_nonlinear_worker.__file__))
            run = [slepc_worker.command(), script, str(path)]
            workers.append(Worker(run, slepc_worker.environment()))
        return workers[0]

    def count():
        return {"iterations": workers[0].ready["iterations"]}

    name = "SLEPc PEP" if kind == "pep" else "SLEPc NEP"
    compared = lambda found: in_order([complex(*z) for z in found])
    return Peer(name, make, _slepc_lacks(), compared, count)


def polynomial(parts, sigma):
    return ieig.polyeig(parts, K, sigma=sigma)


def delay(parts, guess, tau):
    a, b = parts
    # Row by row, as `entries` are.
    rows, columns = np.nonzero(np.abs(np.subtract.outer(*[np.arange(a.n)] * 2)) <= 1)
    diagonal = np.flatnonzero(rows == columns)

    def T(z):
        moved = b.entries[0] * jnp.exp(-tau * z) - z
        values = a.entries[0].astype(z.dtype).at[diagonal].add(moved)
        return ieig.SparseOperator(values, rows, columns, a.n)

    return ieig.nonlinear_eigs(T, guess=guess)


def loss(parts, run):
    found = run(parts)
    weights = jnp.cos(jnp.arange(float(found.eigenvectors.shape[0])))
    v = found.eigenvectors
    return jnp.sum(found.eigenvalues.real) + jnp.sum(weights @ jnp.abs(v) ** 2)


def both(name, matrices, run, peers):
    parts = tuple(ieig.SparseOperator(*triplets(a)) for a in matrices)

    def solves():
        stats = compiled(run, parts)().stats
        names = {"num_solves": "solves", "num_factorizations": "factorisations"}
        return {short: int(stats[x]) for x, short in names.items() if x in stats}

    one = functools.partial(loss, run=run)
    ours = Peer(
        "ours",
        lambda: compiled(run, parts),
        None,
        lambda s: in_order(s.eigenvalues),
        solves,
    )
    yield Task(name, "nonlinear problems", [ours, *peers])
    gradient = eqx.filter_value_and_grad(one)
    yield Task(
        f"{name}, value and gradient",
        "value and gradient of nonlinear problems",
        [
            Peer("ours", lambda: compiled(gradient, parts), None, lambda r: r[0]),
            Peer("our forward run", lambda: compiled(one, parts)),
        ],
    )


def tasks(quick):
    n = 500 if quick else 10_000
    chain, sigma = damped_chain(n), -0.5
    run = functools.partial(polynomial, sigma=sigma)
    peers = [by_companion(chain, sigma), slepc("pep", chain, sigma, K)]
    yield from both(f"damped chain, n = {n:_}", chain, run, peers)
    n = 200 if quick else 1000
    wave, sigma = acoustic_wave(n), 2.5 + 0.3j
    run = functools.partial(polynomial, sigma=sigma)
    yield from both(f"acoustic wave, n = {n:_}", wave, run, [by_companion(wave, sigma)])
    heat, guess, tau = delayed_heat(n), 15.0, 0.001
    run = functools.partial(delay, guess=guess, tau=tau)
    peers = [slepc("delay", heat, guess, 1, delay=tau)]
    yield from both(f"heat with a delay, n = {n:_}", heat, run, peers)
