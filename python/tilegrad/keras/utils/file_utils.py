"""Files from the network, kept in Keras's cache folder."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

_CHUNK = 1 << 16


def keras_home():
    """Keras's folder: $KERAS_HOME, else ~/.keras, else (not writable) .keras in the temp folder.

    Example:
      >>> from pathlib import Path
      >>> isinstance(keras_home(), Path)
      True
    """
    if os.environ.get("KERAS_HOME"):
        return Path(os.environ["KERAS_HOME"])
    folder = Path(os.path.expanduser("~"), ".keras")
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        folder = Path(tempfile.gettempdir(), ".keras")
    return folder


def get_file(
    fname=None,
    origin=None,
    *,
    md5_hash=None,
    file_hash=None,
    cache_subdir="datasets",
    hash_algorithm="auto",
    cache_dir=None,
    force_download=False,
):
    """Path of a file in the cache, downloaded first if it is absent or its hash is wrong.

    The download goes to a temporary file beside the target and takes its place only when it is
    complete and its hash is right, so nobody ever sees half a file. Archives are not unpacked.

    Args:
      fname: name in the cache; an absolute path is taken as it is; None takes the last part of the
        URL.
      origin: URL (http or https), or a list of URLs of the same file, tried in turn.
      md5_hash: expected md5 in hex; `file_hash` is preferred.
      file_hash: expected hash in hex.
      cache_subdir: folder below the cache folder, or an absolute path.
      hash_algorithm: "sha256", "md5" or "auto" (by the length of `file_hash`).
      cache_dir: the cache folder; None is $KERAS_HOME or ~/.keras.
      force_download: download even if the file is there.

    Returns:
      The path, as str.

    Raises:
      ValueError: `origin` or a hash argument makes no sense.
      OSError: no origin gave the file; the message lists each with its reason.

    Source: Keras 3, keras.utils.get_file.

    Example:
      >>> import tempfile
      >>> folder = tempfile.mkdtemp()
      >>> _ = (Path(folder) / "a.txt").write_text("cached")
      >>> path = get_file("a.txt", "https://example.com/a.txt", cache_dir=folder, cache_subdir="")
      >>> Path(path).read_text()
      'cached'
    """
    origins = [origin] if isinstance(origin, str) else list(origin or ())
    if not origins:
        raise ValueError("get_file: expected origin to be a URL or a list of URLs, got none")
    for url in origins:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"get_file: expected an http or https URL, got {url!r}")
    if md5_hash is not None and file_hash is None:
        file_hash, hash_algorithm = md5_hash, "md5"
    if hash_algorithm not in ("auto", "sha256", "md5"):
        raise ValueError(
            f'get_file: expected hash_algorithm "sha256", "md5" or "auto", got {hash_algorithm!r}'
        )

    fname = fname or os.path.basename(urllib.parse.urlsplit(origins[0]).path)
    if fname in ("", ".", ".."):
        raise ValueError(
            f"get_file: expected fname, or a URL that ends in a file name, got {origins[0]!r}"
        )
    path = Path(cache_dir or keras_home()) / cache_subdir / fname

    def verify(candidate):
        if file_hash is not None:
            check_hash(candidate, file_hash, hash_algorithm)

    if path.is_file() and not force_download:
        try:
            verify(path)
            return str(path)
        except ValueError as error:
            print(f"get_file: downloading again: {error}", file=sys.stderr)
    failures = []
    for url in origins:
        try:
            download(url, path, verify, deadline=math.inf)  # of any size
            return str(path)
        except (OSError, ValueError) as error:
            failures.append(f"  {url}: {error}")
    raise OSError(f"get_file: no origin gave {fname}:\n" + "\n".join(failures))


def check_hash(path, expected, algorithm="auto"):
    """Raises ValueError unless the file's hash is `expected`, in hex.

    "auto" takes sha256 if `expected` has 64 digits, else md5.

    Example:
      >>> import os
      >>> check_hash(os.devnull, "d41d8cd98f00b204e9800998ecf8427e")
    """
    if algorithm == "auto":
        algorithm = "sha256" if len(expected) == 64 else "md5"
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != expected.lower():
        raise ValueError(f"{path}: expected {algorithm} {expected}, got {digest.hexdigest()}")


def _open_url(url, timeout):
    """The server's response, which may come from another web address that it sends us to."""
    import urllib.error
    import urllib.request

    class WebOnly(urllib.request.HTTPRedirectHandler):  # urllib would follow to ftp, too
        def redirect_request(self, req, fp, code, msg, headers, newurl):
            if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
                raise urllib.error.HTTPError(newurl, code, "redirect not allowed", headers, fp)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    request = urllib.request.Request(url, headers={"User-Agent": "tilegrad"})
    return urllib.request.build_opener(WebOnly).open(request, timeout=timeout)


def download(url, path, verify, timeout=10.0, deadline=600.0, max_bytes=None):
    """Downloads `url` to `path`; atomic: `path` changes once `verify` has accepted all of it.

    Args:
      url: http or https URL.
      path: target; its folder is made.
      verify: called with the path of the temporary file; raises ValueError to refuse it.
      timeout: seconds that the server may stay silent.
      deadline: seconds that the whole download may take.
      max_bytes: refuse a larger file; None is no limit.

    Raises:
      OSError: the network, the server or the disk failed; TimeoutError if it was too slow.
      ValueError: `verify` refused the file, or it is too large.
    """
    import http.client  # with urllib.request and ssl slow to import, and seldom needed

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stop = time.monotonic() + deadline
    print(f"Downloading {url}", file=sys.stderr, flush=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            try:
                with _open_url(url, timeout) as response:
                    promised = response.length
                    received = 0
                    # read1: one receive at a time, so that dripping bytes meet the deadline.
                    while chunk := response.read1(_CHUNK):
                        received += len(chunk)
                        if max_bytes is not None and received > max_bytes:
                            raise ValueError(f"expected at most {max_bytes} bytes, got more")
                        if time.monotonic() > stop:
                            raise TimeoutError(
                                f"expected the file within {deadline:g} s, got {received} bytes"
                            )
                        file.write(chunk)
            # OverflowError: a port above 65535, perhaps in a redirect.
            except (http.client.HTTPException, OverflowError) as error:
                raise OSError(f"bad answer from the server: {error!r}") from error
        if promised is not None and received != promised:
            raise OSError(f"expected {promised} bytes, got {received}")
        verify(Path(partial))
        os.chmod(partial, 0o644)  # mkstemp makes it private; a cache may be shared
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
