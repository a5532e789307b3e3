"""Callbacks: code that `fit`, `evaluate` and `predict` run between batches and epochs."""

from __future__ import annotations

import contextlib
import csv
import inspect
import math
import operator
import os
import string
import warnings

from .saving.files import check_suffix, check_writable, delete
from .utils.progbar import Progbar, is_live

_BATCH_HOOKS = tuple(
    f"on_{mode}_batch_{edge}" for mode in ("train", "test", "predict") for edge in ("begin", "end")
)
_HOOKS = (
    *_BATCH_HOOKS,
    *(f"on_{mode}_{edge}" for mode in ("train", "test", "predict") for edge in ("begin", "end")),
    *("on_epoch_begin", "on_epoch_end", "on_batch_begin", "on_batch_end"),
)


class Callback:
    """Base class: override the methods of the moments you care about.

    `logs` holds running values such as ``{"accuracy": 0.91, "loss": 0.3}``, floats, in sorted
    order; at the end of an epoch with validation also ``val_...``.

    Attributes:
        params: dict with ``verbose``, ``epochs`` and ``steps``.
        model: the model being trained; set ``model.stop_training = True`` to end after this batch.
        resumed: names of the attributes that `BackupAndRestore` keeps for a resumed run: numbers,
            arrays, and lists and dicts of them.

    >>> class Announce(Callback):
    ...     def on_epoch_end(self, epoch, logs=None):
    ...         print(epoch, sorted(logs))
    """

    resumed = ()

    def __init__(self):
        self.params = None
        self._model = None

    @property
    def model(self):
        return self._model

    def set_params(self, params):
        self.params = params

    def set_model(self, model):
        self._model = model

    def _wants_logs(self, hook) -> bool:
        """Whether this callback, one of this module's, uses the logs of the coming `hook`."""
        return True

    def on_batch_begin(self, batch, logs=None):
        """Another name for `on_train_batch_begin`."""

    def on_batch_end(self, batch, logs=None):
        """Another name for `on_train_batch_end`."""

    def on_epoch_begin(self, epoch, logs=None):
        """Before the first batch of an epoch of training (counted from 0)."""

    def on_epoch_end(self, epoch, logs=None):
        """After an epoch of training and its validation."""

    def on_train_batch_begin(self, batch, logs=None):
        """Before a training batch (counted from 0 within the epoch)."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        """After a training batch; `logs` are the running means of this epoch."""
        self.on_batch_end(batch, logs)

    def on_test_batch_begin(self, batch, logs=None):
        """Before a batch of `evaluate`, or of validation."""

    def on_test_batch_end(self, batch, logs=None):
        """After a batch of `evaluate`, or of validation."""

    def on_predict_batch_begin(self, batch, logs=None):
        """Before a batch of `predict`."""

    def on_predict_batch_end(self, batch, logs=None):
        """After a batch of `predict`; ``logs["outputs"]`` are its predictions."""

    def on_train_begin(self, logs=None):
        """Before the first epoch of `fit`."""

    def on_train_end(self, logs=None):
        """After the last epoch of `fit`, with the last epoch's `logs`."""

    def on_test_begin(self, logs=None):
        """Before `evaluate`, or validation."""

    def on_test_end(self, logs=None):
        """After `evaluate`, or validation."""

    def on_predict_begin(self, logs=None):
        """Before `predict`."""

    def on_predict_end(self, logs=None):
        """After `predict`."""


class CallbackList(Callback):
    """Several callbacks as one.

    Args:
        callbacks: a callback or a (nested) list of them.
        add_history: add a `History` if there is none.
        add_progbar: add a `ProgbarLogger` if there is none.
        model: the model they serve.
        **params: what each callback receives as `params`.
    """

    def __init__(self, callbacks=None, add_history=False, add_progbar=False, model=None, **params):
        super().__init__()
        self.callbacks = _flatten(callbacks)
        for callback in self.callbacks:
            if inspect.isclass(callback) or not hasattr(callback, "set_model"):
                found = f"the class {callback.__name__}" if inspect.isclass(callback) else None
                raise TypeError(
                    f"callbacks: expected Callback objects, got {found or type(callback).__name__}"
                )
        if add_history and self._find(History) is None:
            self.callbacks.append(History())
        if add_progbar and self._find(ProgbarLogger) is None:
            self.callbacks.append(ProgbarLogger())
        # A backup comes last, when the others have seen the batch or the epoch that it is of.
        self.callbacks.sort(key=lambda callback: isinstance(callback, BackupAndRestore))
        self._select_listeners()
        if model is not None:
            self.set_model(model)
        self.set_params(params)

    def append(self, callback):
        """Add one more callback."""
        self.callbacks.append(callback)
        self._select_listeners()

    def set_params(self, params):
        self.params = params
        if params:
            for callback in self.callbacks:
                callback.set_params(params)

    def set_model(self, model):
        super().set_model(model)
        history = self._find(History)
        if history is not None:
            model.history = history
        for callback in self.callbacks:
            callback.set_model(model)

    def close(self):
        """Leave the terminal tidy when an exception ends the run."""
        progbar = self._find(ProgbarLogger)
        if progbar is not None and progbar.progbar is not None:
            progbar.progbar.close()

    def _find(self, kind):
        return next((c for c in self.callbacks if isinstance(c, kind)), None)

    def _select_listeners(self):
        """Per batch hook, the callbacks that override it: the others cost no time in the loop."""
        self._hearers = {
            hook: [c for c in self.callbacks if _listens(c, hook)] for hook in _BATCH_HOOKS
        }
        self._listeners = {
            hook: [getattr(c, hook) for c in hearers] for hook, hearers in self._hearers.items()
        }

    def wants_logs(self, hook) -> bool:
        """Whether a callback will look at the logs of the batch that ends with `hook`."""
        return any(
            type(c).__module__ != __name__ or c._wants_logs(hook) for c in self._hearers[hook]
        )

    def listens(self, hook) -> bool:
        """Whether a callback overrides this batch hook."""
        return bool(self._listeners[hook])

    def _batch(self, hook, batch, logs):
        listeners = self._listeners[hook]
        if listeners:
            logs = pythonify_logs(logs)
            for listener in listeners:
                listener(batch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        self._batch("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._batch("on_train_batch_end", batch, logs)

    def on_test_batch_begin(self, batch, logs=None):
        self._batch("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        self._batch("on_test_batch_end", batch, logs)

    def on_predict_batch_begin(self, batch, logs=None):
        self._batch("on_predict_batch_begin", batch, logs)

    def on_predict_batch_end(self, batch, logs=None):
        self._batch("on_predict_batch_end", batch, logs)

    def on_batch_begin(self, batch, logs=None):
        self.on_train_batch_begin(batch, logs)

    def on_batch_end(self, batch, logs=None):
        self.on_train_batch_end(batch, logs)

    def _all(self, hook, *args, logs):
        # One dict for all: what a callback adds (the learning rate, say) the later ones see.
        logs = pythonify_logs(logs)
        for callback in self.callbacks:
            getattr(callback, hook)(*args, logs)

    def on_epoch_begin(self, epoch, logs=None):
        self._all("on_epoch_begin", epoch, logs=logs)

    def on_epoch_end(self, epoch, logs=None):
        self._all("on_epoch_end", epoch, logs=logs)

    def on_train_begin(self, logs=None):
        self._all("on_train_begin", logs=logs)

    def on_train_end(self, logs=None):
        self._all("on_train_end", logs=logs)

    def on_test_begin(self, logs=None):
        self._all("on_test_begin", logs=logs)

    def on_test_end(self, logs=None):
        self._all("on_test_end", logs=logs)

    def on_predict_begin(self, logs=None):
        self._all("on_predict_begin", logs=logs)

    def on_predict_end(self, logs=None):
        self._all("on_predict_end", logs=logs)


class History(Callback):
    """What `fit` returns: the values of each epoch.

    Attributes:
        history: dict of lists, ``{"accuracy": [...], "loss": [...], "val_loss": [...]}``.
        epoch: the indices of the epochs.
    """

    resumed = ("history", "epoch")

    def __init__(self):
        super().__init__()
        self.history = {}
        self.epoch = []

    def on_train_begin(self, logs=None):
        self.epoch = []

    def on_epoch_end(self, epoch, logs=None):
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
        self.model.history = self


class ProgbarLogger(Callback):
    """Draws the progress bar; `fit`, `evaluate` and `predict` add it unless ``verbose=0``."""

    def __init__(self):
        super().__init__()
        self.progbar = None
        self.target = None
        self.verbose = 1
        self.epochs = 1
        self.seen = 0
        self._in_fit = False

    def set_params(self, params):
        super().set_params(params)
        verbose = params["verbose"]
        self.verbose = 1 if verbose == "auto" else verbose
        self.epochs = params["epochs"]
        self.target = params["steps"]

    def on_train_begin(self, logs=None):
        self._in_fit = True

    def on_train_end(self, logs=None):
        self._in_fit = False

    def on_epoch_begin(self, epoch, logs=None):
        title = f"Epoch {epoch + 1}/{self.epochs}" if self.epochs > 1 else ""
        # One line per epoch in a log file: the title goes into that line.
        inline = self.verbose == 1 and not is_live()
        if self.verbose and title and not inline:
            print(title, flush=True)
        self._start(f"{title} - " if title and inline else "")

    def on_epoch_end(self, epoch, logs=None):
        self._finish(logs)

    def on_test_begin(self, logs=None):
        if not self._in_fit:
            self._start()

    def on_test_end(self, logs=None):
        if not self._in_fit:
            self._finish(logs)

    def on_predict_begin(self, logs=None):
        self._start()

    def on_predict_end(self, logs=None):
        self._finish(None)

    def on_train_batch_end(self, batch, logs=None):
        self._step(batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        if not self._in_fit:
            self._step(batch, logs)

    def on_predict_batch_end(self, batch, logs=None):
        self._step(batch, None)

    def _wants_logs(self, hook):
        return self.progbar.is_due() and not (self._in_fit and "test" in hook)

    def _start(self, prefix=""):
        self.seen = 0
        self.progbar = Progbar(
            self.target, verbose=self.verbose, stateless_metrics=(), prefix=prefix
        )

    def _step(self, batch, logs):
        self.seen = batch + 1
        self.progbar.update(self.seen, (logs or {}).items(), finalize=False)

    def _finish(self, logs):
        if self.target is None:
            self.target = self.progbar.target = self.seen
        self.progbar.update(self.target, (logs or {}).items(), finalize=True)


class LambdaCallback(Callback):
    """A callback made of functions, given by the names of the `Callback` methods.

    Raises:
        TypeError: an argument that is no hook, or is not callable.

    >>> callback = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    >>> callback.on_epoch_end(0, {"loss": 0.5})
    0 0.5
    """

    def __init__(
        self,
        on_epoch_begin=None,
        on_epoch_end=None,
        on_train_begin=None,
        on_train_end=None,
        on_train_batch_begin=None,
        on_train_batch_end=None,
        **kwargs,
    ):
        super().__init__()
        hooks = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **kwargs,
        }
        for name, function in hooks.items():
            if name not in _HOOKS:
                raise TypeError(f"LambdaCallback: expected hooks of Callback, got {name!r}")
            if function is None:
                continue
            if not callable(function):
                raise TypeError(f"LambdaCallback: expected a callable for {name}, got {function!r}")
            setattr(self, name, function)


class MonitorCallback(Callback):
    """Base of the callbacks that watch one value and ask whether it improved.

    Args:
        monitor: name of the value in `logs`.
        mode: "min", "max", or "auto": by the direction that the metric itself declares.
        baseline: the value to beat at first; None: none.
        min_delta: smallest change that counts.
    """

    def __init__(self, monitor="val_loss", mode="auto", baseline=None, min_delta=0):
        super().__init__()
        if mode not in ("auto", "min", "max"):
            warnings.warn(
                f"{type(self).__name__}: mode {mode!r} is unknown, 'auto' is used instead",
                stacklevel=3,
            )
            mode = "auto"
        self.monitor = monitor
        self.mode = mode
        self.best = baseline
        self.min_delta = abs(min_delta)
        self.monitor_op = None

    def _set_monitor_op(self):
        """Choose < or >; in "auto" mode only possible once the model's metrics are built."""
        mode = self.mode
        if mode == "auto":
            name = self.monitor.removeprefix("val_")
            if name == "loss" or name.endswith("_loss"):
                mode = "min"
            else:
                mode = {"up": "max", "down": "min"}.get(self._direction(name))
        if mode is None:
            raise ValueError(
                f"{type(self).__name__}: whether monitor={self.monitor!r} should grow or shrink is "
                "unknown; pass mode='max' or mode='min'"
            )
        self.monitor_op = operator.lt if mode == "min" else operator.gt
        if mode == "min":
            self.min_delta = -self.min_delta

    def _direction(self, name):
        for metric in self.model.metrics:
            for leaf in getattr(metric, "metrics", None) or [metric]:
                if leaf.name == name:
                    return getattr(leaf, "_direction", None)
        return None

    def _is_improvement(self, value, reference):
        return reference is None or self.monitor_op(value - self.min_delta, reference)

    def _current(self, logs, purpose):
        current = (logs or {}).get(self.monitor)
        if current is None:
            warnings.warn(
                f"{purpose} conditioned on metric `{self.monitor}` which is not available. "
                f"Available metrics are: {','.join(logs or {})}",
                stacklevel=4,
            )
        return current


class EarlyStopping(MonitorCallback):
    """Stop when the monitored value has not improved for `patience` epochs.

    Args:
        monitor: value to watch.
        min_delta: smallest change that counts as improvement.
        patience: epochs without improvement after which training stops.
        verbose: 1 says when it stops and what it restores.
        mode: "min", "max" or "auto".
        baseline: only values better than this one reset the patience.
        restore_best_weights: put the weights of the best epoch back at the end.
        start_from_epoch: epochs before this one are ignored.
    """

    resumed = ("wait", "stopped_epoch", "best", "best_weights", "best_epoch")

    def __init__(
        self,
        monitor="val_loss",
        min_delta=0,
        patience=0,
        verbose=0,
        mode="auto",
        baseline=None,
        restore_best_weights=False,
        start_from_epoch=0,
    ):
        super().__init__(monitor, mode, min_delta=min_delta)
        self.patience = patience
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self.wait = 0
        self.stopped_epoch = 0
        self.best_weights = None
        self.best_epoch = 0

    def on_train_begin(self, logs=None):
        self.wait = 0
        self.stopped_epoch = 0
        self.best = None
        self.best_weights = None
        self.best_epoch = 0

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor_op is None:
            self._set_monitor_op()
        current = self._current(logs, "Early stopping")
        if current is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            # Should no epoch ever improve (NaN), the first one is what is restored.
            self.best_weights = self.model.get_weights()
            self.best_epoch = epoch
        self.wait += 1
        if self._is_improvement(current, self.best):
            self.best = current
            self.best_epoch = epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self._is_improvement(current, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self.stopped_epoch > 0 and self.verbose > 0:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose > 0:
                print(
                    "Restoring model weights from the end of the best epoch: "
                    f"{self.best_epoch + 1}."
                )
            self.model.set_weights(self.best_weights)


class _SavesByBatches(Callback):
    """What `save_freq`, "epoch" or a number of batches, means."""

    def _set_save_freq(self, save_freq):
        if save_freq != "epoch" and (
            isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1
        ):
            raise ValueError(
                f"{type(self).__name__}: expected save_freq to be 'epoch' or a number of batches, "
                f"got {save_freq!r}"
            )
        self.save_freq = save_freq
        self._batches_since_save = 0
        self._last_batch = None

    def _wants_logs(self, hook):
        return self.save_freq != "epoch"

    def _is_due(self, batch):
        """Whether `save_freq` batches were trained since the last save; called for every batch."""
        if self.save_freq == "epoch":
            return False
        if self._last_batch is None or batch <= self._last_batch:
            self._batches_since_save += batch + 1
        else:
            self._batches_since_save += batch - self._last_batch
        self._last_batch = batch
        if self._batches_since_save < self.save_freq:
            return False
        self._batches_since_save = 0
        return True


class BackupAndRestore(_SavesByBatches):
    """Keep the state of `fit` in a folder; the same script, started again, goes on from there.

    The resumed run computes the same bits as one that was never stopped, however it was stopped:
    the backup holds weights, optimizer, the position in the data, the state of everything random
    (`keras.utils.set_random_seed`), dropout's seeds, the running metrics, the history, and the
    `resumed` attributes of the other callbacks. It is one file, replaced in one step. A dataset
    that keeps a state of its own between epochs must restore it itself.

    Args:
        backup_dir: a folder for this run alone; made if missing.
        save_freq: "epoch", or a number of batches: then a run goes on in the middle of an epoch.
        double_checkpoint: keep the backup before the last one too, and fall back on it should the
            last one be damaged.
        delete_checkpoint: delete the backup when training is complete.

    Raises:
        ValueError: an empty `backup_dir`, another `save_freq`; at the beginning of training, a
            backup that is damaged or belongs to another model.
        OSError: before training starts, if the folder cannot be written.

    >>> import tempfile
    >>> from tilegrad import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> class PowerCut(Callback):
    ...     def on_epoch_begin(self, epoch, logs=None):
    ...         if epoch == 2:
    ...             raise RuntimeError("no power")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = {"x": [[1.0, 2.0]], "y": [[3.0]], "epochs": 5, "verbose": 0}
    ...     try:
    ...         model.fit(**data, callbacks=[BackupAndRestore(folder + "/backup"), PowerCut()])
    ...     except RuntimeError as error:
    ...         print(error)
    ...     model.fit(**data, callbacks=[BackupAndRestore(folder + "/backup")]).epoch
    no power
    [0, 1, 2, 3, 4]
    """

    resumed = ("_batches_since_save", "_last_batch")

    def __init__(
        self, backup_dir, save_freq="epoch", double_checkpoint=False, delete_checkpoint=True
    ):
        super().__init__()
        if not backup_dir:
            raise ValueError(f"BackupAndRestore: expected backup_dir, got {backup_dir!r}")
        self._set_save_freq(save_freq)
        self.backup_dir = os.fsdecode(backup_dir)
        self.double_checkpoint = double_checkpoint
        self.delete_checkpoint = delete_checkpoint
        self._latest = os.path.join(self.backup_dir, "latest.safetensors")
        self._previous = os.path.join(self.backup_dir, "previous.safetensors")
        self._epoch = 0

    def on_train_begin(self, logs=None):
        check_writable(self._latest)
        run = self.model._run
        if os.path.exists(self._latest):
            try:
                run.restore(self._latest)
                return
            except ValueError:
                if not os.path.exists(self._previous):
                    raise
        if os.path.exists(self._previous):
            run.restore(self._previous)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self._is_due(batch):
            self._save(self._epoch, batch + 1, logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.save_freq == "epoch":
            self._save(epoch + 1)

    def on_train_end(self, logs=None):
        if self.delete_checkpoint:
            delete(self._latest)
            delete(self._previous)
            with contextlib.suppress(OSError):  # somebody else's files are in it
                os.rmdir(self.backup_dir)

    def _save(self, epoch, done=0, logs=None):
        if self.model.stop_training:
            return  # the run ends now; one resumed from the last backup comes to the same end
        os.makedirs(self.backup_dir, exist_ok=True)
        if self.double_checkpoint and os.path.exists(self._latest):
            os.replace(self._latest, self._previous)
        self.model._run.save(self._latest, epoch, done, logs)


class ModelCheckpoint(MonitorCallback, _SavesByBatches):
    """Save the model, or its weights, while it trains.

    Args:
        filepath: where to, ending in ``.safetensors``; may hold fields of the epoch and of `logs`,
            such as ``"best-{epoch:02d}-{val_loss:.2f}.safetensors"``.
        monitor: value that `save_best_only` watches.
        verbose: 1 says what is saved.
        save_best_only: keep a file only for an epoch that improved.
        save_weights_only: leave the optimizer's state and the configuration out.
        mode: "min", "max" or "auto".
        save_freq: "epoch", or a number of batches.
        initial_value_threshold: the value to beat at first.

    Raises:
        ValueError: a suffix or a `save_freq` of another kind.
        OSError: before training starts, if the folder cannot be written.
    """

    resumed = ("best", "_batches_since_save", "_last_batch")

    def __init__(
        self,
        filepath,
        monitor="val_loss",
        verbose=0,
        save_best_only=False,
        save_weights_only=False,
        mode="auto",
        save_freq="epoch",
        initial_value_threshold=None,
    ):
        super().__init__(monitor, mode, initial_value_threshold)
        self.filepath = check_suffix(filepath, "ModelCheckpoint")
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(self.filepath)]
        except ValueError as error:
            raise ValueError(f"ModelCheckpoint: {self.filepath!r}: {error}") from None
        if any(field is not None and not field.isidentifier() for field in fields):
            raise ValueError(
                f"ModelCheckpoint: expected named fields such as {{epoch}}, got {self.filepath!r}"
            )
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self._set_save_freq(save_freq)
        self._current_epoch = 0

    def on_train_begin(self, logs=None):
        if "{" not in os.path.dirname(self.filepath):
            check_writable(self.filepath)

    def on_epoch_begin(self, epoch, logs=None):
        self._current_epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self._is_due(batch):
            self._save(self._current_epoch, batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.save_freq == "epoch":
            self._save(epoch, None, logs)

    def _save(self, epoch, batch, logs):
        logs = logs or {}
        path = self._path(epoch, batch, logs)
        if not self._should_save(epoch, logs, path):
            return
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path, overwrite=True)
        else:
            self.model.save(path, overwrite=True)
        self._say(epoch, f"finished saving model to {path}")

    def _should_save(self, epoch, logs, path):
        if not self.save_best_only:
            self._say(epoch, f"saving model to {path}")
            return True
        if self.monitor_op is None:
            self._set_monitor_op()
        current = logs.get(self.monitor)
        if current is None:
            warnings.warn(f"Can save best model only with {self.monitor} available.", stacklevel=4)
            return True
        best = "None" if self.best is None else f"{self.best:.5f}"
        if not self._is_improvement(current, self.best):
            self._say(epoch, f"{self.monitor} did not improve from {best}")
            return False
        self._say(
            epoch, f"{self.monitor} improved from {best} to {current:.5f}, saving model to {path}"
        )
        self.best = current
        return True

    def _say(self, epoch, text):
        if self.verbose > 0:
            print(f"\nEpoch {epoch + 1}: {text}")

    def _path(self, epoch, batch, logs):
        fields = {**logs, "epoch": epoch + 1}
        if batch is not None:
            fields.setdefault("batch", batch + 1)
        try:
            return self.filepath.format(**fields)
        except KeyError as error:
            raise KeyError(
                f"ModelCheckpoint: expected the fields of {self.filepath!r} among "
                f"{sorted(fields)}, got {error}"
            ) from None


class CSVLogger(Callback):
    """Write each epoch's values as a row of a CSV file.

    Args:
        filename: where to.
        separator: between the cells.
        append: go on with an existing file instead of starting a new one.

    Raises:
        OSError: before training starts, if the file cannot be written.
    """

    def __init__(self, filename, separator=",", append=False):
        super().__init__()
        self.filename = os.fspath(filename)
        self.sep = separator
        self.append = append
        self.keys = None
        self.writer = None
        self.csv_file = None
        self.append_header = True

    def on_train_begin(self, logs=None):
        if self.append and os.path.exists(self.filename):
            with open(self.filename, newline="") as existing:
                self.append_header = not existing.readline()
        self._close()
        self.csv_file = open(self.filename, "a" if self.append else "w", newline="")  # noqa: SIM115
        self.keys = None
        self.writer = None

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if self.writer is None:
            self.keys = sorted(logs)
            if not any(key.startswith("val_") for key in self.keys):
                # Validation may start in a later epoch: its columns must be there from the first
                # row.
                self.keys += [f"val_{key}" for key in self.keys]
            self.writer = csv.writer(self.csv_file, delimiter=self.sep)
            if self.append_header:
                self.writer.writerow(["epoch", *self.keys])
        self.writer.writerow([epoch, *(logs.get(key, "NA") for key in self.keys)])
        self.csv_file.flush()

    def on_train_end(self, logs=None):
        self._close()
        self.writer = None

    def _close(self):
        if self.csv_file is not None and not self.csv_file.closed:
            self.csv_file.close()


class LearningRateScheduler(Callback):
    """Set the learning rate at the beginning of each epoch.

    Args:
        schedule: ``f(epoch, learning_rate)`` or ``f(epoch)``; returns the new learning rate, a
        float.
        verbose: 1 says what is set.

    Raises:
        ValueError: `schedule` returned something else than a float.
    """

    def __init__(self, schedule, verbose=0):
        super().__init__()
        self.schedule = schedule
        self.verbose = verbose

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        if _takes_one_argument(self.schedule):
            rate = self.schedule(epoch)
        else:
            rate = self.schedule(epoch, float(optimizer.learning_rate))
        if not isinstance(rate, float) and not (hasattr(rate, "dtype") and rate.dtype.kind == "f"):
            raise ValueError(
                f"LearningRateScheduler: expected schedule to return a float, got {rate!r}"
            )
        optimizer.learning_rate = float(rate)
        if self.verbose > 0:
            rate = float(rate)
            print(f"\nEpoch {epoch + 1}: LearningRateScheduler setting learning rate to {rate}.")

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class ReduceLROnPlateau(MonitorCallback):
    """Multiply the learning rate by `factor` when the monitored value has stopped improving.

    Args:
        monitor: value to watch.
        factor: below 1.
        patience: epochs without improvement before a reduction.
        verbose: 1 says what is set.
        mode: "min", "max" or "auto".
        min_delta: smallest change that counts as improvement.
        cooldown: epochs after a reduction in which nothing is counted.
        min_lr: lower bound.

    Raises:
        ValueError: `factor` is 1 or more.
    """

    resumed = ("best", "cooldown_counter", "wait")

    def __init__(
        self,
        monitor="val_loss",
        factor=0.1,
        patience=10,
        verbose=0,
        mode="auto",
        min_delta=1e-4,
        cooldown=0,
        min_lr=0.0,
    ):
        super().__init__(monitor, mode, min_delta=min_delta)
        if factor >= 1.0:
            raise ValueError(f"ReduceLROnPlateau: expected factor < 1, got {factor}")
        self.factor = factor
        self.patience = patience
        self.verbose = verbose
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.cooldown_counter = 0
        self.wait = 0

    def on_train_begin(self, logs=None):
        self.best = None
        self.cooldown_counter = 0
        self.wait = 0

    def in_cooldown(self):
        return self.cooldown_counter > 0

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor_op is None:
            self._set_monitor_op()
        logs = {} if logs is None else logs
        optimizer = self.model.optimizer
        rate = float(optimizer.learning_rate)
        logs["learning_rate"] = rate
        current = self._current(logs, "Learning rate reduction is")
        if current is None:
            return
        if self.in_cooldown():
            self.cooldown_counter -= 1
            self.wait = 0
        if self._is_improvement(current, self.best):
            self.best = current
            self.wait = 0
        elif not self.in_cooldown():
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                optimizer.learning_rate = rate = max(rate * self.factor, self.min_lr)
                if self.verbose > 0:
                    print(
                        f"\nEpoch {epoch + 1}: ReduceLROnPlateau reducing learning rate to {rate}."
                    )
                self.cooldown_counter = self.cooldown
                self.wait = 0


class TerminateOnNaN(Callback):
    """Stop as soon as a batch leaves the running loss NaN or infinite.

    Args:
        raise_error: raise a RuntimeError instead of ending the run in order.
    """

    def __init__(self, raise_error=False):
        super().__init__()
        self.raise_error = raise_error

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(
                f"TerminateOnNaN: expected a finite loss, got {loss} at batch {batch}"
            )
        print(f"Batch {batch}: Invalid loss, terminating training")
        self.model.stop_training = True


def pythonify_logs(logs):
    """Values as floats, dicts among them merged in, keys sorted."""
    result = {}
    for name, value in sorted((logs or {}).items()):
        if isinstance(value, dict):
            result.update(pythonify_logs(value))
        else:
            # What is no number (the outputs of predict) is handed on as it is.
            with contextlib.suppress(TypeError, ValueError):
                value = float(value)
            result[name] = value
    return result


def _flatten(callbacks):
    if callbacks is None:
        return []
    if isinstance(callbacks, (list, tuple)):
        return [leaf for item in callbacks for leaf in _flatten(item)]
    return [callbacks]


def _listens(callback, hook):
    """Whether a batch hook of `callback` does anything."""
    names = [hook, "on_batch" + hook.removeprefix("on_train_batch")] if "train" in hook else [hook]
    return any(
        getattr(getattr(callback, name), "__func__", None) is not getattr(Callback, name)
        for name in names
    )


def _takes_one_argument(function):
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) == 1 and not any(p.kind == p.VAR_POSITIONAL for p in parameters)
