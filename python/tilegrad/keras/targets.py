"""Targets and predictions as losses and metrics take them; y_pred may be an array or a tensor."""

from __future__ import annotations

import numpy as np

from .. import backend
from ..tensor import Tensor


def as_array(x, what="y_true"):
    """`x` as an array, without a copy of a tensor: CuPy's where it is on a GPU, else NumPy's.

    Raises:
        TypeError: what are not numbers.
    """
    array = x.data if isinstance(x, Tensor) else backend.as_array(x)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{what}: expected numbers, got dtype {array.dtype} from {type(x).__name__}"
        )
    return array


def alike(array, other):
    """`array` in the memory of `other`, an array too."""
    if isinstance(array, np.ndarray) == isinstance(other, np.ndarray):
        return array
    if isinstance(other, np.ndarray):
        return backend.to_numpy(array)
    return backend.get("cuda").asarray(array)


def match_rank(a, b):
    """Add or drop a last axis of size 1, where that is all that the ranks of a and b differ by."""
    if a.ndim == b.ndim + 1 and a.shape[-1] == 1:
        return (a, b.reshape((*b.shape, 1))) if b.ndim == 1 else (a.reshape(a.shape[:-1]), b)
    if b.ndim == a.ndim + 1 and b.shape[-1] == 1:
        return (a.reshape((*a.shape, 1)), b) if a.ndim == 1 else (a, b.reshape(b.shape[:-1]))
    return a, b


def match(y_true, y_pred, what="y_true"):
    """`match_rank`, and a check.

    Raises:
        ValueError: the shapes do not broadcast.
    """
    a, b = match_rank(y_true, y_pred)
    if a.shape != b.shape:
        try:
            np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            raise ValueError(
                f"{what}: expected a shape that broadcasts with {y_pred.shape}, got {y_true.shape}"
            ) from None
    return a, b


def as_labels(y_true, y_pred, axis=-1):
    """Integer labels of y_pred's shape without the class axis, from integers or whole floats.

    Raises:
        ValueError: another shape, or a label that is not an integer.
    """
    labels = as_array(y_true)
    expected = list(y_pred.shape)
    del expected[axis]
    if labels.ndim == y_pred.ndim and labels.shape[axis] == 1:
        labels = labels.reshape(expected)
    if labels.shape != tuple(expected):
        raise ValueError(
            f"y_true: expected labels of shape {tuple(expected)} for y_pred of shape "
            f"{y_pred.shape}, got {labels.shape}"
        )
    if labels.dtype.kind == "f":
        xp = backend.namespace(labels)
        wrong = ~((xp.trunc(labels) == labels) & (xp.abs(labels) < 2**31))
        if wrong.any():
            complain(labels, wrong, "an integer")
        labels = labels.astype(np.int64)
    return labels


def complain(labels, wrong, expected: str):
    """Raise a ValueError that names the first wrong label, its row, and how many there are."""
    labels, wrong = backend.to_numpy(labels), backend.to_numpy(wrong)
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise ValueError(
        f"y_true: expected every label to be {expected}, got {labels[at]} "
        f"in row {at[0] if len(at) == 1 else at} ({int(wrong.sum())} of {labels.size} are wrong)"
    )
