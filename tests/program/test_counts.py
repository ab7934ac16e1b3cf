"""What a gradient costs, in linear solves and in products with A."""

import itertools
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import random_matrix, relative, slow_but


N, K = 60, 3


class Counted(ieig.AbstractSylvesterSolver):
    """Counts calls, on the host, and passes them on."""

    calls: itertools.count = eqx.field(static=True)
    inner: ieig.AbstractSylvesterSolver = ieig.KrylovSylvester()

    def solve(self, system, rhs, **kwargs):
        # Not an effect: that would keep solves alive that nothing needs.
        add = lambda entry: (next(self.calls), entry)[1]
        entry = jax.pure_callback(add, rhs[0, 0], rhs[0, 0])
        return self.inner.solve(system, rhs.at[0, 0].set(entry), **kwargs)


def operator(a):
    return lx.FunctionLinearOperator(
        lambda v: a @ v, jax.ShapeDtypeStruct((a.shape[0],), a.dtype)
    )


def eigs(a, matrix_free, **kwargs):
    krylov = ieig.KrylovSchur(krylov_dim=20)
    if matrix_free:
        return ieig.eigs(operator(a), K, "LR", eigensolver=krylov, **kwargs)
    return ieig.eigs(a, K, "LR", **kwargs)


def values(s):
    return jnp.sum((s.eigenvalues**3).real)


def vectors(s):
    return jnp.sum(jnp.abs(s.eigenvectors[:5]) ** 4)


@pytest.mark.parametrize(
    "matrix_free, left, loss, solves, jit",
    [
        (False, False, values, 0, False),
        (False, True, values, 0, True),
        (True, True, values, 0, True),
        (True, False, values, 1, False),
        (False, False, vectors, 1, True),
        (True, False, vectors, 1, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (False, False, values, 0, True),
                (False, True, values, 0, False),
                (True, True, values, 0, False),
                (True, False, values, 1, True),
                (False, False, vectors, 1, False),
                (True, False, vectors, 1, False),
            )
        ),
    ],
)
def test_linear_solves_of_a_gradient(matrix_free, left, loss, solves, jit):
    calls = itertools.count()
    adjoint = ieig.ImplicitAdjoint(Counted(calls))
    f = jax.grad(lambda a: loss(eigs(a, matrix_free, left=left, adjoint=adjoint)))
    a = random_matrix(0, N)
    gradient = (jax.jit(f) if jit else f)(a)
    assert next(calls) == solves
    want = jax.grad(lambda a: loss(eigs(a, False)))(a)
    assert relative(gradient, want) < 1e-8


class Careless(ieig.AbstractSylvesterSolver):
    """By an inverse that is made once, and an answer that has to be refined."""

    made: itertools.count = eqx.field(static=True)
    used: itertools.count = eqx.field(static=True)

    @staticmethod
    def counted(calls, x):
        add = lambda entry: (next(calls), entry)[1]
        entry = jax.pure_callback(add, x[0, 0], x[0, 0])
        return x.at[0, 0].set(entry)

    def init(self, system, options):
        assert set(options) == {
            "selection", "k", "preconditioner", "transformation", "rtol"
        }  # fmt: skip
        shape = system.domain_basis.shape
        column = lambda y: system.mm(y.reshape(shape)).ravel()
        matrix = jax.vmap(column)(jnp.eye(np.prod(shape))).T
        return self.counted(self.made, jnp.linalg.inv(matrix))

    def compute(self, state, rhs):
        answer = (state @ rhs.ravel()).reshape(rhs.shape)
        return self.counted(self.used, (1 - 1e-7) * answer)


def test_a_solvers_state_is_made_once_however_often_its_answer_is_refined():
    made, used = itertools.count(), itertools.count()
    adjoint = ieig.ImplicitAdjoint(Careless(made, used))
    f = lambda a, adjoint: vectors(ieig.eigs(a, 1, "LR", adjoint=adjoint))
    a = jnp.diag(jnp.arange(12.0)) + random_matrix(0, 12) / 20
    gradient = jax.grad(f)(a, adjoint)
    assert (next(made), next(used)) == (1, 2)
    assert relative(gradient, jax.grad(f)(a, None)) < 1e-8


def test_a_sylvester_solver_without_a_method_is_named():
    class Idle(ieig.AbstractSylvesterSolver):
        pass

    f = lambda a: vectors(ieig.eigs(a, 1, adjoint=ieig.ImplicitAdjoint(Idle())))
    with pytest.raises(NotImplementedError, match="Idle has neither"):
        jax.grad(f)(random_matrix(0, 5))


def test_the_forward_run_alone_solves_nothing():
    calls = itertools.count()
    adjoint = ieig.ImplicitAdjoint(Counted(calls))
    eigs(random_matrix(0, N), True, adjoint=adjoint)
    assert next(calls) == 0


def test_a_gradient_costs_about_one_more_eigensolve():
    counting = ieig.CountingOperator(operator(random_matrix(0, 300)))
    arrays, static = eqx.partition(counting, eqx.is_inexact_array)

    def f(arrays):
        op = eqx.combine(arrays, static)
        s = ieig.eigs(op, K, "LR", eigensolver=ieig.KrylovSchur(krylov_dim=20))
        return values(s) + vectors(s), s.stats["num_matvecs"]

    _, forward = f(arrays)
    assert counting.counts() == (forward, 0)
    counting.reset()
    jax.grad(f, has_aux=True)(arrays)
    # The block products of the Jacobian and of S come on top of the two runs.
    assert sum(counting.counts()) <= 2.1 * forward + 4 * (K + 1)


GMRES = lx.GMRES(1e-9, 1e-12, restart=100)


@pytest.mark.parametrize(
    "solver, dtype",
    slow_but(
        [(GMRES, np.float64)],
        itertools.product([None, GMRES], [np.float64, np.complex128]),
    ),
)
def test_a_loss_on_one_pair_leaves_the_others_systems_alone(solver, dtype):
    # Their right sides are rounding errors, which cannot be solved to their own size.
    a = random_matrix(0, 100, dtype)
    counting = ieig.CountingOperator(operator(a))
    krylov = ieig.KrylovSchur(krylov_dim=30)

    def f(a, k):
        op = eqx.tree_at(lambda c: c.operator, counting, operator(a))
        adjoint = ieig.ImplicitAdjoint(solver)
        s = ieig.eigs(op, k, "LR", eigensolver=krylov, adjoint=adjoint)
        return s.eigenvalues[0].real

    gradient = jax.jit(jax.grad(f), static_argnums=1)
    got = gradient(a, 5)
    want = jax.grad(lambda a: ieig.eigs(a, 1, "LR").eigenvalues[0].real)(a)
    assert relative(got, want) < 1e-8
    if solver is not None:
        _, many = counting.counts()
        counting.reset()
        gradient(a, 1)
        _, one = counting.counts()
        assert many <= 1.5 * one


def decompositions(fn, *args):
    """The shapes of what is decomposed, however often it runs, in the program of fn."""
    found = []

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("eig", "lu"):
                found.append((equation.primitive.name, equation.invars[0].aval.shape))
            for inner in jax.tree.leaves(equation.params, is_leaf=is_program):
                if is_program(inner):
                    look(getattr(inner, "jaxpr", inner))

    look(jax.make_jaxpr(fn)(*args).jaxpr)
    return sorted(found)


def is_program(x):
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


@pytest.mark.parametrize(
    "derivative", [jax.grad, jax.jacfwd, jax.hessian, lambda f: jax.jacrev(jax.grad(f))]
)
def test_all_derivatives_of_all_pairs_share_one_decomposition(derivative):
    """However many tangents: one `geev`, and one LU of its eigenvectors."""
    a = random_matrix(0, 6)
    f = lambda a: vectors(ieig.eig(a))
    assert decompositions(derivative(f), a) == [("eig", (6, 6)), ("lu", (1, 6, 6))]


def test_the_cost_does_not_grow_with_the_number_of_parameters():
    a = random_matrix(0, N)
    n = jnp.arange(N)

    def count(parameters):
        tally = []

        def f(theta):
            full = a.at[n, n].add(theta * jnp.ones(N))
            op = ieig.CountingOperator(operator(full))
            tally.append(op)
            s = ieig.eigs(op, K, "LR", eigensolver=ieig.KrylovSchur(krylov_dim=20))
            return vectors(s)

        jax.grad(f)(parameters)
        return tally[0].counts()

    assert count(jnp.asarray(0.0)) == count(jnp.zeros(N))


def test_importing_the_package_is_cheap():
    code = (
        "import sys, time; clock = time.process_time; start = clock(); "
        "import jax, lineax; before = set(sys.modules); theirs = clock() - start; "
        "import implicit_eig; ours = clock() - start - theirs; "
        "print(ours / theirs, *(set(sys.modules) - before))"
    )
    run = lambda: subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    runs = [run() for _ in range(3)]
    # In terms of JAX's own import: other work on the machine slows both.
    assert min(float(ratio) for ratio, *_ in runs) < 0.5
    roots = {module.split(".")[0] for module in runs[0][1:]}
    assert not roots & {"scipy", "jaxopt", "matplotlib", "tqdm", "optimistix"}


def test_members_of_a_batch_take_the_products_they_take_alone():
    """In lockstep each of them would take those of the slowest."""
    if jax.default_backend() != "cpu":
        pytest.skip("elsewhere the members of a batch run together")
    # The second one's eigenvalues are closer together.
    rates = jnp.stack([jnp.linspace(0.0, 1.0, N) ** p for p in (4.0, 0.25)])
    plain = lx.DiagonalLinearOperator(rates[0])
    counting = ieig.CountingOperator(plain)

    @jax.vmap
    def find(rates):
        one = eqx.tree_at(lambda c: c.operator.diagonal, counting, rates)
        s = ieig.eigs(one, K, "LR", eigensolver=ieig.KrylovSchur(krylov_dim=12))
        return s.eigenvalues, s.stats["num_matvecs"]

    values, products = find(rates)
    assert relative(values, rates[:, : -K - 1 : -1]) < 1e-8
    assert products[1] > products[0]
    assert sum(counting.counts()) == jnp.sum(products)
