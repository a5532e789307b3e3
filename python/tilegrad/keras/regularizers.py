"""Penalties on weights and outputs, added to the loss."""

from __future__ import annotations

import math

from .. import ops, recording
from .identifiers import Registry


class Regularizer(recording.Watched):
    """Base: ``__call__(x)`` gives a scalar tensor; ``get_config`` what to save."""

    def __call__(self, x):
        raise NotImplementedError(f"{type(self).__name__} has no __call__(x)")

    def get_config(self) -> dict:
        raise NotImplementedError(f"{type(self).__name__} has no get_config()")

    @classmethod
    def from_config(cls, config: dict):
        return cls(**config)


class L1L2(Regularizer):
    """l1 sum |x| + l2 sum x^2.

    Raises:
        ValueError: a factor that is negative or not finite.

    >>> import tilegrad
    >>> L1L2(0.5, 0.25)(tilegrad.Tensor([2.0, -2.0])).item()
    4.0
    """

    def __init__(self, l1=0.0, l2=0.0):
        self.l1 = _factor("l1", l1)
        self.l2 = _factor("l2", l2)

    def __call__(self, x):
        recording.guard(self, "edits")
        penalties = []
        if self.l1:
            penalties.append(self.l1 * ops.sum(ops.absolute(x)))
        if self.l2:
            penalties.append(self.l2 * ops.sum(ops.square(x)))
        return sum(penalties[1:], penalties[0]) if penalties else ops.sum(x) * 0.0

    def get_config(self):
        return {"l1": self.l1, "l2": self.l2}


class L1(L1L2):
    """l1 sum |x|."""

    def __init__(self, l1=0.01):
        super().__init__(l1=0.01 if l1 is None else l1)

    def get_config(self):
        return {"l1": self.l1}


class L2(L1L2):
    """l2 sum x^2."""

    def __init__(self, l2=0.01):
        super().__init__(l2=0.01 if l2 is None else l2)

    def get_config(self):
        return {"l2": self.l2}


def _factor(name: str, value) -> float:
    value = 0.0 if value is None else value
    if isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ValueError(f"regularizer: expected a finite {name} >= 0, got {value!r}")
    return float(value)


l1 = L1
l2 = L2
l1_l2 = L1L2

_registry = Registry(
    "regularizer", "keras.regularizers", (L1, L2, L1L2), aliases={"l1": L1, "l2": L2, "l1_l2": L1L2}
)


def get(identifier):
    """The regularizer of a name ("l1", "l2", "l1_l2"), a config, a class, a callable or None."""
    return _registry.get(identifier)


def serialize(regularizer):
    """The config of a regularizer."""
    return _registry.serialize(regularizer)


def deserialize(config, custom_objects=None):
    """The regularizer of a config or a name."""
    return _registry.deserialize(config, custom_objects)
