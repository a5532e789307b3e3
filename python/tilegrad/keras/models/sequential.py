"""`Sequential`: layers one after the other."""

from __future__ import annotations

import numpy as np

from ... import backend, ops, recording
from ...tensor import Tensor
from .. import layers as layers_module
from ..layers import InputLayer, KerasTensor, Layer
from .model import Model

_FLOAT32 = np.dtype("float32")


class Sequential(Model):
    """A stack of layers, each fed with the output of the one before.

    It is built as soon as the shape of its input is known: from an `Input`, from ``input_shape=``
    on the first layer, from `build`, or from the first data it sees.

    Args:
        layers: list of layers; `add` and `pop` change it later.
        trainable: False freezes all weights.
        name: "sequential" and a counter by default.

    Shapes:
        The input has the shape of the `Input`; where that ends in 1 the data may leave this axis
        out, and one more axis of size 1 at the end of the data is dropped.

    Raises:
        ValueError: what is added is no layer, or its name is taken, or it does not fit the layer
            before.

    >>> from tilegrad import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    >>> model.output_shape, model.count_params()
    ((None, 2), 23)
    """

    def __init__(self, layers=None, trainable=True, name=None):
        super().__init__(trainable=trainable, name=name)
        self._layers = []
        for layer in layers or ():
            self.add(layer, rebuild=False)
        self._rebuild()

    def add(self, layer, rebuild=True):
        """Put a layer (or an `Input`) on top.

        Args:
            layer: the layer.
            rebuild: False leaves building to a later `add` or to the first call.
        """
        if isinstance(layer, KerasTensor) and isinstance(layer.layer, InputLayer):
            layer = layer.layer
        if not isinstance(layer, Layer):
            raise ValueError(
                f"{self._label()} add: expected a layer, got {layer!r} ({type(layer).__name__})"
            )
        if not self._layers and layer._input_shape_arg is not None:
            self._layers.append(InputLayer(shape=layer._input_shape_arg))
        if any(layer.name == other.name and layer is not other for other in self._layers):
            raise ValueError(
                f"{self._label()} add: expected layers of different names, got {layer.name!r} again"
            )
        if isinstance(layer, InputLayer) and self._layers:
            raise ValueError(
                f"{self._label()} add: expected an Input only as the first item, got one for "
                f"{layer.batch_shape} after {self._layers[-1].name!r}"
            )
        self._layers.append(layer)
        if rebuild:
            self._rebuild()
        else:
            self.built = False

    def pop(self, rebuild=True):
        """Take the topmost layer off and return it."""
        if not self._layers:
            raise ValueError(f"{self._label()} pop: expected at least one layer, got none")
        layer = self._layers.pop()
        self.built = False
        if rebuild:
            self._rebuild()
        return layer

    @property
    def layers(self):
        """The layers, without the input."""
        return self._layers[self._has_input() :]

    def _has_input(self):
        return bool(self._layers) and isinstance(self._layers[0], InputLayer)

    # -- building ----------------------------------------------------------------------------------

    def _rebuild(self):
        self.built = False
        if not self.layers:
            return
        if self._has_input():
            self.build(self._layers[0].batch_shape)
        elif isinstance(self._layers[0], Sequential) and self._layers[0].built:
            self.build(self._layers[0].input_shape)

    def build(self, input_shape=None):
        """Create the weights for inputs of `input_shape`, None standing for any batch size."""
        if not self.layers:
            raise ValueError(f"{self._label()} build: expected at least one layer, got none")
        if input_shape is None and self._has_input():
            input_shape = self._layers[0].batch_shape
        if input_shape is None:
            raise ValueError(f"{self._label()} build: expected an input_shape, got None")
        shape = tuple(input_shape)
        if not self._has_input():
            self._layers.insert(0, InputLayer(batch_shape=shape))
        elif self._layers[0].batch_shape != shape:
            raise ValueError(
                f"{self._label()} build: expected input_shape {self._layers[0].batch_shape} "
                f"(as its Input says), got {shape}"
            )
        x = self._layers[0].output
        for layer in self.layers:
            x = layer(x)

    def _build_for(self, inputs):
        self.build((None, *_single(self, inputs).shape[1:]))

    def _input_specs(self):
        return self._layers[0].output

    # -- calling -----------------------------------------------------------------------------------

    def call(self, inputs, training=None):
        x = self._standardize(inputs)
        try:
            for layer in self.layers:
                x = layer(x)
        except ValueError as error:
            expected, found = self._layers[0].batch_shape, getattr(inputs, "shape", None)
            if not found or all(a in (b, None) for a, b in zip(expected, found, strict=False)):
                raise
            raise ValueError(
                f"{error} ({self._label()}: expected input of shape {expected}, got {found})"
            ) from error
        return x

    def _standardize(self, x):
        """The input with the axes and the type that the model was built for."""
        x = _single(self, x)
        expected, shape = self._layers[0].batch_shape, x.shape
        if len(shape) != len(expected):
            if len(shape) == len(expected) - 1 and expected[-1] == 1:
                shape = (*shape, 1)
            elif len(shape) == len(expected) + 1 and shape[-1] == 1:
                shape = shape[:-1]
            else:
                raise ValueError(
                    f"{self._label()}: expected input of shape {expected}, got {shape}"
                )
        if x.dtype.kind in "iub" and self._layers[0].dtype == "float32":
            if recording.state.log is not None:
                floats = recording.converted(x.data.reshape(shape), _FLOAT32)
            else:
                k = backend.get(x.device)
                floats = k.empty(shape, _FLOAT32)  # pooled memory
                k.xp.copyto(floats, x.data.reshape(shape), casting="unsafe")
            return Tensor._wrap(floats, x.device)
        return x if shape == x.shape else ops.reshape(x, shape)

    # -- shapes ------------------------------------------------------------------------------------

    def compute_output_shape(self, input_shape):
        for layer in self.layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    def flops(self, input_shape):
        total = 0
        for layer in self.layers:
            total += layer.flops(input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        return total

    @property
    def inputs(self):
        """The input as a list of one KerasTensor."""
        return [self._end("inputs", 0).output]

    @property
    def outputs(self):
        """The output as a list of one KerasTensor."""
        return [self._end("outputs", -1).output]

    @property
    def input_shape(self):
        """Shape of the input, None for any batch size."""
        return self._end("input shape", 0).batch_shape

    @property
    def output_shape(self):
        """Shape of the output, None for any batch size."""
        return self._end("output shape", -1).output.shape

    def _end(self, what, index):
        if not self.built:
            raise AttributeError(f"{self._label()} has no {what} before it is built")
        return self._layers[index]

    # -- configuration -----------------------------------------------------------------------------

    def get_config(self):
        config = {
            "name": self.name,
            "trainable": self._trainable,
            "layers": [_serialize(layer) for layer in self._layers],
        }
        if self.built:
            config["build_input_shape"] = self.input_shape
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model of a config from `get_config`, with new weights.

        Args:
            config: a dict with "name" and "layers".
            custom_objects: dict from class name to your own layer classes.
        """
        if not isinstance(config, dict) or not isinstance(config.get("layers"), (list, tuple)):
            raise ValueError(
                f"{cls.__name__}: expected a config with 'name' and 'layers', got {config!r}"
            )
        table = {**(custom_objects or {}), "Sequential": Sequential}
        model = cls(trainable=config.get("trainable", True), name=config.get("name"))
        for item in config["layers"]:
            model.add(layers_module.deserialize(item, table), rebuild=False)
        model._rebuild()
        shape = config.get("build_input_shape")
        if shape is not None and model.layers and not model.built:
            model.build(tuple(shape))
        return model


def _single(model, inputs):
    """The one input, also out of a list or dict of one."""
    if not isinstance(inputs, (list, tuple, dict)):
        return inputs
    if len(inputs) != 1:
        raise ValueError(f"{model._label()}: expected one input, got {len(inputs)}")
    return next(iter(inputs.values())) if isinstance(inputs, dict) else inputs[0]


def _serialize(layer):
    if isinstance(layer, Sequential):
        return {
            "module": "keras",
            "class_name": "Sequential",
            "config": layer.get_config(),
            "registered_name": None,
        }
    return layers_module.serialize(layer)
