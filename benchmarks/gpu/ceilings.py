"""What this card reaches at best: copies, products, launches. All else is read against it."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import torch

from tilegrad.backend import ACTIVATIONS

from .device import Deadline, Device, precision

EMPTY = 'extern "C" __global__ void empty() {}'
LAUNCHES = 1000


def copy(device: Device) -> dict:
    """Bytes per second of a device-to-device copy, read and written."""
    count = 1 << 10 if device.simulated else 1 << 30
    source = device.normal(count)
    target = torch.empty_like(source)
    run = functools.partial(target.copy_, source)
    run()
    seconds = statistics.median(device.stopwatch(run)[0] for _ in range(9))
    if not torch.equal(source, target):
        raise AssertionError("copy: the target is not the source")
    moved = 2 * source.numel() * source.element_size()
    return {"bytes": moved, "seconds": seconds, "rate": moved / seconds}


def gemm(device: Device, kind: str, size: int) -> dict:
    """FLOP/s of PyTorch's product of random square matrices; `kind` is fp32, tf32 or bf16."""
    if device.simulated:
        size = 16
    a, b = device.normal(size, size), device.normal(size, size)
    exact = a[:64].double() @ b.double()
    if kind == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    out = torch.empty(size, size, dtype=a.dtype, device=device.torch)

    def run():
        for _ in range(4):
            torch.mm(a, b, out=out)

    with precision(kind == "tf32"):
        run()
        seconds = statistics.median(device.stopwatch(run)[0] / 4 for _ in range(9))
    error = ((out[:64].double() - exact).norm() / exact.norm()).item()
    limit = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}[kind]
    if not error < limit:
        raise AssertionError(f"gemm {kind}: relative error {error:.3g}, expected below {limit}")
    return {"seconds": seconds, "rate": 2 * size**3 / seconds, "error": error}


def launch_gap(device: Device) -> dict:
    """Seconds from one empty kernel to the next: on the stream, and in a graph."""
    if device.simulated:
        launch = functools.partial(sum, ())
    else:
        kernel = device.xp.RawKernel(EMPTY, "empty")
        launch = functools.partial(kernel, (1,), (1,), ())
    calls = [launch] * (10 if device.simulated else LAUNCHES)

    def stream():
        for call in calls:
            call()

    stream()
    seconds = {"stream": statistics.median(device.stopwatch(stream)[0] for _ in range(5))}
    graph = device.capture(calls)
    graph()
    seconds["graph"] = statistics.median(device.stopwatch(graph)[0] for _ in range(5))
    return {f"{key}_seconds": value / len(calls) for key, value in seconds.items()}


def call_cost(device: Device) -> dict:
    """Seconds on the wall of a call on 32 numbers: Python, checks and launch, without waiting."""
    x, y = device.normal(32), torch.empty(32, device=device.torch)
    array, out = device.array(x), device.array(y)
    calls = {
        "tilegrad": functools.partial(
            device.kernels.activation_forward, out, array, ACTIVATIONS["relu"], 0.0
        ),
        "PyTorch": functools.partial(torch.clamp_min, x, 0, out=y),
        "CuPy": functools.partial(device.xp.maximum, array, 0, out=out),
    }
    number = 10 if device.simulated else 2000
    costs = {}
    for name, call in calls.items():
        call()
        rounds = []
        for _ in range(5):
            device.synchronize()
            start = time.perf_counter()
            for _ in range(number):
                call()
            rounds.append((time.perf_counter() - start) / number)
        costs[f"{name}_seconds"] = statistics.median(rounds)
    device.synchronize()
    return costs


def run(device: Device, deadline: Deadline, add: Callable[[dict], None]) -> list[str]:
    """Measure all; the failures, in words."""
    parts: dict[str, Callable[[], dict]] = {
        "copy": functools.partial(copy, device),
        "launch gap": functools.partial(launch_gap, device),
        "call": functools.partial(call_cost, device),
    }
    for size in (4096, 8192):
        for kind in ("fp32", "tf32", "bf16"):
            parts[f"gemm {kind} {size}"] = functools.partial(gemm, device, kind, size)
    failures = []
    for name, part in parts.items():
        if deadline.left() < 2:
            add({"ceiling": name, "left_out": "no time left"})
            continue
        try:
            row = {"ceiling": name} | part()
        except Exception as error:  # the others are still worth knowing
            failures.append(f"{name}: {type(error).__name__}: {error}")
            row = {"ceiling": name, "failed": failures[-1]}
        add(row)
        device.release()
    return failures
