"""What a user meets first: `python -m benchmarks.first_contact` (five minutes).

Each row runs in a process of its own, peers in turns; seconds are CPU seconds, the least of
the repetitions, and what counts are ratios.
"""

import collections
import json
import subprocess
import sys
import tempfile
import time


def maps():
    with open("/proc/self/maps") as file:
        return sum(1 for _ in file)


def loss_of_eigs(n=400, k=4):
    import jax.numpy as jnp

    import implicit_eig as ieig

    def loss(rates):
        def step(v):
            return rates * v + 0.3 * jnp.roll(v, 1) + 0.2 * jnp.roll(v, -1)

        modes = ieig.eigs(step, k=k, which="LR", like=rates)
        return modes.eigenvalues[0].real

    return loss, jnp.cos(jnp.arange(float(n)) / 31)


def loss_of_jax(n=4):
    import jax
    import jax.numpy as jnp
    import numpy as np

    def loss(a):
        w, v = jax.lax.linalg.eig(
            a, compute_left_eigenvectors=False, enable_eigvec_derivs=True
        )
        return jnp.sum(jnp.abs(w)) + jnp.sum(jnp.abs(v[0]) ** 2)

    return loss, jnp.asarray(np.random.default_rng(0).normal(size=(n, n)))


def loss_of_eig(n=4):
    import jax.numpy as jnp

    import implicit_eig as ieig

    def loss(a):
        w, v = ieig.eig(a)
        return jnp.sum(jnp.abs(w)) + jnp.sum(jnp.abs(v[0]) ** 2)

    return loss, loss_of_jax(n)[1]


LOSSES = {"eigs": loss_of_eigs, "eig": loss_of_eig, "JAX": loss_of_jax}


def first(name):
    """CPU seconds of the first value and gradient."""
    import jax

    loss, x = LOSSES[name]()
    jax.block_until_ready(x + 1)
    start = time.process_time()
    jax.block_until_ready(jax.jit(jax.value_and_grad(loss))(x))
    return {"seconds": time.process_time() - start}


def size(_):
    """Memory maps and fusions of the forward program and of its gradient."""
    import jax

    loss, x = loss_of_eigs()
    jax.block_until_ready(x + 1)
    found = {}
    for name, fn in (("forward", loss), ("gradient", jax.value_and_grad(loss))):
        lowered = jax.jit(fn).lower(x)
        before = maps()
        program = lowered.compile()
        found[f"{name}: maps"] = maps() - before
        found[f"{name}: fusions"] = program.as_text().count(" fusion(")
        del program
    return found


def loop(_):
    """A plain loop of value_and_grad."""
    import jax

    loss, x = loss_of_eigs(200, 2)
    seconds, counts = [], []
    for _ in range(8):
        start = time.process_time()
        _, gradient = jax.value_and_grad(loss)(x)
        x = x - 0.01 * gradient
        seconds.append(time.process_time() - start)
        counts.append(maps())
    return {
        "fifth step over the first": seconds[4] / seconds[0],
        "maps a step": (counts[7] - counts[3]) / 4,
    }


def cached(directory):
    """CPU seconds of compiling, with JAX's persistent cache."""
    import jax
    import jax.monitoring

    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    seen = collections.Counter()
    jax.monitoring.register_event_listener(
        lambda name, **_: seen.update([name.split("/")[-1]])
    )
    return first("eigs") | {"hits": seen["cache_hits"], "misses": seen["cache_misses"]}


def plain(_):
    """Microseconds of a plain call, n = 4, in turns."""
    import jax
    import jax.numpy as jnp

    import implicit_eig as ieig

    _, a = loss_of_jax()
    calls = {
        "eigs": lambda: ieig.eigs(a, 2).eigenvalues,
        "eig": lambda: ieig.eig(a).eigenvalues,
        "JAX": lambda: jnp.linalg.eig(a)[0],
    }
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(20):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(50):
                jax.block_until_ready(call())
            best[name] = min(best[name], (time.perf_counter() - start) / 50)
    return {name: 1e6 * value for name, value in best.items()}


MEASURES = {f.__name__: f for f in (first, size, loop, cached, plain)}


def run(name, argument=""):
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_contact", name, argument],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(out.stdout.splitlines()[-1])


def main():
    seconds = dict.fromkeys(LOSSES, float("inf"))
    for _ in range(3):
        for name in LOSSES:
            seconds[name] = min(seconds[name], run("first", name)["seconds"])
    rows = {
        "first value and gradient of eigs over JAX's eig": seconds["eigs"]
        / seconds["JAX"],
        "first value and gradient of eig over JAX's": seconds["eig"] / seconds["JAX"],
    }
    rows |= run("size") | run("loop")
    with tempfile.TemporaryDirectory() as directory:
        one, two = (run("cached", directory) for _ in range(2))
    rows["second process over the first, cache on"] = two["seconds"] / one["seconds"]
    rows["misses in the second process"] = two["misses"]
    micro = run("plain")
    rows["plain call of eigs over JAX's eig"] = micro["eigs"] / micro["JAX"]
    rows["plain call of eig over JAX's eig"] = micro["eig"] / micro["JAX"]
    print("| what | measured |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:.3g} |")


if __name__ == "__main__":
    import jax

    jax.config.update("jax_enable_x64", True)
    if len(sys.argv) > 1:
        print(json.dumps(MEASURES[sys.argv[1]](sys.argv[2])))
    else:
        main()
