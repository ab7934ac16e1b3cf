"""Functions of matrices and spectral projectors, above all at repeated eigenvalues."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg

import implicit_eig as ieig

from ..oracles import central_difference, random_matrix, relative


def jordan(*blocks):
    return scipy.linalg.block_diag(
        *(value * np.eye(order) + np.eye(order, k=1) for value, order in blocks)
    )


def similar(seed, d, skew=0.5):
    """V D V⁻¹: rounding splits the defective eigenvalues of D."""
    n = d.shape[0]
    v = np.eye(n) + skew * np.random.default_rng(seed).normal(size=(n, n)) / np.sqrt(n)
    return v @ d @ np.linalg.inv(v)


def on_contour(f, a, e, centre, radius, points=400):
    """f(A), its first and its second derivative along E: ∮ f(z) (z−A)⁻¹ … dz / 2πi."""
    total = 0
    for t in 2 * np.pi * (np.arange(points) + 0.5) / points:
        step = radius * np.exp(1j * t)
        r = np.linalg.inv((centre + step) * np.eye(len(a)) - a)
        terms = r, r @ e @ r, 2 * r @ e @ r @ e @ r
        total = total + np.array(terms) * (f(centre + step) * step / points)
    return total


def along(fn):
    """fn and its first two derivatives along a direction, compiled together."""

    def first(a, e):
        return jax.jvp(fn, (a,), (e,))[1]

    def all_of(a, e):
        return fn(a), first(a, e), jax.jvp(lambda a: first(a, e), (a,), (e,))[1]

    return jax.jit(all_of)


def modes(fn):
    """Gradients and Hessian-vector products of Re Σ c∘fn(a), each way round."""

    def loss(a, c):
        return jnp.sum(c * fn(a).real)

    def slope(a, c, e):
        return jax.jvp(lambda a: loss(a, c), (a,), (e,))[1]

    gradient = jax.grad(loss)

    def all_of(a, c, e):
        return (
            slope(a, c, e),
            gradient(a, c),
            jax.jvp(lambda a: gradient(a, c), (a,), (e,))[1],
            jax.grad(slope)(a, c, e),
            jax.grad(lambda a: jnp.sum(gradient(a, c) * e))(a),
        )

    return jax.jit(all_of)


exp, log, sqrt = (
    along(functools.partial(ieig.funm, f=f)) for f in (jnp.exp, jnp.log, jnp.sqrt)
)
AT_FOUR = {
    "identity": 2 * np.eye(4),
    "jordan 2, 2": jordan((2, 2), (2, 2)),
    "jordan 3, 1": jordan((2, 3), (1.6, 1)),
    "jordan 4": jordan((2, 4)),
    "rounded 3, 1": similar(0, jordan((2, 3), (2.4, 1))),
    "rounded 2, 2": similar(1, jordan((2, 2), (2.1, 2))),
    "semisimple": similar(2, np.diag([2, 2, 2.3, 2.3])),
    "complex": similar(3, np.diag([2 + 0.2j, 2 + 0.2j, 2, 1.7 - 0.1j])),
    "pairs": similar(4, jordan((2 + 0.3j, 2), (2 - 0.3j, 2))),
    **{f"gap {g:.0e}": similar(5, jordan((2, 2), (2 + g, 2))) for g in (1e-4, 1e-8)},
    **{
        f"semisimple gap {g:.0e}": similar(6, np.diag([2, 2 + g, 2 - g, 1.7]))
        for g in (1e-2, 1e-4, 1e-6, 1e-8, 1e-12)
    },
}


@pytest.mark.parametrize("name", AT_FOUR)
def test_value_and_two_derivatives_at_repeated_eigenvalues(name):
    a = AT_FOUR[name].astype(complex)
    e = np.asarray(random_matrix(7, 4, np.complex128))
    for ours, f in ((exp, np.exp), (log, np.log), (sqrt, np.sqrt)):
        reference = on_contour(f, a, e, 2, 1.5)
        errors = [relative(x, y) for x, y in zip(ours(a, e), reference, strict=True)]
        assert errors[0] < 1e-13 and errors[1] < 1e-12 and errors[2] < 1e-11, errors


def test_against_fifty_digits():
    """f([[A, E], [0, A]]) has the derivative along E in its corner."""
    a = similar(8, jordan((1, 2), (1 + 1e-7, 1), (-2, 1))).astype(complex)
    e = np.asarray(random_matrix(9, 4))
    double = mpmath.matrix(np.block([[a, e], [np.zeros((4, 4)), a]]).tolist())
    mpmath.mp.dps = 50
    for ours, f in ((exp, mpmath.expm), (log, mpmath.logm), (sqrt, mpmath.sqrtm)):
        x = f(double)
        reference = np.array([[complex(x[i, j]) for j in range(8)] for i in range(4)])
        value, first, _ = ours(a, e.astype(complex))
        assert relative(value, reference[:, :4]) < 1e-12
        assert relative(first, reference[:, 4:]) < 1e-11


def test_simple_spectra_agree_with_scipy():
    for seed in range(3):
        a = np.asarray(random_matrix(seed, 8)) / 2
        b = scipy.linalg.expm(a)
        assert relative(jitted_exp(a), b) < 1e-13
        assert relative(jitted_log(b.astype(complex)), scipy.linalg.logm(b)) < 1e-12


jitted_exp = jax.jit(lambda a: ieig.funm(a, jnp.exp))
jitted_log = jax.jit(lambda a: ieig.funm(a, jnp.log))


def test_square_in_every_mode_at_a_defective_eigenvalue():
    """tr(C A²): gradient (AC + CA)ᵀ and Hessian-vector product (EC + CE)ᵀ."""
    a = similar(10, jordan((0, 3), (1, 2), (3, 1)))
    c, e = (np.asarray(random_matrix(s, 6)) for s in (11, 12))
    ours = modes(functools.partial(ieig.funm, f=lambda z: z * z))
    slope, gradient, *hessians = ours(a, c.T, e)
    assert relative(slope, np.trace(c @ (a @ e + e @ a))) < 1e-12
    assert relative(gradient, (a @ c + c @ a).T) < 1e-12
    for hessian in hessians:
        assert relative(hessian, (e @ c + c @ e).T) < 1e-11


def test_modes_agree_where_some_eigenvalues_are_close():
    a = similar(13, jordan((1, 2), (1.001, 2), (2, 1), (5, 1)))
    c, e = (np.asarray(random_matrix(s, 6)) for s in (14, 15))
    slope, gradient, *hessians = modes(functools.partial(ieig.funm, f=jnp.log))(a, c, e)
    assert relative(np.sum(gradient * e), slope) < 1e-12
    for hessian in hessians[1:]:
        assert relative(hessian, hessians[0]) < 1e-11


def test_derivative_with_respect_to_what_f_closes_over():
    """d/dt exp(tA) = A exp(tA), and once more; mixed with a derivative of A."""
    a = similar(16, jordan((1, 2), (-1, 1), (3, 1)))
    e = np.asarray(random_matrix(17, 4))

    def fn(t, a):
        return ieig.funm(a, lambda z: jnp.exp(t * z))

    @jax.jit
    def all_of(t, a):
        def total(t, a):
            return jnp.sum(e * fn(t, a).real)

        first = jax.jacfwd(fn)
        return first(t, a), jax.jacfwd(first)(t, a), jax.grad(jax.grad(total))(t, a)

    value = scipy.linalg.expm(0.5 * a)
    first, second, reverse = all_of(0.5, a)
    assert relative(first, a @ value) < 1e-12
    assert relative(second, a @ a @ value) < 1e-12
    assert relative(reverse, np.sum(e * (a @ a @ value))) < 1e-12

    # d/dt of tr(t E exp(tA)), the derivative of tr exp(tA) along E.
    @jax.jit
    @jax.grad
    def mixed(t, a):
        return jax.jvp(lambda a: jnp.trace(fn(t, a)).real, (a,), (e,))[1]

    expected = np.trace(e @ value) + 0.5 * np.trace(e @ a @ value)
    assert relative(mixed(0.5, a), expected) < 1e-12


def test_batches_keep_their_members_apart():
    a = np.stack([np.eye(3), jordan((2, 3)), jordan((0, 2), (1, 1)), np.eye(3)])
    a[3, 0, 1] = np.nan
    e = np.ones_like(a)
    ours = along(functools.partial(ieig.funm, f=jnp.sqrt))
    for x, one in zip(ours(a, e), zip(*map(ours, a, e), strict=True), strict=True):
        assert np.isnan(x[2:]).all() and np.isfinite(x[:2]).all()
        assert relative(x[:2], np.stack(one)[:2]) < 1e-12
    mapped = jax.jit(jax.vmap(lambda a: ieig.funm(a, jnp.sqrt)))(a)
    assert relative(mapped[:2], ours(a, e)[0][:2]) < 1e-12
    assert np.isnan(mapped[2:]).all()


def test_gradients_of_other_members_and_of_what_has_none():
    a = np.stack([np.diag([1.0, 2.0]), np.full((2, 2), np.nan)])

    def fn(a, weights):
        value = ieig.spectral_projector(a, lambda z: z.real < 1.5)[:, 0, 1].real
        return jnp.sum(jnp.where(weights == 0, 0, weights * value))

    gradient = jax.jit(jax.grad(fn))
    one, both = gradient(a, np.array([1.0, 0])), gradient(a, np.array([1.0, 1]))
    assert np.isfinite(one).all() and np.isnan(both[1]).any()
    assert relative(one[0], [[0, -1], [0, 0]]) < 1e-14


def test_what_f_closes_over_is_looked_at_in_each_call():
    held = {}

    def f(z):
        return held["t"] * z

    for held["t"] in (2.0, 3.0):
        assert relative(ieig.funm(np.eye(1), f), held["t"]) < 1e-15


def test_no_numbers_where_there_is_no_function():
    nilpotent = similar(18, jordan((0, 2), (0, 1), (1, 1))).astype(complex)
    e = np.eye(4).astype(complex)
    for ours in (log, sqrt):
        assert np.isnan(ours(nilpotent, e)[0]).all()
        assert np.isnan(ours(-np.eye(4).astype(complex), e)[1]).all()
    assert np.isfinite(exp(nilpotent, e)[2]).all()
    # Not analytic, and fine where the eigenvalues are single.
    conjugate = jax.jit(lambda a: ieig.funm(a, jnp.conj))
    assert relative(conjugate(np.diag([1j, 2])), np.diag([-1j, 2])) < 1e-15
    assert np.isnan(conjugate(1j * np.eye(2))).all()


def test_sizes_and_dtypes():
    zero = np.zeros((3, 3))
    assert relative(ieig.funm(zero, jnp.exp), np.eye(3)) < 1e-15
    assert ieig.funm(np.zeros((2, 0, 0)), jnp.exp).shape == (2, 0, 0)
    assert relative(ieig.funm(np.array([[2]]), jnp.exp), [[np.exp(2)]]) < 1e-15
    a = similar(19, jordan((2, 2), (1, 1))).astype(np.float32)
    root, first, _ = along(functools.partial(ieig.funm, f=jnp.sqrt))(a, a)
    assert root.dtype == first.dtype == np.complex64
    assert relative(root @ root, a) < 1e-5 and relative(first, root / 2) < 1e-4
    for size in (1e-150, 1e150):
        root = np.asarray(ieig.funm(size * jordan((1, 2)), jnp.sqrt))
        assert relative(root / np.sqrt(size), [[1, 0.5], [0, 1]]) < 1e-14


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="`f` must be"):
        ieig.funm(np.eye(2), 3)
    with pytest.raises(ValueError, match="scalar; got"):
        ieig.funm(np.eye(2), lambda z: jnp.stack([z, z]))
    with pytest.raises(ValueError, match="square"):
        ieig.funm(np.ones((2, 3)), jnp.exp)
    for select in (lambda z: z.real, lambda z: jnp.array([True]), lambda z: 1):
        with pytest.raises(TypeError, match="`select` must give a boolean"):
            ieig.spectral_projector(np.eye(2), select)
    with pytest.raises(TypeError, match="`select` must be"):
        ieig.spectral_projector(np.eye(2), 1)
    with pytest.raises(TypeError, match="throw"):
        ieig.spectral_projector(np.eye(2), lambda z: True, throw=1)


def near_two(z):
    return jnp.abs(z - 2) < 0.5


def test_projector_of_a_defective_pair():
    a = similar(20, jordan((2, 2), (3, 3), (0, 1), (-1, 2)))
    e, c = (np.asarray(random_matrix(s, 8)) for s in (21, 22))
    fn = functools.partial(ieig.spectral_projector, select=near_two)
    value, first, second = along(fn)(a, e)
    contour = on_contour(lambda z: 1, a, e, 2, 0.5)
    for x, y in zip((value, first, second), contour, strict=True):
        assert relative(x, y) < 1e-10
    difference = central_difference(
        lambda a: on_contour(lambda z: 1, a, e, 2, 0.5)[0], a, e
    )
    assert relative(first, difference) < 1e-7
    slope, gradient, *hessians = modes(fn)(a, c, e)
    assert relative(slope, np.sum(c * contour[1]).real) < 1e-10
    assert relative(np.sum(gradient * e), slope) < 1e-12
    for hessian in hessians:
        assert relative(np.sum(hessian * e), np.sum(c * contour[2]).real) < 1e-9
        assert relative(hessian, hessians[0]) < 1e-9


def test_projectors_of_all_and_none_and_of_a_cut():
    a = np.stack([np.eye(3), np.diag([1.0, 2, 3]), similar(23, jordan((1, 2), (3, 1)))])
    assert relative(ieig.spectral_projector(a, lambda z: True), 0 * a + np.eye(3)) < 1e-14
    assert not ieig.spectral_projector(a, lambda z: False).any()

    def cuts(z):
        """Between two eigenvalues that are 1 but for rounding."""
        return z.real > 1 + 1e-16

    ties = np.stack([np.diag([1, 1 + 1e-15]), [[1, 1], [1e-16, 1]], np.diag([np.nan, 3])])
    assert np.isnan(ieig.spectral_projector(ties, cuts, throw=False)).all()
    assert np.isnan(ieig.spectral_projector(ties[2], cuts)).all()
    for tie in ties[:2]:
        with pytest.raises(eqx.EquinoxRuntimeError, match="cuts through"):
            ieig.spectral_projector(tie, cuts)
