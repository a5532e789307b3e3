"""Pooling on every backend, against the float64 reference."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import check, directional_check, expected, magnitudes, normal, output_length, run
from hypothesis import assume, given


def check_pool(k, rng, n=2, h=9, w=8, c=5, kh=2, kw=2, stride=(2, 2), pad=(0, 0, 0, 0), ties=False):
    """Both poolings, forward and backward; pad is (top, bottom, left, right)."""
    oh = output_length(h, kh, stride[0], pad[0], pad[1])
    ow = output_length(w, kw, stride[1], pad[2], pad[3])
    assert oh > 0 and ow > 0
    sizes = (kh, kw, *stride, pad[0], pad[2])
    x, dy = normal(rng, n, h, w, c), normal(rng, n, oh, ow, c)
    if ties:
        x = np.round(x)
    kind = np.uint8 if kh * kw <= 256 else np.int32
    overlap = -(-kh // stride[0]) * -(-kw // stride[1])
    _, index = check(k, "max_pool2d_forward", [dy.shape, (dy.shape, kind)], x, *sizes, kind="exact")
    (terms,) = magnitudes("max_pool2d_backward_dx", [x.shape], dy, index, *sizes)
    check(
        k,
        "max_pool2d_backward_dx",
        [x.shape],
        dy,
        index,
        *sizes,
        length=overlap,
        magnitude=terms,
    )
    for name, shape, given_ in (
        ("avg_pool2d_forward", dy.shape, x),
        ("avg_pool2d_backward_dx", x.shape, dy),
    ):
        (terms,) = magnitudes(name, [shape], given_, *sizes)
        check(k, name, [shape], given_, *sizes, length=kh * kw, magnitude=terms)


CASES = {
    "2x2": {},
    "2x2, many channels": {"c": 129},
    "2x2, 32 channels": {"n": 3, "h": 26, "w": 26, "c": 32},
    "one pixel": {"n": 1, "h": 1, "w": 1, "c": 1, "kh": 1, "kw": 1, "stride": (1, 1)},
    "overlapping": {"kh": 3, "kw": 3},
    "overlapping everywhere": {"kh": 3, "kw": 4, "stride": (1, 1)},
    "gaps": {"kh": 2, "kw": 1, "stride": (3, 4)},
    "same padding": {"kh": 3, "kw": 3, "stride": (2, 2), "pad": (1, 1, 0, 1)},
    "clipped on all sides": {
        "h": 5,
        "w": 5,
        "kh": 4,
        "kw": 4,
        "stride": (3, 3),
        "pad": (3, 3, 3, 3),
    },
    "whole image": {"kh": 9, "kw": 8, "stride": (9, 8)},
    "window of 256": {"h": 17, "w": 17, "c": 3, "kh": 16, "kw": 16, "stride": (1, 1)},
    "window of 257": {"h": 3, "w": 259, "c": 3, "kh": 1, "kw": 257, "stride": (1, 1)},
    "ties": {"kh": 3, "kw": 3, "stride": (1, 1), "ties": True},
}


@pytest.mark.parametrize("case", CASES)
def test_cases(backend, case, rng):
    check_pool(backend, rng, **CASES[case])


@given(
    n=st.integers(1, 3),
    h=st.integers(1, 15),
    w=st.integers(1, 15),
    c=st.sampled_from([1, 2, 3, 7, 8, 16, 17, 33]),
    kh=st.integers(1, 5),
    kw=st.integers(1, 5),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    ties=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_random(backend, n, h, w, c, kh, kw, stride, pads, ties, seed):
    top, bottom, left, right = pads
    pad = (min(top, kh - 1), min(bottom, kh - 1), min(left, kw - 1), min(right, kw - 1))
    assume(h + pad[0] + pad[1] >= kh and w + pad[2] + pad[3] >= kw)
    check_pool(backend, np.random.default_rng(seed), n, h, w, c, kh, kw, stride, pad, ties)


def test_max_of_infinities_and_nan(backend):
    """-inf is still a maximum, the padding never is, and the first NaN wins over everything."""
    inf, nan = np.inf, np.nan
    x = np.float32([[-inf, -inf, inf, nan], [-inf, -inf, nan, inf], [0.0, -0.0, 1.0, 1.0]])
    x = np.repeat(x.reshape(1, 3, 4, 1), 17, axis=3)
    for sizes, shape in (
        ((2, 2, 1, 2, 0, 0), (1, 2, 2, 17)),
        ((3, 3, 1, 1, 2, 2), (1, 5, 6, 17)),
    ):
        check(backend, "max_pool2d_forward", [shape, (shape, np.uint8)], x, *sizes, kind="exact")


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
def test_an_index_outside_the_window_touches_nothing_else(backend, kind, rng):
    """Backward trusts no index: a wrong one must not write outside dx (`run` checks its guards)."""
    window = (16, 17) if kind == np.int32 else (2, 2)
    shape = (1, *window, 3)
    dy = normal(rng, 1, 1, 1, 3)
    wrong = [-(2**31), -1, 2**31 - 1] if kind == np.int32 else [4, 90, 255]
    index = np.array(wrong, kind).reshape(dy.shape)
    run(backend, "max_pool2d_backward_dx", [shape], dy, index, *window, *window, 0, 0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 49, 17), (2, 127, 129), (5, 7, 512)], ids=str)
def test_global_average(backend, shape, rng):
    n, rows, c = shape
    x, dy = normal(rng, *shape), normal(rng, n, c)
    (terms,) = magnitudes("global_avg_pool2d_forward", [dy.shape], x)
    check(backend, "global_avg_pool2d_forward", [dy.shape], x, length=rows, magnitude=terms)
    check(backend, "global_avg_pool2d_backward_dx", [shape], dy)


def test_directional(backend, rng):
    x, dy = normal(rng, 2, 7, 8, 3), normal(rng, 2, 4, 4, 3)
    sizes = (3, 3, 2, 2, 1, 0)
    _, index = run(backend, "max_pool2d_forward", [dy.shape, (dy.shape, np.uint8)], x, *sizes)
    (dx,) = run(backend, "max_pool2d_backward_dx", [x.shape], dy, index, *sizes)

    def max_loss(x):
        y, _ = expected("max_pool2d_forward", [dy.shape, (dy.shape, np.uint8)], x, *sizes)
        return float((y * dy).sum())

    directional_check(max_loss, x, dx, rng, x.size)
    (dx,) = run(backend, "avg_pool2d_backward_dx", [x.shape], dy, *sizes)

    def mean_loss(x):
        (y,) = expected("avg_pool2d_forward", [dy.shape], x, *sizes)
        return float((y * dy).sum())

    directional_check(mean_loss, x, dx, rng, x.size)
