"""Tests that attack the tests: wrong results of every kind must fail."""

import numpy as np
import pytest
from checks import (
    EPS,
    UNITS,
    assert_close,
    assert_guards,
    check,
    directional_check,
    guarded,
    normal,
    poison,
    run,
    tolerance,
    unchanged,
)

from tilegrad import reference


@pytest.fixture
def right(rng):
    return rng.standard_normal((17, 31))


def test_the_rounded_answer_passes(right):
    assert_close(right.astype(np.float32), right)


WRONG = {
    "zeros": np.zeros_like,
    "NaN": lambda y: np.full_like(y, np.nan),
    "one NaN": lambda y: np.where(np.arange(31) == 30, np.nan, y).astype(np.float32),
    "one infinity": lambda y: np.where(y == y.max(), np.inf, y).astype(np.float32),
    "permuted": lambda y: np.ascontiguousarray(y[::-1]),
    "transposed order": lambda y: np.ascontiguousarray(y.T).reshape(y.shape),
    "negated": np.negative,
    "off by 10 ulp": lambda y: y * np.float32(1 + 10 * EPS[np.dtype(np.float32)]),
    "half precision": lambda y: y.astype(np.float16).astype(np.float32),
    "bfloat16": lambda y: (y.view(np.uint32) & 0xFFFF0000).view(np.float32),
    "stale first row": lambda y: np.concatenate([y[:1] * 0, y[1:]]),
    "float64": lambda y: y.astype(np.float64),
    "another shape": lambda y: y.reshape(31, 17),
    "broadcastable shape": lambda y: y[None],
    "empty": lambda y: y[:0],
    "a list": lambda y: y.tolist(),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_fails(right, name):
    with pytest.raises(AssertionError):
        assert_close(WRONG[name](right.astype(np.float32)), right)


def test_nan_and_infinity_must_meet_their_like():
    inf, nan = np.inf, np.nan
    same = np.array([nan, inf, -inf, 1e39, 0.0])
    with np.errstate(over="ignore"):
        assert_close(same.astype(np.float32), same)
    for got, want in ((inf, -inf), (inf, nan), (nan, inf), (1.0, nan), (0.0, inf), (3e38, inf)):
        with pytest.raises(AssertionError):
            assert_close(np.float32([got]), np.array([want]))


def test_the_tolerance_is_small_enough_to_see_one_missing_term(rng):
    """A product over 127 terms that lost its smallest sizeable one fails."""
    x, w = normal(rng, 7, 127), normal(rng, 127, 5)
    exact, size = x.astype(np.float64) @ w, np.abs(x).astype(np.float64) @ np.abs(w)
    lost = (x[:, :-1] @ w[:-1]).astype(np.float32)
    with pytest.raises(AssertionError):
        assert_close(lost, exact, length=127, magnitude=size)
    assert tolerance(np.float32, 127, size).max() < 1e-3
    assert max(UNITS.values()) <= 8


class Fake:
    """A backend with one kernel, `global_avg_pool2d_forward`, done by `fn`."""

    name = "fake"

    def __init__(self, fn):
        self.global_avg_pool2d_forward = fn


def right_kernel(y, x):
    y[...] = x.mean(axis=1)


def writes_nothing(y, x):
    pass


def accumulates(y, x):
    y += x.mean(axis=1)


def changes_its_input(y, x):
    right_kernel(y, x)
    x[0, 0, 0] += 1


def writes_past_the_end(y, x):
    right_kernel(y, x)
    np.lib.stride_tricks.as_strided(y.reshape(-1)[-1:], (2,), (4,))[1] = 0


def writes_before_the_start(y, x):
    right_kernel(y, x)
    np.lib.stride_tricks.as_strided(y.reshape(-1)[:2], (2,), (-4,))[1] = 0


def reads_past_the_end(y, x):
    rows = x.reshape(-1)
    longer = np.lib.stride_tricks.as_strided(rows, (rows.size + 1,), (4,))
    y[...] = x.mean(axis=1) + 0 * longer[-1]


def misses_the_tail(y, x):
    right_kernel(y[:, :-1], x[:, :, :-1])


def test_check_accepts_the_right_kernel(rng):
    check(Fake(right_kernel), "global_avg_pool2d_forward", [(3, 5)], normal(rng, 3, 7, 5), length=7,
          magnitude=1.0)  # fmt: skip


@pytest.mark.parametrize(
    "fn",
    [
        writes_nothing,
        accumulates,
        changes_its_input,
        writes_past_the_end,
        writes_before_the_start,
        reads_past_the_end,
        misses_the_tail,
    ],
)
def test_check_rejects_a_wrong_kernel(fn, rng):
    with pytest.raises(AssertionError):
        x = normal(rng, 3, 7, 5)
        check(Fake(fn), "global_avg_pool2d_forward", [(3, 5)], x, length=7, magnitude=1.0)


def test_directional_check_rejects_wrong_gradients(rng):
    x, dy = normal(rng, 7, 5), normal(rng, 7, 5)

    def loss(x):
        return float((np.tanh(x) * dy).sum())

    right = (dy * (1 - np.tanh(x) ** 2)).astype(np.float32)
    directional_check(loss, x, right, rng)
    for wrong in (0 * right, -right, 1.001 * right, right[::-1], right * np.nan):
        with pytest.raises(AssertionError):
            directional_check(loss, x, wrong, rng)


def test_poison_and_guards():
    assert np.isnan(poison((3, 5))).all()
    assert (poison((4,), np.int32) == 0x5A5A5A5A).all()
    assert (poison((4,), np.uint8) == 0x5A).all()
    array = guarded(np.arange(6.0).reshape(2, 3))
    assert array.flags.c_contiguous and array.flags.aligned
    assert_guards(array)
    array[...] = 7
    assert_guards(array)
    with pytest.raises(AssertionError), unchanged([array], None, 3):
        array[1, 1] = -0.0


def test_run_returns_what_the_kernel_wrote(rng):
    x = normal(rng, 2, 3, 4)
    (y,) = run(reference, "global_avg_pool2d_forward", [(2, 4)], x)
    np.testing.assert_array_equal(y, x.mean(axis=1))
