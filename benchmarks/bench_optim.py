"""Adam over the small CNN's 693,962 parameters, in one call, against PyTorch's fused Adam.

Gradients stay away from zero, since PyTorch adds epsilon after the bias correction and Keras, and
so tilegrad, before: there both agree.
"""

import numpy as np
from conftest import torch

SHAPES = [(3, 3, 1, 32), (32,), (5408, 128), (128,), (128, 10), (10,)]
STEP, LR, BETA_1, BETA_2, EPSILON = 3, 1e-3, 0.9, 0.999, 1e-7


def bench_adam(row):
    w = [row.normal(*s) for s in SHAPES]
    g = [np.sign(row.normal(*s)) * row.rng.uniform(0.5, 1.5, s).astype(np.float32) for s in SHAPES]
    m, v = ([np.full(s, start, np.float32) for s in SHAPES] for start in (0.1, 1.0))
    copies = [[a.copy() for a in arrays] for arrays in (w, m, v)]
    ones, zeros = np.ones(len(w), np.float32), np.zeros(len(w), np.float32)
    row.kernel(
        "adam_update",
        *(w, g, [m, v], ones, zeros, LR, float("inf"), np.array(STEP - 1)),
        *(BETA_1, BETA_2, EPSILON, False),
        in_place=[*w, *m, *v],
    )
    if torch:
        theirs = [[torch.from_numpy(a) for a in arrays] for arrays in copies]
        gradients = [torch.from_numpy(a) for a in g]
        steps = [torch.tensor(float(STEP)) for _ in w]

        def call():
            torch._fused_adam_(
                *(theirs[0], gradients, theirs[1], theirs[2], [], steps),
                lr=LR,
                beta1=BETA_1,
                beta2=BETA_2,
                weight_decay=0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

        state = [t.numpy() for tensors in theirs for t in tensors]
        row.peer("fused Adam", call, lambda _: state, gradients, state=state)
    row.run(f"{sum(a.size for a in w):,} parameters", length=1)
