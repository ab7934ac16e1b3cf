"""Sparse matrices of SciPy and of JAX as triplets."""

import sys
from typing import Any

import jax
import numpy as np
from jax.core import Tracer


def is_sparse(x: Any) -> bool:
    # Anyone who holds such a matrix has imported its module; importing it here would cost
    # every user of the package.
    scipy, own = (sys.modules.get(n) for n in ("scipy.sparse", _JAX_SPARSE))
    return bool(scipy and scipy.issparse(x)) or bool(own and isinstance(x, own.JAXSparse))


_JAX_SPARSE = "jax.experimental.sparse"


def triplets(x: Any, name: str) -> tuple[Any, Any, Any, int]:
    """Values, rows, columns and the order of a square sparse matrix."""
    if len(x.shape) != 2 or x.shape[0] != x.shape[1]:
        raise ValueError(f"`{name}` must be square; got a matrix of shape {x.shape}.")
    if not isinstance(x, getattr(sys.modules.get(_JAX_SPARSE), "JAXSparse", ())):
        x = x.tocoo()
        return x.data, x.row, x.col, x.shape[0]
    module = sys.modules[_JAX_SPARSE]
    if isinstance(x, module.BCSR):
        with jax.ensure_compile_time_eval():  # indices that are known stay known
            x = x.to_bcoo()
    if not isinstance(x, module.BCOO):
        raise TypeError(
            f"`{name}` is a {type(x).__name__}; of jax.experimental.sparse, BCOO and "
            "BCSR are supported."
        )
    if x.n_batch or x.n_dense:
        raise ValueError(
            f"`{name}` must be a BCOO without batch and dense dimensions; got "
            f"n_batch={x.n_batch}, n_dense={x.n_dense}. Use `jax.vmap` for batches."
        )
    data, indices, n = x.data, x.indices, x.shape[0]
    if not isinstance(indices, Tracer):
        indices = np.asarray(indices)
        if (indices < 0).any():
            at = int(np.argmax((indices < 0).any(axis=1)))
            raise ValueError(
                f"`{name}` has a negative index: entry {at} stands at "
                f"{tuple(int(i) for i in indices[at])}."
            )
        inside = (indices < n).all(axis=1)
        if not inside.all():  # padding, which lies outside the matrix
            data, indices = data[np.flatnonzero(inside)], indices[inside]
    return data, indices[:, 0], indices[:, 1], n
