"""The small CNN: seconds per step and per epoch, against PyTorch's ways to train it.

All start from the same weights. Before they are timed, some steps over the same batches in the same
order must give the same losses. Images lie on the device; each epoch is a new random order. PyTorch
trains in channels last with fused Adam: eager, compiled, and with the whole step captured as a CUDA
graph, which is the most that can be had of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

import tilegrad
from tilegrad import keras
from tilegrad.bench.baselines.keras_model import build
from tilegrad.bench.baselines.pytorch import model_of
from tilegrad.bench.networks import SMALL
from tilegrad.bench.timing import Samples, paired

from .device import Deadline, Device

IMAGES = 60_000
PROOF = 12  # steps whose losses are compared
EPSILON = 1e-12  # Adam's: so small that it does not matter that PyTorch adds it elsewhere
BATCHES = (32, 1024, 128, 256, 64, 512)  # in the order of their importance


class Tilegrad:
    """Plain `fit`."""

    name = "tilegrad fit"

    def __init__(self, device: Device, batch: int):
        self._batch = batch
        tilegrad.backend.set_default_device(device.name)
        keras.utils.set_random_seed(1)
        self._model = build(keras, SMALL)
        self._model.optimizer.epsilon = EPSILON

    def losses(self, x, labels) -> list[float]:
        """The loss of each step, in order."""
        batches = range(0, len(x), self._batch)
        steps = [slice(i, i + self._batch) for i in batches]
        return [float(self._model.train_on_batch(x[s], labels[s])[0]) for s in steps]

    def epoch(self, x, labels) -> None:
        self._model.fit(x, labels, self._batch, verbose=0)


class Eager:
    """PyTorch, a step at a time."""

    name = "PyTorch eager"

    def __init__(self, device: Device, batch: int):
        self._batch, self._device = batch, device.torch
        self._model = model_of(SMALL)
        self._model.to(device.torch, memory_format=torch.channels_last)
        self._optimizer = torch.optim.Adam(
            self._model.parameters(), lr=1e-3, eps=EPSILON, fused=True, capturable=self.captured
        )
        self._loss_of = self._loss

    captured = False

    def _loss(self, x, labels):
        return torch.nn.functional.cross_entropy(self._model(x), labels)

    def step(self, x, labels):
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss_of(x, labels)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def losses(self, x, labels) -> list[float]:
        pairs = zip(x.split(self._batch), labels.split(self._batch), strict=True)
        return [self.step(*pair).item() for pair in pairs]

    def epoch(self, x, labels) -> None:
        total = torch.zeros((), device=self._device)
        order = torch.randperm(len(x), device=self._device)
        for rows in order.split(self._batch):
            total += self.step(x[rows], labels[rows])
        total.item()


class Compiled(Eager):
    """torch.compile of the forward pass and the loss, and so of their backward pass."""

    name = "torch.compile"

    def __init__(self, device: Device, batch: int):
        super().__init__(device, batch)
        torch.compiler.reset()  # each batch size is compiled for itself
        self._loss_of = torch.compile(self._loss, dynamic=False)


class Captured(Eager):
    """The whole step as one CUDA graph on fixed buffers."""

    name = "PyTorch, step as a CUDA graph"
    captured = True

    def __init__(self, device: Device, batch: int):
        super().__init__(device, batch)
        h, w, c = SMALL.image
        self._x = torch.zeros(batch, c, h, w, device=device.torch).contiguous(
            memory_format=torch.channels_last
        )
        self._labels = torch.zeros(batch, dtype=torch.long, device=device.torch)
        before = [p.detach().clone() for p in self._model.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                super().step(self._x, self._labels)
        torch.cuda.current_stream().wait_stream(side)
        self._optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            loss = self._loss_of(self._x, self._labels)
            loss.backward()
            self._optimizer.step()
        self._result = loss.detach()
        with torch.no_grad():  # as if the warm-up had not been
            for parameter, value in zip(self._model.parameters(), before, strict=True):
                parameter.copy_(value)
            for state in self._optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def step(self, x, labels):
        self._x.copy_(x)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._result


def data(device: Device, count: int):
    """Random images with labels that can be learnt, as tilegrad has them: x (n, h, w, c)."""
    h, w, c = SMALL.image
    labels = device.integers(0, 10, (count,), torch.int64)
    patterns = device.normal(10, h, w, c)
    return (0.5 * patterns[labels] + device.normal(count, h, w, c)), labels


def check(losses: dict[str, list[float]]) -> None:
    """All learnt the same."""
    right = losses[Eager.name]
    for name, values in losses.items():
        for i, (got, expected) in enumerate(zip(values, right, strict=True)):
            if not abs(got - expected) <= 2e-3 * abs(expected) + 1e-4:
                raise AssertionError(f"{name}: step {i}: loss {got:.6f}, PyTorch's {expected:.6f}")


def measure(device: Device, batch: int, deadline: Deadline) -> dict:
    """One batch size: who trains how fast."""
    kinds = [Tilegrad, Eager]
    if not device.simulated:
        kinds.append(Captured)
        if deadline.left() > 40:  # it compiles for long
            kinds.append(Compiled)
    row: dict = {"batch": batch, "contenders": {}}
    count = 3 * batch if device.simulated else IMAGES // batch * batch
    x, labels = data(device, count)
    images = x.permute(0, 3, 1, 2)  # channels last already
    ours = device.array(x), device.array(labels.int())
    ready, losses = [], {}
    steps = 2 if device.simulated else PROOF
    for kind in kinds:
        contender = kind(device, batch)
        pair = ours if kind is Tilegrad else (images, labels)
        losses[kind.name] = contender.losses(*(a[: steps * batch] for a in pair))
        ready.append((contender, pair))
    check(losses)
    times = {kind.name: [] for kind in kinds}
    for turn in range(1 if device.simulated else 4):
        for contender, pair in ready:
            _, wall = device.stopwatch(lambda c=contender, p=pair: c.epoch(*p))
            if turn or device.simulated:  # the first one warms up
                times[contender.name].append(wall)
        if turn and deadline.left() < 0:
            break
    for name, walls in times.items():
        epoch = statistics.median(walls)
        row["contenders"][name] = {
            "epoch_seconds": epoch,
            "step_seconds": epoch * batch / count,
            "ratio": paired(Samples(walls), Samples(times[Tilegrad.name])).median,
        }
    row |= {"images": count, "losses": losses}
    return row


def run(device: Device, deadline: Deadline, add: Callable[[dict], None]) -> list[str]:
    """Measure all batch sizes; the failures, in words."""
    failures = []
    for batch in (4,) if device.simulated else BATCHES:
        if deadline.left() < 10:
            add({"batch": batch, "left_out": "no time left"})
            continue
        try:
            row = measure(device, batch, deadline)
        except Exception as error:  # another batch size may do
            failures.append(f"batch {batch}: {type(error).__name__}: {error}")
            row = {"batch": batch, "failed": failures[-1]}
        add(row)
        device.release()
    return failures
