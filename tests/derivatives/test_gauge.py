"""The scale of a vector: each gauge is what it says, and derivatives follow it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import align, central_difference, random_matrix, relative, slow_but


N = 6
C = np.random.default_rng(0).normal(size=(2, N)) @ np.diag(np.arange(1.0, N + 1))
C = jnp.asarray(C[0] + 1j * C[1])


def first_entry_two(v):
    return 2 * v / v[0]


def argmax(v):
    return np.argmax(np.abs(v))


# What the gauge fixes, and the multiple of v that a tangent y (with vᴴy = 0) of the unit
# vector is short of: both written from the definition, for one vector.
GAUGES = {
    "LargestReal": (
        ieig.LargestReal(),
        lambda v: (np.linalg.norm(v), v[argmax(v)], v[argmax(v)].real > 0),
        (1, lambda v: abs(v[argmax(v)]), True),
        lambda v, y: -1j * y[argmax(v)].imag / v[argmax(v)].real,
    ),
    "default": (
        None,
        lambda v: (np.linalg.norm(v), v[argmax(v)], v[argmax(v)].real > 0),
        (1, lambda v: abs(v[argmax(v)]), True),
        lambda v, y: -1j * y[argmax(v)].imag / v[argmax(v)].real,
    ),
    "Lapack": (
        ieig.Lapack(),
        lambda v: (np.linalg.norm(v), v[argmax(v)].imag),
        (1, 0),
        lambda v, y: -1j * y[argmax(v)].imag / v[argmax(v)].real,
    ),
    "UnitNorm(2)": (
        ieig.UnitNorm(2),
        lambda v: (np.linalg.norm(v), v[2], v[2].real > 0),
        (1, lambda v: abs(v[2]), True),
        lambda v, y: -1j * y[2].imag / v[2].real,
    ),
    "UnitNorm(-1)": (
        ieig.UnitNorm(index=-1),
        lambda v: (np.linalg.norm(v), v[-1], v[-1].real > 0),
        (1, lambda v: abs(v[-1]), True),
        lambda v, y: -1j * y[-1].imag / v[-1].real,
    ),
    "UnitNorm()": (
        ieig.UnitNorm(),
        lambda v: (np.linalg.norm(v),),
        (1,),
        lambda v, y: 0,
    ),
    "Functional": (
        ieig.Functional(C),
        lambda v: (np.vdot(C, v),),
        (1,),
        lambda v, y: -np.vdot(C, y) / np.vdot(C, v),
    ),
    "Bilinear": (
        ieig.Bilinear(),
        lambda v: (v @ v, v[argmax(v)].real > 0),
        (1, True),
        lambda v, y: -(v @ y) / (v @ v),
    ),
    "a callable": (
        first_entry_two,
        lambda v: (v[0],),
        (2,),
        lambda v, y: -y[0] / v[0],
    ),
}
FREE = ("UnitNorm()", "Lapack")  # a phase, or a sign, is whatever the solver gave


def unit_tangent(a, e, w, v):
    """dλ and dv of a pair with vᴴdv = 0, from the bordered matrix of one pair."""
    n = w.size
    bordered = np.zeros((n + 1, n + 1), complex)
    values, vectors = [], []
    for i in range(n):
        x = v[:, i]
        bordered[:n, :n] = a - w[i] * np.eye(n)
        bordered[:n, n], bordered[n, :n] = -x, x.conj()
        y = np.linalg.solve(bordered, np.append(-e @ x, 0))
        values.append(y[n])
        vectors.append(y[:n])
    return np.array(values), np.array(vectors).T


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("gauge", GAUGES)
def test_the_value_is_what_the_gauge_defines_and_the_tangent_keeps_it(gauge, dtype):
    kwargs, definition, want, multiple = GAUGES[gauge]
    kwargs = {} if gauge == "default" else {"gauge": kwargs}
    a, e = random_matrix(1, N, dtype), random_matrix(2, N, dtype)
    fn = lambda a: ieig.eig(a, **kwargs)
    jvp = jax.jit(lambda a, e: jax.jvp(fn, (a,), (e,)))
    (w, v), (t_w, t_v) = jvp(a, e)
    w, v, t_w, t_v = (np.asarray(x) for x in (w, v, t_w, t_v))
    assert relative(np.asarray(a) @ v, v * w) < 1e-13
    for x in v.T:
        for got, wanted in zip(definition(x), want, strict=True):
            assert np.isclose(got, wanted(x) if callable(wanted) else wanted, atol=1e-12)
    values, vectors = unit_tangent(np.asarray(a), np.asarray(e), w, v)
    vectors = vectors + v * [multiple(x, y) for x, y in zip(v.T, vectors.T, strict=True)]
    assert relative(t_w, values) < 1e-11
    assert relative(t_v, vectors) < 1e-11
    along = lambda a: jvp(a, e)[0][1]
    if gauge in FREE:
        # Differences see the free phase: align it, and compare what it cannot change.
        inner = jnp.sum(v.conj() * t_v, axis=0)
        t_v = t_v - v * np.asarray(inner)
        along = lambda a: align(jvp(a, e)[0][1], v)
    assert relative(t_v, central_difference(along, a, e)) < 1e-7


def test_lapack_keeps_the_vectors_of_geev():
    for dtype in (np.float64, np.complex128):
        a = random_matrix(1, N, dtype)
        v = np.asarray(jnp.linalg.eig(a)[1])
        got = np.asarray(ieig.eig(a, gauge=ieig.Lapack()).eigenvectors)
        assert relative(got, v) < 1e-13


@pytest.mark.parametrize(
    "gauge, matrix_free",
    [*((g, False) for g in GAUGES if g != "LargestReal"), ("Bilinear", True)],
)
def test_selected_pairs_are_in_the_gauge_with_left_vectors_dual_to_them(
    gauge, matrix_free
):
    kwargs, definition, want, _ = GAUGES[gauge]
    a = random_matrix(3, N) + jnp.diag(2 * jnp.arange(float(N)))
    operator, like = (lambda v: a @ v, a[0]) if matrix_free else (a, None)
    solution = ieig.eigs(operator, 2, "LR", like=like, gauge=kwargs, left=True)
    w, v, u = (
        np.asarray(x)
        for x in (solution.eigenvalues, solution.eigenvectors, solution.left_eigenvectors)
    )
    tolerance = 1e-9 if matrix_free else 1e-12
    assert relative(np.asarray(a) @ v, v * w) < tolerance
    assert relative(u.conj().T @ np.asarray(a), w[:, None] * u.conj().T) < tolerance
    assert np.allclose(np.sum(u.conj() * v, axis=0), 1, atol=1e-12)
    kappa = np.linalg.norm(u, axis=0) * np.linalg.norm(v, axis=0)
    assert np.allclose(solution.condition_numbers, kappa)
    for x in v.T:
        for got, wanted in zip(definition(x), want, strict=True):
            assert np.isclose(got, wanted(x) if callable(wanted) else wanted, atol=1e-12)


@pytest.mark.parametrize("gauge", slow_but(["UnitNorm()"], ["UnitNorm()", "Bilinear"]))
def test_tangents_of_left_vectors_follow_the_gauge_of_the_right_ones(gauge):
    a, e = random_matrix(3, N), random_matrix(4, N)
    kwargs = {"gauge": GAUGES[gauge][0], "left": True}

    def fn(a):
        solution = ieig.eigs(a, 3, "LM", **kwargs)
        return solution.eigenvectors, solution.left_eigenvectors

    (v, u), (t_v, t_u) = jax.jit(lambda a, e: jax.jvp(fn, (a,), (e,)))(a, e)
    drift = jnp.sum(t_u.conj() * v + u.conj() * t_v, axis=0)
    assert np.allclose(drift, 0, atol=1e-11)
    values = jax.jit(fn)
    if gauge == "UnitNorm()":

        def values(a, unaligned=jax.jit(fn)):
            x, y = unaligned(a)
            phase = jnp.sum(v.conj() * x, axis=0)
            phase = (phase / jnp.abs(phase).astype(phase.dtype)).conj()
            return x * phase, y * phase

    assert relative((t_v, t_u), central_difference(values, a, e)) < 1e-7


def phaseless(v):
    density = jnp.abs(v) ** 2
    share = density / jnp.sum(density, axis=0)
    weight = jnp.arange(1.0, N + 1)
    return jnp.sum(weight @ share**2) + jnp.sum(jnp.abs(v[0] / v[1]))


def test_a_loss_without_scale_has_the_same_gradient_in_every_gauge():
    a, e = random_matrix(5, N), random_matrix(6, N)

    def gradient_of(name):
        gauge = GAUGES[name][0]
        f = lambda a: phaseless(ieig.eig(a, gauge=gauge).eigenvectors)
        return jax.jit(jax.value_and_grad(f))

    default = gradient_of("default")
    value, gradient = default(a)
    difference = central_difference(lambda a: default(a)[0], a, e)
    assert np.isclose(jnp.vdot(gradient, e), difference, rtol=1e-6)
    for name in ("UnitNorm(2)", "UnitNorm()", "Functional", "Bilinear"):
        same, g = gradient_of(name)(a)
        assert np.isclose(same, value, rtol=1e-11), name
        assert relative(g, gradient) < 1e-10, name


@pytest.mark.slow
def test_a_loss_of_both_vectors_without_scale_has_one_gradient():
    a, e = random_matrix(5, N), random_matrix(6, N)

    def gradient_of(gauge):
        def f(a):
            solution = ieig.eigs(a, 3, "LM", gauge=gauge, left=True)
            v, u = solution.eigenvectors, solution.left_eigenvectors
            residue = jnp.sum(u.conj()[0] * v[1]) ** 2
            return phaseless(v) + residue.real + jnp.sum(solution.condition_numbers)

        return jax.jit(jax.value_and_grad(f))

    default = gradient_of(None)
    value, gradient = default(a)
    difference = central_difference(lambda a: default(a)[0], a, e)
    assert np.isclose(jnp.vdot(gradient, e), difference, rtol=1e-6)
    same, g = gradient_of(ieig.Functional(C))(a)
    assert np.isclose(same, value, rtol=1e-11)
    assert relative(g, gradient) < 1e-10


@pytest.mark.parametrize("public", slow_but(["eigs"], ["eig", "eigs"]))
def test_derivatives_reach_the_vector_of_a_functional(public):
    a, da = random_matrix(7, N), random_matrix(8, N)
    dc = random_matrix(9, N, np.complex128)[0]

    def fn(a, c):
        gauge = ieig.Functional(c)
        if public == "eig":
            return ieig.eig(a, gauge=gauge).eigenvectors
        return ieig.eigs(a, 3, "LM", gauge=gauge).eigenvectors

    v, t_v = jax.jit(lambda *t: jax.jvp(fn, (a, C), t))(da, dc)
    _, fixed = jax.jit(lambda *t: jax.jvp(fn, (a, C), t))(da, 0 * dc)
    # cᴴv = 1 for all c: dcᴴv + cᴴdv = 0, and dv is along v.
    want = -v * (dc.conj() @ v)
    assert relative(t_v - fixed, want) < 1e-12
    h = 1e-6
    difference = (fn(a + h * da, C + h * dc) - fn(a - h * da, C - h * dc)) / (2 * h)
    assert relative(t_v, difference) < 1e-7
    gradient = jax.jit(jax.grad(lambda c: jnp.sum(jnp.abs(fn(a, c)) ** 2)))(C)
    directional = 2 * jnp.sum((v.conj() * want).real)
    assert np.isclose(jnp.sum(gradient * dc).real, directional, rtol=1e-10)


def test_a_real_functional_of_a_real_matrix_has_a_real_gradient():
    a = random_matrix(10, N)
    f = lambda c: jnp.sum(ieig.eig(a, gauge=ieig.Functional(c)).eigenvectors.real ** 2)
    c = jnp.arange(1.0, N + 1)
    gradient, e = jax.jit(jax.grad(f))(c), random_matrix(11, N)[0]
    assert gradient.dtype == np.float64
    assert np.isclose(gradient @ e, central_difference(f, c, e), rtol=1e-6)


def test_a_callable_gauge_sees_the_structure_of_the_domain():
    a = random_matrix(12, N) + 3 * jnp.eye(N)

    def operator(v):
        y = a @ jnp.concatenate([v["left"], v["right"]])
        return {"left": y[:2], "right": y[2:]}

    def gauge(v):
        return jax.tree.map(lambda x: x / jnp.sum(v["right"]), v)

    like = {"left": jnp.zeros(2), "right": jnp.zeros(N - 2)}

    solution = ieig.eigs(operator, 2, "LM", like=like, gauge=gauge, left=True)
    v, u = solution.eigenvectors, solution.left_eigenvectors
    assert np.allclose(jnp.sum(v["right"], axis=0), 1)
    inner = [jnp.sum(u[key].conj() * v[key], axis=0) for key in v]
    assert np.allclose(sum(inner), 1)


def test_second_derivatives_follow_the_gauge():
    a, e = random_matrix(13, 4), random_matrix(14, 4)
    for gauge in (ieig.Bilinear(), ieig.Functional(C[:4])):
        f = lambda a, g=gauge: jnp.sum(ieig.eig(a, gauge=g).eigenvectors.real ** 3)
        gradient = jax.jit(jax.grad(f))
        hvp = jax.jit(lambda a, e, f=f: jax.jvp(jax.grad(f), (a,), (e,))[1])(a, e)
        assert relative(hvp, central_difference(gradient, a, e, 1e-5)) < 1e-6


@pytest.mark.parametrize("gauge", ["LargestReal", "UnitNorm(2)", "UnitNorm()"])
def test_very_large_and_very_small_vectors_scale_without_overflow(gauge):
    gauge = GAUGES[gauge][0]
    v = jnp.asarray([1.0 + 2.0j, -3.0, 0.5j, 0.0])
    want = gauge(v)
    t = jnp.asarray([1j, 1.0, -1.0, 1j])
    _, plain = jax.jvp(gauge, (v,), (t,))
    for scale in (1e-200, 1e200):
        got, tangent = jax.jvp(gauge, (scale * v,), (scale * t,))
        assert relative(got, want) < 1e-14
        assert relative(tangent, plain) < 1e-13


def circulant(c):
    return jnp.stack([jnp.roll(c, i) for i in range(c.size)], axis=1)


@pytest.mark.parametrize("gauge", ["default", "Lapack"])
def test_where_all_entries_tie_a_loss_without_phase_has_its_gradient(gauge):
    # Every Fourier mode has entries of one modulus.
    a, e = circulant(jnp.arange(1.0, N + 1) ** 2), random_matrix(15, N)
    v = np.asarray(ieig.eig(a).eigenvectors)
    assert np.allclose(np.abs(v), N**-0.5, atol=1e-14)

    def f(a):
        v = ieig.eig(a, gauge=GAUGES[gauge][0]).eigenvectors
        return phaseless(v) + jnp.sum(jnp.abs(C @ v) ** 3)

    gradient, value = jax.jit(jax.grad(f))(a), jax.jit(f)
    difference = central_difference(value, a, e)
    assert np.isclose(jnp.vdot(gradient, e), difference, rtol=1e-6)
    # Somewhere near by another entry is the largest one.
    tops = set()
    for s in (-1, 1):
        w, v = ieig.eig(a + 1e-9 * s * e)
        tops.add(argmax(v[:, np.argmax(w.imag)]))
    assert len(tops) == 2


def test_where_entries_tie_the_first_is_made_real_and_vectors_are_smooth():
    a, e = circulant(jnp.arange(1.0, N + 1) ** 2), random_matrix(15, N)

    def vectors(a):
        return ieig.eig(a).eigenvectors

    for s in (-1e-9, 0.0, 1e-9):
        first = vectors(a + s * e)[0]
        assert jnp.all(first.real > 0.4) and jnp.all(jnp.abs(first.imag) < 1e-15)
    _, tangent = jax.jvp(vectors, (a,), (e,))
    difference = central_difference(vectors, a, e, step=1e-9)
    assert relative(difference, tangent) < 1e-5


def test_lapack_s_own_vectors_stay_what_they_are():
    a = random_matrix(16, N)
    plain = jnp.linalg.eig(a)[1]
    assert relative(ieig.eig(a, gauge=ieig.Lapack()).eigenvectors, plain) < 1e-12


def along(previous):
    """The phase in which the overlap with `previous` is real; unit norm."""

    def gauge(v):
        overlap = jnp.vdot(previous, v)
        phase = overlap / jnp.abs(overlap).astype(v.dtype)
        return v * phase.conj() / jnp.linalg.norm(v).astype(v.dtype)

    return gauge


FOLLOWING = {
    "a callable": along,
    "Functional": lambda v: ieig.Functional(v / jnp.vdot(v, v)),
    "default": lambda v: None,
}


@pytest.mark.parametrize("gauge", FOLLOWING)
def test_a_mode_is_followed_smoothly_through_a_crossing(gauge):
    # The mode turns by about 60°, and at t = 1/2 its eigenvalue crosses another one.
    frame, turn = random_matrix(16, N, np.complex128), random_matrix(17, N, np.complex128)
    others = jnp.asarray([0.0, 3.0, -3.0 + 1j, -2.0, 4j, -4j])

    def matrix(t):
        t = jnp.asarray(t, complex)
        s = 3 * jnp.eye(N, dtype=complex) + 0.4 * frame
        s = s.at[:, 0].set(frame[0] + 2 * t * turn[0])
        d = others.at[0].set(2 + 2 * t).at[1].set(4 - 2 * t)
        return s @ jnp.diag(d) @ jnp.linalg.inv(s)

    def pair(t, previous):
        kwargs = {"gauge": FOLLOWING[gauge](previous)}
        s = ieig.eigs(matrix(t), 1, ieig.Overlap(previous), **kwargs)
        return s.eigenvalues[0], s.eigenvectors[:, 0]

    @jax.jit
    def step(t, v):
        one = jnp.ones_like(t)
        h = 1e-6
        plus, minus = (pair(t + s, v) for s in (h, -h))
        difference = jax.tree.map(lambda p, m: (p - m) / (2 * h), plus, minus)
        return jax.jvp(lambda t: pair(t, v), (t,), (one,)), difference

    v = frame[0] / jnp.linalg.norm(frame[0]).astype(complex)
    distances, errors = [], []
    for t in np.linspace(0.0, 1.0, 24):  # not through the tie itself
        ((w, new), tangents), difference = step(jnp.asarray(t), v)
        assert abs(complex(w) - (2 + 2 * t)) < 1e-11
        distances.append(jnp.linalg.norm(new - v) / jnp.linalg.norm(v))
        errors.append(relative(tangents, difference))
        v = new
    assert max(errors) < 1e-7
    if gauge == "default":
        # What it is all for: the largest entry becomes another one.
        assert max(distances[1:]) > 0.5
    else:
        assert max(distances) < 0.15
