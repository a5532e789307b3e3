"""Elementwise activations y = f(x) and their gradients."""

from __future__ import annotations

import math

import numpy as np

from ..backend import ACTIVATIONS

_NAMES = list(ACTIVATIONS)
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _sigmoid(x):
    """1 / (1 + exp(-x)), by an exponential that cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _phi(x):
    """The standard normal distribution function, (1 + erf(x / sqrt 2)) / 2."""
    return (0.5 * _erfc(-x / math.sqrt(2))).astype(x.dtype)


def _gelu_tanh_argument(x):
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def activate(x, kind, alpha):
    """f(x) for the activation whose number in `backend.ACTIVATIONS` is `kind`."""
    name = _NAMES[kind]
    if name == "linear":
        return x
    if name == "relu":
        return np.maximum(x, 0)
    if name == "leaky_relu":
        return np.where(x > 0, x, alpha * x)
    if name == "sigmoid":
        return _sigmoid(x)
    if name == "tanh":
        return np.tanh(x)
    if name == "elu":
        return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
    if name == "gelu":
        return x * _phi(x)
    if name == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(_gelu_tanh_argument(x)))
    if name == "silu":
        return x * _sigmoid(x)
    return np.logaddexp(x, 0)  # softplus


def slope(saved, kind, alpha):
    """f', in terms of the output y for the kinds up to elu and of the input x for the rest."""
    name, y, x = _NAMES[kind], saved, saved
    if name == "linear":
        return np.ones_like(y)
    if name == "relu":
        return np.where(y > 0, 1, 0)
    if name == "leaky_relu":
        return np.where(y > 0, 1, alpha)
    if name == "sigmoid":
        return y * (1 - y)
    if name == "tanh":
        return 1 - y * y
    if name == "elu":
        return np.where(y > 0, 1, y + alpha)
    if name == "gelu":
        return _phi(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    if name == "gelu_tanh":
        t = np.tanh(_gelu_tanh_argument(x))
        du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du
    s = _sigmoid(x)
    if name == "silu":
        return s * (1 + x * (1 - s))
    return s  # softplus


@np.errstate(all="ignore")  # infinities and NaN pass as IEEE 754 has it, with no warning
def activation_forward(y, x, kind, alpha):
    """y = f(x)."""
    y[...] = activate(x, kind, alpha)


@np.errstate(all="ignore")
def activation_backward_dx(dx, dy, saved, kind, alpha):
    """dx = dy f'; `saved` is y for the kinds up to elu and x for the rest."""
    dx[...] = dy * slope(saved, kind, alpha)
