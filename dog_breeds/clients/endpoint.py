"""The service behind an endpoint in the cloud: requests, signed if wanted, answers or clear
reasons, and its speed.
"""

import ipaddress
import itertools
import json
import math
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests

HINTS = {  # what an HTTP status without an answer of the handler means
    403: "the endpoint wants a signed request (--sign), or there is nothing at this stage and path",
    404: "there is nothing at this address: check region, stage and path",
    413: "the request is too large for it: Lambda takes 4.5 MB of picture, "
    "behind a load balancer 0.7 MB",
    429: "too many requests at once (throttled): ask again, or raise the function's reserved "
    "concurrency",
    500: "the service failed: look into the function's logs",
    502: "the function failed, or ran out of memory: look into its logs",
    503: "the service is not available: ask again; if it stays so, look into the function's logs",
    504: "the function took too long: look into its logs, or raise its time-out",
}
SIGNED_HINT = (
    "the signature was refused: check the credentials, their right to invoke the function, "
    "and this clock"
)
CONNECT_SECONDS = 5
WAIT_SECONDS = 3  # after which a person is told what is going on


# --- Signed requests ------------------------------------------------------------------------------


def signer(endpoint: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return what signs requests to an endpoint with the keys of AWS that its CLI would take:
    Signature Version 4.

    For the service and the region that the host names. Raises ValueError where keys, region or
    botocore are missing.
    """
    try:
        import botocore.session  # not above, as nothing else needs it
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise ValueError("--sign needs pip install botocore") from None
    host = urlsplit(endpoint).hostname or ""
    named = re.fullmatch(
        r"[a-z0-9-]+\.(lambda-url|execute-api)\.([a-z0-9-]+)\.(?:on\.aws|(?:vpce\.)?amazonaws\.com(?:\.cn)?)",
        host,
    )
    session = botocore.session.get_session()
    try:
        keys = session.get_credentials()
        # Hosts of one's own: only API Gateway has them.
        kind, region = named.groups() if named else ("execute-api", os.environ.get("AWS_REGION"))
        region = region or session.get_config_variable("region")
    except BotoCoreError as error:
        raise ValueError(f"no AWS credentials: {error}") from None
    if not keys:
        way = 'eval "$(aws configure export-credentials --format env)"'
        raise ValueError(f"no AWS credentials; where the AWS CLI has some, say {way}")
    if not region:
        raise ValueError(f"in which region is {host or endpoint}? Set AWS_REGION")
    auth = SigV4Auth(keys, "lambda" if kind == "lambda-url" else kind, region)

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        kinds = {
            name: value for name, value in request.headers.items() if name.lower() == "content-type"
        }
        signed = AWSRequest(request.method, request.url, kinds, request.body)
        try:
            auth.add_auth(signed)
        # Keys of SSO and roles are fetched when they are used
        except (BotoCoreError, ClientError) as error:
            raise ValueError(f"no AWS credentials: {error}") from None
        request.headers.update(signed.headers)
        return request

    return sign


# --- One request ----------------------------------------------------------------------------------


def open_session(url: str) -> requests.Session:
    """Return a session for requests to an address. One on this machine is asked directly, whatever
    HTTP_PROXY says: a proxy cannot reach it.
    """
    session, host = requests.Session(), (urlsplit(url).hostname or "").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
        here = address.is_loopback or address.is_unspecified
    except ValueError:
        here = host == "localhost" or host.endswith(".localhost")
    session.trust_env = not here
    return session


class Reply(NamedTuple):
    """What came of a request."""

    answer: dict | None  # the handler's, which may be an error; None: it did not answer
    outcome: (
        str  # ok, the code of an error, the HTTP status, or the name of what went wrong on the way
    )
    message: str  # for a person, if there is no answer
    seconds: float


def post(
    session: requests.Session, endpoint: str, body: bytes, seconds: float, auth: Callable | None
) -> Reply:
    """Send JSON to an endpoint and wait at most so long for its reply."""
    start, headers = time.monotonic(), {"Content-Type": "application/json"}

    def reply(answer: dict | None, outcome: str, message: str = "") -> Reply:
        return Reply(answer, outcome, message, time.monotonic() - start)

    try:
        response = session.post(
            endpoint,
            body,
            headers=headers,
            auth=auth,
            timeout=(CONNECT_SECONDS, seconds),
            allow_redirects=False,
        )
    except requests.Timeout:
        return reply(
            None, "time_out", f"no answer from {endpoint} in time; --timeout S waits longer"
        )
    except requests.RequestException as error:
        kind = type(error).__name__
        return reply(
            None, kind, f"no answer from {endpoint} ({kind}): check the address and the network"
        )
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if isinstance(answer, dict) and answer.keys() & {"prediction", "predictions"}:
        return reply(answer, "ok")
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        return reply(answer, str(answer["error"].get("code")))
    status = response.status_code
    said = answer.get("message") or answer.get("Message") if isinstance(answer, dict) else None
    hint = (
        SIGNED_HINT
        if status == 403 and auth
        else HINTS.get(status, "it is not the service that answers there")
    )
    return reply(
        None,
        f"status_{status}",
        f"status {status} ({said or response.reason or 'no reason'}): {hint}",
    )


def ask(
    endpoint: str, event: dict, seconds: float, auth: Callable | None, tell: Callable[[str], Any]
) -> dict:
    """Return the service's answer to an event; RuntimeError if there is none. Tells a person who
    has to wait why.
    """
    waiting = threading.Timer(
        WAIT_SECONDS, tell, ["still waiting; after a pause Lambda has to start a container"]
    )
    waiting.daemon = True
    waiting.start()
    try:
        with open_session(endpoint) as session:
            reply = post(session, endpoint, json.dumps(event).encode(), seconds, auth)
    finally:
        waiting.cancel()
    if reply.answer is None:
        raise RuntimeError(reply.message)
    return reply.answer


# --- Many requests --------------------------------------------------------------------------------


def load(
    endpoint: str, event: dict, seconds: float, auth: Callable | None, number: int, clients: int
) -> dict:
    """Send an event so many times by so many clients at once; return figures by name, and how often
    each outcome came.

    One request more goes before them, alone, as it may find the service cold, and counts only as
    first_ms.
    """
    body, left, stopped = json.dumps(event).encode(), itertools.count(), threading.Event()

    def client(share: Iterable[int]) -> list[Reply]:
        with open_session(endpoint) as session:
            return [post(session, endpoint, body, seconds, auth) for _ in share]

    (first,) = client(range(1))
    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        # All clients draw from one counter until `number` are drawn.
        shares = [
            itertools.takewhile(lambda drawn: drawn < number and not stopped.is_set(), left)
            for _ in range(clients)
        ]
        try:
            replies = [reply for some in pool.map(client, shares) for reply in some]
        finally:  # after Ctrl-C the clients draw no more
            stopped.set()
    rate = number / (time.monotonic() - start)
    times = sorted(1000 * reply.seconds for reply in replies if reply.outcome == "ok")
    figures = {
        "first_ms": 1000 * first.seconds,
        "requests": number,
        "clients": clients,
        "requests_per_s": rate,
    }
    for percent in (50, 90, 99, 100) if times else ():
        figures[f"p{percent}_ms"] = times[math.ceil(len(times) * percent / 100) - 1]
    outcomes = Counter(reply.outcome for reply in replies)
    return {**figures, "failed": number - outcomes["ok"], **dict(outcomes.most_common())}
