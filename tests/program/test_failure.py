"""Bad input names its value; bad runs raise, or report and give NaN, and harm no other."""

import itertools
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.experimental import sparse

import implicit_eig as ieig
from implicit_eig._sylvester.columnwise import Columnwise

from ..oracles import matched, random_matrix, relative, slow_but


A = random_matrix(0, 5)
X = A[0]
BIG = random_matrix(1, 30)
W, V = np.linalg.eig(np.asarray(A))
U = np.linalg.inv(V).conj().T
ONE = ieig.ImplicitAdjoint
RUNTIME = (RuntimeError, jax.errors.JaxRuntimeError)


LIKE = jax.ShapeDtypeStruct(BIG[0].shape, BIG.dtype)
LARGE = (lx.MatrixLinearOperator(BIG), 1, "LR")


def apply(v):
    return A @ v


def eigs(*args, **kwargs):
    if args[0] is LARGE[0]:
        kwargs = {"eigensolver": ieig.KrylovSchur()} | kwargs
    return lambda: ieig.eigs(*args, **kwargs)


def attach(*args, **kwargs):
    return lambda: ieig.attach(*args, **kwargs)


def raises(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


@pytest.mark.parametrize(
    "a, error, text",
    [
        (jnp.ones((2, 3)), ValueError, "(2, 3)"),
        (jnp.ones((4, 2, 3)), ValueError, "(4, 2, 3)"),
        (jnp.ones(3), ValueError, "(3,)"),
        (2.0, ValueError, "()"),
        ("matrix", TypeError, "str"),
        ({"a": 1}, TypeError, "dict"),
        (None, (TypeError, ValueError), "None"),
        ([[1.0, 2.0], [3.0]], ValueError, "inhomogeneous"),
        (jnp.ones((2, 2), jnp.float16), TypeError, "float16"),
        (jnp.ones((2, 2), jnp.bfloat16), TypeError, "bfloat16"),
    ],
)
@pytest.mark.parametrize(
    "public",
    [
        ieig.eig,
        ieig.eigvals,
        lambda a: ieig.eigs(a, 1),
        lambda a: ieig.attach(a, [1.0], np.ones((2, 1))),
    ],
    ids=["eig", "eigvals", "eigs", "attach"],
)
def test_what_is_no_matrix_is_refused(public, a, error, text):
    raises(lambda: public(a), error, text)


@pytest.mark.parametrize("public", [eigs, attach], ids=["eigs", "attach"])
@pytest.mark.parametrize(
    "operator, kwargs, error, text",
    [
        (jnp.ones((2, 3, 3)), {}, ValueError, "(2, 3, 3)"),
        (sparse.BCOO.fromdense(jnp.ones((2, 3))), {}, ValueError, "(2, 3)"),
        (
            sparse.BCOO.fromdense(jnp.ones((3, 3)), n_dense=1),
            {},
            ValueError,
            "n_dense=1",
        ),
        (sparse.COO.fromdense(jnp.ones((3, 3))), {}, TypeError, "COO"),
        (lx.MatrixLinearOperator(jnp.ones((2, 3))), {}, ValueError, "(2,)"),
        (
            lx.FunctionLinearOperator(
                lambda v: v[:2], jax.ShapeDtypeStruct((5,), jnp.float64)
            ),
            {},
            ValueError,
            "(2,)",
        ),
        (lambda v: v[:2], {"like": X}, ValueError, "(2,)"),
        (lambda v: {"v": v}, {"like": X}, ValueError, "{'v': "),
        (lambda v: v.astype(complex), {"like": X}, ValueError, "complex128"),
        (lambda v: v, {"like": {}}, ValueError, "{}"),
        (lambda v: v, {"like": "vector"}, TypeError, "vector"),
        (lambda v: v, {"like": X.astype(jnp.float16)}, TypeError, "float16"),
        (lambda v: v, {"like": (X, X.astype(complex))}, TypeError, "complex128"),
    ],
)
def test_what_is_no_square_operator_is_refused(public, operator, kwargs, error, text):
    args = (operator, 1) if public is eigs else (operator, [1.0], np.ones((5, 1)))
    raises(public(*args, **kwargs), error, text)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (eigs(A, 0), ValueError, "got 0"),
        (eigs(A, -2), ValueError, "got -2"),
        (eigs(A, 6), ValueError, "n = 5; got 6"),
        (eigs(A), ValueError, "n = 5; got 6"),
        (eigs(A, 2.0), TypeError, "got 2.0"),
        (eigs(A, "3"), TypeError, "got '3'"),
        (eigs(A, True), TypeError, "got True"),
        (eigs(A, np.float64(2)), TypeError, "2.0"),
        (eigs(A, [2]), TypeError, "got [2]"),
        (eigs(apply, None, like=X), ValueError, "FunctionLinearOperator"),
        (eigs(A, 1, "XX"), ValueError, "got 'XX'"),
        (eigs(A, 1, "lm"), ValueError, "got 'lm'"),
        (eigs(A, 1, 3), TypeError, "got 3"),
        (eigs(A, 1, None), TypeError, "got None"),
        (eigs(A, 1, ["LM"]), TypeError, "got ['LM']"),
        (eigs(A, 1, lambda z: z), TypeError, "complex128"),
        (eigs(A, 1, lambda z: jnp.ones(2)), TypeError, ",2]"),
        (eigs(A, 1, lambda z: (z.real, z.imag)), TypeError, "one real number"),
        (eigs(A, 1, ieig.Overlap(jnp.ones(4))), ValueError, "(4,)"),
        (eigs(A, 1, ieig.Overlap({"v": X})), ValueError, "Overlap"),
        (lambda: ieig.eigs(A, 1, ieig.Overlap(0 * X)), ValueError, "zero"),
        (lambda: ieig.eigs(A, 1, ieig.Overlap(np.nan * X)), ValueError, "NaN"),
        (lambda: ieig.Nearest(jnp.ones(2)), ValueError, "(2,)"),
        (lambda: ieig.Nearest("zero"), TypeError, "zero"),
        (lambda: ieig.eigs(A, 1, ieig.Nearest(np.nan)), ValueError, "nan"),
        (eigs(A, 1, sigma=jnp.ones(2)), ValueError, "(2,)"),
        (eigs(A, 1, sigma=np.inf), ValueError, "inf"),
        (eigs(apply, 1), ValueError, "like="),
        (eigs(apply, 1, like=jnp.ones(4)), (TypeError, ValueError), "(4,)"),
        (eigs(apply, 1, like=X, v0=jnp.ones(4)), ValueError, "(4,)"),
        (eigs(apply, 1, like=X, v0=X[:, None]), ValueError, "(5, 1)"),
        (eigs(apply, 1, like=X, v0={"v": X}), ValueError, "v0"),
        (eigs(apply, 1, like=X, v0=0 * X), ValueError, "`v0` is zero"),
        (eigs(apply, 1, like=X, v0=np.nan * X), ValueError, "NaN"),
        (eigs(apply, 1, like=X, v0=X.astype(complex)), TypeError, "complex"),
        (eigs(A, 1, v0="start"), (TypeError, ValueError), "v0"),
        (eigs(A, 1, eigensolver="dense"), TypeError, "got 'dense'"),
        (eigs(A, 1, eigensolver=ieig.Dense), TypeError, "Dense"),
        (eigs(A, 1, adjoint=lx.LU()), TypeError, "LU()"),
        (eigs(A, 1, gauge=3), TypeError, "got 3"),
        (eigs(A, 1, gauge="unit"), TypeError, "got 'unit'"),
        (eigs(A, 1, gauge=ieig.LargestReal), TypeError, "LargestReal"),
        (eigs(A, 1, gauge=ieig.UnitNorm(5)), ValueError, "index=5"),
        (eigs(A, 1, gauge=ieig.UnitNorm(-6)), ValueError, "index=-6"),
        (lambda: ieig.UnitNorm(1.5), TypeError, "1.5"),
        (eigs(A, 1, gauge=ieig.Functional(jnp.ones(4))), ValueError, "(4,)"),
        (eigs(A, 1, gauge=ieig.Functional({"c": X})), ValueError, "Functional"),
        (eigs(A, 1, gauge=lambda v: v[:2]), (TypeError, ValueError), "gauge"),
        (eigs(A, 1, gauge=lambda v: 1.0), (TypeError, ValueError), "gauge"),
        (eigs(A, 1, ties="raise"), ValueError, "got 'raise'"),
        (eigs(A, 1, tie_rtol=-1e-3), ValueError, "got -0.001"),
        (eigs(A, 1, tie_rtol=np.nan), ValueError, "got nan"),
        (eigs(*LARGE, progress_meter=3), TypeError, "got 3"),
        (eigs(A, 1, mass=jnp.eye(4)), ValueError, "(4,)"),
        (eigs(A, 1, mass=jnp.ones((5, 4))), ValueError, "(5, 4)"),
        (eigs(A, 1, mass="matrix"), TypeError, "str"),
        (
            eigs(*LARGE, mass=lx.FunctionLinearOperator(lambda v: v, LIKE)),
            ValueError,
            "mass_solver",
        ),
        (eigs(*LARGE, sigma=3.5), ValueError, "sigma=3.5"),
    ],
)
def test_an_argument_of_eigs_that_cannot_be_meant_is_named(call, error, text):
    raises(call, error, text)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: ieig.KrylovSchur(rtol=-1.0), ValueError, "got -1.0"),
        (lambda: ieig.KrylovSchur(rtol=np.nan), ValueError, "got nan"),
        (lambda: ieig.KrylovSchur(krylov_dim=2), ValueError, "got 2"),
        (lambda: ieig.KrylovSchur(krylov_dim=5.5), TypeError, "got 5.5"),
        (lambda: ieig.KrylovSchur(max_restarts=1.5), TypeError, "got 1.5"),
        (lambda: ieig.KrylovSchur(rtol="a"), TypeError, "got 'a'"),
        (lambda: ieig.KrylovSylvester(krylov_dim=0), ValueError, "got 0"),
        (eigs(A, 1, tie_rtol="a"), TypeError, "`tie_rtol` must be a number; got 'a'"),
        (
            eigs(A, 1, throw="a"),
            TypeError,
            "`throw` must be None, True or False; got 'a'",
        ),
        (eigs(A, 1, left=1), TypeError, "`left` must be True or False; got 1"),
        (lambda: ieig.KrylovSchur(max_restarts=0), ValueError, "got 0"),
        (
            eigs(*LARGE, eigensolver=ieig.KrylovSchur(krylov_dim=3)),
            ValueError,
            "k + 3 = 4; got 3",
        ),
        (lambda: ONE("LU"), TypeError, "got 'LU'"),
        (lambda: ONE(lx.LU), TypeError, "LU"),
        (lambda: ONE(rtol=0.0), ValueError, "got 0.0"),
        (lambda: ONE(max_steps=0), ValueError, "got 0"),
        (lambda: ONE(lx.LU(), max_steps=3), ValueError, "max_steps=3"),
        (eigs(A, 1, adjoint=ONE(preconditioner=jnp.eye(4))), ValueError, "order 4"),
        (
            lambda: ieig.SparseOperator(jnp.ones(2), np.arange(3), np.arange(2), 3),
            ValueError,
            "(3,)",
        ),
        (
            lambda: ieig.SparseOperator(jnp.ones(2), np.ones(2), np.arange(2), 3),
            TypeError,
            "float64",
        ),
    ],
)
def test_an_argument_of_a_solver_that_cannot_be_meant_is_named(call, error, text):
    raises(call, error, text)


@pytest.mark.parametrize(
    "kwargs, error, text",
    [
        ({"gauge": 3}, TypeError, "got 3"),
        ({"gauge": ieig.UnitNorm(5)}, ValueError, "index=5"),
        ({"gauge": ieig.Functional(jnp.ones(4))}, ValueError, "(4,)"),
        ({"ties": "raise"}, ValueError, "got 'raise'"),
        ({"ties": None}, ValueError, "got None"),
        ({"tie_rtol": -1e-3}, ValueError, "got -0.001"),
    ],
)
def test_an_argument_of_eig_that_cannot_be_meant_is_named(kwargs, error, text):
    raises(lambda: ieig.eig(A, **kwargs), error, text)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (attach(A, W[0], V[:, 0]), ValueError, "()"),
        (attach(A, W[:0], V[:, :0]), ValueError, "(0,)"),
        (attach(A, np.diag(W), V), ValueError, "(5, 5)"),
        (attach(A, W[:3], V[:, :2]), ValueError, "(5, 2)"),
        (attach(A, W[:3], V[:, :3].T), ValueError, "(3, 5)"),
        (attach(A, W[:2], V[:4, :2]), ValueError, "(4, 2)"),
        (attach(A, W[:2], {"v": V[:, :2]}), ValueError, "eigenvectors"),
        (attach(A, W[:2], None), ValueError, "eigenvectors"),
        (attach(A, "values", V), TypeError, "values"),
        (attach(A, W[:2], V[:, :2], U[:, :3]), ValueError, "(5, 3)"),
        (attach(A, np.ones(6), np.ones((5, 6))), ValueError, "6"),
        (attach(A, W[:2], V[:, :2], polish=-1), ValueError, "got -1"),
        (attach(A, W[:2], V[:, :2], polish=1.5), TypeError, "1.5"),
        (attach(A, W[:2], V[:, :2], rtol=0.0), ValueError, "got 0.0"),
        (attach(A, W[:2], V[:, :2], adjoint=lx.LU()), TypeError, "LU()"),
        (attach(A, W[:2], V[:, :2], gauge=3), TypeError, "got 3"),
        (attach(A, W[:2], V[:, :2], gauge=ieig.UnitNorm(5)), ValueError, "index=5"),
        (attach(A, W[:2], V[:, :2], ties="raise"), ValueError, "got 'raise'"),
        (attach(A, W[:2], V[:, :2], mass=jnp.eye(4)), ValueError, "(4,)"),
    ],
)
def test_an_argument_of_attach_that_cannot_be_meant_is_named(call, error, text):
    raises(call, error, text)


def matrix_free(a, **kwargs):
    krylov = ieig.KrylovSchur(krylov_dim=12)
    return ieig.eigs(lambda v: a @ v, 2, "LR", like=a[0], eigensolver=krylov, **kwargs)


def dense(a, **kwargs):
    return ieig.eigs(a, 2, "LR", **kwargs)


class TestNonFiniteOperators:
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_eig_gives_nan_for_its_own_matrix_only(self, bad):
        a = random_matrix(2, 4, batch=(3,))
        broken = a.at[1, 0, 2].set(bad)
        e = random_matrix(3, 4, batch=(3,))

        def f(pair):
            w, v = pair
            return jnp.sum(jnp.abs(v) ** 4) + jnp.sum((w**2).real)

        grad = jax.jit(jax.grad(lambda a: f(ieig.eig(a))))
        run = jax.jit(lambda a: jax.jvp(ieig.eig, (a,), (e,)))
        (w, v), (t_w, t_v) = run(broken)
        (w0, v0), (t_w0, t_v0) = run(a)
        gradient = grad(broken)
        for x in (w, v, t_w, t_v, ieig.eigvals(broken), gradient):
            assert np.all(np.isnan(x[1]))
        others = np.array([0, 2])
        pick = lambda tree: jax.tree.map(lambda x: x[others], tree)
        assert relative(pick((w, v, t_w, t_v)), pick((w0, v0, t_w0, t_v0))) < 1e-14
        assert relative(gradient[others], grad(a)[others]) < 1e-13

    @pytest.mark.parametrize(
        "find, bad", [(dense, np.nan), (dense, -np.inf), (matrix_free, np.nan)]
    )
    def test_eigs_raises(self, find, bad):
        with pytest.raises(RUNTIME, match="NaN or inf was met"):
            find(BIG.at[3, 4].set(bad))

    def test_eigs_raises_inside_jit(self):
        with pytest.raises(RUNTIME, match="NaN or inf was met"):
            jax.block_until_ready(
                jax.jit(lambda a: dense(a, throw=True).eigenvalues)(
                    BIG.at[3, 4].set(np.nan)
                )
            )

    @pytest.mark.parametrize("find", slow_but([matrix_free], [dense, matrix_free]))
    def test_without_throw_it_is_reported_and_values_and_derivatives_are_nan(self, find):
        broken = BIG.at[3, 4].set(np.nan)

        def f(a):
            s = find(a, throw=False, left=True)
            vectors = s.eigenvectors, s.left_eigenvectors
            return jnp.sum(s.eigenvalues.real) + jnp.sum(s.eigenvectors.real), (
                s.result,
                (s.eigenvalues, s.residuals, s.condition_numbers, *vectors),
            )

        gradient, (result, values) = jax.jit(jax.grad(f, has_aux=True))(broken)
        assert result == ieig.RESULTS.nonfinite
        assert all(np.all(np.isnan(x)) for x in values)
        assert np.all(np.isnan(gradient))

    @pytest.mark.parametrize("find", slow_but([dense], [dense, matrix_free]))
    def test_under_vmap_the_other_members_keep_values_and_gradients(self, find):
        a = random_matrix(4, 20, batch=(3,))
        broken = a.at[1, 0, 0].set(np.nan)

        def f(a):
            s = find(a, throw=False)
            value = jnp.sum(s.eigenvalues.real**2) + jnp.sum(s.eigenvectors.real**3)
            return value, s.result == ieig.RESULTS.nonfinite

        run = jax.jit(jax.vmap(jax.value_and_grad(f, has_aux=True)))
        (value, nonfinite), gradient = run(broken)
        (want, _), wanted = run(a)
        assert np.array_equal(nonfinite, [False, True, False])
        assert np.isnan(value[1]) and np.all(np.isnan(gradient[1]))
        for i in (0, 2):
            assert np.isclose(value[i], want[i], rtol=1e-12)
            assert relative(gradient[i], wanted[i]) < 1e-10

    @pytest.mark.slow
    def test_under_vmap_one_bad_member_raises_under_throw(self):
        a = random_matrix(4, 5, batch=(3,)).at[1, 0, 0].set(np.nan)
        with pytest.raises(RUNTIME, match="NaN or inf was met"):
            jax.vmap(lambda a: ieig.eigs(a, 1).eigenvalues)(a)

    def test_attach_reports_what_is_not_finite(self):
        pairs = W[:2], V[:, :2]
        for a, w, v in (
            (A.at[0, 0].set(np.nan), *pairs),
            (A, np.nan * pairs[0], pairs[1]),
            (A, pairs[0], np.inf * pairs[1].real),
        ):
            with pytest.raises(RUNTIME, match="NaN or inf was met"):
                ieig.attach(a, w, v)
            solution = ieig.attach(a, w, v, throw=False)
            assert solution.result == ieig.RESULTS.nonfinite

    def test_a_start_vector_that_turns_out_zero_is_reported(self):
        def f(v0, throw):
            return ieig.eigs(lambda v: BIG @ v, 2, like=v0, v0=v0, throw=throw)

        solution = jax.jit(lambda v: f(v, False))(jnp.zeros(30))
        assert solution.result == ieig.RESULTS.zero_start_vector
        assert np.all(np.isnan(solution.eigenvalues))
        with pytest.raises(RUNTIME, match="`v0` is zero"):
            jax.block_until_ready(
                jax.jit(lambda v: f(v, True).eigenvalues)(jnp.zeros(30))
            )

    def test_a_singular_mass_matrix_leaves_too_few_eigenvalues(self):
        b = jnp.zeros((5, 5)).at[0, 0].set(1.0)
        with pytest.raises(RUNTIME, match="mass matrix is singular"):
            ieig.eigs(A, 2, mass=b)
        solution = ieig.eigs(A, 2, mass=b, throw=False)
        assert solution.result == ieig.RESULTS.infinite
        assert np.isfinite(solution.eigenvalues).tolist() == [True, False]

    def test_a_singular_pencil_is_reported(self):
        a, b = jnp.diag(jnp.array([1.0, 2.0, 0.0])), jnp.diag(jnp.array([1.0, 1.0, 0.0]))
        with pytest.raises(RUNTIME, match="pencil A − λB is singular"):
            ieig.eigs(a, 2, mass=b)


class TestSmallestProblems:
    @pytest.mark.parametrize(
        "n, dtype",
        slow_but(
            [(1, np.float64), (2, np.complex128)],
            itertools.product([1, 2], [np.float64, np.complex128]),
        ),
    )
    def test_all_pairs_of_one_and_two_dimensions(self, n, dtype):
        a, e = random_matrix(5, n, dtype), random_matrix(6, n, dtype)

        def loss(a):
            s = ieig.eigs(lambda v: a @ v, n, like=a[0], left=True)
            return jnp.sum((s.eigenvalues**2).real) + jnp.sum(s.condition_numbers), s

        def plain(a):
            w, v = ieig.eig(a)
            u = jnp.linalg.inv(v)
            kappa = jnp.linalg.norm(u, axis=1) * jnp.linalg.norm(v, axis=0)
            return jnp.sum((w**2).real) + jnp.sum(kappa), None

        def both_modes(f):
            def run(a, e):
                _, tangent, s = jax.jvp(f, (a,), (e,), has_aux=True)
                return s, tangent, jax.grad(f, has_aux=True)(a)[0]

            return jax.jit(run)(a, e)

        s, tangent, gradient = both_modes(loss)
        _, want, wanted = both_modes(plain)
        x, y = np.asarray(s.eigenvectors), np.asarray(s.left_eigenvectors)
        w = np.linalg.eigvals(a)
        assert np.allclose(s.eigenvalues[matched(s.eigenvalues, w)], w)
        assert np.allclose(np.asarray(a) @ x, x * s.eigenvalues)
        assert np.allclose(np.sum(y.conj() * x, axis=0), 1)
        assert np.isclose(tangent, want, rtol=1e-10)
        assert relative(gradient, wanted) < 1e-10

    def test_the_only_pair_of_a_scalar_is_itself(self):
        w, v = ieig.eig([[3.0]])
        assert w[0] == 3 and v[0, 0] == 1
        assert jax.grad(lambda a: ieig.eig(a).eigenvalues[0].real)(jnp.ones((1, 1))) == 1
        assert (
            jax.grad(lambda a: ieig.eig(a).eigenvectors[0, 0].real)(jnp.ones((1, 1))) == 0
        )
        for adjoint in (None, ONE(lx.GMRES(1e-10, 1e-10)), ONE(ieig.KrylovSylvester())):
            f = lambda t, s=adjoint: (
                ieig.eigs(lambda v: t * v, 1, like=jnp.ones(1), adjoint=s)
                .eigenvalues[0]
                .real
            )
            assert jax.grad(f)(3.0) == 1

    def test_k_may_be_n(self):
        def f(a):
            krylov = ieig.KrylovSchur()
            s = ieig.eigs(lambda v: a @ v, 5, like=a[0], eigensolver=krylov)
            return jnp.sum(s.eigenvalues**3).real, s

        gradient, s = jax.jit(jax.grad(f, has_aux=True))(A)
        assert relative(gradient, 3 * (A @ A).T) < 1e-11
        assert s.stats["dense_fallback"]
        assert np.allclose(s.eigenvalues[matched(s.eigenvalues, W)], W)

    # "LM" cuts a pair: its other half fills the space up, and nothing is left outside.
    @pytest.mark.parametrize("which", slow_but(["LR"], ["LR", "LM"]))
    def test_k_of_one_less_than_n_leaves_one_dimension_or_none_outside(self, which):
        def f(a):
            return jnp.sum(jnp.abs(ieig.eigs(a, 4, which).eigenvectors) ** 4)

        def g(a):
            w, v = ieig.eig(a)
            order = jnp.argsort(-w.real if which == "LR" else -jnp.abs(w))[:4]
            return jnp.sum(jnp.abs(v[:, order]) ** 4)

        assert relative(jax.jit(jax.grad(f))(A), jax.jit(jax.grad(g))(A)) < 1e-10

    @pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3, 3), (0, 0), (2, 0, 0)])
    @pytest.mark.parametrize("dtype", [np.float64, np.complex64])
    def test_nothing_has_no_eigenpairs(self, shape, dtype):
        a = jnp.zeros(shape, dtype)
        complex_type = np.result_type(dtype, np.complex64)
        w, v = ieig.eig(a)
        assert w.shape == shape[:-1] and v.shape == shape
        assert w.dtype == v.dtype == complex_type
        assert ieig.eigvals(a).shape == shape[:-1]
        assert ieig.eigvals(a).dtype == complex_type
        f = lambda a: jnp.sum(ieig.eig(a).eigenvectors.real)
        assert jax.jit(jax.grad(f))(a).shape == shape
        _, (t_w, t_v) = jax.jvp(ieig.eig, (a,), (a,))
        assert t_w.shape == shape[:-1] and t_v.shape == shape

    @pytest.mark.parametrize("throw", [False, True])
    def test_an_empty_batch_of_eigs_is_empty(self, throw):
        batch = jnp.zeros((0, 3, 3))
        f = lambda a: ieig.eigs(a, 2, throw=throw)
        s = jax.vmap(f)(batch)
        assert s.eigenvalues.shape == (0, 2) and s.eigenvectors.shape == (0, 3, 2)

    def test_no_pair_can_be_had_of_an_empty_matrix(self):
        raises(eigs(jnp.zeros((0, 0)), 1), ValueError, "n = 0; got 1")


class TestSolvesThatFail:
    """A few steps of GMRES cannot solve the bordered systems of 30 unknowns."""

    lazy = ONE(lx.GMRES(1e-12, 1e-12, restart=2, max_steps=2, stagnation_iters=2))

    def vectors(self, a, find=dense, adjoint=lazy, throw=True):
        s = find(a, adjoint=adjoint, throw=throw)
        return jnp.sum(s.eigenvectors.real**3), s.result

    def of(self, mode, **kwargs):
        f = lambda a: self.vectors(a, **kwargs)
        if mode == "reverse":
            return jax.grad(f, has_aux=True)
        return lambda a: jax.jvp(f, (a,), (BIG.T,), has_aux=True)[1:]

    @pytest.mark.parametrize(
        "mode, jit",
        slow_but(
            [("forward", True), ("reverse", False)],
            [("forward", True), ("reverse", True), ("reverse", False)],
        ),
    )
    def test_they_raise(self, mode, jit):
        f = self.of(mode)
        with pytest.raises(RUNTIME, match="missed its tolerance"):
            jax.block_until_ready((jax.jit(f) if jit else f)(BIG))

    @pytest.mark.parametrize(
        "mode, jit",
        slow_but(
            [("reverse", True), ("forward", False)],
            [("forward", True), ("reverse", True), ("forward", False)],
        ),
    )
    def test_without_throw_they_give_nan_and_the_pairs_stand(self, mode, jit):
        f = self.of(mode, throw=False)
        derivative, result = (jax.jit(f) if jit else f)(BIG)
        assert np.all(np.isnan(derivative))
        assert result == ieig.RESULTS.successful

    def test_they_concern_only_derivatives_that_need_them(self):
        f = lambda a: dense(a, adjoint=self.lazy).eigenvalues[0].real
        w, v = np.linalg.eig(np.asarray(BIG))
        i = np.argmax(w.real)
        want = np.outer(np.linalg.inv(v)[i], v[:, i]).real
        assert relative(jax.jit(jax.grad(f))(BIG), want) < 1e-11

    def test_krylov_sylvester_that_stops_early_raises(self):
        adjoint = ONE(ieig.KrylovSylvester(krylov_dim=6, max_restarts=1))
        f = self.of("reverse", find=matrix_free, adjoint=adjoint)
        with pytest.raises(RUNTIME, match="missed its tolerance"):
            jax.block_until_ready(jax.jit(f)(BIG)[0])

    @pytest.mark.slow
    def test_a_limit_on_its_steps_stops_krylov_sylvester(self):
        adjoint = ONE(max_steps=1)
        f = self.of("reverse", find=matrix_free, adjoint=adjoint, throw=False)
        assert np.all(np.isnan(jax.jit(f)(BIG)[0]))

    @pytest.mark.slow
    def test_under_vmap_only_the_member_that_failed_is_nan(self):
        easy = jnp.diag(jnp.asarray([5.0, 3.0, *np.ones(28)])) + jnp.diag(
            jnp.ones(29).at[2:].set(0.0), 1
        )
        f = jax.grad(lambda a: self.vectors(a, throw=False)[0])
        gradient = jax.jit(jax.vmap(f))(jnp.stack([BIG, easy]))
        want = jax.jit(jax.grad(lambda a: self.vectors(a, adjoint=None)[0]))(easy)
        assert np.all(np.isnan(gradient[0]))
        assert relative(gradient[1], want) < 1e-9

    def test_attach_follows_the_same_rule(self):
        def f(a, throw):
            s = ieig.attach(a, W[:2], V[:, :2], adjoint=self.lazy, throw=throw)
            return jnp.sum(jnp.abs(s.eigenvectors) ** 4)

        assert np.all(np.isnan(jax.jit(jax.grad(lambda a: f(a, False)))(A)))
        with pytest.raises(RUNTIME, match="missed its tolerance"):
            jax.block_until_ready(jax.jit(jax.grad(lambda a: f(a, True)))(A))


FEW_STEPS = {
    "lineax GMRES": lx.GMRES(1e-12, 1e-12, restart=3, max_steps=3),
    "DeflatedGMRES": ieig.DeflatedGMRES(restart=4, max_restarts=1),
}


class TestPairsThatFailAlone:
    """Two pairs: a step or two of GMRES solve the system of the first, the second needs
    many. In the direction E the first pair moves into the easy part."""

    n = 42

    def problem(self, second=9.0, hard=True):
        n = self.n
        easy, rest = np.ones(10), np.linspace(-8.0, 8.9, 30) if hard else 2 * np.ones(30)
        a = np.diag(np.concatenate([[10.0, second], easy, rest]))
        a[0, 1] = 0.0 if hard else 0.5
        e = np.zeros((n, n))
        e[2:12, 0] = 1.0
        e[12:, 1] = 1.0
        return jnp.asarray(a), jnp.asarray(e)

    def pairs(self, a, solver, throw=False):
        s = ieig.eigs(a, 2, "LR", adjoint=ONE(solver), throw=throw)
        return s.eigenvalues, s.eigenvectors

    def tangents(self, a, e, solver, **kwargs):
        return jax.jvp(lambda a: self.pairs(a, solver, **kwargs), (a,), (e,))[1]

    @pytest.mark.parametrize(
        "name, jit",
        slow_but([("DeflatedGMRES", False)], itertools.product(FEW_STEPS, [False, True])),
    )
    def test_forward_only_their_own_tangents_are_nan(self, name, jit):
        (a, e), solver = self.problem(), FEW_STEPS[name]
        tangents = lambda a, e: self.tangents(a, e, solver)
        (t_w, t_v) = (jax.jit(tangents) if jit else tangents)(a, e)
        want_w, want_v = self.tangents(a, e, lx.LU())
        assert np.all(np.isnan(t_v[:, 1]))
        assert relative(t_v[:, 0], want_v[:, 0]) < 1e-10
        # Dense: eigenvalues take no solve.
        assert relative(t_w, want_w) < 1e-10
        with pytest.raises(RUNTIME, match="missed its tolerance"):
            jax.block_until_ready(
                jax.jit(lambda a, e: self.tangents(a, e, solver, throw=True))(a, e)
            )

    def test_a_pair_that_a_failed_column_is_coupled_to_fails_as_well(self):
        # Of the block the first column fails; the second pair's vector has a part in it.
        a, e = self.problem()
        a = a.at[0, 1].set(3.0)
        e = jnp.zeros_like(e).at[12:, 0].set(1.0)
        _, t_v = self.tangents(a, e, FEW_STEPS["lineax GMRES"])
        assert np.all(np.isnan(t_v))

    @pytest.mark.parametrize("name", slow_but(["lineax GMRES"], FEW_STEPS))
    def test_in_a_batch_members_and_pairs_fail_one_by_one(self, name):
        (a, e), solver = self.problem(), FEW_STEPS[name]
        easy, _ = self.problem(hard=False)
        batch = jnp.stack([a, easy, a.at[0, 0].set(jnp.nan)])
        run = jax.jit(jax.vmap(lambda a: self.tangents(a, e, solver)[1]))
        one, two, three = run(batch)
        want = jax.jit(jax.vmap(lambda a: self.tangents(a, e, lx.LU())[1]))(batch)
        assert relative(one[:, 0], want[0][:, 0]) < 1e-10
        assert np.all(np.isnan(one[:, 1]))
        assert relative(two, want[1]) < 1e-10
        assert np.all(np.isnan(three))

    @pytest.mark.parametrize("name", slow_but(["lineax GMRES"], FEW_STEPS))
    @pytest.mark.slow
    def test_reverse_rows_of_a_jacobian_fail_one_by_one(self, name):
        (a, _), solver = self.problem(), FEW_STEPS[name]

        def entries(a, solver):
            v = self.pairs(a, solver)[1].real
            return jnp.stack([jnp.sum(v[2:12, 0]), jnp.sum(v[12:, 1])])

        rows = jax.jit(jax.jacrev(lambda a: entries(a, solver)))(a)
        want = jax.jit(jax.jacrev(lambda a: entries(a, lx.LU())))(a)
        assert relative(rows[0], want[0]) < 1e-10
        assert np.all(np.isnan(rows[1]))

    def test_second_derivatives_of_a_block_that_failed_are_nan(self):
        a, e = self.problem()
        solver = FEW_STEPS["lineax GMRES"]
        # A direction in which no solve fails, so that only the first one is to blame.
        d = jnp.diag(jnp.zeros(self.n).at[2:7].set(1.0))
        first = lambda a: self.tangents(a, e, solver)[1]
        t_v, second = jax.jit(lambda a: jax.jvp(first, (a,), (d,)))(a)
        assert np.all(np.isfinite(t_v[:, 0])) and np.all(np.isnan(second))

    @pytest.mark.slow
    def test_krylov_sylvester_keeps_the_pairs_that_converged(self):
        a, e = self.problem(second=8.95)
        a = a.at[0, 0].set(1000.0)

        def tangents(adjoint):
            mv = lambda a: lambda v: a @ v
            krylov = ieig.KrylovSchur(krylov_dim=24)
            f = lambda a: ieig.eigs(
                mv(a),
                2,
                "LR",
                like=a[0],
                adjoint=adjoint,
                eigensolver=krylov,
                throw=False,
            )
            pick = lambda a: (f(a).eigenvalues, f(a).eigenvectors)
            return jax.jit(lambda a: jax.jvp(pick, (a,), (e,))[1])(a)

        t_w, t_v = tangents(ONE(ieig.KrylovSylvester(krylov_dim=9, max_restarts=1)))
        want_w, want_v = tangents(ONE(lx.LU()))
        assert np.isnan(t_w[1]) and np.all(np.isnan(t_v[:, 1]))
        assert relative(t_v[:, 0], want_v[:, 0]) < 1e-9
        assert abs(t_w[0] - want_w[0]) < 1e-9

    def test_left_vectors_are_kept_dual_to_all_right_ones(self):
        a, e = self.problem()

        def f(a):
            adjoint = ONE(FEW_STEPS["lineax GMRES"])
            s = ieig.eigs(a, 2, "LR", left=True, adjoint=adjoint, throw=False)
            return s.eigenvalues, s.eigenvectors, s.left_eigenvectors

        _, (t_w, t_v, t_u) = jax.jit(lambda a: jax.jvp(f, (a,), (e,)))(a)
        assert np.all(np.isfinite(t_w)) and np.all(np.isfinite(t_v[:, 0]))
        assert np.all(np.isnan(t_v[:, 1])) and np.all(np.isnan(t_u))

    @pytest.mark.parametrize("noise", slow_but([1e-9], [1e-9, 1e-6, np.nan]))
    def test_the_error_says_how_far_off_it_is(self, noise):
        class Noisy(ieig.AbstractSylvesterSolver):
            def solve(self, system, rhs, **kwargs):
                exact = Columnwise(lx.LU()).solve(system, rhs, **kwargs)
                random = random_matrix(0, rhs.shape[0])[:, : rhs.shape[1]]
                return exact + jnp.where(jnp.any(rhs != 0), noise, 0) * random

        a, e = self.problem()
        with pytest.raises(RUNTIME, match=r"rtol=3.7e-11") as error:
            self.tangents(a, e, Noisy(), throw=None)
        error_is = re.search(r"backward error is (\S+) ", str(error.value))
        if np.isnan(noise):
            assert error_is is None
        else:
            assert 1e-3 < float(error_is[1]) / noise < 1e3


def test_a_start_vector_of_a_program_is_checked_when_it_is_traced():
    def run(a, v0):
        return jax.jit(lambda a: ieig.eigs(apply, 1, like=X, v0=v0).eigenvalues)(a)

    assert jnp.isfinite(run(A, X)[0])
    raises(lambda: run(A, 0 * X), ValueError, "`v0` is zero")


class TestWhatIsNotLinear:
    """A matrix is made of the operator, and would lose what is not linear."""

    @staticmethod
    def boundary(u):
        u = jnp.concatenate([jnp.ones(1), u, jnp.zeros(1)])
        return (u[2:] - 2 * u[1:-1] + u[:-2]) * 31.0**2

    FUNCTIONS: ClassVar = {
        "a boundary value": boundary.__func__,
        "a modulus": lambda u: jnp.abs(u) * jnp.arange(1.0, 31.0),
        "a square": lambda u: u + 0.1 * u**2,
    }

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_it_is_refused(self, name):
        fn, like = self.FUNCTIONS[name], jnp.zeros(30)
        with pytest.raises(RUNTIME, match="not linear"):
            ieig.eigs(fn, 2, sigma=0.1, like=like)
        s = jax.jit(lambda: ieig.eigs(fn, 2, sigma=0.1, like=like))()
        assert s.result == ieig.RESULTS.not_linear
        assert np.isnan(s.eigenvalues).all()

    def test_a_mass_matrix_too(self):
        fn = lambda u: u + 1.0
        with pytest.raises(RUNTIME, match="not linear"):
            ieig.eigs(BIG, 2, mass=fn, eigensolver=ieig.Dense())

    def test_what_is_linear_passes_and_costs_one_product_more(self):
        filtered = 1e5 * jnp.arange(30).astype(complex)
        fn = lambda u: jnp.fft.ifft(filtered * jnp.fft.fft(u)).real
        s = ieig.eigs(fn, 2, sigma=0.1, like=jnp.zeros(30))
        assert np.isfinite(s.eigenvalues).all()
        assert s.result == ieig.RESULTS.cut_tie  # the eigenvalues are pairs
        assert s.stats["num_matvecs"] == 31
