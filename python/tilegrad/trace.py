"""What ran and how fast: the recorder behind `TILEGRAD_DEBUG` and the per-kernel time table.

Tracing wraps a backend's kernels; while nothing traces, they are called directly and cost nothing
extra. FLOPs are those of the formula (a multiply-add is two), bytes those of every array read or
written once, so GFLOP/s and GB/s are lower bounds of what the machine did.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import time

import numpy as np

from . import backend


def _conv_flops(y, w) -> int:
    return 2 * y.size * math.prod(w.shape[:3])


# FLOPs of each kernel from its arguments; a kernel that is not listed counts one per output
# element.
_FLOPS = {
    "dense_forward": lambda y, x, w, *_: 2 * y.size * w.shape[0],
    "dense_backward_dx": lambda dx, dy, w: 2 * dx.size * w.shape[1],
    "dense_backward_dw": lambda dw, x, dy: 2 * dw.size * x.shape[0],
    "bias_backward_db": lambda db, dy: dy.size,
    "bias_activation_backward_dz": lambda dz, db, dy, *_: 2 * dy.size,
    "matmul_forward": lambda y, a, b: 2 * y.size * a.shape[-1],
    "matmul_backward_da": lambda da, dy, b: 2 * da.size * b.shape[-1],
    "matmul_backward_db": lambda db, a, dy: 2 * db.size * a.shape[-2],
    "conv2d_forward": lambda y, x, w, *_: _conv_flops(y, w),
    "conv2d_backward_dx": lambda dx, dy, w, *_: _conv_flops(dy, w),
    "conv2d_backward_dw": lambda dw, x, dy, *_: _conv_flops(dy, dw),
    "conv2d_max_pool2d_forward": lambda y, index, x, w, b, h, width, *_: (
        _conv_flops(y, w) * h * width // max(y.shape[1] * y.shape[2], 1)
    ),
    "conv2d_max_pool2d_backward_dw": lambda dw, db, x, dy, index, h, width, *_: (
        _conv_flops(dy, dw) * h * width // max(dy.shape[1] * dy.shape[2], 1)
    ),
    "max_pool2d_forward": lambda y, index, x, kh, kw, *_: y.size * kh * kw,
    "avg_pool2d_forward": lambda y, x, kh, kw, *_: y.size * kh * kw,
    "avg_pool2d_backward_dx": lambda dx, dy, kh, kw, *_: dy.size * kh * kw,
    "global_avg_pool2d_forward": lambda y, x: x.size,
    "softmax_forward": lambda y, x: 5 * y.size,
    "softmax_backward_dx": lambda dx, dy, y: 4 * y.size,
    "log_softmax_forward": lambda y, x: 5 * y.size,
    "log_softmax_backward_dx": lambda dx, dy, y: 4 * y.size,
    "softmax_cross_entropy_sparse_forward": lambda loss, losses, p, *_: 6 * p.size,
    "softmax_cross_entropy_sparse_backward_dx": lambda dx, *_: 2 * dx.size,
    "softmax_cross_entropy_dense_forward": lambda loss, losses, p, *_: 8 * p.size,
    "softmax_cross_entropy_dense_backward_dx": lambda dx, *_: 4 * dx.size,
    "reduce_sum_forward": lambda y, x, scale: x.size,
    "reduce_max_forward": lambda y, x: x.size,
    "strided_copy": lambda *_: 0,
    "sgd_update": lambda w, *_: 4 * sum(a.size for a in w),
    "rmsprop_update": lambda w, *_: 8 * sum(a.size for a in w),
    "adam_update": lambda w, *_: 11 * sum(a.size for a in w),
    "gradient_square_sums": lambda out, g: 2 * sum(a.size for a in g),
}

_OUTPUTS = {"y", "index", "dx", "dz", "dw", "db", "da", "loss", "losses", "p", "out", "w"}


@functools.cache
def _output_count(kernel: str) -> int:
    """How many leading arguments `kernel` writes."""
    count = 0
    for argument in backend.KERNELS[kernel].split(", "):
        if argument not in _OUTPUTS:
            break
        count += 1
    return count


def _is_array(a) -> bool:
    return isinstance(a, np.ndarray) or backend.on_gpu(a)


def _arrays(arguments):
    for a in arguments:
        if _is_array(a):
            yield a
        elif isinstance(a, (list, tuple)):
            yield from _arrays(a)


class Recorder:
    """Per kernel: calls, seconds, FLOPs, bytes."""

    def __init__(self):
        self.totals: dict[str, list] = {}

    def add(self, kernel: str, seconds: float, flops: int, nbytes: int) -> None:
        total = self.totals.setdefault(kernel, [0, 0.0, 0, 0])
        total[0] += 1
        total[1] += seconds
        total[2] += flops
        total[3] += nbytes

    @property
    def rows(self) -> list[dict]:
        """One dict per kernel, the slowest first."""
        everything = sum(t[1] for t in self.totals.values()) or 1.0
        return [
            {
                "kernel": kernel,
                "calls": calls,
                "ms": 1e3 * seconds,
                "share": seconds / everything,
                "gflops": flops / seconds / 1e9 if seconds else 0.0,
                "gbytes": nbytes / seconds / 1e9 if seconds else 0.0,
            }
            for kernel, (calls, seconds, flops, nbytes) in sorted(
                self.totals.items(), key=lambda item: -item[1][1]
            )
        ]

    def table(self, title: str = "time per kernel"):
        """The rows as a rich table."""
        from rich import box
        from rich.table import Table

        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        table.add_column("kernel", overflow="fold")  # where it is narrow, numbers stay whole
        for column in ("calls", "ms", "share", "GFLOP/s", "GB/s"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(
                row["kernel"],
                f"{row['calls']:,}",
                f"{row['ms']:,.1f}",
                f"{row['share']:.1%}",
                f"{row['gflops']:,.1f}",
                f"{row['gbytes']:,.1f}",
            )
        return table


_recorders: list[Recorder] = []
_level = 0


@contextlib.contextmanager
def record():
    """Record every kernel called within the block; gives a `Recorder`.

    >>> import tilegrad
    >>> with tilegrad.trace.record() as recorder:
    ...     y = tilegrad.ops.relu([1.0])
    >>> recorder.rows[0]["kernel"], recorder.rows[0]["calls"]
    ('activation_forward', 1)
    """
    recorder = Recorder()
    _recorders.append(recorder)
    _install()
    try:
        yield recorder
    finally:
        _recorders.remove(recorder)
        _install()


def set_level(level: int) -> None:
    """The level of `TILEGRAD_DEBUG`, 0 to 4; each includes those below.

    1 prints backend, instruction set, threads, and which steps are captured; 2 prints a line per
    kernel: shapes, ms, GFLOP/s, GB/s and the share of this machine's measured peak; 3 adds tile and
    algorithm choices; 4 checks every kernel's outputs and raises FloatingPointError where finite
    inputs gave a NaN.
    """
    global _level
    if level not in range(5):
        raise ValueError(f"TILEGRAD_DEBUG: expected 0 to 4, got {level!r}")
    _level = level
    if level >= 1:
        k = backend.get(backend.default_device())
        threads = k.module.get_num_threads() if hasattr(k.module, "get_num_threads") else 1
        _print(f"device {backend.default_device()}, backend {k.name}, {threads} threads")
        for name, present, reason in backend.describe():
            _print(f"  {name:<10} {'yes' if present else 'no ':<4} {reason}")
    _install()


def is_active() -> bool:
    """Whether each kernel call is looked at; captured steps run eagerly then."""
    return _level >= 2 or bool(_recorders)


def _install() -> None:
    """Wrap or unwrap the kernels of every backend that is or will be loaded."""
    backend.set_wrapper(_traced if is_active() else None)


def _traced(owner: backend.Backend, name: str, kernel):
    outputs = _output_count(name)
    flops_of = _FLOPS.get(name)

    def call(*arguments):
        finite = _level >= 4 and not _has_nan(arguments[outputs:])
        owner.synchronize()  # a GPU's kernels are timed one by one, which slows them
        start = time.perf_counter()
        result = kernel(*arguments)
        owner.synchronize()
        seconds = time.perf_counter() - start
        flops = flops_of(*arguments) if flops_of else arguments[0].size
        nbytes = sum(a.nbytes for a in _arrays(arguments))
        for recorder in _recorders:
            recorder.add(name, seconds, flops, nbytes)
        if _level >= 2:
            _print(_line(owner, name, arguments, seconds, flops, nbytes))
        if _level >= 3:
            _print_plan(owner, name, arguments)
        if finite and _has_nan(arguments[:outputs]):
            shapes = ", ".join(_shapes(arguments))
            raise FloatingPointError(f"{name}: finite inputs gave a NaN; shapes {shapes}")
        return result

    return call


def _has_nan(arguments) -> bool:
    return any(
        a.dtype.kind == "f" and bool(backend.namespace(a).isnan(a).any())
        for a in _arrays(arguments)
    )


def _shapes(arguments):
    for a in arguments:
        if _is_array(a):
            yield "x".join(map(str, a.shape)) or "scalar"
        elif isinstance(a, (list, tuple)) and a and _is_array(a[0]):
            yield f"{len(a)} arrays"


def _line(owner, name, arguments, seconds, flops, nbytes) -> str:
    gflops, gbytes = flops / seconds / 1e9, nbytes / seconds / 1e9
    line = (
        f"{owner.name} {name:<28} {1e3 * seconds:9.3f} ms {gflops:8.2f} GFLOP/s {gbytes:7.2f} GB/s"
    )
    if _is_real(owner):
        peak_flops, peak_bytes = _peak(owner)
        line += f" {max(flops / peak_flops, nbytes / peak_bytes) / seconds:6.1%} of peak"
    return f"{line}  {' '.join(_shapes(arguments))}"


def _is_real(owner) -> bool:
    """Whether the time that a kernel takes says anything about the machine."""
    return owner.name in ("cuda", *backend.ISAS)


@functools.cache
def _peak(owner) -> tuple[float, float]:
    """(FLOP/s, bytes/s) that this backend reaches in a product and a copy; best of 5.

    512^3 and 64 MB on a CPU, 4096^3 and 512 MB on a GPU.
    """
    side, count = (4096, 2**26) if owner.name == "cuda" else (512, 2**23)
    a = owner.asarray(np.ones((side, side), np.float32))
    y = owner.empty(a.shape, a.dtype)
    big = owner.asarray(np.ones(count, np.float32))
    target = owner.empty(big.shape, big.dtype)
    dense, scale = owner.module.dense_forward, owner.module.activation_forward
    compute = min(_seconds(owner, lambda: dense(y, a, a, None, 0, 0.0)) for _ in range(5))
    copy = min(_seconds(owner, lambda: scale(target, big, 0, 0.0)) for _ in range(5))
    return 2 * side**3 / compute, 2 * big.nbytes / copy


def _seconds(owner, call) -> float:
    owner.synchronize()
    start = time.perf_counter()
    call()
    owner.synchronize()
    return time.perf_counter() - start


# How a kernel does its shape, for the kernels that choose between algorithms or tiles.
_PLANS = {
    "dense_forward": lambda m, y, x, w, *_: m.dense_plan(*x.shape, w.shape[1]),
    "conv2d_forward": lambda m, y, x, w, b, *rest: m.conv2d_plan(y, x, w, *rest[:7]),
}


def _print_plan(owner, name: str, arguments) -> None:
    if name in _PLANS and owner.name in backend.ISAS:
        _print(f"    {_PLANS[name](owner.module, *arguments)}")


def _print(text: str) -> None:
    print(f"tilegrad: {text}", file=sys.stderr)


def start_from_environment() -> None:
    """Apply `TILEGRAD_DEBUG`; what is wrong with the settings is said where a backend is loaded."""
    text = os.environ.get("TILEGRAD_DEBUG", "")
    if text.isdecimal() and 1 <= int(text) <= 4:
        with contextlib.suppress(ValueError, RuntimeError):
            set_level(int(text))
