"""The CUDA Array Interface at the border: arrays of any library work, all that is malformed raises.

The simulator's modules read it too when told to; their device memory is the host's. `_cuda` takes
part where it was built, also without a GPU: what is malformed raises before a GPU is looked for.
"""

import contextlib
import importlib
import importlib.util

import numpy as np
import pytest
from checks import map_arrays
from samples import calls

# _simtrace is missing where another sanitizer is on; that _sim is missing, other tests tell.
SIMULATORS = [m for m in ("_sim", "_simtrace") if importlib.util.find_spec(f"tilegrad.{m}")]
CUDA = ["_cuda"] if importlib.util.find_spec("tilegrad._cuda") else []
HOST = ("scale", "decay")  # NumPy's on every device
MISSING = object()


class Array:
    """Whatever has `__cuda_array_interface__`; `memory` keeps alive what that points to."""

    def __init__(self, interface, memory=None):
        self.__cuda_array_interface__ = interface
        self.memory = memory


def described(array, **changes):
    """A NumPy array's memory as CUDA's, some entries of the interface spoilt."""
    entries = {
        "shape": array.shape,
        "typestr": array.dtype.str,
        "data": (array.ctypes.data if array.size else 0, not array.flags.writeable),
        "strides": None if array.flags.c_contiguous else array.strides,
        "version": 3,
    } | changes
    entries = {key: value for key, value in entries.items() if value is not MISSING}
    return Array(entries, array)


@contextlib.contextmanager
def reading(name):
    """The module `name`, which reads the interface within the block."""
    module = importlib.import_module(f"tilegrad.{name}")
    if name in CUDA:
        yield module
        return
    module.accept_cuda_arrays(True)
    try:
        yield module
    finally:
        module.accept_cuda_arrays(False)


@pytest.fixture(params=SIMULATORS)
def simulator(request):
    with reading(request.param) as module:
        yield module


@pytest.fixture(params=SIMULATORS + CUDA)
def kernels(request):
    with reading(request.param) as module:
        yield module


# -- what works ------------------------------------------------------------------------------------


def test_every_kernel_takes_them(simulator):
    for call in calls() + calls(n=0):  # an array of no elements has no address
        expected = call.copy().run(simulator)
        given = call.copy()
        arguments = {
            key: value if key in HOST else map_arrays(described, value)
            for key, value in given.arguments.items()
        }
        getattr(simulator, call.name)(*arguments.values())
        for key in given.written():
            np.testing.assert_equal(given.arguments[key], expected[key], err_msg=call.label)


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.mark.parametrize(
    "changes",
    [
        {"version": MISSING, "strides": MISSING},
        {"mask": None},
        {"strides": (12, 4)},
        {"shape": (np.int64(2), Index(3))},
        {"shape": (2, 1, 3), "strides": (12, 999, 4)},
        {"stream": 1, "descr": [("", "<f4")], "more": "of it"},
    ],
)
def test_what_an_interface_may_say(simulator, changes):
    x, y = np.full((2, 3), 2, np.float32), np.zeros((2, 3), np.float32)
    simulator.unary_forward(described(y, **changes), described(x, **changes), 0)
    assert np.all(y == -2)


def test_memory_may_begin_at_any_element(simulator):
    x, y = np.arange(9, dtype=np.float32), np.zeros(9, np.float32)
    simulator.unary_forward(described(y[1:6]), described(x[3:8]), 0)
    assert y.tolist() == [0, -3, -4, -5, -6, -7, 0, 0, 0]


# -- what is refused -------------------------------------------------------------------------------

X = np.ones((2, 3), np.float32)
AT = X.ctypes.data
WRONG_TYPE = {
    "shape is missing": {"shape": MISSING},
    "shape is a list": {"shape": [2, 3]},
    "shape is a number": {"shape": 6},
    "shape of text": {"shape": "23"},
    "shape of floats": {"shape": (2.0, 3.0)},
    "shape of None": {"shape": (None, 3)},
    "typestr is missing": {"typestr": MISSING},
    "typestr is bytes": {"typestr": b"<f4"},
    "typestr is a dtype": {"typestr": np.dtype("f4")},
    "float64": {"typestr": "<f8"},
    "int32": {"typestr": "<i4"},
    "big endian": {"typestr": ">f4"},
    "no byte order": {"typestr": "f4"},
    "a longer typestr": {"typestr": "<f4x"},
    "a typestr of no encoding": {"typestr": "\ud800"},
    "data is missing": {"data": MISSING},
    "data is a number": {"data": AT},
    "data is a list": {"data": [AT, False]},
    "data of text": {"data": (str(AT), False)},
    "data of a float": {"data": (float(AT), False)},
    "data of None": {"data": (None, False)},
    "read-only is text": {"data": (AT, "no")},
    "read-only is None": {"data": (AT, None)},
    "strides are a list": {"strides": [12, 4]},
    "strides are a number": {"strides": 4},
    "strides of floats": {"strides": (12.0, 4.0)},
}
WRONG_VALUE = {
    "a negative size": {"shape": (-2, 3)},
    "two negative sizes": {"shape": (-2, -3)},
    "a size beyond 64 bits": {"shape": (1 << 64, 3)},
    "bytes beyond 64 bits": {"shape": (1 << 62, 3)},
    "sizes whose product wraps": {"shape": (1 << 32, 1 << 32)},
    "nine axes": {"shape": (1,) * 7 + (2, 3)},
    "a thousand axes": {"shape": (1,) * 1000},
    "a null pointer": {"data": (0, False)},
    "a negative pointer": {"data": (-AT, False)},
    "a pointer beyond 64 bits": {"data": (1 << 64, False)},
    "a misaligned pointer": {"data": (AT + 2, False)},
    "no read-only flag": {"data": (AT,)},
    "three data": {"data": (AT, False, 1)},
    "no data": {"data": ()},
    "strides of columns first": {"strides": (4, 8)},
    "backward strides": {"strides": (-12, 4)},
    "strides of a repeated row": {"strides": (0, 4)},
    "one stride": {"strides": (4,)},
    "three strides": {"strides": (12, 12, 4)},
    "a stride beyond 64 bits": {"strides": (1 << 70, 4)},
    "a mask": {"mask": described(X)},
}
NO_INTERFACE = {
    "nothing": None,
    "a number": 1.0,
    "a list": [1.0],
    "an interface of None": Array(None),
    "an interface that is a list": Array([("shape", (2, 3))]),
    "an interface that is a number": Array(7),
    "an empty interface": Array({}),
}


@pytest.mark.parametrize("spoilt", [*WRONG_TYPE, *WRONG_VALUE])
def test_a_malformed_interface_is_refused(kernels, spoilt):
    expected = TypeError if spoilt in WRONG_TYPE else ValueError
    changes = WRONG_TYPE.get(spoilt) or WRONG_VALUE[spoilt]
    good, bad = described(np.ones((2, 3), np.float32)), described(X, **changes)
    with pytest.raises(expected, match=r"unary_forward: .*\bx\b"):
        kernels.unary_forward(good, bad, 0)
    with pytest.raises(expected, match=r"unary_forward: .*\by\b"):
        kernels.unary_forward(bad, good, 0)
    assert np.all(X == 1)


@pytest.mark.parametrize("spoilt", NO_INTERFACE)
def test_what_has_no_interface_is_refused(kernels, spoilt):
    good = described(np.ones((2, 3), np.float32))
    with pytest.raises(TypeError, match="unary_forward: expected"):
        kernels.unary_forward(good, NO_INTERFACE[spoilt], 0)


def test_every_argument_of_every_kernel_is_read_with_care(kernels):
    """One argument is spoilt, the others are valid: nothing may run."""
    for call in calls():
        given = {
            key: value if key in HOST else map_arrays(described, value)
            for key, value in call.copy().arguments.items()
        }
        for key, value in call.arguments.items():
            arrays = []
            map_arrays(arrays.append, value)
            if key in HOST or not arrays:
                continue
            ways = [{"data": (0, False)}, {"shape": None}, {"typestr": "<c8"}]
            if key in call.written():
                ways.append({"data": (arrays[0].ctypes.data, True)})
            for changes in ways:
                bad = map_arrays(lambda a, changes=changes: described(a, **changes), value)
                with pytest.raises((TypeError, ValueError), match=call.name):
                    getattr(kernels, call.name)(*(given | {key: bad}).values())


def test_optional_arrays_without_elements_are_not_left_out(kernels):
    """Their null pointer is no None."""
    y, x, w = (described(np.ones(s, np.float32)) for s in [(2, 4), (2, 3), (3, 4)])
    with pytest.raises(ValueError, match="expected b of shape"):
        kernels.dense_forward(y, x, w, described(np.ones(0, np.float32)), 0, 0.0)


def test_errors_of_the_array_itself_pass_through(kernels):
    class Breaks:
        @property
        def __cuda_array_interface__(self):
            raise ZeroDivisionError("its own")

    class BreaksLater:
        def __index__(self):
            raise ZeroDivisionError("its own")

    good = described(np.ones((2, 3), np.float32))
    for bad in (Breaks(), described(X, shape=(BreaksLater(), 3))):
        with pytest.raises(ZeroDivisionError, match="its own"):
            kernels.unary_forward(good, bad, 0)


def test_an_interface_that_changes_while_it_is_read(kernels):
    class Clears:
        def __index__(self):
            entries.clear()
            return 2

    array = described(X, shape=(Clears(), 3))
    entries = array.__cuda_array_interface__
    with pytest.raises(TypeError, match="data of x"):
        kernels.unary_forward(described(np.ones((2, 3), np.float32)), array, 0)


@pytest.mark.skipif(not CUDA, reason="_cuda was not built")
def test_numpy_arrays_are_not_the_gpus():
    """They lie in the host's memory, which a kernel cannot reach."""
    module = importlib.import_module("tilegrad._cuda")
    for call in calls():
        with pytest.raises(TypeError, match=r"in CUDA memory, such as CuPy's, got ndarray"):
            getattr(module, call.name)(*call.copy().arguments.values())
