"""Softmax and cross-entropy against PyTorch."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import normal
from hypothesis import given
from torch_checks import compare, torch

from tilegrad import ops

F = torch.nn.functional


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 7, 17, 40]), min_size=1, max_size=4),
    data=st.data(),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_any_axis(backend, name, shape, data, scale):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    seed = data.draw(st.integers(0, 2**32))
    x = normal(np.random.default_rng(seed), *shape) * np.float32(scale)
    compare(
        lambda x: getattr(ops, name)(x, axis),
        lambda x: getattr(F, name)(x, dim=axis),
        x,
        length=max(shape),
        magnitude=1 + scale,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dense", [False, True])
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 60),
    weighted=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 2**32),
)
def test_cross_entropy(backend, reduction, dense, rows, cols, weighted, scale, seed):
    """Labels and distributions, weighted or not; "mean" divides by the rows, as Keras does."""
    rng = np.random.default_rng(seed)
    x = normal(rng, rows, cols) * np.float32(scale)
    weight = rng.random(rows, np.float32) if weighted else None
    if dense:
        target = rng.random((rows, cols), np.float32)
        peer_target = torch.tensor(target.astype(np.float64))
    else:
        target = rng.integers(0, cols, rows)
        peer_target = torch.tensor(target)

    def theirs(x):
        losses = F.cross_entropy(x, peer_target, reduction="none")
        if weighted:
            losses = losses * torch.tensor(weight.astype(np.float64))
        return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()

    compare(
        lambda x: ops.softmax_cross_entropy(x, target, weight, reduction),
        theirs,
        x,
        length=rows * cols,
        magnitude=1 + scale,
    )
