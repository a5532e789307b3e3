"""What the engine, ops and optimizers tell about themselves while `capture` records a step.

Each function here does nothing (or the plain thing) unless this thread runs a step for the record.
"""

from __future__ import annotations

import threading


class _State(threading.local):
    log = None  # the `capture.Log` of the step that this thread records
    supply = None  # values for `live`, in order, instead of new ones


state = _State()


def refuse(reason: str) -> None:
    """The step does what a replay would not do: it cannot be captured."""
    if state.log is not None:
        state.log.refuse(reason)


def live(function, dtype):
    """function(), a number that a kernel takes and that each replay computes anew.

    While a step is recorded it is an array of no axes, which the kernels read at each replay.
    """
    if state.supply is not None:
        return state.supply.pop(0)
    return function() if state.log is None else state.log.make_live(function, dtype)


def constant(array):
    """`array`, or a copy of it, that holds the same numbers in each replay."""
    return array if state.log is None else state.log.make_constant(array)


def converted(array, dtype):
    """`array`, C-contiguous and of `dtype`: itself, or a copy that each replay makes anew."""
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    if state.log is not None:
        return state.log.convert(array, dtype)
    return array.astype(dtype, order="C")


def count(number) -> None:
    """number += 1, in an array of no axes of int64."""
    if state.log is not None:
        state.log.count(number)
    number[...] += 1


def stop_if_nan(number) -> None:
    """A replay stops here if `number`, an array of one, is NaN; then the step runs eagerly."""
    if state.log is not None:
        state.log.stop_if_nan(number)


def changed(tensor) -> None:
    """A kernel writes to the memory of `tensor`: its version goes up."""
    tensor._version[0] += 1
    if state.log is not None:
        state.log.versions.append(tensor._version)


def guard(owner, name: str) -> None:
    """The record holds as long as ``owner.name`` is the same object."""
    if state.log is not None:
        state.log.guards[id(owner), name] = (owner, name, getattr(owner, name))


class Watched:
    """An object whose `edits` is another one after each attribute that is set, for `guard`."""

    edits = None
    unwatched = frozenset()  # names of attributes that no step depends on

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name not in self.unwatched:
            super().__setattr__("edits", object())
