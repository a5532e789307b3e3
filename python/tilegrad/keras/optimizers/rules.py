"""SGD, RMSprop, Adam and AdamW with Keras 3's rules; the kernels' contract: csrc/ops/optim.h."""

from __future__ import annotations

from .base import Optimizer


class SGD(Optimizer):
    """Gradient descent, with momentum if wanted.

    w -= lr g;  with momentum v = momentum v - lr g, w += v;  nesterov: w += momentum v - lr g

    Args:
        learning_rate: lr.
        momentum: in [0, 1].
        nesterov: look ahead (Sutskever et al., ICML 2013).
        the rest: see `Optimizer`.

    Raises:
        ValueError: a bad argument.

    >>> from tilegrad.keras import Variable
    >>> w = Variable([1.0])
    >>> SGD(0.1).apply([[2.0]], [w])
    >>> w.numpy()
    array([0.8], dtype=float32)
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
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
        super().__init__(
            learning_rate,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            loss_scale_factor,
            gradient_accumulation_steps,
            name,
            **kwargs,
        )
        self.momentum = _share("SGD", "momentum", momentum)
        self.nesterov = bool(nesterov)

    def state_names(self):
        return ("momentum",) if self.momentum else ()

    def update(self, k, variables, grads, index, scale, decay, rate, clip):
        w, states = self._arrays(variables, index)
        k.sgd_update(w, grads, states, scale, decay, rate, clip, self.momentum, self.nesterov)

    def get_config(self):
        return super().get_config() | {"momentum": self.momentum, "nesterov": self.nesterov}


class RMSprop(Optimizer):
    """Divide the gradient by its running root mean square (Hinton, Coursera lecture 6e, 2012).

    v = rho v + (1 - rho) g^2;  u = lr g / sqrt(v + epsilon);  w -= u
    momentum: m = momentum m + u, w -= m
    centered: a = rho a + (1 - rho) g, and v - a^2 stands for v in the root

    Args:
        learning_rate, rho, momentum, epsilon, centered: as above.
        the rest: see `Optimizer`.

    Raises:
        ValueError: a bad argument.
    """

    def __init__(
        self,
        learning_rate=0.001,
        rho=0.9,
        momentum=0.0,
        epsilon=1e-7,
        centered=False,
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
        super().__init__(
            learning_rate,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            loss_scale_factor,
            gradient_accumulation_steps,
            name,
            **kwargs,
        )
        self.rho = _share("RMSprop", "rho", rho)
        self.momentum = _share("RMSprop", "momentum", momentum)
        self.epsilon = _positive("RMSprop", "epsilon", epsilon)
        self.centered = bool(centered)

    def state_names(self):
        momentum = ("momentum",) if self.momentum else ()
        return ("velocity", *momentum, *(("average_gradient",) if self.centered else ()))

    def update(self, k, variables, grads, index, scale, decay, rate, clip):
        w, states = self._arrays(variables, index)
        options = (self.rho, self.momentum, self.epsilon, self.centered)
        k.rmsprop_update(w, grads, states, scale, decay, rate, clip, *options)

    def get_config(self):
        return super().get_config() | {
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "centered": self.centered,
        }


class Adam(Optimizer):
    """Running means of the gradient and its square (Kingma and Ba, arXiv:1412.6980).

    m += (1 - beta_1) (g - m);  v += (1 - beta_2) (g^2 - v);  w -= alpha m / (sqrt(v) + epsilon)
    alpha = lr sqrt(1 - beta_2^t) / (1 - beta_1^t) at step t = 1, 2, ...
    amsgrad: the largest v so far stands for v (Reddi et al., arXiv:1904.09237)

    As in Keras, epsilon is not corrected for the bias of v.

    Args:
        learning_rate, beta_1, beta_2, epsilon, amsgrad: as above.
        the rest: see `Optimizer`.

    Raises:
        ValueError: a bad argument.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        amsgrad=False,
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
        super().__init__(
            learning_rate,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            loss_scale_factor,
            gradient_accumulation_steps,
            name,
            **kwargs,
        )
        cls = type(self).__name__
        self.beta_1 = _share(cls, "beta_1", beta_1, below=True)
        self.beta_2 = _share(cls, "beta_2", beta_2, below=True)
        self.epsilon = _positive(cls, "epsilon", epsilon)
        self.amsgrad = bool(amsgrad)

    def state_names(self):
        return ("momentum", "velocity", *(("velocity_hat",) if self.amsgrad else ()))

    def update(self, k, variables, grads, index, scale, decay, rate, clip):
        w, states = self._arrays(variables, index)
        options = (self._updates(), self.beta_1, self.beta_2, self.epsilon, self.amsgrad)
        k.adam_update(w, grads, states, scale, decay, rate, clip, *options)

    def get_config(self):
        return super().get_config() | {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "amsgrad": self.amsgrad,
        }


class AdamW(Adam):
    """Adam after w -= lr weight_decay w, decoupled decay (Loshchilov, Hutter, arXiv:1711.05101).

    Raises:
        ValueError: a bad argument, weight_decay None.
    """

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.004,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        amsgrad=False,
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
        if weight_decay is None:
            raise ValueError(
                "AdamW: expected weight_decay to be a number, got None; Adam goes without"
            )
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            amsgrad,
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            loss_scale_factor,
            gradient_accumulation_steps,
            name,
            **kwargs,
        )


def _share(cls: str, what: str, value, below: bool = False) -> float:
    """A float in [0, 1], or in [0, 1) with `below`."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    if not good or (below and value == 1):
        raise ValueError(f"{cls}: expected {what} in [0, 1{')' if below else ']'}, got {value!r}")
    return float(value)


def _positive(cls: str, what: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{cls}: expected {what} to be a number >= 0, got {value!r}")
    return float(value)
