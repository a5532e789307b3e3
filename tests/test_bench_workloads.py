"""The workloads of ``tilegrad bench`` at small odd sizes: who computes them, and what they cost.

Every way of tilegrad, NumPy and PyTorch is proved as the harness does it: poisoned outputs, two
seeds, inputs that must not change.
"""

from __future__ import annotations

import functools
import importlib.util
import sys

import fake_cupy
import numpy as np
import pytest

from tilegrad import backend, reference
from tilegrad.backend import ACTIVATIONS, BINARY, KERNELS, UNARY
from tilegrad.bench import proof, suites
from tilegrad.bench.libraries import all_libraries
from tilegrad.bench.libraries.bound import LINE, HostInstance, aligned
from tilegrad.bench.libraries.numpy_ import Numpy
from tilegrad.bench.libraries.tilegrad_ import Tilegrad
from tilegrad.bench.libraries.torch_ import Torch
from tilegrad.bench.libraries.torch_onednn_ import TorchOneDnn
from tilegrad.bench.workload import WORKLOADS, Truth, Way, Workload, letters, parse
from tilegrad.bench.workloads.common import Axis, distinct

IMAGES = [
    "conv2d:n3h7w9c3f5k3s1same",
    "conv2d:n3h8w9c3f5k3s2same",  # the odd row of padding stands behind the image
    "conv2d:n2h9w7c1f5k3s1valid",
    "conv2d_relu:n3h8w9c3f5k3s2same",
    "conv2d_dx:n3h7w9c3f5k3s1valid",
    "conv2d_dx:n3h8w9c3f5k3s2same",
    "conv2d_dw:n3h7w9c1f5k3s1valid",
    "conv2d_dw:n3h8w9c3f5k3s2same",
    "grouped_conv2d:n3h9w7c6f4k3s1g2d2same",
    "grouped_conv2d_dx:n3h9w7c6f4k3s1g2d2same",
    "grouped_conv2d_dw:n3h9w7c6f4k3s1g2d2same",
    "conv2d_pool:n3h9w7c3f5k3p2same",
    "conv2d_pool:n3h9w8c1f5k2p3same",
    "conv2d_pool_dw:n3h9w7c3f5k3p2same",
    "conv2d_pool_dw:n3h9w8c1f5k2p3valid",
    "max_pool2d:n3h7w9c5k2",
    "max_pool2d:n3h8w9c5k3s2same",
    "max_pool2d:n1h17w18c3k17s1valid",  # more places than a byte can name
    "max_pool2d_dx:n3h7w9c5k2",
    "max_pool2d_dx:n3h8w9c5k3s2same",
    "avg_pool2d:n3h7w9c5k2",
    "avg_pool2d:n3h8w9c5k3s2same",
    "avg_pool2d_dx:n3h8w9c5k3s2same",
    "global_avg_pool2d:n3h5w7c9",
    "global_avg_pool2d_dx:n3h5w7c9",
]
MATRICES = [
    *(f"{name}:m7k17n3" for name in ("dense", "dense_dx", "dense_dw")),
    *(f"{name}:m17n7" for name in ("bias_db", "bias_relu_dz", "transpose")),
    *(f"{name}:b{b}m3k7n5" for name in ("matmul", "matmul_da", "matmul_db") for b in (1, 3)),
    *(f"{name}:r7c17" for name in ("softmax", "softmax_dx", "log_softmax", "log_softmax_dx")),
    *(f"{name}:r7c17" for name in ("softmax_cross_entropy", "softmax_cross_entropy_dense")),
    *(f"{name}_{form}:r7c17" for name in ("add", "multiply") for form in ("row", "column")),
    *(f"{name}:r7c17i3" for name in ("reduce_sum", "reduce_sum_dx", "reduce_max", "reduce_max_dx")),
]
VECTORS = [
    *(f"{name}{dx}:n129" for name in ACTIVATIONS if name != "linear" for dx in ("", "_dx")),
    *(f"{name}:n129" for name in BINARY),
    *(f"{name}_{d}:n129" for name in list(BINARY)[2:] for d in ("da", "db")),
    *(f"{name}{dx}:n129" for name in UNARY for dx in ("", "_dx")),
    *(f"{name}{dx}:n129" for name in ("clip", "dropout") for dx in ("", "_dx")),
]
OPTIMIZERS = [
    *(f"{name}:n131t3" for name in ("sgd", "sgd_momentum", "sgd_nesterov")),
    *(f"{name}:n131t3" for name in ("rmsprop", "rmsprop_momentum", "rmsprop_centered")),
    *(f"{name}:n131t3" for name in ("adam", "adam_amsgrad")),
]
ALL = [*IMAGES, *MATRICES, *VECTORS, *OPTIMIZERS, "gradient_square_sums:n1031t3"]

# What no other library has: its random numbers would be others.
OURS_ALONE = {"dropout"}


@functools.cache
def truths(descriptor, calls=1):
    """Two of a workload; optimizers' after several calls too."""
    workload = parse(descriptor)
    return [Truth(workload, seed, calls) for seed in (1, 2)]


def prove_all(library, descriptor, calls=1):
    """Prove every way that the library has; how many there are."""
    workload = parse(descriptor)
    with library.threads(2):
        ways = library.ways(workload)
        for way in ways:
            instance = library.bind(workload, way)
            for truth in truths(descriptor, calls):
                name = f"{library.label} {way.setting}: {descriptor}"
                assert proof.prove(instance, name, truth) <= 1
    return len(ways)


def ours(name):
    library = Tilegrad(name)
    if library.absent():
        pytest.skip(library.absent())
    return library


# --- right and wrong ------------------------------------------------------------------------------


def test_every_workload_is_tried():
    assert {d.partition(":")[0] for d in ALL} == set(WORKLOADS)


@pytest.mark.parametrize("name", ["base", "avx512", "reference", "sim"])
def test_tilegrad_computes_every_workload(name):
    library = ours(name)
    assert all(prove_all(library, descriptor) == 1 for descriptor in ALL)


def test_tilegrad_computes_every_workload_on_cuda(monkeypatch):
    """With CuPy's stand-in: copies to and from the device, and nothing of NumPy's in between."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())
    module = fake_cupy.OnHost(backend.get("cpu").module, KERNELS)
    monkeypatch.setitem(backend._loaded, "cuda", backend.Backend("cuda", module))
    assert all(prove_all(Tilegrad("cuda"), descriptor) == 1 for descriptor in ALL)


def test_numpy_agrees():
    count = sum(prove_all(Numpy(), descriptor) for descriptor in ALL)
    assert count > len(ALL) // 2


@pytest.mark.parametrize("group", [IMAGES, MATRICES, VECTORS, OPTIMIZERS])
def test_torch_agrees_and_has_every_workload(group):
    pytest.importorskip("torch")
    for descriptor in group:
        if descriptor.partition(":")[0] not in OURS_ALONE:
            assert prove_all(Torch(), descriptor) > 0, descriptor


def test_onednn_agrees_where_torch_calls_something_else():
    pytest.importorskip("torch")
    if (reason := TorchOneDnn().absent()) is not None:
        pytest.skip(reason)
    found = {d.partition(":")[0] for d in ALL if prove_all(TorchOneDnn(), d)}
    products = {"matmul", "matmul_da", "matmul_db", "dense", "dense_dx", "dense_dw"}
    assert found == products | {"conv2d_relu", "conv2d_pool"}


@pytest.mark.parametrize("descriptor", OPTIMIZERS)
def test_several_updates(descriptor):
    libraries = [ours("base"), Numpy()] + [Torch()] * (Torch().absent() is None)
    for library in libraries:
        prove_all(library, descriptor, calls=4)


@pytest.mark.parametrize("descriptor", ALL)
def test_nothing_wrong_would_pass(descriptor):
    """Zeros, what is rolled or reversed, another seed's outputs, half precision."""
    proof.check_strength(truths(descriptor))


@pytest.mark.parametrize("descriptor", ["dense:m7k17n3", "relu:n129", "max_pool2d:n3h7w9c5k2"])
def test_a_single_wrong_element_is_found(descriptor):
    truth = truths(descriptor)[0]
    dtypes = [np.dtype(truth.workload.dtypes.get(s, np.float32)) for s in truth.workload.shapes]
    right = [np.array(a, d) for a, d in zip(truth.outputs, dtypes, strict=True)]
    assert proof.compare("right", right, truth) <= 1
    for a in right:
        before = a.flat[5]
        a.flat[5] = before + 1
        with pytest.raises(proof.NotProvedError):
            proof.compare("wrong", right, truth)
        a.flat[5] = before


class Calls:
    """The reference, and which of its kernels were called."""

    def __init__(self):
        self.names = set()

    def __getattr__(self, name):
        self.names.add(name)
        return getattr(reference, name)


@pytest.mark.parametrize("descriptors", [ALL, suites.SUITES["sim"].descriptors], ids=["all", "sim"])
def test_every_kernel_has_a_workload(descriptors):
    calls = Calls()
    for descriptor in descriptors:
        workload = parse(descriptor)
        arrays = list(workload.inputs(np.random.default_rng(0)).values())
        if not workload.in_place:
            made = (
                np.empty(shape, workload.dtypes.get(name, np.float32))
                for name, shape in workload.shapes.items()
            )
            arrays = [*made, *arrays]
        workload.tilegrad(calls)(*arrays)
    assert calls.names == set(KERNELS)


# --- what it costs --------------------------------------------------------------------------------

COSTS = {
    "dense:m7k17n3": (2 * 7 * 17 * 3, 4 * (7 * 17 + 17 * 3 + 3 + 7 * 3)),
    "matmul:b3m3k7n5": (2 * 3 * 3 * 7 * 5, 4 * 3 * (3 * 7 + 7 * 5 + 3 * 5)),
    "conv2d:n2h5w5c3f7k3s1valid": (2 * 2 * 9 * 7 * 27, 4 * (150 + 189 + 7 + 126)),
    # 3 windows along an axis see 2, 3 and 2 pixels of the image
    "conv2d:n1h3w3c1f1k3s1same": (2 * 7 * 7, 4 * (9 + 9 + 1 + 9)),
    # 3 windows of 2, 3 and 3 pixels; 2 of 2 each
    "conv2d_dx:n1h6w4c2f5k3s2same": (2 * (3 + 3 + 2) * (3 + 2) * 10, 4 * (30 + 90 + 48)),
    "grouped_conv2d_dw:n1h5w5c4f6k3s1g2valid": (2 * 9 * 9 * 2 * 6, 4 * (100 + 54 + 108)),
    # 4 x 4 of the 5 x 5 outputs are in some window of the pooling
    "conv2d_pool:n1h7w7c1f3k3valid": (2 * 16 * 9 * 3, 4 * (49 + 27 + 3 + 12) + 12),
    # 3 of 4 windows are open, and each reads one patch; the image behind the pooling is aside
    "conv2d_pool_dw:n4h6w6c1f2k3valid": (2 * 24 * 9, 4 * (144 + 32 + 18 + 2) + 32),
    "max_pool2d:n1h4w6c5k2": (30 * 3, 4 * (120 + 30) + 30),
    "max_pool2d_dx:n1h4w6c5k2": (0, 4 * (120 + 30) + 30),
    "avg_pool2d:n1h4w6c5k2": (120, 4 * (120 + 30)),
    "relu_dx:n129": (129, 4 * 3 * 129),
    "softmax_cross_entropy:r7c17": (5 * 7 * 17, 4 * (2 * 7 * 17 + 7 + 1)),
    "reduce_sum:r7c17i3": (7 * 17 * 3, 4 * (7 * 17 * 3 + 21)),
    "transpose:m7n17": (0, 8 * 7 * 17),
    "adam:n131t3": (10 * 131, 4 * 7 * 131 + 8),  # reads w, g, m, v and the step; writes w, m, v
    "gradient_square_sums:n131t3": (2 * 131, 4 * 131 + 3 * 8),
}


@pytest.mark.parametrize("descriptor", COSTS)
def test_operations_and_bytes(descriptor):
    workload = parse(descriptor)
    assert (workload.flops, workload.nbytes) == COSTS[descriptor]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window, dilation", [(1, 1), (2, 1), (3, 1), (3, 2)])
def test_windows_are_those_of_the_convolution(padding, stride, window, dilation):
    """Each tap inside the image multiplies one pixel, which a convolution of ones counts."""
    axis = Axis(7, window, stride, padding, dilation)
    y = np.empty((1, axis.windows, 1, 1))
    x, w = np.ones((1, 7, 1, 1)), np.ones((window, 1, 1, 1))
    sizes = (stride, 1, axis.before, 0, dilation, 1, 1)
    reference.conv2d_forward(y, x, w, None, *sizes, ACTIVATIONS["linear"], 0.0)
    assert axis.taps() == y.sum()
    assert axis.taps(1) == y[0, 0].sum()
    reach = (window - 1) * dilation + 1
    last = (axis.windows - 1) * stride - axis.before
    assert last + reach <= 7 + axis.after < last + stride + reach or padding == "same"


def test_no_two_numbers_of_a_window_are_equal(rng):
    x = distinct(rng, 3, 2, 9, 7, 4)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    flat = np.sort(windows.reshape(*windows.shape[:4], 9), axis=-1)
    assert (np.diff(flat, axis=-1) > 0).all()


def test_the_small_cnn_keeps_its_shapes():
    assert parse("adam:n693962t6").shapes["w2"] == (5408, 128)
    assert parse("adam:n7t3").shapes["v1"] == (2,)


# --- descriptors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("descriptor", ALL)
def test_a_name_is_read_back(descriptor):
    workload = parse(descriptor)
    assert str(parse(str(workload))) == str(workload)


def test_defaults_are_in_the_name():
    assert str(parse("max_pool2d:n3h7w9c5k2")) == "max_pool2d:n3h7w9c5k2s2valid"
    assert str(parse("conv2d_pool:n3h7w9c5f2k3same")) == "conv2d_pool:n3h7w9c5f2k3p2same"
    assert str(parse("reduce_sum:c3r2")) == "reduce_sum:r2c3i1"


@pytest.mark.parametrize(
    "descriptor, message",
    [
        ("dens:m1k1n1", "expected one of .*, dense, .* got 'dens:m1k1n1'"),
        ("dense", "sizes after a colon, got 'dense'"),
        ("dense:m1k2", "expected dense:m#k#n#, got 'dense:m1k2'"),
        ("dense:m1k2n3q4", "got 'dense:m1k2n3q4'"),
        ("dense:m1k2n0", "got 'dense:m1k2n0'"),
        ("dense:m1m1k2n3", "got 'dense:m1m1k2n3'"),
        ("conv2d:n1h5w5c1f1k3s1full", "got 'conv2d:n1h5w5c1f1k3s1full'"),
        ("conv2d:n1h5w2c1f1k3s1valid", "expected a window of at most 2 pixels, got 3"),
        ("grouped_conv2d:n1h5w5c3f4k3s1g2same", "expected c and f that 2 groups divide"),
        ("max_pool2d:n1h1w5c1k2", "expected a window of at most 1 pixels, got 2"),
        ("conv2d_pool:n1h5w5c1f1k3p4valid", "expected pooling windows of 1 to 3 pixels, got 4"),
        ("conv2d_pool:n1h99w99c1f1k3p16same", "expected pooling windows of 1 to 15 pixels, got 16"),
        ("adam:n3t4", "expected at most 3 tensors of 3 parameters, got 4"),
    ],
)
def test_a_wrong_descriptor_says_why(descriptor, message):
    with pytest.raises(ValueError, match=message):
        parse(descriptor)


def test_the_gpu_has_the_workloads_of_the_simulator():
    gpu, sim = (
        {d.partition(":")[0] for d in suites.SUITES[name].descriptors} for name in ("gpu", "sim")
    )
    assert gpu == sim


@pytest.mark.parametrize("name", suites.SUITES)
def test_suites_name_workloads(name):
    for descriptor in suites.SUITES[name].descriptors:
        if not descriptor.startswith("train:"):
            assert str(parse(descriptor)).startswith(descriptor.partition(":")[0] + ":")


# --- libraries ------------------------------------------------------------------------------------


def test_libraries_of_a_device():
    best = backend.get("cpu").name
    assert [library.label for library in all_libraries("cpu")][:2] == [f"tilegrad {best}", "NumPy"]
    two = [library.label for library in all_libraries("cpu", ["avx2", "base"])][:2]
    assert two == ["tilegrad avx2", "tilegrad base"]
    for device in ("cpu", "cuda", "sim"):
        found = all_libraries(device)
        assert found[0].name == "tilegrad"
        assert {library.device for library in found} == {device}
    with pytest.raises(ValueError, match="expected cpu, cuda or sim, got 'gpu'"):
        all_libraries("gpu")
    with pytest.raises(ValueError, match="expected some of avx512, avx2, base, got \\['mmx'\\]"):
        all_libraries("cpu", ["mmx"])


def test_threads_are_set_and_put_back():
    before = backend.get_num_threads()
    with ours("base").threads(before + 1):
        assert backend.get_num_threads() == before + 1
    assert backend.get_num_threads() == before


def test_torch_is_set_and_put_back():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    small = torch.tensor(1e-39)
    with Torch().threads(before + 1):
        assert torch.get_num_threads() == before + 1
        assert torch.is_inference_mode_enabled()
        assert float(small * 1) == 0
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()
    assert float(small * 1) > 0


def test_what_is_absent_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert Torch().absent() == "PyTorch is not installed"
    assert "tilegrad[bench]" in Numpy().absent()
    assert Tilegrad("reference").absent() is None


class Sum(Workload):
    """y = a + b, not registered: y, a, b (m, n)."""

    sizes = letters("mn")

    def prepare(self):
        self.shapes = {"y": (self.m, self.n), "z": (self.n,)}

    def inputs(self, rng):
        return {name: rng.random((self.m, self.n), np.float32) for name in "ab"}


def test_memory_and_what_is_seen_are_two_things():
    workload = Sum(m=3, n=5)
    inputs = workload.inputs(np.random.default_rng(7))
    seen = []

    def call(y, a, b, doubled):
        seen.append((y.shape, y.strides, a.shape, a.strides, b.shape, b.strides))
        y[...] = a.T + b.T + 0 * doubled.T

    turned = (1, 0)
    way = Way(
        "",
        call,
        out=True,
        memory={"a": turned, "y": turned},
        seen={"y": turned},
        derive=lambda y, a, b: (2 * a,),
        lacks=("z",),
    )
    instance = HostInstance(workload, way)
    instance.load(inputs)
    instance.poison()
    assert np.isnan(instance.results(None)[0]).all()
    y, z = instance.results(instance.call())
    assert z is None
    np.testing.assert_array_equal(y, inputs["a"] + inputs["b"])
    # y lies and is seen as (n, m); a lies so and is seen as (m, n); b does neither
    assert seen == [((5, 3), (12, 4), (3, 5), (4, 12), (3, 5), (20, 4))]
    for name, a in instance.held().items():
        np.testing.assert_array_equal(a, inputs[name])


def test_arrays_keep_their_place_and_start_a_cache_line():
    workload = parse("dense:m7k17n3")
    library = ours("base")
    instance = library.bind(workload, library.ways(workload)[0])
    places = []
    for truth in truths("dense:m7k17n3"):
        instance.load(truth.inputs)
        arrays = [*instance.held().values(), *instance.results(instance.call())]
        places.append([a.ctypes.data for a in arrays])
    assert places[0] == places[1]
    assert not any(place % LINE for place in places[0])
    assert aligned((), np.int64).shape == ()


def test_integers_are_poisoned_too():
    workload = parse("max_pool2d:n1h17w18c3k17s1valid")
    library = ours("base")
    instance = library.bind(workload, library.ways(workload)[0])
    instance.poison()
    y, index = instance.results(None)
    assert np.isnan(y).all()
    assert index.dtype == np.int32
    assert (index == 0x5A5A5A5A).all()


def test_torch_sees_its_layouts():
    torch = pytest.importorskip("torch")
    workload = parse("conv2d:n2h9w7c3f5k3s1valid")
    for way in Torch().ways(workload):
        found = []
        spy = Way("", lambda *a, found=found: found.extend(a), memory=way.memory, seen=way.seen)
        Torch().bind(workload, spy).call()
        layout = torch.channels_last if "last" in way.setting else torch.contiguous_format
        x, w, _ = found
        assert x.shape == (2, 3, 9, 7)
        assert w.shape == (5, 3, 3, 3)
        assert x.is_contiguous(memory_format=layout)
        assert w.is_contiguous(memory_format=layout)
