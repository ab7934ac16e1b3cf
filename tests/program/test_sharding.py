"""Arrays sharded along n: no vector of length n is gathered, and the answers agree."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest


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
