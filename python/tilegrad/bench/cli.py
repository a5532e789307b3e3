"""``tilegrad bench``: measure, compare, report.

tilegrad bench --suite quick                      under two minutes
tilegrad bench 'conv2d*c64*' --threads 1 2        what matches, on 1 and on 2 threads
tilegrad bench dense:m17k31n9 --seconds 3         any descriptor
tilegrad bench --file mine.txt --json mine.json   a descriptor a line
tilegrad bench --list --suite all
tilegrad bench --machine                          measure this machine's roofs anew
tilegrad bench compare A.json B.json --fail 10%
tilegrad bench report --html page.html
tilegrad bench tta --network deep --target 0.99
"""

from __future__ import annotations

import argparse
import sys

from .. import backend
from . import compare, report, runner, suites, training, tta
from .workload import WORKLOADS, parse, read_file, select

COMMANDS = {"compare": compare, "report": report, "tta": tta}


def main(argv: list[str]) -> int:
    """Run ``tilegrad bench`` with these arguments; the exit code."""
    if argv[:1] and argv[0] in COMMANDS:
        return COMMANDS[argv[0]].main(argv[1:])
    arguments = read(argv)
    if arguments.machine or arguments.check:
        return _machine(arguments)
    try:
        chosen = chosen_workloads(arguments)
        plan = _plan(arguments)
    except (OSError, ValueError) as error:
        _parser().error(str(error))
    if arguments.list:
        return _list(chosen)
    return runner.run(chosen, plan)


def read(argv: list[str]) -> argparse.Namespace:
    """The arguments as they are understood; if they are not, says why and exits with 2."""
    if argv[:1] and argv[0] in COMMANDS:
        return COMMANDS[argv[0]].parser().parse_args(argv[1:])
    return _parser().parse_intermixed_args(argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tilegrad bench",
        usage="%(prog)s [options] [WORKLOAD ...]\n"
        "       %(prog)s compare A.json B.json --fail 10%%\n"
        "       %(prog)s report [--check] [--html FILE]\n"
        "       %(prog)s tta [--network cnn deep] [--seeds 10]",
        description="Prove, then time, tilegrad and its peers in turns on the same workloads.",
        epilog="docs/benchmarks.md says what the numbers mean; workloads: " + ", ".join(WORKLOADS),
    )
    add = parser.add_argument
    add("workloads", nargs="*", metavar="WORKLOAD", help="a descriptor, or a pattern of the suite")
    add("--suite", choices=suites.SUITES, help="default: quick, or cpu where a pattern is given")
    add("--file", help="read descriptors from a file, one a line; # begins a comment")
    add("--list", action="store_true", help="print the workloads and measure nothing")
    add("--machine", action="store_true", help="measure this machine's roofs anew and print them")
    add("--check", action="store_true", help="the roofs beside the best SGEMM of PyTorch or NumPy")
    add("--threads", nargs="+", type=_positive, metavar="N", help="default: all usable cores")
    add("--isa", nargs="+", choices=backend.ISAS, help="tilegrad's; default: the best one here")
    add("--device", choices=("cpu", "cuda", "sim"), help="default: the suite's")
    add("--libraries", nargs="+", metavar="NAME", help="who takes part; default: the suite's")
    add("--seconds", type=float, help="for each workload on each number of threads")
    text = "that measure each kernel, one after the other; they share its seconds; default: 2"
    add("--processes", type=_positive, default=2, metavar="N", help=text)
    add("--noise", type=_percent, default=0.01, metavar="1%%", help="stop below this; default: 1%%")
    add("--no-cold", action="store_true", help="warm caches only")
    add("--seed", type=int, default=0, help="of the inputs; default: 0")
    add("--json", metavar="FILE", help="write the results file")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share such as 1%, got {text!r}")
    return value


def _suite(arguments) -> suites.Suite:
    if arguments.suite:
        return suites.SUITES[arguments.suite]
    return suites.SUITES["cpu" if arguments.workloads or arguments.file else "quick"]


def _workload(descriptor: str):
    return training.parse(descriptor) if descriptor.startswith("train:") else parse(descriptor)


def chosen_workloads(arguments) -> list:
    """What the arguments name: descriptors as they are, patterns out of the suite or file.

    Raises:
        ValueError: a descriptor is none, or a pattern matches nothing.
    """
    if arguments.file:
        offered = read_file(arguments.file)
    else:
        offered = [_workload(d) for d in _suite(arguments).descriptors]
    chosen = []
    for text in arguments.workloads:
        found = select(offered, [text])
        if not found and set(text) & set("*?["):
            raise ValueError(f"workload: expected a pattern that matches some, got {text!r}")
        chosen += found or [_workload(text)]
    return list({str(w): w for w in chosen or offered}.values())


def _plan(arguments) -> runner.Plan:
    suite = _suite(arguments)
    device = arguments.device or suite.device
    return runner.Plan(
        suite=arguments.suite or "",
        device=device,
        threads=_threads(arguments, suite, device),
        isas=arguments.isa or [backend.get("cpu").name],
        libraries=["tilegrad", *arguments.libraries] if arguments.libraries else suite.libraries,
        processes=arguments.processes,
        seconds=arguments.seconds or suite.seconds,
        epoch_seconds=arguments.seconds or suite.epoch_seconds,
        noise=arguments.noise,
        cold=not arguments.no_cold,
        seed=arguments.seed,
        path=arguments.json,
        arguments=sys.argv[1:],
    )


def _threads(arguments, suite: suites.Suite, device: str) -> dict[int, tuple[str, ...]]:
    """Number of threads -> patterns of the kernels that are measured on it; () is all of them."""
    cores = runner.usable_cores()
    for count in arguments.threads or ():
        if count > cores:
            raise ValueError(f"--threads: expected at most {cores}, the usable cores, got {count}")
    if arguments.threads:
        return dict.fromkeys(sorted(set(arguments.threads)), ())
    single = suite.single if device == "cpu" and not arguments.workloads else ()
    return ({1: single} if single else {}) | {cores: ()}


def _list(chosen) -> int:
    for workload in chosen:
        print(workload)
    return 0


def _machine(arguments) -> int:
    from rich.console import Console

    from . import roofline

    console = Console()
    if arguments.machine:
        console.print(roofline.table(roofline.measure_all()))
    if arguments.check:
        console.print(roofline.check_table(roofline.check_all()))
    return 0
