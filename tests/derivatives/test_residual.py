"""eigenpair_residual: the root other libraries differentiate; they agree with ours."""

import itertools
import re
import textwrap
import warnings

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import implicit_eig as ieig

from ..oracles import central_difference, random_matrix, relative, slow_but


N = 8
GAUGE = ieig.LargestReal()


def matrix(dtype=np.float64, pair=False):
    """Its rightmost eigenvalue is simple: real, or one of a conjugate pair, or complex."""
    a = np.array(random_matrix(0, N, dtype)) / dtype(2 * np.sqrt(N))
    a[:2, :2] += np.array([[4.0, pair * 1.0], [-pair * 1.0, 2.0 + 2 * pair]], dtype)
    return jnp.asarray(a)


CASES = {
    "real pair": matrix(),
    "complex pair of a real operator": matrix(pair=True),
    "complex operator": matrix(np.complex128),
}


def find(a):
    """The pair by LAPACK, real where it is real, without a derivative."""
    s = ieig.eigs(jax.lax.stop_gradient(a), 1, "LR")
    w, v = s.eigenvalues[0], s.eigenvectors[:, 0]
    return jax.lax.stop_gradient((v, w))


def start(a, real):
    v, w = find(a)
    return (v.real, w.real) if real else (v, w)


def loss(pair):
    v, w = pair
    v = GAUGE(v.astype(complex))
    weight = jnp.linspace(1.0, 2.0, N).astype(v.dtype)
    return jnp.sum(weight * v**3).real + jnp.abs(w) ** 2


def ours(a):
    s = ieig.eigs(a, 1, "LR")
    return loss((s.eigenvectors[:, 0], s.eigenvalues[0]))


def tangent_solve(g, y):
    flat, back = ravel_pytree(y)
    columns = jax.vmap(lambda e: ravel_pytree(g(back(e)))[0])(
        jnp.eye(flat.size, dtype=flat.dtype)
    )
    return back(jnp.linalg.solve(columns.T, flat))


def by_custom_root(a, real):
    residual = lambda pair: ieig.eigenpair_residual(pair, a)
    return jax.lax.custom_root(residual, start(a, real), lambda f, x: x, tangent_solve)


def by_jaxopt(a, real):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        implicit_diff = pytest.importorskip("jaxopt.implicit_diff")
        solve_gmres = pytest.importorskip("jaxopt.linear_solve").solve_gmres
    solve = lambda matvec, b: solve_gmres(matvec, b, tol=1e-13, maxiter=50)

    @implicit_diff.custom_root(
        lambda pair, a: ieig.eigenpair_residual(pair, a), solve=solve
    )
    def solver(initial, a):
        del initial
        return start(a, real)

    return solver(None, a)


def by_optimistix(a, real):
    """Complex unknowns in two parts, as optimistix asks for."""
    optx = pytest.importorskip("optimistix")
    split = lambda tree: tree if real else jax.tree.map(lambda x: (x.real, x.imag), tree)
    join = lambda parts: parts if real else tuple(jax.lax.complex(*x) for x in parts)
    root = optx.root_find(
        lambda parts, a: split(ieig.eigenpair_residual(join(parts), a)),
        optx.Newton(1e-12, 1e-12),
        split(start(a, real)),
        args=a,
        adjoint=optx.ImplicitAdjoint(lx.LU()),
    )
    return join(root.value)


@pytest.mark.parametrize(
    "root, case",
    slow_but(
        [
            (by_jaxopt, "real pair"),
            (by_optimistix, "complex operator"),
        ],
        itertools.product([by_custom_root, by_jaxopt, by_optimistix], CASES),
    ),
)
def test_gradients_of_every_library_agree_with_ours(root, case):
    a = CASES[case]
    real = case == "real pair"
    got = jax.jit(jax.grad(lambda a: loss(root(a, real))))(a)
    assert relative(got, jax.jit(jax.grad(ours))(a)) < 1e-9


def test_a_functional_fixes_the_scale():
    a, e = matrix(), random_matrix(1, N)
    c = random_matrix(2, N)[0]

    def vector(a, c):
        v, w = start(a, True)
        residual = lambda pair: ieig.eigenpair_residual(pair, a, functional=c)
        v = v / jnp.vdot(c, v)
        return jax.lax.custom_root(residual, (v, w), lambda f, x: x, tangent_solve)[0]

    _, tangent = jax.jvp(vector, (a, c), (e, c[::-1]))
    plus, minus = (vector(a + h * e, c + h * c[::-1]) for h in (1e-6, -1e-6))
    assert relative(tangent, (plus - minus) / 2e-6) < 1e-7


@pytest.mark.parametrize("kind", ["array", "function", "lineax", "sparse"])
def test_every_kind_of_operator_and_mass_and_pytrees(kind):
    a, b = matrix(), jnp.eye(N) + random_matrix(5, N) / 20
    rows, columns = np.indices((N, N)).reshape(2, -1)
    make = {
        "array": lambda a: a,
        "function": lambda a: lambda v: a @ v,
        "lineax": lx.MatrixLinearOperator,
        "sparse": lambda a: ieig.SparseOperator(a[rows, columns], rows, columns, N),
    }[kind]
    s = ieig.eigs(a, 1, "LR", mass=b)
    pair = s.eigenvectors[:, 0].real, s.eigenvalues[0].real
    mass = b if kind == "function" else make(b)
    outside, row = ieig.eigenpair_residual(pair, make(a), mass=mass)
    assert np.allclose(outside, 0, atol=1e-12) and abs(row) < 1e-15
    v, w = 1.5 * pair[0], pair[1] + 0.25
    outside, row = ieig.eigenpair_residual((v, w), make(a), mass=mass, functional=pair[0])
    assert np.allclose(outside, a @ v - w * (b @ v))
    assert np.isclose(row, 0.5)


def test_domains_that_are_pytrees():
    a = matrix()
    v, w = start(a, True)
    apply = lambda t: (lambda y: {"x": y[:3], "y": (y[3:],)})(
        a @ jnp.concatenate([t["x"], t["y"][0]])
    )
    tree = {"x": v[:3], "y": (v[3:],)}
    outside, row = ieig.eigenpair_residual((tree, w), apply)
    assert jax.tree.structure(outside) == jax.tree.structure(tree)
    assert np.allclose(outside["x"], 0, atol=1e-12) and abs(row) < 1e-15


def test_newtons_method_on_it_converges_quadratically():
    a = matrix(np.complex128)
    v, w = find(a)
    pair = v + 1e-3 * random_matrix(3, N, np.complex128)[0], w + 1e-3
    sizes = []
    for _ in range(3):
        f = lambda pair: ieig.eigenpair_residual(pair, a)
        residual, g = jax.linearize(f, pair)
        pair = jax.tree.map(lambda x, d: x - d, pair, tangent_solve(g, residual))
        sizes.append(float(jnp.linalg.norm(f(pair)[0])))
    assert sizes[1] < 10 * sizes[0] ** 2 and sizes[2] < 1e-13


@pytest.mark.parametrize(
    "pair, a, kwargs, error, text",
    [
        ((jnp.ones(3), jnp.ones(3)), jnp.eye(3), {}, ValueError, "(3,)"),
        ((jnp.ones(3), 1.0 + 1j), jnp.eye(3), {}, TypeError, "complex128"),
        ((jnp.ones(3), 1.0), jnp.asarray(1j * np.eye(3)), {}, TypeError, "complex128"),
        ((jnp.ones(4), 1.0), jnp.eye(3), {}, ValueError, "(4,)"),
        ((jnp.ones(3), 1.0), jnp.ones((3, 2)), {}, ValueError, "(3, 2)"),
        ((jnp.ones(3), 1.0), jnp.eye(3), {"functional": jnp.ones(2)}, ValueError, "(2,)"),
    ],
)
def test_what_does_not_fit_is_named(pair, a, kwargs, error, text):
    with pytest.raises(error) as caught:
        ieig.eigenpair_residual(pair, a, **kwargs)
    assert text in str(caught.value)


def test_its_jacobian_agrees_with_differences():
    a, e = matrix(np.complex128), random_matrix(1, N, np.complex128)
    v, w = find(a)
    f = lambda a: ieig.eigenpair_residual((v, w), a)[0]
    _, tangent = jax.jvp(f, (a,), (e,))
    assert relative(tangent, central_difference(f, a, e)) < 1e-8


def test_the_docstrings_example_runs():
    code = re.search(r"```python\n(.*?)```", ieig.eigenpair_residual.__doc__, re.S).group(
        1
    )
    *code, last = textwrap.dedent(code).rstrip().split("\n")
    scope = {}
    exec("\n".join(code), scope)
    assert np.all(np.isfinite(eval(last, scope)))
