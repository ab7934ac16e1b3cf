"""GMRES that tells a singular system from a regular one."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._krylov import default_start
from .deflated_gmres import DeflatedGMRES
from .system import AbstractSylvesterSolver, error_of


class Probed(AbstractSylvesterSolver):
    """`inner`, provided it also solves the system for a random right side.

    A system is singular to within the error of its pairs if another copy of a selected
    eigenvalue was left out. Then there is no derivative; but if a right side happens to
    have a solution, GMRES finds the least one, and the singularity goes unnoticed. A
    random right side has none.
    """

    inner: DeflatedGMRES
    error: Float[Array, ""] | None = None  # of A, known once the pairs are

    def for_block(self, block):
        return dataclasses.replace(self, error=error_of(block))

    def whatever(self):
        return self.inner

    def init(self, system, options):
        made, rtol = self.inner.init(system, options), options["rtol"]
        basis = system.domain_basis
        dtype = jnp.result_type(basis, system.matrix)
        random = default_start(basis.size, dtype).reshape(basis.shape)
        random = system.project(jnp.where(system.active, random, 0))
        z = self.inner.compute(made, random)
        size, right = jnp.linalg.norm(z), jnp.linalg.norm(random)
        missed = jnp.linalg.norm(random - system.mm(z))
        # Beside an eigenvalue a factor has half of the digits. A singular system misses
        # the part of the random right side along its left vector, some right / √n.
        half = float(jnp.finfo(dtype).eps) ** 0.5
        solved = missed <= 10 * rtol * (system.scale * size + right) + half * right
        known = rtol * system.scale
        known = known if self.error is None else jnp.maximum(known, self.error)
        return made, solved & (known * size <= 0.01 * right)

    def compute(self, state, rhs):
        made, regular = state
        return jnp.where(regular, self.inner.compute(made, rhs), jnp.inf)
