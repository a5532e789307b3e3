"""Made-up results files of ``tilegrad bench``: plausible to look at, exact where tests compare."""

import types

import numpy as np

ROOFS = {  # threads: FLOP/s, bytes/s by level
    1: (280e9, {"L1": 500e9, "L2": 260e9, "L3": 140e9, "memory": 38e9}),
    2: (540e9, {"L1": 990e9, "L2": 510e9, "L3": 240e9, "memory": 52e9}),
}
MACHINE = {
    "fingerprint": "some-cpu-2-0123abcd",
    "date": "2026-01-02 03:04 UTC",
    "tilegrad": "0.1.0",
    "commit": "0123456789abcdef",
    "dirty": False,
    "isa": "avx512",
    "isas": ["avx512", "avx2", "base"],
    "compiler": "GCC 13.2",
    "flags": "-O3",
    "cpu": "Some CPU",
    "cores": 2,
    "caches": [
        {"level": "L1", "bytes": 49152, "instances": 2},
        {"level": "L2", "bytes": 2**20, "instances": 2},
        {"level": "L3", "bytes": 2**25, "instances": 1},
    ],
    "clocks": {"now": 3700.0, "most": None, "governor": None},
    "virtual": True,
    "memory": 16 * 2**30,
    "gpu": None,
    "os": "Linux-6.1-x86_64",
    "kernel": "6.1",
    "python": "3.11.7",
    "packages": {"numpy": "2.4.6", "torch": "2.13.0", "jax": None},
    "allocator": "glibc 2.36, keeps freed memory",
}


def results(rows, **header):
    """A results file with these rows."""
    kept = {
        "roofs": [
            {"isa": "avx512", "threads": threads, "flops": flops, "bytes": rates}
            for threads, (flops, rates) in ROOFS.items()
        ]
    }
    start = {"format": "tilegrad bench", "version": 1, "machine": MACHINE, "suite": "cpu"}
    return start | {"seed": 0, "arguments": [], "roofs": kept} | header | {"rows": list(rows)}


def row(workload, seconds, library="tilegrad", threads=1, **more):
    """A kernel row that took `seconds`."""
    mine = library == "tilegrad"
    ours = {
        "workload": workload,
        "kind": "kernel",
        "device": "cpu",
        "threads": threads,
        "library": library,
        "label": "tilegrad avx512" if mine else library,
        "version": "0.1.0" if mine else "1.2",
        "setting": "" if mine else "its way",
        "isa": "avx512" if mine else None,
        "status": "ok",
        "reason": None,
        "error": 0.125,
        "warm": times(seconds),
        "cold": None,
        "ratio": 1.0 if mine else None,
        "cold_ratio": None,
        "flops": 2 * 10**6,
        "bytes": 10**5,
        "roof": {"bound": "flops", "seconds": seconds / 2, "share": 0.5, "above": False},
        "calibration": {"flops": 1e11, "bytes": 1e10},
    }
    return ours | more


def part(
    workload,
    seconds,
    library="tilegrad",
    *,
    cold=None,
    error=0.25,
    way=0,
    floor=None,
    flops=1e11,
    nbytes=1e10,
    **more,
):
    """What a process has of a contender; nothing measured where `seconds` is None."""
    figures = ("error", "warm", "cold", "ratio", "cold_ratio", "roof", "calibration")
    head = {k: v for k, v in row(workload, 1.0, library).items() if k not in figures}
    if seconds is None:
        return head | {"reason": "why"} | more
    measured = {"way": way, "error": error, "warm": seconds, "cold": cold, "floor": floor}
    return head | {"measured": measured | {"calibration": {"flops": flops, "bytes": nbytes}}} | more


def times(median, noise=0.01):
    return {
        "n": 15,
        "min": median * 0.95,
        "median": median,
        "p95": median * 1.2,
        "noise": noise,
    }


def without(status, reason, workload="relu:n7", library="torch", **more):
    """A row that has no times."""
    return row(workload, 1.0, library, **more) | {
        "status": status,
        "reason": reason,
        "warm": None,
        "ratio": None,
        "roof": None,
        "error": None,
    }


def train_row(workload, seconds, library="tilegrad", setting="", **more):
    """A training row: seconds per epoch."""
    more = {"loss": 0.0125, "faults_per_step": 0.25, "peak_mb": 128.0, "images": 10240} | more
    more = {"kind": "train", "setting": setting, "roof": None, "bytes": 0, "threads": 2} | more
    return row(workload, seconds, library, **more)


# --- a whole suite --------------------------------------------------------------------------------

PEERS = {  # label: (library, version, setting, its times over tilegrad's, from and to)
    "PyTorch": ("torch", "2.13.0", "inference mode", 1.0, 3.5),
    "torch.compile": ("torch_compile", "2.13.0", "max-autotune-no-cudagraphs", 0.9, 3.0),
    "JAX": ("jax", "0.10.2", "jit, donated", 1.1, 6.0),
    "TensorFlow": ("tensorflow", "2.21.0", "tf.function", 1.0, 5.0),
    "ONNX Runtime": ("onnxruntime", "1.22", "IO binding", 0.85, 2.5),
    "NumPy": ("numpy", "2.4.6", "out=", 1.2, 20.0),
}


def suite(descriptors, seed=0):
    """Rows of tilegrad and six peers for all `descriptors`, on 1 and 2 threads; invented."""
    rng = np.random.default_rng(seed)
    rows = []
    for descriptor in descriptors:
        op = descriptor.partition(":")[0]
        flops, nbytes = _work(descriptor)
        shares = rng.uniform(0.5, 0.98)
        factors = {label: rng.uniform(low, high) for label, (*_, low, high) in PEERS.items()}
        for threads, (peak, rates) in ROOFS.items():
            level = next(
                name
                for name, size in (("L1", 2e5), ("L2", 1e6), ("L3", 3e7), ("memory", 1e99))
                if nbytes < size
            )
            least, bound = max((flops / peak, "flops"), (nbytes / rates[level], level))
            seconds = least / (shares * rng.uniform(0.92, 1.02)) + 3e-7
            roof = {"seconds": least, "bound": bound}
            shared = {"threads": threads, "flops": flops, "bytes": nbytes}
            share = least / seconds
            mine = roof | {"share": share, "above": share > 1.05}
            cold = times(seconds * rng.uniform(1.1, 2))
            rows.append(row(descriptor, seconds, **shared, roof=mine, cold=cold))
            for label, (library, version, setting, _, _) in PEERS.items():
                if label == "NumPy" and ("conv" in op or "pool" in op):
                    continue
                ratio = factors[label] * rng.uniform(0.9, 1.1)
                rows.append(
                    row(
                        descriptor,
                        seconds * ratio,
                        library,
                        **shared,
                        label=label,
                        version=version,
                        setting=setting,
                        ratio=ratio,
                        roof=roof | {"share": share / ratio, "above": False},
                    )
                )
    rows.append(without("refused", "slept: computed 3 ms of 20 ms", "relu:n1048576", "jax"))
    rows += [without("absent", "no module cupy", f"relu:n{n}", "cupy") for n in (7, 17, 31)]
    return results(rows)


def _work(descriptor):
    """(FLOP, bytes), roughly."""
    op, _, rest = descriptor.partition(":")
    letters = "".join(c if c.isalpha() else " " for c in rest).split()
    numbers = [int(x) for x in "".join(c if c.isdigit() else " " for c in rest).split()]
    size = dict(zip(letters, numbers, strict=False))
    if op.startswith(("dense", "matmul")):
        m, k, n = size["m"], size["k"], size["n"]
        return 2 * m * k * n, 4 * (m * k + k * n + m * n)
    if op.startswith("conv2d"):
        image = size["n"] * size["h"] * size["w"]
        flops = 2 * image * size["c"] * size["f"] * size["k"] ** 2
        return flops, 4 * image * (size["c"] + size["f"])
    return 0, 8 * int(np.prod(numbers))


def training(seed=0):
    """Epochs of two networks beside five peers; invented."""
    rng = np.random.default_rng(seed)
    rows = []
    for workload, seconds in (
        ("train:cnn:b32", 0.99),
        ("train:cnn:b128", 0.93),
        ("train:cnn:b512", 1.05),
        ("train:wide:b64", 79.4),
    ):
        rows.append(train_row(workload, seconds, label="tilegrad", name="tilegrad fit"))
        for name in (
            "PyTorch, channels first",
            "PyTorch, channels last, keep",
            "torch.compile, channels last, keep",
            "Keras on TensorFlow",
            "JAX jit",
        ):
            ratio, label = rng.uniform(1.2, 12), name.partition(",")[0]
            more = {"label": label, "name": name, "ratio": ratio}
            rows.append(train_row(workload, seconds * ratio, label, "a long setting", **more))
    return results(rows, suite="train")


def tta_row(target, seconds, library="tilegrad", network="cnn", **more):
    """Seconds to a test accuracy of each seed, None for those that did not arrive."""
    arrived = [second for second in seconds if second is not None]
    more = {"kind": "tta", "target": target, "seeds": len(seconds), "reached": len(arrived)} | more
    if arrived:
        middle = sum(arrived) / len(arrived)
        figures = {"mean": middle, "min": min(arrived), "max": max(arrived), "mean_images": 60000}
        more = figures | more
    return row(f"tta:{network}:b32", 1.0, library, threads=2, warm=None, **more)


def profile():
    """What record.profile_row needs of a profile of two seconds."""
    common = {"gflops": 410.4, "gbytes": 12.3}
    dense = {"layer": "dense", "phase": "backward", "calls": 1234, "ms": 900.0, "share": 0.6}
    update = {"layer": None, "phase": "update", "calls": 617, "ms": 600.0, "share": 0.4}
    return types.SimpleNamespace(
        wall=2.0,
        split={"kernel": 1.5, "dispatch": 0.25, "Python": 0.25, "outside": 0.0},
        layers=[dense | common | {"roof": 0.75}, update | common | {"roof": None}],
    )
