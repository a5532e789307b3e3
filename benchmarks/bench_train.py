"""An epoch of the small MNIST CNN: tilegrad's `fit` and PyTorch eager in turn, equal threads.

    python benchmarks/bench_train.py [--batch 32] [--rounds 3] [--threads 2] [--images 60000]

Needs PyTorch beside tilegrad, and MNIST (docs/data.md). Every epoch runs in a process of its own,
after a warm-up, so that nobody's threads or memory disturb the next. PyTorch has its images at hand
as one float32 tensor, Adam with `fused=True`, and four settings: channels first and channels last,
each with glibc's allocator as it is and told to keep freed memory (`KEEP` below), which saves
PyTorch the page faults of every step. Its fastest row is the peer. Prints seconds per epoch, and
the median of the ratios taken round by round: the machine's mood moves both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# glibc: no block from mmap, nothing trimmed off the heap's top.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": "1048576"}
CONTENDERS = {
    "tilegrad fit": ("tilegrad", {}),
    "PyTorch, channels first": ("channels_first", {}),
    "PyTorch, channels last": ("channels_last", {}),
    "PyTorch, channels first, keep": ("channels_first", KEEP),
    "PyTorch, channels last, keep": ("channels_last", KEEP),
}


def tilegrad_epoch(batch, threads):
    import tilegrad
    from tilegrad import keras

    tilegrad.set_num_threads(threads)
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return lambda x, y: model.fit(x, y, batch, verbose=0).history["loss"][0]


def pytorch_epoch(batch, threads, layout):
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    layout = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(5408, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    ).to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    criterion = nn.CrossEntropyLoss()

    def epoch(x, y):
        images = torch.from_numpy(x)[:, None].contiguous(memory_format=layout)
        labels = torch.from_numpy(y.astype("int64"))
        total = 0.0
        for rows in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad(set_to_none=True)
            loss = criterion(model(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)  # fit shows a running loss too
        return total / len(images)

    return epoch


def measure(contender, arguments) -> None:
    """In the child: one epoch, after 50 steps of warm-up; prints seconds and loss."""
    from tilegrad.keras.datasets import mnist

    (x, y), _ = mnist.load_data()
    x, y = (x[: arguments.images] / 255.0).astype("float32"), y[: arguments.images]
    if contender == "tilegrad":
        epoch = tilegrad_epoch(arguments.batch, arguments.threads)
    else:
        epoch = pytorch_epoch(arguments.batch, arguments.threads, contender)
    epoch(x[: 50 * arguments.batch], y[: 50 * arguments.batch])
    start = time.perf_counter()
    loss = epoch(x, y)
    print(json.dumps([time.perf_counter() - start, loss]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        measure(arguments.contender, arguments)
        return

    seconds = {name: [] for name in CONTENDERS}
    for turn in range(arguments.rounds):
        for name, (contender, environment) in CONTENDERS.items():
            child = [sys.executable, __file__, *sys.argv[1:], "--contender", contender]
            answer = subprocess.run(
                child, env=os.environ | environment, stdout=subprocess.PIPE, check=True
            )
            taken, loss = json.loads(answer.stdout)
            seconds[name].append(taken)
            print(f"round {turn + 1}  {name:<30} {taken:7.2f} s  loss {loss:.4f}", flush=True)
    for name, theirs in seconds.items():
        ratios = [b / a for a, b in zip(seconds["tilegrad fit"], theirs, strict=True)]
        print(
            f"{name:<30} median {statistics.median(theirs):7.2f} s  "
            f"{statistics.median(ratios):5.2f} times tilegrad's"
        )


if __name__ == "__main__":
    main()
