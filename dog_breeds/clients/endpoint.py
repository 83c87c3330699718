"""Send requests to the service in the cloud, sign them, explain failures, and measure its speed."""

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

HINTS = {  # the probable cause of an HTTP status that does not come from the handler
    403: "the endpoint needs a signed request (--sign), or stage and path are wrong",
    404: "there is nothing at this address; check region, stage and path",
    413: "the request is too large; Lambda takes images of 4.5 MB, behind a load balancer of "
    "0.7 MB",
    429: "too many requests at once (throttled); try again, or raise the function's reserved "
    "concurrency",
    500: "the service failed; look into the function's logs",
    502: "the function failed, or ran out of memory; look into its logs",
    503: "the service is not available; try again, then look into the function's logs",
    504: "the function took too long; look into its logs, or raise its time-out",
}
SIGNED_HINT = (
    "the signature was refused; check the credentials, their right to invoke the function, "
    "and this machine's clock"
)
CONNECT_SECONDS = 5
WAIT_SECONDS = 3  # until a remark tells the user why the answer takes so long


# --- Signed requests ------------------------------------------------------------------------------


def signer(endpoint: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return a function that signs requests to an endpoint: AWS's Signature Version 4.

    The credentials are those that the AWS CLI would use. The host's name determines the service and
    the region. Raises ValueError if credentials, region or botocore are missing.
    """
    try:
        import botocore.session  # imported here, because only --sign needs it
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
        # A custom domain does not name the service. Only API Gateway can have one.
        service, region = named.groups() if named else ("execute-api", os.environ.get("AWS_REGION"))
        region = region or session.get_config_variable("region")
    except BotoCoreError as error:
        raise ValueError(f"no AWS credentials: {error}") from None
    if not keys:
        command = 'eval "$(aws configure export-credentials --format env)"'
        raise ValueError(f"no AWS credentials; if the AWS CLI has some, run {command}")
    if not region:
        raise ValueError(f"the region of {host or endpoint} is not known; set AWS_REGION")
    auth = SigV4Auth(keys, "lambda" if service == "lambda-url" else service, region)

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        content_type = {
            name: value for name, value in request.headers.items() if name.lower() == "content-type"
        }
        signed = AWSRequest(request.method, request.url, content_type, request.body)
        try:
            auth.add_auth(signed)
        # Credentials of SSO and of roles are fetched here, at their first use
        except (BotoCoreError, ClientError) as error:
            raise ValueError(f"no AWS credentials: {error}") from None
        request.headers.update(signed.headers)
        return request

    return sign


# --- One request ----------------------------------------------------------------------------------


def open_session(url: str) -> requests.Session:
    """Return a session for requests to an address.

    The session ignores HTTP_PROXY for an address of this machine, which a proxy cannot reach.
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
    """The result of a request."""

    answer: dict | None  # the handler's answer, which may be an error; None: no answer
    outcome: str  # "ok", an error code, "status_" with the HTTP status, or an exception's name
    message: str  # for the user, if there is no answer
    seconds: float


def post(
    session: requests.Session, endpoint: str, body: bytes, seconds: float, auth: Callable | None
) -> Reply:
    """Send JSON to an endpoint, and wait at most `seconds` for its reply."""
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
            allow_redirects=False,  # the service never redirects; its answer shows a wrong address
        )
    except requests.Timeout:
        return reply(
            None, "time_out", f"no answer from {endpoint} in time; wait longer with --timeout"
        )
    except requests.RequestException as error:
        name = type(error).__name__
        return reply(
            None, name, f"no answer from {endpoint} ({name}); check the address and the network"
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
    # AWS's own services name the reason "message" or "Message"
    reason = answer.get("message") or answer.get("Message") if isinstance(answer, dict) else None
    hint = (
        SIGNED_HINT
        if status == 403 and auth
        else HINTS.get(status, "something other than this service answers there")
    )
    return reply(
        None,
        f"status_{status}",
        f"status {status} ({reason or response.reason or 'no reason'}): {hint}",
    )


def ask(
    endpoint: str, event: dict, seconds: float, auth: Callable | None, tell: Callable[[str], Any]
) -> dict:
    """Return the service's answer to an event.

    Calls `tell` with a remark if the answer takes longer than WAIT_SECONDS. Raises RuntimeError if
    there is no answer.
    """
    waiting = threading.Timer(
        WAIT_SECONDS, tell, ["still waiting; after a pause, Lambda has to start a container"]
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
    """Send an event `number` times from several clients at once.

    Return figures by name, and the number of each outcome. One more request comes before them,
    because the service may still have to start. It counts only as the figure first_ms.
    """
    body, counter, stopped = json.dumps(event).encode(), itertools.count(), threading.Event()

    def client(share: Iterable[int]) -> list[Reply]:
        with open_session(endpoint) as session:
            return [post(session, endpoint, body, seconds, auth) for _ in share]

    (first,) = client(range(1))
    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        # Each client draws its next request from a common counter, up to `number`
        shares = [
            itertools.takewhile(lambda drawn: drawn < number and not stopped.is_set(), counter)
            for _ in range(clients)
        ]
        try:
            replies = list(itertools.chain.from_iterable(pool.map(client, shares)))
        finally:  # after Ctrl-C, the clients send no further request
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
