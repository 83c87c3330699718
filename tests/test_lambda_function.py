import base64
import copy
import http.server
import importlib.util
import itertools
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import hostile_urls
import odd_pictures
import pytest
from colour_model import COLOURS, append_facts, metadata
from handler_process import at_port, handler_process, with_fault, with_local_server, without_network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_pictures import BREED, picture, saved
from PIL import Image

pytest_plugins = ["handler_fixtures"]
ROOT = Path(__file__).parent.parent
EVENTS = Path(__file__).parent / "events"
THOROUGH = os.environ.get("DOGS_THOROUGH") == "1"
JPEG = saved(picture(500, 375), format="JPEG")
TEXT = base64.b64encode(JPEG).decode()
CODES = hostile_urls.words(
    "invalid_request url_refused not_found method_not_allowed too_large unsupported_type invalid_image"
)


def error(code: str, message: str) -> dict:
    return {"error": {"code": code, "message": message}}


# ---------------------------------------------------------------- direct invocations


def test_answer_is_exact_to_the_byte(stack):
    white = saved(Image.new("RGB", (500, 375), "white"), format="PNG")
    expected = (
        b'{"prediction": {"great_pyrenees": 1.0, "afghan_hound": 0.0, "bernese_mountain_dog": 0.0,'
        b' "irish_wolfhound": 0.0, "leonberg": 0.0, "maltese_dog": 0.0, "pomeranian": 0.0, "samoyed": 0.0,'
        b' "scottish_deerhound": 0.0, "shih_tzu": 0.0}, "known": true}'
    )
    for event in (
        {"image": base64.b64encode(white).decode()},
        {"image": f"data:image/png;base64,{base64.b64encode(white).decode()}"},
    ):
        assert stack.post(json.dumps(event).encode()) == expected
    assert stack.post(b'{"images": []}') == (
        b'{"error": {"code": "invalid_request", "message": "images must be a list of 1 to 10 items"}}'
    )


def test_all_classes_best_first_and_adding_up(stack):
    gray = saved(Image.new("RGB", (64, 64), (170, 110, 90)), format="PNG")
    answer = stack.invoke({"image": base64.b64encode(gray).decode()})
    values = list(answer["prediction"].values())
    assert answer["prediction"].keys() == COLOURS.keys() and values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1, abs=1e-5) and answer["known"] is False
    assert stack.invoke({"image": TEXT})["known"] is True


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_top_k_keeps_the_best(stack, top_k):
    whole = stack.invoke({"image": TEXT})["prediction"]
    assert list(stack.invoke({"image": TEXT, "top_k": top_k})["prediction"].items()) == list(whole.items())[:top_k]


def test_list_keeps_order_and_has_an_answer_or_error_for_each(stack):
    dogs = {breed: base64.b64encode(saved(picture(breed=breed), format="JPEG")).decode() for breed in list(COLOURS)[:8]}
    answers = stack.invoke({"images": [*dogs.values(), "?", 5], "top_k": 1})["predictions"]
    assert [list(answer["prediction"]) for answer in answers[:8]] == [[breed] for breed in dogs]
    assert answers[8:] == [error("invalid_request", "image must be base64 text")] * 2


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({}, "the request must have one of url, image, urls and images"),
        ({"top_k": 3}, "the request must have one of url, image, urls and images"),
        ({"url": "http://a.example", "image": TEXT}, "the request must have one of url, image, urls and images"),
        ([], "the request must be a JSON object"),
        ("text", "the request must be a JSON object"),
        (None, "the request must be a JSON object"),
        *(
            ({"image": TEXT, "top_k": k}, "top_k must be a whole number from 1 to 10")
            for k in (0, -1, 11, 1.0, "1", True, [1])
        ),
        *(
            ({"image": image}, "image must be base64 text")
            for image in (None, 5, ["a"], {}, "a", "AAA", "ä" * 8, "data:;base64,*")
        ),
        *(
            ({"images": images}, "images must be a list of 1 to 10 items")
            for images in ([], TEXT, None, {}, [TEXT] * 11)
        ),
        ({"urls": ["http://a.example"] * 11}, "urls must be a list of 1 to 10 items"),
    ],
)
def test_wrong_fields_are_named(stack, event, message):
    assert stack.invoke(event) == error("invalid_request", message)


def test_base64_may_be_wrapped_and_be_a_data_url(stack):
    whole = stack.invoke({"image": TEXT})
    for text in ("\n".join(re.findall(".{1,76}", TEXT)), f"data:image/jpeg;base64,{TEXT}", f"data:;base64,{TEXT}\r\n"):
        assert stack.invoke({"image": text}) == whole


# ---------------------------------------------------------------- HTTP


def rest(method: str, path: str, query: dict, body: str | None, content_type: str | None, is_base64: bool) -> dict:
    """An event of a REST API. The samples are those of aws-sam-cli."""
    event = json.loads((EVENTS / "AwsProxy.json").read_text())
    event |= {"httpMethod": method, "path": path, "body": body, "isBase64Encoded": is_base64, "resource": "/{proxy+}"}
    event |= {
        "queryStringParameters": query or None,
        "multiValueQueryStringParameters": {k: [v] for k, v in query.items()} or None,
    }
    event["requestContext"] |= {"stage": "prod", "path": f"/prod{path}", "httpMethod": method}
    if content_type:
        event["headers"]["Content-Type"] = content_type
        event["multiValueHeaders"]["Content-Type"] = [content_type]
    return event


def http_api(method: str, path: str, query: dict, body: str | None, content_type: str | None, is_base64: bool) -> dict:
    """An event of an HTTP API with a stage, payload 2.0."""
    event = json.loads((EVENTS / "HttpApi.json").read_text())
    event |= {"rawPath": f"/prod{path}", "body": body, "isBase64Encoded": is_base64, "queryStringParameters": query}
    event["requestContext"] |= {"stage": "prod"}
    event["requestContext"]["http"] |= {"method": method, "path": f"/prod{path}"}
    if content_type:
        event["headers"]["content-type"] = content_type
    if body is None:
        del event["body"]
    return event


def function_url(*request) -> dict:
    """An event of a function URL: payload 2.0, no stage."""
    event = http_api(*request)
    event["rawPath"] = event["rawPath"].removeprefix("/prod")
    event["requestContext"] |= {"stage": "$default", "domainName": "abc.lambda-url.eu-west-1.on.aws"}
    return event


def http_api_1(*request) -> dict:
    """An event of an HTTP API, payload 1.0, whose path has the stage."""
    event = rest(*request)
    return {**event, "version": "1.0", "path": "/prod" + event["path"]}


def balancer(method: str, path: str, query: dict, body: str | None, content_type: str | None, is_base64: bool) -> dict:
    """An event of a load balancer, which does not decode the query."""
    event = json.loads((EVENTS / "ALBRequest.json").read_text())
    event |= {"httpMethod": method, "path": path, "body": body or "", "isBase64Encoded": is_base64}
    event["queryStringParameters"] = {
        key: value.replace(":", "%3A").replace("/", "%2F") for key, value in query.items()
    }
    if content_type:
        event["headers"]["content-type"] = content_type
    return event


def balancer_with_lists(*request) -> dict:
    """An event of a load balancer whose target group has multi-value headers on."""
    event = balancer(*request)
    event["multiValueHeaders"] = {key: [value] for key, value in event.pop("headers").items()}
    event["multiValueQueryStringParameters"] = {k: [v] for k, v in event.pop("queryStringParameters").items()}
    return event


SERVICES = [rest, http_api, http_api_1, function_url, balancer, balancer_with_lists]


def response(service, status: int, answer: dict | None, allow: bool = False) -> dict:
    """The response that a service is to get."""
    headers = {"Content-Type": "application/json"} | ({"Allow": "GET, HEAD, OPTIONS, POST"} if allow else {})
    body = "" if answer is None else json.dumps(answer)
    whole = {"statusCode": status, "headers": headers, "body": body, "isBase64Encoded": False}
    if service in (balancer, balancer_with_lists):
        whole["statusDescription"] = f"{status} {http.HTTPStatus(status).phrase}"
    if service is balancer_with_lists:
        whole["multiValueHeaders"] = {key: [value] for key, value in whole.pop("headers").items()}
    return whole


@pytest.mark.parametrize("service", SERVICES)
def test_every_kind_of_http_event(stack, service):
    event_json, kind = json.dumps({"image": TEXT}), "application/json"
    encoded = base64.b64encode(event_json.encode()).decode()
    good = response(service, 200, stack.invoke({"image": TEXT}))
    best = response(service, 200, stack.invoke({"image": TEXT, "top_k": 1}))
    for request, expected in {
        ("POST", "/predict", (), event_json, kind, False): good,
        ("POST", "/", (), event_json, "application/json; charset=utf-8", False): good,
        ("post", "/predict/", (), encoded, kind, True): good,
        ("POST", "/predict", (), event_json, None, False): good,
        ("POST", "/predict", (), TEXT, "image/jpeg", True): good,
        ("POST", "/predict", (), TEXT, "IMAGE/PNG; a=b", True): good,  # by its content, not by what it is called
        ("POST", "/predict", (("top_k", "1"),), TEXT, "image/jpeg", True): best,
        ("POST", "/predict", (("top_k", "9"),), json.dumps({"image": TEXT, "top_k": 1}), kind, False): best,
        ("HEAD", "/predict", (), None, None, False): response(service, 200, None),
        ("OPTIONS", "/predict", (), None, None, False): response(service, 200, None, allow=True),
    }.items():
        assert stack.invoke(service(request[0], request[1], dict(request[2]), *request[3:])) == expected, request


@pytest.mark.parametrize("service", SERVICES)
def test_every_error_over_http(stack, service):
    kind, refused = "application/json", "the host of the URL is not found, or not public"
    damaged, large = (
        base64.b64encode(JPEG[:900]).decode(),
        base64.b64encode(saved(Image.new("L", (8000, 6251)), format="JPEG")),
    )
    for request, status, code, message in (
        (("GET", "/predict", {"url": "http://127.0.0.1/a?b=c"}, None, None, False), 400, "url_refused", refused),
        (("GET", "/predict", {}, None, None, False), 400, "invalid_request", "the request must have one of"),
        (
            ("GET", "/predict", {"url": "http://[::1]/", "top_k": "x"}, None, None, False),
            400,
            "invalid_request",
            "top_k must",
        ),
        (("POST", "/predict", {}, "{", kind, False), 400, "invalid_request", "the body is not JSON"),
        (("POST", "/predict", {}, None, kind, False), 400, "invalid_request", "the body is not JSON"),
        (("POST", "/predict", {}, "[" * 100_000, kind, False), 400, "invalid_request", "the body is not JSON"),
        (("POST", "/predict", {}, "*", kind, True), 400, "invalid_request", "the body must be base64"),
        (("POST", "/predict", {}, '{"image": 5}', kind, False), 400, "invalid_request", "image must be base64 text"),
        (
            ("GET", "/other", {"url": "http://a.example/"}, None, None, False),
            404,
            "not_found",
            "there is nothing at this path",
        ),
        (("POST", "/predict/more", {}, "{}", kind, False), 404, "not_found", "there is nothing at this path"),
        (("PUT", "/predict", {}, "{}", kind, False), 405, "method_not_allowed", "use one of GET, HEAD, OPTIONS, POST"),
        (("DELETE", "/", {}, None, None, False), 405, "method_not_allowed", "use one of GET, HEAD, OPTIONS, POST"),
        (("POST", "/predict", {}, large.decode(), "image/jpeg", True), 413, "too_large", "more than 50,000,000 pixels"),
        (
            ("POST", "/predict", {}, "a=b", "application/x-www-form-urlencoded", False),
            415,
            "unsupported_type",
            "Content-Type",
        ),
        (
            ("POST", "/predict", {}, TEXT, "image/jpeg", False),
            415,
            "unsupported_type",
            "the gateway does not pass image",
        ),
        (("POST", "/predict", {}, "YSBkb2c=", "image/jpeg", True), 415, "unsupported_type", "none of JPEG, PNG"),
        (("POST", "/predict", {}, damaged, "image/jpeg", True), 422, "invalid_image", "damaged"),
    ):
        answer = stack.invoke(service(*request))
        body = json.loads(answer["body"])
        assert (answer["statusCode"], body["error"]["code"]) == (status, code), request
        assert (
            message in body["error"]["message"]
            and list(body) == ["error"]
            and list(body["error"]) == ["code", "message"]
        )
        assert answer == response(service, status, body, allow=status == 405)


def test_head_of_an_unknown_path_has_no_body(stack):
    assert stack.invoke(function_url("HEAD", "/other", {}, None, None, False)) == response(function_url, 404, None)


def test_samples_as_they_are_get_an_answer(stack):
    for file in EVENTS.glob("*.json"):
        answer = stack.invoke(json.loads(file.read_text()))
        assert answer["statusCode"] in (404, 405) and "error" in json.loads(answer["body"])


# ---------------------------------------------------------------- downloads


class LocalServer(http.server.BaseHTTPRequestHandler):
    """Serves a dog, slowly if asked to, or other things."""

    def do_GET(self) -> None:
        if self.path == "/drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        time.sleep(0.5 if self.path == "/dog.jpg" else 0)
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(saved(picture(), format="PNG") + bytes(9_900_000) if self.path == "/large.png" else JPEG)

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def port():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), LocalServer) as server:
        server.handle_error = lambda *args: None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_downloads_go_side_by_side_and_end_on_time(colour_model, port):
    with handler_process(colour_model, with_local_server, port, 3.0) as ask:  # one after the other would take 5 s
        url = f"http://127.0.0.1:{port}"
        answers = ask({"urls": [f"{url}/dog.jpg"] * 10, "top_k": 1}).answer["predictions"]
        assert [list(answer["prediction"]) for answer in answers] == [[BREED]] * 10
        for path, status, code in (("drip", 504, "download_timeout"), ("missing", 502, "download_failed")):
            answer = ask(function_url("GET", "/predict", {"url": f"{url}/{path}"}, None, None, False)).answer
            assert (answer["statusCode"], json.loads(answer["body"])["error"]["code"]) == (status, code)
        query = {"url": f"{url}/dog.jpg", "top_k": "1"}
        for service in SERVICES:
            answer = ask(service("GET", "/predict", query, None, None, False)).answer
            assert answer == response(service, 200, {"prediction": {BREED: 1.0}, "known": True})


def test_no_hostile_url_reaches_a_local_server(colour_model):
    """Where no network of our own can be made, this is what stands between an attacker and the inside."""
    urls = hostile_urls.direct_urls()
    assert len(urls) >= 120
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        urls = [
            re.sub("^(https?://[^/?#]*[^/?#:0-9])(?=/)", rf"\1:{port}", url) if isinstance(url, str) else url
            for url in urls
        ]
        with handler_process(colour_model, at_port, port) as ask:
            for start in range(0, len(urls), 10):
                for url, answer in zip(
                    urls[start:], ask({"urls": urls[start : start + 10]}).answer["predictions"], strict=False
                ):
                    assert "error" in answer, url
                    assert "127.0.0.1" not in answer["error"]["message"]
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.fixture(scope="module")
def internet(colour_model):
    """What tiny_internet.py found: the unpatched handler in the real stack, in a network made for it."""
    unshare = ["unshare", "--net", "--mount"] + ([] if os.getuid() == 0 else ["--map-root-user"])
    script = [sys.executable, Path(__file__).with_name("tiny_internet.py"), colour_model]
    tools = [tool for tool in ("unshare", "ip", "mount", "openssl") if not shutil.which(tool)]
    if tools or subprocess.run([*unshare, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip(f"a network namespace cannot be made here {tools or ''}")
    done = subprocess.run([*unshare, *script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_hostile_urls_reach_nothing(internet):
    assert len(internet["hostile"]) >= 300
    for url, answer in internet["hostile"]:
        assert answer["error"]["code"] in ("url_refused", "download_failed", "unsupported_type"), url
    assert internet["reached"] == []
    assert len(internet["trap"]) >= 12, "the servers do notice who connects"


def test_public_urls_work(internet):
    for url, (answer, seconds) in internet["allowed"].items():
        assert answer == {"prediction": {BREED: 1.0}, "known": True}, url
        assert seconds < 3, url


def test_requests_are_honest_and_carry_nothing_along(internet):
    for headers in internet["requests"]:
        assert headers.keys() == {"User-Agent", "Accept", "Accept-Encoding", "Host"}
        assert headers["User-Agent"].startswith("dog-breeds/") and headers["Accept-Encoding"] == "identity"


def test_unfit_answers_are_errors(internet):
    codes = {path: answer["error"]["code"] for path, answer in internet["refused"].items()}
    assert codes.pop("html") == "unsupported_type"
    assert {codes.pop(path) for path in ("huge", "huge_length", "huge_chunked")} == {"too_large"}
    assert set(codes.values()) == {"download_failed"} and len(codes) >= 9


def test_slow_servers_cost_8_seconds_and_leave_no_thread(internet):
    answers = internet["slow"]
    dog = answers.pop("http://public.example/dog.jpg")
    assert dog == internet["after"] == {"prediction": {BREED: 1.0}, "known": True}
    assert {answer["error"]["code"] for answer in answers.values()} == {"download_timeout"} and len(answers) >= 9
    assert "late.example" not in [headers["Host"] for headers in internet["requests"]], "asked for after the deadline"
    assert 8 <= internet["slow_seconds"] < 9
    assert internet["threads_left"] <= 4


def test_logs_hold_no_urls(internet):
    assert "internal_error" not in internet["printed"] and "Traceback" not in internet["printed"]
    assert "dog.jpg" not in internet["printed"] and "example" not in internet["printed"]


# ---------------------------------------------------------------- pictures


def test_odd_and_hostile_pictures(ask):
    number = 0
    for name, data, expected in odd_pictures.cases():
        number += 1
        event = {"image": base64.b64encode(data).decode()}
        answered = ask(event)
        if answered.seconds >= 1:  # a busy machine can disturb once
            answered = ask(event)
        assert answered.raised is None, name
        error = answered.answer.get("error")
        result = error["code"] if error else next(iter(answered.answer["prediction"]))
        assert result == expected if expected else result in (*CODES, *COLOURS), f"{name}: {result}, not {expected}"
        assert answered.seconds < 1, f"{name}: {answered.seconds:.2f} s"
        assert answered.peak_mb < 400, f"{name}: {answered.peak_mb:.0f} MB"
    assert number >= 150
    small = ask({"image": TEXT})
    assert small.peak_mb < 150, "memory has returned"


def test_a_list_of_bombs_takes_no_more_memory_than_one(ask):
    bomb = next(data for name, data, _ in odd_pictures.hostile() if name == "overlapping_exif_1_MB.jpg")
    answered = ask({"images": [base64.b64encode(bomb).decode()] * 8 + [TEXT]})
    assert [next(iter(answer)) for answer in answered.answer["predictions"]] == ["error"] * 8 + ["prediction"]
    assert answered.peak_mb < 400


def test_freed_memory_can_be_used_again(colour_model, port):
    """The largest picture that is taken is still taken after downloads side by side and after a bomb."""
    pictures = {name: base64.b64encode(data).decode() for name, data, _ in odd_pictures.hostile()}
    largest = {"image": pictures["50_megapixels_3.png"], "top_k": 1}
    with handler_process(colour_model, with_local_server, port, 8.0) as ask:
        assert "prediction" in ask(largest).answer
        for event in (
            {"urls": [f"http://127.0.0.1:{port}/large.png"] * 10},
            {"image": pictures["overlapping_exif_60_kB.jpg"]},
        ):
            ask(event)
            answered = ask(largest)
            assert "prediction" in answered.answer, event
            assert answered.peak_mb < 400


# ---------------------------------------------------------------- anything

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
urls = (
    st.sampled_from([url for url in hostile_urls.direct_urls() if isinstance(url, str) and len(url) < 200]) | st.text()
)
images = st.sampled_from([TEXT, TEXT[:400], "data:image/png;base64," + TEXT, "YQ=="]) | st.text() | json_values
top_ks = st.integers(-2, 12) | json_values


def fields() -> st.SearchStrategy:
    """Requests that are nearly right."""
    several = {
        "url": urls | json_values,
        "image": images,
        "urls": st.lists(urls | json_values, max_size=11) | json_values,
        "images": st.lists(images, max_size=11) | json_values,
    }
    one = st.sampled_from(list(several)).flatmap(
        lambda name: st.fixed_dictionaries({name: several[name]}, optional={"top_k": top_ks})
    )
    return one | st.fixed_dictionaries({}, optional={**several, "top_k": top_ks})


def changed(event: dict, path: list, value: object) -> dict:
    """The event with one place in it replaced."""
    event = copy.deepcopy(event)
    place = event
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return event


def places(event: dict) -> list[list]:
    """All places in nested dicts."""
    return [
        [key, *rest]
        for key, value in event.items()
        for rest in ([[]] + (places(value) if isinstance(value, dict) else []))
    ]


http_events = st.builds(
    lambda service, *request: service(*request),
    st.sampled_from(SERVICES),
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", ""]) | st.text(),
    st.sampled_from(["/", "/predict", "/prod", "/a"]) | st.text(),
    st.dictionaries(st.sampled_from(["url", "top_k", "a"]), urls | st.just("3") | st.text()),
    st.none() | st.text() | fields().map(json.dumps) | st.just(TEXT),
    st.none() | st.sampled_from(["application/json", "image/jpeg", "text/plain", ""]) | st.text(),
    st.booleans(),
)
broken_http_events = http_events.flatmap(
    lambda event: st.builds(changed, st.just(event), st.sampled_from(places(event)), json_values)
)


def test_any_event_gets_an_answer(colour_model):
    with handler_process(colour_model, without_network) as ask:

        @settings(max_examples=10_000 if THOROUGH else 400, deadline=None, suppress_health_check=list(HealthCheck))
        @given(json_values | fields() | http_events | broken_http_events)
        def check(event: object) -> None:
            answered = ask(event)
            assert answered.raised is None
            answer = answered.answer
            if "statusCode" in answer:
                if answer["body"] == "":
                    return
                answer = json.loads(answer["body"])
            assert len(answer.keys() & {"prediction", "predictions", "error"}) == 1
            for part in answer.get("predictions", [answer]):
                assert part.keys() in ({"prediction", "known"}, {"error"})
                if "error" in part:
                    assert part["error"]["code"] in CODES
                    assert not re.search(r"/var|\.py|Traceback|\d+\.\d+\.\d+\.\d+", part["error"]["message"])
            assert "traceback" not in answered.log

        check()


# ---------------------------------------------------------------- faults, logs, state


def test_log_has_one_line_with_what_happened(ask):
    log = ask({"image": TEXT}).log
    times = {log.pop(key) for key in ("decode_ms", "inference_ms")}
    assert all(0 <= value < 1000 for value in times)
    assert log == {
        "request_id": None,
        "event": "direct",
        "source": "image",
        "bytes": len(JPEG),
        "size": [500, 375],
        "top_class": BREED,
        "outcome": "ok",
    }
    log = ask({"images": [TEXT, "?"]}).log
    assert [entry["outcome"] for entry in log["pictures"]] == ["ok", "invalid_request"] and log["outcome"] == "ok"
    log = ask(function_url("GET", "/", {"url": "http://10.0.0.1/secret?token=1"}, None, None, False)).log
    assert log.pop("download_ms") >= 0
    assert log == {"request_id": None, "event": "2.0", "source": "url", "outcome": "url_refused"}
    assert ask(rest("GET", "/nowhere", {}, None, None, False)).log == {
        "request_id": None,
        "event": "1.0",
        "outcome": "not_found",
    }


def test_lambda_gives_the_request_id(stack):
    stack.invoke({"image": TEXT})
    line = next(line for line in reversed(stack.printed().splitlines()) if line.startswith('{"request_id"'))
    assert re.fullmatch("[0-9a-f-]{36}", json.loads(line)["request_id"])


def test_fault_of_ours_is_logged_and_raised_or_500(colour_model):
    with handler_process(colour_model, with_fault) as ask:
        direct = ask({"image": TEXT})
        assert direct.raised == "ZeroDivisionError('division by zero')"
        answered = ask(function_url("POST", "/", {}, TEXT, "image/jpeg", True))
        for log in (direct.log, answered.log):
            assert log["outcome"] == "internal_error" and "ZeroDivisionError" in log["traceback"]
        body = error("internal_error", "the service failed; the fault is ours and is logged")
        assert answered.answer == response(function_url, 500, body)


def test_memory_stays_level(stack):
    """2,000 requests of all kinds: resident memory at the end is that after the first hundred."""
    pictures = [saved(picture(500, 375), **options) for options in odd_pictures.FORMATS.values()]
    pictures += [
        saved(picture(2000, 1500), format="JPEG"),
        JPEG[:500],
        saved(picture(1200, 900).convert("RGBA"), format="PNG"),
    ]
    texts = [base64.b64encode(data).decode() for data in pictures]
    events = [
        *({"image": text} for text in texts),
        {"images": texts[:4]},
        {"url": "http://127.0.0.1/"},
        {"urls": ["http://10.0.0.1/", "http://[::1]/"]},
        {"image": "?"},
        *(service("POST", "/", {}, texts[0], "image/jpeg", True) for service in SERVICES),
    ]
    first = 0
    for number, event in enumerate(itertools.islice(itertools.cycle(events), 2000 if THOROUGH else 400), 1):
        answer = stack.invoke(event)
        assert "errorMessage" not in answer and answer.get("statusCode") in (None, 200)
        if number == 100:
            first = resident(stack.runtime_pid())
    assert resident(stack.runtime_pid()) < first * 1.05


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


# ---------------------------------------------------------------- model file and runtime


def run_python(code: str, *args: object, **env: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own, with the project on its path."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, env=env)


def test_unfit_model_files_are_refused_at_start(colour_model, tmp_path):
    bare = colour_model.read_bytes()
    with zipfile.ZipFile(colour_model) as archive:
        bare = bare[: archive.infolist()[0].header_offset]
    breeds = list(COLOURS)

    def file(name: str, facts: dict | None = None, labels: list[str] = breeds, model: bytes = bare) -> None:
        (tmp_path / name).write_bytes(model)
        append_facts(tmp_path / name, {**metadata(breeds), **(facts or {})}, "\n".join(labels))

    file("good")
    file("other classes", {"classes": [*breeds[:-1], "poodle"]})
    file("other labels", labels=breeds[::-1])
    file("fewer", {"classes": breeds[:9]}, breeds[:9])
    file("twice", {"classes": breeds[:9] + breeds[:1]}, breeds[:9] + breeds[:1])
    file("other size", {"input": {"height": 150}})
    file("no threshold", {"unknown_rule": {}})
    file("threshold not a number", {"unknown_rule": {"threshold": "high"}})
    file("classes not a list", {"classes": 10})
    file("no model", model=b"")
    file("half a model", model=bare[: len(bare) // 2])
    file("changed since", {"model_sha256": "0" * 64})
    (tmp_path / "no facts").write_bytes(bare)
    (tmp_path / "cut off").write_bytes(colour_model.read_bytes()[:-100])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "labels only").write_bytes(bare)
    with zipfile.ZipFile(tmp_path / "labels only", "a") as archive:
        archive.writestr("labels.txt", "\n".join(breeds))
    (tmp_path / "facts that are no JSON").write_bytes(bare)
    with zipfile.ZipFile(tmp_path / "facts that are no JSON", "a") as archive:
        archive.writestr("labels.txt", "\n".join(breeds))
        archive.writestr("metadata.json", "{")
    code = """
import json, sys, pathlib, lambda_function
for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        lambda_function.load_model(file)
    except ValueError as error:
        print(json.dumps([file.name, str(error)]))
"""
    done = run_python(code, tmp_path, MODEL_FILE=str(tmp_path / "good"))
    assert done.returncode == 0, done.stderr
    refused = dict(map(json.loads, done.stdout.splitlines()))
    assert refused.keys() == {file.name for file in tmp_path.iterdir()} - {"good"}
    for name, message in refused.items():
        assert message.startswith(f"{name} is damaged, or was not made by convert_model.py: ") and len(message) > 60


def test_start_fails_with_the_reason(tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"TFL3")
    done = run_python("import lambda_function", MODEL_FILE=str(tmp_path / "bad.tflite"))
    assert (
        done.returncode == 1
        and "bad.tflite is damaged, or was not made by convert_model.py" in done.stderr.splitlines()[-1]
    )
    done = run_python("import lambda_function", MODEL_FILE=str(tmp_path / "missing.tflite"))
    assert done.returncode == 1 and "missing.tflite" in done.stderr.splitlines()[-1]


PREDICT = """
import sys
if "without" in sys.argv:
    class Hidden:
        def find_spec(name, path=None, target=None):
            if name == "ai_edge_litert":
                raise ModuleNotFoundError(name)
    sys.meta_path.insert(0, Hidden)
    import importlib.util
    real = importlib.util.find_spec
    importlib.util.find_spec = lambda name: None if name == "ai_edge_litert" else real(name)
import json, lambda_function
print(json.dumps(lambda_function.lambda_handler({"image": sys.argv[1]})))
print(sorted({"ai_edge_litert", "tflite_runtime", "requests", "AntiSSRF"} & set(sys.modules)))
lambda_function.lambda_handler({"url": "http://127.0.0.1/"})
print("requests" in sys.modules)
"""


def test_runtimes_agree_and_only_one_is_loaded(colour_model):
    env = {"MODEL_FILE": str(colour_model)}
    _, answer, modules, _, later = run_python(PREDICT, TEXT, **env).stdout.splitlines()
    assert modules == "['ai_edge_litert']", "nor is requests, until it is needed"
    assert later == "True"
    if not importlib.util.find_spec("tflite_runtime"):
        pytest.skip("tflite-runtime exists for Linux and Python up to 3.11 only")
    for arguments, extra in (((), {"DOG_BREEDS_RUNTIME": "tflite_runtime"}), (("without",), {})):
        _, other, modules, *_ = run_python(PREDICT, TEXT, *arguments, **env, **extra).stdout.splitlines()
        assert modules == "['tflite_runtime']"
        assert json.loads(other)["prediction"] == pytest.approx(json.loads(answer)["prediction"], abs=1e-4)


def test_threads_follow_the_cpus_that_may_be_used(colour_model):
    code = """
import os, sys
allowed = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, allowed[:int(sys.argv[1])])
import lambda_function
print(lambda_function.cpus(), len(os.listdir("/proc/self/task")))
"""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is only one CPU here")
    env = {"MODEL_FILE": str(colour_model), "OPENBLAS_NUM_THREADS": "1"}  # that NumPy starts none of its own
    one, two = (run_python(code, number, **env).stdout.split() for number in (1, 2))
    assert (one[0], two[0]) == ("1", "2")
    assert int(one[1]) < int(two[1])
