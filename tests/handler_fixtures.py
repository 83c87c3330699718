"""Fixtures of the tests of handler, clients and image."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from emulator import Stack, emulator
from handler_process import handler_process

COLOUR_MODEL = Path(__file__).with_name("colour_model.py")


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model file that tells colours apart, made by TensorFlow in a process of its own."""
    path = tmp_path_factory.mktemp("model") / "colours.tflite"
    subprocess.run([sys.executable, COLOUR_MODEL, path], check=True, capture_output=True)
    return path


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
