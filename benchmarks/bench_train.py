"""An epoch of the small MNIST CNN: tilegrad's `fit` and PyTorch eager in turn, equal threads.

    python benchmarks/bench_train.py [--batch 32] [--rounds 3] [--threads 2] [--images 60000]

PyTorch runs channels first and channels last, the images on hand as one float32 tensor, Adam with
`fused=True`; its best setting is the peer. Prints seconds per epoch and the median of paired
ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time


def ours(x, y, batch):
    from tilegrad import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Conv2D(32, (3, 3), activation="relu", input_shape=(28, 28, 1)),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    def epoch():
        return model.fit(x, y, batch, verbose=0).history["loss"][0]

    return epoch


def pytorch(x, y, batch, channels_last):
    import torch
    from torch import nn

    torch.manual_seed(1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
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
    images = torch.from_numpy(x)[:, None].contiguous(memory_format=layout)
    labels = torch.from_numpy(y.astype("int64"))

    def epoch():
        order = torch.randperm(len(images))
        total = 0.0
        for rows in order.split(batch):
            optimizer.zero_grad(set_to_none=True)
            logits = model(images[rows])
            loss = criterion(logits, labels[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)  # fit shows a running loss too
        return total / len(images)

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--images", type=int, default=60_000)
    arguments = parser.parse_args()

    import torch

    import tilegrad

    torch.set_num_threads(arguments.threads)
    tilegrad.set_num_threads(arguments.threads)
    (x, y), _ = tilegrad.keras.datasets.mnist.load_data()
    x = (x[: arguments.images] / 255.0).astype("float32")
    y = y[: arguments.images]
    contenders = {
        "tilegrad fit": ours(x, y, arguments.batch),
        "PyTorch eager, channels first": pytorch(x, y, arguments.batch, False),
        "PyTorch eager, channels last": pytorch(x, y, arguments.batch, True),
    }
    seconds = {name: [] for name in contenders}
    for round_ in range(arguments.rounds):
        for name, epoch in contenders.items():
            start = time.perf_counter()
            loss = epoch()
            seconds[name].append(time.perf_counter() - start)
            print(f"round {round_ + 1}  {name:<30} {seconds[name][-1]:7.2f} s  loss {loss:.4f}")
    mine = seconds["tilegrad fit"]
    for name, theirs in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
        print(
            f"{name:<30} median {statistics.median(theirs):7.2f} s  {ratio:5.2f} times tilegrad's"
        )


if __name__ == "__main__":
    main()
