"""What several test files need: the demo set, drawn once for all of them, and the result of `make
demo`.
"""

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
THOROUGH = os.environ.get("DOGS_THOROUGH") == "1"  # far more of what is random or hostile
# What the tests run stands alone: neither a part of the make that runs them, nor with a user's
# service.
for name in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS", "DOG_BREEDS_ENDPOINT"):
    os.environ.pop(name, None)
# There is none for Python 3.10: the handler takes no URLs there
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
def elsewhere() -> Iterator[Callable]:
    """Do what workers.call_in_new_process does, but use one process for all calls.

    TensorFlow is then loaded once for all tests.

    In pytest's own process it must never be: the serving runtime is there, and beside it crashes.
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
    """What `make_dataset.py --demo` makes. The weights, 84 MB, stay in pytest's cache."""
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
    """A small task, and the model trained for it."""

    task: Task
    model: Path


@pytest.fixture(scope="session")
def small(demo, elsewhere, tmp_path_factory) -> Small:
    """Three of the demo breeds in a data folder of their own, on a new backbone for SIZE pixels.

    All tests share this conversion by TensorFlow.
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
    touched: list[tuple[str, int]]  # files outside its folder that came, went or changed, and when

    @property
    def data_dir(self) -> Path:
        """The drawn pictures, the weights and the features of the views."""
        return self.folder / "data"

    @property
    def model(self) -> Path:
        """The model that `training.py --quick` saved, with its report and split beside it."""
        [model] = self.folder.glob("*.h5")
        return model


def touched() -> dict[str, int]:
    """When each file was changed that the scripts write by default."""
    files = [path for name in ("data", "plots", "demo") for path in (ROOT / name).rglob("*")]
    files += [
        path for pattern in ("*_v1_*", "*.tflite", "my_classes.*") for path in ROOT.glob(pattern)
    ]
    return {
        str(path.relative_to(ROOT)): path.stat().st_mtime_ns for path in files if path.is_file()
    }


def command(script: str | Path, *words: object) -> list[str]:
    """The command of a script."""
    return [sys.executable, str(ROOT / script), *map(str, words)]


def heed_ctrl_c() -> None:
    """Let a process be interrupted though the tests may run with SIGINT ignored, as after `nohup
    make test &`.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(
    script: str | Path, *words: object, cwd=ROOT, preexec_fn=None, **env: str
) -> subprocess.CompletedProcess:
    """Run a script as a user does, at the top of the project or elsewhere."""
    options = {"env": {**os.environ, **env}, "cwd": cwd, "preexec_fn": preexec_fn, "timeout": 900}
    return subprocess.run(command(script, *words), capture_output=True, text=True, **options)


def ending(monkeypatch: pytest.MonkeyPatch, script: ModuleType, *words: object) -> str | None:
    """The line with which a script ends that is run in this process; None if all goes well."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words)])
    try:
        script.main()
    except SystemExit as end:  # a text goes to stderr, with exit status 1
        assert end.code.startswith(f"{script.__name__}.py: ") and end.code.isprintable()
        return end.code


def make(*words: str, **env: str) -> subprocess.CompletedProcess:
    """Run make at the top of the project, quiet about folders though the tests may run under make
    themselves.
    """
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=3600
    )


@pytest.fixture(scope="session")
def made_demo(demo, tmp_path_factory) -> Demo:
    """A demo, once for all tests: two minutes. Its first script finds the pictures of `demo` and
    the weights there.
    """
    folder = tmp_path_factory.mktemp("pipeline") / "demo"
    shutil.copytree(demo, folder / "data", copy_function=os.link)
    (folder / "made-by-make-demo").touch()
    before, [free] = touched(), free_ports(among=range(8_000, 10_000, 2))
    result = make("demo", f"DEMO={folder}", f"PORT={free}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "XNNPACK" not in result.stderr, "the serving runtime's remarks are silenced"
    return Demo(folder, free, result.stdout, sorted(before.items() ^ touched().items()))
