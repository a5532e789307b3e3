"""PyTorch compiled by TorchInductor: a workload's function as a whole, so that it may be fused."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from types import FunctionType

from ..workload import Way, Workload
from .torch_ import Torch

MODES = ("default", "max-autotune-no-cudagraphs")


class TorchCompiled(Torch):
    """torch.compile, in the modes that matter without CUDA graphs; the fastest way counts.

    Only workloads where it may differ from eager PyTorch have ways: what can be fused. A way is
    compiled by its first call, which takes seconds.
    """

    name, label, optional = "torch_compiled", "torch.compile", True

    def absent(self) -> str | None:
        reason = super().absent()
        if (
            reason is None
            and self.device == "cpu"
            and not any(map(shutil.which, ("g++", "clang++")))
        ):
            reason = "torch.compile needs a C++ compiler: g++ or clang++ in the PATH"
        return reason

    def ways(self, workload: Workload) -> Sequence[Way]:
        return [
            dataclasses.replace(
                way, setting=f"{mode}: {way.setting}", function=compiled(way.function, mode)
            )
            for way in super().ways(workload)
            for mode in MODES
        ]


def compiled(function: FunctionType, mode: str) -> Callable:
    """`function` as one graph, compiled for the shapes that it meets."""
    import torch

    # PyTorch keeps what it compiled with the code object, looks through all of it in each call, and
    # gives up after eight: so each workload gets a code object of its own.
    own = FunctionType(
        function.__code__.replace(),
        *(function.__globals__, function.__name__, function.__defaults__, function.__closure__),
    )
    return torch.compile(own, mode=mode, dynamic=False, fullgraph=True)
