"""Arithmetic with broadcasting, reductions, strided copies and dropout."""

from __future__ import annotations

import math

import numpy as np

from ..backend import BINARY, UNARY

_BINARY, _UNARY = list(BINARY), list(UNARY)
# log 0, 1 / 0 and overflow have IEEE 754's results, as in the compiled kernels, with no warning.
_ieee = np.errstate(all="ignore")


@_ieee
def binary_forward(y, a, b, kind):
    """y = a op b, both broadcast to y's shape."""
    y[...] = getattr(np, _BINARY[kind])(a, b)


@_ieee
def binary_backward_da(da, dy, a, b, kind):
    """da = dy dy/da, of y's shape: not yet summed over the axes that a repeats."""
    name = _BINARY[kind]
    if name in ("add", "subtract"):
        da[...] = dy
    elif name == "multiply":
        da[...] = dy * b
    elif name == "divide":
        da[...] = dy / b
    elif name == "power":
        da[...] = np.where(b == 0, 0, dy * b * np.power(a, b - 1))
    else:
        da[...] = dy * _share(a, b, name)


@_ieee
def binary_backward_db(db, dy, a, b, kind):
    """db = dy dy/db, of y's shape: not yet summed over the axes that b repeats."""
    name = _BINARY[kind]
    if name == "add":
        db[...] = dy
    elif name == "subtract":
        db[...] = -dy
    elif name == "multiply":
        db[...] = dy * a
    elif name == "divide":
        db[...] = -dy * a / (b * b)
    elif name == "power":
        db[...] = np.where((a == 0) & (b >= 0), 0, dy * np.power(a, b) * np.log(a))
    else:
        db[...] = dy * _share(b, a, name)


def _share(mine, other, name):
    """The part of the gradient of maximum or minimum that `mine` receives: a tie gives half."""
    wins = mine > other if name == "maximum" else mine < other
    return np.where(mine == other, 0.5, wins).astype(mine.dtype)


@_ieee
def unary_forward(y, x, kind):
    """y = f(x)."""
    y[...] = getattr(np, _UNARY[kind])(x)


@_ieee
def unary_backward_dx(dx, dy, x, kind):
    """dx = dy f'(x)."""
    name = _UNARY[kind]
    if name == "negative":
        dx[...] = -dy
    elif name == "exp":
        dx[...] = dy * np.exp(x)
    elif name == "log":
        dx[...] = dy / x
    elif name == "sqrt":
        dx[...] = dy * 0.5 / np.sqrt(x)
    elif name == "absolute":
        dx[...] = dy * np.sign(x)
    else:  # square
        dx[...] = dy * 2 * x


def clip_forward(y, x, low, high):
    """y = min(max(x, low), high)."""
    y[...] = np.minimum(np.maximum(x, low), high)


def clip_backward_dx(dx, dy, x, low, high):
    """dx = dy where low <= x <= high, else 0."""
    dx[...] = np.where((low <= x) & (x <= high), dy, 0)


def reduce_sum_forward(y, x, scale):
    """y[i, j] = scale sum_r x[i, r, j]."""
    y[...] = scale * x.sum(axis=1)


def reduce_sum_backward_dx(dx, dy, scale):
    """dx[i, r, j] = scale dy[i, j]."""
    dx[...] = scale * dy[:, None, :]


def reduce_max_forward(y, x):
    """y[i, j] = max_r x[i, r, j], NaN wins."""
    y[...] = x.max(axis=1)


def reduce_max_backward_dx(dx, dy, x, y):
    """dx = dy shared evenly by the maxima."""
    maxima = x == y[:, None, :]
    count = np.maximum(maxima.sum(axis=1, keepdims=True), 1).astype(dy.dtype)
    dx[...] = np.where(maxima, dy[:, None, :] / count, 0)


def strided_copy(y, x, size, y_offset, y_strides, x_offset, x_strides):
    """y[y_offset + y_strides . i] = x[x_offset + x_strides . i] for every index i of size.

    Offsets and strides count elements; a stride may be 0 or negative.
    """
    y.flat[_positions(y, size, y_offset, y_strides)] = x.flat[
        _positions(x, size, x_offset, x_strides)
    ]


def _positions(array, size, offset, strides):
    """offset + strides . i for every index i of size, in row-major order."""
    if not len(size) == len(strides):
        raise ValueError(f"strided_copy: expected {len(size)} strides, got {len(strides)}")
    index = np.indices(size, dtype=np.int64).reshape(len(size), math.prod(size))
    positions = offset + np.asarray(strides, np.int64) @ index
    if positions.size and not 0 <= positions.min() <= positions.max() < array.size:
        raise ValueError(
            f"strided_copy: expected positions in [0, {array.size}), "
            f"got [{positions.min()}, {positions.max()}]"
        )
    return positions


def philox(seed, count):
    """The first `count` words of Philox4x32-10 with key `seed` and counters 0, 1, 2, ...

    J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    low32 = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    zero = np.zeros_like(block)
    c0, c1, c2, c3 = block & low32, block >> shift, zero, zero
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (p1 >> shift) ^ c1 ^ np.uint64(k0),
            p1 & low32,
            (p0 >> shift) ^ c3 ^ np.uint64(k1),
            p0 & low32,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).reshape(-1)[:count].astype(np.uint32)


def _keep(shape, rate, seed):
    """Which elements dropout keeps: those whose uniform number in [0, 1) is >= rate, a float32."""
    uniform = (philox(seed, math.prod(shape)) >> np.uint32(8)) * 2.0**-24
    return (uniform >= np.float32(rate)).reshape(shape)


def dropout_forward(y, x, rate, seed):
    """y = x / (1 - rate) where kept, else 0."""
    y[...] = np.where(_keep(x.shape, rate, seed), x / (1 - rate), 0)


def dropout_backward_dx(dx, dy, rate, seed):
    """dx = dy / (1 - rate) where kept, else 0."""
    dx[...] = np.where(_keep(dy.shape, rate, seed), dy / (1 - rate), 0)
