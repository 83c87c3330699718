"""Run a small gateway on this machine, in front of the emulator of AWS Lambda.

    python -m dog_breeds.clients.gateway    # http://127.0.0.1:9000, for an emulator on port 8080
    python -m dog_breeds.clients.gateway --port 9000 --emulator http://127.0.0.1:8080 --payload 1.0

The gateway turns HTTP requests into events of a function URL (payload 2.0) or of an HTTP API
(payload 1.0), and the function's responses into HTTP. The emulator runs one invocation at a time,
so requests wait in a queue. The gateway needs only Python's standard library.
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
# The gateway reads a body that is too large up to this number of bytes and drops it, because most
# clients read the answer only after they have sent the whole body
MAX_DROPPED = 100_000_000
CHUNK_HEAD = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
MAX_LINE, MAX_TRAILERS = 4096, 100  # bytes of a line between chunks; lines after the last chunk
TIMEOUT_SECONDS = 60  # for an invocation, and for a client that sends nothing
# Headers of the function's response that the gateway replaces by its own
OWN_HEADERS = "connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"


# --- Events and responses -------------------------------------------------------------------------


def _lambda_event(
    payload: str, method: str, target: str, headers: Message, body: bytes, client: str
) -> dict:
    """Return the event for an HTTP request, in the form of the payload "2.0" or "1.0".

    `target` is the path with its query, still percent-encoded.
    """
    path, _, query = target.partition("?")
    # Empty values count: AWS passes on ?x= as {"x": ""}
    pairs, now = parse_qsl(query, keep_blank_values=True), time.time()
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now))
    received = [*headers.items(), *_added_headers(headers, client, now)]
    binary = not _is_text(headers)
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
        # Payload 2.0 separates cookies from headers, and joins the values of a repeated name by ","
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
        event["headers"] = {k: ",".join(v) for k, v in _values_by_name(names).items()}
        # Without values, this payload leaves out the keys
        if pairs:
            parameters = {k: ",".join(v) for k, v in _values_by_name(pairs).items()}
            event["queryStringParameters"] = parameters
        if cookies:
            event["cookies"] = cookies
        if body:
            event["body"] = text
        return event
    # Payload 1.0 has two dicts of headers: one with the last value, one with a list of all values
    identity = {"sourceIp": client, "userAgent": headers.get("User-Agent", "")}
    context |= {
        "httpMethod": method,
        "path": path,
        "protocol": "HTTP/1.1",
        "resourcePath": "$default",
    }
    context |= {"identity": identity, "requestTime": stamp, "requestTimeEpoch": int(now * 1000)}
    event |= {"resource": "$default", "path": path, "httpMethod": method, "requestContext": context}
    event |= {"headers": dict(received), "multiValueHeaders": _values_by_name(received)}
    event |= {
        "queryStringParameters": dict(pairs) or None,
        "multiValueQueryStringParameters": _values_by_name(pairs) or None,
    }
    return event | {"pathParameters": None, "stageVariables": None, "body": text if body else None}


def _added_headers(headers: Message, client: str, now: float) -> list[tuple[str, str]]:
    """Return the headers that AWS adds to a request."""
    # netloc and not port, because .port raises ValueError for a port that is not a number
    port = urlsplit("//" + headers.get("Host", "")).netloc.rpartition(":")[2]
    return [
        ("X-Forwarded-For", client),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Port", port if port.isdecimal() else "80"),
        ("X-Amzn-Trace-Id", f"Root=1-{int(now):08x}-{uuid.uuid4().hex[:24]}"),
    ]


def _is_text(headers: Message) -> bool:
    """Return whether AWS passes on a body with these headers as text, and not as base64."""
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    text_types = ("application/json", "application/xml", "application/javascript")
    return "Content-Encoding" not in headers and (
        media_type.startswith("text/") or media_type in text_types or media_type.endswith("+json")
    )


def _values_by_name(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the list of all values of each name, in their order."""
    values = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


def http_answer(payload: str, response: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return status, headers and body for a function's response.

    Raises ValueError for a response for which AWS would answer with status 502.
    """
    if not isinstance(response, dict) or "statusCode" not in response:
        # With payload 2.0, a response without statusCode is itself the body of a 200
        if payload == "1.0" or (
            isinstance(response, dict) and {"errorMessage", "errorType"} <= response.keys()
        ):
            raise ValueError("the function failed, or its response has no statusCode")
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
        headers = [(name, str(value)) for name, value in headers if name.lower() not in OWN_HEADERS]
        # A line break would let the function's data add headers, or a second response
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
        raise ValueError(f"the function's response is malformed: {error}") from None


# --- Server ---------------------------------------------------------------------------------------


class Gateway(http.server.ThreadingHTTPServer):
    """The server, with a thread for each client. It sends one request at a time to the emulator."""

    daemon_threads = True
    request_queue_size = 128  # of connections that wait to be accepted

    def __init__(self, address: tuple[str, int], emulator: str, payload: str = "2.0") -> None:
        """Listen at `address`, (host, port), and pass requests on to the emulator at this URL."""
        super().__init__(address, Handler)
        self.emulator = emulator.rstrip("/").removesuffix(INVOCATIONS) + INVOCATIONS
        self.payload = payload
        self.queue = ThreadPoolExecutor(1)  # its one thread invokes the function
        # An opener without proxies: HTTP_PROXY must not catch requests to the emulator
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def invoke(self, event: bytes) -> Any:
        """Return the function's response to an event. Raises OSError or ValueError."""
        request = urllib.request.Request(self.emulator, event)
        with self.opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            content = response.read()
        if len(content) > MAX_EVENT:
            raise ValueError(f"the response has more than {MAX_EVENT:,} bytes")
        return json.loads(content)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error, unless a client has closed its connection."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads HTTP requests of a client, passes them to the function, and sends the answers."""

    server: Gateway
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_SECONDS
    wbufsize = -1  # buffered, so that the head and the body of an answer are sent together
    disable_nagle_algorithm = True  # otherwise an answer can wait 40 ms for the client's ACK

    def answer(self) -> None:
        """Turn the request into an event, invoke the function, and send its response."""
        body = self.read_body()
        if body is None:  # read_body has sent an error
            return
        payload, client = self.server.payload, self.client_address[0]
        event = json.dumps(
            _lambda_event(payload, self.command, self.path, self.headers, body, client)
        ).encode()
        if len(event) > MAX_EVENT:
            self.send(413, TOO_LARGE)
            return
        try:
            response = self.server.queue.submit(self.server.invoke, event).result()
            self.send(*http_answer(payload, response))
        except (OSError, ValueError, http.client.HTTPException) as error:
            print(f"gateway: no answer from the function: {error}", file=sys.stderr, flush=True)
            self.send(502, {"Message": "Internal Server Error"})

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def read_body(self) -> bytes | None:
        """Return the body of the request.

        If the body is too large or its length is missing, send an error and return None.
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
        # A body of more than MAX_DROPPED is not read at all. What is left of it on the connection
        # would look like a further request, so the connection is closed.
        self.close_connection = remaining > MAX_DROPPED
        while 0 < remaining <= MAX_DROPPED and (block := self.rfile.read(min(remaining, 2**16))):
            remaining -= len(block)
        self.send(413, TOO_LARGE)
        return None

    def read_chunks(self) -> bytes | None:
        """Return a body that comes in chunks, each after its length in hex (RFC 9112, 7.1).

        Clients send chunks if they do not know the length in advance. The event gets the header
        Content-Length instead of Transfer-Encoding, as on AWS. After an error, return None.
        """
        coding, body, length = self.headers["Transfer-Encoding"].strip().lower(), bytearray(), 0
        # Both headers at once are an attack (request smuggling), or a mistake
        valid = coding == "chunked" and "Content-Length" not in self.headers
        while valid:
            head = CHUNK_HEAD.fullmatch(self.rfile.readline(MAX_LINE))
            size = int(head[1], 16) if head else 0
            length += size
            if not head or not size or length > MAX_DROPPED:  # size 0 ends the body
                valid = bool(head)
                break
            for start in range(0, size, 2**16):
                block = self.rfile.read(min(2**16, size - start))
                if length <= MAX_EVENT:
                    body += block
            valid = self.rfile.readline(3) in (b"\r\n", b"\n")
        if not valid or length > MAX_DROPPED:
            self.close_connection = True
            if valid:
                self.send(413, TOO_LARGE)
            else:
                self.send(400, {"Message": "the body is not in valid chunks"})
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
        """Send an answer.

        `headers` can be a dict instead: the JSON of an error that AWS itself would send.
        """
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
        """Return the value of the Server header."""
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
        help="address to listen on; 0.0.0.0 also admits other machines (default: %(default)s)",
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
