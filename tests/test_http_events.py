"""Events and responses of every service that AWS puts in front of a function, through the real
Lambda stack.
"""

import base64
import json

import pytest
from conftest import NOT_PUBLIC
from odd_images import JPEG, TEXT, text
from PIL import Image
from services import SERVICES, response, sample

JSON = "application/json"


@pytest.mark.parametrize("service", SERVICES)
def test_every_kind_of_http_event(stack, service):
    event_json = json.dumps({"image": TEXT})
    encoded = base64.b64encode(event_json.encode()).decode()
    good = response(service, 200, stack.invoke({"image": TEXT}))
    best = response(service, 200, stack.invoke({"image": TEXT, "top_k": 1}))
    for request, expected in (
        (("POST", "/predict", {}, event_json, JSON), good),
        (("POST", "/", {}, event_json, "application/json; charset=utf-8"), good),
        (("post", "/predict/", {}, encoded, JSON, True), good),
        (("POST", "/predict", {}, event_json), good),
        (("POST", "/predict", {}, TEXT, "image/jpeg", True), good),
        (
            ("POST", "/predict", {}, TEXT, "IMAGE/PNG; a=b", True),
            good,
        ),  # by its content, not by what it is called
        (("POST", "/predict", {"top_k": "1"}, TEXT, "image/jpeg", True), best),
        (("POST", "/predict", {"top_k": "9"}, json.dumps({"image": TEXT, "top_k": 1}), JSON), best),
        (("HEAD", "/predict"), response(service, 200, None)),
        (("HEAD", "/other"), response(service, 404, None)),
        (("OPTIONS", "/predict"), response(service, 200, None, allow=True)),
    ):
        assert stack.invoke(service(*request)) == expected, request


@pytest.mark.parametrize("service", SERVICES)
def test_every_error_over_http(stack, service):
    form, url = "application/x-www-form-urlencoded", {"url": "http://a.example/"}
    damaged = base64.b64encode(JPEG[:900]).decode()
    large = text(Image.new("L", (8000, 6251)))
    for request, status, code, message in (
        (("GET", "/predict", {"url": "http://127.0.0.1/a?b=c"}), 400, "url_refused", NOT_PUBLIC),
        (("GET", "/predict"), 400, "invalid_request", "the request must have one of"),
        (
            ("GET", "/predict", {"url": "http://[::1]/", "top_k": "x"}),
            400,
            "invalid_request",
            "top_k must",
        ),
        (("POST", "/predict", {}, "{", JSON), 400, "invalid_request", "the body is not JSON"),
        (("POST", "/predict", {}, None, JSON), 400, "invalid_request", "the body is not JSON"),
        (
            ("POST", "/predict", {}, "null", JSON),
            400,
            "invalid_request",
            "the request must be a JSON object",
        ),
        (
            ("POST", "/predict", {}, "[" * 100_000, JSON),
            400,
            "invalid_request",
            "the body is not JSON",
        ),
        (
            ("POST", "/predict", {}, "*", JSON, True),
            400,
            "invalid_request",
            "the body must be base64",
        ),
        (
            ("POST", "/predict", {}, '{"image": 5}', JSON),
            400,
            "invalid_request",
            "image must be base64 text",
        ),
        (("GET", "/other", url), 404, "not_found", "there is nothing at this path"),
        (
            ("POST", "/predict/more", {}, "{}", JSON),
            404,
            "not_found",
            "there is nothing at this path",
        ),
        (
            ("PUT", "/predict", {}, "{}", JSON),
            405,
            "method_not_allowed",
            "use one of GET, HEAD, OPTIONS, POST",
        ),
        (("DELETE", "/"), 405, "method_not_allowed", "use one of GET, HEAD, OPTIONS, POST"),
        (
            ("POST", "/predict", {}, large, "image/jpeg", True),
            413,
            "too_large",
            "more than 50,000,000 pixels",
        ),
        (("POST", "/predict", {}, "a=b", form), 415, "unsupported_type", "Content-Type"),
        (
            ("POST", "/predict", {}, TEXT, "image/jpeg"),
            415,
            "unsupported_type",
            "the gateway does not pass image",
        ),
        (
            ("POST", "/predict", {}, "YSBkb2c=", "image/jpeg", True),
            415,
            "unsupported_type",
            "none of JPEG, PNG",
        ),
        (("POST", "/predict", {}, damaged, "image/jpeg", True), 422, "invalid_image", "damaged"),
    ):
        answer = stack.invoke(service(*request))
        body = json.loads(answer["body"])
        assert list(body) == ["error"] and list(body["error"]) == ["code", "message"]
        assert (answer["statusCode"], body["error"]["code"]) == (status, code), request
        assert message in body["error"]["message"]
        assert answer == response(service, status, body, allow=status == 405)


@pytest.mark.parametrize("name", ["ALBRequest", "AwsProxy", "HttpApi"])
def test_samples_as_they_are_get_an_answer(stack, name):
    answer = stack.invoke(sample(name))
    assert answer["statusCode"] in (404, 405) and "error" in json.loads(answer["body"])
