"""Which pairs come back, in which order, in which shape; and what is said about the run."""

import equinox as eqx
import implicit_eig as ieig
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from .oracles import random_matrix, relative


N = 61
KRYLOV = ieig.KrylovSchur(rtol=1e-12, krylov_dim=30)
KEYS = {
    "LM": lambda z: abs(z),
    "SM": lambda z: -abs(z),
    "LR": lambda z: z.real,
    "SR": lambda z: -z.real,
    "LI": lambda z: z.imag,
    "SI": lambda z: -z.imag,
}
DTYPES = [np.float64, np.complex128]


def spectral(dtype, n=N):
    """A non-normal matrix whose spectrum is apart in modulus, real and imaginary part."""
    rng = np.random.default_rng(0)
    half = n // 2
    real = 2 + rng.permutation(half) + 0.3 * rng.random(half)
    imag = 1 + rng.permutation(half) / 2 + 0.1 * rng.random(half)
    if dtype == np.float64:
        d = np.diag(np.append(np.repeat(real, 2), 0.5))
        i = 2 * np.arange(half)
        d[i, i + 1], d[i + 1, i] = imag, -imag
    else:
        values = np.concatenate([real + 1j * imag, real + 0.5 - 2j * imag, [0.5 + 0.1j]])
        d = np.diag(values)
    v = np.eye(n) + np.asarray(random_matrix(1, n, dtype)) / np.sqrt(8 * n)
    return jnp.asarray(v @ d @ np.linalg.inv(v))


def ranked(a, key):
    """All eigenvalues best first; of a real matrix conjugate pairs as one."""
    w = np.linalg.eigvals(a)
    if np.isrealobj(a):
        groups = [[z, z.conjugate()] if z.imag > 0 else [z] for z in w if z.imag >= 0]
    else:
        groups = [[z] for z in w]
    groups = [sorted(g, key=key, reverse=True) for g in groups]
    groups.sort(key=lambda g: key(g[0]), reverse=True)
    return np.array([z for g in groups for z in g])


def key_of(which, dtype):
    if dtype == np.float64 and which[1] == "I":
        return lambda z: KEYS[which](complex(z.real, abs(z.imag)))
    return KEYS[which]


def free(a):
    return lx.FunctionLinearOperator(
        lx.MatrixLinearOperator(a).mv, jax.ShapeDtypeStruct(a.shape[:1], a.dtype)
    )


def dense(a, k, which, **kwargs):
    return ieig.eigs(a, k, which, **kwargs)


def krylov(a, k, which, **kwargs):
    return ieig.eigs(free(a), k, which, eigensolver=KRYLOV, **kwargs)


FIND = [dense, krylov]


def assert_pairs_of(a, solution):
    a, w, v = (np.asarray(x) for x in (a, solution.eigenvalues, solution.eigenvectors))
    defect = np.linalg.norm(a @ v - v * w, axis=0) / np.linalg.norm(v, axis=0)
    scale = np.maximum(np.abs(w), np.finfo(float).eps * np.linalg.norm(a))
    assert np.all(solution.residuals <= 1e-11)
    np.testing.assert_allclose(solution.residuals, defect / scale, rtol=0.3, atol=1e-14)
    assert solution.result == ieig.RESULTS.successful
    assert solution.stats["num_converged"] == w.size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", KEYS)
@pytest.mark.parametrize("find", FIND)
def test_the_k_best_come_best_first_by_every_name(find, which, dtype):
    a = spectral(dtype)
    want = ranked(a, key_of(which, dtype))
    for k in (3, 4):
        solution = find(a, k, which)
        assert solution.eigenvalues.shape == (k,)
        assert solution.eigenvectors.shape == (N, k)
        np.testing.assert_allclose(solution.eigenvalues, want[:k], rtol=1e-9)
        assert_pairs_of(a, solution)


@pytest.mark.parametrize("find", FIND)
def test_a_pair_cut_in_two_gives_its_positive_member(find):
    a = spectral(np.float64)
    for k in (1, 3):
        w = np.asarray(find(a, k, "LR").eigenvalues)
        assert w.shape == (k,) and w[-1].imag > 0
        assert np.allclose(w[:-1:2], w[1::2].conj())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("find", FIND)
def test_a_callable_ranks_by_its_largest_key(find, dtype):
    a = spectral(dtype)
    key = lambda z: 2 * z.real - z.imag
    solution = find(a, 3, key)
    np.testing.assert_allclose(solution.eigenvalues, ranked(a, key)[:3], rtol=1e-9)
    assert_pairs_of(a, solution)


def test_a_callable_that_prefers_negative_imaginary_parts_gets_them_first():
    a = spectral(np.float64)
    for find in FIND:
        w = find(a, 2, lambda z: -z.imag).eigenvalues
        assert w[0].imag < 0 and np.isclose(w[1], w[0].conj())
        assert find(a, 1, lambda z: -z.imag).eigenvalues[0].imag < 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_nearest_come_nearest_first(dtype):
    a = spectral(dtype)
    inner = np.sort_complex(np.linalg.eigvals(a))[N // 2]
    for target in (inner + 0.1, np.conj(inner) - 0.1j, inner.real, 7):
        key = lambda z, t=target: -abs(z - t)
        want = ranked(a, key)[:5]
        solution = dense(a, 5, ieig.Nearest(target))
        np.testing.assert_allclose(solution.eigenvalues, want, rtol=1e-9)
        assert_pairs_of(a, solution)
        same = dense(a, 5, sigma=target, which="LM")
        assert np.array_equal(same.eigenvalues, solution.eigenvalues)


def test_of_a_conjugate_pair_the_member_nearer_to_the_target_stands_first():
    a = spectral(np.float64)
    top = ranked(a, KEYS["LM"])[0]
    assert top.imag > 0
    for target in (top, top.conj()):
        for find in FIND:
            w = find(a, 2, ieig.Nearest(target)).eigenvalues
            np.testing.assert_allclose(w, [target, target.conj()], rtol=1e-9)
            alone = find(a, 1, ieig.Nearest(target)).eigenvalues
            np.testing.assert_allclose(alone, [target], rtol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_k_means_all_pairs_of_a_dense_matrix(dtype):
    a = spectral(dtype, 11)
    solution = ieig.eigs(a, None, "SR")
    np.testing.assert_allclose(
        solution.eigenvalues, ranked(a, key_of("SR", dtype)), rtol=1e-9
    )
    assert_pairs_of(a, solution)


@pytest.mark.parametrize("find", FIND)
def test_overlap_follows_a_mode_through_a_crossing(find):
    base = jnp.linspace(0.0, 1.0, N)
    v = jnp.eye(N) + random_matrix(2, N) / np.sqrt(8 * N)

    def matrix(t):
        s = v + 0.1 * t * random_matrix(3, N) / np.sqrt(N)
        d = base.at[0].set(3 + 2 * t).at[1].set(5 - 2 * t)
        return s @ jnp.diag(d) @ jnp.linalg.inv(s)

    def value(t, mode):
        solution = find(matrix(t), 1, ieig.Overlap(mode))
        return solution.eigenvalues[0].real, solution.eigenvectors[:, 0]

    step = jax.jit(jax.value_and_grad(value, has_aux=True))
    mode, rightmost = v[:, 0].astype(complex), []
    for t in np.linspace(0.0, 1.0, 6):
        (w, mode), slope = step(t, mode)
        assert np.isclose(w, 3 + 2 * t) and np.isclose(slope, 2)
        rightmost.append(np.isclose(w, np.linalg.eigvals(matrix(t)).real.max()))
    assert not rightmost[0] and rightmost[-1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("find", FIND)
def test_overlap_ranks_by_the_cosine_with_the_target(find, dtype):
    a = spectral(dtype)
    w, v = np.linalg.eig(np.asarray(a))
    best = np.argsort(-np.abs(w))[:5:2]
    target = v[:, best] @ np.array([3.0, 2.0, 1.0])
    cosine = np.abs(target.conj() @ v)
    key = lambda z: cosine[np.argmin(np.abs(w - z))]
    for t in (target, 2j * target) if find is dense else (target,):
        solution = find(a, 3, ieig.Overlap(jnp.asarray(t)))
        np.testing.assert_allclose(solution.eigenvalues, ranked(a, key)[:3], rtol=1e-8)


def test_domains_that_are_pytrees_keep_their_structure():
    a = spectral(np.float64, 30)
    want = ranked(a, KEYS["LM"])[:4]

    def on_dict(v):
        y = a @ jnp.concatenate([v["u"], v["w"].reshape(-1)])
        return {"u": y[:6], "w": y[6:].reshape(4, 6)}

    zeros = {"u": jnp.zeros(6), "w": jnp.zeros((4, 6))}
    solution = ieig.eigs(on_dict, 4, like=zeros, left=True, v0=jax.tree.map(jnp.cos, zeros))
    np.testing.assert_allclose(solution.eigenvalues, want, rtol=1e-9)
    for vectors in (solution.eigenvectors, solution.left_eigenvectors):
        assert {key: x.shape for key, x in vectors.items()} == {
            "u": (6, 4),
            "w": (4, 6, 4),
        }
    image = jax.vmap(on_dict, -1, -1)(solution.eigenvectors)
    scaled = jax.tree.map(lambda x: x * solution.eigenvalues, solution.eigenvectors)
    assert relative(image, scaled) < 1e-10

    on_grid = lambda v: (a @ v.reshape(-1)).reshape(5, 6)
    like = jax.ShapeDtypeStruct((5, 6), a.dtype)
    solution = ieig.eigs(on_grid, 4, like=like)
    np.testing.assert_allclose(solution.eigenvalues, want, rtol=1e-9)
    assert solution.eigenvectors.shape == (5, 6, 4)
    flat = solution.eigenvectors.reshape(30, 4)
    assert relative(a @ flat, flat * solution.eigenvalues) < 1e-10

    mode = solution.eigenvectors[..., 0]
    followed = ieig.eigs(on_grid, 1, ieig.Overlap(mode), like=like)
    np.testing.assert_allclose(followed.eigenvalues, want[:1], rtol=1e-9)
    scaled = ieig.eigs(on_grid, 2, like=like, gauge=ieig.Functional(jnp.ones((5, 6))))
    np.testing.assert_allclose(jnp.sum(scaled.eigenvectors, (0, 1)), 1, rtol=1e-9)


def test_the_start_vector_has_no_derivative():
    a = spectral(np.float64)

    def f(v0):
        solution = krylov(a, 3, "LM", v0=v0, left=True)
        return (
            jnp.sum(solution.eigenvalues.real)
            + jnp.sum(solution.eigenvectors.real)
            + jnp.sum(solution.condition_numbers)
            + jnp.sum(solution.residuals)
        )

    gradient = jax.jit(jax.grad(f))(jnp.ones(N))
    assert np.array_equal(gradient, np.zeros(N))


def test_the_start_vector_does_not_change_the_answer():
    a = spectral(np.float64)
    one, two = krylov(a, 3, "LM"), krylov(a, 3, "LM", v0=jnp.cos(jnp.arange(N)))
    assert relative(one.eigenvalues, two.eigenvalues) < 1e-11
    assert relative(one.eigenvectors, two.eigenvectors) < 1e-10
    assert one.stats["num_matvecs"] != 0


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_products_reported_are_those_counted(dtype, left):
    op = ieig.CountingOperator(free(spectral(dtype)))
    solution = ieig.eigs(op, 3, "LR", left=left, eigensolver=KRYLOV)
    stats = solution.stats
    assert sum(op.counts()) == stats["num_matvecs"]
    assert (op.counts()[1] > 0) == left
    assert stats["num_restarts"] >= 1 and stats["num_converged"] == 3


@pytest.mark.parametrize("find", FIND)
def test_runs_repeat_bit_for_bit(find):
    a = spectral(np.float64)
    for _ in range(2):
        first, second = (find(a, 4, "LR") for _ in range(2))
        assert eqx.tree_equal(first, second)


def test_left_vectors_and_condition_numbers_come_on_request_only():
    a = spectral(np.complex128)
    w, v = np.linalg.eig(np.asarray(a))
    u = np.linalg.inv(v).conj().T
    kappa = np.linalg.norm(u, axis=0) * np.linalg.norm(v, axis=0)
    for find in FIND:
        assert find(a, 3, "LM").left_eigenvectors is None
        assert find(a, 3, "LM").condition_numbers is None
        s = find(a, 3, "LM", left=True)
        u, v = s.left_eigenvectors, s.eigenvectors
        assert relative(u.conj().T @ a, s.eigenvalues[:, None] * u.conj().T) < 1e-9
        assert relative(jnp.diagonal(u.conj().T @ v), np.ones(3)) < 1e-12
        want = kappa[[np.argmin(np.abs(w - z)) for z in s.eigenvalues]]
        np.testing.assert_allclose(s.condition_numbers, want, rtol=1e-8)


class TestARunThatStopsEarly:
    """One eigenvalue stands far out, the next ones in a crowd."""

    n, k = 60, 3
    krylov = ieig.KrylovSchur(krylov_dim=12, max_restarts=2)

    def matrix(self, n=n):
        d = jnp.concatenate([jnp.asarray([9.0]), jnp.linspace(1.0, 2.0, n - 1)])
        v = jnp.eye(n) + random_matrix(4, n) / np.sqrt(8 * n)
        return v @ jnp.diag(d) @ jnp.linalg.inv(v)

    def eigs(self, a, **kwargs):
        adjoint = ieig.ImplicitAdjoint(lx.LU())
        return ieig.eigs(
            free(a), self.k, "LR", eigensolver=self.krylov, adjoint=adjoint, **kwargs
        )

    def test_it_raises(self):
        with pytest.raises(RuntimeError, match="Fewer than `k` eigenpairs converged"):
            self.eigs(self.matrix())
        with pytest.raises(RuntimeError, match="Fewer than `k` eigenpairs converged"):
            jax.block_until_ready(jax.jit(lambda a: self.eigs(a).eigenvalues)(self.matrix()))

    def test_without_throw_it_says_so_and_gives_k_pairs(self):
        a = self.matrix()
        solution = self.eigs(a, throw=False)
        assert solution.result == ieig.RESULTS.not_converged
        assert solution.stats["num_converged"] == 1
        assert solution.eigenvalues.shape == (3,)
        assert solution.eigenvectors.shape == (self.n, 3)
        assert np.all(np.isfinite(solution.eigenvalues))
        assert np.all(np.isfinite(solution.eigenvectors))
        assert np.isclose(solution.eigenvalues[0], 9.0)
        assert solution.residuals[0] < 1e-9 < solution.residuals[1:].min()
        image = a @ solution.eigenvectors - solution.eigenvectors * solution.eigenvalues
        want = jnp.linalg.norm(image, axis=0) / jnp.abs(solution.eigenvalues)
        np.testing.assert_allclose(solution.residuals[1:], want[1:], rtol=1e-6)

    def test_only_the_pairs_that_did_not_converge_lose_their_derivatives(self):
        a, e = self.matrix(), random_matrix(5, self.n)
        find = lambda a: self.eigs(a, throw=False)
        exact = lambda a: ieig.eigs(a, 1, "LR")
        pairs = lambda s: (s.eigenvalues, s.eigenvectors)
        along = jax.jit(
            lambda f, e: jax.jvp(lambda a: pairs(f(a)), (a,), (e,))[1], static_argnums=0
        )
        t_w, t_v = along(find, e)
        x_w, x_v = along(exact, e)
        assert relative(t_w[:1], x_w) < 1e-9 and relative(t_v[:, :1], x_v) < 1e-8
        assert np.all(np.isnan(t_w[1:])) and np.all(np.isnan(t_v[:, 1:]))

        def loss(s, i):
            return s.eigenvalues[i].real + jnp.sum(s.eigenvectors[:, i].real ** 3)

        gradient = jax.jit(jax.grad(lambda a: loss(find(a), 0)))(a)
        want = jax.jit(jax.grad(lambda a: loss(exact(a), 0)))(a)
        assert relative(gradient, want) < 1e-8
        assert np.all(np.isnan(jax.jit(jax.grad(lambda a: loss(find(a), 1)))(a)))
