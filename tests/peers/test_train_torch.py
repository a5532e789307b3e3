"""The small CNN trained twice, here and in PyTorch, from the same weights on the same batches."""

import os

import numpy as np
import pytest
from torch_checks import channels_first, channels_last, torch

import tilegrad
from tilegrad import ops

F = torch.nn.functional
BATCH, LR, BETA_1, BETA_2, EPSILON = 32, 1e-3, 0.9, 0.999, 1e-7
STEPS = 50
SHAPES = [(3, 3, 1, 32), (32,), (5408, 128), (128,), (128, 10), (10,)]


def images():
    """(x, labels): MNIST where TILEGRAD_DATA has it, else ten blurred patterns with noise."""
    count = BATCH * STEPS
    folder = os.environ.get("TILEGRAD_DATA", "")
    if folder and os.path.isdir(os.path.join(folder, "mnist")):
        from tilegrad.keras.datasets import mnist

        (x, labels), _ = mnist.load_data()
        return (x[:count, :, :, None] / np.float32(255)).astype(np.float32), labels[:count]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count)
    patterns = np.kron(rng.random((10, 7, 7)), np.ones((4, 4)))
    x = patterns[labels] * 0.7 + 0.3 * rng.random((count, 28, 28))
    return x[..., None].astype(np.float32), labels


def weights():
    """He's uniform initialisation; biases 0."""
    rng = np.random.default_rng(1)
    bounds = [np.sqrt(6 / np.prod(s[:-1])) if len(s) > 1 else 0 for s in SHAPES]
    return [rng.uniform(-b, b, s).astype(np.float32) for b, s in zip(bounds, SHAPES, strict=True)]


def train_here(backend, x, labels):
    w = [tilegrad.Tensor(a, requires_grad=True) for a in weights()]
    states = [[np.zeros(s, np.float32) for s in SHAPES] for _ in range(2)]
    scale, decay = np.ones(len(w), np.float32), np.zeros(len(w), np.float32)
    losses = []
    for step in range(1, STEPS + 1):
        rows = slice((step - 1) * BATCH, step * BATCH)
        y = ops.conv2d(x[rows], w[0], w[1], activation="relu")
        y = ops.max_pool2d(y, 2).reshape(BATCH, 5408)
        y = ops.dense(y, w[2], w[3], activation="relu")
        loss = ops.softmax_cross_entropy(ops.dense(y, w[4], w[5]), labels[rows])
        loss.backward()
        losses.append(loss.item())
        backend.adam_update(
            [t.data for t in w],
            [t.grad.data for t in w],
            states,
            scale,
            decay,
            LR,
            float("inf"),
            np.array(step - 1),
            BETA_1,
            BETA_2,
            EPSILON,
            False,
        )
        for t in w:
            t.zero_grad()
    return np.array(losses)


def train_there(x, labels, dtype):
    """PyTorch's layers; Adam by hand, since Keras adds epsilon before the bias correction."""
    w = [torch.tensor(a, dtype=dtype, requires_grad=True) for a in weights()]
    m, v = [[torch.zeros_like(t) for t in w] for _ in range(2)]
    x, labels = torch.tensor(x, dtype=dtype), torch.tensor(labels.astype(np.int64))
    losses = []
    for step in range(1, STEPS + 1):
        rows = slice((step - 1) * BATCH, step * BATCH)
        kernel = w[0].permute(3, 2, 0, 1)
        y = F.relu(F.conv2d(channels_first(x[rows]), kernel, w[1]))
        y = channels_last(F.max_pool2d(y, 2)).reshape(BATCH, 5408)
        y = F.relu(y @ w[2] + w[3]) @ w[4] + w[5]
        loss = F.cross_entropy(y, labels[rows])
        gradients = torch.autograd.grad(loss, w)
        losses.append(loss.item())
        alpha = LR * np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
        with torch.no_grad():
            for t, g, mean, square in zip(w, gradients, m, v, strict=True):
                mean += (g - mean) * (1 - BETA_1)
                square += (g * g - square) * (1 - BETA_2)
                t -= alpha * mean / (square.sqrt() + EPSILON)
    return np.array(losses)


@pytest.fixture(scope="module")
def peer():
    x, labels = images()
    return x, labels, train_there(x, labels, torch.float64)


def test_the_loss_follows_pytorch(backend, peer):
    """50 steps of Adam: every loss within 1e-4 of PyTorch's in float64, and it did learn."""
    x, labels, right = peer
    losses = train_here(backend, x, labels)
    error = np.abs(losses - right) / np.abs(right)
    assert (error <= 1e-4).all(), f"worst relative error {error.max():.2e} at step {error.argmax()}"
    assert losses[-10:].mean() < 0.6 * losses[:5].mean()
