"""Metrics: numbers that are shown and watched, not minimised.

A metric gathers batches (`update_state`) and gives one float for all of them (`result`). What a
loss is too comes from `losses`; the rest is plain NumPy. On a GPU, means of functions and the
accuracies are computed there and read when somebody asks for the result; confusion counts and what
is made of them (precision, AUC, F scores) copy each batch to the host. Notation: p = y_pred,
t = y_true, w = sample_weight. Metrics with ``_direction`` "up" are better when larger, "down" when
smaller; callbacks in mode "auto" go by that.
"""

from __future__ import annotations

import numpy as np

from .. import backend
from . import losses
from .config import epsilon
from .identifiers import Registry
from .losses import (
    binary_crossentropy,
    categorical_crossentropy,
    categorical_hinge,
    hinge,
    huber,
    kl_divergence,
    log_cosh,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
    poisson,
    sparse_categorical_crossentropy,
    squared_hinge,
)
from .naming import auto_name
from .targets import alike, as_array, as_labels, match, match_rank
from .variable import Variable


class Metric:
    """Base: a subclass has ``update_state(y_true, y_pred, sample_weight=None)`` and ``result()``.

    State may be any attributes that `reset_state` resets, or variables from `add_variable`, which
    the default `reset_state` fills with zeros.

    Args:
        dtype: None or "float32", as Keras has it.
        name: snake_case class name and a counter by default.

    >>> class Largest(Metric):
    ...     def __init__(self):
    ...         super().__init__(name="largest")
    ...         self.value = self.add_variable((), "zeros", name="value")
    ...     def update_state(self, y_true, y_pred, sample_weight=None):
    ...         self.value.assign(max(self.value.item(), float(np.max(y_pred))))
    ...     def result(self):
    ...         return self.value.item()
    >>> metric = Largest()
    >>> metric(None, [1.0, 3.0])
    3.0
    """

    def __init__(self, dtype=None, name=None):
        if dtype not in (None, "float32"):
            raise ValueError(f"{type(self).__name__}: expected dtype 'float32', got {dtype!r}")
        self.name = auto_name(type(self).__name__) if name is None else name
        self.dtype = "float32"
        self._variables: list[Variable] = []

    def update_state(self, *args, **kwargs):
        raise NotImplementedError(f"{type(self).__name__} has no update_state")

    def result(self):
        raise NotImplementedError(f"{type(self).__name__} has no result")

    def settle(self) -> None:
        """Read what is still on a GPU, so that the attributes hold the whole state."""

    def reset_state(self) -> None:
        """Forget all batches."""
        for variable in self._variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))

    def __call__(self, *args, **kwargs):
        """Take a batch and return the result so far."""
        self.update_state(*args, **kwargs)
        return self.result()

    def add_variable(self, shape, initializer, dtype=None, aggregation=None, name=None) -> Variable:
        """A variable for the state of a metric of your own."""
        from . import initializers

        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        variable = Variable(initializers.get(initializer), shape, dtype, trainable=False, name=name)
        self._variables.append(variable)
        return variable

    def add_weight(self, shape=(), initializer=None, dtype=None, name=None) -> Variable:
        """`add_variable` with Keras's other name and order."""
        return self.add_variable(shape, initializer or "zeros", dtype, name=name)

    @property
    def variables(self) -> list[Variable]:
        """What `add_variable` made."""
        return list(self._variables)

    def get_config(self) -> dict:
        return {"name": self.name, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: dict):
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"


# -- means and sums --------------------------------------------------------------------------------


class _Total(Metric):
    """A total and a count, to which a batch adds numbers: floats, or arrays still on a GPU."""

    _UNREAD = 1024  # batches that wait on the GPU, at most

    def __init__(self, name, dtype):
        super().__init__(dtype, name)
        self.total = 0.0
        self.count = 0.0
        self._unread = []  # (total, factor of it, count) of batches

    def _add(self, total, count, factor=1.0):
        if isinstance(total, float) and isinstance(count, float):
            self.total += factor * total
            self.count += count
            return
        self._unread.append((total, factor, count))
        if len(self._unread) >= self._UNREAD:
            self.settle()

    def settle(self):
        if not self._unread:
            return
        batches, self._unread = self._unread, []
        arrays = [x for total, _, count in batches for x in (total, count) if backend.on_gpu(x)]
        read = dict(zip(map(id, arrays), backend.numbers(arrays), strict=True))
        for total, factor, count in batches:
            self.total += factor * read.get(id(total), total)
            self.count += read.get(id(count), count)

    def reset_state(self):
        self.total = 0.0
        self.count = 0.0
        self._unread = []


class Sum(_Total):
    """sum w x."""

    def __init__(self, name="sum", dtype=None):
        super().__init__(name, dtype)

    def update_state(self, values, sample_weight=None):
        self._add(*_weigh(values, sample_weight, "sum"))

    def result(self):
        self.settle()
        return float(self.total)


class Mean(_Total):
    """sum w x / sum w, and 0 before the first batch.

    >>> metric = Mean()
    >>> metric.update_state([1.0, 3.0], sample_weight=[3.0, 1.0])
    >>> metric.result()
    1.5
    """

    def __init__(self, name="mean", dtype=None):
        super().__init__(name, dtype)

    def update_state(self, values, sample_weight=None):
        if isinstance(values, float) and isinstance(sample_weight, (int, float)):
            self.total += values * sample_weight
            self.count += sample_weight
            return
        self._add(*_weigh(values, sample_weight))

    def update_from(self, value, count: int) -> None:
        """`update_state` with a scalar tensor for `count` samples; from a GPU it is read later."""
        if isinstance(value.data, np.ndarray):
            self.update_state(value.item(), count)
        else:
            self._add(value.data, float(count), count)

    def result(self):
        self.settle()
        return float(self.total / self.count) if self.count else 0.0


class MeanMetricWrapper(Mean):
    """The mean of a function ``fn(y_true, y_pred, **kwargs)`` over all samples."""

    def __init__(self, fn, name=None, dtype=None, **kwargs):
        super().__init__(getattr(fn, "__name__", None) if name is None else name, dtype)
        self._fn = fn
        self._fn_kwargs = kwargs

    def update_state(self, y_true, y_pred, sample_weight=None):
        values = self._fn(y_true, y_pred, **self._fn_kwargs)
        super().update_state(as_array(values, self.name), sample_weight)

    def get_config(self):
        if type(self) is MeanMetricWrapper:
            return super().get_config() | {"fn": self._fn.__name__} | self._fn_kwargs
        return super().get_config() | self._fn_kwargs

    @classmethod
    def from_config(cls, config):
        if cls is MeanMetricWrapper and isinstance(config.get("fn"), str):
            config = config | {"fn": globals().get(config["fn"]) or _registry.find(config["fn"])}
        return cls(**config)


# -- accuracies ------------------------------------------------------------------------------------


class Accuracy(MeanMetricWrapper):
    """The share of t == p.

    >>> Accuracy()([1, 2, 3, 4], [0, 2, 3, 4])
    0.75
    """

    _direction = "up"

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(accuracy, name, dtype)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


class BinaryAccuracy(MeanMetricWrapper):
    """The share of t == (p > threshold)."""

    _direction = "up"

    def __init__(self, name="binary_accuracy", dtype=None, threshold=0.5):
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(f"BinaryAccuracy: expected a threshold in (0, 1), got {threshold!r}")
        super().__init__(binary_accuracy, name, dtype, threshold=threshold)


class CategoricalAccuracy(MeanMetricWrapper):
    """The share of argmax t == argmax p."""

    _direction = "up"

    def __init__(self, name="categorical_accuracy", dtype=None):
        super().__init__(categorical_accuracy, name, dtype)


class SparseCategoricalAccuracy(MeanMetricWrapper):
    """The share of t == argmax p."""

    _direction = "up"

    def __init__(self, name="sparse_categorical_accuracy", dtype=None):
        super().__init__(sparse_categorical_accuracy, name, dtype)


class TopKCategoricalAccuracy(MeanMetricWrapper):
    """The share of samples whose argmax t is among the k largest p."""

    _direction = "up"

    def __init__(self, k=5, name="top_k_categorical_accuracy", dtype=None):
        super().__init__(top_k_categorical_accuracy, name, dtype, k=k)


class SparseTopKCategoricalAccuracy(MeanMetricWrapper):
    """The share of samples whose t is among the k largest p, or the first k ids in p."""

    _direction = "up"

    def __init__(
        self, k=5, name="sparse_top_k_categorical_accuracy", dtype=None, from_sorted_ids=False
    ):
        super().__init__(
            sparse_top_k_categorical_accuracy, name, dtype, k=k, from_sorted_ids=from_sorted_ids
        )


# -- errors ----------------------------------------------------------------------------------------


class _Distance(MeanMetricWrapper):
    _direction = "down"


class MeanSquaredError(_Distance):
    """mean (p - t)^2."""

    def __init__(self, name="mean_squared_error", dtype=None):
        super().__init__(mean_squared_error, name, dtype)


class RootMeanSquaredError(Mean):
    """sqrt mean (p - t)^2."""

    _direction = "down"

    def __init__(self, name="root_mean_squared_error", dtype=None):
        super().__init__(name, dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = _pair(y_true, y_pred)
        error = y_pred - y_true
        super().update_state(error * error, sample_weight)

    def result(self):
        return super().result() ** 0.5


class MeanAbsoluteError(_Distance):
    """mean |p - t|."""

    def __init__(self, name="mean_absolute_error", dtype=None):
        super().__init__(mean_absolute_error, name, dtype)


class MeanAbsolutePercentageError(_Distance):
    """100 mean |p - t| / max(|t|, eps)."""

    def __init__(self, name="mean_absolute_percentage_error", dtype=None):
        super().__init__(mean_absolute_percentage_error, name, dtype)


class MeanSquaredLogarithmicError(_Distance):
    """mean (log(max(p, eps) + 1) - log(max(t, eps) + 1))^2."""

    def __init__(self, name="mean_squared_logarithmic_error", dtype=None):
        super().__init__(mean_squared_logarithmic_error, name, dtype)


class LogCoshError(_Distance):
    """mean log cosh(p - t)."""

    def __init__(self, name="logcosh", dtype=None):
        super().__init__(log_cosh, name, dtype)


class Hinge(_Distance):
    """mean max(1 - t p, 0)."""

    def __init__(self, name="hinge", dtype=None):
        super().__init__(hinge, name, dtype)


class SquaredHinge(_Distance):
    """mean max(1 - t p, 0)^2."""

    def __init__(self, name="squared_hinge", dtype=None):
        super().__init__(squared_hinge, name, dtype)


class CategoricalHinge(_Distance):
    """max(max((1 - t) p) - sum t p + 1, 0)."""

    def __init__(self, name="categorical_hinge", dtype=None):
        super().__init__(categorical_hinge, name, dtype)


class KLDivergence(_Distance):
    """sum t log(t / p)."""

    def __init__(self, name="kl_divergence", dtype=None):
        super().__init__(kl_divergence, name, dtype)


class Poisson(_Distance):
    """mean p - t log(p + eps)."""

    def __init__(self, name="poisson", dtype=None):
        super().__init__(poisson, name, dtype)


class CosineSimilarity(MeanMetricWrapper):
    """sum t p / (|t| |p|) along `axis`: 1 for the same direction (the loss has the other sign)."""

    _direction = "up"

    def __init__(self, name="cosine_similarity", dtype=None, axis=-1):
        super().__init__(cosine_similarity, name, dtype, axis=axis)


class BinaryCrossentropy(_Distance):
    """mean -t log p - (1 - t) log(1 - p)."""

    def __init__(
        self, name="binary_crossentropy", dtype=None, from_logits=False, label_smoothing=0
    ):
        super().__init__(
            binary_crossentropy,
            name,
            dtype,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
        )


class CategoricalCrossentropy(_Distance):
    """-sum t log p."""

    def __init__(
        self,
        name="categorical_crossentropy",
        dtype=None,
        from_logits=False,
        label_smoothing=0,
        axis=-1,
    ):
        super().__init__(
            categorical_crossentropy,
            name,
            dtype,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
        )


class SparseCategoricalCrossentropy(_Distance):
    """-log p[t]; where t is `ignore_class` a sample counts as 0 (as a loss it does not count)."""

    def __init__(
        self,
        name="sparse_categorical_crossentropy",
        dtype=None,
        from_logits=False,
        ignore_class=None,
        axis=-1,
    ):
        super().__init__(
            sparse_categorical_crossentropy,
            name,
            dtype,
            from_logits=from_logits,
            ignore_class=ignore_class,
            axis=axis,
        )


# -- decisions -------------------------------------------------------------------------------------


class _Confusion(Metric):
    """Weighted counts of right and wrong decisions p > threshold, one per threshold."""

    def __init__(self, thresholds=None, top_k=None, class_id=None, name=None, dtype=None):
        super().__init__(dtype, name)
        cls = type(self).__name__
        self.init_thresholds = thresholds
        default = float("-inf") if top_k is not None else 0.5
        self.thresholds = np.atleast_1d(default if thresholds is None else thresholds).astype(float)
        if thresholds is not None and not ((self.thresholds >= 0) & (self.thresholds <= 1)).all():
            raise ValueError(f"{cls}: expected thresholds in [0, 1], got {thresholds}")
        self.top_k = top_k
        self.class_id = class_id
        self.reset_state()

    def reset_state(self):
        zeros = np.zeros(len(self.thresholds))
        self.true_positives = zeros.copy()
        self.false_positives = zeros.copy()
        self.false_negatives = zeros.copy()
        self.true_negatives = zeros.copy()

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = map(backend.to_numpy, _pair(y_true, y_pred))
        if y_true.shape != y_pred.shape:
            raise ValueError(
                f"{self.name}: expected y_true of y_pred's shape {y_pred.shape}, got {y_true.shape}"
            )
        if self.class_id is not None and not 0 <= self.class_id < y_pred.shape[-1]:
            raise ValueError(
                f"{self.name}: expected class_id={self.class_id} among the columns of y_pred, "
                f"got shape {y_pred.shape}"
            )
        weight = None if sample_weight is None else _match(sample_weight, y_pred)
        if self.top_k is not None:
            kept = np.argsort(-y_pred, -1, kind="stable")[..., : self.top_k]
            largest = np.full_like(y_pred, -np.inf)
            np.put_along_axis(largest, kept, np.take_along_axis(y_pred, kept, -1), -1)
            y_pred = largest
        if self.class_id is not None:
            y_true, y_pred = y_true[..., self.class_id], y_pred[..., self.class_id]
            weight = None if weight is None else weight[..., self.class_id]
        actual = y_true.reshape(-1).astype(bool)
        counts = _count(self.thresholds, actual, y_pred.reshape(-1), weight)
        self.true_positives += counts[0]
        self.false_positives += counts[1]
        self.false_negatives += counts[2]
        self.true_negatives += counts[3]

    def _value(self, value):
        return float(value[0]) if len(value) == 1 else value

    def get_config(self):
        settings = {
            "thresholds": self.init_thresholds,
            "top_k": self.top_k,
            "class_id": self.class_id,
        }
        return super().get_config() | settings


class Precision(_Confusion):
    """tp / (tp + fp): how many of the positive decisions are right.

    Args:
        thresholds: a decision is p > threshold; one number (0.5 by default) or a list.
        top_k: only the k largest p of a sample are positive.
        class_id: only this column counts.

    >>> Precision()([0, 1, 1, 1], [1, 0, 1, 1])
    0.6666666666666666
    """

    _direction = "up"

    def result(self):
        return self._value(_divide(self.true_positives, self.true_positives + self.false_positives))


class Recall(_Confusion):
    """tp / (tp + fn): how many of the positives are found; arguments as for `Precision`."""

    _direction = "up"

    def result(self):
        return self._value(_divide(self.true_positives, self.true_positives + self.false_negatives))


class _Count(_Confusion):
    _which = ""

    def __init__(self, thresholds=None, name=None, dtype=None):
        super().__init__(thresholds, name=name, dtype=dtype)

    def result(self):
        return self._value(getattr(self, self._which))

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype, "thresholds": self.init_thresholds}


class TruePositives(_Count):
    """How many t = 1 have p > threshold."""

    _which = "true_positives"


class FalsePositives(_Count):
    """How many t = 0 have p > threshold."""

    _which = "false_positives"


class TrueNegatives(_Count):
    """How many t = 0 have p <= threshold."""

    _which = "true_negatives"


class FalseNegatives(_Count):
    """How many t = 1 have p <= threshold."""

    _which = "false_negatives"


class AUC(_Confusion):
    """Area under the ROC (or precision-recall) curve, from counts at `num_thresholds` thresholds.

    Args:
        num_thresholds: evenly spaced in [0, 1], at least 2.
        curve: "ROC" or "PR".
        summation_method: "interpolation", "minoring" or "majoring".
        thresholds: the inner thresholds, instead of num_thresholds.
        from_logits: apply a sigmoid to p first.

    Raises:
        ValueError: a bad argument, or p outside [0, 1].
    """

    _direction = "up"

    def __init__(
        self,
        num_thresholds=200,
        curve="ROC",
        summation_method="interpolation",
        name=None,
        dtype=None,
        thresholds=None,
        multi_label=False,
        num_labels=None,
        label_weights=None,
        from_logits=False,
    ):
        if str(curve).upper() not in ("ROC", "PR"):
            raise ValueError(f"AUC: expected curve 'ROC' or 'PR', got {curve!r}")
        if summation_method not in ("interpolation", "minoring", "majoring"):
            raise ValueError(
                "AUC: expected summation_method 'interpolation', 'minoring' or 'majoring', "
                f"got {summation_method!r}"
            )
        if multi_label or num_labels is not None or label_weights is not None:
            raise ValueError("AUC: multi_label is not supported; use one AUC per label")
        if thresholds is None:
            if num_thresholds < 2:
                raise ValueError(
                    f"AUC: expected num_thresholds of at least 2, got {num_thresholds}"
                )
            inner = [(i + 1) / (num_thresholds - 1) for i in range(num_thresholds - 2)]
        else:
            inner = sorted(float(t) for t in thresholds)
            if inner and not 0 <= inner[0] <= inner[-1] <= 1:
                raise ValueError(f"AUC: expected thresholds in [0, 1], got {thresholds}")
        super().__init__(name=name, dtype=dtype)
        self._given_thresholds = thresholds
        self.num_thresholds = len(inner) + 2
        # just outside [0, 1], so that p = 0 and p = 1 fall between two thresholds
        self.thresholds = np.array([-1e-7, *inner, 1 + 1e-7])
        self.curve = str(curve).upper()
        self.summation_method = summation_method
        self.from_logits = from_logits
        self.reset_state()

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_pred = backend.to_numpy(as_array(y_pred))
        if self.from_logits:
            y_pred = _sigmoid(y_pred)
        if y_pred.size and not (y_pred.min() >= 0 and y_pred.max() <= 1):
            raise ValueError(
                f"AUC: expected y_pred in [0, 1], got values from {y_pred.min()} to {y_pred.max()}"
            )
        super().update_state(y_true, y_pred, sample_weight)

    def result(self):
        tp, fp = self.true_positives, self.false_positives
        recall = _divide(tp, tp + self.false_negatives)
        if self.curve == "PR":
            if self.summation_method == "interpolation":
                return self._interpolated_pr(tp, fp)
            x, y = recall, _divide(tp, tp + fp)
        else:
            x, y = _divide(fp, fp + self.true_negatives), recall
        if self.summation_method == "interpolation":
            heights = (y[:-1] + y[1:]) / 2
        elif self.summation_method == "minoring":
            heights = np.minimum(y[:-1], y[1:])
        else:
            heights = np.maximum(y[:-1], y[1:])
        return float(np.sum((x[:-1] - x[1:]) * heights))

    def _interpolated_pr(self, tp, fp):
        """tp and fp, not precision, are linear in between (Davis and Goadrich, ICML 2006)."""
        positives = tp + fp
        d_tp, d_p = tp[:-1] - tp[1:], positives[:-1] - positives[1:]
        slope = _divide(d_tp, np.maximum(d_p, 0))
        intercept = tp[1:] - slope * positives[1:]
        both = (positives[:-1] > 0) & (positives[1:] > 0)
        ratio = np.where(both, _divide(positives[:-1], np.maximum(positives[1:], 0)), 1.0)
        area = slope * (d_tp + intercept * np.log(ratio))
        return float(np.sum(_divide(area, np.maximum(tp[1:] + self.false_negatives[1:], 0))))

    def get_config(self):
        config = {
            "name": self.name,
            "dtype": self.dtype,
            "num_thresholds": self.num_thresholds,
            "curve": self.curve,
            "summation_method": self.summation_method,
            "multi_label": False,
            "num_labels": None,
            "label_weights": None,
            "from_logits": self.from_logits,
        }
        if self._given_thresholds is not None:
            config["thresholds"] = list(self._given_thresholds)
        return config


class FBetaScore(Metric):
    """(1 + beta^2) precision recall / (beta^2 precision + recall), per class.

    Args:
        average: None for one number per class, "micro", "macro" or "weighted" (by the number of t).
        beta: how much more recall counts.
        threshold: p > threshold is positive; None takes the largest p of each sample.

    Raises:
        ValueError: a bad argument, y_true and y_pred that are not of one shape (n, classes).
    """

    _direction = "up"

    def __init__(self, average=None, beta=1.0, threshold=None, name="fbeta_score", dtype=None):
        super().__init__(dtype, name)
        cls = type(self).__name__
        if average not in (None, "micro", "macro", "weighted"):
            raise ValueError(
                f"{cls}: expected average None, micro, macro or weighted, got {average!r}"
            )
        if not isinstance(beta, float) or beta <= 0:
            raise ValueError(f"{cls}: expected beta to be a float > 0, got {beta!r}")
        if threshold is not None and not (isinstance(threshold, float) and 0 < threshold <= 1):
            raise ValueError(
                f"{cls}: expected threshold to be a float in (0, 1], got {threshold!r}"
            )
        self.average = average
        self.beta = beta
        self.threshold = threshold
        self.reset_state()

    def reset_state(self):
        self._counts = None  # (tp, fp, fn, weight of t), each per class or one for all

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = map(backend.to_numpy, _pair(y_true, y_pred))
        if y_pred.ndim != 2 or y_true.shape != y_pred.shape:
            raise ValueError(
                f"{type(self).__name__}: expected y_true and y_pred of one shape (n, classes), "
                f"got {y_true.shape} and {y_pred.shape}"
            )
        if self.threshold is None:
            decision = (y_pred == y_pred.max(-1, keepdims=True)) & (abs(y_pred) > 1e-9)
        else:
            decision = y_pred > self.threshold
        weight = 1.0
        if sample_weight is not None:
            weight = backend.to_numpy(as_array(sample_weight)).astype(float).reshape(-1, 1)
        axis = None if self.average == "micro" else 0
        actual, decision = y_true.astype(float), decision.astype(float)
        counts = np.array(
            [
                np.sum(decision * actual * weight, axis),
                np.sum(decision * (1 - actual) * weight, axis),
                np.sum((1 - decision) * actual * weight, axis),
                np.sum(actual * weight, axis),
            ]
        )
        self._counts = counts if self._counts is None else self._counts + counts

    def result(self):
        if self._counts is None:
            return 0.0
        tp, fp, fn, actual = self._counts
        precision = tp / (tp + fp + epsilon())
        recall = tp / (tp + fn + epsilon())
        square = self.beta**2
        score = (1 + square) * precision * recall / (square * precision + recall + epsilon())
        if self.average == "weighted":
            return float(np.sum(score * actual / (actual.sum() + epsilon())))
        return score if self.average is None else float(np.mean(score))

    def get_config(self):
        settings = {"average": self.average, "beta": self.beta, "threshold": self.threshold}
        return super().get_config() | settings


class F1Score(FBetaScore):
    """The harmonic mean of precision and recall; arguments as for `FBetaScore`."""

    def __init__(self, average=None, threshold=None, name="f1_score", dtype=None):
        super().__init__(average, 1.0, threshold, name, dtype)

    def get_config(self):
        config = super().get_config()
        del config["beta"]
        return config


# -- functions: one value per sample ---------------------------------------------------------------


def accuracy(y_true, y_pred):
    """1 where t == p, else 0."""
    y_true, y_pred = match(*_arrays(y_true, y_pred))
    return (y_true == y_pred).astype(np.float32)


def binary_accuracy(y_true, y_pred, threshold=0.5):
    """The share of t == (p > threshold) along the last axis."""
    y_true, y_pred = match(*_arrays(y_true, y_pred))
    right = y_true == (y_pred > (0.5 if threshold is None else threshold))
    return (
        right[..., 0].astype(np.float32)
        if right.shape[-1:] == (1,)
        else right.mean(-1, dtype=np.float32)
    )


def categorical_accuracy(y_true, y_pred):
    """1 where argmax t == argmax p, else 0."""
    return sparse_categorical_accuracy(as_array(y_true).argmax(-1), y_pred)


def sparse_categorical_accuracy(y_true, y_pred):
    """1 where t == argmax p, else 0."""
    y_true, y_pred = _arrays(y_true, y_pred)
    return (as_labels(y_true, y_pred) == y_pred.argmax(-1)).astype(np.float32)


def top_k_categorical_accuracy(y_true, y_pred, k=5):
    """1 where argmax t is among the k largest p, else 0."""
    return sparse_top_k_categorical_accuracy(as_array(y_true).argmax(-1), y_pred, k)


def sparse_top_k_categorical_accuracy(y_true, y_pred, k=5, from_sorted_ids=False):
    """1 where t is among the k largest p, else 0; ties with the k-th count as in."""
    y_true, y_pred = _arrays(y_true, y_pred)
    labels, xp = as_labels(y_true, y_pred), backend.namespace(y_pred)
    if from_sorted_ids:
        return (y_pred[..., :k] == labels[..., None]).any(-1).astype(np.float32)
    known = (labels >= 0) & (labels < y_pred.shape[-1])
    at = xp.where(known, labels, 0).astype(np.int64)
    own = xp.take_along_axis(y_pred, at[..., None], -1)
    larger = (y_pred > own).sum(-1)
    return (known & (larger < k) & xp.isfinite(own[..., 0])).astype(np.float32)


def cosine_similarity(y_true, y_pred, axis=-1):
    """sum t p / (|t| |p|) along `axis`."""
    return -losses.cosine_similarity(y_true, y_pred, axis)


# -- conversions -----------------------------------------------------------------------------------


def _arrays(y_true, y_pred):
    """Both as arrays, in y_pred's memory."""
    y_pred = as_array(y_pred, "y_pred")
    return alike(as_array(y_true), y_pred), y_pred


def _pair(y_true, y_pred):
    """Both in one floating-point type, of one rank and in y_pred's memory."""
    y_true, y_pred = _arrays(y_true, y_pred)
    if y_pred.dtype.kind != "f":
        y_pred = y_pred.astype(np.float32)
    return match(y_true.astype(y_pred.dtype, copy=False), y_pred)


def _weigh(values, weight, reduce="mean"):
    """sum w x and sum w, floats, or on a GPU arrays of one element.

    A weight with fewer axes than x weighs x reduced over the other axes.
    """
    values = as_array(values)
    if weight is None:
        return _number(values.sum(dtype=np.float64)), float(values.size)
    weight = alike(as_array(weight), values).astype(np.float64)
    values, weight = match_rank(values, weight)
    if values.ndim > weight.ndim:
        axes = tuple(range(weight.ndim, values.ndim))
        values = getattr(values, reduce)(axes, dtype=np.float64)
    try:
        shape = np.broadcast_shapes(weight.shape, values.shape)
        weight = backend.namespace(weight).broadcast_to(weight, shape)
    except ValueError:
        raise ValueError(
            f"sample_weight: expected a shape that fits values of shape {values.shape}, "
            f"got {weight.shape}"
        ) from None
    return _number((values * weight).sum()), _number(weight.sum())


def _number(x):
    """A NumPy scalar as a float; what is on a GPU stays there."""
    return x if backend.on_gpu(x) else float(x)


def _match(weight, like):
    """Weights of `like`'s shape; one weight per sample counts for the whole sample."""
    weight = backend.to_numpy(as_array(weight)).astype(np.float64)
    while weight.ndim > like.ndim and weight.shape[-1] == 1:
        weight = weight[..., 0]
    weight = weight.reshape(weight.shape + (1,) * (like.ndim - weight.ndim))
    try:
        return np.broadcast_to(weight, like.shape)
    except ValueError:
        raise ValueError(
            f"sample_weight: expected a shape that fits {like.shape}, got {weight.shape}"
        ) from None


def _count(thresholds, actual, p, weight):
    """tp, fp, fn, tn at each threshold, by sorting p once."""
    weight = np.ones(len(p)) if weight is None else weight.reshape(-1)
    order = np.argsort(p, kind="stable")
    p, actual, weight = p[order], actual[order], weight[order]
    below = np.searchsorted(p, thresholds.astype(p.dtype), side="right")  # how many p <= threshold
    positive = np.concatenate([[0.0], np.cumsum(weight * actual)])
    negative = np.concatenate([[0.0], np.cumsum(weight * ~actual)])
    fn, tn = positive[below], negative[below]
    return positive[-1] - fn, negative[-1] - tn, fn, tn


def _divide(a, b):
    """a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.shape(a)), where=np.asarray(b) != 0)


def _sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -80, 80)))


_registry = Registry(
    "metric",
    "keras.metrics",
    (
        *(Sum, Mean, Accuracy, BinaryAccuracy, CategoricalAccuracy),
        *(SparseCategoricalAccuracy, TopKCategoricalAccuracy, SparseTopKCategoricalAccuracy),
        *(MeanSquaredError, RootMeanSquaredError, MeanAbsoluteError, MeanAbsolutePercentageError),
        *(MeanSquaredLogarithmicError, LogCoshError, Hinge, SquaredHinge, CategoricalHinge),
        *(KLDivergence, Poisson, CosineSimilarity, BinaryCrossentropy, CategoricalCrossentropy),
        *(SparseCategoricalCrossentropy, Precision, Recall, TruePositives, FalsePositives),
        *(TrueNegatives, FalseNegatives, AUC, FBetaScore, F1Score),
    ),
    aliases={
        **dict.fromkeys(("mse", "MSE"), MeanSquaredError),
        **dict.fromkeys(("mae", "MAE"), MeanAbsoluteError),
        **dict.fromkeys(("mape", "MAPE"), MeanAbsolutePercentageError),
        **dict.fromkeys(("msle", "MSLE"), MeanSquaredLogarithmicError),
        **dict.fromkeys(("bce", "BCE"), BinaryCrossentropy),
        **dict.fromkeys(("kld", "KLD"), KLDivergence),
        "MeanMetricWrapper": MeanMetricWrapper,
        "rmse": RootMeanSquaredError,
        "logcosh": LogCoshError,
        "log_cosh": LogCoshError,
        "huber": huber,
        "cosine_proximity": CosineSimilarity,
    },
)


def get(identifier):
    """The metric of a name, a config, a class, a callable or None (None).

    Raises:
        ValueError: an unknown name; the message lists all.

    >>> type(get("mse")).__name__
    'MeanSquaredError'
    """
    return _registry.get(identifier)


def serialize(metric):
    """The config of a metric."""
    return _registry.serialize(metric)


def deserialize(config, custom_objects=None):
    """The metric of a config or a name."""
    return _registry.deserialize(config, custom_objects)
