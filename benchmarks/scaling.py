"""How seconds and products grow with n, k, the batch and the devices, and what a gradient
adds to a forward run. Each is a figure, with a line for each peer.
"""

import functools
import sys

import equinox as eqx
import jax.numpy as jnp

import implicit_eig as ieig

from . import extremal
from .dense import by_jax, flagged, matrices, ours as our_pairs
from .device_worker import environment
from .harness import Peer, Point, Task
from .peers import arpack, in_order, slepc
from .problems import ladder, separated
from .worker import Worker


N = [300, 1000], [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
K = [1, 4], [1, 2, 4, 8, 16, 32, 64]
BATCH = [1, 16], [1, 16, 64, 256, 1024, 4096]
DEVICES = [1, 2], [1, 2, 4, 8]
ORDER = 8


def sparse_problem(make, n, k, figure, axis, x):
    """Forward beside the peers, then value and gradient beside forward."""
    triplets = make(n)
    operator = ieig.SparseOperator(*triplets)
    dim = max(20, 2 * k + 1)
    solver = ieig.KrylovSchur(rtol=1e-8, krylov_dim=dim, max_restarts=100_000)

    def forward(operator):
        return ieig.eigs(operator, k, "LR", eigensolver=solver).eigenvalues

    def loss(operator):
        s = ieig.eigs(operator, k, "LR", eigensolver=solver)
        weight = jnp.linspace(0.0, 1.0, n)[:, None]
        on_vectors = jnp.sum(jnp.abs(s.eigenvectors) ** 2 * weight)
        return on_vectors + jnp.sum(s.eigenvalues.real)

    how = {"k": k, "dim": dim, "rtol": 1e-8}
    yield Task(
        f"{figure}: {axis} = {x:_}",
        "extremal pairs of a sparse matrix",
        [
            extremal.ours(forward, operator, in_order, "ours"),
            arpack(triplets, "LR", **how),
            *slepc(triplets, which="LR", **how),
        ],
        rtol=1e-5,
        point=Point(figure, axis, x),
    )
    both = eqx.filter_value_and_grad(loss)
    yield Task(
        f"{figure}: {axis} = {x:_}, value and gradient",
        "",
        [
            extremal.ours(both, operator, lambda out: out[0], "ours, value and gradient"),
            extremal.ours(loss, operator, name="ours, forward with vectors"),
        ],
        point=Point(figure, axis, x),
    )


def batches(size):
    a = matrices(size, ORDER, "float64")
    for gradient in (False, True):
        what = ", value and gradient" if gradient else ""
        yield Task(
            f"batch of {ORDER}×{ORDER} matrices: members = {size:_}{what}",
            f"1 to {max(BATCH[1])} matrices of order {ORDER}{what}",
            [
                Peer(f"ours{what}", functools.partial(by_jax, our_pairs, a, gradient)),
                Peer(
                    f"JAX, flagged{what}", functools.partial(by_jax, flagged, a, gradient)
                ),
            ],
            point=Point("batch", "members", size),
        )


def on_devices(count):
    """The same problem on so many simulated devices, each in a process of its own; cores
    stay what they are, so this shows what dividing the work costs."""
    command = [sys.executable, "-m", "benchmarks.device_worker"]

    def on(devices):
        return lambda: Worker(command, environment(devices))

    return Task(
        f"devices: simulated devices = {count}",
        "",
        [Peer("ours", on(count)), Peer("ours, one device", on(1))],
        point=Point("devices", "simulated devices", count),
    )


def tasks(quick):
    pick = 0 if quick else 1
    for n in N[pick]:
        yield from sparse_problem(separated, n, 6, "order", "n", n)
    for k in K[pick]:
        n = 1000 if quick else 10_000
        yield from sparse_problem(ladder, n, k, "number of pairs", "k", k)
    for size in BATCH[pick]:
        yield from batches(size)
    for count in DEVICES[pick]:
        yield on_devices(count)
