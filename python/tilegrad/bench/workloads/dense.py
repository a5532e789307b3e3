"""Dense layers and products of matrices: y = relu(x w + b), dx, dw; m rows, k in, n out."""

import numpy as np

from ... import reference
from ..workload import Way, Workload, letters
from .common import RELU, normal, onednn, root_of_squares

TURNED = {"w": (1, 0)}  # weights as (n, k) in memory, as torch.nn.Linear keeps them
GRADIENT_TURNED = {"dw": (1, 0)}


class Dense(Workload):
    """y = relu(x w + b): y (m, n), x (m, k), w (k, n), b (n,)."""

    name = "dense"
    sizes = letters("mkn")

    def prepare(self):
        self.shapes = {"y": (self.m, self.n)}
        self.length, self.flops = self.k, 2 * self.m * self.k * self.n

    def inputs(self, rng):
        m, k, n = self.m, self.k, self.n
        return {"x": normal(rng, m, k), "w": normal(rng, k, n), "b": normal(rng, n)}

    def exact(self, x, w, b):
        y = np.empty((self.m, self.n))
        reference.dense_forward(y, x, w, b, RELU, 0.0)
        return [y]

    def magnitude(self, exact, **inputs):
        return root_of_squares(self, **inputs)

    def tilegrad(self, k):
        return lambda y, x, w, b: k.dense_forward(y, x, w, b, RELU, 0.0)

    def numpy(self, xp=np):
        def call(y, x, w, b):
            xp.matmul(x, w, out=y)
            y += b
            xp.maximum(y, 0, out=y)

        yield Way("matmul(out=), add, maximum", call, out=True)

    def torch(self):
        import torch

        def call(y, x, w, b):
            torch.relu_(torch.addmm(b, x, w, out=y))

        yield Way("addmm(out=), weights (k, n)", call, out=True)
        yield Way("addmm(out=), weights (n, k)", call, out=True, memory=TURNED)

    def torch_onednn(self):
        linear = onednn("_linear_pointwise")

        def call(x, w, b):
            return linear(x, w.T, b, "relu", [], "")

        yield Way("linear with relu, weights (k, n)", call)
        yield Way("linear with relu, weights (n, k)", call, memory=TURNED)

    def torch_compiled(self):
        import torch

        def call(x, w, b):
            return torch.relu(torch.addmm(b, x, w))

        yield Way("relu(addmm), weights (k, n)", call)
        yield Way("relu(addmm), weights (n, k)", call, memory=TURNED)

    def jax(self):
        import jax

        yield Way("relu(x @ w + b)", lambda x, w, b: jax.nn.relu(x @ w + b))

    def tensorflow(self):
        import tensorflow as tf

        yield Way("relu(bias_add)", lambda x, w, b: tf.nn.relu(tf.nn.bias_add(x @ w, b)))

    def onnxruntime(self):
        yield Way("Gemm, Relu", lambda graph, x, w, b: graph.Relu(graph.Gemm(x, w, b)))


class DenseDx(Workload):
    """dx = dy w^T: dx (m, k), dy (m, n), w (k, n)."""

    name = "dense_dx"
    sizes = letters("mkn")

    def prepare(self):
        self.shapes = {"dx": (self.m, self.k)}
        self.length, self.flops = self.n, 2 * self.m * self.k * self.n

    def inputs(self, rng):
        return {"dy": normal(rng, self.m, self.n), "w": normal(rng, self.k, self.n)}

    def exact(self, dy, w):
        return [dy @ w.T]

    def magnitude(self, exact, **inputs):
        return root_of_squares(self, **inputs)

    def tilegrad(self, k):
        return lambda dx, dy, w: k.dense_backward_dx(dx, dy, w)

    def numpy(self, xp=np):
        yield Way("matmul(out=)", lambda dx, dy, w: xp.matmul(dy, w.T, out=dx), out=True)

    def torch(self):
        import torch

        def call(dx, dy, w):
            torch.mm(dy, w.T, out=dx)

        yield Way("mm(out=), weights (k, n)", call, out=True)
        yield Way("mm(out=), weights (n, k)", call, out=True, memory=TURNED)

    def torch_onednn(self):
        linear = onednn("_linear_pointwise")

        def call(dy, w):
            return linear(dy, w, None, "none", [], "")

        yield Way("linear, weights (k, n)", call)
        yield Way("linear, weights (n, k)", call, memory=TURNED)

    def jax(self):
        yield Way("dy @ w.T", lambda dy, w: dy @ w.T)

    def tensorflow(self):
        import tensorflow as tf

        yield Way("matmul", lambda dy, w: tf.matmul(dy, w, transpose_b=True))


class DenseDw(Workload):
    """dw = x^T dy: dw (k, n), x (m, k), dy (m, n)."""

    name = "dense_dw"
    sizes = letters("mkn")

    def prepare(self):
        self.shapes = {"dw": (self.k, self.n)}
        self.length, self.flops = self.m, 2 * self.m * self.k * self.n

    def inputs(self, rng):
        return {"x": normal(rng, self.m, self.k), "dy": normal(rng, self.m, self.n)}

    def exact(self, x, dy):
        return [x.T @ dy]

    def magnitude(self, exact, **inputs):
        return root_of_squares(self, **inputs)

    def tilegrad(self, k):
        return lambda dw, x, dy: k.dense_backward_dw(dw, x, dy)

    def numpy(self, xp=np):
        yield Way("matmul(out=)", lambda dw, x, dy: xp.matmul(x.T, dy, out=dw), out=True)

    def torch(self):
        import torch

        yield Way(
            "mm(out=), gradient (k, n)", lambda dw, x, dy: torch.mm(x.T, dy, out=dw), out=True
        )
        yield Way(
            "mm(out=), gradient (n, k)",
            lambda dw, x, dy: torch.mm(dy.T, x, out=dw),
            out=True,
            memory=GRADIENT_TURNED,
            seen=GRADIENT_TURNED,
        )

    def torch_onednn(self):
        linear = onednn("_linear_pointwise")
        yield Way("linear, gradient (k, n)", lambda x, dy: linear(x.T, dy.T, None, "none", [], ""))
        yield Way(
            "linear, gradient (n, k)",
            lambda x, dy: linear(dy.T, x.T, None, "none", [], ""),
            seen=GRADIENT_TURNED,
        )

    def jax(self):
        yield Way("x.T @ dy", lambda x, dy: x.T @ dy)

    def tensorflow(self):
        import tensorflow as tf

        yield Way("matmul", lambda x, dy: tf.matmul(x, dy, transpose_a=True))


class BiasDb(Workload):
    """db = the sum of dy's rows: db (n,), dy (m, n)."""

    name = "bias_db"
    sizes = letters("mn")

    def prepare(self):
        self.shapes = {"db": (self.n,)}
        self.length, self.flops = self.m, self.m * self.n

    def inputs(self, rng):
        return {"dy": normal(rng, self.m, self.n)}

    def exact(self, dy):
        return [dy.sum(axis=0)]

    def magnitude(self, exact, **inputs):
        return root_of_squares(self, **inputs)

    def tilegrad(self, k):
        return lambda db, dy: k.bias_backward_db(db, dy)

    def numpy(self, xp=np):
        yield Way("sum(out=)", lambda db, dy: xp.sum(dy, axis=0, out=db), out=True)

    def torch(self):
        import torch

        yield Way("sum(out=)", lambda db, dy: torch.sum(dy, 0, out=db), out=True)

    def jax(self):
        yield Way("sum", lambda dy: dy.sum(axis=0))

    def tensorflow(self):
        import tensorflow as tf

        yield Way("reduce_sum", lambda dy: tf.reduce_sum(dy, axis=0))
        yield Way("BiasAddGrad", lambda dy: tf.raw_ops.BiasAddGrad(out_backprop=dy))


class BiasReluDz(Workload):
    """dz = dy where y > 0, db = the sum of dz's rows: dz, dy, y (m, n), db (n,)."""

    name = "bias_relu_dz"
    sizes = letters("mn")

    def prepare(self):
        self.shapes = {"dz": (self.m, self.n), "db": (self.n,)}
        self.length, self.flops = self.m, self.m * self.n

    def inputs(self, rng):
        dy, y = (normal(rng, self.m, self.n) for _ in range(2))
        return {"dy": dy, "y": np.maximum(y, 0)}

    def exact(self, dy, y):
        dz = np.where(y > 0, dy, 0)
        return [dz, dz.sum(axis=0)]

    def magnitude(self, exact, **inputs):
        return root_of_squares(self, **inputs)

    def tilegrad(self, k):
        return lambda dz, db, dy, y: k.bias_activation_backward_dz(dz, db, dy, y, RELU, 0.0)

    def numpy(self, xp=np):
        def call(dz, db, dy, y):
            xp.multiply(dy, y > 0, out=dz)
            xp.sum(dz, axis=0, out=db)

        yield Way("multiply(out=), sum(out=)", call, out=True)

    def torch(self):
        import torch

        relu = torch.ops.aten.threshold_backward.grad_input

        def call(dz, db, dy, y):
            torch.sum(relu(dy, y, 0, grad_input=dz), 0, out=db)

        yield Way("threshold_backward(grad_input=), sum(out=)", call, out=True)

    def torch_compiled(self):
        import torch

        def call(dy, y):
            dz = torch.where(y > 0, dy, 0)
            return dz, dz.sum(0)

        yield Way("where, sum", call)

    def jax(self):
        from jax import numpy as jnp

        def call(dy, y):
            dz = jnp.where(y > 0, dy, 0)
            return dz, dz.sum(axis=0)

        yield Way("where, sum", call)

    def tensorflow(self):
        import tensorflow as tf

        def call(dy, y):
            dz = tf.raw_ops.ReluGrad(gradients=dy, features=y)
            return dz, tf.raw_ops.BiasAddGrad(out_backprop=dz)

        yield Way("ReluGrad, BiasAddGrad", call)


class Product(Workload):
    """What a product and its gradients share: b matrices each, (m, k) by (k, n)."""

    sizes = letters("bmkn")
    turned = (False, False)  # which of the two inputs is the transpose of a factor

    def prepare(self):
        self.flops = 2 * self.b * self.m * self.k * self.n
        self.describe()

    def describe(self):
        """Set `shapes` and `length`."""
        raise NotImplementedError

    def factors(self, left, right):
        """Views of the inputs whose product is the output, in any library."""
        first, second = self.turned
        return left.swapaxes(1, 2) if first else left, right.swapaxes(1, 2) if second else right

    def exact(self, **inputs):
        left, right = self.factors(*inputs.values())
        return [left @ right]

    def magnitude(self, exact, **inputs):
        return root_of_squares(self, **inputs)

    def numpy(self, xp=np):
        def call(out, *inputs):
            xp.matmul(*self.factors(*inputs), out=out)

        yield Way("matmul(out=)", call, out=True)

    def torch(self):
        import torch

        def batch(out, *inputs):
            torch.bmm(*self.factors(*inputs), out=out)

        def one(out, *inputs):
            left, right = self.factors(*inputs)
            torch.mm(left[0], right[0], out=out[0])

        yield Way("bmm(out=)", batch, out=True)
        if self.b == 1:
            yield Way("mm(out=)", one, out=True)

    def torch_onednn(self):
        linear = onednn("_linear_pointwise")

        def call(*inputs):
            left, right = self.factors(*inputs)
            return linear(left[0], right[0].T, None, "none", [], "")[None]

        if self.b == 1:
            yield Way("linear", call)

    def jax(self):
        def call(left, right):
            left, right = self.factors(left, right)
            return left @ right

        yield Way("matmul", call)

    def tensorflow(self):
        import tensorflow as tf

        first, second = self.turned

        def call(left, right):
            return tf.matmul(left, right, transpose_a=first, transpose_b=second)

        yield Way("matmul", call)

    def onnxruntime(self):
        def call(graph, *inputs):
            factors = [
                graph.Transpose(name, perm=[0, 2, 1]) if turned else name
                for name, turned in zip(inputs, self.turned, strict=True)
            ]
            return graph.MatMul(*factors)

        yield Way("MatMul", call)


class Matmul(Product):
    """y = a b: y (b, m, n), a (b, m, k), b (b, k, n)."""

    name = "matmul"

    def describe(self):
        self.shapes, self.length = {"y": (self.b, self.m, self.n)}, self.k

    def inputs(self, rng):
        return {"a": normal(rng, self.b, self.m, self.k), "b": normal(rng, self.b, self.k, self.n)}

    def tilegrad(self, k):
        return lambda y, a, b: k.matmul_forward(y, a, b)


class MatmulDa(Product):
    """da = dy b^T: da (b, m, k), dy (b, m, n), b (b, k, n)."""

    name = "matmul_da"
    turned = (False, True)

    def describe(self):
        self.shapes, self.length = {"da": (self.b, self.m, self.k)}, self.n

    def inputs(self, rng):
        return {"dy": normal(rng, self.b, self.m, self.n), "b": normal(rng, self.b, self.k, self.n)}

    def tilegrad(self, k):
        return lambda da, dy, b: k.matmul_backward_da(da, dy, b)


class MatmulDb(Product):
    """db = a^T dy: db (b, k, n), a (b, m, k), dy (b, m, n)."""

    name = "matmul_db"
    turned = (True, False)

    def describe(self):
        self.shapes, self.length = {"db": (self.b, self.k, self.n)}, self.m

    def inputs(self, rng):
        return {"a": normal(rng, self.b, self.m, self.k), "dy": normal(rng, self.b, self.m, self.n)}

    def tilegrad(self, k):
        return lambda db, a, dy: k.matmul_backward_db(db, a, dy)
