"""What `compile` makes of its `loss` and `metrics` arguments."""

from __future__ import annotations

from .. import losses as losses_module
from .. import metrics as metrics_module

_BY_SHAPE = {
    "accuracy": ("BinaryAccuracy", "CategoricalAccuracy", "SparseCategoricalAccuracy"),
    "acc": ("BinaryAccuracy", "CategoricalAccuracy", "SparseCategoricalAccuracy"),
    "crossentropy": (
        "BinaryCrossentropy",
        "CategoricalCrossentropy",
        "SparseCategoricalCrossentropy",
    ),
    "ce": ("BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"),
}


def class_by_shape(identifier, y_true, y_pred) -> str | None:
    """The class that "accuracy" and the like mean for these shapes; None for other names."""
    names = _BY_SHAPE.get(identifier.lower()) if isinstance(identifier, str) else None
    if names is None:
        return None
    binary, categorical, sparse = names
    shape, classes = tuple(getattr(y_true, "shape", ())), y_pred.shape[-1]
    if classes == 1:
        return binary
    if len(shape) < len(y_pred.shape) or shape[-1] == 1:
        return sparse
    return categorical


def _display_name(obj) -> str:
    return (
        getattr(obj, "name", None) or getattr(obj, "__name__", None) or type(obj).__name__.lower()
    )


def resolve_loss(identifier, y_true, y_pred):
    """A `Loss` for a name, a callable or a `Loss`."""
    by_shape = class_by_shape(identifier, y_true, y_pred)
    if by_shape:
        return getattr(losses_module, by_shape)(name=identifier)
    loss = losses_module.get(identifier)
    if isinstance(loss, losses_module.Loss):
        return loss
    name = identifier if isinstance(identifier, str) else _display_name(loss)
    return losses_module.LossFunctionWrapper(loss, name=name)


def resolve_metric(identifier, y_true, y_pred):
    """A `Metric` for a name, a callable or a `Metric`; a name given as a string is kept."""
    by_shape = class_by_shape(identifier, y_true, y_pred)
    if by_shape:
        return getattr(metrics_module, by_shape)(name=identifier)
    metric = metrics_module.get(identifier)
    name = identifier if isinstance(identifier, str) else _display_name(metric)
    if not isinstance(metric, metrics_module.Metric):
        return metrics_module.MeanMetricWrapper(metric, name=name)
    metric.name = name
    return metric


def check_identifiers(kind, identifiers) -> None:
    """Raise now for a loss or metric name that does not exist, rather than at the first batch."""
    module = losses_module if kind == "loss" else metrics_module
    for identifier in _leaves(identifiers):
        if isinstance(identifier, str) and identifier.lower() not in _BY_SHAPE:
            module.get(identifier)
        elif not (
            identifier is None
            or isinstance(identifier, (str, dict))
            or callable(identifier)
            or hasattr(identifier, "update_state")
        ):
            raise ValueError(
                f"compile: expected each {kind} to be a name, a callable or an object, "
                f"got {identifier!r}"
            )


def _leaves(data):
    if isinstance(data, dict) and "class_name" not in data:
        data = list(data.values())
    if isinstance(data, (list, tuple)):
        return [leaf for item in data for leaf in _leaves(item)]
    return [data]


class Outputs:
    """The outputs of a model in one flat order, whether it returns a tensor, a list or a dict."""

    def __init__(self, y_pred):
        self.keys = None
        if isinstance(y_pred, dict):
            self.keys = sorted(y_pred)
        elif isinstance(y_pred, (list, tuple)):
            self.keys = list(range(len(y_pred)))
        self.single = self.keys is None
        self.count = 1 if self.single else len(self.keys)
        self.names = self.keys if isinstance(y_pred, dict) else [None] * self.count

    def flat(self, values, what):
        """`values` (one per output, or nested alike) as a list; None where there is none.

        Raises:
            ValueError: the structure differs from the model's output.
        """
        if values is None:
            return [None] * self.count
        if self.single or self.count == 1:
            if isinstance(values, (list, tuple, dict)) and len(values) == 1:
                values = next(iter(values.values())) if isinstance(values, dict) else values[0]
            if not isinstance(values, (list, tuple, dict)):
                return [values]
        elif isinstance(values, dict) and set(values) <= set(self.keys):
            return [values.get(key) for key in self.keys]
        elif isinstance(values, (list, tuple)) and len(values) == self.count:
            return list(values)
        expected = "one array" if self.single else f"one item per output ({self.keys})"
        found = sorted(values) if isinstance(values, dict) else f"{type(values).__name__}"
        raise ValueError(f"{what}: expected {expected}, got {found}")


class CompileLoss:
    """The total loss of a model: the sum of its outputs' losses, each times its weight.

    Args:
        loss: a name, callable or `Loss`, or one per output in a list or dict.
        loss_weights: a number, or one per output alike.
    """

    def __init__(self, loss, loss_weights=None):
        if loss_weights is not None and not isinstance(
            loss_weights, (list, tuple, dict, float, int)
        ):
            raise ValueError(
                f"compile: expected loss_weights as a number, a list or a dict, "
                f"got {loss_weights!r}"
            )
        check_identifiers("loss", loss)
        self._loss = loss
        self._loss_weights = loss_weights
        self.built = False
        self.metrics = []
        self.unchecked = None  # all targets of a run, where no batch of them will be looked at

    def build(self, y_true, y_pred):
        outputs = self._outputs = Outputs(y_pred)
        if outputs.single or isinstance(self._loss, (list, tuple, dict)):
            wanted = outputs.flat(self._loss, "loss")
        else:
            wanted = [self._loss] * outputs.count
        weights = self._loss_weights
        if isinstance(weights, (int, float)):
            weights = [weights] * outputs.count
        else:
            weights = outputs.flat(weights, "loss_weights")
        targets = outputs.flat(y_true, "y")
        predictions = outputs.flat(y_pred, "y_pred")
        self._losses = [
            None if item is None else resolve_loss(item, target, prediction)
            for item, target, prediction in zip(wanted, targets, predictions, strict=True)
        ]
        self._weights = weights
        if sum(loss is not None for loss in self._losses) > 1:
            # With several losses each one's own, unweighted mean is shown too.
            self._trackers = [
                None if loss is None else metrics_module.Mean(name=f"{name or loss.name}_loss")
                for name, loss in zip(outputs.names, self._losses, strict=True)
            ]
            self.metrics = [tracker for tracker in self._trackers if tracker is not None]
        else:
            self._trackers = [None] * outputs.count
        self.built = True

    def __call__(self, y_true, y_pred, sample_weight=None):
        if y_true is None:
            raise ValueError("loss: expected targets y, got None")
        if not self.built:
            self.build(y_true, y_pred)
        if self.unchecked is not None:
            self._check_all(y_pred)
        if self._outputs.single and not isinstance(y_true, (list, tuple, dict)):
            loss = self._losses[0](y_true, y_pred, sample_weight)
            return loss if self._weights[0] is None else loss * self._weights[0]
        targets = self._outputs.flat(y_true, "y")
        predictions = self._outputs.flat(y_pred, "y_pred")
        if isinstance(sample_weight, (list, tuple, dict)):
            sample_weights = self._outputs.flat(sample_weight, "sample_weight")
        else:
            sample_weights = [sample_weight] * self._outputs.count
        total = None
        items = (self._losses, self._weights, self._trackers, targets, predictions, sample_weights)
        for loss, weight, tracker, target, prediction, sample_weight in zip(*items, strict=True):
            if loss is None:
                continue
            value = loss(target, prediction, sample_weight)
            if tracker is not None:
                tracker.update_from(value, len(prediction))
            if weight is not None:
                value = value * weight
            total = value if total is None else total + value
        return total

    def _check_all(self, y_pred):
        targets, self.unchecked = self._outputs.flat(self.unchecked, "y"), None
        predictions = self._outputs.flat(y_pred, "y_pred")
        for loss, target, prediction in zip(self._losses, targets, predictions, strict=True):
            if loss is not None and target is not None:
                loss.check_targets(target, prediction)


class CompileMetrics:
    """The metrics of `compile` behaving as one: `result` is a dict.

    Args:
        metrics: list, or one entry (a metric or a list) per output in a list or dict.
        weighted_metrics: the same, updated with the sample weights.
    """

    name = "compile_metrics"

    def __init__(self, metrics, weighted_metrics):
        for argument, value in (("metrics", metrics), ("weighted_metrics", weighted_metrics)):
            if value and not isinstance(value, (list, tuple, dict)):
                raise ValueError(
                    f"compile: expected {argument} to be a list, a tuple or a dict, got {value!r}"
                )
            check_identifiers("metric", value)
        self._wanted = (metrics, weighted_metrics)
        self.built = False
        self.metrics = []
        self._plan = []  # (output index, metric, weighted)
        self._names = []

    def build(self, y_true, y_pred):
        outputs = self._outputs = Outputs(y_pred)
        targets = outputs.flat(y_true, "y")
        predictions = outputs.flat(y_pred, "y_pred")
        for weighted, wanted in enumerate(self._wanted):
            for i, items in enumerate(self._per_output(wanted, outputs)):
                for item in items:
                    metric = resolve_metric(item, targets[i], predictions[i])
                    self._plan.append((i, metric, bool(weighted)))
                    self._names.append(self._unique(metric.name, outputs.names[i], weighted))
        self.metrics = [metric for _, metric, _ in self._plan]
        self.built = True

    @staticmethod
    def _per_output(wanted, outputs):
        if not wanted:
            return [[]] * outputs.count
        if outputs.count == 1:
            return [[item for item in _leaves(wanted) if item is not None]]
        per_output = outputs.flat(wanted, "metrics")
        return [
            [] if items is None else list(items) if isinstance(items, (list, tuple)) else [items]
            for items in per_output
        ]

    def _unique(self, name, output, weighted):
        if output is not None and self._outputs.count > 1:
            name = f"{output}_{name}"
        if weighted and name in self._names:
            name = f"weighted_{name}"
        count, unique = 1, name
        while unique in self._names:
            unique = f"{name}_{count}"
            count += 1
        return unique

    def update_state(self, y_true, y_pred, sample_weight=None):
        if y_true is None:  # a model that learns from its inputs alone
            return
        if not self.built:
            self.build(y_true, y_pred)
        if self._outputs.single and not isinstance(y_true, (list, tuple, dict)):
            for _, metric, weighted in self._plan:
                if weighted:
                    metric.update_state(y_true, y_pred, sample_weight)
                else:
                    metric.update_state(y_true, y_pred)
            return
        targets = self._outputs.flat(y_true, "y")
        predictions = self._outputs.flat(y_pred, "y_pred")
        if isinstance(sample_weight, (list, tuple, dict)):
            weights = self._outputs.flat(sample_weight, "sample_weight")
        else:
            weights = [sample_weight] * self._outputs.count
        for i, metric, weighted in self._plan:
            if targets[i] is not None:
                metric.update_state(targets[i], predictions[i], weights[i] if weighted else None)

    def result(self):
        return {
            name: metric.result()
            for name, (_, metric, _) in zip(self._names, self._plan, strict=True)
        }

    def reset_state(self):
        for metric in self.metrics:
            metric.reset_state()
