"""A run that was stopped goes on to the same bits: backups, kill -9, Ctrl-C, whole files.

TILEGRAD_TEST_KILLS sets how many runs are killed and how many are interrupted, at random moments.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tilegrad import keras
from tilegrad.keras import callbacks, layers
from tilegrad.keras.saving import files

KILLS = int(os.environ.get("TILEGRAD_TEST_KILLS", "4"))
X = np.random.default_rng(0).standard_normal((52, 6), np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.3)


class StopError(Exception):
    """Ends a run in its middle."""


class StopAt(callbacks.Callback):
    """Raises at a moment, a pair of epoch and batch (None: at the end of the epoch)."""

    def __init__(self, moment):
        super().__init__()
        self.moment = moment
        self.epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.moment:
            raise StopError

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, None) == self.moment:
            raise StopError


def make_model(optimizer="adam", metrics=("accuracy",), **options):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=list(metrics), **options)
    return model


def snapshot(model):
    """Every bit that a later step depends on."""
    variables = [*model.weights, *model.optimizer.variables]
    seeds = [layer.seed_generator.counter for layer in model.layers if hasattr(layer, "rate")]
    return [v.numpy().tobytes() for v in variables], seeds


def fit(model, *callbacks_, data=None, epochs=4, **options):
    data = {"x": X, "y": Y, "batch_size": 8} if data is None else data
    return model.fit(**data, epochs=epochs, verbose=0, callbacks=list(callbacks_), **options)


def check_resumed(folder, moment, make=make_model, save_freq="epoch", extra=list, **options):
    """Stop a run at `moment`, go on with new objects, and compare with an unstopped run."""
    whole = make()
    expected = fit(whole, *extra(), **_made(options))
    path = folder / "backup"
    backup = {"backup_dir": path, "save_freq": save_freq}
    with pytest.raises(StopError):
        fit(
            make(),
            callbacks.BackupAndRestore(**backup),
            *extra(),
            StopAt(moment),
            **_made(options),
        )
    resumed = make()
    history = fit(resumed, callbacks.BackupAndRestore(**backup), *extra(), **_made(options))
    assert snapshot(resumed) == snapshot(whole)
    assert history.history == expected.history and history.epoch == expected.epoch
    assert not path.exists()


def _made(options):
    """Options whose values are made anew for each run."""
    return {key: value() if callable(value) else value for key, value in options.items()}


# -- what goes on --------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [(0, 3), (1, 0), (1, None), (3, 5), (3, None)])
@pytest.mark.parametrize("save_freq", ["epoch", 1, 3])
def test_the_same_bits(tmp_path, moment, save_freq):
    check_resumed(tmp_path, moment, save_freq=save_freq)


@pytest.mark.parametrize("shuffle", [False, "batch"])
def test_other_orders(tmp_path, shuffle):
    check_resumed(tmp_path, (2, 4), save_freq=1, shuffle=shuffle)


@pytest.mark.parametrize("moment", [(0, 1), (2, 2), (3, 1), (3, None)])
def test_epochs_that_are_no_pass_over_the_data(tmp_path, moment):
    data = {"x": X[:48], "y": Y[:48], "batch_size": 8}  # two epochs to a pass
    check_resumed(tmp_path, moment, save_freq=2, data=data, steps_per_epoch=3)


def test_groups_of_steps(tmp_path):
    make = lambda: make_model(steps_per_execution=3)  # noqa: E731
    check_resumed(tmp_path, (1, 5), make, save_freq=2)


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "schedule": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5), amsgrad=True
    ),
    "average": lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=4),
    "accumulation": lambda: keras.optimizers.RMSprop(0.01, gradient_accumulation_steps=4),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_kind_of_optimizer_state(tmp_path, optimizer):
    check_resumed(tmp_path, (2, 3), lambda: make_model(OPTIMIZERS[optimizer]()), save_freq=1)


def test_running_metrics(tmp_path):
    def make():
        metrics = [
            keras.metrics.SparseTopKCategoricalAccuracy(2, name="top"),
            keras.metrics.SparseCategoricalCrossentropy(name="entropy"),
        ]
        return make_model(metrics=metrics)

    check_resumed(tmp_path, (2, 3), make, save_freq=1)


def test_metrics_that_keep_arrays(tmp_path):
    def make():
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.Input((6,)), layers.Dense(1, activation="sigmoid")])
        metrics = [
            keras.metrics.AUC(name="auc"),
            keras.metrics.Precision(name="precision"),
            keras.metrics.F1Score(average="micro", name="f1"),
        ]
        model.compile("adam", "binary_crossentropy", metrics=metrics)
        return model

    data = {"x": X, "y": (Y[:, None] > 0).astype(np.float32), "batch_size": 8}
    check_resumed(tmp_path, (2, 3), make, save_freq=1, data=data)


class TwoHeads(keras.Model):
    """Two outputs, and a metric and a seed of its own."""

    def __init__(self):
        super().__init__()
        self.heads = [layers.Dense(1), layers.Dense(2)]
        self.steps = keras.metrics.Sum(name="steps")
        self.noise = {"seed": keras.SeedGenerator(3)}

    def call(self, x, training=False):
        return [head(x) for head in self.heads]

    def train_step(self, data):
        self.steps.update_state(float(self.noise["seed"].next() % 7))
        return super().train_step(data)


def test_several_outputs_and_state_of_the_model(tmp_path):
    def make():
        keras.utils.set_random_seed(5)
        model = TwoHeads()
        model.compile("adam", ["mse", "mae"], metrics=[["mae"], ["mse", "mae"]])
        return model

    data = {"x": X, "y": [X[:, :1], X[:, 1:3]], "batch_size": 8}
    for save_freq in (1, "epoch"):
        check_resumed(tmp_path, (2, 3), make, save_freq=save_freq, data=data)


class Augmented(keras.utils.PyDataset):
    """Batches with noise from NumPy's global generator."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        noise = np.random.standard_normal((8, 6)) + random.random()
        return X[rows] + 0.1 * noise, Y[rows]


def generator():
    rng = np.random.default_rng(8)
    while True:
        rows = rng.integers(0, len(X), 8)
        yield X[rows], Y[rows]


SOURCES = {
    "dataset": (lambda: {"x": Augmented()}, None),
    "generator": (lambda: {"x": generator()}, 6),
    "list": (lambda: {"x": Batches()}, None),
}


class Batches:
    """An iterable that begins anew each epoch, in another order."""

    def __iter__(self):
        for i in np.random.permutation(6):
            yield X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("moment", "save_freq"), [((2, 3), 1), ((2, 3), "epoch"), ((1, 5), 6)])
def test_every_kind_of_data(tmp_path, source, moment, save_freq):
    data, steps = SOURCES[source]
    options = {} if steps is None else {"steps_per_epoch": steps}
    check_resumed(tmp_path, moment, save_freq=save_freq, data=data, **options)


def test_callbacks_remember(tmp_path):
    def extra():
        # listed after the backup, which nevertheless sees what they did
        return [
            callbacks.ReduceLROnPlateau(monitor="loss", patience=1, min_delta=0.02, factor=0.5),
            callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.98),
            callbacks.EarlyStopping(
                monitor="loss", patience=4, min_delta=0.01, restore_best_weights=True
            ),
        ]

    for i, (moment, freq) in enumerate([((2, 2), 1), ((3, None), "epoch"), ((4, 1), 5)]):
        check_resumed(tmp_path / str(i), moment, save_freq=freq, extra=extra, epochs=12)
    assert len(fit(make_model(), *extra(), epochs=12).epoch) == 5  # it is stopped early


def test_validation(tmp_path):
    for i, moment in enumerate([(1, 3), (1, 6), (2, None)]):
        options = {"validation_data": (X[:20], Y[:20]), "validation_freq": 2}
        check_resumed(tmp_path / str(i), moment, save_freq=1, **options)


def test_resumed_twice(tmp_path):
    whole = make_model()
    fit(whole)
    backup = {"backup_dir": tmp_path / "backup", "save_freq": 2}
    for moment in ((0, 5), (1, 3), (3, 2)):
        with pytest.raises(StopError):
            fit(make_model(), callbacks.BackupAndRestore(**backup), StopAt(moment))
    last = make_model()
    fit(last, callbacks.BackupAndRestore(**backup))
    assert snapshot(last) == snapshot(whole)


# -- the folder ----------------------------------------------------------------------------------


def test_a_kept_backup_is_not_trained_again(tmp_path):
    options = {"backup_dir": tmp_path / "backup", "delete_checkpoint": False}
    first, second = make_model(), make_model()
    history = fit(first, callbacks.BackupAndRestore(**options)).history
    assert fit(second, callbacks.BackupAndRestore(**options)).history == history
    assert snapshot(second) == snapshot(first)
    more = fit(make_model(), callbacks.BackupAndRestore(**options), epochs=6)
    whole = make_model()
    assert fit(whole, epochs=6).history == more.history


def test_a_damaged_backup(tmp_path):
    options = {"backup_dir": tmp_path / "backup", "save_freq": 1}
    for double in (False, True):
        options["double_checkpoint"] = double
        with pytest.raises(StopError):
            fit(make_model(), callbacks.BackupAndRestore(**options), StopAt((2, 3)))
        latest = tmp_path / "backup" / "latest.safetensors"
        latest.write_bytes(latest.read_bytes()[:-40])
        if not double:
            with pytest.raises(ValueError, match=r"latest\.safetensors.*complete safetensors"):
                fit(make_model(), callbacks.BackupAndRestore(**options))
            latest.unlink()
    assert sorted(os.listdir(tmp_path / "backup")) == [
        "latest.safetensors",
        "previous.safetensors",
    ]
    whole, resumed = make_model(), make_model()
    fit(whole)
    fit(resumed, callbacks.BackupAndRestore(**options))
    assert snapshot(resumed) == snapshot(whole)


def test_another_models_backup_is_refused(tmp_path):
    options = {"backup_dir": tmp_path / "backup"}
    with pytest.raises(StopError):
        fit(make_model(), callbacks.BackupAndRestore(**options), StopAt((1, 3)))
    before = (tmp_path / "backup" / "latest.safetensors").read_bytes()
    with pytest.raises(ValueError, match="another model or optimizer"):
        fit(make_model("sgd"), callbacks.BackupAndRestore(**options))
    make_model().save_weights(tmp_path / "backup" / "latest.safetensors")
    with pytest.raises(ValueError, match="no state of this training run"):
        fit(make_model(), callbacks.BackupAndRestore(**options))
    (tmp_path / "backup" / "latest.safetensors").write_bytes(before)
    model = make_model()
    with pytest.raises(ValueError, match=r"a file that Sequential\.save wrote"):
        keras.models.load_model(tmp_path / "backup" / "latest.safetensors")
    fit(model, callbacks.BackupAndRestore(**options))


@pytest.mark.parametrize("wrong", [{"backup_dir": ""}, {"save_freq": 0}, {"save_freq": "batch"}])
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="BackupAndRestore: expected"):
        callbacks.BackupAndRestore(**{"backup_dir": "backup", **wrong})


def test_what_is_not_a_number_in_the_logs(tmp_path):
    class Chatty(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["note"] = object

    with pytest.raises(StopError):
        fit(
            make_model(),
            callbacks.BackupAndRestore(tmp_path / "b"),
            Chatty(),
            StopAt((1, None)),
        )
    history = fit(make_model(), callbacks.BackupAndRestore(tmp_path / "b"), Chatty()).history
    assert history["note"] == ["<class 'object'>", object, object, object]


# -- files -----------------------------------------------------------------------------------------


def test_what_killed_writers_left_is_deleted(tmp_path):
    path = tmp_path / "m[1].safetensors"
    old, new, held = (tmp_path / f".m[1].safetensors.{name}.tmp" for name in ("aa", "bb", "cc"))
    other = tmp_path / ".m1.safetensors.aa.tmp"
    for leftover in (old, new, held, other):
        leftover.write_bytes(b"half")
    for leftover in (old, held, other):
        os.utime(leftover, (1, 1))
    with open(held, "rb") as file:
        files.fcntl.flock(file, files.fcntl.LOCK_EX)
        make_model().save_weights(path)
        assert set(os.listdir(tmp_path)) == {p.name for p in (path, new, held, other)}
    files.delete(path)
    assert os.listdir(tmp_path) == [other.name]


# -- kill -9 ---------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
import numpy as np
from tilegrad import keras
from tilegrad.keras import callbacks, layers

folder, save_freq, epochs, samples = sys.argv[1], json.loads(sys.argv[2]), *map(int, sys.argv[3:5])
keras.utils.set_random_seed(3)
(x, y), _ = keras.datasets.digits.load_data()
x, y = x[:samples, ..., None] / 16.0, y[:samples]
model = keras.Sequential([
    keras.Input(x.shape[1:]),
    layers.Conv2D(8, 3, activation="relu"),
    layers.MaxPooling2D(),
    layers.Flatten(),
    layers.Dropout(0.25),
    layers.Dense(32, activation="relu"),
    layers.Dense(10, activation="softmax"),
])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

class Say(callbacks.Callback):
    def on_train_begin(self, logs=None):
        print("begin", flush=True)

history = model.fit(x, y, epochs=epochs, verbose=0, validation_split=0.2, callbacks=[
    Say(),
    callbacks.ReduceLROnPlateau(monitor="loss", patience=1, min_delta=0.2),
    callbacks.ModelCheckpoint(folder + "/best.safetensors", monitor="loss", save_best_only=True),
    callbacks.BackupAndRestore(folder + "/backup", save_freq, double_checkpoint=True),
])
print("end", flush=True)
model.save(folder + "/final.safetensors")
with open(folder + "/history.json", "w") as file:
    json.dump([history.epoch, history.history], file)
"""


def start(folder, save_freq, size):
    folder.mkdir(exist_ok=True)
    arguments = [str(folder), json.dumps(save_freq), *map(str, size)]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begin\n"
    return process


def results(folder):
    """All that the run wrote, to the bit."""
    found = {"history": json.loads((folder / "history.json").read_text())}
    for name in ("final.safetensors", "best.safetensors"):
        tensors, metadata = files.read(folder / name)
        found[name] = metadata, {key: array.tobytes() for key, array in tensors.items()}
    return found


def test_killed_at_random_moments(tmp_path):
    """Killed once and started again, a run leaves the same weights, files and history."""
    size = (5, 1000) if KILLS > 4 else (2, 400)
    with start(tmp_path / "whole", "epoch", size) as process:
        begun = time.monotonic()
        assert process.stdout.readline() == "end\n"
        length = time.monotonic() - begun
        process.stdout.read()
    expected = results(tmp_path / "whole")
    moments = random.Random(1)
    for i in range(KILLS):
        save_freq = ("epoch", 1, 7)[i % 3]
        folder = tmp_path / f"{i}"
        with start(folder, save_freq, size) as process:
            time.sleep(moments.uniform(0, 0.9 * length))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        with start(folder, save_freq, size) as process:
            assert process.stdout.read() == "end\n"
        assert results(folder) == expected, f"run {i} with save_freq={save_freq!r}"
        assert not (folder / "backup").exists()


# -- Ctrl-C ----------------------------------------------------------------------------------------


@pytest.fixture
def ctrl_c():
    """Python's own handler, also where the tests were started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# CPython's own files may be interrupted between open and close, and warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_at_random_moments(tmp_path, ctrl_c):
    """KeyboardInterrupt leaves a step whole or undone, the model usable and every file whole."""
    states = {}

    class Record(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            states[int(self.model.optimizer.iterations)] = snapshot(self.model)[0]

    def run(model, *extra):
        saving = callbacks.ModelCheckpoint(tmp_path / "m.safetensors", save_freq=3)
        fit(model, *extra, saving, epochs=40)

    def make():
        model = make_model()
        model.optimizer.build(model.trainable_weights)
        return model

    whole = make()
    states[0] = snapshot(whole)[0]
    run(whole, Record())
    begun = time.monotonic()
    run(make())
    length = time.monotonic() - begun
    moments = random.Random(2)
    interrupted = 0
    for _ in range(5 * KILLS):
        model = make()
        timer = threading.Timer(
            moments.uniform(0.002, 0.8 * length), signal.raise_signal, [signal.SIGINT]
        )
        try:
            timer.start()
            run(model)
            timer.join()
        except KeyboardInterrupt:
            interrupted += 1
        found = snapshot(model)[0]
        assert found == states[int(model.optimizer.iterations)]
        keras.models.load_model(tmp_path / "m.safetensors")
        before = os.listdir(tmp_path)
        assert before == ["m.safetensors"]
        fit(model, epochs=1)
        assert np.isfinite(model.predict(X, verbose=0)).all()
    assert interrupted >= 4 * KILLS
