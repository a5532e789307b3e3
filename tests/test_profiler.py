"""`tilegrad.profile`: what it counts, to whom it gives it, and that nothing of it stays behind."""

import importlib.util
import io
import json
import re
import subprocess
import sys
import threading
import time

import fake_cupy
import numpy as np
import pytest
import rich.console
from test_device import cuda, cupy  # noqa: F401 - fixtures

import tilegrad
from tilegrad import backend, cli, instrument, keras, ops, profiler, trace
from tilegrad.autograd import Op, apply
from tilegrad.bench import record
from tilegrad.bench.roofline import Roof
from tilegrad.keras import layers
from tilegrad.keras.optimizers import Optimizer

FLOPS, BYTES = 1e12, 1e11  # of the roof in these tests: to measure one takes a second


@pytest.fixture(autouse=True)
def roof(monkeypatch):
    known = {isa: Roof(isa, 1, FLOPS, ((1, BYTES),), {"L1": 1}) for isa in backend.ISAS}
    monkeypatch.setattr(trace, "_kept_roof", lambda isa, threads: known[isa])


def cnn(jit_compile="auto"):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(5, 3, name="conv"),
            layers.Activation("relu", name="act"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Flatten(name="flat"),
            layers.Dropout(0.25, name="drop"),
            layers.Dense(7, activation="tanh", name="hidden"),
            layers.Dense(10, activation="softmax", name="out"),
        ]
    )
    optimizer = keras.optimizers.Adam(name="adam")
    loss = "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model


def digits(count=83):
    (x, y), _ = keras.datasets.digits.load_data()
    return x[:count, ..., None].astype("float32") / 16, y[:count]


def fit(model, epochs=1, **options):
    return model.fit(*digits(), batch_size=16, epochs=epochs, verbose=0, **options)


def counts(profile):
    return {call: count for call, (count, _) in profile.calls.items()}


# -- the split -------------------------------------------------------------------------------------


@pytest.mark.parametrize("jit_compile", ["auto", False])
def test_the_split_of_an_epoch_adds_up_to_its_wall_time(jit_compile):
    model = cli._small_cnn(keras, (8, 8, 1))
    model.compile("adam", model.loss, metrics=["accuracy"], jit_compile=jit_compile)
    (x, y), _ = keras.datasets.digits.load_data()
    with tilegrad.profile() as p:
        model.fit(x[..., None] / 16.0, y, batch_size=16, epochs=3, verbose=0)
    assert len(p.epochs) == 3
    for epoch in p.epochs:
        wall = epoch.pop("wall")
        assert list(epoch) == list(profiler.SECTIONS)
        assert abs(sum(epoch.values()) - wall) <= 0.03 * wall
        assert min(epoch.values()) >= 0 and epoch["outside"] == 0
        assert min(epoch[name] for name in ("kernel", "dispatch", "Python", "data")) > 0
    assert sum(p.split.values()) == pytest.approx(p.wall)
    kernels = sum(row["ms"] for row in p.rows) / 1e3
    assert p.split["kernel"] == pytest.approx(kernels)  # two sums of the same times


def test_time_counts_for_one_section_only(monkeypatch):
    now = [100]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])
    clock = profiler._Clock()

    def spend(ns):
        now[0] += ns

    spend(1)
    outer = clock.enter(profiler.PYTHON)
    spend(20)
    inner = clock.enter(profiler.DISPATCH)
    spend(300)
    clock.move(profiler.KERNEL, 250)
    clock.enter(inner)
    spend(4000)
    clock.enter(outer)
    assert (outer, inner) == (profiler.OUTSIDE, profiler.PYTHON)
    found = dict(zip(profiler.SECTIONS, clock.ns, strict=True))
    assert found == {
        **dict.fromkeys(profiler.SECTIONS, 0),
        "outside": 1,
        "Python": 4020,
        "dispatch": 50,
        "kernel": 250,
    }


def test_sections_are_what_they_say():
    """Sleep in a callback, in the data, in a loss, and outside: each is found where it was."""
    naps = {"Python": 0.05, "data": 0.07, "dispatch": 0.09, "outside": 0.11}

    class Callback(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            time.sleep(naps["Python"])

    def batches():
        for i in range(3):
            if i == 1:
                time.sleep(naps["data"])
            yield tuple(a[:16] for a in digits())

    def loss(y_true, y_pred):
        if len(calls) == 1:
            time.sleep(naps["dispatch"])
        calls.append(1)
        return (y_pred * y_pred).mean()

    calls = []
    model = cnn()
    model.compile("sgd", loss)
    with tilegrad.profile() as p:
        model.fit(batches(), verbose=0, callbacks=[Callback()])
        time.sleep(naps["outside"])
    for name, nap in naps.items():
        assert p.split[name] >= nap
    assert sum(p.split.values()) == pytest.approx(p.wall)


def test_what_other_threads_do_is_counted_but_takes_none_of_the_time():
    a = np.ones((3, 5), np.float32)

    def work():
        for _ in range(7):
            ops.dense(a, np.ones((5, 2), np.float32))

    with tilegrad.profile() as p:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [(row["kernel"], row["calls"]) for row in p.rows] == [("dense_forward", 7)]
    assert p.split["kernel"] == p.split["dispatch"] == 0
    assert sum(p.split.values()) == pytest.approx(p.wall)


# -- kernels, layers, passes -----------------------------------------------------------------------


def test_captured_steps_are_replayed_and_give_the_same_bits():
    model = cnn()
    history = fit(model, epochs=4).history
    other = cnn()
    with tilegrad.profile() as p:
        assert fit(other, epochs=4).history == history
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        assert a.tobytes() == b.tobytes()
    assert all("captured" in line for line in other.capture_report())
    # 6 steps an epoch, of two shapes; the first two of each shape are recorded
    assert p.overhead.events["replay"] == 4 * 6 - 2 * 2
    assert {row["calls"] for row in p.rows if row["kernel"] == "adam_update"} == {24}


def test_captured_and_eager_steps_are_told_alike():
    """The same kernels for the same layers and passes, with the same FLOPs and bytes."""
    found = []
    for jit_compile in ("auto", False):
        model = cnn(jit_compile)
        fit(model, epochs=2)  # the plans are older than the profile
        with tilegrad.profile() as p:
            fit(model)
        found.append(counts(p))
        assert (p.overhead.events["replay"] == 6) is (jit_compile == "auto")
    assert found[0] == found[1]
    places = {(call.layer, call.phase) for call in found[0]}
    fused = "conv + act + pool"
    assert places == {
        *(
            (layer, pass_)
            for layer in (fused, "hidden", "out")
            for pass_ in ("forward", "backward")
        ),
        *(("drop", "forward"), ("drop", "backward"), ("loss", "forward"), ("loss", "backward")),
        ("adam", "update"),
    }
    kernels = {(call.layer, call.phase, call.kernel) for call in found[0]}
    assert (fused, "forward", "conv2d_max_pool2d_forward") in kernels
    assert ("hidden", "backward", "bias_activation_backward_dz") in kernels
    assert ("adam", "update", "adam_update") in kernels
    (dense,) = (
        c for c in found[0] if c.layer == "hidden" and c.shapes.startswith("16x7 16x45 45x7")
    )
    assert (dense.flops, dense.nbytes) == (2 * 16 * 45 * 7, 4 * (16 * 7 + 16 * 45 + 45 * 7 + 7))


def test_layers_within_layers_and_their_optimizer():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="deep")], name="block")
    model = keras.Sequential([keras.Input((3,)), inner, layers.Dense(1, name="top")])
    model.compile(keras.optimizers.SGD(name="sgd_of_mine"), "mse")
    with tilegrad.profile() as p:
        model.fit(np.ones((12, 3)), np.ones(12), batch_size=4, verbose=0)
    found = {(row["layer"], row["phase"]): row["calls"] for row in p.layers}
    assert found["block/deep", "forward"] == 3 and found["sgd_of_mine", "update"] == 3
    assert ("top", "backward") in found and ("loss", "forward") in found


def test_a_convolution_that_waits_is_of_its_own_layer():
    """It runs when Flatten looks at it."""
    model = keras.Sequential(
        [keras.Input((6, 6, 2)), layers.Conv2D(3, 3, name="conv"), layers.Flatten(name="flat")]
    )
    with tilegrad.profile() as p:
        model.predict(np.ones((2, 6, 6, 2)), verbose=0)
    assert [(row["layer"], row["phase"], row["calls"]) for row in p.layers] == [
        ("conv", "forward", 1)
    ]


def test_a_loop_of_ones_own():
    class Twice(Op):
        def forward(self, k, x):
            self.saved = (x,)
            y = k.empty(x.shape, x.dtype)
            k.binary_forward(y, x, x, backend.BINARY["add"])
            return y

        def backward(self, k, dy):
            dx = k.empty(dy.shape, dy.dtype)
            k.binary_forward(dx, dy, dy, backend.BINARY["add"])
            return (dx,)

    w = tilegrad.Tensor(np.ones((3, 2), np.float32), requires_grad=True)
    with tilegrad.profile() as p:
        for _ in range(2):
            y = ops.dense(np.ones((5, 3), np.float32), w)
            (apply(Twice(), y) + y).sum().backward()
    calls = counts(p)
    assert {call.layer for call in calls} == {""}
    passes = {(c.kernel, c.phase): n for c, n in calls.items() if c.shapes == "5x2 5x2 5x2"}
    # Twice and +, backward of Twice and the sum of y's two gradients
    assert passes == {("binary_forward", "forward"): 4, ("binary_forward", "backward"): 4}
    assert p.split["outside"] > 0 and p.split["dispatch"] > 0 and p.split["Python"] == 0


def test_the_share_of_the_roof_is_least_time_over_time():
    a = np.ones((64, 64), np.float32)
    with tilegrad.profile() as p:
        ops.dense(a, a)
        assert p.rows[0]["roof"] is not None  # kept, so known while the profile runs
    (row,) = p.rows
    least = max(2 * 64**3 / FLOPS, 3 * 4 * 64**2 / BYTES)
    assert row["roof"] == pytest.approx(least / (row["ms"] / 1e3))
    with backend.use("reference"), tilegrad.profile() as p:
        ops.dense(a, a)
    assert p.rows[0]["roof"] is None and p.rows[0]["gflops"] > 0


def test_roofs_are_not_measured_while_a_profile_runs(monkeypatch):
    measured = []
    roof = Roof("base", 1, FLOPS, ((1, BYTES),), {"L1": 1})
    monkeypatch.setattr(trace, "_kept_roof", lambda isa, threads: None)
    monkeypatch.setattr(trace, "_quick_roof", lambda *key: measured.append(key) or roof)
    with tilegrad.profile() as p:
        ops.relu([1.0])
        assert p.rows[0]["roof"] is None and not measured
    assert p.rows[0]["roof"] > 0 and measured
    assert "measured just now, in a hurry" in printed(p.table())


def test_level_2_sees_captured_steps_and_level_3_undoes_them(monkeypatch, capsys):
    """The lines of captured steps are those of eager ones, their time aside, and so are weights."""
    lines, weights = [], []
    for jit_compile, level in (("auto", 2), (False, 2), ("auto", 3)):
        model = cnn(jit_compile)
        trace.set_level(level)
        try:
            fit(model, epochs=3)
        finally:
            trace.set_level(0)
        words = [line.split() for line in capsys.readouterr().err.splitlines() if "GB/s" in line]
        lines.append([(line[2], line[line.index("peak") + 1 :]) for line in words])
        weights.append([w.tobytes() for w in model.get_weights()])
        captured = [line for line in model.capture_report() if ": captured" in line]
        assert len(captured) == (2 if (jit_compile, level) == ("auto", 2) else 0)
    assert lines[0] == lines[1] == lines[2] and len(lines[0]) > 3 * 6 * 10
    assert weights[0] == weights[1] == weights[2]


# -- in C++ ----------------------------------------------------------------------------------------


def test_a_replay_times_each_step(compiled):
    x, y = np.ones(1000, np.float32), np.empty(1000, np.float32)
    number = np.zeros(1, np.float32)
    plan = compiled.module.Plan()
    plan.begin()
    compiled.activation_forward(y, x, 1, 0.0)
    plan.stop_if_nan(number)
    compiled.activation_forward(y, x, 1, 0.0)
    plan.end()
    taken = np.full(3, -1, np.int64)
    y.fill(np.nan)
    start = time.perf_counter_ns()
    assert plan.replay(taken)
    assert y.tolist() == x.tolist()
    assert (taken >= 0).all() and 0 < taken.sum() <= time.perf_counter_ns() - start
    number[0] = np.nan
    taken.fill(-1)
    assert not plan.replay(taken)
    assert taken[0] >= 0 and taken[1:].tolist() == [-1, -1]  # what did not run has no time
    with pytest.raises(ValueError, match=r"expected taken of shape \(3,\)"):
        plan.replay(np.zeros(2, np.int64))
    with pytest.raises(TypeError, match="taken of dtype int64"):
        plan.replay(np.zeros(3, np.int32))


def test_steps_of_a_plan_that_nobody_noted_take_no_part(compiled):
    x, y = np.ones(10, np.float32), np.empty(10, np.float32)
    plan = compiled.module.Plan()
    plan.begin()
    for _ in range(3):
        compiled.module.activation_forward(y, x, 1, 0.0)
    plan.end()
    call = trace.describe(compiled, "activation_forward", (y, x, 1, 0.0))
    with trace.record() as recorder:
        assert trace.replay(plan, [None, call])
    assert [(c, n) for c, (n, _) in recorder.calls.items()] == [(call, 1)]


def test_kernels_are_timed_inside_while_it_is_on(compiled):
    module = compiled.module
    x = np.ones((200, 200), np.float32)
    module.kernel_nanoseconds()
    module.dense_forward(np.empty_like(x), x, x, None, 0, 0.0)
    assert module.kernel_nanoseconds() == 0
    module.time_kernels(True)
    try:
        start = time.perf_counter_ns()
        for _ in range(2):
            module.dense_forward(np.empty_like(x), x, x, None, 0, 0.0)
        elapsed = time.perf_counter_ns() - start
        assert 0 < module.kernel_nanoseconds() <= elapsed
        assert module.kernel_nanoseconds() == 0  # it was asked
    finally:
        module.time_kernels(False)


def test_the_pool_knows_its_bytes(compiled):
    module = compiled.module
    module.pool_trim()
    held, in_use, _ = module.pool_bytes()
    size = 3 << 20
    array = module.empty((size,), "uint8")
    assert module.pool_bytes()[:2] == (held + size, in_use + size)
    again = module.empty((size,), "uint8")
    del again
    assert module.pool_bytes() == (held + 2 * size, in_use + size, in_use + 2 * size)
    assert module.pool_bytes()[2] == in_use + size  # a new peak began
    del array
    module.pool_trim()
    assert module.pool_bytes() == (held, in_use, in_use + size)


# -- memory ----------------------------------------------------------------------------------------


def test_memory():
    size = 5 << 20
    with tilegrad.profile() as p:
        ops.relu(np.zeros(size // 4, np.float32))
        time.sleep(0.002)
        ops.relu(np.zeros(2, np.float32))
    before = p.samples[0]["in_use"]
    assert p.samples[0]["peak"] == before  # what was before the profile is not in it
    assert p.memory["peak"] >= before + size and p.memory["held"] >= p.memory["peak"]
    assert p.samples[-1]["in_use"] < before + size
    assert p.memory["resident"] is None or p.memory["resident"] > size
    times = [sample["seconds"] for sample in p.samples]
    assert times == sorted(times) and times[0] == 0 and times[-1] == pytest.approx(p.wall)


def test_a_backend_without_a_pool(tmp_path):
    with backend.use("reference"), tilegrad.profile() as p:
        ops.relu([1.0])
    assert p.memory["peak"] is None and p.memory["held"] is None
    assert p.rows[0]["kernel"] == "activation_forward" and "-" in printed(p.table())
    p.chrome_trace(tmp_path / "t.json")
    assert "pool" not in (tmp_path / "t.json").read_text()
    if importlib.util.find_spec("matplotlib"):
        p.plot()


def test_samples_and_events_have_an_end(monkeypatch):
    monkeypatch.setattr(profiler, "_MOST_SAMPLES", 10)
    monkeypatch.setattr(profiler, "_MOST_EVENTS", 20)
    with tilegrad.profile() as p:
        p._sample_every = 1
        for _ in range(50):
            ops.relu([1.0])
    assert len(p.samples) <= 11 and p._sample_every > 1
    assert p.rows[0]["calls"] == 50 and len(list(p._kernels())) == 20


# -- shown -----------------------------------------------------------------------------------------


def printed(table, width=80):
    text = io.StringIO()
    rich.console.Console(file=text, width=width).print(table)
    return text.getvalue()


@pytest.fixture(scope="module")
def profiled():
    model = cnn()
    with tilegrad.profile() as p:
        fit(model, epochs=2)
        model.evaluate(*digits(), verbose=0)
    return p


def test_table(profiled):
    text = printed(profiled.table("My run"))
    assert max(map(len, text.splitlines())) <= 80
    assert "My run" in text and "2 epochs" in text and "MB" in text
    for word in (*profiler.SECTIONS, "conv2d_max_pool2d_forward", "hidden", "backward", "update"):
        assert word in text
    assert "as kept by tilegrad bench --machine" in " ".join(text.split())


def test_an_empty_profile_can_be_shown(tmp_path):
    with tilegrad.profile() as p:
        text = printed(p.table())
    assert "outside" in text and p.rows == []
    assert "kernel" in printed(p.table())
    p.chrome_trace(tmp_path / "t.json")


def test_chrome_trace(profiled, tmp_path):
    path = tmp_path / "t.json"
    profiled.chrome_trace(path)
    data = json.loads(path.read_text())
    events = data["traceEvents"]
    for event in events:
        assert {"name", "ph", "pid", "tid"} <= event.keys()
        assert event["ph"] in "XCM"
        assert event["ph"] != "X" or (event["ts"] >= 0 and event["dur"] >= 0)
    spans = [event for event in events if event["ph"] == "X"]
    by_kind = {
        kind: [e for e in spans if e["cat"] == kind] for kind in ("section", "layer", "kernel")
    }
    names = {event["name"] for event in by_kind["section"]}
    assert {"fit", "evaluate", "epoch 1", "epoch 2", "batch", "step", "captured step"} <= names
    assert len(by_kind["kernel"]) == sum(counts(profiled).values())
    kernel = next(e for e in by_kind["kernel"] if e["name"] == "adam_update")
    assert kernel["args"]["layer"] == "adam" and "arrays" in kernel["args"]["shapes"]
    assert {"hidden forward", "adam update"} <= {event["name"] for event in by_kind["layer"]}
    assert {e["name"] for e in events if e["ph"] == "C"} >= {"pool", "pool in use"}
    assert {e["name"] for e in events if e["ph"] == "M"} == {"process_name", "thread_name"}
    check_nesting(spans)


def check_nesting(spans):
    """Events of a thread lie within each other or apart: kernels in layers in steps in epochs."""
    open_events = []
    for event in sorted(spans, key=lambda e: (e["tid"], e["ts"], -e["dur"])):
        while open_events and (
            open_events[-1]["tid"] != event["tid"] or end(open_events[-1]) <= event["ts"] + 1e-6
        ):
            open_events.pop()
        assert not open_events or end(event) <= end(open_events[-1]) + 1e-3
        open_events.append(event)
        if event["cat"] == "kernel":
            kinds = [e["cat"] for e in open_events]
            assert kinds[-2] == "layer" and kinds[0] == "section"


def end(event):
    return event["ts"] + event["dur"]


def test_plot(profiled, tmp_path):
    pytest.importorskip("matplotlib")
    figure = profiled.plot(tmp_path / "p.svg")
    assert "<svg" in (tmp_path / "p.svg").read_text()
    titles = {axes.get_title(): axes for axes in figure.axes}
    assert {"Where the time went", "Time in kernels per layer and pass", "Memory"} <= titles.keys()
    bars = titles["Time in kernels per layer and pass"].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(
        sum(row["ms"] for row in profiled.layers)
    )


def test_plot_says_what_it_needs(profiled, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeError, match="pip install matplotlib"):
        profiled.plot()


def test_overhead(profiled):
    overhead = profiled.overhead
    assert overhead.cost.keys() == overhead.events.keys()
    assert overhead.cost["kernel"] > 0 and overhead.cost["section"] > 0
    assert overhead.seconds == pytest.approx(
        sum(n * overhead.cost[event] for event, n in overhead.events.items())
    )
    assert overhead.share == pytest.approx(overhead.seconds / profiled.wall)
    assert f"{overhead.events['replay']} replays" in str(overhead)
    with tilegrad.profile() as p, pytest.raises(RuntimeError, match="this one runs"):
        p.overhead  # noqa: B018


# -- nothing stays behind --------------------------------------------------------------------------


def looked_at():
    k = backend.get("cpu")
    owners = [
        *((layers.Layer, "__call__"), (Optimizer, "apply"), (keras.Model, "fit")),
        *((tilegrad.Tensor, "backward"), (ops, "dense"), (Op, "forward"), (k, "dense_forward")),
    ]
    return [getattr(*owner) for owner in owners]


def test_what_is_looked_at_is_itself_again():
    before = looked_at()
    with pytest.raises(KeyError), tilegrad.profile():
        assert not set(map(id, before)) & set(map(id, looked_at()))
        raise KeyError
    assert all(a is b for a, b in zip(before, looked_at(), strict=True))
    assert not trace.is_active() and profiler._running is None


def test_recording_a_plan_leaves_nothing_behind():
    before = looked_at()
    fit(cnn())
    assert all(a is b for a, b in zip(before, looked_at(), strict=True))


def test_one_profile_at_a_time():
    with tilegrad.profile() as p:
        with (
            pytest.raises(RuntimeError, match="expected no other profile to run"),
            tilegrad.profile(),
        ):
            pass
        ops.relu([1.0])
    assert p.rows[0]["calls"] == 1


def test_a_function_that_somebody_else_put_there_stays():
    class Owner:
        def name(self):
            return "old"

    instrument.add("places", Owner, "name", lambda f: lambda self: f"({f(self)})")
    with instrument.on("places"):
        assert Owner().name() == "(old)"
    Owner.name = lambda self: "new"
    with instrument.on("places"):
        assert Owner().name() == "(new)"
        Owner.name = lambda self: "newer"
    assert Owner().name() == "newer"


def test_a_step_that_is_stopped_is_run_again_and_counted_once():
    model = cnn()
    fit(model, epochs=3)
    x, _ = digits()
    with tilegrad.profile() as p, pytest.raises(ValueError, match="label"):
        model.fit(x[:16], np.full(16, 99), batch_size=16, verbose=0)
    assert p.overhead.events["replay"] == 0
    assert {row["calls"] for row in p.rows_by("kernel", "layer")} == {1}


# -- CUDA ------------------------------------------------------------------------------------------


def test_nvtx_ranges_and_the_gpu_s_pool(cuda):  # noqa: F811
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="only")])
    model.compile(keras.optimizers.SGD(name="sgd"), "mse")
    fake_cupy.ranges.clear()
    with tilegrad.profile() as p:
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    depth, names = [], []
    for what, *name in fake_cupy.ranges:
        if what == "pop":
            depth.pop()
            continue
        depth += name
        names.append(tuple(depth))
    assert depth == [] and max(map(len, names)) == 2
    assert ("only forward", "dense_forward") in names
    assert ("only backward", "dense_backward_dw") in names
    assert ("sgd update", "sgd_update") in names
    assert (p.memory["peak"], p.memory["held"]) == (3 << 20, 5 << 20)
    assert sum(p.split.values()) == pytest.approx(p.wall)


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize("eager", [[], ["--eager"]])
def test_command(eager, tmp_path, capsys):
    arguments = ["profile", "--epochs", "2", "--batch-size", "64", *eager]
    files = tmp_path / "t.json", tmp_path / "p.svg", tmp_path / "r.json"
    plot = ["--plot", str(files[1])] if importlib.util.find_spec("matplotlib") else []
    assert cli.main([*arguments, "--trace", str(files[0]), *plot, "--json", str(files[2])]) == 0
    out = capsys.readouterr().out
    assert "Epoch 2/2" in out and "dispatch" in out and re.search(r"conv2d\w* \+", out)
    assert ("step for jit_compile is False" in out) is bool(eager)
    assert "profiling took" in out and str(files[0]) in out
    assert len(json.loads(files[0].read_text())["traceEvents"]) > 100
    assert not plot or files[1].stat().st_size > 0
    (row,) = record.read(files[2])["rows"]
    assert row["workload"] == "profile:cnn:b64" and row["split"]["kernel"] > 0


SCRIPT = """
import sys
from pathlib import Path
import helper
from tilegrad import ops
assert __name__ == "__main__" and sys.argv[1:] == ["--epochs", "3", "x"], sys.argv
ops.dense([[1.0]], [[2.0]])
{end}
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    (tmp_path / "helper.py").write_text("")

    def write(end):
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(end=end))
        return str(path)

    yield write
    sys.modules.pop("helper", None)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit()", 0),
        ("sys.exit(7)", 7),
        ("1 / 0", 1),
        ("raise KeyboardInterrupt", 130),
    ],
)
def test_command_runs_a_script(end, code, script, capsys):
    arguments = ["profile", script(end), "--epochs", "3", "x"]
    if code:
        with pytest.raises(SystemExit) as error:
            cli.main(arguments)
        assert error.value.code == code
    else:
        assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert "dense_forward" in captured.out  # however it ended
    assert ("ZeroDivisionError" in captured.err) is (end == "1 / 0")


def test_command_runs_a_script_in_a_process_of_its_own(script, tmp_path):
    file = tmp_path / "t.json"
    command = [sys.executable, "-m", "tilegrad", "profile", "--trace", str(file)]
    command += [script("sys.exit(3)"), "--epochs", "3", "x"]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert result.returncode == 3, result.stderr
    assert "dense_forward" in result.stdout and file.exists()


def test_command_leaves_the_interpreter_as_it_was(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.path.append('there'); sys.argv.append('more')")
    before = list(sys.argv), list(sys.path)
    assert cli.main(["profile", str(script)]) == 0
    assert (sys.argv, sys.path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs: expected an integer at least 1, got '0'"),
        (["--dataset", "cifar"], "invalid choice: 'cifar'"),
        (["none.py"], "script: expected a Python file, got none.py"),
        (["--eager", "none.py"], "--eager: expected no script, got none.py"),
        (["--batch-size", "3", "none.py"], "--batch-size: expected no script, got none.py"),
    ],
)
def test_command_refuses(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["profile", *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
