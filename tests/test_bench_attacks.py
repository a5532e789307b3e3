"""Attacks on the benchmarks: whoever does not compute what he is timed for must be refused."""

import concurrent.futures
import functools
import math
import threading
import time

import numpy as np
import pytest
from bench_fakes import DENSE, Copy, Fresh, Honest, Immutable, Largest, Step, bound, two_truths

from tilegrad.bench import timing
from tilegrad.bench.proof import NotProvedError, prove
from tilegrad.bench.timing import HostClock, Part, Reading, TamperedError, measure

TRUTHS = {workload: two_truths(workload) for workload in (DENSE, Copy(), Step(), Largest())}
COPY, STEP, LARGEST = list(TRUTHS)[1:]


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(timing, "TURN", 0.002)
    monkeypatch.setattr(timing, "AWAKE", 0.0)


def outcome(contender, workload=DENSE, budget_s=20.0, **options):
    """`measure` until the contender is refused, or the budget ends."""
    options = {"budget_s": budget_s, "noise": 0.0} | options
    return measure([contender], TRUTHS[workload], **options)[contender.name]


def refused(contender, workload=DENSE, **options):
    """Why it was refused, which it must be."""
    result = outcome(contender, workload, **options)
    assert result.status == "refused", result
    assert result.reason.startswith(contender.name)
    assert result.warm is None
    return result.reason


# --- who is honest passes -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Honest, Fresh, Immutable])
@pytest.mark.parametrize("workload", [DENSE, COPY], ids=str)
def test_honest_contenders_are_timed(kind, workload):
    result = outcome(bound(kind, workload), workload, noise=math.inf, flush=lambda: None)
    assert result.status == "ok", result.reason
    assert 0 <= result.error <= 1
    assert result.warm.n == result.cold.n == timing.ROUNDS
    assert result.warm.min > 0


@pytest.mark.parametrize("workload", [STEP, LARGEST], ids=str)
def test_honest_contenders_are_timed_in_place_and_with_integers(workload):
    result = outcome(bound(Honest, workload), workload, noise=math.inf)
    assert result.status == "ok", result.reason
    assert result.calls <= timing.CALLS_IN_PLACE or workload is LARGEST


# --- wrong results --------------------------------------------------------------------------------


def zeros(y, right, self):
    y[...] = 0


def constant(y, right, self):
    y[...] = right.mean()


def nan_somewhere(y, right, self):
    y[...] = right
    y[3, 4] = np.nan


def nothing(y, right, self):
    """Leaves an earlier output where it is."""


def half_of_it(y, right, self):
    y[:8] = right[:8]


def one_element_off(y, right, self):
    y[...] = right
    y[-1, -1] += 1e-3


def half_precision(y, right, self):
    x, w, b = (a.astype(np.float16) for a in self.inputs.values())
    y[...] = np.maximum(x @ w + b, 0)


def accumulates(y, right, self):
    y += right


def changes_an_input(y, right, self):
    y[...] = right
    self.inputs["x"][0, 0] += 1


def changes_one_bit_of_an_input(y, right, self):
    y[...] = right
    self.inputs["b"][0] = np.nextafter(self.inputs["b"][0], np.float32(9))


WRONG = [
    zeros,
    constant,
    nan_somewhere,
    nothing,
    half_of_it,
    one_element_off,
    half_precision,
    accumulates,
    changes_an_input,
    changes_one_bit_of_an_input,
]


class Wrong(Honest):
    """Honest for some calls, then `cheat`."""

    def __init__(self, workload, cheat, honest_calls=0):
        super().__init__(workload)
        self.cheat, self.left = cheat, honest_calls

    def call(self):
        self.left -= 1
        if self.left >= 0:
            super().call()
        else:
            self.cheat(self.outputs[0], self.computed()[0], self)


@pytest.mark.parametrize("cheat", WRONG)
def test_wrong_results_are_not_proved(cheat):
    with pytest.raises(NotProvedError, match=r"^suspect: (output y\[|changed its input [xb])"):
        prove(Wrong(DENSE, cheat), "suspect", TRUTHS[DENSE][0])


@pytest.mark.parametrize("honest_calls", [1, 7, 500])
@pytest.mark.parametrize("cheat", [zeros, nothing, one_element_off, changes_an_input])
def test_honest_for_some_calls_and_then_not(cheat, honest_calls):
    refused(bound(functools.partial(Wrong, cheat=cheat, honest_calls=honest_calls)))


def test_outputs_are_poisoned_in_each_turn():
    """Nothing to do, as it seems: the right outputs stand there already."""
    idle, truth = Wrong(DENSE, nothing), TRUTHS[DENSE][0]
    idle.outputs[0][...] = truth.outputs[0]
    with pytest.raises(NotProvedError, match=r"suspect: output y\[0, 0\]: .* got nan"):
        timing.turn("suspect", [Part(idle, truth, 1)], HostClock(), timing.always)


def test_the_output_of_an_earlier_call_is_refused():
    class Stale(Fresh):
        """Computes, and returns what it computed the time before."""

        before = None

        def call(self):
            now, self.before = self.before or super().call(), super().call()
            return now

    refused(bound(Stale))


def test_right_numbers_of_another_dtype_are_refused():
    class Narrow(Fresh):
        def call(self):
            return [np.float16(a) for a in super().call()]

    class Wide(Fresh):
        def call(self):
            return [np.float64(a) for a in super().call()]

    assert "expected float32, got float16" in refused(bound(Narrow))
    assert "expected float32, got float64" in refused(bound(Wide))


def test_inputs_kept_in_half_precision_are_refused():
    class Halved(Fresh):
        """Would be right, of inputs that half precision holds."""

        def held(self):
            return {name: np.float16(a) for name, a in self.inputs.items()}

    assert "changed its input x" in refused(bound(Halved))


def test_another_shape_or_number_of_outputs_is_refused():
    class Flat(Fresh):
        def call(self):
            return [a.ravel() for a in super().call()]

    class Twice(Fresh):
        def call(self):
            return super().call() * 2

    class Absent(Fresh):
        def call(self):
            return [None]

    assert "expected shape (17, 9), got (153,)" in refused(bound(Flat))
    assert "expected outputs y, got 2 arrays" in refused(bound(Twice))
    assert "expected outputs y, got 0 arrays" in refused(bound(Absent))


def test_an_output_that_is_the_input_is_refused():
    class View(Fresh):
        def call(self):
            return [self.inputs["x"][:]]

    assert "output y is memory of its input x" in refused(bound(View, COPY), COPY)


# --- remembered results ---------------------------------------------------------------------------


class Remembers(Honest):
    """Copies what it computed before, if its inputs look as they did to `key`."""

    def __init__(self, workload, key):
        super().__init__(workload)
        self.key, self.known = key, {}

    def call(self):
        key = self.key(self.inputs["x"])
        if key not in self.known:
            self.known[key] = self.computed()[0]
        self.outputs[0][...] = self.known[key]


def address(x):
    return x.ctypes.data


def address_and_a_look(x):
    return x.ctypes.data, x[0, 0].item(), x[-1, -1].item()


def everything(x):
    return x.tobytes()


@pytest.mark.parametrize("key", [address, address_and_a_look])
def test_results_remembered_by_address_are_refused(key):
    refused(bound(functools.partial(Remembers, key=key)))


def test_proofs_and_turns_both_find_out_who_remembers():
    truth = TRUTHS[DENSE][0]
    with pytest.raises(NotProvedError, match="it remembers them"):
        prove(Remembers(DENSE, address), "suspect", truth)
    with pytest.raises(NotProvedError, match="it remembers them"):
        part = Part(Remembers(DENSE, address), truth, 3)
        timing.turn("suspect", [part], HostClock(), timing.always)
    prove(Remembers(DENSE, everything), "suspect", truth)  # which pays for reading its inputs


def test_swapped_inputs_alone_find_out_who_remembers_by_address(monkeypatch):
    monkeypatch.setattr(timing, "probe", lambda *args: None)
    monkeypatch.setattr(timing, "prove", lambda *args: 0.0)
    assert "output y[" in refused(bound(functools.partial(Remembers, key=address)))


def test_who_computes_only_where_it_sees_poison_is_refused():
    class Looks(Honest):
        def call(self):
            if np.isnan(self.outputs[0][0, 0]):
                super().call()

    assert "remembers" in refused(bound(Looks))


# --- in place -------------------------------------------------------------------------------------


def test_an_update_that_does_nothing_is_refused():
    class Idle(Honest):
        def call(self):
            """Leaves w as it is."""

    refused(bound(Idle, STEP), STEP)


def test_an_update_that_happens_once_only_is_refused():
    class Once(Honest):
        done = False

        def load(self, inputs):
            super().load(inputs)
            self.done = False

        def call(self):
            if not self.done:
                super().call()
            self.done = True

    prove(Once(STEP), "suspect", TRUTHS[STEP][0])
    refused(bound(Once, STEP), STEP)


# --- time -----------------------------------------------------------------------------------------


def test_a_peer_that_sleeps_is_refused_and_the_others_go_on():
    class Sleeps(Honest):
        def call(self):
            super().call()
            time.sleep(0.02)

    contenders = [bound(Honest, name="ours"), bound(Sleeps)]
    results = measure(contenders, TRUTHS[DENSE], budget_s=0, noise=math.inf)
    assert results["suspect"].status == "refused"
    assert "slept: computed" in results["suspect"].reason
    assert results["ours"].status == "ok"


class Background(Honest):
    """Returns at once, and computes in another thread, a while later."""

    def __init__(self, workload, submit, honest_calls=0):
        super().__init__(workload)
        self.submit, self.left = submit, honest_calls

    def call(self):
        self.left -= 1
        if self.left >= 0:
            super().call()
        else:
            self.submit(self.later)

    def later(self):
        time.sleep(0.05)
        super().call()


@pytest.mark.parametrize("honest_calls", [0, 8])
def test_threads_that_go_on_after_the_call_are_refused(honest_calls):
    threads = []

    def start(work):
        threads.append(threading.Thread(target=work))
        threads[-1].start()

    refused(bound(functools.partial(Background, submit=start, honest_calls=honest_calls)))
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("honest_calls", [0, 8])
def test_queued_work_is_refused(honest_calls):
    queue = concurrent.futures.ThreadPoolExecutor(1)
    refused(bound(functools.partial(Background, submit=queue.submit, honest_calls=honest_calls)))
    queue.shutdown(cancel_futures=True)


def test_results_that_are_computed_when_they_are_read_are_refused(monkeypatch):
    class Lazy(Fresh):
        def call(self):
            return functools.cache(super().call)

        def results(self, returned):
            if not returned.cache_info().currsize:
                time.sleep(0.1)
            return returned()

    class Quick(HostClock):
        """A turn takes a millisecond, however busy the machine."""

        def stop(self):
            return Reading(0.001, (), math.inf)

    monkeypatch.setattr(timing, "ATTEMPTS", 2)
    prove(Lazy(DENSE), "suspect", TRUTHS[DENSE][0])
    assert "after the clock had stopped" in refused(bound(Lazy), clock=Quick())


# --- the timer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module, name",
    [
        (time, "perf_counter"),
        (time, "clock_gettime"),
        (timing, "_perf_counter"),
        (timing, "_clock_gettime"),
        (timing, "time"),
    ],
)
def test_a_patched_timer_stops_everything(monkeypatch, module, name):
    class Patches(Honest):
        def call(self):
            super().call()
            monkeypatch.setattr(module, name, lambda *clock: 1.0)

    with pytest.raises(TamperedError, match=r"^suspect: .* was replaced"):
        measure([bound(Honest, name="ours"), bound(Patches)], TRUTHS[DENSE], budget_s=0)


def test_a_clock_looks_for_a_patched_timer_when_it_stops(monkeypatch):
    clock = HostClock()
    clock.start()
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)
    with pytest.raises(TamperedError, match=r"time\.perf_counter was replaced"):
        clock.stop()


def test_another_timer_of_the_module_is_no_substitute(monkeypatch):
    monkeypatch.setattr(timing, "_perf_counter", time.process_time)
    with pytest.raises(TamperedError, match="was replaced"):
        HostClock().start()


def test_a_patched_clock_stops_everything():
    class Halved(HostClock):
        def stop(self):
            reading = super().stop()
            return Reading(reading.seconds / 2, reading.others, reading.busy)

    with pytest.raises(TamperedError, match="one clock says"):
        measure([bound(Honest)], TRUTHS[DENSE], budget_s=0, clock=Halved())


def test_doubtful_turns_are_taken_again_before_anybody_is_refused():
    class Sometimes(HostClock):
        """The first readings are those of a sleeper."""

        readings = 0

        def stop(self):
            self.readings += 1
            reading = super().stop()
            busy = 0.0 if self.readings < timing.ATTEMPTS else math.inf
            return Reading(reading.seconds, (), busy)

    class Long(Honest):
        """Long enough for the idle check to look."""

        def call(self):
            for _ in range(200):
                super().call()

    clock, part = Sometimes(), Part(Long(DENSE), TRUTHS[DENSE][0], 1)
    seconds, error = timing.turn("suspect", [part], clock, timing.always)
    assert clock.readings == timing.ATTEMPTS
    assert seconds > 0 and 0 < error <= 1
