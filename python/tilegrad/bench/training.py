"""Training epochs: tilegrad's `fit` and its peers in turns, proved by what they learned.

A workload is ``train:cnn:b32``: a task of `networks` and a batch size. Each contender trains in a
process of its own (`child`), on as many cores as threads. A round is one epoch of each, from the
same initial weights over the same images. These it gets before the clock starts, the labels with
the request; the clock is the parent's, and the child's must agree. Afterwards the parent takes the
weights and judges them (`learning`). Who is refused, ends or hangs has a row that says so; the
others go on.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from .. import backend
from .child import PATIENCE, Child, LostError
from .learning import Learned, Lesson, NotTrainedError, check, learned, truth
from .machine import KEEP, usable_cores
from .networks import TASKS, Task
from .roofline import Speed, supported_isas
from .timing import Samples, paired

EPOCH = 60_000  # images that times are given for
ROUNDS = 5  # at least, if the time allows
LEAST_ROUNDS = 2  # whatever the time
ATTEMPTS = 8  # at an epoch that the machine may have disturbed
CLOCKS_AGREE = 0.01, 0.005  # share, and seconds, by which the parent's and the child's may differ
AFTERWARDS = 0.25, 0.1  # of an epoch's CPU seconds, and seconds, to hand over the weights


class RefusedError(AssertionError):
    """An epoch whose time is not what it seems."""


# --- workloads ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """An epoch of a task of `networks.TASKS` at a batch size; ``str`` gives ``train:cnn:b32``."""

    name: str
    batch: int

    def __str__(self) -> str:
        return f"train:{self.name}:b{self.batch}"

    @property
    def task(self) -> Task:
        return TASKS[self.name]


def parse(descriptor: str) -> Training:
    """The training workload that `descriptor` names.

    >>> parse("train:cnn:b32")
    Training(name='cnn', batch=32)

    Raises:
        ValueError: it names none.
    """
    kind, _, rest = descriptor.strip().partition(":")
    name, _, batch = rest.partition(":b")
    if kind != "train" or name not in TASKS or not batch.isdecimal() or not int(batch):
        expected = " or ".join(f"train:{name}:b#" for name in TASKS)
        raise ValueError(f"workload: expected {expected}, got {descriptor!r}")
    if int(batch) > TASKS[name].images:
        raise ValueError(
            f"workload: expected a batch of at most {TASKS[name].images} images, got {descriptor!r}"
        )
    return Training(name, int(batch))


WORKLOADS = [parse(f"train:cnn:b{batch}") for batch in (32, 128, 512)] + [parse("train:wide:b64")]


# --- contenders -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """A library with its settings.

    Args:
        name: unlike any other's.
        library, label: as in the rows of kernels.
        module: the baseline.
        setting: what the table says of it.
        options: of the baseline's `prepare`.
        environment: variables of its process.
        isa: the instruction set that it is limited to, or None.
    """

    name: str
    library: str
    label: str
    module: str
    setting: str
    options: Mapping = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    isa: str | None = None

    def limited(self, isa: str) -> Contender:
        """The same, on the instruction set `isa`; tilegrad and PyTorch only."""
        own = self.library == "tilegrad"
        limits = {"TILEGRAD_ISA": isa} if own else LIMITS[isa]
        told = self.setting if own else ", ".join([self.setting, *_assignments(limits)])
        return Contender(
            *(self.name, self.library, self.label, self.module, told, self.options),
            {**self.environment, **limits},
            isa,
        )


def _assignments(environment: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


def _torch(layout: str, keep: bool, compiled: bool = False) -> Contender:
    library, label = ("torch_compiled", "torch.compile") if compiled else ("torch", "PyTorch")
    shown = {"contiguous_format": "channels first", "channels_last": "channels last"}[layout]
    return Contender(
        f"{label}, {shown}{', keep' if keep else ''}",
        library,
        label,
        "tilegrad.bench.baselines.pytorch",
        f"{shown}, fused Adam, denormals flushed, {KEPT if keep else 'glibc as it is'}",
        {"layout": layout, "compiled": compiled},
        KEEP if keep else {},
    )


OURS = "tilegrad fit"
KEPT = "glibc keeps memory (MALLOC_MMAP_MAX_=0)"
_BASELINES = "tilegrad.bench.baselines"
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(OURS, "tilegrad", "tilegrad", f"{_BASELINES}.tilegrad_fit", "fit"),
        _torch("contiguous_format", keep=False),
        _torch("channels_last", keep=False),
        _torch("contiguous_format", keep=True),
        _torch("channels_last", keep=True),
        _torch("channels_last", keep=True, compiled=True),
        Contender(
            "Keras on TensorFlow",
            "tensorflow",
            "Keras on TensorFlow",
            f"{_BASELINES}.keras_tensorflow",
            f"fit, {KEPT}",
            environment=KEEP,
        ),
        Contender(
            "JAX jit",
            "jax",
            "JAX",
            f"{_BASELINES}.jax_jit",
            f"jitted step, donated state, {KEPT}",
            environment=KEEP,
        ),
    )
}
BEST = ("PyTorch, channels first, keep", "PyTorch, channels last, keep")
# What limits PyTorch's three sources of kernels to an instruction set of tilegrad's. MKL obeys on
# Intel's processors only, hence one more contender: COMPATIBLE is its SSE2 code on any processor.
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


def limited(isa: str) -> list[Contender]:
    """tilegrad and PyTorch at its best, on `isa`."""
    chosen = [CONTENDERS[name].limited(isa) for name in (OURS, *BEST)]
    if isa == "base":
        last = chosen[-1]
        compatible = {"MKL_CBWR": "COMPATIBLE"}
        chosen.append(
            Contender(
                f"{last.name}, MKL's SSE2",
                *(last.library, last.label, last.module),
                ", ".join([last.setting, *_assignments(compatible)]),
                last.options,
                {**last.environment, **compatible},
                isa,
            )
        )
    return chosen


def choose(
    labels: Sequence[str] = (), libraries: Sequence[str] = (), isa: str | None = None
) -> list[Contender]:
    """Contenders by name (or pattern, in any case) and by library; () means all.

    Raises:
        ValueError: a label matches none, or `isa` is unknown.
    """
    if isa is not None and isa not in LIMITS:
        raise ValueError(f"isa: expected {' or '.join(LIMITS)}, got {isa!r}")
    offered = limited(isa) if isa else list(CONTENDERS.values())
    for label in labels:
        if not any(_matches(c, label) for c in offered):
            names = "; ".join(c.name for c in offered)
            raise ValueError(f"contenders: expected some of: {names}; got {label!r}")
    return [
        c
        for c in offered
        if (not labels or any(_matches(c, label) for label in labels))
        and (not libraries or c.library in libraries)
    ]


def _matches(contender: Contender, label: str) -> bool:
    return fnmatch.fnmatchcase(contender.name.lower(), label.lower())


# --- one epoch ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """Where the arrays lie that a parent and a child hand over."""

    x: str
    labels: str
    weights: str
    trained: str
    test: str
    predicted: str

    @classmethod
    def within(cls, folder: Path) -> Files:
        names = "x.npy", "labels.npy", "weights.npz", "trained.npz", "test.npy", "predicted.npy"
        return cls(*(str(folder / name) for name in names))


@dataclass(frozen=True)
class Epoch:
    """What an epoch took: seconds by the parent's clock, and the child's answer.

    Attributes:
        cores: how many were in use.
        starved: how many more would have been, had nobody else computed.
    """

    seconds: float
    cores: float
    starved: float
    loss: float
    faults_per_step: float
    peak_mb: float


def timed_epoch(
    child: Child, files: Files, labels: np.ndarray, threads: int
) -> tuple[Epoch, list[np.ndarray]]:
    """Let `child` train on the images that it has: what that took, and its weights.

    Raises:
        RefusedError: the clocks differ, it slept, used more cores than it has threads, or went on
            computing after its answer.
        LostError: it ended or hung.
    """
    np.save(files.labels, labels)
    busy, starved, start = child.busy_seconds(), child.starved_seconds(), time.perf_counter()
    answer = child.ask("epoch", labels=files.labels)
    seconds, busy = time.perf_counter() - start, child.busy_seconds() - busy
    starved = child.starved_seconds() - starved
    late = child.busy_seconds()
    child.ask("weights", to=files.trained)
    late = child.busy_seconds() - late
    share, slack = CLOCKS_AGREE
    if not abs(answer["seconds"] - seconds) <= share * seconds + slack:
        raise RefusedError(f"its clock says {answer['seconds']:.3f} s, the parent's {seconds:.3f}")
    if not busy + starved >= seconds / 2:
        raise RefusedError(f"slept: computed {busy:.3f} s of {seconds:.3f} s")
    if not busy <= 1.05 * threads * seconds + slack:
        raise RefusedError(f"used {busy / seconds:.2f} cores, has {threads}")
    share, slack = AFTERWARDS
    if not late <= share * busy + slack:
        raise RefusedError(f"computed {late:.3f} s after its answer, {busy:.3f} s before it")
    answer["seconds"] = seconds
    with np.load(files.trained) as arrays:
        weights = [arrays[name] for name in arrays.files]
    return Epoch(cores=busy / seconds, starved=starved / seconds, **answer), weights


class Run:
    """One contender's part in a workload: its process, its epochs so far, and how it ended.

    Attributes:
        status, reason: as in a row.
        error: the largest deviation of what it learned, as a share of what is allowed.
        child: its process, while there is one.
    """

    def __init__(self, contender: Contender, workload: Training, threads: int, files: Files):
        self.contender, self.threads = contender, threads
        self.status, self.reason = "ok", None
        self.version, self.error = "", 0.0
        self.epochs: list[Epoch] = []
        self.workload, self.files = workload, files
        self.child: Child | None = None

    def start(self, patience: float) -> None:
        c, w = self.contender, self.workload
        settings = (w.task.network, w.batch, self.threads, c.options, c.environment, patience)
        self.child = Child(c.module, *settings)
        self.version = self.child.version
        if self.child.absent:
            self.end("absent", self.child.absent)
        else:
            self.child.stop()

    def attempt(self, step: Callable, *args) -> None:
        """`step`, unless this has ended; its errors become this contender's status."""
        if self.status != "ok":
            return
        try:
            step(*args)
        except (RefusedError, NotTrainedError) as error:
            self.end("refused", str(error))
        except (LostError, OSError) as error:
            self.end("failed", str(error))

    def warm_up(self, lesson: Lesson) -> None:
        """An epoch that nobody looks at."""
        with self.awake() as child:
            self.hand_over(lesson.x, self.workload.task.network.weights())
            np.save(self.files.labels, lesson.labels)
            child.ask("epoch", labels=self.files.labels)

    def turn(self, images: int, right: Learned, seed: int, number: int) -> None:
        """An epoch that counts, taken again where the machine may be what disturbed it.

        Each attempt has its own lesson, or the last one would have been learned before.
        """
        task = self.workload.task
        before = task.network.weights()
        with self.awake() as child:
            for attempt in range(1, ATTEMPTS + 1):
                lesson = Lesson.draw(task, images, seed, number, attempt)
                self.hand_over(lesson.x, before, number)
                try:
                    epoch, after = timed_epoch(child, self.files, lesson.labels, self.threads)
                    break
                except RefusedError:
                    if attempt == ATTEMPTS:
                        raise
        got = learned(task.network, epoch.loss, before, after, lesson)
        self.error = max(self.error, check(task, got, right))
        self.epochs.append(epoch)

    def close(self) -> None:
        if self.child:
            self.child.close()
            self.child = None

    @contextlib.contextmanager
    def awake(self) -> Iterator[Child]:
        """Within the block the process may run."""
        self.child.go()
        yield self.child
        self.child.stop()

    def hand_over(
        self, x: np.ndarray, weights: Sequence[np.ndarray] | None = None, seed: int = 0
    ) -> None:
        """Images, and what to begin anew from; the child does not begin anew if it is None."""
        np.save(self.files.x, x)
        self.child.ask("images", x=self.files.x)
        if weights is not None:
            np.savez(self.files.weights, *weights)
            self.child.ask("restart", weights=self.files.weights, seed=seed)

    def head(self, workload: str) -> dict:
        """What every row says of who it is about."""
        contender = self.contender
        own = contender.library == "tilegrad"
        return {
            "workload": workload,
            "kind": "train",
            "device": "cpu",
            "threads": self.threads,
            "library": contender.library,
            "label": contender.label,
            "name": contender.name,
            "version": self.version,
            "setting": contender.setting,
            "environment": dict(contender.environment),
            "isa": contender.isa or (backend.get("cpu").name if own else None),
            "status": self.status,
            "reason": self.reason,
        }

    def end(self, status: str, reason: str) -> None:
        self.status, self.reason = status, reason
        self.close()


@contextlib.contextmanager
def prepared(
    runs: Sequence[Run],
    lesson: Callable[[], Lesson],
    patience: float,
    tell: Callable[[Run, str], None],
) -> Iterator[None]:
    """Within the block the processes of `runs` are there, warmed up on a lesson and stopped."""
    try:
        warm = lesson()
    except OSError as error:
        first_line = str(error).partition("\n")[0].rstrip(":")
        for run in runs:
            run.end("absent", f"no images: {first_line} (docs/data.md)")
    try:
        for run in _alive(runs):
            run.attempt(run.start, patience)
            run.attempt(run.warm_up, warm)
            tell(run, run.reason or "ready")
        yield
    finally:
        for run in runs:
            run.close()


# --- rounds ---------------------------------------------------------------------------------------


def measure(workloads: Sequence[Training], **options) -> list[dict]:
    """All of `rows`."""
    return list(rows(workloads, **options))


def rows(
    workloads: Sequence[Training],
    *,
    threads: int | None = None,
    budget_s: float = 120,
    labels: Sequence[str] = (),
    libraries: Sequence[str] = (),
    isa: str | None = None,
    noise: float = 0.01,
    images: int | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    patience: float = PATIENCE,
    report: Callable[[str], None] | None = None,
) -> Iterator[dict]:
    """A row for each workload and contender, tilegrad's first.

    Args:
        threads: of each contender, on as many cores; all usable cores if None.
        budget_s: seconds of rounds for each workload, all contenders together. No further round
            begins afterwards, once there are two.
        labels: names of contenders or patterns, () for all.
        libraries: as in the rows, () for all.
        isa: limit tilegrad and PyTorch to "avx2" or "base"; the others then have no part.
        noise: rounds end when every median, and every median ratio to tilegrad, has less.
        images: of one epoch, rounded down to whole batches; the task's own number if None.
        rounds: at least, if the budget allows.
        patience: seconds for an answer of a contender, then it counts as hanging.
        report: told what happens, in lines of text.

    Raises:
        ValueError: unknown labels or isa; more threads than cores; not one whole batch.
    """
    contenders = choose(labels, libraries, isa)
    cores = usable_cores()
    threads = cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise ValueError(f"threads: expected 1 to {cores}, the usable cores, got {threads}")
    for workload in workloads:
        count = workload.task.images if images is None else images
        if count < workload.batch:
            raise ValueError(f"{workload}: expected at least {workload.batch} images, got {count}")
    for workload in workloads:
        count = workload.task.images if images is None else images
        count -= count % workload.batch
        speed = Speed(supported_isas()[0], threads)
        course = Course(workload, count, seed, speed, report or (lambda text: None))
        with course.runs(contenders, threads, patience) as runs:
            course.rounds(runs, budget_s, noise, rounds)
        yield from (course.row(run, runs) for run in runs)


class Course:
    """A workload's rounds; `speed` is looked at around each turn."""

    def __init__(
        self,
        workload: Training,
        images: int,
        seed: int,
        speed: Speed,
        report: Callable[[str], None],
    ):
        self._workload, self._images, self._seed = workload, images, seed
        self._speed, self._report = speed, report

    @contextlib.contextmanager
    def runs(
        self, contenders: Sequence[Contender], threads: int, patience: float
    ) -> Iterator[list[Run]]:
        """The contenders' runs, ready and warm; their processes end with the block."""
        with tempfile.TemporaryDirectory() as folder:
            files = Files.within(Path(folder))
            runs = [Run(contender, self._workload, threads, files) for contender in contenders]
            lesson = functools.partial(Lesson.draw, self._workload.task, self._images, self._seed)
            with prepared(runs, lesson, patience, self._tell):
                yield runs

    def rounds(self, runs: Sequence[Run], budget_s: float, noise: float, least: int) -> None:
        """Let all have their turns until the medians are known."""
        if not _alive(runs):
            return
        task, batch = self._workload.task, self._workload.batch
        right = truth(task, batch, self._images, self._seed)
        began, number = time.perf_counter(), 0
        while _alive(runs):
            number += 1
            for run in _alive(runs):
                self._speed.look()
                run.attempt(run.turn, self._images, right, self._seed, number)
                self._speed.look()
                self._tell(run, run.reason or f"{run.epochs[-1].seconds:.3f} s")
            spent = time.perf_counter() - began > budget_s
            if number >= LEAST_ROUNDS and (spent or (number >= least and _settled(runs, noise))):
                return

    def row(self, run: Run, runs: Sequence[Run]) -> dict:
        """What a results file keeps of `run`; see docs/benchmarks.md."""
        row = run.head(str(self._workload)) | {"images": self._images, "ratio": None}
        if run.status != "ok":
            return row
        ours = next((r for r in runs if r.contender.library == "tilegrad"), None)
        if ours and ours.status == "ok":
            row["ratio"] = paired(_samples(run), _samples(ours)).median
        scale = EPOCH / self._images
        return row | {
            "error": run.error,
            "warm": Samples([scale * e.seconds for e in run.epochs]).summary(),
            "cold": None,
            "flops": EPOCH * self._workload.task.network.flops(),
            "calibration": self._speed.rates,
            "loss": run.epochs[-1].loss,
            "cores_used": median(e.cores for e in run.epochs),
            "cores_missed": median(e.starved for e in run.epochs),
            "faults_per_step": median(e.faults_per_step for e in run.epochs),
            "peak_mb": run.epochs[-1].peak_mb,
        }

    def _tell(self, run: Run, text: str) -> None:
        self._report(f"{self._workload}  {run.contender.name:<36} {text}")


def _alive(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.status == "ok"]


def _samples(run: Run) -> Samples:
    return Samples([epoch.seconds for epoch in run.epochs])


def _settled(runs: Sequence[Run], noise: float) -> bool:
    """Whether all medians, and all ratios to the first run, are known to within `noise`."""
    samples = [_samples(run) for run in _alive(runs)]
    ratios = [paired(s, samples[0]) for s in samples[1:]]
    return all(s.noise <= noise for s in (*samples, *ratios))
