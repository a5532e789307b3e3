"""Utilities of the Keras-style API."""

from .dataset import PyDataset, pack_x_y_sample_weight, unpack_x_y_sample_weight
from .dataset import PyDataset as Sequence
from .file_utils import get_file
from .numerical import normalize, to_categorical
from .progbar import Progbar
from .seed import set_random_seed

__all__ = [
    "Progbar",
    "PyDataset",
    "Sequence",
    "get_file",
    "normalize",
    "pack_x_y_sample_weight",
    "set_random_seed",
    "to_categorical",
    "unpack_x_y_sample_weight",
]
