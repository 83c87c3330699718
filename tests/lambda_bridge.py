"""A small AWS on this machine: S3 and Step Functions by moto, Lambda by AWS's emulator.

Everything asks one address, which plants faults: `Bridge` speaks Lambda's Invoke API before the
emulators, each of which gets one request at a time, and hands all other requests to moto.
"""

import contextlib
import http.client
import json
import queue
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import step_functions
from emulator import emulator, free_ports
from handler_fixtures import LocalHTTPServer
from handler_process import ROOT, Silent

ACCOUNT, REGION, BUCKET = "123456789012", "us-east-1", "bucket"
FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:classifier"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/batch"
ALWAYS = 10**9


class Faults:
    """What is to go wrong, by the key of a photo."""

    def __init__(self) -> None:
        self.s3: dict[str, tuple[int, str, int]] = {}  # status, code, how often
        self.throttled: dict[str, int] = {}  # how often

    def take_s3(self, key: str) -> tuple[int, str] | None:
        """Return the status and the code that S3 is to answer now."""
        status, code, left = self.s3.get(key, (0, "", 0))
        if left <= 0:
            return None
        self.s3[key] = status, code, left - 1
        return status, code

    def take_throttle(self, key: str) -> bool:
        """Return whether Lambda is to refuse an invocation now."""
        self.throttled[key] = self.throttled.get(key, 0) - 1
        return self.throttled[key] >= 0


class Bridge(Silent):
    """Requests to AWS."""

    protocol_version = "HTTP/1.1"
    world: "World"

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if "/invocations" in self.path:
            self.invoke(body)
        elif not self.planted_fault():
            self.hand_on(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def planted_fault(self) -> bool:
        """Answer as a failing S3 where that is planned."""
        place = unquote(urlsplit(self.path).path).partition(f"/{BUCKET}/")[2]
        fault = self.world.faults.take_s3(place) if self.command == "GET" else None
        if fault:
            status, code = fault
            self.answer(status, f"<Error><Code>{code}</Code></Error>".encode(), {})
        return bool(fault)

    def hand_on(self, body: bytes) -> None:
        """Let moto answer."""
        drop = ("connection", "transfer-encoding", "expect", "content-length")
        headers = {name: text for name, text in self.headers.items() if name.lower() not in drop}
        connection = http.client.HTTPConnection("127.0.0.1", self.world.moto_port, timeout=120)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
        headers = {
            name: text for name, text in response.headers.items() if name.lower() not in drop
        }
        if self.command == "HEAD":
            headers["Content-Length"] = response.headers["Content-Length"]
        self.answer(response.status, content, headers)

    def invoke(self, body: bytes) -> None:
        """Answer as Lambda does: with its headers, and 200 where the function fails."""
        event = json.loads(body)
        keys = event.get("keys") or [event.get("key", "")]
        headers = {"x-amzn-RequestId": str(uuid.uuid4()), "Content-Type": "application/json"}
        if any([self.world.faults.take_throttle(key) for key in keys]):
            headers["x-amzn-ErrorType"] = "TooManyRequestsException"
            self.answer(429, b'{"message": "Rate Exceeded.", "Type": "User"}', headers)
            return
        self.world.calls += 1
        self.world.invocations.update(keys)
        endpoint = self.world.idle.get()
        try:
            with urllib.request.urlopen(
                urllib.request.Request(endpoint, body), timeout=120
            ) as response:
                content, failed = response.read(), False
        except urllib.error.HTTPError as error:  # the process has ended, or never began
            content, failed = error.read(), True
        finally:
            self.world.idle.put(endpoint)
        answer = json.loads(content)
        if failed or "errorType" in answer:
            headers["X-Amz-Function-Error"] = "Unhandled"
        self.answer(200, content, headers)


class World:
    """What runs: see `world`."""

    def __init__(self, moto_port: int, port: int) -> None:
        self.moto_port, self.endpoint = moto_port, f"http://127.0.0.1:{port}"
        self.faults = Faults()
        self.calls, self.invocations = 0, Counter()  # in all, and by the key of a photo
        self.idle: queue.Queue[str] = queue.Queue()
        self.env = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "AKID",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }
        options = {"aws_access_key_id": "AKID", "aws_secret_access_key": "secret"}
        options |= {"region_name": REGION, "endpoint_url": self.endpoint}
        self.s3 = boto3.client("s3", **options)
        self.machines = boto3.client("stepfunctions", **options)

    def create_machine(self, name: str, definition: dict) -> str:
        """Make a state machine of a definition, as the interpreter takes it; return its ARN."""
        variables = {"Bucket": BUCKET, "FunctionArn": FUNCTION, "Concurrency": "3"}
        definition = step_functions.as_interpreted(definition, **variables)
        return self.machines.create_state_machine(
            name=name, definition=json.dumps(definition), roleArn=ROLE
        )["stateMachineArn"]

    def wait(self, execution: str, until: Any = lambda: False) -> dict:
        """Return the description of an execution once it has ended, or `until` holds."""
        for _ in range(6000):
            found = self.machines.describe_execution(executionArn=execution)
            if found["status"] != "RUNNING" or until():
                return found
            time.sleep(0.1)
        raise TimeoutError(execution)

    def put(self, objects: dict[str, bytes]) -> None:
        """Fill the bucket."""
        for key, content in objects.items():
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=content)


@contextlib.contextmanager
def world(models: list[Path], handler: str, **env: str) -> Iterator[World]:
    """Run an AWS on this machine, with an emulator for each model file."""
    server = LocalHTTPServer(("127.0.0.1", 0), Bridge)
    server.daemon_threads, server.handle_error = True, lambda *args: None
    (moto_port,) = free_ports(1)
    with contextlib.ExitStack() as running:
        running.enter_context(server)
        made = World(moto_port, server.server_port)
        server.RequestHandlerClass = type("Bridge", (Bridge,), {"world": made})
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running.callback(server.shutdown)
        words = [sys.executable, step_functions.__file__, str(moto_port), str(server.server_port)]
        process = running.enter_context(
            subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        )
        running.callback(process.kill)
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        for model in models:
            stack = running.enter_context(emulator(model, handler, **{**made.env, **paths, **env}))
            made.idle.put(stack.endpoint)
        assert process.stdout.readline() == b"ready\n"
        made.s3.create_bucket(Bucket=BUCKET)
        yield made
