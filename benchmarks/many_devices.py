"""What a run on many devices would cost, from programs compiled for simulated ones.

    python -m benchmarks.many_devices [--devices 2 8 64] [--out FILE]

Compiles `eigs` of convection–diffusion on a grid that is sharded along its first axis, and
the gradient, for that many devices of a CPU, in processes of their own. Nothing is run for
it. `tools/spmd_cost.py` reads off what stands in each nest of loops: collectives, memory
traffic, operations. Where the counts are the same for all numbers of devices, the model is
that the time of a nest is

    latency · collectives + numbers in them · 8 bytes / bandwidth of the network
    + max(traffic · 8 bytes / bandwidth of the memory, operations / rate)

with the rates of `MACHINE`, which are stated, not measured, and nothing overlapped. How
often each nest runs is what one run of the same problem on one device told (`stats`); its
number of products hardly depends on n, by the choice of the problem.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import lineax as lx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import implicit_eig as ieig
from tools.spmd_cost import costs

from . import gpu


K, DIM = gpu.K, gpu.DIM
# Of the grids that are compiled: rows a device, and columns.
ROWS, COLUMNS = 64, 96


@dataclasses.dataclass(frozen=True)
class Machine:
    """Per device; bytes, operations and seconds. The memory of an H100 (SXM) at 80 % of its
    3.35 TB/s, its 34 Tflop/s in double precision at half, NDR InfiniBand with a port a
    device, and small collectives over eight machines by NCCL (taken for any number)."""

    memory: float = 0.8 * 3.35e12
    rate: float = 0.5 * 34e12
    network: float = 50e9
    latency: float = 30e-6


MACHINE = Machine()


def rolled(u, by):
    """Rows rolled around. Of the transpose that JAX makes of `jnp.roll`, XLA holds an array
    of all rows on each device; so it is told what the transpose is."""
    there, back = (functools.partial(jnp.roll, shift=s, axis=0) for s in (by, -by))
    return jax.lax.custom_linear_solve(
        back, u, lambda _, u: there(u), lambda _, u: back(u)
    )


def shifted(u, by):
    """u of the neighbouring row, zero outside; a halo of one row."""
    row = jnp.arange(u.shape[0])[:, None]
    edge = 0 if by == 1 else u.shape[0] - 1
    return jnp.where(row == edge, 0, rolled(u, by))


def operator(p, grid, v):
    """Convection–diffusion as in `gpu.py`, by rolls, of which XLA makes halos."""
    u = v.reshape(grid)
    along = jnp.pad(u, ((0, 0), (1, 1)))
    west, east, south, north = shifted(u, 1), shifted(u, -1), along[:, :-2], along[:, 2:]
    image = west + east + south + north + (p["growth"] - 4) * u
    image -= (p["wind"][0] * (east - west) + p["wind"][1] * (north - south)) / 2
    return image.reshape(-1)


def forward(p, *, grid, left=False, wrap=lambda a: a):
    like = jax.ShapeDtypeStruct((grid[0] * grid[1],), p["growth"].dtype)
    a = lx.FunctionLinearOperator(functools.partial(operator, p, grid), like)
    s = ieig.eigs(
        wrap(a),
        K,
        "LR",
        eigensolver=ieig.KrylovSchur(rtol=gpu.RTOL, krylov_dim=DIM),
        adjoint=ieig.ImplicitAdjoint(rtol=gpu.RTOL),
        gauge=ieig.LargestReal(),
        throw=False,
        left=left,
    )
    values = jnp.sum(s.eigenvalues.real)
    return values + jnp.sum(jnp.abs(s.eigenvectors) ** 4), s.stats


WAYS = {
    "forward": forward,
    "value and gradient": jax.value_and_grad(forward, has_aux=True),
    "the same, left=True": jax.value_and_grad(
        functools.partial(forward, left=True), has_aux=True
    ),
}


def compiled(way, devices):
    """The text of the program, and the length of a device's part of a vector."""
    mesh = jax.make_mesh((devices,), ("n",), axis_types=(AxisType.Auto,))
    grid = devices * ROWS, COLUMNS
    rows, whole = (
        NamedSharding(mesh, spec) for spec in (PartitionSpec("n"), PartitionSpec())
    )
    p = {
        "growth": jax.ShapeDtypeStruct(grid, float, sharding=rows),
        "wind": jax.ShapeDtypeStruct((2,), float, sharding=whole),
    }
    run = jax.jit(functools.partial(WAYS[way], grid=grid))
    return run.lower(p).compile().as_text(), ROWS * COLUMNS


def counted(devices):
    """Of each way: a list of nests, with the depth of the loop, and what is in it; traffic and
    operations for each number of a device's part of a vector."""
    found = {}
    for way in WAYS:
        text, part = compiled(way, devices)
        found[way] = [
            {
                "nest": list(nest),
                "collectives": [[*key, times] for key, times in cost.collectives.items()],
                "traffic": cost.traffic / part,
                "operations": cost.operations / part,
            }
            for nest, cost in costs(text, part).items()
        ]
    return found


def in_a_process(devices):
    flags = f"--xla_force_host_platform_device_count={devices} "
    flags += "--xla_backend_optimization_level=0"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.many_devices", "--count", str(devices)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(out.stdout.splitlines()[-1])


def in_a_run(grid=(160, 160)):
    """Restarts and products of a forward run on one device, and products of the gradient
    beyond those."""
    made = []

    def wrap(a):
        made.append(ieig.CountingOperator(a))
        return made[-1]

    run = jax.value_and_grad(
        functools.partial(forward, grid=grid, wrap=wrap), has_aux=True
    )
    (_, stats), _ = jax.jit(run)(gpu.parameters(grid))
    forwards = int(stats["num_matvecs"])
    return {
        "products": forwards,
        "restarts": int(stats["num_restarts"]),
        "products of the gradient": sum(sum(a.counts()) for a in made) - forwards,
    }


# A second pass of the orthogonalisation is made where the first one cancelled: at most two.
PASSES = 2


def times(depth, runs, adjoint):
    """How often a nest of this depth is run: the program once, its restarts, the steps of
    these, and the passes of those. The adjoint's run has one more loop around it, of
    refinement, which runs once. The run for left vectors is taken to be as long as the
    forward one."""
    steps = runs["products of the gradient" if adjoint else "products"]
    restarts = round(runs["restarts"] * steps / runs["products"])
    once = [1, 1] if adjoint else [1]
    return [*once, restarts, steps, PASSES * steps][depth]


def predicted(nests, runs, n, columns, devices, machine=MACHINE):
    """Seconds by what they are spent on, for a grid of n points with so many columns."""
    part, spent = n / devices, dict.fromkeys(PARTS, 0.0)
    for nest in nests:
        # The loop of the adjoint holds a loop more than the others.
        adjoint = any(
            len(other["nest"]) == 4 and other["nest"][:1] == nest["nest"][:1]
            for other in nests
        )
        often = times(len(nest["nest"]), runs, adjoint)
        memory = nest["traffic"] * part * 8 / machine.memory
        work = nest["operations"] * part / machine.rate
        spent["memory"] += often * max(memory, work)
        for _, numbers, count in nest["collectives"]:
            # Halos are rows of the grid; the others are sums, as long as in the small one.
            if numbers % COLUMNS == 0:
                numbers = numbers // COLUMNS * columns
            spent["latency"] += often * count * machine.latency
            spent["network"] += often * count * numbers * 8 / machine.network
    return spent


PARTS = "memory", "latency", "network"
# Of one matrix of order 20 by XLA's QR iteration: 36 sweeps of 19 steps of 13 kernels.
LAUNCHES, LAUNCH = 36 * 19 * 13, 4e-6


def small_matrices(runs):
    """Seconds for those of all restarts, forward and with the gradient, by XLA's launches."""
    both = runs["restarts"] * (1 + runs["products of the gradient"] / runs["products"])
    return [count * LAUNCHES * LAUNCH for count in (runs["restarts"], round(both))]


def table(counts, runs, n=10**8, columns=10**4):
    rows = []
    for devices in (8, 64, 512):
        for way, nests in counts.items():
            spent = predicted(nests, runs, n, columns, devices)
            total = sum(spent.values())
            shares = (f"{spent[part] / total:.0%}" for part in PARTS)
            rows.append([str(devices), way, f"{total:.3g}", *shares])
    head = ["devices", "", "seconds", *(f"of them {part}" for part in PARTS)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * 6, *rows])


def per_loop(nests):
    """A row for each nest that moves anything: what one turn of it costs."""
    names = ["once", "a restart", "a step", "a pass"]
    rows = [["", "collectives", "traffic", "operations"], ["---"] * 4]
    for nest in nests:
        if nest["collectives"] or nest["traffic"]:
            found = ", ".join(
                f"{count} {name} of {numbers}"
                for name, numbers, count in nest["collectives"]
            )
            rows.append(
                [
                    names[len(nest["nest"])],
                    found or "none",
                    f"{nest['traffic']:.0f}",
                    f"{nest['operations']:.0f}",
                ]
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 8, 64])
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    if args.count:
        print(json.dumps(counted(args.count)))
        return
    counts = {devices: in_a_process(devices) for devices in args.devices}
    runs = in_a_run()
    print(runs)
    for devices, found in counts.items():
        print(f"\nforward, {devices} devices\n\n{per_loop(found['forward'])}")
    print(f"\n{table(counts[max(counts)], runs)}")
    forwards, both = small_matrices(runs)
    print(f"\nsmall matrices by XLA: {forwards:.2g} s, with the gradient {both:.2g} s")
    if args.out:
        args.out.write_text(json.dumps({"runs": runs, "counts": counts}, indent=1))


if __name__ == "__main__":
    main()
