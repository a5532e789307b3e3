"""Matrix products: the dense layer, its gradients, and batched matmul."""

from __future__ import annotations

import math

import numpy as np

from .activation import activate, activation_backward_dx


def dense_forward(y, x, w, b, activation, alpha):
    """y = act(x w + b)."""
    z = x @ w
    if b is not None:
        z = z + b
    y[...] = activate(z, activation, alpha)


def dense_backward_dx(dx, dy, w):
    """dx = dy w^T."""
    dx[...] = dy @ w.T


def dense_backward_dw(dw, x, dy):
    """dw = x^T dy."""
    dw[...] = x.T @ dy


def bias_backward_db(db, dy):
    """db[j] = sum_i dy[i, j], for all axes of dy (..., f) but the last as one."""
    db[...] = dy.reshape(math.prod(dy.shape[:-1]), dy.shape[-1]).sum(axis=0)


def bias_activation_backward_dz(dz, db, dy, y, activation, alpha):
    """dz = dy act'(y), for the activations up to elu, and db[j] = sum_i dz[i, j]."""
    activation_backward_dx(dz, dy, y, activation, alpha)
    bias_backward_db(db, dz)


def matmul_forward(y, a, b):
    """y[i] = a[i] b[i]; an operand of batch 1 serves the whole batch, as does a matrix alone."""
    y[...] = a @ b


def matmul_backward_da(da, dy, b):
    """da[i] = dy[i] b[i]^T, one per batch entry even where a is shared."""
    da[...] = dy @ np.swapaxes(b, -1, -2)


def matmul_backward_db(db, a, dy):
    """db[i] = a[i]^T dy[i], one per batch entry even where b is shared."""
    db[...] = np.swapaxes(a, -1, -2) @ dy
