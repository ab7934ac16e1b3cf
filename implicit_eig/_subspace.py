"""An invariant subspace: the root (X, L) behind every pair, made public."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact, PyTree

from ._ad import nan_tangent, tied_values
from ._hermitian import hermitian_root, ties_of
from ._operator import Domain, Pencil, Scaling
from ._rule import eigen_of_block
from ._solution import has_values, number, RESULTS, shapes, summary, table
from ._spectral import check_vector


class Spectrum(eqx.Module):
    """The pairs of a matrix similar to L, whose derivatives take no solve if there is a
    left basis."""

    matrix: Inexact[Array, "k k"]
    eigenvalues: Complex[Array, " k"]
    coordinates: Complex[Array, "k k"]
    tie_rtol: Float[Array, ""]

    def differentiable(self) -> Complex[Array, " k"]:
        pairs = eigen_of_block(
            self.matrix,
            self.eigenvalues,
            self.coordinates,
            active=jnp.ones(self.eigenvalues.shape, bool),
            tie_rtol=self.tie_rtol,
        )
        return nan_tangent(pairs.eigenvalues, pairs.lost)


class HermitianSpectrum(eqx.Module):
    """The same for a Hermitian matrix, which is diagonal here."""

    matrix: Inexact[Array, "k k"]
    eigenvalues: Float[Array, " k"]
    tie_rtol: Float[Array, ""]

    def differentiable(self) -> Float[Array, " k"]:
        pencil = Pencil(lx.MatrixLinearOperator(self.matrix), None)
        active = jnp.ones(self.eigenvalues.shape, bool)
        ties, apart = ties_of(self.eigenvalues, active, self.tie_rtol)
        values, *_ = hermitian_root(
            pencil,
            self.eigenvalues,
            jnp.eye(active.size, dtype=self.matrix.dtype),
            jnp.zeros((), self.eigenvalues.dtype),
            active=active,
            apart=apart,
            solve=None,
        )
        eps = float(jnp.finfo(values.dtype).eps)
        return tied_values(values, ties, jnp.maximum(eps**0.5, 10 * self.tie_rtol))


class Subspace(eqx.Module):
    """The invariant subspace of k selected eigenvalues: `A X = B X L`.

    **Attributes:**

    - `basis`: X, shape `(n, k)`, `XᴴX = I`; for an operator on a pytree, that structure
        with a trailing axis k. Real for a real operator.
    - `block`: L, shape `(k, k)`: A within the subspace. Block triangular, best first.
    - `left_basis`: Y, of the shape of X, or `None`: `Yᴴ A = L Yᴴ B` and `Yᴴ B X = I`.
    - `residual`: `‖AX − BXL‖ / max(‖BXL‖, eps ‖A‖)`, in Frobenius norms.
    - `separation`: if requested, an estimate of `sep(L, rest)`, the least
        `‖P(AZ − BZL)‖` over all Z outside the subspace with `‖Z‖ = 1`; at worst a few
        times too large. To first order, a change E of A rotates the subspace by
        `‖E‖ / separation` (Stewart 1973). Infinite for k = n; at most the distance to the
        nearest unselected eigenvalue, and far less for non-normal operators.
    - `stats`: counts, as in [`implicit_eig.Solution`][].
    - `result`: a member of [`implicit_eig.RESULTS`][].

    `basis`, `block`, `left_basis` and all below are differentiable with respect to the
    operator and the mass matrix, in either mode and to any order. X is one of many bases;
    it stays orthonormal, but is otherwise free to rotate within the subspace:
    differentiate quantities that do not depend on that, such as `X Xᴴ`, functions of the
    spectrum of L, or the projector. For a batch, take properties by
    `jax.vmap(lambda s: s.eigenvalues)(batch)`.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        sub = ieig.invariant_subspace(a, k=1)
        x, l = sub.basis, sub.block
        assert jnp.allclose(a @ x, x @ l, atol=1e-5)
        sub.projector_mv(jnp.ones(2))
        ```
    """

    basis: PyTree[Inexact[Array, "..."]]
    block: Inexact[Array, "k k"]
    left_basis: PyTree[Inexact[Array, "..."]] | None
    residual: Float[Array, ""]
    separation: Float[Array, ""] | None
    stats: dict[str, Any]
    result: RESULTS
    _dual: PyTree[Inexact[Array, "..."]] | None  # BᴴY
    _spectrum: Spectrum | HermitianSpectrum

    def __str__(self) -> str:
        """A line for each eigenvalue; shapes if values are traced or a batch."""
        values = self._spectrum.eigenvalues
        if not has_values(self) or jnp.ndim(values) != 1:
            return shapes(self, ("basis", "block", "left_basis"))
        sep = "" if self.separation is None else f", separation {self.separation:.1e}"
        lines = table({"eigenvalue": [number(x) for x in values]})
        return f"{lines}residual {self.residual:.1e}{sep}\n{summary(self)}"

    @property
    def eigenvalues(self) -> Inexact[Array, " k"]:
        """The eigenvalues of L, best first, with the derivatives of
        [`implicit_eig.eigvals`][]: at a semisimple tie only first ones, right for
        functions that are symmetric in the tied values (others: NaN). At a defective
        eigenvalue they have none: take `trace`, or traces of powers of `block`. Real with
        `hermitian=True`."""
        return self._spectrum.differentiable()

    @property
    def trace(self) -> Inexact[Array, ""]:
        """The sum of the eigenvalues, smooth even where they coincide. With a left basis,
        its first derivative takes no linear solve."""
        return jnp.trace(self._spectrum.matrix)

    def projector_mv(self, x: PyTree[ArrayLike]) -> PyTree[Inexact[Array, "..."]]:
        """`P x = X Yᴴ B x` for a vector of the domain: the spectral projector onto the
        subspace, along that of all other eigenvalues. Needs the left basis."""
        dual = self._left()
        check_vector(x, self._domain, "`x`")
        leaves = [jnp.asarray(leaf) for leaf in jtu.tree_leaves(x)]
        dtype = np.result_type(self.block.dtype, *(leaf.dtype for leaf in leaves))

        def inner(z: Array, v: Array) -> Array:
            z = z.reshape(-1, z.shape[-1]).conj().astype(dtype)
            return v.reshape(-1).astype(dtype) @ z

        parts = [inner(z, v) for z, v in zip(jtu.tree_leaves(dual), leaves, strict=True)]
        inside = sum(parts[1:], parts[0])
        return jtu.tree_map(lambda b: b.astype(dtype) @ inside, self.basis)

    def projector(self) -> Inexact[Array, "n n"]:
        """P as a matrix, on flat vectors. Needs the left basis."""
        dual = _flat(self._left())
        return _flat(self.basis) @ dual.conj().T

    @property
    def _domain(self) -> Domain:
        def vector(block: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(block.shape[:-1], block.dtype)

        return Domain.of(jtu.tree_map(vector, self.basis))

    def _left(self) -> PyTree[Inexact[Array, "..."]]:
        if self._dual is None:
            raise ValueError(
                "The projector needs the left basis, which was not computed: pass "
                "`left=True` to `invariant_subspace`."
            )
        return self._dual


def _flat(block: PyTree[Inexact[Array, "..."]]) -> Inexact[Array, "n k"]:
    return jnp.concatenate([b.reshape(-1, b.shape[-1]) for b in jtu.tree_leaves(block)])


def assembled(
    pencil: Pencil,
    scaling: Scaling,
    basis: Inexact[Array, "n k"],
    matrix: Inexact[Array, "k k"],
    left_basis: Inexact[Array, "n k"] | None,
    missing: Bool[Array, " k"],
    is_orthonormal: bool = False,
    **others: Any,
) -> Subspace:
    """The subspace from any of its bases, with the L and the dual basis of that basis."""
    # The rule's X has CᴴX = I with a constant C: orthonormal at this point, but not near
    # it. That of a Hermitian pencil is orthonormal in the inner product of B.
    if not is_orthonormal:
        t = jnp.linalg.cholesky(basis.conj().T @ basis).conj().T
        inverse = jnp.linalg.inv(t)
        basis, matrix = basis @ inverse, t @ matrix @ inverse
        if left_basis is not None:
            left_basis = left_basis @ t.conj().T
    dual_basis = None
    if left_basis is not None:
        left_basis = jnp.where(missing, jnp.nan, left_basis)
        left_basis = nan_tangent(left_basis, missing)
        dual_basis = pencil.domain.unflatten(pencil.adjoint_mass_mm(left_basis))
        left_basis = pencil.domain.unflatten(scaling.left(left_basis))
    return Subspace(
        basis=pencil.domain.unflatten(basis),
        block=scaling.values(matrix),
        left_basis=left_basis,
        _dual=dual_basis,
        **others,
    )
