"""What the workloads share: random inputs, and how images and windows lie."""

import numpy as np

from ...backend import ACTIVATIONS

RELU = ACTIVATIONS["relu"]
LINEAR = ACTIVATIONS["linear"]
FIRST = (0, 3, 1, 2)  # an image (n, h, w, c), channels first
IMAGES = dict.fromkeys(("x", "y", "dx", "dy", "z"), FIRST)
SEEN = IMAGES | dict.fromkeys(("w", "dw"), (3, 2, 0, 1))  # as PyTorch sees arrays: (f, c, kh, kw)


def layouts():
    """PyTorch's two layouts: what each is called, how arrays lie in memory, its memory format."""
    import torch

    last = dict.fromkeys(("w", "dw"), (3, 0, 1, 2))  # (f, kh, kw, c)
    yield "channels last", last, torch.channels_last
    yield "channels first", SEEN, torch.contiguous_format


def blank(like, shape, layout):
    """A tensor of zeros where `like` is: a shape and a layout for a call that reads no more."""
    import torch

    return torch.empty(shape, device=like.device, memory_format=layout).zero_()


def onednn(name):
    """oneDNN's operator in PyTorch."""
    import torch

    return getattr(torch.ops.mkldnn, name)


def normal(rng, *shape):
    """Standard normal float32 numbers."""
    return rng.standard_normal(shape, dtype=np.float32)


def whole(rng, *shape):
    """Small whole numbers, with many ties."""
    return np.round(2 * normal(rng, *shape))


def root_of_squares(workload, **inputs):
    """`Workload.magnitude` of sums of products of the inputs."""
    squares = {name: a * a if a.dtype.kind == "f" else a for name, a in inputs.items()}
    return [np.sqrt(a, dtype=np.float64) for a in workload.exact(**squares)]


def distinct(rng, window, *shape):
    """Images (n, h, w, c) from -4 to 4 with no two equal numbers of a channel in any window.

    So it is plain where each window's maximum is, whoever looks for it.
    """
    _, h, w, _ = shape
    tags = np.arange(h)[:, None, None] % window * window + np.arange(w)[:, None] % window
    number = rng.integers(0, 2**24 // window**2, shape, dtype=np.int32) * window**2 + tags
    return ((number - 2**23) * 2.0**-21).astype(np.float32)


def positive(rng, *shape):
    """Numbers from 0.5 to 1.5: to divide by, to take logarithms and roots of."""
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


class Axis:
    """One axis of an image under windows.

    Args:
        size: of the image.
        window, stride, dilation: of the windows.
        padding: "valid", or "same": ceil(size / stride) windows, the odd zero behind the image.

    Attributes:
        windows: how many there are.
        before, after: the zeros around the image that they read.
    """

    def __init__(self, size: int, window: int, stride: int, padding: str, dilation: int = 1):
        self.size, self.window, self.stride, self.dilation = size, window, stride, dilation
        reach = (window - 1) * dilation + 1
        if padding == "same":
            self.windows = -(-size // stride)
            zeros = max((self.windows - 1) * stride + reach - size, 0)
        else:
            self.windows, zeros = (size - reach) // stride + 1, 0
        if self.windows < 1:
            raise ValueError(f"expected a window of at most {size} pixels, got {reach}")
        self.before, self.after = zeros // 2, zeros - zeros // 2

    def counts(self) -> np.ndarray:
        """How many pixels of the image each window reads, padding not counted."""
        starts = np.arange(self.windows) * self.stride
        pixels = starts[:, None] + np.arange(self.window) * self.dilation - self.before
        return np.count_nonzero((pixels >= 0) & (pixels < self.size), axis=1)

    def taps(self, windows: int | None = None) -> int:
        """How many pixels of the image all (or the first) windows read, padding not counted."""
        return int(self.counts()[:windows].sum())


def jax_gradient(function, dy, *arguments, wanted: int = 0):
    """JAX's gradient of function(*arguments) for one argument; jitted, it computes no other."""
    import jax

    return jax.vjp(function, *arguments)[1](dy)[wanted]


def tensorflow_gradient(function, dy, *arguments, wanted: int = 0):
    """TensorFlow's gradient of function(*arguments) for one argument."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(arguments[wanted])
        y = function(*arguments)
    return tape.gradient(y, arguments[wanted], output_gradients=dy)
