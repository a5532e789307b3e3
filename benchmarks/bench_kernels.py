"""tilegrad's kernels, each proved before and after pytest-benchmark times it.

    python -m pytest benchmarks --suite quick --benchmark-autosave
    python -m pytest benchmarks -k conv2d --benchmark-compare

Beside its peers, on several numbers of threads, with cold caches and against the roof: that is
``tilegrad bench``.
"""

from tilegrad import backend
from tilegrad.bench.libraries.tilegrad_ import Tilegrad
from tilegrad.bench.proof import check_strength, prove
from tilegrad.bench.workload import Truth


def bench_kernel(benchmark, workload):
    truths = [Truth(workload, seed) for seed in (0, 1)]
    check_strength(truths)
    ours = Tilegrad(backend.get("cpu").name)
    (way,) = ours.ways(workload)
    instance = ours.bind(workload, way)
    prove(instance, ours.label, truths[0])
    benchmark.group = workload.name
    benchmark(instance.call)
    prove(instance, ours.label, truths[1])
