"""A web server on this machine for tests of downloads: it can resume, break off, fail and redirect."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from utils import downloads


class Site:
    """Content of the server, and the requests that it got.

    Attributes:
        url: its address, without a slash at the end.
        files: {path: content}.
        requests: (path, Range header or '') of each request so far.
        break_after: for the next answers, how many bytes to send before the connection breaks.
        failures: for the next answers, HTTP statuses to fail with.
        redirects: {path: address}.
        versions: {path: ETag}; '' sends none.
    """

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.break_after: list[int] = []
        self.failures: list[int] = []
        self.redirects: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    def offer(self, path: str, content: bytes) -> str:
        """Serve ``content`` and return its address."""
        self.files[path] = content
        return self.url + path


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

        def _answer(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            wanted = self.headers.get("Range", "")
            site.requests.append((path, wanted))
            if site.failures:
                return self._answer(site.failures.pop(0), Content_Length="0")
            if path in site.redirects:
                return self._answer(302, Location=site.redirects[path], Content_Length="0")
            if path not in site.files:
                return self._answer(404, Content_Length="0")
            content, version = site.files[path], site.versions.get(path, '"1"')
            start = 0
            if wanted and self.headers.get("If-Range") == version:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            mark = {"ETag": version} if version else {}
            if start >= len(content) > 0:
                return self._answer(416, Content_Range=f"bytes */{len(content)}", Content_Length="0")
            if start:
                mark["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(206 if start else 200, Content_Length=str(len(content) - start), **mark)
            body = content[start:]
            if site.break_after:
                self.wfile.write(body[: site.break_after.pop(0)])
                return self.connection.close()
            self.wfile.write(body)
            return None

    return Handler


@contextmanager
def serve() -> Iterator[Site]:
    """Run a server while the context is open."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A running server; downloads are allowed and do not pause between attempts."""
    monkeypatch.delenv(downloads.OFFLINE_VARIABLE)
    monkeypatch.setattr(downloads, "FIRST_PAUSE_SECONDS", 0.0)
    with serve() as running:
        yield running
