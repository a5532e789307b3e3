"""`Optimizer`: what all rules share, from gradients to one kernel call for all parameters."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np

from ... import backend, recording
from ...interrupts import uninterrupted
from ...tensor import Tensor
from .. import initializers
from ..naming import auto_name
from ..variable import Variable
from . import schedules

_ADD = backend.BINARY["add"]


class _Scalar(Variable):
    """A number that Python looks at in every step.

    On a GPU it looks at a copy, since to read from there is to wait for all that runs.
    """

    __slots__ = ("_copied", "_copy")

    def item(self):
        if isinstance(self.data, np.ndarray):
            return self.data.item()
        if getattr(self, "_copied", None) != self._version[0]:
            self._copy, self._copied = self.data.item(), self._version[0]
        return self._copy

    def increment(self) -> None:
        data = self.data
        if isinstance(data, np.ndarray):
            recording.count(data)
            return
        data += 1
        if getattr(self, "_copied", None) == self._version[0]:
            self._copy += 1

    def move_to(self, device) -> None:
        self.data, self.device = self.to(device).data, device


class Optimizer(recording.Watched):
    """Base of all optimizers.

    A step multiplies the gradients by 1 / loss_scale_factor, clips them, shrinks the weights by
    ``learning_rate * weight_decay`` times themselves, and applies the rule. A subclass names its
    state in `state_names` and calls its kernel in `update`; or, slower and in plain Python, it
    defines ``build`` and ``update_step(gradient, variable, learning_rate)`` as in Keras.

    Args:
        learning_rate: a number, a `LearningRateSchedule`, or a callable without arguments.
        weight_decay: decoupled weight decay; None for none.
        clipnorm: each gradient's norm is at most this.
        clipvalue: each element of a gradient is within +- this.
        global_clipnorm: the norm of all gradients together is at most this.
        use_ema: keep an exponential moving average of the weights.
        ema_momentum: average = ema_momentum average + (1 - ema_momentum) weight.
        ema_overwrite_frequency: replace the weights by the average every so many steps; None: only
            in `finalize_variable_values`.
        loss_scale_factor: what `scale_loss` multiplies by and `apply` divides by.
        gradient_accumulation_steps: update at every n-th call only, with the mean of n gradients.
        name: snake_case class name and a counter by default.

    Raises:
        ValueError: a bad argument, more than one kind of clipping, an unknown argument.
    """

    unwatched = frozenset(("learning_rate", "_learning_rate", "iterations"))

    def __init__(
        self,
        learning_rate,
        weight_decay=None,
        clipnorm=None,
        clipvalue=None,
        global_clipnorm=None,
        use_ema=False,
        ema_momentum=0.99,
        ema_overwrite_frequency=None,
        loss_scale_factor=None,
        gradient_accumulation_steps=None,
        name=None,
        **kwargs,
    ):
        cls = type(self).__name__
        if kwargs:
            raise ValueError(
                f"{cls}: unknown argument{'s'[: len(kwargs) > 1]} {', '.join(sorted(kwargs))}"
            )
        if sum(x is not None for x in (clipnorm, clipvalue, global_clipnorm)) > 1:
            raise ValueError(
                f"{cls}: expected one of clipnorm, clipvalue and global_clipnorm at most, "
                f"got {clipnorm=}, {clipvalue=}, {global_clipnorm=}"
            )
        if use_ema and not 0 <= ema_momentum <= 1:
            raise ValueError(f"{cls}: expected ema_momentum in [0, 1], got {ema_momentum!r}")
        for what, value, least in (
            ("ema_overwrite_frequency", ema_overwrite_frequency, 1),
            ("gradient_accumulation_steps", gradient_accumulation_steps, 2),
        ):
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(
                    f"{cls}: expected {what} to be an integer >= {least}, got {value!r}"
                )
        for what, value, positive in (
            ("weight_decay", weight_decay, False),
            ("clipnorm", clipnorm, True),
            ("clipvalue", clipvalue, True),
            ("global_clipnorm", global_clipnorm, True),
            ("loss_scale_factor", loss_scale_factor, True),
        ):
            if value is None:
                continue
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if not number or not (value > 0 if positive else value >= 0):
                least = "> 0" if positive else ">= 0"
                raise ValueError(f"{cls}: expected {what} to be a number {least}, got {value!r}")
        self.name = auto_name(cls) if name is None else name
        self.weight_decay = weight_decay
        self.clipnorm = clipnorm
        self.clipvalue = clipvalue
        self.global_clipnorm = global_clipnorm
        self.use_ema = use_ema
        self.ema_momentum = ema_momentum
        self.ema_overwrite_frequency = ema_overwrite_frequency
        self.loss_scale_factor = loss_scale_factor
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.built = False
        self._iterations = self._scalar(np.int64(0), "iteration")
        if callable(learning_rate):
            self._learning_rate = learning_rate
        else:
            rate = np.float32(_number(f"{cls}: learning_rate", learning_rate))
            self._learning_rate = self._scalar(rate, "learning_rate")
        self._excluded = (set(), None)
        self._parameters: list[Variable] = []
        self._index: dict[Variable, int] = {}
        self._state: dict[str, list[Variable]] = {}
        self._added: list[Variable] = []

    # -- state -------------------------------------------------------------------------------------

    def _scalar(self, value, name) -> Variable:
        variable = _Scalar(value, trainable=False, name=name)
        variable.path = f"{self.name}/{name}"
        return variable

    def state_names(self) -> tuple[str, ...]:
        """The kinds of state that the rule keeps per parameter, in the kernel's order."""
        return ()

    def build(self, variables) -> None:
        """Make the state for `variables`; `apply` does it at its first call."""
        self._parameters = list(variables)
        for v in self._parameters:
            if not isinstance(v, Tensor):
                raise TypeError(f"{self.name}: expected variables, got {type(v).__name__}")
        self._index = {v: i for i, v in enumerate(self._parameters)}
        if len(self._index) != len(self._parameters):
            raise ValueError(f"{self.name}: expected each variable once, got some of them twice")
        self._names = tuple(self.state_names())
        devices = {v.device for v in self._parameters}
        if len(devices) > 1:
            raise ValueError(
                f"{self.name}: expected variables on one device, got {sorted(devices)}"
            )
        for device in devices:  # one, or none where there are no variables
            for scalar in (self._iterations, self._learning_rate):
                if isinstance(scalar, _Scalar):
                    scalar.move_to(device)
        names = list(self._names)
        if self.use_ema:
            names.append("average")
        if self.gradient_accumulation_steps:
            names.append("gradient_accumulator")
        self._state = {
            name: [self.add_variable_from_reference(v, name, track=False) for v in self._parameters]
            for name in names
        }
        decay = self.weight_decay or 0.0
        self._decay = np.array([decay * self._decays(v) for v in self._parameters], np.float32)
        k = backend.get(next(iter(devices), backend.default_device()))
        self._square_sums = k.empty((len(self._parameters),), np.dtype(np.float64))
        self._scale = np.empty(len(self._parameters), np.float32)
        self._state_arrays = [[v.data for v in self._state[name]] for name in self._names]
        self.built = True

    def add_variable_from_reference(
        self, reference_variable, name=None, initializer="zeros", *, track=True
    ) -> Variable:
        """State of a parameter's shape, named after it."""
        path = (getattr(reference_variable, "path", None) or "variable").replace("/", "_")
        value = initializers.get(initializer)(reference_variable.shape, dtype="float32")
        variable = Variable(
            value,
            trainable=False,
            name=f"{path}_{name or 'var'}",
            device=getattr(reference_variable, "device", None),
        )
        variable.path = f"{self.name}/{variable.name}"
        if track:
            self._added.append(variable)
        return variable

    @property
    def variables(self) -> list[Variable]:
        """The whole state: iteration, learning rate, then each kind for all parameters."""
        rate = [self._learning_rate] if isinstance(self._learning_rate, Variable) else []
        return [
            self._iterations,
            *rate,
            *(v for kind in self._state.values() for v in kind),
            *self._added,
        ]

    def state_arrays(self) -> list[tuple[str, Variable, np.ndarray]]:
        """(kind, parameter, array) for a checkpoint; the arrays are the state, not copies (and
        CuPy's on a GPU).

        With `iterations` and the learning rate in `get_config` they are all that a step depends on.
        """
        return [
            (kind, parameter, state.data)
            for kind, states in self._state.items()
            for parameter, state in zip(self._parameters, states, strict=True)
        ]

    @property
    def iterations(self):
        """How many steps were made, not counting mere accumulation of gradients. May be set."""
        if self.gradient_accumulation_steps:
            return int(self._iterations) // self.gradient_accumulation_steps
        return self._iterations

    @iterations.setter
    def iterations(self, value) -> None:
        self._iterations.assign(int(value) * (self.gradient_accumulation_steps or 1))

    @property
    def learning_rate(self):
        """The rate of the next step: a variable, or a float from a schedule. May be set.

        Raises:
            TypeError: setting a number where a schedule rules.
        """
        if isinstance(self._learning_rate, Variable):
            return self._learning_rate
        return self._rate()

    @learning_rate.setter
    def learning_rate(self, value) -> None:
        if callable(value) and not isinstance(value, Tensor):
            self._learning_rate = value
        elif isinstance(self._learning_rate, Variable):
            self._learning_rate.assign(np.float32(_number(f"{self.name}: learning_rate", value)))
        else:
            raise TypeError(
                f"{self.name}: the learning rate follows {type(self._learning_rate).__name__}; "
                "make the optimizer with a number to set it by hand"
            )

    def _rate(self) -> float:
        if isinstance(self._learning_rate, Variable):
            return float(self._learning_rate)
        if isinstance(self._learning_rate, schedules.LearningRateSchedule):
            return float(self._learning_rate(int(self._iterations)))
        return float(self._learning_rate())

    # -- one step ----------------------------------------------------------------------------------

    def apply(self, grads=None, trainable_variables=None) -> None:
        """One step.

        Args:
            grads: a gradient (tensor, array or None) per variable. Left out, or given variables
                instead, it takes the variables' own ``grad`` and clears it, so that a loop needs no
                zero_grad.
            trainable_variables: the variables to change; those of the first call by default.

        Raises:
            ValueError: no gradient at all, or one of another shape; a variable not seen before.

        >>> from tilegrad.keras import Variable, optimizers
        >>> w = Variable([3.0])
        >>> optimizer = optimizers.SGD(learning_rate=0.5)
        >>> (w * w).sum().backward()
        >>> optimizer.apply([w])
        >>> w.numpy()
        array([0.], dtype=float32)
        """
        grads = None if grads is None else list(grads)
        if trainable_variables is None and grads and all(isinstance(g, Variable) for g in grads):
            grads, trainable_variables = None, grads
        if trainable_variables is None:
            if not self.built:
                raise ValueError(f"{self.name}: the first apply needs the variables to change")
            variables = self._parameters
        else:
            variables = list(trainable_variables)
            if not self.built:
                self.build(variables)
        if grads is None:
            grads = [v.grad for v in variables]
            for v in variables:
                v.grad = None
        if len(grads) != len(variables):
            raise ValueError(f"{self.name}: expected {len(variables)} gradients, got {len(grads)}")
        if any(g is None for g in grads):
            grads, variables = self._with_gradient(grads, variables)
        arrays = []
        asarray = backend.get(variables[0].device).asarray if variables else None
        for g, v in zip(grads, variables, strict=True):
            g = asarray(g.data if isinstance(g, Tensor) else g, np.float32)
            arrays.append(g)
            if g.shape != v.data.shape:
                raise ValueError(
                    f"{self.name}: expected a gradient of shape {v.shape} for {v.path}, "
                    f"got {g.shape}"
                )
        if variables == self._parameters:
            index = None
        else:
            unknown = [v.path for v in variables if v not in self._index]
            if unknown:
                raise ValueError(f"{self.name}: built without the variables {', '.join(unknown)}")
            index = [self._index[v] for v in variables]
        recording.guard(self, "edits")
        with uninterrupted():
            if variables:
                self._step(variables, arrays, index)
            if self.use_ema:
                self._average()
            self._iterations.increment()

    def apply_gradients(self, grads_and_vars) -> None:
        """`apply` for (gradient, variable) pairs."""
        pairs = list(grads_and_vars)
        self.apply([g for g, _ in pairs], [v for _, v in pairs])

    def scale_loss(self, loss):
        """The loss to differentiate: times loss_scale_factor, if there is one."""
        return loss if self.loss_scale_factor is None else loss * self.loss_scale_factor

    def _with_gradient(self, grads, variables):
        """Drop the variables without a gradient, with a warning."""
        pairs = [(g, v) for g, v in zip(grads, variables, strict=True) if g is not None]
        if not pairs:
            raise ValueError(f"{self.name}: no gradient for any variable; was backward called?")
        missing = ", ".join(v.path for g, v in zip(grads, variables, strict=True) if g is None)
        warnings.warn(
            f"{self.name}: no gradient for {missing}; the loss does not depend on it", stacklevel=3
        )
        return [g for g, _ in pairs], [v for _, v in pairs]

    def _updates(self):
        """How many updates were made before, as an array: kernels read it where it lies."""
        if not self.gradient_accumulation_steps:
            return self._iterations.data
        return backend.get(self._iterations.device).asarray(np.int64(self.iterations))

    def _arrays(self, variables, index):
        """What the kernels take: the variables' arrays, and the state's, one list per kind."""
        states = self._state_arrays
        if index is not None:
            states = [[kind[i] for i in index] for kind in states]
        return [v.data for v in variables], states

    def _step(self, variables, grads, index) -> None:
        k = backend.get(variables[0].device)
        factor = 1.0 if self.loss_scale_factor is None else 1.0 / self.loss_scale_factor
        sums = None
        if self.gradient_accumulation_steps:
            recording.refuse("the optimizer accumulates gradients")
            sums = [v.data for v in self._state["gradient_accumulator"]]
            sums = sums if index is None else [sums[i] for i in index]
            for total, g in zip(sums, grads, strict=True):
                k.binary_forward(total, total, g, _ADD)
            if (int(self._iterations) + 1) % self.gradient_accumulation_steps:
                return
            grads = sums
            factor /= self.gradient_accumulation_steps
        scale = self._scales(k, grads, factor)
        decay = self._decay if index is None else self._decay[index]
        clip = self.clipvalue if self.clipvalue else math.inf
        rate = recording.live(self._rate, np.float32)
        self.update(k, variables, grads, index, scale, decay, rate, clip)
        for v in variables:
            recording.changed(v)
        for total in sums or ():
            total.fill(0)

    def _scales(self, k, grads, factor) -> np.ndarray:
        """What to multiply each gradient by: loss scale and clipping to a norm."""
        limit = self.clipnorm or self.global_clipnorm
        if not limit:
            scale = self._scale[: len(grads)]
            scale.fill(factor)
            return scale
        recording.refuse("the optimizer clips gradients by their norm")
        sums = self._square_sums[: len(grads)]
        k.gradient_square_sums(sums, grads)
        sums = backend.to_numpy(sums)  # on a GPU, clipping to a norm waits for it in each step
        if self.clipnorm:
            norms = np.sqrt(sums) * abs(factor)
        else:
            norm = math.sqrt(sums.sum()) * abs(factor)
            # an infinite norm makes every weight NaN, as in Keras, rather than most gradients 0
            norms = np.full(len(grads), norm if math.isfinite(norm) else math.nan)
        return (factor * (limit / np.maximum(norms, limit))).astype(np.float32)

    def update(self, k, variables, grads, index, scale, decay, rate, clip) -> None:
        """Apply the rule to all variables; by default, `update_step` for each.

        Args:
            k: the backend.
            variables, grads: those that have a gradient.
            index: their positions in the state, None for all.
            scale, decay: gradient multiplier and weight decay of each, float32.
            rate: the learning rate.
            clip: the largest absolute value of a scaled gradient.
        """
        recording.refuse(f"{type(self).__name__} updates in Python")
        for variable, g, s, d in zip(variables, grads, scale, decay, strict=True):
            g = k.xp.clip(g * float(s), -clip, clip)
            if d:
                variable.assign(variable.data * float(np.float32(1 - d * rate)))
            self.update_step(Tensor(g, device=variable.device), variable, rate)

    def update_step(self, gradient, variable, learning_rate):
        raise NotImplementedError(
            f"{type(self).__name__} has no update_step(gradient, variable, learning_rate)"
        )

    def assign(self, variable, value) -> None:
        """variable = value, for `update_step`."""
        variable.assign(value)

    def assign_add(self, variable, value) -> None:
        """variable += value, for `update_step`."""
        variable.assign_add(value)

    def assign_sub(self, variable, value) -> None:
        """variable -= value, for `update_step`."""
        variable.assign_sub(value)

    # -- weight decay and averages -----------------------------------------------------------------

    def exclude_from_weight_decay(self, var_list=None, var_names=None) -> None:
        """Leave variables without weight decay: those listed, and those named with a listed word.

        Raises:
            ValueError: the optimizer is built already.
        """
        if self.built:
            raise ValueError(f"{self.name}: exclude_from_weight_decay comes before the first step")
        pattern = re.compile("|".join(sorted(set(var_names)))) if var_names else None
        self._excluded = (set(var_list or ()), pattern)

    def _decays(self, variable) -> bool:
        variables, pattern = self._excluded
        return variable not in variables and not (pattern and pattern.search(variable.name))

    def _average(self) -> None:
        recording.refuse("the optimizer averages weights (use_ema)")
        iterations = int(self.iterations)
        momentum = np.float32(self.ema_momentum if iterations else 0)
        keep, take = float(momentum), float(1 - momentum)
        for v, average in zip(self._parameters, self._state["average"], strict=True):
            average.data *= keep
            average.data += take * v.data
        if self.ema_overwrite_frequency and (iterations + 1) % self.ema_overwrite_frequency == 0:
            self.finalize_variable_values(self._parameters)

    def finalize_variable_values(self, var_list) -> None:
        """With use_ema, replace the variables by their averages; `fit` calls it at the end."""
        if not self.use_ema:
            return
        unknown = [v.path for v in var_list if v not in self._index]
        if unknown:
            raise ValueError(f"{self.name}: keeps no average of {', '.join(unknown)}")
        for v in var_list:
            v.assign(self._state["average"][self._index[v]])

    # -- description -------------------------------------------------------------------------------

    def get_config(self) -> dict:
        """The constructor's arguments."""
        rate = self._learning_rate
        if isinstance(rate, schedules.LearningRateSchedule):
            rate = schedules.serialize(rate)
        elif isinstance(rate, Variable):
            rate = float(rate)
        else:
            raise NotImplementedError(
                f"{self.name}: a learning rate from a function cannot be saved"
            )
        return {
            "name": self.name,
            "learning_rate": rate,
            "weight_decay": self.weight_decay,
            "clipnorm": self.clipnorm,
            "global_clipnorm": self.global_clipnorm,
            "clipvalue": self.clipvalue,
            "use_ema": self.use_ema,
            "ema_momentum": self.ema_momentum,
            "ema_overwrite_frequency": self.ema_overwrite_frequency,
            "loss_scale_factor": self.loss_scale_factor,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        """A new optimizer, without state, from `get_config`."""
        rate = config.get("learning_rate")
        if isinstance(rate, dict):
            config = config | {"learning_rate": schedules.deserialize(rate, custom_objects)}
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, iterations={int(self._iterations)}>"


def _number(what: str, value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, (str, bool)) or not math.isfinite(number):
        raise ValueError(
            f"{what}: expected a finite number, a schedule or a callable, got {value!r}"
        )
    return number
