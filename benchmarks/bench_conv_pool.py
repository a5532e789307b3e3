"""Convolution, bias, relu and 2x2 max pooling: one kernel here, a chain of PyTorch's there.

PyTorch gets channels first and channels last; the faster one counts. Inputs are small whole
numbers: sums are exact, so that float32 finds the same maxima as the float64 reference.
"""

import numpy as np
import pytest
from conftest import torch

from tilegrad.backend import ACTIVATIONS

# n, h, w, c, f, padding of a 3x3 window
SHAPES = {
    "1-32 28x28": (32, 28, 28, 1, 32, 0),
    "3-64 32x32": (64, 32, 32, 3, 64, 1),
    "64-64 32x32": (32, 32, 32, 64, 64, 1),
}
POOL = ([2, 2], [2, 2], [0, 0], [1, 1], False)


class Problem:
    """The arrays of one shape, for tilegrad and in both of PyTorch's layouts."""

    def __init__(self, row, n, h, w, c, f, pad):
        oh, ow = h + 2 * pad - 2, w + 2 * pad - 2
        self.x, self.w = whole(row, n, h, w, c), whole(row, 3, 3, c, f)
        self.b, self.dy = whole(row, f), whole(row, n, oh // 2, ow // 2, f)
        # conv's output, stride, padding, dilation; pool's window and padding
        self.sizes = (oh, ow, 1, 1, pad, pad, 1, 1, 2, 2, 0, 0)
        self.theirs = ([1, 1], [pad, pad], [1, 1], False, [0, 0], 1)
        self.image = (n, oh, ow, f)
        self.flops = 2 * n * oh * ow * f * 9 * c
        self.label = f"{n} of {h}x{w}, 3x3 {c}-{f}"

    def layouts(self):
        """(name, x, w, b, dy) as PyTorch's tensors."""
        images = [torch.from_numpy(a).permute(0, 3, 1, 2) for a in (self.x, self.dy)]
        weights = torch.from_numpy(self.w).permute(3, 2, 0, 1)
        for name, layout in (
            ("channels last", torch.channels_last),
            ("channels first", torch.contiguous_format),
        ):
            x, dy, w = (t.contiguous(memory_format=layout) for t in (*images, weights))
            yield name, x, w, torch.from_numpy(self.b), dy


def whole(row, *shape):
    return np.round(2 * row.normal(*shape))


shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))


@shapes
def bench_conv2d_max_pool2d_forward(row, shape):
    p = Problem(row, *shape)
    y, index = np.empty(p.dy.shape, np.float32), np.empty(p.dy.shape, np.uint8)
    relu = ACTIVATIONS["relu"]
    row.kernel("conv2d_max_pool2d_forward", y, index, p.x, p.w, p.b, *p.sizes, relu, outputs=2)
    if torch:
        for name, x, w, b, _ in p.layouts():

            def call(x=x, w=w, b=b):
                image = torch.ops.aten.convolution(x, w, b, *p.theirs).relu_()
                return torch.ops.aten.max_pool2d_with_indices(image, *POOL)

            row.peer(name, call, lambda y: [y[0].numpy().transpose(0, 2, 3, 1), None], [x, w, b])
    row.run(p.label, p.flops, length=p.w[..., 0].size)


@shapes
def bench_conv2d_max_pool2d_backward_dw(row, shape):
    p = Problem(row, *shape)
    index = row.rng.integers(0, 4, p.dy.shape, np.uint8)
    index[row.rng.random(p.dy.shape) < 0.25] = 255  # where the relu let nothing through
    dw, db = np.empty_like(p.w), np.empty_like(p.b)
    row.kernel("conv2d_max_pool2d_backward_dw", dw, db, p.x, p.dy, index, *p.sizes, outputs=2)
    if torch:
        # an image whose maxima are where the index says, and whose relu is closed where it is 255
        open_ = index != 255
        place = np.where(open_, index, 0)
        image = np.zeros(p.image, np.float32)
        n, oh, ow, f = p.image
        windows = image[:, : oh // 2 * 2, : ow // 2 * 2].reshape(n, oh // 2, 2, ow // 2, 2, f)
        for i in range(4):
            windows[:, :, i // 2, :, i % 2, :] = open_ & (place == i)
        theirs = torch.from_numpy(image).permute(0, 3, 1, 2)
        for name, x, w, _, dy in p.layouts():
            layout = torch.channels_last if name == "channels last" else torch.contiguous_format
            y = theirs.clone(memory_format=layout)
            _, indices = torch.ops.aten.max_pool2d_with_indices(y, *POOL)

            def call(x=x, w=w, dy=dy, y=y, indices=indices):
                dz = torch.ops.aten.max_pool2d_with_indices_backward(dy, y, *POOL, indices)
                dz = torch.ops.aten.threshold_backward(dz, y, 0)
                mask = [False, True, True]
                return torch.ops.aten.convolution_backward(dz, x, w, [p.b.size], *p.theirs, mask)

            def wanted(gradients):
                return [gradients[1].numpy().transpose(2, 3, 1, 0), gradients[2].numpy()]

            row.peer(name, call, wanted, [x, w, dy, y, indices])
    row.run(p.label, p.flops, length=p.dy[..., 0].size)
