"""What is printed of results."""

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ieig

from .oracles import random_matrix, with_spectrum


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
