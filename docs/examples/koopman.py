"""Recurrent networks: an ensemble of linear ones is kept stable by a spectral penalty.

    python docs/examples/koopman.py [--small] [--figures FOLDER]

Each member x(t + 1) = A x(t) learns two damped oscillators from a short noisy record, by
gradients through time; batched. Checked: the eigenvalues r exp(±iθ) of the oscillators, from
records without noise; the penalty's gradient, by differences; and that all members end stable.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicit_eig as ieig


jax.config.update("jax_enable_x64", True)

RADII, ANGLES = np.array([0.995, 0.95]), np.array([0.3, 1.1])  # of one step
BOUND, WEIGHT = 0.995, 100.0
STEPS, NOISE = 20, 0.2


def check(name, value, expected, tolerance):
    error = float(np.max(np.abs(np.asarray(value) - np.asarray(expected))))
    if not error <= tolerance:  # NaN fails too
        raise SystemExit(f"{name}: off by {error:.1e} > {tolerance:g}: FAILED")
    print(f"{name}: off by {error:.1e} < {tolerance:g}: ok")


def oscillators(rng):
    """Rotations that shrink, in mixed coordinates."""
    blocks = np.zeros((4, 4))
    for i, (r, angle) in enumerate(zip(RADII, ANGLES, strict=True)):
        c, s = r * np.cos(angle), r * np.sin(angle)
        blocks[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[c, -s], [s, c]]
    mix = np.eye(4) + 0.3 * rng.normal(size=(4, 4))
    return mix @ blocks @ np.linalg.inv(mix)


def rollout(a, start, steps):
    """The states of x(t + 1) = A x(t) after the start."""

    def step(x, _):
        x = a @ x
        return x, x

    return jax.lax.scan(step, start, length=steps)[1]


def least_squares(records):
    """Dynamic mode decomposition: the best A for one step at a time."""
    fit = jax.vmap(lambda x: jnp.linalg.lstsq(x[:-1], x[1:])[0].T)
    return fit(records)


# --8<-- [start:penalty]
def radii(networks):
    """The spectral radius of each member of a stack (members, 4, 4)."""
    return jnp.max(jnp.abs(ieig.eigvals(networks)), axis=-1)


def penalty(networks):
    return jnp.sum(jax.nn.relu(radii(networks) - BOUND) ** 2)


def loss(networks, records, weight):
    """Misfit of whole records, which are learned through time, and the penalty."""
    follow = jax.vmap(lambda a, x: rollout(a, x[0], x.shape[0] - 1))
    misfit = jnp.mean((follow(networks, records) - records[:, 1:]) ** 2, axis=(1, 2))
    return jnp.sum(misfit) + weight * penalty(networks)


def train(networks, records, weight, epochs):
    optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, epochs))

    def epoch(carry, _):
        networks, state = carry
        value, gradient = jax.value_and_grad(loss)(networks, records, weight)
        updates, state = optimiser.update(gradient, state)
        networks = optax.apply_updates(networks, updates)
        return (networks, state), (value, jnp.max(radii(networks)))

    start = networks, optimiser.init(networks)
    (networks, _), history = jax.lax.scan(epoch, start, length=epochs)
    return networks, history


# --8<-- [end:penalty]


def picture(path, ends, histories):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    axes[0].plot(
        ANGLES, RADII, "+", color="gray", ms=14, zorder=3, label="the oscillators"
    )
    for (name, networks), color in zip(
        ends.items(), ("tab:red", "tab:blue"), strict=True
    ):
        w = np.linalg.eigvals(networks).ravel()
        axes[0].plot(np.angle(w), np.abs(w), ".", color=color, label=name)
        values, largest = histories[name]
        axes[1].plot(values, color=color, label=name)
        axes[2].plot(largest, color=color, label=name)
    axes[0].axhline(1, color="gray", lw=0.8)
    axes[0].set(xlabel="arg λ [radians a step]", ylabel="|λ|")
    axes[0].set(xlim=(0, 1.4), ylim=(0.88, 1.03), title="Eigenvalues of all members")
    axes[0].legend(loc="lower left")
    axes[1].set(xlabel="epoch", ylabel="loss [signal²]", title="Misfit and penalty")
    axes[2].axhline(1, color="gray", lw=0.8)
    axes[2].set(xlabel="epoch", ylabel="largest |λ|", title="Least stable member")
    figure.savefig(path, dpi=100)


def main(small=False, figures=Path("docs/gallery")):
    members, epochs = (8, 300) if small else (32, 1500)
    rng = np.random.default_rng(0)
    truth = jnp.asarray(oscillators(rng))
    starts = jnp.asarray(rng.normal(size=(members, 4)))
    clean = jax.vmap(lambda x: rollout(truth, x, STEPS))(starts)
    clean = jnp.concatenate([starts[:, None], clean], axis=1)
    records = clean + NOISE * rng.normal(size=clean.shape)

    exact = np.sort(RADII.repeat(2))
    found = np.sort(np.abs(ieig.eigvals(least_squares(clean))), axis=1)
    check("|λ| of records without noise", found, exact, 1e-9)

    first = least_squares(records)
    direction = jnp.asarray(rng.normal(size=first.shape))
    above = first * (1.05 / radii(first))[:, None, None]  # all of them count
    slope = jnp.vdot(jax.jit(jax.grad(penalty))(above), direction)
    there, back = (penalty(above + step * direction) for step in (1e-6, -1e-6))
    check("gradient of the penalty", slope / ((there - back) / 2e-6), 1, 1e-6)

    run = jax.jit(train, static_argnames="epochs")
    weights = {"without penalty": 0.0, "with penalty": WEIGHT}
    ends, histories = {}, {}
    for name, weight in weights.items():
        ends[name], histories[name] = run(first, records, weight, epochs=epochs)
        r = radii(ends[name])
        ahead = jax.vmap(lambda a, x: rollout(a, x, 600))(ends[name], starts)
        true = jax.vmap(lambda x: rollout(truth, x, 600))(starts)
        error = jnp.max(jnp.linalg.norm(ahead - true, axis=-1))
        print(f"{name}: {int(jnp.sum(r > 1))} of {members} unstable, ", end="")
        print(f"largest |λ| {jnp.max(r):.4f}, largest error in 600 steps {error:.2g}")
    figures.mkdir(parents=True, exist_ok=True)
    picture(figures / "koopman.png", ends, histories)
    if not jnp.max(radii(ends["without penalty"])) > 1:
        raise SystemExit("no member needs the penalty: FAILED")
    excess = jax.nn.relu(radii(ends["with penalty"]) - BOUND)
    check("|λ| beyond the bound, with penalty", excess, 0, 1 - BOUND)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few members and epochs")
    parser.add_argument("--figures", type=Path, default=Path("docs/gallery"))
    main(**vars(parser.parse_args()))
