"""Dense layers, y = relu(x w + b) and its gradients, at the small CNN's and the wide CNN's sizes.

PyTorch gets each product with the weights as tilegrad has them, (c, f), and as `nn.Linear` has
them, (f, c); the faster one counts.
"""

import functools

import numpy as np
import pytest
from conftest import torch

from tilegrad.backend import ACTIVATIONS

SHAPES = [
    (32, 5408, 128),
    (128, 5408, 128),
    (512, 5408, 128),
    (32, 128, 10),
    (64, 8192, 256),
]
sizes = pytest.mark.parametrize("n, c, f", SHAPES)


def label(n, c, f):
    return f"{n} x {c} x {f}"


@sizes
def bench_dense_forward(row, threads, n, c, f):
    x, w, b, y = row.normal(n, c), row.normal(c, f), row.normal(f), np.empty((n, f), np.float32)
    row.kernel("dense_forward", y, x, w, b, ACTIVATIONS["relu"], 0.0)
    if torch:
        x, w, b = map(torch.from_numpy, (x, w, b))
        for name, weights in (("addmm, (c, f)", w), ("addmm, (f, c)", w.T.contiguous().T)):
            out = torch.empty(n, f)

            def call(weights=weights, out=out):
                return torch.relu_(torch.addmm(b, x, weights, out=out))

            row.peer(name, call, lambda y: [y.numpy()], [x, weights, b], [out])
    row.run(label(n, c, f), flops=2 * n * c * f, length=c)


@sizes
def bench_dense_backward_dx(row, threads, n, c, f):
    dy, w, dx = row.normal(n, f), row.normal(c, f), np.empty((n, c), np.float32)
    row.kernel("dense_backward_dx", dx, dy, w)
    if torch:
        dy, w = map(torch.from_numpy, (dy, w))
        for name, weights in (("mm, (c, f)", w), ("mm, (f, c)", w.T.contiguous().T)):
            out = torch.empty(n, c)
            call = functools.partial(torch.mm, dy, weights.T, out=out)
            row.peer(name, call, lambda dx: [dx.numpy()], [dy, weights], [out])
    row.run(label(n, c, f), flops=2 * n * c * f, length=f)


@sizes
def bench_dense_backward_dw(row, threads, n, c, f):
    x, dy, dw = row.normal(n, c), row.normal(n, f), np.empty((c, f), np.float32)
    row.kernel("dense_backward_dw", dw, x, dy)
    if torch:
        x, dy = map(torch.from_numpy, (x, dy))
        out, turned = torch.empty(c, f), torch.empty(f, c)
        call = functools.partial(torch.mm, x.T, dy, out=out)
        row.peer("mm, (c, f)", call, lambda dw: [dw.numpy()], [x, dy], [out])
        call = functools.partial(torch.mm, dy.T, x, out=turned)
        row.peer("mm, (f, c)", call, lambda dw: [dw.numpy().T], [x, dy], [turned])
    row.run(label(n, c, f), flops=2 * n * c * f, length=n)
