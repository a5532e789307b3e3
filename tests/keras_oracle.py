"""Keras 3 on its numpy backend: the oracle of the layer tests. Import `keras` from here only."""

from __future__ import annotations

import functools
import os
import sys
import warnings

import numpy as np
import pytest
from checks import tolerance

import tilegrad

if "keras" not in sys.modules:
    os.environ["KERAS_BACKEND"] = "numpy"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras", minversion="3.5", exc_type=ImportError)

# Python 3.10 gets an older Keras, and a few of its ways have changed since.
KERAS_VERSION = tuple(map(int, keras.__version__.split(".")[:2]))


@pytest.fixture(scope="module")
def on_backend(backend):
    """Tensors are made on each backend in turn."""
    if keras.backend.backend() != "numpy":
        pytest.skip(f"Keras was imported with the backend {keras.backend.backend()} before")
    with tilegrad.backend.use(backend.name):
        yield backend


def oracle(fn):
    """Cache what Keras computes (the same is asked on every backend), and drop its warnings."""
    return functools.cache(lambda *args: quiet(fn, *args))


def quiet(fn, *args, **kwargs):
    """Call into Keras without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fn(*args, **kwargs)


def assert_agree(actual, oracle, length=1, magnitude=None):
    """`actual` equals what Keras computed in float32, up to both sides' rounding.

    Args:
        length: how many terms one element sums.
        magnitude: what the error is relative to; the largest element by default.
    """
    actual, oracle = map(tilegrad.backend.to_numpy, (actual, oracle))
    assert actual.shape == oracle.shape, f"expected shape {oracle.shape}, got {actual.shape}"
    finite = np.abs(oracle[np.isfinite(oracle)])
    size = max(1e-3, float(finite.max(initial=0))) if magnitude is None else magnitude
    allowed = 2 * tolerance(np.float32, length, size, "function")
    with np.errstate(invalid="ignore"):
        good = (
            (np.abs(actual - oracle) <= allowed)
            | (actual == oracle)
            | (np.isnan(actual) & np.isnan(oracle))
        )
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        raise AssertionError(
            f"{(~good).sum()} of {good.size} differ, first at {at}: expected {oracle[at]!r}, "
            f"got {actual[at]!r}, allowed error {allowed:.3g}"
        )


def assert_configs(ours: dict, oracle: dict, ignore=()):
    """Every setting of ours that Keras has too is the same, and Keras's are all there."""
    missing = set(oracle) - set(ours) - {"quantization_config", "lora_rank", "lora_alpha", *ignore}
    assert not missing, f"the config lacks {sorted(missing)}"
    for key in set(ours) & set(oracle) - set(ignore):
        assert plain(ours[key]) == plain(oracle[key]), (
            f"config[{key!r}]: {ours[key]} != {oracle[key]}"
        )


def plain(value):
    """Tuples as lists, and only the settings that every Keras 3 has."""
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy":
            return value["config"]["name"]
        return {k: plain(v) for k, v in value.items() if k not in ("input_axes", "output_axes")}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value
