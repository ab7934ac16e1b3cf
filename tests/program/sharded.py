"""Run by `test_sharding.py` in processes of their own: `sharded.py devices`, or
`sharded.py process INDEX PORT`. Two problems, on one device and sharded along n."""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)

# Large enough for a part to be rotated in pieces.
N, K = 8 * 5000, 3
index = np.arange(N)
RATES = np.cos(index) ** 2
RATES[[7, N // 3, N // 2, N - 1]] = [4.0, 3.0, 5.0, 2.5]
START = np.sin(1.0 + index)
WEIGHTS = np.cos(0.1 * index)


def solution(rates, start, **kwargs):
    def mv(v):
        return rates * v + 0.3 * jnp.roll(v, 1) - 0.2 * jnp.roll(v, -1)

    return ieig.eigs(mv, K, "LR", like=rates, v0=start, **kwargs)


def hermitian(rates, start, **kwargs):
    def mv(v):
        return rates * v + 0.2 * (jnp.roll(v, 1) + jnp.roll(v, -1))

    return ieig.eigsh(mv, K, "LA", like=rates, v0=start, **kwargs)


def from_the_left(rates, start, **kwargs):
    return solution(rates, start, left=True, **kwargs)


def loss(solution, rates, start, weights):
    found = solution(rates, start)
    vectors = weights @ found.eigenvectors
    if found.left_eigenvectors is not None:
        vectors = vectors + weights @ found.left_eigenvectors
    return jnp.sum(jnp.abs(found.eigenvalues) ** 2 + vectors.real), found


def gathered(program):
    """Results of collectives with as many elements as a device holds of a vector."""
    found = []
    for line in program.splitlines():
        collective = re.search(
            r"= (.*?) (all-gather|all-to-all|all-reduce|reduce-scatter|"
            r"collective-permute|collective-broadcast)(-start)?\(",
            line,
        )
        for shape in re.findall(r"\[([\d,]+)\]", collective[1] if collective else ""):
            if np.prod([int(size) for size in shape.split(",")]) >= N // 8:
                found.append(line.strip()[:200])
    return found


def agree(got, wanted, rtol):
    """Every part that this process holds."""
    wanted = np.asarray(wanted)
    for part in got.addressable_shards:
        error = np.abs(np.asarray(part.data) - wanted[part.index])
        assert np.max(error) <= rtol * np.max(np.abs(wanted))


def main(mode, *rest):
    if mode == "process":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{rest[1]}", 2, int(rest[0]))
        assert jax.process_count() == 2
    along = NamedSharding(Mesh(np.array(jax.devices()), "n"), PartitionSpec("n"))
    vectors = RATES, START, WEIGHTS
    sharded = [
        jax.make_array_from_callback((N,), along, lambda i, x=x: x[i]) for x in vectors
    ]
    for problem in (solution, hermitian, from_the_left):
        check(problem, vectors, sharded)
    if mode == "devices":
        check_explicit_axes()


def check(solution, vectors, sharded):
    of = functools.partial(loss, solution)
    run = jax.jit(jax.value_and_grad(of, has_aux=True))
    (value, found), gradient = run(*map(jnp.asarray, vectors))
    compiled = run.lower(*sharded).compile()
    assert not gathered(compiled.as_text()), gathered(compiled.as_text())
    (value_, found_), gradient_ = compiled(*sharded)
    agree(value_, value, 1e-12)
    agree(found_.eigenvalues, found.eigenvalues, 1e-12)
    agree(found_.eigenvectors, found.eigenvectors, 1e-8)
    agree(gradient_, gradient, 1e-8)
    parts = {
        jax.typeof(x).shape[0] // x.addressable_shards[0].data.shape[0]
        for x in (gradient_, found_.eigenvectors)
    }
    assert parts == {jax.device_count()}
    # Not under `jit`: what is checked of v0 does not leave its device either.
    agree(solution(*sharded[:2]).eigenvalues, found.eigenvalues, 1e-12)
    # Errors come by a callback of one number; without them there is none.
    silent = jax.jit(lambda r, v: solution(r, v, throw=False)).lower(*sharded[:2])
    assert "callback" not in silent.as_text()


def check_explicit_axes():
    """They are refused by name, and the advice in the message works."""
    mesh = jax.make_mesh((jax.device_count(),), ("n",), axis_types=(AxisType.Explicit,))
    along = NamedSharding(mesh, PartitionSpec("n"))
    rates, start = (jax.device_put(x, along) for x in (RATES, START))
    a = jax.device_put(jnp.ones((jax.device_count(), 3, 3)) + jnp.eye(3), along)
    plain = jnp.asarray(RATES)
    calls = {
        "like": lambda: solution(rates, None),
        "operator": lambda: ieig.eigs(lambda v: rates * v, like=plain),
        "v0": lambda: solution(plain, start),
        "a": lambda: ieig.eig(a),
        "eigenvectors": lambda: ieig.attach(
            lambda v: plain * v, jnp.ones(1), start[:, None], like=plain
        ),
    }
    with jax.set_mesh(mesh):
        for name, call in calls.items():
            try:
                call()
            except ValueError as error:
                assert f"`{name}` has an array sharded" in str(error), error
                assert "P('n'" in str(error) and "auto_axes" in str(error)
            else:
                raise AssertionError(name)
        values = jax.sharding.auto_axes(ieig.eigvals, out_sharding=PartitionSpec("n"))
        assert np.allclose(np.sort(np.asarray(values(a)).real), [1, 1, 4])


if __name__ == "__main__":
    main(*sys.argv[1:])
