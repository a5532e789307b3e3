"""Training epochs: tilegrad's `fit` and its peers in turn, by `tilegrad.bench.training`.

    python benchmarks/bench_train.py [--mode default] [--cases small-32 wide-64] [--threads 2]
    python benchmarks/bench_train.py --isa avx2    # tilegrad and PyTorch limited to AVX2, or base

``tilegrad bench --suite train`` is the same without a mode and without limits.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tilegrad.bench import training
from tilegrad.bench.machine import KEEP, describe, usable_cores
from tilegrad.bench.record import Record

CASES = {
    "small-32": "train:cnn:b32",
    "small-128": "train:cnn:b128",
    "small-512": "train:cnn:b512",
    "wide-64": "train:wide:b64",
}
# seconds for each case, and images of an epoch of the small and of the wide network
MODES = {
    "quick": (0, {"cnn": 5_120, "wide": 1_536}),
    "default": (40, {"cnn": 10_240, "wide": 1_536}),
    "full": (900, {"cnn": 60_000, "wide": 3_072}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=MODES, default="default")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument(
        "--isa", choices=training.LIMITS, help="small CNN, tilegrad and PyTorch eager only"
    )
    parser.add_argument("--results", type=Path, help="write the rows to this JSON file")
    arguments = parser.parse_args()
    cases = [case for case in arguments.cases if case.startswith("small") or not arguments.isa]
    budget, images = MODES[arguments.mode]
    record = None
    if arguments.results:
        machine = describe(os.environ | KEEP)
        if arguments.isa:
            machine["isa"] = arguments.isa
        header = {"machine": machine, "suite": "train", "seed": 0, "roofs": {}}
        record = Record(arguments.results, header | {"arguments": ["--mode", arguments.mode]})
    for case in cases:
        workload = training.parse(CASES[case])
        for row in training.rows(
            [workload],
            threads=arguments.threads,
            budget_s=budget,
            isa=arguments.isa,
            images=images[workload.name],
            report=lambda text: print(text, flush=True),
        ):
            print(f"{case:<10} {row['name']:<48} {figures(row)}", flush=True)
            if record:
                record.add(row)


def figures(row: dict) -> str:
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    ratio = "" if row["ratio"] is None else f"  {row['ratio']:6.2f}"
    return f"{row['warm']['median']:8.2f} s{ratio}  +-{row['warm']['noise']:.1%}"


if __name__ == "__main__":
    main()
