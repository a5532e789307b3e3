"""Every backend has every kernel, with one order of arguments; every stem is in every folder."""

import inspect
import platform
import re
from pathlib import Path

import numpy as np
import pytest
from checks import assert_close, widened
from samples import calls

from tilegrad import backend as backends
from tilegrad import reference
from tilegrad.backend import ACTIVATIONS, BINARY, KERNELS, UNARY

ROOT = Path(__file__).parent.parent
STEMS = sorted(p.stem for p in (ROOT / "csrc/ops").glob("*.h") if p.stem != "glossary")
FOLDERS = {  # where each stem lives; the optimizers' public face is keras/optimizers.py
    "csrc/cpu/{}.cpp": STEMS,
    "csrc/cuda/{}.cu": STEMS,
    "csrc/bind/{}.cpp": STEMS,
    "python/tilegrad/reference/{}.py": STEMS,
    "python/tilegrad/ops/{}.py": [s for s in STEMS if s != "optim"],
    "tests/test_{}.py": STEMS,
    "tests/peers/test_{}_torch.py": STEMS,
}


def test_every_backend_exports_every_kernel(backend):
    missing = [name for name in KERNELS if not callable(getattr(backend.module, name, None))]
    assert not missing


def test_a_compiled_backend_takes_as_many_arguments(compiled):
    """pybind11 writes the signature into the docstring."""
    for name, arguments in KERNELS.items():
        signature = getattr(compiled.module, name).__doc__.split("->")[0]
        found = len(re.findall(r"\w+: ", signature))
        assert found == len(arguments.split(", ")), f"{name}: {signature}"


@pytest.mark.parametrize("name", KERNELS)
def test_the_reference_has_the_arguments_of_the_list(name):
    parameters = inspect.signature(getattr(reference, name)).parameters
    assert ", ".join(parameters) == KERNELS[name]
    assert getattr(reference, name).__doc__, "the formula is missing"


def test_the_reference_exports_kernels_only():
    assert sorted(reference.__all__) == sorted(KERNELS)


def test_there_is_a_sample_call_of_every_kernel():
    for large in (False, True):
        assert {call.name for call in calls(large)} == set(KERNELS)


@pytest.mark.parametrize("call", calls(), ids=lambda c: c.label)
def test_sample_calls_agree_with_the_reference(backend, call):
    """A rough comparison of everything with everything; test_<stem>.py has the accurate ones."""
    wide = call.copy()
    wide.arguments = {key: widened(value) for key, value in wide.arguments.items()}
    right, got = wide.run(reference), call.copy().run(backend)
    for key in right:
        pairs = zip(_flat(got[key]), _flat(right[key]), strict=True)
        for actual, expected in pairs:
            if actual.dtype.kind == "f":
                size = np.abs(expected) + 1
                assert_close(actual, expected, 200, size, "function", actual.dtype, key)
            else:
                np.testing.assert_array_equal(actual, expected)


def _flat(value):
    if isinstance(value, np.ndarray):
        return [value]
    return [array for each in value for array in _flat(each)]


@pytest.mark.parametrize("pattern", FOLDERS)
def test_every_stem_is_in_every_folder(pattern):
    for stem in FOLDERS[pattern]:
        assert (ROOT / pattern.format(stem)).is_file(), f"{pattern.format(stem)} is missing"


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_in_the_files_of_its_stem(name):
    """The contract that declares a kernel names the files that implement, bind and define it."""
    declared = [s for s in STEMS if f" {name}(" in (ROOT / f"csrc/ops/{s}.h").read_text()]
    assert len(declared) == 1, f"expected one contract that declares {name}, got {declared}"
    for pattern in ("csrc/cpu/{}.cpp", "csrc/bind/{}.cpp", "python/tilegrad/reference/{}.py"):
        path = ROOT / pattern.format(declared[0])
        assert re.search(rf"\b{name}\b", path.read_text()), f"{path} does not mention {name}"


@pytest.mark.parametrize(
    "enum, stem, names",
    [
        ("Activation", "activation", ACTIVATIONS),
        ("Binary", "elementwise", BINARY),
        ("Unary", "elementwise", UNARY),
    ],
)
def test_the_numbers_of_the_kinds_are_those_of_the_contract(enum, stem, names):
    text = (ROOT / f"csrc/ops/{stem}.h").read_text()
    body = re.search(rf"enum class {enum} : int \{{(.*?)\}};", text, re.DOTALL).group(1)
    assert {n: int(i) for n, i in re.findall(r"(\w+) = (\d+)", body)} == names


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64",
    reason="needs Linux's /proc/cpuinfo on x86-64",
)
def test_the_instruction_sets_are_those_that_the_system_reports():
    """Linux lists a feature only if it also saves its registers."""
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1].split())
    needed = {
        "base": {"sse2"},
        "avx2": {"avx2", "fma", "f16c"},
        "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"},
    }
    reasons = backends.supported()
    for isa, features in needed.items():
        assert (reasons[isa] is None) == (features <= flags), f"{isa}: {reasons[isa]}"


def test_a_compiled_backend_knows_its_name(compiled):
    assert compiled.module.isa == compiled.name
