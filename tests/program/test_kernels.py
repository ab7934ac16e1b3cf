"""The kernels for CPUs do what the JAX code they stand for does, on all shapes, and are left
out wherever they cannot be had."""

import functools
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig
from implicit_eig import _program
from implicit_eig._kernels import build, library
from implicit_eig._krylov.arnoldi import append, append_within
from implicit_eig._krylov.basis import from_rows, project, rotate, to_rows
from implicit_eig._krylov.schur import leading_basis, schur_form

from ..oracles import random_matrix, slow_but


DTYPES = ["float32", "float64", "complex64", "complex128"]
BUILT = build.HERE / build.LIBRARY
M = 11
# Shorter than a vector register, than a piece of rows, and longer than several.
LENGTHS = [(1, 30), (100, 7), (4097, 3), (9000, 0)]


@pytest.fixture
def switch(monkeypatch):
    """Chooses the path of what is traced from now on."""

    def to(option):
        monkeypatch.setenv(library.OPTION, option)
        reason = library.reason_against()
        if option == "on" and reason is not None:
            pytest.skip(f"no kernels: {reason}")

    return to


@pytest.fixture(params=["off", "on"])
def path(request, switch):
    switch(request.param)
    return request.param


def traced(fn):
    """Compiled, and traced now: JAX keeps traces of a function by its identity."""
    return jax.jit(lambda *args: fn(*args))


def basis_of(lengths, dtype, used, unused=0.0, m=M):
    """m + 1 vectors in one part or two, of which the first ones are orthonormal."""
    rng = np.random.default_rng(sum(lengths))
    n, dtype = sum(lengths), np.dtype(dtype)
    q = rng.normal(size=(n, used))
    if dtype.kind == "c":
        q = q + 1j * rng.normal(size=(n, used))
    q = np.linalg.qr(q)[0].T.astype(dtype)
    vectors = np.full((m + 1, n), unused, dtype)
    vectors[:used] = q
    parts = np.split(vectors, lengths[:1], axis=1)[: 1 + (lengths[1] > 0)]
    return tuple(jax.vmap(to_rows)(jnp.asarray(part)) for part in parts)


def vector_of(lengths, dtype, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=sum(lengths))
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.normal(size=sum(lengths))
    return x.astype(dtype)


def in_parts(x, lengths):
    parts = np.split(x, lengths[:1])[: 1 + (lengths[1] > 0)]
    return tuple(to_rows(jnp.asarray(part)) for part in parts)


def flat(rows):
    """The vectors of a basis, parts one after the other."""
    parts = [from_rows(jnp.moveaxis(jnp.asarray(part), 1, 0)) for part in rows]
    return np.concatenate([np.asarray(x).reshape(x.shape[0], -1) for x in parts], axis=1)


def eps_of(dtype):
    return float(np.finfo(dtype).eps)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("used, row", [(1, 1), (8, 8), (9, 9), (M + 1, M)], ids=str)
def test_append_is_gram_schmidt(path, lengths, dtype, used, row):
    # What is not in use is zero, as XLA needs it; the kernel does not look there.
    unused = np.nan if path == "on" else 0.0
    basis = basis_of(lengths, dtype, used, unused)
    v, w = flat(basis)[:used], vector_of(lengths, dtype)
    grown, h, broken = traced(append)(
        jnp.asarray(used), jnp.asarray(row), basis, in_parts(w, lengths)
    )
    wide = np.result_type(dtype, np.float64)
    v, w = v.astype(wide), w.astype(wide)
    want = v.conj() @ w
    rest = w - want @ v
    tolerance = 20 * eps_of(dtype) * np.linalg.norm(w)
    assert not broken and h.dtype == dtype
    np.testing.assert_allclose(h[:used], want, rtol=0, atol=tolerance)
    if row == used:
        np.testing.assert_allclose(h[used], np.linalg.norm(rest), rtol=0, atol=tolerance)
    size = np.linalg.norm(rest)
    new = flat(grown)[row]
    np.testing.assert_allclose(new, rest / size, rtol=0, atol=2 * tolerance / size)
    others = [i for i in range(used) if i != row]
    np.testing.assert_array_equal(flat(grown)[others], v[others].astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_pass_where_the_first_cancels(path, dtype):
    lengths = (400, 5)
    basis = basis_of(lengths, dtype, 9)
    v = flat(basis)[:9]
    size = eps_of(dtype) ** -0.75
    w = (size * v[2] + vector_of(lengths, dtype)).astype(dtype)
    args = jnp.asarray(9), jnp.asarray(9), basis, in_parts(w, lengths)
    grown, _, broken = traced(append)(*args)
    assert not broken
    overlaps = flat(grown)[:9].conj() @ flat(grown)[9]
    assert np.max(np.abs(overlaps)) < 10 * eps_of(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_breakdown_is_seen_and_leaves_zero(path, dtype):
    lengths = (300, 0)
    basis = basis_of(lengths, dtype, 5)
    w = flat(basis)[:5].T @ np.arange(1, 6).astype(dtype)
    grown, h, broken = traced(append)(
        jnp.asarray(5), jnp.asarray(5), basis, in_parts(w.astype(dtype), lengths)
    )
    assert broken and h[5] == 0
    np.testing.assert_allclose(h[:5], np.arange(1, 6), rtol=50 * eps_of(dtype))
    assert not np.any(flat(grown)[5])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_rounding_brings_in_from_outside_is_removed(path, dtype):
    lengths, used, eps = (400, 5), 6, eps_of(dtype)
    together = flat(basis_of(lengths, dtype, 9))[:9]
    outside, inside = together[:3, :400], together[3:]
    outside = np.linalg.qr(outside.T)[0].T  # in the first part alone
    # What rounding leaves of them, as in a run.
    inside[:, :400] -= (inside[:, :400] @ outside.conj().T) @ outside
    inside = np.linalg.qr(inside.T)[0].T
    basis = np.zeros((M + 1, 405), dtype)
    basis[:used] = inside
    parts = np.split(basis, [400], axis=1)
    basis = tuple(jax.vmap(to_rows)(jnp.asarray(part)) for part in parts)
    new = vector_of(lengths, dtype)
    new[:400] -= outside.T @ (outside.conj() @ new[:400])

    def admit(z):
        y, c = z
        return y - outside.T @ (outside.conj() @ y), c

    def appended(fn, w):
        there = jnp.asarray(used)
        return traced(fn)(there, there, basis, in_parts(w.astype(dtype), lengths))

    within = functools.partial(append_within, admit)
    w = (eps**-0.5 * inside[2] + new).astype(dtype)
    w[:400] += eps**0.5 * outside[0]  # as much as rounding may
    left = {}
    for fn in (append, within):
        grown, h, broken = appended(fn, w)
        v = flat(grown)
        assert not broken
        left[fn] = np.linalg.norm(outside.conj() @ v[used, :400])
        # The relation holds to rounding of w.
        off = np.linalg.norm(w - h[: used + 1] @ v[: used + 1])
        assert off < 20 * eps * np.linalg.norm(w)
        assert abs(np.linalg.norm(v[used]) - 1) < 10 * eps
    assert left[append] > 0.01 * eps**0.5 and left[within] < 10 * eps
    overlaps = v[:used].conj() @ v[used]
    assert np.max(np.abs(overlaps)) < 50 * eps
    _, h, broken = appended(within, np.arange(1, used + 1) @ inside)
    assert broken and h[used] == 0


def test_nan_is_no_breakdown(path):
    basis = basis_of((300, 0), "float64", 5)
    w = (to_rows(jnp.full(300, jnp.nan)),)
    grown, _, broken = traced(append)(jnp.asarray(5), jnp.asarray(5), basis, w)
    assert not broken and np.all(np.isnan(flat(grown)[5]))


@pytest.mark.parametrize("image", [False, True], ids=["plain", "metric"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_project_takes_one_pass(path, dtype, image):
    lengths, used = (1000, 5), 7
    basis = basis_of(lengths, dtype, used, np.nan if path == "on" else 0.0)
    v = flat(basis)[:used]
    w = vector_of(lengths, dtype)
    other = vector_of(lengths, dtype, seed=2) if image else w
    args = [in_parts(other, lengths)] if image else []
    rest, h, size = traced(project)(jnp.asarray(used), basis, in_parts(w, lengths), *args)
    want = v.conj() @ other
    left = flat(tuple(x[None] for x in rest))[0]
    tolerance = 20 * eps_of(dtype) * np.linalg.norm(w)
    np.testing.assert_allclose(h[:used], want, rtol=0, atol=tolerance)
    np.testing.assert_allclose(left, w - want @ v, rtol=0, atol=tolerance)
    np.testing.assert_allclose(size, np.linalg.norm(left), rtol=20 * eps_of(dtype))


def test_what_is_overwritten_may_be_given_twice(switch):
    switch("on")
    lengths, used = (1000, 0), 7
    basis, w = basis_of(lengths, "float64", used), vector_of(lengths, "float64")
    twice = traced(lambda w: project(jnp.asarray(used), basis, w, w))
    v, left = flat(basis)[:used], twice(in_parts(w, lengths))[0][0].ravel()
    np.testing.assert_allclose(left, w - (v @ w) @ v, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [1, 100, 9001])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", [0, 1, 6, M])
def test_rotate_keeps_the_leading_vectors(path, n, dtype, kept):
    rng = np.random.default_rng(0)
    v, q = rng.normal(size=(M + 1, n)), rng.normal(size=(M, M))
    if np.dtype(dtype).kind == "c":
        v, q = v + 1j * rng.normal(size=v.shape), q + 1j * rng.normal(size=q.shape)
    v, q = v.astype(dtype), q.astype(dtype)
    turn = np.zeros((M + 1, M + 1), dtype)
    turn[:M, :kept], turn[M, kept] = q[:, :kept], 1
    made = traced(rotate)(jnp.asarray(kept), turn, jax.vmap(to_rows)(jnp.asarray(v)))
    got = flat((made,))
    np.testing.assert_allclose(
        got[:kept], q.T[:kept] @ v[:M], rtol=0, atol=200 * eps_of(dtype)
    )
    np.testing.assert_array_equal(got[kept], v[M])


def matrix_of(kind, dtype, m=M):
    """A small matrix, of which a real one has real and complex eigenvalues."""
    rng = np.random.default_rng(3)
    a = rng.normal(size=(m, m))
    if np.dtype(dtype).kind == "c":
        a = a + 1j * rng.normal(size=(m, m))
    if kind == "copies":
        a = np.linalg.qr(a)[0]
        a = a @ np.diag(np.arange(m) // 3.0) @ a.conj().T
    if kind == "close":  # to defective
        a = np.triu(a, 1) + np.diag(1 + 1e-3 * np.arange(m))
    if kind == "graded":
        a = a * 10.0 ** np.arange(m)[:, None] / 10 ** (m / 2)
    if kind == "zero":
        a = 0 * a
    return jnp.asarray(a.astype(dtype))


def in_order(values, dtype):
    """Largest real part first, partners together, positive imaginary parts first."""
    order = np.lexsort((-values.imag, -np.abs(values.imag), -values.real))
    paired = np.dtype(dtype).kind != "c"
    return order, (values[order].imag < 0) & paired


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["random", "copies", "close", "graded", "zero"])
def test_a_restart_keeps_the_leading_eigenvectors(path, kind, dtype):
    a = matrix_of(kind, dtype)
    form = traced(schur_form)(a)
    wide = np.result_type(dtype, np.complex128)
    exact, values = np.asarray(a).astype(wide), np.asarray(form.values).astype(wide)
    vectors = np.asarray(form.vectors)
    size, eps = np.linalg.norm(exact), eps_of(dtype)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, rtol=10 * eps)
    residuals = np.linalg.norm(exact @ vectors - vectors * values, axis=0)
    # `geev` balances: 400 to 7500 roundings of ‖A‖, as LAPACK's kernels have it.
    slack = 300 if kind == "graded" and path == "off" else 1
    assert np.max(residuals) <= 100 * slack * eps * size
    order, second = in_order(values, dtype)
    given = form.values[order], form.vectors[:, order], a, form.triangle, form.turn
    for keep in range(M + 1):
        if keep < M and second[keep]:
            continue
        q = traced(leading_basis)(jnp.asarray(keep), jnp.asarray(order), second, *given)
        assert q.dtype == dtype
        q = np.asarray(q).astype(wide)
        assert np.linalg.norm(q.conj().T @ q - np.eye(M)) <= 100 * eps
        projected = q.conj().T @ exact @ q
        assert np.linalg.norm(projected[keep:, :keep]) <= 300 * slack * eps * size
        if kind == "random":  # each eigenvalue is known
            got = np.linalg.eigvals(projected[:keep, :keep])
            gaps = np.abs(got[:, None] - values[order[:keep]])
            assert not keep or np.max(np.min(gaps, axis=0)) <= 3e3 * eps * size


def test_a_pair_of_values_that_a_swap_makes_real(switch):
    # Two blocks that are pairs by their last bits only, moved past each other.
    switch("on")
    tiny = 1e-17
    t = np.diag([1.0, 1.0, 2.0, 2.0, 3.0])
    t[0, 1], t[1, 0], t[2, 3], t[3, 2], t[0, 2] = 1.0, -tiny, 1.0, -tiny, 0.5
    form = traced(schur_form)(jnp.asarray(t))
    given = form.values, form.vectors, t, t, jnp.eye(5)
    second = np.array([False, False, True, False, True])
    for keep in (1, 3, 5):
        order = jnp.asarray([4, 2, 3, 0, 1])
        q = traced(leading_basis)(jnp.asarray(keep), order, second, *given)
        lower = (q.T @ t @ q)[keep:, :keep]
        assert np.linalg.norm(lower) < 1e-14
        assert np.linalg.norm(q.T @ q - np.eye(5)) < 1e-14


def test_batches_are_the_members_one_by_one(path):
    lengths = (200, 0)
    bases = [basis_of(lengths, "complex128", used) for used in (3, 4, 5)]
    together = jax.tree.map(lambda *x: jnp.stack(x), *bases)
    w = in_parts(vector_of(lengths, "complex128"), lengths)
    used = jnp.asarray([3, 4, 5])
    batch = traced(jax.vmap(append, in_axes=(0, 0, 0, None)))(used, used, together, w)
    for i, basis in enumerate(bases):
        one = traced(append)(used[i], used[i], basis, w)
        for got, want in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(got[i], want, rtol=1e-12, atol=1e-14)


def step(rates, v):
    return rates * v + 0.3 * jnp.roll(v, 1) + 0.2 * jnp.roll(v, -1)


def rates_of(dtype):
    r = jnp.cos(jnp.arange(200.0) / 31)
    if np.dtype(dtype).kind == "c":
        r = jax.lax.complex(r, 0.1 * r**2)
    return r.astype(dtype)


def found(rates):
    s = ieig.eigs(functools.partial(step, rates), k=3, which="LR", like=rates)
    return s.eigenvalues, jnp.abs(s.eigenvectors)


def loss(rates):
    w, v = found(rates)
    return jnp.sum(w.real) + jnp.sum(v[:7] ** 2)


@pytest.mark.parametrize("dtype", slow_but(["float64"], DTYPES))
def test_both_paths_find_the_same(switch, dtype):
    rates = rates_of(dtype)
    run = lambda: (found(rates), jax.grad(loss)(rates))
    switch("off")
    without = run()
    switch("on")
    # Vectors of residual 10 eps (single precision), over gaps of 0.01.
    tolerance = 1e-8 if np.finfo(dtype).eps < 1e-10 else 2e-3
    for got, want in zip(jax.tree.leaves(run()), jax.tree.leaves(without), strict=True):
        np.testing.assert_allclose(
            got, want, rtol=0, atol=tolerance * np.max(np.abs(want))
        )


def test_both_paths_find_the_same_in_batches(switch):
    rates = rates_of("float64") * jnp.asarray([1.0, 1.3])[:, None]
    run = lambda: jax.jit(jax.vmap(lambda r: found(r)[0]))(rates)
    switch("off")
    without = run()
    switch("on")
    np.testing.assert_allclose(run(), without, rtol=1e-9)


def test_both_paths_find_the_same_of_a_definite_pencil(switch):
    a = random_matrix(0, 120)
    a, b = a + a.T, jnp.eye(120) + 0.1 * jnp.diag(jnp.sin(jnp.arange(120.0)))
    solver = ieig.KrylovSchur()
    run = lambda: ieig.eigsh(a, 3, "LA", mass=b, eigensolver=solver).eigenvalues
    switch("off")
    without = run()
    switch("on")
    np.testing.assert_allclose(run(), without, rtol=1e-9)


def compiled():
    return traced(found).lower(rates_of("float64")).compile().as_text()


def test_programs_hold_one_path_only(switch):
    switch("off")
    without = compiled()
    assert "implicit_eig_" not in without
    switch("on")
    text = compiled()
    for name in ("orthogonalise", "rotate", "schur", "reorder"):
        assert f'custom_call_target="{library.target(name)}"' in text
    # In place, and nothing compiled beside them.
    basis = "f64[21,1,1,200]"
    assert not [x for x in text.splitlines() if f"{basis}" in x and " copy(" in x]
    assert text.count("fusion(") < without.count("fusion(")


def test_runs_of_gradients_orthogonalise_in_one_call_and_in_place(switch):
    switch("on")
    gradient = jax.grad(lambda rates: jnp.sum(found(rates)[1][0]))
    text = traced(gradient).lower(rates_of("float64")).compile().as_text()
    assert f'custom_call_target="{library.target("project")}"' not in text
    calls = f'custom_call_target="{library.target("orthogonalise")}"'
    assert text.count(calls) >= 2  # one of the forward run
    basis = "f64[21,1,1,200]"
    assert not [x for x in text.splitlines() if f"{basis}" in x and " copy(" in x]


def test_exported_programs_have_none(switch):
    switch("on")
    rates = rates_of("float64")
    exported = jax.export.export(traced(found))(rates)
    assert "implicit_eig_" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(rates)[0], found(rates)[0], rtol=1e-9)


def test_plain_calls_look_at_the_option_again(switch):
    rates = rates_of("float64")
    switch("off")
    _program._kept.clear()
    found(rates)
    assert len(_program._kept) == 1
    switch("on")
    found(rates)
    found(rates)
    assert len(_program._kept) == 2


S64, F64 = np.int64, np.float64


def shape(*dims, dtype=F64):
    return jnp.zeros(dims, dtype)


BASIS = shape(6, 1, 1, 8)
C5, C55 = shape(5, dtype=np.complex128), shape(5, 5, dtype=np.complex128)
REST = [shape(5, dtype=bool), C5, C55, shape(5, 5)]
NOT_TAKEN = {
    "rotation of another order": ("rotate", [S64(2), shape(5, 5), BASIS], [BASIS]),
    "rotation of another dtype": (
        "rotate",
        [S64(2), shape(6, 6, dtype=np.complex128), BASIS],
        [BASIS],
    ),
    "real index": ("rotate", [F64(2), shape(6, 6), BASIS], [BASIS]),
    "more kept than there are": ("rotate", [S64(6), shape(6, 6), BASIS], [BASIS]),
    "fewer than none": ("rotate", [S64(-1), shape(6, 6), BASIS], [BASIS]),
    "basis of integers": (
        "rotate",
        [S64(2), shape(6, 6), shape(6, 1, 1, 8, dtype=S64)],
        [shape(6, 1, 1, 8, dtype=S64)],
    ),
    "three rows a vector": (
        "rotate",
        [S64(2), shape(6, 6), shape(6, 3, 1, 8)],
        [shape(6, 3, 1, 8)],
    ),
    "smaller result": ("rotate", [S64(2), shape(6, 6), BASIS], [shape(6, 1, 1, 7)]),
    "shorter vector": (
        "orthogonalise",
        [S64(2), S64(2), BASIS, shape(1, 1, 7)],
        [BASIS, shape(6), shape(dtype=bool)],
    ),
    "fewer coefficients": (
        "orthogonalise",
        [S64(2), S64(2), BASIS, shape(1, 1, 8)],
        [BASIS, shape(5), shape(dtype=bool)],
    ),
    "no room": (
        "orthogonalise",
        [S64(6), S64(6), BASIS, shape(1, 1, 8)],
        [BASIS, shape(6), shape(dtype=bool)],
    ),
    "a gap": (
        "orthogonalise",
        [S64(2), S64(3), BASIS, shape(1, 1, 8)],
        [BASIS, shape(6), shape(dtype=bool)],
    ),
    "no vector": (
        "orthogonalise",
        [S64(2), S64(2), BASIS],
        [BASIS, shape(6), shape(dtype=bool)],
    ),
    "parts that differ": (
        "orthogonalise",
        [S64(2), S64(2), BASIS, shape(7, 1, 1, 3), shape(1, 1, 8), shape(1, 1, 3)],
        [BASIS, shape(7, 1, 1, 3), shape(6), shape(dtype=bool)],
    ),
    "more used than there are": (
        "project",
        [S64(7), BASIS, shape(1, 1, 8)],
        [shape(1, 1, 8), shape(6), shape()],
    ),
    "another image": (
        "project",
        [S64(2), BASIS, shape(1, 1, 8), shape(1, 1, 9)],
        [shape(1, 1, 8), shape(6), shape()],
    ),
    "no square": ("schur", [shape(5, 6)], [C5, C55, shape(5, 6), shape(5, 6)]),
    "matrix of integers": (
        "schur",
        [shape(5, 5, dtype=S64)],
        [C5, C55, shape(5, 5), shape(5, 5)],
    ),
    "real eigenvalues": (
        "schur",
        [shape(5, 5)],
        [shape(5), C55, shape(5, 5), shape(5, 5)],
    ),
    "no room for a Schur form": (
        "schur",
        [shape(5, 5)],
        [C5, C55, shape(4, 4), shape(5, 5)],
    ),
    "a longer order": (
        "reorder",
        [S64(2), shape(6, dtype=S64), *REST, shape(5, 5), shape(5, 5)],
        [shape(5, 5)],
    ),
    "an order of reals": (
        "reorder",
        [S64(2), shape(5), *REST, shape(5, 5), shape(5, 5)],
        [shape(5, 5)],
    ),
    "Schur vectors of another dtype": (
        "reorder",
        [S64(2), shape(5, dtype=S64), *REST, shape(5, 5), C55],
        [shape(5, 5)],
    ),
    "more rows kept": (
        "reorder",
        [S64(6), shape(5, dtype=S64), *REST, shape(5, 5), shape(5, 5)],
        [shape(5, 5)],
    ),
    "another size": (
        "project",
        [S64(2), BASIS, shape(1, 1, 8)],
        [shape(1, 1, 8), shape(6), shape(dtype=np.float32)],
    ),
}


@pytest.mark.parametrize("case", NOT_TAKEN)
def test_bad_shapes_are_refused(switch, case):
    switch("on")
    name, args, results = NOT_TAKEN[case]
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results]
    call = jax.ffi.ffi_call(library.target(name), results)
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT.*implicit_eig: "):
        jax.block_until_ready(call(*args))


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A folder for a library, which is looked for anew."""
    _program._kept.clear()  # those that have one
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.delenv(library.OPTION, raising=False)
    monkeypatch.delenv("CXX", raising=False)
    library.load.cache_clear()
    yield tmp_path
    library.load.cache_clear()


def test_without_a_library_all_works(fresh, monkeypatch, capsys):
    assert "not built" in library.reason_against()
    ieig.show_config()
    assert "kernels      no: not built" in capsys.readouterr().out
    assert "implicit_eig_kernel" not in str(
        jax.make_jaxpr(lambda r: found(r))(rates_of("float64"))
    )
    monkeypatch.setenv(library.OPTION, "on")
    with pytest.raises(RuntimeError, match=r"IMPLICIT_EIG_KERNELS=on.*not built"):
        found(rates_of("float64"))


def test_with_a_library_programs_have_it(switch, capsys):
    switch("on")
    ieig.show_config()
    assert "kernels      yes" in capsys.readouterr().out
    assert "implicit_eig_kernel" in str(
        jax.make_jaxpr(lambda r: found(r))(rates_of("float64"))
    )


def test_something_else_is_not_loaded(fresh):
    (fresh / build.LIBRARY).write_bytes(b"no library")
    assert "not loaded" in library.reason_against()


def test_another_version_is_not_loaded(fresh, monkeypatch):
    if not BUILT.is_file():
        pytest.skip("no library")
    shutil.copy(BUILT, fresh)
    monkeypatch.setattr(build, "source_hash", lambda: "1" * 16)
    assert "another version" in library.reason_against()


def test_no_compiler_is_said(fresh, monkeypatch):
    monkeypatch.setenv("PATH", str(fresh))
    with pytest.raises(build.NotBuilt, match=r"no C.. compiler: c.., g.., clang.. not"):
        build.build(fresh)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.NotBuilt, match="no-such-compiler not found"):
        build.build(fresh)


def test_a_compiler_that_fails_leaves_nothing(fresh, monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} -c \"raise SystemExit('old')\"")
    with pytest.raises(build.NotBuilt, match="failed:\nold"):
        build.build(fresh)
    assert not os.listdir(fresh)


def test_other_devices_have_none(switch, monkeypatch):
    switch("on")
    monkeypatch.setenv(library.OPTION, "auto")
    monkeypatch.setattr(library.jax, "device_count", lambda: 8)
    assert "8 devices" in library.reason_against()
    monkeypatch.setattr(library.jax, "default_backend", lambda: "tpu")
    assert "'tpu'" in library.reason_against()


def test_on_gpus_on_is_another_kernel(switch, monkeypatch, capsys):
    switch("on")
    monkeypatch.setattr(library.jax, "default_backend", lambda: "gpu")
    assert not library.in_use()
    ieig.show_config()
    assert "that for small matrices on GPUs" in capsys.readouterr().out


def test_the_option_is_checked(monkeypatch):
    monkeypatch.setenv(library.OPTION, "yes")
    with pytest.raises(ValueError, match="auto, off or on; got 'yes'"):
        found(rates_of("float64"))


def compiled_driver(compiler, tmp_path, *flags):
    """The program that calls every kernel with arrays of exactly the size it may touch."""
    driver = pathlib.Path(__file__).with_name("kernels_driver.cc")
    program = tmp_path / "driver"
    places = [f"-I{build.HERE}", f"-isystem{build.headers()}", driver, "-o", program]
    command = [*compiler, "-std=c++17", "-fopenmp-simd", *flags, *places]
    return program, subprocess.run(command, capture_output=True, text=True)


def runs_all_cases(*command):
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "cases" in run.stdout


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path):
    try:
        compiler = build.compiler()
    except build.NotBuilt as reason:
        pytest.skip(str(reason))
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program, made = compiled_driver(compiler, tmp_path, "-O1", "-g", *checks)
    if made.returncode and "san" in made.stderr:
        pytest.skip("this compiler has no sanitizers")
    assert made.returncode == 0, made.stderr
    runs_all_cases(program)


@pytest.mark.slow
def test_all_cases_run_on_an_emulated_arm64(tmp_path):
    """Debian: `apt-get install g++-aarch64-linux-gnu qemu-user-static`."""
    tools = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
    if not all(map(shutil.which, tools)):
        pytest.skip("no compiler for arm64, or no emulator")
    program, made = compiled_driver(tools[:1], tmp_path, "-O3", "-static")
    assert made.returncode == 0, made.stderr
    runs_all_cases(tools[1], program)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("build"), reason="no `build` here")
@pytest.mark.parametrize("compiler", ["", "no-such-compiler"], ids=["with", "without"])
def test_wheels_have_kernels_where_there_is_a_compiler(tmp_path, compiler):
    if not compiler and not shutil.which("c++"):
        pytest.skip("no C++ compiler")
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | ({"CXX": compiler} if compiler else {})
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, root],
        check=True,
        capture_output=True,
        env=environment,
    )
    (wheel,) = os.listdir(tmp_path)
    assert ("none-any" in wheel) == bool(compiler)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("build"), reason="no `build` here")
def test_wheels_that_must_have_kernels_are_not_made_without(tmp_path):
    environment = os.environ | {"CXX": "no-such-compiler", "IMPLICIT_EIG_KERNELS": "on"}
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, root],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode and "no-such-compiler not found" in done.stdout + done.stderr
    assert not os.listdir(tmp_path)
