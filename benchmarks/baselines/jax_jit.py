"""JAX: one jitted step with its state donated; batches are gathered by NumPy, which is faster."""

import functools

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7


def logits(network, weights, x):
    weights = iter(weights)
    for block in network.blocks:
        for _ in block:
            x = lax.conv_general_dilated(
                x,
                next(weights),
                (1, 1),
                network.padding.upper(),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(x + next(weights))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(len(x), -1)
    x = jax.nn.relu(x @ next(weights) + next(weights))
    return x @ next(weights) + next(weights)


def loss_of(weights, network, x, labels):
    log_p = jax.nn.log_softmax(logits(network, weights, x))
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(network, state, x, labels):
    weights, m, v, step, total = state
    loss, gradients = jax.value_and_grad(loss_of)(weights, network, x, labels)
    step += 1
    rate = RATE * jnp.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
    m = [a + (g - a) * (1 - BETA_1) for a, g in zip(m, gradients, strict=True)]
    v = [a + (g * g - a) * (1 - BETA_2) for a, g in zip(v, gradients, strict=True)]
    weights = [
        w - rate * a / (jnp.sqrt(b) + EPSILON) for w, a, b in zip(weights, m, v, strict=True)
    ]
    return weights, m, v, step, total + loss


def prepare(network, batch, threads):
    """The number of threads is that of the cores: the process is bound to as many."""
    rng = np.random.default_rng(1)
    weights = [jnp.asarray(a) for a in network.weights()]
    zeros = [[jnp.zeros_like(a) for a in weights] for _ in range(2)]
    state = (weights, *zeros, jnp.float32(0), jnp.float32(0))

    def epoch(x, labels):
        nonlocal state
        state = (*state[:4], jnp.float32(0))
        for rows in rng.permutation(len(x)).reshape(-1, batch):
            state = train_step(network, state, x[rows], labels[rows])
        return float(state[4]) * batch / len(x)

    return epoch
