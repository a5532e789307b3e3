"""Convolution, relu and max pooling in one op against PyTorch's three."""

import hypothesis.strategies as st
import numpy as np
from checks import normal
from hypothesis import assume, given
from torch_checks import channels_first, channels_last, compare, same_padding, torch

from tilegrad import ops

F = torch.nn.functional


@given(
    n=st.integers(1, 3),
    image=st.tuples(st.integers(2, 14), st.integers(2, 14)),
    c=st.sampled_from([1, 2, 3, 17]),
    f=st.sampled_from([1, 7, 32, 33]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.sampled_from(["valid", "same"]),
    pool=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    activation=st.sampled_from([None, "relu", "tanh"]),
    seed=st.integers(0, 2**32),
)
def test_conv2d_max_pool2d(backend, n, image, c, f, kernel, padding, pool, activation, seed):
    rng = np.random.default_rng(seed)
    pads = ((0, 0), (0, 0))
    if padding == "same":
        pads = tuple(same_padding(s, k, 1, 1) for s, k in zip(image, kernel, strict=True))
    sizes = [s + sum(p) - k + 1 for s, p, k in zip(image, pads, kernel, strict=True)]
    assume(all(s >= k for s, k in zip(sizes, pool, strict=True)))
    x, w, b = normal(rng, n, *image, c), normal(rng, *kernel, c, f), normal(rng, f)

    def theirs(x, w, b):
        y = F.conv2d(F.pad(channels_first(x), (*pads[1], *pads[0])), w.permute(3, 2, 0, 1), b)
        y = {None: lambda t: t, "relu": F.relu, "tanh": torch.tanh}[activation](y)
        return channels_last(F.max_pool2d(y, pool))

    compare(
        lambda x, w, b: ops.conv2d_max_pool2d(x, w, b, 1, padding, 1, activation, pool),
        theirs,
        x,
        w,
        b,
        length=max(kernel[0] * kernel[1] * max(c, f), n * sizes[0] * sizes[1]),
    )
