"""Where a kernel call belongs: the layer, and the pass ("forward", "backward" or "update").

It is known while `instrument` has "places" on: while kernels are traced, and while `capture`
records a plan. Then each op remembers the layer that made it, for its backward.
"""

from __future__ import annotations

import functools
import threading

from . import instrument
from .autograd import Op
from .tensor import Tensor


class _State(threading.local):
    op = None  # (layer, pass) of the op that runs
    outside = "", "forward"  # a name in the place of a layer outside of all layers, and the pass


_state = _State()


def layer_names() -> list[str]:
    """The layers that this thread is calling, outermost first; `keras.points` puts its own here."""
    return []


def layer() -> str:
    """The path of the layer that runs, without the model round it; "" outside of all."""
    names = layer_names()
    return "/".join(names[1:] or names) or _state.outside[0]


def joined(*layers: str) -> str:
    """The name for what one kernel does for several layers."""
    return " + ".join(dict.fromkeys(filter(None, layers)))


def current() -> tuple[str, str]:
    """(layer, pass) of what this thread runs."""
    return _state.op or (layer(), _state.outside[1])


def within(name_of, phase: str):
    """A wrap: outside of layers, the function works for ``name_of(*arguments)``, in `phase`."""

    def wrap(function):
        @functools.wraps(function)
        def call(*arguments, **options):
            outer, _state.outside = _state.outside, (name_of(*arguments), phase)
            try:
                return function(*arguments, **options)
            finally:
                _state.outside = outer

        return call

    return wrap


def _forward(function):
    @functools.wraps(function)
    def call(op, *arguments):
        if getattr(op, "layer", None) is None:
            op.layer = joined(*_parts(op), layer())
        return _at((op.layer, _state.outside[1]), function, op, *arguments)

    return call


def _parts(op) -> list[str]:
    """The layers of the ops that a fused op is made of."""
    return [part.layer for part in vars(op).values() if getattr(part, "layer", None)]


def _backward(function):
    @functools.wraps(function)
    def call(op, *arguments):
        return _at((getattr(op, "layer", ""), "backward"), function, op, *arguments)

    return call


def _at(place, function, *arguments):
    outer, _state.op = _state.op, place
    try:
        return function(*arguments)
    finally:
        _state.op = outer


def _all_backward(function):
    """`Tensor.backward`: what is not an op's there is the adding up of gradients."""
    inner = within(lambda *_: "", "backward")(function)

    @functools.wraps(function)
    def call(*arguments, **options):
        find_ops()  # those of a script that were defined a moment ago
        return inner(*arguments, **options)

    return call


def find_ops() -> None:
    """Have all classes of ops remember their layers."""
    if len(Op.__subclasses__()) == len(_direct):
        return
    _direct.update(Op.__subclasses__())
    found = [Op]
    for cls in found:
        found += cls.__subclasses__()
        if cls not in _known:
            _known.add(cls)
            for name, wrap in (("forward", _forward), ("backward", _backward)):
                if name in vars(cls):
                    instrument.add("places", cls, name, wrap)


_direct: set[type] = set()  # subclasses of Op when they were last looked for
_known: set[type] = set()
instrument.add("places", Tensor, "backward", _all_backward)
