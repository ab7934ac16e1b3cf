"""Ill-conditioned eigenvalues: the border must not add its own condition number."""

import itertools

import jax
import jax.numpy as jnp
import lineax as lx
import mpmath
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import slow_but


def pair_with_condition(kappa):
    """A rotated chain 3, 2, 1, ... with coupling c: κ(3)² = Σ (cʲ/j!)², gaps of one."""
    j = np.arange(6)
    factorial = np.cumprod(np.maximum(j, 1))
    condition = lambda c: np.linalg.norm(c**j / factorial)
    low, high = 0.0, 1e3
    for _ in range(60):
        c = (low + high) / 2
        low, high = (c, high) if condition(c) < kappa else (low, c)
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    a = np.diag(3.0 - j) + np.diag(np.full(5, c), 1)
    return q @ a @ q.T, rng.normal(size=(6, 6))


def exact_tangent(a, e):
    """dv of the pair of largest real part, vᴴdv = 0 and ‖v‖ = 1, in 50 digits."""
    with mpmath.workdps(50):
        m, d = mpmath.matrix(a.tolist()), mpmath.matrix(e.tolist())
        w, v = mpmath.eig(m)
        i = max(range(len(w)), key=lambda i: w[i].real)
        x = v[:, i] / mpmath.norm(v[:, i])
        n = m.rows
        border = mpmath.matrix(n + 1, n + 1)
        border[:n, :n] = m - w[i] * mpmath.eye(n)
        border[:n, n] = -x
        border[n, :n] = x.H
        rhs = mpmath.matrix(n + 1, 1)
        rhs[:n, 0] = -(d * x)
        y = mpmath.lu_solve(border, rhs)
        to_numpy = lambda z: np.array([complex(c) for c in z])
        return complex(y[n]), to_numpy(x), to_numpy(y[:n, 0])


QR = ieig.ImplicitAdjoint(lx.QR())


@pytest.mark.parametrize(
    "left, adjoint",
    slow_but([(True, None), (False, QR)], itertools.product([False, True], [None, QR])),
)
@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6])
def test_tangent_error_stays_below_a_thousand_kappa_eps(kappa, left, adjoint):
    a, e = pair_with_condition(kappa)

    def fn(a):
        s = ieig.eigs(a, 1, "LR", left=left, adjoint=adjoint, gauge=ieig.UnitNorm())
        return s.eigenvalues[0], s.eigenvectors[:, 0], s.condition_numbers

    (_, v, condition), (t_w, t_v, _) = jax.jvp(fn, (jnp.asarray(a),), (jnp.asarray(e),))
    d_w, x, d_v = exact_tangent(a, e)
    phase = np.vdot(x, v) / abs(np.vdot(x, v))
    bound = 1e3 * kappa * np.finfo(float).eps
    assert abs(t_w - d_w) < bound * abs(d_w)
    assert np.linalg.norm(t_v - phase * d_v) < bound * np.linalg.norm(d_v)
    if left:
        assert 0.99 * kappa < condition[0] < 1.01 * kappa
