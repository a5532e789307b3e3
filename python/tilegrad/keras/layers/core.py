"""Input and dense layers."""

from __future__ import annotations

import math

import numpy as np

from ... import ops
from .. import activations, initializers, regularizers
from .base import Fused, InputSpec, KerasTensor, Layer, check_constraint, positive_int


class InputLayer(Layer):
    """The shape and type of a model's input.

    Args:
        shape: of one sample, None where any size is accepted.
        batch_size: fixed batch size, or None for any.
        dtype: "float32", or an integer type.
        batch_shape: shape and batch size in one.

    Raises:
        ValueError: neither shape nor batch_shape, or both.

    >>> InputLayer((28, 28, 1)).batch_shape
    (None, 28, 28, 1)
    """

    def __init__(
        self,
        shape=None,
        batch_size=None,
        dtype=None,
        sparse=None,
        ragged=None,
        batch_shape=None,
        input_tensor=None,
        optional=False,
        name=None,
        **kwargs,
    ):
        shape = kwargs.pop("input_shape", shape)
        batch_shape = kwargs.pop("batch_input_shape", batch_shape)
        super().__init__(name=name, **kwargs)
        if input_tensor is not None:
            batch_shape, dtype = input_tensor.shape, input_tensor.dtype
        if sparse or ragged:
            raise ValueError("InputLayer: sparse and ragged inputs are not supported")
        if (shape is None) == (batch_shape is None):
            raise ValueError(
                f"InputLayer: expected either shape or batch_shape, got {shape=}, {batch_shape=}"
            )
        if batch_shape is None:
            shape = (shape,) if isinstance(shape, (int, np.integer)) else shape
            batch_shape = (batch_size, *shape)
        elif batch_size is not None:
            raise ValueError("InputLayer: batch_size is already part of batch_shape")
        for size in batch_shape:
            if size is not None and (not isinstance(size, (int, np.integer)) or size < 0):
                raise ValueError(
                    f"InputLayer: expected sizes to be None or integers >= 0, "
                    f"got {tuple(batch_shape)}"
                )
        self.batch_shape = tuple(None if size is None else int(size) for size in batch_shape)
        self._dtype = np.dtype(dtype or "float32").name
        self.optional = optional
        output = KerasTensor(self.batch_shape, self._dtype, name or self.name, layer=self)
        self._symbolic = (output, output)
        self.built = True

    @property
    def dtype(self) -> str:
        return self._dtype

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape=None):
        return self.batch_shape

    def get_config(self):
        return {
            "batch_shape": self.batch_shape,
            "dtype": self._dtype,
            "sparse": False,
            "ragged": False,
            "name": self.name,
            "optional": self.optional,
        }


def Input(  # noqa: N802
    shape=None,
    batch_size=None,
    dtype=None,
    sparse=None,
    ragged=None,
    batch_shape=None,
    name=None,
    tensor=None,
    optional=False,
):
    """The input of a model, as a `KerasTensor`; its ``layer`` is the `InputLayer`.

    >>> Input((28, 28, 1)).shape
    (None, 28, 28, 1)
    """
    layer = InputLayer(
        shape, batch_size, dtype, sparse, ragged, batch_shape, tensor, optional, name
    )
    return layer.output


class Dense(Layer):
    """y = activation(x kernel + bias) over the last axis.

    Args:
        units: size of the output's last axis.
        activation: a name or a callable; None is linear.
        use_bias: whether there is a bias.
        kernel_initializer, bias_initializer: names, objects or callables.
        kernel_regularizer, bias_regularizer, activity_regularizer: penalties added to the loss.
        kernel_constraint, bias_constraint: not supported, must be None.

    Shapes:
        x (n, ..., c), kernel (c, units), bias (units), y (n, ..., units).

    Raises:
        ValueError: units that is not a positive integer; an input of one axis or another last size.

    >>> layer = Dense(2, kernel_initializer="ones")
    >>> layer([[1.0, 2.0, 3.0]]).numpy().tolist()
    [[6.0, 6.0]]
    """

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        for unused in ("lora_rank", "lora_alpha", "quantization_config"):
            if kwargs.get(unused) is None:
                kwargs.pop(unused, None)
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.units = positive_int("Dense", "units", units)
        self._activation = Fused(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        check_constraint("Dense kernel_constraint", kernel_constraint)
        check_constraint("Dense bias_constraint", bias_constraint)
        self.input_spec = InputSpec(min_ndim=2)
        self.kernel = self.bias = None

    @property
    def activation(self):
        return self._activation.function

    def build(self, input_shape):
        self.input_spec.check(self, input_shape)
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                f"{self._label()}: expected a known size of the last axis, got {input_shape}"
            )
        self.kernel = self.add_weight(
            (channels, self.units),
            self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            name="kernel",
        )
        if self.use_bias:
            self.bias = self.add_weight(
                (self.units,), self.bias_initializer, regularizer=self.bias_regularizer, name="bias"
            )
        self.input_spec = InputSpec(min_ndim=2, axes={-1: channels})

    def call(self, inputs):
        fused = self._activation
        y = ops.dense(inputs, self.kernel, self.bias, fused.name, fused.alpha)
        return y if fused.after is None else fused.after(y)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def flops(self, input_shape):
        return 2 * math.prod(input_shape[1:]) * self.units

    def get_config(self):
        return super().get_config() | {
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": None,
            "bias_constraint": None,
        }


class Identity(Layer):
    """y = x."""

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape
