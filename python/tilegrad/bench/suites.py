"""The suites: which workloads, for which question. ``tilegrad bench --list`` prints them."""

from __future__ import annotations

from dataclasses import dataclass

# One of each kind, at the sizes of the small CNN and of a wide layer.
QUICK = """
dense:m32k5408n128 dense_dx:m32k5408n128 dense_dw:m32k5408n128 dense:m512k1024n1024
conv2d:n32h28w28c1f32k3s1valid conv2d_pool:n32h28w28c1f32k3valid
conv2d:n32h16w16c64f64k3s1same conv2d_dx:n32h16w16c64f64k3s1same conv2d_dw:n32h16w16c64f64k3s1same
max_pool2d:n32h26w26c32k2 max_pool2d_dx:n32h26w26c32k2
softmax_cross_entropy:r512c1000 relu:n1048576 add:n1048576
adam:n693962t6
"""

# The table of the documents: products, the small CNN's layers, wide layers, what lies in between.
CPU = """
matmul:b1m512k512n512 matmul:b1m1024k1024n1024 matmul:b1m2048k2048n2048
matmul_da:b1m512k512n512 matmul_da:b1m1024k1024n1024 matmul_da:b1m2048k2048n2048
matmul_db:b1m512k512n512 matmul_db:b1m1024k1024n1024 matmul_db:b1m2048k2048n2048
dense:m1k5408n128 dense:m8k5408n128 dense:m32k5408n128 dense:m128k5408n128 dense:m512k5408n128
dense:m32k128n10 dense:m64k8192n256
dense:m128k64n64 dense:m128k256n256 dense:m128k1024n1024 dense:m128k2048n2048
dense_dx:m32k5408n128 dense_dx:m128k5408n128 dense_dx:m512k5408n128 dense_dx:m64k8192n256
dense_dw:m32k5408n128 dense_dw:m128k5408n128 dense_dw:m512k5408n128 dense_dw:m64k8192n256
conv2d:n32h28w28c1f32k3s1valid conv2d:n64h32w32c3f64k3s1same
conv2d:n32h32w32c32f32k3s1same conv2d:n32h32w32c64f64k3s1same
conv2d:n32h16w16c128f128k3s1same conv2d:n32h8w8c256f256k3s1same
conv2d:n32h32w32c64f64k1s1same conv2d:n32h8w8c256f256k1s1same
conv2d_dx:n32h32w32c32f32k3s1same conv2d_dx:n32h32w32c64f64k3s1same
conv2d_dx:n32h16w16c128f128k3s1same conv2d_dx:n32h8w8c256f256k3s1same
conv2d_dx:n32h32w32c64f64k1s1same conv2d_dx:n32h8w8c256f256k1s1same
conv2d_dw:n32h28w28c1f32k3s1valid conv2d_dw:n64h32w32c3f64k3s1same
conv2d_dw:n32h32w32c32f32k3s1same conv2d_dw:n32h32w32c64f64k3s1same
conv2d_dw:n32h16w16c128f128k3s1same conv2d_dw:n32h8w8c256f256k3s1same
conv2d_dw:n32h32w32c64f64k1s1same conv2d_dw:n32h8w8c256f256k1s1same
conv2d_pool:n32h28w28c1f32k3valid conv2d_pool:n64h32w32c3f64k3same
conv2d_pool:n32h32w32c64f64k3same
conv2d_pool_dw:n32h28w28c1f32k3valid conv2d_pool_dw:n64h32w32c3f64k3same
conv2d_pool_dw:n32h32w32c64f64k3same
max_pool2d:n32h26w26c32k2 max_pool2d:n64h32w32c64k2
max_pool2d_dx:n32h26w26c32k2 max_pool2d_dx:n64h32w32c64k2
avg_pool2d:n64h32w32c64k2 avg_pool2d_dx:n64h32w32c64k2 global_avg_pool2d:n64h8w8c256
softmax:r512c1000 softmax_dx:r512c1000
softmax_cross_entropy:r32c10 softmax_cross_entropy:r512c10 softmax_cross_entropy:r4096c10
softmax_cross_entropy:r32c1000 softmax_cross_entropy:r512c1000 softmax_cross_entropy:r4096c1000
relu:n1048576 relu_dx:n1048576 gelu:n1048576 gelu_dx:n1048576
add:n1048576 multiply:n1048576 reduce_sum:r1024c1024 transpose:m1024n1024
adam:n693962t6 sgd:n693962t6 rmsprop:n693962t6
"""

TRAIN = "train:cnn:b32 train:cnn:b128 train:cnn:b512 train:wide:b64"

# Every kernel, at sizes that fill a large GPU or are the small CNN's; the most important first, so
# that who runs out of time has those.
GPU = """
matmul:b1m4096k4096n4096
conv2d:n128h56w56c64f64k3s1same conv2d:n128h14w14c256f256k3s1same
conv2d_pool:n1024h28w28c1f32k3valid conv2d_pool_dw:n1024h28w28c1f32k3valid
softmax_cross_entropy:r512c50304 softmax_cross_entropy:r1024c10
max_pool2d:n1024h26w26c32k2 max_pool2d_dx:n1024h26w26c32k2
adam:n33554432t8 adam:n693962t6
dense:m128k5408n128 dense_dx:m128k5408n128 dense_dw:m128k5408n128
conv2d_dx:n128h56w56c64f64k3s1same conv2d_dx:n128h14w14c256f256k3s1same
conv2d_dw:n128h56w56c64f64k3s1same conv2d_dw:n128h14w14c256f256k3s1same
matmul_da:b1m4096k4096n4096 matmul_db:b1m4096k4096n4096 matmul:b1m1024k1024n1024
relu:n16777216 relu_dx:n16777216 add:n16777216
softmax:r4096c1000 softmax_dx:r4096c1000
reduce_sum:r4096c4096 transpose:m4096n4096
bias_relu_dz:m65536n64 bias_db:m65536n64
conv2d_pool:n128h28w28c1f32k3valid conv2d_pool_dw:n128h28w28c1f32k3valid
dense:m4096k4096n4096 conv2d:n128h28w28c1f32k3s1valid conv2d_dw:n128h28w28c1f32k3s1valid
conv2d:n128h28w28c128f128k3s1same conv2d:n128h28w28c256f256k1s1same
conv2d:n128h28w28c128f256k3s2same conv2d_dx:n128h28w28c128f256k3s2same
avg_pool2d:n128h56w56c64k2 avg_pool2d_dx:n128h56w56c64k2
global_avg_pool2d:n128h7w7c2048 global_avg_pool2d_dx:n128h7w7c2048
gelu:n16777216 gelu_dx:n16777216 dropout:n4194304 dropout_dx:n4194304
softmax_cross_entropy_dense:r4096c1000 log_softmax:r4096c1000 log_softmax_dx:r4096c1000
multiply_row:r16384c1024 multiply_da:n16777216 multiply_db:n16777216
exp:n16777216 exp_dx:n16777216 clip:n16777216 clip_dx:n16777216
reduce_sum_dx:r4096c4096 reduce_max:r4096c4096 reduce_max_dx:r4096c4096
sgd:n33554432t8 rmsprop:n33554432t8 gradient_square_sums:n33554432t8
"""

# The same workloads at sizes for the simulator, which shows that they are right and no speed.
SIM = """
matmul:b1m5k7n3 matmul_da:b1m5k7n3 matmul_db:b1m5k7n3
dense:m5k7n4 dense_dx:m5k7n4 dense_dw:m5k7n4 bias_relu_dz:m9n4 bias_db:m9n4
conv2d:n2h6w5c3f4k3s1same conv2d_dx:n2h6w5c3f4k3s1same conv2d_dw:n2h6w5c3f4k3s1same
conv2d_pool:n2h8w8c1f4k3valid conv2d_pool_dw:n2h8w8c1f4k3valid
max_pool2d:n2h6w4c3k2 max_pool2d_dx:n2h6w4c3k2 avg_pool2d:n2h6w4c3k2 avg_pool2d_dx:n2h6w4c3k2
global_avg_pool2d:n2h3w3c4 global_avg_pool2d_dx:n2h3w3c4
softmax:r5c7 softmax_dx:r5c7 log_softmax:r5c7 log_softmax_dx:r5c7
softmax_cross_entropy:r5c7 softmax_cross_entropy_dense:r5c7
relu:n99 relu_dx:n99 gelu:n99 gelu_dx:n99 add:n99 multiply_row:r5c4 multiply_da:n99 multiply_db:n99
exp:n99 exp_dx:n99 clip:n99 clip_dx:n99 dropout:n99 dropout_dx:n99
reduce_sum:r3c5i2 reduce_sum_dx:r3c5i2 reduce_max:r3c5i2 reduce_max_dx:r3c5i2 transpose:m5n3
adam:n99t2 sgd:n99t2 rmsprop:n99t2 gradient_square_sums:n99t2
"""


@dataclass(frozen=True)
class Suite:
    """Descriptors, and how much they may take.

    Args:
        seconds: for each kernel, on each number of threads.
        epoch_seconds: for each training workload.
        libraries: which take part; () means all that are installed.
        single: patterns of the kernels that are measured on one thread, too, not only on all cores.
    """

    descriptors: tuple[str, ...]
    seconds: float = 4
    epoch_seconds: float = 120
    libraries: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    device: str = "cpu"


_QUICKEST = ("tilegrad", "numpy", "torch")  # who starts quickly
_SINGLE = ("matmul:*", "dense:m128*", "conv2d:n32h32*", "softmax:*", "relu:*", "adam:*")
SUITES = {
    "quick": Suite((*QUICK.split(), "train:cnn:b32"), 1, 12, _QUICKEST),
    "cpu": Suite(tuple(CPU.split()), single=_SINGLE),
    "train": Suite(tuple(TRAIN.split())),
    "gpu": Suite(tuple(GPU.split()), device="cuda"),
    "sim": Suite(tuple(SIM.split()), 0.1, device="sim"),
    "all": Suite(tuple(CPU.split() + TRAIN.split()), single=_SINGLE),
}
