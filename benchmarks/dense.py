"""All pairs of dense matrices: forward, value and gradient, beside JAX and torch.

The loss is Σ|λ|² + Σ wᵢ|vᵢⱼ|² of unit vectors: no phase and no order matters.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ieig

from .harness import Peer, Task


QUICK = [(64, 8, "float64"), (4, 64, "float64"), (4, 64, "complex128")]
FULL = [
    (batch, n, dtype)
    for batch, n in [(4096, 8), (256, 64), (8, 256), (1, 1024)]
    for dtype in ("float64", "complex128", "float32")
]
# Gradients divide by gaps, so single precision agrees to few digits only.
RTOL = {"float64": 1e-6, "complex128": 1e-6, "float32": 5e-2}


def matrices(batch, n, dtype):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(batch, n, n))
    if dtype == "complex128":
        a = a + 1j * rng.normal(size=a.shape)
    return (a / np.sqrt(n)).astype(dtype)


def loss(values, vectors):
    weight = jnp.linspace(0, 1, vectors.shape[-2], dtype=values.real.dtype)[:, None]
    return jnp.sum(jnp.abs(values) ** 2) + jnp.sum(jnp.abs(vectors) ** 2 * weight)


def ours(a):
    s = ieig.eig(a)
    return loss(s.eigenvalues, s.eigenvectors)


def flagged(a):
    return loss(
        *jax.lax.linalg.eig(a, compute_left_eigenvectors=False, enable_eigvec_derivs=True)
    )


def by_jax(one, a, gradient):
    run, a = jax.jit(jax.value_and_grad(one) if gradient else one), jnp.asarray(a)
    return lambda: run(a)


def by_torch(a, gradient):
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    a = torch.from_numpy(a)

    def run():
        x = a.clone().requires_grad_(gradient)
        values, vectors = torch.linalg.eig(x)
        weight = torch.linspace(0, 1, a.shape[-1], dtype=values.real.dtype)[:, None]
        total = (values.abs() ** 2).sum() + (vectors.abs() ** 2 * weight).sum()
        if not gradient:
            return total.numpy()
        total.backward()  # torch's gradients are the conjugates of JAX's
        return total.detach().numpy(), x.grad.conj().resolve_conj().numpy()

    return run


def tasks(quick):
    for batch, n, dtype in QUICK if quick else FULL:
        a = matrices(batch, n, dtype)
        for gradient in (False, True):
            what = "value and gradient" if gradient else "forward"
            peers = [
                Peer("ours", lambda a=a, g=gradient: by_jax(ours, a, g)),
                Peer("jax", lambda a=a, g=gradient: by_jax(flagged, a, g)),
                Peer("torch", lambda a=a, g=gradient: by_torch(a, g), "torch"),
            ]
            yield Task(f"eig {batch}×{n}, {dtype}, {what}", peers, RTOL[dtype])
