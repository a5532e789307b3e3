"""The benchmarks' own machinery, attacked: what is wrong is refused, tables tell the truth."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("needs the source tree, not only the package", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import bench_train  # noqa: E402
import harness  # noqa: E402
import machine  # noqa: E402
import networks  # noqa: E402
import report  # noqa: E402
from harness import (  # noqa: E402
    Contender,
    NotProvedError,
    Reference,
    fastest,
    prove,
    ratio,
    take_turns,
    turn,
)

RNG = np.random.default_rng(0)
A, B = (RNG.standard_normal((17, 17), dtype=np.float32) for _ in range(2))
RIGHT = A.astype(np.float64) @ B.astype(np.float64)


def product(calls):
    return [RIGHT]


REFERENCE = Reference(product, length=17)


def contender(kernel, name="suspect"):
    """`kernel(y, a, b)` on arrays of its own."""
    y, a, b = np.zeros((17, 17), np.float32), A.copy(), B.copy()
    return Contender(name, functools.partial(kernel, y, a, b), lambda _: [y], [a, b], [y])


def honest(y, a, b):
    np.matmul(a, b, out=y)


def zeros(y, a, b):
    y[...] = 0


def nan(y, a, b):
    honest(y, a, b)
    y[3, 4] = np.nan


def nothing(y, a, b):
    """Leaves the output of an earlier call where it is."""


def half(y, a, b):
    np.matmul(a[:8], b, out=y[:8])


def accumulating(y, a, b):
    y += a @ b


def imprecise(y, a, b):
    y[...] = (a.astype(np.float16) @ b.astype(np.float16)).astype(np.float32)


def mutating(y, a, b):
    honest(y, a, b)
    a[0, 0] += 1


def aliasing(y, a, b):
    honest(y, a, b)
    b[...] = y


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch):
    monkeypatch.setattr(harness, "AWAKE", 0)


# --- proofs ---------------------------------------------------------------------------------------


def test_an_honest_kernel_is_proved():
    prove(contender(honest), REFERENCE)


@pytest.mark.parametrize(
    "kernel", [zeros, nan, nothing, half, accumulating, imprecise, mutating, aliasing]
)
def test_a_wrong_kernel_is_refused(kernel):
    with pytest.raises(NotProvedError, match="suspect"):
        prove(contender(kernel), REFERENCE)
    with pytest.raises(NotProvedError, match="suspect"):
        take_turns([contender(honest, "honest"), contender(kernel)], REFERENCE, 1, 1e-4)


def test_stale_output_of_an_earlier_call_is_refused():
    suspect = contender(nothing)
    np.matmul(A, B, out=suspect.buffers[0])
    with pytest.raises(NotProvedError):
        prove(suspect, REFERENCE)


@pytest.mark.parametrize("honest_calls", [1, 2])
@pytest.mark.parametrize("later", [zeros, nan, nothing, mutating])
def test_timed_calls_are_checked_too(honest_calls, later):
    """A kernel that is honest in the proof, and in the warm-up, and then is not."""
    calls = 0

    def turncoat(y, a, b):
        nonlocal calls
        calls += 1
        (honest if calls <= honest_calls else later)(y, a, b)

    suspect = contender(turncoat)
    prove(suspect, REFERENCE)
    with pytest.raises(NotProvedError):
        turn(suspect, REFERENCE, 3)


def test_a_wrong_peer_is_refused_as_well():
    with pytest.raises(NotProvedError, match="peer"):
        fastest([contender(honest), contender(zeros, "peer")], REFERENCE, 1e-4)


def test_a_fresh_result_of_another_shape_is_refused():
    suspect = Contender("suspect", lambda: A[:8] @ B, lambda y: [y])
    with pytest.raises(NotProvedError, match=r"expected \(17, 17\), got \(8, 17\)"):
        prove(suspect, REFERENCE)


def test_a_missing_output_is_refused():
    with pytest.raises(ValueError, match="zip"):
        prove(Contender("suspect", lambda: None, lambda _: []), REFERENCE)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_reference_that_proves_nothing_is_refused(value):
    empty = Reference(lambda calls: [np.full((17, 17), value)])
    with pytest.raises(NotProvedError, match="no proof"):
        prove(contender(honest), empty)


def test_a_pure_reference_is_computed_once_and_never_grows_lenient():
    asked = []

    def compute(calls):
        asked.append(calls)
        return [RIGHT]

    reference = Reference(compute, length=17)
    take_turns([contender(honest, "a"), contender(honest, "b")], reference, 2, 1e-4)
    assert asked == [1]
    off = RIGHT + 2 * harness.UNITS * harness.EPS * np.sqrt(17) * np.abs(RIGHT).max()
    with pytest.raises(NotProvedError):
        reference.compare("suspect", [off.astype(np.float32)], calls=1000)


def test_integer_outputs_must_be_equal():
    index = np.zeros(5, np.uint8)
    right = Reference(lambda calls: [np.arange(5)])

    def write(values):
        index[...] = values

    good = Contender("good", functools.partial(write, np.arange(5)), lambda _: [index], (), [index])
    prove(good, right)
    bad = Contender(
        "bad", functools.partial(write, [0, 1, 2, 3, 5]), lambda _: [index], (), [index]
    )
    with pytest.raises(NotProvedError):
        prove(bad, right)


def counting(step):
    """w += step: in place, so that the result depends on the number of calls."""
    w = np.ones(7, np.float32)

    def call():
        w[...] += step(w)

    return Contender("counter", call, lambda _: [w], state=[w])


def test_state_is_put_back_and_the_calls_are_counted():
    right = Reference(lambda calls: [np.full(7, 1.0 + calls)], in_place=True)
    take_turns([counting(lambda w: 1)], right, 2, 1e-4)
    with pytest.raises(NotProvedError):
        take_turns([counting(lambda w: 1 if w[0] < 2 else 0)], right, 2, 1e-4)


# --- turns ----------------------------------------------------------------------------------------


def test_contenders_take_turns():
    """After proofs and calibration each turn is a call to wake up and a timed one."""
    log = []

    def logged(name, y, a, b):
        log.append(name)
        honest(y, a, b)

    pair = [contender(functools.partial(logged, name), name) for name in "ab"]
    times = take_turns(pair, REFERENCE, 3, 1e-9)
    assert [len(times[name]) for name in "ab"] == [3, 3]
    assert "".join(log[-12:]) == "aabb" * 3


def test_a_turn_on_a_disturbed_machine_is_taken_again():
    calls = 0

    def counted(y, a, b):
        nonlocal calls
        calls += 1
        honest(y, a, b)

    # before and after each attempt: disturbed before, disturbed after, then good
    answers = iter([False, True, True, False, True, True])
    turn(contender(counted), REFERENCE, 3, ready=lambda: next(answers))
    assert calls == 3 * (1 + 3)
    calls = 0
    turn(contender(counted), REFERENCE, 3, ready=lambda: False)
    assert calls == harness.ATTEMPTS * (1 + 3)


def test_ratio_is_the_median_of_paired_ratios():
    assert ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]) == 3.0
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [1.0, 2.0])


# --- training -------------------------------------------------------------------------------------


def test_losses_must_agree():
    bench_train.check_losses({"ours": 0.30, "theirs": 0.31, "another": 0.28})
    for wrong in (2.3, 0.0, float("nan")):
        with pytest.raises(AssertionError, match="no proof"):
            bench_train.check_losses({"ours": 0.30, "theirs": 0.31, "wrong": wrong})


def test_the_networks_are_those_of_the_tables():
    small, wide = (networks.NETWORKS[name] for name in ("small", "wide"))
    assert sum(w.size for w in small.weights()) == 693_962
    assert small.flat() == (13, 13, 32)
    assert wide.flat() == (8, 8, 128)
    x, labels = networks.images("wide", 20)
    assert x.shape == (20, *wide.image)
    assert x.dtype == np.float32
    assert labels.dtype == np.int32


def test_a_contender_that_is_not_installed_is_named_as_absent():
    order = {"network": "small", "batch": 32, "threads": 1, "module": "not_there"}
    with open("/dev/null", "w+") as errors:
        process = bench_train.Child(order, {}, errors)
        assert process.answer() == {"absent": "not installed: baselines.not_there"}
        process.close()


# --- the machine ----------------------------------------------------------------------------------


def test_working_sets_are_rounded_to_powers_of_two(monkeypatch):
    roof = object.__new__(machine.Roof)
    asked = []
    monkeypatch.setattr(roof, "_bytes", lambda threads, size: asked.append(size), raising=False)
    for size in (1, 5000, 2**20, 2**20 + 1):
        roof.bytes(1, size)
    assert asked == [2**12, 2**13, 2**20, 2**21]


def test_a_slow_machine_has_not_reached_its_roof(monkeypatch):
    roof = object.__new__(machine.Roof)
    roof._flops = {1: 100.0}
    rates = iter([50.0, 84.0, 86.0])
    monkeypatch.setattr(roof, "_probe", lambda threads: next(rates), raising=False)
    assert roof.reached(1, patience=60)
    monkeypatch.setattr(roof, "_probe", lambda threads: 84.0, raising=False)
    assert not roof.reached(1, patience=0)


def test_the_nearer_roof_binds(monkeypatch):
    roof = object.__new__(machine.Roof)
    monkeypatch.setattr(roof, "flops", lambda threads: 100.0, raising=False)
    monkeypatch.setattr(roof, "bytes", lambda threads, size: 10.0, raising=False)
    assert roof.seconds(1, 1000, 50) == (10.0, "FLOP")
    assert roof.seconds(1, 100, 50) == (5.0, "bytes")


# --- tables ---------------------------------------------------------------------------------------

HEADER = {
    "date": "2000-01-01 00:00 UTC",
    "mode": "default",
    "cpu": "a processor",
    "cores": 2,
    "isa": "base",
    "python": "3.11",
    "packages": {"numpy": "2.0", "torch": None},
}
TRAIN = {
    "machine": HEADER,
    "rows": [
        {"case": "small-32", "contender": "tilegrad fit", "epoch_seconds": 1.5, "ratio": 1.0}
        | {"faults_per_step": 0.01, "peak_mb": 300.0},
        {"case": "small-32", "contender": "PyTorch", "absent": "not installed: torch"},
    ],
}
KERNEL = {
    "kernel": "gemm",
    "shape": "nn 512",
    "threads": 1,
    "seconds": 0.00123,
    "flops": 2 * 512**3,
    "bytes": 3 * 4 * 512**2,
    "roof_share": 0.9,
    "bound": "FLOP",
}
WITH_PEER = KERNEL | {"peer": "mm", "peer_seconds": 0.00246, "ratio": 2.0, "best_ratio": 2.1}
KERNELS = {"machine": HEADER, "rows": [WITH_PEER, KERNEL | {"peer": None}]}
STEADY = {
    "machine": HEADER,
    "rows": [
        {"figure": "dispatch", "value": 2.5e-6, "peer": None, "goal": 5e-6},
        {"figure": "faults", "value": 0.02, "peer": 3.0, "goal": 5},
    ],
}


def test_tables_name_absent_contenders():
    assert "| PyTorch | not installed |" in report.train(TRAIN)
    assert "| tilegrad fit | 1.50 s (1.00) |" in report.train(TRAIN)
    assert "| PyTorch | not installed |" in report.memory(TRAIN)
    lines = report.kernels(KERNELS).splitlines()
    assert "| 90% FLOP | 2.46 ms (mm) | 2.00 | 2.10 |" in lines[2]
    assert lines[3].endswith("| not installed | not installed | not installed |")
    assert "torch absent" in report.machine_line(KERNELS)
    alone = {"machine": HEADER, "rows": [KERNEL | {"peer": None}]}
    assert report.summary(alone).endswith("| 90% | not installed | not installed | not installed |")


def test_steady_table_has_goals_in_the_unit_of_its_row():
    lines = report.steady(STEADY).splitlines()
    assert lines[2].endswith("| 2.5 |  | 5 |")
    assert lines[3].endswith("| 0.02 | 3.00 | 5 |")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234e-6, "1.23 µs"), (12.34e-6, "12.3 µs"), (999e-6, "999 µs"), (0.0405, "40.5 ms")],
)
def test_durations_have_three_digits(seconds, text):
    assert report.duration(seconds) == text


def test_a_table_is_written_between_its_markers():
    text = "before\n<!-- benchmarks: a -->\nold\n<!-- /benchmarks -->\nafter\n"
    filled = report.fill(text, "a", r"new \1")
    assert filled == text.replace("old", r"new \1")
    assert report.fill(filled, "a", "old") == text


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "<!-- benchmarks: a -->\nno end",
        "<!-- benchmarks: a -->\n<!-- benchmarks: b -->\n<!-- /benchmarks -->",
        "<!-- benchmarks: a -->\n<!-- /benchmarks -->\n" * 2,
    ],
)
def test_absent_or_double_markers_are_an_error(text):
    with pytest.raises(ValueError, match="benchmarks: a"):
        report.fill(text, "a", "new")


def test_results_that_are_not_there_are_named(tmp_path):
    text = "<!-- benchmarks: train -->\n<!-- /benchmarks -->"
    assert "(not measured yet)" in report.render(text, ["train"], tmp_path)
    (tmp_path / "train.json").write_text(json.dumps(TRAIN))
    assert "tilegrad fit" in report.render(text, ["train"], tmp_path)


def test_the_documents_are_what_the_results_say():
    for document, names in report.DOCUMENTS.items():
        text = document.read_text()
        assert report.render(text, names, BENCHMARKS / "results") == text, (
            f"{document.name}: run benchmarks/report.py"
        )
