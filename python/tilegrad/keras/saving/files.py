"""Reading and writing safetensors files: atomic, checked, no pickle."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import secrets
import tempfile
import time

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from ... import backend
from ...interrupts import uninterrupted

SUFFIX = ".safetensors"
_FOREIGN = (".weights.h5", ".h5", ".hdf5", ".keras")


def check_suffix(path, what) -> str:
    """`path` as a string, if it ends in ``.safetensors``.

    Raises:
        ValueError: another suffix, or a file object instead of a path.
    """
    if hasattr(path, "read") or hasattr(path, "write"):
        state = "a closed" if getattr(path, "closed", False) else "an open"
        name = getattr(path, "name", type(path).__name__)
        raise ValueError(f"{what}: expected a path, got {state} file object ({name!r})")
    path = os.fsdecode(path)
    if not path.endswith(SUFFIX):
        foreign = next((suffix for suffix in _FOREIGN if path.endswith(suffix)), None)
        stem = path.removesuffix(foreign) if foreign else os.path.splitext(path)[0]
        why = f" ({foreign} files are not supported)" if foreign else ""
        raise ValueError(
            f"{what}: expected a path that ends in {SUFFIX}, got {path!r}{why}; "
            f"use {stem + SUFFIX!r}"
        )
    return path


def check_writable(path) -> None:
    """Find out now whether a file can later be written at `path`, whose folder may not exist yet.

    Raises:
        OSError: it cannot.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(f"cannot write {path!r}: it is a folder")
    folder = os.path.abspath(os.path.dirname(path) or ".")
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(f"cannot write {path!r}: {error.strerror} ({folder!r})") from error


def write(path, tensors, metadata) -> None:
    """Write a safetensors file so that `path` holds either its old content or all of the new one.

    The file is made complete under a temporary name in the same folder, flushed to the disk and
    only then renamed. What a killed writer left there is deleted by a later write.

    Args:
        path: where to; a symbolic link is followed.
        tensors: dict from name to array.
        metadata: dict from string to string.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; `path` is as it was
            then.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    if os.path.isdir(target):
        raise IsADirectoryError(f"cannot write {path!r}: it is a folder")
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.tmp")
    try:
        content = safetensors.numpy.save(
            {key: np.asarray(backend.to_numpy(value), order="C") for key, value in tensors.items()},
            metadata,
        )
        with uninterrupted():
            _write_and_rename(content, temporary, target)
            _delete_leftovers(target)
    except OSError as error:
        raise type(error)(f"cannot write {path!r}: {error.strerror or error}") from error


def _write_and_rename(content, temporary, target) -> None:
    try:
        with open(temporary, "xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, target)
        _flush_folder(os.path.dirname(target))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def delete(path) -> None:
    """Delete what `write` made at `path`, if anything, and what killed writers left beside it."""
    target = os.path.realpath(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    _delete_leftovers(target, age=0)


def _delete_leftovers(target, age=60) -> None:
    """Delete the temporary files of killed writers: a live one holds a lock, once it has begun.

    Files younger than `age` seconds stay, since their writer may be about to take the lock.
    """
    folder, name = os.path.split(target)
    for path in glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(name)}.*.tmp")):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(file.fileno()).st_mtime >= age:
                os.unlink(path)


def read(path):
    """The tensors and the metadata of a safetensors file.

    Returns:
        Two dicts: name to array, and string to string.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not a whole, sane safetensors file; the message names it.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        tensors = safetensors.numpy.load(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path!r}: expected a complete safetensors file, got {len(content)} bytes "
            f"that are not one ({error})"
        ) from error
    return tensors, metadata


def _flush_folder(folder) -> None:
    """Make the rename itself durable, where the system can flush folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
