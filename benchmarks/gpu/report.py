"""What the parts of scripts/gpu_check found, as Markdown: one table for each, goals first."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

REHEARSAL = (
    "**Rehearsal in the simulator, not on a GPU.** Sizes are tiny and times are left out; only "
    "that the code runs, and that results are right, is shown."
)


@dataclass(frozen=True)
class Goal:
    """PyTorch's time over tilegrad's in one row, and how much it should be."""

    text: str
    kernel: str
    shape: str
    least: float


GOALS = (
    Goal("fp32 GEMM 4096, of cuBLAS", "matmul_forward", "4096 x 4096 x 4096", 0.7),
    Goal("fp32 convolution, of cuDNN", "conv2d_forward", "256 x 56 x 56 x 64 x 64 x 3 x 1", 0.6),
    Goal("fp32 convolution, of cuDNN", "conv2d_forward", "256 x 14 x 14 x 256 x 256 x 3 x 1", 0.6),
    Goal("first layer with pooling", "conv2d_max_pool2d_forward", "1024 x 28 x 28 x 1 x 32 x 0", 1),
    Goal("softmax-cross-entropy", "softmax_cross_entropy", "8192 x 50304", 1),
    Goal("2x2 max pooling", "max_pool2d_forward", "1024 x 26 x 26 x 32", 1),
    Goal("2x2 max pooling, backward", "max_pool2d_backward_dx", "1024 x 26 x 26 x 32", 1),
    Goal("Adam, of the fused one", "adam_update", "117,469,184 parameters in 14", 0.95),
)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column left, the others right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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


def middle(values) -> float | None:
    return statistics.median(values) if values else None


def without_result(row: dict) -> str | None:
    """Why a row has no figures, in words."""
    return row.get("failed") or row.get("left_out")


# --- the parts ------------------------------------------------------------------------------------


def goals(rows: list[dict]) -> str:
    """Every goal, reached or not."""
    found = {(row["kernel"], row["shape"]): row for row in rows}
    lines = []
    for goal in GOALS:
        row = found.get((goal.kernel, goal.shape))
        reached, verdict = None, "not measured"
        if row is not None and not without_result(row) and row["gpu_ratio"] is not None:
            reached = row["gpu_ratio"]
            verdict = "reached" if reached >= goal.least else "MISSED"
        name = f"{goal.text}: `{goal.kernel}` {goal.shape}"
        lines.append([name, f"{goal.least:g}", times(reached), verdict])
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
    lines = []
    for row in rows:
        name = f"`{row['kernel']}` {row['shape']}"
        if without_result(row):
            lines.append([name, without_result(row), *["-"] * 8])
            continue
        ours = row["contenders"]["tilegrad"]
        tf32 = [middle(c["gpu"]) for c in row["contenders"].values() if c["tf32"] and c["gpu"]]
        seconds = middle(ours["gpu"])
        share = "-"
        if seconds and copy_rate and gemm_rate:
            bytes_share = row["bytes"] / copy_rate / seconds
            flops_share = row["flops"] / gemm_rate / seconds
            share = f"{max(bytes_share, flops_share):.0%} "
            share += "FLOP" if flops_share > bytes_share else "bytes"
        peer = row["contenders"][row["peer"]]
        lines.append(
            [
                name,
                f"{duration(seconds)} ({row['timed']})" if seconds else "-",
                duration(middle(ours["wall"])),
                share,
                f"{duration(middle(peer['gpu']))} ({row['peer'].removeprefix('PyTorch, ')})"
                if seconds
                else "-",
                times(row["gpu_ratio"]),
                times(row["wall_ratio"]),
                duration(min(tf32)) if tf32 else "-",
                times(row.get("gpu_cupy_ratio")),
                "-" if row["noise"] is None else f"{row['noise']:.1%}",
            ]
        )
    head = ["kernel", "tilegrad, GPU", "wall", "of the ceiling", "PyTorch fp32, best", "ratio, GPU"]
    head += ["ratio, wall", "PyTorch tf32", "CuPy / tilegrad", "noise"]
    return table(head, lines)


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
        details = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("check", "failed"))
        lines.append([row["check"], "FAILED" if row.get("failed") else "passed", details])
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
    device = next((part["device"] for part in found.values()), None)
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
        explained = (
            "Times per call by CUDA events, medians of rounds taken in turns; ratios are medians "
            "over the rounds, above 1 tilegrad is faster. PyTorch's fp32 has both tf32 flags off. "
            "Noise: how far tilegrad's own time moved between two turns of a round."
        )
        text += ["## Kernels", "", explained, "", kernels(found["kernels"]["rows"], *rates), ""]
    if "training" in found:
        explained = (
            "The small CNN: seconds per step, per epoch on the wall, and how many times tilegrad's."
        )
        text += ["## Training", "", explained, "", training(found["training"]["rows"]), ""]
    return "\n".join(text)
