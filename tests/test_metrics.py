"""Metrics against Keras 3, over several batches with sample weights."""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras_oracle import KERAS_VERSION, assert_configs, keras, quiet
from test_losses import softmax

from tilegrad import Tensor
from tilegrad.keras import backend as keras_backend
from tilegrad.keras import metrics


@pytest.fixture(autouse=True, scope="module")
def fresh_names():
    """Metrics are numbered by what was made before, here as in Keras."""
    keras_backend.clear_session()
    quiet(keras.backend.clear_session)


# class -> what its targets and predictions are like
KINDS = {
    "Accuracy": "ids",
    "BinaryAccuracy": "binary",
    "CategoricalAccuracy": "onehot",
    "SparseCategoricalAccuracy": "label",
    "TopKCategoricalAccuracy": "onehot",
    "SparseTopKCategoricalAccuracy": "label",
    "MeanSquaredError": "real",
    "RootMeanSquaredError": "real",
    "MeanAbsoluteError": "real",
    "MeanAbsolutePercentageError": "real",
    "MeanSquaredLogarithmicError": "real",
    "LogCoshError": "real",
    "Hinge": "binary",
    "SquaredHinge": "real",
    "CategoricalHinge": "onehot",
    "KLDivergence": "onehot",
    "Poisson": "binary",
    "CosineSimilarity": "real",
    "BinaryCrossentropy": "binary",
    "CategoricalCrossentropy": "onehot",
    "SparseCategoricalCrossentropy": "label",
    "Precision": "binary",
    "Recall": "binary",
    "TruePositives": "binary",
    "FalsePositives": "binary",
    "TrueNegatives": "binary",
    "FalseNegatives": "binary",
    "AUC": "binary",
    "F1Score": "onehot",
    "FBetaScore": "onehot",
}
COUNTS = (
    "Precision",
    "Recall",
    "TruePositives",
    "FalsePositives",
    "TrueNegatives",
    "FalseNegatives",
    "AUC",
)


def data(kind, n, classes, seed):
    rng = np.random.default_rng(seed)
    true, pred = rng.standard_normal((2, n, classes)).astype(np.float32)
    labels = rng.integers(0, classes, n)
    return {
        "real": (true, pred),
        "ids": (labels[:, None] % 2, rng.integers(0, 2, (n, 1))),
        "binary": ((true > 0).astype(np.float32), 1 / (1 + np.exp(-pred))),
        "onehot": (np.eye(classes, dtype=np.float32)[labels], softmax(pred)),
        "label": (labels, softmax(pred)),
    }[kind]


@functools.cache
def batches(kind, classes, weighted):
    """Three batches, the last one of another size."""
    out = []
    for seed, n in enumerate((8, 8, 3)):
        y_true, y_pred = data(kind, n, classes, seed)
        weight = np.random.default_rng(seed + 50).random(n).astype(np.float32) if weighted else None
        out.append((y_true, y_pred, weight))
    return out


def compare(name, classes=5, weighted=False, **settings):
    ours, oracle = getattr(metrics, name)(**settings), getattr(keras.metrics, name)(**settings)
    for i, (y_true, y_pred, weight) in enumerate(batches(KINDS[name], classes, weighted)):
        if weight is not None and name in COUNTS:
            weight = np.repeat(weight[:, None], classes, 1)
        ours.update_state(y_true, Tensor(y_pred, device="reference") if i else y_pred, weight)
        quiet(oracle.update_state, y_true, y_pred, weight)
        np.testing.assert_allclose(
            ours.result(), np.asarray(quiet(oracle.result)), rtol=3e-5, atol=1e-6
        )
    assert_configs(
        ours.get_config(), oracle.get_config(), ignore=("name",) if name == "AUC" else ()
    )
    assert type(ours).from_config(ours.get_config()).get_config() == ours.get_config()
    ours.reset_state()
    quiet(oracle.reset_state)
    if name not in ("F1Score", "FBetaScore"):
        np.testing.assert_array_equal(ours.result(), quiet(oracle.result))
    assert getattr(ours, "_direction", None) == getattr(
        oracle, "_direction", getattr(ours, "_direction", None)
    )
    return ours


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_against_keras(name, weighted):
    compare(name, weighted=weighted)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("BinaryAccuracy", {"threshold": 0.3}),
        ("TopKCategoricalAccuracy", {"k": 2}),
        ("SparseTopKCategoricalAccuracy", {"k": 3}),
        ("BinaryCrossentropy", {"from_logits": True}),
        ("BinaryCrossentropy", {"label_smoothing": 0.2}),
        ("CategoricalCrossentropy", {"from_logits": True}),
        ("CategoricalCrossentropy", {"label_smoothing": 0.2}),
        ("SparseCategoricalCrossentropy", {"from_logits": True}),
        ("SparseCategoricalCrossentropy", {"ignore_class": 1}),
        ("Precision", {"thresholds": [0.2, 0.5, 0.8]}),
        ("Precision", {"top_k": 2}),
        ("Recall", {"thresholds": 0.3}),
        ("Recall", {"class_id": 2}),
        ("Recall", {"top_k": 2, "class_id": 1}),
        ("TruePositives", {"thresholds": [0.1, 0.9]}),
        ("AUC", {"curve": "PR"}),
        ("AUC", {"curve": "PR", "summation_method": "majoring"}),
        ("AUC", {"summation_method": "minoring", "num_thresholds": 7}),
        ("AUC", {"thresholds": [0.25, 0.5]}),
        ("AUC", {"from_logits": True}),
        ("F1Score", {"average": "micro"}),
        ("F1Score", {"average": "macro"}),
        ("F1Score", {"average": "weighted", "threshold": 0.3}),
        ("FBetaScore", {"beta": 2.0, "threshold": 0.5}),
        ("CosineSimilarity", {"axis": 1}),
    ],
)
def test_settings(name, settings):
    if "ignore_class" in settings and KERAS_VERSION < (3, 15):
        pytest.skip("this metric had no ignore_class before Keras 3.15")
    compare(name, **settings)


@given(
    values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=6),
    shape=st.sampled_from(["same", "scalar", "none", "column"]),
)
def test_mean_and_sum(values, shape):
    values = np.array(values, np.float32)
    weight = {"none": None, "scalar": 2.5, "same": np.arange(1.0, len(values) + 1)}.get(
        shape, np.ones((len(values), 1))
    )
    for kind in ("Mean", "Sum"):
        ours, oracle = getattr(metrics, kind)(), getattr(keras.metrics, kind)()
        for _ in range(2):
            ours.update_state(values, weight)
            quiet(oracle.update_state, values, weight)
        np.testing.assert_allclose(ours.result(), float(quiet(oracle.result)), rtol=1e-5, atol=1e-4)


def test_mean_of_higher_rank():
    values, weight = np.arange(24.0).reshape(4, 3, 2), np.array([1.0, 2.0, 0.0, 1.0])
    ours, oracle = metrics.Mean(), keras.metrics.Mean()
    ours.update_state(values, weight)
    quiet(oracle.update_state, values, weight)
    np.testing.assert_allclose(ours.result(), float(quiet(oracle.result)), rtol=1e-6)
    with pytest.raises(ValueError, match="sample_weight"):
        ours.update_state(values, np.ones(3))


def test_empty_mean_is_zero():
    assert metrics.Mean().result() == 0.0
    assert metrics.SparseCategoricalAccuracy().result() == 0.0


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_sparse_accuracy_of_any_labels(shape, dtype):
    y_pred = softmax(np.random.default_rng(0).standard_normal((6, 4)))
    labels = y_pred.argmax(1)
    labels[:2] = (labels[:2] + 1) % 4
    metric = metrics.SparseCategoricalAccuracy()
    assert metric(labels.astype(dtype).reshape(shape), y_pred) == pytest.approx(4 / 6)


def test_a_function_as_metric():
    def largest(y_true, y_pred):
        return np.max(np.abs(np.subtract(y_true, y_pred)), -1)

    metric = metrics.MeanMetricWrapper(largest)
    assert metric.name == "largest"
    assert metric([[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [4.0, 3.0]]) == 3.0
    tensors = metrics.MeanMetricWrapper(lambda t, p: (p - t).mean(-1), name="t")
    assert tensors(Tensor([[0.0, 0.0]]), Tensor([[1.0, 2.0]])) == 1.5


def test_metrics_with_variables():
    class Count(metrics.Metric):
        def __init__(self, name="count"):
            super().__init__(name=name)
            self.n = self.add_weight(name="n", initializer="zeros")
            self.by_class = self.add_variable((3,), "zeros", name="by_class")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.n.assign_add(len(y_true))
            self.by_class.assign_add(np.bincount(y_true, minlength=3))

        def result(self):
            return self.n

    metric = Count()
    metric([0, 2], None)
    assert float(metric([2], None)) == 3.0
    assert metric.by_class.numpy().tolist() == [1, 0, 2]
    assert [v.name for v in metric.variables] == ["n", "by_class"]
    metric.reset_state()
    assert float(metric.result()) == 0.0 and not metric.by_class.numpy().any()


def test_identifiers():
    assert isinstance(metrics.get("mse"), metrics.MeanSquaredError)
    assert metrics.get("sparse_categorical_accuracy").name == "sparse_categorical_accuracy"
    assert isinstance(metrics.get(metrics.serialize(metrics.AUC(curve="PR"))), metrics.AUC)
    assert metrics.get(None) is None
    with pytest.raises(ValueError, match=r"unknown metric 'acuracy'; expected one of .*accuracy"):
        metrics.get("acuracy")
    for name in metrics._registry.names():
        assert metrics.get(name) is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.BinaryAccuracy(threshold=2.0), r"threshold in \(0, 1\)"),
        (lambda: metrics.AUC(curve="X"), "curve"),
        (lambda: metrics.AUC(num_thresholds=1), "at least 2"),
        (lambda: metrics.AUC(multi_label=True), "multi_label"),
        (lambda: metrics.AUC()([1.0], [1.5]), r"y_pred in \[0, 1\]"),
        (lambda: metrics.Precision(thresholds=2.0), "thresholds"),
        (lambda: metrics.F1Score(average="x"), "average"),
        (lambda: metrics.F1Score()([1.0], [1.0]), r"\(n, classes\)"),
        (lambda: metrics.Mean(dtype="float16"), "dtype"),
        (lambda: metrics.SparseCategoricalCrossentropy()([5], [[0.5, 0.5]]), "from 0 to 1"),
        (lambda: metrics.SparseCategoricalAccuracy()([[1, 2, 3]], [[0.5, 0.5]]), "labels of shape"),
        (lambda: metrics.CategoricalAccuracy()([1, 0], [[0.5, 0.5]] * 2), "labels of shape"),
        (lambda: metrics.MeanSquaredError()([1, 2, 3], [1.0, 2.0]), "y_true: expected a shape"),
        (lambda: metrics.Precision()([1, 2, 3], [[1.0, 2.0]]), "y_true: expected a shape"),
        (lambda: metrics.Precision(class_id=2)([[1, 0]], [[1.0, 0.0]]), "class_id=2"),
        (lambda: metrics.Mean().update_state("a"), "expected numbers"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_batch_costs_tens_of_microseconds():
    metric = metrics.SparseCategoricalAccuracy()
    y_true, y_pred = data("label", 32, 10, 0)
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        metric.update_state(y_true, y_pred)
        best = min(best, time.perf_counter() - start)
    assert best < 100e-6
