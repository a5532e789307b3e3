"""Results files: JSON, one row per workload, number of threads and contender; written row by row.

    {"format": "tilegrad bench", "version": 1, "machine": {...}, "suite": "cpu", "seed": 0,
     "arguments": [...], "roofs": {...}, "rows": [{"workload": "dense:m32k5408n128", ...}, ...]}

Times are seconds, rates FLOP/s and bytes/s, sizes bytes. A row that was not measured has a status
other than "ok" and a reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

FORMAT, VERSION = "tilegrad bench", 1
STATUSES = ("ok", "absent", "refused", "failed")
REQUIRED = ("workload", "kind", "threads", "library", "label", "status")


class Record:
    """A results file that grows: `add` writes the whole file anew, so that no row is ever lost.

    Args:
        path: where; the folder is made if need be, a file that is there is replaced.
        header: what is said of the whole run: machine, suite, seed, arguments, roofs.
    """

    def __init__(self, path, header: dict):
        self.path = Path(path)
        self.results = {"format": FORMAT, "version": VERSION, **header, "rows": []}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, self.results)

    def add(self, row: dict) -> None:
        """Put a row where an equal one is (`key`), or behind the last, and write.

        Raises:
            ValueError: the row lacks something that every row has, or holds a NaN.
        """
        check_row(row)
        rows = {key(kept): kept for kept in self.results["rows"]} | {key(row): row}
        results = self.results | {"rows": list(rows.values())}
        write(self.path, results)
        self.results = results


def write(path, results: dict) -> None:
    """Write a results file in one step: a reader sees the old file or the new one, nothing else.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
    """
    path = Path(path)
    try:
        text = json.dumps(results, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: expected finite numbers in all rows: {error}") from None
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def read(path) -> dict:
    """The results in a file.

    Raises:
        ValueError: it is not a results file, or one of another version.
        OSError: it cannot be read.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        results = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: expected a results file, got no JSON: {error}") from None
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a results file of `tilegrad bench`, got other JSON")
    if results.get("version") != VERSION:
        raise ValueError(
            f"{path}: expected version {VERSION} of the format, got {results.get('version')!r}; "
            "measure anew"
        )
    machine, rows = results.get("machine"), results.get("rows")
    if not isinstance(machine, dict) or "fingerprint" not in machine or not isinstance(rows, list):
        raise ValueError(f"{path}: expected a machine with its fingerprint and a list of rows")
    for number, row in enumerate(rows, 1):
        try:
            check_row(row)
        except ValueError as error:
            raise ValueError(f"{path}: row {number}: {error}") from None
    return results


def check_row(row: dict) -> None:
    """Raise ValueError unless `row` has what every row has, and times if it says "ok"."""
    if not isinstance(row, dict):
        raise ValueError(f"row: expected an object, got {row!r}")
    missing = [key for key in REQUIRED if key not in row]
    if missing:
        raise ValueError(f"row: expected {', '.join(REQUIRED)}; {', '.join(missing)} not there")
    if row["status"] not in STATUSES:
        raise ValueError(f"row: expected status {' | '.join(STATUSES)}, got {row['status']!r}")
    if row["status"] == "ok" and row["kind"] in ("kernel", "train"):
        name, processes = f"row {row['workload']}", row.get("processes", [])
        if not isinstance(processes, list) or not all(isinstance(p, dict) for p in processes):
            raise ValueError(f"{name}: expected a list of processes, got {processes!r}")
        for warm in (part.get("warm") for part in (row, *processes)):
            if not _are_times(warm):
                raise ValueError(f"{name}: expected warm times above 0, got {warm!r}")


def _are_times(warm) -> bool:
    figures = [warm.get(k) for k in ("min", "median")] if isinstance(warm, dict) else [None]
    return all(isinstance(value, (int, float)) and value > 0 for value in figures)


def profile_row(workload: str, threads: int, profile) -> dict:
    """A row of what `tilegrad.profile` found while a network was trained.

    Args:
        workload: "profile:cnn:b32", say.
        profile: what ``with tilegrad.profile() as profile`` gave.
    """
    return {
        "workload": workload,
        "kind": "profile",
        "device": "cpu",
        "threads": threads,
        "library": "tilegrad",
        "label": "tilegrad",
        "status": "ok",
        "reason": None,
        "wall": profile.wall,
        "split": profile.split,
        "layers": profile.layers,
    }


def key(row: dict) -> tuple:
    """What a row is about: equal in two files where the rows can be compared.

    A library's fastest way to compute a kernel may be another one each time, so its setting does
    not count there; training runs with several settings side by side.
    """
    fields = ("workload", "kind", "device", "threads", "library", "label", "isa", "target")
    setting = None if row["kind"] == "kernel" else row.get("setting")
    return (*(row.get(field) for field in fields), setting)


def merge(several: Sequence[dict]) -> dict:
    """The rows of several results of one machine; a later row replaces an earlier equal one.

    The header is that of the last.

    Raises:
        ValueError: there are none, or the machines differ.
    """
    if not several:
        raise ValueError("merge: expected at least one results file")
    fingerprints = {fingerprint(results) for results in several}
    if len(fingerprints) > 1:
        raise ValueError(f"merge: expected results of one machine, got {sorted(fingerprints)}")
    rows = {key(row): row for results in several for row in results["rows"]}
    return several[-1] | {"rows": list(rows.values())}


def fingerprint(results: dict) -> str:
    """What makes two machines comparable: `machine.fingerprint` there."""
    return results["machine"]["fingerprint"]
