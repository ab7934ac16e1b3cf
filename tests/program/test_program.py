"""A plain call compiles once for what the user's functions do, and sees what changed."""

import gc
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig
from implicit_eig import _program
from implicit_eig._program import Program, TracedFunction

from ..oracles import random_matrix, relative, slow_but


N = 24
RATES = jnp.cos(jnp.arange(float(N)))
X = jax.ShapeDtypeStruct((N,), jnp.float64)
STATE = {"shift": 1.0, "scale": np.ones(N)}


def maps():
    with open("/proc/self/maps") as file:
        return sum(1 for _ in file)


@pytest.fixture
def compiled(caplog):
    """How many programs a call compiles."""

    def count(call, *args):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.DEBUG, "jax"):
            jax.block_until_ready(call(*args))
        return sum("Compiling" in r.message for r in caplog.records)

    return count


def growth(rates, t=0.3, p=1.5):
    """All that a user may write anew in every step: operator, selection, gauge."""
    s = ieig.eigs(
        lambda v: rates * v + t * jnp.roll(v, 1) + jax.nn.softplus(rates) * v,
        k=1,
        which=lambda z: z.real - p * jnp.abs(z.imag),
        like=rates,
        gauge=lambda v: v / jnp.sum(v),
    )
    return s.eigenvalues[0].real + jnp.abs(s.eigenvectors[0, 0])


TRANSFORMED = {
    "plain": lambda: growth,
    "value_and_grad": lambda: jax.value_and_grad(growth),
    "jvp": lambda: lambda r, *p: jax.jvp(lambda r: growth(r, *p), (r,), (r,)),
    "vjp": lambda: lambda r, *p: jax.vjp(lambda r: growth(r, *p), r)[1](1.0),
    "jacrev": lambda: (
        lambda r, *p: jax.jacrev(lambda r: growth(r, *p) * jnp.array([1.0, 2.0]))(r)
    ),
    "vmap": lambda: (
        lambda r, *p: jax.vmap(lambda t: growth(t * r, *p))(jnp.array([1.0, 0.9]))
    ),
}


@pytest.mark.parametrize("mode", slow_but(["plain", "value_and_grad"], TRANSFORMED))
def test_functions_of_the_same_text_compile_once(mode, compiled):
    call = TRANSFORMED[mode]()
    call(RATES, 0.3, 1.5)
    call(0.9 * RATES, 0.25, 1.4)
    # Numbers in the text are inputs too.
    assert not compiled(call, 0.8 * RATES, 0.2, 1.3)
    fresh = jnp.asarray(jax.tree.leaves(call(0.8 * RATES, 0.2, 1.3))[0])
    _program._kept.clear()
    jax.clear_caches()
    again = jnp.asarray(jax.tree.leaves(call(0.8 * RATES, 0.2, 1.3))[0])
    assert relative(fresh, again) < 1e-12


def test_what_a_function_reads_may_change():
    def op(v):
        return STATE["shift"] * (STATE["scale"] * v)

    def best(z):
        return STATE["sign"] * z.real

    def unit(v):
        return STATE["length"] * v / jnp.linalg.norm(v).astype(v.dtype)

    def found():
        s = ieig.eigs(op, 1, best, like=jnp.zeros(N), gauge=unit)
        return complex(s.eigenvalues[0]), float(jnp.linalg.norm(s.eigenvectors))

    STATE.update(shift=1.0, scale=np.arange(1.0, N + 1), sign=1, length=1.0)
    assert found() == (pytest.approx(N), pytest.approx(1))
    STATE["shift"] = 5.0
    assert found()[0] == pytest.approx(5 * N)
    STATE["scale"] *= 2  # in place
    assert found()[0] == pytest.approx(10 * N)
    STATE["sign"] = -1
    assert found()[0] == pytest.approx(10)
    STATE["length"] = 3.0
    assert found()[1] == pytest.approx(3)


def test_a_lineax_operator_made_of_a_function_is_one_of_its_text(compiled):
    def top(r):
        op = lx.FunctionLinearOperator(lambda v: r * v + jnp.roll(v, 1), X)
        return ieig.eigs(op + lx.DiagonalLinearOperator(r), 1, "LR").eigenvalues

    def slope(r):
        op = lx.JacobianLinearOperator(lambda y, _: r * y**2 + jnp.roll(y, 1), r)
        return ieig.eigs(op, 1, "LR").eigenvalues

    for fn, matrix in (
        (top, lambda r: np.diag(2 * r) + np.roll(np.eye(N), 1, axis=0)),
        (slope, lambda r: np.diag(2 * r * r) + np.roll(np.eye(N), 1, axis=0)),
    ):
        fn(RATES)
        assert not compiled(fn, 0.9 * RATES)
        want = np.max(np.linalg.eigvals(matrix(0.9 * np.asarray(RATES))).real)
        assert np.isclose(fn(0.9 * RATES)[0].real, want)


def test_equations_tell_apart_what_differs():
    def of(fn):
        return TracedFunction.of(fn, X).equations

    twice = 2 * RATES
    same = [
        (lambda v: 2.0 * v, lambda v: 3.0 * v),
        (lambda v: RATES * v, lambda v: twice * v),
        (jax.nn.relu, lambda v: jax.nn.relu(v)),
        (lambda v: jax.jit(jnp.sin)(v), lambda v: jax.jit(jnp.sin)(v)),
    ]
    other = [
        (lambda v: 2.0 * v, lambda v: 2.0 + v),
        (lambda v: jnp.roll(v, 1), lambda v: jnp.roll(v, 2)),
        (lambda v: v**2, lambda v: v**3),
        (lambda v: v * 2, lambda v: v * RATES),
        (jax.nn.relu, jax.nn.relu6),
        (lambda v: v[::-1], lambda v: v),
        (
            lambda v: jax.lax.fori_loop(0, 3, lambda _, x: 2.0 * x, v),
            lambda v: jax.lax.fori_loop(0, 4, lambda _, x: 2.0 * x, v),
        ),
    ]
    for f, g in same:
        assert of(f) == of(g) and hash(of(f)) == hash(of(g))
    for f, g in other:
        assert of(f) != of(g)


def test_a_custom_rule_inside_is_the_users():
    @jax.custom_jvp
    def sin(x):
        return jnp.sin(x)

    sin.defjvp(lambda p, t: (sin(*p), 10 * jnp.cos(*p) * t[0]))

    def value(t, fn):
        op = lambda v: fn(t) * jnp.array([1.0, 0.5]) * v
        return ieig.eigs(op, 1, like=jnp.zeros(2)).eigenvalues[0].real

    for fn, factor in ((sin, 10), (jnp.sin, 1), (sin, 10)):
        slope = jax.grad(lambda t, fn=fn: value(t, fn))(0.3)
        assert np.isclose(slope, factor * np.cos(0.3))


def test_the_number_of_programs_is_bounded_and_memory_given_back(monkeypatch):
    monkeypatch.setattr(_program, "_MOST", 2)
    run = Program(lambda a: jnp.linalg.inv(jnp.sin(a) + a @ a), name="test")

    def step(n):
        jax.block_until_ready(run(jnp.eye(n)))
        gc.collect()
        assert len(_program._kept) <= 2
        return maps()

    first = [step(n) for n in range(2, 6)]
    last = [step(n) for n in range(6, 16)]
    assert max(last) < max(first) + 40


def test_a_plain_loop_compiles_nothing_and_keeps_its_memory(compiled):
    def loss(rates):
        op = ieig.SparseOperator(rates, np.arange(N), np.roll(np.arange(N), 1), N)
        return jnp.abs(ieig.eigs(op, k=2, which="LR").eigenvectors[0, 0]) ** 2

    step = jax.value_and_grad(loss)
    rates = 2 + RATES
    for _ in range(2):
        _, gradient = step(rates)
    before = maps()
    for i in range(10):
        rates = rates - 0.01 * gradient
        if i == 9:
            assert not compiled(step, rates)
        _, gradient = step(rates)
    assert maps() <= before + 5


@pytest.mark.slow
def test_five_hundred_steps_of_the_readme_in_flat_memory():
    def growth(rates):
        def step(v):
            return rates * v + 0.3 * jnp.roll(v, 1) + 0.2 * jnp.roll(v, -1)

        return ieig.eigs(step, k=2, which="LR", like=rates).eigenvalues[0].real

    rates = jnp.cos(jnp.arange(200.0) / 31)
    values = []
    for i in range(500):
        value, gradient = jax.value_and_grad(growth)(rates)
        rates = rates - 0.01 * gradient
        values.append(value)
        if i == 5:
            before = maps()
    assert maps() <= before + 5
    assert values[-1] < values[0]


CACHED = """
import collections, sys, jax, jax.monitoring, jax.numpy as jnp, implicit_eig as ieig
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name.split("/")[-1]]))
a = jnp.diag(jnp.arange(8.0)) + 0.1
w, v = jnp.linalg.eigh(a)
r = jnp.cos(jnp.arange(24.0))

def free(r):
    s = ieig.eigs(lambda x: r * x + 0.1 * jnp.roll(x, 1), k=1, which="LR", like=r)
    return jnp.abs(s.eigenvectors[0, 0])

def attached(a):
    return jnp.abs(ieig.attach(a, w[:2], v[:, :2]).eigenvectors[0, 0])

losses = {
    "eigs": (free, r),
    "eig": (lambda a: jnp.abs(ieig.eig(a).eigenvectors[0, 0]), a),
    "invariant_subspace": (lambda a: ieig.invariant_subspace(a, 2).trace, a),
    "attach": (attached, a),
}
for name, (loss, x) in losses.items():
    seen.clear()
    jax.jit(jax.grad(loss)).lower(x).compile()
    print(name, seen["cache_hits"], seen["cache_misses"])
"""


def test_default_gradients_stay_in_the_persistent_cache(tmp_path):
    def run():
        out = subprocess.run(
            [sys.executable, "-c", CACHED, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split() for line in out.stdout.splitlines()]

    assert all(int(misses) for _, _, misses in run())
    for name, hits, misses in run():
        assert int(hits) and misses == "0", name


def exported():
    free = lambda r: ieig.eigs(
        lambda v: r * v + 0.1 * jnp.roll(v, 1), k=2, which="LR", like=r
    )
    values = lambda r: (free(r).eigenvalues, free(r).eigenvectors)
    loss = lambda r: jnp.abs(free(r).eigenvectors[0, 0])
    a = random_matrix(0, 6)
    return {
        "eigs": (values, RATES),
        "gradient of eigs": (jax.grad(loss), RATES),
        "gradient of eig": (jax.grad(lambda a: jnp.abs(ieig.eig(a)[1][0, 0])), a),
    }


@pytest.mark.parametrize("name", slow_but(["gradient of eigs"], exported()))
def test_programs_can_be_exported(name):
    fn, x = exported()[name]
    again = jax.export.export(jax.jit(fn))(x).call
    for got, want in zip(
        jax.tree.leaves(again(x)), jax.tree.leaves(jax.jit(fn)(x)), strict=True
    ):
        assert relative(got, want) < 1e-10


@pytest.mark.parametrize("name", exported())
def test_programs_lower_for_cuda_without_python(name, monkeypatch):
    monkeypatch.delenv("IMPLICIT_EIG_KERNELS", raising=False)
    fn, x = exported()[name]
    checks = []
    if name == "gradient of eig":
        # JAX's own, of which it makes no promise there.
        checks = [jax.export.DisabledSafetyCheck.custom_call("cuhybrid_eig_real")]
    made = jax.export.export(jax.jit(fn), platforms=["cuda"], disabled_checks=checks)(x)
    assert "callback" not in made.mlir_module()
