"""Eigensolvers that are not ours: ARPACK on the host, and one written by a user."""

import inspect
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from .oracles import random_matrix, relative, slow_but


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
                (np.float64, "LM", 2),
                (np.float64, "SR", 3),
                (np.complex128, "LI", 3),
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

    @pytest.mark.parametrize("sigma", [0.3, 1 + 1j])
    def test_a_target(self, sigma):
        a = matrix()
        ours = ieig.eigs(a, K, sigma=sigma, eigensolver=ieig.Arpack())
        full = ieig.eigs(a, K, sigma=sigma, eigensolver=ieig.Dense())
        np.testing.assert_allclose(ours.eigenvalues, full.eigenvalues, rtol=1e-8)

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

    def test_the_documented_one_runs_and_differentiates(self):
        a = np.array(random_matrix(0, 12)) / 12
        a[:3, :3] += np.array([[3.0, 1, 0], [-1, 3.0, 0], [0, 0, 2.0]])
        names = {"ieig": ieig, "jax": jax, "jnp": jnp, "a": a}
        exec(self.example(), names)
        solver = names["SubspaceIteration"]()
        for k in (1, 2, 3):  # 1 cuts a pair
            f = lambda a, s, k=k: loss(ieig.eigs(a, k, eigensolver=s))
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
