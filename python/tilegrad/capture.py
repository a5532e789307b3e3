"""`capture`: a training step as a flat plan of kernel calls, replayed without Python between them.

The first two calls with arguments of some shapes run the step as ever, but each kernel call is
logged, and the backend's `Plan` keeps it, with its pointers, for later; arrays of pooled memory are
set apart for the plan meanwhile. A log says where each array that a kernel reads came from:

- it is an argument of the step: replays copy theirs to the same memory;
- a kernel wrote it earlier in the step;
- it is a constant, made of a number in the program;
- it is a number to compute anew: a learning rate, a seed;
- it lies outside: a weight, an optimizer's state, whatever lives from call to call. Replays use it
  where it is.

Anything else NumPy made within the step, where a replay would not make it again: the step is
refused. The second call must log the same calls with the same numbers as the first. Then the plan
of the first call is replayed on the arguments of the second, from the same weights, and must give
the same bits. From the third call on, replays are the step.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings

import numpy as np

from . import autograd, backend, instrument, places, recording, trace
from .interrupts import uninterrupted
from .tensor import Tensor

_PLAIN = (type(None), bool, int, float, str)
_MOST_SHAPES = 8  # that one captured step keeps plans for
_MOST_TRIALS = 3  # calls that may differ from the one before: layers build themselves, for example


def capture(function):
    """`function`, a training step, as a callable that records it once and then replays it.

    The step is called with arrays and tensors (also in lists, tuples and dicts) and gives tensors.
    For each set of shapes the first two calls run it as ever; later ones copy the arguments, run
    the recorded kernels and copy the results. Weights, optimizer states, iterations and gradients
    are the same bits as without, and dropout draws the same seeds. What a replay does not do is
    Python: numbers of the program and attributes count as they were; prints and lists that grow
    have no place in a step. A learning rate, also one from a schedule or a callable, is read anew.

    A step that cannot be captured runs as ever, and a warning says why: because it reads a number
    of a tensor (`item`, `numpy`, an ``if``), lets NumPy compute from its arguments, assigns to
    tensors, or differs from call to call. What goes round all that, by way of ``tensor.data``, is
    found out if it matters in the first two calls. ``report()`` says what became of each set of
    shapes.

    Results are copies without a graph. A weight's `grad` lies in memory that the next call
    overwrites, and so does what a step keeps of its tensors elsewhere.

    >>> import numpy as np, tilegrad
    >>> from tilegrad import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> optimizer, mse = keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError()
    >>> @tilegrad.capture
    ... def step(x, y):
    ...     loss = mse(y, model(x, training=True))
    ...     loss.backward()
    ...     optimizer.apply(model.trainable_weights)
    ...     return loss
    >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], "float32")
    >>> y = x.sum(axis=1, keepdims=True)
    >>> losses = [step(x, y).item() for _ in range(200)]
    >>> losses[-1] < 0.01, step.report()
    (True, ['(3, 2), (3, 1): captured, 14 calls'])
    """
    return Captured(function)


class Captured:
    """What `capture` returns.

    Args:
        function: the step.
        on_refusal: called with the reason where a set of shapes is refused; a warning by default.
        on_ready: called where a plan is ready, with the arrays that it wants its arguments in; what
            lies there already, replays do not copy.
    """

    def __init__(self, function, on_refusal=None, on_ready=None):
        functools.update_wrapper(self, function)
        self._function = function
        self._on_refusal = on_refusal or _warn
        self._on_ready = on_ready
        self._records: dict[tuple, _Record] = {}
        self._lock = threading.RLock()

    def __call__(self, *arguments):
        if recording.state.log is not None or trace.needs_arrays():
            return self._function(*arguments)
        leaves = []
        key = _key_of(arguments, leaves)
        with self._lock:
            record = self._records.get(key)
            if record is None:
                if len(self._records) >= _MOST_SHAPES:
                    return self._function(*arguments)
                record = self._records[key] = _Record(self._function, leaves)
                self._tell(record)
            if record.ready:
                if record.is_valid():
                    return record.replay(arguments, leaves)
                self._tell(record)
            if record.reason is not None:
                return self._function(*arguments)
            result = record.run(arguments, leaves)
            self._tell(record)
            return result

    def _tell(self, record):
        """Say what has just become of a set of shapes."""
        if record.reason is None and not record.ready:
            return
        if trace._level >= 1:
            trace._print(f"step for {record.description()}")
        if record.reason is not None:
            self._on_refusal(record.reason)
        elif self._on_ready is not None:
            self._on_ready(record.buffers)

    @property
    def plans(self) -> list:
        """The plans that are ready: `replay` runs the kernels on the last call's arguments."""
        return [record._log.plan for record in self._records.values() if record.ready]

    def report(self) -> list[str]:
        """A line per set of shapes: its plan, or why it has none."""
        return [record.description() for record in self._records.values()]


class _Record:
    """The step for arguments of one set of shapes: on trial, ready or refused."""

    def __init__(self, function, leaves):
        self.function = function
        self.shapes = ", ".join(str(a.shape) for a in leaves) or "no arrays"
        self.reason = None
        self.ready = False
        self._forget()
        self._trials = self._lapses = 0
        self._replays = 0
        devices = {a.device for a in leaves if isinstance(a, Tensor)} or {backend.default_device()}
        k = self.k = backend.get(min(devices))
        if len(devices) > 1:
            self.reason = f"its arguments are on several devices: {', '.join(sorted(devices))}"
        elif not hasattr(k.module, "Plan"):
            self.reason = f"the backend {k.name} has no plans"
        elif any(isinstance(a, Tensor) and a.requires_grad for a in leaves):
            self.reason = "an argument requires a gradient"
        if self.reason is None:
            self.buffers = [k.empty(a.shape, backend.native(a.dtype)) for a in leaves]

    def _refuse(self, reason):
        self.reason = reason
        self.buffers = None
        self._forget()

    def _forget(self):
        self.ready = False
        self._log = self._template = self._kept = None

    def description(self) -> str:
        if self.reason is not None:
            return f"{self.shapes}: {self.reason}"
        plan = f"captured, {len(self._log.plan)} calls" if self.ready else "not yet captured"
        return f"{self.shapes}: {plan}"

    def is_valid(self) -> bool:
        """Whether what was recorded still holds; if not, a new trial begins."""
        for owner, name, value in self._guards:
            if getattr(owner, name) is not value:
                break
        else:
            return True
        # Two calls for a record that serves no third are worse than none.
        self._lapses = self._lapses + 1 if self._replays < 2 else 0
        self._trials = self._replays = 0
        self._forget()
        if self._lapses == _MOST_TRIALS:
            what = "an attribute" if name == "edits" else name
            label = getattr(owner, "name", None) or type(owner).__name__
            self._refuse(f"{what} of {label} changes from call to call")
        return False

    # -- on trial ----------------------------------------------------------------------------------

    def run(self, arguments, leaves):
        """The step as ever, logged; the second of two equal calls makes the record ready."""
        self._trials += 1
        first = self._log
        before, read = ([], []) if first is None else (first.state(), first.reads())
        _fill(self.buffers, leaves)
        log = Log(self.k, self.buffers)
        with _record(log):
            result = self.function(*_rebuild(arguments, iter(self.buffers)))
        kept = []
        template = _template(result, log, kept)
        reason = log.reason
        if reason is None and first is not None:
            if template != self._template:
                reason = "two calls differ: in what they return"
            elif read != first.reads():
                reason = "NumPy changes within the step what its kernels read"
            else:
                reason = _difference(first.calls, log.calls)
            if reason is None and self._verify(log, before, kept):
                return _results(self._template, self._kept)
            reason = reason or "a replay gives other numbers than the step"
        if reason is not None and (log.final or self._trials > _MOST_TRIALS):
            self._refuse(reason)
            return result
        if log.reason is not None:
            self._forget()
            return result
        self._log, self._template, self._kept = log, template, kept
        self._gradients = [(leaf, leaf.grad) for leaf in log.leaves.values()]
        return _results(template, kept)

    def _verify(self, second, before, kept) -> bool:
        """Whether the plan of the first call does what the second call, just made, did."""
        first = self._log
        changed = list(first.changed.values())
        after = second.state()
        gradients = [leaf.grad for leaf in first.leaves.values()]
        with uninterrupted():
            try:
                _set_bits(changed, before)
                for (cell, _), (value, _) in zip(first.live, second.live, strict=True):
                    cell[...] = value
                same = first.plan.replay() and first.state() == after
            finally:
                _set_bits(changed, after)
        same = same and all(map(_same_bits, self._kept, kept))
        for (_, mine), theirs in zip(self._gradients, gradients, strict=True):
            same = same and (mine is None) == (theirs is None)
            same = same and (mine is None or _same_bits(mine.data, theirs.data))
        if not same:
            return False
        for leaf, gradient in self._gradients:
            leaf.grad = gradient
        self._guards = second.lasting_guards()
        first.close()
        self.ready = True
        return True

    # -- ready -------------------------------------------------------------------------------------

    def replay(self, arguments, leaves):
        self._replays += 1
        self._copy_in(leaves)
        log = self._log
        for cell, function in log.live:
            cell[...] = function()
        if not log.replay():
            recording.state.supply = [cell[()] for cell, _ in log.live]
            try:
                return self.function(*arguments)
            finally:
                recording.state.supply = None
        for version in log.versions:
            version[0] += 1
        for leaf, gradient in self._gradients:
            leaf.grad = gradient
        return _results(self._template, self._kept)

    def _copy_in(self, leaves):
        for buffer, value in zip(self.buffers, leaves, strict=True):
            if value is not buffer:
                np.copyto(buffer, value)


# -- the log ---------------------------------------------------------------------------------------


class _Block:
    """Pooled memory taken within the step: where it lies, and which parts kernels have written."""

    def __init__(self, number, start, size):
        self.number = number
        self.start = start
        self.end = start + size
        self.written = []  # disjoint (start, end)
        self.parts = {}  # (start, end) -> how many elements of it partial copies wrote

    def write(self, start, end):
        for s, e in [w for w in self.written if w[0] <= end and start <= w[1]]:
            self.written.remove((s, e))
            start, end = min(s, start), max(e, end)
        self.written.append((start, end))

    def holds(self, start, end) -> bool:
        return any(s <= start and end <= e for s, e in self.written)


class Log:
    """One run of a step: its plan, each kernel call with the origin of its arrays, and the rest.

    Attributes:
        calls: (kernel, arguments), arrays by origin, so that two runs can be compared.
        steps: of each step of the plan, what `trace` shall say of it; None for what is no kernel.
        changed: arrays outside that kernels write, by address.
        read: arrays outside that kernels read, by address.
        live: (array, function): numbers to compute anew.
        guards: (owner, name, object): what must stay.
        versions: of tensors that kernels write.
        leaves: tensors that `backward` gave a gradient.
        reason: why the step cannot be captured, or None; `final` if another call cannot help.
    """

    def __init__(self, k, buffers):
        self.k = k
        self.plan = k.module.Plan()
        self.calls = []
        self.steps = []
        self.changed = {}
        self.read = {}
        self.live = []
        self.guards = {}
        self.versions = []
        self.leaves = {}
        self.reason = None
        self.final = False
        self._buffers = [(_address(a), _address(a) + a.nbytes) for a in buffers]
        self._blocks = []
        self._constants = {}  # address -> array
        self._outside = {}  # address -> array, kept so that no other array can come to lie there
        self._count = 0

    def state(self) -> list[bytes]:
        """The bits of what kernels change outside, as they are now."""
        return [array.tobytes() for array in self.changed.values()]

    def reads(self) -> list[bytes]:
        """The same of what kernels only read."""
        return [array.tobytes() for at, array in self.read.items() if at not in self.changed]

    def lasting_guards(self) -> list[tuple]:
        """The guards of what lives on after the step."""
        return [
            (owner, name, value)
            for owner, name, value in self.guards.values()
            if not isinstance(owner, Tensor) or _address(owner.data) in self._outside
        ]

    def close(self):
        """Forget what only served to compare."""
        self.calls, self.read, self._blocks = [], {}, []

    def replay(self) -> bool:
        """Run the plan; whether nothing stopped it."""
        if trace.is_active():
            return trace.replay(self.plan, self.steps)
        return self.plan.replay()

    def refuse(self, reason, final=True):
        if self.reason is None:
            self.reason, self.final = reason, final

    # -- what the step says of itself --------------------------------------------------------------

    def make_live(self, function, dtype):
        with _paused():
            cell = np.array(function(), dtype)
        self.live.append((cell, function))
        return cell

    def make_constant(self, array):
        # Pooled memory that held something else before would hold that again in a replay.
        array = array.copy()
        self._constants[_address(array)] = array
        return array

    def convert(self, array, dtype):
        kinds = {np.dtype(np.float32): "iubf", np.dtype(np.int32): "iub"}
        if array.dtype.kind not in kinds.get(np.dtype(dtype), ""):
            self.refuse(f"NumPy makes {np.dtype(dtype)} of {array.dtype} within the step")
            return np.asarray(array, dtype, order="C")
        source = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        out = self.k.empty(array.shape, np.dtype(dtype))
        np.copyto(out, source, casting="unsafe")
        self.call(self.k, "convert", ("y", "x"), 1, (out, source))
        self.plan.convert(out, source)
        self.note("convert", (out, source))
        return out

    def count(self, number):
        self.calls.append(("count", (self._argument("count", "number", number, True),)))
        self.plan.count(number)
        self._add_step(None)

    def stop_if_nan(self, number):
        if self.changed:
            self.refuse("labels are checked after weights were updated")
        self.calls.append(("stop_if_nan", (self._argument("stop_if_nan", "loss", number, False),)))
        self.plan.stop_if_nan(number.reshape(1))
        self._add_step(None)

    def inputs(self, tensors):
        """An op reads these: those without an op behind them keep their memory."""
        for t in tensors:
            if t is not None and t.creator is None:
                recording.guard(t, "data")
                recording.guard(t, "requires_grad")

    # -- what the backend calls --------------------------------------------------------------------

    def allocate(self, array):
        start, end = _address(array), _address(array) + array.nbytes
        self._blocks = [b for b in self._blocks if b.end <= start or end <= b.start]
        self._count += 1
        self._blocks.append(_Block(self._count, start, array.nbytes))

    def zeros(self, shape, dtype):
        """Zeros that each replay writes again."""
        array = self.k.empty(shape, dtype)
        size = (array.size,)
        zero = recording.constant(np.zeros(1, dtype))
        self.k.strided_copy(array, zero, size, 0, (1,), 0, (0,))
        return array

    def note(self, kernel, arguments):
        """`kernel` has run: if it became a step of the plan, say what it was."""
        if len(self.plan) > len(self.steps):
            self._add_step(trace.describe(self.k, kernel, arguments))

    def _add_step(self, call):
        """The plan's last step is `call`; what came in between was not seen."""
        self.steps += [None] * (len(self.plan) - len(self.steps) - 1)
        self.steps.append(call)

    def call(self, owner, kernel, names, outputs, arguments):
        if owner is not self.k:
            self.refuse(f"{kernel} runs on the backend {owner.name}, the rest on {self.k.name}")
            return
        found = []
        named = list(enumerate(zip(names, arguments, strict=False)))
        for i, (name, value) in reversed(named):  # what it reads first, then what it writes
            writes = i < outputs or name == "states"
            if kernel == "strided_copy" and name == "y":
                found.append(self._part(kernel, value, arguments[2]))
            elif isinstance(value, list):
                found.append(tuple([self._list(kernel, name, item, writes) for item in value]))
            else:
                found.append(self._argument(kernel, name, value, writes))
        self.calls.append((kernel, tuple(found[::-1])))

    def _list(self, kernel, name, value, writes):
        if isinstance(value, list):
            return tuple([self._list(kernel, name, item, writes) for item in value])
        return self._argument(kernel, name, value, writes)

    def _argument(self, kernel, name, value, writes):
        """What stands for an argument in `calls`."""
        if not isinstance(value, np.ndarray):
            return value.hex() if isinstance(value, float) else value
        if name in ("scale", "decay"):  # kernels read these before they run
            return "host", value.tobytes()
        start, end = _address(value), _address(value) + value.nbytes
        layout = (value.shape, value.dtype.str)
        if start == end:
            self.refuse(f"{kernel}: {name} has no elements")
            return "empty", *layout
        origin, block = self._origin(value, start, end)
        if block is not None:
            updates = name in ("w", "states")
            if (updates or not writes) and not block.holds(start, end):
                self._refuse_numpy(kernel, name)
            if writes:
                block.write(start, end)
        elif origin[0] == "outside":
            (self.changed if writes else self.read)[start, end] = value
        elif writes:
            self.refuse(f"{kernel} overwrites an argument of the step")
        return *origin, *layout

    def _part(self, kernel, y, size):
        """The y of a strided copy, which may write but a part of it."""
        if int(np.prod(size)) == y.size:
            return self._argument(kernel, "y", y, True)
        start, end = _address(y), _address(y) + y.nbytes
        origin, block = self._origin(y, start, end)
        if block is None:
            return self._argument(kernel, "y", y, True)
        if not block.holds(start, end):
            done = block.parts.get((start, end), 0) + int(np.prod(size))
            block.parts[start, end] = done
            if done == y.size:
                block.write(start, end)
        return *origin, y.shape, y.dtype.str

    def _origin(self, array, start, end):
        for i, (s, e) in enumerate(self._buffers):
            if s <= start and end <= e:
                return ("input", i, start - s), None
        for address, constant in self._constants.items():
            if address <= start and end <= address + constant.nbytes:
                return ("constant", array.tobytes()), None
        for i, (cell, _) in enumerate(self.live):
            if _address(cell) == start:
                return ("live", i), None
        for block in self._blocks:
            if block.start <= start and end <= block.end:
                return ("made", block.number, start - block.start), block
        self._outside.setdefault(start, array)
        return ("outside", start), None

    def _refuse_numpy(self, kernel, name):
        self.refuse(f"{kernel}: {name} holds what NumPy wrote within the step", final=False)

    def result(self, array):
        """Where a result comes from: "outside", or "made" and the like; None if it is refused."""
        start, end = _address(array), _address(array) + array.nbytes
        origin, block = self._origin(array, start, end)
        if block is not None and not block.holds(start, end):
            self._refuse_numpy("the result", "it")
        return origin[0]


def _address(array) -> int:
    return array.__array_interface__["data"][0]


def _difference(before, now) -> str | None:
    """How the calls of two logs differ, None if they do not."""
    for one, other in zip(before, now, strict=False):
        if one == other:
            continue
        if one[0] != other[0]:
            return f"two calls differ: one calls {one[0]} where the other calls {other[0]}"
        names = backend.KERNELS.get(one[0], "y, x").split(", ")
        for name, a, b in zip(names, one[1], other[1], strict=False):
            if a == b:
                continue
            if isinstance(a, tuple) and isinstance(b, tuple) and a[0] == b[0] == "outside":
                return f"{one[0]}: {name} is a new array in each call that no kernel of it wrote"
            return f"two calls differ: in what {one[0]} takes as {name}"
    if len(before) != len(now):
        return f"two calls differ: one calls {len(before)} kernels, the other {len(now)}"
    return None


# -- the kernels' wrapper --------------------------------------------------------------------------

_recorders = 0
_recorders_lock = threading.Lock()


@contextlib.contextmanager
def _record(log):
    """Within the block this thread's kernels are logged and recorded."""
    places.find_ops()
    instrument.change("places", 1)
    _install(1)
    try:
        recording.state.log = log
        log.plan.begin()
        try:
            yield
        finally:
            recording.state.log = None
            log.plan.end()
    finally:
        _install(-1)
        instrument.change("places", -1)


def _install(change: int) -> None:
    global _recorders
    with _recorders_lock:
        _recorders += change
        backend.set_wrapper(_logged if _recorders else None, "capture")


@contextlib.contextmanager
def _paused():
    log, recording.state.log = recording.state.log, None
    try:
        yield
    finally:
        recording.state.log = log


def _logged(owner, name, kernel):
    """`kernel`, or `empty` or `zeros`, of the backend `owner`, with a look whether to log it."""
    if name == "empty":

        def empty(shape, dtype):
            array = kernel(shape, dtype)
            if recording.state.log is not None:
                recording.state.log.allocate(array)
            return array

        return empty
    if name == "zeros":

        def zeros(shape, dtype):
            log = recording.state.log
            return kernel(shape, dtype) if log is None else log.zeros(shape, dtype)

        return zeros
    names = backend.KERNELS[name].split(", ")
    outputs = trace._output_count(name)

    def call(*arguments):
        log = recording.state.log
        if log is None:
            return kernel(*arguments)
        log.call(owner, name, names, outputs, arguments)
        result = kernel(*arguments)
        log.note(name, arguments)
        return result

    return call


# -- arguments and results -------------------------------------------------------------------------


def _key_of(arguments, leaves) -> tuple:
    k = backend.get(backend.default_device())
    return _key(arguments, leaves), k, autograd.is_grad_enabled()


def _key(values, leaves) -> tuple:
    """What arguments have in common with others that the same plan serves; gathers the arrays."""
    key = []
    for value in values:
        if isinstance(value, np.ndarray):
            leaves.append(value)
            key.append((value.shape, value.dtype))
        elif isinstance(value, Tensor):
            leaves.append(value)
            key.append((value.device, value.requires_grad, value.shape, value.dtype))
        elif isinstance(value, _PLAIN):
            key.append((type(value), value))
        elif isinstance(value, (list, tuple)):
            key.append((type(value), _key(value, leaves)))
        elif isinstance(value, dict):
            key.append((dict, tuple(value), _key(value.values(), leaves)))
        else:
            raise TypeError(
                "capture: expected a step's arguments to be arrays, tensors, numbers, strings, "
                f"None, or lists, tuples and dicts of them, got {type(value).__name__}"
            )
    return tuple(key)


def _rebuild(values, buffers) -> list:
    """The arguments with the plan's memory in the place of their arrays."""
    out = []
    for value in values:
        if isinstance(value, np.ndarray):
            out.append(next(buffers))
        elif isinstance(value, Tensor):
            out.append(Tensor._wrap(next(buffers), value.device))
        elif isinstance(value, (list, tuple)):
            out.append(type(value)(_rebuild(value, buffers)))
        elif isinstance(value, dict):
            out.append(dict(zip(value, _rebuild(value.values(), buffers), strict=True)))
        else:
            out.append(value)
    return out


def _template(result, log, kept):
    """`result` with (position in `kept`, device, logits) for each tensor that replays make anew."""
    if isinstance(result, Tensor):
        if log.result(result.data) == "outside":
            return result
        kept.append(result.data)
        slot = len(kept) - 1
        logits = None if result.logits is None else _template(result.logits, log, kept)
        return slot, result.device, logits
    if isinstance(result, (list, tuple)):
        return [type(result), [_template(item, log, kept) for item in result]]
    if isinstance(result, dict):
        return [dict, {key: _template(item, log, kept) for key, item in result.items()}]
    if not isinstance(result, _PLAIN):
        log.refuse(f"it returns an object of class {type(result).__name__}, not tensors")
    return result


def _results(template, kept):
    if isinstance(template, tuple):
        slot, device, logits = template
        out = Tensor._wrap(kept[slot].copy(), device)
        if logits is not None:
            out.logits = _results(logits, kept)
        return out
    if isinstance(template, list):
        kind, items = template
        if kind is dict:
            return {key: _results(item, kept) for key, item in items.items()}
        return kind([_results(item, kept) for item in items])
    return template


def _fill(arrays, values) -> None:
    for array, value in zip(arrays, values, strict=True):
        np.copyto(array, value.data if isinstance(value, Tensor) else value)


def _set_bits(arrays, bits) -> None:
    for array, text in zip(arrays, bits, strict=True):
        array[...] = np.frombuffer(text, array.dtype).reshape(array.shape)


def _same_bits(a, b) -> bool:
    return a.tobytes() == b.tobytes()


def _warn(reason) -> None:
    warnings.warn(f"capture: the step runs eagerly, {reason}", stacklevel=3)
