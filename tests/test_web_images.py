"""Downloads: side by side, in time, from public addresses only. Where root is given, in a network
of its own.
"""

import gzip
import http.cookiejar
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote

import hostile_urls
import pytest
from conftest import needs_guard
from emulator import EMULATOR
from handler_fixtures import local_server
from handler_process import Silent, at_port, handler_process, run_python, with_local_server
from odd_images import BREED, JPEG
from services import SERVICES, function_url, response

from dog_breeds.serving.web_images import read_body

LARGE = ("huge", "huge_length", "huge_chunked", "gzip_large", "deflate_large")
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


def test_the_body_of_an_answer_is_not_read_after_the_deadline():
    blocks = types.SimpleNamespace(
        status_code=200,
        raw=types.SimpleNamespace(headers={}),
        iter_content=lambda size: itertools.repeat(b"x"),
    )
    with pytest.raises(TimeoutError):
        read_body(blocks, time.monotonic())


def without_cookies(port: int) -> None:
    """A local server that counts as public; a cookie that is read is a fault."""
    with_local_server(port, 120.0)

    def fail(*arguments: object) -> None:
        raise SystemExit("a cookie was read")

    http.cookiejar.parse_ns_headers = http.cookiejar.split_header_words = fail


@needs_guard
def test_cookies_are_not_even_read(colour_model, port):
    with handler_process(colour_model, without_cookies, port) as ask:
        assert ask({"url": f"http://127.0.0.1:{port}/cookie.jpg", "top_k": 1}).answer == DOG


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
    if not EMULATOR.exists():
        pytest.skip(f"no {EMULATOR}; `make` fetches it from the aws-sam-cli package")
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
    assert len(internet["hostile"]) >= 250
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
    assert {codes.pop(path) for path in LARGE} == {"too_large"}
    assert set(codes.values()) == {"download_failed"} and len(codes) >= 9


@needs_guard
def test_slow_servers_cost_8_seconds_and_leave_no_thread(internet):
    answers = internet["slow"]
    dog = answers.pop("http://public.example/dog.jpg")
    assert dog == internet["after"] == DOG
    assert {answer["error"]["code"] for answer in answers.values()} == {"download_timeout"}
    assert len(answers) >= 6
    assert "late.example" not in [headers["Host"] for headers in internet["requests"]], (
        "asked for after the deadline"
    )
    assert 8000 <= internet["slow_ms"] < 24_000, (
        "a name server or a silent host that is waited for costs 25 s and more"
    )
    assert internet["threads_left"] <= 4


def test_logs_hold_no_urls(internet):
    assert internet["printed"].count('outcome": "url_refused"') > 20
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
    message = "URLs need Python 3.11 or later, with microsoft-antissrf; send the image itself"
    assert json.loads(answer) == {"error": {"code": "url_refused", "message": message}}


# --- Servers and addresses as people have them ----------------------------------------------------

RAW_DEFLATE = zlib.compress(JPEG)[2:-4]
CODINGS = {  # Content-Encoding, body
    "empty": ("", JPEG),
    "blank": (" ", JPEG),
    "identity": ("Identity", JPEG),
    "aws-chunked": ("aws-chunked", JPEG),
    "utf-8": ("utf-8", JPEG),
    "a type": ("image/jpeg", JPEG),
    "base64": ("base64", JPEG),
    "none": ("none", JPEG),
    "gzip": ("gzip", gzip.compress(JPEG)),
    "x-gzip": ("X-GZIP", gzip.compress(JPEG)),
    "gzip and chunked": ("aws-chunked,gzip", gzip.compress(JPEG)),
    "deflate": ("deflate", zlib.compress(JPEG)),
    "raw deflate": ("deflate", RAW_DEFLATE),
    "gzip without a name": ("", gzip.compress(JPEG)),
    "gzip by mistake": ("gzip", JPEG),
    "br by mistake": ("br", JPEG),
}
UNREADABLE = {
    "br": ("br", b"\x0b\x02\x80", "compressed its answer (br), though asked not to"),
    "zstd": ("zstd", b"(\xb5/\xfd", "compressed its answer (zstd)"),
    "twice": ("gzip, gzip", gzip.compress(gzip.compress(JPEG)), "its answer (gzip, gzip)"),
    "no gzip": ("gzip", b"a dog", "says that its answer is gzip, which it is not"),
    "no deflate": ("deflate", b"a dog", "says that its answer is deflate, which it is not"),
    "large": ("gzip", gzip.compress(bytes(11_000_000)), "more than 10,000,000 bytes"),
}
LOCATIONS = [  # of the path /to/NUMBER
    "/a dog.jpg",
    " /dog.jpg ",
    "/dog.jpg?a=b c",
    "?dog.jpg",
    "dog.jpg#top",
    "../dog%20.jpg",
]


class OddServer(Silent):
    """Serves a dog in odd ways, which the path names."""

    asked: ClassVar[list] = []

    def do_GET(self) -> None:
        kind, _, name = self.path[1:].partition("/")
        name = unquote(name)
        self.asked.append((self.path, dict(self.headers)))
        if kind == "coding":
            coding, body = (CODINGS | UNREADABLE)[name][:2]
            self.send_response(200)
            self.send_header("Content-Encoding", coding)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif kind == "to" and name.isdecimal():
            self.redirect(LOCATIONS[int(name)])
        elif kind == "steps":
            self.redirect(f"/steps/{int(name) - 1}" if name != "1" else "/dog.jpg")
        else:
            self.reply(JPEG, int(kind) if kind.isdecimal() else 200)

    def redirect(self, location: str) -> None:
        """Send the client on."""
        self.send_response(302)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def odd_server(colour_model):
    """A function that asks about a path of an OddServer, with what stands around its address."""
    with local_server(OddServer) as address:
        port = int(address.rpartition(":")[2])
        with handler_process(colour_model, with_local_server, port, 8.0) as ask:
            yield (
                lambda path, around="{}": (
                    ask({"url": around.format(address + path), "top_k": 1}).answer
                )
            )


@needs_guard
@pytest.mark.parametrize("name", CODINGS)
def test_only_codings_that_exist_are_compression_and_gzip_and_deflate_are_undone(odd_server, name):
    assert odd_server(f"/coding/{quote(name)}") == DOG


@needs_guard
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_undone_is_named(odd_server, name):
    error = odd_server(f"/coding/{quote(name)}")["error"]
    assert UNREADABLE[name][2] in error["message"]
    assert error["code"] == ("too_large" if name == "large" else "download_failed")


@needs_guard
@pytest.mark.parametrize("number", range(len(LOCATIONS)))
def test_a_location_may_be_written_as_servers_write_it(odd_server, number):
    assert odd_server(f"/to/{number}") == DOG


@needs_guard
@pytest.mark.parametrize(
    "around",
    [
        " {}",
        "{}\n",
        "\r\n\t{} \u00a0",
        "\ufeff{}\u200b",
        "{}?a b=c d",
        "{}\n?a=\r\nb",
        "{}?X-Amz-Security-Token=" + "A%2F" * 1000,
        "{}#a b",
    ],
)
def test_an_address_may_be_copied_with_what_is_around_it(odd_server, around):
    assert odd_server("/a dog.jpg", around) == DOG


@needs_guard
def test_redirects_are_followed_to_a_bound(odd_server):
    assert odd_server("/steps/4") == odd_server("/steps/10") == DOG
    message = "the URL leads through more than 10 redirects"
    assert odd_server("/steps/11")["error"] == {"code": "download_failed", "message": message}


@needs_guard
def test_requests_name_what_is_read_and_who_asks(odd_server, colour_model):
    OddServer.asked.clear()
    assert "the variable CONTACT" in odd_server("/403")["error"]["message"]
    assert "CONTACT" not in odd_server("/404")["error"]["message"]
    headers = OddServer.asked[0][1]
    assert headers["User-Agent"] == "dog-breeds/1.0 (classifies an image that its user named)"
    for name in ("jpeg", "png", "webp", "gif", "bmp"):
        assert f"image/{name}" in headers["Accept"]
    assert "avif" not in headers["Accept"] and "image/*" not in headers["Accept"]


def with_contact(port: int, contact: str) -> None:
    """A service whose owner names a contact."""
    with_local_server(port, 8.0)
    os.environ["CONTACT"] = contact


@needs_guard
@pytest.mark.parametrize(
    ("contact", "shown"),
    [
        ("dogs@example.org", "; dogs@example.org)"),
        (" https://dogs.example/about ", "; https://dogs.example/about)"),
        ("a\r\nHost: b) (c\u00e4", "; aHost: b c)"),
        ("\n", "named)"),
    ],
)
def test_a_contact_is_named_and_cannot_break_the_header(colour_model, contact, shown):
    with local_server(OddServer) as address:
        port = int(address.rpartition(":")[2])
        OddServer.asked.clear()
        with handler_process(colour_model, with_contact, port, contact) as ask:
            message = ask({"url": f"{address}/403"}).answer["error"]["message"]
    assert ("CONTACT" in message) == (not contact.strip())
    assert OddServer.asked[0][1]["User-Agent"].endswith(shown)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (5, "the URL must be text"),
        ("", "the URL must begin with http:// or https://"),
        ("example.org/dog.jpg", "the URL must begin with http:// or https://"),
        ("data:image/png;base64,iVBOR", "a data URL belongs in the field image"),
        ("s3://bucket/dog.jpg", "make a pre-signed URL of the object"),
        ("http://user:word@a.example/", "must not contain a user name or password"),
        ("http://a.example:8080/", "must not name a port"),
        ("http://a b.example/", "has a blank, a backslash or another character in a wrong place"),
        ("http://a.example/\\b", "has a blank, a backslash"),
        ("http://a.example/\0", "has a blank, a backslash"),
        ("http://a.example/" + "b" * 8192, "the URL has 8,209 characters, more than 8,192"),
        ("http://[::1/", "the URL is not a valid http or https URL"),
    ],
)
@needs_guard
def test_a_refused_address_is_told_why(ask, url, message):
    error = ask({"url": url}).answer["error"]
    assert error["code"] == "url_refused" and message in error["message"]
