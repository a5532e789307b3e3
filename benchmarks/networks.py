"""The two networks that everybody trains, their common initial weights, and their images."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

CLASSES = 10


@dataclass(frozen=True)
class Network:
    """3x3 convolutions with relu, a 2x2 max pool after each block, Dense relu, Dense softmax."""

    image: tuple[int, int, int]
    padding: str
    blocks: tuple[tuple[int, ...], ...]  # filters
    units: int

    def flat(self) -> tuple[int, int, int]:
        """(h, w, c) in front of the dense layers."""
        h, w, c = self.image
        for block in self.blocks:
            lost = 0 if self.padding == "same" else 2 * len(block)
            h, w, c = (h - lost) // 2, (w - lost) // 2, block[-1]
        return h, w, c

    def weights(self) -> list[np.ndarray]:
        """Glorot's uniform kernels, (3, 3, c, f) and (c, f), and zero biases, layer by layer."""
        rng = np.random.default_rng(1)
        channels = (self.image[-1], *(f for block in self.blocks for f in block))
        shapes = [(3, 3, c, f) for c, f in itertools.pairwise(channels)]
        shapes += [(math.prod(self.flat()), self.units), (self.units, CLASSES)]
        arrays = []
        for shape in shapes:
            window = math.prod(shape[:-2])
            bound = math.sqrt(6 / (window * (shape[-2] + shape[-1])))
            arrays.append(rng.uniform(-bound, bound, shape).astype(np.float32))
            arrays.append(np.zeros(shape[-1], np.float32))
        return arrays


NETWORKS = {
    "small": Network((28, 28, 1), "valid", ((32,),), 128),
    "wide": Network((32, 32, 3), "same", ((64, 64), (128, 128)), 256),
}


def images(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, labels): MNIST for the small network; for the wide one ten patterns under noise."""
    if name == "small":
        from tilegrad.keras.datasets import mnist

        (x, labels), _ = mnist.load_data()
        x, labels = x[:count, :, :, None], labels[:count]
        return (x / np.float32(255)).astype(np.float32), labels.astype(np.int32)
    rng = np.random.default_rng(0)
    h, w, c = NETWORKS[name].image
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    patterns = rng.random((CLASSES, h // 4, w // 4, c), np.float32)
    patterns = patterns.repeat(4, axis=1).repeat(4, axis=2)
    noise = rng.random((count, h, w, c), np.float32)
    return 0.5 * patterns[labels] + 0.5 * noise, labels
