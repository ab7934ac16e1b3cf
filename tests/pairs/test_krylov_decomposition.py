"""The factorisation itself: `A V_m = V_{m+1} H` with orthonormal V, after any number of
restarts.

Rounding should be the only error, however many restarts there were: each step adds its
own rounding and no more. What is measured are the two defects in units of eps,

    ‖Vᴴ V − I‖ / eps        and        ‖A V_m − V_{m+1} H‖ / (eps ‖A‖).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks import restarts
from implicit_eig._krylov.arnoldi import expand, KrylovDecomposition, restart
from implicit_eig._krylov.basis import default_start, from_rows, to_rows
from implicit_eig._krylov.ritz import kept_basis, ritz_pairs
from implicit_eig._krylov.schur import schur_basis, schur_form, sharpened
from implicit_eig._krylov.truncation import Restart
from implicit_eig._spectral import as_selection, order

from ..oracles import slow_but
from ..problems import frank


N, M, K = 48, 16, 3


def orthogonal(rng, n, is_real):
    a = rng.normal(size=(n, n))
    return np.linalg.qr(a if is_real else a + 1j * rng.normal(size=(n, n)))[0]


def normal(rng, is_real):
    q = orthogonal(rng, N, is_real)
    d = np.diag(rng.normal(size=N)).astype(q.dtype)
    i = np.arange(0, N, 2)
    d[i, i + 1] = rng.normal(size=N // 2)
    d[i + 1, i], d[i + 1, i + 1] = -d[i, i + 1], d[i, i]
    return q @ d @ q.conj().T


def grcar(rng, is_real):
    del rng, is_real
    return -np.eye(N, k=-1) + sum(np.eye(N, k=k) for k in range(4))


def frank_matrix(rng, is_real):
    del rng, is_real
    return np.asarray(frank(N))


def jordan(size, value=3.0):
    """A Jordan block of the wanted eigenvalue among separate ones, orthogonally mixed."""

    def make(rng, is_real):
        d = np.diag(np.linspace(-2, 2, N))
        d[:size, :size] = value * np.eye(size) + np.eye(size, k=1)
        q = orthogonal(rng, N, is_real)
        return q @ d @ q.conj().T

    make.__name__ = f"jordan_{size}"
    return make


def tiny_gaps(rng, is_real):
    """Triangular, diagonal 1 + 10⁻⁶ i: every leading block is nearly defective."""
    a = np.triu(rng.normal(size=(N, N)), 1) / np.sqrt(N) + np.diag(
        1 + 1e-6 * np.arange(N)
    )
    q = orthogonal(rng, N, is_real)
    return q @ a @ q.conj().T


def low_rank(rng, is_real):
    q = orthogonal(rng, N, is_real)
    return q[:, :5] @ rng.normal(size=(5, N))


def identity_plus_rank_one(rng, is_real):
    del is_real
    return np.eye(N) + np.outer(rng.normal(size=N), rng.normal(size=N)) / N


PROBLEMS = {
    f.__name__: f
    for f in (
        normal,
        grcar,
        frank_matrix,
        *(jordan(size) for size in (2, 3, 4, 5)),
        tiny_gaps,
        low_rank,
        identity_plus_rank_one,
    )
}
DTYPES = slow_but(
    ["float64", "complex64"], ["float32", "float64", "complex64", "complex128"]
)


def matrix_of(name, dtype):
    is_real = np.dtype(dtype).kind == "f"
    a = PROBLEMS[name](np.random.default_rng(7), is_real)
    return jnp.asarray(a).astype(dtype)


class Cycle(NamedTuple):
    expanded: KrylovDecomposition
    restarted: KrylovDecomposition
    keep: jax.Array


def first(dtype):
    rows = to_rows(default_start(N, jnp.dtype(dtype)))
    basis = jnp.zeros((M + 1, *rows.shape), rows.dtype)
    basis = basis.at[0].set(rows / jnp.sqrt(jnp.sum(rows**2)))
    return KrylovDecomposition(basis, jnp.zeros((M + 1, M), dtype))


@jax.jit
def cycle(a, decomposition, start):
    """Expand to M vectors, keep the K wanted and half of the rest: as the driver does
    while nothing has converged."""
    is_real = not jnp.iscomplexobj(a)
    expanded = expand(lambda v: a @ v, decomposition, start)
    ritz = ritz_pairs(expanded, as_selection("LM", None), K, 0.0, 0.0, is_real)
    keep = jnp.sum(ritz.wanted) + (M - jnp.sum(ritz.wanted)) // 2
    keep = keep + ritz.second[keep].astype(keep.dtype)
    q = kept_basis(ritz, expanded.matrix, keep)
    return Cycle(expanded, restart(expanded, q, keep), keep)


sharpened_once = jax.jit(sharpened)


def run(a, times):
    decomposition, start = first(a.dtype), jnp.asarray(0)
    for _ in range(times):
        last = cycle(a, decomposition, start)
        decomposition, start = last.restarted, last.keep
    return last


def defects(a, decomposition, columns):
    """(‖VᴴV − I‖, ‖A V − V H‖ / ‖A‖) in units of eps, in extended precision."""
    wide = np.clongdouble
    v = np.asarray(from_rows(jnp.moveaxis(decomposition.basis, 1, 0))).astype(wide)
    v, h = v[: columns + 1].T, np.asarray(decomposition.matrix).astype(wide)
    h = h[: columns + 1, :columns]
    matrix = np.asarray(a).astype(wide)
    eps = np.finfo(np.asarray(a).dtype).eps
    size = np.linalg.norm(np.asarray(a, complex), 2)
    gram = v.conj().T @ v - np.eye(columns + 1)
    relation = matrix @ v[:, :columns] - v @ h
    norm = lambda x: float(np.linalg.norm(x.astype(complex), 2))
    return norm(gram) / eps, norm(relation) / (eps * size)


# Units of eps: what n = 48 and 50 restarts add up to. The largest, 130, is of complex64.
ROUNDING = 200.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_orthogonality_and_the_krylov_relation_hold_to_rounding(name, dtype):
    a = matrix_of(name, dtype)
    decomposition, start, worst = first(dtype), jnp.asarray(0), {}
    for number in range(1, 51):
        last = cycle(a, decomposition, start)
        decomposition, start = last.restarted, last.keep
        if number in (1, 3, 10, 50):
            worst[number] = [
                *defects(a, last.expanded, M),
                *defects(a, last.restarted, int(last.keep)),
            ]
    report = {r: [f"{x:.1e}" for x in d] for r, d in worst.items()}
    assert np.max(list(worst.values())) <= ROUNDING, report


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_what_a_restart_drops_is_rounding(name, dtype, monkeypatch):
    """`restart` keeps the leading block of QᴴHQ: what stands below it is lost. Of XLA's
    way; `test_kernels.py` has that of the kernels."""
    monkeypatch.setenv("IMPLICIT_EIG_KERNELS", "off")
    a = matrix_of(name, dtype)
    is_real = np.dtype(dtype).kind == "f"
    expanded = run(a, 1).expanded
    ritz = ritz_pairs(expanded, as_selection("LM", None), K, 0.0, 0.0, is_real)
    rough = schur_basis(ritz.vectors, ritz.second, is_real)
    h = np.asarray(expanded.matrix)[:M]
    rounding = ROUNDING * np.finfo(dtype).eps
    for p in range(K, M - 1):
        if not np.asarray(ritz.second)[p]:
            q = sharpened_once(jnp.asarray(h), rough, p, ritz.values, ritz.vectors)
            rough, q = np.asarray(rough), np.asarray(q)
            assert np.linalg.norm(q.conj().T @ q - np.eye(M), 2) <= rounding
            before, after = (x.conj().T @ h @ x for x in (rough, q))
            most = rounding * np.linalg.norm(h, 2)
            if not newton_converges(before, p):
                most = max(most, 1.01 * np.linalg.norm(before[p:, :p]))
            assert np.linalg.norm(after[p:, :p], 2) <= most, p


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_rounding_below_the_diagonal_turns_no_vectors(dtype, monkeypatch):
    """LAPACK's balancing enlarges it."""
    monkeypatch.setenv("IMPLICIT_EIG_KERNELS", "off")
    entries = np.random.default_rng(0).normal(size=(8, 8))
    triangle = np.triu(entries, 1) + np.diag(np.arange(8.0))
    rounding = 0.1 * np.finfo(dtype).eps * np.tril(entries, -1)
    values, vectors, *_ = schur_form(jnp.asarray((triangle + rounding).astype(dtype)))
    in_order = np.argsort(np.asarray(values).real)
    np.testing.assert_array_equal(np.asarray(values)[in_order], np.arange(8))
    np.testing.assert_array_equal(np.tril(np.asarray(vectors)[:, in_order], -1), 0)


def newton_converges(t, p):
    """Whether the subspace of the first p columns is certain to be improved (Stewart 1973).
    That of three of four eigenvalues that rounding made of one is not, in float32."""
    above, below = t[:p, p:], t[p:, :p]
    apart = np.kron(np.eye(p), t[p:, p:]) - np.kron(t[:p, :p].T, np.eye(M - p))
    least = np.linalg.svd(apart.astype(complex), compute_uv=False)[-1]
    return 4 * np.linalg.norm(above) * np.linalg.norm(below) < least**2


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_an_invariant_subspace_is_left_uncoupled_and_orthogonally(dtype):
    """Rank 5: the space is exhausted after six vectors, the rest is drawn at random."""
    a = matrix_of("low_rank", dtype)
    last = run(a, 1)
    below = np.abs(np.diagonal(np.asarray(last.expanded.matrix), -1))
    assert np.count_nonzero(below == 0) == M - 5 or np.count_nonzero(below == 0) == M - 6
    assert max(defects(a, last.expanded, M)) <= ROUNDING


def double(gap):
    def make(rng):
        d = np.diag(np.linspace(-2, 2, M))
        d[:2, :2] = [[3, 1], [0, 3 + gap]]
        return d

    make.__name__ = f"double_{gap}"
    return make


def projected_jordan(size):
    def make(rng):
        d = np.diag(np.linspace(-2, 2, M)) + 0.3 * np.triu(rng.normal(size=(M, M)), 2)
        d[:size, :size] = 3 * np.eye(size) + np.eye(size, k=1)
        return d

    make.__name__ = f"jordan_{size}"
    return make


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(
    "make",
    [double(0), double(1e-9), *(projected_jordan(s) for s in (2, 3, 4, 5))],
    ids=lambda f: f.__name__,
)
def test_a_cut_beside_a_nearly_defective_cluster_drops_rounding(make, dtype):
    """The projected matrix alone, kept up to a cut that does not split the cluster."""
    eps, worst = np.finfo(dtype).eps, 0.0
    is_real = dtype == "float64"

    @jax.jit
    def basis_of(h):
        w, v = jnp.linalg.eig(h)
        accuracy = jnp.full(w.shape, 10 * eps * jnp.max(jnp.abs(w)), w.real.dtype)
        found = order(as_selection("LM", None), w, None, is_real, accuracy)
        perm, second = found.permutation, found.second
        return w[perm], v[:, perm], schur_basis(v[:, perm], second, is_real), second

    for seed in range(20):
        rng = np.random.default_rng(seed)
        z = orthogonal(rng, M, is_real)
        h = (z @ make(rng) @ z.conj().T).astype(dtype)
        w, v, rough, second = basis_of(jnp.asarray(h))
        for p in range(1, M - 1):
            if not second[p] and abs(w[p] - w[p - 1]) > 0.05:
                q = np.asarray(sharpened_once(h, rough, p, w, v))
                rotated = q.conj().T @ h @ q
                dropped = np.linalg.norm(rotated[p:, :p], 2)
                worst = max(worst, dropped / (eps * np.linalg.norm(h, 2)))
    assert worst <= ROUNDING, f"{worst:.1e} eps"


@pytest.mark.parametrize("name", restarts.POLICIES)
def test_policies_keep_the_wanted_vectors_and_leave_room(name):
    """And any of them finds the pairs."""
    m = restarts.DIM
    values = jnp.linspace(2.0, 1.0, m) ** 4
    for wanted in (1, 6, m - 2):
        for converged in {0, wanted // 2, wanted}:
            for count in range(40):
                counts = (jnp.asarray(x) for x in (wanted, converged, count))
                keep = restarts.POLICIES[name](Restart(m, *counts, values))
                assert wanted <= keep <= m - 2 and keep.dtype == jnp.asarray(0).dtype
    a = np.diag(np.arange(100.0)) + np.eye(100, k=1)
    found = restarts.ours(sp.csr_matrix(a), "LR", name, 1)
    assert next(iter(found)) > 0
