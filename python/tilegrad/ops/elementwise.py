"""Arithmetic with broadcasting, reductions, movement (reshape, slice and the like), dropout."""

from __future__ import annotations

import builtins
import functools
import math
import operator

import numpy as np

from ..autograd import Op, apply
from ..backend import BINARY, UNARY
from ..tensor import Tensor, array_index
from ._common import check_dtypes, tensors, whole

MAX_NDIM = 8

# -- arithmetic ------------------------------------------------------------------------------------


class BinaryOp(Op):
    """y = a op b with NumPy broadcasting; gradients are summed back over the repeated axes."""

    def __init__(self, name: str):
        self.name = name
        self.kind = BINARY[name]
        self.linear = name in ("add", "subtract")
        self.reads = () if self.linear else (0, 1)

    def forward(self, k, a, b):
        check_dtypes(self.name, a, b)
        if a.shape == b.shape:
            shape = a.shape
        else:
            try:
                shape = np.broadcast_shapes(a.shape, b.shape)
            except ValueError:
                raise ValueError(
                    f"{self.name}: shapes {a.shape} and {b.shape} do not broadcast"
                ) from None
        check_ndim(self.name, len(shape))
        y = k.empty(shape, a.dtype)
        k.binary_forward(y, a, b, self.kind)
        self.saved = (a.shape, b.shape) if self.linear else (a, b)
        return y

    def backward(self, k, dy):
        a, b = self.saved
        da = db = None
        if self.linear:
            if self.needs[0]:
                da = sum_to(k, dy, a)
            if self.needs[1]:
                db = sum_to(k, dy, b, -1.0 if self.kind == BINARY["subtract"] else 1.0)
            return da, db
        if self.needs[0]:
            da = k.empty_like(dy)
            k.binary_backward_da(da, dy, a, b, self.kind)
            da = sum_to(k, da, a.shape)
        if self.needs[1]:
            db = k.empty_like(dy)
            k.binary_backward_db(db, dy, a, b, self.kind)
            db = sum_to(k, db, b.shape)
        return da, db


def sum_to(k, g, shape, scale: float = 1.0):
    """scale g, summed over the axes along which an array of `shape` was repeated to g's shape."""
    if scale == 1.0 and g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    repeated = [i for i in range(g.ndim) if i < lead or (shape[i - lead] == 1 and g.shape[i] != 1)]
    while repeated:
        last = repeated.pop()
        first = last
        while repeated and repeated[-1] == first - 1:  # neighbouring axes are one reduction
            first = repeated.pop()
        outer, r, inner = _split(g.shape, first, last + 1)
        total = k.empty((outer, inner), g.dtype)
        k.reduce_sum_forward(total, g.reshape(outer, r, inner), scale)
        scale = 1.0
        g = total.reshape((*g.shape[:first], *[1] * (last + 1 - first), *g.shape[last + 1 :]))
    if scale != 1.0:
        out = k.empty_like(g)
        k.unary_forward(out, g, UNARY["negative"])
        g = out
    return g.reshape(shape)


def _split(shape, first: int, last: int) -> tuple[int, int, int]:
    return math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:])


def check_ndim(name: str, ndim: int) -> None:
    if ndim > MAX_NDIM:
        raise ValueError(f"{name}: expected at most {MAX_NDIM} axes, got {ndim}")


def add(a, b):
    """a + b with NumPy broadcasting; da = dy, db = dy, summed over repeated axes.

    >>> import tilegrad
    >>> tilegrad.ops.add([1.0, 2.0], 3).numpy().tolist()
    [4.0, 5.0]
    """
    return apply(BinaryOp("add"), *tensors(a, b))


def subtract(a, b):
    """a - b with NumPy broadcasting; da = dy, db = -dy, summed over repeated axes."""
    return apply(BinaryOp("subtract"), *tensors(a, b))


def multiply(a, b):
    """a b with NumPy broadcasting; da = dy b, db = dy a, summed over repeated axes."""
    return apply(BinaryOp("multiply"), *tensors(a, b))


def divide(a, b):
    """a / b with NumPy broadcasting; da = dy / b, db = -dy a / b^2, summed over repeated axes."""
    return apply(BinaryOp("divide"), *tensors(a, b))


def power(a, b):
    """a^b with NumPy broadcasting; da = dy b a^(b - 1), db = dy a^b log a (0 where a is 0)."""
    return apply(BinaryOp("power"), *tensors(a, b))


def maximum(a, b):
    """The larger of a and b, NaN wins; where they tie each gets half of dy."""
    return apply(BinaryOp("maximum"), *tensors(a, b))


def minimum(a, b):
    """The smaller of a and b, NaN wins; where they tie each gets half of dy."""
    return apply(BinaryOp("minimum"), *tensors(a, b))


class UnaryOp(Op):
    """y = f(x), dx = dy f'(x)."""

    reads = (0,)

    def __init__(self, name: str):
        self.kind = UNARY[name]

    def forward(self, k, x):
        y = k.empty_like(x)
        k.unary_forward(y, x, self.kind)
        self.saved = (x,)
        return y

    def backward(self, k, dy):
        (x,) = self.saved
        dx = k.empty_like(x)
        k.unary_backward_dx(dx, dy, x, self.kind)
        return (dx,)


def negative(x):
    """-x."""
    return apply(UnaryOp("negative"), *tensors(x))


def exp(x):
    """e^x; dx = dy e^x.

    >>> import tilegrad
    >>> tilegrad.ops.exp([0.0]).numpy().tolist()
    [1.0]
    """
    return apply(UnaryOp("exp"), *tensors(x))


def log(x):
    """Natural logarithm, NaN below 0; dx = dy / x."""
    return apply(UnaryOp("log"), *tensors(x))


def sqrt(x):
    """Square root, NaN below 0; dx = dy / (2 sqrt(x))."""
    return apply(UnaryOp("sqrt"), *tensors(x))


def absolute(x):
    """|x|; dx = dy sign(x), 0 at 0."""
    return apply(UnaryOp("absolute"), *tensors(x))


def square(x):
    """x^2; dx = 2 dy x."""
    return apply(UnaryOp("square"), *tensors(x))


class Clip(Op):
    reads = (0,)

    def __init__(self, low: float, high: float):
        self.low = float(low)
        self.high = float(high)
        if not self.low <= self.high:
            raise ValueError(f"clip: expected low <= high, got {low} and {high}")

    def forward(self, k, x):
        y = k.empty_like(x)
        k.clip_forward(y, x, self.low, self.high)
        self.saved = (x,)
        return y

    def backward(self, k, dy):
        (x,) = self.saved
        dx = k.empty_like(x)
        k.clip_backward_dx(dx, dy, x, self.low, self.high)
        return (dx,)


def clip(x, low: float, high: float):
    """x limited to [low, high]; dx = dy inside and on the limits, 0 outside.

    >>> import tilegrad
    >>> tilegrad.ops.clip([-1.0, 0.5, 3.0], 0, 1).numpy().tolist()
    [0.0, 0.5, 1.0]
    """
    return apply(Clip(low, high), *tensors(x))


# -- reductions ------------------------------------------------------------------------------------


class Reduce(Op):
    """Sum, mean or max over axes that are neighbours: x seen as (outer, r, inner)."""

    def __init__(self, kind: str, first: int, last: int):
        self.kind = kind
        self.first = first
        self.last = last
        self.reads, self.reads_output = ((0,), True) if kind == "max" else ((), False)

    def forward(self, k, x):
        shape = x.shape
        outer, r, inner = self.view = _split(shape, self.first, self.last)
        y = k.empty((outer, inner), x.dtype)
        x3 = x.reshape(self.view)
        if self.kind == "max":
            if r == 0:
                raise ValueError(f"max: expected at least one element to reduce, got shape {shape}")
            k.reduce_max_forward(y, x3)
            self.saved = shape, x3, y
        else:
            self.scale = 1.0 / r if self.kind == "mean" and r else 1.0
            k.reduce_sum_forward(y, x3, self.scale)
            if self.kind == "mean" and r == 0:
                y.fill(math.nan)
            self.saved = (shape,)
        return y.reshape(shape[: self.first] + shape[self.last :])

    def backward(self, k, dy):
        dx = k.empty(self.view, dy.dtype)
        dy = dy.reshape(self.view[0], self.view[2])
        if self.kind == "max":
            k.reduce_max_backward_dx(dx, dy, *self.saved[1:])
        else:
            k.reduce_sum_backward_dx(dx, dy, self.scale)
        return (dx.reshape(self.saved[0]),)


def _axes(name: str, axis, ndim: int) -> tuple[int, ...]:
    """`axis` (None, an integer or several) as sorted, distinct, non-negative axes."""
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = []
    for a in given:
        a = operator.index(a)
        if not -ndim <= a < ndim:
            raise ValueError(f"{name}: expected an axis from {-ndim} to {ndim - 1}, got {a}")
        axes.append(a % ndim)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: expected distinct axes, got {axis}")
    return tuple(sorted(axes))


def _reduce(kind: str, x, axis, keepdims: bool):
    (x,) = tensors(x)
    shape = x.data.shape
    ndim = len(shape)
    axes = _axes(kind, axis, ndim)
    first, last = (axes[0], axes[-1] + 1) if axes else (ndim, ndim)
    if last - first != len(axes):  # not neighbours: then they go last
        first, last = ndim - len(axes), ndim
        x = transpose(x, (*[i for i in range(ndim) if i not in axes], *axes))
    y = apply(Reduce(kind, first, last), x)
    if not keepdims:
        return y
    return reshape(y, tuple([1 if i in axes else n for i, n in enumerate(shape)]))


def sum(x, axis=None, keepdims: bool = False):
    """The sum over `axis` (None: all); dx repeats dy.

    >>> import tilegrad
    >>> tilegrad.ops.sum([[1.0, 2.0], [3.0, 4.0]], axis=0).numpy().tolist()
    [4.0, 6.0]
    """
    return _reduce("sum", x, axis, keepdims)


def mean(x, axis=None, keepdims: bool = False):
    """The mean over `axis` (None: all), NaN over nothing; dx repeats dy / count."""
    return _reduce("mean", x, axis, keepdims)


def max(x, axis=None, keepdims: bool = False):
    """The maximum over `axis` (None: all), NaN wins; equal maxima share dy evenly."""
    return _reduce("max", x, axis, keepdims)


def min(x, axis=None, keepdims: bool = False):
    """The minimum over `axis` (None: all), NaN wins; equal minima share dy evenly."""
    return negative(_reduce("max", negative(x), axis, keepdims))


# -- movement --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _strides(shape) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


class Reshape(Op):
    def __init__(self, shape):
        self.shape = shape

    def forward(self, k, x):
        self.saved = (x.shape,)
        return x.reshape(self.shape)

    def backward(self, k, dy):
        return (dy.reshape(self.saved[0]),)


def reshape(x, shape):
    """The same elements in another shape, without a copy; one size may be -1.

    >>> import tilegrad
    >>> tilegrad.ops.reshape([1.0, 2.0, 3.0, 4.0], (2, -1)).shape
    (2, 2)
    """
    (x,) = tensors(x)
    given = shape if isinstance(shape, (tuple, list)) else (shape,)
    sizes = [operator.index(s) for s in given]
    if sizes.count(-1) == 1:
        known = math.prod(s for s in sizes if s != -1)
        if known and x.size % known == 0:
            sizes[sizes.index(-1)] = x.size // known
    if builtins.min(sizes, default=0) < 0 or math.prod(sizes) != x.size:
        raise ValueError(
            f"reshape: {x.shape} has {x.size} elements and does not fit {tuple(given)}"
        )
    check_ndim("reshape", len(sizes))
    out = apply(Reshape(tuple(sizes)), x)
    out._version = x._version  # it is the same memory
    return out


def expand_dims(x, axis: int):
    """x with a new axis of size 1 at `axis`."""
    (x,) = tensors(x)
    (axis,) = _axes("expand_dims", axis, x.ndim + 1)
    return reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))


def squeeze(x, axis=None):
    """x without its axes of size 1: all of them, or those named."""
    (x,) = tensors(x)
    if axis is None:
        axes = [i for i, n in enumerate(x.shape) if n == 1]
    else:
        axes = _axes("squeeze", axis, x.ndim)
        if any(x.shape[i] != 1 for i in axes):
            raise ValueError(f"squeeze: expected size 1 along axis {axis}, got shape {x.shape}")
    return reshape(x, tuple([n for i, n in enumerate(x.shape) if i not in axes]))


class Transpose(Op):
    def __init__(self, axes):
        self.axes = axes

    def forward(self, k, x):
        return self._move(k, x, self.axes)

    def backward(self, k, dy):
        return (self._move(k, dy, _inverse(self.axes)),)

    @staticmethod
    def _move(k, x, axes):
        shape, strides = _permuted(x.shape, axes)
        y = k.empty(shape, x.dtype)
        k.strided_copy(y, x, shape, 0, _strides(shape), 0, strides)
        return y


@functools.lru_cache(maxsize=1024)
def _permuted(shape, axes):
    """(sizes, strides) of an array of `shape`, both in the order `axes`."""
    strides = _strides(shape)
    return tuple([shape[a] for a in axes]), tuple([strides[a] for a in axes])


@functools.lru_cache(maxsize=1024)
def _inverse(axes):
    """The order that undoes the order `axes`."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def transpose(x, axes=None):
    """x with its axes in the order `axes` (None: reversed), copied.

    >>> import tilegrad
    >>> tilegrad.ops.transpose([[1.0, 2.0], [3.0, 4.0]]).numpy().tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    (x,) = tensors(x)
    ndim = x.data.ndim
    if axes is None:
        return apply(Transpose(tuple(range(ndim)[::-1])), x)
    order = [operator.index(a) for a in axes]
    if sorted([a % ndim if -ndim <= a < ndim else -1 for a in order]) != list(range(ndim)):
        raise ValueError(f"transpose: expected a permutation of {ndim} axes, got {tuple(order)}")
    return apply(Transpose(tuple([a % ndim for a in order])), x)


class BroadcastTo(Op):
    def __init__(self, shape):
        self.shape = shape

    def forward(self, k, x):
        lead = len(self.shape) - x.ndim
        strides = _strides(x.shape)
        steps = [
            0 if i < lead or x.shape[i - lead] == 1 else strides[i - lead]
            for i in range(len(self.shape))
        ]
        y = k.empty(self.shape, x.dtype)
        k.strided_copy(y, x, self.shape, 0, _strides(self.shape), 0, tuple(steps))
        self.saved = (x.shape,)
        return y

    def backward(self, k, dy):
        return (sum_to(k, dy, self.saved[0]),)


def broadcast_to(x, shape):
    """x repeated to `shape` by NumPy's rules; dx sums dy over the repeated axes."""
    (x,) = tensors(x)
    shape = tuple([whole("broadcast_to", "sizes", s, 0) for s in shape])
    lead = len(shape) - x.ndim
    if lead < 0 or any(n not in (1, shape[lead + i]) for i, n in enumerate(x.shape)):
        raise ValueError(f"broadcast_to: {x.shape} cannot be repeated to {shape}")
    check_ndim("broadcast_to", len(shape))
    return apply(BroadcastTo(shape), x)


class GetItem(Op):
    """A strided part of x; backward puts dy there and zero elsewhere."""

    def __init__(self, size, offset, strides, shape):
        self.size = size
        self.offset = offset
        self.strides = strides
        self.shape = shape

    def forward(self, k, x):
        y = k.empty(self.size, x.dtype)
        k.strided_copy(y, x, self.size, 0, _strides(self.size), self.offset, self.strides)
        self.saved = (x.shape,)
        return y.reshape(self.shape)

    def backward(self, k, dy):
        dx = k.zeros(self.saved[0], dy.dtype)
        k.strided_copy(dx, dy, self.size, self.offset, self.strides, 0, _strides(self.size))
        return (dx,)


def getitem(x, index):
    """x[index] for integers, slices, None and Ellipsis, copied.

    Integer tensors (labels) take any NumPy index and have no gradient.

    >>> import tilegrad
    >>> tilegrad.Tensor([[1.0, 2.0], [3.0, 4.0]])[:, 0].numpy().tolist()
    [1.0, 3.0]
    """
    if isinstance(x, Tensor) and x.data.dtype.kind != "f":
        return Tensor(x.data[array_index(index, x.device)], device=x.device)
    (x,) = tensors(x)
    items = list(index) if isinstance(index, tuple) else [index]
    for item in items:
        if not (
            item is None or item is Ellipsis or isinstance(item, (int, np.integer, slice))
        ) or isinstance(item, bool):
            raise TypeError(
                f"index: expected integers, slices, None or Ellipsis, got {type(item).__name__}"
            )
    taken = builtins.sum(i is not None and i is not Ellipsis for i in items)
    if taken > x.ndim or items.count(Ellipsis) > 1:
        raise IndexError(f"index {index!r} does not fit shape {x.shape}")
    if Ellipsis not in items:
        items.append(Ellipsis)
    at = items.index(Ellipsis)
    items[at : at + 1] = [slice(None)] * (x.ndim - taken)
    full = _strides(x.shape)
    size, strides, shape = [], [], []
    offset = axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        n, step = x.shape[axis], full[axis]
        if isinstance(item, slice):
            start, stop, stride = item.indices(n)
            count = len(range(start, stop, stride))
            offset += start * step if count else 0
            shape.append(count)
        else:
            if not -n <= item < n:
                raise IndexError(f"index {item} is out of range for axis {axis} of size {n}")
            count, stride = 1, 1
            offset += int(item) % n * step
        size.append(count)
        strides.append(stride * step)
        axis += 1
    check_ndim("index", len(shape))
    if 0 in size:
        offset = 0
    return apply(GetItem(tuple(size), offset, tuple(strides), tuple(shape)), x)


class Concatenate(Op):
    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, k, *xs):
        axis = self.axis
        y = k.empty(
            (
                *xs[0].shape[:axis],
                builtins.sum(x.shape[axis] for x in xs),
                *xs[0].shape[axis + 1 :],
            ),
            xs[0].dtype,
        )
        self.saved = [x.shape for x in xs], _strides(y.shape)
        for x, offset in zip(xs, self._offsets(), strict=True):
            k.strided_copy(y, x, x.shape, offset, self.saved[1], 0, _strides(x.shape))
        return y

    def _offsets(self):
        shapes, strides = self.saved
        offset = 0
        for shape in shapes:
            yield offset
            offset += shape[self.axis] * strides[self.axis]

    def backward(self, k, dy):
        shapes, strides = self.saved
        grads = []
        for shape, offset, need in zip(shapes, self._offsets(), self.needs, strict=True):
            dx = k.empty(shape, dy.dtype) if need else None
            if need:
                k.strided_copy(dx, dy, shape, 0, _strides(shape), offset, strides)
            grads.append(dx)
        return grads


def concatenate(xs, axis: int = 0):
    """The tensors one after the other along `axis`; their other axes agree.

    >>> import tilegrad
    >>> tilegrad.ops.concatenate([[1.0], [2.0, 3.0]]).numpy().tolist()
    [1.0, 2.0, 3.0]
    """
    xs = tensors(*xs)
    if not xs or xs[0].ndim == 0:
        raise ValueError("concatenate: expected at least one tensor with at least one axis")
    (axis,) = _axes("concatenate", axis, xs[0].ndim)
    check_ndim("concatenate", xs[0].ndim)
    rest = [(*x.shape[:axis], *x.shape[axis + 1 :]) for x in xs]
    if any(x.ndim != xs[0].ndim or r != rest[0] for x, r in zip(xs, rest, strict=True)):
        found = ", ".join(str(x.shape) for x in xs)
        raise ValueError(
            f"concatenate: expected shapes that differ only along axis {axis}, got {found}"
        )
    check_dtypes("concatenate", *xs)
    return apply(Concatenate(axis), *xs)


def stack(xs, axis: int = 0):
    """The tensors, all of one shape, along a new axis."""
    xs = tensors(*xs)
    if any(x.shape != xs[0].shape for x in xs):
        raise ValueError(f"stack: expected equal shapes, got {', '.join(str(x.shape) for x in xs)}")
    return concatenate([expand_dims(x, axis) for x in xs], axis)


# -- dropout ---------------------------------------------------------------------------------------


class Dropout(Op):
    """The mask is a pure function of the seed and the position, so backward makes it again."""

    def __init__(self, rate: float, seed):
        self.rate = rate
        self.seed = seed

    def forward(self, k, x):
        y = k.empty_like(x)
        k.dropout_forward(y, x, self.rate, self.seed)
        return y

    def backward(self, k, dy):
        dx = k.empty_like(dy)
        k.dropout_backward_dx(dx, dy, self.rate, self.seed)
        return (dx,)


def dropout(x, rate: float, seed: int):
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate).

    Args:
        x: tensor of any shape.
        rate: 0 <= rate < 1.
        seed: 0 <= seed < 2^64; the same seed gives the same mask, on every backend.

    Returns:
        y of x's shape; dx has the same mask and scale. Source of randomness: Philox4x32-10
        (Salmon et al., SC 2011).

    >>> import tilegrad
    >>> tilegrad.ops.dropout([1.0, 1.0], 0.0, seed=1).numpy().tolist()
    [1.0, 1.0]
    """
    rate = float(rate)
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: expected 0 <= rate < 1, got {rate}")
    if not isinstance(seed, np.ndarray):  # an array is read when a captured step is replayed
        seed = operator.index(seed)
        if not 0 <= seed < 2**64:
            raise ValueError(f"dropout: expected 0 <= seed < 2**64, got {seed}")
    return apply(Dropout(rate, seed), *tensors(x))
