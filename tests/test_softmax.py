"""Softmax and cross-entropy on every backend, against the float64 reference."""

import hypothesis.strategies as st
import numpy as np
import pytest
from checks import ODD, assert_close, check, directional_check, expected, f32, normal, run
from hypothesis import given

SHAPES = [
    *[(size, ODD[(i + 3) % 7]) for i, size in enumerate(ODD)],
    (1, 1),
    (513, 10),
    (7, 1000),
    (2, 8191),
    (64, 2),
]
SCALE = f32(1 / 7)


def log_p(x):
    (y,) = expected("log_softmax_forward", [x.shape], x)
    return y


def check_softmax(k, x, dy):
    shape, cols = [x.shape], x.shape[1]
    size = np.abs(x.astype(np.float64)).max(
        axis=1, keepdims=True
    )  # x - max x is rounded at this size
    y, ly = np.exp(log_p(x)), log_p(x)
    check(
        k,
        "softmax_forward",
        shape,
        x,
        length=cols,
        magnitude=y * (1 + size),
        kind="function",
    )
    check(
        k,
        "log_softmax_forward",
        shape,
        x,
        length=cols,
        magnitude=1 + np.abs(ly) + size,
    )
    y, ly = y.astype(np.float32), ly.astype(np.float32)
    terms = np.abs(dy * y).sum(axis=1, keepdims=True)
    check(
        k,
        "softmax_backward_dx",
        shape,
        dy,
        y,
        length=cols,
        magnitude=y * (np.abs(dy) + terms),
    )
    terms = np.abs(dy).sum(axis=1, keepdims=True)
    check(
        k,
        "log_softmax_backward_dx",
        shape,
        dy,
        ly,
        length=cols,
        # exp of a rounded y: its error grows with |y|, but never beyond exp(y) |y| < 0.4
        magnitude=np.abs(dy) + np.exp(ly) * (1 + np.abs(ly)) * terms,
        kind="function",
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_odd_shapes(backend, shape, rng):
    check_softmax(backend, 3 * normal(rng, *shape), normal(rng, *shape))


@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 150),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    shift=st.sampled_from([0.0, 1e3, -1e3]),
    seed=st.integers(0, 2**32),
)
def test_random(backend, rows, cols, scale, shift, seed):
    """Large numbers too: without subtracting the maximum these overflow."""
    rng = np.random.default_rng(seed)
    x = (normal(rng, rows, cols) * np.float32(scale) + np.float32(shift)).astype(np.float32)
    check_softmax(backend, x, normal(rng, rows, cols))


def test_minus_infinity_is_a_mask_and_nan_stays_in_its_row(backend, rng):
    x = normal(rng, 5, 19)
    x[1, 4:] = -np.inf
    x[3, 18] = np.nan
    check(backend, "softmax_forward", [x.shape], x, length=19, kind="function")
    (y,) = run(backend, "softmax_forward", [x.shape], x)
    assert (y[1, 4:] == 0).all()
    assert np.isnan(y[3]).all() and np.isfinite(np.delete(y, 3, axis=0)).all()
    (y,) = run(backend, "log_softmax_forward", [x.shape], x)
    assert (y[1, 4:] == -np.inf).all() and np.isnan(y[3]).all()


def forward_shapes(rows, cols):
    return [(1,), (rows,), (rows, cols)]


def check_cross_entropy(k, x, target, weight, kind):
    """`kind` is "sparse" (target: labels) or "dense" (target: distributions)."""
    rows, cols = x.shape
    name = f"softmax_cross_entropy_{kind}"
    size = 1 + np.abs(x.astype(np.float64)).max(axis=1)
    logs = np.abs(log_p(x))
    if kind == "sparse":
        losses = size + logs[np.arange(rows), target]
        total = np.ones(rows)
    else:
        total = target.astype(np.float64).sum(axis=1)
        losses = total * size + (target * logs).sum(axis=1)
    loss = SCALE * (losses * (1 if weight is None else np.abs(weight))).sum()
    _, _, p = check(
        k,
        f"{name}_forward",
        forward_shapes(rows, cols),
        x,
        target,
        weight,
        SCALE,
        length=max(rows, cols),
        magnitude=[loss, losses, np.exp(-logs) * size[:, None]],
        kind="function",
    )
    dlosses = normal(np.random.default_rng(rows), rows)
    onehot = np.arange(cols) == target[:, None] if kind == "sparse" else target
    check(
        k,
        f"{name}_backward_dx",
        [x.shape],
        dlosses,
        p,
        target,
        length=cols,
        magnitude=np.abs(dlosses)[:, None] * (p * total[:, None] + onehot),
    )


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy(backend, shape, weighted, kind, rng):
    rows, cols = shape
    x = 3 * normal(rng, rows, cols)
    weight = rng.random(rows, np.float32) if weighted else None
    if kind == "sparse":
        target = rng.integers(0, cols, rows).astype(np.int32)
    else:
        target = rng.random((rows, cols), np.float32)
    check_cross_entropy(backend, x, target, weight, kind)


@given(
    rows=st.integers(1, 60),
    cols=st.integers(1, 120),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    kind=st.sampled_from(["sparse", "dense"]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_random_cross_entropy(backend, rows, cols, scale, kind, weighted, seed):
    rng = np.random.default_rng(seed)
    x = normal(rng, rows, cols) * np.float32(scale)
    weight = rng.random(rows, np.float32) if weighted else None
    if kind == "sparse":
        target = rng.integers(0, cols, rows).astype(np.int32)
    else:
        target = rng.random((rows, cols), np.float32)
    check_cross_entropy(backend, x, target, weight, kind)


def test_a_certain_wrong_answer_has_a_finite_loss(backend):
    """-log p comes from the logits: p underflows to 0 here, the loss does not become infinite."""
    x = np.float32([[200.0, 0.0, -100.0]])
    args = (x, np.int32([2]), None, 1.0)
    loss, losses, p = run(
        backend, "softmax_cross_entropy_sparse_forward", forward_shapes(1, 3), *args
    )
    assert_close(losses, np.array([300.0]), magnitude=300.0)
    assert_close(loss, np.array([300.0]), magnitude=300.0)
    assert p[0, 2] == 0


@pytest.mark.parametrize("label", [-1, 5, 2**31 - 1, -(2**31)])
def test_a_label_outside_its_range_is_nan(backend, label, rng):
    x = normal(rng, 3, 5)
    labels = np.array([1, label, 4], np.int32)
    shapes = forward_shapes(3, 5)
    loss, losses, p = check(
        backend,
        "softmax_cross_entropy_sparse_forward",
        shapes,
        x,
        labels,
        None,
        1.0,
        length=5,
        kind="function",
    )
    assert np.isnan(loss[0]) and np.isnan(losses[1]) and np.isnan(p[1]).all()
    assert np.isfinite(p[[0, 2]]).all()
    dlosses = np.ones(3, np.float32)
    (dx,) = run(backend, "softmax_cross_entropy_sparse_backward_dx", [x.shape], dlosses, p, labels)
    assert np.isnan(dx[1]).all() and np.isfinite(dx[[0, 2]]).all()


def test_directional(backend, rng):
    x, dy = normal(rng, 7, 17), normal(rng, 7, 17)
    for name in ("softmax", "log_softmax"):
        (y,) = expected(f"{name}_forward", [x.shape], x)
        (dx,) = run(backend, f"{name}_backward_dx", [x.shape], dy, y.astype(np.float32))

        def loss(x, name=name):
            return float((expected(f"{name}_forward", [x.shape], x)[0] * dy).sum())

        directional_check(loss, x, dx, rng, x.size)
    weight = rng.random(7, np.float32)
    for kind, target in (
        ("sparse", rng.integers(0, 17, 7).astype(np.int32)),
        ("dense", rng.random((7, 17), np.float32)),
    ):
        forward = f"softmax_cross_entropy_{kind}_forward"
        backward = f"softmax_cross_entropy_{kind}_backward_dx"
        shapes = forward_shapes(7, 17)
        _, _, p = expected(forward, shapes, x, target, weight, 1.0)
        (dx,) = run(backend, backward, [x.shape], weight, p.astype(np.float32), target)

        def cross_entropy(x, forward=forward, target=target):
            return float(expected(forward, forward_shapes(7, 17), x, target, weight, 1.0)[0][0])

        directional_check(cross_entropy, x, dx, rng, x.size)
