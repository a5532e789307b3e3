"""Convolution against PyTorch."""

import hypothesis.strategies as st
import numpy as np
from checks import normal
from hypothesis import assume, given
from torch_checks import channels_first, channels_last, compare, same_padding, torch

from tilegrad import ops

F = torch.nn.functional
ACTIVATIONS = {
    None: lambda y: y,
    "relu": F.relu,
    "leaky_relu": lambda y: F.leaky_relu(y, 0.2),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
}


@st.composite
def geometry(draw):
    """Sizes and how the padding is given: by name, one number, one per axis, or all four."""
    small = st.integers(1, 3)
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    return {
        "n": draw(small),
        "image": (draw(st.integers(1, 14)), draw(st.integers(1, 14))),
        "c": groups * draw(st.sampled_from([1, 2, 3, 5, 16])),
        "f": groups * draw(st.sampled_from([1, 2, 3, 8, 17, 32])),
        "window": (draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        "strides": draw(st.one_of(small, st.tuples(small, small))),
        "dilation": draw(st.one_of(small, st.tuples(small, small))),
        "groups": groups,
        "padding": draw(
            st.one_of(
                st.sampled_from(["valid", "same"]),
                st.integers(0, 3),
                st.tuples(st.integers(0, 3), st.integers(0, 3)),
                st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2),
            )
        ),
        "bias": draw(st.booleans()),
        "activation": draw(st.sampled_from(list(ACTIVATIONS))),
        "seed": draw(st.integers(0, 2**32)),
    }


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def explicit(padding, image, window, strides, dilation):
    """((top, bottom), (left, right))"""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        axes = zip(image, window, strides, dilation, strict=True)
        return tuple(same_padding(*axis) for axis in axes)
    return tuple(pair(p) for p in pair(padding))


@given(g=geometry())
def test_conv2d(backend, g):
    rng = np.random.default_rng(g["seed"])
    strides, dilation, window = pair(g["strides"]), pair(g["dilation"]), g["window"]
    (top, bottom), (left, right) = pads = explicit(
        g["padding"], g["image"], window, strides, dilation
    )
    for size, (before, after), k, d in zip(g["image"], pads, window, dilation, strict=True):
        assume(size + before + after >= (k - 1) * d + 1)
    arrays = [
        normal(rng, g["n"], *g["image"], g["c"]),
        normal(rng, *window, g["c"] // g["groups"], g["f"]),
        *([normal(rng, g["f"])] if g["bias"] else []),
    ]

    def ours(x, w, b=None):
        return ops.conv2d(
            x,
            w,
            b,
            strides=g["strides"],
            padding=g["padding"],
            dilation=g["dilation"],
            groups=g["groups"],
            activation=g["activation"],
        )

    def theirs(x, w, b=None):
        x = F.pad(channels_first(x), (left, right, top, bottom))
        w = w.permute(3, 2, 0, 1).contiguous()
        y = F.conv2d(x, w, b, strides, 0, dilation, g["groups"])
        return ACTIVATIONS[g["activation"]](channels_last(y))

    area = max(window[0] * window[1], g["n"] * g["image"][0] * g["image"][1])
    compare(ours, theirs, *arrays, length=area * max(g["c"], g["f"]), what=str(g))


def test_the_layers_of_real_networks(backend, rng):
    """First layer, wide layer, 1x1, depthwise, strided: the shapes with kernels of their own."""
    for c, f, k, stride, groups in (
        (1, 32, 3, 1, 1),
        (3, 64, 7, 2, 1),
        (32, 64, 3, 1, 1),
        (64, 128, 1, 1, 1),
        (64, 64, 3, 1, 64),
        (64, 128, 3, 2, 1),
        (32, 32, 3, 1, 4),
    ):
        x, w, b = normal(rng, 2, 15, 17, c), normal(rng, k, k, c // groups, f), normal(rng, f)
        pad = k // 2

        def theirs(x, w, b, stride=stride, pad=pad, groups=groups):
            w = w.permute(3, 2, 0, 1).contiguous()
            y = F.conv2d(channels_first(x), w, b, stride, pad, 1, groups)
            return channels_last(y)

        def ours(x, w, b, stride=stride, pad=pad, groups=groups):
            return ops.conv2d(x, w, b, stride, pad, groups=groups)

        compare(ours, theirs, x, w, b, length=k * k * max(c, f) + 2 * 15 * 17)
