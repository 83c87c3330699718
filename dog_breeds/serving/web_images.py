"""Download images from URLs that strangers send: only public hosts, in limited time and size."""

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

MAX_SECONDS = 8  # for all downloads of a request together
MAX_REDIRECTS = 10
MAX_URL = 8192  # characters: a pre-signed URL holds a session token of 2,000 to 4,000
PORTS = {"http": 80, "https": 443}
ACCEPT = "image/jpeg, image/png, image/webp, image/gif, image/bmp;q=0.9, */*;q=0.1"
# All real content codings. Some servers send other values by mistake, such as "aws-chunked",
# "utf-8" and "image/jpeg", and an empty value after `aws s3 sync`. These are ignored.
COMPRESSIONS = ("gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz")
# Values of zlib's wbits to try in turn: servers send "deflate" with and without a zlib header
WINDOW_BITS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}
# Invisible characters that people copy together with an address
INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u2060\ufeff"
LATE = ("download_timeout", f"the download took more than {MAX_SECONDS} seconds")

NO_URLS = (
    "url_refused",
    "URLs need Python 3.11 or later, with microsoft-antissrf; send the image itself",
)


def download_all(urls: list) -> list[bytes | BaseException]:
    """Download all URLs at once. Return the bytes, or the exception, for each URL.

    After MAX_SECONDS, unfinished downloads are abandoned, whatever they wait for.
    """
    deadline, sockets = time.monotonic() + MAX_SECONDS, []
    pool = futures.ThreadPoolExecutor(len(urls))
    tasks = [pool.submit(download, url, deadline, sockets) for url in urls]
    pool.shutdown(wait=False)
    done, _ = futures.wait(tasks, MAX_SECONDS)
    # Shut the sockets to end threads that still read. No other time-out ends a download from a
    # server that sends a byte now and then.
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    return [
        (task.exception() or task.result()) if task in done else RequestError(*LATE)
        for task in tasks
    ]


def download(url: Any, deadline: float, sockets: list) -> bytes:
    """Return the bytes at a URL on the public internet.

    `deadline` is a time of time.monotonic(). Appends each socket that it opens to `sockets`. Raises
    RequestError if the URL is refused or the download fails.
    """
    try:
        # Imported here, because this takes 0.2 s, also for `requests`. Only URLs need it.
        from AntiSSRF import AntiSSRFError
    except ModuleNotFoundError:
        raise RequestError(*NO_URLS) from None
    try:
        with public_session(deadline, sockets) as session:
            for _ in range(MAX_REDIRECTS + 1):
                request = checked_request(url)
                seconds = max(deadline - time.monotonic(), 0.001)
                # Use the adapter rather than the session. The session would follow redirects by its
                # own rules, keep cookies, and use the proxies of the environment.
                with session.get_adapter(request.url).send(
                    request, stream=True, timeout=seconds
                ) as response:
                    if not response.is_redirect:
                        return read_body(response, deadline)
                    url = urljoin(request.url, session.get_redirect_target(response))
        raise RequestError(
            "download_failed", f"the URL leads through more than {MAX_REDIRECTS} redirects"
        )
    # One message for both cases, so that nobody learns which internal names exist
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
    """Return a GET request for an http or https URL without credentials and with the default port.

    Raises RequestError for other URLs.
    """
    from requests import Request

    url = cleaned_url(url)
    try:
        request = Request("GET", url, request_headers()).prepare()
        # `requests` repairs odd URLs, so check the URL before and after
        for parts in (urlsplit(url), urlsplit(str(request.url))):
            if "@" in parts.netloc:
                raise RequestError(
                    "url_refused", "the URL must not contain a user name or password"
                )
            if parts.port not in (None, PORTS[parts.scheme]):
                raise RequestError(
                    "url_refused", "the URL must not name a port, other than 80 or 443 by default"
                )
        return request
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        raise RequestError("url_refused", "the URL is not a valid http or https URL") from None


def cleaned_url(url: Any) -> str:
    """Return a URL as a browser reads it.

    White space around it, tabs and line ends disappear; a blank in its path or query becomes %20.
    Raises RequestError if the text cannot be a URL.
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
            "the URL has a blank, a backslash or another character in a wrong place",
        )
    return url.replace(" ", "%20")


def request_headers() -> dict[str, str]:
    """Return the headers of a download.

    The User-Agent contains the contact of the variable CONTACT: the e-mail or web address of the
    person who runs this service. Some servers refuse requests without a contact.
    """
    contact = re.sub("[^ -~]|[()]", "", contact_address())[:200]
    purpose = "classifies an image that its user named" + (f"; {contact}" if contact else "")
    return {
        "User-Agent": f"dog-breeds/1.0 ({purpose})",
        "Accept": ACCEPT,
        "Accept-Encoding": "identity",
    }


def contact_address() -> str:
    """Return the contact for the User-Agent, or "" if there is none."""
    return os.environ.get("CONTACT", "").strip()


def public_session(deadline: float, sockets: list) -> Any:
    """Return a session of `requests` that connects to public addresses only.

    AntiSSRF resolves a name, refuses it unless all of its addresses are public, and connects to one
    of these addresses. The session appends its sockets to `sockets` and connects to nothing after
    the deadline.
    """
    from AntiSSRF import AntiSSRFPolicy, PolicyConfigOptions

    policy = AntiSSRFPolicy(PolicyConfigOptions.EXTERNAL_ONLY_LATEST)
    # These ranges of IPv6 contain IPv4 addresses
    policy.add_denied_addresses(["::/96", "::ffff:0:0:0/96"])
    policy.allow_plain_text_http = True
    policy.add_xff_header = False  # with X-Forwarded-For, the request would look like a proxy's
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
                # Nobody needs the cookies, and reading many of them has taken seconds
                for name in ("Set-Cookie", "Set-Cookie2"):
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
    """Return the body of a response, with at most MAX_BYTES both before and after decompression.

    Raises RequestError for a status other than 200 and for a body that is too large, and
    TimeoutError after the deadline.
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
    # `unpacked` decompresses with a limit; without this header, urllib3 does not decompress
    response.raw.headers.pop("Content-Encoding", None)
    body = bytearray()
    for block in response.iter_content(2**16):
        body += block
        if len(body) > MAX_BYTES:
            raise RequestError("too_large", f"the image has more than {MAX_BYTES:,} bytes")
        if time.monotonic() > deadline:  # buffers can have more data after the socket is shut
            raise TimeoutError
    return unpacked(bytes(body), response.headers.get("Content-Encoding", ""))


def unpacked(body: bytes, encoding: str) -> bytes:
    """Decompress a body whose Content-Encoding is `encoding`.

    The content decides. An uncompressed image is returned unchanged, even if the header names a
    compression. A body that begins like gzip is decompressed, even if the header names none. Raises
    RequestError if the body cannot be decompressed.
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
            raise RequestError("too_large", f"the image has more than {MAX_BYTES:,} bytes")
        return data
    raise RequestError(
        "download_failed", f"the server says that its answer is {codings[0]}, which it is not"
    )
