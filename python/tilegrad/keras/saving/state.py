"""What goes into a model's file: weights by name, the optimizer's state, the configuration.

A file is safetensors: ``conv2d/kernel`` and so on, optimizer state under ``@optimizer/``, and in
the metadata (strings) ``format``, ``format_version``, ``content`` ("weights" or "model"), and for
a model ``config``, ``compile`` and ``optimizer`` as JSON. Classes in a configuration are looked up
in the fixed tables of this package; nothing is imported or executed by name.
"""

from __future__ import annotations

import json
import os
import re
import warnings

from ... import backend
from ...interrupts import uninterrupted
from .. import losses, metrics, optimizers
from ..layers import InputLayer
from ..naming import to_snake_case
from .files import check_suffix, read, write

FORMAT_VERSION = 1
_OPTIMIZER = "@optimizer/"


def named_weights(model) -> dict:
    """Every variable of `model` by a name that two models of the same code share.

    Layer names carry counters that go on from model to model in one process (``dense_2``), so
    layers without a name of their own are counted anew within their parent here.
    """
    found = {}
    _collect(model, "", found, set())
    return found


def _collect(layer, prefix, found, seen):
    seen.add(layer)
    own = layer._own_variables()
    own = [v for v in own if v.created_trainable] + [v for v in own if not v.created_trainable]
    for variable in own:
        found[_unique(f"{prefix}{variable.name}", found)] = variable
    taken = set()
    for child in layer._own_layers():
        if isinstance(child, InputLayer) or child in seen:
            continue
        kind = to_snake_case(type(child).__name__)
        automatic = re.fullmatch(rf"{re.escape(kind)}(_\d+)?", child.name)
        name = _unique(kind if automatic else child.name, taken)
        taken.add(name)
        _collect(child, f"{prefix}{name}/", found, seen)


def _unique(name, taken):
    candidate, count = name, 1
    while candidate in taken:
        candidate = f"{name}_{count}"
        count += 1
    return candidate


def save_weights(model, filepath, overwrite=True):
    """Write the weights of `model`; see `Model.save_weights`."""
    path = _target(filepath, overwrite, "save_weights")
    _require_built(model, "save_weights")
    write(path, _arrays(named_weights(model)), format_metadata("weights"))


def load_weights(model, filepath, skip_mismatch=False):
    """Read the weights of `model`; see `Model.load_weights`."""
    path = check_suffix(filepath, "load_weights")
    _require_built(model, "load_weights")
    tensors, metadata = read(path)
    check_format(path, metadata)
    assign(model, path, _weights_in(tensors), skip_mismatch)
    optimizer = model.optimizer
    if optimizer is not None and "optimizer" in metadata:
        saved = _json(path, metadata, "optimizer")
        if saved.get("class_name") == type(optimizer).__name__:
            _restore_optimizer(model, path, tensors, saved)


def save_model(model, filepath, overwrite=True):
    """Write weights, optimizer state and configuration; see `Model.save`."""
    from ..models.sequential import Sequential

    path = _target(filepath, overwrite, "save")
    _require_built(model, "save")
    tensors = _arrays(named_weights(model))
    metadata = format_metadata("model")
    if type(model) is Sequential:
        metadata["config"] = json.dumps(model.get_config())
        arguments = _compile_config(model)
        if arguments is not None:
            metadata["compile"] = json.dumps(arguments)
    if model.optimizer is not None:
        state, metadata["optimizer"] = _optimizer_state(model)
        tensors.update(state)
    write(path, tensors, metadata)


def load_model(filepath, custom_objects=None, compile=True):
    """The `Sequential` that `model.save` wrote: layers, weights and, if compiled, optimizer state.

    Args:
        filepath: a path ending in ``.safetensors``.
        custom_objects: dict from class name to your own layer classes.
        compile: False leaves the model uncompiled.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, hostile, or holds no configuration.
    """
    from ..models.sequential import Sequential

    path = check_suffix(filepath, "load_model")
    tensors, metadata = read(path)
    check_format(path, metadata)
    if "config" not in metadata:
        raise ValueError(
            f"load_model: expected a file that Sequential.save wrote, got {path!r} with "
            f"{metadata.get('content', 'unknown content')} alone; make the model in Python "
            "and call load_weights"
        )
    config = _json(path, metadata, "config")
    try:
        model = Sequential.from_config(config, custom_objects)
        if not model.built and tensors:
            raise ValueError("the shape of the input is missing")
    except (TypeError, ValueError, KeyError, AttributeError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"load_model: {path!r} holds a configuration of no model: {error}"
        ) from error
    if model.built:
        assign(model, path, _weights_in(tensors))
    if compile and "compile" in metadata:
        _compile(model, path, _json(path, metadata, "compile"))
        if "optimizer" in metadata:
            _restore_optimizer(model, path, tensors, _json(path, metadata, "optimizer"))
    return model


# -- weights ---------------------------------------------------------------------------------------


def _arrays(variables):
    return {name: variable.data for name, variable in variables.items()}


def _weights_in(tensors):
    return {name: value for name, value in tensors.items() if not name.startswith(_OPTIMIZER)}


def assign(model, path, stored, skip_mismatch=False):
    """Copy `stored` into the model's variables, all or (unless `skip_mismatch`) none.

    Args:
        model: the model.
        path: where `stored` comes from, for errors.
        stored: dict from the names of `named_weights` to arrays.
        skip_mismatch: True warns of what does not fit, and takes the rest.

    Raises:
        ValueError: names, shapes or dtypes differ.
    """
    variables = named_weights(model)
    problems = [f"{name} is missing" for name in variables if name not in stored]
    problems += [f"{name} belongs to no layer" for name in stored if name not in variables]
    fitting = {}
    for name, variable in variables.items():
        if name not in stored:
            continue
        value = stored[name]
        if value.shape != variable.shape or value.dtype != variable.dtype:
            problems.append(
                f"{name}: expected {variable.dtype} of shape {variable.shape}, "
                f"got {value.dtype} of shape {value.shape}"
            )
        else:
            fitting[name] = value
    if problems:
        text = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if problems[8:] else "")
        if not skip_mismatch:
            raise ValueError(f"{path!r} does not fit model '{model.name}': {text}")
        warnings.warn(f"{path!r}: skipped what does not fit: {text}", stacklevel=4)
    with uninterrupted():
        for name, value in fitting.items():
            variables[name].assign(value)


def _require_built(model, what):
    unbuilt = not all(layer.built for layer in model._flatten_layers())
    if not model.built or (unbuilt and not model.weights):
        raise ValueError(
            f"{what}: expected a built model, got '{model.name}' without weights; call "
            "build(input_shape), or the model on some data"
        )


# -- optimizer -------------------------------------------------------------------------------------


def _optimizer_state(model):
    """The optimizer's arrays by their weights' names, and its class, config and step count."""
    optimizer = model.optimizer
    names = {id(variable): name for name, variable in named_weights(model).items()}
    state = {
        f"{_OPTIMIZER}{kind}/{names[id(variable)]}": array
        for kind, variable, array in optimizer.state_arrays()
    }
    saved = {**optimizers.serialize(optimizer), "iterations": int(optimizer._iterations)}
    return state, json.dumps(saved)


def _restore_optimizer(model, path, tensors, saved):
    """Put the optimizer into the saved state: arrays, step count, learning rate; all or nothing."""
    optimizer = model.optimizer
    iterations = saved.get("iterations")
    if (
        isinstance(iterations, bool)
        or not isinstance(iterations, int)
        or not 0 <= iterations < 2**63
    ):
        raise ValueError(f"{path!r}: expected the optimizer's count of steps, got {iterations!r}")
    pairs = []
    if any(name.startswith(_OPTIMIZER) for name in tensors):  # there are none before the first step
        optimizer.build(model.trainable_weights)
        names = {id(variable): name for name, variable in named_weights(model).items()}
        for kind, variable, array in optimizer.state_arrays():
            key = f"{_OPTIMIZER}{kind}/{names[id(variable)]}"
            value = tensors.get(key)
            if value is None or value.shape != array.shape or value.dtype != array.dtype:
                found = "nothing" if value is None else f"{value.dtype} of shape {value.shape}"
                raise ValueError(
                    f"{path!r}: expected {key} as {array.dtype} of shape {array.shape}, got {found}"
                )
            pairs.append((array, value))
    rate = saved.get("config", {}).get("learning_rate")
    if isinstance(rate, float):
        try:
            optimizer.learning_rate = rate
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path!r}: the optimizer's learning rate: {error}") from error
    with uninterrupted():
        for array, value in pairs:
            backend.copy_into(array, value)
        optimizer._iterations.assign(iterations)


# -- configuration ---------------------------------------------------------------------------------


def _compile_config(model):
    """The arguments of `compile` as JSON can hold them; None (and a warning) if it cannot."""
    if not model.compiled:
        return None
    arguments = dict(vars(model._compile_arguments))
    try:
        return {
            "optimizer": optimizers.serialize(arguments.pop("optimizer")),
            "loss": _portable(losses, arguments.pop("loss")),
            "metrics": _portable(metrics, arguments.pop("metrics")),
            "weighted_metrics": _portable(metrics, arguments.pop("weighted_metrics")),
            **arguments,
        }
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        warnings.warn(
            f"save: the arguments of compile() cannot be stored ({error}); after load_model call "
            "compile() again",
            stacklevel=4,
        )
        return None


def _portable(module, identifier):
    """An identifier, or a list or dict of them, as names and configs that lead back to it."""
    if identifier is None or isinstance(identifier, str):
        return identifier
    if isinstance(identifier, (list, tuple)):
        return [_portable(module, item) for item in identifier]
    if isinstance(identifier, dict):
        return {key: _portable(module, item) for key, item in identifier.items()}
    config = module.serialize(identifier)
    module.get(config)  # raises for what is not of this package
    return config


def _compile(model, path, arguments):
    expected = {
        *("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics"),
        *("run_eagerly", "steps_per_execution", "jit_compile"),
    }
    if not isinstance(arguments, dict) or not set(arguments) <= expected:
        raise ValueError(f"{path!r}: expected the arguments of compile, got {arguments!r}")
    try:
        arguments["loss"] = _revive(losses, arguments.get("loss"))
        for key in ("metrics", "weighted_metrics"):
            arguments[key] = _revive(metrics, arguments.get(key))
        model.compile(**arguments)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path!r} holds no usable arguments of compile: {error}") from error


def _revive(module, identifier):
    if isinstance(identifier, list):
        return [_revive(module, item) for item in identifier]
    if isinstance(identifier, dict):
        if "class_name" in identifier:
            return module.get(identifier)
        return {key: _revive(module, item) for key, item in identifier.items()}
    return identifier


# -- format ----------------------------------------------------------------------------------------


def format_metadata(content):
    """What every file's metadata begin with; `content` is "weights", "model" or "training"."""
    return {"format": "tilegrad", "format_version": str(FORMAT_VERSION), "content": content}


def check_format(path, metadata):
    """Raise a ValueError for a file of another format or a later version."""
    version = metadata.get("format_version", "1")
    if metadata.get("format", "tilegrad") in ("tilegrad", "np", "pt") and version == str(
        FORMAT_VERSION
    ):
        return
    raise ValueError(
        f"{path!r}: expected format tilegrad, version {FORMAT_VERSION}, got "
        f"{metadata.get('format')!r}, version {version!r}"
    )


def _json(path, metadata, key):
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path!r}: expected JSON in its metadata {key!r} ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path!r}: expected a JSON object in its metadata {key!r}, got {value!r}")
    return value


def _target(filepath, overwrite, what):
    path = check_suffix(filepath, what)
    if not overwrite and os.path.exists(path):
        raise FileExistsError(f"{what}: {path!r} exists, and overwrite=False")
    return path
