"""Downloads: side by side, in time, from public addresses only. Where root is given, in a network
of its own.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hostile_urls
import pytest
from conftest import needs_guard
from handler_process import at_port, handler_process, run_python, with_local_server
from odd_images import BREED
from services import SERVICES, function_url, response

DOG = {"prediction": {BREED: 1.0}, "known": True}


@needs_guard
def test_downloads_go_side_by_side_and_end_on_time(colour_model, port):
    url = f"http://127.0.0.1:{port}"

    def code(ask: Callable, path: str) -> tuple[int, str]:
        answer = ask(function_url("GET", "/predict", {"url": f"{url}/{path}"})).answer
        return answer["statusCode"], json.loads(answer["body"])["error"]["code"]

    with handler_process(colour_model, with_local_server, port, 1.0) as ask:
        assert code(ask, "drip") == (504, "download_timeout")
    with handler_process(colour_model, with_local_server, port, 120.0) as ask:
        assert code(ask, "missing") == (502, "download_failed")
        # The server answers once all ten requests are there: one after the other would never end.
        answer = ask({"urls": [f"{url}/together.jpg"] * 10, "top_k": 1}).answer
        assert answer == {"predictions": [DOG] * 10}
        query = {"url": f"{url}/dog.jpg", "top_k": "1"}
        for service in SERVICES:
            assert ask(service("GET", "/predict", query)).answer == response(service, 200, DOG)


def test_no_hostile_url_reaches_a_local_server(colour_model):
    """Where no network of our own can be made, this is what stands between an attacker and the
    inside.
    """
    urls = hostile_urls.direct_urls()
    assert len(urls) >= 120
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        with_port = "^(https?://[^/?#]*[^/?#:0-9])(?=/)", rf"\1:{port}"
        urls = [re.sub(*with_port, url) if isinstance(url, str) else url for url in urls]
        with handler_process(colour_model, at_port, port) as ask:
            for start in range(0, len(urls), 10):
                some = urls[start : start + 10]
                for url, answer in zip(
                    some, ask({"urls": some}).answer["predictions"], strict=True
                ):
                    assert "error" in answer, url
                    assert "127.0.0.1" not in answer["error"]["message"]
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.fixture(scope="module")
def internet(colour_model):
    """What tiny_internet.py found: the unpatched handler in the real stack, in a network made for
    it.
    """
    unshare = ["unshare", "--net", "--mount"] + ([] if os.getuid() == 0 else ["--map-root-user"])
    script = [sys.executable, Path(__file__).with_name("tiny_internet.py"), colour_model]
    tools = [tool for tool in ("unshare", "ip", "mount", "openssl") if not shutil.which(tool)]
    if (
        tools
        or subprocess.run(
            [*unshare, "ip", "link", "set", "lo", "up"], capture_output=True
        ).returncode
    ):
        pytest.skip(f"a network namespace cannot be made here {tools or ''}")
    done = subprocess.run([*unshare, *script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_hostile_urls_reach_nothing(internet):
    assert len(internet["hostile"]) >= 300
    for url, answer in internet["hostile"]:
        assert answer["error"]["code"] in ("url_refused", "download_failed", "unsupported_type"), (
            url
        )
    assert internet["reached"] == []
    assert len(internet["trap"]) >= 12, "the servers do notice who connects"


@needs_guard
def test_public_urls_work(internet):
    for url, answer in internet["allowed"].items():
        assert answer == DOG, url


@needs_guard
def test_requests_are_honest_and_carry_nothing_along(internet):
    assert len(internet["requests"]) > 20
    for headers in internet["requests"]:
        assert headers.keys() == {"User-Agent", "Accept", "Accept-Encoding", "Host"}
        assert (
            headers["User-Agent"].startswith("dog-breeds/")
            and headers["Accept-Encoding"] == "identity"
        )


@needs_guard
def test_unfit_answers_are_errors(internet):
    codes = {path: answer["error"]["code"] for path, answer in internet["refused"].items()}
    assert codes.pop("html") == "unsupported_type"
    assert {codes.pop(path) for path in ("huge", "huge_length", "huge_chunked")} == {"too_large"}
    assert set(codes.values()) == {"download_failed"} and len(codes) >= 9


@needs_guard
def test_slow_servers_cost_8_seconds_and_leave_no_thread(internet):
    answers = internet["slow"]
    dog = answers.pop("http://public.example/dog.jpg")
    assert dog == internet["after"] == DOG
    assert {answer["error"]["code"] for answer in answers.values()} == {"download_timeout"} and len(
        answers
    ) >= 9
    assert "late.example" not in [headers["Host"] for headers in internet["requests"]], (
        "asked for after the deadline"
    )
    assert 8000 <= internet["slow_ms"] < 24_000, (
        "a name server or a silent host that is waited for costs 25 s and more"
    )
    assert internet["threads_left"] <= 4


def test_logs_hold_no_urls(internet):
    assert internet["printed"].count('"outcome": "url_refused"') > 20
    assert "internal_error" not in internet["printed"] and "Traceback" not in internet["printed"]
    assert "dog.jpg" not in internet["printed"] and "example" not in internet["printed"]


def test_a_url_where_the_guard_is_missing_gets_one_clear_sentence(colour_model):
    """As on Python 3.10, for which microsoft-antissrf has no release."""
    code = """
import json, sys
sys.modules["AntiSSRF"] = None
import lambda_function
print(json.dumps(lambda_function.lambda_handler({"url": "https://example.org/dog.jpg"})))
"""
    answer = run_python(code, MODEL_FILE=str(colour_model)).stdout.splitlines()[-1]
    message = "URLs need Python 3.11 or later, with microsoft-antissrf; send the picture itself"
    assert json.loads(answer) == {"error": {"code": "url_refused", "message": message}}
