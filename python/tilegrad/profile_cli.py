"""The command ``tilegrad profile``: the small CNN of ``tilegrad train``, or a script of yours."""

from __future__ import annotations

import argparse
import runpy
import sys
import traceback
from pathlib import Path

from . import profiler

_EPOCHS = {"digits": 5}  # of the others 1: it is long enough
_CNN_ONLY = ("dataset", "epochs", "batch_size", "eager", "json")


def add_parser(commands, datasets, count) -> None:
    """Add the command to the subparsers `commands`.

    Args:
        datasets: name -> (largest pixel value, epochs, batch size).
        count: a parser of whole numbers from 1.
    """
    about = "show where the time of a training run goes: of the small CNN, or of a script"
    parser = commands.add_parser(
        "profile",
        help=about,
        description=f"{about}.",
        usage="%(prog)s [options] [script.py [argument ...]]",
    )
    parser.add_argument(
        "script", nargs="?", type=Path, help="a Python script to run; default: the CNN"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    number = {"metavar": "N", "type": count}
    parser.add_argument("--dataset", choices=datasets, help="default: digits")
    parser.add_argument("--epochs", help="default: 5 for digits, 1 for the others", **number)
    parser.add_argument("--batch-size", help="default: 16 for digits, 32 for the others", **number)
    parser.add_argument(
        "--eager", action="store_true", default=None, help="do not capture the step"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write a trace for Perfetto (JSON)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture (SVG, PNG, PDF)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the CNN's results file")
    parser.set_defaults(run=_run, error=parser.error, datasets=datasets)


def _run(arguments) -> None:
    from rich.console import Console

    if arguments.script is None:
        found, code = _profile_cnn(arguments), 0
    else:
        for name in _CNN_ONLY:
            if getattr(arguments, name) is not None:
                option = name.replace("_", "-")
                arguments.error(f"argument --{option}: expected no script, got {arguments.script}")
        found, code = _profile_script(arguments)
    Console().print(found.table())
    print(found.overhead)
    if arguments.trace is not None:
        found.chrome_trace(arguments.trace)
        print(f"trace written to {arguments.trace}: open it at https://ui.perfetto.dev")
    if arguments.plot is not None:
        found.plot(arguments.plot)
        print(f"picture written to {arguments.plot}")
    if arguments.json is not None:
        _write(arguments, found)
        print(f"results written to {arguments.json}")
    if code:
        sys.exit(code)


def _profile_cnn(arguments) -> profiler.Profile:
    from . import keras
    from .cli import _small_cnn

    name, batch_size = _task(arguments)
    largest = arguments.datasets[name][0]
    (x, y), _ = getattr(keras.datasets, name).load_data()
    x = x[..., None].astype("float32") / largest
    model = _small_cnn(keras, x.shape[1:])
    if arguments.eager:
        model.compile(model.optimizer, model.loss, metrics=["accuracy"], jit_compile=False)
    epochs = arguments.epochs or _EPOCHS.get(name, 1)
    with profiler.profile() as found:
        model.fit(x, y, batch_size, epochs)
    for line in model.capture_report():
        print(f"step for {line}")
    return found


def _task(arguments) -> tuple[str, int]:
    """(dataset, batch size)."""
    name = arguments.dataset or "digits"
    return name, arguments.batch_size or arguments.datasets[name][2]


def _write(arguments, found: profiler.Profile) -> None:
    """What was found about the CNN, as a results file of ``tilegrad bench``."""
    from . import backend
    from .bench import machine, record

    _, batch_size = _task(arguments)
    file = record.Record(arguments.json, {"machine": machine.describe()})
    row = record.profile_row(f"profile:cnn:b{batch_size}", backend.get_num_threads(), found)
    file.add(row)


def _profile_script(arguments) -> tuple[profiler.Profile, int | str]:
    """Run the script as ``python script.py arguments`` would; its profile, and what it exits with.

    However it ends, what it did until then is shown.
    """
    script = arguments.script
    if not script.is_file():
        arguments.error(f"argument script: expected a Python file, got {script}")
    argv, path, code = sys.argv, list(sys.path), 0
    sys.argv = [str(script), *arguments.arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        with profiler.profile() as found:
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as end:
                code = end.code
            except KeyboardInterrupt:
                code = 130  # 128 + SIGINT, as a shell says it
            except Exception:
                traceback.print_exc()
                code = 1
    finally:
        sys.argv, sys.path[:] = argv, path
    return found, code
