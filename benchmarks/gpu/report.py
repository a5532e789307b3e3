"""What the parts of scripts/gpu_check found, as Markdown: one table for each, goals first."""

from __future__ import annotations

from dataclasses import dataclass

REHEARSAL = (
    "**Rehearsal in the simulator, not on a GPU.** Sizes are tiny and times are left out; only "
    "that the code runs, and that results are right, is shown."
)


@dataclass(frozen=True)
class Goal:
    """PyTorch's time over tilegrad's for one workload, and how much it should be."""

    text: str
    workload: str
    least: float


GOALS = (
    Goal("fp32 GEMM 4096, of cuBLAS", "matmul:b1m4096k4096n4096", 0.7),
    Goal("fp32 convolution, of cuDNN", "conv2d:n128h56w56c64f64k3s1same", 0.6),
    Goal("fp32 convolution, of cuDNN", "conv2d:n128h14w14c256f256k3s1same", 0.6),
    Goal("first layer with pooling", "conv2d_pool:n1024h28w28c1f32k3p2valid", 1),
    Goal("softmax-cross-entropy", "softmax_cross_entropy:r512c50304", 1),
    Goal("2x2 max pooling", "max_pool2d:n1024h26w26c32k2s2valid", 1),
    Goal("2x2 max pooling, backward", "max_pool2d_dx:n1024h26w26c32k2s2valid", 1),
    Goal("Adam, of the fused one", "adam:n33554432t8", 0.95),
)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column left, the others right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *(map(_plain, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """What a cell can hold of a program's message."""
    return " ".join(text.replace("|", "/").split())


def duration(seconds: float | None) -> str:
    """Three digits of ns, us, ms or s."""
    if seconds is None:
        return "-"
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def without_result(row: dict) -> str | None:
    """Why a row has no figures, in words."""
    return row.get("failed") or row.get("left_out")


# --- the parts ------------------------------------------------------------------------------------


def goals(rows: list[dict]) -> str:
    """Every goal, reached or not."""
    reached = {row["workload"]: row.get("ratio") for row in rows if row["library"] == "torch"}
    lines = []
    for goal in GOALS:
        ratio = reached.get(goal.workload)
        verdict = "reached" if ratio is not None and ratio >= goal.least else "MISSED"
        name = f"{goal.text}: `{goal.workload}`"
        lines.append(
            [name, f"{goal.least:g}", times(ratio), "not measured" if ratio is None else verdict]
        )
    return table(["goal", "PyTorch / tilegrad, at least", "measured", ""], lines)


def ceilings(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        name, why = row["ceiling"], without_result(row)
        if why:
            text = why
        elif name == "copy":
            text = rate(row["rate"], "TB/s")
        elif name.startswith("gemm"):
            text = f"{rate(row['rate'], 'TFLOP/s')}, relative error {row['error']:.1e}"
        else:
            seconds = {key: value for key, value in row.items() if key.endswith("_seconds")}
            text = ", ".join(f"{key[:-8]} {duration(value)}" for key, value in seconds.items())
        lines.append([name, text])
    return table(["ceiling", ""], lines)


def rate(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value / 1e12:.2f} {unit}"


def kernels(rows: list[dict], copy_rate: float | None, gemm_rate: float | None) -> str:
    """A line for each workload: tilegrad beside the fastest peer."""
    lines = []
    for workload in dict.fromkeys(row["workload"] for row in rows):
        of_it = [row for row in rows if row["workload"] == workload]
        ours = next((r for r in of_it if r["library"] in ("tilegrad", "")), None)
        if ours is None or ours["status"] != "ok":
            why = f"{ours['status']}: {ours['reason']}" if ours else "not measured"
            lines.append([f"`{workload}`", why, *["-"] * 4])
            continue
        seconds = ours.get("seconds")
        peers = [row for row in of_it if row is not ours and row.get("seconds")]
        peer = min(peers, key=lambda row: row["seconds"], default=None)
        share = "-"
        if seconds and copy_rate and gemm_rate:
            bytes_share = ours["bytes"] / copy_rate / seconds
            flops_share = ours["flops"] / gemm_rate / seconds
            share = f"{max(bytes_share, flops_share):.0%} "
            share += "FLOP" if flops_share > bytes_share else "bytes"
        lines.append(
            [
                f"`{workload}`",
                duration(seconds) if seconds else "right",
                share,
                f"{duration(peer['seconds'])} ({way(peer)})" if peer else "-",
                times(peer["ratio"]) if peer else "-",
                f"{ours['noise']:.1%}" if seconds else "-",
            ]
        )
    head = ["kernel", "tilegrad", "of the ceiling", "fastest peer", "peer / tilegrad", "noise"]
    return table(head, lines)


def way(row: dict) -> str:
    """The library, and which of its calls; settings that all its rows share stand before that."""
    return ", ".join(filter(None, [row["label"], row["setting"].rpartition("; ")[2]]))


def refused(rows: list[dict]) -> str:
    """The peers that have no time, and why."""
    lines = [
        [f"`{row['workload']}`", row["label"], row["status"], row["reason"]]
        for row in rows
        if row["status"] != "ok" and row["library"] not in ("tilegrad", "")
    ]
    return table(["kernel", "peer", "", ""], lines) if lines else ""


def training(rows: list[dict]) -> str:
    names = list(dict.fromkeys(n for row in rows for n in row.get("contenders", ())))
    lines = []
    for row in rows:
        if without_result(row):
            lines.append([str(row["batch"]), without_result(row), *[""] * (len(names) - 1)])
            continue
        cells = []
        for name in names:
            cell = row["contenders"].get(name)
            cells.append(
                "not measured"
                if cell is None
                else f"{duration(cell['step_seconds'])}, {duration(cell['epoch_seconds'])} "
                f"({times(cell['ratio'])})"
            )
        lines.append([str(row["batch"]), *cells])
    lines.sort(key=lambda line: int(line[0]))
    return table(["batch", *names], lines)


def checks(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        wrong = row.get("failed")
        details = wrong or ", ".join(f"{k} {v}" for k, v in row.items() if k != "check")
        lines.append([row["check"], "FAILED" if wrong else "passed", details])
    return table(["check", "", ""], lines)


# --- all of it ------------------------------------------------------------------------------------


def ceiling_of(results: dict, name: str) -> float | None:
    rows = results.get("ceilings", {}).get("rows", [])
    return next((row.get("rate") for row in rows if row["ceiling"] == name), None)


def report(results: dict) -> str:
    """`results`: what gpu_check keeps in results.json."""
    parts = results["parts"]
    text = [f"# {results['name']}", ""]
    if results["rehearsal"]:
        text += [REHEARSAL, ""]
    text += [f"{results['date']}, tilegrad {results['commit']}", "", "## Parts", ""]
    lines = [
        [name, part["verdict"], f"{part['seconds']:.0f} s", part.get("note", "")]
        for name, part in parts.items()
    ]
    text += [table(["part", "", "took", ""], lines), ""]
    found = {name: part["results"] for name, part in parts.items() if part.get("results")}
    device = next((part["device"] for part in found.values() if "device" in part), None)
    if device:
        text += ["## Settings", "", *(f"- {key}: {value}" for key, value in device.items()), ""]
    if "kernels" in found:
        text += ["## Goals", "", goals(found["kernels"]["rows"]), ""]
    if "checks" in found:
        text += ["## Checks", "", checks(found["checks"]["rows"]), ""]
    if "ceilings" in found:
        text += ["## Ceilings", "", ceilings(found["ceilings"]["rows"]), ""]
    if "kernels" in found:
        rates = ceiling_of(found, "copy"), ceiling_of(found, "gemm fp32 8192")
        rows = found["kernels"]["rows"]
        explained = (
            "`tilegrad bench`: median seconds per call by CUDA events, in turns; ratios are "
            "medians over the rounds, above 1 tilegrad is faster. "
            "Noise: half a 95% confidence interval."
        )
        text += ["## Kernels", "", explained, "", kernels(rows, *rates), "", refused(rows), ""]
    if "training" in found:
        explained = (
            "The small CNN: seconds per step, per epoch on the wall, and how many times tilegrad's."
        )
        text += ["## Training", "", explained, "", training(found["training"]["rows"]), ""]
    return "\n".join(text)
