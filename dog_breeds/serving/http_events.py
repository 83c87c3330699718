"""HTTP as AWS hands it to a function: events of API Gateway, function URLs and load balancers, and
their answers.
"""

import http
import json
import os
import re
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_plus

from dog_breeds.serving.limits import RequestError

METHODS = ("GET", "HEAD", "OPTIONS", "POST")
NO_WORK = ("HEAD", "OPTIONS")  # get an answer without a body
STATUS = {  # HTTP status of each error code
    "invalid_request": 400,
    "url_refused": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_large": 413,
    "unsupported_type": 415,
    "invalid_image": 422,
    "internal_error": 500,
    "download_failed": 502,
    "download_timeout": 504,
}
USAGE = {
    "usage": "POST an image, or JSON with url or image (base64), or GET /predict?url=ADDRESS;"
    " a browser gets a page"
}
HEADER_NAMES = r"[A-Za-z0-9,\- ]{1,1000}"  # a list of names that is echoed


class HttpRequest(NamedTuple):
    """What matters of an HTTP event."""

    # The form of event and response: "alb", "2.0" (HTTP API, function URL) or "1.0" (REST API)
    service: str
    method: str
    # What the last segment of the path asks for: "predict", "" (the service below whatever base
    # path stands in front of it), or None for a file, which is not here
    target: str | None
    content_type: str
    accept: str
    query: dict[str, str]
    body: Any
    is_base64: bool
    lists: bool  # a load balancer that wants headers as lists
    origin: str  # of the page that a browser asks for, where it is another site's
    # The headers for which a browser asks leave; None if this is no preflight
    preflight: str | None
    answers_cors: bool  # the service in front does: a function URL, whose headers must not double


def http_request(event: Any) -> HttpRequest | None:
    """Return the HTTP request in an event; None if it is a direct invocation."""
    event = as_dict(event)
    context = as_dict(event.get("requestContext"))
    if not context and "httpMethod" not in event:
        return None
    v2 = as_dict(context.get("http"))
    service = "alb" if "elb" in context else "2.0" if v2 else "1.0"
    lists = service == "alb" and "multiValueHeaders" in event
    query = as_dict(
        event.get("multiValueQueryStringParameters" if lists else "queryStringParameters")
    )
    headers = as_dict(event.get("multiValueHeaders" if lists else "headers"))
    if lists:
        query = {
            key: values[-1] for key, values in query.items() if isinstance(values, list) and values
        }
        headers = {
            key: values[-1]
            for key, values in headers.items()
            if isinstance(values, list) and values
        }
    if service == "alb":  # it passes the query as it came
        query = {unquote_plus(key): unquote_plus(str(value)) for key, value in query.items()}
    headers = {key.lower(): str(value) for key, value in headers.items()}
    method = str(v2.get("method") if v2 else event.get("httpMethod")).upper()
    asks_leave = method == "OPTIONS" and "access-control-request-method" in headers
    return HttpRequest(
        service=service,
        method=method,
        target=target_of(event.get("rawPath") if v2 else event.get("path")),
        content_type=headers.get("content-type", ""),
        accept=headers.get("accept", ""),
        query=query,
        body=event.get("body") or "",
        is_base64=event.get("isBase64Encoded") is True,
        lists=lists,
        origin=headers.get("origin", ""),
        preflight=headers.get("access-control-request-headers", "") if asks_leave else None,
        answers_cors=".lambda-url." in str(context.get("domainName")),
    )


def as_dict(value: Any) -> dict:
    """Return the value if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def target_of(path: Any) -> str | None:
    """Return what a path asks for: "predict", "" for the service, None for a file.

    AWS hands over the whole path, with the stage and the base path of a domain, an API, a
    distribution or a balancer in front. Only the last segment says what is wanted. One with a dot
    is a file (/favicon.ico), and so is everything below a hidden folder (/.git/config).
    """
    segments = unquote(path if isinstance(path, str) else "").strip("/").split("/")
    if "." in segments[-1] or any(segment.startswith(".") for segment in segments):
        return None
    return "predict" if segments[-1] == "predict" else ""


def check_route(request: HttpRequest) -> None:
    """Raise RequestError for a path or a method that the service does not have."""
    if request.target is None:
        raise RequestError("not_found", "there is nothing at this path; use / or /predict")
    if request.method not in METHODS:
        raise RequestError("method_not_allowed", f"use one of {', '.join(METHODS)}")


def asks_nothing(request: HttpRequest) -> bool:
    """Return whether a GET names no image and no field, as health checks of AWS and of monitors
    do."""
    named = request.query.keys() & {"url", "top_k", "explain"}
    return request.method == "GET" and request.target == "" and not named


# --- Responses ------------------------------------------------------------------------------------


def http_response(request: HttpRequest, outcome: str, answer: dict | None) -> dict:
    """Return the response to an HTTP request, in the form that its service expects; `outcome` is an
    error code or "ok".
    """
    headers = {"Content-Type": "application/json"}
    if request.method == "OPTIONS" or outcome == "method_not_allowed":
        headers["Allow"] = ", ".join(METHODS)
    body = json.dumps(answer) if answer else ""
    return text_response(request, STATUS.get(outcome, 200), headers, body)


def text_response(request: HttpRequest, status: int, headers: dict[str, str], body: str) -> dict:
    """Return a response with these headers, those of CORS and, unless the method is HEAD, this
    body.
    """
    body = body if request.method != "HEAD" else ""
    shared = cors_headers(request)
    if "Vary" in headers and "Vary" in shared:
        shared["Vary"] = f"{headers['Vary']}, {shared['Vary']}"
    headers = headers | shared
    response = {"statusCode": status, "body": body, "isBase64Encoded": False}
    if request.service == "alb":
        response["statusDescription"] = f"{status} {http.HTTPStatus(status).phrase}"
    if request.lists:
        response["multiValueHeaders"] = {key: [value] for key, value in headers.items()}
    else:
        response["headers"] = headers
    return response


def cors_headers(request: HttpRequest) -> dict[str, str]:
    """Return the headers that let pages of other sites ask.

    The variable ALLOWED_ORIGIN holds their origins, separated by commas, or *. Without it there are
    no such headers, and none for a function URL, which adds its own.
    """
    allowed = [
        origin.strip().rstrip("/").lower()
        for origin in os.environ.get("ALLOWED_ORIGIN", "").split(",")
    ]
    if allowed == [""] or request.answers_cors:
        return {}
    headers = {}
    if "*" in allowed:
        headers["Access-Control-Allow-Origin"] = "*"
    else:
        headers["Vary"] = "Origin"
        if not request.origin or request.origin not in allowed:
            return headers
        headers["Access-Control-Allow-Origin"] = request.origin
    if request.preflight is not None:
        headers["Access-Control-Allow-Methods"] = ", ".join(METHODS)
        asked = re.fullmatch(HEADER_NAMES, request.preflight)
        headers["Access-Control-Allow-Headers"] = request.preflight if asked else "Content-Type"
        headers["Access-Control-Max-Age"] = "3600"  # seconds for which the browser need not ask
    return headers
