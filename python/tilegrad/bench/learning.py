"""What an honest epoch does to a network, by the NumPy reference: the proof of a training run.

A contender could say any loss. It cannot well invent weights: after an epoch they are compared with
what the reference reached over as many images from the same initial weights. Orders differ, so
that no number is equal, but three are alike: the mean loss, the loss on images held out, and how
far the weights moved. Adam's steps are of one size whatever the gradients, so that distance counts
the steps: half an epoch moves the weights a sixth to a third less.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .. import reference
from ..backend import ACTIVATIONS
from .networks import CLASSES, Network, Task

RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7
CHUNK = 250  # images at a time where no gradient is wanted
Backward = Callable[[np.ndarray], tuple[np.ndarray, list[np.ndarray]]]


class NotTrainedError(AssertionError):
    """A contender's loss or weights are not those of a network that was trained."""


# --- layers: each returns its output and dy -> (dx, gradients of its weights) ---------------------


def _conv(x, w, b, padding: str) -> tuple[np.ndarray, Backward]:
    pad = 1 if padding == "same" else 0
    n, height, width, _ = x.shape
    place = (1, 1, pad, pad, 1, 1, 1)  # strides, padding, dilation, groups
    y = np.empty((n, height + 2 * pad - 2, width + 2 * pad - 2, w.shape[-1]), x.dtype)
    reference.conv2d_forward(y, x, w, b, *place, ACTIVATIONS["relu"], 0.0)

    def backward(dy):
        dz, db = _through_relu(dy, y)
        dx, dw = np.empty_like(x), np.empty_like(w)
        reference.conv2d_backward_dw(dw, x, dz, *place)
        reference.conv2d_backward_dx(dx, dz, w, *place)
        return dx, [dw, db]

    return y, backward


def _through_relu(dy, y):
    """(dz, db) of y = relu(z + b)."""
    rows = (-1, y.shape[-1])
    dz, db = np.empty_like(y), np.empty(y.shape[-1], y.dtype)
    reference.bias_activation_backward_dz(
        dz.reshape(rows), db, dy.reshape(rows), y.reshape(rows), ACTIVATIONS["relu"], 0.0
    )
    return dz, db


def _pool(x) -> tuple[np.ndarray, Backward]:
    n, height, width, c = x.shape
    place = (2, 2, 2, 2, 0, 0)  # window, strides, padding
    y = np.empty((n, height // 2, width // 2, c), x.dtype)
    index = np.empty(y.shape, np.uint8)
    reference.max_pool2d_forward(y, index, x, *place)

    def backward(dy):
        dx = np.empty_like(x)
        reference.max_pool2d_backward_dx(dx, dy.reshape(y.shape), index, *place)
        return dx, []

    return y, backward


def _dense(x, w, b, activation: str) -> tuple[np.ndarray, Backward]:
    y = np.empty((len(x), w.shape[1]), x.dtype)
    reference.dense_forward(y, x, w, b, ACTIVATIONS[activation], 0.0)

    def backward(dy):
        dz, db = _through_relu(dy, y) if activation == "relu" else (dy, dy.sum(axis=0))
        dx, dw = np.empty_like(x), np.empty_like(w)
        reference.dense_backward_dw(dw, x, dz)
        reference.dense_backward_dx(dx, dz, w)
        return dx, [dw, db]

    return y, backward


def forward(network: Network, weights: Sequence[np.ndarray], x) -> tuple[np.ndarray, list]:
    """Logits (n, 10) of images (n, h, w, c), and the layers' backward functions in order."""
    arrays, layers = iter(weights), []

    def through(result):
        layers.append(result[1])
        return result[0]

    for block in network.blocks:
        for _ in block:
            x = through(_conv(x, next(arrays), next(arrays), network.padding))
        x = through(_pool(x))
    x = x.reshape(len(x), -1)
    x = through(_dense(x, next(arrays), next(arrays), "relu"))
    return through(_dense(x, next(arrays), next(arrays), "linear")), layers


def train_step(network, weights, moments, step: int, x, labels) -> float:
    """One step of Adam on one batch; the loss before it. `weights` and `moments` change."""
    logits, layers = forward(network, weights, x)
    n = len(x)
    loss, losses, p = np.empty(()), np.empty(n), np.empty_like(logits)
    reference.softmax_cross_entropy_sparse_forward(loss, losses, p, logits, labels, None, 1 / n)
    dy = np.empty_like(logits)
    shares = np.full(n, 1 / n, logits.dtype)
    reference.softmax_cross_entropy_sparse_backward_dx(dy, shares, p, labels)
    gradients = []
    for backward in reversed(layers):
        dy, own = backward(dy)
        gradients = own + gradients
    ones, zeros = np.ones(len(weights)), np.zeros(len(weights))
    rule = (RATE, math.inf, np.array(step), BETA_1, BETA_2, EPSILON, False)
    reference.adam_update(weights, gradients, moments, ones, zeros, *rule)
    return float(loss)


def one_thread(function: Callable) -> Callable:
    """`function` with one thread in BLAS: products are small, and two would wait for each other."""

    @functools.wraps(function)
    def limited(*args):
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, user_api="blas"):
            return function(*args)

    return limited


@one_thread
def train_epoch(network, weights, x, labels, batch: int, rng) -> float:
    """A first epoch, in place, in an order drawn from `rng`; the mean loss."""
    moments = [[np.zeros_like(w) for w in weights] for _ in range(2)]
    orders = rng.permutation(len(x)).reshape(-1, batch)
    losses = [
        train_step(network, weights, moments, step, x[rows], labels[rows])
        for step, rows in enumerate(orders)
    ]
    return sum(losses) / len(losses)


@one_thread
def judge(network: Network, weights: Sequence[np.ndarray], x, labels) -> tuple[float, float]:
    """(mean loss, accuracy) of `weights` on these images, in float64."""
    weights = [np.asarray(w, np.float64) for w in weights]
    loss, right = 0.0, 0
    for i in range(0, len(x), CHUNK):
        chunk, wanted = x[i : i + CHUNK].astype(np.float64), labels[i : i + CHUNK]
        logits = forward(network, weights, chunk)[0]
        log_p = np.empty_like(logits)
        reference.log_softmax_forward(log_p, logits)
        loss -= float(log_p[np.arange(len(chunk)), wanted].sum())
        right += int((logits.argmax(axis=1) == wanted).sum())
    return loss / len(x), right / len(x)


# --- the proof ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesson:
    """What one epoch is about: images, labels, and images to be judged by.

    The labels are renumbered at random: nobody can have trained who has not been told them, and
    the weights of an earlier lesson are worth nothing.
    """

    x: np.ndarray
    labels: np.ndarray
    x_held_out: np.ndarray
    labels_held_out: np.ndarray

    @classmethod
    def draw(cls, task: Task, images: int, *seeds: int) -> Lesson:
        rng = np.random.default_rng(seeds)
        names = rng.permutation(CLASSES).astype(np.int32)
        x, labels = task.draw(rng, images, False)
        x_held_out, labels_held_out = task.draw(rng, task.held_out, True)
        return cls(x, names[labels], x_held_out, names[labels_held_out])


@dataclass(frozen=True)
class Learned:
    """What an epoch came to: its mean loss, the loss held out, and how far the weights moved."""

    loss: float
    held_out: float
    moved: float


def learned(network: Network, loss: float, before, after, lesson: Lesson) -> Learned:
    """Judge the weights `after` an epoch that began with `before`.

    Raises:
        NotTrainedError: the weights are not those of this network, or not finite.
    """
    expected, got = [w.shape for w in before], [w.shape for w in after]
    if got != expected:
        raise NotTrainedError(f"weights: expected shapes {expected}, got {got}")
    if not all(np.isfinite(w).all() for w in after):
        raise NotTrainedError("weights: expected finite numbers, got others")
    held_out, _ = judge(network, after, lesson.x_held_out, lesson.labels_held_out)
    steps = (np.subtract(a, b, dtype=np.float64) for a, b in zip(after, before, strict=True))
    return Learned(loss, held_out, math.sqrt(sum(np.square(step).sum() for step in steps)))


@functools.lru_cache
def truth(task: Task, batch: int, images: int, seed: int) -> Learned:
    """What the reference learns of one lesson, in float32."""
    lesson = Lesson.draw(task, images, seed)
    before = task.network.weights()
    after = [w.copy() for w in before]
    rng = np.random.default_rng(seed)
    loss = train_epoch(task.network, after, lesson.x, lesson.labels, batch, rng)
    return learned(task.network, loss, before, after, lesson)


def check(task: Task, got: Learned, right: Learned) -> float:
    """The largest deviation as a share of what is allowed.

    Raises:
        NotTrainedError: it is above 1, or not a number.
    """
    gain = max(math.log(CLASSES) - right.held_out, 1)  # over guessing
    shares = {
        "mean loss": abs(got.loss - right.loss) / (task.loss_slack * right.loss),
        "loss held out": max(got.held_out - right.held_out, 0) / (gain / 3),  # less is no fault
        "distance": abs(got.moved - right.moved) / (task.moved_slack * right.moved),
    }
    for name, share in shares.items():
        if not share <= 1:
            raise NotTrainedError(
                f"not trained: {name}: {share:.1f} times the allowed deviation; got loss "
                f"{got.loss:.4f}, held out {got.held_out:.4f}, moved {got.moved:.3f}; the "
                f"reference: {right.loss:.4f}, {right.held_out:.4f}, {right.moved:.3f}"
            )
    return max(shares.values())
