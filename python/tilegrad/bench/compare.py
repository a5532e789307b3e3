"""Two results files of one machine, row by row: what has become slower?

    tilegrad bench compare before.json after.json --fail 10% --fail 'conv2d*=5%'

A machine is never as fast as it was yesterday. So a time counts as what the machine could have done
meanwhile: it is multiplied by the rate, FLOP/s or bytes/s as the row is bound by, that the roofs'
micro-kernels reached around the row's turns. What is left is noise. A row is a regression if

1. its slowdown, the geometric mean of the factors by which the median and the minimum have grown,
   exceeds 1 + threshold + noise. The noise is what both runs state for their medians, added as
   squares, or half of the scatter that the slowdowns of all rows have, whichever is larger: runs
   differ by more than the turns within a run show;
2. the median and the minimum have both grown by more than three quarters of the threshold: neither
   interrupted turns nor a lucky one make a regression;
3. it has grown by more than half of the threshold beside the peers of the same version and setting
   that ran in turns with it: what slows them as well is the machine.

The mean of two figures has less noise than either, and a true slowdown moves both. Where medians
and minima scatter by 2 to 4% from run to run and one median in 100 is off by 50%, 30 unchanged rows
pass 97 times in 100, and a row that is 20% slower is found 95 times in 100, one that is 15% slower
75 times (tests/test_bench_compare.py); where they scatter by 1%, always.
"""

from __future__ import annotations

import argparse
import fnmatch
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
        relative: the factor beside that of unchanged peers; None where there are none.
        noise: that both runs state.
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
            and (self.relative is None or self.relative > 1 + 0.5 * self.threshold)
        )

    @property
    def improved(self) -> bool:
        """The same the other way round."""
        return (
            1 / self.slowdown > self.allowed
            and 1 / max(self.median, self.minimum) > 1 + 0.75 * self.threshold
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
    before, after = _by_key(a), _by_key(b)
    if not any(row["library"] == OURS for k, row in after.items() if k in before):
        raise CannotCompareError("expected rows of tilegrad that both files have, got none")
    result = Comparison(peers_too=peers_too)
    ended = {(r["workload"], r["threads"]): r for r in b["rows"] if not r["library"]}
    for k, old in before.items():
        if k not in after:
            _sort_missing(old, ended.get((old["workload"], old["threads"])), result)
    for k, row in after.items():
        old = before.get(k)
        if old is None:
            result.new.append(row)
        elif old["status"] == row["status"] == "ok":
            counts = peers_too or row["library"] == OURS
            result.changes.append(_change(old, row, threshold(row["workload"]), counts))
        elif old["status"] == "ok":
            result.broken.append((row, _reason(row)))
    _see_peers(result.changes, before, after)
    _see_scatter(result.changes)
    return result


def _sort_missing(old: dict, ended: dict | None, result: Comparison) -> None:
    """A row that the second file lacks; `ended`: because a process ended at its workload."""
    if ended and old["status"] == "ok":
        result.broken.append((old | {"status": ended["status"]}, _reason(ended)))
    else:
        result.missing.append(old)


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


def _change(old: dict, new: dict, threshold: float, counts: bool) -> Change:
    speed = _speed_factor(old, new)
    grown = {k: new["warm"][k] / old["warm"][k] * speed for k in ("median", "min")}
    return Change(
        new["workload"],
        new["threads"],
        new["label"],
        old["warm"]["median"],
        new["warm"]["median"],
        grown["median"],
        grown["min"],
        math.hypot(*(row["warm"].get("noise") or 0.0 for row in (old, new))),
        threshold,
        counts,
    )


def _speed_factor(old: dict, new: dict) -> float:
    """How much faster the machine was in the new run, by the roof that binds the row; else 1."""
    bound = (old.get("roof") or {}).get("bound", "flops")
    rate = "flops" if bound == "flops" else "bytes"
    rates = [(row.get("calibration") or {}).get(rate) for row in (old, new)]
    return rates[1] / rates[0] if all(rates) else 1.0


def _see_peers(changes: list[Change], before: dict, after: dict) -> None:
    """Set `relative` of tilegrad's changes from the peers that did not change."""
    peers: dict[tuple, list[float]] = {}
    for k, row in after.items():
        old = before.get(k)
        if old and row["library"] != OURS and old["status"] == row["status"] == "ok":
            same = all(old.get(f) == row.get(f) for f in ("version", "setting"))
            if same:
                place = row["workload"], row["threads"]
                peers.setdefault(place, []).append(_change(old, row, 0.0, False).slowdown)
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
