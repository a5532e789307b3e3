"""One seed for everything random."""

from __future__ import annotations

import random as python_random

import numpy as np

from .. import random


def set_random_seed(seed):
    """Seed Python's `random`, NumPy's global generator and tilegrad.

    A training run after this call repeats to the bit: initial weights, the order of shuffled
    batches and dropout masks come from this seed, and no kernel's result depends on the number of
    threads.

    Args:
        seed: an integer in [0, 2**32).

    Raises:
        ValueError: any other seed.

    >>> import tilegrad
    >>> set_random_seed(1)
    >>> first = tilegrad.keras.initializers.GlorotUniform()((2, 2))
    >>> set_random_seed(1)
    >>> second = tilegrad.keras.initializers.GlorotUniform()((2, 2))
    >>> bool((np.asarray(first) == np.asarray(second)).all())
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 32:
        raise ValueError(f"set_random_seed: expected an integer in [0, 2**32), got {seed!r}")
    python_random.seed(int(seed))
    np.random.seed(int(seed))
    random.set_seed(int(seed))


def get_random_state() -> dict:
    """The state of all that `set_random_seed` seeds, as nested dicts, lists and arrays."""
    version, words, gauss = python_random.getstate()
    return {
        "python": [version, list(words), gauss],
        "numpy": np.random.get_state(legacy=False),
        "tilegrad": random.generator.bit_generator.state,
    }


def set_random_state(state: dict) -> None:
    """Put everything random into a state of `get_random_state`.

    >>> state = get_random_state()
    >>> first = np.random.rand()
    >>> set_random_state(state)
    >>> np.random.rand() == first
    True
    """
    version, words, gauss = state["python"]
    python_random.setstate((version, tuple(words), gauss))
    np.random.set_state(state["numpy"])
    random.generator.bit_generator.state = state["tilegrad"]
