"""Convolutions that wait for the layer behind them.

Within a model, `Conv2D` returns a `DeferredConv2D`: a tensor whose shape is known and whose kernel
has not run. If a relu or a max pooling comes next, one kernel does all of it; whoever else looks at
the data makes the convolution run alone. What still waits and is still held by somebody when the
outermost call returns runs then, so that no one can tell the difference.
"""

from __future__ import annotations

import threading
import weakref

from ... import ops
from ...autograd import apply, is_grad_enabled, no_grad
from ...ops._common import tensors
from ...ops.conv import conv2d_op
from ...ops.conv_pool import Conv2DMaxPool2D, can_fuse
from ...ops.pool import MaxPool2D, pool2d_op
from ...tensor import Tensor


class _Waiting(threading.local):
    def __init__(self):
        self.convolutions = []  # weak references


_waiting = _Waiting()


class DeferredConv2D(Tensor):
    """act(conv(x, w) + b), as soon as somebody reads `data`."""

    __slots__ = ("arguments", "inputs", "mode", "op", "planned_shape", "versions")

    def __init__(self, inputs, arguments):
        self.device = inputs[0].device
        self.grad = self.creator = self.logits = None
        self.inputs = inputs
        self.arguments = arguments  # strides, padding, dilation, groups, activation, alpha
        self.mode = is_grad_enabled()
        self.op = conv2d_op(*arguments)
        self.planned_shape = self.op.plan(*inputs)
        self.requires_grad = self.mode and any(t is not None and t.requires_grad for t in inputs)
        self.versions = self._input_versions()
        self._version = [0]
        _waiting.convolutions.append(weakref.ref(self))

    @property
    def shape(self):
        return self.planned_shape

    @property
    def ndim(self):
        return 4

    def __getattr__(self, name):
        if name != "data":  # only ever unset before the kernel has run
            raise AttributeError(f"a tensor has no attribute {name!r}")
        self._check_inputs()
        if self.mode:
            y = apply(self.op, *self.inputs)
        else:
            with no_grad():
                y = apply(self.op, *self.inputs)
        self.data = y.data
        self.creator, self._version = y.creator, y._version
        self.inputs = self.op = None
        return self.data

    def relu(self) -> Tensor:
        """max(0, this), by the same kernel if it has not run and has no activation yet."""
        *geometry, activation, _ = self.arguments
        if activation is not None or not self._may_go_on():
            return ops.relu(self)
        return DeferredConv2D(self.inputs, (*geometry, "relu", None))

    def max_pool2d(self, pool_size, strides, padding) -> Tensor:
        """The pooled image, by one kernel if that is possible and this one has not run."""
        if self._may_go_on():
            pool = pool2d_op(MaxPool2D, pool_size, strides, padding)
            if can_fuse(self.op, pool, self.planned_shape):
                self._check_inputs()
                return apply(Conv2DMaxPool2D(self.op, pool, self.planned_shape), *self.inputs)
        return ops.max_pool2d(self, pool_size, strides, padding)

    def _may_go_on(self) -> bool:
        return self.inputs is not None and self.mode == is_grad_enabled()

    def _input_versions(self):
        return [t._version[0] for t in self.inputs if t is not None]

    def _check_inputs(self):
        if self._input_versions() != self.versions:
            raise RuntimeError(
                "Conv2D: its input or a weight was changed in place before the result was used; "
                "change a copy, or use the result first"
            )


def conv2d(x, w, b, *arguments) -> Tensor:
    """`ops.conv2d`, deferred."""
    x, w, b = tensors(x, w, b)
    return DeferredConv2D((x, w, b), arguments)


def settle(run: bool) -> None:
    """Run what still waits and is still held; with run=False (after an error) forget it."""
    if not _waiting.convolutions:
        return
    references, _waiting.convolutions = _waiting.convolutions, []
    if run:
        for reference in references:
            tensor = reference()
            if tensor is not None:
                tensor.data  # noqa: B018  (reading it runs it)
