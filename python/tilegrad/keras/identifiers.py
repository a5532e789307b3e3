"""From a name, a config or a class to an object, and back: what all ``get``s share."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from .naming import to_snake_case


def config_of(obj, module: str) -> dict:
    """An object's config in the form that Keras writes and reads.

    >>> from tilegrad.keras import initializers
    >>> config_of(initializers.Constant(2.0), "keras.initializers")["config"]
    {'value': 2.0}
    """
    cls = type(obj)
    ours = cls.__module__.split(".")[0] == __name__.split(".")[0]
    return {
        "module": module if ours else cls.__module__,
        "class_name": cls.__name__,
        "config": obj.get_config(),
        "registered_name": None if ours else cls.__name__,
    }


class Registry:
    """The classes and functions of one kind, by name.

    Args:
        kind: what they are, for messages: "loss".
        module: the public module that holds them, for configs: "keras.losses".
        classes: found by their name, and by its snake_case form unless a function has it.
        functions: found by ``__name__``.
        aliases: further name -> class or function.
    """

    def __init__(
        self, kind: str, module: str, classes: Iterable, functions: Iterable = (), aliases=None
    ):
        self.kind = kind
        self.module = module
        self.table = {to_snake_case(cls.__name__): cls for cls in classes}
        self.table |= {cls.__name__: cls for cls in classes}
        self.table |= {fn.__name__: fn for fn in functions}
        self.table |= aliases or {}

    def names(self) -> list[str]:
        """The names to show in a message, snake_case where there is one."""
        return sorted(name for name in self.table if name == name.lower())

    def find(self, name: str, custom_objects: dict | None = None):
        """The class or function called `name`.

        Raises:
            ValueError: no such name; the message lists all.
        """
        found = (custom_objects or {}).get(name, self.table.get(name))
        if found is None:
            raise ValueError(
                f"unknown {self.kind} {name!r}; expected one of {', '.join(self.names())}"
            )
        return found

    def get(self, identifier):
        """`identifier` (None, a name, a config, a class or an object) as an object."""
        if identifier is None:
            return None
        if isinstance(identifier, (str, dict)):
            return self.deserialize(identifier)
        if callable(identifier):
            return identifier() if inspect.isclass(identifier) else identifier
        raise ValueError(
            f"{self.kind}: expected a name, a config or a callable, got {identifier!r}"
        )

    def deserialize(self, config, custom_objects: dict | None = None):
        """The object of a name or of a config as `serialize` gives it."""
        if isinstance(config, str):
            found = self.find(config, custom_objects)
            return found() if inspect.isclass(found) else found
        if not isinstance(config, dict) or "class_name" not in config:
            raise ValueError(f"{self.kind}: expected a config with 'class_name', got {config!r}")
        name, settings = config["class_name"], config.get("config", {})
        if name == "function" and isinstance(settings, str):
            return self.find(settings, custom_objects)
        found = self.find(name, custom_objects)
        return found.from_config(settings) if inspect.isclass(found) else found

    def serialize(self, obj):
        """A name for a function, a config for an object, None for None."""
        if obj is None or isinstance(obj, (str, dict)):
            return obj
        if inspect.isfunction(obj):
            return obj.__name__
        return config_of(obj, self.module)
