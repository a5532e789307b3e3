"""What must hold beside the tests: the same bits in every run, and the CPU's accuracy."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import numpy as np

import tilegrad
from tilegrad import keras

from .device import Deadline, Device


def small_cnn(shape, units: int):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input(shape),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(units, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def images(simulated: bool):
    """MNIST where TILEGRAD_DATA has it, else digits; the simulator gets few of them."""
    name, largest = ("mnist", 255) if os.environ.get("TILEGRAD_DATA") else ("digits", 16)
    if simulated:
        name, largest = "digits", 16
    (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    x, x_test = (a[..., None].astype(np.float32) / largest for a in (x, x_test))
    if simulated:
        x, y, x_test, y_test = x[:32], y[:32], x_test[:32], y_test[:32]
    return name, (x, y), (x_test, y_test)


def train(where: str, sets, epochs: int, batch: int):
    """Weights, losses and test accuracy after training on device `where`."""
    _, train_set, test_set = sets
    tilegrad.backend.set_default_device(where)
    keras.utils.set_random_seed(3)
    model = small_cnn(train_set[0].shape[1:], 128)
    history = model.fit(*train_set, batch, epochs, verbose=0).history
    _, accuracy = model.evaluate(*test_set, verbose=0)
    return [np.array(w) for w in model.get_weights()], history["loss"], float(accuracy)


def same_bits(device: Device, sets, epochs: int, batch: int) -> dict:
    """Two trainings from one seed end with the same bits."""
    first, second = (train(device.name, sets, epochs, batch) for _ in range(2))
    different = sum(a.tobytes() != b.tobytes() for a, b in zip(first[0], second[0], strict=True))
    if different:
        raise AssertionError(f"{different} of {len(first[0])} weights differ from run to run")
    return {"weights": sum(w.size for w in first[0]), "epochs": epochs}


def cpu_accuracy(device: Device, sets, epochs: int, batch: int) -> dict:
    """Trained as on the CPU: test accuracy within half a point, or four images of few."""
    _, losses, accuracy = train(device.name, sets, epochs, batch)
    _, cpu_losses, cpu = train("cpu", sets, epochs, batch)
    tested = len(sets[2][0])
    allowed = max(0.005, 4 / tested)
    if not abs(accuracy - cpu) <= allowed:
        raise AssertionError(f"accuracy {accuracy:.4f}, the CPU's {cpu:.4f}")
    return {
        "dataset": sets[0],
        "accuracy": accuracy,
        "cpu_accuracy": cpu,
        "allowed": allowed,
        "first_loss": losses[0],
        "first_cpu_loss": cpu_losses[0],
    }


def run(device: Device, deadline: Deadline, add: Callable[[dict], None]) -> list[str]:
    """Both checks; the failures, in words."""
    sets = images(device.simulated)
    epochs, batch = {"digits": (1 if device.simulated else 10, 16), "mnist": (2, 128)}[sets[0]]
    failures = []
    for check in (same_bits, cpu_accuracy):
        name = check.__name__.replace("_", " ")
        try:
            row = {"check": name} | functools.partial(check, device, sets, epochs, batch)()
        except Exception as error:  # the other one still says something
            failures.append(f"{name}: {type(error).__name__}: {error}")
            row = {"check": name, "failed": failures[-1]}
        add(row)
    return failures
