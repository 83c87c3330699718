"""Breeds, annotations and splits."""

import itertools
import random
import re

import pytest
from conftest import ROOT
from planted import annotation, plant

from dog_breeds.data import dataset
from dog_breeds.serving.facts import read_facts


def test_clip_box():
    assert dataset.clip_box((-5, 3, 500, 80), 120, 90) == (0, 3, 120, 80)
    assert dataset.clip_box((10, 20, 10, 80), 120, 90) is None  # empty
    assert dataset.clip_box((70, 20, 10, 80), 120, 90) is None  # inverted
    assert dataset.clip_box((130, 20, 150, 80), 120, 90) is None  # outside


def test_annotation_is_read(tmp_path):
    path = tmp_path / "n02085936_3391"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + annotation((500, 375), [(1, 2, 30, 40), ("5.6", 6, 70, 80), ("x", 1, 2, 3)])
    )
    assert dataset.read_annotation(path) == {
        "width": 500,
        "height": 375,
        "boxes": [(1, 2, 30, 40), (6, 6, 70, 80), (0, 0, 0, 0)],
    }


def test_breed_names(tmp_path):
    assert (
        dataset.breed_name("n02085936-Maltese_dog")
        == dataset.breed_name("Maltese dog")
        == "maltese_dog"
    )
    assert dataset.breed_name("n02086240-Shih-Tzu") == dataset.breed_name("Shih-Tzu") == "shih_tzu"
    for folder in ("n02086240-Shih-Tzu", "n02085936-Maltese_dog", "n02110958-pug"):
        plant(tmp_path, "a_1", b"", b"", folder)
    (dataset.images_dir(tmp_path) / ".DS_Store").touch()
    assert list(dataset.breed_folders(tmp_path)) == ["maltese_dog", "pug", "shih_tzu"]
    assert dataset.choose_breeds(tmp_path, ["Shih-Tzu", "n02110958-pug", "pug"]) == [
        "pug",
        "shih_tzu",
    ]
    with pytest.raises(ValueError, match="maltese_dog"):
        dataset.choose_breeds(tmp_path, ["pug", "Malteze"])
    with pytest.raises(ValueError, match="unknown breed 'cat'"):
        dataset.choose_breeds(tmp_path, ["cat"])


def test_every_breed_has_a_display_name():
    breeds = read_facts(ROOT / "models/dog_breeds_120.tflite")["classes"]
    shown = [dataset.display_name(breed) for breed in breeds]
    assert len(set(shown)) == len(breeds) == 120
    assert all(
        re.fullmatch(r"[A-Z][A-Za-z]*([ -]([A-Z][a-z]+|and|des|coated))*", name) for name in shown
    ), shown
    assert set(dataset.USUAL_NAMES) <= set(breeds)
    assert not [
        breed
        for breed, name in dataset.USUAL_NAMES.items()
        if name == breed.replace("_", " ").title()
    ]


@pytest.mark.parametrize(
    ("breed", "name"),
    [
        ("great_pyrenees", "Great Pyrenees"),
        ("maltese_dog", "Maltese"),
        ("shih_tzu", "Shih Tzu"),
        ("black_and_tan_coonhound", "Black and Tan Coonhound"),
        ("bouvier_des_flandres", "Bouvier des Flandres"),
        ("soft_coated_wheaten_terrier", "Soft-coated Wheaten Terrier"),
        ("flat_coated_retriever", "Flat-coated Retriever"),
        ("german_short_haired_pointer", "German Shorthaired Pointer"),
        ("M6 screws", "M6 screws"),
        ("crème_brûlée", "crème brûlée"),
        ("iPhone_cases", "iPhone cases"),
        ("class_01", "class 01"),
        ("", ""),
    ],
)
def test_display_names(breed, name):
    assert dataset.display_name(breed) == name


def names(breed, number):
    return [f"n02000000-{breed}/n02000000_{i}.jpg" for i in range(number)]


def test_split_is_stratified_seeded_and_complete():
    images = {"pug": names("pug", 200), "akita": names("akita", 60)}
    split = dataset.split_images(images, 33)
    assert sorted(split) == sorted(images["pug"] + images["akita"])
    for breed, (train, validation, test) in {"pug": (140, 30, 30), "akita": (42, 9, 9)}.items():
        subsets = [split[image] for image in images[breed]]
        assert [subsets.count(subset) for subset in ("train", "validation", "test")] == [
            train,
            validation,
            test,
        ]
    assert dataset.split_images(images, 33) == split
    assert dataset.split_images(images, 34) != split
    assert dataset.split_images({"pug": images["pug"]} | {"akita": images["akita"]}, 33) == split


def test_two_folders_of_a_breed_are_named_and_hidden_folders_are_ignored(tmp_path):
    for folder in ("n02012849-crane", ".ipynb_checkpoints"):
        (dataset.images_dir(tmp_path) / folder).mkdir(parents=True)
    assert dataset.breed_folders(tmp_path) == {"crane": "n02012849-crane"}
    (dataset.images_dir(tmp_path) / "n03126707-crane").mkdir()
    with pytest.raises(
        ValueError, match="two folders of crane: n02012849-crane and n03126707-crane"
    ):
        dataset.breed_folders(tmp_path)


@pytest.mark.parametrize("number", [0, 3])
def test_a_breed_without_enough_crops_is_named(number):
    with pytest.raises(ValueError, match=f"akita has {number} crops, too few"):
        dataset.split_images({"pug": names("pug", 200), "akita": names("akita", number)}, 33)


def test_validation_images_come_from_the_train_rows_of_a_given_split():
    images = {"pug": names("pug", 100), "akita": names("akita", 40)}
    given = {
        image: "test" if i % 4 == 0 else "train"
        for breed in images.values()
        for i, image in enumerate(breed)
    }
    given["n02000000-pug/not_here.jpg"] = "train"
    del given[images["pug"][1]]
    split = dataset.apply_split(images, given, 33)
    assert set(split) == set(given) - {"n02000000-pug/not_here.jpg"}
    assert all((split[image] == "test") == (given[image] == "test") for image in split)
    assert [
        sum(split[i] == "validation" for i in images[breed] if i in split) for breed in images
    ] == [11, 4]
    assert dataset.apply_split(images, given, 33) == split
    assert (
        dataset.apply_split(images, split, 1) == split
    )  # a file with validation rows is followed exactly


def test_a_split_file_of_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("\ufeffimage,split,remark\na/1.jpg,train,\na/2.jpg,test,x\n", encoding="utf-8")
    assert dataset.read_split(path) == {"a/1.jpg": "train", "a/2.jpg": "test"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a/1.jpg,train\n",
        b"image,split\na/1.jpg,tarin\n",
        b"image,split\na/1.jpg\n",
        random.Random(0).randbytes(5000),
    ],
)
def test_a_bad_split_file_is_named(tmp_path, content):
    path = tmp_path / "split.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        dataset.read_split(path)


def test_an_image_in_two_splits_is_refused_with_counts(tmp_path):
    path = tmp_path / "split.csv"
    rows = ["a/1.jpg,train", "a/2.jpg,test", "a/1.jpg,test", "b/1.jpg,test", "b/1.jpg,train"]
    path.write_text("\n".join(["image,split", *rows]))
    with pytest.raises(ValueError, match=r"split\.csv lists 2 images in two splits, such as a/1"):
        dataset.read_split(path)
    path.write_text("\n".join(["image,split", *rows[:2], rows[0]]))  # the same row twice is allowed
    assert dataset.read_split(path) == {"a/1.jpg": "train", "a/2.jpg": "test"}


def test_images_of_a_split_that_do_not_exist_are_refused_with_counts(tmp_path, capsys):
    images = {"pug": names("pug", 3), "akita": names("akita", 3)}
    for image in itertools.chain(*images.values()):
        path = dataset.images_dir(tmp_path) / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    path, given = tmp_path / "split.csv", dict.fromkeys(itertools.chain(*images.values()), "train")
    folder = images["pug"][0].split("/")[0]

    def check(more: list[str], breeds: list[str], base: dict[str, str] = given) -> None:
        dataset.check_split(path, base | dict.fromkeys(more, "test"), tmp_path, breeds)

    check([], ["pug", "akita"])
    missing = [f"{folder}/missing.jpg", f"{folder}/more.jpg"]
    with pytest.raises(ValueError, match="2 of 8 images of these breeds do not exist"):
        check(missing, ["akita", "pug"])
    check(missing, ["akita"])  # of a breed that is not chosen
    assert capsys.readouterr().out == ""
    check(["n1-other/1.jpg", "n1-other/2.jpg"], ["pug"])
    assert "2 rows are of breeds that" in capsys.readouterr().out
    with pytest.raises(ValueError, match="none of its 2 images is of a breed in"):
        check(["n02085620_7.jpg", "Images/n1-a/1.jpg"], ["pug"], {})


def test_a_split_without_test_images_is_refused():
    with pytest.raises(ValueError, match="gives pug no test images"):
        dataset.apply_split({"pug": names("pug", 20)}, dict.fromkeys(names("pug", 20), "train"), 33)


def test_only_first_boxes_of_photos_that_have_a_crop_are_listed(tmp_path):
    photos, crops = tmp_path / "raw/Images/n02110958-pug", tmp_path / "processed/pug"
    for folder, stems in ((photos, "1 2 3"), (crops, "1 2 2_2 3_2")):
        folder.mkdir(parents=True)
        for stem in stems.split():
            (folder / f"n02110958_{stem}.jpg").touch()
    assert dataset.list_images(tmp_path, ["pug"]) == {
        "pug": [f"n02110958-pug/n02110958_{i}.jpg" for i in (1, 2)]
    }


def test_a_task_knows_its_images_and_their_labels(tmp_path):
    split = {"n1-b/2.jpg": "train", "n1-b/1.jpg": "test", "n0-a/3.jpg": "train"}
    split = {
        name.replace("n1", "n00000001").replace("n0-", "n00000000-"): subset
        for name, subset in split.items()
    }
    task = dataset.Task(tmp_path, ["a", "b"], split)
    assert task.images("train") == ["n00000000-a/3.jpg", "n00000001-b/2.jpg"]
    assert task.labels(task.images("train")).tolist() == [0, 1]
