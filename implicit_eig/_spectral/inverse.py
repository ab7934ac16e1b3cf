"""The inverse of A − σB, or of B, as an operator: a linear solver and its state."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Inexact, Num, PyTree

from .._linear_solver.klu import KLU
from .._linear_solver.sparse_lu import SparseLU
from .._operator import complex_dtype, entries, Pencil, promises_nothing, together


_DIRECT = SparseLU, KLU, lx.LU, lx.QR, lx.SVD, lx.Cholesky, lx.AutoLinearSolver


def factorises(solver: lx.AbstractLinearSolver) -> bool:
    """Whether a solver keeps a factor, so that solves are cheap."""
    return isinstance(solver, _DIRECT)


def shift_dtype(pencil: Pencil, sigma: Num[Array, ""]) -> Any:
    """The dtype of products with (A − σB)⁻¹."""
    if jnp.iscomplexobj(sigma):
        return complex_dtype(pencil.dtype)
    return pencil.dtype


@promises_nothing
class ShiftedPencil(lx.AbstractLinearOperator):
    """A − σB on flat vectors."""

    pencil: Pencil
    sigma: Num[Array, ""]

    @property
    def _dtype(self) -> Any:
        return shift_dtype(self.pencil, self.sigma)

    def mv(self, vector):
        x = vector[:, None]
        shift = self.sigma.astype(x.dtype)
        return (self.pencil.mm(x) - shift * self.pencil.mass_mm(x))[:, 0]

    def as_matrix(self):
        a, dtype = self.pencil.operator.as_matrix(), self._dtype
        if self.pencil.mass is None:
            b = jnp.eye(self.pencil.n, dtype=dtype)
        else:
            b = self.pencil.mass.as_matrix().astype(dtype)
        return a.astype(dtype) - self.sigma.astype(dtype) * b

    def transpose(self):
        return ShiftedPencil(self.pencil.transpose(), self.sigma)

    def in_structure(self):
        return jax.ShapeDtypeStruct((self.pencil.n,), self._dtype)

    def out_structure(self):
        return self.in_structure()


@entries.register(ShiftedPencil)
def _(operator):
    mass = operator.pencil.mass
    if mass is None:
        structure = jax.ShapeDtypeStruct((operator.pencil.n,), operator.pencil.dtype)
        mass = lx.IdentityLinearOperator(structure)
    shift = entries(mass * -operator.sigma)
    return together(entries(operator.pencil.operator), shift)


class Inverse(eqx.Module):
    """x ↦ M⁻¹ x on flat vectors and blocks of them, for an operator M on flat vectors.

    A factorisation is made once, with this object; an iterative solver runs at each
    product. Products are not checked here: callers judge their own results.
    """

    solver: lx.AbstractLinearSolver
    state: PyTree
    options: dict[str, Any]
    # R and C that balance R M C, if the entries are known.
    scales: tuple[Float[Array, " n"], Float[Array, " n"]] | None
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        operator: lx.AbstractLinearOperator,
        solver: lx.AbstractLinearSolver,
        preconditioner: lx.AbstractLinearOperator | None = None,
    ) -> "Inverse":
        options = {}
        if preconditioner is not None:
            options["preconditioner"] = preconditioner
        structure = operator.in_structure()
        state = solver.init(operator, options)
        return cls(solver, state, options, _scales(operator), structure)

    @property
    def dtype(self) -> Any:
        return self.structure.dtype

    @property
    def is_real(self) -> bool:
        return not jnp.issubdtype(self.dtype, jnp.complexfloating)

    @property
    def factorised(self) -> bool:
        """Whether making this took a factorisation."""
        return factorises(self.solver)

    def mv(self, x: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        if jnp.iscomplexobj(x) and self.is_real:
            return jax.lax.complex(self.mv(x.real), self.mv(x.imag))
        x = x.astype(self.dtype)
        return self.solver.compute(self.state, x, self.options)[0]

    def mm(self, x: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        return jax.vmap(self.mv)(x.T).T

    def is_singular(
        self, x: Inexact[Array, " n"], norm: Float[Array, ""]
    ) -> tuple[Inexact[Array, " n"], Bool[Array, ""]]:
        """M⁻¹ x, and whether it shows that M, of the given norm, is singular to rounding:
        for a random x, ‖M⁻¹‖ is about √n ‖M⁻¹ x‖ / ‖x‖. If the entries are known, the
        test is applied to R M C (and a scaled x), so that units play no part."""
        if self.scales is None:
            y = self.mv(x)
            size = norm * jnp.linalg.norm(y) / jnp.linalg.norm(x)
        else:
            rows, columns = self.scales
            y = self.mv(x / rows.astype(x.dtype))
            size = jnp.linalg.norm(jnp.abs(y) / columns) / jnp.linalg.norm(x)
        eps = jnp.finfo(size.dtype).eps
        return y, ~(size * x.size**0.5 * 100 * eps < 1)

    def transpose(self) -> "Inverse":
        state, options = self.solver.transpose(self.state, self.options)
        scales = None if self.scales is None else (self.scales[1], self.scales[0])
        return Inverse(self.solver, state, options, scales, self.structure)


def _scales(operator: lx.AbstractLinearOperator):
    """R and C for which rows and columns of R |M| C sum to 1, nearly (Sinkhorn and Knopp
    1967). |M| is |A| + |σ| |B|, so that what cancels in A − σB counts."""
    products = _absolute(operator)
    if products is None:
        return None
    product, transposed, ones = products

    def sweep(_, scales):
        rows = 1 / product(scales[1])
        return rows, 1 / transposed(rows)

    return jax.lax.fori_loop(0, _SWEEPS, sweep, (ones, ones))


_SWEEPS = 3


def _absolute(operator: lx.AbstractLinearOperator):
    """Products with |M| and its transpose, and a vector of ones; `None` if the entries
    are not known."""
    triplets = entries(operator)
    if triplets is not None:
        values, rows, columns = jnp.abs(triplets[0]), *triplets[1:]
        ones = jnp.ones(operator.in_size(), values.dtype)

        def product(x, into=rows, of=columns):
            return jnp.zeros_like(x).at[into].add(values * x[of])

        return product, lambda x: product(x, columns, rows), ones
    dense = lx.MatrixLinearOperator
    if not isinstance(operator, ShiftedPencil):
        return None
    pencil, shift = operator.pencil, jnp.abs(operator.sigma)
    if not (isinstance(pencil.operator, dense) and isinstance(pencil.mass, dense | None)):
        return None
    matrix = jnp.abs(pencil.operator.matrix)
    mass = jnp.eye(pencil.n, dtype=matrix.dtype)
    if pencil.mass is not None:
        mass = jnp.abs(pencil.mass.matrix)
    matrix = matrix + shift.astype(matrix.dtype) * mass
    ones = jnp.ones(pencil.n, matrix.dtype)
    return lambda x: matrix @ x, lambda x: x @ matrix, ones


def default_linear_solver(
    operators: list[lx.AbstractLinearOperator], name: str, remedy: str
) -> lx.AbstractLinearSolver:
    """A direct solver for a matrix made of `operators`, if their entries are known."""
    if any(isinstance(operator, lx.MatrixLinearOperator) for operator in operators):
        return lx.LU()
    if all(entries(operator) is not None for operator in operators):
        return SparseLU()
    kinds = " and ".join(type(operator).__name__ for operator in operators)
    raise ValueError(
        f"{name} cannot be factorised: the entries of {kinds} are not known. Pass "
        f"{remedy}: `lineax.LU()` (which makes the matrix, by n products), or an "
        "iterative one such as `lineax.GMRES(...)`."
    )
