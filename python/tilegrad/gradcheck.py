"""Check a function's gradients numerically."""

from __future__ import annotations

import numpy as np

from . import backend
from .autograd import no_grad
from .tensor import Tensor


def gradcheck(
    fn, inputs, *, directions: int = 4, eps: float = 1e-6, tolerance: float = 1e-6, seed: int = 0
):
    """Compare the gradients of `fn` with central differences in float64, and the kernels with both.

    Notation: y = fn(*inputs), v a random unit direction over all inputs, u a random weight of y.
    The derivative of <u, y> along v by `backward` must equal (<u, y(x + eps v)> - <u, y(x - eps
    v)>) / (2 eps). This runs on the reference backend in float64; then the gradients of the default
    device in float32 are compared with those in float64, element by element.

    Args:
        fn: takes tensors, returns one tensor of any shape; must be smooth near the inputs.
        inputs: a sequence of arrays or tensors of floating-point numbers.
        directions: how many random directions are tried.
        eps: length of the step.
        tolerance: largest difference, relative to the larger of 1 and the sizes compared.
        seed: of the directions.

    Returns:
        True.

    Raises:
        AssertionError: a gradient is wrong; the message gives both numbers.

    >>> import tilegrad
    >>> tilegrad.gradcheck(lambda x, w: tilegrad.ops.tanh(x @ w), [[[1.0, 2.0]], [[0.5], [-0.3]]])
    True
    """
    arrays = [np.array(x.numpy() if isinstance(x, Tensor) else x, np.float64) for x in inputs]
    rng = np.random.default_rng(seed)
    with backend.use("reference"):
        y, exact = _gradients(fn, arrays, None)
        weight = rng.standard_normal(y.shape)
        exact = _gradients(fn, arrays, weight)[1]
        for direction in range(directions):
            steps = [rng.standard_normal(a.shape) for a in arrays]
            length = np.sqrt(sum(np.sum(s * s) for s in steps)) or 1.0
            steps = [s / length for s in steps]
            plus, minus = (
                _value(fn, [a + sign * eps * s for a, s in zip(arrays, steps, strict=True)], weight)
                for sign in (1, -1)
            )
            numeric = (plus - minus) / (2 * eps)
            analytic = sum(np.sum(g * s) for g, s in zip(exact, steps, strict=True))
            error = abs(numeric - analytic)
            # a central difference loses about eps(float64) |y| / step to rounding
            allowed = tolerance * max(1.0, abs(numeric), abs(analytic))
            allowed += np.finfo(float).eps * max(abs(plus), abs(minus)) / eps
            if not error <= allowed:
                raise AssertionError(
                    f"gradcheck: along direction {direction} backward gives {analytic:.9g}, "
                    f"central differences give {numeric:.9g} "
                    f"(difference {error:.3g}, allowed {allowed:.3g})"
                )
    if backend.default_device() != "reference":
        fast = _gradients(fn, [a.astype(np.float32) for a in arrays], weight.astype(np.float32))[1]
        for i, (g, e) in enumerate(zip(fast, exact, strict=True)):
            scale = max(1.0, float(np.max(np.abs(e), initial=0.0)))
            error = float(np.max(np.abs(g - e), initial=0.0))
            if not error <= 1e-4 * scale:
                raise AssertionError(
                    f"gradcheck: input {i}: the float32 gradient on {backend.default_device()} "
                    f"differs from the float64 one by {error:.3g}, allowed {1e-4 * scale:.3g}"
                )
    return True


def _gradients(fn, arrays, weight):
    """fn's value and the gradients of <weight, fn> by the arrays, zeros where none flows."""
    tensors = [Tensor(a, requires_grad=True) for a in arrays]
    y = fn(*tensors)
    if not isinstance(y, Tensor):
        raise TypeError(f"gradcheck: expected fn to return a Tensor, got {type(y).__name__}")
    if weight is None:
        return y, None
    if y.requires_grad:
        y.backward(weight)
    return y, [
        np.zeros_like(a) if t.grad is None else t.grad.numpy()
        for t, a in zip(tensors, arrays, strict=True)
    ]


@no_grad()
def _value(fn, arrays, weight) -> float:
    return float(np.sum(fn(*(Tensor(a) for a in arrays)).data * weight))
