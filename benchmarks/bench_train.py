"""Training epochs: tilegrad's `fit` and its peers in turn, equal threads, equal initial weights.

    python benchmarks/bench_train.py [--mode default] [--cases small-32 wide-64] [--threads 2]
    python benchmarks/bench_train.py --isa avx2    # tilegrad and PyTorch limited to AVX2, or base

The small CNN on MNIST at batch 32, 128 and 512; the wide one at batch 64 (`networks.py`). Every
contender trains in a process of its own, bound to as many cores as there are threads, and waits
there, asleep, while the others have their turn. PyTorch runs with glibc's allocator as it is and
told to keep freed memory (`machine.KEEP`). What is not installed is named as absent. A result is
proved by its loss: in each round all contenders, who start from the same weights, must agree on
the epoch's mean loss up to what the order of the images does.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
import numpy as np
from harness import ratio
from networks import NETWORKS, images

KEEP = machine.KEEP
FIRST, LAST = {"layout": "contiguous_format"}, {"layout": "channels_last"}
# name: (module in baselines, its options, environment)
CONTENDERS = {
    "tilegrad fit": ("tilegrad_fit", {}, {}),
    "PyTorch, channels first": ("pytorch", FIRST, {}),
    "PyTorch, channels last": ("pytorch", LAST, {}),
    "PyTorch, channels first, keep": ("pytorch", FIRST, KEEP),
    "PyTorch, channels last, keep": ("pytorch", LAST, KEEP),
    "torch.compile, channels last, keep": ("pytorch", LAST | {"compiled": True}, KEEP),
    "Keras on TensorFlow": ("keras_tensorflow", {}, KEEP),
    "JAX jit": ("jax_jit", {}, KEEP),
}
OURS = "tilegrad fit"
BEST = ("PyTorch, channels first, keep", "PyTorch, channels last, keep")
CASES = {"small-32": 32, "small-128": 128, "small-512": 512, "wide-64": 64}
# Steps before the first timed epoch, at least: where the loss falls steeply, the order of the
# images decides it, and comparing it proves nothing.
WARM_UP = 24
# rounds and images of the small network, and of the wide one
MODES = {
    "quick": {"small": (1, 5_120), "wide": (1, 512)},
    "default": {"small": (9, 10_240), "wide": (3, 1_536)},
    "full": {"small": (9, 59_904), "wide": (5, 3_072)},
}
# What limits PyTorch's three sources of kernels to an instruction set of tilegrad's. MKL obeys on
# Intel's processors only, hence one more row there: COMPATIBLE is its SSE2 code on any processor.
LIMITS = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "base": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}


def limited(isa: str) -> dict:
    """tilegrad and PyTorch at its best, on `isa`."""
    chosen = {name: CONTENDERS[name] for name in (OURS, *BEST)}
    if isa == "base":
        chosen["PyTorch, channels last, keep, MKL's SSE2"] = (
            *CONTENDERS["PyTorch, channels last, keep"][:2],
            KEEP | {"MKL_CBWR": "COMPATIBLE"},
        )
    environment = LIMITS[isa] | {"TILEGRAD_ISA": isa}
    return {
        name: (module, options, settings | environment)
        for name, (module, options, settings) in chosen.items()
    }


# --- the child ------------------------------------------------------------------------------------


def child(order: dict) -> None:
    """Prepare, warm up, say so; then an epoch and its figures for each line of input."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order["threads"]])
    network, batch = NETWORKS[order["network"]], order["batch"]
    try:
        baseline = importlib.import_module(f"baselines.{order['module']}")
    except ImportError as error:
        print(json.dumps({"absent": f"not installed: {error.name}"}), file=answers)
        return
    epoch = baseline.prepare(network, batch, order["threads"], **order["options"])
    x, labels = np.load(order["x"]), np.load(order["labels"])
    warm = batch * min(50, len(x) // batch)
    for _ in range(-(-WARM_UP // (warm // batch))):
        epoch(x[:warm], labels[:warm])
    print(json.dumps({"ready": True}), file=answers)
    for _ in sys.stdin:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        loss = epoch(x, labels)
        seconds = time.perf_counter() - start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        answer = {
            "seconds": seconds,
            "loss": loss,
            "faults_per_step": faults * batch / len(x),
            "peak_mb": peak_memory() / 2**20,
        }
        print(json.dumps(answer), file=answers)


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


# --- the parent -----------------------------------------------------------------------------------


class Child:
    """A contender in its own process; `errors` is an open file for what it prints."""

    def __init__(self, order: dict, environment: dict, errors):
        self._errors = errors
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", json.dumps(order)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"a contender ended early:\n{self._errors.read()[-2000:]}")
        return json.loads(line)

    def epoch(self) -> dict:
        print("epoch", file=self._process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def check_losses(losses: dict[str, float]) -> None:
    """All contenders of a round learned the same, up to the order of the images."""
    middle = statistics.median(losses.values())
    for name, loss in losses.items():
        if not abs(loss - middle) <= 0.2 * middle + 0.02:
            raise AssertionError(f"{name}: loss {loss:.4f}, the median is {middle:.4f}: no proof")


def measure(case: str, contenders: dict, rounds: int, count: int, threads: int) -> list:
    """The rows of one case: every contender's figures, or why it is absent."""
    name, batch = case.partition("-")[0], CASES[case]
    rows = {c: {"case": case, "contender": c, "threads": threads} for c in contenders}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = {"x": str(folder / "x.npy"), "labels": str(folder / "labels.npy")}
        for key, array in zip(files, images(name, count), strict=True):
            np.save(files[key], array)
        running = {}
        for contender, (module, options, environment) in contenders.items():
            order = {"network": name, "batch": batch, "threads": threads} | files
            order |= {"module": module, "options": options}
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = Child(order, environment, errors)
            stack.callback(process.close)
            answer = process.answer()
            if "absent" in answer:
                rows[contender]["absent"] = answer["absent"]
                print(f"{case:<10} {contender:<36} {answer['absent']}", flush=True)
            else:
                running[contender] = process
        answers: dict[str, list] = {contender: [] for contender in running}
        for turn in range(rounds):
            for contender, process in running.items():
                answer = process.epoch()
                answers[contender].append(answer)
                print(
                    f"{case:<10} {contender:<36} round {turn + 1} {answer['seconds']:7.2f} s  "
                    f"loss {answer['loss']:.4f}",
                    flush=True,
                )
            check_losses({contender: a[-1]["loss"] for contender, a in answers.items()})
    ours = [a["seconds"] for a in answers[OURS]]
    for contender, given in answers.items():
        seconds = [a["seconds"] for a in given]
        rows[contender] |= {
            "images": count,
            "seconds": statistics.median(seconds),
            "epoch_seconds": statistics.median(seconds) * 60_000 / count,
            "ratio": ratio(seconds, ours),
            "loss": given[-1]["loss"],
            "faults_per_step": statistics.median(a["faults_per_step"] for a in given),
            "peak_mb": given[-1]["peak_mb"],
        }
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=MODES, default="default")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--isa", choices=LIMITS, help="small CNN, tilegrad and PyTorch eager only")
    parser.add_argument("--results", type=Path, help="write the rows to this JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return

    from tilegrad import backend

    isa, contenders, cases = backend.get("cpu").name, CONTENDERS, arguments.cases
    if arguments.isa:
        isa, contenders = arguments.isa, limited(arguments.isa)
        cases = [case for case in cases if case.startswith("small")]
    rows = []
    for case in cases:
        rounds, count = MODES[arguments.mode][case.partition("-")[0]]
        rows += measure(case, contenders, rounds, count, arguments.threads)
    for row in rows:
        text = row.get("absent") or f"{row['epoch_seconds']:8.2f} s  {row['ratio']:6.2f}"
        print(f"{row['case']:<10} {row['contender']:<36} {text}")
    if arguments.results:
        machine.record(arguments.results, isa, arguments.mode, rows)


if __name__ == "__main__":
    main()
