"""Every kernel against PyTorch and CuPy: what each computes, on which sizes.

A problem is made for one set of buffers at a time. The truth is computed by PyTorch in float64.
Convolutions and pooling get channels last, where tilegrad's own arrays are shared, and channels
first; the fastest counts.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from tilegrad import reference
from tilegrad.backend import ACTIVATIONS, BINARY, UNARY

from .device import Deadline, Device
from .timing import Contender, Truth, number_of_sets, prove, ratio, take_turns

RELU, GELU = ACTIVATIONS["relu"], ACTIVATIONS["gelu"]
aten = torch.ops.aten


@dataclass
class Problem:
    """One set of buffers and the calls on it.

    Args:
        ours: tilegrad's call.
        outputs: what it writes, the outputs that are compared first.
        exact: the same in float64 -> tensors; it is given a function that widens a tensor.
        torch: name -> call.
        layout: turns what PyTorch's calls return into tensors of tilegrad's layout.
        cupy: CuPy's call and the tensors it writes, where CuPy has one.
        tensors: all buffers, for the count of bytes.
        length: of the longest sum.
        in_place: the outputs are updated, not written.
    """

    ours: Callable[[], object]
    outputs: list[torch.Tensor]
    exact: Callable[[Callable], list[torch.Tensor]]
    torch: dict[str, Callable[[], object]]
    tensors: list[torch.Tensor]
    layout: Callable[[object], list] = field(default=lambda result: [result])
    cupy: tuple[Callable[[], object], list[torch.Tensor]] | None = None
    flops: int = 0
    length: int = 1
    in_place: bool = False
    tf32: bool = False


# --- products -------------------------------------------------------------------------------------


def matmul(d: Device, m, k, n) -> Problem:
    a, b, y = d.normal(1, m, k), d.normal(1, k, n), torch.empty(1, m, n, device=d.torch)
    theirs, other = torch.empty(m, n, device=d.torch), torch.empty(m, n, device=d.torch)
    arrays = [d.array(t) for t in (y, a, b)]
    left, right, out = d.array(a[0]), d.array(b[0]), d.array(other)
    return Problem(
        functools.partial(d.kernels.matmul_forward, *arrays),
        [y[0]],
        lambda wide: [wide(a[0]) @ wide(b[0])],
        {"mm": lambda: torch.mm(a[0], b[0], out=theirs)},
        [a, b, y],
        cupy=(lambda: d.xp.matmul(left, right, out=out), [other]),
        flops=2 * m * k * n,
        length=k,
        tf32=True,
    )


def matmul_backward_da(d: Device, m, k, n) -> Problem:
    dy, b, da = d.normal(1, m, n), d.normal(1, k, n), torch.empty(1, m, k, device=d.torch)
    return Problem(
        functools.partial(d.kernels.matmul_backward_da, *map(d.array, (da, dy, b))),
        [da[0]],
        lambda wide: [wide(dy[0]) @ wide(b[0]).T],
        {"mm": lambda: dy[0] @ b[0].T},
        [dy, b, da],
        flops=2 * m * k * n,
        length=n,
        tf32=True,
    )


def matmul_backward_db(d: Device, m, k, n) -> Problem:
    a, dy, db = d.normal(1, m, k), d.normal(1, m, n), torch.empty(1, k, n, device=d.torch)
    return Problem(
        functools.partial(d.kernels.matmul_backward_db, *map(d.array, (db, a, dy))),
        [db[0]],
        lambda wide: [wide(a[0]).T @ wide(dy[0])],
        {"mm": lambda: a[0].T @ dy[0]},
        [a, dy, db],
        flops=2 * m * k * n,
        length=m,
        tf32=True,
    )


def dense_forward(d: Device, n, c, f) -> Problem:
    x, w, b, y = d.normal(n, c), d.normal(c, f), d.normal(f), torch.empty(n, f, device=d.torch)
    arrays = [d.array(t) for t in (y, x, w, b)]
    turned = w.T.contiguous()  # (f, c), as nn.Linear keeps it
    return Problem(
        functools.partial(d.kernels.dense_forward, *arrays, RELU, 0.0),
        [y],
        lambda wide: [torch.relu(wide(x) @ wide(w) + wide(b))],
        {
            "addmm, relu": lambda: torch.relu_(torch.addmm(b, x, w)),
            "linear, relu": lambda: torch.relu_(functional.linear(x, turned, b)),
        },
        [x, w, b, y],
        flops=2 * n * c * f,
        length=c,
        tf32=True,
    )


def dense_backward_dx(d: Device, n, c, f) -> Problem:
    dy, w, dx = d.normal(n, f), d.normal(c, f), torch.empty(n, c, device=d.torch)
    arrays = [d.array(t) for t in (dx, dy, w)]
    turned = w.T.contiguous()
    return Problem(
        functools.partial(d.kernels.dense_backward_dx, *arrays),
        [dx],
        lambda wide: [wide(dy) @ wide(w).T],
        {"mm, (c, f)": lambda: dy @ w.T, "mm, (f, c)": lambda: dy @ turned},
        [dy, w, dx],
        flops=2 * n * c * f,
        length=f,
        tf32=True,
    )


def dense_backward_dw(d: Device, n, c, f) -> Problem:
    x, dy, dw = d.normal(n, c), d.normal(n, f), torch.empty(c, f, device=d.torch)
    arrays = [d.array(t) for t in (dw, x, dy)]
    return Problem(
        functools.partial(d.kernels.dense_backward_dw, *arrays),
        [dw],
        lambda wide: [wide(x).T @ wide(dy)],
        {"mm": lambda: x.T @ dy},
        [x, dy, dw],
        flops=2 * n * c * f,
        length=n,
        tf32=True,
    )


def bias_activation_backward_dz(d: Device, rows, f) -> Problem:
    dy, y = d.normal(rows, f), torch.relu(d.normal(rows, f))
    dz, db = torch.empty_like(dy), torch.empty(f, device=d.torch)
    arrays = [d.array(t) for t in (dz, db, dy, y)]

    def theirs():
        gradient = aten.threshold_backward(dy, y, 0)
        return gradient, gradient.sum(0)

    def exact(wide):
        gradient = wide(dy) * (y > 0)
        return [gradient, gradient.sum(0)]

    return Problem(
        functools.partial(d.kernels.bias_activation_backward_dz, *arrays, RELU, 0.0),
        [dz, db],
        exact,
        {"threshold_backward, sum": theirs},
        [dy, y, dz, db],
        layout=list,
        length=rows,
    )


def bias_backward_db(d: Device, rows, f) -> Problem:
    dy, db = d.normal(rows, f), torch.empty(f, device=d.torch)
    other = torch.empty_like(db)
    array, out = d.array(dy), d.array(other)
    return Problem(
        functools.partial(d.kernels.bias_backward_db, d.array(db), array),
        [db],
        lambda wide: [wide(dy).sum(0)],
        {"sum": lambda: dy.sum(0)},
        [dy, db],
        cupy=(lambda: d.xp.sum(array, axis=0, out=out), [other]),
        length=rows,
    )


# --- convolutions ---------------------------------------------------------------------------------

LAYOUTS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}


def image(tensor):
    """(n, h, w, c) as PyTorch's (n, c, h, w), sharing memory; also a weight (kh, kw, c, f)."""
    return tensor.permute(0, 3, 1, 2)


def back(tensor):
    """(n, c, h, w) as (n, h, w, c)."""
    return tensor.permute(0, 2, 3, 1)


class Convolution:
    """Arrays of a square window with `stride` and padding that keeps h / stride."""

    def __init__(self, d: Device, n, h, w, c, f, window, stride):
        pad = window // 2
        oh, ow = ((size + 2 * pad - window) // stride + 1 for size in (h, w))
        self.x, self.w = d.normal(n, h, w, c), d.normal(window, window, c, f)
        self.b, self.dy = d.normal(f), d.normal(n, oh, ow, f)
        self.ours = (stride, stride, pad, pad, 1, 1, 1)
        self.theirs = ([stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1)
        self.flops = 2 * n * oh * ow * f * window * window * c

    def layouts(self):
        """(name, x, w, dy) of PyTorch."""
        for name, layout in LAYOUTS.items():
            x, dy = (image(t).contiguous(memory_format=layout) for t in (self.x, self.dy))
            yield name, x, self.w.permute(3, 2, 0, 1).contiguous(memory_format=layout), dy

    def backward(self, x, w, dy, mask):
        return aten.convolution_backward(dy, x, w, [self.b.numel()], *self.theirs, mask)


def conv2d_forward(d: Device, n, h, w, c, f, window, stride) -> Problem:
    p = Convolution(d, n, h, w, c, f, window, stride)
    y = torch.empty_like(p.dy)
    arrays = [d.array(t) for t in (y, p.x, p.w, p.b)]

    def call(x, w, b):
        return torch.relu_(aten.convolution(x, w, b, *p.theirs))

    def exact(wide):
        x, w = wide(image(p.x)), wide(p.w.permute(3, 2, 0, 1))
        return [back(call(x, w, wide(p.b)))]

    return Problem(
        functools.partial(d.kernels.conv2d_forward, *arrays, *p.ours, RELU, 0.0),
        [y],
        exact,
        {name: functools.partial(call, x, w, p.b) for name, x, w, _ in p.layouts()},
        [p.x, p.w, p.b, y],
        layout=lambda y: [back(y)],
        flops=p.flops,
        length=window * window * c,
        tf32=True,
    )


def conv2d_backward_dx(d: Device, n, h, w, c, f, window, stride) -> Problem:
    p = Convolution(d, n, h, w, c, f, window, stride)
    dx = torch.empty_like(p.x)
    arrays = [d.array(t) for t in (dx, p.dy, p.w)]
    mask = [True, False, False]

    def exact(wide):
        tensors = wide(image(p.x)), wide(p.w.permute(3, 2, 0, 1)), wide(image(p.dy))
        return [back(p.backward(*tensors, mask)[0])]

    return Problem(
        functools.partial(d.kernels.conv2d_backward_dx, *arrays, *p.ours),
        [dx],
        exact,
        {name: functools.partial(p.backward, *tensors, mask) for name, *tensors in p.layouts()},
        [p.dy, p.w, dx],
        layout=lambda gradients: [back(gradients[0])],
        flops=p.flops,
        length=window * window * f,
        tf32=True,
    )


def conv2d_backward_dw(d: Device, n, h, w, c, f, window, stride) -> Problem:
    p = Convolution(d, n, h, w, c, f, window, stride)
    dw = torch.empty_like(p.w)
    arrays = [d.array(t) for t in (dw, p.x, p.dy)]
    mask = [False, True, False]

    def exact(wide):
        tensors = wide(image(p.x)), wide(p.w.permute(3, 2, 0, 1)), wide(image(p.dy))
        return [p.backward(*tensors, mask)[1].permute(2, 3, 1, 0)]

    return Problem(
        functools.partial(d.kernels.conv2d_backward_dw, *arrays, *p.ours),
        [dw],
        exact,
        {name: functools.partial(p.backward, *tensors, mask) for name, *tensors in p.layouts()},
        [p.x, p.dy, dw],
        layout=lambda gradients: [gradients[1].permute(2, 3, 1, 0)],
        flops=p.flops,
        length=p.dy[..., 0].numel(),
        tf32=True,
    )


# --- convolution with pooling, as in a first layer ------------------------------------------------

POOL = ([2, 2], [2, 2], [0, 0], [1, 1], False)


class FirstLayer:
    """A 3x3 convolution, bias, relu and 2x2 max pooling.

    Inputs are small whole numbers: sums are exact, so float32 finds the maxima that float64 finds.
    """

    def __init__(self, d: Device, n, h, w, c, f, pad):
        oh, ow = h + 2 * pad - 2, w + 2 * pad - 2
        self.x, self.w, self.b, self.dy = (
            torch.round(2 * d.normal(*shape))
            for shape in ((n, h, w, c), (3, 3, c, f), (f,), (n, oh // 2, ow // 2, f))
        )
        self.ours = (oh, ow, 1, 1, pad, pad, 1, 1, 2, 2, 0, 0)
        self.theirs = ([1, 1], [pad, pad], [1, 1], False, [0, 0], 1)
        self.flops = 2 * n * oh * ow * f * 9 * c

    def forward(self, x, w, b):
        z = torch.relu_(aten.convolution(x, w, b, *self.theirs))
        return z, *aten.max_pool2d_with_indices(z, *POOL)

    def backward(self, x, w, dy, z, indices):
        dz = aten.max_pool2d_with_indices_backward(dy, z, *POOL, indices)
        dz = aten.threshold_backward(dz, z, 0)
        return aten.convolution_backward(
            dz, x, w, [self.b.numel()], *self.theirs, [False, True, True]
        )

    def layouts(self):
        for name, layout in LAYOUTS.items():
            x, dy = (image(t).contiguous(memory_format=layout) for t in (self.x, self.dy))
            yield name, x, self.w.permute(3, 2, 0, 1).contiguous(memory_format=layout), dy


def conv2d_max_pool2d_forward(d: Device, n, h, w, c, f, pad) -> Problem:
    p = FirstLayer(d, n, h, w, c, f, pad)
    y = torch.empty_like(p.dy)
    index = torch.empty(y.shape, dtype=torch.uint8, device=d.torch)
    arrays = [d.array(t) for t in (y, index, p.x, p.w, p.b)]

    def exact(wide):
        x, w = wide(image(p.x)), wide(p.w.permute(3, 2, 0, 1))
        return [back(p.forward(x, w, wide(p.b))[1])]

    return Problem(
        functools.partial(d.kernels.conv2d_max_pool2d_forward, *arrays, *p.ours, RELU),
        [y],
        exact,
        {name: functools.partial(p.forward, x, w, p.b) for name, x, w, _ in p.layouts()},
        [p.x, p.w, p.b, y, index],
        layout=lambda result: [back(result[1])],
        flops=p.flops,
        length=9 * c,
        tf32=True,
    )


def conv2d_max_pool2d_backward_dw(d: Device, n, h, w, c, f, pad) -> Problem:
    """Random maxima, a fifth of them closed by the relu; PyTorch gets an image that has them."""
    p = FirstLayer(d, n, h, w, c, f, pad)
    index = d.integers(0, 5, p.dy.shape, torch.uint8)
    _, rows, columns, _ = index.shape
    z = torch.zeros(n, rows, 2, columns, 2, f, device=d.torch)
    for place in range(4):
        z[:, :, place // 2, :, place % 2] = index == place
    z = image(z.reshape(n, 2 * rows, 2 * columns, f))
    index[index == 4] = 255
    dw, db = torch.empty_like(p.w), torch.empty_like(p.b)
    arrays = [d.array(t) for t in (dw, db, p.x, p.dy, index)]
    calls = {}
    for name, x, weight, dy in p.layouts():
        maxima = z.contiguous(memory_format=LAYOUTS[name])
        indices = aten.max_pool2d_with_indices(maxima, *POOL)[1]
        calls[name] = functools.partial(p.backward, x, weight, dy, maxima, indices)

    def exact(wide):
        x, weight, dy = wide(image(p.x)), wide(p.w.permute(3, 2, 0, 1)), wide(image(p.dy))
        indices = aten.max_pool2d_with_indices(wide(z), *POOL)[1]
        _, weights, bias = p.backward(x, weight, dy, wide(z), indices)
        return [weights.permute(2, 3, 1, 0), bias]

    return Problem(
        functools.partial(d.kernels.conv2d_max_pool2d_backward_dw, *arrays, *p.ours),
        [dw, db],
        exact,
        calls,
        [p.x, p.dy, index, dw, db],
        layout=lambda gradients: [gradients[1].permute(2, 3, 1, 0), gradients[2]],
        flops=p.flops,
        length=p.dy[..., 0].numel(),
        tf32=True,
    )


# --- pooling --------------------------------------------------------------------------------------

WINDOW = (2, 2, 2, 2, 0, 0)


def max_pool2d_forward(d: Device, n, h, w, c) -> Problem:
    x, y = d.normal(n, h, w, c), torch.empty(n, h // 2, w // 2, c, device=d.torch)
    index = torch.empty(y.shape, dtype=torch.uint8, device=d.torch)
    first = image(x).contiguous()

    def exact(wide):
        return [back(aten.max_pool2d_with_indices(wide(image(x)), *POOL)[0])]

    return Problem(
        functools.partial(d.kernels.max_pool2d_forward, *map(d.array, (y, index, x)), *WINDOW),
        [y],
        exact,
        {
            "channels last": lambda: aten.max_pool2d_with_indices(image(x), *POOL),
            "channels first": lambda: aten.max_pool2d_with_indices(first, *POOL),
        },
        [x, y, index],
        layout=lambda result: [back(result[0])],
    )


def max_pool2d_backward_dx(d: Device, n, h, w, c) -> Problem:
    x, dy, dx = d.normal(n, h, w, c), d.normal(n, h // 2, w // 2, c), d.normal(n, h, w, c)
    y = torch.empty_like(dy)
    index = torch.empty(y.shape, dtype=torch.uint8, device=d.torch)
    d.kernels.max_pool2d_forward(*map(d.array, (y, index, x)), *WINDOW)

    def call(dy, x, indices):
        return aten.max_pool2d_with_indices_backward(dy, x, *POOL, indices)

    calls = {}
    for name, layout in LAYOUTS.items():
        theirs, gradient = (image(t).contiguous(memory_format=layout) for t in (x, dy))
        indices = aten.max_pool2d_with_indices(theirs, *POOL)[1]
        calls[name] = functools.partial(call, gradient, theirs, indices)

    def exact(wide):
        indices = aten.max_pool2d_with_indices(wide(image(x)), *POOL)[1]
        return [back(call(wide(image(dy)), wide(image(x)), indices))]

    return Problem(
        functools.partial(
            d.kernels.max_pool2d_backward_dx, *map(d.array, (dx, dy, index)), *WINDOW
        ),
        [dx],
        exact,
        calls,
        [dx, dy, index],
        layout=lambda dx: [back(dx)],
    )


def avg_pool2d_forward(d: Device, n, h, w, c) -> Problem:
    x, y = d.normal(n, h, w, c), torch.empty(n, h // 2, w // 2, c, device=d.torch)
    first = image(x).contiguous()
    return Problem(
        functools.partial(d.kernels.avg_pool2d_forward, d.array(y), d.array(x), *WINDOW),
        [y],
        lambda wide: [back(functional.avg_pool2d(wide(image(x)), 2))],
        {
            "channels last": lambda: functional.avg_pool2d(image(x), 2),
            "channels first": lambda: functional.avg_pool2d(first, 2),
        },
        [x, y],
        layout=lambda y: [back(y)],
        length=4,
    )


def avg_pool2d_backward_dx(d: Device, n, h, w, c) -> Problem:
    dx, dy = d.normal(n, h, w, c), d.normal(n, h // 2, w // 2, c)
    options = ([2, 2], [2, 2], [0, 0], False, True, None)
    calls = {}
    for name, layout in LAYOUTS.items():
        x, gradient = (image(t).contiguous(memory_format=layout) for t in (dx, dy))
        calls[name] = functools.partial(aten.avg_pool2d_backward, gradient, x, *options)
    return Problem(
        functools.partial(d.kernels.avg_pool2d_backward_dx, d.array(dx), d.array(dy), *WINDOW),
        [dx],
        lambda wide: [
            back(aten.avg_pool2d_backward(wide(image(dy)), wide(image(dx)), *options)),
        ],
        calls,
        [dx, dy],
        layout=lambda dx: [back(dx)],
    )


def global_avg_pool2d_forward(d: Device, n, h, w, c) -> Problem:
    x, y = d.normal(n, h, w, c), torch.empty(n, c, device=d.torch)
    first, other = image(x).contiguous(), torch.empty_like(y)
    array, out = d.array(x), d.array(other)
    return Problem(
        functools.partial(
            d.kernels.global_avg_pool2d_forward, d.array(y), array.reshape(n, h * w, c)
        ),
        [y],
        lambda wide: [wide(x).mean((1, 2))],
        {"channels last": lambda: x.mean((1, 2)), "channels first": lambda: first.mean((2, 3))},
        [x, y],
        cupy=(lambda: d.xp.mean(array, axis=(1, 2), out=out), [other]),
        length=h * w,
    )


def global_avg_pool2d_backward_dx(d: Device, n, h, w, c) -> Problem:
    dx, dy = torch.empty(n, h * w, c, device=d.torch), d.normal(n, c)

    def call(dy):
        return (dy / (h * w))[:, None].expand(n, h * w, c).contiguous()

    return Problem(
        functools.partial(d.kernels.global_avg_pool2d_backward_dx, d.array(dx), d.array(dy)),
        [dx],
        lambda wide: [call(wide(dy))],
        {"divide, expand": lambda: call(dy)},
        [dx, dy],
    )


# --- softmax and losses ---------------------------------------------------------------------------


def softmax_forward(d: Device, rows, cols, log=False) -> Problem:
    x, y = d.normal(rows, cols), torch.empty(rows, cols, device=d.torch)
    call = torch.log_softmax if log else torch.softmax
    kernel = d.kernels.log_softmax_forward if log else d.kernels.softmax_forward
    return Problem(
        functools.partial(kernel, d.array(y), d.array(x)),
        [y],
        lambda wide: [call(wide(x), 1)],
        {call.__name__: lambda: call(x, 1)},
        [x, y],
        length=cols,
    )


def softmax_backward_dx(d: Device, rows, cols, log=False) -> Problem:
    y, dy = torch.softmax(d.normal(rows, cols), 1), d.normal(rows, cols)
    if log:
        y = y.log()
    dx = torch.empty_like(y)
    call = aten._log_softmax_backward_data if log else aten._softmax_backward_data
    kernel = d.kernels.log_softmax_backward_dx if log else d.kernels.softmax_backward_dx

    def exact(wide):
        gradient, right = wide(dy), wide(y)
        return [call(gradient, right, 1, right.dtype)]

    return Problem(
        functools.partial(kernel, *map(d.array, (dx, dy, y))),
        [dx],
        exact,
        {"backward": lambda: call(dy, y, 1, y.dtype)},
        [dx, dy, y],
        length=cols,
    )


def softmax_cross_entropy(d: Device, rows, cols) -> Problem:
    """Mean loss and its gradient, forward and backward together."""
    x = d.normal(rows, cols)
    labels = d.integers(0, cols, (rows,), torch.int32)
    targets = labels.long()
    loss, losses = (torch.empty(size, device=d.torch) for size in (1, rows))
    p, dx = torch.empty_like(x), torch.empty_like(x)
    dlosses = torch.full((rows,), 1 / rows, device=d.torch)
    forward = [d.array(t) for t in (loss, losses, p, x, labels)]
    backward = [d.array(t) for t in (dx, dlosses, p, labels)]

    def ours():
        d.kernels.softmax_cross_entropy_sparse_forward(*forward, None, 1 / rows)
        d.kernels.softmax_cross_entropy_sparse_backward_dx(*backward)

    def chain(x):
        log_p = torch.log_softmax(x, 1)
        mean, total = aten.nll_loss_forward(log_p, targets, None, 1, -100)
        one = torch.ones_like(mean)
        gradient = aten.nll_loss_backward(one, log_p, targets, None, 1, -100, total)
        return mean, aten._log_softmax_backward_data(gradient, log_p, 1, x.dtype)

    leaf = x.detach().requires_grad_()

    def autograd():
        mean = functional.cross_entropy(leaf, targets)
        return mean.detach(), torch.autograd.grad(mean, leaf)[0]

    def layout(result):
        return [result[0].reshape(1), result[1]]

    return Problem(
        ours,
        [loss, dx],
        lambda wide: layout(chain(wide(x))),
        {"log_softmax, nll_loss": lambda: chain(x), "cross_entropy": autograd},
        [x, p, dx],
        layout=layout,
        length=cols,
    )


def softmax_cross_entropy_dense(d: Device, rows, cols) -> Problem:
    """The same for targets that are probabilities."""
    x, t = d.normal(rows, cols), torch.softmax(d.normal(rows, cols), 1)
    loss, losses = (torch.empty(size, device=d.torch) for size in (1, rows))
    p, dx = torch.empty_like(x), torch.empty_like(x)
    dlosses = torch.full((rows,), 1 / rows, device=d.torch)
    forward = [d.array(tensor) for tensor in (loss, losses, p, x, t)]
    backward = [d.array(tensor) for tensor in (dx, dlosses, p, t)]

    def ours():
        d.kernels.softmax_cross_entropy_dense_forward(*forward, None, 1 / rows)
        d.kernels.softmax_cross_entropy_dense_backward_dx(*backward)

    def autograd(leaf, targets):
        mean = functional.cross_entropy(leaf, targets)
        return mean.detach().reshape(1), torch.autograd.grad(mean, leaf)[0]

    leaf = x.detach().requires_grad_()
    return Problem(
        ours,
        [loss, dx],
        lambda wide: list(autograd(wide(x).requires_grad_(), wide(t))),
        {"cross_entropy": lambda: autograd(leaf, t)},
        [x, t, p, dx],
        layout=list,
        length=cols,
    )


# --- elementwise ----------------------------------------------------------------------------------


def activation_forward(d: Device, count, kind) -> Problem:
    x, y = d.normal(count), torch.empty(count, device=d.torch)
    call = {RELU: torch.relu, GELU: functional.gelu}[kind]
    other = torch.empty_like(y)
    array, out = d.array(x), d.array(other)
    return Problem(
        functools.partial(d.kernels.activation_forward, d.array(y), array, kind, 0.0),
        [y],
        lambda wide: [call(wide(x))],
        {call.__name__: lambda: call(x)},
        [x, y],
        cupy=(lambda: d.xp.maximum(array, 0, out=out), [other]) if kind == RELU else None,
    )


def activation_backward_dx(d: Device, count, kind) -> Problem:
    x, dy = d.normal(count), d.normal(count)
    dx = torch.empty_like(x)
    call = {
        RELU: lambda dy, x: aten.threshold_backward(dy, x, 0),
        GELU: lambda dy, x: aten.gelu_backward(dy, x),
    }[kind]
    saved = torch.relu(x) if kind == RELU else x
    return Problem(
        functools.partial(
            d.kernels.activation_backward_dx, *map(d.array, (dx, dy, saved)), kind, 0.0
        ),
        [dx],
        lambda wide: [call(wide(dy), wide(saved))],
        {"backward": lambda: call(dy, saved)},
        [dx, dy, saved],
    )


def binary_forward(d: Device, rows, cols, kind) -> Problem:
    """y = a op b, b one row for all."""
    a, b, y = d.normal(rows, cols), d.normal(cols), torch.empty(rows, cols, device=d.torch)
    name = next(key for key, value in BINARY.items() if value == kind)
    call, other = {"add": torch.add, "multiply": torch.mul}[name], torch.empty_like(y)
    left, right, out = map(d.array, (a, b, other))
    return Problem(
        functools.partial(d.kernels.binary_forward, d.array(y), left, right, kind),
        [y],
        lambda wide: [call(wide(a), wide(b))],
        {name: lambda: call(a, b)},
        [a, b, y],
        cupy=(lambda: getattr(d.xp, name)(left, right, out=out), [other]),
    )


def pointwise(d: Device, kernel, count, inputs, call, *options) -> Problem:
    """kernel(y, *inputs, *options) on `inputs` arrays of `count` numbers; `call` is PyTorch's."""
    x, y = [d.normal(count) for _ in range(inputs)], torch.empty(count, device=d.torch)
    return Problem(
        functools.partial(kernel, *map(d.array, (y, *x)), *options),
        [y],
        lambda wide: [call(*map(wide, x))],
        {"elementwise": lambda: call(*x)},
        [y, *x],
    )


def binary_backward_da(d: Device, count) -> Problem:
    kernel, kind = d.kernels.binary_backward_da, BINARY["divide"]
    return pointwise(d, kernel, count, 3, lambda dy, a, b: dy / b, kind)


def binary_backward_db(d: Device, count) -> Problem:
    kernel, kind = d.kernels.binary_backward_db, BINARY["multiply"]
    return pointwise(d, kernel, count, 3, lambda dy, a, b: dy * a, kind)


def unary_backward_dx(d: Device, count) -> Problem:
    kernel, kind = d.kernels.unary_backward_dx, UNARY["exp"]
    return pointwise(d, kernel, count, 2, lambda dy, x: dy * torch.exp(x), kind)


def clip_forward(d: Device, count) -> Problem:
    kernel = d.kernels.clip_forward
    return pointwise(d, kernel, count, 1, lambda x: torch.clamp(x, -0.5, 0.5), -0.5, 0.5)


def clip_backward_dx(d: Device, count) -> Problem:
    kernel = d.kernels.clip_backward_dx

    def call(dy, x):
        return torch.where(x.abs() <= 0.5, dy, 0)

    return pointwise(d, kernel, count, 2, call, -0.5, 0.5)


def unary_forward(d: Device, count) -> Problem:
    x, y = d.normal(count), torch.empty(count, device=d.torch)
    other = torch.empty_like(y)
    array, out = d.array(x), d.array(other)
    return Problem(
        functools.partial(d.kernels.unary_forward, d.array(y), array, UNARY["exp"]),
        [y],
        lambda wide: [torch.exp(wide(x))],
        {"exp": lambda: torch.exp(x)},
        [x, y],
        cupy=(lambda: d.xp.exp(array, out=out), [other]),
    )


def reduce_sum_forward(d: Device, outer, r, inner) -> Problem:
    x, y = d.normal(outer, r, inner), torch.empty(outer, inner, device=d.torch)
    other = torch.empty_like(y)
    array, out = d.array(x), d.array(other)
    return Problem(
        functools.partial(d.kernels.reduce_sum_forward, d.array(y), array, 1.0),
        [y],
        lambda wide: [wide(x).sum(1)],
        {"sum": lambda: x.sum(1)},
        [x, y],
        cupy=(lambda: d.xp.sum(array, axis=1, out=out), [other]),
        length=r,
    )


def reduce_max_forward(d: Device, outer, r, inner) -> Problem:
    x, y = d.normal(outer, r, inner), torch.empty(outer, inner, device=d.torch)
    other = torch.empty_like(y)
    array, out = d.array(x), d.array(other)
    return Problem(
        functools.partial(d.kernels.reduce_max_forward, d.array(y), array),
        [y],
        lambda wide: [wide(x).amax(1)],
        {"amax": lambda: x.amax(1)},
        [x, y],
        cupy=(lambda: d.xp.max(array, axis=1, out=out), [other]),
    )


def reduce_sum_backward_dx(d: Device, outer, r, inner) -> Problem:
    dy, dx = d.normal(outer, inner), torch.empty(outer, r, inner, device=d.torch)

    def call(dy):
        return (0.5 * dy)[:, None].expand(outer, r, inner).contiguous()

    return Problem(
        functools.partial(d.kernels.reduce_sum_backward_dx, d.array(dx), d.array(dy), 0.5),
        [dx],
        lambda wide: [call(wide(dy))],
        {"multiply, expand": lambda: call(dy)},
        [dy, dx],
    )


def reduce_max_backward_dx(d: Device, outer, r, inner) -> Problem:
    x, dy = d.normal(outer, r, inner), d.normal(outer, inner)
    y, dx = x.amax(1), torch.empty_like(x)

    def call(dy, x, y):
        largest = x == y[:, None]
        return largest * (dy / largest.sum(1))[:, None]

    return Problem(
        functools.partial(d.kernels.reduce_max_backward_dx, *map(d.array, (dx, dy, x, y))),
        [dx],
        lambda wide: [call(wide(dy), wide(x), wide(y))],
        {"compare, multiply": lambda: call(dy, x, y)},
        [x, dy, y, dx],
    )


def strided_copy(d: Device, rows, cols) -> Problem:
    """A transpose."""
    x, y = d.normal(rows, cols), torch.empty(cols, rows, device=d.torch)
    other = torch.empty_like(y)
    array, out = d.array(x), d.array(other)
    sizes = ((rows, cols), 0, (1, rows), 0, (cols, 1))
    return Problem(
        functools.partial(d.kernels.strided_copy, d.array(y), array, *sizes),
        [y],
        lambda wide: [wide(x).T],
        {"transpose": lambda: x.T.contiguous()},
        [x, y],
        cupy=(lambda: d.xp.copyto(out, array.T), [other]),
    )


def dropout_truth(d: Device, x):
    """PyTorch draws other numbers, so that only tilegrad's are proved: by the reference."""
    numbers = x.cpu().numpy().astype(np.float64)
    right = np.empty_like(numbers)
    reference.dropout_forward(right, numbers, 0.5, 7)
    return [torch.from_numpy(right).to(d.torch)]


def dropout_forward(d: Device, count) -> Problem:
    x, y = d.normal(count), torch.empty(count, device=d.torch)
    return Problem(
        functools.partial(d.kernels.dropout_forward, d.array(y), d.array(x), 0.5, 7),
        [y],
        lambda wide: dropout_truth(d, x),
        {"native_dropout": lambda: torch.native_dropout(x, 0.5, True)},
        [x, y],
        layout=lambda result: [None],
    )


def dropout_backward_dx(d: Device, count) -> Problem:
    dy, dx = d.normal(count), torch.empty(count, device=d.torch)
    mask = d.integers(0, 2, (count,), torch.uint8).bool()
    return Problem(
        functools.partial(d.kernels.dropout_backward_dx, d.array(dx), d.array(dy), 0.5, 7),
        [dx],
        lambda wide: dropout_truth(d, dy),
        {"native_dropout_backward": lambda: aten.native_dropout_backward(dy, mask, 2.0)},
        [dy, dx],
        layout=lambda result: [None],
    )


# --- optimizers -----------------------------------------------------------------------------------

LR = 1e-3
SMALL_CNN = ((3, 3, 1, 32), (32,), (5408, 128), (128,), (128, 10), (10,))


class Parameters:
    """Weights, gradients and states, twice: tilegrad's and PyTorch's."""

    def __init__(self, d: Device, shapes, starts):
        self.w, self.g = ([d.normal(*shape) for shape in shapes] for _ in range(2))
        self.states = [[torch.full_like(w, start) for w in self.w] for start in starts]
        self.theirs = [w.clone() for w in self.w]
        self.their_states = [[s.clone() for s in kept] for kept in self.states]
        ones = np.ones(len(shapes), np.float32)
        w, g, *states = ([d.array(t) for t in ts] for ts in (self.w, self.g, *self.states))
        self.arguments = (w, g, states, ones, 0 * ones, LR, math.inf)

    def problem(self, ours, exact, calls) -> Problem:
        updated = [*self.w, *(s for kept in self.states for s in kept)]
        read_and_written = [*updated, *updated, *self.g]
        return Problem(
            ours,
            self.w,
            exact,
            calls,
            read_and_written,
            layout=lambda _: self.theirs,
            in_place=True,
        )


def adam_update(d: Device, *shapes) -> Problem:
    p = Parameters(d, shapes, (0.1, 1.0))
    step = torch.tensor([2], device=d.torch)
    ours = functools.partial(
        d.kernels.adam_update, *p.arguments, d.array(step), 0.9, 0.999, 1e-7, False
    )
    steps = [torch.tensor(3.0, device=d.torch) for _ in shapes]
    rates = {"lr": LR, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-7}

    def fused():
        tensors = (p.theirs, p.g, *p.their_states, [], steps)
        torch._fused_adam_(*tensors, **rates, amsgrad=False, maximize=False)

    def exact(wide):
        alpha = LR * math.sqrt(1 - 0.999**3) / (1 - 0.9**3)
        results = []
        for w, g, m, v in zip(p.w, p.g, *p.states, strict=True):
            w, g, m, v = map(wide, (w, g, m, v))
            m, v = m + (g - m) * (1 - 0.9), v + (g * g - v) * (1 - 0.999)
            results.append(w - alpha * m / (torch.sqrt(v) + 1e-7))
        return results

    return p.problem(ours, exact, {"fused Adam": fused})


def sgd_update(d: Device, *shapes) -> Problem:
    p = Parameters(d, shapes, (0.1,))
    ours = functools.partial(d.kernels.sgd_update, *p.arguments, 0.9, False)
    for buffer in p.their_states[0]:
        buffer /= -LR  # PyTorch's velocity is not yet multiplied by the rate

    def fused():
        torch._fused_sgd_(
            p.theirs,
            p.g,
            p.their_states[0],
            weight_decay=0.0,
            momentum=0.9,
            lr=LR,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )

    def exact(wide):
        return [
            wide(w) + 0.9 * wide(v) - LR * wide(g)
            for w, g, v in zip(p.w, p.g, p.states[0], strict=True)
        ]

    return p.problem(ours, exact, {"fused SGD": fused})


def rmsprop_update(d: Device, *shapes) -> Problem:
    p = Parameters(d, shapes, (1.0,))
    ours = functools.partial(d.kernels.rmsprop_update, *p.arguments, 0.9, 0.0, 1e-7, False)
    weights = [torch.nn.Parameter(w) for w in p.theirs]  # shares the memory
    optimizer = torch.optim.RMSprop(
        weights, lr=LR, alpha=0.9, eps=1e-7, foreach=True, capturable=not d.simulated
    )
    for weight, g, v in zip(weights, p.g, p.their_states[0], strict=True):
        weight.grad = g
        step = torch.tensor(1.0, device=d.torch)
        optimizer.state[weight] = {"step": step, "square_avg": v}

    def exact(wide):
        results = []
        for w, g, v in zip(p.w, p.g, p.states[0], strict=True):
            w, g, v = map(wide, (w, g, v))
            results.append(w - LR * g / torch.sqrt(0.9 * v + 0.1 * g * g + 1e-7))
        return results

    return p.problem(ours, exact, {"foreach RMSprop": optimizer.step})


def gradient_square_sums(d: Device, *shapes) -> Problem:
    g = [d.normal(*shape) for shape in shapes]
    out = torch.empty(len(g), dtype=torch.float64, device=d.torch)
    arrays = [d.array(t) for t in g]
    return Problem(
        functools.partial(d.kernels.gradient_square_sums, d.array(out), arrays),
        [out],
        lambda wide: [torch.stack([wide(t).square().sum() for t in g])],
        {"foreach norm": lambda: torch._foreach_norm(g)},
        g,
        layout=lambda norms: [torch.stack(list(norms)).square()],
        length=max(t.numel() for t in g),
    )


# --- which sizes ----------------------------------------------------------------------------------

DENSE = [(32, 5408, 128), (128, 5408, 128), (1024, 5408, 128), (1024, 128, 10), (4096, 4096, 1024)]
SQUARES = [(s, s, s) for s in (4096, 2048, 1024)]
CONV = [
    (256, 56, 56, 64, 64, 3, 1),
    (256, 14, 14, 256, 256, 3, 1),
    (64, 32, 32, 128, 128, 3, 1),
    (256, 56, 56, 64, 128, 3, 2),
    (256, 28, 28, 256, 64, 1, 1),
]
FIRST = [(1024, 28, 28, 1, 32, 0), (32, 28, 28, 1, 32, 0), (256, 32, 32, 3, 64, 1)]
IMAGES = [(1024, 26, 26, 32), (256, 112, 112, 64)]
ROWS_OF_LOGITS = [(8192, 50304), (1 << 18, 128)]
TINY_CONV = (2, 6, 5, 3, 4, 3, 1)
LARGE = 1 << 26
BIG_PARAMETERS = ((4096, 4096), (4096,)) * 7

# kernel: (problem, sizes in the order of their importance, the simulator's size)
ROWS = {
    "matmul_forward": (matmul, [*SQUARES, (8192, 8192, 8192)], (5, 7, 3)),
    "conv2d_forward": (conv2d_forward, CONV, TINY_CONV),
    "conv2d_max_pool2d_forward": (conv2d_max_pool2d_forward, FIRST, (2, 8, 8, 1, 4, 0)),
    "softmax_cross_entropy": (softmax_cross_entropy, [(8192, 50304), (1024, 10)], (5, 7)),
    "max_pool2d_forward": (max_pool2d_forward, IMAGES, (2, 6, 4, 3)),
    "max_pool2d_backward_dx": (max_pool2d_backward_dx, IMAGES, (2, 6, 4, 3)),
    "adam_update": (adam_update, [BIG_PARAMETERS, SMALL_CNN], ((3, 4), (5,))),
    "conv2d_backward_dx": (conv2d_backward_dx, CONV, TINY_CONV),
    "conv2d_backward_dw": (conv2d_backward_dw, CONV, TINY_CONV),
    "conv2d_max_pool2d_backward_dw": (conv2d_max_pool2d_backward_dw, FIRST, (2, 8, 8, 1, 4, 0)),
    "matmul_backward_da": (matmul_backward_da, SQUARES, (5, 7, 3)),
    "matmul_backward_db": (matmul_backward_db, SQUARES, (5, 7, 3)),
    "dense_forward": (dense_forward, DENSE, (5, 7, 4)),
    "dense_backward_dx": (dense_backward_dx, DENSE, (5, 7, 4)),
    "dense_backward_dw": (dense_backward_dw, DENSE, (5, 7, 4)),
    "bias_backward_db": (bias_backward_db, [(1 << 18, 64), (1024, 128)], (9, 4)),
    "bias_activation_backward_dz": (
        bias_activation_backward_dz,
        [(1 << 18, 64), (1024, 128)],
        (9, 4),
    ),
    "softmax_cross_entropy_dense": (
        softmax_cross_entropy_dense,
        [(8192, 50304), (1024, 10)],
        (5, 7),
    ),
    "softmax_forward": (softmax_forward, ROWS_OF_LOGITS, (5, 7)),
    "softmax_backward_dx": (softmax_backward_dx, ROWS_OF_LOGITS, (5, 7)),
    "log_softmax_forward": (
        functools.partial(softmax_forward, log=True),
        ROWS_OF_LOGITS,
        (5, 7),
    ),
    "log_softmax_backward_dx": (
        functools.partial(softmax_backward_dx, log=True),
        ROWS_OF_LOGITS,
        (5, 7),
    ),
    "activation_forward": (activation_forward, [(LARGE, RELU), (LARGE, GELU)], (9, RELU)),
    "activation_backward_dx": (activation_backward_dx, [(LARGE, RELU), (LARGE, GELU)], (9, GELU)),
    "binary_forward": (
        binary_forward,
        [(1 << 16, 1024, BINARY["add"]), (1 << 16, 1024, BINARY["multiply"])],
        (5, 4, BINARY["multiply"]),
    ),
    "binary_backward_da": (binary_backward_da, [(LARGE,)], (9,)),
    "binary_backward_db": (binary_backward_db, [(LARGE,)], (9,)),
    "unary_forward": (unary_forward, [(LARGE,)], (9,)),
    "unary_backward_dx": (unary_backward_dx, [(LARGE,)], (9,)),
    "clip_forward": (clip_forward, [(LARGE,)], (9,)),
    "clip_backward_dx": (clip_backward_dx, [(LARGE,)], (9,)),
    "reduce_sum_forward": (
        reduce_sum_forward,
        [(8192, 8192, 1), (1, 1 << 16, 1024)],
        (3, 5, 2),
    ),
    "reduce_max_forward": (reduce_max_forward, [(8192, 8192, 1)], (3, 5, 2)),
    "reduce_sum_backward_dx": (reduce_sum_backward_dx, [(8192, 8192, 1)], (3, 5, 2)),
    "reduce_max_backward_dx": (reduce_max_backward_dx, [(8192, 8192, 1)], (3, 5, 2)),
    "strided_copy": (strided_copy, [(8192, 8192)], (5, 3)),
    "avg_pool2d_forward": (avg_pool2d_forward, IMAGES, (2, 6, 4, 3)),
    "avg_pool2d_backward_dx": (avg_pool2d_backward_dx, IMAGES, (2, 6, 4, 3)),
    "global_avg_pool2d_forward": (global_avg_pool2d_forward, [(1024, 14, 14, 512)], (2, 3, 3, 4)),
    "global_avg_pool2d_backward_dx": (
        global_avg_pool2d_backward_dx,
        [(1024, 14, 14, 512)],
        (2, 3, 3, 4),
    ),
    "dropout_forward": (dropout_forward, [(1 << 22,)], (9,)),
    "dropout_backward_dx": (dropout_backward_dx, [(1 << 22,)], (9,)),
    "sgd_update": (sgd_update, [BIG_PARAMETERS, SMALL_CNN], ((3, 4), (5,))),
    "rmsprop_update": (rmsprop_update, [BIG_PARAMETERS, SMALL_CNN], ((3, 4), (5,))),
    "gradient_square_sums": (gradient_square_sums, [BIG_PARAMETERS, SMALL_CNN], ((3, 4), (5,))),
}


def cases(device: Device):
    """(kernel, size): everybody's most important size first, so that a deadline costs little."""
    if device.simulated:
        return [(name, tiny) for name, (_, _, tiny) in ROWS.items()]
    longest = max(len(sizes) for _, sizes, _ in ROWS.values())
    return [
        (name, sizes[i])
        for i in range(longest)
        for name, (_, sizes, _) in ROWS.items()
        if i < len(sizes)
    ]


def label(size) -> str:
    """(32, 5408, 128) -> "32 x 5408 x 128"; parameters are counted."""
    if isinstance(size[0], tuple):
        return f"{sum(math.prod(shape) for shape in size):,} parameters in {len(size)}"
    return " x ".join(map(str, size))


# --- running --------------------------------------------------------------------------------------


def contenders(device: Device, problems: list[Problem]) -> list[Contender]:
    """Ours, PyTorch's (in tf32 too), CuPy's, each with one call per set of buffers."""
    first = problems[0]
    calls = [p.ours for p in problems]
    buffers = [] if first.in_place else first.outputs
    made = [Contender("tilegrad", "tilegrad", calls, lambda _: first.outputs, buffers)]
    for name in first.torch:
        calls = [p.torch[name] for p in problems]
        made.append(Contender(f"PyTorch, {name}", "torch", calls, first.layout))
        if first.tf32 and not device.simulated:
            tf32 = Contender(f"PyTorch tf32, {name}", "torch", calls, first.layout, tf32=True)
            made.append(tf32)
    if first.cupy:
        calls = [p.cupy[0] for p in problems]
        written = first.cupy[1]
        made.append(Contender("CuPy", "cupy", calls, lambda _: written, written))
    return made


def measure(device: Device, name: str, size: tuple, deadline: Deadline) -> dict:
    """One row: proved, timed, with the ratio to the fastest float32 call of PyTorch."""
    make = ROWS[name][0]
    problem = make(device, *size)
    bytes_of = sum(t.numel() * t.element_size() for t in problem.tensors)
    sets = number_of_sets(device, bytes_of)
    problems = [problem, *(make(device, *size) for _ in range(sets - 1))]
    truth = Truth(problem.exact(torch.Tensor.double), problem.length)
    found = contenders(device, problems)
    if problem.in_place:
        errors = {c.name: prove(device, c, truth) for c in found}
        row = take_turns(device, found, None, deadline)
        for contender, error in errors.items():
            row["contenders"][contender]["error"] = error
    else:
        row = take_turns(device, found, truth, deadline)
    times = row["contenders"]
    ours = times["tilegrad"]
    peers = {n: t for n, t in times.items() if t["library"] == "torch" and not t["tf32"]}
    best = min(peers, key=lambda n: statistics.median(peers[n]["gpu"]))
    row |= {"kernel": name, "shape": label(size), "sets": sets}
    row |= {"flops": problem.flops, "bytes": bytes_of, "peer": best}
    for key in ("gpu", "wall"):
        row[f"{key}_ratio"] = ratio(peers[best][key], ours[key])
        if "CuPy" in times:
            row[f"{key}_cupy_ratio"] = ratio(times["CuPy"][key], ours[key])
    return row


def run(device: Device, deadline: Deadline, add: Callable[[dict], None]) -> list[str]:
    """Measure all rows until the deadline; the failures, in words."""
    failures = []
    for name, size in cases(device):
        if deadline.left() < 3:
            add({"kernel": name, "shape": label(size), "left_out": "no time left"})
            continue
        try:
            row = measure(device, name, size, deadline)
        except Exception as error:  # one kernel that fails leaves the others their turn
            failures.append(f"{name} {label(size)}: {type(error).__name__}: {error}")
            row = {"kernel": name, "shape": label(size), "failed": failures[-1]}
        add(row)
        device.release()
    return failures
