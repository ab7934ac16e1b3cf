"""Independent answers: finite differences, JAX's own derivative, dialled spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment


def flagged_eig(a):
    """JAX's own differentiable `eig`, where this JAX has it (0.10.1 and later)."""
    try:
        w, v = jax.lax.linalg.eig(
            a, compute_left_eigenvectors=False, enable_eigvec_derivs=True
        )
    except TypeError:
        pytest.skip("this JAX has no eigenvector derivatives to compare with")
    return w, v


def largest_real(v):
    """The default gauge, written a second way, for blocks of columns."""
    j = jnp.argmax(jnp.abs(jax.lax.stop_gradient(v)), axis=-2, keepdims=True)
    top = jnp.take_along_axis(v, j, axis=-2)
    norm = jnp.sqrt(jnp.sum(v.real**2 + v.imag**2, axis=-2, keepdims=True))
    phase = top / jnp.abs(top).astype(top.dtype)
    return v * (phase.conj() / norm.astype(v.dtype))


def align(v, reference):
    """Columns of v rotated to the phase of those of `reference`."""
    overlap = jnp.sum(reference.conj() * v, axis=-2, keepdims=True)
    return v * (overlap / jnp.abs(overlap).astype(v.dtype)).conj()


def central_difference(fn, x, direction, step=1e-6):
    """(f(x + h d) − f(x − h d)) / 2h, with the phases of vectors aligned to f(x) by the
    caller's `fn` where they are not fixed."""
    plus, minus = fn(x + step * direction), fn(x - step * direction)
    return jax.tree_util.tree_map(lambda p, m: (p - m) / (2 * step), plus, minus)


def random_matrix(seed, n, dtype=np.float64, batch=()):
    """Entries standard normal: non-normal, simple spectrum with probability one."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(*batch, n, n))
    if np.issubdtype(dtype, np.complexfloating):
        a = a + 1j * rng.normal(size=(*batch, n, n))
    return jnp.asarray(a.astype(dtype))


def with_spectrum(seed, eigenvalues, skew=1.0):
    """V diag(λ) V⁻¹ with a random non-orthogonal V = I + skew·N/√n."""
    rng = np.random.default_rng(seed)
    n = len(eigenvalues)
    v = np.eye(n) + skew * rng.normal(size=(n, n)) / np.sqrt(n)
    return jnp.asarray(v @ np.diag(eigenvalues) @ np.linalg.inv(v))


def matched(found, wanted):
    """Indices that put the eigenvalues `found` into the order of `wanted`, the distances
    least in sum: LAPACK promises no order, and rounding sorts conjugate pairs at will."""
    distance = np.abs(np.subtract.outer(np.asarray(wanted), np.asarray(found)))
    return linear_sum_assignment(distance)[1]


def relative(a, b):
    """‖a − b‖ / ‖b‖ over all leaves; ‖a‖ where b is zero."""
    a, b = (
        np.concatenate([np.ravel(np.asarray(x)) for x in jax.tree_util.tree_leaves(t)])
        for t in (a, b)
    )
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))


def real_dot(a, b):
    """Re⟨a, b⟩ in JAX's convention for cotangents (no conjugate), over all leaves."""
    pairs = zip(jax.tree_util.tree_leaves(a), jax.tree_util.tree_leaves(b), strict=True)
    return float(sum(np.sum(np.asarray(x) * np.asarray(y)).real for x, y in pairs))


def product_that_sees_dtypes():
    """(a, v) ↦ a @ v, and the set that collects the dtypes of all vectors it meets,
    tangents included."""
    seen = set()

    @jax.custom_jvp
    def product(a, v):
        seen.add(v.dtype)
        return a @ v

    @product.defjvp
    def _(primals, tangents):
        (a, v), (da, dv) = primals, tangents
        seen.update({v.dtype, dv.dtype})
        return product(a, v), da @ v + a @ dv

    return product, seen


def slow_but(kept, cases):
    """Parameters of which only the `kept` ones run in `make test`."""
    slow = pytest.mark.slow
    values = lambda c: c if isinstance(c, tuple) else (c,)
    return [c if c in kept else pytest.param(*values(c), marks=slow) for c in cases]
