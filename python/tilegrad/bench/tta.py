"""``tilegrad bench tta``: seconds of training until the test accuracy first reaches a target.

MNIST from many seeds, contenders in turns seed by seed: the small CNN to 98%, and a deeper one to
99%, which the small one does not reach in ten epochs. After each part of an epoch a contender
predicts the test images; that, and whatever compiles before the first step, is not in its time.
Each seed has its own initial weights, order of images and numbering of classes, the same for all.
What reaches a target is believed only if the NumPy reference finds the same accuracy with its
weights; times are checked as in `training`.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np

from .child import PATIENCE
from .learning import Lesson, NotTrainedError, judge
from .machine import KEEP, describe, usable_cores
from .record import Record
from .training import (
    EPOCH,
    OURS,
    Files,
    RefusedError,
    Run,
    Training,
    choose,
    prepared,
    timed_epoch,
)

CONTENDERS = (OURS, "PyTorch, channels last, keep")
TARGETS = {"cnn": 0.98, "deep": 0.99}  # the networks that race, and how far
TEST = 10_000  # images
WARM_UP = 50  # steps before the first seed
PARTS = 4  # of an epoch, each followed by a look at the accuracy
ATTEMPTS = 3  # at a seed that the machine may have disturbed
AGREE = 1e-3  # by how much a contender's accuracy may differ from that of its weights


@dataclass(frozen=True)
class Race:
    """What is run.

    Args:
        training: task and batch size.
        targets: accuracies, ascending.
        seeds: how many.
        most_epochs: then a seed counts as not having reached what it has not.
        images, test: of an epoch, and to test on.
    """

    training: Training
    targets: tuple[float, ...]
    seeds: int
    most_epochs: int
    images: int = EPOCH
    test: int = TEST

    def __post_init__(self):
        if not self.targets or not all(0 < t < 1 for t in self.targets):
            raise ValueError(f"target: expected accuracies between 0 and 1, got {self.targets}")
        if self.seeds < 1 or self.most_epochs < 1:
            raise ValueError(
                "expected at least one seed and one epoch, "
                f"got {self.seeds} seeds and {self.most_epochs} epochs"
            )
        if self.part < self.training.batch:
            raise ValueError(
                f"batch: expected at most {self.images // PARTS}, the images between two looks at "
                f"the accuracy, got {self.training.batch}"
            )

    def __str__(self) -> str:
        return f"tta:{self.training.name}:b{self.training.batch}"

    @property
    def part(self) -> int:
        """Images between two looks at the accuracy: whole batches."""
        return self.images // PARTS - self.images // PARTS % self.training.batch


@dataclass(frozen=True)
class Reached:
    """When a seed reached a target."""

    seconds: float
    images: int


class Runner(Run):
    """A contender in a race.

    Attributes:
        reached: target -> for each seed so far when it was reached, None for never.
    """

    def __init__(self, contender, race: Race, threads: int, files: Files):
        super().__init__(contender, race.training, threads, files)
        self.race = race
        self.reached: dict[float, list[Reached | None]] = {t: [] for t in race.targets}

    def turn(self, seed: int) -> None:
        """Train from `seed` until all targets are reached, or long enough."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self.awake():
                    found = self._train(seed)
                break
            except RefusedError:
                if attempt == ATTEMPTS:
                    raise
        for target, when in found.items():
            self.reached[target].append(when)

    def _train(self, seed: int) -> dict[float, Reached | None]:
        race, task = self.race, self.workload.task
        x_test, labels_test, parts = _data(race, seed)
        np.save(self.files.test, x_test)
        found: dict[float, Reached | None] = dict.fromkeys(race.targets)
        seconds, images, start = 0.0, 0, task.network.weights(seed)
        for x, labels in parts:
            self.hand_over(x, start, seed)
            start = None  # from now on it goes on
            epoch, weights = timed_epoch(self.child, self.files, labels, self.threads)
            seconds, images = seconds + epoch.seconds, images + len(x)
            accuracy = self._accuracy(labels_test)
            new = [t for t in race.targets if found[t] is None and accuracy >= t]
            if new:
                self._check(accuracy, judge(task.network, weights, x_test, labels_test)[1])
            found |= dict.fromkeys(new, Reached(seconds, images))
            if None not in found.values():
                break
        return found

    def _accuracy(self, labels: np.ndarray) -> float:
        """Of what it predicts for the test images."""
        self.child.ask("predict", x=self.files.test, to=self.files.predicted)
        classes = np.load(self.files.predicted)
        if classes.shape != labels.shape:
            raise NotTrainedError(f"predicted: expected {labels.shape}, got {classes.shape}")
        return float((classes == labels).mean())

    def _check(self, accuracy: float, right: float) -> None:
        self.error = max(self.error, abs(accuracy - right) / AGREE)
        if not self.error <= 1:
            raise NotTrainedError(
                f"its predictions have accuracy {accuracy:.4f}, its weights {right:.4f}"
            )


def _data(race: Race, seed: int) -> tuple[np.ndarray, np.ndarray, Iterator]:
    """Images to test on and their labels; then images and labels, part by part of all epochs."""
    draw, rng = race.training.task.draw, np.random.default_rng(seed)
    names = rng.permutation(10).astype(np.int32)
    x_test, labels_test = draw(rng, race.test, True)

    def parts():
        for _ in range(race.most_epochs):
            x, labels = draw(rng, race.images, False)
            for i in range(0, PARTS * race.part, race.part):
                yield x[i : i + race.part], names[labels[i : i + race.part]]

    return x_test, names[labels_test], parts()


def run(
    race: Race,
    labels: Sequence[str] = CONTENDERS,
    threads: int | None = None,
    patience: float = PATIENCE,
    report: Callable[[str], None] = lambda text: None,
) -> list[dict]:
    """Let the contenders that `labels` name run: a row for each, and for each target.

    Raises:
        ValueError: unknown labels, more threads than cores.
    """
    cores = usable_cores()
    threads = cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise ValueError(f"threads: expected 1 to {cores}, the usable cores, got {threads}")
    with tempfile.TemporaryDirectory() as folder:
        files = Files.within(Path(folder))
        runners = [Runner(c, race, threads, files) for c in choose(labels)]
        lesson = functools.partial(Lesson.draw, race.training.task, WARM_UP * race.training.batch)

        def tell(runner: Runner, text: str) -> None:
            report(f"{runner.contender.name:<36} {text}")

        with prepared(runners, lesson, patience, tell):
            for seed in range(race.seeds):
                # who is first is last next time
                for runner in runners if seed % 2 == 0 else reversed(runners):
                    runner.attempt(runner.turn, seed)
                    tell(runner, f"seed {seed}: {_news(runner)}")
    ours = next((r for r in runners if r.contender.library == "tilegrad"), None)
    return [_row(runner, ours, target) for target in race.targets for runner in runners]


def _news(runner: Runner) -> str:
    if runner.status != "ok":
        return f"{runner.status}: {runner.reason}"
    texts = []
    for target, found in runner.reached.items():
        last = found[-1]
        when = f"{last.seconds:.2f} s, {last.images} images" if last else "not reached"
        texts.append(f"{target:.2%}: {when}")
    return "; ".join(texts)


def _row(runner: Runner, ours: Runner | None, target: float) -> dict:
    """What a results file keeps: seconds and images of each seed, None where it did not arrive."""
    race = runner.race
    row = runner.head(str(race)) | {
        "kind": "tta",
        "target": target,
        "seeds": race.seeds,
        "most_epochs": race.most_epochs,
        "ratio": None,
    }
    if runner.status != "ok":
        return row
    found = runner.reached[target]
    arrived = [one for one in found if one]
    row |= {
        "error": runner.error,
        "reached": len(arrived),
        "seconds": [one and one.seconds for one in found],
        "images": [one and one.images for one in found],
    }
    if arrived:
        seconds = [one.seconds for one in arrived]
        row |= {"mean": fmean(seconds), "min": min(seconds), "max": max(seconds)}
        row["mean_images"] = fmean(one.images for one in arrived)
    if ours and ours.status == "ok":
        pairs = zip(found, ours.reached[target], strict=True)
        ratios = [a.seconds / b.seconds for a, b in pairs if a and b]
        row["ratio"] = median(ratios) if ratios else None
    return row


# --- the command line -----------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """Run ``tilegrad bench tta``; 1 if tilegrad's own times were not proved, else 0."""
    from rich.console import Console

    reader = parser()
    arguments = reader.parse_args(argv)
    console = Console()

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True)

    record, unproved = None, False
    try:
        for race in _races(arguments):
            rows = run(
                race, arguments.contenders, arguments.threads, report=lambda text: say(text, "dim")
            )
            console.print(table(rows))
            for line in dict.fromkeys(f"{r['name']}: {r['reason']}" for r in rows if r["reason"]):
                say(line)
            if arguments.json:
                record = record or Record(arguments.json, _header(argv))
                for row in rows:
                    record.add(row)
            unproved |= any(r["library"] == "tilegrad" and r["status"] != "ok" for r in rows)
    except ValueError as error:
        reader.error(str(error))
    return int(unproved)


def _races(arguments: argparse.Namespace) -> list[Race]:
    """One for each network; its own targets, unless the arguments name some."""
    return [
        Race(
            Training(network, arguments.batch),
            tuple(sorted(set(arguments.target or [TARGETS[network]]))),
            arguments.seeds,
            arguments.most_epochs,
        )
        for network in dict.fromkeys(arguments.network)
    ]


def _header(argv: Sequence[str]) -> dict:
    machine = describe(os.environ | KEEP)
    return {"machine": machine, "suite": "tta", "seed": 0, "arguments": list(argv), "roofs": {}}


def parser() -> argparse.ArgumentParser:
    own = ", ".join(f"{name} {target:g}" for name, target in TARGETS.items())
    parser = argparse.ArgumentParser(
        prog="tilegrad bench tta",
        description="Seconds of training until a network first reaches an accuracy on MNIST.",
    )
    add = parser.add_argument
    add("--network", nargs="+", choices=TARGETS, default=[*TARGETS], help="default: both")
    add("--target", nargs="+", type=float, metavar="A", help=f"accuracies; default: {own}")
    add("--seeds", type=int, default=10, help="initial weights and orders; default: 10")
    add("--batch", type=int, default=32, help="default: 32")
    add("--most-epochs", type=int, default=10, help="give up on a seed then; default: 10")
    add("--threads", type=int, help="of each contender; default: all usable cores")
    add("--contenders", nargs="+", default=CONTENDERS, metavar="NAME", help="names or patterns")
    add("--json", metavar="FILE", help="write a results file")
    return parser


def table(rows: Sequence[dict]):
    """A `rich` table: per target and contender mean, least and most seconds, and who arrived."""
    from rich import box
    from rich.table import Table

    first = rows[0]
    shown = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{first['workload']}: seconds of training to a test accuracy, "
        f"{_count(first['threads'], 'thread')}, {_count(first['seeds'], 'seed')}",
        caption="Mean, min and max are over the seeds that arrived within "
        f"{_count(first['most_epochs'], 'epoch')}; ratio: to tilegrad's seconds, median over seeds",
    )
    shown.add_column("target")
    shown.add_column("contender")
    for head in ("arrived", "mean", "min", "max", "images", "ratio"):
        shown.add_column(head, justify="right")
    for row in rows:
        shown.add_row(*_cells(row))
    return shown


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s'[: number != 1]}"


def _cells(row: dict) -> list[str]:
    head = [f"{row['target']:.2%}", row["name"]]
    if row["status"] != "ok":
        return [*head, row["status"]]
    cells = [*head, f"{row['reached']} of {row['seeds']}"]
    if row["reached"]:
        cells += [f"{row[key]:.2f} s" for key in ("mean", "min", "max")]
        cells.append(f"{row['mean_images']:,.0f}")
        cells.append("" if row["ratio"] is None else f"{row['ratio']:.2f}")
    return cells
