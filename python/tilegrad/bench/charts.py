"""The page's charts: SVG made with matplotlib, which takes its colours from the page's style.

Charts are drawn in stand-in colours, and these become variables of the page's style sheet: so one
drawing serves light and dark schemes. Text stays text, in the page's font.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import re
import statistics
from collections.abc import Sequence

from .report import OURS, Case, Sweep, duration, rate, unit

WIDTH = 5.2  # inches of a chart that fills a column
FONT = 8.5
TIMES = "\u00d7"
# Stand-in colours: never seen, replaced by the variables.
NAMES = ("ink", "faint", "line", "page", "ours", *(f"peer{i}" for i in range(8)))
COLOURS = {name: f"#0102{i:02x}" for i, name in enumerate(NAMES)}
INK, FAINT, LINE, PAGE, MINE = (COLOURS[name] for name in NAMES[:5])
PEERS = [COLOURS[name] for name in NAMES[5:]]
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tilegrad",
    "font.size": FONT,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "round",
}
_serial = itertools.count()


def _styled(draw):
    """Run `draw` within `STYLE`, whatever style its user's matplotlib has."""

    @functools.wraps(draw)
    def styled(*args):
        try:
            import matplotlib
        except ImportError as error:
            raise RuntimeError(
                f"charts: expected matplotlib: pip install matplotlib ({error})"
            ) from None
        with matplotlib.rc_context(matplotlib.rcParamsDefault | STYLE):
            return draw(*args)

    return styled


class Chart:
    """A figure with one pair of axes; `svg` ends it. What `dot` draws shows text when pointed at.

    Args:
        height: inches.
        title: what it shows, for those who do not see it.
    """

    def __init__(self, title: str, height: float, width: float = WIDTH):
        from matplotlib.figure import Figure

        self._title, self._tips = title, []
        self._figure = Figure(figsize=(width, height), layout="constrained")
        self.axes = self._figure.subplots()

    def dot(self, x: float, y: float, colour: str, tip: str, **style) -> None:
        mark = f"tip{len(self._tips)}"
        self._tips.append((mark, tip))
        style = {"marker": "o", "ms": 4.5, "mec": PAGE, "mew": 0.6, "ls": "none"} | style
        self.axes.plot([x], [y], color=colour, gid=mark, zorder=3, **style)

    def svg(self) -> str:
        out = io.StringIO()
        self._figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
        text = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", self._open, text, count=1)
        for mark, tip in self._tips:
            text = text.replace(
                f'<g id="{mark}">', f'<g id="{mark}"><title>{escape(tip)}</title>', 1
            )
        for name, colour in COLOURS.items():
            text = text.replace(colour, f"var(--{name})")
        return _own_ids(text)

    def _open(self, match) -> str:
        return f'<svg {match[1]} role="img" aria-label="{escape(self._title)}">'


def escape(text: str) -> str:
    """Text for HTML and for attributes in double quotes."""
    for sign, name in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "quot")):
        text = text.replace(sign, f"&{name};")
    return text


def _own_ids(svg: str) -> str:
    """Ids that no other chart on the page has."""
    prefix = f"c{next(_serial)}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    return svg.replace('href="#', f'href="#{prefix}').replace("url(#", f"url(#{prefix}")


# --- rooflines ------------------------------------------------------------------------------------


@_styled
def roofline(given: Sequence[Case], roofs: dict) -> str:
    """FLOP/s over FLOP per byte: the roofs, tilegrad's dots, and the fastest peer's below or above.

    Args:
        given: cases of one instruction set and number of threads that compute something.
        roofs: "flops" and "bytes" by level, as `report.roof_rows` has them.
    """
    chart = Chart("Speed over FLOP per byte, below the machine's roofs", 3.7)
    axes, peak = chart.axes, roofs["flops"] / 1e9
    places = [case.ours["flops"] / case.ours["bytes"] for case in given]
    speeds = [rate(row) for case in given for row in (case.ours, *case.peers[:1])]
    right, low = max([10.0, *places]) * 2, min(speeds) / 2
    ridges = {level: peak / speed * 1e9 for level, speed in roofs["bytes"].items()}
    left = min(*places, *ridges.values()) / 3
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, max(peak, *speeds) * 1.7))
    axes.set(xlabel="FLOP per byte", ylabel="GFLOP/s")
    for axis, ends in ((axes.xaxis, (left, right)), (axes.yaxis, axes.get_ylim())):
        ticks = _log_ticks(*ends)
        _ticks(axis, ticks, [f"{tick:g}" for tick in ticks])
    axes.plot([min(ridges.values()), right], [peak, peak], color=INK, lw=1.2)
    axes.text(min(ridges.values()), peak * 1.12, f"{peak:.0f} GFLOP/s")
    for label, ridge in _memory_roofs(roofs, ridges):
        start = max(left, ridge * low / peak)
        axes.plot([start, ridge], [peak * start / ridge, peak], color=FAINT, lw=0.9)
        axes.text(
            start,
            peak * start / ridge,
            f"   {label}",
            color=FAINT,
            fontsize=FONT - 1,
            va="bottom",
            rotation=math.degrees(math.atan(peak / ridge)),  # of the line, before the log scale
            rotation_mode="anchor",
            transform_rotates_text=True,
        )
    for case, x in zip(given, places, strict=True):
        y = rate(case.ours)
        if case.fastest:
            other = rate(case.fastest)
            axes.plot([x, x], sorted((y, other)), color=LINE, lw=0.8, zorder=1)
            tip = f"{case.workload}: {case.fastest['label']} {other:.3g} GFLOP/s"
            chart.dot(x, other, PEERS[0], tip, ms=3)
        chart.dot(x, y, MINE, f"{case.workload}: {y:.3g} GFLOP/s")
    return chart.svg()


def _memory_roofs(roofs: dict, ridges: dict[str, float]) -> list[tuple[str, float]]:
    """(label, ridge) of each line; levels that are as good as equal are one."""
    groups: list[list[str]] = []
    for level in ridges:
        if groups and ridges[level] < 1.15 * ridges[groups[-1][0]]:
            groups[-1].append(level)
        else:
            groups.append([level])
    return [
        (f"{', '.join(levels)} {roofs['bytes'][levels[0]] / 1e9:.0f} GB/s", ridges[levels[0]])
        for levels in groups
    ]


# --- strips of dots -------------------------------------------------------------------------------


@_styled
def ratios(groups: dict[str, list[tuple[float, str]]], peer: str) -> str:
    """A line per op: a dot per workload, a tick at the median; log axis, 1 marked.

    Args:
        groups: op -> (ratio, tip) of each workload, from the top down.
        peer: what tilegrad is compared with.
    """
    chart = Chart(f"Time of {peer} over time of tilegrad, per op", _height(groups))
    values = [value for points in groups.values() for value, _ in points]
    low, high = min([0.7, *values]) / 1.15, max([1.5, *values]) * 1.15
    chart.axes.set_xscale("log")
    _strip(chart, groups, low, high)
    ticks = _log_ticks(low, high)
    _ticks(chart.axes.xaxis, ticks, [f"{t:g}{TIMES}" for t in ticks])
    chart.axes.axvline(1, color=INK, lw=0.9, zorder=1)
    _above(chart, 1, f"{peer} faster", "right", FAINT)
    _above(chart, 1, "tilegrad faster", "left", MINE)
    return chart.svg()


@_styled
def threads(groups: dict, peers: dict[str, float], count: int) -> str:
    """Time on one thread over time on `count`: dots for workloads, grey ticks for the peers.

    Args:
        groups: op -> (speed-up, tip) of each workload.
        peers: op -> the peers' median.
    """
    chart = Chart(f"Speed-up from 1 to {count} threads, per op", _height(groups))
    values = [value for points in groups.values() for value, _ in points]
    high = max([count, *values, *peers.values()]) * 1.05
    _strip(chart, groups, 0, high)
    for y, op in enumerate(reversed(groups)):
        if op in peers:
            ends = y - 0.3, y + 0.3
            chart.axes.plot([peers[op]] * 2, ends, color=PEERS[0], lw=1.6, zorder=2)
    for x, text in ((1, "no gain"), (count, f"{count}{TIMES}")):
        chart.axes.axvline(x, color=INK if x == 1 else FAINT, lw=0.9, zorder=1)
        _above(chart, x, text, "right", FAINT)
    ticks = range(0, math.floor(high) + 1, max(1, count // 8))
    _ticks(chart.axes.xaxis, ticks, [f"{t}{TIMES}" for t in ticks])
    return chart.svg()


def _height(groups) -> float:
    return 0.75 + 0.21 * len(groups)


def _strip(chart: Chart, groups, low: float, high: float) -> None:
    axes = chart.axes
    for y, points in enumerate(reversed(groups.values())):
        axes.axhline(y, color=LINE, lw=0.6, zorder=0)
        for value, tip in points:
            chart.dot(value, y, MINE, tip, ms=4, alpha=0.55)
        middle = statistics.median(value for value, _ in points)
        axes.plot([middle] * 2, [y - 0.33, y + 0.33], color=MINE, lw=2.2, zorder=4)
        axes.annotate(
            f"{middle:.2f}" if middle < 10 else f"{middle:.1f}",
            (1, y),
            (26, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="center",
        )
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, len(groups) - 0.4)
    _ticks(axes.yaxis, range(len(groups)), list(reversed(groups)))
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="x", length=0)


def _above(chart: Chart, x: float, text: str, align: str, colour: str) -> None:
    """A word above the axes, to one side of `x`."""
    chart.axes.annotate(
        text,
        (x, 1),
        (-5 if align == "right" else 5, 2),
        xycoords=chart.axes.get_xaxis_transform(),
        textcoords="offset points",
        ha=align,
        color=colour,
    )


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 and so on between `low` and `high`; only 1, 10 and so on over long ranges."""
    steps = (1, 2, 5) if high / low < 500 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in ticks if low < tick < high]


def _ticks(axis, places, labels) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_minor_locator(NullLocator())
    axis.set_ticks(list(places), list(labels))


# --- sweeps ---------------------------------------------------------------------------------------


@_styled
def sweep(of: Sweep, single: Sweep | None, colours: dict[str, str]) -> str:
    """Speed over one size: tilegrad, its peers, and tilegrad on one thread, dashed.

    Args:
        colours: label -> colour of each peer.
    """
    first = of.points[0][1]
    chart = Chart(f"Speed over the size of {of.name}", 2.6, 3.6)
    lines = {OURS: {size: rate(case.ours) for size, case in of.points}}
    for size, case in of.points:
        for row in case.peers:
            lines.setdefault(row["label"], {})[size] = rate(row)
    if single:
        lines[f"{OURS}, 1 thread"] = {size: rate(case.ours) for size, case in single.points}
    ends = []
    for label, points in lines.items():
        mine = label.startswith(OURS)
        style = {"color": MINE if mine else colours[label], "lw": 2 if mine else 1.3}
        if label != OURS and mine:
            style |= {"lw": 1.2, "ls": (0, (3, 2))}
        chart.axes.plot(*zip(*points.items(), strict=True), marker="o", ms=3, **style)
        ends.append((list(points.values())[-1], label, style["color"]))
    axes = chart.axes
    axes.set_xscale("log")
    _ticks(axes.xaxis, [size for size, _ in of.points], [str(size) for size, _ in of.points])
    axes.set_xlabel(" = ".join(of.letters))
    axes.set_ylabel(unit(first.ours))
    axes.set_ylim(0, 1.08 * max(value for points in lines.values() for value in points.values()))
    axes.grid(axis="y")
    _label_ends(chart, ends, of.points[-1][0])
    return chart.svg()


def _label_ends(chart: Chart, ends, x: float) -> None:
    """Names beside the ends of lines, pushed apart, from the lowest upwards, where they meet."""
    high = chart.axes.get_ylim()[1]
    step, low = 0.085 * high, -math.inf
    places = []
    for value, label, colour in sorted(ends):
        low = max(value, low + step)
        places.append([low, label, colour])
    excess = max(0.0, places[-1][0] - high)  # the stack grew over the top: move it down
    for place, label, colour in places:
        chart.axes.annotate(
            label,
            (x, place - excess),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
        )


# --- bars -----------------------------------------------------------------------------------------


@_styled
def bars(rows: Sequence[tuple[str, float, str, bool]], title: str) -> str:
    """Horizontal bars from the top down: (name, seconds, text behind it, is it tilegrad)."""
    chart = Chart(title, 0.25 + 0.25 * len(rows))
    axes, longest = chart.axes, max(row[1] for row in rows)
    for y, (_, seconds, text, mine) in enumerate(reversed(rows)):
        axes.barh(y, seconds, 0.62, color=MINE if mine else PEERS[0])
        axes.text(seconds + longest * 0.015, y, f"{duration(seconds)}\u2002{text}", va="center")
    axes.set_xlim(0, longest * 1.28)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.xaxis.set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    _ticks(axes.yaxis, range(len(rows)), [row[0] for row in reversed(rows)])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    return chart.svg()
