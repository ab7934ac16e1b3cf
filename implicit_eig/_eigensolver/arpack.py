"""SciPy's ARPACK, on the host."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .._check import check_integer, check_real
from .._host import host_call
from .._krylov import start_vector
from .._operator import complex_dtype, entries, Pencil
from .._solution import RESULTS
from .._spectral import AbstractSelection, Named, Nearest
from .base import AbstractEigensolver
from .block import InvariantBlock, nonfinite


class Arpack(AbstractEigensolver):
    """ARPACK (Lehoucq, Sorensen and Yang 1998) as SciPy calls it, on the host: an
    alternative to [`implicit_eig.KrylovSchur`][] and [`implicit_eig.ShiftInvert`][].
    Needs SciPy (`implicit_eig[scipy]`).

    Takes dense matrices and operators whose entries are known (a `SparseOperator`, sums
    and multiples of these): a product with anything else is a JAX program, which a host
    function must not call. Solves standard problems with the selections of ARPACK (`"LM"
    "SM" "LR" "SR" "LI" "SI"`, and a target, by SuperLU). Residuals are computed from the
    pairs it returns; derivatives are this package's. Works under `jit` and `vmap`.

    **Arguments:**

    - `rtol`: ARPACK's `tol`; default `eps^(2/3)` of the precision. Above about
        `sqrt(eps)`, it may end before it has seen the best pairs: `RESULTS.unconfirmed`.
    - `krylov_dim`: its `ncv`; default `max(2k + 1, 20)`.
    - `max_restarts`: its `maxiter`; default `10 n`.

    !!! Example

        ```python
        import numpy as np, implicit_eig as ieig
        i = np.arange(300)
        op = ieig.SparseOperator(i + 1.0, i, i, n=300)
        ieig.eigs(op, k=2, which="LR", eigensolver=ieig.Arpack()).eigenvalues  # 300, 299
        ```
    """

    rtol: float | None = eqx.field(static=True, default=None)
    krylov_dim: int | None = eqx.field(static=True, default=None)
    max_restarts: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.rtol is not None:
            check_real("rtol", self.rtol, zero=True)
        for name in ("krylov_dim", "max_restarts"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)

    def compute(self, pencil, selection, k, *, v0, left, progress_meter):
        del progress_meter
        try:
            import scipy.sparse.linalg  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "`Arpack` needs SciPy: `pip install implicit_eig[scipy]`."
            ) from error
        if left or pencil.mass is not None:
            what = "left vectors" if left else "`mass=`"
            raise ValueError(
                f"`Arpack` does not do {what}; take `KrylovSchur`, `ShiftInvert` or "
                "`Dense`."
            )
        if k > pencil.n - 2:
            raise ValueError(
                f"`Arpack` finds at most n - 2 = {pencil.n - 2} pairs; got k = {k}."
            )
        which, sigma = _in_its_terms(selection)
        matrix = _entries(pencil)
        dtype = pencil.dtype
        eps = float(jnp.finfo(dtype).eps)
        # Room for one more: the partner of the last one.
        p = k + 1 if pencil.is_real else k
        v0 = start_vector(v0, pencil.n, dtype)
        shapes = [(p,), (pencil.n, p)]
        w, v, products = host_call(
            _eigs,
            (
                *(jax.ShapeDtypeStruct(s, complex_dtype(dtype)) for s in shapes),
                jax.ShapeDtypeStruct((), jnp.int32),
            ),
            *matrix,
            v0,
            jnp.zeros(()) if sigma is None else sigma,
            k=k,
            which=which,
            targeted=sigma is not None,
            tol=eps ** (2 / 3) if self.rtol is None else self.rtol,
            ncv=self.krylov_dim or min(max(2 * k + 1, 20), pencil.n),
            maxiter=self.max_restarts,
        )
        stats = {"num_matvecs": products}
        if sigma is not None:
            one = jnp.asarray(1)
            stats = {"num_solves": products, "num_factorizations": one}
        asked = 0.0 if self.rtol is None else 10 * self.rtol
        block = InvariantBlock.from_pairs(
            pencil, selection, k, w, v, rtol=max(asked, eps**0.5), stats=stats
        )
        finite = jnp.all(jnp.isfinite(matrix[0])) & jnp.all(jnp.isfinite(v0))
        if sigma is not None:
            finite = finite & jnp.isfinite(sigma)
        small = self.krylov_dim is not None and self.krylov_dim < max(2 * k + 1, 20)
        extreme = sigma is not None or selection.is_extreme(pencil.is_real)
        if small or asked > eps**0.5 or not extreme:
            # A Krylov space may miss pairs here just as it may in `KrylovSchur`.
            good = block.result == RESULTS.successful
            result = RESULTS.where(good, RESULTS.unconfirmed, block.result)
            block = eqx.tree_at(lambda b: b.result, block, result)
        return nonfinite(block, ~finite)


def _in_its_terms(selection: AbstractSelection):
    if isinstance(selection, Named):
        return selection.name, None
    if isinstance(selection, Nearest):
        return "LM", selection.sigma
    raise ValueError(
        "`Arpack` selects by LM, SM, LR, SR, LI, SI or a target; got "
        f"`which={selection!r}`."
    )


def _entries(pencil: Pencil):
    operator = pencil.operator
    if isinstance(operator, lx.MatrixLinearOperator):
        rows, columns = jnp.indices((pencil.n, pencil.n), dtype=jnp.int32)
        return operator.matrix.ravel(), rows.ravel(), columns.ravel()
    known = entries(operator)
    if known is None:
        raise ValueError(
            "`Arpack` needs the entries of a matrix; those of "
            f"{type(operator).__name__} are not known. Take `KrylovSchur`."
        )
    return known


def _eigs(values, rows, columns, v0, sigma, *, k, targeted, **options):
    """Solves the problems of a batch one after the other; `options` are SciPy's."""
    leading = [x.shape[:-1] for x in (values, rows, columns, v0)]
    shape = np.broadcast_shapes(*leading, sigma.shape)
    values, rows, columns, v0 = (
        np.broadcast_to(x, (*shape, x.shape[-1])) for x in (values, rows, columns, v0)
    )
    sigma = np.broadcast_to(sigma, shape)
    n, p = v0.shape[-1], k + 1 if np.isrealobj(values) else k
    dtype = np.result_type(values.dtype, np.complex64)
    w = np.full((*shape, p), np.nan, dtype)
    v = np.full((*shape, n, p), np.nan, dtype)
    products = np.zeros(shape, np.int32)
    for at in np.ndindex(shape):
        found = _one(
            values[at],
            rows[at],
            columns[at],
            v0[at],
            sigma[at] if targeted else None,
            k=k,
            **options,
        )
        size = min(found[0].size, p)
        w[(*at, slice(size))] = found[0][:size]
        v[(*at, slice(None), slice(size))] = found[1][:, :size]
        products[at] = found[2]
    return w, v, products


def _one(values, rows, columns, v0, sigma, *, k, **options):
    """Returns eigenvalues, vectors and the number of products (of solves, with a target).
    For real matrices, conjugate partners stand side by side, and none is missing."""
    import scipy.sparse
    import scipy.sparse.linalg

    # SciPy's type stubs do not cover these options.
    sp: Any = scipy.sparse
    spla: Any = scipy.sparse.linalg
    n, nothing = v0.size, (np.zeros(0), np.zeros((v0.size, 0)), 0)
    finite = [np.isfinite(x).all() for x in (values, v0, 0 if sigma is None else sigma)]
    if not all(finite):
        return nothing
    a, count = sp.csr_array((values, (rows, columns)), shape=(n, n)), [0]
    apply, dtype = a.__matmul__, a.dtype
    if sigma is not None:
        # Iterate on the inverse, in its own arithmetic: for a real matrix with a complex
        # target, SciPy's own mode is a different one.
        dtype = np.result_type(a.dtype, sigma)
        try:
            apply = spla.splu((a - sigma * sp.eye_array(n, dtype=dtype)).tocsc()).solve
        except RuntimeError:  # singular
            return nothing

    def counted(x):
        count[0] += 1
        return apply(x.astype(dtype))

    operator = spla.LinearOperator((n, n), counted, dtype=dtype)
    try:
        w, v = spla.eigs(operator, k, v0=v0.astype(dtype), **options)
    except spla.ArpackNoConvergence as error:
        w, v = error.eigenvalues, error.eigenvectors
    if sigma is not None:
        w = sigma + 1 / w
    if np.issubdtype(dtype, np.floating):
        w, v = _side_by_side(w, v)
    return w, v, count[0]


def _side_by_side(w, v):
    upper = np.flatnonzero(w.imag >= 0)
    lower = [
        j
        for j in np.flatnonzero(w.imag < 0)
        if not np.any(np.abs(w[upper] - w[j].conj()) <= 1e-8 * np.abs(w[j]))
    ]
    w = np.concatenate([w[upper], w[lower].conj()])
    v = np.concatenate([v[:, upper], v[:, lower].conj()], axis=1)
    pairs = [(x, y) for x, y in zip(w, v.T, strict=True)]
    out = []
    for x, y in pairs:
        out += [(x, y), (x.conj(), y.conj())] if x.imag > 0 else [(x, y)]
    if not out:
        return w, v
    return np.array([x for x, _ in out]), np.stack([y for _, y in out], axis=1)
