"""2-D convolution."""

from __future__ import annotations

import functools

from ..autograd import Op, apply
from ._common import check_dtypes, image_shape, pair, tensors, whole, window_axis, window_padding
from .activation import resolve
from .dense import before_activation


class Conv2D(Op):
    """y = act(conv(x, w) + b); backward first turns dy into the gradient before the activation."""

    reads = (0, 1)
    reads_output = True

    def __init__(self, window, activation: int, alpha: float):
        self.window = window  # strides, padding, dilation, groups
        self.activation = activation
        self.alpha = alpha

    def plan(self, x, w, b):
        """The shape of y; checks the inputs and sets `self.geometry` on the way."""
        b_shape = None if b is None else b.shape
        shape, self.geometry = _checked_geometry(x.shape, w.shape, b_shape, self.window)
        check_dtypes("conv2d", x, w, b)
        return shape

    def forward(self, k, x, w, b):
        y = k.empty(self.plan(x, w, b), x.dtype)
        k.conv2d_forward(y, x, w, b, *self.geometry, self.activation, self.alpha)
        self.saved = x, w, b, y if self.activation else None
        return y

    def backward(self, k, dy):
        x, w, b, y = self.saved
        needs_dx, needs_dw, needs_db = self.needs
        dz, db = before_activation(k, dy, y, b if needs_db else None, self.activation, self.alpha)
        dx, dw = conv2d_gradients(k, dz, x, w, self.geometry, needs_dx, needs_dw)
        return dx, dw, db


@functools.lru_cache(maxsize=1024)
def _checked_geometry(x_shape, w_shape, b_shape, window):
    """(shape of y, the kernels' hyperparameters) of a convolution; the same ones come again."""
    (sh, sw), (rows, columns), (dh, dw), groups = window
    n, h, width, c = image_shape("conv2d", x_shape)
    if len(w_shape) != 4 or w_shape[2] * groups != c or w_shape[3] % groups or 0 in w_shape:
        per_group = f"c / groups = {c} / {groups}" if groups > 1 else c
        multiple = f", f a multiple of {groups}" if groups > 1 else ""
        raise ValueError(
            f"conv2d: expected w of shape (kh, kw, {per_group}, f){multiple}, got {w_shape}"
        )
    kh, kw, _, f = w_shape
    if b_shape not in (None, (f,)):
        raise ValueError(f"conv2d: expected b of shape ({f},), got {b_shape}")
    oh, top = window_axis("conv2d", h, kh, sh, rows, dh)
    ow, left = window_axis("conv2d", width, kw, sw, columns, dw)
    return (n, oh, ow, f), (sh, sw, top, left, dh, dw, groups)


def conv2d_gradients(k, dz, x, w, geometry, needs_dx: bool, needs_dw: bool):
    """(dx, dw) from dz, the gradient before the activation; None where not needed."""
    sh, sw, top, left, dilation_h, dilation_w, groups = geometry  # to unpack once is faster
    dx = dw = None
    if needs_dx:
        dx = k.empty_like(x)
        k.conv2d_backward_dx(dx, dz, w, sh, sw, top, left, dilation_h, dilation_w, groups)
    if needs_dw:
        dw = k.empty_like(w)
        k.conv2d_backward_dw(dw, x, dz, sh, sw, top, left, dilation_h, dilation_w, groups)
    return dx, dw


def conv2d(
    x,
    w,
    b=None,
    strides=1,
    padding="valid",
    dilation=1,
    groups: int = 1,
    activation: str | None = None,
    alpha: float | None = None,
):
    """2-D convolution (cross-correlation) with bias and activation in one kernel.

    Notation: n images of h x w pixels and c channels, a kh x kw window, f filters. Forward, per
    group: y[n, i, j, f] = act(b[f] + sum over a, e, c of x[n, i s + a d - top, j s + e d - left, c]
    w[a, e, c, f]). Backward, with dz = dy act'(y): dx and dw are the transposed sums, db sums dz
    over n, i and j.

    Args:
        x: (n, h, w, c).
        w: (kh, kw, c / groups, f).
        b: (f,) or None.
        strides: an integer or (rows, columns).
        padding: "valid", "same" (the odd row goes below and to the right, as in Keras), an integer,
            (rows, columns), or ((top, bottom), (left, right)).
        dilation: an integer or (rows, columns).
        groups: how many groups of channels are convolved apart; c is depthwise.
        activation: None, "relu", "leaky_relu", "sigmoid", "tanh" or "elu".
        alpha: slope of leaky_relu (default 0.2), scale of elu (default 1).

    Returns:
        y of shape (n, oh, ow, f).

    Raises:
        ValueError: shapes that do not fit, a window larger than the padded image.
        TypeError: dtypes that differ, sizes that are no integers.

    >>> import numpy, tilegrad
    >>> x, w = numpy.ones((2, 5, 5, 3), "float32"), numpy.ones((3, 3, 3, 4), "float32")
    >>> tilegrad.ops.conv2d(x, w, strides=2, padding="same", activation="relu").shape
    (2, 3, 3, 4)
    """
    op = conv2d_op(strides, padding, dilation, groups, activation, alpha)
    return apply(op, *tensors(x, w, b))


def conv2d_op(strides, padding, dilation, groups, activation, alpha) -> Conv2D:
    """The op that `conv2d` applies, its arguments checked."""
    plain = type(strides) is type(dilation) is type(groups) is int and type(padding) is str
    check = _checked if plain and alpha is None else _checked.__wrapped__
    return Conv2D(*check(strides, padding, dilation, groups, activation, alpha))


# Plain arguments come again. A cache takes (1.0, 1) for (1, 1), so pairs are checked each time.
@functools.lru_cache(maxsize=1024, typed=True)
def _checked(strides, padding, dilation, groups, activation, alpha):
    """`Conv2D`'s arguments."""
    window = (
        pair("conv2d", "strides", strides),
        window_padding("conv2d", padding),
        pair("conv2d", "dilation", dilation),
        whole("conv2d", "groups", groups, 1),
    )
    return window, *resolve("conv2d", activation, alpha)
