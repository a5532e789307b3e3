"""What a result was measured on, and the roofs of that machine."""

from __future__ import annotations

import ctypes
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

PACKAGES = ("numpy", "torch", "tensorflow", "keras", "jax")
# glibc: no block from mmap, nothing trimmed off the heap's top. PyTorch then keeps its memory
# instead of taking it from the system again, page fault by page fault, in every step.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": "1048576"}
# What each instruction set is called by the compiler, and how many floats a register holds.
ISA = {"avx512": (("-mavx512f",), 16), "avx2": (("-mavx2", "-mfma"), 8), "base": ((), 4)}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def version(package: str) -> str | None:
    """The installed version, or None."""
    for name in (package, f"{package}-cpu", f"{package}_cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def describe(isa: str) -> dict:
    """The header of a results file."""
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": models[0] if models else platform.machine(),
        "cores": cores(),
        "isa": isa,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "allocator": "keep" if os.environ.items() >= KEEP.items() else "default",
    }


def record(path: Path, isa: str, mode: str, rows: list) -> None:
    """Write a benchmark's rows as JSON, with what they were measured on."""
    header = describe(isa) | {"mode": mode}
    path.write_text(json.dumps({"machine": header, "rows": rows}, indent=1) + "\n")


class Roof:
    """Measured peaks: FLOP/s of multiply-adds in registers, bytes/s at a working set's size."""

    def __init__(self, isa: str):
        compiler = os.environ.get("CXX") or shutil.which("c++")
        if not compiler:
            raise RuntimeError("roof: needs a C++ compiler: c++ in the PATH, or CXX")
        flags, lanes = ISA[isa]
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "roof.so"
            command = [compiler, "-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", *flags]
            command += [f"-DLANES={lanes}", Path(__file__).with_name("roof.cpp"), "-o", target]
            subprocess.run(command, check=True)
            self._library = ctypes.CDLL(target)
        self._library.roof_flops.restype = ctypes.c_double
        self._library.roof_bytes.restype = ctypes.c_double

        self._flops: dict[int, float] = {}

    def _probe(self, threads: int) -> float:
        """FLOP/s over a millisecond or two."""
        rate = self._library.roof_flops(threads, ctypes.c_long(1_000_000))
        self._flops[threads] = max(rate, self._flops.get(threads, 0.0))
        return rate

    def flops(self, threads: int) -> float:
        """Best FLOP/s of `threads` threads so far."""
        if threads not in self._flops:
            for _ in range(200):
                self._probe(threads)
        return self._flops[threads]

    def reached(self, threads: int, patience: float = 0.1) -> bool:
        """Whether `threads` threads have 85% of their roof now, or within `patience` seconds.

        They have not while OpenMP's threads spin after a peer's last call, while somebody else
        computes, or while a virtual machine's cores share one core of the host.
        """
        least, deadline = 0.85 * self.flops(threads), time.perf_counter() + patience
        while self._probe(threads) < least:
            if time.perf_counter() > deadline:
                return False
        return True

    def bytes(self, threads: int, working_set: int) -> float:
        """Best bytes/s of `threads` threads over `working_set` bytes, rounded to a power of 2."""
        return self._bytes(threads, max(2**12, 2 ** round(working_set - 1).bit_length()))

    @functools.cache  # noqa: B019  (one roof lives as long as the run)
    def _bytes(self, threads: int, size: int) -> float:
        floats = size // (12 * threads)
        repeats = max(2, 2**28 // size)
        arguments = ctypes.c_long(floats), ctypes.c_long(repeats)
        return max(self._library.roof_bytes(threads, *arguments) for _ in range(5))

    def seconds(self, threads: int, flops: int, size: int) -> tuple[float, str]:
        """The least time that this machine needs, and which roof says so: "FLOP" or "bytes"."""
        compute = flops / self.flops(threads)
        memory = size / self.bytes(threads, size)
        return max((compute, "FLOP"), (memory, "bytes"))
