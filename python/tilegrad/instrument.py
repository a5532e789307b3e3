"""Functions that are wrapped while somebody looks. Until then they are themselves, at no cost.

A point is an attribute of a class or a module. For each purpose it may have a wrapper, which is in
place while that purpose is on.
"""

from __future__ import annotations

import contextlib
import threading

_PURPOSES = ("places", "sections")  # the later ones go round the earlier ones

_users = dict.fromkeys(_PURPOSES, 0)
_points: dict[tuple, _Point] = {}  # by (owner, name)
_lock = threading.RLock()


class _Point:
    def __init__(self, owner, name):
        self.owner = owner
        self.name = name
        self.wraps = {}  # purpose -> wrap
        self.function = self.wrapped = None

    def set(self) -> None:
        """Put the function there, in the wrappers that are wanted now."""
        found = vars(self.owner)[self.name]
        if found is not self.wrapped:  # at first, and where somebody else has put another one there
            self.function = found
        function = self.function
        for purpose in _PURPOSES:
            if _users[purpose] and purpose in self.wraps:
                function = self.wraps[purpose](function)
        self.wrapped = function
        setattr(self.owner, self.name, function)


def add(purpose: str, owner, name: str, wrap) -> None:
    """While `purpose` is on, ``owner.name`` is ``wrap(owner.name)``.

    Args:
        purpose: "places" or "sections".
        owner: a class or module that itself defines the function `name`.
        wrap: called with the function.
    """
    with _lock:
        point = _points.setdefault((owner, name), _Point(owner, name))
        point.wraps[purpose] = wrap
        if _users[purpose]:
            point.set()


def change(purpose: str, users: int) -> None:
    """There are so many more (or, below 0, fewer) who want `purpose` to be on."""
    with _lock:
        before = _users[purpose] > 0
        _users[purpose] += users
        if before != (_users[purpose] > 0):
            for point in _points.values():
                if purpose in point.wraps:
                    point.set()


@contextlib.contextmanager
def on(purpose: str):
    """Within the block `purpose` is on, for all threads.

    >>> import types
    >>> module = types.ModuleType("module")
    >>> module.one = lambda: 1
    >>> add("places", module, "one", lambda function: lambda: function() + 1)
    >>> with on("places"):
    ...     print(module.one())
    2
    >>> module.one()
    1
    """
    change(purpose, 1)
    try:
        yield
    finally:
        change(purpose, -1)
