"""The real Lambda stack on this machine: AWS's runtime interface emulator, which starts AWS's
runtime client.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
EMULATOR = Path(sys.executable).with_name("aws-lambda-rie")
INVOCATIONS = "/2015-03-31/functions/function/invocations"


class Stack:
    """A running emulator: where it listens, and what it and the handler have printed."""

    def __init__(self, endpoint: str, output: Any, process: subprocess.Popen) -> None:
        self.endpoint, self.output, self.process = endpoint, output, process

    def invoke(self, event: Any) -> Any:
        """Answer of the handler to an event."""
        return json.loads(self.post(json.dumps(event).encode()))

    def post(self, body: bytes) -> bytes:
        """Answer as the bytes that come over HTTP."""
        with urllib.request.urlopen(
            urllib.request.Request(self.endpoint, body), timeout=300
        ) as response:
            return response.read()

    def printed(self) -> str:
        """All output so far."""
        return Path(self.output.name).read_text(errors="replace")

    def log(self) -> dict:
        """What the last request logged."""
        return json.loads(
            next(line for line in reversed(self.printed().splitlines()) if line.startswith("{"))
        )

    def runtime_pid(self) -> int:
        """Process id of the Python that runs the handler."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        (pid,) = (int(pid) for children in tasks for pid in children.read_text().split())
        return pid


@contextlib.contextmanager
def emulator(
    model: Path, handler: str = "lambda_function.lambda_handler", **env: str
) -> Iterator[Stack]:
    """Serve the handler with a model file on a free port."""
    if not EMULATOR.exists():
        pytest.skip(f"no {EMULATOR}; `make` fetches it from the aws-sam-cli package")
    port, runtime_port = free_ports(2)
    addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    addresses += ["--runtime-api-address", f"127.0.0.1:{runtime_port}"]
    with tempfile.NamedTemporaryFile("w+") as output:
        process = subprocess.Popen(
            [EMULATOR, *addresses, sys.executable, "-m", "awslambdaric", handler],
            cwd=ROOT,
            env={**os.environ, "MODEL_FILE": str(model), **env},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(port, process)
            yield Stack(f"http://127.0.0.1:{port}{INVOCATIONS}", output, process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_ports(number: int = 1, among: Sequence[int] = range(10_000, 32_000, 2)) -> list[int]:
    """Ports that nobody uses, nor the one after each. The system gives clients higher ones."""
    free = set()
    while len(free) < number:
        port = random.choice(among)
        with contextlib.suppress(OSError), contextlib.ExitStack() as servers:
            for both in (port, port + 1):
                servers.enter_context(socket.create_server(("127.0.0.1", both)))
            free.add(port)
    return list(free)


def wait_for(port: int, process: subprocess.Popen) -> None:
    """Return once something listens on the port."""
    for _ in range(6000):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None, "it has ended"
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")
