"""One part on one device; results are written after every row, so that none is lost."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from . import ceilings, checks, training
from .device import Deadline, open_device

PARTS = {"ceilings": ceilings, "training": training, "checks": checks}


def without_times(value):
    """What a rehearsal may say: every time and all that is made of times is left out."""
    if isinstance(value, dict):
        timed = ("seconds", "rate", "ratio")
        return {
            key: None if key.endswith(timed) else without_times(item) for key, item in value.items()
        }
    return value


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", choices=("cuda", "sim"), required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    arguments = parser.parse_args()
    deadline = Deadline(arguments.seconds)
    device = open_device(arguments.device)
    results = {"device": device.describe(), "rehearsal": device.simulated, "rows": []}
    print(results["device"], flush=True)

    def add(row: dict) -> None:
        results["rows"].append(without_times(row) if device.simulated else row)
        write()
        print(json.dumps(results["rows"][-1], default=str), flush=True)

    def write() -> None:
        beside = arguments.out.with_suffix(".part")
        beside.write_text(json.dumps(results, indent=1, default=str) + "\n")
        os.replace(beside, arguments.out)

    write()
    failures = PARTS[arguments.part].run(device, deadline, add)
    for failure in failures:
        print(f"FAILED {failure}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
