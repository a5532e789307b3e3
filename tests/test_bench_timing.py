"""The benchmarks' proof and timing, apart from attacks: what is said, counted and decided."""

import itertools
import math
import sys
import time
import types

import numpy as np
import pytest
from bench_fakes import DENSE, Fresh, Honest, Largest, Step, Unlisted, bound, two_truths

from tilegrad.bench import timing
from tilegrad.bench.proof import (
    NotProvedError,
    WeakProofError,
    check_strength,
    compare,
    disturbed,
    prove,
    shares,
)
from tilegrad.bench.timing import (
    CudaClock,
    Flush,
    HostClock,
    Part,
    Reading,
    Samples,
    clock_of,
    measure,
    paired,
    turn,
)
from tilegrad.bench.workload import Truth

# --- comparing ------------------------------------------------------------------------------------


def test_a_share_is_the_error_over_its_bound():
    a = np.array([1.5, 3, 3, np.nan, np.inf], np.float32)
    right, bound_ = np.array([1, 3, 2, 0, 0.0]), np.array([2, 0, 0, 1, 1.0])
    got = shares(a, right, bound_)
    assert got[:2].tolist() == [0.25, 0]
    assert got[2] > 1 and np.isnan(got[3]) and got[4] == np.inf


def test_the_worst_element_is_named():
    truth = Truth(DENSE, 0)
    y = truth.outputs[0].astype(np.float32)
    assert 0 < compare("suspect", [y], truth) < 1
    y[2, 3] += 0.25
    y[5, 7] += 0.5
    with pytest.raises(NotProvedError) as error:
        compare("suspect", [y], truth)
    expected, got = truth.outputs[0][5, 7], y[5, 7]
    assert str(error.value) == (
        f"suspect: output y[5, 7]: expected {expected:.9g}, got {got:.9g}: off by "
        f"{got - expected:.3g}, allowed {truth.bounds[0][5, 7]:.3g}"
    )


def test_integers_must_be_equal_and_may_be_of_any_width():
    truth = Truth(Largest(), 0)
    y, index = truth.outputs[0].astype(np.float32), truth.outputs[1]
    for dtype in (np.uint8, np.int64):
        assert compare("suspect", [y, index.astype(dtype)], truth) <= 1
    with pytest.raises(NotProvedError, match="output index: expected uint8, got float32"):
        compare("suspect", [y, index.astype(np.float32)], truth)
    index = index.copy()
    index[4] += 1
    with pytest.raises(NotProvedError, match=r"output index\[4\]: .* off by 1, allowed 0"):
        compare("suspect", [y, index], truth)


def test_an_absent_output_is_allowed_beside_another():
    class ValuesOnly(Fresh):
        def call(self):
            return [super().call()[0], None]

    assert prove(ValuesOnly(Largest()), "suspect", Truth(Largest(), 0)) <= 1


def test_disturbed_inputs_differ_in_floats_only_and_keep_signs():
    rng = np.random.default_rng(0)
    inputs = {
        "large": rng.standard_normal((129, 31), dtype=np.float32),
        "small": rng.standard_normal(7, dtype=np.float32),
        "one": np.float32(3).reshape(()),
        "index": np.arange(7),
    }
    before = {name: a.copy() for name, a in inputs.items()}
    changed = disturbed(inputs)
    for name, a in inputs.items():
        np.testing.assert_array_equal(a, before[name])
        assert changed[name].shape == a.shape and changed[name].dtype == a.dtype
        np.testing.assert_array_equal(np.sign(changed[name]), np.sign(a))
    counts = {name: int((changed[name] != a).sum()) for name, a in inputs.items()}
    assert counts["large"] in (129 * 31 // 8, 129 * 31 // 8 + 1)
    assert (counts["small"], counts["one"], counts["index"]) == (7, 1, 0)


def test_calls_in_place_are_counted():
    assert prove(Honest(Step()), "honest", Truth(Step(), 0, calls=3)) <= 1


# --- what the proof is worth ----------------------------------------------------------------------


@pytest.mark.parametrize("workload", [DENSE, Largest(), Step()], ids=str)
@pytest.mark.parametrize("calls", [1, 3])
def test_strong_proofs_are_accepted(workload, calls):
    check_strength(two_truths(workload, calls))


class Weak(Unlisted):
    """y = function(x) for 35 random numbers x."""

    def __init__(self, function, loose=0.0):
        self.function, self.loose = function, loose
        super().__init__()

    def prepare(self):
        self.shapes = {"y": self.function(np.ones((5, 7))).shape}

    def inputs(self, rng):
        return {"x": rng.standard_normal((5, 7), dtype=np.float32)}

    def exact(self, x):
        return [self.function(x)]

    def magnitude(self, exact, x):
        return [abs(exact[0]) + self.loose]


@pytest.mark.parametrize(
    "function, impostor",
    [
        (lambda x: 0 * x + 1e-40, "zeros as output y"),
        (lambda x: 0 * x + 1, "the output from another seed as output y"),
        (lambda x: np.full((5, 7), x[0, 0]), "a constant as output y"),
        (lambda x: x.mean() + np.pad(x[:1], ((2, 2), (0, 0))) ** 2 * 1e-9, "a constant"),
        (lambda x: np.sin(np.pi * np.arange(70) / 35 + 9 * x[0, 0]), "rolled by one"),
        (lambda x: x + x[::-1, ::-1], "reversed"),
        (lambda x: np.round(x) + x.sum() / 9999 // 1, "half precision"),
    ],
)
def test_a_truth_that_an_impostor_passes_is_refused(function, impostor):
    loose = {"zeros as output y": 1.0, "rolled by one": 2e5}.get(impostor, 0.0)
    with pytest.raises(WeakProofError, match=f"^Weak: .*{impostor}.* would pass"):
        check_strength(two_truths(Weak(function, loose)))


@pytest.mark.parametrize(
    "function, loose, complaint",
    [
        (lambda x: x + np.inf, 0, "not finite"),
        (lambda x: x * np.nan, 0, "not finite"),
        (lambda x: x, np.inf, "not finite"),
        (lambda x: 0 * x, 0, "all bounds are zero"),
    ],
)
def test_a_truth_without_numbers_is_refused(function, loose, complaint):
    with pytest.raises(WeakProofError, match=f"Weak: output y: .*{complaint}"):
        check_strength(two_truths(Weak(function, loose)))


def test_a_truth_that_refuses_what_is_right_is_refused():
    class Strict(Weak):
        def magnitude(self, exact, x):
            return [1e-9 * abs(exact[0])]

    with pytest.raises(WeakProofError, match=r"^Strict: the right outputs would be refused"):
        check_strength(two_truths(Strict(lambda x: x + 1 / 3)))


def test_an_update_too_small_to_see_is_refused():
    class Standstill(Step):
        def exact(self, w, g):
            return [w - 1e-9 * g]

    with pytest.raises(WeakProofError, match="Standstill: one call too few would pass"):
        check_strength(two_truths(Standstill()))


def test_one_seed_is_not_enough():
    with pytest.raises(ValueError, match="two seeds"):
        check_strength([Truth(DENSE, 0)] * 2)
    with pytest.raises(ValueError, match="different seeds"):
        measure([], [Truth(DENSE, 0)] * 2, budget_s=0)


# --- samples --------------------------------------------------------------------------------------


def test_samples_are_summed_up():
    samples = Samples([float(i) for i in (3, 1, 2, *range(4, 21))])
    assert samples.summary() == {
        "n": 20,
        "min": 1,
        "median": 10.5,
        "p95": 19,
        "noise": (16 - 5) / 2 / 10.5,  # ranks 10 - 4.38 and 11 + 4.38, rounded outwards
    }
    assert Samples([1.0]).noise == math.inf
    assert Samples([1.0, 3.0]).noise == 0.5
    with pytest.raises(ValueError, match="at least one"):
        Samples([])


def test_the_interval_holds_the_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        samples = Samples((1 + rng.exponential(size=25)).tolist())
        ordered = sorted(samples.seconds)
        low, high = ordered[7 - 1], ordered[19 - 1]  # 12.5 - 4.9 and 13.5 + 4.9, outwards
        assert samples.noise == pytest.approx((high - low) / 2 / samples.median)
        held += low <= 1 + math.log(2) <= high
    assert 0.95 <= held / 1000 <= 0.99


def test_ratios_are_paired():
    ratios = paired(Samples([2.0, 30.0, 8.0]), Samples([1.0, 10.0, 2.0]))
    assert list(ratios.seconds) == [2, 3, 4]
    with pytest.raises(ValueError, match="zip"):
        paired(Samples([1.0]), Samples([1.0, 2.0]))


# --- rounds ---------------------------------------------------------------------------------------


class Script(HostClock):
    """Says what it is told, the last thing for ever."""

    def __init__(self, *seconds):
        self.left = itertools.chain(seconds, itertools.repeat(seconds[-1]))
        self.stops = 0

    def stop(self):
        self.stops += 1
        return Reading(next(self.left), (), math.inf)


def test_rounds_end_when_all_medians_are_known():
    # One reading finds how many calls make a turn; then two of five rounds are off.
    clock = Script(1.0, 1.0, 2.0, 1.0, 2.0, 1.0, 1.0)
    result = measure([bound(Honest)], two_truths(DENSE), budget_s=600, clock=clock)["suspect"]
    expected = next(n for n in range(5, 99) if Samples([2.0, 2.0] + [1.0] * (n - 2)).noise == 0)
    assert result.warm.n == expected > 5
    assert result.calls == 1


def test_rounds_end_when_all_ratios_are_known():
    # Each is off by 0.9% in every other round, never in the same one, for 18 rounds.
    ours, theirs = [1.0, 1.009] * 9, [1.009, 1.0] * 9
    assert Samples(ours).noise < 0.005 < paired(Samples(theirs), Samples(ours)).noise
    rounds = itertools.chain.from_iterable(zip(ours, theirs, strict=True))
    contenders = [bound(Honest, name="ours"), bound(Honest, name="theirs")]
    results = measure(
        contenders,
        two_truths(DENSE),
        budget_s=600,
        noise=0.005,
        clock=Script(1.0, 1.0, *rounds, 1.0),
    )
    assert results["ours"].warm.n == results["theirs"].warm.n > 18


def test_rounds_end_with_the_budget_but_not_before_five():
    clock = Script(1.0, *np.random.default_rng(0).uniform(1, 2, 9999))
    result = measure([bound(Honest)], two_truths(DENSE), budget_s=0, clock=clock)["suspect"]
    assert result.warm.n == timing.ROUNDS
    assert result.cold is None


def test_a_cold_sample_is_a_median_of_flushed_calls():
    flushes = []
    clock = Script(1.0, *[5.0, 3.0, 9.0, 4.0] * timing.ROUNDS)
    result = measure(
        [bound(Honest)],
        two_truths(DENSE),
        budget_s=0,
        clock=clock,
        flush=lambda: flushes.append(clock.stops),
    )["suspect"]
    assert list(result.warm.seconds) == [5.0] * timing.ROUNDS
    assert list(result.cold.seconds) == [4.0] * timing.ROUNDS
    assert len(flushes) == 3 * timing.ROUNDS


class Recording(Honest):
    """Logs who is called, and with which inputs."""

    log: list

    def call(self):
        self.log.append((id(self), self.inputs["x"].tobytes()))
        super().call()


def test_contenders_take_turns_and_sets_swap_inputs():
    log = Recording.log = []
    contenders, truths = [bound(Recording, name=name) for name in "ab"], two_truths(DENSE)
    clock = Script(0.004)  # so that three calls make a turn
    measure(contenders, truths, budget_s=0, rounds=3, clock=clock, flush=lambda: None)
    names = {id(instance): c.name + str(i) for c in contenders for i, instance in enumerate(c.sets)}
    known = {t.inputs["x"].tobytes(): f":{t.seed}" for t in truths}
    # "a0:1" is contender a's first set of memory with the inputs of seed 1. Disturbed inputs have
    # no seed; they are those of a proof's second half, and of the second set as a turn begins.
    calls = [names[who] + known[x] for who, x in log if x in known]
    proofs = ["a0:0", "a0:1", "a1:0", "a1:1", *["a0:0"] * 3]
    before = [["a0:0"], ["a0:0"], []]  # untimed calls, on inputs that are not disturbed yet
    warm = [["a0:0"] * 2 + ["a1:1"], ["a1:0"] * 2 + ["a0:1"], ["a0:0"] * 2 + ["a1:1"]]
    cold = [["a1:1", "a1:0", "a1:1"], ["a1:0", "a1:1", "a1:0"], ["a1:1", "a1:0", "a1:1"]]
    expected = [*proofs, "then b"]
    for i in range(3):
        expected += [*before[i], *warm[i], "then b", *cold[i], "then b"]
    assert calls == list(both(expected))


def both(steps):
    """The steps of contender a; at each "then b", those since the last one again, of b."""
    since = []
    for step in steps:
        if step == "then b":
            yield from (s.replace("a", "b") for s in since)
            since = []
        else:
            since.append(step)
            yield step


def test_who_fails_takes_no_further_turn_and_the_others_go_on():
    class Breaks(Honest):
        calls = 0

        def call(self):
            self.calls += 1
            if self.calls > 4:
                raise RuntimeError("out of memory")
            super().call()

    contenders = [bound(Breaks, name="theirs"), bound(Honest, name="ours")]
    results = measure(contenders, two_truths(DENSE), budget_s=0, clock=Script(1.0))
    assert results["theirs"].status == "failed"
    assert results["theirs"].reason == "RuntimeError: out of memory"
    assert results["theirs"].warm is None
    assert results["ours"].status == "ok" and results["ours"].warm.n == timing.ROUNDS


def test_nobody_left_ends_the_rounds():
    class Broken(Honest):
        def call(self):
            raise RuntimeError("never works")

    results = measure([bound(Broken)], two_truths(DENSE), budget_s=600)
    assert results["suspect"].status == "failed"


@pytest.mark.parametrize("bad", [0, 1, 3, 99])
def test_turns_that_the_machine_disturbs_are_taken_again(bad):
    answers = itertools.chain([False, True] * bad, itertools.repeat(True))
    clock = Script(*range(1, 99))
    part = Part(Honest(DENSE), Truth(DENSE, 0), 1)
    seconds, _ = turn("honest", [part], clock, lambda: next(answers))
    assert seconds == clock.stops == min(1 + bad, timing.ATTEMPTS)


def test_the_truth_of_a_workload_in_place_must_tell_calls_apart():
    class Settles(Step):
        """Moves once, and then no more."""

        def exact(self, w, g):
            return [2 * g]

    clock = Script(0.0001)
    with pytest.raises(WeakProofError, match="one call too few"):
        measure([bound(Honest, Settles())], two_truths(Settles()), budget_s=0, clock=clock)


# --- clocks ---------------------------------------------------------------------------------------


def test_the_host_clock_counts_time_and_work():
    clock = HostClock()
    clock.start()
    time.sleep(0.02)
    slept = clock.stop()
    clock.start()
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        continue
    worked = clock.stop()
    assert slept.seconds >= 0.02
    assert slept.others[0] >= slept.seconds * 0.999
    assert worked.busy >= 0.02


class FakeDevice:
    """A GPU whose side streams work for `pending` seconds, and who waits for them."""

    def __init__(self):
        self.log, self.pending = [], 0.0
        device = self

        class Event:
            def record(self):
                device.log.append("record")
                self.time = time.perf_counter()

            def synchronize(self):
                device.log.append("event")

        self.cupy = types.SimpleNamespace(
            cuda=types.SimpleNamespace(
                Device=lambda: device,
                Event=Event,
                get_elapsed_time=lambda first, last: 1e3 * (last.time - first.time),
            ),
            zeros=np.zeros,
        )
        self.attributes = {"L2CacheSize": 4096}

    def synchronize(self):
        self.log.append("device")
        time.sleep(self.pending)
        self.pending = 0.0


@pytest.fixture
def device(monkeypatch):
    device = FakeDevice()
    monkeypatch.setitem(sys.modules, "cupy", device.cupy)
    return device


def test_the_cuda_clock_waits_for_all_streams(device):
    clock = clock_of("cuda")
    assert isinstance(clock, CudaClock)
    device.pending = 0.05
    clock.start()  # waits for work of the contender before
    assert device.log == ["device", "record"]
    device.pending = 0.02  # as launched on a side stream that no event is recorded on
    reading = clock.stop()
    assert device.log[2:] == ["device", "record", "event"]
    assert reading.seconds >= 0.02
    wall, raw = reading.others
    assert min(wall, raw) >= reading.seconds - 1e-3
    assert reading.busy == math.inf


def test_a_cuda_turn_counts_work_on_a_side_stream(device):
    class SideStream(Honest):
        def call(self):
            super().call()
            device.pending += 0.01

    parts = [Part(SideStream(DENSE), Truth(DENSE, 0), 3)]
    seconds, _ = turn("suspect", parts, clock_of("cuda"), timing.always)
    assert seconds >= 0.01


@pytest.mark.parametrize("name", ["cpu", "sim"])
def test_the_host_has_the_host_clock(name):
    assert type(clock_of(name)) is HostClock


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_flushing_writes_to_all_of_its_memory(device, name):
    flush = Flush(name, nbytes=4 * 1001)
    for _ in range(2):
        flush()
    parts = np.concatenate(flush._parts)
    assert parts.shape == (1001,) and (parts == 2).all()


def test_a_flush_is_twice_the_last_cache(device, monkeypatch):
    monkeypatch.setattr(timing, "last_level_cache_bytes", lambda: 1000)
    assert sum(part.nbytes for part in Flush("cpu")._parts) == 2000
    assert sum(part.nbytes for part in Flush("cuda")._parts) == 2 * 4096
