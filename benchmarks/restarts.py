"""How many vectors a restart keeps: products of Krylov runs by policy, beside ARPACK's.

    python -m benchmarks.restarts [PROBLEM ...] [--starts 3]

k = 6, Krylov dimension 20, tolerance 1e-9; from the default start vector and from random ones
(ARPACK: random ones). A run that does not find all pairs in 2500 restarts has a minus sign.
Products do not depend on what else the machine does.
"""

import argparse
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import implicit_eig as ieig
from implicit_eig._krylov.truncation import varying_share

from .peers import csr
from .problems import brusselator, convection_diffusion, HARSH, MILD, random_walk


K, DIM, RTOL = 6, 20, 1e-9


def olmstead(n, c=0.1, b=2.0, r=4.7):
    """The linear part of Olmstead's model (Bai, Day, Demmel and Dongarra 1996), in standard
    form."""
    m = n // 2
    second = sp.diags([1, -2, 1], [-1, 0, 1], shape=(m, m)) * (m + 1) ** 2
    eye = sp.eye(m)
    blocks = [[(1 - c) * second + r * eye, c * second], [eye / b, -eye / b]]
    return sp.bmat(blocks).tocsr()


def random_sparse(n, seed):
    rng = np.random.default_rng(seed)
    return sp.random(n, n, 5 / n, random_state=rng, data_rvs=rng.standard_normal).tocsr()


PROBLEMS = {
    "random walk, n = 1891, LR": (lambda: csr(random_walk(60)), "LR"),
    "random walk, n = 16 471, LR": (lambda: csr(random_walk(180)), "LR"),
    "convection–diffusion, n = 3600, LM": (
        lambda: csr(convection_diffusion(60, p=MILD)),
        "LM",
    ),
    "convection–diffusion, n = 12 100, LM": (
        lambda: csr(convection_diffusion(110, p=MILD)),
        "LM",
    ),
    "the same, κ > 1/eps, n = 10 000, LM": (
        lambda: csr(convection_diffusion(100, p=HARSH)),
        "LM",
    ),
    "Olmstead, n = 1000, LM": (lambda: olmstead(1000), "LM"),
    "Olmstead, n = 3000, LM": (lambda: olmstead(3000), "LM"),
    "random sparse, n = 3000, LM": (lambda: random_sparse(3000, 0), "LM"),
    "random sparse, n = 2000, LR": (lambda: random_sparse(2000, 2), "LR"),
    "Brusselator, n = 800, LR": (lambda: csr(brusselator(400)), "LR"),
}


def share(part, restart):
    """A fixed one of those that are not wanted."""
    m, wanted = restart.krylov_dim, restart.wanted
    room = m - wanted + restart.converged
    return jnp.minimum(wanted + round(100 * part) * room // 100, m - 2)


def as_arpack(restart):
    """`dnaup2`: one more for each pair that has converged, up to half of the rest."""
    m, wanted = restart.krylov_dim, restart.wanted
    return jnp.minimum(wanted + jnp.minimum(restart.converged, (m - wanted) // 2), m - 2)


def as_slepc(restart):
    """`EPSKrylovSchur`, keep = 0.5: half of those that are not locked."""
    m, converged = restart.krylov_dim, restart.converged
    return jnp.clip(converged + (m - converged) // 2, restart.wanted, m - 2)


def by_gaps(restart):
    """Dynamic thick restarts (Stathopoulos, Saad and Wu 1998; Wu and Simon 2000): the number
    p that maximises (m − p) √γ, with γ the distance of the first wanted pair that has not
    converged from the first one dropped, over that from the farthest one."""
    m, values = restart.krylov_dim, restart.values
    first = values[jnp.minimum(restart.converged, restart.wanted - 1)]
    apart = jnp.abs(values - first)
    gap = jnp.sqrt(apart / jnp.maximum(jnp.max(apart), 1e-300))
    kept = jnp.arange(m)
    gain = (m - kept).astype(gap.dtype) * gap
    gain = jnp.where((kept >= restart.wanted) & (kept <= m - 2), gain, -1)
    return jnp.argmax(gain).astype(restart.wanted.dtype)


POLICIES = {
    "varying share": varying_share,
    "0.25": functools.partial(share, 0.25),
    "0.33": functools.partial(share, 0.33),
    "0.5": functools.partial(share, 0.5),
    "0.67": functools.partial(share, 0.67),
    "as ARPACK": as_arpack,
    "as SLEPc": as_slepc,
    "by gaps": by_gaps,
}


class Solver(ieig.KrylovSchur):
    """`KrylovSchur` with another policy."""

    policy: str

    def __init__(self, policy):
        super().__init__(rtol=RTOL, krylov_dim=DIM, max_restarts=2500)
        self.policy = policy

    def search(self, *args):
        search = super().search(*args)
        return dataclasses.replace(search, truncation=POLICIES[self.policy])


def starts(n, number):
    return [np.random.default_rng(seed).normal(size=n) for seed in range(number)]


def ours(a, which, policy, number):
    operator = ieig.SparseOperator(a)
    for v0 in [None, *starts(a.shape[0], number - 1)]:
        s = ieig.eigs(operator, K, which, v0=v0, eigensolver=Solver(policy), throw=False)
        found = bool(s.result == ieig.RESULTS.successful)
        yield int(s.stats["num_matvecs"]) * (1 if found else -1)


def arpacks(a, which, number):
    for v0 in starts(a.shape[0], number):
        count = [0]

        def product(x, count=count):
            count[0] += 1
            return a @ x

        try:
            operator = spla.LinearOperator(a.shape, product, dtype=float)
            options = {"ncv": DIM, "tol": RTOL, "maxiter": 4000, "v0": v0}
            spla.eigs(operator, K, which=which, return_eigenvectors=False, **options)
            yield count[0]
        except spla.ArpackNoConvergence:
            yield -count[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--starts", type=int, default=3)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print("| |", " | ".join(["ARPACK", *POLICIES]), "|")
    print("|---" * (len(POLICIES) + 2), "|", sep="")
    for name in args.problems:
        make, which = PROBLEMS[name]
        a = make()
        row = [arpacks(a, which, args.starts)]
        row += [ours(a, which, policy, args.starts) for policy in POLICIES]
        print("|", name, "|", end="")
        for counts in row:
            print("", ", ".join(map(str, counts)), "|", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
