"""tilegrad and PyTorch, whose kernels use OpenMP, at work in one process at the same time."""

import threading

import numpy as np
import torch

from tilegrad import keras
from tilegrad.keras import layers

X = np.random.default_rng(0).standard_normal((128, 64), np.float32)
Y = np.random.default_rng(1).integers(0, 10, 128)


def train_here():
    """The weights after some epochs; the same each time."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((64,)), layers.Dense(256, activation="relu"), layers.Dense(10)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, epochs=8, verbose=0)
    return [w.tobytes() for w in model.get_weights()]


def train_there():
    """The same in PyTorch, on two OpenMP threads."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return [p.detach().numpy().tobytes() for p in model.parameters()]


def test_both_at_once():
    """Neither library changes the other's bits, its number of threads, or waits for it forever."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        here, there = train_here(), train_there()
        found = {}
        jobs = {"here": train_here, "there": train_there}

        def work(name):
            found[name] = [jobs[name]() for _ in range(5)]

        threads = [threading.Thread(target=work, args=(name,)) for name in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert found == {"here": [here] * 5, "there": [there] * 5}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_in_turns():
    """A step here, a step there, on each other's memory."""
    layer = layers.Dense(32)
    for i in range(50):
        x = torch.randn(64, 64, generator=torch.manual_seed(i))
        here = layer(x.numpy())
        there = x @ torch.from_numpy(layer.kernel.numpy())
        np.testing.assert_allclose(here.numpy(), there.numpy(), rtol=1e-5, atol=1e-5)
