"""Models: `Sequential` and the base class `Model`."""

from ..saving import load_model, save_model
from .model import Model
from .sequential import Sequential

__all__ = ["Model", "Sequential", "load_model", "save_model"]
