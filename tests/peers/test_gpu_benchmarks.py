"""benchmarks/gpu: wrong results are refused, every kernel has a row, and all of it runs on sim."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch_checks import torch

from tilegrad import backend as backends
from tilegrad.backend import KERNELS

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from gpu import kernels, report, timing  # noqa: E402
from gpu.timing import Contender, NotProvedError, Truth  # noqa: E402

missing = backends.supported().get("sim", "there is no device sim")
needs_sim = pytest.mark.skipif(missing is not None, reason=str(missing))


@pytest.fixture(autouse=True)
def on_backend():
    """In place of the other peers' fixture: nothing here depends on an instruction set."""


A, B = (torch.randn(17, 17, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
TRUTH = Truth([A.double() @ B.double()], length=17)


class Bench:
    """A device whose clock is a counter."""

    simulated = False
    cache_bytes = 1000
    synchronize = staticmethod(lambda: None)

    def __init__(self, captures=True):
        self.captures = captures

    def stopwatch(self, run):
        run()
        return 1.0, 2.0

    def capture(self, calls, library):
        return (lambda: [call() for call in calls]) if self.captures else None


def contender(call, name="suspect"):
    y = torch.zeros(17, 17)
    return Contender(name, "torch", [lambda: call(y)] * 3, lambda _: [y], [y])


def honest(y):
    torch.mm(A, B, out=y)


def zeros(y):
    y.zero_()


def nan(y):
    honest(y)
    y[3, 4] = torch.nan


def nothing(y):
    pass


def half(y):
    torch.mm(A[:8], B, out=y[:8])


def imprecise(y):
    y.copy_((A.half() @ B.half()).float())


class Forever:
    def left(self):
        return 1e9


def turns(*contenders, captures=True):
    return timing.take_turns(Bench(captures), contenders, TRUTH, Forever(), rounds=3)


@pytest.mark.parametrize("captures", [True, False])
def test_an_honest_call_is_timed(captures):
    row = turns(contender(honest, "ours"), contender(honest, "theirs"), captures=captures)
    assert row["timed"] == ("graph" if captures else "stream")
    assert row["noise"] == 0
    assert row["contenders"]["theirs"]["gpu"] == [1 / 21] * 3
    assert row["contenders"]["theirs"]["wall"] == [2 / 21] * 3


@pytest.mark.parametrize("wrong", [zeros, nan, nothing, half, imprecise])
def test_a_wrong_call_is_refused(wrong):
    with pytest.raises(NotProvedError, match="suspect"):
        turns(contender(honest, "ours"), contender(wrong))


@pytest.mark.parametrize("later", [zeros, nan, nothing])
def test_timed_calls_are_checked_too(later):
    calls = 0

    def turncoat(y):
        nonlocal calls
        calls += 1
        (honest if calls < 30 else later)(y)

    with pytest.raises(NotProvedError):
        turns(contender(turncoat))


def test_a_truth_of_zeros_proves_nothing():
    with pytest.raises(NotProvedError, match="no proof"):
        Truth([torch.zeros(17, 17).double()]).compare(_called(contender(zeros)))


def _called(suspect):
    suspect.steps(1)[0]()
    return suspect


def test_a_ratio_is_the_median_of_pairs():
    assert timing.ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == 2.0


def test_buffers_exceed_the_cache():
    assert timing.number_of_sets(Bench(), 100) == 40
    assert timing.number_of_sets(Bench(), 1) == timing.SETS
    assert timing.number_of_sets(Bench(), 1 << 40) == 1


def test_every_kernel_is_measured():
    text = (BENCHMARKS / "gpu" / "kernels.py").read_text()
    assert [name for name in KERNELS if not re.search(rf"\bkernels\.{name}\b", text)] == []


def test_every_goal_is_about_a_row():
    rows = {
        (name, kernels.label(size))
        for name, (_, sizes, _) in kernels.ROWS.items()
        for size in sizes
    }
    for goal in report.GOALS:
        assert (goal.kernel, goal.shape) in rows


@needs_sim
@pytest.mark.parametrize("part", ["ceilings", "kernels", "training", "checks"])
def test_the_parts_run_in_the_simulator(part, tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "gpu", part, "--device", "sim", "--out", str(out)]
    run = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads(out.read_text())
    assert results["rehearsal"]
    assert results["rows"]
    for text in (out.read_text(), run.stdout):
        assert not re.search(r'(seconds|rate|ratio|gpu|wall)": [\[\d]', text), "a time"
    passed = {"verdict": "passed", "seconds": 1.0, "note": "", "results": results}
    whole = {"name": "Rehearsal", "rehearsal": True, "date": "", "commit": ""}
    text = report.report(whole | {"parts": {part: passed}})
    assert not re.search(r"\d (ns|µs|ms|TB/s|TFLOP/s)", text)
