"""What Krylov runs do to make sure of the pairs they found, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import implicit_eig as ieig
from implicit_eig._krylov import default_start, krylov_schur, Search
from implicit_eig._spectral import Named

from ..oracles import with_spectrum
from ..problems import random_walk


@jax.jit
def leading_of_120(a):
    like = jax.ShapeDtypeStruct((120,), a.dtype)
    s = ieig.eigs(lambda v: a @ v, 4, "LR", like=like, throw=False)
    return s.eigenvalues, s.eigenvectors, s.result == ieig.RESULTS.successful


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["normal", "triangular", "Toeplitz"])
def test_copies_are_found_beside_locked_vectors_and_are_eigenpairs(kind, seed):
    """A search locks unwanted vectors that have not converged, which disturbs what it
    finds: a copy has to converge again without them."""
    rng = np.random.default_rng(seed)
    n, step = 60, np.arange(1, 61) / 60
    if kind == "normal":
        q = np.linalg.qr(rng.normal(size=(n, n)))[0]
        b = q @ np.diag(step**2) @ q.T
    elif kind == "triangular":
        b = np.diag(step) + 0.02 * np.triu(rng.normal(size=(n, n)), 1)
    else:
        b = 2 * np.eye(n) - 1.05 * np.eye(n, k=1) - 0.95 * np.eye(n, k=-1)
    exact = np.sort(np.linalg.eigvals(b).real)[::-1]
    turn = np.linalg.qr(rng.normal(size=(2 * n, 2 * n)))[0]
    a = turn @ np.kron(np.eye(2), b) @ turn.T
    values, vectors, good = map(np.asarray, leading_of_120(a))
    assert good
    np.testing.assert_allclose(values, np.repeat(exact[:2], 2), rtol=1e-7)
    residuals = np.linalg.norm(a @ vectors - vectors * values, axis=0)
    assert np.max(residuals) < 1e-8 * np.linalg.norm(a)


def test_a_search_for_copies_costs_a_fifth_of_a_run():
    """A walk of which the seventh eigenvalue stands close to the sixth: a random vector
    alone took half as many products again as the pairs (391 for 257). ARPACK, which
    looks for nothing, takes 340."""
    operator = ieig.SparseOperator(*random_walk(60))
    solver = ieig.KrylovSchur(rtol=1e-9, krylov_dim=20)
    s = ieig.eigs(operator, 6, "LR", eigensolver=solver)
    assert s.stats["num_matvecs"] <= 330


def test_a_run_beside_an_eigenvalue_ends_when_that_is_seen():
    """The first run serves to move the shift; it took as many solves as the second."""
    spectrum = np.concatenate([[1e-6], 1 + np.arange(79.0)])
    a = sp.csr_array(np.diag(spectrum) + np.diag(np.full(79, 0.1), 1))
    solver = ieig.ShiftInvert(0.0, inner=ieig.KrylovSchur(rtol=1e-9, krylov_dim=20))
    s = ieig.eigs(a, 4, eigensolver=solver)
    np.testing.assert_allclose(s.eigenvalues, spectrum[:4], atol=1e-9)
    assert s.stats["num_factorizations"] == 2
    assert s.stats["num_solves"] <= 58


@pytest.mark.parametrize("known", [True, False])
def test_no_run_ends_by_ritz_values_that_may_still_change(known):
    """Those of a cyclic shift are no eigenvalues before the space is whole."""
    d = jnp.where(jnp.arange(60) < 3, 10.0 - jnp.arange(60.0), 0.1)
    mv = (lambda v: d * v) if known else (lambda v: jnp.roll(v, 1))
    found = krylov_schur(
        mv,
        default_start(60, d.dtype),
        Named("LM"),
        Search(2, 12, 1e-14),
        max_restarts=4,
        stop=lambda theta, outside: jnp.all(jnp.isfinite(theta - outside)),
    )
    assert found.num_restarts == (1 if known else 4)


def test_locked_pairs_of_an_inverse_need_no_repair():
    """The residual that a search drops is what A enlarges: one more product with the
    inverse, which costs none, removes it. Otherwise one solve a pair follows."""
    n, h = 70, 1 / 71
    eye = sp.eye_array(n)

    def along(p):  # −u″ + 2pu′
        return (
            2 * eye
            + (p * h - 1) * sp.eye_array(n, k=1)
            - (p * h + 1) * sp.eye_array(n, k=-1)
        )

    a = (
        sp.kron(along(5.0), eye)
        + sp.kron(eye, along(10.0))
        - 20 * h**2 * sp.eye_array(n * n)
    )
    solver = ieig.ShiftInvert(0.0, inner=ieig.KrylovSchur(rtol=1e-9, krylov_dim=20))
    s = ieig.eigs(sp.csr_array(a), 6, eigensolver=solver)
    assert s.stats["num_solves"] <= 50


def test_a_pair_to_which_the_start_is_blind_is_found_among_locked_ones():
    values = np.concatenate([[3.0, 2.9, 2.8], np.linspace(-1, 2.5, 97)])
    a = jnp.asarray(with_spectrum(0, values, skew=0.3))
    vectors = np.linalg.eig(np.asarray(a))
    best = np.argmax(vectors[0].real)
    left = np.linalg.inv(vectors[1])[best]
    v0 = np.ones(100) - vectors[1][:, best].real * (left @ np.ones(100)).real
    s = ieig.eigs(lambda v: a @ v, 2, "LR", like=a[0], v0=jnp.asarray(v0))
    np.testing.assert_allclose(s.eigenvalues, [3.0, 2.9], rtol=1e-8)


def test_a_selection_by_vectors_may_call_itself_extreme():
    class Followed(ieig.Overlap):
        def is_extreme(self, is_real):
            return True

    d = jnp.linspace(0.0, 1.0, 60)
    s = ieig.eigs(lambda v: d * v, 1, Followed(jnp.eye(60)[59] + 0.1), like=d)
    np.testing.assert_allclose(s.eigenvalues, [1.0], rtol=1e-8)
