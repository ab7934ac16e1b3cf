"""All pairs' systems at once, by the eigenvectors of the rest of the spectrum.

With λ_i, v_i, u_i the pairs that are not selected and L = W diag(l) W⁻¹, the solution of
P (A Q Y − B Q Y L) = F is

    Y = Q Σ_i v_i (u_iᴴ F W / (λ_i − l)) W⁻¹ ,      u_iᴴ B v_i = 1 :

two products with n×n matrices that `geev` has left behind, where each factorisation of a
shifted matrix costs O(n³). It is as accurate as the eigenvectors of the rest are
independent, so its residual decides.
"""

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact

from .._batch import only_if
from .._eigensolver import InvariantBlock, Spectrum
from .columnwise import Columnwise
from .system import AbstractSylvesterSolver, ProjectedSylvester, times


class Eigenbasis(AbstractSylvesterSolver):
    """Solves by the spectrum that `Dense` found; by LU factorisations where that misses
    rounding, because the rest of the spectrum, or L, is ill-conditioned or defective.

    The default for pairs found by `Dense`. Cost: O(n²) a pair, or O(n³).
    """

    spectrum: Spectrum | None = None  # known once the pairs are

    def for_block(self, block: InvariantBlock):
        return Eigenbasis(block.spectrum)

    def solve(self, system, rhs, **options):
        def factorise(_):
            return Columnwise(lx.LU()).solve(system, rhs, **options)

        spectrum = self.spectrum
        if spectrum is None:
            return factorise(rhs)

        def step(_, state):
            y, rest = state
            y = y + _expand(spectrum, system, rest)
            return y, rhs - system.mm(y)

        # Refinement: the first answer has an error of eps times a condition number.
        y, rest = jax.lax.fori_loop(0, 3, step, (jnp.zeros_like(rhs), rhs))
        eps = jnp.finfo(rhs.dtype).eps
        bound = spectrum.norm * jnp.linalg.norm(y) + jnp.linalg.norm(rhs)
        good = jnp.linalg.norm(rest) <= 10 * eps * bound
        return only_if(~good, factorise, y)

    def transpose(self):
        if self.spectrum is None:
            return self
        return Eigenbasis(self.spectrum.transpose())


def _expand(
    spectrum: Spectrum, system: ProjectedSylvester, rhs: Inexact[Array, "n m"]
) -> Inexact[Array, "n m"]:
    l, w = jnp.linalg.eig(system.matrix)
    selected = spectrum.selected[:, None]
    gap = jnp.where(selected, 1, spectrum.eigenvalues[:, None] - l[None, :])
    inside = spectrum.left.conj().T @ times(rhs, w)
    inside = jnp.where(selected, 0, inside / gap)
    y = spectrum.right @ (inside @ jnp.linalg.inv(w))
    y = y if jnp.iscomplexobj(rhs) else y.real
    return system.restrict(y)
