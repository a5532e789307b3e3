"""A run of ``tilegrad bench``: processes for each number of threads, their rows shown and kept.

Kernels are measured by `worker` processes, training epochs by `training`. All of them are bound to
as many cores as they may use threads, so that every library sees just these.

A kernel is measured by several processes, one after the other over the whole list: memory lies
elsewhere in each, and the machine has other company. What one of them has by luck, or suffers, the
turns within it cannot tell.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from .. import backend
from . import roofline, training
from .child import POOLS
from .figures import pooled
from .libraries import all_libraries
from .machine import KEEP, describe, usable_cores
from .record import Record
from .report import duration
from .timing import ROUNDS
from .workload import Workload, select

# OpenBLAS's threads spin for a tenth of a second when they are done; a quarter of a millisecond is
# enough from one call to the next and leaves the core to the next contender.
ASLEEP = {"OPENBLAS_THREAD_TIMEOUT": "20"}
SILENT = 600  # seconds without a row after which a worker counts as hanging


@dataclass(frozen=True)
class Plan:
    """How to measure; see `cli`.

    Attributes:
        threads: how many -> patterns of the kernels that are measured on so many; () is all.
        processes: that measure each kernel, one after the other over all of them.
        seconds: for each kernel on each number of threads, in all processes together.
        epoch_seconds: for each training workload.
        noise: to stop below.
        path: of the results file, or None.
    """

    suite: str
    device: str
    threads: Mapping[int, Sequence[str]]
    isas: Sequence[str]
    libraries: Sequence[str]
    processes: int
    seconds: float
    epoch_seconds: float
    noise: float
    cold: bool
    seed: int
    path: str | None
    arguments: Sequence[str]


def run(workloads: Sequence, plan: Plan, console: Console | None = None) -> int:
    """Measure `workloads`; 1 if one of tilegrad's rows was not proved, else 0.

    Raises:
        ValueError: a library that the plan names is unknown.
        RuntimeError: tilegrad has nothing to compute with on the plan's device.
    """
    console = console or Console()
    absent = absentees(plan)
    kernels = [w for w in workloads if isinstance(w, Workload)]
    epochs = [w for w in workloads if not isinstance(w, Workload)]
    roofs = roofline.Roofs()
    if kernels and plan.device == "cpu":
        best = roofline.supported_isas()[:1]  # the one that peers are held against
        roofs = roofline.load_or_measure([*best, *plan.isas], list(plan.threads))
    header = {
        "machine": describe(os.environ | KEEP),
        "suite": plan.suite,
        "seed": plan.seed,
        "arguments": list(plan.arguments),
        "roofs": roofs.to_json(),
        "absent": absent,
    }
    record = Record(plan.path, header) if plan.path else None
    with Show(console) as show:
        show.header(header)
        for row, final in rows_of(kernels, epochs, plan, roofs, show.progress):
            if record:
                record.add(row)
            if final:
                show.row(row)
    show.summary()
    return 1 if show.unproved else 0


def absentees(plan: Plan) -> dict[str, str]:
    """Library -> why it does not take part though it was asked to."""
    libraries = all_libraries(plan.device, plan.isas)
    known = {library.name for library in libraries}
    unknown = sorted(set(plan.libraries) - known)
    if unknown:
        raise ValueError(
            f"libraries: expected some of {', '.join(sorted(known))}, got {', '.join(unknown)}"
        )
    reasons = {
        library.label: library.absent() for library in libraries if library.wanted(plan.libraries)
    }
    for library in libraries:
        if library.name == "tilegrad" and reasons.get(library.label):
            raise RuntimeError(f"{library.label}: {reasons[library.label]}")
    return {label: reason for label, reason in reasons.items() if reason}


Tell = Callable[[str], None]  # told what happens


def rows_of(
    kernels: Sequence[Workload], epochs: Sequence, plan: Plan, roofs: roofline.Roofs, tell: Tell
) -> Iterator[tuple[dict, bool]]:
    """All rows: the kernels' on each number of threads, then the epochs' on the largest.

    With each row, whether it is final; if not, another will take its place.
    """
    if kernels:
        for threads, patterns in plan.threads.items():
            yield from kernel_rows(select(kernels, patterns), threads, plan, roofs, tell)
    if epochs:
        isa = plan.isas[0]
        rows = training.rows(
            epochs,
            isa=None if isa == backend.get("cpu").name else isa,
            threads=max(plan.threads),
            budget_s=plan.epoch_seconds,
            libraries=plan.libraries,
            noise=plan.noise,
            report=tell,
        )
        yield from ((row, True) for row in rows)


def kernel_rows(
    kernels: Sequence[Workload], threads: int, plan: Plan, roofs: roofline.Roofs, tell: Tell
) -> Iterator[tuple[dict, bool]]:
    """The rows of each kernel after each pass over all, with all that was measured until then."""
    found: dict[str, list[list[dict]]] = {str(w): [] for w in kernels}
    left = list(found)
    order = {
        "device": plan.device,
        "threads": threads,
        "isas": list(plan.isas),
        "libraries": list(plan.libraries),
        "seconds": plan.seconds / plan.processes,
        "rounds": max(2, math.ceil(ROUNDS / plan.processes)),
        "noise": plan.noise,
        "cold": plan.cold,
        "seed": plan.seed,
        "roofs": roofs.to_json(),
    }
    for number in range(1, plan.processes + 1):
        ways = {descriptor: chosen_ways(parts[0]) for descriptor, parts in found.items() if parts}
        news = f"pass {number} of {plan.processes}, workload"
        for descriptor, parts in one_pass(order | {"workloads": left, "ways": ways}, news, tell):
            found[descriptor].append(parts)
            ended = any(not part["library"] for part in parts)
            if ended:  # and would end the next process, too
                left = [other for other in left if other != descriptor]
            for row in pooled(found[descriptor]):
                yield row, ended or number == plan.processes


def chosen_ways(parts: Sequence[dict]) -> dict[str, int]:
    """label -> number of the way that a process measured, for the next one to take the same."""
    return {part["label"]: part["measured"]["way"] for part in parts if part["status"] == "ok"}


def one_pass(order: dict, news: str, tell: Tell) -> Iterator[tuple[str, list[dict]]]:
    """The parts of each workload of `order`, by as many worker processes as it takes."""
    left = list(order["workloads"])
    while left:
        begun, parts = None, []
        with Process(order | {"workloads": list(left)}) as process:
            for answer in process.answers():
                if "begin" not in answer:
                    parts.append(answer)
                    continue
                if begun:
                    yield begun, parts
                begun, parts = answer["begin"], []
                left.remove(begun)
                done = len(order["workloads"]) - len(left)
                tell(f"{news} {done} of {len(order['workloads'])}: {begun}")
            trouble = process.trouble()
        if begun is None and trouble:
            raise RuntimeError(f"a worker process did not start: {trouble}")
        if trouble:
            parts.append(
                {
                    "workload": begun,
                    "kind": "kernel",
                    "device": order["device"],
                    "threads": order["threads"],
                    "library": "",
                    "label": "some contender",
                    "version": "",
                    "setting": "",
                    "isa": None,
                    "status": "failed",
                    "reason": f"the process ended: {trouble}",
                }
            )
        if begun:
            yield begun, parts
        if trouble is None:
            return


class Process:
    """A `worker` with its order; closed, it is gone."""

    def __init__(self, order: dict):
        count = order["threads"]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by __exit__)
        with bound_to(count if order["device"] == "cpu" else usable_cores()):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tilegrad.bench.worker"],
                env=os.environ | KEEP | ASLEEP | {name: str(count) for name in POOLS},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        json.dump(order, self._process.stdin)
        self._process.stdin.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def answers(self) -> Iterator[dict]:
        """What it says, until it ends; it is ended if it says nothing for SILENT seconds."""
        while True:
            watchdog = threading.Timer(SILENT, self._process.kill)
            watchdog.start()
            line = self._process.stdout.readline()
            watchdog.cancel()
            if not line:
                return
            yield json.loads(line)

    def trouble(self) -> str | None:
        """None if it ended well, else its last words."""
        code = self._process.wait()
        if code == 0:
            return None
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"exit status {code}: {lines[-1] if lines else 'nothing was said'}"


@contextlib.contextmanager
def bound_to(count: int) -> Iterator[None]:
    """Within the block, this thread and the processes that it starts may use `count` cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# --- shown ----------------------------------------------------------------------------------------


class Show:
    """Rows on the terminal, a block for each workload, and a summary at the end.

    Within a ``with`` block the last line says what happens, where there is a terminal. It is
    written only when there is news: somebody is measuring.
    """

    def __init__(self, console: Console):
        self._console, self._last = console, None
        self._line = Live(console=console, auto_refresh=False, transient=True)
        self._ratios: dict[str, list[float]] = {}
        self._began = time.monotonic()
        self.unproved = 0

    def __enter__(self) -> Show:
        self._line.start()
        return self

    def __exit__(self, *error) -> None:
        self._line.stop()

    def progress(self, text: str) -> None:
        line = Text(text, style="dim", no_wrap=True, overflow="ellipsis")
        self._line.update(line, refresh=True)

    def header(self, header: dict) -> None:
        machine = header["machine"]
        self._console.print(
            f"[bold]{machine['cpu']}[/], {machine['cores']} cores, tilegrad on {machine['isa']}"
        )
        for label, reason in header["absent"].items():
            self._console.print(f"[dim]{label}: {reason}[/]")

    def row(self, row: dict) -> None:
        key = row["workload"], row["threads"]
        if key != self._last:
            threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
            self._console.print(f"\n[bold]{row['workload']}[/]  [dim]{threads}[/]", highlight=False)
            self._last = key
        ours, name = row["library"] == "tilegrad", row.get("name") or row["label"]
        wrong = row["status"] in ("refused", "failed")
        self.unproved += wrong and row["library"] in ("tilegrad", "")
        if row["status"] == "ok" and not ours and row["ratio"]:
            self._ratios.setdefault(name, []).append(row["ratio"])
        width = 36 if row["kind"] == "train" else 18
        line = f"  {name:<{width}}{self._text(row)}"
        self._console.print(
            line,
            style="cyan" if ours else None,
            highlight=False,
            no_wrap=True,
            overflow="ellipsis",
        )

    def _text(self, row: dict) -> str:
        if row["status"] != "ok":
            return f"{row['status']}: {escape(row['reason'])}"
        warm, ratio = row["warm"], row["ratio"]
        work, unit = (row["flops"], "GFLOP/s") if row["flops"] else (row.get("bytes", 0), "GB/s")
        parts = [
            f"{duration(warm['median']):>9}",
            f"{ratio:5.2f}x" if ratio and row["library"] != "tilegrad" else " " * 6,
            f"cold {duration(row['cold']['median']):>9}" if row["cold"] else "",
            f"{work / warm['median'] / 1e9:5.0f} {unit:<7}",
            f"{row['roof']['share']:4.0%} of {row['roof']['bound']:<6}" if "roof" in row else "",
            f"[dim]±{warm['noise']:.1%}  {escape(row['setting'])}[/]",
        ]
        return "  ".join(filter(None, parts))

    def summary(self) -> None:
        self._console.print()
        for label, ratios in self._ratios.items():
            middle = statistics.geometric_mean(ratios)
            self._console.print(
                f"{label}: {middle:.2f} times tilegrad's time (geometric mean of {len(ratios)}), "
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                highlight=False,
            )
        self._console.print(f"[dim]{time.monotonic() - self._began:.0f} s[/]")


__all__ = ["Plan", "run", "usable_cores"]
