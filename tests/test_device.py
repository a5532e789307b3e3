"""Devices "cuda" and "sim": tensors, training, and what is said where a device is missing.

The CUDA path of the Python code needs no GPU to be tested: tests/fake_cupy.py stands in for CuPy,
and the kernels are a CPU module's, or the simulator's.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import types

import fake_cupy
import numpy as np
import pytest

import tilegrad
from tilegrad import Tensor, backend, cli, keras, ops
from tilegrad.keras import layers, losses, metrics, optimizers
from tilegrad.keras.models import data_adapter


def install(monkeypatch, device, module):
    """Serve `device` with the kernels of `module` for the rest of the test."""
    monkeypatch.setitem(backend._loaded, device, backend.Backend(device, module))
    monkeypatch.delitem(backend._active, device, raising=False)


@pytest.fixture
def cupy(monkeypatch):
    """Device "cuda" with CuPy's stand-in and a CPU module's kernels, and "sim" with the same ones.

    On both of them the same numbers must come out, bit for bit.
    """
    module = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    kernels = backend.get("cpu").module
    install(monkeypatch, "cuda", fake_cupy.OnHost(kernels, backend.KERNELS))
    install(monkeypatch, "sim", kernels)
    yield module
    backend._active.pop("cuda", None)
    backend._active.pop("sim", None)


@pytest.fixture
def cuda(cupy):
    """The same, with "cuda" as the default device."""
    with backend.use("cuda"):
        yield cupy


@pytest.fixture
def sim():
    """The simulator as the default device."""
    reason = backend.supported()["sim"]
    if reason:
        pytest.skip(reason)
    with backend.use("sim") as k:
        yield k


def on_gpu(x) -> bool:
    return isinstance(x.data if isinstance(x, Tensor) else x, fake_cupy.ndarray)


# -- tensors ---------------------------------------------------------------------------------------


def test_a_tensor_on_cuda_holds_a_cupy_array(cuda):
    t = Tensor([[1.0, 2.0], [3.0, 4.0]])
    assert t.device == "cuda" and on_gpu(t) and t.dtype == np.float32 and t.shape == (2, 2)
    assert Tensor([1, 2]).dtype == np.int64 and Tensor([True]).dtype == bool
    assert Tensor(np.arange(3, dtype=">i4")).numpy().tolist() == [0, 1, 2]
    assert repr(t) == (
        "Tensor([[1., 2.],\n        [3., 4.]], shape=(2, 2), dtype=float32, device=cuda)"
    )
    with pytest.raises(TypeError, match="expected numbers"):
        Tensor(["a"])


def test_numbers_come_out(cuda):
    t = Tensor([[1.0, 2.0], [3.0, 4.0]])
    assert t.sum().item() == 10.0 and float(t[0, 1]) == 2.0 and int(t[1, 0]) == 3
    assert bool(t[0, 0]) and f"{t[0, 1]:.2f}" == "2.00"
    assert [row.numpy().tolist() for row in t] == [[1.0, 2.0], [3.0, 4.0]]
    labels = Tensor([3, 1, 2])
    assert labels[1].item() == 1 and labels[1:].numpy().tolist() == [1, 2]
    assert labels[np.array([2, 0])].numpy().tolist() == [2, 3]
    assert labels[[True, False, True]].numpy().tolist() == [3, 2]
    assert labels[Tensor([0])].numpy().tolist() == [3]


def test_numpy_gets_copies(cuda):
    t = Tensor([1.0, 2.0])
    array = t.numpy()
    array[0] = 5
    assert type(array) is np.ndarray and t.numpy().tolist() == [1.0, 2.0]
    assert np.asarray(t).dtype == np.float32 and np.asarray(t, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.array(t, copy=False)


def test_moving_between_devices(cuda):
    host = Tensor([1.0, 2.0], requires_grad=True, device="cpu")
    there = host.to("cuda")
    assert there.device == "cuda" and on_gpu(there) and there.requires_grad
    assert there.creator is None and there.to("cuda") is there
    back = there.cpu()
    assert back.device == "cpu" and not np.shares_memory(back.data, host.data)
    assert back.numpy().tolist() == [1.0, 2.0]
    assert Tensor(there).device == "cuda" and Tensor(there).data is there.data
    assert Tensor(there, device="cpu").numpy().tolist() == [1.0, 2.0]
    simulated = host.to("sim")
    assert simulated.device == "sim" and not np.shares_memory(simulated.data, host.data)
    with pytest.raises(ValueError, match="expected one of cpu, cuda, sim, reference, got 'tpu'"):
        host.to("tpu")


def test_one_device_per_operation(cuda):
    with pytest.raises(ValueError, match="expected all inputs on one device, got cuda, cpu"):
        Tensor([1.0]) + Tensor([1.0], device="cpu")
    # plain arrays and numbers go where the tensor is
    t = np.array([1.0, 2.0], np.float32) * Tensor([3.0, 4.0]) + 1
    assert t.device == "cuda" and t.numpy().tolist() == [4.0, 9.0]
    assert (cuda.asarray(np.float32([1.0])) - Tensor([3.0])).numpy().tolist() == [-2.0]


def test_numbers_are_copied_to_the_gpu_once(cuda):
    t = Tensor([1.0])
    assert (t * 0.25).item() == 0.25 and (t * -0.0).item() == 0.0
    before = dict(fake_cupy.transfers)
    y = t * 0.25 + 0.25
    assert fake_cupy.transfers["to device"] == before["to device"]
    assert y.item() == 0.5
    assert np.signbit((t * -0.0).numpy()) and not np.signbit((t * 0.0).numpy())


def test_assignment(cuda):
    t = Tensor([1.0, 2.0, 3.0])
    t.assign([4.0, 5.0, 6.0])
    t[0] = 7
    t[1:] = np.float32([8.0, 9.0])
    assert t.numpy().tolist() == [7.0, 8.0, 9.0]
    t[np.array([0, 2])] = Tensor([1.0, 1.0])
    assert t.numpy().tolist() == [1.0, 8.0, 1.0]
    t.assign(Tensor([0.0, 0.0, 0.0]))
    t.assign(Tensor([2.0, 2.0, 2.0], device="cpu"))
    assert t.numpy().tolist() == [2.0, 2.0, 2.0]
    host = Tensor([0.0, 0.0, 0.0], device="cpu")
    host.assign(t)
    host[0] = t[0]
    assert host.numpy().tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="expected shape"):
        t.assign([1.0])


def test_gradients(cuda):
    x = Tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    w = Tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    y = (ops.relu(x) @ w * 2.0).sum()
    y.backward()
    assert x.grad.device == "cuda" and x.grad.numpy().tolist() == [[2.0, 0.0, 6.0]]
    assert w.grad.numpy().tolist() == [[2.0], [0.0], [6.0]]
    (x[:, 1:] * x[:, :2]).sum().backward()  # added to what is there
    assert x.grad.numpy().tolist() == [[0.0, 4.0, 4.0]]
    assert tilegrad.gradcheck(lambda a, b: ops.tanh(a @ b), [[[1.0, 2.0]], [[0.5], [-0.3]]])


# -- other libraries -------------------------------------------------------------------------------


class Foreign:
    """An array of another library on the GPU: `protocols` are the ways to reach it."""

    def __init__(self, array, *protocols):
        self.array = array
        self.dtype = array.dtype
        self.protocols = protocols

    def __getattr__(self, name):
        if name in self.__dict__.get("protocols", ()):
            return getattr(self.array, name)
        raise AttributeError(name)


CAI = ("__cuda_array_interface__",)
DLPACK = ("__dlpack__", "__dlpack_device__")


@pytest.mark.parametrize("protocols", [CAI, (*CAI, *DLPACK)], ids=["cai", "dlpack"])
@pytest.mark.parametrize("default", ["cpu", "cuda"])
def test_data_on_a_gpu_stay_there(cupy, protocols, default):
    array = cupy.asarray(np.float32([[1.0, 2.0]]))
    name = backend.get("cpu").name if default == "cpu" else default
    with backend.use(name):
        for source in (array, Foreign(array, *protocols)):
            t = Tensor(source)
            assert t.device == "cuda"
            t[0, 0] = 5
            assert array.get().tolist() == [[5.0, 2.0]]
            t[0, 0] = 1
            assert (ops.relu(source) * 2).device == "cuda"
            assert Tensor(source, device="cpu").numpy().tolist() == [[1.0, 2.0]]


def test_cuda_array_interface_out(cuda):
    t = Tensor([1.0, 2.0])
    interface = t.__cuda_array_interface__
    assert interface["shape"] == (2,) and interface["typestr"] == "<f4" and interface["stream"] == 1
    shared = cuda.asarray(t)
    t[0] = 9
    assert shared.get().tolist() == [9.0, 2.0]
    assert not hasattr(Tensor([1.0], device="cpu"), "__cuda_array_interface__")
    with pytest.raises(BufferError, match="requires a gradient"):
        cuda.asarray(Tensor([1.0], requires_grad=True))


def test_dlpack_both_ways(cuda):
    t = Tensor([1.0, 2.0])
    assert t.__dlpack_device__()[0] == 2
    shared = cuda.from_dlpack(t)  # asks for its own stream, which CuPy's arrays then synchronise
    t[0] = 9
    assert shared.get().tolist() == [9.0, 2.0]
    assert t.__dlpack__(stream=7).stream == 7
    with pytest.raises(BufferError, match="requires a gradient"):
        cuda.from_dlpack(Tensor([1.0], requires_grad=True))
    array = cuda.asarray(np.float32([3.0]))
    for device in ("cpu", "cuda"):
        with backend.use(backend.get(device).name):
            back = tilegrad.from_dlpack(Foreign(array, *DLPACK))
            assert back.device == "cuda"
    back[0] = 4
    assert array.get().tolist() == [4.0]
    assert tilegrad.from_dlpack(np.float32([5.0])).device == "cuda"  # a copy: the default device


def test_data_on_a_gpu_do_not_go_to_another_device_by_themselves(cupy):
    x = cupy.asarray(np.ones((4, 3), np.float32))
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="x: the data are on a GPU, and the default device is cpu"):
        model.fit(x, np.ones(4), verbose=0)
    with pytest.raises(ValueError, match="expected all inputs on one device, got cuda, cpu"):
        model(x)


# -- training --------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 10, 96)
X = RNG.random((10, 8, 8)).astype("float32")[Y] + 0.1 * RNG.random((96, 8, 8)).astype("float32")


def cnn(dropout=0.2):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(16, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def trained(optimizer="adam", loss="sparse_categorical_crossentropy", y=Y, x=X, **options):
    """Model and history after three epochs from seed 0."""
    keras.utils.set_random_seed(0)
    if isinstance(optimizer, tuple):
        optimizer = optimizer[0](**optimizer[1])
    model = cnn()
    model.compile(optimizer, loss, metrics=["accuracy"])
    data = (x,) if y is None else (x, y)
    options = {"batch_size": 8, "epochs": 3, "verbose": 0, **options}
    return model, model.fit(*data, **options).history


def same(one, other):
    assert one[1] == other[1]
    for a, b in zip(one[0].get_weights(), other[0].get_weights(), strict=True):
        assert type(a) is np.ndarray
        np.testing.assert_array_equal(a, b)


def on_both(run):
    """`run()` on "cuda" and on "sim"."""
    for device in ("cuda", "sim"):
        with backend.use(device):
            yield run()


def test_the_cnn_trains_as_on_numpy_arrays(cupy):
    adam = (optimizers.Adam, {"learning_rate": 0.01})
    (model, history), (other, expected) = on_both(lambda: trained(adam, validation_data=(X, Y)))
    same((model, history), (other, expected))
    assert history["loss"][-1] < history["loss"][0]
    with backend.use("cuda"):
        assert all(on_gpu(v) for v in model.weights)
        found = model.evaluate(X, Y, verbose=0), model.predict(X, verbose=0)
    with backend.use("sim"):
        expected = other.evaluate(X, Y, verbose=0), other.predict(X, verbose=0)
    assert found[0] == expected[0] and type(found[1]) is np.ndarray
    np.testing.assert_array_equal(found[1], expected[1])


def test_fit_copies_the_data_once_and_reads_an_epoch_at_its_end(cuda):
    def transfers(epochs, **options):
        before = dict(fake_cupy.transfers)
        keras.utils.set_random_seed(0)
        model = cnn()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(X, Y, batch_size=8, epochs=epochs, **{"verbose": 0, **options})
        return {name: n - before[name] for name, n in fake_cupy.transfers.items()}

    one, five = transfers(1), transfers(5)
    assert five["waits"] == one["waits"]
    # an epoch of twelve steps: its order goes there, the loss and the accuracies come back
    assert (five["to device"] - one["to device"]) / 4 == 1
    assert (five["to host"] - one["to host"]) / 4 == 2
    # a progress bar in a log file is one line an epoch; a callback that asks for each batch gets it
    assert transfers(5, verbose=1) == transfers(5, verbose=2) == five
    seen = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda i, logs: seen.append(logs))
    watched = transfers(1, callbacks=[watch])
    assert watched["to host"] > one["to host"] + 11
    assert len(seen) == 12 and all(set(logs) == {"accuracy", "loss"} for logs in seen)


def test_a_live_progress_bar_shows_the_values(cuda, monkeypatch, capsys):
    monkeypatch.setattr(keras.callbacks, "is_live", lambda: True)
    monkeypatch.setattr("tilegrad.keras.utils.progbar.is_live", lambda: True)
    trained(epochs=1, verbose=1)
    out = capsys.readouterr().out
    assert re.search(r"\r.*12/12.*accuracy: 0\.\d{4} - loss: \d\.\d{4}\n", out)


def test_own_steps_get_tensors_and_numbers(cuda):
    seen = []

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = cnn()

        def call(self, x, training=False):
            return self.inner(x, training=training)

        def train_step(self, data):
            x, y = data
            logs = super().train_step(data)
            seen.append((x, y, np.asarray(y), logs["loss"]))
            return logs

    keras.utils.set_random_seed(0)
    model = Own()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=1, verbose=0)
    x, y, labels, loss = seen[0]
    assert isinstance(x, Tensor) and on_gpu(x) and on_gpu(y) and isinstance(loss, float)
    assert set(labels) <= set(range(10))


@pytest.mark.parametrize(
    "optimizer",
    [
        (optimizers.SGD, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
        (optimizers.RMSprop, {"momentum": 0.5, "centered": True}),
        (optimizers.Adam, {"amsgrad": True, "clipnorm": 0.1}),
        (optimizers.Adam, {"global_clipnorm": 0.1, "loss_scale_factor": 8.0}),
        (optimizers.AdamW, {"clipvalue": 0.01, "gradient_accumulation_steps": 3}),
        (optimizers.SGD, {"use_ema": True, "ema_overwrite_frequency": 5, "weight_decay": 0.01}),
        (optimizers.Adam, {"learning_rate": optimizers.schedules.ExponentialDecay(0.01, 5, 0.5)}),
    ],
)
def test_optimizers(cupy, optimizer):
    same(*on_both(lambda: trained(optimizer)))


def test_an_own_optimizer(cupy):
    class Plain(optimizers.Optimizer):
        def update_step(self, gradient, variable, learning_rate):
            self.assign_sub(variable, gradient * learning_rate)

    settings = {"learning_rate": 0.1, "weight_decay": 0.01, "clipvalue": 0.05}
    same(*on_both(lambda: trained((Plain, settings))))


def test_an_optimizer_made_before_its_variables_follows_them(cupy):
    optimizer = optimizers.Adam(0.5)  # on the default device, the CPU
    with backend.use("cuda"):
        w = keras.Variable([1.0, 2.0])
        (w * w).sum().backward()
        optimizer.apply([w])
        assert int(optimizer.iterations) == 1 and on_gpu(optimizer.iterations)
        np.testing.assert_allclose(w.numpy(), [0.5, 1.5], rtol=1e-5)


def test_learning_rate_and_iterations_are_read_without_waiting(cuda):
    w = keras.Variable([1.0])
    optimizer = optimizers.Adam(0.1)
    optimizer.build([w])
    for step in range(3):
        optimizer.apply([np.float32([1.0])], [w])
        assert int(optimizer.iterations) == step + 1
        before = fake_cupy.transfers["to host"]
        assert float(optimizer.learning_rate) == np.float32(0.1)
        assert fake_cupy.transfers["to host"] == before or step == 0
    optimizer.learning_rate = 0.5
    optimizer.iterations = 7
    assert float(optimizer.learning_rate) == 0.5 and int(optimizer.iterations) == 7
    optimizer.apply([np.float32([1.0])], [w])
    assert int(optimizer.iterations) == 8 == optimizer.iterations.data.item()


def generator():
    for start in range(0, 96, 8):
        yield X[start : start + 8], Y[start : start + 8]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        return X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8], np.full(8, 0.5 + i)


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": False},
        {"shuffle": "batch"},
        {"class_weight": {1: 2.0, 3: 0.5}},
        {"sample_weight": RNG.random(96)},
        {"validation_split": 0.25, "steps_per_epoch": 3},
        {"x": Batches(), "y": None},
        {"y": np.eye(10)[Y], "loss": "categorical_crossentropy"},
        {"y": Y.astype(np.float64)},
        {"x": X.tolist(), "y": Y.tolist()},
        {"x": (255 * X / 2).astype(np.uint8)},
    ],
    ids=lambda options: "-".join(options),
)
def test_kinds_of_data(cupy, options):
    same(*on_both(lambda: trained(**options)))


def test_a_generator_of_batches(cupy):
    same(*on_both(lambda: trained(x=generator(), y=None, epochs=1)))


def test_data_on_the_gpu_train_as_those_of_the_host(cuda):
    x, y = cuda.asarray(X), cuda.asarray(Y)
    expected = trained(validation_split=0.25)
    same(trained(x=x, y=y, validation_split=0.25), expected)
    same(trained(x=Tensor(x), y=Tensor(y), validation_split=0.25), expected)
    same(trained(x=Foreign(x, *CAI, "__dlpack__", "__dlpack_device__"), y=y), trained())


def test_data_that_do_not_fit_stay_on_the_host(cuda, monkeypatch):
    expected = trained()
    monkeypatch.setattr(fake_cupy, "free", [2 * X.nbytes])  # images and labels are a bit more
    adapter = data_adapter.ArrayAdapter(X, Y)
    assert not any(adapter._on_gpu) and all(map(on_gpu, next(iter(adapter))))
    same(trained(), expected)
    same(trained(shuffle=False), trained(x=cuda.asarray(X), shuffle=False))  # only the labels stay
    monkeypatch.setattr(fake_cupy, "free", [1 << 20])
    assert all(data_adapter.ArrayAdapter(X, Y)._on_gpu)


def test_several_inputs_and_outputs(cupy):
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = layers.Dense(3, activation="softmax"), layers.Dense(1)

        def call(self, inputs, training=False):
            x = ops.concatenate([inputs["left"], inputs["right"]], 1)
            return {"kind": self.a(x), "size": self.b(x)}

    def run():
        keras.utils.set_random_seed(0)
        model = Two()
        model.compile(
            "adam",
            {"kind": "sparse_categorical_crossentropy", "size": "mse"},
            metrics={"kind": "accuracy"},
        )
        x = {"left": X[:, 0], "right": X[:, 1]}
        y = {"kind": Y % 3, "size": X.sum((1, 2))}
        history = model.fit(x, y, epochs=2, verbose=0).history
        predicted = model.predict(x, verbose=0)
        assert {type(p) for p in predicted.values()} == {np.ndarray}
        return model, history | {name: p.tolist() for name, p in predicted.items()}

    same(*on_both(run))


def test_single_batches(cupy):
    def run():
        keras.utils.set_random_seed(0)
        model = cnn()
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        numbers = [model.train_on_batch(X[:8], Y[:8]) for _ in range(3)]
        predicted = model.predict_on_batch(X[:8])
        assert type(predicted) is np.ndarray
        return model, [*numbers, model.test_on_batch(X, Y), predicted.tolist()]

    same(*on_both(run))


WRONG = Y.copy()
WRONG[[40, 70]] = 10


def test_labels_out_of_range_are_found_before_the_first_step(cuda):
    message = r"every label to be from 0 to 9, got 10 in row 40 \(2 of 96 are wrong\)"
    with pytest.raises(ValueError, match=message):
        trained(y=WRONG)
    model, _ = trained()
    with pytest.raises(ValueError, match=message):
        model.evaluate(X, WRONG, verbose=0)
    with pytest.raises(ValueError, match=message):
        trained(validation_data=(X, WRONG))
    with pytest.raises(ValueError, match=r"got 10 in row 0 \(2 of 8"):
        model.train_on_batch(X[:8], np.full(8, 10) * (np.arange(8) < 2))
    with pytest.raises(ValueError, match=r"labels from 0 to 1, got 2 in row 1"):
        ops.softmax_cross_entropy([[1.0, 2.0], [3.0, 4.0]], [0, 2])
    # what is on the GPU is not read, so that nothing waits: the loss says it
    loss = ops.softmax_cross_entropy([[1.0, 2.0], [3.0, 4.0]], Tensor(np.int32([0, 2])))
    assert np.isnan(loss.item())


def test_callbacks(cupy, tmp_path):
    def run():
        folder = tmp_path / backend.default_device()
        folder.mkdir()
        callbacks = [
            keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=1.0),
            keras.callbacks.ModelCheckpoint(folder / "best.safetensors", "loss"),
            keras.callbacks.BackupAndRestore(folder / "backup", save_freq=5),
            keras.callbacks.CSVLogger(folder / "log.csv"),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        ]
        model, history = trained(callbacks=callbacks, epochs=4)
        return model, history | {"log": (folder / "log.csv").read_text()}

    same(*on_both(run))


def test_a_run_goes_on_from_a_backup(cuda, tmp_path):
    def stop(batch, logs):
        if batch == 7:
            raise InterruptedError

    expected = trained(epochs=2)
    backup = keras.callbacks.BackupAndRestore(tmp_path, save_freq=3)
    with pytest.raises(InterruptedError):
        trained(callbacks=[backup, keras.callbacks.LambdaCallback(on_train_batch_end=stop)])
    backup = keras.callbacks.BackupAndRestore(tmp_path, save_freq=3)
    same(trained(epochs=2, callbacks=[backup]), expected)


def test_files_go_from_device_to_device(cuda, tmp_path):
    path = tmp_path / "model.safetensors"
    model, _ = trained()
    expected = model.predict(X, verbose=0)
    model.save(path)
    keras.utils.set_random_seed(1)
    again = keras.models.load_model(path)
    assert all(on_gpu(v) for v in again.weights + again.optimizer.variables)
    np.testing.assert_array_equal(again.predict(X, verbose=0), expected)
    with backend.use("sim"):
        keras.utils.set_random_seed(1)
        other = keras.models.load_model(path)
        assert int(other.optimizer.iterations) == 36
        np.testing.assert_array_equal(other.predict(X, verbose=0), expected)
        history = other.fit(X, Y, verbose=0, shuffle=False).history
    assert again.fit(X, Y, verbose=0, shuffle=False).history == history
    fresh = cnn()
    fresh.load_weights(path)
    fresh.set_weights(other.get_weights())
    for a, b in zip(fresh.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# -- losses and metrics ----------------------------------------------------------------------------

P = RNG.random((6, 5)).astype(np.float32) + 0.01
P /= P.sum(1, keepdims=True)
CLASSES = RNG.integers(0, 5, 6)
T = np.eye(5, dtype=np.float32)[CLASSES]
WEIGHT = RNG.random(6).astype(np.float32)


def judged(thing, y_true, where, weight=None):
    """A loss or metric of y_true and P, the first of them on the host or on the device."""
    place = Tensor if where == "device" else np.asarray
    weights = [] if weight is None else [place(weight)]
    result = thing(place(y_true), Tensor(P), *weights)
    return result.item() if isinstance(result, Tensor) else np.asarray(result).tolist()


LOSSES = [
    (losses.MeanSquaredError(), T),
    (losses.MeanAbsoluteError(), T),
    (losses.MeanAbsolutePercentageError(), P[::-1].copy()),
    (losses.MeanSquaredLogarithmicError(), T),
    (losses.Huber(0.3), T),
    (losses.LogCosh(), T),
    (losses.Hinge(), T),
    (losses.SquaredHinge(), T - 0.5),
    (losses.CategoricalHinge(), T),
    (losses.KLDivergence(), T),
    (losses.Poisson(), T),
    (losses.CosineSimilarity(), T),
    (losses.BinaryCrossentropy(label_smoothing=0.1), T),
    (losses.CategoricalCrossentropy(), T),
    (losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), T),
    (losses.SparseCategoricalCrossentropy(), CLASSES),
    (losses.SparseCategoricalCrossentropy(from_logits=True), CLASSES),
    (losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1), CLASSES[:, None]),
    (losses.SparseCategoricalCrossentropy(ignore_class=1), CLASSES.astype(np.float32)),
    (losses.MeanSquaredError("mean_with_sample_weight"), T),
]


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("loss, y_true", LOSSES, ids=lambda v: getattr(v, "name", ""))
def test_losses(cupy, loss, y_true, weight, where):
    found, expected = on_both(lambda: judged(loss, y_true, where, weight))
    assert found == expected


METRICS = [
    (metrics.Accuracy, np.round(P)),
    (metrics.BinaryAccuracy, T),
    (metrics.CategoricalAccuracy, T),
    (metrics.SparseCategoricalAccuracy, CLASSES),
    (lambda: metrics.TopKCategoricalAccuracy(2), T),
    (lambda: metrics.SparseTopKCategoricalAccuracy(2), CLASSES),
    (metrics.MeanSquaredError, T),
    (metrics.RootMeanSquaredError, T),
    (metrics.CosineSimilarity, T),
    (metrics.BinaryCrossentropy, T),
    (metrics.SparseCategoricalCrossentropy, CLASSES),
    (metrics.Precision, T),
    (lambda: metrics.Recall(top_k=2, class_id=1), T),
    (metrics.TruePositives, T),
    (metrics.AUC, T),
    (lambda: metrics.AUC(curve="PR", from_logits=True), T),
    (metrics.F1Score, T),
    (lambda: metrics.FBetaScore("micro", 2.0, 0.3), T),
]


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("make, y_true", METRICS)
def test_metrics(cupy, make, y_true, weight, where):
    def run():
        metric = make()
        judged(metric, y_true, where, weight)
        return judged(metric, y_true[::-1].copy(), where, weight)

    found, expected = on_both(run)
    assert found == expected


def test_means_and_sums_are_read_when_asked_for(cuda):
    for metric, expected in ((metrics.Mean(), 2.5), (metrics.Sum(), 10.0)):
        before = fake_cupy.transfers["to host"]
        metric.update_state(Tensor([1.0, 2.0]))
        metric.update_state(Tensor([3.0, 4.0]))
        assert fake_cupy.transfers["to host"] == before
        assert metric.result() == expected and metric.result() == expected
        assert fake_cupy.transfers["to host"] == before + 1
        metric.update_state(Tensor([9.0]))
        metric.reset_state()
        assert metric.result() == 0.0
    mean = metrics.Mean()
    for i in range(metrics.Mean._UNREAD + 1):  # what waits on the GPU has a bound
        mean.update_state(Tensor([float(i)]))
    assert len(mean._unread) == 1 and mean.result() == metrics.Mean._UNREAD / 2


def test_own_losses_and_metrics_may_use_numpy(cupy):
    def loss(y_true, y_pred):
        return ops.mean(ops.square(y_pred - keras.utils.to_categorical(y_true, 10)), -1)

    def metric(y_true, y_pred):
        return np.argmax(np.asarray(y_pred), -1) == np.asarray(y_true)

    def run():
        keras.utils.set_random_seed(0)
        model = cnn()
        model.compile("sgd", loss, metrics=[metric, metrics.AUC(name="auc")][:1])
        return model, model.fit(X, Y, epochs=2, verbose=0).history

    same(*on_both(run))


@pytest.mark.parametrize(
    "layer",
    [
        layers.Activation("hard_shrink"),
        layers.ReLU(threshold=0.3, negative_slope=0.1),
        layers.Softmax(axis=[1, 2]),
        layers.Dropout(0.5, noise_shape=(None, 1, None), seed=1),
        layers.Flatten("channels_first"),
        layers.Dense(3, activation="gelu", activity_regularizer="l2", kernel_regularizer="l1"),
    ],
    ids=lambda layer: layer.name,
)
def test_layers_that_make_arrays_of_their_own(cupy, layer):
    def run():
        again = type(layer).from_config(layer.get_config())
        keras.utils.set_random_seed(0)
        y = again(RNG_IMAGE, training=True)
        return y.numpy().tolist(), [loss.item() for loss in again.losses]

    found, expected = on_both(run)
    assert found == expected


RNG_IMAGE = RNG.standard_normal((2, 3, 4)).astype(np.float32)


# -- tracing ---------------------------------------------------------------------------------------


def test_traced_kernels_are_waited_for(cuda):
    before = fake_cupy.transfers["waits"]
    with tilegrad.trace.record() as recorder:
        ops.dense(Tensor(np.ones((2, 3))), np.ones((3, 4)))
    assert fake_cupy.transfers["waits"] == before + 2
    assert recorder.totals["dense_forward"][2:] == [48, 4 * (8 + 6 + 12)]


# -- where a device is missing ---------------------------------------------------------------------


def pretend(monkeypatch, status=0, count=1, text="", cupy=True):
    """A `_cuda` that finds what is said, and CuPy or not."""
    module = types.ModuleType("tilegrad._cuda")
    module.device_count = lambda: (status, count, text)
    find = importlib.util.find_spec
    known = {"tilegrad._cuda": True, "cupy": cupy or None}
    monkeypatch.setitem(sys.modules, "tilegrad._cuda", module)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: known[name] if name in known else find(name)
    )
    monkeypatch.delitem(backend._loaded, "cuda", raising=False)
    monkeypatch.delitem(backend._active, "cuda", raising=False)
    return module


@pytest.mark.parametrize(
    "found, reason",
    [
        ({"status": 35, "count": -1}, "no GPU: CUDA status 35 (driver too old or absent)"),
        ({"status": 100, "count": 0}, "no GPU: CUDA status 100 (no device)"),
        ({"status": 3, "text": "initialization error"}, "CUDA status 3: initialization error"),
        ({"count": 0}, "no GPU: CUDA counts none"),
        ({"cupy": False}, "CuPy is not installed: pip install 'tilegrad[cuda13]' (or [cuda12])"),
    ],
)
def test_why_there_is_no_cuda(monkeypatch, capsys, found, reason):
    pretend(monkeypatch, **found)
    assert backend.supported()["cuda"] == reason
    assert ("cuda", False, reason) in backend.describe()
    for use in (
        lambda: Tensor([1.0], device="cuda"),
        lambda: Tensor([1], device="cuda"),
        lambda: Tensor([1.0]).to("cuda"),
        lambda: backend.load("cuda"),
    ):
        with pytest.raises(RuntimeError, match=re.escape(f"backend cuda: {reason}")):
            use()
    assert cli.main(["info"]) == 0
    shown = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert f"cuda no {reason[:30]}" in shown


def test_a_gpu_gets_cupys_current_stream(monkeypatch):
    module = pretend(monkeypatch)
    getters = []
    module.set_stream_getter = getters.append
    module.device_info = lambda: {"name": "GPU 1", "compute_capability": (9, 0)}
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())
    k = backend.load("cuda")
    assert k.asynchronous and k.xp is sys.modules["cupy"]
    assert getters[0]() == fake_cupy._Stream.ptr
    assert ("cuda", True, "available: GPU 1, compute capability 9.0") in backend.describe()
    with pytest.raises(NotImplementedError, match="the cuda backend does not have this kernel"):
        k.dense_forward()
    with pytest.raises(MemoryError):
        k.empty((1 << 30, 1 << 30), np.float32)
    backend._loaded.pop("cuda")


def test_another_backend_may_serve_a_device(cupy, monkeypatch):
    k = backend.Backend("simtrace", backend.get("cpu").module)
    monkeypatch.setitem(backend._loaded, "simtrace", k)
    default = backend.default_device()
    with backend.serve("simtrace"):
        assert backend.get("sim") is k and backend.default_device() == default
    assert backend.get("sim").name == "sim"


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_package_works_without_a_gpu():
    """Importing takes neither CUDA nor CuPy; asking for the device says what is missing."""
    result = run(
        "import sys, tilegrad\n"
        "tilegrad.Tensor([1.0], device='cpu')\n"
        "assert not {'cupy', 'tilegrad._cuda', 'tilegrad._sim'} & set(sys.modules)\n"
        "assert tilegrad.backend.default_device() == 'cuda'\n"
        "tilegrad.Tensor([1.0])",
        TILEGRAD_DEVICE="cuda",
    )
    if backend.supported()["cuda"] is None:
        assert result.returncode == 0, result.stderr
    else:
        assert result.returncode == 1
        assert re.search(r"^RuntimeError: backend cuda: .+", result.stderr, re.M), result.stderr


def test_the_environment_chooses_the_simulator():
    code = "import tilegrad; print((tilegrad.Tensor([1.0, 2.0]) * 2).numpy(), end='')"
    result = run(code, TILEGRAD_DEVICE="sim")
    if backend.supported()["sim"] is None:
        assert result.returncode == 0 and result.stdout == "[2. 4.]", result.stderr
    else:
        assert "RuntimeError: backend sim: _sim was not built" in result.stderr


# -- the simulator ---------------------------------------------------------------------------------


def test_operations_in_the_simulator(sim):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 7, 6, 3)).astype(np.float32)
    w = rng.standard_normal((3, 2, 3, 5)).astype(np.float32)
    v = rng.standard_normal((5, 4)).astype(np.float32)

    def compute(device):
        tensors = [Tensor(a, requires_grad=True, device=device) for a in (x, w, v)]
        y = ops.conv2d_max_pool2d(tensors[0], tensors[1], activation="relu")
        y = ops.softmax(ops.mean(y, (1, 2)) @ tensors[2])
        loss = ops.softmax_cross_entropy(y, [1, 3]) + ops.dropout(y, 0.5, seed=3).sum()
        loss.backward()
        assert loss.device == device
        return [y.numpy(), loss.numpy(), *(t.grad.numpy() for t in tensors)]

    for found, expected in zip(compute("sim"), compute("reference"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def digits(count):
    (x, y), _ = keras.datasets.digits.load_data()
    return x[:count, ..., None].astype(np.float32) / 16, y[:count]


def digits_losses():
    """The loss of the small CNN after each of 30 steps of 8 images."""
    keras.utils.set_random_seed(0)
    model = cli._small_cnn(keras, (8, 8, 1))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs["loss"])
    )
    model.fit(*digits(240), batch_size=8, verbose=0, callbacks=[watch])
    return seen, model


def test_the_cnn_learns_digits_in_the_simulator_as_on_the_cpu(sim):
    found, _ = digits_losses()
    with backend.use(backend.get("cpu").name):
        expected, _ = digits_losses()
    assert len(found) == 30
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_cnn_learns_the_same_from_cupy_arrays(sim, monkeypatch):
    """The whole path of "cuda": CuPy's arrays (its stand-in's) into the very kernels."""
    found, other = digits_losses()
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())
    install(monkeypatch, "cuda", sim.module)
    sim.module.accept_cuda_arrays(True)
    try:
        with backend.use("cuda"):
            expected, model = digits_losses()
    finally:
        sim.module.accept_cuda_arrays(False)
        backend._active.pop("cuda", None)
    same((model, expected), (other, found))


# -- a GPU -----------------------------------------------------------------------------------------


@pytest.fixture
def gpu():
    reason = backend.supported()["cuda"]
    if reason:
        pytest.skip(reason)
    with backend.use("cuda") as k:
        yield k


def test_the_cnn_learns_digits_on_a_gpu_as_on_the_cpu(gpu):
    found, model = digits_losses()
    with backend.use(backend.get("cpu").name):
        expected, _ = digits_losses()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    again, other = digits_losses()
    same((model, found), (other, again))


def test_a_gpus_arrays_are_shared(gpu):
    cupy = gpu.xp
    array = cupy.zeros(3, np.float32)
    for t in (Tensor(array), tilegrad.from_dlpack(array)):
        t[0] += 1
        assert array.get().tolist() == t.numpy().tolist()
    for back in (cupy.asarray(t), cupy.from_dlpack(t)):
        back[1] += 1
    assert array.get().tolist() == [2.0, 2.0, 0.0]


def test_kernels_run_on_the_current_stream(gpu):
    cupy = gpu.xp
    x = Tensor(np.ones((512, 512), np.float32))
    with cupy.cuda.Stream(non_blocking=True) as stream:
        y = x
        for _ in range(20):
            y = (y @ x) * (1 / 512)
        stream.synchronize()
        assert np.all(y.numpy() == 1.0)


def test_pytorch_shares_a_gpus_memory(gpu):
    torch = pytest.importorskip("torch")
    source = torch.zeros(3, device="cuda")
    for t in (Tensor(source), tilegrad.from_dlpack(source)):
        t[0] += 1
    assert source.tolist() == [2.0, 0.0, 0.0]
    torch.from_dlpack(t)[1] += 5
    torch.as_tensor(t, device="cuda")[2] += 7
    torch.cuda.synchronize()
    assert t.numpy().tolist() == [2.0, 5.0, 7.0]
