"""The operations: each takes tensors or array-likes and returns a new tensor.

One module per op family; in it, the `Op` classes (checks, forward, backward) and the public functions.
"""

from .activation import elu, gelu, leaky_relu, relu, sigmoid, silu, softplus, tanh
from .conv import conv2d
from .dense import dense, matmul
from .elementwise import (
    absolute,
    add,
    broadcast_to,
    clip,
    concatenate,
    divide,
    dropout,
    exp,
    expand_dims,
    getitem,
    log,
    max,
    maximum,
    mean,
    min,
    minimum,
    multiply,
    negative,
    power,
    reshape,
    sqrt,
    square,
    squeeze,
    stack,
    subtract,
    sum,
    transpose,
)
from .pool import avg_pool2d, global_avg_pool2d, max_pool2d
from .softmax import log_softmax, softmax, softmax_cross_entropy

__all__ = [name for name in dir() if not name.startswith("_")]
