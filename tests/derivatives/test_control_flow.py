"""Second derivatives inside the bodies of JAX's loops and branches.

There JAX takes the second derivative of the function a `custom_jvp` stands beside, not of
its rule.
"""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import random_matrix, relative


A, B = random_matrix(0, 6), random_matrix(1, 6)
TURN = jnp.diag(jnp.arange(6.0))
SCALES = jnp.array([0.5, 1.0, 1.5])


def general(t, s):
    return A + t[0] * s * B + t[1] * TURN


def hermitian(t, s):
    a = general(t, s)
    return a + a.T


def weighed(values, vectors):
    weights = jnp.arange(1.0, 1.0 + values.shape[-1])
    size = jnp.abs(vectors) ** 2 @ weights
    return jnp.sum(weights * values.real) + jnp.sum(jnp.arange(6.0) * size)


def by_eigs(t, s):
    operator = lx.FunctionLinearOperator(
        lambda v: general(t, s) @ v, jax.ShapeDtypeStruct((6,), A.dtype)
    )
    found = ieig.eigs(operator, 2, adjoint=ieig.ImplicitAdjoint(lx.LU()))
    return weighed(found.eigenvalues, found.eigenvectors)


def by_eigsh(t, s):
    found = ieig.eigsh(hermitian(t, s), 2)
    return weighed(found.eigenvalues, found.eigenvectors)


def by_polyeig(t, s):
    found = ieig.polyeig([general(t, s), B, jnp.eye(6)], 2)
    return jnp.sum(jnp.array([1.0, 2.0]) * found.eigenvalues.real)


ONE = {
    "eig": lambda t, s: weighed(*ieig.eig(general(t, s))),
    "eigvals": lambda t, s: jnp.sum(ieig.eigvals(general(t, s)).real ** 3),
    "eigh": lambda t, s: weighed(*ieig.eigh(hermitian(t, s))),
    "eigs": by_eigs,
    "eigsh": by_eigsh,
    "polyeig": by_polyeig,
    "funm": lambda t, s: jnp.sum(ieig.funm(general(t, s), jnp.exp).real ** 2),
}


def by_scan(one, t):
    return jax.lax.scan(lambda sum, s: (sum + one(t, s), None), 0.0, SCALES)[0]


def by_map(one, t):
    return jnp.sum(jax.lax.map(lambda s: one(t, s), SCALES))


def by_cond(one, t):
    return jnp.sum(jax.vmap(lambda s: jax.lax.cond(t[0] > 0, one, one, t, s))(SCALES))


def alone(one, t):
    return jnp.sum(jax.vmap(lambda s: one(t, s))(SCALES))


POINT = jnp.array([0.1, 0.2])


LOOPS = [(name, by_scan) for name in ONE] + [("eig", by_map), ("eig", by_cond)]


@pytest.mark.parametrize("name, loop", LOOPS)
def test_second_derivatives_inside_control_flow(name, loop):
    one = ONE[name]
    wanted = jax.jit(jax.hessian(lambda t: alone(one, t)))(POINT)
    found = jax.jit(jax.hessian(lambda t: loop(one, t)))(POINT)
    assert np.isfinite(wanted).all()
    assert relative(found, wanted) < 1e-8


def test_reverse_over_reverse():
    twice = lambda f: jax.jit(jax.jacrev(jax.jacrev(f)))(POINT)
    found, wanted = (twice(lambda t, f=f: f(ONE["eig"], t)) for f in (by_scan, alone))
    assert relative(found, wanted) < 1e-9


def test_what_does_not_exist_is_nan_inside_too():
    """Second derivatives of tied eigenvalues."""
    tied = jnp.diag(jnp.array([1.0, 1.0, 2.0]))

    def sum_of_cubes(t, s):
        return jnp.sum(ieig.eig(tied + t[0] * s * A[:3, :3]).eigenvalues.real ** 3)

    for loop in (by_scan, alone):
        hessian = jax.jit(jax.hessian(lambda t, f=loop: f(sum_of_cubes, t)))
        assert np.isnan(hessian(jnp.zeros(1))).all()
