"""Pictures from URLs that strangers name: only from the public internet, in bounded time and
size."""

import concurrent.futures as futures  # its thread pools are loaded only when used
import contextlib
import os
import re
import socket
import time
import zlib
from typing import Any
from urllib.parse import urljoin, urlsplit

from dog_breeds.serving.file_types import starts_as_image
from dog_breeds.serving.limits import MAX_BYTES, RequestError

MAX_SECONDS = 8  # for the downloads of a request, all together
MAX_REDIRECTS = 10
MAX_URL = 8192  # characters: a pre-signed URL holds a session token of 2,000 to 4,000
PORTS = {"http": 80, "https": 443}
ACCEPT = "image/jpeg, image/png, image/webp, image/gif, image/bmp;q=0.9, */*;q=0.1"
# Content codings that exist. Servers also name others by mistake, or none: an empty value after
# `aws s3 sync`, "aws-chunked", "utf-8", "image/jpeg".
COMPRESSIONS = ("gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz")
WINDOW_BITS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}  # of zlib, in turn
INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u2060\ufeff"  # that are copied along
LATE = ("download_timeout", f"the download took more than {MAX_SECONDS} seconds")

NO_URLS = (
    "url_refused",
    "URLs need Python 3.11 or later, with microsoft-antissrf; send the picture itself",
)


def download_all(urls: list) -> list[bytes | BaseException]:
    """Download side by side; return bytes, or what went wrong, for each URL.

    What is not there after MAX_SECONDS is given up, whatever it is waiting for.
    """
    deadline, sockets = time.monotonic() + MAX_SECONDS, []
    pool = futures.ThreadPoolExecutor(len(urls))
    downloads = [pool.submit(download, url, deadline, sockets) for url in urls]
    pool.shutdown(wait=False)
    done, _ = futures.wait(downloads, MAX_SECONDS)
    # Ends the threads that still read: a server that trickles outlasts all other time-outs
    for sock in sockets:
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
                # The adapter alone: the session would follow redirects by its own rules, keep
                # cookies, and use proxies of the environment.
                with session.get_adapter(request.url).send(
                    request, stream=True, timeout=seconds
                ) as response:
                    if not response.is_redirect:
                        return read_body(response, deadline)
                    url = urljoin(request.url, session.get_redirect_target(response))
        raise RequestError(
            "download_failed", f"the URL leads through more than {MAX_REDIRECTS} redirects"
        )
    # Alike, so that nobody learns which names exist inside
    except (AntiSSRFError, socket.gaierror, UnicodeError):
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

    url = cleaned_url(url)
    try:
        request = Request("GET", url, request_headers()).prepare()
        # requests repairs odd URLs: what comes before and after must do
        for parts in (urlsplit(url), urlsplit(str(request.url))):
            if "@" in parts.netloc:
                raise RequestError("url_refused", "the URL must not hold a user name or password")
            if parts.port not in (None, PORTS[parts.scheme]):
                raise RequestError(
                    "url_refused", "the URL must not name a port, other than 80 or 443 by default"
                )
        return request
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        raise RequestError("url_refused", "the URL is not a valid http or https URL") from None


def cleaned_url(url: Any) -> str:
    """Return a URL as a browser reads it: without white space around it, without tabs and line ends
    within, and with %20 for a blank in its path or query. RequestError if it cannot be one.
    """
    if not isinstance(url, str):
        raise RequestError("url_refused", "the URL must be text")
    url = re.sub("[\t\r\n]", "", url.strip().strip(INVISIBLE).strip())
    if len(url) > MAX_URL:
        raise RequestError(
            "url_refused", f"the URL has {len(url):,} characters, more than {MAX_URL:,}"
        )
    if not re.match("https?://", url, re.IGNORECASE):
        scheme = url[:5].lower()
        hint = "; a data URL belongs in the field image" if scheme == "data:" else ""
        hint = "; make a pre-signed URL of the object" if scheme == "s3://" else hint
        raise RequestError("url_refused", f"the URL must begin with http:// or https://{hint}")
    authority = re.split("[/?#]", url.partition("//")[2], maxsplit=1)[0]
    if not url.isprintable() or "\\" in url or " " in authority:
        raise RequestError(
            "url_refused",
            "the URL holds a blank, a backslash or another character in a wrong place",
        )
    return url.replace(" ", "%20")


def request_headers() -> dict[str, str]:
    """Return the headers of a download. The variable CONTACT holds an address, by mail or on the
    web, of who runs this service: some servers refuse requests that name none.
    """
    contact = re.sub("[^ -~]|[()]", "", contact_address())[:200]
    purpose = "classifies a picture that its user named" + (f"; {contact}" if contact else "")
    return {
        "User-Agent": f"dog-breeds/1.0 ({purpose})",
        "Accept": ACCEPT,
        "Accept-Encoding": "identity",
    }


def contact_address() -> str:
    """Return the contact that requests name; empty for none."""
    return os.environ.get("CONTACT", "").strip()


def public_session(deadline: float, sockets: list) -> Any:
    """Return a requests session for public addresses only. Collects its sockets, opens none after
    the deadline.

    AntiSSRF resolves a name, refuses it unless all its addresses are public, and connects to one of
    these addresses.
    """
    from AntiSSRF import AntiSSRFPolicy, PolicyConfigOptions

    policy = AntiSSRFPolicy(PolicyConfigOptions.EXTERNAL_ONLY_LATEST)
    policy.add_denied_addresses(["::/96", "::ffff:0:0:0/96"])  # these hold IPv4 addresses
    policy.allow_plain_text_http = True
    policy.add_xff_header = False  # it would make the request a proxy's
    session = policy.get_antissrf_session()

    def watched(pool: Any) -> type:
        class Connection(pool.ConnectionCls):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)
                if time.monotonic() > deadline:
                    raise TimeoutError

            def getresponse(self) -> Any:
                response = super().getresponse()
                for name in ("Set-Cookie", "Set-Cookie2"):  # to read cookies has taken seconds
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
    """Return the body of an answer, of at most MAX_BYTES as it comes and unpacked; TimeoutError
    after the deadline.
    """
    status = response.status_code
    if status != 200:
        hint = ""
        if status == 403 and not contact_address():
            hint = (
                "; some servers refuse requests that name no contact: whoever runs this service can"
                " name one in the variable CONTACT"
            )
        raise RequestError(
            "download_failed", f"the server of the URL answered with status {status}{hint}"
        )
    response.raw.headers.pop("Content-Encoding", None)  # unpacked below, up to MAX_BYTES
    body = bytearray()
    for block in response.iter_content(2**16):
        body += block
        if len(body) > MAX_BYTES:
            raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
        if time.monotonic() > deadline:  # buffers may hold more when the socket is shut
            raise TimeoutError
    return unpacked(bytes(body), response.headers.get("Content-Encoding", ""))


def unpacked(body: bytes, encoding: str) -> bytes:
    """Return a body without the compression that its Content-Encoding names; RequestError if it
    cannot be undone.

    The content decides: an image that is not compressed is taken as it is, whatever the server
    calls it, and what begins as gzip is undone also where the server does not name it.
    """
    codings = [name.strip().lower() for name in encoding.split(",")]
    codings = [name for name in codings if name in COMPRESSIONS]
    if not codings and body.startswith(b"\x1f\x8b"):
        codings = ["gzip"]
    if not codings or starts_as_image(body):
        return body
    if len(codings) > 1 or codings[0] not in WINDOW_BITS:
        names = ", ".join(codings)[:50]
        raise RequestError(
            "download_failed", f"the server compressed its answer ({names}), though asked not to"
        )
    for bits in WINDOW_BITS[codings[0]]:
        try:
            data = zlib.decompressobj(bits).decompress(body, MAX_BYTES + 1)
        except zlib.error:
            continue
        if len(data) > MAX_BYTES:
            raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
        return data
    raise RequestError(
        "download_failed", f"the server says that its answer is {codings[0]}, which it is not"
    )
