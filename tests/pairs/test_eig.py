"""`eig` and `eigvals`: forward, reverse and second order against two other formulas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import (
    align,
    central_difference,
    flagged_eig,
    largest_real,
    matched,
    random_matrix,
    real_dot,
    relative,
    slow_but,
    with_spectrum,
)


SIZES = [1, 2, 5, 30]
DTYPES = [np.float64, np.complex128]


def case(n, dtype, batch=(3,)):
    return random_matrix(n, n, dtype, batch), random_matrix(100 + n, n, dtype, batch)


def reference(a):
    w, v = flagged_eig(a)
    return w, largest_real(v)


def functional(pair):
    """A real function of values and vectors that sees their phases."""
    w, v = pair
    n = w.shape[-1]
    weight = jnp.linspace(0.5, 2.0, n * n).reshape(n, n).astype(v.dtype)
    return jnp.sum((weight * v * v).real + (weight * v).imag) + jnp.sum((w * w).real)


@pytest.mark.parametrize(
    "n, dtype",
    slow_but(
        [(1, np.float64), (2, np.float64), (5, np.complex128)],
        itertools.product(SIZES, DTYPES),
    ),
)
class TestEig:
    def test_values_are_those_of_numpy_in_the_default_gauge(self, n, dtype):
        a, _ = case(n, dtype)
        w, v = ieig.eig(a)
        w0, v0 = jnp.linalg.eig(a)
        assert w.dtype == v.dtype == np.complex128
        assert np.array_equal(w, w0)
        assert relative(v, largest_real(v0)) < 1e-14

    def test_jvp_agrees_with_aligned_differences_and_with_jax(self, n, dtype):
        a, e = case(n, dtype)
        jvp = jax.jit(lambda f, a, e: jax.jvp(f, (a,), (e,)), static_argnums=0)
        (_, v), (t_w, t_v) = jvp(ieig.eig, a, e)

        def aligned(a):
            # In the gauge vᴴ(0) v real, from which the tangent differs by a phase only.
            w, v = jnp.linalg.eig(a)
            return w, align(v, jax.lax.stop_gradient(v_0))

        v_0 = v
        d_w, d_v = central_difference(jax.jit(aligned), a, e)
        turned = jnp.sum(v.conj() * t_v, axis=-2, keepdims=True)
        assert relative(t_w, d_w) < 1e-6
        assert relative(t_v - v * turned, d_v) < 1e-6
        _, (r_w, r_v) = jvp(reference, a, e)
        assert relative(t_w, r_w) < 1e-10
        assert relative(t_v, r_v) < 1e-10

    def test_vjp_is_the_transpose_of_the_jvp(self, n, dtype):
        a, e = case(n, dtype)
        _, tangent = jax.jit(lambda a, e: jax.jvp(ieig.eig, (a,), (e,)))(a, e)
        cotangent = jax.tree_util.tree_map(
            lambda t: (
                random_matrix(7, t.shape[-1], np.complex128, (3,))[
                    ..., : t.shape[-2], :
                ].reshape(t.shape)
                if t.ndim == 3
                else random_matrix(8, t.shape[-1], np.complex128, (3,))[:, 0]
            ),
            tangent,
        )
        (back,) = jax.jit(lambda a, c: jax.vjp(ieig.eig, a)[1](c))(a, cotangent)
        assert back.dtype == a.dtype
        left, right = real_dot(tangent, cotangent), real_dot(e, back)
        scale = np.linalg.norm(back) * np.linalg.norm(e)
        assert abs(left - right) < 1e-12 * max(scale, abs(left))

    def test_hessian_vector_product_agrees_with_differences_and_with_jax(self, n, dtype):
        a, e = case(n, dtype)
        gradient = jax.jit(jax.grad(lambda a: functional(ieig.eig(a))))
        hvp = jax.jit(lambda a, e: jax.jvp(gradient, (a,), (e,))[1])(a, e)
        difference = central_difference(gradient, a, e, 1e-6)
        assert relative(hvp, difference) < 1e-5
        second = jax.grad(lambda a: functional(reference(a)))
        exact = jax.jit(lambda a, e: jax.jvp(second, (a,), (e,))[1])(a, e)
        assert relative(hvp, exact) < 1e-8


def test_hessian_of_eigenvalues_agrees_with_differences_of_gradients():
    a, e = random_matrix(3, 4), random_matrix(4, 4)
    f = lambda a: jnp.sum(ieig.eigvals(a).real ** 2)
    hessian = jax.jit(jax.hessian(f))(a)
    assert hessian.shape == (4, 4, 4, 4)
    assert relative(hessian, hessian.transpose(2, 3, 0, 1)) < 1e-10
    product = jnp.tensordot(hessian, e, 2)
    assert relative(product, central_difference(jax.jit(jax.grad(f)), a, e)) < 1e-6


def test_eigenvalue_derivative_of_a_trace_is_exact():
    a, e = random_matrix(5, 12), random_matrix(6, 12)
    cubes = jax.jit(jax.grad(lambda a: jnp.sum(ieig.eigvals(a) ** 3).real))(a)
    assert relative(cubes, 3 * (a @ a).T) < 1e-12
    third = jax.jit(
        lambda a: jax.jvp(
            lambda a: jax.jvp(
                lambda a: jax.jvp(
                    lambda a: jnp.sum(ieig.eigvals(a) ** 3).real, (a,), (e,)
                )[1],
                (a,),
                (e,),
            )[1],
            (a,),
            (e,),
        )[1]
    )(a)
    assert np.isclose(third, 6 * jnp.trace(e @ e @ e), rtol=1e-8)


def test_forward_over_forward_and_reverse_over_reverse_agree():
    a, e = random_matrix(9, 5), random_matrix(10, 5)
    f = lambda a: functional(ieig.eig(a))
    along = lambda g: lambda a: jax.jvp(g, (a,), (e,))[1]
    forward = jax.jit(along(along(f)))(a)
    reverse = jax.jit(jax.grad(lambda a: jnp.vdot(jax.grad(f)(a), e)))(a)
    assert np.isclose(forward, jnp.vdot(reverse, e), rtol=1e-9)


def test_a_tie_elsewhere_does_not_touch_a_simple_pair():
    a = with_spectrum(1, [1.0, 1.0, 3.0, 5.0])
    e = random_matrix(2, 4)

    def f(a):
        w, v = ieig.eig(a)
        i = jnp.argmax(w.real)
        return jnp.sum(jnp.abs(v[:, i]) ** 2 * jnp.arange(4.0)) + w[i].real ** 2

    gradient = jax.jit(jax.grad(f))(a)
    assert np.isclose(jnp.vdot(gradient, e), central_difference(f, a, e, 1e-5), rtol=1e-6)
    second = jax.jit(lambda a: jax.jvp(jax.grad(f), (a,), (e,))[1])(a)
    assert relative(second, central_difference(jax.jit(jax.grad(f)), a, e, 1e-5)) < 1e-4


def test_a_tie_gives_nan_in_the_tangents_of_its_own_vectors_only():
    a, e = with_spectrum(1, [1.0, 1.0, 3.0, 5.0]), random_matrix(2, 4)
    (w, _), (t_w, t_v) = jax.jvp(ieig.eig, (a,), (e,))
    tie = np.isclose(w.real, 1.0)
    assert np.all(np.isfinite(t_w))
    assert np.all(np.isnan(t_v[:, tie])) and np.all(np.isfinite(t_v[:, ~tie]))
    _, (_, t_v) = jax.jvp(lambda a: ieig.eig(a, ties="drop"), (a,), (e,))
    assert np.all(np.isfinite(t_v))


def test_jacobians_in_reverse_mode_keep_what_a_tie_elsewhere_does_not_touch():
    def ascending(a, **kwargs):
        w, v = ieig.eig(a, **kwargs)
        order = jnp.argsort(w.real)
        return w[order], v[:, order]

    def parts(a, **kwargs):
        return [x.real for x in ascending(a, **kwargs)]

    a = jnp.diag(jnp.asarray([1.0, 1.0, 3.0, 5.0]))
    by_w, by_v = jax.jacrev(parts)(a)
    assert np.all(np.isnan(by_w[:2])) and np.all(np.isfinite(by_w[2:]))
    assert np.all(np.isfinite(by_v[:, 2:]))
    # A column at which a loss is stationary counts as not used …
    share = lambda a, i: jnp.abs(ascending(a)[1][0, i]) ** 2
    assert np.all(jax.grad(share)(a, 3) == 0)
    # … unless no vector has a derivative.
    for a in (jnp.eye(3), jnp.zeros((3, 3))):
        assert np.all(np.isnan(jax.grad(share)(a, 1)))
        assert np.all(np.isnan(jax.jvp(lambda a: share(a, 1), (a,), (a,))[1]))
        traces = jax.grad(lambda a: jnp.sum(ieig.eig(a).eigenvalues).real)(a)
        assert relative(traces, jnp.eye(3)) < 1e-15
        assert np.all(np.isfinite(jax.jacrev(lambda a: parts(a, ties="drop"))(a)[0]))


def test_a_masked_member_with_a_tie_keeps_a_zero_gradient():
    a = jnp.stack([random_matrix(3, 3), jnp.diag(jnp.asarray([1.0, 1.0, 3.0]))])

    def f(a):
        share = jnp.abs(ieig.eig(a).eigenvectors[:, 0, 0]) ** 2
        return jnp.sum(jnp.where(jnp.asarray([True, False]), share, 0))

    gradient = jax.jit(jax.grad(f))(a)
    assert np.all(np.isfinite(gradient[0])) and np.any(gradient[0] != 0)
    assert np.all(gradient[1] == 0)


def test_a_repeated_eigenvalue_has_a_first_derivative_and_no_second():
    a, e = with_spectrum(1, [1.0, 1.0, 3.0, 5.0]), random_matrix(2, 4)
    squares = jax.jit(jax.grad(lambda a: jnp.sum(ieig.eigvals(a) ** 2).real))(a)
    assert relative(squares, 2 * a.T) < 1e-10
    tie = np.isclose(ieig.eigvals(a).real, 1.0)
    along = lambda f: lambda a: jax.jvp(f, (a,), (e,))[1]
    second = jax.jit(along(along(ieig.eigvals)))(a)
    assert np.array_equal(np.isnan(second), tie)
    step = 1e-4
    simple = [jnp.sort(jnp.linalg.eigvals(a + s * e).real)[2:] for s in (-step, 0, step)]
    difference = (simple[0] - 2 * simple[1] + simple[2]) / step**2
    assert relative(jnp.sort(second[~tie].real), jnp.sort(difference)) < 1e-4


def test_a_tie_in_one_batch_member_does_not_harm_the_others():
    a = jnp.stack([with_spectrum(1, [1.0, 1.0, 3.0, 5.0]), random_matrix(3, 4)])

    def f(a):
        w, v = ieig.eig(a)
        near = jnp.argmin(jnp.abs(w - 1.0), axis=-1)[..., None, None]
        return jnp.sum(jnp.abs(jnp.take_along_axis(v, near, axis=-1)) ** 4)

    gradient = jax.jit(jax.grad(f))(a)
    alone = jax.jit(jax.grad(f))(a[1])
    assert np.all(np.isnan(gradient[0])) and relative(gradient[1], alone) < 1e-13


def test_jacobians_of_both_modes_agree_under_vmap():
    a = random_matrix(11, 3, batch=(2,))
    f = lambda a: jnp.abs(ieig.eig(a).eigenvectors) ** 2
    forward = jax.jit(jax.vmap(jax.jacfwd(f)))(a)
    reverse = jax.jit(jax.vmap(jax.jacrev(f)))(a)
    assert relative(forward, reverse) < 1e-12


def test_the_derivative_of_a_complex_matrix_is_complex_linear():
    a, e = random_matrix(12, 6, np.complex128), random_matrix(13, 6, np.complex128)
    along = jax.jit(lambda e: jax.jvp(ieig.eigvals, (a,), (e,))[1])
    assert relative(along(1j * e), 1j * along(e)) < 1e-13
    functional = ieig.Functional(jnp.ones(6, np.complex128))
    vectors = jax.jit(
        lambda e: jax.jvp(lambda a: ieig.eig(a, gauge=functional), (a,), (e,))[1]
    )
    assert relative(vectors(1j * e), jax.tree.map(lambda t: 1j * t, vectors(e))) < 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision_stays_single_and_is_right_to_its_rounding(dtype):
    a, e = case(6, dtype)
    (w, v), (t_w, t_v) = jax.jit(lambda a, e: jax.jvp(ieig.eig, (a,), (e,)))(a, e)
    assert {x.dtype for x in (w, v, t_w, t_v)} == {np.dtype(np.complex64)}
    wide = {np.float32: np.float64, np.complex64: np.complex128}[dtype]
    exact = jax.jvp(ieig.eig, (a.astype(wide),), (e.astype(wide),))
    for member in range(3):
        order = matched(w[member], exact[0][0][member])
        for t, x in ((t_w, exact[1][0]), (t_v, exact[1][1])):
            assert relative(t[member][..., order], x[member]) < 1e-3


def test_integers_are_promoted():
    w, _ = ieig.eig(np.array([[2, 1], [1, 3]]))
    assert w.dtype == np.complex128
    assert ieig.eigvals([[2, 1], [1, 3]]).dtype == np.complex128


def test_real_symmetric_input_is_treated_as_general():
    a = random_matrix(14, 5)
    a, e = a + a.T, random_matrix(15, 5)
    f = lambda a: functional(ieig.eig(a))
    assert np.isclose(
        jnp.vdot(jax.jit(jax.grad(f))(a), e), central_difference(f, a, e), rtol=1e-6
    )
