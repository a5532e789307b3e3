"""tilegrad itself: a library per instruction set or device."""

from __future__ import annotations

import contextlib

from ... import __version__, backend
from ..workload import Way
from .base import Library
from .bound import DeviceInstance


class Tilegrad(Library):
    """The backend `kernels`: an instruction set, "cuda", "sim" or "reference"."""

    name = "tilegrad"

    def __init__(self, kernels: str):
        self.kernels = kernels
        self.device = "cpu" if kernels in backend.ISAS else kernels
        self.isa = kernels if kernels in backend.ISAS else None
        self.label = f"tilegrad {kernels}"

    def absent(self):
        return backend.supported()[self.kernels]

    def version(self):
        return __version__

    @contextlib.contextmanager
    def threads(self, count):
        backend.load(self.kernels)  # those that are loaded are set
        before = backend.get_num_threads()
        backend.set_num_threads(count)
        try:
            yield
        finally:
            backend.set_num_threads(before)

    def ways(self, workload):
        function = workload.tilegrad(backend.load(self.kernels))
        return [Way("", function, out=not workload.in_place)]

    def bind(self, workload, way):
        return DeviceInstance(workload, way, backend.load(self.kernels))
