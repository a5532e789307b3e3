"""Who computes: a module per library. See `base.Library` and `base.Instance`."""

from __future__ import annotations

from collections.abc import Sequence

from ... import backend
from .base import Library
from .cupy_ import Cupy
from .jax_ import Jax
from .numpy_ import Numpy
from .onnxruntime_ import OnnxRuntime
from .tensorflow_ import TensorFlow
from .tilegrad_ import Tilegrad
from .torch_ import Torch
from .torch_compiled_ import TorchCompiled
from .torch_onednn_ import TorchOneDnn


def all_libraries(device: str = "cpu", isas: Sequence[str] | None = None) -> list[Library]:
    """Every library that may compute on `device`, tilegrad first; `absent()` says which cannot.

    Args:
        device: "cpu", "cuda" or "sim".
        isas: on "cpu", the instruction sets that tilegrad appears with; None is the best one.

    Raises:
        ValueError: there is no such device or instruction set.
    """
    if device == "cpu":
        isas = [backend.get("cpu").name] if isas is None else list(isas)
        unknown = sorted(set(isas) - set(backend.ISAS))
        if unknown:
            raise ValueError(f"isas: expected some of {', '.join(backend.ISAS)}, got {unknown}")
        peers = (Numpy(), Torch(), TorchOneDnn(), TorchCompiled(), Jax(), TensorFlow())
        return [*map(Tilegrad, isas), *peers, OnnxRuntime()]
    if device == "cuda":
        return [Tilegrad("cuda"), Torch("cuda"), TorchCompiled("cuda"), Cupy()]
    if device == "sim":
        return [Tilegrad("sim")]
    raise ValueError(f"device: expected cpu, cuda or sim, got {device!r}")
