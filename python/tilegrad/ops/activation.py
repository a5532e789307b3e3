"""Activations y = f(x); some of them can be fused into dense and conv2d."""

from __future__ import annotations

import functools
import math

from ..autograd import Op, apply
from ..backend import ACTIVATIONS
from ._common import tensors

# Slope of leaky_relu and scale of elu where the caller gives none (Keras's functions have the
# same).
DEFAULT_ALPHA = {"leaky_relu": 0.2, "elu": 1.0}
FUSABLE = tuple(ACTIVATIONS)[: ACTIVATIONS["elu"] + 1]


class Activation(Op):
    """dx = dy f'(.), from y for the fusable kinds and from x for the rest."""

    def __init__(self, kind: int, alpha: float):
        self.kind = kind
        self.alpha = alpha
        from_y = kind <= ACTIVATIONS["elu"]
        self.reads, self.reads_output = ((), True) if from_y else ((0,), False)

    def forward(self, k, x):
        y = k.empty_like(x)
        k.activation_forward(y, x, self.kind, self.alpha)
        self.saved = (y if self.reads_output else x,)
        return y

    def backward(self, k, dy):
        (saved,) = self.saved
        dx = k.empty_like(dy)
        k.activation_backward_dx(dx, dy, saved, self.kind, self.alpha)
        return (dx,)


@functools.lru_cache(maxsize=256)
def resolve(name: str, activation: str | None, alpha: float | None) -> tuple[int, float]:
    """(kind, alpha) of an activation that may be fused; None means linear."""
    activation = activation or "linear"
    if activation not in FUSABLE:
        raise ValueError(
            f"{name}: expected activation to be None or one of {', '.join(FUSABLE)}, "
            f"got {activation!r}"
        )
    if alpha is None:
        alpha = DEFAULT_ALPHA.get(activation, 0.0)
    return ACTIVATIONS[activation], check_alpha(name, activation, alpha)


def check_alpha(name: str, activation: str, alpha: float) -> float:
    alpha = float(alpha)
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(
            f"{name}: expected {activation}'s alpha to be finite and >= 0, got {alpha}"
        )
    return alpha


def _activate(x, name: str, alpha: float = 0.0):
    (x,) = tensors(x)
    return apply(Activation(ACTIVATIONS[name], alpha), x)


def relu(x):
    """Rectified linear unit, max(x, 0).

    Args:
        x: tensor of any shape.

    Returns:
        y of x's shape; dx = dy where y > 0, else 0. NaN stays NaN.

    >>> import tilegrad
    >>> tilegrad.ops.relu([-1.0, 2.0]).numpy().tolist()
    [0.0, 2.0]
    """
    return _activate(x, "relu")


def leaky_relu(x, negative_slope: float = 0.2):
    """x where x > 0, else negative_slope x; the default slope is Keras's.

    >>> import tilegrad
    >>> tilegrad.ops.leaky_relu([-1.0, 2.0], 0.5).numpy().tolist()
    [-0.5, 2.0]
    """
    return _activate(x, "leaky_relu", check_alpha("leaky_relu", "leaky_relu", negative_slope))


def sigmoid(x):
    """1 / (1 + exp(-x)); dx = dy y (1 - y).

    >>> import tilegrad
    >>> tilegrad.ops.sigmoid([0.0]).numpy().tolist()
    [0.5]
    """
    return _activate(x, "sigmoid")


def tanh(x):
    """Hyperbolic tangent; dx = dy (1 - y^2).

    >>> import tilegrad
    >>> tilegrad.ops.tanh([0.0]).numpy().tolist()
    [0.0]
    """
    return _activate(x, "tanh")


def elu(x, alpha: float = 1.0):
    """x where x > 0, else alpha (exp(x) - 1) (Clevert et al., arXiv:1511.07289).

    >>> import tilegrad
    >>> tilegrad.ops.elu([0.0, 2.0]).numpy().tolist()
    [0.0, 2.0]
    """
    return _activate(x, "elu", check_alpha("elu", "elu", alpha))


def gelu(x, approximate: bool = False):
    """x Phi(x) with the normal distribution's Phi (Hendrycks and Gimpel, arXiv:1606.08415).

    Args:
        x: tensor of any shape.
        approximate: use x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) instead.

    >>> import tilegrad
    >>> tilegrad.ops.gelu([0.0]).numpy().tolist()
    [0.0]
    """
    return _activate(x, "gelu_tanh" if approximate else "gelu")


def silu(x):
    """x sigmoid(x), also called swish.

    >>> import tilegrad
    >>> tilegrad.ops.silu([0.0]).numpy().tolist()
    [0.0]
    """
    return _activate(x, "silu")


def softplus(x):
    """log(1 + exp(x)), without overflow; dx = dy sigmoid(x).

    >>> import tilegrad
    >>> tilegrad.ops.softplus([1000.0]).numpy().tolist()
    [1000.0]
    """
    return _activate(x, "softplus")
