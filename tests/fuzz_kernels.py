"""The cases of test_fuzz_kernels.py and how they are run, in a process of their own.

A case is a kernel, a seed, sizes to replace everywhere, and changes: (argument, position in it,
what is done to it, a number that says how).
"""

from __future__ import annotations

import contextlib

import numpy as np
from checks import GUARD
from samples import calls

from tilegrad import Tensor
from tilegrad import backend as backends
from tilegrad.backend import KERNELS

CLEAN = (TypeError, ValueError, OverflowError, MemoryError)
MOST = 200_000  # elements of one array
SIZES = (0, 1, 2, 3, 4, 5, 7, 16, 17, 33, 64, 130)
INTEGERS = [-1, 0, 1, 2, 3, 4, 7, 31, 255, 256, 2**31 - 1, 2**31, 2**32, 2**40, 2**62]
INTEGERS += [2**63 - 1, 2**63, 2**64 - 1, 2**70, -(2**31), -(2**63), -(2**70)]
FLOATS = [0.5, -0.5, 1.0, 1e-300, 1e300, -1e300, float("nan"), float("inf"), -float("inf"), -0.0]


class Odd:
    """A sequence of itself: endless in depth, but not in length, which nothing could survive."""

    def __index__(self):
        return 3

    def __float__(self):
        raise ValueError("no float")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index not in (0, 1):
            raise IndexError
        return self

    def __array__(self, *args, **kwargs):
        raise TypeError("no array")


OBJECTS = [None, True, "x", b"x", [], (), {}, [1], [[1.0]], [None, None], Odd(), Odd, 1j, ...]
OBJECTS += [np.float32(2), np.int64(2), np.array(2.0), np.array([2]), np.array("x"), np.float32]
VALUES = [*INTEGERS, *FLOATS, *OBJECTS]

DTYPES = ["f4", "f8", "f2", "i4", "i8", "u1", "i1", "?", "c8", "O", "U2", "M8[s]", ">f4", "V4"]
FILLS = [0.0, np.nan, np.inf, -np.inf, 1e-42, -1e-42, 3e38, -3e38, -0.0, -1.0, 255.0, 1e9]


def guarded(array):
    """`array` in memory of its own with marked bytes on both sides, and that memory."""
    raw = np.full(array.nbytes + 2 * GUARD, 0xA5, np.uint8)
    inner = raw[GUARD : GUARD + array.nbytes].view(array.dtype).reshape(array.shape)
    inner[...] = array
    return inner, raw


def fresh(shape, dtype, rng):
    if np.prod([float(s) for s in shape]) > MOST:
        return np.empty(shape, dtype) if 0 in shape else np.zeros(1, dtype)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0, 9, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def resized(value, sizes, rng):
    """Arrays (also in lists) with every axis of a length in `sizes` of the new length."""
    if isinstance(value, list):
        return [resized(item, sizes, rng) for item in value]
    if not isinstance(value, np.ndarray) or not set(value.shape) & set(sizes):
        return value
    return fresh(tuple(sizes.get(s, s) for s in value.shape), value.dtype, rng)


def as_dtype(a, n, rng):
    dtype = np.dtype(DTYPES[n % len(DTYPES)])
    if dtype.itemsize == a.itemsize and n % 2 and dtype.kind not in "O":
        return a.view(dtype)
    return np.zeros(a.shape, dtype)


def as_rank(a, n, rng):
    if n % 5 == 0:
        return a[None]
    if n % 5 == 1:
        return a.reshape(-1)
    if n % 5 == 2:
        return a[..., None]
    if n % 5 == 3:
        return a.reshape((1,) * (9 - a.ndim) + a.shape) if a.ndim < 9 else a
    return np.zeros((), a.dtype)


def as_size(a, n, rng):
    if a.ndim == 0:
        return a
    axis, size = n % a.ndim, (*SIZES, 2**20, 2**31, 2**40, 2**61)[n // a.ndim % 16]
    shape = [*a.shape]
    shape[axis] = size
    if size > MOST:
        shape[n // 64 % a.ndim] = size  # another axis, or the same
        shape[n // 512 % a.ndim] = 0
    return fresh(tuple(shape), a.dtype, rng)


def as_layout(a, n, rng):
    kinds = [
        lambda: a[::-1] if a.ndim else a,
        lambda: np.asfortranarray(a),
        lambda: a.T,
        lambda: np.repeat(a, 2, -1)[..., ::2] if a.ndim else a,
        lambda: np.broadcast_to(a[:1], a.shape) if a.ndim and len(a) else a,
        lambda: misaligned(a),
        lambda: a.view(type("Sub", (np.ndarray,), {})),
        lambda: np.ma.masked_array(a),
        lambda: memoryview(a) if a.ndim else a,
        lambda: Tensor(a) if a.dtype.kind in "fiub" else a,
        lambda: a.tolist(),
    ]
    return kinds[n % len(kinds)]()


def misaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    view = raw.view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def as_fill(a, n, rng):
    out = a.copy()
    with np.errstate(all="ignore"):
        value = np.float64(FILLS[n % len(FILLS)])
        if out.size and n % 2:
            out.flat[n % out.size] = value.astype(a.dtype)
        else:
            out[...] = value.astype(a.dtype)
    return out


def as_read_only(a, n, rng):
    out = a.copy()
    out.flags.writeable = False
    return out


ARRAY_CHANGES = {
    "dtype": as_dtype,
    "rank": as_rank,
    "size": as_size,
    "layout": as_layout,
    "fill": as_fill,
    "read only": as_read_only,
}
CHANGES = (*ARRAY_CHANGES, "alias", "value", "drop", "again", "nest")


def changed(arguments, key, position, change, n, rng):
    """What takes the place of argument `key` after one change."""
    value = arguments[key]
    if isinstance(value, (list, tuple)) and value and change not in ("value", "nest"):
        items = list(value)
        at = position % len(items)
        if change == "drop":
            del items[at]
        elif change == "again":
            items.insert(at, items[at])
        else:
            items[at] = changed({**arguments, key: items[at]}, key, position // 7, change, n, rng)
        return type(value)(items)
    if change == "nest":
        return [[value], (value,), {"a": value}, iter([value]), range(3)][n % 5]
    if change == "alias":
        others = [v for v in flat(list(arguments.values())) if v.ndim and v.flags.c_contiguous]
        if others and isinstance(value, np.ndarray):
            return overlapping(value, others[n % len(others)], n // len(others))
    if change in ARRAY_CHANGES and isinstance(value, np.ndarray):
        return ARRAY_CHANGES[change](value, n, rng)
    return VALUES[n % len(VALUES)]


def overlapping(like, other, n):
    """An array of the shape of `like` in the memory of `other`, if it fits there."""
    raw = other.reshape(-1).view(np.uint8)
    step = (0, 1, 4, 8, 64)[n % 5]
    part = raw[step : step + like.nbytes]
    if part.nbytes != like.nbytes or like.size == 0:
        return other
    return part.view(like.dtype).reshape(like.shape)


def flat(value):
    """The arrays in nested lists, tuples and dicts."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [a for item in value for a in flat(item)]
    return []


def contents(array):
    return None if array.dtype.hasobject else array.tobytes()


def shares(a, b):
    """Whether two arrays may have a byte in common."""
    return np.may_share_memory(a, b)


SAMPLES = {name: [c for c in calls() if c.name == name] for name in KERNELS}
kernels = None


def prepare(name):
    global kernels
    kernels = backends.load(name)


def run(case):
    name, seed, sizes, changes = case
    rng = np.random.default_rng(seed)
    sample = SAMPLES[name][seed % len(SAMPLES[name])]
    arguments = {key: resized(v, dict(sizes), rng) for key, v in sample.arguments.items()}
    memory = []

    def place(value):
        if isinstance(value, list):
            return [place(item) for item in value]
        if isinstance(value, np.ndarray):
            value, raw = guarded(value)
            memory.append(raw)
        return value

    arguments = {key: place(value) for key, value in arguments.items()}
    keys = list(arguments)
    for which, position, change, n in changes:
        key = keys[which % len(keys)]
        with contextlib.suppress(TypeError, ValueError, AttributeError, MemoryError):
            # else NumPy has no such array
            arguments[key] = changed(arguments, key, position, change, n, rng)
    written = [a for key in sample.written() for a in flat(arguments[key])]
    arrays = [a for a in flat(list(arguments.values())) if a.nbytes <= 8 * MOST]
    inputs = [a for a in arrays if not any(shares(a, w) for w in written)]
    before = [(a, contents(a)) for a in arrays]
    try:
        getattr(kernels, name)(*arguments.values())
    except CLEAN as error:
        if any(contents(a) != old for a, old in before):
            return f"wrong: an array was changed before {error!r}"
        answer = f"{type(error).__name__}: {error}" if str(error) else "wrong: no message"
    else:
        kept = {id(a) for a in inputs}
        if any(contents(a) != old for a, old in before if id(a) in kept):
            return "wrong: an input was changed"
        answer = "ok"
    for raw in memory:
        if (raw[:GUARD] != 0xA5).any() or (raw[len(raw) - GUARD :] != 0xA5).any():
            return "wrong: memory outside an array was changed"
    return answer
