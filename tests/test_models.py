"""`Sequential`, `Model` and their training; shapes, names and counts against Keras 3."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

import tilegrad
from tilegrad import keras
from tilegrad.keras import layers, losses, metrics, optimizers
from tilegrad.keras.models import data_adapter

pytestmark = pytest.mark.usefixtures("on_backend")

RNG = np.random.default_rng(0)
PATTERNS = RNG.random((10, 8, 8)).astype("float32")
Y = RNG.integers(0, 10, 160).astype("uint8")
X = PATTERNS[Y] + 0.1 * RNG.random((160, 8, 8)).astype("float32")
ONE_HOT = np.eye(10, dtype="float32")[Y]


@pytest.fixture(scope="module")
def oracle():
    """Keras 3 on its NumPy backend."""
    os.environ["KERAS_BACKEND"] = "numpy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras")


def cnn(k=keras):
    return k.Sequential(
        [
            k.Input((8, 8, 1)),
            k.layers.Conv2D(4, (3, 3), activation="relu"),
            k.layers.MaxPooling2D((2, 2)),
            k.layers.Flatten(),
            k.layers.Dense(16, activation="relu"),
            k.layers.Dense(10, activation="softmax"),
        ]
    )


def compiled(**options):
    model = cnn()
    options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **options}
    model.compile(options.pop("optimizer", "adam"), **options)
    return model


def linear(units=1, features=3):
    """A dense layer of ones without bias: predictions are sums of the features."""
    layer = layers.Dense(units, use_bias=False, kernel_initializer="ones")
    return keras.Sequential([keras.Input((features,)), layer])


def same_weights(a, b):
    return all(np.array_equal(v, w) for v, w in zip(a.get_weights(), b.get_weights(), strict=True))


# -- Sequential ------------------------------------------------------------------------------------


def test_shapes_names_and_counts_are_those_of_keras(oracle):
    keras.backend.clear_session()
    oracle.backend.clear_session()
    ours, theirs = cnn(), cnn(oracle)
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert (a.name, type(a).__name__) == (b.name, type(b).__name__)
        assert a.count_params() == b.count_params()
    assert ours.name == theirs.name
    assert ours.output_shape == theirs.output_shape
    assert ours.input_shape == theirs.input_shape
    assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
    assert [w.shape for w in ours.weights] == [tuple(w.shape) for w in theirs.weights]
    ours.set_weights([np.asarray(w.value) for w in theirs.weights])
    x = X[:5, ..., None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = np.asarray(theirs(x))
    np.testing.assert_allclose(ours.predict(x, verbose=0), expected, atol=1e-5)


def test_symbolic_inputs_and_outputs(oracle):
    ours, theirs = cnn(), cnn(oracle)
    assert [x.shape for x in ours.inputs] == [x.shape for x in theirs.inputs]
    assert [x.shape for x in ours.outputs] == [x.shape for x in theirs.outputs]
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        assert (mine.input.shape, mine.output.shape) == (other.input.shape, other.output.shape)
    with pytest.raises(AttributeError, match="has no outputs before it is built"):
        keras.Sequential([layers.Dense(2)]).outputs  # noqa: B018
    with pytest.raises(AttributeError, match="has no output before it is part of a built model"):
        layers.Dense(2).output  # noqa: B018


def test_the_small_cnn_has_693962_parameters():
    with pytest.warns(UserWarning, match="input_shape"):
        first = layers.Conv2D(32, (3, 3), activation="relu", input_shape=(28, 28, 1))
    model = keras.Sequential(
        [
            first,
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    assert model.built and model.input_shape == (None, 28, 28, 1)
    assert [layer.count_params() for layer in model.layers] == [320, 0, 0, 692352, 1290]
    assert model.count_params() == 693_962


def test_deferred_build_by_data_and_by_shape():
    model = keras.Sequential([layers.Dense(4), layers.Dense(2)])
    assert not model.built and model.weights == []
    with pytest.raises(AttributeError, match="no input shape before it is built"):
        _ = model.input_shape
    model(np.zeros((5, 3)))
    assert model.input_shape == (None, 3) and model.count_params() == 26
    other = keras.Sequential([layers.Dense(4)])
    other.build((None, 7))
    assert other.count_params() == 32


def test_add_builds_as_it_goes_and_pop_takes_back():
    model = keras.Sequential()
    model.add(keras.Input((6,)))
    model.add(layers.Dense(4))
    assert len(model.weights) == 2 and model.output_shape == (None, 4)
    top = layers.Dense(3)
    model.add(top)
    assert model.output_shape == (None, 3)
    assert model.pop() is top
    assert model.output_shape == (None, 4) and len(model.weights) == 2
    model.pop()
    with pytest.raises(ValueError, match="at least one layer"):
        model.build((None, 6))


def test_nested_sequential_and_its_paths():
    inner = keras.Sequential([layers.Dense(4, name="a")], name="inner")
    model = keras.Sequential([keras.Input((3,)), inner, layers.Dense(2, name="b")], name="outer")
    assert [w.path for w in model.weights] == [
        *("outer/inner/a/kernel", "outer/inner/a/bias"),
        *("outer/b/kernel", "outer/b/bias"),
    ]
    assert model.get_layer("inner") is inner and model.get_layer(index=1).name == "b"
    with pytest.raises(ValueError, match=r"no layer 'c' among \['inner', 'b'\]"):
        model.get_layer("c")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.Sequential([3]), "expected a layer, got 3"),
        (
            lambda: keras.Sequential([layers.Dense(1, name="a"), layers.Dense(1, name="a")]),
            "layers of different names, got 'a' again",
        ),
        (
            lambda: keras.Sequential([keras.Input((1,)), keras.Input((1,))]),
            "Input only as the first item",
        ),
        (
            lambda: keras.Sequential([keras.Input((3,)), layers.Dense(1)]).build((None, 4)),
            r"expected input_shape \(None, 3\)",
        ),
        (lambda: keras.Sequential([keras.Input((8, 8)), layers.Conv2D(2, 3)]), "4 axes"),
        (lambda: keras.Sequential().pop(), "at least one layer, got none"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_functional_models_say_what_to_use():
    with pytest.raises(TypeError, match="use a Sequential, or subclass Model"):
        keras.Model(inputs=keras.Input((3,)), outputs=keras.Input((3,)))


# -- what goes in ----------------------------------------------------------------------------------


def test_rank_is_adjusted():
    model = cnn()
    expected = model.predict(X[:4, ..., None], verbose=0)
    np.testing.assert_array_equal(model.predict(X[:4], verbose=0), expected)
    np.testing.assert_array_equal(model.predict(X[:4, ..., None, None], verbose=0), expected)
    flat = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    assert flat.predict(np.ones((4, 3, 1)), verbose=0).shape == (4, 1)


def test_gradients_flow_through_an_adjusted_input():
    x = tilegrad.Tensor(X[:2], requires_grad=True)
    cnn()(x).sum().backward()
    assert x.grad.shape == (2, 8, 8)


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 8, 1, 3), (2,)])
def test_wrong_rank_names_both_shapes(shape):
    with pytest.raises(ValueError) as error:
        cnn()(np.zeros(shape, "float32"))
    assert "(None, 8, 8, 1)" in str(error.value) and str(shape) in str(error.value)


def test_wrong_sizes_name_layer_and_shapes():
    with pytest.raises(ValueError, match=r"Conv2D 'conv2d.*expected .*1.*\(2, 8, 8, 3\)"):
        cnn()(np.zeros((2, 8, 8, 3), "float32"))
    with pytest.raises(
        ValueError, match=r"Dense 'dense.*36.*expected input of shape \(None, 8, 8, 1\)"
    ):
        cnn()(np.zeros((2, 10, 10, 1), "float32"))


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype("float64"),
        lambda x: x.astype("float16").astype("float32"),
        np.asfortranarray,
        lambda x: x.tolist(),
        lambda x: tilegrad.Tensor(x),
        lambda x: [x],
        lambda x: x.astype(">f4"),
        lambda x: np.repeat(x, 2, axis=0)[::2],
    ],
)
def test_kinds_of_input_agree(convert):
    x = X[:6].astype("float16").astype("float32")
    model = cnn()
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(model.predict(convert(x), verbose=0), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_integer_images_are_cast(dtype):
    x = (X[:6] * 2).astype(dtype)
    model = cnn()
    expected = model.predict(x.astype("float32"), verbose=0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)


def test_user_data_stay_as_they_are():
    x, y = X.copy(), Y.copy()
    x.flags.writeable = y.flags.writeable = False
    compiled().fit(x, y, epochs=1, verbose=0)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (X, Y[:-1], ValueError, r"x: \[160\], y: \[159\]"),
        ([X, X], Y, ValueError, "expected one input, got 2"),
        (list(X), Y, ValueError, r"x: \[8, 8, 8, 8, 8, 8, 8, 8, ...\], y: \[160\]"),
        (X[:0], Y[:0], ValueError, "at least one sample"),
        (np.float32(3), Y, ValueError, "batch axis"),
        (np.array(["a"] * 160), Y, TypeError, "x: expected numbers"),
        ([[1.0], [1.0, 2.0]], [1, 2], ValueError, "rows of equal length"),
        (None, None, ValueError, "got NoneType"),
        (3, Y, ValueError, "a sequence of batches or a generator, got int"),
        (X, np.full(160, 10), ValueError, "label"),
        (X, -np.ones(160, int), ValueError, "label"),
        (X, np.full(160, np.inf), ValueError, "an integer, got inf in row 0"),
    ],
)
def test_bad_data(x, y, error, message):
    model = compiled()
    with pytest.raises(error, match=message):
        model.fit(x, y, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected a positive integer, got 0"),
        ({"steps_per_epoch": -1}, "steps: expected a positive integer, got -1"),
        ({"batch_size": -3}, "batch_size: expected a positive integer, got -3"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"epochs": -1}, "epochs"),
        ({"initial_epoch": -1}, "initial_epoch: expected an integer >= 0, got -1"),
        ({"class_weight": [1.0, 2.0]}, "class_weight: expected a dict from class index to weight"),
        ({"class_weight": {0: "a"}}, "class_weight: expected a dict from class index to weight"),
        ({"validation_split": "a"}, r"validation_split: expected a number in \[0, 1\), got 'a'"),
        (
            {"sample_weight": np.ones((160, 2))},
            r"sample_weight: expected a shape .*, got \(32, 2\)",
        ),
        ({"verbose": 3}, "verbose: expected 'auto', 0, 1 or 2, got 3"),
        ({"validation_split": 1.0}, "validation_split"),
        ({"validation_split": 0.999}, "validation_split: 160 samples are too few"),
        ({"validation_data": (X, Y), "validation_freq": "x"}, "validation_freq"),
        (
            {"class_weight": {0: 1.0}, "sample_weight": np.ones(160)},
            "class_weight or sample_weight",
        ),
    ],
)
def test_bad_fit_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        compiled().fit(X, Y, **{"verbose": 0, **options})


# -- compile ---------------------------------------------------------------------------------------


def test_signatures_are_those_of_keras(oracle):
    import inspect

    for name in (
        "compile",
        "fit",
        "evaluate",
        "predict",
        "train_on_batch",
        "test_on_batch",
        "summary",
    ):
        ours = inspect.signature(getattr(keras.Model, name)).parameters
        theirs = inspect.signature(getattr(oracle.Model, name)).parameters
        theirs = {k: p.default for k, p in theirs.items() if p.kind != p.VAR_KEYWORD}
        assert {k: p.default for k, p in ours.items()} == theirs, name


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "no_such_loss"}, ValueError, "no_such_loss"),
        ({"metrics": ["no_such_metric"]}, ValueError, "no_such_metric"),
        ({"optimizer": "no_such_optimizer"}, ValueError, "no_such_optimizer"),
        ({"metrics": "accuracy"}, ValueError, "metrics to be a list"),
        ({"loss": 3}, ValueError, "got 3"),
        ({"loss_weights": "x", "loss": "mse"}, ValueError, "loss_weights"),
        ({"steps_per_execution": 0}, ValueError, "steps_per_execution"),
        ({"lr": 0.1}, TypeError, "lr"),
    ],
)
def test_bad_compile_arguments(options, error, message):
    with pytest.raises(error, match=message):
        linear().compile(**options)


def test_uncompiled_models_say_so():
    model = linear()
    for method in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=r"you must call compile\(\) first"):
            method(np.ones((2, 3)), np.ones(2))
    assert model.predict(np.ones((2, 3)), verbose=0).tolist() == [[3.0], [3.0]]


def test_jit_compile_is_checked_and_default_optimizer_is_rmsprop():
    model = linear()
    with pytest.raises(ValueError, match="jit_compile"):
        model.compile(loss="mse", jit_compile="yes")
    model.compile(loss="mse")
    assert isinstance(model.optimizer, optimizers.RMSprop)


@pytest.mark.parametrize(
    ("units", "y", "kind"),
    [
        (1, np.ones(4), "Binary"),
        (3, np.ones((4, 1)), "SparseCategorical"),
        (3, np.ones(4), "SparseCategorical"),
        (3, np.eye(4, 3), "Categorical"),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", "acc", "crossentropy", "ce"])
def test_short_names_go_by_shapes(units, y, kind, name):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(units, activation="sigmoid")])
    model.compile("sgd", "mse" if kind != "SparseCategorical" else "ce", metrics=[name])
    logs = model.test_on_batch(np.ones((4, 2)), y, return_dict=True)
    metric = model._compile_metrics.metrics[0]
    expected = "Accuracy" if name.startswith("acc") else "Crossentropy"
    assert type(metric).__name__ == kind + expected
    assert list(logs) == sorted([name, "loss"])


@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        "mean_squared_error",
        "MeanSquaredError",
        losses.MeanSquaredError(),
        lambda t, p: tilegrad.ops.mean((p - t) * (p - t), axis=-1),
    ],
)
def test_losses_as_names_objects_and_functions(loss):
    model = linear()
    model.compile("sgd", loss, metrics=[metrics.MeanAbsoluteError(name="mine"), "mae"])
    found = model.evaluate(np.ones((4, 3)), np.zeros(4), verbose=0, return_dict=True)
    assert found == {"loss": 9.0, "mae": 3.0, "mine": 3.0}


def test_a_metric_may_be_a_function():
    def largest(y_true, y_pred):
        return np.max(np.abs(np.asarray(y_pred) - np.asarray(y_true).reshape(-1, 1)), axis=-1)

    model = linear()
    model.compile("sgd", "mse", metrics=[largest])
    assert model.evaluate(np.ones((4, 3)), np.zeros(4), verbose=0) == [9.0, 3.0]


# -- fit, by formulas ------------------------------------------------------------------------------


def test_losses_and_metrics_are_means_over_samples():
    x = np.array([[1.0], [2.0], [3.0], [4.0], [10.0]], "float32")
    y = np.zeros(5, "float32")
    model = linear(features=1)
    model.compile(optimizers.SGD(0.0), "mse", metrics=["mae"])
    history = model.fit(x, y, batch_size=2, shuffle=False, verbose=0)
    # The last batch has one sample and counts as one.
    assert history.history == {"loss": [26.0], "mae": [4.0]}
    assert model.evaluate(x, y, batch_size=3, verbose=0) == pytest.approx([26.0, 4.0])


def test_one_step_of_sgd():
    x = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    y = np.array([[1.0], [2.0]], "float32")
    w = np.array([[0.5], [-0.5]], "float32")
    model = linear(features=2)
    model.set_weights([w])
    model.compile(optimizers.SGD(0.1), "mse")
    assert model.train_on_batch(x, y) == pytest.approx(float(np.mean((x @ w - y) ** 2)))
    expected = w - 0.1 * x.T @ (x @ w - y) * 2 / 2
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-6)


def test_sample_weights_scale_the_loss_but_not_plain_metrics():
    x, y = np.ones((4, 3), "float32"), np.zeros(4, "float32")
    weights = np.array([1.0, 0.0, 0.0, 1.0])
    model = linear()
    model.compile(optimizers.SGD(0.0), "mse", metrics=["mae"], weighted_metrics=["mae"])
    found = model.fit(x, y, sample_weight=weights, verbose=0).history
    assert found == {"loss": [4.5], "mae": [3.0], "weighted_mae": [3.0]}
    assert model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)["loss"] == 4.5


@pytest.mark.parametrize("y", [np.array([0, 1, 2]), np.array([[0], [1], [2]]), np.eye(3)])
def test_class_weights(y):
    weights = data_adapter.class_weight_to_sample_weights(y, {0: 2.0, 2: 0.5})
    assert weights.tolist() == [2.0, 1.0, 0.5] and weights.dtype == np.float32
    model = linear(units=3)
    model.compile("sgd", "ce")
    x = RNG.normal(size=(3, 3))
    model.set_weights([RNG.normal(size=(3, 3))])
    by_class = model.train_on_batch(x, y, class_weight={0: 2.0, 2: 0.5})
    again = linear(units=3)
    again.compile("sgd", "ce")
    assert by_class != again.train_on_batch(x, y)


def test_validation_split_takes_the_end_before_shuffling():
    seen = []

    class Watch(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(1)

        def call(self, x, training=False):
            seen.append((training, np.asarray(x)[:, 0].tolist()))
            return self.dense(x)

    model = Watch()
    model.compile("sgd", "mse")
    model.build((None, 1))
    seen.clear()
    x = np.arange(10.0)[:, None]
    model.fit(x, x, batch_size=4, validation_split=0.3, verbose=0)
    train = [v for training, batch in seen if training for v in batch]
    validation = [v for training, batch in seen if not training for v in batch]
    assert sorted(train) == list(range(7)) and validation == [7.0, 8.0, 9.0]
    assert [len(batch) for _, batch in seen] == [4, 3, 3]


def test_shuffling():
    x = np.arange(20)
    for shuffle, expected in ((True, False), ("batch", False), (False, True)):
        keras.utils.set_random_seed(0)
        adapter = data_adapter.ArrayAdapter(x, batch_size=5, shuffle=shuffle)
        batches = [np.asarray(batch).tolist() for batch in adapter]
        order = [value for batch in batches for value in batch]
        assert (order == list(range(20))) is expected
        assert sorted(order) == list(range(20))
        if shuffle == "batch":
            assert [sorted(batch) for batch in batches] == x.reshape(4, 5).tolist()
    keras.utils.set_random_seed(0)
    adapter = data_adapter.ArrayAdapter(x, x * 2, batch_size=5, shuffle=True)
    first, second = [[tuple(map(np.asarray, pair)) for pair in adapter] for _ in range(2)]
    assert all((b == 2 * a).all() for a, b in first)
    assert not all((a[0] == b[0]).all() for a, b in zip(first, second, strict=True))


def test_history_and_its_order():
    model = compiled()
    history = model.fit(X, Y, epochs=2, validation_data=(X, Y), verbose=0)
    assert list(history.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert history.epoch == [0, 1] and history.model is model and model.history is history
    assert history.params == {"verbose": 0, "epochs": 2, "steps": 5}
    assert all(isinstance(v, float) for values in history.history.values() for v in values)


def test_epochs_and_validation_frequency():
    history = compiled().fit(
        X, Y, epochs=5, initial_epoch=2, validation_data=(X, Y), validation_freq=2, verbose=0
    )
    assert history.epoch == [2, 3, 4] and len(history.history["val_loss"]) == 1
    history = compiled().fit(
        X, Y, epochs=3, validation_split=0.5, validation_freq=[1, 3], verbose=0
    )
    assert len(history.history["val_loss"]) == 2
    assert compiled().fit(X, Y, epochs=0, verbose=0).history == {}


def test_evaluate_forms():
    model = compiled()
    both = model.evaluate(X, Y, verbose=0)
    assert isinstance(both, list) and [type(v) for v in both] == [float, float]
    assert model.evaluate(X, Y, verbose=0, return_dict=True) == {
        "accuracy": both[1],
        "loss": both[0],
    }
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert isinstance(model.evaluate(X, Y, verbose=0), float)
    assert model.metrics_names == ["loss"]


def test_steps():
    model = compiled()
    assert model.fit(X, Y, steps_per_epoch=4, verbose=0).params["steps"] == 4  # batches of 40
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    with pytest.warns(UserWarning, match="ran out after 2 of 3 batches"):  # there are 5 in all
        model.fit(X, Y, batch_size=32, steps_per_epoch=3, epochs=2, verbose=0, callbacks=[record])
    assert seen == [0, 1, 2, 0, 1]


def test_validation_steps_always_take_the_same_batches():
    model = linear()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x, y = np.arange(12, dtype="float32").reshape(4, 3), np.zeros((4, 1))
    options = {"validation_steps": 1, "validation_batch_size": 2, "epochs": 3, "verbose": 0}
    first = model.evaluate(x[:2], y[:2], verbose=0)
    history = model.fit(x, y, validation_data=(x, y), **options).history
    assert history["val_loss"] == [first] * 3
    # A generator cannot start anew.
    batches = iter([(x[i : i + 1], y[:1]) for i in range(3)])
    history = model.fit(x, y, validation_data=batches, **options).history
    assert len(set(history["val_loss"])) == 3


def test_labels_of_any_integer_type_train_alike():
    histories = []
    for dtype in ("uint8", "int32", "int64", "uint64", "float64"):
        keras.utils.set_random_seed(1)
        histories.append(compiled().fit(X, Y.astype(dtype), verbose=0).history)
    assert all(history == histories[0] for history in histories)


def test_a_model_without_optimizer_evaluates():
    model = compiled()
    expected = model.evaluate(X, Y, verbose=0)
    model.compile(None, "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert model.evaluate(X, Y, verbose=0) == expected
    with pytest.raises(ValueError, match="expected an optimizer"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("output", [None, "text", np.float32(1)])
def test_outputs_that_are_no_arrays(output):
    class Odd(keras.Model):
        def call(self, inputs):
            return output

    with pytest.raises(ValueError, match="arrays with a batch axis, got"):
        Odd().predict(X, verbose=0)


def test_a_loss_that_gives_nothing():
    with pytest.raises(TypeError, match="expected the losses as a tensor, got None"):
        compiled(loss=lambda y_true, y_pred: None).fit(X, Y, verbose=0)


def test_steps_beyond_the_data_warn():
    data = iter([(X[:8], Y[:8])] * 3)
    with pytest.warns(UserWarning, match="ran out after 1 of 2 batches"):
        compiled().fit(data, steps_per_epoch=2, epochs=2, verbose=0)


def test_steps_per_execution_groups_the_callbacks():
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(("begin", batch)),
        on_train_batch_end=lambda batch, logs: seen.append(("end", batch)),
    )
    compiled(steps_per_execution=2).fit(X, Y, verbose=0, callbacks=[record])
    assert seen == [("begin", 0), ("end", 1), ("begin", 2), ("end", 3), ("begin", 4), ("end", 4)]


def test_environment_caps(monkeypatch):
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "1")
    monkeypatch.setenv("KERAS_MAX_STEPS_PER_EPOCH", "2")
    with pytest.warns(UserWarning, match="Limiting") as caught:
        history = compiled().fit(X, Y, epochs=3, verbose=0)
    assert {str(w.message) for w in caught} == {
        "Limiting epochs to 1",
        "Limiting steps_per_epoch to 2",
    }
    assert history.epoch == [0] and history.params["steps"] == 2
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "few")
    with pytest.raises(
        ValueError, match="KERAS_MAX_EPOCHS: expected a positive integer, got 'few'"
    ):
        compiled().fit(X, Y, verbose=0)


# -- sources of data -------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.events = []

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return X[index * 32 : (index + 1) * 32], Y[index * 32 : (index + 1) * 32]

    def on_epoch_begin(self):
        self.events.append("begin")

    def on_epoch_end(self):
        self.events.append("end")


def generator(batches=5, forever=False):
    for i in itertools.count() if forever else range(batches):
        part = slice(i % 5 * 32, (i % 5 + 1) * 32)
        yield X[part].astype("float64"), Y[part]


@pytest.mark.parametrize(
    "source", [Batches, lambda: Batches(workers=3), generator, lambda: list(generator()).__iter__()]
)
def test_batch_sources_train_like_arrays(source):
    keras.utils.set_random_seed(3)
    a = compiled()
    b = compiled()
    b.set_weights(a.get_weights())
    a.fit(X, Y, shuffle=False, verbose=0)
    b.fit(source(), shuffle=False, verbose=0)
    assert same_weights(a, b)
    assert a.evaluate(X, Y, verbose=0) == b.evaluate(source(), verbose=0)
    np.testing.assert_array_equal(a.predict(X, verbose=0), b.predict(source(), verbose=0))


def test_dataset_hooks_and_class_weights():
    data = Batches()
    compiled().fit(data, epochs=2, verbose=0, class_weight={0: 0.0})
    assert data.events == ["begin", "end"] * 2


def test_endless_generator_with_steps():
    model = compiled()
    history = model.fit(
        generator(forever=True),
        epochs=2,
        steps_per_epoch=3,
        verbose=0,
        validation_data=generator(forever=True),
        validation_steps=2,
    )
    assert len(history.history["val_loss"]) == 2 and int(model.optimizer.iterations) == 6


def test_torch_style_loader():
    class Loader:
        def __iter__(self):
            return (list(batch) for batch in generator())

    history = compiled().fit(Loader(), epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (generator, {"y": Y}, "y: expected None, since generator yields whole batches"),
        (lambda: iter([]), {}, "the data source is empty"),
        (lambda: iter(["nonsense"]), {}, "batches as tuples"),
        (lambda: iter([(X, Y, Y, Y)]), {}, "got 4 items"),
        (generator, {"validation_split": 0.1}, "validation_split: expected x to be arrays"),
        (object, {}, "got object"),
    ],
)
def test_bad_sources(source, options, message):
    with pytest.raises(ValueError, match=message):
        compiled().fit(source(), verbose=0, **options)


def test_errors_in_worker_threads_arrive():
    class Broken(Batches):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("disk on fire")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="disk on fire"):
        compiled().fit(Broken(workers=2), shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="workers are threads"):
        Batches(use_multiprocessing=True)


def test_prediction_of_more_than_one_batch_keeps_the_order():
    x = np.arange(70.0)[:, None]
    np.testing.assert_array_equal(linear(features=1).predict(x, verbose=0), x)
    assert linear(features=1).predict_on_batch(x[:3]).tolist() == [[0.0], [1.0], [2.0]]


# -- subclassed models -----------------------------------------------------------------------------


class Net(keras.Model):
    def __init__(self, rate=0.5):
        super().__init__()
        self.flat = layers.Flatten()
        self.hidden = [layers.Dense(16, activation="relu"), layers.Dropout(rate)]
        self.head = layers.Dense(10, activation="softmax")

    def call(self, x, training=False):
        x = self.flat(x)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


def test_subclassed_model_trains_and_passes_training_on():
    model = Net()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(X, Y, epochs=2, verbose=0)
    assert model.count_params() == 64 * 16 + 16 + 16 * 10 + 10
    assert [layer.name.split("_")[0] for layer in model.layers] == [
        "flatten",
        "dense",
        "dropout",
        "dense",
    ]
    a, b = model.predict(X, verbose=0), model.predict(X, verbose=0)
    np.testing.assert_array_equal(a, b)
    active, again = np.asarray(model(X, training=True)), np.asarray(model(X, training=True))
    assert not np.array_equal(active, again)


def test_model_without_call():
    with pytest.raises(NotImplementedError, match="must define call"):
        keras.Model()(np.ones((1, 2)))


class Two(keras.Model):
    def __init__(self, form):
        super().__init__()
        self.form = form
        self.a = layers.Dense(1, use_bias=False, kernel_initializer="ones")
        self.b = layers.Dense(1, use_bias=False, kernel_initializer="zeros")

    def call(self, x, training=False):
        a, b = self.a(x), self.b(x)
        return {"p": a, "q": b} if self.form is dict else [a, b]


@pytest.mark.parametrize("form", [dict, list])
def test_several_outputs(form):
    x = np.ones((4, 3), "float32")
    model = Two(form)
    if form is dict:
        y = {"p": np.zeros(4), "q": np.ones(4)}
        model.compile(
            optimizers.SGD(0.0),
            {"p": "mse", "q": "mae"},
            loss_weights={"p": 1.0, "q": 0.5},
            metrics={"p": ["mae"], "q": ["mse"]},
        )
        expected = {"loss": 9.5, "p_loss": 9.0, "q_loss": 1.0, "p_mae": 3.0, "q_mse": 1.0}
    else:
        y = [np.zeros(4), np.ones(4)]
        model.compile(
            optimizers.SGD(0.0), ["mse", "mae"], loss_weights=[1.0, 0.5], metrics=[["mae"], ["mse"]]
        )
        expected = {"loss": 9.5, "mse_loss": 9.0, "mae_loss": 1.0, "mae": 3.0, "mse": 1.0}
    history = model.fit(x, y, batch_size=3, verbose=0)
    assert history.history == {name: [value] for name, value in sorted(expected.items())}
    assert model.evaluate(x, y, verbose=0, return_dict=True) == expected
    out = model.predict(x, verbose=0)
    assert type(out) is form and len(out) == 2
    with pytest.raises(ValueError, match="y: expected one item per output"):
        model.fit(x, np.zeros(4), verbose=0)


def test_dictionary_inputs():
    class Sum(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(1)

        def call(self, inputs, training=False):
            return self.dense(inputs["a"] + inputs["b"])

    x = {"a": np.ones((6, 2)), "b": np.zeros((6, 2))}
    model = Sum()
    model.compile("sgd", "mse")
    model.fit(x, np.zeros(6), batch_size=4, verbose=0)
    assert model.predict(x, verbose=0).shape == (6, 1)
    assert model.count_params() == 3


def test_custom_train_step_and_own_metrics():
    class Custom(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(10, activation="softmax")
            self.flat = layers.Flatten()
            self.seen = metrics.Mean(name="batch_size")

        def call(self, x, training=False):
            return self.dense(self.flat(x))

        def train_step(self, data):
            x, y = data
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
            self.zero_grad()
            loss.backward()
            variables = self.trainable_variables
            self.optimizer.apply([v.grad for v in variables], variables)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                elif metric.name == "batch_size":
                    metric.update_state(len(x))
                else:
                    metric.update_state(y, y_pred)
            return {m.name: m.result() for m in self.metrics}

    model = Custom()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(X, Y, epochs=2, verbose=0)
    assert list(history.history) == ["accuracy", "batch_size", "loss"]
    assert history.history["batch_size"] == [32.0, 32.0]


def test_custom_compute_loss():
    class Custom(keras.Sequential):
        def compute_loss(self, x, y, y_pred, sample_weight):
            return ((y_pred - 1.0) * (y_pred - 1.0)).mean()

    model = Custom([keras.Input((3,)), layers.Dense(1)])
    model.compile(optimizers.SGD(0.1), metrics=["mae"])
    history = model.fit(np.ones((8, 3)), epochs=30, verbose=0)
    assert history.history["loss"][-1] < 1e-3


def test_regularisation_is_part_of_the_loss():
    layer = layers.Dense(1, use_bias=False, kernel_initializer="ones", kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(optimizers.SGD(0.0), "mse")
    x, y = np.ones((4, 3)), np.zeros(4)
    expected = pytest.approx(9.0 + 0.01 * 3)
    assert model.fit(x, y, batch_size=2, verbose=0).history["loss"][0] == expected
    assert model.evaluate(x, y, verbose=0) == expected
    model.compile(optimizers.SGD(0.0))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(0.03)


def test_targets_are_needed_by_compiled_losses_only():
    model = compiled()
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="expected targets y, got None"):
            method(X, verbose=0)


def test_no_loss_at_all():
    model = linear()
    model.compile("sgd")
    with pytest.raises(ValueError, match="pass a `loss`"):
        model.fit(np.ones((2, 3)), np.ones(2), verbose=0)


def test_frozen_layers_stay():
    model = cnn()
    model.layers[0].trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    before = model.get_weights()
    model.fit(X, Y, verbose=0)
    after = model.get_weights()
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [False, False, True, True, True, True]
    model.trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="no trainable weights"):
        model.fit(X, Y, verbose=0)


def test_loop_by_hand_equals_fit():
    keras.utils.set_random_seed(1)
    by_fit, by_hand = compiled(), cnn()
    by_hand.set_weights(by_fit.get_weights())
    by_fit.fit(X, Y, epochs=2, batch_size=32, shuffle=False, verbose=0)
    optimizer = optimizers.Adam()
    loss_fn = losses.SparseCategoricalCrossentropy()
    for _ in range(2):
        for start in range(0, len(X), 32):
            loss = loss_fn(Y[start : start + 32], by_hand(X[start : start + 32], training=True))
            loss.backward()
            optimizer.apply(by_hand.trainable_weights)
    assert same_weights(by_fit, by_hand)


# -- robustness ------------------------------------------------------------------------------------


def test_nan_loss_is_no_crash():
    model = compiled()
    history = model.fit(np.full_like(X, np.nan), Y, verbose=0)
    assert np.isnan(history.history["loss"][0])


def test_interrupt_leaves_the_model_whole():
    model = compiled()
    clean = compiled()

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, shuffle=False, verbose=0, callbacks=[Interrupt()])
    clean.set_weights(model.get_weights())
    for variable in model.trainable_weights:  # as if backward had been interrupted half way
        variable.grad = tilegrad.Tensor(np.ones(variable.shape, "float32"))
    for m in (model, clean):
        m.compile(optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
        m.fit(X, Y, shuffle=False, verbose=0)
    assert same_weights(model, clean)


def test_evaluate_from_within_a_callback():
    found = []

    class Check(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found.append(self.model.evaluate(X, Y, verbose=0, return_dict=True)["loss"])

    history = compiled().fit(X, Y, epochs=2, verbose=0, validation_data=(X, Y), callbacks=[Check()])
    assert found == history.history["val_loss"]


def test_learns():
    keras.utils.set_random_seed(0)
    model = compiled(optimizer=optimizers.Adam(0.01))
    model.fit(X, Y, epochs=20, verbose=0)
    assert model.evaluate(X, Y, verbose=0)[1] > 0.95


# -- reproducibility -------------------------------------------------------------------------------


REPRODUCE = """
    import hashlib, sys
    import numpy as np
    import tilegrad
    from tilegrad import keras
    from tilegrad.keras import layers

    rng = np.random.default_rng(0)
    x, y = rng.random((200, 12, 12, 1)).astype("float32"), rng.integers(0, 10, 200)
    for _ in range(2):
        keras.utils.set_random_seed(7)
        model = keras.Sequential([
            keras.Input((12, 12, 1)), layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(), layers.Flatten(), layers.Dropout(0.3),
            layers.Dense(64, activation="relu"), layers.Dense(10, activation="softmax"),
        ])
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=2, verbose=0)
        content = b"".join(w.tobytes() for w in model.get_weights())
        print(hashlib.sha256(content).hexdigest(), model.history.history["loss"][-1].hex())
"""


def test_same_bits_from_run_to_run_and_for_any_number_of_threads(compiled_isa):
    found = set()
    for threads in (1, 2, 3):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(REPRODUCE)],
            env={**os.environ, "TILEGRAD_THREADS": str(threads), **compiled_isa},
            capture_output=True,
            text=True,
            check=True,
        )
        found |= set(done.stdout.split("\n")[:2])
    assert len(found) == 1


@pytest.fixture
def compiled_isa(compiled):
    return {"TILEGRAD_ISA": compiled.name, "TILEGRAD_DEVICE": "cpu"}


def test_set_random_seed_covers_everything():
    import random

    found = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        found.append((random.random(), np.random.rand(), cnn().get_weights()[0].tolist()))
    assert found[0] == found[1]
    for bad in (-1, 2**32, 1.5, None, True):
        with pytest.raises(ValueError, match="set_random_seed"):
            keras.utils.set_random_seed(bad)


# -- summary ---------------------------------------------------------------------------------------


def summary(model, **options):
    text = []
    model.summary(print_fn=text.append, line_length=76, **options)
    assert len(text) == 1
    return text[0]


def test_summary_has_the_numbers_of_keras(oracle):
    keras.backend.clear_session()
    oracle.backend.clear_session()
    ours, theirs = summary(cnn(), positions=[0.45, 0.8, 1.0]), []
    cnn(oracle).summary(print_fn=theirs.append, line_length=76)
    ours = ours.splitlines()
    assert ours[:-1] == theirs[0].splitlines()[: len(ours) - 1]
    assert ours[-1] == " Forward FLOPs per sample: 4,064 (4.06 KFLOP)"


def test_summary_counts_flops_and_bytes():
    text = summary(cnn())
    assert "FLOPs" in text and "2.59 K" in text and "1.15 K" in text
    assert " Total params: 802 (3.13 KB)" in text


def test_summary_with_optimizer_state(oracle):
    model = compiled()
    model.fit(X, Y, verbose=0)
    text = summary(model)
    assert " Optimizer params: 1,606 (6.28 KB)" in text
    assert " Total params: 2,408 (9.41 KB)" in text


def test_summary_of_an_unbuilt_model():
    text = summary(keras.Sequential([layers.Dense(3)]))
    assert "?" in text and "unbuilt" in text and "call build(input_shape)" in text


def test_summary_of_a_subclassed_model():
    model = Net()
    model(X[:2])
    text = summary(model, expand_nested=True, show_trainable=True)
    assert "(None, 64)" in text and "(None, 10)" in text and "1,040" in text
    assert " Forward FLOPs per sample: 2,368 (2.37 KFLOP)" in text
    assert model.layers[0].call.__func__ is layers.Flatten.call  # the recorders are gone


def test_summary_expands_nested_models():
    inner = keras.Sequential([layers.Dense(4), layers.Dense(5)], name="inner")
    model = keras.Sequential([keras.Input((3,)), inner])
    assert "└ dense" not in summary(model)
    assert summary(model, expand_nested=True).count("└ dense") == 2


def test_summary_layer_range():
    model = cnn()
    names = [layer.name for layer in model.layers]
    text = summary(model, layer_range=[names[1], names[2]])
    assert names[1] in text and names[2] in text and names[4] not in text
    with pytest.raises(ValueError, match="layer_range"):
        summary(model, layer_range=["no_such", "layer"])
    with pytest.raises(ValueError, match="positions"):
        summary(model, positions=[0.5, 1.0])


def test_summary_prints_to_stdout_without_codes_in_a_log(capsys):
    cnn().summary()
    out = capsys.readouterr().out
    assert "\x1b" not in out and "Total params: 802" in out


# -- configuration and utilities -------------------------------------------------------------------


def test_config_round_trip():
    model = cnn()
    again = keras.Sequential.from_config(model.get_config())
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


def test_config_of_keras_is_understood(oracle):
    theirs = cnn(oracle)
    ours = keras.Sequential.from_config(theirs.get_config())
    assert [w.shape for w in ours.weights] == [tuple(w.shape) for w in theirs.weights]


def test_to_categorical():
    to_categorical = keras.utils.to_categorical
    np.testing.assert_array_equal(to_categorical([0, 2]), [[1, 0, 0], [0, 0, 1]])
    assert to_categorical(np.zeros((3, 4, 1)), 5).shape == (3, 4, 5)
    for bad in ([-1], [3]):
        with pytest.raises(ValueError, match=r"labels in \[0, 3\)"):
            to_categorical(bad, 3)


def test_normalize():
    x = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(keras.utils.normalize(x), [[0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(keras.utils.normalize(x, axis=0, order=1), [[1, 1], [0, 0]])


def test_pack_and_unpack():
    pack, unpack = keras.utils.pack_x_y_sample_weight, keras.utils.unpack_x_y_sample_weight
    assert (
        pack(1) == 1 and pack([1]) == ([1],) and pack(1, 2) == (1, 2) and pack(1, 2, 3) == (1, 2, 3)
    )
    assert unpack(1) == (1, None, None) and unpack((1,)) == (1, None, None)
    assert unpack([1, 2]) == (1, 2, None) and unpack((1, 2, 3)) == (1, 2, 3)
    with pytest.raises(ValueError, match="got 4 items"):
        unpack((1, 2, 3, 4))


def test_repr_and_stringio_do_not_matter():
    model = cnn()
    buffer = io.StringIO()
    model.summary(print_fn=buffer.write)
    assert model.name in buffer.getvalue() and model.name in repr(model)
