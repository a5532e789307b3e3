"""tilegrad: plain `fit`."""

import tilegrad
from tilegrad import keras

from .keras_model import build, epoch_of


def prepare(network, batch, threads):
    tilegrad.set_num_threads(threads)
    keras.utils.set_random_seed(1)
    return epoch_of(build(keras, network), batch)
