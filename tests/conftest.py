"""What several test files need: the demo set, drawn once for all of them, and a model trained on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import make_dataset

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def demo(request, tmp_path_factory) -> Path:
    """A data folder with the demo set and Xception's weights. The weights, 84 MB, stay in pytest's cache."""
    store = request.config.cache.mkdir("data")
    make_dataset.make_weights(store)
    data_dir = tmp_path_factory.mktemp("demo")
    weights = make_dataset.weights_path(data_dir)
    weights.parent.mkdir()
    os.link(make_dataset.weights_path(store), weights)
    make_dataset.make_raw(data_dir, "", demo=True)
    return data_dir


@pytest.fixture(scope="session")
def trained(demo, tmp_path_factory) -> Path:
    """The model that `training.py --quick` makes of the demo set: some 40 s for its features, the rest is fast."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "training.py", "--quick", "--data-dir", demo, "--output-dir", folder]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (folder / "stdout.txt").write_text(result.stdout)
    [model] = folder.glob("*.h5")
    return model
