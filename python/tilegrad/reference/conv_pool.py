"""Convolution, bias, activation and max pooling: the reference of each, one after another."""

from __future__ import annotations

import numpy as np

from .conv import conv2d_backward_dw, conv2d_forward
from .dense import bias_backward_db
from .pool import max_pool2d_backward_dx, max_pool2d_forward

CLOSED_WINDOW = 255  # the index where a relu lets no gradient through
RELU = 1


def conv2d_max_pool2d_forward(
    y,
    index,
    x,
    w,
    b,
    conv_h,
    conv_w,
    stride_h,
    stride_w,
    pad_top,
    pad_left,
    dilation_h,
    dilation_w,
    pool_h,
    pool_w,
    pool_pad_top,
    pool_pad_left,
    activation,
):
    """y = max_pool(act(conv(x, w) + b)); index as in max_pool2d, 255 where a relu is closed."""
    z = np.empty((len(x), conv_h, conv_w, w.shape[3]), x.dtype)
    sizes = (stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w)
    conv2d_forward(z, x, w, b, *sizes, 1, activation, 0.0)
    window = (pool_h, pool_w, pool_h, pool_w, pool_pad_top, pool_pad_left)
    max_pool2d_forward(y, index, z, *window)
    if activation == RELU:
        index[~(y > 0)] = CLOSED_WINDOW


def conv2d_max_pool2d_backward_dw(
    dw,
    db,
    x,
    dy,
    index,
    conv_h,
    conv_w,
    stride_h,
    stride_w,
    pad_top,
    pad_left,
    dilation_h,
    dilation_w,
    pool_h,
    pool_w,
    pool_pad_top,
    pool_pad_left,
):
    """dw and db from dz, which is dy where index says and 0 elsewhere."""
    f = dw.shape[3]
    dz = np.empty((len(x), conv_h, conv_w, f), dy.dtype)
    window = (pool_h, pool_w, pool_h, pool_w, pool_pad_top, pool_pad_left)
    max_pool2d_backward_dx(dz, dy, index, *window)
    sizes = (stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w)
    conv2d_backward_dw(dw, x, dz, *sizes, 1)
    if db is not None:
        bias_backward_db(db, dz.reshape(-1, f))
