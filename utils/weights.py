"""The released weights of YOLOv5: which file names mean them, and fetching them when they are missing.

They are not part of this project; the log names their licence when they are fetched.
"""

from __future__ import annotations

import re
from pathlib import Path

from utils.downloads import NotOnServerError, download, is_url, url_name
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER

RELEASES_URL = "https://github.com/ultralytics/yolov5/releases/download"
RELEASES = ("v6.2", "v6.1")  # tags, tried in this order
RELEASED = tuple(f"yolov5{size}{level}.pt" for level in ("", "6") for size in "nsmlx")
SMALLEST_BYTES = 100_000  # what is shorter is an error page
LICENCE = (
    "These weights are the work of Ultralytics, under GPL-3.0 as of that release (their later licence is AGPL-3.0); "
    "their terms hold for them, not this project's Apache-2.0"
)


def is_released(file: str | Path) -> bool:
    """Tell whether the file's name is that of released detection weights, such as yolov5s.pt."""
    return Path(file).name in RELEASED


def fetch_weights(file: str | Path, base_url: str = "") -> Path:
    """The path of a weights file that may have to be fetched first.

    Args:
        file: a path: returned as it is if it exists or if its name is not that of released weights; otherwise the
            weights of that name are fetched to it. Or an http(s) address: fetched into the working folder, unless a
            file of that name is there.
        base_url: where the folders of the releases lie, default RELEASES_URL.

    Raises:
        InputError: the weights cannot be fetched, or what came is no weights file.
    """
    if is_url(file):
        address = re.sub(r"^(https?):/+", r"\1://", str(file), flags=re.IGNORECASE)  # pathlib makes // one /
        return download(address, Path.cwd() / url_name(address))
    path = Path(file)
    if path.exists() or not is_released(path):
        return path
    addresses = [f"{base_url or RELEASES_URL}/{tag}/{path.name}" for tag in RELEASES]
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
    """Fetch ``path`` from the first address that has it, and return that address."""
    for address in addresses[:-1]:
        try:
            download(address, path)
            return address
        except NotOnServerError:
            continue
    download(addresses[-1], path)
    return addresses[-1]
