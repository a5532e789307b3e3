"""Convolutions over images (n, h, w, c)."""

from __future__ import annotations

import math

from ... import ops
from .. import activations, config, initializers, regularizers
from . import deferred
from .base import (
    Fused,
    InputSpec,
    Layer,
    check_constraint,
    check_padding,
    in_model,
    positive_int,
    window_output,
    window_pair,
)


class _Conv2D(Layer):
    """What both convolutions share: window arguments, output shape, bias, activation."""

    _weight = "kernel"  # what the arguments call the weight

    def __init__(
        self,
        *,
        kernel_size,
        strides,
        padding,
        data_format,
        dilation_rate,
        activation,
        use_bias,
        weight_initializer,
        bias_initializer,
        weight_regularizer,
        bias_regularizer,
        activity_regularizer,
        weight_constraint,
        bias_constraint,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        cls = type(self).__name__
        self.kernel_size = window_pair(cls, "kernel_size", kernel_size)
        self.strides = window_pair(cls, "strides", strides)
        self.padding = check_padding(cls, padding)
        self.data_format = config.check_data_format(cls, data_format)
        self.dilation_rate = window_pair(cls, "dilation_rate", dilation_rate)
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                f"{cls}: expected strides or dilation_rate to be 1, got strides={self.strides} and "
                f"dilation_rate={self.dilation_rate}"
            )
        self._activation = Fused(activation)
        self.use_bias = bool(use_bias)
        self._initializer = initializers.get(weight_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self._regularizer = regularizers.get(weight_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        check_constraint(f"{cls} {self._weight}_constraint", weight_constraint)
        check_constraint(f"{cls} bias_constraint", bias_constraint)
        self.input_spec = InputSpec(ndim=4)
        self.kernel = self.bias = None

    @property
    def activation(self):
        return self._activation.function

    def _output_channels(self, channels: int) -> int:
        raise NotImplementedError(f"{type(self).__name__} has no _output_channels")

    def _weight_shape(self, channels: int) -> tuple[int, ...]:
        raise NotImplementedError(f"{type(self).__name__} has no _weight_shape")

    def build(self, input_shape):
        self.input_spec.check(self, input_shape)
        channels = input_shape[-1]
        if not channels:
            raise ValueError(
                f"{self._label()}: expected a known number of channels >= 1, got {input_shape}"
            )
        shape = self._weight_shape(channels)
        self.compute_output_shape(input_shape)
        self.kernel = self.add_weight(
            shape, self._initializer, regularizer=self._regularizer, name="kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight(
                (self._output_channels(channels),),
                self.bias_initializer,
                regularizer=self.bias_regularizer,
                name="bias",
            )
        self.input_spec = InputSpec(ndim=4, axes={-1: channels})

    def compute_output_shape(self, input_shape):
        n, h, w, channels = input_shape
        window = zip((h, w), self.kernel_size, self.strides, self.dilation_rate, strict=True)
        h, w = (window_output(self._label(), s, k, t, self.padding, d) for s, k, t, d in window)
        return n, h, w, self._output_channels(channels)

    def flops(self, input_shape):
        _, h, w, _ = self.compute_output_shape(input_shape)
        return 2 * h * w * math.prod(self._weight_shape(input_shape[-1]))

    def get_config(self):
        return super().get_config() | {
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            f"{self._weight}_initializer": initializers.serialize(self._initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            f"{self._weight}_regularizer": regularizers.serialize(self._regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
            f"{self._weight}_constraint": None,
            "bias_constraint": None,
        }


class Conv2D(_Conv2D):
    """Convolution (cross-correlation) of images with `filters` kernels, plus bias and activation.

    Args:
        filters: channels of the output.
        kernel_size: window, one integer or (height, width).
        strides: step of the window, one integer or two.
        padding: "valid", or "same": ceil(size / stride) outputs, the odd row of zeros at the end.
        data_format: "channels_last" only.
        dilation_rate: distance between the window's taps; not together with strides.
        groups: channels and filters are cut into this many independent convolutions.
        activation: a name or a callable; None is linear.
        use_bias: whether there is a bias.
        kernel_initializer, bias_initializer: names, objects or callables.
        kernel_regularizer, bias_regularizer, activity_regularizer: penalties added to the loss.
        kernel_constraint, bias_constraint: not supported, must be None.

    Shapes:
        x (n, h, w, c), kernel (kh, kw, c / groups, filters), bias (filters),
        y (n, oh, ow, filters).

    Raises:
        ValueError: a bad argument, channels or filters that groups does not divide, an input that
            is not (n, h, w, c) or smaller than the window.

    >>> layer = Conv2D(4, 3, activation="relu")
    >>> layer(__import__("numpy").zeros((2, 8, 8, 3))).shape
    (2, 6, 6, 4)
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        data_format=None,
        dilation_rate=(1, 1),
        groups=1,
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
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            weight_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            weight_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            weight_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.filters = positive_int("Conv2D", "filters", filters)
        self.groups = positive_int("Conv2D", "groups", groups)
        if self.filters % self.groups:
            raise ValueError(
                f"Conv2D: expected groups to divide filters={self.filters}, "
                f"got groups={self.groups}"
            )

    @property
    def kernel_initializer(self):
        return self._initializer

    @property
    def kernel_regularizer(self):
        return self._regularizer

    def _output_channels(self, channels):
        return self.filters

    def _weight_shape(self, channels):
        if channels % self.groups:
            raise ValueError(
                f"{self._label()}: expected groups={self.groups} to divide the channels, "
                f"got {channels}"
            )
        return (*self.kernel_size, channels // self.groups, self.filters)

    def call(self, inputs):
        fused = self._activation
        conv2d = deferred.conv2d if in_model() else ops.conv2d
        y = conv2d(
            inputs,
            self.kernel,
            self.bias,
            self.strides,
            self.padding,
            self.dilation_rate,
            self.groups,
            fused.name,
            fused.alpha,
        )
        return y if fused.after is None else fused.after(y)

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "groups": self.groups}


class DepthwiseConv2D(_Conv2D):
    """Convolution of each channel with kernels of its own, plus bias and activation.

    Args:
        kernel_size: window, one integer or (height, width).
        strides: step of the window, one integer or two.
        padding: "valid" or "same", as in `Conv2D`.
        depth_multiplier: output channels per input channel.
        data_format: "channels_last" only.
        dilation_rate: distance between the window's taps; not together with strides.
        activation: a name or a callable; None is linear.
        use_bias: whether there is a bias.
        depthwise_initializer, bias_initializer: names, objects or callables.
        depthwise_regularizer, bias_regularizer, activity_regularizer: penalties added to the loss.
        depthwise_constraint, bias_constraint: not supported, must be None.

    Shapes:
        x (n, h, w, c), kernel (kh, kw, c, m), bias (c m), y (n, oh, ow, c m);
        channel i of x makes channels i m ... i m + m - 1 of y.

    Raises:
        ValueError: a bad argument, an input that is not (n, h, w, c) or smaller than the window.

    >>> layer = DepthwiseConv2D(3, depth_multiplier=2)
    >>> layer(__import__("numpy").zeros((1, 5, 5, 3))).shape
    (1, 3, 3, 6)
    """

    _weight = "depthwise"

    def __init__(
        self,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        depth_multiplier=1,
        data_format=None,
        dilation_rate=(1, 1),
        activation=None,
        use_bias=True,
        depthwise_initializer="glorot_uniform",
        bias_initializer="zeros",
        depthwise_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        depthwise_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            weight_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            weight_regularizer=depthwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            weight_constraint=depthwise_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.depth_multiplier = positive_int(
            "DepthwiseConv2D", "depth_multiplier", depth_multiplier
        )

    @property
    def depthwise_initializer(self):
        return self._initializer

    @property
    def depthwise_regularizer(self):
        return self._regularizer

    def _output_channels(self, channels):
        return None if channels is None else channels * self.depth_multiplier

    def _weight_shape(self, channels):
        return (*self.kernel_size, channels, self.depth_multiplier)

    def call(self, inputs):
        fused = self._activation
        kh, kw, channels, multiplier = self.kernel.shape
        # The same memory as a grouped convolution's weight: one input channel per group.
        grouped = ops.reshape(self.kernel, (kh, kw, 1, channels * multiplier))
        y = ops.conv2d(
            inputs,
            grouped,
            self.bias,
            self.strides,
            self.padding,
            self.dilation_rate,
            channels,
            fused.name,
            fused.alpha,
        )
        return y if fused.after is None else fused.after(y)

    def get_config(self):
        return super().get_config() | {"depth_multiplier": self.depth_multiplier}


Convolution2D = Conv2D
