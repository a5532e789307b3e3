"""Matrix products on every backend, against the float64 reference."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import (
    ODD,
    assert_close,
    check,
    check_linear,
    directional_check,
    expected,
    f32,
    magnitudes,
    normal,
    run,
)
from hypothesis import given

from tilegrad.backend import ACTIVATIONS

LINEAR = ACTIVATIONS["linear"]
FUSED = [name for name, kind in ACTIVATIONS.items() if kind <= ACTIVATIONS["elu"]]
ALPHA = f32(0.3)
SHAPES = [
    *[(size, ODD[(i + 2) % 7], ODD[(i + 4) % 7]) for i, size in enumerate(ODD)],
    (1, 1, 1),
    (129, 127, 129),
    (33, 676, 10),
    (5, 1030, 3),
    (260, 19, 1),
    (1, 300, 500),
    (64, 64, 64),
]


def check_dense(k, n, c, f, bias, name, rng):
    x, w, dy = normal(rng, n, c), normal(rng, c, f), normal(rng, n, f)
    b = normal(rng, f) if bias else None
    # every fused activation has slope <= 1: the sum's rounding errors pass, its own are added
    (terms,) = magnitudes("dense_forward", [(n, f)], x, w, b, LINEAR, 0.0)
    check(
        k,
        "dense_forward",
        [(n, f)],
        x,
        w,
        b,
        ACTIVATIONS[name],
        ALPHA,
        length=c,
        magnitude=terms + 4,
    )
    check_linear(k, "dense_backward_dx", [(n, c)], dy, w, length=f)
    check_linear(k, "dense_backward_dw", [(c, f)], x, dy, length=n)
    check_linear(k, "bias_backward_db", [(f,)], dy, length=n)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_odd_shapes(backend, shape, rng):
    check_dense(backend, *shape, True, "linear", rng)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", FUSED)
def test_fused_activation(backend, name, bias, rng):
    check_dense(backend, 17, 31, 37, bias, name, rng)


@given(
    n=st.integers(1, 70),
    c=st.integers(1, 200),
    f=st.integers(1, 140),
    bias=st.booleans(),
    name=st.sampled_from(FUSED),
    seed=st.integers(0, 2**32),
)
def test_random_shapes(backend, n, c, f, bias, name, seed):
    check_dense(backend, n, c, f, bias, name, np.random.default_rng(seed))


@given(
    batch=st.integers(1, 5),
    m=st.integers(1, 40),
    k=st.integers(1, 70),
    n=st.integers(1, 40),
    shared=st.sampled_from(["", "a", "b", "ab"]),
    seed=st.integers(0, 2**32),
)
def test_matmul(backend, batch, m, k, n, shared, seed):
    """Batches, with either operand shared by the whole batch."""
    rng = np.random.default_rng(seed)
    a = normal(rng, 1 if "a" in shared else batch, m, k)
    b = normal(rng, 1 if "b" in shared else batch, k, n)
    dy = normal(rng, batch, m, n)
    check_linear(backend, "matmul_forward", [(batch, m, n)], a, b, length=k)
    check_linear(backend, "matmul_backward_da", [(batch, m, k)], dy, b, length=n)
    check_linear(backend, "matmul_backward_db", [(batch, k, n)], a, dy, length=m)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 129, 127, 31), (7, 17, 1, 33), (3, 1, 65, 1)])
def test_matmul_odd_shapes(backend, shape, rng):
    batch, m, k, n = shape
    a, b, dy = normal(rng, batch, m, k), normal(rng, batch, k, n), normal(rng, batch, m, n)
    check_linear(backend, "matmul_forward", [(batch, m, n)], a, b, length=k)
    check_linear(backend, "matmul_backward_da", [(batch, m, k)], dy, b, length=n)
    check_linear(backend, "matmul_backward_db", [(batch, k, n)], a, dy, length=m)


def test_matrices_alone_are_a_batch_of_one(backend, rng):
    a, b, dy = normal(rng, 5, 7), normal(rng, 7, 3), normal(rng, 5, 3)
    for name, y, one, other in (
        ("matmul_forward", dy, a, b),
        ("matmul_backward_da", a, dy, b),
        ("matmul_backward_db", b, a, dy),
    ):
        (alone,) = run(backend, name, [y.shape], one, other)
        (batch,) = run(backend, name, [(1, *y.shape)], one[None], other[None])
        np.testing.assert_array_equal(alone, batch[0])


@pytest.mark.parametrize("rows", [1, 3, 129, 5000])
@pytest.mark.parametrize("f", [1, 7, 32, 129])
def test_bias_over_many_rows(backend, rows, f, rng):
    check_linear(backend, "bias_backward_db", [(f,)], normal(rng, rows, f), length=rows)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (129, 31), (5000, 33), (67, 130)], ids=str)
def test_bias_and_activation_in_one_pass(backend, name, shape, rng):
    kind = ACTIVATIONS[name]
    dy = normal(rng, *shape)
    (y,) = run(backend, "activation_forward", [shape], 4 * normal(rng, *shape), kind, ALPHA)
    sums = [shape, shape[1:]]
    dz, db = run(backend, "bias_activation_backward_dz", sums, dy, y, kind, ALPHA)
    (alone,) = run(backend, "activation_backward_dx", [shape], dy, y, kind, ALPHA)
    np.testing.assert_array_equal(dz, alone)
    right = expected("bias_activation_backward_dz", sums, dy, y, kind, ALPHA)
    # each summand is off by an error of the activation's own, at most a few eps of dy
    assert_close(db, right[1], shape[0], np.abs(dy).sum(axis=0), what="db")


def test_a_bias_of_images_adds_up_all_but_the_last_axis(backend, rng):
    shape, relu = (2, 3, 5, 7), ACTIVATIONS["relu"]
    dy, y = normal(rng, *shape), normal(rng, *shape)
    rows = dy.reshape(30, 7), y.reshape(30, 7)
    (db,) = run(backend, "bias_backward_db", [(7,)], dy)
    np.testing.assert_array_equal(db, run(backend, "bias_backward_db", [(7,)], rows[0])[0])
    images = run(backend, "bias_activation_backward_dz", [shape, (7,)], dy, y, relu, 0.0)
    flat = run(backend, "bias_activation_backward_dz", [(30, 7), (7,)], *rows, relu, 0.0)
    np.testing.assert_array_equal(images[0].reshape(30, 7), flat[0])
    np.testing.assert_array_equal(images[1], flat[1])


def test_nan_and_infinity_reach_only_their_row(backend, rng):
    """0 * inf is NaN and stays in its row: no kernel skips zeros or lets a lane leak."""
    x, w = normal(rng, 7, 17), normal(rng, 17, 19)
    x[2, 3] = np.inf
    x[5, 16] = np.nan
    w[3, 4] = 0
    (y,) = run(backend, "dense_forward", [(7, 19)], x, w, None, LINEAR, 0.0)
    with np.errstate(invalid="ignore"):
        right = x.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(right))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(right))
    (y,) = run(backend, "dense_forward", [(7, 19)], x, w, None, ACTIVATIONS["relu"], 0.0)
    assert np.isnan(y[5]).all(), "relu must keep NaN"


def test_directional(backend, rng):
    x, w, b, dy = normal(rng, 7, 17), normal(rng, 17, 5), normal(rng, 5), normal(rng, 7, 5)
    (dx,) = run(backend, "dense_backward_dx", [x.shape], dy, w)
    (dw,) = run(backend, "dense_backward_dw", [w.shape], x, dy)
    (db,) = run(backend, "bias_backward_db", [b.shape], dy)

    def loss(x, w, b):
        (y,) = expected("dense_forward", [dy.shape], x, w, b, LINEAR, 0.0)
        return float((y * dy).sum())

    directional_check(lambda v: loss(v, w, b), x, dx, rng, x.size)
    directional_check(lambda v: loss(x, v, b), w, dw, rng, x.size)
    directional_check(lambda v: loss(x, w, v), b, db, rng, x.size)
