"""Activations against PyTorch."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from torch_checks import compare, torch

from tilegrad import ops

F = torch.nn.functional
PAIRS = {
    "relu": (ops.relu, F.relu),
    "leaky_relu": (lambda x: ops.leaky_relu(x, 0.3), lambda x: F.leaky_relu(x, 0.3)),
    "sigmoid": (ops.sigmoid, torch.sigmoid),
    "tanh": (ops.tanh, torch.tanh),
    "elu": (lambda x: ops.elu(x, 0.7), lambda x: F.elu(x, 0.7)),
    "gelu": (ops.gelu, F.gelu),
    "gelu_tanh": (lambda x: ops.gelu(x, approximate=True), lambda x: F.gelu(x, approximate="tanh")),
    "silu": (ops.silu, F.silu),
    "softplus": (ops.softplus, lambda x: F.softplus(x, threshold=1e9)),
}


@pytest.mark.parametrize("name", PAIRS)
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 8, 17]), min_size=1, max_size=4),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 2**32),
)
def test_activation(backend, name, shape, scale, seed):
    x = (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)
    compare(*PAIRS[name], x, what=name)
