"""Spectral transformations: the operator C whose Krylov spaces are built.

C has the eigenvectors of the pencil `A v = λ B v`, and its eigenvalues θ are functions
of λ, such that the wanted ones are extreme: a Krylov space of C finds those first.
(SLEPc's ST; Ericsson and Ruhe 1980.)
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Inexact, Int, Num

from .._numerics import inv
from .._operator import Pencil
from .inverse import Inverse
from .which import AbstractSelection, Shifted, unshifted


class AbstractTransformation(eqx.Module):
    """The standard problem `C v = θ v` in place of `A v = λ B v`."""

    pencil: eqx.AbstractVar[Pencil]
    inverse: eqx.AbstractVar[Inverse | None]

    @abc.abstractmethod
    def mv(self, x: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        """C x."""

    @abc.abstractmethod
    def mm(self, x: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """C X, block by block where the operators have such products."""

    def transpose(self) -> "AbstractTransformation":
        """The same transformation of the transposed pencil."""
        inverse = None if self.inverse is None else self.inverse.transpose()
        pencil = self.pencil.transpose()
        return eqx.tree_at(
            lambda t: (t.pencil, t.inverse),
            self,
            (pencil, inverse),
            is_leaf=lambda x: x is None,
        )

    @property
    def dtype(self):
        """The dtype of the vectors: complex for a complex shift."""
        return self.pencil.dtype if self.inverse is None else self.inverse.dtype

    def selection(self, selection: AbstractSelection) -> AbstractSelection:
        """Ranks θ as `selection` ranks λ."""
        return selection

    def eigenvalues(self, theta: Complex[Array, " m"]) -> Complex[Array, " m"]:
        """λ of θ."""
        return theta

    def theta(self, eigenvalues: Complex[Array, " m"]) -> Complex[Array, " m"]:
        """θ of λ."""
        return eigenvalues

    def stats(
        self, num_steps: Int[Array, ""], num_products: int
    ) -> dict[str, Int[Array, ""]]:
        """The cost of a run of `num_steps` products with C, and `num_products` more with
        A."""
        return {"num_matvecs": num_steps + num_products}

    @abc.abstractmethod
    def sylvester(
        self, matrix: Inexact[Array, "m m"], rhs: Inexact[Array, "n m"]
    ) -> tuple[Inexact[Array, "m m"], Inexact[Array, "n m"]]:
        """Θ and F for which `C Y − Y Θ = F` is equivalent to `A Y − B Y L = R`."""


class Direct(AbstractTransformation):
    """C = A, for B = I."""

    pencil: Pencil
    inverse: None = None

    def mv(self, x):
        return self.pencil.mv(x)

    def mm(self, x):
        return self.pencil.mm(x)

    def sylvester(self, matrix, rhs):
        return matrix, rhs


class MassInverted(AbstractTransformation):
    """C = B⁻¹ A."""

    pencil: Pencil
    inverse: Inverse

    def mv(self, x):
        return self.inverse.mv(self.pencil.mv(x))

    def mm(self, x):
        return self.inverse.mm(self.pencil.mm(x))

    def stats(self, num_steps, num_products):
        return {
            "num_matvecs": num_steps + num_products,
            "num_solves": num_steps,
            "num_factorizations": jnp.asarray(int(self.inverse.factorised)),
        }

    def sylvester(self, matrix, rhs):
        return matrix, self.inverse.mm(rhs)


class ShiftInverted(AbstractTransformation):
    """C = (A − σB)⁻¹ B, with θ = 1 / (λ − σ). Infinite λ become zeros."""

    pencil: Pencil
    inverse: Inverse
    sigma: Num[Array, ""]

    def mv(self, x):
        if self.pencil.mass is not None:
            x = self.pencil.mass_mm(x[:, None])[:, 0]
        return self.inverse.mv(x)

    def mm(self, x):
        return self.inverse.mm(self.pencil.mass_mm(x))

    def selection(self, selection):
        return Shifted(selection, self.sigma)

    def eigenvalues(self, theta):
        return unshifted(theta, self.sigma)

    def theta(self, eigenvalues):
        return 1 / (eigenvalues - self.sigma.astype(eigenvalues.dtype))

    def stats(self, num_steps, num_products):
        return {
            "num_matvecs": jnp.asarray(num_products),
            "num_solves": num_steps,
            "num_factorizations": jnp.asarray(int(self.inverse.factorised)),
        }

    def sylvester(self, matrix, rhs):
        eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
        theta = inv(matrix - self.sigma.astype(matrix.dtype) * eye)
        return theta, -self.inverse.mm(rhs) @ theta
