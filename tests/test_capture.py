"""Captured steps give the bits of eager ones, and what cannot be captured is refused."""

import copy
import re
import threading
import warnings

import numpy as np
import pytest

import tilegrad
from tilegrad import keras, ops, recording
from tilegrad.backend import KERNELS
from tilegrad.keras import layers, losses, optimizers

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((70, 8, 8, 1), np.float32)
ROWS = RNG.standard_normal((70, 12), np.float32)
LABELS = RNG.integers(0, 10, 70).astype(np.int32)


@pytest.fixture(autouse=True)
def on_compiled(compiled):
    """Plans are the compiled backends'."""
    with tilegrad.backend.use(compiled.name):
        yield


def mlp():
    return [
        keras.Input((12,)),
        layers.Dense(9, activation="relu", kernel_regularizer="l2"),
        layers.Dropout(0.3),
        layers.Dense(10, activation="softmax"),
    ]


def cnn():
    return [
        keras.Input((8, 8, 1)),
        layers.Conv2D(5, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(4, 2, padding="same", activation="tanh"),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ]


OPTIMIZERS = {
    "adam": lambda: optimizers.Adam(optimizers.schedules.ExponentialDecay(1e-2, 3, 0.7)),
    "amsgrad": lambda: optimizers.AdamW(1e-2, amsgrad=True, loss_scale_factor=4.0),
    "sgd": lambda: optimizers.SGD(0.1),
    "momentum": lambda: optimizers.SGD(0.1, 0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": lambda: optimizers.RMSprop(momentum=0.5, centered=True, clipvalue=0.01),
    "callable": lambda: optimizers.SGD(iter(np.linspace(0.1, 0.01, 99)).__next__),
}


class Problem:
    """A model, its optimizer and the step that a user writes by hand."""

    def __init__(self, make_layers=mlp, make_optimizer=OPTIMIZERS["adam"]):
        keras.utils.set_random_seed(1)
        self.model = keras.Sequential(make_layers())
        self.optimizer = make_optimizer()
        self.loss = losses.SparseCategoricalCrossentropy()
        self.x = IMAGES if self.model.input_shape[1:] == (8, 8, 1) else ROWS

    def step(self, x, y):
        y_pred = self.model(x, training=True)
        loss = self.loss(y, y_pred)
        loss = sum(self.model.losses, loss)
        self.optimizer.scale_loss(loss).backward()
        self.optimizer.apply(self.model.trainable_weights)
        return loss, y_pred

    def batch(self, i, size=16):
        rows = np.arange(i * size, (i + 1) * size) % len(LABELS)
        return self.x[rows], LABELS[rows]

    def state(self):
        variables = self.model.weights + self.optimizer.variables
        seeds = [v.seed_generator.counter for v in self.model.layers if hasattr(v, "rate")]
        return [v.data.tobytes() for v in variables], [v._version[0] for v in variables[:2]], seeds


def bits(result):
    return [t.data.tobytes() for t in (result if isinstance(result, tuple) else (result,))]


def train(problem, step, count=8, sizes=(16,)):
    """The bits of all results and of the final state."""
    found = []
    for i in range(count):
        found.append(bits(step(*problem.batch(i, sizes[i % len(sizes)]))))
    return found, problem.state()


def both(function, count=6, problem=Problem):
    """`function(problem, x, y)` as a step, eager and captured: the same bits? And the report."""
    eager = problem()
    expected = train(eager, lambda x, y: function(eager, x, y), count)
    captured = problem()
    step = tilegrad.capture(lambda x, y: function(captured, x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = train(captured, step, count)
    assert found == expected
    (line,) = step.report()
    return line


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("make_layers", [mlp, cnn])
def test_a_captured_step_gives_the_bits_of_the_eager_one(make_layers, name):
    eager, captured = (Problem(make_layers, OPTIMIZERS[name]) for _ in range(2))
    expected = train(eager, eager.step, 12, sizes=(16, 7))
    step = tilegrad.capture(captured.step)
    assert train(captured, step, 12, sizes=(16, 7)) == expected
    assert len(step.report()) == 2
    assert all("captured, " in line for line in step.report())


def test_results_are_copies_and_gradients_are_kept():
    problem, eager = Problem(), Problem()

    def gradients(problem, x, y):
        for v in problem.model.weights:
            v.grad = None
        y_pred = problem.model(x, training=True)
        problem.loss(y, y_pred).backward()
        return y_pred

    step = tilegrad.capture(lambda x, y: gradients(problem, x, y))
    results, expected = [], []
    for i in range(5):
        results.append(step(*problem.batch(i)))
        expected.append(gradients(eager, *eager.batch(i)).data.tobytes())
        for v, w in zip(problem.model.weights, eager.model.weights, strict=True):
            assert v.grad.data.tobytes() == w.grad.data.tobytes()
    assert [r.data.tobytes() for r in results] == expected
    assert "captured" in step.report()[0]
    assert results[-1].creator is None and not results[-1].requires_grad


def test_slices_and_shared_gradients():
    """Zeros that a slice's gradient is put into are written again; copies of gradients too."""

    def step(problem, x, y):
        w, b = problem.model.weights[:2]
        z = tilegrad.Tensor(x) if isinstance(x, np.ndarray) else x
        part = w[2:9] * 2.0
        loss = (z[:, 2:9] @ part + w[0] - b).sum() + (part + part).sum() + (w[1:3] ** 2).mean()
        loss.backward()
        problem.optimizer.apply([w, b])
        return ops.concatenate([loss.reshape(1), b])

    assert "captured" in both(step)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "int16", "bool"])
def test_labels_and_images_of_other_types(dtype):
    def step(problem, x, y):
        pixels = (x * 20).astype("uint8") if isinstance(x, np.ndarray) else x
        return problem.step(pixels, y)

    class Labels(Problem):
        def batch(self, i, size=16):
            x, y = super().batch(i, size)
            return x, (y % 2).astype(dtype)

    assert "captured" in both(Problem.step, problem=Labels)
    assert "convert: x is a new array" in both(step)  # outside the step it would have been fine


def test_wrong_labels_in_a_replay_leave_the_model_whole():
    problem = Problem()
    step = tilegrad.capture(problem.step)
    for i in range(4):
        step(*problem.batch(i))
    x, y = problem.batch(4)
    before = problem.state()[0]
    for wrong in (10, -1, 2**31 - 1):
        with pytest.raises(ValueError, match=f"got {wrong} in row 3"):
            step(x, np.where(np.arange(16) == 3, wrong, y).astype(np.int32))
    assert problem.state()[0] == before
    assert np.isfinite(step(x, y)[0].item())
    assert "captured" in step.report()[0]


def test_a_loss_of_nan_is_that_of_the_eager_step():
    class Broken(Problem):
        def batch(self, i, size=16):
            x, y = super().batch(i, size)
            return (np.full_like(x, np.nan) if i == 4 else x), y

    assert "captured" in both(Problem.step, problem=Broken)


# -- what is refused -------------------------------------------------------------------------------


def with_numpy(p, x, y):
    weight = 1.0 + (y == 3).astype(np.float32)
    loss = p.loss(y, p.model(x, training=True), weight)
    return finish(p, loss)


def with_a_number_of_the_data(p, x, y):
    return finish(p, p.loss(y, p.model(x, training=True)) * float(y.mean()))


def with_a_numpy_scalar(p, x, y):
    return finish(p, p.loss(y, p.model(x, training=True)) * np.float32(y.max()))


def with_item(p, x, y):
    loss = p.loss(y, p.model(x, training=True))
    return finish(p, loss * loss.item())


def with_a_branch(p, x, y):
    loss = p.loss(y, p.model(x, training=True))
    return finish(p, loss * 2.0 if loss else loss)


def with_assignment(p, x, y):
    result = p.step(x, y)
    p.model.weights[1].assign(np.zeros(9, np.float32))
    return result


def with_a_metric(p, x, y):
    p.metric = getattr(p, "metric", None) or keras.metrics.Mean()
    result = p.step(x, y)
    p.metric.update_state(result[0].item())
    return result


def with_another_call_each_time(p, x, y):
    p.calls = getattr(p, "calls", 0) + 1
    return finish(p, p.loss(y, p.model(x, training=True)) * float(p.calls))


def with_another_op_each_time(p, x, y):
    p.calls = getattr(p, "calls", 0) + 1
    loss = p.loss(y, p.model(x, training=True))
    return finish(p, loss + p.model.weights[0].sum() * 0.01 if p.calls % 2 else loss)


def with_numpy_on_data(p, x, y):
    result = p.step(x, y)
    w = p.model.weights[0].data
    np.clip(w, -0.3, 0.3, out=w)
    return result


def with_statistics_by_numpy(p, x, y):
    p.mean = getattr(p, "mean", np.zeros(10, np.float32))
    p.mean += 0.1
    return finish(p, p.loss(y, p.model(x, training=True) + tilegrad.Tensor(p.mean)))


def with_an_array_in_the_result(p, x, y):
    return tilegrad.Tensor([p.step(x, y)[0].data.sum()])


def finish(p, loss):
    loss.backward()
    p.optimizer.apply(p.model.trainable_weights)
    return loss


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (with_numpy, "weight is a new array in each call that no kernel of it wrote"),
        (with_a_number_of_the_data, "two calls differ"),
        (with_a_numpy_scalar, "is a new array in each call that no kernel of it wrote"),
        (with_item, "reads a number of a tensor"),
        (with_a_branch, "decides by a tensor"),
        (with_assignment, "assigns to a tensor"),
        (with_a_metric, "reads a number of a tensor"),
        (with_another_call_each_time, "two calls differ: in what binary_forward takes as b"),
        (with_another_op_each_time, "two calls differ: one calls"),
        (with_numpy_on_data, "a replay gives other numbers"),
        (with_statistics_by_numpy, "NumPy changes within the step what its kernels read"),
        (with_an_array_in_the_result, "two calls differ: in what they return|NumPy|other numbers"),
    ],
)
def test_what_is_refused(step, reason):
    line = both(step)
    assert re.search(reason, line), line


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"clipnorm": 0.1}, "clips gradients by their norm"),
        ({"global_clipnorm": 0.1}, "clips gradients by their norm"),
        ({"use_ema": True}, "averages weights"),
        ({"gradient_accumulation_steps": 2}, "accumulates gradients"),
    ],
)
def test_optimizers_that_compute_in_python_are_refused(options, reason):
    def problem():
        return Problem(mlp, lambda: optimizers.SGD(0.1, **options))

    assert reason in both(Problem.step, problem=problem)


def test_gradients_that_add_up_over_calls_are_refused():
    def step(p, x, y):
        loss = p.loss(y, p.model(x, training=True))
        loss.backward()
        return loss

    assert "a is a new array in each call" in both(step)


def test_a_refusal_warns_once_and_a_bad_argument_raises():
    problem = Problem()
    step = tilegrad.capture(lambda x, y: with_item(problem, x, y))
    with pytest.warns(UserWarning, match="runs eagerly, it reads a number"):
        step(*problem.batch(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(*problem.batch(1))
    with pytest.raises(TypeError, match="arguments to be arrays"):
        step(object(), 1)


def test_arguments_nested_in_lists_and_dicts_with_numbers_beside():
    problem, eager = Problem(), Problem()

    def step(p, batch, scale, flag=None):
        y_pred = p.model(batch["x"][0], training=True)
        loss = finish(p, p.loss(batch["y"], y_pred) * scale)
        return {"loss": loss, "all": [y_pred, scale, flag]}

    captured = tilegrad.capture(lambda *arguments: step(problem, *arguments))
    for i in range(8):
        x, y = problem.batch(i)
        arguments = {"x": [tilegrad.Tensor(x)], "y": y}, 2.0 if i % 2 else 3.0, "a"
        found, expected = captured(*arguments), step(eager, *arguments)
        assert found["loss"].item() == expected["loss"].item()
        assert found["all"][0].data.tobytes() == expected["all"][0].data.tobytes()
        assert found["all"][1:] == expected["all"][1:]
    assert [("captured" in line) for line in captured.report()] == [True, True]


def test_steps_on_the_reference_backend_run_eagerly():
    with tilegrad.backend.use("reference"):
        problem = Problem()
        step = tilegrad.capture(problem.step)
        with pytest.warns(UserWarning, match="backend reference has no plans"):
            step(*problem.batch(0))


def test_many_shapes_run_eagerly():
    problem, eager = Problem(), Problem()
    step = tilegrad.capture(problem.step)
    sizes = range(1, 13)
    assert train(problem, step, 36, sizes) == train(eager, eager.step, 36, sizes)
    assert len(step.report()) == 8


# -- what may change between calls -----------------------------------------------------------------


def test_changes_between_calls_are_seen():
    def change(problem, i):
        weights = problem.model.weights
        if i == 3:
            problem.optimizer.learning_rate = 0.5
        elif i == 4:
            weights[0].assign(weights[0].data * 0.5)
        elif i == 5:
            weights[1][...] = 0.25
        elif i == 6:
            weights[2].data = weights[2].data * 2  # another array
        elif i == 9:
            problem.model.layers[1].rate = 0.6
        elif i == 12:
            problem.optimizer.nesterov = True
        elif i == 15:
            problem.optimizer.iterations = 2

    found = []
    for captured in (False, True):
        problem = Problem(make_optimizer=lambda: optimizers.SGD(0.1, 0.9))
        step = tilegrad.capture(problem.step) if captured else problem.step
        results = []
        for i in range(18):
            change(problem, i)
            results.append(bits(step(*problem.batch(i))))
        found.append((results, problem.state()[0]))
    assert found[0] == found[1]
    assert "captured" in step.report()[0]


def test_what_changes_at_every_call_is_not_recorded_for_ever():
    problem, eager = Problem(), Problem()
    step = tilegrad.capture(problem.step)
    for i in range(24):
        problem.model.layers[1].rate = eager.model.layers[1].rate = 0.1 + i / 50
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert bits(step(*problem.batch(i))) == bits(eager.step(*eager.batch(i)))
    assert "captured" not in step.report()[0]


def test_an_exception_while_recording():
    problem = Problem()
    fail = [True]

    def function(x, y):
        result = problem.model(x, training=True)
        if fail[0]:
            raise RuntimeError("stop")
        return finish(problem, problem.loss(y, result))

    step = tilegrad.capture(function)
    with pytest.raises(RuntimeError, match="stop"):
        step(*problem.batch(0))
    assert recording.state.log is None
    k = tilegrad.backend.get("cpu")
    assert k.dense_forward is k.module.dense_forward and k.empty is k.module.empty
    fail[0] = False
    for i in range(4):
        step(*problem.batch(i))
    assert "captured" in step.report()[0]


def test_tracing_sees_every_kernel():
    problem = Problem()
    step = tilegrad.capture(problem.step)
    for i in range(4):
        step(*problem.batch(i))
    with tilegrad.trace.record() as recorder:
        step(*problem.batch(4))
    assert {"dense_forward", "adam_update"} <= {row["kernel"] for row in recorder.rows}


def test_threads():
    """One captured step in several threads, each its own too: all train as if alone."""
    alone, count = Problem(), 4
    expected = train(alone, alone.step, 10)
    found, reports = [None] * count, [None] * count
    shared = Problem()
    together = tilegrad.capture(shared.step)
    problems = [Problem() for _ in range(count)]
    steps = [tilegrad.capture(p.step) for p in problems]

    def run(i):
        found[i] = train(problems[i], steps[i], 10)
        reports[i] = steps[i].report()
        for j in range(5):
            together(*shared.batch(j))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * count
    assert all("captured" in report[0] for report in reports)
    assert int(shared.optimizer.iterations) == 5 * count


def test_plans_check_how_they_are_used(compiled):
    plan = compiled.module.Plan()
    number = np.zeros((), np.int64)
    with pytest.raises(ValueError, match="recording has ended"):
        plan.replay()
    with pytest.raises(ValueError, match="being recorded"):
        plan.count(number)
    plan.begin()
    with pytest.raises(ValueError, match="records another plan"):
        compiled.module.Plan().begin()
    y = np.zeros(3, np.float32)
    compiled.activation_forward(y, np.ones(3, np.float32), 0, 0.0)
    plan.count(number)
    with pytest.raises(TypeError, match="dtype int64"):
        plan.count(np.zeros((), np.int32))
    with pytest.raises(ValueError, match="shape"):
        plan.stop_if_nan(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="integers"):
        plan.convert(y, np.ones(3, np.float16))
    plan.end()
    with pytest.raises(ValueError, match="does not record"):
        plan.end()
    with pytest.raises(ValueError, match="recorded once"):
        plan.begin()
    y[:] = 0
    assert plan.replay() and plan.replay() and len(plan) == 2
    assert y.tolist() == [1, 1, 1] and number == 2


def test_a_plan_keeps_its_memory_apart(compiled):
    """What was freed while recording serves the plan, and nobody else until the plan is gone."""
    plan = compiled.module.Plan()
    x = np.arange(1000, dtype=np.float32)
    plan.begin()
    first = compiled.empty((1000,), np.float32)
    compiled.activation_forward(first, x, 0, 0.0)
    address = first.ctypes.data
    del first
    second = compiled.empty((999,), np.float32)
    assert second.ctypes.data == address
    plan.end()
    del second
    taken = [compiled.empty((1000,), np.float32) for _ in range(50)]
    assert address not in {a.ctypes.data for a in taken}
    for a in taken:
        a.fill(7)
    assert plan.replay()
    assert all((a == 7).all() for a in taken)


def test_conversions_are_numpys():
    k = tilegrad.backend.get("cpu")
    values = [0, 1, 2, 127, 200, 40000, 2**31 - 1, 2**31, 2**40 + 1, -5]
    integers = [f"{sign}int{8 * size}" for sign in ("", "u") for size in (1, 2, 4, 8)]
    for dtype in ("bool", *integers, "float64"):
        with np.errstate(invalid="ignore"):
            x = np.array(values).astype(dtype)
        for target in (np.float32, np.int32)[: 1 if dtype == "float64" else 2]:
            y = np.empty(len(x), target)
            plan = k.module.Plan()
            plan.begin()
            plan.convert(y, x)
            plan.end()
            plan.replay()
            expected = x.astype(target)
            if target == np.int32:
                expected = [int(v) if -(2**31) <= int(v) < 2**31 else -1 for v in x]
                expected = np.array(expected, np.int32)
            assert y.tolist() == expected.tolist(), (dtype, target)


def test_every_kernel_can_be_recorded(compiled):
    """A replay writes what the call wrote."""
    from samples import IN_PLACE, calls

    for call in calls():
        if call.name in IN_PLACE:
            continue
        made = call.copy()
        plan = compiled.module.Plan()
        plan.begin()
        getattr(compiled, call.name)(*made.arguments.values())
        plan.end()
        outputs = [
            made.arguments[name]
            for name in KERNELS[call.name].split(", ")[: tilegrad.trace._output_count(call.name)]
            if made.arguments[name] is not None
        ]
        right = [a.tobytes() for a in outputs]
        for a in outputs:
            a[...] = np.nan if a.dtype.kind == "f" else 77
        assert plan.replay()
        assert [a.tobytes() for a in outputs] == right, call.name


# -- fit -------------------------------------------------------------------------------------------


def compiled_model(jit_compile="auto", make_layers=cnn, optimizer="adam", **options):
    keras.utils.set_random_seed(2)
    model = keras.Sequential(make_layers())
    options = {"metrics": ["accuracy", "ce"]} | options
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=jit_compile, **options)
    return model


def fit(model, *callbacks, x=None, y=LABELS, **options):
    x = (IMAGES if model.input_shape[1:] == (8, 8, 1) else ROWS) if x is None else x
    options = {"batch_size": 16, "epochs": 4, "verbose": 0, "validation_split": 0.1} | options
    return model.fit(x, y, callbacks=list(callbacks), **options).history


def snapshot(model):
    return [v.data.tobytes() for v in model.weights + model.optimizer.variables]


@pytest.mark.parametrize("make_layers", [mlp, cnn])
@pytest.mark.parametrize("shuffle", [True, False, "batch"])
def test_fit_gives_the_same_bits_captured_or_not(make_layers, shuffle):
    found = []
    for jit_compile in (False, "auto", True):
        model = compiled_model(jit_compile, make_layers)
        found.append((fit(model, shuffle=shuffle), snapshot(model)))
    assert found[0] == found[1] == found[2]
    assert ["captured" in line for line in model.capture_report()] == [True, True]


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "loss_weights": 2.5},
        {"optimizer": optimizers.RMSprop(momentum=0.5, global_clipnorm=0.5)},
        {"optimizer": optimizers.Adam(use_ema=True)},
        {"steps_per_execution": 3, "weighted_metrics": ["accuracy"]},
    ],
)
def test_fit_with_other_settings(options):
    found = []
    for jit_compile in (False, "auto"):
        model = compiled_model(jit_compile, mlp, **copy.deepcopy(options))
        history = fit(model, sample_weight=RNG.random(70) * 0 + np.linspace(0, 2, 70))
        found.append((history, snapshot(model)))
    assert found[0] == found[1]


class Meddle(keras.callbacks.Callback):
    """Changes all kinds of things in the middle of a run."""

    def __init__(self):
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        model, i = self.model, self.batches
        if i == 3:
            model.set_weights([w * 0.5 for w in model.get_weights()])
        elif i == 5:
            self.losses = model.evaluate(IMAGES, LABELS, 32, verbose=0)
        elif i == 6:
            self.logs = model.train_on_batch(IMAGES[:16], LABELS[:16])
        elif i == 9:
            model.layers[0].trainable = False
        if i > 4:
            model.optimizer.learning_rate = 0.01 / i


def test_callbacks_that_meddle():
    found = []
    for jit_compile in (False, "auto"):
        model, meddle = compiled_model(jit_compile), Meddle()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of weights without a gradient
            history = fit(model, meddle)
            history.update(again=fit(model))
        found.append((history, snapshot(model), meddle.losses, meddle.logs))
    assert found[0] == found[1]


def test_a_callback_between_batch_and_step_may_train_too():
    class Before(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.train_on_batch(IMAGES[:16][::-1], LABELS[:16][::-1])

    found = []
    for jit_compile in (False, "auto"):
        model = compiled_model(jit_compile)
        fit(model, Before())
        found.append(snapshot(model))
    assert found[0] == found[1]


def test_two_models_in_turns_and_saving(tmp_path):
    found = []
    for jit_compile in (False, "auto"):
        first, second = compiled_model(jit_compile), compiled_model(jit_compile, mlp)
        for i in range(4):
            fit(first, epochs=2)
            fit(second, epochs=1)
            if i == 1:
                first.save(tmp_path / "first.safetensors")
            elif i == 2:
                first.load_weights(tmp_path / "first.safetensors")
        found.append((snapshot(first), snapshot(second)))
    assert found[0] == found[1]


def test_frozen_layers_and_copies():
    found = []
    for jit_compile in (False, "auto"):
        model = compiled_model(jit_compile)
        fit(model)
        model.layers[0].trainable = False
        fit(model)
        model.layers[0].trainable = True
        twin = copy.deepcopy(model)
        fit(model)
        fit(twin, epochs=1)
        found.append((snapshot(model), [w.data.tobytes() for w in twin.weights]))
    assert found[0] == found[1]


def test_metrics_and_steps_of_ones_own_may_keep_batches():
    class Keeps(keras.Sequential):
        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            self.kept.append((x, y, y_pred))
            return super().compute_metrics(x, y, y_pred, sample_weight)

    found = []
    for jit_compile in (False, "auto"):
        keras.utils.set_random_seed(0)
        model = Keeps(mlp())
        model.kept = []
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit_compile)
        fit(model, shuffle=True)
        found.append([tuple(np.array(a).tobytes() for a in kept) for kept in model.kept])
    assert found[0] == found[1]


CALLS = [0]


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(7, activation="relu")
        self.out = layers.Dense(10)

    def call(self, x, training=False):
        CALLS[0] += 1
        return self.out(self.hidden(x))


def own_loss(y_true, y_pred):
    return losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


def test_code_of_ones_own_is_captured_on_demand():
    found = []
    for jit_compile in (False, "auto", True):
        keras.utils.set_random_seed(0)
        CALLS[0] = 0
        model = Net()
        model.compile("sgd", "mse", jit_compile=jit_compile)
        model.fit(ROWS, np.eye(10, dtype="float32")[LABELS], 16, 3, verbose=0)
        found.append((snapshot(model), CALLS[0]))
        report = model.capture_report()[0]
        if jit_compile == "auto":
            assert report == "Net.call is not tilegrad's own: jit_compile=True captures it too"
    assert found[0] == found[1]
    assert found[2][0] == found[0][0] and found[2][1] < found[0][1]
    assert "captured" in report


def test_why_not():
    def reason(model):
        (line, *_) = model.capture_report()
        return line

    model = keras.Sequential(mlp())
    model.compile("sgd", own_loss)
    fit(model)
    assert "the loss own_loss is not tilegrad's own" in reason(model)
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, y=np.zeros((70, 10), "float32"))
    assert reason(model) == "run_eagerly is True"
    model.compile("sgd", lambda t, p: ops.square(p[:, 0] - np.sqrt(t + 1.0)), jit_compile=True)
    with pytest.warns(UserWarning, match="jit_compile=True, but the training step runs eagerly"):
        fit(model)
    model = keras.Sequential([keras.Input((12,)), layers.Dense(10, lambda x: x * 2.0)])
    model.compile("sgd", "mse")
    fit(model, y=np.zeros((70, 10), "float32"))
    assert "_activation of dense" in reason(model)
    with pytest.raises(ValueError, match="jit_compile"):
        model.compile("sgd", "mse", jit_compile="sometimes")


def test_wrong_labels_in_fit():
    model = compiled_model()
    fit(model)
    before = [w.tobytes() for w in model.get_weights()]
    with pytest.raises(ValueError, match="got 10 in row"):
        fit(model, y=np.full(70, 10))
    assert [w.tobytes() for w in model.get_weights()] == before
    fit(model)
    assert "captured" in model.capture_report()[0]


def test_jit_compile_is_saved(tmp_path):
    model = compiled_model(False)
    model.save(tmp_path / "model.safetensors")
    assert keras.models.load_model(tmp_path / "model.safetensors").jit_compile is False


def test_large_slices_are_not_copied():
    """What is not gathered anyway would have to be copied for the plan."""
    x = np.zeros((600, 600), "float32")
    model = keras.Sequential([keras.Input((600,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(x, x[:, :1], 600, 6, shuffle=False, verbose=0)
    assert model._captured.captured._records == {} or "captured" in model.capture_report()[0]
