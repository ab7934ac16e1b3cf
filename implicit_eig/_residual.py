"""One eigenpair as the root of a function, for implicit differentiation elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, ArrayLike, Inexact, PyTree

from ._operator import as_pencil, Domain
from ._spectral import check_vector


def eigenpair_residual(
    pair: tuple[PyTree[ArrayLike], ArrayLike],
    operator: Any,
    *,
    functional: PyTree[ArrayLike] | None = None,
    mass: Any = None,
) -> tuple[PyTree[Inexact[Array, "..."]], Inexact[Array, ""]]:
    """`(A v − λ B v, cᴴv − 1)`, which is zero at an eigenpair with the scale `cᴴv = 1`.

    Use it with `jaxopt.implicit_diff.custom_root`, `jax.lax.custom_root`,
    `optimistix.root_find` and Newton's method. It maps a pair to a value of the same
    structure, dtypes and number of unknowns, is holomorphic in both (no conjugate of v or
    λ occurs), and its Jacobian `[[A − λB, −Bv], [cᴴ, 0]]` is regular at every simple
    eigenvalue with `cᴴv ≠ 0` (Rayleigh's equations, bordered; Keller 1977).

    **Arguments:**

    - `pair`: `(v, λ)`: an eigenvector, structured like the operator's domain, and a
        scalar; both real, or both complex (a real operator may have either).
    - `operator`: A: anything [`implicit_eig.eigs`][] takes. Inside a function of
        parameters, make it there, so that derivatives reach them.
    - `functional`: c, a vector of the domain, of the dtype of v. Default: `v/‖v‖²` with
        v held constant: the last component is then zero for any v, which keeps its
        scale, and derivatives have no component along it, `vᴴv̇ = 0`. Scale v by a
        traced gauge afterwards to get that gauge's derivatives.
    - `mass`: B, like `operator`.

    **Returns:** `(A v − λ B v, cᴴv − 1)`. Differentiable in all arguments, but not in v
    through the default c.

    **Raises:** `TypeError` for a real v with a complex λ or operator, or a complex v with
    a real λ; `ValueError` for an operator or `functional` of another shape.

    **Cost:** one product with A and B (two for a complex v and a real operator).

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def largest(a):
            w, v = jnp.linalg.eig(jax.lax.stop_gradient(a))  # any solver
            i = jnp.argmax(w.real)

            def tangent(g, y):  # g is the linearised residual
                flat, back = jax.flatten_util.ravel_pytree(y)
                matrix = jax.vmap(lambda e: jax.flatten_util.ravel_pytree(g(back(e)))[0])
                eye = jnp.eye(flat.size, dtype=flat.dtype)
                return back(jnp.linalg.solve(matrix(eye).T, flat))

            pair = v[:, i], w[i]
            residual = lambda pair: ieig.eigenpair_residual(pair, a)
            return jax.lax.custom_root(residual, pair, lambda f, x: x, tangent)

        jax.grad(lambda a: largest(a)[1].real)(jnp.diag(jnp.arange(1.0, 4.0)))
        ```
    """
    vector, value = pair
    vector, value = jtu.tree_map(jnp.asarray, vector), jnp.asarray(value)
    domain = Domain.of(jax.eval_shape(lambda: vector))
    if value.shape != ():
        raise ValueError(f"The eigenvalue must be a scalar; got shape {value.shape}.")
    if value.dtype != domain.dtype:
        raise TypeError(
            "The eigenvector and the eigenvalue of `pair` must be of one dtype; got "
            f"{domain.dtype} and {value.dtype}."
        )
    pencil = as_pencil(operator, mass, vector if callable(operator) else None)
    check_vector(vector, pencil.domain, "The eigenvector of `pair`")
    v = domain.flatten(vector)
    if np.promote_types(pencil.dtype, v.dtype) != v.dtype:
        raise TypeError(
            f"An operator of dtype {pencil.dtype} has no pair of dtype {v.dtype}."
        )
    if functional is None:
        c = jax.lax.stop_gradient(v)
        c = c / jnp.sum(c.conj() * c)
    else:
        check_vector(functional, pencil.domain, "`functional`")
        c = domain.flatten(jtu.tree_map(jnp.asarray, functional)).astype(v.dtype)
    outside = pencil.mm(v[:, None]) - value * pencil.mass_mm(v[:, None])
    return domain.unflatten(outside[:, 0]), jnp.sum(c.conj() * v) - 1
