"""`eigsh` and `eigh`: values and derivatives of Hermitian and definite problems, also
beside, across and inside repeated eigenvalues."""

import itertools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but
from ..program.test_program_size import equations, of_eigs, RATES


M = 9
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=M * M))
STRING = 2 - 2 * np.cos(np.arange(1, M + 1) * np.pi / (M + 1))
DRUM = np.sort((STRING[:, None] + STRING).ravel())  # 0, (1, 2), 3, (4, 5), ...


def drum(potential):
    """A square membrane by five points, which has pairs of equal frequencies."""

    def apply(v):
        u = jnp.pad(v.reshape(M, M), 1)
        around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
        return (4 * u[1:-1, 1:-1] - around).ravel() + potential * v

    return apply


FLAT = jnp.zeros(M * M)
MATRIX = jax.jacfwd(drum(FLAT))(FLAT)


def hermitian(n, seed, dtype=complex):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, n)) + (
        1j * rng.normal(size=(n, n)) if dtype is complex else 0
    )
    return jnp.asarray((a + a.conj().T) / 2)


def definite(n, seed):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return jnp.asarray(a @ a.T + n * np.eye(n))


SOLVERS = {
    "Lanczos": {"eigensolver": ieig.KrylovSchur()},
    "Dense": {"eigensolver": ieig.Dense()},
    "shift-invert": {"eigensolver": ieig.ShiftInvert(-0.1, lx.LU())},
}


@pytest.mark.parametrize("k", [3, 6, 8])
@pytest.mark.parametrize("name", SOLVERS)
def test_all_copies_of_repeated_eigenvalues_are_found(name, k):
    found = ieig.eigsh(drum(FLAT), k, like=FLAT, throw=False, **SOLVERS[name])
    np.testing.assert_allclose(found.eigenvalues, DRUM[:k], atol=1e-12)
    v = found.eigenvectors
    assert v.dtype == jnp.float64
    np.testing.assert_allclose(v.T @ v, np.eye(k), atol=1e-9)
    np.testing.assert_allclose(MATRIX @ v, v * DRUM[:k], atol=1e-8)


@pytest.mark.parametrize(
    ("which", "index"),
    [
        ("SA", [0, 1, 2, 3]),
        ("LA", [-1, -2, -3, -4]),
        ("LM", [-1, -2, -3, -4]),
        ("BE", [-1, 0, -2, 1]),
    ],
)
def test_order_is_best_first(which, index):
    found = ieig.eigsh(drum(FLAT), 4, which, like=FLAT)
    np.testing.assert_allclose(found.eigenvalues, DRUM[index], atol=1e-12)
    full = ieig.eigsh(MATRIX, 4, which)
    np.testing.assert_allclose(full.eigenvalues, DRUM[index], atol=1e-12)


def test_products_are_no_more_than_those_of_arpack():
    scipy = pytest.importorskip("scipy.sparse.linalg")
    n, count = 400, []
    diagonal = np.linspace(0.0, 1.0, n) ** 2

    def product(v):
        count.append(1)
        return diagonal * v

    operator = scipy.LinearOperator((n, n), matvec=product, dtype=float)
    scipy.eigsh(operator, 6, which="LA", v0=np.random.default_rng(0).normal(size=n))
    found = ieig.eigsh(lambda v: diagonal * v, 6, "LA", like=jnp.zeros(n))
    assert found.stats["num_matvecs"] <= len(count)


def of_pairs(solution):
    """Of the lowest vector, the sum of a pair of tied values, and one above."""
    density = solution.eigenvectors[:, 0] ** 2 @ WEIGHTS
    w = solution.eigenvalues
    return density + jnp.sin(w[0]) + jnp.sum(w[1:3] ** 2) + 0.5 * w[3]


def formula(matrix):
    """The gradient of `of_pairs`, by sums over all eigenvectors."""
    w, v = np.linalg.eigh(matrix)
    first = 2 * np.asarray(WEIGHTS) * v[:, 0]
    turned = sum(v[:, j] * (v[:, j] @ first) / (w[0] - w[j]) for j in range(1, len(w)))
    values = np.cos(w[0]) * v[:, 0] ** 2 + 0.5 * v[:, 3] ** 2
    return values + turned * v[:, 0] + 2 * (v[:, 1:3] ** 2) @ w[1:3]


@pytest.mark.parametrize("name", slow_but(["Lanczos"], SOLVERS))
def test_gradients_beside_and_across_a_tie(name):
    def loss(p):
        return of_pairs(ieig.eigsh(drum(p), 4, like=p, throw=False, **SOLVERS[name]))

    gradient = jax.grad(loss)(FLAT)
    np.testing.assert_allclose(gradient, formula(MATRIX), atol=1e-9)
    _, forward = jax.jvp(loss, (FLAT,), (WEIGHTS,))
    np.testing.assert_allclose(forward, gradient @ WEIGHTS, rtol=1e-9)


def test_one_of_a_tie_has_no_derivative_and_the_span_has():
    def one(p):
        return ieig.eigsh(drum(p), 3, like=p).eigenvalues[1]

    def cut(p):
        return ieig.eigsh(drum(p), 2, like=p).eigenvalues[1]

    def density(p):
        modes = ieig.eigsh(drum(p), 3, like=p, ties="drop").eigenvectors[:, 1:3]
        return jnp.sum(modes**2, axis=1) @ WEIGHTS

    assert np.isnan(jax.grad(one)(FLAT)).all()
    assert np.isnan(jax.grad(cut)(FLAT)).all()
    w, v = np.linalg.eigh(MATRIX)
    expected = 0
    for i, j in itertools.product((1, 2), (0, *range(3, len(w)))):
        ratio = 2 * (v[:, j] @ (np.asarray(WEIGHTS) * v[:, i])) / (w[i] - w[j])
        expected = expected + ratio * v[:, i] * v[:, j]
    np.testing.assert_allclose(jax.grad(density)(FLAT), expected, atol=1e-9)


def test_second_derivatives_beside_a_tie():
    directions = jnp.stack([WEIGHTS, jnp.roll(WEIGHTS, 3)])

    def lowest(t):
        p = t @ directions
        return ieig.eigsh(drum(p), 4, like=p).eigenvalues[0]

    w, v = np.linalg.eigh(MATRIX)
    coupled = v.T @ (np.asarray(directions)[:, :, None] * v[:, :1])
    coupled = coupled[:, 1:, 0]
    expected = 2 * (coupled / (w[0] - w[1:])) @ coupled.T
    np.testing.assert_allclose(jax.hessian(lowest)(jnp.zeros(2)), expected, atol=1e-8)


@pytest.mark.parametrize("dtype", [float, complex])
def test_eigh_has_the_gradient_of_jax_where_that_is_right(dtype):
    a = hermitian(6, 1, dtype)

    def loss(eigh, a):
        w, v = eigh(a)
        return jnp.sum(jnp.sin(w) * jnp.arange(6.0)) + jnp.abs(v[0, 2]) ** 2

    ours, theirs = (jax.grad(loss, 1)(f, a) for f in (ieig.eigh, jnp.linalg.eigh))
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_allclose(ours, ours.conj().T if dtype is float else ours.T.conj())
    batch = jax.vmap(jax.grad(lambda a: loss(ieig.eigh, a)))(jnp.stack([a, 2 * a]))
    np.testing.assert_allclose(batch[0], theirs, atol=1e-12)


def reduced(a, b):
    """The pencil's pairs by a Cholesky factor and JAX's `eigh`."""
    lower = jnp.linalg.cholesky(b)
    inverse = jnp.linalg.inv(lower)
    w, u = jnp.linalg.eigh(inverse @ a @ inverse.T)
    return w, inverse.T @ u


def of_pencil(found):
    w, v = found
    return w[1] + jnp.sum(v[:, 2] ** 2 * jnp.arange(1.0, 7.0))


def test_pencils_with_respect_to_both_matrices():
    a, b = hermitian(6, 2, float), definite(6, 3)
    ours = jax.grad(lambda a, b: of_pencil(ieig.eigh(a, b)), (0, 1))(a, b)
    theirs = jax.grad(lambda a, b: of_pencil(reduced(a, b)), (0, 1))(a, b)
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, (y + y.T) / 2, atol=1e-12)
    v = ieig.eigh(a, b).eigenvectors
    np.testing.assert_allclose(v.T @ b @ v, np.eye(6), atol=1e-12)

    def along(fn, t):
        return of_pencil(fn(a + t[0] * b, b + t[1] * jnp.diag(jnp.arange(6.0))))

    ours, theirs = (
        jax.hessian(lambda t, fn=fn: along(fn, t))(jnp.zeros(2))
        for fn in (ieig.eigh, reduced)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-11)


@pytest.mark.parametrize("name", slow_but(["shift-invert"], ["Lanczos", "shift-invert"]))
def test_sparse_pencils(name):
    n = 60
    i = jnp.arange(n)
    rows, columns = (jnp.concatenate(x) for x in ((i, i[1:], i[:-1]), (i, i[:-1], i[1:])))

    def matrices(p):
        values = jnp.concatenate([2 + p, -jnp.ones(2 * n - 2)])
        mass = jnp.concatenate([4 + jnp.sin(p), jnp.ones(2 * n - 2)]) / 6
        return values, mass

    def loss(p, sparse):
        a, b = matrices(p)
        if sparse:
            a, b = (ieig.SparseOperator(x, rows, columns, n) for x in (a, b))
            solver = ieig.KrylovSchur() if name == "Lanczos" else ieig.ShiftInvert(0.3)
            found = ieig.eigsh(a, 3, mass=b, eigensolver=solver)
        else:
            a, b = (jnp.zeros((n, n)).at[rows, columns].add(x) for x in (a, b))
            target = None if name == "Lanczos" else 0.3
            found = ieig.eigsh(a, 3, mass=b, sigma=target)
        return jnp.sum(found.eigenvalues) + found.eigenvectors[:, 1] ** 2 @ jnp.sin(i / 9)

    p = jnp.linspace(0.0, 1.0, n) ** 2
    (value, gradient), (right, expected) = (
        jax.value_and_grad(loss)(p, sparse) for sparse in (True, False)
    )
    np.testing.assert_allclose(value, right, rtol=1e-11)
    np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_complex_operators_without_a_matrix():
    phases = jnp.asarray(np.exp(1j * np.random.default_rng(1).normal(size=40)))
    zero = jnp.zeros(40, complex)

    def ring(p):
        def apply(v):
            right, left = phases * jnp.roll(v, -1), jnp.roll(phases.conj() * v, 1)
            return p.astype(v.dtype) * v + right + left

        return apply

    def loss(found):
        v = found.eigenvectors[:, 1]
        return (v.real**2 + v.imag**2) @ jnp.arange(40.0)

    def matrix(p):
        return jax.vmap(ring(p), 1, 1)(jnp.eye(40, dtype=complex))

    p = jnp.linspace(0, 2, 40)
    ours = jax.grad(lambda p: loss(ieig.eigsh(ring(p), 3, "LA", like=zero)))(p)
    dense = jax.grad(lambda p: loss(ieig.eigsh(matrix(p), 3, "LA")))(p)
    np.testing.assert_allclose(ours, dense, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision(dtype):
    a = hermitian(50, 5, float if dtype == "float32" else complex).astype(dtype)
    found = ieig.eigsh(lambda v: a @ v, 3, "LA", like=a[0])
    expected = np.linalg.eigvalsh(np.asarray(a))[::-1][:3]
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-5)
    assert found.eigenvalues.dtype == jnp.float32
    assert found.eigenvectors.dtype == dtype


def test_overlap_callable_and_target():
    a = hermitian(30, 7, float)
    w, v = np.linalg.eigh(a)
    found = ieig.eigsh(a, 1, ieig.Overlap(jnp.asarray(v[:, 11])))
    np.testing.assert_allclose(found.eigenvalues, w[[11]], atol=1e-12)
    found = ieig.eigsh(a, 2, lambda x: -jnp.abs(x - 0.5))
    nearest = np.argsort(abs(w - 0.5))[:2]
    np.testing.assert_allclose(found.eigenvalues, w[nearest], atol=1e-12)
    found = ieig.eigsh(a, 2, sigma=0.5)
    np.testing.assert_allclose(found.eigenvalues, w[nearest], atol=1e-12)


def test_under_jit_and_vmap():
    def lowest(p):
        return ieig.eigsh(drum(p), 1, like=p).eigenvalues[0]

    ps = jnp.stack([FLAT, 0.1 * WEIGHTS])
    together = jax.jit(jax.vmap(jax.value_and_grad(lowest)))(ps)
    for i in range(2):
        value, gradient = jax.value_and_grad(lowest)(ps[i])
        np.testing.assert_allclose(together[0][i], value, rtol=1e-12)
        np.testing.assert_allclose(together[1][i], gradient, atol=1e-10)


def test_left_vectors_and_conditions():
    b = definite(6, 3)
    found = ieig.eigsh(hermitian(6, 2, float), 3, mass=b, left=True)
    gram = found.left_eigenvectors.T @ b @ found.eigenvectors
    np.testing.assert_allclose(gram, np.eye(3), atol=1e-12)
    plain = ieig.eigsh(hermitian(6, 2, float), 3, left=True)
    np.testing.assert_allclose(plain.condition_numbers, 1.0)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (lambda: (np.arange(9.0).reshape(3, 3), 1), "not Hermitian"),
        (lambda: (lambda v: jnp.roll(v, 1), 2, {"like": jnp.zeros(50)}), "not Hermitian"),
        (
            lambda: (np.eye(3), 1, {"mass": np.diag([1.0, -1, 1])}),
            "not positive definite",
        ),
        (
            lambda: (
                lambda v: v,
                2,
                {
                    "mass": lambda v: v * jnp.linspace(-1, 1, 50),
                    "like": jnp.zeros(50),
                    "eigensolver": ieig.KrylovSchur(mass_solver=lx.LU()),
                },
            ),
            "not positive definite",
        ),
        (lambda: (lambda v: v * jnp.nan, 2, {"like": jnp.zeros(50)}), "NaN"),
        (lambda: (np.full((4, 4), np.nan), 2), "NaN"),
        (lambda: (np.eye(3), 1, {"sigma": 1j}), "must be real"),
        (lambda: (np.eye(3), 4), "order n = 3"),
        (lambda: (np.eye(3), 1, {"which": "LR"}), "SA, LA"),
    ],
)
def test_what_is_refused(arguments, word):
    operator, k, *options = arguments()
    with pytest.raises(Exception, match=word):
        ieig.eigsh(operator, k, **(options[0] if options else {}))


def test_eigh_refuses_what_is_not_hermitian():
    with pytest.raises(ValueError, match="Hermitian"):
        ieig.eigh(np.arange(9.0).reshape(3, 3))


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_multiples_of_the_identity(scale):
    found = ieig.eigsh(lambda v: scale * v, 3, like=jnp.zeros(50))
    np.testing.assert_allclose(found.eigenvalues, scale * np.ones(3))


def test_the_program_is_smaller_than_that_of_eigs(monkeypatch):
    monkeypatch.setenv("IMPLICIT_EIG_KERNELS", "off")  # that of `eigs` gains more by them

    def of_eigsh(rates):
        def step(v):
            side = 0.3 * (jnp.roll(v, 1) + jnp.roll(v, -1))
            return rates * v + side

        return ieig.eigsh(step, k=4, which="LA", like=rates).eigenvalues[0]

    assert equations(of_eigsh, RATES) < 0.6 * equations(of_eigs, RATES)
    ours, general = (equations(jax.grad(f), RATES) for f in (of_eigsh, of_eigs))
    assert ours < 0.7 * general


HUGE = {"float64": [1e-300, 1e-160, 1e160, 1e300], "float32": [1e-34, 1e-20, 1e20, 1e36]}


@pytest.mark.parametrize("dtype", HUGE)
@pytest.mark.parametrize("name", ["Dense", "Lanczos", "shift-invert"])
def test_entries_of_extreme_size_are_scaled(name, dtype):
    sparse = pytest.importorskip("scipy.sparse")
    a = np.asarray(hermitian(50, 7, float)).astype(dtype)
    expected = np.linalg.eigvalsh(a.astype(float))[-2:][::-1]
    for size in np.asarray(HUGE[dtype], dtype):
        options = {"which": "LA", **SOLVERS[name]}
        if name == "shift-invert":
            options = {"eigensolver": ieig.ShiftInvert(size * a.dtype.type(9.5))}
        scaled = a * size
        found = ieig.eigsh(
            scaled if name == "Dense" else sparse.csr_array(scaled), 2, **options
        )
        rtol = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(found.eigenvalues / size, expected, rtol=rtol)
        assert np.all(found.residuals < rtol)


@pytest.mark.parametrize("find", [ieig.eigh, ieig.eigsh])
def test_pencils_of_extreme_size(find):
    a, b = hermitian(6, 2, float), definite(6, 3)

    def of(x, y, a, b):
        a, b = x * a, y * b
        w, v = find(a, b) if find is ieig.eigh else pairs(ieig.eigsh(a, 6, mass=b))
        return w / (x / y), v * y**0.5

    def pairs(found):
        return found.eigenvalues, found.eigenvectors

    def loss(x, y, a, b):
        w, v = of(x, y, a, b)
        return w[1] + jnp.sum(v[:, 2] ** 2 * jnp.arange(1.0, 7.0))

    plain = of(1.0, 1.0, a, b), *jax.grad(loss, (2, 3))(1.0, 1.0, a, b)
    for x, y in ((1e-300, 1e-300), (1e300, 1e200), (1e-150, 1e150), (1.0, 1e300)):
        there = of(x, y, a, b), *jax.grad(loss, (2, 3))(x, y, a, b)
        for ours, theirs in zip(*map(jax.tree.leaves, (there, plain)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", HUGE["float64"])
def test_products_of_extreme_size_are_named(size):
    a = hermitian(50, 7, float) * size
    with pytest.raises(Exception, match="over- or underflow"):
        ieig.eigsh(lambda v: a @ v, 2, "LA", like=a[0])


@pytest.mark.parametrize(("x", "y"), [(1e160, 1e-300), (1e-160, 1e300)])
def test_eigenvalues_that_no_number_holds_are_named(x, y):
    with pytest.raises(Exception, match="over- or underflow"):
        ieig.eigsh(x * np.eye(5), 2, mass=y * np.eye(5))


def test_a_start_vector_of_zeros_is_named():
    with pytest.raises(Exception, match="`v0` is zero"):
        ieig.eigsh(drum(FLAT), 2, like=FLAT, v0=np.zeros(M * M))


def test_loose_runs_near_a_target_are_made_good_by_one_more_product():
    """What A enlarges of the error of a vector of (A − σ)⁻¹ would miss the tolerance."""
    n, i = 900, jnp.arange(900)
    rows, columns = (jnp.concatenate(x) for x in ((i, i[1:], i[:-1]), (i, i[:-1], i[1:])))
    values = jnp.concatenate([jnp.full(n, 2.0), -jnp.ones(2 * n - 2)])
    chain = ieig.SparseOperator(values, rows, columns, n)
    inner = ieig.KrylovSchur(rtol=1e-6, krylov_dim=8)
    found = ieig.eigsh(chain, 3, eigensolver=ieig.ShiftInvert(0.0, inner=inner))
    expected = 2 - 2 * np.cos(np.arange(1, 4) * np.pi / (n + 1))
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_callable_sees_real_eigenvalues(name):
    a = hermitian(40, 5, complex)
    expected = np.linalg.eigvalsh(np.asarray(a))
    solver = {"eigensolver": ieig.ShiftInvert(-100.0)} if name == "shift-invert" else {}
    found = ieig.eigsh(a, 2, lambda w: -w, **(SOLVERS[name] | solver))
    np.testing.assert_allclose(found.eigenvalues, expected[:2], rtol=1e-8)
