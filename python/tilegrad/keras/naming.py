"""Names of layers, models, optimizers and metrics: snake_case and a counter, as in Keras."""

from __future__ import annotations

import collections
import re

_counts: collections.defaultdict[str, int] = collections.defaultdict(int)


def to_snake_case(name: str) -> str:
    """``MaxPooling2D`` -> ``max_pooling2d``, ``LeakyReLU`` -> ``leaky_re_lu``."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def auto_name(prefix: str) -> str:
    """The next free name of this kind: ``dense``, then ``dense_1``, ``dense_2``, ...

    >>> reset_names()
    >>> auto_name("Dense"), auto_name("Dense")
    ('dense', 'dense_1')
    """
    name = to_snake_case(prefix)
    count = _counts[name]
    _counts[name] += 1
    return f"{name}_{count}" if count else name


def reset_names() -> None:
    """Count from the beginning again."""
    _counts.clear()
