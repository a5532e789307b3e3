"""tests/ptx in the simulator, in order and in random orders, traced too; and by nvcc."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tests" / "ptx" / "conformance.cu"
MISUSE = PROGRAM.with_name("misuse.cu")
SIMULATOR = ROOT / "csrc" / "simt"
PTX = ROOT / "csrc" / "cuda" / "ptx.h"
if not PROGRAM.is_file():
    pytest.skip("needs the source tree, not only the package", allow_module_level=True)

# The programs know nothing of schedules: this calls what they call main.
SCHEDULE = """
#include <cstdlib>
#include "control.h"
int program();
int main(int, char** arguments) {
  simt::set_schedule(std::strtoull(arguments[1], nullptr, 10));
  simt::set_strict(true);
  return program();
}
"""
TRACED = ["-O1", "-g1", "-fsanitize=thread", "-DTILEGRAD_SIM_TRACE"]
NO_GPU = r"driver version is insufficient|no CUDA-capable device"

functions = re.findall(r"__forceinline__ \w+ (\w+)\(", PTX.read_text())


def compiler():
    found = os.environ.get("CXX") or shutil.which("c++")
    if not found:
        pytest.skip("needs a C++ compiler: c++ in the PATH, or CXX")
    return found


@pytest.fixture(scope="module", params=["plain", "traced"])
def build(request, tmp_path_factory):
    """Builds a program for the simulator; the simulator itself is compiled without hooks."""
    cxx, common = compiler(), ["-std=gnu++17", "-Wall", "-Wextra", "-Werror"]
    flags = {"plain": ["-O1"], "traced": TRACED}[request.param]
    defines = [flag for flag in flags if flag.startswith("-D")]
    folder = tmp_path_factory.mktemp(request.param)
    schedule = folder / "schedule.cpp"
    schedule.write_text(SCHEDULE)
    objects = []
    for source in (schedule, *sorted(SIMULATOR.glob("*.cpp"))):
        objects.append(folder / f"{source.stem}.o")
        command = [cxx, *common, "-O1", *defines, f"-I{SIMULATOR}", "-c", source]
        subprocess.run([*command, "-o", objects[-1]], check=True)

    @functools.cache
    def program(source):
        made = folder / source.stem
        command = [cxx, *common, *flags, "-Dmain=program", "-x", "c++", "-c", source]
        subprocess.run([*command, "-o", made.with_suffix(".o")], check=True)
        libraries = ["-rdynamic", "-pthread", "-ldl"]  # reports name kernels by their symbols
        command = [cxx, made.with_suffix(".o"), *objects, *libraries, "-o", made]
        subprocess.run(command, check=True)
        return made

    program.traced = request.param == "traced"
    return program


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the simulator is built on Linux")


@on_linux
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_emulation_is_what_the_manual_says(build, seed):
    run = subprocess.run([build(PROGRAM), str(seed)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 20
    assert all(line.startswith("ok ") for line in lines), run.stdout


@on_linux
def test_misuse_is_reported_where_it_stands(build):
    run = subprocess.run([build(MISUSE), "0"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    said = dict(line.split(": ", 1) for line in run.stdout.splitlines())
    place = r".*misuse\.cu:\d+: "
    expected = {
        "misaligned_row": place + "ldmatrix: the address is not a multiple of 16 bytes",
        "row_in_global_memory": place + "ldmatrix: the address is not in shared memory",
        "lane_that_left": place + "mma.*lanes",
        "misaligned_copy": place + r"cp\.async: the address is not a multiple of 16 bytes",
        "copy_to_global_memory": place + r"cp\.async: the address is not in shared memory",
        "copy_of_too_many_bytes": place + r"cp\.async: reads 0 to 4 bytes, not 8",
    }
    unwaited = "kernel .*: 1 error" if build.traced else "-?nan"
    expected |= {"copy_without_wait": unwaited, "wait_for_another_group": unwaited}
    assert said.keys() == expected.keys()
    for name, pattern in expected.items():
        assert re.match(pattern, said[name]), f"{name}: {said[name]}"


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_the_instructions_compile_and_hold_on_a_gpu(tmp_path):
    """Compiled for all that is supported; run where there is a GPU."""
    program = tmp_path / "conformance"
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in (75, 80, 90)]
    targets.append("-gencode=arch=compute_90,code=compute_90")
    warn = ["--Werror=all-warnings", "-Xcompiler=-Wall,-Wextra"]
    subprocess.run(["nvcc", "-std=c++17", *targets, *warn, PROGRAM, "-o", program], check=True)
    run = subprocess.run([program], capture_output=True, text=True)
    if re.search(NO_GPU, run.stdout):
        pytest.skip("compiled; no GPU to run it on")
    assert run.returncode == 0, run.stdout


def test_every_function_is_checked():
    text = PROGRAM.read_text()
    assert len(set(functions)) >= 13
    for name in set(functions) - {"shared_address"}:
        assert re.search(rf"ptx::{name}\b", text), f"{name}: tests/ptx does not call it"


def test_every_function_says_whether_a_gpu_has_confirmed_it():
    text = PTX.read_text()
    emulated = (SIMULATOR / "ptx_emulated.h").read_text()
    document = (ROOT / "docs" / "gpu.md").read_text()
    comment = re.compile(r"((?://.*\n)+)(?:template .*\n)?__device__ __forceinline__ \w+ (\w+)\(")
    documented = dict(reversed(pair) for pair in comment.findall(text))
    for name in set(functions) - {"shared_address"}:
        assert re.search(r"PTX ISA: .*Confirmed on\s(?:// )?a GPU: ", documented[name], re.S), name
        assert re.search(rf"\b{name}\(", emulated), f"{name}: the simulator lacks it"
        assert f"`{name}`" in document, f"{name}: docs/gpu.md does not mention it"
