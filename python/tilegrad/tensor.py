"""`Tensor`: an array, the device it lives on, its gradient, and the op that made it."""

from __future__ import annotations

import numpy as np

from . import backend


class Tensor:
    """An n-dimensional array that remembers how it was computed.

    Args:
        data: anything `numpy.asarray` takes, another Tensor included. Floating-point data become
            float32 (on device "reference" they keep their dtype); integers and booleans are kept as
            labels or indices and become floats when an operation needs it.
            A C-contiguous array of the right dtype is shared, not copied.
        requires_grad: whether `backward` should fill `grad`; floating-point tensors only.
        device: "cpu" or "reference"; None is the default device.

    Raises:
        TypeError: data that are not numbers.

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

    def __init__(self, data, requires_grad: bool = False, device: str | None = None):
        device = backend.check_device(device or backend.default_device())
        array = data.data if isinstance(data, Tensor) else np.asarray(data)
        if array.dtype.kind == "f":
            dtypes = backend.get(device).float_dtypes
            dtype = array.dtype.newbyteorder("=")
            array = np.asarray(array, dtype if dtype in dtypes else dtypes[0], order="C")
        elif array.dtype.kind in "iub":
            array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
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

    @classmethod
    def _wrap(cls, array: np.ndarray, device: str) -> Tensor:
        """A tensor round an array that is already contiguous and of the device's dtype."""
        self = Tensor.__new__(Tensor)
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
        device = device or backend.default_device()
        array = np.asarray(value)
        if array.dtype.kind in "iub":
            array = array.astype(backend.get(device).float_dtypes[0])
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
        body = np.array2string(self.data, prefix=f"{name}(", separator=", ")
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"{name}({body}, shape={self.shape}, dtype={self.dtype}, device={self.device}{grad})"

    def __bool__(self) -> bool:
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
        return self.data.item()

    # -- in and out --------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """The data as a NumPy array that shares the memory."""
        return self.data

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy:
            return np.array(self.data, dtype=dtype)
        if copy is False and dtype is not None and np.dtype(dtype) != self.dtype:
            raise ValueError(f"cannot give {self.dtype} data as {np.dtype(dtype)} without a copy")
        return self.data if dtype is None else self.data.astype(dtype, copy=False)

    def __dlpack__(self, **options):
        if self.requires_grad:
            raise BufferError("__dlpack__: this tensor requires a gradient; export its .detach()")
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    def to(self, device: str) -> Tensor:
        """This tensor on `device` (itself if it is there already); cuts the graph otherwise."""
        return self if device == self.device else Tensor(self.data, self.requires_grad, device)

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
        source = value.data if isinstance(value, Tensor) else np.asarray(value)
        if source.shape != self.shape:
            raise ValueError(f"assign: expected shape {self.shape}, got {source.shape}")
        if not np.can_cast(source.dtype, self.dtype, "same_kind"):
            raise TypeError(f"assign: expected {self.dtype} or what fits it, got {source.dtype}")
        self._check_writable("assign")
        np.copyto(self.data, source, casting="same_kind")
        self._version[0] += 1
        return self

    def __setitem__(self, index, value) -> None:
        self._check_writable("item assignment")
        self.data[index] = value.data if isinstance(value, Tensor) else value
        self._version[0] += 1

    def _check_writable(self, what: str) -> None:
        if not self.data.flags.writeable:
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


def from_dlpack(source) -> Tensor:
    """A tensor that shares memory with any object that speaks DLPack (NumPy, PyTorch, CuPy arrays).

    Data that are not C-contiguous float32 or integers are converted, as `Tensor(...)` does. NumPy
    before 2.1 makes them read-only.

    >>> import numpy, tilegrad
    >>> array = numpy.zeros(3, "float32")
    >>> t = tilegrad.from_dlpack(array)
    >>> array[0] = 7
    >>> t[0].item()
    7.0
    """
    return Tensor(np.from_dlpack(source))


from . import autograd, ops  # noqa: E402  (both need the class above)
