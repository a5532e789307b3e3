"""Batches: how they are packed, and the base class for sequences of them given to `fit`."""

from __future__ import annotations

import collections


class PyDataset:
    """Batches by index. Subclass it, give ``__len__`` and ``__getitem__``.

    ``__getitem__(index)`` returns one batch: ``(x, y)``, ``(x, y, sample_weight)`` or ``(x,)``. A
    dataset without ``__len__`` (or with a `num_batches` of None) is endless: give `fit` a
    `steps_per_epoch`.

    Args:
        workers: threads that prepare batches ahead of the training step; 1: no threads.
        use_multiprocessing: batches are prepared by threads only, so this must stay False.
        max_queue_size: batches prepared ahead, at most.

    >>> import numpy as np
    >>> class Squares(PyDataset):
    ...     def __len__(self):
    ...         return 2
    ...     def __getitem__(self, index):
    ...         x = np.arange(4.0) + 4 * index
    ...         return x[:, None], x[:, None] ** 2
    >>> Squares().num_batches
    2
    """

    def __init__(self, workers=1, use_multiprocessing=False, max_queue_size=10):
        if use_multiprocessing:
            raise ValueError(
                "PyDataset: expected use_multiprocessing=False (workers are threads), got "
                f"{use_multiprocessing!r}"
            )
        self.workers = workers
        self.max_queue_size = max_queue_size

    def __getitem__(self, index):
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(self, index)")

    @property
    def num_batches(self):
        """Number of batches in one epoch; None: endless."""
        return len(self) if hasattr(self, "__len__") else None

    def on_epoch_begin(self):
        """Called before each epoch's first batch."""

    def on_epoch_end(self):
        """Called after each epoch's last batch; a good place to reshuffle."""


def prefetch(function, indices, workers, ahead):
    """Yield ``function(i)`` for each of `indices`, in order, computed by `workers` threads.

    At most `ahead` results wait at any time.
    """
    if workers <= 1:
        yield from map(function, indices)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        waiting = collections.deque()
        try:
            for index in indices:
                waiting.append(pool.submit(function, index))
                if len(waiting) > max(ahead, workers):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def pack_x_y_sample_weight(x, y=None, sample_weight=None):
    """One batch as `train_step` receives it: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``.

    >>> pack_x_y_sample_weight(1, 2)
    (1, 2)
    """
    if y is None:
        return (x,) if isinstance(x, (tuple, list)) else x
    return (x, y) if sample_weight is None else (x, y, sample_weight)


def unpack_x_y_sample_weight(data):
    """``(x, y, sample_weight)`` from a batch, with None for what it lacks.

    >>> unpack_x_y_sample_weight((1, 2))
    (1, 2, None)
    """
    if isinstance(data, list):
        data = tuple(data)
    if not isinstance(data, tuple):
        return data, None, None
    if not 1 <= len(data) <= 3:
        raise ValueError(
            f"expected data as x, (x,), (x, y) or (x, y, sample_weight), got {len(data)} items"
        )
    return (*data, None, None)[:3]
