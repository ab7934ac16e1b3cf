"""What differentiable eigensolvers answer where eigenproblems are dangerous.

    python -m tools.hazards             prints the table
    python -m tools.hazards --write     and writes it into docs/hazards.md
    … --only TEXT                            asks anew where TEXT is found in the hazard

Every row is a matrix A, a direction E and a scalar function q of the eigenpairs. Asked is
dq/dt of A + tE at t = 0, by reverse mode. The right answer comes from eigenvalue problems
solved in 120 digits, and so do its existence and the accuracy one may ask for: what
rounding errors of A alone do to it. Nothing about a peer or this package is written down
here. A peer that is not installed keeps its column of the page.

An answer is *right* when it is off by what rounding errors of A do to q. It is *lossy*
when it is off by more, with a digit left, because it goes through the tangents of single
pairs, which are larger than their sum and known to eps ‖A‖ κ/gap. Else it is wrong.
"""

import argparse
import dataclasses
import functools
import logging
import pathlib
import re
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import mpmath
import numpy as np

import implicit_eig as ieig


PAGE = pathlib.Path(__file__).parents[1] / "docs" / "hazards.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
COLUMNS = ("JAX", "PyTorch", "eig", "eigs", "cluster")
OWN = COLUMNS[2:]
DIGITS, STEP = 120, 40
EDGE = 1.5  # clusters are what lies to the right of this


# Questions: functions of (w, V), written once for JAX, PyTorch and mpmath.


class _Arrays:
    """The few operations that questions need, of `jax.numpy`."""

    real = staticmethod(jnp.real)
    exp = staticmethod(jnp.exp)
    inv = staticmethod(jnp.linalg.inv)
    rightmost = staticmethod(lambda w: jnp.argmax(w.real))
    nearest_to_one = staticmethod(lambda w: jnp.argmin(abs(w - 1)))
    inside = staticmethod(lambda w: (w.real > EDGE).astype(w.dtype))
    squared = staticmethod(lambda x: x.real**2 + x.imag**2)


class _Torch:
    """The same of `torch`."""

    real = staticmethod(lambda x: x.real)
    exp = staticmethod(lambda x: x.exp())
    inv = staticmethod(lambda x: x.inverse())
    rightmost = staticmethod(lambda w: w.real.argmax())
    nearest_to_one = staticmethod(lambda w: (w - 1).abs().argmin())
    inside = staticmethod(lambda w: (w.real > EDGE).to(w.dtype))
    squared = staticmethod(lambda x: x.real**2 + x.imag**2)


def _to_mp(x):
    return mpmath.matrix([[mpmath.mpmathify(y) for y in row] for row in x])


def _from_mp(x):
    return np.array(x.tolist(), object)


class _Digits:
    """The same of `mpmath`, on NumPy arrays of its numbers."""

    real = staticmethod(np.frompyfunc(mpmath.re, 1, 1))
    exp = staticmethod(np.frompyfunc(mpmath.exp, 1, 1))
    inv = staticmethod(lambda x: _from_mp(mpmath.inverse(_to_mp(x))))
    rightmost = staticmethod(lambda w: max(range(len(w)), key=lambda i: mpmath.re(w[i])))
    nearest_to_one = staticmethod(
        lambda w: min(range(len(w)), key=lambda i: abs(w[i] - 1))
    )
    inside = staticmethod(
        np.frompyfunc(lambda z: mpmath.mpf(int(mpmath.re(z) > EDGE)), 1, 1)
    )
    squared = staticmethod(
        np.frompyfunc(lambda z: mpmath.re(z) ** 2 + mpmath.im(z) ** 2, 1, 1)
    )


def share(w, v, xp):
    """|v₁|²/‖v‖² of the rightmost pair."""
    sizes = xp.squared(v[:, xp.rightmost(w)])
    return sizes[0] / sizes.sum()


def share_at_one(w, v, xp):
    """|v₁|²/‖v‖² of the pair nearest to 1"""
    sizes = xp.squared(v[:, xp.nearest_to_one(w)])
    return sizes[0] / sizes.sum()


def ratio(w, v, xp):
    """Re v₁/v₃ of the rightmost pair, gauge v₃ = 1"""
    one = v[:, xp.rightmost(w)]
    return xp.real(one[0] / one[NODE])


NODE = 2


def value(w, v, xp):
    """λ, the rightmost"""
    del v
    return xp.real(w[xp.rightmost(w)])


def total(w, v, xp):
    """Σλ"""
    del v
    return xp.real(w.sum())


def squares(w, v, xp):
    """Σλ² of the cluster"""
    del v
    return xp.real((xp.inside(w) * w * w).sum())


def projector(w, v, xp):
    """P₁₂ of the spectral projector of the cluster"""
    return xp.real((v[0] * xp.inside(w) * xp.inv(v)[:, 1]).sum())


def exponential(w, v, xp):
    """(eᴬ)₁₂"""
    return xp.real((v[0] * xp.exp(w) * xp.inv(v)[:, 1]).sum())


def entry(w, v, xp):
    """Re v₁ of the rightmost pair, gauge not named"""
    return xp.real(v[0, xp.rightmost(w)])


def scaled_entry(w, v, xp):
    """10⁻³ Re v₁ of the rightmost pair, gauge not named"""
    return entry(w, v, xp) * 1e-3


# Matrices. Products of integers with an inverse of integers: exact in floating point.

_W = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [-1, 0, 1, 1]]) @ np.array(
    [[1, 1, 0, -1], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]]
)
_W_INVERSE = np.rint(np.linalg.inv(_W)).astype(int)
DIRECTION = np.array([[1, -2, 0, 1], [2, 1, 1, -1], [0, 3, -1, 2], [-1, 1, 2, 1]], float)


def similar(middle):
    """W M W⁻¹ with W of integers; M must be of few binary digits."""
    a = _W @ np.asarray(middle, float) @ _W_INVERSE
    exact = _W.astype(object) @ _rational(middle) @ _W_INVERSE.astype(object)
    assert np.all(_rational(a) == exact)
    return a


def _rational(x):
    return np.vectorize(Fraction, otypes=[object])(np.asarray(x, float))


def spectrum(*values):
    return similar(np.diag(values))


def reflected(*values):
    """H Λ H with a reflection H of halves: Hermitian, and as exact as `spectrum`."""
    h = np.eye(4) - 0.5
    a = h @ np.diag(np.asarray(values, float)) @ h
    assert np.all(
        _rational(a) == _rational(h) @ np.diag(_rational(values)) @ _rational(h)
    )
    return a


def jordan(order):
    middle = np.diag([2.0, 2, 2, -1][:order] + [1.0, -1, 0.5][: 4 - order])
    return similar(middle + np.diag([float(i < order - 1) for i in range(3)], 1))


def exceptional(p):
    """1.75 ± √p: at p = 0 a real pair becomes a complex one."""
    middle = np.diag([1.75, 1.75, 1, -1])
    middle[0, 1], middle[1, 0] = 1, p
    return similar(middle)


@functools.cache
def conditioned(kappa, n=8):
    """A rotated chain, the rightmost eigenvalue 1 of which has condition number κ."""
    others = -np.arange(1.0, n)

    def chain(c):
        return np.diag([1.0, *others]) + np.diag(np.full(n - 1, c), 1)

    low, high = 0.0, 1e3
    for _ in range(60):
        c = (low + high) / 2
        left = np.cumprod(c / (1 - others))
        low, high = (c, high) if np.hypot(1, np.linalg.norm(left)) < kappa else (low, c)
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))
    return q @ chain(c) @ q.T


def without_digit(n=8):
    """1, with κ = 1, beside a chain of values 0.5: the gap is 0.5, the separation less
    than rounding."""
    chain = 0.5 * np.eye(n) + np.diag(np.r_[0, np.full(n - 2, 256.0)], 1)
    chain[0, 0] = 1
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))
    return q @ chain @ q.T


def mirrored():
    """The same from both ends; the rightmost mode is odd, with a node at the middle."""
    sizes = np.array([1.0, 2, 4, 2, 1])
    chain = sizes[:, None] * (np.eye(5, k=1) + np.eye(5, k=-1)) / sizes
    return chain - 2 * np.eye(5)[::-1]


def circulant():
    """1 ± 1.5i to the right; all entries of all vectors have modulus one half."""
    c = np.array([0, 1, -1, -0.5])
    return np.array([np.roll(c, i) for i in range(4)])


def rotation():
    """A complex pair 2 ± i to the right, and two real ones."""
    return similar([[2, -1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, -1]])


@dataclasses.dataclass(frozen=True)
class Row:
    hazard: str
    question: Callable
    matrix: np.ndarray
    k: int | None = 1  # of `eigs` and of the cluster; None: no such column
    dtype: type = np.float64
    hermitian: bool = False  # asked of `eigh`, `eigsh` and their like

    @property
    def asked(self):
        return self.question.__doc__

    @property
    def name(self):
        return f"{self.hazard}: {self.question.__name__}"

    @property
    def key(self):
        """The first two cells of its line on the page."""
        return self.hazard, _escaped(self.asked)

    @property
    def direction(self):
        n = len(self.matrix)
        if n == 4:
            symmetric = DIRECTION + DIRECTION.T + np.diag([1.0, 2, 4, 8])
            return symmetric if self.hermitian else DIRECTION
        return np.random.default_rng(1).normal(size=(n, n))


def rows():
    tie, rounded = (2, 2, 1, -1), (2, 2 + 2.0**-40, 1, -1)
    symmetric = _W @ _W.T * 1.0
    yield Row("tie outside the selected pair", share, spectrum(3, 1, 1, -1))
    yield Row("exact semisimple tie", share, spectrum(*tie), k=2)
    yield Row("exact semisimple tie", value, spectrum(*tie), k=2)
    yield Row("exact semisimple tie, cut by k", share, spectrum(*tie), k=1)
    yield Row("exact semisimple tie, cut by k", value, spectrum(*tie), k=1)
    for question in (squares, projector, exponential):
        yield Row("exact semisimple tie", question, spectrum(*tie), k=2)
    yield Row("rounded tie outside", share, spectrum(3, 1, 1 + 2.0**-40, -1))
    yield Row("rounded tie (gap 1e-12)", share, spectrum(*rounded), k=2)
    yield Row("rounded tie (gap 1e-12)", projector, spectrum(*rounded), k=2)
    for bits, gap in ((13, "1e-4"), (20, "1e-6"), (27, "1e-8")):
        yield Row(f"near tie (gap {gap})", share, spectrum(2, 2 + 2.0**-bits, 1, -1), k=2)
    yield Row("near tie (gap 1e-8), cut by k", share, spectrum(2, 2 + 2.0**-27, 1, -1))
    yield Row("near tie (gap 1e-8)", projector, spectrum(2, 2 + 2.0**-27, 1, -1), k=2)
    for order in (2, 3):
        block, hazard = jordan(order), f"Jordan block of order {order}"
        for question in (share, value, squares, projector, exponential):
            yield Row(hazard, question, block, k=order)
    outside = similar(np.diag([3.0, 1, 1, -1]) + np.diag([0.0, 1, 0], 1))
    yield Row("Jordan block outside", share, outside)
    yield Row("exceptional point, p = 0", value, exceptional(0), k=2)
    yield Row("exceptional point, p = 0", share, exceptional(0), k=2)
    yield Row("exceptional point, p = 0", squares, exceptional(0), k=2)
    for sign, name in ((1, "1e-12"), (-1, "−1e-12")):
        beside, hazard = exceptional(sign * 2.0**-40), f"exceptional point, p = {name}"
        for question in (value, share, squares):
            yield Row(hazard, question, beside, k=2)
    for kappa in (1e4, 1e6, 1e8, 1e10, 1e12):
        for question in (value, share):
            yield Row(f"κ = {kappa:.0e}", question, conditioned(kappa))
    yield Row("gap 0.5, separation below rounding", share_at_one, without_digit())
    yield Row("scaled by an entry at a node", ratio, mirrored())
    yield Row("tied largest entries (circulant)", share, circulant())
    yield Row("tied largest entries (circulant)", entry, circulant())
    yield Row("real symmetric matrix", share, symmetric)
    yield Row("zero matrix", share, np.zeros((4, 4)), k=None)
    yield Row("zero matrix", total, np.zeros((4, 4)), k=4)
    yield Row("zero matrix", exponential, np.zeros((4, 4)), k=None)
    yield Row("identity", share, np.eye(4), k=None)
    yield Row("identity", total, np.eye(4), k=4)
    yield Row("identity", exponential, np.eye(4), k=None)
    broken = spectrum(3, 2, 1, -1)
    broken[1, 2] = np.nan
    yield Row("NaN in the matrix", share, broken)
    yield Row("loss that depends on the phase", entry, rotation(), k=2)
    yield Row("the same loss × 10⁻³", scaled_entry, rotation(), k=2)
    for hazard, *values in (
        ("Hermitian, tie outside the selected pair", 3, 1, 1, -1),
        ("Hermitian, exact tie", 2, 1, 2, -1),
        ("Hermitian, rounded tie (gap 1e-12)", 2, 1, 2 + 2.0**-40, -1),
    ):
        a, outside = reflected(*values), values[0] == 3
        questions = share, value, squares, projector, exponential
        for question in questions[:1] if outside else questions:
            yield Row(hazard, question, a, k=1 if outside else 2, hermitian=True)
    for question in (value, share):
        cut = "Hermitian, exact tie, cut by k"
        yield Row(cut, question, reflected(2, 1, 2, -1), k=1, hermitian=True)
    for question in (share, total, exponential):
        k = 4 if question is total else None
        yield Row("Hermitian, identity", question, np.eye(4), k, hermitian=True)
    single = {"dtype": np.float32}
    yield Row("float32", share, spectrum(3, 1, 2, -1), **single)
    yield Row("float32, tie outside", share, spectrum(3, 1, 1, -1), **single)
    yield Row("float32, exact tie", share, spectrum(*tie), k=2, **single)
    near = spectrum(2, 2 + 2.0**-13, 1, -1)
    yield Row("float32, near tie (gap 1e-4)", share, near, k=2, **single)
    yield Row("float32, near tie (gap 1e-4)", projector, near, k=2, **single)
    yield Row("float32, Jordan block of order 2", share, jordan(2), k=2, **single)
    yield Row("float32, Jordan block of order 2", squares, jordan(2), k=2, **single)


# The right answer.


class Truth(NamedTuple):
    """dq/dt, or None with the reason why there is none; the absolute error a backward
    stable answer may have, and the one it may have by way of pairs. Where q depends on the
    phase, also the derivative in this package's default gauge."""

    derivative: float | None
    scale: float = 1.0
    own: float = 0.0
    by_pairs: float = 0.0
    reason: str = ""
    in_gauge: float | None = None


class _Beside(NamedTuple):
    """Pairs of A ± hE, A ± 2hE, A + hF, of A + noise ± hE, and of A + noise."""

    line: list
    other: tuple
    noisy: list
    rounded: tuple


@functools.lru_cache(8)
def _beside(shape, dtype, matrix: bytes, direction: bytes) -> _Beside:
    matrix, direction = (np.frombuffer(x).reshape(shape) for x in (matrix, direction))
    a, e = (_to_mp(x.astype(dtype).tolist()) for x in (matrix, direction))
    h = mpmath.mpf(10) ** -STEP

    def pairs(a):
        w, v = mpmath.eig(a)
        w, v = np.array(w, object), _from_mp(v)
        norms = [mpmath.sqrt(sum(_Digits.squared(x))) for x in v.T]
        return w, v / np.array(norms, object)

    # A Hermitian problem stays one.
    symmetric = np.all(matrix == matrix.T) and np.all(direction == direction.T)
    other = np.random.default_rng(2).normal(size=shape)
    other = _to_mp((other + other.T if symmetric else other).tolist())
    rng = np.random.default_rng(3)
    noisy = []
    for _ in range(3):
        noise = rng.normal(size=shape)
        noise = noise + noise.T if symmetric else noise
        noise *= np.finfo(dtype).eps * np.linalg.norm(matrix, 2) / np.linalg.norm(noise)
        near = a + _to_mp(noise.tolist())
        noisy.append((pairs(near + h * e), pairs(near - h * e)))
    line = [pairs(a + i * h * e) for i in (1, -1, 2, -2)]
    return _Beside(line, pairs(a + h * other), noisy, pairs(near))


def truth(row: Row) -> Truth:
    """By differences in many digits.

    It exists when one-sided differences agree, and when neither another direction nor
    another phase of the vectors leads to another value. The tolerance is ten times what
    rounding errors of the size that LAPACK makes change.
    """
    if not np.all(np.isfinite(row.matrix)):
        return Truth(None, reason="A is NaN")
    with mpmath.workdps(DIGITS):
        return _truth(row)


def _truth(row: Row) -> Truth:
    arrays = (np.asarray(x, float).tobytes() for x in (row.matrix, row.direction))
    beside = _beside(row.matrix.shape, row.dtype, *arrays)
    h = mpmath.mpf(10) ** -STEP
    loose = 1e-6

    def asked(pairs):
        return row.question(*pairs, _Digits)

    plus, minus, plus_twice, minus_twice = (asked(pairs) for pairs in beside.line)
    size = max(abs(plus), mpmath.mpf(10) ** -3)
    w, v = beside.line[0]
    if abs(asked((w, v * mpmath.expj(1))) - plus) > loose * size:
        plus, minus = (asked((w, _in_default_gauge(v))) for w, v in beside.line[:2])
        in_gauge = float((plus - minus) / (2 * h))
        return Truth(None, reason="depends on the phase", in_gauge=in_gauge)
    if abs(asked(beside.other) - plus) > loose * size:
        return Truth(None, reason="q is not continuous")
    forward, backward = (plus_twice - plus) / h, (minus - minus_twice) / h
    if abs(forward - backward) > loose * max(abs(forward), abs(backward), size):
        return Truth(None, reason="q is not smooth")
    want = (plus - minus) / (2 * h)
    moved = [(asked(p) - asked(m)) / (2 * h) for p, m in beside.noisy]
    spread = float(max(abs(x - want) for x in moved))
    eps = float(np.finfo(row.dtype).eps)
    scale = float(max(abs(want), size))
    own = 10 * spread + 100 * len(row.matrix) * eps * scale
    return Truth(float(want), scale, own, own + _of_pairs(row, *beside.rounded))


def _in_default_gauge(v):
    """`LargestReal`: the first of the largest entries, to √eps, is made real."""
    rtol = mpmath.sqrt(np.finfo(float).eps)
    columns = []
    for x in v.T:
        sizes = [abs(z) for z in x]
        pivot = next(z for z in x if abs(z) >= (1 - rtol) * max(sizes))
        columns.append(x * mpmath.conj(pivot) / abs(pivot))
    return np.array(columns, object).T


def _of_pairs(row: Row, w, v) -> float:
    """What q may be off by when it is put together from tangents of single pairs.

    Of a matrix as rounding errors leave it: relative to a pair's tangents,
    eps (‖A‖ max κ/gap + κ(V)). Nothing where that leaves no digit of a pair.
    """
    eps, n = float(np.finfo(row.dtype).eps), len(w)
    gap = np.array([[abs(complex(x - y)) for x in w] for y in w]) + np.diag([np.inf] * n)
    norm = np.linalg.norm(row.matrix, 2)
    if norm == 0 or np.min(gap) < 1e-3 * eps * norm:
        return 0.0
    inverse = _Digits.inv(v)
    kappa = np.array([float(mpmath.sqrt(sum(_Digits.squared(x)))) for x in inverse])
    g = (inverse @ row.direction @ v).astype(complex)
    w, v = w.astype(complex), v.astype(complex)
    turned = np.abs(g) / gap
    sizes = np.abs(np.diagonal(g)), np.sum(turned, axis=0)
    slopes = jax.grad(lambda *pairs: row.question(*pairs, _Arrays), (0, 1))(
        jnp.asarray(w), jnp.asarray(v)
    )
    weights = np.abs(slopes[0]), np.linalg.norm(slopes[1], axis=0)
    lost = eps * (norm * np.max(kappa[:, None] / gap, axis=0) + np.linalg.cond(v))
    used = weights[0] * sizes[0] + weights[1] * sizes[1]
    if np.any(lost[used > eps * np.max(used)] > 1):
        return 0.0
    return 10 * float(np.sum(lost * used))


# The answers.


class Answer(NamedTuple):
    """A number; or an error; and what was said beside it: a result code, warnings."""

    number: float | None
    error: str = ""
    said: str = ""


def classify(
    answer: Answer, want: Truth, by_pairs: bool, default_gauge: bool = False
) -> str:
    """ "right (1e-15)", "lossy (3e-07)", "NaN", "raises", "warns" or "wrong: 4 for 0.5"."""
    if answer.number is None:
        return f"raises {answer.error}"
    beside = f", {answer.said}" if answer.said else ""
    if not np.isfinite(answer.number):
        return f"NaN{beside}"
    if want.derivative is not None:
        error = abs(answer.number - want.derivative)
        digits = f"({error / want.scale:.0e})" if error else "(exact)"
        if error <= min(want.own, 0.1 * want.scale):
            return f"right {digits}"
        if by_pairs and error <= min(want.by_pairs, 0.1 * want.scale):
            return f"lossy {digits}"
    if answer.said:
        return f"warns: {answer.said}"
    if want.derivative is None:
        if default_gauge and want.in_gauge is not None:
            if abs(answer.number - want.in_gauge) <= 1e-9 * (1 + abs(want.in_gauge)):
                return "right, in the default gauge"
        return f"wrong: {answer.number:.3g}, none exists"
    return f"wrong: {answer.number:.6g} for {want.derivative:.6g} {digits}"


def silently_wrong(text: str) -> bool:
    return text.startswith("wrong")


def _answered(run: Callable[[], tuple[Any, Any]]) -> Answer:
    """What `run`, which returns a number and a result code, says and does."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            number, result = jax.block_until_ready(run())
            jax.effects_barrier()
        except (ValueError, RuntimeError, ArithmeticError) as error:
            return Answer(None, _kind(error))
    # What a user is told about the answer, not deprecations.
    told = [w.category for w in said if not issubclass(w.category, DeprecationWarning)]
    names = [category.__name__ for category in told]
    if result is not None and result != ieig.RESULTS.successful:
        names.append(_code(result))
    return Answer(float(number), said=", ".join(dict.fromkeys(names)))


def _kind(error: Exception) -> str:
    """The class that a user would catch; JAX and PyTorch derive theirs from it."""
    kinds = RuntimeError, ValueError, ArithmeticError
    return next(kind.__name__ for kind in kinds if isinstance(error, kind))


def _code(result) -> str:
    names = ieig.RESULTS._name_to_item
    return next(f"`{n}`" for n, item in names.items() if bool(result == item))


def _along(gradient, e):
    return jnp.sum(gradient * e)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _by_jax(a, e, question, hermitian):
    def loss(a):
        if hermitian:
            return question(*jnp.linalg.eigh(a), _Arrays)
        w, v = jax.lax.linalg.eig(
            a, compute_left_eigenvectors=False, enable_eigvec_derivs=True
        )
        return question(w, v, _Arrays)

    return _along(jax.grad(loss)(a), e)


def _gauge(question, a):
    """That which a question names."""
    one = jnp.zeros(len(a), a.dtype).at[NODE].set(1)
    return ieig.Functional(one) if question is ratio else None


@functools.partial(jax.jit, static_argnums=(2, 3))
def _by_eig(a, e, question, hermitian):
    gauge, find = _gauge(question, a), ieig.eigh if hermitian else ieig.eig
    return _along(jax.grad(lambda a: question(*find(a, gauge=gauge), _Arrays))(a), e)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _by_eigs(a, e, question, k, hermitian):
    def loss(a):
        if hermitian:
            s = ieig.eigsh(a, k, "LA", left=True, throw=False)
            if question is projector:
                return (s.eigenvectors @ s.eigenvectors.T)[0, 1], s.result
            return question(s.eigenvalues, s.eigenvectors, _Arrays), s.result
        left = question is projector
        which = ieig.Nearest(1.0) if question is share_at_one else "LR"
        gauge = _gauge(question, a)
        s = ieig.eigs(a, k, which, left=left, gauge=gauge, throw=False)
        if left:
            p = s.eigenvectors @ s.left_eigenvectors.conj().T
            return p[0, 1].real, s.result
        return question(s.eigenvalues, s.eigenvectors, _Arrays), s.result

    gradient, result = jax.grad(loss, has_aux=True)(a)
    return _along(gradient, e), result


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _by_cluster(a, e, question, k, hermitian):
    def loss(a):
        if question is exponential:
            return ieig.funm(a, jnp.exp)[0, 1].real, None
        if hermitian:
            s = ieig.invariant_subspace(a, k, "LA", hermitian=True, throw=False)
            if question is projector:
                return s.projector()[0, 1], s.result
            if question is squares:
                return jnp.sum(s.eigenvalues**2), s.result
            return s.trace, s.result
        if question is projector:
            return ieig.spectral_projector(a, lambda z: z.real > EDGE)[0, 1].real, None
        s = ieig.invariant_subspace(a, k, "LR", throw=False)
        if question in (total, value):
            return s.trace, s.result
        return jnp.trace(s.block @ s.block), s.result

    gradient, result = jax.grad(loss, has_aux=True)(a)
    return _along(gradient, e), result


def _arrays(row):
    return (jnp.asarray(x.astype(row.dtype)) for x in (row.matrix, row.direction))


def jax_answer(row: Row) -> Answer | None:
    if not row.hermitian and not flagged():
        return None
    args = row.question, row.hermitian
    return _answered(lambda: (_by_jax(*_arrays(row), *args), None))


def flagged() -> bool:
    """Whether this JAX has derivatives of eigenvectors at all."""
    run = functools.partial(jax.lax.linalg.eig, enable_eigvec_derivs=True)
    try:
        jax.eval_shape(run, jax.ShapeDtypeStruct((2, 2), np.float32))
    except TypeError:
        return False
    return True


def torch_answer(row: Row) -> Answer | None:
    try:
        import torch
    except ImportError:
        return None

    def run():
        a = torch.tensor(row.matrix.astype(row.dtype), requires_grad=True)
        find = torch.linalg.eigh if row.hermitian else torch.linalg.eig
        loss = row.question(*find(a), _Torch)
        (gradient,) = torch.autograd.grad(loss, a)
        return float((gradient * torch.tensor(row.direction.astype(row.dtype))).sum())

    return _answered(lambda: (run(), None))


def eig_answer(row: Row) -> Answer | None:
    return _answered(lambda: (_by_eig(*_arrays(row), row.question, row.hermitian), None))


def eigs_answer(row: Row) -> Answer | None:
    return _answered(lambda: _by_eigs(*_arrays(row), row.question, row.k, row.hermitian))


def cluster_answer(row: Row) -> Answer | None:
    """`invariant_subspace`, `spectral_projector` or `funm`, whichever has the question."""
    return _answered(
        lambda: _by_cluster(*_arrays(row), row.question, row.k, row.hermitian)
    )


ANSWERS = dict(
    zip(
        COLUMNS,
        (jax_answer, torch_answer, eig_answer, eigs_answer, cluster_answer),
        strict=True,
    )
)


# Solves that do not converge: of iterations, which only `eigs` and the cluster have.

ORDER = 200


@dataclasses.dataclass(frozen=True)
class Unconverged:
    """The rightmost eigenvalue, d + 2√(bc) cos(π/(n+1)), of the Toeplitz matrix with
    b below, d on and c above the diagonal, and dλ/db = √(c/b) cos(π/(n+1))."""

    hazard: str
    eigensolver: ieig.KrylovSchur
    adjoint: ieig.ImplicitAdjoint | None
    throw: bool
    asked: str = "dλ of the rightmost pair"
    below: float = 1.25
    above: float = 0.8

    @property
    def name(self):
        return self.hazard

    @property
    def key(self):
        return self.hazard, _escaped(self.asked)

    def truth(self) -> Truth:
        with mpmath.workdps(50):
            ratio = mpmath.sqrt(mpmath.mpf(self.above) / mpmath.mpf(self.below))
            want = ratio * mpmath.cos(mpmath.pi / (ORDER + 1))
        return Truth(float(want), own=1e-6)

    def answer(self, column: str) -> Answer | None:
        find = {"eigs": ieig.eigs, "cluster": ieig.invariant_subspace}[column]

        def loss(b):
            def product(v):
                return b * jnp.roll(v, 1).at[0].set(0) + self.above * jnp.roll(v, -1).at[
                    -1
                ].set(0)

            s = find(
                product,
                1,
                "LR",
                like=jnp.zeros(ORDER),
                eigensolver=self.eigensolver,
                adjoint=self.adjoint,
                throw=self.throw,
            )
            return s.eigenvalues[0].real, s.result

        return _answered(lambda: jax.jit(jax.grad(loss, has_aux=True))(self.below))


def unconverged_rows():
    short = ieig.KrylovSchur(krylov_dim=6, max_restarts=2)
    enough = ieig.KrylovSchur(krylov_dim=60, max_restarts=1000)
    hasty = ieig.ImplicitAdjoint(lx.GMRES(rtol=1e-10, atol=1e-10, max_steps=3))
    for throw in (True, False):
        how = f"throw={throw}"
        yield Unconverged(f"forward solve does not converge, {how}", short, None, throw)
        yield Unconverged(f"adjoint solve does not converge, {how}", enough, hasty, throw)


def every_row():
    return [*rows(), *unconverged_rows()]


def right_answer(row) -> Truth:
    return row.truth() if isinstance(row, Unconverged) else truth(row)


def answer(row, column: str) -> Answer | None:
    if isinstance(row, Unconverged):
        return row.answer(column)
    return ANSWERS[column](row)


def has_answer(row, column: str) -> bool:
    """Whether `column` has a way to ask what `row` asks."""
    if isinstance(row, Unconverged):
        return column in ("eigs", "cluster")
    if column == "eigs":
        return row.k is not None and row.question is not exponential
    if column == "cluster":
        spectral = row.question in (squares, total) and row.k is not None
        single = row.question is value and row.k == 1
        return spectral or single or row.question in (exponential, projector)
    return True


def verdict(row, column: str) -> str:
    """The text of one cell."""
    found = answer(row, column) if has_answer(row, column) else None
    if found is None:
        return "—"
    return classify(found, right_answer(row), column != "cluster", column in OWN)


# The page.


def _escaped(text: str) -> str:
    """A bar would end the cell."""
    return text.rstrip(".").replace("|", "&#124;")


def _cell(text: str) -> str:
    return f"**{text}**" if silently_wrong(text) else text


def table(
    kept: dict[tuple[str, str], list[str]], missing: set[str], only: str
) -> list[str]:
    head = ["hazard", "dq/dt, where q is", "right answer", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in every_row():
        old = kept.get(row.key)
        if old and not re.search(only, row.hazard):
            lines.append(f"| {' | '.join([*row.key, old[0], *map(_cell, old[1:])])} |")
            continue
        want = right_answer(row)
        cells = []
        for i, column in enumerate(COLUMNS):
            if column in missing:
                cells.append(_cell(old[1 + i]) if old else "?")
                continue
            cells.append(_cell(verdict(row, column)))
        right = f"none: {want.reason}"
        if want.derivative is not None:
            right = f"{want.derivative:.6g}"
        texts = [*row.key, right, *cells]
        lines.append(f"| {' | '.join(texts)} |")
        print(lines[-1], flush=True)
    return lines


def verdicts_on_the_page() -> dict[tuple[str, str], dict[str, str]]:
    """By hazard and question, the text of each column."""
    old = _old_table(PAGE.read_text())
    return {key: dict(zip(COLUMNS, x[1:], strict=True)) for key, x in old.items()}


def _old_table(page: str) -> dict[tuple[str, str], list[str]]:
    lines = page.split(BEGIN)[1].split(END)[0].splitlines() if BEGIN in page else []
    split = [[c.strip() for c in line.strip("| ").split(" | ")] for line in lines]
    found = [c for c in split if len(c) == 3 + len(COLUMNS)]
    return {(c[0], c[1]): [x.strip("*") for x in c[2:]] for c in found[1:]}


def _versions(page: str, missing: set[str]) -> str:
    versions = {"JAX": jax.__version__, "this package": ieig.__version__}
    if "PyTorch" not in missing:
        import torch

        versions["PyTorch"] = torch.__version__.split("+")[0]
    for name in missing:
        old = re.search(rf"{name} (\d[\w.]*)", page)
        versions[name] = f"{old[1]} (an earlier run)" if old else "not installed"
    return "Run with " + ", ".join(f"{n} {v}" for n, v in sorted(versions.items())) + "."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/hazards.md")
    parser.add_argument("--only", default="", help="a regular expression")
    arguments = parser.parse_args()
    page = PAGE.read_text() if PAGE.exists() else ""
    missing = set() if flagged() else {"JAX"}
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        missing.add("PyTorch")
    for name in sorted(missing):
        print(f"{name} cannot answer here: its column is kept from the page.")
    lines = table(_old_table(page), missing, arguments.only)
    if arguments.write:
        before, rest = page.split(BEGIN)
        _, after = rest.split(END)
        text = "\n".join(["", *lines, "", _versions(page, missing), ""])
        PAGE.write_text(before + BEGIN + "\n" + text + "\n" + END + after)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    logging.getLogger("jax").setLevel(logging.CRITICAL)
    main()
