"""Reading and writing safetensors files: atomic, checked, no pickle."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

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
    only then renamed.

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
        # Made here first: for an OSError of the right kind, and for permissions as the umask says,
        # which the library would leave at 0600.
        with open(temporary, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        safetensors.numpy.save_file(
            {key: np.asarray(value, order="C") for key, value in tensors.items()},
            temporary,
            metadata,
        )
        os.chmod(temporary, mode)
        _flush(temporary)
        os.replace(temporary, target)
        _flush_folder(folder)
    except SafetensorError as error:
        raise OSError(f"cannot write {path!r}: {error}") from error
    except OSError as error:
        raise type(error)(f"cannot write {path!r}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


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


def _flush(path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder) -> None:
    """Make the rename itself durable, where the system can flush folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
