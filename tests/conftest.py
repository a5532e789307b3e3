"""Fixtures: every kernel test runs on every backend that this machine allows."""

from __future__ import annotations

import os

import hypothesis
import numpy as np
import pytest
from on_device import OnDevice

from tilegrad import backend as backends

collect_ignore = ["peers"]  # needs PyTorch: `pytest tests/peers`

# The same examples in every run; `--hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=20)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=500)
hypothesis.settings.load_profile("fixed")

COMPILED = ["cpu:base", "cpu:avx2", "cpu:avx512"]
# The simulator again: with its threads in random orders, drawn from a seed, and with every access
# checked. For kernels; what is built on them meets nothing new there.
RERUNS = ["sim:1", "sim:2", "simtrace"]
BACKENDS = ["reference", *COMPILED, "sim", *RERUNS]
WHY_NO_CUDA = backends.supported()["cuda"]
if WHY_NO_CUDA is None:
    BACKENDS.append("cuda")


def _chosen(names):
    """Those of `names` that TILEGRAD_TEST_BACKENDS lists, or all of them."""
    wanted = os.environ.get("TILEGRAD_TEST_BACKENDS", "").replace(" ", "")
    wanted = wanted.split(",") if wanted else BACKENDS
    unknown = set(wanted) - set(BACKENDS)
    if unknown:
        why = f"; no cuda: {WHY_NO_CUDA}" if "cuda" in unknown else ""
        raise pytest.UsageError(f"TILEGRAD_TEST_BACKENDS: expected {BACKENDS}, got {unknown}{why}")
    return [name for name in names if name in wanted]


def _load(name):
    """The backend; a skip where the machine cannot run it, a failure where only the build lacks."""
    name = name.removeprefix("cpu:").partition(":")[0]
    reason = backends.supported()[name]
    if reason is None:
        return backends.load(name)
    if "not built" in reason:
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_generate_tests(metafunc):
    """Each backend in turn; TILEGRAD_TEST_BACKENDS=reference,cpu:avx2 narrows the list."""
    if "backend" in metafunc.fixturenames:
        reruns = [] if "on_backend" in metafunc.fixturenames else RERUNS
        names = [name for name in BACKENDS if name not in RERUNS or name in reruns]
        metafunc.parametrize("backend", _chosen(names), indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request):
    """A backend as kernel tests call it, with NumPy arrays."""
    loaded = _load(request.param)
    if request.param == "cuda":
        yield OnDevice(loaded)
    elif loaded.name.startswith("sim"):
        loaded.module.set_schedule(int(request.param.partition(":")[2] or 0))
        yield loaded
        loaded.module.set_schedule(0)
    else:
        yield loaded


@pytest.fixture
def on_backend(backend):
    """Within the test, tensors are made on each backend in turn: pytest.mark.usefixtures."""
    with backends.use(backend.name):
        yield


@pytest.fixture(scope="session", params=_chosen(COMPILED))
def compiled(request):
    """Each compiled backend in turn."""
    return _load(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
