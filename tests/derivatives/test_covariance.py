"""Pairs and their tangents move with the matrix: similarity, shift, scale, transpose and
conjugation, over drawn spectra, gaps and conditioning."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

import implicit_eig as ieig

from ..oracles import slow_but


# One seed for everybody, and nothing written to disk.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")

EPS = np.finfo(float).eps
SAFETY = 10


class Draw(NamedTuple):
    """What is dialled: everything else follows from the seed."""

    seed: int
    log_gap: float
    log_skew: float
    log_scale: float


DRAWS = st.builds(
    Draw,
    st.integers(0, 2**32 - 1),
    st.floats(-4, 0),
    st.floats(-2, 1),
    st.floats(-3, 3),
)


def matrix_of(draw, n, dtype, rng):
    """V D V⁻¹, V = I + skew·N/√n, where two of the values in D are one gap apart."""
    real = dtype == np.float64
    values = rng.permutation(np.linspace(-1.5, 1.5, n)) + rng.uniform(-0.1, 0.1, n)
    gap = 10**draw.log_gap
    d = np.diag(values).astype(dtype)
    if not real:
        d = d + 1j * np.diag(rng.normal(size=n))
    if real and rng.integers(2):
        # A conjugate pair, close to the real axis.
        d[1, 1], d[0, 1], d[1, 0] = d[0, 0], gap / 2, -gap / 2
    else:
        d[1, 1] = d[0, 0] + gap * (1 if real else np.exp(1j * rng.uniform(0, 7)))
    v = np.eye(n) + 10**draw.log_skew * gaussian(rng, n, dtype) / np.sqrt(n)
    return v @ d @ np.linalg.inv(v)


def gaussian(rng, n, dtype):
    x = rng.normal(size=(n, n))
    return x if dtype == np.float64 else x + 1j * rng.normal(size=(n, n))


class Moved(NamedTuple):
    """A transformed problem, what becomes of eigenvalues and of projectors, by how much
    forming it multiplies rounding errors, and the size of what was rounded."""

    a: np.ndarray
    e: np.ndarray
    value: callable
    tangent: callable
    projector: callable
    condition: float
    norm: float


def transformations(draw, a, e, rng, complex_shift):
    """By name. The tangent of a projector moves as the projector does, up to a factor
    that E carries."""
    n, norm = len(a), np.linalg.norm(a, 2)
    same = lambda x: x
    s = np.linalg.qr(gaussian(rng, n, a.dtype))[0] * np.exp(rng.uniform(-1, 1, n))
    s = s @ np.linalg.qr(gaussian(rng, n, a.dtype))[0]
    inverse, condition = np.linalg.inv(s), np.linalg.cond(s)
    similar = lambda x: s @ x @ inverse
    shift = rng.normal() + (1j * rng.normal() if complex_shift else 0)
    scale = 10**draw.log_scale * (np.exp(1j * rng.uniform(0, 7)) if complex_shift else 1)
    swap = lambda x: np.swapaxes(x, -1, -2)
    return {
        "similarity": Moved(
            similar(a), similar(e), same, same, similar, condition, condition * norm
        ),
        "shift": Moved(
            a + shift * np.eye(n),
            e,
            lambda w: w + shift,
            same,
            same,
            1.0,
            norm + abs(shift),
        ),
        "scale": Moved(
            scale * a,
            scale * e,
            lambda w: scale * w,
            lambda t: scale * t,
            same,
            1.0,
            abs(scale) * norm,
        ),
        "transpose": Moved(a.T, e.T, same, same, swap, 1.0, norm),
        "conjugation": Moved(a.conj(), e.conj(), np.conj, np.conj, np.conj, 1.0, norm),
    }


class Pairs(NamedTuple):
    """Eigenvalues and spectral projectors v uᴴ, which have no gauge, and tangents."""

    values: np.ndarray
    projectors: np.ndarray
    value_tangents: np.ndarray
    projector_tangents: np.ndarray


def projectors_of_eig(a):
    w, v = ieig.eig(a)
    return w, jnp.einsum("ai,ib->iab", v, jnp.linalg.inv(v))


def projectors_of_eigs(a):
    s = ieig.eigs(a, 2, "LR", left=True)
    v, u = s.eigenvectors, s.left_eigenvectors
    return s.eigenvalues, jnp.einsum("ai,bi->iab", v, u.conj())


def tangents(fn):
    @jax.jit
    def run(a, e):
        each = lambda a, e: jax.jvp(fn, (a,), (e,))
        return jax.lax.map(lambda x: each(*x), (a, e))

    return run


TANGENTS = {
    "eig": tangents(projectors_of_eig),
    "eigs": tangents(projectors_of_eigs),
}


class Bounds(NamedTuple):
    """What rounding errors may do to each pair and its tangent."""

    values: np.ndarray
    projectors: np.ndarray
    value_tangents: np.ndarray
    projector_tangents: np.ndarray


def bounds(values, vectors, e, norm):
    """A backward error of n eps ‖A‖ moves λ by κ, the projector by κ κ′/gap, tangents by
    the same relative to their largest size; rounding with V in the solves adds κ(V)."""
    n = len(values)
    inverse = np.linalg.inv(vectors)
    kappa = np.linalg.norm(vectors, axis=0) * np.linalg.norm(inverse, axis=1)
    gap = np.abs(values[:, None] - values[None, :]) + np.diag(np.full(n, np.inf))
    turn = np.max(kappa[:, None] / gap, axis=0)
    lost = SAFETY * n * EPS * (norm * turn + np.linalg.cond(vectors))
    size = np.linalg.norm(e, 2)
    return Bounds(
        SAFETY * n * EPS * norm * kappa,
        lost * kappa,
        lost * kappa * size,
        # Through all other pairs, the least accurate included.
        np.max(lost) * kappa * turn * size,
    )


def compare(public, n, dtype, draw, complex_shift=False):
    rng = np.random.default_rng(draw.seed)
    a, e = matrix_of(draw, n, dtype, rng), gaussian(rng, n, dtype)
    moved = transformations(draw, a, e, rng, complex_shift)
    every = [(a, e), *((m.a, m.e) for m in moved.values())]
    w, v = np.linalg.eig(a)
    norm = np.linalg.norm(a, 2)
    ours = bounds(w, v, e, norm)
    # Where rounding leaves no digit of a pair there is nothing to compare.
    gap = np.min(np.abs(w[:, None] - w[None, :]) + np.diag(np.full(n, np.inf)))
    assume(np.max(ours.values) < 1e-2 * gap)
    if public == "eigs":
        # Rounding must not choose: neither between pairs nor which is the first.
        assume(np.min(np.diff(np.unique(w.real)), initial=np.inf) > 1e-6)
        if dtype == np.float64:
            del moved["conjugation"]  # the same matrix; k may cut a pair
            every = every[:-1]
    stacked = (jnp.asarray(np.stack(x)) for x in zip(*every, strict=True))
    (values, projectors), (t_values, t_projectors) = TANGENTS[public](*stacked)
    outputs = values, projectors, t_values, t_projectors
    results = [Pairs(*x) for x in zip(*map(np.asarray, outputs), strict=True)]
    base, ratios = results[0], {}
    for (name, m), found in zip(moved.items(), results[1:], strict=True):
        theirs = bounds(*np.linalg.eig(m.a), m.e, m.norm)
        want = Pairs(
            m.value(base.values),
            m.projector(base.projectors),
            m.tangent(base.value_tangents),
            m.projector(base.projector_tangents),
        )
        # Orders differ: each of the wanted values, and the nearest found one.
        match = np.argmin(np.abs(want.values[:, None] - found.values), axis=1)
        assert len(set(match)) == len(match), name
        mine = np.argmin(np.abs(base.values[:, None] - w), axis=1)
        other = np.argmin(np.abs(want.values[:, None] - np.linalg.eigvals(m.a)), axis=1)
        factors = abs(m.tangent(1.0)), m.condition, abs(m.tangent(1.0)), m.condition
        for field, factor in zip(Pairs._fields, factors, strict=True):
            error = getattr(want, field) - getattr(found, field)[match]
            error = np.linalg.norm(error.reshape(len(match), -1), axis=1)
            bound = factor * getattr(ours, field)[mine] + getattr(theirs, field)[other]
            ratios[name, field] = np.max(error / bound)
    return ratios


def check(public, n, dtype, draw, complex_shift=False):
    for (name, field), ratio in compare(public, n, dtype, draw, complex_shift).items():
        assert ratio <= 1, f"{field} under {name}: {ratio:.2g} times its bound"


CASES = [(2, np.float64), (4, np.complex128), (5, np.float64), (8, np.complex128)]
CASES_OF_EIG = pytest.mark.parametrize("n, dtype", CASES)
CASES_OF_EIGS = pytest.mark.parametrize(
    "n, dtype",
    slow_but([(5, np.complex128)], [(6, np.float64), (5, np.complex128)]),
)


@CASES_OF_EIG
@settings(max_examples=40)
@given(draw=DRAWS)
def test_pairs_of_eig_and_their_tangents_move_with_the_matrix(n, dtype, draw):
    check("eig", n, dtype, draw, complex_shift=dtype == np.complex128)


@CASES_OF_EIGS
@settings(max_examples=20)
@given(draw=DRAWS)
def test_pairs_of_eigs_and_their_tangents_move_with_the_matrix(n, dtype, draw):
    check("eigs", n, dtype, draw)


@pytest.mark.slow
@pytest.mark.parametrize("n, dtype", [*CASES, (3, np.float64), (7, np.complex128)])
@settings(max_examples=300)
@given(draw=DRAWS)
def test_campaign_of_eig(n, dtype, draw):
    check("eig", n, dtype, draw, complex_shift=dtype == np.complex128)


@pytest.mark.slow
@CASES_OF_EIGS
@settings(max_examples=100)
@given(draw=DRAWS)
def test_campaign_of_eigs(n, dtype, draw):
    check("eigs", n, dtype, draw)
