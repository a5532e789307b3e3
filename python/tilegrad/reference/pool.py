"""2-D pooling: a loop over the window's places, each a strided slice of the padded image."""

from __future__ import annotations

import numpy as np

from .conv import padded_shape, window


def _pad(x, o_shape, kh, kw, stride_h, stride_w, pad_top, pad_left):
    """The padded image, and the same with 1 inside the image and 0 in the padding."""
    _, h, w, _ = x.shape
    shape = padded_shape(x.shape, o_shape, kh, kw, stride_h, stride_w, pad_top, pad_left)
    padded, inside = np.zeros(shape, x.dtype), np.zeros((1, *shape[1:3], 1), bool)
    padded[:, pad_top : pad_top + h, pad_left : pad_left + w] = x
    inside[:, pad_top : pad_top + h, pad_left : pad_left + w] = True
    return padded, inside


def max_pool2d_forward(y, index, x, kh, kw, stride_h, stride_w, pad_top, pad_left):
    """y = max over the window, NaN wins; index = a kw + b of the first maximum."""
    padded, inside = _pad(x, y.shape, kh, kw, stride_h, stride_w, pad_top, pad_left)
    best, place = np.zeros(y.shape, x.dtype), np.full(y.shape, -1)
    for a, b in np.ndindex(kh, kw):
        pixels = window(padded, a, b, y.shape, stride_h, stride_w)
        better = (place < 0) | (pixels > best) | (np.isnan(pixels) & ~np.isnan(best))
        better &= window(inside, a, b, y.shape, stride_h, stride_w)
        best = np.where(better, pixels, best)
        place = np.where(better, a * kw + b, place)
    y[...] = best
    index[...] = place


def max_pool2d_backward_dx(dx, dy, index, kh, kw, stride_h, stride_w, pad_top, pad_left):
    """dx = dy at the place that index names, summed over the windows."""
    _, h, w, _ = dx.shape
    shape = padded_shape(dx.shape, dy.shape, kh, kw, stride_h, stride_w, pad_top, pad_left)
    padded = np.zeros(shape, dy.dtype)
    for a, b in np.ndindex(kh, kw):
        pixels = window(padded, a, b, dy.shape, stride_h, stride_w)
        pixels += np.where(index == a * kw + b, dy, 0)
    dx[...] = padded[:, pad_top : pad_top + h, pad_left : pad_left + w]


def _count(x_shape, o_shape, kh, kw, stride_h, stride_w, pad_top, pad_left):
    """How many pixels of the image each window covers, (1, oh, ow, 1)."""
    image = np.empty((1, *x_shape[1:3], 1))
    _, inside = _pad(image, o_shape, kh, kw, stride_h, stride_w, pad_top, pad_left)
    places = np.ndindex(kh, kw)
    return sum(window(inside, a, b, o_shape, stride_h, stride_w).astype(int) for a, b in places)


def avg_pool2d_forward(y, x, kh, kw, stride_h, stride_w, pad_top, pad_left):
    """y = mean over the window's part inside the image."""
    padded, _ = _pad(x, y.shape, kh, kw, stride_h, stride_w, pad_top, pad_left)
    total = np.zeros(y.shape, x.dtype)
    for a, b in np.ndindex(kh, kw):
        total += window(padded, a, b, y.shape, stride_h, stride_w)
    count = _count(x.shape, y.shape, kh, kw, stride_h, stride_w, pad_top, pad_left)
    y[...] = total / count.astype(x.dtype)


def avg_pool2d_backward_dx(dx, dy, kh, kw, stride_h, stride_w, pad_top, pad_left):
    """dx = dy / count, summed over the windows that read x."""
    _, h, w, _ = dx.shape
    shape = padded_shape(dx.shape, dy.shape, kh, kw, stride_h, stride_w, pad_top, pad_left)
    count = _count(dx.shape, dy.shape, kh, kw, stride_h, stride_w, pad_top, pad_left)
    padded, share = np.zeros(shape, dy.dtype), dy / count.astype(dy.dtype)
    for a, b in np.ndindex(kh, kw):
        pixels = window(padded, a, b, dy.shape, stride_h, stride_w)
        pixels += share
    dx[...] = padded[:, pad_top : pad_top + h, pad_left : pad_left + w]


def global_avg_pool2d_forward(y, x):
    """y[i] = mean_r x[i, r]."""
    y[...] = x.mean(axis=1)


def global_avg_pool2d_backward_dx(dx, dy):
    """dx[i, r] = dy[i] / rows."""
    dx[...] = dy[:, None, :] / dx.shape[1]
