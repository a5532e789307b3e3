"""Files of weights and models: names, atomic writes, refusal of everything that is not right."""

from __future__ import annotations

import json
import os
import pathlib
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tilegrad import keras
from tilegrad.keras import layers, optimizers
from tilegrad.keras.saving import files, state

pytestmark = pytest.mark.usefixtures("on_backend")

X = np.random.default_rng(0).normal(size=(48, 6, 6, 1)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 48)


def make_model(optimizer="adam", filters=2):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(4, activation="relu", name="middle"),
            layers.Dropout(0.1, seed=1),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = keras.Sequential([layers.Flatten(), layers.Dense(4)])
        self.heads = [layers.Dense(2), layers.Dense(3, activation="softmax")]

    def call(self, x, training=False):
        for layer in (self.body, *self.heads):
            x = layer(x)
        return x


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "m.safetensors")


def same(a, b):
    return all(np.array_equal(v, w) for v, w in zip(a.get_weights(), b.get_weights(), strict=True))


# -- weights ---------------------------------------------------------------------------------------


def test_names_do_not_depend_on_earlier_models(path):
    first, second = make_model(), make_model()
    assert first.layers[0].name != second.layers[0].name
    names = [
        *("conv2d/kernel", "conv2d/bias", "middle/kernel", "middle/bias"),
        *("dense/kernel", "dense/bias"),
    ]
    assert list(state.named_weights(first)) == names
    first.save_weights(path)
    assert set(load_file(path)) == set(names)
    second.load_weights(path)
    assert same(first, second)


def test_names_of_nested_and_listed_layers():
    model = Net()
    model.build((None, 6, 6, 1))
    names = state.named_weights(model)
    assert list(names) == [
        *("sequential/dense/kernel", "sequential/dense/bias"),
        *("dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"),
    ]
    assert [id(v) for v in names.values()] == [id(v) for v in model.weights]


def test_subclassed_round_trip(path):
    model, other = Net(), Net()
    for m in (model, other):
        m.build((None, 6, 6, 1))
    model.save_weights(path)
    other.load_weights(path)
    assert same(model, other)


def test_pathlib_and_overwrite(tmp_path):
    target = tmp_path / "m.safetensors"
    model = make_model()
    model.save_weights(target)
    before = target.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=False"):
        model.save_weights(target, overwrite=False)
    model.set_weights([w + 1 for w in model.get_weights()])
    model.save_weights(target)
    assert target.read_bytes() != before
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_unbuilt_models_are_refused(path):
    model = keras.Sequential([layers.Dense(3)])
    for method in (model.save_weights, model.save, model.load_weights):
        with pytest.raises(ValueError, match="expected a built model"):
            method(path)


def test_files_hold_no_code(path):
    make_model().save(path)
    content = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    assert header["__metadata__"]["format"] == "tilegrad"
    assert header["__metadata__"]["format_version"] == "1"
    assert b"pickle" not in content


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5", ".npz", ""])
@pytest.mark.parametrize("method", ["save", "save_weights", "load_weights"])
def test_other_suffixes_name_the_right_one(tmp_path, suffix, method):
    with pytest.raises(ValueError, match=r"use '.*/m\.safetensors'"):
        getattr(make_model(), method)(tmp_path / f"m{suffix}")


def test_file_objects_are_refused(tmp_path):
    file = open(tmp_path / "m.safetensors", "wb")  # noqa: SIM115
    with file, pytest.raises(ValueError, match="got an open file object"):
        make_model().save_weights(file)
    with pytest.raises(ValueError, match=r"got a closed file object .*m\.safetensors"):
        make_model().load_weights(file)


# -- what does not fit -----------------------------------------------------------------------------


def test_missing_extra_and_differing_weights_are_all_named(path):
    model = make_model()
    model.save_weights(path)
    tensors = load_file(path)
    tensors["stranger/kernel"] = tensors.pop("dense/kernel")
    tensors["conv2d/bias"] = np.zeros(5, "float32")
    tensors["middle/bias"] = tensors["middle/bias"].astype("float64")
    save_file(tensors, path)
    before = model.get_weights()
    with pytest.raises(ValueError) as error:
        model.load_weights(path)
    text = str(error.value)
    assert path in text and "dense/kernel is missing" in text
    assert "stranger/kernel belongs to no layer" in text
    assert "conv2d/bias: expected float32 of shape (2,), got float32 of shape (5,)" in text
    assert "middle/bias: expected float32 of shape (4,), got float64" in text
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_skip_mismatch_takes_what_fits(path):
    source, model = make_model(filters=3), make_model()
    source.save_weights(path)
    with pytest.warns(UserWarning, match=r"skipped.*conv2d/kernel"):
        model.load_weights(path, skip_mismatch=True)
    for a, b in zip(source.get_weights()[4:], model.get_weights()[4:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_missing_file_and_folder(tmp_path):
    model = make_model()
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        model.load_weights(tmp_path / "none.safetensors")
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        model.load_weights(tmp_path / "d.safetensors")
    with pytest.raises(IsADirectoryError):
        model.save_weights(tmp_path / "d.safetensors")
    with pytest.raises(FileNotFoundError, match="cannot write"):
        model.save_weights(tmp_path / "no" / "m.safetensors")
    assert os.listdir(tmp_path) == ["d.safetensors"]


def header(content):
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


HOSTILE = {
    "empty": b"",
    "short": b"abc",
    "endless header": struct.pack("<Q", 2**63) + b"{}",
    "huge header": struct.pack("<Q", 2**40) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"nope",
    "binary": bytes(range(256)) * 8,
    "outside": header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}) + b"1234",
    "backwards": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}) + b"1234",
    "negative": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + b"1234",
    "overflow": header({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}})
    + b"1234",
    "unknown type": header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}) + b"1234",
    "type without NumPy": header({"a": {"dtype": "F8_E5M2", "shape": [1], "data_offsets": [0, 1]}})
    + b"1",
    "hole": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}) + b"12345678",
    "list": header([1, 2]),
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(path, content):
    with open(path, "wb") as file:
        file.write(content)
    for load in (make_model().load_weights, keras.models.load_model):
        with pytest.raises(ValueError, match="safetensors") as error:
            load(path)
        assert path in str(error.value)


def test_every_truncation_is_noticed(path):
    model = make_model()
    model.save(path)
    content = pathlib.Path(path).read_bytes()
    before = model.get_weights()
    for size in [*range(0, 200, 13), len(content) // 2, len(content) - 1]:
        with open(path, "wb") as file:
            file.write(content[:size])
        with pytest.raises(ValueError, match="complete safetensors file"):
            model.load_weights(path)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_newer_format_is_refused(path):
    model = make_model()
    tensors = {k: v.numpy() for k, v in state.named_weights(model).items()}
    save_file(tensors, path, {"format": "tilegrad", "format_version": "2"})
    with pytest.raises(ValueError, match="version 1, got 'tilegrad', version '2'"):
        model.load_weights(path)
    save_file(tensors, path, {"format": "else"})
    with pytest.raises(ValueError, match="got 'else'"):
        model.load_weights(path)
    save_file(tensors, path)  # what other programs write holds no metadata
    model.load_weights(path)


# -- atomic writing --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["write", "flush", "rename"])
def test_failure_leaves_the_old_file(tmp_path, monkeypatch, stage):
    target = tmp_path / "m.safetensors"
    model = make_model()
    model.save_weights(target)
    before = target.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    owner, name = {
        "write": (files.safetensors.numpy, "save"),
        "flush": (files.os, "fsync"),
        "rename": (files.os, "replace"),
    }[stage]
    monkeypatch.setattr(owner, name, fail)
    model.set_weights([w + 1 for w in model.get_weights()])
    with pytest.raises(OSError, match=r"cannot write .*m\.safetensors.*No space left"):
        model.save_weights(target)
    monkeypatch.undo()
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_the_new_file_is_flushed_before_it_is_renamed(path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(
            files.os, name, lambda *a, f=original, n=name: (events.append(n), f(*a))[1]
        )
    make_model().save_weights(path)
    assert events[:2] == ["fsync", "replace"]


def test_symbolic_links_are_followed(tmp_path):
    real = tmp_path / "real.safetensors"
    link = tmp_path / "link.safetensors"
    link.symlink_to(real)
    make_model().save_weights(link)
    assert link.is_symlink() and real.stat().st_size > 0


def test_permissions_follow_the_umask(path):
    before = os.umask(0o027)
    try:
        make_model().save_weights(path)
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o640


# -- whole models ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.Adam(0.003, amsgrad=True),
        optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        optimizers.RMSprop(0.002, centered=True),
        optimizers.AdamW(clipnorm=1.0),
    ],
    ids=lambda o: type(o).__name__,
)
def test_training_goes_on_where_it_stopped(path, optimizer):
    keras.utils.set_random_seed(0)
    config = optimizer.get_config()

    def fresh():
        model = make_model(type(optimizer).from_config(config))
        model.layers[3].rate = 0.0  # dropout would draw other masks in a new process
        return model

    straight, halves = fresh(), fresh()
    halves.set_weights(straight.get_weights())
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}
    straight.fit(X, Y, epochs=4, **options)
    halves.fit(X, Y, epochs=2, **options)
    halves.save(path)
    again = keras.models.load_model(path)
    again.layers[3].rate = 0.0
    assert same(again, halves) and int(again.optimizer.iterations) == 6
    again.fit(X, Y, epochs=2, **options)
    assert same(again, straight)
    resumed = fresh()
    resumed.load_weights(path)
    resumed.fit(X, Y, epochs=2, **options)
    assert same(resumed, straight)


def test_load_model_restores_everything(path):
    model = make_model(optimizers.SGD(0.25))
    model.fit(X, Y, verbose=0)
    model.save(path)
    again = keras.models.load_model(path)
    assert again.name == model.name
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    assert float(again.optimizer.learning_rate) == 0.25
    assert again.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


def test_load_model_without_compiling(path):
    model = make_model()
    model.save(path)
    assert not keras.models.load_model(path, compile=False).compiled
    uncompiled = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    uncompiled.save(path)
    assert not keras.models.load_model(path).compiled


def test_nested_model_and_loss_objects(path):
    model = keras.Sequential(
        [keras.Input((4,)), keras.Sequential([layers.Dense(3)]), layers.Dense(1)]
    )
    model.compile(
        "rmsprop",
        keras.losses.Huber(delta=2.0),
        metrics=["mae", keras.metrics.RootMeanSquaredError()],
    )
    x, y = X.reshape(48, -1)[:, :4], X.reshape(48, -1)[:, 5]
    model.fit(x, y, verbose=0)
    model.save(path)
    again = keras.models.load_model(path)
    assert again.evaluate(x, y, verbose=0, return_dict=True) == model.evaluate(
        x, y, verbose=0, return_dict=True
    )


def test_own_functions_are_not_stored(path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile("sgd", lambda t, p: (p - t) * (p - t))
    with pytest.warns(UserWarning, match="call compile"):
        model.save(path)
    assert not keras.models.load_model(path).compiled


class Twice(layers.Layer):
    def call(self, inputs):
        return inputs * 2.0


def test_own_layers_need_custom_objects(path):
    model = keras.Sequential([keras.Input((3,)), Twice(), layers.Dense(1)])
    model.save(path)
    with pytest.raises(ValueError, match=r"m\.safetensors.*Twice"):
        keras.models.load_model(path)
    again = keras.models.load_model(path, custom_objects={"Twice": Twice})
    assert same(model, again)


def test_subclassed_models_keep_their_state_but_not_their_code(path):
    model = Net()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, Y, verbose=0)
    model.save(path)
    with pytest.raises(ValueError, match="make the model in Python and call load_weights"):
        keras.models.load_model(path)
    other = Net()
    other.compile("adam", "sparse_categorical_crossentropy")
    other.build((None, 6, 6, 1))
    other.load_weights(path)
    assert same(model, other) and int(other.optimizer.iterations) == int(model.optimizer.iterations)


def rewrite(path, **changes):
    content = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    for key, change in changes.items():
        metadata[key] = change(json.loads(metadata[key]))
    save_file(load_file(path), path, metadata)


def replace_class(config):
    config["layers"][1]["class_name"] = "system"
    config["layers"][1]["module"] = "os"
    return json.dumps(config)


def huge_layer(config):
    config["layers"][3]["config"]["units"] = 2**60
    return json.dumps(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": replace_class}, "unknown layer 'system'"),
        ({"config": huge_layer}, "configuration of no model"),
        ({"config": lambda c: "[1]"}, "JSON object"),
        ({"config": lambda c: "{nonsense"}, "expected JSON"),
        ({"config": lambda c: json.dumps({"layers": 3})}, "expected a config"),
        ({"config": lambda c: json.dumps({**c, "layers": [3]})}, "configuration of no model"),
        ({"config": lambda c: "[" * 100_000}, "expected JSON"),
        ({"compile": lambda c: json.dumps({**c, "exec": "rm"})}, "arguments of compile"),
        ({"compile": lambda c: json.dumps({**c, "loss": "evil"})}, "evil"),
        ({"compile": lambda c: json.dumps({**c, "optimizer": {"class_name": "os"}})}, "compile"),
        ({"optimizer": lambda c: json.dumps({**c, "iterations": -1})}, "count of steps, got -1"),
        ({"optimizer": lambda c: json.dumps({**c, "iterations": True})}, "count of steps"),
    ],
)
def test_hostile_configurations(path, changes, message):
    model = make_model()
    model.fit(X, Y, verbose=0)
    model.save(path)
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        keras.models.load_model(path)
    assert path in str(error.value)


def test_damaged_optimizer_state_is_refused(path):
    model = make_model()
    model.fit(X, Y, verbose=0)
    model.save(path)
    tensors = load_file(path)
    name = next(key for key in tensors if key.startswith("@optimizer/"))
    with open(path, "rb") as file:
        content = file.read()
    (size,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    tensors[name] = np.zeros(7, "float32")
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=r"@optimizer/.*got float32 of shape \(7,\)"):
        keras.models.load_model(path)


def test_a_layer_that_is_never_called_does_not_keep_a_model_from_being_saved(path):
    class Idle(Net):
        def __init__(self):
            super().__init__()
            self.idle = layers.Dense(7)

    model, other = Idle(), Idle()
    for m in (model, other):
        m.build((None, 6, 6, 1))
    model.save_weights(path)
    other.load_weights(path)
    assert same(model, other)
