"""`method="qr"`: a campaign of matrices in four dtypes, derivatives, and what is left to the
host in programs lowered for a GPU. The same for the kernel for GPUs, interpreted."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import implicit_eig as ieig
from implicit_eig._numerics import batched_eig, eig_by_qr, qr_iteration, qr_kernel
from implicit_eig._numerics.qr_iteration import schur
from implicit_eig._numerics.qr_kernel import schur_by_kernel
from tools.host_work import host_work

from ..oracles import (
    align,
    central_difference,
    matched,
    random_matrix,
    relative,
    slow_but,
)
from ..program.test_program_size import equations


DTYPES = [np.float64, np.complex128, np.float32, np.complex64]


def campaign(n, dtype):
    rng = np.random.default_rng(n)
    real = np.finfo(dtype).dtype
    index = np.arange(n)

    def normal(*shape):
        x = rng.normal(size=shape)
        if np.issubdtype(dtype, np.complexfloating):
            x = x + 1j * rng.normal(size=shape)
        return x

    unitary, _ = np.linalg.qr(normal(n, n))
    skew = np.eye(n) + normal(n, n) / np.sqrt(n) / 2
    twice = np.diag(np.where(index < n // 2, 1.0, 2.0))
    chain = np.diag(np.where(index[1:] == n // 2, 0.0, 1.0), 1)
    up = np.diag(np.ones(n - 1), 1)
    units = np.linspace(-20, 20, n)
    matrices = {f"random {i}": normal(n, n) for i in range(4)}
    matrices |= {
        "orthogonal": unitary,
        "Jordan": np.eye(n) + up,
        "nilpotent": up,
        "lower nilpotent": up.T,
        "turned Jordan": unitary @ (np.eye(n) + up) @ unitary.conj().T,
        "defective": skew @ (twice + chain) @ np.linalg.inv(skew),
        "ties": skew @ twice @ np.linalg.inv(skew),
        "in uneven units": normal(n, n) * 2.0 ** np.subtract.outer(units, units),
        "cyclic": np.roll(np.eye(n), 1, axis=0),
        "permutation": np.eye(n)[rng.permutation(n)],
        "reversal": np.eye(n)[::-1],
        "zero": np.zeros((n, n)),
        "identity": np.eye(n),
        "ones": np.ones((n, n)),
        "rank one": normal(n, 1) @ normal(1, n),
        "skew": (lambda x: x - x.conj().T)(normal(n, n)),
        "upper": np.triu(normal(n, n)),
        "lower": np.tril(normal(n, n)),
        # Balancing that ignores the diagonal makes numbers of the rounding (Watkins 2006).
        "upper and rounding": np.triu(normal(n, n)) + 1e-17 * normal(n, n),
        "pairs that tie": np.kron(np.eye(n), [[0, 1], [-1, 0]])[:n, :n]
        + 1e-9 * normal(n, n),
        "Frank": np.where(
            np.subtract.outer(index, index) <= 1, n - np.maximum.outer(index, index), 0
        ),
        "Clement": np.diag(np.arange(1.0, n), 1) + np.diag(np.arange(1.0, n)[::-1], -1),
        "huge": normal(n, n) * 10.0 ** (300 if real == np.float64 else 36),
        "tiny": normal(n, n) / 10.0 ** (300 if real == np.float64 else 34),
    }
    for base in (0.01, 0.1, 10.0):
        sizes = base ** (index / 2 * min(1, 16 / n))
        matrices[f"graded by {base}"] = normal(n, n) * np.multiply.outer(sizes, sizes)
    if n > 1:
        roots = np.arange(1, n + 1) / n
        matrices["companion"] = scipy.linalg.companion(np.poly(roots))
    if n > 2 and np.issubdtype(dtype, np.complexfloating):
        # The square of one part of an entry underflows, that of the other does not.
        for factor in (0.5, 1, 2, 4):
            a = normal(n, n)
            a[1, 0] = 0
            a[:, 0] /= np.linalg.norm(a[:, 0])
            a[1, 0] = factor * np.finfo(real).tiny ** 0.5 * (1.2 + 0.9j)
            matrices[f"an entry of {a[1, 0]:.0e}"] = a
    return {name: a.astype(dtype) for name, a in matrices.items()}


def moderate(a, *others):
    """In double precision, in units of the largest entry."""
    size = np.abs(a).max(axis=(1, 2)).astype(float)
    size = np.where(size > 0, size, 1)
    wide = [np.asarray(x, np.complex128) for x in (a, *others)]
    return [x / size.reshape(-1, *[1] * (x.ndim - 1)) for x in wide]


interpreted = functools.partial(schur_by_kernel, interpret=True)
by_kernel = functools.partial(batched_eig._eigensystem, interpreted)
SIZES = [(n, dtype) for n in (1, 2, 3, 4, 9, 33, 64) for dtype in DTYPES]
QUICK = [(n, dtype) for n in (2, 3, 9) for dtype in DTYPES] + [(33, np.float64)]


@pytest.mark.parametrize("n, dtype", slow_but(QUICK, SIZES))
def test_campaign(n, dtype):
    check_campaign(eig_by_qr, n, dtype)


@pytest.mark.parametrize("n, dtype", slow_but([(9, t) for t in DTYPES], SIZES))
def test_campaign_of_the_kernel(n, dtype):
    check_campaign(by_kernel, n, dtype)


def check_campaign(find, n, dtype):
    found = campaign(n, dtype)
    names, given = list(found), jnp.asarray(np.stack(list(found.values())))
    w, v, u = jax.jit(find)(given)
    assert w.dtype == v.dtype == u.dtype == np.result_type(dtype, np.complex64)
    eps = np.finfo(dtype).eps
    a, values = moderate(given, w)
    v, u = (np.asarray(x, np.complex128) for x in (v, u))
    norm = np.maximum(np.linalg.norm(a, 2, axis=(1, 2)), 1e-300)[:, None]
    backward = np.linalg.norm(a @ v - v * values[:, None], axis=1) / norm
    assert not {
        names[i]: backward[i].max() / eps
        for i in np.flatnonzero((backward > 100 * eps).any(axis=1))
    }
    assert np.all(np.abs(np.linalg.norm(v, axis=1) - 1) < 10 * eps)
    largest = np.abs(v) > np.abs(v).max(axis=1, keepdims=True) - 10 * eps
    assert np.all(np.any(largest & (np.abs(v.imag) < 10 * eps), axis=1))
    condition = np.linalg.cond(v)
    known = condition < eps**-0.4
    assert np.all(known[: names.index("orthogonal") + 1])
    inverse = np.linalg.norm(u @ v - np.eye(n), axis=(1, 2))
    assert np.all(inverse[known] < 100 * n * eps * condition[known])
    if not jnp.iscomplexobj(given):
        first, second = values.imag > 0, values.imag < 0
        assert np.array_equal(first[:, :-1], second[:, 1:]) and not second[:, 0].any()
        assert np.array_equal(np.roll(values, 1, axis=1)[second], values.conj()[second])
        columns = v.swapaxes(1, 2)
        assert np.array_equal(np.roll(columns, 1, axis=1)[second], columns.conj()[second])
        assert np.all(columns[values.imag == 0].imag == 0)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(
    "schur", [lambda a: schur(a, True), interpreted], ids=["XLA", "kernel"]
)
def test_deflation_beside_zeros_is_by_the_entries_around(schur, dtype):
    """Balancing makes some matrices small, and companion matrices have a zero diagonal."""
    a = 1e-17 * np.roll(np.eye(5), 1, axis=0)
    found = schur(jnp.asarray(a[:, :, None], dtype))
    h = np.triu(np.asarray(found.blocks)[..., 0], -1)
    h[1:, :-1][np.diag(np.asarray(found.cut)[:, 0])] = 0
    assert found.converged.all()
    assert np.allclose((np.linalg.eigvals(h) * 1e17) ** 5, 1, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("find", [eig_by_qr, by_kernel], ids=["XLA", "kernel"])
def test_a_member_without_an_answer_leaves_the_others_alone(find, dtype):
    n = 9
    a = random_matrix(0, n, dtype, (5,))
    bad = a.at[1, 0, n - 1].set(jnp.nan).at[3, n - 1, 0].set(jnp.inf)
    found, alone = jax.jit(find)(bad), jax.jit(find)(a)
    for x, y in zip(found, alone, strict=True):
        assert np.all(np.isnan(x[jnp.asarray([1, 3])].real)) and np.all(
            np.isnan(x[1].imag)
        )
        for i in (0, 2, 4):
            assert np.array_equal(x[i], y[i])


@pytest.mark.parametrize("find", [eig_by_qr, by_kernel], ids=["XLA", "kernel"])
def test_what_does_not_converge_is_nan(find, monkeypatch):
    # Of an order of its own: JAX keeps traces.
    a = jnp.stack([random_matrix(0, 7), jnp.diag(jnp.arange(7.0))])
    for module in (qr_iteration, qr_kernel):
        monkeypatch.setattr(module, "SWEEPS", 0.1)
    w, v, u = find(a)
    assert all(np.all(np.isnan(x[0])) for x in (w, v, u))
    assert np.array_equal(w[1], np.arange(7.0)) and np.all(np.isfinite(v[1]))


def test_what_a_batch_is_cut_into_does_not_matter(monkeypatch):
    a = random_matrix(1, 4, batch=(37,))
    whole = eig_by_qr(a)
    monkeypatch.setattr(batched_eig, "_PIECE", 1)
    pieces = jax.jit(lambda a: batched_eig._in_pieces(a))(a)
    for x, y in zip(whole, pieces, strict=True):
        assert relative(x, y) < 1e-12


def by_qr(a, **kwargs):
    return ieig.eig(a, method="qr", **kwargs)


def loss(pairs):
    w, v = pairs
    weight = jnp.linspace(0.0, 1.0, v.shape[-2])[:, None].astype(w.real.dtype)
    return jnp.sum(jnp.abs(v) ** 2 * weight) + jnp.sum((w * w).real)


@pytest.mark.parametrize(
    "n, dtype",
    slow_but(
        [(1, np.complex128), (3, np.float64)],
        itertools.product([1, 3, 6], [np.float64, np.complex128]),
    ),
)
class TestDerivatives:
    def test_jvp_agrees_with_aligned_differences(self, n, dtype):
        a, e = (random_matrix(s + n, n, dtype, (2,)) for s in (0, 50))
        (_, v), (t_w, t_v) = jax.jit(lambda a, e: jax.jvp(by_qr, (a,), (e,)))(a, e)

        def aligned(a):
            w, x = by_qr(a)
            return w, align(x, v)

        d_w, d_v = central_difference(jax.jit(aligned), a, e)
        turned = jnp.sum(v.conj() * t_v, axis=-2, keepdims=True)
        assert relative(t_w, d_w) < 1e-6
        assert relative(t_v - v * turned, d_v) < 1e-6

    def test_gradients_of_both_orders_agree_with_those_through_lapack(self, n, dtype):
        a, e = (random_matrix(s + n, n, dtype, (2,)) for s in (0, 50))

        def derivatives(method):
            gradient = jax.grad(lambda a: loss(ieig.eig(a, method=method)))
            return jax.jit(lambda a, e: jax.jvp(gradient, (a,), (e,)))(a, e)

        assert relative(derivatives("qr"), derivatives("lapack")) < 1e-9


@pytest.mark.slow
def test_vmap_is_a_batch():
    a = random_matrix(3, 5, batch=(2, 3))
    f = jax.grad(lambda a: loss(by_qr(a)))
    stacked = jax.jit(f)(a)
    mapped = jax.jit(jax.vmap(jax.vmap(f)))(a)
    assert relative(mapped, stacked) < 1e-12
    text = str(jax.make_jaxpr(jax.vmap(jax.vmap(lambda a: eig_by_qr(a))))(a))
    assert "f64[11,6,6]" in text  # H and Q of a batch of six, the batch last


def test_eigenvalues_alone():
    a, e = random_matrix(3, 5, batch=(4,)), random_matrix(4, 5, batch=(4,))
    w, t = jax.jvp(lambda a: ieig.eigvals(a, method="qr"), (a,), (e,))
    w0, t0 = jax.jvp(ieig.eigvals, (a,), (e,))
    for i in range(4):
        order = matched(w[i], w0[i])
        assert relative(w[i][order], w0[i]) < 1e-13
        assert relative(t[i][order], t0[i]) < 1e-11
    assert ieig.eigvals(jnp.zeros((0, 3, 3)), method="qr").shape == (0, 3)
    assert by_qr(jnp.zeros((2, 0, 0))).eigenvectors.shape == (2, 0, 0)


def test_ties_are_as_elsewhere():
    a = jnp.stack([jnp.diag(jnp.asarray([1.0, 1.0, 3.0])), random_matrix(5, 3)])
    e = random_matrix(6, 3, batch=(2,))
    (w, _), (t_w, t_v) = jax.jvp(by_qr, (a,), (e,))
    tie = np.isclose(w[0].real, 1.0)
    assert np.all(np.isnan(t_v[0][:, tie])) and np.all(np.isfinite(t_v[0][:, ~tie]))
    assert np.all(np.isfinite(t_w)) and np.all(np.isfinite(t_v[1]))
    _, (_, t_v) = jax.jvp(lambda a: by_qr(a, ties="drop"), (a,), (e,))
    assert np.all(np.isfinite(t_v))
    gradient = jax.grad(lambda a: jnp.sum(by_qr(a).eigenvalues ** 2).real)(a)
    assert relative(gradient, 2 * a.swapaxes(1, 2)) < 1e-12


def test_a_defective_pair_has_no_derivative_and_its_neighbour_has():
    a = jnp.asarray([[1.0, 1.0, 0.3], [0.0, 1.0, 0.2], [0.0, 0.0, 3.0]])
    _, (t_w, t_v) = jax.jvp(by_qr, (a,), (random_matrix(1, 3),))
    w, _ = by_qr(a)
    far = np.isclose(w.real, 3.0)
    assert np.all(np.isnan(t_w[~far])) and np.all(np.isfinite(t_w[far]))
    assert np.all(np.isnan(t_v[:, ~far])) and np.all(np.isfinite(t_v[:, far]))


def test_other_methods_are_refused_by_name():
    with pytest.raises(ValueError, match="`method` must be None, 'lapack' or 'qr'"):
        ieig.eig(jnp.eye(2), method="QR")
    with pytest.raises(ValueError, match="'qz'"):
        ieig.eigvals(jnp.eye(2), method="qz")


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize("gradient", [False, True])
def test_nothing_leaves_the_device(gradient, dtype):
    """And no kernel is asked for but XLA's own, and products of matrices."""
    fn = lambda a: loss(by_qr(a))
    fn = jax.value_and_grad(fn) if gradient else fn
    a = jax.ShapeDtypeStruct((16, 8, 8), dtype)
    exported = jax.export.export(jax.jit(fn), platforms=["cuda"])(a)
    assert not re.findall(r"custom_call @?\"?(\w+)", exported.mlir_module())
    found = host_work(fn, a)
    assert {work.what for work in found} <= {"predicate"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_the_kernel_the_sweeps_are_one_launch(dtype, monkeypatch):
    """It is lowered to Triton here; whether a GPU runs it, a GPU must tell."""
    monkeypatch.setenv("IMPLICIT_EIG_KERNELS", "on")
    of_order = lambda n: jax.ShapeDtypeStruct((5, n, n), dtype)
    found = host_work(eig_by_qr, of_order(16))
    assert {work.what for work in found} == {"predicate"}
    loops = sum(times for work, times in found.items() if work.loops)
    assert loops == 4  # balancing, Hessenberg form, vectors, duals
    lowered = jax.jit(eig_by_qr).trace(of_order(64)).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("xla.gpu.triton") == 1
    # It would be padded, or is too large; and on CPUs there is no such kernel.
    for n, platform in ((15, "cuda"), (65, "cuda"), (16, "cpu")):
        lowered = jax.jit(eig_by_qr).trace(of_order(n))
        assert "triton" not in lowered.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_step_of_a_sweep_is_a_few_kernels_and_copies_no_matrix(dtype):
    """Ratchet: whoever raises one says why. A sweep is n − 1 steps."""
    a = jax.ShapeDtypeStruct((9, 9, 32), dtype)
    text = jax.jit(lambda a: schur(a, False)).lower(a).compile().as_text()
    # Of all computations the one that updates H in place: the body of the inner loop.
    (body,) = (
        block
        for block in text.split("\n\n")
        if "dynamic-update-slice" in block and "fused" not in block.split("(")[0]
    )
    assert len(re.findall(r" fusion\(", body)) <= 13
    assert not re.findall(r"\[\d+,\d+,32\]\S* copy\(", body)


def test_a_program_does_not_grow_with_the_order():
    # Traced for CPUs and for accelerators; one of the two is compiled.
    size = lambda n: equations(eig_by_qr, jax.ShapeDtypeStruct((5, n, n), jnp.float64))
    assert size(9) == size(40) <= 3300


def test_loops_are_few_and_of_known_length_but_for_two():
    """Each of those two asks for one number in each round: balancing, and the sweeps."""
    a = jax.ShapeDtypeStruct((16, 8, 8), jnp.float64)
    found = host_work(eig_by_qr, a)
    loops = sum(times for work, times in found.items() if work.loops)
    assert loops == 6  # balancing, Hessenberg form, sweeps, their steps, vectors, duals
