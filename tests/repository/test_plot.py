"""Pictures: what is drawn where, on what."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ieig


matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    matplotlib.pyplot.close("all")


MATRIX = jnp.array([[0.0, 5.0, 0.0], [-0.2, 0.0, 0.0], [0.0, 0.3, -2.0]])  # ±i and −2


def drawn(ax, label):
    (points,) = [c for c in ax.collections if c.get_label() == label]
    return points


def test_a_spectrum_shows_pairs_their_condition_and_what_is_beside_them():
    solution = ieig.eigs(MATRIX, 2, "LR", left=True)
    ax = ieig.plot.spectrum(solution, others=ieig.eigvals(MATRIX), target=1j)
    points = drawn(ax, "selected")
    np.testing.assert_allclose(points.get_offsets(), [[0, 1], [0, -1]], atol=1e-13)
    kappa = np.log10(solution.condition_numbers)
    np.testing.assert_allclose(points.get_array(), kappa)
    assert drawn(ax, "others").get_offsets().shape == (3, 2)
    np.testing.assert_allclose(drawn(ax, "not selected").get_offsets()[0], [-2, 0])
    np.testing.assert_allclose(drawn(ax, "target").get_offsets(), [[0, 1]])
    assert ax.figure.patch.get_alpha() == 0 and ax.patch.get_alpha() == 0
    ax.figure.canvas.draw()


def test_a_larger_residual_is_a_larger_disk():
    solution = ieig.eigs(MATRIX, 2, "LR")
    worse = jnp.array([1e-12, 1e-3])
    solution = ieig.Solution(**{**vars(solution), "residuals": worse})
    small, large = drawn(ieig.plot.spectrum(solution), "selected").get_sizes()
    assert small < large


@pytest.mark.parametrize(
    "region, corners",
    [
        (ieig.Disk(1j, 2.0), [2 + 1j, -2 + 1j, 3j, -1j]),
        (ieig.Rectangle(-3 - 1j, 1j), [-3 - 1j, -1j, 1j, -3 + 1j]),
    ],
)
def test_a_region_is_drawn_by_its_boundary(region, corners):
    solution = ieig.eigs(MATRIX, 2, "LR")
    (line,) = ieig.plot.spectrum(solution, region=region).lines
    z = line.get_xdata() + 1j * line.get_ydata()
    assert z[0] == z[-1]
    for corner in corners:
        assert np.abs(z - corner).min() < 0.03
    with pytest.raises(TypeError, match="`region` must be a region"):
        ieig.plot.spectrum(solution, region=1.0)


def test_the_pseudospectrum_of_a_normal_matrix_are_disks():
    """σ_min(z − A) is the distance to the nearest eigenvalue."""
    a = jnp.diag(jnp.array([0.0, 4.0]))
    ax = ieig.plot.pseudospectrum(a, levels=[0.0], points=41, box=(-2, 6, -2, 2))
    (contours,) = [c for c in ax.collections if hasattr(c, "levels")]
    vertices = np.concatenate([path.vertices for path in contours.get_paths()])
    z = vertices[:, 0] + 1j * vertices[:, 1]
    distance = np.minimum(abs(z), abs(z - 4))
    assert len(z) > 20
    np.testing.assert_allclose(distance, 1, atol=0.02)


@pytest.mark.parametrize("a", [np.zeros((2, 2)), np.eye(1), np.array([[0, 1], [0, 0]])])
def test_a_matrix_of_one_eigenvalue_has_a_box(a):
    ieig.plot.pseudospectrum(a, points=8).figure.canvas.draw()


def stack(values):
    """A sweep whose second step is ambiguous, its third failed."""
    values = jnp.asarray(values, complex)
    steps, k = values.shape
    codes = [ieig.RESULTS.successful] * steps
    codes[1] = ieig.RESULTS.ambiguous
    one = ieig.eigs(jnp.diag(jnp.arange(1.0, 4.0)), k)
    many = [
        ieig.Solution(**{**vars(one), "eigenvalues": w, "result": code})
        for w, code in zip(values, codes, strict=True)
    ]
    return jax.tree_util.tree_map(
        lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *many
    )


def test_a_sweep_is_a_line_for_each_mode():
    values = np.array([[1, 4], [2, 3], [np.nan, np.nan], [3, 2]]) * (1 + 2j)
    p = np.arange(4.0)
    solutions = stack(values)
    ax = ieig.plot.sweep(solutions, p, part="imag")
    first, second = ax.lines
    np.testing.assert_allclose(first.get_xydata(), np.stack([p, values[:, 0].imag], 1))
    np.testing.assert_allclose(second.get_ydata(), values[:, 1].imag)
    (marks,) = ax.collections
    np.testing.assert_allclose(marks.get_offsets(), [[1, 4], [1, 6]])
    same = ieig.plot.sweep(solutions, p, part=lambda w: 2 * abs(w), ax=ax)
    assert same is ax
    np.testing.assert_allclose(ax.lines[2].get_ydata(), 2 * abs(values[:, 0]))
    ax.figure.canvas.draw()


def test_what_cannot_be_drawn_is_refused_by_name():
    one = ieig.eigs(MATRIX, 2, "LR")
    with pytest.raises(ValueError, match="must be a stack"):
        ieig.plot.sweep(one, jnp.zeros(2))
    with pytest.raises(ValueError, match="`part` must be one of real, imag, abs"):
        ieig.plot.sweep(stack(np.ones((3, 2))), np.zeros(3), part="phase")
    with pytest.raises(TypeError, match="`solution` must be a `Solution`"):
        ieig.plot.spectrum(one.eigenvalues)
    with pytest.raises(ValueError, match="`a` must be one matrix, finite"):
        ieig.plot.pseudospectrum(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="not under `jax"):
        jax.jit(lambda a: ieig.plot.pseudospectrum(a))(MATRIX)


def test_without_matplotlib_a_sentence_names_the_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None; import implicit_eig as ieig\n"
        "try: ieig.plot.pseudospectrum([[1.0]])\n"
        "except ImportError as error: assert 'implicit_eig[plot]' in str(error)\n"
        "else: raise SystemExit('drew')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_convergence_is_a_line_for_each_run():
    meter = ieig.RecordingProgressMeter()
    with pytest.raises(ValueError, match="no run"):
        ieig.plot.convergence(meter)
    with pytest.raises(TypeError, match="NoProgressMeter"):
        ieig.plot.convergence(ieig.NoProgressMeter())
    meter._rows.runs += [[(1e-2, 0, 2), (0.0, 1, 2), (1e-9, 2, 2)], [(1e-3, 2, 2)]]
    ax = ieig.plot.convergence(meter, rtol=1e-8)
    first, second, tolerance = ax.get_lines()
    np.testing.assert_array_equal(first.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(first.get_ydata(), [1e-2, np.nan, 1e-9])
    np.testing.assert_array_equal(second.get_xdata(), [4])
    assert ax.get_yscale() == "log"
    assert list(tolerance.get_ydata()) == [1e-8, 1e-8]
