"""A valid call of every kernel: what the parity, reproducibility and bad-input tests start from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from checks import map_arrays, normal, poison

from tilegrad.backend import ACTIVATIONS, BINARY, KERNELS, UNARY

OUTPUTS = {  # how many leading arguments a kernel writes, where not one
    "bias_activation_backward_dz": 2,
    "max_pool2d_forward": 2,
    "conv2d_max_pool2d_forward": 2,
    "conv2d_max_pool2d_backward_dw": 2,
    "softmax_cross_entropy_sparse_forward": 3,
    "softmax_cross_entropy_dense_forward": 3,
}
IN_PLACE = ("sgd_update", "rmsprop_update", "adam_update")  # they update w and states


@dataclass
class Call:
    """Kernel `name` and its arguments by the names that `KERNELS` gives them, in that order."""

    name: str
    label: str
    arguments: dict

    def written(self) -> list[str]:
        """The arguments that the kernel writes."""
        if self.name in IN_PLACE:
            return ["w", "states"]
        return list(self.arguments)[: OUTPUTS.get(self.name, 1)]

    def copy(self, place=np.array) -> Call:
        """The same call on arrays of its own, each made by `place`."""
        arguments = {key: map_arrays(place, value) for key, value in self.arguments.items()}
        return Call(self.name, self.label, arguments)

    def run(self, k) -> dict:
        """Call the kernel on this call's own arrays; what it wrote, by argument."""
        getattr(k, self.name)(*self.arguments.values())
        return {key: self.arguments[key] for key in self.written()}


def calls(large=False, n=None):
    """Calls of all kernels, with poisoned outputs.

    Args:
        large: sizes that are split over several threads, and more variants of each kernel.
        n: the batch size (rows, images, elements), for instance 0.
    """
    rng = np.random.default_rng(0)
    made = []

    def add(name, *arguments, label=""):
        keys = KERNELS[name].split(", ")
        full = f"{name}-{label}" if label else name
        made.append(Call(name, full, dict(zip(keys, arguments, strict=True))))

    def a(*shape):
        return normal(rng, *shape)

    def batch(small, big):
        return n if n is not None else big if large else small

    count = batch(35, 300_007)
    kinds = ACTIVATIONS if large else ["elu"]
    for name in kinds:
        add("activation_forward", poison(count), a(count), ACTIVATIONS[name], 0.3, label=name)
        add(
            "activation_backward_dx",
            poison(count),
            a(count),
            a(count),
            ACTIVATIONS[name],
            0.3,
            label=name,
        )

    shapes = [(batch(5, 259), 7, 4)]
    if large:
        shapes = [(259, 513, 130), (32, 5408, 128), (32, 128, 10), (1, 1000, 700), (3000, 5, 3)]
    for rows, c, f in shapes:
        label = f"{rows}x{c}x{f}"
        y, x, w, b = a(rows, f), a(rows, c), a(c, f), a(f)
        relu = ACTIVATIONS["relu"]
        add("dense_forward", poison((rows, f)), x, w, b, relu, 0.0, label=label)
        add("dense_backward_dx", poison((rows, c)), y, w, label=label)
        add("dense_backward_dw", poison((c, f)), x, y, label=label)
        add("bias_backward_db", poison(f), y, label=label)
        outputs = poison(y.shape), poison(f)
        add("bias_activation_backward_dz", *outputs, y, a(*y.shape), relu, 0.0, label=label)
    entries, m, k, f = (batch(3, 5), 65, 70, 130) if large else (batch(3, 3), 5, 7, 4)
    y, p, q = a(entries, m, f), a(entries, m, k), a(entries, k, f)
    add("matmul_forward", poison(y.shape), p, q)
    add("matmul_backward_da", poison(p.shape), y, q)
    add("matmul_backward_db", poison(q.shape), p, y)

    images = batch(3, 7)
    convs = [("grouped", (9, 8), 6, 10, (3, 3), (2, 1, 1, 1, 1, 2, 2))]
    if large:
        convs = [
            ("first layer", (28, 28), 1, 32, (3, 3), (1, 1, 0, 0, 1, 1, 1)),
            ("colour", (33, 31), 3, 17, (5, 5), (2, 2, 2, 2, 1, 1, 1)),
            ("wide", (14, 15), 64, 72, (3, 3), (1, 1, 1, 1, 1, 1, 1)),
            ("1x1", (14, 15), 65, 129, (1, 1), (1, 1, 0, 0, 1, 1, 1)),
            ("grouped", (19, 18), 12, 20, (3, 3), (2, 1, 1, 1, 1, 2, 2)),
            ("depthwise", (29, 30), 33, 33, (3, 3), (1, 1, 1, 1, 1, 1, 33)),
            ("dilated", (30, 29), 9, 16, (3, 3), (1, 2, 2, 2, 2, 2, 1)),
        ]
    for label, (h, w), c, f, (kh, kw), sizes in convs:
        sh, sw, top, left, dh, dw, groups = sizes
        oh = (h + 2 * top - (kh - 1) * dh - 1) // sh + 1
        ow = (w + 2 * left - (kw - 1) * dw - 1) // sw + 1
        x, y, weight = a(images, h, w, c), a(images, oh, ow, f), a(kh, kw, c // groups, f)
        elu = ACTIVATIONS["elu"]
        add("conv2d_forward", poison(y.shape), x, weight, a(f), *sizes, elu, 1.0, label=label)
        add("conv2d_backward_dx", poison(x.shape), y, weight, *sizes, label=label)
        add("conv2d_backward_dw", poison(weight.shape), x, y, *sizes, label=label)

    pools = [("overlapping", (9, 8), (5, 5), 3, (3, 3, 2, 2, 1, 1))]
    if large:
        pools = [
            ("2x2", (26, 26), (13, 13), 32, (2, 2, 2, 2, 0, 0)),
            ("overlapping", (57, 55), (29, 28), 19, (3, 3, 2, 2, 1, 1)),
            ("window of 289", (40, 41), (24, 25), 5, (17, 17, 1, 1, 0, 0)),
        ]
    for label, (h, w), (oh, ow), c, sizes in pools:
        places = sizes[0] * sizes[1]
        kind = np.uint8 if places <= 256 else np.int32
        x, y = a(images, h, w, c), a(images, oh, ow, c)
        index = poison(y.shape, kind)
        inside = np.full(y.shape, places // 2, kind)
        add("max_pool2d_forward", poison(y.shape), index, x, *sizes, label=label)
        add("max_pool2d_backward_dx", poison(x.shape), y, inside, *sizes, label=label)
        add("avg_pool2d_forward", poison(y.shape), x, *sizes, label=label)
        add("avg_pool2d_backward_dx", poison(x.shape), y, *sizes, label=label)
    fused = [("", (9, 8), 3, 5, (9, 8, 1, 1, 1, 1, 1, 1, 2, 3, 0, 1))]
    if large:
        fused = [
            ("first layer", (28, 28), 1, 32, (26, 26, 1, 1, 0, 0, 1, 1, 2, 2, 0, 0)),
            ("colour", (33, 31), 3, 17, (33, 31, 1, 1, 1, 1, 1, 1, 3, 3, 1, 0)),
            ("wide", (14, 15), 64, 72, (14, 15, 1, 1, 1, 1, 1, 1, 2, 2, 0, 0)),
        ]
    for label, (h, w), c, f, sizes in fused:
        conv_h, conv_w, kh, kw, top, left = *sizes[:2], *sizes[8:]
        oh, ow = (conv_h + 2 * top - kh) // kh + 1, (conv_w + 2 * left - kw) // kw + 1
        x, y, weight = a(images, h, w, c), a(images, oh, ow, f), a(3, 3, c, f)
        index, inside = poison(y.shape, np.uint8), np.full(y.shape, kh * kw // 2, np.uint8)
        out = poison(y.shape), index
        relu = ACTIVATIONS["relu"]
        add("conv2d_max_pool2d_forward", *out, x, weight, a(f), *sizes, relu, label=label)
        out = poison(weight.shape), poison(f)
        add("conv2d_max_pool2d_backward_dw", *out, x, y, inside, *sizes, label=label)

    rows, c = (800, 129) if large else (6, 4)
    add("global_avg_pool2d_forward", poison((images, c)), a(images, rows, c))
    add("global_avg_pool2d_backward_dx", poison((images, rows, c)), a(images, c))

    rows, cols = (batch(5, 5000), 130) if large else (batch(5, 5), 7)
    x, dy, t = a(rows, cols), a(rows, cols), np.abs(a(rows, cols))
    for name in ("softmax", "log_softmax"):
        add(f"{name}_forward", poison(x.shape), x)
        add(f"{name}_backward_dx", poison(x.shape), dy, x)
    labels = rng.integers(0, cols, rows).astype(np.int32)
    for form, target in (("sparse", labels), ("dense", t)):
        name = f"softmax_cross_entropy_{form}"
        outputs = poison(1), poison(rows), poison(x.shape)
        add(f"{name}_forward", *outputs, x, target, np.abs(a(rows)), 0.125)
        add(f"{name}_backward_dx", poison(x.shape), a(rows), np.abs(x), target)

    shape = (batch(3, 100), 5, 611 if large else 7)
    first, second, dy = np.abs(a(*shape)), a(5, 1), a(*shape)
    for name in BINARY if large else ["divide"]:
        kind = BINARY[name]
        add("binary_forward", poison(shape), first, second, kind, label=name)
        add("binary_backward_da", poison(shape), dy, first, second, kind, label=name)
        add("binary_backward_db", poison(shape), dy, first, second, kind, label=name)
    x = np.abs(a(count))
    for name in UNARY if large else ["sqrt"]:
        add("unary_forward", poison(count), x, UNARY[name], label=name)
        add("unary_backward_dx", poison(count), a(count), x, UNARY[name], label=name)
    add("clip_forward", poison(count), a(count), -0.5, 0.5)
    add("clip_backward_dx", poison(count), a(count), a(count), -0.5, 0.5)
    reductions = [(batch(3, 300), 5, 4)]
    if large:
        reductions = [(300, 129, 17), (1, 1_000_003, 1), (1, 70_001, 3), (5000, 40, 1)]
    for outer, r, inner in reductions:
        label = f"{outer}x{r}x{inner}"
        x, dy = np.round(a(outer, r, inner)), a(outer, inner)
        add("reduce_sum_forward", poison(dy.shape), x, 0.25, label=label)
        add("reduce_sum_backward_dx", poison(x.shape), dy, 0.25, label=label)
        add("reduce_max_forward", poison(dy.shape), x, label=label)
        add("reduce_max_backward_dx", poison(x.shape), dy, x, x.max(axis=1), label=label)
    rows, cols = (batch(6, 777), 513) if large else (batch(6, 6), 5)
    strides = (rows, 1), (1, cols)
    add(
        "strided_copy",
        poison((cols, rows)),
        a(rows, cols),
        (cols, rows),
        0,
        strides[0],
        0,
        strides[1],
    )
    add("dropout_forward", poison(count), a(count), 0.25, 2**63 + 5)
    add("dropout_backward_dx", poison(count), a(count), 0.25, 2**63 + 5)

    sizes = [(count,), (3, 4), (257, 129)] if large else [(count,), (3, 4)]
    scale, decay = (np.full(len(sizes), v, np.float32) for v in (0.5, 0.01))

    def optimizer(name, states, *hyper, label=""):
        w, g = ([a(*s) for s in sizes] for _ in range(2))
        kept = [[np.abs(a(*s)) for s in sizes] for _ in range(states)]
        add(name, w, g, kept, scale, decay, 0.01, 0.75, *hyper, label=label)

    optimizer("sgd_update", 1, 0.9, True)
    optimizer("rmsprop_update", 2, 0.9, 0.5, 1e-7, False)
    optimizer("adam_update", 3, np.array([2]), 0.9, 0.999, 1e-7, True)
    if large:
        optimizer("sgd_update", 0, 0.0, False, label="plain")
        optimizer("rmsprop_update", 1, 0.9, 0.0, 1e-7, False, label="plain")
        optimizer("adam_update", 2, np.array(2), 0.9, 0.999, 1e-7, False, label="plain")
    add("gradient_square_sums", poison(len(sizes), np.float64), [a(*s) for s in sizes])
    return made
