"""Tensor: construction, conversion, sharing memory, bad input."""

import numpy as np
import pytest

import tilegrad
from tilegrad import Tensor, ops
from tilegrad import backend as backends

pytestmark = pytest.mark.usefixtures("on_backend")


def test_floats_become_float32_and_integers_stay():
    assert Tensor([1, 2]).dtype.kind == "i"
    assert Tensor(np.ones(2, np.float16)).dtype == np.float32
    wide = Tensor(np.ones(2, np.float64)).dtype
    assert wide == (np.float64 if backends.default_device() == "reference" else np.float32)
    assert Tensor(np.ones(2, ">f4")).dtype == np.float32
    assert Tensor(np.ones(2, ">i2")).dtype == np.int16
    assert (Tensor([1, 2]) * 0.5).numpy().tolist() == [0.5, 1.0]


def test_dtypes_are_numpys_own_objects():
    """They are compared at each op, which is slow for two that are merely equal."""
    equal = np.dtype(np.float32).newbyteorder("=")
    assert equal is not np.dtype(np.float32)
    x = Tensor(np.ones(2, equal), requires_grad=True)
    y = ops.exp(x)
    y.sum().backward()
    assert x.dtype is y.dtype is x.grad.dtype is np.dtype(np.float32)


@pytest.mark.parametrize("bad", ["text", [object()], [1j], None, {}, np.array(["a"])])
def test_what_is_not_numbers_is_refused(bad):
    with pytest.raises(TypeError, match="expected numbers"):
        Tensor(bad)


def test_ragged_lists_are_refused():
    with pytest.raises(ValueError):
        Tensor([[1.0], [1.0, 2.0]])


def test_integers_have_no_gradient():
    with pytest.raises(TypeError, match="only floating-point tensors have gradients"):
        Tensor([1, 2], requires_grad=True)


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match="expected one of cpu, cuda, sim, reference, got 'tpu'"):
        Tensor([1.0], device="tpu")


@pytest.fixture
def on_host(on_backend):
    """What NumPy shares is the host's memory; tests/test_device.py has the tests of a GPU's."""
    if backends.default_device() == "cuda":
        pytest.skip("the memory is the GPU's")


def test_contiguous_float32_is_shared_and_the_rest_is_copied(on_host):
    array = np.zeros((2, 3), np.float32)
    t = Tensor(array)
    array[0, 0] = 5
    assert t[0, 0].item() == 5
    assert Tensor(array.T).numpy().flags.c_contiguous


def test_numpy_sees_the_same_memory(on_host):
    t = Tensor(np.zeros(3, np.float32))
    np.asarray(t)[1] = 4
    assert t.numpy().tolist() == [0, 4, 0]
    assert np.array(t, copy=True).base is None
    assert np.asarray(t, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        t.__array__(np.float64, copy=False)


def test_dlpack_shares_memory_both_ways(on_host):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    t = tilegrad.from_dlpack(array)
    array[0, 0] = 9
    assert t[0, 0].item() == 9
    if not t.data.flags.writeable:  # NumPy before 2.1, which cannot hand it on
        t = Tensor(array)
    back = np.from_dlpack(t)
    assert np.shares_memory(back, array)
    with pytest.raises(BufferError, match="detach"):
        np.from_dlpack(Tensor([1.0], requires_grad=True))
    assert np.from_dlpack(Tensor([1.0], requires_grad=True).detach()).tolist() == [1.0]


def test_memory_outlives_its_owner(on_host):
    y = ops.exp(np.zeros(1000, np.float32))
    view = y.numpy()[3:]
    other = np.from_dlpack(y)
    del y
    ops.exp(np.full(1000, 3.0, np.float32))  # would reuse the block if it had been given back
    assert view.min() == view.max() == 1 and other.max() == 1


def test_numpy_on_the_left_makes_a_tensor():
    y = np.ones((2, 1), np.float32) * Tensor([1.0, 2.0])
    assert isinstance(y, Tensor) and y.shape == (2, 2)
    assert isinstance(np.float32(2) - Tensor([1.0]), Tensor)


def test_repr_says_everything():
    t = Tensor([[1.0, 2.0]], requires_grad=True)
    expected = (
        f"Tensor([[1., 2.]], shape=(1, 2), dtype=float32, device={t.device}, requires_grad=True)"
    )
    text = repr(t)
    assert text.replace("float64", "float32") == expected


def test_python_numbers():
    t = Tensor([2.5])
    assert (float(t), int(t), bool(t), f"{t:.2f}", t.item()) == (2.5, 2, True, "2.50", 2.5)
    assert len(Tensor(np.zeros((3, 2)))) == 3 and len(list(Tensor(np.zeros((3, 2))))) == 3
    with pytest.raises(ValueError, match="expected one element"):
        Tensor([1.0, 2.0]).item()
    with pytest.raises(TypeError, match="0-d"):
        len(Tensor(1.0))


def test_assign_and_item_assignment():
    t = Tensor(np.zeros((2, 2), np.float32), requires_grad=True)
    t.assign(np.ones((2, 2)))
    t[0] = [5, 6]
    assert t.numpy().tolist() == [[5, 6], [1, 1]]
    with pytest.raises(ValueError, match=r"assign: expected shape \(2, 2\), got \(2,\)"):
        t.assign([1.0, 2.0])
    for wrong in ([[1j, 1], [1, 1]], [[object(), 1], [1, 1]], [["a", "b"], ["c", "d"]]):
        with pytest.raises(TypeError, match="assign: expected float32"):
            Tensor(np.zeros((2, 2), np.float32)).assign(wrong)
    with pytest.raises(RuntimeError, match="computed tensor"):
        (t * 2)[0] = 1.0


def test_read_only_memory_stays_as_it_is(on_host):
    frozen = np.zeros(2, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        Tensor(frozen).assign([1.0, 2.0])


def test_read_only_and_strided_inputs_work():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    array.flags.writeable = False
    assert ops.sum(array.T[::2]).item() == array.T[::2].sum()


def test_detach_and_copy():
    x = Tensor([1.0], requires_grad=True)
    y = x * 2
    assert not y.detach().requires_grad and y.detach().data is y.data
    assert y.copy().data is not y.data and y.copy().item() == 2.0
    assert x.to(x.device) is x


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Tensor(np.ones(2)) + Tensor(np.ones(3)), ValueError, "do not broadcast"),
        (lambda: Tensor(np.ones((2, 3))) @ Tensor(np.ones((2, 3))), ValueError, "matmul: expected"),
        (lambda: Tensor(1.0) @ Tensor(1.0), ValueError, "matmul: expected"),
        (
            lambda: ops.dense(np.ones((2, 3)), np.ones((4, 5))),
            ValueError,
            r"dense: expected x of shape \(\.\.\., 4\)",
        ),
        (
            lambda: ops.dense(np.ones((2, 3)), np.ones((3, 5)), np.ones(4)),
            ValueError,
            r"expected b of shape \(5,\)",
        ),
        (
            lambda: ops.dense(np.ones((2, 3)), np.ones((3, 5)), activation="gelu"),
            ValueError,
            "activation",
        ),
        (
            lambda: ops.conv2d(np.ones((1, 5, 5, 3)), np.ones((3, 3, 4, 2))),
            ValueError,
            r"conv2d: expected w of shape",
        ),
        (
            lambda: ops.conv2d(np.ones((5, 5, 3)), np.ones((3, 3, 3, 2))),
            ValueError,
            r"\(n, h, w, c\)",
        ),
        (
            lambda: ops.conv2d(np.ones((1, 2, 2, 3)), np.ones((3, 3, 3, 2))),
            ValueError,
            "does not fit",
        ),
        (
            lambda: ops.conv2d(np.ones((1, 5, 5, 3)), np.ones((3, 3, 3, 2)), strides=0),
            ValueError,
            "strides",
        ),
        (
            lambda: ops.conv2d(np.ones((1, 5, 5, 3)), np.ones((3, 3, 3, 2)), padding="full"),
            ValueError,
            "padding",
        ),
        (
            lambda: ops.conv2d(np.ones((1, 5, 5, 3)), np.ones((3, 3, 3, 2)), padding=-1),
            ValueError,
            "padding",
        ),
        (
            lambda: ops.conv2d(np.ones((1, 5, 5, 3)), np.ones((3, 3, 3, 2)), strides=1.5),
            TypeError,
            "integer",
        ),
        (
            lambda: ops.conv2d(np.ones((1, 5, 5, 3)), np.ones((3, 3, 3, 2)), groups=2),
            ValueError,
            "groups",
        ),
        (lambda: ops.max_pool2d(np.ones((1, 5, 5, 3)), 6), ValueError, "does not fit"),
        (
            lambda: ops.max_pool2d(np.ones((1, 5, 5, 3)), 2, padding=2),
            ValueError,
            "smaller than the window",
        ),
        (lambda: ops.global_avg_pool2d(np.ones((1, 0, 5, 3))), ValueError, "at least one pixel"),
        (lambda: ops.reshape(np.ones(6), (4, -1)), ValueError, "does not fit"),
        (lambda: ops.reshape(np.ones(0), (-1, 0)), ValueError, "does not fit"),
        (lambda: ops.reshape(np.ones(6), (2**31, 2**31)), ValueError, "does not fit"),
        (lambda: ops.transpose(np.ones((2, 3)), (0, 0)), ValueError, "permutation"),
        (lambda: ops.sum(np.ones((2, 3)), axis=2), ValueError, "axis"),
        (lambda: ops.sum(np.ones((2, 3)), axis=(0, -2)), ValueError, "distinct"),
        (lambda: ops.max(np.ones((2, 0)), axis=1), ValueError, "at least one element"),
        (
            lambda: ops.concatenate([np.ones((2, 3)), np.ones((3, 2))]),
            ValueError,
            "differ only along",
        ),
        (lambda: ops.concatenate([]), ValueError, "at least one"),
        (lambda: ops.broadcast_to(np.ones((2, 3)), (2, 4)), ValueError, "cannot be repeated"),
        (lambda: ops.clip(np.ones(2), 1, 0), ValueError, "low <= high"),
        (lambda: ops.dropout(np.ones(2), 1.0, 0), ValueError, "rate"),
        (lambda: ops.dropout(np.ones(2), 0.5, -1), ValueError, "seed"),
        (lambda: ops.leaky_relu(np.ones(2), -1), ValueError, "alpha"),
        (lambda: ops.leaky_relu(np.ones(2), float("nan")), ValueError, "alpha"),
        (lambda: ops.softmax(np.float32(1)), ValueError, "axis|class"),
        (lambda: ops.softmax(np.ones((2, 0))), ValueError, "at least one class"),
        (lambda: ops.softmax_cross_entropy(np.ones((2, 3)), [0, 3]), ValueError, "got 3 in row 1"),
        (
            lambda: ops.softmax_cross_entropy(np.ones((2, 3)), [-1, 0]),
            ValueError,
            "got -1 in row 0",
        ),
        (
            lambda: ops.softmax_cross_entropy(np.ones((2, 3)), np.array([0, 2**32])),
            ValueError,
            "4294967296",
        ),
        (
            lambda: ops.softmax_cross_entropy(np.ones((2, 3)), np.array([0, 2**63], np.uint64)),
            ValueError,
            "row 1",
        ),
        (
            lambda: ops.softmax_cross_entropy(np.ones((2, 3)), [0, 1, 2]),
            ValueError,
            r"labels of shape \(2,\)",
        ),
        (
            lambda: ops.softmax_cross_entropy(np.ones((2, 3)), [0, 1], [1.0]),
            ValueError,
            "sample_weight",
        ),
        (lambda: Tensor(np.ones((2, 3)))[2], IndexError, "out of range"),
        (lambda: Tensor(np.ones((2, 3)))[0, 0, 0], IndexError, "does not fit"),
        (lambda: Tensor(np.ones((2, 3)))[[0, 1]], TypeError, "expected integers"),
        (lambda: Tensor(np.ones((2, 3)))[True], TypeError, "expected integers"),
        (lambda: Tensor(np.ones((1,) * 9)) + 1, ValueError, "at most 8 axes"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_huge_requests_are_refused_before_memory_is_touched():
    x = Tensor(np.ones((1, 1), np.float32))
    with pytest.raises((MemoryError, ValueError)):
        ops.broadcast_to(x, (2**31 - 1, 2**31 - 1))


def test_empty_batches_pass_through():
    x = Tensor(np.ones((0, 7, 7, 3)), requires_grad=True)
    w = Tensor(np.ones((3, 3, 3, 4)), requires_grad=True)
    y = ops.max_pool2d(ops.conv2d(x, w, activation="relu"), 2)
    z = ops.dense(y.reshape(0, 16), np.ones((16, 5)))
    ops.softmax_cross_entropy(z, np.zeros(0, int)).backward()
    assert x.grad.shape == x.shape and not w.grad.numpy().any()


@pytest.mark.parametrize("pair", [1.0, (1.0, 1), (1, np.float32(1))], ids=str)
def test_what_equals_an_integer_is_none_also_where_the_integer_came_before(pair):
    x, w = np.ones((1, 5, 5, 3), np.float32), np.ones((1, 1, 3, 2), np.float32)
    assert ops.conv2d(x, w, strides=(1, 1)).shape == ops.conv2d(x, w, strides=1).shape
    for call in (
        lambda: ops.conv2d(x, w, strides=pair),
        lambda: ops.conv2d(x, w, dilation=pair),
        lambda: ops.max_pool2d(x, pair),
        lambda: ops.avg_pool2d(x, 2, pair),
    ):
        with pytest.raises(TypeError, match="to be an integer, got"):
            call()


def test_nan_goes_through_and_stays():
    x = Tensor([float("nan"), 1.0])
    assert (
        np.isnan(ops.relu(x).numpy()[0]) and np.isnan(x.max().item()) and np.isnan(x.sum().item())
    )
    assert np.isnan(ops.clip(x, 0, 1).numpy()[0]) and np.isnan(ops.maximum(x, 0).numpy()[0])


def test_threads_are_counted():
    if backends.default_device() == "reference":
        pytest.skip("the reference backend has no threads")
    before = tilegrad.get_num_threads()
    try:
        tilegrad.set_num_threads(3)
        assert tilegrad.get_num_threads() == 3
        for bad in (0, -1, 2000):
            with pytest.raises(ValueError, match="from 1 to 1024"):
                tilegrad.set_num_threads(bad)
    finally:
        tilegrad.set_num_threads(before)
