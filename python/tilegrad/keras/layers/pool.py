"""Pooling over images (n, h, w, c)."""

from __future__ import annotations

from ... import ops
from .. import config
from .base import InputSpec, Layer, check_padding, window_output, window_pair
from .deferred import DeferredConv2D


class _Pooling2D(Layer):
    """Window arguments and output shape."""

    def __init__(self, pool_size, strides, padding, data_format, name, **kwargs):
        super().__init__(name=name, **kwargs)
        cls = type(self).__name__
        self.pool_size = window_pair(cls, "pool_size", pool_size)
        self.strides = window_pair(cls, "strides", self.pool_size if strides is None else strides)
        self.padding = check_padding(cls, padding)
        self.data_format = config.check_data_format(cls, data_format)
        self.input_spec = InputSpec(ndim=4)

    def compute_output_shape(self, input_shape):
        n, h, w, c = input_shape
        window = zip((h, w), self.pool_size, self.strides, strict=True)
        h, w = (window_output(self._label(), s, k, t, self.padding) for s, k, t in window)
        return n, h, w, c

    def get_config(self):
        return super().get_config() | {
            "pool_size": self.pool_size,
            "padding": self.padding,
            "strides": self.strides,
            "data_format": self.data_format,
        }


class MaxPooling2D(_Pooling2D):
    """The largest value in each window.

    Args:
        pool_size: window, one integer or (height, width).
        strides: step of the window; the window's own size by default.
        padding: "valid" or "same"; padding never is the maximum.
        data_format: "channels_last" only.

    Shapes:
        x (n, h, w, c), y (n, oh, ow, c).

    Raises:
        ValueError: a bad argument, an input that is not (n, h, w, c) or smaller than the window.

    >>> MaxPooling2D()([[[[1.0], [2.0]], [[3.0], [4.0]]]]).numpy().tolist()
    [[[[4.0]]]]
    """

    def __init__(
        self, pool_size=(2, 2), strides=None, padding="valid", data_format=None, name=None, **kwargs
    ):
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)

    def call(self, inputs):
        if isinstance(inputs, DeferredConv2D):
            return inputs.max_pool2d(self.pool_size, self.strides, self.padding)
        return ops.max_pool2d(inputs, self.pool_size, self.strides, self.padding)


class AveragePooling2D(_Pooling2D):
    """The mean of each window; what "same" pads counts neither in the sum nor in the number.

    Args:
        pool_size: window, one integer or (height, width).
        strides: step of the window; the window's own size by default.
        padding: "valid" or "same".
        data_format: "channels_last" only.

    Shapes:
        x (n, h, w, c), y (n, oh, ow, c).

    Raises:
        ValueError: a bad argument, an input that is not (n, h, w, c) or smaller than the window.

    >>> AveragePooling2D(2)([[[[1.0], [2.0]], [[3.0], [4.0]]]]).numpy().tolist()
    [[[[2.5]]]]
    """

    def __init__(
        self, pool_size, strides=None, padding="valid", data_format=None, name=None, **kwargs
    ):
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)

    def call(self, inputs):
        return ops.avg_pool2d(inputs, self.pool_size, self.strides, self.padding)


class GlobalAveragePooling2D(Layer):
    """The mean over height and width.

    Args:
        data_format: "channels_last" only.
        keepdims: keep the two axes, with size 1.

    Shapes:
        x (n, h, w, c), y (n, c) or (n, 1, 1, c).

    >>> GlobalAveragePooling2D()([[[[1.0], [2.0]], [[3.0], [4.0]]]]).numpy().tolist()
    [[2.5]]
    """

    def __init__(self, data_format=None, keepdims=False, **kwargs):
        super().__init__(**kwargs)
        self.data_format = config.check_data_format("GlobalAveragePooling2D", data_format)
        self.keepdims = bool(keepdims)
        self.input_spec = InputSpec(ndim=4)

    def call(self, inputs):
        y = ops.global_avg_pool2d(inputs)
        return ops.reshape(y, (y.shape[0], 1, 1, y.shape[1])) if self.keepdims else y

    def compute_output_shape(self, input_shape):
        n, _, _, c = input_shape
        return (n, 1, 1, c) if self.keepdims else (n, c)

    def get_config(self):
        return super().get_config() | {"data_format": self.data_format, "keepdims": self.keepdims}


MaxPool2D = MaxPooling2D
AvgPool2D = AveragePooling2D
GlobalAvgPool2D = GlobalAveragePooling2D
