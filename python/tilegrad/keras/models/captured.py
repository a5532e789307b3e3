"""Which training steps `fit` captures (tilegrad.capture), and why not the others."""

from __future__ import annotations

import sys
import warnings

import numpy as np

from ... import backend
from ...capture import Captured
from ..layers import Layer
from ..layers.base import Fused

_COPIED_BYTES = 1 << 20  # of a batch; to copy more takes longer than Python does


class StepCapture:
    """The captured form of a model's update, for `compile(jit_compile=...)`.

    Attributes:
        jit_compile: True, False or "auto".
        reason: why the model's steps are never captured, or None.
    """

    def __init__(self, model, jit_compile):
        self.jit_compile = jit_compile
        self.reason = None
        self._update = model._update_weights
        self.captured = Captured(self._update, self._refused, self._ready)
        self._places = {}  # rows of a batch -> where its plan wants x

    def check(self, model) -> None:
        """Find out whether the model, as it is now, may be captured."""
        before, self.reason = self.reason, _why_not(model, self.jit_compile)
        if self.reason is not None and self.reason != before:
            self._refused(self.reason)

    def __call__(self, x, y, sample_weight):
        if self.reason is not None or self._is_costly(x):
            return self._update(x, y, sample_weight)
        return self.captured(x, y, sample_weight)

    def __reduce__(self):  # a model's copy has plans of its own
        return type(self), (self._update.__self__, self.jit_compile)

    def place(self, rows):
        """Where x of a batch of so many rows is not copied, or None."""
        return self._places.get(rows)

    def _is_costly(self, x) -> bool:
        """Whether to copy x takes longer than Python does in an eager step."""
        if not isinstance(x, np.ndarray):
            return sum(a.nbytes for a in _leaves(x)) > _COPIED_BYTES
        return x.nbytes > _COPIED_BYTES and self._places.get(len(x), x) is not x

    def report(self) -> list[str]:
        return self.captured.report() if self.reason is None else [self.reason]

    def _ready(self, buffers):
        self._places[len(buffers[0])] = buffers[0]

    def _refused(self, reason):
        if self.jit_compile is True:
            warnings.warn(
                f"compile: jit_compile=True, but the training step runs eagerly: {reason}",
                stacklevel=2,
            )


def _why_not(model, jit_compile) -> str | None:
    if jit_compile is False:
        return "jit_compile is False"
    if model.run_eagerly:
        return "run_eagerly is True"
    k = backend.get(backend.default_device())
    if not hasattr(k.module, "Plan"):
        return f"the backend {k.name} has no plans"
    if jit_compile is True:
        return None
    foreign = next(_foreign(model), None)
    if foreign is None:
        return None
    return f"{foreign} is not tilegrad's own: jit_compile=True captures it too"


def _foreign(model):
    """Names of the code in a training step that is the user's, whose side effects nobody knows."""
    cls = type(model)
    if not _is_own(cls.compute_loss):
        yield f"{cls.__name__}.compute_loss"
    for layer in model._flatten_layers():
        cls = type(layer)
        if not _is_own(cls.call) or cls.__call__ is not Layer.__call__:
            yield f"{cls.__name__}.call"
        for name, value in vars(layer).items():
            if isinstance(value, Fused):
                value = value.function
            elsewhere = name.endswith("initializer") or (layer is model and name == "loss")
            if callable(value) and not elsewhere and not _is_own(value):
                yield f"{name} of {layer.name}"
    for loss in _leaves(model._compile_loss and model._compile_loss._loss):
        if not isinstance(loss, (str, dict)) and not (
            _is_own(loss) and _is_own(getattr(loss, "fn", loss))
        ):
            yield f"the loss {getattr(loss, 'name', None) or getattr(loss, '__name__', loss)}"
    if not _is_own(model.optimizer):
        yield f"the optimizer {type(model.optimizer).__name__}"


def _is_own(value) -> bool:
    """Whether a function or an object is of this package, and not of a script or another one."""
    code = value if hasattr(value, "__code__") or isinstance(value, type) else type(value)
    module = getattr(code, "__module__", None) or ""
    return module.split(".")[0] == __name__.split(".")[0] and module in sys.modules


def _leaves(value) -> list:
    if isinstance(value, dict) and "class_name" not in value:
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [] if value is None else [value]
