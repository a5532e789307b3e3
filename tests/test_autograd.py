"""The engine: what flows where, what is freed, what is refused; on every backend."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilegrad
from tilegrad import Tensor, ops
from tilegrad import backend as backends

pytestmark = pytest.mark.usefixtures("on_backend")


def leaf(values):
    return Tensor(values, requires_grad=True)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def test_gradients_accumulate_until_they_are_forgotten():
    x = leaf([2.0])
    (x * 3).backward()
    (x * x).backward()
    assert x.grad.numpy().tolist() == [7.0]
    x.zero_grad()
    assert x.grad is None


def test_a_tensor_used_several_times_sums_its_gradients():
    x = leaf([3.0])
    y = x * x  # dy/dx = 2x
    z = y * x + y + x  # 3x^2 + 2x + 1
    z.backward()
    assert x.grad.item() == 34.0


def test_addends_do_not_share_their_gradients_memory():
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (a + b).sum().backward()
    a.grad.numpy()[...] = 9
    assert b.grad.numpy().tolist() == [1.0, 1.0]


def test_passing_dy_on_does_not_let_later_sums_change_it():
    x = leaf([1.0, 2.0])
    y = x.reshape(2)
    z = y + y.reshape(1, 2).reshape(2) + y
    (z + z).sum().backward()
    assert x.grad.numpy().tolist() == [6.0, 6.0]


def test_only_the_gradients_asked_for_are_computed(monkeypatch):
    x, w = Tensor(np.ones((2, 3))), leaf(np.ones((3, 4)))

    def refuse(*_):
        raise AssertionError("dx was computed although nobody needs it")

    monkeypatch.setattr(backends.get(x.device), "dense_backward_dx", refuse, raising=False)
    ops.dense(x, w).sum().backward()
    assert x.grad is None and w.grad.shape == (3, 4)


def test_non_scalars_need_a_gradient_of_their_shape():
    x = leaf(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"expected a scalar, or a grad of shape \(2, 3\)"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"expected a grad of shape \(2, 3\), got \(3, 2\)"):
        (x * 2).backward(np.ones((3, 2)))
    (x * 2).backward(np.full((2, 3), 0.5))
    assert x.grad.numpy().tolist() == [[1.0] * 3] * 2


def test_backward_without_a_graph_is_refused():
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        Tensor([1.0]).backward()


def test_a_leaf_is_its_own_gradient():
    x = leaf([5.0])
    x.backward()
    assert x.grad.item() == 1.0


def test_no_grad_records_nothing_and_restores():
    x = leaf([1.0])
    with tilegrad.no_grad():
        assert not tilegrad.is_grad_enabled()
        assert not (x * 2).requires_grad
    assert tilegrad.is_grad_enabled()

    @tilegrad.no_grad()
    def double(t):
        return t * 2

    assert double(x).creator is None and (x * 2).creator is not None


def test_the_graph_is_freed_after_backward():
    x = leaf(np.ones(4))
    y = x * 2
    z = (y * y).sum()
    op = weakref.ref(y.creator)
    z.backward()
    del y
    gc.collect()
    assert op() is None
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        z.backward()


def test_retain_graph_goes_through_twice():
    x = leaf([3.0])
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 12.0


def test_deep_graphs_need_no_recursion():
    x = leaf([1.0])
    y = x
    for _ in range(20_000):
        y = y + 0.0
    y.backward()
    assert x.grad.item() == 1.0
    z = x
    for _ in range(20_000):
        z = z * 1.0
    del z  # freed without backward, without recursion too


@pytest.mark.parametrize("change", ["assign", "setitem"])
def test_changing_what_backward_reads_is_caught(change):
    x, w = leaf(np.ones((1, 2))), leaf(np.ones((2, 2)))
    y = ops.dense(x, w).sum()
    if change == "assign":
        w.assign(np.zeros((2, 2)))
    else:
        w[0, 0] = 5
    with pytest.raises(RuntimeError, match="changed in place after forward"):
        y.backward()
    assert x.grad is None and w.grad is None  # nothing was half done


def test_changing_a_view_counts_as_changing_the_original():
    x = leaf(np.ones(4))
    y = (x * x).sum()
    with tilegrad.no_grad():
        x.reshape(2, 2)[...] = 3.0
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_changing_what_backward_does_not_read_is_fine():
    x, b = leaf(np.ones(3)), leaf(np.ones(3))
    y = (x + b).sum()
    b.assign(np.zeros(3))
    y.backward()
    assert b.grad.numpy().tolist() == [1.0] * 3


def test_tensors_of_two_devices_do_not_mix():
    other = "reference" if backends.default_device() == "cpu" else "cpu"
    try:
        y = Tensor([1.0], device=other)
    except RuntimeError as reason:
        pytest.skip(str(reason))
    with pytest.raises(ValueError, match="expected all inputs on one device"):
        Tensor([1.0]) + y


def test_a_kernel_that_is_missing_is_named():
    k = backends.Backend("nothing", np)
    with pytest.raises(NotImplementedError, match="conv2d_forward: the nothing backend"):
        k.conv2d_forward()


SMOOTH = {
    "dense": (lambda x, w, b: ops.dense(x, w, b, activation="tanh"), [(3, 4), (4, 5), (5,)]),
    "dense batch": (lambda x, w: ops.dense(x, w), [(2, 3, 4), (4, 1)]),
    "matmul": (lambda a, b: a @ b, [(2, 1, 3, 4), (5, 4, 2)]),
    "matmul vector": (lambda a, b: a @ b, [(4,), (3, 4, 2)]),
    "conv2d": (
        lambda x, w, b: ops.conv2d(x, w, b, strides=(2, 1), padding="same", activation="sigmoid"),
        [(2, 7, 5, 4), (3, 2, 4, 6), (6,)],
    ),
    "depthwise": (
        lambda x, w: ops.conv2d(x, w, groups=3, dilation=2),
        [(1, 7, 7, 3), (3, 3, 1, 6)],
    ),
    "avg_pool2d": (lambda x: ops.avg_pool2d(x, 3, 2, "same"), [(2, 7, 5, 3)]),
    "max_pool2d": (lambda x: ops.max_pool2d(x, 3, 2, "same"), [(2, 7, 5, 3)]),
    "global_avg_pool2d": (ops.global_avg_pool2d, [(2, 3, 5, 4)]),
    "gelu": (ops.gelu, [(17,)]),
    "gelu tanh": (lambda x: ops.gelu(x, approximate=True), [(17,)]),
    "silu": (ops.silu, [(17,)]),
    "softplus": (ops.softplus, [(17,)]),
    "elu": (ops.elu, [(17,)]),
    "softmax": (lambda x: ops.softmax(x, axis=1), [(3, 4, 5)]),
    "log_softmax": (ops.log_softmax, [(3, 7)]),
    "cross-entropy": (lambda x: ops.softmax_cross_entropy(x, [1, 0, 4]), [(3, 5)]),
    "weighted": (
        lambda x: ops.softmax_cross_entropy(x, [1, 0, 4], [0.5, 2, 0], reduction="none"),
        [(3, 5)],
    ),
    "soft labels": (
        lambda x: ops.softmax_cross_entropy(x, np.full((3, 5), 0.2, np.float32), reduction="sum"),
        [(3, 5)],
    ),
    "broadcast": (lambda a, b: a * b + a / (b * b + 2) - b, [(3, 1, 4), (5, 1)]),
    "extremes": (lambda a, b: ops.maximum(a, b) * ops.minimum(a, 0.1), [(3, 4), (4,)]),
    "power": (lambda a: (ops.square(a) + 0.5) ** 1.5, [(3, 4)]),
    "exponent": (lambda a: 2.0**a, [(3, 4)]),
    "exp log sqrt": (lambda a: ops.log(ops.exp(a) + 1) * ops.sqrt(ops.square(a) + 1), [(7,)]),
    "clip": (lambda a: ops.clip(a, -0.5, 0.7) * a, [(17,)]),
    "sum": (lambda a: a.sum(axis=(0, 2)) * a.sum(), [(3, 4, 5)]),
    "mean": (lambda a: a.mean(axis=1, keepdims=True) * a, [(3, 4, 5)]),
    "max": (lambda a: a.max(axis=(0, 2), keepdims=True) * a, [(3, 4, 5)]),
    "min": (lambda a: a.min(axis=-1), [(3, 4, 5)]),
    "transpose": (lambda a: a.transpose(2, 0, 1) * np.ones(4), [(3, 4, 2)]),
    "slices": (lambda a: a[1:, ::-2, None, ..., -1] * a[0, 1, 2], [(3, 4, 5)]),
    "concatenate": (lambda a, b: ops.concatenate([a, b, a], axis=1) ** 2.0, [(3, 2), (3, 4)]),
    "stack": (lambda a, b: ops.stack([a, b], axis=-1).max(-1), [(3, 2), (3, 2)]),
    "broadcast_to": (lambda a: ops.broadcast_to(a, (4, 3, 5)) ** 2.0, [(3, 1)]),
    "dropout": (lambda a: ops.dropout(a, 0.4, seed=3), [(129,)]),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_agree_with_central_differences(name, rng):
    fn, shapes = SMOOTH[name]
    assert tilegrad.gradcheck(fn, [rng.standard_normal(s) for s in shapes])


class WrongTwice(tilegrad.autograd.Op):
    """y = x^2 with the gradient of x^2 / 2."""

    def forward(self, k, x):
        self.saved = (x,)
        return x * x

    def backward(self, k, dy):
        return (dy * self.saved[0],)


def test_gradcheck_finds_a_wrong_gradient():
    with pytest.raises(AssertionError, match="central differences give"):
        tilegrad.gradcheck(lambda x: tilegrad.autograd.apply(WrongTwice(), x), [np.ones(3)])


def test_gradcheck_finds_a_cut_graph():
    with pytest.raises(AssertionError, match="backward gives 0"):
        tilegrad.gradcheck(lambda x: Tensor(x.data * 2), [np.ones(3)])


@given(
    a=st.lists(st.integers(1, 3), max_size=4),
    mask=st.lists(st.booleans(), min_size=4, max_size=4),
    drop=st.integers(0, 4),
)
def test_broadcasting_gradients_have_their_operands_shapes(a, mask, drop):
    b = [1 if ones else n for n, ones in zip(a, mask, strict=False)][min(drop, len(a)) :]
    rng = np.random.default_rng(len(a))
    x, y = leaf(normal(rng, *a)), leaf(normal(rng, *b))
    (x * y).sum().backward()
    right = np.broadcast_to(y.numpy(), a)
    assert x.grad.shape == tuple(a) and y.grad.shape == tuple(b)
    np.testing.assert_array_equal(x.grad.numpy(), right)
    lead = len(a) - len(b)
    axes = tuple(i for i in range(len(a)) if i < lead or b[i - lead] == 1)
    total = np.broadcast_to(x.numpy(), a).sum(axes, keepdims=True, dtype=np.float64).reshape(b)
    np.testing.assert_allclose(y.grad.numpy(), total, atol=1e-5)  # up to 81 terms of size 1
