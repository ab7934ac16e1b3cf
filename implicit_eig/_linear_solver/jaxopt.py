"""The linear solvers of jaxopt, behind lineax's interface."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import DTypeLike


_State: TypeAlias = lx.AbstractLinearOperator

# Known faults, seen with jaxopt 0.8.5 (`tests/derivatives/test_jaxopt.py`).
_NEVER = {
    name: "it needs a Hermitian positive definite matrix, and the systems of derivatives "
    "of eigenpairs are neither"
    for name in ("solve_cg", "solve_cholesky")
}
_REAL_ONLY = {
    "solve_lu": "it differentiates the operator, which JAX allows for real vectors only",
    "solve_normal_cg": "it takes the transpose for the adjoint, and answers wrongly",
    "solve_qr": "it takes the transpose for the adjoint, and answers wrongly",
}
_NOT_PRECONDITIONED = ("solve_inv", "solve_lu", "solve_normal_cg", "solve_qr")


class JaxoptSolver(lx.AbstractLinearSolver[_State]):
    """A solver of `jaxopt.linear_solve` for
    `ImplicitAdjoint(linear_solver=JaxoptSolver(...))`.

    Needs the extra `implicit_eig[jaxopt]`. jaxopt is no longer maintained: this is for
    code that already has such a solver. New code should use lineax.

    **Arguments:**

    - `solve`: `jaxopt.linear_solve.solve_gmres`, `solve_bicgstab` or `solve_inv`; for
        real systems also `solve_lu`, `solve_qr` or `solve_normal_cg`. Or any function
        `solve(matvec, b, **options)` of flat vectors.
    - `options`: passed on, such as `tol`, `maxiter`, `restart`. The preconditioner of
        `ImplicitAdjoint` is passed on as `M`.

    jaxopt does not report failures. `ImplicitAdjoint` judges answers by their backward
    error and refines them, so the default tolerances will do. Elsewhere, as a solver for
    `lineax.linear_solve`, nothing would reveal a wrong answer.

    **Raises:** `ValueError` for what is known to be wrong: `solve_cg` and
    `solve_cholesky` always; `solve_lu`, `solve_qr` and `solve_normal_cg` if the system is
    complex. The systems of a real operator are complex unless its block is a single real
    pair (`attach` with one real eigenvalue and vector).

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        from jaxopt.linear_solve import solve_gmres

        a = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.5, 0.0]])
        adjoint = ieig.ImplicitAdjoint(ieig.JaxoptSolver(solve_gmres, tol=1e-10))
        ieig.eigs(a, k=2, adjoint=adjoint)
        ```
    """

    solve: Callable[..., Any] = eqx.field(static=True)
    options: dict[str, Any]

    def __init__(self, solve: Callable[..., Any], **options: Any):
        if not callable(solve):
            raise TypeError(
                "`JaxoptSolver` takes a function `solve(matvec, b, **options)`, such as "
                f"`jaxopt.linear_solve.solve_gmres`; got {solve!r}."
            )
        self.solve = solve
        self.options = options
        if self._name in _NEVER:
            raise ValueError(
                f"`jaxopt.linear_solve.{self._name}` cannot be used here: "
                f"{_NEVER[self._name]}. Take `solve_gmres`."
            )

    @property
    def _name(self) -> str | None:
        """Its name in `jaxopt.linear_solve`, which is not imported for this."""
        module = getattr(self.solve, "__module__", None) or ""
        return self.solve.__name__ if module.split(".")[0] == "jaxopt" else None

    def check(self, dtype: DTypeLike) -> None:
        """Refuses systems of a dtype for which the solver is known to be wrong."""
        if jnp.issubdtype(dtype, jnp.complexfloating) and self._name in _REAL_ONLY:
            raise ValueError(
                f"`jaxopt.linear_solve.{self._name}` cannot be used for systems of dtype "
                f"{jnp.dtype(dtype).name}: {_REAL_ONLY[self._name]}. Take `solve_gmres`."
            )

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> _State:
        del options
        structure = operator.in_structure()
        self.check(structure.dtype)
        return operator

    def compute(self, state: _State, vector: Any, options: dict[str, Any]):
        def matvec(v):
            # `solve_inv` and `solve_qr` differentiate at real zeros of default precision.
            return state.mv(v.astype(vector.dtype))

        keywords = dict(self.options)
        if "preconditioner" in options:
            if self._name in _NOT_PRECONDITIONED:
                raise ValueError(
                    f"`jaxopt.linear_solve.{self._name}` takes no preconditioner."
                )
            keywords["M"] = options["preconditioner"].mv
        return self.solve(matvec, vector, **keywords), lx.RESULTS.successful, {}

    def transpose(self, state: _State, options: dict[str, Any]):
        options = dict(options)
        if "preconditioner" in options:
            options["preconditioner"] = options["preconditioner"].transpose()
        return state.transpose(), options

    def conj(self, state: _State, options: dict[str, Any]):
        options = dict(options)
        if "preconditioner" in options:
            options["preconditioner"] = lx.conj(options["preconditioner"])
        return lx.conj(state), options

    def assume_full_rank(self) -> bool:
        return True
