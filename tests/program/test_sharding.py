"""Arrays sharded along n: no vector of length n is gathered, and the answers agree."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import many_devices
from tools.spmd_cost import costs


SCRIPT = pathlib.Path(__file__).with_name("sharded.py")


def start(devices, *args):
    # Compiled without much optimisation, like the other tests.
    flags = f"--xla_force_host_platform_device_count={devices} "
    flags += "--xla_backend_optimization_level=0 "
    # Gloo needs collectives in one order in all processes; XLA lets independent ones race.
    flags += "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *args],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended_well(*runs):
    try:
        for run in runs:
            output, _ = run.communicate(timeout=300)
            assert run.returncode == 0, output
    finally:
        for run in runs:
            run.kill()


def test_eight_devices_agree_with_one_and_gather_nothing():
    ended_well(start(8, "devices"))


@pytest.mark.slow
def test_two_processes_agree_with_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended_well(*(start(1, "process", str(index), str(port)) for index in range(2)))


def by_depth(nests):
    """What moves anything: by the run, and the depth of the loop in it, where there is one
    such loop."""
    loops, places = [], set()
    for nest in nests:
        if nest["collectives"] or nest["traffic"]:
            outermost = nest["nest"][:1]
            loops += [] if outermost in loops else [outermost]
            collectives = {
                (name, size): times for name, size, times in nest["collectives"]
            }
            place = loops.index(outermost), len(nest["nest"])
            assert place not in places
            places.add(place)
            yield place, (collectives, round(nest["traffic"]), round(nest["operations"]))


# Ratchet: of the program itself, and of the loops of the two runs; the second one, of the
# adjoint, stands in one of refinement. A halo is a row of the grid, of 96 numbers.
HALOS, SUM = {("collective-permute", 96): 2}, {("all-reduce", 1): 1}
GRADIENT = {
    (1, 1): ({}, 126, 888),
    (1, 2): (HALOS | SUM, 15, 25),
    (1, 3): (SUM | {("all-reduce", 21): 1}, 50, 87),
    (2, 2): ({}, 126, 889),
    (2, 3): (HALOS | {("all-reduce", 1): 2, ("all-reduce", 7): 3}, 101, 149),
    (2, 4): (SUM | {("all-reduce", 21): 1}, 50, 87),
}


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_what_a_step_costs_each_device(devices):
    """The page on many devices says so."""
    counts = many_devices.in_a_process(devices)
    found = dict(by_depth(counts["value and gradient"]))
    assert {place: found[place] for place in GRADIENT} == GRADIENT
    assert found.keys() - GRADIENT.keys() == {(0, 0), (2, 1)}
    of_values = dict(by_depth(counts["forward"]))
    assert all(of_values[1, depth] == GRADIENT[1, depth] for depth in (1, 2, 3))
    # A row for each of seven vectors, where a block is multiplied.
    for nests in counts.values():
        sizes = [size for nest in nests for _, size, _ in nest["collectives"]]
        assert max(sizes) == 7 * many_devices.COLUMNS


def test_costs_are_read_off_the_text_of_a_program():
    n, m = 3000, 5

    def program(a, x):
        x = jax.lax.fori_loop(0, 4, lambda _, x: a.T @ (a @ x), x)
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: a.T @ (a @ x), x)

    a, x = jax.ShapeDtypeStruct((m, n), float), jax.ShapeDtypeStruct((n,), float)
    found = costs(jax.jit(program).lower(a, x).compile().as_text(), n)
    (inner,) = (nest for nest in found if nest)
    for nest, times in (((), 4), (inner, 1)):
        assert not found[nest].collectives
        # Two products of 2 m n operations, which read the matrix twice, a vector, and
        # write one; and what the loop makes of them.
        assert 4 * m * n * times <= found[nest].operations <= (4 * m + 1) * n * times
        assert (2 * m + 2) * n * times <= found[nest].traffic <= (2 * m + 8) * n * times
