"""Activations y = f(x) of n numbers and their gradients, one workload each: relu, relu_dx, ...

The gradient reads `saved`: y for the kinds up to elu, x for the rest, as tilegrad keeps them.
"""

import numpy as np

from ... import reference
from ...backend import ACTIVATIONS
from ..workload import Way, Workload, letters
from .common import jax_gradient, normal, tensorflow_gradient

ALPHA = {"leaky_relu": 0.25, "elu": 1.0}
SAVES_OUTPUT = ("relu", "leaky_relu", "sigmoid", "tanh", "elu")
ONNX = {  # operators and their attributes
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": ALPHA["leaky_relu"]}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "elu": ("Elu", {"alpha": ALPHA["elu"]}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "softplus": ("Softplus", {}),
}


def function_of(nn, name):
    """An activation of jax.nn or tensorflow.nn."""
    function = getattr(nn, "gelu" if name == "gelu_tanh" else name)
    if name.startswith("gelu"):
        return lambda x: function(x, approximate=name == "gelu_tanh")
    if name == "leaky_relu":
        return lambda x: function(x, ALPHA[name])
    return lambda x: function(x)  # elu's alpha is 1 in both


class Forward(Workload):
    """y = f(x)."""

    sizes = letters("n")
    activation: str

    def prepare(self):
        self.shapes, self.flops = {"y": (self.n,)}, self.n
        self.kind, self.alpha = ACTIVATIONS[self.activation], ALPHA.get(self.activation, 0.0)

    def inputs(self, rng):
        return {"x": 2 * normal(rng, self.n)}

    def exact(self, x):
        y = np.empty_like(x)
        reference.activation_forward(y, x, self.kind, self.alpha)
        return [y]

    def magnitude(self, exact, x):
        """y itself, but for 1 + erf, 1 + tanh and exp - 1."""
        (y,) = exact
        size = dict.fromkeys(("gelu", "gelu_tanh", "silu"), abs(x))
        size |= {"sigmoid": (1 + y) / 2, "elu": 1 + abs(y)}
        return [size.get(self.activation, abs(y))]

    def tilegrad(self, k):
        kind, alpha = self.kind, self.alpha
        return lambda y, x: k.activation_forward(y, x, kind, alpha)

    def numpy(self, xp=np):
        functions = {
            "relu": lambda y, x: xp.maximum(x, 0, out=y),
            "leaky_relu": lambda y, x: xp.maximum(x, xp.multiply(x, self.alpha, out=y), out=y),
            "sigmoid": lambda y, x: _sigmoid(xp, y, x),
            "tanh": lambda y, x: xp.tanh(x, out=y),
            "silu": lambda y, x: xp.multiply(_sigmoid(xp, y, x), x, out=y),
            "softplus": lambda y, x: xp.logaddexp(x, 0, out=y),
        }
        if self.activation in functions:
            yield Way("out=", functions[self.activation], out=True)

    def torch(self):
        import torch

        if self.activation == "relu":
            yield Way("clamp_min(out=)", lambda y, x: torch.clamp_min(x, 0, out=y), out=True)
            return
        function = getattr(torch.ops.aten, self.activation.removesuffix("_tanh")).out
        rest = (self.alpha,) if self.activation in ALPHA else ()
        keys = {"approximate": "tanh"} if self.activation == "gelu_tanh" else {}
        setting = f"{self.activation}(out=)"
        yield Way(setting, lambda y, x: function(x, *rest, **keys, out=y), out=True)

    def jax(self):
        from jax import nn

        yield Way(self.activation, function_of(nn, self.activation))

    def tensorflow(self):
        from tensorflow import nn

        yield Way(self.activation, function_of(nn, self.activation))

    def onnxruntime(self):
        def call(graph, x):
            if self.activation == "silu":
                return graph.Mul(x, graph.Sigmoid(x))
            operator, attributes = ONNX[self.activation]
            return getattr(graph, operator)(x, **attributes)

        yield Way(self.activation, call)


def _sigmoid(xp, y, x):
    xp.negative(x, out=y)
    xp.exp(y, out=y)
    y += 1
    return xp.reciprocal(y, out=y)


class Backward(Workload):
    """dx = dy f'(x)."""

    sizes = letters("n")
    activation: str

    def prepare(self):
        self.shapes, self.flops = {"dx": (self.n,)}, self.n
        self.kind, self.alpha = ACTIVATIONS[self.activation], ALPHA.get(self.activation, 0.0)

    def inputs(self, rng):
        dy, saved = normal(rng, self.n), 2 * normal(rng, self.n)
        if self.activation in SAVES_OUTPUT:
            reference.activation_forward(saved, saved, self.kind, self.alpha)
        return {"dy": dy, "saved": saved}

    def exact(self, dy, saved):
        dx = np.empty_like(dy)
        reference.activation_backward_dx(dx, dy, saved, self.kind, self.alpha)
        return [dx]

    def magnitude(self, exact, dy, saved):
        """The slope's size before the cancellation in 1 - tanh^2 and its like."""
        size = 1 + abs(saved) ** (3 if self.activation == "gelu_tanh" else 1)
        exactly = self.activation in ("relu", "leaky_relu")
        return [abs(exact[0]) if exactly else abs(dy) * size]

    def tilegrad(self, k):
        kind, alpha = self.kind, self.alpha
        return lambda dx, dy, saved: k.activation_backward_dx(dx, dy, saved, kind, alpha)

    def numpy(self, xp=np):
        functions = {
            "relu": lambda dx, dy, y: xp.multiply(dy, y > 0, out=dx),
            "leaky_relu": lambda dx, dy, y: xp.multiply(
                dy, xp.where(y > 0, np.float32(1), np.float32(self.alpha)), out=dx
            ),
            "sigmoid": lambda dx, dy, y: _sigmoid_dx(xp, dx, dy, y),
            "tanh": lambda dx, dy, y: _tanh_dx(xp, dx, dy, y),
        }
        if self.activation in functions:
            yield Way("out=", functions[self.activation], out=True)

    def torch(self):
        import torch

        name = {"relu": "threshold", "gelu_tanh": "gelu"}.get(self.activation, self.activation)
        function = getattr(torch.ops.aten, f"{name}_backward").grad_input
        # what follows dy and saved: a threshold; alpha, and that y was saved; beta and a threshold
        rest = {"relu": (0,), "leaky_relu": (self.alpha, True), "softplus": (1, 20)}
        rest = rest.get(self.activation, ())
        keys = {"approximate": "tanh"} if self.activation == "gelu_tanh" else {}

        def call(dx, dy, saved):
            function(dy, saved, *rest, **keys, grad_input=dx)

        def elu(dx, dy, y):
            function(dy, self.alpha, 1, 1, True, y, grad_input=dx)

        setting = f"{name}_backward(grad_input=)"
        yield Way(setting, elu if self.activation == "elu" else call, out=True)

    def jax(self):
        from jax import nn
        from jax import numpy as jnp

        functions = {
            "relu": lambda dy, y: jnp.where(y > 0, dy, 0),
            "leaky_relu": lambda dy, y: jnp.where(y > 0, dy, self.alpha * dy),
            "sigmoid": lambda dy, y: dy * y * (1 - y),
            "tanh": lambda dy, y: dy * (1 - y * y),
            "elu": lambda dy, y: jnp.where(y > 0, dy, dy * (y + self.alpha)),
        }
        if self.activation in functions:
            yield Way("formula", functions[self.activation])
        else:
            function = function_of(nn, self.activation)
            yield Way(f"vjp of {self.activation}", lambda dy, x: jax_gradient(function, dy, x))

    def tensorflow(self):
        from tensorflow import nn, raw_ops

        functions = {
            "relu": lambda dy, y: raw_ops.ReluGrad(gradients=dy, features=y),
            "leaky_relu": lambda dy, y: raw_ops.LeakyReluGrad(
                gradients=dy, features=y, alpha=self.alpha
            ),
            "sigmoid": lambda dy, y: raw_ops.SigmoidGrad(y=y, dy=dy),
            "tanh": lambda dy, y: raw_ops.TanhGrad(y=y, dy=dy),
            "elu": lambda dy, y: raw_ops.EluGrad(gradients=dy, outputs=y),
            "softplus": lambda dy, x: raw_ops.SoftplusGrad(gradients=dy, features=x),
        }
        if self.activation in functions:
            yield Way("its gradient's op", functions[self.activation])
        else:
            function = function_of(nn, self.activation)
            yield Way("GradientTape", lambda dy, x: tensorflow_gradient(function, dy, x))


def _sigmoid_dx(xp, dx, dy, y):
    xp.subtract(1, y, out=dx)
    dx *= y
    dx *= dy


def _tanh_dx(xp, dx, dy, y):
    xp.multiply(y, y, out=dx)
    xp.subtract(1, dx, out=dx)
    dx *= dy


for _name in ACTIVATIONS:
    if _name != "linear":
        for _base, _suffix in ((Forward, ""), (Backward, "_dx")):
            _fields = {"name": _name + _suffix, "activation": _name, "__doc__": _base.__doc__}
            type(_name + _suffix, (_base,), _fields)
