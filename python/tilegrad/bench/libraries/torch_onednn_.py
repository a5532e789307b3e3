"""oneDNN by way of PyTorch's internal operators, which only compiled programs call."""

from __future__ import annotations

from .torch_ import Torch


class TorchOneDnn(Torch):
    """oneDNN's products and fused convolutions, where PyTorch's own functions call something else.

    PyTorch multiplies matrices by MKL, which on processors of other makers than Intel is far from
    its best; oneDNN is in the same package, but no documented function gives a product to it.
    """

    name, label = "torch_onednn", "oneDNN in PyTorch"

    def absent(self):
        reason = super().absent()
        if reason is None:
            import torch  # only it knows

            if not torch.backends.mkldnn.is_available():
                reason = "this PyTorch was built without oneDNN"
        return reason
