"""What training costs besides arithmetic: page faults, memory, import time, Python per op.

    python benchmarks/bench_steady.py [--mode default]

Faults and peak memory are those of MNIST epochs of the small CNN at batch 32, each contender in a
process of its own (`tilegrad.bench.training`). The others are medians over turns.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tilegrad.bench import machine, record, training

TRAINED = (training.OURS, "PyTorch, channels last", "PyTorch, channels last, keep")
# turns, and images of the MNIST run
MODES = {"quick": (3, 5_120), "default": (11, 60_000), "full": (31, 60_000)}
GOALS = {"faults": 5, "import": 0.25, "dispatch": 5e-6}


def import_seconds(package: str) -> float:
    """How long `import package` takes in a fresh interpreter."""
    script = (
        "import time; start = time.perf_counter(); "
        f"import {package}; print(time.perf_counter() - start)"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return float(output.stdout)


def per_call(call, number: int = 20_000) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def dispatch_calls() -> dict:
    """relu of eight numbers that want a gradient: as an op, its kernel alone, and PyTorch's op."""
    import tilegrad
    from tilegrad import backend

    numbers = np.linspace(-1, 1, 8, dtype=np.float32)
    x, y = tilegrad.Tensor(numbers, requires_grad=True), np.empty_like(numbers)
    kernel = backend.get("cpu").activation_forward
    calls = {
        "op": functools.partial(tilegrad.ops.relu, x),
        "kernel": functools.partial(kernel, y, numbers, backend.ACTIVATIONS["relu"], 0.0),
    }
    if importlib.util.find_spec("torch"):
        import torch

        theirs = torch.from_numpy(numbers.copy()).requires_grad_()
        calls["torch"] = functools.partial(torch.relu, theirs)
    return calls


def in_turns(calls: dict, turns: int) -> dict:
    """name -> median of what each call returned."""
    taken: dict[str, list] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            taken[name].append(call())
    return {name: statistics.median(values) for name, values in taken.items()}


def small_rows(turns: int) -> list[dict]:
    """Import and dispatch."""
    packages = [p for p in ("tilegrad", "torch") if importlib.util.find_spec(p)]
    imports = in_turns({p: functools.partial(import_seconds, p) for p in packages}, turns)
    calls = {name: functools.partial(per_call, call) for name, call in dispatch_calls().items()}
    taken = in_turns(calls, turns)
    return [
        {
            "figure": "import",
            "value": imports["tilegrad"],
            "peer": imports.get("torch"),
            "goal": GOALS["import"],
        },
        {
            "figure": "dispatch",
            "value": taken["op"] - taken["kernel"],
            "peer": None,
            "goal": GOALS["dispatch"],
        },
        {"figure": "op", "value": taken["op"], "peer": taken.get("torch"), "goal": None},
    ]


def training_rows(count: int) -> list[dict]:
    """Page faults per step of an epoch after warm-up, and the peak of memory."""
    workload = training.parse("train:cnn:b32")
    rows = training.measure([workload], labels=TRAINED, budget_s=0, images=count)
    given = {row["name"]: row for row in rows if row["status"] != "absent"}
    for name, row in given.items():
        if row["status"] != "ok":
            sys.exit(f"{name}: {row['status']}: {row['reason']}")
    figures = []
    for figure, key, goal in (
        ("faults", "faults_per_step", GOALS["faults"]),
        ("peak", "peak_mb", None),
    ):
        theirs = [row[key] for name, row in given.items() if name != training.OURS]
        figures.append(
            {
                "figure": figure,
                "value": given[training.OURS][key],
                "peer": min(theirs) if theirs else None,
                "goal": goal,
            }
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=MODES, default="default")
    parser.add_argument("--results", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    turns, count = MODES[arguments.mode]
    rows = [*training_rows(count), *small_rows(turns)]
    for row in rows:
        print(row)
    if arguments.results:
        header = {"machine": machine.describe(), "mode": arguments.mode}
        record.write(arguments.results, header | {"rows": rows})


if __name__ == "__main__":
    main()
