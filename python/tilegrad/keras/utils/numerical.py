"""Small helpers for labels and features."""

from __future__ import annotations

import numpy as np

from ... import backend
from ...tensor import Tensor


def to_categorical(x, num_classes=None):
    """One-hot rows for integer labels.

    Args:
        x: integer labels of shape (...) or (..., 1), each in [0, num_classes).
        num_classes: number of classes; default: the largest label + 1.

    Returns:
        A float64 array of shape (..., num_classes).

    Raises:
        ValueError: a label is out of range.

    >>> to_categorical([0, 2, 1])
    array([[1., 0., 0.],
           [0., 0., 1.],
           [0., 1., 0.]])
    """
    labels = np.array(_on_host(x), dtype="int64")
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if not num_classes:
        if not labels.size:
            raise ValueError("to_categorical: expected num_classes for an empty array of labels")
        num_classes = int(labels.max()) + 1
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(
            f"to_categorical: expected labels in [0, {num_classes}), "
            f"got [{labels.min()}, {labels.max()}]"
        )
    one_hot = np.zeros((*labels.shape, num_classes))
    np.put_along_axis(one_hot, labels[..., None], 1.0, axis=-1)
    return one_hot


def normalize(x, axis=-1, order=2):
    """Divide `x` by its norm along `axis`; rows of norm 0 stay 0.

    Args:
        x: array of any shape.
        axis: axis along which the norm is taken.
        order: 1, 2, numpy.inf, ...: see `numpy.linalg.norm`.

    >>> normalize(np.array([[3.0, 4.0]]))
    array([[0.6, 0.8]])
    """
    x = _on_host(x)
    norm = np.linalg.norm(x, order, axis, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


def _on_host(x) -> np.ndarray:
    return backend.to_numpy(x.data if isinstance(x, Tensor) else backend.as_array(x))
