"""Bounds against true errors, where κ and gaps are dialled; what is printed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import random_matrix, with_spectrum


def test_a_solution_prints_a_line_for_each_pair():
    a = with_spectrum(1, [5.0, 3.0, 1.0, 0.5])
    solution = ieig.eigs(a, k=2, left=True)
    lines = str(solution).splitlines()
    assert "eigenvalue" in lines[0] and "κ" in lines[0] and "converged" not in lines[0]
    assert lines[1].split()[:2] == ["0", "5"] and lines[2].split()[:2] == ["1", "3"]
    kappa = [float(line.split()[-1]) for line in lines[1:3]]
    assert np.allclose(kappa, solution.condition_numbers, rtol=0.1)
    assert lines[3] == "result: successful" and "num_matvecs=0" in lines[4]
    assert "eigenvalues=complex128[2]" not in str(solution)


def test_a_pair_that_did_not_converge_is_marked():
    solver = ieig.KrylovSchur(max_restarts=1, krylov_dim=20)
    a = random_matrix(1, 200)
    text = str(ieig.eigs(a, k=4, eigensolver=solver, throw=False))
    assert "converged" in text.splitlines()[0] and "not" in text.splitlines()[4]
    assert "Fewer than `k` eigenpairs converged" in text


def test_traced_values_and_batches_print_their_shapes():
    a, seen = random_matrix(2, 3, batch=(2,)), []

    def f(a):
        solution = ieig.eigs(a, k=1, which="LR", throw=False)
        seen.append(str(solution))
        return solution

    batch = str(jax.vmap(f)(a))
    assert "eigenvectors=complex128[3,1]" in seen[0]
    assert "eigenvalues=complex128[2,1]" in batch


def test_pytrees_and_subspaces_print():
    def mv(v):
        return {"x": 2.0 * v["x"] + v["y"], "y": 3.0 * v["y"]}

    like = {"x": jnp.ones(2), "y": jnp.ones(2)}
    assert str(ieig.eigs(mv, k=1, like=like, ties="drop")).splitlines()[1].split()[1] == (
        "3"
    )
    subspace = ieig.invariant_subspace(jnp.diag(jnp.array([1.0, 2.0, 4.0])), k=1)
    lines = str(subspace).splitlines()
    assert lines[1].split() == ["0", "4"] and lines[2].startswith("residual")
    assert lines[3] == "result: successful"


N = 8


def dialled(kappa, gap):
    """Eigenvalues 1 to 6, 7 and 7 + gap; the last two have the condition number κ."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(N, N)))[0]
    t = np.diag(np.arange(1.0, N + 1))
    t[-1, -1] = 7 + gap
    t[-2, -1] = gap * np.sqrt(kappa**2 - 1)
    return q @ t @ q.T


diagnose = ieig.diagnose


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    ("kappa", "gap"), [(1e1, 1.0), (1e4, 1.0), (1e7, 1.0), (1e2, 1e-3), (1e4, 1e-3)]
)
def test_condition_number_separation_and_gap_are_true(kappa, gap, left):
    a = dialled(kappa, gap)
    solution = ieig.eigs(jnp.asarray(a), k=2, left=left)
    found = diagnose(jnp.asarray(a), solution)
    # The data's own rounding moves κ by a relative eps ‖A‖ κ / gap, ‖A‖ about gap · κ.
    enough = 1e-6 + 1e-15 * max(10, gap * kappa) * kappa / gap
    assert np.allclose(found.condition_numbers, kappa, rtol=enough)
    assert np.allclose(found.gap, gap, rtol=enough)
    for j in range(2):
        v = np.asarray(solution.eigenvectors)[:, j]
        rest = np.linalg.svd(v[:, None])[0][:, 1:]
        inside = a - complex(solution.eigenvalues[j]) * np.eye(N)
        inside = rest.conj().T @ inside @ rest
        truth = np.linalg.svd(inside, compute_uv=False)[-1]
        assert 0.99 * truth < found.separation[j] < 3 * truth


def true_pairs(a):
    w, v = np.linalg.eig(a)
    order = np.argsort(-w.real)
    return w[order], v[:, order], np.linalg.inv(v[:, order])


@pytest.mark.parametrize(("kappa", "gap"), [(1e1, 1.0), (1e3, 1.0), (1e2, 1e-2)])
def test_errors_of_inexact_pairs_are_below_their_bounds(kappa, gap):
    a = dialled(kappa, gap)
    e = np.random.default_rng(1).normal(size=(N, N))
    solution = ieig.eigs(jnp.asarray(a + 1e-9 * e), k=4)
    found = diagnose(jnp.asarray(a), solution)
    w, v, u = true_pairs(a)
    w_e, v_e, u_e = true_pairs(a + 1e-9 * e)
    for j in range(4):
        error = abs(w_e[j] - w[j]) / abs(w[j])
        assert error < 1.1 * found.eigenvalue_error[j]
        unit = v[:, j] / np.linalg.norm(v[:, j])
        other = v_e[:, j] / np.linalg.norm(v_e[:, j])
        error = np.linalg.norm(other - unit * np.vdot(unit, other))
        assert 1e-3 * found.vector_error[j] < error < 1.1 * found.vector_error[j]
        gradient, near = (np.outer(y[j], x[:, j]) for y, x in ((u, v), (u_e, v_e)))
        error = np.linalg.norm(near - gradient) / np.linalg.norm(gradient)
        assert error < 1.1 * found.gradient_error[j]


def test_mass_operators_and_callables_are_diagnosed_like_matrices():
    a, b = dialled(10.0, 1.0), random_matrix(3, N) + 5 * jnp.eye(N)
    a = jnp.asarray(a) @ b
    solution = ieig.eigs(a, k=2, mass=b, left=True)
    found = ieig.diagnose(
        lambda v: a @ v, solution, mass=b, like=jax.ShapeDtypeStruct((N,), a.dtype)
    )
    bare = eqx.tree_at(
        lambda s: s.left_eigenvectors, solution, None, is_leaf=lambda x: x is None
    )
    again = diagnose(a, bare, mass=b)
    assert np.allclose(found.condition_numbers, solution.condition_numbers, rtol=1e-8)
    assert np.allclose(again.condition_numbers, solution.condition_numbers, rtol=1e-8)
    assert np.allclose(found.separation, again.separation, rtol=1e-6)
    assert "condition_numbers" in str(found) and len(str(found).splitlines()) == 3
    with pytest.raises(TypeError, match="solution"):
        ieig.diagnose(a, 3)


def test_diagnostics_of_a_batch_are_those_of_its_members():
    batch = jnp.stack([random_matrix(seed, 6) for seed in (1, 2)])
    one = lambda a: ieig.diagnose(a, ieig.eigs(a, k=2))
    together = jax.jit(jax.vmap(one))(batch)
    for i, a in enumerate(batch):
        alone = one(a)
        assert np.allclose(together.condition_numbers[i], alone.condition_numbers)
        assert np.allclose(together.separation[i], alone.separation)
        assert np.allclose(together.gap[i], alone.gap)


def test_a_solution_of_something_else_is_refused():
    solution = ieig.eigs(random_matrix(0, 6), k=2)
    with pytest.raises(ValueError, match=r"\(6,\).*\(5,\)"):
        ieig.diagnose(jnp.eye(5), solution)
    with pytest.raises(TypeError, match="got 3"):
        ieig.diagnose(jnp.eye(5), 3)
