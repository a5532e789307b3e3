"""Initial values of weights.

An initializer is called with a shape and gives a float32 array. A random one gives the same values
for the same seed and shape at each call; without a seed it draws one, when it is made, from the
generator that `keras.utils.set_random_seed` restarts. Fans follow the weights' layout, output axis
last: dense (fan_in, fan_out), convolution (kh, kw, fan_in / (kh kw), fan_out / (kh kw)).
"""

from __future__ import annotations

import math

import numpy as np

from .identifiers import Registry
from .random import SeedGenerator, next_seed

# Standard deviation of a standard normal cut at +-2.
_TRUNCATED_STDDEV = 0.87962566103423978


class Initializer:
    """Base: a subclass has ``__call__(shape, dtype=None)`` and, to be saved, ``get_config``."""

    def __call__(self, shape, dtype=None):
        raise NotImplementedError(f"{type(self).__name__} has no __call__(shape, dtype)")

    def get_config(self) -> dict:
        return {}

    @classmethod
    def from_config(cls, config: dict):
        return cls(**config)

    def clone(self):
        """Another one with the same settings."""
        return type(self).from_config(self.get_config())


class Constant(Initializer):
    """Every element is `value`."""

    def __init__(self, value=0.0):
        self.value = value

    def __call__(self, shape, dtype=None):
        return np.full(shape, self.value, dtype or "float32")

    def get_config(self):
        return {"value": self.value}


class Zeros(Initializer):
    """Zeros."""

    def __call__(self, shape, dtype=None):
        return np.zeros(shape, dtype or "float32")


class Ones(Initializer):
    """Ones."""

    def __call__(self, shape, dtype=None):
        return np.ones(shape, dtype or "float32")


class Identity(Initializer):
    """`gain` on the diagonal of a matrix, zeros elsewhere.

    Raises:
        ValueError: a shape that is not that of a matrix.
    """

    def __init__(self, gain=1.0):
        self.gain = gain

    def __call__(self, shape, dtype=None):
        if len(shape) != 2:
            raise ValueError(f"Identity: expected a shape of two axes, got {tuple(shape)}")
        return (self.gain * np.eye(*shape)).astype(dtype or "float32")

    def get_config(self):
        return {"gain": self.gain}


class RandomInitializer(Initializer):
    """Base of those that draw; a `SeedGenerator` as `seed` gives other values at each call."""

    def __init__(self, seed=None):
        if isinstance(seed, dict):
            seed = SeedGenerator.from_config(seed.get("config", seed))
        is_integer = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
        if seed is not None and not is_integer and not isinstance(seed, SeedGenerator):
            raise ValueError(
                f"{type(self).__name__}: expected an integer seed or None, got {seed!r}"
            )
        self._seed = seed
        self.seed = next_seed() if seed is None else seed

    def _generator(self) -> np.random.Generator:
        seed = self.seed.next() if isinstance(self.seed, SeedGenerator) else self.seed
        return np.random.Generator(np.random.PCG64(abs(int(seed))))

    def get_config(self):
        seed = self._seed
        return {"seed": seed.get_config() if isinstance(seed, SeedGenerator) else seed}


class RandomNormal(RandomInitializer):
    """Normal with `mean` and `stddev`."""

    def __init__(self, mean=0.0, stddev=0.05, seed=None):
        super().__init__(seed)
        self.mean = mean
        self.stddev = stddev

    def __call__(self, shape, dtype=None):
        z = self._generator().standard_normal(shape, np.float32)
        return (self.mean + self.stddev * z).astype(dtype or "float32")

    def get_config(self):
        return {"mean": self.mean, "stddev": self.stddev} | super().get_config()


class TruncatedNormal(RandomInitializer):
    """Normal with `mean` and `stddev`, drawn again where it is more than two `stddev` away."""

    def __init__(self, mean=0.0, stddev=0.05, seed=None):
        super().__init__(seed)
        self.mean = mean
        self.stddev = stddev

    def __call__(self, shape, dtype=None):
        z = _truncated_normal(self._generator(), shape)
        return (self.mean + self.stddev * z).astype(dtype or "float32")

    def get_config(self):
        return {"mean": self.mean, "stddev": self.stddev} | super().get_config()


class RandomUniform(RandomInitializer):
    """Uniform in [minval, maxval)."""

    def __init__(self, minval=-0.05, maxval=0.05, seed=None):
        super().__init__(seed)
        self.minval = minval
        self.maxval = maxval

    def __call__(self, shape, dtype=None):
        return _uniform(self._generator(), shape, self.minval, self.maxval).astype(
            dtype or "float32"
        )

    def get_config(self):
        return {"minval": self.minval, "maxval": self.maxval} | super().get_config()


class VarianceScaling(RandomInitializer):
    """Variance scale / fan, so that a layer keeps the variance of what flows through it.

    Args:
        scale: positive.
        mode: the fan: "fan_in", "fan_out" or "fan_avg", their mean.
        distribution: "truncated_normal" (cut at two of its standard deviations and rescaled to the
            variance), "untruncated_normal" or "uniform" in +-sqrt(3 scale / fan).
        seed: an integer, a `SeedGenerator` or None.
        input_axes, output_axes: which axes make up the fans, where the layout is not the usual one.

    Raises:
        ValueError: an unknown mode or distribution, a scale that is not positive.

    >>> w = VarianceScaling(seed=1)((100, 50))
    >>> bool(abs(w.std() - 0.1) < 0.01)
    True
    """

    def __init__(
        self,
        scale=1.0,
        mode="fan_in",
        distribution="truncated_normal",
        seed=None,
        input_axes=None,
        output_axes=None,
    ):
        name = type(self).__name__
        if not scale > 0:
            raise ValueError(f"{name}: expected a positive scale, got {scale!r}")
        if mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ValueError(f"{name}: expected mode fan_in, fan_out or fan_avg, got {mode!r}")
        distribution = "truncated_normal" if distribution == "normal" else distribution
        if distribution not in ("truncated_normal", "untruncated_normal", "uniform"):
            raise ValueError(
                f"{name}: expected distribution truncated_normal, untruncated_normal or uniform, "
                f"got {distribution!r}"
            )
        super().__init__(seed)
        self.scale = scale
        self.mode = mode
        self.distribution = distribution
        self.input_axes = input_axes
        self.output_axes = output_axes

    def __call__(self, shape, dtype=None):
        fan_in, fan_out = compute_fans(shape, self.input_axes, self.output_axes)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, fan)
        rng = self._generator()
        if self.distribution == "uniform":
            limit = math.sqrt(3 * variance)
            w = _uniform(rng, shape, -limit, limit)
        elif self.distribution == "untruncated_normal":
            w = math.sqrt(variance) * rng.standard_normal(shape, np.float32)
        else:
            w = math.sqrt(variance) / _TRUNCATED_STDDEV * _truncated_normal(rng, shape)
        return w.astype(dtype or "float32")

    def get_config(self):
        config = super().get_config() | {
            "input_axes": self.input_axes,
            "output_axes": self.output_axes,
        }
        if type(self) is VarianceScaling:
            config |= {"scale": self.scale, "mode": self.mode, "distribution": self.distribution}
        return config


class GlorotUniform(VarianceScaling):
    """Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010)."""

    def __init__(self, seed=None, input_axes=None, output_axes=None):
        super().__init__(1.0, "fan_avg", "uniform", seed, input_axes, output_axes)


class GlorotNormal(VarianceScaling):
    """Truncated normal of variance 2 / (fan_in + fan_out) (Glorot and Bengio, AISTATS 2010)."""

    def __init__(self, seed=None, input_axes=None, output_axes=None):
        super().__init__(1.0, "fan_avg", "truncated_normal", seed, input_axes, output_axes)


class HeUniform(VarianceScaling):
    """Uniform in +-sqrt(6 / fan_in) (He et al., arXiv:1502.01852)."""

    def __init__(self, seed=None, input_axes=None, output_axes=None):
        super().__init__(2.0, "fan_in", "uniform", seed, input_axes, output_axes)


class HeNormal(VarianceScaling):
    """Truncated normal of variance 2 / fan_in (He et al., arXiv:1502.01852)."""

    def __init__(self, seed=None, input_axes=None, output_axes=None):
        super().__init__(2.0, "fan_in", "truncated_normal", seed, input_axes, output_axes)


class LecunUniform(VarianceScaling):
    """Uniform in +-sqrt(3 / fan_in) (LeCun et al., Efficient BackProp, 1998)."""

    def __init__(self, seed=None, input_axes=None, output_axes=None):
        super().__init__(1.0, "fan_in", "uniform", seed, input_axes, output_axes)


class LecunNormal(VarianceScaling):
    """Truncated normal of variance 1 / fan_in (LeCun et al., Efficient BackProp, 1998)."""

    def __init__(self, seed=None, input_axes=None, output_axes=None):
        super().__init__(1.0, "fan_in", "truncated_normal", seed, input_axes, output_axes)


class Orthogonal(RandomInitializer):
    """`gain` times orthonormal columns, or rows if fewer (Saxe et al., arXiv:1312.6120).

    A shape of more than two axes counts as the matrix (all but the last, last).

    Raises:
        ValueError: a shape of fewer than two axes.
    """

    def __init__(self, gain=1.0, seed=None):
        super().__init__(seed)
        self.gain = gain

    def __call__(self, shape, dtype=None):
        if len(shape) < 2:
            raise ValueError(
                f"Orthogonal: expected a shape of two axes or more, got {tuple(shape)}"
            )
        rows, cols = math.prod(shape[:-1]), shape[-1]
        tall = self._generator().standard_normal((max(rows, cols), min(rows, cols)))
        q, r = np.linalg.qr(tall)
        q *= np.sign(np.diag(r))  # one q per draw, whatever the signs that LAPACK chose
        q = q.T if rows < cols else q
        return (self.gain * q.reshape(shape)).astype(dtype or "float32")

    def get_config(self):
        return {"gain": self.gain} | super().get_config()


def compute_fans(shape, input_axes=None, output_axes=None) -> tuple[float, float]:
    """(fan_in, fan_out) of a weight; leading axes of a convolution's are its window.

    >>> compute_fans((3, 3, 16, 32))
    (144, 288)
    """
    shape = tuple(shape)
    if input_axes is not None or output_axes is not None:
        axes = [{a % len(shape) for a in _axes(given)} for given in (input_axes, output_axes)]
        if axes[0] & axes[1]:
            raise ValueError(f"compute_fans: axes {sorted(axes[0] & axes[1])} are input and output")
        window = math.prod(n for a, n in enumerate(shape) if a not in axes[0] | axes[1])
        fan_in, fan_out = (math.prod(shape[a] for a in group) for group in axes)
        return fan_in * window, fan_out * window
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def _axes(given) -> tuple[int, ...]:
    return () if given is None else (given,) if isinstance(given, int) else tuple(given)


def _uniform(rng, shape, low, high):
    return low + (high - low) * rng.random(shape, np.float32)


def _truncated_normal(rng, shape):
    z = rng.standard_normal(shape, np.float32)
    outside = np.abs(z) > 2
    while outside.any():
        z[outside] = rng.standard_normal(int(outside.sum()), np.float32)
        outside = np.abs(z) > 2
    return z


# Keras's other names for the same classes.
constant = Constant
zeros = Zeros
ones = Ones
identity = IdentityInitializer = Identity
random_normal = RandomNormal
random_uniform = RandomUniform
truncated_normal = TruncatedNormal
variance_scaling = VarianceScaling
glorot_uniform = GlorotUniform
glorot_normal = GlorotNormal
he_uniform = HeUniform
he_normal = HeNormal
lecun_uniform = LecunUniform
lecun_normal = LecunNormal
orthogonal = OrthogonalInitializer = Orthogonal

_registry = Registry(
    "initializer",
    "keras.initializers",
    (
        *(Constant, Zeros, Ones, Identity, RandomNormal, TruncatedNormal, RandomUniform),
        *(
            VarianceScaling,
            GlorotUniform,
            GlorotNormal,
            HeUniform,
            HeNormal,
            LecunUniform,
            LecunNormal,
        ),
        Orthogonal,
    ),
    aliases={
        "uniform": RandomUniform,
        "normal": RandomNormal,
        "one": Ones,
        "zero": Zeros,
        "IdentityInitializer": Identity,
        "OrthogonalInitializer": Orthogonal,
    },
)


def get(identifier):
    """The initializer of a name, a config, a class, a callable ``f(shape, dtype=)`` or None (None).

    Raises:
        ValueError: an unknown name; the message lists all.

    >>> type(get("he_normal")).__name__
    'HeNormal'
    """
    return _registry.get(identifier)


def serialize(initializer):
    """The config of an initializer."""
    return _registry.serialize(initializer)


def deserialize(config, custom_objects=None):
    """The initializer of a config or a name."""
    return _registry.deserialize(config, custom_objects)
