"""benchmarks/gpu: all of it runs in the simulator, and then says no time."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tilegrad import backend as backends

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from gpu import report, training  # noqa: E402
from gpu.device import Cuda  # noqa: E402

missing = backends.supported().get("sim", "there is no device sim")
needs_sim = pytest.mark.skipif(missing is not None, reason=str(missing))


@pytest.fixture(autouse=True)
def on_backend():
    """In place of the other peers' fixture: nothing here depends on an instruction set."""


def test_who_does_not_learn_what_pytorch_does_is_found_out():
    losses = {training.Eager.name: [2.3, 2.0], "same": [2.3001, 2.0001]}
    training.check(losses)
    for wrong in ([2.3, 2.1], [2.3, float("nan")]):
        with pytest.raises(AssertionError, match="other: step 1"):
            training.check(losses | {"other": wrong})


class Stream:
    """Stands for CuPy's: notes what happens on it."""

    def __init__(self, events):
        self.events = events

    def __enter__(self):
        self.events.append("enter")

    def __exit__(self, *error):
        self.events.append("exit")

    def synchronize(self):
        self.events.append("wait")

    def begin_capture(self):
        self.events.append("begin")

    def end_capture(self):
        self.events.append("end")
        return types.SimpleNamespace(
            launch=lambda stream: self.events.append(f"launch on {stream}")
        )


def test_calls_are_made_once_before_they_are_captured():
    events = []
    device = Cuda.__new__(Cuda)
    device._capturing = Stream(events)
    device.synchronize = lambda: events.append("wait for all")
    device.xp = types.SimpleNamespace(cuda=types.SimpleNamespace())
    device.xp.cuda.Stream = types.SimpleNamespace(null="the default")
    replay = device.capture([lambda: events.append("a"), lambda: events.append("b")])
    assert events == ["wait for all", "enter", "a", "b", "wait", "begin", "a", "b", "end", "exit"]
    replay()
    assert events[-1] == "launch on the default"


@needs_sim
@pytest.mark.parametrize("part", ["ceilings", "training", "checks"])
def test_the_parts_run_in_the_simulator(part, tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "gpu", part, "--device", "sim", "--out", str(out)]
    run = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads(out.read_text())
    assert results["rehearsal"]
    assert results["rows"]
    for text in (out.read_text(), run.stdout):
        assert not re.search(r'(seconds|rate|ratio)": [\[\d]', text), "a time"
    passed = {"verdict": "passed", "seconds": 1.0, "note": "", "results": results}
    whole = {"name": "Rehearsal", "rehearsal": True, "date": "", "commit": ""}
    text = report.report(whole | {"parts": {part: passed}})
    assert not re.search(r"\d (ns|µs|ms|TB/s|TFLOP/s)", text)
