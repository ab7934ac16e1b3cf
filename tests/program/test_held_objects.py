"""What people hold that is no matrix and no function, and what they do with what comes
back: each gets a sentence of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import implicit_eig as ieig


M = np.diag([3.0, 2.0, 1.0]) + np.eye(3, k=1)


class QuantumObject:
    """Acts on objects of its own kind when called, as QuTiP's does."""

    def full(self):
        return M

    def __call__(self, other):
        return other.dag()


class StateSpace:
    """Calling it is its transfer function, as python-control's is."""

    A, B, C, D = M, M, M, M

    def __call__(self, s):
        return self.C @ np.linalg.inv(s - self.A) @ self.B


class Propagator:
    """An operator that also is an array: taken as what it does."""

    def __array__(self):
        return M

    def __call__(self, v):
        return jnp.asarray(M) @ v


@pytest.mark.parametrize("like", [None, jnp.zeros(3)], ids=["bare", "like"])
@pytest.mark.parametrize(
    "held, sentence",
    [
        (QuantumObject(), r"QuantumObject, which holds a matrix.*`operator\.full\(\)`"),
        (StateSpace(), r"state-space model.*`operator\.A`"),
        (np.poly1d([1.0, 2.0]), r"poly1d.*`numpy\.asarray\(operator\)`"),
        (QuantumObject, "the class QuantumObject, and not an object"),
    ],
    ids=["quantum object", "state space", "polynomial", "class"],
)
def test_an_object_that_is_called_for_something_else(held, sentence, like):
    with pytest.raises(TypeError, match=sentence):
        ieig.eigs(held, 1, like=like)


def test_of_a_mass_too():
    with pytest.raises(TypeError, match=r"`mass` is a QuantumObject"):
        ieig.eigs(M, 1, mass=QuantumObject())


@pytest.mark.parametrize(
    "held",
    [Propagator(), Propagator().__call__, functools.partial(jnp.dot, jnp.asarray(M))],
    ids=["object", "method", "partial"],
)
def test_an_object_whose_call_is_the_product_is_taken(held):
    solution = ieig.eigs(held, 1, like=jnp.zeros(3))
    assert np.allclose(solution.eigenvalues, 3)


def test_an_error_inside_a_function_stays_what_it_is():
    with pytest.raises(ZeroDivisionError):
        ieig.eigs(lambda v: v * (1 // 0), 1, like=jnp.zeros(3))


LONG = [np.longdouble, np.clongdouble]


@pytest.mark.parametrize("dtype", [*LONG, object, str], ids=lambda d: d.__name__)
def test_dtypes_that_jax_lacks_say_which_and_what_to_do(dtype):
    sentence = r"of a dtype that JAX has; got .*Convert it first, by `\.astype"
    with pytest.raises(TypeError, match=sentence):
        ieig.eigs(M.astype(dtype), 1)
    with pytest.raises(TypeError, match=sentence):
        ieig.eig(M.astype(dtype))


@pytest.mark.parametrize("dtype", LONG, ids=lambda d: d.__name__)
def test_dtypes_that_jax_lacks_in_scipys_objects(dtype):
    if np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("longdouble is double here")
    with pytest.raises(TypeError, match="dtype"):
        ieig.eigs(sp.csr_array(M.astype(dtype)), 1)
    with pytest.raises(TypeError, match="dtype"):
        ieig.eigs(spla.aslinearoperator(M.astype(dtype)), 1)


@pytest.mark.parametrize("held", ["matrix", None, {"a": M}], ids=["text", "None", "dict"])
def test_what_is_no_matrix_at_all(held):
    with pytest.raises(TypeError, match="must be a square array, a sparse matrix"):
        ieig.eigs(held, 1)


@pytest.mark.parametrize("gauge", [ieig.LargestReal(), ieig.LargestReal])
def test_a_gauge_for_a_selection(gauge):
    with pytest.raises(TypeError, match="pass `gauge=`"):
        ieig.eigs(M, 1, which=gauge)


def test_a_solution_says_how_to_take_it_apart():
    solution = ieig.eigs(M, 2)
    for unpack in (lambda: solution[:2], lambda: solution[0], lambda: tuple(solution)):
        with pytest.raises(TypeError, match=r"`w, v = s\.eigenvalues, s\.eigenvectors`"):
            unpack()


def test_results_and_solutions_are_words():
    solution = ieig.eigs(M, 2, left=True)
    assert repr(solution.result) == "implicit_eig.RESULTS<successful>"
    assert str(solution.result) == repr(solution.result)
    assert repr(solution) == str(solution)
    assert "result: successful" in repr(solution)


def test_a_notebook_shows_a_table():
    solution = ieig.eigs(M, 2, left=True)
    page = solution._repr_html_()
    assert page.count("<tr>") == 3
    for cell in ("eigenvalue", "residual", "κ", "<td>3</td>", "<td>2</td>"):
        assert cell in page
    shapes = jnp.stack([jnp.asarray(M), 2 * jnp.asarray(M)])

    batch = jax.vmap(lambda a: ieig.eigs(a, 2))(shapes)
    assert "complex128[2,2]" in batch._repr_html_()


def test_a_table_escapes_what_stands_in_it():
    assert "&lt;" in ieig._solution.html_table({"a<b": ["1"]})


def test_scipy_s_keywords_are_told_apart():
    a = np.eye(8)
    with pytest.raises(TypeError, match=r"`ncv`, `tol`. Did you mean .*krylov_dim.*rtol"):
        ieig.eigs(a, 2, ncv=5, tol=1e-8)
    with pytest.raises(TypeError, match=r"`M`\. Did you mean `mass`"):
        ieig.eigs(a, 2, M=a)
