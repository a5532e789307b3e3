"""2-D pooling."""

from __future__ import annotations

import functools

import numpy as np

from ..autograd import Op, apply
from ._common import image_shape, pair, tensors, window_axis, window_padding


class Pool2D(Op):
    """What max and average pooling share: the window's geometry."""

    name: str

    def __init__(self, window, strides, padding):
        self.window = window
        self.strides = strides
        self.padding = padding

    def plan(self, x_shape):
        """The shape of y; sets `self.geometry` and `self.x_shape` on the way."""
        self.x_shape = x_shape
        shape, self.geometry = _checked_geometry(
            self.name, x_shape, self.window, self.strides, self.padding
        )
        return shape


@functools.lru_cache(maxsize=1024)
def _checked_geometry(name, x_shape, window, strides, padding):
    """(shape of y, the kernels' hyperparameters) of a pooling; the same ones come again."""
    n, h, w, c = image_shape(name, x_shape)
    (kh, kw), (sh, sw) = window, strides
    explicit = [p if isinstance(p, tuple) else (0, 0) for p in padding]
    for axis, (before, after), size in zip("hw", explicit, window, strict=True):
        if before >= size or after >= size:
            raise ValueError(
                f"{name}: expected padding smaller than the window along {axis}, "
                f"got {before} and {after} for {size}"
            )
    oh, top = window_axis(name, h, kh, sh, padding[0])
    ow, left = window_axis(name, w, kw, sw, padding[1])
    return (n, oh, ow, c), (kh, kw, sh, sw, top, left)


class MaxPool2D(Pool2D):
    """Keeps the place of each window's maximum: one byte per output where the window allows."""

    name = "max_pool2d"

    def forward(self, k, x):
        y = k.empty(self.plan(x.shape), x.dtype)
        small = self.window[0] * self.window[1] <= 256
        index = k.empty(y.shape, np.uint8 if small else np.int32)
        k.max_pool2d_forward(y, index, x, *self.geometry)
        self.saved = (index,)
        return y

    def backward(self, k, dy):
        (index,) = self.saved
        dx = k.empty(self.x_shape, dy.dtype)
        k.max_pool2d_backward_dx(dx, dy, index, *self.geometry)
        return (dx,)


class AvgPool2D(Pool2D):
    """The mean over the part of the window that lies inside the image."""

    name = "avg_pool2d"

    def forward(self, k, x):
        y = k.empty(self.plan(x.shape), x.dtype)
        k.avg_pool2d_forward(y, x, *self.geometry)
        return y

    def backward(self, k, dy):
        dx = k.empty(self.x_shape, dy.dtype)
        k.avg_pool2d_backward_dx(dx, dy, *self.geometry)
        return (dx,)


class GlobalAvgPool2D(Op):
    def forward(self, k, x):
        n, h, w, c = image_shape("global_avg_pool2d", x.shape)
        if h * w == 0:
            raise ValueError(f"global_avg_pool2d: expected at least one pixel, got x {x.shape}")
        y = k.empty((n, c), x.dtype)
        k.global_avg_pool2d_forward(y, x.reshape(n, h * w, c))
        self.saved = (x.shape,)
        return y

    def backward(self, k, dy):
        n, h, w, c = self.saved[0]
        dx = k.empty((n, h * w, c), dy.dtype)
        k.global_avg_pool2d_backward_dx(dx, dy)
        return (dx.reshape(n, h, w, c),)


def pool2d_op(op_class, pool_size, strides, padding) -> Pool2D:
    """The op that `max_pool2d` or `avg_pool2d` applies, its arguments checked."""
    name = op_class.name
    window = pair(name, "pool_size", pool_size)
    strides = window if strides is None else pair(name, "strides", strides)
    return op_class(window, strides, window_padding(name, padding))


def max_pool2d(x, pool_size, strides=None, padding="valid"):
    """The maximum over each window; NaN wins, the first of equal maxima takes the gradient.

    Args:
        x: (n, h, w, c).
        pool_size: an integer or (rows, columns).
        strides: an integer or (rows, columns); None is pool_size.
        padding: "valid", "same", or integers smaller than the window; padding never wins.

    Returns:
        y of shape (n, oh, ow, c); dx = dy at each window's maximum, summed where windows overlap.

    Raises:
        ValueError: x not of rank 4, a window larger than the padded image.

    >>> import tilegrad
    >>> x = tilegrad.Tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> tilegrad.ops.max_pool2d(x, 2).item()
    4.0
    """
    return apply(pool2d_op(MaxPool2D, pool_size, strides, padding), *tensors(x))


def avg_pool2d(x, pool_size, strides=None, padding="valid"):
    """The mean over each window, padding excluded from the count, as in Keras.

    Args:
        x: (n, h, w, c).
        pool_size, strides, padding: as in `max_pool2d`.

    Returns:
        y of shape (n, oh, ow, c); dx = dy / count, summed where windows overlap.

    >>> import tilegrad
    >>> x = tilegrad.Tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> tilegrad.ops.avg_pool2d(x, 2).item()
    2.5
    """
    return apply(pool2d_op(AvgPool2D, pool_size, strides, padding), *tensors(x))


def global_avg_pool2d(x):
    """The mean over all pixels: (n, h, w, c) to (n, c); dx = dy / (h w).

    >>> import tilegrad
    >>> x = tilegrad.Tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> tilegrad.ops.global_avg_pool2d(x).numpy().tolist()
    [[2.5]]
    """
    return apply(GlobalAvgPool2D(), *tensors(x))
