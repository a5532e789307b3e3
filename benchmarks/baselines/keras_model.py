"""The network in Keras's API, the same lines for tilegrad and for Keras."""


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


def epoch_of(model, batch):
    return lambda x, labels: model.fit(x, labels, batch, verbose=0).history["loss"][0]
