"""Fixtures and helpers of several test files, such as the demo dataset and a small model."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from emulator import free_ports
from handler_fixtures import ask, colour_model, colour_models, explaining_model, photo, port, stack  # noqa: F401
from handler_process import ROOT

import convert_model
import make_dataset
import training
from dog_breeds import recipe, workers
from dog_breeds.data.dataset import Task, weights_path
from dog_breeds.learning import features
from dog_breeds.serving.web_images import NO_URLS

COMMITTED = ROOT / "models/top_10_dog_breeds.tflite"
MIRROR = os.environ.get("STANFORD_DOGS_MIRROR", "")
TEN = {  # the real breeds with most images, and their numbers of images
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
SIZE = 75  # pixels; nearly the smallest size that Xception accepts, and therefore fast
THOROUGH = os.environ.get("DOGS_THOROUGH") == "1"  # many more random and hostile inputs
# The tests must not depend on the `make` that started them, or on a service that the user runs
for name in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS", "DOG_BREEDS_ENDPOINT"):
    os.environ.pop(name, None)
# Whether the package that protects against internal URLs is there. Python 3.10 has no release of
# it, so the handler accepts no URLs.
GUARD = bool(importlib.util.find_spec("AntiSSRF"))
needs_guard = pytest.mark.skipif(
    not GUARD, reason="microsoft-antissrf has no release for this Python"
)
NOT_PUBLIC = "the host of the URL is not found, or not public" if GUARD else NO_URLS[1]
RUNTIMES = [
    "ai_edge_litert",
    *(["tflite_runtime"] if sys.version_info < (3, 12) and sys.platform == "linux" else []),
]


@pytest.fixture(scope="session")
def in_keras_process() -> Iterator[Callable]:
    """Do what workers.call_in_new_process does, but use one process for all calls.

    TensorFlow is then loaded once for all tests. pytest's own process must never load TensorFlow,
    because it has loaded the serving runtime: both crash in one process.
    """
    pool = ProcessPoolExecutor(
        1, get_context("spawn"), initializer=workers._start_worker, initargs=(1,)
    )
    with pool, pytest.MonkeyPatch.context() as patch:

        def call_in_new_process(*arguments: Any) -> Any:
            return pool.submit(workers._call, "keras_side", "fresh", *arguments).result()

        for module in (features, training, convert_model):
            patch.setattr(module, "call_in_new_process", call_in_new_process)
        yield call_in_new_process
        assert "tensorflow" not in sys.modules


@pytest.fixture(scope="session")
def demo(request, tmp_path_factory) -> Path:
    """The data folder of `make_dataset.py --demo`. The weights (84 MB) stay in pytest's cache."""
    store, data_dir = request.config.cache.mkdir("data"), tmp_path_factory.mktemp("demo")
    if weights_path(store).exists():
        weights_path(data_dir).parent.mkdir()
        os.link(weights_path(store), weights_path(data_dir))
    done = run("make_dataset.py", "--demo", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    if not weights_path(store).exists():
        weights_path(store).parent.mkdir(exist_ok=True)
        os.link(weights_path(data_dir), weights_path(store))
    return data_dir


class Small(NamedTuple):
    """A small training task, and the model trained for it."""

    task: Task
    model: Path


@pytest.fixture(scope="session")
def small(demo, in_keras_process, tmp_path_factory) -> Small:
    """A task and a model of three demo breeds, on a new backbone for SIZE pixels.

    All tests share this task, because TensorFlow takes long to convert the backbone.
    """
    data_dir = tmp_path_factory.mktemp("small") / "data"
    shutil.copytree(demo, data_dir, copy_function=os.link)
    file = data_dir.parent / "backbones" / "small.tflite"
    task = training.prepare_task(data_dir, FEW, backbone=file, new_backbone_size=SIZE)
    return Small(
        task, training.train_classifier(task, recipe.QUICK_GRID, data_dir.parent / "first")
    )


@pytest.fixture(scope="session")
def real_data(tmp_path_factory) -> Path:
    """A data folder with the real photos of the mirror."""
    if not Path(MIRROR, "images.tar").is_file():
        pytest.skip("STANFORD_DOGS_MIRROR names no folder with images.tar and annotation.tar")
    data_dir = tmp_path_factory.mktemp("real")
    make_dataset.make_raw(data_dir, MIRROR)
    return data_dir


class Demo(NamedTuple):
    """The result of `make demo`."""

    folder: Path
    port: int  # of its service
    output: str
    changed_files: list[tuple[str, int]]  # files outside its folder that it changed, and when

    @property
    def data_dir(self) -> Path:
        """The folder of the drawn photos, the weights and the features."""
        return self.folder / "data"

    @property
    def model(self) -> Path:
        """The model that `training.py --quick` saved, beside its report and split."""
        [model] = self.folder.glob("*.h5")
        return model


def modification_times() -> dict[str, int]:
    """Return the modification time of each file that the scripts write by default."""
    files = [path for name in ("data", "plots", "demo") for path in (ROOT / name).rglob("*")]
    files += [
        path for pattern in ("*_v1_*", "*.tflite", "my_classes.*") for path in ROOT.glob(pattern)
    ]
    return {
        str(path.relative_to(ROOT)): path.stat().st_mtime_ns for path in files if path.is_file()
    }


def command(script: str | Path, *arguments: object) -> list[str]:
    """Return the command line that runs a script."""
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def accept_ctrl_c() -> None:
    """Let Ctrl-C interrupt this process, even if the tests ignore SIGINT (`nohup make test &`)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(
    script: str | Path, *arguments: object, cwd=ROOT, preexec_fn=None, **env: str
) -> subprocess.CompletedProcess:
    """Run a script as a user does, in the project's folder or in `cwd`."""
    options = {"env": {**os.environ, **env}, "cwd": cwd, "preexec_fn": preexec_fn, "timeout": 900}
    return subprocess.run(command(script, *arguments), capture_output=True, text=True, **options)


def exit_message(
    monkeypatch: pytest.MonkeyPatch, script: ModuleType, *arguments: object
) -> str | None:
    """Run a script in this process; return its error message, or None if it succeeds."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
    try:
        script.main()
    except SystemExit as end:  # a text goes to stderr, with exit status 1
        assert end.code.startswith(f"{script.__name__}.py: ") and end.code.isprintable()
        return end.code


def make(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    """Run make in the project's folder."""
    # make prints the folder if another make started it, and the tests may run under make
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=3600
    )


@pytest.fixture(scope="session")
def made_demo(demo, tmp_path_factory) -> Demo:
    """The result of `make demo`, which takes two minutes, once for all tests.

    Its photos and weights come from the fixture `demo`.
    """
    folder = tmp_path_factory.mktemp("pipeline") / "demo"
    shutil.copytree(demo, folder / "data", copy_function=os.link)
    (folder / "made-by-make-demo").touch()
    before, [free] = modification_times(), free_ports(among=range(8_000, 10_000, 2))
    result = make("demo", f"DEMO={folder}", f"PORT={free}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "XNNPACK" not in result.stderr, "the serving runtime's messages are silenced"
    return Demo(folder, free, result.stdout, sorted(before.items() ^ modification_times().items()))
