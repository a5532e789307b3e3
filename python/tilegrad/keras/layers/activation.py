"""Activations as layers of their own."""

from __future__ import annotations

import math

from ... import ops
from .. import activations
from .base import Layer
from .deferred import DeferredConv2D


class Activation(Layer):
    """y = activation(x).

    Args:
        activation: a name or a callable.

    >>> Activation("relu")([-1.0, 2.0]).numpy().tolist()
    [0.0, 2.0]
    """

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = activations.get(activation)

    def call(self, inputs):
        if isinstance(inputs, DeferredConv2D) and self.activation is activations.relu:
            return inputs.relu()
        return self.activation(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"activation": activations.serialize(self.activation)}


class ReLU(Layer):
    """Rectified linear unit with a ceiling, a slope and a threshold; see `activations.relu`.

    Args:
        max_value: ceiling, or None.
        negative_slope: slope below the threshold.
        threshold: where the slope ends.

    Raises:
        ValueError: a negative argument.

    >>> ReLU(max_value=6.0)([-1.0, 2.0, 7.0]).numpy().tolist()
    [0.0, 2.0, 6.0]
    """

    def __init__(self, max_value=None, negative_slope=0.0, threshold=0.0, **kwargs):
        super().__init__(**kwargs)
        self.max_value = (
            None if max_value is None else _not_negative("ReLU", "max_value", max_value)
        )
        self.negative_slope = _not_negative("ReLU", "negative_slope", negative_slope)
        self.threshold = _not_negative("ReLU", "threshold", threshold)

    def call(self, inputs):
        plain = self.max_value is None and self.negative_slope == self.threshold == 0
        if isinstance(inputs, DeferredConv2D) and plain:
            return inputs.relu()
        return activations.relu(inputs, self.negative_slope, self.max_value, self.threshold)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "max_value": self.max_value,
            "negative_slope": self.negative_slope,
            "threshold": self.threshold,
        }


class LeakyReLU(Layer):
    """x where x > 0, else negative_slope x; the default slope is 0.3, the function's is 0.2.

    >>> LeakyReLU(0.5)([-1.0, 2.0]).numpy().tolist()
    [-0.5, 2.0]
    """

    def __init__(self, negative_slope=0.3, **kwargs):
        negative_slope = kwargs.pop("alpha", negative_slope)
        super().__init__(**kwargs)
        self.negative_slope = _not_negative("LeakyReLU", "negative_slope", negative_slope)

    def call(self, inputs):
        return ops.leaky_relu(inputs, self.negative_slope)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"negative_slope": self.negative_slope}


class Softmax(Layer):
    """exp(x) / sum exp(x) along `axis`; the output remembers x as its ``logits``.

    Args:
        axis: an axis or several.

    Call arguments:
        mask: booleans of x's shape; False makes that probability 0.

    >>> Softmax()([[0.0, 0.0]]).numpy().tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis if isinstance(axis, int) else list(axis)

    def call(self, inputs, mask=None):
        if mask is not None:
            inputs = inputs + (1.0 - ops.clip(mask, 0.0, 1.0)) * -1e9
        if isinstance(self.axis, int):
            return ops.softmax(inputs, self.axis)
        if len(self.axis) == 1:
            return ops.softmax(inputs, self.axis[0])
        axes = tuple(self.axis)
        e = ops.exp(inputs - ops.max(inputs, axes, keepdims=True).detach())
        return e / ops.sum(e, axes, keepdims=True)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"axis": self.axis}


def _not_negative(cls: str, what: str, value) -> float:
    if value is None or isinstance(value, bool) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{cls}: expected a finite {what} >= 0, got {value!r}")
    return float(value)
