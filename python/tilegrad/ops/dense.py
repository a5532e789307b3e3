"""The dense layer and matrix products."""

from __future__ import annotations

import functools
import math

import numpy as np

from ..autograd import Op, apply
from ._common import as_rows, check_dtypes, tensors
from .activation import resolve
from .elementwise import broadcast_to, check_ndim, sum_to


class Dense(Op):
    """y = act(x w + b) on rows; backward first turns dy into the gradient before the activation."""

    reads = (0, 1)
    reads_output = True

    def __init__(self, activation: int, alpha: float):
        self.activation = activation
        self.alpha = alpha

    def forward(self, k, x, w, b):
        if w.ndim != 2:
            raise ValueError(f"dense: expected w of shape (c, f), got {w.shape}")
        c, f = w.shape
        x_shape = x.shape
        if x_shape[-1:] != (c,):
            raise ValueError(
                f"dense: expected x of shape (..., {c}) for w {w.shape}, got {x_shape}"
            )
        if b is not None and b.shape != (f,):
            raise ValueError(f"dense: expected b of shape ({f},), got {b.shape}")
        check_dtypes("dense", x, w, b)
        rows = as_rows(x)
        y = k.empty((len(rows), f), x.dtype)
        k.dense_forward(y, rows, w, b, self.activation, self.alpha)
        y_saved = y if self.activation else None
        if rows is x:
            self.saved = x, w, b, y_saved, None
            return y
        self.saved = rows, w, b, y_saved, x_shape
        return y.reshape(*x_shape[:-1], f)

    def backward(self, k, dy):
        x, w, b, y, x_shape = self.saved  # x and y as rows; x_shape is None where x came so
        needs_dx, needs_dw, needs_db = self.needs
        if x_shape is not None:
            dy = as_rows(dy)
        dz, db = before_activation(k, dy, y, b if needs_db else None, self.activation, self.alpha)
        dx = dw = None
        if needs_dx:
            dx = k.empty_like(x)
            k.dense_backward_dx(dx, dz, w)
            if x_shape is not None:
                dx = dx.reshape(x_shape)
        if needs_dw:
            dw = k.empty_like(w)
            k.dense_backward_dw(dw, x, dz)
        return dx, dw, db


def before_activation(k, dy, y, b, activation: int, alpha: float):
    """(dz, db) of y = act(z + b): dz is dy where there is no activation, db None where b is.

    Of any shape (..., f); both in one pass where both are wanted.
    """
    db = None if b is None else k.empty_like(b)
    if not activation:
        if b is not None:
            k.bias_backward_db(db, dy)
        return dy, db
    dz = k.empty_like(dy)
    if b is None:
        k.activation_backward_dx(dz, dy, y, activation, alpha)
    else:
        k.bias_activation_backward_dz(dz, db, dy, y, activation, alpha)
    return dz, db


def dense(x, w, b=None, activation: str | None = None, alpha: float | None = None):
    """The dense layer, act(x w + b), in one kernel.

    Notation: c channels in, f channels out. Forward: y = act(x w + b).
    Backward, with dz = dy act'(y): dx = dz w^T, dw = x^T dz, db = the sum of dz's rows.

    Args:
        x: (..., c).
        w: (c, f).
        b: (f,) or None.
        activation: None, "relu", "leaky_relu", "sigmoid", "tanh" or "elu".
        alpha: slope of leaky_relu (default 0.2), scale of elu (default 1).

    Returns:
        y of shape (..., f).

    Raises:
        ValueError: shapes that do not fit, an unknown activation.

    >>> import tilegrad
    >>> tilegrad.ops.dense([[1.0, 2.0]], [[1.0], [1.0]], [0.5]).numpy().tolist()
    [[3.5]]
    """
    return apply(Dense(*resolve("dense", activation, alpha)), *tensors(x, w, b))


class Matmul(Op):
    """y = a b for two matrices."""

    reads = (0, 1)

    def forward(self, k, a, b):
        y = k.empty((len(a), b.shape[1]), a.dtype)
        k.matmul_forward(y, a, b)
        self.saved = a, b
        return y

    def backward(self, k, dy):
        a, b = self.saved
        da = db = None
        if self.needs[0]:
            da = k.empty_like(a)
            k.matmul_backward_da(da, dy, b)
        if self.needs[1]:
            db = k.empty_like(b)
            k.matmul_backward_db(db, a, dy)
        return da, db


class BatchMatmul(Op):
    """y[i] = a[i] b[i] for the matrices of a batch; an operand with one serves all.

    Args:
        views: the shapes of a, b and y as the kernels see them: (matrices, rows, columns).
        shape: that of y for the caller.
    """

    reads = (0, 1)

    def __init__(self, views, shape):
        self.views = views
        self.shape = shape

    def forward(self, k, a, b):
        a_view, b_view, y_view = self.views
        a_shape, b_shape = a.shape, b.shape
        a, b = a.reshape(a_view), b.reshape(b_view)
        y = k.empty(y_view, a.dtype)
        k.matmul_forward(y, a, b)
        self.saved = a, b, a_shape, b_shape
        return y.reshape(self.shape)

    def backward(self, k, dy):
        a, b, a_shape, b_shape = self.saved
        a_view, b_view, y_view = self.views
        dy = dy.reshape(y_view)
        da = db = None
        if self.needs[0]:
            da = k.empty(y_view[:1] + a_view[1:], a.dtype)
            k.matmul_backward_da(da, dy, b)
            da = sum_to(k, da, a_view).reshape(a_shape)
        if self.needs[1]:
            db = k.empty(y_view[:1] + b_view[1:], b.dtype)
            k.matmul_backward_db(db, a, dy)
            db = sum_to(k, db, b_view).reshape(b_shape)
        return da, db


def matmul(a, b):
    """Matrix product with NumPy's rules: vectors are promoted, leading axes broadcast.

    Backward: da = dy b^T, db = a^T dy, summed over broadcast axes.

    Args:
        a: (..., m, k) or (k,).
        b: (..., k, n) or (k,).

    Returns:
        (..., m, n), without m or n where the operand was a vector.

    Raises:
        ValueError: shapes that do not fit.

    >>> import tilegrad
    >>> tilegrad.ops.matmul([[1.0, 2.0]], [[3.0], [4.0]]).numpy().tolist()
    [[11.0]]
    """
    a, b = tensors(a, b)
    a_shape, b_shape, views, shape = _matmul_shapes(a.data.shape, b.data.shape)
    check_dtypes("matmul", a.data, b.data)
    if views is None:
        return apply(Matmul(), a, b)
    if a_shape is not None:
        a = broadcast_to(a, a_shape)
    if b_shape is not None:
        b = broadcast_to(b, b_shape)
    return apply(BatchMatmul(views, shape), a, b)


@functools.lru_cache(maxsize=1024)
def _matmul_shapes(a, b):
    """What a and b have to be repeated to (None: nothing), `BatchMatmul`'s views, and y's shape.

    Two matrices need no views: None.
    """
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        raise ValueError(f"matmul: expected a (..., m, k) and b (..., k, n), got {a} and {b}")
    if len(a) == len(b) == 2:
        return None, None, None, (a[0], b[1])
    *a_lead, m, inner = a if len(a) > 1 else (1, *a)
    *b_lead, _, n = b if len(b) > 1 else (*b, 1)
    try:
        batch = np.broadcast_shapes(tuple(a_lead), tuple(b_lead))
    except ValueError:
        raise ValueError(f"matmul: leading axes do not broadcast: {a} and {b}") from None
    shape = (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))
    check_ndim("matmul", len(shape))
    count, a_count, b_count = math.prod(batch), math.prod(a_lead), math.prod(b_lead)
    a_shape = None if a_count in (1, count) else (*batch, m, inner)
    b_shape = None if b_count in (1, count) else (*batch, inner, n)
    a_view = (1 if a_count == 1 else count, m, inner)
    b_view = (1 if b_count == 1 else count, inner, n)
    return a_shape, b_shape, (a_view, b_view, (count, m, n)), shape
