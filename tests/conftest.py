"""What several test files need: the demo set, drawn once for all of them, and the result of `make demo`."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import convert_model
import make_dataset
import training
from dog_breeds import features, recipe, workers
from dog_breeds.dataset import Task, weights_path
from dog_breeds.web_pictures import NO_URLS

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "top_10_dog_breeds.tflite"
MIRROR = os.environ.get("STANFORD_DOGS_MIRROR", "")
TEN = {  # the real breeds with most images
    "maltese_dog": 252,
    "afghan_hound": 239,
    "scottish_deerhound": 232,
    "pomeranian": 219,
    "bernese_mountain_dog": 218,
    "irish_wolfhound": 218,
    "samoyed": 218,
    "shih_tzu": 214,
    "great_pyrenees": 213,
    "leonberg": 210,
}
FEW = ["maltese_dog", "pomeranian", "samoyed"]
SIZE = 75  # pixels: nearly the smallest that Xception takes, and fast
for name in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS"):  # of the make that runs the tests: those that they run stand alone
    os.environ.pop(name, None)
GUARD = bool(importlib.util.find_spec("AntiSSRF"))  # there is none for Python 3.10: the handler takes no URLs there
needs_guard = pytest.mark.skipif(not GUARD, reason="microsoft-antissrf has no release for this Python")
NOT_PUBLIC = "the host of the URL is not found, or not public" if GUARD else NO_URLS[1]
RUNTIMES = ["ai_edge_litert", *(["tflite_runtime"] if sys.version_info < (3, 12) and sys.platform == "linux" else [])]


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Callable]:
    """What workers.call_elsewhere does, always in the same process, so that TensorFlow is loaded once for all tests.

    In pytest's own process it must never be: the serving runtime is there, and beside it crashes.
    """
    pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=workers._start_worker, initargs=(1,))
    with pool, pytest.MonkeyPatch.context() as patch:

        def call_elsewhere(*arguments: Any) -> Any:
            return pool.submit(workers._call, *arguments).result()

        for module in (features, training, convert_model):
            patch.setattr(module, "call_elsewhere", call_elsewhere)
        yield call_elsewhere
        assert "tensorflow" not in sys.modules


@pytest.fixture(scope="session")
def demo(request, tmp_path_factory) -> Path:
    """A data folder with the demo set and Xception's weights. The weights, 84 MB, stay in pytest's cache."""
    store = request.config.cache.mkdir("data")
    if not weights_path(store).exists():
        code = "import make_dataset, pathlib, sys; make_dataset.make_weights(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, store], cwd=ROOT, check=True)
    data_dir = tmp_path_factory.mktemp("demo")
    weights = weights_path(data_dir)
    weights.parent.mkdir()
    os.link(weights_path(store), weights)
    make_dataset.make_raw(data_dir, "", demo=True)
    return data_dir


@pytest.fixture(scope="session")
def small(demo, elsewhere, tmp_path_factory) -> tuple[Task, Path]:
    """A task of three of the demo breeds at SIZE pixels, in a data folder of its own, and the model trained for it."""
    data_dir = tmp_path_factory.mktemp("small") / "data"
    shutil.copytree(demo, data_dir, copy_function=os.link)
    task = training.prepare_task(data_dir, FEW, size=SIZE)
    return task, training.train_classifier(task, recipe.QUICK_GRID, data_dir.parent / "first")


@pytest.fixture(scope="session")
def real_data(tmp_path_factory) -> Path:
    """A data folder with the mirror's pictures."""
    if not Path(MIRROR, "images.tar").is_file():
        pytest.skip("STANFORD_DOGS_MIRROR names no folder with images.tar and annotation.tar")
    data_dir = tmp_path_factory.mktemp("real")
    make_dataset.make_raw(data_dir, MIRROR)
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
    assert "XNNPACK" not in result.stderr, "the serving runtime's remarks are silenced"
    return Demo(folder, port, result.stdout)
