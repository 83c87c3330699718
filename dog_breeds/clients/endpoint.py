"""Ask the service in the cloud: sign requests, explain failures, and measure the speed."""

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

HINTS = {  # what to do about an HTTP status that AWS has answered instead of the handler
    403: "the endpoint needs a signed request (--sign), or its stage or path is wrong",
    404: "there is nothing at this address; check its region, stage and path",
    413: "the request is too large; Lambda accepts images up to 4.5 MB, or 0.7 MB behind a load "
    "balancer",
    429: "too many requests at once (throttled); try again, or raise the function's reserved "
    "concurrency",
    500: "the service failed; read the function's logs",
    502: "the function failed, or ran out of memory; read its logs",
    503: "the service is not available; try again, then read the function's logs",
    504: "the function took too long; read its logs, or raise its time-out",
}
SIGNED_HINT = (
    "the signature was refused; check the credentials, their right to invoke the function, and the "
    "clock of this machine"
)
CONNECT_SECONDS = 5
WAIT_SECONDS = 3  # then a remark explains to the user why the answer takes so long


# --- Signed requests ------------------------------------------------------------------------------


def signer(endpoint: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return a function that signs requests to an endpoint with AWS's Signature Version 4.

    The function has the form that `requests` expects as `auth`. The credentials are those that the
    AWS CLI would use. The service and the region follow from the name of the host. Raises
    ValueError if the credentials, the region or botocore are missing.
    """
    try:
        import botocore.session  # imported here, because only --sign needs it
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise ValueError("--sign needs botocore; run pip install botocore") from None
    host = urlsplit(endpoint).hostname or ""
    aws_host = re.fullmatch(
        r"[a-z0-9-]+\.(lambda-url|execute-api)\.([a-z0-9-]+)\.(?:on\.aws|(?:vpce\.)?amazonaws\.com(?:\.cn)?)",
        host,
    )
    session = botocore.session.get_session()
    try:
        credentials = session.get_credentials()
        # A custom domain shows neither service nor region. Only API Gateway can have one.
        service, region = (
            aws_host.groups() if aws_host else ("execute-api", os.environ.get("AWS_REGION"))
        )
        region = region or session.get_config_variable("region")
    except BotoCoreError as error:
        raise ValueError(f"no AWS credentials: {error}") from None
    if not credentials:
        command = 'eval "$(aws configure export-credentials --format env)"'
        raise ValueError(f"no AWS credentials; if the AWS CLI has them, run {command}")
    if not region:
        raise ValueError(f"the name {host or endpoint} does not show a region; set AWS_REGION")
    auth = SigV4Auth(credentials, "lambda" if service == "lambda-url" else service, region)

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Sign no other header, because a proxy may change it
        content_type = {
            name: value for name, value in request.headers.items() if name.lower() == "content-type"
        }
        signed = AWSRequest(request.method, request.url, content_type, request.body)
        try:
            auth.add_auth(signed)
        # botocore fetches the credentials of SSO and of roles only here, at their first use
        except (BotoCoreError, ClientError) as error:
            raise ValueError(f"no AWS credentials: {error}") from None
        request.headers.update(signed.headers)
        return request

    return sign


# --- One request ----------------------------------------------------------------------------------


def open_session(url: str) -> requests.Session:
    """Return a session for requests to a URL.

    For a URL of this machine the session ignores HTTP_PROXY, because a proxy cannot reach it.
    """
    session, host = requests.Session(), (urlsplit(url).hostname or "").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
        is_local = address.is_loopback or address.is_unspecified
    except ValueError:  # the host is a name
        is_local = host == "localhost" or host.endswith(".localhost")
    session.trust_env = not is_local
    return session


class Reply(NamedTuple):
    """The result of a request."""

    answer: dict | None  # the handler's answer, which may be an error; None if it gave none
    outcome: str  # "ok", an error code, "status_403" and the like, or the name of an exception
    message: str  # for the user if there is no answer, otherwise empty
    seconds: float


def _post(
    session: requests.Session, endpoint: str, body: bytes, seconds: float, auth: Callable | None
) -> Reply:
    """Send a JSON body to an endpoint, and wait at most `seconds` for its reply."""
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
            allow_redirects=False,  # the service never redirects: the address must be wrong
        )
    except requests.Timeout:
        return reply(
            None,
            "time_out",
            f"no answer from {endpoint} within {seconds:g} s; wait longer with --timeout",
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
    # API Gateway gives its reason as "message", Lambda as "Message"
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
    endpoint: str, event: dict, seconds: float, auth: Callable | None, report: Callable[[str], Any]
) -> dict:
    """Return the service's answer to an event.

    If the answer takes longer than WAIT_SECONDS, `report` is called with a remark for the user.
    Raises RuntimeError if there is no answer.
    """
    remark = threading.Timer(
        WAIT_SECONDS,
        report,
        ["still waiting; after a pause, Lambda has to start a container first"],
    )
    remark.daemon = True
    remark.start()
    try:
        with open_session(endpoint) as session:
            reply = _post(session, endpoint, json.dumps(event).encode(), seconds, auth)
    finally:
        remark.cancel()
    if reply.answer is None:
        raise RuntimeError(reply.message)
    return reply.answer


# --- Many requests --------------------------------------------------------------------------------


def measure_load(
    endpoint: str, event: dict, seconds: float, auth: Callable | None, number: int, clients: int
) -> dict:
    """Send an event `number` times, from several clients at once. Return the figures by name.

    The figures are times, requests per second, and how often each outcome occurred. An additional
    request comes first, because the service may still have to start. Only the figure first_ms
    shows it.
    """
    body, counter, stopped = json.dumps(event).encode(), itertools.count(), threading.Event()

    def client(share: Iterable[int]) -> list[Reply]:
        with open_session(endpoint) as session:
            return [_post(session, endpoint, body, seconds, auth) for _ in share]

    (first,) = client(range(1))
    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        # All clients take their next request from one counter, so that a slow client sends fewer
        shares = [
            itertools.takewhile(lambda index: index < number and not stopped.is_set(), counter)
            for _ in range(clients)
        ]
        try:
            replies = list(itertools.chain.from_iterable(pool.map(client, shares)))
        finally:  # after Ctrl-C, leaving the pool would otherwise wait for all other requests
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
        # The nearest-rank percentile: a time that was measured, without interpolation
        figures[f"p{percent}_ms"] = times[math.ceil(len(times) * percent / 100) - 1]
    outcomes = Counter(reply.outcome for reply in replies)
    return {**figures, "failed": number - outcomes["ok"], **dict(outcomes.most_common())}
