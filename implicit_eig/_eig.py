"""Full spectra of dense matrices."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Complex, Inexact

from ._ad import nan_tangent, root
from ._gauge import (
    AbstractGauge,
    as_gauge,
    Gauge,
    vanishing,
    watched_phases,
    without_gauge,
)
from ._numerics import eig_by_qr
from ._operator import (
    as_matrix,
    complex_dtype,
    Domain,
    of_moderate_size,
    times_real,
    without_denormals,
)
from ._program import Program
from ._rule import (
    blur,
    check_ties,
    default_tie_rtol,
    eigen_of_block,
    inverse_of_conjugates,
    tied,
    Ties,
)


Method = Literal["lapack", "qr"]


class EigResult(NamedTuple):
    """Eigenvalues `(..., n)` and eigenvectors `(..., n, n)`, vectors in columns.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        w, v = ieig.eig(a)
        assert jnp.allclose(a @ v, v * w, atol=1e-5)
        ```
    """

    eigenvalues: Complex[Array, "*batch n"]
    eigenvectors: Complex[Array, "*batch n n"]


def eig(
    a: Inexact[ArrayLike, "*batch n n"],
    *,
    gauge: Gauge | None = None,
    ties: Ties = "nan",
    tie_rtol: float | None = None,
    method: Method | None = None,
) -> EigResult:
    """Eigenvalues and eigenvectors of general square matrices, differentiable.

    Values and order are those of `jnp.linalg.eig`, unless `method="qr"`: conjugate pairs
    of real matrices stand side by side, the one with positive imaginary part first.
    Vectors are brought into the gauge. Derivatives of any order in either mode take one
    linear solve with the matrix of eigenvectors: O(n³) altogether. The whole spectrum is
    the invariant subspace X = I, so only the small eigenvalue problem is left of the
    rule.

    **Arguments:**

    - `a`: shape `(..., n, n)`, real or complex, float32 or float64 precision; integers
        are promoted.
    - `gauge`: the scale of the vectors; default
        [`implicit_eig.LargestReal`][]: unit 2-norm, largest entry real and positive.
        If none is given, the gradient of a loss that depends on the phase warns
        ([`implicit_eig.GaugeDependenceWarning`][]).
    - `ties`: the derivative of a vector whose eigenvalue is repeated: `"nan"`: NaN, in
        the tangents of exactly those columns; `"drop"`: without the coupling inside the
        tie, right for functions that do not change when tied vectors are mixed.
    - `tie_rtol`: eigenvalues tie when their gap is at most `tie_rtol · max|λ|`. Default:
        `10 n eps`.
    - `method`: `"lapack"` (the default) is `jnp.linalg.eig`: LAPACK on CPUs; on GPUs
        cuSOLVER if it is recent enough, else the host. `"qr"` is for many matrices of
        order 64 at most: a QR iteration in XLA for the whole batch at once, which never
        leaves the device, not even for derivatives. The order differs from LAPACK's,
        except for conjugate pairs; backward errors are of LAPACK's size. A matrix whose
        iteration does not converge gives NaN. It uses Francis' double shift, or a single
        one for complex matrices (Golub & Van Loan 2013, sections 7.4 and 7.5), with
        deflation as in LAPACK's `lahqr` (Ahues & Tisseur 1997).

    A single one of several tied eigenvalues has no derivative; only functions symmetric
    in them have. In reverse mode, cotangents that differ inside a tie give NaN, unless
    `ties="drop"`. In forward mode, tangents are the diagonal of `V⁻¹ȧV`, in the basis of
    the tied vectors that LAPACK chose: only their sums over a tie mean anything.

    A pair that rounding cannot tell from a defective one, because a change E of `a` by
    `10 eps ‖a‖` merges its eigenvalue with another one (`κ‖E‖` is at least their gap),
    has NaN derivatives, for both vector and value; so does a vector whose derivative
    would have fewer than two correct digits. [`implicit_eig.funm`][] and
    [`implicit_eig.invariant_subspace`][] have derivatives there.

    **Returns:** `EigResult(eigenvalues, eigenvectors)`, complex.

    **Raises:** `ValueError` for a non-square `a`, `TypeError` for a dtype that LAPACK
    does not have. NaN or inf in a matrix gives NaN for that matrix.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        w, v = ieig.eig(a)
        g = jax.grad(lambda a: jnp.abs(ieig.eig(a).eigenvectors[0, 0]))(a)
        ```
    """
    a = as_matrix(a, "a")
    check_ties(ties, tie_rtol)
    n = a.shape[-1]
    gauge = as_gauge(gauge, Domain.of(jax.ShapeDtypeStruct((n,), a.dtype)))
    if tie_rtol is None:
        tie_rtol = default_tie_rtol(n, a.dtype)
    found = _eig(a, gauge, ties, tie_rtol, _method(method))
    (v,) = watched_phases(gauge, found.eigenvectors, axes=1)
    return EigResult(found.eigenvalues, v)


def _method(method: Method | None) -> Method:
    if method not in (None, "lapack", "qr"):
        raise ValueError(f"`method` must be None, 'lapack' or 'qr'; got {method!r}.")
    return method or "lapack"


@Program
def _eig(
    a: Array, gauge: AbstractGauge, ties: Ties, tie_rtol: float, method: Method
) -> EigResult:
    if a.size == 0:
        dtype = complex_dtype(a.dtype)
        return EigResult(jnp.zeros(a.shape[:-1], dtype), jnp.zeros(a.shape, dtype))
    active = jnp.ones(a.shape[-1], bool)
    # LAPACK's order of conjugate pairs; other libraries do not guarantee it.
    conjugates = not jnp.iscomplexobj(a) and jax.default_backend() == "cpu"

    def one(a: Array, w: Array, v: Array, *inverse: Array) -> tuple[Array, Array]:
        if conjugates and not inverse:
            inverse = (jax.lax.stop_gradient(inverse_of_conjugates(v, w)),)
        w, v, _, lost = eigen_of_block(
            a,
            w,
            v,
            *inverse,
            active=active,
            tie_rtol=tie_rtol,
            drop=ties == "drop",
        )
        v = jax.vmap(gauge, in_axes=1, out_axes=1)(v)
        in_tie = jnp.any(tied(w, active, tie_rtol), axis=0) & (ties == "nan")
        fixed = jax.lax.stop_gradient((w, a))
        error = float(jnp.finfo(a.dtype).eps) * jnp.linalg.norm(fixed[1])
        scaleless = vanishing(gauge, v, blur(fixed[0], active, tie_rtol, error))
        v = v + jnp.where(scaleless, jnp.nan, 0).astype(v.dtype)
        v = nan_tangent(v, lost | in_tie | scaleless, nowhere=jnp.all(in_tie))
        return nan_tangent(w, lost), v

    a, size = of_moderate_size(without_denormals(a))
    find = eig_by_qr if method == "qr" else jnp.linalg.eig
    found = find(jax.lax.stop_gradient(a))
    flat = [x.reshape((-1, *x.shape[a.ndim - 2 :])) for x in (a, *found)]
    w, v = jax.vmap(one)(*flat)
    v = without_gauge(gauge, v)
    w = times_real(w.reshape(a.shape[:-1]), size[..., 0])
    return EigResult(w, v.reshape(a.shape))


@root
def _eigenvalues(_, _t, a, t_a, *, method):
    return jax.jvp(lambda a: eig(a, method=method).eigenvalues, (a,), (t_a,))[1]


@functools.partial(Program, name="eigvals")
def _eigvals(
    a: Inexact[Array, "*batch n n"], method: Method
) -> Complex[Array, "*batch n"]:
    a = without_denormals(a)
    moderate, size = of_moderate_size(jax.lax.stop_gradient(a))
    if method == "qr":
        w = eig_by_qr(moderate).values
    else:
        w = jnp.linalg.eigvals(moderate)
    return _eigenvalues(times_real(w, size[..., 0]), a, method=method)


def eigvals(
    a: Inexact[ArrayLike, "*batch n n"], *, method: Method | None = None
) -> Complex[Array, "*batch n"]:
    """Eigenvalues of general square matrices, differentiable to any order.

    Without a derivative this is `jnp.linalg.eigvals`; a derivative costs one full
    eigendecomposition.

    **Arguments:**

    - `a`: shape `(..., n, n)`; dtypes as in [`implicit_eig.eig`][].
    - `method`: as in [`implicit_eig.eig`][].

    **Returns:** shape `(..., n)`, complex. At a repeated eigenvalue, first derivatives
    are right for functions that are symmetric in the tied values; those of a single one
    are NaN in reverse mode, and in forward mode only their sum means anything. Second
    derivatives are NaN.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        abscissa = lambda a: jnp.max(ieig.eigvals(a).real)
        hessian = jax.hessian(abscissa)(a)
        ```
    """
    a, method = as_matrix(a, "a"), _method(method)
    if a.size == 0:
        return jnp.zeros(a.shape[:-1], complex_dtype(a.dtype))
    return _eigvals(a, method)
