"""Backends: which module's kernels serve which device.

A backend is a module that exports every name in `KERNELS`. The device of a tensor selects it:

- ``"cpu"``: the compiled module of the best instruction set that this CPU and its operating system
  allow (``_cpu_avx512``, ``_cpu_avx2`` or ``_cpu_base``), or the one that ``TILEGRAD_ISA`` names;
  float32.
- ``"reference"``: pure NumPy, any float dtype; slow, and the definition of what is right.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from types import ModuleType

import numpy as np

# Every kernel and its arguments: outputs, inputs, saved statistics, sizes and hyperparameters.
# Arrays are C-contiguous and of the shapes in csrc/ops/<stem>.h; sizes follow from them.
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
DEVICES = ("cpu", "reference")


class Backend:
    """One module's kernels as attributes, its allocation, and the dtypes it computes in."""

    def __init__(self, name: str, module: ModuleType):
        self.name = name
        self.module = module
        wider = (np.dtype(np.float64),) if name == "reference" else ()
        self.float_dtypes = (np.dtype(np.float32), *wider)  # the first one is the default
        self.empty = getattr(module, "empty", np.empty)  # (shape, dtype) -> uninitialised array
        self.restore()

    def restore(self) -> None:
        """Put the module's own kernels back, after `instrument`."""
        for kernel in KERNELS:
            if hasattr(self.module, kernel):
                setattr(self, kernel, getattr(self.module, kernel))

    def instrument(self, wrap) -> None:
        """Replace every kernel by ``wrap(self, name, kernel)``; the untraced path costs nothing."""
        self.restore()
        for kernel in KERNELS:
            if kernel in self.__dict__:
                setattr(self, kernel, wrap(self, kernel, self.__dict__[kernel]))

    def zeros(self, shape, dtype) -> np.ndarray:
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def __getattr__(self, name):
        if name in KERNELS:
            raise NotImplementedError(f"{name}: the {self.name} backend does not have this kernel")
        raise AttributeError(f"a backend has no attribute {name!r}")

    def __repr__(self):
        return f"<tilegrad backend {self.name}>"


_loaded: dict[str, Backend] = {}
_active: dict[str, Backend] = {}
_default_device: str | None = None  # until asked for: then TILEGRAD_DEVICE, or "cpu"
_wrapper = None


def supported() -> dict[str, str | None]:
    """Every backend's name with None where it can run here, else the reason why it cannot."""
    reasons: dict[str, str | None] = {"reference": None}
    try:
        features = importlib.import_module("tilegrad._cpu_base").cpu_features()
    except ImportError as error:
        return reasons | dict.fromkeys(ISAS, f"the compiled core is not built: {error}")
    for isa in ISAS:
        reasons[isa] = features.get(isa)
        if reasons[isa] is None and importlib.util.find_spec(f"tilegrad._cpu_{isa}") is None:
            reasons[isa] = f"_cpu_{isa} was not built for this architecture"
    return reasons


def load(name: str) -> Backend:
    """The backend called `name`: "reference", "base", "avx2" or "avx512"."""
    if name not in _loaded:
        if name != "reference" and name not in ISAS:
            known = ", ".join((*ISAS, "reference"))
            raise ValueError(f"backend: expected one of {known}, got {name!r}")
        _check_environment()
        reason = supported()[name]
        if reason is not None:
            raise RuntimeError(f"backend {name}: {reason}")
        module = "reference" if name == "reference" else f"_cpu_{name}"
        _loaded[name] = Backend(name, importlib.import_module(f"tilegrad.{module}"))
        if _wrapper is not None:
            _loaded[name].instrument(_wrapper)
    return _loaded[name]


def _check_environment() -> None:
    for variable, low, high in (("TILEGRAD_THREADS", 1, 1024), ("TILEGRAD_DEBUG", 0, 4)):
        text = os.environ.get(variable, "")
        if text and not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise ValueError(f"{variable}: expected {low} to {high}, got {text!r}")


def set_wrapper(wrap) -> None:
    """Instrument the kernels of every backend, loaded or still to come; None takes that back."""
    global _wrapper
    _wrapper = wrap
    for loaded in _loaded.values():
        if wrap is None:
            loaded.restore()
        else:
            loaded.instrument(wrap)


def _choose_isa() -> str:
    forced = os.environ.get("TILEGRAD_ISA", "")
    if forced:
        if forced not in ISAS:
            raise ValueError(f"TILEGRAD_ISA: expected one of {', '.join(ISAS)}, got {forced!r}")
        return forced
    reasons = supported()
    for isa in ISAS:
        if reasons[isa] is None:
            return isa
    raise RuntimeError(f"device cpu: {reasons['base']}; device 'reference' works without it")


def get(device: str) -> Backend:
    """The backend that serves `device`."""
    try:
        return _active[device]
    except KeyError:
        _active[check_device(device)] = load(
            "reference" if device == "reference" else _choose_isa()
        )
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
def use(name: str):
    """Within the block, tensors are made on the backend `name`: an ISA, or "reference".

    >>> import tilegrad
    >>> with tilegrad.backend.use("reference"):
    ...     print(tilegrad.Tensor([1.0]).device)
    reference
    """
    chosen = load(name)
    device = "reference" if name == "reference" else "cpu"
    before = _active.get(device), default_device()
    _active[device] = chosen
    set_default_device(device)
    try:
        yield chosen
    finally:
        set_default_device(before[1])
        if before[0] is None:
            del _active[device]
        else:
            _active[device] = before[0]


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
        note = f"in use for device cpu: {why}" if name == chosen else "available"
        rows.append((name, reason is None, reason or note))
    return rows
