"""2-D convolution (cross-correlation): one matrix product per place (a, b) of the window.

Output (i, j) reads row i stride_h + a dilation_h - pad_top of the image, and a column likewise.
For one place of the window that is a strided slice of the zero-padded image, `window(...)`, with
one pixel per output position; the three kernels are sums over the places.
"""

from __future__ import annotations

import numpy as np

from .activation import activate


def padded_shape(x_shape, o_shape, reach_h, reach_w, stride_h, stride_w, pad_top, pad_left):
    """The image's shape with all the padding that windows of `reach` pixels read."""
    n, h, w, c = x_shape
    _, oh, ow, _ = o_shape
    rows = max(pad_top + h, (oh - 1) * stride_h + reach_h)
    cols = max(pad_left + w, (ow - 1) * stride_w + reach_w)
    return n, rows, cols, c


def window(padded, top, left, o_shape, stride_h, stride_w):
    """The pixels that one place of the window reads, a view (n, oh, ow, c)."""
    _, oh, ow, _ = o_shape
    return padded[:, top:, left:][:, : oh * stride_h : stride_h, : ow * stride_w : stride_w]


def _groups(channels, filters, groups):
    """Each group's channels and filters, as a pair of slices."""
    c, f = channels // groups, filters // groups
    return [(slice(g * c, g * c + c), slice(g * f, g * f + f)) for g in range(groups)]


def conv2d_forward(
    y,
    x,
    w,
    b,
    stride_h,
    stride_w,
    pad_top,
    pad_left,
    dilation_h,
    dilation_w,
    groups,
    activation,
    alpha,
):
    """y[n, i, j] = act(sum_ab x[n, i s + a d - p, j s + b d - p] w[a, b] + bias), per group."""
    _, height, width, c = x.shape
    kh, kw, _, f = w.shape
    reach_h, reach_w = (kh - 1) * dilation_h + 1, (kw - 1) * dilation_w + 1
    padded = np.zeros(
        padded_shape(x.shape, y.shape, reach_h, reach_w, stride_h, stride_w, pad_top, pad_left),
        x.dtype,
    )
    padded[:, pad_top : pad_top + height, pad_left : pad_left + width] = x
    z = np.zeros(y.shape, x.dtype)
    for i, j in np.ndindex(kh, kw):
        pixels = window(padded, i * dilation_h, j * dilation_w, y.shape, stride_h, stride_w)
        for cs, fs in _groups(c, f, groups):
            z[..., fs] += np.tensordot(pixels[..., cs], w[i, j][:, fs], 1)
    if b is not None:
        z = z + b
    y[...] = activate(z, activation, alpha)


def conv2d_backward_dx(
    dx, dy, w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups
):
    """dx: every output sends dy w[a, b]^T back to the pixel it read through (a, b)."""
    _, height, width, c = dx.shape
    kh, kw, _, f = w.shape
    reach_h, reach_w = (kh - 1) * dilation_h + 1, (kw - 1) * dilation_w + 1
    padded = np.zeros(
        padded_shape(dx.shape, dy.shape, reach_h, reach_w, stride_h, stride_w, pad_top, pad_left),
        dy.dtype,
    )
    for i, j in np.ndindex(kh, kw):
        pixels = window(padded, i * dilation_h, j * dilation_w, dy.shape, stride_h, stride_w)
        for cs, fs in _groups(c, f, groups):
            pixels[..., cs] += np.tensordot(dy[..., fs], w[i, j][:, fs].T, 1)
    dx[...] = padded[:, pad_top : pad_top + height, pad_left : pad_left + width]


def conv2d_backward_dw(
    dw, x, dy, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups
):
    """dw[a, b] = sum over images and positions of (the pixel read through (a, b))^T dy."""
    _, height, width, c = x.shape
    kh, kw, _, f = dw.shape
    reach_h, reach_w = (kh - 1) * dilation_h + 1, (kw - 1) * dilation_w + 1
    padded = np.zeros(
        padded_shape(x.shape, dy.shape, reach_h, reach_w, stride_h, stride_w, pad_top, pad_left),
        x.dtype,
    )
    padded[:, pad_top : pad_top + height, pad_left : pad_left + width] = x
    for i, j in np.ndindex(kh, kw):
        pixels = window(padded, i * dilation_h, j * dilation_w, dy.shape, stride_h, stride_w)
        for cs, fs in _groups(c, f, groups):
            dw[i, j][:, fs] = np.tensordot(pixels[..., cs], dy[..., fs], axes=[(0, 1, 2)] * 2)
