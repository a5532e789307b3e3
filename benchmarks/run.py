"""Everything that the documents show, measured into `results/`; then their tables.

python benchmarks/run.py [--only kernels train limited tta steady overhead profile]
python benchmarks/run.py --quick     # does it all work? its figures mean nothing and are dropped
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCH = ("-m", "tilegrad", "bench")


def parts(results: Path, quick: bool) -> dict[str, list]:
    """part -> its commands, in the order in which they run."""
    mode = ("--mode", "quick" if quick else "default")

    def script(name, output, *more):
        return [HERE / name, *mode, "--results", results / output, *more]

    def bench(output, *more):
        return [*BENCH, *more, *(("--seconds", "1") if quick else ()), "--json", results / output]

    seeds = ("--seeds", "1", "--target", "0.9") if quick else ()
    return {
        "steady": [script("bench_steady.py", "steady.json")],
        "overhead": [script("bench_overhead.py", "overhead.json")],
        "profile": [
            ["-m", "tilegrad", "profile", "--dataset", "mnist", "--json", results / "profile.json"]
        ],
        "kernels": [bench("kernels.json", "--suite", "quick" if quick else "cpu")],
        "train": [bench("train.json", "--suite", "train")],
        "limited": [
            script("bench_train.py", f"train-{isa}.json", "--isa", isa) for isa in ("avx2", "base")
        ],
        "tta": [[*BENCH, "tta", *seeds, "--json", results / "tta.json"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(parts(HERE, False)))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary) if arguments.quick else HERE / "results"
        results.mkdir(exist_ok=True)
        for part, commands in parts(results, arguments.quick).items():
            if arguments.only and part not in arguments.only:
                continue
            for command in commands:
                start = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True)
                print(f"--- {part}: {time.perf_counter() - start:.0f} s", flush=True)
    if not arguments.quick:
        subprocess.run([sys.executable, *BENCH, "report"], check=True, cwd=HERE.parent)


if __name__ == "__main__":
    main()
