"""A plain call: the user's functions are traced, what they captured becomes input, and
the compiled program is looked up by what was traced.

JAX looks up the program of a jitted function by the identity of what is static in it. A
function made anew in every step of a loop would be compiled anew in every step, and one
that reads something that has changed would give the old answer. So a function of the
user's is traced in every call, which takes a millisecond, and from then on is a
`TracedFunction`: its equations, compared by content, and the captured arrays and numbers,
which are leaves.
"""

import collections
import os
import sys
import threading
import types
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var
from jaxtyping import Array, PyTree

from ._kernels import option


try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # before JAX 0.10
    from jax.core import get_opaque_trace_state


class _Equations:
    """A jaxpr that equals any other one with the same equations."""

    def __init__(self, jaxpr: Jaxpr):
        self.jaxpr = jaxpr
        self.key = _key(jaxpr)
        self._hash = hash(self.key)

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        if self is other:
            return True
        return isinstance(other, _Equations) and self.key == other.key


class TracedFunction(eqx.Module):
    """A function of arrays, represented by its equations and by what it captured.

    Two functions of the same text, made at different times, are equal up to the values of
    their leaves. The structures of arguments and results are fixed.
    """

    captured: list[Any]
    equations: _Equations = eqx.field(static=True)
    out_structure: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)

    @classmethod
    def of(cls, fn: Callable[..., Any], *structures: PyTree) -> "TracedFunction":
        """`fn`, traced at arguments of these structures."""
        # Wrapped in a new function, or JAX would find an earlier trace.
        closed, out = jax.make_jaxpr(lambda *args: fn(*args), return_shape=True)(
            *structures
        )
        jaxpr, numbers = _without_numbers(closed.jaxpr)
        captured = [jnp.asarray(x) for x in (*closed.consts, *numbers)]
        shapes, treedef = jtu.tree_flatten(out)
        out = treedef, tuple(jax.ShapeDtypeStruct(s.shape, s.dtype) for s in shapes)
        return cls(captured, _Equations(jaxpr), out)

    def __call__(self, *args: PyTree) -> PyTree:
        treedef, shapes = self.out_structure
        jaxpr, leaves = self.equations.jaxpr, jtu.tree_leaves(args)
        out = jax.core.eval_jaxpr(jaxpr, self.captured, *leaves)  # pyright: ignore[reportAttributeAccessIssue]
        out = [jnp.asarray(x, s.dtype) for x, s in zip(out, shapes, strict=True)]
        return jtu.tree_unflatten(treedef, out)


def holds_function(tree: PyTree) -> bool:
    """Whether it contains a function of the user's."""
    leaves = jtu.tree_leaves(tree, is_leaf=lambda x: isinstance(x, TracedFunction))
    return any(isinstance(x, TracedFunction) for x in leaves)


def _without_numbers(jaxpr: Jaxpr) -> tuple[Jaxpr, list[Any]]:
    """Turns real and complex numbers in the equations into inputs: the next step of a
    loop may have other ones."""
    variables, numbers, eqns = [], [], []

    def lifted(x: Any) -> Any:
        if not (isinstance(x, Literal) and jnp.issubdtype(x.aval.dtype, jnp.inexact)):  # pyright: ignore[reportAttributeAccessIssue]
            return x
        variables.append(Var(x.aval))
        numbers.append(np.asarray(x.val, x.aval.dtype))  # pyright: ignore[reportAttributeAccessIssue]
        return variables[-1]

    eqns = [
        # XLA recognises powers such as 1/2, and makes another program for them.
        eqn
        if eqn.primitive.name == "pow"
        else eqn.replace(invars=[lifted(x) for x in eqn.invars])
        for eqn in jaxpr.eqns
    ]
    return jaxpr.replace(constvars=[*jaxpr.constvars, *variables], eqns=eqns), numbers


def _key(jaxpr: Jaxpr) -> Hashable:
    """The whole content of a jaxpr, except the names of its variables."""
    number: dict[Any, int] = {}

    def atom(x: Any) -> Hashable:
        if isinstance(x, Literal):
            # A number, or an array of one of JAX's own types: by value.
            return "literal", x.aval, np.asarray(x.val).tobytes()
        return number.setdefault(x, len(number)), x.aval

    def atoms(xs: Sequence[Any]) -> Hashable:
        return tuple(atom(x) for x in xs)

    heads = atoms((*jaxpr.constvars, *jaxpr.invars))
    eqns = tuple(
        (
            eqn.primitive,
            atoms(eqn.invars),
            tuple((name, _static(x)) for name, x in sorted(eqn.params.items())),
            atoms(eqn.outvars),
        )
        for eqn in jaxpr.eqns
    )
    return len(jaxpr.constvars), heads, eqns, atoms(jaxpr.outvars)


class _Same:
    """An object compared by identity, and kept alive for that."""

    def __init__(self, x: Any):
        self.x = x

    def __hash__(self):
        return id(self.x)

    def __eq__(self, other):
        return isinstance(other, _Same) and self.x is other.x


def _static(x: Any) -> Hashable:
    """The content of an equation's parameter: arrays by value, functions by identity."""
    if isinstance(x, ClosedJaxpr):
        return _key(x.jaxpr), tuple(_static(c) for c in x.consts)
    if isinstance(x, Jaxpr):
        return _key(x)
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype, x.shape, x.tobytes()
    if isinstance(x, tuple | list):
        return type(x), tuple(_static(y) for y in x)
    if isinstance(x, dict):
        return tuple((name, _static(y)) for name, y in x.items())
    if isinstance(x, float | complex):
        return type(x), repr(x)  # NaN is not equal to itself, and -0.0 is to 0.0
    if hasattr(x, "call_wrapped"):
        return _rule(x)
    if callable(x) or isinstance(x, Array):
        return _Same(x)
    try:
        hash(x)
    except TypeError:
        return _Same(x)
    return type(x), x


def _rule(wrapped: Any) -> Hashable:
    """A custom rule, which JAX wraps anew in every trace: compared by the user's function
    and its arguments, if these can be found inside."""
    fn, depth = wrapped, 0
    while depth < 4:  # a memoised function of JAX, whose closure contains the user's
        cells = [c.cell_contents for c in getattr(fn.f, "__closure__", None) or ()]
        inner = [c for c in cells if hasattr(c, "call_wrapped")]
        functions = [c for c in cells if isinstance(c, types.FunctionType)]
        if inner:
            fn = inner[0]
            steps = [(gen, _arguments(args)) for gen, args in fn.transforms]
            return "rule", _Same(fn.f), tuple(steps)
        if len(functions) != 1:
            break
        fn, depth = types.SimpleNamespace(f=functions[0]), depth + 1
    return _Same(wrapped)


def _arguments(args: tuple[Any, ...], depth: int = 3) -> Hashable:
    """The arguments of a rule. JAX's own functions, made in every trace, are compared by
    their code and by what they hold; stores, where they leave results, by type."""

    def one(x: Any) -> Hashable:
        if hasattr(x, "store") or type(x).__name__.endswith("Store"):
            return type(x)
        module = getattr(x, "__module__", None) or ""
        if depth and isinstance(x, types.FunctionType) and module.startswith("jax."):
            cells = [c.cell_contents for c in x.__closure__ or ()]
            return x.__code__, _arguments(tuple(cells), depth - 1)
        return _static(x)

    return tuple(one(x) for x in args)


# Programs kept, for all functions together. One with its derivatives takes about a
# thousand of the 65 530 memory maps that Linux allows a process.
_MOST = 24
_ARRAYS = Array, np.ndarray, np.generic
_kept: collections.OrderedDict[Hashable, "_Compiled"] = collections.OrderedDict()
_lock = threading.Lock()


class Program:
    """`fn(*args)` of pytrees, compiled once for what is static in them.

    The most recently used programs are kept; older ones are dropped, and their memory is
    released.
    """

    def __init__(self, fn: Callable[..., Any], name: str | None = None):
        self.fn = fn
        self.name = fn.__name__.strip("_") if name is None else name

    def __call__(self, *args: PyTree) -> PyTree:
        leaves, treedef = jtu.tree_flatten(args)
        static = tuple(None if isinstance(x, _ARRAYS) else x for x in leaves)
        dynamic = [x for x in leaves if isinstance(x, _ARRAYS)]
        key = self, option(), treedef, static, tuple((x.shape, x.dtype) for x in dynamic)
        with _lock:
            program = _kept.pop(key, None)
            if program is None:
                program = _Compiled(self.fn, self.name, treedef, static)
            _kept[key] = program  # now the most recent
            dropped = [_kept.popitem(last=False)[1] for _ in range(len(_kept) - _MOST)]
        for old in dropped:
            old.forget()
        with jax.numpy_rank_promotion("allow"):
            return program(dynamic)


class _Compiled:
    out_treedef: Any
    out_static: list[Any]

    def __init__(
        self, fn: Callable[..., Any], name: str, treedef: Any, static: tuple[Any, ...]
    ):
        def run(dynamic: list[Any]) -> list[Array]:
            arrays = iter(dynamic)
            leaves = [next(arrays) if s is None else s for s in static]
            out = fn(*jtu.tree_unflatten(treedef, leaves))
            out, self.out_treedef = jtu.tree_flatten(out)
            self.out_static = [None if eqx.is_array(x) else x for x in out]
            return [x for x in out if eqx.is_array(x)]

        run.__name__ = name
        self.run = jax.jit(run)

    def __call__(self, dynamic: list[Any]) -> PyTree:
        arrays = iter(self.run(dynamic))
        out = [next(arrays) if s is None else s for s in self.out_static]
        return jtu.tree_unflatten(self.out_treedef, out)

    def forget(self) -> None:
        self.run.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]


def visible(x: Any) -> list[np.ndarray]:
    """The values of x that Python can see: x itself in a plain call; the values and
    tangents below the tracers of `grad`, `jvp` and `vmap`; none inside a compiled
    program."""
    if not isinstance(x, Tracer):
        return [np.asarray(x)]
    if hasattr(x, "primal"):
        return visible(x.primal) + visible(x.tangent)
    if hasattr(x, "batch_dim"):
        return visible(x.val)
    return []


def _below(x: Any) -> Any:
    """x, below the tracers of `grad`, `jvp` and `vmap`."""
    while isinstance(x, Tracer):
        if hasattr(x, "primal"):
            x = x.primal
        elif hasattr(x, "batch_dim"):
            axis, x = x.batch_dim, x.val
            if not isinstance(x, Tracer) and axis:
                x = np.moveaxis(np.asarray(x), axis, 0)  # pyright: ignore[reportArgumentType]
        else:
            break
    return x


def value_of(x: Any) -> np.ndarray | None:
    """The value of x below such tracers, if Python can see it; batches are its first
    axes."""
    x = _below(x)
    return None if x is None or isinstance(x, Tracer) else np.asarray(x)


def callers_level() -> int:
    """The `stacklevel`, seen from the caller, of the first frame outside this package and
    JAX: the user's line."""
    ours = tuple(os.path.dirname(file) for file in (__file__, jax.__file__, eqx.__file__))
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    return level


def is_plain(x: Any) -> bool:
    """Whether Python can see the value of x."""
    return not isinstance(_below(x), Tracer)


_ZERO, _OUTSIDE = np.zeros(()), get_opaque_trace_state()


def is_compiling() -> bool:
    """Whether the present call becomes part of a compiled program."""
    if get_opaque_trace_state() == _OUTSIDE:  # no transformation: the quick answer
        return False
    return not is_plain(jax.device_put(_ZERO))
