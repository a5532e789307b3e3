"""pytest-benchmark over a suite's kernels: ``python -m pytest benchmarks --suite quick``."""

from tilegrad.bench import suites
from tilegrad.bench.workload import parse


def pytest_addoption(parser):
    parser.addoption("--suite", choices=("quick", "cpu"), default="quick", help="which kernels")


def pytest_generate_tests(metafunc):
    if "workload" in metafunc.fixturenames:
        chosen = suites.SUITES[metafunc.config.getoption("--suite")].descriptors
        kernels = [parse(d) for d in chosen if not d.startswith("train:")]
        metafunc.parametrize("workload", kernels, ids=str)
