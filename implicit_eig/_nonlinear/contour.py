"""All eigenvalues in a region, by contour integrals (Beyn, Linear Algebra Appl. 436,
2012)."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, Int

from .._batch import each
from .._check import check_integer
from .._numerics import device_eig, inv
from .._solution import RESULTS
from .newton import inverse_at, Newton, norms_at
from .operator import NonlinearOperator
from .region import AbstractRegion


class ContourResult(NamedTuple):
    """The pairs inside come first, by real part, the largest first; `count` is that of
    the argument principle, NaN if no trace is known."""

    eigenvalues: Complex[Array, " q"]
    vectors: Complex[Array, "n q"]
    errors: Float[Array, " q"]
    inside: Bool[Array, " q"]
    merged: Bool[Array, " q"]
    count: Complex[Array, ""]
    num_solves: Int[Array, ""]
    result: RESULTS  # of the integrals: whether T is regular on the boundary


class Contour(eqx.Module):
    """Finds all pairs in a region from moments of T(z)⁻¹ along its boundary, whose
    singular vectors span the eigenvectors inside; then takes a few steps of Newton's
    method for each pair.

    One factorisation of T per node (on accelerators all of them in one batch). If T is a
    matrix, the eigenvalues inside are counted independently, by the argument principle,
    `(1/2πi) ∮ tr T(z)⁻¹T′(z) dz`; if the count differs from what was found, the run has
    not converged: take more nodes.

    **Arguments:**

    - `num_nodes`: nodes on the boundary; eigenvalues close to it need many.
    - `num_moments`: pairs of moments; more than n pairs inside need more than one.
    - `linear_solver`: any lineax solver for T(z). Default: a factorisation, if entries
        are known.
    - `polish`: [`implicit_eig.Newton`][].

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        T = lambda z: (z + 1 + 2 * jnp.exp(-z)).reshape(1, 1)  # a delay equation
        contour = ieig.Contour(num_nodes=64)
        s = ieig.nonlinear_eigs(T, 2, region=ieig.Disk(0.0, 3.0), eigensolver=contour)
        s.stats["num_inside"]
        ```
    """

    num_nodes: int = eqx.field(static=True, default=64)
    num_moments: int = eqx.field(static=True, default=2)
    linear_solver: lx.AbstractLinearSolver | None = None
    polish: Newton = Newton(max_steps=8)

    def __check_init__(self):
        check_integer("num_nodes", self.num_nodes, 4)
        check_integer("num_moments", self.num_moments, 1)

    def run(
        self, operator: NonlinearOperator, region: AbstractRegion, k: int
    ) -> ContourResult:
        """Runs with room for k pairs, and a few more to see that there are no more."""
        n, dtype = operator.n, operator.dtype
        moments = self.num_moments
        columns = min(n, -(-(k + 4) // moments))
        probes = jax.random.normal(jax.random.key(0), (n, columns), dtype)
        nodes, weights = region.quadrature(self.num_nodes)
        center, radius = region.scale()
        dense = isinstance(operator.at(nodes[0].astype(dtype)), lx.MatrixLinearOperator)

        def at(z: Array) -> tuple[Array, Array]:
            inverse = inverse_at(operator, z, self.linear_solver)
            trace = jnp.asarray(jnp.nan, dtype)
            if dense:
                trace = jnp.trace(inverse.mm(operator.derivative(z).matrix))
            return inverse.mm(probes), trace

        nodes = nodes.astype(dtype)
        weights = weights.astype(dtype) / jnp.asarray(2j * jnp.pi, dtype)
        images, traces = each(at, nodes)
        center, radius = center.astype(dtype), radius.astype(probes.real.dtype)
        units = (nodes - center) / radius.astype(dtype)
        powers = jnp.stack([units**i for i in range(2 * moments)], axis=1)
        values, vectors = _pairs_of_moments(
            jnp.einsum("z,zp,znl->pnl", weights, powers, images)
        )
        values = center + radius.astype(dtype) * values

        def polished(pair: tuple) -> tuple[Array, ...]:
            z, v = pair
            out = self.polish.run(operator, z, v)
            good = out.converged & (jnp.abs(out.eigenvalue - z) <= radius)
            return out.eigenvalue, out.vector, out.error, good, out.merged

        rows = values, vectors.T
        out = each(polished, rows)
        values, vectors, errors, good, merged = out
        vectors = vectors.T
        good = good & region.contains(values) & ~_twice(values, vectors, good, radius)
        # If real parts are equal up to rounding, imaginary parts decide.
        tilted = values.real + float(jnp.finfo(dtype).eps) ** 0.5 * values.imag
        front = jnp.argsort(jnp.where(good, -tilted, jnp.inf))
        return ContourResult(
            values[front],
            vectors[:, front],
            errors[front],
            good[front],
            merged[front],
            jnp.sum(weights * traces),
            jnp.asarray(self.num_nodes),
            _of_integrals(operator, nodes, images),
        )


def _of_integrals(
    operator: NonlinearOperator,
    nodes: Complex[Array, " z"],
    images: Complex[Array, "z n l"],
) -> RESULTS:
    regular = jnp.all(jnp.isfinite(images), axis=(1, 2))
    finite = jnp.isfinite(norms_at(operator, nodes[0])[0])
    result = RESULTS.where(finite, RESULTS.singular, RESULTS.nonfinite)
    result = RESULTS.where(jnp.any(regular), RESULTS.not_converged, result)
    return RESULTS.where(jnp.all(regular), RESULTS.successful, result)


def _pairs_of_moments(
    found: Complex[Array, "p n l"],
) -> tuple[Complex[Array, " q"], Complex[Array, "n q"]]:
    """Eigenvalues, in units of the region, and unit vectors, from the block Hankel
    matrices of p moments (Beyn 2012, section 5). Missing eigenvalues are set to 10."""
    half, n, dtype = found.shape[0] // 2, found.shape[1], found.dtype

    def hankel(first: int) -> Array:
        rows = [
            jnp.concatenate([found[first + i + j] for j in range(half)], axis=1)
            for i in range(half)
        ]
        return jnp.concatenate(rows)

    u, s, vh = jnp.linalg.svd(hankel(0), full_matrices=False)
    kept = s > 1e3 * float(jnp.finfo(dtype).eps) * s[0]
    inside = u.conj().T @ hankel(1) @ vh.conj().T / jnp.where(kept, s, 1).astype(dtype)
    both = kept[:, None] & kept[None, :]
    # Eigenvalues that are not kept are moved outside.
    far = 10 * jnp.eye(s.size, dtype=dtype)
    values, y = device_eig(jnp.where(both, inside, far))
    vectors = u[:n] @ y
    size = jnp.linalg.norm(vectors, axis=0)
    return values, vectors / jnp.where(size > 0, size, 1).astype(dtype)


def _twice(
    values: Complex[Array, " q"],
    vectors: Complex[Array, "n q"],
    good: Bool[Array, " q"],
    radius: Float[Array, ""],
) -> Bool[Array, " q"]:
    """Which pairs repeat an earlier one. Copies of a repeated eigenvalue do not count:
    their vectors are independent."""
    eps = float(jnp.finfo(values.dtype).eps)
    size = jnp.maximum(jnp.abs(values), radius)
    near = jnp.abs(values[:, None] - values[None, :]) <= eps**0.5 * size
    near = near & good[None, :] & good[:, None]

    # Examines the part of each vector outside the span of earlier ones near it.
    def step(i: Array, state: tuple) -> tuple:
        kept, repeated = state
        weights = jnp.where(kept & near[i] & (jnp.arange(kept.size) < i), 1.0, 0.0)
        basis = vectors * weights.astype(vectors.dtype)
        eye = jnp.diag(jnp.where(weights > 0, 0.0, 1.0)).astype(vectors.dtype)
        c = inv(basis.conj().T @ basis + eye) @ (basis.conj().T @ vectors[:, i])
        rest = jnp.linalg.norm(vectors[:, i] - basis @ c)
        again = good[i] & jnp.any(weights > 0) & (rest <= eps**0.25)
        return kept.at[i].set(good[i] & ~again), repeated.at[i].set(again)

    none = jnp.zeros(values.shape, bool)
    return jax.lax.fori_loop(0, values.size, step, (none, none))[1]
