"""The simulator's traced build: tests/simt/planted.cu, whose bugs must all be reported, with file
and line, whose correct kernels must not, and whose memory traffic is known."""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import tilegrad
from tilegrad import backend

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "tests" / "simt" / "planted.cu"
COMPILER = os.environ.get("CXX") or shutil.which("c++")
FLAGS = ["-std=gnu++17", "-fPIC", "-Wno-unknown-pragmas", "-DTILEGRAD_SIM_TRACE"]
SEEDS = [0, 1, 2]

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="the traced build is for Linux"),
]

TEXT = SOURCE.read_text()
CASES = re.findall(r"\b(?:ONE_BLOCK|TWO_BLOCKS|WITH_DYNAMIC_SHARED)\((\w+)\),", TEXT)
CASES += re.findall(r'^    \{"(\w+)",', TEXT, flags=re.MULTILINE)


def _marks():
    """{case: {line: kinds}} from comments "reported: kind, kind", which hold for the kernel they
    stand in, and "reported in case, case: kind, kind"; {name: line} from "line: name"."""
    expected = {case: {} for case in CASES}
    lines = {}
    kernel = None
    for number, line in enumerate(TEXT.splitlines(), 1):
        if start := re.match(r"__global__ void (\w+)", line):
            kernel = start[1]
        if mark := re.search(r"// reported(?: in ([\w, ]+))?: ([\w,\- ]+)$", line):
            for case in (mark[1] or kernel).split(", "):
                expected[case][number] = mark[2].split(", ")
        if mark := re.search(r"// line: (\w+)$", line):
            lines[mark[1]] = number
    return expected, lines


EXPECTED, LINES = _marks()
BUGS = [case for case in CASES if EXPECTED[case]]


_simulator = {}  # file -> object, the same for every program


def build(folder, source, kernels=()):
    """The path of a traced program: `source`, `kernels` and the simulator."""
    version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True).stdout
    gnu = [] if "clang" in version.lower() else ["-fno-gnu-unique"]
    no_shadow_stack = ["-fcf-protection=none"] if os.uname().machine == "x86_64" else []
    traced = ["-O1", "-g1", "-fsanitize=thread", *gnu, "-x", "c++"]
    simulator = ["-O1", *no_shadow_stack]
    flags = dict.fromkeys((*kernels, source), traced)
    flags |= {ROOT / "csrc" / "simt" / name: simulator for name in ("trace.cpp", "runtime.cpp")}

    def compiled(file):
        target = _simulator.get(file, folder / f"{file.stem}.o")
        if not target.exists():
            _compile(*FLAGS, *flags[file], "-c", file, "-o", target)
        if flags[file] is simulator:
            _simulator[file] = target
        return target

    program = folder / source.stem
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        _compile("-rdynamic", *pool.map(compiled, flags), "-o", program, "-ldl", "-pthread")
    return program


def _compile(*arguments):
    run = subprocess.run([COMPILER, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("planted"), SOURCE)


def _run(program, *arguments, **environment):
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | environment
    run = subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, timeout=120, env=env
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), run.stderr


@pytest.fixture(scope="session")
def reports(program):
    return {seed: _run(program, seed)[0] for seed in SEEDS}


def _reported_lines(error):
    """(file, line) of the accesses; what the runtime finds has them in its message."""
    if error["accesses"]:
        return [(Path(a["file"]).name, a["line"]) for a in error["accesses"]]
    return [(f, int(n)) for f, n in re.findall(r"([\w.]+\.cu):(\d+)", error["message"])]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", BUGS)
def test_planted_bug_is_reported(reports, case, seed):
    errors = reports[seed][case]["errors"]
    found = set()
    for error in errors:
        assert error["kernel"] == f"tilegrad::cuda::{case}"
        places = _reported_lines(error)
        assert places, error
        for file, line in places:
            assert file == "planted.cu"
            assert error["kind"] in EXPECTED[case].get(line, ()), error
            found.add((line, error["kind"]))
    main_kind = next(iter(EXPECTED[case].values()))[0]
    for line, kinds in EXPECTED[case].items():
        assert kinds[0] == main_kind
        if seed == 0 or len(EXPECTED[case]) <= 2:
            assert (line, main_kind) in found, f"line {line} is not reported"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", [case for case in CASES if case not in BUGS])
def test_correct_kernel_is_silent(reports, case, seed):
    assert reports[seed][case]["errors"] == []


# Which block is the last of a launch is seen in the counters.
@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case not in {*BUGS, "last_block_reduces", "one_fence_for_all"}],
)
def test_counters_do_not_depend_on_the_order_of_threads(reports, case):
    for seed in SEEDS[1:]:
        assert reports[seed][case] == reports[0][case]


def test_all_kinds_are_planted():
    kinds = {kind for marks in EXPECTED.values() for kinds in marks.values() for kind in kinds}
    assert kinds == {
        "race",
        "divergent barrier",
        "uninitialised shared read",
        "out of bounds",
        "use after free",
        "not device memory",
        "null pointer",
        "write to read-only array",
        "misaligned access",
    }


# What a report says besides its lines.
DETAILS = {
    "store_out_of_bounds": [
        "write of 4 bytes, 0 bytes past the end of",
        "105 elements",
        "(41, 0, 0)",
    ],
    "load_out_of_bounds": ["read of 4 bytes, 4 bytes before the beginning of"],
    "dynamic_shared_out_of_bounds": ["past the end of the block's 256 bytes of dynamic shared"],
    "write_read_only": ["write of 4 bytes to x[0] (256 bytes)"],
    "misaligned_vector": ["read of 16 bytes", "not a multiple of 16", "at byte 4"],
    "unwritten_shared": ["tile[63] (shared memory, 256 bytes), which no thread of the block has"],
    "async_without_wait": ["tile[63]", "cp.async has not been waited for"],
    "syncwarp_too_weak": ["no barrier between", "thread (31, 0, 0)", "thread (32, 0, 0)"],
    "half_mask": ["no barrier and no operation of these lanes between"],
    "two_blocks_write_one_word": ["two blocks of a launch", "block (0, 0, 0)", "block (1, 0, 0)"],
}


@pytest.mark.parametrize("case", DETAILS)
def test_report_says(reports, case):
    text = "\n".join(error["message"] for error in reports[0][case]["errors"])
    for words in DETAILS[case]:
        assert words in text


def test_errors_are_raised(program):
    _, text = _run(program, "raise", *BUGS)
    for case in BUGS:
        assert f"{case}: " in text
    kernel = "kernel tilegrad::cuda::removed_barrier: 3 errors\n"
    assert f"removed_barrier: {kernel}" in text
    # what a race left behind is told even where the launch then fails otherwise
    assert re.search(r"read +\S*planted\.cu:\d+, block \(0, 0, 0\), thread \(31, 0, 0\)", text)


def test_without_addr2line_symbols_are_named(program):
    report, _ = _run(program, 0, "removed_barrier", PATH="/nonexistent")
    for error in report["removed_barrier"]["errors"]:
        for access in error["accesses"]:
            assert access["file"] == ""
            assert access["function"].startswith("tilegrad::cuda::removed_barrier+0x")


def _row(report, line, kind):
    (row,) = [r for r in report["rows"] if r["line"] == LINES[line] and r["kind"] == kind]
    assert Path(row["file"]) == SOURCE
    return row


def _per_request(row, counter):
    return row[counter] / row["requests"]


@pytest.mark.parametrize(
    "kernel, wavefronts", [("transpose_unpadded", 32), ("transpose_padded", 1)]
)
def test_wavefronts_of_a_transpose(reports, kernel, wavefronts):
    report = reports[0][kernel]
    load = _row(report, "column_load", "shared load")
    assert load["requests"] == 32
    assert _per_request(load, "wavefronts") == wavefronts
    assert _per_request(load, "ideal_wavefronts") == 1
    assert _per_request(_row(report, "row_store", "shared store"), "wavefronts") == 1
    assert _per_request(_row(report, "column_load", "global store"), "sectors") == 4


def test_sectors_of_a_column_store(reports):
    report = reports[0]["column_store"]
    store = _row(report, "column_store", "global store")
    assert _per_request(store, "sectors") == 32
    assert _per_request(store, "ideal_sectors") == 4
    assert _per_request(_row(report, "column_store", "global load"), "sectors") == 4


def test_vectors_are_one_access(reports):
    for kind in ("global load", "global store"):
        row = _row(reports[0]["vector_copy"], "vector_copy", kind)
        assert (row["requests"], row["bytes_each"]) == (2, 16)
        assert _per_request(row, "sectors") == _per_request(row, "ideal_sectors") == 16
    row = _row(reports[0]["vector_shared"], "vector_shared", "shared store")
    assert _per_request(row, "wavefronts") == _per_request(row, "ideal_wavefronts") == 4


@pytest.mark.parametrize("kernel, efficiency", [("odd_lanes", 0.5), ("half_warp", 0.75)])
def test_simt_efficiency(reports, kernel, efficiency):
    rows = reports[0][kernel]["rows"]
    requests, lanes = (sum(row[key] for row in rows) for key in ("requests", "lanes"))
    assert lanes / (32 * requests) == efficiency


def test_atomics_are_counted(reports):
    row = _row(reports[0]["histogram"], "histogram", "global atomic")
    assert (row["requests"], row["lanes"], row["same_address"]) == (2, 64, 8)


def test_kernels_are_counted(reports):
    (kernel,) = reports[0]["last_block_reduces"]["kernels"]
    assert kernel["name"] == "tilegrad::cuda::last_block_reduces"
    assert (kernel["launches"], kernel["blocks"], kernel["threads"]) == (2, 6, 384)
    assert (kernel["grid"], kernel["block"]) == ([3, 1, 1], [64, 1, 1])
    assert kernel["barriers"] == 12


# --- from Python ----------------------------------------------------------------------------------


def _trace_of(report):
    trace = tilegrad.sim.Trace()
    trace._fill(json.loads(json.dumps(report)))
    return trace


def _printed(table, width=160):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_table(reports):
    trace = _trace_of(reports[0]["transpose_unpadded"])
    assert [row["cost"] for row in trace.rows] == [1024, 32, 32, 32]
    text = _printed(trace.table())
    assert "a model, not a measurement" in text
    assert re.search(rf"planted\.cu:{LINES['column_load']}.* 32 +1 +100% +91%", text)
    assert "and 3 more rows" in _printed(trace.table(limit=1))


def test_page(reports, tmp_path):
    trace = _trace_of(reports[0]["removed_barrier"])
    trace.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "3 errors" in text
    assert "not a measurement" in text
    assert "tile[<" not in text and "<b>1</b>" not in text
    line = min(EXPECTED["removed_barrier"])
    assert re.search(rf'wrong"><span class="number">{line}</span><code>  tile\[i\] = x\[i\];', text)
    assert "http" not in text  # nothing is loaded from elsewhere


def test_page_without_sources(reports, tmp_path):
    report = json.loads(json.dumps(reports[0]["vector_copy"]))
    for row in report["rows"]:
        row["file"] = "/nowhere/<vector>.cu"
    trace = _trace_of(report)
    trace.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "/nowhere/&lt;vector&gt;.cu (this file is not on this machine)" in text
    assert "<vector>.cu" in _printed(trace.table())


def test_json(reports, tmp_path):
    trace = _trace_of(reports[0]["half_warp"])
    trace.to_json(tmp_path / "trace.json")
    report = json.loads((tmp_path / "trace.json").read_text())
    assert report["rows"] == trace.rows
    assert report["kernels"][0]["efficiency"] == 0.75
    assert "model" in report["note"]


@pytest.fixture
def traced():
    reason = backend.supported()["simtrace"]
    if reason:
        pytest.skip(reason)


def test_trace_serves_tensors_that_exist(traced):
    x = tilegrad.Tensor(np.linspace(-1, 1, 105, dtype=np.float32), device="sim")
    before = backend.get("sim")
    with tilegrad.sim.trace() as trace:
        assert backend.get("sim").name == "simtrace"
        assert trace.rows == []
        y = tilegrad.ops.relu(x)
        with pytest.raises(RuntimeError, match="under way"), tilegrad.sim.trace():
            pass
    assert backend.get("sim") is before
    np.testing.assert_array_equal(y.numpy(), np.maximum(x.numpy(), 0))
    assert trace.errors == []
    assert {row["kind"] for row in trace.rows} == {"global load", "global store"}
    assert all(row["file"].endswith((".cu", ".h")) for row in trace.rows)
    (kernel,) = trace.kernels
    assert kernel["launches"] == 1
    assert sum(row["bytes"] for row in trace.rows) == 2 * 105 * 4


def test_trace_ends_with_its_block(traced):
    before = backend._active.get("sim")
    with pytest.raises(KeyError), tilegrad.sim.trace() as trace:
        tilegrad.ops.relu(tilegrad.Tensor([1.0], device="sim"))
        raise KeyError
    assert backend._active.get("sim") is before
    assert trace.kernels


def test_schedule():
    with pytest.raises(ValueError, match="seed"):
        tilegrad.sim.set_schedule(-1)
    tilegrad.sim.set_schedule(3)
    tilegrad.sim.set_schedule(0)
