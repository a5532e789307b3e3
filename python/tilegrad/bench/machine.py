"""What a result was measured on. Whatever cannot be read is None; nothing here fails."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import __version__, backend

PACKAGE = Path(__file__).resolve().parents[1]
CPUINFO = Path("/proc/cpuinfo")
CPUS = Path("/sys/devices/system/cpu")

# glibc: no block from mmap, nothing trimmed off the heap's top. PyTorch then keeps its memory
# instead of taking it from the system again, page fault by page fault, in every step.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": "1048576"}

# A library and the distributions that it may come in.
PACKAGES = {
    "numpy": ("numpy",),
    "torch": ("torch",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "keras": ("keras",),
    "jax": ("jax",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
}

_SIMD = ("sse", "ssse", "avx", "fma", "f16c", "amx", "asimd", "sve", "neon")  # flags begin so
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Cache:
    """A level of the data caches: the bytes of one instance, and how many the machine has."""

    level: str
    bytes: int
    instances: int

    def capacity(self, threads: int) -> int:
        """The bytes that `threads` threads have of it, each on a core as far from others as can be.

        Never too little: what is taken to fit a cache gets that cache's roof, the higher one.
        """
        return self.bytes * min(threads, self.instances)


# For a machine that does not say.
UNKNOWN = (Cache("L1", 2**15, 2**16), Cache("L2", 2**20, 2**16), Cache("L3", 2**25, 1))


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def caches() -> tuple[Cache, ...]:
    """The levels of data caches, the innermost first; () where the system does not say."""
    found: dict[str, dict[str, int]] = {}  # level -> the cores that share an instance -> bytes
    for folder in CPUS.glob("cpu[0-9]*/cache/index[0-9]*"):
        texts = [_read(folder / name) for name in ("level", "type", "size", "shared_cpu_list")]
        size = re.fullmatch(r"(\d+)([KMG]?)", texts[2] or "")
        if None not in texts and texts[1] != "Instruction" and size:
            instances = found.setdefault(f"L{texts[0]}", {})
            instances[texts[3]] = int(size[1]) * _UNITS[size[2]]
    return tuple(Cache(level, max(s.values()), len(s)) for level, s in sorted(found.items()))


def capacities(threads: int) -> dict[str, int]:
    """Level -> the bytes that the caches of `threads` threads hold, the innermost first."""
    return {c.level: c.capacity(threads) for c in caches() or UNKNOWN}


def last_level_cache_bytes() -> int:
    """What the last level holds in all, as far as this process's cores reach it."""
    return max(capacities(usable_cores()).values())


def version(package: str) -> str | None:
    """The installed version, or None."""
    for name in PACKAGES.get(package, (package,)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def fingerprint() -> str:
    """Text for a file's name, equal where roofs are: CPU, cores, caches, instruction sets.

    It does not depend on the cores that this process is bound to.
    """
    info = _cpuinfo()
    flags = (info.get("flags") or info.get("Features") or "").split()
    simd = sorted(flag for flag in flags if flag.startswith(_SIMD))
    facts = (_cpu(info), os.cpu_count(), caches(), simd)
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:8]
    slug = re.sub(r"[^a-z0-9]+", "-", _cpu(info).lower()).strip("-")
    return f"{slug}-{os.cpu_count()}-{digest}"


def describe(environment: Mapping[str, str] = os.environ) -> dict:
    """The header of a results file: sizes in bytes, clocks in MHz.

    Args:
        environment: of the processes that measure, if not this one's: it says how memory is kept.
    """
    info = _cpuinfo()
    isa, build = _build()
    return {
        "fingerprint": fingerprint(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "tilegrad": __version__,
        **_commit(),
        "isa": isa,
        "isas": [name for name in backend.ISAS if backend.supported()[name] is None],
        "compiler": build.get("compiler"),
        "flags": build.get("flags"),
        "cpu": _cpu(info),
        "cores": usable_cores(),
        "caches": [asdict(cache) for cache in caches()],
        "clocks": _clocks(),
        "virtual": "hypervisor" in info["flags"].split() if "flags" in info else None,
        "memory": _memory(),
        "gpu": _gpu(),
        "os": platform.platform(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "allocator": _allocator(environment),
    }


# -- where it is read ------------------------------------------------------------------------------


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _output(*command: str) -> str | None:
    """What a command prints; None where there is no such command or it fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _cpuinfo() -> dict[str, str]:
    """The first core's part of /proc/cpuinfo."""
    first = (_read(CPUINFO) or "").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu(info: dict[str, str]) -> str:
    name = info.get("model name") or _output("sysctl", "-n", "machdep.cpu.brand_string")
    return name or platform.processor() or platform.machine()


def _build() -> tuple[str | None, dict]:
    """The instruction set in use, and what its module was built with."""
    try:
        kernels = backend.get("cpu")
    except RuntimeError:
        return None, {}
    return kernels.name, kernels.module.build_info()


def _commit() -> dict:
    """The commit that this package lies in, and whether files differ from it.

    A package that was installed is no part of a work tree, even if its folder lies in one.
    """
    git = ("git", "-C", str(PACKAGE))
    commit = None
    if _output(*git, "ls-files", "--error-unmatch", "__init__.py") is not None:
        commit = _output(*git, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    changes = _output(*git, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else changes != ""}


def _clocks() -> dict:
    """MHz of the fastest core now and at most, and the governor."""
    now = re.findall(r"^cpu MHz\s*: ([\d.]+)$", _read(CPUINFO) or "", re.MULTILINE)
    most = _read(CPUS / "cpu0/cpufreq/cpuinfo_max_freq") or ""  # kHz
    return {
        "now": max(map(float, now), default=None),
        "most": int(most) / 1000 if most.isdecimal() else None,
        "governor": _read(CPUS / "cpu0/cpufreq/scaling_governor"),
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _gpu() -> dict | None:
    """Name, driver and bytes of the first GPU."""
    query = _output(
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total",
        "--format=csv,noheader,nounits",
    )
    fields = query.splitlines()[0].split(", ") if query else []
    if len(fields) == 3:
        name, driver, mebibytes = fields
        memory = int(mebibytes) * 2**20 if mebibytes.isdecimal() else None
        return {"name": name, "driver": driver, "memory": memory}
    if backend.supported()["cuda"] is None:
        info = backend.load("cuda").module.device_info()
        driver = str(info["driver"])
        return {"name": info["name"], "driver": driver, "memory": info["memory_bytes"]}
    return None


def _allocator(environment: Mapping[str, str]) -> str:
    """The C library, whether it is told to keep memory, and what is loaded in its place."""
    parts = [" ".join(platform.libc_ver()).strip() or platform.system()]
    if environment.items() >= KEEP.items():
        parts.append("keeps freed memory")
    if environment.get("LD_PRELOAD"):
        parts.append(f"LD_PRELOAD={environment['LD_PRELOAD']}")
    return ", ".join(parts)
