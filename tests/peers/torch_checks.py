"""One comparison for all operations: the result and every gradient, against PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_close

import tilegrad

torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed")
torch.set_num_threads(1)


def compare(ours, theirs, *arrays, length=1, magnitude=1.0, what=""):
    """Run `ours` on tensors and `theirs` on float64 tensors of PyTorch; compare y and gradients.

    `length` is that of the longest sum, `magnitude` the size of one of its terms.
    """
    inputs = [tilegrad.Tensor(a, requires_grad=True) for a in arrays]
    y = ours(*inputs)
    peers = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in arrays]
    right = theirs(*peers)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    y.backward(tilegrad.Tensor(dy))
    right.backward(torch.tensor(dy.astype(np.float64)))
    near(y.numpy(), right.detach().numpy(), length, magnitude, f"{what} y")
    for i, (mine, peer) in enumerate(zip(inputs, peers, strict=True)):
        assert mine.grad is not None, f"{what}: input {i} has no gradient"
        near(mine.grad.numpy(), peer.grad.numpy(), length, magnitude, f"{what} gradient {i}")


def near(actual, right, length, magnitude, what):
    """Close on the scale of the array's largest element, or of a sum of `length` terms."""
    size = magnitude * np.sqrt(length) + (np.abs(right).max() if right.size else 0)
    assert_close(actual, right, length, np.full(right.shape, size), "function", what=what)


def channels_first(x):
    """(n, h, w, c) as PyTorch wants it."""
    return x.permute(0, 3, 1, 2).contiguous()


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def same_padding(size, window, stride, dilation=1):
    """Keras's "same": ceil(size / stride) outputs, the odd row after."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2
