"""The process that measures kernels: bound to as many cores as threads, all libraries in it.

It reads an order (JSON) from its input and answers with JSON lines: {"begin": workload} before each
workload, then a row for each contender. A contender that brings the process down costs the others
nothing: `runner` starts another one behind that workload.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence

from .libraries import Library, all_libraries
from .proof import WeakProofError, check_strength
from .roofline import Roofs, measure_again, probe, reached
from .timing import Contender, Flush, Measured, Samples, TamperedError, clock_of, measure, paired
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
            for row in worker.rows(parse(descriptor)):
                print(json.dumps(row), file=answers)


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
        self._asked, self._best = 0, probe(isa, threads)

    def ready(self) -> bool:
        quiet = idle()
        if quiet and self._patience > 0:
            start = time.perf_counter()
            quiet = reached(self._threads, isa=self._isa)
            if not quiet:
                self._patience -= time.perf_counter() - start
        self._asked += 1
        if self._asked % PROBED == 0:
            now = probe(self._isa, self._threads)
            self._best = {key: max(rate, now[key]) for key, rate in self._best.items()}
        return quiet

    def figures(self) -> dict[str, float]:
        """FLOP/s and bytes/s."""
        return self._best


class Worker:
    """Measures workloads in this process.

    Args:
        order: device, threads, isas, libraries (names; [] is all), seconds, noise, cold, seed and
            roofs; see `runner.Plan`.
    """

    def __init__(self, order: dict):
        self.device, self.threads = order["device"], order["threads"]
        self.seconds, self.noise, self.seed = order["seconds"], order["noise"], order["seed"]
        self.isa = order["isas"][0]
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

    def rows(self, workload: Workload) -> Iterator[dict]:
        """A row for each library that computes `workload`, or one that says why there is none."""
        try:
            truths = [Truth(workload, self.seed), Truth(workload, self.seed + 1)]
            check_strength(truths)
            yield from self._measured(workload, truths)
        except (WeakProofError, TamperedError) as error:  # nobody's numbers can be trusted
            yield self._row(workload, self.libraries[0], None, "refused", str(error))
        gc.collect()

    def _measured(self, workload: Workload, truths: Sequence[Truth]) -> Iterator[dict]:
        calibration = Calibration(self.isa, self.threads, patience=self.seconds)
        options = {"noise": self.noise, "clock": self.clock, "ready": calibration.ready}
        chosen: dict[str, tuple[Library, Way]] = {}
        contenders = []
        for library in self.libraries:
            way, status, reason = self._fastest(library, workload, truths, options)
            if way is None:
                if reason:
                    yield self._row(workload, library, None, status, reason)
                continue
            chosen[library.label] = library, way
            contenders.append(Contender(library.label, bind(library, workload, way)))
        if not contenders:
            return
        budget = self.seconds * len(contenders) / len(self.libraries)
        results = measure(contenders, truths, budget_s=budget, flush=self.flush, **options)
        ours = results.get(self.libraries[0].label, Measured())
        for label, (library, way) in chosen.items():
            result = results[label]
            row = self._row(workload, library, way, result.status, result.reason)
            if result.status == "ok":
                row |= self._figures(workload, library, result, ours)
                row["calibration"] = calibration.figures()
            yield row

    def _fastest(
        self, library: Library, workload: Workload, truths: Sequence[Truth], options: dict
    ) -> tuple[Way | None, str, str | None]:
        """The way that was quickest in a few turns, or (None, status, reason) if none was right.

        Who has no way at all has no reason either.
        """
        if library.label in self._refused:
            return None, "refused", self._refused[library.label]
        try:
            ways = {str(i): way for i, way in enumerate(library.ways(workload))}
            contenders = [Contender(name, bind(library, workload, w)) for name, w in ways.items()]
        except Exception as error:  # whatever a library objects to
            return None, "failed", f"{type(error).__name__}: {error}"
        if not ways:
            return None, "absent", None
        results = measure(contenders, truths, budget_s=0, rounds=TRIALS, **options)
        right = {name: r for name, r in results.items() if r.status == "ok"}
        if not right:
            worst = next(iter(results.values()))
            return None, worst.status, worst.reason
        return ways[min(right, key=lambda name: right[name].warm.min)], "ok", None

    def _figures(
        self, workload: Workload, library: Library, result: Measured, ours: Measured
    ) -> dict:
        """Times, ratios to tilegrad's, and the share of the roof of a measured row."""
        seconds, nbytes = result.warm.median, workload.nbytes
        figures = {
            "error": result.error,
            "warm": result.warm.summary(),
            "cold": result.cold.summary() if result.cold else None,
            "ratio": ratio(result.warm, ours.warm),
            "cold_ratio": ratio(result.cold, ours.cold),
            "flops": workload.flops,
            "bytes": nbytes,
        }
        if self.device == "cpu":
            figures["roof"] = roof = self._roof(workload, library, seconds)
            if roof["above"]:
                figures |= {
                    "status": "refused",
                    "reason": f"{roof['share']:.0%} of the roof: faster than can be",
                }
        return figures

    def _roof(self, workload: Workload, library: Library, seconds: float) -> dict:
        """The share of the roof; what is above it has the roof measured once more."""
        isa = getattr(library, "isa", None)
        work = workload.flops, workload.nbytes, workload.nbytes, self.threads, isa, seconds
        roof = self.roofs.share(*work)
        if roof["above"] and (isa, self.threads) not in self._again:
            self._again.add((isa, self.threads))
            self.roofs = measure_again(self.roofs, isa, self.threads)
            roof = self.roofs.share(*work)
        return roof

    def _row(
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
        }


def present(libraries: Sequence[Library], names: Sequence[str]) -> list[Library]:
    """Those of `libraries` that can run here and are named in `names`, or all."""
    return [library for library in libraries if library.wanted(names) and library.absent() is None]


def bind(library: Library, workload: Workload, way: Way) -> tuple:
    """The way with two sets of memory."""
    return library.bind(workload, way), library.bind(workload, way)


def ratio(theirs: Samples | None, ours: Samples | None) -> float | None:
    """The median of the paired ratios: above 1, ours is faster."""
    return paired(theirs, ours).median if theirs and ours else None


if __name__ == "__main__":
    main()
