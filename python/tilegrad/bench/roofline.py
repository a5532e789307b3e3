"""The roofs of this machine, measured: FLOP/s in registers, bytes/s over working sets of any size.

The micro-kernels are csrc/cpu/roof.cpp, compiled for each instruction set. What was measured is
kept in the user's cache folder, in a file for each kind of machine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from .. import backend
from . import machine
from .libraries.torch_onednn_ import TorchOneDnn

VERSION = 2  # of the file and of the way to measure
KINDS = {"read": 0, "copy": 1, "triad": 2, "update": 3}  # csrc/cpu/roof.h
ABOVE = 1.05  # a larger share of the roof says that the roof is wrong, or the time
REACHED = 0.85  # of the roof: the machine has its full speed

_STEPS = 400_000  # of a round: a millisecond
_SMALLEST = 2**14  # bytes of a thread's smallest working set
_TRAFFIC = 2**25  # bytes of a round, at least
_PROBED = 2**23  # bytes of a thread's working set, when it must be quick


@dataclass(frozen=True)
class Roof:
    """What one instruction set reaches on some threads.

    Attributes:
        isa, threads: what it was measured with.
        flops: FLOP/s of multiply-adds in registers, one counted as two.
        curve: (working set in bytes, bytes/s), sizes doubling up to the memory's.
        levels: level -> bytes that these threads' caches hold, the innermost first.
    """

    isa: str
    threads: int
    flops: float
    curve: tuple[tuple[int, float], ...]
    levels: dict[str, int]

    def level(self, working_set: int | None) -> str:
        """The innermost level that `working_set` bytes fit, "memory" behind the last."""
        if working_set is not None:
            for level, size in self.levels.items():
                if working_set <= size:
                    return level
        return "memory"

    def rate(self, working_set: int | None) -> float:
        """bytes/s over a warm working set; None is a cold one, which comes from memory.

        It is what was reached at the next smaller measured size (or a larger one, which noise may
        have spared), whatever the machine says of its caches: more cannot be had.
        """
        if working_set is None:
            return self.curve[-1][1]
        smaller = [size for size, _ in self.curve if size <= working_set]
        least = max(smaller, default=0)
        return max(rate for size, rate in self.curve if size >= least)

    def rates(self) -> dict[str, float]:
        """bytes/s by level, each half full, and of the memory."""
        halves = {level: self.rate(size // 2) for level, size in self.levels.items()}
        return halves | {"memory": self.rate(None)}

    def joined(self, other: Roof) -> Roof:
        """The better of two measurements with the same instruction set and threads."""
        best = dict(self.curve)
        for size, rate in other.curve:
            best[size] = max(rate, best.get(size, 0.0))
        flops = max(self.flops, other.flops)
        return replace(other, flops=flops, curve=tuple(sorted(best.items())))

    def least(self, flops: int, nbytes: int, working_set: int | None) -> tuple[float, str]:
        """The least seconds, and what says so: "flops", a level of the caches, or "memory"."""
        compute, traffic = flops / self.flops, nbytes / self.rate(working_set)
        return max((compute, "flops"), (traffic, self.level(working_set)), key=lambda p: p[0])


class Roofs:
    """The roofs of several instruction sets and numbers of threads."""

    def __init__(self, roofs: Iterable[Roof] = ()):
        self._roofs = {(roof.isa, roof.threads): roof for roof in roofs}

    def __iter__(self) -> Iterator[Roof]:
        order = {isa: i for i, isa in enumerate(backend.ISAS)}
        return iter(sorted(self._roofs.values(), key=lambda r: (order[r.isa], r.threads)))

    def __contains__(self, isa_and_threads: tuple[str, int]) -> bool:
        return isa_and_threads in self._roofs

    def get(self, isa: str | None, threads: int) -> Roof:
        """That of `isa`, or of the best one for None, on `threads` threads.

        Raises:
            ValueError: it was not measured.
        """
        for roof in self:
            if roof.threads == threads and isa in (None, roof.isa):
                return roof
        measured = ", ".join(f"{r.isa} on {r.threads}" for r in self) or "none"
        raise ValueError(
            f"roofs: expected one that was measured ({measured}), "
            f"got {isa or 'any'} on {threads} threads"
        )

    def share(
        self,
        flops: int,
        nbytes: int,
        working_set: int | None,
        threads: int,
        isa: str | None,
        seconds: float,
    ) -> dict:
        """How near to its roof a computation was.

        Args:
            flops: a multiply-add counted as two.
            nbytes: to move at least: each input read once, each output written once.
            working_set: bytes that it touches again in each call, and so finds in the caches; None
                if the caches held nothing of it.
            threads: that it may use.
            isa: None is the best one that was measured: what a library uses that does not say.
            seconds: that it took.

        Returns:
            {"bound": "flops" | "L1" | ... | "memory", "seconds": the least, "share": least/seconds,
            "above": whether that is more than can be}
        """
        return near(*self.get(isa, threads).least(flops, nbytes, working_set), seconds)

    def to_json(self) -> dict:
        """For a results file; `bytes` is what to show, `curve` what to compute with."""
        return {"roofs": [asdict(roof) | {"bytes": roof.rates()} for roof in self]}

    @classmethod
    def from_json(cls, data: dict) -> Roofs:
        """What `to_json` gave.

        Raises:
            ValueError: it is not that.
        """
        try:
            return cls(_roof(entry) for entry in data["roofs"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"roofs: expected what Roofs.to_json gives: {error!r}") from None


def near(least: float, bound: str, seconds: float) -> dict:
    """What `Roofs.share` gives, from what `Roof.least` does."""
    if not seconds > 0:
        raise ValueError(f"share: expected seconds above 0, got {seconds!r}")
    share = least / seconds
    return {"bound": bound, "seconds": least, "share": share, "above": share > ABOVE}


def _roof(entry: dict) -> Roof:
    curve = tuple((int(size), float(rate)) for size, rate in entry["curve"])
    levels = {str(level): int(size) for level, size in entry["levels"].items()}
    roof = Roof(entry["isa"], int(entry["threads"]), float(entry["flops"]), curve, levels)
    numbers = [roof.flops, *(rate for _, rate in curve)]
    if roof.isa not in backend.ISAS or not curve or curve != tuple(sorted(curve)):
        raise ValueError(f"roofs: expected an instruction set and a curve, got {entry!r}")
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ValueError(f"roofs: expected finite rates above 0, got {entry!r}")
    return roof


# -- measured --------------------------------------------------------------------------------------


def _module(isa: str):
    if isa not in backend.ISAS:
        raise ValueError(f"isa: expected one of {', '.join(backend.ISAS)}, got {isa!r}")
    return backend.load(isa).module


_most: dict[tuple[str, int], float] = {}  # FLOP/s that this process has seen


def measure(
    isa: str,
    threads: int,
    *,
    sweeps: int = 3,
    patience: float = 10.0,
    largest: int | None = None,
) -> Roof:
    """Measure a roof; takes a few seconds. The best of all counts, whatever disturbed the others.

    Args:
        sweeps: over all sizes: the more time between two tries, the less one disturbance spoils.
        patience: seconds to wait for as many cores as `threads`, which a virtual machine or another
            process may keep back, and as many again in the sweeps.
        largest: working set in bytes; default: four times the last cache, 256 MiB to 1 GiB.

    Raises:
        RuntimeError: the instruction set cannot run here.
    """
    module = _module(isa)
    levels = machine.capacities(threads)
    largest = largest or min(max(4 * max(levels.values()), 2**28), 2**30)
    best = dict.fromkeys(_sizes(threads, largest), 0.0)
    _look(isa, threads, patience)
    for _ in range(sweeps):
        for size in best:
            reached(threads, patience / (sweeps * len(best)), isa)
            passes = max(1, _TRAFFIC // size)
            for kind in KINDS.values():
                best[size] = max(best[size], module.roof_bytes(threads, 5, passes, size, kind))
    return Roof(isa, threads, _most[isa, threads], tuple(best.items()), levels)


def _sizes(threads: int, largest: int) -> list[int]:
    smallest = _SMALLEST * threads
    return [smallest << i for i in range(max(1, math.ceil(math.log2(2 * largest / smallest))))]


def _look(isa: str, threads: int, patience: float) -> None:
    """Fill `_most`: until the threads do about as much each as one alone, or patience ends."""
    module = _module(isa)
    deadline = time.perf_counter() + patience
    alone = together = 0.0
    while True:
        alone = max(alone, module.roof_flops(1, 50, _STEPS))
        together = max(together, module.roof_flops(threads, 100, _STEPS))
        if together >= 0.95 * threads * alone or time.perf_counter() > deadline:
            break
    _most[isa, threads] = max(together, _most.get((isa, threads), 0.0))


def reached(threads: int, patience: float = 0.1, isa: str | None = None) -> bool:
    """Whether `threads` threads have 85% of their best FLOP/s now, or within `patience` seconds.

    They have not while OpenMP's threads spin after a library's last call, while somebody else
    computes, or while a virtual machine's cores share one core of the host. The best is what this
    process has seen, so that a clock which fell for good since the roofs were measured stops
    nobody; the first call takes a look of its own, of up to 2 seconds.
    """
    isa = isa or backend.get("cpu").name
    module, key = _module(isa), (isa, threads)
    if key not in _most:
        _look(isa, threads, 2.0)
    deadline = time.perf_counter() + patience
    while True:
        now = module.roof_flops(threads, 1, _STEPS)
        _most[key] = max(_most[key], now)
        if now >= REACHED * _most[key]:
            return True
        if time.perf_counter() > deadline:
            return False


def probe(isa: str, threads: int) -> dict[str, float]:
    """What the machine has now, by a look of 2 to 4 ms: {"flops": FLOP/s, "bytes": bytes/s}.

    The bytes are copied within 8 MiB per thread: on a virtual machine, writing may become a fifth
    slower for minutes in which reading does not.
    """
    module = _module(isa)
    flops = module.roof_flops(threads, 1, _STEPS)
    rate = module.roof_bytes(threads, 5, 2, threads * _PROBED, KINDS["copy"])
    return {"flops": flops, "bytes": rate}


class Speed:
    """The best that the machine had whenever it was looked at.

    Attributes:
        rates: as `probe` gives them, each the highest so far.
    """

    def __init__(self, isa: str, threads: int):
        self._isa, self._threads = isa, threads
        self.rates = probe(isa, threads)

    def look(self) -> None:
        now = probe(self._isa, self._threads)
        self.rates = {key: max(rate, now[key]) for key, rate in self.rates.items()}


# -- kept ------------------------------------------------------------------------------------------


def cache_path() -> Path:
    """The file that keeps the roofs of machines like this one."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tilegrad" / f"roofs-{machine.fingerprint()}.json"


def load(path: Path | None = None) -> Roofs:
    """The roofs that a file keeps; none where it is absent, damaged, or of another machine."""
    try:
        data = json.loads((path or cache_path()).read_text())
        if (data["version"], data["fingerprint"]) != (VERSION, machine.fingerprint()):
            return Roofs()
        return Roofs.from_json(data)
    except (OSError, ValueError, KeyError, TypeError):
        return Roofs()


def save(roofs: Roofs, path: Path | None = None) -> None:
    """Write the file in one step: whoever reads it sees all of it.

    Raises:
        OSError: it cannot be written.
    """
    path = path or cache_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"version": VERSION, "fingerprint": machine.fingerprint(), **roofs.to_json()}
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(data, file, indent=1)
    os.replace(file.name, path)


def load_or_measure(
    isas: Sequence[str], threads: Sequence[int], *, again: bool = False, path: Path | None = None
) -> Roofs:
    """The roofs of all `isas` on all numbers of `threads`; measured and kept where they are not.

    Args:
        again: measure them all, whatever is kept.
        path: of the file; default: `cache_path`.
    """
    kept = load(path)
    wanted = list(dict.fromkeys((isa, count) for isa in isas for count in threads))
    missing = [pair for pair in wanted if again or pair not in kept]
    if missing:
        kept = Roofs([*kept, *(measure(*pair) for pair in missing)])
        _save_if_possible(kept, path)
    return Roofs(kept.get(*pair) for pair in wanted)


def measure_all() -> Roofs:
    """Measure, and keep, what all instruction sets that run here reach on one core and on all."""
    return load_or_measure(supported_isas(), thread_counts(), again=True)


def measure_again(roofs: Roofs, isa: str | None, threads: int, path: Path | None = None) -> Roofs:
    """`roofs` with that of `isa` on `threads` threads measured once more, the better one kept.

    For a result above its roof: was the roof measured when the machine was busy? None as in
    `Roofs.get`.
    """
    before = roofs.get(isa, threads)
    after = before.joined(measure(before.isa, threads))
    _save_if_possible(Roofs([*load(path), after]), path)
    return Roofs([*roofs, after])


def _save_if_possible(roofs: Roofs, path: Path | None) -> None:
    with contextlib.suppress(OSError):  # a folder that is read-only costs time, nothing else
        save(roofs, path)


def supported_isas() -> list[str]:
    """The instruction sets that run here, the best first."""
    reasons = backend.supported()
    return [isa for isa in backend.ISAS if reasons[isa] is None]


def thread_counts() -> list[int]:
    """One, and as many as there are usable cores."""
    return sorted({1, machine.usable_cores()})


# -- checked against a library's product of matrices -----------------------------------------------


def check(
    threads: int, sizes: Sequence[int] = (512, 1024, 2048, 4096), seconds: float = 2.0
) -> list[dict]:
    """Time float32 products of square matrices against the FLOP/s roof, in turns.

    PyTorch's by MKL and by oneDNN, or NumPy's where PyTorch is not installed. A ratio above 1.05
    says that the roof is too low.

    Args:
        seconds: for each size and library.

    Returns:
        One row per library and size: {"size", "threads", "library", "product": best FLOP/s of the
        product, "roof": best FLOP/s of all looks at the roof, "ratio": product/roof}.
    """
    module = backend.get("cpu").module
    rows, roof = [], 0.0
    with _products(threads) as products:
        for (library, product), size in itertools.product(products.items(), sizes):
            call = product(size)
            call()
            best, deadline = math.inf, time.perf_counter() + seconds
            while time.perf_counter() < deadline:
                roof = max(roof, module.roof_flops(threads, 5, _STEPS))
                for _ in range(5):
                    start = time.perf_counter()
                    call()
                    best = min(best, time.perf_counter() - start)
            row = {"size": size, "threads": threads, "library": library}
            rows.append(row | {"product": 2 * size**3 / best})
    return [row | {"roof": roof, "ratio": row["product"] / roof} for row in rows]


def check_all() -> list[dict]:
    """The rows of `check` on one thread and on all usable cores."""
    return [row for threads in thread_counts() for row in check(threads)]


@contextlib.contextmanager
def _products(threads: int):
    """Library -> (size -> a call that multiplies two matrices), on `threads` threads within."""
    try:
        import torch
    except ImportError:
        import threadpoolctl

        with threadpoolctl.threadpool_limits(threads):
            yield {"NumPy": _numpy_product}
        return
    products = {"PyTorch's mm": _torch_product}
    if TorchOneDnn().absent() is None:
        products["oneDNN in PyTorch"] = _onednn_product
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield products
    finally:
        torch.set_num_threads(before)


def _numpy_product(size: int):
    a, b, y = (np.ones((size, size), np.float32) for _ in range(3))
    return lambda: np.matmul(a, b, out=y)


def _torch_product(size: int):
    import torch

    a, b, y = (torch.ones(size, size) for _ in range(3))
    return lambda: torch.mm(a, b, out=y)


def _onednn_product(size: int):
    import torch

    a, b = (torch.ones(size, size) for _ in range(2))
    return lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


# -- shown -----------------------------------------------------------------------------------------


def table(roofs: Roofs):
    """A rich table: GFLOP/s, and GB/s by level, of each instruction set and number of threads."""
    from rich.table import Table

    roofs = list(roofs)
    levels = list(dict.fromkeys(level for roof in roofs for level in roof.rates()))
    shown = Table(title="Roofs")
    shown.add_column("isa")
    for heading in ("threads", "GFLOP/s", *(f"{level}, GB/s" for level in levels)):
        shown.add_column(heading, justify="right")
    for roof in roofs:
        rates = roof.rates()
        cells = (f"{rates[level] / 1e9:.1f}" if level in rates else "" for level in levels)
        shown.add_row(roof.isa, str(roof.threads), f"{roof.flops / 1e9:.1f}", *cells)
    return shown


def check_table(rows: Sequence[dict]):
    """A rich table of what `check` gave."""
    from rich.table import Table

    shown = Table(title="Products of matrices against the roof")
    shown.add_column("library")
    for heading in ("threads", "size", "GFLOP/s", "roof, GFLOP/s", "ratio"):
        shown.add_column(heading, justify="right")
    for row in rows:
        rates = (f"{row[key] / 1e9:.1f}" for key in ("product", "roof"))
        shown.add_row(
            row["library"], str(row["threads"]), str(row["size"]), *rates, f"{row['ratio']:.3f}"
        )
    return shown
