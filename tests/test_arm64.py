"""The handler on arm64, as on Lambda: with XNNPACK, and the features of x86-64 to the bit."""

import json
import re
import subprocess

import numpy as np
import pytest
from arm64 import SCORES, image_files, make_root, run_arm64, why_not
from conftest import COMMITTED, ROOT
from handler_process import run_python
from PIL import Image

SIDE = 75  # pixels: the committed network, on a sixteenth of its work, through the same kernels


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root folder for arm64, and in its /tmp two photos."""
    if why_not():
        pytest.skip(why_not())
    try:
        root = make_root(tmp_path_factory.mktemp("arm64"))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"Debian's packages for arm64 cannot be fetched here: {error.stderr[-300:]}")
    rng = np.random.default_rng(0)
    for number in range(2):
        blocks = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        blocks.resize((500, 375), Image.Resampling.BICUBIC).save(root / "tmp" / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def here(root):
    """What the handler's code gives on this machine."""
    photos = sorted((root / "tmp").glob("*.jpg"))
    done = run_python(SCORES, SIDE, *photos, MODEL_FILE=str(COMMITTED))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def there(root, files):
    """What it gives on arm64, where /sys has these files."""
    photos = sorted((root / "tmp").glob("*.jpg"))
    done = run_arm64(
        root, COMMITTED, files, SCORES, SIDE, *(f"/tmp/{photo.name}" for photo in photos)
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_image_has_xnnpack_on_arm64_and_the_same_features_to_the_bit(root, here):
    started, rows = there(root, image_files())
    assert started == {
        "event": "start",
        "accelerated": True,
        "cpu": "Neoverse N1",
        "int8": "dotprod",
    }
    for (pixels, features, scores), (our_pixels, our_features, our_scores) in zip(
        rows, here[1], strict=True
    ):
        assert pixels == our_pixels and features == our_features
        assert scores == pytest.approx(our_scores, abs=1e-5)  # of the float32 head


def test_without_the_lists_of_cpus_it_has_neither(root, here):
    """What the handler then logs, and what test_cpus.py asserts an alarm for."""
    started, rows = there(root, {})
    assert started["accelerated"] is False and started["int8"] == "dotprod"
    for (pixels, features, _), (our_pixels, our_features, _) in zip(rows, here[1], strict=True):
        assert pixels == our_pixels and features != our_features


def test_the_build_fails_where_a_new_runtime_reads_other_files(tmp_path):
    """The loop of the Dockerfile, beside libraries that name the files, or do not."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (loop,) = re.findall(r"(for list in .*? done)$", text, re.M)
    library = tmp_path / "ai_edge_litert" / "library.so"
    library.parent.mkdir()
    library.write_bytes(b"\0".join(path.encode() for path in image_files()))
    assert subprocess.run(["sh", "-c", loop], cwd=tmp_path).returncode == 0
    library.write_bytes(b"/sys/devices/system/cpu/possible")
    done = subprocess.run(["sh", "-c", loop], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ai-edge-litert no longer reads /sys/devices/system/cpu/present" in done.stderr
