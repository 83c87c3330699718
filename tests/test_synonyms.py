"""Folder names are matched with the breeds that they mean."""

import csv
import os
from pathlib import Path

import pytest
from conftest import ROOT

from dog_breeds.data.dataset import breed_name
from dog_breeds.data.synonyms import SYNONYMS, match_folders
from dog_breeds.serving.facts import read_facts

PETS_TABLE = Path(
    os.environ.get("PETS_PHOTOS", "pets"), "../photos.csv"
)  # the class of each folder, named by hand
CLASSES = read_facts(ROOT / "models/dog_breeds_120.tflite")["classes"]


def test_names_in_any_spelling():
    spellings = {
        "saint_bernard": ("St. Bernard", "st_bernard", "n02109525-Saint_Bernard", "SAINT-BERNARD"),
        "brabancon_griffon": ("Petit Brabançon", "petit_brabancon", "Brussels Griffon"),
        "german_short_haired_pointer": ("german_shorthaired", "German Short-haired Pointer"),
    }
    for name, folders in spellings.items():
        assert set(match_folders(folders, CLASSES).values()) == {name}
    others = ("american_bulldog", "Sphynx", "unknown", "", "…")
    assert set(match_folders(others, CLASSES).values()) == {None}
    assert match_folders(["St. Bernard", "pug"], ["pug"]) == {"St. Bernard": None, "pug": "pug"}
    assert match_folders(["Red Car", "redcar"], ["red_car"]) == dict.fromkeys(
        ["Red Car", "redcar"], "red_car"
    )


def test_no_name_means_two_classes():
    assert SYNONYMS.keys() <= {*CLASSES}
    for name in CLASSES:
        matched = match_folders(SYNONYMS.get(name, ()), CLASSES)
        assert set(matched.values()) <= {name}
        assert match_folders([name], CLASSES) == {name: name}


@pytest.mark.skipif(not PETS_TABLE.is_file(), reason="no photos.csv beside the folder PETS_PHOTOS")
def test_folders_of_the_pets_match_the_classes_named_by_hand():
    with open(PETS_TABLE, newline="") as file:
        listed = {row["file"].split("/")[0]: row["stanford_class"] for row in csv.DictReader(file)}
    expected = {folder: breed_name(name) if name else None for folder, name in listed.items()}
    assert match_folders(expected, CLASSES) == expected
    assert sum(map(bool, expected.values())) == 21
