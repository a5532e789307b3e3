"""The NumPy backend: every kernel in its clearest form, for any float dtype.

It is the definition of what is right: the tests compare the compiled backends with it in float64.
"""

from .activation import activation_backward_dx, activation_forward
from .conv import conv2d_backward_dw, conv2d_backward_dx, conv2d_forward
from .conv_pool import conv2d_max_pool2d_backward_dw, conv2d_max_pool2d_forward
from .dense import (
    bias_activation_backward_dz,
    bias_backward_db,
    dense_backward_dw,
    dense_backward_dx,
    dense_forward,
    matmul_backward_da,
    matmul_backward_db,
    matmul_forward,
)
from .elementwise import (
    binary_backward_da,
    binary_backward_db,
    binary_forward,
    clip_backward_dx,
    clip_forward,
    dropout_backward_dx,
    dropout_forward,
    reduce_max_backward_dx,
    reduce_max_forward,
    reduce_sum_backward_dx,
    reduce_sum_forward,
    strided_copy,
    unary_backward_dx,
    unary_forward,
)
from .optim import adam_update, gradient_square_sums, rmsprop_update, sgd_update
from .pool import (
    avg_pool2d_backward_dx,
    avg_pool2d_forward,
    global_avg_pool2d_backward_dx,
    global_avg_pool2d_forward,
    max_pool2d_backward_dx,
    max_pool2d_forward,
)
from .softmax import (
    log_softmax_backward_dx,
    log_softmax_forward,
    softmax_backward_dx,
    softmax_cross_entropy_dense_backward_dx,
    softmax_cross_entropy_dense_forward,
    softmax_cross_entropy_sparse_backward_dx,
    softmax_cross_entropy_sparse_forward,
    softmax_forward,
)

__all__ = [
    "activation_backward_dx",
    "activation_forward",
    "adam_update",
    "avg_pool2d_backward_dx",
    "avg_pool2d_forward",
    "bias_activation_backward_dz",
    "bias_backward_db",
    "binary_backward_da",
    "binary_backward_db",
    "binary_forward",
    "clip_backward_dx",
    "clip_forward",
    "conv2d_backward_dw",
    "conv2d_backward_dx",
    "conv2d_forward",
    "conv2d_max_pool2d_backward_dw",
    "conv2d_max_pool2d_forward",
    "dense_backward_dw",
    "dense_backward_dx",
    "dense_forward",
    "dropout_backward_dx",
    "dropout_forward",
    "global_avg_pool2d_backward_dx",
    "global_avg_pool2d_forward",
    "gradient_square_sums",
    "log_softmax_backward_dx",
    "log_softmax_forward",
    "matmul_backward_da",
    "matmul_backward_db",
    "matmul_forward",
    "max_pool2d_backward_dx",
    "max_pool2d_forward",
    "reduce_max_backward_dx",
    "reduce_max_forward",
    "reduce_sum_backward_dx",
    "reduce_sum_forward",
    "rmsprop_update",
    "sgd_update",
    "softmax_backward_dx",
    "softmax_cross_entropy_dense_backward_dx",
    "softmax_cross_entropy_dense_forward",
    "softmax_cross_entropy_sparse_backward_dx",
    "softmax_cross_entropy_sparse_forward",
    "softmax_forward",
    "strided_copy",
    "unary_backward_dx",
    "unary_forward",
]
