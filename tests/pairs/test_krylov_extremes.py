"""Start vectors inside invariant subspaces, and operators of extreme size."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import implicit_eig as ieig

from ..oracles import random_matrix


N = 40
DIAGONAL = np.diag(np.arange(1.0, N + 1))


def laplacian(n):
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


def best(a, k):
    return np.sort(np.abs(np.linalg.eigvals(a)))[::-1][:k]


@partial(jax.jit, static_argnames=("k", "krylov_dim", "max_restarts"))
def krylov(a, k, v0=None, krylov_dim=None, max_restarts=300):
    return ieig.eigs(
        lambda v: a @ v,
        k,
        like=jax.ShapeDtypeStruct(a.shape[:1], a.dtype),
        v0=v0,
        eigensolver=ieig.KrylovSchur(krylov_dim=krylov_dim, max_restarts=max_restarts),
        throw=False,
    )


@partial(jax.jit, static_argnames="k")
def dense(a, k):
    return ieig.eigs(a, k, throw=False)


def right_or_told(solution, want, rtol):
    if solution.result == ieig.RESULTS.successful:
        np.testing.assert_allclose(np.abs(solution.eigenvalues), want, rtol=rtol)


# The default Krylov dimension is 20.
@pytest.mark.parametrize("size", [1, 2, 10, 18, 19, 20, 21, 25])
def test_a_start_vector_inside_an_invariant_subspace_hides_nothing(size):
    v0 = jnp.where(jnp.arange(N) < size, 1.0, 0.0)
    right_or_told(krylov(jnp.asarray(DIAGONAL), 1, v0=v0), [N], 1e-9)


@pytest.mark.parametrize("krylov_dim", [12, 19, 20, 21, 30])
def test_a_symmetric_start_vector_finds_antisymmetric_modes(krylov_dim):
    solution = krylov(jnp.asarray(laplacian(N)), 2, v0=jnp.ones(N), krylov_dim=krylov_dim)
    right_or_told(solution, best(laplacian(N), 2), 1e-8)


@pytest.mark.parametrize("find", [dense, krylov], ids=["dense", "krylov"])
@pytest.mark.parametrize(
    "dtype, scale",
    [
        *(("float64", s) for s in (1e-200, 1e-150, 1e-100, 1e100, 1e138, 1e150, 1e200)),
        *(("float32", s) for s in (1e-25, 1e-20, 1e-13, 1e-9, 1e9, 1e13, 1e20)),
    ],
)
def test_the_size_of_an_operator_does_not_matter(dtype, scale, find):
    """Beyond √tiny/eps ≈ 10⁻¹³⁹ (10⁻¹² in single precision) `geev` scales the matrix.

    A LAPACK that does not scale the eigenvalues back must not be believed.
    """
    a = np.asarray(random_matrix(0, 30))
    want = best(a, 2) * scale
    a = (a * scale).astype(dtype)
    solution = find(jnp.asarray(a), 2)
    eps = np.finfo(dtype).eps
    right_or_told(solution, want, 1e3 * eps ** (2 / 3))
    if 1e-12 < scale < 1e12:
        assert solution.result == ieig.RESULTS.successful


def test_one_bad_member_of_a_batch_spoils_no_other():
    good = np.asarray(random_matrix(1, N)) + 9 * DIAGONAL
    bad = good.copy()
    bad[3, 4] = np.nan
    zero, nilpotent = np.zeros((N, N)), np.eye(N, k=1)
    find = lambda a: krylov(a, 3, max_restarts=40)
    together = jax.vmap(find)(jnp.asarray(np.stack([good, bad, zero, nilpotent])))
    alone = find(jnp.asarray(good))
    # Of the zero matrix every choice cuts a tie.
    fine = together.result == ieig.RESULTS.successful
    codes = (fine | (together.result == ieig.RESULTS.cut_tie)).tolist()
    assert alone.result == ieig.RESULTS.successful
    assert codes == [True, False, True, False]
    np.testing.assert_allclose(together.eigenvalues[0], alone.eigenvalues, rtol=1e-12)
    assert np.all(np.isnan(together.eigenvalues[1]))
    assert np.array_equal(together.eigenvalues[2], np.zeros(3))


class TestStartVectorsHideNothing:
    n = 200
    path = np.eye(n, k=1) + np.eye(n, k=-1)
    scales = np.exp(0.5 * np.sin(np.arange(n)))
    modes = np.linalg.eigh(path)[1][:, ::-1]
    # Not symmetric, the same spectrum; the second one falls apart into halves.
    chain = scales[:, None] * path / scales
    halves = chain.copy()
    halves[n // 2 - 1, n // 2] = halves[n // 2, n // 2 - 1] = 0
    halves[: n // 2] *= 0.999

    @pytest.mark.parametrize(
        "a, v0",
        [
            (chain, scales * modes[:, 1]),
            (chain, scales * modes[:, 3]),
            (chain, scales * np.linspace(-1, 1, n)),
            (chain, scales * (modes[:, 1] + 1e-9 * modes[:, 0])),
            (halves, np.where(np.arange(n) < n // 2, scales, 0)),
        ],
        ids=["the second mode", "the fourth", "odd", "nearly the second", "one half"],
    )
    @pytest.mark.parametrize("solver", [None, ieig.Arpack()], ids=["krylov", "arpack"])
    def test_the_best_mode_is_found(self, a, v0, solver):
        rows, columns = np.nonzero(self.chain)
        operator = ieig.SparseOperator(jnp.asarray(a[rows, columns]), rows, columns, 200)
        found = ieig.eigs(operator, 1, "LR", v0=jnp.asarray(v0), eigensolver=solver)
        want = np.max(np.linalg.eigvals(a).real)
        np.testing.assert_allclose(found.eigenvalues, [want], rtol=1e-9)

    def test_a_good_one_saves_products(self):
        rows, columns = np.nonzero(self.chain)
        operator = ieig.SparseOperator(self.chain[rows, columns], rows, columns, 200)
        noise = np.random.default_rng(0).normal(size=200)
        count = lambda v0: int(
            ieig.eigs(operator, 1, "LR", v0=jnp.asarray(v0)).stats["num_matvecs"]
        )
        good = self.scales * (self.modes[:, 0] + 1e-3 * noise)
        assert count(good) < count(noise)


@jax.jit
def largest(values, rows, columns):
    s = ieig.eigs(ieig.SparseOperator(values, rows, columns, 2000), 6, throw=False)
    return s.eigenvalues, s.result == ieig.RESULTS.successful, s.stats["num_matvecs"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_restarts_do_not_get_stuck(seed):
    """The eigenvalues of random sparse matrices fill a disc, but for one: several runs
    that kept a fixed share of the Krylov space in each restart never saw a wanted pair."""
    a = sp.random_array((2000, 2000), density=0.003, rng=np.random.default_rng(seed))
    values, good, products = largest(jnp.asarray(a.data), *map(jnp.asarray, a.coords))
    # A larger space sees all of the rim.
    want = spla.eigs(sp.csr_array(a), 14, ncv=120, return_eigenvectors=False)
    assert good
    np.testing.assert_allclose(np.abs(values), np.sort(np.abs(want))[:-7:-1], rtol=1e-8)
    assert products < 5000
