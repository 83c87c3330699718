"""Training: whole runs on drawn and on real pictures, the choice of the best model, and mistakes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import make_dataset
import training
from dog_breeds import dataset, features, heads, metrics, recipe

ROOT = Path(__file__).resolve().parents[1]
MIRROR = os.environ.get("STANFORD_DOGS_MIRROR", "")
SIZE = 75  # pixels: nearly the smallest that Xception takes
FEW = ["maltese_dog", "pomeranian", "samoyed"]
TEN = [
    *("afghan_hound", "bernese_mountain_dog", "great_pyrenees", "irish_wolfhound", "leonberg"),
    *("maltese_dog", "pomeranian", "samoyed", "scottish_deerhound", "shih_tzu"),
]


# --- Whole runs ------------------------------------------------------------------------------------------------------


def test_a_training_run_passes_each_view_once_and_repeats_itself(demo, tmp_path, capsys):
    data_dir = tmp_path / "data"
    shutil.copytree(demo, data_dir, copy_function=os.link, ignore=shutil.ignore_patterns("features"))
    runs = []
    for run in ("first", "second"):
        task = training.prepare_task(data_dir, FEW, size=SIZE)
        model = training.train_classifier(task, recipe.QUICK_GRID, tmp_path / run)
        rows = sum(len(np.load(shard)["keys"]) for shard in data_dir.glob("features/*/*.npz"))
        runs.append((model, training.read_report(model), rows))
    (model, report, count), (again, second, recount) = runs
    images = report["images"]
    views = (recipe.CROP_VIEWS + recipe.PHOTO_VIEWS) * images["train"] + 2 * (images["validation"] + images["test"])
    other_breeds = report["test"]["unknown_breeds"]["pictures"]
    assert other_breeds == recipe.UNKNOWN_PHOTOS
    assert count == views + other_breeds  # each row of the cache has passed the backbone once
    assert recount == count

    assert again.name == model.name
    assert again.with_suffix(".csv").read_text() == model.with_suffix(".csv").read_text()
    assert second["winner"] == report["winner"]
    assert second["test"] == report["test"]
    assert capsys.readouterr().out.count("of other breeds: AUROC") == 2

    classifier = keras.models.load_model(model, compile=False)
    assert classifier.input_shape == (None, SIZE, SIZE, 3)
    assert classifier.output_shape == [(None, 3), (None, 1)]


def test_quick_training_learns_the_demo_breeds(made_demo):
    trained, output = made_demo.model, made_demo.output
    report = training.read_report(trained)
    assert re.fullmatch(r"xception_v1_\d\d_\d\.\d{3}\.h5", trained.name)
    assert trained.name == training.MODEL_NAME.format(**report["winner"])
    assert report["test_accuracy"] >= 0.97
    assert report["test_accuracy_whole_photos"] >= 0.97
    assert {path.suffix for path in trained.parent.glob("xception_v1_*")} == {".h5", ".json", ".csv"}
    assert training.find_best_model(trained.parent) == trained

    split = dataset.read_split(trained.with_suffix(".csv"))
    assert report["images"] == {part: list(split.values()).count(part) for part in ("train", "validation", "test")}
    assert set(split) == {
        f"{path.parent.name}/{path.name}" for path in dataset.images_dir(made_demo.data_dir).glob("*/*.jpg")
    }
    assert report["classes"] == TEN
    assert report["data_dir"] == str(made_demo.data_dir)
    assert report["unknown_rule"]["score"] == "similarity"
    assert {"size", "photo_share", "seed", "temperature", "versions", "settings", "seconds", "note"} < set(report)
    assert len(report["trials"]) == 4
    assert len(report["finalists"]) == 2
    assert {"learning_rate", "inner_size", "dropout", "seed", "val_loss", "history"} < set(report["trials"][0])
    for name in ("crops", "whole_photos"):
        assert np.sum(report["test"][name]["confusion_matrix"]) == report["images"]["test"]
    assert "test accuracy on whole photos" in output
    assert "optimistic" in output


def test_the_saved_model_gives_in_plain_keras_what_training_measured(made_demo):
    trained, data_dir = made_demo.model, made_demo.data_dir
    report, split = training.read_report(trained), dataset.read_split(trained.with_suffix(".csv"))
    task = dataset.Task(data_dir, report["classes"], split)
    sets = features.plain_set(task, "test")
    model = keras.models.load_model(trained, compile=False)
    assert model.input_shape == (None, 299, 299, 3)
    inner = [model.get_layer("inner")] if report["winner"]["inner_size"] else []
    weights = [array for layer in [*inner, model.get_layer("logits")] for array in layer.get_weights()]
    for name, view in features.KINDS.items():
        pixels = np.stack([features.load_pixels(view(data_dir, image)) for image in task.images("test")]).astype(
            np.float32
        )
        probabilities, similarities = model.predict(pixels, verbose=0)
        known = similarities >= report["unknown_rule"]["threshold"]
        expected = np.exp(metrics.log_softmax(heads.apply_head(weights, sets[name].features)))
        np.testing.assert_allclose(probabilities, expected, atol=1e-3)
        assert (probabilities.argmax(axis=1) == sets[name].labels).mean() == pytest.approx(
            report["test"][name]["accuracy"]
        )
        assert known.mean() == pytest.approx(report["test"][name]["taken_as_known"])


def saved(folder, name, classes=("a", "b"), split="x,train"):
    model = folder / name
    model.touch()
    model.with_suffix(".json").write_text(json.dumps({"classes": classes}))
    model.with_suffix(".csv").write_text(split)
    return model


def test_the_best_model_is_that_with_the_highest_validation_accuracy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run training\.py first"):
        training.find_best_model(tmp_path)
    for name in ("xception_v1_09_0.912.h5", "xception_v1_12_0.975.h5", "xception_v1_30_0.900.h5"):
        saved(tmp_path, name)
    (tmp_path / "xception_v1_x.h5").touch()
    assert training.find_best_model(tmp_path).name == "xception_v1_12_0.975.h5"


@pytest.mark.parametrize("other", [{"classes": ("a", "b", "c")}, {"split": "x,test"}])
def test_models_of_different_tasks_are_not_compared(tmp_path, other):
    models = saved(tmp_path, "xception_v1_09_0.912.h5"), saved(tmp_path, "xception_v1_12_0.975.h5", **other)
    with pytest.raises(ValueError, match="different breeds or splits; name one of") as error:
        training.find_best_model(tmp_path)
    assert all(str(model) in str(error.value) for model in models)


# --- Command line ----------------------------------------------------------------------------------------------------


def complaint(monkeypatch, *arguments):
    """The one line with which training.py ends."""
    monkeypatch.setattr(sys, "argv", ["training.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        training.main()
    message = ending.value.code  # a text: printed to stderr, with exit status 1
    assert message.startswith("training.py: ")
    assert len(message.splitlines()) == 1
    return message


def test_mistakes_get_one_line(demo, tmp_path, monkeypatch):
    empty, output = tmp_path / "empty", tmp_path / "output"
    bad, other = tmp_path / "bad.csv", tmp_path / "other.csv"
    bad.write_text("picture;part\n")
    other.write_text("image,split\nn02110958-pug/n02110958_1.jpg,train\n")
    unfetched = tmp_path / "unfetched"
    shutil.copytree(demo / "raw", unfetched / "raw", copy_function=os.link)

    def said(*arguments):
        return complaint(monkeypatch, "--output-dir", output, *arguments)

    assert "run make_dataset.py first" in said("--data-dir", empty)
    assert "did you mean samoyed?" in said("--data-dir", demo, "--breeds", "samoyd", "maltese_dog")
    assert "at least two breeds" in said("--data-dir", demo, "--breeds", "samoyed")
    assert str(bad) in said("--data-dir", demo, "--split-file", bad)
    assert str(tmp_path / "no.csv") in said("--data-dir", demo, "--split-file", tmp_path / "no.csv")
    assert "gives afghan_hound no test images" in said("--data-dir", demo, "--split-file", other)
    assert "no weights in" in said("--data-dir", unfetched)
    assert not output.exists()
    assert not empty.exists()
    assert not (unfetched / "features").exists()


def test_a_mistake_ends_the_process_with_status_1_and_no_traceback(tmp_path):
    command = [sys.executable, str(ROOT / "training.py"), "--data-dir", str(tmp_path / "empty")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(r"training\.py: no photos in .*; run make_dataset\.py first\n", result.stderr)
    assert not list(tmp_path.iterdir())


# --- The real pictures -----------------------------------------------------------------------------------------------


def test_real_breeds_are_learned_from_few_pictures(demo, tmp_path, monkeypatch):
    if not Path(MIRROR, "images.tar").is_file():
        pytest.skip("STANFORD_DOGS_MIRROR names no folder with images.tar and annotation.tar")
    make_dataset.make_raw(tmp_path, MIRROR)
    assert dataset.top_breeds(tmp_path) == TEN

    listed = {"train": {}, "test": {}}
    with open(Path(MIRROR, "official_split.csv"), newline="") as file:
        for row in csv.DictReader(file):
            listed[row["split"]].setdefault(row["image"].split("/")[0], []).append(row["image"])
    few = {"train": 12, "test": 8}
    rows = [f"{i},{part}\n" for part in listed for breed in listed[part].values() for i in breed[: few[part]]]
    (tmp_path / "split.csv").write_text("image,split\n" + "".join(rows))
    dataset.weights_path(tmp_path).parent.mkdir()
    os.link(dataset.weights_path(demo), dataset.weights_path(tmp_path))

    monkeypatch.setattr(recipe, "UNKNOWN_PHOTOS", 20)
    model = training.train_classifier(
        training.prepare_task(tmp_path, split_file=tmp_path / "split.csv"), recipe.QUICK_GRID, tmp_path
    )
    report = training.read_report(model)
    assert report["images"] == {"train": 100, "validation": 20, "test": 80}
    assert report["test_accuracy"] >= 0.92  # measured: 0.975
    assert report["test_accuracy_whole_photos"] >= 0.88  # measured: 0.95
    assert report["test"]["unknown_breeds"]["auroc_whole_photos"] >= 0.9
