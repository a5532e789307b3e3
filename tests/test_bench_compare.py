"""``tilegrad bench compare`` and its files: what fails, what passes, and how often by chance."""

import json
import math

import numpy as np
import pytest
from bench_samples import MACHINE, results, row, times, train_row, tta_row, without

from tilegrad.bench import record
from tilegrad.bench.compare import CannotCompareError, compare, main, thresholds

OTHER = {"machine": MACHINE | {"fingerprint": "another-cpu"}}


def pair(factor, *, speed=1.0, noise=0.01, library="tilegrad", **more):
    """A row, and the same when it is slower by `factor` on a machine `speed` times as fast."""
    seconds = 1e-3
    later = {"flops": 1e11 * speed, "bytes": 1e10 * speed}
    slower = {"warm": times(seconds * factor / speed, noise), "calibration": later}
    first = row("dense:m3k5n7", seconds, library, **more)
    return first, first | slower


def change(factor, fail="10%", **more):
    before, after = pair(factor, **more)
    [found] = compare(results([before]), results([after]), fail).changes
    return found


# --- one row --------------------------------------------------------------------------------------


def test_a_slower_row_fails():
    assert change(1.2).regressed
    assert not change(1.2).improved
    assert change(1.2).slowdown == pytest.approx(1.2)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.05, 1.1])
def test_a_row_within_the_threshold_passes(factor):
    assert not change(factor).regressed


def test_a_faster_row_is_an_improvement():
    assert change(0.8).improved
    assert not change(0.8).regressed


@pytest.mark.parametrize("speed", [0.6, 1.7])
def test_a_slower_or_faster_machine_changes_nothing(speed):
    assert change(1.0, speed=speed).slowdown == pytest.approx(1)
    assert not change(1.0, speed=speed).regressed
    assert change(1.2, speed=speed).regressed


def test_the_roof_that_binds_says_how_fast_the_machine_was():
    before, after = pair(1.0)
    after["warm"] = times(1.5e-3)
    after["calibration"] = {"flops": 1e11, "bytes": 1e10 / 1.5}  # only its memory became slower
    for bound, slowdown in (("flops", 1.5), ("L2", 1.0), ("memory", 1.0)):
        for one in (before, after):
            one["roof"] = one["roof"] | {"bound": bound, "share": 1.0}
        [found] = compare(results([before]), results([after])).changes
        assert found.slowdown == pytest.approx(slowdown)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8, 1.04])
def test_bytes_count_as_much_as_they_take_of_the_time(share):
    before, after = pair(1.0, roof={"bound": "L3", "share": share})
    after["warm"] = times(1e-3 / 0.7)
    after["calibration"] = {"flops": 1e11, "bytes": 7e9}  # its memory became slower
    [found] = compare(results([before]), results([after])).changes
    assert found.slowdown == pytest.approx(0.7 ** min(1, share) / 0.7)


def test_a_training_row_is_normalised_by_flops():
    before = train_row("train:cnn:b32", 2.0)
    after = before | {"warm": times(4.0), "calibration": {"flops": 5e10, "bytes": 1e10}}
    [found] = compare(results([before]), results([after])).changes
    assert found.slowdown == pytest.approx(1)


def test_rows_without_calibration_are_compared_as_they_are():
    before, after = pair(1.2, calibration=None)
    [found] = compare(results([before]), results([after | {"calibration": None}])).changes
    assert found.slowdown == pytest.approx(1.2)


def test_stated_noise_widens_the_threshold():
    assert change(1.2, noise=0.01).regressed
    assert not change(1.2, noise=0.15).regressed
    assert change(1.2, noise=0.03).allowed == pytest.approx(1.1 + math.hypot(0.01, 0.03))


def processes(*factors, minima=None, speeds=None, noise=0.01):
    """Those of a row that took `factors` milliseconds."""
    speeds = speeds or [1.0] * len(factors)
    parts = []
    for factor, minimum, speed in zip(factors, minima or factors, speeds, strict=True):
        warm = times(factor * 1e-3, noise) | {"min": minimum * 0.95e-3}
        parts.append({"warm": warm, "calibration": {"flops": 1e11 * speed, "bytes": 1e10}})
    return parts


def several(before, after, **more):
    """The change of a row that had these processes; what it says of all of them counts nothing."""
    rows = [
        row("dense:m3k5n7", seconds, processes=parts, **more)
        for seconds, parts in ((1.0, before), (2.0, after))
    ]
    [found] = compare(*(results([one]) for one in rows)).changes
    return found


def test_a_row_is_as_fast_as_in_the_best_of_its_processes():
    assert several(processes(1.0, 1.0), processes(1.25, 1.02)).slowdown == pytest.approx(1.02)
    assert several(processes(1.25, 1.0), processes(1.0, 1.25)).slowdown == pytest.approx(1)
    assert several(processes(1.0, 1.02), processes(1.3, 1.25)).regressed
    assert several(processes(1.25, 1.3), processes(1.02, 1.0)).improved


def test_a_row_that_was_as_slow_before_has_not_become_slower():
    lucky = several(processes(1.0, 1.2), processes(1.2, 1.25))
    assert lucky.slowdown == pytest.approx(1.2)
    assert not lucky.regressed
    assert not several(processes(1.2, 1.25), processes(1.0, 1.2)).improved


def test_the_slowest_and_the_fastest_are_told_by_the_speed_of_the_whole_run():
    """A look at the machine that is 20% off while one row is measured accuses nobody."""
    before = [row(f"relu:n{n}", 1.0, processes=processes(1.0, 1.0)) for n in range(1, 4)]
    after = [one | {"processes": processes(1.0, 1.0)} for one in before]
    after[0]["processes"] = processes(1.0, 1.0, speeds=(1.2, 1.2))
    found = compare(results(before), results(after)).changes[0]
    assert found.slowdown == pytest.approx(1.2)
    assert found.least == pytest.approx(1)
    assert not found.regressed


def test_the_median_and_the_minimum_may_be_of_different_processes():
    found = several(processes(1.0), processes(1.1, 1.3, minima=(1.2, 1.05)))
    assert (found.median, found.minimum) == (pytest.approx(1.1), pytest.approx(1.05))


def test_each_process_is_normalised_by_what_the_machine_had_then():
    slow = processes(2.0, 1.25, speeds=(0.5, 0.8))
    assert several(processes(1.0, 1.0), slow).slowdown == pytest.approx(1)
    hidden = processes(1.3, 1.0, speeds=(1.0, 1.3))
    assert several(processes(1.0, 1.0), hidden).slowdown == pytest.approx(1.3)
    found = several(processes(1.0, 1.0), slow, roof={"bound": "L2", "share": 1.0})
    assert found.slowdown == pytest.approx(1.25)


def test_the_noise_is_that_of_the_process_that_counts():
    after = [*processes(1.5, noise=0.5), *processes(1.2, noise=0.03)]
    found = several(processes(1.0, noise=0.04), after)
    assert found.noise == pytest.approx(0.05)
    assert found.regressed


def test_files_with_and_without_processes_are_compared():
    before, after = pair(1.2)
    merged = processes(1.5, 1.2)
    for a, b, slowdown in (
        (before, after | {"processes": merged}, 1.2),
        (before | {"processes": merged}, after, 1.0),
        (before, after | {"processes": merged[:1]}, 1.5),
        (before, after | {"processes": []}, 1.2),
        (before | {"calibration": None}, after | {"processes": merged}, 1.2),
    ):
        [found] = compare(results([a]), results([b])).changes
        assert found.slowdown == pytest.approx(slowdown)


@pytest.mark.parametrize("other", ["min", "median"])
def test_one_bad_figure_is_not_enough(other):
    before, after = pair(1.6)
    after["warm"][other] = before["warm"][other]
    [found] = compare(results([before]), results([after])).changes
    assert found.slowdown > 1.2
    assert not found.regressed


def test_what_slows_the_peers_too_is_the_machine():
    ours, peer = pair(1.3), pair(1.3, library="torch")
    result = compare(*(results(rows) for rows in zip(ours, peer, strict=True)))
    assert result.changes[0].relative == pytest.approx(1)
    assert not result.failed


def test_a_peer_of_another_version_says_nothing():
    ours, peer = pair(1.3), pair(1.3, library="torch")
    peer[1]["version"] = "1.3"
    result = compare(*(results(rows) for rows in zip(ours, peer, strict=True)))
    assert result.changes[0].relative is None
    assert result.failed


def test_a_slower_peer_fails_only_if_asked():
    rows = zip(pair(1.0), pair(1.5, library="torch"), strict=True)
    before, after = (results(each) for each in rows)
    assert not compare(before, after).failed
    assert compare(before, after, peers_too=True).failed


# --- thresholds -----------------------------------------------------------------------------------


def test_the_last_pattern_that_fits_counts():
    assert change(1.07, ["10%", "dense*=3%"]).regressed
    assert not change(1.07, ["10%", "conv2d*=3%"]).regressed
    assert not change(1.2, ["dense*=3%", "30%"]).regressed


def test_without_a_default_ten_percent_count():
    assert thresholds(["conv2d*=5%"])("relu:n7") == 0.1


@pytest.mark.parametrize("text", ["10", "-5%", "0%", "dense*", "dense*=", "x%", "nan%", "inf%", ""])
def test_other_thresholds_are_refused(text):
    with pytest.raises(ValueError, match="expected a share like 10%"):
        thresholds([text])


# --- what is not there ----------------------------------------------------------------------------


def test_rows_that_only_one_file_has_are_named():
    both = row("relu:n7", 1e-3)
    a = results([both, row("gelu:n7", 1e-3)])
    b = results([both, row("add:n7", 1e-3)])
    result = compare(a, b)
    assert not result.failed
    assert "gelu:n7, 1 thread, tilegrad avx512: only in the first file" in result.lines()
    assert "add:n7, 1 thread, tilegrad avx512: only in the second file" in result.lines()


@pytest.mark.parametrize("status", ["refused", "failed", "absent"])
def test_a_row_that_is_no_longer_right_fails(status):
    before = row("relu:n7", 1e-3)
    after = before | {"status": status, "reason": "output 0 is off", "warm": None}
    result = compare(results([before]), results([after]))
    assert result.failed
    assert f"relu:n7, 1 thread, tilegrad avx512: was ok, is {status}: output 0 is off" in (
        result.lines()
    )


def test_a_row_that_was_wrong_before_does_not_fail():
    ours = row("relu:n7", 1e-3)
    broken = ours | {"workload": "gelu:n7", "status": "failed", "reason": "", "warm": None}
    assert not compare(results([ours, broken]), results([ours, broken])).failed


def test_a_workload_that_ends_the_process_fails():
    ours, other = row("relu:n7", 1e-3), row("gelu:n7", 1e-3)
    ended = without("failed", "the process ended: exit status -11", "relu:n7", "")
    result = compare(results([ours, other]), results([ended, other]))
    assert result.failed
    assert [why for _, why in result.broken] == ["the process ended: exit status -11"]


def test_a_workload_that_ends_one_of_its_processes_fails_though_it_has_times():
    ours, peer = row("relu:n7", 1e-3), row("relu:n7", 1e-3, "torch")
    other = row("gelu:n7", 1e-3)
    ended = without("failed", "the process ended: exit status -11", "relu:n7", "")
    a, b = results([ours, peer, other]), results([ours, peer, other, ended])
    result = compare(a, b)
    assert result.failed
    assert [(r["library"], r["status"]) for r, _ in result.broken] == [
        ("tilegrad", "failed"),
        ("torch", "failed"),
    ]
    assert not compare(b, b).failed
    assert not compare(b, a).failed


def test_a_peer_that_is_no_longer_right_is_named_only():
    ours, peer = row("relu:n7", 1e-3), row("relu:n7", 1e-3, "torch")
    b = results([ours, without("refused", "slept")])
    result = compare(results([ours, peer]), b)
    assert not result.failed
    assert len(result.broken) == 1


def test_of_equal_rows_the_fastest_counts():
    slow, fast = row("relu:n7", 2e-3), row("relu:n7", 1e-3)
    [found] = compare(results([slow, fast]), results([fast, slow])).changes
    assert found.slowdown == 1


def test_other_machines_are_refused_unless_asked_for():
    before, after = (results([one]) for one in pair(1.0))
    with pytest.raises(CannotCompareError, match="some-cpu-2-0123abcd and another-cpu"):
        compare(before, after | OTHER)
    assert len(compare(before, after | OTHER, other_machine=True).changes) == 1


def test_nothing_in_common_cannot_be_compared():
    with pytest.raises(CannotCompareError, match="rows of tilegrad that both files have"):
        compare(results([row("relu:n7", 1e-3)]), results([row("gelu:n7", 1e-3)]))


# --- a noisy machine ------------------------------------------------------------------------------


def noisy_run(rng, scatter, slow=1.0, wild=0.01, odd=1 / 30, wander=0.03, processes=2):
    """30 rows of tilegrad and two peers, the first of tilegrad slower by `slow`.

    The machine's speed differs by 10% between runs and by `wander` from row to row, looks at it are
    off by half of that. In each process medians and minima scatter by `scatter` of each row, a
    share of medians, `wild`, are off by 50%, and a share of rows, `odd`, take 25% longer in all
    turns, or, half as often, 15% less.
    """
    rows, run = [], rng.lognormal(0, 0.1)
    for i in range(30):
        speeds = run * rng.lognormal(0, wander, processes)
        for library in ("tilegrad", "torch", "jax"):
            factor = slow if (i, library) == (0, "tilegrad") else 1.0
            parts = []
            for speed in speeds:
                place = rng.choice([1.25, 1.25, 0.85]) if rng.random() < odd else 1.0
                warm = times((i + 1) * 1e-4 * factor * place / speed, rng.uniform(0.004, 0.012))
                warm["median"] *= rng.lognormal(0, scatter[i]) * (1.5 if rng.random() < wild else 1)
                warm["min"] *= rng.lognormal(0, scatter[i])
                looks = {
                    "flops": 1e11 * speed * rng.lognormal(0, wander / 2),
                    "bytes": 1e10 * speed,
                }
                parts.append({"warm": warm, "calibration": looks})
            rows.append(row(f"relu:n{i + 1}", 1e-4, library, **parts[0], processes=parts))
    return results(rows)


def verdicts(slow, runs, seed=11, **machine):
    """Of many pairs of runs: how often the slow row is found, and any other."""
    rng = np.random.default_rng(seed)
    found = others = 0
    for _ in range(runs):
        scatter = rng.uniform(0.02, 0.04, 30)
        before, after = (noisy_run(rng, scatter, s, **machine) for s in (1.0, slow))
        names = [change.workload for change in compare(before, after).regressions]
        found += "relu:n1" in names
        others += any(name != "relu:n1" for name in names)
    return found / runs, others / runs


def test_clean_pairs_pass_and_a_slow_row_is_found():
    """96% of clean pairs pass; 81% of rows that are 20% slower are found, give or take chance."""
    found, others = verdicts(1.2, runs=400)
    assert found >= 0.77
    assert others <= 0.06


def test_a_quarter_is_found_nine_times_in_ten_and_fifteen_percent_every_second_time():
    assert verdicts(1.25, runs=200)[0] >= 0.85
    assert verdicts(1.15, runs=200)[0] >= 0.46


def test_rows_of_one_process_would_fail_and_of_three_hardly_ever_do():
    assert verdicts(1.15, runs=50, processes=1)[1] >= 0.4
    assert verdicts(1.15, runs=100, processes=3)[1] <= 0.02


def test_on_a_quiet_machine_fifteen_percent_are_found():
    rng = np.random.default_rng(1)
    scatter = np.full(30, 0.01)
    for _ in range(20):
        before = noisy_run(rng, scatter, wild=0, odd=0, wander=0.01)
        after = noisy_run(rng, scatter, 1.15, wild=0, odd=0, wander=0.01)
        assert "relu:n1" in [change.workload for change in compare(before, after).regressions]


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    def write(name, rows, **header):
        path = tmp_path / name
        record.write(path, results(rows, **header))
        return str(path)

    return write


def test_the_exit_code_of_a_clean_pair(file, capsys):
    before, after = pair(1.02)
    assert main([file("a.json", [before]), file("b.json", [after])]) == 0
    assert "0 of 1 rows are slower than allowed" in capsys.readouterr().out


def test_the_exit_code_of_a_regression(file, capsys):
    before, after = pair(1.2)
    files = [file("a.json", [before]), file("b.json", [after])]
    assert main(files) == 1
    shown = capsys.readouterr().out
    assert "dense:m3k5n7, 1 thread, tilegrad avx512: slower: median 1.20, minimum 1.20" in shown
    assert "1 of 1 rows are slower than allowed" in shown
    assert main([*files, "--fail", "30%"]) == 0
    assert main([*files, "--fail", "30%", "--fail", "dense*=5%"]) == 1


def test_the_exit_code_where_nothing_can_be_compared(file, tmp_path, capsys):
    [before, after] = pair(1.0)
    a, b = file("a.json", [before]), file("b.json", [after], **OTHER)
    assert main([a, b]) == 2
    assert "--other-machine" in capsys.readouterr().err
    assert main([a, b, "--other-machine"]) == 0
    assert main([a, str(tmp_path / "nowhere.json")]) == 2
    assert main([a, a, "--fail", "much"]) == 2


def test_every_row_is_shown_if_asked(file, capsys):
    before, after = pair(1.0)
    files = [file("a.json", [before]), file("b.json", [after])]
    main(files)
    assert "verdict" not in capsys.readouterr().out
    main([*files, "--every"])
    shown = capsys.readouterr().out
    assert "verdict" in shown
    assert "same" in shown


# --- results files --------------------------------------------------------------------------------


def test_a_record_is_complete_after_each_row(tmp_path):
    path = tmp_path / "deep" / "er" / "a.json"
    kept = record.Record(path, {"machine": MACHINE, "suite": "quick"})
    assert record.read(path)["rows"] == []
    for count in (1, 2, 3):
        kept.add(row(f"relu:n{count}", 1e-3))
        assert len(record.read(path)["rows"]) == count
    assert record.read(path)["suite"] == "quick"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]  # nothing temporary is left


def test_a_row_takes_the_place_of_an_equal_one(tmp_path):
    kept = record.Record(tmp_path / "a.json", {"machine": MACHINE})
    for seconds, library in ((1e-3, "tilegrad"), (2e-3, "torch"), (3e-3, "tilegrad")):
        kept.add(row("relu:n7", seconds, library, setting=f"{seconds}"))
    rows = record.read(kept.path)["rows"]
    assert [(r["library"], r["warm"]["median"]) for r in rows] == [
        ("tilegrad", 3e-3),
        ("torch", 2e-3),
    ]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_record_takes_no_nan_and_keeps_what_it_has(tmp_path, wrong):
    kept = record.Record(tmp_path / "a.json", {"machine": MACHINE})
    kept.add(row("relu:n1", 1e-3))
    with pytest.raises(ValueError, match="finite"):
        kept.add(row("relu:n2", 1e-3, error=wrong))
    kept.add(row("relu:n3", 1e-3))
    assert [r["workload"] for r in record.read(kept.path)["rows"]] == ["relu:n1", "relu:n3"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda r: r.pop("format"), "got other JSON"),
        (lambda r: r.update(version=0), "expected version 1 of the format, got 0"),
        (lambda r: r.pop("machine"), "a machine with its fingerprint"),
        (lambda r: r["rows"][0].pop("label"), "row 1: row: expected .* label not there"),
        (lambda r: r["rows"][0].update(status="fine"), "expected status .*, got 'fine'"),
        (lambda r: r["rows"][0].update(warm=None), "row relu:n7: expected warm times above 0"),
        (lambda r: r["rows"][0]["warm"].update(min=0), "expected warm times above 0"),
        (lambda r: r["rows"][0].update(processes=[{}]), "expected warm times above 0, got None"),
        (lambda r: r["rows"][0].update(processes=[{"warm": {"median": 1}}]), "above 0, got"),
        (lambda r: r["rows"][0].update(processes=[7]), "expected a list of processes"),
        (lambda r: r["rows"][0].update(processes=7), "expected a list of processes"),
        (lambda r: r["rows"].append("row"), "row 2: row: expected an object, got 'row'"),
    ],
)
def test_wrong_files_are_refused(tmp_path, harm, message):
    content = json.loads(json.dumps(results([row("relu:n7", 1e-3)])))
    harm(content)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        record.read(path)


def test_what_is_no_json_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"format": "tilegrad bench", ')
    with pytest.raises(ValueError, match=r"a\.json: expected a results file, got no JSON"):
        record.read(path)


def test_merging_replaces_equal_rows_and_keeps_the_others():
    old, other = row("relu:n7", 1e-3), row("relu:n17", 1e-3)
    new = row("relu:n7", 2e-3)
    merged = record.merge([results([old, other]), results([new], suite="quick")])
    assert merged["rows"] == [new, other]
    assert merged["suite"] == "quick"


def test_merging_keeps_settings_of_training_runs_apart():
    rows = [
        train_row("train:cnn:b32", 1.0, "torch", setting) for setting in ("first", "last", "last")
    ]
    assert record.merge([results(rows)])["rows"] == [rows[0], rows[2]]


def test_merging_keeps_targets_apart():
    rows = [tta_row(target, [1.0]) for target in (0.98, 0.99)]
    assert record.merge([results(rows), results(rows)])["rows"] == rows


def test_machines_are_not_merged():
    with pytest.raises(ValueError, match="expected results of one machine"):
        record.merge([results([]), results([]) | OTHER])
    with pytest.raises(ValueError, match="at least one"):
        record.merge([])
