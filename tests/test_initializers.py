"""Initializers: limits, moments, fans and seeds; Keras 3 is the oracle of settings and fans."""

from __future__ import annotations

import math

import numpy as np
import pytest
from keras_oracle import assert_configs, keras, plain, quiet

from tilegrad.keras import SeedGenerator, initializers, layers, random, utils

SHAPES = [(64, 128), (128, 64), (3, 3, 24, 40), (2000,)]
FAMILIES = {  # name -> (scale, fan, distribution)
    "glorot_uniform": (1, "avg", "uniform"),
    "glorot_normal": (1, "avg", "truncated"),
    "he_uniform": (2, "in", "uniform"),
    "he_normal": (2, "in", "truncated"),
    "lecun_uniform": (1, "in", "uniform"),
    "lecun_normal": (1, "in", "truncated"),
}


def fans(shape):
    if len(shape) == 1:
        return shape[0], shape[0]
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def assert_moments(w, mean, std):
    """Mean and deviation within five standard errors of what they should be."""
    assert w.dtype == np.float32
    n = w.size
    assert abs(w.mean(dtype=np.float64) - mean) <= 5 * std / math.sqrt(n)
    assert abs(w.std(dtype=np.float64) / std - 1) <= 5 / math.sqrt(n)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_variance_scaling(name, shape):
    scale, fan, distribution = FAMILIES[name]
    fan_in, fan_out = fans(shape)
    variance = scale / {"in": fan_in, "avg": (fan_in + fan_out) / 2}[fan]
    w = initializers.get(name)(shape)
    assert w.shape == shape
    assert_moments(w, 0.0, math.sqrt(variance))
    limit = (
        math.sqrt(3 * variance)
        if distribution == "uniform"
        else 2 * math.sqrt(variance) / 0.87962566
    )
    assert np.abs(w).max() <= limit * (1 + 1e-6)
    assert np.abs(w).max() >= 0.95 * limit
    oracle = np.asarray(getattr(keras.initializers, name)(seed=1)(shape))
    assert abs(np.abs(oracle).max() / np.abs(w).max() - 1) < 0.05
    assert abs(oracle.std() / w.std() - 1) < 10 / math.sqrt(w.size)


@pytest.mark.parametrize(
    ("name", "settings", "mean", "std"),
    [
        ("RandomNormal", {}, 0, 0.05),
        ("RandomNormal", {"mean": 2.0, "stddev": 0.5}, 2, 0.5),
        ("RandomUniform", {}, 0, 0.1 / math.sqrt(12)),
        ("RandomUniform", {"minval": 1.0, "maxval": 3.0}, 2, 2 / math.sqrt(12)),
        ("TruncatedNormal", {}, 0, 0.05 * 0.87962566),
        ("TruncatedNormal", {"mean": -1.0, "stddev": 2.0}, -1, 2 * 0.87962566),
        (
            "VarianceScaling",
            {"scale": 3.0, "distribution": "untruncated_normal"},
            0,
            math.sqrt(3 / 64),
        ),
        ("VarianceScaling", {"mode": "fan_out", "distribution": "uniform"}, 0, math.sqrt(1 / 128)),
    ],
)
def test_distributions(name, settings, mean, std):
    ours = getattr(initializers, name)(**settings)
    w = ours((64, 128))
    assert_moments(w, mean, std)
    if name == "TruncatedNormal":
        assert np.abs(w - settings.get("mean", 0)).max() <= 2 * settings.get("stddev", 0.05) * (
            1 + 1e-6
        )
    if name == "RandomUniform":
        assert settings.get("minval", -0.05) <= w.min() < w.max() <= settings.get("maxval", 0.05)
    oracle = getattr(keras.initializers, name)(**settings)
    assert_configs(ours.get_config(), oracle.get_config(), ignore=("input_axes", "output_axes"))


def test_fixed_values():
    assert initializers.Zeros()((2, 3)).tolist() == [[0] * 3] * 2
    assert initializers.Ones()((2,), dtype="int32").dtype == np.int32
    assert initializers.Constant(2.5)((1,)).tolist() == [2.5]
    np.testing.assert_array_equal(initializers.Identity(2.0)((2, 3)), 2 * np.eye(2, 3))
    with pytest.raises(ValueError, match="two axes"):
        initializers.Identity()((2, 3, 4))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (3, 3, 2, 7), (2, 2, 1, 3)])
def test_orthogonal(shape):
    w = initializers.Orthogonal(gain=1.5, seed=0)(shape)
    matrix = w.reshape(-1, shape[-1]).astype(np.float64) / 1.5
    product = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-6)
    with pytest.raises(ValueError, match="two axes or more"):
        initializers.Orthogonal()((3,))


def test_a_seed_repeats_and_no_seed_does_not():
    a = initializers.GlorotUniform(seed=3)
    np.testing.assert_array_equal(a((4, 4)), a((4, 4)))
    np.testing.assert_array_equal(a((4, 4)), initializers.GlorotUniform(seed=3)((4, 4)))
    assert (initializers.GlorotUniform()((4, 4)) != initializers.GlorotUniform()((4, 4))).any()
    moving = initializers.RandomNormal(seed=SeedGenerator(5))
    assert (moving((8,)) != moving((8,))).any()
    assert initializers.get(initializers.serialize(moving)).seed.start == 5


def test_set_random_seed_repeats_weights():
    def weights():
        layer = layers.Dense(5)
        layer.build((None, 7))
        return layer.get_weights()[0]

    utils.set_random_seed(42)
    first, second = weights(), weights()
    assert (first != second).any()
    utils.set_random_seed(42)
    np.testing.assert_array_equal(weights(), first)
    np.testing.assert_array_equal(weights(), second)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (3, 5, 6), (2, 3, 4, 5)])
def test_fans(shape):
    from keras.src.initializers.random_initializers import compute_fans

    assert initializers.compute_fans(shape) == tuple(compute_fans(shape))


def test_fans_of_given_axes():
    assert initializers.compute_fans((2, 3, 4), input_axes=0, output_axes=(1, 2)) == (2, 12)
    assert initializers.compute_fans((2, 3, 4), input_axes=1, output_axes=2) == (6, 8)
    with pytest.raises(ValueError, match="input and output"):
        initializers.compute_fans((2, 3), input_axes=0, output_axes=0)


def test_identifiers():
    for name in initializers._registry.names():
        ours = initializers.get(name)
        assert isinstance(ours, initializers.Initializer)
        again = initializers.get(initializers.serialize(ours))
        assert type(again) is type(ours) and again.get_config() == ours.get_config()
        if name != "constant":  # which Keras cannot find by its name alone
            quiet(keras.initializers.get, name)
    for cls in (
        initializers.HeNormal,
        initializers.Constant,
        initializers.Orthogonal,
        initializers.Zeros,
    ):
        oracle = quiet(keras.initializers.deserialize, plain(initializers.serialize(cls())))
        assert type(oracle).__name__ == cls.__name__
    assert isinstance(initializers.get(initializers.Ones), initializers.Ones)
    assert initializers.get(None) is None
    assert initializers.get("glorot_uniform") is not initializers.get("glorot_uniform")
    with pytest.raises(
        ValueError, match=r"unknown initializer 'glorot'; expected one of .*glorot_uniform"
    ):
        initializers.get("glorot")
    own = layers.Dense(2, kernel_initializer=lambda shape, dtype=None: np.full(shape, 3.0))
    assert own([[1.0]]).numpy().tolist() == [[3.0, 3.0]]
    wrong = layers.Dense(2, kernel_initializer=lambda shape, dtype=None: np.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"expected a value of shape \(1, 2\), got \(1, 1\)"):
        wrong([[1.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: initializers.VarianceScaling(scale=0), "positive scale"),
        (lambda: initializers.VarianceScaling(mode="fan"), "mode"),
        (lambda: initializers.VarianceScaling(distribution="cauchy"), "distribution"),
        (lambda: initializers.RandomNormal(seed=0.5), "integer seed"),
        (lambda: SeedGenerator("a"), "integer or None"),
        (lambda: random.set_seed(-1), "non-negative"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_mixed_seeds_are_those_of_splitmix64():
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # of seed 0
    assert [random.mix(0, counter) for counter in range(3)] == known


def test_mixed_seeds_are_spread():
    seeds = {random.mix(seed, counter) for seed in range(50) for counter in range(50)}
    assert len(seeds) == 2500 and all(0 <= s < 2**64 for s in seeds)
    ones = np.mean([bin(s).count("1") for s in seeds])
    assert abs(ones - 32) < 0.5
