"""Photos from elsewhere: rules fitted on half of the known breeds, measured on the others."""

import json

import numpy as np
import pytest
from colour_model import COLOURS
from conftest import ROOT, run
from PIL import Image

from dog_breeds import recipe
from dog_breeds.data.dataset import Task
from dog_breeds.learning import heads, outside, rules

FOLDERS = {"Leonberger": 4, "maltese": 3, "Samoyed": 5, "shih-tzu": 2, "Sphynx": 4, "havanese": 2}
KNOWN = ("Leonberger", "Samoyed", "maltese", "shih-tzu")  # in the order of the sorted folders


@pytest.fixture
def photos(tmp_path):
    """Return a folder of small images by breed. One file is not an image."""
    for folder, number in FOLDERS.items():
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for i in range(number):
            image = Image.new("RGB", (20 + i, 20), (i, len(folder), 99))
            image.save(tmp_path / "photos" / folder / f"{i}.png")
    (tmp_path / "photos/Samoyed/broken.jpg").write_bytes(b"no photo")
    return tmp_path / "photos"


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Return a task. The features of a photo are replaced by its breed (one-hot) and its width."""
    classes = list(COLOURS)
    meant = outside.match_folders(FOLDERS, classes)

    def extract(views, task):
        rows = np.zeros((len(views), 12), np.float32)
        for row, view in zip(rows, views, strict=True):
            breed = meant[view.path.parent.name]
            row[classes.index(breed) if breed else 10] = 1
            row[11] = Image.open(view.path).width
        return rows

    monkeypatch.setattr(outside, "extract_features", extract)
    return Task(tmp_path, classes, {})


def test_every_second_known_breed_is_for_fitting(photos, task, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "OUTSIDE_PHOTOS", 7)
    monkeypatch.setattr(recipe, "OUTSIDE_CLASSES", 2)
    seen = outside.read_outside(photos, task)
    classes = task.classes
    fitting = [name.split("/")[0] for name in seen.fitting.images]
    others = [name.split("/")[0] for name in seen.measuring.images]
    assert fitting == ["Leonberger"] * 4 + ["maltese"] * 3
    assert others == ["Samoyed"] * 5 + ["shih-tzu"] * 2
    assert [classes[label] for label in seen.fitting.labels] == ["leonberg"] * 4 + [
        "maltese_dog"
    ] * 3
    assert (seen.fitting.features.argmax(axis=1) == 11).all()
    assert {name: len(rows) for name, rows in seen.unknown.items()} == {"Sphynx": 4, "havanese": 2}
    assert "14 photos of 4 known classes, 6 of 2 others" in capsys.readouterr().out
    said = outside.describe_fitting(seen)
    assert said.startswith("7 photos of 2 classes in ") and "/photos, " in said


def test_too_few_photos_are_not_fitted_on_but_all_are_measured(photos, task, capsys):
    seen = outside.read_outside(photos, task)
    assert seen.fitting is None and len(seen.measuring.labels) == 14
    assert "7 photos of 2 known classes are too few" in capsys.readouterr().out
    # This head recognises every known breed. Its logits of unknown breeds are at most 0.
    weights = [
        np.pad(10 * np.eye(10, dtype=np.float32), ((0, 2), (0, 0))),
        np.zeros(10, np.float32),
    ]
    fitted = rules.Rules(1.0, 5.0, 0.1, 0.9, "these")
    result = outside.measure_outside(seen, heads.Classifier(weights, fitted, np.eye(10), [], 0.0))
    assert (result["classes"], result["pictures"], result["accuracy"]) == (4, 14, 1)
    assert result["taken_as_known"] == result["candidates"] == result["single_candidate"] == 1
    unknown = result["unknown_classes"]
    assert (unknown["pictures"], unknown["taken_as_known"]) == (6, 0)
    assert unknown["by_folder"] == {"Sphynx": 0, "havanese": 0}


def test_folders_without_a_known_breed_are_refused(photos, task):
    with pytest.raises(ValueError, match="has the name of a breed that the model knows"):
        outside.read_outside(photos, Task(task.data_dir, ["pug"], {}))


def test_training_says_what_goes_together(tmp_path):
    missing = run("training.py", "--outside", tmp_path / "none")
    assert missing.returncode == 2 and "there is no folder" in missing.stderr
    both = run("training.py", "--outside", tmp_path, "--images", tmp_path)
    assert both.returncode == 2 and "--images goes without" in both.stderr


def test_the_benchmark_asks_the_handler_and_prints_tables(explaining_model, tmp_path):
    """The model recognises colours: orange is a leonberg, and gray is unknown."""
    for folder, colours in {
        "Leonberger": [COLOURS["leonberg"]] * 3 + [COLOURS["samoyed"]],
        "St. Nobody": [(128, 128, 128), COLOURS["samoyed"]],
        "shih_tzu": [(67, 41, 20)],  # between two breeds
    }.items():
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for i, colour in enumerate(colours):
            Image.new("RGB", (64, 64), colour).save(tmp_path / "photos" / folder / f"{i}.png")
    words = "--photos", tmp_path / "photos", "--model", explaining_model
    done = run(ROOT / "benchmarks/outside.py", *words, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    expected = {
        "photos": 5,
        "top_1": 80,
        "top_5": 100,
        "taken_as_known": 100,
        "candidates_hold_the_breed": 80,
        "candidates": 1.2,
        "single_candidate": 80,
        "wrong_though_sure": 20,
        "unknown_photos": 2,
        "unknown_taken_as_known": 50,
        "inferences_for_a_photo_of_a_known_breed": 1,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "Leonberger 4 75.0% 100.0% 100.0% 75.0% 1.00 100.0%" in lines
    assert "shih_tzu 1 100.0% 100.0% 100.0% 100.0% 2.00 0.0%" in lines
    assert "Leonberger taken for Samoyed 1" in lines
    half = run(ROOT / "benchmarks/outside.py", *words, "--without-fitted")
    assert half.returncode == 0 and "Leonberger" not in half.stdout.split("known breed")[1]
    none = run(ROOT / "benchmarks/outside.py", "--photos", tmp_path, "--model", explaining_model)
    assert none.returncode == 1 and none.stderr.count("\n") == 1
