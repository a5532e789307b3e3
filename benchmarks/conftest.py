"""The `row` fixture: one line of the kernel table, from arrays to a proved ratio."""

from __future__ import annotations

import contextlib
import functools
import statistics
from pathlib import Path

import machine
import numpy as np
import pytest
from harness import Contender, Reference, fastest, prove, ratio, take_turns

from tilegrad import backend, reference

try:
    import torch
except ImportError:  # then its column says so
    torch = None

# rounds, and seconds of each turn
MODES = {"quick": (3, 0.002), "default": (7, 0.02), "full": (25, 0.05)}
records: list[dict] = []


def pytest_addoption(parser):
    parser.addoption("--mode", choices=MODES, default="default", help="how long to measure")
    parser.addoption("--results", type=Path, help="write the rows to this JSON file")


def pytest_sessionfinish(session, exitstatus):
    path = session.config.getoption("--results")
    if path and records:
        machine.record(path, backend.get("cpu").name, session.config.option.mode, records)


@pytest.fixture(scope="session")
def roof():
    return machine.Roof(backend.get("cpu").name)


@pytest.fixture(params=sorted({1, machine.cores()}), ids=lambda count: f"threads{count}")
def threads(request):
    """1, then all cores, for tilegrad and its peer alike."""
    return request.param


@pytest.fixture
def row(request, benchmark, roof):
    count = machine.cores()
    if "threads" in request.fixturenames:
        count = request.getfixturevalue("threads")
    before = backend.get_num_threads()
    backend.set_num_threads(count)
    with contextlib.ExitStack() as stack:
        if torch:
            torch.set_num_threads(count)
            stack.enter_context(torch.inference_mode())
        yield Row(request, benchmark, roof, count)
    backend.set_num_threads(before)


class Row:
    """Collects one row's kernels and peers; `run` proves, times and records them."""

    def __init__(self, request, benchmark, roof, threads):
        self.name = request.node.originalname.removeprefix("bench_")
        self.family = request.node.path.stem.removeprefix("bench_")
        self.mode = request.config.option.mode
        self.benchmark, self.roof, self.threads = benchmark, roof, threads
        self.rng = np.random.default_rng(0)
        self.steps: list[tuple] = []  # (kernel, arguments)
        self.written: list[np.ndarray] = []
        self.state: list[np.ndarray] = []
        self.peers: list[Contender] = []

    def normal(self, *shape) -> np.ndarray:
        """Standard normal float32 numbers: an input."""
        return self.rng.standard_normal(shape, dtype=np.float32)

    def kernel(self, name, *arguments, outputs=1, in_place=()):
        """Add a call of tilegrad's kernel `name`; the first `outputs` arguments are written.

        `in_place` names the arrays that it updates instead. A row may have several kernels.
        """
        self.steps.append((name, arguments))
        if in_place:
            self.state += in_place
        else:
            self.written += arguments[:outputs]

    def peer(self, name, call, outputs, inputs=(), buffers=(), state=()):
        """Add a way that PyTorch has to compute the same; the fastest becomes the peer."""
        self.peers.append(Contender(name, call, outputs, inputs, buffers, state))

    def run(self, shape: str, flops: int = 0, length: int = 1) -> None:
        """Prove and time. `shape` is for the table, `length` that of the longest sum."""
        rounds, seconds = MODES[self.mode]
        start = {id(a): a.copy() for a in self.state}
        ours = self._ours()
        right = Reference(functools.partial(self._right, start), length, in_place=bool(self.state))
        for contender in (ours, *self.peers):
            prove(contender, right)
        ready = functools.partial(self.roof.reached, self.threads)
        contenders = [ours]
        if self.peers:
            contenders.append(fastest(self.peers, right, seconds / 4, ready))
        times = take_turns(contenders, right, rounds, seconds, ready)
        mine = statistics.median(times[ours.name])
        size = sum(a.nbytes for a in _unique(self._arrays()))
        least, bound = self.roof.seconds(self.threads, flops, size)
        record = {
            "family": self.family,
            "kernel": self.name,
            "shape": shape,
            "threads": self.threads,
            "seconds": mine,
            "best_seconds": min(times[ours.name]),
            "flops": flops,
            "bytes": size,
            "roof_share": least / mine,
            "bound": bound,
            "peer": None,
        }
        if self.peers:
            theirs = times[contenders[1].name]
            record |= {
                "peer": contenders[1].name,
                "peer_seconds": statistics.median(theirs),
                "ratio": ratio(theirs, times[ours.name]),
                "best_ratio": min(theirs) / min(times[ours.name]),
            }
        records.append(record)
        self.benchmark.group = self.family
        self.benchmark.extra_info |= record
        number = max(1, round(seconds / mine))
        ready()
        ours.reset()
        self.benchmark.pedantic(ours.call, rounds=5, iterations=number, warmup_rounds=1)

    def _ours(self) -> Contender:
        k = backend.get("cpu")
        calls = [functools.partial(getattr(k, name), *args) for name, args in self.steps]

        def several():
            for call in calls:
                call()

        touched = {id(a) for a in (*self.written, *self.state)}
        inputs = [a for a in _unique(self._arrays()) if id(a) not in touched]
        call = calls[0] if len(calls) == 1 else several
        outputs = [*self.written, *self.state]
        return Contender("tilegrad", call, lambda _: outputs, inputs, self.written, self.state)

    def _right(self, initial: dict, calls: int) -> list[np.ndarray]:
        """The same steps by the reference, in float64; arrays shared by steps stay shared."""
        wide: dict[int, np.ndarray] = {}

        def widen(a):
            if isinstance(a, (list, tuple)):
                return [widen(item) for item in a]
            if not isinstance(a, np.ndarray):
                return a
            start = initial.get(id(a), a)
            return wide.setdefault(
                id(a), start.astype(np.float64 if a.dtype == np.float32 else a.dtype)
            )

        steps = [(getattr(reference, name), widen(args)) for name, args in self.steps]
        for _ in range(calls):
            for kernel, args in steps:
                kernel(*args)
        return [wide[id(a)] for a in (*self.written, *self.state)]

    def _arrays(self):
        for _, arguments in self.steps:
            yield from _flatten(arguments)


def _flatten(items):
    for item in items:
        if isinstance(item, np.ndarray):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _flatten(item)


def _unique(arrays):
    return {id(a): a for a in arrays}.values()
