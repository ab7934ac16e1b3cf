"""How far eigenpairs and their derivatives can be trusted."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Complex, Float, Inexact, PyTree

from ._check import check_flag
from ._hermitian import asymmetric
from ._krylov import random_pair
from ._nonlinear import as_nonlinear, NonlinearOperator, solver_at
from ._nonlinear.newton import norms_at
from ._operator import as_pencil, complex_dtype, Domain, Pencil
from ._problem import check_adjoint, stop
from ._program import Program
from ._rule import ImplicitAdjoint, left_vector, separation, SylvesterSolve
from ._solution import has_values, number, shapes, Solution, table
from ._spectral import Known


class Diagnostics(eqx.Module):
    """Bounds on the errors of each pair, to first order; arrays of shape `(k,)`.

    **Attributes:**

    - `eigenvalues`: as in the solution.
    - `condition_numbers`: `κ(λ) = ‖u‖‖v‖ / |uᴴBv|`.
    - `separation`: an estimate, from above, of the least `‖P(A − λB)y‖` over `y ⟂ v` of
        norm one, P the projector along Bv; usually by less than a factor of 3.
    - `gap`: the distance to the nearest other eigenvalue that is known: selected, or seen
        by the eigensolver. Infinite if there is none.
    - `backward_error`: `‖Av − λBv‖ / ((‖A‖ + |λ|‖B‖) ‖v‖)`, with norms estimated from
        below if A is not a matrix.
    - `eigenvalue_error`, `vector_error`: relative; `κ r / |λ|` and `r / separation`,
        with r the residual norm plus the rounding of a product with A (Wilkinson 1965;
        Stewart 1973).
    - `gradient_error`: of the eigenvalue's gradient, relative to its largest possible
        size `κ ‖Ȧ‖`: `2 (1 + κ) r / separation + rtol`, with `rtol` that of the linear
        solves.

    No derivatives. NaN if a linear solve failed.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])

        report = ieig.diagnose(a, ieig.eigs(a, k=2))
        assert (report.condition_numbers >= 1).all()
        print(report)  # a row for each pair
        ```
    """

    eigenvalues: Complex[Array, " k"]
    condition_numbers: Float[Array, " k"]
    separation: Float[Array, " k"]
    gap: Float[Array, " k"]
    backward_error: Float[Array, " k"]
    eigenvalue_error: Float[Array, " k"]
    vector_error: Float[Array, " k"]
    gradient_error: Float[Array, " k"]

    def __str__(self) -> str:
        names = [f.name for f in dataclasses.fields(self)]
        if not has_values(self) or jnp.ndim(self.gap) != 1:
            return shapes(self, tuple(names))
        columns = {"eigenvalue": [number(x) for x in self.eigenvalues]}
        for name in names[1:]:
            columns[name] = [f"{float(x):.1e}" for x in getattr(self, name)]
        return table(columns).rstrip("\n")


def diagnose(
    operator: Any,
    solution: Solution,
    *,
    mass: Any = None,
    like: PyTree | None = None,
    adjoint: ImplicitAdjoint | None = None,
    hermitian: bool = False,
) -> Diagnostics:
    """Condition, separation and error bounds of the pairs of a solution.

    **Arguments:**

    - `operator`, `mass`, `like`: the problem that was solved, as in
        [`implicit_eig.eigs`][]. `like=None` takes the shape of an eigenvector, and its
        dtype, which is complex: pass it for a real callable. Or `T(λ)` of
        [`implicit_eig.nonlinear_eigs`][], or a tuple of the coefficients of
        [`implicit_eig.polyeig`][].
    - `solution`: from any of these functions, or from `attach`.
    - `adjoint`: how to solve the linear systems, with A − λB projected. Default: LU for
        matrices and orders up to 1000, else `KrylovSylvester`.
    - `hermitian`: whether A and B are Hermitian: then `κ = ‖v‖² / vᴴBv`, without a solve.
        NaN if a pair of products shows that they are not.

    **Returns:** a [`implicit_eig.Diagnostics`][]. Works under `jit` and `vmap`.

    **Raises:** `TypeError` or `ValueError` for anything but a solution, or for a solution
    on another domain.

    **Cost:** for each pair, six linear solves for the separation, by power iteration with
    the inverse, and one for κ if the solution has no left vectors. The left vector of a
    pair is `e + y`, with e along Bv and y orthogonal to it, from one transposed system.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig

        a = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.5, 0.0]])
        solution = ieig.eigs(a, k=2)
        print(ieig.diagnose(a, solution))
        ```
    """
    if not isinstance(solution, Solution):
        raise TypeError(f"`solution` must be a `Solution`; got {solution!r}.")
    check_flag("hermitian", hermitian)
    nonlinear = None
    if mass is None and not hermitian:
        nonlinear = as_nonlinear(operator, like, solution.eigenvectors)
    if nonlinear is not None:
        _check_space(solution, nonlinear.domain)
        return _diagnose_nonlinear(*stop((nonlinear, solution, check_adjoint(adjoint))))
    if like is None and callable(operator):
        like = jtu.tree_map(
            lambda v: jax.ShapeDtypeStruct(v.shape[:-1], v.dtype), solution.eigenvectors
        )
    pencil = as_pencil(operator, mass, like)
    _check_space(solution, pencil.domain)
    known = Known(stop(solution.eigenvalues)[:1])
    solve = check_adjoint(adjoint).bind(pencil, None, known, 1)
    return _diagnose(*stop((pencil, solution, solve)), hermitian)


def _check_space(solution: Solution, domain: Domain) -> None:
    found = [v.shape[:-1] for v in jtu.tree_leaves(solution.eigenvectors)]
    if found != [s.shape for s in domain.leaves]:
        raise ValueError(
            f"`solution` has eigenvectors of shape {found}, the operator acts on "
            f"{[s.shape for s in domain.leaves]}."
        )


@Program
def _diagnose(
    pencil: Pencil, solution: Solution, solve: SylvesterSolve, hermitian: bool
) -> Diagnostics:
    w = solution.eigenvalues.astype(complex_dtype(pencil.dtype))
    v = _flat(solution.eigenvectors, w)
    v = v / jnp.linalg.norm(v, axis=0).astype(v.dtype)
    av, bv = pencil.mm(v), pencil.mass_mm(v)
    norm_a = _norm(pencil.operator, pencil.mm, av)
    norm_b = _norm(pencil.mass, pencil.mass_mm, bv)
    size = norm_a + jnp.abs(w) * norm_b

    def one(pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        value, x, norm = pair
        own = dataclasses.replace(solve, selection=Known(value[None]), norm=norm)
        left = not hermitian and solution.left_eigenvectors is None
        return _of_pair(pencil, value, x, own, left)

    sep, kappa = jax.lax.map(one, (w, v.T, size))
    if hermitian:
        x = random_pair(pencil.n, pencil.dtype)
        images = [pencil.mm(x)]
        if pencil.mass is not None:
            images.append(pencil.mass_mm(x))
        wrong = jnp.any(jnp.stack([asymmetric(x, image) for image in images]))
        kappa = 1 / jnp.abs(jnp.sum(v.conj() * bv, axis=0))
        kappa = jnp.where(wrong, jnp.nan, kappa)
    elif solution.left_eigenvectors is not None:
        u = _flat(solution.left_eigenvectors, w)
        kappa = jnp.linalg.norm(u, axis=0) / jnp.abs(jnp.sum(u.conj() * bv, axis=0))
    residual = jnp.linalg.norm(av - w * bv, axis=0)
    return _bounds(solution, w, kappa, sep, residual, size, solve.rtol)


@Program
def _diagnose_nonlinear(
    operator: NonlinearOperator, solution: Solution, adjoint: ImplicitAdjoint
) -> Diagnostics:
    """Treats each pair as a pair of the pencil T(λ) + μ T′(λ) at μ = 0."""
    w = solution.eigenvalues.astype(operator.dtype)
    v = _flat(solution.eigenvectors, w)
    v = v / jnp.linalg.norm(v, axis=0).astype(v.dtype)

    def one(pair: tuple[Array, Array]) -> tuple[Array, ...]:
        z, x = pair
        pencil, size = operator.pencil(z), norms_at(operator, z)[0]
        residual = jnp.linalg.norm(pencil.mv(x))
        solve = solver_at(operator, z, jnp.zeros_like(size), adjoint)
        return *_of_pair(pencil, 0 * z, x, solve, True), residual, size

    sep, kappa, residual, size = jax.lax.map(one, (w, v.T))
    eps = float(jnp.finfo(size.dtype).eps)
    rtol = eps ** (2 / 3) if adjoint.rtol is None else adjoint.rtol
    return _bounds(solution, w, kappa, sep, residual, size, rtol)


def _flat(vectors: PyTree, w: Complex[Array, " k"]) -> Complex[Array, "n k"]:
    leaves = jtu.tree_leaves(vectors)
    return jnp.concatenate([x.reshape(-1, w.size) for x in leaves]).astype(w.dtype)


def _of_pair(
    pencil: Pencil,
    value: Complex[Array, ""],
    x: Complex[Array, " n"],
    solve: SylvesterSolve,
    left: bool,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The separation of a pair, and κ if requested."""
    basis, matrix, every = x[:, None], value[None, None], jnp.ones(1, bool)
    sep = separation(pencil, basis, matrix, every, solve)
    if not left:
        return sep, jnp.zeros_like(sep)
    u = left_vector(pencil, basis, matrix, every, solve)
    overlap = jnp.sum(u.conj() * pencil.mass_mm(basis))
    return sep, jnp.linalg.norm(u) / jnp.abs(overlap)


def _bounds(
    solution: Solution,
    w: Complex[Array, " k"],
    kappa: Float[Array, " k"],
    sep: Float[Array, " k"],
    residual: Float[Array, " k"],
    size: Float[Array, " k"],
    rtol: float,
) -> Diagnostics:
    eps = jnp.finfo(residual.dtype).eps
    # A residual may be zero; the rounding of A is not.
    r = residual + eps * size
    others = jnp.where(jnp.eye(w.size, dtype=bool), jnp.inf, jnp.abs(w[:, None] - w))
    gap = jnp.min(others, axis=1)
    if solution._outside is not None:
        beyond = jnp.abs(w - solution._outside)
        gap = jnp.where(beyond < gap, beyond, gap)
    # δv and δu are r / sep each; the gradient uᴴȦv / uᴴBv has the relative change
    # δu + δv, and that of its denominator, κ (δu + δv).
    return Diagnostics(
        eigenvalues=w,
        condition_numbers=kappa,
        separation=sep,
        gap=gap,
        backward_error=residual / jnp.where(size > 0, size, 1),
        eigenvalue_error=kappa * r / jnp.abs(w),
        vector_error=r / sep,
        gradient_error=2 * (1 + kappa) * r / sep + rtol,
    )


def _norm(operator: Any, product: Any, image: Inexact[Array, "n k"]) -> Float[Array, ""]:
    """The Frobenius norm, or a lower estimate if entries are not known."""
    if isinstance(operator, lx.MatrixLinearOperator):
        return jnp.linalg.norm(operator.matrix)
    most = jnp.max(jnp.linalg.norm(image, axis=0))
    random = jax.random.normal(jax.random.key(0), (image.shape[0], 1), most.dtype)
    found = jnp.linalg.norm(product(random.astype(image.dtype)))
    return jnp.maximum(most, found / jnp.linalg.norm(random))
