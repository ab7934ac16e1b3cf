"""The one search space of `deflated_gmres.py`: how it grows, what it knows about each
pair, and which part of it goes into the next cycle."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int

from .._krylov import append_within, combination, combinations, from_rows, to_rows
from .._operator import Pencil
from .._spectral import Inverse
from .columnwise import precondition
from .system import ProjectedSylvester, times


class Space(NamedTuple):
    """V, Φ, S, H_A, H_B; unused vectors and columns are zero."""

    basis: Float[Array, "rows c parts size"]  # as of a Krylov run
    used: Int[Array, ""]
    right: Inexact[Array, "rows m"]
    directions: Inexact[Array, "rows d"]
    image: Inexact[Array, "rows d"]
    mass_image: Inexact[Array, "rows d"]
    count: Int[Array, ""]

    @property
    def dtype(self):
        """The dtype of vectors and their coordinates; solutions are complex if real
        vectors have complex coefficients."""
        return self.right.dtype


class _Fit(NamedTuple):
    """The least-squares problem of one column: W = H_A − t H_B, its QR factors, and the
    coefficients and residual of `b`."""

    w: Complex[Array, "rows d"]
    q: Complex[Array, "rows d"]
    r: Complex[Array, "d d"]
    coefficients: Complex[Array, " d"]
    residual: Complex[Array, " rows"]
    short: Bool[Array, ""]


class Search(eqx.Module):
    """The systems `P (A − t_jj B) Q y_j = b_j`, and the search for their solutions."""

    system: ProjectedSylvester
    preconditioner: Pencil | Inverse | None
    t: Complex[Array, "m m"]
    u: Complex[Array, "m m"]
    rtol: float = eqx.field(static=True)
    size: Float[Array, ""]  # ‖rhs‖
    restart: int = eqx.field(static=True)
    kept: int = eqx.field(static=True)
    krylov: bool = eqx.field(static=True)

    def start(self, rhs: Inexact[Array, "n m"], rows: int) -> Space:
        zeros = jnp.zeros((rows, self.restart), rhs.dtype)

        def add(carry, column):
            basis, used = carry
            basis, used, h = self.append(basis, used, column)
            return (basis, used), h

        # Make no directions from rounding errors.
        rhs = jnp.where(self.negligible(rhs), 0, rhs)
        basis = jnp.zeros((rows, *to_rows(rhs[:, 0]).shape), rhs.real.dtype)
        init = basis, jnp.asarray(0)
        (basis, used), right = jax.lax.scan(add, init, rhs.T)
        return Space(basis, used, right.T, zeros, zeros, zeros, jnp.asarray(0))

    def search(
        self, space: Space
    ) -> tuple[Space, Complex[Array, "d m"], Complex[Array, "rows m"], Bool[Array, " m"]]:
        """Runs one cycle: returns the space, coefficients and residuals of all columns of
        the Schur form, and which of them miss the tolerance."""
        right = times(space.right, self.u)
        above = jnp.triu(self.t, 1)
        d, m = space.image.shape[1], right.shape[1]

        def column(carry, j):
            space, solved, solution = carry
            earlier = times(space.mass_image, solved @ above[:, j])
            b, shift = right[:, j] + earlier, self.t[j, j]

            def fit(space, w, q, r) -> _Fit:
                free = (jnp.arange(d) < space.count) & (jnp.abs(jnp.diagonal(r)) > 0)
                r = jnp.where(free[:, None] & free[None, :], r, jnp.eye(d, dtype=r.dtype))
                q = jnp.where(free, q, 0)
                c = jax.scipy.linalg.solve_triangular(r, q.conj().T @ b)
                c = jnp.where(free, c, 0)
                # An unused column is zero, and its shift is an eigenvalue.
                c = jnp.where(jnp.linalg.norm(b) > enough(0 * c), c, 0)
                residual = b - w @ c
                return _Fit(w, q, r, c, residual, jnp.linalg.norm(residual) > enough(c))

            def enough(c):
                y = times(space.mass_image, c)
                size = jnp.sqrt(solution + jnp.linalg.norm(y) ** 2)
                # The solution's norm, as far as it is known without forming it.
                scale = self.system.scale if self.system.pencil.mass is None else 0.0
                return self.rtol * (scale * size + self.size)

            def going(state):
                space, fit = state
                room = space.basis.shape[0] - space.used >= (1 if self.krylov else 2)
                room = room & (space.count < d)
                # A new direction needs a basis vector that no direction has used.
                return fit.short & room & (space.used > space.count)

            def step(state):
                space, old = state
                space = self.expand(space, old.residual)
                last = space.count - 1
                new = _shifted(space.image[:, last], space.mass_image[:, last], shift)
                w = jax.lax.dynamic_update_index_in_dim(old.w, new, last, axis=1)
                return space, fit(space, w, *_update(old.q, old.r, new, last))

            w = _shifted(space.image, space.mass_image, shift)
            first = fit(space, w, *jnp.linalg.qr(w))
            space, last = jax.lax.while_loop(going, step, (space, first))
            c = last.coefficients
            solved = solved.at[:, j].set(c)
            solution = solution + jnp.linalg.norm(times(space.mass_image, c)) ** 2
            return (space, solved, solution), (last.residual, last.short)

        init = (
            space,
            jnp.zeros((d, m), self.t.dtype),
            jnp.zeros((), self.size.dtype),
        )
        (space, solved, _), (residual, short) = jax.lax.scan(column, init, jnp.arange(m))
        return space, solved, residual.T, short

    def expand(self, space: Space, residual: Complex[Array, " rows"]) -> Space:
        """Adds a direction and its images."""
        basis, used, _, directions, image, mass_image, count = space
        s = _next(directions, _one_of(residual, space.dtype), used)
        pencil, project = self.system.pencil, self.system.project
        z = from_rows(combination(s, basis))[:, None]
        if not self.krylov:
            z = self.system.restrict(self.precondition(z))
        az = project(pencil.mm(z))[:, 0]
        basis, used, ha = self.append(basis, used, az)
        hb = s
        if not self.krylov:
            bz = project(pencil.mass_mm(z))[:, 0]
            basis, used, hb = self.append(basis, used, bz)

        def put(x, column):
            return jax.lax.dynamic_update_index_in_dim(x, column, count, axis=1)

        return space._replace(
            basis=basis,
            used=used,
            directions=put(directions, s),
            image=put(image, ha),
            mass_image=put(mass_image, hb),
            count=count + 1,
        )

    def append(
        self,
        basis: Float[Array, "rows c parts size"],
        used: Int[Array, ""],
        w: Inexact[Array, " n"],
    ) -> tuple[
        Float[Array, "rows c parts size"], Int[Array, ""], Inexact[Array, " rows"]
    ]:
        """w in coordinates of V, to which the part of w outside its span is added."""

        def admit(w: Array) -> Array:
            return self.system.project(w[:, None])[:, 0]

        basis, h, nothing_new = append_within(admit, used, used, basis, to_rows(w))
        return basis, used + (~nothing_new).astype(used.dtype), h

    def precondition(self, y: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        if self.preconditioner is None:
            return y
        return precondition(self.preconditioner, y)

    def combine(
        self, space: Space, coefficients: Complex[Array, "d m"]
    ) -> Inexact[Array, "n m"]:
        """Y = Q M V S C."""
        mass = self.system.pencil.mass is not None
        # B = I: the images under B hold the coordinates of the directions themselves.
        of = times(space.directions if mass else space.mass_image, coefficients)
        of = _as(of @ self.u.conj().T, space.dtype)
        y = from_rows(combinations(of, space.basis)).T
        return self.system.restrict(self.precondition(y) if mass else y)

    def renew(
        self, space: Space, residual: Complex[Array, "rows m"], short: Bool[Array, " m"]
    ) -> Space:
        """The space of a new cycle: residuals, recycled directions and their images, all
        given by their coordinates."""
        dtype, p = space.dtype, self.kept
        right = _as(residual @ self.u.conj().T, dtype)
        parts = [jnp.where(self.negligible(right), 0, right)]
        if p:
            # Recycled for the column that will be worked on next.
            shift = self.t[jnp.argmax(short), jnp.argmax(short)]
            w = _shifted(space.image, space.mass_image, shift)
            recycled = _smallest(w, space.count, p, dtype)
            sets = [space.directions, space.image, space.mass_image]
            parts += [x @ recycled for x in (sets[:2] if self.krylov else sets)]
        frame = _orthonormal(jnp.concatenate(parts, axis=1))
        width, used = frame.shape[1], jnp.sum(jnp.any(frame != 0, axis=0))
        basis = jnp.swapaxes(combinations(frame, space.basis), 0, 1)
        basis = jnp.zeros_like(space.basis).at[:width].set(basis)
        zeros = jnp.zeros_like(space.image)

        def moved(x):
            x = frame.conj().T @ x
            return jnp.zeros((zeros.shape[0], x.shape[1]), dtype).at[:width].set(x)

        right = moved(parts[0])
        if not p:
            return Space(basis, used, right, zeros, zeros, zeros, jnp.asarray(0))
        directions, image, *rest = (zeros.at[:, :p].set(moved(x)) for x in parts[1:])
        count = jnp.sum(jnp.any(recycled != 0, axis=0))
        mass_image = directions if self.krylov else rest[0]
        return Space(basis, used, right, directions, image, mass_image, count)

    def negligible(self, columns: Inexact[Array, "_n m"]) -> Bool[Array, " m"]:
        """Which columns are rounding errors: a loss on one pair leaves such right sides
        for the others."""
        return jnp.linalg.norm(columns, axis=0) <= 0.1 * self.rtol * self.size


def _shifted(image: Array, mass_image: Array, t: Inexact[Array, ""]) -> Array:
    """H_A − t H_B, or columns of it."""
    return image.astype(t.dtype) - t * mass_image.astype(t.dtype)


def _as(x: Array, dtype) -> Array:
    """x, or its real part if `dtype` is real: the imaginary part is no part of the
    solution of a real system."""
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        x = x.real
    return x.astype(dtype)


def _one_of(residual: Inexact[Array, " rows"], dtype) -> Inexact[Array, " rows"]:
    """A unit vector along the residual; for a complex residual and a real basis, along
    the largest real part that a phase factor can give it."""
    if jnp.iscomplexobj(residual) and not jnp.issubdtype(dtype, jnp.complexfloating):
        angle = jnp.angle(jnp.sum(residual**2)) / 2
        residual = residual * jax.lax.complex(jnp.cos(angle), -jnp.sin(angle))
    residual = _as(residual, dtype)
    size = jnp.linalg.norm(residual)
    return residual / jnp.where(size > 0, size, 1).astype(dtype)


def _next(
    directions: Inexact[Array, "rows d"],
    residual: Inexact[Array, " rows"],
    used: Int[Array, ""],
) -> Inexact[Array, " rows"]:
    """The coordinates (a unit vector) from which the next direction is made: orthogonal
    to the earlier ones, and nearest to the residual."""

    def outside(s):
        s = s - directions @ (directions.conj().T @ s)
        s = s - directions @ (directions.conj().T @ s)
        return s, jnp.linalg.norm(s)

    s, size = outside(residual)
    # A residual that the last direction did not change has no such part. Go on with the
    # newest vector, as GMRES does.
    free = 1 - jnp.sum(jnp.abs(directions) ** 2, axis=1)
    index = jnp.arange(free.size)
    newest = jnp.argmax(jnp.where((index < used) & (free > 0.5 / free.size), index, -1))
    other, other_size = outside((index == newest).astype(s.dtype))
    stagnated = size <= jnp.finfo(size.dtype).eps ** 0.5
    s, size = jnp.where(stagnated, other, s), jnp.where(stagnated, other_size, size)
    return s / jnp.where(size > 0, size, 1).astype(s.dtype)


def _update(
    q: Complex[Array, "rows d"], r: Complex[Array, "d d"], w: Array, index: Int[Array, ""]
) -> tuple[Complex[Array, "rows d"], Complex[Array, "d d"]]:
    """The QR factors after column `index` has become w; if w is in the span already, the
    column of Q is zero."""
    h = q.conj().T @ w
    rest = w - q @ h
    correction = q.conj().T @ rest
    h, rest = h + correction, rest - q @ correction
    size = jnp.linalg.norm(rest)
    new = size > 10 * jnp.finfo(size.dtype).eps * jnp.linalg.norm(w)
    rest = jnp.where(new, rest / jnp.where(new, size, 1).astype(w.dtype), 0)
    h = h.at[index].set(jnp.where(new, size, 0).astype(h.dtype))
    q = jax.lax.dynamic_update_index_in_dim(q, rest, index, axis=1)
    return q, jax.lax.dynamic_update_index_in_dim(r, h, index, axis=1)


def _smallest(
    w: Inexact[Array, "rows d"], count: Int[Array, ""], p: int, dtype
) -> Inexact[Array, "d p"]:
    """An orthonormal basis, in the dtype of V, of the subspace of the first `count`
    coordinates on which W is smallest."""
    d = w.shape[1]
    r = jnp.linalg.qr(w)[1]
    idle = jnp.arange(d) >= count
    largest = jnp.maximum(jnp.max(jnp.abs(r)), 1)
    # Unused coordinates get the largest singular values, so that they come first.
    large = jnp.where(idle, 1e3 * d * largest, 0).astype(r.dtype)
    r = jnp.where(idle[None, :], 0, r) + jnp.diag(large)
    vectors = jnp.linalg.svd(r)[2].conj().T[:, ::-1][:, :p]
    vectors = jnp.where(idle[:, None], 0, vectors)
    if jnp.iscomplexobj(vectors) and not jnp.issubdtype(dtype, jnp.complexfloating):
        vectors = jnp.concatenate([vectors.real, vectors.imag], axis=1)
    vectors = _orthonormal(_as(vectors, dtype))[:, :p]
    return jnp.where(jnp.arange(p) < count, vectors, 0)


def _orthonormal(x: Inexact[Array, "rows k"]) -> Inexact[Array, "rows k"]:
    """Orthonormal columns that span those of x, followed by zero columns."""
    size = jnp.linalg.norm(x, axis=0)
    q, s, _ = jnp.linalg.svd(
        x / jnp.where(size > 0, size, 1).astype(x.dtype), full_matrices=False
    )
    spanned = s > 10 * x.shape[0] * jnp.finfo(s.dtype).eps * s[0]
    return jnp.where(spanned, q, 0)
