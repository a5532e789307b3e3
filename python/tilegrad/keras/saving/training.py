"""A running `fit` as a file: what `BackupAndRestore` writes and goes on from.

Besides weights and optimizer state it holds the position in the data, the state of everything
random, the running metrics and what the callbacks remember: all that the rest of a run depends on.
"""

from __future__ import annotations

import itertools
import json

import numpy as np

from ...autograd import no_grad
from ...backend import to_numpy
from ...interrupts import uninterrupted
from ..metrics import Metric
from ..random import SeedGenerator
from ..utils.dataset import unpack_x_y_sample_weight
from ..utils.seed import get_random_state, set_random_state
from .files import read, write
from .state import assign, check_format, format_metadata, named_weights

_ARRAY = "@array"  # in the JSON part, stands for the tensor of the name that follows


class Run:
    """A `fit` in progress.

    Args:
        model: the model that is trained.
        iterator: the `EpochIterator` of the training data.
        callbacks: the `CallbackList`.
        epoch: the first epoch.

    Attributes:
        epoch: the epoch to begin with; `restore` moves it.
    """

    def __init__(self, model, iterator, callbacks, epoch):
        self.model = model
        self.iterator = iterator
        self.callbacks = callbacks
        self.epoch = epoch
        self._pending = None

    def save(self, path, epoch, done=0, logs=None) -> None:
        """Write the state of this run.

        Args:
            path: where to; written like every model file, whole or not at all.
            epoch: the epoch to go on with.
            done: how many of its batches are trained.
            logs: their running values.
        """
        model = self.model
        state = {
            "epoch": epoch,
            "done": done,
            "logs": logs or {},
            "weights": {name: to_numpy(v.data) for name, v in named_weights(model).items()},
            "optimizer": [to_numpy(v.data) for v in model.optimizer.variables],
            "seeds": [[seed.start, seed.counter] for seed in _seed_generators(model)],
            "metrics": [_metric_state(metric) for metric in _metrics(model)] if done else [],
            "callbacks": {
                name: {key: getattr(callback, key) for key in callback.resumed}
                for name, callback in self._remembering().items()
            },
            "data": self.iterator.position(),
            "random": get_random_state(),
        }
        tensors = {}
        # What is no number in the logs, because a callback put it there, is kept as text.
        text = json.dumps(_freeze(state, "", tensors), default=repr)
        write(path, tensors, format_metadata("training") | {"training": text})

    def restore(self, path) -> None:
        """Go on from the state in the file at `path`.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is damaged, or comes from another kind of model or optimizer.
        """
        tensors, metadata = read(path)
        check_format(path, metadata)
        try:
            state = _thaw(json.loads(metadata["training"]), tensors)
            self._apply(path, state)
        except (AttributeError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise ValueError(f"{path!r} holds no state of this training run: {error!r}") from error

    def begin_epoch(self):
        """How many batches of the epoch that begins are trained already, and their `logs`."""
        if self._pending is None:
            return 0, {}
        # Once more: callbacks may have set a learning rate for the beginning of the epoch.
        path, state = self._pending
        self._pending = None
        self._assign(path, state)
        self._build_metrics()
        metrics = _metrics(self.model)
        if len(metrics) != len(state["metrics"]):
            raise ValueError(
                f"{path!r}: expected the state of {len(metrics)} metrics, "
                f"got that of {len(state['metrics'])}"
            )
        for metric, values in zip(metrics, state["metrics"], strict=True):
            _set_metric_state(metric, values)
        self._seek(state)
        return state["done"], state["logs"]

    def _apply(self, path, state):
        self._assign(path, state)
        for name, callback in self._remembering().items():
            for key, value in state["callbacks"].get(name, {}).items():
                if key in callback.resumed:
                    setattr(callback, key, value)
        self.epoch = state["epoch"]
        if state["done"]:
            self._pending = path, state
        else:
            self._seek(state)

    def _assign(self, path, state):
        model = self.model
        variables, seeds = model.optimizer.variables, _seed_generators(model)
        shapes = [(v.shape, v.dtype) for v in variables]
        found = [(array.shape, array.dtype) for array in state["optimizer"]]
        if shapes != found or len(seeds) != len(state["seeds"]):
            raise ValueError(f"{path!r} was written by another model or optimizer")
        with uninterrupted():
            assign(model, path, state["weights"])
            for variable, value in zip(variables, state["optimizer"], strict=True):
                variable.assign(value)
            for seed, (start, counter) in zip(seeds, state["seeds"], strict=True):
                seed.start, seed.counter = start, counter

    def _seek(self, state):
        self.iterator.seek(state["data"], state["done"])
        set_random_state(state["random"])

    def _build_metrics(self):
        """`compile`'s losses and metrics take shape with a batch; what they count comes later."""
        x, y, _ = unpack_x_y_sample_weight(self.iterator.peek())
        loss, metrics = self.model._compile_loss, self.model._compile_metrics
        unbuilt = [part for part in (loss, metrics) if part is not None and not part.built]
        if unbuilt and y is not None:
            with no_grad():
                y_pred = self.model(x, training=False)
            for part in unbuilt:
                part.build(y, y_pred)

    def _remembering(self):
        """The callbacks that remember something, by names that another run shares."""
        found = {}
        for callback in self.callbacks.callbacks:
            if getattr(callback, "resumed", ()):
                kind = type(callback).__name__
                name = next(n for i in itertools.count() if (n := f"{kind}_{i}") not in found)
                found[name] = callback
        return found


def _seed_generators(model):
    found = {}
    for layer in model._flatten_layers():
        found |= {id(v): v for v in _inside(list(vars(layer).values()), SeedGenerator)}
    return list(found.values())


def _metrics(model):
    """All metrics of `model`, those inside others too."""
    found, stack = {}, model.metrics[::-1]
    while stack:
        metric = stack.pop()
        if id(metric) not in found:
            found[id(metric)] = metric
            stack += list(_inside(list(vars(metric).values()), Metric))[::-1]
    return [metric for metric in found.values() if isinstance(metric, Metric)]


def _metric_state(metric):
    """Its numbers and arrays, whichever `reset_state` may reset, and its variables' values."""
    metric.settle()
    plain = (bool, int, float, np.ndarray, np.generic, type(None))
    values = {key: value for key, value in vars(metric).items() if isinstance(value, plain)}
    return {"values": values, "variables": [to_numpy(v.data) for v in metric._variables]}


def _set_metric_state(metric, state):
    vars(metric).update(state["values"])
    for variable, value in zip(metric._variables, state["variables"], strict=True):
        variable.assign(value)


def _inside(value, kind):
    """Objects of class `kind` in nested lists, tuples and dicts."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, dict):
        yield from _inside(list(value.values()), kind)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _inside(item, kind)


def _freeze(value, key, tensors):
    """`value` for JSON; arrays move into `tensors` and leave their name."""
    if isinstance(value, (np.ndarray, np.generic)):
        tensors[key] = np.asarray(value)
        return {_ARRAY: key}
    if isinstance(value, dict):
        return {str(k): _freeze(v, f"{key}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_freeze(v, f"{key}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _thaw(value, tensors):
    """What `_freeze` was given, with lists for tuples."""
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return tensors[value[_ARRAY]].copy()[()]
        return {key: _thaw(item, tensors) for key, item in value.items()}
    return [_thaw(item, tensors) for item in value] if isinstance(value, list) else value
