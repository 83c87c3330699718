"""The whole chain, as a newcomer runs it: `make demo`, with every script, the real runtime and the real emulator."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
STAGES = (
    "make_dataset.py",
    "data_selection.py",
    "exploratory_data_analysis.py",
    "training.py",
    "convert_model.py",
    "lambda_function.py",
)


def make(*words: str, **env: str) -> subprocess.CompletedProcess:
    """Run make at the top of the project, quiet about folders though the tests may run under make themselves."""
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=1800,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder and output of a demo from nothing; the environment and the port are the only things it shares."""
    folder = tmp_path_factory.mktemp("pipeline") / "demo"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = make("demo", f"DEMO={folder}", f"PORT={port}")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, port, result.stdout


def answer(output: str) -> tuple[str, dict[str, float]]:
    """The breed of the picture that the demo asked about, and the prediction: breed -> percent."""
    wnid_and_name = re.search(r"^picture: (\S+)/\S+\.jpg$", output, re.M).group(1)
    breed = wnid_and_name.split("-", 1)[1].lower().replace("-", "_")
    lines = output[output.index("picture: ") :].splitlines()[1:]
    return breed, {line.split()[0]: float(line.split()[1].rstrip("%")) for line in lines}


def test_demo_ends_in_the_right_answer(demo):
    _, _, output = demo
    for stage in STAGES:
        assert f"--- {stage}" in output
    breed, prediction = answer(output)
    assert len(prediction) == 10
    assert next(iter(prediction)) == breed
    assert 99 < sum(prediction.values()) < 101


def test_demo_asks_about_a_test_picture(demo):
    folder, _, output = demo
    image = re.search(r"^picture: (\S+)$", output, re.M).group(1)
    (split,) = folder.glob("*.csv")
    assert dict(csv.reader(split.open()))[image] == "test"


def test_second_demo_skips_what_is_done(demo):
    folder, port, _ = demo
    model = (folder / "top_10_dog_breeds.tflite").stat().st_mtime_ns
    start = time.monotonic()
    result = make("demo", f"DEMO={folder}", f"PORT={port}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert time.monotonic() - start < 60
    assert "--- training.py" not in result.stdout
    assert answer(result.stdout)[1]
    assert (folder / "top_10_dog_breeds.tflite").stat().st_mtime_ns == model


def test_demo_touches_nothing_outside_its_folder(demo):
    status = subprocess.run(["git", "status", "--porcelain", "--ignored"], cwd=ROOT, capture_output=True, text=True)
    changed = {line[3:] for line in status.stdout.splitlines()}
    assert not {"data/", "plots/", "demo/"} & changed - existing_before


existing_before = {f"{name}/" for name in ("data", "plots", "demo") if (ROOT / name).exists()}


def test_served_answers_equal_keras(demo, tmp_path):
    """The top class of the served float file equals Keras' own for the same pixels, whatever was not trained on."""
    folder, _, _ = demo
    facts = json.loads(zipfile.ZipFile(folder / "top_10_dog_breeds.tflite").read("metadata.json"))
    (model,) = folder.glob("*.h5")
    (split,) = folder.glob("*.csv")
    float_file = tmp_path / "float32.tflite"
    converted = subprocess.run(
        [sys.executable, "convert_model.py", model, "--quantization", "float32", "--output", float_file], cwd=ROOT
    )
    assert converted.returncode == 0
    images = sorted(image for image, part in csv.reader(split.open()) if part in ("validation", "test"))
    assert len(images) >= 50
    photos = [folder / "data" / "raw" / "Images" / image for image in images]
    served = run_python(SERVE, *photos, MODEL_FILE=str(float_file))
    keras = run_python(KERAS, model, *photos)
    assert [facts["classes"][np.argmax(row)] for row in keras] == [next(iter(row)) for row in served]
    for row, prediction in zip(keras, served, strict=True):
        assert [prediction[breed] for breed in facts["classes"]] == pytest.approx(row, abs=1e-4)


SERVE = """
import base64, contextlib, json, sys
from lambda_function import lambda_handler
for photo in sys.argv[1:]:
    event = {"image": base64.b64encode(open(photo, "rb").read()).decode()}
    with contextlib.redirect_stdout(sys.stderr):  # its log
        answer = lambda_handler(event)
    print(json.dumps(answer["prediction"]))
"""
KERAS = """
import json, sys
from pathlib import Path
import numpy as np
from training import PHOTO_SHARE, View, keras, load_pixels
model = keras.models.load_model(sys.argv[1], compile=False)
for photo in sys.argv[2:]:
    pixels = load_pixels(View(Path(photo), PHOTO_SHARE), model.input_shape[1])
    print(json.dumps(model(np.float32(pixels)[None]).numpy()[0].tolist()))
"""


def run_python(code: str, *arguments: object, **env: str) -> list:
    """The JSON lines that some code prints in a process of its own (the two runtimes crash in one)."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith(("[", "{"))]
