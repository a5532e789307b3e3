"""Layers: names, arguments and behaviour of Keras 3."""

from __future__ import annotations

from ..identifiers import Registry
from .activation import Activation, LeakyReLU, ReLU, Softmax
from .base import InputSpec, KerasTensor, Layer
from .conv import Conv2D, Convolution2D, DepthwiseConv2D
from .core import Dense, Identity, Input, InputLayer
from .pool import (
    AveragePooling2D,
    AvgPool2D,
    GlobalAveragePooling2D,
    GlobalAvgPool2D,
    MaxPool2D,
    MaxPooling2D,
)
from .regularization import Dropout
from .reshaping import Flatten, Reshape

__all__ = [
    "Activation",
    "AveragePooling2D",
    "AvgPool2D",
    "Conv2D",
    "Convolution2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalAvgPool2D",
    "Identity",
    "Input",
    "InputLayer",
    "InputSpec",
    "KerasTensor",
    "Layer",
    "LeakyReLU",
    "MaxPool2D",
    "MaxPooling2D",
    "ReLU",
    "Reshape",
    "Softmax",
    "deserialize",
    "serialize",
]

_registry = Registry(
    "layer",
    "keras.layers",
    (
        *(Activation, AveragePooling2D, Conv2D, Dense, DepthwiseConv2D, Dropout, Flatten),
        *(
            GlobalAveragePooling2D,
            Identity,
            InputLayer,
            LeakyReLU,
            MaxPooling2D,
            ReLU,
            Reshape,
            Softmax,
        ),
    ),
)


def serialize(layer: Layer) -> dict:
    """A layer's class and config, as Keras writes them."""
    return _registry.serialize(layer)


def deserialize(config: dict, custom_objects: dict | None = None) -> Layer:
    """The layer of a config from `serialize`; classes of your own go into `custom_objects`.

    Raises:
        ValueError: an unknown class; the message lists the known ones.
    """
    return _registry.deserialize(config, custom_objects)
