"""Learning rates that depend on the step: called with the steps done, they give a float."""

from __future__ import annotations

import math

from ..identifiers import Registry


class LearningRateSchedule:
    """Base: a subclass has ``__call__(step)`` and, to be saved, ``get_config()``."""

    def __call__(self, step):
        raise NotImplementedError(f"{type(self).__name__} has no __call__(step)")

    def get_config(self) -> dict:
        raise NotImplementedError(f"{type(self).__name__} has no get_config()")

    @classmethod
    def from_config(cls, config: dict):
        return cls(**config)


class _Decay(LearningRateSchedule):
    """Over `decay_steps` steps, from `initial_learning_rate`."""

    def __init__(self, initial_learning_rate, decay_steps, name):
        if not decay_steps > 0:
            raise ValueError(
                f"{type(self).__name__}: expected decay_steps > 0, got {decay_steps!r}"
            )
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.name = name

    def get_config(self):
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "name": self.name,
        }


class ExponentialDecay(_Decay):
    """initial decay_rate^(step / decay_steps); `staircase` rounds the exponent down.

    >>> ExponentialDecay(1.0, decay_steps=10, decay_rate=0.5)(20)
    0.25
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        decay_rate,
        staircase=False,
        name="ExponentialDecay",
    ):
        super().__init__(initial_learning_rate, decay_steps, name)
        self.decay_rate = decay_rate
        self.staircase = staircase

    def __call__(self, step):
        p = int(step) / self.decay_steps
        return self.initial_learning_rate * self.decay_rate ** (
            math.floor(p) if self.staircase else p
        )

    def get_config(self):
        return super().get_config() | {"decay_rate": self.decay_rate, "staircase": self.staircase}


class InverseTimeDecay(_Decay):
    """initial / (1 + decay_rate step / decay_steps); `staircase` rounds the quotient down."""

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        decay_rate,
        staircase=False,
        name="InverseTimeDecay",
    ):
        super().__init__(initial_learning_rate, decay_steps, name)
        self.decay_rate = decay_rate
        self.staircase = staircase

    def __call__(self, step):
        p = int(step) / self.decay_steps
        return self.initial_learning_rate / (
            1 + self.decay_rate * (math.floor(p) if self.staircase else p)
        )

    def get_config(self):
        return super().get_config() | {"decay_rate": self.decay_rate, "staircase": self.staircase}


class PolynomialDecay(_Decay):
    """(initial - end) (1 - step / decay_steps)^power + end; afterwards end, or with `cycle` again.

    A cycle stretches decay_steps to its next multiple that the step does not exceed.
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        end_learning_rate=0.0001,
        power=1.0,
        cycle=False,
        name="PolynomialDecay",
    ):
        super().__init__(initial_learning_rate, decay_steps, name)
        self.end_learning_rate = end_learning_rate
        self.power = power
        self.cycle = cycle

    def __call__(self, step):
        step = int(step)
        if self.cycle:
            p = step / (self.decay_steps * max(1, math.ceil(step / self.decay_steps)))
        else:
            p = min(step, self.decay_steps) / self.decay_steps
        span = self.initial_learning_rate - self.end_learning_rate
        return span * (1 - p) ** self.power + self.end_learning_rate

    def get_config(self):
        settings = {
            "end_learning_rate": self.end_learning_rate,
            "power": self.power,
            "cycle": self.cycle,
        }
        return super().get_config() | settings


class CosineDecay(_Decay):
    """Half a cosine down from the initial rate to alpha times it (arXiv:1608.03983).

    Args:
        initial_learning_rate: the first rate.
        decay_steps: how long the cosine takes.
        alpha: the last rate, as a share of the first.
        warmup_target: rise linearly from the initial rate to this one first; None for no warmup.
        warmup_steps: how long the rise takes.
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        alpha=0.0,
        name="CosineDecay",
        warmup_target=None,
        warmup_steps=0,
    ):
        super().__init__(initial_learning_rate, decay_steps, name)
        self.alpha = alpha
        self.warmup_target = warmup_target
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        step, start = int(step), self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return start + (self.warmup_target - start) * step / self.warmup_steps
            step, start = step - self.warmup_steps, self.warmup_target
        cosine = 0.5 * (1 + math.cos(math.pi * min(step / self.decay_steps, 1)))
        return start * ((1 - self.alpha) * cosine + self.alpha)

    def get_config(self):
        return super().get_config() | {
            "alpha": self.alpha,
            "warmup_target": self.warmup_target,
            "warmup_steps": self.warmup_steps,
        }


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[i] up to and including step boundaries[i], values[-1] afterwards.

    Raises:
        ValueError: not one value more than boundaries.

    >>> schedule = PiecewiseConstantDecay([2, 4], [1.0, 0.5, 0.1])
    >>> [schedule(step) for step in (2, 3, 5)]
    [1.0, 0.5, 0.1]
    """

    def __init__(self, boundaries, values, name="PiecewiseConstant"):
        if len(boundaries) != len(values) - 1:
            raise ValueError(
                "PiecewiseConstantDecay: expected one value more than boundaries, "
                f"got {len(values)} values and {len(boundaries)} boundaries"
            )
        self.boundaries = list(boundaries)
        self.values = list(values)
        self.name = name

    def __call__(self, step):
        return self.values[sum(int(step) > boundary for boundary in self.boundaries)]

    def get_config(self):
        return {"boundaries": self.boundaries, "values": self.values, "name": self.name}


_registry = Registry(
    "learning rate schedule",
    "keras.optimizers.schedules",
    (ExponentialDecay, InverseTimeDecay, PolynomialDecay, CosineDecay, PiecewiseConstantDecay),
)


def serialize(learning_rate_schedule):
    """The config of a schedule."""
    return _registry.serialize(learning_rate_schedule)


def deserialize(config, custom_objects=None):
    """The schedule of a config from `serialize`."""
    return _registry.deserialize(config, custom_objects)
