"""What `tilegrad.profile` looks at here: where sections begin, and which layer an op is of."""

from __future__ import annotations

import functools

from .. import instrument, places
from ..profiler import DATA, DISPATCH, PYTHON, each, epoch, section
from .callbacks import CallbackList
from .layers.base import Layer, _calls
from .layers.deferred import DeferredConv2D
from .losses import Loss
from .models import captured, data_adapter, trainer
from .models.trainer import Trainer
from .optimizers import Optimizer


def _remember(function):
    """A convolution that waits is of the layer that asked for it, whoever makes it run."""

    @functools.wraps(function)
    def call(self, *arguments):
        function(self, *arguments)
        self.op.layer = places.layer()

    return call


def _join(function):
    """`relu` of a convolution that waits is of both layers."""

    @functools.wraps(function)
    def call(self):
        layer = getattr(self.op, "layer", None)
        result = function(self)
        if layer and isinstance(result, DeferredConv2D):
            result.op.layer = places.joined(layer, places.layer())
        return result

    return call


places.layer_names = lambda: [layer.name for layer, _ in _calls.stack]

_PLACES = (
    (DeferredConv2D, "__init__", _remember),
    (DeferredConv2D, "relu", _join),
    (Loss, "__call__", places.within(lambda *_: "loss", "forward")),
    (Trainer, "_loss_of", places.within(lambda *_: "loss", "forward")),
    (Optimizer, "apply", places.within(lambda optimizer, *_: optimizer.name, "update")),
)
_SECTIONS = (
    *((Trainer, name, section(PYTHON, name)) for name in ("fit", "evaluate", "predict")),
    *(
        (Trainer, f"{what}_on_batch", section(PYTHON, f"{what}_on_batch"))
        for what in ("train", "test", "predict")
    ),
    (Trainer, "_train_epoch", epoch),
    (CallbackList, "_batch", section(PYTHON, "callbacks")),
    (CallbackList, "_all", section(PYTHON, "callbacks")),
    (data_adapter.EpochIterator, "__iter__", each(DATA, "batch")),
    (data_adapter.EpochIterator, "peek", section(DATA, "batch")),
    (trainer, "make_adapter", section(DATA, "data")),
    (trainer, "train_validation_split", section(DATA, "data")),
    (captured.StepCapture, "__call__", section(DISPATCH, "step")),
    (Trainer, "_loss_of", section(DISPATCH)),
    (Layer, "__call__", section(DISPATCH)),
    (Loss, "__call__", section(DISPATCH)),
    (Optimizer, "apply", section(DISPATCH)),
)

for _purpose, _points in (("places", _PLACES), ("sections", _SECTIONS)):
    for _owner, _name, _wrap in _points:
        instrument.add(_purpose, _owner, _name, _wrap)
