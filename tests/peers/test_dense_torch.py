"""Dense layers and matrix products against PyTorch."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import normal
from hypothesis import given
from torch_checks import compare, torch

from tilegrad import ops

F = torch.nn.functional
ACTIVATIONS = {
    None: lambda y: y,
    "relu": F.relu,
    "leaky_relu": lambda y: F.leaky_relu(y, 0.2),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
}
size = st.sampled_from([1, 2, 3, 7, 16, 17, 31, 64, 129])


@given(
    lead=st.lists(st.sampled_from([1, 2, 3, 5]), min_size=0, max_size=3),
    c=size,
    f=size,
    bias=st.booleans(),
    activation=st.sampled_from(list(ACTIVATIONS)),
    seed=st.integers(0, 2**32),
)
def test_dense(backend, lead, c, f, bias, activation, seed):
    """x of any rank; with and without bias; each fused activation."""
    rng = np.random.default_rng(seed)
    arrays = [normal(rng, *lead, c), normal(rng, c, f), *([normal(rng, f)] if bias else [])]

    def theirs(x, w, b=0):
        return ACTIVATIONS[activation](x @ w + b)

    def ours(x, w, b=None):
        return ops.dense(x, w, b, activation=activation)

    compare(ours, theirs, *arrays, length=max(c, f, *lead, 1))


MATMULS = [
    ((3, 4), (4, 5)),
    ((4,), (4,)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((1, 3, 4), (7, 4, 5)),
    ((7, 3, 4), (1, 4, 5)),
    ((2, 1, 3, 4), (1, 5, 4, 6)),
    ((5, 3, 4), (2, 1, 4, 6)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 4, 5)),
    ((2, 5, 1, 1), (2, 5, 1, 1)),
    ((17, 129, 31), (17, 31, 7)),
]


@pytest.mark.parametrize("shapes", MATMULS, ids=str)
def test_matmul(backend, shapes, rng):
    """NumPy's rules: vectors, batches, broadcast batches on either side."""
    a, b = (normal(rng, *shape) for shape in shapes)
    compare(ops.matmul, torch.matmul, a, b, length=max(max(s) for s in shapes))


@given(
    lead=st.lists(st.sampled_from([1, 2, 3]), min_size=0, max_size=3),
    m=size,
    k=size,
    n=size,
    repeat=st.lists(st.booleans(), min_size=6, max_size=6),
    seed=st.integers(0, 2**32),
)
def test_random_matmul(backend, lead, m, k, n, repeat, seed):
    rng = np.random.default_rng(seed)
    a_lead = [1 if r else d for d, r in zip(lead, repeat[:3], strict=False)]
    b_lead = [1 if r else d for d, r in zip(lead, repeat[3:], strict=False)]
    a, b = normal(rng, *a_lead, m, k), normal(rng, *b_lead, k, n)
    compare(ops.matmul, torch.matmul, a, b, length=max(m, k, n) * int(np.prod(lead)))
