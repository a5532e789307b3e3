"""PyTorch, one call after another, without autograd."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util

import numpy as np

from .base import Library
from .bound import Bound, aligned


class Torch(Library):
    """PyTorch on "cpu" or "cuda"."""

    name = "torch"
    label = "PyTorch"

    def __init__(self, device: str = "cpu"):
        self.device = device
        self.setting = "inference mode, " + (
            "float32 without TF32, cuDNN's fastest" if device == "cuda" else "denormals flushed"
        )

    def absent(self):
        if importlib.util.find_spec("torch") is None:
            return "PyTorch is not installed"
        if self.device == "cuda":
            import torch  # only it knows

            if not torch.cuda.is_available():
                return "PyTorch finds no GPU"
        return None

    def version(self):
        return importlib.metadata.version("torch")

    @contextlib.contextmanager
    def threads(self, count):
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(count)
        torch.set_flush_denormal(True)
        cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
        with torch.inference_mode(), cudnn:
            try:
                yield
            finally:
                torch.set_flush_denormal(False)
                torch.set_num_threads(before)

    def bind(self, workload, way):
        return TorchInstance(workload, way, self.device)


class TorchInstance(Bound):
    """On tensors; on the CPU they share the memory of NumPy's arrays."""

    def __init__(self, workload, way, device: str):
        self._device = device
        super().__init__(workload, way)

    def empty(self, shape, dtype):
        import torch

        tensor = torch.from_numpy(aligned(shape, dtype))
        return tensor.to(self._device)

    def write(self, array, values):
        import torch

        array.copy_(torch.from_numpy(np.asarray(values, order="C")))

    def read(self, array):
        return array.cpu().numpy()

    def permute(self, array, axes):
        return array.permute(axes)
