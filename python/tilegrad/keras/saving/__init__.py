"""Saving and loading: safetensors files, written atomically; no pickle."""

from .state import load_model, load_weights, save_model, save_weights

__all__ = ["load_model", "load_weights", "save_model", "save_weights"]
