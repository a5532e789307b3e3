"""Changes of shape."""

from __future__ import annotations

import math

from ... import ops
from .base import InputSpec, Layer


class Flatten(Layer):
    """All axes but the first as one.

    Args:
        data_format: "channels_first" moves the channels of (n, c, ...) last before; None and
            "channels_last" leave the order.

    Shapes:
        x (n, a, b, ...), y (n, a b ...); x (n) gives (n, 1).

    >>> Flatten()([[[1.0], [2.0]]]).shape
    (1, 2)
    """

    def __init__(self, data_format=None, **kwargs):
        super().__init__(**kwargs)
        if data_format not in (None, "channels_last", "channels_first"):
            raise ValueError(
                "Flatten: expected data_format 'channels_last' or 'channels_first', "
                f"got {data_format!r}"
            )
        self.data_format = data_format or "channels_last"
        self.input_spec = InputSpec(min_ndim=1)

    def call(self, inputs):
        if self.data_format == "channels_first" and inputs.ndim > 2:
            inputs = ops.transpose(inputs, (0, *range(2, inputs.ndim), 1))
        return ops.reshape(inputs, (inputs.shape[0], math.prod(inputs.shape[1:])))

    def compute_output_shape(self, input_shape):
        rest = input_shape[1:]
        return input_shape[0], None if None in rest else math.prod(rest)

    def get_config(self):
        return super().get_config() | {"data_format": self.data_format}


class Reshape(Layer):
    """Each sample in another shape with as many elements.

    Args:
        target_shape: shape of one sample; one size may be -1 and follows from the rest.

    Shapes:
        x (n, ...), y (n, *target_shape).

    Raises:
        ValueError: a shape with another number of elements.

    >>> Reshape((2, -1))([[1.0, 2.0, 3.0, 4.0]]).shape
    (1, 2, 2)
    """

    def __init__(self, target_shape, **kwargs):
        super().__init__(**kwargs)
        try:
            self.target_shape = tuple(int(size) for size in target_shape)
        except TypeError:
            raise ValueError(
                f"Reshape: expected target_shape to be a tuple of integers, got {target_shape!r}"
            ) from None
        if self.target_shape.count(-1) > 1 or min(self.target_shape, default=0) < -1:
            raise ValueError(
                "Reshape: expected sizes >= 0 and at most one -1, "
                f"got target_shape={self.target_shape}"
            )

    def call(self, inputs):
        return ops.reshape(inputs, (inputs.shape[0], *self._resolve(inputs.shape)))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self._resolve(input_shape))

    def _resolve(self, shape):
        """target_shape with its -1 replaced, None where x's sizes are unknown."""
        target, rest = self.target_shape, shape[1:]
        if None in rest:
            return tuple(None if size == -1 else size for size in target)
        total, known = math.prod(rest), math.prod(size for size in target if size != -1)
        fits = known == total if -1 not in target else known > 0 and total % known == 0
        if not fits:
            raise ValueError(
                f"{self._label()}: expected an input whose samples have the size of {target}, "
                f"got shape {tuple(shape)}"
            )
        return tuple(total // known if size == -1 else size for size in target)

    def get_config(self):
        return super().get_config() | {"target_shape": self.target_shape}
