"""tilegrad: a small, fast, readable numerical core for training neural networks."""

from . import backend, ops, trace
from .autograd import is_grad_enabled, no_grad
from .backend import get_num_threads, set_num_threads
from .capture import capture
from .gradcheck import gradcheck
from .profiler import profile
from .tensor import Tensor, from_dlpack


def __getattr__(name):  # what is found at first use, so that the core alone stays quick to import
    if name in ("keras", "sim"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tilegrad")
        except PackageNotFoundError:  # run from a source tree that was never installed
            return "0+unknown"
    raise AttributeError(f"module 'tilegrad' has no attribute {name!r}")


trace.start_from_environment()

__all__ = [
    "Tensor",
    "backend",
    "capture",
    "from_dlpack",
    "get_num_threads",
    "gradcheck",
    "is_grad_enabled",
    "keras",
    "no_grad",
    "ops",
    "profile",
    "set_num_threads",
    "sim",
    "trace",
]
