"""`Layer`: weights, and a call that maps tensors to tensors.

A layer is built, that is, gets its weights, when it first sees an input. The layers that are
running form a stack per thread; it tells a layer whether it trains, and names weights by where they
live.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
import threading
import warnings
import weakref

import numpy as np

from ... import backend, recording
from ...autograd import no_grad
from ...interrupts import uninterrupted
from ...tensor import Tensor
from .. import activations, initializers, regularizers
from ..naming import auto_name
from ..variable import Variable
from . import deferred

_FLOAT64 = np.dtype(np.float64)


class _Calls(threading.local):
    def __init__(self):
        self.stack = []  # (layer, training) of every layer that is being called or built
        self.with_losses = weakref.WeakSet()  # layers that keep a loss of their last call


_calls = _Calls()


class InputSpec:
    """What a layer expects of its input.

    Args:
        dtype, name: for the reader, as in Keras; inputs are converted.
        shape: sizes with None for any.
        ndim, max_ndim, min_ndim: number of axes.
        axes: axis -> size.
        allow_last_axis_squeeze: a last axis of size 1 may be there or not.
        optional: None is accepted.
    """

    def __init__(
        self,
        dtype=None,
        shape=None,
        ndim=None,
        max_ndim=None,
        min_ndim=None,
        axes=None,
        allow_last_axis_squeeze=False,
        name=None,
        optional=False,
    ):
        self.dtype = dtype
        self.shape = None if shape is None else tuple(shape)
        self.ndim = ndim if shape is None else len(self.shape)
        self.max_ndim = max_ndim
        self.min_ndim = min_ndim
        self.axes = dict(axes or {})
        self.allow_last_axis_squeeze = allow_last_axis_squeeze
        self.name = name
        self.optional = optional
        if shape is not None:
            self.axes |= {axis: size for axis, size in enumerate(self.shape) if size is not None}

    def check(self, layer: Layer, shape) -> None:
        """Raise a ValueError that names `layer` unless `shape` fits; sizes of None fit."""
        if self.allow_last_axis_squeeze and self.ndim is not None:
            if len(shape) == self.ndim + 1 and shape[-1] == 1:
                shape = shape[:-1]
            elif len(shape) == self.ndim - 1:
                shape = (*shape, 1)
        ndim = len(shape)
        expected = None
        if self.ndim is not None and ndim != self.ndim:
            expected = f"{self.ndim} axes"
        elif self.min_ndim is not None and ndim < self.min_ndim:
            expected = f"at least {self.min_ndim} axes"
        elif self.max_ndim is not None and ndim > self.max_ndim:
            expected = f"at most {self.max_ndim} axes"
        else:
            for axis, size in self.axes.items():
                if size is not None and shape[axis] not in (size, None):
                    expected = f"size {size} in axis {axis}"
                    break
        if expected is not None:
            raise ValueError(
                f"{layer._label()}: expected an input with {expected}, got shape {tuple(shape)}"
            )

    def __repr__(self) -> str:
        given = {k: v for k, v in vars(self).items() if v not in (None, {}, False)}
        return f"InputSpec({', '.join(f'{k}={v}' for k, v in given.items())})"


class KerasTensor:
    """A tensor to come: its shape (None where unknown) and the layer that will make it.

    Attributes:
        layer: the layer whose output this is; an `InputLayer` for an input.
        inputs: what that layer was called on, a (nested) list of KerasTensors.
    """

    def __init__(self, shape, dtype="float32", name=None, layer=None, inputs=()):
        self.shape = tuple(shape)
        self.dtype = dtype
        self.name = auto_name("keras_tensor") if name is None else name
        self.layer = layer
        self.inputs = inputs

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(self, *_, **__):
        raise TypeError(f"{self!r} has no value yet: it stands for the input of a model")

    def __repr__(self) -> str:
        return f"<KerasTensor shape={self.shape}, dtype={self.dtype}, name={self.name}>"


class Layer(recording.Watched):
    """Base of all layers and models.

    A subclass makes its weights in ``build(self, input_shape)`` with `add_weight` (or holds other
    layers), and computes in ``call(self, inputs)``; if `call` has a parameter ``training``, it is
    told whether the model trains. Variables and layers that it keeps as attributes, also in lists
    and dicts, count as its own.

    Args:
        name: snake_case class name and a counter by default.
        trainable: False freezes the weights.
        dtype: None or "float32".
        activity_regularizer: penalty on the output, over the batch size, added to the loss.
        input_shape: shape of one sample, for the first layer of a `Sequential`.

    Raises:
        ValueError: an unknown keyword argument, another dtype.

    >>> class Scale(Layer):
    ...     def build(self, input_shape):
    ...         self.factor = self.add_weight(input_shape[-1:], "ones", name="factor")
    ...     def call(self, inputs):
    ...         return inputs * self.factor
    >>> layer = Scale()
    >>> layer([[1.0, 2.0]]).numpy().tolist(), layer.count_params()
    ([[1.0, 2.0]], 2)
    """

    built = None  # None until __init__ has run, then False, then True
    input_spec: InputSpec | None = None
    supports_masking = False
    _accepts_training = False
    _training_default = None

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        self._init_arguments = (args, kwargs)
        return self

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "build" in cls.__dict__:
            cls.build = _tracked_build(cls.build)
        if "call" in cls.__dict__:
            parameters = inspect.signature(cls.call).parameters
            training = parameters.get("training")
            cls._accepts_training = training is not None
            empty = training is None or training.default is inspect.Parameter.empty
            cls._training_default = None if empty else training.default

    def __init__(
        self,
        *,
        name=None,
        trainable=True,
        dtype=None,
        activity_regularizer=None,
        autocast=True,
        **kwargs,
    ):
        cls = type(self).__name__
        shape = kwargs.pop("input_shape", None)
        if "batch_input_shape" in kwargs:
            shape = tuple(kwargs.pop("batch_input_shape"))[1:]
        if "input_dim" in kwargs:
            shape = (kwargs.pop("input_dim"),)
        if kwargs:
            names = ", ".join(sorted(kwargs))
            raise ValueError(f"{cls}: unknown argument{'s' if len(kwargs) > 1 else ''} {names}")
        if name is not None and not isinstance(name, str):
            raise ValueError(f"{cls}: expected name to be a string, got {name!r}")
        if name and "/" in name:
            raise ValueError(f"{cls}: expected a name without '/', got {name!r}")
        _check_dtype(cls, dtype)
        if shape is not None:
            warnings.warn(
                f"{cls}: input_shape is accepted, but an Input(shape) as the first item of the "
                "Sequential model says the same more clearly",
                stacklevel=_constructor_depth(self),
            )
            self._input_shape_arg = (shape,) if isinstance(shape, int) else tuple(shape)
        else:
            self._input_shape_arg = None
        self.name = auto_name(cls) if name is None else name
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self.built = False
        self._trainable = bool(trainable)
        self._weights: list[Variable] = []
        self._call_losses: list[Tensor] = []
        self._building = False
        self._symbolic = None  # (inputs, outputs) of the last call on KerasTensors

    # -- calling -----------------------------------------------------------------------------------

    def __call__(self, inputs, *args, training=None, **kwargs):
        """Build if needed, then `call`.

        Args:
            inputs: a tensor, an array or a (nested) list or dict of them; a `KerasTensor` gives a
                `KerasTensor`.
            training: whether dropout and the like are active; by default as in the enclosing call.

        Raises:
            ValueError: an input that the layer cannot take.
        """
        if not isinstance(inputs, Tensor):
            if _contains_symbolic(inputs):
                return self._symbolic_call(inputs)
            inputs = _as_tensors(inputs)
        if args:
            args, training = self._split_training(inputs, args, training)
        if self.input_spec is not None:
            self._check_input(inputs)
        stack = _calls.stack
        if training is None:
            training = stack[-1][1] if stack else None
            if training is None:
                training = self._training_default
        if not stack and _calls.with_losses:
            self._clear_losses()
        if not self.built:
            self._build_for(inputs)
        if self._weights and isinstance(inputs, Tensor) and inputs.data.dtype == _FLOAT64:
            inputs = _in_float32(inputs)
        if self._accepts_training:
            kwargs["training"] = training
        recording.guard(self, "edits")
        stack.append((self, training))
        try:
            outputs = self.call(inputs, *args, **kwargs)
        except BaseException:
            deferred.settle(run=False)
            raise
        finally:
            stack.pop()
        if not stack:
            deferred.settle(run=True)
        if self.activity_regularizer is not None:
            for output in _leaves(outputs):
                self.add_loss(self.activity_regularizer(output) / float(max(1, len(output))))
        return outputs

    def call(self, inputs):
        raise NotImplementedError(f"{type(self).__name__} has no call(inputs)")

    def _check_input(self, inputs) -> None:
        if isinstance(inputs, (list, tuple, dict)):
            if isinstance(self.input_spec, InputSpec):
                raise ValueError(f"{self._label()}: expected one input, got {len(inputs)}")
            for spec, x in zip(self.input_spec, inputs, strict=True):
                if x is not None or not spec.optional:
                    spec.check(self, x.shape)
        else:
            self.input_spec.check(self, inputs.shape)

    def _split_training(self, inputs, args, training):
        """Take `training` out of positional arguments, where `call` has it among them."""
        if not self._accepts_training:
            return args, training
        arguments = inspect.signature(self.call).bind(inputs, *args).arguments
        if "training" not in arguments:
            return args, training
        position = list(arguments).index("training") - 1
        return args[:position] + args[position + 1 :], arguments["training"]

    def _symbolic_call(self, inputs):
        """Build from the shapes of KerasTensors and give the output's."""
        if self.input_spec is not None:
            self._check_input(inputs)
        if not self.built:
            self._build_for(inputs)
        shape = self.compute_output_shape(_shapes(inputs))
        outputs = _map_shapes(lambda s: KerasTensor(s, layer=self, inputs=inputs), shape)
        self._symbolic = (inputs, outputs)
        return outputs

    @property
    def input(self):
        """The KerasTensor that the layer was last called on, as within a `Sequential`."""
        return self._last_symbolic("input", 0)

    @property
    def output(self):
        """The KerasTensor that this call gave."""
        return self._last_symbolic("output", 1)

    def _last_symbolic(self, what, index):
        if self._symbolic is None:
            raise AttributeError(
                f"{self._label()} has no {what} before it is part of a built model"
            )
        return self._symbolic[index]

    def _label(self) -> str:
        return f"{type(self).__name__} '{self.name}'"

    # -- building ----------------------------------------------------------------------------------

    def build(self, input_shape=None):
        """Make the weights; a subclass that has none needs no build."""
        self.built = True

    def _build_for(self, inputs) -> None:
        if self.built is None:
            raise RuntimeError(
                f"{type(self).__name__}: __init__ must call super().__init__() before anything else"
            )
        self.build(_shapes(inputs))
        self.built = True

    def add_weight(
        self,
        shape=None,
        initializer=None,
        dtype=None,
        trainable=True,
        autocast=True,
        regularizer=None,
        constraint=None,
        aggregation=None,
        layout=None,
        name=None,
    ) -> Variable:
        """A new variable of this layer.

        Args:
            shape: its shape, () by default.
            initializer: a name, an object or a callable; "glorot_uniform" by default.
            dtype: "float32" by default.
            trainable: whether the optimizer changes it.
            regularizer: penalty on it, added to the loss.
            constraint: not supported, must be None.
            name: the last part of its path.
            autocast, aggregation, layout: without effect here; Keras has them.
        """
        if self.built is None:
            raise RuntimeError(f"{type(self).__name__}: call super().__init__() before add_weight")
        check_constraint(f"{self._label()} add_weight", constraint)
        shape = () if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
        if any(size is None or size < 0 for size in shape):
            raise ValueError(
                f"{self._label()}: expected weight {name!r} to have a known shape, got {shape}"
            )
        if math.prod(shape) >= 2**31:
            raise ValueError(
                f"{self._label()}: expected weight {name!r} to have less than 2**31 elements, "
                f"got shape {shape}"
            )
        floating = np.dtype(dtype or "float32").kind == "f"
        initializer = initializers.get(initializer or ("glorot_uniform" if floating else "zeros"))
        variable = Variable(initializer, shape, dtype or "float32", trainable, name)
        variable.trainable = trainable and self._trainable
        variable.regularizer = regularizers.get(regularizer)
        path = [layer.name for layer, _ in _calls.stack]
        if not path or _calls.stack[-1][0] is not self:
            path.append(self.name)
        variable.path = "/".join([name for i, name in enumerate(path) if path[i - 1 : i] != [name]])
        variable.path += f"/{variable.name}"
        self._weights.append(variable)
        return variable

    # -- weights -----------------------------------------------------------------------------------

    def _own_variables(self) -> list[Variable]:
        found = dict.fromkeys(self._weights)
        for key, value in vars(self).items():
            if key not in ("_weights", "_init_arguments", "_call_losses"):
                found |= dict.fromkeys(_found(value, Variable))
        return list(found)

    def _own_layers(self) -> list[Layer]:
        found = {}
        for key, value in vars(self).items():
            if key not in ("_weights", "_init_arguments", "_call_losses"):
                found |= dict.fromkeys(_found(value, Layer))
        return list(found)

    def _flatten_layers(self, include_self=True, recursive=True) -> list[Layer]:
        """This layer and those inside it, in order of assignment, each once."""
        found = {self: None}
        stack = self._own_layers()[::-1]
        while stack:
            layer = stack.pop()
            if layer not in found:
                found[layer] = None
                if recursive:
                    stack.extend(layer._own_layers()[::-1])
        return list(found)[0 if include_self else 1 :]

    @property
    def weights(self) -> list[Variable]:
        """All variables: its own, trainable ones first, then those of the layers inside."""
        found = {}
        for layer in self._flatten_layers():
            own = layer._own_variables()
            found |= dict.fromkeys(v for v in own if v.created_trainable)
            found |= dict.fromkeys(v for v in own if not v.created_trainable)
        return list(found)

    @property
    def variables(self) -> list[Variable]:
        """The same as `weights`."""
        return self.weights

    @property
    def trainable_weights(self) -> list[Variable]:
        """What the optimizer changes; empty for a frozen layer."""
        if not self._trainable:
            return []
        return [v for v in self.weights if v.trainable]

    @property
    def trainable_variables(self) -> list[Variable]:
        """The same as `trainable_weights`."""
        return self.trainable_weights

    @property
    def non_trainable_weights(self) -> list[Variable]:
        """The weights that the optimizer leaves alone."""
        trainable = set(self.trainable_weights)
        return [v for v in self.weights if v not in trainable]

    @property
    def non_trainable_variables(self) -> list[Variable]:
        """The same as `non_trainable_weights`."""
        return self.non_trainable_weights

    @property
    def trainable(self) -> bool:
        """Whether training changes the weights; setting it reaches the layers inside."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self._flatten_layers():
            layer._trainable = bool(value)
            for variable in layer._own_variables():
                variable.trainable = value and variable.created_trainable

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all weights, in the order of `weights`."""
        return [v.numpy() for v in self.weights]

    def set_weights(self, weights) -> None:
        """Overwrite all weights, given as a list of arrays in the order of `weights`.

        Raises:
            ValueError: another number of arrays, or another shape; nothing is written then.
        """
        variables = self.weights
        if not hasattr(weights, "__len__"):
            raise ValueError(
                f"{self._label()} set_weights: expected a list of {len(variables)} arrays, "
                f"got {type(weights).__name__}"
            )
        if len(variables) != len(weights):
            raise ValueError(
                f"{self._label()} set_weights: expected {len(variables)} arrays "
                f"({', '.join(v.path for v in variables)}), got {len(weights)}"
            )
        weights = [
            value.data if isinstance(value, Tensor) else backend.as_array(value)
            for value in weights
        ]
        for variable, value in zip(variables, weights, strict=True):
            if value.shape != variable.shape or value.dtype.kind not in "fiub":
                raise ValueError(
                    f"{self._label()} set_weights: expected {variable.path} as numbers of shape "
                    f"{variable.shape}, got {value.dtype} of shape {value.shape}"
                )
        with uninterrupted():
            for variable, value in zip(variables, weights, strict=True):
                variable.assign(value)

    def count_params(self) -> int:
        """How many numbers the weights hold.

        Raises:
            ValueError: the layer is not built.
        """
        if not self.built:
            raise ValueError(
                f"{self._label()} count_params: not built yet; call it or build(input_shape)"
            )
        return sum(v.size for v in self.weights)

    # -- losses ------------------------------------------------------------------------------------

    def add_loss(self, loss) -> None:
        """Add a scalar tensor (or a list of them), computed in `call`, to the model's loss."""
        for value in loss if isinstance(loss, (list, tuple)) else [loss]:
            self._call_losses.append(value if isinstance(value, Tensor) else Tensor._coerce(value))
        _calls.with_losses.add(self)

    @property
    def losses(self) -> list[Tensor]:
        """The losses of the last call and the penalties on trainable weights, as scalar tensors."""
        found = [loss for layer in self._flatten_layers() for loss in layer._call_losses]
        found += [v.regularizer(v) for v in self.trainable_weights if v.regularizer is not None]
        return found

    def _clear_losses(self) -> None:
        for layer in self._flatten_layers():
            layer._call_losses.clear()
            _calls.with_losses.discard(layer)

    # -- description -------------------------------------------------------------------------------

    @property
    def dtype(self) -> str:
        return "float32"

    compute_dtype = variable_dtype = dtype

    @property
    def path(self) -> str:
        """The names of the layers being called or built round this one, and its own."""
        names = [layer.name for layer, _ in _calls.stack if layer is not self]
        return "/".join([*names, self.name])

    def compute_output_shape(self, input_shape):
        """The output's shape for an input of `input_shape`, None standing for any batch size.

        By default `call` is tried on one sample of zeros.

        Raises:
            ValueError: a size other than the batch's is None.
        """
        batches = []

        def sample(shape):
            if None in shape[1:]:
                raise ValueError(
                    f"{self._label()} compute_output_shape: expected all sizes but the batch's, "
                    f"got {shape}"
                )
            batches.append(shape[0])
            return Tensor(np.zeros((1, *shape[1:]), np.float32))

        inputs = _map_shapes(sample, input_shape)
        with no_grad():
            outputs = self(inputs)
        return _map_shapes(lambda shape: (batches[0], *shape[1:]), _shapes(outputs))

    def flops(self, input_shape) -> int:
        """Floating-point operations of the forward pass for one sample of `input_shape`.

        Counted are the multiplications and additions of matrix products and convolutions, two per
        weight and position; everything else is 0.
        """
        return 0

    def get_config(self) -> dict:
        """The constructor's arguments, so that ``type(layer).from_config(config)`` makes its like.

        Raises:
            NotImplementedError: the class takes arguments that a config cannot hold and has no
                get_config of its own.
        """
        config = {
            "name": self.name,
            "trainable": self._trainable,
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": "float32"},
                "registered_name": None,
            },
        }
        if self.activity_regularizer is not None:
            config["activity_regularizer"] = regularizers.serialize(self.activity_regularizer)
        if type(self).get_config is Layer.get_config and type(self).__init__ is not Layer.__init__:
            args, kwargs = self._init_arguments
            given = inspect.signature(type(self).__init__).bind(self, *args, **kwargs)
            arguments = dict(list(given.arguments.items())[1:])
            arguments |= arguments.pop("kwargs", {})
            if not all(_is_plain(value) for value in arguments.values()):
                raise NotImplementedError(
                    f"{type(self).__name__} needs a get_config() that returns its arguments"
                )
            config |= arguments
        return config

    @classmethod
    def from_config(cls, config: dict) -> Layer:
        """A new layer with the arguments in `config`."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={bool(self.built)}>"


def _tracked_build(build):
    """`build` with its layer on the stack, for the weights' paths; marks the layer built."""

    @functools.wraps(build)
    def tracked(self, *args, **kwargs):
        if self.built is None:
            raise RuntimeError(
                f"{type(self).__name__}: __init__ must call super().__init__() first"
            )
        if self._building:  # super().build(...)
            return build(self, *args, **kwargs)
        stack = _calls.stack
        self._building = True
        stack.append((self, stack[-1][1] if stack else None))
        try:
            build(self, *args, **kwargs)
        finally:
            stack.pop()
            self._building = False
        self.built = True

    return tracked


def _check_dtype(cls: str, dtype) -> None:
    if isinstance(dtype, dict):
        dtype = dtype.get("config", {}).get("name", dtype)
    if dtype is None or getattr(dtype, "name", dtype) == "float32":
        return
    if isinstance(dtype, type) and np.dtype(dtype) == np.float32:
        return
    raise ValueError(f"{cls}: expected dtype 'float32' (the only one supported), got {dtype!r}")


def check_constraint(what: str, constraint) -> None:
    """Constraints are not supported: a ValueError unless it is None."""
    if constraint is not None:
        raise ValueError(
            f"{what}: constraints are not supported, expected None, got {constraint!r}"
        )


class Fused:
    """A layer's activation: fused into its op where a kernel can do that, else applied after it."""

    def __init__(self, identifier):
        self.function = activations.get(identifier)
        try:
            self.name, self.alpha = activations.FUSED[self.function]
            self.after = None
        except (KeyError, TypeError):
            self.name = self.alpha = None
            self.after = self.function


def in_model() -> bool:
    """Whether the layer that is being called was called by another one."""
    return len(_calls.stack) > 1


def _constructor_depth(layer: Layer) -> int:
    """The stacklevel that makes a warning in `Layer.__init__` point at the constructor's caller."""
    frame, depth = sys._getframe(1), 1
    while frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is layer:
        frame, depth = frame.f_back, depth + 1
    return depth


def _found(value, kind):
    """Objects of class `kind` in a value that may be a nested list, tuple or dict."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, Fused):
        yield from _found(value.function, kind)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _found(item, kind)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _found(item, kind)


def _as_tensors(x):
    """Arrays and numbers in a nested structure as tensors, floating-point ones in float32."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, dict):
        return {key: _as_tensors(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)) and any(_is_array(item) for item in x):
        return type(x)([_as_tensors(item) for item in x])
    array = backend.as_array(x)
    return Tensor(array.astype(np.float32, copy=False) if array.dtype.kind == "f" else x)


def _in_float32(x: Tensor) -> Tensor:
    """A float64 tensor (device "reference") as the weights need it, if no gradient is lost."""
    return x if x.requires_grad else Tensor(x.data.astype(np.float32), device=x.device)


def _is_array(x) -> bool:
    if isinstance(x, (Tensor, dict)):
        return True
    return hasattr(x, "__array__") and bool(getattr(x, "ndim", None) or np.ndim(x))


def _contains_symbolic(x) -> bool:
    if isinstance(x, (list, tuple)):
        return any(isinstance(item, KerasTensor) for item in x)
    return isinstance(x, KerasTensor)


def _leaves(x) -> list:
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, (list, tuple)):
        return [leaf for item in x for leaf in _leaves(item)]
    return [x]


def _shapes(x):
    if isinstance(x, dict):
        return {key: _shapes(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_shapes(item) for item in x]
    return tuple(x.shape)


def _map_shapes(fn, shape):
    """`fn` of each shape in a nested structure of shapes."""
    if isinstance(shape, dict):
        return {key: _map_shapes(fn, value) for key, value in shape.items()}
    if all(size is None or isinstance(size, (int, np.integer)) for size in shape):
        return fn(tuple(shape))
    return [_map_shapes(fn, item) for item in shape]


def _is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    return value is None or isinstance(value, (bool, int, float, str))


def window_pair(cls: str, what: str, value, least: int = 1) -> tuple[int, int]:
    """An integer or a pair as (height, width), each at least `least`."""
    pair = (value, value) if isinstance(value, (int, np.integer)) else value
    try:
        pair = tuple(int(size) if int(size) == size else size for size in pair)
    except (TypeError, ValueError):
        pair = None
    if pair is None or len(pair) != 2 or not all(isinstance(s, int) and s >= least for s in pair):
        raise ValueError(
            f"{cls}: expected {what} to be one or two integers >= {least}, got {value!r}"
        )
    return pair


def check_padding(cls: str, padding) -> str:
    """`padding` in lower case, if it is "valid" or "same"."""
    if not isinstance(padding, str) or padding.lower() not in ("valid", "same"):
        raise ValueError(f"{cls}: expected padding 'valid' or 'same', got {padding!r}")
    return padding.lower()


def window_output(label: str, size, window: int, stride: int, padding: str, dilation: int = 1):
    """How many windows fit along an axis of `size`; None if that is unknown."""
    if size is None:
        return None
    if padding == "same":
        return -(-size // stride)
    reach = (window - 1) * dilation + 1
    if size < reach:
        raise ValueError(
            f"{label}: a window that spans {reach} does not fit an image of size {size}"
        )
    return (size - reach) // stride + 1


def positive_int(cls: str, what: str, value) -> int:
    """`value` as an int, if it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{cls}: expected {what} to be a positive integer, got {value!r}")
    return int(value)
