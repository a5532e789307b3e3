"""The table of registers and spills: the compiler's words are understood, new spills are found."""

import importlib.machinery
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "ptxas_table"
if not SCRIPT.is_file():
    pytest.skip("needs the source tree, not only the package", allow_module_level=True)


def load():
    loader = importlib.machinery.SourceFileLoader("ptxas_table", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("ptxas_table", loader))
    sys.modules["ptxas_table"] = module  # dataclasses look there
    loader.exec_module(module)
    return module


ptxas = load()
Use = ptxas.Use

SAID = """\
kernels.cu(3): warning #177-D: variable "unused" was declared but never referenced

Remark: The warnings can be suppressed with "-diag-suppress <warning-number>"

ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN8tilegrad4cuda3twoEPf' for 'sm_75'
ptxas info    : Function properties for _ZN8tilegrad4cuda3twoEPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 512 bytes smem, 360 bytes cmem[0]
ptxas info    : Compile time = 2.609 ms
ptxas info    : Compiling entry function '_Z4manyILi100EEvPfPKf' for 'sm_75'
ptxas info    : Function properties for _Z4manyILi100EEvPfPKf
    424 bytes stack frame, 780 bytes spill stores, 700 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 424 bytes cumulative stack size
ptxas info    : Compiling entry function '_ZN8tilegrad4cuda3twoEPf' for 'sm_90'
ptxas info    : Function properties for _ZN8tilegrad4cuda3twoEPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 1 barriers, 512 bytes smem
ptxas warning : Registers are spilled to local memory in function '_Z4manyILi100EEvPfPKf'
"""
USES = {"75": Use(10, 0, 0, 512), "80": Use(10, 0, 0, 512), "90": Use(12, 0, 0, 512)}


def test_what_ptxas_says_is_understood():
    assert ptxas.parse(SAID) == {
        ("_ZN8tilegrad4cuda3twoEPf", "75"): Use(10, 0, 0, 512),
        ("_ZN8tilegrad4cuda3twoEPf", "90"): Use(12, 0, 0, 512),
        ("_Z4manyILi100EEvPfPKf", "75"): Use(32, 1480, 424, 0),
    }


def test_warnings_of_every_compiler_are_found():
    found = ptxas.warnings(SAID + "a.cu:7:3: warning: unused parameter [-Wunused-parameter]\n")
    assert [line.split()[0] for line in found] == ["kernels.cu(3):", "ptxas", "a.cu:7:3:"]


@pytest.mark.skipif(not shutil.which("c++filt"), reason="needs c++filt")
def test_kernels_get_readable_names():
    names = ["_ZN8tilegrad4cuda3twoEPf", "_Z4manyILi100EEvPfPKf"]
    assert list(ptxas.readable(names).values()) == ["two", "many<100>"]


def test_arguments_are_cut_off():
    assert ptxas.without_arguments("f<(Kind)1, 2>(float*, int (*)(int))") == "f<(Kind)1, 2>"


def test_a_table_that_was_written_is_read_again():
    rows = {
        "a.cu: f<1, (Kind)2>": USES,
        "b.cu: kernel": {"80": Use(255, 16, 8, 0), "90": Use(9, 0, 0, 0)},
    }
    assert ptxas.read(ptxas.table(rows, "13.0.88")) == (rows, "13.0.88")


def test_the_table_itself_is_no_problem():
    assert ptxas.problems({"f": USES}, {"f": USES}, same_compiler=True) == []


@pytest.mark.parametrize("same_compiler", [True, False])
@pytest.mark.parametrize(
    "found, what",
    [
        ({"f": USES | {"80": Use(10, 4, 8, 512)}}, "f: spills 4 bytes on sm_80"),
        ({"f": USES, "g": USES}, "g: not in the table"),
        ({}, "f: in the table, but no such kernel"),
    ],
)
def test_a_spill_and_a_stale_table_are_found(found, what, same_compiler):
    assert ptxas.problems(found, {"f": USES}, same_compiler) == [what]


def test_other_registers_matter_with_the_same_compiler_only():
    found = {"f": USES | {"90": Use(13, 0, 0, 512)}}
    assert len(ptxas.problems(found, {"f": USES}, same_compiler=True)) == 1
    assert ptxas.problems(found, {"f": USES}, same_compiler=False) == []


def test_a_known_spill_may_shrink():
    known = {"f": USES | {"80": Use(10, 8, 8, 512)}}
    assert ptxas.problems({"f": USES}, known, same_compiler=False) == []


def test_every_kernel_is_in_the_table():
    """A look at the text: what scripts/ptxas_table does with nvcc, where there is none."""
    known, version = ptxas.read(ptxas.TABLE.read_text())
    assert version
    names = {re.match(r"\S+: (\w+)", name)[1] for name in known}
    for source in sorted(ptxas.TABLE.parent.glob("*.cu")):
        text = re.sub(r"//.*", "", source.read_text())
        kernels = re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(", text)
        missing = sorted(set(kernels) - names)
        assert not missing, f"{source.name}: run scripts/ptxas_table --write for {missing}"


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_a_spill_is_found_by_nvcc(tmp_path):
    source = tmp_path / "spills.cu"
    source.write_text(
        """
        __global__ void greedy(float* y, const float* x) {
          float a[100];
          for (int i = 0; i < 100; ++i) a[i] = x[32 * i + threadIdx.x];
          for (int k = 0; k < 9; ++k)
            for (int i = 0; i < 100; ++i) a[i] = a[i] * a[(i + 1) % 100] + 1;
          for (int i = 0; i < 100; ++i) y[32 * i + threadIdx.x] = a[i];
        }
        """
    )
    rows, warned = ptxas.compile_all("nvcc", [source], 1, ["-maxrregcount=32"])
    assert warned == []
    (name,) = rows
    assert name == "spills.cu: greedy"
    assert set(rows[name]) == set(ptxas.ARCHITECTURES)
    assert all(use.spill > 0 and use.registers <= 32 for use in rows[name].values())
    assert len(ptxas.problems(rows, {}, same_compiler=False)) == 4
