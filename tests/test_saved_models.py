"""Saved models: which one is best, and what is said about models that are not whole."""

import json
import os

import pytest

from dog_breeds import recipe
from dog_breeds.learning.saved_models import find_best_model, model_name, read_report


def saved(folder, name, classes=("a", "b"), split="x,train"):
    model = folder / name
    model.touch()
    model.with_suffix(".json").write_text(json.dumps({"classes": classes, "head_sha256": ""}))
    model.with_suffix(".csv").write_text(split)
    model.with_suffix(".npz").touch()
    return model


def test_the_best_model_is_that_with_the_highest_validation_accuracy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run training\.py first"):
        find_best_model(tmp_path)
    for name in ("xception_v1_09_0.912.h5", "xception_v1_12_0.975.h5", "xception_v1_30_0.900.h5"):
        saved(tmp_path, name)
    (tmp_path / "xception_v1_x.h5").touch()
    (tmp_path / "xception_v1_notes.txt").touch()
    assert find_best_model(tmp_path).name == "xception_v1_12_0.975.h5"
    newer = saved(tmp_path, "xception_v1_08_0.975.h5")
    os.utime(newer, (2e9, 2e9))
    assert find_best_model(tmp_path) == newer


@pytest.mark.parametrize("other", [{"classes": ("a", "b", "c")}, {"split": "x,test"}])
def test_models_of_different_tasks_are_not_compared(tmp_path, other):
    models = (
        saved(tmp_path, "xception_v1_09_0.912.h5"),
        saved(tmp_path, "xception_v1_12_0.975.h5", **other),
    )
    with pytest.raises(ValueError, match="different breeds or splits; name one of") as error:
        find_best_model(tmp_path)
    assert all(str(model) in str(error.value) for model in models)


@pytest.mark.parametrize("missing", [".h5", ".npz", ".json", ".csv"])
def test_a_stray_model_is_named(tmp_path, missing):
    model = saved(tmp_path, "xception_v1_09_0.912.h5")
    model.with_suffix(missing).unlink()
    with pytest.raises(FileNotFoundError, match="run it again, or move all of them") as error:
        find_best_model(tmp_path)
    assert f"there is no {model.with_suffix(missing)}" in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"classes"'])
def test_a_damaged_report_is_named(tmp_path, content):
    model = saved(tmp_path, "xception_v1_09_0.912.h5")
    model.with_suffix(".json").write_text(content)
    with pytest.raises(ValueError, match=r"0\.912\.json is .*; run training\.py again"):
        read_report(model)


def test_names_follow_the_backbone_of_the_recipe(monkeypatch):
    assert model_name(30, 0.9661) == "xception_v1_30_0.966.h5"
    monkeypatch.setattr(recipe, "BACKBONE", "MobileNetV2")
    assert model_name(7, 1.0) == "mobilenetv2_v1_07_1.000.h5"
