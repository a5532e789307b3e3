"""`tilegrad bench`: what is chosen, what runs, what is kept, how it ends."""

import json
import re
import threading
import time

import pytest

from tilegrad import backend, cli
from tilegrad.bench import cli as bench
from tilegrad.bench import record, roofline, runner, suites, training, worker
from tilegrad.bench.libraries.numpy_ import Numpy
from tilegrad.bench.timing import Measured, Samples
from tilegrad.bench.workload import parse, select

ISA = backend.get("cpu").name


def roof(flops=1e15, rate=1e15, threads=1):
    """One that nothing reaches, unless told otherwise."""
    return roofline.Roof(ISA, threads, flops, ((2**14, rate), (2**28, rate)), {"L1": 2**15})


@pytest.fixture
def no_roofs(monkeypatch):
    """Roofs that are not measured."""

    def load(isas, threads):
        return roofline.Roofs(roof(threads=count) for count in threads)

    monkeypatch.setattr(roofline, "load_or_measure", load)


def names(*argv):
    return [str(w) for w in bench.chosen_workloads(bench.read(list(argv)))]


# --- what is chosen -------------------------------------------------------------------------------


def test_suites_hold_workloads_that_can_be_read():
    for name, suite in suites.SUITES.items():
        found = names("--suite", name)
        assert found and len(found) == len(suite.descriptors), name
        assert found == [str(bench._workload(d)) for d in suite.descriptors]


def test_the_quick_suite_has_kernels_and_training():
    kinds = {d.partition(":")[0] for d in suites.SUITES["quick"].descriptors}
    assert {"dense", "conv2d", "conv2d_dw", "max_pool2d", "softmax_cross_entropy", "adam"} < kinds
    assert "train" in kinds


def test_patterns_choose_from_the_suite_and_descriptors_are_taken_as_they_are(tmp_path):
    wide = names("conv2d_d*c64*k3*", "--suite", "cpu")
    assert wide == ["conv2d_dx:n32h32w32c64f64k3s1same", "conv2d_dw:n32h32w32c64f64k3s1same"]
    assert names("dense:k31m17n9", "dense:m17k31n9", "train:cnn:b32") == [
        "dense:m17k31n9",
        "train:cnn:b32",
    ]
    file = tmp_path / "mine.txt"
    file.write_text("relu:n7 # short\n\ndense:m1k2n3\n")
    assert names("--file", str(file)) == ["relu:n7", "dense:m1k2n3"]
    assert names("--file", str(file), "dense*") == ["dense:m1k2n3"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing*"], "expected a pattern that matches"),
        (["dense:m1"], "expected dense:m#k#n#, got 'dense:m1'"),
        (["train:cnn:b0"], "expected train:cnn:b#"),
        (["--threads", "0"], "expected a positive whole number, got '0'"),
        (["--threads", "1000"], "expected at most"),
        (["--noise", "2"], "expected a share such as 1%, got '2'"),
        (["--file", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_arguments_are_named(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", *argv])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_library_that_nobody_knows_is_named(capsys):
    assert cli.main(["bench", "relu:n7", "--libraries", "numpi"]) == 1
    assert "expected some of" in capsys.readouterr().err


def test_some_kernels_of_the_large_suite_are_measured_on_one_thread_too(monkeypatch):
    monkeypatch.setattr(runner, "usable_cores", lambda: 3)
    plan = bench._plan(bench.read(["--suite", "cpu"]))
    assert list(plan.threads) == [1, 3] and plan.threads[3] == ()
    chosen = select(bench.chosen_workloads(bench.read(["--suite", "cpu"])), plan.threads[1])
    assert 5 < len(chosen) < 25
    assert bench._plan(bench.read(["--threads", "2", "1"])).threads == {1: (), 2: ()}
    assert bench._plan(bench.read(["relu:n7"])).threads == {3: ()}


def test_list_prints_and_measures_nothing(capsys, monkeypatch):
    monkeypatch.setattr(runner, "run", None)
    assert cli.main(["bench", "--list", "--suite", "train"]) == 0
    assert capsys.readouterr().out.split() == suites.TRAIN.split()


# --- what runs ------------------------------------------------------------------------------------


def test_a_run_proves_times_and_keeps_rows(tmp_path, capsys, no_roofs):
    file = tmp_path / "r.json"
    argv = ["dense:m17k31n9", "sgd:n1001t3", "--libraries", "numpy", "--seconds", "0.05"]
    assert cli.main(["bench", *argv, "--threads", "1", "--json", str(file)]) == 0
    results = record.read(file)
    rows = {(r["workload"], r["library"]): r for r in results["rows"]}
    assert len(rows) == 4
    for (_, library), row in rows.items():
        assert row["status"] == "ok" and 0 <= row["error"] <= 1 and row["threads"] == 1
        assert row["warm"]["min"] <= row["warm"]["median"] <= row["warm"]["p95"]
        assert row["warm"]["n"] >= 5 and row["cold"]["n"] == row["warm"]["n"]
        assert row["calibration"]["flops"] > 0 and row["calibration"]["bytes"] > 0
        assert (row["ratio"] == 1) == (library == "tilegrad")
    ours = rows["dense:m17k31n9", "tilegrad"]
    assert ours["flops"] == 2 * 17 * 31 * 9 and ours["isa"] == ISA
    assert ours["bytes"] == 4 * (17 * 31 + 31 * 9 + 9 + 17 * 9)
    assert results["roofs"]["roofs"] and results["machine"]["cores"] > 0
    assert re.search(r"NumPy: [\d.]+ times tilegrad's time", capsys.readouterr().out)


def test_the_simulator_takes_part(capsys):
    assert cli.main(["bench", "dense:m7k5n3", "--device", "sim", "--seconds", "0.05"]) == 0
    assert "tilegrad sim" in capsys.readouterr().out


def plan(**changes):
    given = {
        "suite": "",
        "device": "cpu",
        "threads": {1: ()},
        "isas": [ISA],
        "libraries": ["tilegrad"],
        "seconds": 0.05,
        "epoch_seconds": 1,
        "noise": 0.01,
        "cold": False,
        "seed": 0,
        "path": None,
        "arguments": [],
    }
    return runner.Plan(**given | changes)


def test_a_worker_that_ends_early_costs_one_workload(monkeypatch):
    class Process(runner.Process):
        def __init__(self, order):
            self.order = order

        def __exit__(self, *error):
            assert self.order["threads"] == 1

        def answers(self):
            for descriptor in self.order["workloads"]:
                yield {"begin": descriptor}
                if descriptor.startswith("add"):
                    return
                yield {"workload": descriptor, "status": "ok"}

        def trouble(self):
            return "exit status -11: bad" if self.order["workloads"][0] != "exp:n7" else None

    monkeypatch.setattr(runner, "Process", Process)
    kernels = [parse(d) for d in ("relu:n7", "add:n7", "exp:n7")]
    rows = list(runner.kernel_rows(kernels, 1, plan(), roofline.Roofs()))
    assert [(r["workload"], r["status"]) for r in rows] == [
        ("relu:n7", "ok"),
        ("add:n7", "failed"),
        ("exp:n7", "ok"),
    ]
    assert "-11" in rows[1]["reason"]


def test_a_worker_says_why_it_did_not_start():
    with runner.Process({"threads": 1, "device": "cpu"}) as process:
        assert list(process.answers()) == []
        assert "KeyError" in process.trouble()


def test_training_rows_come_last_and_are_kept(tmp_path, monkeypatch, no_roofs):
    row = {
        "workload": "train:cnn:b32",
        "kind": "train",
        "device": "cpu",
        "threads": 1,
        "library": "tilegrad",
        "label": "tilegrad",
        "name": "tilegrad fit",
        "setting": "fit",
        "isa": ISA,
        "status": "ok",
        "reason": None,
        "warm": Samples([1.0, 1.1]).summary(),
        "cold": None,
        "ratio": 1.0,
        "flops": 7,
    }
    monkeypatch.setattr(training, "rows", lambda epochs, **options: iter([row]))
    file = tmp_path / "r.json"
    chosen = [training.parse("train:cnn:b32"), parse("relu:n7")]
    assert runner.run(chosen, plan(path=file)) == 0
    assert [r["kind"] for r in record.read(file)["rows"]] == ["kernel", "train"]


# --- a worker -------------------------------------------------------------------------------------


def order(**changes):
    fields = ("device", "isas", "libraries", "seconds", "noise", "cold", "seed")
    given = {name: getattr(plan(), name) for name in fields} | {"threads": 1}
    return given | {"roofs": roofline.Roofs([roof()]).to_json()} | changes


def test_what_is_above_the_roof_is_refused_after_a_second_look(monkeypatch):
    looks = []

    def again(roofs, isa, threads):
        looks.append((isa, threads))
        return roofs

    monkeypatch.setattr(worker, "measure_again", again)
    low = roofline.Roofs([roof(flops=1.0)]).to_json()
    with worker.Worker(order(roofs=low)) as w:
        for _ in range(2):
            (row,) = w.rows(parse("dense:m7k5n3"))
            assert row["status"] == "refused" and "faster than can be" in row["reason"]
            assert row["roof"]["above"] and row["warm"]["median"] > 0
    assert looks == [(ISA, 1)]


def test_a_workload_that_proves_nothing_is_refused(monkeypatch):
    weak = parse("add:n7")
    monkeypatch.setattr(type(weak), "exact", lambda self, a, b: [a / 0.1 * 0 + 1])
    with worker.Worker(order()) as w:
        (row,) = w.rows(weak)
    assert row["status"] == "refused" and "would pass" in row["reason"]


@pytest.mark.parametrize(
    ("step", "error", "status"),
    [
        ("threads", RuntimeError("expected 1 threads"), "refused"),
        ("bind", MemoryError("no room"), "failed"),
    ],
)
def test_a_library_that_cannot_take_part_has_a_row_that_says_so(step, error, status, monkeypatch):
    def fails(*args):
        raise error

    monkeypatch.setattr(Numpy, step, fails)
    with worker.Worker(order(libraries=["tilegrad", "numpy"])) as w:
        rows = {r["label"]: r for r in w.rows(parse("add:n7"))}
    assert rows["NumPy"]["status"] == status and str(error) in rows["NumPy"]["reason"]
    assert rows[f"tilegrad {ISA}"]["status"] == "ok"


def test_the_quickest_way_is_chosen(monkeypatch):
    numpy = Numpy()
    w = parse("dense:m7k5n3")
    (way,) = numpy.ways(w)
    monkeypatch.setattr(type(w), "numpy", lambda self: iter([way, way, way]))
    seconds = {"0": [3.0], "1": [1.0], "2": [2.0]}

    def measure(contenders, truths, **options):
        found = {c.name: Measured(warm=Samples(seconds[c.name])) for c in contenders}
        found["1"].status = "refused"
        return found

    monkeypatch.setattr(worker, "measure", measure)
    with worker.Worker(order(libraries=["tilegrad", "numpy"])) as bench_worker:
        chosen, status, reason = bench_worker._fastest(numpy, w, [], {})
    assert (chosen, status, reason) == (way, "ok", None)


def test_patience_with_a_busy_machine_ends(monkeypatch):
    asked = []

    def reached(threads, isa):
        asked.append(time.sleep(0.02))
        return False

    monkeypatch.setattr(worker, "reached", reached)
    monkeypatch.setattr(worker, "idle", lambda: True)
    calibration = worker.Calibration(ISA, 1, patience=0.03)
    assert [calibration.ready() for _ in range(9)] == [False, False, *[True] * 7]
    assert len(asked) == 2 and calibration.figures()["flops"] > 0


def test_a_turn_waits_for_threads_that_spin(monkeypatch):
    end = time.perf_counter() + 0.05

    def spin():
        while time.perf_counter() < end:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    assert worker.idle(patience=5.0) and time.perf_counter() > end
    thread.join()
    forever = threading.Event()
    thread = threading.Thread(target=lambda: [None for _ in iter(forever.is_set, True)])
    thread.start()
    assert not worker.idle(patience=0.05)
    forever.set()
    thread.join()


def test_rows_are_json():
    with worker.Worker(order(cold=True)) as w:
        for row in w.rows(parse("softmax:r7c13")):
            assert json.loads(json.dumps(row, allow_nan=False)) == row
