"""Optimizers: trajectories against Keras 3 and float64 formulas, and what surrounds a step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras_oracle import assert_configs, keras, on_backend, oracle, quiet  # noqa: F401

from tilegrad import Tensor
from tilegrad.keras import Variable, layers, losses, optimizers
from tilegrad.keras.optimizers import schedules

pytestmark = pytest.mark.usefixtures("on_backend")

SHAPES = [(3, 5), (7,), (129,), (2, 3, 1, 4), ()]
STEPS = 12


def start():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return [(rng.standard_normal(shape) * 3).astype(np.float32) for shape in SHAPES]


def variables():
    return [
        Variable(w, name=name)
        for w, name in zip(start(), ("kernel", "bias", "gamma", "deep", "scalar"), strict=True)
    ]


def key(settings):
    return tuple(sorted(settings.items(), key=str))


@oracle
def oracle_trajectory(name, settings):
    settings = dict(settings)
    rate = settings.get("learning_rate")
    if isinstance(rate, schedules.LearningRateSchedule):
        settings["learning_rate"] = getattr(keras.optimizers.schedules, type(rate).__name__)(
            **rate.get_config()
        )
    optimizer = getattr(keras.optimizers, name)(**settings)
    ws = [keras.Variable(w) for w in start()]
    steps = []
    for step in range(STEPS):
        optimizer.apply(gradients(step), ws)
        steps.append([w.numpy() for w in ws])
    optimizer.finalize_variable_values(ws)
    return steps, [w.numpy() for w in ws], optimizer.get_config(), int(optimizer.iterations)


def compare(name, **settings):
    steps, final, config, iterations = oracle_trajectory(name, key(settings))
    optimizer = getattr(optimizers, name)(**settings)
    ws = variables()
    for step, expected in enumerate(steps):
        optimizer.apply(gradients(step), ws)
        for w, e, w0 in zip(ws, expected, start(), strict=True):
            # relative to how far the weight moved, too: Keras's 1 - beta^t in float32 loses digits
            np.testing.assert_allclose(
                w.numpy(), e, rtol=2e-6, atol=1e-6 + 1e-4 * np.abs(e - w0).max()
            )
    optimizer.finalize_variable_values(ws)
    for w, e in zip(ws, final, strict=True):
        np.testing.assert_allclose(w.numpy(), e, rtol=1e-4, atol=1e-5)
    assert int(optimizer.iterations) == iterations
    assert_configs(optimizer.get_config(), config, ignore=("learning_rate", "name"))
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    if not isinstance(settings.get("learning_rate"), schedules.LearningRateSchedule):
        assert optimizer.get_config()["learning_rate"] == pytest.approx(
            config["learning_rate"], rel=1e-7
        )
    return optimizer


CASES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "learning_rate": 0.05}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "rho": 0.8}),
    ("RMSprop", {"centered": True, "epsilon": 1e-3}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "epsilon": 1e-3}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "beta_1": 0.8, "beta_2": 0.9}),
    ("Adam", {"epsilon": 0.1, "learning_rate": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.5, "learning_rate": 0.05}),
]
COMMON = [
    {"weight_decay": 0.1, "learning_rate": 0.05},
    {"clipnorm": 1.0},
    {"clipvalue": 0.5},
    {"global_clipnorm": 2.0},
    {"loss_scale_factor": 8.0},
    {"loss_scale_factor": 8.0, "clipnorm": 0.1},
    {"gradient_accumulation_steps": 3},
    {"gradient_accumulation_steps": 2, "global_clipnorm": 1.0, "weight_decay": 0.1},
    {"use_ema": True, "ema_momentum": 0.7},
    {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 4},
    {
        "use_ema": True,
        "ema_momentum": 0.7,
        "gradient_accumulation_steps": 2,
        "ema_overwrite_frequency": 2,
    },
    {"learning_rate": schedules.ExponentialDecay(0.1, 3, 0.5)},
    {"learning_rate": schedules.ExponentialDecay(0.1, 3, 0.5), "gradient_accumulation_steps": 2},
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_rules_against_keras(name, settings):
    compare(name, **settings)


@pytest.mark.parametrize("settings", COMMON)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_common_arguments_against_keras(name, settings):
    compare(name, **settings)


# -- the formulas in float64 -----------------------------------------------------------------------


def sgd(w, g, s, t, lr=0.01, momentum=0.0, nesterov=False):
    s["v"] = v = momentum * s.get("v", 0) - lr * g
    return w + (momentum * v - lr * g if nesterov else v)


def rmsprop(w, g, s, t, lr=0.001, rho=0.9, momentum=0.0, eps=1e-7, centered=False):
    s["v"] = v = rho * s.get("v", 0) + (1 - rho) * g * g
    if centered:
        s["a"] = a = rho * s.get("a", 0) + (1 - rho) * g
        v = v - a * a
    s["m"] = m = momentum * s.get("m", 0) + lr * g / np.sqrt(v + eps)
    return w - m


def adam(w, g, s, t, lr=0.001, b1=0.9, b2=0.999, eps=1e-7, amsgrad=False):
    s["m"] = m = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = v = b2 * s.get("v", 0) + (1 - b2) * g * g
    if amsgrad:
        s["h"] = v = np.maximum(s.get("h", 0), v)
    return w - lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)


@pytest.mark.parametrize(
    ("name", "settings", "rule", "arguments"),
    [
        ("SGD", {}, sgd, {}),
        ("SGD", {"momentum": 0.9}, sgd, {"momentum": 0.9}),
        ("SGD", {"momentum": 0.9, "nesterov": True}, sgd, {"momentum": 0.9, "nesterov": True}),
        ("RMSprop", {}, rmsprop, {}),
        (
            "RMSprop",
            {"momentum": 0.9, "centered": True, "epsilon": 1e-3},
            rmsprop,
            {"momentum": 0.9, "centered": True, "eps": 1e-3},
        ),
        ("Adam", {}, adam, {}),
        ("Adam", {"amsgrad": True, "beta_2": 0.9}, adam, {"amsgrad": True, "b2": 0.9}),
    ],
)
def test_rules_against_the_formulas(name, settings, rule, arguments):
    optimizer = getattr(optimizers, name)(**settings)
    ws = variables()
    exact = [w.astype(np.float64) for w in start()]
    states = [{} for _ in exact]
    lr = float(optimizer.learning_rate)
    for step in range(STEPS):
        gs = gradients(step)
        optimizer.apply(gs, ws)
        exact = [
            rule(w, g.astype(np.float64), s, step + 1, lr=lr, **arguments)
            for w, g, s in zip(exact, gs, states, strict=True)
        ]
        for w, e in zip(ws, exact, strict=True):
            allowed = 2.0**-23 * (step + 1) * 4 * (np.abs(e) + 0.05)
            assert (np.abs(w.numpy() - e) <= allowed).all()


# -- around a step ---------------------------------------------------------------------------------


def test_apply_takes_the_gradients_of_variables_and_clears_them():
    x, y = np.random.default_rng(0).standard_normal((20, 3)), np.arange(20) % 2
    layer = layers.Dense(2, activation="softmax")
    loss_fn, optimizer = losses.SparseCategoricalCrossentropy(), optimizers.Adam(0.1)
    history = []
    for _ in range(30):
        loss = loss_fn(y, layer(x))
        loss.backward()
        optimizer.apply(layer.trainable_variables)
        assert all(v.grad is None for v in layer.weights)
        history.append(loss.item())
    assert history[-1] < history[0]
    loss_fn(y, layer(x)).backward()
    optimizer.apply()
    assert int(optimizer.iterations) == 31


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, ["adam_update"]), ({"clipnorm": 1.0}, ["gradient_square_sums", "adam_update"])],
)
def test_a_step_is_one_kernel_call_for_all_parameters(on_backend, settings, expected):  # noqa: F811
    called = []

    def record(_, name, kernel):
        return lambda *args: (called.append(name), kernel(*args))[1]

    ws, optimizer = variables(), optimizers.Adam(**settings)
    on_backend.instrument(record)
    try:
        optimizer.apply(gradients(0), ws)
    finally:
        on_backend.restore()
    assert called == expected


def test_all_ways_to_pass_gradients_are_one():
    results = []
    for way in range(4):
        (w,) = [Variable([1.0, 2.0], name="w")]
        optimizer = optimizers.SGD(0.5)
        g = np.array([1.0, -1.0])
        if way == 0:
            optimizer.apply([g], [w])
        elif way == 1:
            optimizer.apply([Tensor(g)], (w,))
        elif way == 2:
            optimizer.apply_gradients(zip([g.tolist()], [w], strict=True))
        else:
            optimizer.build([w])
            optimizer.apply([g])
        results.append(w.numpy().tolist())
    assert results == [[0.5, 2.5]] * 4


def test_variables_without_a_gradient_are_skipped_with_a_warning():
    ws, optimizer = variables(), optimizers.Adam()
    grads = gradients(0)
    optimizer.apply(grads, ws)
    before = [w.numpy() for w in ws]
    with pytest.warns(UserWarning, match="no gradient for bias, deep"):
        optimizer.apply([g if i not in (1, 3) else None for i, g in enumerate(grads)], ws)
    moved = [(w.numpy() != b).any() for w, b in zip(ws, before, strict=True)]
    assert moved == [True, False, True, False, True]
    optimizer.apply(grads[:2], ws[:2])  # a part of them
    with pytest.raises(ValueError, match="no gradient for any variable"):
        optimizer.apply([None] * 5, ws)


def test_a_step_is_noticed_by_a_pending_backward():
    w = Variable([2.0], name="w")
    loss = (w * w).sum()
    optimizers.SGD().apply([[1.0]], [w])
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ([np.ones((5, 3))], r"shape \(3, 5\) for kernel, got \(5, 3\)"),
        ([np.ones((3, 5)), np.ones(7)], "expected 1 gradients, got 2"),
    ],
)
def test_bad_gradients(grads, message):
    w = variables()[:1]
    with pytest.raises(ValueError, match=message):
        optimizers.SGD().apply(grads, w)


def test_unknown_variables():
    ws, optimizer = variables(), optimizers.SGD()
    with pytest.raises(TypeError, match="expected variables, got ndarray"):
        optimizers.SGD().apply([np.ones(3)], [np.ones(3)])
    with pytest.raises(ValueError, match="first apply needs the variables"):
        optimizer.apply()
    optimizer.apply(gradients(0)[:1], ws[:1])
    with pytest.raises(ValueError, match="built without the variables bias"):
        optimizer.apply(gradients(0)[1:2], ws[1:2])
    with pytest.raises(ValueError, match="twice"):
        optimizers.SGD().apply(gradients(0)[:1] * 2, ws[:1] * 2)


def test_exclude_from_weight_decay():
    optimizer, oracle = (
        optimizers.AdamW(0.1, weight_decay=0.5),
        keras.optimizers.AdamW(0.1, weight_decay=0.5),
    )
    ws = variables()
    ks = [keras.Variable(w, name=v.name) for w, v in zip(start(), ws, strict=True)]
    optimizer.exclude_from_weight_decay(var_list=[ws[3]], var_names=["bias", "gamma"])
    oracle.exclude_from_weight_decay(var_list=[ks[3]], var_names=["bias", "gamma"])
    for step in range(3):
        optimizer.apply(gradients(step), ws)
        quiet(oracle.apply, gradients(step), ks)
    for w, k in zip(ws, ks, strict=True):
        np.testing.assert_allclose(w.numpy(), quiet(k.numpy), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="before the first step"):
        optimizer.exclude_from_weight_decay(var_names=["kernel"])


def test_clipping_of_infinite_and_zero_gradients():
    w = Variable([1.0, 1.0], name="w")
    optimizers.SGD(clipnorm=1.0).apply([[0.0, 0.0]], [w])
    assert w.numpy().tolist() == [1.0, 1.0]
    optimizers.SGD(global_clipnorm=1.0).apply([[np.inf, 0.0]], [w])
    assert np.isnan(w.numpy()).all()


def test_learning_rate_is_settable():
    w, optimizer = Variable([0.0], name="w"), optimizers.SGD(0.1)
    assert float(optimizer.learning_rate) == np.float32(0.1)
    optimizer.learning_rate = 0.5
    optimizer.apply([[1.0]], [w])
    optimizer.learning_rate.assign(0.25)
    optimizer.apply([[1.0]], [w])
    assert w.numpy().tolist() == [-0.75]
    optimizer.learning_rate = schedules.PiecewiseConstantDecay([2], [1.0, 2.0])
    assert optimizer.learning_rate == 1.0
    with pytest.raises(TypeError, match="follows"):
        optimizer.learning_rate = 0.1
    calls = iter([1.0, 3.0])
    by_function = optimizers.SGD(lambda: next(calls))
    by_function.apply([[1.0]], [w])
    by_function.apply([[1.0]], [w])
    assert w.numpy().tolist() == [-4.75]
    assert optimizers.SGD(1).learning_rate.item() == 1.0


def test_state_can_be_put_back():
    ws, optimizer = variables(), optimizers.Adam(0.1, amsgrad=True, use_ema=True)
    for step in range(3):
        optimizer.apply(gradients(step), ws)
    saved = [(kind, v.name, array.copy()) for kind, v, array in optimizer.state_arrays()]
    assert [kind for kind, _, _ in saved[::5]] == [
        "momentum",
        "velocity",
        "velocity_hat",
        "average",
    ]
    weights, other_ws = [w.numpy() for w in ws], variables()
    other = optimizers.Adam.from_config(optimizer.get_config())
    other.build(other_ws)
    for v, w in zip(other_ws, weights, strict=True):
        v.assign(w)
    for (_, name, array), (_, v, target) in zip(saved, other.state_arrays(), strict=True):
        assert v.name == name
        target[...] = array
    other.iterations = int(optimizer.iterations)
    for o, vs in ((optimizer, ws), (other, other_ws)):
        o.apply(gradients(9), vs)
    for a, b in zip(ws, other_ws, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    names = [v.name for v in optimizer.variables]
    assert names[:3] == ["iteration", "learning_rate", "kernel_momentum"]
    assert len(set(names)) == len(names) == 2 + 4 * len(ws)


def test_a_rule_of_ones_own():
    class Signs(optimizers.Optimizer):
        def __init__(self, learning_rate=0.1, **kwargs):
            super().__init__(learning_rate, **kwargs)

        def build(self, variables):
            super().build(variables)
            self.counts = [self.add_variable_from_reference(v, "count") for v in variables]

        def update_step(self, gradient, variable, learning_rate):
            self.assign_add(self.counts[self._index[variable]], np.ones(variable.shape))
            self.assign_sub(variable, learning_rate * np.sign(gradient.numpy()))

    w = Variable([1.0, 1.0], name="w")
    optimizer = Signs(0.5, weight_decay=0.2)
    optimizer.apply([[3.0, -4.0]], [w])
    np.testing.assert_allclose(w.numpy(), [0.4, 1.4], rtol=1e-6)
    assert optimizer.variables[-1].numpy().tolist() == [1.0, 1.0]
    with pytest.raises(NotImplementedError, match="update_step"):
        optimizers.Optimizer(0.1).apply([[1.0, 1.0]], [w])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.SGD("fast"), "learning_rate: expected a finite number.*got 'fast'"),
        (lambda: optimizers.SGD(math.nan), "finite"),
        (lambda: optimizers.SGD(momentum=1.5), r"momentum in \[0, 1\]"),
        (lambda: optimizers.Adam(beta_1=1.0), r"beta_1 in \[0, 1\)"),
        (lambda: optimizers.AdamW(weight_decay=None), "weight_decay"),
        (lambda: optimizers.Adam(clipnorm=1.0, clipvalue=1.0), "one of clipnorm"),
        (lambda: optimizers.Adam(clipnorm="1"), "expected clipnorm to be a number > 0, got '1'"),
        (lambda: optimizers.Adam(clipvalue=-1.0), "expected clipvalue to be a number > 0"),
        (lambda: optimizers.SGD(weight_decay=-0.1), "expected weight_decay to be a number >= 0"),
        (lambda: optimizers.SGD(loss_scale_factor=0), "expected loss_scale_factor to be a number"),
        (lambda: optimizers.Adam(use_ema=True, ema_momentum=2.0), "ema_momentum"),
        (
            lambda: optimizers.Adam(use_ema=True, ema_overwrite_frequency=0),
            "ema_overwrite_frequency",
        ),
        (lambda: optimizers.Adam(gradient_accumulation_steps=1), "gradient_accumulation_steps"),
        (lambda: optimizers.Adam(lr=0.1), "Adam: unknown argument lr"),
        (
            lambda: optimizers.get("adm"),
            "unknown optimizer 'adm'; expected one of adam, adamw, rmsprop, sgd",
        ),
        (lambda: optimizers.get(3), "name, a config or an Optimizer"),
        (lambda: schedules.ExponentialDecay(0.1, 0, 0.5), "decay_steps > 0"),
        (lambda: schedules.PiecewiseConstantDecay([1], [1.0]), "one value more"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_identifiers():
    for name, cls in (
        ("Adam", "Adam"),
        ("sgd", "SGD"),
        ("RMSprop", "RMSprop"),
        ("rmsprop", "RMSprop"),
    ):
        assert type(optimizers.get(name)).__name__ == cls
    optimizer = optimizers.Adam(schedules.CosineDecay(0.1, 10), clipnorm=2.0)
    again = optimizers.get(optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert quiet(keras.optimizers.deserialize, optimizers.serialize(optimizer)).clipnorm == 2.0
    assert optimizers.get(optimizer) is optimizer
    assert isinstance(optimizers.get(optimizers.SGD), optimizers.SGD)


# -- schedules -------------------------------------------------------------------------------------


@given(
    step=st.integers(0, 60),
    case=st.sampled_from(
        [
            (
                "ExponentialDecay",
                {"initial_learning_rate": 0.3, "decay_steps": 7, "decay_rate": 0.4},
            ),
            (
                "ExponentialDecay",
                {
                    "initial_learning_rate": 0.3,
                    "decay_steps": 7,
                    "decay_rate": 0.4,
                    "staircase": True,
                },
            ),
            (
                "InverseTimeDecay",
                {"initial_learning_rate": 0.3, "decay_steps": 7, "decay_rate": 0.4},
            ),
            (
                "InverseTimeDecay",
                {
                    "initial_learning_rate": 0.3,
                    "decay_steps": 7,
                    "decay_rate": 0.4,
                    "staircase": True,
                },
            ),
            ("PolynomialDecay", {"initial_learning_rate": 0.3, "decay_steps": 20}),
            (
                "PolynomialDecay",
                {"initial_learning_rate": 0.3, "decay_steps": 9, "power": 0.5, "cycle": True},
            ),
            ("CosineDecay", {"initial_learning_rate": 0.3, "decay_steps": 20, "alpha": 0.1}),
            (
                "CosineDecay",
                {
                    "initial_learning_rate": 0.0,
                    "decay_steps": 20,
                    "warmup_target": 0.5,
                    "warmup_steps": 10,
                },
            ),
            ("PiecewiseConstantDecay", {"boundaries": [10, 30], "values": [1.0, 0.5, 0.1]}),
        ]
    ),
)
def test_schedules(step, case):
    name, settings = case
    ours = getattr(schedules, name)(**settings)
    oracle = getattr(keras.optimizers.schedules, name)(**settings)
    assert ours(step) == pytest.approx(float(quiet(oracle, step)), rel=1e-5, abs=1e-8)
    assert_configs(ours.get_config(), oracle.get_config())
    again = schedules.deserialize(schedules.serialize(ours))
    assert again.get_config() == ours.get_config() and again(step) == ours(step)
