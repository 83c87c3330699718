"""test_cloud.py with endpoints that demand signatures, refuse requests or answer late, and with
many requests at once.
"""

import datetime
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import botocore.auth
import botocore.credentials
import pytest
import requests
from botocore.awsrequest import AWSRequest
from conftest import NOT_PUBLIC, accept_ctrl_c, command, exit_message, run
from handler_fixtures import local_gateway, local_server
from handler_process import Silent
from odd_images import BREED
from test_clients import error_line

import test_cloud
from dog_breeds.clients import endpoint

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKID",
    "AWS_SECRET_ACCESS_KEY": "secret/+",
    "AWS_SESSION_TOKEN": "token==",
    "AWS_REGION": "eu-west-1",
}
ANSWER = {"prediction": {BREED: 1.0}, "known": True}
often_lock, often_requests = threading.Lock(), []


def signature(method: str, url: str, body: bytes, headers: dict) -> str:
    """Return botocore's Authorization header for a request at the time that its headers state."""
    moment = datetime.datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(
        tzinfo=datetime.timezone.utc
    )
    keys = botocore.credentials.Credentials("AKID", "secret/+", headers.get("x-amz-security-token"))
    request = AWSRequest(
        method, url, {"Content-Type": "application/json"} if method == "POST" else {}, body
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: moment)
        botocore.auth.SigV4Auth(keys, "execute-api", "eu-west-1").add_auth(request)
    return request.headers["Authorization"]


@pytest.mark.parametrize(
    ("url", "service", "region"),
    [
        ("https://abc.lambda-url.eu-west-1.on.aws/", "lambda", "eu-west-1"),
        (
            "https://abc.execute-api.us-gov-east-1.amazonaws.com/prod/predict",
            "execute-api",
            "us-gov-east-1",
        ),
        (
            "https://abc-vpce-0a1b.execute-api.eu-west-1.amazonaws.com/prod/predict",
            "execute-api",
            "eu-west-1",
        ),
        (
            "https://vpce-1-2.execute-api.eu-west-1.vpce.amazonaws.com/prod/predict",
            "execute-api",
            "eu-west-1",
        ),
        ("https://dogs.example/predict", "execute-api", "here-1"),
        ("https://abc.lambda-url.eu-west-1.on.aws.example/", "execute-api", "here-1"),
    ],
)
def test_service_and_region_follow_from_the_host(monkeypatch, url, service, region):
    for name, value in (KEYS | {"AWS_REGION": "here-1"}).items():
        monkeypatch.setenv(name, value)
    signed = endpoint.signer(url)(requests.Request("POST", url, data=b"{}").prepare())
    scope = re.search(r"=AKID/\d{8}/(\S+)/(\S+)/aws4_request,", signed.headers["Authorization"])
    assert scope.groups() == (region, service)


def test_without_botocore_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(ValueError, match="--sign needs botocore; run pip install botocore"):
        endpoint.signer("https://abc.lambda-url.eu-west-1.on.aws/")


class Cloud(Silent):
    """An endpoint whose path says how it misbehaves. /signed checks the signature."""

    def do_POST(self) -> None:
        body, path = self.read(), self.path.strip("/")
        status, answer = 200, ANSWER
        if path == "signed":
            headers = {name.lower(): value for name, value in self.headers.items()}
            url = f"http://{self.headers['Host']}{self.path}"
            right = "authorization" in headers and headers["authorization"] == signature(
                "POST", url, body, headers
            )
            status, answer = (200, ANSWER) if right else (403, {"Message": "Forbidden"})
        elif path == "slow":
            time.sleep(4.5)
        elif path == "html":
            answer = "<html>"
        elif path.isdecimal():
            status, answer = int(path), {"message": "AWS's reason"}
        elif path == "often":
            with often_lock:
                often_requests.append(len(often_requests))
                status, answer = (
                    (429, {"Reason": "ReservedFunction"})
                    if len(often_requests) % 10 == 0
                    else (200, ANSWER)
                )
        self.reply(
            answer.encode() if isinstance(answer, str) else json.dumps(answer).encode(), status
        )


@pytest.fixture(scope="module")
def cloud() -> Iterator[str]:
    with local_server(Cloud) as address:
        yield address


def ask(address: str, photo: Path, *arguments: object, **env: str) -> subprocess.CompletedProcess:
    """Run test_cloud.py with an endpoint and a photo."""
    return run("test_cloud.py", "--endpoint", address, "--file", photo, *arguments, **env)


def test_requests_are_signed_with_the_credentials_of_the_aws_cli(cloud, photo, tmp_path):
    done = ask(f"{cloud}/signed", photo, "--sign", **KEYS)
    assert done.returncode == 0 and done.stdout.startswith(BREED), done.stderr
    (tmp_path / "keys").write_text(
        "[other]\naws_access_key_id = AKID\naws_secret_access_key = secret/+\n"
    )
    no_other_keys = {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "keys"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = ask(
        f"{cloud}/signed",
        photo,
        "--sign",
        AWS_PROFILE="other",
        AWS_REGION="eu-west-1",
        **no_other_keys,
    )
    assert done.returncode == 0, done.stderr
    assert "needs a signed request (--sign)" in error_line(ask(f"{cloud}/signed", photo))
    wrong = {**KEYS, "AWS_SECRET_ACCESS_KEY": "other"}
    assert "(Forbidden): the signature was refused" in error_line(
        ask(f"{cloud}/signed", photo, "--sign", **wrong)
    )
    message = error_line(ask(f"{cloud}/signed", photo, "--sign", **no_other_keys))
    assert "no AWS credentials; if the AWS CLI has them, run eval" in message
    message = error_line(
        ask(f"{cloud}/signed", photo, "--sign", AWS_PROFILE="missing", **no_other_keys)
    )
    assert "no AWS credentials: The config profile (missing) could not be found" in message
    sso = (
        "sso_session = my\nsso_account_id = 123456789012\nsso_role_name = dogs\nregion = "
        "eu-west-1\n"
    )
    session = "[sso-session my]\nsso_region = eu-west-1\nsso_start_url = https://a.example\n"
    (tmp_path / "config").write_text(f"[profile sso]\n{sso}{session}")
    logged_out = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_PROFILE": "sso",
        "HOME": str(tmp_path),
        **no_other_keys,
    }
    message = error_line(ask(f"{cloud}/signed", photo, "--sign", **logged_out))
    assert message.startswith("test_cloud.py: no AWS credentials: Error loading SSO Token")
    message = error_line(ask(f"{cloud}/signed", photo, "--sign", **{**KEYS, "AWS_REGION": ""}))
    assert "set AWS_REGION" in message


@pytest.mark.parametrize("status", sorted(endpoint.HINTS))
def test_a_status_of_aws_says_what_to_do(cloud, photo, monkeypatch, capsys, status):
    message = exit_message(
        monkeypatch, test_cloud, "--endpoint", f"{cloud}/{status}", "--file", photo
    )
    assert capsys.readouterr().out == ""
    assert message == f"test_cloud.py: status {status} (AWS's reason): {endpoint.HINTS[status]}"


def test_time_outs_cold_starts_and_other_servers(cloud, photo):
    assert "within 0.3 s; wait longer with --timeout" in error_line(
        ask(f"{cloud}/slow", photo, "--timeout", 0.3)
    )
    assert "status 200 (OK): something other than this service answers" in error_line(
        ask(f"{cloud}/html", photo)
    )
    message = error_line(ask("https://127.0.0.1:9/", photo))
    assert "(ConnectionError); check the address and the network" in message
    done = ask(f"{cloud}/slow", photo)
    assert done.returncode == 0 and done.stdout.startswith(BREED)
    assert "still waiting; after a pause, Lambda has to start a container first" in done.stderr


def figures(done: subprocess.CompletedProcess) -> dict[str, float]:
    """Return the printed figures by name."""
    return {name: float(value) for name, value in re.findall(r"^(\w+) = (\S+)", done.stdout, re.M)}


def test_failures_among_many_requests_are_counted(cloud, photo):
    done = ask(f"{cloud}/often", photo, "--requests", 60, "--concurrency", 4)
    found = figures(done)
    assert (
        done.returncode == 1
        and f"test_cloud.py: {found['failed']:.0f} of 60 requests failed" in done.stderr
    )
    assert (
        found["failed"] == found["status_429"] == 6
        and found["ok"] == 54
        and len(often_requests) == 61
    )
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["p100_ms"]


def test_ctrl_c_ends_the_requests(cloud, photo):
    argv = command(
        "test_cloud.py", "--endpoint", f"{cloud}/often", "--file", photo, "--requests", 100_000
    )
    with subprocess.Popen(
        [*argv, "--concurrency", "4"], stderr=subprocess.PIPE, preexec_fn=accept_ctrl_c
    ) as process:
        before = len(often_requests)
        while len(often_requests) < before + 20 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=300)[1] == b"test_cloud.py: stopped\n"


@pytest.mark.parametrize(
    "arguments", [("--requests", 0), ("--requests", -5), ("--requests", 5, "--concurrency", 0)]
)
def test_numbers_below_1_are_refused(cloud, photo, arguments):
    assert "--requests and --concurrency must be at least 1" in error_line(
        ask(cloud, photo, *arguments)
    )


def test_four_hundred_signed_requests_from_eight_clients(stack, photo):
    """The requests go through the gateway to the handler in AWS's emulator."""
    with local_gateway(stack.endpoint) as address:
        url = f"{address}/predict"
        single = ask(url, photo, "--sign", **KEYS)
        assert single.returncode == 0 and single.stdout.startswith(BREED), single.stderr
        done = ask(url, photo, "--requests", 400, "--concurrency", 8, "--sign", **KEYS)
        refused = error_line(run("test_cloud.py", "--endpoint", url, "--url", "http://10.0.0.1/"))
    assert done.returncode == 0, done.stderr
    assert figures(done)["ok"] == 400 and figures(done)["failed"] == 0
    assert refused == f"test_cloud.py: {NOT_PUBLIC}"
