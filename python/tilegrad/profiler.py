"""`profile`: where the time of a training run goes, per kernel, layer and pass, and between them.

Kernels are timed by `trace`'s recorder, in captured steps inside the replay of the plan. The rest
is a clock that always runs for one section: what a thread does now. Functions that lead from one
section to another are wrapped while a profile runs (`instrument`), and only then.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import backend, instrument, ops, trace
from .capture import Captured, _Record
from .tensor import Tensor

KERNEL, DISPATCH, PYTHON, DATA, PROFILER, OUTSIDE = range(6)
SECTIONS = {
    "kernel": "inside the kernels",
    "dispatch": "autograd, checks, bindings, plans: from a step to its kernels",
    "Python": "the rest of fit: metrics, callbacks, progress bar",
    "data": "shuffling, gathering and copying batches",
    "profiler": "this profile's own bookkeeping",
    "outside": "before, between and after fit, evaluate and predict",
}
_MOST_EVENTS = 200_000  # kernels in the timeline; those that follow count in the tables only
_MOST_SAMPLES = 20_000  # of the memory; when there are more, every other one goes
_STRETCHES = 60  # of time in a plot
_RSS_EVERY = 10_000_000  # ns; to read it takes some microseconds


class _Clock:
    """Nanoseconds per section, of one thread."""

    def __init__(self):
        self.ns = [0] * len(SECTIONS)
        self.section = OUTSIDE
        self.since = time.perf_counter_ns()
        self.entered = 0

    def enter(self, section: int) -> int:
        """From now on time counts for `section`; returns the one before."""
        now = time.perf_counter_ns()
        outer = self.section
        self.ns[outer] += now - self.since
        self.section, self.since = section, now
        self.entered += 1
        return outer

    def move(self, section: int, ns: int) -> None:
        """So much of the time just spent, in whatever section runs, was `section`'s."""
        self.ns[section] += ns
        self.ns[self.section] -= ns

    def seconds(self) -> dict[str, float]:
        return {name: ns / 1e9 for name, ns in zip(SECTIONS, self.ns, strict=True)}


@dataclass(frozen=True)
class Overhead:
    """What profiling costs: events of this profile, and the seconds of each, found by calibration.

    Attributes:
        events: how many kernels were called from Python ("kernel"), plans replayed ("replay"),
            kernels timed in them ("step"), and sections entered ("section").
        cost: seconds of one of each.
        wall: seconds that the profile took.
    """

    events: dict[str, int]
    cost: dict[str, float]
    wall: float

    @property
    def seconds(self) -> float:
        return sum(count * self.cost[event] for event, count in self.events.items())

    @property
    def share(self) -> float:
        return self.seconds / self.wall if self.wall else 0.0

    def __str__(self):
        each = ", ".join(
            f"{count:,} {event}s of {1e6 * self.cost[event]:.2f} us"
            for event, count in self.events.items()
        )
        return f"profiling took {self.seconds:.3f} s, {self.share:.1%} of the time: {each}"


class Profile(trace.Recorder):
    """What `profile` gives.

    Attributes:
        wall: seconds from its begin to its end (or to now).
        epochs: per epoch of fit a dict: "wall", its seconds by another clock, and its sections.
        samples: in the course of time, dicts: "seconds" since the begin; bytes that the pool holds
            ("held"), that are in use, that were in use at most since the sample before ("peak"),
            that the process has ("resident"); nanoseconds of the sections so far.
    """

    def __init__(self):
        super().__init__()
        self.epochs: list[dict] = []
        self.samples: list[dict] = []
        self.running = False
        self._clock = _Clock()
        self._thread = threading.get_ident()
        self._start = self._end = self._clock.since
        self._events = []  # (thread, start, call, ns) or (thread, start, steps, taken)
        self._event_count = 0
        self._spans = []  # (name, start, ns)
        self._counts = dict.fromkeys(("kernel", "replay", "step"), 0)
        self._sample_every = 1_000_000  # ns
        self._sampled = self._rss_read = 0
        self._rss = None
        self._most = {"peak": None, "held": None}

    # -- while it runs -----------------------------------------------------------------------------

    def _begin(self) -> None:
        self.running = True
        self._owner = backend.get(backend.default_device())
        self._clock = _Clock()
        self._start = self._clock.since
        _pool_bytes(self._owner)  # a new peak begins
        self._sample(self._start)

    def _stop(self) -> None:
        self._clock.enter(OUTSIDE)
        self._end = self._clock.since
        self._sample(self._end)
        self.running = False

    def add(self, call, start, ns):
        super().add(call, start, ns)
        self._counts["kernel"] += 1
        self._event(1, start, call, ns)
        if threading.get_ident() == self._thread:
            self._clock.move(KERNEL, ns)
            self._sample_now_and_then(start)

    def add_replay(self, steps, start, taken):
        super().add_replay(steps, start, taken)
        self._counts["replay"] += 1
        self._counts["step"] += len(steps)
        self._event(len(steps), start, steps, taken)
        if threading.get_ident() == self._thread:
            self._clock.move(KERNEL, int(taken[self._plans[id(steps)].kernels].sum()))
            self._sample_now_and_then(start)

    def spent(self, ns):
        if threading.get_ident() == self._thread:
            self._clock.move(PROFILER, ns)

    def _event(self, count, start, what, ns):
        self._event_count += count
        if self._event_count <= _MOST_EVENTS:
            self._events.append((threading.get_ident(), start, what, ns))

    def _span(self, name, start, end):
        if len(self._spans) < _MOST_EVENTS:
            self._spans.append((name, start, end - start))

    def _sample_now_and_then(self, now):
        if now - self._sampled >= self._sample_every:
            self._sample(now)

    def _sample(self, now):
        self._sampled = now
        if now - self._rss_read >= _RSS_EVERY:
            self._rss, self._rss_read = _resident_bytes(), now
        held, in_use, peak = _pool_bytes(self._owner)
        self.samples.append(
            {
                "seconds": (now - self._start) / 1e9,
                "held": held,
                "in_use": in_use,
                "peak": peak,
                "resident": self._rss,
                "sections": tuple(self._clock.ns),
            }
        )
        if held is not None:
            most = self._most
            self._most = {
                "peak": max(most["peak"] or 0, peak),
                "held": max(most["held"] or 0, held),
            }
        if len(self.samples) > _MOST_SAMPLES:
            del self.samples[1::2]
            self._sample_every *= 2

    # -- what it found -----------------------------------------------------------------------------

    @property
    def wall(self) -> float:
        return ((time.perf_counter_ns() if self.running else self._end) - self._start) / 1e9

    @property
    def split(self) -> dict[str, float]:
        """Seconds of the thread that profiles by section, see `SECTIONS`; their sum is `wall`."""
        if self.running and threading.get_ident() == self._thread:
            self._clock.enter(self._clock.section)
        return self._clock.seconds()

    @property
    def layers(self) -> list[dict]:
        """One dict per layer and pass, the slowest first."""
        return self.rows_by("layer", "phase")

    def rows_by(self, *fields):
        """As `Recorder.rows_by`, and "roof": the share of what this machine could do at most.

        It is None where no roof is known: for NumPy and the simulator, and while the profile runs,
        for a machine whose roofs are not kept.
        """
        least = {}
        for call, (count, _) in self.calls.items():
            key = tuple(getattr(call, field) for field in fields)
            least.setdefault(key, []).append((count, call))
        rows = super().rows_by(*fields)
        for row in rows:
            row["roof"] = self._of_roof(least[tuple(row[field] for field in fields)], row["ms"])
        return rows

    def _of_roof(self, calls, ms):
        total = 0.0
        for count, call in calls:
            seconds = trace.least_seconds(call, measure=not self.running)
            if seconds is None or ms <= 0:
                return None
            total += count * seconds
        return 1e3 * total / ms

    @property
    def memory(self) -> dict:
        """Bytes: of the pool that arrays come from, and of the whole process.

        "peak" and "held" are the most that the pool's arrays and blocks were in the profile, None
        where the backend has no pool; "resident" the most that the process ever had in memory.
        """
        return self._most | {"resident": _peak_resident_bytes()}

    @property
    def overhead(self) -> Overhead:
        """What profiling cost; calibrated when it is asked for, once the profile has ended."""
        if self.running:
            raise RuntimeError("overhead: expected a profile that has ended, this one runs")
        events = self._counts | {"section": self._clock.entered}
        return Overhead(events, _calibrate(), self.wall)

    def table(self, title: str = "Where the time went"):
        """Four rich tables in one: the split, kernels, layers by pass, memory."""
        from rich.console import Group

        isas = {call.backend for call in self.calls} & set(backend.ISAS)
        kernels = trace.table_of(self.rows, "Time per kernel")
        if isas and not self.running:
            kernels.caption = "; ".join(trace.roof_note(isa) for isa in sorted(isas))
        layers = trace.table_of(self.layers, "Time per layer and pass")
        return Group(self._split_table(title), kernels, layers, self._memory_table())

    def _split_table(self, title):
        from rich import box
        from rich.table import Table

        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        table.add_column("section")
        for column in ("s", "share"):
            table.add_column(column, justify="right", no_wrap=True)
        if self.epochs:
            table.add_column("of the epochs", justify="right", no_wrap=True)
        table.add_column("what it is", overflow="fold")
        wall, in_epochs = self.wall or 1.0, sum(epoch["wall"] for epoch in self.epochs)
        for name, seconds in self.split.items():
            cells = [name, f"{seconds:,.3f}", f"{seconds / wall:.1%}"]
            if self.epochs:
                share = sum(epoch[name] for epoch in self.epochs) / in_epochs
                cells.append(f"{share:.1%}")
            table.add_row(*cells, SECTIONS[name])
        count = len(self.epochs)
        epochs = f", {count} epoch{'s' * (count != 1)}: {in_epochs:,.3f} s" if count else ""
        table.caption = f"in all {wall:,.3f} s{epochs}"
        return table

    def _memory_table(self):
        from rich import box
        from rich.table import Table

        table = Table(title="Peak of memory", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        table.add_column("of")
        table.add_column("MB", justify="right")
        for name, what in (
            ("peak", "arrays of the pool, in this profile"),
            ("held", "the pool with its free blocks, in this profile"),
            ("resident", "the process, since it began"),
        ):
            size = self.memory[name]
            table.add_row(what, "-" if size is None else f"{size / 1e6:,.1f}")
        return table

    def plot(self, path: str | Path | None = None):
        """The split in the course of time, bars per layer and pass, memory in the course of time.

        Args:
            path: of a picture to write; its suffix says which kind (.svg, .png, .pdf).

        Returns:
            The matplotlib figure.

        Raises:
            RuntimeError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise RuntimeError(
                f"plot: expected matplotlib: pip install matplotlib ({error})"
            ) from None
        figure = Figure(figsize=(10, 11), layout="constrained")
        top, middle, bottom = figure.subplots(3)
        self._plot_split(top)
        self._plot_layers(middle)
        self._plot_memory(bottom)
        if path is not None:
            figure.savefig(path)
        return figure

    def _plot_split(self, axes):
        """Each section's share of stretches of time of one length."""
        times = [sample["seconds"] for sample in self.samples]
        sections = zip(*(sample["sections"] for sample in self.samples), strict=True)
        edges = np.linspace(0, times[-1], _STRETCHES + 1)
        spent = np.diff([np.interp(edges, times, ns) for ns in sections]).clip(0)
        shares = spent / spent.sum(axis=0).clip(1)
        axes.stackplot(edges, np.pad(shares, ((0, 0), (1, 0)), "edge"), labels=SECTIONS, step="pre")
        axes.set(title="Where the time went", xlabel="s", ylabel="share", ylim=(0, 1))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    def _plot_layers(self, axes):
        """A bar per layer, a piece of it per pass."""
        ms = {(row["layer"], row["phase"]): row["ms"] for row in self.layers}
        names = list(dict.fromkeys(layer for layer, _ in ms))[::-1]
        left = np.zeros(len(names))
        for phase in ("forward", "backward", "update"):
            widths = np.array([ms.get((name, phase), 0.0) for name in names])
            axes.barh([name or "-" for name in names], widths, left=left, label=phase)
            left += widths
        axes.set(title="Time in kernels per layer and pass", xlabel="ms")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    def _plot_memory(self, axes):
        """The pool to the left; the process, which is much larger, to the right."""
        right = axes.twinx()
        times = [sample["seconds"] for sample in self.samples]
        for where, name, label, color in (
            (axes, "peak", "arrays of the pool, at most", "C0"),
            (axes, "held", "the pool", "C1"),
            (right, "resident", "the process (right)", "C2"),
        ):
            sizes = [sample[name] for sample in self.samples]
            if None not in sizes:
                where.plot(times, np.array(sizes) / 1e6, color, label=label)
        axes.set(title="Memory", xlabel="s", ylabel="MB")
        axes.set_ylim(bottom=0)
        right.set_ylim(bottom=0)
        lines = [*axes.lines, *right.lines]
        axes.legend(handles=lines, loc="upper left", bbox_to_anchor=(1.05, 1))

    # -- for trace viewers -------------------------------------------------------------------------

    def chrome_trace(self, path: str | Path) -> None:
        """Write the timeline as trace events, for https://ui.perfetto.dev and chrome://tracing.

        Each thread's epochs, steps, layers and kernels lie above each other; counters show memory.
        """
        events = [*self._names(), *self._span_events(), *self._kernel_events(), *self._counters()]
        left_out = max(0, self._event_count - _MOST_EVENTS)
        data = {
            "traceEvents": events,
            "displayTimeUnit": "ms",
            "otherData": {"program": "tilegrad", "kernels left out at the end": left_out},
        }
        Path(path).write_text(json.dumps(data))

    def _tids(self) -> dict[int, int]:
        """Threads by number, the one that profiles first."""
        threads = dict.fromkeys([self._thread, *(event[0] for event in self._events)])
        return {thread: number for number, thread in enumerate(threads, 1)}

    def _names(self):
        pid = os.getpid()
        yield _metadata("process_name", pid, 0, "tilegrad")
        for thread, tid in self._tids().items():
            name = "main" if thread == self._thread else f"thread {thread}"
            yield _metadata("thread_name", pid, tid, name)

    def _complete(self, name, category, tid, start, ns, **arguments) -> dict:
        return {
            "name": name,
            "cat": category,
            "ph": "X",
            "pid": os.getpid(),
            "tid": tid,
            "ts": (start - self._start) / 1e3,  # microseconds
            "dur": ns / 1e3,
            "args": arguments,
        }

    def _span_events(self):
        for name, start, ns in self._spans:
            yield self._complete(name, "section", 1, start, ns)

    def _kernel_events(self):
        """Kernels, and a layer's event round those that follow each other within a step."""
        edges = np.sort([t for _, start, ns in self._spans for t in (start, start + ns)])
        tids = self._tids()
        for tid in tids.values():
            group, key = [], None
            for thread, start, call, ns in self._kernels():
                if tids[thread] != tid:
                    continue
                found = call.layer, call.phase, int(np.searchsorted(edges, start, "right"))
                if group and found != key:
                    yield from self._layer_event(tid, group)
                    group = []
                group.append((start, call, ns))
                key = found
            if group:
                yield from self._layer_event(tid, group)

    def _kernels(self):
        """(thread, start, call, ns) of each kernel, those of a replay one after the other."""
        for thread, start, what, ns in self._events:
            if isinstance(what, trace.Call):
                yield thread, start, what, ns
                continue
            for call, taken in zip(what, ns.tolist(), strict=True):
                if call is not None:
                    yield thread, start, call, taken
                start += taken

    def _layer_event(self, tid, group):
        (first, call, _), (last, _, ns) = group[0], group[-1]
        name = f"{call.layer or '-'} {call.phase}"
        yield self._complete(name, "layer", tid, first, last + ns - first)
        for start, call, ns in group:
            rates = {"GFLOP/s": call.flops / max(ns, 1), "GB/s": call.nbytes / max(ns, 1)}
            about = {"layer": call.layer, "pass": call.phase, "shapes": call.shapes, **rates}
            yield self._complete(call.kernel, "kernel", tid, start, ns, **about)

    def _counters(self):
        for sample in self.samples:
            sizes = {
                "pool in use": sample["in_use"],
                "pool": sample["held"],
                "process": sample["resident"],
            }
            for name, size in sizes.items():
                if size is not None:
                    yield {
                        "name": name,
                        "ph": "C",
                        "pid": os.getpid(),
                        "tid": 1,
                        "ts": 1e6 * sample["seconds"],
                        "args": {"bytes": size},
                    }


def _metadata(what, pid, tid, name) -> dict:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


# -- memory ----------------------------------------------------------------------------------------


def _pool_bytes(owner):
    """(held, in use, most in use since the last call) of the pool of arrays; Nones without one."""
    if owner.name == "cuda":
        pool = owner.xp.get_default_memory_pool()
        return pool.total_bytes(), pool.used_bytes(), pool.used_bytes()
    ask = getattr(owner.module, "pool_bytes", None)
    return (None, None, None) if ask is None else ask()


def _resident_bytes() -> int | None:
    """What the process has in memory now; None where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _peak_resident_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # no Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if os.uname().sysname == "Darwin" else 1024 * peak


# -- the profile that runs, and what leads from section to section ---------------------------------

_running: Profile | None = None


@contextlib.contextmanager
def profile():
    """Profile what runs within the block; gives a `Profile`.

    Captured steps run captured. Sections are those of the thread that the block is in; kernels are
    recorded in all threads.

    >>> import numpy as np, tilegrad
    >>> from tilegrad import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="hidden")])
    >>> model.compile("sgd", "mse")
    >>> x = np.ones((64, 2), "float32")
    >>> with tilegrad.profile() as p:
    ...     history = model.fit(x, np.ones((64, 3)), batch_size=4, epochs=2, verbose=0)
    >>> sorted({(row["layer"], row["phase"]) for row in p.layers if row["layer"] == "hidden"})
    [('hidden', 'backward'), ('hidden', 'forward')]
    >>> list(p.split), abs(sum(p.split.values()) - p.wall) < 1e-6, len(p.epochs)
    (['kernel', 'dispatch', 'Python', 'data', 'profiler', 'outside'], True, 2)

    Raises:
        RuntimeError: a profile runs already.
    """
    global _running
    from .keras import points  # noqa: F401 - what to look at there

    if _running is not None:
        raise RuntimeError("profile: expected no other profile to run, one does")
    found = Profile()
    with instrument.on("sections"), trace.record(found):
        _running = found
        found._begin()
        try:
            yield found
        finally:
            found._stop()
            _running = None


def _mine() -> Profile | None:
    """The profile that runs, if it is this thread's."""
    found = _running
    return found if found is not None and found._thread == threading.get_ident() else None


def section(which: int, name: str | None = None):
    """A wrap: the function is of this section, and in the timeline if it has a name."""

    def wrap(function):
        @functools.wraps(function)
        def call(*arguments, **options):
            found = _mine()
            if found is None or (name is None and found._clock.section == which):
                return function(*arguments, **options)
            clock = found._clock
            outer = clock.enter(which)
            start = clock.since
            try:
                return function(*arguments, **options)
            finally:
                clock.enter(outer)
                if name is not None:
                    found._span(name, start, clock.since)

        return call

    return wrap


def each(which: int, name: str):
    """The same for a method that iterates: to make an item is of this section."""

    def wrap(function):
        @functools.wraps(function)
        def call(owner):
            items = function(owner)
            done = object()
            item_of = section(which, name)(lambda: next(items, done))
            while (item := item_of()) is not done:
                yield item

        return call

    return wrap


def epoch(function):
    """A wrap for what trains an epoch: its sections, and its time by another clock."""

    @functools.wraps(function)
    def call(*arguments, **options):
        found = _mine()
        if found is None:
            return function(*arguments, **options)
        clock = found._clock
        outer = clock.enter(PYTHON)
        start, before, since = time.monotonic_ns(), clock.seconds(), clock.since
        try:
            return function(*arguments, **options)
        finally:
            wall = (time.monotonic_ns() - start) / 1e9
            clock.enter(outer)
            after = clock.seconds()
            found.epochs.append(
                {"wall": wall} | {name: after[name] - before[name] for name in after}
            )
            found._span(f"epoch {len(found.epochs)}", since, clock.since)

    return call


for _name in ops.__all__:
    instrument.add("sections", ops, _name, section(DISPATCH))
instrument.add("sections", Tensor, "backward", section(DISPATCH))
instrument.add("sections", Captured, "__call__", section(DISPATCH, "captured step"))
instrument.add("sections", _Record, "_copy_in", section(DATA))


# -- what it costs ---------------------------------------------------------------------------------


@functools.cache
def _calibrate() -> dict[str, float]:
    """Seconds of each kind of event: the same calls with and without a profile."""
    owner = backend.get(backend.default_device())
    x = owner.asarray(np.zeros(1, np.float32))
    y = owner.empty(x.shape, x.dtype)
    entered = section(PYTHON)(_nothing)
    plans = (
        [_plan(owner, x, y, length) for length in (1, 33)] if hasattr(owner.module, "Plan") else []
    )
    steps = [[trace.describe(owner, "activation_forward", (y, x))] * len(plan) for plan in plans]

    def run():
        owner.activation_forward(y, x, 0, 0.0)

    bare = [_seconds(f) for f in (run, _nothing, *(plan.replay for plan in plans))]
    with profile():
        replays = [
            functools.partial(trace.replay, *pair) for pair in zip(plans, steps, strict=True)
        ]
        full = [_seconds(f) for f in (run, entered, *replays)]
    kernel, inside, *replay = [max(0.0, a - b) for a, b in zip(full, bare, strict=True)]
    short, long = replay or (0.0, 0.0)
    step = max(0.0, long - short) / 32
    return {
        "kernel": kernel,
        "replay": max(0.0, short - step),
        "step": step,
        "section": inside / 2,  # into it and out of it
    }


def _plan(owner, x, y, length):
    plan = owner.module.Plan()
    plan.begin()
    for _ in range(length):
        owner.module.activation_forward(y, x, 0, 0.0)
    plan.end()
    return plan


def _nothing():
    return None


def _seconds(function, calls: int = 300) -> float:
    """Of one call; the best of some rounds."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        best = min(best, (time.perf_counter() - start) / calls)
    return best
