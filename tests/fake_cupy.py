"""A stand-in for CuPy on machines without a GPU: as much of it as the package uses, and as strict.

Its arrays lie in NumPy's memory, but NumPy may not touch them: implicit conversions and mixed
arithmetic raise TypeError as CuPy's do, and what CuPy lacks (`flags.writeable`, `take(mode=)`) is
missing here too. New memory is poisoned. `transfers` counts copies to and from the "GPU", so that a
test can say where a GPU would have to wait.
"""

from __future__ import annotations

import importlib.machinery
import types

import numpy as np

_SCALARS = (bool, int, float, np.generic)
_KDL_CUDA = 2


class _Flags:
    def __init__(self, array):
        self.c_contiguous = array._host.flags.c_contiguous
        self.f_contiguous = array._host.flags.f_contiguous
        self.owndata = array.base is None


class _Pointer:
    def __init__(self, ptr):
        self.ptr = ptr


class _Capsule:
    """What `__dlpack__` gives: the memory, and the stream that its reader said it would use."""

    def __init__(self, array, stream):
        self.array = array
        self.stream = stream


class _AtAddress:
    """Memory at an address, for NumPy."""

    def __init__(self, interface):
        self.__array_interface__ = {
            "shape": interface["shape"],
            "typestr": interface["typestr"],
            "data": interface["data"],
            "strides": interface.get("strides"),
            "version": 3,
        }
        self.owner = interface


def _unwrap(value):
    """What NumPy may compute with; TypeError for what CuPy would not take."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, (tuple, list)):
        return type(value)(_unwrap(v) for v in value)
    if value is None or value is Ellipsis or isinstance(value, (*_SCALARS, slice, type, np.dtype)):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


class ndarray:  # noqa: N801
    """cupy.ndarray."""

    __array_priority__ = 100

    def __init__(self, host, base=None):
        self._host = host
        self.base = base

    def _view(self, host):
        return ndarray(host, self if self.base is None else self.base)

    # -- what it is

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    ndim = property(lambda self: self._host.ndim)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(_Flags)
    data = property(lambda self: _Pointer(self._host.ctypes.data))
    device = property(lambda self: 0)

    @property
    def __cuda_array_interface__(self):
        contiguous = self._host.flags.c_contiguous
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "stream": 1,
            "version": 3,
            "strides": None if contiguous else self.strides,
            "data": (self._host.ctypes.data if self.size else 0, False),
        }

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if stream is not None and (not isinstance(stream, int) or stream < -1 or stream == 0):
            raise ValueError(f"On CUDA, the valid stream is -1, 1, 2 or larger, not {stream}")
        return _Capsule(self, stream)

    def __dlpack_device__(self):
        return _KDL_CUDA, 0

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`")

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} of CuPy's arrays: use its own")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if method != "__call__":
            return NotImplemented
        if out is not None:
            options["out"] = tuple(_unwrap(o) for o in out)
        result = _wrap(ufunc(*(_unwrap(i) for i in inputs), **options))
        return out[0] if out is not None else result

    def __len__(self):
        return len(self._host)

    def __repr__(self):
        return repr(self.get())

    # -- to and from the host

    def get(self):
        transfers["to host"] += 1
        return self._host.copy()

    def set(self, array):
        if not isinstance(array, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if array.dtype != self.dtype or array.shape != self.shape:
            raise ValueError(f"{array.dtype} {array.shape} does not fit {self.dtype} {self.shape}")
        transfers["to device"] += 1
        self._host[...] = array

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __bool__(self):
        return bool(self.get())

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    # -- movement

    def reshape(self, *shape):
        host = self._host.reshape(*shape)
        return self._view(host) if np.shares_memory(host, self._host) else ndarray(host)

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if casting is not None or subok is not None:
            raise TypeError("casting is not supported yet")
        host = self._host.astype(dtype, order, copy=copy)
        return self if host is self._host else ndarray(host)

    def copy(self):
        return ndarray(self._host.copy())

    def view(self, dtype):
        return self._view(self._host.view(dtype))

    def fill(self, value):
        self._host.fill(value)

    def take(self, indices, axis=None, out=None):
        return _wrap(self._host.take(_unwrap(indices), axis, _unwrap(out)))

    def __getitem__(self, index):
        host = self._host[_unwrap(index)]
        if isinstance(host, np.ndarray) and np.may_share_memory(host, self._host):
            return self._view(host)
        return _wrap(host)

    def __setitem__(self, index, value):
        self._host[_unwrap(index)] = _unwrap(value)

    # -- reductions

    def sum(self, axis=None, dtype=None):
        return _wrap(self._host.sum(axis, dtype))

    def mean(self, axis=None, dtype=None):
        return _wrap(self._host.mean(axis, dtype))

    def min(self):
        return _wrap(self._host.min())

    def max(self):
        return _wrap(self._host.max())

    def any(self, axis=None):
        return _wrap(self._host.any(axis))

    def all(self):
        return _wrap(self._host.all())

    def argmax(self, axis=None):
        return _wrap(self._host.argmax(axis))


def _wrap(value):
    return ndarray(np.asarray(value))


def _unary(name):
    function = getattr(np.ndarray, f"__{name}__")
    return lambda self: _wrap(function(self._host))


def _binary(name):
    function = getattr(np.ndarray, f"__{name}__")

    def method(self, other):
        if getattr(other, "__array_ufunc__", True) is None:
            return NotImplemented
        result = function(self._host, _unwrap(other))
        return result if result is NotImplemented else _wrap(result)

    return method


def _in_place(name):
    function = getattr(np.ndarray, f"__{name}__")

    def method(self, other):
        function(self._host, _unwrap(other))
        return self

    return method


for _name in ("add", "sub", "mul", "truediv", "pow", "and", "or"):
    setattr(ndarray, f"__{_name}__", _binary(_name))
    setattr(ndarray, f"__r{_name}__", _binary(f"r{_name}"))
    setattr(ndarray, f"__i{_name}__", _in_place(f"i{_name}"))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ndarray, f"__{_name}__", _binary(_name))
ndarray.__hash__ = object.__hash__
for _name in ("neg", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", _unary(_name))


# -- functions -------------------------------------------------------------------------------------


def empty(shape, dtype=float):
    """Poisoned: NaN, or 0x5a in every byte of an integer."""
    array = np.empty(shape, dtype)
    if array.dtype.kind == "f":
        array.fill(np.nan)
    else:
        array.view(np.uint8 if array.ndim else array.dtype).fill(0x5A)
    return ndarray(array)


def asarray(a, dtype=None, order=None, *, blocking=False):
    if isinstance(a, ndarray):
        host = np.asarray(a._host, dtype, order=order)
        return a if np.may_share_memory(host, a._host) else ndarray(host)
    if hasattr(a, "__cuda_array_interface__"):
        shared = np.asarray(_AtAddress(a.__cuda_array_interface__))
        return ndarray(np.asarray(shared, dtype, order=order))
    transfers["to device"] += 1
    return ndarray(np.array(a, dtype, order=order))


def from_dlpack(source):
    kind, _ = source.__dlpack_device__()
    if kind != _KDL_CUDA:
        raise BufferError(f"expected memory of a GPU, got DLPack's device type {kind}")
    capsule = source.__dlpack__(stream=_stream.ptr)
    assert capsule.stream == _stream.ptr
    return capsule.array._view(capsule.array._host)


def copyto(dst, src, casting="same_kind", where=None):
    np.copyto(_unwrap(dst), _unwrap(src), casting=casting)


def _function(name):
    numpys = getattr(np, name)
    return lambda *args, **options: _wrap(numpys(*map(_unwrap, args), **options))


class _Stream:
    ptr = 1234

    def synchronize(self):
        transfers["waits"] += 1


_stream = _Stream()
transfers = dict.fromkeys(("to host", "to device", "waits"), 0)
free = [1 << 34]  # bytes that the device has left
ranges = []  # NVTX: ("push", name) and ("pop",), in order

_FUNCTIONS = (
    *("abs", "maximum", "log", "sqrt", "square", "sum", "trunc", "isnan", "isfinite", "clip"),
    *("where", "expand_dims", "arange", "take_along_axis", "broadcast_to", "stack"),
    "ascontiguousarray",
)


def module():
    """The module to put into sys.modules as "cupy"."""
    cupy = types.ModuleType("cupy")
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    cupy.ndarray = ndarray
    for function in (empty, asarray, from_dlpack, copyto):
        setattr(cupy, function.__name__, function)
    for name in _FUNCTIONS:
        setattr(cupy, name, _function(name))
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(
        free_bytes=lambda: 0, used_bytes=lambda: 3 << 20, total_bytes=lambda: 5 << 20
    )
    cupy.cuda = types.SimpleNamespace(
        nvtx=types.SimpleNamespace(
            RangePush=lambda name: ranges.append(("push", name)),
            RangePop=lambda: ranges.append(("pop",)),
        ),
        get_current_stream=lambda: _stream,
        runtime=types.SimpleNamespace(memGetInfo=lambda: (free[0], 1 << 35)),
    )
    return cupy


class OnHost:
    """A CPU module as one for the GPU: its kernels take these arrays, and only these."""

    _HOST = ("scale", "decay")  # arrays that stay in NumPy's memory on every device

    def __init__(self, module, kernels):
        for name, arguments in kernels.items():
            setattr(self, name, self._kernel(getattr(module, name), arguments.split(", ")))

    def _kernel(self, kernel, names):
        def call(*arguments):
            return kernel(
                *(
                    value if name in self._HOST else self._strip(value)
                    for name, value in zip(names, arguments, strict=True)
                )
            )

        return call

    def _strip(self, value):
        if isinstance(value, list):
            return [self._strip(v) for v in value]
        if isinstance(value, np.ndarray):
            raise TypeError("expected an array in CUDA memory, such as CuPy's, got ndarray")
        if isinstance(value, ndarray):
            if not value._host.flags.c_contiguous:
                raise ValueError("expected a C-contiguous array")
            return value._host
        return value
