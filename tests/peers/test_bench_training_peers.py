"""Every peer that is installed learns what the NumPy reference does, weights there and back."""

import functools

import numpy as np
import pytest

from tilegrad.bench import networks, training
from tilegrad.bench.child import Child
from tilegrad.bench.learning import forward, judge
from tilegrad.bench.networks import Network, Task

NETWORK = Network((16, 16, 3), "same", ((4, 5), (6,)), 32)
TASK = Task(
    NETWORK,
    functools.partial(networks.patterns, NETWORK.image),
    images=1024,
    held_out=100,
    loss_slack=0.15,
    moved_slack=0.3,
)
# of PyTorch those that differ in more than their environment
PEERS = [
    name
    for name in training.CONTENDERS
    if name not in ("PyTorch, channels first", "PyTorch, channels last")
]


@pytest.fixture(autouse=True)
def on_backend():
    """Contenders have processes of their own: no backend in turn as for the other tests here."""


@pytest.mark.parametrize("name", PEERS)
def test_it_learns_what_the_reference_does(name, monkeypatch):
    monkeypatch.setitem(networks.TASKS, "tiny", TASK)
    monkeypatch.setattr(training, "CLOCKS_AGREE", (1.0, 5.0))
    (row,) = training.rows([training.Training("tiny", 16)], labels=[name], threads=1, budget_s=0)
    if row["status"] == "absent":
        pytest.skip(row["reason"])
    assert (row["status"], row["reason"]) == ("ok", None)
    assert row["version"]


@pytest.mark.parametrize("name", PEERS)
def test_weights_come_back_as_they_went_and_predict_the_same(name, tmp_path):
    c = training.CONTENDERS[name]
    files = training.Files.within(tmp_path)
    weights = NETWORK.weights(seed=3)
    rng = np.random.default_rng(0)
    x, labels = TASK.draw(rng, 33, True)
    np.save(files.test, x)
    np.savez(files.weights, *weights)
    with Child(c.module, NETWORK, 16, 1, c.options, c.environment) as child:
        if child.absent:
            pytest.skip(child.absent)
        child.ask("restart", weights=files.weights, seed=0)
        child.ask("weights", to=files.trained)
        child.ask("predict", x=files.test, to=files.predicted)
    with np.load(files.trained) as arrays:
        back = [arrays[name] for name in arrays.files]
    assert len(back) == len(weights)
    for got, right in zip(back, weights, strict=True):
        assert np.array_equal(got, right)
    right = forward(NETWORK, weights, x)[0].argmax(axis=1)
    assert np.array_equal(np.load(files.predicted), right)
    assert judge(NETWORK, weights, x, labels)[1] == pytest.approx((right == labels).mean())
