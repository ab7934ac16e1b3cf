"""Eigensolvers that are not ours: ARPACK on the host, and one written by a user."""

import functools
import inspect
import itertools
import re
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import random_matrix, relative, slow_but


N, K = 40, 3


def matrix(dtype=np.float64, seed=0):
    a = np.array(random_matrix(seed, N, dtype))
    return np.where(np.abs(np.subtract.outer(range(N), range(N))) < 6, a, 0)


ROWS, COLUMNS = np.nonzero(np.abs(np.subtract.outer(range(N), range(N))) < 6)


def sparse(values):
    return ieig.SparseOperator(values, ROWS, COLUMNS, N)


def loss(solution):
    w, v = solution.eigenvalues, solution.eigenvectors
    weight = jnp.asarray(np.linspace(0.5, 2.0, v.size).reshape(v.shape))
    return jnp.sum(weight * jnp.abs(v) ** 2) + jnp.sum((w * w).real)


class TestArpack:
    @pytest.mark.parametrize(
        "dtype, which, k",
        slow_but(
            [
                (np.complex128, "LR", 4),
                (np.float64, "LI", 4),
            ],
            itertools.product(
                [np.float64, np.complex128], ["LM", "LR", "SR", "LI"], [2, 3, 4]
            ),
        ),
    )
    def test_it_finds_what_the_dense_spectrum_has(self, dtype, which, k):
        a = matrix(dtype)
        ours = ieig.eigs(a, k, which, eigensolver=ieig.Arpack())
        full = ieig.eigs(a, k, which, eigensolver=ieig.Dense())
        np.testing.assert_allclose(ours.eigenvalues, full.eigenvalues, rtol=1e-8)
        assert np.max(ours.residuals) < 1e-9
        assert ours.stats["num_matvecs"] > k

    @pytest.mark.parametrize("sigma", slow_but([1 + 1j], [0.3, 1 + 1j]))
    def test_a_target(self, sigma):
        a = matrix()
        ours = ieig.eigs(a, K, sigma=sigma, eigensolver=ieig.Arpack())
        full = ieig.eigs(a, K, sigma=sigma, eigensolver=ieig.Dense())
        np.testing.assert_allclose(ours.eigenvalues, full.eigenvalues, rtol=1e-8)

    @pytest.mark.slow
    def test_gradients_are_those_of_every_other_eigensolver(self):
        def f(values, eigensolver):
            return loss(ieig.eigs(sparse(values), K, "LR", eigensolver=eigensolver))

        values = jnp.asarray(matrix()[ROWS, COLUMNS])
        ours = jax.jit(jax.grad(f), static_argnums=1)(values, ieig.Arpack(1e-12))
        assert relative(ours, jax.grad(f)(values, ieig.Dense())) < 1e-8

    def test_a_batch(self):
        batch = jnp.stack([jnp.asarray(matrix(seed=s)[ROWS, COLUMNS]) for s in (0, 1)])
        run = lambda v, solver: (
            ieig.eigs(sparse(v), K, "LR", eigensolver=solver, throw=False).eigenvalues
        )
        together = jax.vmap(lambda v: run(v, ieig.Arpack()))(batch)
        for w, v in zip(together, batch, strict=True):
            np.testing.assert_allclose(w, run(v, ieig.Dense()), rtol=1e-8)

    def test_the_pairs_that_converged_come_back(self):
        solver = ieig.Arpack(rtol=1e-12, krylov_dim=8, max_restarts=4)
        solution = ieig.eigs(matrix(), 4, "LM", eigensolver=solver, throw=False)
        assert solution.result == ieig.RESULTS.not_converged
        count = int(solution.stats["num_converged"])
        full = ieig.eigs(matrix(), 4, "LM", eigensolver=ieig.Dense()).eigenvalues
        assert count < 4
        np.testing.assert_allclose(solution.eigenvalues[:count], full[:count], rtol=1e-8)
        assert np.isnan(solution.eigenvalues[count:]).all()

    def test_a_start_vector_hides_nothing(self):
        # A chain, similar to a symmetric one, whose modes are known; warm starts at
        # another mode, of the other parity, inside a block, and at the best one.
        d = np.concatenate([np.linspace(0, 1, 38), [3.0, 2.0]])
        a = np.diag(d) + np.diag(0.1 * (np.arange(39) < 20), 1)
        for v0 in (np.eye(40)[39], np.arange(40) < 20, np.eye(40)[38], np.eye(40)[5]):
            s = ieig.eigs(
                a, 2, "LR", v0=v0.astype(float), eigensolver=ieig.Arpack(), throw=False
            )
            np.testing.assert_allclose(s.eigenvalues, [3, 2], rtol=1e-9)

    def test_a_loose_tolerance_is_met_and_said(self):
        a = matrix(seed=3)
        full = ieig.eigs(a, 2, "LR", eigensolver=ieig.Dense())
        s = ieig.eigs(a, 2, "LR", eigensolver=ieig.Arpack(rtol=1e-4))
        np.testing.assert_allclose(s.eigenvalues, full.eigenvalues, rtol=1e-2)
        assert s.result == ieig.RESULTS.unconfirmed
        assert s.stats["num_converged"] == 2

    def test_a_nan_is_reported(self):
        a = matrix()
        a[2, 2] = np.nan
        solution = ieig.eigs(a, K, eigensolver=ieig.Arpack(), throw=False)
        assert solution.result == ieig.RESULTS.nonfinite

    @pytest.mark.parametrize(
        ("kwargs", "text"),
        [
            ({"left": True}, "left vectors"),
            ({"mass": jnp.eye(N)}, "mass="),
            ({"which": lambda w: w.real}, "which="),
            ({"k": N - 1}, f"k = {N - 1}"),
            ({"operator": lambda v: v, "like": jnp.zeros(N)}, "FunctionLinearOperator"),
        ],
    )
    def test_what_it_cannot_do_is_refused(self, kwargs, text):
        kwargs = {"operator": matrix(), "k": K, "eigensolver": ieig.Arpack()} | kwargs
        with pytest.raises(ValueError, match=re.escape(text)):
            ieig.eigs(**kwargs)


class TestAnEigensolverOfOnesOwn:
    def example(self):
        text = inspect.getdoc(ieig.AbstractEigensolver)
        code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
        return inspect.cleandoc("\n" + code)

    @pytest.mark.parametrize("k", slow_but([1], [1, 2, 3]))  # 1 cuts a pair
    def test_the_documented_one_runs_and_differentiates(self, k):
        a = np.array(random_matrix(0, 12)) / 12
        a[:3, :3] += np.array([[3.0, 1, 0], [-1, 3.0, 0], [0, 0, 2.0]])
        names = {"ieig": ieig, "jax": jax, "jnp": jnp, "a": a}
        exec(self.example(), names)
        solver = names["SubspaceIteration"]()
        f = lambda a, s: loss(ieig.eigs(a, k, eigensolver=s))
        ours = ieig.eigs(a, k, eigensolver=solver)
        full = ieig.eigs(a, k, eigensolver=ieig.Dense())
        np.testing.assert_allclose(ours.eigenvalues, full.eigenvalues, rtol=1e-10)
        gradients = [jax.grad(f)(jnp.asarray(a), s) for s in (solver, ieig.Dense())]
        assert relative(*gradients) < 1e-9

    def test_pairs_that_are_none_are_seen(self):
        a = np.array(random_matrix(0, 12))
        names = {"ieig": ieig, "jax": jax, "jnp": jnp, "a": np.diag([2.0, 1.0])}
        exec(self.example().replace("k=2, ", "k=1, "), names)
        solver = names["SubspaceIteration"](num_steps=2)
        solution = ieig.eigs(a, 2, eigensolver=solver, throw=False)
        assert solution.result == ieig.RESULTS.not_converged


class Given(ieig.AbstractEigensolver):
    """The pairs of NumPy, some of them spoiled, in some form."""

    form: Callable = eqx.field(static=True)

    def compute(self, pencil, selection, k, *, v0, left, progress_meter):
        w, u, v = jax.lax.linalg.eig(pencil.operator.as_matrix())
        w, v, options = self.form(w, v, u if left else None)
        return ieig.InvariantBlock.from_pairs(pencil, selection, k, w, v, **options)


def spoil(*ranks):
    """The pairs at these places from the right get wrong vectors."""

    def form(w, v, u):
        place = jnp.argsort(jnp.argsort(-w.real))
        wrong = jnp.isin(place, jnp.asarray(ranks, place.dtype))
        return w, jnp.where(wrong, v + 0.01, v), {}

    return form


class TestPairsOfOnesOwn:
    """Whatever is given, derivatives are those of the pairs that are right."""

    real = np.array([6.0, 5, 4, 3, 2, 1])
    rng = np.random.default_rng(0)
    right = np.eye(6) + 0.5 * rng.normal(size=(6, 6))

    def matrix(self, blocks=False):
        d = np.diag(self.real)
        if blocks:  # 5 ± 2i behind 6, and 2 ± i
            d[1:3, 1:3] = [[5, 2], [-2, 5]]
            d[4:, 4:] = [[2, 1], [-1, 2]]
        return jnp.asarray(self.right @ d @ np.linalg.inv(self.right))

    def gradient(self, a, form, k, i):
        def value(a):
            s = ieig.eigs(a, k, "LR", eigensolver=Given(form), throw=False)
            return s.eigenvalues[i].real, s

        return jax.grad(value, has_aux=True)(a)

    @pytest.mark.parametrize(
        "ranks, k, good",
        slow_but([((1,), 3, [6, 4])], [((0,), 2, [5]), ((1,), 3, [6, 4])]),
    )
    def test_a_pair_that_did_not_converge_has_no_part_in_those_that_did(
        self, ranks, k, good
    ):
        a, left = self.matrix(), np.linalg.inv(self.right)
        for i, value in enumerate(good):
            gradient, s = self.gradient(a, spoil(*ranks), k, i)
            j = np.flatnonzero(self.real == value)[0]
            assert relative(gradient, np.outer(left[j], self.right[:, j])) < 1e-10
            assert np.isclose(s.eigenvalues[i], value)
        assert s.result == ieig.RESULTS.not_converged
        assert s.stats["num_converged"] == len(good)
        assert np.all(np.isnan(self.gradient(a, spoil(*ranks), k, len(good))[0]))

    def test_of_a_conjugate_pair_both_members_or_none(self):
        a = self.matrix(blocks=True)

        def lower_member(w, v, u):
            wrong = (w.imag < 0) & (w.real > 4)
            return jnp.where(wrong, w + 0.1, w), v, {}

        gradient, s = self.gradient(a, lower_member, 3, 0)
        full = jax.grad(lambda a: ieig.eigs(a, 1, "LR").eigenvalues[0].real)(a)
        assert np.isclose(s.eigenvalues[0], 6) and relative(gradient, full) < 1e-10
        assert s.result == ieig.RESULTS.not_converged
        assert s.stats["num_converged"] == 1

    def test_real_arrays_are_taken(self):
        a = self.matrix()
        real = lambda w, v, u: (w.real, 7 * v.real, {})
        for i in range(2):
            gradient, s = self.gradient(a, real, 2, i)
            full = jax.grad(lambda a, i=i: ieig.eigs(a, 2, "LR").eigenvalues[i].real)(a)
            assert relative(gradient, full) < 1e-10
            assert s.result == ieig.RESULTS.successful

    def test_vectors_of_any_scale_and_phase(self):
        a = self.matrix(blocks=True)
        factors = 1e-200 * np.exp(1j * (1.3 + np.arange(6)))
        turned = lambda w, v, u: (w, v * jnp.asarray(factors), {})
        f = lambda a, **kw: loss(ieig.eigs(a, 3, "LR", **kw))
        ours = jax.grad(functools.partial(f, eigensolver=Given(turned)))
        assert relative(ours(a), jax.grad(f)(a)) < 1e-9

    def test_left_vectors_are_taken_and_judged(self):
        a = self.matrix(blocks=True)
        given = lambda w, v, u: (w, v, {"left": 3j * u})
        s = ieig.eigs(a, 3, "LR", left=True, eigensolver=Given(given))
        full = ieig.eigs(a, 3, "LR", left=True)
        assert relative(s.condition_numbers, full.condition_numbers) < 1e-10
        assert relative(s.left_eigenvectors, full.left_eigenvectors) < 1e-10
        wrong = lambda w, v, u: (w, v, {"left": u + 1e-2})
        s = ieig.eigs(a, 3, "LR", left=True, eigensolver=Given(wrong), throw=False)
        assert s.result == ieig.RESULTS.left_not_found

    @pytest.mark.parametrize(
        "form, text",
        [
            (lambda w, v, u: (w, v[:, :3], {}), "(6, 3)"),
            (lambda w, v, u: (w[:1], v[:, :1], {}), "(1,)"),
            (lambda w, v, u: (w, v, {"left": v[0]}), "`left`"),
        ],
    )
    def test_shapes_that_do_not_fit_are_refused(self, form, text):
        with pytest.raises(ValueError, match=re.escape(text)):
            ieig.eigs(self.matrix(), 2, eigensolver=Given(form))
