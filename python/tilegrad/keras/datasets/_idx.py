"""Reader of IDX files, the format of MNIST and its relatives, plain or gzip.

An IDX file is ``0 0 type ndim`` (one byte each), ``ndim`` sizes of four bytes, then the elements in
C order, all big-endian. Source: http://yann.lecun.com/exdb/mnist/ ("The IDX file format").
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import os
import struct
import zlib

import numpy as np

_DTYPES = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_MAX_NDIM = 8
_CHUNK = 1 << 20


def read_idx(source, shape=None, dtype=None, sha256=None, max_bytes=1 << 30):
    """Array in an IDX file, plain or gzip (found by its first bytes, not by its name).

    Nothing is trusted: the sizes in the header bound what is read, `max_bytes` bounds the sizes,
    and memory grows only with bytes that really arrive, so neither a lying header nor a gzip bomb
    costs more than its data.

    Args:
      source: path, or an open binary file.
      shape: expected shape; None accepts any.
      dtype: expected dtype; None accepts any of IDX's six types.
      sha256: expected hash, in hex, of the whole decompressed content; None skips the check.
      max_bytes: largest acceptable array, in bytes.

    Returns:
      A writable array of the host's byte order.

    Raises:
      ValueError: the message names the file, what was expected and what came.
      OSError: the file cannot be opened or read.

    Example:
      >>> import io
      >>> read_idx(io.BytesIO(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9])))
      array([7, 8, 9], dtype=uint8)
    """
    name = str(getattr(source, "name", source) if hasattr(source, "read") else os.fspath(source))
    with contextlib.ExitStack() as stack:
        if not hasattr(source, "read"):
            source = stack.enter_context(open(source, "rb"))
        elif getattr(source, "closed", False):
            raise ValueError(f"{name}: expected an open file, got a closed one")
        try:
            return _read(source, name, shape, dtype, sha256, max_bytes)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{name}: expected a complete gzip stream, got a broken one: {error}"
            ) from error


def _read(file, name, shape, dtype, sha256, max_bytes):
    start = _read_up_to(file, 2)
    file = _Rewound(start, file)
    if start == b"\x1f\x8b":
        file = gzip.GzipFile(fileobj=file)

    header = _read_up_to(file, 4)
    if len(header) < 4:
        raise ValueError(f"{name}: expected an IDX header of 4 bytes, got {len(header)}")
    zeros, code, ndim = header[:2], header[2], header[3]
    if zeros != b"\0\0" or code not in _DTYPES:
        raise ValueError(
            f"{name}: expected an IDX magic number (00 00, type 08 to 0e, rank), "
            f"got {header.hex(' ')}"
        )
    if ndim > _MAX_NDIM:
        raise ValueError(f"{name}: expected at most {_MAX_NDIM} axes, got {ndim}")
    sizes = _read_up_to(file, 4 * ndim)
    if len(sizes) < 4 * ndim:
        raise ValueError(f"{name}: expected {4 * ndim} bytes of axis sizes, got {len(sizes)}")

    found_shape = struct.unpack(f">{ndim}I", sizes)
    found_dtype = _DTYPES[code]
    if shape is not None and found_shape != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {found_shape}")
    if dtype is not None and found_dtype.newbyteorder("=") != np.dtype(dtype):
        raise ValueError(
            f"{name}: expected dtype {np.dtype(dtype)}, got {found_dtype.newbyteorder('=')}"
        )
    # An axis of size 0 must not excuse the others: NumPy cannot make such an array either.
    promised = math.prod(size or 1 for size in found_shape) * found_dtype.itemsize
    if promised > max_bytes:
        raise ValueError(
            f"{name}: expected an array of at most {max_bytes} bytes, "
            f"got a header that promises {promised} (shape {found_shape})"
        )
    wanted = math.prod(found_shape) * found_dtype.itemsize
    data = _read_up_to(file, wanted)
    if len(data) < wanted:
        raise ValueError(
            f"{name}: expected {wanted} bytes of shape {found_shape}, got only {len(data)}"
        )
    if file.read(1):
        raise ValueError(
            f"{name}: expected the end of the file after {wanted} bytes of data, got more"
        )
    if sha256 is not None:
        found = hashlib.sha256(header + sizes)
        found.update(data)
        if found.hexdigest() != sha256:
            raise ValueError(
                f"{name}: expected content with sha256 {sha256}, got {found.hexdigest()}"
            )
    array = np.frombuffer(data, dtype=found_dtype).reshape(found_shape)
    return array.astype(found_dtype.newbyteorder("="), copy=False)


def _read_up_to(file, size):
    """At most `size` bytes, fewer at the end of the file; never allocates ahead of what arrives."""
    data = bytearray()
    while len(data) < size:
        chunk = file.read(min(_CHUNK, size - len(data)))
        if not chunk:
            break
        if isinstance(chunk, str):
            raise ValueError("read_idx: expected a file opened in binary mode, got text mode")
        data += chunk
    return data


class _Rewound:
    """`file` with the bytes `start`, already taken, in front again; so pipes can be read too."""

    def __init__(self, start, file):
        self._start, self._file = bytes(start), file

    def read(self, size):
        taken, self._start = self._start[:size], self._start[size:]
        return taken or self._file.read(size)
