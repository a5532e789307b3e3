"""`model.summary()`: a table of layers with shapes, parameters and FLOPs."""

from __future__ import annotations

import contextlib
import math
import re
import shutil

import numpy as np
import rich.console
import rich.markup
import rich.table

from ...autograd import no_grad
from ...tensor import Tensor
from ..layers import InputLayer, KerasTensor

_NUMBER, _NONE, _SYMBOL, _YES, _NO = 34, 45, 33, 34, 9  # 256-colour codes


def count_params(weights) -> int:
    """How many numbers the given variables hold."""
    return sum(math.prod(w.shape) for w in weights)


def readable_size(size: float) -> str:
    """A number of bytes with the unit that fits: ``2.65 MB``."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} PB"


def readable_count(count: float, unit: str = "") -> str:
    """A count with a decimal prefix and its unit: ``1.78 MFLOP``."""
    if count < 1000:
        return f"{count} {unit}".rstrip()
    for prefix in ("K", "M", "G", "T"):
        count /= 1000
        if count < 999.995:
            return f"{count:.2f} {prefix}{unit}"
    return f"{count / 1000:.2f} P{unit}"


def trace(model):
    """Input and output shapes of every layer in `model`, found by one forward pass over zeros.

    Returns:
        Dict from layer to (input shape, output shape), None standing for the batch size; layers
        that the pass does not reach, or all if the model was not called yet, are missing.
    """
    shapes = {}
    specs = model._input_specs() if model.built else None
    if specs is None:
        return shapes
    if isinstance(specs, KerasTensor) and None in specs.shape[1:]:
        return _trace_symbolic(model)
    inputs = _zeros_like(specs)
    with contextlib.ExitStack() as stack, no_grad():
        for layer in model._flatten_layers(include_self=False):
            _record(layer, shapes, stack)
        model(inputs, training=False)
    return shapes


def _record(layer, shapes, stack):
    """Have `layer` note its shapes at each call until `stack` is closed."""
    call = layer.call

    def recorded(inputs, *args, **kwargs):
        outputs = call(inputs, *args, **kwargs)
        shapes[layer] = (_shape(inputs), _shape(outputs))
        return outputs

    layer.call = recorded
    stack.callback(vars(layer).pop, "call")


def _trace_symbolic(model):
    """The same for a `Sequential` with sizes left open."""
    shapes = {}
    shape = model.input_shape
    for layer in model.layers:
        output = layer.compute_output_shape(shape)
        shapes[layer] = (shape, output)
        shape = output
    return shapes


def _zeros_like(specs):
    if isinstance(specs, dict):
        return {key: _zeros_like(spec) for key, spec in specs.items()}
    if isinstance(specs, list):
        return [_zeros_like(spec) for spec in specs]
    return Tensor(np.zeros((1, *specs.shape[1:]), specs.dtype))


def _shape(data):
    if isinstance(data, dict):
        return {key: _shape(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_shape(value) for value in data]
    return (None, *data.shape[1:])


def layer_flops(layer, shapes):
    """Forward FLOPs per sample of a layer and all inside it; None if unknown."""
    if layer not in shapes:
        return None
    inside = layer._flatten_layers(include_self=False, recursive=False)
    inside = [item for item in inside if not isinstance(item, InputLayer)]
    if inside:
        found = [layer_flops(item, shapes) for item in inside]
        return None if None in found else sum(found)
    shape = shapes[layer][0]
    if not isinstance(shape, tuple) or None in shape[1:]:
        return None
    return layer.flops(shape)


def print_summary(
    model,
    line_length=None,
    positions=None,
    print_fn=None,
    expand_nested=False,
    show_trainable=False,
    layer_range=None,
):
    """Print the table; see `Model.summary`."""
    header = ["Layer (type)", "Output Shape", "Param #", "FLOPs"]
    alignment = ["left", "left", "right", "right"]
    length = 88
    if positions is None:
        positions = [0.43, 0.71, 0.86, 1.0]
    elif len(positions) == 3:
        del header[3], alignment[3]
    elif len(positions) != 4:
        raise ValueError(f"summary: expected 3 or 4 positions, got {positions}")
    if show_trainable:
        length += 12
        positions = [p * 0.90 for p in positions] + [1.0]
        header.append("Trainable")
        alignment.append("center")
    length = line_length or min(length, shutil.get_terminal_size().columns - 4)
    columns, start = [], 0
    for name, position, justify in zip(header, positions, alignment, strict=True):
        width = int(position * length) - start
        if width < 4:
            raise ValueError(
                f"summary: expected columns of at least 4 characters, got {width} for {name!r} "
                f"(line_length={length}, positions={positions})"
            )
        start += width
        columns.append(rich.table.Column(name, justify=justify, width=width))
    table = rich.table.Table(*columns, width=length, show_lines=True)
    shapes = trace(model)
    layers = model.layers
    first, last = _layer_range(layers, layer_range)
    for layer in layers[first:last]:
        for row in _rows(layer, shapes, expand_nested, 0):
            trainable = row.pop()
            table.add_row(
                *row[: len(header) - show_trainable], *([trainable] if show_trainable else [])
            )

    if print_fn:
        console = rich.console.Console(
            highlight=False, force_terminal=False, color_system=None, width=max(length, 80)
        )
        console.begin_capture()
    else:
        console = rich.console.Console(highlight=False)
    console.print(f"[bold]Model: {rich.markup.escape(chr(34) + model.name + chr(34))}[/]")
    console.print(table)
    for line in _totals(model, shapes):
        console.print(line)
    if print_fn:
        print_fn(console.end_capture())


def _rows(layer, shapes, expand_nested, level):
    prefix = "   " * level + "└ " if level else ""
    name = rich.markup.escape(f"{prefix}{layer.name}")
    kind = _colour(rich.markup.escape(type(layer).__name__), _SYMBOL)
    output = _format_shape(shapes[layer][1]) if layer in shapes else "?"
    params = _number(f"{layer.count_params():,}") if layer.built else "unbuilt"
    flops = layer_flops(layer, shapes)
    flops = "?" if flops is None else _number(readable_count(flops))
    if not layer.built or not layer.weights:
        trainable = "[bold]-[/]"
    else:
        letter, colour = ("Y", _YES) if layer.trainable else ("N", _NO)
        trainable = f"[bold]{_colour(letter, colour)}[/]"
    rows = [[f"{name} ({kind})", output, params, flops, trainable]]
    if expand_nested:
        for inner in getattr(layer, "layers", ()):
            rows.extend(_rows(inner, shapes, expand_nested, level + 1))
    return rows


def _totals(model, shapes):
    trainable, frozen = model.trainable_weights, model.non_trainable_weights
    state = _optimizer_state(model)
    groups = [("Total", [*trainable, *frozen, *state]), ("Trainable", trainable)]
    groups.append(("Non-trainable", frozen))
    if state:
        groups.append(("Optimizer", state))
    for name, arrays in groups:
        size = sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in arrays)
        count = _number(f"{count_params(arrays):,}")
        yield f"[bold] {name} params: [/]{count} ({readable_size(size)})"
    flops = [layer_flops(layer, shapes) for layer in model.layers]
    if flops and None not in flops:
        total = _number(f"{sum(flops):,}")
        yield f"[bold] Forward FLOPs per sample: [/]{total} ({readable_count(sum(flops), 'FLOP')})"
    if not all(layer.built for layer in model._flatten_layers(include_self=False)):
        yield " Not built yet: call build(input_shape), or the model on some data."


def _optimizer_state(model):
    """What the optimizer keeps, its step count and learning rate included."""
    optimizer = model.optimizer
    if not model.compiled or optimizer is None or not getattr(optimizer, "built", False):
        return []
    return list(optimizer.variables)


def _layer_range(layers, names):
    if names is None:
        return 0, len(layers)
    if len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"summary: expected layer_range to be two layer names, got {names!r}")
    found = [[i for i, layer in enumerate(layers) if re.match(name, layer.name)] for name in names]
    if not all(found):
        raise ValueError(
            f"summary: expected layer_range among {[layer.name for layer in layers]}, got {names!r}"
        )
    lower, upper = found
    if min(lower) > max(upper):
        lower, upper = upper, lower
    return min(lower), max(upper) + 1


def _format_shape(shape):
    if isinstance(shape, dict):
        return ", ".join(f"{key}: {_format_shape(value)}" for key, value in shape.items())
    if isinstance(shape, list):
        return "[" + ", ".join(_format_shape(item) for item in shape) + "]"
    sizes = ", ".join(_colour("None", _NONE) if s is None else _number(s) for s in shape)
    return f"({sizes})"


def _number(value):
    return _colour(value, _NUMBER)


def _colour(text, code):
    return f"[color({code})]{text}[/]"
