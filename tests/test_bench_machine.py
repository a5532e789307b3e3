"""What a result is measured on, and the roofs: structure and arithmetic, never how fast it is."""

import io
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from tilegrad.bench import machine, roofline
from tilegrad.bench.libraries.torch_onednn_ import TorchOneDnn
from tilegrad.bench.roofline import Roof, Roofs

KIB, MIB, GB = 2**10, 2**20, 1e9

# 100 GFLOP/s; 400 GB/s in L1, 200 in L2, 50 in L3, 20 in memory; noise hit 64 KiB.
CURVE = (
    (16 * KIB, 400 * GB),
    (64 * KIB, 150 * GB),
    (256 * KIB, 200 * GB),
    (4 * MIB, 50 * GB),
    (64 * MIB, 20 * GB),
)
LEVELS = {"L1": 32 * KIB, "L2": 512 * KIB, "L3": 8 * MIB}


def roof(isa="avx2", threads=1, flops=100 * GB, curve=CURVE):
    return Roof(isa, threads, flops, curve, LEVELS)


def rendered(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


# -- the micro-kernels -----------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_micro_kernels_give_rates(compiled, threads):
    assert 0 < compiled.module.roof_flops(threads, 3, 101) < math.inf
    for size, kind in itertools.product([1, 1000, 100_003], roofline.KINDS.values()):
        assert 0 < compiled.module.roof_bytes(threads, 2, 3, size, kind) < math.inf


def test_micro_kernels_refuse_nonsense(compiled):
    with pytest.raises(ValueError, match="roof_flops: expected threads from 1 to 1024, got 0"):
        compiled.module.roof_flops(0, 1, 1)
    with pytest.raises(ValueError, match="roof_flops: expected steps from 1"):
        compiled.module.roof_flops(1, 1, 0)
    with pytest.raises(ValueError, match="roof_bytes: expected rounds from 1"):
        compiled.module.roof_bytes(1, 0, 1, 1, 0)
    with pytest.raises(ValueError, match="roof_bytes: expected bytes from 1"):
        compiled.module.roof_bytes(1, 1, 1, -1, 0)
    with pytest.raises(ValueError, match="roof_bytes: expected a kind from 0 to 3, got 4"):
        compiled.module.roof_bytes(1, 1, 1, 1, 4)


FULL = """
import resource
from tilegrad import backend
module = backend.load("base").module
status = open("/proc/self/status").read()
used = int(status.partition("VmSize:")[2].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26,) * 2)
for call in (lambda: module.roof_flops(64, 3, 100), lambda: module.roof_bytes(1, 1, 1, 2**30, 0)):
    try:
        call()
    except (RuntimeError, MemoryError) as error:
        print(type(error).__name__)
print(module.roof_flops(2, 3, 100) > 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits memory")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="it reserves terabytes")
def test_micro_kernels_end_where_the_system_refuses_threads_or_memory():
    run = subprocess.run(
        [sys.executable, "-c", FULL], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.split() == ["RuntimeError", "MemoryError", "True"]


def test_modules_say_how_they_were_built(compiled):
    info = compiled.module.build_info()
    assert sorted(info) == ["compiler", "flags"] and "-O3" in info["flags"]
    assert ("-mavx512f" in info["flags"]) == (compiled.name == "avx512")
    assert ("-mfma" in info["flags"]) == (compiled.name != "base")


# -- measured --------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_measured_roof(compiled, threads):
    found = roofline.measure(
        compiled.name, threads, sweeps=1, patience=0.0, largest=threads * 100 * KIB
    )
    assert (found.isa, found.threads) == (compiled.name, threads)
    sizes = [size for size, _ in found.curve]
    assert sizes == [threads * n * KIB for n in (16, 32, 64, 128)]
    assert found.flops > 0 and all(rate > 0 for _, rate in found.curve)
    assert found.levels == machine.capacities(threads)
    assert list(found.rates()) == [*found.levels, "memory"]


def test_the_best_of_all_tries_counts(monkeypatch):
    rates = itertools.cycle([5.0, 9.0, 7.0])
    fake = SimpleNamespace(
        roof_flops=lambda threads, rounds, steps: next(rates) * threads,
        roof_bytes=lambda threads, rounds, passes, size, kind: 10.0 + kind,
    )
    monkeypatch.setattr(roofline, "_module", lambda isa: fake)
    monkeypatch.setattr(roofline, "_most", {})
    found = roofline.measure("base", 2, sweeps=2, patience=0.01, largest=64 * KIB)
    assert found.flops == 18.0
    assert found.curve == ((32 * KIB, 13.0), (64 * KIB, 13.0))


def test_probe():
    now = roofline.probe("base", 1)
    assert sorted(now) == ["bytes", "flops"] and min(now.values()) > 0


def test_of_several_looks_the_best_rates_count(monkeypatch):
    looks = [{"flops": 2, "bytes": 2}, {"flops": 3, "bytes": 1}, {"flops": 1, "bytes": 1}]
    asked = []

    def probe(*of):
        asked.append(of)
        return looks[len(asked) - 1]

    monkeypatch.setattr(roofline, "probe", probe)
    speed = roofline.Speed("base", 2)
    speed.look()
    speed.look()
    assert speed.rates == {"flops": 3, "bytes": 2}
    assert asked == [("base", 2)] * 3


@pytest.mark.parametrize("call", [roofline.probe, roofline.measure])
def test_unknown_instruction_set(call):
    with pytest.raises(ValueError, match="isa: expected one of avx512, avx2, base, got 'mmx'"):
        call("mmx", 1)


def test_reached_waits_for_the_best_that_was_seen(monkeypatch):
    rates = [100.0, 84.0, 85.5]

    def roof_flops(threads, rounds, steps):
        return rates.pop(0) if len(rates) > 1 else rates[0]

    monkeypatch.setattr(roofline, "_module", lambda isa: SimpleNamespace(roof_flops=roof_flops))
    monkeypatch.setattr(roofline, "_most", {("base", 2): 90.0})
    assert roofline.reached(2, patience=0.0, isa="base")
    assert roofline._most["base", 2] == 100.0
    assert roofline.reached(2, patience=60.0, isa="base"), "the second look is good enough"
    rates[:] = [84.0]
    assert not roofline.reached(2, patience=0.0, isa="base")


# -- arithmetic ------------------------------------------------------------------------------------


def test_a_larger_working_set_never_gets_an_inner_level_or_a_higher_rate():
    order = [*LEVELS, "memory"]
    sizes = [0, 1, 32 * KIB, 32 * KIB + 1, 100 * KIB, 512 * KIB, MIB, 8 * MIB, 9 * MIB, 10**9]
    places = [order.index(roof().level(size)) for size in sizes]
    assert places == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    rates = [roof().rate(size) for size in sizes]
    assert rates == sorted(rates, reverse=True)


def test_a_rate_is_that_of_the_next_smaller_measured_size():
    assert roof().rate(1000) == 400 * GB
    assert roof().rate(256 * KIB - 1) == 200 * GB, "noise at one size: a larger one did better"
    assert roof().rate(256 * KIB) == 200 * GB
    assert roof().rate(4 * MIB - 1) == 200 * GB
    assert roof().rate(4 * MIB) == 50 * GB
    assert roof().rate(10**12) == 20 * GB


def test_a_cold_working_set_comes_from_memory():
    assert (roof().level(None), roof().rate(None)) == ("memory", 20 * GB)


def test_rates_by_level():
    assert roof().rates() == {"L1": 400 * GB, "L2": 200 * GB, "L3": 50 * GB, "memory": 20 * GB}


@pytest.mark.parametrize(
    ("flops", "nbytes", "working_set", "bound", "seconds"),
    [
        (1e9, 1000, 1000, "flops", 1e-2),
        (1, 16_000, 16_000, "L1", 4e-8),
        (1, 400_000, 400_000, "L2", 2e-6),
        (1e5, 400_000, None, "memory", 2e-5),
        (0, 10**9, 10**9, "memory", 5e-2),
    ],
)
def test_share(flops, nbytes, working_set, bound, seconds):
    roofs = Roofs([roof()])
    result = roofs.share(flops, nbytes, working_set, 1, "avx2", 2 * seconds)
    assert result["bound"] == bound and not result["above"]
    assert result["seconds"] == pytest.approx(seconds)
    assert result["share"] == pytest.approx(0.5)


@pytest.mark.parametrize(("share", "above"), [(1.0, False), (1.04, False), (1.06, True)])
def test_above_the_roof(share, above):
    result = Roofs([roof()]).share(1e9, 1, 1, 1, "avx2", 1e-2 / share)
    assert result["above"] is above


def test_a_library_that_names_no_instruction_set_is_held_against_the_best():
    roofs = Roofs([roof("base", flops=1), roof("avx512", 2, flops=9), roof("avx512", flops=4)])
    assert roofs.get(None, 1).flops == 4
    assert roofs.get(None, 2).flops == 9
    assert roofs.get("base", 1).flops == 1
    assert [(r.isa, r.threads) for r in roofs] == [("avx512", 1), ("avx512", 2), ("base", 1)]


def test_what_was_not_measured():
    roofs = Roofs([roof()])
    with pytest.raises(ValueError, match=r"measured \(avx2 on 1\), got avx2 on 2 threads"):
        roofs.share(1, 1, 1, 2, "avx2", 1.0)
    with pytest.raises(ValueError, match=r"measured \(none\), got any on 1 threads"):
        Roofs().get(None, 1)
    for seconds in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="share: expected seconds above 0"):
            roofs.share(1, 1, 1, 1, "avx2", seconds)


# -- kept ------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """The pairs that `measure` was asked for; it answers at once."""
    pairs = []

    def measure(isa, threads):
        pairs.append((isa, threads))
        return roof(isa, threads)

    monkeypatch.setattr(roofline, "measure", measure)
    return pairs


def test_round_trip_through_the_file(tmp_path):
    path = tmp_path / "deep" / "roofs.json"
    kept = Roofs([roof(), roof("base", 3)])
    roofline.save(kept, path)
    assert list(roofline.load(path)) == list(kept)
    assert list(path.parent.iterdir()) == [path], "nothing else is left there"
    shown = json.loads(path.read_text())["roofs"][0]["bytes"]
    assert shown == roof().rates()


def test_only_what_is_missing_is_measured(tmp_path, measured):
    path = tmp_path / "roofs.json"
    first = roofline.load_or_measure(["base"], [1, 2], path=path)
    assert [(r.isa, r.threads) for r in first] == [("base", 1), ("base", 2)]
    second = roofline.load_or_measure(["avx2", "base"], [2], path=path)
    assert [(r.isa, r.threads) for r in second] == [("avx2", 2), ("base", 2)]
    assert measured == [("base", 1), ("base", 2), ("avx2", 2)]
    assert len(list(roofline.load(path))) == 3, "what nobody asked for is kept"
    roofline.load_or_measure(["base"], [1], again=True, path=path)
    assert measured[3:] == [("base", 1)]


def test_a_roof_is_measured_again_and_the_better_one_kept(tmp_path, monkeypatch):
    path = tmp_path / "roofs.json"
    curve = tuple((size, 60 * GB) for size, _ in CURVE)
    monkeypatch.setattr(roofline, "measure", lambda isa, threads: roof(isa, threads, 120.0, curve))
    before = Roofs([roof("avx2", flops=100.0), roof("base", flops=7.0)])
    roofline.save(Roofs([roof("avx512", 2)]), path)
    after = roofline.measure_again(before, None, 1, path)
    better = tuple((size, max(rate, 60 * GB)) for size, rate in CURVE)
    assert after.get("avx2", 1) == roof("avx2", 1, 120.0, better)
    assert after.get("base", 1).flops == 7.0
    assert roofline.load(path).get("avx2", 1) == after.get("avx2", 1)
    assert ("avx512", 2) in roofline.load(path)
    assert before.get("avx2", 1).flops == 100.0
    lower = roof("avx2", flops=1.0, curve=curve)
    assert roof("avx2").joined(lower).flops == 100 * GB


def test_all_instruction_sets_on_one_core_and_on_all(tmp_path, monkeypatch, measured):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "usable_cores", lambda: 3)
    monkeypatch.setattr(roofline, "supported_isas", lambda: ["avx2", "base"])
    pairs = [("avx2", 1), ("avx2", 3), ("base", 1), ("base", 3)]
    for times in (1, 2):
        assert [(r.isa, r.threads) for r in roofline.measure_all()] == pairs
        assert measured == times * pairs
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    assert roofline.thread_counts() == [1]


def spoil(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("roofs"),
        lambda data: data.update(version=0),
        lambda data: data.update(fingerprint="another"),
        lambda data: data["roofs"][0].update(flops=-1.0),
        lambda data: data["roofs"][0].update(flops=math.nan),
        lambda data: data["roofs"][0].update(isa="mmx"),
        lambda data: data["roofs"][0].update(curve=[]),
        lambda data: data["roofs"][0]["curve"].reverse(),
        lambda data: data["roofs"][0].pop("levels"),
    ],
)
def test_a_damaged_file_is_measured_again(tmp_path, measured, change):
    path = tmp_path / "roofs.json"
    roofline.save(Roofs([roof("base")]), path)
    spoil(path, change)
    assert list(roofline.load(path)) == []
    roofline.load_or_measure(["base"], [1], path=path)
    assert measured == [("base", 1)]
    assert len(list(roofline.load(path))) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"roofs": 3}', "\0"])
def test_a_file_that_is_no_record(tmp_path, text):
    path = tmp_path / "roofs.json"
    path.write_text(text)
    assert list(roofline.load(path)) == []


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path, measured):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "roofs.json"
    assert list(roofline.load_or_measure(["base"], [1], path=path)) == [roof("base")]
    assert measured == [("base", 1)]


def test_another_machine_has_another_file(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = roofline.cache_path()
    assert before.parent == tmp_path / "tilegrad"
    roofline.save(Roofs([roof()]))
    assert list(roofline.load()) == [roof()]
    monkeypatch.setattr(machine, "fingerprint", lambda: "another")
    assert roofline.cache_path() != before
    assert list(roofline.load()) == []


def test_from_json_refuses_what_is_none():
    with pytest.raises(ValueError, match=r"roofs: expected what Roofs\.to_json gives"):
        Roofs.from_json({"rows": []})
    assert list(Roofs.from_json(json.loads(json.dumps(Roofs([roof()]).to_json())))) == [roof()]


# -- checked, shown --------------------------------------------------------------------------------


def test_check_against_a_product():
    pytest.importorskip("torch")
    onednn = TorchOneDnn().absent() is None
    check_of_a_product("PyTorch's mm", *["oneDNN in PyTorch"] * onednn)


def test_check_without_pytorch(monkeypatch):
    pytest.importorskip("threadpoolctl")
    monkeypatch.setitem(sys.modules, "torch", None)
    check_of_a_product("NumPy")


def check_of_a_product(*libraries):
    rows = roofline.check(1, sizes=(17, 31), seconds=0.02)
    assert [(row["size"], row["threads"], row["library"]) for row in rows] == [
        (size, 1, library) for library in libraries for size in (17, 31)
    ]
    for row in rows:
        assert row["product"] > 0 and row["roof"] > 0
        assert row["ratio"] == row["product"] / row["roof"]
    assert rows[0]["roof"] == rows[1]["roof"]
    assert all(library in rendered(roofline.check_table(rows)) for library in libraries)


def test_table():
    text = rendered(roofline.table(Roofs([roof(), roof("base", 2, flops=12.34 * GB)])))
    lines = text.splitlines()
    assert "GFLOP/s" in text and "memory, GB/s" in text
    assert any("avx2" in line and "100.0" in line and "400.0" in line for line in lines)
    assert any("base" in line and "12.3" in line for line in lines)
    assert "Roofs" in rendered(roofline.table(Roofs()))


# -- the machine -----------------------------------------------------------------------------------


@pytest.fixture
def sysfs(tmp_path, monkeypatch):
    """Four cores: L1 and L1i each, L2 in pairs, two sizes; one L3."""
    caches = [
        (1, "Data", "48K", ["0", "1", "2", "3"]),
        (1, "Instruction", "32K", ["0", "1", "2", "3"]),
        (2, "Unified", "2M", ["0-1", "0-1", "2-3", "2-3"]),
        (3, "Unified", "36864K", ["0-3"] * 4),
    ]
    for core, (i, (level, kind, size, shared)) in itertools.product(range(4), enumerate(caches)):
        folder = tmp_path / f"cpu{core}" / "cache" / f"index{i}"
        folder.mkdir(parents=True)
        texts = {"level": level, "type": kind, "size": size, "shared_cpu_list": shared[core]}
        for name, text in texts.items():
            (folder / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CPUS", tmp_path)
    return tmp_path


def test_caches(sysfs):
    assert machine.caches() == (
        machine.Cache("L1", 48 * KIB, 4),
        machine.Cache("L2", 2 * MIB, 2),
        machine.Cache("L3", 36 * MIB, 1),
    )
    assert machine.capacities(1) == {"L1": 48 * KIB, "L2": 2 * MIB, "L3": 36 * MIB}
    assert machine.capacities(3) == {"L1": 144 * KIB, "L2": 4 * MIB, "L3": 36 * MIB}
    assert machine.capacities(99)["L1"] == 192 * KIB
    assert machine.last_level_cache_bytes() == 36 * MIB


def test_caches_that_cannot_be_read(sysfs):
    (sysfs / "cpu0/cache/index3/size").write_text("what?\n")
    (sysfs / "cpu1/cache/index3/level").unlink()
    for core in (2, 3):
        shutil.rmtree(sysfs / f"cpu{core}/cache/index3")
    assert [cache.level for cache in machine.caches()] == ["L1", "L2"]


def nothing_to_read(monkeypatch, tmp_path):
    """No /proc, no /sys, no git, no nvidia-smi, no sysctl, no scheduler's affinity."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(machine, "CPUS", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)


def test_without_sysfs_the_sizes_are_guessed(monkeypatch, tmp_path):
    nothing_to_read(monkeypatch, tmp_path)
    assert machine.caches() == ()
    assert list(machine.capacities(2)) == ["L1", "L2", "L3"]
    assert machine.capacities(2)["L1"] == 64 * KIB
    assert machine.last_level_cache_bytes() >= 32 * MIB


FIELDS = {
    "fingerprint",
    "date",
    "tilegrad",
    "commit",
    "dirty",
    "isa",
    "isas",
    "compiler",
    "flags",
    "cpu",
    "cores",
    "caches",
    "clocks",
    "virtual",
    "memory",
    "gpu",
    "os",
    "kernel",
    "python",
    "packages",
    "allocator",
}


def test_describe():
    described = machine.describe()
    assert set(described) == FIELDS
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["fingerprint"] == machine.fingerprint()
    assert described["isa"] in described["isas"] and described["cores"] >= 1
    assert "-O3" in described["flags"] and described["compiler"]
    assert described["packages"]["numpy"]


def test_describe_where_nothing_can_be_read(monkeypatch, tmp_path):
    nothing_to_read(monkeypatch, tmp_path)
    monkeypatch.setattr(
        machine.backend, "supported", lambda: dict.fromkeys((*machine.backend.ISAS, "cuda"), "no")
    )
    described = machine.describe()
    assert set(described) == FIELDS
    assert json.dumps(described, allow_nan=False)
    for name in ("commit", "dirty", "virtual", "memory", "gpu"):
        assert described[name] is None
    assert described["caches"] == []
    assert described["clocks"] == {"now": None, "most": None, "governor": None}
    assert described["cpu"] and described["cores"] >= 1


def test_describe_without_compiled_kernels(monkeypatch):
    def get(device):
        raise RuntimeError("device cpu: not built")

    monkeypatch.setattr(machine.backend, "get", get)
    described = machine.describe()
    assert (described["isa"], described["compiler"], described["flags"]) == (None, None, None)


CPUINFO = """\
processor\t: 0
model name\t: Some CPU @ 3.0GHz
cpu MHz\t\t: 2100.5
flags\t\t: fpu sse2 avx2 fma hypervisor

processor\t: 1
model name\t: Some CPU @ 3.0GHz
cpu MHz\t\t: 2900.25
flags\t\t: fpu sse2 avx2 fma hypervisor
"""


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch, sysfs):
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    monkeypatch.setattr(machine, "CPUINFO", path)
    return path


def test_describe_reads_cpu_clocks_and_governor(cpuinfo, sysfs):
    frequency = sysfs / "cpu0" / "cpufreq"
    frequency.mkdir()
    (frequency / "cpuinfo_max_freq").write_text("3700000\n")
    (frequency / "scaling_governor").write_text("performance\n")
    described = machine.describe()
    assert described["cpu"] == "Some CPU @ 3.0GHz" and described["virtual"] is True
    assert described["clocks"] == {"now": 2900.25, "most": 3700.0, "governor": "performance"}
    assert described["caches"][1] == {"level": "L2", "bytes": 2 * MIB, "instances": 2}


def test_fingerprint(cpuinfo, sysfs, monkeypatch):
    before = machine.fingerprint()
    assert before.startswith("some-cpu-3-0ghz-") and before == machine.fingerprint()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert machine.fingerprint() == before, "a child bound to one core reads the same file"
    cpuinfo.write_text(CPUINFO.replace("2100.5", "1400.0"))
    assert machine.fingerprint() == before, "the clock of the moment is no part of it"
    seen = {before}
    for old, new in [("avx2", "avx512f"), ("Some", "Other")]:
        cpuinfo.write_text(CPUINFO.replace(old, new))
        seen.add(machine.fingerprint())
    cpuinfo.write_text(CPUINFO)
    for folder in sysfs.glob("cpu*/cache/index3"):
        (folder / "size").write_text("16384K\n")
    seen.add(machine.fingerprint())
    monkeypatch.setattr(os, "cpu_count", lambda: 77)
    seen.add(machine.fingerprint())
    assert len(seen) == 5


def git(folder, *arguments):
    names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    run = subprocess.run(
        ["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(machine, "PACKAGE", package)
    assert machine._commit() == {"commit": None, "dirty": None}

    (package / "__init__.py").write_text("one\n")
    git(tmp_path, "init", "--quiet")
    assert machine._commit() == {"commit": None, "dirty": None}, "installed into a work tree"

    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--no-verify", "--message", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert machine._commit() == {"commit": commit, "dirty": False}
    (tmp_path / "new").write_text("")
    assert not machine._commit()["dirty"], "a file that git does not know"
    (package / "__init__.py").write_text("two\n")
    assert machine._commit() == {"commit": commit, "dirty": True}

    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._commit() == {"commit": None, "dirty": None}


@pytest.mark.parametrize(
    ("text", "gpu"),
    [
        ("Big GPU, 570.1, 81559\n", {"name": "Big GPU", "driver": "570.1", "memory": 81559 * MIB}),
        ("One, 1, [N/A]\nTwo, 2, 7", {"name": "One", "driver": "1", "memory": None}),
        ("No devices were found", None),
        (None, None),
    ],
)
def test_gpu(monkeypatch, text, gpu):
    monkeypatch.setattr(machine, "_output", lambda *command: text)
    monkeypatch.setattr(machine.backend, "supported", lambda: {"cuda": "no GPU"})
    assert machine._gpu() == gpu


def test_gpu_of_the_backend(monkeypatch):
    info = {"name": "Big GPU", "driver": 12080, "memory_bytes": 7, "l2_bytes": 1}
    module = SimpleNamespace(device_info=lambda: info)
    monkeypatch.setattr(machine, "_output", lambda *command: None)
    monkeypatch.setattr(machine.backend, "supported", lambda: {"cuda": None})
    monkeypatch.setattr(machine.backend, "load", lambda name: SimpleNamespace(module=module))
    assert machine._gpu() == {"name": "Big GPU", "driver": "12080", "memory": 7}


def test_allocator():
    described = machine.describe({**machine.KEEP, "LD_PRELOAD": "/lib/libother.so"})
    assert described["allocator"].endswith("keeps freed memory, LD_PRELOAD=/lib/libother.so")
    assert "keeps" not in machine.describe({})["allocator"]


def test_versions():
    assert machine.version("numpy") and machine.version("no-such-package-of-ours") is None
