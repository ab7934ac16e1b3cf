"""What users write, as pyright and mypy see it: `make lint` runs both on this page.

`assert_type` fails where a type became another one, or `Any`. `test_types.py` runs the page.
"""

from typing import assert_type

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import implicit_eig as ieig


a = jnp.diag(jnp.arange(1.0, 9.0)) + 0.1 * jnp.ones((8, 8))


def selections() -> None:
    """`which` is a name, a callable, an object."""
    ieig.eigs(a, 2, "LR")
    ieig.eigs(a, 2, lambda w: -jnp.abs(w - 3.0))
    ieig.eigs(a, 2, ieig.Nearest(3.0))
    ieig.eigs(a, 2, ieig.Overlap(jnp.ones(8)))
    ieig.eigs(a, 4, ieig.Inside(ieig.Disk(3.0, 1.5)))
    for which in ("LM", "SR"):
        ieig.eigs(a, 2, which)
    ieig.eigsh(a, 2, "BE")
    ieig.eigsh(a, 2, lambda w: -w.real)
    ieig.invariant_subspace(a, 2, "LR")
    ieig.polyeig((a, jnp.eye(8)), 2, "SM")


def arrays() -> None:
    """What comes back is an array."""
    s = ieig.eigs(a, 2, left=True)
    assert_type(s, ieig.Solution)
    assert_type(s.eigenvalues, jax.Array)
    assert_type(s.residuals, jax.Array)
    assert_type(s.condition_numbers, jax.Array | None)
    assert_type(s.result == ieig.RESULTS.successful, jax.Array)
    first: jax.Array = s.eigenvectors[:, 0]  # `Any`: of the structure of the domain
    assert s.left_eigenvectors is not None
    assert first.shape == s.left_eigenvectors[:, 0].shape
    assert int(s.stats["num_converged"]) == 2

    assert_type(ieig.eigsh(a, 2).eigenvalues, jax.Array)
    w, v = ieig.eig(a)
    assert_type(w, jax.Array)
    assert_type(v, jax.Array)
    assert_type(ieig.eigvals(a), jax.Array)
    assert_type(ieig.eigh(a).eigenvectors, jax.Array)
    assert_type(ieig.spectral_abscissa(a), jax.Array)
    assert_type(ieig.funm(a, jnp.exp), jax.Array)

    sub = ieig.invariant_subspace(a, 2, left=True)
    assert_type(sub, ieig.Subspace)
    assert_type(sub.block, jax.Array)
    assert_type(sub.eigenvalues, jax.Array)
    assert_type(sub.trace, jax.Array)
    assert_type(sub.projector(), jax.Array)


def operators() -> None:
    """Operators: arrays, sparse matrices, lineax operators, functions of a pytree."""
    ieig.eigs(np.asarray(a), 2)
    ieig.eigs(ieig.SparseOperator([1.0, 2.0], [0, 1], [0, 1], n=2), 1)
    ieig.eigs(lx.MatrixLinearOperator(a), 2, mass=jnp.eye(8))
    ieig.eigs(
        lambda x: {"u": x["v"], "v": x["u"]},
        1,
        like={"u": jnp.ones(2), "v": jnp.ones(2)},
        eigensolver=ieig.Dense(),
        throw=False,
    )
    ieig.nonlinear_eigs(lambda z: a - z * jnp.eye(8), guess=1.0)
    ieig.attach(a, *np.linalg.eig(np.asarray(a)))


def choices() -> None:
    """Solvers, gauges, meters."""
    ieig.eigs(
        ieig.SparseOperator(jnp.arange(1.0, 9.0), np.arange(8), np.arange(8), n=8),
        2,
        sigma=2.2,
        eigensolver=None,
        adjoint=ieig.ImplicitAdjoint(lx.GMRES(rtol=1e-6, atol=1e-6)),
        gauge=ieig.Functional(jnp.ones(8)),
        ties="drop",
        progress_meter=ieig.NoProgressMeter(),
    )
    ieig.eigs(a, 2, eigensolver=ieig.KrylovSchur(rtol=1e-5), gauge=lambda v: v / v[0])
    ieig.ImplicitAdjoint(ieig.DeflatedGMRES(), preconditioner=lambda v: v / 2)
    ieig.ShiftInvert(2.2, lx.GMRES(rtol=1e-6, atol=1e-6), preconditioner=lambda v: v)
    ieig.eig(a, gauge=lambda v: v / v[0])


class Doubled(ieig.AbstractGauge):
    """One of the user's own."""

    def __call__(self, v: jax.Array) -> jax.Array:
        return 2 * v / jnp.linalg.norm(v)


class Largest(eqx.Module):
    """A model whose loss is an eigenvalue."""

    rates: jax.Array

    def __call__(self) -> jax.Array:
        return ieig.eigs(a + jnp.diag(self.rates), 1, "LR").eigenvalues[0].real


def losses() -> None:
    """Differentiated and compiled."""

    def loss(model: Largest) -> jax.Array:
        return model()

    gradient = eqx.filter_jit(eqx.filter_grad(loss))(Largest(jnp.zeros(8)))
    assert gradient.rates.shape == (8,)
    modes = ieig.eigs(a, 2, gauge=Doubled())
    assert_type(ieig.diagnose(a, modes), ieig.Diagnostics)

    def moved(t: jax.Array) -> jax.Array:
        return a + t * jnp.eye(8)

    path = ieig.follow(moved, jnp.linspace(0.0, 1.0, 3), modes)
    assert_type(path.eigenvalues, jax.Array)


if __name__ == "__main__":
    selections()
    arrays()
    operators()
    choices()
    losses()
