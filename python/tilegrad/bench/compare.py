"""Two results files of one machine, row by row: what has become slower?

    tilegrad bench compare before.json after.json --fail 10% --fail 'conv2d*=5%'

A machine is never as fast as it was yesterday. So a time counts as what the machine could have done
meanwhile: it is multiplied by the rate that the roofs' micro-kernels reached around the row's
turns, bytes/s as far as the row's time is its floor by bytes, FLOP/s for the rest. Nor is a row as
fast in one process as in the next: some take a quarter longer in all turns of one. So a row's
median is the least of its processes, each multiplied by the rate that was reached in it, and so is
its minimum. A row that names no processes counts as measured by one. What is left is noise. A row
is a regression if

1. its slowdown, the geometric mean of the factors by which the median and the minimum have grown,
   exceeds 1 + threshold + noise. The noise is what the two processes state whose medians count,
   added as squares, or half of the scatter that the slowdowns of all rows have, whichever is
   larger: runs differ by more than the turns within a run show;
2. the median and the minimum have both grown by more than three quarters of the threshold: neither
   interrupted turns nor a lucky one make a regression;
3. as much lies between the minimum of the slowest process before and that of the fastest one now,
   by the machine's speed in the whole of both runs: slow is only what is slow in every process, and
   was in none, and a wrong look at the machine accuses nobody;
4. it has grown by more than half of the threshold beside the peers of the same version and setting
   that ran in turns with it: what slows them as well is the machine.

The mean of two figures has less noise than either, and a true slowdown moves both. Where medians
and minima scatter by 2 to 4% from process to process, one median in 100 is off by 50% and one row
in 30 takes 25% longer or 15% less in all turns of a process, 30 unchanged rows of two processes
pass 96 times in 100; a row that is 25% slower is found 91 times in 100, one that is 20% slower 81
times, one that is 15% slower 54 times (tests/test_bench_compare.py); where they scatter by 1%,
always. Rows of one process would pass 40 times in 100, of three 99 times.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import record
from .report import duration

THRESHOLD = "10%"
OURS = "tilegrad"
FEW = 8  # rows say nothing of their scatter
CLEAN, REGRESSION, CANNOT = 0, 1, 2  # exit codes


class CannotCompareError(ValueError):
    """The two files do not speak of the same."""


@dataclass
class Change:
    """A row that was measured in both files; factors above 1 are slower than before.

    Attributes:
        before, after: seconds, medians as measured.
        median, minimum: factors of the normalised figures.
        least, most: factors of the minimum, from the slowest process before to the fastest now, and
            from the fastest to the slowest; by the speed that the machine had in the whole run.
        relative: the factor beside that of unchanged peers; None where there are none.
        noise: that both runs state, see `Figures`.
        scatter: of the slowdowns of all rows.
        threshold: that holds for this row.
        counts: whether it can make the comparison fail.
    """

    workload: str
    threads: int
    label: str
    before: float
    after: float
    median: float
    minimum: float
    least: float
    most: float
    noise: float
    threshold: float
    counts: bool
    relative: float | None = None
    scatter: float = 0.0

    def __str__(self):
        return f"{self.workload}, {_on(self.threads)}, {self.label}"

    @property
    def slowdown(self) -> float:
        """The geometric mean of the median's factor and the minimum's."""
        return math.sqrt(self.median * self.minimum)

    @property
    def allowed(self) -> float:
        """The largest slowdown that is no regression yet."""
        return 1 + self.threshold + max(self.noise, self.scatter / 2)

    @property
    def regressed(self) -> bool:
        return (
            self.slowdown > self.allowed
            and min(self.median, self.minimum) > 1 + 0.75 * self.threshold
            and self.least > 1 + 0.75 * self.threshold
            and (self.relative is None or self.relative > 1 + 0.5 * self.threshold)
        )

    @property
    def improved(self) -> bool:
        """The same the other way round."""
        return (
            1 / self.slowdown > self.allowed
            and 1 / max(self.median, self.minimum) > 1 + 0.75 * self.threshold
            and 1 / self.most > 1 + 0.75 * self.threshold
            and (self.relative is None or 1 / self.relative > 1 + 0.5 * self.threshold)
        )


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        changes: rows measured in both files, in the order of the second.
        broken: (row, why) of rows that were ok in the first file and are not in the second.
        missing, new: rows that only the first, only the second file has.
    """

    changes: list[Change] = field(default_factory=list)
    broken: list[tuple[dict, str]] = field(default_factory=list)
    missing: list[dict] = field(default_factory=list)
    new: list[dict] = field(default_factory=list)
    peers_too: bool = False

    @property
    def regressions(self) -> list[Change]:
        return [c for c in self.changes if c.counts and c.regressed]

    @property
    def failed(self) -> bool:
        """Whether a row that counts has become slower, or is no longer measured as right."""
        broken = any(self.peers_too or row["library"] == OURS for row, _ in self.broken)
        return broken or bool(self.regressions)

    def moved(self, every: bool = False) -> list[Change]:
        """Rows that are slower or faster, or `every` row; the slowest first."""
        chosen = [c for c in self.changes if every or c.regressed or c.improved]
        return sorted(chosen, key=lambda c: -c.slowdown)

    def table(self, every: bool = False):
        """A rich table of the rows that moved, or of `every` row."""
        from rich import box
        from rich.table import Table

        title = "Ratio: now / before, at equal speed of the machine"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        table.add_column("row", overflow="fold")
        for name in ("before", "now", "ratio", "allowed", "verdict"):
            table.add_column(name, justify="right", no_wrap=True)
        for change in self.moved(every):
            table.add_row(*_cells(change), style=_style(change))
        return table

    def lines(self) -> list[str]:
        """Why the regressions are some, what the table does not say, and the verdict at last."""
        said = [_why(change) for change in self.regressions]
        said += [f"{_name(row)}: was ok, is {row['status']}: {why}" for row, why in self.broken]
        said += [f"{_name(row)}: only in the first file" for row in self.missing]
        said += [f"{_name(row)}: only in the second file" for row in self.new]
        ours = [c for c in self.changes if c.counts]
        middle = statistics.median(c.slowdown for c in ours) if ours else math.nan
        found = len(self.regressions)
        verdict = f"{found} of {len(ours)} rows are slower than allowed"
        if self.broken:
            verdict += f", {len(self.broken)} are no longer measured"
        said.append(f"{verdict}; the median row takes {middle:.3f} of the time")
        return said


def _cells(c: Change) -> list[str]:
    verdict = "slower" if c.regressed else "faster" if c.improved else "same"
    return [
        str(c),
        duration(c.before),
        duration(c.after),
        f"{c.slowdown:.2f}",
        f"{c.allowed:.2f}",
        verdict if c.counts else f"({verdict})",
    ]


def _why(c: Change) -> str:
    peers = "" if c.relative is None else f", beside its peers {c.relative:.2f}"
    return f"{c}: slower: median {c.median:.2f}, minimum {c.minimum:.2f}{peers}"


def _style(c: Change) -> str | None:
    if not c.counts:
        return "dim"
    return "bold red" if c.regressed else "green" if c.improved else None


def _name(row: dict) -> str:
    return f"{row['workload']}, {_on(row['threads'])}, {row['label']}"


def _on(threads: int) -> str:
    return f"{threads} thread{'' if threads == 1 else 's'}"


def compare(
    a: dict,
    b: dict,
    fail: str | Sequence[str] = THRESHOLD,
    *,
    peers_too: bool = False,
    other_machine: bool = False,
) -> Comparison:
    """What changed from the results `a` to the results `b` (`record.read`).

    Args:
        fail: "10%" for all rows, "conv2d*=5%" for some workloads; the last that fits counts.
        peers_too: regressions of other libraries fail as well.
        other_machine: compare results of two machines; normalisation is then all there is.

    Raises:
        CannotCompareError: the machines differ, or no row of tilegrad is in both files.
        ValueError: `fail` is not made of shares like "10%".
    """
    threshold = thresholds([fail] if isinstance(fail, str) else fail)
    machines = record.fingerprint(a), record.fingerprint(b)
    if machines[0] != machines[1] and not other_machine:
        raise CannotCompareError(
            f"expected two results of one machine, got {machines[0]} and {machines[1]}; "
            "--other-machine compares them nevertheless"
        )
    gone = {_place(row) for row in a["rows"] if not row["library"]}  # already there
    ended = {
        _place(row): row for row in b["rows"] if not row["library"] and _place(row) not in gone
    }
    before, after = _by_key(a), _by_key(b)
    after = {k: row for k, row in after.items() if _place(row) not in ended}
    if not any(row["library"] == OURS for k, row in after.items() if k in before):
        raise CannotCompareError("expected rows of tilegrad that both files have, got none")
    result = Comparison(peers_too=peers_too)
    speeds = _speeds(before, after)
    for k, old in before.items():
        end = ended.get(_place(old))
        if end and old["status"] == "ok":
            result.broken.append((old | {"status": end["status"]}, _reason(end)))
        elif k not in after:
            result.missing.append(old)
    for k, row in after.items():
        old = before.get(k)
        if old is None:
            result.new.append(row)
        elif old["status"] == row["status"] == "ok":
            counts = peers_too or row["library"] == OURS
            change = _change(old, row, threshold(row["workload"]), counts, speeds)
            result.changes.append(change)
        elif old["status"] == "ok":
            result.broken.append((row, _reason(row)))
    _see_peers(result.changes, before, after)
    _see_scatter(result.changes)
    return result


def _place(row: dict) -> tuple:
    """What contenders take turns at; a row without a library says that a process ended there."""
    return row["workload"], row["threads"]


def thresholds(texts: Sequence[str]):
    """A function from a workload's name to its threshold, a share.

    >>> threshold = thresholds(["10%", "conv2d*=5%"])
    >>> threshold("conv2d:n1h8w8c4f4k3s1same"), threshold("relu:n7")
    (0.05, 0.1)
    """
    rules = [("*", _share(THRESHOLD, THRESHOLD))]
    for text in texts:
        pattern, equals, share = text.rpartition("=")
        rules.append((pattern if equals else "*", _share(share, text)))
    return lambda name: next(s for p, s in reversed(rules) if fnmatch.fnmatchcase(name, p))


def _share(text: str, whole: str) -> float:
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / 100 if text.strip().endswith("%") else math.nan
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise ValueError(f"fail: expected a share like 10% or 'conv2d*=5%', got {whole!r}")
    return share


def _by_key(results: dict) -> dict[tuple, dict]:
    """Rows with times by what they are about; of equal ones the fastest that is ok."""
    found: dict[tuple, dict] = {}
    for row in results["rows"]:
        if row["kind"] in ("kernel", "train") and row["library"]:
            k = record.key(row)
            if k not in found or _rank(row) < _rank(found[k]):
                found[k] = row
    return found


def _reason(row: dict) -> str:
    return row.get("reason") or "no reason given"


def _rank(row: dict) -> float:
    return row["warm"]["median"] if row["status"] == "ok" else math.inf


def _change(old: dict, new: dict, threshold: float, counts: bool, speeds: dict) -> Change:
    before, after = _figures(old, new)
    speed = _rate(speeds.get(new["threads"]), _shares(old)) or 1.0
    minima = [[process["warm"]["min"] for process in _processes(row)] for row in (old, new)]
    return Change(
        new["workload"],
        new["threads"],
        new["label"],
        old["warm"]["median"],
        new["warm"]["median"],
        after.median / before.median,
        after.minimum / before.minimum,
        min(minima[1]) / max(minima[0]) * speed,
        max(minima[1]) / min(minima[0]) * speed,
        math.hypot(before.noise, after.noise),
        threshold,
        counts,
    )


@dataclass(frozen=True)
class Figures:
    """What a row could do in the best of its processes, as work of the machine's.

    Attributes:
        noise: of the process whose median is the least.
    """

    median: float
    minimum: float
    noise: float


def _figures(old: dict, new: dict) -> list[Figures]:
    """Those of both rows, by the rates that both know; else in seconds."""
    shares = _shares(old)
    both = [_processes(row) for row in (old, new)]
    rates = [[_rate(p.get("calibration"), shares) for p in processes] for processes in both]
    if not all(map(all, rates)):
        rates = [[1.0] * len(processes) for processes in both]
    return [_best([p["warm"] for p in ps], by) for ps, by in zip(both, rates, strict=True)]


def _processes(row: dict) -> Sequence[dict]:
    return row.get("processes") or [row]


def _shares(row: dict) -> dict[str, float]:
    """Of a row's time, what goes with each rate: the floor that bytes are, and the rest."""
    roof = row.get("roof") or {"bound": "flops"}
    share = 0.0 if roof["bound"] == "flops" else min(1.0, roof["share"])
    return {"flops": 1 - share, "bytes": share}


def _rate(rates: dict | None, shares: dict[str, float]) -> float | None:
    """What counts of a machine's `rates`, None if it is not known."""
    if not rates or not all(rates.get(name) for name in shares):
        return None
    return math.prod(rates[name] ** share for name, share in shares.items())


def _best(warm: Sequence[dict], rates: Sequence[float]) -> Figures:
    median, noise = min(
        (w["median"] * rate, w.get("noise") or 0.0) for w, rate in zip(warm, rates, strict=True)
    )
    minimum = min(w["min"] * rate for w, rate in zip(warm, rates, strict=True))
    return Figures(median, minimum, noise)


def _speeds(before: dict, after: dict) -> dict[int, dict[str, float]]:
    """Threads -> how much faster the machine was in the second run as a whole, by each rate.

    By the medians of what both saw around the same rows: a look at one row's time has an error of
    its own.
    """
    seen: dict[int, dict[str, tuple[list, list]]] = {}
    for k in before.keys() & after.keys():
        for i, row in enumerate((before[k], after[k])):
            rates = seen.setdefault(row["threads"], {"flops": ([], []), "bytes": ([], [])})
            for process, name in itertools.product(_processes(row), rates):
                if rate := (process.get("calibration") or {}).get(name):
                    rates[name][i].append(rate)
    return {
        threads: {
            name: statistics.median(later) / statistics.median(earlier)
            for name, (earlier, later) in rates.items()
            if earlier and later
        }
        for threads, rates in seen.items()
    }


def _see_peers(changes: list[Change], before: dict, after: dict) -> None:
    """Set `relative` of tilegrad's changes from the peers that did not change."""
    peers: dict[tuple, list[float]] = {}
    for k, row in after.items():
        old = before.get(k)
        if old and row["library"] != OURS and old["status"] == row["status"] == "ok":
            same = all(old.get(f) == row.get(f) for f in ("version", "setting"))
            if same:
                slowdown = _change(old, row, 0.0, False, {}).slowdown
                peers.setdefault(_place(row), []).append(slowdown)
    for change in changes:
        theirs = peers.get((change.workload, change.threads))
        if theirs and change.label.startswith(OURS):
            change.relative = change.slowdown / statistics.median(theirs)


def _see_scatter(changes: list[Change]) -> None:
    """Set `scatter`: the median distance from the median slowdown, as a standard deviation."""
    logs = [math.log(change.slowdown) for change in changes]
    if len(logs) < FEW:
        return
    middle = statistics.median(logs)
    scatter = 1.4826 * statistics.median(abs(log - middle) for log in logs)
    for change in changes:
        change.scatter = scatter


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tilegrad bench compare",
        description="What has become slower from one results file to another?",
        epilog="Exit codes: 0 nothing, 1 something is slower or no longer right, 2 no comparison.",
    )
    add = parser.add_argument
    add("before", help="results file")
    add("after", help="results file")
    default = THRESHOLD.replace("%", "%%")
    text = f"what counts as slower: 10%% for all, 'conv2d*=5%%' for some; default: {default}"
    add("--fail", action="append", metavar="SHARE", help=text)
    add("--peers-too", action="store_true", help="other libraries can make it fail as well")
    add("--other-machine", action="store_true", help="compare results of two machines")
    add("--every", action="store_true", help="show all rows, not only those that moved")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run ``tilegrad bench compare``: 0 clean, 1 slower or broken, 2 cannot be compared."""
    from rich.console import Console

    arguments = parser().parse_args(argv)
    try:
        result = compare(
            record.read(arguments.before),
            record.read(arguments.after),
            arguments.fail or THRESHOLD,
            peers_too=arguments.peers_too,
            other_machine=arguments.other_machine,
        )
    except (OSError, ValueError) as error:
        print(f"tilegrad bench compare: {error}", file=sys.stderr)
        return CANNOT
    if result.moved(arguments.every):
        Console().print(result.table(arguments.every))
    print("\n".join(result.lines()))
    return REGRESSION if result.failed else CLEAN
