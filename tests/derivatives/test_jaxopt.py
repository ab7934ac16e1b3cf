"""jaxopt's linear solvers: right where they are let in, refused where they are wrong."""

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import random_matrix, relative, slow_but


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says that it is no longer maintained
    jaxopt = pytest.importorskip("jaxopt.linear_solve")

K, N = 2, 24
RUNTIME = (RuntimeError, jax.errors.JaxRuntimeError)
# A real pair apart, which makes one column of a real block.
B = (
    jnp.diag(jnp.linspace(5.0, 6.0, N).at[0].set(2.0))
    + jnp.triu(random_matrix(3, N), 1) / 20
)
PAIR = jnp.asarray([2.0]), jnp.eye(N)[:, :1]


def matrix(dtype=np.float64):
    a = np.array(random_matrix(0, N, dtype)) / dtype(2 * np.sqrt(N))
    a[:2, :2] += np.array([[3.0, 1.0], [-1.0, 3.0]], dtype)
    return jnp.asarray(a)


def gradient(a, solver, **kwargs):
    adjoint = ieig.ImplicitAdjoint(solver, **kwargs)

    def loss(a):
        s = ieig.eigs(a, K, "LR", adjoint=adjoint, throw=True)
        return jnp.sum(jnp.abs(s.eigenvectors[:7]) ** 4) + s.eigenvalues[0].imag

    return jax.jit(jax.grad(loss))(a)


def single(solver, **kwargs):
    adjoint = ieig.ImplicitAdjoint(solver, **kwargs)
    weight = random_matrix(4, N)[0]

    def f(b):
        s = ieig.attach(b, *PAIR, adjoint=adjoint, throw=True)
        return weight @ s.eigenvectors[:, 0].real

    return jax.jit(jax.grad(f))(B)


@pytest.mark.parametrize(
    "name, dtype",
    slow_but(
        [
            ("solve_gmres", np.float64),
            ("solve_bicgstab", np.complex64),
        ],
        [
            ("solve_gmres", np.float64),
            ("solve_gmres", np.complex128),
            ("solve_gmres", np.complex64),
            ("solve_bicgstab", np.float64),
            ("solve_bicgstab", np.complex64),
            ("solve_inv", np.float32),
            ("solve_inv", np.complex128),
        ],
    ),
)
def test_gradients_of_real_and_complex_operators_agree_with_lineax(name, dtype):
    a = matrix(dtype)
    got = gradient(a, ieig.JaxoptSolver(getattr(jaxopt, name)))
    accurate = np.finfo(dtype).eps ** (2 / 3)
    assert got.dtype == dtype
    assert relative(got, gradient(a, lx.LU())) < 1e3 * accurate


@pytest.mark.parametrize(
    "name, options",
    slow_but(
        [("solve_gmres", {"tol": 1e-3}), ("solve_lu", {})],
        [
            ("solve_gmres", {"tol": 1e-3}),
            ("solve_bicgstab", {}),
            ("solve_inv", {}),
            ("solve_lu", {}),
            ("solve_qr", {}),
            ("solve_normal_cg", {"maxiter": 1000}),
        ],
    ),
)
def test_real_systems_of_a_single_real_pair_may_have_all_but_those_for_hermitian_ones(
    name, options
):
    got = single(ieig.JaxoptSolver(getattr(jaxopt, name), **options))
    assert relative(got, single(lx.LU())) < 1e-8


@pytest.mark.parametrize("name", ["solve_cg", "solve_cholesky"])
def test_solvers_for_hermitian_systems_are_refused_at_once(name):
    with pytest.raises(ValueError, match=f"{name}.*Hermitian positive definite"):
        ieig.JaxoptSolver(getattr(jaxopt, name))


@pytest.mark.parametrize("name", ["solve_lu", "solve_qr", "solve_normal_cg"])
def test_what_is_wrong_for_complex_systems_is_refused_before_anything_runs(name):
    adjoint = ieig.ImplicitAdjoint(ieig.JaxoptSolver(getattr(jaxopt, name)))
    for a, k in ((matrix(), 2), (matrix(np.complex128), 1)):
        with pytest.raises(ValueError, match=f"{name}.*complex128"):
            ieig.eigs(a, k, "LR", adjoint=adjoint)
    # The block of one wanted value of a real operator keeps room for its partner.
    with pytest.raises(ValueError, match=f"{name}.*complex128"):
        jax.grad(
            lambda a: ieig.eigs(a, 1, "LR", adjoint=adjoint).eigenvectors[0, 0].real
        )(matrix())


def test_they_are_wrong_indeed():
    a, b = matrix(np.complex128), random_matrix(1, N, np.complex128)[0]
    for name in ("solve_qr", "solve_normal_cg"):
        try:
            x = getattr(jaxopt, name)(lambda v: a @ v.astype(a.dtype), b)
        except TypeError:
            continue
        assert not relative(a @ x, b) <= 1e-3
    with pytest.raises(TypeError):
        jaxopt.solve_lu(lambda v: a @ v, b)


def test_preconditioners_are_passed_on_where_there_is_a_place_for_them():
    inverse = jnp.linalg.inv(B - 2.01 * jnp.eye(N))
    options = {"restart": 2, "maxiter": 1}
    got = single(ieig.JaxoptSolver(jaxopt.solve_gmres, **options), preconditioner=inverse)
    assert relative(got, single(lx.LU())) < 1e-8
    with pytest.raises(RUNTIME, match="missed its tolerance"):
        jax.block_until_ready(single(ieig.JaxoptSolver(jaxopt.solve_gmres, **options)))
    with pytest.raises(ValueError, match=r"solve_lu.*no preconditioner"):
        single(ieig.JaxoptSolver(jaxopt.solve_lu), preconditioner=inverse)


def test_an_answer_short_of_the_tolerance_is_not_silent():
    lazy = ieig.JaxoptSolver(jaxopt.solve_gmres, restart=2, maxiter=1)
    with pytest.raises(RUNTIME, match="missed its tolerance"):
        jax.block_until_ready(gradient(matrix(), lazy))


def test_any_function_of_that_signature_will_do():
    def solve(matvec, b, twice):
        a = jax.vmap(matvec, in_axes=1, out_axes=1)(jnp.eye(b.size, dtype=b.dtype))
        return jnp.linalg.solve(a, b) if twice else 0 * b

    got = gradient(matrix(), ieig.JaxoptSolver(solve, twice=True))
    assert relative(got, gradient(matrix(), lx.LU())) < 1e-10
    with pytest.raises(TypeError, match="got 3"):
        ieig.JaxoptSolver(3)


def test_the_package_does_not_import_it():
    code = "import sys, implicit_eig as i; i.JaxoptSolver(lambda m, b: b); print('jaxopt' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.split() == ["False"]
