"""Everything: steady state, Python's part, kernels, training; then the tables in the documents.

    python benchmarks/run.py [--mode default] [--only steady overhead kernels train limited]

A quick run shows that all works; its figures mean nothing and go to a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import KEEP

HERE = Path(__file__).resolve().parent


def parts(mode: str, results: Path) -> dict[str, list]:
    """The commands of each part."""

    def script(name, output, *more):
        return [HERE / name, "--mode", mode, "--results", results / output, *more]

    limited = [
        script("bench_train.py", f"train-{isa}.json", "--isa", isa) for isa in ("avx2", "base")
    ]
    pytest = ["-m", "pytest", HERE, "--mode", mode, "--results", results / "kernels.json"]
    return {
        "steady": [script("bench_steady.py", "steady.json")],
        "overhead": [script("bench_overhead.py", "overhead.json")],
        "kernels": [pytest],
        "train": [script("bench_train.py", "train.json")],
        "limited": limited,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=("quick", "default", "full"), default="default")
    parser.add_argument("--only", nargs="+", choices=list(parts("", HERE)))
    arguments = parser.parse_args()
    quick = arguments.mode == "quick"
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary) if quick else HERE / "results"
        results.mkdir(exist_ok=True)
        for part, commands in parts(arguments.mode, results).items():
            if arguments.only and part not in arguments.only:
                continue
            for command in commands:
                start = time.perf_counter()
                keep = KEEP if part == "kernels" else {}
                subprocess.run([sys.executable, *command], env=os.environ | keep, check=True)
                print(f"--- {part}: {time.perf_counter() - start:.0f} s", flush=True)
    if not quick:
        subprocess.run([sys.executable, HERE / "report.py"], check=True)


if __name__ == "__main__":
    main()
