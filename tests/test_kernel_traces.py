"""The CUDA kernels in the traced simulator: nothing is reported, in any order of threads; aligned
shapes ask for no sector and no pass over the banks too many; and a barrier or a bound that is taken
away is reported."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from checks import map_arrays, normal
from samples import calls
from test_simt_trace import COMPILER, build

from tilegrad import backend
from tilegrad.backend import ACTIVATIONS, BINARY, UNARY

ROOT = Path(__file__).resolve().parents[1]
KERNEL_FOLDER = ROOT / "csrc" / "cuda"
if not KERNEL_FOLDER.is_dir():
    pytest.skip("needs the source tree, not only the package", allow_module_level=True)


@pytest.fixture(scope="module")
def traced():
    reason = backend.supported()["simtrace"]
    if reason:
        pytest.skip(reason)
    return backend.load("simtrace")


def trace_of(traced, kernel, arguments, seed=0):
    """What the trace of one call holds, errors collected."""
    traced.module.set_schedule(seed)
    traced.module.trace_start(False)
    try:
        getattr(traced, kernel)(*arguments)
    finally:
        report = json.loads(traced.module.trace_stop())
        traced.module.set_schedule(0)
    return report


# --- any order of threads -------------------------------------------------------------------------


# In order, test_backend_parity.py and test_alignment.py trace the same calls.
@pytest.mark.parametrize("call", calls(), ids=lambda c: c.label)
def test_nothing_is_reported_in_random_orders(traced, call):
    results = []
    for seed in (0, 1, 2):
        fresh = call.copy()
        report = trace_of(traced, call.name, fresh.arguments.values(), seed)
        assert report["errors"] == [], f"seed {seed}"
        arrays = []
        map_arrays(arrays.append, [fresh.arguments[key] for key in fresh.written()])
        results.append([a.tobytes() for a in arrays])
    assert results[1:] == results[:1] * 2


# --- counters -------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
RELU, ELU, MULTIPLY = ACTIVATIONS["relu"], ACTIVATIONS["elu"], BINARY["multiply"]


# A case is (kernel, label, arguments...); its arrays are made when it runs.
def x(*shape):
    return partial(normal, RNG, *shape)


def out(*shape, kind=np.float32):
    return partial(np.zeros, shape, kind)


def below(high, *shape, kind=np.uint8):
    return partial(RNG.integers, 0, high, shape, kind)


# m, n, k for which a plan takes the tile; rows are multiples of 32 bytes
TILES = {
    "128x128x8": (640, 640, 8),
    "128x64x8": (6144, 320, 8),
    "128x32x16": (640, 640, 16),
    "64x64x16": (2176, 256, 16),
    "32x32x16": (32, 32, 256),
    "16x64x16": (16, 1536, 256),
}


def products():
    """Each tile, with operands that run along k and across it."""
    for tile, (m, n, k) in TILES.items():
        yield "dense_forward", tile, out(m, n), x(m, k), x(k, n), x(n), RELU, 0.0
        yield "dense_backward_dx", tile, out(m, n), x(m, k), x(n, k)
        yield "dense_backward_dw", tile, out(m, n), x(k, m), x(k, n)
    yield "dense_forward", "elu", out(32, 32), x(32, 16), x(16, 32), x(32), ELU, 1.0
    yield "matmul_forward", "batch", out(3, 64, 64), x(3, 64, 32), x(1, 32, 64)
    for n, f in [(64, 8), (256, 64), (4096, 16)]:
        dy = x(n, f)
        yield "bias_backward_db", f, out(f), dy
        yield "bias_activation_backward_dz", f, out(n, f), out(f), dy, x(n, f), RELU, 0.0


def convolutions():
    for label, (n, h, c), f, k, stride, pad, groups in [
        ("implicit gemm", (2, 8, 32), 32, 3, 1, 1, 1),
        ("stride 2", (2, 16, 32), 64, 3, 2, 1, 1),
        ("groups", (2, 8, 64), 64, 3, 1, 1, 2),
        ("1x1", (1, 16, 8), 640, 1, 1, 0, 1),
        ("depthwise", (2, 16, 64), 64, 3, 1, 1, 64),
        ("first layer, 1 channel", (2, 28, 1), 32, 3, 1, 0, 1),
        ("first layer, 3 channels", (2, 32, 3), 64, 3, 1, 0, 1),
        ("first layer, stride 2", (1, 64, 4), 32, 5, 2, 0, 1),
    ]:
        o = (h + 2 * pad - k) // stride + 1
        sizes = stride, stride, pad, pad, 1, 1, groups
        of_x, of_w, of_y = (n, h, h, c), (k, k, c // groups, f), (n, o, o, f)
        forward = out(*of_y), x(*of_x), x(*of_w), x(f), *sizes, RELU, 0.0
        yield "conv2d_forward", label, *forward
        if c >= 8:
            yield "conv2d_backward_dx", label, out(*of_x), x(*of_y), x(*of_w), *sizes
            yield "conv2d_backward_dw", label, out(*of_w), x(*of_x), x(*of_y), *sizes
    for label, (n, h, c), f, k, pool in [
        ("3x3x1", (8, 28, 1), 32, 3, 2),
        ("5x5x1", (2, 28, 1), 32, 5, 2),
        ("3x3x3", (2, 32, 3), 32, 3, 2),
        ("pool 3x3", (2, 32, 1), 64, 3, 3),
        ("wide", (2, 8, 32), 32, 3, 2),
    ]:
        z = h - k + 1
        sizes = z, z, 1, 1, 0, 0, 1, 1, pool, pool, 0, 0
        of_y, w = (n, z // pool, z // pool, f), (k, k, c, f)
        y, index = out(*of_y), out(*of_y, kind=np.uint8)
        image, dy = x(n, h, h, c), x(*of_y)
        yield "conv2d_max_pool2d_forward", label, y, index, image, x(*w), x(f), *sizes, RELU
        index = below(pool**2, *of_y)
        yield "conv2d_max_pool2d_backward_dw", label, out(*w), out(f), image, dy, index, *sizes


def pools():
    of_x = 2, 16, 16, 64
    for label, (o, *sizes), kind in [
        ("2x2", (8, 2, 2, 2, 2, 0, 0), np.uint8),
        ("overlapping", (8, 3, 3, 2, 2, 1, 1), np.uint8),
        ("index of 4 bytes", (1, 16, 17, 1, 1, 0, 0), np.int32),
    ]:
        of_y = 2, o, o, 64
        index = out(*of_y, kind=kind)
        yield "max_pool2d_forward", label, out(*of_y), index, x(*of_x), *sizes
        index = below(sizes[0] * sizes[1], *of_y, kind=kind)
        yield "max_pool2d_backward_dx", label, out(*of_x), x(*of_y), index, *sizes
        yield "avg_pool2d_forward", label, out(*of_y), x(*of_x), *sizes
        yield "avg_pool2d_backward_dx", label, out(*of_x), x(*of_y), *sizes
    yield "global_avg_pool2d_forward", "", out(2, 64), x(2, 64, 64)
    yield "global_avg_pool2d_backward_dx", "", out(2, 64, 64), x(2, 64)


def softmaxes():
    for n, f in [(32, 8), (32, 32), (32, 128), (8, 1024), (4, 8192), (2, 32768), (2, 65536)]:
        p, rows = out(n, f), x(n, f)
        for name in ("softmax", "log_softmax"):
            yield f"{name}_forward", f, p, rows
            yield f"{name}_backward_dx", f, p, rows, rows
        name, outputs, weight = "softmax_cross_entropy", (out(1), out(n), p), (x(n), 0.125)
        labels = below(f, n, kind=np.int32)
        yield f"{name}_sparse_forward", f, *outputs, rows, labels, *weight
        yield f"{name}_sparse_backward_dx", f, p, x(n), rows, labels
        yield f"{name}_dense_forward", f, *outputs, rows, rows, *weight
        yield f"{name}_dense_backward_dx", f, p, x(n), rows, rows


def elementwise():
    y, a = out(4096), x(4096)
    yield "activation_forward", "", y, a, RELU, 0.0
    yield "activation_backward_dx", "", y, a, a, RELU, 0.0
    yield "unary_forward", "", y, a, UNARY["square"]
    yield "unary_backward_dx", "", y, a, a, UNARY["square"]
    yield "clip_forward", "", y, a, -0.5, 0.5
    yield "clip_backward_dx", "", y, a, a, -0.5, 0.5
    yield "dropout_forward", "", y, a, 0.25, 7
    yield "dropout_backward_dx", "", y, a, 0.25, 7
    y, a = out(8, 16, 64), x(8, 16, 64)
    for shape in [(8, 16, 64), (64,), (16, 1), (8, 1, 64)]:
        yield "binary_forward", shape, y, a, x(*shape), MULTIPLY
        yield "binary_backward_da", shape, y, a, a, x(*shape), MULTIPLY
        yield "binary_backward_db", shape, y, a, a, x(*shape), MULTIPLY
    rows = [(256, 16, 1), (64, 128, 1), (64, 1024, 1), (4, 4096, 1), (264, 2176, 1)]
    for shape in [*rows, (2, 8, 64), (2, 512, 64), (1, 4096, 32), (16, 64, 8)]:
        of_y = shape[::2]
        yield "reduce_sum_forward", shape, out(*of_y), x(*shape), 0.5
        yield "reduce_sum_backward_dx", shape, out(*shape), x(*of_y), 0.5
        yield "reduce_max_forward", shape, out(*of_y), x(*shape)
        yield "reduce_max_backward_dx", shape, out(*shape), x(*of_y), x(*shape), x(*of_y)
    part = (64, 32), 0, (32, 1), 0, (64, 1)
    yield "strided_copy", "columns", out(64, 32), x(64, 64), *part
    for n, r, c in [(1, 64, 64), (1, 96, 128), (4, 32, 64)]:
        shape = n, c, r
        strides = 0, (r * c, r, 1), 0, (r * c, 1, c)
        yield "strided_copy", f"transpose {shape}", out(*shape), x(n, r, c), shape, *strides


def optimizers():
    w = [x(1024), x(8192), x(5120)]
    scale = partial(np.ones, 3, np.float32)
    step = scale, scale, 0.01, 0.75
    yield "sgd_update", "plain", w, w, [], *step, 0.0, False
    yield "sgd_update", "momentum", w, w, [w], *step, 0.9, True
    yield "rmsprop_update", "", w, w, [w, w], *step, 0.9, 0.5, 1e-7, False
    yield "adam_update", "", w, w, [w, w, w], *step, np.array([2]), 0.9, 0.999, 1e-7, True
    yield "gradient_square_sums", "", out(3, kind=np.float64), w


FAMILIES = (products, convolutions, pools, softmaxes, elementwise, optimizers)
CASES = {f"{name} {label}": (name, rest) for f in FAMILIES for name, label, *rest in f()}

# What even aligned shapes read in more sectors than its bytes fill: the kernel, and the line.
SCATTERED = [
    # one number of each row, wherever the label points
    ("cross_entropy_sparse_forward_rows", "logit = x[place.row * cols + label]"),
    # dy only where one of the thread's four elements is the window's maximum
    ("max_pool_backward_elements", "load_pack<N>(dy + from * N)"),
]


def made(value):
    """`value` with arrays in place of what makes them."""
    if isinstance(value, list):
        return [made(each) for each in value]
    return value() if callable(value) else value


@functools.cache
def source_line(file, line):
    return Path(file).read_text().splitlines()[line - 1]


def scattered(row):
    """Whether SCATTERED has this row's kernel, and its line or one that it is inlined in."""
    places = [place for place in (row, *row["callers"]) if place["file"]]
    lines = [source_line(place["file"], place["line"]) for place in places]
    return any(
        f"::{kernel}<" in row["kernel"] and any(text in line for line in lines)
        for kernel, text in SCATTERED
    )


@functools.cache
def counted(traced, case):
    name, arguments = CASES[case]
    return trace_of(traced, name, made(arguments))


@pytest.mark.parametrize("case", CASES)
def test_aligned_shapes_waste_no_transaction(traced, case):
    report = counted(traced, case)
    assert report["errors"] == []
    assert report["rows"], "nothing was counted"
    for row in report["rows"]:
        assert row["wavefronts"] == row["ideal_wavefronts"], row
        assert row["sectors"] == row["ideal_sectors"] or scattered(row), row


def test_every_kernel_has_a_case(traced):
    """All but those for sizes beyond 32 bits, which are not made to be fast."""
    sources = [*KERNEL_FOLDER.glob("*.cu"), *KERNEL_FOLDER.glob("*.h")]
    text = "".join(path.read_text() for path in sources)
    head = r"__global__ void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)\("
    kernels = {name for name in re.findall(head, text) if not name.endswith("_any")}
    launched = [kernel["name"] for case in CASES for kernel in counted(traced, case)["kernels"]]
    assert kernels == {name.partition("<")[0].rpartition("::")[2] for name in launched}


def test_all_tiles_have_a_case(traced):
    source = (KERNEL_FOLDER / "gemm.h").read_text()
    tiles = re.findall(r"using Tile(\w+) = GemmTile<.*, (\d+), \d+>;", source)
    assert sorted(f"{extent}x{depth}" for extent, depth in tiles) == sorted(TILES)
    for tile, (m, n, k) in TILES.items():
        assert f"tile {tile}," in traced.module.dense_plan(m, k, n)


# --- faults ---------------------------------------------------------------------------------------

# The program runs on a copy of the kernels, in which a number that it counts up chooses the fault.
PROGRAM = "tests/simt/kernels.cu"
BARRIER = "__syncthreads();"
BOUNDS = [  # (file, line, a condition in it, what takes its place)
    ("conv.cu", "return {} &&", "static_cast<unsigned>(i) < static_cast<unsigned>(h)", "i <= h"),
    ("conv_pool.cu", "if ({}) continue;", "filter + k >= s.f", "filter + k > s.f"),
    ("elementwise.cu", "if ({} && lane < cols)", "i < rows", "i <= rows"),
    ("gemm.h", "if ({}) at[j] = v[j];", "j < count", "j <= count"),
    ("map.h", "if ({}) y[rest] =", "rest < count", "rest <= count"),
    ("optim.cu", "k < 4 && {};", "k < rest", "k <= rest"),
    ("pool.cu", "if ({}) return;", "thread >= count", "thread > count"),
]
FEW_BLOCKS = [  # so that a block does more than one tile, which otherwise takes very large arrays
    ("conv_pool.cu", "ceil_div(2 * target_blocks, blocks)", "1"),
    ("elementwise.cu", "1 << 20", "1"),
]


def barriers():
    """(file, line) of every barrier in the kernels."""
    for path in sorted([*KERNEL_FOLDER.glob("*.cu"), *KERNEL_FOLDER.glob("*.h")]):
        for number, line in enumerate(path.read_text().splitlines()):
            if BARRIER in line:
                yield path.name, number


BARRIERS = list(barriers())
FAULTS = [f"{file}:{number + 1} without barrier" for file, number in BARRIERS]
FAULTS += [f"{file} {after}" for file, _, _, after in BOUNDS]


def plant(folder):
    """Write the faults, numbered from 1 on, into the kernels in `folder`."""
    text = {path.name: path.read_text() for path in folder.iterdir()}

    def replace(file, old, new):
        assert old in text[file], f"{file} no longer has: {old}"
        text[file] = text[file].replace(old, new, 1)

    for fault, (file, number) in enumerate(BARRIERS, 1):
        lines = text[file].split("\n")
        lines[number] = lines[number].replace(BARRIER, f"if (planted != {fault}) {BARRIER}")
        text[file] = "\n".join(lines)
    for fault, (file, line, before, after) in enumerate(BOUNDS, len(BARRIERS) + 1):
        either = f"(planted == {fault} ? {after} : {before})"
        replace(file, line.format(before), line.format(either))
    for change in FEW_BLOCKS:
        replace(*change)
    text["device.h"] += "namespace tilegrad {\nextern int planted;\n}\n"
    for file, changed in text.items():
        (folder / file).write_text(changed)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The program's report without a fault, and with each of FAULTS."""
    if COMPILER is None or sys.platform != "linux":
        pytest.skip("needs a C++ compiler, on Linux")
    root = tmp_path_factory.mktemp("faults")
    for folder in ("csrc/core", "csrc/cuda", "csrc/ops", "csrc/simt", "tests/simt"):
        shutil.copytree(ROOT / folder, root / folder)
    kernels = root / "csrc" / "cuda"
    plant(kernels)
    stems = ("dense", "conv", "pool", "conv_pool", "elementwise", "optim")
    program = build(root, root / PROGRAM, [kernels / f"{stem}.cu" for stem in stems])
    run = subprocess.run([program, str(len(FAULTS))], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_without_a_fault_nothing_is_reported(reports):
    assert reports[0]["errors"] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_reported(reports, fault):
    errors = reports[1 + FAULTS.index(fault)]["errors"]
    kinds = {error["kind"] for error in errors}
    if "barrier" in fault:
        assert kinds and kinds <= {"race", "uninitialised shared read"}
    else:
        assert "out of bounds" in kinds
