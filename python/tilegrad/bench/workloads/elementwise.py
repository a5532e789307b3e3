"""Arithmetic, reductions, copies and dropout; n numbers unless the sizes say otherwise.

Names follow NumPy: add, multiply_da, exp, exp_dx, clip, reduce_sum, transpose, dropout. Where NumPy
and PyTorch call a thing by the same name, one function serves both: `xp` is either module.
"""

import numpy as np

from ... import reference
from ...backend import BINARY, UNARY
from ..workload import Way, Workload, letters
from .common import jax_gradient, normal, positive, root_of_squares, tensorflow_gradient, whole

STEP = 2.0**-20
LOW, HIGH = -0.5 - STEP / 2, 0.5 + STEP / 2  # for clip: between multiples of STEP
RATE, SEED = 0.25, 2**63 + 5  # for dropout


def multiples(rng, *shape):
    """Normal numbers, rounded to multiples of STEP: none is LOW or HIGH."""
    return np.rint(normal(rng, *shape) / STEP) * np.float32(STEP)


def apart(rng, *shapes):
    """Two arrays, even and odd multiples of a step: no number of one is in the other."""
    first, second = (rng.integers(-(2**21), 2**21, shape) * 2 for shape in shapes)
    return [(a * 2.0**-21).astype(np.float32) for a in (first, second + 1)]


def operands(rng, name, a_shape, b_shape):
    """a and b of the operation, where both its value and its gradient are well-conditioned."""
    if name in ("maximum", "minimum"):
        return apart(rng, a_shape, b_shape)
    a = positive(rng, *a_shape) if name == "power" else normal(rng, *a_shape)
    b = positive(rng, *b_shape) if name == "divide" else normal(rng, *b_shape)
    return a, b


def growth(name, a, b):
    """How much more than one rounding is lost: a^b rounds b log a first."""
    return 1 + abs(b * np.log(a)) if name == "power" else 1


def called(xp, name):
    """The function of NumPy, CuPy or PyTorch."""
    return getattr(xp, name) if hasattr(xp, name) else getattr(xp, {"power": "pow"}[name])


ONNX = {  # operators; square is a product
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "negative": "Neg",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "absolute": "Abs",
    "square": "Mul",
}


def tensorflow_function(name):
    """The function of TensorFlow."""
    from tensorflow import math

    return getattr(math, {"power": "pow", "absolute": "abs"}.get(name, name))


class Binary(Workload):
    """y = a op b, all of one shape."""

    sizes = letters("n")
    operation: str

    def prepare(self):
        self.y_shape, self.b_shape = (self.n,), (self.n,)
        self.shapes, self.flops = {"y": self.y_shape}, self.n

    def inputs(self, rng):
        return dict(
            zip("ab", operands(rng, self.operation, self.y_shape, self.b_shape), strict=True)
        )

    def exact(self, a, b):
        y = np.empty(self.y_shape)
        reference.binary_forward(y, a, b, BINARY[self.operation])
        return [y]

    def magnitude(self, exact, a, b):
        return [abs(exact[0]) * growth(self.operation, a, b)]

    def tilegrad(self, k):
        kind = BINARY[self.operation]
        return lambda y, a, b: k.binary_forward(y, a, b, kind)

    def numpy(self, xp=np):
        return self.by(xp)

    def torch(self):
        import torch

        return self.by(torch)

    def by(self, xp):
        function = called(xp, self.operation)
        setting = f"{function.__name__}(out=)"
        yield Way(setting, lambda y, a, b: function(a, b, out=y), out=True)

    def jax(self):
        from jax import numpy as jnp

        yield Way(self.operation, getattr(jnp, self.operation))

    def tensorflow(self):
        yield Way(self.operation, tensorflow_function(self.operation))

    def onnxruntime(self):
        operator = ONNX[self.operation]
        yield Way(operator, lambda graph, a, b: getattr(graph, operator)(a, b))


class Row(Binary):
    """y = a op b, a (r, c), b (c,)."""

    sizes = letters("rc")

    def prepare(self):
        self.y_shape, self.b_shape = (self.r, self.c), (self.c,)
        self.shapes, self.flops = {"y": self.y_shape}, self.r * self.c


class Column(Binary):
    """y = a op b, a (r, c), b (r, 1)."""

    sizes = letters("rc")

    def prepare(self):
        self.y_shape, self.b_shape = (self.r, self.c), (self.r, 1)
        self.shapes, self.flops = {"y": self.y_shape}, self.r * self.c


class BinaryDa(Workload):
    """da = dy dy/da."""

    sizes = letters("n")
    operation: str
    output, wanted = "da", 0

    def prepare(self):
        self.shapes, self.flops = {self.output: (self.n,)}, self.n

    def inputs(self, rng):
        a, b = operands(rng, self.operation, (self.n,), (self.n,))
        return {"dy": normal(rng, self.n), "a": a, "b": b}

    def exact(self, dy, a, b):
        out = np.empty(self.n)
        self.tilegrad(reference)(out, dy, a, b)
        return [out]

    def magnitude(self, exact, dy, a, b):
        return [abs(exact[0]) * growth(self.operation, a, b)]

    def tilegrad(self, k):
        kind = BINARY[self.operation]
        return lambda da, dy, a, b: k.binary_backward_da(da, dy, a, b, kind)

    def numpy(self, xp=np):
        return self.by(xp)

    def torch(self):
        import torch

        return self.by(torch)

    def by(self, xp):
        power = called(xp, "power")

        def multiply(da, dy, a, b):
            xp.multiply(dy, b, out=da)

        def divide(da, dy, a, b):
            xp.divide(dy, b, out=da)

        def power_da(da, dy, a, b):
            xp.subtract(b, 1, out=da)
            power(a, da, out=da)
            xp.multiply(da, b, out=da)
            xp.multiply(da, dy, out=da)

        def maximum(da, dy, a, b):
            xp.multiply(dy, a > b, out=da)

        def minimum(da, dy, a, b):
            xp.multiply(dy, a < b, out=da)

        ways = (multiply, divide, power_da, maximum, minimum)
        yield Way("out=", dict(zip(GRADIENTS, ways, strict=True))[self.operation], out=True)

    def jax(self):
        from jax import numpy as jnp

        function = getattr(jnp, self.operation)

        def call(dy, a, b):
            return jax_gradient(function, dy, a, b, wanted=self.wanted)

        yield Way(f"vjp of {self.operation}", call)

    def tensorflow(self):
        function = tensorflow_function(self.operation)

        def call(dy, a, b):
            return tensorflow_gradient(function, dy, a, b, wanted=self.wanted)

        yield Way("GradientTape", call)


class BinaryDb(BinaryDa):
    """db = dy dy/db."""

    output, wanted = "db", 1

    def tilegrad(self, k):
        kind = BINARY[self.operation]
        return lambda db, dy, a, b: k.binary_backward_db(db, dy, a, b, kind)

    def by(self, xp):
        power = called(xp, "power")

        def multiply(db, dy, a, b):
            xp.multiply(dy, a, out=db)

        def divide(db, dy, a, b):
            xp.multiply(dy, a, out=db)
            xp.divide(db, b, out=db)
            xp.divide(db, b, out=db)
            xp.negative(db, out=db)

        def power_db(db, dy, a, b):
            power(a, b, out=db)
            xp.multiply(db, xp.log(a), out=db)
            xp.multiply(db, dy, out=db)

        def maximum(db, dy, a, b):
            xp.multiply(dy, b > a, out=db)

        def minimum(db, dy, a, b):
            xp.multiply(dy, b < a, out=db)

        ways = (multiply, divide, power_db, maximum, minimum)
        yield Way("out=", dict(zip(GRADIENTS, ways, strict=True))[self.operation], out=True)


# the gradients of add and subtract are copies of dy
GRADIENTS = ("multiply", "divide", "power", "maximum", "minimum")


class Unary(Workload):
    """y = f(x)."""

    sizes = letters("n")
    operation: str

    def prepare(self):
        self.shapes, self.flops = {"y": (self.n,)}, self.n

    def argument(self, rng):
        return (positive if self.operation in ("log", "sqrt") else normal)(rng, self.n)

    def inputs(self, rng):
        return {"x": self.argument(rng)}

    def exact(self, x):
        y = np.empty(self.n)
        reference.unary_forward(y, x, UNARY[self.operation])
        return [y]

    def magnitude(self, exact, x):
        return [abs(exact[0]) + (0.1 if self.operation == "log" else 0)]  # near 1, log is near 0

    def tilegrad(self, k):
        kind = UNARY[self.operation]
        return lambda y, x: k.unary_forward(y, x, kind)

    def numpy(self, xp=np):
        return self.by(xp)

    def torch(self):
        import torch

        return self.by(torch)

    def by(self, xp):
        function = getattr(xp, self.operation)
        yield Way(f"{function.__name__}(out=)", lambda y, x: function(x, out=y), out=True)

    def jax(self):
        from jax import numpy as jnp

        yield Way(self.operation, getattr(jnp, self.operation))

    def tensorflow(self):
        yield Way(self.operation, tensorflow_function(self.operation))

    def onnxruntime(self):
        def call(graph, x):
            if self.operation == "square":
                return graph.Mul(x, x)
            return getattr(graph, ONNX[self.operation])(x)

        yield Way(ONNX[self.operation], call)


class UnaryDx(Unary):
    """dx = dy f'(x)."""

    def prepare(self):
        self.shapes, self.flops = {"dx": (self.n,)}, self.n

    def inputs(self, rng):
        return {"dy": normal(rng, self.n), "x": self.argument(rng)}

    def exact(self, dy, x):
        dx = np.empty(self.n)
        reference.unary_backward_dx(dx, dy, x, UNARY[self.operation])
        return [dx]

    def magnitude(self, exact, dy, x):
        return [abs(exact[0])]

    def tilegrad(self, k):
        kind = UNARY[self.operation]
        return lambda dx, dy, x: k.unary_backward_dx(dx, dy, x, kind)

    def by(self, xp):
        def negative(dx, dy, x):
            xp.negative(dy, out=dx)

        def exp(dx, dy, x):
            xp.exp(x, out=dx)
            xp.multiply(dx, dy, out=dx)

        def log(dx, dy, x):
            xp.divide(dy, x, out=dx)

        def sqrt(dx, dy, x):
            xp.sqrt(x, out=dx)
            xp.divide(dy, dx, out=dx)
            xp.multiply(dx, 0.5, out=dx)

        def absolute(dx, dy, x):
            xp.sign(x, out=dx)
            xp.multiply(dx, dy, out=dx)

        def square(dx, dy, x):
            xp.multiply(dy, x, out=dx)
            xp.multiply(dx, 2, out=dx)

        ways = (negative, exp, log, sqrt, absolute, square)
        yield Way("out=", dict(zip(UNARY, ways, strict=True))[self.operation], out=True)

    def jax(self):
        from jax import numpy as jnp

        function = getattr(jnp, self.operation)
        yield Way(f"vjp of {self.operation}", lambda dy, x: jax_gradient(function, dy, x))

    def tensorflow(self):
        function = tensorflow_function(self.operation)
        yield Way("GradientTape", lambda dy, x: tensorflow_gradient(function, dy, x))

    def onnxruntime(self):
        return iter(())


class Clip(Workload):
    """y = min(max(x, low), high)."""

    name = "clip"
    sizes = letters("n")

    def prepare(self):
        self.shapes, self.flops = {"y": (self.n,)}, self.n

    def inputs(self, rng):
        return {"x": multiples(rng, self.n)}

    def exact(self, x):
        return [np.clip(x, LOW, HIGH)]

    def tilegrad(self, k):
        return lambda y, x: k.clip_forward(y, x, LOW, HIGH)

    def numpy(self, xp=np):
        yield Way("clip(out=)", lambda y, x: xp.clip(x, LOW, HIGH, out=y), out=True)

    def torch(self):
        import torch

        yield Way("clamp(out=)", lambda y, x: torch.clamp(x, LOW, HIGH, out=y), out=True)

    def jax(self):
        from jax import numpy as jnp

        yield Way("clip", lambda x: jnp.clip(x, LOW, HIGH))

    def tensorflow(self):
        import tensorflow as tf

        yield Way("clip_by_value", lambda x: tf.clip_by_value(x, LOW, HIGH))

    def onnxruntime(self):
        def call(graph, x):
            low, high = (graph.constant(np.float32(bound)) for bound in (LOW, HIGH))
            return graph.Clip(x, low, high)

        yield Way("Clip", call)


class ClipDx(Workload):
    """dx = dy where low <= x <= high, else 0."""

    name = "clip_dx"
    sizes = letters("n")

    def prepare(self):
        self.shapes, self.flops = {"dx": (self.n,)}, self.n

    def inputs(self, rng):
        return {"dy": normal(rng, self.n), "x": multiples(rng, self.n)}

    def exact(self, dy, x):
        return [np.where((x >= LOW) & (x <= HIGH), dy, 0)]

    def tilegrad(self, k):
        return lambda dx, dy, x: k.clip_backward_dx(dx, dy, x, LOW, HIGH)

    def numpy(self, xp=np):
        def call(dx, dy, x):
            xp.multiply(dy, (x >= LOW) & (x <= HIGH), out=dx)

        yield Way("multiply(out=)", call, out=True)

    def torch(self):
        import torch

        backward = torch.ops.aten.hardtanh_backward.grad_input

        def call(dx, dy, x):
            backward(dy, x, LOW, HIGH, grad_input=dx)

        yield Way("hardtanh_backward(grad_input=)", call, out=True)

    def jax(self):
        from jax import numpy as jnp

        def call(dy, x):
            return jnp.where((x >= LOW) & (x <= HIGH), dy, 0)

        yield Way("where", call)

    def tensorflow(self):
        import tensorflow as tf

        def call(dy, x):
            return tf.where((x >= LOW) & (x <= HIGH), dy, 0.0)

        yield Way("where", call)


class Reduction(Workload):
    """What reductions over the axis of c share: x, dx (r, c, i), y, dy (r, i)."""

    sizes = letters("rc", i=1)

    def prepare(self):
        self.x_shape, self.y_shape = (self.r, self.c, self.i), (self.r, self.i)
        self.describe()

    def describe(self):
        """Set `shapes`, `length` and `flops`."""
        raise NotImplementedError


class ReduceSum(Reduction):
    """y = the sum over c."""

    name = "reduce_sum"

    def describe(self):
        self.shapes, self.length = {"y": self.y_shape}, self.c
        self.flops = self.r * self.c * self.i

    def inputs(self, rng):
        return {"x": normal(rng, *self.x_shape)}

    def exact(self, x):
        return [x.sum(axis=1)]

    def magnitude(self, exact, x):
        return root_of_squares(self, x=x)

    def tilegrad(self, k):
        return lambda y, x: k.reduce_sum_forward(y, x, 1.0)

    def numpy(self, xp=np):
        yield Way("sum(out=)", lambda y, x: xp.sum(x, axis=1, out=y), out=True)

    def torch(self):
        import torch

        yield Way("sum(out=)", lambda y, x: torch.sum(x, 1, out=y), out=True)

    def jax(self):
        yield Way("sum", lambda x: x.sum(axis=1))

    def tensorflow(self):
        import tensorflow as tf

        yield Way("reduce_sum", lambda x: tf.reduce_sum(x, axis=1))

    def onnxruntime(self):
        def call(graph, x):
            return graph.ReduceSum(x, graph.constant(np.array([1])), keepdims=0)

        yield Way("ReduceSum", call)


class ReduceSumDx(Reduction):
    """dx = dy, repeated over c."""

    name = "reduce_sum_dx"

    def describe(self):
        self.shapes = {"dx": self.x_shape}

    def inputs(self, rng):
        return {"dy": normal(rng, *self.y_shape)}

    def exact(self, dy):
        return [np.repeat(dy[:, None], self.c, axis=1)]

    def tilegrad(self, k):
        return lambda dx, dy: k.reduce_sum_backward_dx(dx, dy, 1.0)

    def numpy(self, xp=np):
        yield Way("copyto", lambda dx, dy: xp.copyto(dx, dy[:, None]), out=True)

    def torch(self):
        yield Way("copy_", lambda dx, dy: dx.copy_(dy[:, None]), out=True)

    def jax(self):
        from jax import numpy as jnp

        yield Way("broadcast_to", lambda dy: jnp.broadcast_to(dy[:, None], self.x_shape))

    def tensorflow(self):
        import tensorflow as tf

        yield Way("broadcast_to", lambda dy: tf.broadcast_to(dy[:, None], self.x_shape))


class ReduceMax(Reduction):
    """y = the maximum over c."""

    name = "reduce_max"

    def describe(self):
        self.shapes, self.flops = {"y": self.y_shape}, self.r * (self.c - 1) * self.i

    def inputs(self, rng):
        return {"x": normal(rng, *self.x_shape)}

    def exact(self, x):
        return [x.max(axis=1)]

    def tilegrad(self, k):
        return lambda y, x: k.reduce_max_forward(y, x)

    def numpy(self, xp=np):
        yield Way("max(out=)", lambda y, x: xp.max(x, axis=1, out=y), out=True)

    def torch(self):
        import torch

        yield Way("amax(out=)", lambda y, x: torch.amax(x, 1, out=y), out=True)

    def jax(self):
        yield Way("max", lambda x: x.max(axis=1))

    def tensorflow(self):
        import tensorflow as tf

        yield Way("reduce_max", lambda x: tf.reduce_max(x, axis=1))

    def onnxruntime(self):
        def call(graph, x):
            return graph.ReduceMax(x, graph.constant(np.array([1])), keepdims=0)

        yield Way("ReduceMax", call)


class ReduceMaxDx(Reduction):
    """dx = dy shared evenly by the maxima: whole numbers x, so that there are several."""

    name = "reduce_max_dx"

    def describe(self):
        self.shapes, self.flops = {"dx": self.x_shape}, self.r * self.c * self.i

    def inputs(self, rng):
        dy, x = normal(rng, *self.y_shape), np.minimum(whole(rng, *self.x_shape), 2)
        return {"dy": dy, "x": x, "y": x.max(axis=1)}

    def exact(self, dy, x, y):
        dx = np.empty(self.x_shape)
        reference.reduce_max_backward_dx(dx, dy, x, y)
        return [dx]

    def tilegrad(self, k):
        return lambda dx, dy, x, y: k.reduce_max_backward_dx(dx, dy, x, y)

    def numpy(self, xp=np):
        return self.by(xp)

    def torch(self):
        import torch

        return self.by(torch)

    def by(self, xp):
        def call(dx, dy, x, y):
            maxima = x == y[:, None]
            share = dy / maxima.sum(1, dtype=xp.float32).clip(1)
            xp.multiply(maxima, share[:, None], out=dx)

        yield Way("comparison, sum, multiply(out=)", call, out=True)

    def jax(self):
        def call(dy, x, y):
            maxima = x == y[:, None]
            return maxima * (dy / maxima.sum(axis=1))[:, None]

        yield Way("comparison, sum, multiply", call)

    def tensorflow(self):
        import tensorflow as tf

        def call(dy, x, y):
            maxima = tf.cast(x == y[:, None], tf.float32)
            return maxima * (dy / tf.reduce_sum(maxima, axis=1))[:, None]

        yield Way("comparison, reduce_sum, multiply", call)


class Transpose(Workload):
    """y = x^T: y (n, m), x (m, n)."""

    name = "transpose"
    sizes = letters("mn")

    def prepare(self):
        self.shapes = {"y": (self.n, self.m)}

    def inputs(self, rng):
        return {"x": normal(rng, self.m, self.n)}

    def exact(self, x):
        return [x.T.copy()]

    def tilegrad(self, k):
        m, n = self.m, self.n
        return lambda y, x: k.strided_copy(y, x, (n, m), 0, (m, 1), 0, (1, n))

    def numpy(self, xp=np):
        yield Way("copyto", lambda y, x: xp.copyto(y, x.T), out=True)

    def torch(self):
        yield Way("copy_", lambda y, x: y.copy_(x.T), out=True)

    def jax(self):
        yield Way("x.T", lambda x: x.T)

    def tensorflow(self):
        import tensorflow as tf

        yield Way("transpose", lambda x: tf.transpose(x))

    def onnxruntime(self):
        yield Way("Transpose", lambda graph, x: graph.Transpose(x, perm=[1, 0]))


class Dropout(Workload):
    """y = x / (1 - rate) where kept, else 0; which are kept, a stream of random numbers says.

    It is tilegrad's own, so that nobody else's result could be checked: there is no other way.
    """

    name = "dropout"
    sizes = letters("n")

    def prepare(self):
        self.shapes, self.flops = {"y": (self.n,)}, self.n

    def inputs(self, rng):
        return {"x": normal(rng, self.n)}

    def exact(self, x):
        y = np.empty(self.n)
        reference.dropout_forward(y, x, RATE, SEED)
        return [y]

    def tilegrad(self, k):
        return lambda y, x: k.dropout_forward(y, x, RATE, SEED)


class DropoutDx(Workload):
    """dx = dy / (1 - rate) where kept, else 0. Other libraries have stored which are."""

    name = "dropout_dx"
    sizes = letters("n")

    def prepare(self):
        self.shapes, self.flops = {"dx": (self.n,)}, self.n

    def inputs(self, rng):
        return {"dy": normal(rng, self.n)}

    def exact(self, dy):
        dx = np.empty(self.n)
        reference.dropout_backward_dx(dx, dy, RATE, SEED)
        return [dx]

    def tilegrad(self, k):
        return lambda dx, dy: k.dropout_backward_dx(dx, dy, RATE, SEED)

    def kept(self):
        """(n,) of bool."""
        (dx,) = self.exact(np.ones(self.n))
        return dx > 0

    def numpy(self, xp=np):
        def call(dx, dy, kept):
            xp.multiply(dy, kept, out=dx)
            xp.multiply(dx, np.float32(1 / (1 - RATE)), out=dx)

        yield Way(
            "multiply(out=)", call, out=True, derive=lambda dx, dy: (xp.asarray(self.kept()),)
        )

    def torch(self):
        import torch

        native = torch.ops.aten.native_dropout_backward

        def kept(*arrays):
            return (torch.from_numpy(self.kept()).to(arrays[0].device),)

        def out(dx, dy, kept):
            torch.mul(dy, kept, out=dx).mul_(1 / (1 - RATE))

        yield Way("mul(out=), mul_", out, out=True, derive=kept)
        yield Way(
            "native_dropout_backward",
            lambda dy, kept: native(dy, kept, 1 / (1 - RATE)),
            derive=kept,
        )

    def jax(self):
        from jax import numpy as jnp

        def kept(dy):
            return (jnp.asarray(self.kept()),)

        yield Way("where", lambda dy, kept: jnp.where(kept, dy / (1 - RATE), 0), derive=kept)

    def tensorflow(self):
        import tensorflow as tf

        def kept(dy):
            return (tf.constant(self.kept()),)

        yield Way("where", lambda dy, kept: tf.where(kept, dy / (1 - RATE), 0.0), derive=kept)


def _define(base, operation, suffix=""):
    """A workload of its own for an operation of a family."""
    name = operation + suffix
    type(name, (base,), {"name": name, "operation": operation, "__doc__": base.__doc__})


for _operation in BINARY:
    _define(Binary, _operation)
for _operation in GRADIENTS:
    _define(BinaryDa, _operation, "_da")
    _define(BinaryDb, _operation, "_db")
for _operation in ("add", "multiply"):
    _define(Row, _operation, "_row")
    _define(Column, _operation, "_column")
for _operation in UNARY:
    _define(Unary, _operation)
    _define(UnaryDx, _operation, "_dx")
