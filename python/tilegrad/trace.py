"""What ran and how fast: the recorder behind `TILEGRAD_DEBUG`, `record` and `tilegrad.profile`.

Tracing wraps a backend's kernels and times the steps of captured plans as they are replayed; while
nothing traces, kernels are called directly and cost nothing extra. FLOPs are those of the formula
(a multiply-add is two), bytes those of every array read or written once, so GFLOP/s and GB/s are
lower bounds of what the machine did.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

from . import backend, instrument, places


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
    "conv2d_max_pool2d_backward_dw": lambda dw, db, x, dy, *_: _conv_flops(dy, dw),  # at maxima
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

_LIVE = {"lr", "seed", "step"}
_PLAIN = (type(None), bool, int, float, list, tuple)  # arguments that are no arrays
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
    return isinstance(a, np.ndarray) or (not isinstance(a, _PLAIN) and backend.on_gpu(a))


def _arrays(arguments):
    for a in arguments:
        if _is_array(a):
            yield a
        elif isinstance(a, (list, tuple)):
            yield from _arrays(a)


class Call(NamedTuple):
    """What is known of a kernel call but its time; calls with equal ones are counted together.

    `phase` is "forward", "backward" or "update"; `layer` the path of a layer, the name of an
    optimizer, "loss", or "" outside of all of them.
    """

    backend: str
    kernel: str
    layer: str
    phase: str
    shapes: str
    flops: int
    nbytes: int


def describe(owner: backend.Backend, kernel: str, arguments) -> Call:
    """The `Call` of a kernel that this thread calls now with these arguments."""
    flops_of = _FLOPS.get(kernel)
    arrays = _without_numbers(kernel, arguments)
    return Call(
        owner.name,
        kernel,
        *places.current(),
        " ".join(_shapes(arrays)),
        flops_of(*arguments) if flops_of else arguments[0].size,
        sum(a.nbytes for a in _arrays(arrays)),
    )


def _without_numbers(kernel: str, arguments):
    """The arguments without those that may be numbers, or arrays of one in captured steps."""
    names = backend.KERNELS.get(kernel, "y, x").split(", ")
    return [a for name, a in zip(names, arguments, strict=False) if name not in _LIVE]


class Recorder:
    """Per kind of call: how many there were, their time, FLOPs and bytes.

    Attributes:
        calls: `Call` -> [how often, nanoseconds].
    """

    def __init__(self):
        self._calls: dict[Call, list[int]] = {}
        self._plans: dict[int, _PlanTotal] = {}  # by id(steps), which it holds
        self._lock = threading.Lock()

    def add(self, call: Call, start: int, ns: int) -> None:
        """A kernel ran for `ns` nanoseconds from `start` of time.perf_counter_ns()."""
        with self._lock:
            total = self._calls.setdefault(call, [0, 0])
            total[0] += 1
            total[1] += ns

    def add_replay(self, steps: list[Call | None], start: int, taken: np.ndarray) -> None:
        """A plan ran; step i, a kernel unless it is None, for taken[i] nanoseconds."""
        with self._lock:
            total = self._plans.get(id(steps))
            if total is None:
                total = self._plans[id(steps)] = _PlanTotal(steps)
            total.count += 1
            total.ns += taken

    def spent(self, ns: int) -> None:
        """So much time went into the recording of a call, after it had ended."""

    @property
    def calls(self) -> dict[Call, list[int]]:
        with self._lock:
            found = {call: list(total) for call, total in self._calls.items()}
            for plan in self._plans.values():
                for call, ns in zip(plan.steps, plan.ns.tolist(), strict=True):
                    if call is not None:
                        total = found.setdefault(call, [0, 0])
                        total[0] += plan.count
                        total[1] += ns
        return found

    @property
    def totals(self) -> dict[str, list]:
        """Kernel -> [calls, seconds, FLOPs, bytes]."""
        return {key[0]: total for key, total in self._sums("kernel").items()}

    def _sums(self, *fields) -> dict[tuple, list]:
        """[calls, seconds, FLOPs, bytes] of the calls that have `fields` in common."""
        found = {}
        for call, (count, ns) in self.calls.items():
            total = found.setdefault(tuple(getattr(call, f) for f in fields), [0, 0.0, 0, 0])
            total[0] += count
            total[1] += ns / 1e9
            total[2] += count * call.flops
            total[3] += count * call.nbytes
        return found

    def rows_by(self, *fields) -> list[dict]:
        """One dict per combination of the calls' `fields`, the slowest first."""
        sums = self._sums(*fields)
        everything = sum(t[1] for t in sums.values()) or 1.0
        return [
            {
                **dict(zip(fields, key, strict=True)),
                "calls": calls,
                "ms": 1e3 * seconds,
                "share": seconds / everything,
                "gflops": flops / seconds / 1e9 if seconds else 0.0,
                "gbytes": nbytes / seconds / 1e9 if seconds else 0.0,
            }
            for key, (calls, seconds, flops, nbytes) in sorted(
                sums.items(), key=lambda item: -item[1][1]
            )
        ]

    @property
    def rows(self) -> list[dict]:
        """One dict per kernel, the slowest first."""
        return self.rows_by("kernel")

    def table(self, title: str = "time per kernel"):
        """The rows as a rich table."""
        return table_of(self.rows, title)


class _PlanTotal:
    def __init__(self, steps):
        self.steps = steps
        self.count = 0
        self.ns = np.zeros(len(steps), np.int64)
        self.kernels = np.array([call is not None for call in steps])


_NUMBERS = {  # of a row: the title of its column, and how it is written
    "calls": ("calls", "{:,}"),
    "ms": ("ms", "{:,.2f}"),
    "share": ("share", "{:.1%}"),
    "gflops": ("GFLOP/s", "{:,.1f}"),
    "gbytes": ("GB/s", "{:,.1f}"),
    "roof": ("of roof", "{:.1%}"),
}


def table_of(rows: list[dict], title: str):
    """Rows of a `Recorder` as a rich table: words to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    fields = list(rows[0]) if rows else ["kernel"]
    for field in fields:
        if field in _NUMBERS:
            table.add_column(_NUMBERS[field][0], justify="right", no_wrap=True)
        else:
            name = "pass" if field == "phase" else field
            table.add_column(name, overflow="fold")  # where it is narrow, numbers stay whole
    for row in rows:
        table.add_row(*(_text(field, value) for field, value in row.items()))
    return table


def _text(field: str, value) -> str:
    if field not in _NUMBERS:
        return value or "-"
    return "-" if value is None else _NUMBERS[field][1].format(value)


_recorders: list[Recorder] = []
_level = 0
_following = False  # whether `places` is on for us


@contextlib.contextmanager
def record(recorder: Recorder | None = None):
    """Record every kernel that runs within the block, also in captured steps; gives the recorder.

    Args:
        recorder: where to; a new `Recorder` by default.

    >>> import tilegrad
    >>> with tilegrad.trace.record() as recorder:
    ...     y = tilegrad.ops.relu([1.0])
    >>> recorder.rows[0]["kernel"], recorder.rows[0]["calls"]
    ('activation_forward', 1)
    """
    recorder = Recorder() if recorder is None else recorder
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
    kernel: shapes, ms, GFLOP/s, GB/s and the share of what this machine can do; 3 adds tile and
    algorithm choices; 4 checks every kernel's outputs and raises FloatingPointError where finite
    inputs gave a NaN. From 3 on captured steps run eagerly.
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
    """Whether kernels are timed."""
    return _level >= 2 or bool(_recorders)


def needs_arrays() -> bool:
    """Whether each kernel's arrays are looked at; captured steps run eagerly then."""
    return _level >= 3


def _install() -> None:
    """Wrap or unwrap the kernels of every backend that is or will be loaded."""
    global _following
    active = is_active()
    if active != _following:
        _following = active
        places.find_ops()
        instrument.change("places", 1 if active else -1)
    backend.set_wrapper(_traced if active else None)
    for loaded in backend.loaded():
        _time_kernels(loaded, active)


def _time_kernels(owner, on: bool) -> None:
    """Have the module time its kernels, if it can: without what leads from Python to them."""
    if hasattr(owner.module, "time_kernels"):
        owner.module.time_kernels(on)


def _traced(owner: backend.Backend, name: str, kernel):
    _time_kernels(owner, True)
    inner_time = getattr(owner.module, "kernel_nanoseconds", None)
    outputs = _output_count(name)
    if owner.name == "cuda":
        kernel = _in_ranges(owner, name, kernel)

    def call(*arguments):
        finite = _level >= 4 and not _has_nan(arguments[outputs:])
        owner.synchronize()  # a GPU's kernels are timed one by one, which slows them
        if inner_time is not None:
            inner_time()  # forget what an earlier call left
        start = time.perf_counter_ns()
        result = kernel(*arguments)
        owner.synchronize()
        end = time.perf_counter_ns()
        ns = end - start if inner_time is None else inner_time()
        made = describe(owner, name, arguments)
        for recorder in _recorders:
            recorder.add(made, start, ns)
        if _level >= 2:
            _print(_line(made, ns))
        if _level >= 3:
            _print_plan(owner, name, arguments)
        if finite and _has_nan(arguments[:outputs]):
            raise FloatingPointError(f"{name}: finite inputs gave a NaN; shapes {made.shapes}")
        for recorder in _recorders:
            recorder.spent(time.perf_counter_ns() - end)
        return result

    return call


def _in_ranges(owner, name: str, kernel):
    """`kernel` in NVTX ranges, by which a GPU's profilers find layer, pass and kernel."""
    nvtx = owner.xp.cuda.nvtx

    def call(*arguments):
        layer, phase = places.current()
        nvtx.RangePush(f"{layer or 'tilegrad'} {phase}")
        nvtx.RangePush(name)
        try:
            return kernel(*arguments)
        finally:
            nvtx.RangePop()
            nvtx.RangePop()

    return call


def replay(plan, steps: list[Call | None]) -> bool:
    """``plan.replay()`` for those who look: `steps` says what the plan's steps are."""
    taken = np.zeros(len(plan), np.int64)
    start = time.perf_counter_ns()
    if not plan.replay(taken):
        return False
    taken = taken[: len(steps)]
    end = time.perf_counter_ns()
    for recorder in _recorders:
        recorder.add_replay(steps, start, taken)
    if _level >= 2:
        for call, ns in zip(steps, taken.tolist(), strict=True):
            if call is not None:
                _print(_line(call, ns))
    for recorder in _recorders:
        recorder.spent(time.perf_counter_ns() - end)
    return True


def _has_nan(arguments) -> bool:
    return any(
        a.dtype.kind == "f" and bool(backend.namespace(a).isnan(a).any())
        for a in _arrays(arguments)
    )


def _shapes(arguments):
    for a in arguments:
        if _is_array(a):
            yield _shape_text(a.shape)
        elif isinstance(a, (list, tuple)) and a and _is_array(a[0]):
            yield f"{len(a)} arrays"


@functools.lru_cache(maxsize=4096)
def _shape_text(shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _line(call: Call, ns: int) -> str:
    ns = max(ns, 1)
    line = (
        f"{call.backend} {call.kernel:<28} {ns / 1e6:9.3f} ms {call.flops / ns:8.2f} GFLOP/s "
        f"{call.nbytes / ns:7.2f} GB/s"
    )
    least = least_seconds(call)
    if least is not None:
        line += f" {least / ns * 1e9:6.1%} of peak"
    return f"{line}  {call.shapes}"


# -- what this machine can do ----------------------------------------------------------------------


def least_seconds(call: Call, measure: bool = True) -> float | None:
    """The least time for a call on this machine, whose data the caches hold if they can.

    Args:
        measure: whether to measure the machine, for a second or two, where its roofs are not kept.

    Returns:
        None where the time says nothing of the machine (the simulator, NumPy), or was not measured.
    """
    if call.backend == "cuda":
        if not measure:
            return None
        flops, nbytes = _gpu_peak()
        return max(call.flops / flops, call.nbytes / nbytes)
    if call.backend not in backend.ISAS:
        return None
    threads = backend.load(call.backend).module.get_num_threads()
    roof = _kept_roof(call.backend, threads)
    if roof is None and measure:
        roof = _quick_roof(call.backend, threads)
    return None if roof is None else roof.least(call.flops, call.nbytes, call.nbytes)[0]


@functools.cache
def _kept_roof(isa: str, threads: int):
    from .bench import roofline

    kept = roofline.load()
    return kept.get(isa, threads) if (isa, threads) in kept else None


@functools.cache
def _quick_roof(isa: str, threads: int):
    from .bench import roofline

    return roofline.measure(isa, threads, sweeps=1, patience=0.1, largest=2**27)


def roof_note(isa: str) -> str:
    """Where the roof of an instruction set comes from, in words."""
    threads = backend.load(isa).module.get_num_threads()
    what = f"roof: {isa}, {threads} thread{'s' if threads > 1 else ''}, "
    if _kept_roof(isa, threads) is not None:
        return what + "as kept by tilegrad bench --machine"
    return what + "measured just now, in a hurry; tilegrad bench --machine does it better"


@functools.cache
def _gpu_peak() -> tuple[float, float]:
    """(FLOP/s, bytes/s) of a product of 4096^3 and a copy of 256 MB; the best of 5."""
    owner = backend.get("cuda")
    side, count = 4096, 2**26
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
