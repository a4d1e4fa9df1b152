"""Downloads over http(s): resumed after interruptions, verified, and complete or absent; the released weights.

A transfer is written to ``<name>.part`` next to its target and renamed at the end. An interrupted one leaves that file,
and the next call requests the rest (RFC 9110, section 14); ``<name>.part.version`` holds the server's identifier of the
version (ETag or date), so that parts of two versions are never joined.

The weights are not part of this project; the log states their licence when they are downloaded.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import ssl
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from utils.errors import InputError, MissingFileError
from utils.installation import ROOT
from utils.log import LOGGER
from utils.storage.files import make_folder
from utils.version import PROGRAM

TIMEOUT_SECONDS = 30.0
CHUNK_BYTES = 1 << 18
FIRST_PAUSE_SECONDS = 1.0  # before the second attempt; doubled before each further one
OFFLINE_VARIABLE = "YOLOv5_OFFLINE"
RELEASES_URL = "https://github.com/ultralytics/yolov5/releases/download"
RELEASES = ("v6.2", "v6.1")  # tags, tried in this order
RELEASED = tuple(f"yolov5{size}{level}.pt" for level in ("", "6") for size in "nsmlx")
SMALLEST_BYTES = 100_000  # of weights; a shorter file is an error page
LICENCE = (
    "These weights are the work of Ultralytics, under GPL-3.0 as of that release (their later licence is AGPL-3.0); "
    "their terms hold for them, not this project's Apache-2.0"
)

_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that are worth another attempt
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class NotOnServerError(InputError):
    """The server has no such file (HTTP status 404)."""


class _BrokenOffError(Exception):
    """The server sent less than it announced."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirections, but never from an encrypted address to one that is not."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise InputError(f"{req.full_url} redirects to {newurl}, which is not encrypted: nothing was downloaded")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_url(text: str | Path) -> bool:
    """Tell whether ``text`` is an http(s) address, or a Path made from one, which has lost a slash."""
    return str(text).lower().startswith(("http:/", "https:/"))


def url_name(url: str) -> str:
    """The file name at the end of an address, decoded and without query: ``https://host/a%20b.jpg?size=2`` -> a b.jpg.

    Raises InputError if there is none.
    """
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise InputError(f"{url} names no file: give the address of a file, such as https://host/photo.jpg")
    return name


def download(url: str, target: str | Path, *, checksum: str = "", attempts: int = 4, progress: bool = True) -> Path:
    """Download ``url`` to ``target`` unless it exists, and return its path.

    Args:
        url: http or https. Redirections from https to http are refused.
        target: the file to write, or a folder, which takes the name in the address.
        checksum: 'md5:...' or 'sha256:...' in hexadecimal. An existing file that differs is downloaded again.
        attempts: number of connections if the network fails; a later one requests only what is missing.
        progress: show a bar (on a terminal).

    Raises:
        InputError: the address is not http(s), the server refuses, the disk is full, the network fails at every
            attempt (the received part is kept for the next call), or the content differs from the checksum (it is
            removed). ValueError: the checksum is of another kind.
    """
    if urllib.parse.urlsplit(url).scheme.lower() not in ("http", "https"):
        raise InputError(f"cannot download {url}: expected an address that starts with https:// or http://")
    file = Path(target)
    if file.is_dir():
        file /= url_name(url)
    if _is_complete(file, checksum):
        return file
    if os.environ.get(OFFLINE_VARIABLE, "false").lower() in ("true", "1"):
        raise InputError(f"{file} is missing and {OFFLINE_VARIABLE} forbids downloads: fetch {url} by hand to there")
    make_folder(file.parent)
    with only_one_process(file):
        if _is_complete(file, checksum):  # another process was first
            return file
        part = file.with_name(file.name + ".part")
        _fetch(url, part, attempts, progress)
        try:
            _check(part, checksum, url)
        except InputError:
            part.unlink()
            raise
        os.replace(part, file)
    return file


def _is_complete(file: Path, checksum: str) -> bool:
    if not file.is_file():
        return False
    try:
        _check(file, checksum, str(file))
    except InputError:
        return False
    return True


def _check(file: Path, checksum: str, origin: str) -> None:
    """Raise InputError if ``file`` does not have the checksum; without one all files pass."""
    if not checksum:
        return
    algorithm, _, expected = checksum.partition(":")
    if algorithm not in ("md5", "sha256"):
        raise ValueError(f"checksum must start with 'md5:' or 'sha256:', got {checksum!r}")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != expected.lower():
        raise InputError(
            f"the content of {origin} is not what it should be ({algorithm} {digest.hexdigest()}, expected {expected}):"
            " it was removed, try again later"
        )


@contextmanager
def only_one_process(file: Path) -> Iterator[None]:
    """Make other processes of this machine that want the same file or folder wait until the block ends."""
    from filelock import FileLock

    name = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"yolov5-download-{name}.lock"):
        yield


def _fetch(url: str, part: Path, attempts: int, progress: bool) -> None:
    """Complete ``part``, with several attempts. Raises InputError."""
    for attempt in range(1, attempts + 1):
        try:
            _transfer(url, part, progress)
            return
        except urllib.error.HTTPError as error:
            if error.code not in _TEMPORARY:
                error_class = NotOnServerError if error.code == 404 else InputError
                raise error_class(
                    f"cannot download {url}: the server answers {error.code} {error.reason}; check the address"
                ) from error
            reason: Any = f"the server answers {error.code} {error.reason}"
        except (_BrokenOffError, *_NETWORK_ERRORS) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        if attempt < attempts:
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
    received = part.stat().st_size if part.exists() else 0
    kept = f"; the first {received} bytes are kept, the same command continues from there" if received else ""
    raise InputError(f"cannot download {url} ({reason}): check the network, or fetch it by hand to {part.stem}{kept}")


def _transfer(url: str, part: Path, progress: bool) -> None:
    """Request what ``part`` lacks, once, and append it."""
    from tqdm import tqdm

    version_file = part.with_name(part.name + ".version")
    version = version_file.read_text(encoding="utf-8") if version_file.exists() else ""
    start = part.stat().st_size if part.exists() and version else 0
    request = urllib.request.Request(url, headers={"User-Agent": PROGRAM, "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)  # a server with another version sends the whole file
    try:
        response = urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # 416: nothing follows what we have
            raise
        complete = error.headers.get("Content-Range", "") == f"bytes */{start}"
        version_file.unlink()
        if not complete:
            part.unlink()
            raise _BrokenOffError("the file on the server became shorter") from error
        return
    with response:
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0
        announced = response.headers.get("Content-Length")
        total = start + int(announced) if announced else None
        _require_space(part, (total or 0) - start)
        version_file.write_text(_version(response.headers), encoding="utf-8")
        hidden = None if progress else True  # None: shown on a terminal
        scale: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
        bar = tqdm(desc=part.stem, total=total, initial=start, disable=hidden, leave=False, **scale)
        with part.open("ab" if start else "wb") as stream, bar:
            while chunk := response.read(CHUNK_BYTES):
                stream.write(chunk)
                bar.update(len(chunk))
    size = part.stat().st_size
    if total is not None and size != total:
        raise _BrokenOffError(f"the transfer broke off after {size} of {total} bytes")
    version_file.unlink()


def _version(headers: Any) -> str:
    """The identifier of the file's version for If-Range: a strong ETag, or the date; '' if there is neither."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _require_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise InputError(
            f"{part.stem} needs {needed / 1e9:.1f} GB but {part.parent} has {free / 1e9:.1f} GB left: free some space"
        )


# -- the released weights of YOLOv5 -----------------------------------------------------------------------------------


def is_released(file: str | Path) -> bool:
    """Tell whether the file has the name of released detection weights, such as yolov5s.pt."""
    return Path(file).name in RELEASED


def fetch_weights(file: str | Path, base_url: str = "", tags: Sequence[str] = RELEASES) -> Path:
    """Return the path of a weights file, after downloading it if it is missing.

    Args:
        file: a path, returned unchanged if it exists or is not the name of released weights. Otherwise the file of
            that name in the checkout or in the installed package counts; if there is none, released weights are
            downloaded to the path. Or an http(s) address, downloaded into the working folder unless a file of that
            name exists there.
        base_url: parent folder of the releases, default RELEASES_URL.
        tags: releases, tried in this order.

    Raises:
        InputError: the weights cannot be downloaded, or the downloaded file is not a weights file.
    """
    if is_url(file):
        address = re.sub(r"^(https?):/+", r"\1://", str(file), flags=re.IGNORECASE)  # pathlib makes // one /
        return download(address, Path.cwd() / url_name(address))
    path = Path(file)
    if not path.exists() and not path.is_absolute() and (ROOT / path).is_file():
        return ROOT / path
    if path.exists() or not is_released(path):
        return path
    addresses = [f"{base_url or RELEASES_URL}/{tag}/{path.name}" for tag in tags]
    try:
        address = _first_on_server(addresses, path)
    except InputError as error:
        raise MissingFileError(f"no such checkpoint: {path}, and fetching it failed: {error}") from error
    if path.stat().st_size < SMALLEST_BYTES:
        size = path.stat().st_size
        path.unlink()
        raise InputError(f"{address} gave {size} bytes, which cannot be a weights file: fetch it by hand to {path}")
    LOGGER.info(f"Fetched {path} from {address}. {LICENCE}")
    return path


def _first_on_server(addresses: list[str], path: Path) -> str:
    """Download ``path`` from the first address that has it, and return that address."""
    for address in addresses[:-1]:
        try:
            download(address, path)
            return address
        except NotOnServerError:
            continue
    download(addresses[-1], path)
    return addresses[-1]


def attempt_download(file: str | Path, repo: str = "ultralytics/yolov5", release: str = RELEASES[0]) -> str:
    """v6.2's form of ``fetch_weights``; ``release`` of the GitHub repository ``repo`` is tried first."""
    tags = tuple(dict.fromkeys((release, *RELEASES)))
    return str(fetch_weights(file, f"https://github.com/{repo}/releases/download", tags))
