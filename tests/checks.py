"""What every kernel test stands on: tolerances, poisoned outputs, guarded inputs."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap

import numpy as np

from tilegrad import reference

ODD = (1, 3, 7, 17, 31, 127, 129)

EPS = {np.dtype(np.float32): 2.0**-23, np.dtype(np.float64): 2.0**-52}

# The one table of tolerances, in units of eps(dtype) sqrt(reduction length) magnitude.
UNITS = {
    "exact": 0.0,  # copies, masks, maxima
    "sum": 2.0,  # sums and products, each rounded once
    "function": 8.0,  # exp, tanh, erf and what is made of them
}
GUARD = 64  # elements before and after every array that a kernel sees


def tolerance(dtype, length=1, magnitude=1.0, kind="sum"):
    """The largest error allowed: units eps(dtype) sqrt(length) magnitude.

    `magnitude` is what rounding errors are relative to: for a sum, the sum of its terms' absolute
    values. It counts as the smallest normal number at least, so that subnormals may be ulps off.
    """
    dtype = np.dtype(dtype)
    size = np.maximum(np.abs(magnitude), np.finfo(dtype).tiny)
    return UNITS[kind] * EPS[dtype] * np.sqrt(max(length, 1)) * size


def assert_close(actual, expected, length=1, magnitude=None, kind="sum", dtype=np.float32, what=""):
    """Fails unless every element of `actual` is within tolerance of the float64 array `expected`.

    NaN must meet NaN and infinity the same infinity; shape and dtype must be as expected.
    """
    assert isinstance(actual, np.ndarray), f"{what}: expected an array, got {type(actual)}"
    assert actual.dtype == dtype, f"{what}: expected dtype {np.dtype(dtype)}, got {actual.dtype}"
    assert actual.shape == expected.shape, f"{what}: expected {expected.shape}, got {actual.shape}"
    value = actual.astype(np.float64)
    expected = expected.astype(np.float64)
    magnitude = np.abs(expected) if magnitude is None else np.asarray(magnitude, np.float64)
    with np.errstate(all="ignore"):
        expected = np.where(
            np.abs(expected) > np.finfo(dtype).max, np.sign(expected) * np.inf, expected
        )
        allowed = tolerance(dtype, length, magnitude, kind)
        same = (value == expected) | (np.isnan(value) & np.isnan(expected))
        error = np.abs(value - expected)
        good = same | (np.isfinite(value) & np.isfinite(expected) & (error <= allowed))
    if good.all():
        return
    worst = np.unravel_index(
        np.argmax(np.where(good, -1, np.where(np.isnan(error), np.inf, error))), good.shape
    )
    at = tuple(int(i) for i in worst)
    allowed = np.broadcast_to(allowed, good.shape)
    raise AssertionError(
        f"{what}: {np.count_nonzero(~good)} of {good.size} elements differ; the worst, at {at}: "
        f"expected {expected[worst]!r}, got {value[worst]!r}, allowed error {allowed[worst]:.3g}"
    )


def guarded(array, shift=1):
    """A contiguous copy with NaN (integers: 0x5a) before and after it.

    A kernel that reads past its input then computes nonsense; one that writes past its output is
    found by `assert_guards`. The copy starts `shift` elements behind a multiple of 16 bytes.
    """
    array = np.asarray(array)
    buffer = _poisoned(array.size + 2 * GUARD + 1, array.dtype)
    view = buffer[GUARD + shift : GUARD + shift + array.size].reshape(array.shape)
    view[...] = array
    return view


def poison(shape, dtype=np.float32, shift=1):
    """An output that nobody wrote yet: NaN (integers: 0x5a), guarded."""
    return guarded(_poisoned(shape, dtype), shift)


def _poisoned(shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.full(shape, np.nan, dtype)
    return (
        np.frombuffer(b"\x5a" * (int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape).copy()
    )


def assert_guards(view, what=""):
    """Fails if somebody wrote before or after an array made by `guarded` or `poison`."""
    buffer = view
    while buffer.base is not None:
        buffer = buffer.base
    expected = _poisoned(buffer.size - view.size, buffer.dtype)
    start = (view.ctypes.data - buffer.ctypes.data) // buffer.itemsize
    around = np.concatenate([buffer[:start], buffer[start + view.size :]])
    assert around.tobytes() == expected.tobytes(), (
        f"{what}: memory outside the array was overwritten"
    )


@contextlib.contextmanager
def unchanged(*arrays):
    """Fails if the block changes a bit of any array, also in lists; ignores what is no array."""
    arrays = [a for a in _flatten(arrays) if isinstance(a, np.ndarray)]
    before = [a.tobytes() for a in arrays]
    yield
    for i, (array, old) in enumerate(zip(arrays, before, strict=True)):
        assert array.tobytes() == old, f"input array {i} of shape {array.shape} was changed"


def fenced(array, before=False):
    """A copy of `array` that ends where memory does: touching the next byte kills the process.

    With `before`, it starts there instead. Linux and macOS only.
    """
    page = mmap.PAGESIZE
    room = -(-max(array.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, room + 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for fence in (address, address + page + room):
        if libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    start = page if before else page + room - array.nbytes
    view = np.frombuffer(memory, np.uint8)[start : start + array.nbytes].view(array.dtype)
    view = view.reshape(array.shape)
    view[...] = array
    return view


def _flatten(items):
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flatten(item)
        else:
            yield item


def map_arrays(fn, value):
    """`value` with `fn` applied to each array in it, also inside lists and tuples."""
    if isinstance(value, (list, tuple)):
        return type(value)(map_arrays(fn, v) for v in value)
    return fn(value) if isinstance(value, np.ndarray) else value


def widened(value):
    """float32 arrays as float64, exactly; everything else as it is."""
    return map_arrays(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, value)


def absolute(value):
    """The absolute values of all floating-point arrays."""
    return map_arrays(lambda a: np.abs(a) if a.dtype.kind == "f" else a, value)


def _pairs(shapes, dtype):
    """(shape, dtype) of outputs that are given as a shape or as such a pair."""
    return [s if s and isinstance(s[0], tuple) else (s, dtype) for s in shapes]


def run(k, name, shapes, *args):
    """Call kernel `name` of backend `k` and return its outputs, of the shapes given.

    Outputs are poisoned, inputs guarded and verified unchanged, and so is the memory around both.
    An output that is not float32 is given as (shape, dtype). Where outputs have an even number of
    elements, all arrays start at a multiple of 16 bytes, which some kernels have a faster way for;
    else none does.
    """
    pairs = _pairs(shapes, np.float32)
    shift = sum(math.prod(shape) for shape, _ in pairs) % 2
    outputs = [poison(*pair, shift) for pair in pairs]
    args = [map_arrays(lambda each: guarded(each, shift), a) for a in args]
    with unchanged(*args), np.errstate(all="ignore"):
        getattr(k, name)(*outputs, *args)
    for array in outputs:
        assert_guards(array, f"{name} of {getattr(k, 'name', k)}")
    return outputs


def expected(name, shapes, *args):
    """The outputs of the reference kernel `name` in float64, for the same float32 inputs."""
    outputs = [poison(*pair) for pair in _pairs(shapes, np.float64)]
    with np.errstate(all="ignore"):
        getattr(reference, name)(*outputs, *(widened(a) for a in args))
    return outputs


def magnitudes(name, shapes, *args):
    """The sums of absolute values behind the outputs of a (multi-)linear kernel."""
    return expected(name, shapes, *(absolute(a) for a in args))


def check(k, name, shapes, *args, length=1, magnitude=None, kind="sum"):
    """Compare kernel `name` of backend `k` with the float64 reference; returns k's outputs.

    `magnitude` is one array per output, one for all, or None for the outputs' own size.
    """
    actual = run(k, name, shapes, *args)
    right = expected(name, shapes, *args)
    if not isinstance(magnitude, list):
        magnitude = [magnitude] * len(right)
    for i, (a, e, m) in enumerate(zip(actual, right, magnitude, strict=True)):
        if a.dtype.kind == "f":
            assert_close(a, e, length, m, kind, a.dtype, f"{name}[{i}]")
        else:
            np.testing.assert_array_equal(a, e, f"{name}[{i}]")
    return actual


def check_linear(k, name, shapes, *args, length=1):
    """`check` for kernels that are sums of products of their inputs."""
    return check(k, name, shapes, *args, length=length, magnitude=magnitudes(name, shapes, *args))


def directional_check(loss, x, gradient, rng, length=1, steps=1e-6):
    """Check `gradient`, d loss / dx at x, against a central difference along a random direction.

    `loss` maps a float64 array to a float by the float64 reference; `gradient` is float32.
    """
    x = x.astype(np.float64)
    direction = rng.standard_normal(x.shape)
    difference = (loss(x + steps * direction) - loss(x - steps * direction)) / (2 * steps)
    slope = float((gradient.astype(np.float64) * direction).sum())
    scale = float((np.abs(gradient.astype(np.float64)) * np.abs(direction)).sum())
    # the difference itself: truncation (steps^2) and cancellation (eps64 |loss| / steps)
    noise = 1e-7 * (scale + abs(difference)) + 4 * EPS[np.dtype(np.float64)] * abs(loss(x)) / steps
    allowed = tolerance(np.float32, length, scale, "function") + noise
    assert abs(slope - difference) <= allowed, (
        f"directional derivative: expected {difference}, got {slope}, allowed error {allowed:.3g}"
    )


def normal(rng, *shape):
    """Standard normal float32 numbers."""
    return rng.standard_normal(shape).astype(np.float32)


def f32(value):
    """The number that a float32 argument becomes, so that the reference computes with the same."""
    return float(np.float32(value))


def output_length(size, window, stride, pad_before, pad_after, dilation=1):
    """How many outputs a convolution or pooling has along one axis; 0 or less if it has none."""
    return (size + pad_before + pad_after - (window - 1) * dilation - 1) // stride + 1
