"""Events of the services that AWS puts in front of a function, and the responses that they expect
from it.

Each of SERVICES makes an event of (method, path, query, body, content type, whether the body is
base64), from the samples of the package aws-sam-cli.
"""

import http
import json
import sys
from pathlib import Path

import pytest

EVENTS = Path(sys.executable).parents[1] / "events"


def sample(name: str) -> dict:
    """A sample by its name."""
    if not EVENTS.exists():
        pytest.skip(f"no {EVENTS}; `make` fetches it from the aws-sam-cli package")
    return json.loads((EVENTS / f"{name}.json").read_text())


def rest(method, path, query=None, body=None, content_type=None, is_base64=False) -> dict:
    """An event of a REST API."""
    event = sample("AwsProxy")
    event |= {
        "httpMethod": method,
        "path": path,
        "body": body,
        "isBase64Encoded": is_base64,
        "resource": "/{proxy+}",
    }
    event["queryStringParameters"] = query or None
    event["multiValueQueryStringParameters"] = {
        key: [value] for key, value in (query or {}).items()
    } or None
    event["requestContext"] |= {"stage": "prod", "path": f"/prod{path}", "httpMethod": method}
    if content_type:
        event["headers"]["Content-Type"] = content_type
        event["multiValueHeaders"]["Content-Type"] = [content_type]
    return event


def http_api(method, path, query=None, body=None, content_type=None, is_base64=False) -> dict:
    """An event of an HTTP API with a stage, payload 2.0."""
    event = sample("HttpApi")
    event |= {
        "rawPath": f"/prod{path}",
        "isBase64Encoded": is_base64,
        "queryStringParameters": query or {},
    }
    event["requestContext"] |= {"stage": "prod"}
    event["requestContext"]["http"] |= {"method": method, "path": f"/prod{path}"}
    if content_type:
        event["headers"]["content-type"] = content_type
    del event["body"]
    return event if body is None else {**event, "body": body}


def function_url(*request) -> dict:
    """An event of a function URL: payload 2.0, no stage."""
    event = http_api(*request)
    event["rawPath"] = event["rawPath"].removeprefix("/prod")
    event["requestContext"] |= {
        "stage": "$default",
        "domainName": "abc.lambda-url.eu-west-1.on.aws",
    }
    return event


def http_api_1(*request) -> dict:
    """An event of an HTTP API, payload 1.0, whose path has the stage."""
    event = rest(*request)
    return {**event, "version": "1.0", "path": "/prod" + event["path"]}


def balancer(method, path, query=None, body=None, content_type=None, is_base64=False) -> dict:
    """An event of a load balancer, which does not decode the query."""
    event = sample("ALBRequest")
    event |= {"httpMethod": method, "path": path, "body": body or "", "isBase64Encoded": is_base64}
    query = {
        key: value.replace(":", "%3A").replace("/", "%2F") for key, value in (query or {}).items()
    }
    event["queryStringParameters"] = query
    if content_type:
        event["headers"]["content-type"] = content_type
    return event


def balancer_with_lists(*request) -> dict:
    """An event of a load balancer whose target group has multi-value headers on."""
    event = balancer(*request)
    event["multiValueHeaders"] = {key: [value] for key, value in event.pop("headers").items()}
    event["multiValueQueryStringParameters"] = {
        k: [v] for k, v in event.pop("queryStringParameters").items()
    }
    return event


SERVICES = [rest, http_api, http_api_1, function_url, balancer, balancer_with_lists]


def response(service, status: int, answer: dict | None, allow: bool = False) -> dict:
    """The response that a service is to get."""
    headers = {"Content-Type": "application/json"} | (
        {"Allow": "GET, HEAD, OPTIONS, POST"} if allow else {}
    )
    body = "" if answer is None else json.dumps(answer)
    whole = {"statusCode": status, "headers": headers, "body": body, "isBase64Encoded": False}
    if service in (balancer, balancer_with_lists):
        whole["statusDescription"] = f"{status} {http.HTTPStatus(status).phrase}"
    if service is balancer_with_lists:
        whole["multiValueHeaders"] = {key: [value] for key, value in whole.pop("headers").items()}
    return whole
