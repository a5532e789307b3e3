"""Callbacks: Keras 3's arguments, defaults and behaviour."""

from __future__ import annotations

import csv
import inspect
import math
import os
import warnings

import numpy as np
import pytest

from tilegrad import keras
from tilegrad.keras import callbacks

pytestmark = pytest.mark.usefixtures("on_backend")

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")


def make_model(metrics=("accuracy",), optimizer="sgd"):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=list(metrics))
    return model


def run(callback, values, monitor="val_loss", start=0):
    """Feed a callback one value per epoch; returns the epoch it stopped after, and the model."""
    model = make_model()
    callback.set_model(model)
    callback.set_params({"verbose": 0, "epochs": len(values), "steps": 1})
    model.stop_training = False
    callback.on_train_begin()
    stopped = None
    for epoch, value in enumerate(values, start=start):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {} if value is None else {monitor: value})
        if model.stop_training:
            stopped = epoch
            break
    callback.on_train_end()
    return stopped, model


@pytest.mark.parametrize(
    "name",
    [
        *("Callback", "CallbackList", "History", "EarlyStopping", "ModelCheckpoint", "CSVLogger"),
        *("LearningRateScheduler", "ReduceLROnPlateau", "TerminateOnNaN", "LambdaCallback"),
        *("ProgbarLogger", "BackupAndRestore"),
    ],
)
def test_signature_is_that_of_keras(name, keras_oracle):
    def parameters(cls):
        signature = inspect.signature(cls.__init__)
        return {
            key: p.default for key, p in signature.parameters.items() if p.kind != p.VAR_KEYWORD
        }

    theirs = getattr(keras_oracle.callbacks, name)
    ours = parameters(getattr(callbacks, name))
    if name == "TerminateOnNaN":  # no raise_error before Keras 3.15, on Python 3.10
        ours = {key: ours[key] for key in parameters(theirs)}
    assert ours == parameters(theirs)


@pytest.fixture(scope="module")
def keras_oracle():
    os.environ["KERAS_BACKEND"] = "numpy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras")


# -- EarlyStopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "values", "stopped"),
    [
        ({}, [1.0, 0.9, 0.8, 0.8], 3),
        ({}, [1.0, 1.0], 1),
        ({}, [math.nan, math.nan], 1),
        ({"patience": 2}, [1.0, 0.9, 0.95, 0.92, 0.5], 3),
        ({"patience": 2}, [1.0, 1.1, 0.9, 1.0, 0.8], None),
        ({"min_delta": 0.1}, [1.0, 0.95], 1),
        ({"min_delta": -0.1}, [1.0, 0.89, 0.78], None),
        ({"mode": "max"}, [0.1, 0.2, 0.15], 2),
        ({"baseline": 0.5, "patience": 1}, [1.0, 0.9, 0.8], None),
        ({"baseline": 0.5, "patience": 2}, [1.0, 0.9, 1.5], 2),
        ({"start_from_epoch": 3}, [1.0, 2.0, 3.0, 4.0, 5.0], 4),
    ],
)
def test_early_stopping(options, values, stopped, keras_oracle):
    assert run(callbacks.EarlyStopping(**options), values)[0] == stopped

    class Model:
        stop_training = False
        metrics = ()

    theirs = keras_oracle.callbacks.EarlyStopping(**options)
    theirs.set_model(Model())
    theirs.on_train_begin()
    found = None
    for epoch, value in enumerate(values):
        theirs.on_epoch_end(epoch, {"val_loss": np.float32(value)})
        if theirs.model.stop_training:
            found = epoch
            break
    assert found == stopped


def test_early_stopping_direction_follows_the_metric():
    model = make_model()
    model.fit(X, Y, verbose=0)
    stop = callbacks.EarlyStopping(monitor="val_accuracy")
    stop.set_model(model)
    stop._set_monitor_op()
    assert stop._is_improvement(0.9, 0.8)


def test_early_stopping_restores_the_best_weights(capsys):
    model = make_model(optimizer=keras.optimizers.SGD(0.1))
    seen = []

    class Spoil(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.get_weights())
            logs["val_loss"] = [3.0, 1.0, 2.0, 2.5][epoch]

    stop = callbacks.EarlyStopping(patience=2, restore_best_weights=True, verbose=1)
    history = model.fit(X, Y, epochs=9, verbose=0, callbacks=[Spoil(), stop])
    assert history.epoch == [0, 1, 2, 3]
    for found, best in zip(model.get_weights(), seen[1], strict=True):
        np.testing.assert_array_equal(found, best)
    out = capsys.readouterr().out
    assert "Epoch 4: early stopping" in out
    assert "end of the best epoch: 2." in out


def test_unknown_monitor_warns_with_what_there_is():
    stop = callbacks.EarlyStopping(monitor="bogus", mode="min")
    with pytest.warns(
        UserWarning, match="`bogus` which is not available. Available metrics are: loss"
    ):
        run(stop, [1.0], monitor="loss")


def test_unknown_monitor_in_auto_mode_needs_a_mode():
    with pytest.raises(ValueError, match="mode='max' or mode='min'"):
        run(callbacks.EarlyStopping(monitor="bogus"), [1.0])


def test_unknown_mode_warns():
    with pytest.warns(UserWarning, match="mode 'sideways' is unknown"):
        assert callbacks.EarlyStopping(mode="sideways").mode == "auto"


# -- learning rates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "values", "rates"),
    [
        ({"patience": 1}, [1.0, 1.0, 1.0], [0.01, 0.001, 0.0001]),
        ({"patience": 2}, [1.0, 1.0, 1.0, 0.5], [0.01, 0.01, 0.001, 0.001]),
        ({"patience": 1, "cooldown": 2}, [1.0] * 5, [0.01, 0.001, 0.001, 0.0001, 0.0001]),
        ({"patience": 1, "min_lr": 0.005}, [1.0] * 3, [0.01, 0.005, 0.005]),
        ({"patience": 1, "factor": 0.5, "min_delta": 0.0}, [1.0, 0.99, 0.99], [0.01, 0.01, 0.005]),
        ({"patience": 1, "mode": "max"}, [1.0, 2.0, 1.5], [0.01, 0.01, 0.001]),
    ],
)
def test_reduce_lr_on_plateau(options, values, rates):
    model = make_model()
    callback = callbacks.ReduceLROnPlateau(**options)
    callback.set_model(model)
    callback.on_train_begin()
    found = []
    for epoch, value in enumerate(values):
        before = float(model.optimizer.learning_rate)
        logs = {"val_loss": value}
        callback.on_epoch_end(epoch, logs)
        assert logs["learning_rate"] == before
        found.append(float(model.optimizer.learning_rate))
    np.testing.assert_allclose(found, rates, rtol=1e-5)


def test_reduce_lr_refuses_a_factor_of_one():
    with pytest.raises(ValueError, match=r"factor < 1, got 1\.0"):
        callbacks.ReduceLROnPlateau(factor=1.0)


@pytest.mark.parametrize("schedule", [lambda epoch: 0.1 / (epoch + 1), lambda epoch, lr: lr / 2])
def test_learning_rate_scheduler(schedule, capsys):
    model = make_model()
    history = model.fit(
        X, Y, epochs=3, verbose=0, callbacks=[callbacks.LearningRateScheduler(schedule, verbose=1)]
    )
    expected = (
        [0.1, 0.05, 0.1 / 3] if schedule.__code__.co_argcount == 1 else [0.005, 0.0025, 0.00125]
    )
    np.testing.assert_allclose(history.history["learning_rate"], expected, rtol=1e-6)
    assert "Epoch 3: LearningRateScheduler setting learning rate to 0.0" in capsys.readouterr().out


def test_learning_rate_scheduler_wants_a_float():
    with pytest.raises(ValueError, match="schedule to return a float, got 'fast'"):
        make_model().fit(
            X, Y, verbose=0, callbacks=[callbacks.LearningRateScheduler(lambda epoch: "fast")]
        )


# -- ModelCheckpoint -------------------------------------------------------------------------------


def test_checkpoint_every_epoch_with_a_template(tmp_path):
    path = tmp_path / "deep" / "w-{epoch:02d}-{val_loss:.2f}.safetensors"
    history = make_model().fit(
        X,
        Y,
        epochs=2,
        verbose=0,
        validation_split=0.25,
        callbacks=[callbacks.ModelCheckpoint(path, save_weights_only=True)],
    )
    expected = {
        f"w-{epoch:02d}-{loss:.2f}.safetensors"
        for epoch, loss in enumerate(history.history["val_loss"], start=1)
    }
    assert set(os.listdir(tmp_path / "deep")) == expected


def test_checkpoint_best_only(tmp_path, capsys):
    path = tmp_path / "best.safetensors"
    checkpoint = callbacks.ModelCheckpoint(path, save_best_only=True, verbose=1)
    model = make_model()
    checkpoint.set_model(model)
    checkpoint.on_train_begin()
    written = []
    for epoch, value in enumerate([1.0, 2.0, 0.5]):
        checkpoint.on_epoch_begin(epoch)
        checkpoint.on_epoch_end(epoch, {"val_loss": value})
        written.append(path.exists())
        path.unlink(missing_ok=True)
    assert written == [True, False, True]
    out = capsys.readouterr().out
    assert "Epoch 1: val_loss improved from None to 1.00000, saving model to" in out
    assert "Epoch 2: val_loss did not improve from 1.00000" in out


def test_checkpoint_threshold(tmp_path):
    path = tmp_path / "best.safetensors"
    run(
        callbacks.ModelCheckpoint(path, save_best_only=True, initial_value_threshold=0.5),
        [0.7, 0.6],
    )
    assert not path.exists()


def test_checkpoint_by_batches(tmp_path):
    path = tmp_path / "b{batch}.safetensors"
    make_model().fit(
        X,
        Y,
        batch_size=4,
        epochs=2,
        verbose=0,
        callbacks=[callbacks.ModelCheckpoint(path, save_freq=3)],
    )
    # 16 batches in all: after the 3rd, 6th, 9th (1st of epoch 2), 12th and 15th.
    assert sorted(os.listdir(tmp_path)) == [f"b{i}.safetensors" for i in (1, 3, 4, 6, 7)]


def test_checkpoint_without_its_monitor_saves_and_warns(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.warns(UserWarning, match="Can save best model only with val_loss available"):
        run(callbacks.ModelCheckpoint(path, save_best_only=True), [None])
    assert path.exists()


def test_checkpoint_restores_the_whole_state(tmp_path):
    path = tmp_path / "m.safetensors"
    model = make_model(optimizer="adam")
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[callbacks.ModelCheckpoint(path)])
    again = keras.models.load_model(path)
    assert int(again.optimizer.iterations) == 2
    assert again.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5", ""])
def test_checkpoint_names_the_suffix_to_use(suffix):
    with pytest.raises(ValueError, match=r"use 'model\.safetensors'"):
        callbacks.ModelCheckpoint(f"model{suffix}")


def test_checkpoint_refuses_an_unknown_save_freq():
    with pytest.raises(
        ValueError, match="save_freq to be 'epoch' or a number of batches, got 'day'"
    ):
        callbacks.ModelCheckpoint("m.safetensors", save_freq="day")


@pytest.mark.parametrize("name", ["{epoch.safetensors", "{}.safetensors", "{0}.safetensors"])
def test_checkpoint_refuses_a_bad_template_at_once(name):
    with pytest.raises(ValueError, match="ModelCheckpoint: "):
        callbacks.ModelCheckpoint(name)


def test_checkpoint_reports_an_unknown_field(tmp_path):
    with pytest.raises(KeyError, match="nonsense"):
        run(callbacks.ModelCheckpoint(tmp_path / "{nonsense}.safetensors"), [1.0])


def test_unwritable_checkpoint_fails_before_training(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    model = make_model()
    before = model.get_weights()
    with pytest.raises(OSError, match="cannot write"):
        model.fit(
            X,
            Y,
            verbose=0,
            callbacks=[callbacks.ModelCheckpoint(tmp_path / "file" / "m.safetensors")],
        )
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_checkpoint_onto_a_folder_fails_before_training(tmp_path):
    (tmp_path / "m.safetensors").mkdir()
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        run(callbacks.ModelCheckpoint(tmp_path / "m.safetensors"), [1.0])


# -- CSVLogger -------------------------------------------------------------------------------------


def rows(path, separator=","):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=separator))


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    history = make_model().fit(X, Y, epochs=2, verbose=0, callbacks=[callbacks.CSVLogger(path)])
    found = rows(path)
    assert found[0] == ["epoch", "accuracy", "loss", "val_accuracy", "val_loss"]
    assert found[1][0] == "0" and found[1][3:] == ["NA", "NA"]
    assert [float(row[2]) for row in found[1:]] == history.history["loss"]


def test_csv_logger_appends_without_a_second_header(tmp_path):
    path = tmp_path / "log.csv"
    for append in (False, True):
        make_model().fit(
            X,
            Y,
            verbose=0,
            callbacks=[callbacks.CSVLogger(path, separator=";", append=append)],
            validation_split=0.5,
        )
    found = rows(path, ";")
    assert len(found) == 3 and found[0][0] == "epoch" and "NA" not in found[1]


def test_csv_logger_with_late_validation(tmp_path):
    path = tmp_path / "log.csv"
    make_model().fit(
        X,
        Y,
        epochs=2,
        verbose=0,
        validation_split=0.5,
        validation_freq=2,
        callbacks=[callbacks.CSVLogger(path)],
    )
    found = rows(path)
    assert found[1][-1] == "NA" and float(found[2][-1]) > 0


def test_unwritable_csv_fails_before_training(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        run(callbacks.CSVLogger(tmp_path / "nowhere" / "log.csv"), [1.0])


# -- the others ------------------------------------------------------------------------------------


def test_terminate_on_nan(capsys):
    bad = X.copy()
    bad[10:] = np.nan
    history = make_model().fit(
        bad,
        Y,
        batch_size=4,
        epochs=5,
        shuffle=False,
        verbose=0,
        callbacks=[callbacks.TerminateOnNaN()],
    )
    assert "Batch 2: Invalid loss, terminating training" in capsys.readouterr().out
    assert history.epoch == [0] and math.isnan(history.history["loss"][0])


def test_terminate_on_nan_can_raise():
    with pytest.raises(RuntimeError, match="got nan at batch 0"):
        make_model().fit(
            np.full_like(X, np.nan),
            Y,
            verbose=0,
            callbacks=[callbacks.TerminateOnNaN(raise_error=True)],
        )


def test_order_of_hooks():
    called = []

    class Record(callbacks.Callback):
        pass

    def recorder(name):
        return lambda self, *args, **kwargs: called.append(name)

    for name in callbacks._HOOKS:
        if name not in ("on_batch_begin", "on_batch_end"):
            setattr(Record, name, recorder(name.removeprefix("on_")))
    model = make_model()
    model.fit(X, Y, batch_size=16, verbose=0, validation_data=(X, Y), callbacks=[Record()])
    batches = ["train_batch_begin", "train_batch_end"] * 2
    validation = ["test_begin", *["test_batch_begin", "test_batch_end"] * 2, "test_end"]
    assert called == ["train_begin", "epoch_begin", *batches, *validation, "epoch_end", "train_end"]
    called.clear()
    model.predict(X, verbose=0, callbacks=[Record()])
    assert called == ["predict_begin", "predict_batch_begin", "predict_batch_end", "predict_end"]


def test_lambda_callback_and_the_batch_alias():
    seen = []

    class Old(callbacks.Callback):
        def on_batch_end(self, batch, logs=None):
            seen.append(("old", batch, list(logs)))

    new = callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(("new", batch, type(logs["loss"]))),
        on_test_end=lambda logs: seen.append(("test", sorted(logs))),
    )
    make_model().fit(X, Y, verbose=0, validation_data=(X, Y), callbacks=[Old(), new])
    assert seen == [
        ("old", 0, ["accuracy", "loss"]),
        ("new", 0, float),
        ("test", ["accuracy", "loss"]),
    ]


def test_lambda_callback_refuses_unknown_hooks():
    with pytest.raises(TypeError, match="on_full_moon"):
        callbacks.LambdaCallback(on_full_moon=print)
    with pytest.raises(TypeError, match="expected a callable for on_epoch_end"):
        callbacks.LambdaCallback(on_epoch_end=3)


def test_what_is_no_callback_is_refused():
    with pytest.raises(TypeError, match="expected Callback objects, got function"):
        make_model().fit(X, Y, verbose=0, callbacks=[lambda: None])
    with pytest.raises(TypeError, match="got the class History"):
        make_model().fit(X, Y, verbose=0, callbacks=[callbacks.History])


def test_params_and_model_reach_the_callback():
    record = callbacks.Callback()
    model = make_model()
    model.fit(X, Y, epochs=3, verbose=0, callbacks=record)
    assert record.params == {"verbose": 0, "epochs": 3, "steps": 1}
    assert record.model is model


def test_idle_callbacks_cost_nothing_in_the_loop():
    made = callbacks.CallbackList([callbacks.EarlyStopping()], add_history=True)
    assert not any(made._listeners.values())


def test_list_in_a_hand_written_loop():
    model = make_model()
    made = callbacks.CallbackList(
        [], add_history=True, add_progbar=False, model=model, verbose=0, epochs=1, steps=1
    )
    made.on_train_begin()
    made.on_epoch_begin(0)
    made.on_epoch_end(0, {"loss": np.float32(0.5), "accuracy": {"b": 1, "a": 2}})
    made.on_train_end()
    assert model.history.history == {"a": [2.0], "b": [1.0], "loss": [0.5]}
