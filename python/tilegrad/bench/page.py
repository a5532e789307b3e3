"""All results on one page: HTML that needs nothing else, for screen, phone and paper."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from . import charts, record
from .charts import PEERS, TIMES, escape
from .report import (
    ABSENT,
    OURS,
    PLAIN,
    Case,
    by_op,
    cases,
    commit,
    contender,
    contenders,
    duration,
    profile_rows,
    rate,
    roof_rows,
    roof_share,
    speed,
    sweeps,
    train_title,
    tta_rows,
)
from .style import SCRIPT, STYLE

FAMILIES = {
    "dense": "Products of matrices",
    "conv": "Convolution",
    "conv_pool": "Convolution with pooling",
    "pool": "Pooling",
    "softmax": "Softmax",
    "activation": "Activations",
    "elementwise": "Elementwise",
    "norm": "Normalisation",
    "attention": "Attention",
    "embedding": "Embedding",
    "optim": "Optimizers",
}


def write(path, results) -> None:
    """Write the page of a results file, or of all results files in a folder.

    Raises:
        ValueError: there are none, or one is of another kind.
        RuntimeError: matplotlib is not installed.
    """
    results = Path(results)
    files = [results] if results.is_file() else sorted(results.glob("*.json"), key=lambda f: f.stem)
    found = {file.stem: record.read(file) for file in files if file.stem not in PLAIN}
    if not found:
        raise ValueError(f"{results}: expected results files of `tilegrad bench`, found none")
    Path(path).write_text(page(found), encoding="utf-8")


def page(results: dict[str, dict]) -> str:
    """The page of several results by name; the first one's machine stands at the top."""
    kernels = [case for one in results.values() for case in cases(one["rows"])]
    best = [case for case in kernels if case.best]
    parts = [
        _header(results),
        _verdicts(best, results),
        _how_to_read(),
        _training(results),
        _tta(results),
        _profiles(results),
        _ratios(best),
        _behind(best),
        _rooflines(kernels, results),
        _sweeps(kernels),
        _threads(kernels),
        _kernel_table(results),
        _training_table(results),
        _contenders(results),
        _not_measured(results),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tilegrad: benchmarks</title><style>{STYLE}</style>"
        f"<main>{''.join(parts)}</main><script>{SCRIPT}</script></html>\n"
    )


# --- pieces ---------------------------------------------------------------------------------------


def _section(title: str, note: str, body: str) -> str:
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{body}</section>' if body else ""


def _figures(figures: Iterable[tuple[str, str]], kind: str = "two") -> str:
    """A grid of (caption, svg)."""
    cells = [f"<figure><figcaption>{text}</figcaption>{svg}</figure>" for text, svg in figures]
    return f'<div class="{kind}">{"".join(cells)}</div>' if cells else ""


def _table(head: Sequence[str], rows: Iterable[Sequence], left: int = 1) -> str:
    """A table to sort and search; a cell is a text, or (text, number to sort by).

    The first `left` columns hold text.
    """
    names = "".join(
        f'<th{"" if i < left else " class=n"}><button type="button">{escape(name)}</button></th>'
        for i, name in enumerate(head)
    )
    body = "".join(_row(row, left) for row in rows)
    return (
        '<input type="search" placeholder="show rows with ..." aria-label="show rows with">'
        f'<div class="wide"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def _row(row: Sequence, left: int) -> str:
    mine = ' class="ours"' if any(str(cell).startswith(OURS) for cell in row[:2]) else ""
    return f"<tr{mine}>{''.join(_cell(cell, i < left) for i, cell in enumerate(row))}</tr>"


def _cell(cell, text: bool) -> str:
    words, value = cell if isinstance(cell, tuple) else (cell, None)
    sort = "" if value is None else f' data-v="{value:.6g}"'
    return f"<td{sort}{'' if text else ' class=n'}>{escape(words)}</td>"


def _details(title: str, body: str, is_open: bool = False) -> str:
    state = " open" if is_open else ""
    return f"<details{state}><summary><h2>{title}</h2></summary>{body}</details>"


def _times(value: float) -> str:
    return f"{value:.2f}{TIMES}" if value < 10 else f"{value:.1f}{TIMES}"


# --- the head -------------------------------------------------------------------------------------


def _header(results: dict[str, dict]) -> str:
    first = next(iter(results.values()))
    facts = _facts(first["machine"])
    facts["run"] = f"suite {first.get('suite') or 'none'}, seed {first.get('seed')}"
    others = {name: one["machine"]["date"] for name, one in list(results.items())[1:]}
    facts["other files"] = ", ".join(f"{name} of {date}" for name, date in others.items())
    items = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
        if value
    )
    return (
        "<header><h1><b>tilegrad</b> benchmarks</h1>"
        '<p class="lead">Every number was proved before it was timed: results compared with '
        "float64, outputs poisoned, contenders timed in turns on equal threads.</p>"
        f"<dl>{items}</dl></header>"
    )


def _facts(machine: dict) -> dict[str, str]:
    """What `machine.describe` found, in words; "" for what it did not."""
    caches, clocks, gpu = (machine.get(key) or {} for key in ("caches", "clocks", "gpu"))
    packages = {"Python": machine.get("python")} | (machine.get("packages") or {})
    return {
        "measured": machine["date"],
        "version": commit(machine),
        "processor": f"{machine.get('cpu')}, {_count(machine.get('cores'), 'core')}"
        + (", virtual" if machine.get("virtual") else ""),
        "caches": ", ".join(map(_cache, caches)),
        "instruction set": f"{machine.get('isa')}, of {', '.join(machine.get('isas') or [])}",
        "clock": f"{clocks['now']:.0f} MHz" if clocks.get("now") else "",
        "memory": _size(machine["memory"]) if machine.get("memory") else "",
        "allocator": machine.get("allocator") or "",
        "GPU": f"{gpu['name']}, driver {gpu['driver']}" if gpu else "",
        "compiler": " ".join(filter(None, (machine.get("compiler"), machine.get("flags")))),
        "system": machine.get("os") or "",
        "libraries": ", ".join(f"{name} {number}" for name, number in packages.items() if number),
    }


def _cache(cache: dict) -> str:
    several = f" {TIMES} {cache['instances']}" if cache["instances"] > 1 else ""
    return f"{cache['level']} {_size(cache['bytes'])}{several}"


def _size(nbytes: int) -> str:
    """
    >>> _size(48 * 1024), _size(2**30)
    ('48 KiB', '1 GiB')
    """
    power = min(3, (nbytes.bit_length() - 1) // 10)
    return f"{nbytes / 2 ** (10 * power):.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def _verdicts(kernels: list[Case], results: dict[str, dict]) -> str:
    """Cards: epochs first, then the families of ops, each against the fastest peer."""
    cards = []
    for title, case in _epochs(results):
        if case.fastest:
            time = duration(case.ours["warm"]["median"])
            text = f"{time} an epoch; next is {escape(contender(case.fastest))}"
            cards.append(_card(f"Training {title}", case.ratio(case.fastest), text, "train"))
    for family, group in _by_family(kernels).items():
        values = [case.ratio(case.fastest) for case in group if case.fastest]
        if values:
            behind = sum(value < 1 for value in values)
            text = f"{_times(min(values))} to {_times(max(values))}; ahead in "
            text += f"{len(values) - behind} of {_count(len(values), 'row')}"
            cards.append(_card(family, statistics.median(values), text, "kernels"))
    note = (
        "How many times tilegrad's time the fastest peer takes: above 1, tilegrad is faster. For "
        "kernels it is the median over their workloads."
    )
    return _section("Verdict", note, f'<div class="cards">{"".join(cards)}</div>' if cards else "")


def _epochs(results: dict[str, dict]) -> list[tuple[str, Case]]:
    """The training runs of all files, with titles that name the instruction set if need be."""
    found = [case for one in results.values() for case in cases(one["rows"], "train")]
    several = len({case.isa for case in found}) > 1
    return [
        (train_title(case.workload) + (f", {case.isa}" if several else ""), case) for case in found
    ]


def _by_family(kernels: list[Case]) -> dict[str, list[Case]]:
    """Cases by the module that their op stands in, or by op where it stands in none."""
    from . import workloads  # noqa: F401  (registers them all)
    from .workload import WORKLOADS

    groups: dict[str, list[Case]] = {}
    for op, group in by_op(kernels).items():
        stem = WORKLOADS[op].__module__.rpartition(".")[2] if op in WORKLOADS else op
        groups.setdefault(FAMILIES.get(stem, stem), []).extend(group)
    return groups


def _card(name: str, value: float, text: str, kind: str) -> str:
    rating = "ahead" if value >= 1.05 else "even" if value >= 0.95 else "behind"
    return (
        f'<article class="{kind} {rating}"><h3>{escape(name)}</h3><strong>{_times(value)}</strong>'
        f"<small>{text}</small></article>"
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _how_to_read() -> str:
    return _details(
        "How to read this page",
        "<ul><li><b>Ratios</b> are a peer's time divided by tilegrad's, the median over rounds in "
        "which both had their turns: above 1, tilegrad is faster.</li>"
        "<li><b>Warm</b>: the same arrays again and again, what fits a cache is there. "
        "<b>Cold</b>: the caches were emptied before each call.</li>"
        "<li><b>Noise</b> is half the width of the 95% confidence interval of the median, as a "
        "share of it. Differences below it say nothing.</li>"
        "<li><b>Of the roof</b>: the least time that this machine needs for the row's FLOP and "
        "bytes, by its own measured limits, over the time taken. The limit that binds stands "
        "beside it. A share far above 100% is marked, for then something is wrong.</li>"
        "<li><b>Error</b> is the largest error of an element as a share of what is allowed: "
        "8 eps sqrt(length of the sum) times its magnitude.</li>"
        "<li>A peer is shown with the fastest of the ways that it has to compute a row.</li>"
        "<li>Dots name their workload when pointed at; tables sort by a click on a heading."
        "</li></ul>",
    )


# --- charts ---------------------------------------------------------------------------------------


def _training(results: dict[str, dict]) -> str:
    figures = []
    for title, case in _epochs(results):
        bars = [(contender(case.ours), case.ours["warm"]["median"], "", True)]
        for peer in case.peers:
            ratio = _times(case.ratio(peer))
            bars.append((contender(peer), peer["warm"]["median"], ratio, False))
        bars.sort(key=lambda bar: bar[1])
        caption = f"<b>{escape(title)}</b> {_count(case.threads, 'thread')}"
        figures.append((caption, charts.bars(bars, f"An epoch of {title}")))
    note = "Seconds per epoch of 60,000 images, and how many times tilegrad's."
    return _section("Training", note, _figures(figures))


def _tta(results: dict[str, dict]) -> str:
    """Bars for each target, from the fastest to the slowest."""
    groups: dict[tuple, list[dict]] = {}
    for one in results.values():
        for row in tta_rows(one):
            if row["status"] == "ok" and row["reached"]:
                groups.setdefault((row["workload"], row["target"]), []).append(row)
    figures = []
    for (workload, target), rows in groups.items():
        title = f"{target:.2%}, {train_title(workload)}"
        bars = [
            (contender(row), row["mean"], _arrived(row), row["library"] == OURS)
            for row in sorted(rows, key=lambda row: row["mean"])
        ]
        caption = f"<b>{escape(title)}</b> {_count(rows[0]['threads'], 'thread')}"
        figures.append((caption, charts.bars(bars, f"Seconds to an accuracy of {title}")))
    note = (
        "Seconds of training until the test accuracy first reached a target, the mean over seeds, "
        "and how many times tilegrad's."
    )
    return _section("Time to accuracy", note, _figures(figures))


def _arrived(row: dict) -> str:
    """The ratio, and how many seeds arrived where not all did."""
    parts = [_times(row["ratio"])] if row["library"] != OURS and row["ratio"] else []
    if row["reached"] < row["seeds"]:
        parts.append(f"{row['reached']} of {row['seeds']} seeds")
    return ", ".join(parts)


def _profiles(results: dict[str, dict]) -> str:
    """Bars of the sections, then the layers."""
    figures, lines = [], []
    for one in results.values():
        for row in profile_rows(one):
            title = train_title(row["workload"])
            bars = [
                (name, seconds, f"{seconds / row['wall']:.1%}", name == "kernel")
                for name, seconds in sorted(row["split"].items(), key=lambda s: -s[1])
                if seconds > 0
            ]
            caption = f"<b>{escape(title)}</b> {_count(row['threads'], 'thread')}"
            figures.append((caption, charts.bars(bars, f"Where the time of {title} went")))
            lines += [_layer_line(title, layer) for layer in row["layers"]]
    head = ["network", "layer", "pass", "kernels", "time", "share", "GFLOP/s", "GB/s"]
    head += ["of the roof"]
    body = _figures(figures) + _table(head, lines, left=3) if figures else ""
    note = "tilegrad's training runs, by what Python and the kernels were doing."
    return _section("Where the time goes", note, body)


def _layer_line(title: str, layer: dict) -> list:
    seconds = layer["ms"] / 1e3
    return [
        title,
        layer["layer"] or "no layer",
        layer["phase"],
        (f"{layer['calls']:,}", layer["calls"]),
        (duration(seconds), seconds),
        _share(layer["share"]),
        (f"{layer['gflops']:.0f}", layer["gflops"]),
        (f"{layer['gbytes']:.0f}", layer["gbytes"]),
        _share(layer.get("roof")),
    ]


def _ratios(kernels: list[Case]) -> str:
    """A chart against the fastest peer of each workload, then one for each peer."""

    def points(choose: Callable[[Case], dict | None]) -> dict[str, list[tuple[float, str]]]:
        found = {}
        for op, group in by_op(kernels).items():
            pairs = [(case, peer) for case in group if (peer := choose(case))]
            if pairs:
                found[op] = [(case.ratio(peer), _tip(case, peer)) for case, peer in pairs]
        middle = {op: statistics.median(v for v, _ in values) for op, values in found.items()}
        return {op: found[op] for op in sorted(found, key=middle.get, reverse=True)}

    labels = _labels(kernels)
    charts_of = [("the fastest peer", lambda case: case.fastest)] if len(labels) > 1 else []
    charts_of += [(label, lambda case, label=label: _by_label(case, label)) for label in labels]
    figures = []
    for name, choose in charts_of:
        groups = points(choose)
        worst = sum(v < 1 for values in groups.values() for v, _ in values)
        total = sum(len(values) for values in groups.values())
        caption = f"<b>Against {escape(name)}</b> ahead in {total - worst} of {total} rows"
        figures.append((caption, charts.ratios(groups, name.removeprefix("the "))))
    note = "A dot is a workload on a number of threads, the tick is their median."
    return _section("Kernels against peers", note, _figures(figures))


def _behind(kernels: list[Case]) -> str:
    """The rows where a peer is faster, the worst first."""
    pairs = [(case.ratio(case.fastest), case) for case in kernels if case.fastest]
    pairs = sorted((pair for pair in pairs if pair[0] < 1), key=lambda pair: pair[0])
    rows = [
        [
            case.workload,
            contender(case.fastest),
            (str(case.threads), case.threads),
            (f"{ratio:.2f}", ratio),
            _roof_cell(case.ours),
        ]
        for ratio, case in pairs
    ]
    head = ["workload", "fastest peer", "threads", "ratio", "tilegrad, of the roof"]
    title = f"Where tilegrad is behind <small>{len(rows)} of {_count(len(kernels), 'row')}</small>"
    return _details(title, _table(head, rows, left=2), is_open=True) if rows else ""


def _labels(kernels: list[Case]) -> list[str]:
    """The peers that were measured, the strongest first."""
    ratios: dict[str, list[float]] = {}
    for case in kernels:
        for row in case.peers:
            ratios.setdefault(row["label"], []).append(case.ratio(row))
    return sorted(ratios, key=lambda label: statistics.median(ratios[label]))


def _by_label(case: Case, label: str) -> dict | None:
    return next((row for row in case.peers if row["label"] == label), None)


def _tip(case: Case, peer: dict) -> str:
    ours, theirs = (duration(row["warm"]["median"]) for row in (case.ours, peer))
    threads = _count(case.threads, "thread")
    return f"{case.workload}, {threads}: {ours}, {contender(peer)}: {theirs}"


def _rooflines(kernels: list[Case], results: dict[str, dict]) -> str:
    figures = []
    for one in results.values():
        for roofs in roof_rows(one):
            here = [
                case
                for case in cases(one["rows"])
                if (case.isa, case.threads) == (roofs["isa"], roofs["threads"])
            ]
            shown = [case for case in here if case.ours["flops"]]
            if shown:
                caption = f"<b>{escape(roofs['isa'])}, {_count(roofs['threads'], 'thread')}</b> "
                caption += _count(len(shown), "row")
                if len(shown) < len(here):
                    caption += f"; {len(here) - len(shown)} more do no arithmetic that counts"
                figures.append((caption, charts.roofline(shown, roofs)))
    note = (
        "Speed over FLOP per byte. The lines are this machine's limits, measured apart from any "
        "library: bytes per second from each level of its memory, and FLOP per second. Blue dots "
        "are tilegrad, grey ones the fastest peer on the same workload."
    )
    return _section("Under the roof", note, _figures(figures))


def _sweeps(kernels: list[Case]) -> str:
    labels = _labels(kernels)
    colours = {label: PEERS[i % len(PEERS)] for i, label in enumerate(labels)}
    found = sweeps(kernels)
    several = len({case.isa for case in kernels}) > 1
    most = {}
    for one in found:
        name = one.name, one.points[0][1].isa
        most[name] = max(most.get(name, 0), one.points[0][1].threads)
    figures = []
    for one in found:
        first = one.points[0][1]
        if first.threads == most[one.name, first.isa]:
            single = _single(found, one) if first.threads > 1 else None
            caption = f"<b><code>{escape(one.name)}</code></b> {_count(first.threads, 'thread')}"
            caption += f", {escape(first.isa)}" if several else ""
            figures.append((caption, charts.sweep(one, single, colours)))
    note = "Workloads that differ in one size only, # in their name. Higher is faster."
    return _section("Growing sizes", note, _figures(figures, "three"))


def _single(found, one):
    """The same sweep on one thread."""
    isa = one.points[0][1].isa
    for other in found:
        first = other.points[0][1]
        if (other.name, first.threads, first.isa) == (one.name, 1, isa):
            return other
    return None


def _threads(kernels: list[Case]) -> str:
    singles = {(case.workload, case.isa): case for case in kernels if case.threads == 1}
    figures = []
    for count in sorted({case.threads for case in kernels} - {1}):
        ours: dict[str, list[tuple[float, str]]] = {}
        theirs: dict[str, list[float]] = {}
        for case in kernels:
            single = singles.get((case.workload, case.isa))
            if case.threads == count and single:
                gain = _gain(single.ours, case.ours)
                ours.setdefault(case.op, []).append((gain, f"{case.workload}: {_times(gain)}"))
                theirs.setdefault(case.op, []).extend(_peers_gains(single, case))
        if ours:
            middles = {op: statistics.median(gains) for op, gains in theirs.items() if gains}
            caption = f"<b>1 to {_count(count, 'thread')}</b>"
            figures.append((caption, charts.threads(ours, middles, count)))
    note = (
        "Time on one thread over time on several. Dots are workloads, blue ticks their median, "
        "grey ticks that of the peers."
    )
    return _section("More threads", note, _figures(figures))


def _gain(single: dict, several: dict) -> float:
    return single["warm"]["median"] / several["warm"]["median"]


def _peers_gains(single: Case, several: Case) -> list[float]:
    pairs = [(_by_label(single, row["label"]), row) for row in several.peers]
    return [_gain(before, row) for before, row in pairs if before]


# --- tables ---------------------------------------------------------------------------------------


def _measured(results: dict[str, dict], kind: str) -> list[dict]:
    """The rows that have times."""
    rows = (row for one in results.values() for row in one["rows"])
    return [row for row in rows if row["kind"] == kind and row["status"] == "ok"]


def _kernel_table(results: dict[str, dict]) -> str:
    rows = [_kernel_line(row) for row in _measured(results, "kernel")]
    head = ["workload", "contender", "setting", "threads", "warm", "ratio", "speed"]
    head += ["of the roof", "cold", "min", "noise", "n", "error"]
    body = _table(head, rows, left=3)
    return _details(f"All kernel rows <small>{len(rows)}</small>", body) if rows else ""


def _kernel_line(row: dict) -> list:
    warm, cold = row["warm"], row.get("cold")
    return [
        row["workload"],
        row["label"],
        row.get("setting") or "",
        (str(row["threads"]), row["threads"]),
        (duration(warm["median"]), warm["median"]),
        _ratio_cell(row),
        (speed(row), rate(row)),
        _roof_cell(row),
        (duration(cold["median"]), cold["median"]) if cold else "",
        (duration(warm["min"]), warm["min"]),
        _share(warm.get("noise")),
        (str(warm["n"]), warm["n"]),
        _share(row.get("error")),
    ]


def _ratio_cell(row: dict):
    return (f"{row['ratio']:.2f}", row["ratio"]) if row.get("ratio") else ""


def _roof_cell(row: dict):
    return (roof_share(row), row["roof"]["share"]) if row.get("roof") else ""


def _share(value: float | None):
    return "" if value is None else (f"{value:.1%}", value)


def _training_table(results: dict[str, dict]) -> str:
    rows = [
        [
            train_title(row["workload"]),
            contender(row),
            row.get("isa") or "",
            (str(row["threads"]), row["threads"]),
            (duration(row["warm"]["median"]), row["warm"]["median"]),
            _share(row["warm"].get("noise")),
            _ratio_cell(row),
            (f"{row['loss']:.4f}", row["loss"]),
            (f"{row['faults_per_step']:.1f}", row["faults_per_step"]),
            (f"{row['peak_mb']:.0f}", row["peak_mb"]),
        ]
        for row in _measured(results, "train")
    ]
    head = ["network", "contender", "", "threads", "epoch", "noise", "ratio", "loss"]
    head += ["page faults a step", "peak, MB"]
    body = _table(head, rows, left=3)
    return _details(f"All training rows <small>{len(rows)}</small>", body) if rows else ""


def _contenders(results: dict[str, dict]) -> str:
    lines = [
        (file, label, version, settings, (str(count), count))
        for file, one in results.items()
        for label, version, settings, count in contenders(one)
    ]
    head = ["file", "library", "version", "fastest with", "rows"]
    return _details("How each library was set", _table(head, lines, left=4))


def _not_measured(results: dict[str, dict]) -> str:
    """Refused and failed rows one by one; what was not there once per library and reason."""
    absent: dict[tuple, int] = {}
    lines = []
    for one in results.values():
        for label, reason in one.get("absent", {}).items():
            absent.setdefault((label, reason), 0)
        for row in one["rows"]:
            reason = row.get("reason") or ""
            if row["status"] == "absent":
                absent[row["label"], reason] = absent.get((row["label"], reason), 0) + 1
            elif row["status"] != "ok":
                threads = (str(row["threads"]), row["threads"])
                lines.append([row["workload"], row["label"], row["status"], reason, threads])
    lines += [
        [_count(count, "row") if count else "all", label, ABSENT["absent"], reason, ""]
        for (label, reason), count in absent.items()
    ]
    head = ["workload", "contender", "status", "reason", "threads"]
    body = _table(head, lines, left=4) if lines else ""
    return _section("Not measured", "Rows without a time, and why.", body)
