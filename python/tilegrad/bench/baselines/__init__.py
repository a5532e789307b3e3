"""How each library trains a `networks.Network`, at its best.

A baseline is a module with ``prepare(network, batch, threads, **options) -> Trainer``, and VERSION,
the library's. Importing it raises ImportError where the library is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Trainer(Protocol):
    """A network and an Adam with a rate of 1e-3, betas 0.9 and 0.999, epsilon 1e-7.

    Weights are float32 arrays in the order and layout of `Network.weights`.
    """

    def restart(self, weights: Sequence[np.ndarray], seed: int) -> None:
        """These weights, an Adam that has made no step, and orders of images drawn from `seed`."""

    def images(self, x: np.ndarray):
        """float32 (n, h, w, c) as this library likes to have images; nothing is timed yet."""

    def epoch(self, images, labels: np.ndarray) -> float:
        """The mean loss of one pass in random order; int32 labels, n a multiple of the batch."""

    def weights(self) -> list[np.ndarray]:
        """What has become of the weights."""

    def predict(self, images) -> np.ndarray:
        """The likeliest class of each image, (n,)."""
