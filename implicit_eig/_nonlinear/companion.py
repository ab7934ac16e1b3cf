"""Polynomials (A₀ + λA₁ + … + λᵈA_d) v = 0 by their first companion pencil

    x = (v, λv, …, λᵈ⁻¹v),    x_{i+1} = λ x_i,    −Σ A_i x_i = λ A_d x_{d−1},

in λ = γμ, so that A₀ and γᵈA_d are alike in size (Fan, Lin and Van Dooren, SIAM J. Matrix
Anal. Appl. 26, 2004). For matrices the pencil is assembled. For other coefficients it is
never formed: its inverse at a target takes one factorisation of P(σ), of order n.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Complex, Float, Inexact, PyTree

from .._eigensolver import Dense, KrylovSchur
from .._krylov import krylov_schur, norm_estimate, start_vector
from .._operator import Domain, entries, Pencil, promises_nothing, together
from .._progress_meter import NoProgressMeter
from .._rule import tagged_symmetric
from .._solution import RESULTS
from .._spectral import AbstractSelection, Shifted
from .operator import NonlinearOperator, untagged


@promises_nothing
class PolynomialOperator(lx.AbstractLinearOperator):
    """A₀ + zA₁ + … for coefficients that are not matrices."""

    coefficients: tuple[lx.AbstractLinearOperator, ...]
    z: Complex[Array, ""]

    def mv(self, vector):
        domain = Domain.of(self.in_structure())
        x = domain.flatten(vector)
        out = jnp.zeros_like(x)
        for a in self.coefficients[::-1]:
            out = self.z * out + Pencil(a, None).mv(x)
        return domain.unflatten(out)

    def as_matrix(self):
        n = self.in_size()
        out = jnp.zeros((n, n), self.z.dtype)
        for a in self.coefficients[::-1]:
            out = self.z * out + a.as_matrix().astype(out.dtype)
        return out

    def transpose(self):
        transposed = (a.transpose() for a in self.coefficients)
        return PolynomialOperator(tuple(transposed), self.z)

    def in_structure(self):
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, self.z.dtype),
            self.coefficients[0].in_structure(),
        )

    def out_structure(self):
        return self.in_structure()


@entries.register(PolynomialOperator)
def _(operator):
    terms = (entries(a * operator.z**i) for i, a in enumerate(operator.coefficients))
    return functools.reduce(together, terms)


class Companion(eqx.Module):
    """What a run on the companion pencil finds; `result` is that of the run."""

    eigenvalues: Complex[Array, " k"]
    vectors: Complex[Array, "n k"]
    sizes: Float[Array, " k"]  # relative to which the eigenvalues are known
    close: Bool[Array, " k"]  # those with neighbours, to be looked at again
    stats: dict[str, Any]
    result: RESULTS


def matrices_of(
    coefficients: tuple[lx.AbstractLinearOperator, ...],
) -> list[Array] | None:
    """The coefficients, if they are matrices."""
    matrices = [a.matrix for a in coefficients if isinstance(a, lx.MatrixLinearOperator)]
    return matrices if len(matrices) == len(coefficients) else None


def polynomial(
    coefficients: tuple[lx.AbstractLinearOperator, ...],
) -> Callable[[Array], Any]:
    """λ ↦ A₀ + λA₁ + …, a matrix if they all are."""
    matrices = matrices_of(coefficients)

    def at(z: Array) -> Any:
        if matrices is not None:
            return sum(a.astype(z.dtype) * z**i for i, a in enumerate(matrices))
        return PolynomialOperator(coefficients, z)

    return at


def polynomial_operator(
    coefficients: tuple[lx.AbstractLinearOperator, ...], like: PyTree | None = None
) -> tuple[NonlinearOperator, tuple[lx.AbstractLinearOperator, ...]]:
    """λ ↦ A₀ + λA₁ + …, symmetric if all coefficients are by their tags; and these, those
    with entries without the tags."""
    symmetric = all(tagged_symmetric(Pencil(a, None)) for a in coefficients)
    plain = tuple(untagged(a) for a in coefficients)
    operator = NonlinearOperator.of(polynomial(plain), like)
    return dataclasses.replace(operator, symmetric=symmetric), plain


def balance(sizes: list[Float[Array, ""]]) -> Float[Array, ""]:
    """γ, for coefficients of these norms."""
    ratio = sizes[0] / jnp.where(sizes[-1] > 0, sizes[-1], 1)
    fine = (sizes[0] > 0) & (sizes[-1] > 0) & jnp.isfinite(ratio)
    return jnp.where(fine, jnp.where(fine, ratio, 1) ** (1 / (len(sizes) - 1)), 1)


def dense_companion(
    matrices: list[Inexact[Array, "n n"]], selection: AbstractSelection, k: int
) -> Companion:
    """The k best of all finite eigenvalues."""
    d, n = len(matrices) - 1, matrices[0].shape[0]
    dtype = matrices[0].dtype
    gamma = balance([jnp.linalg.norm(a) for a in matrices])
    largest = jnp.maximum(*(jnp.linalg.norm(matrices[i]) for i in (0, -1)))
    largest = jnp.where(largest > 0, largest, 1)
    scaled = [a * (gamma**i / largest).astype(dtype) for i, a in enumerate(matrices)]
    eye, zero = jnp.eye(n, dtype=dtype), jnp.zeros((n, n), dtype)
    a = [[eye if j == i + 1 else zero for j in range(d)] for i in range(d - 1)]
    a = jnp.block([*a, [-x for x in scaled[:-1]]])
    b = jax.scipy.linalg.block_diag(*[eye] * (d - 1), scaled[-1])
    pencil = Pencil(lx.MatrixLinearOperator(a), lx.MatrixLinearOperator(b))
    block = Dense().compute(
        pencil,
        selection.rescaled(gamma),
        k,
        v0=None,
        left=False,
        progress_meter=NoProgressMeter(),
    )
    vectors = block.basis.astype(block.coordinates.dtype) @ block.coordinates
    mu, vectors = block.eigenvalues[:k], vectors[:, :k]
    return Companion(
        mu * gamma.astype(mu.dtype),
        _largest_part(vectors, d),
        jnp.maximum(jnp.abs(mu), 1e-3) * gamma,
        jnp.ones(mu.shape, bool),
        block.stats,
        block.result,
    )


def sparse_companion(
    operator: NonlinearOperator,
    inverse: Any,
    sigma: Complex[Array, ""],
    coefficients: tuple[lx.AbstractLinearOperator, ...],
    selection: AbstractSelection,
    k: int,
    solver: KrylovSchur,
) -> Companion:
    """The k pairs nearest to σ, by a Krylov–Schur run with `inverse`, P(σ)⁻¹."""
    d, n, dtype = len(coefficients) - 1, operator.n, operator.dtype
    pencils = [Pencil(a, None) for a in coefficients]
    sigma = sigma.astype(dtype)

    def product(x: Array) -> Array:
        """(A − σB)⁻¹ B x of the companion pencil."""
        x = x.reshape(d, n)
        b = [*x[:-1], pencils[-1].mv(x[-1])]
        # y_i = σⁱ y₀ + c_i
        c = [jnp.zeros_like(b[0])]
        for part in b[:-1]:
            c.append(part + sigma * c[-1])
        right = -b[-1] - sigma * pencils[-1].mv(c[-1])
        for i in range(1, d):
            right = right - pencils[i].mv(c[i])
        first = inverse.mv(right)
        y = [sigma**i * first + part for i, part in enumerate(c)]
        return jnp.concatenate(y)

    found = krylov_schur(
        product,
        product(start_vector(None, d * n, dtype)),
        Shifted(selection, sigma),
        solver.search(d * n, k, dtype),
        max_restarts=solver.limit(d * n),
    )
    theta = found.eigenvalues[:k]
    values = sigma + 1 / jnp.where(theta == 0, 1, theta)
    vectors = _largest_part((found.basis @ found.coordinates)[:, :k], d)
    infinite = _infinite(pencils[-1], vectors)
    values = jnp.where(infinite, jnp.inf, values)
    good = jnp.all(found.active[:k]) & found.done
    result = RESULTS.where(good, RESULTS.successful, RESULTS.not_converged)
    stats = {
        "num_matvecs": found.num_matvecs * (d - 1),
        "num_solves": found.num_matvecs,
        "num_restarts": found.num_restarts,
        "num_factorizations": jnp.asarray(int(inverse.factorised)),
        "num_converged": jnp.sum(found.active[:k]),
        "num_infinite": jnp.sum(infinite),
    }
    result = RESULTS.where(jnp.any(infinite), RESULTS.infinite, result)
    known = jnp.isfinite(norm_estimate(operator.pencil(sigma).mv, n, dtype))
    failed = RESULTS.where(known, RESULTS.singular, RESULTS.nonfinite)
    result = RESULTS.where(found.finite, result, failed)
    return Companion(
        values,
        vectors,
        jnp.abs(values - sigma),
        _close(theta, found.outside[:k]),
        stats,
        result,
    )


def _infinite(leading: Pencil, vectors: Complex[Array, "n k"]) -> Bool[Array, " k"]:
    """Which vectors are in the null space of A_d to rounding."""
    norm = norm_estimate(leading.mv, leading.n, leading.dtype)
    size = jnp.linalg.norm(leading.mm(vectors), axis=0)
    return size <= 1e3 * jnp.finfo(size.dtype).eps * norm


# Rounding splits a defective eigenvalue of order p into p, apart by about eps^(1/p).
_NEAR = 0.01


def _close(
    theta: Complex[Array, " k"], outside: Complex[Array, " k"]
) -> Bool[Array, " k"]:
    """Which eigenvalues have neighbours that may be merged with them by rounding."""
    gap = jnp.abs(theta[:, None] - theta) + jnp.diag(jnp.full(theta.size, jnp.inf))
    gap = jnp.fmin(jnp.min(gap, axis=1), jnp.abs(theta - outside))
    return gap <= _NEAR * jnp.abs(theta)


def _largest_part(x: Complex[Array, "dn k"], d: int) -> Complex[Array, "n k"]:
    """The part of largest norm of (v, λv, …), the most accurate one, normalised."""
    parts = x.reshape(d, -1, x.shape[1])
    sizes = jnp.linalg.norm(parts, axis=1)
    best = jnp.argmax(sizes, axis=0)
    v = jnp.take_along_axis(parts, best[None, None, :], axis=0)[0]
    size = jnp.max(sizes, axis=0)
    return v / jnp.where(size > 0, size, 1).astype(v.dtype)
