"""tilegrad: plain `fit`."""

from __future__ import annotations

import tilegrad
from tilegrad import keras

from .keras_model import KerasTrainer

VERSION = tilegrad.__version__


def prepare(network, batch, threads):
    tilegrad.set_num_threads(threads)
    return KerasTrainer(keras, network, batch)
