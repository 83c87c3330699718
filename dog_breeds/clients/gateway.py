"""Run a small gateway on this machine: it turns HTTP requests into events of AWS Lambda, and the
function's responses into HTTP.

    python -m dog_breeds.clients.gateway    # 127.0.0.1:9000, before the emulator on port 8080
    python -m dog_breeds.clients.gateway --port 9000 --emulator http://127.0.0.1:8080 --payload 1.0

The events are those of a function URL (payload 2.0) or of an HTTP API (payload 1.0). The emulator
runs one invocation at a time, so requests wait in a queue. The gateway needs Python's standard
library only.
"""

import base64
import binascii
import http.client
import http.server
import json
import re
import sys
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dog_breeds.console import script_parser

INVOCATIONS = "/2015-03-31/functions/function/invocations"
MAX_EVENT = 6_291_456  # bytes: Lambda's limit for an event, and for a response
TOO_LARGE = {
    "Message": f"Request must be smaller than {MAX_EVENT} bytes for the InvokeFunction operation"
}
# Bytes of a body that is too large. The gateway reads them all the same: most clients read an
# answer only after they have sent the whole body.
MAX_UNREAD = 100_000_000
CHUNK_HEAD = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
MAX_LINE, MAX_TRAILERS = 4096, 100  # bytes of a line between chunks; lines after the last chunk
SECONDS = 60  # time-out of an invocation, and of a silent client
# Headers that the gateway sets itself, and does not take from the function
OURS = "connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"


# --- Events and responses -------------------------------------------------------------------------


def event_for(
    payload: str, method: str, target: str, headers: Message, body: bytes, client: str
) -> dict:
    """Return the event for an HTTP request, in the form of the payload "2.0" or "1.0".

    `target` is the path with its query, not decoded.
    """
    path, _, query = target.partition("?")
    pairs, now = parse_qsl(query, keep_blank_values=True), time.time()
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now))
    received = [*headers.items(), *added_headers(headers, client, now)]
    binary = not is_text(headers)
    event = {"version": payload, "isBase64Encoded": bool(body) and binary}
    text = base64.b64encode(body).decode() if binary else body.decode("utf-8", "replace")
    context: dict[str, Any] = {
        "accountId": "123456789012",
        "apiId": "local",
        "domainName": headers.get("Host", "localhost"),
        "requestId": str(uuid.uuid4()),
        "stage": "$default",
    }
    if payload == "2.0":
        # This payload has cookies apart, and joins the values of a repeated name by commas
        cookies = [
            cookie.strip() for line in headers.get_all("Cookie", []) for cookie in line.split(";")
        ]
        names = [(name.lower(), value) for name, value in received if name.lower() != "cookie"]
        source = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": client}
        context |= {
            "http": {**source, "userAgent": headers.get("User-Agent", "")},
            "routeKey": "$default",
        }
        context |= {"domainPrefix": "local", "time": stamp, "timeEpoch": int(now * 1000)}
        event |= {
            "routeKey": "$default",
            "rawPath": path,
            "rawQueryString": query,
            "requestContext": context,
        }
        event |= {"headers": {name: ",".join(values) for name, values in grouped(names).items()}}
        event |= (
            {"queryStringParameters": {k: ",".join(v) for k, v in grouped(pairs).items()}}
            if pairs
            else {}
        )
        return event | ({"cookies": cookies} if cookies else {}) | ({"body": text} if body else {})
    # Payload 1.0 has each name twice: with its last value, and with the list of all values
    identity = {"sourceIp": client, "userAgent": headers.get("User-Agent", "")}
    context |= {
        "httpMethod": method,
        "path": path,
        "protocol": "HTTP/1.1",
        "resourcePath": "$default",
    }
    context |= {"identity": identity, "requestTime": stamp, "requestTimeEpoch": int(now * 1000)}
    event |= {"resource": "$default", "path": path, "httpMethod": method, "requestContext": context}
    event |= {"headers": dict(received), "multiValueHeaders": grouped(received)}
    event |= {
        "queryStringParameters": dict(pairs) or None,
        "multiValueQueryStringParameters": grouped(pairs) or None,
    }
    return event | {"pathParameters": None, "stageVariables": None, "body": text if body else None}


def added_headers(headers: Message, client: str, now: float) -> list[tuple[str, str]]:
    """Return the headers that AWS adds to a request."""
    port = urlsplit("//" + headers.get("Host", "")).netloc.rpartition(":")[2]
    return [
        ("X-Forwarded-For", client),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Port", port if port.isdecimal() else "80"),
        ("X-Amzn-Trace-Id", f"Root=1-{int(now):08x}-{uuid.uuid4().hex[:24]}"),
    ]


def is_text(headers: Message) -> bool:
    """Return whether AWS passes a body with this Content-Type on as text, and not as base64."""
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    text_types = ("application/json", "application/xml", "application/javascript")
    return "Content-Encoding" not in headers and (
        media_type.startswith("text/") or media_type in text_types or media_type.endswith("+json")
    )


def grouped(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return a list of all values for each name, in their order."""
    values = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


def http_answer(payload: str, response: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return status, headers and body for a function's response.

    Raises ValueError for a response that AWS would answer with status 502.
    """
    if not isinstance(response, dict) or "statusCode" not in response:
        # With payload 2.0, a response without statusCode is the body of an answer
        if payload == "1.0" or (
            isinstance(response, dict) and {"errorMessage", "errorType"} <= response.keys()
        ):
            raise ValueError("the function failed, or gave no statusCode")
        return 200, [("Content-Type", "application/json")], json.dumps(response).encode()
    try:
        headers = list((response.get("headers") or {}).items())
        for name, values in (
            (response.get("multiValueHeaders") or {}).items() if payload == "1.0" else ()
        ):
            headers = [pair for pair in headers if pair[0].lower() != name.lower()]
            headers += [(name, value) for value in values]
        headers += [
            ("Set-Cookie", cookie) for cookie in response.get("cookies") or () if payload == "2.0"
        ]
        headers = [(name, str(value)) for name, value in headers if name.lower() not in OURS]
        if not all(re.fullmatch("[\t -~\xa0-\xff]*", name + value) for name, value in headers):
            raise ValueError("a header has a line break, or a character that HTTP does not allow")
        if not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("Content-Type", "application/json"))
        body = (response.get("body") or "").encode()
        body = (
            base64.b64decode(body, validate=True)
            if response.get("isBase64Encoded") is True
            else body
        )
        return int(response["statusCode"]), headers, body
    except (AttributeError, TypeError, binascii.Error) as error:
        raise ValueError(f"the function's response has a wrong form: {error}") from None


# --- Server ---------------------------------------------------------------------------------------


class Gateway(http.server.ThreadingHTTPServer):
    """The server. It answers each client in a thread of its own.

    `one_at_a_time` passes one request after the other to the emulator.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], emulator: str, payload: str = "2.0") -> None:
        """Listen at `address`, (host, port), in front of the emulator at this URL."""
        super().__init__(address, Handler)
        self.emulator, self.payload = (
            emulator.rstrip("/").removesuffix(INVOCATIONS) + INVOCATIONS,
            payload,
        )
        self.one_at_a_time = ThreadPoolExecutor(1)
        # No proxy: HTTP_PROXY must not catch requests to the emulator
        self.direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def invoke(self, event: bytes) -> Any:
        """Return the function's response to an event. Raises OSError or ValueError."""
        with self.direct.open(
            urllib.request.Request(self.emulator, event), timeout=SECONDS
        ) as response:
            content = response.read()
        if len(content) > MAX_EVENT:
            raise ValueError(f"the response has more than {MAX_EVENT:,} bytes")
        return json.loads(content)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print errors, except those of clients that closed the connection."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads a request, passes it to the function, and sends the answer."""

    server: Gateway
    protocol_version = "HTTP/1.1"
    timeout = SECONDS
    wbufsize = -1  # buffered, so that head and body of an answer leave together
    disable_nagle_algorithm = True

    def answer(self) -> None:
        """Turn the request into an event, invoke the function, send its response."""
        body = self.read_body()
        if body is None:
            return
        payload, client = self.server.payload, self.client_address[0]
        event = json.dumps(
            event_for(payload, self.command, self.path, self.headers, body, client)
        ).encode()
        if len(event) > MAX_EVENT:
            self.send(413, TOO_LARGE)
            return
        try:
            self.send(
                *http_answer(
                    payload, self.server.one_at_a_time.submit(self.server.invoke, event).result()
                )
            )
        except (OSError, ValueError, http.client.HTTPException) as error:
            print(f"gateway: no answer from the function: {error}", file=sys.stderr, flush=True)
            self.send(502, {"Message": "Internal Server Error"})

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def read_body(self) -> bytes | None:
        """Return the body of the request.

        If the body is too large, or its length is missing, the request is answered here, and the
        result is None.
        """
        if "Transfer-Encoding" in self.headers:
            return self.read_chunks()
        length = self.headers.get("Content-Length", "0")
        if not re.fullmatch("[0-9]{1,18}", length):
            self.close_connection = True
            self.send(411, {"Message": "a Content-Length is needed"})
            return None
        remaining = int(length)
        if remaining <= MAX_EVENT:
            return self.rfile.read(remaining)
        self.close_connection = remaining > MAX_UNREAD
        while 0 < remaining <= MAX_UNREAD and (block := self.rfile.read(min(remaining, 2**16))):
            remaining -= len(block)
        self.send(413, TOO_LARGE)
        return None

    def read_chunks(self) -> bytes | None:
        """Return a body that comes in chunks, each behind its length (RFC 9112 7.1), as clients
        send what they do not know the length of. The event gets the header Content-Length instead.
        """
        coding, body, length = self.headers["Transfer-Encoding"].strip().lower(), bytearray(), 0
        whole = coding == "chunked" and "Content-Length" not in self.headers
        while whole:
            head = CHUNK_HEAD.fullmatch(self.rfile.readline(MAX_LINE))
            size = int(head[1], 16) if head else 0
            length += size
            if not head or not size or length > MAX_UNREAD:
                whole = bool(head)
                break
            for start in range(0, size, 2**16):
                block = self.rfile.read(min(2**16, size - start))
                if length <= MAX_EVENT:
                    body += block
            whole = self.rfile.readline(3) in (b"\r\n", b"\n")
        if not whole or length > MAX_UNREAD:
            self.close_connection = True
            if whole:
                self.send(413, TOO_LARGE)
            else:
                self.send(400, {"Message": "the body has no chunks, but Transfer-Encoding says so"})
            return None
        for _ in range(MAX_TRAILERS):
            if self.rfile.readline(MAX_LINE) in (b"\r\n", b"\n", b""):
                break
        if length > MAX_EVENT:
            self.send(413, TOO_LARGE)
            return None
        del self.headers["Transfer-Encoding"]
        self.headers["Content-Length"] = str(len(body))
        return bytes(body)

    def send(self, status: int, headers: list[tuple[str, str]] | dict, body: bytes = b"") -> None:
        """Send an answer. A dict instead of the headers is a message of AWS itself."""
        if isinstance(headers, dict):
            headers, body = [("Content-Type", "application/json")], json.dumps(headers).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

    def version_string(self) -> str:
        """Return the name in the answers' Server header."""
        return "dog-breeds-gateway"

    def log_message(self, *args: object) -> None:
        """Print nothing, because the function logs its requests."""


def main() -> None:
    """Serve until Ctrl-C."""
    parser = script_parser(
        __doc__, "python -m dog_breeds.clients.gateway --port 9000 --payload 1.0"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 admits other machines (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=9000, help="port to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--emulator",
        default="http://127.0.0.1:8080",
        help="address of the emulator (default: %(default)s)",
    )
    parser.add_argument(
        "--payload",
        choices=("1.0", "2.0"),
        default="2.0",
        help="format of the events (default: %(default)s)",
    )
    args = parser.parse_args()
    try:
        server = Gateway((args.host, args.port), args.emulator, args.payload)
    except OSError as error:
        sys.exit(f"gateway: cannot listen on port {args.port}: {error.strerror}")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
