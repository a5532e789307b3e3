"""Keras on TensorFlow: plain `fit`, TensorFlow's threads limited."""

from __future__ import annotations

import os

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="2")

import keras
import tensorflow

from .keras_model import KerasTrainer

VERSION = f"{tensorflow.__version__}, Keras {keras.__version__}"


def prepare(network, batch, threads):
    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    return KerasTrainer(keras, network, batch)
