"""Arithmetic, reductions and movements against PyTorch."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import normal
from hypothesis import given
from torch_checks import compare, torch

from tilegrad import ops

sizes = st.lists(st.sampled_from([1, 2, 3, 5, 9]), min_size=1, max_size=4)
seeds = st.integers(0, 2**32)
BINARY = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "power": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}
UNARY = {
    "negative": torch.neg,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "absolute": torch.abs,
    "square": torch.square,
}


@pytest.mark.parametrize("name", BINARY)
@given(shape=sizes, data=st.data(), seed=seeds)
def test_binary(backend, name, shape, data, seed):
    """Operands of any rank, any axes of either repeated; ties of maximum and minimum share."""
    rng = np.random.default_rng(seed)

    def operand():
        ndim = data.draw(st.integers(0, len(shape)))
        kept = data.draw(st.lists(st.booleans(), min_size=ndim, max_size=ndim))
        tail = shape[len(shape) - ndim :]
        return np.array(normal(rng, *(s if k else 1 for s, k in zip(tail, kept, strict=True))))

    a, b = operand(), operand()
    if name == "power":
        a = np.abs(a) + np.float32(0.1)
    if name == "divide":
        b = b + np.sign(b)
    if name in ("maximum", "minimum"):
        a, b = np.round(a), np.round(b)
    length = int(np.prod(np.broadcast_shapes(a.shape, b.shape)))
    compare(getattr(ops, name), BINARY[name], a, b, length=length, magnitude=4.0)


@pytest.mark.parametrize("name", UNARY)
@given(shape=sizes, seed=seeds)
def test_unary(backend, name, shape, seed):
    x = normal(np.random.default_rng(seed), *shape)
    if name in ("log", "sqrt"):
        x = np.abs(x) + np.float32(0.1)
    compare(getattr(ops, name), UNARY[name], x)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min"])
@given(shape=sizes, keepdims=st.booleans(), data=st.data(), seed=seeds)
def test_reductions(backend, name, shape, keepdims, data, seed):
    """Over all axes, one, or any set of them; equal maxima share the gradient."""
    x = normal(np.random.default_rng(seed), *shape)
    if name in ("max", "min"):
        x = np.round(2 * x) / 2
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    axis = data.draw(st.sampled_from([None, axes, axes[0], axes[0] - len(shape)]))
    dim = tuple(range(len(shape))) if axis is None else axis
    peer = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin}[name]
    compare(
        lambda x: getattr(ops, name)(x, axis=axis, keepdims=keepdims),
        lambda x: peer(x, dim=dim, keepdim=keepdims),
        x,
        length=x.size,
    )


@given(shape=sizes, data=st.data(), seed=seeds)
def test_transpose_and_reshape(backend, shape, data, seed):
    x = normal(np.random.default_rng(seed), *shape)
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    compare(lambda x: ops.transpose(x, order), lambda x: x.permute(order), x)
    compare(lambda x: ops.reshape(x, (-1,)), lambda x: x.reshape(-1), x)
    compare(
        lambda x: ops.reshape(ops.transpose(x, order), (x.size, 1)),
        lambda x: x.permute(order).reshape(x.numel(), 1),
        x,
    )


@given(shape=sizes, data=st.data(), seed=seeds)
def test_getitem(backend, shape, data, seed):
    """Integers, slices with any positive step, None and an Ellipsis."""
    index = []
    for size in shape:
        first = data.draw(st.integers(0, size - 1))
        last = data.draw(st.integers(first + 1, size))
        step = data.draw(st.integers(1, 3))
        cut = slice(first, last, step)
        index.append(data.draw(st.sampled_from([cut, first, first - size, slice(None)])))
    if data.draw(st.booleans()):
        index[data.draw(st.integers(0, len(index) - 1)) :] = [Ellipsis]
    if data.draw(st.booleans()):
        index.insert(data.draw(st.integers(0, len(index))), None)
    index = tuple(index)
    x = normal(np.random.default_rng(seed), *shape)
    compare(lambda x: x[index], lambda x: x[index], x, what=str(index))


@given(shape=sizes, count=st.integers(1, 4), data=st.data(), seed=seeds)
def test_concatenate_and_stack(backend, shape, count, data, seed):
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    parts = []
    for _ in range(count):
        part = list(shape)
        part[axis] = data.draw(st.integers(1, 4))
        parts.append(normal(rng, *part))
    compare(lambda *xs: ops.concatenate(xs, axis=axis), lambda *xs: torch.cat(xs, dim=axis), *parts)
    axis = data.draw(st.integers(-len(shape) - 1, len(shape)))
    parts = [normal(rng, *shape) for _ in range(count)]
    compare(lambda *xs: ops.stack(xs, axis=axis), lambda *xs: torch.stack(xs, dim=axis), *parts)


@given(shape=sizes, data=st.data(), seed=seeds)
def test_broadcast_expand_and_squeeze(backend, shape, data, seed):
    rng = np.random.default_rng(seed)
    kept = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    x = normal(rng, *(s if k else 1 for s, k in zip(shape, kept, strict=True)))
    wide = (2, *shape)
    length = int(np.prod(wide))
    compare(
        lambda x: ops.broadcast_to(x, wide),
        lambda x: torch.broadcast_to(x, wide),
        x,
        length=length,
    )
    axis = data.draw(st.integers(-len(shape) - 1, len(shape)))
    compare(lambda x: ops.expand_dims(x, axis), lambda x: x.unsqueeze(axis), x)
    compare(lambda x: ops.squeeze(x), lambda x: x.squeeze(), x)


@given(shape=sizes, seed=seeds)
def test_clip(backend, shape, seed):
    """A bound belongs to the range: its gradient passes."""
    x = np.round(4 * normal(np.random.default_rng(seed), *shape)) / 4
    compare(lambda x: ops.clip(x, -0.5, 0.75), lambda x: torch.clamp(x, -0.5, 0.75), x)


def test_a_value_used_many_times(backend, rng):
    """Gradients of all uses add up, through a graph with shared parts."""
    x, y = normal(rng, 3, 5), normal(rng, 3, 5)

    def ours(x, y):
        z = x * y + x
        return (z * z + ops.exp(-z * 0.1) * x - y / (z * z + 1)) * z

    def theirs(x, y):
        z = x * y + x
        return (z * z + torch.exp(-z * 0.1) * x - y / (z * z + 1)) * z

    compare(ours, theirs, x, y, length=9, magnitude=10.0)
