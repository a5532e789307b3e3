"""Where a benchmark runs: a GPU through CuPy and PyTorch, or the simulator in their place."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from tilegrad import backend


def set_precision(tf32: bool) -> None:
    """Whether PyTorch's float32 products and convolutions may use tf32; both flags, explicitly."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def flags() -> dict[str, bool]:
    """PyTorch's settings that decide what "float32" and "fastest" mean."""
    return {
        "torch.backends.cuda.matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "torch.backends.cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "torch.backends.cudnn.benchmark": torch.backends.cudnn.benchmark,
        "torch.backends.cudnn.deterministic": torch.backends.cudnn.deterministic,
    }


class Device:
    """What both kinds of device have.

    Attributes:
        kernels: tilegrad's backend.
        xp: the array library of its memory.
        torch: PyTorch's name of the device.
    """

    simulated: bool
    torch: str

    def __init__(self, name: str):
        self.name = name
        self.kernels = backend.get(name)
        self.xp = self.kernels.xp
        torch.backends.cudnn.benchmark = True
        set_precision(tf32=False)
        self.generator = torch.Generator(self.torch).manual_seed(0)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal float32 numbers."""
        return torch.randn(shape, generator=self.generator, device=self.torch)

    def integers(self, low: int, high: int, shape, dtype) -> torch.Tensor:
        return torch.randint(
            low, high, tuple(shape), generator=self.generator, device=self.torch, dtype=dtype
        )


class Cuda(Device):
    """The current GPU. Everything is timed on the default stream, which CuPy and PyTorch share."""

    simulated = False
    torch = "cuda"

    def __init__(self):
        super().__init__("cuda")
        self._capturing = self.xp.cuda.Stream(non_blocking=True)

    def array(self, tensor: torch.Tensor):
        """The tensor's memory as an array for tilegrad and CuPy."""
        return self.xp.asarray(tensor)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def stopwatch(self, run: Callable[[], object]) -> tuple[float, float]:
        """Seconds by the device's events, and by the clock on the wall until all is done."""
        start, stop = self.xp.cuda.Event(), self.xp.cuda.Event()
        stream = self.xp.cuda.Stream.null
        self.synchronize()
        wall = time.perf_counter()
        start.record(stream)
        run()
        stop.record(stream)
        stop.synchronize()
        wall = time.perf_counter() - wall
        return self.xp.cuda.get_elapsed_time(start, stop) / 1e3, wall

    def capture(self, calls: Sequence[Callable[[], object]]):
        """A function that replays `calls` of CuPy or tilegrad as one CUDA graph."""
        stream = self._capturing
        self.synchronize()
        with stream:
            for call in calls:  # workspaces are allocated now, not within the capture
                call()
            stream.synchronize()
            stream.begin_capture()
            try:
                for call in calls:
                    call()
            finally:
                graph = stream.end_capture()
        return lambda: graph.launch(stream=self.xp.cuda.Stream.null)

    def release(self) -> None:
        """Give freed memory back, so that the next row starts with an empty device."""
        self.xp.get_default_memory_pool().free_all_blocks()
        torch.cuda.empty_cache()

    def describe(self) -> dict:
        free, total = torch.cuda.mem_get_info()
        return self.kernels.module.device_info() | {
            "torch": torch.__version__,
            "cupy": self.xp.__version__,
            "cudnn": torch.backends.cudnn.version(),
            "free_bytes": free,
            "total_bytes": total,
            "flags": flags(),
        }


class Simulated(Device):
    """The simulator: NumPy in CuPy's place, PyTorch on the CPU, and no time that means anything."""

    simulated = True
    torch = "cpu"

    def __init__(self):
        super().__init__("sim")

    def array(self, tensor: torch.Tensor) -> np.ndarray:
        return tensor.numpy()

    def synchronize(self) -> None:
        pass

    def stopwatch(self, run: Callable[[], object]) -> tuple[float, float]:
        wall = time.perf_counter()
        run()
        wall = time.perf_counter() - wall
        return wall, wall

    def capture(self, calls):
        return lambda: [call() for call in calls]

    def release(self) -> None:
        pass

    def describe(self) -> dict:
        return {"name": "simulator", "torch": torch.__version__, "flags": flags()}


def open_device(name: str) -> Device:
    """The device called "cuda" or "sim"."""
    return {"cuda": Cuda, "sim": Simulated}[name]()


class Deadline:
    """So many seconds from now."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()


@contextlib.contextmanager
def precision(tf32: bool):
    """Within the block, PyTorch's float32 may be tf32, or may not."""
    before = torch.backends.cuda.matmul.allow_tf32
    set_precision(tf32)
    try:
        yield
    finally:
        set_precision(before)
