"""Defective eigenvalues have no derivatives, and do no harm to those of other pairs."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import implicit_eig as ieig
from implicit_eig._rule.small_eig import _dual, inverse_of_conjugates

from ..oracles import matched, random_matrix, relative, slow_but, with_spectrum
from ..problems import frank


SIMPLE = (1.0, -1.5, 3.0, 0.4)


def jordan(order, simple=SIMPLE, skew=1.0):
    """S J S⁻¹ with one Jordan block of the eigenvalue 2, rounded."""
    n = order + len(simple)
    j = np.diag([2.0] * order + list(simple))
    j[range(order - 1), range(1, order)] = 1
    rng = np.random.default_rng(0)
    s = np.eye(n) + skew * rng.normal(size=(n, n)) / np.sqrt(n)
    return jnp.asarray(s @ j @ np.linalg.inv(s))


def exact(a, e):
    """Eigenvalues, their derivatives, and those of vectors with entries of sum one, of
    the matrix as rounded, to 80 digits."""
    n = len(a)
    with mpmath.workdps(80):
        w, v = mpmath.eig(mpmath.matrix(np.asarray(a).tolist()))
        for j in range(n):
            v[:, j] = v[:, j] / sum(v[i, j] for i in range(n))
        g = v**-1 * mpmath.matrix(np.asarray(e).tolist()) * v
        y = mpmath.matrix(n, n)
        for i in range(n):
            for j in range(n):
                y[i, j] = g[i, j] / (w[j] - w[i]) if i != j else 0
        t_v = v * y
        for j in range(n):
            t_v[:, j] = t_v[:, j] - v[:, j] * sum(t_v[i, j] for i in range(n))
        values = np.array([complex(x) for x in w])
        t_values = np.array([complex(g[i, i]) for i in range(n)])
        return values, t_values, np.array(t_v.tolist(), complex)


def sum_one(n):
    return ieig.Functional(jnp.ones(n, np.complex128))


CASES = {"jordan 2": jordan(2), "jordan 3": jordan(3), "frank 12": frank(12)}


@pytest.mark.parametrize("name", CASES)
def test_simple_pairs_keep_all_digits_their_condition_leaves(name):
    a = CASES[name]
    n, e = len(a), random_matrix(5, len(a))
    f = lambda a: ieig.eig(a, gauge=sum_one(n))
    (w, v), (t_w, t_v) = jax.jit(lambda a: jax.jvp(f, (a,), (e,)))(a)
    rows = jax.jit(jax.jacrev(lambda a: f(a).eigenvalues.real))(a)
    values, t_values, t_vectors = exact(a, e)
    u = np.linalg.inv(v)
    kappa = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=0)
    known = np.flatnonzero(kappa < 1e5)
    assert known.size >= 4
    for i in known:
        j = np.argmin(abs(values - w[i]))
        enough = 1e-10 if kappa[i] < 1e3 else 1e-9
        assert abs(t_w[i] - t_values[j]) < enough * abs(t_values[j])
        assert abs(jnp.vdot(rows[i], e) - t_values[j].real) < enough * abs(t_values[j])
        assert relative(t_v[:, i], t_vectors[:, j]) < enough


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("ties", ["nan", "drop"])
def test_pairs_of_a_jordan_block_have_nan_derivatives(order, ties):
    a, e = jordan(order), random_matrix(5, order + 4)
    f = lambda a: ieig.eig(a, ties=ties)
    (w, _), (t_w, t_v) = jax.jvp(f, (a,), (e,))
    block = np.abs(w - 2) < 1e-3
    assert block.sum() == order
    assert np.array_equal(np.isnan(t_w), block)
    assert np.array_equal(np.isnan(t_v).all(axis=0), block)
    assert not np.isnan(t_v[:, ~block]).any()
    rows = jax.jacrev(lambda a: f(a).eigenvalues.real)(a)
    assert np.array_equal(np.isnan(rows).any(axis=(1, 2)), block)


@pytest.mark.parametrize("order", [2, 3])
def test_a_jordan_block_as_it_stands_has_no_derivatives(order):
    # Its eigenvalues come out equal to the last digit: a tie, and a defective one.
    a = jnp.array([[2.0, 1, 0, 0], [0, 2, 1, 0], [0, 0, 2, 0.3], [0, 0, 0, 1]])
    a = a[3 - order :, 3 - order :]
    w, t_w = jax.jvp(ieig.eigvals, (a,), (random_matrix(1, order + 1),))
    assert np.array_equal(np.isnan(t_w), np.abs(w - 1) > 0.5)


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6])
def test_nearly_defective_pairs_keep_their_derivatives(distance):
    # κ = √(1 + 1/distance²), exactly known; a defective matrix is distance²/4 away.
    a = jnp.array([[1.0, 1.0], [0.0, 1.0 + distance]])
    e = jnp.array([[0.3, -0.2], [0.5, 0.7]])
    w, t_w = jax.jvp(ieig.eigvals, (a,), (e,))
    truth = np.array([0.3 - 0.5 / distance, 0.7 + 0.5 / distance])
    t_w = t_w[matched(w, jnp.diagonal(a))]
    assert np.allclose(t_w, truth, rtol=1e-14 / distance**2, atol=0)


@pytest.mark.parametrize("coupling", [10.0, 20.0])
def test_a_large_condition_number_alone_takes_nothing_away(coupling):
    # κ from 10³ to 10⁸, gaps of one.
    n = 10
    a = jnp.diag(jnp.arange(1.0, n + 1)) + coupling * jnp.diag(jnp.ones(n - 1), 1)
    e = jnp.linspace(1.0, 2.0, n)
    w, t_w = jax.jvp(ieig.eigvals, (a,), (jnp.diag(e),))
    order = matched(w, jnp.diagonal(a))
    w, t_w = w[order], t_w[order]
    values, v = np.linalg.eig(np.asarray(a))
    v = v[:, matched(values, jnp.diagonal(a))]
    kappa = np.linalg.norm(np.linalg.inv(v), axis=1) * np.linalg.norm(v, axis=0)
    assert np.max(kappa) > 1e5
    assert np.allclose(w, np.diag(np.asarray(a)), rtol=1e-6)
    assert np.all(np.abs(np.asarray(t_w) - np.asarray(e)) < 1e-14 * kappa)


def test_left_vectors_beside_a_jordan_block():
    a, e = jordan(2), random_matrix(5, 6)
    f = jax.jit(
        lambda a: ieig.eigs(a, k=6, left=True, gauge=sum_one(6)).left_eigenvectors
    )
    t_u = jax.jit(lambda a: jax.jvp(f, (a,), (e,))[1])(a)
    block = np.abs(ieig.eigs(a, k=6).eigenvalues - 2) < 1e-3
    assert np.isnan(t_u[:, block]).all()
    difference = (f(a + 1e-6 * e) - f(a - 1e-6 * e)) / 2e-6
    assert relative(t_u[:, ~block], difference[:, ~block]) < 1e-7


LARGE = jordan(2, tuple(np.linspace(-1.5, 1.5, 30)), 0.3)
FIND = {
    "krylov left": (LARGE, {"eigensolver": ieig.KrylovSchur(), "left": True}),
    "target left": (LARGE, {"sigma": 2.1, "left": True}),
}


@pytest.mark.parametrize("find", slow_but(["target left"], FIND))
def test_eigs_says_that_a_pair_is_defective_and_goes_on(find):
    a, options = FIND[find]
    options = {"which": "LM" if "sigma" in options else "LR"} | options
    e = random_matrix(5, len(a))

    def f(a):
        solution = ieig.eigs(a, k=3, **options)
        return (solution.eigenvalues, solution.eigenvectors), solution.result

    (w, _), (t_w, t_v), result = jax.jit(lambda a: jax.jvp(f, (a,), (e,), has_aux=True))(
        a
    )
    assert result == ieig.RESULTS.defective
    block = np.abs(w - 2) < 1e-3
    assert block.sum() == 2
    assert np.array_equal(np.isnan(t_w), block)
    assert np.array_equal(np.isnan(t_v).any(axis=0), block)
    u, v = (np.linalg.eig(np.asarray(x)) for x in (a.T, a))
    i, j = (np.argmin(abs(x[0] - 1.5)) for x in (u, v))
    left, right = u[1][:, i], v[1][:, j]
    truth = (left @ (np.asarray(e) @ right)) / (left @ right)
    # Left vectors are found to eps^(2/3) = 4e-11.
    assert abs(complex(t_w[~block][0]) - truth) < 1e-7 * abs(truth)


def test_a_defective_pair_whose_partner_is_not_selected():
    a = jordan(2)
    # By its last bits the solve of the defective one may fail as well.
    f = lambda a: ieig.eigs(a, k=2, which="LM", throw=False).eigenvalues
    _, t_w = jax.jvp(f, (a,), (random_matrix(5, 6),))
    assert ieig.eigs(a, k=2).result == ieig.RESULTS.defective
    assert np.array_equal(np.isnan(t_w), [False, True])


@pytest.mark.parametrize("ties", slow_but(["nan"], ["nan", "drop"]))
def test_a_tie_that_k_cuts(ties):
    a, e = with_spectrum(1, [5.0, 3.0, 3.0, 1.0]), random_matrix(2, 4)

    def f(a):
        solution = ieig.eigs(a, k=2, ties=ties, throw=False)
        return solution.eigenvalues, solution.eigenvectors

    _, (t_w, t_v) = jax.jvp(f, (a,), (e,))
    lost = [False, ties == "nan"]
    assert ieig.eigs(a, k=2, ties=ties).result == ieig.RESULTS.cut_tie
    assert np.array_equal(np.isnan(t_w), lost)
    if ties == "nan":
        assert np.array_equal(np.isnan(t_v).all(axis=0), lost)
    assert np.isfinite(t_v[:, 0]).all()


def test_attached_pairs_of_a_jordan_block():
    """By the last bits of its two vectors the block is defective, or undetermined."""
    a = jordan(2)
    w, v = jnp.linalg.eig(a)
    f = lambda a: ieig.attach(a, w, v, throw=False)
    solution, t = jax.jvp(f, (a,), (random_matrix(5, 6),))
    if solution.result == ieig.RESULTS.defective:
        assert np.array_equal(np.isnan(t.eigenvalues), np.abs(w - 2) < 1e-3)
    else:
        assert solution.result == ieig.RESULTS.dependent
        assert np.isnan(t.eigenvalues).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_refines_is_large_conditions_alone(dtype):
    """It takes ten times the products of a derivative without."""

    def refines(a):
        w, v = jnp.linalg.eig(a)
        both = jnp.ones(a.shape, bool)
        return bool(_dual(a, w, v, inverse_of_conjugates(v, w), both).skewed)

    def with_conditions_of(condition):
        block = jnp.array([[20, 1], [0, 20 + 1 / condition]], dtype)
        return random_matrix(0, 32).astype(dtype).at[:2].set(0).at[:2, :2].set(block)

    assert not refines(with_conditions_of(500))
    assert refines(with_conditions_of(25_000))
