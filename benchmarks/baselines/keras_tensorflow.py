"""Keras on TensorFlow: plain `fit`, TensorFlow's threads limited."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow

from .keras_model import build, epoch_of


def prepare(network, batch, threads):
    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    keras.utils.set_random_seed(1)
    return epoch_of(build(keras, network), batch)
