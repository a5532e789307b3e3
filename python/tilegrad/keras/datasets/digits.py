"""Handwritten digits that need no network: 1,797 images of 8x8 pixels, inside the package.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0; the test part. digits.txt, beside the
file, says how it was made.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ._npz import read_npz

_COUNT = 1797
_FILE = Path(__file__).with_name("digits.npz")


def load_data():
    """The digits, 1,442 to learn from and 355 to test on, as Keras's datasets come.

    Pixels are 0..16, not 0..255: divide by 16. Of each digit every fifth image, in UCI's order, is
    a test image, so both parts hold every digit and every writer. An accuracy on them says nothing
    about new writers, who are harder: the small CNN reaches 0.98 here, and about 0.92 where the
    last 360 images are the test.

    Returns:
      ``(x_train, y_train), (x_test, y_test)``, uint8: x of shape (n, 8, 8), y of shape (n,).

    Raises:
      ValueError: the file inside the package is damaged.

    Source: UCI Machine Learning Repository, id 80, CC BY 4.0.

    Example:
      >>> (x_train, y_train), (x_test, y_test) = load_data()
      >>> x_train.shape, y_train.shape, x_test.shape, int(x_train.max())
      ((1442, 8, 8), (1442,), (355, 8, 8), 16)
    """
    arrays = read_npz(_FILE, {"x": ((_COUNT, 8, 8), np.uint8), "y": ((_COUNT,), np.uint8)})
    x, y = arrays["x"], arrays["y"]
    test = np.zeros(_COUNT, bool)
    for digit in range(10):
        test[np.flatnonzero(y == digit)[4::5]] = True
    return (x[~test], y[~test]), (x[test], y[test])
