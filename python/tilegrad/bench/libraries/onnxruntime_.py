"""ONNX Runtime: a graph made in memory, run on arrays that are bound beforehand. Forward only."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..workload import Way, Workload
from .base import Library
from .bound import HostInstance

OPSET = 20  # the first one with Gelu
PARAMETERS = ("w", "b")  # what inputs are called that a network keeps
_pool: list[int] = []  # the number of threads, once there are any


@dataclasses.dataclass(frozen=True)
class GraphWay(Way):
    """A way whose function takes a `Graph` and the inputs' names in it, and returns the outputs'.

    Args:
        constant: inputs that become part of the graph, which is then optimized anew in each load.
    """

    constant: Sequence[str] = ()


class OnnxRuntime(Library):
    """ONNX Runtime on the CPU. All sessions share one pool of threads.

    The pool's threads spin for a while when they have nothing to do, which is the default.
    """

    name, label = "onnxruntime", "ONNX Runtime"
    setting = "all graph optimizations, sequential, I/O bound beforehand, threads spin"

    def __init__(self):
        self._sessions: weakref.WeakValueDictionary = weakref.WeakValueDictionary()

    def absent(self) -> str | None:
        missing = [name for name in ("onnxruntime", "onnx") if not importlib.util.find_spec(name)]
        return f"not installed: pip install {' '.join(missing)}" if missing else None

    def version(self) -> str:
        import onnxruntime

        return onnxruntime.__version__

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """Raises RuntimeError where ONNX Runtime has started with another number of threads."""
        import onnxruntime

        if not _pool:
            onnxruntime.set_global_thread_pool_sizes(count, 1)
            _pool.append(count)
        if _pool != [count]:
            raise RuntimeError(
                f"onnxruntime: expected a pool of {count} threads, got one of {_pool[0]}, which "
                "cannot be changed"
            )
        yield

    def ways(self, workload: Workload) -> Sequence[Way]:
        """Each way with all inputs bound, and where there are weights, with those constant.

        ONNX Runtime packs weights beforehand, and keeps images in blocks of channels, only where
        the weights are constant.
        """
        ways = [GraphWay(**vars(way) | {"out": True}) for way in super().ways(workload)]
        if "w" not in workload.kinds:
            return ways
        weights = tuple(name for name in PARAMETERS if name in workload.kinds)
        return ways + [
            dataclasses.replace(way, setting=f"{way.setting}, weights constant", constant=weights)
            for way in ways
        ]

    def bind(self, workload: Workload, way: Way) -> Session:
        return Session(workload, way, self._session)

    def _session(self, workload: Workload, way: GraphWay, model: bytes):
        """A session; one for all instances of a way, unless they have constants of their own."""
        if way.constant:
            return _compile(model)
        key = str(workload), way.setting
        session = self._sessions.get(key) or _compile(model)
        self._sessions[key] = session
        return session


class Session(HostInstance):
    """A graph compiled for this machine, and the arrays that it reads and writes in place.

    Args:
        compiled: (workload, way, serialized model) -> onnxruntime.InferenceSession.
    """

    def __init__(self, workload: Workload, way: GraphWay, compiled: Callable):
        super().__init__(workload, way)
        self._compiled = compiled
        arrays = iter(self._seen)  # as the graph declares them: outputs, then inputs
        outputs = {name: next(arrays) for name in self._outputs}
        inputs = {name: next(arrays) for name in self._inputs}
        self._constants = {name: inputs.pop(name) for name in way.constant}
        self._graph = Graph()
        results = way.function(self._graph, *self._inputs)
        results = results if isinstance(results, tuple) else (results,)
        self._bound = inputs
        self._written = dict(zip(results, outputs.values(), strict=True))
        self._run: Callable | None = None

    def load(self, inputs):
        super().load(inputs)
        if self._run is None or self._constants:
            self._run = None  # the old session goes before the new one comes
            model = self._graph.model(self._bound, self._written, self._constants)
            self._run = self._bind(self._compiled(self._workload, self._way, model))

    def call(self):
        return self._run()

    def _bind(self, session) -> Callable:
        from onnxruntime import OrtValue

        binding = session.io_binding()
        for name, a in self._bound.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(a))
        for name, a in self._written.items():
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(a))
        return functools.partial(session.run_with_iobinding, binding)


class Graph:
    """ONNX nodes in the making: ``graph.Relu(graph.MatMul(x, w))`` adds two, and names the result.

    An operator's attributes are keyword arguments.
    """

    def __init__(self):
        self._nodes: list = []
        self._constants: dict[str, np.ndarray] = {}

    def __getattr__(self, operator: str) -> Callable[..., str]:
        def add(*inputs: str, **attributes) -> str:
            from onnx import helper

            result = f"{operator}{len(self._nodes)}"
            self._nodes.append(helper.make_node(operator, inputs, [result], **attributes))
            return result

        return add

    def constant(self, array: np.ndarray | np.generic) -> str:
        """The name of an array that is part of the graph, such as the axes of a sum."""
        name = f"constant{len(self._constants)}"
        self._constants[name] = np.asarray(array)
        return name

    def model(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        constants: Mapping[str, np.ndarray],
    ) -> bytes:
        """The serialized model; of inputs and outputs, only shapes and dtypes count."""
        from onnx import helper, numpy_helper

        constants = {**self._constants, **constants}
        graph = helper.make_graph(
            self._nodes,
            "workload",
            [_declare(name, a) for name, a in inputs.items()],
            [_declare(name, a) for name, a in outputs.items()],
            [numpy_helper.from_array(a, name) for name, a in constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model_gen_version(graph, opset_imports=opsets).SerializeToString()


def _declare(name: str, array: np.ndarray):
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape)


def _compile(model: bytes):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_per_session_threads = False  # but the pool that `threads` started
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
