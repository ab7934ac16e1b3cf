"""What is left to the host on a GPU, counted in programs lowered for one; and the script
that measures there, on the CPU."""

import collections
import importlib
import json
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
from jax._src.lax import linalg
from jax.interpreters import mlir

import implicit_eig as ieig
from benchmarks import gpu
from implicit_eig._kernels import library
from implicit_eig._numerics import device_eig_from_both_sides
from tools.host_work import host_work, Work

from ..oracles import matched, relative


CALLBACK, EIG = "xla_ffi_python_gpu_callback", "cuhybrid_eig_real"


@pytest.fixture(autouse=True)
def _lowered_without_a_gpu(monkeypatch):
    """Callbacks ask for the backend, which only TPUs need; and "off" leaves to the host
    what is looked for here."""
    monkeypatch.setattr(mlir.ModuleContext, "get_backend", lambda *_, **__: None)
    monkeypatch.delenv("IMPLICIT_EIG_KERNELS", raising=False)


def test_counts_by_loop_and_branch():
    number = jax.ShapeDtypeStruct((), jnp.float64)

    def callback(x):
        return jax.pure_callback(lambda x: x, number, x)

    def step(x):
        x = jax.lax.cond(x > 0, callback, lambda x: x, x)
        return x + jnp.sum(jnp.linalg.eigvals(x * jnp.ones((2, 2))).real)

    def program(x):
        x = jax.jit(callback)(callback(x))
        return jax.lax.while_loop(lambda x: x < 9, step, x)

    assert host_work(program, number) == {
        Work(CALLBACK, 0, False): 2,
        Work(CALLBACK, 1, True): 1,
        Work(EIG, 1, False): 1,
        Work("predicate", 1, False): 2,  # of the loop, and of the branch in it
    }


def growth(rates):
    """A loss with every default that may call back: errors are raised, the phase of the
    vectors is watched."""
    step = lambda v: rates * v + 0.3 * jnp.roll(v, 1) + 0.2 * jnp.roll(v, -1)
    s = ieig.eigs(step, 2, "LR", like=rates)
    return s.eigenvalues[0].real + jnp.sum(jnp.abs(s.eigenvectors) ** 4)


RATES = jax.ShapeDtypeStruct((64,), jnp.float64)


def calls(fn):
    """Those that are made, and those that are made in a branch."""
    found, made, in_branch = host_work(fn, RATES), collections.Counter(), set()
    for work, times in found.items():
        if work.what == "predicate":
            continue
        if work.branch:
            in_branch.add((work.what, work.loops))
        else:
            made[work.what, work.loops] += times
    return made, in_branch


@pytest.mark.parametrize("kernels, launches", [("auto", 0), ("on", 2)])
def test_neither_the_run_nor_that_of_the_adjoint_leaves_the_device(
    kernels, launches, monkeypatch
):
    monkeypatch.setenv("IMPLICIT_EIG_KERNELS", kernels)
    # "on" is an error where a program for CPUs would have none; this one is for GPUs.
    monkeypatch.setattr(library, "load", lambda: None)
    made, in_branch = calls(jax.value_and_grad(growth))
    assert not made and not in_branch
    lowered = jax.jit(jax.value_and_grad(growth)).trace(RATES)
    text = lowered.lower(lowering_platforms=("cuda",)).as_text()
    # One in the restarts of each run.
    assert text.count("xla.gpu.triton") == launches


def test_with_kernels_off_the_host_is_asked(monkeypatch):
    monkeypatch.setenv("IMPLICIT_EIG_KERNELS", "off")
    made, in_branch = calls(growth)
    assert made == {(EIG, 1): 1} and not in_branch


def test_rank_promotion_may_be_an_error_where_a_program_is_lowered():
    with jax.numpy_rank_promotion("raise"):
        assert host_work(growth, RATES)
        assert host_work(lambda a: ieig.eigs(a, 2).eigenvalues, jnp.eye(4))


def test_batches_of_any_size_are_lowered():
    of_batch = jax.vmap(lambda a: ieig.eigs(a, 2).eigenvalues)
    (b,) = jax.export.symbolic_shape("b")
    for batch in (b, 0):
        a = jax.ShapeDtypeStruct((batch, 4, 4), jnp.float64)
        made = jax.export.export(jax.jit(of_batch), platforms=["cuda"])(a)
        assert made.out_avals[0].shape == (batch, 2)


def test_nor_does_a_small_matrix_a_larger_one_does(monkeypatch):
    version = types.SimpleNamespace(cusolver_get_version=lambda: 11701)
    monkeypatch.setattr(linalg, "cuda_versions", version)
    for n, times in ((4, 0), (64, 0), (65, 1)):
        a = jax.ShapeDtypeStruct((n, n), jnp.float64)
        left_to_host = {w.what: times for w, times in host_work(ieig.eig, a).items()}
        assert EIG not in left_to_host
        # cuSOLVER has no left vectors.
        found = host_work(lambda a: ieig.eigs(a, 2).eigenvalues, a)
        assert found[Work(EIG, 0, False)] == times


@pytest.fixture
def as_on_accelerators(monkeypatch):
    """Small eigenproblems are solved on the CPU as they are on accelerators."""
    module = importlib.import_module("implicit_eig._numerics.device_eig")
    # "off" means that JAX's own `eig` is taken.
    monkeypatch.setattr(module, "option", lambda: "auto")
    monkeypatch.setenv("IMPLICIT_EIG_KERNELS", "off")
    mlir.register_lowering(module._eig_p, module._on_accelerators, platform="cpu")
    jax.clear_caches()
    yield
    mlir.register_lowering(module._eig_p, module._on_cpus, platform="cpu")
    jax.clear_caches()


TRIANGULAR = np.triu(np.random.default_rng(1).normal(size=(40, 40)))
GRCAR = sum(np.eye(40, k=k) for k in (0, 1, 2, 3)) - np.eye(40, k=-1)
REAL = {
    "triangular": TRIANGULAR,
    "Grcar": GRCAR,
    "tied": np.diag([3.0, 3.0, 1.0]) + np.eye(3, k=2),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("factor", [1, 1j], ids=["real", "complex"])
def test_vectors_from_both_sides_are_as_good_as_lapacks(as_on_accelerators, name, factor):
    """Rows of the inverse of W are not: their residuals grow with its condition."""
    a = REAL[name] * factor
    found = jax.jit(device_eig_from_both_sides)(jnp.asarray(a))
    w, u, v = map(np.asarray, found)
    size = np.finfo(float).eps * np.linalg.norm(a, 2)
    for side, x, values in ((a, v, w), (a.conj().T, u, w.conj())):
        assert np.linalg.norm(side @ x - x * values, axis=0).max() < 100 * size
        assert np.allclose(np.linalg.norm(x, axis=0), 1, rtol=1e-14)
    if factor == 1:
        first, second = np.flatnonzero(w.imag > 0), np.flatnonzero(w.imag < 0)
        assert np.array_equal(first + 1, second)
        for x in (w[None], u, v):
            assert np.array_equal(x[:, first].conj(), x[:, second])
            assert np.all(x[:, w.imag == 0].imag == 0)


def test_gradients_of_a_triangular_matrix(as_on_accelerators):
    a = jnp.asarray(TRIANGULAR)
    best = np.argmax(np.diag(TRIANGULAR))
    u, v = (np.linalg.eig(x)[1] for x in (TRIANGULAR.T, TRIANGULAR))
    u = u[:, np.argmin(abs(np.linalg.eigvals(TRIANGULAR.T) - TRIANGULAR[best, best]))]
    v = v[:, np.argmin(abs(np.linalg.eigvals(TRIANGULAR) - TRIANGULAR[best, best]))]
    gradient = jax.grad(lambda a: ieig.eigs(a, 1, "LR").eigenvalues[0].real)(a)
    assert relative(gradient, np.outer(u, v).real / (u @ v).real) < 1e-9


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
@pytest.mark.parametrize("solver", [ieig.KrylovSchur(krylov_dim=14), ieig.Dense()])
def test_pairs_and_gradients_by_the_qr_iteration(as_on_accelerators, solver, dtype):
    n = 60
    rng = np.random.default_rng(0)
    a = rng.normal(size=(n, n)) / n**0.5 + np.diag(np.linspace(0, 3, n))
    if np.issubdtype(dtype, np.complexfloating):
        a = a + 1j * rng.normal(size=(n, n)) / n**0.5
    a = jnp.asarray(a, dtype)
    kwargs = {"eigensolver": solver, "left": True}
    operator = lx.MatrixLinearOperator(a)

    def loss(operator):
        s = ieig.eigs(operator, 3, "LR", **kwargs)
        weight = jnp.linspace(0.0, 1.0, n)[:, None].astype(s.residuals.dtype)
        of_vectors = jnp.sum(jnp.abs(s.eigenvectors) ** 2 * weight)
        return jnp.sum(s.eigenvalues.real) + of_vectors, s

    (_, s), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(operator)
    w = scipy.linalg.eigvals(np.asarray(a, complex))
    order = np.argsort(-w.real)[:3]
    defect = s.left_eigenvectors.conj().T @ a.astype(s.left_eigenvectors.dtype)
    defect = defect - s.eigenvalues[:, None] * s.left_eigenvectors.conj().T
    assert np.linalg.norm(defect) < (1e-8 if dtype == np.float64 else 1e-3)
    tolerance = 1e-9 if dtype == np.float64 else 1e-3
    assert relative(s.eigenvalues[matched(s.eigenvalues, w[order])], w[order]) < tolerance

    def by_jax(a):
        w, v = ieig.eig(a)
        best = jnp.argsort(-w.real)[:3]
        weight = jnp.linspace(0.0, 1.0, n)[:, None].astype(w.real.dtype)
        return jnp.sum(w.real[best]) + jnp.sum(jnp.abs(v[:, best]) ** 2 * weight)

    exact = jax.grad(by_jax)(a.astype(np.result_type(dtype, np.float64)))
    assert relative(gradient.matrix, exact) < 100 * tolerance


@pytest.mark.slow
def test_script(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--out", str(path)])
    data = json.loads(path.read_text())
    rows = {row["kind"]: row for row in data["rows"]}
    assert not [row for row in rows.values() if "error" in row]
    assert rows["eigs value and gradient"]["products"] > 0
    # A pass reads 21 vectors twice and one twice, and writes one.
    one, two = (rows[f"orthogonalisation, passes: {p}"] for p in (1, 2))
    assert one["bytes"] == 8 * 500 * (2 * 21 + 3) and two["bytes"] == 2 * one["bytes"]
    assert one["share_of_copy"] == pytest.approx(one["GB/s"] / rows["copy"]["GB/s"])
    assert "not measured on an accelerator" in capsys.readouterr().out


@pytest.mark.parametrize("passes", [1, 2])
def test_passes_are_what_the_row_says(passes):
    basis, w = gpu.mid_basis(500, passes)
    rows, w = basis.reshape(basis.shape[0], -1), w.reshape(-1)
    used = jnp.arange(gpu.DIM + 1) <= gpu.DIM // 2
    assert jnp.allclose(rows @ rows.T, jnp.diag(used.astype(rows.dtype)))
    cancelled = jnp.linalg.norm(w - (rows @ w) @ rows) <= jnp.linalg.norm(w) / 2**0.5
    assert cancelled == (passes == 2)


def test_time_that_is_used_up_skips_rows(tmp_path):
    path = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--seconds", "0", "--out", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert rows and all("skipped" in row for row in rows)


def test_devices_that_disagree_are_an_error():
    row = {"kind": "eig", "label": "1", "seconds": {"median": 1.0}}
    theirs = row | {"device": "gpu", "norms": [1.0]}
    ours = row | {"device": "cpu", "norms": [1.0], "seconds": {"median": 30.0}}
    assert gpu.compared(ours, [theirs])["ratio"] == 30
    with pytest.raises(ValueError, match="disagree"):
        gpu.compared(ours | {"norms": [1.1]}, [theirs])
