"""The network in Keras's API, the same lines for tilegrad and for Keras."""

from __future__ import annotations

import numpy as np


def build(keras, network):
    """A compiled `Sequential` of `keras` with the network's initial weights."""
    layers = keras.layers
    model = keras.Sequential([layers.Input(network.image)])
    for block in network.blocks:
        for filters in block:
            model.add(layers.Conv2D(filters, 3, padding=network.padding, activation="relu"))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    model.add(layers.Dense(network.units, activation="relu"))
    model.add(layers.Dense(10, activation="softmax"))
    model.set_weights(network.weights())
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class KerasTrainer:
    """Plain `fit` and `predict`."""

    def __init__(self, keras, network, batch: int):
        self._keras, self._batch = keras, batch
        self._model = build(keras, network)

    def restart(self, weights, seed):
        self._keras.utils.set_random_seed(seed)
        self._model.set_weights(weights)
        for variable in self._model.optimizer.variables:
            if variable.name != "learning_rate":  # moments and the count of steps
                variable.assign(np.zeros(variable.shape, variable.dtype))

    def images(self, x):
        return x

    def epoch(self, images, labels):
        return self._model.fit(images, labels, self._batch, verbose=0).history["loss"][0]

    def weights(self):
        return self._model.get_weights()

    def predict(self, images):
        return self._model.predict(images, batch_size=500, verbose=0).argmax(axis=1)
