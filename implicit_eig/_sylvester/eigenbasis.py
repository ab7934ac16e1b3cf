"""Solves the systems of all pairs at once, by the eigenvectors of the rest.

With λ_i, v_i, u_i the pairs that are not selected and L = W diag(l) W⁻¹, the solution of
P (A Q Y − B Q Y L) = F is

    Y = Q Σ_i v_i (u_iᴴ F W / (λ_i − l)) W⁻¹ ,      u_iᴴ B v_i = 1 :

two products with n×n matrices that `Dense` has left behind, whereas each factorisation of
a shifted matrix costs O(n³). Its accuracy depends on how independent the eigenvectors of
the rest are, so its residual decides.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Complex, Inexact

from .._batch import only_if
from .._eigensolver import InvariantBlock, Spectrum
from .._numerics import device_eig
from .columnwise import Columnwise
from .system import AbstractSylvesterSolver, ProjectedSylvester, times


class Eigenbasis(AbstractSylvesterSolver):
    """Solves by the spectrum that `Dense` found; by LU factorisations if that does not
    reach rounding, because the rest of the spectrum, or L, is ill-conditioned or
    defective.

    The default for pairs found by `Dense`. Cost: O(n²) per pair, or O(n³).
    """

    spectrum: Spectrum | None = None  # known once the pairs are known

    def for_block(self, block: InvariantBlock):
        return Eigenbasis(block.spectrum)

    def init(self, system, options):
        expansion = None
        if self.spectrum is not None:
            expansion = _Expansion.of(self.spectrum, system)
        return system, options, expansion

    def compute(self, state, rhs):
        system, options, expansion = state

        def factorise(_):
            return Columnwise(lx.LU()).solve(system, rhs, **options)

        if expansion is None:
            return factorise(rhs)

        def step(_, state):
            y, rest = state
            y = y + system.restrict(expansion.times(rest))
            return y, rhs - system.mm(y)

        # Refined, as the first answer has an error of eps times a condition number.
        y, rest = jax.lax.fori_loop(0, 3, step, (jnp.zeros_like(rhs), rhs))
        eps = jnp.finfo(rhs.dtype).eps
        bound = expansion.spectrum.norm * jnp.linalg.norm(y) + jnp.linalg.norm(rhs)
        good = jnp.linalg.norm(rest) <= 10 * eps * bound
        return only_if(~good, factorise, y)

    def transpose(self):
        if self.spectrum is None:
            return self
        return Eigenbasis(self.spectrum.transpose())


class _Expansion(eqx.Module):
    """The sum over the pairs that are not selected."""

    spectrum: Spectrum
    weights: Complex[Array, "n m"]  # 1 / (λ_i − l), zero where i is selected
    vectors: Complex[Array, "m m"]  # W
    inverse: Complex[Array, "m m"]

    @classmethod
    def of(cls, spectrum: Spectrum, system: ProjectedSylvester) -> "_Expansion":
        l, w = device_eig(system.matrix)
        selected = spectrum.selected[:, None]
        gap = jnp.where(selected, 1, spectrum.eigenvalues[:, None] - l[None, :])
        return cls(spectrum, jnp.where(selected, 0, 1 / gap), w, jnp.linalg.inv(w))

    def times(self, rhs: Inexact[Array, "n m"]) -> Inexact[Array, "n m"]:
        inside = self.spectrum.left.conj().T @ times(rhs, self.vectors)
        y = self.spectrum.right @ ((inside * self.weights) @ self.inverse)
        return y if jnp.iscomplexobj(rhs) else y.real
