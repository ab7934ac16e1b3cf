"""Which eigenvalues are wanted, and in which order they come back."""

import abc
import functools
from collections.abc import Callable
from typing import Any, get_args, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Inexact, Num, PyTree

from .._operator import complex_dtype, Domain, times_real
from .._program import TracedFunction


class AbstractSelection(eqx.Module):
    """Ranks eigenvalues: those with the largest keys are wanted.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig

        class Fastest(ieig.AbstractSelection):
            def keys(self, eigenvalues, overlaps, is_real):
                return jnp.abs(eigenvalues.imag)

        ieig.eigs(jnp.array([[0.0, 1.0], [-1.0, 0.1]]), 2, Fastest())
        ```
    """

    @abc.abstractmethod
    def keys(
        self,
        eigenvalues: Complex[Array, " m"],
        overlaps: Float[Array, " m"] | None,
        is_real: bool,
    ) -> Float[Array, " m"]:
        """A real key for each eigenvalue, the largest first.

        `overlaps` are |⟨target, v⟩|/‖v‖ if the selection has a `target`; `is_real`
        says that the operator is real, so that eigenvalues come in conjugate
        pairs.
        """

    @property
    def keeps_pairs(self) -> bool:
        """Whether a real operator's conjugate pairs are wanted as pairs."""
        return True

    def target(self) -> Inexact[Array, " n"] | None:
        """A vector; `keys` asks for its overlaps with the eigenvectors."""
        return None

    def seen(self, eigenvalues: Complex[Array, " m"]) -> Complex[Array, " m"]:
        """The eigenvalues whose real and imaginary parts break ties between keys."""
        return eigenvalues

    def is_meant(
        self,
        selected: Complex[Array, " k"],
        others: Complex[Array, " k"] | None,
        is_real: bool,
    ) -> Bool[ArrayLike, ""]:
        """Whether this defines which eigenvalues are wanted: the target is not NaN, inf
        or zero, no selected key is NaN or −inf, and no other key is inf."""
        target = self.target()
        if target is not None:
            return jnp.all(jnp.isfinite(target))
        best = self.keys(selected, None, is_real)
        meant = jnp.all((best > -jnp.inf) | ~jnp.isfinite(selected))
        if others is not None:
            meant = meant & ~jnp.any(self.keys(others, None, is_real) == jnp.inf)
        return meant

    def rescaled(self, size: Float[Array, ""]) -> "AbstractSelection":
        """Ranks λ / size as this one ranks λ."""
        return Rescaled(self, size)

    def is_extreme(self, is_real: bool) -> bool:
        """Whether the wanted eigenvalues lie at the rim of every spectrum, where a Krylov
        space finds them first. If not, better ones may exist that it has not found yet:
        `RESULTS.unconfirmed`."""
        del is_real
        return False


class Named(AbstractSelection):
    name: str = eqx.field(static=True)

    def keys(self, eigenvalues, overlaps, is_real):
        del overlaps
        # For a real operator, both members of a pair count as extreme, as in ARPACK.
        imag = jnp.abs(eigenvalues.imag) if is_real else eigenvalues.imag
        part = {"M": jnp.abs(eigenvalues), "R": eigenvalues.real, "I": imag}
        key = part[self.name[1]]
        return key if self.name[0] == "L" else -key

    def is_meant(self, selected, others, is_real):
        return True

    def rescaled(self, size):
        del size
        return self

    def is_extreme(self, is_real):
        # The least imaginary part is one end of the spectrum, the least modulus of the
        # imaginary part (for a real operator) the middle.
        return self.name != "SM" and not (self.name == "SI" and is_real)


class BothEnds(AbstractSelection):
    """Real eigenvalues from both ends of the spectrum alternately, the largest first.
    Keys are made of their places in the spectrum, which differ for copies of one."""

    def keys(self, eigenvalues, overlaps, is_real):
        del overlaps, is_real
        place = jnp.argsort(jnp.argsort(eigenvalues.real))
        from_above, from_below = eigenvalues.size - 1 - place, place
        return -jnp.minimum(2 * from_above, 2 * from_below + 1).astype(
            eigenvalues.real.dtype
        )

    def rescaled(self, size):
        del size
        return self

    def is_extreme(self, is_real):
        return True


class _Callable(AbstractSelection):
    fn: Callable[..., Any]
    of_real: bool = eqx.field(static=True, default=False)  # of a Hermitian problem

    def keys(self, eigenvalues, overlaps, is_real):
        del overlaps, is_real
        keys = jax.vmap(self.fn)(eigenvalues.real if self.of_real else eigenvalues)
        if (
            not isinstance(keys, Array)
            or jnp.iscomplexobj(keys)
            or keys.shape != eigenvalues.shape
        ):
            got = jax.tree_util.tree_map(jax.typeof, keys)
            raise TypeError(
                "`which(λ)` must return one real number; got "
                f"{got} for {jax.typeof(eigenvalues)}."
            )
        return keys.astype(eigenvalues.real.dtype)


class Nearest(AbstractSelection):
    """The eigenvalues nearest to `sigma`, nearest first.

    !!! Example

        ```python
        import jax.numpy as jnp, implicit_eig as ieig
        a = jnp.array([[2.0, 1.0], [0.5, 3.0]])
        ieig.eigs(a, 1, ieig.Nearest(3.0))
        ```
    """

    sigma: Num[Array, ""]

    def __init__(self, sigma: ArrayLike):
        self.sigma = as_shift(sigma)

    @property
    def keeps_pairs(self):
        # Only one member of a conjugate pair is near a complex target.
        return not jnp.iscomplexobj(self.sigma)

    def keys(self, eigenvalues, overlaps, is_real):
        del overlaps, is_real
        return -jnp.abs(eigenvalues - self.sigma.astype(eigenvalues.dtype))

    def rescaled(self, size):
        return Nearest(rescaled_shift(self.sigma, size))


def rescaled_shift(sigma: Num[Array, ""], size: Float[Array, ""]) -> Num[Array, ""]:
    return times_real(sigma, 1 / size.astype(jnp.finfo(sigma.dtype).dtype))


def as_shift(sigma: ArrayLike) -> Num[Array, ""]:
    """σ as an array; refused unless it is one finite number; made real if it is real."""
    sigma = jnp.asarray(sigma)
    if sigma.shape != ():
        raise ValueError(f"`sigma` must be one number; got shape {sigma.shape}.")
    if not isinstance(sigma, Tracer):
        known = np.asarray(sigma)
        if not np.isfinite(known):
            raise ValueError(f"`sigma` must be finite; got {sigma}.")
        if np.iscomplexobj(known) and np.imag(known) == 0:
            sigma = jnp.asarray(np.real(known))
    return sigma if jnp.issubdtype(sigma.dtype, jnp.inexact) else sigma * 1.0


class Overlap(AbstractSelection):
    """The pairs whose eigenvectors overlap most with `v`: `|vᴴx| / (‖v‖ ‖x‖)`.

    Follows one mode along a path of parameters, even where eigenvalues cross. `v` is a
    vector of the operator's domain, of its dtype or complex; it carries no derivative.

    With a gauge made from the same vector, the phase is followed too: the path of vectors
    is then as smooth as that of the operator, even where the default gauge jumps from one
    largest entry to another.

    !!! Example

        ```python
        import jax, jax.numpy as jnp, implicit_eig as ieig

        def matrix(t):  # the eigenvalues t and 1 − t cross at 1/2
            t, one = jnp.asarray(t, complex), jnp.asarray(1, complex)
            s = jnp.array([[one, 0.3j * t], [0.5j + t, one]])
            return s @ jnp.diag(jnp.array([t, 1 - t])) @ jnp.linalg.inv(s)

        @jax.jit
        def follow(t, v):
            gauge = ieig.Functional(v / jnp.vdot(v, v))  # the component along v is one
            s = ieig.eigs(matrix(t), 1, ieig.Overlap(v), gauge=gauge)
            return s.eigenvalues[0], s.eigenvectors[:, 0]

        v = jnp.array([1.0, 0.5j])
        for t in jnp.linspace(0.0, 1.0, 8):
            w, v = follow(t, v)
            assert abs(w.real - t) < 1e-5
        ```
    """

    v: PyTree[Inexact[Array, "..."]]

    def keys(self, eigenvalues, overlaps, is_real):
        del eigenvalues, is_real
        assert overlaps is not None
        return overlaps

    def target(self):
        v = Domain.of(jax.eval_shape(lambda: self.v)).flatten(self.v)
        v = jax.lax.stop_gradient(v)
        # Squares of small or large entries would under- or overflow.
        v = v / jnp.max(jnp.abs(v)).astype(v.dtype)
        return v / jnp.linalg.norm(v).astype(v.dtype)

    def rescaled(self, size):
        del size
        return self


class Known(AbstractSelection):
    """The eigenvalues that are already known, to be found again."""

    eigenvalues: Complex[Array, " k"]

    def keys(self, eigenvalues, overlaps, is_real):
        del overlaps, is_real
        known = self.eigenvalues.astype(eigenvalues.dtype)
        return -jnp.min(jnp.abs(eigenvalues[:, None] - known), axis=1)

    def rescaled(self, size):
        return Known(times_real(self.eigenvalues, 1 / size))


class Rescaled(AbstractSelection):
    """Ranks λ / size as `inner` ranks λ."""

    inner: AbstractSelection
    size: Float[Array, ""]

    def keys(self, eigenvalues, overlaps, is_real):
        return self.inner.keys(times_real(eigenvalues, self.size), overlaps, is_real)

    @property
    def keeps_pairs(self):
        return self.inner.keeps_pairs

    def target(self):
        return self.inner.target()

    def is_extreme(self, is_real):
        return self.inner.is_extreme(is_real)


class Shifted(AbstractSelection):
    """Ranks θ = 1 / (λ − σ) as `inner` ranks λ."""

    inner: AbstractSelection
    sigma: Num[Array, ""]

    def keys(self, eigenvalues, overlaps, is_real):
        return self.inner.keys(self.seen(eigenvalues), overlaps, is_real)

    def target(self):
        return self.inner.target()

    def seen(self, eigenvalues):
        return unshifted(eigenvalues, self.sigma)

    def is_extreme(self, is_real):
        # The eigenvalue nearest to the shift has the largest θ.
        del is_real
        return isinstance(self.inner, Nearest)


def unshifted(theta: Complex[Array, " m"], sigma: Num[Array, ""]) -> Complex[Array, " m"]:
    """λ from θ = 1 / (λ − σ); NaN if θ = 0 and λ is infinite."""
    zero = theta == 0
    values = sigma.astype(theta.dtype) + 1 / jnp.where(zero, 1, theta)
    return jnp.where(zero, jnp.nan, values)


_Name = Literal["LM", "SM", "LR", "SR", "LI", "SI"]
_NAMES = get_args(_Name)
# What users pass for `which`.
_Key = Callable[[Array], ArrayLike] | AbstractSelection
Which = _Name | _Key
HermitianWhich = Literal["SA", "LA", "LM", "SM", "BE"] | _Key


def as_selection(which: Any, domain: Domain, of_real: bool = False) -> AbstractSelection:
    if isinstance(which, Overlap):
        check_vector(which.v, domain, "the vector of `Overlap`")
        check_direction(domain.flatten(which.v), "the vector of `Overlap`")
        return which
    if isinstance(which, AbstractSelection):
        return which
    if isinstance(which, str):
        if which not in _NAMES:
            raise ValueError(
                f"`which` must be one of {', '.join(_NAMES)}, a callable, `Nearest` or "
                f"`Overlap`; got {which!r}."
            )
        return _named(which)
    if callable(which):
        dtype = jnp.finfo(domain.dtype).dtype if of_real else complex_dtype(domain.dtype)
        value = jax.ShapeDtypeStruct((), dtype)
        return _Callable(TracedFunction.of(which, value), of_real)
    raise TypeError(
        f"`which` must be one of {', '.join(_NAMES)}, a callable, `Nearest` or "
        f"`Overlap`; got {which!r}."
    )


# Made once, as every plain call would pay for it again.
_named = functools.cache(Named)


def check_vector(v: Any, domain: Domain, name: str) -> None:
    """Refuses what is not a vector of the operator's domain."""
    leaves, treedef = jax.tree_util.tree_flatten(v)
    shapes = [jnp.shape(leaf) for leaf in leaves]
    if treedef != domain.treedef or shapes != [s.shape for s in domain.leaves]:
        raise ValueError(
            f"{name} must be a vector of the operator's domain, of shape "
            f"{[s.shape for s in domain.leaves]}; got {shapes}."
        )


def check_direction(v: Array, name: str) -> None:
    """Refuses a vector without a direction, if its values are known."""
    if isinstance(v, Tracer):
        return
    # Not `np.asarray`, as parts of v may be on other hosts. Constants of a program that
    # is being traced are known as well.
    with jax.ensure_compile_time_eval():
        finite, direction = jnp.all(jnp.isfinite(v)), jnp.any(v != 0)
    if not finite:
        raise ValueError(f"{name} contains NaN or inf.")
    if not direction:
        raise ValueError(f"{name} is zero: it must have a direction.")
