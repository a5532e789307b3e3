"""What Python costs: per op, forward and backward, and per training step, eager and captured.

    python benchmarks/bench_overhead.py [--mode default]

The time of the kernels alone is that of a captured step's plan, replayed; the rest is Python's,
with its calls into the compiled module. Backward fills the gradients of all inputs. Python's part
is found with arrays so small that kernels take next to no time, since it does not depend on their
size; a step's kernels are then timed at full size. All calls take turns in one process; figures are
medians over turns.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np
from bench_steady import in_turns, per_call

from tilegrad.bench import machine, record

MODES = {"quick": (3, 20), "default": (15, 200), "full": (45, 500)}  # turns, calls in a turn
BATCH = 32


def ops_on_little() -> dict:
    """name -> (op, its leaves), on so few numbers that the kernels take next to no time."""
    from tilegrad import Tensor, ops

    rng = np.random.default_rng(0)

    def leaf(*shape):
        return Tensor(rng.standard_normal(shape, np.float32), requires_grad=True)

    image, window, bias = leaf(1, 6, 6, 2), leaf(3, 3, 2, 4), leaf(4)
    rows, others, matrix, labels = leaf(4, 8), leaf(4, 8), leaf(8, 4), np.zeros(4, np.int32)
    return {
        "relu": (lambda: ops.relu(rows), [rows]),
        "add": (lambda: ops.add(rows, others), [rows, others]),
        "multiply": (lambda: ops.multiply(rows, others), [rows, others]),
        "sum": (lambda: ops.sum(rows), [rows]),
        "mean over an axis": (lambda: ops.mean(rows, axis=0), [rows]),
        "reshape": (lambda: ops.reshape(rows, (2, 16)), [rows]),
        "matmul": (lambda: ops.matmul(rows, matrix), [rows, matrix]),
        "dense": (lambda: ops.dense(rows, matrix, bias, "relu"), [rows, matrix, bias]),
        "conv2d": (lambda: ops.conv2d(image, window, bias), [image, window, bias]),
        "max_pool2d": (lambda: ops.max_pool2d(image, 2), [image]),
        "softmax": (lambda: ops.softmax(rows), [rows]),
        "softmax_cross_entropy": (lambda: ops.softmax_cross_entropy(rows, labels), [rows]),
    }


def both_ways(op, leaves, dy):
    """Forward and backward, as a step."""

    def step():
        for leaf in leaves:
            leaf.grad = None
        y = op()
        y.backward(dy)
        return y

    return step


def kernels_of(function):
    """The function's kernels alone; of what it returns nothing is copied."""
    import tilegrad

    def quiet():
        function()

    captured = tilegrad.capture(quiet)
    for _ in range(3):
        captured()
    return captured.plans[0].replay


def op_rows(turns: int, calls: int) -> list[dict]:
    """Microseconds of Python per op, forward and backward."""
    from tilegrad import Tensor

    rows = []
    for name, (op, leaves) in ops_on_little().items():
        step = both_ways(op, leaves, Tensor(np.ones(op().shape, np.float32)))
        timed = {"op": op, "op kernels": kernels_of(op)}
        timed |= {"step": step, "step kernels": kernels_of(step)}
        taken = in_turns(
            {key: functools.partial(per_call, f, calls) for key, f in timed.items()}, turns
        )
        forward = taken["op"] - taken["op kernels"]
        both = taken["step"] - taken["step kernels"]
        rows.append({"figure": f"{name} forward", "microseconds": 1e6 * forward})
        rows.append({"figure": f"{name} backward", "microseconds": 1e6 * (both - forward)})
    return rows


def small_cnn(side, filters, units, jit_compile):
    """The small CNN, or one like it that is smaller still, and a batch for it."""
    from tilegrad import keras
    from tilegrad.keras import layers

    model = keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(units, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=jit_compile)
    x = np.random.default_rng(0).random((BATCH, side, side, 1), np.float32)
    y = (np.arange(BATCH) % 10).astype(np.int32)
    model.fit(x, y, batch_size=BATCH, epochs=3, verbose=0)
    model._prepare((x, y), train=True)
    return model, (x, y)


def step_rows(turns: int, calls: int) -> list[dict]:
    """Microseconds of Python in `train_step`, and of the small CNN's kernels."""
    timed = {}
    for name, jit_compile in (("eager", False), ("captured", True)):
        model, batch = small_cnn(6, 2, 4, jit_compile)
        timed[name] = functools.partial(model.train_step, batch)
    timed["small kernels"] = model._captured.captured.plans[0].replay
    model, _ = small_cnn(28, 32, 128, True)
    timed["kernels"] = model._captured.captured.plans[0].replay
    taken = in_turns(
        {name: functools.partial(per_call, call, calls) for name, call in timed.items()}, turns
    )
    kernels = taken["kernels"]
    rows = [{"figure": "step kernels", "microseconds": 1e6 * kernels}]
    for name in ("eager", "captured"):
        python = taken[name] - taken["small kernels"]
        share = python / (python + kernels)
        rows.append({"figure": f"step {name}", "microseconds": 1e6 * python, "share": share})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=MODES, default="default")
    parser.add_argument("--results", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    turns, calls = MODES[arguments.mode]
    rows = [*op_rows(turns, calls), *step_rows(turns, calls)]
    for row in rows:
        print(row)
    if arguments.results:
        header = {"machine": machine.describe(), "mode": arguments.mode}
        record.write(arguments.results, header | {"rows": rows})


if __name__ == "__main__":
    main()
