"""Tables from `results/*.json`, written between markers into README.md and docs/benchmarks.md.

    python benchmarks/report.py            # write
    python benchmarks/report.py --check    # fail if a document is not what the results say

A table NAME stands between `<!-- benchmarks: NAME -->` and `<!-- /benchmarks -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCUMENTS = {
    HERE.parent / "README.md": ("train", "summary", "steady"),
    HERE.parent / "docs" / "benchmarks.md": (
        "machine",
        "train",
        "memory",
        "avx2",
        "base",
        "steady",
        "overhead",
        "kernels",
    ),
}
FIGURES = {
    "faults": ("minor page faults per training step, batch 32", "{:.2f}"),
    "peak": ("peak memory of the MNIST run, MB", "{:.0f}"),
    "import": ("import, seconds", "{:.2f}"),
    "dispatch": ("Python's share of one op (relu, with gradient), microseconds", "{:.1f}"),
    "op": ("the same op in all, microseconds", "{:.1f}"),
}
ABSENT = "not installed"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column left, the others right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_line(results: dict) -> str:
    """What the results were measured on."""
    m = results["machine"]
    packages = ", ".join(f"{name} {version or 'absent'}" for name, version in m["packages"].items())
    return (
        f"{m['date']}, mode {m['mode']}: {m['cpu']}, {m['cores']} cores, {m['isa']}; "
        f"Python {m['python']}, {packages}."
    )


def _cells(results: dict, cell) -> str:
    """Contenders by cases; `cell` formats a row that is there."""
    rows = results["rows"]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    known = {(row["contender"], row["case"]): row for row in rows}

    def text(row) -> str:
        if row is None:
            return ""
        return ABSENT if "absent" in row else cell(row)

    heads = [case.replace("-", " CNN, batch ") for case in cases]
    return table(
        ["", *heads],
        [[c, *(text(known.get((c, case))) for case in cases)] for c in contenders],
    )


def train(results: dict) -> str:
    """Seconds per epoch, and how many times tilegrad's."""
    return _cells(results, lambda r: f"{r['epoch_seconds']:.2f} s ({r['ratio']:.2f})")


def memory(results: dict) -> str:
    """Page faults per step and peak memory of the same runs."""
    return _cells(results, lambda r: f"{r['faults_per_step']:.1f} / {r['peak_mb']:.0f} MB")


def duration(seconds: float) -> str:
    """Three digits: microseconds below 1 ms, else milliseconds."""
    value, unit = (seconds * 1e6, "µs") if seconds < 1e-3 else (seconds * 1e3, "ms")
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"


def kernels(results: dict) -> str:
    """Every kernel row."""
    lines = []
    for r in results["rows"]:
        rate = r["flops"] or r["bytes"]
        unit = "GFLOP/s" if r["flops"] else "GB/s"
        peer = [ABSENT] * 3
        if r["peer"]:
            peer = [f"{duration(r['peer_seconds'])} ({r['peer']})"]
            peer += [f"{r[key]:.2f}" for key in ("ratio", "best_ratio")]
        lines.append(
            [
                f"`{r['kernel']}` {r['shape']}",
                str(r["threads"]),
                duration(r["seconds"]),
                f"{rate / r['seconds'] / 1e9:.0f} {unit}",
                f"{r['roof_share']:.0%} {r['bound']}",
                *peer,
            ]
        )
    head = ["kernel", "threads", "time", "speed", "of the roof", "PyTorch"]
    head += ["PyTorch / tilegrad", "best / best"]
    return table(head, lines)


def summary(results: dict) -> str:
    """One line per kernel: share of the roof, and the worst, middle and best ratio."""
    groups: dict[str, list] = {}
    for row in results["rows"]:
        groups.setdefault(row["kernel"], []).append(row)
    lines = []
    for kernel, rows in groups.items():
        ratios = [r["ratio"] for r in rows if r["peer"]]
        figures = [ABSENT] * 3
        if ratios:
            figures = [f"{f(ratios):.2f}" for f in (min, statistics.median, max)]
        share = statistics.median(r["roof_share"] for r in rows)
        lines.append([f"`{kernel}`", str(len(rows)), f"{share:.0%}", *figures])
    head = ["kernel", "rows", "of the roof, median", "PyTorch / tilegrad, worst", "median", "best"]
    return table(head, lines)


def steady(results: dict) -> str:
    """What training costs besides arithmetic."""
    lines = []
    for row in results["rows"]:
        label, form = FIGURES[row["figure"]]
        goal = "" if row["goal"] is None else f"{row['goal'] * _scale(row):g}"
        values = (row["value"], row["peer"])
        texts = ["" if v is None else form.format(v * _scale(row)) for v in values]
        lines.append([label, *texts, goal])
    return table(["", "tilegrad", "PyTorch, best", "goal, below"], lines)


def overhead(results: dict) -> str:
    """Python's part of single ops and of the small CNN's step."""
    lines = []
    for row in results["rows"]:
        share = f"{row['share']:.1%}" if "share" in row else ""
        lines.append([row["figure"], f"{row['microseconds']:.1f}", share])
    return table(["", "microseconds", "of the step"], lines)


def _scale(row: dict) -> float:
    return 1e6 if row["figure"] in ("dispatch", "op") else 1


# table: (results file, how)
TABLES = {
    "machine": ("kernels", machine_line),
    "train": ("train", train),
    "memory": ("train", memory),
    "avx2": ("train-avx2", train),
    "base": ("train-base", train),
    "kernels": ("kernels", kernels),
    "summary": ("kernels", summary),
    "steady": ("steady", steady),
    "overhead": ("overhead", overhead),
}


def fill(text: str, name: str, body: str) -> str:
    """`text` with what stands between the markers of table `name` replaced by `body`."""
    opening, closing = f"<!-- benchmarks: {name} -->", "<!-- /benchmarks -->"
    pattern = re.compile(rf"{re.escape(opening)}\n(?:(?!<!--).)*{re.escape(closing)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"expected one {opening} followed by {closing}")
    return pattern.sub(lambda _: f"{opening}\n{body}\n{closing}", text)


def render(text: str, names, folder: Path) -> str:
    """The document `text` with the tables `names` from the results in `folder`."""
    for name in names:
        file, how = TABLES[name]
        path = folder / f"{file}.json"
        body = how(json.loads(path.read_text())) if path.exists() else "(not measured yet)"
        text = fill(text, name, body)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    for document, names in DOCUMENTS.items():
        before = document.read_text()
        after = render(before, names, HERE / "results")
        if arguments.check and before != after:
            sys.exit(f"{document.name}: tables differ from benchmarks/results; run report.py")
        document.write_text(after)


if __name__ == "__main__":
    main()
