"""Convolution, bias, activation and max pooling in one kernel."""

from __future__ import annotations

import numpy as np

from ..autograd import Op, apply
from ..backend import ACTIVATIONS
from ._common import tensors
from .conv import Conv2D, conv2d_gradients, conv2d_op
from .dense import before_activation
from .pool import MaxPool2D, pool2d_op

_SCRATCH = 2**16  # numbers that a thread keeps of the image between the two, or of x: conv_pool.cpp


class Conv2DMaxPool2D(Op):
    """y = max_pool(act(conv(x, w) + b)) without the image between.

    The index says where each maximum was, and that a relu let nothing through: backward needs no y.
    """

    reads = (0, 1)

    def __init__(self, conv: Conv2D, pool: MaxPool2D, image_shape):
        self.conv = conv
        self.pool = pool
        self.image_shape = image_shape  # what `conv.plan` gave

    def forward(self, k, x, w, b):
        conv, pool = self.conv, self.pool
        y = k.empty(pool.plan(self.image_shape), x.dtype)
        index = k.empty(y.shape, np.uint8)
        kh, kw, _, _, top, left = pool.geometry
        self.sizes = (*self.image_shape[1:3], *conv.geometry[:6], kh, kw, top, left)
        k.conv2d_max_pool2d_forward(y, index, x, w, b, *self.sizes, conv.activation)
        self.saved = x, w, b, index
        return y

    def backward(self, k, dy):
        x, w, b, index = self.saved
        needs_dx, needs_dw, needs_db = self.needs
        if needs_dx or not self.dw_fits(w):
            dz = k.empty(self.image_shape, dy.dtype)
            k.max_pool2d_backward_dx(dz, dy, index, *self.pool.geometry)
            _, db = before_activation(k, dz, None, b if needs_db else None, 0, 0.0)
            dx, dw = conv2d_gradients(k, dz, x, w, self.conv.geometry, needs_dx, needs_dw)
            return dx, dw, db
        dw = k.empty_like(w)
        db = k.empty_like(b) if needs_db else None
        k.conv2d_max_pool2d_backward_dw(dw, db, x, dy, index, *self.sizes)
        return None, dw, db

    def dw_fits(self, w) -> bool:
        """Whether a thread's scratch holds what a window of the pooling sees of x."""
        sh, sw, _, _, dh, dw, _ = self.conv.geometry
        (kh, kw, c, _), (pool_h, pool_w) = w.shape, self.pool.window
        rows = (pool_h - 1) * sh + (kh - 1) * dh + 1
        pixels = (pool_w - 1) * sw + (kw - 1) * dw + 1
        patches = pool_h * pool_w * (kh * kw * c + 32)
        return max(patches, (rows * pixels + 1) * c + 32) <= _SCRATCH


def can_fuse(conv: Conv2D, pool: MaxPool2D, image_shape) -> bool:
    """Whether one kernel does both; `image_shape` is what `conv.plan` gave."""
    kh, kw = pool.window
    return (
        conv.geometry[-1] == 1
        and conv.activation <= ACTIVATIONS["relu"]
        and pool.strides == pool.window
        and kh * kw <= 255
        and kh * image_shape[2] * image_shape[3] <= _SCRATCH
    )


def conv2d_max_pool2d(
    x,
    w,
    b=None,
    strides=1,
    padding="valid",
    dilation=1,
    activation: str | None = None,
    pool_size=2,
    pool_padding="valid",
):
    """max_pool2d(conv2d(x, w, b, ..., activation), pool_size), in one kernel where possible.

    That is for a linear or relu activation and windows of at most 255 pixels; two kernels do the
    rest. The result is the same. `Sequential` and subclassed models fuse by themselves.

    Args:
        x: (n, h, w, c).
        w: (kh, kw, c, f).
        b: (f,) or None.
        strides, padding, dilation, activation: of the convolution, as in `conv2d`.
        pool_size: window and stride of the pooling, an integer or (rows, columns).
        pool_padding: as in `max_pool2d`.

    Returns:
        y of shape (n, oh, ow, f).

    Raises:
        ValueError, TypeError: as `conv2d` and `max_pool2d`.

    >>> import numpy, tilegrad
    >>> x, w = numpy.ones((2, 6, 6, 1), "float32"), numpy.ones((3, 3, 1, 4), "float32")
    >>> tilegrad.ops.conv2d_max_pool2d(x, w, activation="relu").shape
    (2, 2, 2, 4)
    """
    x, w, b = tensors(x, w, b)
    conv = conv2d_op(strides, padding, dilation, 1, activation, None)
    pool = pool2d_op(MaxPool2D, pool_size, None, pool_padding)
    image_shape = conv.plan(x, w, b)
    if can_fuse(conv, pool, image_shape):
        return apply(Conv2DMaxPool2D(conv, pool, image_shape), x, w, b)
    return apply(pool, apply(conv, x, w, b))
