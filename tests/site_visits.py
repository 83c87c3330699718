"""Hosts for the site of `make site`, and what a test or a benchmark asks of its page."""

import base64
import contextlib
import functools
import http.server
from pathlib import Path
from typing import Any, ClassVar

from handler_fixtures import LocalHTTPServer, served

ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
# For Page.add_init_script: bytes go to the page and come back as base64 text.
BASE64 = """
window.toBytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
window.toText = bytes => btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
"""


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder as simple hosts do, without headers of its own."""

    headers_of_host: ClassVar[dict[str, str]] = {}

    def end_headers(self) -> None:
        """Add the headers of the host."""
        for name, value in self.headers_of_host.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args: object) -> None:
        """Log nothing."""


class IsolatedFiles(Files):
    """Serves a folder with the headers that threads need."""

    headers_of_host: ClassVar[dict[str, str]] = ISOLATION


def host(
    folder: Path, handler: type[Files] = Files, port: int = 0
) -> contextlib.AbstractContextManager[str]:
    """Serve a folder on a port of this machine, by default a free one."""
    server = LocalHTTPServer(("127.0.0.1", port), functools.partial(handler, directory=folder))
    return served(server)


def loaded(page: Any) -> dict:
    """Return what the page says of its model, once it has one; it may reload itself before."""
    page.wait_for_function(
        "() => typeof loading !== 'undefined' && loading?.then(() => true, () => true)"
    )
    return page.evaluate("loading")


def answer_of_page(page: Any, content: bytes) -> dict:
    """Return the page's answer about an image file. The page needs BASE64."""
    return page.evaluate(
        "async text => (await answerInBrowser(new Blob([toBytes(text)]))).answer",
        base64.b64encode(content).decode(),
    )
