"""MNIST: 70,000 handwritten digits of 28x28 pixels. LeCun, Cortes, Burges; CC BY-SA 3.0."""

from __future__ import annotations

from ._sources import Source

_SOURCE = Source(
    name="mnist",
    folder="mnist",
    npz_mirrors=(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        "https://s3.amazonaws.com/img-datasets/mnist.npz",
    ),
    idx_mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    hash_content=True,
    sha256={
        "npz": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        "x_train": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "y_train": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "x_test": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "y_test": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)


def load_data(path="mnist.npz"):
    """MNIST: 60,000 images to learn from and 10,000 to test on.

    Looks in $TILEGRAD_DATA (mnist/ with the four IDX files, gzip or not, or mnist.npz), then in
    Keras's cache, then downloads into that cache, from several mirrors, and checks the sha256.

    Args:
      path: name of the .npz file in Keras's cache; an absolute path is taken as it is.

    Returns:
      ``(x_train, y_train), (x_test, y_test)``, uint8: x of shape (n, 28, 28) with pixels 0..255, y
      of shape (n,) with digits 0..9.

    Raises:
      OSError: no place has it; the message names each and why.
      ValueError: a file in $TILEGRAD_DATA is damaged or something else.

    Source: http://yann.lecun.com/exdb/mnist/; signature of Keras 3.

    Example:
      >>> (x_train, y_train), (x_test, y_test) = load_data()  # doctest: +SKIP
      >>> x_train.shape  # doctest: +SKIP
      (60000, 28, 28)
    """
    return _SOURCE.load(path)
