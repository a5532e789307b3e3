"""Fixtures of the cross-checks with PyTorch; run them by `pytest tests/peers`."""

from __future__ import annotations

import pytest

import tilegrad


@pytest.fixture(autouse=True)
def on_backend(backend):
    """Tensors are made on each backend in turn."""
    with tilegrad.backend.use(backend.name):
        yield
