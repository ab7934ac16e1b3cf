"""`eigsh`, `eigh` and `invariant_subspace` against closed forms, degeneracies included, and
inside clusters against 50 digits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import lineax as lx
import mpmath
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but


# ---------------------------------------------------------------- a cubic grid

M = 4
CHAIN = 2 - 2 * np.cos(np.arange(1, M + 1) * np.pi / (M + 1))
SINES = np.sqrt(2 / (M + 1)) * np.sin(
    np.outer(np.arange(1, M + 1), np.arange(1, M + 1)) * np.pi / (M + 1)
)
CUBE = CHAIN[:, None, None] + CHAIN[:, None] + CHAIN
MODES = np.einsum("ax,by,cz->xyzabc", SINES, SINES, SINES).reshape(M**3, M**3)
ORDER = np.argsort(CUBE.ravel(), kind="stable")  # 1, then three, three, three, one, ...
VALUES, MODES = CUBE.ravel()[ORDER], MODES[:, ORDER]
WEIGHTS = np.random.default_rng(1).normal(size=M**3)
FLAT = jnp.zeros(M**3)


def cube(potential):
    def apply(v):
        u = jnp.pad(v.reshape(M, M, M), 1)
        out = 6 * u[1:-1, 1:-1, 1:-1]
        for axis, shift in itertools.product(range(3), (1, -1)):
            out = out - jnp.roll(u, shift, axis)[1:-1, 1:-1, 1:-1]
        return out.ravel() + potential * v

    return apply


SOLVERS = {
    "Lanczos": ieig.KrylovSchur(),
    "Dense": ieig.Dense(),
    "shift-invert": ieig.ShiftInvert(-0.1, lx.LU()),
}


@pytest.mark.parametrize("name", slow_but(["Lanczos"], SOLVERS))
def test_three_modes_of_a_cube_at_one_frequency(name):
    def loss(p):
        s = ieig.eigsh(cube(p), 7, like=p, eigensolver=SOLVERS[name])
        w, v = s.eigenvalues, s.eigenvectors
        smooth = jnp.sum(w[1:4] ** 2) + jnp.prod(w[4:7]) + w[0]
        return smooth + v[:, 0] ** 2 @ WEIGHTS, w

    (_, values), gradient = jax.value_and_grad(loss, has_aux=True)(FLAT)
    np.testing.assert_allclose(values, VALUES[:7], atol=1e-12)
    density = MODES**2
    expected = 2 * VALUES[1] * density[:, 1:4].sum(1)
    expected += VALUES[4] ** 2 * density[:, 4:7].sum(1) + density[:, 0]
    first = MODES.T @ (2 * WEIGHTS * MODES[:, 0])
    turned = MODES[:, 1:] @ (first[1:] / (VALUES[0] - VALUES[1:]))
    np.testing.assert_allclose(gradient, expected + turned * MODES[:, 0], atol=1e-9)


def test_the_span_of_three_modes_of_a_cube():
    def share(p):
        s = ieig.invariant_subspace(cube(p), 4, "SA", like=p, hermitian=True)
        return s.projector_mv(WEIGHTS) @ WEIGHTS

    x = MODES.T @ WEIGHTS
    turn = 2 * np.outer(x[:4], x[4:]) / (VALUES[:4, None] - VALUES[4:])
    expected = np.einsum("ij,ni,nj->n", turn, MODES[:, :4], MODES[:, 4:])
    np.testing.assert_allclose(jax.grad(share)(FLAT), expected, atol=1e-9)


# ---------------------------------------------------------------- circulants

N = 24
ANGLES = 2 * np.pi * np.outer(np.arange(N), np.arange(1, 4)) / N


def ring(taps):
    """v ↦ Σ c_l v(· + l) + c̄_l v(· − l): eigenvalues Σ 2 Re(c_l exp(i l φ_j))."""

    def apply(v):
        terms = [
            c.astype(v.dtype) * jnp.roll(v, -i)
            + c.conj().astype(v.dtype) * jnp.roll(v, i)
            for i, c in enumerate(taps, 1)
        ]
        return sum(terms)

    return apply


def matrix_of_ring(taps):
    eye = jnp.eye(N, dtype=taps.dtype)
    return jax.vmap(ring(taps), 1, 1)(eye)


TAPS = jnp.asarray([1.0, 0.3, -0.2])
TURNED = jnp.asarray(np.asarray(TAPS) * np.exp(1j * np.asarray([0.4, 0.1, -0.9])))
WAYS = {
    "Lanczos": lambda taps: (
        ieig.eigsh(
            ring(taps), 5, "LA", like=jnp.zeros(N, taps.dtype), throw=False
        ).eigenvalues
    ),
    "eigh": lambda taps: ieig.eigh(matrix_of_ring(taps)).eigenvalues[::-1][:5],
}


@pytest.mark.parametrize("way", WAYS)
def test_real_circulants_have_pairs_and_sums_over_them_have_gradients(way):
    values = 2 * np.cos(ANGLES) @ np.asarray(TAPS)
    best = np.argsort(-values, kind="stable")[:5]  # 1, 2, 2
    np.testing.assert_allclose(WAYS[way](TAPS), values[best], atol=1e-12)

    def loss(taps):
        w = WAYS[way](taps)
        return w[0] + jnp.sum(jnp.sin(w[1:3])) + w[3] * w[4]

    factor = np.concatenate([[1.0], np.cos(values[best[1:3]]), values[best[3:]]])
    expected = factor @ (2 * np.cos(ANGLES[best]))
    np.testing.assert_allclose(jax.grad(loss)(TAPS), expected, atol=1e-11)
    assert np.isnan(jax.grad(lambda taps: WAYS[way](taps)[1])(TAPS)).all()


@pytest.mark.parametrize("way", WAYS)
def test_hermitian_circulants_are_simple(way):
    def phases(taps):
        return np.real(np.exp(1j * ANGLES) @ taps)

    values = 2 * phases(np.asarray(TURNED))
    best = np.argsort(-values)[:5]
    np.testing.assert_allclose(WAYS[way](TURNED), values[best], atol=1e-12)
    gradient = jax.grad(lambda taps: WAYS[way](taps)[3])(TURNED)
    # dλ = 2 Re(exp(i l φ) dc), and a gradient g says dλ = Re(g dc).
    np.testing.assert_allclose(gradient, 2 * np.exp(1j * ANGLES[best[3]]), atol=1e-11)


# ---------------------------------------------------------------- a spin chain


def ising(field, spins):
    """−Σ Z_j Z_{j+1} − h Σ X_j on a ring."""
    index = np.arange(2**spins)
    z = 1 - 2 * ((index[:, None] >> np.arange(spins)) & 1)
    bonds = np.sum(z * np.roll(z, 1, axis=1), axis=1).astype(float)

    def apply(v):
        flips = (v.reshape(-1, 2, 2**j)[:, ::-1].ravel() for j in range(spins))
        return -bonds * v - field * sum(flips)

    return apply


def exact(field, spins):
    """The lowest energies of the even and of the odd sector (Pfeuty 1970)."""

    def modes(k):
        return jnp.sqrt(1 + field**2 - 2 * field * jnp.cos(k))

    even = modes((2 * np.arange(spins) + 1) * np.pi / spins)
    odd = modes(2 * np.arange(1, spins) * np.pi / spins)
    return jnp.stack([-jnp.sum(even), -jnp.sum(odd) - (1 - field)])


@pytest.mark.parametrize("spins", slow_but([8], [8, 12]))
def test_energies_of_a_spin_chain_and_their_derivatives(spins):
    like = jnp.zeros(2**spins)

    def energies(field):
        found = ieig.eigsh(ising(field, spins), 2, like=like)
        return found.eigenvalues

    for of in (lambda f: f, jax.jacfwd, jax.jacrev):
        ours = jax.jit(of(energies))(1.2)
        known = of(functools.partial(exact, spins=spins))(1.2)
        np.testing.assert_allclose(ours, known, rtol=1e-10)
    second = jax.jit(jax.grad(jax.grad(lambda f: energies(f)[0])))(1.2)
    known = jax.grad(jax.grad(lambda f: exact(f, spins)[0]))(1.2)
    np.testing.assert_allclose(second, known, rtol=1e-8)


# ---------------------------------------------------------------- clusters, in 50 digits


def clustered(gap, dtype, n=7):
    """Entries that are doubles; three eigenvalues near 1, `gap` apart."""
    rng = np.random.default_rng(5)
    q = rng.normal(size=(n, n)) + (
        1j * rng.normal(size=(n, n)) if dtype is complex else 0
    )
    q, _ = np.linalg.qr(q)
    w = np.array([1, 1 + gap, 1 + 2 * gap, 2.0, 2.5, 3.0, -1.0])
    a = (q * w) @ q.conj().T
    e = rng.normal(size=(2, n, n)) + (
        1j * rng.normal(size=(2, n, n)) if dtype is complex else 0
    )
    a, e = ((x + np.swapaxes(x, -1, -2).conj()) / 2 for x in (a, e))
    return a, e


def in_digits(a):
    """All eigenpairs, ascending."""
    find = mpmath.eighe if np.iscomplexobj(a) else mpmath.eigsy
    values, vectors = find(mpmath.matrix(np.asarray(a).tolist()))
    best = sorted(range(len(values)), key=lambda i: values[i])
    columns = [vectors[:, i] for i in best]
    return [values[i] for i in best], columns


def moved_in_digits(a, e, x, inside):
    """xᴴ P x, P the projector on `inside`, its derivative along e, and that of tr(A P)."""
    with mpmath.workdps(50):
        w, v = in_digits(a)
        e, x = (mpmath.matrix(np.asarray(y).tolist()) for y in (e, x))
        dot = lambda y, z: (y.H * z)[0, 0]
        share = sum(abs(dot(v[i], x)) ** 2 for i in inside)
        outside = [j for j in range(len(w)) if j not in inside]
        turn = sum(
            2
            * mpmath.re(dot(x, v[i]) * dot(v[i], e * v[j]) * dot(v[j], x))
            / (w[i] - w[j])
            for i in inside
            for j in outside
        )
        trace = sum(mpmath.re(dot(v[i], e * v[i])) for i in inside)
        return [float(y) for y in (share, turn, trace)]


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-7, 1e-3])
def test_inside_clusters_as_fifty_digits_have_it(gap, dtype):
    a, (e, _) = clustered(gap, dtype)
    x = np.random.default_rng(6).normal(size=7).astype(a.dtype)

    @jax.jit
    def asked(a, e):
        def questions(a):
            s = ieig.invariant_subspace(
                a, 3, ieig.Nearest(1.01), hermitian=True, eigensolver=ieig.Dense()
            )
            share = jnp.vdot(x, s.projector_mv(x)).real
            w, v = ieig.eigh(a, ties="drop", tie_rtol=1e-10)
            v = v[:, 1:4]
            again = jnp.sum(jnp.abs(v.conj().T @ x) ** 2)
            return jnp.stack([share, s.trace.real, jnp.sum(w[1:4]), again])

        return jax.jvp(questions, (a,), (e,))

    values, tangents = asked(jnp.asarray(a), jnp.asarray(e))
    share, turn, trace = moved_in_digits(a, e, x, (1, 2, 3))
    np.testing.assert_allclose(values[0], share, rtol=1e-13)
    np.testing.assert_allclose(values[3], share, rtol=1e-13)
    np.testing.assert_allclose(tangents[:3], [turn, trace, trace], rtol=1e-12)
    # Gaps that do not count as ties enlarge rounding.
    rounding = 20 * np.finfo(float).eps / (gap if gap > 1e-10 else 1)
    np.testing.assert_allclose(tangents[3], turn, rtol=1e-12, atol=rounding)


def test_one_vector_beside_a_close_one_as_fifty_digits_have_it():
    a, (e, _) = clustered(1e-5, float)
    x = np.random.default_rng(6).normal(size=7)

    def share(a):
        return (ieig.eigsh(a, 2).eigenvectors[:, 1] @ x) ** 2

    value, tangent = jax.jvp(share, (jnp.asarray(a),), (jnp.asarray(e),))
    known, turn, _ = moved_in_digits(a, e, x, (1,))
    # Rounding over the gap, and over its square.
    np.testing.assert_allclose(value, known, atol=1e-9)
    np.testing.assert_allclose(tangent, turn, rtol=1e-8)


def test_a_pencil_with_a_cluster_as_fifty_digits_have_it():
    """A = L M Lᴴ and B = L Lᴴ have the cluster of M."""
    m, (e, lower) = clustered(0.0, float)
    lower = np.tril(lower) / 8 + np.diag(np.arange(1.0, 8.0))
    a, b = lower @ m @ lower.T, lower @ lower.T

    def smooth(a):
        w = ieig.eigsh(a, 4, mass=b).eigenvalues
        return jnp.sum(w[1:] ** 2)

    ours = jax.jvp(smooth, (jnp.asarray(a),), (jnp.asarray(e),))
    with mpmath.workdps(50):
        # Of the doubles that a and b are.
        c = mpmath.cholesky(mpmath.matrix(b.tolist())) ** -1
        reduced = c * mpmath.matrix(a.tolist()) * c.T
        values, vectors = mpmath.eigsy(reduced)
        best = sorted(range(7), key=lambda i: values[i])[1:4]
        moved = c * mpmath.matrix(e.tolist()) * c.T
        value = sum(values[i] ** 2 for i in best)
        turn = sum(
            2 * values[i] * (vectors[:, i].T * moved * vectors[:, i])[0] for i in best
        )
    np.testing.assert_allclose(ours[0], float(value), rtol=1e-12)
    np.testing.assert_allclose(ours[1], float(turn), rtol=1e-11)


# ---------------------------------------------------------------- pytrees, batches, single


def two_parts(stiffness):
    """A string of two parts, which a spring joins."""

    def apply(v):
        x, y = v["left"], v["right"]
        side = lambda u: (
            2 * u - jnp.roll(u, 1).at[0].set(0) - jnp.roll(u, -1).at[-1].set(0)
        )
        joint = stiffness * (x[-1] - y[0, 0])
        left = side(x).at[-1].add(joint)
        right = side(y[:, 0])[:, None].at[0, 0].add(-joint)
        return {"left": left, "right": right}

    return apply


def test_pytrees():
    like = {"left": jnp.zeros(15), "right": jnp.zeros((20, 1))}
    flat, unravel = jax.flatten_util.ravel_pytree(like)

    def matrix(stiffness):
        ravel = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
        return jax.jacfwd(lambda v: ravel(two_parts(stiffness)(unravel(v))))(flat)

    def asked(found):
        vectors = found.eigenvectors
        left = vectors["left"] if isinstance(vectors, dict) else vectors[:15]
        return found.eigenvalues[1] + jnp.sum(left[:, 2] ** 2)

    ours = jax.value_and_grad(lambda s: asked(ieig.eigsh(two_parts(s), 3, like=like)))(
        0.7
    )
    dense = jax.value_and_grad(lambda s: asked(ieig.eigsh(matrix(s), 3)))(0.7)
    np.testing.assert_allclose(ours, dense, rtol=1e-9)


def test_batches_of_pencils():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(3, 6, 6))
    a, b = a + np.swapaxes(a, 1, 2), a @ np.swapaxes(a, 1, 2) + np.eye(6)

    def loss(a, b):
        s = ieig.eigsh(a, 2, "LA", mass=b)
        return s.eigenvalues[1] + s.eigenvectors[0, 0] ** 2

    one = jax.value_and_grad(loss, (0, 1))
    together = jax.jit(jax.vmap(one))(a, b)
    for i in range(3):
        alone = one(jnp.asarray(a[i]), jnp.asarray(b[i]))
        for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(x[i], y, rtol=1e-9, atol=1e-12)


def test_gradients_in_single_precision():
    taps = TAPS.astype("float32")

    def loss(taps):
        w = ieig.eigsh(ring(taps), 3, "LA", like=jnp.zeros(N, "float32")).eigenvalues
        return w[0] + jnp.sum(w[1:] ** 2)

    gradient = jax.grad(loss)(taps)
    values = 2 * np.cos(ANGLES) @ np.asarray(TAPS)
    best = np.argsort(-values, kind="stable")[:3]
    factor = np.array([1, *(2 * values[best[1:]])])
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, factor @ (2 * np.cos(ANGLES[best])), rtol=2e-5)
