"""Proved, then timed, in turns: what every number of the benchmarks stands on. NumPy only.

A contender is a call and the arrays it touches. Before anything is timed, its outputs are poisoned
and one call is compared with the float64 reference; the outputs of the timed calls are compared
too, and its inputs must keep their bits. Contenders then take turns in one process, so that a
machine that slows down slows everybody.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

EPS = 2.0**-23  # float32
AWAKE = 0.005  # seconds of untimed calls before a turn
ATTEMPTS = 8  # turns taken again when the machine was not itself
UNITS = 8  # errors are allowed up to UNITS eps sqrt(reduction length) max |expected|


class NotProvedError(AssertionError):
    """A contender's result is not what the reference says, or the reference says nothing."""


@dataclass
class Contender:
    """One way to compute a row of the table.

    Args:
        name: how the table calls it.
        call: computes once. It is timed as it is, so it should do nothing else.
        outputs: turns what `call` returned into arrays in the order and layout of the reference;
            None stands for an output that this contender does not have.
        inputs: arrays (or tensors on the CPU) that must not change.
        buffers: outputs made beforehand, poisoned before each proof.
        state: arrays updated in place (an optimizer's), put back before each proof.
    """

    name: str
    call: Callable[[], object]
    outputs: Callable[[object], Sequence[np.ndarray | None]]
    inputs: Sequence = ()
    buffers: Sequence = ()
    state: Sequence = ()
    _kept: list = field(init=False, repr=False)

    def __post_init__(self):
        self.inputs, self.buffers, self.state = (
            [np.asarray(a) for a in arrays] for arrays in (self.inputs, self.buffers, self.state)
        )
        self._bits = [a.tobytes() for a in self.inputs]
        self._kept = [a.copy() for a in self.state]

    def reset(self) -> None:
        """Poison the outputs (NaN; integers 0x5a) and put the state back."""
        for a in self.buffers:
            a[...] = np.nan if a.dtype.kind == "f" else int("5a" * a.dtype.itemsize, 16)
        for a, before in zip(self.state, self._kept, strict=True):
            a[...] = before

    def check_inputs(self) -> None:
        for i, (a, bits) in enumerate(zip(self.inputs, self._bits, strict=True)):
            if a.tobytes() != bits:
                raise NotProvedError(f"{self.name}: changed its input {i} of shape {a.shape}")


class Reference:
    """What is right: `compute(calls)` gives the float64 outputs after so many calls.

    Args:
        length: of the longest sum.
        in_place: the outputs are updated, so they depend on the number of calls; else compute(1)
            is asked for once and holds for any number.
    """

    def __init__(
        self,
        compute: Callable[[int], Sequence[np.ndarray]],
        length: int = 1,
        in_place: bool = False,
    ):
        self.length, self.in_place = length, in_place
        self._compute = compute
        self._known: dict[int, list] = {}

    def outputs(self, calls: int) -> list[np.ndarray]:
        if calls not in self._known:
            outputs = [np.asarray(a) for a in self._compute(calls)]
            for i, a in enumerate(outputs):
                if not np.isfinite(a).all() or not a.any():
                    raise NotProvedError(f"reference: output {i} is zero or not finite: no proof")
            self._known = {calls: outputs}
        return self._known[calls]

    def compare(self, name: str, outputs: Sequence[np.ndarray | None], calls: int = 1) -> None:
        """Raise NotProvedError unless all `outputs` are those of the reference, up to rounding."""
        if not self.in_place:
            calls = 1
        for i, (a, right) in enumerate(zip(outputs, self.outputs(calls), strict=True)):
            if a is None:
                continue
            a = np.asarray(a)
            if a.shape != right.shape:
                raise NotProvedError(f"{name}: output {i}: expected {right.shape}, got {a.shape}")
            allowed = 0.0
            if a.dtype.kind == "f":
                allowed = UNITS * EPS * math.sqrt(self.length * calls) * np.abs(right).max()
            error = np.abs(a - right).max()  # NaN if any is
            if not error <= allowed:
                raise NotProvedError(
                    f"{name}: output {i}: off by {error:.3g} after {calls} calls, "
                    f"allowed {allowed:.3g}"
                )


def prove(contender: Contender, reference: Reference) -> None:
    """One call on poisoned outputs; raise NotProvedError unless its result is right."""
    contender.reset()
    outputs = contender.outputs(contender.call())
    reference.compare(contender.name, outputs)
    contender.check_inputs()


def always() -> bool:
    """No doubt about the machine."""
    return True


def turn(
    contender: Contender, reference: Reference, number: int, ready: Callable[[], bool] = always
) -> float:
    """Seconds per call over `number` calls after a warm-up; the timed calls' result is checked.

    The outputs are poisoned after the warm-up: a contender that stops computing is found out.
    `ready` says whether the machine has its full speed; a turn counts if it had before and after.
    """
    for _ in range(ATTEMPTS):
        before = ready()
        wake(contender)
        contender.reset()
        start = time.perf_counter()
        for _ in itertools.repeat(None, number):
            result = contender.call()
        seconds = time.perf_counter() - start
        after = ready()
        reference.compare(contender.name, contender.outputs(result), number)
        contender.check_inputs()
        if before and after:
            break
    return seconds / number


def wake(contender: Contender) -> None:
    """Untimed calls before a turn."""
    start = time.perf_counter()
    contender.call()
    while time.perf_counter() - start < AWAKE:
        contender.call()


def calls_in(contender: Contender, seconds: float) -> int:
    """How many calls take about `seconds`."""
    wake(contender)
    for number in (1, 10, 100, 1000):
        start = time.perf_counter()
        for _ in itertools.repeat(None, number):
            contender.call()
        taken = time.perf_counter() - start
        if taken > seconds / 10:
            break
    return max(1, math.ceil(seconds * number / taken))


def fastest(
    contenders: Sequence[Contender],
    reference: Reference,
    seconds: float,
    ready: Callable[[], bool] = always,
) -> Contender:
    """The quickest of `contenders` in three short turns each."""
    best = []
    for contender in contenders:
        number = calls_in(contender, seconds)
        best.append(min(turn(contender, reference, number, ready) for _ in range(3)))
    return contenders[best.index(min(best))]


def take_turns(
    contenders: Sequence[Contender],
    reference: Reference,
    rounds: int,
    seconds: float,
    ready: Callable[[], bool] = always,
) -> dict[str, list[float]]:
    """Prove all, then time them in turn: name -> seconds per call, one number per round."""
    for contender in contenders:
        prove(contender, reference)
    numbers = [calls_in(c, seconds) for c in contenders]
    times: dict[str, list[float]] = {c.name: [] for c in contenders}
    for _ in range(rounds):
        for contender, number in zip(contenders, numbers, strict=True):
            times[contender.name].append(turn(contender, reference, number, ready))
    return times


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """The median over the rounds of their time divided by ours: above 1, ours is faster."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
