"""teach.py: the folders of users, teaching, the report, and the answers of the model file."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import COMMITTED, ROOT, exit_message, make, run
from drawn_shapes import CORNERS, draw_shape, draw_shapes
from emulator import emulator
from handler_process import handler_process
from odd_images import text
from PIL import Image

import teach
from dog_breeds.clients.photo_files import SkippedFiles, list_photos
from dog_breeds.data import class_folders
from dog_breeds.data.duplicates import group_copies
from dog_breeds.learning.features import Examples
from dog_breeds.learning.heads import Classifier
from dog_breeds.learning.own_classes import teach_beside
from dog_breeds.learning.rules import Rules
from dog_breeds.learning.tflite import load_file, read_head
from dog_breeds.serving.facts import read_facts

LONG = "Ölbäume und Zypressen " + 176 * "x"  # 200 characters
SIX = [f"{i}.png" for i in range(6)]
FORBIDDEN = ("tensorflow", "keras", "torch", "jax", "tf_keras")


# --- Folders that cannot be learned ---------------------------------------------------------------


def make_folders(root: Path, folders: dict[str, list[str]]) -> Path:
    """Make folders of files. All images differ."""
    root.mkdir()
    for number, (folder, files) in enumerate(folders.items()):
        (root / folder).mkdir(parents=True)
        for file in files:
            path = root / folder / file
            if path.suffix == ".png":
                draw_shape(
                    "stars", np.random.default_rng([number, len(file), *file.encode()])
                ).save(path)
            else:
                path.write_text("no image")
    return root


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (None, "there is no folder {root}"),
        (
            {},
            "{root} holds no folder with photos; make a folder of photos for each class, "
            "at least 2",
        ),
        (
            {"cats": SIX},
            "{root} holds only the folder cats; make a folder of photos for each class, at least 2",
        ),
        ({"all/cats": SIX, "all/dogs": SIX}, "at least 2; did you mean {root}/all?"),
        ({"cats": SIX, "dogs": []}, "{root} holds only the folder cats; make a folder"),
        (
            {"cats": SIX[:1], "dogs": SIX[:1]},
            "a class needs at least 5 photos; 'cats' has 1, 'dogs' has 1",
        ),
        (
            {name: ["0.png"] for name in "abcdef"},
            "'a' has 1, 'b' has 1, 'c' has 1 and 3 more classes have too few",
        ),
        ({name: [] for name in "abcdef"}, "{root} holds no folder with photos"),
        ({"x/all/cats": SIX, "x/all/dogs": SIX}, "did you mean {root}/x/all?"),
        (
            {"train": [*SIX, "_classes.csv"], "valid": [*SIX, "_classes.csv"]},
            "{root} holds train, valid, which are no classes: the labels of the photos are in "
            "separate files (_classes.csv)",
        ),
        ({"train": SIX, "test1": SIX}, "{root} holds test1, train, which are no classes"),
        (
            {"train/images": SIX, "train/labels": ["0.txt"], "val/images": SIX},
            "{root} holds train, val, which are no classes",
        ),
        ({"images/train": SIX, "images/val": SIX, "labels/train": ["a.txt"]}, "did you mean "),
        ({"JPEGImages": SIX, "SegmentationClass": SIX}, "which are no classes"),
        ({"images": SIX, "annotations": SIX}, "{root} holds annotations, images, which are no"),
        (
            {"train/cats": SIX, "train/dogs": SIX, "birds": SIX},
            "{root} has split folders (train) beside other folders (birds)",
        ),
        (
            {"cats": SIX, "birds": SIX, "dogs": ["a.txt", "b.pdf", "c.jpg.part"]},
            "a class needs at least 5 photos; 'dogs' has 0",
        ),
        (
            {"cats/kittens": SIX, "dogs": SIX},
            "{root}/cats/kittens is a folder inside a class; if the folders in {root}/cats are",
        ),
        (
            {"cats": SIX, "dogs\n": SIX},
            "the name of the folder 'dogs?' has characters that cannot be printed",
        ),
        (
            {"cats": SIX, "dogs\udcff": SIX},
            "the name of the folder 'dogs?' has characters that cannot be printed",
        ),
        (
            {"é": SIX, "e\u0301": SIX},
            "there are two folders 'é', which differ in how accents are encoded",
        ),
        (
            {"cats": SIX, "dogs": [f"{i}.jpg" for i in range(9)]},
            "a class needs at least 5 readable photos; 'dogs' has 0",
        ),
    ],
)
def test_a_folder_that_cannot_be_learned_gets_one_clear_line(tmp_path, monkeypatch, folders, says):
    monkeypatch.setattr(teach, "seconds_per_image", lambda backbone: 0.02)
    root, output = tmp_path / "my images", tmp_path / "out" / "model.tflite"
    if folders is not None:
        make_folders(root, folders)
    assert says.format(root=root) in exit_message(
        monkeypatch, teach, "--images", root, "--output", output
    )
    assert not list(tmp_path.rglob("*.tflite")) and not list(tmp_path.rglob("*.json"))


def test_copies_of_one_image_are_too_few(tmp_path):
    root = make_folders(tmp_path / "photos", {"cats": SIX, "dogs": ["0.png"]})
    for name in SIX[1:]:
        shutil.copy(root / "dogs" / "0.png", root / "dogs" / name)
    done = run("teach.py", "--images", root, "--data-dir", tmp_path / "data", cwd=tmp_path)
    assert (
        done.returncode == 1
        and "a class needs at least 5 different photos; 'dogs' has 1" in done.stderr
    )


def test_images_of_a_camera_that_stands_still_are_no_copies(tmp_path, monkeypatch):
    """Two classes differ only in a detail, so all thumbnails are similar."""
    rng = np.random.default_rng(5)
    scene = rng.integers(0, 255, (32, 36), np.uint8)
    thumbnails = np.array(
        [(scene + rng.normal(0, 2, scene.shape)).clip(0, 255) for _ in range(24)], np.uint8
    )
    features = rng.random((24, 2048), np.float32)
    assert not group_copies(thumbnails).any()
    monkeypatch.setattr(
        teach, "features_by", lambda _, views, *more: np.resize(features, (len(views), 2048))
    )
    class_images = {name: [Path(f"{i}.png") for i in range(12)] for name in ("good", "scratched")}
    examples, upright = teach.examples_of(class_images, thumbnails, teach.BACKBONE, tmp_path, 1000)
    assert (examples.images == np.arange(24)).all() and (
        upright.images == np.tile(np.arange(24), 2)
    ).all()


def test_copies_among_images_of_a_camera_that_stands_still_are_one_image(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    scene = rng.integers(0, 255, (32, 36), np.uint8)
    thumbnails = np.array(
        [(scene + rng.normal(0, 2, scene.shape)).clip(0, 255) for _ in range(24)], np.uint8
    )
    thumbnails, features = (
        thumbnails.repeat(2, axis=0),
        rng.random((24, 2048), np.float32).repeat(2, axis=0),
    )
    monkeypatch.setattr(
        teach, "features_by", lambda _, views, *more: np.resize(features, (len(views), 2048))
    )
    class_images = {name: [Path(f"{i}.png") for i in range(24)] for name in ("good", "scratched")}
    examples, _ = teach.examples_of(class_images, thumbnails, teach.BACKBONE, tmp_path, 0)
    assert examples.images.tolist() == np.arange(0, 48, 2).repeat(2).tolist()


@pytest.mark.parametrize("name", ["قطط\u200cسود", "柴犬\u3000子犬", "chat\u00a0noir"])
def test_names_of_any_language(tmp_path, name):
    assert name in class_folders.list_class_images(
        make_folders(tmp_path / "photos", {name: SIX, "b": SIX})
    )


SPLITS = {
    "Roboflow": ["train/{}", "valid/{}", "test/{}"],
    "ultralytics": ["train/{}", "val/{}"],
    "only train": ["train/{}"],
    "Kaggle": ["training_set/{}", "test_set/{}"],
    "within itself": ["seg_train/seg_train/{}", "seg_test/seg_test/{}"],
    "capitals": ["Train/{}", "Validation/{}", "Testing/{}"],
    "with another": ["train/data/{}", "test/data/{}"],
    "with a name before": ["asl_alphabet_train/asl_alphabet_train/{}", "asl_alphabet_test/{}"],
    "folds": ["fold1/{}", "fold2/{}", "fold_3/{}"],
}


@pytest.mark.parametrize("layout", SPLITS)
def test_the_parts_of_a_split_are_taken_together(tmp_path, capsys, layout):
    folders = {
        place.format(name): [f"{name}_{i}.png" for i in range(2)] + ["same.png"]
        for place in SPLITS[layout]
        for name in ("cats", "dogs")
    }
    root = make_folders(tmp_path / "photos", folders)
    (root / "README.roboflow.txt").write_text("no photo")
    (root / "New folder").mkdir()
    found = class_folders.list_class_images(root)
    parts = len(SPLITS[layout])
    assert {name: len(paths) for name, paths in found.items()} == dict.fromkeys(
        ("cats", "dogs"), 3 * parts
    )
    said = capsys.readouterr().out
    assert "the folders of the same class are combined" in said
    assert all(place.split("/")[0] in said for place in SPLITS[layout])
    if layout == "Kaggle":
        names = teach.names_of(found)
        assert "cats/training_set/same.png" in names and len(set(names)) == len(names)


def test_images_of_a_split_that_are_of_no_class_are_left_out(tmp_path, capsys):
    folders = {"train/cats": SIX, "train/dogs": SIX, "test/unknown": SIX, "val/dogs": SIX}
    root = make_folders(tmp_path / "a", folders)
    found = class_folders.list_class_images(root)
    assert {name: len(paths) for name, paths in found.items()} == {"cats": 6, "dogs": 12}
    assert f"left out: {root}/test/unknown, whose photos have no class" in capsys.readouterr().out
    folders = {f"{part}/{name}": SIX for part in ("Training", "Test") for name in ("a", "b")}
    root = make_folders(tmp_path / "c", folders | {"test-multiple_fruits": SIX, "c/Test/a": SIX})
    found = class_folders.list_class_images(root)
    assert {name: len(paths) for name, paths in found.items()} == {"a": 12, "b": 12}
    said = capsys.readouterr().out
    assert f"left out: {root}/test-multiple_fruits, which is no part of the split" in said
    assert f"left out: {root}/c, which is no part of the split" in said
    root = make_folders(tmp_path / "b", {"train/cats": SIX, "train/dogs": SIX, "test": SIX})
    assert class_folders.list_class_images(root).keys() == {"cats", "dogs"}
    assert f"left out: {root}/test, whose photos have no class" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train", "bullet_train", "valid", "images", "labels", "Test kit"])
def test_a_class_may_have_the_name_of_a_part(tmp_path, name):
    root = make_folders(tmp_path / "photos", {name: SIX, "ship": SIX})
    assert class_folders.list_class_images(root).keys() == {name, "ship"}


def test_what_systems_leave_in_folders_is_no_image_and_is_told(tmp_path, capsys):
    root = make_folders(tmp_path / "photos", {"cats": SIX, "dogs": SIX})
    places = ["__MACOSX/cats", "@eaDir/0.png", "cats/@eaDir/0.png", "dogs/#recycle", ".thumbnails"]
    for place in [*places, "cats/.picasaoriginals", "$RECYCLE.BIN", "dogs/New folder"]:
        (root / place).mkdir(parents=True)
        if not place.endswith("New folder"):
            shutil.copy(root / "cats/0.png", root / place / "SYNOPHOTO_THUMB_M.jpg")
    (root / "New folder").mkdir()
    (root / "New folder (2)").mkdir()
    (root / "New folder (2)" / ".DS_Store").write_text("")
    for name in ("cats/._0.png", "cats/Thumbs.db", "dogs/desktop.ini", "dogs/0.xmp", ".DS_Store"):
        (root / name).write_text("no image")
    shutil.copy(root / "cats/0.png", root / "loose.jpg")
    (root / "felines").symlink_to(root / "cats")
    shutil.copy(root / "cats/0.png", root / "cats/camera.HIF")
    shutil.copy(root / "cats/0.png", root / "cats/scan.tiff")
    found = class_folders.list_class_images(root)
    assert [path.name for path in found["cats"]] == [*SIX, "camera.HIF", "scan.tiff"]
    assert [path.name for path in found["dogs"]] == SIX and found.keys() == {"cats", "dogs"}
    said = capsys.readouterr().out
    assert f"left out: {root}/New folder, which is empty" in said
    assert f"left out: {root}/New folder (2), which is empty" in said
    assert f"left out: {root}/felines, a link to another of these folders" in said
    assert f"left out: 1 photo in {root} itself" in said
    assert all(name in said for name in ("__MACOSX", "@eaDir 2", "#recycle", "$RECYCLE.BIN"))
    assert "3 files whose names are not those of photos (.db, .ini, .xmp)" in said
    photos = SkippedFiles()
    names = list(list_photos(root, photos))
    assert len(names) == 15 and not any("@" in name or "SYNO" in name for name in names)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--output", "model.h5"], "--output must be a .tflite file"),
        (["--output", str(teach.BACKBONE)], "a .tflite file other than"),
        (
            ["--output", str(teach.BACKBONE / "model.tflite")],
            "is a file, not a folder",
        ),
        (["--backbone", "missing.tflite"], "missing.tflite"),
        (["--backbone", "README.tflite"], "README.tflite is damaged, or was not made by"),
    ],
)
def test_a_wrong_option_is_told_before_anything_takes_long(tmp_path, monkeypatch, options, says):
    root = make_folders(tmp_path / "photos", {"cats": SIX, "dogs": SIX})
    shutil.copy(ROOT / "README.md", tmp_path / "README.tflite")
    monkeypatch.chdir(tmp_path)
    assert says in exit_message(monkeypatch, teach, "--images", root, *options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.tflite", "photos"]


@pytest.mark.parametrize("content", ["{}", "[1]", "no JSON", '{"classes": ["cats"]}'])
def test_a_file_that_is_no_report_is_not_written_over(tmp_path, monkeypatch, content):
    root = make_folders(tmp_path / "photos", {"cats": SIX, "dogs": SIX})
    (tmp_path / "model.json").write_text(content)
    said = exit_message(monkeypatch, teach, "--images", root, "--output", tmp_path / "model.tflite")
    assert f"{tmp_path}/model.json exists, but is not a report of teach.py; name another" in said
    assert (tmp_path / "model.json").read_text() == content


@pytest.mark.parametrize("fact", ["photo_share", "training_data", "turn_rule"])
def test_a_file_to_add_to_that_lacks_a_fact(tmp_path, monkeypatch, fact):
    root, kept = make_folders(tmp_path / "photos", {"cats": SIX}), read_facts(COMMITTED)
    monkeypatch.setattr(
        teach, "read_facts", lambda file: {name: kept[name] for name in kept if name != fact}
    )
    words = "--images", root, "--add", COMMITTED, "--output", tmp_path / "model.tflite"
    assert f"has no {fact}; convert it again" in exit_message(monkeypatch, teach, *words)


def test_classes_beside_those_of_a_file_without_names_for_people():
    kept = read_facts(COMMITTED)
    del kept["display_names"]
    rules = Rules(1.0, 0.5, None, 0.95, "no photo")
    classifier = Classifier([], rules, np.zeros((11, 2)), [], 0.9)
    result = {"unknown_rule": {}, "pictures": 6, "accuracy": 1.0, "accuracy_interval_95": [0, 1]}
    facts = teach.facts_of({"my_cat": []}, kept, COMMITTED, classifier, result, Path("photos"))
    assert facts["classes"] == [*kept["classes"], "my_cat"]
    assert facts["display_names"]["great_pyrenees"] == "Great Pyrenees"
    assert facts["display_names"]["my_cat"] == "My Cat"


def test_images_of_any_kind_are_read_and_the_others_named(tmp_path):
    root = make_folders(tmp_path / "photos", {"a": SIX, "b": [*SIX, "notes.txt"]})
    image = draw_shape("circles", np.random.default_rng(9))
    for name in ("photo.JPG", "p.jpeg", "p.webp", "p.avif", "p.gif", "p.bmp"):
        image.save(root / "a" / name)
    (root / "a" / "link.png").symlink_to(root / "b" / "0.png")
    (root / "a" / "broken.png").symlink_to(root / "nowhere.png")
    (root / "a" / "loop.png").symlink_to(root / "a" / "loop.png")
    whole = (root / "a" / "photo.JPG").read_bytes()
    (root / "b" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "b" / "text.jpg").write_text("a dog")
    (root / "b" / "huge.png").write_bytes(
        (root / "b" / "0.png").read_bytes()[:16] + b"\0\0\xff\xff\0\0\xff\xff\x08\2\0\0\0"
    )
    os.rename(root / "b" / "5.png", root / "b" / "\x1b[2J\udcff.png")
    linked = tmp_path / "linked"
    linked.symlink_to(root)

    readable, thumbnails, wrong = class_folders.inspect_images(
        class_folders.list_class_images(linked)
    )
    names = {path.name for path in readable["a"]}
    assert names == {*SIX, "photo.JPG", "p.jpeg", "p.webp", "p.avif", "p.gif", "p.bmp", "link.png"}
    assert len(readable["b"]) == 6 and len(thumbnails) == 19 and thumbnails.shape[1:] == (32, 36)
    left_out = {name.rpartition("/")[2]: why for name, why in wrong.items()}
    assert left_out.keys() == {"broken.png", "loop.png", "truncated.jpg", "text.jpg", "huge.png"}
    assert left_out["broken.png"] == f"there is no file {linked / 'a' / 'broken.png'}"
    assert "cut off" in left_out["truncated.jpg"] and left_out["text.jpg"].startswith(
        "it is not an image in a known format"
    )
    assert "b/?[2J?.png" in teach.names_of(readable)


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    root = make_folders(tmp_path / "photos", {"cats": SIX, "dogs": SIX})
    monkeypatch.setattr(teach, "seconds_per_image", lambda backbone: 0.02)
    monkeypatch.setattr(teach, "examples_of", interrupt)
    said = exit_message(monkeypatch, teach, "--images", root, "--output", tmp_path / "model.tflite")
    assert said == "teach.py: stopped; the same command continues from the features computed so far"
    assert not list(tmp_path.glob("model.*"))


def test_to_a_head_with_an_inner_layer_nothing_is_added():
    old = Classifier([np.zeros(1)] * 4, Rules(1.0, 0.5, None, 0.9, "none"), np.eye(2), [], 0.0)
    with pytest.raises(ValueError, match="has an inner layer, to which nothing can be added"):
        teach_beside(Examples(np.eye(2), np.arange(2), np.arange(2)), old, 0)


def test_heic_photos_are_read_where_pillow_heif_is_there(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    root = make_folders(tmp_path / "photos", {"a": SIX, "b": SIX})
    draw_shape("circles", np.random.default_rng(9)).save(root / "a" / "IMG_0001.HEIC")
    readable, _, wrong = class_folders.inspect_images(class_folders.list_class_images(root))
    assert root / "a" / "IMG_0001.HEIC" in readable["a"] and not wrong


# --- A folder that is learned ---------------------------------------------------------------------


class Taught(NamedTuple):
    """The files and the output of a run of teach.py."""

    images: Path
    data_dir: Path
    file: Path
    output: str

    @property
    def report(self) -> dict:
        return json.loads(self.file.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Taught:
    """Teach five shapes with ten images each, and with the mistakes that real folders have.

    The run is killed once and started again. Libraries for gradients cannot be imported in it.
    """
    folder = tmp_path_factory.mktemp("teach")
    images, file, data_dir = (
        draw_shapes(folder / "my shapes", 10),
        folder / "my shapes.tflite",
        folder / "data",
    )
    (images / "squares").rename(images / LONG)
    shutil.copy(images / "stars" / "3.png", images / "circles" / "a star.png")  # in two classes
    Image.open(images / "crosses" / "2.png").resize((300, 225)).save(
        images / "crosses" / "copy of 2.jpg", quality=90
    )
    draw_shape("stars", np.random.default_rng(77)).save(images / "triangles" / "wrong.png")
    photo = (images / "crosses" / "copy of 2.jpg").read_bytes()
    (images / "crosses" / "half.jpg").write_bytes(photo[: len(photo) // 2])
    (images / "stars" / "notes.txt").write_text("all mine")

    for name in FORBIDDEN:
        (folder / "forbidden" / name).mkdir(parents=True)
        (folder / "forbidden" / name / "__init__.py").write_text(
            f"raise ImportError('{name} must not be needed')"
        )
    code = (
        "import sys; from dog_breeds import recipe; recipe.ROWS_PER_SHARD = 8; import teach; "
        "teach.main()"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "--images",
        images,
        "--output",
        file,
        "--data-dir",
        data_dir,
    ]
    env = {**os.environ, "PYTHONPATH": f"{folder / 'forbidden'}:{ROOT}"}
    first = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while first.poll() is None and not list(data_dir.rglob("[!.]*.npz")):
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -9, "it ended by itself"
    assert not file.exists() and not file.with_suffix(".json").exists()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return Taught(images, data_dir, file, done.stdout)


@pytest.fixture(scope="module")
def fresh() -> list[tuple[str, Image.Image]]:
    """Return the class and the image of shapes on which nothing was trained."""
    rng = np.random.default_rng(99)
    return [
        (LONG if kind == "squares" else kind, draw_shape(kind, rng))
        for kind in CORNERS
        for _ in range(6)
    ]


def test_goes_on_where_it_was_killed_and_names_what_is_left_out(taught):
    cached, views = map(
        int, re.search(r"features: (\d+) of (\d+) views from the cache", taught.output).groups()
    )
    # 54 images: one is damaged, and two are the same file, but are turned by different angles
    assert views == 52 + 53 and 8 <= cached < views
    first, second = taught.output.splitlines()[:2]
    assert first == f"left out in {taught.images}: 1 file whose name is not that of a photo (.txt)"
    assert re.fullmatch(
        r"5 classes, 54 images: their features take about \d+ (seconds|minutes), once", second
    )
    assert (
        f"left out: {taught.images}/crosses/half.jpg: it is cut off: its last part is missing"
        in taught.output
    )
    assert not [path for path in taught.file.parent.rglob("*") if ".part" in path.name]


def test_the_report_names_the_images_that_are_in_question(taught):
    report = taught.report
    assert report["classes"] == ["circles", "crosses", "stars", "triangles", LONG]
    assert [sorted(group) for group in report["copies"]] == [
        ["circles/a star.png", "stars/3.png"],
        ["crosses/2.png", "crosses/copy of 2.jpg"],
    ]
    assert list(report["left_out"]) == [f"{taught.images}/crosses/half.jpg"]
    result = report["cross_validation"]
    mistakes = {entry["picture"] for pair in result["confusions"] for entry in pair["pictures"]}
    assert {"circles/a star.png", "triangles/wrong.png"} <= mistakes  # they are in the wrong folder
    assert (
        result["pictures"] == 53
        and sum(pair["count"] for pair in result["confusions"]) == len(mistakes) <= 6
    )
    assert result["accuracy"] == pytest.approx(1 - len(mistakes) / 53)
    assert (
        result["accuracy_interval_95"][0] < result["accuracy"] < result["accuracy_interval_95"][1]
    )
    assert np.sum(result["confusion_matrix"]) == 53 and set(result["recall"]) == set(
        report["classes"]
    )
    said = taught.output[taught.output.index("accuracy in") :]
    assert "circles/a star.png = stars/3.png" in said and "copies within a class: 1," in said
    assert all(len(line) <= 100 for line in said.splitlines() if ".tflite" not in line)


def test_the_file_has_the_features_of_its_backbone(taught, fresh):
    new, old = load_file(taught.file), load_file(teach.BACKBONE)
    for _, image in fresh[::3]:
        pixels = np.asarray(image.resize((299, 299)))
        ours, backbone = new(pixels), old(pixels)
        assert all((ours[name] == backbone[name]).all() for name in ("features", "map"))


def test_the_handler_serves_it_and_tells_shapes_apart(taught, fresh):
    facts = read_facts(taught.file)
    assert facts["display_names"].keys() == set(facts["classes"]) and "dogs" not in json.dumps(
        facts["training_data"]
    )
    with handler_process(taught.file) as ask:
        events = [{"image": text(image, format="PNG")} for _, image in fresh]
        answers = [ask(event).answer for event in events]
    right = sum(
        next(iter(answer["prediction"])) == kind
        for (kind, _), answer in zip(fresh, answers, strict=True)
    )
    assert right >= 26  # of 30
    assert sum(answer["known"] for answer in answers) >= 24
    with emulator(taught.file) as stack:
        assert stack.invoke(events[0]) == answers[0]


def test_the_clients_take_it(taught, fresh, tmp_path):
    kind, image = fresh[12]
    image.save(tmp_path / "photo.png")
    done = run("test.py", "--model", taught.file, "--file", tmp_path / "photo.png")
    assert done.returncode == 0 and f"{kind} " in done.stdout, done.stderr
    shown = run("convert_model.py", "--show", taught.file)
    assert shown.returncode == 0, shown.stderr
    assert f"5 classes: circles, crosses, stars, triangles, {LONG}" in shown.stdout
    assert (
        re.search(r"cross-validation: \d\d.\d% of 53 images", shown.stdout)
        and '"my shapes"' in shown.stdout
    )


def test_classes_are_added_beside_those_of_a_file(taught, fresh, tmp_path):
    """The classes are added to those of the committed file, without its images. Its part of the
    head does not change.
    """
    for kind in ("circles", "stars"):
        (tmp_path / "more" / kind).mkdir(parents=True)
        for path in (taught.images / kind).glob("[0-9].png"):
            (tmp_path / "more" / kind / path.name).symlink_to(path)
    file, old = tmp_path / "more.tflite", teach.BACKBONE
    words = "--images", tmp_path / "more", "--data-dir", taught.data_dir
    done = run("teach.py", *words, "--add", old, "--output", file)
    assert done.returncode == 0 and "of 20 added images" in done.stdout, done.stderr
    classes = read_facts(old)["classes"]
    assert read_facts(file)["classes"] == [*classes, "circles", "stars"]
    assert read_facts(file)["training_data"]["beside"] == read_facts(old)["training_data"]
    (kernel, bias), means, upright = read_head(file)
    (old_kernel, old_bias), old_means, old_upright = read_head(old)
    assert all((new == same).all() for new, same in zip(upright, old_upright, strict=True))
    n = len(classes)
    assert (kernel[:, :n] == old_kernel).all() and (bias[:n] == old_bias).all()
    assert (means[:n].astype(np.float16) == old_means.astype(np.float16)).all()
    rule, old_rule = read_facts(file)["unknown_rule"], read_facts(old)["unknown_rule"]
    assert rule["score"] == old_rule["score"] and rule["threshold"] <= old_rule["threshold"]
    assert ("candidates" in read_facts(file)) == ("candidates" in read_facts(old))
    answer, right = load_file(file), []
    for kind, image in fresh:
        if kind in ("circles", "stars"):
            guess = answer(np.asarray(image.resize((299, 299))))["probabilities"].argmax()
            right.append(read_facts(file)["classes"][guess] == kind)
    assert np.mean(right) > 0.9
    again = run("teach.py", *words, "--add", file, "--output", tmp_path / "no.tflite")
    assert again.returncode == 1
    assert "more.tflite has a class 'circles' already; give yours another name" in again.stderr


def test_runs_in_the_small_environment_and_gives_the_same(taught, tmp_path):
    """The small environment is that of `make teach`, without TensorFlow. The features come from the
    cache, and the head is the same.
    """
    if make(".venv-serving/installed").returncode:
        pytest.skip("the packages of requirements-serving.txt cannot be installed here")
    file = tmp_path / "again.tflite"
    command = [
        ROOT / ".venv-serving/bin/python",
        ROOT / "teach.py",
        "--images",
        taught.images,
        "--output",
        file,
    ]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, "--data-dir", taught.data_dir], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "features: 105 of 105 views from the cache" in done.stdout
    (weights, means, upright), (old_weights, old_means, old_upright) = (
        read_head(file),
        read_head(taught.file),
    )
    for new, old in zip(
        [*weights, means, *upright], [*old_weights, old_means, *old_upright], strict=True
    ):
        assert new == pytest.approx(
            old, abs=1e-3
        )  # another version of NumPy may add in another order


def test_training_takes_a_folder_too(taught, tmp_path):
    words = "--images", taught.images, "--output-dir", tmp_path
    done = run("training.py", *words, "--data-dir", taught.data_dir)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "my_classes.json").read_text())
    assert report["cross_validation"] == taught.report["cross_validation"]
    wrong = run("training.py", *words, "--quick")
    assert wrong.returncode == 2 and "--images goes without" in wrong.stderr
