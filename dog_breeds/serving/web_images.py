"""Pictures from URLs that strangers name: only from the public internet, in bounded time and
size."""

import concurrent.futures as futures  # its thread pools are loaded only when used
import contextlib
import re
import socket
import time
from typing import Any
from urllib.parse import urljoin, urlsplit

from dog_breeds.serving.limits import MAX_BYTES, RequestError

MAX_SECONDS = 8  # for the downloads of a request, all together
MAX_REDIRECTS = 3
MAX_URL = 2048  # characters
PORTS = {"http": 80, "https": 443}
HEADERS = {
    "User-Agent": "dog-breeds/1.0 (classifies a picture that its user named)",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}
LATE = ("download_timeout", f"the download took more than {MAX_SECONDS} seconds")

NO_URLS = (
    "url_refused",
    "URLs need Python 3.11 or later, with microsoft-antissrf; send the picture itself",
)


def download_all(urls: list) -> list[bytes | Exception]:
    """Download side by side; return bytes, or what went wrong, for each URL.

    What is not there after MAX_SECONDS is given up, whatever it is waiting for.
    """
    deadline, sockets = time.monotonic() + MAX_SECONDS, []
    pool = futures.ThreadPoolExecutor(len(urls))
    downloads = [pool.submit(download, url, deadline, sockets) for url in urls]
    pool.shutdown(wait=False)
    done, _ = futures.wait(downloads, MAX_SECONDS)
    for sock in (
        sockets
    ):  # ends the threads that still read: a server that trickles outlasts all other time-outs
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    return [
        (one.exception() or one.result()) if one in done else RequestError(*LATE)
        for one in downloads
    ]


def download(url: Any, deadline: float, sockets: list) -> bytes:
    """Return the picture at a URL on the public internet. Appends the sockets that it opens to
    `sockets`.
    """
    try:
        from AntiSSRF import (
            AntiSSRFError,  # imported here, with requests: 0.2 s that other requests need not wait
        )
    except ModuleNotFoundError:
        raise RequestError(*NO_URLS) from None
    try:
        with public_session(deadline, sockets) as session:
            for _ in range(MAX_REDIRECTS + 1):
                request = checked_request(url)
                seconds = max(deadline - time.monotonic(), 0.001)
                # Straight to the adapter: the session would read the body of a redirect without
                # limit, keep cookies, and use proxies of the environment.
                with session.get_adapter(request.url).send(
                    request, stream=True, timeout=seconds
                ) as response:
                    if not response.is_redirect:
                        return read_body(response, deadline)
                    url = urljoin(request.url, session.get_redirect_target(response))
        raise RequestError(
            "download_failed", f"the URL leads through more than {MAX_REDIRECTS} redirects"
        )
    except (
        AntiSSRFError,
        socket.gaierror,
        UnicodeError,
    ):  # alike, so that nobody learns which names exist inside
        raise RequestError(
            "url_refused", "the host of the URL is not found, or not public"
        ) from None
    except (OSError, ValueError):
        if time.monotonic() > deadline:
            raise RequestError(*LATE) from None
        raise RequestError(
            "download_failed", "the server of the URL did not answer as it should"
        ) from None


def checked_request(url: Any) -> Any:
    """Return a GET request for a plain http(s) URL: no credentials, default port; else raise
    RequestError.
    """
    from requests import Request

    try:
        if len(url) > MAX_URL or not url.isprintable() or re.search(r"[ \\]", url):
            raise ValueError
        request = Request("GET", url, HEADERS).prepare()
        for parts in (
            urlsplit(url),
            urlsplit(request.url),
        ):  # requests repairs odd URLs: before and after must do
            if "@" in parts.netloc or parts.port not in (None, PORTS[parts.scheme]):
                raise ValueError
        return request
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        message = (
            f"the URL must be http or https, at most {MAX_URL} characters, "
            "without user name and special port"
        )
        raise RequestError("url_refused", message) from None


def public_session(deadline: float, sockets: list) -> Any:
    """Return a requests session for public addresses only. Collects its sockets, opens none after
    the deadline.

    AntiSSRF resolves a name, refuses it unless all its addresses are public, and connects to one of
    these addresses.
    """
    from AntiSSRF import AntiSSRFPolicy, PolicyConfigOptions

    policy = AntiSSRFPolicy(PolicyConfigOptions.EXTERNAL_ONLY_LATEST)
    policy.add_denied_addresses(
        ["::/96", "::ffff:0:0:0/96"]
    )  # hold IPv4 addresses, and are missing in its list
    policy.allow_plain_text_http = True
    policy.add_xff_header = False  # it would make the request a proxy's
    session = policy.get_antissrf_session()

    def watched(pool: type) -> type:
        class Connection(pool.ConnectionCls):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)
                if time.monotonic() > deadline:
                    raise TimeoutError

            def getresponse(self) -> Any:
                response = super().getresponse()
                for name in (
                    "Set-Cookie",
                    "Set-Cookie2",
                ):  # requests would read them: seconds for hostile ones
                    del response._original_response.msg[name]
                return response

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    for adapter in session.adapters.values():
        pools = adapter.poolmanager.pool_classes_by_scheme
        adapter.poolmanager.pool_classes_by_scheme = {
            scheme: watched(pool) for scheme, pool in pools.items()
        }
    return session


def read_body(response: Any, deadline: float) -> bytes:
    """Return the body of a plain answer of at most MAX_BYTES; TimeoutError after the deadline."""
    if response.status_code != 200:
        raise RequestError(
            "download_failed", f"the server of the URL answered with status {response.status_code}"
        )
    if (
        response.headers.get("Content-Encoding", "identity").lower() != "identity"
    ):  # could unpack to any size
        raise RequestError(
            "download_failed", "the server of the URL sent a compressed answer, though asked not to"
        )
    body = bytearray()
    for block in response.iter_content(2**16):
        body += block
        if len(body) > MAX_BYTES:
            raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
        if (
            time.monotonic() > deadline
        ):  # blocks of a byte go on coming from buffers when the socket is shut
            raise TimeoutError
    return bytes(body)
