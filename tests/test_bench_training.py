"""Training epochs: parsed, proved by what was learned, and what cheats, ends or hangs is named."""

import functools
import io
import itertools
import os
import re
import runpy
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import rich.console

from tilegrad.bench import learning, networks, record, roofline, training, tta
from tilegrad.bench.child import Child, LostError
from tilegrad.bench.learning import Learned, Lesson, NotTrainedError
from tilegrad.bench.networks import Network, Task

NETWORK = Network((16, 16, 1), "valid", ((4,),), 32)
TINY = Task(
    NETWORK,
    functools.partial(networks.patterns, NETWORK.image),
    images=2048,
    held_out=100,
    loss_slack=0.12,
    moved_slack=0.3,
)
BATCH = 16


def contender(kind, library="test"):
    """One of bench_trainers.py."""
    environment = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent)])}
    name, kind = kind, kind.rstrip("2")
    return training.Contender(
        name, library, kind, "bench_trainers", "a setting", {"kind": kind}, environment
    )


def child(kind, patience=300):
    c = contender(kind)
    return Child(c.module, NETWORK, BATCH, 1, c.options, c.environment, patience)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """The task of these tests; clocks may differ, for other processes may compute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.TASKS, "tiny", TINY)
        yield


@pytest.fixture
def patient(monkeypatch):
    """No doubts because a busy machine lets a process wait."""
    monkeypatch.setattr(training, "CLOCKS_AGREE", (1.0, 5.0))


# --- workloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", training.WORKLOADS, ids=str)
def test_names_are_read_as_they_are_written(workload):
    assert training.parse(str(workload)) == workload


@pytest.mark.parametrize(
    "text", ["train", "train:cnn", "train:cnn:32", "train:cnn:b0", "train:rnn:b32", "fit:cnn:b32"]
)
def test_other_names_are_refused(text):
    with pytest.raises(ValueError, match=r"expected train:cnn:b# or .* got"):
        training.parse(text)
    with pytest.raises(ValueError, match="at most 10240 images"):
        training.parse("train:cnn:b10241")


def test_the_networks_are_those_of_the_tables():
    small, deep, wide = networks.SMALL, networks.DEEP, networks.WIDE
    assert sum(w.size for w in small.weights()) == 693_962
    assert sum(w.size for w in deep.weights()) == 320 + 18_496 + 1600 * 128 + 128 + 1290
    assert small.flat() == (13, 13, 32)
    assert deep.flat() == (5, 5, 64)
    assert wide.flat() == (8, 8, 128)
    products = 2 * 26 * 26 * 9 * 32, 2 * 5408 * 128, 2 * 1280
    assert small.flops() == 3 * sum(products) - products[0]
    x, labels = networks.TASKS["wide"].draw(np.random.default_rng(0), 20, False)
    assert x.shape == (20, *wide.image)
    assert x.dtype == np.float32
    assert labels.dtype == np.int32


def test_a_network_survives_json():
    fields = {"image": [16, 16, 1], "padding": "valid", "blocks": [[4]], "units": 32}
    assert Network.from_json(fields) == NETWORK


# --- contenders -----------------------------------------------------------------------------------


def test_contenders_are_chosen_by_pattern_and_library():
    names = [c.name for c in training.choose(["TILEGRAD fit", "pytorch, *, keep"])]
    assert names == [training.OURS, *training.BEST]
    assert {c.library for c in training.choose(libraries=["jax", "tensorflow"])} == {
        "jax",
        "tensorflow",
    }
    with pytest.raises(ValueError, match=r"expected some of: tilegrad fit;.*got 'theano'"):
        training.choose(["theano"])


def test_limits_are_in_the_setting_and_in_the_environment():
    ours, *theirs = training.choose(isa="base")
    assert ours.environment["TILEGRAD_ISA"] == "base"
    assert [c.isa for c in theirs] == ["base"] * 3
    for c in theirs:
        assert c.environment.items() >= training.LIMITS["base"].items() | training.KEEP.items()
        assert "ATEN_CPU_CAPABILITY=default" in c.setting
    assert "MKL_CBWR=COMPATIBLE" in theirs[-1].setting
    with pytest.raises(ValueError, match="expected avx2 or base, got 'avx512'"):
        training.choose(isa="avx512")


def test_the_settings_tell_the_contenders_apart():
    settings = [(c.label, c.setting) for c in training.CONTENDERS.values()]
    assert len(set(settings)) == len(settings)


# --- the reference --------------------------------------------------------------------------------


def test_the_reference_learns():
    lesson = Lesson.draw(TINY, 512, 3)
    weights = NETWORK.weights()
    before, _ = learning.judge(NETWORK, weights, lesson.x_held_out, lesson.labels_held_out)
    rng = np.random.default_rng(0)
    for _ in range(6):
        learning.train_epoch(NETWORK, weights, lesson.x, lesson.labels, BATCH, rng)
    after, accuracy = learning.judge(NETWORK, weights, lesson.x_held_out, lesson.labels_held_out)
    assert after < 0.5 * before
    assert accuracy > 0.9


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_reference_has_the_gradients_of_its_loss(padding):
    """Against differences of the loss, through the first update: Adam's step is the gradient's."""
    network = Network((10, 6, 3), padding, ((3, 5),), 7)
    rng = np.random.default_rng(1)
    x, labels = rng.random((3, *network.image)), rng.integers(0, 10, 3)
    weights = [w.astype(np.float64) for w in network.weights()]
    moments = [[np.zeros_like(w) for w in weights] for _ in range(2)]
    before = [w.copy() for w in weights]
    learning.train_step(network, weights, moments, 0, x, labels)
    for i, m in enumerate(moments[0]):
        direction = rng.standard_normal(m.shape)
        losses = []
        for step in (1e-6, -1e-6):
            moved = [*before]
            moved[i] = before[i] + step * direction
            losses.append(learning.judge(network, moved, x, labels)[0])
        slope = (losses[0] - losses[1]) / 2e-6
        gradient = m / (1 - learning.BETA_1)
        assert slope == pytest.approx((gradient * direction).sum(), rel=1e-5, abs=1e-8)


RIGHT = Learned(loss=1.0, held_out=0.5, moved=4.0)


@pytest.mark.parametrize(
    ("got", "what"),
    [
        (Learned(1.2, 0.5, 4.0), "mean loss"),
        (Learned(0.8, 0.5, 4.0), "mean loss"),
        (Learned(np.nan, 0.5, 4.0), "mean loss"),
        (Learned(1.0, 1.2, 4.0), "loss held out"),
        (Learned(1.0, np.nan, 4.0), "loss held out"),
        (Learned(1.0, 0.5, 2.0), "distance"),
        (Learned(1.0, 0.5, 6.0), "distance"),
        (Learned(1.0, 0.5, np.nan), "distance"),
    ],
)
def test_what_was_learned_must_agree_with_the_reference(got, what):
    assert learning.check(TINY, Learned(1.05, 0.4, 3.5), RIGHT) == pytest.approx(0.5 / 1.2)
    with pytest.raises(NotTrainedError, match=what):
        learning.check(TINY, got, RIGHT)


def test_weights_of_another_network_are_refused():
    lesson, before = Lesson.draw(TINY, 16, 0), NETWORK.weights()
    with pytest.raises(NotTrainedError, match="shapes"):
        learning.learned(NETWORK, 1.0, before, before[:-1], lesson)
    with pytest.raises(NotTrainedError, match="shapes"):
        learning.learned(NETWORK, 1.0, before, [w.T for w in before], lesson)


def test_each_lesson_numbers_the_classes_anew():
    first, second = (Lesson.draw(TINY, 500, 0, number) for number in range(2))
    mean = [np.stack([a.x[a.labels == k].mean(axis=0) for k in range(10)]) for a in (first, second)]
    assert np.abs(mean[0] - mean[1]).max() > 0.3
    again = Lesson.draw(TINY, 500, 0, 1)
    assert np.array_equal(again.labels, second.labels)
    assert np.array_equal(again.x, second.x)


# --- one epoch, by a child that says whatever the test wants --------------------------------------


class Puppet:
    """A child; `busy` and `starved` are what the system counts for the epoch."""

    def __init__(self, files, claimed, busy, starved=0.0, late=0.0):
        self.files, self.claimed, self.late = files, claimed, late
        self.busy, self.starved = [0.0, busy], [0.0, starved]

    def busy_seconds(self):
        return self.busy[-1] if len(self.busy) == 1 else self.busy.pop(0)

    def starved_seconds(self):
        return self.starved.pop(0)

    def ask(self, request, **details):
        if request == "weights":
            self.busy = [self.busy[0] + self.late]
            np.savez(self.files.trained, *NETWORK.weights())
            return {}
        return {"seconds": self.claimed, "loss": 1.5, "faults_per_step": 0.0, "peak_mb": 1.0}


def timed(tmp_path, monkeypatch, seconds=1.0, threads=2, **puppet):
    clock = iter([5.0, 5.0 + seconds])
    monkeypatch.setattr(training, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    files = training.Files.within(tmp_path)
    return training.timed_epoch(Puppet(files, **puppet), files, np.zeros(3, np.int32), threads)


def test_an_epoch_is_timed_by_the_parent(tmp_path, monkeypatch):
    epoch, weights = timed(tmp_path, monkeypatch, claimed=0.995, busy=1.5, starved=0.25)
    assert epoch == training.Epoch(1.0, 1.5, 0.25, 1.5, 0.0, 1.0)
    assert [w.shape for w in weights] == [w.shape for w in NETWORK.weights()]


@pytest.mark.parametrize(
    ("puppet", "why"),
    [
        ({"claimed": 0.9, "busy": 1.5}, "its clock says 0.900 s, the parent's 1.000"),
        ({"claimed": 1.1, "busy": 1.5}, "its clock says"),
        ({"claimed": float("nan"), "busy": 1.5}, "its clock says"),
        ({"claimed": 1.0, "busy": 0.3, "starved": 0.1}, "slept: computed 0.300 s of 1.000 s"),
        ({"claimed": 1.0, "busy": 2.2}, "used 2.20 cores, has 2"),
        ({"claimed": 1.0, "busy": 1.0, "late": 0.4}, "computed 0.400 s after its answer"),
    ],
)
def test_a_time_that_is_not_what_it_seems_is_refused(tmp_path, monkeypatch, puppet, why):
    with pytest.raises(training.RefusedError, match=why):
        timed(tmp_path, monkeypatch, **puppet)


# --- processes ------------------------------------------------------------------------------------

CHEATS = {
    "Forger": "not trained",
    "Half": "not trained",
    "Rememberer": "not trained",
    "Wanderer": "not trained: loss held out",
    "Broken": "expected finite numbers",
    "Late": "after its answer",
    "Sleeper": "slept",
}


LOOKS = [3.0, 2.0, 4.0, 1.0]
SEEN = max(LOOKS)


@pytest.fixture(scope="module")
def rows():
    """All of them in one run, which must come to its end."""
    looks = itertools.chain(LOOKS, itertools.repeat(0.5))
    chosen = [contender("Honest", "tilegrad")]
    chosen += [contender(kind) for kind in (*CHEATS, "Crasher")]
    absent = training.Contender("absent", "test", "absent", "bench_nowhere", "a setting")
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CONTENDERS", {c.name: c for c in [*chosen, absent]})
        patch.setattr(training, "CLOCKS_AGREE", (1.0, 5.0))
        patch.setattr(training, "ATTEMPTS", 2)
        patch.setattr(roofline, "probe", lambda *of: {"flops": next(looks), "bytes": 7.0})
        workload = training.Training("tiny", BATCH)
        found = training.measure([workload], threads=1, budget_s=0, report=heard.append)
    assert len(heard) >= 2 * len(found)
    return {row["name"]: row for row in found}


def test_an_honest_contender_has_a_row(rows):
    row = rows["Honest"]
    assert (row["status"], row["reason"]) == ("ok", None)
    assert row["workload"] == "train:tiny:b16"
    assert row["warm"]["n"] == 2
    assert 0 < row["warm"]["min"] <= row["warm"]["median"] <= row["warm"]["p95"]
    assert row["ratio"] == 1.0
    assert 0 < row["error"] <= 1
    assert row["images"] == 2048
    assert row["flops"] == 60_000 * NETWORK.flops()
    assert row["calibration"] == {"flops": SEEN, "bytes": 7.0}
    assert 0 < row["cores_used"] < 1.1
    assert row["peak_mb"] > 10
    assert row["version"] == "1.0"


@pytest.mark.parametrize("kind", CHEATS)
def test_a_cheat_is_refused(rows, kind):
    assert rows[kind]["status"] == "refused"
    assert CHEATS[kind] in rows[kind]["reason"]
    assert "warm" not in rows[kind]


def test_who_ends_early_has_failed_with_its_last_words(rows):
    assert rows["Crasher"]["status"] == "failed"
    first, second = rows["Crasher"]["reason"].splitlines()
    assert first == "ended (exit status 3): no more memory"
    assert second == "not an answer: what a library prints"


def test_who_is_not_installed_is_absent(rows):
    assert rows["absent"]["status"] == "absent"
    assert rows["absent"]["reason"] == "not installed: bench_nowhere"


def test_tilegrad_learns_what_the_reference_does(patient):
    workload = training.Training("tiny", BATCH)
    (row,) = training.rows([workload], labels=[training.OURS], threads=1, budget_s=0)
    assert (row["status"], row["reason"]) == ("ok", None)
    assert row["isa"]
    assert row["ratio"] == 1.0


def test_who_hangs_is_lost(tmp_path):
    with child("Hanger") as hanger:
        np.save(tmp_path / "x.npy", np.zeros(3))
        hanger.ask("images", x=str(tmp_path / "x.npy"))
        hanger.patience = 0.2
        with pytest.raises(LostError, match=r"did not answer for 0.2 seconds \(exit status -9\)"):
            hanger.ask("epoch", labels=str(tmp_path / "x.npy"))
        with pytest.raises(LostError, match="ended"):
            hanger.ask("weights", to="nowhere")


def test_an_error_in_the_child_is_its_last_words():
    with child("Honest") as honest, pytest.raises(LostError, match=r"No such file.*nowhere"):
        honest.ask("images", x="nowhere")


def test_a_stopped_child_computes_nothing(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with child("Spinner") as spinner:
        spinner.ask("images", x=str(tmp_path / "x.npy"))
        spinner.stop()
        time.sleep(0.1)  # until the signal has arrived
        busy = spinner.busy_seconds()
        time.sleep(0.2)
        assert spinner.busy_seconds() == busy
        spinner.go()
        deadline = time.monotonic() + 60
        while spinner.busy_seconds() == busy:
            assert time.monotonic() < deadline


def test_threads_and_images_must_be_there():
    workload = training.Training("tiny", BATCH)
    with pytest.raises(ValueError, match=r"threads: expected 1 to .*, got 1000"):
        training.measure([workload], threads=1000)
    with pytest.raises(ValueError, match="at least 16 images, got 15"):
        training.measure([workload], images=15)


def test_without_images_all_rows_say_so(monkeypatch):
    def nowhere(rng, count, test):
        raise OSError("mnist: none:\n  here: none\n  there: none")

    task = Task(NETWORK, nowhere, 64, 8, 0.1, 0.1)
    monkeypatch.setitem(networks.TASKS, "tiny", task)
    (row,) = training.rows([training.Training("tiny", BATCH)], labels=[training.OURS])
    assert (row["status"], row["reason"]) == ("absent", "no images: mnist: none (docs/data.md)")


# --- the script -----------------------------------------------------------------------------------

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_train.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="needs the source tree, not only the package")
def test_the_script_writes_a_results_file(tmp_path, monkeypatch, capsys):
    script = runpy.run_path(str(SCRIPT))
    assert [str(training.parse(d)) for d in script["CASES"].values()] == [
        str(w) for w in training.WORKLOADS
    ]
    row = {"workload": "train:cnn:b32", "kind": "train", "threads": 1, "library": "torch"}
    row |= {"label": "PyTorch", "name": "PyTorch, keep", "status": "absent", "reason": "gone"}
    asked = []

    def rows(workloads, **options):
        asked.append((str(workloads[0]), options["isa"], options["images"]))
        yield row

    monkeypatch.setattr(training, "rows", rows)
    path = tmp_path / "train-avx2.json"
    arguments = ["--mode", "quick", "--isa", "avx2", "--cases", "small-32", "wide-64"]
    monkeypatch.setattr(sys, "argv", ["bench_train.py", *arguments, "--results", str(path)])
    script["main"]()
    assert asked == [("train:cnn:b32", "avx2", 5120)]
    results = record.read(path)
    assert results["rows"] == [row]
    assert results["machine"]["isa"] == "avx2"
    assert "PyTorch, keep" in capsys.readouterr().out


# --- time to accuracy -----------------------------------------------------------------------------

RACE = tta.Race(
    training.Training("tiny", BATCH), (0.4, 0.9999), seeds=2, most_epochs=1, images=2048, test=150
)


@pytest.fixture(scope="module")
def race():
    """(target, name) -> row, and what was reported."""
    chosen = [contender("Honest", "tilegrad"), contender("Honest2"), contender("Liar")]
    absent = training.Contender("absent", "test", "absent", "bench_nowhere", "a setting")
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CONTENDERS", {c.name: c for c in [*chosen, absent]})
        patch.setattr(training, "CLOCKS_AGREE", (1.0, 5.0))
        found = tta.run(RACE, (), 1, report=heard.append)
    return found, heard


def of(race, target, name):
    return next(r for r in race[0] if (r["target"], r["name"]) == (target, name))


def test_who_reaches_the_target_has_times_for_each_seed(race):
    row = of(race, 0.4, "Honest")
    assert (row["status"], row["kind"], row["workload"]) == ("ok", "tta", "tta:tiny:b16")
    assert (row["reached"], row["seeds"], row["ratio"]) == (2, 2, 1.0)
    assert min(row["seconds"]) == row["min"] <= row["mean"] <= row["max"] == max(row["seconds"])
    assert all(n % RACE.part == 0 and 0 < n <= 2048 for n in row["images"])
    assert row["error"] <= 1


def test_the_same_trainer_needs_as_many_images(race):
    assert of(race, 0.4, "Honest2")["images"] == of(race, 0.4, "Honest")["images"]
    assert of(race, 0.4, "Honest2")["ratio"] > 0


def test_who_does_not_reach_the_target_is_not_left_out(race):
    row = of(race, 0.9999, "Honest")
    assert row["status"] == "ok"
    assert (row["reached"], row["seconds"], row["images"]) == (0, [None, None], [None, None])
    assert row["ratio"] is None
    assert sum("99.99%: not reached" in line for line in race[1]) == 4


def test_an_accuracy_that_the_weights_do_not_have_is_refused(race):
    for target in RACE.targets:
        row = of(race, target, "Liar")
        assert row["status"] == "refused"
        assert "its predictions have accuracy" in row["reason"]


def test_the_table_tells_all(race):
    console = rich.console.Console(record=True, width=160, file=io.StringIO())
    console.print(tta.table(race[0]))
    text = console.export_text()
    assert "tta:tiny:b16: seconds of training to a test accuracy, 1 thread, 2 seeds" in text
    assert re.search(r"40.00% +Honest +2 of 2 +[0-9.]+ s +[0-9.]+ s ", text)
    assert re.search(r"99.99% +Honest +0 of 2 +\n", text)
    assert re.search(r"40.00% +absent +absent +\n", text)
    assert re.search(r"40.00% +Liar +refused +\n", text)


def test_a_race_must_make_sense():
    with pytest.raises(ValueError, match=r"accuracies between 0 and 1, got \(98.0,\)"):
        tta.Race(RACE.training, (98.0,), 1, 1)
    with pytest.raises(ValueError, match="at least one seed"):
        tta.Race(RACE.training, (0.5,), 0, 1)
    with pytest.raises(ValueError, match="batch: expected at most 16"):
        tta.Race(training.Training("tiny", 17), (0.5,), 1, 1, images=64)


def raced(monkeypatch, *arguments):
    """(exit status, the races that `tilegrad bench tta` would run); all are refused."""
    races = []

    def run(race, labels, threads, report):
        races.append(race)
        head = {"workload": str(race), "kind": "tta", "threads": 1, "library": "tilegrad"}
        head |= {"label": "tilegrad", "name": "ours", "seeds": race.seeds}
        head |= {"most_epochs": race.most_epochs, "status": "refused", "reason": "in this test"}
        return [head | {"target": target} for target in race.targets]

    monkeypatch.setattr(tta, "run", run)
    return tta.main(arguments), races


def test_each_network_has_its_own_target(monkeypatch, tmp_path, capsys):
    path = tmp_path / "tta.json"
    status, races = raced(monkeypatch, "--json", str(path))
    assert [(str(race), race.targets) for race in races] == [
        ("tta:cnn:b32", (0.98,)),
        ("tta:deep:b32", (0.99,)),
    ]
    assert status == 1  # nothing of tilegrad's was proved
    rows = record.read(path)["rows"]
    assert [(row["workload"], row["target"]) for row in rows] == [
        ("tta:cnn:b32", 0.98),
        ("tta:deep:b32", 0.99),
    ]
    text = capsys.readouterr().out
    assert text.count("ours: in this test") == 2


def test_networks_and_targets_can_be_chosen(monkeypatch):
    more = ["--network", "deep", "--target", "0.99", "0.5", "--seeds", "3", "--batch", "128"]
    _, (race,) = raced(monkeypatch, *more)
    assert (str(race), race.targets, race.seeds) == ("tta:deep:b128", (0.5, 0.99), 3)


def test_the_command_line_explains_itself(capsys):
    with pytest.raises(SystemExit):
        tta.main(["--seeds", "0"])
    assert "at least one seed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tta.main(["--contenders", "theano"])
    assert "expected some of: tilegrad fit" in capsys.readouterr().err
