"""The local gateway: events as AWS documents them, and the function's responses as HTTP."""

import base64
import contextlib
import http.client
import json
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from conftest import ROOT
from emulator import free_ports, wait_for
from handler_fixtures import local_gateway, local_server
from handler_process import Silent
from odd_images import BREED, JPEG

from dog_breeds.clients import gateway


@contextlib.contextmanager
def serving(emulator: str, payload: str = "2.0"):
    """A gateway on a free port: a function that sends it a request and gives status, headers and
    body.
    """
    with local_gateway(emulator, payload) as address:

        def connect():
            return http.client.HTTPConnection(address.removeprefix("http://"), timeout=300)

        def ask(method, target, body=None, headers=(), connection=None):
            connection = connection or connect()
            connection.putrequest(
                method, target, skip_host=any(name == "Host" for name, _ in headers)
            )
            for name, value in headers:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

        ask.connect = connect
        yield ask


@pytest.fixture(scope="module")
def echo():
    """An emulator whose function gives back the event, or what the body says that it is to give."""

    class Echo(Silent):
        def do_POST(self) -> None:
            event = json.loads(self.read())
            said = event.get("body") if "give" in str(event.get("rawQueryString")) else None
            self.reply(
                (said or json.dumps({"statusCode": 200, "body": json.dumps(event)})).encode()
            )

    with local_server(Echo) as address:
        yield address


def test_event_of_a_function_url(echo):
    headers = [
        ("Host", "dogs.example:9000"),
        ("X-Dog", "a"),
        ("X-DOG", "b"),
        ("Cookie", "one=1; two=2"),
    ]
    headers += [("Content-Type", "image/jpeg"), ("User-Agent", "tester")]
    with serving(echo) as ask:
        event = json.loads(ask("POST", "/a%20b/c?x=1&y=%C3%A9+%26&x=&x=2", JPEG, headers)[2])
        bare = json.loads(ask("GET", "/")[2])
    assert event["version"] == "2.0" and event["routeKey"] == "$default"
    assert event["rawPath"] == "/a%20b/c" and event["rawQueryString"] == "x=1&y=%C3%A9+%26&x=&x=2"
    assert event["queryStringParameters"] == {"x": "1,,2", "y": "é &"}
    assert event["cookies"] == ["one=1", "two=2"] and "cookie" not in event["headers"]
    assert event["headers"]["x-dog"] == "a,b" and event["headers"]["host"] == "dogs.example:9000"
    assert (
        event["headers"]["x-forwarded-for"] == "127.0.0.1"
        and event["headers"]["x-forwarded-port"] == "9000"
    )
    assert all(name == name.lower() for name in event["headers"])
    assert event["isBase64Encoded"] is True and base64.b64decode(event["body"]) == JPEG
    context = event["requestContext"]
    assert context["http"] == {
        "method": "POST",
        "path": "/a%20b/c",
        "protocol": "HTTP/1.1",
        "sourceIp": "127.0.0.1",
        "userAgent": "tester",
    }
    assert context["stage"] == "$default" and abs(context["timeEpoch"] / 1000 - time.time()) < 60
    assert (
        not {"body", "cookies", "queryStringParameters"} & bare.keys()
        and bare["isBase64Encoded"] is False
    )


def test_event_of_payload_1(echo):
    headers = [
        ("X-Dog", "a"),
        ("X-Dog", "b"),
        ("Cookie", "one=1"),
        ("Content-Type", "application/json; charset=utf-8"),
    ]
    with serving(echo, "1.0") as ask:
        event = json.loads(ask("PUT", "/a?x=1&x=2%26", '{"é": 1}'.encode(), headers)[2])
        bare = json.loads(ask("GET", "/")[2])
    assert (event["version"], event["httpMethod"], event["path"]) == ("1.0", "PUT", "/a")
    assert event["headers"]["X-Dog"] == "b" and event["multiValueHeaders"]["X-Dog"] == ["a", "b"]
    assert event["headers"]["Cookie"] == "one=1" and "cookies" not in event
    assert event["queryStringParameters"] == {"x": "2&"}
    assert event["multiValueQueryStringParameters"] == {"x": ["1", "2&"]}
    assert event["body"] == '{"é": 1}' and event["isBase64Encoded"] is False
    assert event["requestContext"]["httpMethod"] == "PUT"
    assert [
        bare[name] for name in ("body", "queryStringParameters", "multiValueQueryStringParameters")
    ] == [None] * 3


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([("Content-Type", "text/plain")], True),
        ([("Content-Type", "APPLICATION/JSON;x=y")], True),
        ([("Content-Type", "application/problem+json")], True),
        ([("Content-Type", "application/json"), ("Content-Encoding", "gzip")], False),
        ([("Content-Type", "application/x-www-form-urlencoded")], False),
        ([], False),
    ],
)
def test_which_bodies_are_text(echo, headers, text):
    with serving(echo) as ask:
        event = json.loads(ask("POST", "/", b"a=b", headers)[2])
    assert event["isBase64Encoded"] is not text and event["body"] == ("a=b" if text else "YT1i")


@pytest.mark.parametrize(
    ("response", "status", "body"),
    [
        ({"statusCode": 201, "headers": {"X-A": "1"}, "body": "dög"}, 201, "dög".encode()),
        (
            {"statusCode": "200", "body": base64.b64encode(JPEG).decode(), "isBase64Encoded": True},
            200,
            JPEG,
        ),
        ({"statusCode": 204, "body": "never sent"}, 204, b""),
        ({"a": 1}, 200, b'{"a": 1}'),
        ("text", 200, b'"text"'),
        ({"errorMessage": "division by zero", "errorType": "ZeroDivisionError"}, 502, None),
        ({"statusCode": 200, "body": "*", "isBase64Encoded": True}, 502, None),
        ({"statusCode": "many"}, 502, None),
        ({"statusCode": 200, "body": 5}, 502, None),
        ({"statusCode": 200, "headers": {"X-A": "1\r\nX-B: 2"}}, 502, None),
        ({"statusCode": 200, "headers": {"X-A": "\N{RIGHTWARDS ARROW}"}}, 502, None),
    ],
)
def test_responses(echo, response, status, body):
    with serving(echo) as ask:
        answer = ask(
            "POST", "/?give", json.dumps(response).encode(), [("Content-Type", "text/plain")]
        )
    assert answer[0] == status and answer[2] == (
        b'{"Message": "Internal Server Error"}' if body is None else body
    )
    assert answer[1]["Content-Type"] == "application/json"
    assert "X-B" not in answer[1]


def test_headers_and_cookies_of_responses(echo):
    response = {
        "statusCode": 200,
        "headers": {"Content-Type": "text/html", "Content-Length": "7", "Server": "x"},
    }
    response |= {"cookies": ["a=1", "b=2"], "body": "<p>"}
    with serving(echo) as ask:
        body, kind = json.dumps(response).encode(), [("Content-Type", "text/plain")]
        status, headers, content = ask("POST", "/?give", body, kind)
        assert (status, headers.get_all("Set-Cookie"), content) == (200, ["a=1", "b=2"], b"<p>")
        assert headers.get_all("Content-Type") == ["text/html"] and headers.get_all(
            "Content-Length"
        ) == ["3"]
        assert headers.get_all("Server") == ["dog-breeds-gateway"]
    lists = gateway.http_answer(
        "1.0", {"statusCode": 200, "headers": {"x": "1"}, "multiValueHeaders": {"X": ["2", "3"]}}
    )
    assert lists[1][:2] == [("X", "2"), ("X", "3")]


def test_head_has_the_length_and_no_body(echo):
    with serving(echo) as ask:
        status, headers, content = ask("HEAD", "/")
    assert status == 200 and int(headers["Content-Length"]) > 100 and content == b""


def test_six_megabytes_is_the_limit(echo):
    """Of the event: base64 makes it 4.7 MB of an image. The connection stays usable."""
    with serving(echo) as ask:
        connection = ask.connect()
        for size, status in (
            (4_500_000, 200),
            (4_800_000, 413),
            (6_300_000, 413),
            (30_000_000, 413),
            (10, 200),
        ):
            answer = ask("POST", "/", bytes(size), [("Content-Type", "image/png")], connection)
            assert answer[0] == status, size
        assert ask("POST", "/", None, [("Content-Length", "many")])[0] == 411
        large = json.dumps({"statusCode": 200, "body": "x" * 6_291_456})

    class Large(Silent):
        def do_POST(self) -> None:
            self.reply(large.encode())

    with local_server(Large) as address, serving(address) as ask:
        assert ask("GET", "/")[0] == 502


def chunks(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end


@pytest.mark.parametrize("payload", ["1.0", "2.0"])
def test_a_body_may_come_in_chunks(echo, payload):
    text = [("Transfer-Encoding", "chunked"), ("Content-Type", "text/plain")]
    with serving(echo, payload) as ask:
        connection = ask.connect()

        def post(body, headers=text):
            connection.putrequest("POST", "/")
            for header in headers:
                connection.putheader(*header)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

        for body, expected in [
            (chunks(b"one", b" two"), "one two"),
            (b"00A;name=value\r\n0123456789\r\n0\r\nExpires: never\r\n\r\n", "0123456789"),
            (b"3 \nabc\n0\n\n", "abc"),
            (chunks(*[b"x" * 50_000] * 20), "x" * 1_000_000),
        ]:
            status, event = post(body)
            assert (status, event["body"]) == (200, expected)
            names = {name.lower(): value for name, value in event["headers"].items()}
            assert names["content-length"] == str(len(expected))
            assert "transfer-encoding" not in names
        assert post(chunks())[1].get("body") is None
        image = [("Transfer-Encoding", "Chunked"), ("Content-Type", "image/jpeg")]
        event = post(chunks(JPEG[:1000], JPEG[1000:]), image)[1]
        assert base64.b64decode(event["body"]) == JPEG and event["isBase64Encoded"]
        for size, status in ((6_300_000, 413), (20_000_000, 413), (4_500_000, 200)):
            assert post(chunks(*[bytes(size // 10)] * 10), image)[0] == status, size


@pytest.mark.parametrize(
    "body",
    [
        b"no length\r\n",
        b"-1\r\nx\r\n0\r\n\r\n",
        b"2\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"123456789\r\n",
        b"\r\n",
    ],
)
def test_chunks_that_make_no_sense_are_400(echo, body):
    with serving(echo) as ask:
        connection = ask.connect()
        connection.putrequest("POST", "/")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(body)
        answer = connection.getresponse()
        assert answer.status == 400 and b"the body is not in valid chunks" in answer.read()
        assert connection.sock.recv(1) == b"", "the connection is closed"
        for headers in (
            [("Transfer-Encoding", "gzip, chunked")],
            [("Transfer-Encoding", "chunked"), ("Content-Length", "3")],
        ):
            assert ask("POST", "/", None, headers)[0] == 400


def test_clients_that_send_chunks(echo):
    """requests sends what a generator gives in chunks."""
    with local_gateway(echo) as address:
        answer = requests.post(address, data=iter([JPEG[:500], JPEG[500:]]), timeout=60)
        assert base64.b64decode(answer.json()["body"]) == JPEG


def test_no_emulator_is_502(capfd):
    with serving("http://127.0.0.1:9") as ask:
        assert ask("GET", "/")[0] == 502
    assert "gateway: no answer from the function" in capfd.readouterr().err


def test_one_invocation_at_a_time():
    running, most = [0], []

    class Slow(Silent):
        def do_POST(self) -> None:
            running[0] += 1
            most.append(running[0])
            time.sleep(0.02)
            running[0] -= 1
            self.reply(b'{"statusCode": 200}')

    with local_server(Slow) as address, serving(address) as ask, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: ask("GET", "/")[0], range(24)))
    assert answers == [200] * 24 and max(most) == 1


@pytest.mark.parametrize("payload", ["1.0", "2.0"])
def test_served_through_the_real_stack_by_parallel_clients(stack, payload):
    kind = [("Content-Type", "image/jpeg")]
    with serving(stack.endpoint, payload) as ask, ThreadPoolExecutor(8) as clients:
        answers = list(
            clients.map(lambda _: ask("POST", "/predict?top_k=1", JPEG, kind), range(40))
        )
        assert ask("GET", "/other.txt")[0] == 404 and ask("POST", "/", b"{")[0] == 400
    assert {(status, content) for status, _, content in answers} == {
        (200, f'{{"prediction": {{"{BREED}": 1.0}}, "known": true}}'.encode())
    }


def test_the_command_serves_with_the_payload_that_is_asked_for_and_names_a_port_in_use(echo):
    [port] = free_ports()
    words = [
        sys.executable,
        "-m",
        "dog_breeds.clients.gateway",
        "--port",
        str(port),
        "--emulator",
        echo,
        "--payload",
        "1.0",
    ]
    with subprocess.Popen(words, cwd=ROOT) as process:
        try:
            wait_for(port, process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/a") as response:
                assert json.load(response)["version"] == "1.0"
            again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
        finally:
            process.kill()
    assert (again.returncode, again.stderr) == (
        1,
        f"gateway: cannot listen on port {port}: Address already in use\n",
    )
