"""Costs made of eigenvalues: real numbers for an optimiser to bound."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from ._eig import eigvals
from ._eigs import eigs
from ._operator import as_matrix
from ._rule import default_tie_rtol


def spectral_abscissa(
    operator: Any, k: int = 2, **options: Any
) -> Float[Array, "*batch"]:
    """The largest real part of an eigenvalue, `max Re λ`, differentiable: `x' = A x` is
    stable if it is negative.

    The abscissa is not smooth where several eigenvalues attain it: its derivative there
    is the average of theirs, an element of Clarke's subdifferential if they have
    derivatives. For a conjugate pair, and for copies of an eigenvalue that is not
    defective, this is the derivative of their mean. If one of them is defective, the
    abscissa is not even Lipschitz (Burke & Overton, Math. Program. 90, 2001): NaN.

    **Arguments:**

    - `operator`: a dense array `(..., n, n)`, all of whose eigenvalues are found by
        [`implicit_eig.eigvals`][]; or what [`implicit_eig.eigs`][] takes.
    - `k`: for `eigs`: how many eigenvalues are found (n at most). Others that attain the
        maximum as well do not enter the average.
    - `options`: those of `eigs`, such as `mass` or `eigensolver`. With any of them, and
        for all operators except plain dense arrays, the eigenvalues come from
        `eigs(operator, k, "LR", **options)`, which raises or returns NaN as documented.

    **Returns:** real, of the shape of the batch. Eigenvalues attain the maximum if they
    do so to within `10 n eps max|λ|`, n the number of those found, or ten times their
    residuals if that is more.

    **Cost:** that of the eigenvalues, and of their derivatives.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def closed_loop(gain):
            a, b = jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([[0.0], [1.0]])
            return a - b @ gain[None]

        value, slope = jax.value_and_grad(
            lambda gain: ieig.spectral_abscissa(closed_loop(gain))
        )(jnp.array([3.0, 1.0]))
        ```
    """
    return _largest(operator, k, "LR", lambda w: w.real, options)


def spectral_radius(operator: Any, k: int = 2, **options: Any) -> Float[Array, "*batch"]:
    """The largest modulus of an eigenvalue, `max |λ|`, differentiable: `xₙ₊₁ = A xₙ` is
    stable if it is below one.

    Arguments, derivatives where several eigenvalues attain it, and NaN if one of them is
    defective are as in [`implicit_eig.spectral_abscissa`][], with `which="LM"`. The
    radius 0 has no derivative: NaN.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        jax.grad(ieig.spectral_radius)(jnp.array([[0.0, 1.0], [-0.5, 0.2]]))
        ```
    """
    return _largest(operator, k, "LM", _modulus, options)


def damping_ratio(operator: Any, k: int = 2, **options: Any) -> Float[Array, "*batch"]:
    """The least damping ratio of the modes, `min ζ` with `ζ = −Re λ / |λ|`,
    differentiable: 1 if all decay without oscillating, negative if one grows.

    An eigenvalue 0 has none: the result is NaN if one is found that rounding cannot tell
    from 0.

    Arguments, derivatives where several eigenvalues attain it, and NaN if one of them is
    defective are as in [`implicit_eig.spectral_abscissa`][], with the callable
    `which=lambda λ: Re λ / |λ|`. The least damped modes are not at the rim of the
    spectrum: for a large operator, pass a target near which to look for them,
    `sigma=1j * frequency`.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def oscillator(damping):  # ζ = damping / 2
            return jnp.array([[0.0, 1.0], [-1.0, -damping]])

        jax.grad(lambda damping: ieig.damping_ratio(oscillator(damping)))(0.2)
        ```
    """
    return -_largest(operator, k, _growth, _growth, options)


def _modulus(w: Array) -> Array:
    """|w|, without a derivative at 0."""
    return jnp.sqrt(w.real**2 + w.imag**2)


def _growth(w: Array) -> Array:
    """Re w / |w|, the damping ratio up to its sign."""
    return w.real / _modulus(w)


def _largest(
    operator: Any,
    k: int,
    which: Any,
    key: Callable[[Array], Array],
    options: dict[str, Any],
) -> Float[Array, "*batch"]:
    """The mean of the keys that are the largest to within rounding: its derivative is the
    average of theirs."""
    if not options and isinstance(operator, Array | np.ndarray):
        w = eigvals(as_matrix(operator, "operator"))
        residuals = jnp.zeros_like(w.real)
    else:
        found = eigs(operator, k, which, **options)
        w, residuals = found.eigenvalues, found.residuals
    attained = _attains(key, *jax.lax.stop_gradient((w, residuals)))
    # A key need not have a derivative at eigenvalues that do not attain the maximum.
    keys = jnp.where(attained, key(jnp.where(attained, w, 1)), 0)
    number = jnp.sum(attained, axis=-1, dtype=keys.dtype)
    return jnp.sum(keys, axis=-1) / number  # 0 / 0 if an eigenvalue is NaN


def _attains(
    key: Callable[[Array], Array],
    w: Complex[Array, "*batch m"],
    residuals: Float[Array, "*batch m"],
) -> Bool[Array, "*batch m"]:
    """Which of the keys may be the largest, as far as the eigenvalues are known. None if
    some key is NaN, or is not known at all."""
    rtol = jnp.maximum(10 * residuals, default_tie_rtol(w.shape[-1], w.dtype))
    error = rtol * jnp.max(jnp.abs(w), axis=-1, keepdims=True)
    keys = key(w)
    if key is _growth:
        error = error / jnp.abs(w)
        keys = jnp.where(error < 1, keys, jnp.nan)
    return keys + error >= jnp.max(keys - error, axis=-1, keepdims=True)
