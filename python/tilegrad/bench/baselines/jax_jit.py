"""JAX: one jitted step with its state donated; batches are gathered by NumPy, which is faster."""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

VERSION = jax.__version__
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


@functools.partial(jax.jit, static_argnums=0)
def classes(network, weights, x):
    return logits(network, weights, x).argmax(axis=1)


class JaxTrainer:
    def __init__(self, network, batch: int):
        self._network, self._batch = network, batch

    def restart(self, weights, seed):
        self._rng = np.random.default_rng(seed)
        weights = [jnp.array(a) for a in weights]
        m, v = ([jnp.zeros_like(a) for a in weights] for _ in range(2))
        self._state = (weights, m, v, jnp.float32(0), jnp.float32(0))

    def images(self, x):
        return x

    def epoch(self, images, labels):
        self._state = (*self._state[:4], jnp.float32(0))
        for rows in self._rng.permutation(len(images)).reshape(-1, self._batch):
            self._state = train_step(self._network, self._state, images[rows], labels[rows])
        return float(self._state[4]) * self._batch / len(images)

    def weights(self):
        return [np.asarray(a) for a in self._state[0]]

    def predict(self, images):
        parts = np.split(images, range(500, len(images), 500))
        return np.concatenate([classes(self._network, self._state[0], part) for part in parts])


def prepare(network, batch, threads):
    """The number of threads is that of the cores: the process is bound to as many."""
    return JaxTrainer(network, batch)
