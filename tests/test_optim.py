"""Optimizer steps on every backend, against the float64 reference."""

import numpy as np
import pytest
from checks import (
    assert_close,
    assert_guards,
    f32,
    guarded,
    normal,
    poison,
    tolerance,
    unchanged,
    widened,
)

from tilegrad import reference

SIZES = [(1,), (3, 7), (17,), (31, 129), (5, 5, 3, 2), (40_001,), (0,)]


class Problem:
    """Parameters, gradients and states in float32, with a float64 copy for the reference."""

    def __init__(self, rng, sizes, states, decay=0.0, centered=False):
        self.w = [normal(rng, *s) for s in sizes]
        self.g = [normal(rng, *s) for s in sizes]
        self.states = [[normal(rng, *s) for s in sizes] for _ in range(states)]
        self.scale = np.float32([0.5 + 0.25 * i for i in range(len(sizes))])
        self.decay = np.float32([decay * (i % 2) for i in range(len(sizes))])

    def step(self, k, name, *hyper):
        """One step on k from here: the new (w, states); gradients must be left alone."""
        w, g = [guarded(a) for a in self.w], [guarded(a) for a in self.g]
        states = [[guarded(a) for a in state] for state in self.states]
        with unchanged(g, self.scale, self.decay):
            getattr(k, name)(w, g, states, self.scale, self.decay, *hyper)
        for array in (*w, *(a for state in states for a in state)):
            assert_guards(array, name)
        return w, states

    def expected(self, name, *hyper):
        w, g, states = (widened(a) for a in (self.w, self.g, self.states))
        getattr(reference, name)(w, g, states, self.scale, self.decay, *hyper)
        return w, states

    def check(self, k, name, *hyper, slack):
        """Compare one step with the reference.

        `slack` says for each parameter what the errors of its update are relative to, so that an
        error in a small update does not hide behind a large weight, which is only rounded once.
        """
        w, states = self.step(k, name, *hyper)
        right_w, right_states = self.expected(name, *hyper)
        for p, right in enumerate(right_w):
            before = self.w[p].astype(np.float64)
            rounding = tolerance(np.float32, 1, np.abs(before) + np.abs(right))
            update = np.abs(right - before) + slack[p] + np.abs(self.decay[p] * before)
            allowed = rounding + tolerance(np.float32, 1, update, "function")
            assert w[p].dtype == np.float32 and w[p].shape == right.shape
            assert (np.abs(w[p] - right) <= allowed).all(), f"{name}: parameter {p}"
            size = slack[p] + np.abs(self.g[p]) + self.g[p] ** 2
            size = size + sum(np.abs(state[p]) for state in self.states)
            for i, state in enumerate(right_states):
                what = f"{name}: state {i} of parameter {p}"
                assert_close(states[i][p], state[p], magnitude=size, kind="function", what=what)


HYPER = [{}, {"clip": 0.3}, {"decay": 0.1}, {"clip": 0.5, "decay": 0.01, "lr": 0.7}]


def updates(count):
    """How many updates came before, as Adam's kernel wants it."""
    return np.array(count, np.int64)


def options(lr=0.01, clip=np.inf, decay=0.0):
    return (f32(lr), f32(clip)), decay


@pytest.mark.parametrize("hyper", HYPER, ids=str)
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(backend, momentum, nesterov, hyper, rng):
    common, decay = options(**hyper)
    problem = Problem(rng, SIZES, 1 if momentum else 0, decay)
    slack = [common[0] * np.abs(g) for g in problem.g]
    if momentum:
        slack = [s + np.abs(v) for s, v in zip(slack, problem.states[0], strict=True)]
    problem.check(backend, "sgd_update", *common, f32(momentum), nesterov, slack=slack)


def test_many_tensors_in_one_call(backend, rng):
    """More of them than one launch of a GPU's kernel takes."""
    problem = Problem(rng, [(i % 7 * 5,) for i in range(131)], 1)
    slack = [0.01 * np.abs(g) + np.abs(v) for g, v in zip(problem.g, *problem.states, strict=True)]
    problem.check(backend, "sgd_update", f32(0.01), np.inf, f32(0.9), True, slack=slack)
    out = poison(len(problem.g), np.float64)
    backend.gradient_square_sums(out, problem.g)
    right = [np.square(g, dtype=np.float64).sum() for g in problem.g]
    np.testing.assert_allclose(out, right, rtol=1e-14)


def test_denormal_moments_end_at_zero(backend):
    w, g, m, v = (np.full(40, value, np.float32) for value in (1.0, 0.0, 1e-39, 2e-40))
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    rates = f32(0.9), f32(0.999), f32(1e-7)
    backend.adam_update(
        [w], [g], [[m], [v]], one, zero, f32(0.01), np.inf, updates(4), *rates, False
    )
    assert not m.any() and not v.any()
    assert np.float32(1e-30) * np.float32(1e-10) > 0  # elsewhere nothing is flushed


@pytest.mark.parametrize("hyper", HYPER, ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop(backend, momentum, centered, hyper, rng):
    common, decay = options(**hyper)
    problem = Problem(rng, SIZES, 1 + bool(momentum) + centered, decay)
    problem.states[0] = [v * v for v in problem.states[0]]
    if centered:  # v >= a^2, as in training
        problem.states[0] = [
            v + a * a for v, a in zip(problem.states[0], problem.states[-1], strict=True)
        ]
    args = (*common, f32(0.9), f32(momentum), f32(1e-7), centered)
    _, states = problem.expected("rmsprop_update", *args)
    slack = []
    for p in range(len(SIZES)):
        v = states[0][p]
        spread = v - states[-1][p] ** 2 if centered else v
        update = common[0] * np.abs(problem.g[p]) / np.sqrt(spread + 1e-7)
        momenta = np.abs(problem.states[1][p]) if momentum else 0
        slack.append(update * (1 + v / spread) + momenta)
    problem.check(backend, "rmsprop_update", *args, slack=slack)


@pytest.mark.parametrize("hyper", HYPER, ids=str)
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("step", [1, 2, 10, 1000, 10**6, 2**40])
def test_adam(backend, step, amsgrad, hyper, rng):
    common, decay = options(**hyper)
    problem = Problem(rng, SIZES, 3 if amsgrad else 2, decay)
    problem.states[1:] = [[v * v for v in state] for state in problem.states[1:]]
    args = (*common, updates(step - 1), f32(0.9), f32(0.999), f32(1e-7), amsgrad)
    _, states = problem.expected("adam_update", *args)
    alpha = common[0] * np.sqrt(1 - f32(0.999) ** step) / (1 - f32(0.9) ** step)
    slack = [
        alpha
        * (np.abs(problem.states[0][p]) + np.abs(problem.g[p]))
        / (np.sqrt(states[-1][p]) + 1e-7)
        for p in range(len(SIZES))
    ]
    problem.check(backend, "adam_update", *args, slack=slack)


def test_adam_bias_correction_from_zero(backend):
    """The first step is lr sign(g), but for epsilon: lr g / (|g| + epsilon / sqrt(1 - beta_2))."""
    g = np.float32([3.0, -1e-3, 1e3, 0.0])
    w, m, v = ([np.zeros(4, np.float32)] for _ in range(3))
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    args = (f32(0.01), np.inf, updates(0), f32(0.9), f32(0.999), f32(1e-7), False)
    backend.adam_update(w, [g], [m, v], one, zero, *args)
    wide = g.astype(np.float64)
    right = -f32(0.01) * wide / (np.abs(wide) + f32(1e-7) / np.sqrt(1 - f32(0.999)))
    assert_close(w[0], right, kind="function")


@pytest.mark.parametrize("name", ["sgd_update", "rmsprop_update", "adam_update"])
def test_many_steps_follow_the_reference(backend, name, rng):
    """Rounding errors do not pile up: 30 steps on one quadratic, started from empty states."""
    extra = {
        "sgd_update": (f32(0.9), True),
        "rmsprop_update": (f32(0.9), f32(0.5), f32(1e-7), False),
        "adam_update": (f32(0.9), f32(0.999), f32(1e-7), False),
    }[name]
    count = {"sgd_update": 1, "rmsprop_update": 2, "adam_update": 2}[name]
    target = rng.standard_normal(257)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)

    def train(k, dtype):
        w = [np.zeros(257, dtype)]
        states = [[np.zeros(257, dtype)] for _ in range(count)]
        for step in range(30):
            g = [(w[0] - target).astype(dtype)]
            steps = (updates(step),) if name == "adam_update" else ()
            getattr(k, name)(w, g, states, one, zero, f32(0.02), np.inf, *steps, *extra)
        return w[0]

    right = train(reference, np.float64)
    assert_close(train(backend, np.float32), right, length=30, magnitude=4.0, kind="function")


@pytest.mark.parametrize("name", ["sgd_update", "rmsprop_update", "adam_update"])
def test_a_nan_gradient_is_not_hidden(backend, name, rng):
    """Clamping does not turn NaN into a number: its weight becomes NaN, and no other does."""
    problem = Problem(rng, [(37,)], 0 if name == "sgd_update" else 2)
    problem.states = [[np.abs(a) for a in state] for state in problem.states]
    problem.g[0][[0, 20, 36]] = np.nan
    tail = {
        "sgd_update": (0.0, False),
        "rmsprop_update": (f32(0.9), f32(0.5), f32(1e-7), False),
        "adam_update": (updates(2), f32(0.9), f32(0.999), f32(1e-7), False),
    }[name]
    for clip in (np.inf, 0.5):
        w, _ = problem.step(backend, name, f32(0.1), clip, *tail)
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(w[0])), [0, 20, 36])


def test_no_parameters(backend):
    none = np.zeros(0, np.float32)
    backend.sgd_update([], [], [], none, none, 0.1, np.inf, 0.0, False)
    backend.gradient_square_sums(np.zeros(0), [])


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_gradient_square_sums(backend, scale, rng):
    """Accumulated in double: neither overflow nor underflow of float32 squares."""
    g = [normal(rng, *s) * np.float32(scale) for s in SIZES]
    out = guarded(np.full(len(g), np.nan))
    with unchanged(g):
        backend.gradient_square_sums(out, g)
    assert_guards(out)
    right = np.array([(a.astype(np.float64) ** 2).sum() for a in g])
    assert_close(out, right, length=40_001, dtype=np.float64)
