"""`Model`: a layer that can be trained, judged, described and saved."""

from __future__ import annotations

import numpy as np

from ...autograd import no_grad
from ..layers import KerasTensor, Layer
from ..saving import load_weights, save_model, save_weights
from .trainer import Trainer, _Box


class Model(Trainer, Layer):
    """Base of models: subclass it, keep layers as attributes, define ``call``.

    Args:
        name: snake_case class name and a counter by default.
        trainable: False freezes all weights.

    >>> import numpy as np
    >>> from tilegrad import keras
    >>> class Net(keras.Model):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hidden = keras.layers.Dense(4, activation="relu")
    ...         self.out = keras.layers.Dense(1)
    ...     def call(self, x, training=False):
    ...         return self.out(self.hidden(x))
    >>> model = Net()
    >>> model.compile(optimizer="sgd", loss="mse")
    >>> x = np.zeros((8, 3), "float32")
    >>> history = model.fit(x, np.ones((8, 1)), epochs=2, verbose=0)
    >>> sorted(history.history), model.count_params()
    (['loss'], 21)
    """

    def __init__(self, *args, **kwargs):
        if args or "inputs" in kwargs or "outputs" in kwargs:
            raise TypeError(
                f"{type(self).__name__}: models from inputs and outputs are not supported; use a "
                "Sequential, or subclass Model and define call(self, x, training=False)"
            )
        super().__init__(**kwargs)
        self._built_for = None

    def call(self, inputs, training=None):
        raise NotImplementedError(
            f"{type(self).__name__} must define call(self, inputs, training=False)"
        )

    # -- building ----------------------------------------------------------------------------------

    def build(self, input_shape=None):
        """Create the weights for inputs of `input_shape`, None standing for any batch size.

        Args:
            input_shape: a shape, or a list or dict of shapes for a model that takes several inputs.
        """
        if type(self).build is not Model.build:  # called as super().build(...)
            self.built = True
            return
        if input_shape is None:
            raise ValueError(f"{self._label()} build: expected an input_shape, got None")
        with no_grad():
            self(_zeros(input_shape))

    def _build_for(self, inputs):
        if self.built is None:
            raise RuntimeError(
                f"{type(self).__name__}: __init__ must call super().__init__() first"
            )
        self._built_for = _Box(specs=_specs(inputs))
        if type(self).build is Model.build:
            self.built = True  # the layers inside build themselves as they are called
        else:
            super()._build_for(inputs)

    def _input_specs(self):
        """What the model was built for, as (nested) KerasTensors; None if unknown."""
        return None if self._built_for is None else self._built_for.specs

    # -- layers ------------------------------------------------------------------------------------

    @property
    def layers(self):
        """The layers directly inside, in order of assignment."""
        return self._flatten_layers(include_self=False, recursive=False)

    def get_layer(self, name=None, index=None):
        """The layer of a name or at an index.

        Raises:
            ValueError: both or neither were given, or there is no such layer.
        """
        layers = self.layers
        if (name is None) == (index is None):
            raise ValueError(
                f"get_layer: expected either a name or an index, got {name=}, {index=}"
            )
        if index is not None:
            if not -len(layers) <= index < len(layers):
                raise ValueError(f"get_layer: expected an index below {len(layers)}, got {index}")
            return layers[index]
        for layer in layers:
            if layer.name == name:
                return layer
        raise ValueError(f"get_layer: no layer {name!r} among {[layer.name for layer in layers]}")

    # -- description and files ---------------------------------------------------------------------

    def summary(
        self,
        line_length=None,
        positions=None,
        print_fn=None,
        expand_nested=False,
        show_trainable=False,
        layer_range=None,
    ):
        """Print a table of the layers: output shapes, parameters and forward FLOPs per sample.

        Args:
            line_length: width of the table; the terminal's, at most 88, by default.
            positions: where the columns end, as fractions of the width; three of them leave the
                FLOPs out.
            print_fn: receives the whole table as one string instead of its being printed.
            expand_nested: also list the layers of models inside the model.
            show_trainable: add a column that says which layers train.
            layer_range: two layer names (or patterns): the first and the last row.
        """
        from .summary import print_summary  # here, since it loads rich

        print_summary(
            self, line_length, positions, print_fn, expand_nested, show_trainable, layer_range
        )

    def save(self, filepath, overwrite=True):
        """Write weights, optimizer state and, for a `Sequential`, the configuration to one file.

        The file is written atomically; `keras.models.load_model` makes the model again. Of a
        subclassed model, whose Python code no file can hold, weights and optimizer state are
        written: make the model in Python, compile it, and `load_weights` brings both back.

        Args:
            filepath: a path ending in ``.safetensors``.
            overwrite: False refuses to replace an existing file.
        """
        save_model(self, filepath, overwrite)

    def save_weights(self, filepath, overwrite=True):
        """Write the weights to a safetensors file, atomically.

        Args:
            filepath: a path ending in ``.safetensors``.
            overwrite: False refuses to replace an existing file.
        """
        save_weights(self, filepath, overwrite)

    def load_weights(self, filepath, skip_mismatch=False):
        """Read weights that `save_weights` or `save` wrote.

        Names, shapes and types must be those of this model; nothing is changed otherwise. If the
        file holds the state of an optimizer of the kind that this model is compiled with, it is
        restored too.

        Args:
            filepath: a path ending in ``.safetensors``.
            skip_mismatch: take what fits, warn about the rest.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged, or is not of this model.
        """
        load_weights(self, filepath, skip_mismatch)


def _zeros(shape):
    """One sample of zeros for a shape, or for a list or dict of shapes."""
    if isinstance(shape, dict):
        return {key: _zeros(item) for key, item in shape.items()}
    if shape and isinstance(shape[0], (list, tuple)):
        return [_zeros(item) for item in shape]
    if any(size is None for size in shape[1:]):
        raise ValueError(f"build: expected all sizes but the batch's, got {tuple(shape)}")
    return np.zeros((1, *shape[1:]), "float32")


def _specs(inputs):
    """Shape (any batch size) and type of each input, as KerasTensors."""
    if isinstance(inputs, dict):
        return {key: _specs(value) for key, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return [_specs(value) for value in inputs]
    return KerasTensor((None, *inputs.shape[1:]), str(inputs.dtype), name="input")
