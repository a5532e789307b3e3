"""CuPy on a GPU: NumPy's ways with CuPy's functions, which have the same names and arguments."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
from collections.abc import Iterator, Sequence

import numpy as np

from ... import backend
from ..workload import Way, Workload
from .base import Library
from .bound import Bound


class Cupy(Library):
    """CuPy on "cuda". `call` returns when the work is queued: who reads the clock waits."""

    name, device, label = "cupy", "cuda", "CuPy"
    setting = "float32 without TF32, reductions by CUB"  # the defaults

    def absent(self) -> str | None:
        if importlib.util.find_spec("cupy") is None:
            return "CuPy is not installed: pip install cupy-cuda13x"
        import cupy  # only it knows

        try:
            cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            return f"CuPy finds no GPU: {error}"
        return None

    def version(self) -> str:
        import cupy

        return cupy.__version__

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """The GPU has its own; any count will do."""
        yield

    def ways(self, workload: Workload) -> Sequence[Way]:
        """Where a workload's method `numpy` takes a library of the same functions in its place."""
        import cupy

        method = getattr(workload, "numpy", None)
        return list(method(cupy)) if method and inspect.signature(method).parameters else []

    def bind(self, workload: Workload, way: Way) -> CupyInstance:
        return CupyInstance(workload, way)


class CupyInstance(Bound):
    """On arrays in the GPU's memory; NumPy's are copies."""

    def empty(self, shape, dtype):
        import cupy

        return cupy.empty(shape, dtype)

    def write(self, array, values: np.ndarray) -> None:
        backend.copy_into(array, np.ascontiguousarray(values))

    def read(self, array) -> np.ndarray:
        return backend.to_numpy(array)

    def permute(self, array, axes):
        return array.transpose(axes)
