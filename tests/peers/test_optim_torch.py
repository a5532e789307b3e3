"""Optimizer steps against PyTorch's optimizers, where the two frameworks' rules agree.

PyTorch adds epsilon to the bias-corrected root and RMSprop's outside the root; Keras, whose rules
these are, does neither. An epsilon of 1e-20 makes the two the same.
"""

import numpy as np
import pytest
from checks import assert_close, f32
from torch_checks import torch

STEPS, SIZE, NONE = 20, 257, float("inf")
TINY = 1e-20
LR = f32(0.01)

CASES = {
    "sgd": (lambda w: torch.optim.SGD(w, LR), "sgd_update", 0, (0.0, False), 0.0),
    "momentum": (
        lambda w: torch.optim.SGD(w, LR, momentum=0.5),
        "sgd_update",
        1,
        (0.5, False),
        0.0,
    ),
    "nesterov": (
        lambda w: torch.optim.SGD(w, LR, momentum=0.5, nesterov=True),
        "sgd_update",
        1,
        (0.5, True),
        0.0,
    ),
    "rmsprop": (
        lambda w: torch.optim.RMSprop(w, LR, alpha=f32(0.9), eps=TINY),
        "rmsprop_update",
        1,
        (f32(0.9), 0.0, TINY, False),
        0.0,
    ),
    "rmsprop, momentum": (
        lambda w: torch.optim.RMSprop(w, LR, alpha=f32(0.9), eps=TINY, momentum=0.5),
        "rmsprop_update",
        2,
        (f32(0.9), 0.5, TINY, False),
        0.0,
    ),
    "adam": (
        lambda w: torch.optim.Adam(w, LR, betas=(f32(0.9), f32(0.999)), eps=TINY),
        "adam_update",
        2,
        (f32(0.9), f32(0.999), TINY, False),
        0.0,
    ),
    "adamw": (
        lambda w: torch.optim.AdamW(
            w, LR, betas=(f32(0.9), f32(0.999)), eps=TINY, weight_decay=0.25
        ),
        "adam_update",
        2,
        (f32(0.9), f32(0.999), TINY, False),
        0.25,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps(backend, case, rng):
    """The same gradients to both: weights agree to a few units in the last place per step."""
    make, kernel, states, hyper, decay = CASES[case]
    start = rng.standard_normal(SIZE).astype(np.float32)
    peer = torch.nn.Parameter(torch.tensor(start.astype(np.float64)))
    optimizer = make([peer])
    w, kept = [start.copy()], [[np.zeros(SIZE, np.float32)] for _ in range(states)]
    one, decays = np.ones(1, np.float32), np.full(1, decay, np.float32)
    for step in range(STEPS):
        g = rng.standard_normal(SIZE).astype(np.float32)
        peer.grad = torch.tensor(g.astype(np.float64))
        optimizer.step()
        steps = (np.array(step),) if kernel == "adam_update" else ()
        getattr(backend, kernel)(w, [g], kept, one, decays, LR, NONE, *steps, *hyper)
    right = peer.detach().numpy()
    assert_close(w[0], right, STEPS, np.abs(right) + 1, "function")
