"""Pairs of a Hermitian pencil that were found elsewhere."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from .._krylov import random_pair
from .._operator import Pencil, times_real
from .._solution import RESULTS
from .._spectral import (
    default_linear_solver,
    Direct,
    Inverse,
    MassInverted,
    ShiftedPencil,
)
from .block import asymmetric, HermitianBlock, without


def given_block(
    pencil: Pencil,
    eigenvalues: Float[Array, " k"],
    vectors: Inexact[Array, "n k"],
    rtol: float,
) -> HermitianBlock:
    """The pairs with B-orthonormal vectors, of which those are active that have residuals
    of at most `rtol max|λ| ‖B‖`, or of rounding."""
    k = eigenvalues.size
    gram = vectors.conj().T @ pencil.mass_mm(vectors)
    size = jnp.sqrt(jnp.diagonal(gram).real)
    vectors = times_real(vectors, 1 / size)
    # Vectors of different eigenvalues are orthogonal; those of one may not be.
    lower = jnp.linalg.cholesky(times_real(gram, 1 / (size[:, None] * size)))
    eps = float(jnp.finfo(size.dtype).eps)
    dependent = ~jnp.all(jnp.diagonal(lower).real > 100 * eps**0.5)
    lower = jnp.where(dependent, jnp.eye(k, dtype=lower.dtype), lower)
    vectors = vectors @ jnp.linalg.inv(lower).conj().T
    random = random_pair(pencil.n, pencil.dtype)
    images = pencil.mm(random), pencil.mass_mm(random)
    norm = jnp.linalg.norm(images[0]) / jnp.linalg.norm(random)
    mass_norm = jnp.linalg.norm(images[1]) / jnp.linalg.norm(random)
    defect = pencil.mm(vectors) - times_real(pencil.mass_mm(vectors), eigenvalues)
    residuals = jnp.linalg.norm(defect, axis=0) / jnp.linalg.norm(vectors, axis=0)
    most = jnp.max(jnp.abs(eigenvalues))
    enough = jnp.maximum(rtol * most * mass_norm, 100 * eps * norm)
    active = residuals <= enough
    result = RESULTS.where(
        jnp.all(active), RESULTS.successful, RESULTS.residual_too_large
    )
    transformation = Direct(pencil)
    if pencil.mass is not None:
        solver = default_linear_solver([pencil.mass], "`mass`", "`adjoint`")
        mass = ShiftedPencil(Pencil(pencil.mass, None), jnp.zeros((), pencil.dtype))
        transformation = MassInverted(pencil, Inverse.of(mass, solver))
    counts = {"num_matvecs": k + 2, "num_restarts": 0, "num_converged": jnp.sum(active)}
    block = HermitianBlock(
        eigenvalues=eigenvalues,
        vectors=vectors,
        active=active,
        residuals=residuals,
        norm=norm,
        mass_norm=mass_norm,
        stats={name: jnp.asarray(x) for name, x in counts.items()},
        result=result,
        transformation=transformation,
    )
    block = without(block, dependent, RESULTS.dependent)
    wrong = asymmetric(random, images[0]) | asymmetric(random, images[1])
    block = without(block, wrong, RESULTS.not_hermitian)
    finite = jnp.all(jnp.isfinite(residuals))
    return without(block, ~finite, RESULTS.nonfinite)
