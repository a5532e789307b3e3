"""Losses: what training makes small.

Notation: p = y_pred, t = y_true, eps = `keras.config.epsilon()`. A function gives one loss per
sample, the mean (or sum) over the last axis; a class reduces those to a scalar, weighted if wanted.
Gradients flow to y_pred alone.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from .. import backend, ops, recording
from ..tensor import Tensor
from .config import epsilon
from .identifiers import Registry
from .naming import auto_name
from .targets import alike, as_array, as_labels, complain, match, match_rank

_REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None)
# what `ops.softmax_cross_entropy` calls them
_FUSED_REDUCTIONS = {"sum_over_batch_size": "mean", "mean": "mean", "sum": "sum"}
_FUSED_REDUCTIONS |= {"none": "none", None: "none"}


class Loss(recording.Watched):
    """Base: a subclass has ``call(y_true, y_pred)`` that gives a loss per sample, or per element.

    Args:
        name: snake_case class name by default.
        reduction: "sum_over_batch_size" and "mean": the sum over the number of losses, whatever the
            weights; "mean_with_sample_weight": over the sum of weights; "sum"; "none" or None.
        dtype: None or "float32".

    Raises:
        ValueError: an unknown reduction.
    """

    def __init__(self, name=None, reduction="sum_over_batch_size", dtype=None):
        if reduction not in _REDUCTIONS:
            expected = ", ".join(str(r) for r in _REDUCTIONS)
            raise ValueError(
                f"{type(self).__name__}: expected reduction {expected}, got {reduction!r}"
            )
        if dtype not in (None, "float32"):
            raise ValueError(f"{type(self).__name__}: expected dtype 'float32', got {dtype!r}")
        self.name = auto_name(type(self).__name__) if name is None else name
        self.reduction = reduction
        self.dtype = "float32"

    def __call__(self, y_true, y_pred, sample_weight=None) -> Tensor:
        """The reduced loss.

        Args:
            y_true: targets, array or tensor.
            y_pred: predictions.
            sample_weight: factors that broadcast to the losses, one per sample as a rule.
        """
        recording.guard(self, "edits")
        y_pred = _prediction(y_pred)
        return _reduce(self.call(y_true, y_pred), sample_weight, self.reduction)

    def call(self, y_true, y_pred) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no call(y_true, y_pred)")

    def check_targets(self, y_true, y_pred) -> None:
        """Look at all targets of a run at once, for batches of them that `call` will not look at.

        Raises:
            ValueError: a target that cannot go with predictions of y_pred's shape.
        """

    def get_config(self) -> dict:
        return {"name": self.name, "reduction": self.reduction}

    @classmethod
    def from_config(cls, config: dict) -> Loss:
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, reduction={self.reduction}>"


class LossFunctionWrapper(Loss):
    """A function ``fn(y_true, y_pred, **kwargs)`` as a loss."""

    def __init__(self, fn, reduction="sum_over_batch_size", name=None, dtype=None, **kwargs):
        super().__init__(name, reduction, dtype)
        self.fn = fn
        self._fn_kwargs = kwargs

    def __call__(self, y_true, y_pred, sample_weight=None):
        recording.guard(self, "edits")
        y_pred = _prediction(y_pred)
        fused = _FUSED.get(self.fn)
        if fused is not None:
            loss = fused(y_true, y_pred, sample_weight, self.reduction, **self._fn_kwargs)
            if loss is not None:
                return loss
        values = self.call(y_true, y_pred)
        weight = _ignored(self.fn, y_true, y_pred, sample_weight, self.reduction, self._fn_kwargs)
        return _reduce(values, weight, self.reduction)

    def check_targets(self, y_true, y_pred):
        options = self._fn_kwargs
        if self.fn is sparse_categorical_crossentropy and options.get("ignore_class") is None:
            labels = as_array(y_true)
            if labels.dtype.kind in "iu":
                _check_range(labels, y_pred.shape[options.get("axis", -1)])

    def call(self, y_true, y_pred):
        y_true, y_pred = match_rank(as_array(y_true), y_pred)
        if not isinstance(y_true, np.ndarray):  # a tensor is what NumPy can read, too
            y_true = Tensor(y_true)
        losses = self.fn(y_true, y_pred, **self._fn_kwargs)
        if losses is None:
            raise TypeError(f"{self.name}: expected the losses as a tensor, got None")
        return losses

    def get_config(self):
        if type(self) is LossFunctionWrapper:
            name = getattr(self.fn, "__name__", repr(self.fn))
            return super().get_config() | {"fn": name} | self._fn_kwargs
        return super().get_config() | self._fn_kwargs

    @classmethod
    def from_config(cls, config):
        if cls is LossFunctionWrapper and isinstance(config.get("fn"), str):
            config = config | {"fn": _registry.find(config["fn"])}
        return cls(**config)


class MeanSquaredError(LossFunctionWrapper):
    """mean (p - t)^2.

    >>> MeanSquaredError()([[0.0, 1.0]], [[1.0, 3.0]]).item()
    2.5
    """

    def __init__(self, reduction="sum_over_batch_size", name="mean_squared_error", dtype=None):
        super().__init__(mean_squared_error, reduction, name, dtype)


class MeanAbsoluteError(LossFunctionWrapper):
    """mean |p - t|."""

    def __init__(self, reduction="sum_over_batch_size", name="mean_absolute_error", dtype=None):
        super().__init__(mean_absolute_error, reduction, name, dtype)


class MeanAbsolutePercentageError(LossFunctionWrapper):
    """100 mean |p - t| / max(|t|, eps)."""

    def __init__(
        self, reduction="sum_over_batch_size", name="mean_absolute_percentage_error", dtype=None
    ):
        super().__init__(mean_absolute_percentage_error, reduction, name, dtype)


class MeanSquaredLogarithmicError(LossFunctionWrapper):
    """mean (log(max(p, eps) + 1) - log(max(t, eps) + 1))^2."""

    def __init__(
        self, reduction="sum_over_batch_size", name="mean_squared_logarithmic_error", dtype=None
    ):
        super().__init__(mean_squared_logarithmic_error, reduction, name, dtype)


class Huber(LossFunctionWrapper):
    """mean of e^2 / 2 where |e| <= delta, else delta |e| - delta^2 / 2, with e = p - t."""

    def __init__(self, delta=1.0, reduction="sum_over_batch_size", name="huber_loss", dtype=None):
        super().__init__(huber, reduction, name, dtype, delta=delta)


class LogCosh(LossFunctionWrapper):
    """mean log cosh(p - t)."""

    def __init__(self, reduction="sum_over_batch_size", name="log_cosh", dtype=None):
        super().__init__(log_cosh, reduction, name, dtype)


class Hinge(LossFunctionWrapper):
    """mean max(1 - t p, 0); targets 0 and 1 count as -1 and 1."""

    def __init__(self, reduction="sum_over_batch_size", name="hinge", dtype=None):
        super().__init__(hinge, reduction, name, dtype)


class SquaredHinge(LossFunctionWrapper):
    """mean max(1 - t p, 0)^2; targets 0 and 1 count as -1 and 1."""

    def __init__(self, reduction="sum_over_batch_size", name="squared_hinge", dtype=None):
        super().__init__(squared_hinge, reduction, name, dtype)


class CategoricalHinge(LossFunctionWrapper):
    """max(max((1 - t) p) - sum t p + 1, 0)."""

    def __init__(self, reduction="sum_over_batch_size", name="categorical_hinge", dtype=None):
        super().__init__(categorical_hinge, reduction, name, dtype)


class KLDivergence(LossFunctionWrapper):
    """sum t log(t / p), both clipped to [eps, 1]."""

    def __init__(self, reduction="sum_over_batch_size", name="kl_divergence", dtype=None):
        super().__init__(kl_divergence, reduction, name, dtype)


class Poisson(LossFunctionWrapper):
    """mean p - t log(p + eps)."""

    def __init__(self, reduction="sum_over_batch_size", name="poisson", dtype=None):
        super().__init__(poisson, reduction, name, dtype)


class CosineSimilarity(LossFunctionWrapper):
    """-sum t p / (|t| |p|) along `axis`, from -1 (same direction) to 1."""

    def __init__(
        self, axis=-1, reduction="sum_over_batch_size", name="cosine_similarity", dtype=None
    ):
        super().__init__(cosine_similarity, reduction, name, dtype, axis=axis)


class BinaryCrossentropy(LossFunctionWrapper):
    """mean of -t log p - (1 - t) log(1 - p).

    Args:
        from_logits: y_pred are logits, p = sigmoid(y_pred); computed without overflow.
        label_smoothing: in [0, 1]: t becomes t (1 - s) + s / 2.
        axis: the mean's.
    """

    def __init__(
        self,
        from_logits=False,
        label_smoothing=0.0,
        axis=-1,
        reduction="sum_over_batch_size",
        name="binary_crossentropy",
        dtype=None,
    ):
        super().__init__(
            binary_crossentropy,
            reduction,
            name,
            dtype,
            from_logits=from_logits,
            label_smoothing=_smoothing(label_smoothing),
            axis=axis,
        )


class CategoricalCrossentropy(LossFunctionWrapper):
    """-sum t log p over the classes.

    Where y_pred is a softmax's output, the loss is computed from its logits, which stays exact
    where the probabilities have saturated; other probabilities are divided by their sum and clipped
    to [eps, 1 - eps].

    Args:
        from_logits: y_pred are logits.
        label_smoothing: in [0, 1]: t becomes t (1 - s) + s / classes.
        axis: of the classes.
    """

    def __init__(
        self,
        from_logits=False,
        label_smoothing=0.0,
        axis=-1,
        reduction="sum_over_batch_size",
        name="categorical_crossentropy",
        dtype=None,
    ):
        super().__init__(
            categorical_crossentropy,
            reduction,
            name,
            dtype,
            from_logits=from_logits,
            label_smoothing=_smoothing(label_smoothing),
            axis=axis,
        )


class SparseCategoricalCrossentropy(LossFunctionWrapper):
    """-log p[t] for integer targets t; see `CategoricalCrossentropy` for p.

    Args:
        from_logits: y_pred are logits.
        ignore_class: a target whose samples do not count.
        axis: of the classes, the last one.

    Raises:
        ValueError: a target that is not an integer from 0 to classes - 1; value and row are named.

    >>> loss = SparseCategoricalCrossentropy(from_logits=True)([1], [[10000.0, 0.0]])
    >>> loss.item()
    10000.0
    """

    def __init__(
        self,
        from_logits=False,
        ignore_class=None,
        reduction="sum_over_batch_size",
        axis=-1,
        name="sparse_categorical_crossentropy",
        dtype=None,
    ):
        kwargs = {} if axis == -1 else {"axis": axis}
        super().__init__(
            sparse_categorical_crossentropy,
            reduction,
            name,
            dtype,
            from_logits=from_logits,
            ignore_class=ignore_class,
            **kwargs,
        )


# -- functions -------------------------------------------------------------------------------------


def mean_squared_error(y_true, y_pred):
    """mean (p - t)^2 over the last axis."""
    y_true, y_pred = _pair(y_true, y_pred)
    return ops.mean(ops.square(y_pred - y_true), -1)


def mean_absolute_error(y_true, y_pred):
    """mean |p - t| over the last axis."""
    y_true, y_pred = _pair(y_true, y_pred)
    return ops.mean(ops.absolute(y_pred - y_true), -1)


def mean_absolute_percentage_error(y_true, y_pred):
    """100 mean |p - t| / max(|t|, eps) over the last axis."""
    y_true, y_pred = _pair(y_true, y_pred)
    xp = backend.namespace(y_true)
    share = ops.absolute(y_pred - y_true) / xp.maximum(xp.abs(y_true), np.float32(epsilon()))
    return ops.mean(share, -1) * 100.0


def mean_squared_logarithmic_error(y_true, y_pred):
    """mean (log(max(p, eps) + 1) - log(max(t, eps) + 1))^2 over the last axis."""
    y_true, y_pred = _pair(y_true, y_pred)
    xp = backend.namespace(y_true)
    target = xp.log(xp.maximum(y_true, np.float32(epsilon())) + 1)
    return ops.mean(ops.square(ops.log(ops.maximum(y_pred, epsilon()) + 1.0) - target), -1)


def huber(y_true, y_pred, delta=1.0):
    """mean of e^2 / 2 where |e| <= delta, else delta |e| - delta^2 / 2, over the last axis."""
    y_true, y_pred = _pair(y_true, y_pred)
    error = ops.absolute(y_pred - y_true)
    inner = ops.minimum(error, float(delta))
    return ops.mean(0.5 * ops.square(inner) + float(delta) * (error - inner), -1)


def log_cosh(y_true, y_pred):
    """mean log cosh(p - t) over the last axis, without overflow."""
    y_true, y_pred = _pair(y_true, y_pred)
    error = y_pred - y_true
    return ops.mean(error + ops.softplus(error * -2.0), -1) - math.log(2.0)


def hinge(y_true, y_pred):
    """mean max(1 - t p, 0) over the last axis; targets 0 and 1 count as -1 and 1."""
    y_true, y_pred = _pair(y_true, y_pred)
    return ops.mean(ops.relu(1.0 - y_pred * _signs(y_true)), -1)


def squared_hinge(y_true, y_pred):
    """mean max(1 - t p, 0)^2 over the last axis; targets 0 and 1 count as -1 and 1."""
    y_true, y_pred = _pair(y_true, y_pred)
    return ops.mean(ops.square(ops.relu(1.0 - y_pred * _signs(y_true))), -1)


def categorical_hinge(y_true, y_pred):
    """max(max((1 - t) p) - sum t p + 1, 0) over the last axis."""
    y_true, y_pred = _pair(y_true, y_pred)
    y_true = _beside(y_true, y_pred)
    positive = ops.sum(y_pred * y_true, -1)
    negative = ops.max(y_pred * (1.0 - y_true), -1)
    return ops.relu(negative - positive + 1.0)


def kl_divergence(y_true, y_pred):
    """sum t log(t / p) over the last axis, both clipped to [eps, 1]."""
    y_true, y_pred = _pair(y_true, y_pred)
    xp = backend.namespace(y_true)
    y_true = xp.clip(y_true, np.float32(epsilon()), np.float32(1))
    log_ratio = xp.log(y_true) - ops.log(ops.clip(y_pred, epsilon(), 1.0))
    return ops.sum(log_ratio * y_true, -1)


def poisson(y_true, y_pred):
    """mean p - t log(p + eps) over the last axis."""
    y_true, y_pred = _pair(y_true, y_pred)
    return ops.mean(y_pred - ops.log(y_pred + epsilon()) * y_true, -1)


def cosine_similarity(y_true, y_pred, axis=-1):
    """-sum t p / (|t| |p|) along `axis`."""
    y_true, y_pred = _pair(y_true, y_pred)
    xp, least = backend.namespace(y_true), np.float32(epsilon() ** 2)
    length = xp.sqrt(xp.maximum(xp.sum(xp.square(y_true), axis, keepdims=True), least))
    norm = ops.sqrt(ops.maximum(ops.sum(ops.square(y_pred), axis, keepdims=True), float(least)))
    return -ops.sum(y_pred / norm * (y_true / length), axis)


def binary_crossentropy(y_true, y_pred, from_logits=False, label_smoothing=0.0, axis=-1):
    """mean of -t log p - (1 - t) log(1 - p) along `axis`; see `BinaryCrossentropy`."""
    y_true, y_pred = match_rank(*_arrays(y_true, y_pred))
    if y_true.shape != y_pred.shape:
        raise ValueError(
            f"binary_crossentropy: expected y_true of y_pred's shape {y_pred.shape}, "
            f"got {y_true.shape}"
        )
    y_true = _smooth(_beside(y_true, y_pred), label_smoothing, 2)
    if from_logits:
        return ops.mean(ops.softplus(y_pred) - y_pred * y_true, axis)
    p = ops.clip(y_pred, epsilon(), 1 - epsilon())
    return -ops.mean(ops.log(p) * y_true + ops.log(1.0 - p) * (1.0 - y_true), axis)


def categorical_crossentropy(y_true, y_pred, from_logits=False, label_smoothing=0.0, axis=-1):
    """-sum t log p along `axis`; see `CategoricalCrossentropy`."""
    y_true, y_pred = _arrays(y_true, y_pred)
    name = "categorical_crossentropy"
    axis = _class_axis(name, y_pred, axis)
    if y_true.shape != y_pred.shape:
        raise ValueError(
            f"{name}: expected y_true of y_pred's shape {y_pred.shape}, got {y_true.shape}; "
            "integer labels go with sparse_categorical_crossentropy"
        )
    if y_pred.shape[-1] == 1:
        warnings.warn(
            f"{name}: y_pred of shape {y_pred.shape} has one class, whose probability is always 1; "
            "use binary_crossentropy for two classes in one column",
            SyntaxWarning,
            stacklevel=2,
        )
    y_true = _smooth(_beside(y_true, y_pred), label_smoothing, y_true.shape[-1])
    logits = _logits(y_pred, from_logits, axis)
    if logits is not None and axis == y_pred.ndim - 1:
        rows, losses_shape = _rows(logits)
        losses = ops.softmax_cross_entropy(rows, y_true.reshape(rows.shape), reduction="none")
        return _shaped(losses, losses_shape)
    return -ops.sum(_log_probabilities(y_pred, logits, axis) * y_true, axis)


def sparse_categorical_crossentropy(y_true, y_pred, from_logits=False, ignore_class=None, axis=-1):
    """-log p[t] for integer targets; see `SparseCategoricalCrossentropy`."""
    y_pred = _prediction(y_pred)
    axis = _class_axis("sparse_categorical_crossentropy", y_pred, axis)
    labels = as_labels(y_true, y_pred, axis)
    xp, valid = backend.namespace(labels), None
    if ignore_class is not None:
        valid = labels != ignore_class
        labels = xp.where(valid, labels, 0)
    _check_range(labels, y_pred.shape[axis])
    logits = _logits(y_pred, from_logits, axis)
    if logits is not None and axis == y_pred.ndim - 1:
        rows, losses_shape = _rows(logits)
        losses = ops.softmax_cross_entropy(rows, labels.reshape(-1), reduction="none")
        losses = _shaped(losses, losses_shape)
    else:
        classes = xp.arange(y_pred.shape[axis]).reshape((-1,) + (1,) * (y_pred.ndim - 1 - axis))
        onehot = (xp.expand_dims(labels, axis) == classes).astype(np.float32)
        losses = -ops.sum(_log_probabilities(y_pred, logits, axis) * onehot, axis)
    return losses if valid is None else losses * valid.astype(np.float32)


# -- one fused op for a whole batch ----------------------------------------------------------------


def _fused_sparse(
    y_true, y_pred, sample_weight, reduction, from_logits=False, ignore_class=None, axis=-1
):
    """The reduced loss in one op for the common case, else None."""
    if y_pred.ndim != 2 or axis not in (-1, 1) or ignore_class is not None:
        return None
    logits = _logits(y_pred, from_logits, 1)
    mode = _FUSED_REDUCTIONS.get(reduction)
    if logits is None or mode is None:
        return None
    weight = _fused_weight(sample_weight, logits)
    if weight is False:
        return None
    labels = as_labels(y_true, y_pred, 1)
    return ops.softmax_cross_entropy(logits, labels, weight, mode)


def _fused_dense(
    y_true, y_pred, sample_weight, reduction, from_logits=False, label_smoothing=0.0, axis=-1
):
    """The reduced loss in one op for the common case, else None."""
    if y_pred.ndim != 2 or axis not in (-1, 1) or y_pred.shape[1] == 1:
        return None
    logits = _logits(y_pred, from_logits, 1)
    mode = _FUSED_REDUCTIONS.get(reduction)
    if logits is None or mode is None:
        return None
    weight = _fused_weight(sample_weight, logits)
    target = recording.converted(as_array(y_true), np.float32)
    if weight is False or target.shape != y_pred.shape:
        return None
    target = _smooth(_beside(target, logits), label_smoothing, target.shape[1])
    return ops.softmax_cross_entropy(logits, target, weight, mode)


def _fused_weight(sample_weight, logits):
    """Weights of one per row, None for none, False for another shape."""
    if sample_weight is None:
        return None
    weight = recording.converted(as_array(sample_weight, "sample_weight"), np.float32)
    if weight.shape == (len(logits), 1):
        weight = weight.reshape(-1)
    return weight if weight.shape == (len(logits),) else False


# -- conversions and checks ------------------------------------------------------------------------


def _prediction(y_pred) -> Tensor:
    return (
        y_pred
        if isinstance(y_pred, Tensor) and y_pred.dtype.kind == "f"
        else Tensor._coerce(y_pred)
    )


def _arrays(y_true, y_pred):
    """Targets as an array of the predictions' dtype, predictions as a tensor."""
    y_pred = _prediction(y_pred)
    return recording.converted(as_array(y_true), y_pred.dtype), y_pred


def _beside(array, like: Tensor) -> Tensor:
    """A tensor round an array of targets, on the device of the predictions."""
    return Tensor._wrap(backend.get(like.device).asarray(array), like.device)


def _pair(y_true, y_pred):
    return match(*_arrays(y_true, y_pred))


def _reduce(values: Tensor, sample_weight, reduction) -> Tensor:
    """Weighted losses as a scalar, or as they are for "none"."""
    values = _prediction(values)
    weight = None
    if sample_weight is not None:
        weight = recording.converted(as_array(sample_weight, "sample_weight"), values.dtype)
        weight, values = match(weight, values, "sample_weight")
        values = values * weight
    if reduction in (None, "none") or values.shape in ((), (0,)):
        return values
    total = ops.sum(values)
    if reduction == "sum":
        return total
    count = values.size
    if reduction == "mean_with_sample_weight" and weight is not None:
        count = float(weight.sum())
    return total / float(count) if count else total * 0.0


def _ignored(fn, y_true, y_pred, sample_weight, reduction, kwargs):
    """Sample weights that leave the ignored class out of sum and count."""
    if fn is not sparse_categorical_crossentropy or kwargs.get("ignore_class") is None:
        return sample_weight
    labels = as_labels(y_true, y_pred, _class_axis(fn.__name__, y_pred, kwargs.get("axis", -1)))
    valid = (labels != kwargs["ignore_class"]).astype(np.float32)
    if reduction in ("mean", "sum_over_batch_size"):
        valid *= valid.size / max(valid.sum(), 1)
    if sample_weight is None:
        return valid
    weight = alike(as_array(sample_weight), valid).astype(np.float32, copy=False)
    if weight.ndim == valid.ndim + 1 and weight.shape[-1] == 1:
        weight = weight.reshape(weight.shape[:-1])
    return weight * valid


def _check_range(labels, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        complain(labels, wrong, f"from 0 to {classes - 1}")


def _class_axis(name: str, y_pred, axis) -> int:
    if (
        isinstance(axis, bool)
        or not isinstance(axis, int)
        or not -y_pred.ndim <= axis < y_pred.ndim
    ):
        raise ValueError(
            f"{name}: expected axis to be an axis of y_pred {y_pred.shape}, got {axis!r}"
        )
    return axis % y_pred.ndim


def _logits(y_pred, from_logits, axis):
    """The logits of y_pred: itself, or what a softmax over the last axis remembers; else None."""
    if from_logits:
        return y_pred
    return y_pred.logits if axis == y_pred.ndim - 1 else None


def _log_probabilities(y_pred, logits, axis):
    if logits is not None:
        return ops.log_softmax(logits, axis)
    p = y_pred / ops.sum(y_pred, axis, keepdims=True)
    return ops.log(ops.clip(p, epsilon(), 1 - epsilon()))


def _rows(x):
    """x as a matrix of rows along its last axis, and the shape of the other axes."""
    if x.ndim == 2:
        return x, None
    lead = x.shape[:-1]
    return ops.reshape(x, (math.prod(lead), x.shape[-1])), lead


def _shaped(losses, shape):
    return losses if shape is None else ops.reshape(losses, shape)


def _smooth(y_true: Tensor, amount, classes) -> Tensor:
    """Targets moved by `amount` towards the uniform distribution."""
    return y_true * (1 - amount) + amount / classes if amount else y_true


def _smoothing(amount):
    if not 0 <= amount <= 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1], got {amount!r}")
    return amount


def _signs(y_true):
    """Targets 0 and 1 as -1 and 1; others unchanged."""
    return 2 * y_true - 1 if bool(((y_true == 0) | (y_true == 1)).all()) else y_true


_FUSED = {
    sparse_categorical_crossentropy: _fused_sparse,
    categorical_crossentropy: _fused_dense,
}

_registry = Registry(
    "loss",
    "keras.losses",
    (
        *(
            MeanSquaredError,
            MeanAbsoluteError,
            MeanAbsolutePercentageError,
            MeanSquaredLogarithmicError,
        ),
        *(Huber, LogCosh, Hinge, SquaredHinge, CategoricalHinge, KLDivergence, Poisson),
        *(
            CosineSimilarity,
            BinaryCrossentropy,
            CategoricalCrossentropy,
            SparseCategoricalCrossentropy,
        ),
    ),
    (
        *(mean_squared_error, mean_absolute_error, mean_absolute_percentage_error),
        *(mean_squared_logarithmic_error, huber, log_cosh, hinge, squared_hinge, categorical_hinge),
        *(kl_divergence, poisson, cosine_similarity, binary_crossentropy, categorical_crossentropy),
        sparse_categorical_crossentropy,
    ),
    {
        **dict.fromkeys(("mse", "MSE"), mean_squared_error),
        **dict.fromkeys(("mae", "MAE"), mean_absolute_error),
        **dict.fromkeys(("mape", "MAPE"), mean_absolute_percentage_error),
        **dict.fromkeys(("msle", "MSLE"), mean_squared_logarithmic_error),
        **dict.fromkeys(("kld", "KLD", "kullback_leibler_divergence"), kl_divergence),
        **dict.fromkeys(("bce", "BCE"), binary_crossentropy),
        "LossFunctionWrapper": LossFunctionWrapper,
        "logcosh": log_cosh,
        "huber_loss": huber,
        "cosine_proximity": cosine_similarity,
    },
)


def get(identifier):
    """The loss function or object of a name, a config, a class, a callable or None (None).

    Raises:
        ValueError: an unknown name; the message lists all.

    >>> get("mse").__name__
    'mean_squared_error'
    """
    return _registry.get(identifier)


def serialize(loss):
    """A loss function's name, a loss object's config."""
    return _registry.serialize(loss)


def deserialize(name, custom_objects=None):
    """The loss of a name or a config."""
    return _registry.deserialize(name, custom_objects)
