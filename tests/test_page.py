"""The page that browsers get, and explanations: what the handler sends."""

import base64
import hashlib
import json
import re

import pytest
from colour_model import COLOURS, with_facts
from handler_process import handler_process
from odd_images import TEXT, text
from PIL import Image
from services import SERVICES, balancer_with_lists, function_url

from dog_breeds.serving.facts import read_facts

ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def accepting(event: dict, accept: str = ACCEPT) -> dict:
    """The event with this Accept header."""
    for name in ("headers", "multiValueHeaders"):
        if event.get(name) is not None:
            kept = {key: value for key, value in event[name].items() if key.lower() != "accept"}
            event[name] = kept | {"Accept": [accept] if name == "multiValueHeaders" else accept}
    return event


def headers_of(response: dict) -> dict:
    """The headers of a response, each as text."""
    lists = response.get("multiValueHeaders", {})
    return response.get("headers", {}) | {name: value for name, [value] in lists.items()}


# --- Page -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_browsers_get_the_page_from_every_service(ask, service):
    answered = ask(accepting(service("GET", "/")))
    response, headers = answered.answer, headers_of(answered.answer)
    assert response["statusCode"] == 200 and response["isBase64Encoded"] is False
    assert ("multiValueHeaders" in response) == (service is balancer_with_lists)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert (
        response["body"].startswith("<!doctype html>") and len(response["body"].encode()) < 30_000
    )
    assert {"source": "page", "outcome": "ok"}.items() <= answered.log.items()
    head = ask(accepting(service("HEAD", "/"))).answer
    assert headers_of(head) == headers and head["body"] == ""


@pytest.mark.parametrize("service", SERVICES)
def test_all_others_get_json(ask, service):
    for event in (
        accepting(service("GET", "/"), "application/json"),
        accepting(service("GET", "/"), "*/*"),
        accepting(service("GET", "/predict")),
        accepting(service("GET", "/other.html")),
        accepting(service("GET", "/", {"url": "http://127.0.0.1/"})),  # the form without JavaScript
        accepting(service("POST", "/", {}, "{}", "application/json")),
    ):
        response = ask(event).answer
        assert headers_of(response) == {"Content-Type": "application/json"}
        assert json.loads(response["body"]).keys() <= {"error", "usage"}


def test_policy_allows_the_two_elements_and_nothing_else(ask):
    response = ask(accepting(function_url("GET", "/"))).answer
    html, headers = response["body"], response["headers"]
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    for tag, name in (("script", "script-src"), ("style", "style-src")):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
        assert (
            policy[name]
            == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
        )
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == policy["form-action"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Vary"] == "Accept"
    assert headers["Cache-Control"] == "no-cache" and headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"\son\w+=|style=|javascript:|innerHTML|eval\(", html)
    assert re.findall(r'(?:src|href|action)="(?!data:)', html) == [], (
        "one request, no external file"
    )


def test_page_knows_the_breeds_whatever_their_names(colour_model, tmp_path):
    odd = "</script><script>alert(1)</script>"
    with handler_process(
        with_facts(colour_model, tmp_path / "x.tflite", display_names={"leonberg": odd})
    ) as ask:
        html = ask(accepting(function_url("GET", "/"))).answer["body"]
    assert html.count("</script>") == 2
    facts = json.loads(
        re.search(r'<script id="facts" type="application/json">(.*?)</script>', html)[1]
    )
    assert facts == {
        "breeds": read_facts(colour_model)["classes"],
        "names": {"leonberg": odd},
        "explains": False,
    }


def test_page_for_classes_of_ones_own_does_not_speak_of_dogs(colour_model, tmp_path):
    taught = with_facts(colour_model, tmp_path / "taught.tflite", cross_validation={})
    for file, speaks in ((colour_model, True), (taught, False)):
        with handler_process(file) as ask:
            html = ask(accepting(function_url("GET", "/"))).answer["body"]
        text = re.sub(
            r"<style>.*?</style>|<script id.*?</script>|//[^\n]*|<[^>]*>", "", html, flags=re.S
        )
        assert bool(re.search(r"\bdog\b|\bbreeds\b", text.replace("facts.breeds", ""))) == speaks
        assert ("What does this photo show?" in html) != speaks


# --- Explanation ----------------------------------------------------------------------------------


def two_colours(left: str, right: str) -> str:
    """An image of two halves, as base64."""
    image = Image.new("RGB", (400, 300), COLOURS[left])
    image.paste(COLOURS[right], (200, 0, 400, 300))
    return text(image, format="PNG")


def test_explanation_is_where_the_breed_is(explaining_model):
    halves = two_colours("samoyed", "leonberg")
    half = [[1.0] * 5 + [0.0] * 5] * 10
    with handler_process(explaining_model) as ask:
        plain = ask({"image": halves}).answer
        assert (
            list(plain) == ["prediction", "known", "candidates"]
            and ask({"image": halves, "explain": False}).answer == plain
        )
        explained = plain | {"explanation": half, "explanation_share": 0.875}
        assert ask({"image": halves, "explain": True}).answer == explained
        several = {"images": [halves, two_colours("pomeranian", "samoyed"), "?"], "explain": True}
        answers = ask(several).answer["predictions"]
        assert (
            answers[0] == explained
            and answers[1]["explanation"] == half
            and list(answers[2]) == ["error"]
        )
        event = function_url("POST", "/", {"explain": "true"}, TEXT, "image/jpeg", True)
        cells = json.loads(ask(event).answer["body"])["explanation"]
        assert len(cells) == 10 and all(
            len(row) == 10 and all(0 <= value <= 1 for value in row) for row in cells
        )
        for wrong in (1, "true", None):
            error = ask({"image": halves, "explain": wrong}).answer["error"]
            assert error == {"code": "invalid_request", "message": "explain must be true or false"}


def test_file_without_a_map_says_that_it_cannot_explain(ask):
    answer = ask({"image": two_colours("samoyed", "leonberg"), "explain": True}).answer
    assert answer == {
        "error": {"code": "invalid_request", "message": "this model file cannot explain"}
    }
