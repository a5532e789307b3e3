"""No call from Python may crash the interpreter: every kernel, every argument, wrong in every way.

Each test starts from a valid call (samples.py) and spoils one argument. Where the result is no
valid call, the binding must raise; everywhere it must leave the memory around the arrays alone.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checks import GUARD, assert_guards, guarded, map_arrays, widened
from samples import IN_PLACE, calls

from tilegrad import reference
from tilegrad.backend import ACTIVATIONS

CLEAN = (TypeError, ValueError, OverflowError, MemoryError)
CALLS = calls()
EACH = pytest.mark.parametrize("call", CALLS, ids=lambda c: c.label)

# Sizes that the other arguments do not determine: a call with another one is valid, or raises.
FREE_AXES = {
    ("conv2d_forward", "y"): (1, 2),
    ("conv2d_forward", "x"): (1, 2),
    ("conv2d_forward", "w"): (0, 1),
    ("conv2d_backward_dx", "dx"): (1, 2),
    ("conv2d_backward_dx", "dy"): (1, 2),
    ("conv2d_backward_dx", "w"): (0, 1),
    ("conv2d_backward_dw", "dw"): (0, 1),
    ("conv2d_backward_dw", "x"): (1, 2),
    ("conv2d_backward_dw", "dy"): (1, 2),
    ("conv2d_max_pool2d_forward", "x"): (1, 2),
    ("conv2d_max_pool2d_forward", "w"): (0, 1),
    ("conv2d_max_pool2d_backward_dw", "x"): (1, 2),
    ("conv2d_max_pool2d_backward_dw", "dw"): (0, 1),
    ("max_pool2d_forward", "x"): (1, 2),
    ("max_pool2d_backward_dx", "dx"): (1, 2),
    ("avg_pool2d_forward", "y"): (1, 2),
    ("avg_pool2d_forward", "x"): (1, 2),
    ("avg_pool2d_backward_dx", "dx"): (1, 2),
    ("avg_pool2d_backward_dx", "dy"): (1, 2),
    ("global_avg_pool2d_forward", "x"): (1,),
    ("global_avg_pool2d_backward_dx", "dx"): (1,),
    ("bias_backward_db", "dy"): (0,),
    ("reduce_sum_forward", "x"): (1,),
    ("reduce_sum_backward_dx", "dx"): (1,),
    ("reduce_max_forward", "x"): (1,),
}
# strided_copy takes arrays of any rank and any sufficient size; binary operands broadcast; the rows
# of a bias's gradient are counted; a count of updates has rank 0 or 1.
ANY_RANK = {
    ("strided_copy", "y"),
    ("strided_copy", "x"),
    ("binary_forward", "y"),
    ("binary_forward", "a"),
    ("binary_forward", "b"),
    ("binary_backward_da", "a"),
    ("binary_backward_da", "b"),
    ("binary_backward_db", "a"),
    ("binary_backward_db", "b"),
    ("bias_backward_db", "dy"),
    ("adam_update", "step"),
}
OPTIONAL = {
    ("dense_forward", "b"),
    ("conv2d_forward", "b"),
    ("conv2d_max_pool2d_forward", "b"),
    ("conv2d_max_pool2d_backward_dw", "db"),
    ("softmax_cross_entropy_sparse_forward", "weight"),
    ("softmax_cross_entropy_dense_forward", "weight"),
}


def attempt(k, call, must_raise):
    """Run a spoilt call: it raises cleanly, or, where it may be valid, passes; no stray writes."""
    arrays = []
    map_arrays(arrays.append, list(call.arguments.values()))
    try:
        getattr(k, call.name)(*call.arguments.values())
    except CLEAN as error:
        assert str(error), "an error without a message"
        raised = True
    else:
        raised = False
    for array in arrays:
        if getattr(array, "base", None) is not None and array.flags.c_contiguous:
            assert_if_guarded(array, call.label)
    assert raised or not must_raise, f"{call.label}: accepted"


def assert_if_guarded(array, what):
    """`assert_guards` for the arrays that `guarded` made; spoilt ones are laid out otherwise."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    offset = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    sizes = array.size + 2 * GUARD + 1, (GUARD + 1) * array.itemsize
    if base.dtype == array.dtype and (base.size, offset) == sizes:
        assert_guards(array, what)


def spoil(call, key, value):
    """`call` on fresh guarded arrays, with argument `key` replaced."""
    fresh = call.copy(guarded)
    fresh.arguments[key] = value
    return fresh


def misaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    view = raw.view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def strided(array):
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


NOT_AN_ARRAY = {
    "None": lambda a: None,
    "list": lambda a: a.tolist(),
    "number": lambda a: 1.0,
    "string": lambda a: "array",
    "bytes": lambda a: a.tobytes(),
    "memoryview": lambda a: memoryview(a),
    "type": lambda a: np.ndarray,
}
WRONG_ARRAY = {
    "float64": lambda a: a.astype(np.float32 if a.dtype == np.float64 else np.float64),
    "float16": lambda a: a.astype(np.float16),
    "int64": lambda a: np.zeros(a.shape, np.int64),
    "bool": lambda a: np.zeros(a.shape, bool),
    "complex": lambda a: a.astype(np.complex64),
    "object": lambda a: a.astype(object),
    "string": lambda a: np.zeros(a.shape, "U4"),
    "record": lambda a: np.zeros(a.shape, [("x", "f4")]),
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "strided": strided,
    "reversed": lambda a: a[::-1],
    "repeated": lambda a: np.broadcast_to(a[:1], a.shape),
    "misaligned": misaligned,
}
WRONG_RANK = {
    "0-d": lambda a: np.zeros((), a.dtype),
    "one axis more": lambda a: np.ascontiguousarray(a[None]),
    "one axis less": lambda a: a.reshape(-1, *a.shape[2:]) if a.ndim > 1 else a[:1].reshape(()),
    "nine axes": lambda a: a.reshape((1,) * (9 - a.ndim) + a.shape),
}


def array_arguments(call):
    return [key for key, value in call.arguments.items() if isinstance(value, np.ndarray)]


@EACH
def test_what_is_no_array(compiled, call):
    for key in array_arguments(call):
        for how, wrong in NOT_AN_ARRAY.items():
            optional = how == "None" and (call.name, key) in OPTIONAL
            attempt(compiled, spoil(call, key, wrong(call.arguments[key])), not optional)


@EACH
def test_wrong_dtype_or_layout(compiled, call):
    for key in array_arguments(call):
        array = call.arguments[key]
        for wrong in (*WRONG_ARRAY.values(), np.asfortranarray):
            value = wrong(array)
            # one element per axis is contiguous in any order, and bytes are never misaligned
            flags = value.flags
            valid = value.dtype == array.dtype and flags.c_contiguous and flags.aligned
            attempt(compiled, spoil(call, key, value), must_raise=not valid)


@EACH
def test_wrong_rank(compiled, call):
    for key in array_arguments(call):
        loose = (call.name, key) in ANY_RANK
        for how, wrong in WRONG_RANK.items():
            value = wrong(call.arguments[key])
            attempt(compiled, spoil(call, key, value), not loose or how == "nine axes")


@EACH
def test_wrong_sizes(compiled, call):
    """One axis longer, shorter, empty or of length 1."""
    for key in array_arguments(call):
        shape = call.arguments[key].shape
        free = FREE_AXES.get((call.name, key), ())
        for axis, size in enumerate(shape):
            for other in {size + 1, size - 1, 0, 1} - {size}:
                changed = (*shape[:axis], other, *shape[axis + 1 :])
                value = guarded(np.ones(changed, call.arguments[key].dtype))
                # an operand may have one element along an axis; a copy may come from a longer array
                loose = axis in free or ((call.name, key) in ANY_RANK and other in (1, size + 1))
                if call.name.startswith(("binary", "matmul")) and other != 1:
                    loose = False
                if call.name.startswith("matmul") and key in "ab" and axis == 0 and other == 1:
                    loose = True
                attempt(compiled, spoil(call, key, value), must_raise=not loose)


@EACH
def test_read_only_arrays(compiled, call):
    """An output must be writable; an input need not be."""
    for key in array_arguments(call):
        fresh = call.copy(guarded)
        fresh.arguments[key].flags.writeable = False
        attempt(compiled, fresh, must_raise=key in call.written())
        if key not in call.written():
            fresh.run(compiled)


SIZES = [0, -1, 2**31, 2**40, 2**63, -(2**70), 1.5, float("nan"), None, "2", [1]]
PADS = [-1, -(2**31), 2**31, 2**62, 2**63, 1.5, None, "2"]
KINDS = [-1, 99, 2**31, 2**63, 1.5, None, "relu"]
NUMBERS = [None, "x", [], {}]
FLAGS = ["yes", [1]]
AXES = [None, 3, [1], [1, 1, 1], [2**62, 2**62], [-1, -1], [2**63, 1], [1.5, 1], [7, 6]]
SHAPES = [None, 3, "ab", [1.5, 2], [-1, 3], [5], [5, 6, 1], [6, 6], [5, 7], [1] * 9]
SHAPES += [[2**31, 2**31], [2**63, 1], [2**62, 2**62], range(2**40)]
OFFSETS = [-1, 1, 2**31, 2**62, 2**63, -(2**63), 1.5, None]
INFINITE = [float("nan"), float("inf"), -float("inf")]
EXTREME = [*INFINITE, 1e300, -1e300, 1e-300, -0.0]


def by_argument(*groups):
    """{argument: values} from (names, values) pairs."""
    return {name: values for names, values in groups for name in names.split()}


MUST_RAISE = by_argument(
    ("stride_h stride_w dilation_h dilation_w groups kh kw", SIZES),
    ("pad_top pad_left", PADS),
    ("kind activation", KINDS),
    ("alpha scale low high lr clip momentum rho beta_1 beta_2 epsilon", NUMBERS),
    ("rate", [-0.1, 1.0, 1.5, *INFINITE, *NUMBERS]),
    ("seed", [-1, 2**64, 2**70, 1.5, None, "1"]),
    ("nesterov centered amsgrad", FLAGS),
    ("size", SHAPES),
    ("y_strides x_strides", AXES),
    ("y_offset x_offset", OFFSETS),
)
MAY_PASS = by_argument(
    ("stride_h stride_w dilation_h dilation_w pad_top pad_left", [2, 1000, 2**31 - 1]),
    ("kh kw", [1, 2, 80, 4000, 2**16, 2**31 - 1]),
    ("groups", [1, 2, 3, 2**31 - 1]),
    ("alpha scale low high lr clip momentum rho beta_1 beta_2 epsilon", EXTREME),
    ("seed", [0, 2**64 - 1]),
    ("rate", [0.0, 1 - 1e-7, 1 - 1e-12]),
    ("size", [[0, 0], [0, 2**62], [5, 0], []]),
)


@EACH
def test_wrong_numbers(compiled, call):
    for key, old in call.arguments.items():
        if isinstance(old, np.ndarray):
            continue
        for value in MUST_RAISE.get(key, []):
            attempt(compiled, spoil(call, key, value), must_raise=True)
        for value in MAY_PASS.get(key, []):
            attempt(compiled, spoil(call, key, value), must_raise=False)


@pytest.mark.parametrize("name", ["dense_forward", "conv2d_forward"])
def test_activations_that_need_their_input_are_not_fused(compiled, name):
    call = next(c for c in CALLS if c.name == name)
    for kind in range(ACTIVATIONS["elu"] + 1, len(ACTIVATIONS)):
        attempt(compiled, spoil(call, "activation", kind), must_raise=True)


def test_a_copy_of_more_elements_than_y_has_is_refused(compiled):
    """Strides of 0 would otherwise make a loop of any length out of two small arrays."""
    for size in ([2**20, 2**20], [2**40, 2**40], [2**62, 4]):
        y, x = guarded(np.zeros(4, np.float32)), guarded(np.ones(4, np.float32))
        with pytest.raises(ValueError):
            compiled.strided_copy(y, x, size, 0, [0, 0], 0, [0, 0])


def test_adam_refuses_what_is_no_count_of_updates(compiled):
    call = next(c for c in CALLS if c.name == "adam_update")
    for value in ([-1], [-(2**63)], [], [1, 2], [[1]]):
        attempt(compiled, spoil(call, "step", np.array(value, np.int64)), must_raise=True)
    for value in (0, 2**31, 2**62, 2**63 - 1):
        attempt(compiled, spoil(call, "step", np.array(value)), must_raise=False)


@EACH
def test_too_few_and_too_many_arguments(compiled, call):
    kernel, arguments = getattr(compiled, call.name), list(call.copy().arguments.values())
    for wrong in (arguments[:-1], [*arguments, 1], [], [None] * len(arguments)):
        with pytest.raises(CLEAN):
            kernel(*wrong)


LISTS = ("w", "g", "states")


def list_calls():
    return [c for c in CALLS if c.name in (*IN_PLACE, "gradient_square_sums")]


@pytest.mark.parametrize("call", list_calls(), ids=lambda c: c.label)
def test_wrong_lists_of_arrays(compiled, call):
    for key in LISTS:
        if key not in call.arguments:
            continue
        good = call.arguments[key]
        for wrong in (None, 3, "ab", good[:-1], [*good, good[0]], [*good[:-1], None], [[]], [None]):
            attempt(compiled, spoil(call, key, wrong), must_raise=True)
        if key != "states":
            for how, change in {**WRONG_ARRAY, **NOT_AN_ARRAY}.items():
                wrong = [good[0], change(good[1])]
                attempt(compiled, spoil(call, key, wrong), must_raise=True), how
            if call.name != "gradient_square_sums":
                attempt(compiled, spoil(call, key, [good[0], good[0]]), must_raise=True)
                attempt(compiled, spoil(call, key, [good[0], good[1][:2]]), must_raise=True)
    if call.name in IN_PLACE:
        states = call.arguments["states"]
        for how, change in {**WRONG_ARRAY, **NOT_AN_ARRAY}.items():
            wrong = [*states[:-1], [states[-1][0], change(states[-1][1])]]
            attempt(compiled, spoil(call, "states", wrong), must_raise=True), how
        attempt(compiled, spoil(call, "states", [*states[:-1], states[-1][:1]]), must_raise=True)
        attempt(
            compiled, spoil(call, "states", [*states[:-1], [states[0][0]] * 2]), must_raise=True
        )
        for key in ("w", "states"):
            fresh = call.copy(guarded)
            value = fresh.arguments[key]
            (value[0] if key == "w" else value[-1][0]).flags.writeable = False
            attempt(compiled, fresh, must_raise=True)


@pytest.mark.parametrize("call", calls(n=0), ids=lambda c: c.label)
def test_an_empty_batch(backend, call):
    """No rows, images or elements: sums over them are 0, not old memory, or the call raises."""
    wide = call.copy()
    wide.arguments = {key: widened(value) for key, value in wide.arguments.items()}
    try:
        got = call.copy(guarded).run(backend)
    except CLEAN as error:
        assert str(error)
        return
    right = wide.run(reference)
    actual, expected = [], []
    map_arrays(actual.append, list(got.values()))
    map_arrays(expected.append, list(right.values()))
    for a, e in zip(actual, expected, strict=True):
        assert_guards(a, call.label)
        np.testing.assert_allclose(a, e, rtol=1e-5)


TOO_WIDE = (0, 96, 2**60)  # no element, but strides beyond 2^63


def test_allocation_is_checked(compiled):
    empty = compiled.module.empty
    f4 = np.dtype(np.float32)
    for shape in (
        (-1,),
        (2**62,),
        (2**31, 2**31, 2**31),
        (2**40,),
        (1.5,),
        "ab",
        None,
        (1,) * 33,
        TOO_WIDE,
    ):
        with pytest.raises(CLEAN):
            empty(shape, f4)
    with pytest.raises(CLEAN):
        empty((3,), np.dtype(object))
    for shape in ((), (0,), (3, 0, 5), (7, 5), [2, 3]):
        array = empty(shape, f4)
        assert array.shape == tuple(shape) and array.dtype == f4
        assert array.flags.c_contiguous and array.flags.writeable
        assert array.__array_interface__["data"][0] % 64 == 0 or array.size == 0


def test_allocation_after_another_array_is_checked(compiled):
    empty_like = compiled.module.empty_like
    for wrong in (
        [1.0],
        None,
        np.zeros(2, object),
        np.zeros((1,) * 33),
        np.broadcast_to(np.float32(0), (2**20, 2**20, 2**20)),
    ):
        with pytest.raises(CLEAN):
            empty_like(wrong)
    for like in (np.zeros((3, 7), np.float32), np.zeros((6, 5), np.int32)[::2, ::-1], np.zeros(())):
        array = empty_like(like)
        assert array.shape == like.shape and array.dtype == like.dtype
        assert array.flags.c_contiguous and array.flags.writeable
        assert not np.shares_memory(array, like)


FUZZ = """
import random, sys
import numpy as np
from checks import fenced
from tilegrad import backend
k = backend.load(sys.argv[1])
passed = 0
for seed in range(4000):
    r = random.Random(seed)
    print(seed, flush=True)
    size = lambda: r.choice([0, 1, 1, 2, 3, 4, 5, 7, 16, 17])
    huge = lambda least: r.choice([least, 1, 1, 2, 3, 5, 40, 1000, 2**16 + 1, 2**30, 2**31 - 1])
    before, groups = r.random() < 0.5, r.choice([1, 1, 1, 2, 3, 16, 17])
    array = lambda *shape: fenced(np.ones(shape, np.float32), before)
    n, h, w, oh, ow, kh, kw = (size() for _ in range(7))
    c, f = groups * r.choice([0, 1, 1, 2, 3, 5]), groups * r.choice([0, 1, 1, 2, 8, 17])
    pads = [huge(0) if r.random() < 0.7 else 0 for _ in range(2)]
    sizes = (huge(1), huge(1), *pads, huge(1), huge(1), groups)
    x, y, weight = array(n, h, w, c), array(n, oh, ow, f), array(kh, kw, c // groups, f)
    try:
        k.conv2d_forward(y, x, weight, r.choice([None, array(f)]), *sizes, r.randrange(6), 0.5)
        k.conv2d_backward_dx(x, y, weight, *sizes)
        k.conv2d_backward_dw(weight, x, y, *sizes)
        passed += 1
    except (ValueError, MemoryError):
        pass
    sizes = (kh, kw, huge(1), huge(1), r.randrange(3), r.randrange(3))
    y = array(n, oh, ow, c)
    kind = np.uint8 if kh * kw <= 256 else np.int32
    try:
        k.avg_pool2d_forward(y, x, *sizes)
        k.avg_pool2d_backward_dx(x, y, *sizes)
        index = fenced(np.zeros(y.shape, kind), before)
        k.max_pool2d_forward(y, index, x, *sizes)
        info, bits = np.iinfo(kind), np.random.default_rng(seed)
        index[...] = bits.integers(info.min, info.max, index.shape, kind, True)
        k.max_pool2d_backward_dx(x, y, index, *sizes)
        passed += 1
    except (ValueError, MemoryError):
        pass
print("done" if passed > 400 else f"only {passed} calls were valid")
"""
ENDLESS = """
import sys
import numpy as np
from tilegrad import backend
k = backend.load(sys.argv[1])
empty = lambda *shape: np.empty(shape, np.float32)
many, line = 2**28, (1, 1, 0, 0, 1, 1, 1)
print("matmul", flush=True)
k.matmul_forward(empty(2**59, 0, 3), empty(1, 0, 2), empty(1, 2, 3))
k.matmul_backward_da(empty(2**59, 0, 2), empty(2**59, 0, 3), empty(1, 2, 3))
print("reduce", flush=True)
k.reduce_sum_backward_dx(empty(2**60, 1, 0), empty(2**60, 0), 1.0)
k.reduce_sum_forward(empty(0, 3), empty(0, 2**58, 3), 1.0)
print("conv", flush=True)
for c, f, groups in ((1, 1, 1), (9, 9, 1), (3, 3, 3)):
    w, sizes = empty(3, 3, c // groups, f), (*line[:-1], groups)
    for x, y in (((many, 0, 9, c), (many, many, 0, f)), ((0, 9, many, c), (0, many, many, f))):
        k.conv2d_forward(empty(*y), empty(*x), w, None, *sizes, 0, 0.0)
        k.conv2d_backward_dx(empty(*x), empty(*y), w, *sizes)
        k.conv2d_backward_dw(w, empty(*x), empty(*y), *sizes)
        assert not w.any()
print("pool", flush=True)
sizes = (1, 1, 1, 1, 0, 0)
x, index = empty(many, many, 1, 0), np.empty((many, many, 1, 0), np.uint8)
k.avg_pool2d_forward(x, x, *sizes)
k.avg_pool2d_backward_dx(x, x, *sizes)
k.max_pool2d_forward(x, index, x, *sizes)
k.max_pool2d_backward_dx(x, x, index, *sizes)
print("done")
"""
ALIASES = """
import sys
import numpy as np
from checks import fenced
from tilegrad import backend
k = backend.load(sys.argv[1])
one = lambda *shape: fenced(np.zeros(shape, np.float32), False)
for cols in (1, 5):
    p = one(8, cols)
    k.softmax_cross_entropy_sparse_forward(
        one(1), one(8), p, one(8, cols), p.reshape(-1)[:8].view(np.int32), None, 1.0
    )
    dx = one(8, cols)
    k.softmax_cross_entropy_sparse_backward_dx(
        dx, one(8), one(8, cols), dx.reshape(-1)[:8].view(np.int32)
    )
print("done")
"""
FENCES = """
import sys
import numpy as np
from checks import fenced
from samples import calls
from tilegrad import backend
k = backend.load(sys.argv[1])
sets = [calls(), *(calls(n=n) for n in (1, 2, 4, 8, 15, 16, 17, 31, 33))]
if sys.argv[2] == "large":
    sets = [calls(large=True)]
for before in (False, True):
    for call in [c for each in sets for c in each]:
        print(call.label, before, flush=True)
        call.copy(lambda a: fenced(a, before)).run(k)
print("done")
"""


def run_apart(code, *arguments, timeout=300):
    """Run `code` in a process of its own; it prints what it does next, and "done" at the end."""
    here = Path(__file__).parent
    paths = [str(here), *sys.path]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    last = result.stdout.strip().splitlines()[-1:]
    assert result.returncode == 0 and last == ["done"], f"died in {last}: {result.stderr[-2000:]}"


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
@pytest.mark.parametrize("size", ["small", "large"])
def test_no_kernel_touches_memory_outside_its_arrays(compiled, size):
    """Every array ends (or starts) at a page that may not be touched; reading counts too."""
    run_apart(FENCES, compiled.name, size)


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_no_window_is_too_strange(compiled):
    """Empty axes, windows far outside the image, strides up to 2^31, wrong indices."""
    run_apart(FUZZ, compiled.name)


def test_a_batch_of_nothing_takes_no_time(compiled):
    """2^59 matrices of 0 rows, 2^56 lines of 0 pixels: NumPy makes such arrays in an instant."""
    run_apart(ENDLESS, compiled.name, timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_labels_that_the_kernel_overwrites(compiled):
    """Labels that share their memory with an output are checked and used as one value."""
    run_apart(ALIASES, compiled.name)
