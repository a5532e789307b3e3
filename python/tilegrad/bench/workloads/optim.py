"""Optimizer steps, in place, over n parameters in t tensors; and the sums for a global norm.

The small CNN's 693,962 parameters in 6 tensors have its shapes; other numbers are split evenly.
Arrays are called w0, w1, ..., g0, ..., then the states likewise: functions get all of them one
after another. Numbers are chosen so that every library's place for epsilon is as good as another:
v is about 1, and epsilon 1e-7.
"""

import itertools
import math

import numpy as np

from ... import reference
from ..workload import Way, Workload, letters
from .common import normal, positive

CNN = ((3, 3, 1, 32), (32,), (5408, 128), (128,), (128, 10), (10,))
LANE = 2**14  # numbers that a library adds one after another in float32, at the most
EPSILON, NO_CLIP = 1e-7, float("inf")


def split(n: int, t: int) -> list[tuple[int, ...]]:
    """The shapes of n parameters in t tensors."""
    if (n, t) == (sum(map(math.prod, CNN)), len(CNN)):
        return list(CNN)
    if t > n:
        raise ValueError(f"expected at most {n} tensors of {n} parameters, got {t}")
    return [(n // t + (i < n % t),) for i in range(t)]


class Optimizer(Workload):
    """What all rules share: w, g, and states `kept` of them, t arrays each.

    Attributes:
        kept: what each list of states is called.
        velocity: the one of them that w moves by, if it does.
        lr: the learning rate; large, so that a step shows against the rounding of w.
        operations: at the least, for each parameter.
    """

    sizes = letters("n", t=1)
    in_place = True
    kept: tuple[str, ...] = ()
    velocity = ""
    lr = 0.01
    operations = 2

    def prepare(self):
        each = split(self.n, self.t)
        self.shapes = {
            f"{name}{i}": shape for name in ("w", *self.kept) for i, shape in enumerate(each)
        }
        self.each, self.flops = each, self.operations * self.n
        self.ones, self.zeros = np.ones(self.t, np.float32), np.zeros(self.t, np.float32)

    def state(self, rng, name, shape):
        """What a state is before the step."""
        raise NotImplementedError

    def inputs(self, rng):
        arrays = {f"w{i}": normal(rng, *shape) for i, shape in enumerate(self.each)}
        for i, shape in enumerate(self.each):
            arrays[f"g{i}"] = np.sign(normal(rng, *shape)) * positive(rng, *shape)
        for name in self.kept:
            for i, shape in enumerate(self.each):
                arrays[f"{name}{i}"] = self.state(rng, name, shape)
        return arrays

    def lists(self, arrays):
        """w, g, states and what follows them, from all arrays one after another."""
        t = self.t
        parts = [list(arrays[i : i + t]) for i in range(0, t * (2 + len(self.kept)), t)]
        return parts[0], parts[1], parts[2:], arrays[t * len(parts) :]

    def update(self, k, w, g, states, rest):
        """Call the kernel of the backend `k`, or of the reference."""
        raise NotImplementedError

    def tilegrad(self, k):
        return lambda *arrays: self.update(k, *self.lists(arrays))

    def exact(self, **inputs):
        arrays = [a.copy() for a in inputs.values()]
        w, g, states, rest = self.lists(arrays)
        self.update(reference, w, g, states, rest)
        return [*w, *itertools.chain(*states)]

    def magnitude(self, exact, **inputs):
        """w and how far it was away before the call; a state and what is added to it."""
        parts = ("w", *self.kept)
        sizes = {
            name: [abs(a) for a in exact[i * self.t :][: self.t]] for i, name in enumerate(parts)
        }
        for i in range(self.t):
            g = abs(inputs[f"g{i}"])
            if self.velocity:
                sizes["w"][i] = sizes["w"][i] + sizes[self.velocity][i]
            for name in parts:
                scaled = name in ("w", self.velocity)
                sizes[name][i] = sizes[name][i] + (self.lr * g if scaled else g + g * g)
        return [*itertools.chain(*sizes.values())]

    def way(self, setting, function):
        """A way that calls `function(w, g, states, rest)`."""
        return Way(setting, lambda *arrays: function(*self.lists(arrays)))

    def rule(self, xp, w, g, *states):
        """The formula on one tensor, by JAX's or TensorFlow's functions: new w and states."""
        raise NotImplementedError

    def jax(self):
        from jax import numpy as jnp

        def call(*arrays):
            w, g, states, _ = self.lists(arrays)
            new = [self.rule(jnp, *each) for each in zip(w, g, *states, strict=True)]
            return [*itertools.chain(*zip(*new, strict=True))]

        yield Way("the formula, memory donated", call)

    def tensorflow(self):
        from tensorflow import math

        def formula(w, g, states, rest):
            for p, dp, *kept in zip(w, g, *states, strict=True):
                for variable, value in zip((p, *kept), self.rule(math, p, dp, *kept), strict=True):
                    variable.assign(value)

        yield self.way("the formula, assign", formula)

    def tensorflow_op(self, op, **hyper):
        """A way by an op that takes the handles of w and the states, then g, one tensor a time."""

        def call(w, g, states, rest):
            for p, dp, *kept in zip(w, g, *states, strict=True):
                op(p.handle, *[v.handle for v in kept], grad=dp, **hyper)

        return self.way(op.__name__, call)


class SgdRule(Optimizer):
    """What the variants share. PyTorch keeps another v: only w is compared."""

    momentum, nesterov = 0.0, False

    def state(self, rng, name, shape):
        return np.float32(self.lr) * normal(rng, *shape)

    def update(self, k, w, g, states, rest):
        hyper = (self.ones, self.zeros, self.lr, NO_CLIP, self.momentum, self.nesterov)
        k.sgd_update(w, g, states, *hyper)

    def torch(self):
        import torch

        hyper = {
            "weight_decay": 0.0,
            "momentum": self.momentum,
            "lr": self.lr,
            "dampening": 0.0,
            "nesterov": self.nesterov,
            "maximize": False,
            "is_first_step": False,
        }

        def fused(*arrays):
            w, g, _, buffers = self.lists(arrays)
            torch._fused_sgd_(w, g, list(buffers), **hyper)

        def buffers(*arrays):  # PyTorch's velocity is the other way round, and not scaled by lr
            _, _, states, _ = self.lists(arrays)
            return [v / -self.lr for vs in states for v in vs]

        lacks = [name for name in self.shapes if name[0] != "w"]
        yield Way("fused SGD", fused, derive=buffers, lacks=lacks)

    def rule(self, xp, w, g, *states):
        step = self.lr * g
        if not states:
            return (w - step,)
        v = self.momentum * states[0] - step
        return w + (self.momentum * v - step if self.nesterov else v), v

    def tensorflow(self):
        from tensorflow import raw_ops

        def call(w, g, states, rest):
            for p, dp, v in zip(w, g, states[0], strict=True):
                raw_ops.ResourceApplyKerasMomentum(
                    var=p.handle,
                    accum=v.handle,
                    lr=self.lr,
                    grad=dp,
                    momentum=self.momentum,
                    use_nesterov=self.nesterov,
                )

        yield from super().tensorflow()
        if self.momentum:
            yield self.way("ResourceApplyKerasMomentum", call)


class Sgd(SgdRule):
    """w -= lr g."""

    name = "sgd"

    def numpy(self):
        def call(w, g, states, rest):
            for p, dp in zip(w, g, strict=True):
                p -= np.float32(self.lr) * dp

        yield self.way("multiply, subtract", call)

    def tensorflow(self):
        from tensorflow import raw_ops

        def call(w, g, states, rest):
            for p, dp in zip(w, g, strict=True):
                raw_ops.ResourceApplyGradientDescent(var=p.handle, alpha=self.lr, delta=dp)

        yield from super().tensorflow()
        yield self.way("ResourceApplyGradientDescent", call)


class SgdMomentum(SgdRule):
    """v = momentum v - lr g, w += v."""

    name = "sgd_momentum"
    kept, velocity, momentum, operations = ("v",), "v", 0.9, 4

    def numpy(self):
        def call(w, g, states, rest):
            for p, dp, v in zip(w, g, states[0], strict=True):
                v *= np.float32(self.momentum)
                v -= np.float32(self.lr) * dp
                p += v

        yield self.way("multiply, subtract, add", call)


class SgdNesterov(SgdRule):
    """v = momentum v - lr g, w += momentum v - lr g."""

    name = "sgd_nesterov"
    kept, velocity, momentum, nesterov, operations = ("v",), "v", 0.9, True, 6

    def numpy(self):
        def call(w, g, states, rest):
            for p, dp, v in zip(w, g, states[0], strict=True):
                step = np.float32(self.lr) * dp
                v *= np.float32(self.momentum)
                v -= step
                p += np.float32(self.momentum) * v - step

        yield self.way("multiply, subtract, add", call)


class RmspropRule(Optimizer):
    """What the variants share."""

    rho, momentum, centered = 0.9, 0.0, False

    def state(self, rng, name, shape):
        if name == "v":  # large enough that v - a^2 stays away from 0
            return 1 + positive(rng, *shape)
        return np.float32(self.lr if name == "m" else 0.1) * normal(rng, *shape)

    def update(self, k, w, g, states, rest):
        hyper = (self.ones, self.zeros, self.lr, NO_CLIP)
        hyper = (*hyper, self.rho, self.momentum, EPSILON, self.centered)
        k.rmsprop_update(w, g, states, *hyper)

    def rule(self, xp, w, g, v, *states):
        v = self.rho * v + (1 - self.rho) * g * g
        new, under = [v], v + EPSILON
        if self.centered:
            a = self.rho * states[0] + (1 - self.rho) * g
            new, under = [v, a], v - a * a + EPSILON
        step = self.lr * g / xp.sqrt(under)
        if self.momentum:
            step = self.momentum * states[0] + step
            new = [v, step]
        return w - step, *new

    def torch_compiled(self):
        return self.torch()


class Rmsprop(RmspropRule):
    """v = rho v + (1 - rho) g^2, w -= lr g / sqrt(v + epsilon)."""

    name = "rmsprop"
    kept, operations = ("v",), 8

    def numpy(self):
        def call(w, g, states, rest):
            for p, dp, v in zip(w, g, states[0], strict=True):
                v *= np.float32(self.rho)
                v += np.float32(1 - self.rho) * dp * dp
                p -= np.float32(self.lr) * dp / np.sqrt(v + np.float32(EPSILON))

        yield self.way("multiply, add, sqrt, divide", call)

    def torch(self):
        import torch

        def foreach(w, g, states, rest):
            torch._foreach_mul_(states[0], self.rho)
            torch._foreach_addcmul_(states[0], g, g, value=1 - self.rho)
            root = torch._foreach_sqrt(states[0])
            torch._foreach_add_(root, EPSILON)
            torch._foreach_addcdiv_(w, g, root, value=-self.lr)

        yield self.way("foreach, as RMSprop(foreach=True)", foreach)


class RmspropMomentum(RmspropRule):
    """The step u = lr g / sqrt(v + epsilon) goes through m = momentum m + u, w -= m."""

    name = "rmsprop_momentum"
    kept, velocity, momentum, operations = ("v", "m"), "m", 0.9, 10

    def torch(self):
        import torch

        def foreach(w, g, states, rest):
            v, m = states
            torch._foreach_mul_(v, self.rho)
            torch._foreach_addcmul_(v, g, g, value=1 - self.rho)
            root = torch._foreach_sqrt(v)
            torch._foreach_add_(root, EPSILON)
            torch._foreach_mul_(m, self.momentum)
            torch._foreach_addcdiv_(m, g, root, value=self.lr)
            torch._foreach_sub_(w, m)

        yield self.way("foreach, as RMSprop(foreach=True)", foreach)

    def tensorflow(self):
        from tensorflow import raw_ops

        def call(w, g, states, rest):
            for p, dp, v, m in zip(w, g, *states, strict=True):
                raw_ops.ResourceApplyRMSProp(
                    var=p.handle,
                    ms=v.handle,
                    mom=m.handle,
                    lr=self.lr,
                    rho=self.rho,
                    momentum=self.momentum,
                    epsilon=EPSILON,
                    grad=dp,
                )

        yield from super().tensorflow()
        yield self.way("ResourceApplyRMSProp", call)


class RmspropCentered(RmspropRule):
    """a = rho a + (1 - rho) g, and v - a^2 takes v's place under the root."""

    name = "rmsprop_centered"
    kept, centered, operations = ("v", "a"), True, 13

    def torch(self):
        import torch

        def foreach(w, g, states, rest):
            v, a = states
            torch._foreach_mul_(v, self.rho)
            torch._foreach_addcmul_(v, g, g, value=1 - self.rho)
            torch._foreach_lerp_(a, g, 1 - self.rho)
            root = torch._foreach_addcmul(v, a, a, value=-1)
            torch._foreach_sqrt_(root)
            torch._foreach_add_(root, EPSILON)
            torch._foreach_addcdiv_(w, g, root, value=-self.lr)

        yield self.way("foreach, as RMSprop(foreach=True)", foreach)


class AdamRule(Optimizer):
    """What the variants share: alpha corrects the bias after `before` updates, in every call."""

    lr, beta_1, beta_2, amsgrad = 0.1, 0.9, 0.999, False
    before = 2  # updates

    def state(self, rng, name, shape):
        return normal(rng, *shape) if name == "m" else positive(rng, *shape)

    def inputs(self, rng):
        return {**super().inputs(rng), "step": np.array(self.before, np.int64)}

    def update(self, k, w, g, states, rest):
        (step,) = rest
        hyper = (self.ones, self.zeros, self.lr, NO_CLIP, step)
        hyper = (*hyper, self.beta_1, self.beta_2, EPSILON, self.amsgrad)
        k.adam_update(w, g, states, *hyper)

    def torch(self):
        import torch

        hyper = {
            "lr": self.lr,
            "beta1": self.beta_1,
            "beta2": self.beta_2,
            "weight_decay": 0.0,
            "eps": EPSILON,
            "amsgrad": self.amsgrad,
            "maximize": False,
        }

        def fused(*arrays):
            w, g, states, (_, *steps) = self.lists(arrays)
            m, v, *largest = states
            torch._fused_adam_(w, g, m, v, *(largest or [[]]), steps, **hyper)

        def steps(*arrays):
            return [(arrays[-1] + 1).float() for _ in self.each]

        yield Way("fused Adam", fused, derive=steps)

    @property
    def alpha(self):
        """The rate of the next step."""
        count = self.before + 1
        return self.lr * math.sqrt(1 - self.beta_2**count) / (1 - self.beta_1**count)

    def rule(self, xp, w, g, m, v, *largest):
        m = m + (g - m) * (1 - self.beta_1)
        v = v + (g * g - v) * (1 - self.beta_2)
        largest = [xp.maximum(v_hat, v) for v_hat in largest]
        root = xp.sqrt(largest[0] if self.amsgrad else v)
        return w - self.alpha * m / (root + EPSILON), m, v, *largest


class Adam(AdamRule):
    """m += (g - m) (1 - beta_1), v += (g^2 - v) (1 - beta_2), w -= alpha m / (sqrt v + epsilon)."""

    name = "adam"
    kept, operations = ("m", "v"), 10

    def numpy(self):
        alpha = self.alpha

        def call(w, g, states, rest):
            for p, dp, m, v in zip(w, g, *states, strict=True):
                m += (dp - m) * np.float32(1 - self.beta_1)
                v += (dp * dp - v) * np.float32(1 - self.beta_2)
                p -= np.float32(alpha) * m / (np.sqrt(v) + np.float32(EPSILON))

        yield self.way("multiply, add, sqrt, divide", call)

    def tensorflow(self):
        from tensorflow import raw_ops

        def call(w, g, states, rest):
            for p, dp, m, v in zip(w, g, *states, strict=True):
                raw_ops.ResourceApplyAdam(
                    var=p.handle,
                    m=m.handle,
                    v=v.handle,
                    beta1_power=0.0,  # in float32, 1 - beta^t would lose what the proof wants
                    beta2_power=0.0,
                    lr=self.alpha,
                    beta1=self.beta_1,
                    beta2=self.beta_2,
                    epsilon=EPSILON,
                    grad=dp,
                )

        yield from super().tensorflow()
        yield self.way("ResourceApplyAdam", call)


class AdamAmsgrad(AdamRule):
    """v_hat = max(v_hat, v) takes v's place under the root."""

    name = "adam_amsgrad"
    kept, amsgrad, operations = ("m", "v", "v_hat"), True, 11


def just_above_half(rng, *shape):
    """Normal numbers that half precision rounds towards 0, so that a long sum shows it."""
    return normal(rng, *shape).astype(np.float16) * np.float32(1 + 2.0**-12)


class GradientSquareSums(Workload):
    """out (t,), in float64: the sum of g^2 of each of the tensors g0, g1, ..."""

    name = "gradient_square_sums"
    sizes = letters("n", t=1)

    def prepare(self):
        self.each = split(self.n, self.t)
        self.shapes, self.dtypes = {"out": (self.t,)}, {"out": np.float64}
        self.flops, self.length = 2 * self.n, LANE

    def inputs(self, rng):
        return {f"g{i}": just_above_half(rng, *shape) for i, shape in enumerate(self.each)}

    def exact(self, **inputs):
        return [np.array([np.square(g).sum() for g in inputs.values()])]

    def tilegrad(self, k):
        return lambda out, *g: k.gradient_square_sums(out, list(g))

    def numpy(self, xp=np):
        def call(out, *g):
            for i, each in enumerate(g):
                out[i] = xp.vdot(each, each)

        yield Way("vdot", call, out=True)

    def torch(self):
        import torch

        def call(out, *g):
            torch.square(torch.stack(torch._foreach_norm(g)), out=out)

        yield Way("foreach_norm, square", call, out=True)

    def tensorflow(self):
        import tensorflow as tf

        def call(*g):
            return tf.cast(tf.stack([2 * tf.nn.l2_loss(each) for each in g]), tf.float64)

        yield Way("l2_loss", call)
