"""Fetching files from the network."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from utils.errors import InputError
from utils.files import atomic_path, make_folder

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20


def download(url: str, target: Path) -> Path:
    """Fetch ``url`` (http or https) into the file ``target`` and return it; a broken transfer leaves no file behind.

    Raises InputError when the address cannot be read, or the server sent less than it announced.
    """
    make_folder(target.parent)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, atomic_path(target) as draft:
            with draft.open("wb") as file:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
            announced, received = response.headers.get("Content-Length"), draft.stat().st_size
            if announced and received != int(announced):
                raise InputError(f"{url} broke off after {received} of {announced} bytes: try again")
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "reason", None) or error
        raise InputError(f"cannot download {url} ({reason}): check the address and the network") from error
    return target
