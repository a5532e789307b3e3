"""Where a dataset may be: $TILEGRAD_DATA, Keras's cache, mirrors on the network; in this order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..utils.file_utils import check_hash, download, keras_home
from ._idx import read_idx
from ._npz import read_npz

# The four arrays of MNIST and of everything made in its image: members of the .npz, names of the
# IDX files, shapes.
STEMS = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
SHAPES = {
    "x_train": (60000, 28, 28),
    "y_train": (60000,),
    "x_test": (10000, 28, 28),
    "y_test": (10000,),
}
_CLASSES = 10
_MAX_DOWNLOAD = 1 << 27  # bytes; the largest known file has 26 million


@dataclass(frozen=True)
class Source:
    """One dataset: its folder, mirrors and hashes.

    `sha256` maps an array's name, or "npz", to the hash that a download and a cached copy must
    have: of the file as it lies there or, with `hash_content`, of an IDX file's decompressed
    content, since gzip files of the same content differ between mirrors. Files in $TILEGRAD_DATA
    are the user's own: their form is checked, not their hash.
    """

    name: str
    folder: str
    sha256: dict
    idx_mirrors: tuple
    npz_mirrors: tuple = ()
    hash_content: bool = False
    shapes: dict = None

    def load(self, npz_name="mnist.npz"):
        """``(x_train, y_train), (x_test, y_test)`` from the first place that has them.

        Raises OSError, which names every place and why it did not serve, if none has.
        """
        tried = []
        arrays = (
            self._from_data_folder(tried)
            or self._from_cache(npz_name, tried)
            or self._from_mirrors(npz_name, tried)
        )
        if arrays is None:
            places = "\n".join(f"  {place}: {reason}" for place, reason in tried)
            raise OSError(
                f"{self.name}: expected its files in one of these places, got none:\n{places}\n"
                "Put the files into a folder and set TILEGRAD_DATA to it (docs/data.md), or use "
                "tilegrad.keras.datasets.digits, which needs no download."
            )
        for key in ("y_train", "y_test"):
            largest = arrays[key].max(initial=0)
            if largest >= _CLASSES:
                raise ValueError(
                    f"{self.name}: expected {key} in 0..{_CLASSES - 1}, got the label {largest}"
                )
        return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])

    def _shape(self, key):
        return (self.shapes or SHAPES)[key]

    def _from_data_folder(self, tried):
        root = os.environ.get("TILEGRAD_DATA")
        if not root:
            tried.append(("TILEGRAD_DATA", "not set"))
            return None
        folder = Path(root) / self.folder
        paths = {k: _existing(folder / f"{s}.gz", folder / s) for k, s in STEMS.items()}
        absent = [STEMS[key] for key, path in paths.items() if path is None]
        if not absent:
            return {k: read_idx(path, self._shape(k), np.uint8) for k, path in paths.items()}
        npz = _existing(folder / "mnist.npz", Path(root) / "mnist.npz")
        if npz and self.npz_mirrors:
            return self._read_npz(npz)
        tried.append((f"TILEGRAD_DATA={root}", f"no {absent[0]}[.gz] in {self.folder}/"))
        return None

    def _from_cache(self, npz_name, tried):
        for cache in _caches():
            if self.npz_mirrors:
                path = cache / npz_name
                try:
                    check_hash(path, self.sha256["npz"])
                    return self._read_npz(path)
                except (OSError, ValueError) as error:
                    tried.append((path, _reason(error)))
            folder = cache / self.folder
            try:
                return {
                    key: self._read_cached_idx(folder / f"{STEMS[key]}.gz", key) for key in STEMS
                }
            except (OSError, ValueError) as error:
                tried.append((folder, _reason(error)))
        return None

    def _from_mirrors(self, npz_name, tried):
        for url in self.npz_mirrors:
            path = _cache() / npz_name
            try:
                download(url, path, self._verify_npz, max_bytes=_MAX_DOWNLOAD)
                return self._read_npz(path)
            except (OSError, ValueError) as error:
                tried.append((url, str(error)))
        for mirror in self.idx_mirrors:
            try:
                return {key: self._fetch_idx(mirror, key) for key in STEMS}
            except (OSError, ValueError) as error:
                tried.append((mirror, str(error)))
        return None

    def _fetch_idx(self, mirror, key):
        path = _cache() / self.folder / f"{STEMS[key]}.gz"
        try:
            return self._read_cached_idx(path, key)  # an earlier mirror may have got this far
        except (OSError, ValueError):
            url = f"{mirror}{STEMS[key]}.gz"
            download(url, path, lambda p: self._read_cached_idx(p, key), max_bytes=_MAX_DOWNLOAD)
        return self._read_cached_idx(path, key)

    def _read_cached_idx(self, path, key):
        if self.hash_content:
            return read_idx(path, self._shape(key), np.uint8, sha256=self.sha256[key])
        check_hash(path, self.sha256[key])
        return read_idx(path, self._shape(key), np.uint8)

    def _verify_npz(self, path):
        check_hash(path, self.sha256["npz"])

    def _read_npz(self, path):
        return read_npz(path, {key: (self._shape(key), np.uint8) for key in STEMS})


def _cache():
    return keras_home() / "datasets"


def _caches():
    """The cache, then ~/.keras where it can be read but not written."""
    home = Path(os.path.expanduser("~"), ".keras")
    folders = [keras_home()] if os.environ.get("KERAS_HOME") else [keras_home(), home]
    return [folder / "datasets" for folder in dict.fromkeys(folders)]


def _existing(*paths):
    return next((path for path in paths if path.is_file()), None)


def _reason(error):
    return "no such file" if isinstance(error, FileNotFoundError) else str(error)
