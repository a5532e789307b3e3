"""Losses against Keras 3, in value with every kind of weight and reduction, and their gradients."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras_oracle import assert_agree, assert_configs, keras, on_backend, oracle, quiet  # noqa: F401

from tilegrad import Tensor, gradcheck, ops
from tilegrad.keras import losses

pytestmark = pytest.mark.usefixtures("on_backend")

# class -> what its targets and predictions are like
KINDS = {
    "MeanSquaredError": "real",
    "MeanAbsoluteError": "real",
    "MeanAbsolutePercentageError": "real",
    "MeanSquaredLogarithmicError": "positive",
    "Huber": "real",
    "LogCosh": "real",
    "Hinge": "sign",
    "SquaredHinge": "binary",
    "CategoricalHinge": "onehot",
    "KLDivergence": "probability",
    "Poisson": "positive",
    "CosineSimilarity": "real",
    "BinaryCrossentropy": "probability",
    "CategoricalCrossentropy": "onehot",
    "SparseCategoricalCrossentropy": "label",
}
REDUCTIONS = ("sum_over_batch_size", "sum", "none", None, "mean", "mean_with_sample_weight")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def data(kind, shape, seed=0):
    """(y_true, y_pred) of a kind."""
    rng = np.random.default_rng(seed)
    true, pred = rng.standard_normal((2, *shape)).astype(np.float32)
    if kind == "positive":
        return np.abs(true), np.abs(pred)
    if kind == "sign":
        return np.sign(true), pred
    if kind == "binary":
        return (true > 0).astype(np.float32), pred
    if kind == "probability":
        return softmax(true), softmax(pred)
    labels = rng.integers(0, shape[-1], shape[:-1])
    if kind == "label":
        return labels, softmax(pred)
    if kind == "onehot":
        return np.eye(shape[-1], dtype=np.float32)[labels], softmax(pred)
    return true, pred


def weights(kind, shape, seed=9):
    """Sample weights of a kind for losses of `shape`."""
    rng = np.random.default_rng(seed)
    sizes = {"scalar": (), "sample": shape[:1], "column": (*shape[:1], 1), "full": shape}
    return None if kind is None else rng.random(sizes[kind]).astype(np.float32)


@oracle
def oracle_of(name, shape, weighted, settings):
    y_true, y_pred = data(KINDS[name], shape)
    weight = weights(weighted, shape[:-1])
    loss = getattr(keras.losses, name)(**dict(settings))
    return np.asarray(loss(y_true, y_pred, weight)), loss.get_config()


def compare(name, shape, weighted=None, **settings):
    expected, oracle_config = oracle_of(
        name, shape, weighted, tuple(sorted(settings.items(), key=str))
    )
    y_true, y_pred = data(KINDS[name], shape)
    loss = getattr(losses, name)(**settings)
    y = loss(y_true, Tensor(y_pred), weights(weighted, shape[:-1]))
    length = int(np.prod(shape))
    assert_agree(
        y.data, expected, length, magnitude=max(1.0, float(np.abs(expected).max(initial=0)))
    )
    assert_configs(loss.get_config(), oracle_config)
    assert type(loss).from_config(loss.get_config()).get_config() == loss.get_config()
    return loss


@given(
    name=st.sampled_from(sorted(KINDS)),
    shape=st.sampled_from([(1, 2), (7, 3), (4, 10), (3, 2, 5)]),
    weighted=st.sampled_from([None, "scalar", "sample", "full"]),
    reduction=st.sampled_from(REDUCTIONS),
)
def test_against_keras(name, shape, weighted, reduction):
    if weighted == "sample" and len(shape) == 3:
        weighted = "column"
    compare(name, shape, weighted, reduction=reduction)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_loss(name):
    compare(name, (5, 4))
    compare(name, (5, 4), "sample")
    compare(name, (5, 4), "column")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Huber", {"delta": 0.3}),
        ("CosineSimilarity", {"axis": 1}),
        ("BinaryCrossentropy", {"label_smoothing": 0.1}),
        ("CategoricalCrossentropy", {"label_smoothing": 0.1}),
        ("CategoricalCrossentropy", {"from_logits": True}),
        ("SparseCategoricalCrossentropy", {"from_logits": True}),
        ("SparseCategoricalCrossentropy", {"ignore_class": 1}),
        ("SparseCategoricalCrossentropy", {"ignore_class": 1, "reduction": "sum"}),
        ("SparseCategoricalCrossentropy", {"ignore_class": 1, "from_logits": True}),
    ],
)
@pytest.mark.parametrize("weighted", [None, "sample"])
def test_settings(name, settings, weighted):
    compare(name, (6, 3), weighted, **settings)


@pytest.mark.parametrize("name", [n for n in sorted(KINDS) if n != "SparseCategoricalCrossentropy"])
def test_gradients(name):
    y_true, y_pred = data(KINDS[name], (4, 3), 2)
    assert gradcheck(lambda p: getattr(losses, name)()(y_true, p), [y_pred])
    assert gradcheck(
        lambda p: getattr(losses, name)(reduction="sum")(y_true, p, np.arange(4.0)), [y_pred]
    )


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4)])
def test_sparse_gradients(from_logits, shape):
    y_true, y_pred = data("label", shape, 2)
    loss = losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    assert gradcheck(lambda p: loss(y_true, p), [y_pred])
    assert gradcheck(lambda p: loss(y_true, ops.softmax(p)), [y_pred])


@pytest.mark.parametrize("sparse", [False, True])
def test_through_a_softmax_equals_from_logits(sparse):
    y_true, _ = data("label" if sparse else "onehot", (5, 4))
    kind = losses.SparseCategoricalCrossentropy if sparse else losses.CategoricalCrossentropy
    raw = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    a, b = Tensor(raw, requires_grad=True), Tensor(raw, requires_grad=True)
    first, second = kind()(y_true, ops.softmax(a)), kind(from_logits=True)(y_true, b)
    assert first.item() == second.item()
    first.backward()
    second.backward()
    np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())
    # and away from saturation it is what the clipped form gives
    plain = kind()(y_true, Tensor(softmax(raw)))
    assert_agree(plain.data, first.data, 20)


def test_saturated_softmax_is_exact():
    logits = Tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    loss = losses.SparseCategoricalCrossentropy()([1, 1], ops.softmax(logits))
    assert loss.item() == 5000.0
    loss.backward()
    assert logits.grad.numpy().tolist() == [[0.5, -0.5], [0.0, 0.0]]
    smooth = losses.BinaryCrossentropy(from_logits=True)([[1.0, 0.0]], [[-1e4, 1e4]])
    assert smooth.item() == 1e4


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int32", "int64", "uint64", "float32", "float64", "bool"]
)
@pytest.mark.parametrize("column", [False, True])
def test_labels_of_any_type(dtype, column):
    labels = np.array([1, 0, 1], dtype)
    y_pred = softmax(np.arange(6, dtype=np.float32).reshape(3, 2) ** 1.5)
    right = -np.log(y_pred[[0, 1, 2], [1, 0, 1]])
    labels = labels[:, None] if column else labels
    for y in (Tensor(y_pred), ops.softmax(np.log(y_pred))):
        loss = losses.SparseCategoricalCrossentropy(reduction="none")(labels, y)
        assert_agree(loss.data, right.astype(np.float32), 4)


@pytest.mark.parametrize("through_softmax", [False, True])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3, 1], "from 0 to 2, got 3 in row 1"),
        ([0, 1, -1], "from 0 to 2, got -1 in row 2"),
        ([0.0, 0.5, 1.0], "an integer, got 0.5 in row 1"),
        ([0.0, np.nan, 1.0], "an integer, got nan in row 1"),
        ([0.0, 1.0, np.inf], "an integer, got inf in row 2"),
        (np.array([0, 2**32, 0]), "4294967296 in row 1"),
        ([0, 1], r"of shape \(3,\)"),
        ([[0, 1], [0, 1], [1, 1]], r"labels of shape \(3,\)"),
    ],
)
def test_bad_labels(labels, message, through_softmax):
    y_pred = ops.softmax(np.zeros((3, 3))) if through_softmax else np.full((3, 3), 1 / 3)
    with pytest.raises(ValueError, match=message):
        losses.SparseCategoricalCrossentropy()(np.asarray(labels), y_pred)


def test_bad_shapes_and_arguments():
    for loss in (losses.CategoricalCrossentropy(), losses.BinaryCrossentropy()):
        with pytest.raises(ValueError, match=r"y_true of y_pred's shape \(3, 4\), got \(3, 5\)"):
            loss(np.ones((3, 5)), np.full((3, 4), 0.25))
    with pytest.raises(ValueError, match="sparse_categorical_crossentropy"):
        losses.CategoricalCrossentropy()([1, 2, 3], np.full((3, 4), 0.25))
    with pytest.raises(ValueError, match=r"expected reduction .*, got 'average'"):
        losses.MeanSquaredError(reduction="average")
    with pytest.raises(ValueError, match="label_smoothing"):
        losses.BinaryCrossentropy(label_smoothing=2.0)
    with pytest.raises(ValueError, match="dtype"):
        losses.MeanSquaredError(dtype="float16")
    with pytest.raises(ValueError, match="sample_weight: expected a shape that broadcasts"):
        losses.MeanSquaredError()(np.ones((3, 4)), np.ones((3, 4)), np.ones(5))
    for name in ("mse", "mae", "hinge", "kld", "poisson", "huber", "cosine_similarity"):
        with pytest.raises(ValueError, match=r"y_true: .* with \(3, 4\), got \(3, 5\)"):
            losses.get(name)(np.ones((3, 5)), np.ones((3, 4)))
    with pytest.raises(TypeError, match="y_true: expected numbers, got dtype object from NoneType"):
        losses.MeanSquaredError()(None, np.ones((3, 4)))
    with pytest.warns(SyntaxWarning, match="one class"):
        losses.CategoricalCrossentropy()(np.ones((3, 1)), np.ones((3, 1)))


def test_shapes_that_differ_by_a_last_one():
    a, b = data("real", (6,))
    for true, pred in ((a, b[:, None]), (a[:, None], b)):
        expected = quiet(keras.losses.MeanSquaredError(), true, pred)
        assert_agree(losses.MeanSquaredError()(true, pred).data, expected, 6)


def test_empty_batch():
    assert (
        losses.MeanSquaredError(reduction="sum")(np.zeros((0, 3)), np.zeros((0, 3))).data.sum() == 0
    )


def test_identifiers():
    assert losses.get("mse") is losses.mean_squared_error
    assert losses.get("MeanSquaredError").name == "mean_squared_error"
    assert losses.get(None) is None
    assert isinstance(losses.get(losses.Huber), losses.Huber)
    huber = losses.get(losses.serialize(losses.Huber(delta=2.0)))
    assert huber.get_config()["delta"] == 2.0
    assert losses.get(losses.serialize(losses.poisson)) is losses.poisson
    with pytest.raises(ValueError, match=r"unknown loss 'mze'; expected one of .*mse"):
        losses.get("mze")
    for name in losses._registry.names():
        assert callable(losses.get(name))


def test_functions_of_ones_own():
    def cubed(y_true, y_pred):
        return ops.mean(ops.absolute(y_pred - y_true) ** 3, -1)

    loss = losses.LossFunctionWrapper(cubed, name="cubed")
    assert loss([[0.0, 0.0]], [[1.0, 2.0]], [2.0]).item() == 9.0
    assert loss.get_config()["fn"] == "cubed"

    class Own(losses.Loss):
        def call(self, y_true, y_pred):
            return ops.mean(y_pred - y_true, -1)

    assert Own(name="own")([[0.0], [0.0]], [[1.0], [3.0]]).item() == 2.0
    wrapped = losses.LossFunctionWrapper(losses.sparse_categorical_crossentropy, from_logits=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = losses.LossFunctionWrapper.from_config(wrapped.get_config())
    assert again([1], [[1e4, 0.0]]).item() == 1e4
