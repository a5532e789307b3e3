"""TensorFlow: a traced function, by its own kernels or compiled by XLA, or op by op."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..workload import Way, Workload
from .base import Library
from .fresh import Fresh, as_tuple, check_cores


class TensorFlow(Library):
    """TensorFlow on the CPU. Each way is there three times; the fastest counts.

    In in-place workloads a way's function gets a tf.Variable for each input that is updated, and
    writes it.
    """

    name, label, setting = "tensorflow", "TensorFlow", "oneDNN on"

    def absent(self) -> str | None:
        if importlib.util.find_spec("tensorflow"):
            return None
        return "TensorFlow is not installed: pip install tensorflow-cpu"

    def version(self) -> str:
        return _tensorflow().__version__

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """Raises RuntimeError where TensorFlow has started with another number of threads."""
        config = _tensorflow().config
        check_cores("tensorflow", count)  # XLA's pool has that many
        if not config.experimental.get_synchronous_execution():
            raise RuntimeError("tensorflow: expected synchronous execution, got asynchronous")
        threading = config.threading
        try:
            if config.get_visible_devices("GPU"):
                config.set_visible_devices([], "GPU")
            threading.set_intra_op_parallelism_threads(count)
            threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise RuntimeError(
                f"tensorflow: expected the CPU, {count} threads within ops and 1 between them, got "
                f"{threading.get_intra_op_parallelism_threads()} and "
                f"{threading.get_inter_op_parallelism_threads()} (0: all cores), which cannot be "
                "changed once it has computed"
            ) from error
        yield

    def ways(self, workload: Workload) -> Sequence[Way]:
        _tensorflow()
        return [
            dataclasses.replace(way, setting=f"{how}: {way.setting}", function=wrap(way.function))
            for way in super().ways(workload)
            for how, wrap in (("function", _traced), ("XLA", _compiled), ("eager", _eager))
        ]

    def bind(self, workload: Workload, way: Way) -> Traced:
        return (InPlace if workload.in_place else Traced)(workload, way)


def _traced(function: Callable) -> Callable:
    return _tensorflow().function(_eager(function), autograph=False)


def _compiled(function: Callable) -> Callable:
    return _tensorflow().function(_eager(function), autograph=False, jit_compile=True)


def _eager(function: Callable) -> Callable:
    return lambda *arguments: as_tuple(function(*arguments))


class Traced(Fresh):
    """A way's function, traced for the shapes of its inputs when they are loaded first.

    Ops on the CPU are synchronous: when the function returns, its results are there.
    """

    def __init__(self, workload: Workload, way: Way):
        super().__init__(workload, way, self.put, way.function)

    def put(self, name: str, array: np.ndarray):
        return _tensorflow().constant(array)

    def load(self, inputs: Mapping[str, np.ndarray]) -> None:
        super().load(inputs)
        if hasattr(self.function, "get_concrete_function"):
            # without the search for a trace that fits, which costs 40 microseconds in each call
            self.function = self.function.get_concrete_function(*self.arguments)


class InPlace(Traced):
    """One that writes variables: they stay, and are read by copies.

    A view would count as a user of the memory, and TensorFlow would not write it in place.
    """

    def __init__(self, workload: Workload, way: Way):
        super().__init__(workload, way)
        self._variables: dict = {}

    def put(self, name: str, array: np.ndarray):
        tensor = super().put(name, array)
        if name not in self.workload.shapes:
            return tensor
        if name not in self._variables:
            self._variables[name] = _tensorflow().Variable(tensor)
        self._variables[name].assign(tensor)
        return self._variables[name]

    def results(self, returned: object) -> list[np.ndarray | None]:
        variables = [self._variables[name] for name in self.workload.shapes]
        return super().results([v.numpy().copy() for v in variables])

    def held(self) -> dict[str, np.ndarray]:
        return {name: a.copy() for name, a in super().held().items()}


def _tensorflow():
    """The module, without its messages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow

    return tensorflow
