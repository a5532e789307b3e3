"""Rows from what worker processes measured: samples put together, every figure computed here.

A part is what one process has of one contender: what a row says of who it is about, its status and,
if that is "ok", what was `measured`:

    {"way": 0, "error": 0.1, "warm": [seconds, ...], "cold": [...] or None,
     "calibration": {"flops": 1e11, "bytes": 1e10}, "floor": (seconds, bound) or None}
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from .roofline import near
from .timing import Samples, paired

OURS = "tilegrad"


def pooled(processes: Sequence[Sequence[dict]]) -> list[dict]:
    """The rows of one workload.

    Args:
        processes: the parts that each process has, in the order in which they measured.

    Who was refused or failed in one of them is so in the row.
    """
    found: dict[str, dict[int, dict]] = {}  # label -> number of the process -> part
    for number, parts in enumerate(processes):
        for part in parts:
            found.setdefault(part["label"], {})[number] = part
    ours = next((parts for parts in found.values() if _first(parts)["library"] == OURS), {})
    return [_row(parts, _measured(ours)) for parts in found.values()]


def _first(parts: Mapping[int, dict]) -> dict:
    return next(iter(parts.values()))


def _measured(parts: Mapping[int, dict]) -> dict[int, dict]:
    """Nothing unless all is well."""
    if any(part["status"] != "ok" for part in parts.values()):
        return {}
    return {number: part["measured"] for number, part in parts.items()}


def _row(parts: Mapping[int, dict], ours: Mapping[int, dict]) -> dict:
    measured = _measured(parts)
    if not measured:
        return next(part for part in parts.values() if part["status"] != "ok")
    row = {key: value for key, value in _first(parts).items() if key != "measured"}
    several = list(measured.values())
    row |= {
        "error": max(m["error"] for m in several),
        "warm": summary([m["warm"] for m in several]),
        "cold": summary([m["cold"] for m in several]) if several[0]["cold"] else None,
        "ratio": _ratio(measured, ours, "warm"),
        "cold_ratio": _ratio(measured, ours, "cold"),
        "calibration": {k: max(m["calibration"][k] for m in several) for k in ("flops", "bytes")},
        "processes": [
            {"warm": Samples(m["warm"]).summary(), "calibration": m["calibration"]} for m in several
        ],
    }
    return row | _roof(several, row) if several[0]["floor"] else row


def summary(processes: Sequence[Sequence[float]]) -> dict[str, float]:
    """Of the samples of several processes: `Samples.summary` of all of them together.

    The noise is no less than half the spread of the processes' medians, over the median: more
    samples of a process that was slow tell no more of the next one.
    """
    together = Samples([seconds for samples in processes for seconds in samples]).summary()
    medians = [statistics.median(samples) for samples in processes]
    spread = (max(medians) - min(medians)) / 2 / together["median"]
    return together | {"noise": max(together["noise"], spread)}


def _ratio(theirs: Mapping[int, dict], ours: Mapping[int, dict], kind: str) -> float | None:
    """The median of the ratios, each of two turns of one round: above 1, ours is faster."""
    ratios = [
        ratio
        for number in theirs.keys() & ours.keys()
        if theirs[number][kind] and ours[number][kind]
        for ratio in paired(Samples(theirs[number][kind]), Samples(ours[number][kind])).seconds
    ]
    return statistics.median(ratios) if ratios else None


def _roof(several: Sequence[dict], row: dict) -> dict:
    """How near to its roof the row is; refused if one of its processes was above it."""
    least, bound = min(m["floor"] for m in several)
    roof = near(least, bound, row["warm"]["median"])
    fastest = near(least, bound, min(p["warm"]["median"] for p in row["processes"]))
    if not fastest["above"]:
        return {"roof": roof}
    reason = f"{fastest['share']:.0%} of the roof: faster than can be"
    return {"roof": roof | {"above": True}, "status": "refused", "reason": reason}
