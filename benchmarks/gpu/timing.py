"""Proved against float64, then timed in turns.

A contender has one call for each of several sets of buffers, which together exceed the caches;
calls go round them. Times are those of a CUDA graph of such calls where all contenders of a row can
be captured, else of the calls on the stream; by the device's events, and on the wall beside them.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .device import Deadline, Device, precision

EPS = {"fp32": 2.0**-23, "tf32": 2.0**-11}  # of one rounded operand
UNITS = 8  # errors are allowed up to UNITS eps sqrt(length of the sum) max |expected|
SETS = 48  # at most so many sets of buffers,
BYTES = 8 << 30  # and so much memory


class NotProvedError(AssertionError):
    """A result is not what float64 says."""


@dataclass
class Contender:
    """One way to compute a row.

    Args:
        name: how the table calls it.
        library: whose calls they are: "tilegrad", "cupy" or "torch".
        calls: one for each set of buffers.
        outputs: what call i returned -> tensors in tilegrad's layout; None where this contender has
            no such output.
        buffers: what set 0 writes, poisoned before it is looked at.
        tf32: whether PyTorch may use tf32; such a contender is shown, and is nobody's peer.
    """

    name: str
    library: str
    calls: Sequence[Callable[[], object]]
    outputs: Callable[[object], Sequence[torch.Tensor | None]]
    buffers: Sequence[torch.Tensor] = ()
    tf32: bool = False
    results: dict[int, object] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        self._steps = [self._step(i, call) for i, call in enumerate(self.calls)]

    def _step(self, i, call):
        def step():
            self.results[i] = call()  # kept: a graph writes into what was returned at its capture

        return step

    def steps(self, count: int) -> list[Callable[[], object]]:
        """`count` calls, going round the sets."""
        return list(itertools.islice(itertools.cycle(self._steps), count))

    def poison(self) -> None:
        for tensor in self.buffers:
            tensor.fill_(math.nan if tensor.is_floating_point() else 0x5A)


@dataclass
class Truth:
    """What is right for set 0, in float64, and how long its longest sum is."""

    tensors: Sequence[torch.Tensor]
    length: int = 1

    def compare(self, contender: Contender) -> float:
        """The largest error over what is allowed; NotProvedError above 1."""
        worst = 0.0
        outputs = contender.outputs(contender.results[0])
        for i, (got, right) in enumerate(zip(outputs, self.tensors, strict=True)):
            if got is None:
                continue
            if got.shape != right.shape:
                raise NotProvedError(
                    f"{contender.name}: output {i}: expected {tuple(right.shape)}, "
                    f"got {tuple(got.shape)}"
                )
            size = right.abs().max().item()
            if not 0 < size < math.inf:
                raise NotProvedError(f"truth: output {i} is zero or not finite: no proof")
            eps = EPS["tf32" if contender.tf32 else "fp32"]
            allowed = UNITS * eps * math.sqrt(self.length) * size
            error = (got.double() - right).abs().max().item()
            if not error <= allowed:  # NaN fails
                raise NotProvedError(
                    f"{contender.name}: output {i}: off by {error:.3g}, allowed {allowed:.3g}"
                )
            worst = max(worst, error / allowed)
        return worst


def number_of_sets(device: Device, size: int) -> int:
    """How many sets of `size` bytes it takes to exceed the cache four times, within bounds."""
    if device.simulated:
        return 2
    wanted = math.ceil(4 * device.cache_bytes / max(size, 1))
    return max(1, min(wanted, SETS, BYTES // max(size, 1)))


def prove(device: Device, contender: Contender, truth: Truth) -> float:
    """One call on poisoned outputs; its error over what is allowed."""
    contender.poison()
    with precision(contender.tf32):
        contender.steps(1)[0]()
    device.synchronize()
    return truth.compare(contender)


def prepare(device: Device, contenders: Sequence[Contender], seconds: float) -> tuple[list, str]:
    """For each contender a function that makes its calls and how many; "graph" or "stream"."""
    runs = []
    for contender in contenders:
        with precision(contender.tf32):
            steps = contender.steps(_multiple(len(contender.calls), 20))
            replay = device.capture(steps, contender.library)
        if replay is None:
            break
        runs.append((replay, len(steps)))
    mode = "graph" if len(runs) == len(contenders) else "stream"
    if mode == "stream":
        runs = []
        for contender in contenders:
            steps = contender.steps(_multiple(len(contender.calls), 20))
            runs.append((_in_order(steps), len(steps)))
    ready = []
    for (run, calls), contender in zip(runs, contenders, strict=True):
        with precision(contender.tf32):
            device.stopwatch(run)
            once, _ = device.stopwatch(run)
            repeats = 1 if device.simulated else max(1, math.ceil(seconds / max(once, 1e-6)))
        ready.append((_repeated(run, repeats), calls * repeats))
    return ready, mode


def _multiple(sets: int, least: int) -> int:
    return sets * math.ceil(least / sets)


def _in_order(steps):
    def run():
        for step in steps:
            step()

    return run


def _repeated(run, repeats):
    def several():
        for _ in itertools.repeat(None, repeats):
            run()

    return several


def take_turns(
    device: Device,
    contenders: Sequence[Contender],
    truth: Truth | None,
    deadline: Deadline,
    rounds: int = 7,
    seconds: float = 0.01,
) -> dict:
    """Prove all, time them in turn, prove again: the times of every contender, and ratios.

    The first contender is ours. `truth` None: outputs are updated in place and were proved before.

    Returns:
        {"timed": "graph" or "stream", "contenders": {name: {"gpu": [...], "wall": [...], ...}}},
        seconds per call of each round; the second run of ours in each round gives the noise.
    """
    errors = {}
    if truth is not None:
        errors = {c.name: prove(device, c, truth) for c in contenders}
    runs, mode = prepare(device, contenders, seconds)
    times: dict[str, dict] = {c.name: {"gpu": [], "wall": []} for c in contenders}
    again = []
    for _ in range(1 if device.simulated else rounds):
        for contender, (run, calls) in [*zip(contenders, runs, strict=True), (None, runs[0])]:
            chosen = contender or contenders[0]
            chosen.poison()
            with precision(chosen.tf32):
                gpu, wall = device.stopwatch(run)
            if truth is not None:
                truth.compare(chosen)
            if contender is None:
                again.append(gpu / calls)
            else:
                times[chosen.name]["gpu"].append(gpu / calls)
                times[chosen.name]["wall"].append(wall / calls)
        if deadline.left() < 0:
            break
    for contender in contenders:
        figures = times[contender.name]
        figures |= {"library": contender.library, "tf32": contender.tf32}
        figures["error"] = errors.get(contender.name)
    first = times[contenders[0].name]["gpu"]
    noise = statistics.median(abs(a / b - 1) for a, b in zip(again, first, strict=True))
    return {"timed": mode, "noise": noise, "contenders": times}


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """The median over the rounds of their time over ours: above 1, ours is faster."""
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
