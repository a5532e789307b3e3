"""Reader of .npz archives whose contents are known beforehand; never unpickles."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile

import numpy as np
from numpy.lib import format as npy

# What np.savez and np.savez_compressed use; only these two unpack no more than they are asked for.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ARCHIVE = "a sound .npz archive"


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
    with contextlib.ExitStack() as stack:
        if not is_file:
            source = stack.enter_context(open(source, "rb"))
        with _expecting(_ARCHIVE, name):
            archive = stack.enter_context(zipfile.ZipFile(source))
            found = sorted(archive.namelist())
        wanted = sorted(f"{key}.npy" for key in members)
        if found != wanted:
            shown = found if len(found) <= 8 else [*found[:8], "..."]
            raise ValueError(f"{name}: expected the members {wanted}, got {shown}")
        return {
            key: _read_member(archive, f"{key}.npy", f"{name}[{key!r}]", shape, np.dtype(dtype))
            for key, (shape, dtype) in members.items()
        }


def _read_member(archive, member, name, shape, dtype):
    compression = archive.getinfo(member).compress_type
    if compression not in _COMPRESSIONS:
        raise ValueError(
            f"{name}: expected a member stored (0) or deflated (8), got compression {compression}"
        )
    with contextlib.ExitStack() as stack:
        with _expecting(_ARCHIVE, name):
            file = stack.enter_context(archive.open(member))
        with _expecting("an .npy header", name):
            version = npy.read_magic(file)
            if version != (1, 0):  # later ones serve headers above 64 kB
                raise ValueError(f"format version {version}, not (1, 0)")
            found_shape, fortran_order, found_dtype = npy.read_array_header_1_0(file)
        if found_shape != tuple(shape) or found_dtype != dtype:
            raise ValueError(
                f"{name}: expected shape {tuple(shape)} and dtype {dtype}, "
                f"got {found_shape} and {found_dtype}"
            )
        wanted = math.prod(shape) * dtype.itemsize
        with _expecting(_ARCHIVE, name):
            data = bytearray(file.read(wanted))
            more = file.read(1)
    if len(data) < wanted:
        raise ValueError(f"{name}: expected {wanted} bytes of data, got only {len(data)}")
    if more:
        raise ValueError(f"{name}: expected the end of the member after {wanted} bytes, got more")
    array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.ascontiguousarray(array)


@contextlib.contextmanager
def _expecting(what, name):
    """One ValueError for the dozen types that zipfile and NumPy raise on hostile bytes."""
    try:
        yield
    except Exception as error:
        got = str(error) or type(error).__name__
        raise ValueError(f"{name}: expected {what}, got a broken one: {got}") from error
