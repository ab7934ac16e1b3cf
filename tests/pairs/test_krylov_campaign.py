"""Random problems of every kind against a dense oracle: right, or said to be wrong.

"Right" leaves one thing open. One start vector finds one copy of a repeated eigenvalue,
so copies may be missing: distinct values are compared, and no value may come more often
than the matrix has it. What counts as one value follows from the worst perturbation of
the size of the residual (`movement`), not from a constant.

A run that calls itself `unconfirmed` owes eigenpairs, in order, but not the best ones.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
from scipy.optimize import linear_sum_assignment

import implicit_eig as ieig
from implicit_eig._solution import is_good


def key_of(which, is_real):
    """The rank of eigenvalues written a second way. Members of a real operator's
    conjugate pair rank alike: the better one counts."""
    sign = -1 if which[0] == "S" else 1
    key = {
        "M": lambda z: sign * np.abs(z),
        "R": lambda z: sign * z.real,
        "I": lambda z: sign * (np.abs(z.imag) if is_real else z.imag),
    }[which[1]]
    return key


def tilted(z):
    return 2 * z.real - 3 * z.imag


def toward(z):
    return -abs(z - (0.9 + 0.4j))


# --- the problems: (rng, n, is_real) -> matrix -----------------------------------------


def gaussian(rng, n, is_real):
    a = rng.normal(size=(n, n))
    return a if is_real else a + 1j * rng.normal(size=(n, n))


def orthogonal(rng, n, is_real):
    return np.linalg.qr(gaussian(rng, n, is_real))[0]


def quasi_diagonal(values, is_real):
    """diag(λ); in real arithmetic a 2×2 block [[a, b], [−b, a]] for every other λ."""
    n = len(values)
    if not is_real:
        return np.diag(values)
    d = np.diag(np.repeat(values.real[::2], 2)[:n]).astype(float)
    i = np.arange(0, n - 1, 2)
    d[i, i + 1], d[i + 1, i] = values.imag[i], -values.imag[i]
    return d


def disc(rng, n):
    return np.sqrt(rng.random(n)) * np.exp(2j * np.pi * rng.random(n))


def conjugated(rng, d, is_real, skew):
    """V D V⁻¹, V = I + skew·N/√n."""
    n = len(d)
    v = np.eye(n) + skew * gaussian(rng, n, is_real) / np.sqrt(n)
    return v @ d @ np.linalg.inv(v)


def normal(rng, n, is_real):
    q = orthogonal(rng, n, is_real)
    return q @ quasi_diagonal(disc(rng, n), is_real) @ q.conj().T


def circular(rng, n, is_real):
    return gaussian(rng, n, is_real) / np.sqrt(n)


def outliers(rng, n, is_real):
    values = 0.2 * disc(rng, n)
    values[:12] = (1 + np.arange(12) / 4) * np.exp(2j * np.pi * rng.random(12))
    return conjugated(rng, quasi_diagonal(values, is_real), is_real, 0.3)


def skewed(rng, n, is_real):
    d = quasi_diagonal(disc(rng, n) * np.linspace(0.1, 3, n), is_real)
    return conjugated(rng, d, is_real, 3.0)


def triangular(rng, n, is_real):
    """Condition numbers of eigenvalues up to 10^8 or so."""
    a = np.triu(gaussian(rng, n, is_real), 1) / np.sqrt(n)
    return a + np.diag(rng.permutation(np.linspace(-2, 2, n)))


def defective(rng, n, is_real):
    """Jordan blocks of order 2 to 4 at the ends of the spectrum."""
    j, i = np.diag(rng.uniform(-0.5, 0.5, n)), 0
    for size, value in ((3, 2.0), (2, -2.0), (4, 1.25), (2, 0.0)):
        block = slice(i, i + size)
        j[block, block] = value * np.eye(size) + 0.5 * np.eye(size, k=1)
        i += size
    return conjugated(rng, j if is_real else j * np.exp(0.7j), is_real, 0.3)


def low_rank(rng, n, is_real):
    r = 1 + rng.integers(7)
    tall = [gaussian(rng, n, is_real)[:, :r] for _ in range(2)]
    return tall[0] @ tall[1].T / n


def identity(rng, n, is_real):
    return np.eye(n) * (rng.normal() if is_real else np.exp(1j * rng.normal()))


def zero(rng, n, is_real):
    del rng
    return np.zeros((n, n)) if is_real else np.zeros((n, n), complex)


def identity_plus_rank_one(rng, n, is_real):
    u, v = gaussian(rng, n, is_real)[:2]
    return np.eye(n) + np.outer(u, v) / np.sqrt(n)


def cyclic(rng, n, is_real):
    """Three blocks in a ring: every nonzero eigenvalue with its turns by 120°."""
    third, a = n // 3, np.zeros((n, n), float if is_real else complex)
    at = [slice(0, third), slice(third, 2 * third), slice(2 * third, n)]
    for i in range(3):
        rows, columns = at[(i + 1) % 3], at[i]
        a[rows, columns] = gaussian(rng, n, is_real)[rows, columns] / np.sqrt(third)
    return a


def shift(rng, n, is_real):
    """A weighted ring: n eigenvalues of one modulus."""
    weights = np.exp(0.3 * gaussian(rng, n, True)[0])
    a = np.roll(np.diag(weights), 1, axis=0)
    return a if is_real else a * np.exp(1j * rng.normal())


def pairs_only(rng, n, is_real):
    """No real eigenvalues (but one, for odd n): an odd k cuts a pair."""
    values = np.repeat(rng.permutation(n // 2 + 1) + 1.0, 2)[:n] / n
    turn = np.repeat(rng.uniform(0.2, 2.9, n // 2 + 1), 2)[:n]
    values = values * np.exp(1j * turn)
    if not is_real:
        values[1::2] = values[1::2].conj()
    return conjugated(rng, quasi_diagonal(values, is_real), is_real, 0.5)


def repeated(rng, n, is_real):
    """Semisimple copies, 1 to 5 of each."""
    values = np.repeat(rng.normal(size=n), 1 + rng.integers(5, size=n))[:n]
    return conjugated(rng, np.diag(values), is_real, 0.3)


def near_ties(rng, n, is_real):
    values = np.repeat(rng.normal(size=n), 2)[:n]
    values[1::2] += 10.0 ** rng.uniform(-9, -3, size=n // 2)
    return conjugated(rng, np.diag(values), is_real, 0.3)


def graded(rng, n, is_real):
    values = 10.0 ** -np.linspace(0, 8, n) * rng.choice([-1, 1], n)
    return conjugated(rng, np.diag(values), is_real, 0.3)


def real_spectrum(rng, n, is_real):
    return conjugated(rng, np.diag(rng.normal(size=n)), is_real, 1.0)


def nilpotent(rng, n, is_real):
    a = np.triu(gaussian(rng, n, is_real), 1) / np.sqrt(n)
    p = rng.permutation(n)
    return a[p][:, p]


def clement(rng, n, is_real):
    i = np.arange(1.0, n)
    a = (np.diag(i, 1) + np.diag(i[::-1], -1)) / n
    return a if is_real else a * np.exp(1j * rng.normal())


def stochastic(rng, n, is_real):
    a = rng.random((n, n)) * (rng.random((n, n)) < 5 / n) + 1e-3
    a = a / a.sum(axis=0)
    return a if is_real else a * np.exp(1j * rng.normal())


def shifted_far(rng, n, is_real):
    """All eigenvalues near 100: differences are small beside the norm."""
    return 100 * np.eye(n) + circular(rng, n, is_real)


FAMILIES = {
    f.__name__: f
    for f in (
        normal,
        circular,
        outliers,
        skewed,
        triangular,
        defective,
        low_rank,
        identity,
        zero,
        identity_plus_rank_one,
        cyclic,
        shift,
        pairs_only,
        repeated,
        near_ties,
        graded,
        real_spectrum,
        nilpotent,
        clement,
        stochastic,
        shifted_far,
    )
}


# --- the oracle -------------------------------------------------------------------------


class Oracle:
    """All eigenvalues of `a` by `geev`, and how far each one may move."""

    def __init__(self, a):
        self.a = a.astype(complex)
        self.values, left, right = scipy.linalg.eig(self.a, left=True)
        self.left = left / np.linalg.norm(left, axis=0)
        self.right = right / np.linalg.norm(right, axis=0)
        self.norm = np.linalg.norm(self.a, 2)

    def movement(self, j, size):
        """How far eigenvalue j goes under the perturbation of norm `size` that moves it
        most: ‖E‖κ for a simple one, a root of ‖E‖ for a defective one. Twice that."""
        direction = np.outer(self.left[:, j], self.right[:, j].conj())
        moved = np.zeros(len(self.a))
        for phase in (1, 1j):
            w = np.linalg.eigvals(self.a + size * phase * direction)
            gap = np.abs(self.values[:, None] - w)
            rows, columns = linear_sum_assignment(gap)
            moved[rows] = np.maximum(moved[rows], gap[rows, columns])
        # Copies of one value scatter: which of them j is means nothing.
        near = np.abs(self.values - self.values[j]) <= 2 * moved[j]
        return 2 * np.max(moved[near]) + 2 * size


def complaints(a, solution, key, k, eps, *, confirmed=True):
    """What is wrong with a solution that calls itself successful, or unconfirmed."""
    is_real = np.isrealobj(a)
    n = len(a)
    w, v = np.asarray(solution.eigenvalues), np.asarray(solution.eigenvectors)
    w, v = w.astype(complex), v.astype(complex)
    oracle = Oracle(a)
    found = []
    if w.shape != (k,) or v.shape != (n, k) or not np.all(np.isfinite(w)):
        return ["shape or NaN"]
    if not np.allclose(np.linalg.norm(v, axis=0), 1, rtol=100 * eps):
        found.append("an eigenvector is not of unit norm")
    # Residuals: the reported are the true ones, up to rounding of A v.
    absolute = np.linalg.norm(oracle.a @ v - v * w, axis=0)
    # ‖A‖ is an estimate, from the largest Ritz value to the Frobenius norm.
    reported = np.asarray(solution.residuals)
    size = np.abs(w)
    most_scale = np.linalg.norm(oracle.a) + size
    least = absolute / np.where(most_scale > 0, most_scale, 1)
    most = np.where(size > 0, absolute / np.where(size > 0, size, 1), np.inf)
    if np.any(reported < 0.9 * least - 100 * eps) or np.any(
        reported > 1.1 * most + 100 * eps
    ):
        found.append(f"residuals reported {reported}, true {absolute}")
    # Order, and the convention of conjugate pairs.
    rank = np.array([key(z) for z in w])
    if is_real:
        rank = np.maximum(rank, [key(z) for z in w.conj()])
        i = 0
        while i < k:
            pair = w[i].imag != 0
            if pair and i + 1 < k and w[i + 1] != w[i].conj():
                found.append("a conjugate pair is torn apart")
            if pair and key(w[i].conj()) > key(w[i]) + 4 * eps * oracle.norm:
                found.append("the worse member of a pair stands first")
            if pair and key(w[i].conj()) == key(w[i]) and w[i].imag < 0:
                found.append("the negative imaginary part stands first")
            i += 2 if pair else 1
    # Ranks as good as equal are ordered by another rule.
    if np.any(np.diff(rank) > 20 * eps ** (2 / 3) * oracle.norm):
        found.append(f"not best first: {rank}")
    # Identity: distinct members of the spectrum, none of a better rank left out.
    backward = np.maximum(absolute, 2 * eps * np.sqrt(n) * oracle.norm)
    gap = np.abs(w[:, None] - oracle.values)
    rows, columns = linear_sum_assignment(gap)
    tolerance = {}

    def move(j, size):
        if (j, size) not in tolerance:
            tolerance[j, size] = oracle.movement(j, size)
        return tolerance[j, size]

    for i, j in zip(rows, columns, strict=True):
        tiny = 4 * eps * oracle.norm
        if gap[i, j] > tiny and gap[i, j] > move(j, backward[i]):
            found.append(f"{w[i]} is no eigenvalue, or one too many: {gap[i, j]:.1e} off")
    if not confirmed:
        return found
    all_ranks = np.array([key(z) for z in oracle.values])
    if is_real:
        all_ranks = np.maximum(all_ranks, [key(z) for z in oracle.values.conj()])
    worst = np.argmin(rank)
    size = backward.max()
    better = np.setdiff1d(np.nonzero(all_ranks > rank[worst] + size)[0], columns)
    for j in better:
        copies = np.abs(oracle.values[columns] - oracle.values[j])
        if np.min(copies) <= size:
            continue
        if all_ranks[j] - rank[worst] <= move(j, size) + move(columns[worst], size):
            continue
        if np.min(copies) > 2 * move(j, size):
            found.append(
                f"{oracle.values[j]} is missing: rank {all_ranks[j]:.6g} against "
                f"{rank[worst]:.6g}, next of those found {np.min(copies):.1e} away"
            )
    return found


# --- the programs -----------------------------------------------------------------------


class Program(NamedTuple):
    """What is compiled once; every family and seed runs through it."""

    n: int
    k: int
    which: object
    dtype: str = "float64"
    krylov_dim: int | None = None
    rtol: float | None = None
    matrix: bool = False
    seed: int = 0

    def __str__(self):
        name = self.which if isinstance(self.which, str) else self.which.__name__
        return f"{self.n}-{self.k}-{name}-{self.dtype}-{self.krylov_dim}"


def solver(program):
    eigensolver = ieig.KrylovSchur(rtol=program.rtol, krylov_dim=program.krylov_dim)

    @eqx.filter_jit
    def solve(a, v0=None):
        operator = lx.MatrixLinearOperator(a)
        if not program.matrix:
            operator = lx.FunctionLinearOperator(
                operator.mv, jax.ShapeDtypeStruct((program.n,), a.dtype)
            )
        return ieig.eigs(
            operator,
            program.k,
            program.which,
            eigensolver=eigensolver,
            throw=False,
            v0=v0,
        )

    return solve


def confirms(program):
    """Which runs may call themselves successful, written a second way."""
    real_si = program.which == "SI" and program.dtype[:5] == "float"
    small = program.krylov_dim is not None and program.krylov_dim < max(
        2 * program.k + 1, 20
    )
    inside = callable(program.which) or program.which == "SM" or real_si
    return not small and not inside


def campaign(program, families):
    """The right ones, the failures said to be such, and the silent ones."""
    solve = solver(program)
    is_real = not np.issubdtype(np.dtype(program.dtype), np.complexfloating)
    key = program.which
    if isinstance(key, str):
        key = key_of(key, is_real)
    eps = float(np.finfo(program.dtype).eps)
    right, told, silent = [], [], []
    expected = ieig.RESULTS.successful if confirms(program) else ieig.RESULTS.unconfirmed
    notices = ieig.RESULTS.cut_tie, ieig.RESULTS.defective
    for i, name in enumerate(families):
        rng = np.random.default_rng([program.seed, program.n, program.k, i])
        a = FAMILIES[name](rng, program.n, is_real).astype(program.dtype)
        solution = solve(jnp.asarray(a))
        # Eigenpairs, of which some have no derivatives.
        noticed = any(bool(solution.result == notice) for notice in notices)
        if not is_good(solution.result):
            told.append(name)
            continue
        right.append(name)
        confirmed = confirms(program)
        wrong = complaints(a, solution, key, program.k, eps, confirmed=confirmed)
        if not noticed and solution.result != expected:
            wrong.append(f"expected {expected}, got {solution.result}")
        silent.extend(f"{program} {name}: {sentence}" for sentence in wrong)
    return right, told, silent


def assert_right_or_said_to_be_wrong(program, families):
    right, told, silent = campaign(program, families)
    assert not silent, "\n".join(silent)
    # Otherwise a solver that always gives up would pass.
    assert len(right) >= len(families) // 2, told


EVERY_DAY = ["normal", "skewed", "defective", "low_rank", "identity", "zero", "cyclic"]
EVERY_DAY += ["pairs_only"]


@pytest.mark.parametrize(
    "program",
    [
        Program(60, 4, "LM"),
        Program(60, 3, "LR", krylov_dim=12, matrix=True),
        Program(45, 5, "LI", "complex128", krylov_dim=20),
        Program(80, 3, "SR", "complex128", krylov_dim=14),
    ],
    ids=str,
)
def test_a_run_is_right_or_says_that_it_is_not(program):
    assert_right_or_said_to_be_wrong(program, EVERY_DAY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        Program(20, 2, "LM", krylov_dim=8),
        Program(20, 1, "SR", "complex128"),
        Program(30, 8, "LR"),
        Program(40, 3, "SI", seed=1),
        Program(40, 3, "SM", krylov_dim=10),
        Program(60, 1, "SM", krylov_dim=20),
        Program(60, 5, tilted, matrix=True),
        Program(40, 2, toward, "complex128"),
        Program(100, 3, "SM", "complex128", krylov_dim=30),
        Program(81, 3, "LI"),
        Program(120, 6, "SR"),
        Program(60, 4, "LM", seed=1),
        Program(50, 3, "LM", "float32"),
        Program(60, 3, "SI", "complex128"),
        # What a Krylov space cannot promise, and here does not hold.
        Program(40, 1, "LM", krylov_dim=6),
        Program(40, 3, "SI"),
        Program(40, 2, "SI", krylov_dim=12),
        Program(40, 1, toward, krylov_dim=12),
    ],
    ids=str,
)
def test_every_family_is_right_or_said_to_be_wrong(program):
    assert_right_or_said_to_be_wrong(program, list(FAMILIES))


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [Program(300, 4, "LM", matrix=True), Program(200, 2, "LR", "complex128")],
    ids=str,
)
def test_a_large_problem_is_right_or_said_to_be_wrong(program):
    assert_right_or_said_to_be_wrong(
        program, ["outliers", "normal", "low_rank", "cyclic", "identity_plus_rank_one"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_overlap_finds_eigenpairs_and_most_often_the_best(dtype):
    n, k, is_real = 40, 2, dtype == "float64"
    eigensolver = ieig.KrylovSchur(krylov_dim=20)

    @jax.jit
    def solve(a, target):
        return ieig.eigs(
            lambda v: a @ v,
            k,
            ieig.Overlap(target),
            like=jax.ShapeDtypeStruct((n,), a.dtype),
            eigensolver=eigensolver,
            throw=False,
        )

    silent, found, eps = [], 0, float(np.finfo(dtype).eps)
    for i, name in enumerate(["normal", "circular", "outliers", "pairs_only", "clement"]):
        for seed in range(3):
            rng = np.random.default_rng([seed, i])
            a = FAMILIES[name](rng, n, is_real)
            values, vectors = np.linalg.eig(a)
            mode = vectors[:, np.argsort(-np.abs(values))[rng.integers(n // 2)]]
            noise = gaussian(rng, n, False)[0]
            target = mode + 0.3 * noise / np.linalg.norm(noise)
            solution = solve(jnp.asarray(a), jnp.asarray(target))
            assert solution.result != ieig.RESULTS.successful
            if solution.result != ieig.RESULTS.unconfirmed:
                continue
            overlaps = np.abs(target.conj() @ vectors)
            key = lambda z, x=overlaps, w=values: x[np.argmin(np.abs(w - z))]
            wrong = complaints(a, solution, key, k, eps, confirmed=False)
            silent.extend(f"{name} {seed}: {sentence}" for sentence in wrong)
            best = np.max(overlaps)
            got = np.max(np.abs(target.conj() @ np.asarray(solution.eigenvectors)))
            found += got >= best * (1 - 1e-6)
    assert not silent, "\n".join(silent)
    assert found >= 5
