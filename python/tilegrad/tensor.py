"""`Tensor`: an array, the device it lives on, its gradient, and the op that made it."""

from __future__ import annotations

import numpy as np

from . import backend, recording

_new = object.__new__
_GPU_MEMORY = ((2,), (13,))  # DLPack's kDLCUDA and kDLCUDAManaged


class Tensor:
    """An n-dimensional array that remembers how it was computed.

    Args:
        data: anything `numpy.asarray` takes, another Tensor included, or an array on a GPU: CuPy's,
            PyTorch's or any other that has DLPack or the CUDA Array Interface. Floating-point data
            become float32 (on device "reference" they keep their dtype); integers and booleans are
            kept as labels or indices and become floats when an operation needs it.
            A C-contiguous array of the right dtype in the device's memory is shared, not copied.
        requires_grad: whether `backward` should fill `grad`; floating-point tensors only.
        device: "cpu", "cuda", "sim" or "reference" (see `tilegrad.backend`); None is "cuda" for
            data that are on a GPU, else the default device.

    Raises:
        TypeError: data that are not numbers.
        RuntimeError: a device that is not there; the message says why.

    >>> import tilegrad
    >>> x = tilegrad.Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    Tensor([[2., 4.],
            [6., 8.]], shape=(2, 2), dtype=float32, device=cpu)
    """

    __slots__ = (
        "__weakref__",
        "_version",
        "creator",
        "data",
        "device",
        "grad",
        "logits",
        "requires_grad",
    )
    __array_ufunc__ = None  # so that `array * tensor` comes to Tensor.__rmul__
    __array_priority__ = 1000  # the same for CuPy's arrays

    def __init__(self, data, requires_grad: bool = False, device: str | None = None):
        array = data.data if isinstance(data, Tensor) else data
        if not isinstance(array, np.ndarray):
            array = backend.as_array(array)
            if device is None and not isinstance(array, np.ndarray):
                device = "cuda"
        device = device or backend.default_device()
        k = backend.get(device)
        dtype = backend.native(array.dtype)
        if dtype.kind == "f":
            array = k.asarray(array, dtype if dtype in k.float_dtypes else k.float_dtypes[0])
        elif dtype.kind in "iub":
            array = k.asarray(array, dtype)
        else:
            raise TypeError(
                f"Tensor: expected numbers, got dtype {array.dtype} from {type(data).__name__}"
            )
        if requires_grad and array.dtype.kind != "f":
            raise TypeError(
                f"Tensor: only floating-point tensors have gradients, got {array.dtype}"
            )
        self.data = array
        self.device = device
        self.requires_grad = bool(requires_grad)
        self.grad = None
        self.creator = None
        self.logits = None
        self._version = [0]  # shared by all views of this memory

    @staticmethod
    def _wrap(array, device: str) -> Tensor:
        """A tensor round an array that is already contiguous and of the device's dtype."""
        self = _new(Tensor)
        self.data = array
        self.device = device
        self.requires_grad = False
        self.grad = None
        self.creator = None
        self.logits = None
        self._version = [0]
        return self

    @classmethod
    def _coerce(cls, value, device: str | None = None) -> Tensor:
        """`value` as a floating-point tensor; tensors that are one already pass unchanged."""
        if isinstance(value, Tensor):
            if value.data.dtype.kind == "f":
                return value
            value, device = value.data, value.device
        if not isinstance(value, (np.ndarray, float, int)):
            value = backend.as_array(value)
            if device is None and not isinstance(value, np.ndarray):
                device = "cuda"
        device = device or backend.default_device()
        array = np.asarray(value) if isinstance(value, (float, int)) else value
        if array.dtype.kind in "iub":
            dtype = backend.get(device).float_dtypes[0]
            given = array is value  # and not made here, of a number
            array = recording.converted(array, dtype) if given else array.astype(dtype)
        return Tensor(array, device=device)

    # -- what it is --------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def T(self) -> Tensor:  # noqa: N802
        return ops.transpose(self)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        name = type(self).__name__
        body = np.array2string(backend.to_numpy(self.data), prefix=f"{name}(", separator=", ")
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"{name}({body}, shape={self.shape}, dtype={self.dtype}, device={self.device}{grad})"

    def __bool__(self) -> bool:
        recording.refuse("it decides by a tensor (bool)")
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and self.size == 1 else format(str(self), spec)

    def item(self):
        """The one element, as a Python number."""
        if self.size != 1:
            raise ValueError(f"item: expected one element, got shape {self.shape}")
        recording.refuse("it reads a number of a tensor (item, float, int)")
        return self.data.item()

    # -- in and out --------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """The data as a NumPy array that shares the memory; a copy of what is on a GPU."""
        recording.refuse("it reads a tensor (numpy)")
        return backend.to_numpy(self.data)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        recording.refuse("it reads a tensor (NumPy's functions)")
        data = self.data
        if not isinstance(data, np.ndarray):
            if copy is False:
                raise ValueError("cannot give data on a GPU as a NumPy array without a copy")
            data, copy = backend.to_numpy(data), None
        if copy:
            return np.array(data, dtype=dtype)
        if copy is False and dtype is not None and np.dtype(dtype) != self.dtype:
            raise ValueError(f"cannot give {self.dtype} data as {np.dtype(dtype)} without a copy")
        return data if dtype is None else data.astype(dtype, copy=False)

    @property
    def __cuda_array_interface__(self) -> dict:
        """The CUDA Array Interface, version 3, of a tensor on "cuda"; others do not have it.

        It is CuPy's, and names the stream that the reader has to wait for.
        """
        if self.device != "cuda":
            raise AttributeError("__cuda_array_interface__: this tensor is not on device cuda")
        self._check_exportable("__cuda_array_interface__")
        return self.data.__cuda_array_interface__

    def __dlpack__(self, **options):
        """The data as a DLPack capsule; on "cuda" CuPy makes the reader's `stream` wait for it."""
        self._check_exportable("__dlpack__")
        recording.refuse("it reads a tensor (DLPack)")
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    def _check_exportable(self, what: str) -> None:
        if self.requires_grad:
            raise BufferError(f"{what}: this tensor requires a gradient; export its .detach()")

    def to(self, device: str) -> Tensor:
        """This tensor on `device`: itself if it is there already, else a copy.

        The copy is a leaf: it requires a gradient if this tensor does, but no gradient flows back.
        """
        if device == self.device:
            return self
        data = backend.get(device).asarray(self.data)
        return Tensor(data.copy() if data is self.data else data, self.requires_grad, device)

    def cpu(self) -> Tensor:
        """This tensor on device "cpu"; see `to`."""
        return self.to("cpu")

    def detach(self) -> Tensor:
        """The same memory without the graph."""
        out = Tensor._wrap(self.data, self.device)
        out._version = self._version
        return out

    def copy(self) -> Tensor:
        """A copy without the graph."""
        return Tensor._wrap(self.data.copy(), self.device)

    # -- in place ----------------------------------------------------------------------------------

    def assign(self, value) -> Tensor:
        """Overwrite the data in place with `value`, of the same shape.

        An op that needs the old data in its backward will then raise instead of using the new ones.
        """
        source = value.data if isinstance(value, Tensor) else backend.as_array(value)
        if source.shape != self.shape:
            raise ValueError(f"assign: expected shape {self.shape}, got {source.shape}")
        if not np.can_cast(source.dtype, self.dtype, "same_kind"):
            raise TypeError(f"assign: expected {self.dtype} or what fits it, got {source.dtype}")
        self._check_writable("assign")
        recording.refuse("it assigns to a tensor outside an optimizer")
        backend.copy_into(self.data, source)
        self._version[0] += 1
        return self

    def __setitem__(self, index, value) -> None:
        self._check_writable("item assignment")
        recording.refuse("it assigns to a tensor outside an optimizer")
        value = value.data if isinstance(value, Tensor) else value
        if backend.on_gpu(value) or not isinstance(self.data, np.ndarray):
            value = backend.get(self.device).asarray(value)
        self.data[array_index(index, self.device)] = value
        self._version[0] += 1

    def _check_writable(self, what: str) -> None:
        if isinstance(self.data, np.ndarray) and not self.data.flags.writeable:
            raise ValueError(f"{what}: this tensor's memory is read-only")
        if self.creator is not None:
            raise RuntimeError(
                f"{what}: a computed tensor that has a gradient cannot change in place"
            )

    # -- gradients ---------------------------------------------------------------------------------

    def backward(self, grad=None, retain_graph: bool = False) -> None:
        """Compute the gradient of this tensor with respect to every leaf, added to `leaf.grad`.

        Args:
            grad: the gradient of the final result with respect to this tensor, of its shape;
                may be left out for a scalar.
            retain_graph: keep what the ops saved, so that backward can be called again.

        Raises:
            RuntimeError: no gradient is required, the graph was freed, or a tensor that an op needs
            was
                changed in place. No `grad` is touched then.
        """
        autograd.backward(self, grad, retain_graph)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    # -- arithmetic --------------------------------------------------------------------------------

    def __add__(self, other):
        return ops.add(self, other)

    def __radd__(self, other):
        return ops.add(other, self)

    def __sub__(self, other):
        return ops.subtract(self, other)

    def __rsub__(self, other):
        return ops.subtract(other, self)

    def __mul__(self, other):
        return ops.multiply(self, other)

    def __rmul__(self, other):
        return ops.multiply(other, self)

    def __truediv__(self, other):
        return ops.divide(self, other)

    def __rtruediv__(self, other):
        return ops.divide(other, self)

    def __pow__(self, other):
        return ops.power(self, other)

    def __rpow__(self, other):
        return ops.power(other, self)

    def __matmul__(self, other):
        return ops.matmul(self, other)

    def __rmatmul__(self, other):
        return ops.matmul(other, self)

    def __neg__(self):
        return ops.negative(self)

    def __abs__(self):
        return ops.absolute(self)

    def __getitem__(self, index):
        return ops.getitem(self, index)

    def exp(self):
        return ops.exp(self)

    def log(self):
        return ops.log(self)

    def sqrt(self):
        return ops.sqrt(self)

    def sum(self, axis=None, keepdims=False):
        return ops.sum(self, axis, keepdims)

    def mean(self, axis=None, keepdims=False):
        return ops.mean(self, axis, keepdims)

    def max(self, axis=None, keepdims=False):
        return ops.max(self, axis, keepdims)

    def min(self, axis=None, keepdims=False):
        return ops.min(self, axis, keepdims)

    def reshape(self, *shape):
        return ops.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes):
        return ops.transpose(self, (axes[0] if len(axes) == 1 else axes) or None)


def array_index(index, device: str):
    """A NumPy index whose arrays, lists and tensors are arrays of the device."""
    if isinstance(index, tuple):
        return tuple([array_index(item, device) for item in index])
    if isinstance(index, Tensor):
        index = index.data
    is_array = isinstance(index, (list, np.ndarray)) or backend.on_gpu(index)
    return backend.get(device).asarray(index) if is_array else index


def from_dlpack(source) -> Tensor:
    """A tensor that shares memory with any object that speaks DLPack (NumPy, PyTorch, CuPy arrays).

    It is on "cuda" if the memory is a GPU's, else on the default device. Data that are not
    C-contiguous float32 or integers, or not in the device's memory, are converted, as `Tensor(...)`
    does. NumPy before 2.1 makes them read-only.

    >>> import numpy, tilegrad
    >>> array = numpy.zeros(3, "float32")
    >>> t = tilegrad.from_dlpack(array)
    >>> array[0] = 7
    >>> t[0].item()
    7.0
    """
    if getattr(source, "__dlpack_device__", tuple)()[:1] in _GPU_MEMORY:
        backend.get("cuda")  # says what is missing, before CuPy does
        return Tensor(backend.import_cupy().from_dlpack(source), device="cuda")
    return Tensor(np.from_dlpack(source))


from . import autograd, ops  # noqa: E402  (both need the class above)
