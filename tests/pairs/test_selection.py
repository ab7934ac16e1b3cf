"""Which pairs come back, in which order, in which shape; and what is said about the run."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig
from implicit_eig._spectral import Named, order

from ..oracles import random_matrix, relative, slow_but, with_spectrum


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
        d = np.diag(np.append(np.repeat(real, 2), 0.5))[:n, :n]
        i = 2 * np.arange(half)
        d[i, i + 1], d[i + 1, i] = imag, -imag
    else:
        values = np.concatenate([real + 1j * imag, real + 0.5 - 2j * imag, [0.5 + 0.1j]])
        d = np.diag(values[-n:])
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


def individually(a, key):
    """All eigenvalues best first, whether or not they are conjugates."""
    return np.array(sorted(np.linalg.eigvals(a), key=key, reverse=True))


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


@eqx.filter_jit
def krylov(a, k, which, **kwargs):
    return ieig.eigs(free(a), k, which, eigensolver=KRYLOV, throw=False, **kwargs)


FIND = [dense, krylov]


def tilted(z):
    return 2 * z.real - 3 * z.imag


def assert_pairs_of(a, solution, result=ieig.RESULTS.successful):
    a, w, v = (np.asarray(x) for x in (a, solution.eigenvalues, solution.eigenvectors))
    defect = np.linalg.norm(a @ v - v * w, axis=0) / np.linalg.norm(v, axis=0)
    # Backward errors, the norm being an estimate.
    least, most = (defect / (s + np.abs(w)) for s in (np.linalg.norm(a), np.max(abs(w))))
    assert np.all(solution.residuals <= 1e-11)
    assert np.all(solution.residuals >= 0.7 * least - 1e-14)
    assert np.all(solution.residuals <= 1.3 * most + 1e-14)
    assert solution.result == result
    assert solution.stats["num_converged"] == w.size


@pytest.mark.parametrize(
    "dtype, which",
    slow_but(
        [
            *((np.float64, which) for which in ("LM", "SR", "LI")),
            *((np.complex128, which) for which in ("SM", "LR", "SI")),
        ],
        itertools.product(DTYPES, KEYS),
    ),
)
def test_the_k_best_of_a_matrix_come_best_first_by_every_name(dtype, which):
    a = spectral(dtype)
    want = ranked(a, key_of(which, dtype))
    for k in (3, 4):
        solution = dense(a, k, which)
        assert solution.eigenvalues.shape == (k,)
        assert solution.eigenvectors.shape == (N, k)
        np.testing.assert_allclose(solution.eigenvalues, want[:k], rtol=1e-9)
        assert_pairs_of(a, solution)


@pytest.mark.parametrize(
    "dtype, which",
    [(np.float64, w) for w in ("LM", "SM", "LR", "SR", "LI")]
    + [(np.complex128, w) for w in ("SM", "LI")],
)
def test_products_alone_find_the_k_best_by_every_name(dtype, which):
    a = spectral(dtype)
    solution = krylov(a, 3, which)
    want = ranked(a, key_of(which, dtype))[:3]
    np.testing.assert_allclose(solution.eigenvalues, want, rtol=1e-9)
    inside = ieig.RESULTS.unconfirmed
    assert_pairs_of(a, solution, inside if which == "SM" else ieig.RESULTS.successful)


@pytest.mark.parametrize("find", FIND)
def test_a_pair_cut_in_two_gives_its_positive_member(find):
    a = spectral(np.float64)
    w = np.asarray(find(a, 3, "LR").eigenvalues)
    assert w.shape == (3,) and w[0].imag > 0 and w[2].imag > 0
    assert w[1] == w[0].conj() and w[2] != w[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_callable_ranks_by_its_largest_key(dtype):
    a = spectral(dtype)
    solution = dense(a, 3, tilted)
    np.testing.assert_allclose(solution.eigenvalues, ranked(a, tilted)[:3], rtol=1e-9)
    assert_pairs_of(a, solution)


@pytest.mark.parametrize("find", FIND)
def test_a_callable_that_prefers_negative_imaginary_parts_gets_them_first(find):
    a = spectral(np.float64)
    solution = find(a, 3, tilted)
    w = solution.eigenvalues
    assert w[0].imag < 0 and w[1] == w[0].conj() and w[2].imag < 0
    unseen = ieig.RESULTS.unconfirmed
    assert_pairs_of(a, solution, unseen if find is krylov else ieig.RESULTS.successful)


def test_the_lower_half_of_a_pair_that_k_cuts_has_its_own_gradient():
    a = spectral(np.float64)

    def loss(a, find):
        solution = find(a, 3, tilted)
        return solution.eigenvalues[2].imag + jnp.abs(solution.eigenvectors[0, 2]) ** 2

    found, wanted = (jax.jit(jax.grad(lambda a, f=f: loss(a, f)))(a) for f in FIND)
    assert relative(found, wanted) < 1e-7


@pytest.mark.parametrize("dtype", slow_but([np.float64], DTYPES))
def test_the_nearest_come_nearest_first(dtype):
    a = spectral(dtype)
    inner = np.sort_complex(np.linalg.eigvals(a))[N // 2]
    for target in (inner + 0.1, np.conj(inner) - 0.1j, inner.real, 7):
        key = lambda z, t=target: -abs(z - t)
        want = (individually if np.iscomplex(target) else ranked)(a, key)[:5]
        solution = dense(a, 5, ieig.Nearest(target))
        np.testing.assert_allclose(solution.eigenvalues, want, rtol=1e-9)
        assert_pairs_of(a, solution)
        same = dense(a, 5, sigma=target, which="LM")
        assert np.array_equal(same.eigenvalues, solution.eigenvalues)


def test_near_a_complex_target_a_conjugate_is_wanted_only_where_it_is_near():
    a = spectral(np.float64)
    top = ranked(a, KEYS["LM"])[0]
    assert top.imag > 0
    for target in (top, top.conj()):
        for find in FIND:
            w = find(a, 3, ieig.Nearest(target)).eigenvalues
            want = individually(a, lambda z, t=target: -abs(z - t))[:3]
            np.testing.assert_allclose(w, want, rtol=1e-9)
        alone = dense(a, 1, ieig.Nearest(target)).eigenvalues
        np.testing.assert_allclose(alone, [target], rtol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_k_means_all_pairs_of_a_dense_matrix(dtype):
    a = spectral(dtype, 11)
    solution = ieig.eigs(a, None, "SR")
    np.testing.assert_allclose(
        solution.eigenvalues, ranked(a, key_of("SR", dtype)), rtol=1e-9
    )
    assert_pairs_of(a, solution)


@pytest.mark.parametrize("find", slow_but([krylov], FIND))
def test_overlap_follows_a_mode_through_a_crossing(find):
    base = jnp.linspace(0.0, 1.0, N)
    v, turn = (random_matrix(i, N) / np.sqrt(8 * N) for i in (2, 3))

    def matrix(t):
        s = jnp.eye(N) + v + 0.1 * t * turn
        d = base.at[0].set(3 + 2 * t).at[1].set(5 - 2 * t)
        return s @ jnp.diag(d) @ jnp.linalg.inv(s)

    def value(t, mode):
        solution = find(matrix(t), 1, ieig.Overlap(mode))
        return solution.eigenvalues[0].real, solution.eigenvectors[:, 0]

    step = jax.jit(jax.value_and_grad(value, has_aux=True))
    mode, rightmost = (jnp.eye(N) + v)[:, 0].astype(complex), []
    for t in np.linspace(0.0, 1.0, 6):
        (w, mode), slope = step(t, mode)
        assert np.isclose(w, 3 + 2 * t) and np.isclose(slope, 2)
        rightmost.append(np.isclose(w, np.linalg.eigvals(matrix(t)).real.max()))
    assert not rightmost[0] and rightmost[-1]


@pytest.mark.parametrize(
    "find, dtype",
    slow_but(
        [(krylov, np.float64), (krylov, np.complex128)],
        itertools.product(FIND, DTYPES),
    ),
)
def test_overlap_ranks_by_the_cosine_with_the_target(find, dtype):
    a = spectral(dtype)
    w, v = np.linalg.eig(np.asarray(a))
    best = np.argsort(-np.abs(w))[:5:2]
    target = v[:, best] @ np.array([3.0, 2.0, 1.0])
    cosine = np.abs(target.conj() @ v)
    key = lambda z: cosine[np.argmin(np.abs(w - z))]
    for scale in (1, 2j):
        solution = find(a, 3, ieig.Overlap(jnp.asarray(scale * target)))
        np.testing.assert_allclose(solution.eigenvalues, ranked(a, key)[:3], rtol=1e-8)


def test_domains_that_are_pytrees_keep_their_structure():
    a = spectral(np.float64, 30)
    want = ranked(a, KEYS["LM"])[:4]
    join = lambda v: jnp.concatenate([v["u"], v["w"].reshape(-1, *v["u"].shape[1:])])

    def on_dict(v):
        y = a @ join(v)
        return {"u": y[:6], "w": y[6:].reshape(4, 6)}

    start = {"u": jnp.ones(6), "w": jnp.ones((4, 6))}
    solution = ieig.eigs(on_dict, 4, like=start, v0=start, left=True)
    np.testing.assert_allclose(solution.eigenvalues, want, rtol=1e-9)
    for vectors, matrix in (
        (solution.eigenvectors, a),
        (jax.tree.map(jnp.conj, solution.left_eigenvectors), a.T),
    ):
        assert set(vectors) == {"u", "w"}
        assert vectors["u"].shape == (6, 4) and vectors["w"].shape == (4, 6, 4)
        flat = np.asarray(join(vectors))
        values = np.asarray(solution.eigenvalues)
        assert relative(np.asarray(matrix) @ flat, flat * values) < 1e-9


def test_a_domain_of_grids_gives_grids():
    a = spectral(np.float64, 30)
    want = ranked(a, KEYS["LM"])[:4]
    on_grid = lambda v: (a @ v.reshape(-1)).reshape(5, 6)
    like = jax.ShapeDtypeStruct((5, 6), a.dtype)
    find = lambda *args, **kw: ieig.eigs(
        on_grid, *args, like=like, eigensolver=ieig.Dense(), **kw
    )
    solution = find(4)
    np.testing.assert_allclose(solution.eigenvalues, want, rtol=1e-9)
    assert solution.eigenvectors.shape == (5, 6, 4)
    flat = np.asarray(solution.eigenvectors.reshape(30, 4))
    assert relative(np.asarray(a) @ flat, flat * np.asarray(want)) < 1e-9
    followed = find(1, ieig.Overlap(solution.eigenvectors[..., 2].real))
    assert abs(followed.eigenvalues[0] - want[2]) < 1e-9 or (
        abs(followed.eigenvalues[0] - want[2].conj()) < 1e-9
    )
    scaled = find(2, gauge=ieig.Functional(jnp.ones((5, 6))))
    np.testing.assert_allclose(jnp.sum(scaled.eigenvectors, (0, 1)), 1, rtol=1e-9)


def test_the_start_vector_has_no_derivative_and_does_not_change_the_answer():
    a = spectral(np.float64)

    def f(v0):
        s = krylov(a, 3, "LM", v0=v0, left=True)
        pairs = s.eigenvalues, s.eigenvectors, s.condition_numbers
        return sum(jnp.sum(x.real) for x in (*pairs, s.residuals)), pairs

    f = jax.jit(jax.grad(f, has_aux=True))
    gradient, one = f(jnp.ones(N))
    assert np.array_equal(gradient, np.zeros(N))
    _, two = f(jnp.cos(jnp.arange(float(N))))
    assert relative(one, two) < 1e-9
    assert not np.array_equal(one[1], two[1])


def test_the_products_reported_are_those_counted():
    op = ieig.CountingOperator(free(spectral(np.float64)))
    stats = ieig.eigs(op, 3, "LR", left=True, eigensolver=KRYLOV, throw=False).stats
    products, transposed = op.counts()
    assert products + transposed == stats["num_matvecs"]
    assert products > 3 and transposed > 3
    assert stats["num_restarts"] >= 2 and stats["num_converged"] == 3


@pytest.mark.parametrize("find", FIND)
def test_runs_repeat_bit_for_bit(find):
    a = spectral(np.float64)
    first, second = (find(a, 3, "LR") for _ in range(2))
    assert eqx.tree_equal(first, second)


def test_left_vectors_and_condition_numbers_come_on_request_only():
    a = spectral(np.float64)
    w, v = np.linalg.eig(np.asarray(a))
    u = np.linalg.inv(v).conj().T
    kappa = np.linalg.norm(u, axis=0) * np.linalg.norm(v, axis=0)
    for find in FIND:
        plain = find(a, 3, "LM")
        assert plain.left_eigenvectors is None and plain.condition_numbers is None
        s = find(a, 3, "LM", left=True)
        u, x = s.left_eigenvectors, s.eigenvectors
        row = np.asarray(u).conj().T
        assert relative(row @ np.asarray(a), s.eigenvalues[:, None] * row) < 1e-9
        assert relative(jnp.diagonal(u.conj().T @ x), np.ones(3)) < 1e-12
        want = kappa[[np.argmin(np.abs(w - z)) for z in s.eigenvalues]]
        np.testing.assert_allclose(s.condition_numbers, want, rtol=1e-8)


ROOTS = np.exp(2j * np.pi * np.arange(6) / 6)


@pytest.mark.parametrize(
    "which, spectrum, best_first",
    [
        ("LM", [-2, 1, 2, 2j], [2, 2j, -2, 1]),
        ("LM", ROOTS, ROOTS[[0, 1, 5, 2, 4, 3]]),
        ("SM", 3 * ROOTS, 3 * ROOTS[[0, 1, 5, 2, 4, 3]]),
        ("LR", [-1j, 3j, -2j, -1], [3j, -1j, -2j, -1]),
        ("SI", [5, 2 - 1j, 4 - 1j, -1j], [4 - 1j, 2 - 1j, -1j, 5]),
        (lambda z: jnp.round(z.real), [1.1, 0.9, 2 - 1j], [2 - 1j, 1.1, 0.9]),
    ],
)
def test_equal_keys_are_ordered_by_rule_not_by_rounding(which, spectrum, best_first):
    rng = np.random.default_rng(0)
    for _ in range(5):
        noise = 5e-16 * (rng.normal(size=len(spectrum)) + 1j * rng.normal())
        a = np.diag(rng.permutation(np.asarray(spectrum) + noise))
        found = ieig.eigs(a, len(spectrum), which).eigenvalues
        np.testing.assert_allclose(found, best_first, atol=1e-12)


class TestKeysCloseToEqual:
    """What rounding can tell apart comes by its key, however close, and however many
    stand between."""

    def ladder(self, step, dtype=np.float64, n=100):
        rungs = np.random.default_rng(3).permutation(n)
        return jnp.asarray(np.diag(1 - step * rungs), dtype)

    @pytest.mark.parametrize(
        "step, dtype, which, best",
        [
            (1e-11, np.float64, "LR", 0),
            (1e-11, np.float64, "SM", 99),
            (3e-5, np.float32, "LM", 0),
            (1e-11, np.complex128, lambda z: -1e-9 * z.real, 99),
            (1e-11, np.float64, ieig.Nearest(1 - 40.1e-11), 40),
        ],
    )
    def test_a_chain_of_neighbours_is_no_tie(self, step, dtype, which, best):
        a = self.ladder(step, dtype)
        w = np.asarray(ieig.eigs(a, 3, which).eigenvalues).real
        key = -np.abs(np.arange(100) - (40.1 if best == 40 else best))
        want = np.diagonal(a)[np.argsort(np.diagonal(a))[::-1]].real
        want = want[np.argsort(-key)[:3]]
        assert np.max(np.abs(w - want)) <= 4 * np.finfo(dtype).eps

    @pytest.mark.parametrize("which", ["LR", lambda z: 1e6 * z.real, ieig.Nearest(1e3)])
    def test_an_unstable_mode_beside_a_fast_oscillation_is_seen(self, which):
        def system(growth, frequency):
            a = np.zeros((6, 6))
            a[:2, :2] = -1e-6 * np.eye(2) + frequency * np.array([[0, 1], [-1, 0]])
            a[2:, 2:] = np.diag([growth, -3e-6, -1, -2])
            return jnp.asarray(a)

        for frequency in (1e4, 0.3):
            w = ieig.eigs(system(2e-6, frequency), 1, which).eigenvalues[0]
            assert abs(w - 2e-6) < 1e-12
            w = ieig.eigs(system(-2e-6, frequency), 1, "LR").eigenvalues[0]
            assert abs(w - (-1e-6 + 1j * frequency)) < 1e-10

    def test_the_gradient_is_that_of_the_better_one(self):
        for which in ("LR", ieig.Overlap(jnp.asarray([1, 1 + 1e-9, 0, 0, 0, 0]))):
            a = jnp.diag(jnp.asarray([1 - 1e-10, 1.0, 0.5, 0.3, 0.2, 0.1]))
            f = lambda a, which=which: ieig.eigs(a, 1, which).eigenvalues[0].real
            np.testing.assert_allclose(jax.grad(f)(a), np.diag(np.eye(6)[1]), atol=1e-14)

    def test_products_alone_tell_them_apart_too(self):
        n = 61
        d = np.append(np.linspace(0, 0.9, n - 2), [1 - 1e-7, 1.0])
        a = with_spectrum(0, d, skew=0.1)
        w = krylov(a, 1, "LR").eigenvalues
        np.testing.assert_allclose(w, [1.0], rtol=1e-11)

    def test_what_is_worse_for_certain_never_comes_first(self):
        # Each is as good as its neighbours, and worse than the next but one.
        keys = np.random.default_rng(0).permutation(np.arange(12.0))
        found = order(Named("SR"), jnp.asarray(-keys + 0j), None, False, 0.7 + 0 * keys)
        sorted_keys = keys[found.permutation]
        assert np.all(sorted_keys[:-2] > sorted_keys[2:])
        # A tie within what the values are known to goes by real part: here, backwards.
        same = order(Named("SR"), jnp.asarray(-keys + 0j), None, False, 6 + 0 * keys)
        assert np.array_equal(keys[same.permutation], np.arange(12.0))


class TestWhatCannotBeMeant:
    """Known at run time only: NaN, and the result says so."""

    a = jnp.diag(jnp.arange(1.0, 9.0))
    sparse = ieig.SparseOperator(jnp.arange(1.0, 301.0), *2 * [np.arange(300)], 300)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize(
        "options",
        [
            lambda z: {"sigma": z},
            lambda z: {"which": ieig.Nearest(1j * z.astype(complex))},
            lambda z: {"which": lambda w: z * w.real},
            lambda z: {"which": lambda w: w.real + z},
            lambda z: {"which": ieig.Overlap(z * jnp.arange(8.0))},
        ],
    )
    def test_of_a_dense_matrix(self, options, bad):
        find = jax.jit(lambda z: ieig.eigs(self.a, 1, throw=False, **options(z)))
        assert find(0.3).result == ieig.RESULTS.successful
        solution = find(bad)
        assert solution.result == ieig.RESULTS.nonfinite
        assert np.all(np.isnan(solution.eigenvalues))

    @pytest.mark.parametrize("eigensolver", [None, ieig.Arpack()])
    def test_a_target_of_a_factorisation(self, eigensolver):
        find = lambda z: ieig.eigs(
            self.sparse, 2, sigma=z, eigensolver=eigensolver, throw=False
        )
        assert np.isclose(jax.jit(find)(7.1).eigenvalues[0], 7)
        solution = jax.jit(find)(np.nan)
        assert solution.result == ieig.RESULTS.nonfinite
        assert np.all(np.isnan(solution.eigenvalues))

    def test_a_vector_without_a_direction(self):
        find = jax.jit(
            lambda z: ieig.eigs(self.a, 2, ieig.Overlap(z * jnp.arange(8.0)), throw=False)
        )
        assert find(0.0).result == ieig.RESULTS.nonfinite
        for size in (1e-200, 1e200):
            np.testing.assert_allclose(find(size).eigenvalues, [8, 7])

    def test_keys_that_exclude_and_keys_that_are_best_of_all_are_meant(self):
        even = lambda w: jnp.where(jnp.cos(np.pi * w.real) > 0, w.real, -jnp.inf)
        np.testing.assert_allclose(ieig.eigs(self.a, 3, even).eigenvalues, [8, 6, 4])
        pole = lambda w: 1 / jnp.abs(w - 3)
        found = ieig.eigs(self.a, 3, pole).eigenvalues
        np.testing.assert_allclose(found, [3, 4, 2])
        solution = ieig.eigs(self.a, 5, even, throw=False)
        assert solution.result == ieig.RESULTS.nonfinite


def test_equal_keys_of_a_real_operator_keep_conjugate_partners_side_by_side():
    rotation = np.array([[0.0, -1.0], [1.0, 0.0]])
    a = np.kron(np.diag([1.0, 3.0, 2.0]), rotation)
    a = np.block([[a, np.zeros((6, 1))], [np.zeros((1, 6)), -np.eye(1)]])
    found = ieig.eigs(a, 7, "LR").eigenvalues
    np.testing.assert_allclose(found, [3j, -3j, 2j, -2j, 1j, -1j, -1], atol=1e-14)


def test_a_better_candidate_that_did_not_converge_is_not_passed_over_in_silence():
    # Real Ritz values, of imaginary part zero, turn up inside a complex spectrum for ever.
    a = spectral(np.float64)
    solution = krylov(a, 3, "SI")
    want = ranked(a, key_of("SI", np.float64))[:3]
    np.testing.assert_allclose(solution.eigenvalues, want, rtol=1e-9)
    assert solution.stats["num_converged"] == 3
    assert solution.result == ieig.RESULTS.not_converged


class TestPairsThatCannotBeConfirmed:
    """Right pairs, of which products with A do not tell whether they are the best."""

    # Apart at either end and in the middle.
    spectrum = np.concatenate([[-9, -6], np.linspace(-3, -1, 16), [0.01]])
    spectrum = np.concatenate([spectrum, np.linspace(1, 3, 16), [6, 9.5]])

    def matrix(self, dtype=np.float64):
        return with_spectrum(0, self.spectrum).astype(dtype)

    def eigs(self, a, k=1, which="SM", krylov_dim=None, **kwargs):
        solver = ieig.KrylovSchur(krylov_dim=krylov_dim)
        return ieig.eigs(free(a), k, which, eigensolver=solver, **kwargs)

    @pytest.mark.parametrize(
        "which, krylov_dim, dtype, confirmed",
        [
            ("LM", None, np.float64, True),
            ("LM", 20, np.float64, True),
            ("LM", 19, np.float64, False),
            ("SR", None, np.float64, True),
            ("SM", None, np.float64, False),
            ("SI", None, np.float64, False),
            ("SM", 30, np.complex128, False),
            (ieig.Nearest(9.0), None, np.float64, False),
            (ieig.Overlap(jnp.ones(37)), 30, np.float64, False),
            (lambda z: z.real, None, np.float64, False),
        ],
    )
    def test_the_result_says_what_the_run_could_see(
        self, which, krylov_dim, dtype, confirmed
    ):
        solution = self.eigs(self.matrix(dtype), 1, which, krylov_dim)
        assert (solution.result == ieig.RESULTS.successful) == confirmed
        assert (solution.result == ieig.RESULTS.unconfirmed) != confirmed
        assert solution.residuals[0] < 1e-9

    def test_the_least_imaginary_part_is_the_rim_of_a_complex_spectrum_only(self):
        a = spectral(np.complex128)
        assert krylov(a, 1, "SI").result == ieig.RESULTS.successful

    def test_a_krylov_space_as_large_as_the_whole_knows(self):
        solution = self.eigs(self.matrix(), krylov_dim=37)
        assert solution.result == ieig.RESULTS.successful
        assert solution.stats["dense_fallback"]
        np.testing.assert_allclose(solution.eigenvalues, [0.01], rtol=1e-9)

    def test_values_and_gradients_stay(self):
        def f(a, eigs):
            s = eigs(a, 1, "SM", throw=True)
            x = s.eigenvectors.real
            return s.eigenvalues[0].real + jnp.sum(x**3), s.result

        value_and_grad = jax.jit(jax.value_and_grad(f, has_aux=True), static_argnums=1)
        (value, result), gradient = value_and_grad(self.matrix(), self.eigs)
        (want, _), want_gradient = value_and_grad(self.matrix(), ieig.eigs)
        assert result == ieig.RESULTS.unconfirmed
        assert abs(value - want) < 1e-8
        assert relative(gradient, want_gradient) < 1e-6

    def test_a_failure_is_a_failure(self):
        solver = ieig.KrylovSchur(max_restarts=1)
        find = lambda throw: ieig.eigs(
            free(self.matrix()), 3, "SM", eigensolver=solver, throw=throw
        )
        assert find(False).result == ieig.RESULTS.not_converged
        with pytest.raises(RuntimeError, match="Fewer than `k`"):
            find(True)


class TestRepeatedEigenvalues:
    """Of several copies, one Krylov space holds one."""

    spectrum = np.concatenate([[5, 5, 5, 4, 4, 3.9, -5], np.linspace(-3, 3, 53)])
    every_copy = ieig.KrylovSchur(krylov_dim=24, repeated=True)

    def matrix(self):
        return with_spectrum(0, self.spectrum)

    @pytest.mark.parametrize("which, k", [("LR", 2), ("LR", 5), ("LM", 6)])
    def test_every_copy_is_found_when_asked_for(self, which, k):
        solution = ieig.eigs(self.matrix(), k, which, eigensolver=self.every_copy)
        key = KEYS[which]
        want = sorted(self.spectrum, key=key, reverse=True)[:k]
        np.testing.assert_allclose(np.sort(solution.eigenvalues.real), np.sort(want))
        v = np.linalg.qr(np.asarray(solution.eigenvectors))[1]
        assert np.min(np.abs(np.diagonal(v))) > 1e-3  # independent vectors

    @pytest.mark.parametrize("k", [4, 5, 6])
    def test_further_copies_are_found_unasked_where_one_turned_up(self, k):
        # A torus of 12 by 12: 0 once, then the same eigenvalue four times.
        def laplacian(v):
            v = v.reshape(12, 12)
            turns = [jnp.roll(v, s, axis) for s in (1, -1) for axis in (0, 1)]
            return (sum(turns) - 4 * v).ravel()

        solution = ieig.eigs(laplacian, k, "LR", like=jnp.zeros(144))
        second = 2 * np.cos(np.pi / 6) - 2
        third = 2 * second
        want = np.array([0, *4 * [second], third])[:k]
        found = np.asarray(solution.eigenvalues)
        np.testing.assert_allclose(found, want, atol=1e-9)
        apart = ieig.RESULTS.successful
        assert solution.result == (apart if k == 5 else ieig.RESULTS.cut_tie)

    def test_what_the_start_vector_is_blind_to_is_found_as_well(self):
        # An exact invariant subspace without the rightmost eigenvector.
        d = np.append(np.linspace(0, 1, 40), 9.0)
        v0 = jnp.where(d > 5, 0.0, 1.0)
        find = lambda repeated: ieig.eigs(
            lambda v: d * v,
            2,
            "LR",
            like=v0,
            v0=v0,
            eigensolver=ieig.KrylovSchur(krylov_dim=12, repeated=repeated),
        )
        assert np.isclose(find(True).eigenvalues[0], 9)

    @pytest.mark.parametrize("repeated", slow_but([True], [False, True]))
    def test_a_search_cut_short_is_not_called_a_success(self, repeated):
        # The diagonal matrix's three eigenvalues are found in one cycle; what else there
        # may be takes another one to see.
        d = jnp.asarray([3.0, 2.0, 1.0]).repeat(10)
        find = lambda restarts: ieig.eigs(
            lambda v: d * v,
            1,
            "LR",
            like=d,
            eigensolver=ieig.KrylovSchur(max_restarts=restarts, repeated=repeated),
            throw=False,
        )
        assert find(1).stats["num_converged"] == 1
        assert find(1).result == ieig.RESULTS.not_converged
        assert find(300).result == ieig.RESULTS.cut_tie

    @pytest.mark.slow
    def test_the_gradient_of_their_projector_agrees_with_the_dense_one(self):
        a = self.matrix()

        def f(a, eigensolver):
            s = ieig.eigs(a, 3, "LR", left=True, ties="drop", eigensolver=eigensolver)
            projector = s.eigenvectors @ s.left_eigenvectors.conj().T
            return jnp.sum(projector[:5].real * jnp.arange(60.0))

        gradient = jax.jit(jax.grad(f), static_argnums=1)
        assert relative(gradient(a, self.every_copy), gradient(a, ieig.Dense())) < 1e-7

    def test_vectors_an_iteration_cannot_tell_apart_have_no_derivative(self):
        f = lambda a: ieig.eigs(a, 6, "LR", eigensolver=self.every_copy).eigenvectors
        a = self.matrix()
        tangent = jax.jvp(f, (a,), (random_matrix(0, len(a)),))[1]
        assert np.all(np.isnan(tangent[:, :5])) and np.all(np.isfinite(tangent[:, 5]))


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

    @pytest.mark.slow
    def test_without_throw_only_the_pairs_that_did_not_converge_are_lost(self):
        a, e = self.matrix(), random_matrix(5, self.n)

        def find(a):
            solution = self.eigs(a, throw=False)
            return (solution.eigenvalues, solution.eigenvectors), solution

        exact = jax.jit(lambda a: ieig.eigs(a, 1, "LR"))
        _, (t_w, t_v), solution = jax.jit(
            lambda a, e: jax.jvp(find, (a,), (e,), has_aux=True)
        )(a, e)
        assert solution.result == ieig.RESULTS.not_converged
        assert solution.stats["num_converged"] == 1
        w, v = np.asarray(solution.eigenvalues), np.asarray(solution.eigenvectors)
        assert w.shape == (3,) and v.shape == (self.n, 3)
        assert np.all(np.isfinite(w)) and np.all(np.isfinite(v))
        assert np.isclose(w[0], 9.0)
        assert solution.residuals[0] < 1e-9 < solution.residuals[1:].min()
        want = np.linalg.norm(np.asarray(a) @ v - v * w, axis=0)
        want = want / (np.max(np.abs(w)) + np.abs(w))  # the norm, as Ritz values have it
        np.testing.assert_allclose(solution.residuals[1:], want[1:], rtol=1e-3)
        x = jax.jvp(exact, (a,), (e,))[1]
        assert relative(t_w[:1], x.eigenvalues) < 1e-9
        assert relative(t_v[:, :1], x.eigenvectors) < 1e-8
        assert np.all(np.isnan(t_w[1:])) and np.all(np.isnan(t_v[:, 1:]))

        @jax.jit
        def gradient(i, a):
            def f(a):
                (w, v), _ = find(a)
                return w[i].real + jnp.sum(v[:, i].real ** 3)

            return jax.grad(f)(a)

        def f(a):
            solution = exact(a)
            return solution.eigenvalues[0].real + jnp.sum(solution.eigenvectors.real**3)

        assert relative(gradient(0, a), jax.grad(f)(a)) < 1e-8
        assert np.all(np.isnan(gradient(1, a)))
