"""Convolution on every backend, against the float64 reference."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import (
    check,
    check_linear,
    directional_check,
    expected,
    f32,
    magnitudes,
    normal,
    output_length,
    run,
)
from hypothesis import assume, given

from tilegrad.backend import ACTIVATIONS

LINEAR = ACTIVATIONS["linear"]
FUSED = [name for name, kind in ACTIVATIONS.items() if kind <= ACTIVATIONS["elu"]]
ALPHA = f32(0.3)


def check_conv(
    k,
    rng,
    n=2,
    h=7,
    w=9,
    c=3,
    f=5,
    kh=3,
    kw=3,
    stride=(1, 1),
    pad=(0, 0, 0, 0),
    dilation=(1, 1),
    groups=1,
    bias=True,
    name="linear",
):
    """Forward and both gradients; pad is (top, bottom, left, right)."""
    oh = output_length(h, kh, stride[0], pad[0], pad[1], dilation[0])
    ow = output_length(w, kw, stride[1], pad[2], pad[3], dilation[1])
    assert oh > 0 and ow > 0
    sizes = (*stride, pad[0], pad[2], *dilation, groups)
    x, dy = normal(rng, n, h, w, c), normal(rng, n, oh, ow, f)
    weight = normal(rng, kh, kw, c // groups, f)
    b = normal(rng, f) if bias else None
    window = kh * kw * c // groups
    (terms,) = magnitudes("conv2d_forward", [dy.shape], x, weight, b, *sizes, LINEAR, 0.0)
    check(
        k,
        "conv2d_forward",
        [dy.shape],
        x,
        weight,
        b,
        *sizes,
        ACTIVATIONS[name],
        ALPHA,
        length=window,
        magnitude=terms + 4,
    )
    check_linear(
        k, "conv2d_backward_dx", [x.shape], dy, weight, *sizes, length=kh * kw * f // groups
    )
    check_linear(k, "conv2d_backward_dw", [weight.shape], x, dy, *sizes, length=n * oh * ow)


CASES = {
    "one pixel": {"n": 1, "h": 1, "w": 1, "c": 1, "f": 1, "kh": 1, "kw": 1},
    "1x1": {"kh": 1, "kw": 1, "c": 17, "f": 31},
    "1x1 strided": {"kh": 1, "kw": 1, "c": 17, "f": 31, "stride": (2, 3)},
    "first layer": {"n": 3, "h": 28, "w": 28, "c": 1, "f": 32},
    "first layer, colour": {"n": 2, "h": 15, "w": 17, "c": 3, "f": 33, "pad": (1, 1, 1, 1)},
    "two channels": {"c": 2, "f": 7, "kh": 5, "kw": 5, "pad": (2, 2, 2, 2)},
    "four channels": {"c": 4, "f": 16},
    "wide": {"n": 2, "h": 7, "w": 7, "c": 32, "f": 64, "pad": (1, 1, 1, 1)},
    "wide odd": {"n": 1, "h": 9, "w": 5, "c": 127, "f": 129},
    "deep": {"n": 1, "h": 5, "w": 5, "c": 129, "f": 31, "pad": (1, 1, 1, 1)},
    "long lines": {"n": 1, "h": 3, "w": 301, "c": 17, "pad": (1, 1, 1, 1)},
    "long lines, wide": {"n": 1, "h": 4, "w": 70, "c": 129, "f": 3, "pad": (1, 1, 1, 1)},
    "many small images": {"n": 7, "h": 8, "w": 8, "c": 16, "f": 49, "pad": (1, 1, 1, 1)},
    "dilated rows": {"h": 13, "w": 11, "c": 17, "dilation": (2, 1), "pad": (2, 2, 1, 1)},
    "tall window, wide": {"h": 9, "w": 9, "kh": 9, "kw": 2, "c": 33, "pad": (4, 4, 0, 1)},
    "whole image": {"h": 7, "w": 9, "kh": 7, "kw": 9, "c": 3, "f": 10},
    "tall window": {"kh": 5, "kw": 1, "pad": (2, 2, 0, 0)},
    "flat window": {"kh": 1, "kw": 5, "pad": (0, 0, 2, 2)},
    "even window": {"kh": 4, "kw": 2, "pad": (1, 2, 0, 1)},
    "stride 2": {"h": 15, "w": 13, "stride": (2, 2), "pad": (0, 1, 0, 1)},
    "stride skips pixels": {"h": 13, "w": 11, "kh": 2, "kw": 1, "stride": (3, 4)},
    "stride beyond the image": {"h": 5, "w": 5, "stride": (7, 9)},
    "dilation": {"h": 13, "w": 12, "dilation": (2, 3), "pad": (2, 2, 3, 3)},
    "dilation and stride": {
        "h": 17,
        "w": 19,
        "dilation": (3, 2),
        "stride": (2, 3),
        "pad": (1, 0, 2, 1),
    },
    "window in the padding": {"h": 2, "w": 2, "kh": 3, "kw": 3, "pad": (5, 4, 4, 5)},
    "two groups": {"c": 6, "f": 10, "groups": 2},
    "groups, one filter each": {"c": 12, "f": 3, "groups": 3},
    "depthwise": {"c": 17, "f": 17, "groups": 17, "pad": (1, 1, 1, 1)},
    "depthwise, strided": {"h": 11, "w": 11, "c": 33, "f": 33, "groups": 33, "stride": (2, 2)},
    "depthwise, multiplier 2": {"c": 7, "f": 14, "groups": 7},
    "everything": {
        "h": 17,
        "w": 15,
        "c": 8,
        "f": 12,
        "groups": 4,
        "stride": (2, 1),
        "dilation": (1, 2),
        "pad": (3, 1, 0, 2),
        "kw": 4,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_cases(backend, case, rng):
    check_conv(backend, rng, **CASES[case])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("c", [1, 3, 9])
def test_fused_activation(backend, name, bias, c, rng):
    check_conv(backend, rng, c=c, f=17, pad=(1, 1, 1, 1), bias=bias, name=name)


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    small = st.integers(1, 4)
    case = {
        "n": draw(st.integers(1, 3)),
        "h": draw(st.integers(1, 17)),
        "w": draw(st.integers(1, 17)),
        "c": groups * draw(st.sampled_from([1, 2, 3, 4, 5, 8, 17])),
        "f": groups * draw(st.sampled_from([1, 2, 5, 8, 16, 33])),
        "kh": draw(st.integers(1, 5)),
        "kw": draw(st.integers(1, 5)),
        "stride": (draw(small), draw(small)),
        "pad": tuple(draw(st.integers(0, 5)) for _ in range(4)),
        "dilation": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "groups": groups,
        "bias": draw(st.booleans()),
        "name": draw(st.sampled_from(FUSED)),
    }
    pad, reach_h = case["pad"], (case["kh"] - 1) * case["dilation"][0] + 1
    reach_w = (case["kw"] - 1) * case["dilation"][1] + 1
    assume(case["h"] + pad[0] + pad[1] >= reach_h and case["w"] + pad[2] + pad[3] >= reach_w)
    return case


@given(case=convolutions(), seed=st.integers(0, 2**32))
def test_random(backend, case, seed):
    check_conv(backend, np.random.default_rng(seed), **case)


def test_delta_filter_copies_the_image(backend, rng):
    """A window that is 1 in one place moves the image: orientation and padding, no rounding."""
    x = normal(rng, 1, 5, 6, 1)
    for i in range(3):
        for j in range(3):
            w = np.zeros((3, 3, 1, 1), np.float32)
            w[i, j] = 1
            sizes = (1, 1, 1, 1, 1, 1, 1)
            (y,) = run(backend, "conv2d_forward", [x.shape], x, w, None, *sizes, LINEAR, 0.0)
            moved = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, i : i + 5, j : j + 6]
            np.testing.assert_array_equal(y, moved)


def test_nan_is_kept(backend, rng):
    x, w = normal(rng, 1, 7, 7, 1), normal(rng, 3, 3, 1, 9)
    x[0, 3, 3] = np.nan
    for name in ("linear", "relu"):
        sizes = (1, 1, 1, 1, 1, 1, 1)
        (y,) = run(
            backend, "conv2d_forward", [(1, 7, 7, 9)], x, w, None, *sizes, ACTIVATIONS[name], 0.0
        )
        inside = np.zeros((1, 7, 7, 9), bool)
        inside[0, 2:5, 2:5] = True
        np.testing.assert_array_equal(np.isnan(y), inside)


def test_directional(backend, rng):
    sizes = (2, 1, 1, 0, 1, 2, 2)
    x, w, b = normal(rng, 2, 9, 8, 6), normal(rng, 3, 2, 3, 10), normal(rng, 10)
    dy = normal(rng, 2, 5, 6, 10)
    (dx,) = run(backend, "conv2d_backward_dx", [x.shape], dy, w, *sizes)
    (dw,) = run(backend, "conv2d_backward_dw", [w.shape], x, dy, *sizes)

    def loss(x, w):
        (y,) = expected("conv2d_forward", [dy.shape], x, w, b, *sizes, LINEAR, 0.0)
        return float((y * dy).sum())

    directional_check(lambda v: loss(v, w), x, dx, rng, x.size)
    directional_check(lambda v: loss(x, v), w, dw, rng, x.size)
