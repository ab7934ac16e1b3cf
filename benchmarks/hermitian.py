"""Hermitian problems: `eigsh` beside SciPy's, SLEPc's, JAX's and torch's LOBPCG and our own
`eigs`; `eigh` beside JAX's; value and gradient in terms of the forward run.

k = 6, Krylov dimension 20, tolerance 1e-9. The membrane's eigenvalues are simple, so that
the others, which look for no copies, are asked for nothing else than we are.
"""

import functools
import pathlib
import tempfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as spla
from jax.experimental.sparse.linalg import lobpcg_standard

import implicit_eig as ieig

from . import torch_worker
from .extremal import compiled, DIM, K, OPTIONS, ours, RTOL, SOLVER
from .harness import Peer, Task
from .peers import csr, in_order, slepc
from .problems import membrane
from .worker import Worker


def find(operator, k=K):
    return ieig.eigsh(operator, k, "LA", eigensolver=SOLVER).eigenvalues


def near(operator):
    inner = ieig.KrylovSchur(rtol=RTOL, krylov_dim=DIM)
    shift_invert = ieig.ShiftInvert(0.0, inner=inner)
    found = ieig.eigsh(operator, K, eigensolver=shift_invert)
    return found.eigenvalues, found.stats["num_solves"]


def ours_near(operator):
    run = functools.cache(lambda: compiled(near, operator))
    count = lambda: {"solves": int(run()()[1])}
    return Peer("ours", run, None, lambda found: in_order(found[0]), count)


def general(operator):
    return ieig.eigs(operator, K, "LR", eigensolver=SOLVER).eigenvalues.real


def of_values(operator):
    return jnp.sum(jnp.sin(find(operator)))


def of_vectors(operator):
    adjoint = ieig.ImplicitAdjoint(rtol=RTOL)
    s = ieig.eigsh(operator, K, "LA", eigensolver=SOLVER, adjoint=adjoint)
    weight = jnp.linspace(0.0, 1.0, s.eigenvectors.shape[0])[:, None]
    return jnp.sum(s.eigenvectors**2 * weight) + jnp.sum(s.eigenvalues)


def arpack(triplets, **options):
    a = csr(triplets)
    v0 = np.random.default_rng(0).normal(size=a.shape[0])

    def solve(op):
        found = spla.eigsh(op, K, ncv=DIM, tol=RTOL, v0=v0, maxiter=100_000, **options)
        return found[0]

    def count():
        if "sigma" in options:
            solves = 0
            factor = spla.splu(csr(triplets).tocsc())

            def inverse(v):
                nonlocal solves
                solves += 1
                return factor.solve(v)

            known = spla.LinearOperator(a.shape, inverse, dtype=a.dtype)
            k, limits = options | {"OPinv": known}, dict(ncv=DIM, tol=RTOL, v0=v0)
            spla.eigsh(a, K, **limits, **k)
            return {"solves": solves}
        products = 0

        def product(v):
            nonlocal products
            products += 1
            return a @ v

        solve(spla.LinearOperator(a.shape, product, dtype=a.dtype))
        return {"products": products}

    return Peer("SciPy", lambda: functools.partial(solve, a), None, in_order, count)


def lobpcg(triplets):
    """Blocks of k vectors, as far as its own default tolerance, which is rounding."""
    operator = ieig.SparseOperator(*triplets)
    start = jax.random.normal(jax.random.key(0), (triplets[3], K))

    def run(operator):
        product = jax.vmap(operator.mv, 1, 1)
        return lobpcg_standard(product, start, m=1000)

    made = compiled(run, operator)
    count = lambda: {"products": 3 * K * int(made()[2])}
    return Peer("JAX's LOBPCG", lambda: made, None, lambda out: in_order(out[0]), count)


def torch_lobpcg(triplets):
    """As far as the tolerance of the others; in an interpreter that has torch."""
    workers = []

    def make():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "problem.npz"
            names = "values", "rows", "columns", "n"
            np.savez(path, k=K, rtol=RTOL, **dict(zip(names, triplets, strict=True)))
            workers.append(Worker([torch_worker.command(), torch_worker.__file__, path]))
        return workers[0]

    def count():
        return {k: v for k, v in workers[0].ready.items() if k == "iterations"}

    return Peer("torch's LOBPCG", make, torch_worker.lacks(), in_order, count)


def dense(n, batch=None):
    shape = (n, n) if batch is None else (batch, n, n)
    a = np.random.default_rng(0).normal(size=shape)
    a = jnp.asarray(a + np.swapaxes(a, -1, -2))

    def values(result):
        return result[0]

    def loss(eigh, a):
        w, v = eigh(a)
        return jnp.sum(w * jnp.arange(n)) + jnp.sum(v[..., 0, :] ** 2 * jnp.arange(n))

    for name, wrap in (("", lambda eigh: eigh), (", value and gradient", None)):
        peers = []
        for who, eigh in (("ours", ieig.eigh), ("JAX", jnp.linalg.eigh)):
            f = eigh if wrap else jax.value_and_grad(functools.partial(loss, eigh))
            # Vectors of the two differ in sign, which the loss does not see.
            peers.append(Peer(who, functools.partial(compiled, f, a), None, values))
        size = f"n = {n}" if batch is None else f"{batch} matrices of n = {n}"
        yield Task(f"dense, {size}{name}", f"dense Hermitian matrices{name}", peers)


def tasks(quick):
    for m in (40,) if quick else (100, 200):
        triplets = membrane(m)
        operator, n = ieig.SparseOperator(*triplets), triplets[3]
        peers = [ours(find, operator, in_order), arpack(triplets, which="LA")]
        peers += slepc(triplets, which="LA", hermitian=True, **OPTIONS)
        if n <= 10_000:
            peers += [lobpcg(triplets), torch_lobpcg(triplets)]
            peers += [ours(general, operator, in_order, "our `eigs`")]
        title = f"membrane, LA, n = {n:_}"
        yield Task(title, "extremal pairs of a symmetric matrix", peers)
        for what, one in (("values", of_values), ("vectors", of_vectors)):
            yield Task(
                f"{title}, value and gradient of {what}",
                f"value and gradient of {what} of a symmetric matrix",
                [
                    ours(eqx.filter_value_and_grad(one), operator, first),
                    ours(one, operator, name="our forward run"),
                ],
            )
        yield Task(
            f"membrane, nearest 0, n = {n:_}",
            "pairs of a symmetric matrix near a target",
            [
                ours_near(operator),
                arpack(triplets, sigma=0.0, which="LM"),
                *slepc(triplets, sigma=0.0, hermitian=True, **OPTIONS),
            ],
        )
    yield from dense(100 if quick else 500)
    if not quick:
        yield from dense(32, batch=256)


def first(result):
    return result[0]
