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

# Sizes that fill a large GPU, and the small CNN's, which do not.
GPU = """
matmul:b1m1024k1024n1024 matmul:b1m4096k4096n4096 matmul_da:b1m4096k4096n4096
matmul_db:b1m4096k4096n4096
dense:m128k5408n128 dense:m4096k4096n4096 dense_dx:m128k5408n128 dense_dw:m128k5408n128
conv2d:n128h28w28c1f32k3s1valid conv2d:n128h56w56c64f64k3s1same
conv2d:n128h28w28c128f128k3s1same conv2d:n128h14w14c256f256k3s1same
conv2d:n128h28w28c128f256k3s2same conv2d:n128h28w28c256f256k1s1same
conv2d_dx:n128h56w56c64f64k3s1same conv2d_dx:n128h14w14c256f256k3s1same
conv2d_dx:n128h28w28c128f256k3s2same
conv2d_dw:n128h28w28c1f32k3s1valid conv2d_dw:n128h56w56c64f64k3s1same
conv2d_dw:n128h14w14c256f256k3s1same
conv2d_pool:n128h28w28c1f32k3valid conv2d_pool_dw:n128h28w28c1f32k3valid
max_pool2d:n128h112w112c64k2 max_pool2d_dx:n128h112w112c64k2
avg_pool2d:n128h56w56c64k2 global_avg_pool2d:n128h7w7c2048
softmax:r4096c1000 softmax_dx:r4096c1000
softmax_cross_entropy:r512c10 softmax_cross_entropy:r4096c1000
relu:n16777216 relu_dx:n16777216 gelu:n16777216 gelu_dx:n16777216 add:n16777216
reduce_sum:r4096c4096 transpose:m4096n4096
adam:n693962t6 adam:n33554432t8
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
    "quick": Suite((*QUICK.split(), "train:cnn:b32"), 2, 20, _QUICKEST),
    "cpu": Suite(tuple(CPU.split()), single=_SINGLE),
    "train": Suite(tuple(TRAIN.split())),
    "gpu": Suite(tuple(GPU.split()), device="cuda"),
    "all": Suite(tuple(CPU.split() + TRAIN.split()), single=_SINGLE),
}
