"""Dropout."""

from __future__ import annotations

import numpy as np

from ... import ops, recording
from ...tensor import Tensor
from ..random import SeedGenerator
from .base import Layer


class Dropout(Layer):
    """While training, set a random share of the elements to 0 and scale the rest up.

    y = x / (1 - rate) where kept, else 0 (Srivastava et al., JMLR 15, 2014). The mask depends on
    the layer's seed and on how many training calls came before, so a run after
    `keras.utils.set_random_seed` repeats itself.

    Args:
        rate: share to drop, in [0, 1].
        noise_shape: shape of the mask; size 1 shares it along that axis, None takes x's size.
        seed: integer, or None for one from the global generator.

    Raises:
        ValueError: a rate outside [0, 1], a noise_shape of other than positive integers and None.

    >>> layer = Dropout(0.5, seed=1)
    >>> layer([1.0, 1.0]).numpy().tolist()
    [1.0, 1.0]
    >>> set(layer([1.0] * 100, training=True).numpy().tolist()) == {0.0, 2.0}
    True
    """

    def __init__(self, rate, noise_shape=None, seed=None, **kwargs):
        super().__init__(**kwargs)
        if (
            isinstance(rate, bool)
            or not isinstance(rate, (int, float, np.number))
            or not 0 <= rate <= 1
        ):
            raise ValueError(f"Dropout: expected rate in [0, 1], got {rate!r}")
        self.rate = float(rate)
        self.noise_shape = _check_noise_shape(noise_shape)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        if self.rate == 1:
            return inputs * 0.0
        seed = recording.live(self.seed_generator.next, np.uint64)
        if self.noise_shape is None:
            return ops.dropout(inputs, self.rate, seed)
        if len(self.noise_shape) != inputs.ndim:
            raise ValueError(
                f"{self._label()}: expected an input of {len(self.noise_shape)} axes, "
                f"as noise_shape {self.noise_shape} has, got shape {inputs.shape}"
            )
        shape = [size or x for size, x in zip(self.noise_shape, inputs.shape, strict=True)]
        ones = Tensor(np.ones(shape, np.float32), device=inputs.device)
        return inputs * ops.dropout(ones, self.rate, seed)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "rate": self.rate,
            "seed": self.seed,
            "noise_shape": self.noise_shape,
        }


def _check_noise_shape(shape):
    if shape is None:
        return None
    bad = isinstance(shape, (str, int)) or not all(
        size is None or (isinstance(size, int) and size > 0) for size in shape
    )
    if bad:
        raise ValueError(
            f"Dropout: expected noise_shape of positive integers and None, got {shape!r}"
        )
    return tuple(shape)
