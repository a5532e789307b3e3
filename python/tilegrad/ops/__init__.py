"""The operations: each takes tensors or array-likes and returns a new tensor.

One module per op family; in it, the `Op` classes (checks, forward, backward) and the public
functions.
"""

from .activation import elu, gelu, leaky_relu, relu, sigmoid, silu, softplus, tanh
from .conv import conv2d
from .conv_pool import conv2d_max_pool2d
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

__all__ = [
    "absolute",
    "add",
    "avg_pool2d",
    "broadcast_to",
    "clip",
    "concatenate",
    "conv2d",
    "conv2d_max_pool2d",
    "dense",
    "divide",
    "dropout",
    "elu",
    "exp",
    "expand_dims",
    "gelu",
    "getitem",
    "global_avg_pool2d",
    "leaky_relu",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "max_pool2d",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "negative",
    "power",
    "relu",
    "reshape",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "subtract",
    "sum",
    "tanh",
    "transpose",
]
