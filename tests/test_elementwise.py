"""Arithmetic, reductions, copies and dropout on every backend, against the float64 reference."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import (
    ODD,
    check,
    check_linear,
    directional_check,
    expected,
    f32,
    guarded,
    normal,
    poison,
    run,
)
from hypothesis import given

from tilegrad.backend import BINARY, UNARY
from tilegrad.reference.elementwise import philox

INPUT_SHAPES = [  # y, a, b
    ((1,), (1,), (1,)),
    ((127,), (127,), (127,)),
    ((129,), (129,), (1,)),
    ((7, 31), (7, 31), (31,)),
    ((7, 31), (7, 1), (7, 31)),
    ((7, 31), (1, 31), (7, 1)),
    ((3, 7, 17), (3, 1, 17), (1, 7, 1)),
    ((3, 7, 17), (7, 1), (3, 1, 17)),
    ((2, 3, 5, 7), (3, 1, 7), (2, 1, 5, 1)),
    ((40_001,), (40_001,), (40_001,)),
    ((129, 333), (129, 333), (333,)),
    ((3, 611), (3, 1), (611,)),
    ((611,), (611,), (1,)),
    ((17, 3, 1, 2, 1, 2, 1, 2), (17, 1, 1, 2, 1, 1, 1, 2), (1, 3, 1, 1, 1, 2, 1, 1)),
    ((5, 4), (), (5, 4)),
]


def operands(rng, name, a_shape, b_shape):
    a, b = normal(rng, *a_shape), normal(rng, *b_shape)
    if name == "power":
        a = np.abs(a)
    if name in ("divide", "power"):
        b = b + np.sign(b)  # away from 0
    if name in ("maximum", "minimum"):
        a, b = np.round(a), np.round(b)  # many ties
    return np.asarray(a, np.float32), np.asarray(b, np.float32)


def check_binary(k, rng, name, shapes):
    y_shape, a_shape, b_shape = shapes
    a, b = operands(rng, name, a_shape, b_shape)
    dy = normal(rng, *y_shape)
    accuracy = {"maximum": "exact", "minimum": "exact", "power": "function"}.get(name, "sum")
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    # a^b rounds log a first, an error that grows with |b log a|; maximum's slopes are 0, 1/2 and 1
    power = name == "power"
    growth = 1 + np.abs(wide_b * np.log(np.maximum(wide_a, 1e-30))) if power else 1
    (y,) = expected("binary_forward", [y_shape], a, b, BINARY[name])
    check(k, "binary_forward", [y_shape], a, b, BINARY[name], magnitude=y * growth, kind=accuracy)
    for kernel in ("binary_backward_da", "binary_backward_db"):
        (d,) = expected(kernel, [y_shape], dy, a, b, BINARY[name])
        check(k, kernel, [y_shape], dy, a, b, BINARY[name], magnitude=d * growth, kind=accuracy)


@pytest.mark.parametrize("shapes", INPUT_SHAPES, ids=lambda s: str(s[0]))
@pytest.mark.parametrize("name", BINARY)
def test_binary(backend, name, shapes, rng):
    check_binary(backend, rng, name, shapes)


@st.composite
def broadcasts(draw):
    y = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=6)))

    def operand():
        ndim = draw(st.integers(0, len(y)))
        keep = draw(st.lists(st.booleans(), min_size=ndim, max_size=ndim))
        return tuple(size if k else 1 for size, k in zip(y[len(y) - ndim :], keep, strict=True))

    a, b = operand(), operand()
    return np.broadcast_shapes(a, b) or (1,), a, b


@given(name=st.sampled_from(list(BINARY)), shapes=broadcasts(), seed=st.integers(0, 2**32))
def test_random_broadcasts(backend, name, shapes, seed):
    check_binary(backend, np.random.default_rng(seed), name, shapes)


def test_binary_may_write_over_its_operand(backend, rng):
    """Accumulation in place: y may be a or b where the shapes agree."""
    a, b = normal(rng, 129), normal(rng, 129)
    right = a + b
    y = guarded(a)
    backend.binary_forward(y, y, b, BINARY["add"])
    np.testing.assert_array_equal(y, right)
    y = guarded(b)
    backend.binary_forward(y, a, y, BINARY["add"])
    np.testing.assert_array_equal(y, right)


def test_power_edges(backend):
    """Where a or b is 0, and where a is negative with a whole exponent."""
    a = np.float32([0, 0, 0, 2, -2, -2, -3, 1, 0, 5, -1.5])
    b = np.float32([0, 1, 2, 0, 0, 2, 3, -1, 0.5, -2, 1])
    dy = np.full_like(a, 3)
    check(backend, "binary_forward", [a.shape], a, b, BINARY["power"], kind="function")
    args = (dy, a, b, BINARY["power"])
    check(backend, "binary_backward_da", [a.shape], *args, kind="function")
    check(backend, "binary_backward_db", [a.shape], *args, kind="function")


def test_division_follows_ieee(backend):
    a, b = np.float32([1, -1, 0, np.inf, 1]), np.float32([0, 0, 0, np.inf, np.nan])
    check(backend, "binary_forward", [(5,)], a, b, BINARY["divide"])


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_maximum_keeps_nan(backend, name):
    a = np.float32([1, np.nan, np.nan, -np.inf, np.inf, 0] * 5)
    b = np.float32([np.nan, 1, np.nan, 1, 1, 0] * 5)
    check(backend, "binary_forward", [a.shape], a, b, BINARY[name])


def unary_input(rng, name, *shape):
    x = 3 * normal(rng, *shape)
    return np.abs(x) + np.float32(1e-3) if name in ("log", "sqrt") else x


@pytest.mark.parametrize("count", (*ODD, 0, 40_001))
@pytest.mark.parametrize("name", UNARY)
def test_unary(backend, name, count, rng):
    x, dy = unary_input(rng, name, count), normal(rng, count)
    # log near 1 is small next to the errors of its terms
    magnitude = np.abs(np.log(x.astype(np.float64))) + 0.1 if name == "log" else None
    check(backend, "unary_forward", [x.shape], x, UNARY[name], magnitude=magnitude, kind="function")
    check(backend, "unary_backward_dx", [x.shape], dy, x, UNARY[name], kind="function")


@pytest.mark.parametrize("name", UNARY)
def test_unary_extremes(backend, name):
    tiny, big = 1e-40, np.finfo(np.float32).max
    ends = [0, -0.0, 1, -1, np.inf, -np.inf, np.nan, tiny, -tiny, big, -big, 88, -88, 104, -104]
    x = np.array(ends, np.float32)
    for shift in range(x.size):
        rolled = np.roll(x, shift)
        check(backend, "unary_forward", [x.shape], rolled, UNARY[name], kind="function")


def test_square_root_and_absolute_slopes_at_zero(backend):
    x, dy = np.float32([0, 4, 0]), np.float32([1, 1, -2])
    check(backend, "unary_backward_dx", [x.shape], dy, x, UNARY["sqrt"])
    check(backend, "unary_backward_dx", [x.shape], dy, x, UNARY["absolute"])


@pytest.mark.parametrize("count", ODD)
def test_clip(backend, count, rng):
    x, dy = normal(rng, count), normal(rng, count)
    x[0] = np.nan
    x[count // 2] = 0.5  # a bound belongs to the range
    check(backend, "clip_forward", [x.shape], x, -0.5, 0.5, kind="exact")
    check(backend, "clip_backward_dx", [x.shape], dy, x, -0.5, 0.5, kind="exact")
    check(backend, "clip_forward", [x.shape], x, -np.inf, np.inf, kind="exact")


REDUCTIONS = [
    (1, 1, 1),
    (1, 127, 1),
    (129, 1, 31),
    (3, 7, 17),
    (31, 129, 1),
    (1, 129, 127),
    (7, 1000, 3),
    (1, 100_003, 1),
    (2, 3, 4001),
    (5, 300, 1),
    (270, 2053, 1),
    (8450, 17, 8),
    (3, 90, 300),
]


def check_reductions(k, rng, outer, r, inner, ties):
    x, dy = normal(rng, outer, r, inner), normal(rng, outer, inner)
    if ties:
        x = np.round(x)
    scale = f32(1 / r)
    check_linear(k, "reduce_sum_forward", [dy.shape], x, scale, length=r)
    check(k, "reduce_sum_backward_dx", [x.shape], dy, scale)
    (y,) = check(k, "reduce_max_forward", [dy.shape], x, kind="exact")
    check(k, "reduce_max_backward_dx", [x.shape], dy, x, y)


@pytest.mark.parametrize("shape", REDUCTIONS, ids=str)
def test_reductions(backend, shape, rng):
    check_reductions(backend, rng, *shape, ties=False)
    check_reductions(backend, rng, *shape, ties=True)


@given(
    outer=st.integers(1, 12),
    r=st.integers(1, 60),
    inner=st.integers(1, 40),
    ties=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_random_reductions(backend, outer, r, inner, ties, seed):
    check_reductions(backend, np.random.default_rng(seed), outer, r, inner, ties)


def test_sums_of_many_numbers_stay_accurate(backend):
    """A running float32 sum of 2^22 tenths is off by 1 in 500; partial sums are not."""
    x = np.full((1, 2**22, 1), 0.1, np.float32)
    (y,) = run(backend, "reduce_sum_forward", [(1, 1)], x, 1.0)
    right = 2**22 * float(np.float32(0.1))
    assert abs(y[0, 0] - right) < 2e-5 * right


def test_reduce_max_keeps_nan(backend, rng):
    for inner in (1, 19):
        x = normal(rng, 5, 37, inner)
        x[1, 0, 0] = x[2, 36, inner // 2] = x[3, 20, inner - 1] = np.nan
        x[4] = -np.inf
        check(backend, "reduce_max_forward", [(5, inner)], x, kind="exact")


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    data=st.data(),
)
def test_copy_transposes_and_slices(backend, shape, data):
    """Any permutation of the axes, of any slice with any step, written to any slice of y."""
    rng = np.random.default_rng(0)
    x = normal(rng, *shape)
    view = x.transpose(data.draw(st.permutations(range(len(shape)))))
    cuts = []
    for size in view.shape:
        first = data.draw(st.integers(0, size - 1))
        cuts.append(slice(first, None, data.draw(st.sampled_from([1, 1, 2, -1, -2]))))
    view = view[tuple(cuts)]
    step = data.draw(st.integers(1, 3))
    y = np.full([step * size for size in view.shape], np.nan, np.float32)
    target = y[tuple(slice(step - 1, None, step) for _ in y.shape)]

    def layout(view, array):
        start = view.__array_interface__["data"][0] - array.__array_interface__["data"][0]
        return start // 4, tuple(s // 4 for s in view.strides)

    y_offset, y_strides = layout(target, y)
    x_offset, x_strides = layout(view, x)
    got, source = guarded(y), guarded(x)
    backend.strided_copy(got, source, view.shape, y_offset, y_strides, x_offset, x_strides)
    target[...] = view
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(source, x)


def test_copy_broadcasts(backend, rng):
    """A stride of 0 repeats x."""
    x = normal(rng, 17)
    y = poison((31, 17))
    backend.strided_copy(y, guarded(x), (31, 17), 0, (17, 1), 0, (0, 1))
    np.testing.assert_array_equal(y, np.broadcast_to(x, y.shape))


@pytest.mark.parametrize(
    "shape", [(129, 127), (1, 1000), (333, 65), (256, 150), (512, 67)], ids=str
)
def test_copy_transposes_large_matrices(backend, shape, rng):
    x = normal(rng, *shape)
    y = poison(shape[::-1])
    backend.strided_copy(y, guarded(x), y.shape, 0, (shape[0], 1), 0, (1, shape[1]))
    np.testing.assert_array_equal(y, x.T)


def test_copy_of_a_scalar_and_of_nothing(backend):
    y = poison((3,))
    backend.strided_copy(y, guarded(np.float32([1, 2, 3])), (), 1, (), 2, ())
    np.testing.assert_array_equal(y, np.float32([np.nan, 3, np.nan]))
    backend.strided_copy(y, guarded(np.float32([1, 2, 3])), (0, 2), 0, (1, 1), 0, (1, 1))
    np.testing.assert_array_equal(y, np.float32([np.nan, 3, np.nan]))


def test_philox_known_answer():
    """The published known-answer vector for an all-zero key and counter."""
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox(0, 4).tolist() == words


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 + 12345, 2**64 - 1])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.75])
@pytest.mark.parametrize("count", [1, 3, 7, 127, 129, 40_001])
def test_dropout(backend, count, rate, seed, rng):
    x = normal(rng, count)
    rate = f32(rate)
    (y,) = check(backend, "dropout_forward", [x.shape], x, rate, seed)
    (dx,) = check(backend, "dropout_backward_dx", [x.shape], x, rate, seed)
    np.testing.assert_array_equal(y, dx)
    if rate == 0:
        np.testing.assert_array_equal(y, x)


def test_dropout_keeps_the_share_it_promises(backend):
    x = np.ones(100_000, np.float32)
    (y,) = run(backend, "dropout_forward", [x.shape], x, 0.25, 7)
    kept = np.count_nonzero(y) / y.size
    assert abs(kept - 0.75) < 5 * np.sqrt(0.25 * 0.75 / x.size)  # five standard deviations
    (other,) = run(backend, "dropout_forward", [x.shape], x, 0.25, 8)
    assert np.count_nonzero((y != 0) == (other != 0)) < 0.65 * x.size  # independent: 0.625


@pytest.mark.parametrize("name", BINARY)
def test_binary_directional(backend, name, rng):
    a, b = np.abs(normal(rng, 7, 17)) + np.float32(0.1), normal(rng, 7, 17)
    b = b + np.sign(b)
    dy = normal(rng, 7, 17)
    (da,) = run(backend, "binary_backward_da", [a.shape], dy, a, b, BINARY[name])
    (db,) = run(backend, "binary_backward_db", [a.shape], dy, a, b, BINARY[name])

    def loss(a, b):
        (y,) = expected("binary_forward", [dy.shape], a, b, BINARY[name])
        return float((y * dy).sum())

    directional_check(lambda v: loss(v, b), a, da, rng, a.size)
    directional_check(lambda v: loss(a, v), b, db, rng, a.size)


@pytest.mark.parametrize("name", UNARY)
def test_unary_directional(backend, name, rng):
    x, dy = np.abs(normal(rng, 129)) + np.float32(0.1), normal(rng, 129)
    (dx,) = run(backend, "unary_backward_dx", [x.shape], dy, x, UNARY[name])

    def loss(x):
        (y,) = expected("unary_forward", [x.shape], x, UNARY[name])
        return float((y * dy).sum())

    directional_check(loss, x, dx, rng, x.size)


def test_reduction_and_clip_directional(backend, rng):
    x, dy = normal(rng, 3, 7, 5), normal(rng, 3, 5)
    (y,) = run(backend, "reduce_max_forward", [dy.shape], x)
    (dx,) = run(backend, "reduce_max_backward_dx", [x.shape], dy, x, y)

    def max_loss(x):
        return float((expected("reduce_max_forward", [dy.shape], x)[0] * dy).sum())

    directional_check(max_loss, x, dx, rng, x.size)
    (dx,) = run(backend, "reduce_sum_backward_dx", [x.shape], dy, 0.5)

    def sum_loss(x):
        return float((expected("reduce_sum_forward", [dy.shape], x, 0.5)[0] * dy).sum())

    directional_check(sum_loss, x, dx, rng, x.size)
    dy = normal(rng, *x.shape)
    (dx,) = run(backend, "clip_backward_dx", [x.shape], dy, x, -0.5, 0.7)

    def clip_loss(x):
        return float((expected("clip_forward", [x.shape], x, -0.5, 0.7)[0] * dy).sum())

    directional_check(clip_loss, x, dx, rng, x.size)
