"""Training beside other threads and processes gives the same bits as training alone."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from tilegrad import keras
from tilegrad.keras import layers

RNG = np.random.default_rng(0)
X = RNG.standard_normal((96, 12, 12, 2), np.float32)
Y = RNG.integers(0, 10, 96)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def make_model(seed):
    """A model whose random numbers are its own."""
    init = keras.initializers.GlorotUniform
    model = keras.Sequential(
        [
            keras.Input((12, 12, 2)),
            layers.Conv2D(16, 3, activation="relu", kernel_initializer=init(seed)),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.2, seed=seed),
            layers.Dense(10, activation="softmax", kernel_initializer=init(seed + 1)),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(seed, epochs=3):
    """What a run leaves: weights, predictions, history."""
    model = make_model(seed)
    validation = X[:40], Y[:40]
    history = model.fit(
        X, Y, 32, epochs, verbose=0, shuffle=False, validation_data=validation
    ).history
    return [w.tobytes() for w in model.get_weights()], model.predict(X).tobytes(), history


def test_fit_in_several_threads_at_once():
    alone = [train(seed) for seed in range(4)]
    found = [None] * 4
    start = threading.Barrier(4)

    def work(seed):
        start.wait()
        found[seed] = train(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def run_apart(code, timeout=120):
    """In a process of its own, where no other library's threads can make a fork unsafe."""
    here = os.path.dirname(__file__)
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r})\n{code}"],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@needs_fork
def test_fit_in_a_forked_child():
    run_apart("""
import os
from test_concurrency import train

expected = train(1)
child = os.fork()
if child == 0:
    os._exit(0 if train(1) == expected else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert train(1) == expected
""")


@needs_fork
def test_forks_while_other_threads_train():
    """Each child finds every lock free, whatever the threads it lacks were doing."""
    run_apart("""
import os, threading, warnings
from test_concurrency import train

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of every such fork
expected = train(2, epochs=1)
stop = threading.Event()

def work():
    while not stop.is_set():
        train(3, epochs=1)

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
try:
    for _ in range(12):
        child = os.fork()
        if child == 0:
            os._exit(0 if train(2, epochs=1) == expected else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
finally:
    stop.set()
    for thread in threads:
        thread.join()
""")


@needs_fork
def test_a_forked_data_worker_feeds_fit():
    """The worker augments with tilegrad's own ops, on threads of its own."""
    run_apart("""
import multiprocessing
import numpy as np
import tilegrad
from tilegrad import keras
from test_concurrency import X, Y, make_model, train

def batch(i):
    rows = slice(32 * i, 32 * i + 32)
    blur = np.full((3, 3, 1, 2), 1 / 9, np.float32)
    x = tilegrad.ops.conv2d(X[rows], blur, padding="same", groups=2)
    return x.numpy(), Y[rows]

class Workers(keras.utils.PyDataset):
    def __init__(self, pool):
        super().__init__()
        self.pool = pool
    def __len__(self):
        return 3
    def __getitem__(self, index):
        return batch(index) if self.pool is None else self.pool.apply(batch, (index,))

def weights(pool):
    model = make_model(4)
    model.fit(Workers(pool), epochs=3, verbose=0, shuffle=False)
    return [w.tobytes() for w in model.get_weights()]

train(0, epochs=1)  # the pool of threads runs when the workers are forked
expected = weights(None)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert weights(pool) == expected
""")


def test_interrupts_wait_only_where_they_must():
    """`uninterrupted` hands an interrupt on when its block ends, and nests."""
    import signal

    from tilegrad.interrupts import uninterrupted

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = []
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")
        assert done == ["inner", "outer"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with uninterrupted():
            pass
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
