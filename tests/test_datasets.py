"""Datasets: readers against damaged and hostile files, search order, failures of the network."""

import concurrent.futures
import contextlib
import gzip
import hashlib
import http.server
import io
import os
import re
import struct
import tempfile
import threading
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilegrad.keras.datasets import _sources, digits, fashion_mnist, mnist
from tilegrad.keras.datasets._idx import read_idx
from tilegrad.keras.datasets._npz import read_npz
from tilegrad.keras.datasets._sources import STEMS, Source
from tilegrad.keras.utils import get_file
from tilegrad.keras.utils.file_utils import download, keras_home

_REAL_DATA = os.environ.get("TILEGRAD_DATA")  # before the fixture `places` hides it

# --- IDX ------------------------------------------------------------------------------------------

CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx(array, code=0x08):
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.tobytes()


IMAGES = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
GOOD = idx(IMAGES)


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_idx_reads_every_type(dtype, pack):
    array = (np.arange(7 * 3) - 9).astype(dtype).reshape(7, 3)
    got = read_idx(io.BytesIO(pack(idx(array, CODES[dtype]))))
    assert got.dtype == array.dtype.newbyteorder("=") and got.dtype.isnative
    np.testing.assert_array_equal(got, array)
    got[0, 0] = 1  # writable


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 0, 2), (1, 1, 1), ()])
def test_idx_reads_odd_shapes(shape):
    array = np.ones(shape, np.uint8)
    np.testing.assert_array_equal(read_idx(io.BytesIO(idx(array)), shape), array)


def test_idx_reads_a_path(tmp_path):
    path = tmp_path / "x.idx"  # gzip is found by content, not by name
    path.write_bytes(gzip.compress(GOOD))
    np.testing.assert_array_equal(read_idx(path), IMAGES)
    np.testing.assert_array_equal(read_idx(str(path)), IMAGES)


PROMISES_2_31 = bytes([0, 0, 8, 1]) + struct.pack(">I", 2**31) + b"12345"
PROMISES_2_29 = bytes([0, 0, 8, 1]) + struct.pack(">I", 2**29) + b"12345"
HUGE_PRODUCT = bytes([0, 0, 0x0E, 8]) + struct.pack(">I", 2**32 - 1) * 8
BAD_IDX = {
    "empty": (b"", "header of 4 bytes, got 0"),
    "one byte": (b"\0", "header of 4 bytes, got 1"),
    "half a magic number": (GOOD[:3], "header of 4 bytes, got 3"),
    "no sizes": (GOOD[:4], "12 bytes of axis sizes, got 0"),
    "half the sizes": (GOOD[:9], "12 bytes of axis sizes, got 5"),
    "no data": (GOOD[:16], "expected 30 bytes of shape (2, 3, 5), got only 0"),
    "truncated": (GOOD[:-1], "expected 30 bytes of shape (2, 3, 5), got only 29"),
    "trailing garbage": (GOOD + b"!", "end of the file after 30 bytes"),
    "wrong magic": (b"\1" + GOOD[1:], "magic number"),
    "unknown type": (b"\0\0\x0a" + GOOD[3:], "magic number"),
    "a web page": (b"<!DOCTYPE html><title>404</title>", "magic number"),
    "a zip": (b"PK\3\4" + bytes(40), "magic number"),
    "255 axes": (b"\0\0\x08\xff" + bytes(1020), "at most 8 axes, got 255"),
    "promises 2**31": (PROMISES_2_31, "header that promises 2147483648"),
    "promises 2**29": (PROMISES_2_29, "expected 536870912 bytes of shape (536870912,), got only 5"),
    "promises 2**259": (HUGE_PRODUCT, "header that promises"),
    "nothing of 2**224": (HUGE_PRODUCT[:4] + bytes(4) + HUGE_PRODUCT[8:], "header that promises"),
    "empty gzip": (gzip.compress(b""), "header of 4 bytes, got 0"),
    "truncated gzip": (gzip.compress(GOOD)[:-9], "gzip stream, got a broken one"),
    "gzip header only": (b"\x1f\x8b", "gzip stream, got a broken one"),
    "gzip of noise": (b"\x1f\x8b\x08\0" + bytes(range(60)), "gzip stream, got a broken one"),
    "gzip, bad checksum": (gzip.compress(GOOD)[:-8] + bytes(8), "gzip stream, got a broken one"),
    "gzip, trailing garbage": (gzip.compress(GOOD) + b"garbage", "gzip stream, got a broken one"),
    "gzip, more data": (gzip.compress(GOOD + b"!"), "end of the file after 30 bytes"),
    "two gzips": (gzip.compress(GOOD) + gzip.compress(GOOD), "end of the file after 30 bytes"),
}


@pytest.mark.parametrize("case", BAD_IDX)
def test_idx_refuses(case, tmp_path):
    content, message = BAD_IDX[case]
    path = tmp_path / "bad.idx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_idx(path)
    assert str(error.value).startswith(f"{path}: expected")


def test_idx_refuses_other_expectations(tmp_path):
    path = tmp_path / "a.idx"
    path.write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"expected shape \(9, 3\), got \(2, 3, 5\)"):
        read_idx(path, shape=(9, 3))
    with pytest.raises(ValueError, match="expected dtype float32, got uint8"):
        read_idx(path, dtype=np.float32)
    with pytest.raises(ValueError, match=f"sha256 {'0' * 64}, got [0-9a-f]{{64}}"):
        read_idx(path, sha256="0" * 64)
    read_idx(path, (2, 3, 5), np.uint8, hashlib.sha256(GOOD).hexdigest())


def test_idx_refuses_bad_file_objects(tmp_path):
    path = tmp_path / "a.idx"
    path.write_bytes(GOOD)
    with open(path, "rb") as file:
        pass
    with pytest.raises(ValueError, match="expected an open file, got a closed one"):
        read_idx(file)
    text = tmp_path / "a.txt"
    text.write_text("text")
    with open(text) as file, pytest.raises(ValueError, match="binary mode, got text mode"):
        read_idx(file)
    with pytest.raises(FileNotFoundError, match=r"absent\.idx"):
        read_idx(tmp_path / "absent.idx")


@pytest.mark.parametrize("promised", [16, 2**29, 2**32 - 1])
def test_idx_gzip_bomb_costs_nothing(promised, tmp_path):
    # 64 MiB or 1 GiB of zeros behind a header that promises little, more, or too much.
    header = bytes([0, 0, 8, 1]) + struct.pack(">I", promised)
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(1 << 20)
    path = tmp_path / "bomb.gz"
    with open(path, "wb") as file:
        file.write(packer.compress(header))
        for _ in range(1024 if promised > 2**29 else 64):
            file.write(packer.compress(block))
        file.write(packer.flush())
    tracemalloc.start()
    with pytest.raises(ValueError, match="expected"):
        read_idx(path, max_bytes=1 << 29)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (200 << 20), f"{peak >> 20} MiB"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_idx_survives_any_damage(data):
    content = bytearray(data.draw(st.sampled_from([GOOD, gzip.compress(GOOD, mtime=0)])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ValueError):  # nothing else may come out
        read_idx(io.BytesIO(content), max_bytes=1 << 20)


# --- npz ------------------------------------------------------------------------------------------

MEMBERS = {"x": ((2, 3, 5), np.uint8), "y": ((4,), np.int64)}


def npz(save=np.savez_compressed, **arrays):
    file = io.BytesIO()
    save(file, **({"x": IMAGES, "y": np.arange(4)} | arrays))
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_reads(save):
    got = read_npz(io.BytesIO(npz(save, x=np.asfortranarray(IMAGES))), MEMBERS)
    np.testing.assert_array_equal(got["x"], IMAGES)
    np.testing.assert_array_equal(got["y"], np.arange(4))
    assert got["x"].flags.c_contiguous and got["x"].flags.writeable and got["y"].dtype == np.int64


def zipped(method=zipfile.ZIP_DEFLATED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_header(text, version=b"\1\0"):
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode()


LYING = npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (2147483648,), }\n")
Y = npy(np.arange(4))
BAD_NPZ = {
    "empty": (b"", "sound .npz archive"),
    "not a zip": (b"hello" * 20, "sound .npz archive"),
    "truncated": (npz()[:-40], "sound .npz archive"),
    "first half": (npz()[: len(npz()) // 2], "sound .npz archive"),
    "missing member": (zipped(y=Y), "the members ['x.npy', 'y.npy'], got ['y.npy']"),
    "extra member": (npz(z=np.zeros(3)), "got ['x.npy', 'y.npy', 'z.npy']"),
    "wrong shape": (npz(x=IMAGES[:1]), "['x']: expected shape (2, 3, 5) and dtype uint8"),
    "wrong dtype": (npz(x=IMAGES.astype(np.float32)), "got (2, 3, 5) and float32"),
    "pickled objects": (npz(x=np.array([{}, []], object)), "got (2,) and object"),
    "promises 2**31": (zipped(x=LYING + b"123", y=Y), "got (2147483648,) and uint8"),
    "not an array": (zipped(x=b"hello", y=Y), "expected an .npy header"),
    "empty member": (zipped(x=b"", y=Y), "expected an .npy header"),
    "code in the header": (zipped(x=npy_header("__import__('os')"), y=Y), "an .npy header"),
    "no dict in the header": (zipped(x=npy_header("[1, 2]"), y=Y), "an .npy header"),
    "version 2": (zipped(x=npy_header("{}", b"\2\0"), y=Y), "format version (2, 0), not (1, 0)"),
    "short data": (zipped(x=npy(IMAGES)[:-1], y=Y), "expected 30 bytes of data, got only 29"),
    "long data": (zipped(x=npy(IMAGES) + b"!", y=Y), "end of the member after 30 bytes"),
    "damaged data": (npz(np.savez).replace(IMAGES.tobytes(), bytes(30)), "Bad CRC-32"),
    "endless nesting": (zipped(x=npy_header("-" * 9000 + "1"), y=Y), "an .npy header"),
    "open bracket": (zipped(x=npy_header("("), y=Y), "an .npy header"),
    "endless dtype": (
        zipped(x=npy_header(f"{{'descr': {'(' * 80}'u1',{')' * 80}}}"), y=Y),
        "header",
    ),
    "bzip2": (zipped(zipfile.ZIP_BZIP2, x=npy(IMAGES), y=Y), "or deflated (8), got compression 12"),
    "lzma": (zipped(zipfile.ZIP_LZMA, x=npy(IMAGES), y=Y), "or deflated (8), got compression 14"),
    "offset before the file": (zipped(x=npy(IMAGES), y=Y)[60:], "sound .npz archive"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_npz_refuses(case, tmp_path):
    content, message = BAD_NPZ[case]
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_npz(path, MEMBERS)
    assert str(error.value).startswith(str(path))


def test_npz_refuses_a_closed_file():
    file = io.BytesIO(npz())
    file.close()
    with pytest.raises(ValueError, match="expected an open file, got a closed one"):
        read_npz(file, MEMBERS)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_npz_bomb_costs_nothing(method):
    bomb = zipped(method, x=npy(IMAGES) + bytes(1 << 28), y=Y)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"end of the member|got compression 12"):
        read_npz(io.BytesIO(bomb), MEMBERS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (8 << 20)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_npz_survives_any_damage(data, tmp_path_factory):
    save = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    content = bytearray(npz(save))
    tail = len(content) - 140  # the directory, where offsets and sizes lie
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.sampled_from([0, tail]))
        content[data.draw(st.integers(start, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), tail]))])
    try:
        read_npz(path, MEMBERS)
    except ValueError as error:  # nothing else may come out
        assert str(error).startswith(str(path))


# --- digits ---------------------------------------------------------------------------------------


def test_digits():
    (x_train, y_train), (x_test, y_test) = digits.load_data()
    assert x_train.shape == (1442, 8, 8) and x_test.shape == (355, 8, 8)
    assert y_train.shape == (1442,) and y_test.shape == (355,)
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    assert x_train.max() == 16 and x_train.min() == 0
    assert np.bincount(y_train).tolist() == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]
    assert np.bincount(y_test).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    first = digits.load_data()[0][0]
    first[:] = 0  # a caller's change must not reach the next one
    np.testing.assert_array_equal(digits.load_data()[0][0], x_train)


def test_digits_are_those_of_scikit_learn():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    theirs = sklearn_datasets.load_digits()
    (x_train, y_train), (x_test, y_test) = digits.load_data()
    test = np.zeros(1797, bool)
    for digit in range(10):
        test[np.flatnonzero(theirs.target == digit)[4::5]] = True
    np.testing.assert_array_equal(theirs.images[~test], x_train)
    np.testing.assert_array_equal(theirs.images[test], x_test)
    np.testing.assert_array_equal(theirs.target[~test], y_train)
    np.testing.assert_array_equal(theirs.target[test], y_test)


# --- where mnist and fashion_mnist come from ------------------------------------------------------

SMALL = {"x_train": (6, 28, 28), "y_train": (6,), "x_test": (2, 28, 28), "y_test": (2,)}
ARRAYS = {
    key: np.random.default_rng(i).integers(0, 10, shape, np.uint8)
    for i, (key, shape) in enumerate(SMALL.items())
}
IDX_GZ = {f"{STEMS[key]}.gz": gzip.compress(idx(a), mtime=0) for key, a in ARRAYS.items()}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def small_npz():
    file = io.BytesIO()
    np.savez(file, **ARRAYS)
    return file.getvalue()


NPZ = small_npz()


class Mirror:
    """A loopback web server whose answers the test chooses; notes what was asked for."""

    def __init__(self):
        self.files, self.asked = {}, []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                mirror.asked.append(path)
                mirror.files.get(path, not_found)(self)

            def log_message(self, *args):
                """Keeps the test's output clean."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def not_found(handler):
    handler.send_error(404)


def good(content):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def truncated(content):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])

    return answer


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(bytes(1 << 16))


def dripping(handler):
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(100):
            handler.wfile.write(b".")
            handler.wfile.flush()
            time.sleep(0.05)


def silent(handler):
    time.sleep(1.0)


def not_http(handler):
    handler.wfile.write(b"220 this is not HTTP\r\n")


def redirect_to(url):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.end_headers()

    return answer


@pytest.fixture
def mirror():
    server = Mirror()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """An empty cache, no data folder, no proxy: nothing of this machine leaks into a test."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("TILEGRAD_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path


@pytest.fixture
def source(mirror):
    hashes = {key: sha256(idx(a)) for key, a in ARRAYS.items()}
    return Source(
        name="mnist",
        folder="mnist",
        sha256={"npz": sha256(NPZ), **hashes},
        idx_mirrors=(mirror.url("/idx1/"), mirror.url("/idx2/")),
        npz_mirrors=(mirror.url("/npz1/mnist.npz"), mirror.url("/npz2/mnist.npz")),
        hash_content=True,
        shapes=SMALL,
    )


def assert_loads(source, *args):
    (x_train, y_train), (x_test, y_test) = source.load(*args)
    got = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(got[key], array)


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


RAW = {name[:-3]: gzip.decompress(content) for name, content in IDX_GZ.items()}


@pytest.mark.parametrize(
    ("folder", "files"),
    [("mnist", IDX_GZ), ("mnist", RAW), ("mnist", {"mnist.npz": NPZ}), (".", {"mnist.npz": NPZ})],
    ids=["idx.gz", "idx", "mnist/mnist.npz", "mnist.npz"],
)
def test_data_folder_comes_first(folder, files, source, mirror, places, monkeypatch):
    write(places / "data" / folder, files)
    write(places / "keras" / "datasets", {"mnist.npz": b"not looked at"})
    monkeypatch.setenv("TILEGRAD_DATA", str(places / "data"))
    assert_loads(source)
    assert mirror.asked == []


def test_a_damaged_file_in_the_data_folder_is_an_error(source, mirror, places, monkeypatch):
    write(places / "data" / "mnist", IDX_GZ | {"t10k-labels-idx1-ubyte.gz": b"damaged"})
    monkeypatch.setenv("TILEGRAD_DATA", str(places / "data"))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz: expected"):
        source.load()
    assert mirror.asked == []


def test_labels_out_of_range_are_an_error(source, places, monkeypatch):
    labels = ARRAYS["y_train"].copy()
    labels[3] = 10
    write(places / "data" / "mnist", RAW | {STEMS["y_train"]: idx(labels)})
    monkeypatch.setenv("TILEGRAD_DATA", str(places / "data"))
    with pytest.raises(ValueError, match=r"mnist: expected y_train in 0\.\.9, got the label 10"):
        source.load()


def test_cache_comes_second(source, mirror, places, monkeypatch):
    monkeypatch.setenv("TILEGRAD_DATA", str(places / "no such folder"))
    write(places / "keras" / "datasets", {"mnist.npz": NPZ, "other.npz": NPZ})
    assert_loads(source)
    assert_loads(source, "other.npz")
    assert_loads(source, str(places / "keras" / "datasets" / "mnist.npz"))
    assert mirror.asked == []


def test_cached_idx_files_serve_too(source, mirror, places):
    write(places / "keras" / "datasets" / "mnist", IDX_GZ)
    assert_loads(source)
    assert mirror.asked == []


def test_default_cache_is_keras_own(places, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(places))
    assert keras_home() == places / ".keras"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != places)
    assert keras_home() == Path(tempfile.gettempdir()) / ".keras"
    (places / ".keras").mkdir()  # writable, in a home that is not
    assert keras_home() == places / ".keras"


def test_a_cache_that_can_only_be_read_serves_too(source, mirror, places, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(places))
    monkeypatch.setattr(tempfile, "tempdir", str(places / "tmp"))
    write(places / ".keras" / "datasets", {"mnist.npz": NPZ})
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert_loads(source)
    assert mirror.asked == []


def test_two_at_once(source, mirror, places):
    """Both ask for the file; whoever is last replaces it by the same bytes, in one step."""
    both = threading.Barrier(2)

    def wait_for_the_other(handler):
        both.wait(10)
        good(NPZ)(handler)

    mirror.files["/npz1/mnist.npz"] = wait_for_the_other
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for load in [pool.submit(assert_loads, source) for _ in range(2)]:
            load.result()
    assert mirror.asked == ["/npz1/mnist.npz"] * 2
    assert [p.name for p in (places / "keras" / "datasets").iterdir()] == ["mnist.npz"]


def test_a_dangling_link_in_the_cache_is_replaced(source, mirror, places):
    cache = places / "keras" / "datasets"
    cache.mkdir(parents=True)
    (cache / "mnist.npz").symlink_to(places / "absent")
    mirror.files["/npz1/mnist.npz"] = good(NPZ)
    assert_loads(source)
    assert not (cache / "mnist.npz").is_symlink() and not (places / "absent").exists()


def test_a_bad_cached_file_is_replaced(source, mirror, places):
    write(places / "keras" / "datasets", {"mnist.npz": NPZ[:-1] + b"!"})
    mirror.files["/npz1/mnist.npz"] = good(NPZ)
    assert_loads(source)
    assert (places / "keras" / "datasets" / "mnist.npz").read_bytes() == NPZ
    assert_loads(source)
    assert mirror.asked == ["/npz1/mnist.npz"]


@pytest.mark.parametrize(
    "first",
    [not_found, good(b"<html>log in</html>"), truncated(NPZ), good(NPZ + b"!"), not_http],
    ids=["404", "another file", "truncated", "bad hash", "not http"],
)
def test_the_next_mirror_is_tried(first, source, mirror, places):
    mirror.files["/npz1/mnist.npz"] = first
    mirror.files["/npz2/mnist.npz"] = good(NPZ)
    assert_loads(source)
    assert mirror.asked == ["/npz1/mnist.npz", "/npz2/mnist.npz"]
    assert [p.name for p in (places / "keras" / "datasets").iterdir()] == ["mnist.npz"]


def test_idx_mirrors_complete_each_other(source, mirror, places):
    names = list(IDX_GZ)
    mirror.files["/idx1/" + names[0]] = good(IDX_GZ[names[0]])
    mirror.files["/idx1/" + names[1]] = good(gzip.compress(b"another file"))
    for name in names[1:]:
        # Other gzip bytes, same content: only the content's hash counts.
        mirror.files["/idx2/" + name] = good(gzip.compress(gzip.decompress(IDX_GZ[name]), 1))
    assert_loads(source)
    assert mirror.asked[2:] == [f"/idx1/{n}" for n in names[:2]] + [f"/idx2/{n}" for n in names[1:]]
    assert_loads(source)
    assert len(mirror.asked) == 7  # the second time nothing was asked for


def test_file_hashes_when_contents_are_not_known(mirror, places):
    source = Source(
        name="fashion_mnist",
        folder="fashion-mnist",
        sha256={key: sha256(IDX_GZ[f"{stem}.gz"]) for key, stem in STEMS.items()},
        idx_mirrors=(mirror.url("/a/"), mirror.url("/b/")),
        shapes=SMALL,
    )
    for name, content in IDX_GZ.items():
        mirror.files[f"/a/{name}"] = good(gzip.compress(gzip.decompress(content), 1))
        mirror.files[f"/b/{name}"] = good(content)
    assert_loads(source)
    assert len(mirror.asked) == 5
    assert len(list((places / "keras" / "datasets" / "fashion-mnist").iterdir())) == 4


def test_offline_names_everything_tried(source, mirror, places, monkeypatch):
    monkeypatch.setenv("TILEGRAD_DATA", str(places / "data"))
    mirror.files["/npz1/mnist.npz"] = good(b"another file")
    write(places / "keras" / "datasets", {"mnist.npz": b"damaged"})
    with pytest.raises(OSError, match="mnist: expected its files in one of these places") as error:
        source.load()
    message = str(error.value)
    assert f"TILEGRAD_DATA={places / 'data'}: no train-images-idx3-ubyte[.gz] in mnist/" in message
    assert f"expected sha256 {sha256(NPZ)}, got {sha256(b'damaged')}" in message
    assert f"{places / 'keras' / 'datasets' / 'mnist'}: no such file" in message
    assert f"expected sha256 {sha256(NPZ)}, got {sha256(b'another file')}" in message
    assert f"{mirror.url('/npz2/mnist.npz')}: HTTP Error 404" in message
    assert f"{mirror.url('/idx1/')}: HTTP Error 404" in message
    assert f"{mirror.url('/idx2/')}: HTTP Error 404" in message
    assert "tilegrad.keras.datasets.digits" in message


@pytest.mark.parametrize("module", [mnist, fashion_mnist], ids=["mnist", "fashion_mnist"])
def test_the_real_sources_offline(module, monkeypatch):
    def refuse(url, *args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(_sources, "download", refuse)
    with pytest.raises(OSError, match="digits, which needs no download") as error:
        module.load_data()
    lines = str(error.value).split("\n")
    assert "TILEGRAD_DATA: not set" in lines[1]
    urls = module._SOURCE.npz_mirrors + module._SOURCE.idx_mirrors
    assert len(urls) >= 3 and all(f"  {url}: no network" in lines for url in urls)


def test_the_real_mnist(monkeypatch):
    """Every hash in mnist.py against the real files, and the numbers everybody knows."""
    data = _REAL_DATA
    if not data or not os.path.isdir(os.path.join(data, "mnist")):
        pytest.skip("needs MNIST in $TILEGRAD_DATA/mnist")
    monkeypatch.setenv("TILEGRAD_DATA", data)
    (x_train, y_train), (x_test, y_test) = mnist.load_data()
    assert x_train.shape == (60000, 28, 28) and x_test.shape == (10000, 28, 28)
    assert y_train[:5].tolist() == [5, 0, 4, 1, 9] and y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert round(float(x_train.mean()), 4) == 33.3184
    for key, array in {"x_train": x_train, "y_train": y_train, "x_test": x_test}.items():
        assert sha256(idx(array)) == mnist._SOURCE.sha256[key]
    assert sha256(idx(y_test)) == mnist._SOURCE.sha256["y_test"]


# --- downloads ------------------------------------------------------------------------------------


def accept(path):
    assert path.is_file()


FAILURES = {
    "404": (not_found, "404"),
    "truncated": (truncated(b"x" * 1000), "expected 1000 bytes, got 500"),
    "endless": (endless, "expected at most 1000000 bytes"),
    "dripping": (dripping, "expected the file within 0.4 s"),
    "silent": (silent, "timed out"),
    "not HTTP": (not_http, "bad answer from the server"),
    "sent to a file": (redirect_to("file:///etc/passwd"), "not allowed"),
    "sent to ftp": (redirect_to("ftp://127.0.0.1/f"), "not allowed"),
    "sent to no port": (redirect_to(f"http://127.0.0.1:{10**30}/f"), "bad answer|urlopen error"),
    "sent in a circle": (redirect_to("/f"), "infinite loop"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_download_failures_leave_nothing(case, mirror, places):
    answer, message = FAILURES[case]
    mirror.files["/f"] = answer
    target = places / "folder" / "f"
    with pytest.raises((OSError, ValueError), match=message):
        download(mirror.url("/f"), target, accept, timeout=0.5, deadline=0.4, max_bytes=10**6)
    assert list(target.parent.iterdir()) == []


def test_download_keeps_the_old_file_until_the_new_one_is_right(mirror, places):
    target = places / "f"
    target.write_bytes(b"old")

    def refuse(path):
        assert target.read_bytes() == b"old" and path.read_bytes() == b"new"
        raise ValueError("not what I wanted")

    mirror.files["/f"] = good(b"new")
    with pytest.raises(ValueError, match="not what I wanted"):
        download(mirror.url("/f"), target, refuse)
    assert target.read_bytes() == b"old"
    download(mirror.url("/f"), target, accept)
    assert target.read_bytes() == b"new"
    assert sorted(p.name for p in places.iterdir()) == ["f"]


def test_an_interrupted_download_leaves_nothing(mirror, places):
    def interrupt(path):
        raise KeyboardInterrupt

    mirror.files["/f"] = good(b"new")
    with pytest.raises(KeyboardInterrupt):
        download(mirror.url("/f"), places / "folder" / "f", interrupt)
    assert list((places / "folder").iterdir()) == []


def test_download_to_an_unwritable_place(mirror, places):
    mirror.files["/f"] = good(b"new")
    (places / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        download(mirror.url("/f"), places / "file" / "f", accept)


def test_get_file(mirror, places):
    mirror.files["/a/data.bin"] = good(b"data")
    path = get_file(origin=mirror.url("/a/data.bin?version=1"), file_hash=sha256(b"data"))
    assert path == str(places / "keras" / "datasets" / "data.bin")
    md5 = hashlib.md5(b"data").hexdigest()
    assert get_file("data.bin", mirror.url("/a/data.bin"), md5_hash=md5) == path
    assert get_file("data.bin", mirror.url("/a/data.bin"), file_hash=md5) == path
    assert len(mirror.asked) == 1
    get_file("data.bin", mirror.url("/a/data.bin"), force_download=True)
    assert len(mirror.asked) == 2
    other = get_file("b", mirror.url("/a/data.bin"), cache_dir=places / "c", cache_subdir="s")
    assert other == str(places / "c" / "s" / "b")


def test_get_file_replaces_a_wrong_file(mirror, places, capsys):
    mirror.files["/f"] = good(b"right")
    write(places / "keras" / "datasets", {"f": b"wrong"})
    path = get_file("f", [mirror.url("/absent"), mirror.url("/f")], file_hash=sha256(b"right"))
    assert Path(path).read_bytes() == b"right"
    assert "downloading again" in capsys.readouterr().err


def test_get_file_errors(mirror):
    with pytest.raises(OSError, match=r"no origin gave f:\n.*/f: HTTP Error 404.*\n.*/g: HTTP"):
        get_file("f", [mirror.url("/f"), mirror.url("/g")])
    with pytest.raises(ValueError, match="expected origin to be a URL"):
        get_file("f")
    with pytest.raises(ValueError, match="expected an http or https URL, got 'file:///etc/passwd'"):
        get_file("f", "file:///etc/passwd")
    with pytest.raises(ValueError, match="expected hash_algorithm"):
        get_file("f", mirror.url("/f"), hash_algorithm="crc")
    with pytest.raises(ValueError, match="expected fname"):
        get_file(origin=mirror.url("/"))
    with pytest.raises(ValueError, match="expected fname"):
        get_file(origin=mirror.url("/.."))
    with pytest.raises(OSError, match="no origin gave f"):
        get_file("f", f"http://127.0.0.1:{10**30}/f")
