"""Recording, the levels of TILEGRAD_DEBUG, and choosing a backend."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tilegrad
from tilegrad import backend as backends
from tilegrad import ops, trace
from tilegrad.bench.roofline import Roof, Roofs, save

STEP = """
import numpy, tilegrad
from tilegrad import ops
x = tilegrad.Tensor(numpy.ones((2, 6, 6, 1)), requires_grad=True)
w = tilegrad.Tensor(numpy.ones((3, 3, 1, 8)), requires_grad=True)
ops.conv2d(x, w, activation="relu").sum().backward()
"""


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


pytestmark = pytest.mark.usefixtures("on_backend")


def test_record_counts_calls_flops_and_bytes():
    a = np.ones((3, 5), np.float32)
    with trace.record() as recorder:
        ops.dense(a, np.ones((5, 7), np.float32))
        ops.dense(a, np.ones((5, 7), np.float32))
    (row,) = recorder.rows
    assert (row["kernel"], row["calls"], row["share"]) == ("dense_forward", 2, 1.0)
    assert recorder.totals["dense_forward"][2:] == [2 * 2 * 3 * 5 * 7, 2 * 4 * (15 + 35 + 21)]
    assert recorder.table().row_count == 1


def test_nothing_is_wrapped_once_recording_ends():
    k = backends.get(backends.default_device())
    with trace.record():
        assert k.dense_forward is not k.module.dense_forward
    assert k.dense_forward is k.module.dense_forward


def test_every_kernel_has_a_cost(backend):
    assert set(trace._FLOPS) <= set(backends.KERNELS)
    assert all(trace._output_count(name) >= 1 for name in backends.KERNELS)


@pytest.fixture
def kept_roofs(monkeypatch, tmp_path):
    """Roofs in a cache of the test's own, since to measure them takes a second or two."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    threads = backends.get("cpu").module.get_num_threads()
    levels = {"L1": 1}
    save(Roofs(Roof(isa, threads, 1e12, ((1, 1e11),), levels) for isa in backends.ISAS))


def test_debug_levels_print_more_and_more(backend, kept_roofs):
    if backend.name == "simtrace":
        pytest.skip("it serves a device only within tilegrad.sim.trace")
    variable = "TILEGRAD_ISA" if backend.name in backends.ISAS else "TILEGRAD_DEVICE"
    environment = {variable: backend.name}
    texts = []
    for level in "01234":
        result = python(STEP, TILEGRAD_DEBUG=level, **environment)
        assert result.returncode == 0, result.stderr
        texts.append(result.stderr)
    assert texts[0] == ""
    assert f"backend {backend.name}" in texts[1] and "conv2d" not in texts[1]
    assert "conv2d_backward_dw" in texts[2] and "GFLOP/s" in texts[2] and "2x6x6x1" in texts[2]
    assert ("of peak" in texts[2]) is (backend.name in ("cuda", *backends.ISAS))
    if backend.name in backends.ISAS:
        assert len(texts[3].splitlines()) > len(texts[2].splitlines())


def test_level_4_names_the_kernel_that_made_a_nan(monkeypatch):
    trace.set_level(0)
    monkeypatch.setattr(trace, "_level", 4)
    trace._install()
    try:
        with pytest.raises(FloatingPointError, match="unary_forward: finite inputs gave a NaN"):
            ops.log([-1.0])
        ops.log([float("nan")])  # a NaN that came in is not this kernel's
    finally:
        trace.set_level(0)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TILEGRAD_DEBUG", "9", "expected 0 to 4"),
        ("TILEGRAD_DEBUG", "x", "expected 0 to 4"),
        ("TILEGRAD_ISA", "sse9", "expected one of avx512, avx2, base, got 'sse9'"),
        ("TILEGRAD_DEVICE", "tpu", "expected one of cpu, cuda, sim, reference, got 'tpu'"),
        ("TILEGRAD_THREADS", "none", "TILEGRAD_THREADS"),
    ],
)
def test_bad_settings_are_named(variable, value, message):
    result = python(STEP, **{"TILEGRAD_DEVICE": "cpu", variable: value})
    assert result.returncode != 0 and message in result.stderr


def test_backends_are_described(backend):
    rows = {name: (present, reason) for name, present, reason in backends.describe()}
    assert rows[backend.name][0] and set(rows) == set(backends.supported())
    assert sum("in use" in reason for _, reason in rows.values()) <= 1


def test_version_is_there():
    assert tilegrad.__version__
