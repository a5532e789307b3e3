"""scripts/gpu_check on a machine without a GPU: what it does when parts fail or hang."""

import importlib.machinery
import importlib.util
import json
import re
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "gpu_check"
if not SCRIPT.is_file():
    pytest.skip("needs the source tree, not only the package", allow_module_level=True)


def load():
    loader = importlib.machinery.SourceFileLoader("gpu_check", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
    sys.modules["gpu_check"] = module  # dataclasses look there
    loader.exec_module(module)  # puts benchmarks/ on the path
    return module


check = load()
from gpu import report  # noqa: E402

from tilegrad import backend  # noqa: E402
from tilegrad.bench import suites  # noqa: E402
from tilegrad.bench.workload import parse  # noqa: E402


@pytest.fixture
def run(tmp_path):
    """A rehearsal of all parts."""
    made = check.Run(True, check.SECONDS, list(check.PARTS), tmp_path)
    made.open(tmp_path / "out")
    return made


def act(monkeypatch, **actions):
    monkeypatch.setattr(check, "ACTIONS", check.ACTIONS | actions)


def results(folder):
    return json.loads((folder / "results.json").read_text())


# --- the command ----------------------------------------------------------------------------------


def test_a_cheap_part_is_rehearsed(tmp_path, capsys):
    out = tmp_path / "out"
    assert check.main(["--rehearse", "--only", "machine,build", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "report.md", "results.json"]
    verdicts = {name: part["verdict"] for name, part in results(out)["parts"].items()}
    assert verdicts == {"machine": "passed", "build": "skipped"}
    assert "Rehearsal" in (out / "report.md").read_text()
    assert "Python" in (out / "log.txt").read_text()
    assert "0 of 2 parts failed" in capsys.readouterr().out


def test_the_parts_are_listed(capsys):
    assert check.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(check.PARTS)


def test_without_a_gpu_there_is_nothing_to_do(monkeypatch, capsys):
    monkeypatch.setattr(check, "gpu_name", lambda: None)
    assert check.main([]) == 1
    assert "--rehearse" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--only", "nonsense"], ["--rehearse", "--out", str(check.RESULTS / "nvidia")]],
    ids=["unknown part", "a rehearsal among results"],
)
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        check.main(arguments)


def test_results_lie_under_the_name_of_the_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "gpu_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(check, "RESULTS", tmp_path)
    act(monkeypatch, machine=lambda run: "as expected")
    assert check.main(["--only", "machine"]) == 0
    assert results(tmp_path / "nvidia-h100-80gb-hbm3")["name"] == "NVIDIA H100 80GB HBM3"


# --- parts that fail ------------------------------------------------------------------------------


def test_a_part_that_fails_leaves_the_others_theirs(monkeypatch, tmp_path):
    def fails(run):
        run.call([sys.executable, "-c", "import sys; print('my words'); sys.exit(3)"], "a program")

    def breaks(run):
        raise ZeroDivisionError("a fault of the script")

    act(monkeypatch, machine=fails, build=lambda run: "built", ptx=breaks)
    arguments = ["--rehearse", "--only", "machine,build,ptx", "--out", str(tmp_path)]
    assert check.main(arguments) == 2
    parts = results(tmp_path)["parts"]
    assert [parts[name]["verdict"] for name in parts] == ["FAILED", "passed", "FAILED"]
    assert parts["machine"]["note"] == "a program: status 3"
    log = (tmp_path / "log.txt").read_text()
    assert "my words" in log
    assert "ZeroDivisionError: a fault of the script" in log


def test_a_part_that_hangs_is_stopped_with_all_that_it_started(monkeypatch, run, tmp_path):
    alive = tmp_path / "alive"
    child = f"import time, pathlib\nwhile True: pathlib.Path({str(alive)!r}).touch()\n"
    program = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[1]])"
    monkeypatch.setitem(check.PARTS, "machine", check.Part("hangs", 1, 3.5))
    act(
        monkeypatch, machine=lambda run: run.call([sys.executable, "-c", program, child], "program")
    )
    start = time.monotonic()
    assert check.do(run, "machine") == "FAILED"
    assert time.monotonic() - start < 10
    assert "ran out of time" in run.results["parts"]["machine"]["note"]
    alive.unlink()
    time.sleep(0.2)
    assert not alive.exists()


@pytest.mark.parametrize("verdict", [check.FAILED, check.SKIPPED])
def test_without_a_build_nothing_runs_that_needs_it(run, verdict):
    """What is installed, if anything, may be older."""
    run.rehearsal = False
    run.results["parts"]["build"] = {"verdict": verdict, "seconds": 1.0, "note": ""}
    assert check.do(run, "kernels") == "skipped"
    assert run.results["parts"]["kernels"]["note"] == f"the build: {verdict}"


def test_what_a_stopped_benchmark_wrote_is_kept(monkeypatch, run, tmp_path):
    package = tmp_path / "fake" / "gpu"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(
        "import json, sys, time\n"
        "rows = [{'check': 'k', 'failed': 'in this test'}]\n"
        "text = json.dumps({'device': {}, 'rehearsal': True, 'rows': rows})\n"
        "open(sys.argv[sys.argv.index('--out') + 1], 'w').write(text)\n"
        "time.sleep(60)\n"
    )
    run.environment["PYTHONPATH"] = str(package.parent)
    monkeypatch.setitem(check.PARTS, "checks", check.Part("hangs", 1, 4))
    assert check.do(run, "checks") == "FAILED"
    run.write()
    assert results(run.out)["parts"]["checks"]["results"]["rows"][0]["check"] == "k"
    assert "in this test" in (run.out / "report.md").read_text()


ROW = {
    "workload": "relu:n9",
    "library": "tilegrad",
    "label": "tilegrad cuda",
    "setting": "",
    "status": "ok",
    "reason": None,
    "error": 0.25,
    "flops": 9,
    "bytes": 72,
    "ratio": 1.0,
    "warm": {"median": 2e-6, "min": 1e-6, "noise": 0.01},
}
WRONG = {"status": "refused", "reason": "output y[0]: off by 1"}
SLOWER = {"library": "torch", "label": "PyTorch", "ratio": 1.5, "warm": ROW["warm"]}


@pytest.fixture
def harness(monkeypatch, run, tmp_path):
    """Lets a stand-in for `tilegrad bench` write these rows, then end with a status or hang."""

    def given(rows, then="sys.exit(0)", first=""):
        program = tmp_path / "python"
        program.write_text(
            f"#!{sys.executable}\n"
            "import sys, time\n"
            f"assert sys.argv[1:5] == ['-m', 'tilegrad', 'bench', '--suite'], sys.argv\n{first}\n"
            "with open(sys.argv[sys.argv.index('--json') + 1], 'w') as file:\n"
            f"    file.write({json.dumps({'rows': rows})!r})\n{then}\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        monkeypatch.setitem(check.PARTS, "kernels", check.Part("may hang", 1, 4))
        verdict = check.do(run, "kernels")
        return verdict, run.results["parts"]["kernels"]

    return given


def test_kernels_are_measured_by_tilegrad_bench(run, harness):
    run.rehearsal = False
    run.results["parts"]["build"] = {"verdict": check.PASSED, "seconds": 1.0, "note": ""}
    verdict, part = harness([ROW, ROW | SLOWER, ROW | SLOWER | {"label": "CuPy"} | WRONG])
    assert (verdict, part["note"]) == ("passed", "1 workloads")
    ours, theirs, other = part["results"]["rows"]
    assert (ours["seconds"], ours["noise"], theirs["ratio"]) == (2e-6, 0.01, 1.5)
    assert "seconds" not in other
    assert (run.out / "kernels.json").is_file()


def test_a_rehearsal_of_the_kernels_has_no_times(run, harness):
    verdict, part = harness([ROW])
    assert verdict == "passed"
    (row,) = part["results"]["rows"]
    assert row.keys() == {*("workload", "library", "label", "setting", "status", "reason", "error")}
    run.write()
    assert "| `relu:n9` | right | - |" in (run.out / "report.md").read_text()


def test_kernels_that_were_measured_in_time_count(harness):
    verdict, part = harness([ROW], "time.sleep(60)")
    assert (verdict, part["note"]) == ("passed", "1 workloads, then the time was up")


@pytest.mark.parametrize(
    "rows, then, note",
    [
        ([ROW, ROW | WRONG], "sys.exit(1)", "1 not proved; relu:n9: output y[0]: off by 1"),
        ([ROW | WRONG], "time.sleep(60)", "1 not proved; relu:n9: output y[0]: off by 1"),
        ([ROW], "sys.exit(3)", "tilegrad bench: status 3, 1 rows"),
        ([], "sys.exit(0)", "tilegrad bench: status 0, 0 rows"),
    ],
    ids=["refused", "refused before the time was up", "status", "nothing"],
)
def test_kernels_that_are_not_proved_fail(harness, rows, then, note):
    verdict, part = harness(rows, then)
    assert (verdict, part["note"]) == ("FAILED", note)


def test_what_an_earlier_run_measured_does_not_count(run, harness):
    (run.scratch / "kernels.json").write_text(json.dumps({"rows": [ROW]}))
    verdict, part = harness([], first="sys.exit(2)")
    assert (verdict, part["note"]) == ("FAILED", "tilegrad bench: status 2, 0 rows")


def test_every_goal_is_about_a_workload_of_the_suite():
    measured = {str(parse(descriptor)) for descriptor in suites.SUITES["gpu"].descriptors}
    assert {goal.workload for goal in report.GOALS} <= measured


missing = backend.supported().get("sim", "there is no device sim")


@pytest.mark.skipif(missing is not None, reason=str(missing))
def test_tilegrad_bench_runs_in_the_simulator(monkeypatch, run):
    """One workload of the suite: test_bench_workloads.py has them all."""
    start = check.Run.start
    monkeypatch.setattr(check.Run, "start", lambda run, c: start(run, [*c, "relu:n99"]))
    assert check.do(run, "kernels") == "passed"
    assert run.results["parts"]["kernels"]["note"] == "1 workloads"


def test_later_parts_keep_what_they_need_at_least(run):
    names = list(check.PARTS)
    later = sum(check.PARTS[name].least for name in names[2:])
    run.end = time.monotonic() + later + 50
    assert run.allow(names[1]) == pytest.approx(50, abs=1)
    assert run.allow(names[-1]) == check.PARTS[names[-1]].most


def test_with_little_time_every_part_gets_some(tmp_path):
    run = check.Run(True, check.SECONDS / 10, list(check.PARTS), tmp_path)
    for name, part in check.PARTS.items():
        allowed = run.allow(name)
        assert allowed >= part.least / 10
        run.end -= min(allowed, part.least / 10)  # as if it had taken so long


def test_all_of_it_takes_less_than_nine_minutes():
    assert check.arguments_of([]).seconds + 10 < 540
    assert sum(part.least for part in check.PARTS.values()) < check.arguments_of([]).seconds


@pytest.mark.parametrize(
    "text, result",
    [
        ("..F\n1 failed, 47 passed in 0.12s\n", "1 failed, 47 passed in 0.12s"),
        ("===== 3 passed, 1 skipped in 2.00s =====\n", "3 passed, 1 skipped in 2.00s"),
        (
            "tests/conftest.py:38: in _chosen\nE   pytest.UsageError: got cuda\n",
            "pytest.UsageError: got cuda",
        ),
        ("Killed\n", "no result"),
    ],
)
def test_what_pytest_said(text, result):
    assert check.pytest_result(text) == result


# --- the report -----------------------------------------------------------------------------------


def made_up(goal, ratio):
    """tilegrad's row and PyTorch's."""
    ours = {"workload": goal.workload, "library": "tilegrad", "label": "tilegrad cuda"}
    ours |= {"setting": "", "status": "ok", "reason": None, "error": 0.1, "ratio": 1.0}
    ours |= {"seconds": 2e-4, "noise": 0.013, "bytes": 10**8, "flops": 10**9}
    theirs = {"library": "torch", "label": "PyTorch", "setting": "inference mode; channels last"}
    return [ours, ours | theirs | {"seconds": 2e-4 * ratio, "ratio": ratio}]


def made_up_results():
    first, second, third, *_ = report.GOALS
    lost = {"workload": third.workload, "library": "", "label": "", "setting": ""}
    cupy = {"workload": first.workload, "library": "cupy", "label": "CuPy", "setting": ""}
    rows = {
        "kernels": [
            *made_up(first, first.least + 0.01),
            cupy | {"status": "refused", "reason": "CuPy: slept"},
            *made_up(second, second.least - 0.01),
            lost | {"status": "failed", "reason": "the process\nended: a | b"},
        ],
        "ceilings": [
            {"ceiling": "copy", "rate": 3e12},
            {"ceiling": "gemm fp32 8192", "rate": 5e13, "error": 1e-7},
            {"ceiling": "launch gap", "stream_seconds": 2e-6, "graph_seconds": 1.3e-6},
        ],
        "training": [
            {
                "batch": batch,
                "contenders": {
                    "tilegrad fit": {"step_seconds": 1e-3, "epoch_seconds": 2.0, "ratio": 1.0}
                },
            }
            for batch in (1024, 32)
        ],
        "checks": [{"check": "same bits", "weights": 7}],
    }
    parts = {
        name: {
            "verdict": "passed",
            "seconds": 1.0,
            "note": "",
            "results": {"device": {}, "rows": r},
        }
        for name, r in rows.items()
    }
    base = {"name": "GPU", "rehearsal": False, "date": "today", "commit": "abc"}
    return base | {"parts": parts}


def test_the_report_says_what_was_found():
    text = report.report(made_up_results())
    assert text.count("| reached |") == 1
    assert text.count("| MISSED |") == 1
    assert text.count("| not measured |") == len(report.GOALS) - 2
    goal = report.GOALS[0]  # 100 MB at 3 TB/s are 33 of 200 microseconds
    assert f"| `{goal.workload}` | 200 µs | 17% bytes | 142 µs (PyTorch, channels last) |" in text
    assert f"| `{goal.workload}` | CuPy | refused | CuPy: slept |" in text
    assert "failed: the process ended: a / b" in text
    assert "3.00 TB/s" in text
    assert "50.00 TFLOP/s" in text
    assert text.index("| 32 |") < text.index("| 1024 |")
    assert "1 ms, 2 s (1.00)" in text


def test_a_report_of_nothing():
    nothing = made_up_results() | {"parts": {}, "rehearsal": True}
    assert report.REHEARSAL in report.report(nothing)


def test_the_tables_are_whole():
    for block in re.findall(r"(?:^\|.*\n)+", report.report(made_up_results()), re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


@pytest.mark.parametrize(
    "seconds, text",
    [(None, "-"), (2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 µs"), (7e-9, "7 ns")],
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text
