"""2x2 max pooling, forward with indices as training needs it, and backward.

PyTorch gets channels first and channels last, with its outputs made beforehand; the faster one
counts.
"""

import functools

import numpy as np
import pytest
from conftest import torch

WINDOW = (2, 2, 2, 2, 0, 0)  # window, stride, padding
THEIRS = ([2, 2], [2, 2], [0, 0], [1, 1], False)
shapes = pytest.mark.parametrize("n, h, w, c", [(32, 26, 26, 32), (64, 32, 32, 64)])


def layouts(*arrays):
    """(name, tensors): each array (n, h, w, c) as a tensor in both layouts."""
    for name, layout in (
        ("channels last", torch.channels_last),
        ("channels first", torch.contiguous_format),
    ):
        tensors = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in arrays)
        yield name, [t.clone(memory_format=layout) for t in tensors]


@shapes
def bench_max_pool2d_forward(row, n, h, w, c):
    x, y = row.normal(n, h, w, c), np.empty((n, h // 2, w // 2, c), np.float32)
    row.kernel("max_pool2d_forward", y, np.empty(y.shape, np.uint8), x, *WINDOW, outputs=2)
    if torch:
        for name, (theirs, out, indices) in layouts(x, y, y.astype(np.int64)):
            call = functools.partial(
                torch.ops.aten.max_pool2d_with_indices.out,
                theirs,
                *THEIRS,
                out=out,
                indices=indices,
            )
            row.peer(
                name,
                call,
                lambda result: [result[0].numpy().transpose(0, 2, 3, 1), None],
                [theirs],
                [out],
            )
    row.run(f"{n} x {h} x {w} x {c}")


@shapes
def bench_max_pool2d_backward(row, n, h, w, c):
    x, dy = row.normal(n, h, w, c), row.normal(n, h // 2, w // 2, c)
    dx = np.empty_like(x)
    # the place of each window's maximum, as tilegrad counts them
    windows = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
    index = windows.reshape(*dy.shape, 4).argmax(axis=-1).astype(np.uint8)
    row.kernel("max_pool2d_backward_dx", dx, dy, index, *WINDOW)
    if torch:
        for name, (theirs, gradient, out) in layouts(x, dy, dx):
            _, indices = torch.ops.aten.max_pool2d_with_indices(theirs, *THEIRS)
            call = functools.partial(
                torch.ops.aten.max_pool2d_with_indices_backward.grad_input,
                gradient,
                theirs,
                *THEIRS,
                indices,
                grad_input=out,
            )
            row.peer(
                name,
                call,
                lambda dx: [dx.numpy().transpose(0, 2, 3, 1)],
                [theirs, gradient, indices],
                [out],
            )
    row.run(f"{n} x {h} x {w} x {c}")
