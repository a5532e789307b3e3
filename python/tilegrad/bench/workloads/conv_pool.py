"""Convolution, bias, relu and pooling by p x p in one: forward with indices, and dw with db.

Convolutions of n images (h, w, c) with f filters of k x k at stride 1; the word is their padding.
"""

import math

import numpy as np

from ... import reference
from ...reference.conv_pool import CLOSED_WINDOW
from ..workload import Way, letters
from .common import FIRST, RELU, SEEN, blank, layouts, normal, whole
from .conv import Convolution, fused_relu


class ConvPool(Convolution):
    """What both share: x (n, h, w, c), w (k, k, c, f), pooled (n, oh / p, ow / p, f)."""

    sizes = letters("nhwcfk", p=2)
    s = 1

    def lay_out(self):
        super().lay_out()
        n, oh, ow, f = self.y_shape
        p = self.p
        if p > min(oh, ow, 15):
            raise ValueError(f"expected pooling windows of 1 to {min(oh, ow, 15)} pixels, got {p}")
        self.pooled = (n, oh // p, ow // p, f)
        self.both = (oh, ow, *self.geometry[:6], p, p, 0, 0)  # for tilegrad's kernels
        self.pooling = ([p, p], [p, p], [0, 0], [1, 1], False)  # for PyTorch's
        rows, cols = (a.taps(a.windows // p * p) for a in (self.rows, self.cols))
        self.flops = 2 * n * rows * cols * self.c * f

    def jax_pool(self, image):
        """JAX's max pooling of an image (n, oh, ow, f), whose windows lie side by side."""
        n, rows, cols, f = self.pooled
        image = image[:, : rows * self.p, : cols * self.p]
        return image.reshape(n, rows, self.p, cols, self.p, f).max(axis=(2, 4))


class Conv2dPool(ConvPool):
    """y = max_pool(relu(conv(x, w) + b)), index: each maximum's place, or that it is not above 0.

    Inputs are whole numbers: sums are exact, so that float32 finds the same maxima as float64.
    """

    name = "conv2d_pool"

    def describe(self):
        self.shapes = {"y": self.pooled, "index": self.pooled}
        self.dtypes = {"index": np.uint8}
        self.length = self.k * self.k * self.c

    def inputs(self, rng):
        return {
            "x": whole(rng, *self.x_shape),
            "w": large(rng, *self.w_shape),
            "b": large(rng, self.f),
        }

    def exact(self, x, w, b):
        y, index = np.empty(self.pooled), np.empty(self.pooled, np.uint8)
        reference.conv2d_max_pool2d_forward(y, index, x, w, b, *self.both, RELU)
        return [y, index]

    def tilegrad(self, k):
        def call(y, index, x, w, b):
            k.conv2d_max_pool2d_forward(y, index, x, w, b, *self.both, RELU)

        return call

    def torch(self):
        import torch

        convolution = torch.ops.aten.convolution
        pool = torch.ops.aten.max_pool2d_with_indices

        def call(x, w, b):
            image = convolution(self.pad(x), w, b, *self.options).relu_()
            return pool(image, *self.pooling)[0], None

        for layout, memory, _ in layouts():
            yield Way(
                f"convolution, relu_, max_pool2d_with_indices, {layout}",
                call,
                memory=memory,
                seen=SEEN,
            )

    def torch_onednn(self):
        import torch

        fused, pool = fused_relu(self.options), torch.ops.aten.max_pool2d_with_indices

        def call(x, w, b):
            return pool(fused(self.pad(x), w, b), *self.pooling)[0], None

        for layout, memory, _ in layouts():
            yield Way(
                f"convolution with relu, max_pool2d_with_indices, {layout}",
                call,
                memory=memory,
                seen=SEEN,
            )

    def torch_compiled(self):
        import torch

        convolution, pool = torch.ops.aten.convolution, torch.nn.functional.max_pool2d

        def call(x, w, b):
            image = torch.relu(convolution(self.pad(x), w, b, *self.options))
            return pool(image, self.p), None

        for layout, memory, _ in layouts():
            yield Way(f"max_pool2d(relu(convolution)), {layout}", call, memory=memory, seen=SEEN)

    def jax(self):
        import jax

        def call(x, w, b):
            return self.jax_pool(jax.nn.relu(self.jax_convolution(x, w) + b)), None

        def windows(x, w, b):
            image = jax.nn.relu(self.jax_convolution(x, w) + b)
            window = (1, self.p, self.p, 1)
            return jax.lax.reduce_window(image, -np.inf, jax.lax.max, window, window, "VALID"), None

        yield Way("conv_general_dilated, relu, reduce_window, NHWC", windows)
        yield Way("conv_general_dilated, relu, reshape, max, NHWC", call)

    def tensorflow(self):
        import tensorflow as tf

        options = self.tensorflow_options()

        def call(x, w, b):
            image = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, w, **options), b))
            return tf.nn.max_pool2d(image, self.p, self.p, "VALID"), None

        yield Way("conv2d, bias_add, relu, max_pool2d, NHWC", call)

    def onnxruntime(self):
        def call(graph, x, w, b):
            image = graph.Relu(self.onnx_convolution(graph, x, w, b))
            return graph.MaxPool(image, kernel_shape=[self.p] * 2, strides=[self.p] * 2)

        yield Way("Conv, Relu, MaxPool, NCHW", call, memory=SEEN, seen=SEEN, lacks=("index",))


def large(rng, *shape):
    """Whole numbers of up to 12 bits: sums with `whole` ones are exact, but not in fewer bits."""
    return rng.integers(-4095, 4096, shape).astype(np.float32)


class Conv2dPoolDw(ConvPool):
    """dw and db, from dy where index says; a quarter of the windows are closed by the relu.

    z (n, oh, ow, f) is the image behind the pooling, for libraries that look at it: 1 where index
    says, else 0.
    """

    name = "conv2d_pool_dw"
    aside = ("z",)

    def describe(self):
        self.shapes = {"dw": self.w_shape, "db": (self.f,)}
        self.length = math.prod(self.pooled[:3])
        # one position of each open window; those near the border count as often as others
        self.closed = math.prod(self.pooled) // 4
        self.flops = self.flops * 3 // (4 * self.p * self.p)

    def inputs(self, rng):
        index = rng.integers(0, self.p * self.p, self.pooled, np.uint8)
        closed = np.arange(index.size) < self.closed
        rng.shuffle(closed)
        index[closed.reshape(index.shape)] = CLOSED_WINDOW
        z = np.empty(self.y_shape, np.float32)
        ones = np.ones(self.pooled, np.float32)
        reference.max_pool2d_backward_dx(z, ones, index, *[self.p] * 4, 0, 0)
        return {
            "x": normal(rng, *self.x_shape),
            "dy": normal(rng, *self.pooled),
            "index": index,
            "z": z,
        }

    def exact(self, x, dy, index, z):
        dw, db = np.empty(self.w_shape), np.empty(self.f)
        reference.conv2d_max_pool2d_backward_dw(dw, db, x, dy, index, *self.both)
        return [dw, db]

    def tilegrad(self, k):
        def call(dw, db, x, dy, index, z):
            k.conv2d_max_pool2d_backward_dw(dw, db, x, dy, index, *self.both)

        return call

    def torch(self):
        import torch

        aten = torch.ops.aten
        pool_backward = aten.max_pool2d_with_indices_backward.grad_input
        relu_backward = aten.threshold_backward.grad_input
        k, _, c, f = self.w_shape
        dw_and_db = [False, True, True]

        def call(x, dy, index, z, w, dz, indices):
            pool_backward(dy, z, *self.pooling, indices, grad_input=dz)
            relu_backward(dz, z, 0, grad_input=dz)
            x = self.pad(x)
            return aten.convolution_backward(dz, x, w, [f], *self.options, dw_and_db)[1:]

        for name, memory, layout in layouts():

            def rest(x, dy, index, z, layout=layout):
                w = blank(x, (f, c, k, k), layout)  # read for its shape and layout alone
                indices = aten.max_pool2d_with_indices(z, *self.pooling)[1]
                return w, torch.empty_like(z), indices

            yield Way(
                "max_pool2d_with_indices_backward, threshold_backward (grad_input=), "
                f"convolution_backward, {name}",
                call,
                memory=memory,
                seen={**SEEN, "index": FIRST},
                derive=rest,
            )

    def jax(self):
        import jax

        w = jax.ShapeDtypeStruct(self.w_shape, np.float32)

        def call(x, dy, index, z):
            # z is relu's output too: closed where it is 0
            _, back = jax.vjp(self.jax_pool, z)
            dz = jax.numpy.where(z > 0, back(dy)[0], 0)
            dw = jax.linear_transpose(lambda w: self.jax_convolution(x, w), w)(dz)[0]
            return dw, dz.sum(axis=(0, 1, 2))

        yield Way("vjp of reshape, max; linear_transpose of conv_general_dilated, NHWC", call)

    def tensorflow(self):
        import tensorflow as tf

        pooling = {
            "ksize": [1, self.p, self.p, 1],
            "strides": [1, self.p, self.p, 1],
            "padding": "VALID",
        }

        def call(x, dy, index, z, y):
            dz = tf.raw_ops.MaxPoolGrad(orig_input=z, orig_output=y, grad=dy, **pooling)
            dz = tf.raw_ops.ReluGrad(gradients=dz, features=z)
            dw = tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=self.w_shape, out_backprop=dz, **self.tensorflow_options()
            )
            return dw, tf.raw_ops.BiasAddGrad(out_backprop=dz)

        def pooled(x, dy, index, z):
            return (tf.nn.max_pool2d(z, self.p, self.p, "VALID"),)

        setting = "MaxPoolGrad, ReluGrad, Conv2DBackpropFilter, BiasAddGrad, NHWC"
        yield Way(setting, call, derive=pooled)
