"""JAX, TensorFlow, ONNX Runtime, CuPy and compiled PyTorch as contenders of ``tilegrad bench``.

Each is skipped where it is not installed; CuPy's functions are NumPy's here.
"""

import contextlib
import importlib.machinery
import os
import sys
import types

import numpy as np
import pytest

from tilegrad.bench import workloads
from tilegrad.bench.libraries import all_libraries, fresh, onnxruntime_, torch_compiled_
from tilegrad.bench.libraries.cupy_ import Cupy
from tilegrad.bench.libraries.jax_ import Jax
from tilegrad.bench.libraries.onnxruntime_ import OnnxRuntime
from tilegrad.bench.libraries.tensorflow_ import TensorFlow
from tilegrad.bench.libraries.torch_compiled_ import TorchCompiled
from tilegrad.bench.proof import check_strength, prove
from tilegrad.bench.workload import WORKLOADS, Truth, Way, parse

assert workloads.__all__  # importing them registers them

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(tensorflow|torch|onnx|google|keras).*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

# One descriptor for workloads of the same sizes, and further ones where the sizes decide the way.
SIZES = {
    "n": ["n131"],
    "nt": ["n131t3"],
    "mn": ["m17n7"],
    "mkn": ["m17k31n7"],
    "bmkn": ["b3m7k5n9"],
    "rc": ["r17c7"],
    "rci": ["r5c7i3"],
    "nhwc": ["n3h5w7c9"],
    "nhwcks": ["n3h9w7c5k2s2valid", "n3h9w8c5k3s2same"],
    "nhwcfks": ["n3h9w7c5f6k3s1valid", "n2h9w8c3f5k3s2same"],
    "nhwcfksgd": ["n2h9w8c4f6k3s1g2d2same"],
    "nhwcfkp": ["n3h10w9c3f5k3p2valid", "n2h9w9c3f5k3p3same"],
}


def samples(name):
    """Descriptors of small workloads that `name` is the kind of."""
    return [f"{name}:{sizes}" for sizes in SIZES["".join(WORKLOADS[name].sizes)]]


def cases(*kinds):
    """(library, descriptor) of all that these libraries compute."""
    return pytest.mark.parametrize(
        ("kind", "descriptor"),
        [
            pytest.param(kind, descriptor, id=f"{kind.name}-{descriptor}")
            for kind in kinds
            for name, workload in WORKLOADS.items()
            if hasattr(workload, kind.name)
            for descriptor in samples(name)
        ],
    )


@pytest.fixture(scope="module")
def start():
    """A function that gives a library, within its threads; or skips where it is absent."""
    started = {}
    with contextlib.ExitStack() as stack:

        def library(kind):
            if kind not in started:
                new = kind()
                if reason := new.absent():
                    pytest.skip(reason)
                stack.enter_context(new.threads(CORES))
                started[kind] = new
            return started[kind]

        yield library


def prove_all(library, descriptor):
    """Each way of the library gives what is right, twice from the same memory."""
    workload = parse(descriptor)
    truths = [Truth(workload, seed) for seed in (1, 2)]
    check_strength(truths)
    ways = library.ways(workload)
    settings = [way.setting for way in ways]
    assert len(set(settings)) == len(settings)
    for way in ways:
        instance = library.bind(workload, way)
        for truth in truths:
            prove(instance, f"{library.label}, {way.setting}", truth)
    return ways


@cases(Jax, TensorFlow, OnnxRuntime)
def test_each_way_computes_the_workload(start, kind, descriptor):
    prove_all(start(kind), descriptor)


@cases(TorchCompiled)
def test_functions_to_be_compiled_compute_the_workload(start, monkeypatch, kind, descriptor):
    library = start(kind)
    monkeypatch.setattr(torch_compiled_, "compiled", lambda function, mode: function)
    assert prove_all(library, descriptor)


def test_compiled_functions_do_not_share_their_cache(start):
    library = start(TorchCompiled)
    import torch

    torch.compiler.reset()
    limit = torch._dynamo.config.recompile_limit
    with torch._dynamo.config.patch(recompile_limit=1):  # one shape for each function
        for descriptor in ("bias_relu_dz:m17n7", "bias_relu_dz:m13n5"):
            workload = parse(descriptor)
            way = next(w for w in library.ways(workload) if w.setting.startswith("default"))
            prove(library.bind(workload, way), descriptor, Truth(workload, 1))
    assert limit > 1


def test_libraries_have_what_they_are_for():
    """Not a list of all, but nobody may lose its products and convolutions unnoticed."""
    forward = {"dense", "matmul", "conv2d", "conv2d_pool", "max_pool2d", "softmax", "relu", "add"}
    backward = {"dense_dx", "dense_dw", "conv2d_dx", "conv2d_dw", "max_pool2d_dx", "adam"}
    for kind, names in ((Jax, forward | backward), (TensorFlow, forward | backward)):
        assert {n for n, w in WORKLOADS.items() if hasattr(w, kind.name)} >= names
    assert {n for n, w in WORKLOADS.items() if hasattr(w, "onnxruntime")} >= forward


def test_all_libraries_and_who_is_optional():
    names = [library.name for library in all_libraries("cpu")]
    assert names[0] == "tilegrad"
    assert {"jax", "tensorflow", "onnxruntime", "torch_compiled"} <= set(names)
    assert "cupy" in [library.name for library in all_libraries("cuda", None)]
    assert TorchCompiled().wanted(["torch_compiled"])
    assert not TorchCompiled().wanted([])
    assert Jax().wanted([])
    assert not Jax().wanted(["torch"])


# -- threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Jax, TensorFlow, OnnxRuntime], ids=lambda kind: kind.name)
def test_another_number_of_threads_is_refused(start, kind):
    library = start(kind)
    with (
        pytest.raises(RuntimeError, match=f"{kind.name}: expected .*{CORES + 1}"),
        library.threads(CORES + 1),
    ):
        pytest.fail("should not be reached")


def test_tensorflow_has_the_threads_and_waits(start):
    start(TensorFlow)
    import tensorflow as tf

    assert tf.config.threading.get_intra_op_parallelism_threads() == CORES
    assert tf.config.threading.get_inter_op_parallelism_threads() == 1
    assert tf.config.experimental.get_synchronous_execution()


# -- memory ----------------------------------------------------------------------------------------


def bound(library, descriptor, index=0):
    """The way of this index, bound and loaded; and its truth."""
    workload = parse(descriptor)
    instance = library.bind(workload, library.ways(workload)[index])
    truth = Truth(workload, 1)
    instance.load(truth.inputs)
    return instance, truth


def test_jax_results_are_there_when_the_call_returns(start):
    instance, _ = bound(start(Jax), "matmul:b1m512k512n512")
    (y,) = instance.call()
    assert y.is_ready()


def test_jax_updates_in_the_memory_that_was_donated(start):
    instance, truth = bound(start(Jax), "adam:n100003t1")
    before = [a.unsafe_buffer_pointer() for a in instance.arguments[:1]]
    instance.results(instance.call())
    assert [a.unsafe_buffer_pointer() for a in instance.arguments[:1]] == before
    assert truth.inputs["w0"].flags.writeable  # and not in NumPy's


@pytest.mark.parametrize("kind", [Jax, TensorFlow], ids=lambda kind: kind.name)
def test_inputs_are_copies(start, kind):
    library = start(kind)
    instance, truth = bound(library, "add:n16384")
    for name, a in instance.held().items():
        assert not np.shares_memory(a, truth.inputs[name])
        assert np.array_equal(a, truth.inputs[name])


@pytest.mark.parametrize("kind", [Jax, TensorFlow], ids=lambda kind: kind.name)
def test_updates_go_on_from_call_to_call(start, kind):
    library = start(kind)
    workload = parse("sgd_momentum:n131t2")
    for way in library.ways(workload):
        prove(library.bind(workload, way), way.setting, Truth(workload, 1, calls=3))


def test_tensorflow_copies_what_it_updates(start):
    instance, _ = bound(start(TensorFlow), "sgd:n131t1")
    first = instance.results(instance.call())[0]
    kept = first.copy()
    instance.call()
    assert np.array_equal(first, kept)


def test_orders_in_memory_that_cannot_be_are_refused():
    way = Way("turned", None, memory={"w": (1, 0)})
    with pytest.raises(ValueError, match=r"turned: expected w to lie .* \(0, 1\), got \(1, 0\)"):
        fresh.as_seen(way, "w", np.zeros((3, 5)))


def test_seen_axes_go_there_and_back():
    way = Way("", None, memory={"x": (0, 3, 1, 2)}, seen={"x": (0, 3, 1, 2)})
    x = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    seen = fresh.as_seen(way, "x", x)
    assert seen.shape == (2, 7, 3, 5)
    assert seen.flags.c_contiguous
    assert np.array_equal(fresh.from_seen(way, "x", seen), x)


# -- ONNX Runtime ----------------------------------------------------------------------------------


def test_onnxruntime_writes_where_it_is_told(start):
    instance, truth = bound(start(OnnxRuntime), "dense:m17k31n7")
    (before,) = instance.results(None)
    instance.poison()
    assert np.isnan(before).all()
    (after,) = instance.results(instance.call())
    assert np.shares_memory(before, after)
    assert after.ctypes.data % 64 == 0
    assert not np.isnan(before).any()
    x = instance.held()["x"]
    instance.load(truth.inputs)
    assert np.shares_memory(instance.held()["x"], x)


def test_onnxruntime_compiles_a_way_once_unless_it_has_constants(start, monkeypatch):
    library = start(OnnxRuntime)
    compiled = []
    original = onnxruntime_._compile
    monkeypatch.setattr(onnxruntime_, "_compile", lambda m: compiled.append(m) or original(m))
    workload = parse("dense:m19k31n7")
    inputs = Truth(workload, 1).inputs
    plain, constant = library.ways(workload)
    assert "constant" in constant.setting
    for way, times in ((plain, 1), (constant, 4)):
        compiled.clear()
        for instance in [library.bind(workload, way) for _ in range(2)]:
            for _ in range(2):
                instance.load(inputs)
        assert len(compiled) == times


def test_graph_makes_a_model_of_its_nodes():
    onnx = pytest.importorskip("onnx")
    graph = onnxruntime_.Graph()
    result = graph.Relu(graph.Gemm("x", "w", graph.constant(np.ones(7, np.float32)), transB=1))
    x, w, y = (np.zeros(shape, np.float32) for shape in ((3, 5), (7, 5), (3, 7)))
    model = onnx.load_model_from_string(graph.model({"x": x}, {result: y}, {"w": w}))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Relu"]
    assert [i.name for i in model.graph.input] == ["x"]
    assert {i.name for i in model.graph.initializer} == {"w", "constant0"}


# -- CuPy ------------------------------------------------------------------------------------------

# What of NumPy the ways may use: all of it is in CuPy's reference, with `out` where it is given.
IN_CUPY = {
    *("absolute", "add", "arange", "asarray", "clip", "copyto", "divide", "einsum", "empty"),
    *("exp", "float32", "log", "logaddexp", "matmul", "max", "maximum", "mean", "minimum"),
    *("multiply", "negative", "pow", "power", "reciprocal", "sign", "sqrt", "square"),
    *("subtract", "sum", "tanh", "vdot", "where"),
}


class StandIn(types.ModuleType):
    """NumPy in CuPy's place; it notes what is used."""

    __version__ = "13.0"

    def __init__(self):
        super().__init__("cupy")
        self.used = set()

    def __getattr__(self, name):
        self.used.add(name)
        return getattr(np, name)


@pytest.fixture
def cupy(monkeypatch):
    module = StandIn()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_cupy_computes_with_its_own_functions(cupy):
    library = Cupy()
    names = set()
    with library.threads(7), np.errstate(all="ignore"):  # `prove` tries other inputs, too
        for name, workload in WORKLOADS.items():
            if hasattr(workload, "numpy"):
                for descriptor in samples(name):
                    names |= {name} if prove_all(library, descriptor) else set()
    assert names >= {"matmul", "dense", "add", "reduce_sum", "reduce_max", "softmax"}
    assert not names & {"conv2d", "adam"}
    assert cupy.used <= IN_CUPY
    assert {"matmul", "sum", "max", "empty"} <= cupy.used


def test_cupy_says_why_it_is_absent(cupy, monkeypatch):
    class CUDARuntimeError(RuntimeError):
        """CuPy's."""

    def count():
        raise CUDARuntimeError("no CUDA-capable device is detected")

    runtime = types.SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError)
    cupy.cuda = types.SimpleNamespace(runtime=runtime)
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    assert Cupy().absent() == "CuPy finds no GPU: no CUDA-capable device is detected"
    runtime.getDeviceCount = lambda: 1
    assert Cupy().absent() is None
    assert Cupy().version() == "13.0"
