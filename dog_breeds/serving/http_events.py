"""HTTP as AWS hands it to a function: events of API Gateway, function URLs and load balancers, and
their answers.
"""

import base64
import contextlib
import http
import json
import re
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from dog_breeds.serving.limits import RequestError

PATHS = ("/", "/predict")
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


class HttpRequest(NamedTuple):
    """What matters of an HTTP event."""

    # The form of event and response: "alb", "2.0" (HTTP API, function URL) or "1.0" (REST API)
    service: str
    method: str
    path: str
    content_type: str
    accept: str
    query: dict[str, str]
    body: Any
    is_base64: bool
    lists: bool  # a load balancer that wants headers as lists


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
    path = str(event.get("rawPath") if v2 else event.get("path")).strip("/")
    stage = context.get("stage")  # HTTP APIs put it in front of the path
    if isinstance(stage, str) and path.split("/")[0] == stage:
        path = path[len(stage) :].strip("/")
    return HttpRequest(
        service=service,
        method=str(v2.get("method") if v2 else event.get("httpMethod")).upper(),
        path="/" + path,
        content_type=headers.get("content-type", ""),
        accept=headers.get("accept", ""),
        query=query,
        body=event.get("body") or "",
        is_base64=event.get("isBase64Encoded") is True,
        lists=lists,
    )


def as_dict(value: Any) -> dict:
    """Return the value if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def fields_of(request: HttpRequest) -> Any:
    """Return the direct invocation that an HTTP request stands for, any JSON; None for a method of
    NO_WORK.
    """
    if request.path not in PATHS:
        raise RequestError("not_found", f"there is nothing at this path; use {' or '.join(PATHS)}")
    if request.method not in METHODS:
        raise RequestError("method_not_allowed", f"use one of {', '.join(METHODS)}")
    if request.method in NO_WORK:
        return None
    fields = {key: value for key, value in request.query.items() if key in ("url", "top_k")}
    with contextlib.suppress(TypeError, ValueError):
        fields["top_k"] = int(fields.get("top_k"))
    if "explain" in request.query:
        fields["explain"] = {"true": True, "false": False}.get(
            request.query["explain"], request.query["explain"]
        )
    kind = request.content_type.partition(";")[0].strip().lower()
    if request.method == "GET":
        return fields
    if kind.startswith("image/"):
        if not request.is_base64:
            raise RequestError(
                "unsupported_type",
                "the gateway does not pass image/* as binary; send base64 in JSON",
            )
        return {**fields, "image": request.body}
    if kind not in ("application/json", ""):
        raise RequestError(
            "unsupported_type", "the Content-Type must be application/json or image/..."
        )
    try:
        return json.loads(
            decode_base64(request.body, "the body") if request.is_base64 else request.body
        )
    except (TypeError, ValueError, RecursionError):
        raise RequestError("invalid_request", "the body is not JSON") from None


def decode_base64(text: Any, name: str) -> bytes:
    """Return the bytes of the field of this name, which holds base64 text or a data URL."""
    try:
        text = re.sub("^data:[^,]*,", "", text)
        return base64.b64decode("".join(text.split()) if "\n" in text else text, validate=True)
    except (TypeError, ValueError):
        raise RequestError("invalid_request", f"{name} must be base64 text") from None


def http_response(request: HttpRequest, status: int, answer: dict | None) -> dict:
    """Return the response to an HTTP request, in the form that its service expects."""
    headers = {"Content-Type": "application/json"}
    if request.method == "OPTIONS" or status == STATUS["method_not_allowed"]:
        headers["Allow"] = ", ".join(METHODS)
    return text_response(request, status, headers, json.dumps(answer) if answer else "")


def text_response(request: HttpRequest, status: int, headers: dict[str, str], body: str) -> dict:
    """Return a response with these headers and, unless the method is HEAD, this body."""
    body = body if request.method != "HEAD" else ""
    response = {"statusCode": status, "headers": headers, "body": body, "isBase64Encoded": False}
    if request.service == "alb":
        response["statusDescription"] = f"{status} {http.HTTPStatus(status).phrase}"
    if request.lists:
        response["multiValueHeaders"] = {
            key: [value] for key, value in response.pop("headers").items()
        }
    return response
