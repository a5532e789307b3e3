"""Proved contenders timed in turns, each turn checked: what every number of a table stands on.

A contender has two sets of memory. In a turn both get inputs, swapped from turn to turn, so that
no address holds the same numbers twice in a row; outputs are poisoned; the clock runs over N - 1
calls on one set and one on the other; results are copied the moment it stops, then compared with
the truth. So a result that was remembered, is still pending, or was never computed is refused. The
sets change places from turn to turn: where memory lies can matter by a fifth.

A contender is code in this process and could, with enough malice, replace anything, this module
included. Also not seen: time wasted by computing for nothing, and a memory of results whose key is
all of the inputs, each read anew. tests/test_bench_attacks.py has what is seen.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import math
import statistics
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .libraries.base import Instance
from .machine import last_level_cache_bytes, usable_cores
from .proof import (
    NotProvedError,
    WeakProofError,
    check,
    check_strength,
    prepare,
    probe,
    prove,
    snapshot,
)
from .workload import Truth

# Taken before any contender is imported, and compared with the time module's around each turn.
_perf_counter, _clock_gettime = time.perf_counter, time.clock_gettime
_RAW, _BUSY, _BUSY_HERE = (
    time.CLOCK_MONOTONIC_RAW,
    time.CLOCK_PROCESS_CPUTIME_ID,
    time.CLOCK_THREAD_CPUTIME_ID,
)

ROUNDS = 5  # at least
TURN = 0.01  # seconds of calls in a warm turn
AWAKE = 0.005  # seconds of untimed calls before it
CALLS = 100_000  # at most in a turn
CALLS_IN_PLACE = 32  # at most where each call builds on the one before, and the truth must follow:
FEW_CALLS, FOLLOWED = 4, 2**26  # so fewer, but these, where they update more numbers than these
COLD_CALLS = 3  # in each round; their median is one sample
ATTEMPTS = 8  # at a turn that the machine disturbed, or of which we are in doubt
CLOCKS_AGREE = 0.01  # two clocks may differ by this share, and by the clock's slack
CONTROL = 0.05  # seconds of a busy loop beside an idle turn: more than a scheduler's time slices
LATE = 0.001  # seconds that results may be waited for, beside half the turn


class TamperedError(AssertionError):
    """Somebody replaced the timer."""


# --- samples --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """Seconds per call (or ratios), one a round, in the order of the rounds."""

    seconds: Sequence[float]

    def __post_init__(self):
        if not self.seconds:
            raise ValueError("Samples: expected at least one, got none")

    @property
    def n(self) -> int:
        return len(self.seconds)

    @property
    def min(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """The least sample that 95% of all do not exceed."""
        return sorted(self.seconds)[math.ceil(0.95 * self.n) - 1]

    @property
    def noise(self) -> float:
        """Half the width of the median's 95% confidence interval, over the median.

        Whatever the samples' distribution: how many of n lie below its median is binomial, so the
        interval is from the sample of rank n/2 - 0.98 sqrt(n) to that of 1 + n/2 + 0.98 sqrt(n).
        Fewer than six samples give 94% at most, from the least to the largest; one, infinity.
        """
        if self.n < 2:
            return math.inf
        ordered, half = sorted(self.seconds), 0.98 * math.sqrt(self.n)
        low = max(1, math.floor(self.n / 2 - half))
        high = min(self.n, math.ceil(1 + self.n / 2 + half))
        return (ordered[high - 1] - ordered[low - 1]) / 2 / self.median

    def summary(self) -> dict[str, float]:
        """What a results file keeps."""
        return {key: getattr(self, key) for key in ("n", "min", "median", "p95", "noise")}


def paired(theirs: Samples, ours: Samples) -> Samples:
    """Each round's time of theirs over ours: above 1, ours is faster."""
    return Samples([a / b for a, b in zip(theirs.seconds, ours.seconds, strict=True)])


# --- clocks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What a clock says between `start` and `stop`.

    Attributes:
        seconds: what counts.
        others: the same time by independent clocks.
        busy: CPU seconds of all threads of the process; inf where others do the work.
    """

    seconds: float
    others: tuple[float, ...]
    busy: float


class HostClock:
    """The system's monotonic clock, its raw one as witness, and the process's CPU time."""

    slack = 20e-6  # seconds by which clocks may differ: they are not read at the same moment

    def start(self) -> None:
        _check_timer()
        self._busy = _clock_gettime(_BUSY)
        self._raw = _clock_gettime(_RAW)
        self._start = _perf_counter()

    def stop(self) -> Reading:
        seconds = _perf_counter() - self._start
        raw = _clock_gettime(_RAW) - self._raw
        busy = _clock_gettime(_BUSY) - self._busy
        _check_timer()
        return Reading(seconds, (raw,), busy)


class CudaClock:
    """The GPU's own clock, with the host's as witnesses.

    The whole device is waited for before the first event and before the last one, so that work on
    any stream counts. A turn includes that wait, some ten microseconds.
    """

    slack = 200e-6

    def __init__(self):
        import cupy

        self._device, self._host = cupy.cuda.Device(), HostClock()
        self._first, self._last = cupy.cuda.Event(), cupy.cuda.Event()
        self._milliseconds = cupy.cuda.get_elapsed_time

    def start(self) -> None:
        self._device.synchronize()
        self._host.start()
        self._first.record()

    def stop(self) -> Reading:
        self._device.synchronize()
        self._last.record()
        self._last.synchronize()
        host = self._host.stop()
        seconds = self._milliseconds(self._first, self._last) / 1e3
        return Reading(seconds, (host.seconds, *host.others), math.inf)


def clock_of(device: str) -> HostClock | CudaClock:
    """The clock for "cpu", "sim" or "cuda"."""
    return CudaClock() if device == "cuda" else HostClock()


def _check_timer() -> None:
    for name, function in (("perf_counter", _perf_counter), ("clock_gettime", _clock_gettime)):
        genuine = type(function) is types.BuiltinFunctionType and function.__self__ is time
        if not genuine or function.__name__ != name or function is not getattr(time, name):
            raise TamperedError(f"time.{name} was replaced")


class Flush:
    """Called, it writes to twice the memory that the last cache holds, so that all else leaves it.

    On the CPU by as many threads as there are cores, whose own caches are not the last.
    """

    def __init__(self, device: str = "cpu", nbytes: int | None = None):
        if device == "cuda":
            import cupy

            nbytes = nbytes or 2 * cupy.cuda.Device().attributes["L2CacheSize"]
            self._parts, self._map = [cupy.zeros(nbytes // 4, np.float32)], map
        else:
            nbytes, cores = nbytes or 2 * last_level_cache_bytes(), usable_cores()
            self._parts = np.array_split(np.zeros(nbytes // 4, np.float32), cores)
            self._map = concurrent.futures.ThreadPoolExecutor(cores).map

    def __call__(self) -> None:
        list(self._map(_touch, self._parts))


def _touch(part) -> None:
    part += 1  # read too: stores alone may go past the caches


# --- turns ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """One way to compute a workload, bound twice."""

    name: str
    sets: tuple[Instance, Instance]


@dataclass(frozen=True)
class Part:
    """What a turn does with one set of memory."""

    instance: Instance
    truth: Truth
    calls: int


def turn(
    name: str,
    parts: Sequence[Part],
    clock: HostClock | CudaClock,
    ready: Callable[[], bool],
    wake: int = 0,
    flush: Callable[[], None] | None = None,
) -> tuple[float, float]:
    """(seconds per call, largest error as a share of what is allowed) of one turn.

    Args:
        wake: untimed calls beforehand, on each part.
        flush: called right before the clock starts.

    A turn that `ready` or a doubt speaks against is taken again, ATTEMPTS times in all: noise
    passes, a habit does not. If `ready` alone spoke against all, the last one is taken.

    Raises:
        NotProvedError: a result is wrong, or in all attempts it idled or finished too late.
        TamperedError: the clocks disagreed in all attempts.
    """
    accepted = None
    for _ in range(ATTEMPTS):
        quiet = ready()
        for part in parts:
            for _ in range(wake):
                part.instance.call()
        for part in parts:
            prepare(part.instance, part.truth)
        if flush:
            flush()
        reading, returned = _timed(parts, clock)
        copies, waited = _collect(parts, returned)
        doubt = _doubt(name, reading, waited, clock.slack)
        quiet = ready() and quiet
        errors = [
            check(part.instance, name, part.truth, given, results)
            for part, given, results in zip(parts, returned, copies, strict=True)
        ]
        probe(parts[-1].instance, name, parts[-1].truth)
        if doubt is None:
            accepted = reading.seconds / sum(part.calls for part in parts), max(errors)
            if quiet:
                break
    if accepted is None:
        raise doubt
    return accepted


def _timed(parts: Sequence[Part], clock) -> tuple[Reading, list[object]]:
    """The window: the only code that the clock sees. Also what each part's last call returned."""
    work = [(part.instance.call, part.calls) for part in parts]
    returned = []
    clock.start()
    for call, number in work:
        for _ in itertools.repeat(None, number):
            result = call()
        returned.append(result)
    return clock.stop(), returned


def _collect(parts: Sequence[Part], returned: list[object]) -> tuple[list, float]:
    """Copies of all results, the last call's first, and the seconds that they were waited for.

    That is what reading took beyond twice what it takes again, when no work can delay it.
    """
    start = _perf_counter()
    pairs = list(zip(parts, returned, strict=True))
    copies = [snapshot(part.instance, result) for part, result in reversed(pairs)]
    waited = _perf_counter() - start
    if waited > LATE:
        start = _perf_counter()
        for part, result in pairs:
            snapshot(part.instance, result)
        waited -= 2 * (_perf_counter() - start)
    return copies[::-1], waited


def _doubt(name: str, reading: Reading, waited: float, slack: float) -> AssertionError | None:
    """Why a turn should not count."""
    seconds, ms = reading.seconds, 1e3
    for other in reading.others:
        if not abs(other - seconds) <= CLOCKS_AGREE * abs(other) + slack:
            return TamperedError(
                f"one clock says {seconds * ms:.3f} ms, another {other * ms:.3f} ms"
            )
    if reading.busy + slack < seconds / 2 and reading.busy < _core_share() * seconds / 2:
        return NotProvedError(
            f"{name}: slept: computed {reading.busy * ms:.3f} ms of {seconds * ms:.3f} ms"
        )
    if waited > seconds / 2 + LATE:
        return NotProvedError(
            f"{name}: finished {waited * ms:.3f} ms after the clock had stopped "
            f"at {seconds * ms:.3f} ms"
        )
    return None


def _core_share() -> float:
    """How much of a core a busy loop gets now: little of one where others compute, too."""
    start, busy = _perf_counter(), _clock_gettime(_BUSY_HERE)
    while (elapsed := _perf_counter() - start) < CONTROL:
        continue
    return (_clock_gettime(_BUSY_HERE) - busy) / elapsed


# --- rounds ---------------------------------------------------------------------------------------


@dataclass
class Measured:
    """What came of one contender.

    Attributes:
        status: "ok", "refused" (not proved) or "failed" (it raised something else).
        reason: None, or why not ok.
        error: the largest over all proofs and turns, as a share of what is allowed.
        calls: in each warm turn.
        warm: None unless ok.
        cold: None unless ok and flushed.
    """

    status: str = "ok"
    reason: str | None = None
    error: float = 0.0
    calls: int = 0
    warm: Samples | None = None
    cold: Samples | None = None


def always() -> bool:
    """No doubt about the machine."""
    return True


def measure(
    contenders: Sequence[Contender],
    truths: Sequence[Truth],
    *,
    budget_s: float,
    rounds: int = ROUNDS,
    noise: float = 0.01,
    clock: HostClock | CudaClock | None = None,
    ready: Callable[[], bool] = always,
    flush: Callable[[], None] | None = None,
) -> dict[str, Measured]:
    """Prove all contenders, then let them take turns, A B C A B C, until the medians are known.

    Args:
        truths: two, of one workload, from different seeds, each after one call.
        budget_s: no further round begins after so many seconds, once there are `rounds`.
        noise: rounds end earlier when every contender's warm `Samples.noise`, and that of its
            ratio to the first contender, is no larger.
        clock: the host's if None.
        ready: whether the machine has its full speed; asked before and after each turn.
        flush: for cold calls: what empties the caches. None: only warm ones.

    Returns:
        name -> Measured. Who is refused or fails takes no further turn; the others go on. The
        samples of one round have one index everywhere.

    Raises:
        TamperedError: the timer cannot be trusted, so nobody's times can.
        WeakProofError: a workload in place whose calls the truth cannot tell apart.
    """
    began = _perf_counter()
    known = _Truths(truths)
    clock = clock or HostClock()
    runs = [_Run(contender, known, clock, ready) for contender in contenders]
    for run in runs:
        run.attempt(run.begin)
    for number in itertools.count(1):
        for run in _alive(runs):
            run.attempt(run.warm_turn, number)
        for run in _alive(runs) if flush else ():
            run.attempt(run.cold_turn, number, flush)
        spent = _perf_counter() - began > budget_s
        enough = number >= rounds and (spent or _settled(_alive(runs), noise))
        if enough or not _alive(runs):
            return {run.contender.name: run.finish() for run in runs}


class _Truths:
    """Two truths and, of a workload in place, what they are after more calls."""

    def __init__(self, truths: Sequence[Truth]):
        if len({t.seed for t in truths}) != 2 or any(t.calls != 1 for t in truths):
            raise ValueError("measure: expected two truths of different seeds after one call")
        self.in_place = truths[0].workload.in_place
        self._after = {1: list(truths)}

    def most_calls(self) -> int:
        """In a turn."""
        if not self.in_place:
            return CALLS
        numbers = sum(output.size for output in self._after[1][0].outputs)
        return max(FEW_CALLS, min(CALLS_IN_PLACE, FOLLOWED // numbers))

    def after(self, calls: int) -> list[Truth]:
        if not self.in_place:
            calls = 1
        if calls not in self._after:
            truths = [Truth(t.workload, t.seed, calls) for t in self._after[1]]
            check_strength(truths)
            self._after[calls] = truths
        return self._after[calls]


class _Run:
    """One contender's turns so far."""

    def __init__(self, contender: Contender, truths: _Truths, clock, ready: Callable[[], bool]):
        self.contender, self.truths, self.clock, self.ready = contender, truths, clock, ready
        self.result = Measured()
        self.warm: list[float] = []
        self.cold: list[float] = []

    def attempt(self, step: Callable, *args) -> None:
        """`step`, whose errors become this contender's status, unless they concern everybody."""
        result = self.result
        try:
            step(*args)
        except WeakProofError:
            raise
        except TamperedError as error:
            raise TamperedError(f"{self.contender.name}: {error}") from error
        except NotProvedError as error:
            result.status, result.reason = "refused", str(error)
        except Exception as error:
            result.status, result.reason = "failed", f"{type(error).__name__}: {error}"

    def begin(self) -> None:
        """Prove both sets of memory on both truths; find how many calls make a turn."""
        for instance in self.contender.sets:
            for truth in self.truths.after(1):
                self._note(prove(instance, self.contender.name, truth))
        self.limit = self.truths.most_calls()
        self.seconds = self._seconds_per_call()
        self.result.calls = self._calls_in(TURN)

    def warm_turn(self, number: int) -> None:
        calls = self.result.calls
        first, second = (0, 1) if calls == 1 or number % 2 else (1, 0)
        parts = [self._part(second, 1, number)]
        if calls > 1:
            parts.insert(0, self._part(first, calls - 1, number))
        self.warm.append(self._turn(parts, wake=self._calls_in(AWAKE / len(parts))))

    def _part(self, which: int, calls: int, number: int) -> Part:
        truth = self.truths.after(calls)[(number + 1 + which) % 2]
        return Part(self.contender.sets[which], truth, calls)

    def cold_turn(self, number: int, flush: Callable[[], None]) -> None:
        times = []
        for i in range(number, number + COLD_CALLS):
            part = Part(self.contender.sets[1], self.truths.after(1)[i % 2], 1)
            times.append(self._turn([part], flush=flush))
        self.cold.append(statistics.median(times))

    def finish(self) -> Measured:
        if self.result.status == "ok":
            self.result.warm = Samples(self.warm)
            self.result.cold = Samples(self.cold) if self.cold else None
        return self.result

    def _turn(self, parts: Sequence[Part], **options) -> float:
        seconds, error = turn(self.contender.name, parts, self.clock, self.ready, **options)
        self._note(error)
        return seconds

    def _note(self, error: float) -> None:
        self.result.error = max(self.result.error, error)

    def _calls_in(self, seconds: float) -> int:
        return min(self.limit, max(1, math.ceil(seconds / self.seconds)))

    def _seconds_per_call(self) -> float:
        """Roughly: over enough calls for a tenth of a turn, the best of three."""
        for number in (10**i for i in itertools.count()):
            seconds = self._block(number)
            if seconds < TURN:
                seconds = min(seconds, self._block(number), self._block(number))
            if seconds > TURN / 10 or 10 * number > self.limit:
                return max(seconds, 1e-9) / number

    def _block(self, number: int) -> float:
        instance, truth = self.contender.sets[0], self.truths.after(1)[0]
        prepare(instance, truth)
        return _timed([Part(instance, truth, number)], self.clock)[0].seconds


def _alive(runs: Sequence[_Run]) -> list[_Run]:
    return [run for run in runs if run.result.status == "ok"]


def _settled(runs: Sequence[_Run], noise: float) -> bool:
    """Whether all medians, and all ratios to the first contender, are known to within `noise`."""
    warm = [Samples(run.warm) for run in runs]
    ratios = [paired(samples, warm[0]) for samples in warm[1:]]
    return all(samples.noise <= noise for samples in (*warm, *ratios))
