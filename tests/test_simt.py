"""The GPU simulator's runtime: tests/simt/runtime.cu, compiled with the machine's C++ compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "tests" / "simt" / "runtime.cu"
RUNTIME = ROOT / "csrc" / "simt" / "runtime.cpp"
COMPILER = os.environ.get("CXX") or shutil.which("c++")
SEEDS = [0, 1, 2]
COMMON = ["-std=gnu++17", "-Wno-unknown-pragmas", "-rdynamic"]
FLAVOURS = {
    "plain": ["-O2", "-Wall", "-Wextra", "-Werror"],
    "setjmp": ["-O1", "-DSIMT_PORTABLE_SWITCH"],
    "asan": ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "traced": ["-O1", "-g1", "-DTILEGRAD_SIM_TRACE"],
}
BUILDS = {  # flavour and seed; the schedule differs by seed only, so not each needs all of them
    "plain": SEEDS,
    "setjmp": [1],
    "asan": [1],
    "traced": [0],
}

# A message is to hold these words, with {name} for the line marked "HERE: name".
REFUSED = {
    "shuffle_from_exited": [
        "runtime.cu:{from_exited}: __shfl_sync: lane 5 reads lane 3, which has returned",
        "in kernel tilegrad::cuda::shuffle_from_exited, block (1, 0, 0), thread (5, 0, 0)",
    ],
    "shuffle_outside_mask": [
        "runtime.cu:{outside}: __shfl_sync: lane 7 reads lane 20, which is not in the mask",
        "block (1, 0, 0), thread (7, 0, 0)",
    ],
    "lane_outside_own_mask": [
        "runtime.cu:{own_mask}: __syncwarp for lanes fffffdff, called by lane 9",
        "block (1, 0, 0), thread (9, 0, 0)",
    ],
    "two_operations": [
        "__any_sync",
        "runtime.cu:{any}",
        "__shfl_sync",
        "runtime.cu:{shuffle}",
        "block (1, 0, 0), thread (",
    ],
    "divergent_barrier": [
        "divergent barrier",
        "warp 0 lanes ffffffff wait at __syncthreads {file}:{barrier_1} |",
        "warp 1 lanes 000000ff wait at __syncthreads {file}:{barrier_1} |",
        "warp 1 lanes ffffff00 wait at __syncthreads {file}:{barrier_2} |",
        "in kernel tilegrad::cuda::divergent_barrier, block (1, 0, 0)",
    ],
    "deadlock": [
        "deadlock: no thread of the block can go on",
        "warp 0 lanes ffffffff wait at __syncthreads {file}:{deadlock_barrier} |",
        "warp 1 lanes ffffff00 wait at __syncthreads {file}:{deadlock_barrier} |",
        "warp 1 lanes 000000ff wait at __shfl_sync {file}:{deadlock_shuffle} for lanes ffffffff",
        "in kernel tilegrad::cuda::deadlock, block (1, 0, 0)",
    ],
    "odd_width": ["runtime.cu:{odd_width}: ", "a width of 1, 2, 4, 8, 16 or 32, got 12"],
    "trap": ["runtime.cu:{trap}: __trap", "block (1, 0, 0), thread (33, 0, 0)"],
    "dynamic_overrun": [
        "written behind its 100 bytes of dynamic shared memory",
        "in kernel tilegrad::cuda::dynamic_overrun, block (1, 0, 0)",
    ],
    "throws": ["thrown by a kernel"],
    "launches_again": ["launch of tilegrad::cuda::nothing<1>: kernels cannot launch kernels"],
    "static_shared_limit": ["written 80000 bytes of __shared__ variables, at most 49152"],
    "all_shared_limit": ["4000 bytes of __shared__ variables and 231424 of dynamic"],
    "strict_barrier": [
        "runtime.cu:{strict_barrier}: __syncthreads: 11 threads of the block have returned",
        "block (1, 0, 0)",
    ],
    "strict_mask": [
        "runtime.cu:{strict_mask}: __syncwarp for lanes ffffffff, of which 40000000 have",
        "block (1, 0, 0)",
    ],
    "strict_absent_lanes": ["for lanes ffffffff, of which ffffff00 have returned or never were"],
    "block_too_large": [
        "launch of tilegrad::cuda::nothing<3>: ",
        "at most 1024 threads",
        "(32, 33",
    ],
    "block_too_wide": ["at most (1024, 1024, 64) threads, got (1025, 1, 1)"],
    "block_too_deep": ["at most (1024, 1024, 64) threads, got (1, 1, 65)"],
    "block_empty": ["a block of at least one thread, got (32, 0, 1)"],
    "grid_empty": ["a grid of at least one block, got (0, 1, 1)"],
    "grid_too_high": ["(2147483647, 65535, 65535) blocks, got (1, 65536, 1)"],
    "grid_too_deep": ["(2147483647, 65535, 65535) blocks, got (1, 1, 65536)"],
    "grid_too_wide": ["(2147483647, 65535, 65535) blocks, got (2147483648, 1, 1)"],
    "dynamic_too_large": ["at most 232448 bytes of dynamic shared memory, got 232449"],
    "free_twice": ["device_free: not a pointer from device_malloc, or freed before"],
    "copy_too_much": ["copy_to_host: 20 bytes at offset 0 of 16"],
}
# Columns tell barriers on one line apart, which this compiler may not report.
ONE_LINE = "divergent_barrier_on_one_line"
EXCEPT = {
    # AddressSanitizer takes thread-local storage away, and ends the process at an overrun.
    "asan": {"poison", "dynamic_overrun", "static_shared_limit", "all_shared_limit"},
    # These do what the traced build is there to report; test_simt_trace.py has such kernels.
    "traced": {
        "poison",
        "dynamic_shared",
        "most_dynamic_shared",
        "async_copies",
        "dynamic_overrun",
    },
}

CASES = re.findall(r'^    \{"(\w+)",', SOURCE.read_text(), flags=re.MULTILINE)
MARKS = {
    mark: number
    for number, line in enumerate(SOURCE.read_text().splitlines(), 1)
    for mark in re.findall(r"// HERE: (\w+)", line)
}


def _cases(flavour):
    return [c for c in CASES if c not in EXCEPT.get(flavour, ())]


def _environment():
    """Without a sanitizer that was loaded into this process."""
    env = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "ASAN_OPTIONS")}
    return {**env, "ASAN_OPTIONS": "detect_leaks=0"}


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The program in a flavour, compiled when first asked for."""
    if COMPILER is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("simt")
    built = {}

    def build(flavour):
        if flavour not in built:
            path = folder / flavour
            compiler = [*COMPILER.split(), *COMMON, *FLAVOURS[flavour]]
            kernels = folder / f"{flavour}.o"
            sources = [str(RUNTIME)]
            hooks = []
            if flavour == "traced":  # its hooks are trace.cpp's: no sanitizer is linked
                sources += [str(RUNTIME.with_name("trace.cpp"))]
                hooks = ["-fsanitize=thread"]
            run([*compiler, *hooks, "-x", "c++", "-c", str(SOURCE), "-o", str(kernels)])
            run([*compiler, str(kernels), *sources, "-o", str(path), "-ldl", "-pthread"])
            built[flavour] = path
        return built[flavour]

    def run(command):
        result = subprocess.run(command, env=_environment(), capture_output=True, text=True)
        assert result.returncode == 0, result.stderr

    return build


@pytest.fixture(scope="session")
def outcomes(program):
    """What each case printed, by flavour and seed; one process runs all cases."""
    known = {}

    def run(flavour, seed):
        if (flavour, seed) not in known:
            cases = _cases(flavour)
            result = subprocess.run(
                [program(flavour), str(seed), *cases],
                env=_environment(),
                capture_output=True,
                text=True,
                timeout=300,
            )
            lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
            assert result.returncode == 0, (result.stdout, result.stderr)
            assert list(lines) == cases
            known[flavour, seed] = lines
        return known[flavour, seed]

    return run


def _expected(case):
    return [words.format(**MARKS, file=SOURCE) for words in REFUSED[case]]


@pytest.mark.parametrize(
    ("flavour", "seed", "case"),
    [(f, s, c) for f in BUILDS for s in BUILDS[f] for c in _cases(f) if c != ONE_LINE],
)
def test_case(flavour, seed, case, outcomes):
    outcome = outcomes(flavour, seed)[case]
    if case not in REFUSED:
        assert outcome == "ok"
        return
    for words in _expected(case):
        assert words in outcome


@pytest.mark.parametrize("seed", SEEDS)
def test_barriers_on_one_line(seed, outcomes):
    outcome = outcomes("plain", seed)[ONE_LINE]
    if outcome == "ok":
        pytest.skip("this compiler does not tell columns")
    assert outcome.count(f"wait at __syncthreads {SOURCE}:{MARKS['one_line']} |") == 3


def test_address_sanitizer_sees_the_end_of_dynamic_shared_memory(program):
    result = subprocess.run(
        [program("asan"), "0", "dynamic_overrun"],
        env=_environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "0 bytes to the right of 100-byte region" in result.stderr or (
        "0 bytes after 100-byte region" in result.stderr
    )
    assert "tilegrad::cuda::dynamic_overrun" in result.stderr


def test_all_markers_and_cases_are_used():
    assert set(REFUSED) < set(CASES)
    used = set(re.findall(r"\{(\w+)\}", str(REFUSED))) - {"file"} | {"one_line"}
    assert used == set(MARKS)
