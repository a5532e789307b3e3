"""The page that `tilegrad.sim.Trace.to_html` writes: every kernel's source beside its counters."""

from __future__ import annotations

import html
import re
from pathlib import Path

from .sim import _MODEL, _badness, _per_request, _short

_CONTEXT = 8  # lines of source shown around a line with counters
_LEAST_FOLD = 6  # fewer lines are not worth hiding
_COUNTERS = (
    "requests",
    "lanes",
    "sectors",
    "ideal_sectors",
    "wavefronts",
    "ideal_wavefronts",
    "same_address",
    "cost",
    "ideal_cost",
)
_KEYWORDS = (
    "alignas auto bool break case char class const constexpr continue default do double else enum "
    "extern false float for if inline int int64_t long namespace nullptr return short signed "
    "sizeof static struct switch template true typename uint32_t unsigned using void volatile "
    "while __device__ __forceinline__ __global__ __host__ __launch_bounds__ __noinline__ "
    "__restrict__ __shared__ __align__"
)
_TOKEN = re.compile(
    r"(?P<comment>//.*)|(?P<string>\"(?:\\.|[^\"\\])*\")"
    rf"|(?P<keyword>\b(?:{'|'.join(_KEYWORDS.split())})\b)"
    r"|(?P<sync>\b(?:__sync\w+|__shfl\w+|atomic[A-Z]\w+|__threadfence\w*|cp_async\w*)\b)"
)


def page(result) -> str:
    """The whole page of a `tilegrad.sim.Trace`."""
    sections = [_kernel_section(kernel, result, i == 0) for i, kernel in enumerate(result.kernels)]
    body = "".join([_head(result), _errors(result.errors), _kernels(result.kernels), *sections])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tilegrad: simulated kernels</title><style>{_STYLE}</style>"
        f"<main>{body}</main></html>\n"
    )


def _head(result) -> str:
    launches = sum(kernel["launches"] for kernel in result.kernels)
    requests = sum(kernel["requests"] for kernel in result.kernels)
    count = len(result.errors)
    state = (
        f'<b class="bad">{_count(count, "error")}</b>' if count else '<b class="good">no errors</b>'
    )
    return (
        "<header><h1>Simulated kernels</h1>"
        f"<p>{_count(len(result.kernels), 'kernel')}, {_count(launches, 'launch', 'es')}, "
        f"{_count(requests, 'request')} of warps, {state}.</p>"
        f'<p class="note">All numbers are {_MODEL}: what the accesses in the source ask for, '
        "before the compiler merges or removes any, and without caches. "
        "<b>Sectors</b> are 32-byte pieces of global memory, <b>wavefronts</b> passes over the "
        "banks of shared memory, both for each request of a warp; behind the slash stands the "
        "least that would do. <b>Lanes</b>: how many of 32 took part. <b>Cost</b>: the line's "
        "share of its kernel's passes of 128 bytes.</p></header>"
    )


def _errors(errors) -> str:
    if not errors:
        return ""
    cards = "".join(
        f'<article class="error"><h3>{_text(error["kind"])}</h3>'
        f"<p>in <code>{_text(_short(error['kernel']))}</code></p>"
        f"<pre>{_text(error['message'])}</pre></article>"
        for error in errors
    )
    return f"<section><h2>Errors</h2>{cards}</section>"


def _kernels(kernels) -> str:
    total = sum(kernel["cost"] for kernel in kernels) or 1.0
    rows = "".join(
        f'<tr><td><a href="#{_anchor(k)}"><code>{_text(_short(k["name"]))}</code></a></td>'
        f"<td>{k['launches']:,}</td><td>{k['blocks']:,}</td><td>{k['requests']:,}</td>"
        f"{_times_best(k, 'sectors')}{_times_best(k, 'wavefronts')}"
        f"<td>{k['efficiency']:.0%}</td><td>{_bar(k['cost'] / total)}</td></tr>"
        for k in kernels
    )
    return (
        '<section><h2>Kernels</h2><div class="wide"><table><thead><tr><th>kernel</th>'
        "<th>launches</th><th>blocks</th><th>requests</th><th>sectors</th><th>&times; best</th>"
        "<th>wavefronts</th><th>&times; best</th><th>lanes</th><th>cost</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _times_best(kernel, key) -> str:
    took, best = kernel[key], kernel[f"ideal_{key}"]
    if not took:
        return '<td class="none">-</td><td></td>'
    rating = _badness({"cost": took, "ideal_cost": best})
    return f'<td>{took:,}</td><td class="{rating}">{took / best:.2f}</td>'


def _kernel_section(kernel, result, is_open) -> str:
    rows = [row for row in result.rows if row["kernel"] == kernel["name"]]
    errors = [error for error in result.errors if error["kernel"] == kernel["name"]]
    files: dict[str, dict[int, list[dict]]] = {}
    for row in rows:
        for i, place in enumerate([row, *row["callers"]]):
            lines = files.setdefault(place["file"] or "?", {})
            _add(lines.setdefault(place["line"], []), row, inlined=i > 0)
    wrong = {
        (place["file"], place["line"])
        for error in errors
        for access in error["accesses"]
        for place in [access, *access["callers"]]
    }
    for file, line in wrong:
        files.setdefault(file or "?", {}).setdefault(line, [])
    shape = " &times; ".join(str(n) for n in kernel["grid"])
    block = " &times; ".join(str(n) for n in kernel["block"])
    listings = "".join(
        _listing(file, lines, {line for f, line in wrong if f == file}, kernel["cost"])
        for file, lines in sorted(files.items(), key=lambda item: -_own_cost(item[1]))
    )
    return (
        f'<section id="{_anchor(kernel)}"><details{" open" if is_open or errors else ""}>'
        f"<summary><h2><code>{_text(_short(kernel['name']))}</code></h2></summary>"
        f'<p class="facts">grid {shape}, block {block}, '
        f"{kernel['dynamic_shared_bytes']:,} bytes of dynamic shared memory (the last launch); "
        f"{_count(kernel['barriers'], 'barrier')}, "
        f"{_count(kernel['warp_operations'], 'operation')} of warps, "
        f"{kernel['efficiency']:.0%} of lanes</p>{listings}</details></section>"
    )


def _add(entries, row, inlined) -> None:
    """Adds a row to a line's entries: one for each kind, own and inlined ones apart."""
    for entry in entries:
        if all(entry[key] == row[key] for key in ("kind", "bytes_each")):
            break
    else:
        entry = dict.fromkeys(_COUNTERS, 0) | {
            "kind": row["kind"],
            "bytes_each": row["bytes_each"],
            "inlined": True,
        }
        entries.append(entry)
    entry["inlined"] = entry["inlined"] and inlined
    for key in _COUNTERS:
        entry[key] += row[key]


def _own_cost(lines) -> float:
    return sum(e["cost"] for entries in lines.values() for e in entries if not e["inlined"])


def _listing(file, lines, wrong, total) -> str:
    """A file's lines that have counters, with some lines of context; what is between is folded."""
    try:
        source = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        source = None
    head = (
        "<div class='row head'><span></span><span></span><span>access</span><span>requests</span>"
    )
    head += "<span>each / best</span><span>lanes</span><span>cost</span></div>"
    if source is None:
        note = "" if file == "?" else " (this file is not on this machine)"
        shown = "".join(_line(n, "", lines[n], n in wrong, total) for n in sorted(lines))
        return f"<h3>{_text(file)}{note}</h3><div class='wide listing'>{head}{shown}</div>"
    near = {
        n
        for line in lines
        for n in range(line - _CONTEXT, line + _CONTEXT + 1)
        if 1 <= n <= len(source)
    }
    first, last = min(near, default=1), max(near, default=0)
    out, hidden = [], []
    for n in range(first, last + 1):
        text = _line(n, source[n - 1], lines.get(n, []), n in wrong, total)
        if n not in near:
            hidden.append(text)
            continue
        out += _fold(hidden)
        hidden = []
        out.append(text)
    name = f"<h3>{_text(Path(file).name)} <small>{_text(file)}</small></h3>"
    return f"{name}<div class='wide listing'>{head}{''.join(out)}</div>"


def _fold(hidden) -> list[str]:
    if len(hidden) < _LEAST_FOLD:
        return hidden
    return [f"<details><summary>{len(hidden)} lines</summary>{''.join(hidden)}</details>"]


def _line(number, source, entries, wrong, total) -> str:
    entries = sorted(entries, key=lambda e: -e["cost"])
    rating = max((_badness(e) for e in entries), key=("good", "fair", "bad").index, default="")
    error = " wrong" if wrong else ""
    start = (
        f'<div class="row {rating}-line{error}"><span class="number">{number}</span>'
        f"<code>{_highlight(source)}</code>"
    )
    if not entries:
        return f"{start}</div>"
    more = "".join(
        f'<div class="row more {rating}-line{error}"><span class="number"></span><code></code>'
        f"{_cells(e, total)}</div>"
        for e in entries[1:]
    )
    return f"{start}{_cells(entries[0], total)}</div>{more}"


def _cells(entry, total) -> str:
    took, best, unit = _per_request(entry)
    where = ' class="inlined" title="in functions that this line calls"' if entry["inlined"] else ""
    queue = (
        f' title="{entry["same_address"] / entry["requests"]:.3g} lanes meet on one address"'
        if entry["same_address"]
        else ""
    )
    return (
        f"<span{where}>{entry['kind']} <small>{entry['bytes_each']} B</small></span>"
        f"<span>{entry['requests']:,}</span>"
        f'<span{queue}><b class="{_badness(entry)}">{took:.3g}</b> / {best:.3g} '
        f"<small>{unit}</small></span>"
        f"<span>{entry['lanes'] / (32 * entry['requests']):.0%}</span>"
        f"<span>{_bar(entry['cost'] / total if total else 0)}</span>"
    )


def _bar(share) -> str:
    return (
        f'<span class="bar"><i style="width:{100 * share:.1f}%"></i></span>'
        f"<small>{share:.0%}</small>"
    )


def _count(n, noun, plural="s") -> str:
    return f"{n:,} {noun}{'' if n == 1 else plural}"


def _anchor(kernel) -> str:
    return "k-" + re.sub(r"\W+", "-", kernel["name"])


def _text(value) -> str:
    return html.escape(str(value))


def _highlight(source) -> str:
    out, at = [], 0
    for match in _TOKEN.finditer(source):
        out.append(_text(source[at : match.start()]))
        out.append(f'<i class="{match.lastgroup}">{_text(match[0])}</i>')
        at = match.end()
    return "".join(out) + _text(source[at:])


_STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1f2328; --faint: #6b737c; --line: #e3e6ea; --panel: #f6f8fa;
  --good: #1a7f4b; --fair: #9a6700; --bad: #c4302b;
  --fair-back: #fff7df; --bad-back: #ffecea; --bar: #8aa4c8; --keyword: #6639ba; --sync: #0550ae;
  --string: #0a6b57;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --ink: #dfe3e8; --faint: #8b949e; --line: #2b3138; --panel: #1b1f25;
    --good: #4fbf80; --fair: #d9a32a; --bad: #f0716b;
    --fair-back: #2a2413; --bad-back: #331b1b; --bar: #4f6a92; --keyword: #c3a1f5;
    --sync: #79b8ff; --string: #8fd6b8;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
       font: 15px/1.55 system-ui, sans-serif; }
main { max-width: 1440px; margin: 0 auto; padding: 2.5rem 1.5rem 6rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: .9rem; margin: 1.4rem 0 .5rem; }
small { color: var(--faint); font-weight: normal; }
code, pre { font: 12.5px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
h2 code { font-size: 14px; }
header p { margin: .2rem 0; }
.note { max-width: 78ch; color: var(--faint); font-size: .88rem; margin-top: .8rem; }
.note b { color: var(--ink); font-weight: 600; }
section { margin-top: 2.4rem; }
section > h2 { margin-bottom: .7rem; }
.wide { overflow-x: auto; }
a { color: inherit; text-decoration-color: var(--faint); text-underline-offset: 3px; }
.good { color: var(--good); } .fair { color: var(--fair); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-size: .86rem;
        font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 500; color: var(--faint); padding: .3rem .6rem;
     white-space: nowrap; }
td { text-align: right; padding: .4rem .6rem; border-top: 1px solid var(--line);
     white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; }
td:first-child code { overflow-wrap: anywhere; }
.none { color: var(--faint); }
.error { border: 1px solid var(--bad); border-radius: 8px; padding: .8rem 1.1rem;
         margin: .7rem 0; background: var(--bad-back); }
.error h3 { margin: 0; color: var(--bad); }
.error p { margin: .1rem 0 .4rem; font-size: .88rem; }
.error pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; }
section > details > summary { border-top: 1px solid var(--line); padding-top: .9rem; }
section > details > summary h2 { display: inline; }
.facts { color: var(--faint); font-size: .86rem; margin: .3rem 0 0 1.1rem; }
.listing { border: 1px solid var(--line); border-radius: 8px; padding: .35rem 0; }
.row { display: grid; min-width: 1120px; align-items: baseline; padding-right: .8rem;
       grid-template-columns: 4.2rem minmax(500px, 1fr) 8.6rem 5.6rem 9.4rem 3.2rem 6.6rem;
       border-left: 3px solid transparent; }
.row > span { text-align: right; font-size: .8rem; font-variant-numeric: tabular-nums;
              white-space: nowrap; padding-left: .6rem; }
.row > span:nth-child(3) { text-align: left; }
.row > code { white-space: pre; overflow: hidden; text-overflow: ellipsis; }
.row .number { color: var(--faint); padding-right: .9rem; }
.head { color: var(--faint); border-bottom: 1px solid var(--line); margin-bottom: .3rem;
        padding-bottom: .3rem; }
.good-line { border-left-color: var(--good); }
.fair-line { border-left-color: var(--fair); background: var(--fair-back); }
.bad-line { border-left-color: var(--bad); background: var(--bad-back); }
.wrong { border-left-color: var(--bad); background: var(--bad-back); }
.wrong > .number { color: var(--bad); font-weight: 600; }
.wrong > code { text-decoration: underline wavy var(--bad) 1px; text-underline-offset: 4px; }
.inlined { color: var(--faint); font-style: italic; }
.listing details > summary { color: var(--faint); background: var(--panel); font-size: .78rem;
                             padding: .15rem 0 .15rem 4.4rem; margin: .2rem 0; }
.bar { display: inline-block; width: 3.2rem; height: .5rem; margin-right: .4rem;
       border-radius: 3px; background: var(--line); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--bar); }
td .bar + small, .row .bar + small { display: inline-block; width: 2.3rem; }
i.comment { color: var(--faint); } i.keyword { color: var(--keyword); font-style: normal; }
i.sync { color: var(--sync); font-style: normal; } i.string { color: var(--string);
         font-style: normal; }
"""
