"""Twelve operators as their packages build them, by default settings, beside SciPy's:
`python -m benchmarks.first_operators` (five minutes, most of them SciPy's).

Reference is the whole spectrum by LAPACK. Right: all k eigenvalues to 1e-6 of the largest
of them. Honest: not right, and said. Wrong: not right, and not said. Seconds are the least
of five plain calls, in turns, after a first one.
"""

import time

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .problems import brusselator, random_walk, waveguide


def csc(triplets):
    values, rows, columns, n = triplets
    return sp.coo_array((values, (rows, columns)), shape=(n, n)).tocsc()


def generator(n=600, seed=0):
    """Of a Markov chain with random rates on a sparse graph."""
    rng = np.random.default_rng(seed)
    jumps = sp.random_array((n, n), density=0.01, rng=rng) + sp.eye_array(n, k=1)
    jumps = (jumps + sp.eye_array(n, k=1 - n)).tocsc()
    return (jumps - sp.diags_array(jumps.sum(axis=0))).tocsc()


def laplacian(n=600):
    """Of a directed graph."""
    return -generator(n, 1).T.tocsc()


def liouvillian(hamiltonian, losses):
    """dρ/dt = −i[H, ρ] + Σ LρL† − (L†Lρ + ρL†L)/2, columns stacked."""
    one = sp.eye_array(hamiltonian.shape[0])
    out = -1j * (sp.kron(one, hamiltonian) - sp.kron(hamiltonian.T, one))
    for loss in losses:
        square = loss.conj().T @ loss
        out = out + sp.kron(loss.conj(), loss)
        out = out - (sp.kron(one, square) + sp.kron(square.T, one)) / 2
    return sp.csc_array(out)


def kerr_cavity(d=24):
    a = sp.diags_array(np.sqrt(np.arange(1.0, d)), offsets=1, shape=(d, d)).tocsc()
    number = a.T @ a
    hamiltonian = 0.5 * number @ number - 1.5 * number + 1.2 * (a + a.T)
    return liouvillian(hamiltonian.tocsc(), [a])


def spin_chain(count=5):
    """Spins that flip down, in a field across their coupling."""
    x, z = sp.csc_array([[0.0, 1], [1, 0]]), sp.csc_array([[1.0, 0], [0, -1]])
    down = sp.csc_array([[0.0, 0], [1, 0]])

    def at(i, s):
        return sp.kron(sp.kron(sp.eye_array(2**i), s), sp.eye_array(2 ** (count - i - 1)))

    hamiltonian = sum(at(i, x) for i in range(count))
    hamiltonian = hamiltonian + sum(at(i, z) @ at(i + 1, z) for i in range(count - 1))
    return liouvillian(hamiltonian.tocsc(), [at(i, down).tocsc() for i in range(count)])


def finite_elements(m=30):
    """Diffusion and wind on a mesh numbered at random, and its mass matrix."""
    h, rng = 1 / m, np.random.default_rng(0)
    stiff = sp.diags_array([-1.0, 2, -1], offsets=[-1, 0, 1], shape=(m - 1, m - 1)) / h
    wind = sp.diags_array([-0.5, 0.5], offsets=[-1, 1], shape=(m - 1, m - 1))
    mass = sp.diags_array([1.0, 4, 1], offsets=[-1, 0, 1], shape=(m - 1, m - 1)) * h / 6
    a = sp.kron(stiff, mass) + sp.kron(mass, stiff) + 8 * sp.kron(wind, mass)
    order = rng.permutation((m - 1) ** 2)
    return a.tocsr()[order][:, order].tocsc(), sp.kron(mass, mass).tocsr()[order][
        :, order
    ].tocsc()


def power_system(n=300):
    """A descriptor pencil: differential equations of machines on a ring, algebraic ones of
    the net that joins them, for which B has zero rows."""
    rng, half = np.random.default_rng(2), n // 2
    i = np.arange(half)
    swing = sp.diags_array(-0.2 - 0.1 * rng.random(half))
    net = sp.diags_array([-1.0, 3.0, -1.0], offsets=[-1, 0, 1], shape=(half, half))
    to_net = sp.coo_array((1 + rng.random(half), (i, i)))
    back = sp.coo_array((rng.random(half) - 0.7, (i, (i + 1) % half)))
    a = sp.block_array([[swing, to_net], [back, net]]).tocsc()
    return a, sp.diags_array(np.r_[np.ones(half), np.zeros(half)]).tocsc()


def advection(n=512):
    """A SciPy `LinearOperator` by Fourier transforms: products on the host."""
    wave = 2j * np.pi * np.fft.fftfreq(n, 1 / n)
    x = np.arange(n) / n
    speed, gain = 1 + 0.5 * np.sin(2 * np.pi * x), 3 * np.cos(2 * np.pi * x)

    def matvec(v):
        w = np.fft.fft(v.ravel())
        diffused = np.fft.ifft(1e-4 * wave**2 * w)
        return diffused + gain * v.ravel() - 0.01 * speed * np.fft.ifft(wave * w)

    return spla.LinearOperator((n, n), matvec=matvec, dtype=complex)


def plant(n=200):
    """The dense state matrix of a control system with poorly damped modes."""
    rng = np.random.default_rng(3)
    blocks = [
        np.array([[-0.01 * w, w], [-w, -0.01 * w]]) for w in rng.uniform(0.1, 10, n // 2)
    ]
    turn = rng.normal(size=(n, n)) + 5 * np.eye(n)
    return np.linalg.solve(turn, la.block_diag(*blocks) @ turn)


# Name, what `eigs` is given, its keywords, SciPy's.
def operators():
    near = {"sigma": 0.0}
    pencil, descriptor = finite_elements(), power_system()
    rng = np.random.default_rng(0)
    random = sp.random_array((3000, 3000), density=0.002, rng=rng).tocsc()
    index = (2 * np.pi / 1.55 * 2.6) ** 2
    return [
        ("Markov generator, rightmost", generator(), 4, {"which": "LR"}, None),
        ("directed Laplacian, nearest 0", laplacian(), 4, near, None),
        ("Kerr cavity's Liouvillian, rightmost", kerr_cavity(), 3, {"which": "LR"}, None),
        ("spins' Liouvillian, nearest 0", spin_chain(), 3, near, None),
        ("finite elements, K and M", pencil[0], 4, near, pencil[1]),
        (
            "descriptor pencil, nearest −0.3",
            descriptor[0],
            4,
            {"sigma": -0.3},
            descriptor[1],
        ),
        ("random sparse matrix, largest", random, 6, {"which": "LM"}, None),
        ("SciPy LinearOperator, rightmost", advection(), 3, {"which": "LR"}, None),
        ("dense plant, rightmost", plant(), 4, {"which": "LR"}, None),
        ("random walk, rightmost", csc(random_walk(50)), 6, {"which": "LR"}, None),
        ("waveguide, near an index", csc(waveguide(20)), 4, {"sigma": index}, None),
        ("Brusselator, rightmost", csc(brusselator(200)), 2, {"which": "LR"}, None),
    ]


def dense(a):
    if isinstance(a, spla.LinearOperator):
        return a @ np.eye(a.shape[0])
    return a.toarray() if sp.issparse(a) else a


def wanted(a, k, options, mass):
    w = la.eigvals(dense(a), None if mass is None else dense(mass))
    w = w[np.isfinite(w) & (abs(w) < 1e10 * np.median(abs(w)))]
    key = {"LR": -w.real, "LM": -abs(w), "SM": abs(w)}.get(options.get("which"))
    return w[np.argsort(abs(w - options["sigma"]) if key is None else key)]


def right(found, spectrum, k):
    """Whether these are the k first, up to those tied with the last one."""
    if found is None or len(found) < k:
        return False
    apart = np.abs(found[:, None] - spectrum)
    enough = 1e-6 * np.abs(spectrum[:k]).max()
    missed = np.abs(spectrum[: k - 1, None] - found).min(axis=1).max(initial=0)
    rank = np.argmin(apart, axis=1)
    return apart.min(axis=1).max() < enough and missed < enough and rank.max() <= k + 1


def ours(a, k, options, mass):
    import jax

    import implicit_eig as ieig

    def run():
        return ieig.eigs(a, k, mass=mass, throw=False, **options)

    solution = run()
    said = not bool(solution.result == ieig.RESULTS.successful)
    stats = {name: int(x) for name, x in solution.stats.items()}
    count = f"{stats['num_matvecs']} products"
    if "num_solves" in stats:
        count = f"{stats['num_solves']} solves"
    elif "num_infinite" in stats:
        count = "`Dense`"

    def timed():
        return jax.block_until_ready(run().eigenvalues)

    return np.asarray(solution.eigenvalues), said, count, timed


def scipys(a, k, options, mass):
    calls, options = [], dict(options)
    # SciPy's own start is another one in each call.
    options["v0"] = np.random.default_rng(0).normal(size=a.shape[0]).astype(a.dtype)

    def counted(fn):
        def call(v):
            calls.append(1)
            return fn(v)

        return spla.LinearOperator(a.shape, matvec=call, dtype=a.dtype)

    def run(**more):
        return spla.eigs(a, k, M=mass, return_eigenvectors=False, **options, **more)

    try:
        if "sigma" in options:
            shift = options["sigma"] * (
                sp.eye_array(a.shape[0]) if mass is None else mass
            )
            inverse = counted(spla.splu(sp.csc_array(a - shift)).solve)
            found, name = run(OPinv=inverse), "solves"
        else:
            found = spla.eigs(
                counted(lambda v: a @ v), k, return_eigenvectors=False, **options
            )
            name = "products"
    except Exception as error:  # a peer's own, whatever it is
        return None, type(error).__name__, f"{len(calls)}", None
    return found, None, f"{len(calls)} {name}", run


def least(runs, repeats=5):
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for i, run in enumerate(runs):
            began = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - began)
    return best


def main():
    print(
        "| operator | n | ours | SciPy | ours over SciPy's seconds |\n" + "|---" * 5 + "|"
    )
    for name, a, k, options, mass in operators():
        spectrum = wanted(a, k, options, mass)
        found, said, count, run = ours(a, k, options, mass)
        verdict = "right" if right(found, spectrum, k) else "honest" if said else "wrong"
        if verdict == "right" and said:
            verdict = "right, unconfirmed"
        theirs, error, their_count, their_run = scipys(a, k, options, mass)
        their_verdict = error or ("right" if right(theirs, spectrum, k) else "wrong")
        ratio = ""
        if their_run is not None:
            mine, its = least([run, their_run])
            ratio = f"{mine / its:.2f}"
        cells = name, a.shape[0], f"{verdict}, {count}"
        cells += f"{their_verdict}, {their_count}", ratio
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    import jax

    jax.config.update("jax_enable_x64", True)
    main()
