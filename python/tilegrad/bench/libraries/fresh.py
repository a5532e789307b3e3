"""What JAX and TensorFlow share: arrays that cannot be written, threads as many as cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..workload import Way, Workload
from .base import Instance


class Fresh(Instance):
    """A way whose inputs are new arrays after each load, and its results after each call.

    The library's arrays cannot be written. So their addresses change with each load, and there is
    nothing to poison; but no result is kept, so that an old one cannot come back.

    Args:
        put: gives the library's own array of (an input's name, a C-contiguous NumPy array), and
            shares no memory with it.
        function: of those arrays, then what `way.derive` gave; returns a tuple of outputs, when
            they are all there.
    """

    def __init__(self, workload: Workload, way: Way, put: Callable, function: Callable):
        self.workload, self.way, self.function = workload, way, function
        self._put = put
        self._dtypes: dict[str, np.dtype] = {}
        self.arguments: list = []

    def load(self, inputs: Mapping[str, np.ndarray]) -> None:
        self._dtypes = {name: a.dtype for name, a in inputs.items()}
        self.arguments = [self._put(name, as_seen(self.way, name, a)) for name, a in inputs.items()]
        if self.way.derive:
            self.arguments.extend(self.way.derive(*self.arguments))

    def poison(self) -> None:
        """Nothing: outputs are made by each call."""

    def call(self) -> object:
        return self.function(*self.arguments)

    def results(self, returned: object) -> list[np.ndarray | None]:
        return as_outputs(self.workload, self.way, returned)

    def held(self) -> dict[str, np.ndarray]:
        held = {}
        for (name, dtype), a in zip(self._dtypes.items(), self.arguments, strict=False):
            a = np.asarray(a).astype(dtype, copy=False)  # JAX makes int32 of int64
            held[name] = from_seen(self.way, name, a)
        return held


def as_tuple(returned: object) -> tuple:
    """What a way's function returned, also of one output alone, as a tuple."""
    return tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)


def as_outputs(workload: Workload, way: Way, returned: object) -> list[np.ndarray | None]:
    """What a way's function returned as NumPy arrays in the workload's axes, shared if possible."""
    return [
        None if a is None else from_seen(way, name, np.asarray(a))
        for name, a in zip(workload.shapes, as_tuple(returned), strict=True)
    ]


def as_seen(way: Way, name: str, array: np.ndarray) -> np.ndarray:
    """An array of the workload, C-contiguous with its axes as `way.function` sees them.

    Raises:
        ValueError: the way wants it to lie in memory otherwise, which these libraries' arrays
            cannot.
    """
    order = tuple(way.seen.get(name, ())) or tuple(range(array.ndim))
    if name in way.memory and tuple(way.memory[name]) != order:
        raise ValueError(
            f"{way.setting}: expected {name} to lie in memory as it is seen, {order}, "
            f"got {tuple(way.memory[name])}"
        )
    return np.asarray(array.transpose(order), order="C")


def from_seen(way: Way, name: str, array: np.ndarray) -> np.ndarray:
    """A view of `array`, whose axes are as `way.function` sees them, in the workload's order."""
    order: Sequence[int] = way.seen.get(name, ())
    return array.transpose(np.argsort(order)) if len(order) else array


def check_cores(library: str, count: int) -> None:
    """Raise RuntimeError unless this process may use `count` cores.

    For libraries that start a thread for each core that the process may use, and take no other
    number.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores != count:
        raise RuntimeError(
            f"{library}: expected a process bound to {count} cores, since it takes as many threads "
            f"as there are cores, got one that may use {cores}"
        )
