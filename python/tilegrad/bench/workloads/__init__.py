"""The workloads: a module per stem, as everywhere. Importing this package registers them all."""

from . import activation, conv, conv_pool, dense, elementwise, optim, pool, softmax

__all__ = [
    "activation",
    "conv",
    "conv_pool",
    "dense",
    "elementwise",
    "optim",
    "pool",
    "softmax",
]
