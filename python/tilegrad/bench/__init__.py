"""The harness behind ``tilegrad bench``: workloads proved, then timed in turns against peers."""

from . import workloads

__all__ = ["workloads"]
