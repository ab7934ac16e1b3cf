"""Pairs from elsewhere get the derivatives of one's own, or are refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
from jax.experimental import sparse

import implicit_eig as ieig

from ..oracles import (
    align,
    central_difference,
    product_that_sees_dtypes,
    random_matrix,
    real_dot,
    relative,
    slow_but,
    with_spectrum,
)


N, K = 30, 4
RUNTIME = (RuntimeError, jax.errors.JaxRuntimeError)


def ordered(w, *vectors):
    order = np.lexsort((-w.imag, -np.round(np.abs(w), 9)))[:K]
    return w[order], *(v[:, order] for v in vectors)


def from_numpy(a):
    return ordered(*np.linalg.eig(np.asarray(a)))


def from_arpack(a):
    a = scipy.sparse.csr_array(np.asarray(a))
    start = np.ones(N, a.dtype)
    return ordered(*scipy.sparse.linalg.eigs(a, K + 1, which="LM", v0=start))


def from_lapack(a, b=None):
    """Right and left pairs; of the pencil A − λB with a mass matrix."""
    w, u, v = scipy.linalg.eig(
        np.asarray(a), b if b is None else np.asarray(b), left=True
    )
    return ordered(w, v, u)


def loss(solution):
    """A real function of values and vectors that sees their phases."""
    w, v = solution.eigenvalues, solution.eigenvectors
    weight = jnp.linspace(0.5, 2.0, v.size).reshape(v.shape).astype(v.dtype)
    return jnp.sum((weight * v * v).real + (weight * v).imag) + jnp.sum((w * w).real)


def real_matrix(n=N):
    """Four real eigenvalues stand apart from the others."""
    rest = np.linspace(-1, 1, n - 4)
    return with_spectrum(0, np.concatenate([[6.0, -5.0, 4.0, 3.0], rest]))


def bulk(dtype, seed=0):
    """A real pair and two real values, or four complex ones, apart from the others."""
    a = random_matrix(seed, N, dtype) / (8 * N) ** 0.5
    head = jnp.asarray([[4.0, 2, 0, 0], [-2, 4, 0, 0], [0, 0, 3.5, 0], [0, 0, 0, -3.0]])
    return a.at[:4, :4].add(head.astype(dtype))


def test_the_pairs_of_these_tests_are_what_they_claim():
    for a in (bulk(np.float64), bulk(np.complex128), real_matrix()):
        w, v = from_numpy(a)
        x, _ = from_arpack(a)
        assert relative(w, x) < 1e-12
        assert np.abs(np.asarray(a) @ v - v * w).max() < 1e-12
    assert np.sum(from_numpy(bulk(np.float64))[0].imag != 0) == 2


@pytest.mark.parametrize(
    "pairs, dtype",
    slow_but(
        [(from_numpy, np.complex128)],
        [(from_arpack, np.float64), (from_numpy, np.complex128)],
    ),
)
def test_gradients_are_those_of_eigs(pairs, dtype):
    a = bulk(dtype)
    w, v = pairs(a)
    run = lambda f: jax.jit(
        jax.grad(lambda a: (lambda s: (loss(s), s))(f(a)), has_aux=True)
    )
    gradient, s = run(lambda a: ieig.attach(a, w, v))(a)
    want, own = run(lambda a: ieig.eigs(a, K))(a)
    assert relative(s.eigenvalues, own.eigenvalues) < 1e-12
    assert relative(s.eigenvectors, own.eigenvectors) < 1e-11
    assert np.all(s.residuals < 1e-13) and s.left_eigenvectors is None
    assert s.result == ieig.RESULTS.successful and s.stats["num_converged"] == K
    assert gradient.dtype == dtype
    assert relative(gradient, want) < 1e-11


@pytest.fixture(scope="module")
def exact():
    a = bulk(np.float64)
    return a, jax.jit(jax.grad(lambda a: loss(ieig.eigs(a, K))))(a)


@pytest.fixture(scope="module")
def real_exact():
    a = real_matrix()
    return a, jax.jit(jax.grad(lambda a: loss(ieig.eigs(a, K))))(a)


def sparse_of(a):
    indices = np.indices(a.shape).reshape(2, -1).T
    return sparse.BCOO((a.reshape(-1), jnp.asarray(indices)), shape=a.shape)


@pytest.mark.parametrize(
    "operator, solver",
    [
        (
            lambda a: lambda v: a @ v,
            lx.GMRES(1e-13, 1e-13, restart=60, stagnation_iters=60),
        ),
        (sparse_of, None),
    ],
    ids=["callable, GMRES", "BCOO, default"],
)
def test_gradients_reach_every_operator_by_every_solver(operator, solver, exact):
    a, want = exact
    w, v = from_arpack(a)
    adjoint = ieig.ImplicitAdjoint(solver)
    f = lambda a: loss(ieig.attach(operator(a), w, v, like=a[0], adjoint=adjoint))
    assert relative(jax.jit(jax.grad(f))(a), want) < 1e-9


@pytest.mark.parametrize("real", slow_but([False], [False, True]))
def test_krylov_sylvester_takes_blocks_of_real_and_of_complex_pairs(real, real_exact):
    a, want = real_exact
    w, v = from_numpy(a)
    if not real:
        w, v = w + 0j, v + 0j
    adjoint = ieig.ImplicitAdjoint(ieig.KrylovSylvester(krylov_dim=20))
    f = lambda a: loss(ieig.attach(lambda x: a @ x, w, v, like=a[0], adjoint=adjoint))
    assert relative(jax.jit(jax.grad(f))(a), want) < 1e-9


def test_an_eigenvector_tells_the_domain_of_a_callable():
    a = real_matrix()
    w, v = from_numpy(a)
    solution = ieig.attach(lambda x: a @ x, w.real, v.real)
    assert solution.eigenvectors.shape == (N, K)
    tree = {"u": v[:10].real, "w": v[10:].real.reshape(5, 4, K)}
    join = lambda t: jnp.concatenate([t["u"], t["w"].reshape(20)])
    split = lambda y: {"u": y[:10], "w": y[10:].reshape(5, 4)}
    on_tree = ieig.attach(lambda t: split(a @ join(t)), w.real, tree)
    assert on_tree.eigenvectors["w"].shape == (5, 4, K)
    flat = on_tree.eigenvectors["w"].reshape(20, K)
    assert relative(flat, solution.eigenvectors[10:]) < 1e-13


@pytest.mark.parametrize("polish", slow_but([0], [0, 1]))
def test_the_order_given_is_kept(polish):
    a = bulk(np.float64)
    w, v = from_numpy(a)

    @jax.jit
    def jacobian(a, w, v):
        def f(a):
            values = ieig.attach(a, w, v, polish=polish).eigenvalues
            return values.real, values

        return jax.jacrev(f, has_aux=True)(a)

    straight, _ = jacobian(a, w, v)
    shuffle = np.array([2, 0, 3, 1])
    shuffled, values = jacobian(a, w[shuffle], v[:, shuffle])
    assert relative(values, w[shuffle]) < 1e-13
    assert relative(shuffled, straight[shuffle]) < 1e-11


def test_of_a_conjugate_pair_one_member_or_both_may_be_given():
    a = bulk(np.float64)
    w, v = from_numpy(a)
    assert w[0].imag > 0 and w[1] == w[0].conj()

    @jax.jit
    def jacobian(a, w, v):
        def f(a):
            s = ieig.attach(a, w, v)
            x = s.eigenvectors[:, 0]
            return jnp.stack([s.eigenvalues[0].real, jnp.sum(x.real**3), x[1].imag])

        return jax.jacrev(f)(a)

    both, upper, lower = (
        jacobian(a, w[members], v[:, members]) for members in ([0, 1], [0], [1])
    )
    assert both.dtype == np.float64
    assert relative(upper, both) < 1e-11
    assert relative(lower[:2], both[:2]) < 1e-11 and relative(lower[2], -both[2]) < 1e-11
    values = ieig.attach(a, w[:2], v[:, :2]).eigenvalues
    assert values[0] == values[1].conj()


def test_pairs_of_a_real_operator_ask_it_for_real_products_only():
    product, seen = product_that_sees_dtypes()
    a = bulk(np.float64)
    w, v = from_numpy(a)
    f = lambda a: loss(ieig.attach(lambda x: product(a, x), w, v, like=a[0], polish=1))
    assert jax.grad(f)(a).dtype == np.float64
    assert seen == {np.dtype(np.float64)}


class Materialised(ieig.AbstractSylvesterSolver):
    """Writes the whole system down, and notes its dtype."""

    seen: list = eqx.field(static=True)

    def solve(self, system, rhs, **kwargs):
        self.seen.append(rhs.dtype)
        column = lambda y: system.mm(y.reshape(rhs.shape)).reshape(-1)
        matrix = jax.vmap(column)(jnp.eye(rhs.size, dtype=rhs.dtype)).T
        return jnp.linalg.solve(matrix, rhs.reshape(-1)).reshape(rhs.shape)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_real_pairs_of_a_real_operator_have_real_linear_systems(dtype, real_exact):
    a, want = real_exact
    w, v = (x.astype(dtype) for x in from_numpy(a))
    seen = []
    adjoint = ieig.ImplicitAdjoint(Materialised(seen))
    f = lambda a: loss(ieig.attach(a, w, v, adjoint=adjoint))
    gradient = jax.jit(jax.grad(f))(a)
    assert gradient.dtype == np.float64 and set(seen) == {np.dtype(dtype)}
    assert relative(gradient, want) < 1e-11


class TestLeftVectors:
    def test_they_come_back_dual_and_differentiable(self):
        a, e = bulk(np.float64), random_matrix(3, N)
        w, v, u = from_lapack(a)
        u = u * np.array([1, 2j, -3, 1 + 1j])

        def everything(s):
            pairs = s.eigenvalues, s.eigenvectors, s.left_eigenvectors
            return *pairs, s.condition_numbers

        (got, t_got), (want, t_want) = (
            jax.jit(lambda a, e, f=f: jax.jvp(lambda a: everything(f(a)), (a,), (e,)))(
                a, e
            )
            for f in (
                lambda a: ieig.attach(a, w, v, u),
                lambda a: ieig.eigs(a, K, left=True),
            )
        )
        assert relative(got, want) < 1e-10
        for t, x in zip(t_got, t_want, strict=True):
            assert relative(t, x) < 1e-9

    def counted(self, kind, left):
        """Products of the forward run, of gradients of values, and of vectors."""
        a = real_matrix() if kind == "real" else bulk(np.float64)
        w, v, u = from_lapack(a)
        if kind == "real":
            w, v, u = w.real, v.real, u.real
        counting = ieig.CountingOperator(
            lx.FunctionLinearOperator(
                lambda x: a @ x, jax.ShapeDtypeStruct((N,), a.dtype)
            )
        )

        def f(shift, vectors):
            s = ieig.attach(
                lambda x: shift * x + counting.mv(x),
                w,
                v,
                u if left else None,
                like=a[0],
                adjoint=ieig.ImplicitAdjoint(lx.GMRES(1e-12, 1e-12, restart=60)),
            )
            weight = jnp.arange(float(N))
            total = jnp.sum(s.eigenvalues.real)
            return jnp.sum(weight @ jnp.abs(s.eigenvectors) ** 4) if vectors else total

        def count(run):
            counting.reset()
            jax.block_until_ready(run(0.0))
            return sum(counting.counts())

        values = lambda x: f(x, False)
        yield count(values)
        yield count(jax.grad(values))
        yield count(jax.grad(lambda x: f(x, True)))

    @pytest.mark.parametrize("kind", slow_but(["with a pair"], ["real", "with a pair"]))
    def test_they_save_the_linear_solve_of_eigenvalue_gradients(self, kind):
        width = K if kind == "real" else 2 * K
        counts = self.counted(kind, left=True)
        forward, values = next(counts), next(counts)
        # The Jacobian term ȦX is linearised at one block product, in either mode.
        assert values - forward <= 2 * width
        if kind == "real":
            assert next(counts) - forward > 4 * width

    def test_without_them_an_eigenvalue_gradient_needs_the_solve(self):
        counts = self.counted("real", left=False)
        assert -next(counts) + next(counts) > 4 * K

    def test_wrong_ones_are_refused(self):
        a = bulk(np.complex128)
        w, v, u = from_lapack(a)
        for wrong in (v, u.conj(), 0 * u, u + 1e-5):
            with pytest.raises(RUNTIME, match="residual of an eigenpair is too large"):
                ieig.attach(a, w, v, wrong)

    def test_they_may_come_in_any_basis_of_their_span(self):
        a = bulk(np.float64)
        w, v, u = from_lapack(a)
        mixed = u @ random_matrix(4, K, np.complex128)
        s, t = ieig.attach(a, w, v, u), ieig.attach(a, w, v, mixed)
        assert relative(s.left_eigenvectors, t.left_eigenvectors) < 1e-11


class TestPolish:
    def perturbed(self, a, size):
        w, v = from_numpy(a)
        rng = np.random.default_rng(5)
        noise = lambda shape: rng.normal(size=shape) + 1j * rng.normal(size=shape)
        v = v + size * noise(v.shape) / np.sqrt(N)
        w = w + size * noise(w.shape)
        if np.isrealobj(from_numpy(a)[1]):
            w, v = w.real, v.real
        return w, v

    @pytest.mark.parametrize("kind", slow_but(["real"], ["real", "complex"]))
    def test_a_step_squares_the_error(self, kind):
        a = bulk(np.complex128 if kind == "complex" else np.float64)
        a = real_matrix() if kind == "real" else a
        exact, x = from_numpy(a)
        w, v = self.perturbed(np.asarray(a), 1e-4)
        assert np.isrealobj(v) == (kind == "real")
        errors = []
        for polish in (1, 2):
            s = ieig.attach(a, w, v, polish=polish, rtol=1e-3, gauge=ieig.UnitNorm())
            miss = relative(s.eigenvalues, exact)
            vectors = align(s.eigenvectors, jnp.asarray(x.astype(complex)))
            errors.append(miss + relative(vectors, x))
        assert errors[0] < 1e3 * 1e-4**2
        assert errors[1] < 1e-11

    def test_polished_pairs_have_the_right_gradient(self, exact):
        a, want = exact
        w, v = self.perturbed(np.asarray(a), 1e-5)
        with pytest.raises(RUNTIME, match="residual of an eigenpair is too large"):
            ieig.attach(a, w, v)
        f = lambda a: loss(ieig.attach(a, w, v, polish=2))
        assert relative(jax.jit(jax.grad(f))(a), want) < 1e-10

    def test_single_precision_pairs_are_lifted_to_double(self):
        a = bulk(np.float64)
        w, v = from_numpy(a)
        w, v = w.astype(np.complex64), v.astype(np.complex64)
        solution = ieig.attach(a, w, v, polish=1)
        assert solution.eigenvalues.dtype == np.complex128
        assert np.all(solution.residuals < 1e-12)
        with pytest.raises(RUNTIME, match="residual of an eigenpair is too large"):
            ieig.attach(a, w, v)


class TestWrongPairs:
    a = bulk(np.float64)

    def wrong(self, kind):
        w, v = from_numpy(self.a)
        v = v.copy()
        if kind == "values off":
            w = w + 1e-5
        elif kind == "values swapped":
            w = w[[2, 3, 0, 1]]
        elif kind == "one vector off":
            v[:, 3] += 1e-5 * np.ones(N)
        elif kind == "random vectors":
            v = np.asarray(random_matrix(6, N, np.complex128))[:, :K]
        elif kind == "a zero vector":
            v[:, 3] = 0
        elif kind == "one pair twice":
            w, v = w[[0, 1, 2, 2]], v[:, [0, 1, 2, 2]]
        elif kind == "one pair almost twice":
            w, v = w[[0, 1, 2, 2]], v[:, [0, 1, 2, 2]]
            v[:, 3] += 1e-10 * np.ones(N)
        return w, v

    off = ("values off", "values swapped", "one vector off", "random vectors")
    dependent = ("a zero vector", "one pair twice", "one pair almost twice")

    @pytest.mark.parametrize("kind", off + dependent)
    def test_they_are_refused(self, kind):
        w, v = self.wrong(kind)
        too_large = "residual of an eigenpair is too large"
        with pytest.raises(
            RUNTIME, match="dependent" if kind in self.dependent else too_large
        ):
            ieig.attach(self.a, w, v)

    @staticmethod
    @jax.jit
    def run(a, w, v):
        def f(a):
            s = ieig.attach(a, w, v, throw=False)
            return (s.eigenvalues, s.eigenvectors), s.result

        return jax.jvp(f, (a,), (a,), has_aux=True)

    @pytest.mark.parametrize("kind", off + dependent)
    def test_without_throw_they_are_reported_and_have_no_derivative(self, kind):
        w, v = self.wrong(kind)
        (values, _), (t_w, t_v), result = self.run(self.a, w, v)
        assert result != ieig.RESULTS.successful
        assert result == ieig.RESULTS.residual_too_large or kind in self.dependent
        assert relative(values, w) < 1e-13
        # One that is no eigenpair harms no other, and all keep the order given.
        right = np.zeros(K, bool)
        if kind == "one vector off":
            right[:3] = True
        elif kind == "values off":
            right = np.abs(w - from_numpy(self.a)[0]) < 1e-12
        assert np.all(np.isnan(t_w[~right])) and np.all(np.isnan(t_v[:, ~right]))
        # Along A itself an eigenvalue moves by itself, and no vector.
        assert relative(t_w[right], w[right]) < 1e-11 or not np.any(right)
        assert np.all(np.abs(t_v[:, right]) < 1e-10)

    def test_a_looser_tolerance_lets_them_pass(self):
        w, v = self.wrong("values off")
        solution = ieig.attach(self.a, w, v, rtol=1e-3)
        assert solution.result == ieig.RESULTS.successful
        assert np.all(solution.residuals > 1e-7)


class TestMassMatrix:
    def pencil(self, dtype=np.float64):
        b = jnp.eye(N, dtype=dtype) + random_matrix(7, N, dtype) / (16 * N) ** 0.5
        return bulk(dtype), b

    @pytest.mark.parametrize(
        "dtype, left",
        slow_but([(np.complex128, False)], [(np.float64, True), (np.complex128, False)]),
    )
    def test_derivatives_in_both_matrices_agree_with_differences(self, dtype, left):
        a, b = self.pencil(dtype)
        da, db = random_matrix(8, N, dtype), random_matrix(9, N, dtype)
        w, v, u = from_lapack(a, b)

        def f(a, b):
            s = ieig.attach(a, w, v, u if left else None, mass=b)
            more = (s.left_eigenvectors, s.condition_numbers) if left else ()
            return s.eigenvalues, s.eigenvectors, *more

        values, tangents = jax.jit(lambda *t: jax.jvp(f, (a, b), t))(da, db)
        cotangents = jax.tree.map(lambda t: jnp.cos(t) + t, tangents)
        ga, gb = jax.jit(lambda *c: jax.vjp(f, a, b)[1](c))(*cotangents)
        assert ga.dtype == gb.dtype == dtype
        inner = real_dot(tangents, cotangents)
        assert np.isclose(real_dot((ga, gb), (da, db)), inner, rtol=1e-10)

        def truth(h):
            x, y, z = (jnp.asarray(t) for t in from_lapack(a + h * da, b + h * db))
            y = y / jnp.linalg.norm(y, axis=0).astype(complex)
            top = jnp.take_along_axis(y, jnp.argmax(jnp.abs(y), 0)[None], 0)
            y = y * (jnp.abs(top).astype(complex) / top)
            if not left:
                return x, y
            overlap = jnp.sum(z.conj() * ((b + h * db).astype(complex) @ y), axis=0)
            z = z / overlap.conj()
            return x, y, z, jnp.linalg.norm(z, axis=0) * jnp.linalg.norm(y, axis=0)

        h = 1e-5
        difference = jax.tree.map(lambda p, m: (p - m) / (2 * h), truth(h), truth(-h))
        assert relative(values, truth(0.0)) < 1e-10
        for got, want in zip(tangents, difference, strict=True):
            assert relative(got, want) < 1e-6

    def test_polish_works_on_pencils(self):
        a, b = self.pencil()
        w, v, _ = from_lapack(a, b)
        noise = np.asarray(random_matrix(10, N))[:, :K]
        solution = ieig.attach(a, w, v + 1e-5 * noise, mass=b, polish=2)
        assert relative(solution.eigenvalues, w) < 1e-12

    def test_a_mass_matrix_of_another_dtype_is_promoted(self):
        a, b = self.pencil(np.complex128)
        a = a.real
        w, v, _ = from_lapack(a, b)
        solution = ieig.attach(a, w, v, mass=b)
        assert relative(solution.eigenvalues, w) < 1e-13

    def test_pairs_of_another_pencil_are_refused(self):
        a, b = self.pencil()
        w, v, _ = from_lapack(a, b)
        with pytest.raises(RUNTIME, match="residual of an eigenpair is too large"):
            ieig.attach(a, w, v)
        with pytest.raises(RUNTIME, match="residual of an eigenpair is too large"):
            ieig.attach(a, *from_numpy(a), mass=b)


class TestTransformations:
    def test_pairs_may_be_traced_and_carry_no_derivative(self, exact):
        a, want = exact
        w, v = (jnp.asarray(x) for x in from_numpy(a))
        f = lambda a, w, v: loss(ieig.attach(a, w, v))
        gradients = jax.jit(jax.grad(f, (0, 1, 2)))(a, w, v)
        assert relative(gradients[0], want) < 1e-11
        assert np.all(gradients[1] == 0) and np.all(gradients[2] == 0)

    def test_vmap_is_the_loop_and_a_wrong_member_harms_no_other(self):
        a = jnp.stack([bulk(np.float64, seed) for seed in range(3)])
        pairs = [from_arpack(x) for x in a]
        w, v = (jnp.asarray(np.stack(x)) for x in zip(*pairs, strict=True))
        w = w.at[1, 0].add(1.0)

        def f(a, w, v):
            s = ieig.attach(a, w, v, throw=False)
            return loss(s), s.result == ieig.RESULTS.residual_too_large

        f = jax.value_and_grad(f, has_aux=True)
        (values, refused), gradients = jax.jit(jax.vmap(f))(a, w, v)
        assert np.array_equal(refused, [False, True, False])
        assert np.all(np.isnan(gradients[1]))
        f = jax.jit(f)
        for i in (0, 2):
            (value, _), gradient = f(a[i], w[i], v[i])
            assert np.isclose(values[i], value, rtol=1e-13)
            assert relative(gradients[i], gradient) < 1e-12

    @pytest.mark.slow
    def test_hessian_vector_products_agree_with_differences(self):
        a, e = bulk(np.float64), random_matrix(11, N)
        w, v = from_numpy(a)
        f = lambda a: loss(ieig.attach(a, w, v))
        hvp = jax.jit(lambda a: jax.jvp(jax.grad(f), (a,), (e,))[1])(a)
        gradient = jax.jit(jax.grad(lambda a: loss(ieig.eigs(a, K))))
        assert relative(hvp, central_difference(gradient, a, e)) < 1e-6


@pytest.mark.parametrize("kind", ["real", "with a pair", "with left vectors"])
def test_the_products_reported_are_those_counted(kind):
    a = real_matrix() if kind == "real" else bulk(np.float64)
    w, v, u = from_lapack(a)
    if kind == "real":
        w, v = w.real, v.real
    op = ieig.CountingOperator(
        lx.FunctionLinearOperator(lambda x: a @ x, jax.ShapeDtypeStruct((N,), a.dtype))
    )
    stats = ieig.attach(op, w, v, u if kind == "with left vectors" else None).stats
    assert stats["num_matvecs"] == sum(op.counts())


@pytest.mark.slow
def test_the_gradient_of_a_batch_is_the_batch_of_gradients():
    a = jnp.stack([random_matrix(seed, 5) for seed in (1, 2)])
    w, v = jnp.linalg.eig(a)

    def f(a, w, v):
        s = ieig.attach(a, w[:2], v[:, :2], throw=False)
        return jnp.sum(jnp.abs(s.eigenvectors[0]) ** 2 + jnp.abs(s.eigenvalues))

    each = jax.vmap(jax.grad(f))(a, w, v)
    together = jax.grad(lambda a: jnp.sum(jax.vmap(f)(a, w, v)))(a)
    assert relative(together, each) < 1e-12
    # Pairs that are not batched: those of the first member.
    together = jax.grad(lambda a: jnp.sum(jax.vmap(lambda a: f(a, w[0], v[0]))(a)))(a)
    assert relative(together[0], each[0]) < 1e-12


class TestOfNonlinearProblems:
    """Pairs of T(λ) and of polynomials are attached, and diagnosed, as others are."""

    n = 4
    parts = tuple(jnp.asarray(x) for x in np.random.default_rng(7).normal(size=(3, 4, 4)))

    @staticmethod
    def T(parts):
        return lambda z: sum(a.astype(z.dtype) * z**i for i, a in enumerate(parts))

    def pairs(self, **options):
        values = ieig.polyeig(self.parts, 2, "LR").eigenvalues
        return ieig.nonlinear_eigs(self.T(self.parts), 2, guess=values, **options)

    def test_have_the_derivatives_of_their_own_function(self):
        own = self.pairs()

        def loss(parts, attached):
            if attached == "T":
                found = ieig.attach(self.T(parts), own.eigenvalues, own.eigenvectors)
            elif attached == "coefficients":
                found = ieig.attach(parts, own.eigenvalues, own.eigenvectors)
            else:
                found = ieig.nonlinear_eigs(self.T(parts), 2, guess=own.eigenvalues)
            v = found.eigenvectors
            return jnp.sum(found.eigenvalues.real) + jnp.sum(jnp.abs(v) ** 4)

        expected = jax.grad(loss)(self.parts, "")
        for attached in ("T", "coefficients"):
            for x, y in zip(jax.grad(loss)(self.parts, attached), expected, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)

    def test_a_tuple_of_rows_is_a_matrix(self):
        a = self.parts[0]
        own = ieig.eigs(a, 2)
        for rows in (tuple(a), tuple(np.asarray(a)), tuple(np.asarray(a).tolist())):
            found = ieig.attach(rows, own.eigenvalues, own.eigenvectors)
            np.testing.assert_allclose(found.eigenvalues, own.eigenvalues, rtol=1e-12)

    def test_are_refused_or_polished(self):
        own, T = self.pairs(), self.T(self.parts)
        rough = own.eigenvalues * 1.001
        with pytest.raises(Exception, match="residual"):
            ieig.attach(T, rough, own.eigenvectors)
        better = ieig.attach(T, rough, own.eigenvectors, polish=3)
        np.testing.assert_allclose(better.eigenvalues, own.eigenvalues, rtol=1e-12)
        with pytest.raises(ValueError, match="ties"):
            ieig.attach(T, rough, own.eigenvectors, ties="drop")

    @pytest.mark.slow
    def test_left_vectors_have_derivatives(self):
        direction = jax.random.normal(jax.random.key(1), (self.n, self.n))
        guess = self.pairs().eigenvalues

        def left(t):
            parts = self.parts[0] + t * direction, *self.parts[1:]
            found = ieig.nonlinear_eigs(self.T(parts), 2, guess=guess, left=True)
            return found.left_eigenvectors, found.condition_numbers

        _, tangents = jax.jvp(left, (0.0,), (1.0,))
        up, down = left(1e-6), left(-1e-6)
        for tangent, a, b in zip(tangents, up, down, strict=True):
            difference = (a - b) / 2e-6
            assert relative(tangent, difference) < 1e-8
        slope = jax.grad(lambda t: jnp.sum(jnp.abs(left(t)[0]) ** 2))(0.0)
        sizes = [jnp.sum(jnp.abs(x[0]) ** 2) for x in (up, down)]
        np.testing.assert_allclose(slope, (sizes[0] - sizes[1]) / 2e-6, rtol=1e-8)

    def test_are_diagnosed(self):
        own = self.pairs(left=True)
        for operator in (self.T(self.parts), self.parts):
            found = ieig.diagnose(operator, own)
            np.testing.assert_allclose(
                found.condition_numbers, own.condition_numbers, rtol=1e-8
            )
            assert (found.backward_error < 1e-14).all()
        # Of T = A − λI what is said is what is said of A.
        linear = ieig.eigs(self.parts[0], 2, "LR")
        shifted = ieig.diagnose(
            lambda z: self.parts[0].astype(z.dtype) - z * jnp.eye(self.n, dtype=z.dtype),
            linear,
        )
        plain = ieig.diagnose(self.parts[0], linear)
        np.testing.assert_allclose(
            shifted.condition_numbers, plain.condition_numbers, rtol=1e-8
        )
        np.testing.assert_allclose(shifted.separation, plain.separation, rtol=1e-6)
