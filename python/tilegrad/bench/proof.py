"""What a contender must do before its time counts, and what the proof itself must be worth.

Inputs are loaded, outputs poisoned with NaN, and what a call gives is compared with the float64
truth, element by element. Inputs must keep their bits, outputs must not lie in the inputs' memory,
and other inputs must give other outputs. `check_strength` turns this around: it tries impostors
against the truth and refuses a truth that would accept one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .libraries.base import Instance
from .workload import Truth

STEP = 8  # `disturbed` changes one float in so many
TINY = 1e-300  # in place of a bound of 0, to divide by
BLOCK = 2**14  # elements compared at a time, in float64: what a core's cache holds


class NotProvedError(AssertionError):
    """A contender did not compute what it was timed for."""


class WeakProofError(AssertionError):
    """A truth would accept something wrong."""


# --- one contender --------------------------------------------------------------------------------


def prove(instance: Instance, name: str, truth: Truth) -> float:
    """Poison, load, call, check: the largest error as a share of what is allowed.

    Raises:
        NotProvedError: see `check` and `probe`.
    """
    prepare(instance, truth)
    for _ in range(truth.calls):
        returned = instance.call()
    error = check(instance, name, truth, returned, snapshot(instance, returned))
    probe(instance, name, truth)
    return error


def prepare(instance: Instance, truth: Truth) -> None:
    """Poison the outputs, then load: an output may be an input, updated in place."""
    instance.poison()
    instance.load(truth.inputs)


def check(
    instance: Instance,
    name: str,
    truth: Truth,
    returned: object,
    results: Sequence[np.ndarray | None],
) -> float:
    """Whether a call that returned `returned` was right; the largest error / what is allowed.

    Args:
        results: a `snapshot` from right after the call.

    Raises:
        NotProvedError: the results are not those of `truth`, an input changed, or an output lies
            in an input's memory.
    """
    error = compare(name, results, truth)
    written = set(truth.workload.shapes) if truth.workload.in_place else set()
    inputs = {key: a for key, a in instance.held().items() if key not in written}
    for key, a in inputs.items():
        if not _kept(a, truth.inputs[key]):
            raise NotProvedError(f"{name}: changed its input {key}")
    outputs = zip(truth.workload.shapes, instance.results(returned), strict=True)
    for output, a in outputs:
        for key, b in inputs.items():
            if a is not None and np.shares_memory(a, b):
                raise NotProvedError(f"{name}: its output {output} is memory of its input {key}")
    return error


def probe(instance: Instance, name: str, truth: Truth) -> None:
    """Call on inputs that differ in some places; the outputs must not be those of `truth`.

    To be called right after `instance` computed `truth`: who remembers results, or does nothing
    where outputs stand already, gives them again. Only who reads all inputs each time can tell.

    Raises:
        NotProvedError: they are.
    """
    instance.load(disturbed(truth.inputs))
    for _ in range(truth.calls):
        returned = instance.call()
    if _passes(instance.results(returned), truth):
        raise NotProvedError(f"{name}: its inputs changed, its outputs did not: it remembers them")


def compare(name: str, results: Sequence[np.ndarray | None], truth: Truth) -> float:
    """The largest error as a share of what is allowed; None among `results` is an absent output.

    Raises:
        NotProvedError: naming output, element, what was expected, what came, error and allowance;
            or a number, shape or dtype of outputs that is not the workload's.
    """
    shapes = truth.workload.shapes
    if len(results) != len(shapes) or all(a is None for a in results):
        given = sum(a is not None for a in results)
        raise NotProvedError(f"{name}: expected outputs {', '.join(shapes)}, got {given} arrays")
    largest = 0.0
    for output, a, right, bound in zip(shapes, results, truth.outputs, truth.bounds, strict=True):
        if a is None:
            continue
        where = f"{name}: output {output}"
        _check_kind(where, a, right, np.dtype(truth.workload.dtypes.get(output, np.float32)))
        share, worst = _worst(a, right, bound)
        if not share <= 1:
            expected, got = float(right[worst]), float(a[worst])
            raise NotProvedError(
                f"{where}{[int(i) for i in worst]}: expected {expected:.9g}, got {got:.9g}: "
                f"off by {abs(got - expected):.3g}, allowed {bound[worst]:.3g}"
            )
        largest = max(largest, share)
    return largest


def _passes(results: Sequence[np.ndarray | None], truth: Truth) -> bool:
    try:
        compare("", results, truth)
    except NotProvedError:
        return False
    return True


def _worst(
    a: np.ndarray, right: np.ndarray, bound: np.ndarray
) -> tuple[float, tuple[np.intp, ...]]:
    """The largest of `shares`, or NaN, and where; no further than the block with a wrong one."""
    flat = [np.ravel(array) for array in (a, right, bound)]
    largest, where = 0.0, 0
    for start in range(0, right.size, BLOCK):
        share = shares(*(array[start : start + BLOCK] for array in flat))
        worst = int(np.argmax(share))  # the first NaN, if any
        if not share[worst] <= largest:
            largest, where = float(share[worst]), start + worst
        if not largest <= 1:
            break
    return largest, np.unravel_index(where, right.shape)


def shares(a: np.ndarray, right: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """|a - right| / bound per element: at most 1 where `a` is right, NaN where it is NaN."""
    with np.errstate(all="ignore"):
        error = np.abs(np.subtract(a, right, dtype=np.float64))
        return np.asarray(error / np.maximum(bound, TINY))


def snapshot(instance: Instance, returned: object) -> list[np.ndarray | None]:
    """Copies of the results as they are at this moment."""
    return [None if a is None else np.array(a) for a in instance.results(returned)]


def disturbed(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`inputs`, one float in STEP, or all of a small array, made larger by a quarter or more.

    Which ones nobody knows beforehand, hence a generator without a seed. Integers stay: they may
    be indices.
    """
    rng = np.random.default_rng()
    changed = dict(inputs)
    for name, a in inputs.items():
        if a.dtype.kind == "f":
            changed[name] = a = np.array(a, order="C")
            step = STEP if a.size >= 64 * STEP else 1
            some = a.reshape(-1)[rng.integers(step) :: step]
            some *= rng.uniform(1.25, 1.75, some.shape).astype(a.dtype)
    return changed


def _check_kind(where: str, a: np.ndarray, right: np.ndarray, dtype: np.dtype) -> None:
    """Shape and dtype; any integers may stand for integers, and only float32 for float32."""
    if a.shape != right.shape:
        raise NotProvedError(f"{where}: expected shape {right.shape}, got {a.shape}")
    if a.dtype != dtype and not (a.dtype.kind in "iub" and dtype.kind in "iub"):
        raise NotProvedError(f"{where}: expected {dtype}, got {a.dtype}")


def _kept(a: np.ndarray, loaded: np.ndarray) -> bool:
    """Whether `a` has the bits of `loaded`; of integers, which a library may widen, the values."""
    if a.dtype != loaded.dtype:
        return a.dtype.kind in "iub" and np.array_equal(a, loaded)
    bits = f"u{a.dtype.itemsize}"
    return np.array_equal(a.view(bits), loaded.view(bits))


# --- the proof itself -----------------------------------------------------------------------------


def check_strength(truths: Sequence[Truth]) -> None:
    """Try impostors against `truths`, at least two of one workload from different seeds.

    Raises:
        WeakProofError: a reference or a bound is not finite, a bound is zero throughout, the
            right outputs would be refused, or an impostor would pass; it names the workload and
            the impostor.
    """
    if len({truth.seed for truth in truths}) < max(2, len(truths)):
        raise ValueError("check_strength: expected truths from at least two seeds, all different")
    for i, truth in enumerate(truths):
        _check_finite(truth)
        if not _passes(_narrow(truth.outputs, truth), truth):
            raise WeakProofError(f"{truth.workload}: the right outputs would be refused")
        for impostor, outputs in _impostors(truth, other=truths[i - 1]):
            if _passes(outputs, truth):
                raise WeakProofError(f"{truth.workload}: {impostor} would pass")


def _check_finite(truth: Truth) -> None:
    outputs = zip(truth.workload.shapes, truth.outputs, truth.bounds, strict=True)
    for output, right, bound in outputs:
        where = f"{truth.workload}: output {output}"
        if right.shape != truth.workload.shapes[output] or bound.shape != right.shape:
            raise WeakProofError(f"{where}: reference of shape {right.shape}, not the workload's")
        if not (np.isfinite(right).all() and np.isfinite(bound).all()):
            raise WeakProofError(f"{where}: the reference or its bounds are not finite")
        if right.dtype.kind == "f" and not bound.any():
            raise WeakProofError(f"{where}: all bounds are zero")


def _narrow(outputs: Sequence[np.ndarray | None], truth: Truth) -> list[np.ndarray | None]:
    """In the dtypes of the workload."""
    dtypes = [truth.workload.dtypes.get(name, np.float32) for name in truth.workload.shapes]
    with np.errstate(over="ignore"):
        return [
            None if a is None else np.asarray(a, dtype)
            for a, dtype in zip(outputs, dtypes, strict=True)
        ]


def _impostors(truth: Truth, other: Truth) -> Iterator[tuple[str, list[np.ndarray | None]]]:
    """What must not pass: (what it gives, the outputs but those that would be right)."""
    for i, output in enumerate(truth.workload.shapes):
        others: list[None] = [None] * (len(truth.outputs) - 1)
        for what, a in _instead(truth.outputs[i], other.outputs[i]):
            yield f"{what} as output {output}", _narrow([*others[:i], a, *others[i:]], truth)
    if truth.workload.in_place:
        yield "one call too few", _narrow(truth.before, truth)
    if truth.calls == 1:
        with np.errstate(all="ignore"):
            half = truth.workload.exact(**{k: _halved(a) for k, a in truth.inputs.items()})
        yield "inputs rounded to half precision", _narrow(half, truth)


def _instead(right: np.ndarray, other: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Impostors of one output, the others being right."""
    yield "zeros", np.zeros_like(right)
    yield "the output from another seed", other
    if right.size > 1:
        yield "a constant", np.full(right.shape, right.mean(dtype=np.float64))
        yield "a permutation (rolled by one)", np.roll(right, 1)
        yield "a permutation (reversed)", np.flip(right)


def _halved(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float16).astype(np.float64) if a.dtype.kind == "f" else a
