"""Softmax, its logarithm and cross-entropy over rows of c numbers, r of them."""

import math

import numpy as np

from ... import reference
from ..workload import Way, Workload, letters
from .common import normal


class Rows(Workload):
    """What all of them share: x, dy, y, dx (r, c)."""

    sizes = letters("rc")

    def prepare(self):
        self.shape = (self.r, self.c)
        self.length = self.c
        self.describe()

    def describe(self):
        """Set `shapes` and `flops`."""
        raise NotImplementedError


def distance(x):
    """How far numbers are below their row's maximum; exp rounds that first."""
    return x.max(axis=1, keepdims=True) - x


def log_of_sum(x):
    """log sum exp of the rows, over their maximum."""
    return np.log(np.exp(-distance(x)).sum(axis=1, keepdims=True))


class Softmax(Rows):
    """y = exp(x) / sum exp(x)."""

    name = "softmax"

    def describe(self):
        self.shapes, self.flops = {"y": self.shape}, 4 * self.r * self.c

    def inputs(self, rng):
        return {"x": normal(rng, *self.shape)}

    def exact(self, x):
        y = np.empty(self.shape)
        reference.softmax_forward(y, x)
        return [y]

    def magnitude(self, exact, x):
        return [exact[0] * (1 + distance(x))]

    def tilegrad(self, k):
        return lambda y, x: k.softmax_forward(y, x)

    def numpy(self, xp=np):
        def call(y, x):
            xp.subtract(x, x.max(axis=1, keepdims=True), out=y)
            xp.exp(y, out=y)
            y /= y.sum(axis=1, keepdims=True)

        yield Way("subtract, exp, divide (out=)", call, out=True)

    def torch(self):
        import torch

        softmax = torch.ops.aten._softmax.out
        yield Way("softmax(out=)", lambda y, x: softmax(x, 1, False, out=y), out=True)

    def jax(self):
        import jax

        yield Way("softmax", lambda x: jax.nn.softmax(x, axis=1))

    def tensorflow(self):
        import tensorflow as tf

        yield Way("softmax", lambda x: tf.nn.softmax(x))

    def onnxruntime(self):
        yield Way("Softmax", lambda graph, x: graph.Softmax(x, axis=1))


class SoftmaxDx(Rows):
    """dx = y (dy - sum dy y)."""

    name = "softmax_dx"

    def describe(self):
        self.shapes, self.flops = {"dx": self.shape}, 4 * self.r * self.c

    def inputs(self, rng):
        dy, x = normal(rng, *self.shape), normal(rng, *self.shape)
        y = np.empty_like(x)
        reference.softmax_forward(y, x)
        return {"dy": dy, "y": y}

    def exact(self, dy, y):
        dx = np.empty(self.shape)
        reference.softmax_backward_dx(dx, dy, y)
        return [dx]

    def magnitude(self, exact, dy, y):
        return [y * (abs(dy) + (abs(dy) * y).sum(axis=1, keepdims=True))]

    def tilegrad(self, k):
        return lambda dx, dy, y: k.softmax_backward_dx(dx, dy, y)

    def numpy(self, xp=np):
        def call(dx, dy, y):
            xp.multiply(dy, y, out=dx)
            xp.subtract(dy, dx.sum(axis=1, keepdims=True), out=dx)
            dx *= y

        yield Way("multiply, subtract (out=)", call, out=True)

    def torch(self):
        import torch

        backward, kind = torch.ops.aten._softmax_backward_data.out, torch.float32

        def call(dx, dy, y):
            backward(dy, y, 1, kind, grad_input=dx)

        yield Way("softmax_backward_data(out=)", call, out=True)

    def jax(self):
        yield Way("y (dy - sum dy y)", lambda dy, y: y * (dy - (dy * y).sum(axis=1, keepdims=True)))

    def tensorflow(self):
        import tensorflow as tf

        def call(dy, y):
            return y * (dy - tf.reduce_sum(dy * y, axis=1, keepdims=True))

        yield Way("y (dy - sum dy y)", call)


class LogSoftmax(Rows):
    """y = x - log sum exp(x)."""

    name = "log_softmax"

    def describe(self):
        self.shapes, self.flops = {"y": self.shape}, 4 * self.r * self.c

    def inputs(self, rng):
        return {"x": normal(rng, *self.shape)}

    def exact(self, x):
        y = np.empty(self.shape)
        reference.log_softmax_forward(y, x)
        return [y]

    def magnitude(self, exact, x):
        return [abs(x) + distance(x) + log_of_sum(x)]

    def tilegrad(self, k):
        return lambda y, x: k.log_softmax_forward(y, x)

    def numpy(self, xp=np):
        def call(y, x):
            xp.subtract(x, x.max(axis=1, keepdims=True), out=y)
            y -= xp.log(xp.exp(y).sum(axis=1, keepdims=True))

        yield Way("subtract(out=), exp, log", call, out=True)

    def torch(self):
        import torch

        log_softmax = torch.ops.aten._log_softmax.out
        yield Way("log_softmax(out=)", lambda y, x: log_softmax(x, 1, False, out=y), out=True)

    def jax(self):
        import jax

        yield Way("log_softmax", lambda x: jax.nn.log_softmax(x, axis=1))

    def tensorflow(self):
        import tensorflow as tf

        yield Way("log_softmax", lambda x: tf.nn.log_softmax(x))

    def onnxruntime(self):
        yield Way("LogSoftmax", lambda graph, x: graph.LogSoftmax(x, axis=1))


class LogSoftmaxDx(Rows):
    """dx = dy - exp(y) sum dy."""

    name = "log_softmax_dx"

    def describe(self):
        self.shapes, self.flops = {"dx": self.shape}, 4 * self.r * self.c

    def inputs(self, rng):
        dy, x = normal(rng, *self.shape), normal(rng, *self.shape)
        y = np.empty_like(x)
        reference.log_softmax_forward(y, x)
        return {"dy": dy, "y": y}

    def exact(self, dy, y):
        dx = np.empty(self.shape)
        reference.log_softmax_backward_dx(dx, dy, y)
        return [dx]

    def magnitude(self, exact, dy, y):
        return [abs(dy) + np.exp(y) * (1 + abs(y)) * abs(dy).sum(axis=1, keepdims=True)]

    def tilegrad(self, k):
        return lambda dx, dy, y: k.log_softmax_backward_dx(dx, dy, y)

    def numpy(self, xp=np):
        def call(dx, dy, y):
            xp.exp(y, out=dx)
            dx *= dy.sum(axis=1, keepdims=True)
            xp.subtract(dy, dx, out=dx)

        yield Way("exp, multiply, subtract (out=)", call, out=True)

    def torch(self):
        import torch

        backward, kind = torch.ops.aten._log_softmax_backward_data.out, torch.float32

        def call(dx, dy, y):
            backward(dy, y, 1, kind, out=dx)

        yield Way("log_softmax_backward_data(out=)", call, out=True)

    def jax(self):
        from jax import numpy as jnp

        def call(dy, y):
            return dy - jnp.exp(y) * dy.sum(axis=1, keepdims=True)

        yield Way("dy - exp(y) sum dy", call)

    def tensorflow(self):
        import tensorflow as tf

        def call(dy, y):
            return dy - tf.exp(y) * tf.reduce_sum(dy, axis=1, keepdims=True)

        yield Way("dy - exp(y) sum dy", call)


class CrossEntropy(Rows):
    """Forward and backward of the mean of -sum t log p, p = softmax(x): loss (1,), dx (r, c).

    losses (r,), p and dlosses (r,), all 1 / r, stand between the two halves where a library has
    them.
    """

    aside = ("losses", "p", "dlosses")

    def describe(self):
        self.shapes = {"loss": (1,), "losses": (self.r,), "p": self.shape, "dx": self.shape}
        self.flops = 5 * self.r * self.c

    def targets(self, rng):
        """Name and value of what x is compared with."""
        raise NotImplementedError

    def inputs(self, rng):
        name, targets = self.targets(rng)
        mean = np.full(self.r, 1 / self.r, np.float32)
        return {"x": normal(rng, *self.shape), name: targets, "dlosses": mean}

    def kernels(self, k):
        """The forward and the backward kernel of the backend `k`."""
        raise NotImplementedError

    def exact(self, **inputs):
        outputs = [np.empty(shape) for shape in self.shapes.values()]
        self.tilegrad(reference)(*outputs, *inputs.values())
        return outputs

    def loss_sizes(self, terms):
        """What the errors of `loss` and `losses` scale with, beside the sqrt(c) that all have.

        A sum over c that is off by a share is, under the logarithm, off by that share, however
        large; the terms of a loss are rounded once. The mean adds the rounding of a sum over r.
        """
        losses = 1 + terms / math.sqrt(self.c)
        mean = losses.mean() + terms.mean() * math.sqrt(self.r / self.c)
        return [np.full(1, mean), losses]

    def tilegrad(self, k):
        forward, backward = self.kernels(k)

        def call(loss, losses, p, dx, x, targets, dlosses):
            forward(loss, losses, p, x, targets, None, 1 / self.r)
            backward(dx, dlosses, p, targets)

        return call


class SparseCrossEntropy(CrossEntropy):
    """The targets are labels (r,)."""

    name = "softmax_cross_entropy"

    def targets(self, rng):
        return "labels", rng.integers(0, self.c, self.r, np.int32)

    def kernels(self, k):
        return (
            k.softmax_cross_entropy_sparse_forward,
            k.softmax_cross_entropy_sparse_backward_dx,
        )

    def magnitude(self, exact, x, labels, dlosses):
        _, _, p, _ = exact
        terms = (abs(x) + distance(x) + log_of_sum(x))[np.arange(self.r), labels]
        size = p * (1 + distance(x))
        onehot = labels[:, None] == np.arange(self.c)
        return [*self.loss_sizes(terms), size, (size + onehot) / self.r]

    def numpy(self, xp=np):
        def call(x, labels, dlosses):
            rows = xp.arange(self.r)
            log_p = x - x.max(axis=1, keepdims=True)
            p = xp.exp(log_p)
            total = p.sum(axis=1, keepdims=True)
            losses = xp.log(total[:, 0]) - log_p[rows, labels]
            p /= total
            dx = p / np.float32(self.r)
            dx[rows, labels] -= np.float32(1 / self.r)
            return losses.mean(keepdims=True), losses, p, dx

        yield Way("exp, log, indices", call)

    def torch(self):
        import torch

        aten = torch.ops.aten
        rest = (None, 1, -100)  # no class weights, mean, no label ignored

        def call(loss, dx, x, labels, dlosses, wide, one, total, weight, log_p, dlog_p):
            aten._log_softmax.out(x, 1, False, out=log_p)
            aten.nll_loss_forward.output(log_p, wide, *rest, output=total, total_weight=weight)
            aten.nll_loss_backward.grad_input(one, log_p, wide, *rest, weight, grad_input=dlog_p)
            aten._log_softmax_backward_data.out(dlog_p, log_p, 1, torch.float32, out=dx)

        def scratch(loss, dx, x, labels, dlosses):
            one, total, weight = x.new_ones(()), loss[0], x.new_empty(())
            return labels.long(), one, total, weight, torch.empty_like(x), torch.empty_like(x)

        yield Way(
            "log_softmax, nll_loss and their backwards (out=)",
            call,
            out=True,
            derive=scratch,
            lacks=("losses", "p"),
        )

    def torch_compiled(self):
        import torch

        aten = torch.ops.aten
        rest = (None, 1, -100)  # no class weights, mean, no label ignored

        def call(x, labels, dlosses, wide):
            log_p = aten._log_softmax(x, 1, False)
            loss, weight = aten.nll_loss_forward(log_p, wide, *rest)
            one = torch.ones_like(loss)
            dlog_p = aten.nll_loss_backward(one, log_p, wide, *rest, weight)
            dx = aten._log_softmax_backward_data(dlog_p, log_p, 1, torch.float32)
            return loss[None], None, None, dx

        def wide(x, labels, dlosses):
            return (labels.long(),)

        yield Way("log_softmax, nll_loss and their backwards", call, derive=wide)

    def jax(self):
        import jax
        from jax import numpy as jnp

        def indexed(x, labels):
            return -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], axis=1).mean()

        def one_hot(x, labels):
            return -(jax.nn.one_hot(labels, self.c) * jax.nn.log_softmax(x)).sum() / self.r

        def gradient(loss):
            def call(x, labels, dlosses):
                value, dx = jax.value_and_grad(loss)(x, labels)
                return value[None], None, None, dx

            return call

        yield Way("value_and_grad of log_softmax, take_along_axis", gradient(indexed))
        yield Way("value_and_grad of log_softmax, one_hot", gradient(one_hot))

    def tensorflow(self):
        import tensorflow as tf

        def call(x, labels, dlosses):
            losses, dx = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=x, labels=labels)
            return tf.reduce_mean(losses)[None], losses, None, dx * dlosses[:, None]

        yield Way("SparseSoftmaxCrossEntropyWithLogits", call)


class DenseCrossEntropy(CrossEntropy):
    """The targets are probabilities t (r, c)."""

    name = "softmax_cross_entropy_dense"

    def targets(self, rng):
        t = rng.random((self.r, self.c), np.float32)
        return "t", t / t.sum(axis=1, keepdims=True)

    def kernels(self, k):
        return k.softmax_cross_entropy_dense_forward, k.softmax_cross_entropy_dense_backward_dx

    def magnitude(self, exact, x, t, dlosses):
        _, _, p, _ = exact
        terms = (t * (abs(x) + distance(x) + log_of_sum(x))).sum(axis=1)
        size = p * (1 + distance(x))
        return [*self.loss_sizes(terms), size, (size * t.sum(1)[:, None] + t) / self.r]

    def numpy(self, xp=np):
        def call(x, t, dlosses):
            log_p = x - x.max(axis=1, keepdims=True)
            p = xp.exp(log_p)
            total = p.sum(axis=1, keepdims=True)
            p /= total
            log_p -= xp.log(total)
            losses = -xp.einsum("rc,rc->r", t, log_p)
            dx = (p * t.sum(axis=1, keepdims=True) - t) * np.float32(1 / self.r)
            return losses.mean(keepdims=True), losses, p, dx

        yield Way("exp, log, einsum", call)

    def torch(self):
        import torch

        aten = torch.ops.aten

        def call(loss, dx, x, t, dlosses, total, log_p, dlog_p, flat_log_p, flat_dlog_p):
            aten._log_softmax.out(x, 1, False, out=log_p)
            torch.mul(t, -1 / self.r, out=dlog_p)
            torch.dot(flat_log_p, flat_dlog_p, out=total)
            aten._log_softmax_backward_data.out(dlog_p, log_p, 1, torch.float32, out=dx)

        def scratch(loss, dx, x, t, dlosses):
            log_p, dlog_p = torch.empty_like(x), torch.empty_like(x)
            return loss[0], log_p, dlog_p, log_p.view(-1), dlog_p.view(-1)

        yield Way(
            "log_softmax, mul, dot, log_softmax_backward_data (out=)",
            call,
            out=True,
            derive=scratch,
            lacks=("losses", "p"),
        )

    def jax(self):
        import jax

        def loss(x, t):
            return -(t * jax.nn.log_softmax(x)).sum() / self.r

        def call(x, t, dlosses):
            value, dx = jax.value_and_grad(loss)(x, t)
            return value[None], None, None, dx

        yield Way("value_and_grad of log_softmax", call)

    def tensorflow(self):
        import tensorflow as tf

        def call(x, t, dlosses):
            losses, dx = tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=x, labels=t)
            return tf.reduce_mean(losses)[None], losses, None, dx * dlosses[:, None]

        yield Way("SoftmaxCrossEntropyWithLogits", call)
