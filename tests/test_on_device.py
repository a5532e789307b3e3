"""OnDevice, by which the kernel tests reach a GPU: rehearsed with CuPy's stand-in.

The simulator's kernels take the stand-in's arrays as a GPU's module takes CuPy's, and no others.
"""

import sys

import fake_cupy
import numpy as np
import pytest
from checks import assert_guards, guarded, map_arrays, poison, unchanged
from on_device import HOST, OnDevice
from samples import calls

from tilegrad import backend
from tilegrad.backend import KERNELS


class Strict:
    """The simulator's kernels on the stand-in's arrays; NumPy's are refused as `_cuda` does."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        kernel = getattr(self._module, name)

        def call(*arguments):
            for key, value in zip(KERNELS[name].split(", "), arguments, strict=True):
                found = []
                map_arrays(found.append, value)
                if found and key not in HOST:
                    raise TypeError(f"{name}: {key} lies in the host's memory")
            kernel(*arguments)

        return call if name in KERNELS else kernel


@pytest.fixture
def sim():
    """The simulator's module, which takes the stand-in's arrays too."""
    module = backend.load("sim").module
    module.accept_cuda_arrays(True)
    yield module
    module.accept_cuda_arrays(False)


def on_device(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())
    return OnDevice(backend.Backend("cuda", module))


def bits(value):
    found = []
    map_arrays(lambda a: found.append(a.tobytes()), value)
    return found


def test_every_kernel_computes_there_and_the_results_come_back(monkeypatch, sim):
    k = on_device(monkeypatch, Strict(sim))
    for call in calls() + calls(n=0):
        there, here = call.copy(guarded), call.copy()
        read = [value for key, value in there.arguments.items() if key not in call.written()]
        with unchanged(*read):
            found = there.run(k)
        for key, expected in here.run(sim).items():
            assert bits(found[key]) == bits(expected), f"{call.label}: {key}"
            map_arrays(lambda a, label=call.label: assert_guards(a, label), found[key])


def test_two_arguments_in_one_memory_stay_in_one(monkeypatch, sim):
    """An optimizer's weights are slices of one arena."""
    k = on_device(monkeypatch, Strict(sim))
    arena, gradients = np.ones(7, np.float32), np.full(7, 2, np.float32)
    w, g = [arena[:3], arena[4:]], [gradients[:3], gradients[4:]]
    scale, decay = np.ones(2, np.float32), np.zeros(2, np.float32)
    k.sgd_update(w, g, [], scale, decay, 0.25, np.inf, 0.0, False)
    assert arena.tolist() == [0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5]


class Stray:
    """A kernel that writes `y`, and the element `at` of the memory behind it."""

    def __init__(self, at):
        self._at = at

    def unary_forward(self, y, x, kind):
        y.fill(1)
        y.base.view(np.float32)[self._at] = 7


@pytest.mark.parametrize("at", [0, -1], ids=["before", "behind"])
def test_a_stray_write_is_found(monkeypatch, at):
    k = on_device(monkeypatch, Stray(at))
    x, y = guarded(np.zeros(5, np.float32)), poison(5)
    k.unary_forward(y, x, 0)
    assert y.tolist() == [1] * 5
    with pytest.raises(AssertionError, match="outside the array"):
        assert_guards(y)


def test_read_only_memory_is_not_written_back(monkeypatch):
    k = on_device(monkeypatch, Stray(0))
    y = np.zeros(5, np.float32)
    y.flags.writeable = False
    k.unary_forward(y, y, 0)
    assert not y.any()


def test_what_is_no_kernel_passes_through(monkeypatch, sim):
    k = on_device(monkeypatch, sim)
    assert k.name == "cuda" and k.module is sim
    assert k.xp is sys.modules["cupy"]
