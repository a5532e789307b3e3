"""Layers against Keras 3: same weights and inputs give the same outputs, shapes and configs."""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_oracle import (
    KERAS_VERSION,
    assert_agree,
    assert_configs,
    keras,
    on_backend,  # noqa: F401
    oracle,
    plain,
    quiet,
)

import tilegrad
from tilegrad import Tensor, gradcheck, ops
from tilegrad.keras import KerasTensor, Variable, activations, config, layers, regularizers, utils
from tilegrad.keras import backend as keras_backend

pytestmark = pytest.mark.usefixtures("on_backend")

ACTIVATIONS = (
    None,
    "linear",
    "relu",
    "leaky_relu",
    "sigmoid",
    "tanh",
    "elu",
    "gelu",
    "silu",
    "softmax",
)
few = settings(max_examples=12)


def array(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@oracle
def oracle_of(kind, shape, settings):
    """A Keras layer's every trait."""
    layer = getattr(keras.layers, kind)(name="it", **dict(settings))
    output_shape = layer.compute_output_shape((None, *shape[1:]))
    layer.build(shape)
    weights = [array(w.shape, i + 1) for i, w in enumerate(layer.weights)]
    layer.set_weights(weights)
    y = np.asarray(layer(array(shape)))
    return SimpleNamespace(layer=layer, output_shape=output_shape, weights=weights, y=y)


def compare(kind, shape, length=1, **settings):
    """Build the layer here and in Keras, give both the same weights, and compare everything."""
    theirs = oracle_of(kind, shape, tuple(sorted(settings.items())))
    ours = getattr(layers, kind)(name="it", **settings)
    assert ours.compute_output_shape((None, *shape[1:])) == theirs.output_shape
    ours.build(shape)
    assert [w.shape for w in ours.weights] == [tuple(w.shape) for w in theirs.layer.weights]
    assert [w.name for w in ours.weights] == [w.name for w in theirs.layer.weights]
    assert [w.path for w in ours.weights] == [w.path for w in theirs.layer.weights]
    ours.set_weights(theirs.weights)
    y = ours(array(shape))
    assert_agree(
        y.data, theirs.y, length, magnitude=max(1.0, float(np.abs(theirs.y).max(initial=0)))
    )
    assert y.shape == ours.compute_output_shape(shape)
    assert ours.count_params() == theirs.layer.count_params()
    assert_configs(ours.get_config(), theirs.layer.get_config())
    assert type(ours).from_config(ours.get_config()).get_config() == ours.get_config()
    quiet(type(theirs.layer).from_config, plain(ours.get_config()))
    return ours


@given(
    lead=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    c=st.integers(1, 33),
    units=st.integers(1, 17),
    activation=st.sampled_from(ACTIVATIONS),
    use_bias=st.booleans(),
)
def test_dense(lead, c, units, activation, use_bias):
    layer = compare("Dense", (*lead, c), c, units=units, activation=activation, use_bias=use_bias)
    assert layer.flops((None, *lead[1:], c)) == 2 * int(np.prod(lead[1:])) * c * units


@st.composite
def windows(draw):
    """kernel_size, strides, dilation_rate and padding that fit each other."""
    kernel = draw(st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))))
    strides, dilation = draw(
        st.sampled_from([((1, 1), 1), ((2, 2), 1), (3, 1), ((1, 1), 2), (1, (2, 1))])
    )
    return {
        "kernel_size": kernel,
        "strides": strides,
        "dilation_rate": dilation,
        "padding": draw(st.sampled_from(["valid", "same", "VALID"])),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "use_bias": draw(st.booleans()),
    }


@few
@given(
    window=windows(),
    n=st.integers(1, 2),
    h=st.integers(5, 9),
    w=st.integers(5, 9),
    groups=st.integers(1, 3),
)
def test_conv2d(window, n, h, w, groups):
    compare("Conv2D", (n, h, w, 2 * groups), 9 * 2, filters=3 * groups, groups=groups, **window)


@few
@given(window=windows(), h=st.integers(5, 9), c=st.integers(1, 3), multiplier=st.integers(1, 2))
def test_depthwise_conv2d(window, h, c, multiplier):
    compare("DepthwiseConv2D", (2, h, 6, c), 9, depth_multiplier=multiplier, **window)


@few
@given(
    kind=st.sampled_from(["MaxPooling2D", "AveragePooling2D"]),
    pool=st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))),
    strides=st.one_of(
        st.none(), st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))
    ),
    padding=st.sampled_from(["valid", "same"]),
    h=st.integers(3, 8),
    c=st.integers(1, 3),
)
def test_pooling(kind, pool, strides, padding, h, c):
    compare(kind, (2, h, 5, c), 9, pool_size=pool, strides=strides, padding=padding)


@pytest.mark.parametrize("keepdims", [False, True])
def test_global_average_pooling(keepdims):
    compare("GlobalAveragePooling2D", (3, 5, 7, 2), 35, keepdims=keepdims)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("data_format", [None, "channels_last", "channels_first"])
def test_flatten(shape, data_format):
    compare("Flatten", shape, data_format=data_format)


def test_flatten_of_unknown_size():
    assert layers.Flatten().compute_output_shape((None, None, 3)) == (None, None)
    assert layers.Flatten()(array((4,))).shape == (4, 1)


@pytest.mark.parametrize("target", [(6, 2), (-1, 3), (2, -1, 2), (12,)])
def test_reshape(target):
    compare("Reshape", (5, 4, 3), target_shape=target)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Activation", {"activation": "relu"}),
        ("Activation", {"activation": "softmax"}),
        ("ReLU", {}),
        ("ReLU", {"max_value": 1.0}),
        ("ReLU", {"negative_slope": 0.1}),
        ("ReLU", {"threshold": 0.5}),
        ("ReLU", {"max_value": 1.5, "negative_slope": 0.3, "threshold": 0.25}),
        ("LeakyReLU", {}),
        ("LeakyReLU", {"negative_slope": 0.01}),
        ("Softmax", {}),
        ("Softmax", {"axis": 1}),
        ("Dropout", {"rate": 0.5, "seed": 3}),
        ("Dropout", {"rate": 0.0}),
        ("Identity", {}),
    ],
)
def test_elementwise_layers(kind, settings):
    compare(kind, (3, 4, 5), 4, **settings)


def test_softmax_over_several_axes():
    x = array((2, 3, 4))
    y = layers.Softmax(axis=[1, 2])(x).data
    assert_agree(y, np.exp(x) / np.exp(x).sum((1, 2), keepdims=True), 12)
    assert gradcheck(layers.Softmax(axis=(0, 1)), [x])


def test_softmax_mask():
    x, mask = array((2, 5)), np.array([[1, 1, 0, 1, 0]] * 2, bool)
    assert_agree(layers.Softmax()(x, mask=mask).data, quiet(keras.layers.Softmax(), x, mask=mask))


@pytest.mark.parametrize(
    "activation", [a for a in ACTIVATIONS if a in ("relu", "elu", "tanh", "leaky_relu")]
)
@pytest.mark.parametrize("kind", ["Dense", "Conv2D"])
def test_a_fused_activation_has_the_gradients_of_one_applied_after(kind, activation):
    arguments = {"units": 4} if kind == "Dense" else {"filters": 4, "kernel_size": 3}
    shape = (3, 7) if kind == "Dense" else (2, 6, 6, 2)
    fused = getattr(layers, kind)(activation=activation, **arguments)
    plain = getattr(layers, kind)(**arguments)
    x, x2 = Tensor(array(shape), requires_grad=True), Tensor(array(shape), requires_grad=True)
    y = fused(x)
    plain.build(shape)
    plain.set_weights(fused.get_weights())
    y2 = activations.get(activation)(plain(x2))
    seed = array(y.shape, 5)
    y.backward(seed)
    y2.backward(seed)
    assert_agree(y.data, y2.data, 18)
    pairs = zip([x, *fused.weights], [x2, *plain.weights], strict=True)
    for a, b in pairs:
        assert_agree(a.grad.data, b.grad.data, 72)


def test_depthwise_gradient_reaches_the_kernel():
    layer = layers.DepthwiseConv2D(3, depth_multiplier=2)
    x = Tensor(array((1, 5, 5, 2)), requires_grad=True)
    layer(x).sum().backward()
    windows = np.stack(
        [x.numpy()[0, i : i + 3, j : j + 3].sum((0, 1)) for i in range(3) for j in range(3)]
    )
    assert layer.kernel.grad.shape == (3, 3, 2, 2)
    assert_agree(layer.kernel.grad.numpy().sum((0, 1, 3)) / 2, windows.sum(0), 81, magnitude=10.0)


# -- dropout ---------------------------------------------------------------------------------------


def test_dropout_scales_and_drops():
    x = Tensor(np.ones((200, 100), np.float32), requires_grad=True)
    layer = layers.Dropout(0.25, seed=7)
    y = layer(x, training=True)
    kept = y.numpy() != 0
    assert set(np.unique(y.numpy())) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / kept.size)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())
    assert not layers.Dropout(1.0)(x, training=True).numpy().any()


def test_dropout_masks_differ_by_call_and_repeat_by_seed():
    def masks(seed):
        layer = layers.Dropout(0.5, seed=seed)
        return [layer(np.ones(500), training=True).numpy() for _ in range(2)]

    first, second = masks(3)
    assert (first != second).any()
    for a, b in zip(masks(3), (first, second), strict=True):
        np.testing.assert_array_equal(a, b)
    utils.set_random_seed(11)
    a = masks(None)
    utils.set_random_seed(11)
    np.testing.assert_array_equal(a, masks(None))
    assert (np.array(a) != np.array(masks(None))).any()


def test_dropout_masks_do_not_depend_on_the_backend():
    y = layers.Dropout(0.5, seed=1)(np.ones(16), training=True).numpy()
    with tilegrad.backend.use("reference"):
        np.testing.assert_array_equal(
            y, layers.Dropout(0.5, seed=1)(np.ones(16), training=True).numpy()
        )


def test_dropout_noise_shape():
    y = layers.Dropout(0.5, noise_shape=(None, 1, 4), seed=1)(
        np.ones((8, 5, 4)), training=True
    ).data
    assert (y == y[:, :1]).all()
    assert 0 < (y == 0).sum() < y.size
    with pytest.raises(ValueError, match="3 axes"):
        layers.Dropout(0.5, noise_shape=(None, 1, 4))(np.ones((8, 5)), training=True)


@pytest.mark.parametrize("bad", [{"rate": 1.5}, {"rate": "a"}, {"rate": 0.5, "noise_shape": (0,)}])
def test_dropout_bad_arguments(bad):
    with pytest.raises(ValueError, match="Dropout: expected"):
        layers.Dropout(**bad)


# -- activations -----------------------------------------------------------------------------------

NAMES = sorted(set(activations._registry.names()) - {"threshold", "glu"})


@pytest.mark.parametrize("name", NAMES)
def test_activation_values(name):
    x = np.concatenate([array((4, 30)) * 3, np.tile([-3.0, -1.0, 0.0, 0.5, 1.0, 3.0], (4, 1))], 1)
    if not hasattr(keras.activations, name):
        pytest.skip(f"this Keras has no {name}")
    x = x.astype(np.float32)
    assert_agree(activations.get(name)(x).data, quiet(getattr(keras.activations, name), x), 4)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("threshold", {"threshold": 0.5, "default_value": -2.0}),
        ("glu", {"axis": 1}),
        ("celu", {"alpha": 0.5}),
        ("gelu", {"approximate": True}),
        ("hard_shrink", {"threshold": 1.0}),
        ("soft_shrink", {"threshold": 1.0}),
        ("squareplus", {"b": 1}),
        ("relu", {"negative_slope": 0.1, "max_value": 1.0, "threshold": 0.5}),
    ],
)
def test_activation_arguments(name, settings):
    x = array((3, 4, 5))
    assert_agree(
        getattr(activations, name)(x, **settings).data,
        quiet(getattr(keras.activations, name), x, **settings),
    )


@pytest.mark.parametrize("name", [*NAMES, "glu"])
def test_activation_gradients(name):
    x = array((3, 4), 3) * 2
    x += 0.1 * np.sign(x)  # away from the kinks at 0
    assert gradcheck(activations.get(name), [x])


def test_activation_identifiers():
    assert activations.get(None) is activations.linear
    assert activations.get("swish") is activations.silu
    assert activations.serialize(activations.hard_swish) == "hard_silu"
    relu = layers.ReLU(max_value=2.0, name="r")
    layer = layers.Dense(3, activation=relu)
    oracle = quiet(
        keras.layers.Dense, 3, activation=quiet(keras.layers.ReLU, max_value=2.0, name="r")
    )
    assert_configs(layer.get_config(), oracle.get_config(), ignore=("name",))
    again = layers.Dense.from_config(layer.get_config())
    assert again.activation.max_value == 2.0
    assert layer(array((2, 4))).data.max() <= 2
    with pytest.raises(ValueError, match=r"unknown activation 'rellu'.*relu, relu6"):
        activations.get("rellu")
    with pytest.raises(ValueError, match="expected a name, a config or a callable"):
        activations.get(3)
    custom = layers.Dense(2, activation=lambda x: x * 2.0, kernel_initializer="ones")
    assert custom([[1.0]]).numpy().tolist() == [[2.0, 2.0]]
    with pytest.raises(ValueError, match="activation: expected one of"):
        custom.get_config()


def test_an_activation_with_weights_trains():
    class Scaled(layers.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight((1,), "ones", name="factor")

        def call(self, x):
            return x * self.factor

    layer = layers.Dense(2, activation=Scaled(name="scaled"), name="d")
    layer(array((3, 4))).sum().backward()
    assert [w.path for w in layer.trainable_weights] == ["d/kernel", "d/bias", "d/scaled/factor"]
    assert all(w.grad is not None for w in layer.trainable_weights)


def test_softmax_output_keeps_its_logits():
    y = layers.Dense(3, activation="softmax")(array((2, 4)))
    e = np.exp(y.logits.numpy())
    np.testing.assert_allclose(e / e.sum(1, keepdims=True), y.numpy(), 1e-5)


# -- Layer -----------------------------------------------------------------------------------------


class Block(layers.Layer):
    """Layers in every kind of container."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.many = [layers.Dense(3), layers.Dropout(0.5, seed=0)]
        self.named = {"b": layers.Dense(2), "nested": (layers.Dense(2),)}
        self.last = layers.Dense(1)

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(1,), initializer="ones")
        self.count = self.add_weight(name="count", shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        for layer in self.many:
            x = layer(x)
        x = self.named["nested"][0](self.named["b"](x))
        self.trained = training
        return self.last(x) * self.scale


def test_layers_in_containers_are_tracked_in_order():
    block = Block(name="block")
    y = block(array((4, 5)))
    assert y.shape == (4, 1)
    paths = [w.path for w in block.weights]
    dense = [layer.name for layer in block._flatten_layers() if isinstance(layer, layers.Dense)]
    assert paths[:2] == ["block/scale", "block/count"]
    assert paths[2:] == [f"block/{name}/{part}" for name in dense for part in ("kernel", "bias")]
    assert dense == [
        block.many[0].name,
        block.named["b"].name,
        block.named["nested"][0].name,
        block.last.name,
    ]
    assert len(block.trainable_weights) == 9
    assert [w.name for w in block.non_trainable_weights] == ["count"]
    assert block.variables == block.weights
    assert block.count_params() == sum(w.size for w in block.weights)
    block.many.append(layers.Dense(7))
    block.many[-1].build((None, 1))
    assert len(block.weights) == 12


def test_training_reaches_the_layers_inside():
    block = Block()
    x = np.ones((50, 5), np.float32)
    a, b = block(x).numpy(), block(x).numpy()
    np.testing.assert_array_equal(a, b)
    assert block.trained is False
    assert (block(x, training=True).numpy() != a).any()
    assert block.trained is True
    assert (block(x, True).numpy() != a).any()
    np.testing.assert_array_equal(block(x, training=False).numpy(), a)


def test_trainable():
    block = Block()
    block(array((4, 5)))
    block.trainable = False
    assert block.trainable_weights == []
    assert len(block.non_trainable_weights) == 10
    assert not block(array((4, 5))).requires_grad
    block.trainable = True
    assert len(block.trainable_weights) == 9
    assert not block.count.trainable
    block.last.trainable = False
    assert len(block.trainable_weights) == 7
    frozen = layers.Dense(2, trainable=False)
    frozen.build((None, 3))
    assert frozen.trainable_weights == [] and not frozen.kernel.requires_grad
    frozen.trainable = True
    assert len(frozen.trainable_weights) == 2


def test_get_and_set_weights():
    layer = layers.Dense(3)
    layer.build((None, 2))
    weights = layer.get_weights()
    weights[0][...] = 7
    assert not (layer.kernel.data == 7).any()
    layer.set_weights(weights)
    assert (layer.kernel.data == 7).all()
    with pytest.raises(ValueError, match=r"kernel as numbers of shape \(2, 3\), got .* \(3, 2\)"):
        layer.set_weights([weights[0].T, weights[1]])
    with pytest.raises(ValueError, match=r"expected 2 arrays .*, got 1"):
        layer.set_weights(weights[:1])
    with pytest.raises(ValueError, match="expected a list of 2 arrays, got NoneType"):
        layer.set_weights(None)
    with pytest.raises(ValueError, match=r"kernel as numbers of shape \(2, 3\), got object"):
        layer.set_weights([np.full((2, 3), None), np.zeros(3)])


def test_names_count_like_keras():
    keras_backend.clear_session()
    quiet(keras.backend.clear_session)
    kinds = [
        "Dense",
        "Dense",
        "Conv2D",
        "ReLU",
        "LeakyReLU",
        "MaxPooling2D",
        "Dense",
        "GlobalAveragePooling2D",
    ]
    arguments = {"Dense": (1,), "Conv2D": (1, 1)}
    ours = [getattr(layers, k)(*arguments.get(k, ())).name for k in kinds]
    assert ours == [getattr(keras.layers, k)(*arguments.get(k, ())).name for k in kinds]
    assert layers.Dense(1, name="mine").name == "mine"
    for alias, name in (("MaxPool2D", "MaxPooling2D"), ("AvgPool2D", "AveragePooling2D")):
        assert getattr(layers, alias) is getattr(layers, name)


def test_unknown_arguments():
    with pytest.raises(ValueError, match=r"Dense: unknown argument unit$"):
        layers.Dense(3, unit=3)
    with pytest.raises(ValueError, match="Conv2D: unknown arguments a, b"):
        layers.Conv2D(3, 3, a=1, b=2)


def test_input_shape_argument_warns():
    with pytest.warns(UserWarning, match="Input") as caught:
        layer = layers.Conv2D(4, 3, input_shape=(8, 8, 1))
    assert caught[0].filename == __file__
    assert layer._input_shape_arg == (8, 8, 1)
    with pytest.warns(UserWarning):
        assert layers.Dense(4, batch_input_shape=(None, 3))._input_shape_arg == (3,)
    with pytest.warns(UserWarning):
        assert layers.Dense(4, input_dim=3)._input_shape_arg == (3,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Dense(0), "Dense: expected units to be a positive integer, got 0"),
        (lambda: layers.Dense(2.5), "positive integer, got 2.5"),
        (
            lambda: layers.Conv2D(4, (3, 3, 3)),
            r"kernel_size to be one or two integers >= 1, got \(3, 3, 3\)",
        ),
        (lambda: layers.Conv2D(4, 0), "kernel_size"),
        (lambda: layers.Conv2D(4, 3, strides=0), "strides"),
        (
            lambda: layers.Conv2D(4, 3, strides=2, dilation_rate=2),
            "strides or dilation_rate to be 1",
        ),
        (lambda: layers.Conv2D(4, 3, padding="causal"), "padding 'valid' or 'same', got 'causal'"),
        (lambda: layers.Conv2D(4, 3, groups=3), "groups to divide filters=4, got groups=3"),
        (
            lambda: layers.Conv2D(4, 3, data_format="channels_first"),
            r"channels_last.*\(n, h, w, c\)",
        ),
        (lambda: layers.MaxPooling2D(data_format="nchw"), "channels_last"),
        (lambda: layers.Dense(4, kernel_constraint="max_norm"), "constraints are not supported"),
        (lambda: layers.Dense(4, dtype="float16"), "dtype 'float32' .*, got 'float16'"),
        (lambda: layers.Dense(4, kernel_initializer="glorot"), "unknown initializer 'glorot'"),
        (lambda: layers.Dense(4, kernel_regularizer="l3"), "unknown regularizer 'l3'"),
        (lambda: layers.Dense(4, name="a/b"), "without '/'"),
        (lambda: layers.Flatten(data_format="x"), "Flatten"),
        (lambda: layers.Reshape((-1, -1)), "at most one -1"),
        (lambda: layers.Reshape(3), "tuple of integers"),
        (lambda: layers.ReLU(negative_slope=-1), "negative_slope >= 0"),
        (lambda: layers.InputLayer(), "either shape or batch_shape"),
        (lambda: layers.InputLayer((2, "a")), "None or integers"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (
            lambda: layers.Dense(2),
            (3,),
            r"Dense '\w+': expected an input with at least 2 axes, got shape \(3,\)",
        ),
        (lambda: layers.Conv2D(2, 3), (3, 8, 8), r"4 axes, got shape \(3, 8, 8\)"),
        (
            lambda: layers.Conv2D(2, 3),
            (1, 2, 8, 1),
            "a window that spans 3 does not fit an image of size 2",
        ),
        (
            lambda: layers.Conv2D(2, 3, groups=2),
            (1, 8, 8, 3),
            "groups=2 to divide the channels, got 3",
        ),
        (lambda: layers.Conv2D(2, 3), (1, 8, 8, 0), "number of channels >= 1"),
        (lambda: layers.MaxPooling2D(), (3, 8), "4 axes"),
        (lambda: layers.Reshape((5,)), (2, 4), r"size of \(5,\), got shape \(2, 4\)"),
    ],
)
def test_bad_inputs(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer()(array(shape))


@pytest.mark.parametrize("units", [2**31, 2**70])
def test_weights_too_large_to_be_meant(units):
    with pytest.raises(ValueError, match=r"'kernel' to have less than 2\*\*31 elements, got shape"):
        layers.Dense(units)(np.zeros((1, 4)))


def test_input_of_another_size_than_built_for():
    layer = layers.Dense(2)
    layer(array((3, 4)))
    with pytest.raises(ValueError, match=r"size 4 in axis -1, got shape \(3, 5\)"):
        layer(array((3, 5)))
    with pytest.raises(ValueError, match="expected one input, got 2"):
        layer([array((3, 4)), array((3, 4))])


def test_inputs_of_any_kind():
    layer = layers.Dense(1, kernel_initializer="ones")
    for x in ([[1, 2]], np.array([[1, 2]], np.uint8), np.array([[1.0, 2.0]]), Tensor([[1.0, 2.0]])):
        y = layer(x)
        assert y.dtype == np.float32 and y.item() == 3
    assert layer(np.zeros((0, 2))).shape == (0, 1)
    assert layer(array((4, 4))[::2, ::2]).shape == (2, 1)


def test_input_spec():
    class Picky(layers.Layer):
        def __init__(self, **spec):
            super().__init__()
            self.input_spec = layers.InputSpec(**spec)

        def call(self, x):
            return x

    Picky(shape=(None, 3))(array((2, 3)))
    Picky(ndim=2, allow_last_axis_squeeze=True)(array((2, 3, 1)))
    Picky(ndim=2, allow_last_axis_squeeze=True)(array((2,)))
    for spec in (
        {"shape": (None, 4)},
        {"ndim": 3},
        {"max_ndim": 1},
        {"min_ndim": 3},
        {"axes": {1: 2}},
    ):
        with pytest.raises(ValueError, match="expected an input with"):
            Picky(**spec)(array((2, 3)))
    assert repr(layers.InputSpec(ndim=2, axes={-1: 3})) == "InputSpec(ndim=2, axes={-1: 3})"


def test_forgotten_super_init():
    class Bad(layers.Layer):
        def __init__(self):
            self.x = 1

        def call(self, x):
            return x

    with pytest.raises(RuntimeError, match="super"):
        Bad()([1.0])


def test_layer_without_build_or_config():
    class Twice(layers.Layer):
        def __init__(self, factor=2.0, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, x):
            return x * self.factor

    layer = Twice(3.0, name="t")
    assert layer([1.0]).numpy().tolist() == [3.0]
    assert layer.compute_output_shape((None, 4)) == (None, 4)
    again = Twice.from_config(layer.get_config())
    assert again.factor == 3.0 and again.name == "t"
    with pytest.raises(NotImplementedError, match="get_config"):
        Twice(np.ones(3)).get_config()
    restored = layers.deserialize(layers.serialize(layer), {"Twice": Twice})
    assert restored.factor == 3.0
    with pytest.raises(ValueError, match="unknown layer 'Twice'"):
        layers.deserialize(layers.serialize(layer))


def test_symbolic_calls():
    x = layers.Input((8, 8, 3), batch_size=4)
    assert x.shape == (4, 8, 8, 3) and isinstance(x.layer, layers.InputLayer)
    layer = layers.Conv2D(5, 3)
    y = layer(layers.Input((8, 8, 3)))
    assert isinstance(y, KerasTensor) and y.shape == (None, 6, 6, 5) and y.layer is layer
    assert layer.built
    with pytest.raises(ValueError, match="4 axes"):
        layer(layers.Input((8, 8)))
    with pytest.raises(TypeError, match="no value"):
        np.asarray(x)
    oracle = quiet(keras.layers.InputLayer, (3,), name="in")
    assert_configs(layers.InputLayer((3,), name="in").get_config(), oracle.get_config())


def test_multiplied_weights_share_one_gradient():
    layer = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    (layer([[1.0]]) + layer([[2.0]])).sum().backward()
    assert layer.kernel.grad.item() == 3


# -- regularizers and losses -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["L1", "L2", "L1L2"])
def test_regularizers(name):
    settings = {"l1": 0.02, "l2": 0.03} if name == "L1L2" else {}
    ours = getattr(regularizers, name)(**settings)
    oracle = getattr(keras.regularizers, name)(**settings)
    x = array((5, 6))
    assert_agree(ours(x).data, oracle(x), 30)
    assert ours.get_config() == pytest.approx({k: float(v) for k, v in oracle.get_config().items()})
    assert gradcheck(ours, [x])
    with pytest.raises(ValueError, match="expected a finite l1 >= 0"):
        regularizers.L1(-1.0)
    assert regularizers.L1L2()(x).item() == 0


def test_layer_losses():
    def make(api):
        return api.Dense(
            3,
            kernel_regularizer="l2",
            bias_regularizer="l1",
            activity_regularizer="l2",
            bias_initializer="ones",
        )

    x = array((4, 5))
    ours, oracle = make(layers), quiet(make, keras.layers)
    ours(x)
    quiet(oracle, x)
    oracle.set_weights(ours.get_weights())
    quiet(oracle, x)
    ours(x)
    assert len(ours.losses) == 3
    expected = [float(loss) for loss in oracle.losses]
    if KERAS_VERSION < (3, 15):  # the activity's loss was not yet a mean over the batch
        expected[0] /= len(x)
    assert_agree([loss.item() for loss in ours.losses], expected, 15)
    sum(ours.losses[1:], ours.losses[0]).backward()
    assert ours.kernel.grad is not None and ours.bias.grad is not None
    ours.trainable = False
    assert len(ours.losses) == 1


def test_added_losses_are_those_of_the_last_call():
    class Adds(layers.Layer):
        def call(self, x):
            self.add_loss(ops.sum(x))
            return x

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = [Adds(), Adds()]

        def call(self, x):
            return self.inner[1](self.inner[0](x))

    outer = Outer()
    for _ in range(3):
        outer(np.ones(4))
    assert [loss.item() for loss in outer.losses] == [4.0, 4.0]


# -- signatures -----------------------------------------------------------------------------------

MODULES = (
    "layers",
    "losses",
    "metrics",
    "optimizers",
    "initializers",
    "regularizers",
    "activations",
)
NOT_OURS = {"lora_rank", "lora_alpha", "quantization_config", "overwrite_with_gradient"}


def public_names():
    for module in (*MODULES, "optimizers.schedules"):
        ours = functools.reduce(getattr, module.split("."), tilegrad.keras)
        theirs = functools.reduce(getattr, module.split("."), keras)
        for name in dir(ours):
            if name[0] != "_" and callable(getattr(ours, name)) and hasattr(theirs, name):
                yield f"{module}.{name}"


@pytest.mark.parametrize("name", list(public_names()))
def test_signatures_are_those_of_keras(name):
    ours, theirs = (
        [
            (p.name, p.default)
            for p in inspect.signature(
                functools.reduce(getattr, name.split("."), api)
            ).parameters.values()
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        for api in (tilegrad.keras, keras)
    )
    if name == "layers.Layer":  # Keras hides its arguments behind a wrapper
        return
    if name.startswith("optimizers.") and KERAS_VERSION < (3, 15):
        pytest.skip('before Keras 3.15 the default of name was "adam", not None')
    missing = {n for n, _ in theirs} - {n for n, _ in ours}
    assert missing <= NOT_OURS
    known = {n for n, _ in theirs}
    assert [p for p in ours if p[0] in known] == [p for p in theirs if p[0] not in missing]


# -- variables and settings ------------------------------------------------------------------------


def test_variable():
    v = Variable(np.arange(3.0), name="v")
    assert v.dtype == np.float32 and v.requires_grad and v.value is v
    taken = v.numpy()
    v.assign_add([1.0, 1.0, 1.0]).assign_sub([0.0, 1.0, 2.0])
    assert taken.tolist() == [0, 1, 2] and v.numpy().tolist() == [1, 1, 1]
    assert "path=v" in repr(v)
    counter = Variable(3, trainable=True)
    assert counter.dtype.kind == "i" and not counter.requires_grad
    from_initializer = Variable(lambda shape, dtype: np.ones(shape, dtype), shape=(2, 2))
    assert from_initializer.shape == (2, 2)
    for bad in ({"shape": (4,)}, {"dtype": "float16"}):
        with pytest.raises(ValueError, match="Variable: expected"):
            Variable(np.ones(3), **bad)
    with pytest.raises(ValueError, match="complete shape"):
        Variable(lambda shape, dtype: np.ones(shape), shape=(None, 2))
    with pytest.raises(ValueError, match="expected shape"):
        v.assign([1.0])


def test_settings():
    assert config.floatx() == keras_backend.floatx() == "float32"
    config.set_floatx("float32")
    with pytest.raises(ValueError, match=r"expected 'float32'.*got 'float16'"):
        config.set_floatx("float16")
    assert config.image_data_format() == "channels_last"
    with pytest.raises(ValueError, match="channels_last"):
        config.set_image_data_format("channels_first")
    assert config.epsilon() == keras.config.epsilon() == 1e-7
    config.set_epsilon(1e-5)
    assert keras_backend.epsilon() == 1e-5
    config.set_epsilon(1e-7)
    with pytest.raises(ValueError, match="positive"):
        config.set_epsilon(0)
    assert keras_backend.backend() == "tilegrad"
