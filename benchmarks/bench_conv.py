"""Convolution forward, dx and dw, each alone: first layers, 3x3 from 32 to 256 channels, 1x1.

PyTorch's gradients come from `convolution_backward` with a mask that asks for one of them. It gets
channels first and channels last; the faster one counts.
"""

import functools

import numpy as np
import pytest
from conftest import torch

from tilegrad.backend import ACTIVATIONS

# name: n, h, w, c, f, window, padding
WIDE = {
    "3x3 32-32 32x32": (32, 32, 32, 32, 32, 3, 1),
    "3x3 64-64 32x32": (32, 32, 32, 64, 64, 3, 1),
    "3x3 128-128 16x16": (32, 16, 16, 128, 128, 3, 1),
    "3x3 256-256 8x8": (32, 8, 8, 256, 256, 3, 1),
    "1x1 64-64 32x32": (32, 32, 32, 64, 64, 1, 0),
    "1x1 256-256 8x8": (32, 8, 8, 256, 256, 1, 0),
}
FIRST = {
    "3x3 1-32 28x28": (32, 28, 28, 1, 32, 3, 0),
    "3x3 3-64 32x32": (64, 32, 32, 3, 64, 3, 1),
}


def shapes(of):
    return pytest.mark.parametrize("shape", of.values(), ids=list(of))


class Problem:
    """The arrays of one shape, for tilegrad and in both of PyTorch's layouts."""

    def __init__(self, row, n, h, w, c, f, k, pad):
        oh, ow = h + 2 * pad - k + 1, w + 2 * pad - k + 1
        self.x, self.w = row.normal(n, h, w, c), row.normal(k, k, c, f)
        self.b, self.dy = row.normal(f), row.normal(n, oh, ow, f)
        self.ours = (1, 1, pad, pad, 1, 1, 1)  # stride, padding, dilation, groups
        self.theirs = ([1, 1], [pad, pad], [1, 1], False, [0, 0], 1)
        self.flops = 2 * self.dy.size * k * k * c
        self.label = f"{n} of {h}x{w}, {k}x{k} {c}-{f}"

    def layouts(self):
        """(name, x, w, dy) as PyTorch's tensors."""
        images = [torch.from_numpy(a).permute(0, 3, 1, 2) for a in (self.x, self.dy)]
        weights = torch.from_numpy(self.w).permute(3, 2, 0, 1)
        for name, layout in (
            ("channels last", torch.channels_last),
            ("channels first", torch.contiguous_format),
        ):
            x, dy, w = (t.contiguous(memory_format=layout) for t in (*images, weights))
            yield name, x, w, dy

    def backward(self, row, mask, axes):
        """Peers that compute one gradient; `axes` bring it into tilegrad's layout."""

        def wanted(gradients):
            return [gradients[mask.index(True)].numpy().transpose(axes)]

        for name, x, w, dy in self.layouts():
            call = functools.partial(
                torch.ops.aten.convolution_backward, dy, x, w, None, *self.theirs, mask
            )
            row.peer(name, call, wanted, [dy, x, w])


@shapes(FIRST | WIDE)
def bench_conv2d_forward(row, shape):
    p = Problem(row, *shape)
    y = np.empty_like(p.dy)
    row.kernel("conv2d_forward", y, p.x, p.w, p.b, *p.ours, ACTIVATIONS["linear"], 0.0)
    if torch:
        b = torch.from_numpy(p.b)
        for name, x, w, _ in p.layouts():
            call = functools.partial(torch.ops.aten.convolution, x, w, b, *p.theirs)
            row.peer(name, call, lambda y: [y.numpy().transpose(0, 2, 3, 1)], [x, w, b])
    row.run(p.label, p.flops, length=p.w[..., 0].size)


@shapes(WIDE)
def bench_conv2d_backward_dx(row, shape):
    p = Problem(row, *shape)
    row.kernel("conv2d_backward_dx", np.empty_like(p.x), p.dy, p.w, *p.ours)
    if torch:
        p.backward(row, [True, False, False], (0, 2, 3, 1))
    row.run(p.label, p.flops, length=p.w[..., 0, :].size)


@shapes(FIRST | WIDE)
def bench_conv2d_backward_dw(row, shape):
    p = Problem(row, *shape)
    row.kernel("conv2d_backward_dw", np.empty_like(p.w), p.x, p.dy, *p.ours)
    if torch:
        p.backward(row, [False, True, False], (2, 3, 1, 0))
    row.run(p.label, p.flops, length=p.dy[..., 0].size)
