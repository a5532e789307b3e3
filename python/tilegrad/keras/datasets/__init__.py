"""Datasets: `digits` is in the package; `mnist` and `fashion_mnist` are found or downloaded."""

from . import digits, fashion_mnist, mnist

__all__ = ["digits", "fashion_mnist", "mnist"]
