"""Dense matrices: all pairs, forward, value and gradient, and a few pairs of many.

The loss of all pairs is Σ|λ|² + Σ wᵢ|vᵢⱼ|² of unit vectors: no phase and no order matters.
"""

import importlib

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import implicit_eig as ieig

from .harness import lacks, Peer, Task


QUICK = [(64, 8, "float64"), (4, 64, "float64")]
FULL = [
    (batch, n, dtype)
    for batch, n in [(65536, 3), (4096, 8), (256, 64), (8, 256), (1, 1024)]
    for dtype in ("float64", "complex128", "float32")
]
SOME, K = [(256, "float64"), (256, "complex128"), (1024, "float64")], 4
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


def by_qr(a):
    s = ieig.eig(a, method="qr")
    return loss(s.eigenvalues, s.eigenvectors)


def flagged(a):
    return loss(
        *jax.lax.linalg.eig(a, compute_left_eigenvectors=False, enable_eigvec_derivs=True)
    )


def by_fmmax(a):
    eig = importlib.import_module("fmmax.eig").eig
    return loss(*eig(a))


def of_the_kind_of(a):
    """fmmax's gradients with respect to real matrices are complex: their real part."""
    return lambda out: jax.tree.map(np.asarray if np.iscomplexobj(a) else np.real, out)


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


def all_pairs(quick):
    for batch, n, dtype in QUICK if quick else FULL:
        a = matrices(batch, n, dtype)
        for gradient in (False, True):
            what = "value and gradient" if gradient else "forward"
            yield Task(
                f"eig {batch}×{n}, {dtype}, {what}",
                f"all pairs of dense matrices, {what}",
                [
                    Peer("ours", lambda a=a, g=gradient: by_jax(ours, a, g)),
                    Peer("JAX, flagged", lambda a=a, g=gradient: by_jax(flagged, a, g)),
                    *(
                        Peer("ours, by QR", lambda a=a, g=gradient: by_jax(by_qr, a, g))
                        for _ in range(n <= 64)
                    ),
                    Peer("torch", lambda a=a, g=gradient: by_torch(a, g), lacks("torch")),
                    Peer(
                        "fmmax",
                        lambda a=a, g=gradient: by_jax(by_fmmax, a, g),
                        lacks("fmmax"),
                        of_the_kind_of(a),
                    ),
                ],
                RTOL[dtype],
            )


def of_some(values, vectors):
    weight = jnp.linspace(0.0, 1.0, vectors.shape[0])[:, None]
    return jnp.sum(jnp.abs(vectors) ** 2 * weight) + jnp.sum(values.real)


def some(a, adjoint=None):
    s = ieig.eigs(a, K, "LM", adjoint=adjoint or ieig.ImplicitAdjoint())
    return of_some(s.eigenvalues, s.eigenvectors)


def some_by_lu(a):
    return some(a, ieig.ImplicitAdjoint(lx.LU()))


def some_of_all(a):
    """What a user of JAX's `eig` writes."""
    values, vectors = jax.lax.linalg.eig(
        a, compute_left_eigenvectors=False, enable_eigvec_derivs=True
    )
    best = jnp.argsort(-jnp.abs(values))[:K]
    return of_some(values[best], vectors[:, best])


def some_by_krylov(a):
    """Krylov–Schur on products with the dense matrix."""
    s = ieig.eigs(lambda v: a @ v, K, "LM", like=a[0])
    return of_some(s.eigenvalues, s.eigenvectors)


def some_pairs():
    for n, dtype in SOME:
        (a,) = matrices(1, n, dtype)
        for gradient in (False, True):
            what = "value and gradient" if gradient else "forward"
            peers = {"ours": some, "JAX, flagged": some_of_all}
            peers["ours, by Krylov–Schur"] = some_by_krylov
            if gradient:
                peers["ours, by LU"] = some_by_lu
            yield Task(
                f"{K} pairs of a dense matrix, n = {n}, {dtype}, {what}",
                f"a few pairs of a dense matrix, {what}",
                [
                    Peer(name, lambda f=f, a=a, g=gradient: by_jax(f, a, g))
                    for name, f in peers.items()
                ],
            )


def tasks(quick):
    yield from all_pairs(quick)
    if not quick:
        yield from some_pairs()
