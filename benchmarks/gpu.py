"""Arrays on an accelerator, beside the CPU of the same machine.

    taskset -c 0 python -m benchmarks.gpu [--tiny] [--seconds 480] [--out FILE]

`taskset` makes one thread of the CPU; without it XLA takes all cores. Rows are printed and
written as they are measured: where the time ends, nothing of them is lost. A row that would
not end in time, judged by a smaller one of its kind, is skipped and says so; the largest
come last, those of the CPU at the end. Without an accelerator the CPU's rows are printed
only, unless `--out` names a file.

- *copy*: x + 1 of an array as large as the Krylov basis, which is read, and written to
  memory that on a CPU may be fresh, and costs page faults.
- *orthogonalisation*: the function that the solver calls in each Arnoldi step, with 11 of 21
  vectors in use. Its arrays hold all 21, and zeros are read like numbers: with n numbers of 8
  bytes, a pass reads the basis twice (its coefficients, then their combination) and the
  vector twice, and writes it: 8 n (2·21 + 3) bytes. Norms are not counted. One row is a
  vector for which one pass is enough, the other one for which two are made.
- *sparse product*: the arrays of the operator once, a vector read and one written.
- *eigs*: k = 6 rightmost pairs of convection–diffusion with places of growth, an operator
  made of shifted slices, without callbacks (`throw=False`, a gauge). Places a few points
  wide make pairs that converge in a few restarts at any n, so all sizes do about the same
  number of products (told are those of the forward run). The gradient is one with respect
  to growth and wind.
- *eigs, kernel*: the same with the kernel of `eig by QR in a kernel` in each restart.
- *eig*, *eig by QR*: as in `dense.py`, by `method="lapack"` and `method="qr"`; *in a kernel*
  is the latter with one matrix a program of a GPU, which `IMPLICIT_EIG_KERNELS=on` switches
  on. While the process has an accelerator the CPU takes the paths meant for one: batches in
  lockstep, and a general inverse of the vectors.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ieig
from implicit_eig._kernels.library import OPTION
from implicit_eig._krylov.arnoldi import orthogonalise as krylov_orthogonalise
from tools.host_work import host_work, table

from . import dense, problems, report
from .__main__ import provenance
from .harness import statistics


K, DIM, RTOL, ROUNDS = 6, 20, 1e-9, 5
GRIDS = (1000, 1000), (2500, 4000)
LEAST_SHARE, LEAST_RATIO = 0.6, 20.0
# Two devices do not round alike, and vectors are known to the tolerance of the run.
AGREEMENT = 1e-5


@dataclasses.dataclass(frozen=True)
class Job:
    """`make()` returns a function and its arguments, of which `moved` tells the bytes that
    have to move. Jobs of one `kind` take times in proportion to their `size`."""

    kind: str
    label: str
    size: float
    make: Callable[[], tuple[Callable, tuple]]
    moved: Callable[..., int] | None = None


def parameters(grid):
    """Growth on the grid, in places a few points wide, and the wind."""
    x, y = (jnp.arange(m, dtype=float) for m in grid)
    growth = jnp.zeros(grid)
    for i in range(K + 2):
        # None of them close to another, and no two alike.
        at_x, at_y = grid[0] * (i + 0.5) / (K + 2), grid[1] * ((3 * i + 0.5) / 8 % 1)
        far = ((x - at_x) ** 2)[:, None] + (y - at_y) ** 2
        growth += (8 - 0.5 * i) * jnp.exp(-far / 4)
    return {"growth": growth, "wind": jnp.array([0.2, 0.1])}


def convection_diffusion(p, grid, v):
    """Δu − wind·∇u + growth u in units of the mesh, central differences, u = 0 outside."""
    u = jnp.pad(v.reshape(grid), 1)
    west, east, south, north = u[:-2, 1:-1], u[2:, 1:-1], u[1:-1, :-2], u[1:-1, 2:]
    image = west + east + south + north + (p["growth"] - 4) * u[1:-1, 1:-1]
    image -= (p["wind"][0] * (east - west) + p["wind"][1] * (north - south)) / 2
    return image.reshape(-1)


def modes(p, *, grid):
    """The loss of `dense.py` on the rightmost pairs, NaN unless they were found; and what
    that took."""
    like = jax.ShapeDtypeStruct((grid[0] * grid[1],), p["growth"].dtype)
    s = ieig.eigs(
        functools.partial(convection_diffusion, p, grid),
        K,
        "LR",
        like=like,
        eigensolver=ieig.KrylovSchur(rtol=RTOL, krylov_dim=DIM),
        adjoint=ieig.ImplicitAdjoint(rtol=RTOL),
        gauge=ieig.LargestReal(),
        throw=False,
    )
    found = s.result == ieig.RESULTS.successful
    facts = {"products": s.stats["num_matvecs"], "restarts": s.stats["num_restarts"]}
    return jnp.where(found, dense.loss(s.eigenvalues, s.eigenvectors), jnp.nan), facts


def mid_basis(n, passes):
    """A Krylov basis with half of its vectors in use, and a vector to be made orthogonal to
    them, for which one pass is enough or two are made."""

    @jax.jit
    def make():
        used = jnp.arange(DIM + 1) <= DIM // 2
        # Cosines, which are orthonormal.
        angle = math.pi / n * (jnp.arange(n, dtype=float) + 0.5)
        basis = jnp.where(
            used[:, None], jnp.cos(angle * jnp.arange(1, DIM + 2.0)[:, None]), 0
        ) * math.sqrt(2 / n)
        w = jax.random.normal(jax.random.key(0), (n,)) / math.sqrt(n)
        w = w if passes == 1 else 1e-3 * w + used.astype(w.dtype) @ basis
        return basis.reshape(DIM + 1, 1, 1, n), w.reshape(1, 1, n)

    return make()


def orthogonalise(basis, w):
    return krylov_orthogonalise(basis.shape[0], basis, w)


def copy(x):
    return x + 1


def product(operator, x):
    return operator.mm(x)


def memory_jobs(n):
    """The copy, and the orthogonalisation by one pass and by two."""
    label = f"n={n}"
    yield Job(
        "copy", label, n, lambda: (copy, mid_basis(n, 1)[:1]), lambda x: 2 * x.nbytes
    )
    for passes in (1, 2):
        yield Job(
            f"orthogonalisation, passes: {passes}",
            label,
            n,
            lambda passes=passes: (orthogonalise, mid_basis(n, passes)),
            lambda basis, w, passes=passes: passes * (2 * basis.nbytes + 3 * w.nbytes),
        )


def sparse_jobs(m):
    """A stencil, which is applied by shifts, and five entries anywhere in a row."""
    n = m * m

    def random():
        rng, rows = np.random.default_rng(0), np.repeat(np.arange(n), 5)
        return rng.normal(size=5 * n), rows, rng.integers(0, n, 5 * n), n

    def make(triplets):
        x = jnp.asarray(np.random.default_rng(1).normal(size=n))
        return product, (ieig.SparseOperator(*triplets()), x)

    def moved(operator, x):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(operator)) + 2 * x.nbytes

    stencil = functools.partial(problems.convection_diffusion, m)
    for what, triplets in (("stencil", stencil), ("5 a row, random", random)):
        make_it = functools.partial(make, triplets)
        yield Job(f"sparse product, {what}", f"n={n}", n, make_it, moved)


def eigs_jobs(grid):
    run = functools.partial(modes, grid=grid)
    gradient = jax.value_and_grad(run, has_aux=True)
    n = grid[0] * grid[1]
    ways = [("forward", run), ("value and gradient", gradient)]
    if jax.default_backend() == "gpu":
        ways.append(("forward, kernel", with_kernels(run)))
    for what, fn in ways:
        yield Job(f"eigs {what}", f"n={n}", n, lambda fn=fn: (fn, (parameters(grid),)))


def with_kernels(fn):
    """`fn`, traced with the kernel for GPUs switched on."""

    @functools.wraps(fn)
    def traced(*args):
        before = os.environ.get(OPTION)
        os.environ[OPTION] = "on"
        try:
            return fn(*args)
        finally:
            os.environ.pop(OPTION)
            if before is not None:
                os.environ[OPTION] = before

    return traced


EIGS = {
    "eig": dense.ours,
    "eig by QR": dense.by_qr,
    "eig by QR in a kernel": with_kernels(dense.by_qr),
}


def eig_jobs(batch, n, name="eig"):
    loss = EIGS[name]
    for what, fn in (("forward", loss), ("value and gradient", jax.value_and_grad(loss))):
        a = functools.partial(dense.matrices, batch, n, "float64")
        # Large matrices and batches of small ones are kinds of their own.
        kind = f"{name} {what}" if batch == 1 else f"{name} {what}, batch of {n}×{n}"
        label = f"{batch}×{n}×{n}"
        yield Job(kind, label, batch * n**3, lambda a=a, fn=fn: (fn, (jnp.asarray(a()),)))


def stages(tiny):
    """Jobs in two groups: the large ones come when all devices have done the others."""
    if tiny:
        small = [*memory_jobs(500), *sparse_jobs(10), *eig_jobs(3, 4)]
        small += [*eig_jobs(3, 4, "eig by QR")]
        small += [*eig_jobs(3, 16, "eig by QR in a kernel")]
        return small, [*eigs_jobs((12, 16))]
    (n, large) = (a * b for a, b in GRIDS)
    small = [*memory_jobs(n), *sparse_jobs(1000), *eig_jobs(4096, 8), *eig_jobs(256, 64)]
    for batch, n in ((65536, 4), (4096, 8), (512, 3), (256, 64)):
        small += [*eig_jobs(batch, n, "eig by QR")]
    small += [*eig_jobs(256, 64, "eig by QR in a kernel")]
    small += [*eig_jobs(65536, 4), *eig_jobs(512, 3)]
    small += [*eigs_jobs(GRIDS[0]), *eig_jobs(1, 1024)]
    return small, [*memory_jobs(large), *eigs_jobs(GRIDS[1]), *eig_jobs(1, 4096)]


def devices():
    """The accelerator, if there is one, then the CPU, if this process may use it."""
    found = {d.platform: d for d in jax.devices()[:1]}
    try:
        found.setdefault("cpu", jax.devices("cpu")[0])
    except RuntimeError:
        print("JAX_PLATFORMS leaves the CPU out: no ratios.")
    return list(found.values())


def measure(job, device, seconds):
    """Compiles, then runs until the rounds or the seconds are used up, once at least."""
    fn, args = job.make()
    arrays, static = eqx.partition(jax.device_put(args, device), eqx.is_array)
    run, compiled = timed(
        lambda: jax.jit(lambda x: fn(*eqx.combine(x, static))).lower(arrays).compile()
    )
    out, first = timed(lambda: run(arrays))
    row = {"kind": job.kind, "label": job.label, "device": device.platform}
    row |= {"compile": compiled, "first": first, "norms": norms(out), **facts(out)}
    del out
    # Short programs are called back to back: what a call costs hides behind the others.
    calls = max(1, min(20, int(0.02 / first)))
    taken = []
    while len(taken) < ROUNDS and (len(taken) + 1) * calls * first < seconds:
        taken.append(timed(lambda: repeated(run, arrays, calls))[1] / calls)
    row |= {"rounds": len(taken), "calls": calls, "seconds": statistics(taken or [first])}
    if job.moved is not None:
        moved = job.moved(*args)
        row |= {"bytes": moved, "GB/s": moved / row["seconds"]["median"] / 1e9}
    return row


def timed(fn):
    began = time.perf_counter()
    out = jax.block_until_ready(fn())
    return out, time.perf_counter() - began


def repeated(run, arrays, calls):
    for _ in range(calls):
        out = run(arrays)
    return out


def facts(out):
    """Products and restarts, where the results tell them."""
    for leaf in jax.tree.leaves(out, is_leaf=lambda x: isinstance(x, dict)):
        if isinstance(leaf, dict) and "products" in leaf:
            return {name: int(number) for name, number in leaf.items()}
    return {}


def norms(out):
    """What is compared between devices, instead of vectors of 10⁷ numbers."""
    leaves = [x for x in jax.tree.leaves(out) if jnp.issubdtype(x.dtype, jnp.inexact)]
    found = [float(jnp.linalg.norm(x.reshape(-1))) for x in leaves]
    if not np.all(np.isfinite(found)):
        raise ValueError("The result is not finite.")
    return found


def compared(row, rows):
    """The row with its share of the copy's bandwidth, and its time over that of a device
    before it."""
    before = [r for r in rows if "seconds" in r and r["label"] == row["label"]]
    for r in before:
        if r["device"] == row["device"] and r["kind"] == "copy" and "GB/s" in row:
            row["share_of_copy"] = row["GB/s"] / r["GB/s"]
        if r["device"] != row["device"] and r["kind"] == row["kind"]:
            if not np.allclose(row["norms"], r["norms"], rtol=AGREEMENT):
                raise ValueError(f"{row['device']} and {r['device']} disagree.")
            ratio = row["seconds"]["median"] / r["seconds"]["median"]
            row |= {"ratio": ratio, "ratio_to": r["device"]}
    return row


def line(row):
    start = f"{row['kind']}, {row['label']}, {row['device']}: "
    if "seconds" not in row:
        return start + row.get("error", row.get("skipped"))
    parts = [f"{row['seconds']['median']:.3g} s (compiled in {row['compile']:.1f} s)"]
    if not row["rounds"]:
        parts.append("of the first run")
    if "products" in row:
        parts.append(f"{row['products']} products, {row['restarts']} restarts")
    if "GB/s" in row:
        parts.append(f"{row['GB/s']:.1f} GB/s")
    if "share_of_copy" in row:
        parts.append(f"{row['share_of_copy']:.0%} of the copy")
    if "ratio" in row:
        parts.append(f"{row['ratio']:.1f} times {row['ratio_to']}")
    return start + "; ".join(parts)


def targets(rows):
    """The aims, as sentences: reached, missed, or not measured."""
    label = f"n={math.prod(GRIDS[0])}"
    shares = [
        (f"{r['kind']}, {r['label']}", r["share_of_copy"], LEAST_SHARE)
        for r in rows
        if "share_of_copy" in r and "orthogonal" in r["kind"] and r["device"] != "cpu"
    ]
    ratios = [
        (f"{r['kind']}, {label}, CPU over accelerator", r["ratio"], LEAST_RATIO)
        for r in rows
        if "ratio" in r and r["kind"] == "eigs forward" and r["label"] == label
    ]
    for name, found in (("orthogonalisation", shares), ("eigs forward", ratios)):
        if not found:
            yield f"{name}: not measured on an accelerator"
        for what, got, least in found:
            verdict = "reached" if got >= least else "missed"
            yield f"{what}: {got:.3g}, aim {least:g}, {verdict}"


def record(job, device, left, rate, rows):
    """A row: measured, skipped because the time would not be enough, or an error."""
    row = {"kind": job.kind, "label": job.label, "device": device.platform}
    known = rate.get((job.kind, device.platform))
    expected = 0.0 if known is None else known[0] + 1.1 * known[1] * job.size
    if expected >= left:
        why = f"{max(left, 0):.0f} s left, about {expected:.0f} s needed"
        return row | {"skipped": f"skipped: {why}"}
    try:
        with jax.default_device(device):
            row = compared(measure(job, device, min(left / 4, 20.0)), rows)
    except Exception as error:
        return row | {"error": f"{type(error).__name__}: {error}"}
    rate[job.kind, device.platform] = row["compile"], row["first"] / job.size
    return row


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="sizes that show nothing")
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    found = devices()
    out = options.out
    if found[0].platform == "cpu":
        print("No accelerator here: these are rows of the CPU.")
    elif out is None and not options.tiny:
        out = report.HERE / "results" / "gpu.json"
    kinds = [f"{d.device_kind} ({d.platform})" for d in found]
    data = provenance() | {"devices": kinds, "rows": [], "targets": [], "host": []}

    def write():
        if out is not None:
            out.write_text(json.dumps(data, indent=1) + "\n")

    run = functools.partial(modes, grid=GRIDS[0])
    work = host_work(run, jax.eval_shape(lambda: parameters(GRIDS[0])))
    data["host"] = [[*kind, times] for kind, times in sorted(work.items())]
    print(f"{', '.join(kinds)}\n\n{table(work)}\n", flush=True)
    rate = {}
    for stage in stages(options.tiny):
        for device in found:
            for job in stage:
                left = options.seconds - (time.perf_counter() - began)
                row = record(job, device, left, rate, data["rows"])
                data["rows"].append(row)
                print(line(row), flush=True)
                write()
    data["targets"] = list(targets(data["rows"]))
    print("", *data["targets"], sep="\n")
    write()
    return data


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    data = main()
    raise SystemExit(any("error" in row for row in data["rows"]))
