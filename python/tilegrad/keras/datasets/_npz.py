"""Reader of .npz archives whose contents are known beforehand; never unpickles."""

from __future__ import annotations

import lzma
import math
import os
import zipfile
import zlib

import numpy as np
from numpy.lib import format as npy


def read_npz(source, members):
    """Arrays of a .npz archive, which must hold exactly what `members` says.

    Each member's header is compared with the expectation before any element is read, and no more
    bytes are unpacked than the expected array has, so a hostile archive can cost neither memory nor
    trust (object arrays, which need pickle, are refused like any other wrong dtype).

    Args:
      source: path, or an open binary file that can seek.
      members: dict, name -> (shape, dtype).

    Returns:
      dict, name -> writable C-contiguous array.

    Raises:
      ValueError: the message names the file, what was expected and what came.
      OSError: the file cannot be opened or read.

    Example:
      >>> import io
      >>> file = io.BytesIO()
      >>> np.savez(file, x=np.arange(3, dtype=np.uint8))
      >>> read_npz(file, {"x": ((3,), np.uint8)})
      {'x': array([0, 1, 2], dtype=uint8)}
    """
    is_file = hasattr(source, "read")
    name = str(getattr(source, "name", "npz file") if is_file else os.fspath(source))
    if is_file and getattr(source, "closed", False):
        raise ValueError(f"{name}: expected an open file, got a closed one")
    try:
        with zipfile.ZipFile(source) as archive:
            found = sorted(archive.namelist())
            wanted = sorted(f"{key}.npy" for key in members)
            if found != wanted:
                shown = found if len(found) <= 8 else [*found[:8], "..."]
                raise ValueError(f"{name}: expected the members {wanted}, got {shown}")
            return {
                key: _read_member(archive, f"{key}.npy", f"{name}[{key!r}]", shape, np.dtype(dtype))
                for key, (shape, dtype) in members.items()
            }
    # RuntimeError: an encrypted member; NotImplementedError: an unknown compression.
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise ValueError(
            f"{name}: expected a sound .npz archive, got a broken one: {error}"
        ) from error


def _read_member(archive, member, name, shape, dtype):
    with archive.open(member) as file:
        try:
            version = npy.read_magic(file)
            if version != (
                1,
                0,
            ):  # later versions serve headers above 64 kB, which no plain array needs
                raise ValueError(f"format version {version}, not (1, 0)")
            found_shape, fortran_order, found_dtype = npy.read_array_header_1_0(file)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: expected an .npy header, got: {error}") from error
        if found_shape != tuple(shape) or found_dtype != dtype:
            raise ValueError(
                f"{name}: expected shape {tuple(shape)} and dtype {dtype}, "
                f"got {found_shape} and {found_dtype}"
            )
        wanted = math.prod(shape) * dtype.itemsize
        data = bytearray(file.read(wanted))
        if len(data) < wanted:
            raise ValueError(f"{name}: expected {wanted} bytes of data, got only {len(data)}")
        if file.read(1):
            raise ValueError(
                f"{name}: expected the end of the member after {wanted} bytes, got more"
            )
    array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.ascontiguousarray(array)
