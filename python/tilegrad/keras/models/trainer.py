"""`Trainer`: compile, fit, evaluate and predict."""

from __future__ import annotations

import inspect
import warnings

import numpy as np

from ... import backend, recording
from ...autograd import no_grad
from ...tensor import Tensor
from .. import metrics as metrics_module
from .. import optimizers
from ..callbacks import CallbackList, pythonify_logs
from ..saving.training import Run
from ..utils.dataset import unpack_x_y_sample_weight
from .captured import StepCapture
from .compile_utils import CompileLoss, CompileMetrics
from .data_adapter import (
    EpochIterator,
    class_weight_to_sample_weights,
    environment_cap,
    flatten,
    make_adapter,
    map_structure,
    standardize_batch,
    train_validation_split,
)


class _Plan:
    """What a step would otherwise look up again and again; made anew by each run.

    It is an object of its own, because a model takes variables and layers in its attributes for
    its own.
    """

    def __init__(self, model):
        self.variables = model.trainable_weights
        self.layers = model._flatten_layers()
        self.regularized = [v for v in self.variables if v.regularizer is not None]
        self.own_metrics = model._own_metrics()
        self.update = model._update_weights
        # Whether nobody else sees x, so that the next batch may overwrite it.
        self.owns_batches = False
        if model._captured is not None:
            model._captured.check(model)
            self.update = model._captured
            self.owns_batches = all(
                getattr(type(model), name) is getattr(Trainer, name)
                for name in ("train_step", "compute_loss", "compute_metrics")
            )
        # Whether a step may leave metrics unread, since reading them would wait for the GPU.
        self.may_be_quiet = backend.default_device() == "cuda" and not any(
            getattr(type(model), name) is not getattr(Trainer, name)
            for name in ("train_step", "test_step", "compute_metrics", "get_metrics_result")
        )
        self.quiet = False

    def listen(self, callbacks, hook) -> None:
        """Set `quiet` for the coming step, after which `callbacks` run `hook`."""
        self.quiet = self.may_be_quiet and not callbacks.wants_logs(hook)

    def place_for(self, callbacks):
        """Where batches shall lie, for the adapter. Not if others run between it and the step."""
        quiet = not callbacks.listens("on_train_batch_begin")
        return self.update.place if self.owns_batches and quiet else None


class Trainer:
    """The training half of `Model`."""

    optimizer = None
    compiled = False
    stop_training = False
    stop_evaluating = False
    stop_predicting = False
    history = None
    loss = None
    run_eagerly = False
    jit_compile = "auto"
    steps_per_execution = 1
    unwatched = frozenset({"_plan", "_run", "_captured", "history"}) | {
        f"stop_{what}" for what in ("training", "evaluating", "predicting")
    }
    _plan = None
    _run = None
    _captured = None
    _compile_loss = None
    _compile_metrics = None
    _loss_tracker = None

    # -- compile -----------------------------------------------------------------------------------

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
    ):
        """Say how the model is trained and judged.

        Args:
            optimizer: a name or an `Optimizer`.
            loss: a name, a `Loss`, or a callable ``f(y_true, y_pred)``; for a model with several
                outputs one for all, or a list or dict with one per output.
            loss_weights: factor of each output's loss.
            metrics: list of names, `Metric` objects or callables, shown without sample weights.
                "accuracy" ("acc") and "crossentropy" ("ce") mean the binary, categorical or sparse
                categorical kind, by the shapes of the first batch.
            weighted_metrics: the same, with sample weights.
            run_eagerly: every model runs eagerly; kept as an attribute.
            steps_per_execution: batches between two calls of the batch callbacks.
            jit_compile: whether the training step is captured: its first calls are recorded, later
                ones replay the kernels without Python between them (see `tilegrad.capture`), with
                the same bits. "auto": if all of the step is tilegrad's own code, which computes
                nothing but tensors. True: also layers, models and losses of yours, whose Python is
                then run while recording only; a warning says what cannot be captured. False: never.
                `capture_report` tells what became of it.
            auto_scale_loss: concerns 16-bit floats only, which the layers do not compute in.

        Raises:
            ValueError: a name that does not exist, or an argument of the wrong kind.
        """
        if (
            isinstance(steps_per_execution, bool)
            or not isinstance(steps_per_execution, int)
            or (steps_per_execution < 1)
        ):
            raise ValueError(
                f"compile: expected steps_per_execution >= 1, got {steps_per_execution!r}"
            )
        optimizer = optimizers.get(optimizer)
        compile_loss = None if loss is None else CompileLoss(loss, loss_weights)
        compile_metrics = None
        if metrics is not None or weighted_metrics is not None:
            compile_metrics = CompileMetrics(metrics, weighted_metrics)
        if jit_compile not in (True, False, "auto"):
            raise ValueError(
                f'compile: expected jit_compile to be True, False or "auto", got {jit_compile!r}'
            )
        self.optimizer = optimizer
        self.loss = loss
        self.run_eagerly = run_eagerly
        self.jit_compile = jit_compile
        self.steps_per_execution = steps_per_execution
        self.stop_training = False
        self._compile_loss = compile_loss
        self._compile_metrics = compile_metrics
        self._loss_tracker = metrics_module.Mean(name="loss")
        self._loss_takes_training = "training" in inspect.signature(self.compute_loss).parameters
        # Lists and dicts of the user's objects: in an opaque box, see _Plan.
        self._compile_arguments = _Box(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
        )
        self._captured = StepCapture(self, jit_compile)
        self.compiled = True

    def capture_report(self) -> list[str]:
        """A line per set of batch shapes: how many calls its captured step has, or why none.

        >>> import numpy as np
        >>> from tilegrad import keras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x = np.zeros((12, 2), "float32")
        >>> history = model.fit(x, x[:, :1], batch_size=4, verbose=0)
        >>> model.capture_report()
        ['(4, 2), (4, 1): captured, 14 calls']
        """
        self._assert_compiled("capture_report")
        return self._captured.report()

    def _assert_compiled(self, method):
        if not self.compiled:
            raise ValueError(f"{method}: you must call compile() first")

    # -- metrics and losses ------------------------------------------------------------------------

    @property
    def metrics(self):
        """The loss tracker, the metrics of `compile` (as one), and those held as attributes."""
        found = []
        if self.compiled:
            found.append(self._loss_tracker)
            if self._compile_metrics is not None:
                found.append(self._compile_metrics)
            if self._compile_loss is not None:
                found.extend(self._compile_loss.metrics)
        return found + (self._own_metrics() if self._plan is None else self._plan.own_metrics)

    def _own_metrics(self):
        """The metrics that a subclass keeps as attributes."""
        return [
            value
            for name, value in vars(self).items()
            if isinstance(value, metrics_module.Metric) and name != "_loss_tracker"
        ]

    @property
    def metrics_names(self):
        return [metric.name for metric in self.metrics]

    def reset_metrics(self):
        """Set all metrics back to their start."""
        for metric in self.metrics:
            metric.reset_state()

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The scalar to minimise: the compiled loss plus what layers add. Override it for your own.

        Args:
            x, y, sample_weight: the batch.
            y_pred: the model's output for x.
            training: whether this is a training step.
        """
        total = None
        if self._compile_loss is not None:
            total = self._compile_loss(y, y_pred, sample_weight)
        for loss in self._added_losses():
            loss = loss if loss.ndim == 0 else loss.sum()
            total = loss if total is None else total + loss
        if total is None:
            raise ValueError("no loss to compute: pass a `loss` to compile()")
        return total

    def _added_losses(self):
        plan = self._plan
        if plan is None:
            return self.losses
        losses = [loss for layer in plan.layers for loss in layer._call_losses]
        return losses + [v.regularizer(v) for v in plan.regularized]

    def _loss_of(self, x, y, y_pred, sample_weight, training):
        if self._loss_takes_training:
            return self.compute_loss(x, y, y_pred, sample_weight, training=training)
        return self.compute_loss(x, y, y_pred, sample_weight)

    def _track_loss(self, loss, x):
        first = x if isinstance(x, (np.ndarray, Tensor)) else flatten(x)[0]
        self._loss_tracker.update_from(loss, len(first))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Update the compiled metrics with a batch and return all running values."""
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(y, y_pred, sample_weight)
        if self._plan is not None and self._plan.quiet:
            return {}
        return self.get_metrics_result()

    def get_metrics_result(self):
        """Dict of the running values of all metrics."""
        results = {}
        for metric in self.metrics:
            value = metric.result()
            if isinstance(value, dict):
                results.update(value)
            else:
                results[metric.name] = value
        return results

    # -- one step ----------------------------------------------------------------------------------

    def zero_grad(self):
        """Forget the gradients of all weights."""
        for variable in self._step_variables():
            variable.grad = None

    def _step_variables(self):
        return self.trainable_weights if self._plan is None else self._plan.variables

    def train_step(self, data):
        """One update from one batch. Override it for another way of training.

        Args:
            data: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``, arrays; on a GPU, tensors there.

        Returns:
            Dict of values to show.
        """
        x, y, sample_weight = unpack_x_y_sample_weight(data)
        update = self._update_weights if self._plan is None else self._plan.update
        loss, y_pred = update(x, y, sample_weight)
        self._track_loss(loss, x)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _update_weights(self, x, y, sample_weight):
        """The part of a training step that is captured: (loss, y_pred)."""
        y_pred = self(x, training=True)
        loss = self._loss_of(x, y, y_pred, sample_weight, True)
        variables = self._step_variables()
        if variables:
            # Before backward, not after: an interrupted step may have left gradients behind.
            for variable in variables:
                variable.grad = None
            self.optimizer.scale_loss(loss).backward()
            self.optimizer.apply([variable.grad for variable in variables], variables)
        else:
            recording.refuse("the model has no trainable weights")
            warnings.warn("the model has no trainable weights", stacklevel=3)
        return loss, y_pred

    def test_step(self, data):
        """Loss and metrics of one batch."""
        x, y, sample_weight = unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        self._track_loss(self._loss_of(x, y, y_pred, sample_weight, False), x)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def predict_step(self, data):
        """The outputs for one batch."""
        x, _, _ = unpack_x_y_sample_weight(data)
        return self(x, training=False)

    def _prepare(self, data, train):
        """Build what is not built yet, with the help of a batch, and make the step's plan."""
        x, _, _ = unpack_x_y_sample_weight(data)
        if not all(layer.built for layer in self._flatten_layers()):
            with no_grad():
                self(map_structure(lambda a: a[:1], x), training=False)
        self._plan = _Plan(self)
        if train and self.optimizer is not None and not getattr(self.optimizer, "built", True):
            self.optimizer.build(self._plan.variables)

    # -- fit ---------------------------------------------------------------------------------------

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Train for a number of epochs.

        The same by hand, for those who want to change it:

        >>> import numpy as np
        >>> from tilegrad import keras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> optimizer = keras.optimizers.SGD(0.1)
        >>> loss_fn = keras.losses.MeanSquaredError()
        >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], "float32")
        >>> y = x.sum(axis=1, keepdims=True)
        >>> for step in range(200):
        ...     loss = loss_fn(y, model(x, training=True))
        ...     loss.backward()
        ...     optimizer.apply(model.trainable_weights)  # takes their gradients, and clears them
        >>> loss.item() < 0.01
        True

        Args:
            x: arrays (NumPy, Tensor, lists), a `PyDataset`, a generator of ``(x, y)`` or
                ``(x, y, sample_weight)``, or another iterable of such batches.
            y: targets, for arrays.
            batch_size: samples per step; 32 by default.
            epochs: index of the epoch to stop before.
            verbose: 0 silent, 1 progress bar, 2 one line per epoch; "auto" is 1.
            callbacks: `Callback` objects.
            validation_split: fraction of the arrays, taken from their end, to validate on.
            validation_data: ``(x, y)``, ``(x, y, sample_weight)`` or a source of batches.
            shuffle: True mixes all samples anew each epoch, "batch" only those within each batch.
            class_weight: dict from class to weight.
            sample_weight: weight of each sample in the loss.
            initial_epoch: index of the first epoch.
            steps_per_epoch: batches that make an epoch; by default one pass over the data.
            validation_steps: batches of each validation.
            validation_batch_size: `batch_size` by default.
            validation_freq: validate every so many epochs, or after the epochs in a list (from 1).

        On device "cuda" arrays are copied to the GPU once, where batches are then made; those that
        would fill more than half of its free memory stay on the host, and each batch is copied.
        Loss and metrics are read when somebody looks at them: when the progress bar draws, at the
        end of an epoch, and after each batch only for callbacks that have a batch's end as a hook.

        Returns:
            The `History`.

        Raises:
            ValueError: the model is not compiled, or the data do not fit together.
        """
        self._assert_compiled("fit")
        if self.optimizer is None:
            raise ValueError("fit: expected an optimizer, compile() was given None")
        _check_verbose(verbose)
        epochs = _capped_epochs(_count("epochs", epochs))
        _count("initial_epoch", initial_epoch)
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = train_validation_split(
                x, y, sample_weight, validation_split
            )
        iterator = EpochIterator(
            make_adapter(x, y, sample_weight, batch_size, steps_per_epoch, shuffle, class_weight),
            steps_per_epoch,
        )
        validation = None
        if validation_data is not None:
            _due(0, validation_freq)
            validation = EpochIterator(
                make_adapter(
                    *unpack_x_y_sample_weight(validation_data),
                    validation_batch_size or batch_size,
                    validation_steps,
                ),
                validation_steps,
                restart=True,
            )
        outer_plan, outer_run = self._plan, self._run
        self._prepare(_first_batch(iterator, "fit"), train=True)
        callbacks = self._callback_list(callbacks, verbose, iterator, epochs, add_history=True)
        self.stop_training = False
        logs = {}
        run = self._run = Run(self, iterator, callbacks, initial_epoch)
        try:
            callbacks.on_train_begin()
            for epoch in range(run.epoch, epochs):
                self.reset_metrics()
                callbacks.on_epoch_begin(epoch)
                steps, logs = self._train_epoch(iterator, callbacks, *run.begin_epoch())
                if steps == 0:
                    break
                if validation is not None and _due(epoch, validation_freq):
                    found = self._evaluate(validation, callbacks)
                    logs.update({f"val_{name}": value for name, value in found.items()})
                callbacks.on_epoch_end(epoch, logs)
                if self.stop_training:
                    break
            if epochs > initial_epoch:
                self.optimizer.finalize_variable_values(self._plan.variables)
            callbacks.on_train_end(logs)
        except BaseException:
            callbacks.close()
            raise
        finally:
            self._plan, self._run = outer_plan, outer_run
        return self.history

    def _callback_list(self, callbacks, verbose, iterator, epochs=1, add_history=False):
        if isinstance(callbacks, CallbackList):
            return callbacks
        return CallbackList(
            callbacks,
            add_history=add_history,
            add_progbar=verbose != 0,
            model=self,
            verbose=verbose,
            epochs=epochs,
            steps=iterator.num_batches,
        )

    def _train_epoch(self, iterator, callbacks, done, logs):
        """The rest of an epoch of which `done` steps are made, with running values `logs`.

        Returns:
            The number of the epoch's steps and its final values.
        """
        group = self.steps_per_execution
        plan = self._begin_pass(iterator)
        iterator.adapter.place = plan.place_for(callbacks)
        try:
            for data in iterator:
                if done % group == 0:
                    callbacks.on_train_batch_begin(done)
                plan.listen(callbacks, "on_train_batch_end")
                logs = self.train_step(data)
                done += 1
                if done % group == 0:
                    callbacks.on_train_batch_end(done - 1, logs)
                    if self.stop_training:
                        break
        finally:
            iterator.adapter.place = None
        if done % group:
            callbacks.on_train_batch_end(done - 1, logs)
        return done, self._final_logs(logs)

    def _begin_pass(self, iterator):
        """The plan for a pass over `iterator`, whose targets the loss will look at, if it must."""
        if self._compile_loss is not None:
            self._compile_loss.unchecked = iterator.adapter.unchecked
            iterator.adapter.unchecked = None
        return self._plan

    def _final_logs(self, logs):
        """Running means instead of the last step's values, where these name the same metrics."""
        logs = pythonify_logs(logs)
        quiet, self._plan.quiet = self._plan.quiet, False
        if self._loss_tracker is not None:
            means = pythonify_logs(self.get_metrics_result())
            if quiet or set(means) == set(logs):
                return means
        return logs

    # -- evaluate and predict ----------------------------------------------------------------------

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
    ):
        """Loss and metrics on some data.

        Args:
            x, y, batch_size, verbose, sample_weight, callbacks: as for `fit`.
            steps: number of batches; all by default.
            return_dict: return ``{"loss": ..., "accuracy": ...}``.

        Returns:
            The loss if there are no metrics, else a list: the loss and the metrics in order of
                `compile`.
        """
        self._assert_compiled("evaluate")
        _check_verbose(verbose)
        iterator = EpochIterator(make_adapter(x, y, sample_weight, batch_size, steps), steps)
        outer_plan = self._plan  # evaluate may be called by a callback of fit
        self._prepare(_first_batch(iterator, "evaluate"), train=False)
        callbacks = self._callback_list(callbacks, verbose, iterator)
        try:
            logs = self._evaluate(iterator, callbacks)
        except BaseException:
            callbacks.close()
            raise
        finally:
            self._plan = outer_plan
        return logs if return_dict else self._in_order(logs)

    def _evaluate(self, iterator, callbacks):
        self.stop_evaluating = False
        self.reset_metrics()
        callbacks.on_test_begin()
        group = self.steps_per_execution
        done, logs = 0, {}
        plan = self._begin_pass(iterator)
        with no_grad():
            for data in iterator:
                if done % group == 0:
                    callbacks.on_test_batch_begin(done)
                plan.listen(callbacks, "on_test_batch_end")
                logs = self.test_step(data)
                done += 1
                if done % group == 0:
                    callbacks.on_test_batch_end(done - 1, logs)
                    if self.stop_evaluating:
                        break
        if done % group:
            callbacks.on_test_batch_end(done - 1, logs)
        logs = self._final_logs(logs)
        callbacks.on_test_end(logs)
        return logs

    def _in_order(self, logs):
        """Values in the order of `metrics`, then those of a custom step; one alone as a scalar."""
        names = []
        for metric in self.metrics:
            names += (
                [m.name for m in metric.metrics]
                if metric is self._compile_metrics
                else [metric.name]
            )
        names = [name for name in dict.fromkeys(names) if name in logs]
        values = [logs[name] for name in names + sorted(set(logs) - set(names))]
        return values[0] if len(values) == 1 else values

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """The model's outputs.

        Args:
            x, batch_size, verbose, callbacks: as for `fit`.
            steps: number of batches; all by default.

        Returns:
            An array (a list or dict of arrays for several outputs), samples in the order of `x`.
        """
        _check_verbose(verbose)
        iterator = EpochIterator(make_adapter(x, batch_size=batch_size, steps=steps), steps)
        outer_plan = self._plan
        self._prepare(_first_batch(iterator, "predict"), train=False)
        callbacks = self._callback_list(callbacks, verbose, iterator)
        self.stop_predicting = False
        batches = []
        try:
            callbacks.on_predict_begin()
            with no_grad():
                for step, data in enumerate(iterator):
                    callbacks.on_predict_batch_begin(step)
                    outputs = _as_arrays(self.predict_step(data))
                    batches.append(outputs)
                    callbacks.on_predict_batch_end(step, {"outputs": outputs})
                    if self.stop_predicting:
                        break
            callbacks.on_predict_end()
        except BaseException:
            callbacks.close()
            raise
        finally:
            self._plan = outer_plan
        return _join(batches)

    # -- single batches ----------------------------------------------------------------------------

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """One training step on one batch; returns its loss and metrics like `evaluate`."""
        self._assert_compiled("train_on_batch")
        if class_weight is not None:
            if sample_weight is not None:
                raise ValueError("train_on_batch: expected class_weight or sample_weight, got both")
            sample_weight = class_weight_to_sample_weights(y, class_weight)
        return self._on_batch((x, y, sample_weight), self.train_step, True, return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Loss and metrics of one batch, returned like `evaluate` does."""
        self._assert_compiled("test_on_batch")
        with no_grad():
            return self._on_batch((x, y, sample_weight), self.test_step, False, return_dict)

    def _on_batch(self, data, step, train, return_dict):
        data = standardize_batch(data)
        outer_plan = self._plan
        self._prepare(data, train)
        try:
            self.reset_metrics()
            logs = pythonify_logs(step(data))
        finally:
            self._plan = outer_plan
        return logs if return_dict else self._in_order(logs)

    def predict_on_batch(self, x):
        """The outputs for one batch, as arrays."""
        data = standardize_batch((x,))
        with no_grad():
            return map_structure(_as_numpy, self.predict_step(data))


class _Box:
    """A plain record whose contents a model does not take for its own weights and layers."""

    def __init__(self, **fields):
        vars(self).update(fields)


def _as_arrays(outputs):
    """What a model gave for a batch, as arrays."""
    arrays = map_structure(_as_numpy, outputs)
    if outputs is None or any(array.ndim == 0 for array in flatten(arrays)):
        raise ValueError(
            f"predict: expected the model to give arrays with a batch axis, got {outputs!r}"
        )
    return arrays


def _as_numpy(output):
    return backend.to_numpy(output.data if isinstance(output, Tensor) else output)


def _join(batches):
    first = batches[0]
    if isinstance(first, dict):
        return {key: _join([batch[key] for batch in batches]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_join(list(column)) for column in zip(*batches, strict=True))
    return np.concatenate(batches)


def _first_batch(iterator, method):
    batch = iterator.peek()
    if batch is None:
        raise ValueError(f"{method}: expected at least one batch, the data source is empty")
    return batch


def _check_verbose(verbose):
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"verbose: expected 'auto', 0, 1 or 2, got {verbose!r}")


def _count(what, value):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{what}: expected an integer >= 0, got {value!r}")
    return int(value)


def _capped_epochs(epochs):
    cap = environment_cap("KERAS_MAX_EPOCHS")
    if cap and cap < epochs:
        warnings.warn(f"Limiting epochs to {cap}", stacklevel=3)
        return cap
    return epochs


def _due(epoch, validation_freq):
    """Whether to validate after `epoch` (counted from 0)."""
    if isinstance(validation_freq, int) and validation_freq > 0:
        return (epoch + 1) % validation_freq == 0
    if isinstance(validation_freq, (list, tuple, set)):
        return epoch + 1 in validation_freq
    raise ValueError(
        f"validation_freq: expected a positive integer or a list of epochs, got {validation_freq!r}"
    )
