"""A Keras script runs with its two import lines changed, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tilegrad import backend

pytestmark = pytest.mark.usefixtures("on_backend")

IMPORTS = """
    import tilegrad as tf
    from tilegrad.keras import layers
"""

SCRIPT = """
    model = tf.keras.Sequential([
        layers.Conv2D(32, (3, 3), activation='relu', input_shape=(28, 28, 1)),
        layers.MaxPooling2D((2, 2)),
        layers.Flatten(),
        layers.Dense(128, activation='relu'),
        layers.Dense(10, activation='softmax')
    ])
    model.compile(optimizer='adam', loss='sparse_categorical_crossentropy', metrics=['accuracy'])
    mnist = tf.keras.datasets.mnist
    (x_train, y_train), (x_test, y_test) = mnist.load_data()
    x_train = x_train / 255.0
    x_test = x_test / 255.0
    model.fit(x_train, y_train, epochs=5)
    test_loss, test_acc = model.evaluate(x_test, y_test, verbose=2)
    print('\\nTest accuracy:', test_acc)
"""


def write_npz(folder):
    """Data of MNIST's shapes and types, fewer of them, as Keras's cache holds them."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (10, 28, 28))
    arrays = {}
    for part, count in (("train", 512), ("test", 128)):
        y = rng.integers(0, 10, count).astype("uint8")
        arrays[f"x_{part}"] = (patterns[y] * rng.uniform(0.5, 1.0, (count, 28, 28))).astype("uint8")
        arrays[f"y_{part}"] = y
    np.savez(folder / "mnist.npz", **arrays)


def run(lines, **environment):
    device = backend.default_device()  # the script's process runs on the backend of the test
    chosen = {"TILEGRAD_DEVICE": device}
    if device == "cpu":
        chosen["TILEGRAD_ISA"] = backend.get(device).name
    environment = {
        **os.environ,
        "KERAS_MAX_EPOCHS": "2",
        "PYTHONWARNINGS": "ignore",
        **chosen,
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(lines)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


LOAD_LOCAL = """
    import numpy
    def _load_data(path="mnist.npz"):
        with numpy.load({path!r}) as data:
            return (data["x_train"], data["y_train"]), (data["x_test"], data["y_test"])
    tf.keras.datasets.mnist.load_data = _load_data
"""


def check(done, steps, accuracy):
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    number = r"\d+\.\d{4}(?:e-\d\d)?"
    time = r"\d+s - \d+[mu]?s/step"
    for epoch, line in enumerate(lines[:2], start=1):
        assert re.fullmatch(
            rf"Epoch {epoch}/2 - {steps}/{steps} - {time} - accuracy: {number} - loss: {number}",
            line,
        )
    assert re.fullmatch(rf"\d+/\d+ - {time} - accuracy: {number} - loss: {number}", lines[2])
    found = re.fullmatch(r"Test accuracy: (\S+)", lines[3])
    assert float(found[1]) >= accuracy
    assert len(lines) == 4


def test_script_on_synthetic_images(tmp_path):
    write_npz(tmp_path)
    local = LOAD_LOCAL.format(path=str(tmp_path / "mnist.npz"))
    check(run(IMPORTS + local + SCRIPT), 16, 0.9)


def test_script_on_mnist():
    folder = os.environ.get("TILEGRAD_DATA")
    if not folder or not any(os.path.exists(f"{folder}/{x}") for x in ("mnist", "mnist.npz")):
        pytest.skip("TILEGRAD_DATA does not name a folder with MNIST")
    if backend.default_device() == "sim":
        pytest.skip("takes the simulator half a minute; it runs the synthetic images")
    check(run(IMPORTS + SCRIPT, KERAS_MAX_STEPS_PER_EPOCH="150"), 150, 0.9)
