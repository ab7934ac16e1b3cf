"""Published and closed-form sensitivities, to what double precision permits."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import implicit_eig as ieig

from .. import problems
from ..oracles import relative, slow_but


PUBLISHED = json.loads(
    (pathlib.Path(__file__).parents[1] / "data" / "published.json").read_text()
)
EPS = np.finfo(float).eps


def numbers(x):
    """50-digit strings, possibly nested, as an array."""
    return np.array(x, dtype=object).astype(float)


def matrix_of(name, key="A"):
    return jnp.asarray(numbers(PUBLISHED[name][key]))


def stage_distribution(a):
    """The dominant pair of a population matrix, its vector scaled to sum one."""
    total = ieig.Functional(jnp.ones(a.shape[0]))
    solution = ieig.eigs(a, 1, "LR", gauge=total, left=True)
    v, u = solution.eigenvectors[:, 0].real, solution.left_eigenvectors[:, 0].real
    return solution.eigenvalues[0].real, v, u / u[0]


@pytest.mark.slow  # docs/examples/population.py checks the same on every run
@pytest.mark.parametrize("name", ["killer_whale", "desert_tortoise_medhigh"])
class TestPopulations:
    def reference(self, name):
        entry = PUBLISHED[name]
        return matrix_of(name), entry["reference_50_digits"], entry["literature"]

    def test_growth_rate_stage_distribution_and_reproductive_values(self, name):
        a, exact, literature = self.reference(name)
        growth, stages, values = jax.jit(stage_distribution)(a)
        assert abs(growth - numbers(exact["lam"])) < 20 * EPS
        assert relative(stages, numbers(exact["w"])) < 50 * EPS
        assert relative(values, numbers(exact["v"])) < 50 * EPS
        digits = len(str(literature["lam"]).split(".")[1])
        assert abs(growth - literature["lam"]) < 0.6 * 10.0**-digits

    def test_sensitivities_and_elasticities_of_the_growth_rate(self, name):
        a, exact, _ = self.reference(name)
        krylov = ieig.KrylovSchur()
        ways = {
            "dense": (lambda a: stage_distribution(a)[0], 50 * EPS),
            "full": (lambda a: jnp.max(ieig.eigvals(a).real), 50 * EPS),
            # Stops at its tolerance, eps^(2/3).
            "products": (
                lambda a: (
                    ieig.eigs(lambda v: a @ v, 1, "LR", like=a[0], eigensolver=krylov)
                    .eigenvalues[0]
                    .real
                ),
                10 * EPS ** (2 / 3),
            ),
        }
        for growth, bound in ways.values():
            value, s = jax.jit(jax.value_and_grad(growth))(a)
            elasticity = a * s / value
            assert relative(s, numbers(exact["S"])) < bound
            assert relative(elasticity, numbers(exact["E"])) < bound
            assert np.isclose(jnp.sum(elasticity), 1, rtol=bound)

    def test_derivatives_of_the_stage_distribution(self, name):
        a, exact, _ = self.reference(name)
        f = lambda a: stage_distribution(a)[1]
        for jacobian in (jax.jacfwd, jax.jacrev):
            slopes = jax.jit(jacobian(f))(a)
            for where, want in exact["dw_da"].items():
                i, j = map(int, where.split(","))
                assert relative(slopes[:, i, j], numbers(want)) < 500 * EPS


def test_condition_numbers_of_moler_s_gallery():
    entry = PUBLISHED["gallery3_condeig"]
    a = matrix_of("gallery3_condeig")
    solution = ieig.eigs(a, None, "SM", left=True)
    exact = numbers(entry["reference_50_digits"]["condeig"])
    # The eigenvalues themselves are known to κ eps ‖A‖ only.
    rtol = exact.max() * EPS * np.linalg.norm(a)
    np.testing.assert_allclose(
        solution.eigenvalues, entry["literature"]["eigs"], atol=rtol
    )
    np.testing.assert_allclose(solution.condition_numbers, exact, rtol=rtol)
    published = entry["literature"]["condeig"]
    np.testing.assert_allclose(solution.condition_numbers, published, rtol=2e-6)
    kappa = np.linalg.cond(np.asarray(solution.eigenvectors))
    assert np.isclose(kappa, numbers(entry["reference_50_digits"]["condV"]), rtol=rtol)

    def value(a, i):
        return ieig.eigs(a, None, "SM").eigenvalues[i].real

    for i in range(3):
        gradient = jax.grad(value)(a, i)
        assert np.isclose(np.linalg.norm(gradient), exact[i], rtol=rtol)


def test_page_rank_and_its_dependence_on_the_damping():
    entry = PUBLISHED["pagerank_bryan_leise"]
    links = matrix_of("pagerank_bryan_leise", "L")
    total = ieig.Functional(jnp.ones(4))

    def rank(damping):
        mv = lambda x: (1 - damping) * (links @ x) + damping / 4 * jnp.sum(x)
        solution = ieig.eigs(mv, 1, like=links[0], gauge=total)
        return solution.eigenvectors[:, 0].real

    exact = {k: numbers(x) for k, x in entry["reference_50_digits"].items()}
    run = jax.jit(lambda m: jax.jvp(rank, (m,), (1.0,)))
    x, dx = run(0.15)
    assert relative(x, exact["x_m015"]) < 10 * EPS
    assert relative(dx, exact["dx_dm_at_015"]) < 50 * EPS
    assert relative(jax.jit(jax.jacrev(rank))(0.15), dx) < 50 * EPS
    np.testing.assert_allclose(x, entry["literature"]["m015"], atol=6e-4)
    assert relative(run(0.0)[0], exact["x_m0"]) < 10 * EPS
    fractions = [np.divide(*map(int, f.split("/"))) for f in entry["literature"]["m0"]]
    assert relative(run(0.0)[0], fractions) < 10 * EPS


class TestMarkovStateModels:
    literature = PUBLISHED["msm_sensitivity_deeptime"]["literature"]

    def test_eigenvalues_of_two_states(self):
        t = jnp.asarray(self.literature["T2"])
        for k in (0, 1):
            f = lambda t, k=k: ieig.eigs(t, 2, "LR").eigenvalues[k].real
            want = np.array(self.literature[f"dlam{k}"])
            np.testing.assert_allclose(jax.jit(jax.grad(f))(t), want, atol=1e-14)

    # Unit 2-norm; the sign of a vector there is the one LAPACK returned.
    @pytest.mark.parametrize(
        "name, k, j, sign",
        slow_but(
            [("mV11", 1, 1, 1)],
            [("mV11", 1, 1, 1), ("mV22", 2, 2, 1), ("mV03", 0, 3, -1)],
        ),
    )
    def test_entries_of_eigenvectors_of_four_states(self, name, k, j, sign):
        t = matrix_of("msm_sensitivity_deeptime")
        gauge = ieig.UnitNorm(index=j)

        def entry(t):
            vectors = ieig.eigs(t, k + 1, "LR", gauge=gauge).eigenvectors
            return sign * vectors[j, k].real

        # Printed to seven digits, right to six.
        want = np.array(self.literature[name])
        gradient = jax.jit(jax.grad(entry))(t)
        np.testing.assert_allclose(gradient, want, atol=1e-5)


class TestBrusselator:
    """The instability of the steady state as the tube grows."""

    entry = PUBLISHED["brusselator_critical_L"]
    length = 0.51302

    def rightmost(self, n, **kwargs):
        like = jnp.zeros(2 * n)

        def f(length):
            solution = ieig.eigs(
                problems.brusselator(n, length), 2, "LR", like=like, **kwargs
            )
            return solution.eigenvalues[0]

        return f

    def closed(self, n):
        def f(length):
            w = problems.brusselator_eigenvalues(n, length)
            # Of two values with equal real parts the one above the axis.
            return w[jnp.argmax(w.real + EPS * w.imag)]

        return f

    @pytest.mark.parametrize("solver", [ieig.Dense(), ieig.KrylovSchur(krylov_dim=30)])
    def test_derivative_of_the_rightmost_pair_agrees_with_the_closed_form(self, solver):
        found, closed = self.rightmost(30, eigensolver=solver), self.closed(30)

        def growth_and_frequency(f):
            split = lambda x: (lambda w: (w.real, w.imag))(f(x))
            return jax.jit(jax.value_and_grad(split, has_aux=True))(self.length)

        value, slope = growth_and_frequency(found)
        want, wanted = growth_and_frequency(closed)
        np.testing.assert_allclose(value, want, atol=1e-9)
        assert np.isclose(slope, wanted, rtol=1e-8)

    def attached(self, n):
        """The rightmost pair is known: a 2×2 problem times the first sine."""
        x = np.sin(np.pi * np.arange(1, n + 1) / (n + 1))

        def at(length):
            w, v = np.linalg.eig(problems.brusselator_blocks(n, length)[0])
            u = np.linalg.inv(v).conj().T
            i = np.argmax(w.imag)
            right, left = (np.kron(y[:, i], x)[:, None] for y in (v, u))

            def eigenvalue(parameter):
                solution = ieig.attach(
                    problems.brusselator(n, parameter),
                    w[i : i + 1],
                    right,
                    left,
                    like=jnp.zeros(2 * n),
                )
                return solution.eigenvalues[0].real, solution.eigenvalues[0].imag

            return jax.value_and_grad(eigenvalue, has_aux=True)(length)

        return at

    @pytest.mark.slow
    def test_the_critical_length_by_newton_s_method(self):
        n, length = 2000, self.length
        exact = self.entry["reference_50_digits"]
        at = self.attached(n)
        for _ in range(2):
            (growth, frequency), slope = at(length)
            length = length - growth / slope
        assert abs(length - exact["L_n2000"]) < 1e-11
        assert abs(length - self.entry["literature"]["L"]) < 6e-6
        assert abs(frequency - exact["imag"]) < 1e-9
        assert abs(frequency - self.entry["literature"]["imag"]) < 2e-5


class TestClosedForms:
    def test_clement_s_eigenvalues_and_their_square_root_law(self):
        n = 20

        def values(above, below):
            solution = ieig.eigs(problems.clement(n, above, below), None, "LR", left=True)
            return solution.eigenvalues.real, solution.condition_numbers

        (w, kappa), (t, _) = jax.jit(lambda a, b: jax.jvp(values, (a, b), (1.0, 0.0)))(
            1.0, 1.0
        )
        exact = problems.clement_eigenvalues(n)
        # Each value is known to its own condition number; λ(a, b) = λ √(ab).
        bound = 10 * EPS * n * np.asarray(kappa)
        assert np.all(np.abs(w - exact) < bound)
        assert np.all(np.abs(t - exact / 2) < 1e3 * bound)
        _, (t, _) = jax.jit(lambda a, b: jax.jvp(values, (a, b), (1.0, -1.0)))(1.0, 1.0)
        assert np.all(np.abs(t) < 1e3 * bound)

    def test_a_chain_of_unequal_hopping(self):
        n, hopping = 30, (2.0, 0.5, 1.0)
        first = ieig.Functional(jnp.eye(n)[0])

        def found(*hopping):
            a = problems.hatano_nelson(n, *hopping)
            solution = ieig.eigs(a, 4, "LR", gauge=first)
            return solution.eigenvalues.real, solution.eigenvectors.real

        def exact(*hopping):
            w, v = problems.hatano_nelson_pairs(n, *hopping)
            return w[:4], v[:, :4] / v[0, :4]

        for i in range(3):
            seed = tuple(float(i == j) for j in range(3))
            both = lambda f, s=seed: jax.jit(lambda *x: jax.jvp(f, x, s))(*hopping)
            (w, v), (t_w, t_v) = both(found)
            (x_w, x_v), (d_w, d_v) = both(exact)
            # κ(V) = 2^14.5, and vectors grow by 2^14.5 from the first entry on.
            assert relative(w, x_w) < 1e-11 and relative(v, x_v) < 1e-8
            assert relative(t_w, d_w) < 1e-9
            if i == 1:
                assert relative(t_v, 0 * v) < 1e-6 * np.linalg.norm(v)
            else:
                assert relative(t_v, d_v) < 1e-6

    def test_frank_s_matrix_of_order_twelve(self):
        a = problems.frank(12)
        solution = ieig.eigs(a, None, "LR", left=True)
        w = np.asarray(solution.eigenvalues)
        kappa = np.asarray(solution.condition_numbers)
        np.testing.assert_allclose(w[:6].real, problems.FRANK_12, rtol=3e-9)
        bound = 10 * EPS * np.linalg.norm(a) * kappa[6:]
        assert np.all(np.abs(w[6:] - 1 / w[5::-1]) < bound)
        assert kappa[:4].max() < 10 and kappa[6:].max() > 1e7

    def test_unselected_values_of_frank_s_matrix_do_not_spoil_selected_ones(self):
        a, k = problems.frank(12), 4
        w, u, v = scipy.linalg.eig(a, left=True)
        kappa = 1 / np.abs(np.sum(u.conj() * v, axis=0))
        gradient = jax.jit(jax.jacrev(lambda a: ieig.eigs(a, k, "LR").eigenvalues.real))(
            a
        )
        for i, j in enumerate(np.argsort(-w.real)[:k]):
            want = np.outer(u[:, j].conj(), v[:, j]) / np.vdot(u[:, j], v[:, j])
            assert relative(gradient[i], want) < 1e3 * kappa[j] * EPS

    def test_the_determinant_of_frank_s_matrix_through_all_its_eigenvalues(self):
        a = problems.frank(12)
        log_det = lambda a: jnp.sum(jnp.log(ieig.eigvals(a))).real
        gradient = jax.jit(jax.grad(log_det))(a)
        assert relative(gradient, jnp.linalg.inv(a).T) < 1e-6

    def test_a_random_walk_on_a_triangular_grid(self):
        m = 14
        krylov = ieig.KrylovSchur(krylov_dim=30)
        columns_sum = ieig.Functional(jnp.ones((m + 1) * (m + 2) // 2))

        def walk(bias):
            values, rows, columns, n = problems.random_walk(m, bias)
            return ieig.SparseOperator(values, rows, columns, n)

        def pairs(bias):
            solution = ieig.eigs(
                walk(bias), 3, "LR", eigensolver=krylov, gauge=columns_sum
            )
            return solution.eigenvalues.real, solution.eigenvectors[:, 0].real

        (w, stationary), (t_w, t) = jax.jit(lambda b: jax.jvp(pairs, (b,), (1.0,)))(1.0)
        np.testing.assert_allclose(w[:2], [1.0, 0.97137], rtol=1e-5)
        assert abs(w[0] - 1) < 1e-12
        # Every bias conserves probability, so the largest eigenvalue never moves.
        assert abs(t_w[0]) < 1e-10
        assert abs(jnp.sum(t)) < 1e-10
        p, dp = jax.jvp(lambda b: walk(b).as_matrix(), (1.0,), (1.0,))
        n = stationary.size
        system = jnp.eye(n) - p + jnp.ones((n, n)) / n
        assert relative(p @ stationary, stationary) < 1e-9
        assert relative(t, jnp.linalg.solve(system, dp @ stationary)) < 1e-7
        values, v = np.linalg.eig(np.asarray(p))
        slopes = np.diagonal(np.linalg.solve(v, np.asarray(dp) @ v)).real
        nearest = [np.argmin(np.abs(values - x)) for x in np.asarray(w)]
        np.testing.assert_allclose(t_w, slopes[nearest], atol=1e-8)
        smallest = ieig.eigs(walk(1.0), 2, "SR", eigensolver=krylov).eigenvalues.real
        np.testing.assert_allclose(smallest, -w[:2], rtol=1e-9)
