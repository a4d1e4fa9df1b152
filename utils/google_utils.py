"""The path of ``utils.downloads.attempt_download`` up to v5.0; nothing in this project imports this file."""

from utils.downloads import attempt_download

__all__ = ["attempt_download"]
