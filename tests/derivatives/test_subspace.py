"""Invariant subspaces, where eigenvalues inside coincide or are defective as elsewhere."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ieig

from ..oracles import random_matrix, relative, slow_but, with_spectrum


RUNTIME = (RuntimeError, jax.errors.JaxRuntimeError)
N = 60


def defective(n):
    """A double eigenvalue 3 with one eigenvector, the others in [−1, 1]."""
    rng = np.random.default_rng(1)
    inside = np.diag(np.concatenate([[3.0, 3.0], np.linspace(-1, 1, n - 2)]))
    inside[0, 1] = 1.0
    v = np.eye(n) + 0.7 * rng.normal(size=(n, n)) / np.sqrt(n)
    return jnp.asarray(v @ inside @ np.linalg.inv(v))


def sparse(a):
    rows, columns = np.indices(a.shape).reshape(2, -1)
    return ieig.SparseOperator(a.ravel(), rows, columns, a.shape[0])


def dense(a, k=2, **kwargs):
    return ieig.invariant_subspace(a, k, "LR", **kwargs)


def krylov(a, k=2, **kwargs):
    solver = ieig.KrylovSchur(rtol=1e-13)
    kwargs = {"left": True, "eigensolver": solver} | kwargs
    return ieig.invariant_subspace(lambda v: a @ v, k, "LR", like=a[0], **kwargs)


def shift_invert(a, k=2, **kwargs):
    solver = ieig.ShiftInvert(3.4, inner=ieig.KrylovSchur(rtol=1e-13))
    return ieig.invariant_subspace(a, k, eigensolver=solver, **kwargs)


REAL = with_spectrum(0, np.linspace(-1, 1, N) ** 3 + np.linspace(0, 2, N))
COMPLEX = random_matrix(1, N, np.complex128)
MASS = jnp.eye(N) + 0.05 * random_matrix(2, N) / np.sqrt(N)


CASES = {
    "dense": (REAL, None, lambda a, b: ieig.invariant_subspace(a, 4, "LR")),
    "complex": (COMPLEX, None, lambda a, b: ieig.invariant_subspace(a, 4)),
    "sparse": (
        REAL,
        None,
        lambda a, b: ieig.invariant_subspace(sparse(a), 4, "LR", left=True),
    ),
    "complex target": (
        random_matrix(3, N),
        None,
        lambda a, b: ieig.invariant_subspace(a, 3, sigma=1 + 2j),
    ),
    "mass": (REAL, MASS, lambda a, b: ieig.invariant_subspace(a, 4, "LR", mass=b)),
    "mass and shift": (REAL, MASS, lambda a, b: shift_invert(a, 4, mass=b)),
    "mass, krylov": (
        REAL,
        MASS,
        lambda a, b: krylov(
            a,
            4,
            mass=b,
            eigensolver=ieig.KrylovSchur(rtol=1e-12, mass_solver=lx.LU()),
        ),
    ),
}


@pytest.mark.parametrize(
    "case", slow_but(["complex", "complex target", "mass", "mass, krylov"], CASES)
)
def test_it_is_what_its_attributes_say(case):
    a, b, find = CASES[case]
    s = jax.jit(find)(a, b)
    b = jnp.eye(N) if b is None else b
    x, l, y = s.basis, s.block, s.left_basis
    k = l.shape[0]
    assert jnp.isrealobj(x) == jnp.isrealobj(l) == (case[:7] != "complex")
    dtype = x.dtype
    a, b = a.astype(dtype), b.astype(dtype)
    assert relative(x.conj().T @ x, np.eye(k)) < 1e-13
    assert relative(a @ x, b @ x @ l) < 1e-9
    assert np.isclose(s.residual, relative(a @ x, b @ x @ l), rtol=1e-3, atol=1e-15)
    assert relative(y.conj().T @ a, l @ y.conj().T @ b) < 1e-8
    assert relative(y.conj().T @ b @ x, np.eye(k)) < 1e-11
    w, v = np.linalg.eig(np.linalg.solve(b, a))
    chosen = np.argmin(np.abs(w[:, None] - np.asarray(s.eigenvalues)), axis=0)
    assert np.unique(chosen).size == k
    assert relative(s.eigenvalues, w[chosen]) < 1e-9
    assert relative(s.trace, np.sum(w[chosen])) < 1e-9
    p = s.projector()
    assert relative(p, v[:, chosen] @ np.linalg.inv(v)[chosen]) < 1e-8
    for z in (np.arange(float(N)), np.arange(N) * 1j):
        z = jnp.asarray(z.astype(np.promote_types(z.dtype, dtype)))
        assert relative(s.projector_mv(z), p.astype(z.dtype) @ z) < 1e-12


def test_on_a_pytree_the_bases_have_its_structure():
    a = with_spectrum(4, np.arange(30.0))

    def mv(v):
        y = a @ jnp.concatenate([v["a"].ravel(), v["b"]])
        return {"a": y[:12].reshape(3, 4), "b": y[12:]}

    like = {"a": jnp.ones((3, 4)), "b": jnp.ones(18)}
    s = ieig.invariant_subspace(mv, 2, like=like, left=True)
    assert s.basis["a"].shape == s.left_basis["a"].shape == (3, 4, 2)
    px, p = s.projector_mv(like), s.projector()
    assert relative(jnp.concatenate([px["a"].ravel(), px["b"]]), p @ jnp.ones(30)) < 1e-12
    assert relative(p @ p, p) < 1e-12
    assert relative(a @ p, p @ a) < 1e-8


def differences(fn, h=1e-3):
    """Of fourth order."""
    near, far = ((fn(i * h) - fn(-i * h)) / (2 * i * h) for i in (1, 2))
    return (4 * near - far) / 3


def functionals(find, a):
    """A smooth function of L, of the spectral projector, and of the orthogonal one."""
    s, n = find(a), a.shape[0]
    weight = random_matrix(5, n) / n
    p, x = s.projector(), s.basis
    return jnp.stack(
        [
            jnp.trace(s.block @ s.block),
            jnp.sum((p @ weight) ** 2),
            jnp.sum((x @ x.T) ** 2 * weight),
        ]
    )


@pytest.mark.parametrize(
    ("find", "n"),
    slow_but([(krylov, N)], [(dense, 8), (krylov, N), (shift_invert, N)]),
    ids=["dense", "krylov", "shift-invert"],
)
def test_derivatives_at_a_defective_eigenvalue(find, n):
    a, e = defective(n), random_matrix(6, n) / np.sqrt(n)
    fn = functools.partial(functionals, find)
    weights = jnp.array([1.0, -0.5, 2.0])

    @jax.jit
    def value(t):
        return fn(a + t * e)

    def with_gradient(a):
        out, pullback = jax.vjp(fn, a)
        return out, pullback(weights)[0]

    derivatives = jax.jit(lambda a: jax.jvp(with_gradient, (a,), (e,)))
    (_, reverse), (forward, second) = derivatives(a)
    want = differences(value)
    assert np.all(np.abs(forward - want) < 1e-7 * np.abs(want))
    assert np.isclose(jnp.sum(reverse * e), forward @ weights, rtol=1e-7)
    h = 1e-4
    beside = [derivatives(a + t * e)[0][1] for t in (h, -h)]
    assert relative(second, (beside[0] - beside[1]) / (2 * h)) < 1e-5
    if find is dense:
        mixed = jax.grad(lambda a: weights @ jax.jvp(fn, (a,), (e,))[1])
        assert relative(jax.jit(mixed)(a), second) < 1e-6


@pytest.mark.parametrize("mass", [None, jnp.eye(8) + jnp.eye(8, k=1)])
def test_a_defective_block_is_as_accurate_as_any(mass):
    # Its vectors are not: they are dependent to half the digits.
    a = defective(8)
    a = a if mass is None else mass @ a
    s = dense(a, mass=mass)
    assert s.residual < 1e-14
    assert np.isclose(s.trace, 6, rtol=1e-14)
    right = s.left_basis.T if mass is None else s.left_basis.T @ mass
    assert relative(s.left_basis.T @ a, s.block @ right) < 1e-14


@pytest.mark.parametrize(
    "dtype", slow_but([np.complex64, np.float64], [np.float32, np.complex64, np.float64])
)
def test_a_jordan_block_whose_vectors_are_parallel(dtype):
    a = np.array([[2, 1, 0], [0, 2, 1], [0, 0, 1]], dtype)

    def fn(a):
        s = dense(a)
        return jnp.trace(s.block @ s.block).real, s

    gradient, s = jax.jit(jax.grad(fn, has_aux=True))(jnp.asarray(a))
    p = np.eye(3) - np.outer([1, -1, 1], [0, 0, 1])
    tolerance = 10 * np.finfo(dtype).eps
    assert {s.basis.dtype, s.left_basis.dtype, s.block.dtype} == {np.dtype(dtype)}
    assert relative(s.projector(), p) < tolerance
    # d tr L² = 2 tr(P A dA)
    assert relative(gradient, 2 * (p @ a).T) < tolerance


@pytest.mark.slow
def test_derivatives_of_a_complex_pencil():
    n = 6
    a, da, b, db = (random_matrix(i, n, np.complex128) for i in range(4))
    b = jnp.eye(n).astype(b.dtype) + 0.2 * b

    def fn(t):
        s = ieig.invariant_subspace(a + t * da, 2, mass=b + t * db)
        x, y = s.basis, s.left_basis
        parts = (
            s.trace,
            jnp.sum(s.projector() * da),
            jnp.sum(jnp.abs(y @ x.mT.conj()) ** 2),
        )
        return jnp.stack([part.real for part in parts])

    def with_jacobian(t):
        return fn(t), jax.jacrev(fn)(t)

    derivatives = jax.jit(lambda t: jax.jvp(with_jacobian, (t,), (1.0,)))
    (_, reverse), (forward, second) = derivatives(0.0)
    want = [differences(lambda t, i=i: derivatives(t)[0][i], 1e-4) for i in (0, 1)]
    assert relative(forward, want[0]) < 1e-8
    assert relative(reverse, forward) < 1e-10
    assert relative(second, want[1]) < 1e-8


def test_eigenvalues_have_the_derivatives_of_eigvals():
    # A semisimple tie: the sum of a function of the values has a derivative.
    a = with_spectrum(7, [3.0, 3.0, 2.0, 1.0, 0.5])

    def squares(a):
        s = dense(a, 3)
        parts = jnp.trace(s.block @ s.block), jnp.sum(s.eigenvalues**2).real
        return jnp.stack(parts), s.eigenvalues

    (want, got), values = jax.jit(jax.jacrev(squares, has_aux=True))(a)
    assert relative(got, want) < 1e-9
    assert relative(values, [3, 3, 2]) < 1e-12


def test_the_whole_space():
    a = random_matrix(8, 5)
    s = ieig.invariant_subspace(a, 5, separation=True)
    assert relative(s.projector(), np.eye(5)) < 1e-12
    assert relative(s.basis @ s.basis.T, np.eye(5)) < 1e-12
    assert s.separation == np.inf
    gradient = jax.grad(lambda a: ieig.invariant_subspace(a, 5).trace)(a)
    assert relative(gradient, np.eye(5)) < 1e-12
    still = jax.grad(lambda a: jnp.sum(ieig.invariant_subspace(a, 5).projector()))(a)
    assert np.max(np.abs(still)) < 1e-12


ROTATION = jnp.zeros((4, 4)).at[:2, :2].set(jnp.array([[1.0, -2.0], [2.0, 1.0]]))
ROTATION = ROTATION.at[2, 2].set(-0.5).at[0, 3].set(1.0)
TIE = with_spectrum(9, [2.0, 2.0, 1.0, 0.0])


class TestWhatCannotBeCut:
    @pytest.mark.parametrize(
        ("a", "values"), [(ROTATION, r"1\+2j and 1-2j"), (TIE, r"2\+0j and 2[+-]0j")]
    )
    def test_it_raises_and_names_the_two(self, a, values):
        with pytest.raises(RUNTIME, match=f"(?s)cuts a conjugate pair.*Of {values}"):
            dense(a, 1)
        assert dense(a, 2).result == ieig.RESULTS.successful
        assert relative(dense(a, 2).projector() @ a, a @ dense(a, 2).projector()) < 1e-12

    def test_under_jit_it_raises_too(self):
        with pytest.raises(RUNTIME, match="cuts a conjugate pair"):
            jax.jit(lambda a: dense(a, 1, throw=True).trace)(ROTATION).block_until_ready()
        s = jax.jit(lambda a: dense(a, 1))(ROTATION)
        assert s.result == ieig.RESULTS.cut
        assert np.isnan(s.trace) and np.isnan(s.basis).all() and np.isnan(s.block).all()

    def test_of_a_complex_matrix_a_pair_may_be_parted(self):
        s = dense(ROTATION.astype(complex), 1)
        assert s.result == ieig.RESULTS.successful
        with pytest.raises(RUNTIME, match="cuts"):
            dense(TIE.astype(complex), 1)

    def test_krylov_schur_sees_a_pair(self):
        a = jnp.diag(jnp.linspace(-0.5, 0.5, N)).at[:4, :4].set(ROTATION)
        s = krylov(a, 1, throw=False, left=False)
        assert s.result == ieig.RESULTS.cut
        with pytest.raises(RUNTIME, match=r"Of 1\+2j and 1-2j"):
            krylov(a, 1, left=False)

    @pytest.mark.slow
    def test_in_a_batch_it_harms_no_other(self):
        good = random_matrix(3, 4) + jnp.diag(jnp.array([9.0, 0, 0, 0]))
        batch = jnp.stack([good, ROTATION, good * jnp.nan, TIE])

        def fn(a):
            s = dense(a, 1, throw=False)
            value = jnp.sum(s.projector() ** 2) + jnp.sum(s.basis[0] ** 2) + s.trace
            return value, s.result == ieig.RESULTS.cut

        @jax.jit
        @jax.vmap
        def run(a):
            return jax.grad(fn, has_aux=True)(a)

        gradient, cut = run(batch)
        assert list(cut) == [False, True, False, True]
        want = jax.grad(fn, has_aux=True)(good)[0]
        assert relative(gradient[0], want) < 1e-12
        assert np.all(np.isnan(gradient[1:]).any(axis=(1, 2)))

    def test_in_a_batch_it_raises_under_throw(self):
        with pytest.raises(RUNTIME):
            jax.vmap(lambda a: dense(a, 1).trace)(jnp.stack([TIE, ROTATION]))


class TestASolveThatFails:
    ADJOINT = ieig.ImplicitAdjoint(
        linear_solver=lx.GMRES(rtol=0.5, atol=0.5, max_steps=1)
    )

    def test_it_gives_nan(self):
        def fn(a, t):
            s = dense(a + t * a.T, adjoint=self.ADJOINT, throw=False)
            x = s.basis
            return jnp.sum((x @ x.T)[:2] ** 2), s.trace

        a = defective(8)
        (x, trace) = jax.jit(jax.jacfwd(fn, 1))(a, 0.0)
        assert np.isnan(x)
        # With a left basis no solve is needed.
        assert np.isclose(trace, differences(lambda t: fn(a, t)[1]))
        assert np.isnan(jax.jit(jax.grad(lambda t: fn(a, t)[0]))(0.0))
        assert np.isfinite(jax.jit(jax.grad(lambda t: fn(a, t)[1]))(0.0))

    def test_without_a_left_basis_the_trace_is_nan_too(self):
        def fn(t):
            a = defective(N)
            options = {"adjoint": self.ADJOINT, "throw": False, "left": False}
            return krylov(a + t * a.T, **options).trace

        assert np.isnan(jax.jit(jax.jacfwd(fn))(0.0))

    def test_it_raises_under_throw(self):
        def fn(a):
            return jnp.sum(dense(a, adjoint=self.ADJOINT).basis[0] ** 2)

        with pytest.raises(RUNTIME, match="missed its tolerance"):
            jax.grad(fn)(defective(8))


class TestSeparation:
    @pytest.mark.parametrize("find", slow_but([krylov], [dense, krylov]))
    def test_it_is_the_norm_of_the_inverse_of_the_sylvester_operator(self, find):
        a = defective(N)
        s = jax.jit(lambda a: find(a, separation=True))(a)
        x = np.asarray(s.basis)
        q = np.linalg.svd(x)[0][:, 2:]
        rest = q.T @ np.asarray(a) @ q
        sylvester = np.kron(np.eye(2), rest) - np.kron(
            np.asarray(s.block).T, np.eye(N - 2)
        )
        exact = np.linalg.svd(sylvester, compute_uv=False)[-1]
        assert exact * (1 - 1e-6) <= s.separation < 1.5 * exact

    def test_an_ill_separated_subspace_is_reported(self):
        n = 80
        a = jnp.eye(n, k=1) + 0.5 * jnp.diag(jnp.eye(n)[0])
        s = dense(a, 1, separation=True, throw=False)
        assert s.separation < 1e-14
        assert s.result == ieig.RESULTS.ill_conditioned
        with pytest.raises(RUNTIME, match="ill-conditioned"):
            dense(a, 1, separation=True)


A = jnp.diag(jnp.arange(4.0))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: dense(A, 0), ValueError, "`k` must be at least 1; got 0"),
        (lambda: dense(A, 5), ValueError, "order n = 4; got 5"),
        (lambda: dense(A, left="yes"), TypeError, "`left` must be .* got 'yes'"),
        (lambda: dense(A, separation=3), TypeError, "`separation` must be .* got 3"),
        (lambda: dense(A, throw=1), TypeError, "`throw`"),
        (lambda: dense(A, left=False).projector(), ValueError, "left=True"),
        (lambda: dense(A, left=False).projector_mv(A[0]), ValueError, "left=True"),
        (lambda: dense(A).projector_mv(jnp.ones(3)), ValueError, r"`x`.*got \[\(3,\)\]"),
        (lambda: ieig.invariant_subspace(A, 2, "XX"), ValueError, "got 'XX'"),
        (
            lambda: ieig.invariant_subspace(
                sparse(REAL), 2, left=True, eigensolver=ieig.Arpack()
            ),
            ValueError,
            "left vectors",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()
