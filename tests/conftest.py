"""What several test files need: the demo set, drawn once for all of them, and the result of `make demo`."""

import os
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

import make_dataset
from dog_breeds.dataset import weights_path

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def demo(request, tmp_path_factory) -> Path:
    """A data folder with the demo set and Xception's weights. The weights, 84 MB, stay in pytest's cache."""
    store = request.config.cache.mkdir("data")
    make_dataset.make_weights(store)
    data_dir = tmp_path_factory.mktemp("demo")
    weights = weights_path(data_dir)
    weights.parent.mkdir()
    os.link(weights_path(store), weights)
    make_dataset.make_raw(data_dir, "", demo=True)
    return data_dir


class Demo(NamedTuple):
    """What `make demo` leaves."""

    folder: Path
    port: int  # that it served on
    output: str

    @property
    def data_dir(self) -> Path:
        """The drawn pictures, the weights and the features of the views."""
        return self.folder / "data"

    @property
    def model(self) -> Path:
        """The model that `training.py --quick` saved, with its report and split beside it."""
        [model] = self.folder.glob("*.h5")
        return model


def make(*words: str, **env: str) -> subprocess.CompletedProcess:
    """Run make at the top of the project, quiet about folders though the tests may run under make themselves."""
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=1800)


@pytest.fixture(scope="session")
def made_demo(tmp_path_factory) -> Demo:
    """A demo from nothing, once for all tests: two minutes. It shares only the environment with other runs."""
    folder = tmp_path_factory.mktemp("pipeline") / "demo"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = make("demo", f"DEMO={folder}", f"PORT={port}")
    assert result.returncode == 0, result.stdout + result.stderr
    return Demo(folder, port, result.stdout)
