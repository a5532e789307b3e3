"""Softmax-cross-entropy from logits and integer labels: mean loss and dx, in one row.

PyTorch's side is what `F.cross_entropy` and its backward run, without autograd and with the
outputs made beforehand.
"""

import numpy as np
import pytest
from conftest import torch


@pytest.mark.parametrize("rows", [32, 512, 4096])
@pytest.mark.parametrize("cols", [10, 1000])
def bench_softmax_cross_entropy(row, rows, cols):
    x, labels = row.normal(rows, cols), row.rng.integers(0, cols, rows).astype(np.int32)
    loss, losses = np.empty(1, np.float32), np.empty(rows, np.float32)
    p, dx = np.empty_like(x), np.empty_like(x)
    mean = np.full(rows, 1 / rows, np.float32)
    row.kernel(
        "softmax_cross_entropy_sparse_forward",
        *(loss, losses, p, x, labels, None, 1 / rows),
        outputs=3,
    )
    row.kernel("softmax_cross_entropy_sparse_backward_dx", dx, mean, p, labels)
    if torch:
        aten = torch.ops.aten
        x, labels, one = torch.from_numpy(x), torch.from_numpy(labels).long(), torch.ones(())
        log_p, dlog_p, grad = (torch.empty(rows, cols) for _ in range(3))
        total, weight = torch.empty(()), torch.empty(())
        rest = (None, 1, -100)  # no class weights, mean, no label ignored

        def call():
            aten._log_softmax.out(x, 1, False, out=log_p)
            aten.nll_loss_forward.output(log_p, labels, *rest, output=total, total_weight=weight)
            aten.nll_loss_backward.grad_input(one, log_p, labels, *rest, weight, grad_input=dlog_p)
            aten._log_softmax_backward_data.out(dlog_p, log_p, 1, torch.float32, out=grad)

        row.peer(
            "log_softmax, nll_loss",
            call,
            lambda _: [total.numpy()[None], None, None, grad.numpy()],
            [x, labels],
            [log_p, dlog_p, grad, total],
        )
    row.run(f"{rows} x {cols}", length=cols)
