"""Activations on every backend, against the float64 reference."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import ODD, assert_close, check, directional_check, expected, f32, normal, run
from hypothesis import given

from tilegrad.backend import ACTIVATIONS

ALPHA = f32(0.3)
SAVES_OUTPUT = ("linear", "relu", "leaky_relu", "sigmoid", "tanh", "elu")


def saved_for(name, x):
    """What backward reads: y for the kinds up to elu, else x."""
    if name not in SAVES_OUTPUT:
        return x
    (y,) = expected("activation_forward", [x.shape], x, ACTIVATIONS[name], ALPHA)
    return y.astype(np.float32)


def forward_magnitude(name, x):
    """What the forward's rounding errors are relative to: y itself, but for 1 + erf and exp - 1."""
    (y,) = expected("activation_forward", [x.shape], x, ACTIVATIONS[name], ALPHA)
    x, y = np.abs(x.astype(np.float64)), np.abs(y)
    tiny = np.finfo(np.float32).tiny  # silu's sigmoid may be subnormal
    return {"gelu": x, "gelu_tanh": x, "elu": 1 + y, "silu": y + tiny * x}.get(name)


def backward_magnitude(name, dy, x):
    """The gradient's scale before the cancellation in 1 - tanh^2 and its like."""
    size = 1 + np.abs(x) ** 3 if name == "gelu_tanh" else 1 + np.abs(x)
    return np.abs(dy) * size


@pytest.mark.parametrize("count", (*ODD, 0, 1000, 40_001))
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_forward_and_backward(backend, name, count, rng):
    x, dy = 4 * normal(rng, count), normal(rng, count)
    kind = ACTIVATIONS[name]
    check(
        backend,
        "activation_forward",
        [x.shape],
        x,
        kind,
        ALPHA,
        magnitude=forward_magnitude(name, x),
        kind="function",
    )
    check(
        backend,
        "activation_backward_dx",
        [x.shape],
        dy,
        saved_for(name, x),
        kind,
        ALPHA,
        magnitude=backward_magnitude(name, dy, x),
        kind="function",
    )


@given(
    name=st.sampled_from(list(ACTIVATIONS)),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    scale=st.sampled_from([1e-30, 1e-4, 1.0, 20.0]),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_scale(backend, name, shape, scale, seed):
    x = normal(np.random.default_rng(seed), *shape) * np.float32(scale)
    magnitude = forward_magnitude(name, x)
    kind = ACTIVATIONS[name]
    check(
        backend,
        "activation_forward",
        [x.shape],
        x,
        kind,
        ALPHA,
        magnitude=magnitude,
        kind="function",
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_extremes(backend, name):
    """Zeros of both signs, subnormals, saturation, large numbers; NaN stays NaN in every lane."""
    big = np.finfo(np.float32).max
    ends = [0.0, -0.0, 1e-40, -1e-40, 1e-20, -1e-20, 15.0, -15.0, 88.0, -88.0, 104.0, -104.0]
    x = np.array([*ends, 1e4, -1e4, 1e12, -1e12, np.nan, 1.0], np.float32)
    if name not in ("gelu_tanh", "gelu", "silu"):  # there -inf * 0 is NaN or 0, as one sees it
        x = np.append(x, np.float32([np.inf, -np.inf, big, -big]))
    for shift in range(x.size):
        rolled = np.roll(x, shift)
        check(
            backend,
            "activation_forward",
            [x.shape],
            rolled,
            ACTIVATIONS[name],
            ALPHA,
            magnitude=forward_magnitude(name, rolled),
            kind="function",
        )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_saturated_slopes(backend, name):
    """Far from zero every slope is 0, 1 or alpha; nothing overflows on the way."""
    x = np.float32([-1e4, -200, -50, 50, 200, 1e4])
    saved = saved_for(name, x)
    dy = np.full_like(x, 3)
    (dx,) = run(backend, "activation_backward_dx", [x.shape], dy, saved, ACTIVATIONS[name], ALPHA)
    low = {"linear": 3, "leaky_relu": 3 * ALPHA}.get(name, 0)
    high = 0 if name in ("sigmoid", "tanh") else 3
    right = np.array([low, low, low, high, high, high], np.float64)
    assert_close(dx, right, magnitude=4.0, kind="function")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_directional(backend, name, rng):
    x, dy = normal(rng, 129), normal(rng, 129)
    x[np.abs(x) < 1e-3] = 1  # away from the kink at 0
    (dx,) = run(
        backend,
        "activation_backward_dx",
        [x.shape],
        dy,
        saved_for(name, x),
        ACTIVATIONS[name],
        ALPHA,
    )

    def loss(x):
        (y,) = expected("activation_forward", [x.shape], x, ACTIVATIONS[name], ALPHA)
        return float((y * dy).sum())

    directional_check(loss, x, dx, rng, length=x.size)
