"""Optimizers and learning rate schedules: Keras 3's rules, signatures and defaults."""

from __future__ import annotations

from ..identifiers import Registry, config_of
from . import schedules
from .base import Optimizer
from .rules import SGD, Adam, AdamW, RMSprop

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "deserialize",
    "get",
    "schedules",
    "serialize",
]

_registry = Registry(
    "optimizer",
    "keras.optimizers",
    (),
    aliases={"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW},
)


def get(identifier) -> Optimizer | None:
    """The optimizer of a name (in any case), a config, a class, an optimizer or None (None).

    Raises:
        ValueError: an unknown name; the message lists all.

    >>> get("adam").learning_rate.item() == Adam().learning_rate.item()
    True
    """
    if identifier is None or isinstance(identifier, Optimizer):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Optimizer):
        return identifier()
    if isinstance(identifier, (str, dict)):
        return deserialize(identifier)
    raise ValueError(f"optimizer: expected a name, a config or an Optimizer, got {identifier!r}")


def serialize(optimizer: Optimizer) -> dict:
    """The config of an optimizer."""
    return config_of(optimizer, "keras.optimizers")


def deserialize(config, custom_objects: dict | None = None) -> Optimizer:
    """The optimizer of a config from `serialize`, or of a name."""
    if isinstance(config, str):
        return _registry.deserialize(config.lower(), custom_objects)
    name = config.get("class_name")
    if isinstance(name, str) and name not in (custom_objects or {}):
        config = config | {"class_name": name.lower()}
    return _registry.deserialize(config, custom_objects)
