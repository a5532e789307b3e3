"""From what the user passed as data to batches: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``.

Every kind of source becomes an adapter: an iterable over one epoch's batches with a `num_batches`
(None if unknown). `EpochIterator` deals out the adapter's batches to epochs, `steps_per_epoch` at
a time.

Batches are NumPy arrays; on a GPU they are tensors there. Arrays that fit are copied to it once,
and their batches are made there; what does not fit, and what user code yields, is copied batch by
batch.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings

import numpy as np

from ... import backend
from ...tensor import Tensor
from ..random import generator
from ..utils.dataset import pack_x_y_sample_weight, prefetch, unpack_x_y_sample_weight
from ..utils.seed import get_random_state, set_random_state


def map_structure(function, data):
    """`function` applied to each leaf of nested lists, tuples and dicts; None stays None."""
    if data is None:
        return None
    if isinstance(data, dict):
        return {key: map_structure(function, value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(map_structure(function, value) for value in data)
    return function(data)


def flatten(data) -> list:
    """The leaves of nested lists, tuples and dicts, without the Nones."""
    if data is None:
        return []
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, (list, tuple)):
        return [leaf for value in data for leaf in flatten(value)]
    return [data]


def class_weight_to_sample_weights(y, class_weight):
    """The weight of each sample's class; 1 for a class that `class_weight` does not name.

    Args:
        y: integer labels (n,) or (n, 1), or one-hot rows (n, classes).
        class_weight: dict from class index to weight.

    Raises:
        ValueError: class_weight is no dict of numbers.
    """
    if not isinstance(class_weight, dict) or not all(
        isinstance(number, (int, float, np.number))
        for item in class_weight.items()
        for number in item
    ):
        raise ValueError(
            f"class_weight: expected a dict from class index to weight, got {class_weight!r}"
        )
    labels = backend.to_numpy(as_array(y, "y"))
    if labels.ndim > 1:
        labels = labels[..., 0] if labels.shape[-1] == 1 else labels.argmax(axis=-1)
    classes, which = np.unique(np.round(labels).astype("int64"), return_inverse=True)
    weights = np.array([class_weight.get(int(c), 1.0) for c in classes], dtype="float32")
    return weights[which.reshape(labels.shape)]


def as_array(value, name="x", contiguous=True):
    """`value` as an array of float32, integers or booleans with at least one axis.

    It is NumPy's, or CuPy's where `value` is on a GPU and the default device is one.

    Raises:
        TypeError: data that are not numbers.
        ValueError: a ragged list or a 0-d array, data on a GPU for another device.
    """
    if isinstance(value, Tensor):
        array = value.data
    elif isinstance(value, np.ndarray):
        array = value
    else:
        if hasattr(value, "detach"):  # a PyTorch tensor that may require a gradient
            value = value.detach()
        try:
            array = backend.as_array(value)
        except ValueError as error:
            raise ValueError(f"{name}: expected rows of equal length ({error})") from None
    if not isinstance(array, np.ndarray) and backend.default_device() != "cuda":
        raise ValueError(
            f"{name}: the data are on a GPU, and the default device is "
            f"{backend.default_device()}; tilegrad.backend.set_default_device('cuda') before the "
            "model is made, or copy them to the host"
        )
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{name}: expected numbers, got dtype {array.dtype} from {type(value).__name__}"
        )
    if array.ndim == 0:
        raise ValueError(f"{name}: expected an array with a batch axis, got the scalar {array}")
    if array.dtype.kind == "f" and array.dtype != np.float32:
        return array.astype(np.float32)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return backend.namespace(array).ascontiguousarray(array) if contiguous else array


def as_arrays(data, name="x"):
    """`as_array` for each array in `data`; a list of numbers or of rows is one array."""
    if isinstance(data, (list, tuple)) and not _holds_arrays(data):
        return as_array(data, name)
    return map_structure(lambda leaf: as_array(leaf, name), data)


def _holds_arrays(items) -> bool:
    return any(item is None or isinstance(item, dict) or getattr(item, "ndim", 0) for item in items)


def _compact_labels(y):
    """A column of integers as int32, the kernels' type: once for all, rather than at every step."""
    if y.dtype.kind not in "iu" or y.dtype == np.int32 or y.size != len(y):
        return y
    if not isinstance(y, np.ndarray) and y.dtype.itemsize < 4:
        return y.astype(np.int32)
    limits = np.iinfo(np.int32)
    fits = y.size and y.min() >= limits.min and y.max() <= limits.max
    return y.astype(np.int32) if fits else y


def _is_array_data(x) -> bool:
    if isinstance(x, (list, tuple, dict)):
        return True
    return hasattr(x, "__array__") or hasattr(x, "__dlpack__")


def _as_batch(arrays):
    """`arrays` as they are, or on a GPU as tensors there."""
    return arrays if backend.default_device() != "cuda" else map_structure(Tensor, arrays)


def _fits(columns) -> bool:
    """Whether the default device takes the arrays that the host still holds; half of it is theirs.

    Always so where the device's memory is the host's.
    """
    room = backend.get(backend.default_device()).free_bytes()
    here = [array.nbytes for array in flatten(columns) if isinstance(array, np.ndarray)]
    return room is None or sum(here) <= room // 2


class ArrayAdapter:
    """Arrays in memory, gathered batch by batch.

    Attributes:
        place: says where x of a batch of so many rows shall lie; None: in an array of its own.
        unchecked: the targets, if they are on a GPU, where the loss does not look at their values.
    """

    unchecked = None
    place = None

    def __init__(self, x, y=None, sample_weight=None, batch_size=None, steps=None, shuffle=False):
        x, y = as_arrays(x, "x"), map_structure(_compact_labels, as_arrays(y, "y"))
        sample_weight = as_arrays(sample_weight, "sample_weight")
        columns = pack_x_y_sample_weight(x, y, sample_weight)
        k = backend.get(backend.default_device())
        if k.xp is not np and _fits(columns):
            columns = map_structure(k.asarray, columns)
        self._columns = columns
        self._on_gpu = [not isinstance(array, np.ndarray) for array in flatten(self._columns)]
        if any(self._on_gpu):
            self.unchecked = unpack_x_y_sample_weight(self._columns)[1]
        self.num_samples = check_cardinality(x=x, y=y, sample_weight=sample_weight)
        if batch_size is None:
            batch_size = (
                32 if steps is None else math.ceil(self.num_samples / positive_int(steps, "steps"))
            )
        self.batch_size = positive_int(batch_size, "batch_size")
        self.num_batches = math.ceil(self.num_samples / self.batch_size)
        self.shuffle = shuffle

    def __iter__(self):
        n, size = self.num_samples, self.batch_size
        order = generator.permutation(n) if self.shuffle and self.shuffle != "batch" else None
        if order is not None and all(self._on_gpu):
            order = backend.get(backend.default_device()).asarray(order)
        for start in range(0, n, size):
            stop = min(start + size, n)
            if order is not None:
                yield self._gather(order[start:stop])
            elif self.shuffle:
                yield self._gather(start + generator.permutation(stop - start))
            else:
                yield _as_batch(map_structure(lambda a, s=start, e=stop: a[s:e], self._columns))

    def _gather(self, rows):
        """The given rows of every column, in arrays from the backend's pool."""
        k = backend.get(backend.default_device())

        place = None if self.place is None else self.place(len(rows))

        def take(array):
            nonlocal place
            if not isinstance(array, np.ndarray):
                return array.take(k.asarray(rows), axis=0)
            if k.xp is not np:
                return array.take(rows, axis=0)
            out, place = place, None
            if out is None or (out.shape[1:], out.dtype) != (array.shape[1:], array.dtype):
                out = k.empty((len(rows), *array.shape[1:]), array.dtype)
            # Rows are valid by construction; "clip" spares NumPy a buffered copy.
            return array.take(rows, axis=0, out=out, mode="clip")

        return _as_batch(map_structure(take, self._columns))

    def on_epoch_begin(self):
        """Arrays need no preparation."""

    def on_epoch_end(self):
        """Arrays need no cleaning up."""


class SequenceAdapter:
    """Batches by index: a `PyDataset`, or any object with ``__getitem__`` and ``__len__``."""

    unchecked = None

    def __init__(self, source, class_weight=None, shuffle=False):
        self.source = source
        self.class_weight = class_weight
        self.shuffle = shuffle
        count = getattr(source, "num_batches", None)
        self.num_batches = len(source) if count is None and hasattr(source, "__len__") else count
        if self.num_batches == 0:
            raise ValueError(f"{type(source).__name__}: expected at least one batch, got 0")

    def __iter__(self):
        if self.num_batches is None:
            indices = itertools.count()
        elif self.shuffle:
            indices = generator.permutation(self.num_batches).tolist()
        else:
            indices = range(self.num_batches)
        workers = getattr(self.source, "workers", 1)
        ahead = getattr(self.source, "max_queue_size", 10)
        for batch in prefetch(self.source.__getitem__, indices, workers, ahead):
            yield standardize_batch(batch, self.class_weight, type(self.source).__name__)

    def on_epoch_begin(self):
        getattr(self.source, "on_epoch_begin", _nothing)()

    def on_epoch_end(self):
        getattr(self.source, "on_epoch_end", _nothing)()


class IterableAdapter:
    """A generator (read once, across epochs) or an iterable that starts anew each epoch."""

    unchecked = None

    def __init__(self, source, class_weight=None):
        self.source = source
        self.class_weight = class_weight
        try:
            self.num_batches = len(source)
        except TypeError:  # it has no length, or does not know it
            self.num_batches = None

    def __iter__(self):
        for batch in self.source:
            yield standardize_batch(batch, self.class_weight, type(self.source).__name__)

    def on_epoch_begin(self):
        """The source runs itself."""

    def on_epoch_end(self):
        """The source runs itself."""


def standardize_batch(batch, class_weight=None, source="data"):
    """A batch that user code made, as arrays; class weights are added."""
    if isinstance(batch, list):
        batch = tuple(batch)
    if not isinstance(batch, (tuple, dict)) and not hasattr(batch, "shape"):
        raise ValueError(
            f"{source}: expected batches as tuples (x,), (x, y) or (x, y, sample_weight), "
            f"got {type(batch).__name__}"
        )
    x, y, sample_weight = unpack_x_y_sample_weight(batch)
    if x is None:
        raise ValueError(f"{source}: expected batches that begin with x, got None for it")
    x, y = as_arrays(x, "x"), as_arrays(y, "y")
    sample_weight = as_arrays(sample_weight, "sample_weight")
    if class_weight is not None and y is not None:
        if sample_weight is not None:
            raise ValueError(f"{source}: expected class_weight or sample_weight, got both")
        sample_weight = class_weight_to_sample_weights(y, class_weight)
    check_cardinality(x=x, y=y, sample_weight=sample_weight)
    # integer labels stay: the loss looks at them before it copies them to a GPU
    y = map_structure(lambda a: a if a.dtype.kind in "iub" else _as_batch(a), y)
    return pack_x_y_sample_weight(_as_batch(x), y, _as_batch(sample_weight))


def make_adapter(
    x, y=None, sample_weight=None, batch_size=None, steps=None, shuffle=False, class_weight=None
):
    """The adapter for a source of any kind that `fit`, `evaluate` and `predict` take."""
    if _is_array_data(x):
        if class_weight is not None:
            if sample_weight is not None:
                raise ValueError("expected class_weight or sample_weight, got both")
            if (
                y is None
                or isinstance(y, dict)
                or (isinstance(y, (list, tuple)) and _holds_arrays(y))
            ):
                raise ValueError(
                    "class_weight: expected one array of labels y, got none or several"
                )
            sample_weight = class_weight_to_sample_weights(y, class_weight)
        return ArrayAdapter(x, y, sample_weight, batch_size, steps, shuffle)
    if not hasattr(x, "__getitem__") and not hasattr(x, "__iter__"):
        raise ValueError(
            f"x: expected arrays, a sequence of batches or a generator, got {type(x).__name__}"
        )
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise ValueError(
                f"{name}: expected None, since {type(x).__name__} yields whole batches "
                "(x, y, sample_weight)"
            )
    if hasattr(x, "__getitem__"):
        return SequenceAdapter(x, class_weight, shuffle)
    return IterableAdapter(x, class_weight)


class EpochIterator:
    """Deals the batches of an adapter out to epochs.

    Without `steps_per_epoch` an epoch is one pass over the adapter. With it, an epoch takes that
    many batches, and the next epoch goes on where it stopped, or with `restart` begins anew.
    """

    def __init__(self, adapter, steps_per_epoch=None, restart=False):
        if steps_per_epoch is not None:
            positive_int(steps_per_epoch, "steps_per_epoch")
        cap = environment_cap("KERAS_MAX_STEPS_PER_EPOCH")
        if cap and (steps_per_epoch is None or cap < steps_per_epoch):
            warnings.warn(f"Limiting steps_per_epoch to {cap}", stacklevel=3)
            steps_per_epoch = cap
        self.adapter = adapter
        self.steps_per_epoch = steps_per_epoch
        self.restart = restart or steps_per_epoch is None
        self._batches = None
        self._dealt = 0
        self._peeked = None
        self._skipped = 0  # of the epoch that begins, by `seek`
        self._random = None  # the state of everything random when the pass began

    @property
    def num_batches(self):
        """Batches per epoch; None if unknown."""
        return self.steps_per_epoch or self.adapter.num_batches

    def peek(self):
        """The first batch, which the next epoch will still receive."""
        if self._peeked is None:
            if self._batches is None:
                self._begin_pass()
            self._peeked = next(self._batches, None)
        return self._peeked

    def _begin_pass(self):
        self._random = get_random_state()
        self._batches, self._dealt = iter(self.adapter), 0

    def position(self):
        """How far the batches were dealt, for `seek`; None at the end of a pass."""
        if self._batches is None:
            return None
        return {"dealt": self._dealt, "random": self._random}

    def seek(self, position, done):
        """Go to where another iterator over the same data was.

        What can be read again is read again, in the order of that pass; a generator is taken to
        begin as it did then. Everything random is in another state afterwards.

        Args:
            position: what `position` returned.
            done: how many batches of the epoch were dealt by then.
        """
        peeked, self._peeked, self._skipped = self._peeked, None, done
        if position is None:
            self._batches = None
            return
        ahead = position["dealt"]
        if hasattr(getattr(self.adapter, "source", None), "__next__"):
            ahead -= peeked is not None
        else:
            set_random_state(position["random"])
            self._begin_pass()
        self._dealt, self._random = position["dealt"], position["random"]
        for _ in itertools.islice(self._batches, ahead):
            pass

    def __iter__(self):
        self.adapter.on_epoch_begin()
        done, self._skipped = self._skipped, 0
        if self._batches is None or (self.restart and self._peeked is None and done == 0):
            self._begin_pass()
        limit = self.num_batches
        while limit is None or done < limit:
            batch, self._peeked = self._peeked, None
            if batch is None:
                batch = next(self._batches, None)
            if batch is None:
                self._batches = None
                if limit is not None or done == 0:
                    warnings.warn(
                        f"The data ran out after {done} of {limit or 'the'} batches of this epoch: "
                        "make sure that the source yields steps_per_epoch * epochs batches",
                        stacklevel=3,
                    )
                break
            self._dealt += 1
            done += 1
            yield batch
        if self.adapter.num_batches and self._dealt >= self.adapter.num_batches:
            self._batches = None
        self.adapter.on_epoch_end()


def train_validation_split(x, y, sample_weight, fraction):
    """The first part for training and the last `fraction` of the samples for validation.

    Raises:
        ValueError: the data are no arrays, or one of the parts would be empty.
    """
    if not _is_array_data(x):
        raise ValueError(
            f"validation_split: expected x to be arrays, got {type(x).__name__}; "
            "pass validation_data instead"
        )
    if not isinstance(fraction, (int, float, np.number)) or not 0 < fraction < 1:
        raise ValueError(f"validation_split: expected a number in [0, 1), got {fraction!r}")
    columns = as_arrays(x, "x"), as_arrays(y, "y"), as_arrays(sample_weight, "sample_weight")
    n = check_cardinality(x=columns[0], y=columns[1], sample_weight=columns[2])
    split = math.floor(n * (1.0 - fraction))
    if split in (0, n):
        raise ValueError(
            f"validation_split: {n} samples are too few to hold back a fraction of {fraction}"
        )
    return (
        map_structure(lambda a: a[:split], columns),
        map_structure(lambda a: a[split:], columns),
    )


def check_cardinality(**columns) -> int:
    """The number of samples that all arrays have in common.

    Raises:
        ValueError: the numbers differ, or there are no samples.
    """
    sizes = {name: [len(leaf) for leaf in flatten(column)] for name, column in columns.items()}
    counts = {size for column in sizes.values() for size in column}
    if len(counts) != 1:
        found = ", ".join(
            f"{name}: {str(column[:8])[:-1]}{', ...' if column[8:] else ''}]"
            for name, column in sizes.items()
            if column
        )
        raise ValueError(
            f"expected the same number of samples in all arrays, got {found or 'none'}"
        )
    (count,) = counts
    if count == 0:
        raise ValueError("x: expected at least one sample, got an empty array")
    return count


def environment_cap(name) -> int | None:
    """The limit that an environment variable sets, for quick runs of long scripts."""
    value = os.environ.get(name)
    if not value:
        return None
    return positive_int(int(value) if value.isdecimal() else value, name)


def positive_int(value, name) -> int:
    """`value`, if it is an integer above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value <= 0:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return int(value)


def _nothing():
    return None
