"""Scales pencils of extreme size to a moderate one, exactly: by powers of two."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int

from .._numerics import largest_part, power_of_two, times_real
from .._record import record
from .pencil import Pencil
from .sparse import SparseOperator


@record
class Scaling:
    """How a pencil of moderate size comes from A − λB: D (A a⁻¹ − λ B b⁻¹), with λ in
    units of a/b. All ones except for pencils of extreme size; NaN where entries
    are lost."""

    eigenvalues: Float[Array, ""]  # a / b
    mass: Float[Array, ""]  # b
    rows: Float[Array, " n"] | None  # D

    def values(self, x: Complex[Array, "*n"]) -> Complex[Array, "*n"]:
        """Eigenvalues, or L, of the original pencil."""
        return times_real(x, self.eigenvalues)

    def norms(self, x: Float[Array, "*k"]) -> Float[Array, "*k"]:
        """Norms of parts of A."""
        return x * self.eigenvalues * self.mass

    def left(self, u: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Left vectors of the original pencil, dual as before."""
        u = times_real(u, 1 / self.mass)
        return u if self.rows is None else times_real(u, self.rows[:, None])

    def given_left(self, u: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Left vectors of the scaled pencil from given ones, of any scale."""
        return u if self.rows is None else times_real(u, 1 / self.rows[:, None])


def of_moderate_size(
    a: Inexact[Array, "*batch n n"],
) -> tuple[Inexact[Array, "*batch n n"], Float[Array, "*batch 1 1"]]:
    """`a / s` and s: 1 or, for entries of extreme size, the power of two that makes them
    moderate.

    `geev` itself scales matrices of extreme size, but some LAPACKs forget to scale the
    eigenvalues back. Norms would under- or overflow.
    """
    largest = jnp.max(largest_part(a), axis=(-2, -1), keepdims=True)
    size = _size(jax.lax.stop_gradient(largest))
    return times_real(a, 1 / size), size


def pencil_of_moderate_size(
    pencil: Pencil, by_rows: bool = True
) -> tuple[Pencil, Scaling]:
    """Scales the pencil as far as its entries are available (matrices and
    `SparseOperator`); differentiable.

    Rows of a pencil may be multiplied by any factors. If their sizes are too far apart
    for double precision, they are equilibrated, as they would look singular otherwise;
    but not with `by_rows=False`, since a Hermitian pencil would not stay Hermitian.

    All NaN, the scale too, where entries that count are denormal numbers.
    """
    operators = [pencil.operator, pencil.mass]
    known = [
        x for x in operators if isinstance(x, lx.MatrixLinearOperator | SparseOperator)
    ]
    entries = [_entries(jax.lax.stop_gradient(x)) for x in known]
    largest = [jnp.max(x.sizes, initial=0) for x in entries]
    rows = None
    if len(known) == 2 and by_rows:
        by_row, by_column = (uneven(entries, largest, axis) for axis in (0, 1))
        # Columns are left to the eigensolver: scaling them would scale the vectors.
        better = _spread(entries, largest, by_row, 0) <= _spread(
            entries, largest, by_column, 1
        )
        rows = jnp.where(better, 1 / by_row, 1)
        largest = [jnp.max(x.sizes * x.beside(rows, 0)) for x in entries]
    one = jnp.ones((), jnp.finfo(pencil.dtype).dtype)
    sizes = {
        id(x): jnp.where(_underflows(_numbers(x), most), jnp.nan, _size(most))
        for x, most in zip(known, largest, strict=True)
    }
    size_a, size_b = (sizes.get(id(x), one) for x in operators)

    def scaled(operator, size):
        if id(operator) not in sizes:
            return operator
        return _times_rows(operator, 1 / size if rows is None else rows / size)

    pencil = Pencil(scaled(pencil.operator, size_a), scaled(pencil.mass, size_b))
    return pencil, Scaling(size_a / size_b, size_b, rows)


class Entries(NamedTuple):
    """The sizes of a matrix's entries: with rows and columns, or as a square array."""

    sizes: Float[Array, "*e"]
    index: tuple[Int[Array, "*e"], Int[Array, "*e"]] | None
    n: int

    def largest(self, axis: int) -> Float[Array, " n"]:
        """The largest size in each row (`axis` 0) or column."""
        if self.index is None:
            return jnp.max(self.sizes, axis=1 - axis)
        zeros = jnp.zeros(self.n, self.sizes.dtype)
        return zeros.at[self.index[axis]].max(self.sizes)

    def beside(self, x: Float[Array, " n"], axis: int) -> Float[Array, "*#e"]:
        """For each entry, the element of x for its row or column."""
        if self.index is None:
            return jnp.expand_dims(x, 1 - axis)
        return x[self.index[axis]]


def uneven(
    entries: Sequence[Entries], largest: Sequence[Float[Array, ""]], axis: int
) -> Float[Array, " n"]:
    """The sizes, as powers of two, of a pencil's rows or columns (`axis`). All ones if
    they are close enough for the precision."""
    total = jnp.zeros(entries[0].n, largest[0].dtype)
    for x, most in zip(entries, largest, strict=True):
        total = jnp.maximum(total, x.largest(axis) / jnp.where(most > 0, most, 1))
    total = jnp.where(total > 0, total, 1)
    apart = jnp.min(total) < jnp.finfo(total.dtype).eps ** 0.5 * jnp.max(total)
    return jnp.where(apart, power_of_two(total), 1)


def _spread(entries, largest, total, axis: int) -> Float[Array, ""]:
    """How much entries differ in size after division by `total`."""
    out = jnp.zeros((), total.dtype)
    for x, most in zip(entries, largest, strict=True):
        there = x.sizes > 0
        size = jnp.log2(jnp.where(there, x.sizes, 1)) - jnp.log2(
            jnp.where(most > 0, most, 1)
        )
        size = size - x.beside(jnp.log2(total), axis)
        out = out + jnp.sum(jnp.where(there, size, 0) ** 2)
    return out


def safe_norm(x: Inexact[Array, "n *k"]) -> Float[Array, "*k"]:
    """The norms of columns, which may have any size."""
    size = power_of_two(jnp.max(largest_part(jax.lax.stop_gradient(x)), axis=0))
    return jnp.linalg.norm(times_real(x, 1 / size), axis=0) * size


def without_denormals(a: Inexact[Array, "*batch n n"]) -> Inexact[Array, "*batch n n"]:
    """The matrices; NaN for those of which entries that count are denormal numbers."""
    fixed, axes = jax.lax.stop_gradient(a), (-2, -1)
    largest = jnp.max(largest_part(fixed), axis=axes)
    lost = _underflows(fixed, largest, axes)
    return a + jnp.where(lost, jnp.nan, 0)[..., None, None].astype(a.dtype)


def _underflows(
    x: Inexact[Array, "..."], largest: Float[Array, "..."], axes: Any = None
) -> Bool[Array, "..."]:
    """Whether there are denormal numbers, beside which the largest is not so large that
    they are its rounding. XLA on CPUs takes them for zeros."""
    info = jnp.finfo(x.dtype)
    bits = jnp.uint32 if info.bits == 32 else jnp.uint64

    def denormal(x: Array) -> Bool[Array, "..."]:
        # Without the sign. That of zero, less one, is the largest number there is.
        size = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), bits) << 1
        return size - 1 < bits(2 ** (info.nmant + 1) - 1)

    some = denormal(x.real)
    if jnp.iscomplexobj(x):
        some = some | denormal(x.imag)
    small = largest < float(info.tiny) / float(info.eps)
    return small & jnp.any(some, axis=axes)


def _numbers(operator: lx.AbstractLinearOperator) -> Inexact[Array, "..."]:
    """What was given, untouched."""
    if isinstance(operator, SparseOperator):
        return operator.values
    return operator.as_matrix()


def _entries(operator: lx.AbstractLinearOperator) -> Entries:
    if isinstance(operator, SparseOperator):
        values, i, j = operator.pattern.triplets(operator.values)
        index = (j, i) if operator.transposed else (i, j)
        return Entries(largest_part(values), index, operator.n)
    return entries_of_matrix(operator.as_matrix())


def entries_of_matrix(a: Inexact[Array, "n n"]) -> Entries:
    return Entries(largest_part(a), None, a.shape[0])


def _times_rows(operator: lx.AbstractLinearOperator, rows: Float[Array, "*n"]):
    if isinstance(operator, SparseOperator):
        if jnp.ndim(rows):
            rows = _entries(operator).beside(rows, 0)
        values = times_real(operator.values, rows)
        return eqx.tree_at(lambda o: o.values, operator, values)
    rows = rows[:, None] if jnp.ndim(rows) else rows
    matrix = times_real(operator.as_matrix(), rows)
    return eqx.tree_at(lambda o: o.matrix, operator, matrix)


def _size(largest: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """1 or, for an extreme size, the power of two that makes it moderate; no more, or
    cotangents, which are multiplied and divided by it, would underflow on the way."""
    info = jnp.finfo(largest.dtype)
    least, moderate = float(info.tiny) ** 0.25, float(info.eps) ** 0.5
    small, large = (largest > 0) & (largest < least), largest > 1 / least
    size = largest * jnp.where(small, 1 / moderate, moderate)
    return jnp.where(small | (large & jnp.isfinite(largest)), power_of_two(size), 1)


def of_norm_one(vectors: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
    """The vectors normalised, whatever their scale: squares would under- or overflow."""
    norms = safe_norm(vectors)
    return times_real(vectors, 1 / jnp.where(norms > 0, norms, 1))
