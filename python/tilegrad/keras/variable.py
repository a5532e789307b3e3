"""`Variable`: a tensor with a name that training changes."""

from __future__ import annotations

import numpy as np

from .. import backend
from ..tensor import Tensor
from .naming import auto_name


class Variable(Tensor):
    """A named tensor: a layer's weight or a metric's state.

    Args:
        initializer: the value (a number, an array, a tensor), or a callable ``f(shape, dtype=)``.
        shape: needed with a callable, checked against the value otherwise.
        dtype: "float32", or an integer or boolean type.
        trainable: whether it gets a gradient; may be changed later. Integers never do.
        name: "variable" and a counter by default.
        device: where it lives; the default device by default.

    Attributes:
        path: the names of the layers round it and its own, ``model/dense/kernel``.
        regularizer: a callable that gives the penalty on this weight, or None.
        created_trainable: `trainable` as it was at first, which unfreezing a layer restores.

    Raises:
        ValueError: a shape that does not agree with the value, or is missing or incomplete.

    >>> v = Variable([1.0, 2.0], name="v")
    >>> v.assign_add([1.0, 1.0]).numpy()
    array([2., 3.], dtype=float32)
    """

    __slots__ = ("_trainable", "created_trainable", "name", "path", "regularizer")

    def __init__(self, initializer, shape=None, dtype=None, trainable=True, name=None, device=None):
        value = initializer
        if callable(initializer) and not isinstance(initializer, Tensor):
            if shape is None or None in tuple(shape):
                raise ValueError(f"Variable: an initializer needs a complete shape, got {shape}")
            value = initializer(tuple(shape), dtype=dtype or "float32")
        value = value.data if isinstance(value, Tensor) else backend.as_array(value)
        if shape is not None and value.shape != tuple(shape):
            raise ValueError(
                f"Variable: expected a value of shape {tuple(shape)}, got {value.shape}"
            )
        dtype = np.dtype(dtype or ("float32" if value.dtype.kind == "f" else value.dtype))
        if dtype.kind == "f" and dtype != np.float32:
            raise ValueError(
                f"Variable: expected dtype float32, an integer type or bool, got {dtype}"
            )
        device = device or backend.default_device()
        own = backend.get(device).empty(value.shape, dtype)
        backend.copy_into(own, value.astype(dtype, copy=False))
        super().__init__(own, device=device)
        self.name = auto_name("variable") if name is None else name
        self.path = self.name
        self.regularizer = None
        self.created_trainable = bool(trainable)
        self.trainable = trainable

    @property
    def trainable(self) -> bool:
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        self.requires_grad = self._trainable and self.dtype.kind == "f"

    @property
    def value(self) -> Variable:
        """The variable itself: it is a tensor."""
        return self

    def numpy(self) -> np.ndarray:
        """A copy of the value; `np.asarray(v)` shares the memory instead, if it is not a GPU's."""
        value = backend.to_numpy(self.data)
        return value.copy() if value is self.data else value

    def assign_add(self, value) -> Variable:
        """Add `value` in place."""
        return self.assign(self.data + self._array(value))

    def assign_sub(self, value) -> Variable:
        """Subtract `value` in place."""
        return self.assign(self.data - self._array(value))

    def _array(self, value):
        value = value.data if isinstance(value, Tensor) else value
        return backend.get(self.device).asarray(value)

    def __repr__(self) -> str:
        value = backend.to_numpy(self.data)
        body = np.array2string(value, separator=", ", threshold=8, edgeitems=1)
        return f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}, value={body}>"
