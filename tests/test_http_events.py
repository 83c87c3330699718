"""Events and responses of every service that AWS puts in front of a function, through the real
Lambda stack.
"""

import base64
import json
import os

import pytest
from conftest import NOT_PUBLIC
from handler_process import handler_process
from odd_images import JPEG, TEXT, text
from PIL import Image
from services import (
    SERVICES,
    balancer,
    function_url,
    http_api,
    http_api_1,
    response,
    rest,
    sample,
)

JSON = "application/json"
BROWSER = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
ORIGIN = "https://dogs.example"


def with_headers(event: dict, **added: str) -> dict:
    """The event with other headers; an underscore in a name is a hyphen."""
    added = {name.replace("_", "-"): value for name, value in added.items()}
    for field in ("headers", "multiValueHeaders"):
        if event.get(field) is not None:
            kept = {k: v for k, v in event[field].items() if k.lower() not in added}
            lists = field == "multiValueHeaders"
            event[field] = kept | {k: [v] if lists else v for k, v in added.items()}
    return event


def headers_of(response: dict) -> dict:
    """The headers of a response, each as text."""
    lists = response.get("multiValueHeaders", {})
    return response.get("headers", {}) | {name: value for name, [value] in lists.items()}


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
        # By its content, not by what it is called
        (("POST", "/predict", {}, TEXT, "IMAGE/PNG; a=b", True), good),
        (("POST", "/predict", {"top_k": "1"}, TEXT, "image/jpeg", True), best),
        (("POST", "/predict", {"top_k": "9"}, json.dumps({"image": TEXT, "top_k": 1}), JSON), best),
        (("HEAD", "/predict"), response(service, 200, None)),
        (("HEAD", "/other.txt"), response(service, 404, None)),
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
        (("POST", "/predict", {}, None, JSON), 400, "invalid_request", "the body is empty"),
        (("POST", "/predict", {}, '{"topk": 3}', JSON), 400, "invalid_request", "field: topk;"),
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
        (("GET", "/other.jpg", url), 404, "not_found", "there is nothing at this path"),
        (
            ("POST", "/predict/more.php", {}, "{}", JSON),
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
        (("POST", "/predict", {}, "a=b", form), 400, "invalid_request", "unknown field: a;"),
        (
            ("POST", "/predict", {}, JPEG.decode(errors="replace"), "image/jpeg"),
            415,
            "unsupported_type",
            "the image was changed into text on its way",
        ),
        (
            ("POST", "/predict", {}, "YSBkb2c=", "image/jpeg", True),
            415,
            "unsupported_type",
            "none of JPEG, PNG",
        ),
        (("POST", "/predict", {}, damaged, "image/jpeg", True), 422, "invalid_image", "cut off"),
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


# --- A path in front, health checks ---------------------------------------------------------------

BASE_PATHS = [
    "/",
    "",
    "/api",
    "/api/",
    "/dogs",
    "/dogs/v1/",
    "/a/b/c",
    "/%C3%A4/dogs",
    "/v1.2/dogs",
]
FILES = ["/favicon.ico", "/robots.txt", "/dogs/apple-touch-icon.png", "/wp-login.php", "/.env"]
FILES += ["/.git/config", "/dogs/favicon%2Eico", "/.well-known/acme-challenge/x", "/sitemap.xml/"]


@pytest.mark.parametrize("service", SERVICES)
def test_the_last_segment_of_a_path_decides(ask, service):
    body = json.dumps({"image": TEXT, "top_k": 1})
    good = response(service, 200, ask({"image": TEXT, "top_k": 1}).answer)
    for base in BASE_PATHS:
        for path in (base, base.rstrip("/") + "/predict", base.rstrip("/") + "/predict/"):
            assert ask(service("POST", path, {}, body, JSON)).answer == good, path
        page = ask(with_headers(service("GET", base), accept=BROWSER)).answer
        assert page["statusCode"] == 200 and page["body"].startswith("<!doctype html>"), base
        refused = ask(service("GET", base.rstrip("/") + "/predict", {"url": "http://10.0.0.1/"}))
        assert json.loads(refused.answer["body"])["error"]["code"] == "url_refused", base
    for path in FILES:
        for event in (
            with_headers(service("GET", path), accept=BROWSER),
            service("POST", path, {}, body, JSON),
        ):
            assert ask(event).answer["statusCode"] == 404, path


@pytest.mark.parametrize(
    ("agent", "accept"),
    [
        ("ELB-HealthChecker/2.0", ""),
        ("Amazon-Route53-Health-Check-Service (ref 1; report http://amzn.to/1vsZADi)", "*/*"),
        ("Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)", "*/*"),
        ("kube-probe/1.31", "*/*"),
        ("curl/8.5.0", "*/*"),
        ("GoogleStackdriverMonitoring-UptimeChecks", "application/json"),
    ],
)
def test_health_checks_are_fine_and_are_told_how_to_ask(ask, agent, accept):
    for service in SERVICES:
        for path in ("/", "/dogs", "/health", "/healthz/", "/ping"):
            event = with_headers(service("GET", path), user_agent=agent, accept=accept)
            answered = ask(event)
            assert answered.answer["statusCode"] == 200
            assert "?url=" in json.loads(answered.answer["body"])["usage"]
            assert answered.log["outcome"] == "ok" and answered.log["source"] == "usage"


# --- CORS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ask_from_elsewhere(colour_model):
    """The handler that lets pages of two origins ask."""
    with handler_process(
        colour_model, with_allowed_origin, f"{ORIGIN.title()}/, http://localhost:3000"
    ) as f:
        yield f


def with_allowed_origin(origins: str) -> None:
    """Let pages of these origins ask."""
    os.environ["ALLOWED_ORIGIN"] = origins


@pytest.mark.parametrize("service", [rest, http_api, http_api_1, balancer, SERVICES[-1]])
def test_pages_of_an_allowed_origin_may_ask(ask_from_elsewhere, service):
    ask = ask_from_elsewhere
    for origin in (ORIGIN, "http://localhost:3000"):
        for request, status in (
            (("POST", "/predict", {}, TEXT, "image/jpeg", True), 200),
            (("POST", "/predict", {}, "{", JSON), 400),
            (("GET", "/favicon.ico"), 404),
            (("PUT", "/"), 405),
            (("GET", "/"), 200),
            (("HEAD", "/"), 200),
        ):
            answer = ask(with_headers(service(*request), origin=origin)).answer
            headers = headers_of(answer)
            assert answer["statusCode"] == status
            assert headers["Access-Control-Allow-Origin"] == origin and "Origin" in headers["Vary"]
            assert "Access-Control-Allow-Methods" not in headers
    asked = {"access_control_request_method": "POST", "origin": ORIGIN}
    names = {"access_control_request_headers": "content-type,x-api-key"}
    headers = headers_of(ask(with_headers(service("OPTIONS", "/"), **asked, **names)).answer)
    assert headers["Access-Control-Allow-Origin"] == ORIGIN
    assert headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS, POST"
    assert headers["Access-Control-Allow-Headers"] == "content-type,x-api-key"
    odd = {"access_control_request_headers": "a\r\nSet-Cookie: b=c"}
    headers = headers_of(ask(with_headers(service("OPTIONS", "/"), **asked, **odd)).answer)
    assert headers["Access-Control-Allow-Headers"] == "Content-Type"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"{ORIGIN}.evil.example", ""])
def test_pages_of_other_origins_may_not(ask_from_elsewhere, origin):
    event = {"access_control_request_method": "POST", "origin": origin, "accept": "*/*"}
    for method in ("GET", "OPTIONS"):
        headers = headers_of(ask_from_elsewhere(with_headers(rest(method, "/"), **event)).answer)
        assert headers["Vary"] == "Origin" and not any("Access" in name for name in headers)


def test_the_page_of_a_service_with_cors_varies_by_both(ask_from_elsewhere):
    event = with_headers(rest("GET", "/"), accept=BROWSER, origin=ORIGIN)
    assert headers_of(ask_from_elsewhere(event).answer)["Vary"] == "Accept, Origin"


def test_a_function_url_answers_cors_itself_and_without_the_setting_nobody_does(
    ask, ask_from_elsewhere
):
    for event in (function_url("POST", "/", {}, "{", JSON), function_url("OPTIONS", "/")):
        answer = ask_from_elsewhere(with_headers(event, origin=ORIGIN)).answer
        assert not headers_of(answer).keys() & {"Access-Control-Allow-Origin", "Vary"}
    for service in SERVICES:
        answer = ask(with_headers(service("OPTIONS", "/"), origin=ORIGIN)).answer
        assert headers_of(answer).keys() == {"Content-Type", "Allow"}


def test_a_star_allows_all(colour_model):
    with handler_process(colour_model, with_allowed_origin, "*") as ask:
        for origin in (ORIGIN, ""):
            headers = headers_of(
                ask(with_headers(rest("GET", "/"), origin=origin, accept="*/*")).answer
            )
            assert headers["Access-Control-Allow-Origin"] == "*" and "Vary" not in headers
