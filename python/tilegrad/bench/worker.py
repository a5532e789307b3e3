"""The process that measures kernels: bound to as many cores as threads, all libraries in it.

It reads an order (JSON) from its input and answers with JSON lines: {"begin": workload} before each
workload, then a part (`figures`) for each contender. A contender that brings the process down costs
the others nothing: `runner` starts another one behind that workload.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from .libraries import Library, all_libraries
from .proof import WeakProofError, check_strength
from .roofline import Roofs, Speed, measure_again, reached
from .timing import Contender, Flush, TamperedError, clock_of, measure
from .workload import Truth, Way, Workload, parse

LOOK = 0.005  # seconds: longer than the tick by which the system counts threads on other cores
TRIALS = 3  # rounds in which a library's fastest way is found
PROBED = 5  # one in so many looks at the machine is a long one, which counts as calibration


def main() -> None:
    order = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    with Worker(order) as worker:
        for descriptor in order["workloads"]:
            print(json.dumps({"begin": descriptor}), file=answers)
            for part in worker.parts(parse(descriptor)):
                print(json.dumps(part), file=answers)


def idle(patience: float = 0.3) -> bool:
    """Whether no thread of this process computes, or none does within `patience` seconds.

    A library's threads may go on spinning after its last call: ONNX Runtime's for 70 ms.
    """
    deadline = time.perf_counter() + patience
    while time.perf_counter() < deadline:
        start, busy = time.perf_counter(), time.process_time()
        time.sleep(LOOK)
        if time.process_time() - busy < (time.perf_counter() - start) / 4:
            return True
    return False


class Calibration:
    """Whether the machine has its full speed, and the best that it had at the times it was asked.

    Args:
        patience: seconds to wait for full speed in vain; then turns are taken as they come, and it
            is the noise that says how much they are worth.
    """

    def __init__(self, isa: str, threads: int, patience: float):
        self._isa, self._threads, self._patience = isa, threads, patience
        self._asked, self._speed = 0, Speed(isa, threads)

    def ready(self) -> bool:
        quiet = idle()
        if quiet and self._patience > 0:
            start = time.perf_counter()
            quiet = reached(self._threads, isa=self._isa)
            if not quiet:
                self._patience -= time.perf_counter() - start
        self._asked += 1
        if self._asked % PROBED == 0:
            self._speed.look()
        return quiet

    def figures(self) -> dict[str, float]:
        """FLOP/s and bytes/s."""
        return self._speed.rates


class OutError(Exception):
    """A library takes no part in a workload.

    Args:
        status, reason: of its row; without a reason it has none.
    """

    def __init__(self, status: str, reason: str | None = None):
        super().__init__(reason)
        self.status, self.reason = status, reason


class Worker:
    """Measures workloads in this process.

    Args:
        order: device, threads, isas, libraries (names; [] is all), seconds, rounds (at least),
            noise, cold, seed and roofs; see `runner.Plan`. And ways: workload -> {label: number of
            the way} of who takes part; where it says nothing, everybody's fastest way is found.
    """

    def __init__(self, order: dict):
        self.device, self.threads = order["device"], order["threads"]
        self.seconds, self.rounds = order["seconds"], order["rounds"]
        self.noise, self.seed = order["noise"], order["seed"]
        self.isa, self.ways = order["isas"][0], order["ways"]
        self.libraries = present(all_libraries(self.device, order["isas"]), order["libraries"])
        self.roofs = Roofs.from_json(order["roofs"])
        self.clock = clock_of(self.device)
        self.flush = Flush(self.device) if order["cold"] else None
        self._again: set[tuple] = set()  # roofs that were measured twice
        self._refused: dict[str, str] = {}  # library -> why it cannot have as many threads
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Worker:
        for library in self.libraries:
            try:
                self._stack.enter_context(library.threads(self.threads))
            except RuntimeError as error:
                self._refused[library.label] = str(error)
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def parts(self, workload: Workload) -> Iterator[dict]:
        """A part for each library that computes `workload`, or one that says why there is none."""
        try:
            truths = [Truth(workload, self.seed), Truth(workload, self.seed + 1)]
            check_strength(truths)
            yield from self._measured(workload, truths)
        except (WeakProofError, TamperedError) as error:  # nobody's numbers can be trusted
            yield self._part(workload, self.libraries[0], None, "refused", str(error))
        gc.collect()

    def _measured(self, workload: Workload, truths: Sequence[Truth]) -> Iterator[dict]:
        calibration = Calibration(self.isa, self.threads, patience=self.seconds)
        options = {"noise": self.noise, "clock": self.clock, "ready": calibration.ready}
        entries: dict[str, tuple[Library, int, Way]] = {}
        contenders = []
        for library in self.libraries:
            try:
                number, way, sets = self._entry(library, workload, truths, options)
            except OutError as out:
                if out.reason:
                    yield self._part(workload, library, None, out.status, out.reason)
                continue
            entries[library.label] = library, number, way
            contenders.append(Contender(library.label, sets))
        if not contenders:
            return
        budget = self.seconds * len(contenders) / len(self.libraries)
        options |= {"budget_s": budget, "rounds": self.rounds, "flush": self.flush}
        results = measure(contenders, truths, **options)
        for label, (library, number, way) in entries.items():
            result = results[label]
            part = self._part(workload, library, way, result.status, result.reason)
            if result.status == "ok":
                part["measured"] = {
                    "way": number,
                    "error": result.error,
                    "warm": result.warm.seconds,
                    "cold": result.cold.seconds if result.cold else None,
                    "calibration": calibration.figures(),
                    "floor": self._floor(workload, library, result.warm.median),
                }
            yield part

    def _entry(
        self, library: Library, workload: Workload, truths: Sequence[Truth], options: dict
    ) -> tuple[int, Way, tuple]:
        """What `library` enters with: a way, its number, and two sets of memory.

        Raises:
            OutError: it takes no part.
        """
        label = library.label
        if label in self._refused:
            raise OutError("refused", self._refused[label])
        known = self.ways.get(str(workload))
        try:
            ways = dict(enumerate(library.ways(workload)))
            if known is not None:
                ways = {number: way for number, way in ways.items() if number == known.get(label)}
            bound = {
                n: (library.bind(workload, w), library.bind(workload, w)) for n, w in ways.items()
            }
        except Exception as error:  # whatever a library objects to
            raise OutError("failed", f"{type(error).__name__}: {error}") from error
        if not ways:
            raise OutError("absent")
        number = next(iter(ways)) if len(ways) == 1 else self._fastest(bound, truths, options)
        return number, ways[number], bound[number]

    def _fastest(self, bound: Mapping[int, tuple], truths: Sequence[Truth], options: dict) -> int:
        """The number of the way that was quickest in a few turns.

        Raises:
            OutError: none was right.
        """
        contenders = [Contender(f"way {number}", sets) for number, sets in bound.items()]
        results = measure(contenders, truths, budget_s=0, rounds=TRIALS, **options)
        found = dict(zip(bound, results.values(), strict=True))
        right = {number: r.warm.min for number, r in found.items() if r.status == "ok"}
        if not right:
            raise OutError(found[min(found)].status, found[min(found)].reason)
        return min(right, key=right.get)

    def _floor(
        self, workload: Workload, library: Library, seconds: float
    ) -> tuple[float, str] | None:
        """The least seconds by the roof, and what says so; None where there is no roof.

        Where it takes fewer `seconds`, the roof is measured once more.
        """
        if self.device != "cpu":
            return None
        isa = getattr(library, "isa", None)
        work = workload.flops, workload.nbytes, workload.nbytes
        above = self.roofs.share(*work, self.threads, isa, seconds)["above"]
        if above and (isa, self.threads) not in self._again:
            self._again.add((isa, self.threads))
            self.roofs = measure_again(self.roofs, isa, self.threads)
        return self.roofs.get(isa, self.threads).least(*work)

    def _part(
        self, workload: Workload, library: Library, way: Way | None, status: str, reason: str | None
    ) -> dict:
        settings = (library.setting, way.setting if way else "")
        return {
            "workload": str(workload),
            "kind": "kernel",
            "device": self.device,
            "threads": self.threads,
            "library": library.name,
            "label": library.label,
            "version": library.version(),
            "setting": "; ".join(filter(None, settings)),
            "isa": getattr(library, "isa", None),
            "status": status,
            "reason": reason,
            "flops": workload.flops,
            "bytes": workload.nbytes,
        }


def present(libraries: Sequence[Library], names: Sequence[str]) -> list[Library]:
    """Those of `libraries` that can run here and are named in `names`, or all."""
    return [library for library in libraries if library.wanted(names) and library.absent() is None]


if __name__ == "__main__":
    main()
