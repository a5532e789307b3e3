"""The engine: eager reverse-mode differentiation, first order, in pure Python.

An `Op` computes arrays from arrays through one backend and says how gradients flow back. `apply`
runs it and, while gradients are on, links it to the ops that made its inputs. `backward` follows
those links from the youngest op to the oldest (creation order is a topological order, so neither
recursion nor a search beforehand is needed).
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Sequence

from . import backend, recording
from .tensor import Tensor

_ADD = backend.BINARY["add"]


class _Mode(threading.local):
    grad = True


_mode = _Mode()
_sequence = itertools.count()


class Op:
    """One differentiable operation; a fresh object per call.

    `forward(k, *arrays)` checks its inputs, allocates and returns the output array, and keeps in
    `self.saved`, a tuple, what `backward(k, dy)` needs; `k` is the backend. `backward` returns one
    gradient per input, None for those whose `self.needs` is False.
    `reads` names the inputs (by position) whose memory backward reads again: changing one of them
    in place between forward and backward is an error. `reads_output` says the same of the output.
    """

    reads: tuple[int, ...] = ()
    reads_output = False

    saved: tuple | None = ()  # None once backward has freed it
    edges: Sequence[Op | Tensor | None] = ()
    needs: Sequence[bool] = ()

    def forward(self, k, *arrays):
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, k, dy):
        raise NotImplementedError(f"{type(self).__name__} has no backward")


def apply(op: Op, *inputs: Tensor | None) -> Tensor:
    """Run `op` on `inputs` (None for an absent one) and record it if a gradient may flow."""
    device = inputs[0].device
    arguments = [backend.get(device)]
    needs = op.needs = []
    edges = []
    for t in inputs:
        if t is None:
            arguments.append(None)
            needs.append(False)
            edges.append(None)
            continue
        if t.device != device:
            found = ", ".join(i.device for i in inputs if i is not None)
            raise ValueError(f"{_name(op)}: expected all inputs on one device, got {found}")
        arguments.append(t.data)
        needs.append(t.requires_grad)
        edges.append((t.creator or t) if t.requires_grad else None)
    if recording.state.log is not None:
        recording.state.log.inputs(inputs)
    out = Tensor._wrap(op.forward(*arguments), device)
    if True in needs and _mode.grad:
        op.edges = edges
        versions = op.versions = []
        for i in op.reads:
            t = inputs[i]
            if t is not None:
                versions.append((t._version, t._version[0]))
        if op.reads_output:
            versions.append((out._version, 0))
        op.sequence = next(_sequence)
        out.creator = op
        out.requires_grad = True
    return out


def backward(root: Tensor, grad=None, retain_graph: bool = False) -> None:
    """Add d root / d leaf to the `grad` of every leaf that requires it; see `Tensor.backward`."""
    if not root.requires_grad:
        raise RuntimeError("backward: this tensor does not require a gradient")
    device = root.device
    k = backend.get(device)
    if grad is None:
        if root.size != 1:
            raise ValueError(
                f"backward: expected a scalar, or a grad of shape {root.shape}; got neither"
            )
        seed = k.empty_like(root.data)
        seed.fill(1)
        seed = recording.constant(seed)
    else:
        seed = Tensor._coerce(grad, device).data
        if seed.shape != root.data.shape:
            raise ValueError(f"backward: expected a grad of shape {root.shape}, got {seed.shape}")

    grads = {}  # op or leaf -> array
    borrowed = set()  # those whose array may serve others too
    waiting = []  # a heap of (-sequence, op) for the ops in `grads`
    op, dy = root.creator, seed
    if op is None:
        grads[root] = seed
        if grad is not None:
            borrowed.add(root)
    while op is not None:
        if op.saved is None:
            raise _freed(op)
        for version, expected in op.versions:
            if version[0] != expected:
                raise _changed(op, version[0], expected)
        gradients, memory = op.backward(k, dy), dy.base
        for i, edge in enumerate(op.edges):
            g = gradients[i]
            if edge is None or g is None:
                continue
            total = grads.get(edge)
            if total is None:
                grads[edge] = g
                base = g.base
                if g is dy or base is dy or (base is memory and memory is not None):
                    borrowed.add(edge)
                if not isinstance(edge, Tensor):
                    heapq.heappush(waiting, (-edge.sequence, edge))
                continue
            if edge in borrowed:
                borrowed.remove(edge)
                grads[edge] = k.empty_like(total)
            k.binary_forward(grads[edge], total, g, _ADD)
        if not retain_graph:
            op.saved = None
            op.edges = ()
        if not waiting:
            break
        # Whatever read its output is younger, so the gradient of the youngest op is complete.
        op = heapq.heappop(waiting)[1]
        dy = grads.pop(op)

    log = recording.state.log
    for leaf, g in grads.items():  # only now: an error above leaves every grad as it was
        if leaf.grad is not None:
            total = k.empty_like(g)
            k.binary_forward(total, leaf.grad.data, g, _ADD)
            g = total
        elif leaf in borrowed:
            shared, g = g, k.empty_like(g)
            k.activation_forward(g, shared, 0, 0.0)
        leaf.grad = Tensor._wrap(g, device)
        if log is not None:
            log.leaves[id(leaf)] = leaf


def _freed(op: Op) -> RuntimeError:
    return RuntimeError(
        f"{_name(op)}: its saved arrays were freed by an earlier backward; "
        "call backward(retain_graph=True) to go through the same graph twice"
    )


def _changed(op: Op, version: int, expected: int) -> RuntimeError:
    return RuntimeError(
        f"{_name(op)}: a tensor that its backward needs was changed in place after forward "
        f"(version {expected} became {version}); change a copy instead"
    )


def _name(op: Op) -> str:
    return type(op).__name__


def is_grad_enabled() -> bool:
    """Whether operations in this thread are recorded for `backward`."""
    return _mode.grad


@contextlib.contextmanager
def no_grad():
    """Within the block (or the decorated function) nothing is recorded; per thread.

    >>> import tilegrad
    >>> w = tilegrad.Tensor([2.0], requires_grad=True)
    >>> with tilegrad.no_grad():
    ...     print((w * 3).requires_grad)
    False
    """
    before, _mode.grad = _mode.grad, False
    try:
        yield
    finally:
        _mode.grad = before
