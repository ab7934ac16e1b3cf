"""Plain calls go on where the first program did not reach its aim: derivatives by GMRES,
pairs by wider spaces or by `Dense`."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

import implicit_eig as ieig
from benchmarks.problems import convection_diffusion
from implicit_eig import _program


VALUES, ROWS, COLUMNS, N = convection_diffusion(9, (1.0, 2.0, 0.0))
VALUES = jnp.asarray(VALUES)
ALONG = jnp.asarray(np.random.default_rng(0).normal(size=VALUES.shape))


def matrix(values):
    return ieig.SparseOperator(values, ROWS, COLUMNS, N)


def loss(values, **options):
    s = ieig.eigs(matrix(values), 2, "LM", **options)
    return jnp.sum(s.eigenvalues.real) + jnp.sum(jnp.abs(s.eigenvectors[: N // 2]) ** 2)


@jax.jit
@jax.grad
def exact_gradient(values):
    return loss(values, eigensolver=ieig.Dense())


@pytest.fixture
def useless(monkeypatch):
    """A first solver that reaches nothing."""

    def nothing(self, system, rhs, **_):
        return 0 * rhs

    monkeypatch.setattr(ieig.KrylovSylvester, "solve", nothing)
    forget = _program._kept.clear
    forget()
    yield
    forget()


def test_gmres_takes_over_in_plain_derivatives(useless, caplog):
    with caplog.at_level(logging.INFO, "implicit_eig"):
        gradient = jax.grad(loss)(VALUES)
    assert "taken again by GMRES" in caplog.text
    assert np.allclose(gradient, exact_gradient(VALUES), atol=1e-7)


@pytest.mark.slow
def test_gmres_takes_over_in_forward_mode_and_without_throw(useless):
    want = exact_gradient(VALUES)
    _, slope = jax.jvp(loss, (VALUES,), (ALONG,))
    assert np.isclose(slope, want @ ALONG, atol=1e-7)
    quiet = jax.grad(lambda v: loss(v, throw=False))(VALUES)
    assert np.allclose(quiet, want, atol=1e-7)


@pytest.mark.parametrize(
    "gradient",
    [
        jax.vmap(jax.grad(loss)),
        pytest.param(
            jax.grad(lambda batch: jnp.sum(jax.vmap(loss)(batch))),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["each", "total"],
)
def test_gmres_takes_over_member_by_member(useless, gradient):
    batch = jnp.stack([VALUES, 1.1 * VALUES])
    want = np.stack([exact_gradient(v) for v in batch])
    assert np.allclose(gradient(batch), want, atol=1e-7)


@pytest.mark.slow
def test_gmres_takes_over_with_the_factor(useless):
    solver = ieig.ShiftInvert(8.1)
    gradient = jax.grad(lambda v: loss_near(v, solver))(VALUES)
    want = jax.grad(lambda v: loss_near(v, ieig.Dense()))(VALUES)
    assert np.allclose(gradient, want, atol=1e-7)


def loss_near(values, solver):
    sigma = None if isinstance(solver, ieig.ShiftInvert) else 8.1
    s = ieig.eigs(matrix(values), 2, sigma=sigma, eigensolver=solver)
    return jnp.sum(jnp.abs(s.eigenvectors[: N // 2]) ** 2)


def test_a_solver_or_a_limit_that_was_given_is_not_replaced(useless):
    for adjoint in (
        ieig.ImplicitAdjoint(ieig.KrylovSylvester()),
        ieig.ImplicitAdjoint(max_steps=1000),
    ):
        with pytest.raises(RuntimeError, match="missed its tolerance"):
            jax.grad(lambda v, a=adjoint: loss(v, adjoint=a))(VALUES)


def test_a_compiled_gradient_has_no_second_solver(useless):
    assert np.all(np.isnan(jax.jit(jax.grad(loss))(VALUES)))


@pytest.mark.slow
def test_a_copy_left_out_is_not_solved_away():
    # One of two copies of the eigenvalue 1 is found. It has no derivative, although the
    # right side that comes of it is one that GMRES has a solution for.
    n, rng = 400, np.random.default_rng(0)
    i = np.arange(n)
    rows, columns = np.r_[i, rng.integers(0, 2, n - 2)], np.r_[i, i[2:]]
    values = np.r_[1 - 0.002 * i, 0.3 * rng.normal(size=n - 2)]
    values[:2] = 1

    def total(values):
        a = ieig.SparseOperator(values, rows, columns, n)
        return jnp.sum(ieig.eigs(a, 2, "LR").eigenvalues.real)

    if float(total(values)) > 2 - 1e-6:
        pytest.skip("both copies were found")
    with pytest.raises(RuntimeError, match="missed its tolerance"):
        jax.grad(total)(jnp.asarray(values))


# Its smallest eigenvalues stand in the middle of a disk, where restarts stagnate.
DISK = jnp.asarray(np.random.default_rng(0).normal(size=(300, 300)) / 300**0.5)


def inner(a, **options):
    return ieig.eigs(lambda v: a @ v, 2, "SM", like=jnp.zeros(300), **options)


def test_stagnant_restarts_of_a_small_order_end_in_the_whole_spectrum():
    solution = inner(DISK)
    w = np.linalg.eigvals(DISK)
    assert np.allclose(np.abs(solution.eigenvalues), np.sort(np.abs(w))[:2])
    assert solution.stats["dense_fallback"]
    assert solution.stats["num_restarts"] == 300
    gradient = jax.grad(lambda a: jnp.sum(jnp.abs(inner(a).eigenvalues)))(DISK)
    want = jax.grad(lambda a: jnp.sum(jnp.sort(jnp.abs(ieig.eigvals(a)))[:2]))(DISK)
    assert np.allclose(gradient, want, atol=1e-8)


def test_a_limit_that_was_given_is_kept():
    with pytest.raises(RuntimeError, match=r"5 restarts.*krylov_dim=40"):
        inner(DISK, eigensolver=ieig.KrylovSchur(max_restarts=5))


def test_restarts_that_stagnate_go_on_in_wider_spaces(monkeypatch):
    monkeypatch.setattr("implicit_eig._eigensolver.krylov_schur._DENSE_LIMIT", 100)
    monkeypatch.setattr("implicit_eig._eigensolver.krylov_schur._STAGNANT", 4)
    values, rows, columns, n = convection_diffusion(20, (3.0, 7.0, 0.0))
    a = ieig.SparseOperator(values, rows, columns, n)
    solution = ieig.eigs(a, 3, "LM")
    want = ieig.eigs(a, 3, "LM", eigensolver=ieig.Dense()).eigenvalues
    assert np.allclose(solution.eigenvalues, want, rtol=1e-8)
    assert solution.stats["num_restarts"] > 8  # 4 of each of the first two widths
    assert not solution.stats["dense_fallback"]


# --- a pair from the inside of the spectrum, found by another program -------------------

LARGE = convection_diffusion(34, (1.0, 2.0, 0.0))


@pytest.fixture(scope="module")
def inner_pair():
    """A pair of SciPy's, and the exact gradient of `share`."""
    values, rows, columns, n = LARGE
    a = scipy.sparse.csc_array((values, (rows, columns)), shape=(n, n))
    w, v = scipy.sparse.linalg.eigs(a, 1, sigma=4.1, v0=np.ones(n))
    assert abs(w[0].imag) < 1e-12
    x = v[:, 0].real / np.linalg.norm(v[:, 0].real)
    upper = np.where(np.arange(n) < n // 2, x, 0)
    ct = 2 * (upper - (upper @ upper) * x)
    shifted = a - w[0].real * scipy.sparse.eye_array(n)
    border = scipy.sparse.block_array(
        [[shifted.T, x[:, None]], [-x[None, :], None]], format="csc"
    )
    y = scipy.sparse.linalg.spsolve(border, np.append(ct, 0.0))[:n]
    return w, v, -y[rows] * x[columns]


def share(values, w, v, **options):
    """Of the upper half in the vector."""
    a = ieig.SparseOperator(values, *LARGE[1:])
    vectors = ieig.attach(a, w, v, **options).eigenvectors
    return jnp.sum(jnp.abs(vectors[: LARGE[3] // 2]) ** 2)


def test_a_factor_is_made_for_given_pairs_that_a_krylov_space_does_not_reach(
    inner_pair, caplog
):
    w, v, want = inner_pair
    with caplog.at_level(logging.INFO, "implicit_eig"):
        gradient = jax.grad(share)(jnp.asarray(LARGE[0]), w, v)
    assert "taken again by GMRES" in caplog.text
    assert np.linalg.norm(gradient - want) < 1e-7 * np.linalg.norm(want)


@pytest.mark.slow
def test_given_pairs_have_their_second_try_in_forward_mode(inner_pair):
    w, v, want = inner_pair
    along = np.random.default_rng(0).normal(size=want.shape)
    values = jnp.asarray(LARGE[0])
    _, slope = jax.jvp(lambda x: share(x, w, v), (values,), (jnp.asarray(along),))
    assert abs(slope - want @ along) < 1e-7 * np.linalg.norm(want)


@pytest.mark.slow
def test_given_pairs_have_one_try_with_a_given_solver_and_in_a_compiled_program(
    inner_pair,
):
    w, v, _ = inner_pair
    values = jnp.asarray(LARGE[0])
    adjoint = ieig.ImplicitAdjoint(ieig.KrylovSylvester())
    with pytest.raises(RuntimeError, match="missed its tolerance"):
        jax.grad(lambda x: share(x, w, v, adjoint=adjoint))(values)
    assert np.all(np.isnan(jax.jit(jax.grad(share))(values, w, v)))


# --- subspaces --------------------------------------------------------------------------


def inside(values, **options):
    """Of the upper half in the projector, and what holds the block."""
    s = ieig.invariant_subspace(matrix(values), 2, "LM", **options)
    upper = s.basis[: N // 2]
    return jnp.sum((upper @ upper.T) ** 2) + jnp.sum(s.eigenvalues**2).real


def test_gmres_takes_over_for_subspaces(useless, caplog):
    want = jax.grad(lambda v: inside(v, eigensolver=ieig.Dense()))(VALUES)
    with caplog.at_level(logging.INFO, "implicit_eig"):
        gradient = jax.grad(inside)(VALUES)
    assert "taken again by GMRES" in caplog.text
    assert np.allclose(gradient, want, atol=1e-7)
    assert np.all(np.isnan(jax.jit(jax.grad(inside))(VALUES)))


@pytest.mark.slow
def test_gmres_takes_over_for_subspaces_in_forward_mode_and_with_the_factor(useless):
    want = jax.grad(lambda v: inside(v, eigensolver=ieig.Dense()))(VALUES)
    _, slope = jax.jvp(inside, (VALUES,), (ALONG,))
    assert np.isclose(slope, want @ ALONG, atol=1e-7)

    def near(values, eigensolver):
        sigma = None if isinstance(eigensolver, ieig.ShiftInvert) else 8.1
        s = ieig.invariant_subspace(
            matrix(values), 2, sigma=sigma, eigensolver=eigensolver
        )
        return jnp.sum((s.basis[: N // 2] @ s.basis[: N // 2].T) ** 2)

    gradient = jax.grad(lambda v: near(v, ieig.ShiftInvert(8.1)))(VALUES)
    want = jax.grad(lambda v: near(v, ieig.Dense()))(VALUES)
    assert np.allclose(gradient, want, atol=1e-7)


def test_subspaces_of_stagnant_restarts_end_in_the_whole_spectrum():
    def inner_trace(a, **options):
        like = jnp.zeros(300)
        return ieig.invariant_subspace(lambda v: a @ v, 3, "SM", like=like, **options)

    subspace = inner_trace(DISK)
    want = np.sort(np.abs(np.linalg.eigvals(DISK)))[:3]
    assert np.allclose(np.abs(subspace.eigenvalues), want)
    assert subspace.stats["dense_fallback"]
    assert subspace.stats["num_restarts"] == 300
    gradient = jax.grad(lambda a: inner_trace(a).trace)(DISK)
    whole = jax.grad(lambda a: inner_trace(a, eigensolver=ieig.Dense()).trace)(DISK)
    assert np.allclose(gradient, whole, atol=1e-8)


@pytest.mark.slow
def test_subspaces_of_restarts_that_stagnate_go_on_in_wider_spaces(monkeypatch):
    monkeypatch.setattr("implicit_eig._eigensolver.krylov_schur._DENSE_LIMIT", 100)
    monkeypatch.setattr("implicit_eig._eigensolver.krylov_schur._STAGNANT", 4)
    values, rows, columns, n = convection_diffusion(20, (3.0, 7.0, 0.0))
    a = ieig.SparseOperator(values, rows, columns, n)
    subspace = ieig.invariant_subspace(a, 3, "LM")
    want = ieig.eigs(a, 3, "LM", eigensolver=ieig.Dense()).eigenvalues
    assert np.allclose(subspace.eigenvalues, want, rtol=1e-8)
    assert subspace.stats["num_restarts"] > 8
    assert not subspace.stats["dense_fallback"]
