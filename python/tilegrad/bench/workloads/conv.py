"""Convolutions of n images (h, w, c) with f filters of k x k at stride s: forward, dx and dw.

`flops` counts no products with padding. "same" padding is Keras's: an odd zero stands behind the
image; PyTorch, which knows none but even padding, then pads first.
"""

import numpy as np

from ... import reference
from ..workload import Way, Workload, letters
from .common import LINEAR, RELU, SEEN, Axis, blank, layouts, normal, onednn, root_of_squares


class Convolution(Workload):
    """What forward, dx and dw share: x (n, h, w, c), w (k, k, c / g, f), y (n, oh, ow, f)."""

    sizes = letters("nhwcfks")
    words = ("valid", "same")
    g, d = 1, 1  # groups, dilation

    def prepare(self):
        self.lay_out()
        self.describe()

    def describe(self):
        """Set `shapes` and `length`."""
        raise NotImplementedError

    def lay_out(self):
        """Set what follows from the sizes alone."""
        if self.c % self.g or self.f % self.g:
            raise ValueError(f"expected c and f that {self.g} groups divide")
        self.rows = Axis(self.h, self.k, self.s, self.word, self.d)
        self.cols = Axis(self.w, self.k, self.s, self.word, self.d)
        self.x_shape = (self.n, self.h, self.w, self.c)
        self.w_shape = (self.k, self.k, self.c // self.g, self.f)
        self.y_shape = (self.n, self.rows.windows, self.cols.windows, self.f)
        self.flops = 2 * self.n * self.rows.taps() * self.cols.taps() * self.w_shape[2] * self.f
        # what tilegrad's kernels take, and what PyTorch's do after the padding of `pad`
        self.geometry = (self.s, self.s, self.rows.before, self.cols.before, self.d, self.d, self.g)
        self.even = self.rows.before == self.rows.after and self.cols.before == self.cols.after
        padding = [self.rows.before, self.cols.before] if self.even else [0, 0]
        self.options = ([self.s] * 2, padding, [self.d] * 2, False, [0, 0], self.g)

    def magnitude(self, exact, **inputs):
        return root_of_squares(self, **inputs)

    def patches(self, x):
        """NumPy's view (n, oh, ow, c, k, k) of the pixels behind each output, for one group."""
        rows, cols = self.rows, self.cols
        if self.word == "same":
            x = np.pad(x, [(0, 0), (rows.before, rows.after), (cols.before, cols.after), (0, 0)])
        reach = (self.k - 1) * self.d + 1
        windows = np.lib.stride_tricks.sliding_window_view(x, (reach, reach), axis=(1, 2))
        return windows[:, :: self.s, :: self.s, :, :: self.d, :: self.d]

    def pad(self, x):
        """PyTorch's x (n, c, h, w), padded unless the convolution does so."""
        if self.even:
            return x
        import torch

        rows, cols = self.rows, self.cols
        return torch.nn.functional.pad(x, (cols.before, cols.after, rows.before, rows.after))

    def crop(self, dx):
        """The gradient of `pad`."""
        if self.even:
            return dx
        top, left = self.rows.before, self.cols.before
        return dx[:, :, top : top + self.h, left : left + self.w]

    def jax_convolution(self, x, w):
        """JAX's convolution of x with w."""
        from jax import lax

        return lax.conv_general_dilated(
            x,
            w,
            (self.s, self.s),
            [(axis.before, axis.after) for axis in (self.rows, self.cols)],
            rhs_dilation=(self.d, self.d),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.g,
        )

    def tensorflow_options(self):
        """What TensorFlow's convolutions and their gradients take; they know this padding."""
        return {
            "strides": [1, self.s, self.s, 1],
            "padding": self.word.upper(),
            "dilations": [1, self.d, self.d, 1],
        }

    def onnx_convolution(self, graph, x, w, b):
        """A node for the convolution of x (n, c, h, w) with w (f, c / g, k, k)."""
        rows, cols = self.rows, self.cols
        return graph.Conv(
            x,
            w,
            b,
            strides=[self.s] * 2,
            pads=[rows.before, cols.before, rows.after, cols.after],
            dilations=[self.d] * 2,
            group=self.g,
        )


class Conv2d(Convolution):
    """y = conv(x, w) + b: b (f,)."""

    name = "conv2d"
    activation = LINEAR

    def describe(self):
        self.shapes, self.length = {"y": self.y_shape}, self.k * self.k * self.w_shape[2]

    def inputs(self, rng):
        return {
            "x": normal(rng, *self.x_shape),
            "w": normal(rng, *self.w_shape),
            "b": normal(rng, self.f),
        }

    def exact(self, x, w, b):
        y = np.empty(self.y_shape)
        reference.conv2d_forward(y, x, w, b, *self.geometry, self.activation, 0.0)
        return [y]

    def tilegrad(self, k):
        rest = (*self.geometry, self.activation, 0.0)
        return lambda y, x, w, b: k.conv2d_forward(y, x, w, b, *rest)

    def numpy(self):
        def call(x, w, b):
            y = np.tensordot(self.patches(x), w, axes=([4, 5, 3], [0, 1, 2]))
            y += b
            return np.maximum(y, 0, out=y) if self.activation == RELU else y

        if self.g == 1:
            yield Way("sliding_window_view, tensordot", call)

    def torch(self):
        import torch

        convolution, pad = torch.ops.aten.convolution, self.pad

        def call(x, w, b):
            return convolution(pad(x), w, b, *self.options)

        for layout, memory, _ in layouts():
            yield Way(f"convolution, {layout}", call, memory=memory, seen=SEEN)

    def jax(self):
        import jax

        def call(x, w, b):
            y = self.jax_convolution(x, w) + b
            return jax.nn.relu(y) if self.activation == RELU else y

        yield Way("conv_general_dilated, NHWC", call)

    def tensorflow(self):
        import tensorflow as tf

        options = self.tensorflow_options()

        def call(x, w, b):
            y = tf.nn.bias_add(tf.nn.conv2d(x, w, **options), b)
            return tf.nn.relu(y) if self.activation == RELU else y

        if self.g == 1:  # on the CPU it knows no groups
            yield Way("conv2d, bias_add, NHWC", call)

    def onnxruntime(self):
        def call(graph, x, w, b):
            y = self.onnx_convolution(graph, x, w, b)
            return graph.Relu(y) if self.activation == RELU else y

        yield Way("Conv, NCHW", call, memory=SEEN, seen=SEEN)


class Conv2dRelu(Conv2d):
    """y = relu(conv(x, w) + b)."""

    name = "conv2d_relu"
    activation = RELU

    def torch(self):
        import torch

        convolution, pad = torch.ops.aten.convolution, self.pad

        def call(x, w, b):
            return convolution(pad(x), w, b, *self.options).relu_()

        for layout, memory, _ in layouts():
            yield Way(f"convolution, relu_, {layout}", call, memory=memory, seen=SEEN)

    def torch_onednn(self):
        fused = fused_relu(self.options)

        def call(x, w, b):
            return fused(self.pad(x), w, b)

        for layout, memory, _ in layouts():
            yield Way(f"convolution with relu, {layout}", call, memory=memory, seen=SEEN)

    def torch_compiled(self):
        import torch

        def call(x, w, b):
            return torch.relu(torch.ops.aten.convolution(self.pad(x), w, b, *self.options))

        for layout, memory, _ in layouts():
            yield Way(f"relu(convolution), {layout}", call, memory=memory, seen=SEEN)


def fused_relu(options):
    """relu(conv(x, w) + b) in one call of oneDNN's."""
    stride, padding, dilation, _, _, groups = options
    call = onednn("_convolution_pointwise")
    rest = (padding, stride, dilation, groups, "relu", [], "")
    return lambda x, w, b: call(x, w, b, *rest)


class Conv2dDx(Convolution):
    """dx of conv2d, from dy and w."""

    name = "conv2d_dx"

    def describe(self):
        self.shapes, self.length = {"dx": self.x_shape}, self.k * self.k * self.f // self.g

    def inputs(self, rng):
        return {"dy": normal(rng, *self.y_shape), "w": normal(rng, *self.w_shape)}

    def exact(self, dy, w):
        dx = np.empty(self.x_shape)
        reference.conv2d_backward_dx(dx, dy, w, *self.geometry)
        return [dx]

    def tilegrad(self, k):
        return lambda dx, dy, w: k.conv2d_backward_dx(dx, dy, w, *self.geometry)

    def torch(self):
        import torch

        backward, only_dx = torch.ops.aten.convolution_backward, [True, False, False]

        n, rows, cols, c = self.x_shape

        def call(dy, w, x):
            return self.crop(backward(dy, x, w, None, *self.options, only_dx)[0])

        for name, memory, layout in layouts():

            def image(dy, w, layout=layout):  # of x, PyTorch reads the shape and the layout
                return (self.pad(blank(dy, (n, c, rows, cols), layout)),)

            setting = f"convolution_backward, {name}"
            yield Way(setting, call, memory=memory, seen=SEEN, derive=image)

    def jax(self):
        import jax

        x = jax.ShapeDtypeStruct(self.x_shape, np.float32)

        def call(dy, w):
            return jax.linear_transpose(lambda x: self.jax_convolution(x, w), x)(dy)[0]

        yield Way("linear_transpose of conv_general_dilated, NHWC", call)

    def tensorflow(self):
        import tensorflow as tf

        options = self.tensorflow_options()

        def call(dy, w):
            return tf.raw_ops.Conv2DBackpropInput(
                input_sizes=self.x_shape, filter=w, out_backprop=dy, **options
            )

        if self.g == 1:
            yield Way("Conv2DBackpropInput, NHWC", call)


class Conv2dDw(Convolution):
    """dw of conv2d, from x and dy."""

    name = "conv2d_dw"

    def describe(self):
        n, oh, ow, _ = self.y_shape
        self.shapes, self.length = {"dw": self.w_shape}, n * oh * ow

    def inputs(self, rng):
        return {"x": normal(rng, *self.x_shape), "dy": normal(rng, *self.y_shape)}

    def exact(self, x, dy):
        dw = np.empty(self.w_shape)
        reference.conv2d_backward_dw(dw, x, dy, *self.geometry)
        return [dw]

    def tilegrad(self, k):
        return lambda dw, x, dy: k.conv2d_backward_dw(dw, x, dy, *self.geometry)

    def numpy(self):
        def call(x, dy):
            dw = np.tensordot(self.patches(x), dy, axes=([0, 1, 2], [0, 1, 2]))
            return dw.transpose(1, 2, 0, 3)

        if self.g == 1:
            yield Way("sliding_window_view, tensordot", call)

    def torch(self):
        import torch

        backward, only_dw = torch.ops.aten.convolution_backward, [False, True, False]
        k, _, c, f = self.w_shape

        def call(x, dy, w):
            return backward(dy, self.pad(x), w, None, *self.options, only_dw)[1]

        for name, memory, layout in layouts():

            def weights(x, dy, layout=layout):  # of w, PyTorch reads the shape and the layout
                return (blank(dy, (f, c, k, k), layout),)

            setting = f"convolution_backward, {name}"
            yield Way(setting, call, memory=memory, seen=SEEN, derive=weights)

    def jax(self):
        import jax

        w = jax.ShapeDtypeStruct(self.w_shape, np.float32)

        def call(x, dy):
            return jax.linear_transpose(lambda w: self.jax_convolution(x, w), w)(dy)[0]

        yield Way("linear_transpose of conv_general_dilated, NHWC", call)

    def tensorflow(self):
        import tensorflow as tf

        options = self.tensorflow_options()

        def call(x, dy):
            return tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=self.w_shape, out_backprop=dy, **options
            )

        if self.g == 1:
            yield Way("Conv2DBackpropFilter, NHWC", call)


class Grouped(Conv2d):
    """conv2d in g groups, with d - 1 pixels between the taps."""

    name = "grouped_conv2d"
    sizes = letters("nhwcfksg", d=1)


class GroupedDx(Conv2dDx):
    """Its dx."""

    name = "grouped_conv2d_dx"
    sizes = Grouped.sizes


class GroupedDw(Conv2dDw):
    """Its dw."""

    name = "grouped_conv2d_dw"
    sizes = Grouped.sizes
