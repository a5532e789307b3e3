"""Tensor and PyTorch share memory through DLPack, both ways."""

import numpy as np
import pytest
from torch_checks import torch

import tilegrad


def test_pytorch_sees_our_memory():
    t = tilegrad.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    other = torch.from_dlpack(t)
    other[0, 0] = 9
    assert t[0, 0].item() == 9 and other.data_ptr() == t.data.ctypes.data


def test_we_see_pytorchs_memory():
    other = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    t = tilegrad.from_dlpack(other)
    other[1, 2] = -1
    assert t[1, 2].item() == -1 and other.data_ptr() == t.data.ctypes.data


def test_computed_memory_outlives_its_tensor():
    other = torch.from_dlpack(tilegrad.ops.exp(np.zeros(1000, np.float32)))
    tilegrad.ops.exp(np.ones(1000, np.float32))  # would take the block if it were free
    assert (other == 1).all()


def test_a_transposed_tensor_is_copied_into_our_layout():
    other = torch.arange(6, dtype=torch.float32).reshape(2, 3).T
    assert tilegrad.from_dlpack(other).numpy().tolist() == other.tolist()


def test_a_tensor_with_a_gradient_is_not_exported():
    t = tilegrad.Tensor([1.0], requires_grad=True)
    with pytest.raises((BufferError, RuntimeError), match="detach"):
        torch.from_dlpack(t)
    assert torch.from_dlpack(t.detach()).item() == 1
