"""Value and gradient of a problem sharded over all devices that JAX sees.

Run by `benchmarks.scaling` in a process of its own, since devices are counted when JAX
starts: `python -m benchmarks.device_worker`.
"""

import os


N, K = 200_000, 4


def environment(devices):
    flag = f"--xla_force_host_platform_device_count={devices}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_X64": "1"}


def main():
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import implicit_eig as ieig

    from .worker import serve

    mesh = jax.make_mesh((jax.device_count(),), ("n",), axis_types=(AxisType.Auto,))
    along_n = NamedSharding(mesh, PartitionSpec("n"))
    place = jnp.arange(N) / N
    peaks = sum(jnp.exp(-1e6 * (place - x) ** 2) * (1 + x) for x in (0.1, 0.3, 0.6, 0.8))
    rates = jax.device_put(peaks, along_n)
    v0 = jax.device_put(jnp.ones(N), along_n)

    @jax.jit
    @jax.value_and_grad
    def growth(rates):
        step = lambda v: rates * v + 0.3 * jnp.roll(v, 1) + 0.2 * jnp.roll(v, -1)
        s = ieig.eigs(step, k=K, which="LR", like=rates, v0=v0)
        return jnp.sum(s.eigenvalues.real)

    def run():
        value, gradient = jax.block_until_ready(growth(rates))
        return [float(value), float(jnp.sum(gradient))]

    serve({"devices": jax.device_count()}, run)


if __name__ == "__main__":
    main()
