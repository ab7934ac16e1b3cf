"""What a failure does: it raises in a plain call, and gives NaN in a compiled program.

Python sees the result code of a plain call, also below the tracers of `grad`, `jvp` and
`vmap`, and raises accordingly. A linear solve for a derivative runs later: forward mode
carries its backward error in the tangent of a signal next to the outputs, reverse mode in
the cotangent of a signal next to the inputs, and maps with a custom transpose inspect it
where Python can see it. Nothing calls back from a compiled program, unless `throw=True`
asks for it.
"""

import contextlib
import os
from typing import Any, Protocol, TypeVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PyTree

from ._ad import linear_map
from ._program import is_plain, value_of, visible
from ._solution import FAILURES, NO_FAILURES, RESULTS


def check_throw(throw: Any) -> None:
    if not isinstance(throw, bool | None):
        raise TypeError(f"`throw` must be None, True or False; got {throw!r}.")


class _RunError(eqx.EquinoxRuntimeError):
    """An error shown as one sentence. JAX would precede it, as its cause, with the stack
    of the call that was differentiated."""

    __cause__ = property(lambda self: None, lambda self, _: None)  # pyright: ignore[reportAssignmentType]


_RunError.__name__ = _RunError.__qualname__ = "EquinoxRuntimeError"
_RunError.__module__ = "equinox"
with contextlib.suppress(ImportError, AttributeError):
    # Hide frames of this package from users' tracebacks, like JAX's own.
    from jax._src.traceback_util import register_exclusion

    register_exclusion(os.path.dirname(__file__))


_FAILED = (
    "The linear solve for a derivative of the selected eigenpairs missed its tolerance{} "
    "(`ImplicitAdjoint.rtol={:.1e}`). "
    "The eigenvalues may be too close to unselected ones, or the solver is not suited: "
    "pass another `linear_solver` to `adjoint=ImplicitAdjoint(...)`, or a looser `rtol`. "
    "With `throw=False` such derivatives are NaN instead."
)


class _HasResult(Protocol):
    @property
    def result(self) -> RESULTS: ...


_Found = TypeVar("_Found", bound=_HasResult)


def raise_unless_successful(
    found: _Found, throw: bool | None, *, k: int | None = None, advice: str = ""
) -> _Found:
    """What was found; or an error by its result, as `throw` says.

    For the message, `k` is the number of pairs asked for, and `advice` what may help if
    they did not converge.
    """
    if throw is False:
        return found
    codes = value_of(found.result._value)
    if codes is None:
        if not throw:
            return found
        # One check per failure: `Enumeration.error_if` takes the largest index over a
        # batch, and an empty batch has none.
        return raise_if(found, *((found.result == f, RESULTS[f]) for f in FAILURES))
    failed = np.asarray([int(code) not in _GOOD for code in codes.flat], bool)
    failed = failed.reshape(codes.shape)
    if failed.any():
        at = np.unravel_index(int(np.argmax(failed)), failed.shape)
        sentence = _SENTENCES[int(codes[at])]
        if codes[at] == RESULTS.not_converged._value:
            head, _, rest = sentence.partition(". ")
            sentence = f"{head}{_reached(found, at, k)}. {advice or rest}"
            sentence += _in_double(getattr(found, "residuals", None))
        raise _RunError(sentence)
    return found


_GOOD = {int(r._value) for r in NO_FAILURES}
_SENTENCES = {int(r._value): RESULTS[r] for r in FAILURES}


def _in_double(x: Any) -> str:
    """What else may help, in single precision."""
    if getattr(x, "dtype", None) != np.float32:
        return ""
    return " This is single precision: `jax_enable_x64` and 64 bits would help."


def _reached(found: Any, at: tuple[Any, ...], k: int | None) -> str:
    """How far a run got that did not converge."""

    def of_member(x: Any) -> Any:
        x = value_of(x)
        return x if x is None or x.ndim < len(at) else x[at]

    counts = {name: of_member(x) for name, x in found.stats.items()}
    counts = {name: int(x) for name, x in counts.items() if x is not None}
    reached = [f"{counts['num_converged']} of {k} did"] if k else []
    for name in ("restarts", "solves", "matvecs"):
        if counts.get(f"num_{name}"):
            reached.append(
                f"{counts[f'num_{name}']} {name}".replace("matvecs", "products")
            )
    residuals = of_member(getattr(found, "residuals", None))
    if residuals is not None and np.isfinite(residuals).any():
        reached.append(f"the largest residual is {np.nanmax(residuals):.1e}")
    return f" ({', '.join(reached)})"


def watched(
    tree: PyTree, throw: bool | None, rtol: float
) -> tuple[PyTree, Float[Array, ""] | None]:
    """The tree of inputs, and a signal whose cotangent is the backward error of a
    transposed solve that missed the tolerance `rtol`: it is inspected on its way out.
    `None` if nobody would inspect it."""
    leaves, treedef = jtu.tree_flatten(tree)
    moving = [
        isinstance(x, Tracer) and jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves
    ]
    at = [i for i, moves in enumerate(moving) if moves]
    if throw is False or not at:
        return tree, None
    if not throw and not any(is_plain(leaves[i]) for i in at):
        return tree, None
    signal = jnp.zeros((), leaves[at[0]].real.dtype)
    *out, signal = _watch([*(leaves[i] for i in at), signal], [], throw=throw, rtol=rtol)
    for i, x in zip(at, out, strict=True):
        leaves[i] = x
    return jtu.tree_unflatten(treedef, leaves), signal


def reported(
    tree: PyTree, signal: Float[Array, ""] | None, throw: bool | None, rtol: float
) -> PyTree:
    """The tree of outputs; the tangent of the signal is inspected with theirs."""
    if throw is False or signal is None or not isinstance(signal, Tracer):
        return tree
    if is_plain(signal):
        # Alone: otherwise tangents that nobody uses would be requested with it.
        _report([signal], [], throw=throw, rtol=rtol)
        return tree
    if not throw:
        return tree
    leaves, treedef = jtu.tree_flatten(tree)
    at = [
        i for i, x in enumerate(leaves) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    ]
    *out, _ = _report([*(leaves[i] for i in at), signal], [], throw=throw, rtol=rtol)
    for i, x in zip(at, out, strict=True):
        leaves[i] = x
    return jtu.tree_unflatten(treedef, leaves)


def _look(
    xs: list[Array | None], error: Array | None, throw: bool | None, rtol: float
) -> list:
    """`xs`, or an error if a solve failed."""
    if error is None:
        return xs
    for value in visible(error):
        worst = np.max(value, initial=0.0)
        if worst > 0:
            how = ", or its answer has no digit"
            if worst < 1e29:
                how = f": its backward error is {worst:.1e}"
            raise _RunError(_FAILED.format(how, rtol) + _in_double(value))
    if throw and not is_plain(error):
        asked = [x for x in xs if x is not None]
        held = iter(raise_if(asked, (error > 0, _FAILED.format("", rtol))))
        return [None if x is None else next(held) for x in xs]
    return xs


def _watch_back(cotangents, _, *, throw, rtol):
    *asked, error = cotangents
    return [*_look(asked, error, throw, rtol), None]


def _report_forward(tangents, _, *, throw, rtol):
    *xs, error = tangents
    return [*_look(xs, error, throw, rtol), error]


_watch = linear_map("implicit_eig_watch", lambda t, *_, **__: list(t), _watch_back)
_report = linear_map("implicit_eig_report", _report_forward, lambda ct, *_, **__: ct)


def raise_if(x: PyTree[Array], *checks: tuple[Bool[Array, "..."], str]) -> PyTree[Array]:
    """x, or an error raised from a compiled program by a host callback.

    The callback returns one number, which is added to x. If it returned x, that would be
    copied, and a sharded x gathered on the device that calls back. In a batch, one member
    raises for all.
    """
    messages = [message for _, message in checks]
    failed = jnp.stack([eqxi.unvmap_any(failed) for failed, _ in checks])

    def call(index: Any) -> Any:
        raise _RunError(messages[int(index)])

    def fail() -> Array:
        zero = jax.ShapeDtypeStruct((), jnp.int32)
        return jax.pure_callback(call, zero, jnp.argmax(failed))

    held = jax.lax.cond(jnp.any(failed), fail, lambda: jnp.zeros((), jnp.int32))
    return jtu.tree_map(lambda x: x + held.astype(x.dtype), x)
