"""`keras.backend`: the settings of `keras.config`, and a clean slate for names and seeds."""

from __future__ import annotations

from . import random
from .config import (
    backend,
    epsilon,
    floatx,
    image_data_format,
    set_epsilon,
    set_floatx,
    set_image_data_format,
)
from .naming import reset_names

__all__ = [
    "backend",
    "clear_session",
    "epsilon",
    "floatx",
    "image_data_format",
    "set_epsilon",
    "set_floatx",
    "set_image_data_format",
]


def clear_session() -> None:
    """Start counting layer names from the beginning, and seed from the system's entropy again."""
    reset_names()
    random.set_seed(None)
