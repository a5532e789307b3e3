"""The networks that everybody trains, their common initial weights, their images and labels."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CLASSES = 10


@dataclass(frozen=True)
class Network:
    """3x3 convolutions with relu, a 2x2 max pool after each block, Dense relu, Dense softmax.

    Args:
        image: (h, w, c).
        padding: of the convolutions: "valid" or "same".
        blocks: the filters of each block's convolutions.
        units: of the first dense layer.
    """

    image: tuple[int, int, int]
    padding: str
    blocks: tuple[tuple[int, ...], ...]
    units: int

    @classmethod
    def from_json(cls, fields: dict) -> Network:
        """From `dataclasses.asdict`, whose tuples JSON turns into lists."""
        blocks = tuple(tuple(block) for block in fields["blocks"])
        return cls(tuple(fields["image"]), fields["padding"], blocks, fields["units"])

    def flat(self) -> tuple[int, int, int]:
        """(h, w, c) in front of the dense layers."""
        h, w, c = self.image
        for block in self.blocks:
            lost = 0 if self.padding == "same" else 2 * len(block)
            h, w, c = (h - lost) // 2, (w - lost) // 2, block[-1]
        return h, w, c

    def shapes(self) -> list[tuple[int, ...]]:
        """Of the kernels: (3, 3, c, f) and (c, f), layer by layer."""
        channels = (self.image[-1], *(f for block in self.blocks for f in block))
        convolutions = [(3, 3, c, f) for c, f in itertools.pairwise(channels)]
        return [*convolutions, (math.prod(self.flat()), self.units), (self.units, CLASSES)]

    def weights(self, seed: int = 1) -> list[np.ndarray]:
        """Glorot's uniform kernels and zero biases, layer by layer; float32."""
        rng = np.random.default_rng(seed)
        arrays = []
        for shape in self.shapes():
            window = math.prod(shape[:-2])
            bound = math.sqrt(6 / (window * (shape[-2] + shape[-1])))
            arrays.append(rng.uniform(-bound, bound, shape).astype(np.float32))
            arrays.append(np.zeros(shape[-1], np.float32))
        return arrays

    def flops(self) -> int:
        """Of the products for one image: forward, and both gradients; no dx of the first layer."""
        (h, w, _), total, first = self.image, 0, 0
        shapes = iter(self.shapes())
        for block in self.blocks:
            for _ in block:
                if self.padding == "valid":
                    h, w = h - 2, w - 2
                forward = 2 * h * w * math.prod(next(shapes))
                first = first or forward
                total += 3 * forward
            h, w = h // 2, w // 2
        return total + sum(6 * math.prod(shape) for shape in shapes) - first


# --- images ---------------------------------------------------------------------------------------


@functools.cache
def mnist() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(x_train, labels, x_test, labels): x (n, 28, 28, 1), 0 to 1, float32; labels int32."""
    from ..keras.datasets import mnist

    (x, labels), (x_test, labels_test) = mnist.load_data()
    x, x_test = (a[..., None] / np.float32(255) for a in (x, x_test))
    return x, labels.astype(np.int32), x_test, labels_test.astype(np.int32)


def digits(rng: np.random.Generator, count: int, test: bool) -> tuple[np.ndarray, np.ndarray]:
    """`count` images of MNIST in random order, and their labels."""
    x, labels = mnist()[2:] if test else mnist()[:2]
    rows = rng.permutation(len(x))[:count]
    return x[rows], labels[rows]


def patterns(
    image: tuple[int, int, int], rng: np.random.Generator, count: int, test: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Ten fixed patterns of 4x4 squares, each under as much noise; and which one it is."""
    h, w, c = image
    squares = np.random.default_rng(0).random((CLASSES, h // 4, w // 4, c), np.float32)
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    noise = rng.random((count, h, w, c), np.float32)
    shown = squares.repeat(4, axis=1).repeat(4, axis=2)[labels]
    return 0.5 * shown + 0.5 * noise, labels


@dataclass(frozen=True)
class Task:
    """A network, what it learns, and how closely two honest epochs of it resemble each other.

    Args:
        network: what is trained.
        draw: (rng, count, test) -> images (count, h, w, c) and labels; `test` asks for images
            that no epoch has.
        images: of one timed epoch.
        held_out: images that weights are judged by.
        loss_slack, moved_slack: by which share an epoch's mean loss, and the distance that the
            weights moved, may differ from the reference's: more than four standard deviations of
            what the order of the images does. After half an epoch the distance differs by more.
    """

    network: Network
    draw: Callable
    images: int
    held_out: int
    loss_slack: float
    moved_slack: float


SMALL = Network((28, 28, 1), "valid", ((32,),), 128)
DEEP = Network((28, 28, 1), "valid", ((32,), (64,)), 128)
WIDE = Network((32, 32, 3), "same", ((64, 64), (128, 128)), 256)
TASKS = {
    "cnn": Task(SMALL, digits, 10_240, 500, loss_slack=0.15, moved_slack=0.12),
    "deep": Task(DEEP, digits, 10_240, 500, loss_slack=0.15, moved_slack=0.12),
    "wide": Task(
        WIDE,
        functools.partial(patterns, WIDE.image),
        1_536,
        100,
        loss_slack=0.8,
        moved_slack=0.15,
    ),
}
