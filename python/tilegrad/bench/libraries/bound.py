"""A way bound to arrays: who makes them, how their axes lie, and what its function sees."""

from __future__ import annotations

import math

import numpy as np

from ... import backend
from ..workload import Way, Workload
from .base import Instance

LINE = 64  # bytes: every array in the host's memory starts a cache line, whoever computes


class Bound(Instance):
    """The instance of every library that computes on arrays which keep their place.

    A subclass says what arrays are: `empty`, `write`, `read` and `permute`. `call` returns when
    the function does; on a GPU, who reads the clock waits for the device.
    """

    def __init__(self, workload: Workload, way: Way):
        self._workload, self._way = workload, way
        self._inputs = {name: self._new(name, *kind) for name, kind in workload.kinds.items()}
        made = way.out and not workload.in_place
        self._outputs = {
            name: self._new(name, shape, workload.dtypes.get(name, np.float32))
            for name, shape in workload.shapes.items()
            if made and name not in way.lacks
        }
        self._seen = [
            self._see(name, a) for name, a in (*self._outputs.items(), *self._inputs.items())
        ]
        self._arguments = tuple(self._seen)

    def empty(self, shape, dtype):
        """A new array of the library, C-contiguous."""
        raise NotImplementedError

    def write(self, array, values: np.ndarray) -> None:
        """array[...] = values."""
        raise NotImplementedError

    def read(self, array) -> np.ndarray:
        """The array as NumPy's, a view where it can be."""
        raise NotImplementedError

    def permute(self, array, axes):
        """A view of the array with its axes in this order."""
        raise NotImplementedError

    def load(self, inputs):
        for name, array in self._inputs.items():
            order = self._way.memory.get(name)
            values = inputs[name]
            self.write(array, values.transpose(order) if order else values)
        if self._way.derive:
            self._arguments = (*self._seen, *self._way.derive(*self._seen))

    def poison(self):
        for array in self._outputs.values():
            a = self.read(array)
            nan = np.nan if a.dtype.kind == "f" else int("5a" * a.dtype.itemsize, 16)
            self.write(array, np.full(a.shape, nan, a.dtype))

    def call(self):
        return self._way.function(*self._arguments)

    def results(self, returned):
        names, lacks = self._workload.shapes, self._way.lacks
        if self._workload.in_place or self._way.out:
            return [None if name in lacks else self._view(name) for name in names]
        if not isinstance(returned, (tuple, list)):
            returned = [returned]
        return [
            None if a is None else _unpermuted(self.read(a), self._way.seen.get(name))
            for name, a in zip(names, returned, strict=True)
        ]

    def held(self):
        return {name: self._view(name) for name in self._inputs}

    def _new(self, name, shape, dtype):
        """An array whose axes are those of the workload in the order of the way's memory."""
        order = self._way.memory.get(name) or range(len(shape))
        return self.empty(tuple(shape[i] for i in order), dtype)

    def _see(self, name, array):
        """What the function gets of `array`."""
        order, seen = self._way.memory.get(name), self._way.seen.get(name)
        if not order and not seen:
            return array
        back = np.argsort(order or range(len(seen)))
        return self.permute(array, [int(back[i]) for i in seen or range(len(back))])

    def _view(self, name):
        """The array in the order of the workload's axes."""
        array = self._outputs.get(name, self._inputs.get(name))
        return _unpermuted(self.read(array), self._way.memory.get(name))


def _unpermuted(a: np.ndarray, order) -> np.ndarray:
    """The array whose transpose to `order` is `a`."""
    return a.transpose(np.argsort(order)) if order else a


def aligned(shape, dtype) -> np.ndarray:
    """An uninitialised array that starts a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(dtype).reshape(shape)


class HostInstance(Bound):
    """On NumPy's arrays. A library whose arrays share their memory wraps `empty` and `read`."""

    def empty(self, shape, dtype):
        return aligned(shape, dtype)

    def write(self, array, values):
        np.copyto(array, values)

    def read(self, array):
        return array

    def permute(self, array, axes):
        return array.transpose(axes)


class DeviceInstance(HostInstance):
    """On the arrays of a backend of tilegrad: CuPy's on "cuda", NumPy's otherwise."""

    def __init__(self, workload, way, k: backend.Backend):
        self._k = k
        super().__init__(workload, way)

    def empty(self, shape, dtype):
        return aligned(shape, dtype) if self._k.xp is np else self._k.empty(shape, dtype)

    def write(self, array, values):
        backend.copy_into(array, values)

    def read(self, array):
        return backend.to_numpy(array)
