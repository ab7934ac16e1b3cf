"""Sparse factors: what they cost for any numbering, how right they are, how long they live."""

import gc
import os

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial import Delaunay

import implicit_eig as ieig
import implicit_eig._linear_solver.sparse_lu as sparse_lu
import implicit_eig._linear_solver.superlu as superlu


def grid(m, shift=0.0, wind=0.02):
    """Convection and diffusion on a square, numbered along its lines."""
    t = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
    d = sp.diags_array([-wind, wind], offsets=[-1, 1], shape=(m, m))
    e = sp.eye_array(m)
    return sp.kron(t, e) + sp.kron(e, t + d) - shift * sp.eye_array(m * m)


def mesh(n, dim, shift=0.0):
    """A Laplacian on a triangulation, or on tetrahedra, of random points."""
    points = np.random.default_rng(0).random((n, dim))
    cells = Delaunay(points).simplices
    rows = np.repeat(cells, dim + 1, axis=1).ravel()
    columns = np.tile(cells, dim + 1).ravel()
    return laplacian(rows, columns, n) - shift * sp.eye_array(n)


def scale_free(n, directed, shift=0.0):
    """Each node is joined to three others, likely ones that many are joined to."""
    rng = np.random.default_rng(0)
    ends, rows, columns = [0, 1, 2], [], []
    for node in range(3, n):
        for other in {ends[k] for k in rng.integers(0, len(ends), 3)}:
            rows.append(node)
            columns.append(other)
            ends += [node, other]
    rows, columns = np.array(rows), np.array(columns)
    if directed:
        turned = rng.random(rows.size) < 0.5
        rows, columns = np.where(turned, (rows, columns), (columns, rows))
    else:
        rows, columns = np.append(rows, columns), np.append(columns, rows)
    return laplacian(rows, columns, n) - shift * sp.eye_array(n)


def laplacian(rows, columns, n):
    weights = np.random.default_rng(1).uniform(0.5, 1.5, rows.size)
    a = sp.csr_array(sp.coo_array((weights, (rows, columns)), shape=(n, n)))
    a.setdiag(0.0)
    return sp.diags_array(a.sum(axis=1) + 0.01) - a


def shuffled(a):
    p = np.random.default_rng(2).permutation(a.shape[0])
    return sp.csr_array(a)[p][:, p]


def factor(a, ordering=None):
    a = sp.coo_array(a)
    return sparse_lu.factorise(a.data, a.row, a.col, a.shape[0], ordering)


def backward_error(a, f, trans="N"):
    a = sp.csr_array(a.T if trans == "T" else a)
    b = np.random.default_rng(3).normal(size=(a.shape[0], 2))
    x = f.solve(b.astype(a.dtype), trans)
    size = abs(a).sum(axis=1).max() * abs(x).max(axis=0) + abs(b).max(axis=0)
    return (abs(a @ x - b).max(axis=0) / size).max()


# Entries of L + U over those of A, a tenth above what is measured. COLAMD: 12, 12, 13, 9, 10,
# 22, 145, 150, 73; minimum degree with full pivoting and SuperLU's padding: 6, 75, 92, 37, 46,
# 35, 23, -, 58.
FILL = {
    "grid": (lambda: grid(60), 6.8),
    "grid, shuffled": (lambda: shuffled(grid(60)), 7.5),
    "grid, shuffled, interior": (lambda: shuffled(grid(60, 1.5)), 7.6),
    "grid, shuffled, strong wind": (lambda: shuffled(grid(60, 0.1, 3.0)), 7.5),
    "triangles": (lambda: mesh(4000, 2), 5.0),
    "triangles, interior": (lambda: mesh(4000, 2, 3.0), 5.0),
    "tetrahedra": (lambda: mesh(2000, 3), 14.7),
    "tetrahedra, interior": (lambda: mesh(2000, 3, 9.0), 14.7),
    "scale-free": (lambda: scale_free(2000, False), 14.2),
    "scale-free, interior": (lambda: scale_free(2000, False, 0.7), 14.2),
    "scale-free, directed": (lambda: scale_free(2000, True), 11.3),
}


@pytest.mark.parametrize("name", FILL)
def test_the_fill_does_not_depend_on_the_numbering(name):
    make, most = FILL[name]
    a = make()
    f = factor(a)
    assert f.lu.nnz / a.nnz <= most
    for trans in "NT":
        assert backward_error(a, f, trans) < 4e-15


def saddle_point():
    a, n = grid(12), 144
    rng = np.random.default_rng(0)
    b = sp.random_array((60, n), density=0.05, rng=rng) + sp.eye_array(60, n)
    return sp.block_array([[a, b.T], [b, None]])


def zeros_on_the_diagonal(a, every):
    a = sp.lil_array(a)
    d = a.diagonal()
    d[::every] = 0
    a.setdiag(d)
    return a


def cancelling():
    """Pivots that vanish in the course of the elimination, not before."""
    return sp.block_diag([[[1.0, 1, 0, 2], [1, 1, 3, 0], [0, 1, 1, 1], [1, 0, 1, 1]]] * 9)


DIFFICULT = {
    "saddle point": saddle_point,
    "every second diagonal entry zero": lambda: zeros_on_the_diagonal(grid(13), 2),
    "a few zero": lambda: zeros_on_the_diagonal(grid(13), 40),
    "hubs without diagonal": lambda: zeros_on_the_diagonal(scale_free(200, False), 3),
    "pivots that cancel": cancelling,
    "a permutation": lambda: sp.csr_array(np.roll(np.eye(20), 1, axis=0)),
    "tiny diagonal": lambda: grid(12) - sp.diags_array(np.full(144, 4.0 - 1e-9)),
    "narrow": lambda: sp.diags_array(
        [1e-7, 1.0, 1.0], offsets=[0, 1, -1], shape=(90, 90)
    ),
}


@pytest.mark.parametrize("ordering", [None, *sparse_lu.ORDERINGS])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32])
@pytest.mark.parametrize("name", DIFFICULT)
def test_what_has_no_pivots_on_the_diagonal_is_solved(name, dtype, ordering):
    a = sp.csr_array(DIFFICULT[name]()).astype(dtype)
    if dtype == np.complex128:
        a = a + 1j * sp.csr_array(abs(a) > 0)
    f = factor(a, ordering)
    for trans in "NT":
        assert backward_error(a, f, trans) < 30 * np.finfo(dtype).eps


@pytest.mark.parametrize("u", [0.0, 1e-8])
def test_growth_is_seen_and_mended(u, monkeypatch):
    """However small the pivots are that minimum degree would take."""
    monkeypatch.setattr(superlu, "_DIAGONAL_PIVOT", u)
    for name in ("every second diagonal entry zero", "tiny diagonal", "narrow"):
        a = sp.csr_array(DIFFICULT[name]())
        assert backward_error(a, factor(a, "mmd")) < 4e-15


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
@pytest.mark.parametrize("sides", ["rows", "columns", "both", "similar"])
def test_units_of_rows_and_columns_do_not_matter(sides, dtype):
    rng = np.random.default_rng(0)
    a = sp.coo_array(shuffled(grid(12))).astype(dtype)
    most = 60 if dtype == np.float64 else 20
    r, c = 2.0 ** rng.integers(-most, most, (2, a.shape[0]))
    r = {"columns": 1 + 0 * r, "similar": 1 / c}.get(sides, r)
    c = 1 + 0 * c if sides == "rows" else c
    scaled = a.copy()
    scaled.data = (a.data * r[a.row] * c[a.col]).astype(dtype)
    b = rng.normal(size=(a.shape[0], 1)).astype(dtype)
    for trans, left, right in (("N", r, c), ("T", c, r)):
        x = factor(scaled).solve((b.T * left).T.astype(dtype), trans) * right[:, None]
        full = a.toarray() if trans == "N" else a.toarray().T
        tol = 1e-11 if dtype == np.float64 else 1e-3
        np.testing.assert_allclose(x, np.linalg.solve(full, b), rtol=tol, atol=tol)
    assert factor(scaled).lu.nnz <= 1.2 * factor(a).lu.nnz


def test_a_matrix_without_an_inverse_has_no_factor():
    a = sp.csr_array(grid(5))
    empty = sp.diags_array((np.arange(25) != 7) * 1.0)
    for singular in (a @ empty, empty @ a, sp.csr_array(np.ones((3, 3))), a * np.nan):
        for ordering in (None, *sparse_lu.ORDERINGS):
            assert factor(singular, ordering) is None


@pytest.mark.parametrize("ordering", ["amd", "COLAMD", 3, ""])
def test_an_ordering_nobody_knows_is_named(ordering):
    with pytest.raises(ValueError, match=f'"colamd".*got {ordering!r}'):
        ieig.SparseLU(ordering)


def problem():
    a = sp.coo_array(grid(6) + sp.diags_array(np.arange(36.0)))
    b = jnp.arange(1.0, 37.0)

    def solve(values, ordering=None):
        operator = ieig.SparseOperator(values, a.row, a.col, 36)
        x = lx.linear_solve(operator, b, ieig.SparseLU(ordering)).value
        return jnp.sum(x**3)

    def dense(values):
        full = jnp.zeros((36, 36)).at[a.row, a.col].add(values)
        return jnp.sum(jnp.linalg.solve(full, b) ** 3)

    return solve, dense, jnp.asarray(a.data)


@pytest.fixture
def large(monkeypatch):
    """As if every factor were large; the number made so far."""
    gc.collect()
    monkeypatch.setattr(sparse_lu, "_SMALL", 0)
    monkeypatch.setattr(sparse_lu, "_factors", sparse_lu._Factors())
    made, factorise = [], sparse_lu.factorise

    def counted(*args):
        made.append(1)
        return factorise(*args)

    monkeypatch.setattr(sparse_lu, "factorise", counted)
    return lambda: (len(made), len(sparse_lu._factors.alive))


def test_factors_of_earlier_runs_die_at_the_next_and_with_the_program(large):
    solve, _, values = problem()
    gradient = jax.jit(jax.value_and_grad(solve))
    for i in range(1, 6):
        jax.block_until_ready(gradient(values * i))
        assert large() == (i, 1)
    other = jax.jit(lambda v: solve(v, "colamd"))
    other(values).block_until_ready()
    assert large() == (6, 2)
    gradient.clear_cache()
    del gradient
    gc.collect()
    assert large() == (6, 1)
    batch = jnp.stack([values, 2 * values, 3 * values])
    many = jax.jit(jax.vmap(jax.grad(solve)))
    for i in range(1, 4):
        jax.block_until_ready(many(batch))
        assert large() == (6 + 3 * i, 4)


def test_a_gradient_of_an_earlier_run_makes_its_factor_again_once(large):
    solve, dense, values = problem()
    run, back = jax.jit(lambda v: jax.vjp(solve, v)), jax.jit(lambda f: f(1.0)[0])

    def both():
        pullbacks = [run(values * i)[1] for i in (1.0, 2.0)]
        return [back(pullback) for pullback in pullbacks]

    for made in (3, 5, 7):  # once taught, the program keeps both
        for i, got in zip((1.0, 2.0), both(), strict=True):
            np.testing.assert_allclose(got, jax.grad(dense)(values * i), rtol=1e-9)
        assert large()[0] == made


def test_a_loop_keeps_what_its_gradient_needs(large):
    solve, dense, values = problem()

    def total(values, solve):
        step = lambda c, s: (c + solve(values * s), None)
        return jax.lax.scan(step, 0.0, jnp.arange(1.0, 5.0))[0]

    gradient = jax.jit(jax.grad(lambda v: total(v, solve)))
    want = jax.grad(lambda v: total(v, dense))(values)
    for _ in range(3):
        np.testing.assert_allclose(gradient(values), want, rtol=1e-9)
    before = large()[0]
    jax.block_until_ready(gradient(values))
    assert large()[0] == before + 4


def test_memory_stays_flat_over_many_runs():
    a = sp.coo_array(grid(60))
    b = jnp.ones(3600)

    @jax.jit
    def run(values):
        operator = ieig.SparseOperator(values, a.row, a.col, 3600)
        return lx.linear_solve(operator, b, ieig.SparseLU()).value

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs Linux' count of resident pages")
    values = jnp.asarray(a.data)
    for _ in range(100):  # until malloc has what it likes to keep
        run(values).block_until_ready()
    before = resident()
    for _ in range(150):  # 1.7 MB each
        run(values).block_until_ready()
    assert resident() - before < 5e7
    kept = sum(f.size for f in sparse_lu._factors.alive.values())
    assert kept < 4 * sparse_lu._SMALL


def test_the_limit_is_that_of_the_container(tmp_path):
    """Of control groups of version 2, and of version 1, any of the groups above too."""

    def limit(lines, **files):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        (place / "own").write_text("\n".join(lines))
        for name, text in files.items():
            file = place / name.replace("__", "/").replace("_", ".", 1)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return sparse_lu._memory(str(place), str(place / "own"))

    machine = limit([])
    assert machine == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert limit(["0::/"], memory_max="max\n") == machine
    assert limit(["0::/"], memory_max="1000000\n") == 10**6
    assert limit(["0::/a/b"], a__memory_max="2000\n", a__b__memory_max="3000\n") == 2000
    one = {"memory__job__memory_limit_in_bytes": "5000\n"}
    assert limit(["3:cpu,memory:/job", "4:pids:/"], **one) == 5000
    assert (
        limit(["3:memory:/job"], memory__job__memory_limit_in_bytes=str(2**63)) == machine
    )
    assert sparse_lu._memory() <= machine
