"""Square products: y = a b (nn), and the two that its gradients need, dy b^T (nt), a^T dy (tn)."""

import functools

import numpy as np
import pytest
from conftest import torch

KERNELS = {"nn": "matmul_forward", "nt": "matmul_backward_da", "tn": "matmul_backward_db"}


@pytest.mark.parametrize("n", [512, 1024, 2048])
@pytest.mark.parametrize("kind", KERNELS)
def bench_gemm(row, threads, kind, n):
    p, q, y = row.normal(1, n, n), row.normal(1, n, n), np.empty((1, n, n), np.float32)
    row.kernel(KERNELS[kind], y, p, q)
    if torch:
        a, b, out = torch.from_numpy(p)[0], torch.from_numpy(q)[0], torch.empty(n, n)
        left, right = a.T if kind == "tn" else a, b.T if kind == "nt" else b
        call = functools.partial(torch.mm, left, right, out=out)
        row.peer("mm", call, lambda y: [y.numpy()[None]], [a, b], [out])
    row.run(f"{kind} {n}", flops=2 * n**3, length=n)
