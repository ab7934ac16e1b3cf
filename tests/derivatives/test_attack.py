"""An attack on what other tests leave alone: unusual operators, solvers, arguments and
surroundings. Every answer is compared with closed forms in NumPy or with differences.

What was tried, what was NaN, what was said to have failed and what was wrong is counted,
and printed at the end (`pytest -m slow -s tests/derivatives/test_attack.py`). Wrong must be none.
"""

import collections
import concurrent.futures
import copy
import functools
import gc
import io
import os
import pickle
import resource
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
from jax.experimental import sparse

import implicit_eig as ieig

from ..oracles import random_matrix, relative


pytestmark = pytest.mark.slow
N = 24
TALLY = collections.Counter()


@pytest.fixture(autouse=True, scope="module")
def tally():
    yield
    counts = ", ".join(f"{name}: {TALLY[name]}" for name in ("tried", *OUTCOMES))
    print(f"\nattack: {counts}")
    assert TALLY["wrong"] == 0


OUTCOMES = "right", "NaN", "failed", "wrong"


@pytest.fixture(autouse=True)
def default_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def judge(got, want, tol, result=None):
    """Counts a case, and fails the test where it is finite, wrong and unsaid."""
    got, want = np.asarray(got), np.asarray(want)
    TALLY["tried"] += 1
    good = result is None or any(
        bool(result == r) for r in (ieig.RESULTS.successful, ieig.RESULTS.unconfirmed)
    )
    if not good:
        kind = "failed"
    elif np.isnan(got).any():
        kind = "NaN"
    else:
        kind = "right" if relative(got, want) <= tol else "wrong"
    TALLY[kind] += 1
    assert kind != "wrong", (got, want)
    return kind


def pairs(a, b=None):
    """λ, V and U with Uᴴ B V = I, by SciPy."""
    w, v = scipy.linalg.eig(a, b)
    u = np.linalg.inv((np.eye(len(a)) if b is None else b) @ v).conj().T
    return w, v, u


def nearest(w, sigma, k):
    return np.argsort(abs(w - sigma))[:k]


def complex_matrix(seed, n=N):
    return np.asarray(random_matrix(seed, n, np.complex128)) / n**0.5


def real_matrix(seed, n=N):
    return np.asarray(random_matrix(seed, n)) / n**0.5


# --- operators -------------------------------------------------------------------------


def tridiagonal(r):
    return lx.TridiagonalLinearOperator(r, 0.3 * r[1:], 0.5 + 0 * r[1:])


def jacobian(r):
    return lx.JacobianLinearOperator(
        lambda y, _: r * y + 0.1 * jnp.roll(y, 1) * r, jnp.ones_like(r)
    )


def function(r):
    like = jax.ShapeDtypeStruct((N,), r.dtype)
    return lx.FunctionLinearOperator(lambda v: r * v + 0.2 * jnp.roll(v, 1), like)


def diagonal(r):
    return lx.DiagonalLinearOperator(r)


def matrix(r):
    return lx.MatrixLinearOperator(jnp.diag(r) + 0.1 * jnp.outer(r, r[::-1]))


OPERATORS = {
    "diagonal": diagonal,
    "tridiagonal": tridiagonal,
    "Jacobian": jacobian,
    "function": function,
    "matrix": matrix,
    "identity": lambda r: (
        lx.IdentityLinearOperator(jax.ShapeDtypeStruct((N,), r.dtype)) + diagonal(r)
    ),
    "tagged": lambda r: lx.TaggedLinearOperator(diagonal(r), lx.symmetric_tag),
    "add": lambda r: tridiagonal(r) + diagonal(r**2),
    "sub": lambda r: tridiagonal(r) - 0.1 * matrix(r),
    "negated": lambda r: -tridiagonal(r),
    "mul": lambda r: tridiagonal(r) * r[0],
    "div": lambda r: tridiagonal(r) / r[0],
    "composed": lambda r: tridiagonal(r) @ diagonal(1 + r**2),
    "transposed": lambda r: tridiagonal(r).T,
    "auxiliary": lambda r: (
        lx.AuxLinearOperator(tridiagonal(r), None)
        if hasattr(lx, "AuxLinearOperator")
        else tridiagonal(r)
    ),
}
R = jnp.asarray(1.5 + np.cos(np.arange(N) * 0.7))


@pytest.mark.parametrize("complex_rates", [False, True])
@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_operators_of_lineax(make, complex_rates):
    r = R * (1 + 0.2j * jnp.sin(jnp.arange(N))) if complex_rates else R
    e = jnp.asarray(np.random.default_rng(0).normal(size=N), r.dtype)
    dense = lambda r: np.asarray(make(r).as_matrix())
    w, v, u = pairs(dense(r))
    best = np.argsort(-w.real)[:2]
    h = 1e-6
    change = (dense(r + h * e) - dense(r - h * e)) / (2 * h)
    rates = np.sum(u.conj() * (change @ v), axis=0)[best]
    for solver in (ieig.KrylovSchur(), ieig.Dense()):

        def run(r, solver=solver):
            s = ieig.eigs(make(r), 2, "LR", eigensolver=solver, throw=False)
            return s.eigenvalues, s.result

        values, tangents, result = jax.jvp(run, (r,), (e,), has_aux=True)
        judge(values, w[best], 1e-8, result)
        judge(tangents, rates, 1e-5, result)
        gradient = jax.grad(lambda r, run=run: jnp.sum(run(r)[0].real))(r)
        judge(jnp.sum(gradient * e).real, np.sum(rates.real), 1e-5, result)


# --- complex matrices, complex targets, mass matrices, solvers of derivatives ----------


SOLVERS = {
    "default": lambda: None,
    "LU": lambda: ieig.ImplicitAdjoint(lx.LU()),
    "DeflatedGMRES": lambda: ieig.ImplicitAdjoint(ieig.DeflatedGMRES()),
    "jaxopt": lambda: ieig.ImplicitAdjoint(_jaxopt()),
}


def _jaxopt():
    linear_solve = pytest.importorskip("jaxopt").linear_solve
    return ieig.JaxoptSolver(linear_solve.solve_gmres, tol=1e-12, maxiter=500)


@pytest.mark.parametrize("kind", ["real", "complex", "real, complex target"])
@pytest.mark.parametrize("with_mass", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_values_and_vectors_move_as_first_order_theory_says(name, with_mass, kind):
    make = complex_matrix if kind == "complex" else real_matrix
    sigma = 0.3 if kind == "real" else 0.3 + 0.4j
    adjoint = SOLVERS[name]()

    def found(a, b, shift_inverted):
        solver = ieig.ShiftInvert(sigma) if shift_inverted else ieig.Dense()
        which = "LM" if shift_inverted else ieig.Nearest(sigma)
        mass = b if with_mass else None
        s = ieig.eigs(
            a,
            1,
            which,
            mass=mass,
            adjoint=adjoint,
            eigensolver=solver,
            throw=False,
        )
        v = s.eigenvectors[:, 0]
        size = jnp.abs(v[0]) ** 2 / jnp.sum(jnp.abs(v) ** 2)
        return jnp.stack([s.eigenvalues[0], size.astype(s.eigenvalues.dtype)]), s.result

    @functools.partial(jax.jit, static_argnums=2)
    def derivatives(x, dx, shift_inverted):
        f = lambda *x: found(*x, shift_inverted)
        values, tangents, result = jax.jvp(f, x, dx, has_aux=True)
        gradient = jax.grad(lambda *x: jnp.sum(f(*x)[0].real), (0, 1))(*x)
        total = sum(jnp.sum(g * d).real for g, d in zip(gradient, dx, strict=True))
        return values, tangents, total, result

    for seed in range(3):
        a, da, db = (make(10 * seed + i) for i in range(3))
        b = np.eye(N, dtype=a.dtype)
        b = b + 0.3 * make(10 * seed + 4) if with_mass else b
        db = db if with_mass else 0 * db
        w, v, u = pairs(a, b)
        i = nearest(w, sigma, 1)[0]
        g = u.conj().T @ (da @ v - db @ v * w)
        coupling = g[:, i] / np.where(np.arange(N) == i, 1, w[i] - w)
        coupling[i] = 0
        rate, turn = g[i, i], v @ coupling
        unit = v[:, i] / np.linalg.norm(v[:, i])
        turn = turn / np.linalg.norm(v[:, i])
        # |v₀|² of the vector of norm one.
        inner = 2 * (unit[0].conj() * turn[0]).real
        share = inner - 2 * abs(unit[0]) ** 2 * (unit.conj() @ turn).real

        x, dx = (jnp.asarray(a), jnp.asarray(b)), (jnp.asarray(da), jnp.asarray(db))
        for shift_inverted in (False, True):
            try:
                values, tangents, total, result = derivatives(x, dx, shift_inverted)
            except (ValueError, TypeError) as error:
                # A solver that says that it does not take this kind of system.
                assert name == "jaxopt" and "solve_gmres" in str(error)
                TALLY.update(["tried", "failed"])
                continue
            judge(values[0], w[i], 1e-9, result)
            judge(tangents, [rate, share], 1e-6, result)
            judge(total, rate.real + share, 1e-6, result)


# --- what was found elsewhere, and nasty matrices ---------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("noise", [1e-9, 1e-6, 1e-3])
def test_polishing_ends_at_the_pairs_or_is_refused(steps, noise):
    for seed in range(3):
        for a in (real_matrix(seed), complex_matrix(seed)):
            w, v, _ = pairs(a)
            best = np.argsort(-w.real)[:4]
            rng = np.random.default_rng(seed)
            rough = v[:, best] + noise * rng.normal(size=(N, 4))
            near = w[best] + noise * rng.normal(size=4)
            s = ieig.attach(a, near, rough, polish=steps, throw=False)
            distance = np.min(abs(np.asarray(s.eigenvalues)[:, None] - w), axis=1)
            judge(distance + 1, np.ones(4), 1e-7, s.result)


def nasty():
    """Matrices, k, and whether the k rightmost eigenvalues are apart from the others."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    for size in (2, 3, 5):
        jordan = np.diag([3.0] * size + list(np.linspace(1, -1, 12 - size)))
        jordan += np.diag([1.0] * (size - 1) + [0.0] * (12 - size), 1)
        yield f"Jordan block of order {size}", q @ jordan @ q.T, size
    for gap in (1e-4, 1e-8, 1e-12):
        t = np.diag([3.0, 3 + gap, *np.linspace(1, -1, 10)]) + np.triu(
            rng.normal(size=(12, 12)), 1
        )
        yield f"gap {gap}", q @ t @ q.T, 2
    yield "Grcar", np.triu(np.tril(np.ones((12, 12)), 3)) - np.eye(12, k=-1), 4
    yield (
        "Clement",
        np.diag(np.arange(1.0, 12), 1) + np.diag(np.arange(11.0, 0, -1), -1),
        3,
    )
    yield "companion", scipy.linalg.companion(np.poly(np.arange(1.0, 9))), 3


@pytest.mark.parametrize("a, k", [pytest.param(*x, id=name) for name, *x in nasty()])
def test_subspaces_of_nasty_matrices(a, k):
    """Traces and projectors by an ordered Schur form, their tangents by differences."""
    n = len(a)
    e = np.random.default_rng(1).normal(size=(n, n))
    keys = np.sort(np.linalg.eigvals(a).real)[::-1]
    edge = (keys[k - 1] + keys[k]) / 2
    if np.sum(np.linalg.eigvals(a).real > edge) != k:
        pytest.skip("k cuts a pair")

    def exact(a):
        t, z, _ = scipy.linalg.schur(a, "complex", sort=lambda z: z.real > edge)
        x = scipy.linalg.solve_sylvester(t[:k, :k], -t[k:, k:], t[:k, k:])
        left = np.eye(k, n, dtype=complex)
        left[:, k:] = x
        projector = z[:, :k] @ (left @ z.conj().T)
        block = t[:k, :k]
        return np.trace(block @ block).real, projector.real

    h = 1e-6
    plus, minus = exact(a + h * e), exact(a - h * e)
    slopes = [(p - m) / (2 * h) for p, m in zip(plus, minus, strict=True)]
    value, projector = exact(a)
    sensitivity = max(1.0, np.linalg.norm(projector))

    def by_subspace(a):
        s = ieig.invariant_subspace(a, k, "LR", throw=False)
        return (jnp.trace(s.block @ s.block), s.projector()), s.result

    def by_projector(a):
        return ieig.spectral_projector(a, lambda z: z.real > edge, throw=False)

    tol = 1e-6 * sensitivity**2
    (found, tangents, result) = jax.jvp(
        by_subspace, (jnp.asarray(a),), (jnp.asarray(e),), has_aux=True
    )
    judge(found[0], value, 1e-9 * sensitivity, result)
    judge(found[1], projector, 1e-9 * sensitivity, result)
    judge(tangents[0], slopes[0], tol, result)
    judge(tangents[1], slopes[1], tol, result)
    judge(
        *jax.tree.map(np.asarray, (by_projector(jnp.asarray(a)), projector)),
        1e-8 * sensitivity,
    )
    _, tangent = jax.jvp(by_projector, (jnp.asarray(a),), (jnp.asarray(e),))
    judge(tangent, slopes[1], tol)


# --- surroundings -----------------------------------------------------------------------


SINGLE = """
import jax, jax.numpy as jnp, numpy as np, implicit_eig as ieig
assert not jax.config.jax_enable_x64
rng = np.random.default_rng(0)
for dtype in (np.float32, np.complex64):
    a, e = (rng.normal(size=(30, 30)) for _ in range(2))
    if dtype == np.complex64:
        a = a + 1j * rng.normal(size=(30, 30))
    a, e = (a / 30**0.5).astype(dtype), e.astype(dtype)
    w, v = np.linalg.eig(a.astype(complex))
    u = np.linalg.inv(v)
    i = np.argmax(w.real)
    want = (u @ e @ v)[i, i]
    index = np.nonzero(a)
    for name, run in {
        "eigvals": lambda a: ieig.eigvals(a)[jnp.argmax(ieig.eigvals(a).real)],
        "dense": lambda a: ieig.eigs(a, 1, "LR").eigenvalues[0],
        "krylov": lambda a: ieig.eigs(
            ieig.SparseOperator(a[index], *index, 30), 1, "LR").eigenvalues[0],
        "target": lambda a: ieig.eigs(
            ieig.SparseOperator(a[index], *index, 30), 1,
            eigensolver=ieig.ShiftInvert(complex(w[i]) * (1 + 0.01j))).eigenvalues[0],
    }.items():
        value, tangent = jax.jvp(run, (jnp.asarray(a),), (jnp.asarray(e),))
        # Of a conjugate pair either member may be the rightmost.
        error = max(abs((value - w[i]).real), abs((tangent - want).real) / abs(want))
        assert value.dtype == np.complex64
        print(name, np.dtype(dtype), float(error))
"""


def test_with_64_bits_off():
    environment = os.environ | {"JAX_ENABLE_X64": "0"}
    out = subprocess.run(
        [sys.executable, "-c", SINGLE], capture_output=True, text=True, env=environment
    )
    assert out.returncode == 0, out.stderr
    lines = out.stdout.split("\n")[:-1]
    assert len(lines) == 8
    for line in lines:
        judge(1 + float(line.split()[-1]), 1.0, 2e-3)


def problem(seed):
    """A sparse gradient through SuperLU on the host, and what it should be."""
    a = np.diag(np.arange(1.0, N + 1)) + 0.3 * np.eye(N, k=1) + 0.2 * np.eye(N, k=-1)
    a = a * (1 + 0.01 * seed)
    index = np.nonzero(a)
    w, v, u = pairs(a)
    i = nearest(w, 5.2, 1)[0]
    want = (u[:, i].conj()[:, None] * v[:, i])[index].real
    return jnp.asarray(a[index]), index, want


INDEX = problem(0)[1]


@jax.jit
def on_the_host(values):
    operator = ieig.SparseOperator(values, *INDEX, N)
    s = ieig.eigs(
        operator, 1, eigensolver=ieig.ShiftInvert(5.2, linear_solver=ieig.SparseLU())
    )
    return s.eigenvalues[0].real


def test_ten_threads_with_host_callbacks():
    gradient = jax.jit(jax.grad(on_the_host))
    gradient(problem(0)[0])

    def work(thread):
        for call in range(20):
            values, _, want = problem((thread + call) % 5)
            yield np.asarray(gradient(values)), want

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        for answers in pool.map(lambda t: list(work(t)), range(10)):
            for got, want in answers:
                judge(got, want, 1e-8)


def test_five_hundred_calls_leave_nothing_behind():
    gradient = jax.jit(jax.grad(on_the_host))
    plain = lambda v: ieig.eigs(ieig.SparseOperator(v, *INDEX, N), 2, "LR").eigenvalues

    def once(i):
        values, _, want = problem(i % 5)
        judge(gradient(values), want, 1e-8)
        plain(values)

    def held():
        gc.collect()
        files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        return (
            files,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            len(jax.live_arrays()),
        )

    for i in range(50):
        once(i)
    files, memory, arrays = held()
    for i in range(500):
        once(i)
    after = held()
    assert after[0] <= files + 2
    assert after[2] <= arrays + 5
    # In KiB on Linux, bytes on macOS.
    assert after[1] <= memory * 1.15


def everything_public():
    a = random_matrix(0, 6)
    s = ieig.eigs(a, 2, "LR", left=True)
    return {
        "Solution": s,
        "Subspace": ieig.invariant_subspace(a, 6),
        "Diagnostics": ieig.diagnose(a, s),
        "EigResult": ieig.eig(a),
        "RESULTS member": s.result,
        "Dense": ieig.Dense(),
        "KrylovSchur": ieig.KrylovSchur(rtol=1e-9, repeated=True),
        "ShiftInvert": ieig.ShiftInvert(1.0 + 2j),
        "Arpack": ieig.Arpack(),
        "ImplicitAdjoint": ieig.ImplicitAdjoint(lx.LU()),
        "KrylovSylvester": ieig.KrylovSylvester(),
        "DeflatedGMRES": ieig.DeflatedGMRES(),
        "SparseLU": ieig.SparseLU(),
        "Nearest": ieig.Nearest(1.0),
        "Overlap": ieig.Overlap(jnp.ones(6)),
        "LargestReal": ieig.LargestReal(),
        "Lapack": ieig.Lapack(),
        "UnitNorm": ieig.UnitNorm(2),
        "Functional": ieig.Functional(jnp.ones(6)),
        "Bilinear": ieig.Bilinear(),
        "SparseOperator": ieig.SparseOperator(np.ones(3), [0, 1, 2], [1, 2, 0], 3),
        "TextProgressMeter": ieig.TextProgressMeter(),
        "NoProgressMeter": ieig.NoProgressMeter(),
    }


def serialised(x):
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, x)
    file.seek(0)
    return eqx.tree_deserialise_leaves(file, x)


@pytest.mark.parametrize(
    "copied",
    [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy, serialised],
    ids=["pickle", "deepcopy", "equinox"],
)
def test_all_that_is_public_can_be_copied(copied):
    for name, x in everything_public().items():
        TALLY["tried"] += 1
        same = bool(eqx.tree_equal(x, copied(x)))
        TALLY["right" if same else "wrong"] += 1
        assert same, name


@pytest.mark.parametrize(
    "switch", ["jax_disable_jit", "jax_enable_checks", "jax_debug_nans"]
)
def test_switches_of_jax(switch):
    a = jnp.asarray(real_matrix(0, 8))
    e = jnp.asarray(real_matrix(1, 8))
    w, v, u = pairs(np.asarray(a))
    i = np.argmax(w.real)
    rate = (u.conj().T @ np.asarray(e) @ v)[i, i].real
    runs = {
        "eigvals": lambda a: jnp.max(ieig.eigvals(a).real),
        "eigs": lambda a: ieig.eigs(a, 1, "LR").eigenvalues[0].real,
        "subspace": lambda a: ieig.invariant_subspace(a, 8).trace,
    }
    wants = {"eigvals": rate, "eigs": rate, "subspace": np.trace(e)}
    jax.config.update(switch, True)
    try:
        tangents = {name: jax.jvp(f, (a,), (e,))[1] for name, f in runs.items()}
    finally:
        jax.config.update(switch, False)
    for name, tangent in tangents.items():
        judge(tangent, wants[name], 1e-9)


SHARDED = """
import os
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
import jax, jax.numpy as jnp, numpy as np, implicit_eig as ieig
jax.config.update("jax_enable_x64", True)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
P = jax.sharding.PartitionSpec
a = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8)))

dense = ieig.Dense()
for name, f in {
    "eigvals": lambda a: jnp.max(ieig.eigvals(a).real),
    "Dense": lambda a: ieig.eigs(
        a, 1, "LR", eigensolver=dense, throw=False
    ).eigenvalues[0].real,
}.items():
    gradients = lambda a: jax.vmap(jax.grad(f))(a)
    inside = jax.shard_map(gradients, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
    try:
        found = jax.jit(inside)(a)
    except ValueError as error:
        assert "structures do not match" in str(error)
        print(name, "raises")
        continue
    for x, got in zip(a, found):
        w, v = np.linalg.eig(np.asarray(x))
        i = np.argmax(w.real)
        want = np.outer(np.linalg.inv(v)[i], v[:, i]).real
        print(name, np.linalg.norm(got - want) / np.linalg.norm(want))
"""


def test_a_gradient_inside_shard_map():
    out = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    lines = [line.split() for line in out.stdout.splitlines()]
    assert {name for name, _ in lines} == {"eigvals", "Dense"}
    for name, answer in lines:
        if answer == "raises":  # lineax compares structures without their sharding
            assert name == "Dense"
            TALLY.update(["tried", "failed"])
        else:
            judge(1 + float(answer), 1.0, 1e-10)


def test_order_zero():
    nothing = jnp.zeros((0, 0))
    for find in (
        lambda: ieig.eig(nothing).eigenvalues,
        lambda: ieig.eigvals(nothing),
        lambda: ieig.eigs(nothing, None).eigenvalues,
        lambda: jax.jit(ieig.eigvals)(nothing),
        lambda: jax.vmap(ieig.eigvals)(jnp.zeros((3, 0, 0)))[0],
        lambda: ieig.eigvals(jnp.zeros((0, 3, 3)))[:, 0],
    ):
        TALLY["tried"] += 1
        assert find().shape == (0,)
        TALLY["right"] += 1
    assert jax.grad(lambda a: jnp.sum(ieig.eigvals(a).real))(nothing).shape == (0, 0)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    "indices, values",
    [
        ([[0, 0], [1, 1], [2, 2]], [1.0, 2, 3]),
        ([[0, 0], [1, 1], [3, 3]], [1.0, 2, 0]),
        ([[0, 0], [1, 1], [3, 0]], [1.0, 2, 0]),
        ([[0, 0], [0, 0], [1, 2]], [3.0, 0, 0]),
        ([[0, 0], [1, 1], [-1, -1]], None),
        ([[0, 0], [1, 1], [2, -1]], None),
        ([[0, 0], [1, 1], [-7, 1]], None),
    ],
)
def test_indices_beyond_a_sparse_matrix(indices, values, traced):
    """Beyond the shape they are padding; negative ones are refused, or NaN if traced."""

    def find(indices):
        a = sparse.BCOO((jnp.asarray([1.0, 2.0, 3.0]), indices), shape=(3, 3))
        s = ieig.eigs(a, 1, "LR", eigensolver=ieig.Dense(), throw=False)
        return s.eigenvalues, s.result

    indices = jnp.asarray(indices)
    if values is None and not traced:
        with pytest.raises(ValueError, match="negative index"):
            find(indices)
        return
    w, result = (jax.jit(find) if traced else find)(indices)
    if values is None:
        assert result == ieig.RESULTS.nonfinite
    judge(w, [np.nan] if values is None else [max(values)], 1e-12, result)
