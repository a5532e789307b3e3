"""Pooling of n images (h, w, c) by windows of k x k, s apart (k if not given): forward and dx."""

import math

import numpy as np

from ... import reference
from ..workload import Way, Workload, letters
from .common import SEEN, Axis, blank, distinct, layouts, normal, root_of_squares


class Pool(Workload):
    """What all of them share: x (n, h, w, c), y (n, oh, ow, c)."""

    sizes = letters("nhwck", s=0)
    words = ("valid", "same")

    def prepare(self):
        self.s = self.s or self.k
        self.rows = Axis(self.h, self.k, self.s, self.word)
        self.cols = Axis(self.w, self.k, self.s, self.word)
        self.x_shape = (self.n, self.h, self.w, self.c)
        self.y_shape = (self.n, self.rows.windows, self.cols.windows, self.c)
        self.geometry = (self.k, self.k, self.s, self.s, self.rows.before, self.cols.before)
        self.taps = self.n * self.rows.taps() * self.cols.taps() * self.c
        self.describe()

    def describe(self):
        """Set `shapes`, `length` and `flops`."""
        raise NotImplementedError

    @property
    def tiled(self) -> bool:
        """Whether the windows lie side by side and there is no padding."""
        return self.s == self.k and self.word == "valid"

    def tiles(self, x):
        """NumPy's view (n, oh, k, ow, k, c) of the windows, where they are `tiled`."""
        n, oh, ow, c = self.y_shape
        k = self.k
        return x[:, : oh * k, : ow * k].reshape(n, oh, k, ow, k, c)

    def options(self):
        """PyTorch's window, stride, padding and ceil_mode; None where it has no such padding."""
        axes = (self.rows, self.cols)
        for ceil in (False, True):
            if all(a.windows == _windows(a, ceil) for a in axes):
                return [self.k] * 2, [self.s] * 2, [a.before for a in axes], ceil
        return None

    def jax_windows(self, x, start, operation):
        """JAX's x reduced over each window."""
        from jax import lax

        padding = [(0, 0), *((a.before, a.after) for a in (self.rows, self.cols)), (0, 0)]
        window, stride = (1, self.k, self.k, 1), (1, self.s, self.s, 1)
        return lax.reduce_window(x, start, operation, window, stride, padding)

    def tensorflow_options(self):
        """What TensorFlow's pooling and its gradients take; they know this padding."""
        return {
            "ksize": [1, self.k, self.k, 1],
            "strides": [1, self.s, self.s, 1],
            "padding": self.word.upper(),
        }

    def jax_mean(self, x):
        """The mean over each window's part inside the image."""
        from jax import lax

        counts = np.outer(*(axis.counts() for axis in (self.rows, self.cols)))
        return self.jax_windows(x, 0.0, lax.add) / counts[:, :, None].astype(np.float32)

    def onnx_options(self):
        """The attributes of ONNX's pooling."""
        rows, cols = self.rows, self.cols
        return {
            "kernel_shape": [self.k] * 2,
            "strides": [self.s] * 2,
            "pads": [rows.before, cols.before, rows.after, cols.after],
        }


def _windows(axis: Axis, ceil: bool) -> int:
    """How many windows PyTorch makes, with as much padding behind as before."""
    room = axis.size + 2 * axis.before - axis.window
    count = (-(-room // axis.stride) if ceil else room // axis.stride) + 1
    outside = ceil and (count - 1) * axis.stride >= axis.size + axis.before
    return count - outside


class MaxPool2d(Pool):
    """y = max over the window, index (n, oh, ow, c): its place a k + b."""

    name = "max_pool2d"

    def describe(self):
        self.shapes = {"y": self.y_shape, "index": self.y_shape}
        self.dtypes = {"index": index_dtype(self.k)}
        self.flops = self.taps - math.prod(self.y_shape)

    def inputs(self, rng):
        return {"x": distinct(rng, self.k, *self.x_shape)}

    def exact(self, x):
        y, index = np.empty(self.y_shape), np.empty(self.y_shape, self.dtypes["index"])
        reference.max_pool2d_forward(y, index, x, *self.geometry)
        return [y, index]

    def tilegrad(self, k):
        return lambda y, index, x: k.max_pool2d_forward(y, index, x, *self.geometry)

    def numpy(self, xp=np):
        def call(y, x):
            xp.max(self.tiles(x), axis=(2, 4), out=y)

        if self.tiled:
            yield Way("reshape, max(out=), no indices", call, out=True, lacks=("index",))

    def torch(self):
        import torch

        options = self.options()
        if options is None:
            return
        *window, ceil = options
        pool = torch.ops.aten.max_pool2d_with_indices

        def call(y, x, indices):
            pool.out(x, *window, [1, 1], ceil, out=y, indices=indices)

        def indices(y, x):
            return (pool(x, *window, [1, 1], ceil)[1],)

        for layout, memory, _ in layouts():
            yield Way(
                f"max_pool2d_with_indices(out=), {layout}",
                call,
                out=True,
                memory=memory,
                seen=SEEN,
                derive=indices,
                lacks=("index",),
            )

    def jax(self):
        from jax import lax

        def call(x):
            return self.jax_windows(x, -np.inf, lax.max), None

        yield Way("reduce_window, NHWC, no indices", call)
        if self.tiled:
            yield Way(
                "reshape, max, NHWC, no indices", lambda x: (self.tiles(x).max(axis=(2, 4)), None)
            )

    def tensorflow(self):
        import tensorflow as tf

        options = self.tensorflow_options()
        yield Way("max_pool2d, NHWC, no indices", lambda x: (tf.nn.max_pool2d(x, **options), None))

    def onnxruntime(self):
        yield Way(
            "MaxPool, NCHW, no indices",
            lambda graph, x: graph.MaxPool(x, **self.onnx_options()),
            memory=SEEN,
            seen=SEEN,
            lacks=("index",),
        )


class MaxPool2dDx(Pool):
    """dx = dy where index says, summed. x has its maxima there, for libraries that want it."""

    name = "max_pool2d_dx"
    aside = ("x",)

    def describe(self):
        self.shapes, self.length = {"dx": self.x_shape}, overlap(self)

    def inputs(self, rng):
        x = distinct(rng, self.k, *self.x_shape)
        y, index = np.empty(self.y_shape, np.float32), np.empty(self.y_shape, index_dtype(self.k))
        reference.max_pool2d_forward(y, index, x, *self.geometry)
        return {"dy": normal(rng, *self.y_shape), "index": index, "x": x}

    def exact(self, dy, index, x):
        dx = np.empty(self.x_shape)
        reference.max_pool2d_backward_dx(dx, dy, index, *self.geometry)
        return [dx]

    def magnitude(self, exact, **inputs):
        return root_of_squares(self, **inputs)

    def tilegrad(self, k):
        return lambda dx, dy, index, x: k.max_pool2d_backward_dx(dx, dy, index, *self.geometry)

    def torch(self):
        import torch

        options = self.options()
        if options is None:
            return
        *window, ceil = options
        aten = torch.ops.aten
        backward = aten.max_pool2d_with_indices_backward.grad_input

        def call(dx, dy, index, x, indices):
            backward(dy, x, *window, [1, 1], ceil, indices, grad_input=dx)

        def indices(dx, dy, index, x):
            return (aten.max_pool2d_with_indices(x, *window, [1, 1], ceil)[1],)

        seen = {**SEEN, "index": SEEN["x"]}
        for layout, memory, _ in layouts():
            setting = f"max_pool2d_with_indices_backward(grad_input=), {layout}"
            yield Way(setting, call, out=True, memory=memory, seen=seen, derive=indices)

    def jax(self):
        import jax

        def gradient(pool):
            return lambda dy, index, x: jax.vjp(pool, x)[1](dy)[0]

        def windows(x):
            return self.jax_windows(x, -np.inf, jax.lax.max)

        yield Way("vjp of reduce_window, NHWC", gradient(windows))
        if self.tiled:
            tiles = gradient(lambda x: self.tiles(x).max(axis=(2, 4)))
            yield Way("vjp of reshape, max, NHWC", tiles)

    def tensorflow(self):
        import tensorflow as tf

        options = self.tensorflow_options()

        def call(dy, index, x, y):
            return tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=dy, **options)

        def forward(dy, index, x):
            return (tf.nn.max_pool2d(x, **options),)

        yield Way("MaxPoolGrad, NHWC", call, derive=forward)


class AvgPool2d(Pool):
    """y = mean over the window's part inside the image."""

    name = "avg_pool2d"

    def describe(self):
        self.shapes, self.length, self.flops = {"y": self.y_shape}, self.k * self.k, self.taps

    def inputs(self, rng):
        return {"x": normal(rng, *self.x_shape)}

    def exact(self, x):
        y = np.empty(self.y_shape)
        reference.avg_pool2d_forward(y, x, *self.geometry)
        return [y]

    def magnitude(self, exact, x):
        return [np.sqrt(a / self.length) for a in self.exact(x * x)]  # 1 / length, squared

    def tilegrad(self, k):
        return lambda y, x: k.avg_pool2d_forward(y, x, *self.geometry)

    def numpy(self, xp=np):
        def call(y, x):
            xp.mean(self.tiles(x), axis=(2, 4), out=y)

        if self.tiled:
            yield Way("reshape, mean(out=)", call, out=True)

    def torch(self):
        import torch

        options = self.options()
        if options is None:
            return
        pool = torch.ops.aten.avg_pool2d.out

        def call(y, x):
            pool(x, *options, False, None, out=y)  # padding does not count

        for layout, memory, _ in layouts():
            yield Way(f"avg_pool2d(out=), {layout}", call, out=True, memory=memory, seen=SEEN)

    def jax(self):
        yield Way("reduce_window, NHWC", self.jax_mean)
        if self.tiled:
            yield Way("reshape, mean, NHWC", lambda x: self.tiles(x).mean(axis=(2, 4)))

    def tensorflow(self):
        import tensorflow as tf

        options = self.tensorflow_options()
        yield Way("avg_pool2d, NHWC", lambda x: tf.nn.avg_pool2d(x, **options))

    def onnxruntime(self):
        def call(graph, x):
            return graph.AveragePool(x, **self.onnx_options())  # padding does not count

        yield Way("AveragePool, NCHW", call, memory=SEEN, seen=SEEN)


class AvgPool2dDx(Pool):
    """dx = dy / count, summed over the windows that read x."""

    name = "avg_pool2d_dx"

    def describe(self):
        self.shapes, self.length = {"dx": self.x_shape}, overlap(self)
        self.flops = math.prod(self.y_shape)

    def inputs(self, rng):
        return {"dy": normal(rng, *self.y_shape)}

    def exact(self, dy):
        dx = np.empty(self.x_shape)
        reference.avg_pool2d_backward_dx(dx, dy, *self.geometry)
        return [dx]

    def magnitude(self, exact, dy):
        return root_of_squares(self, dy=dy)

    def tilegrad(self, k):
        return lambda dx, dy: k.avg_pool2d_backward_dx(dx, dy, *self.geometry)

    def torch(self):
        import torch

        options = self.options()
        if options is None:
            return
        backward = torch.ops.aten.avg_pool2d_backward.grad_input
        n, h, w, c = self.x_shape

        def call(dx, dy, x):
            backward(dy, x, *options, False, None, grad_input=dx)

        for name, memory, layout in layouts():

            def image(dx, dy, layout=layout):  # of x, PyTorch reads the shape and the layout
                return (blank(dy, (n, c, h, w), layout),)

            setting = f"avg_pool2d_backward(grad_input=), {name}"
            yield Way(setting, call, out=True, memory=memory, seen=SEEN, derive=image)

    def jax(self):
        import jax

        x = jax.ShapeDtypeStruct(self.x_shape, np.float32)

        def gradient(pool):
            return lambda dy: jax.linear_transpose(pool, x)(dy)[0]

        yield Way("linear_transpose of reduce_window, NHWC", gradient(self.jax_mean))
        if self.tiled:
            tiles = gradient(lambda x: self.tiles(x).mean(axis=(2, 4)))
            yield Way("linear_transpose of reshape, mean, NHWC", tiles)

    def tensorflow(self):
        import tensorflow as tf

        options = self.tensorflow_options()

        def call(dy):
            return tf.raw_ops.AvgPoolGrad(orig_input_shape=self.x_shape, grad=dy, **options)

        yield Way("AvgPoolGrad, NHWC", call)


def overlap(pool: Pool) -> int:
    """How many windows read a pixel, at most."""
    return math.ceil(pool.k / pool.s) ** 2


def index_dtype(window: int) -> type:
    """What tilegrad keeps a maximum's place in a window of so many rows and columns in."""
    return np.uint8 if window * window <= 256 else np.int32


class GlobalAvgPool2d(Workload):
    """y = mean over an image: y (n, c), x (n, h w, c)."""

    name = "global_avg_pool2d"
    sizes = letters("nhwc")

    def prepare(self):
        self.shapes, self.length = {"y": (self.n, self.c)}, self.h * self.w
        self.flops = self.n * self.h * self.w * self.c

    def inputs(self, rng):
        return {"x": normal(rng, self.n, self.h * self.w, self.c)}

    def exact(self, x):
        return [x.mean(axis=1)]

    def magnitude(self, exact, x):
        return [np.sqrt(a / self.length) for a in self.exact(x * x)]  # 1 / length, squared

    def tilegrad(self, k):
        return lambda y, x: k.global_avg_pool2d_forward(y, x)

    def numpy(self, xp=np):
        yield Way("mean(out=)", lambda y, x: xp.mean(x, axis=1, out=y), out=True)

    def torch(self):
        import torch

        def call(y, x):
            torch.mean(x, 1, out=y)

        first = {"x": (0, 2, 1)}
        yield Way("mean(out=), channels last", call, out=True)
        yield Way("mean(out=), channels first", call, out=True, memory=first)

    def jax(self):
        yield Way("mean", lambda x: x.mean(axis=1))

    def tensorflow(self):
        import tensorflow as tf

        yield Way("reduce_mean", lambda x: tf.reduce_mean(x, axis=1))

    def onnxruntime(self):
        def call(graph, x):
            return graph.ReduceMean(x, graph.constant(np.array([1])), keepdims=0)

        yield Way("ReduceMean", call)


class GlobalAvgPool2dDx(Workload):
    """dx = dy / (h w) at every pixel: dx (n, h w, c), dy (n, c)."""

    name = "global_avg_pool2d_dx"
    sizes = GlobalAvgPool2d.sizes

    def prepare(self):
        self.shapes = {"dx": (self.n, self.h * self.w, self.c)}
        self.flops = self.n * self.c

    def inputs(self, rng):
        return {"dy": normal(rng, self.n, self.c)}

    def exact(self, dy):
        pixels = self.h * self.w
        return [np.repeat(dy[:, None] / pixels, pixels, axis=1)]

    def tilegrad(self, k):
        return lambda dx, dy: k.global_avg_pool2d_backward_dx(dx, dy)

    def numpy(self, xp=np):
        def call(dx, dy):
            xp.divide(dy[:, None], self.h * self.w, out=dx)

        yield Way("divide(out=)", call, out=True)

    def torch(self):
        def call(dx, dy):
            dx.copy_((dy / (self.h * self.w))[:, None])

        first = {"dx": (0, 2, 1)}
        yield Way("div, copy_, channels last", call, out=True)
        yield Way("div, copy_, channels first", call, out=True, memory=first)

    def jax(self):
        from jax import numpy as jnp

        shape, pixels = self.shapes["dx"], self.h * self.w
        yield Way("broadcast_to", lambda dy: jnp.broadcast_to(dy[:, None] / pixels, shape))

    def tensorflow(self):
        import tensorflow as tf

        shape, pixels = self.shapes["dx"], self.h * self.w
        yield Way("broadcast_to", lambda dy: tf.broadcast_to(dy[:, None] / pixels, shape))
