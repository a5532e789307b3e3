"""Tables from results files, written between markers into README.md and docs/benchmarks.md.

    tilegrad bench report                    # write the tables
    tilegrad bench report --check            # fail if a document is not what the results say
    tilegrad bench report --html page.html   # all results on one page

A table NAME stands between `<!-- benchmarks: NAME -->` and `<!-- /benchmarks -->`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import record

DOCUMENTS = ("README.md", "docs/benchmarks.md")
RESULTS = "benchmarks/results"
OURS = "tilegrad"
ABSENT = {"absent": "not installed", "refused": "refused", "failed": "failed"}
NOT_MEASURED = "(not measured yet)"
LEAST_SIZES = 3  # make a sweep
FIGURES = {
    "faults": ("minor page faults per training step, batch 32", "{:.2f}"),
    "peak": ("peak memory of the MNIST run, MB", "{:.0f}"),
    "import": ("import, seconds", "{:.2f}"),
    "dispatch": ("Python's share of one op (relu, with gradient), microseconds", "{:.1f}"),
    "op": ("the same op in all, microseconds", "{:.1f}"),
}


# --- what the rows say ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A workload on a number of threads: tilegrad's row, and its peers' from fast to slow."""

    ours: dict
    peers: tuple[dict, ...]

    @property
    def workload(self) -> str:
        return self.ours["workload"]

    @property
    def op(self) -> str:
        return self.workload.partition(":")[0]

    @property
    def threads(self) -> int:
        return self.ours["threads"]

    @property
    def isa(self) -> str:
        return self.ours.get("isa") or self.ours.get("device") or ""

    @property
    def best(self) -> bool:
        """Whether this is tilegrad on its best instruction set, which peers are compared with."""
        return self.ours.get("ratio") in (None, 1)

    @property
    def fastest(self) -> dict | None:
        return self.peers[0] if self.peers else None

    def ratio(self, peer: dict) -> float:
        """The peer's time over tilegrad's: taken in turns where the row has it so."""
        if self.best and peer.get("ratio"):
            return peer["ratio"]
        return peer["warm"]["median"] / self.ours["warm"]["median"]


def cases(rows: Iterable[dict], kind: str = "kernel") -> list[Case]:
    """A case per workload, threads and instruction set that tilegrad was measured on."""
    known: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["kind"] == kind and row["status"] == "ok":
            place = row["workload"], row.get("device"), row["threads"]
            known.setdefault(place, []).append(row)
    found = []
    for group in known.values():
        peers = [row for row in group if row["library"] != OURS]
        peers.sort(key=lambda row: row["warm"]["median"])
        found += [Case(row, tuple(peers)) for row in group if row["library"] == OURS]
    return found


@dataclass(frozen=True)
class Sweep:
    """Cases that differ in one size only: some letters, which have equal values, take several.

    Attributes:
        name: the descriptor with # for the size: ``dense:m#k64n64``.
        letters: "m", or "kn" where k and n grow together.
        points: (size, case), the smallest first.
    """

    name: str
    letters: str
    points: tuple[tuple[int, Case], ...]


def sweeps(given: Iterable[Case]) -> list[Sweep]:
    """All sweeps over at least three sizes, per number of threads and instruction set."""
    groups: dict[tuple, dict[int, Case]] = {}
    for case in given:
        tokens, word = sizes(case.workload)
        for letters in _equal_letters(tokens):
            rest = "".join(f"{k}{'#' if k in letters else v}" for k, v in tokens.items())
            place = f"{case.op}:{rest}{word}", letters, case.threads, case.isa
            groups.setdefault(place, {})[tokens[letters[0]]] = case
    return [
        Sweep(name, letters, tuple(sorted(points.items(), key=lambda point: point[0])))
        for (name, letters, _, _), points in groups.items()
        if len(points) >= LEAST_SIZES
    ]


def sizes(workload: str) -> tuple[dict[str, int], str]:
    """The sizes by letter, and the word at the end.

    >>> sizes("conv2d:n32c3same")
    ({'n': 32, 'c': 3}, 'same')
    """
    rest = workload.partition(":")[2]
    tokens = re.findall(r"([a-z])(\d+)", rest)
    word = rest[sum(len(letter) + len(number) for letter, number in tokens) :]
    return {letter: int(number) for letter, number in tokens}, word


def _equal_letters(tokens: dict[str, int]) -> list[str]:
    """Every set of one to three letters that have one value."""
    return [
        "".join(letters)
        for count in (1, 2, 3)
        for letters in itertools.combinations(tokens, count)
        if len({tokens[letter] for letter in letters}) == 1
    ]


def by_op(given: Iterable[Case]) -> dict[str, list[Case]]:
    """Cases by op, in the order of the rows."""
    groups: dict[str, list[Case]] = {}
    for case in given:
        groups.setdefault(case.op, []).append(case)
    return groups


# --- text -----------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, the first `left` columns left, the others right."""
    line = [":--"] * left + ["--:"] * (len(head) - left)
    cells = ([cell.replace("|", "\\|") for cell in row] for row in (head, line, *rows))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def duration(seconds: float) -> str:
    """Three digits, with the unit that suits.

    >>> duration(9.44e-7), duration(0.0123), duration(61.24)
    ('0.94 µs', '12.3 ms', '61.2 s')
    """
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        if seconds * scale < 1000:
            return f"{_three_digits(seconds * scale)} {unit}"
    return f"{_three_digits(seconds)} s"


def _three_digits(value: float) -> str:
    return f"{value:.{max(0, 3 - len(str(int(value))))}f}"


def speed(row: dict) -> str:
    """GFLOP/s, or GB/s of what does not compute."""
    return f"{rate(row):.3g} {unit(row)}" if rate(row) < 100 else f"{rate(row):.0f} {unit(row)}"


def rate(row: dict) -> float:
    """The number that goes with `unit`."""
    return (row["flops"] or row["bytes"]) / row["warm"]["median"] / 1e9


def unit(row: dict) -> str:
    return "GFLOP/s" if row["flops"] else "GB/s"


def roof_share(row: dict) -> str:
    """How near the row comes to its roof, which one, and whether it is above, which is suspect."""
    roof = row.get("roof")
    if not roof:
        return ""
    return f"{roof['share']:.0%} {roof['bound']}{', above' if roof.get('above') else ''}"


def contender(row: dict) -> str:
    """A training run's name; else the label, and the setting where there is one."""
    if row.get("name"):
        return row["name"]
    return f"{row['label']}: {row['setting']}" if row.get("setting") else row["label"]


def train_title(workload: str) -> str:
    """
    >>> train_title("train:cnn:b32")
    'cnn, batch 32'
    """
    _, network, batch = workload.split(":")
    return f"{network}, batch {batch.removeprefix('b')}"


# --- the tables -----------------------------------------------------------------------------------


def machine(results: dict) -> str:
    """What the results were measured on."""
    m = results["machine"]
    packages = ", ".join(f"{name} {version or 'absent'}" for name, version in m["packages"].items())
    return (
        f"{m['date']}, {commit(m)}: {m['cpu']}, {m['cores']} cores, {m['isa']}; "
        f"Python {m['python']}, {packages}."
    )


def commit(described: dict) -> str:
    """Version and commit of tilegrad, and whether files differed from it."""
    known = f", commit {described['commit'][:10]}" if described.get("commit") else ""
    return (
        f"tilegrad {described['tilegrad']}{known}{' and changes' if described.get('dirty') else ''}"
    )


def roofs(results: dict) -> str:
    """The machine's roofs."""
    lines = []
    levels = list(dict.fromkeys(level for r in roof_rows(results) for level in r["bytes"]))
    for r in roof_rows(results):
        rates = [
            f"{r['bytes'][level] / 1e9:.0f}" if level in r["bytes"] else "" for level in levels
        ]
        lines.append([r["isa"], str(r["threads"]), f"{r['flops'] / 1e9:.0f}", *rates])
    return table(["", "threads", "GFLOP/s", *(f"{level}, GB/s" for level in levels)], lines)


def roof_rows(results: dict) -> list[dict]:
    """{"isa", "threads", "flops": FLOP/s, "bytes": {level: bytes/s}, ...} of each that there is."""
    return (results.get("roofs") or {}).get("roofs", [])


def peers(results: dict) -> str:
    """How each library was set."""
    lines = [[*line, str(count)] for *line, count in contenders(results)]
    return table(["", "version", "fastest with", "rows"], lines, left=3)


def contenders(results: dict) -> list[tuple[str, str, str, int]]:
    """(label, version, settings that were the fastest or why there is none, rows with times)."""
    groups: dict[tuple, list[dict]] = {}
    for row in results["rows"]:
        if row["library"]:
            groups.setdefault((row["label"], row.get("version") or ""), []).append(row)
    lines = []
    for (label, version), rows in groups.items():
        measured = [row for row in rows if row["status"] == "ok"]
        settings = dict.fromkeys(row["setting"] for row in measured if row.get("setting"))
        text = "; ".join(settings) if measured else ABSENT[rows[0]["status"]]
        lines.append((label, version, text, len(measured)))
    lines += [(label, "", first_line(why), 0) for label, why in results.get("absent", {}).items()]
    return lines


def kernels(results: dict) -> str:
    """Every kernel of tilegrad beside its fastest peer."""
    given = cases(results["rows"])
    several = len({case.isa for case in given}) > 1
    lines = []
    for case in given:
        row, peer = case.ours, case.fastest
        other = ["no peer", ""]
        if peer:
            time = duration(peer["warm"]["median"])
            other = [f"{time} {contender(peer)}", f"{case.ratio(peer):.2f}"]
        lines.append(
            [
                f"`{case.workload}`{' ' + case.isa if several else ''}",
                str(case.threads),
                duration(row["warm"]["median"]),
                duration(row["cold"]["median"]) if row.get("cold") else "",
                speed(row),
                roof_share(row),
                *other,
            ]
        )
    head = ["workload", "threads", "warm", "cold", "speed", "of the roof"]
    return table([*head, "fastest peer", "peer / tilegrad"], lines)


def summary(results: dict) -> str:
    """A line per op: share of the roof, and worst, middle and best ratio to the fastest peer."""
    lines = []
    best = [case for case in cases(results["rows"]) if case.best]
    for op, group in by_op(best).items():
        ratios = [case.ratio(case.fastest) for case in group if case.fastest]
        shares = [case.ours["roof"]["share"] for case in group if case.ours.get("roof")]
        figures = (
            [f"{f(ratios):.2f}" for f in (min, statistics.median, max)] if ratios else [""] * 3
        )
        share = f"{statistics.median(shares):.0%}" if shares else ""
        lines.append([f"`{op}`", str(len(group)), share, *figures])
    head = ["op", "rows", "of the roof, median", "fastest peer / tilegrad, worst", "median", "best"]
    return table(head, lines)


def scaling(results: dict) -> str:
    """How speed grows with one size, and the ratio to the fastest peer in brackets."""
    given = cases(results["rows"])
    several = len({case.isa for case in given}) > 1
    lines = []
    for sweep in sweeps(given):
        points = []
        for size, case in sweep.points:
            ratio = f" ({case.ratio(case.fastest):.2f})" if case.fastest else ""
            points.append(f"{size}: {rate(case.ours):.3g}{ratio}")
        first = sweep.points[0][1]
        lines.append(
            [
                f"`{sweep.name}`",
                " = ".join(sweep.letters),
                unit(first.ours),
                f"{first.threads}{', ' + first.isa if several else ''}",
                ", ".join(points),
            ]
        )
    return table(["workload", "size #", "unit", "threads", "size: speed (ratio)"], lines, left=3)


def failures(results: dict) -> str:
    """Every row that was refused or failed, and why."""
    rows = [row for row in results["rows"] if row["status"] in ("refused", "failed")]
    if not rows:
        return "None."
    lines = [
        [f"`{row['workload']}`", row["label"], row["status"], first_line(row.get("reason"))]
        for row in rows
    ]
    return table(["workload", "", "status", "reason"], lines, left=4)


def first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def train(results: dict) -> str:
    """Seconds per epoch, and how many times tilegrad's."""
    return _by_network(
        results, lambda row: f"{row['warm']['median']:.2f} s ({row['ratio'] or 1:.2f})"
    )


def memory(results: dict) -> str:
    """Page faults per step and peak memory of the same runs."""
    return _by_network(
        results, lambda row: f"{row['faults_per_step']:.1f} / {row['peak_mb']:.0f} MB"
    )


def _by_network(results: dict, cell) -> str:
    """Contenders by training runs; `cell` formats a row that is there."""
    rows = [row for row in results["rows"] if row["kind"] == "train"]
    columns = list(dict.fromkeys((row["workload"], row["threads"]) for row in rows))
    several = len({threads for _, threads in columns}) > 1
    known = {(contender(row), (row["workload"], row["threads"])): row for row in rows}

    def text(row) -> str:
        if row is None:
            return ""
        return cell(row) if row["status"] == "ok" else ABSENT[row["status"]]

    heads = [
        train_title(workload) + (f", {threads} threads" if several else "")
        for workload, threads in columns
    ]
    lines = [
        [name, *(text(known.get((name, column))) for column in columns)]
        for name in dict.fromkeys(contender(row) for row in rows)
    ]
    return table(["", *heads], lines)


def tta(results: dict) -> str:
    """Seconds of training until the test accuracy first reached a target."""
    lines = []
    for row in tta_rows(results):
        line = [train_title(row["workload"]), f"{row['target']:.2%}", contender(row)]
        if row["status"] != "ok":
            lines.append([*line, ABSENT[row["status"]], "", "", "", ""])
            continue
        line.append(f"{row['reached']} of {row['seeds']}")
        if row["reached"]:
            line += [f"{row['mean']:.2f} s", f"{row['min']:.2f} to {row['max']:.2f} s"]
            line.append(f"{row['mean_images']:,.0f}")
            line.append("" if row["ratio"] is None else f"{row['ratio']:.2f}")
        lines.append(line + [""] * (8 - len(line)))
    head = ["network", "accuracy", "", "seeds that arrived", "mean", "all", "images"]
    return table([*head, "times tilegrad's"], lines, left=3)


def tta_rows(results: dict) -> list[dict]:
    return [row for row in results["rows"] if row["kind"] == "tta"]


def profile(results: dict) -> str:
    """Where the time of training runs went, and each section's share."""
    rows = profile_rows(results)
    sections = list(dict.fromkeys(name for row in rows for name in row["split"]))
    lines = []
    for name in sections:
        shares = [(row["split"].get(name, 0.0), row["wall"]) for row in rows]
        lines.append([name, *(f"{duration(s)} ({s / wall:.1%})" for s, wall in shares)])
    titles = [train_title(row["workload"]) for row in rows]
    return table(["", *titles], lines)


def layers(results: dict) -> str:
    """The same runs by layer and pass."""
    lines = [
        [
            train_title(row["workload"]),
            f"{layer['layer'] or 'no layer'} {layer['phase']}",
            f"{layer['calls']:,}",
            f"{layer['ms']:.1f}",
            f"{layer['share']:.1%}",
            "" if layer.get("roof") is None else f"{layer['roof']:.0%}",
        ]
        for row in profile_rows(results)
        for layer in row["layers"]
    ]
    head = ["network", "layer and pass", "kernels", "ms", "share", "of the roof"]
    return table(head, lines, left=2)


def profile_rows(results: dict) -> list[dict]:
    return [row for row in results["rows"] if row["kind"] == "profile" and row["status"] == "ok"]


def steady(results: dict) -> str:
    """What training costs besides arithmetic."""
    lines = []
    for row in results["rows"]:
        label, form = FIGURES[row["figure"]]
        scale = 1e6 if row["figure"] in ("dispatch", "op") else 1
        goal = "" if row["goal"] is None else f"{row['goal'] * scale:g}"
        values = (row["value"], row["peer"])
        texts = ["" if value is None else form.format(value * scale) for value in values]
        lines.append([label, *texts, goal])
    return table(["", "tilegrad", "PyTorch, best", "goal, below"], lines)


def overhead(results: dict) -> str:
    """Python's part of single ops and of the small CNN's step."""
    lines = []
    for row in results["rows"]:
        share = f"{row['share']:.1%}" if "share" in row else ""
        lines.append([row["figure"], f"{row['microseconds']:.1f}", share])
    return table(["", "microseconds", "of the step"], lines)


# name: (results file, how it is made of that file)
TABLES = {
    "machine": ("kernels", machine),
    "roofs": ("kernels", roofs),
    "peers": ("kernels", peers),
    "kernels": ("kernels", kernels),
    "summary": ("kernels", summary),
    "scaling": ("kernels", scaling),
    "failures": ("kernels", failures),
    "train": ("train", train),
    "memory": ("train", memory),
    "avx2": ("train-avx2", train),
    "base": ("train-base", train),
    "tta": ("tta", tta),
    "profile": ("profile", profile),
    "layers": ("profile", layers),
    "steady": ("steady", steady),
    "overhead": ("overhead", overhead),
}
PLAIN = ("steady", "overhead")  # files of figures, which other programs write


# --- the documents --------------------------------------------------------------------------------


def fill(text: str, name: str, body: str) -> str:
    """`text` with what stands between the markers of table `name` replaced by `body`.

    Raises:
        ValueError: there are no such markers, or several.
    """
    opening, closing = f"<!-- benchmarks: {name} -->", "<!-- /benchmarks -->"
    pattern = re.compile(rf"{re.escape(opening)}\n(?:(?!<!--).)*{re.escape(closing)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"expected one {opening} followed by {closing}")
    return pattern.sub(lambda _: f"{opening}\n{body}\n{closing}", text)


def render(text: str, folder: Path) -> str:
    """The document `text` with all its tables made anew from the results in `folder`.

    Raises:
        ValueError: a marker names no table or is not closed, or a results file is none.
    """
    for name in re.findall(r"<!-- benchmarks: (.*?) -->", text):
        if name not in TABLES:
            raise ValueError(f"expected a table of {', '.join(TABLES)}, got {name!r}")
        file, how = TABLES[name]
        path = Path(folder) / f"{file}.json"
        text = fill(text, name, how(load(path)) if path.exists() else NOT_MEASURED)
    return text


def load(path: Path) -> dict:
    """A results file; those of `PLAIN` are JSON of another form."""
    if path.stem in PLAIN:
        return json.loads(path.read_text(encoding="utf-8"))
    return record.read(path)


def update(root: Path, folder: Path, check: bool = False) -> list[str]:
    """Write the tables into the documents under `root`; the names of those that changed.

    Args:
        check: write nothing.

    Raises:
        ValueError: a document has wrong markers, or a results file is none.
    """
    changed = []
    for name in DOCUMENTS:
        path = root / name
        before = path.read_text(encoding="utf-8")
        try:
            after = render(before, folder)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if before != after:
            changed.append(name)
            if not check:
                path.write_text(after, encoding="utf-8")
    return changed


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tilegrad bench report",
        description="Write the tables in README.md and docs/benchmarks.md from the results.",
    )
    add = parser.add_argument
    add("--check", action="store_true", help="write nothing; fail if a table is out of date")
    add("--html", type=Path, metavar="FILE", help="write one page with everything instead")
    add("--root", type=Path, default=Path(), metavar="FOLDER", help="source tree; default: here")
    text = f"results files; default: {RESULTS} in the source tree; for a page, one file will do"
    add("--results", type=Path, metavar="FOLDER", help=text)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run ``tilegrad bench report``: 0 done, 1 a table is out of date, 2 something is wrong."""
    arguments = parser().parse_args(argv)
    folder = arguments.results or arguments.root / RESULTS
    try:
        if arguments.html:
            from . import page

            page.write(arguments.html, folder)
            return 0
        changed = update(arguments.root, folder, arguments.check)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"tilegrad bench report: {error}", file=sys.stderr)
        return 2
    if arguments.check and changed:
        print(
            f"tilegrad bench report: {', '.join(changed)}: tables differ from {folder}",
            file=sys.stderr,
        )
        return 1
    return 0
