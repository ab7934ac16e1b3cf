"""`invariant_subspace`, `attach` and `diagnose` of Hermitian and definite problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but
from .test_eigsh import definite, DRUM, drum, FLAT, hermitian, MATRIX, SOLVERS, WEIGHTS


BESIDE = jnp.roll(WEIGHTS, 5)


def lowest(p, k=3, **options):
    return ieig.invariant_subspace(drum(p), k, "SA", like=p, hermitian=True, **options)


def questions(s):
    """Three that do not depend on the basis, of which the first needs the projector."""
    inside = s.projector_mv(WEIGHTS) @ BESIDE
    return jnp.stack([inside, s.trace, jnp.sum(s.eigenvalues**2)])


def gradients(matrix, k):
    """With respect to the potential, by sums over all eigenvectors."""
    w, v = np.linalg.eigh(matrix)
    x, y = np.asarray(WEIGHTS) @ v, np.asarray(BESIDE) @ v
    gap = w[:k, None] - w[None, k:]
    turn = (x[:k, None] * y[None, k:] + y[:k, None] * x[None, k:]) / gap
    projector = np.einsum("ij,ni,nj->n", turn, v[:, :k], v[:, k:])
    return projector, np.sum(v[:, :k] ** 2, 1), 2 * v[:, :k] ** 2 @ w[:k]


@pytest.mark.parametrize("name", SOLVERS)
def test_it_spans_the_lowest_modes_of_a_drum_a_pair_inside(name):
    s = lowest(FLAT, **SOLVERS[name])
    x, w = s.basis, s.eigenvalues
    assert x.dtype == w.dtype == s.block.dtype == jnp.float64
    np.testing.assert_allclose(w, DRUM[:3], atol=1e-12)
    np.testing.assert_allclose(x.T @ x, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(MATRIX @ x, x @ s.block, atol=1e-9)
    np.testing.assert_allclose(s.left_basis, x, atol=1e-15)
    assert s.residual < 1e-9


@pytest.mark.parametrize("name", slow_but(["Lanczos", "Dense"], SOLVERS))
def test_projector_trace_and_eigenvalues_have_gradients_where_two_coincide(name):
    def asked(p):
        return questions(lowest(p, **SOLVERS[name]))

    backward = jax.jacrev(asked)(FLAT)
    np.testing.assert_allclose(backward, gradients(MATRIX, 3), atol=1e-9)
    _, forward = jax.jvp(asked, (FLAT,), (WEIGHTS,))
    np.testing.assert_allclose(forward, backward @ WEIGHTS, atol=1e-9)


@pytest.mark.parametrize("name", slow_but(["Lanczos"], SOLVERS))
def test_second_derivatives_inside_a_cluster(name):
    def asked(t):
        s = lowest(t * WEIGHTS, **SOLVERS[name])
        return s.projector_mv(WEIGHTS) @ BESIDE + jnp.trace(s.block @ s.block)

    def known(t):
        w, v = np.linalg.eigh(MATRIX + t * np.diag(WEIGHTS))
        inside = (WEIGHTS @ v[:, :3]) @ (v[:, :3].T @ BESIDE)
        return inside + np.sum(w[:3] ** 2)

    h = 2e-3  # by differences of fourth order
    points = [known(t * h) for t in (-2, -1, 0, 1, 2)]
    expected = np.dot([-1, 16, -30, 16, -1], points) / (12 * h**2)
    second = jax.jvp(jax.grad(asked), (0.0,), (1.0,))[1]
    np.testing.assert_allclose(second, expected, rtol=1e-5)


def test_second_derivatives_of_a_vector_without_a_matrix():
    def density(t):
        found = ieig.eigsh(drum(t * WEIGHTS), 1, like=FLAT)
        return found.eigenvectors[:, 0] ** 2 @ BESIDE

    def known(t):
        _, v = np.linalg.eigh(MATRIX + t * np.diag(WEIGHTS))
        return v[:, 0] ** 2 @ BESIDE

    h = 2e-3
    points = [known(t * h) for t in (-2, -1, 0, 1, 2)]
    expected = np.dot([-1, 16, -30, 16, -1], points) / (12 * h**2)
    second = jax.jvp(jax.grad(density), (0.0,), (1.0,))[1]
    np.testing.assert_allclose(second, expected, rtol=1e-5)


def test_gradients_of_values_take_no_product_beyond_those_of_one_block():
    """The right side ȦX alone: no run, no solve."""
    count = []

    def mv(p):
        def apply(v):
            jax.debug.callback(lambda: count.append(1))
            return drum(p)(v)

        return apply

    def loss(p):
        s = ieig.invariant_subspace(mv(p), 3, "SA", like=FLAT, hermitian=True)
        return s.trace + jnp.sum(s.eigenvalues**2)

    def run(fn):
        count.clear()
        jax.block_until_ready(fn(FLAT))
        jax.effects_barrier()
        return len(count)

    forward, both = run(jax.jit(loss)), run(jax.jit(jax.value_and_grad(loss)))
    assert forward > 50
    assert both <= forward + 3


@pytest.mark.parametrize("dtype", slow_but([float], [float, complex]))
def test_of_a_pencil_the_projector_is_that_of_b(dtype):
    a, b = hermitian(8, 2, dtype), definite(8, 3)
    b = b.astype(a.dtype)

    def projector(a, b, **options):
        return ieig.invariant_subspace(a, 3, mass=b, hermitian=True, **options)

    s = projector(a, b, which="SA")
    np.testing.assert_allclose(s.basis.conj().T @ s.basis, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(a @ s.basis, b @ s.basis @ s.block, atol=1e-11)
    left = s.left_basis.conj().T
    np.testing.assert_allclose(left @ a, s.block @ left @ b, atol=1e-11)
    np.testing.assert_allclose(left @ b @ s.basis, np.eye(3), atol=1e-12)

    def entry(p):
        return p[1, 2].real + p[0, 0].real

    def general(a, b):
        found = ieig.invariant_subspace(a, 3, "SR", mass=b, left=True)
        return entry(found.projector()) + found.trace.real

    def ours(a, b):
        found = projector(a, b, which="SA")
        return entry(found.projector()) + found.trace.real

    x, y = hermitian(8, 5, dtype), definite(8, 6).astype(a.dtype)
    both = [jax.jvp(f, (a, b), (x, y)) for f in (ours, general)]
    np.testing.assert_allclose(*both, rtol=1e-9)
    back = jax.grad(ours, (0, 1))(a, b)
    along = jnp.sum(back[0] * x).real + jnp.sum(back[1] * y).real
    np.testing.assert_allclose(along, both[0][1], rtol=1e-9)


@pytest.mark.parametrize("name", ["Lanczos", "Dense"])
def test_a_pair_that_k_cuts_is_named(name):
    with pytest.raises(Exception, match=r"0\.479853 and 0\.479853 only one"):
        lowest(FLAT, 2, **SOLVERS[name])


@pytest.mark.parametrize("name", ["Lanczos", "Dense"])
def test_the_separation_is_the_distance_to_the_next(name):
    s = lowest(FLAT, 3, separation=True, **SOLVERS[name])
    np.testing.assert_allclose(s.separation, DRUM[3] - DRUM[2], rtol=1e-3)
    whole = ieig.invariant_subspace(np.eye(3), 3, hermitian=True, separation=True)
    assert np.isinf(whole.separation)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((np.arange(9.0).reshape(3, 3), 1), "not Hermitian"),
        ((lambda v: jnp.roll(v, 1), 2, "LA", jnp.zeros(50)), "not Hermitian"),
        ((np.eye(3), 1, "LR"), "SA, LA"),
        ((np.eye(3), 4), "order n = 3"),
    ],
)
def test_what_is_refused(arguments, word):
    operator, k, *rest = arguments
    options = dict(zip(("which", "like"), rest, strict=False))
    with pytest.raises(Exception, match=word):
        ieig.invariant_subspace(operator, k, hermitian=True, **options)


def test_a_failed_run_is_nan_in_a_compiled_program():
    short = ieig.KrylovSchur(krylov_dim=6, max_restarts=1)
    s = jax.jit(lambda p: lowest(p, eigensolver=short))(FLAT)
    assert s.result == ieig.RESULTS.not_converged
    assert np.isnan(s.basis).all() and np.isnan(s.eigenvalues).all()


def test_pairs_of_scipy_are_attached_and_diagnosed():
    """Two vectors of a double eigenvalue that are not orthogonal, in any order."""
    w, v = np.linalg.eigh(MATRIX)
    v = np.stack([v[:, 3], v[:, 1], v[:, 1] + 0.5 * v[:, 2], 7 * v[:, 0]], axis=1)
    w = w[[3, 1, 2, 0]]

    def loss(p):
        found = ieig.attach(drum(p), w, v, like=FLAT, hermitian=True)
        density = found.eigenvectors[:, 3] ** 2 @ WEIGHTS
        return density + jnp.sum(found.eigenvalues[1:3] ** 2), found

    (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(FLAT)
    assert found.eigenvalues.dtype == found.eigenvectors.dtype == jnp.float64
    np.testing.assert_allclose(found.eigenvalues, w)
    gram = found.eigenvectors.T @ found.eigenvectors
    np.testing.assert_allclose(gram, np.eye(4), atol=1e-12)

    def ours(p):
        s = ieig.eigsh(drum(p), 4, like=p)
        density = s.eigenvectors[:, 0] ** 2 @ WEIGHTS
        return density + jnp.sum(s.eigenvalues[1:3] ** 2)

    np.testing.assert_allclose(gradient, jax.grad(ours)(FLAT), atol=1e-9)
    told = ieig.diagnose(drum(FLAT), found, hermitian=True)
    np.testing.assert_allclose(told.condition_numbers, 1.0)
    np.testing.assert_allclose(told.separation[3], DRUM[1] - DRUM[0], rtol=0.2)


@pytest.mark.slow
def test_of_a_pencil_too():
    a, b = hermitian(8, 2, float), definite(8, 3)
    found = ieig.eigsh(a, 2, mass=b)
    w, v = np.asarray(found.eigenvalues), np.asarray(found.eigenvectors)

    def loss(find, a, b):
        s = find(a, b)
        return s.eigenvalues[1] + s.eigenvectors[0, 0] ** 2

    def attached(a, b):
        return ieig.attach(a, w, 3 * v, mass=b, hermitian=True)

    def solved(a, b):
        return ieig.eigsh(a, 2, mass=b)

    ours, theirs = (jax.grad(loss, (1, 2))(f, a, b) for f in (attached, solved))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-9)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-9)
    told = ieig.diagnose(a, found, mass=b, hermitian=True)
    np.testing.assert_allclose(told.condition_numbers, np.sum(v**2, axis=0))


def test_attach_refuses_what_is_no_pair_and_what_is_not_hermitian():
    w, v = np.linalg.eigh(MATRIX)
    options = {"like": FLAT, "hermitian": True}
    with pytest.raises(Exception, match="residual"):
        ieig.attach(drum(FLAT), w[:2] + 0.1, v[:, :2], **options)
    with pytest.raises(Exception, match="linearly dependent"):
        ieig.attach(drum(FLAT), w[[0, 0]], v[:, [0, 0]], **options)
    with pytest.raises(TypeError, match="complex128"):
        ieig.attach(drum(FLAT), w[:1] + 0j, v[:, :1], **options)
    with pytest.raises(ValueError, match="polish"):
        ieig.attach(drum(FLAT), w[:1], v[:, :1], polish=1, **options)
    skew = np.triu(np.ones((5, 5)))
    with pytest.raises(Exception, match="not Hermitian"):
        ieig.attach(skew, [1.0], np.eye(5)[:, :1], hermitian=True)
    found = ieig.eigs(skew, 1, throw=False)
    told = ieig.diagnose(skew, found, hermitian=True)
    assert np.isnan(told.condition_numbers).all()
