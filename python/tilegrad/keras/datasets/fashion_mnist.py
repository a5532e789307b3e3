"""Fashion-MNIST: 70,000 images of clothes, 28x28 pixels. Zalando Research; MIT licence."""

from __future__ import annotations

from ._sources import Source

_SOURCE = Source(
    name="fashion_mnist",
    folder="fashion-mnist",
    idx_mirrors=(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    # Of the .gz files as Zalando published them (their README lists the same files' md5).
    sha256={
        "x_train": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "y_train": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "x_test": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "y_test": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)


def load_data():
    """Fashion-MNIST: 60,000 images to learn from and 10,000 to test on.

    Looks in $TILEGRAD_DATA (fashion-mnist/ with the four IDX files, gzip or not), then in Keras's
    cache, then downloads into that cache, from several mirrors, and checks the sha256. Labels: 0
    T-shirt, 1 trousers, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle
    boot.

    Returns:
      ``(x_train, y_train), (x_test, y_test)``, uint8: x of shape (n, 28, 28) with pixels 0..255, y
      of shape (n,).

    Raises:
      OSError: no place has it; the message names each and why.
      ValueError: a file in $TILEGRAD_DATA is damaged or something else.

    Source: Xiao, Rasul, Vollgraf 2017, https://arxiv.org/abs/1708.07747; signature of Keras 3.

    Example:
      >>> (x_train, y_train), (x_test, y_test) = load_data()  # doctest: +SKIP
      >>> x_train.shape  # doctest: +SKIP
      (60000, 28, 28)
    """
    return _SOURCE.load()
