"""KLU: the sparse factorisation that runs inside the compiled program."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig
from implicit_eig._spectral.inverse import Inverse


pytest.importorskip("klujax", reason="the extra `sparse` is not installed")

N, K = 30, 3
SIGMA = 0.3
ROWS, COLUMNS = np.nonzero(abs(np.subtract.outer(range(N), range(N))) % 7 < 2)


def full(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(N, N))
    if np.issubdtype(dtype, np.complexfloating):
        a = a + 1j * rng.normal(size=(N, N))
    kept = np.zeros((N, N))
    kept[ROWS, COLUMNS] = 1
    return (a * kept + np.diag(np.linspace(-3, 4, N))).astype(dtype)


def sparse(values):
    return ieig.SparseOperator(values, ROWS, COLUMNS, N)


def solve(values, b, **options):
    return lx.linear_solve(sparse(values), b, ieig.KLU(), **options)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32])
def test_its_state_solves_transposed_and_conjugated(dtype):
    a, solver = full(dtype), ieig.KLU()
    # Duplicates, and entries of a sum.
    i, j = np.append(ROWS, ROWS), np.append(COLUMNS, COLUMNS)
    half = np.tile(a[ROWS, COLUMNS] / 2, 2)
    b = np.random.default_rng(1).normal(size=N)
    shift = np.arange(N).astype(dtype)
    want = a + np.diag(shift)

    @jax.jit
    def all_of_them(half, b, i, j):
        operator = ieig.SparseOperator(half, i, j, N) + lx.DiagonalLinearOperator(shift)
        state = solver.init(operator, {})
        turned, _ = solver.transpose(state, {})
        back, _ = solver.transpose(turned, {})
        states = state, turned, solver.conj(state, {})[0], solver.conj(turned, {})[0]
        return [solver.compute(s, b, {})[0] for s in (*states, back)]

    matrices = want, want.T, want.conj(), want.conj().T, want
    tol = 1e-5 if dtype == np.float32 else 1e-11
    complex_ = b * (1 + 2j)
    for rhs in (b.astype(dtype), complex_.astype(np.result_type(dtype, np.complex64))):
        xs = all_of_them(half, rhs, i, j)
        for x, matrix in zip(xs, matrices, strict=True):
            assert x.dtype == rhs.dtype
            np.testing.assert_allclose(matrix @ np.asarray(x), rhs, atol=tol)


def test_derivatives_and_batches():
    values, b = jnp.asarray(full()[ROWS, COLUMNS]), jnp.arange(1.0, N + 1)
    loss = lambda values, b: jnp.sum(solve(values, b).value ** 3)

    def dense(values, b):
        a = jnp.zeros((N, N)).at[ROWS, COLUMNS].add(values)
        return jnp.sum(jnp.linalg.solve(a, b) ** 3)

    both = lambda f: jax.jit(jax.vmap(jax.value_and_grad(f, (0, 1)), (0, 0)))
    batch = jnp.stack([values, 2 * values, jnp.roll(values, 1)]), jnp.stack([b, b**2, b])
    got, want = both(loss)(*batch), both(dense)(*batch)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-7, atol=1e-7 * jnp.abs(w).max())
    shared = jax.jit(jax.vmap(lambda b: solve(values, b).value))(batch[1])
    np.testing.assert_allclose(full() @ shared[1], b**2, rtol=1e-9)


def test_singular_matrices_are_told_apart_in_a_batch():
    good = full()
    empty_row, equal_rows, nan = good.copy(), good.copy(), good.copy()
    empty_row[3] = 0
    equal_rows[:] = 1.0
    nan[0, 0] = np.nan
    solution = jax.jit(jax.vmap(lambda v: solve(v, jnp.ones(N), throw=False)))(
        jnp.stack([m[ROWS, COLUMNS] for m in (good, empty_row, 0 * good, nan, good)])
    )
    singular = np.array([False, True, True, True, False])
    assert np.array_equal(solution.result == lx.RESULTS.singular, singular)
    assert np.array_equal(np.isnan(solution.value).all(axis=1), singular)
    np.testing.assert_allclose(good @ solution.value[4], np.ones(N), atol=1e-11)
    ones = ieig.SparseOperator(
        np.ones(9), np.repeat(range(3), 3), np.tile(range(3), 3), 3
    )
    small = lx.linear_solve(ones, jnp.ones(3), ieig.KLU(), throw=False)
    assert small.result == lx.RESULTS.singular


def loss(solution):
    w, v = solution.eigenvalues, solution.eigenvectors
    weight = jnp.linspace(0.5, 2.0, v.size).reshape(v.shape)
    return jnp.sum(weight * jnp.abs(v) ** 2) + jnp.sum((w * w).real)


def by_klu(values, **options):
    solver = ieig.ShiftInvert(SIGMA, ieig.KLU(), ieig.KrylovSchur(rtol=1e-11))
    return ieig.eigs(sparse(values), K, eigensolver=solver, **options)


def by_dense(values, **options):
    a = jnp.zeros((N, N)).at[ROWS, COLUMNS].set(values)
    return ieig.eigs(a, K, sigma=SIGMA, eigensolver=ieig.Dense(), **options)


def test_shift_invert_finds_and_differentiates_without_python():
    values = jnp.asarray(full()[ROWS, COLUMNS])
    gradient = jax.jit(jax.value_and_grad(lambda v: loss(by_klu(v, throw=False))))
    compiled = gradient.lower(values).compile()
    assert "callback" not in compiled.as_text()
    got = compiled(values)
    want = jax.value_and_grad(lambda v: loss(by_dense(v)))(values)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-9)
    scale = jnp.abs(want[1]).max()
    np.testing.assert_allclose(got[1], want[1], atol=1e-7 * scale)


def test_batches_of_matrices_and_right_sides_are_kept_apart():
    """Each member's factor with its own right sides, in reverse mode too."""
    values = jnp.stack([jnp.asarray(full(seed=s)[ROWS, COLUMNS]) for s in (0, 1, 2)])
    many = jnp.asarray(np.random.default_rng(3).normal(size=(3, 4, N)))

    def loss(values, bs):
        inverse = Inverse.of(sparse(jax.lax.stop_gradient(values)), ieig.KLU())
        by_columns = inverse.mm(bs.T) + inverse.transpose().mm(bs.T)
        return by_columns, jax.vmap(lambda b: solve(values, b).value)(bs)

    columns, solved = jax.jit(jax.vmap(loss))(values, many)
    for s in range(3):
        a, b = full(seed=s), np.asarray(many[s]).T
        want = np.linalg.solve(a, b)
        np.testing.assert_allclose(solved[s].T, want, atol=1e-10)
        np.testing.assert_allclose(columns[s], want + np.linalg.solve(a.T, b), atol=1e-10)


def test_what_cannot_be_done_is_named():
    with pytest.raises(ValueError, match="MatrixLinearOperator"):
        ieig.KLU().init(lx.MatrixLinearOperator(jnp.eye(2)), {})
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        lx.linear_solve(sparse(np.ones(ROWS.size)), jnp.ones(N), ieig.KLU())
