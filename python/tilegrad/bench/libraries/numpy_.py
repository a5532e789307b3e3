"""NumPy: its own functions, and the products of the BLAS that it came with."""

from __future__ import annotations

import contextlib
import importlib.util

import numpy as np

from .base import Library
from .bound import HostInstance


class Numpy(Library):
    name = "numpy"
    label = "NumPy"

    def absent(self):
        if importlib.util.find_spec("threadpoolctl") is None:
            return "its threads cannot be set: pip install 'tilegrad[bench]'"
        return None

    def version(self):
        return np.__version__

    @contextlib.contextmanager
    def threads(self, count):
        from threadpoolctl import threadpool_limits

        with threadpool_limits(count, user_api="blas"):
            yield

    def bind(self, workload, way):
        return HostInstance(workload, way)
