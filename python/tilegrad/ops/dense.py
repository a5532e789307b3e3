"""The dense layer and matrix products."""

from __future__ import annotations

import math

from ..autograd import Op, apply
from ._common import check_dtypes, tensors
from .activation import resolve
from .elementwise import broadcast_to, expand_dims, squeeze, sum_to


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
        if x.ndim < 1 or x.shape[-1] != c:
            raise ValueError(
                f"dense: expected x of shape (..., {c}) for w {w.shape}, got {x.shape}"
            )
        if b is not None and b.shape != (f,):
            raise ValueError(f"dense: expected b of shape ({f},), got {b.shape}")
        check_dtypes("dense", x, w, b)
        rows = x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), c)
        y = k.empty((len(rows), f), x.dtype)
        k.dense_forward(y, rows, w, b, self.activation, self.alpha)
        self.save(rows, w, y if self.activation else None, x.shape)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], f)

    def backward(self, k, dy):
        x, w, y, x_shape = self.saved
        dy = dy.reshape(len(x), w.shape[1])
        dz, db = before_activation(k, dy, y, self.activation, self.alpha, self.needs[2])
        dx = dw = None
        if self.needs[0]:
            dx = k.empty(x.shape, x.dtype)
            k.dense_backward_dx(dx, dz, w)
            dx = dx.reshape(x_shape)
        if self.needs[1]:
            dw = k.empty(w.shape, w.dtype)
            k.dense_backward_dw(dw, x, dz)
        return dx, dw, db


def before_activation(k, dy, y, activation: int, alpha: float, needs_db: bool):
    """(dz, db) of y = act(z + b): dz is dy where there is no activation, db None if not needed.

    Of any shape (..., f); both in one pass where both are wanted.
    """
    rows = (math.prod(dy.shape[:-1]), dy.shape[-1])
    db = k.empty(rows[1:], dy.dtype) if needs_db else None
    if not activation:
        if needs_db:
            k.bias_backward_db(db, dy.reshape(rows))
        return dy, db
    dz = k.empty(dy.shape, dy.dtype)
    if needs_db:
        flat = (a.reshape(rows) for a in (dy, y))
        k.bias_activation_backward_dz(dz.reshape(rows), db, *flat, activation, alpha)
    else:
        k.activation_backward_dx(dz, dy, y, activation, alpha)
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
    """y[i] = a[i] b[i]; a or b with one matrix serves the whole batch."""

    reads = (0, 1)

    def forward(self, k, a, b):
        batch = max(len(a), len(b)) if len(a) and len(b) else 0
        y = k.empty((batch, a.shape[1], b.shape[2]), a.dtype)
        k.matmul_forward(y, a, b)
        self.save(a, b)
        return y

    def backward(self, k, dy):
        a, b = self.saved
        da = db = None
        if self.needs[0]:
            da = k.empty((len(dy), *a.shape[1:]), a.dtype)
            k.matmul_backward_da(da, dy, b)
            da = sum_to(k, da, a.shape)
        if self.needs[1]:
            db = k.empty((len(dy), *b.shape[1:]), b.dtype)
            k.matmul_backward_db(db, a, dy)
            db = sum_to(k, db, b.shape)
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
    shapes = a.shape, b.shape
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ValueError(
            f"matmul: expected a (..., m, k) and b (..., k, n), got {shapes[0]} and {shapes[1]}"
        )
    check_dtypes("matmul", a, b)
    if a.ndim == 1:
        a = expand_dims(a, 0)
    if b.ndim == 1:
        b = expand_dims(b, 1)
    batch = _broadcast("matmul", a.shape[:-2], b.shape[:-2], shapes)
    a, b = (_as_batch(t, batch) for t in (a, b))
    y = apply(Matmul(), a, b).reshape((*batch, a.shape[1], b.shape[2]))
    if len(shapes[0]) == 1:
        y = squeeze(y, -2)
    if len(shapes[1]) == 1:
        y = squeeze(y, -1)
    return y


def _as_batch(t, batch: tuple[int, ...]):
    """t (..., m, n) as (prod(batch), m, n), or (1, m, n) where one matrix serves all."""
    if math.prod(t.shape[:-2]) != 1 and t.shape[:-2] != batch:
        t = broadcast_to(t, (*batch, *t.shape[-2:]))
    return t.reshape((math.prod(t.shape[:-2]), *t.shape[-2:]))


def _broadcast(name, a, b, shapes) -> tuple[int, ...]:
    out = []
    for i in range(max(len(a), len(b)), 0, -1):
        p = a[-i] if i <= len(a) else 1
        q = b[-i] if i <= len(b) else 1
        if p != q and 1 not in (p, q):
            raise ValueError(f"{name}: leading axes do not broadcast: {shapes[0]} and {shapes[1]}")
        out.append(q if p == 1 else p)
    return tuple(out)
