"""The whole chain, as a newcomer runs it: `make demo`, with every script, the real runtime and the
real emulator.
"""

import csv
import re
import zipfile

from conftest import ROOT, make

STAGES = (
    "make_dataset.py",
    "data_selection.py",
    "exploratory_data_analysis.py",
    "training.py",
    "convert_model.py",
    "lambda_function.py",
)


def answer(output: str) -> tuple[str, dict[str, float]]:
    """The breed of the image that the demo asked about, and the prediction: breed -> percent."""
    wnid_and_name = re.search(r"^image: (\S+)/\S+\.jpg$", output, re.M).group(1)
    breed = wnid_and_name.split("-", 1)[1].lower().replace("-", "_")
    lines = output[output.index("image: ") :].splitlines()[1:]
    return breed, {line.split()[0]: float(line.split()[1].rstrip("%")) for line in lines}


def test_demo_ends_in_the_right_answer(made_demo):
    output = made_demo.output
    for stage in STAGES:
        assert f"--- {stage}" in output
    breed, prediction = answer(output)
    assert len(prediction) == 10
    assert next(iter(prediction)) == breed
    assert 99 < sum(prediction.values()) < 101


def test_demo_asks_about_a_test_image(made_demo):
    image = re.search(r"^image: (\S+)$", made_demo.output, re.M).group(1)
    assert dict(csv.reader(made_demo.model.with_suffix(".csv").open()))[image] == "test"


def test_a_clone_can_predict_without_training(made_demo):
    """The committed model answers for any image; a drawn dog is none of its breeds."""
    image = next(made_demo.data_dir.glob("raw/Images/*/*.jpg"))
    result = make("predict", f"IMAGE={image}")
    assert result.returncode == 0, result.stderr
    first, *breeds = result.stdout.splitlines()
    assert re.fullmatch(
        "It looks most like .+, but may be a breed that the model does not know.", first
    )
    labels = (
        zipfile.ZipFile(ROOT / "models/dog_breeds_120.tflite").read("labels.txt").decode().split()
    )
    names = [line.split()[0] for line in breeds]
    assert len(set(names)) == len(names) == 10 and set(names) < set(labels)


def test_second_demo_skips_what_is_done(made_demo):
    file = made_demo.folder / "top_10_dog_breeds.tflite"
    before = file.stat().st_mtime_ns
    result = make("demo", f"DEMO={made_demo.folder}", f"PORT={made_demo.port}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.findall(r"^--- (\w+)\.py", result.stdout, re.M) == ["lambda_function"]
    assert answer(result.stdout)[1]
    assert file.stat().st_mtime_ns == before


def test_demo_touches_nothing_outside_its_folder(made_demo):
    assert made_demo.changed_files == []
