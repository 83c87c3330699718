"""lambda_handler in a process of its own: pytest's may hold TensorFlow, beside which the serving
runtime crashes.
"""

import contextlib
import http.server
import io
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from dog_breeds.serving import safe_images, web_images

ROOT = Path(__file__).parent.parent


class Answered(NamedTuple):
    """What a call of the handler gave and cost."""

    answer: Any  # None if it raised
    raised: str | None  # repr of the exception
    printed: str
    seconds: float  # of CPU time
    peak_mb: float  # resident memory of the process, at its highest during the call

    @property
    def logs(self) -> list[dict]:
        """The lines that a request logs: one for each photo of several, and its own."""
        return [json.loads(line) for line in self.printed.splitlines()]

    @property
    def log(self) -> dict:
        """The one line that a request logs."""
        (line,) = self.printed.splitlines()
        return json.loads(line)


def family(pid: int) -> Iterator[int]:
    """Yield the ids of a process and of all its descendants."""
    yield pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from family(int(child))


@contextlib.contextmanager
def handler_process(
    model: Path, patch: Callable | None = None, *args: Any
) -> Iterator[Callable[[Any], Answered]]:
    """Yield a function that has the handler answer an event. Calls patch(*args) there first."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, str(model), patch, args), daemon=True)
    process.start()
    theirs.close()

    def ask(event: Any) -> Answered:
        ours.send(event)
        return Answered(*ours.recv())

    try:
        yield ask
    finally:
        ours.close()
        process.join(60)
        process.kill()


def run_python(code: str, *args: object, **env: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own, with the project on its path."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, env=env
    )


class Silent(http.server.BaseHTTPRequestHandler):
    """A server that logs nothing."""

    def read(self) -> bytes:
        """The body of the request."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def reply(
        self, content: bytes, status: int = 200, length: int | None = None, **headers: str
    ) -> None:
        """Answer, if the client is still there; the length that is stated may be another."""
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(length or len(content)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Nothing."""


def _serve(pipe: Any, model: str, patch: Callable | None, args: tuple) -> None:
    os.environ["MODEL_FILE"] = model
    sys.path.insert(0, str(ROOT))
    import lambda_function

    if patch:
        patch(*args)
    while True:
        try:
            event = pipe.recv()
        except EOFError:
            return
        Path("/proc/self/clear_refs").write_text("5")  # starts a new peak
        printed, answer, raised, start = io.StringIO(), None, None, time.process_time()
        try:
            with contextlib.redirect_stdout(printed):
                answer = lambda_function.lambda_handler(event)
        except Exception as error:
            raised = repr(error)
        seconds = time.process_time() - start
        peak = next(
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        pipe.send((answer, raised, printed.getvalue(), seconds, int(peak.split()[1]) * 1024 / 1e6))


def without_network() -> None:
    """No name resolves."""

    def fail(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no network here")

    socket.getaddrinfo = fail


def with_little_time(seconds: float) -> None:
    """Decoding an image may take so many seconds of a CPU."""
    safe_images.MAX_SECONDS = seconds


def with_local_server(port: int, seconds: float) -> None:
    """Addresses of this machine count as public, at this port, and downloads may take `seconds`."""
    import AntiSSRF

    policy = AntiSSRF.AntiSSRFPolicy
    AntiSSRF.AntiSSRFPolicy = lambda config: policy(AntiSSRF.PolicyConfigOptions.NONE)
    at_port(port)
    web_images.MAX_SECONDS = seconds


def at_port(port: int) -> None:
    """The port of a local server counts as the default one; its address is no more public than
    otherwise.
    """
    web_images.PORTS = {"http": port, "https": port}


def with_bucket(objects: dict[str, bytes]) -> None:
    """A bucket of S3 on this machine. For a key that names an error ("403 AccessDenied") it answers
    that; of an object that is named "cut" it sends a byte too few; for the key "closed" it closes
    the connection without an answer, for "late" it answers when the client has given up.
    """

    class Bucket(Silent):
        def do_GET(self) -> None:
            key = unquote(self.path.split("?")[0]).partition("/bucket/")[2]
            status, _, code = (
                key.partition(" ") if key[:3].isdecimal() else ("404", "", "NoSuchKey")
            )
            if key == "late":
                time.sleep(5)
            if key in ("closed", "late"):
                self.close_connection = True
                return
            body = objects.get(key, f"<Error><Code>{code}</Code></Error>".encode())
            self.reply(body, 200 if key in objects else int(status), len(body) + ("cut" in key))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.server_port}",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "AKID",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def with_fault() -> None:
    """A programming error."""
    import lambda_function

    lambda_function.answer_for = lambda *args: 1 / 0
