"""Products with a sparse matrix, whatever its pattern, and their derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental import sparse

import implicit_eig as ieig
from benchmarks.problems import convection_diffusion, random_walk
from implicit_eig._operator import as_operator
from implicit_eig._operator.pattern import Diagonals, find_pattern, Pieces

from ..oracles import relative


def stencil(rng):
    return convection_diffusion(5)[1:]


def triangle(rng):
    return random_walk(6)[1:]


def constant_rows(rng):
    n = 40
    return np.repeat(np.arange(n), 4), rng.integers(0, n, 4 * n), n


def ragged_rows(rng):
    # Two long rows beside short and empty ones: most in several pieces, some in none.
    n = 60
    rows = np.concatenate([np.full(50, 7), np.full(23, 59), rng.integers(10, 30, 40)])
    return rows, rng.integers(0, n, rows.size), n


def constant_but_one(rng):
    # Padding the empty row would put an entry where the matrix has none.
    rows, columns, n = constant_rows(rng)
    return rows[4:], columns[4:], n


def duplicates(rng):
    n = 12
    rows = rng.integers(0, n, 300)
    return rows, (rows + rng.integers(0, 2, 300)) % n, n


def corner(rng):
    return np.array([8, 0]), np.array([0, 8]), 9


def empty(rng):
    return np.zeros(0, int), np.zeros(0, int), 4


def single(rng):
    return np.zeros(2, int), np.zeros(2, int), 1


PATTERNS = {
    stencil: Diagonals,
    triangle: Pieces,
    constant_rows: Pieces,
    constant_but_one: Pieces,
    ragged_rows: Pieces,
    duplicates: Diagonals,
    corner: Pieces,
    empty: Pieces,
    single: Diagonals,
}
named = lambda p: getattr(p, "__name__", None)
all_patterns = pytest.mark.parametrize("pattern", PATTERNS, ids=named)
# Diagonals, and pieces of all kinds.
some_patterns = pytest.mark.parametrize(
    "pattern", [duplicates, constant_but_one, ragged_rows, empty], ids=named
)


def normal(rng, shape, dtype):
    x = rng.normal(size=shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.normal(size=shape)
    return jnp.asarray(np.asarray(x).astype(dtype))


def make(pattern, dtype=np.float64):
    """Values, rows, columns, n, and the map from values to the dense matrix."""
    rng = np.random.default_rng(0)
    rows, columns, n = pattern(rng)
    values = normal(rng, rows.shape, dtype)
    return values, rows, columns, n, lambda v: dense(v, rows, columns, n)


def dense(values, rows, columns, n):
    return jnp.zeros((n, n), values.dtype).at[rows, columns].add(values)


def close(got, want, dtype=np.float64):
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, want)
    assert relative(got, want) < 50 * np.finfo(dtype).eps


@all_patterns
def test_each_pattern_is_found(pattern):
    _, rows, columns, n, _ = make(pattern)
    assert isinstance(find_pattern(rows, columns, n)[0], PATTERNS[pattern])


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@all_patterns
def test_products_are_those_of_the_dense_matrix(pattern, dtype):
    values, rows, columns, n, matrix = make(pattern, dtype)
    whole, a = ieig.SparseOperator(values, rows, columns, n), matrix(values)
    x = normal(np.random.default_rng(1), (n, 3), dtype)

    @jax.jit
    def products(whole):
        t = whole.transpose()
        operators = whole, t, t.transpose(), lx.conj(t)
        column = [op.mv(x[:, 0]) for op in operators]
        block = [op.mm(x) for op in operators[:3]]
        mapped = [jax.vmap(op.mv, in_axes=1, out_axes=1)(x) for op in operators]
        return column, block, mapped, [op.as_matrix() for op in operators]

    column, block, mapped, matrices = products(whole)
    for i, b in enumerate((a, a.T, a, a.T.conj())):
        assert column[i].dtype == dtype
        close(column[i], b @ x[:, 0], dtype)
        close(mapped[i], b @ x, dtype)
        close(matrices[i], b, dtype)
        if i < 3:
            close(block[i], b @ x, dtype)
    assert whole.in_structure() == jax.ShapeDtypeStruct((n,), dtype)
    assert whole.out_structure() == jax.ShapeDtypeStruct((n,), dtype)
    close(whole.mv(x[:, 0]), a @ x[:, 0], dtype)


@pytest.mark.parametrize(
    "pattern, dtype",
    [(p, np.complex128) for p in PATTERNS]
    + [(p, np.float64) for p in (stencil, triangle)],
)
def test_derivatives_with_respect_to_values_and_vector(pattern, dtype):
    values, rows, columns, n, matrix = make(pattern, dtype)
    rng = np.random.default_rng(2)
    x, u = normal(rng, (n,), dtype), normal(rng, (n,), dtype)
    dv, dx = normal(rng, values.shape, dtype), normal(rng, (n,), dtype)
    operator = lambda v: ieig.SparseOperator(v, rows, columns, n)

    def derivatives(f):
        # Cubic in the product, so that the second derivatives mix values and vector.
        loss = lambda v, x: jnp.sum((u * f(v, x) ** 3).real)
        return (
            jax.jvp(f, (values, x), (dv, dx)),
            jax.vjp(f, values, x)[1](u),
            jax.jvp(jax.grad(loss, (0, 1)), (values, x), (dv, dx)),
        )

    functions = (
        lambda v, x: operator(v).mv(x),
        lambda v, x: operator(v).transpose().mv(x),
        lambda v, x: matrix(v) @ x,
        lambda v, x: matrix(v).T @ x,
    )
    got = jax.jit(lambda: [derivatives(f) for f in functions])()
    for mine, want in zip(got[:2], got[2:], strict=True):
        for m, w in zip(mine, want, strict=True):
            close(m, w)


@some_patterns
def test_batches_of_values_share_the_pattern(pattern):
    values, rows, columns, n, matrix = make(pattern)
    batch, x = jnp.stack([values, 2 * values, values**2]), jnp.arange(1.0, n + 1)
    make_one = lambda v: ieig.SparseOperator(v, rows, columns, n)
    want = jax.vmap(lambda v: (matrix(v) @ x, matrix(v).T @ x))(batch)
    both = lambda op: (op.mv(x), op.transpose().mv(x))
    close(jax.jit(jax.vmap(lambda v: both(make_one(v))))(batch), want)
    axes = lambda leaf: 0 if eqx.is_inexact_array(leaf) else None
    operators = eqx.filter_vmap(make_one, out_axes=axes)(batch)
    close(eqx.filter_vmap(both, in_axes=(axes,))(operators), want)


@all_patterns
def test_a_step_along_the_gradient_of_an_operator_keeps_its_entries_in_place(pattern):
    values, rows, columns, n, matrix = make(pattern)
    op, x = ieig.SparseOperator(values, rows, columns, n), jnp.arange(1.0, n + 1)
    free, rest = eqx.partition(op, eqx.is_inexact_array)
    loss = lambda free: jnp.sum(eqx.combine(free, rest).mv(x) ** 2)
    step = jax.jit(jax.grad(loss))(free)
    moved = eqx.apply_updates(op, step).as_matrix()
    stored = np.asarray(matrix(jnp.ones_like(values))) != 0
    assert not np.any(np.asarray(moved)[~stored])
    assert np.all((np.asarray(moved) != op.as_matrix())[stored])
    doubled = eqx.tree_at(lambda o: o.values, op, 2 * op.values)
    close(doubled.as_matrix(), 2 * matrix(values))


@some_patterns
def test_traced_indices_give_the_same_and_ignore_what_is_outside(pattern):
    values, rows, columns, n, matrix = make(pattern)
    x = jnp.arange(1.0, n + 1)

    @jax.jit
    def both(values, rows, columns):
        op = ieig.SparseOperator(values, rows, columns, n)
        return op.mv(x), op.transpose().mv(x), op.as_matrix()

    a = matrix(values)
    close(both(values, rows, columns), (a @ x, a.T @ x, a))
    outside = [n, 0, n + 1, 0], [0, n, 0, n + 1]
    extra = both(
        jnp.append(values, jnp.ones(4)),
        np.append(rows, outside[0]),
        np.append(columns, outside[1]),
    )
    close(extra, (a @ x, a.T @ x, a))


def test_the_pattern_is_found_under_jit_where_the_indices_are_known():
    values, rows, columns, n, matrix = make(stencil)
    indices = jnp.asarray(np.stack([rows, columns], axis=1))
    bcoo = sparse.BCOO((values, indices), shape=(n, n)).sort_indices()
    bcsr = sparse.BCSR.from_bcoo(bcoo)

    @jax.jit
    def operators(data):
        return (
            ieig.SparseOperator(data, *np.asarray(bcoo.indices).T, n),
            ieig.SparseOperator(data, *(np.asarray(bcoo.indices).T.tolist()), n),
            as_operator(sparse.BCOO((data, bcoo.indices), shape=(n, n))),
            as_operator(sparse.BCSR((data, bcsr.indices, bcsr.indptr), shape=(n, n))),
        )

    for op in operators(bcoo.data):
        assert isinstance(op.pattern, Diagonals)
        close(op.as_matrix(), matrix(values))


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: sparse.BCOO.fromdense(a),
        lambda a: sparse.BCOO.fromdense(a, nse=40),  # padded with indices outside
        lambda a: sparse.BCSR.fromdense(a),
        lambda a: sparse.BCSR.fromdense(a, nse=40),
        lambda a: sp.csr_array(np.asarray(a)),
        lambda a: sp.coo_matrix(np.asarray(a)),
        lambda a: sp.dia_array(np.asarray(a)),
    ],
    ids=["bcoo", "padded bcoo", "bcsr", "padded bcsr", "csr", "coo", "dia"],
)
@pytest.mark.parametrize("jit", [False, True])
def test_sparse_matrices_of_others_become_the_operator(convert, jit):
    a = make(corner)[-1](jnp.asarray([2.0, 3.0])) + 5 * jnp.eye(9, k=2)
    matrix, x = convert(a), jnp.arange(1.0, 10.0)
    if not jit:
        close(as_operator(matrix).mv(x), a @ x)
        close(ieig.SparseOperator(matrix).transpose().mv(x), a.T @ x)
    elif isinstance(matrix, sparse.JAXSparse):
        close(jax.jit(lambda matrix: as_operator(matrix).mv(x))(matrix), a @ x)
    else:
        close(jax.jit(lambda: as_operator(matrix).mv(x))(), a @ x)


@pytest.mark.parametrize("transposed", [False, True])
@all_patterns
def test_the_entries_are_each_place_once(pattern, transposed):
    values, rows, columns, n, matrix = make(pattern, np.complex128)

    def entries(values, i, j):
        op = ieig.SparseOperator(values, i, j, n)
        return (op.transpose() if transposed else op).entries

    v, i, j = entries(values, rows, columns)
    want = np.unique(np.stack([rows, columns]), axis=1)  # row by row
    assert np.array_equal(np.stack([j, i] if transposed else [i, j]), want)
    a = matrix(values).T if transposed else matrix(values)
    close(v, a[i, j], np.complex128)
    # Known ones stay known under `jit`; so are they after a journey as an argument.
    inside = jax.jit(lambda v: entries(v, rows, columns))(values)
    op = ieig.SparseOperator(values, rows, columns, n)
    journey = jax.jit(lambda op: (op.transpose() if transposed else op).entries)(op)
    for got in (inside, journey):
        close(got[0], v)
        assert np.array_equal(got[1], i) and np.array_equal(got[2], j)
    loss = lambda values: jnp.sum(entries(values, rows, columns)[0] ** 2).real
    close(
        jax.grad(loss)(values), 2 * a[(columns, rows) if transposed else (rows, columns)]
    )
    with pytest.raises(ValueError, match="duplicates"):
        jax.jit(entries)(values, rows, columns)


def test_known_triplets_are_summed_on_the_host_under_jit_too():
    values, rows, columns, n, matrix = make(duplicates)
    x, values = jnp.arange(1.0, n + 1), np.asarray(values)

    def products(x):
        op = ieig.SparseOperator(values, rows, columns, n)
        leaves = jax.tree.leaves((op, op.entries))
        assert not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        return op.mv(x)

    close(jax.jit(products)(x), matrix(values) @ x)


def test_what_is_no_sparse_matrix_is_named():
    bcoo = sparse.BCOO((jnp.ones(3), jnp.array([[0, 0], [9, 9], [1, -1]])), shape=(3, 3))
    tall = sp.csr_array(np.ones((3, 2)))
    wide = np.ones(2, np.longdouble)
    for call, error, text in (
        (lambda: ieig.SparseOperator(bcoo), ValueError, "`matrix` has a negative index: entry 2 stands at (1, -1)"),
        (lambda: as_operator(bcoo), ValueError, "`operator` has a negative index"),
        (lambda: ieig.SparseOperator(tall), ValueError, "`matrix` must be square; got a matrix of shape (3, 2)"),
        (lambda: ieig.SparseOperator(np.eye(3)), TypeError, "got one ndarray"),
        (lambda: ieig.SparseOperator([1.0], [0], [0]), TypeError, "`n` must be an integer; got None"),
        (lambda: ieig.SparseOperator(wide, [0, 1], [0, 1], 2), TypeError, f"got {wide.dtype}"),
        (lambda: as_operator(sp.coo_array(np.eye(2, dtype=np.longdouble))), TypeError, f"got {wide.dtype}"),
        (lambda: ieig.SparseOperator(np.array([1, "a"], object), [0, 1], [0, 1], 2), TypeError, "got object"),
        (lambda: ieig.eigs(np.eye(3, dtype=np.longdouble), 1), TypeError, f"`operator` must be numbers of a dtype that JAX has; got {wide.dtype}"),
        (lambda: ieig.eig(np.eye(3, dtype=object)), TypeError, "got object"),
        (lambda: ieig.SparseOperator(wide * 1j, [0, 1], [0, 1], 2), TypeError, "got complex256"),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            call()
        assert text in str(caught.value)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("pattern", [constant_rows, ragged_rows, stencil])
def test_a_cotangent_of_the_values_holds_no_matrix(pattern, transposed):
    values, rows, columns, n, _ = make(pattern)
    # Many copies side by side: a dense matrix would be 100 times larger than the entries.
    copies = 100
    shift = n * np.arange(copies)[:, None]
    rows, columns = ((shift + i).ravel() for i in (rows, columns))
    x = jnp.ones((n * copies, 4))

    def loss(values):
        op = ieig.SparseOperator(values, rows, columns, n * copies)
        return jnp.sum((op.transpose() if transposed else op).mm(x) ** 2)

    values = jnp.tile(values, copies)
    memory = jax.jit(jax.grad(loss)).lower(values).compile().memory_analysis()
    entries = values.nbytes * x.shape[1]
    assert memory.temp_size_in_bytes < 20 * entries < (n * copies) ** 2 * 8


def test_values_are_promoted_and_cast_as_asked():
    op = ieig.SparseOperator([1, 2, 3], [0, 1, 1], [1, 0, 1], n=2)
    assert op.values.dtype == np.float64
    close(op.mv(jnp.ones(2)), jnp.asarray([1.0, 5.0]))
    close(op.transpose().mv(jnp.ones(2)), jnp.asarray([2.0, 4.0]))
    single = op.transpose().astype(np.complex64)
    assert single.mv(jnp.ones(2, np.complex64)).dtype == np.complex64
    close(single.as_matrix(), op.as_matrix().T.astype(np.complex64))


@pytest.mark.parametrize("pattern", [stencil, constant_but_one, ragged_rows])
def test_an_entry_of_a_vector_that_is_not_finite_stays_with_its_column(pattern):
    values, rows, columns, n, _ = make(pattern)
    op = ieig.SparseOperator(values, rows, columns, n)
    x = jnp.ones(n).at[columns[3]].set(jnp.nan)
    met = np.isin(np.arange(n), rows[columns == columns[3]])
    assert np.array_equal(np.isnan(op.mv(x)), met)
    x = jnp.ones(n).at[rows[3]].set(jnp.nan)
    met = np.isin(np.arange(n), columns[rows == rows[3]])
    assert np.array_equal(np.isnan(op.transpose().mv(x)), met)


@pytest.mark.parametrize(
    "rows, columns, n, error, text",
    [
        ([0, 3], [0, 0], 3, ValueError, "`rows` must lie in [0, 3)"),
        ([0, 0], [0, -1], 3, ValueError, "got -1 at position 1"),
        ([0, 0, 0], [0, 0], 3, ValueError, "(2,), (3,) and (2,)"),
        ([[0, 0]], [[0, 0]], 3, ValueError, "(1, 2)"),
        ([0.0, 1.0], [0, 0], 3, TypeError, "`rows` must be integers; got dtype float64"),
        ([0, 0], [True, False], 3, TypeError, "got dtype bool"),
        ([0, 0], [0, 0], 2.0, TypeError, "`n` must be an integer; got 2.0"),
        ([], [], 0, ValueError, "`n` must be at least 1; got 0"),
    ],
)
def test_what_is_no_matrix_is_refused_by_name(rows, columns, n, error, text):
    with pytest.raises(error) as caught:
        ieig.SparseOperator(np.ones(len(rows) and 2), rows, columns, n)
    assert text in str(caught.value)
