"""Convolution and max pooling in one kernel, against the float64 reference and against two."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import assert_close, check, magnitudes, normal, output_length, run
from hypothesis import assume, given

import tilegrad
from tilegrad import Tensor, keras, ops
from tilegrad.backend import ACTIVATIONS
from tilegrad.gradcheck import gradcheck

CASES = {
    "one window": {"n": 1, "h": 2, "w": 2, "c": 1, "f": 1, "kh": 1, "kw": 1},
    "first layer": {"n": 3, "h": 28, "w": 28, "c": 1, "f": 32},
    "colour, same": {"n": 2, "h": 15, "w": 17, "c": 3, "f": 33, "pad": 1},
    "a line and a column left over": {"h": 9, "w": 11, "c": 2, "f": 17},
    "window 3": {"h": 12, "w": 13, "window": (3, 3), "pool_pad": (1, 2)},
    "flat window": {"h": 9, "w": 12, "window": (1, 4)},
    "tall window": {"h": 19, "w": 5, "window": (15, 1)},
    "no window fits": {"h": 4, "w": 4, "window": (3, 3), "f": 5},
    "wide": {"n": 2, "h": 9, "w": 8, "c": 40, "f": 64, "pad": 1},
    "1x1": {"kh": 1, "kw": 1, "c": 129, "f": 31},
    "deep": {"n": 1, "h": 7, "w": 7, "c": 127, "f": 7, "pad": 1},
    "strided, dilated": {"h": 21, "w": 19, "stride": (2, 1), "dilation": (1, 3), "pad": 2},
    "window in the padding": {"h": 3, "w": 3, "kh": 3, "kw": 3, "pad": 4},
    "five by five, colour": {"h": 14, "w": 14, "kh": 5, "kw": 5, "f": 17, "pad": 2},
    "one row of windows of many": {"n": 1, "h": 4, "w": 300, "f": 3},
    "many filters": {"n": 1, "h": 6, "w": 6, "c": 1, "f": 70},
    "no bias": {"bias": False},
    "linear": {"name": "linear"},
    "lines in pieces": {"n": 1, "h": 6, "w": 1600, "f": 18, "pad": 1},
    "lines with gaps": {"h": 15, "c": 1, "f": 35, "stride": (2, 3), "pad": 2, "dilation": (2, 1)},
    "steps beyond the window": {"n": 1, "h": 24, "w": 23, "stride": (5, 4), "pad": 1, "f": 16},
    "mostly padding": {"n": 1, "h": 2, "w": 3, "c": 1, "f": 33, "pad": 2},
}


def sizes_of(h, w, kh, kw, stride, pad, dilation, window, pool_pad):
    """(conv_h, conv_w, ..., pool_pad_left) and the size of the pooled image."""
    conv = [
        output_length(*axis, pad, pad, d)
        for *axis, d in zip((h, w), (kh, kw), stride, dilation, strict=True)
    ]
    pooled = [
        max(output_length(s, k, k, p, 0), 0) for s, k, p in zip(conv, window, pool_pad, strict=True)
    ]
    return (*conv, *stride, pad, pad, *dilation, *window, *pool_pad), pooled


def check_conv_pool(
    k,
    rng,
    n=2,
    h=8,
    w=10,
    c=3,
    f=5,
    kh=3,
    kw=3,
    stride=(1, 1),
    pad=0,
    dilation=(1, 1),
    window=(2, 2),
    pool_pad=(0, 0),
    bias=True,
    name="relu",
):
    """Forward and both gradients against the reference; and the same bits as the two kernels."""
    sizes, pooled = sizes_of(h, w, kh, kw, stride, pad, dilation, window, pool_pad)
    x, weight = normal(rng, n, h, w, c), normal(rng, kh, kw, c, f)
    b = normal(rng, f) if bias else None
    conv_shape, shape = (n, *sizes[:2], f), (n, *pooled, f)
    kind = ACTIVATIONS[name]
    y, index = run(
        k, "conv2d_max_pool2d_forward", [shape, (shape, np.uint8)], x, weight, b, *sizes, kind
    )
    line = (*sizes[2:8], 1)
    (z,) = run(k, "conv2d_forward", [conv_shape], x, weight, b, *line, kind, 0.0)
    pool = (*window, *window, *pool_pad)
    alone, place = run(k, "max_pool2d_forward", [shape, (shape, np.uint8)], z, *pool)
    np.testing.assert_array_equal(y, alone)
    if name == "relu":
        place[~(alone > 0)] = 255
    np.testing.assert_array_equal(index, place)

    dy = normal(rng, *shape)
    outputs = [weight.shape, (f,)]
    arguments = (x, dy, index, *sizes)
    terms = magnitudes("conv2d_max_pool2d_backward_dw", outputs, *arguments)
    length = n * pooled[0] * pooled[1]
    check(
        k,
        "conv2d_max_pool2d_backward_dw",
        outputs,
        *arguments,
        length=length,
        magnitude=terms,
    )


@pytest.mark.parametrize("case", CASES)
def test_cases(backend, case, rng):
    check_conv_pool(backend, rng, **CASES[case])


def test_places_outside_the_image_have_no_gradient(backend, rng):
    """An index from elsewhere may name them; windows of 2 x 3 begin in a column of padding."""
    sizes = (8, 8, 1, 1, 1, 1, 1, 1, 2, 3, 0, 1)
    x, dy = normal(rng, 2, 8, 8, 1), normal(rng, 2, 4, 3, 17)
    index = rng.integers(0, 6, dy.shape).astype(np.uint8)
    outputs = [(3, 3, 1, 17), (17,)]
    terms = magnitudes("conv2d_max_pool2d_backward_dw", outputs, x, dy, index, *sizes)
    name = "conv2d_max_pool2d_backward_dw"
    check(backend, name, outputs, x, dy, index, *sizes, length=24, magnitude=terms)


def test_windows_too_wide_for_the_scratch(rng):
    """Backward then takes the two kernels."""
    x, w = normal(rng, 1, 4, 4, 1824), normal(rng, 3, 3, 1824, 2)
    grads = []
    for fused in (True, False):
        weight = Tensor(w, requires_grad=True)
        if fused:
            y = ops.conv2d_max_pool2d(x, weight, activation="relu")
        else:
            y = ops.max_pool2d(ops.conv2d(x, weight, activation="relu"), 2)
        y.sum().backward()
        grads.append(weight.grad.numpy())
    assert_close(grads[0], grads[1].astype(np.float64), magnitude=np.abs(x).max(), what="dw")


@given(
    n=st.integers(1, 3),
    image=st.tuples(st.integers(1, 21), st.integers(1, 21)),
    c=st.sampled_from([1, 2, 3, 4, 7, 17]),
    f=st.sampled_from([1, 5, 16, 31, 48, 70]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pad=st.integers(0, 2),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    name=st.sampled_from(["linear", "relu"]),
    seed=st.integers(0, 2**32),
)
def test_any_shape(backend, n, image, c, f, kernel, stride, pad, window, name, seed):
    assume(all(s + 2 * pad >= k for s, k in zip(image, kernel, strict=True)))
    rng = np.random.default_rng(seed)
    pool_pad = tuple(int(rng.integers(k)) for k in window)
    check_conv_pool(
        backend, rng, n, *image, c, f, *kernel, stride, pad, (1, 1), window, pool_pad, True, name
    )


def test_no_images(backend):
    x, weight, b = np.ones((0, 5, 5, 2), "f4"), np.ones((3, 3, 2, 4), "f4"), np.ones(4, "f4")
    sizes = (3, 3, 1, 1, 0, 0, 1, 1, 2, 2, 0, 0)
    shape = (0, 1, 1, 4)
    run(backend, "conv2d_max_pool2d_forward", [shape, (shape, np.uint8)], x, weight, b, *sizes, 1)
    dy, index = np.ones(shape, "f4"), np.ones(shape, np.uint8)
    outputs = [weight.shape, (4,)]
    dw, db = run(backend, "conv2d_max_pool2d_backward_dw", outputs, x, dy, index, *sizes)
    assert not dw.any() and not db.any()


def test_nan_wins_and_closes_its_window(backend, rng):
    """As in relu and max_pool2d: NaN comes out, and no gradient goes back."""
    x, weight = normal(rng, 1, 6, 6, 1), normal(rng, 3, 3, 1, 17)
    x[0, 0, 0, 0] = np.nan
    shape, sizes = (1, 2, 2, 17), (4, 4, 1, 1, 0, 0, 1, 1, 2, 2, 0, 0)
    y, index = run(
        backend,
        "conv2d_max_pool2d_forward",
        [shape, (shape, np.uint8)],
        x,
        weight,
        None,
        *sizes,
        ACTIVATIONS["relu"],
    )
    assert np.isnan(y[0, 0, 0]).all() and not np.isnan(y[0, 1:]).any()
    assert (index[0, 0, 0] == 255).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": (16, 16), "y": (2, 1, 1, 32)}, "at most 255 pixels"),
        ({"conv": (26, 28)}, "all windows"),
        ({"y": (2, 12, 13, 32)}, "all windows"),
        ({"index": np.int32}, "dtype"),
        ({"f": 4096}, "fit into a thread"),
    ],
)
def test_the_binding_refuses(compiled, change, message):
    kh, kw = change.get("window", (2, 2))
    h, w = change.get("conv", (26, 26))
    f = change.get("f", 32)
    x, weight = np.zeros((2, 28, 28, 1), "f4"), np.zeros((3, 3, 1, f), "f4")
    y = np.zeros(change.get("y", (2, 13, 13, f)), "f4")
    index = np.zeros(y.shape, change.get("index", np.uint8))
    with pytest.raises((ValueError, TypeError), match=message):
        compiled.conv2d_max_pool2d_forward(
            y, index, x, weight, None, h, w, 1, 1, 0, 0, 1, 1, kh, kw, 0, 0, 1
        )


# ---- the op and the models ----


@pytest.fixture
def kernels_called(on_backend):
    """The names of the kernels that ran, in order."""
    called = []

    def wrap(_, name, kernel):
        def run_kernel(*arguments):
            called.append(name)
            return kernel(*arguments)

        return run_kernel

    tilegrad.backend.set_wrapper(wrap)
    yield called
    tilegrad.backend.set_wrapper(None)


def two_ops(x, w, b, activation, pool_size, pool_padding):
    y = ops.conv2d(x, w, b, padding="same", activation=activation)
    return ops.max_pool2d(y, pool_size, None, pool_padding)


@pytest.mark.usefixtures("on_backend")
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("x_needs_gradient", [False, True])
@pytest.mark.parametrize("pool_padding", ["valid", "same"])
def test_the_op_does_what_two_do(rng, activation, x_needs_gradient, pool_padding):
    results = []
    arrays = normal(rng, 2, 9, 7, 3), normal(rng, 3, 3, 3, 5), normal(rng, 5)
    for fused in (True, False):
        x, w, b = (Tensor(a, requires_grad=True) for a in arrays)
        x.requires_grad = x_needs_gradient
        if fused:
            y = ops.conv2d_max_pool2d(
                x, w, b, 1, "same", 1, activation, pool_size=(2, 3), pool_padding=pool_padding
            )
        else:
            y = two_ops(x, w, b, activation, (2, 3), pool_padding)
        (y * y).sum().backward()
        results.append([y.numpy(), *(t.grad for t in (x, w, b))])
    np.testing.assert_array_equal(results[0][0], results[1][0])
    for ours, right in zip(results[0][1:], results[1][1:], strict=True):
        if right is None:
            assert ours is None
        else:
            right = right.numpy().astype(np.float64)
            assert_close(ours.numpy(), right, 70, np.abs(right).max())


@pytest.mark.usefixtures("on_backend")
@pytest.mark.parametrize("x_needs_gradient", [False, True])
def test_gradients_by_differences(rng, x_needs_gradient):
    x, w, b = normal(rng, 2, 7, 6, 2), normal(rng, 3, 2, 2, 4), normal(rng, 4)
    if x_needs_gradient:
        gradcheck(lambda *t: ops.conv2d_max_pool2d(*t, activation="relu"), [x, w, b])
    else:

        def of_weights(w, b):
            image = Tensor(x.astype(w.dtype), device=w.device)
            return ops.conv2d_max_pool2d(image, w, b, activation="relu")

        gradcheck(of_weights, [w, b])


def layers_of(split):
    if split:
        head = [keras.layers.Conv2D(5, 3, padding="same"), keras.layers.ReLU()]
    else:
        head = [keras.layers.Conv2D(5, 3, padding="same", activation="relu")]
    return [*head, keras.layers.MaxPooling2D(2)]


class Subclassed(keras.Model):
    """The same layers, called by hand; `keep` holds on to the image before the pooling."""

    def __init__(self, layers, keep=False):
        super().__init__()
        self.parts = layers
        self.keep = keep
        self.image = None

    def call(self, x):
        for layer in self.parts[:-1]:
            x = layer(x)
        if self.keep:
            self.image = [x]
        return self.parts[-1](x)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("kind", ["sequential", "subclassed"])
def test_models_fuse(kernels_called, rng, kind, split):
    x = normal(rng, 2, 8, 6, 1)
    layers = layers_of(split)
    model = keras.Sequential(layers) if kind == "sequential" else Subclassed(layers)
    model(x)
    kernels_called.clear()
    y = model(x, training=True)
    assert kernels_called == ["conv2d_max_pool2d_forward"]
    kernels_called.clear()
    y.sum().backward()
    assert "conv2d_max_pool2d_backward_dw" in kernels_called
    assert "conv2d_backward_dw" not in kernels_called
    w, b = model.weights
    expected = ops.max_pool2d(ops.conv2d(x, w, b, padding="same", activation="relu"), 2)
    np.testing.assert_array_equal(y.numpy(), expected.numpy())


@pytest.mark.usefixtures("on_backend")
def test_who_holds_the_image_gets_it(rng):
    """It is computed before the call ends: later changes of the weights do not show in it."""
    x = normal(rng, 2, 8, 6, 1)
    model = Subclassed(layers_of(False), keep=True)
    y = model(x, training=True)
    w, b = model.weights
    expected = ops.conv2d(x, w, b, padding="same", activation="relu")
    w.assign(np.zeros(w.shape))
    np.testing.assert_array_equal(model.image[0].numpy(), expected.numpy())
    np.testing.assert_array_equal(y.numpy(), ops.max_pool2d(expected, 2).numpy())


@pytest.mark.usefixtures("on_backend")
def test_both_readers_of_the_image_send_gradients(rng):
    x = normal(rng, 2, 8, 6, 1)

    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = keras.layers.Conv2D(4, 3, activation="relu")
            self.pool = keras.layers.MaxPooling2D(2)

        def call(self, inputs):
            image = self.conv(inputs)
            return ops.sum(self.pool(image)) + ops.sum(image * image)

    model = Two()
    model(x, training=True).backward()
    got = [v.grad.numpy() for v in model.weights]
    w, b = (Tensor(v.data, True, v.device) for v in model.weights)
    image = ops.conv2d(x, w, b, activation="relu")
    (ops.sum(ops.max_pool2d(image, 2)) + ops.sum(image * image)).backward()
    for ours, right in zip(got, (w.grad, b.grad), strict=True):
        right = right.numpy().astype(np.float64)
        assert_close(ours, right, 100, np.abs(right).max())


@pytest.mark.usefixtures("on_backend")
def test_a_weight_changed_before_the_result_is_used_is_an_error(rng):
    class Changes(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = keras.layers.Conv2D(4, 3)

        def call(self, inputs):
            y = self.conv(inputs)
            self.conv.kernel.assign(np.zeros(self.conv.kernel.shape))
            return ops.relu(y)

    with pytest.raises(RuntimeError, match="changed in place"):
        Changes()(normal(rng, 1, 5, 5, 1))


@pytest.mark.usefixtures("on_backend")
def test_no_gradient_where_the_convolution_had_none(rng):
    class Frozen(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = keras.layers.Conv2D(4, 3)
            self.pool = keras.layers.MaxPooling2D(2)

        def call(self, inputs):
            with tilegrad.no_grad():
                y = self.conv(inputs)
            return self.pool(y)

    assert not Frozen()(normal(rng, 1, 6, 6, 1)).requires_grad
