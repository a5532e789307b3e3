"""Backends: which module's kernels serve which device.

A backend is a module that exports every name in `KERNELS`. The device of a tensor selects it:

- ``"cpu"``: the compiled module of the best instruction set that this CPU and its operating system
  allow (``_cpu_avx512``, ``_cpu_avx2`` or ``_cpu_base``), or the one that ``TILEGRAD_ISA`` names;
  float32.
- ``"cuda"``: the CUDA kernels, on CuPy's arrays and its current stream; float32.
- ``"sim"``: the same CUDA kernels in a simulator on the CPU, on NumPy's arrays: slow, for machines
  without a GPU. ``_simtrace`` takes ``_sim``'s place while `tilegrad.sim.trace` looks on.
- ``"reference"``: pure NumPy, any float dtype; slow, and the definition of what is right.

Arrays are NumPy's or, on "cuda", CuPy's; `as_array`, `namespace`, `to_numpy` and `copy_into` are
for code that meets both. CuPy is imported when the first of its arrays is needed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import math
import os
from types import ModuleType

import numpy as np

# Every kernel and its arguments: outputs, inputs, saved statistics, sizes and hyperparameters.
# Arrays are C-contiguous and of the shapes in csrc/ops/<stem>.h; sizes follow from them. What
# gives a bias's gradient takes the rows of dy, y and dz as (..., f), what multiplies matrices takes
# one alone as a batch of one.
# `activation`, `kind` are the integers of the enums there (see ACTIVATIONS, BINARY, UNARY).
_CONV = "stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups"
_CONV_POOL = (
    "conv_h, conv_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, "
    "pool_h, pool_w, pool_pad_top, pool_pad_left"
)
_POOL = "kh, kw, stride_h, stride_w, pad_top, pad_left"
KERNELS = {
    # activation
    "activation_forward": "y, x, kind, alpha",
    "activation_backward_dx": "dx, dy, saved, kind, alpha",
    # dense
    "dense_forward": "y, x, w, b, activation, alpha",
    "dense_backward_dx": "dx, dy, w",
    "dense_backward_dw": "dw, x, dy",
    "bias_backward_db": "db, dy",
    "bias_activation_backward_dz": "dz, db, dy, y, activation, alpha",
    "matmul_forward": "y, a, b",
    "matmul_backward_da": "da, dy, b",
    "matmul_backward_db": "db, a, dy",
    # conv
    "conv2d_forward": f"y, x, w, b, {_CONV}, activation, alpha",
    "conv2d_backward_dx": f"dx, dy, w, {_CONV}",
    "conv2d_backward_dw": f"dw, x, dy, {_CONV}",
    # pool
    "max_pool2d_forward": f"y, index, x, {_POOL}",
    "max_pool2d_backward_dx": f"dx, dy, index, {_POOL}",
    "avg_pool2d_forward": f"y, x, {_POOL}",
    "avg_pool2d_backward_dx": f"dx, dy, {_POOL}",
    "global_avg_pool2d_forward": "y, x",
    "global_avg_pool2d_backward_dx": "dx, dy",
    # conv_pool
    "conv2d_max_pool2d_forward": f"y, index, x, w, b, {_CONV_POOL}, activation",
    "conv2d_max_pool2d_backward_dw": f"dw, db, x, dy, index, {_CONV_POOL}",
    # softmax
    "softmax_forward": "y, x",
    "softmax_backward_dx": "dx, dy, y",
    "log_softmax_forward": "y, x",
    "log_softmax_backward_dx": "dx, dy, y",
    "softmax_cross_entropy_sparse_forward": "loss, losses, p, x, labels, weight, scale",
    "softmax_cross_entropy_sparse_backward_dx": "dx, dlosses, p, labels",
    "softmax_cross_entropy_dense_forward": "loss, losses, p, x, t, weight, scale",
    "softmax_cross_entropy_dense_backward_dx": "dx, dlosses, p, t",
    # elementwise
    "binary_forward": "y, a, b, kind",
    "binary_backward_da": "da, dy, a, b, kind",
    "binary_backward_db": "db, dy, a, b, kind",
    "unary_forward": "y, x, kind",
    "unary_backward_dx": "dx, dy, x, kind",
    "clip_forward": "y, x, low, high",
    "clip_backward_dx": "dx, dy, x, low, high",
    "reduce_sum_forward": "y, x, scale",
    "reduce_sum_backward_dx": "dx, dy, scale",
    "reduce_max_forward": "y, x",
    "reduce_max_backward_dx": "dx, dy, x, y",
    "strided_copy": "y, x, size, y_offset, y_strides, x_offset, x_strides",
    "dropout_forward": "y, x, rate, seed",
    "dropout_backward_dx": "dx, dy, rate, seed",
    # optim
    "sgd_update": "w, g, states, scale, decay, lr, clip, momentum, nesterov",
    "rmsprop_update": "w, g, states, scale, decay, lr, clip, rho, momentum, epsilon, centered",
    "adam_update": "w, g, states, scale, decay, lr, clip, step, beta_1, beta_2, epsilon, amsgrad",
    "gradient_square_sums": "out, g",
}

ACTIVATIONS = {
    name: i
    for i, name in enumerate(
        [
            "linear",
            "relu",
            "leaky_relu",
            "sigmoid",
            "tanh",
            "elu",
            "gelu",
            "gelu_tanh",
            "silu",
            "softplus",
        ]
    )
}
BINARY = {
    name: i
    for i, name in enumerate(
        ["add", "subtract", "multiply", "divide", "power", "maximum", "minimum"]
    )
}
UNARY = {name: i for i, name in enumerate(["negative", "exp", "log", "sqrt", "absolute", "square"])}

ISAS = ("avx512", "avx2", "base")  # best first
DEVICES = ("cpu", "cuda", "sim", "reference")

# Every backend's module and the device that it serves.
_MODULES = {isa: (f"_cpu_{isa}", "cpu") for isa in ISAS} | {
    "cuda": ("_cuda", "cuda"),
    "sim": ("_sim", "sim"),
    "simtrace": ("_simtrace", "sim"),
    "reference": ("reference", "reference"),
}


class Backend:
    """One module's kernels as attributes, its memory, and the dtypes it computes in.

    Attributes:
        xp: the array library of its memory: numpy, or cupy.
        empty, zeros: (shape, dtype) -> a new array, uninitialised or of zeros.
        empty_like: (array) -> an uninitialised one of the same shape and dtype.
        asarray: (array, dtype=None) -> the array in this memory, C-contiguous and of `dtype`;
            copied only if it must be.
        asynchronous: whether kernels run on while Python goes on, so that to read a number is to
            wait for all of them. The simulator's do not, but what is written for a GPU runs there.
    """

    def __init__(self, name: str, module: ModuleType):
        self.name = name
        self.module = module
        wider = (np.dtype(np.float64),) if name == "reference" else ()
        self.float_dtypes = (np.dtype(np.float32), *wider)  # the first one is the default
        self.asynchronous = name in ("cuda", "sim", "simtrace")
        if name == "cuda":
            self.xp = import_cupy()
            self._empty, self._own_empty_like = _cupy_empty, None
            self.asarray = _cupy_asarray
            self._scalar = functools.lru_cache(maxsize=256)(self._new_scalar)
        else:
            self.xp = np
            self._empty = getattr(module, "empty", np.empty)
            self._own_empty_like = getattr(module, "empty_like", None)
            self.asarray = _numpy_asarray
        self.restore()

    def restore(self) -> None:
        """Put the module's own kernels back, after `instrument`."""
        self.install({})

    def instrument(self, wrap) -> None:
        """Replace every kernel by ``wrap(self, name, kernel)``; the untraced path costs nothing."""
        self.install({"trace": wrap})

    def install(self, wrappers) -> None:
        """Make each kernel ``wrap(self, name, kernel)``; without wrappers, the module's own.

        Args:
            wrappers: purpose -> wrap; that for "capture" gets `empty` and `zeros` too.
        """
        found = {name: getattr(self.module, name, self._missing(name)) for name in KERNELS}
        found |= {"empty": self._empty, "zeros": self._zeros}
        for name, function in found.items():
            for purpose, wrap in wrappers.items():
                if name in KERNELS or purpose == "capture":
                    function = wrap(self, name, function)
            setattr(self, name, function)  # at once: other threads may be calling it
        own = None if "capture" in wrappers else self._own_empty_like
        self.empty_like = own or self._empty_like

    def _empty_like(self, array):
        return self.empty(array.shape, array.dtype)

    def _zeros(self, shape, dtype):
        array = self._empty(shape, dtype)
        array.fill(0)
        return array

    def scalar(self, value: float, dtype):
        """A number as an array of no axes. On a GPU it is kept, so that the next one costs no copy.

        Nobody may write to it.
        """
        if self.xp is np:
            return np.asarray(value, dtype)
        return self._scalar(float(value).hex(), dtype)  # 0.0 and -0.0 are two numbers

    def _new_scalar(self, text: str, dtype):
        array = self.asarray(float.fromhex(text), dtype)
        self.synchronize()  # the next one to use it may do so on another stream
        return array

    def synchronize(self) -> None:
        """Wait until all kernels are done."""
        if self.name == "cuda":
            self.xp.cuda.get_current_stream().synchronize()

    def free_bytes(self) -> int | None:
        """How much memory is left on the device; None where it is the host's."""
        if self.name != "cuda":
            return None
        pooled = self.xp.get_default_memory_pool().free_bytes()
        return self.xp.cuda.runtime.memGetInfo()[0] + pooled

    def _missing(self, name: str):
        def raise_error(*_):
            raise NotImplementedError(f"{name}: the {self.name} backend does not have this kernel")

        return raise_error

    def __repr__(self):
        return f"<tilegrad backend {self.name}>"


# -- arrays of either library ----------------------------------------------------------------------

_MOST = 1 << 44  # elements of an array


def import_cupy() -> ModuleType:
    """The module cupy.

    Raises:
        RuntimeError: it is not installed, or does not work.
    """
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(f"device cuda: {_NO_CUPY} ({error})") from error
    return cupy


def on_gpu(value) -> bool:
    """Whether `value` is an array in a GPU's memory: CuPy's, PyTorch's or another's."""
    return not isinstance(value, np.ndarray) and hasattr(value, "__cuda_array_interface__")


def native(dtype) -> np.dtype:
    """A dtype of numbers in this machine's byte order: NumPy's own object, not one that equals it.

    Arrays pass that object on. To compare it with itself costs next to nothing.
    """
    return np.dtype(dtype.type)


def as_array(value):
    """`value` as a CuPy array where it is on a GPU, else as a NumPy array; shared if possible."""
    if not on_gpu(value):
        return np.asarray(value)
    cupy = import_cupy()
    if isinstance(value, cupy.ndarray):
        return value
    # DLPack also makes CuPy's stream wait for what the other library still computes.
    return cupy.from_dlpack(value) if hasattr(value, "__dlpack__") else cupy.asarray(value)


def namespace(array) -> ModuleType:
    """The library of an array that `as_array` gave: numpy or cupy."""
    return np if isinstance(array, (np.ndarray, np.generic)) else import_cupy()


def to_numpy(array) -> np.ndarray:
    """An array that `as_array` gave as a NumPy array: itself, or a copy from the GPU."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def _numpy_asarray(array, dtype=None) -> np.ndarray:
    if on_gpu(array):
        array = as_array(array).get()
    return np.asarray(array, dtype, order="C")


def _cupy_empty(shape, dtype):
    if math.prod(shape) > _MOST:  # CuPy counts bytes in 64 bits, and they may wrap to a few
        raise MemoryError(f"empty: shape {tuple(shape)} of {dtype} is more than any GPU holds")
    return import_cupy().empty(shape, dtype)


def _cupy_asarray(array, dtype=None):
    return import_cupy().asarray(array, dtype, order="C")


def copy_into(target, source) -> None:
    """target[...] = source, both of one shape, in whatever memory each of them is."""
    if isinstance(target, np.ndarray):
        np.copyto(target, to_numpy(source), casting="same_kind")
    elif isinstance(source, np.ndarray):
        target.set(np.asarray(source, target.dtype, order="C"))
    else:
        namespace(target).copyto(target, source, casting="same_kind")


def numbers(arrays) -> list[float]:
    """The values of CuPy arrays of one element each, read with one copy for each dtype."""
    groups = {}
    for i, array in enumerate(arrays):
        groups.setdefault(array.dtype, []).append(i)
    values = [0.0] * len(arrays)
    for group in groups.values():
        stacked = namespace(arrays[0]).stack([arrays[i].reshape(()) for i in group])
        for i, value in zip(group, stacked.get().tolist(), strict=True):
            values[i] = float(value)
    return values


# -- which backends there are ----------------------------------------------------------------------

_loaded: dict[str, Backend] = {}
_active: dict[str, Backend] = {}
_default_device: str | None = None  # until asked for: then TILEGRAD_DEVICE, or "cpu"
_wrappers = {}  # purpose -> wrap

_NO_CUPY = "CuPy is not installed: pip install 'tilegrad[cuda13]' (or [cuda12])"
_HOW_TO_BUILD = {
    "_cuda": "where nvcc is, pip install -C cmake.define.TILEGRAD_CUDA=ON .",
    "_sim": "pip install -C cmake.define.TILEGRAD_SIM=ON .",
    "_simtrace": "pip install -C cmake.define.TILEGRAD_SIM=ON .",
}
_NO_GPU = {35: "driver too old or absent", 100: "no device"}  # CUDA's statuses that mean it


def supported() -> dict[str, str | None]:
    """Every backend's name with None where it can run here, else the reason why it cannot."""
    return {name: _why_not(name) for name in ("reference", *ISAS, "cuda", "sim", "simtrace")}


def _why_not(name: str) -> str | None:
    module, device = _MODULES[name]
    if name == "reference" or name in _loaded:
        return None
    if device == "cpu":
        try:
            features = importlib.import_module("tilegrad._cpu_base").cpu_features()
        except ImportError as error:
            return f"the compiled core is not built: {error}"
        if features.get(name) is not None:
            return features[name]
        found = importlib.util.find_spec(f"tilegrad.{module}") is not None
        return None if found else f"{module} was not built for this architecture"
    if importlib.util.find_spec(f"tilegrad.{module}") is None:
        return f"{module} was not built: {_HOW_TO_BUILD[module]}"
    return _why_no_cuda() if device == "cuda" else None


def _why_no_cuda() -> str | None:
    try:
        status, count, text = importlib.import_module("tilegrad._cuda").device_count()
    except ImportError as error:
        return f"_cuda cannot be imported: {error}"
    if status in _NO_GPU:
        return f"no GPU: CUDA status {status} ({_NO_GPU[status]})"
    if status:
        return f"CUDA status {status}: {text}"
    if not count:
        return "no GPU: CUDA counts none"
    return None if importlib.util.find_spec("cupy") else _NO_CUPY


def load(name: str) -> Backend:
    """The backend called `name`: "avx512", "avx2", "base", "cuda", "sim", "simtrace", "reference".

    Raises:
        ValueError: there is none of this name.
        RuntimeError: it cannot run here; the message says why.
    """
    if name not in _loaded:
        if name not in _MODULES:
            raise ValueError(f"backend: expected one of {', '.join(_MODULES)}, got {name!r}")
        _check_environment()
        reason = _why_not(name)
        if reason is not None:
            raise RuntimeError(f"backend {name}: {reason}")
        _loaded[name] = Backend(name, importlib.import_module(f"tilegrad.{_MODULES[name][0]}"))
        if name == "cuda":
            stream = _loaded[name].xp.cuda.get_current_stream
            _loaded[name].module.set_stream_getter(lambda: stream().ptr)
        _loaded[name].install(_wrappers)
    return _loaded[name]


def loaded() -> list[Backend]:
    """The backends that were loaded so far."""
    return list(_loaded.values())


def _check_environment() -> None:
    for variable, low, high in (("TILEGRAD_THREADS", 1, 1024), ("TILEGRAD_DEBUG", 0, 4)):
        text = os.environ.get(variable, "")
        if text and not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise ValueError(f"{variable}: expected {low} to {high}, got {text!r}")


def set_wrapper(wrap, purpose: str = "trace") -> None:
    """Instrument the kernels of every backend, loaded or still to come; None takes that back."""
    global _wrappers
    _wrappers = {key: w for key, w in (_wrappers | {purpose: wrap}).items() if w is not None}
    for loaded in _loaded.values():
        loaded.install(_wrappers)


def _choose_isa() -> str:
    forced = os.environ.get("TILEGRAD_ISA", "")
    if forced:
        if forced not in ISAS:
            raise ValueError(f"TILEGRAD_ISA: expected one of {', '.join(ISAS)}, got {forced!r}")
        return forced
    for isa in ISAS:
        reason = _why_not(isa)
        if reason is None:
            return isa
    raise RuntimeError(f"device cpu: {reason}; device 'reference' works without it")


def get(device: str) -> Backend:
    """The backend that serves `device`."""
    try:
        return _active[device]
    except KeyError:
        check_device(device)
        _active[device] = load(_choose_isa() if device == "cpu" else device)
        return _active[device]


def check_device(device: str) -> str:
    if device not in DEVICES:
        raise ValueError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
    return device


def default_device() -> str:
    """The device of tensors made without naming one: "cpu", or what TILEGRAD_DEVICE says."""
    if _default_device is None:
        device = os.environ.get("TILEGRAD_DEVICE") or "cpu"
        if device not in DEVICES:
            expected = ", ".join(DEVICES)
            raise ValueError(f"TILEGRAD_DEVICE: expected one of {expected}, got {device!r}")
        set_default_device(device)
    return _default_device


def set_default_device(device: str) -> None:
    global _default_device
    _default_device = check_device(device)


@contextlib.contextmanager
def serve(name: str):
    """Within the block, the backend `name` serves its device; the default device stays."""
    chosen = load(name)
    device = _MODULES[name][1]
    before = _active.get(device)
    _active[device] = chosen
    try:
        yield chosen
    finally:
        if before is None:
            del _active[device]
        else:
            _active[device] = before


@contextlib.contextmanager
def use(name: str):
    """Within the block, tensors are made on the backend `name`: an ISA, or one of `load`'s others.

    >>> import tilegrad
    >>> with tilegrad.backend.use("reference"):
    ...     print(tilegrad.Tensor([1.0]).device)
    reference
    """
    with serve(name) as chosen:
        before = default_device()
        set_default_device(_MODULES[name][1])
        try:
            yield chosen
        finally:
            set_default_device(before)


def get_num_threads() -> int:
    """How many threads the compiled kernels use; results do not depend on it."""
    return get("cpu").module.get_num_threads()


def set_num_threads(count: int) -> None:
    """Use `count` threads (1 to 1024) in every loaded backend."""
    os.environ["TILEGRAD_THREADS"] = str(get("cpu").module.set_num_threads(count))
    for backend in _loaded.values():
        if hasattr(backend.module, "set_num_threads"):
            backend.module.set_num_threads(count)


def describe() -> list[tuple[str, bool, str]]:
    """(name, present, reason) of every backend, the one in use marked."""
    rows = []
    chosen = None
    with contextlib.suppress(RuntimeError):
        chosen = get("cpu").name
    forced = os.environ.get("TILEGRAD_ISA", "")
    why = f"TILEGRAD_ISA={forced}" if forced else "the best that this CPU and system allow"
    for name, reason in supported().items():
        note = reason or (f"in use for device cpu: {why}" if name == chosen else _note(name))
        rows.append((name, reason is None, note))
    return rows


def _note(name: str) -> str:
    if name == "cuda":
        info = load(name).module.device_info()
        major, minor = info["compute_capability"]
        return f"available: {info['name']}, compute capability {major}.{minor}"
    return "available"
