"""Softmax, log-softmax and softmax-cross-entropy."""

from __future__ import annotations

import functools
import math
import operator

import numpy as np

from .. import backend, recording
from ..autograd import Op, apply
from ..tensor import Tensor
from ._common import as_rows, tensors
from .elementwise import transpose

_INT32 = np.dtype(np.int32)


class Rows(Op):
    """A function of each row (the last axis) whose backward needs only its output."""

    reads_output = True

    def forward(self, k, x):
        shape = x.shape
        if not shape or shape[-1] == 0:
            raise ValueError(f"{self.name}: expected at least one class, got shape {shape}")
        y = k.empty_like(x)
        getattr(k, f"{self.name}_forward")(as_rows(y), as_rows(x))
        self.saved = (y,)
        return y

    def backward(self, k, dy):
        (y,) = self.saved
        dx = k.empty_like(y)
        getattr(k, f"{self.name}_backward_dx")(as_rows(dx), as_rows(dy), as_rows(y))
        return (dx,)


class Softmax(Rows):
    name = "softmax"


class LogSoftmax(Rows):
    name = "log_softmax"


def _along(op: Rows, x, axis: int):
    """Apply a row function along any axis."""
    (x,) = tensors(x)
    axis = operator.index(axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{op.name}: expected an axis from {-x.ndim} to {x.ndim - 1}, got {axis}")
    if axis in (-1, x.ndim - 1):
        return apply(op, x), x
    order = list(range(x.ndim))
    order[axis], order[-1] = order[-1], order[axis]
    return transpose(apply(op, transpose(x, order)), order), None


def softmax(x, axis: int = -1):
    """exp(x) / sum exp(x) along `axis`; dx = y (dy - sum dy y).

    The result of a softmax over the last axis keeps its input as `logits`, so that cross-entropy
    can be computed from there without loss of precision.

    >>> import tilegrad
    >>> tilegrad.ops.softmax([[0.0, 0.0]]).numpy().tolist()
    [[0.5, 0.5]]
    """
    y, y.logits = _along(Softmax(), x, axis)
    return y


def log_softmax(x, axis: int = -1):
    """x - log sum exp(x) along `axis`; dx = dy - exp(y) sum dy.

    >>> import tilegrad
    >>> round(tilegrad.ops.log_softmax([[0.0, 0.0]])[0, 0].item(), 4)
    -0.6931
    """
    return _along(LogSoftmax(), x, axis)[0]


class SoftmaxCrossEntropy(Op):
    """Fused: no probability is ever logged, and dx = dlosses (p - target)."""

    def __init__(self, labels, weight, reduction: str):
        self.labels = labels
        self.weight = weight
        self.reduction = reduction
        self.sparse = labels.dtype.kind != "f"

    def forward(self, k, x):
        n, classes = x.shape
        self.scale = 1.0 / n if self.reduction == "mean" and n else 1.0
        loss, losses, p = k.empty((1,), x.dtype), k.empty((n,), x.dtype), k.empty_like(x)
        if self.sparse:
            kernel = k.softmax_cross_entropy_sparse_forward
        else:
            kernel = k.softmax_cross_entropy_dense_forward
        kernel(loss, losses, p, x, self.labels, self.weight, self.scale)
        if self.sparse and not k.asynchronous:
            recording.stop_if_nan(loss)
            if math.isnan(loss.item()):
                _check_labels(self.labels, classes)
        self.saved = (p,)
        if self.reduction == "none":
            return losses if self.weight is None else _product(k, losses, self.weight)
        return loss.reshape(())

    def backward(self, k, dy):
        (p,) = self.saved
        dlosses = dy
        if dy.ndim == 0:
            dlosses = k.empty((len(p),), p.dtype)
            k.reduce_sum_backward_dx(dlosses.reshape(1, len(p), 1), dy.reshape(1, 1), self.scale)
        if self.weight is not None:
            dlosses = _product(k, dlosses, self.weight)
        dx = k.empty_like(p)
        if self.sparse:
            k.softmax_cross_entropy_sparse_backward_dx(dx, dlosses, p, self.labels)
        else:
            k.softmax_cross_entropy_dense_backward_dx(dx, dlosses, p, self.labels)
        return (dx,)


@functools.cache
def _fits_int32(dtype) -> bool:
    return np.can_cast(dtype, _INT32)


def _product(k, a, b):
    y = k.empty_like(a)
    k.binary_forward(y, a, b, backend.BINARY["multiply"])
    return y


def _check_labels(labels, classes: int) -> None:
    labels = backend.to_numpy(labels)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"softmax_cross_entropy: expected labels from 0 to {classes - 1}, "
            f"got {labels[row]} in row {row} ({len(wrong)} of {len(labels)} are out of range)"
        )


def softmax_cross_entropy(logits, labels, sample_weight=None, reduction: str = "mean"):
    """-log softmax(logits)[label] per row, stable for logits of any size.

    Notation: n rows, c classes, p = softmax(logits), t the target distribution (one-hot for
    labels). Forward: l_i = -sum_j t_ij log p_ij. Backward: dlogits_i = dl_i (p_i sum_j t_ij - t_i).

    Args:
        logits: (n, c).
        labels: (n,) integers from 0 to c - 1, or (n, c) floating-point targets.
        sample_weight: (n,) or None; multiplies each row's loss.
        reduction: "mean" (the weighted sum over n, as Keras's sum_over_batch_size), "sum" or
        "none".

    Returns:
        a scalar, or (n,) for "none". No gradient flows to the labels.

    Raises:
        ValueError: shapes that do not fit, labels out of range (value and row are named). Labels
            that are on a GPU are not looked at, since that would wait for all that it still
            computes: a wrong one makes the loss NaN.

    >>> import tilegrad
    >>> loss = tilegrad.ops.softmax_cross_entropy([[10000.0, 0.0]], [1])
    >>> loss.item()
    10000.0
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(
            f'softmax_cross_entropy: expected reduction "mean", "sum" or "none", got {reduction!r}'
        )
    (logits,) = tensors(logits)
    shape, dtype = logits.data.shape, logits.data.dtype
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(f"softmax_cross_entropy: expected logits of shape (n, c), got {shape}")
    n, classes = shape
    k = backend.get(logits.device)
    labels = labels.data if isinstance(labels, Tensor) else backend.as_array(labels)
    if labels.dtype.kind in "iub" and labels.shape == (n,):
        early = k.asynchronous and isinstance(labels, np.ndarray)
        if early or not _fits_int32(labels.dtype):  # what would wrap is found first
            _check_labels(labels, classes)
        labels = recording.converted(k.asarray(labels), _INT32)
    elif labels.dtype.kind == "f" and labels.shape == (n, classes):
        labels = recording.converted(k.asarray(labels), dtype)
    else:
        raise ValueError(
            f"softmax_cross_entropy: expected integer labels of shape ({n},) or floating-point "
            f"ones of shape ({n}, {classes}), got {labels.dtype} of shape {labels.shape}"
        )
    if sample_weight is not None:
        weight = Tensor._coerce(sample_weight, logits.device)
        if weight.shape != (n,):
            raise ValueError(
                f"softmax_cross_entropy: expected sample_weight of shape ({n},), got {weight.shape}"
            )
        sample_weight = recording.converted(k.asarray(weight.data), dtype)
    return apply(SoftmaxCrossEntropy(labels, sample_weight, reduction), logits)
