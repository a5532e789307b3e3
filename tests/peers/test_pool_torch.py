"""Pooling against PyTorch."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import normal
from hypothesis import assume, given
from torch_checks import channels_first, channels_last, compare, same_padding, torch

from tilegrad import ops

F = torch.nn.functional


def max_pool(x, window, strides, pads):
    x = F.pad(channels_first(x), pads, value=-torch.inf)
    return channels_last(F.max_pool2d(x, window, strides))


def avg_pool(x, window, strides, pads):
    """The mean of what is inside the image: the sum over the padded image by the count."""
    x = channels_first(x)
    count = F.avg_pool2d(F.pad(torch.ones_like(x), pads), window, strides)
    return channels_last(F.avg_pool2d(F.pad(x, pads), window, strides) / count)


@pytest.mark.parametrize("kind", ["max", "avg"])
@given(
    n=st.integers(1, 3),
    image=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    c=st.sampled_from([1, 2, 3, 7, 8, 16, 17, 33]),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.one_of(
        st.none(), st.integers(1, 4), st.tuples(st.integers(1, 4), st.integers(1, 4))
    ),
    padding=st.sampled_from(["valid", "same", "explicit"]),
    seed=st.integers(0, 2**32),
)
def test_pool(backend, kind, n, image, c, window, strides, padding, seed):
    """Overlapping, separate and clipped windows; "same" puts the odd row after, as Keras does."""
    rng = np.random.default_rng(seed)
    x = normal(rng, n, *image, c)
    steps = window if strides is None else strides if isinstance(strides, tuple) else (strides,) * 2
    if padding == "valid":
        pads = ((0, 0), (0, 0))
    elif padding == "same":
        axes = zip(image, window, steps, strict=True)
        pads = tuple(same_padding(*axis) for axis in axes)
    else:
        pads = tuple((int(rng.integers(k)), int(rng.integers(k))) for k in window)
    assume(all(s + sum(p) >= k for s, p, k in zip(image, pads, window, strict=True)))
    flat = (*pads[1], *pads[0])
    given_padding = pads if padding == "explicit" else padding
    ours = {"max": ops.max_pool2d, "avg": ops.avg_pool2d}[kind]
    theirs = {"max": max_pool, "avg": avg_pool}[kind]
    compare(
        lambda x: ours(x, window, strides, given_padding),
        lambda x: theirs(x, window, steps, flat),
        x,
        length=window[0] * window[1],
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 7, 5, 17), (2, 13, 11, 129)], ids=str)
def test_global_average(backend, shape, rng):
    compare(ops.global_avg_pool2d, lambda x: x.mean(dim=(1, 2)), normal(rng, *shape), length=150)
