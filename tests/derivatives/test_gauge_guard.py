"""Losses that depend on the arbitrary scale of vectors are told so, others are not."""

import re
import textwrap
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import random_matrix, relative, slow_but, with_spectrum


N = 4
A = random_matrix(1, N)
E = random_matrix(2, N)
X = random_matrix(3, N, np.complex128)[0]
BATCH = random_matrix(4, N, batch=(3,))


def warned(fn, *args):
    """How many warnings a call emits."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.block_until_ready(fn(*args))
        jax.effects_barrier()
    assert all(w.category is ieig.GaugeDependenceWarning for w in caught)
    return len(caught)


def of_phase(a, size=1.0, **kwargs):
    v = ieig.eig(a, **kwargs).eigenvectors
    return size * jnp.sum(v[0].real + v[1].imag)


def of_line(a, size=1.0):
    v = ieig.eig(a).eigenvectors
    return size * jnp.sum(jnp.abs(X.astype(v.dtype) @ v) ** 2)


MODES = {
    "grad": lambda f: (jax.grad(f), A),
    "vmap of grad": lambda f: (jax.vmap(jax.grad(f)), BATCH),
    "grad of vmap": lambda f: (jax.grad(lambda a: jnp.sum(jax.vmap(f)(a))), BATCH),
    "forward over reverse": lambda f: (jax.hessian(f), A),
    "reverse over reverse": lambda f: (
        jax.grad(lambda a: jnp.sum(jax.grad(f)(a) * E)),
        A,
    ),
    "reverse over forward": lambda f: (
        jax.grad(lambda a: jax.jvp(f, (a,), (E,))[1]),
        A,
    ),
}


@pytest.mark.parametrize(
    "mode", slow_but(["grad", "grad of vmap", "reverse over reverse"], MODES)
)
def test_a_gradient_warns_once_where_the_loss_depends_on_the_phase(mode):
    for loss, times in ((of_phase, 1), (of_line, 0)):
        fn, a = MODES[mode](loss)
        assert warned(fn, a) == times


@pytest.mark.parametrize("fn", [jax.grad(jax.jit(of_phase)), jax.jit(jax.grad(of_phase))])
def test_in_a_compiled_program_nothing_looks(fn):
    assert warned(fn, A) == 0
    assert "callback" not in jax.jit(fn).lower(A).as_text()


def test_the_warning_points_at_the_line_of_the_user():
    with pytest.warns(ieig.GaugeDependenceWarning) as caught:
        jax.grad(of_phase)(A)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dependence_is_relative_and_nothing_depends_on_nothing(dtype):
    gradient = jax.grad(of_phase)
    least = float(np.finfo(dtype).tiny)
    for size, times in ((1, 1), (1e-12, 1), (100 * least, 1), (0, 0), (np.nan, 0)):
        assert warned(gradient, A.astype(dtype), jnp.asarray(size, dtype)) == times
    one = jax.grad(lambda a, s: of_line(a, s) + 1e-2 * s * of_phase(a))
    assert warned(one, A.astype(dtype), jnp.asarray(1, dtype)) == 1


@pytest.mark.parametrize("dtype", slow_but([np.complex64], [np.complex64, np.float64]))
def test_losses_that_are_invariant_by_cancellation_pass(dtype):
    n, k = 12, 4

    def losses(a):
        s = ieig.eigs(a, k, "LM", left=True)
        v, u = s.eigenvectors, s.left_eigenvectors
        middle = jnp.roll(a, 3, axis=0).astype(v.dtype)
        projector = v[:, :2] @ u[:, :2].conj().T
        mixed = (v * jnp.arange(k).astype(v.dtype)) @ jnp.linalg.inv(v[:k])
        return [
            jnp.sum(jnp.abs(v) ** 4),
            jnp.sum(jnp.abs(jnp.sum(v[::2], axis=0))),
            jnp.sum(v.conj() * (middle @ v)).real,
            jnp.sum(u.conj() * (middle @ v)).real,
            jnp.sum(s.condition_numbers),
            jnp.abs(jnp.sum(u.conj() * v, axis=0))[0],
            jnp.sum(v.conj() * (a.astype(v.dtype) @ v)).real,
            jnp.abs(projector[0, 1]) + projector[1, 1].real,
            jnp.abs(mixed[0, 1]),
            jnp.sum((v[0] / v[1]).real),
            jnp.sum(jnp.abs(v) ** 2),
        ]

    a = random_matrix(5, n, dtype)
    of_real = lambda x: losses(jax.lax.complex(x, a.imag) if jnp.iscomplexobj(a) else x)
    assert warned(jax.jacrev(lambda x: jnp.stack(of_real(x))), a.real) == 0


def test_right_and_left_vectors_are_watched_together():
    a = random_matrix(6, 5, np.complex128)

    def loss(a, product):
        s = ieig.eigs(a, 2, left=True)
        v, u = s.eigenvectors, s.left_eigenvectors
        return (product(u) * v[0]).real.sum()

    assert warned(jax.grad(loss), a, jax.tree_util.Partial(lambda u: u[1].conj())) == 0
    assert warned(jax.grad(loss), a, jax.tree_util.Partial(lambda u: u[1])) == 1
    # Left vectors alone.
    f = lambda a: jnp.sum(ieig.eigs(a, 2, left=True).left_eigenvectors[0].imag)
    assert warned(jax.grad(f), a) == 1


@pytest.mark.slow
def test_pairs_found_elsewhere_and_matrix_free_ones_are_watched():
    w, v = np.linalg.eig(np.asarray(A))
    i = [np.argmax(w.imag)]

    def attached(a):
        return jnp.sum(ieig.attach(a, w[i], v[:, i]).eigenvectors.imag)

    assert warned(jax.grad(attached), A) == 1

    def free(rates):
        mv = lambda v: rates * v + 0.3 * jnp.roll(v, 1)
        return ieig.eigs(mv, 2, "LI", like=rates).eigenvectors.imag[0, 0]

    assert warned(jax.grad(free), jnp.linspace(0.0, 1.0, 20)) == 1


def test_no_warning_where_a_gauge_was_chosen_or_nothing_is_transposed():
    for gauge in (ieig.LargestReal(), ieig.UnitNorm(), lambda v: v / v[0]):
        assert warned(jax.grad(lambda a, g=gauge: of_phase(a, gauge=g)), A) == 0
    assert warned(of_phase, A) == 0
    assert warned(jax.jacfwd(of_phase), A) == 0
    of_values = jax.grad(lambda a: jnp.sum(jnp.abs(ieig.eig(a).eigenvalues)))
    assert warned(of_values, A) == 0


@pytest.mark.parametrize("derivative", slow_but([jax.grad], [jax.grad, jax.hessian]))
def test_the_watch_does_not_touch_the_numbers(derivative):
    plain = derivative(lambda a: of_phase(a, gauge=ieig.LargestReal()))
    assert relative(jax.jit(derivative(of_phase))(A), jax.jit(plain)(A)) < 1e-13


def norms(a, scale=1.0, **kwargs):
    return scale * jnp.sum(jnp.abs(ieig.eig(a, **kwargs).eigenvectors) ** 2)


def test_the_gradient_of_what_the_gauge_holds_is_zero():
    def pinned(a):
        v = ieig.eig(a).eigenvectors
        top = jnp.argmax(jnp.abs(v), axis=0)
        return jnp.sum(v[top, jnp.arange(N)].imag)

    # It depends on the phase, and the gauge holds what it depends on.
    assert warned(jax.grad(pinned), A) == 1
    assert jnp.linalg.norm(jax.jit(jax.grad(pinned))(A)) < 1e-13
    assert warned(jax.grad(norms), A) == 0


@pytest.mark.parametrize(
    "gauge",
    slow_but(
        [None, ieig.UnitNorm()],
        [None, ieig.UnitNorm(0), ieig.UnitNorm(), ieig.Lapack()],
    ),
)
def test_a_cotangent_along_the_vectors_gives_exactly_zero(gauge):
    # By a gap of 1e-10 rounding errors of the cotangents would become 1e-6.
    near = with_spectrum(3, [2.0, 2 + 1e-10, 1j, -1.0 + 1j])
    for scale in (1.0, 1e-200):
        gradient = jax.jit(jax.grad(lambda a, s=scale: norms(a, s, gauge=gauge)))(near)
        assert jnp.all(gradient == 0)
    _, pullback = jax.vjp(lambda a: ieig.eig(a, gauge=gauge).eigenvectors, near)
    along_phase = 1j * ieig.eig(near, gauge=gauge).eigenvectors.conj()
    free = isinstance(gauge, ieig.UnitNorm) and gauge.index is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ieig.GaugeDependenceWarning)
        assert bool(jnp.all(pullback(along_phase)[0] == 0)) == free


def test_a_zero_made_of_a_cotangent_has_the_derivative_it_had():
    """Σ d² |v|² is the gauge's alone at d = 1, and not beside: the mixed derivative."""
    weights = jnp.asarray([1.0, -2.0, 0.5, 3.0])

    def f(a, t):
        w, v = ieig.eig(a)
        v = v[:, jnp.argmax(w.real)]
        return jnp.sum((1 + t * weights) ** 2 * jnp.abs(v) ** 2)

    mixed = jax.jacrev(jax.grad(f), argnums=1)(A, 0.0)
    other = jax.jacfwd(jax.grad(f), argnums=1)(A, 0.0)
    want = jax.grad(lambda a: jax.jvp(lambda t: f(a, t), (0.0,), (1.0,))[1])(A)
    assert jnp.linalg.norm(want) > 0.1
    assert relative(mixed, want) < 1e-12 and relative(other, want) < 1e-12


def test_a_loss_in_an_implicitly_defined_function_is_watched_or_left_alone():
    """Transposed programs inside other people's linear solves may have effects."""

    def root(a):
        def residual(x):
            v = ieig.eig(a + x * E).eigenvectors
            return 3 * x - 0.1 * v[0].imag @ jnp.arange(1.0, N + 1) - 0.2

        def solve(f, x):
            return jax.lax.fori_loop(0, 30, lambda _, x: x - f(x) / 3, x)

        def tangent(g, y):
            return y / g(jnp.ones_like(y))

        return jax.lax.custom_root(residual, jnp.zeros(()), solve, tangent)

    got = jax.grad(root)(A)
    h = 1e-6
    difference = (root(A + h * E) - root(A - h * E)) / (2 * h)
    assert np.isclose(jnp.sum(got * E), difference, rtol=1e-5)


class TestCheckGaugeInvariance:
    def test_figures_are_those_of_differences_pair_by_pair(self):
        a = random_matrix(7, 5, np.complex128)

        def on_dict(v):
            y = a @ jnp.concatenate([v["p"], v["q"].reshape(-1)])
            return {"p": y[:1], "q": y[1:].reshape(2, 2)}

        like = {"p": jnp.zeros(1, complex), "q": jnp.zeros((2, 2), complex)}

        def loss(s):
            v, u = s.eigenvectors, s.left_eigenvectors
            one = v["p"][0, 0] ** 2 * u["q"][1, 0, 0] * s.eigenvalues[0]
            return one.real + jnp.abs(u["p"][0, 1]) ** 2

        kwargs = {"k": 3, "like": like, "left": True, "eigensolver": ieig.Dense()}
        report = jax.jit(lambda: ieig.check_gauge_invariance(loss, on_dict, **kwargs))()
        s = ieig.eigs(on_dict, **kwargs)
        turns = 1.0, np.exp(1j)
        want = [self.by_differences(loss, s, c, i) for i in range(3) for c in turns]
        want = np.max(np.reshape(want, (3, 2, 2)), axis=1)
        np.testing.assert_allclose(report.phase, want[:, 0], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(report.norm, want[:, 1], rtol=1e-6, atol=1e-9)
        assert report.phase[0] > 0.1 and report.norm[1] > 0.1
        assert report.phase[1] < 1e-15 and report.phase[2] == report.norm[2] == 0

    def by_differences(self, loss, s, c, i):
        """(phase, norm) of pair i, at c times its vector, from values of the loss."""
        v, form = jax.flatten_util.ravel_pytree(
            jax.tree.map(lambda x: x[..., i], s.eigenvectors)
        )
        u, _ = jax.flatten_util.ravel_pytree(
            jax.tree.map(lambda x: x[..., i], s.left_eigenvectors)
        )
        v, u = c * np.asarray(v), np.asarray(u) / np.conj(c)

        @jax.jit
        def at(v, u):
            put = lambda x, y: x.at[..., i].set(y)
            right = jax.tree.map(put, s.eigenvectors, form(v))
            left = jax.tree.map(put, s.left_eigenvectors, form(u))
            return loss(
                ieig.Solution(
                    s.eigenvalues, right, left, s.residuals, None, s.stats, s.result
                )
            )

        h = 1e-6
        slope = lambda f: float(f(h) - f(-h)) / (2 * h)
        phase = slope(lambda t: at(v * np.exp(1j * t), u * np.exp(1j * t)))
        norm = slope(lambda t: at(v * np.exp(t), u * np.exp(-t)))
        eye = np.eye(v.size)
        of_v = [slope(lambda t, e=e: at(v + t * e, u)) for e in (*eye, *(1j * eye))]
        of_u = [slope(lambda t, e=e: at(v, u + t * e)) for e in (*eye, *(1j * eye))]
        size = np.linalg.norm(of_v) * np.linalg.norm(v)
        size = size + np.linalg.norm(of_u) * np.linalg.norm(u)
        return abs(phase) / (size or 1), abs(norm) / (size or 1)

    @pytest.mark.parametrize(
        "loss, phase, norm",
        [
            (
                lambda s: jnp.abs(s.eigenvectors[0, 1] / s.eigenvectors[1, 1]),
                False,
                False,
            ),
            (lambda s: jnp.abs(s.eigenvectors[0, 1]) ** 2, False, True),
            (lambda s: jnp.angle(s.eigenvectors[0, 1]), True, False),
            (lambda s: s.eigenvectors[0, 1].real, True, True),
            (lambda s: jnp.sum(s.condition_numbers), False, False),
            (lambda s: jnp.abs(s.left_eigenvectors[2, 1]), False, True),
            (
                lambda s: s.left_eigenvectors[2, 1] / s.left_eigenvectors[0, 1],
                False,
                False,
            ),
            (
                lambda s: s.left_eigenvectors[2, 1].conj() * s.eigenvectors[0, 1],
                False,
                False,
            ),
            (lambda s: s.eigenvalues[1], False, False),
        ],
    )
    @pytest.mark.parametrize("dtype", [np.float32, np.complex128])
    def test_it_names_the_pairs_and_what_they_depend_on(self, loss, phase, norm, dtype):
        a = random_matrix(8, N, dtype)
        report = ieig.check_gauge_invariance(lambda s: loss(s).real, a, k=2, left=True)
        assert bool(report.phase_invariant) != phase
        assert bool(report.norm_invariant) != norm
        assert bool(report) == bool(report.invariant) == (not phase and not norm)
        lines = str(report).splitlines()
        parts = ["the phase"] * phase + ["the norm"] * norm
        assert "depends" not in lines[1]
        if parts:
            assert lines[2].endswith(f"depends on {' and '.join(parts)}")
            assert len(lines) == 3
        else:
            assert "does not depend" in lines[-1]

    def test_a_real_vector_is_seen_to_have_a_phase(self):
        a = jnp.diag(jnp.arange(1.0, 4.0)) + 0.1
        for loss in (lambda v: v[0, 0].real, lambda v: jnp.sum(v.real**4)):
            report = ieig.check_gauge_invariance(
                lambda s, f=loss: f(s.eigenvectors), a, k=2
            )
            assert report.phase[0] > 0.01 and not report.phase_invariant

    def test_a_loss_without_a_derivative_is_not_invariant(self):
        loss = lambda s: jnp.sqrt(jnp.sum(0 * s.eigenvectors.real))
        report = ieig.check_gauge_invariance(loss, A, k=1)
        assert not report and "depends on" in str(report)

    @pytest.mark.parametrize(
        "loss, error, message",
        [
            (3, TypeError, "got 3"),
            (lambda s: s.eigenvectors[0], ValueError, r"\(2,\)"),
            (lambda s: s.eigenvectors[0, 0], TypeError, "complex128"),
        ],
    )
    def test_what_is_no_real_scalar_is_refused(self, loss, error, message):
        with pytest.raises(error, match=message):
            ieig.check_gauge_invariance(loss, A, k=2)


@pytest.mark.parametrize("public", [ieig.check_gauge_invariance, ieig.Overlap])
def test_the_docstrings_example_runs(public):
    code = re.search(r"```python\n(.*?)```", public.__doc__, re.S)[1]
    exec(textwrap.dedent(code), {})
