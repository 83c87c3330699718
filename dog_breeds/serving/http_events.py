"""Read HTTP requests from events of API Gateway, function URLs and load balancers.

The module also puts answers into the form that each of these services expects.
"""

import http
import json
import os
import re
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_plus

from dog_breeds.serving.limits import RequestError

METHODS = ("GET", "HEAD", "OPTIONS", "POST")
NO_WORK = ("HEAD", "OPTIONS")  # methods that get an answer without a body
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
HEADER_NAMES = r"[A-Za-z0-9,\- ]{1,1000}"  # names in a preflight that the response repeats


class HttpRequest(NamedTuple):
    """The fields of an HTTP event that the service uses."""

    # The form of event and response: "alb", "2.0" (HTTP API, function URL) or "1.0" (REST API)
    service: str
    method: str
    # What the last segment of the path asks for: "predict", "" for the service itself, or None for
    # a file. The service has no files.
    target: str | None
    content_type: str
    accept: str
    query: dict[str, str]
    body: Any
    is_base64: bool
    lists: bool  # whether a load balancer expects each header's values as a list
    origin: str  # the site of the page from which a browser asks; "" if the browser names none
    # The headers that a CORS preflight asks to send; None if the request is no preflight
    preflight: str | None
    answers_cors: bool  # whether the service in front adds CORS headers, as a function URL does


def http_request(event: Any) -> HttpRequest | None:
    """Return the HTTP request in an event, or None for a direct invocation."""
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
    if service == "alb":  # a load balancer does not decode the query
        query = {unquote_plus(key): unquote_plus(str(value)) for key, value in query.items()}
    headers = {key.lower(): str(value) for key, value in headers.items()}
    method = str(v2.get("method") if v2 else event.get("httpMethod")).upper()
    is_preflight = method == "OPTIONS" and "access-control-request-method" in headers
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
        preflight=headers.get("access-control-request-headers", "") if is_preflight else None,
        answers_cors=".lambda-url." in str(context.get("domainName")),
    )


def as_dict(value: Any) -> dict:
    """Return the value if it is a dict, and an empty dict otherwise."""
    return value if isinstance(value, dict) else {}


def target_of(path: Any) -> str | None:
    """Return what a path asks for: "predict", "" for the service, None for a file.

    The path begins with the stage and with the base path of a domain, API, distribution or load
    balancer. So only the last segment counts. A segment with a dot is a file (/favicon.ico), and so
    is everything below a hidden folder (/.git/config).
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
    """Return whether a GET has no image and no field, like the health checks of monitors."""
    named = request.query.keys() & {"url", "top_k", "explain"}
    return request.method == "GET" and request.target == "" and not named


# --- Responses ------------------------------------------------------------------------------------


def http_response(request: HttpRequest, outcome: str, answer: dict | None) -> dict:
    """Return the response to an HTTP request in the form that its service expects.

    `outcome` is an error code or "ok".
    """
    headers = {"Content-Type": "application/json"}
    if request.method == "OPTIONS" or outcome == "method_not_allowed":
        headers["Allow"] = ", ".join(METHODS)
    body = json.dumps(answer) if answer else ""
    return text_response(request, STATUS.get(outcome, 200), headers, body)


def text_response(request: HttpRequest, status: int, headers: dict[str, str], body: str) -> dict:
    """Return a response with the headers, the CORS headers, and, except for HEAD, the body."""
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
    """Return the CORS headers, which let pages of other sites use the service.

    The variable ALLOWED_ORIGIN holds the origins of these sites, separated by commas, or *. Without
    it there are no such headers. A function URL adds its own, and a second set would be wrong.
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
        headers["Access-Control-Max-Age"] = "3600"  # seconds until the browser asks again
    return headers
