"""Training: whole runs on drawn and real images, saving, and the messages for mistakes."""

import contextlib
import csv
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import MIRROR, TEN, exit_message, run
from PIL import Image
from test_exploratory_data_analysis import PLOTS, unreadable

import training
from dog_breeds import recipe
from dog_breeds.data import dataset
from dog_breeds.learning import training_plots
from dog_breeds.learning.saved_models import (
    find_best_model,
    model_name,
    read_head,
    read_report,
    source_files,
)
from dog_breeds.learning.tflite import inspect_backbone

TRAINING_PLOTS = "training_curves search confusion precision_and_recall reliability unknown_breeds"
TRAINING_PLOTS = {f"{name}.png" for name in TRAINING_PLOTS.split()}
UNKNOWN = ("golden_retriever", "Chihuahua")  # breeds that the mirror has in addition to the ten

# --- Whole runs -----------------------------------------------------------------------------------


def test_a_training_run_passes_each_view_once_and_repeats_itself(
    small, tmp_path, capsys, monkeypatch
):
    task, model = small
    report = read_report(model)
    assert report["test"]["images_left_out"] == []
    images = report["images"]
    views_of_each = recipe.CROP_VIEWS + recipe.PHOTO_VIEWS + 1  # the last one is turned
    views = views_of_each * images["train"] + 2 * (images["validation"] + images["test"])
    other_breeds = report["test"]["unknown_breeds"]["pictures"]
    there = len(list(task.photo("").glob("*/*.jpg"))) - sum(images.values())
    assert other_breeds == min(recipe.UNKNOWN_PHOTOS, there)
    assert 0 < report["turn_rule"]["turned_pictures_noticed"] <= 1

    def rows():
        return sum(len(np.load(shard)["keys"]) for shard in task.data_dir.glob("features/*/*.npz"))

    assert rows() == views + other_breeds  # the backbone computed each row of the cache once
    figures = {}
    monkeypatch.setattr(
        training_plots, "save_plot", lambda figure, path: figures.update({path.name: figure})
    )
    again = training.train_classifier(task, recipe.QUICK_GRID, tmp_path)
    assert (
        figures.keys() == TRAINING_PLOTS
        and [unreadable(figure) for figure in figures.values()] == [[]] * 6
    )
    assert rows() == views + other_breeds
    assert again.name == model.name
    assert again.with_suffix(".csv").read_text() == model.with_suffix(".csv").read_text()
    second = read_report(again)
    for name in ("winner", "test", "temperature", "unknown_rule", "backbone_sha256"):
        assert second[name] == report[name]
    assert capsys.readouterr().out.count("of other breeds: AUROC") == 1


def test_copies_of_what_was_learned_are_left_out_of_the_test(small, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "save_plots", Mock())
    task, _ = small
    data_dir = tmp_path / "data"
    shutil.copytree(task.data_dir, data_dir, copy_function=os.link)
    task = replace(task, data_dir=data_dir)
    photos = dataset.images_dir(data_dir)
    copies = task.images("test")[1], task.images("test")[-1]
    for copy, learned in zip(
        copies, (task.images("train")[0], task.images("validation")[0]), strict=True
    ):
        (photos / copy).unlink()  # a hard link to a photo of another test: remove it first
        with Image.open(photos / learned) as image:
            image.save(photos / copy, quality=60)
    model = training.train_classifier(
        task, {"learning_rate": (4e-3,), "inner_size": (0,), "dropout": (0.5,)}, tmp_path
    )
    report = read_report(model)
    assert report["test"]["images_left_out"] == list(copies)
    assert report["test"]["whole_photos"]["pictures"] == report["images"]["test"] - 2
    assert np.sum(report["test"]["crops"]["confusion_matrix"]) == report["images"]["test"] - 2
    assert set(copies) < set(dataset.read_split(model.with_suffix(".csv")))


def test_quick_training_learns_the_demo_breeds(made_demo):
    trained, output = made_demo.model, made_demo.output
    report = read_report(trained)
    assert re.fullmatch(r"xception_v1_\d{2,}_\d\.\d{3}\.h5", trained.name)
    assert trained.name == model_name(report["winner"]["epoch"], report["winner"]["val_accuracy"])
    assert report["test_accuracy"] >= 0.97
    assert report["test_accuracy_whole_photos"] >= 0.97
    assert sorted(trained.parent.glob("xception_v1_*")) == sorted(source_files(trained))
    assert report["backbone_sha256"] == inspect_backbone(recipe.MODEL).digest
    assert find_best_model(trained.parent) == trained

    split = dataset.read_split(trained.with_suffix(".csv"))
    assert report["images"] == {
        part: list(split.values()).count(part) for part in ("train", "validation", "test")
    }
    assert set(split) == {
        f"{path.parent.name}/{path.name}"
        for path in dataset.images_dir(made_demo.data_dir).glob("*/*.jpg")
    }
    assert report["classes"] == sorted(TEN)
    assert report["data_dir"] == str(made_demo.data_dir)
    assert report["unknown_rule"]["score"] == "logit"
    assert {
        "size",
        "photo_share",
        "seed",
        "temperature",
        "versions",
        "settings",
        "seconds",
        "note",
    } < set(report)
    assert len(report["trials"]) == 4
    assert len(report["finalists"]) == 2
    assert {"learning_rate", "inner_size", "dropout", "seed", "val_loss", "history"} < set(
        report["trials"][0]
    )
    for name in ("crops", "whole_photos"):
        assert np.sum(report["test"][name]["confusion_matrix"]) == report["images"]["test"]
    assert {path.name for path in (made_demo.folder / "plots").iterdir()} == PLOTS | TRAINING_PLOTS
    assert "test accuracy on whole photos" in output
    assert "optimistic" in output


# The attributes of a classifier that saving reads
HEAD = SimpleNamespace(weights=[np.ones(2)] * 2, means=np.ones((2, 2)), upright=[np.ones(2)] * 2)


def two_breeds(folder, seed=33):
    """Return a task of two breeds; its files do not exist."""
    return dataset.Task(folder, ["a", "b"], {"a/1.jpg": "train", "b/1.jpg": "test"}, seed=seed)


def report_of(task):
    """Return the entries of a report that saving reads."""
    winner = {"epoch": 30, "val_accuracy": 0.966}
    return {"winner": winner, "classes": task.classes, "backbone_sha256": "", "seed": task.seed}


def test_a_model_of_another_seed_is_not_overwritten(tmp_path):
    for seed in (33, 34, 34):
        task = two_breeds(tmp_path, seed)
        path = training.save_results(task, HEAD, report_of(task), tmp_path)
        path.touch()
        assert read_report(path)["seed"] == seed
    models = sorted(tmp_path.glob("*.h5"))
    assert [model.name for model in models] == [
        "xception_v1_30_0.966.h5",
        "xception_v1_30_0.9660.h5",
    ]
    assert find_best_model(tmp_path) == path


def test_an_output_that_cannot_be_is_told_first(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(training, "training_set", Mock(side_effect=AssertionError("too late")))
    with pytest.raises(OSError, match="file"):
        training.train_classifier(
            dataset.Task(tmp_path, ["a", "b"], {}), output_dir=tmp_path / "file" / "x"
        )


def test_a_breed_whose_test_images_are_all_copies_is_named(small, monkeypatch):
    task = small.task
    left = [image for image in task.images("test") if "Samoyed" not in image]
    monkeypatch.setattr(training, "without_copies", lambda task, images: left)
    with pytest.raises(ValueError, match="all test images of samoyed are copies"):
        training.measure_on_test(task, None)


# --- Command line ---------------------------------------------------------------------------------


def test_mistakes_get_one_line(demo, tmp_path, monkeypatch):
    empty, output = tmp_path / "empty", tmp_path / "output"
    bad, other = tmp_path / "bad.csv", tmp_path / "other.csv"
    bad.write_text("image;part\n")
    other.write_text("image,split\nn02110958-pug/n02110958_1.jpg,train\n")
    unfetched = tmp_path / "unfetched"
    shutil.copytree(demo / "raw", unfetched / "raw", copy_function=os.link)

    def said(*arguments):
        return exit_message(monkeypatch, training, "--output-dir", output, *arguments)

    assert "run make_dataset.py first" in said("--data-dir", empty)
    assert "did you mean samoyed?" in said("--data-dir", demo, "--breeds", "samoyd", "maltese_dog")
    assert "at least two breeds" in said("--data-dir", demo, "--breeds", "samoyed")
    assert str(bad) in said("--data-dir", demo, "--split-file", bad)
    assert str(tmp_path / "no.csv") in said("--data-dir", demo, "--split-file", tmp_path / "no.csv")
    assert "none of its 1 images is" in said("--data-dir", demo, "--split-file", other)
    words = ("--new-backbone", tmp_path / "new.tflite")
    assert "no weights in" in said("--data-dir", unfetched, *words)
    for file in (recipe.MODEL, tmp_path / "new"):
        new = "a new backbone needs a new file that ends in .tflite, not"
        assert f"{new} {file}" in said("--data-dir", demo, "--new-backbone", file)
    assert f"{bad}: no TensorFlow Lite file" in said("--data-dir", demo, "--backbone", bad)
    assert "no.tflite" in said("--data-dir", demo, "--backbone", tmp_path / "no.tflite")
    assert not output.exists()
    assert not empty.exists()
    assert not (unfetched / "features").exists()


def test_a_mistake_ends_the_process_with_status_1_and_no_traceback(tmp_path):
    result = run("training.py", "--data-dir", tmp_path / "empty", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(
        r"training\.py: no photos in .*; run make_dataset\.py first\n", result.stderr
    )
    assert not list(tmp_path.iterdir())


# --- The real images ----------------------------------------------------------------------------


def test_real_breeds_are_learned_from_few_images(
    demo, real_data, in_keras_process, tmp_path, monkeypatch
):
    listed = {"train": {}, "test": {}}
    with open(Path(MIRROR, "official_split.csv"), newline="") as file:
        for row in csv.DictReader(file):
            listed[row["split"]].setdefault(row["image"].split("/")[0], []).append(row["image"])
    few, data_dir = {"train": 8, "test": 6}, tmp_path / "data"
    ten = {
        part: [listed[part][breed] for breed in listed[part] if dataset.breed_name(breed) in TEN]
        for part in few
    }
    chosen = {image: part for part in few for images in ten[part] for image in images[: few[part]]}
    (tmp_path / "split.csv").write_text(
        "image,split\n" + "".join(f"{i},{part}\n" for i, part in chosen.items())
    )
    others = {
        path
        for breed in UNKNOWN
        for path in sorted(dataset.images_dir(real_data).glob(f"*-{breed}/*.jpg"))[:10]
    }
    for image in (*chosen, *(f"{path.parent.name}/{path.name}" for path in others)):
        for folder, name in (
            (dataset.images_dir, image),
            (dataset.annotation_dir, image.removesuffix(".jpg")),
        ):
            (folder(data_dir) / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(folder(real_data) / name, folder(data_dir) / name)
    dataset.weights_path(data_dir).parent.mkdir()
    os.link(dataset.weights_path(demo), dataset.weights_path(data_dir))
    monkeypatch.setattr(training, "save_plots", Mock())
    # Few, because this test does not measure how many turned photos are noticed
    monkeypatch.setattr(recipe, "TURNED_PHOTOS", 20)
    task = training.prepare_task(data_dir, sorted(TEN), tmp_path / "split.csv")
    report = read_report(training.train_classifier(task, recipe.QUICK_GRID, tmp_path))
    assert report["images"] == {"train": 70, "validation": 10, "test": 60}
    assert report["test_accuracy"] >= 0.92
    assert report["test_accuracy_whole_photos"] >= 0.88
    assert report["test"]["unknown_breeds"]["pictures"] == 20
    assert report["test"]["unknown_breeds"]["auroc_whole_photos"] >= 0.9


def test_no_killed_training_leaves_a_model_beside_the_report_of_another(tmp_path, monkeypatch):
    """The test ends the process after each of the steps of saving."""
    task = two_breeds(tmp_path)
    task.weights.parent.mkdir()
    task.weights.touch()

    def save(number):
        monkeypatch.setattr(
            training, "call_in_new_process", lambda *arguments: arguments[-1].write_text(number)
        )
        path = training.save_results(task, HEAD, report_of(task) | {"number": number}, tmp_path)
        training.write_h5(task, path)
        return path

    def killed_after(steps, owner, name):
        """Return the function with a limit: after the last of `steps`, a call ends the process."""
        real = getattr(owner, name)

        def step(*arguments, **options):
            if not next(steps, False):
                raise KilledError
            return real(*arguments, **options)

        return step

    for last in range(12):
        for file in tmp_path.glob("*.*"):
            file.unlink()
        model, steps = save("old"), iter([True] * last)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KilledError):
            for owner, name in ((os, "replace"), (Path, "unlink")):
                patch.setattr(owner, name, killed_after(steps, owner, name))
            save("new")
        if model.exists():
            assert read_report(model)["number"] == model.read_text(), last
    assert read_report(model)["number"] == "new"


class KilledError(BaseException):
    """Raised in place of the end of the process."""


def test_without_weights_all_but_the_h5_is_saved(tmp_path):
    task = two_breeds(tmp_path)
    path = training.save_results(task, HEAD, report_of(task), tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"xception_v1_30_0\.966\.h5 is not written, because there are no w"
    ):
        training.write_h5(task, path)
    left = {file.name for file in source_files(path)} - {path.name}
    assert {file.name for file in tmp_path.iterdir()} == left
    weights, means, upright = read_head(path)
    saved = [*weights, means, *upright]
    assert all((array == 1).all() for array in saved) and len(saved) == 5
    with pytest.raises(FileNotFoundError, match=r"there is no .*0\.966\.h5; "):
        find_best_model(tmp_path)


def test_damaged_weights_are_named(small, in_keras_process, tmp_path):
    shutil.copytree(small.task.data_dir / "weights", tmp_path / "weights")
    task = replace(small.task, data_dir=tmp_path)
    task.weights.write_bytes(task.weights.read_bytes()[:100_000])
    for file in source_files(small.model)[1:]:
        shutil.copy(file, tmp_path)
    with pytest.raises(ValueError, match=r"does not hold the weights of Xception .* delete it"):
        training.write_h5(task, tmp_path / small.model.name)
    assert not list(tmp_path.glob("*.h5"))


def test_photos_of_other_breeds_that_cannot_be_read_are_passed_over(small, tmp_path):
    shutil.copytree(small.task.data_dir, tmp_path / "data", copy_function=os.link)
    task = replace(small.task, data_dir=tmp_path / "data")
    others = sorted((tmp_path / "data/raw/Images").glob("*/*.jpg"))
    others = [path for path in others if dataset.breed_name(path.parent.name) not in task.classes]
    for path in others[10:]:
        path.unlink()
        path.write_bytes(b"no image")
    (others[0].parent / ".DS_Store").write_bytes(b"")
    found = training.unknown_photos(task, 100)
    assert sorted(found) == [f"{path.parent.name}/{path.name}" for path in others[:10]]
