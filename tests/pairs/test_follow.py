"""Modes followed along a path: crossings, veering, pairs that turn real."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import implicit_eig as ieig
from implicit_eig._assignment import assignment


T = jnp.linspace(0.0, 1.0, 9)  # 0.5 is one of them
OVER = ieig.RESULTS.ambiguous


def crossing(t):
    """t and 1 − t cross at 1/2, in oblique vectors that turn; −1 stands aside."""
    s = jnp.array([[1.0, 0.3 * t, 0.0], [0.5 + t, 1.0, 0.2], [0.0, 0.1, 1.0]])
    return s @ jnp.diag(jnp.array([t, 1 - t, -1.0])) @ jnp.linalg.inv(s), s


def start(matrix, k, which="SR"):
    return ieig.eigs(matrix, k, which, eigensolver=ieig.Dense())


def is_marked(solution):
    return np.asarray(solution.result == OVER)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 4), (6, 9)])
def test_the_assignment_is_the_best_one(shape):
    rng = np.random.default_rng(3)
    program = jax.jit(assignment)
    for _ in range(20):
        cost = rng.normal(size=shape)
        cost[:, : shape[1] // 2] -= 2  # columns that many rows want
        columns = np.asarray(program(jnp.asarray(cost)))
        best = cost[linear_sum_assignment(cost)].sum()
        assert len(set(columns.tolist())) == shape[0]
        assert cost[np.arange(shape[0]), columns].sum() == pytest.approx(best, abs=1e-12)


def test_modes_are_followed_through_a_crossing_also_where_a_step_meets_it():
    first = start(crossing(T[0])[0], 3)
    modes = ieig.follow(lambda t: crossing(t)[0], T, first)
    assert modes.eigenvalues.shape == (9, 3) and modes.eigenvectors.shape == (9, 3, 3)
    exact = np.stack([-np.ones(9), T, 1 - T], axis=1)
    np.testing.assert_allclose(modes.eigenvalues, exact, atol=1e-13)
    assert not is_marked(modes).any()
    assert (modes.stats["overlap"] > 0.95).all()
    v = np.asarray(modes.eigenvectors)
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, atol=1e-14)
    # The phase goes on: real vectors stay real, without a change of sign.
    steps = np.sum(v[:-1].conj() * v[1:], axis=1)
    np.testing.assert_allclose(steps.imag, 0, atol=1e-14)
    assert (steps.real > 0.9).all()
    for t, a in zip(T, v, strict=True):
        matrix, exact = map(np.asarray, crossing(t))
        np.testing.assert_allclose(matrix @ a[:, 1], float(t) * a[:, 1], atol=1e-13)
        if t != 0.5:
            exact = exact[:, 0] / np.linalg.norm(exact[:, 0])
            assert abs(exact @ a[:, 1]) == pytest.approx(1, abs=1e-12)


def veering(t):
    """Two modes that do not cross: a gap of 0.2 at t = 0."""
    return jnp.array([[t, 0.1], [0.1, -t]])


def test_small_steps_stay_on_a_branch_that_veers_large_ones_jump():
    fine = jnp.linspace(-1.0, 1.0, 81)
    first = start(veering(-1.0), 2)
    modes = ieig.follow(veering, fine, first)
    exact = np.sqrt(fine**2 + 0.01)
    np.testing.assert_allclose(modes.eigenvalues[:, 0], -exact, atol=1e-13)
    np.testing.assert_allclose(modes.eigenvalues[:, 1], exact, atol=1e-13)
    assert not is_marked(modes).any()
    # Past the gap in one step the vector, not the branch, is followed.
    modes = ieig.follow(veering, jnp.array([-1.0, 1.0]), first)
    np.testing.assert_allclose(modes.eigenvalues[1, 0], np.sqrt(1.01), atol=1e-13)


def test_a_step_into_the_middle_of_a_veering_says_that_it_is_ambiguous():
    """diag(1, −1) has the vectors e₁, e₂; [[0, 1], [1, 0]] has (1, ±1)/√2."""

    def matrix(t):
        return jnp.array([[1 - t, t], [t, t - 1]])

    modes = ieig.follow(matrix, jnp.array([0.0, 1.0]), start(matrix(0.0), 2))
    assert is_marked(modes).tolist() == [False, True]
    np.testing.assert_allclose(modes.stats["overlap"], [1, 0.5**0.5], atol=1e-14)
    np.testing.assert_allclose(modes.eigenvalues, [[-1, 1], [-1, 1]], atol=1e-14)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_pair_turns_real_in_order_and_back_again(swapped):
    """[[0, 1], [c, 0]] has ±√c."""
    c = jnp.linspace(-1.0, 1.0, 8)
    c = jnp.concatenate([c, c[::-1]])
    first = start(jnp.array([[0.0, 1.0], [-1.0, 0.0]]), 2, "LI")
    order = np.array([1, 0]) if swapped else np.array([0, 1])
    if swapped:
        pick = lambda x: x[..., ::-1]
        first = jax.tree_util.tree_map(
            lambda x: pick(x) if getattr(x, "ndim", 0) else x, first
        )
    modes = ieig.follow(lambda c: jnp.array([[0.0, 1.0], [c, 0.0]]), c, first)
    root = np.sqrt(np.asarray(c).astype(complex))
    np.testing.assert_allclose(
        modes.eigenvalues[:, order], np.stack([root, -root], 1), atol=1e-13
    )
    marked = np.flatnonzero(is_marked(modes))
    assert marked.tolist() == [4, 12]  # the steps that turned


def test_derivatives_along_the_path_are_those_of_the_modes():
    """Slopes of t and 1 − t also on the other side of the crossing, in both modes; a
    loss of the vectors against a difference."""
    t = jnp.array([0.1, 0.3, 0.45, 0.6, 0.8])
    first = start(crossing(t[0])[0], 2, lambda w: w.real - 2 * w.real**2)
    values = lambda s: ieig.follow(lambda t: s * crossing(t)[0], t, first)

    @jax.jit
    def loss(s, t):
        modes = ieig.follow(lambda t: s * crossing(t)[0], t, first)
        v = modes.eigenvectors[:, :, 0]
        return jnp.sum(jnp.abs(v[:, 0]) ** 2) + jnp.sum(modes.eigenvalues[-1].real)

    names = np.asarray(values(1.0).eigenvalues[:, 0].real)
    np.testing.assert_allclose(names, t, atol=1e-13)
    by_s, by_t = jax.grad(loss, argnums=(0, 1))(1.0, t)
    h = 1e-6
    np.testing.assert_allclose(by_s, 1.0, atol=1e-10)  # t + 1 − t
    for i in range(5):
        e = h * jnp.eye(5)[i]
        difference = (loss(1.0, t + e) - loss(1.0, t - e)) / (2 * h)
        np.testing.assert_allclose(by_t[i], difference, atol=1e-8)
    tangent = jax.jit(lambda d: jax.jvp(lambda t: loss(1.0, t), (t,), (d,))[1])
    np.testing.assert_allclose(tangent(jnp.ones(5)), by_t.sum(), atol=1e-10)


def test_a_crossing_has_no_derivatives_and_takes_none_from_other_steps():
    t = jnp.array([0.4, 0.5, 0.6])
    first = start(crossing(t[0])[0], 2, lambda w: w.real)

    @jax.jit
    def jacobian(t):
        def norms(t):
            modes = ieig.follow(lambda t: crossing(t)[0], t, first)
            return jnp.abs(modes.eigenvectors[:, 0, 0])

        return jax.jacrev(norms)(t)

    slopes = np.asarray(jacobian(t))
    assert np.isnan(slopes[1, 1])
    exact = jax.jacfwd(
        lambda t: crossing(t)[1][0, 1] / jnp.linalg.norm(crossing(t)[1][:, 1])
    )
    for i in (0, 2):
        np.testing.assert_allclose(slopes[i, i], exact(t[i]), atol=1e-9)


def test_pencils_operators_on_pytrees_and_targets_that_go_along():
    """(A(t), B) has the eigenvalues i + t; a callable on a pytree sees products only."""
    t = jnp.array([0.0, 0.2, 0.4])
    n, i = 24, jnp.arange(24.0)
    b = 1 + i / n

    def problem(t):
        def mv(v):
            x = b * (i + t) * jnp.concatenate([v["a"], v["b"]])
            return {"a": x[:4], "b": x[4:]}

        def mass(v):
            return {"a": b[:4] * v["a"], "b": b[4:] * v["b"]}

        return mv, mass

    like = {"a": jnp.zeros(4), "b": jnp.zeros(20)}
    operator, mass = problem(0.0)
    first = ieig.eigs(operator, 2, mass=mass, like=like, sigma=7.2)
    modes = ieig.follow(problem, t, first, sigma=lambda w: w[0].real + 0.1, like=like)
    exact = np.asarray(first.eigenvalues.real)[None] + np.asarray(t)[:, None]
    np.testing.assert_allclose(modes.eigenvalues, exact, atol=1e-10)
    assert modes.eigenvectors["b"].shape == (3, 20, 2)
    alone = jax.tree_util.tree_map(lambda x: x[0], modes)
    assert "residual" in str(alone)


def test_a_step_that_fails_is_nan_and_named_and_the_next_goes_on():
    t = jnp.array([0.0, jnp.nan, 0.2])
    first = start(crossing(t[0])[0], 2)
    problem = lambda t: crossing(t)[0]
    with pytest.raises(RuntimeError, match="NaN or inf"):
        ieig.follow(problem, t, first)
    modes = jax.jit(lambda t: ieig.follow(problem, t, first))(t)
    assert np.isnan(modes.eigenvalues[1]).all()
    np.testing.assert_allclose(modes.eigenvalues[2], [-1, 0.2], atol=1e-13)
    failed = np.asarray(modes.result == ieig.RESULTS.nonfinite)
    assert failed.tolist() == [False, True, False]


def test_what_cannot_be_followed_is_refused_by_name():
    first = start(crossing(0.0)[0], 2)
    problem = lambda t: crossing(t)[0]
    with pytest.raises(TypeError, match="`follow` has no argument `k`"):
        ieig.follow(problem, T, first, k=2)
    with pytest.raises(TypeError, match="`start` must be a `Solution`"):
        ieig.follow(problem, T, first.eigenvectors)
    with pytest.raises(ValueError, match="`candidates` must be at least 2"):
        ieig.follow(problem, T, first, candidates=1)
    with pytest.raises(ValueError, match="first axis"):
        ieig.follow(problem, {"a": T, "b": T[:2]}, first)
    with pytest.raises(ValueError, match="of order 2; the vectors of `start` have 3"):
        ieig.follow(veering, T, first)


def test_infinite_eigenvalues_beside_the_modes_are_no_failure():
    """(diag(1 + t, 2, 3), diag(1, 1, 0)) has 1 + t and 2."""
    t = jnp.array([0.5, 1.5])

    def problem(t):
        rest = jnp.array([0.0, 2.0, 3.0]) + jnp.array([1.0, 0.0, 0.0]) * (1 + t)
        return jnp.diag(rest), jnp.diag(jnp.array([1.0, 1.0, 0.0]))

    a, b = problem(t[0])
    modes = ieig.follow(problem, t, ieig.eigs(a, 2, "SR", mass=b))
    np.testing.assert_allclose(modes.eigenvalues, [[1.5, 2], [2.5, 2]], atol=1e-13)
    assert (modes.result == ieig.RESULTS.successful).all()


def test_members_of_a_batch_are_followed_one_by_one():
    first = start(crossing(T[0])[0], 2)

    @jax.jit
    @jax.vmap
    def values(s):
        return ieig.follow(lambda t: s * crossing(t)[0], T[::4], first).eigenvalues

    exact = np.stack([-np.ones(3), T[::4]], axis=1)
    scales = jnp.array([1.0, 3.0])
    expected = np.asarray(scales)[:, None, None] * exact
    np.testing.assert_allclose(values(scales), expected, atol=1e-12)
