"""The GPU simulator's tools: `trace` checks every access of the kernels and counts transactions.

Device "sim" runs the CUDA kernels on the CPU. Within `trace` a second build of the same kernels
takes its place, in which each access to memory is looked at: races, accesses out of bounds, reads
of shared memory that nobody wrote. It also counts what a GPU's memory system would have to do, per
source line. The counters are a model, not a measurement; docs/simulator.md says what it leaves out.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from . import backend

_WARP = 32
_MODEL = "a model, not a measurement"
_seed = 0
_tracing = False


def set_schedule(seed: int) -> None:
    """Choose the order in which the simulator runs threads and blocks.

    Args:
        seed: 0, in order; otherwise a random order, the same one each time. Results of a correct
            kernel do not depend on it.

    >>> import tilegrad
    >>> tilegrad.sim.set_schedule(7)
    >>> tilegrad.sim.set_schedule(0)
    """
    global _seed
    if not 0 <= seed < 2**64:
        raise ValueError(f"set_schedule: expected a seed of 0 to 2**64 - 1, got {seed}")
    _seed = seed
    for name in ("sim", "simtrace"):
        if backend.supported()[name] is None:
            backend.load(name).module.set_schedule(seed)


@contextlib.contextmanager
def trace(raise_errors: bool = True):
    """Within the block, device "sim" checks and counts every access; gives a `Trace`.

    Tensors made before work too; their device stays "sim". Slower by a factor of ten or more.

    Args:
        raise_errors: True, a kernel with an error raises RuntimeError; False, errors are only
            collected. A kernel that leaves its memory ends at that point in any case.

    Raises:
        RuntimeError: the traced simulator cannot run here (the message says why), or a trace is
            under way already.

    >>> import tilegrad
    >>> x = tilegrad.Tensor([[1.0, -1.0, 2.0]], device="sim")
    >>> with tilegrad.sim.trace() as t:
    ...     y = tilegrad.ops.relu(x)
    >>> [(row["kind"], row["requests"]) for row in t.rows]
    [('global load', 1), ('global store', 1)]
    >>> t.errors
    []
    """
    global _tracing
    if _tracing:
        raise RuntimeError("sim.trace: a trace is under way already")
    result = Trace()
    with backend.serve("simtrace") as traced:
        _tracing = True
        traced.module.set_schedule(_seed)
        traced.module.trace_start(raise_errors)
        try:
            yield result
        finally:
            _tracing = False
            result._fill(json.loads(traced.module.trace_stop()))


class Trace:
    """What `trace` found. Empty until its block has ended.

    Attributes:
        rows: a dict per source line, kind of access and kernel, the most costly first; the keys
            are those of the report (docs/simulator.md) and

            - "cost": passes of 128 bytes, that is sectors / 4, or wavefronts
            - "ideal_cost": the same at best
            - "efficiency": lanes that took part, of 32
        errors: a dict per error and pair of lines: "kind", "kernel", "message", "accesses".
        kernels: a dict per kernel, the most costly first.
    """

    def __init__(self):
        self.rows: list[dict] = []
        self.errors: list[dict] = []
        self.kernels: list[dict] = []

    def _fill(self, report: dict) -> None:
        for row in report["rows"]:
            row["cost"] = row["sectors"] / 4 + row["wavefronts"]
            row["ideal_cost"] = row["ideal_sectors"] / 4 + row["ideal_wavefronts"]
            row["efficiency"] = row["lanes"] / (_WARP * row["requests"])
        for kernel in report["kernels"]:
            rows = [row for row in report["rows"] if row["kernel"] == kernel["name"]]
            for key in (
                "requests", "lanes", "sectors", "ideal_sectors", "wavefronts", "ideal_wavefronts",
                "cost", "ideal_cost",
            ):  # fmt: skip
                kernel[key] = sum(row[key] for row in rows)
            kernel["efficiency"] = kernel["lanes"] / max(_WARP * kernel["requests"], 1)
        self.rows = sorted(report["rows"], key=lambda row: -row["cost"])
        self.kernels = sorted(report["kernels"], key=lambda kernel: -kernel["cost"])
        self.errors = report["errors"]

    def table(self, limit: int | None = 40):
        """The rows as a rich table, the most costly first.

        Args:
            limit: how many rows, None for all.
        """
        from rich import box
        from rich.table import Table
        from rich.text import Text

        total = sum(row["cost"] for row in self.rows) or 1.0
        shown = self.rows[:limit]
        left = len(self.rows) - len(shown)
        table = Table(
            title=f"memory traffic of the simulated kernels ({_MODEL})",
            caption="each: 32-byte sectors of global memory, passes over the banks of shared memory"
            + f"; and {left} more rows" * (left > 0),
            box=box.SIMPLE_HEAD,
            padding=0,  # 80 columns are enough for most
        )
        table.add_column("kernel", no_wrap=True)
        table.add_column("line")
        table.add_column("access", no_wrap=True)
        for column in ("requests", "each", "best", "lanes", "cost"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in shown:
            took, best, _ = _per_request(row)
            table.add_row(
                _short(row["kernel"]).partition("<")[0],
                _place(row),
                f"{row['kind']} {row['bytes_each']}B",
                f"{row['requests']:,}",
                Text(f"{took:,.4g}", style=_STYLES[_badness(row)]),
                f"{best:,.4g}",
                f"{row['efficiency']:.0%}",
                f"{row['cost'] / total:.0%}",
            )
        return table

    def to_json(self, path: str | os.PathLike) -> None:
        """Write rows, errors and kernels as JSON."""
        report = {
            "note": _MODEL,
            "kernels": self.kernels,
            "rows": self.rows,
            "errors": self.errors,
        }
        Path(path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    def to_html(self, path: str | os.PathLike) -> None:
        """Write the kernels' source, each line with its counters, as one page of its own."""
        from ._sim_page import page  # found at first use: the page is long

        Path(path).write_text(page(self), encoding="utf-8")


# -- words -----------------------------------------------------------------------------------------

_STYLES = {"good": "green", "fair": "yellow", "bad": "red"}


def _per_request(row) -> tuple[float, float, str]:
    """What a request takes, what it would take at best, and of what."""
    kind = "wavefronts" if row["kind"].startswith("shared") else "sectors"
    return row[kind] / row["requests"], row[f"ideal_{kind}"] / row["requests"], kind


def _badness(row) -> str:
    ratio = row["cost"] / max(row["ideal_cost"], 1e-9)
    return "good" if ratio < 1.3 else "fair" if ratio < 2.5 else "bad"


def _short(name: str) -> str:
    return name.replace("tilegrad::cuda::", "").replace("tilegrad::", "").replace("> >", ">>")


def _place(line) -> str:
    """ "gemm.h:19 in gemm.h:276": a line, and the one its function is inlined in."""
    if not line["file"]:
        return _short(line["function"])
    text = f"{Path(line['file']).name}:{line['line']}"
    callers = line.get("callers")
    return f"{text} in {Path(callers[0]['file']).name}:{callers[0]['line']}" if callers else text
