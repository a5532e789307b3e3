"""`tilegrad bench`: what is chosen, what runs, what is kept, how it ends."""

import io
import json
import re
import threading
import time

import pytest
from bench_samples import part
from rich.console import Console

from tilegrad import backend, cli
from tilegrad.bench import cli as bench
from tilegrad.bench import record, roofline, runner, suites, training, worker
from tilegrad.bench.figures import pooled
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
        (["--processes", "0"], "expected a positive whole number, got '0'"),
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
    argv = ["dense:m17k31n9", "sgd:n1001t3", "--libraries", "numpy", "--seconds", "0.1"]
    assert cli.main(["bench", *argv, "--threads", "1", "--json", str(file)]) == 0
    results = record.read(file)
    rows = {(r["workload"], r["library"]): r for r in results["rows"]}
    assert len(rows) == 4
    for (_, library), row in rows.items():
        assert row["status"] == "ok" and 0 <= row["error"] <= 1 and row["threads"] == 1
        assert row["warm"]["min"] <= row["warm"]["median"] <= row["warm"]["p95"]
        assert row["warm"]["n"] >= 5 and row["cold"]["n"] == row["warm"]["n"]
        assert [p["warm"]["n"] >= 3 for p in row["processes"]] == [True, True]
        assert sum(p["warm"]["n"] for p in row["processes"]) == row["warm"]["n"]
        assert row["calibration"]["flops"] > 0 and row["calibration"]["bytes"] > 0
        assert (row["ratio"] == 1) == (library == "tilegrad")
    ours = rows["dense:m17k31n9", "tilegrad"]
    assert ours["flops"] == 2 * 17 * 31 * 9 and ours["isa"] == ISA
    assert ours["bytes"] == 4 * (17 * 31 + 31 * 9 + 9 + 17 * 9)
    assert results["roofs"]["roofs"] and results["machine"]["cores"] > 0
    assert re.search(r"NumPy: [\d.]+ times tilegrad's time", capsys.readouterr().out)


def test_the_simulator_takes_part(capsys):
    argv = ["dense:m7k5n3", "--device", "sim", "--seconds", "0.05", "--processes", "1"]
    assert cli.main(["bench", *argv]) == 0
    assert "tilegrad sim" in capsys.readouterr().out


def plan(**changes):
    given = {
        "suite": "",
        "device": "cpu",
        "threads": {1: ()},
        "isas": [ISA],
        "libraries": ["tilegrad"],
        "processes": 1,
        "seconds": 0.05,
        "epoch_seconds": 1,
        "noise": 0.01,
        "cold": False,
        "seed": 0,
        "path": None,
        "arguments": [],
    }
    return runner.Plan(**given | changes)


@pytest.fixture
def workers(monkeypatch):
    """Orders of the workers so far; workloads in `ends` end the process, in `stops` the run."""

    class Fake(runner.Process):
        orders, ends, stops = [], {}, {}

        def __init__(self, order):
            self.orders.append(order)
            self.number, self.code = len(self.orders), None

        def __exit__(self, *error):
            pass

        def answers(self):
            for descriptor in self.orders[-1]["workloads"]:
                yield {"begin": descriptor}
                if self.ends.get(descriptor) == self.number:
                    self.code = "exit status -11: bad"
                    return
                if self.stops.get(descriptor) == self.number:
                    raise KeyboardInterrupt
                yield part(descriptor, [float(self.number)] * 3)
                yield part(descriptor, [4.0] * 3, "numpy", way=2)

        def trouble(self):
            return self.code

    monkeypatch.setattr(runner, "Process", Fake)
    return Fake


THREE = ("relu:n7", "add:n7", "exp:n7")


def kernel_rows(told=(), **changes):
    """[(workload, label, status, number of samples, final)] as they come."""
    tell = told.append if told != () else lambda text: None
    found = runner.kernel_rows(
        [parse(d) for d in THREE], 1, plan(**changes), roofline.Roofs(), tell
    )
    return [
        (r["workload"], r["label"].split()[0], r["status"], r.get("warm", {}).get("n", 0), final)
        for r, final in found
    ]


def test_a_worker_that_ends_early_costs_one_workload(workers):
    workers.ends["add:n7"] = 1
    rows = [row for row in kernel_rows() if row[1] != "numpy"]
    assert rows == [
        ("relu:n7", "tilegrad", "ok", 3, True),
        ("add:n7", "some", "failed", 0, True),
        ("exp:n7", "tilegrad", "ok", 3, True),
    ]
    assert [order["workloads"] for order in workers.orders] == [list(THREE), ["exp:n7"]]


def test_processes_take_their_turns_over_the_whole_list(workers):
    told = []
    rows = kernel_rows(told, processes=2, seconds=3)
    assert [row for row in rows if row[1] == "tilegrad"] == [
        *((d, "tilegrad", "ok", 3, False) for d in THREE),
        *((d, "tilegrad", "ok", 6, True) for d in THREE),
    ]
    first, second = workers.orders
    assert first["workloads"] == second["workloads"] == list(THREE)
    assert (first["seconds"], first["rounds"]) == (1.5, 3)
    assert first["ways"] == {}
    assert second["ways"] == {d: {"tilegrad avx512": 0, "numpy": 2} for d in THREE}
    assert told[0] == "pass 1 of 2, workload 1 of 3: relu:n7"
    assert told[-1] == "pass 2 of 2, workload 3 of 3: exp:n7"


@pytest.mark.parametrize(("processes", "rounds"), [(1, 5), (2, 3), (3, 2), (9, 2)])
def test_there_are_five_rounds_in_all_and_two_in_each_process(workers, processes, rounds):
    kernel_rows(processes=processes)
    assert [order["rounds"] for order in workers.orders] == [rounds] * processes


def test_what_ended_one_process_does_not_end_the_next(workers):
    workers.ends["add:n7"] = 1
    rows = kernel_rows(processes=2)
    assert [row for row in rows if row[0] == "add:n7"] == [("add:n7", "some", "failed", 0, True)]
    assert [o["workloads"] for o in workers.orders][1:] == [["exp:n7"], ["relu:n7", "exp:n7"]]


def test_what_ends_the_second_process_is_told_beside_what_the_first_has(workers):
    workers.ends["add:n7"] = 2
    rows = [row[1:] for row in kernel_rows(processes=2) if row[0] == "add:n7" and row[-1]]
    assert rows == [
        ("tilegrad", "ok", 3, True),
        ("numpy", "ok", 3, True),
        ("some", "failed", 0, True),
    ]


def test_a_run_that_is_stopped_in_the_second_pass_keeps_the_first(workers, tmp_path, no_roofs):
    workers.stops["add:n7"] = 2
    file = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        runner.run([parse(d) for d in THREE], plan(path=file, processes=2), Console(quiet=True))
    rows = [row for row in record.read(file)["rows"] if row["library"] == "tilegrad"]
    assert [r["workload"] for r in rows] == list(THREE)
    assert [r["warm"]["n"] for r in rows] == [6, 3, 3]


def test_the_terminal_shows_progress_and_final_rows_only(workers, no_roofs):
    shown = {}
    for terminal in (True, False):
        workers.orders.clear()
        console = Console(force_terminal=terminal, file=io.StringIO(), width=100)
        assert runner.run([parse(d) for d in THREE], plan(processes=2), console) == 0
        shown[terminal] = console.file.getvalue()
    assert "pass 1 of 2, workload 3 of 3: exp:n7" in shown[True]
    assert "pass" not in shown[False]
    assert shown[False].count("1.50 s") == 3 and "1.00 s" not in shown[False]


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


def rows_of(w, workload):
    """The rows of a run with one process."""
    return pooled([json.loads(json.dumps(list(w.parts(workload)), allow_nan=False))])


def order(**changes):
    fields = ("device", "isas", "libraries", "seconds", "noise", "cold", "seed")
    given = {name: getattr(plan(), name) for name in fields}
    given |= {"threads": 1, "rounds": 5, "ways": {}}
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
            (row,) = rows_of(w, parse("dense:m7k5n3"))
            assert row["status"] == "refused" and "faster than can be" in row["reason"]
            assert row["roof"]["above"] and row["warm"]["median"] > 0
    assert looks == [(ISA, 1)]


def test_a_workload_that_proves_nothing_is_refused(monkeypatch):
    weak = parse("add:n7")
    monkeypatch.setattr(type(weak), "exact", lambda self, a, b: [a / 0.1 * 0 + 1])
    with worker.Worker(order()) as w:
        (row,) = rows_of(w, weak)
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
        rows = {r["label"]: r for r in rows_of(w, parse("add:n7"))}
    assert rows["NumPy"]["status"] == status and str(error) in rows["NumPy"]["reason"]
    assert rows[f"tilegrad {ISA}"]["status"] == "ok"


def test_the_quickest_way_is_chosen(monkeypatch):
    w = parse("dense:m7k5n3")
    (way,) = Numpy().ways(w)
    monkeypatch.setattr(type(w), "numpy", lambda self: iter([way, way, way]))
    measured = []

    def measure(contenders, truths, **options):
        measured.append([c.name for c in contenders])
        found = {c.name: Measured(warm=Samples([3.0 - i])) for i, c in enumerate(contenders)}
        if len(found) == 3:
            found["way 2"].status = "refused"
        return found

    monkeypatch.setattr(worker, "measure", measure)
    with worker.Worker(order(libraries=["tilegrad", "numpy"])) as bench_worker:
        parts = list(bench_worker.parts(w))
    assert measured == [["way 0", "way 1", "way 2"], [f"tilegrad {ISA}", "NumPy"]]
    assert [part["measured"]["way"] for part in parts] == [0, 1]


def test_a_way_that_is_known_is_not_looked_for_and_who_has_none_is_left_out(monkeypatch):
    w = parse("dense:m7k5n3")
    (way,) = Numpy().ways(w)
    monkeypatch.setattr(type(w), "numpy", lambda self: iter([way, way, way]))
    known = {str(w): {"NumPy": 2}}
    with worker.Worker(order(libraries=["tilegrad", "numpy"], ways=known)) as bench_worker:
        monkeypatch.setattr(bench_worker, "_fastest", None)
        (part,) = bench_worker.parts(w)
    assert part["label"] == "NumPy" and part["measured"]["way"] == 2
    assert len(part["measured"]["warm"]) >= 5


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
