"""Softmax, log-softmax and softmax-cross-entropy over the last axis."""

from __future__ import annotations

import numpy as np


def _log_softmax(x):
    """x - log sum exp(x); the row maximum is subtracted first, so that nothing overflows."""
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax_forward(y, x):
    """y = exp(x) / sum exp(x)."""
    e = np.exp(x - x.max(axis=1, keepdims=True))
    y[...] = e / e.sum(axis=1, keepdims=True)


def softmax_backward_dx(dx, dy, y):
    """dx = y (dy - sum dy y)."""
    dx[...] = y * (dy - (dy * y).sum(axis=1, keepdims=True))


def log_softmax_forward(y, x):
    """y = x - log sum exp(x)."""
    y[...] = _log_softmax(x)


def log_softmax_backward_dx(dx, dy, y):
    """dx = dy - exp(y) sum dy."""
    dx[...] = dy - np.exp(y) * dy.sum(axis=1, keepdims=True)


def _weighted_sum(losses, weight, scale):
    return scale * (losses if weight is None else weight * losses).sum()


def softmax_cross_entropy_sparse_forward(loss, losses, p, x, labels, weight, scale):
    """losses[i] = -log p[i, label[i]], p = softmax(x).

    loss = scale sum_i weight[i] losses[i]; a label outside [0, cols) makes its loss and its row of
    p NaN.
    """
    rows, cols = x.shape
    log_p = _log_softmax(x)
    valid = (labels >= 0) & (labels < cols)
    each = np.where(valid, -log_p[np.arange(rows), np.where(valid, labels, 0)], np.nan)
    losses[...] = each
    p[...] = np.where(valid[:, None], np.exp(log_p), np.nan)
    loss[...] = _weighted_sum(each, weight, scale)


def softmax_cross_entropy_sparse_backward_dx(dx, dlosses, p, labels):
    """dx[i] = dlosses[i] (p[i] - onehot(label[i]))."""
    onehot = labels[:, None] == np.arange(p.shape[1])
    dx[...] = dlosses[:, None] * (p - onehot)


def softmax_cross_entropy_dense_forward(loss, losses, p, x, t, weight, scale):
    """losses[i] = -sum_j t[i, j] log p[i, j], p = softmax(x).

    loss = scale sum_i weight[i] losses[i].
    """
    log_p = _log_softmax(x)
    each = -(t * log_p).sum(axis=1)
    losses[...] = each
    p[...] = np.exp(log_p)
    loss[...] = _weighted_sum(each, weight, scale)


def softmax_cross_entropy_dense_backward_dx(dx, dlosses, p, t):
    """dx[i] = dlosses[i] (p[i] sum_j t[i, j] - t[i])."""
    dx[...] = dlosses[:, None] * (p * t.sum(axis=1, keepdims=True) - t)
