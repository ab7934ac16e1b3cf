"""Functions of general dense matrices, and spectral projectors."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact, PyTree

from .._ad import nan_tangent
from .._failure import check_throw, raise_if
from .._operator import as_matrix, complex_dtype
from .._program import Program, TracedFunction, value_of
from .block_diagonal import (
    block_diagonal,
    cluster,
    inverse_separations,
    Partition,
    partitioned,
    projector_norms,
    schur,
)


# Points on the circle round a cluster, and how many of the resulting coefficients are
# used. The others show whether the series has ended.
_POINTS, _TERMS = 128, 96
# Powers of a block formed one by one; 96 terms are 12 groups in its eighth power.
_STEP = 8


def funm(
    a: Inexact[ArrayLike, "*batch n n"], f: Callable[[Complex[Array, ""]], ArrayLike]
) -> Complex[Array, "*batch n n"]:
    """f(A) of general square matrices, differentiable at every spectrum.

    Eigenvalues that are repeated, defective or close stay together in one block of
    `A = Z D Z⁻¹`, where D is block-diagonal and Z well-conditioned. Blocks are treated by
    a Taylor series, single eigenvalues by f itself. Derivatives with respect to A come
    from one rule for (Z, D), those with respect to parameters that `f` closes over from
    the coefficients; both in either mode and to any order, and right where eigenvalues
    coincide. There, an eigendecomposition loses the term f′(λ), whatever is done about
    1/(λᵢ − λⱼ).

    **Arguments:**

    - `a`: shape `(..., n, n)`, real or complex, float32 or float64 precision; integers
        are promoted.
    - `f`: a function of one complex scalar that JAX can trace. It may close over traced
        arrays, and has derivatives with respect to them. It is evaluated at simple
        eigenvalues, where it needs as many derivatives as are taken, and on circles round
        clusters: it must be analytic on a disc about twice as large as the cluster. For
        the principal `jnp.log` and `jnp.sqrt`, a cluster must stay away from the negative
        real axis.

    **Returns:** shape `(..., n, n)`, complex. A matrix is all NaN if it contains NaN or
    inf, or if the series of a cluster does not converge, for its value or its first two
    derivatives: a defective eigenvalue 0 has no logarithm.

    **Raises:** `ValueError` for a non-square `a` or an `f` that does not give a scalar,
    `TypeError` for a dtype that LAPACK does not have or an `f` that cannot be called.
    `NotImplementedError` on backends other than the CPU, which have no Schur form in JAX.

    Costs O(n³): a few eigendecompositions without clusters, and some twenty more products
    of matrices with them. Functions of the same text are compiled once.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[1.0, 1.0], [0.0, 1.0]])
        root = ieig.funm(a, jnp.sqrt)
        assert jnp.allclose((root @ root).real, a)
        g = jax.grad(lambda t: ieig.funm(a, lambda z: jnp.exp(t * z))[0, 1].real)(0.5)
        ```

    ??? cite "Reference"

        Block diagonalisation of bounded condition: Bavely and Stewart, SIAM J. Numer.
        Anal. 16 (1979). Blocks of close eigenvalues and their Taylor series: Davies and
        Higham, SIAM J. Matrix Anal. Appl. 25 (2003). Coefficients from a circle: Lyness
        and Moler, SIAM J. Numer. Anal. 4 (1967).
    """
    a = as_matrix(a, "a")
    if not callable(f):
        raise TypeError(f"`f` must be a function of a complex scalar; got {f!r}.")
    traced, value = _traced(f, a)
    if value is None or value.shape != ():
        raise ValueError(f"`f` must map a complex scalar to a scalar; got {value}.")
    return _funm(a, traced)


def _traced(fn: Callable, a: Array) -> tuple[TracedFunction, jax.ShapeDtypeStruct | None]:
    """`fn` as a function of one complex scalar of A's precision, and what it returns, if
    that is one array."""
    traced = TracedFunction.of(fn, jax.ShapeDtypeStruct((), complex_dtype(a.dtype)))
    treedef, shapes = traced.out_structure
    return traced, shapes[0] if treedef == jtu.tree_structure(0) else None


@Program
def _funm(a: Array, f: TracedFunction) -> Array:
    dtype = complex_dtype(a.dtype)
    if a.size == 0:
        return jnp.zeros(a.shape, dtype)

    def on_array(f: TracedFunction, z: Array) -> Array:
        return jax.vmap(f)(z.ravel()).astype(dtype).reshape(z.shape)

    def one(a: Array) -> Array:
        finite = jnp.all(jnp.isfinite(a))
        q, t = schur(jnp.where(finite, a, 0))
        frozen = jtu.tree_map(
            lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, f
        )

        def fit(now: Partition) -> tuple[Array, Array]:
            frozen_on_array = functools.partial(on_array, frozen)
            series = functools.partial(_radius, frozen_on_array)
            simple = jnp.zeros(t.shape[0], t.real.dtype), jnp.ones(t.shape[0], bool)
            several = jnp.any(jnp.sum(now.same, axis=1) > 1)
            radius, fits = jax.lax.cond(
                several, series, lambda *_: simple, now.d, now.same
            )
            return radius, fits & _continuous(frozen_on_array, t, now)

        partition, radius, fits = cluster(t, fit)
        z, d, w = block_diagonal(a, q, partition)
        blocks = _of_blocks(functools.partial(on_array, f), d, partition.same, radius)
        return _nan_unless(finite & jnp.all(fits), z @ blocks @ w, a)

    return _batched(one, a)


def _batched(one: Callable[[Array], PyTree[Array]], a: Array) -> PyTree[Array]:
    """Treats matrices one after the other, as each has its own number of steps."""
    if a.ndim == 2:
        return one(a)
    flat = jax.lax.map(one, a.reshape((-1, *a.shape[-2:])))
    return jtu.tree_map(lambda x: x.reshape(a.shape[:-2] + x.shape[1:]), flat)


def _nan_unless(
    good: Bool[Array, ""], x: Complex[Array, "n n"], a: Inexact[Array, "n n"]
) -> Complex[Array, "n n"]:
    """x; unless `good`, NaN, with NaN derivatives with respect to A and all else."""
    missing = jnp.broadcast_to(~good, x.shape[-1:])
    # A stand-in for A may have no derivative at all.
    nothing = nan_tangent(a, missing).astype(x.dtype) + jnp.nan
    return nan_tangent(x, missing) + jnp.where(good, 0, nothing)


def _centres(
    d: Complex[Array, "n n"], same: Bool[Array, "n n"]
) -> tuple[Complex[Array, " n"], Bool[Array, " n"]]:
    """For each index, the mean eigenvalue of its cluster, and whether it is not alone."""
    number = jnp.sum(same, axis=1)
    total = jnp.sum(jnp.where(same, jnp.diagonal(d), 0), axis=1)
    return total / number.astype(d.dtype), number > 1


def _circle(dtype: Any) -> Complex[Array, " points"]:
    return jnp.asarray(np.exp(2j * np.pi * np.arange(_POINTS) / _POINTS), dtype)


def _norms_of_powers(
    a: Complex[Array, "n n"], norm: Callable[[Array], Array]
) -> Float[Array, "n terms"]:
    """Upper bounds of νⱼ = ‖aʲ‖ for each row's cluster."""
    powers = [a]
    for _ in range(_STEP - 1):
        powers.append(powers[-1] @ a)
    one = jnp.ones(len(a), a.real.dtype)
    norms = jnp.stack([one, *map(norm, powers[:-1])], axis=1)
    # The others follow from the norms of the eighth power and its squares.
    square = powers[-1]
    while norms.shape[1] < _TERMS:
        norms = jnp.concatenate([norms, norms * norm(square)[:, None]], axis=1)
        square = square @ square
    return norms[:, :_TERMS]


def _radius(
    f: Callable[[Array], Array], d: Complex[Array, "n n"], same: Bool[Array, "n n"]
) -> tuple[Float[Array, " n"], Bool[Array, " n"]]:
    """The radius of the circle on which f is expanded round each cluster, and whether the
    series is good enough.

    The coefficients from a circle of radius r are known to eps max|f|, scaled by rʲ, and
    they end if f is analytic well beyond it. So the rounding errors of a series in
    N = D − σ are those of Σ ‖N/r‖ʲ, with the norms of powers; its derivatives contain
    every way to put one or two other matrices between the factors. The best circle has
    the smallest such sum for second derivatives. It is good enough if value, first and
    second derivatives keep a fair part of their digits, measured against Σ|bⱼ|‖Nʲ‖.
    """
    real = d.real.dtype
    eps = float(jnp.finfo(real).eps)
    centre, several = _centres(d, same)
    block = same & several[:, None]
    shifted = jnp.where(block, d, 0) - jnp.diag(jnp.where(several, centre, 0))

    def norm(x: Array) -> Array:
        rows = jnp.sum(jnp.abs(x), axis=1)
        return jnp.max(jnp.where(same, rows, 0), axis=1)

    scale = norm(shifted)
    scale = jnp.where(scale > 0, scale, 1)
    norms = _norms_of_powers(shifted / scale[:, None].astype(d.dtype), norm)
    # Σ_{a+b=j−1} νₐν_b and Σ_{a+b+c=j−2} νₐν_bν_c, by matrices of shifted rows.
    lag = np.arange(_TERMS)[:, None] - np.arange(_TERMS)[None, :] - 1
    shift = jnp.where(lag >= 0, norms[:, np.maximum(lag, 0)], 0)
    once = jnp.einsum("njk,nk->nj", shift, norms)
    twice = jnp.einsum("njk,nk->nj", shift, once)
    weights = jnp.stack([norms, once, twice], axis=1)

    values = jnp.diagonal(d)
    spread = jnp.max(jnp.where(same, jnp.abs(values - centre[:, None]), 0), axis=1)
    # f has a scale of its own: about one, or the distance of σ from zero.
    own, absolute = np.geomspace(1e-3, 2, 16), np.geomspace(eps**0.5, 4, 24)
    largest = jnp.maximum(jnp.max(jnp.abs(values)), 1)
    radii = jnp.concatenate(
        [
            jnp.abs(centre)[:, None] * jnp.asarray(own, real),
            jnp.broadcast_to(largest * jnp.asarray(absolute, real), (len(values), 24)),
        ],
        axis=1,
    )
    radii = jnp.maximum(radii, 1.5 * spread[:, None])
    radii = jnp.where(radii > 0, radii, largest)

    # For a single eigenvalue, the circle is a point, where f must exist anyway.
    tried = jnp.where(several[:, None], radii, 0)[..., None].astype(d.dtype)
    sampled = f(centre[:, None, None] + tried * _circle(d.dtype))
    most = jnp.max(jnp.abs(sampled), axis=-1)
    most = jnp.where(most > 0, most, 1)
    sampled = sampled / most[..., None].astype(d.dtype)
    b = jnp.abs(jnp.fft.fft(sampled, axis=-1)) / _POINTS
    noise = 4 * eps + jnp.max(b[..., _TERMS:], axis=-1)
    # (scale/r)ʲ, bounded so that zero weights still make it zero.
    ratio = (scale[:, None] / radii)[..., None]
    top = 0.5 * float(np.log(float(jnp.finfo(real).max)))
    growth = jnp.exp(jnp.minimum(jnp.log(ratio) * jnp.arange(_TERMS, dtype=real), top))
    unit = ratio ** -jnp.arange(3, dtype=real)
    error = noise[..., None] * unit * jnp.einsum("nrj,npj->nrp", growth, weights)
    natural = unit * jnp.einsum("nrj,npj->nrp", growth * b[..., :_TERMS], weights)
    relative = error / jnp.maximum(natural, 1)
    tolerance = jnp.asarray([eps ** (2 / 3), eps ** (1 / 2), eps ** (1 / 3)], real)
    good = jnp.all(relative <= tolerance, axis=-1)
    absolute = error[..., 2] * most / radii**2
    best = jnp.argmin(jnp.where(good, absolute, jnp.inf), axis=1)[:, None]
    radius = jnp.take_along_axis(radii, best, axis=1)[:, 0]
    return jnp.where(several, radius, 0), jnp.any(good, axis=1) | ~several


def _continuous(
    f: Callable[[Array], Array], t: Complex[Array, "n n"], now: Partition
) -> Bool[Array, " n"]:
    """Whether f is smooth wherever rounding may move an ill-conditioned eigenvalue.

    If two nearly defective eigenvalues lie on both sides of a branch cut, their terms,
    each as large as its condition number, do not add up to a function of A.
    """
    real = t.real.dtype
    eps = float(jnp.finfo(real).eps)
    norms = projector_norms(now)
    step = 10 * eps * norms * jnp.max(jnp.abs(t))
    values = jnp.diagonal(t)[:, None]
    around = step[:, None].astype(t.dtype) * _circle(t.dtype)[:: _POINTS // 8]
    middle, rim = f(values), f(values + around)
    bend = jnp.max(jnp.abs(rim[:, :4] + rim[:, 4:] - 2 * middle), axis=1)
    slope = jnp.max(jnp.abs(rim[:, :4] - rim[:, 4:]), axis=1)
    smooth = bend <= 0.1 * slope + eps**0.5 * jnp.abs(middle[:, 0])
    several = jnp.sum(now.same, axis=1) > 1
    return smooth | several | (norms <= eps ** (-1 / 6))


def _of_blocks(
    f: Callable[[Array], Array],
    d: Complex[Array, "n n"],
    same: Bool[Array, "n n"],
    radius: Float[Array, " n"],
) -> Complex[Array, "n n"]:
    """f(D), differentiable with respect to D and to what f closes over.

    The centre and the radius of a series are held constant: another choice gives the same
    sum.
    """
    n = d.shape[-1]
    centre, several = _centres(jax.lax.stop_gradient(d), same)
    eye = jnp.eye(n, dtype=d.dtype)
    first = f(jnp.where(several, centre, jnp.diagonal(d)))
    circle = centre[:, None] + radius[:, None].astype(d.dtype) * _circle(d.dtype)
    b = jnp.fft.fft(f(circle), axis=-1)[:, :_TERMS] / _POINTS
    b = jnp.where(several[:, None], b, 0).at[:, 0].set(first)

    def series(d: Array, b: Array) -> Array:
        divisor = jnp.where(several, radius, 1).astype(d.dtype)[:, None]
        block = same & several[:, None]
        shifted = jnp.where(block, d - jnp.diag(centre), 0) / divisor
        powers = [eye, shifted]
        for _ in range(_STEP - 2):
            powers.append(powers[-1] @ shifted)
        step = powers[-1] @ shifted
        # All rows of a cluster have the same coefficients, which so commute with D
        # (Paterson and Stockmeyer 1973).
        groups = jnp.einsum("nhl,lnm->hnm", b.reshape(n, -1, _STEP), jnp.stack(powers))
        total, _ = jax.lax.scan(
            lambda total, group: (group + step @ total, None),
            jnp.zeros_like(d),
            groups,
            reverse=True,
        )
        return total

    def simple(d: Array, b: Array) -> Array:
        del d
        return jnp.diag(b[:, 0])

    return jax.lax.cond(jnp.any(several), series, simple, d, b)


def spectral_projector(
    a: Inexact[ArrayLike, "*batch n n"],
    select: Callable[[Complex[Array, ""]], Bool[ArrayLike, ""]],
    *,
    throw: bool | None = None,
) -> Complex[Array, "*batch n n"]:
    """The spectral projector of the selected eigenvalues of general square matrices.

    P commutes with A, P² = P, and its range is the invariant subspace of the selected
    eigenvalues. It is differentiable with respect to `a` in either mode and to any order,
    even if eigenvalues within the selected part, or within the rest, are repeated or
    defective: divisions are only by differences between the two parts.

    **Arguments:**

    - `a`: shape `(..., n, n)`; dtypes as in [`implicit_eig.funm`][].
    - `select`: returns a boolean, whether a complex eigenvalue is selected.
    - `throw`: what happens if the selection cuts through eigenvalues that cannot be told
        apart, because they agree, or are so nearly defective that P is lost in the
        rounding errors of `a`. `None`: an error in a plain call, NaN for that matrix
        in a compiled program. `True`: an error everywhere. `False`: NaN.

    **Returns:** shape `(..., n, n)`, complex: the identity if all are selected, zero if
    none is, NaN for a matrix that contains NaN or inf.

    **Raises:** `ValueError` for a non-square `a`, `TypeError` for a dtype that LAPACK
    does not have or a `select` that does not give a boolean scalar.
    `NotImplementedError` on backends other than the CPU.

    Costs O(n³), about an eigendecomposition.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 0.0, 5.0]])
        p = ieig.spectral_projector(a, lambda z: z.real < 3)
        assert jnp.allclose(p @ p, p)
        hessian = jax.hessian(
            lambda a: ieig.spectral_projector(a, lambda z: z.real < 3)[0, 2].real
        )(a)
        ```

    ??? cite "Reference"

        The Riccati and Sylvester equations of the two parts: Stewart, SIAM Review 15
        (1973).
    """
    a = as_matrix(a, "a")
    check_throw(throw)
    if not callable(select):
        raise TypeError(f"`select` must be a function of an eigenvalue; got {select!r}.")
    traced, answer = _traced(select, a)
    if answer is None or answer.shape != () or answer.dtype != jnp.bool_:
        raise TypeError(f"`select` must give a boolean scalar; got {answer}.")
    projector, lost = _spectral_projector(a, traced)
    if throw is False:
        return projector
    known = value_of(lost)
    if known is not None and known.any():
        raise eqx.EquinoxRuntimeError(_CUT)
    return raise_if(projector, (jnp.any(lost), _CUT)) if throw else projector


_CUT = (
    "The selection of `spectral_projector` cuts through eigenvalues that cannot be told "
    "apart: a selected and an unselected one agree to rounding, or are so nearly "
    "defective that no projector can be computed. Select both or neither, or take "
    "throw=False to get NaN."
)


@Program
def _spectral_projector(a: Array, select: TracedFunction) -> tuple[Array, Array]:
    dtype = complex_dtype(a.dtype)
    if a.size == 0:
        return jnp.zeros(a.shape, dtype), jnp.zeros(a.shape[:-2], bool)
    n = a.shape[-1]

    def one(a: Array) -> tuple[Array, Array]:
        finite = jnp.all(jnp.isfinite(a))
        q, t = schur(jnp.where(finite, a, 0))
        selected = jax.vmap(select)(jnp.diagonal(t))
        same = selected[:, None] == selected[None, :]
        partition = partitioned(t, same)
        # ‖Ṗ‖ is about ‖Ȧ‖ ‖P‖ / sep. P is lost if rounding errors Ȧ leave it fewer than
        # two digits.
        eps = n * float(jnp.finfo(dtype).eps)
        growth = jnp.max(projector_norms(partition))
        inverse = jnp.max(inverse_separations(partition))
        kept = eps * jnp.linalg.norm(t) * growth * inverse <= 1e-2
        lost = ~kept & ~jnp.all(same)
        z, _, w = block_diagonal(a, q, partition)
        projector = (z * selected.astype(dtype)) @ w
        return _nan_unless(finite & ~lost, projector, a), lost & finite

    return _batched(one, a)
