"""The command ``tilegrad``: ``train`` fits the small CNN, ``info`` says what runs here."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from . import __version__, backend, profile_cli, trace

# (largest pixel value, default epochs, default batch size)
_DATASETS = {"digits": (16, 20, 16), "mnist": (255, 5, 32), "fashion_mnist": (255, 5, 32)}
_SHADES = " ░▒▓█"
_ASCII_SHADES = " .:*#"
_INTERRUPTED = 130  # 128 + SIGINT, what shells expect


def main(argv=None) -> int:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        if argv[:1] == ["bench"]:
            code = _bench().main(argv[1:])
        else:
            arguments = parse(argv)
            code = arguments.run(arguments) or 0
        print(end="", flush=True)
        return code
    except KeyboardInterrupt:
        print("\ntilegrad: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, ValueError) as error:
        if not isinstance(error, BrokenPipeError):  # the reader (head, less) has left: no news
            print(f"tilegrad: {error or type(error).__name__}", file=sys.stderr)
        _drop_output()
        return 1


def parse(argv) -> argparse.Namespace:
    """The arguments as they are understood; if they are not, says why and exits with 2."""
    if argv[:1] == ["bench"]:
        return _bench().read(argv[1:])
    return _parser().parse_args(argv)


def _bench():
    from .bench import cli

    return cli


def _drop_output() -> None:
    """Forget what stdout cannot take, or the interpreter complains once more when it exits."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tilegrad", description="A numerical core for training neural networks."
    )
    parser.add_argument("--version", action="version", version=f"tilegrad {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)

    about = "train a small CNN; show time per kernel, pictures, test accuracy"
    train = commands.add_parser("train", help=about, description=about)
    train.add_argument(
        "--dataset", choices=_DATASETS, default="digits", help="default: digits (in the package)"
    )
    number = {"metavar": "N"}
    train.add_argument(
        "--epochs", type=_integer(1), help="default: 20 for digits, 5 for the others", **number
    )
    train.add_argument(
        "--batch-size", type=_integer(1), help="default: 16 for digits, 32 for the others", **number
    )
    train.add_argument(
        "--seed", type=_integer(0, 2**32 - 1), default=0, help="default: 0", **number
    )
    train.add_argument(
        "--threads",
        type=_integer(1, 1024),
        help="default: TILEGRAD_THREADS, else every usable core",
        **number,
    )
    train.add_argument(
        "--device", choices=backend.DEVICES, help="default: TILEGRAD_DEVICE, else cpu"
    )
    train.set_defaults(run=_train, error=train.error)

    profile_cli.add_parser(commands, _DATASETS, _integer(1))

    about = "prove, then time, kernels and training against other libraries; compare, report"
    commands.add_parser("bench", help=about, add_help=False)  # it reads its arguments itself

    about = "show version, instruction set and why, threads, backends"
    info = commands.add_parser("info", help=about, description=about)
    info.set_defaults(run=_info)
    return parser


def _integer(low: int, high: int | None = None):
    bounds = f"at least {low}" if high is None else f"in {low}..{high}"

    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            value = int(text)
            if low <= value and (high is None or value <= high):
                return value
        raise argparse.ArgumentTypeError(f"expected an integer {bounds}, got {text!r}")

    return parse


def _train(arguments) -> None:
    from . import keras

    device = arguments.device or backend.default_device()
    if arguments.threads and device != "cpu":
        arguments.error(f"argument --threads: expected device cpu, got {device}")
    chosen = backend.get(device)  # says at once what is missing
    if arguments.threads:
        backend.set_num_threads(arguments.threads)
    backend.set_default_device(device)
    keras.utils.set_random_seed(arguments.seed)

    largest, epochs, batch_size = _DATASETS[arguments.dataset]
    epochs = arguments.epochs or epochs
    batch_size = arguments.batch_size or batch_size
    (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, arguments.dataset).load_data()
    images = x_test
    x_train, x_test = (x[..., None].astype(np.float32) / largest for x in (x_train, x_test))

    threads = f", threads {backend.get_num_threads()}" if device == "cpu" else ""
    print(
        f"{arguments.dataset}: {len(x_train):,} images to learn from, {len(x_test):,} to test on\n"
        f"backend {chosen.name}{threads}, seed {arguments.seed}\n"
    )
    model = _small_cnn(keras, x_train.shape[1:])
    model.summary()
    clock = _clock(keras)
    model.fit(x_train, y_train, batch_size, epochs, callbacks=[clock])
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)

    print()
    Console().print(clock.recorder.table("Time per kernel, last epoch"))
    predicted = model.predict(x_test, verbose=0).argmax(axis=-1)
    y_test = y_test[: len(predicted)]  # KERAS_MAX_STEPS_PER_EPOCH may have stopped it early
    print()
    print(_gallery(images, y_test, predicted, shutil.get_terminal_size().columns))
    print(f"time per epoch  {clock.seconds_per_epoch:.3f} s (median of {clock.count})")
    print(f"test accuracy   {accuracy:.4f}")


def _small_cnn(keras, shape):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input(shape),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _clock(keras):
    """Callback: seconds per epoch, and the kernels of the last epoch.

    The recorder slows what it records, so the epoch that it sees counts only if it is the only one.
    """

    class Clock(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self._seconds = []
            self._recording = contextlib.ExitStack()

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.params["epochs"] - 1:
                self.recorder = self._recording.enter_context(trace.record())
            self._start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self._seconds.append(time.perf_counter() - self._start)

        def on_train_end(self, logs=None):
            self._recording.close()
            counted = self._seconds[:-1] or self._seconds
            self.seconds_per_epoch, self.count = statistics.median(counted), len(counted)

    return Clock()


def _gallery(images, labels, predicted, columns) -> str:
    """Test images as text and what they were taken for: the first right ones, then wrong ones."""
    side = images.shape[1]
    step = -(-side // 16)  # at most 16 cells a side
    pixels = 2 * (side // step)  # characters are about twice as high as wide
    across = max(1, (columns + 2) // (pixels + 2))
    wrong = np.flatnonzero(predicted != labels)[:across]
    right = np.flatnonzero(predicted == labels)[:across]
    blocks = []
    for row in (right, wrong):
        if len(row):
            pictures = [_picture(images[i], step) for i in row]
            captions = [
                str(predicted[i]) + ("" if predicted[i] == labels[i] else f", but is {labels[i]}")
                for i in row
            ]
            lines = ["  ".join(parts).rstrip() for parts in zip(*pictures, strict=True)]
            lines.append("  ".join(text.center(pixels) for text in captions).rstrip())
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _picture(image, step) -> list[str]:
    """One line of text per row of cells, two characters a cell, darker for larger pixels."""
    shades = _SHADES if _can_print(_SHADES) else _ASCII_SHADES
    side = image.shape[0] // step
    cells = image[: side * step, : side * step].reshape(side, step, side, step).mean(axis=(1, 3))
    levels = np.ceil(cells / max(image.max(), 1) * (len(shades) - 1) - 0.25).clip(0).astype(int)
    return ["".join(shades[level] * 2 for level in row) for row in levels]


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _info(arguments) -> None:
    rows = backend.describe()
    in_use = [f"{name} ({why.split(': ')[1]})" for name, _, why in rows if "in use" in why]
    print(f"tilegrad  {__version__}")
    print(f"python    {platform.python_version()}, numpy {np.__version__}")
    print(f"machine   {platform.machine()}, {platform.system()}")
    print(f"device    {backend.default_device()}")
    print(f"isa       {in_use[0] if in_use else 'none'}")
    with contextlib.suppress(RuntimeError):  # no compiled backend
        source = "TILEGRAD_THREADS" if os.environ.get("TILEGRAD_THREADS") else "the usable cores"
        print(f"threads   {backend.get_num_threads()} ({source})")
    print()
    table = Table(title="Backends")
    for heading in ("backend", "present", "why"):
        table.add_column(heading, overflow="fold")
    for name, present, reason in rows:
        table.add_row(name, "yes" if present else "no", reason)
    Console().print(table)
