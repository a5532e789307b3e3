"""What several op families share: input conversion and window geometry."""

from __future__ import annotations

import math
import operator

from .. import backend, recording
from ..tensor import Tensor


def tensors(*values):
    """The values as floating-point tensors on one device: that of the first tensor among them.

    Plain numbers and arrays take the dtype of the first tensor; None stays None.
    """
    for v in values:
        if v is not None and not (isinstance(v, Tensor) and v.data.dtype.kind == "f"):
            return _converted(values)
    return values


def _converted(values):
    device = dtype = None
    for v in values:
        if not isinstance(v, Tensor):
            continue
        if device is None:
            device = v.device
        if dtype is None and v.data.dtype.kind == "f":
            device, dtype = v.device, v.data.dtype
    out = []
    for v in values:
        if v is None:
            out.append(None)
            continue
        if device == "cuda" and dtype is not None and isinstance(v, (float, int)):
            t = Tensor._wrap(backend.get(device).scalar(v, dtype), device)
        else:
            t = Tensor._coerce(v, device)
        if dtype is None:
            dtype = t.data.dtype
        elif t.data.dtype != dtype and t is not v:
            t = Tensor._wrap(t.data.astype(dtype), t.device)
        if type(v) in (int, float, bool):
            t.data = recording.constant(t.data)
        out.append(t)
    return out


def check_dtypes(name: str, first, *others) -> None:
    """All arrays (None aside) have one dtype, else a TypeError that lists them."""
    dtype = first.dtype
    for array in others:  # mostly of the same object; to compare two is slow
        if array is not None and array.dtype is not dtype and array.dtype != dtype:
            found = ", ".join(str(a.dtype) for a in (first, *others) if a is not None)
            raise TypeError(f"{name}: expected one floating-point dtype, got {found}")


def whole(name: str, what: str, value, least: int) -> int:
    """`value` as an int from `least` to 2**31 - 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected {what} to be an integer, got {value!r}") from None
    if not least <= number < 2**31:
        raise ValueError(f"{name}: expected {what} from {least} to {2**31 - 1}, got {number}")
    return number


def pair(name: str, what: str, value, least: int = 1) -> tuple[int, int]:
    """An integer or a pair of them as (height, width)."""
    if type(value) is int and least <= value < 2**31:
        return value, value
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name}: expected {what} to be one or two integers, got {value!r}")
        return whole(name, what, value[0], least), whole(name, what, value[1], least)
    number = whole(name, what, value, least)
    return number, number


def window_axis(name, size, kernel, stride, padding, dilation=1):
    """(output size, padding before) of an axis; `padding` is "valid", "same" or (before, after).

    "same" gives ceil(size / stride) outputs and puts the odd row after, as Keras does.
    """
    reach = (kernel - 1) * dilation + 1
    if padding == "valid":
        before = after = 0
    elif padding == "same":
        out = -(-size // stride)
        total = max((out - 1) * stride + reach - size, 0)
        before, after = total // 2, total - total // 2
    else:
        before, after = padding
    if size + before + after < reach:
        raise ValueError(
            f"{name}: a window that spans {reach} does not fit an image of size {size} "
            f"padded by {before} and {after}"
        )
    return (size + before + after - reach) // stride + 1, before


def window_padding(name: str, padding):
    """`padding` as one specification for `window_axis` per axis: (rows, columns)."""
    if isinstance(padding, str):
        mode = padding.lower()
        if mode not in ("valid", "same"):
            raise ValueError(
                f'{name}: expected padding "valid", "same" or integers, got {padding!r}'
            )
        return mode, mode
    if isinstance(padding, (tuple, list)) and any(isinstance(p, (tuple, list)) for p in padding):
        if len(padding) != 2 or not all(isinstance(p, (tuple, list)) for p in padding):
            raise ValueError(
                f"{name}: expected padding ((top, bottom), (left, right)), got {padding!r}"
            )
        return pair(name, "padding", padding[0], 0), pair(name, "padding", padding[1], 0)
    ph, pw = pair(name, "padding", padding, 0)
    return (ph, ph), (pw, pw)


def as_rows(array):
    """`array` (..., c) as (rows, c), in the same memory."""
    if array.ndim == 2:
        return array
    shape = array.shape
    return array.reshape(math.prod(shape[:-1]), shape[-1])


def image_shape(name: str, shape) -> tuple[int, int, int, int]:
    if len(shape) != 4:
        raise ValueError(f"{name}: expected x of shape (n, h, w, c), got {shape}")
    return shape
