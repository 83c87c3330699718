"""convert_model.py --refit: other rules from photos from elsewhere, the same network otherwise."""

import shutil

import numpy as np
import pytest
from conftest import COMMITTED, exit_message
from PIL import Image

import convert_model
from dog_breeds import recipe
from dog_breeds.learning.tflite import load_file
from dog_breeds.serving.facts import read_facts

FOLDERS = {"Leonberger": 4, "maltese": 3, "Samoyed": 3, "havanese": 2}  # fitted: the first two


@pytest.fixture
def photos(tmp_path):
    """A folder of images by breed: noise, which the network answers somehow."""
    rng = np.random.default_rng(0)
    for folder, number in FOLDERS.items():
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for i in range(number):
            noise = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            noise.save(tmp_path / "photos" / folder / f"{i}.png")
    return tmp_path / "photos"


def refit(monkeypatch, tmp_path, file, photos, output) -> str | None:
    """Run the command in this process; return the line with which it ends after an error."""
    words = ["--refit", file, "--outside", photos, "--output", output, "--data-dir", tmp_path]
    return exit_message(monkeypatch, convert_model, *words)


def test_only_the_rules_change(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "OUTSIDE_PHOTOS", 7)
    monkeypatch.setattr(recipe, "OUTSIDE_CLASSES", 2)
    new = tmp_path / "new.tflite"
    assert refit(monkeypatch, tmp_path, COMMITTED, photos, new) is None
    assert "havanese, unknown: " in capsys.readouterr().out
    old_facts, facts = read_facts(COMMITTED), read_facts(new)
    assert facts["unknown_rule"]["fitted_on"].startswith("7 photos of 2 classes in ")
    assert facts["unknown_rule"]["score"] == "logit" and 0 < facts["candidates"]["threshold"] <= 0.5
    assert facts["temperature"] != old_facts["temperature"]
    assert facts["classes"] == old_facts["classes"]
    assert facts["backbone_sha256"] == old_facts["backbone_sha256"]
    # The file keeps the accuracy, but no results that were measured with the old rules
    assert "compared_with_keras" not in facts
    kept, before = facts["test"]["crops"], old_facts["test"]["crops"]
    assert kept["accuracy"] == before["accuracy"] and "taken_as_known" not in kept

    pixels = np.random.default_rng(1).integers(0, 256, (299, 299, 3), dtype=np.uint8)
    old_answer, answer = (load_file(file)(pixels) for file in (COMMITTED, new))
    assert (answer["features"] == old_answer["features"]).all()
    logits, old_logits = (np.log(output["probabilities"]) for output in (answer, old_answer))
    spread, old_spread = logits - logits.mean(), old_logits - old_logits.mean()
    ratio = old_facts["temperature"] / facts["temperature"]
    np.testing.assert_allclose(spread, old_spread * ratio, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_refitted_is_said(photos, tmp_path, monkeypatch):
    copy = tmp_path / "copy.tflite"
    shutil.copy(COMMITTED, copy)
    assert "a .tflite file other than" in refit(monkeypatch, tmp_path, copy, photos, copy)
    few = refit(monkeypatch, tmp_path, copy, photos, tmp_path / "new.tflite")
    assert "new.tflite is not written" in few and "too few photos of its classes" in few
    assert not (tmp_path / "new.tflite").exists()
    assert copy.read_bytes() == COMMITTED.read_bytes()
