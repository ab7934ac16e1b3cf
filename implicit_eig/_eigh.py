"""Full spectra of dense Hermitian matrices and definite pencils."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Inexact

from ._gauge import AbstractGauge, as_gauge, Gauge, watched_phases
from ._hermitian import hermitian_root, MassOrthonormal, pairs_of_hermitian
from ._hermitian.block import crooked
from ._hermitian.pairs import ties_of
from ._hermitian.runs import hermitian_pairs
from ._operator import as_matrix, Domain, Pencil, pencil_of_moderate_size, times_real
from ._program import Program, value_of
from ._rule import check_ties, default_tie_rtol, PairOptions, Ties


class EighResult(NamedTuple):
    """Eigenvalues `(..., n)`, ascending, and eigenvectors `(..., n, n)` in columns.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [1.0, 3.0]])
        w, v = ieig.eigh(a)
        assert w[0] < w[1] and jnp.allclose(a @ v, v * w, atol=1e-5)
        ```
    """

    eigenvalues: Float[Array, "*batch n"]
    eigenvectors: Inexact[Array, "*batch n n"]


def eigh(
    a: Inexact[ArrayLike, "*batch n n"],
    b: Inexact[ArrayLike, "*batch n n"] | None = None,
    *,
    gauge: Gauge | None = None,
    ties: Ties = "nan",
    tie_rtol: float | None = None,
) -> EighResult:
    """Eigenvalues and eigenvectors of Hermitian matrices, or of pencils `a v = λ b v`
    with b Hermitian positive definite; differentiable to any order, in either mode.

    Derivatives are right at repeated eigenvalues, where those of `jnp.linalg.eigh` are
    not: functions of all vectors of a tie, or symmetric in its values, keep theirs.

    **Arguments:**

    - `a`, `b`: shape `(..., n, n)`; gradients are Hermitian. Integers are promoted.
    - `gauge`: default: `vᴴ b v = 1`, the entry of largest modulus real and positive.
    - `ties`: `"nan"`: one of several tied eigenvalues, or a vector of one, has NaN for
        its derivative; `"drop"` leaves the coupling inside a tie out, right for functions
        that do not change when tied vectors are mixed.
    - `tie_rtol`: eigenvalues tie when their gap is at most `tie_rtol · max|λ|`. Default:
        `10 n eps`.

    **Returns:** `EighResult(eigenvalues, eigenvectors)`; real eigenvalues, vectors of the
    dtype of a and b. NaN for a matrix with NaN or inf, one that is not Hermitian, and
    where b is not definite, or singular to rounding.

    **Raises:** `ValueError` for matrices that are not square, and in a plain call for
    those that are not Hermitian.

    Cost: LAPACK's `syevd` (with b, a Cholesky factorisation and two triangular solves
    more); of a derivative, a few matrix products.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig
        stiffness = jnp.array([[3.0, -1.0], [-1.0, 2.0]])
        mass = jnp.array([2.0, 1.0])
        lowest = lambda m: ieig.eigh(stiffness, jnp.diag(m)).eigenvalues[0]
        sensitivity = jax.grad(lowest)(mass)
        ```
    """
    check_ties(ties, tie_rtol)
    a = as_matrix(a, "a")
    if b is not None:
        b = as_matrix(b, "b")
        dtype = np.promote_types(a.dtype, b.dtype)
        a, b = a.astype(dtype), b.astype(dtype)
        if a.shape[-1] != b.shape[-1]:
            raise ValueError(f"`b` must be as large as `a`; got {b.shape} and {a.shape}.")
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape)
    n = a.shape[-1]
    domain = Domain.of(jax.ShapeDtypeStruct((n,), a.dtype))
    gauge = as_gauge(gauge, domain, default=MassOrthonormal(), dtype=a.dtype)
    rtol = default_tie_rtol(n, a.dtype) if tie_rtol is None else tie_rtol
    found, not_hermitian = _eigh(a, b, gauge, ties, rtol)
    wrong = value_of(not_hermitian)
    if wrong is not None and wrong.any():
        raise ValueError(
            "`a` and `b` must be Hermitian; for other matrices take `eig`, and for other "
            "pencils `eigs`."
        )
    (v,) = watched_phases(gauge, found.eigenvectors, axes=1)
    return EighResult(found.eigenvalues, v)


@Program
def _eigh(
    a: Array, b: Array | None, gauge: AbstractGauge, ties: Ties, tie_rtol: float
) -> tuple[EighResult, Bool[Array, "*batch"]]:
    if a.size == 0:
        values = jnp.zeros(a.shape[:-1], a.real.dtype)
        return EighResult(values, jnp.zeros(a.shape, a.dtype)), jnp.asarray(False)

    def one(a: Array, b: Array | None) -> tuple[Array, Array, Array]:
        operator = lx.MatrixLinearOperator(a)
        mass = None if b is None else lx.MatrixLinearOperator(b)
        pencil, scaling = pencil_of_moderate_size(Pencil(operator, mass), by_rows=False)
        a = pencil.operator.as_matrix()
        b = None if pencil.mass is None else pencil.mass.as_matrix()
        fixed = jax.lax.stop_gradient((a, b))
        values, vectors = hermitian_pairs(*fixed)
        active = jnp.full(values.shape, True)
        _, apart = ties_of(values, active, tie_rtol)
        signal = jnp.zeros((), values.dtype)
        values, _, vectors, mark, _ = hermitian_root(
            pencil,
            values,
            vectors,
            signal,
            active=active,
            apart=apart,
            solve=None,
        )
        values, vectors = pairs_of_hermitian(
            pencil,
            values,
            vectors,
            mark,
            active=active,
            outside=None,
            error=float(jnp.finfo(values.dtype).eps) * jnp.max(jnp.abs(values)),
            options=PairOptions(values.size, False, gauge, ties, tie_rtol, False),
        )
        if isinstance(gauge, MassOrthonormal):
            vectors = times_real(vectors, 1 / jnp.sqrt(scaling.mass))
        lost = (values != 0) & (scaling.values(values) == 0)
        values = scaling.values(values) + jnp.where(lost, jnp.nan, 0)
        wrong = crooked(fixed[0])
        wrong = wrong if b is None else wrong | crooked(fixed[1])  # pyright: ignore[reportArgumentType]
        nothing = jnp.where(wrong, jnp.nan, 0)
        return values + nothing, vectors + nothing.astype(vectors.dtype), wrong

    n = a.shape[-1]
    if a.ndim == 2:  # XLA has faster products without an axis of length one
        w, v, wrong = one(a, b)
        return EighResult(w, v), wrong
    flat = [None if x is None else x.reshape(-1, n, n) for x in (a, b)]
    w, v, wrong = jax.vmap(one)(*flat)  # pyright: ignore[reportArgumentType]
    return EighResult(w.reshape(a.shape[:-1]), v.reshape(a.shape)), jnp.any(wrong)
