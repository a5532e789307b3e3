"""Optimizer steps: Keras 3's update rules, for lists of parameters.

w, g and every list of `states` hold one array per parameter; w and the states are updated in place.
`scale` and `decay` hold one number per parameter. Every rule starts with
g = clamp(scale g, -clip, clip) and w -= decay lr w. States below the least normal number of their
dtype become 0.
"""

from __future__ import annotations

import math

import numpy as np


def _prepare(w, g, scale, decay, lr, clip):
    """Decays w and returns the gradient, scaled and clipped."""
    w[...] = w - float(decay) * lr * w
    return np.clip(float(scale) * g, -clip, clip)


def _keep(state, value):
    """state = value, denormal numbers flushed to 0."""
    state[...] = np.where(np.abs(value) < np.finfo(state.dtype).tiny, 0, value)


def sgd_update(w, g, states, scale, decay, lr, clip, momentum, nesterov):
    """w -= lr g; with momentum v = momentum v - lr g, w += v or, nesterov, w += momentum v - lr g.

    states: [v] where momentum > 0.
    """
    for p in range(len(w)):
        grad = _prepare(w[p], g[p], scale[p], decay[p], lr, clip)
        if momentum == 0:
            w[p][...] = w[p] - lr * grad
            continue
        v = states[0][p]
        _keep(v, momentum * v - lr * grad)
        w[p][...] = w[p] + (momentum * v - lr * grad if nesterov else v)


def rmsprop_update(w, g, states, scale, decay, lr, clip, rho, momentum, epsilon, centered):
    """v = rho v + (1 - rho) g^2; u = lr g / sqrt(v + epsilon); w -= u.

    momentum > 0: m = momentum m + u, w -= m.
    centered: a = rho a + (1 - rho) g, and v - a^2 takes v's place under the root.
    states: v, then m where momentum > 0, then a where centered.
    """
    for p in range(len(w)):
        grad = _prepare(w[p], g[p], scale[p], decay[p], lr, clip)
        v = states[0][p]
        _keep(v, rho * v + (1 - rho) * grad * grad)
        denominator = v + epsilon
        if centered:
            a = states[-1][p]
            _keep(a, rho * a + (1 - rho) * grad)
            denominator = v - a * a + epsilon
        step = lr * grad / np.sqrt(denominator)
        if momentum > 0:
            m = states[1][p]
            _keep(m, momentum * m + step)
            step = m
        w[p][...] = w[p] - step


def adam_update(w, g, states, scale, decay, lr, clip, step, beta_1, beta_2, epsilon, amsgrad):
    """m += (g - m) (1 - beta_1); v += (g^2 - v) (1 - beta_2); w -= alpha m / (sqrt(v) + epsilon).

    alpha = lr sqrt(1 - beta_2^t) / (1 - beta_1^t), t = step + 1; step, an array of one integer,
    says how many updates were made before. amsgrad puts v_hat = max(v_hat, v) in v's place.
    states: m, v, then v_hat where amsgrad.
    D. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, end of section 2.
    """
    t = step.item() + 1
    alpha = lr * math.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    for p in range(len(w)):
        grad = _prepare(w[p], g[p], scale[p], decay[p], lr, clip)
        m, v = states[0][p], states[1][p]
        _keep(m, m + (grad - m) * (1 - beta_1))
        _keep(v, v + (grad * grad - v) * (1 - beta_2))
        if amsgrad:
            v_hat = states[2][p]
            v_hat[...] = np.maximum(v_hat, v)
            v = v_hat
        w[p][...] = w[p] - alpha * m / (np.sqrt(v) + epsilon)


def gradient_square_sums(out, g):
    """out[p] = sum g[p]^2, in float64."""
    for p in range(len(g)):
        out[p] = np.square(g[p], dtype=np.float64).sum()
