"""Fixtures of the tests of handler, clients and image."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from emulator import Stack, emulator
from handler_process import ROOT, Silent, handler_process
from odd_images import JPEG, drawn_image, saved

from dog_breeds.clients.gateway import Gateway

COLOUR_MODEL = Path(__file__).with_name("colour_model.py")


@pytest.fixture(scope="session")
def colour_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tiny model files that tell colours apart, made by TensorFlow in a process of its own."""
    files = [
        tmp_path_factory.mktemp("model") / name for name in ("colours.tflite", "explaining.tflite")
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, COLOUR_MODEL, *files], check=True, capture_output=True, env=env)
    return files


@pytest.fixture(scope="session")
def colour_model(colour_models: list[Path]) -> Path:
    """The first, which cannot explain."""
    return colour_models[0]


@pytest.fixture(scope="session")
def explaining_model(colour_models: list[Path]) -> Path:
    """The same with a map, from which explanations come."""
    return colour_models[1]


@pytest.fixture(scope="module")
def stack(colour_model: Path) -> Iterator[Stack]:
    """The handler in the real Lambda stack."""
    with emulator(colour_model) as running:
        yield running


@pytest.fixture(scope="module")
def ask(colour_model: Path) -> Iterator[Callable]:
    """The handler in a process of its own: a function that takes an event."""
    with handler_process(colour_model) as function:
        yield function


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """The file of a usual image."""
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    return tmp_path / "photo.jpg"


@contextlib.contextmanager
def served(server: http.server.HTTPServer) -> Iterator[str]:
    """Serve, and yield the address."""
    with server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class LocalHTTPServer(http.server.ThreadingHTTPServer):
    """One that ten clients may call at once."""

    request_queue_size = 128


def local_server(handler: type[Silent]) -> contextlib.AbstractContextManager[str]:
    """Serve on a free port of this machine."""
    server = LocalHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *args: None
    return served(server)


def local_gateway(endpoint: str, payload: str = "2.0") -> contextlib.AbstractContextManager[str]:
    """Serve what an emulator has as AWS's gateways do."""
    return served(Gateway(("127.0.0.1", 0), endpoint, payload))


TOGETHER = threading.Barrier(10, timeout=120)


class LocalServer(Silent):
    """Serves a dog, to ten clients together if asked to, or other things."""

    def do_GET(self) -> None:
        if self.path == "/drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        if self.path == "/together.jpg":
            TOGETHER.wait()
        large = self.path == "/large.png"
        content = saved(drawn_image(), format="PNG") + bytes(9_900_000) if large else JPEG
        cookies = {"Set_Cookie": "a=b", "Set_Cookie2": "a=b"} if "cookie" in self.path else {}
        self.reply(content, 404 if self.path == "/missing" else 200, **cookies)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a LocalServer."""
    with local_server(LocalServer) as address:
        yield int(address.rpartition(":")[2])
