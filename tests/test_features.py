"""Views of images, their features from the backbone, and the cache of features."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from conftest import FEW, ROOT, SIZE
from handler_process import run_python
from PIL import Image

from dog_breeds import recipe
from dog_breeds.data import dataset
from dog_breeds.data.dataset import processed_dir
from dog_breeds.learning import features
from dog_breeds.learning.features import View
from dog_breeds.learning.tflite import cut_backbone, join_head, load_file
from dog_breeds.serving.facts import read_facts


@pytest.fixture
def lab(small, tmp_path) -> Path:
    """Return a data folder with crops of three demo breeds and the backbone for SIZE pixels. The
    cache of features is empty.
    """
    data_dir = small.task.data_dir
    for name in ("raw", f"processed_{SIZE}", "weights"):
        shutil.copytree(data_dir / name, tmp_path / name, copy_function=os.link)
    shutil.copy(small.task.backbone, backbone_of(tmp_path))
    return tmp_path


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Return a list to which each call of the backbone appends its number of images."""
    rows, run_file = [], features.run_file

    def counting(file, views, *rest):
        rows.append(len(views))
        return run_file(file, views, *rest)

    monkeypatch.setattr(features, "run_file", counting)
    return rows


def backbone_of(lab):
    """Return the model file with the backbone."""
    return lab / "backbone.tflite"


def extract(views, lab):
    """Return the features of the views from this backbone."""
    return features.features_by(backbone_of(lab), views, lab / "features")


def crops(data_dir, number):
    files = sorted(processed_dir(data_dir, SIZE).glob("*/*.jpg"))
    return [View(file) for file in features.evenly_spaced(files, number)]


def shards(data_dir):
    return sorted((data_dir / "features").glob("*/[!.]*.npz"))


# --- Views ----------------------------------------------------------------------------------------


def save(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def dot(path, x, y, size=200):
    """Save an image with one bright spot around the point x, y; return its path."""
    rows, columns = np.mgrid[:size, :size]
    spot = 255 * np.exp(-((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2) / 50)
    return save(path, np.repeat(spot[..., None], 3, 2))


def centre(pixels):
    """Return the position of the spot, x and y."""
    weight = pixels[..., 0].astype(float)
    weight[weight < 20] = 0
    rows, columns = np.mgrid[: len(weight), : len(weight)]
    return (
        np.array([(weight * (columns + 0.5)).sum(), (weight * (rows + 0.5)).sum()]) / weight.sum()
    )


@pytest.mark.parametrize("angle", [-10, -3.3, 5, 10])
def test_rotation_turns_by_exactly_the_angle(tmp_path, angle):
    path = dot(tmp_path / "dot.png", 170, 100)
    x, y = centre(features.load_pixels(View(path, angle=angle), 200)) - 100
    assert np.hypot(x, y) == pytest.approx(70, abs=0.3)
    # Pillow rotates counter-clockwise
    assert np.degrees(np.arctan2(-y, x)) == pytest.approx(angle, abs=0.15)


def test_rotation_fills_corners_with_the_mirrored_image(tmp_path):
    white = save(tmp_path / "white.png", np.full((200, 200, 3), 255))
    assert features.load_pixels(View(white, angle=recipe.MAX_ROTATION), 200).min() == 255

    ramp = np.repeat(np.linspace(40, 200, 200)[:, None, None], 200, 1).repeat(3, 2)
    turned = features.load_pixels(View(save(tmp_path / "ramp.png", ramp), angle=10.0), 200)
    assert turned.min() >= 39  # the edge has 40, and its mirrored pixels are brighter
    assert turned.max() <= 201


def test_flip_mirrors_left_and_right(tmp_path):
    path = save(tmp_path / "noise.png", np.random.default_rng(0).integers(0, 256, (90, 90, 3)))
    plain, flipped = (features.load_pixels(View(path, flip=flip), 90) for flip in (False, True))
    assert plain.shape == (90, 90, 3)
    assert plain.dtype == np.uint8
    assert (flipped == plain[:, ::-1]).all()
    assert (flipped != plain).any()


def test_of_a_whole_photo_the_central_part_is_seen(tmp_path):
    image = "n02110958-pug/n02110958_1.jpg"
    path = tmp_path / "raw/Images" / image
    path.parent.mkdir(parents=True)
    photo = np.full((400, 800, 3), 255)
    left = round(800 * (1 - recipe.PHOTO_SHARE) / 2)
    top = round(400 * (1 - recipe.PHOTO_SHARE) / 2)
    photo[top : 400 - top, left : 800 - left] = 30
    Image.fromarray(photo.astype(np.uint8)).save(path, quality=95)
    inner = features.load_pixels(
        features.photo_view(dataset.Task(tmp_path, ["pug"], {}), image), 100
    )
    assert inner[2:-2, 2:-2].max() < 60
    assert features.load_pixels(View(path), 100)[0].min() > 200


def test_training_views_are_seeded_augmentations_of_crops_and_photos(tmp_path):
    images = [f"n02000000-pug/n02000000_{i}.jpg" for i in range(300)]
    task = dataset.Task(tmp_path, ["pug"], {}, seed=33)
    views = features.training_views(task, images)
    assert len(views) == (recipe.CROP_VIEWS + recipe.PHOTO_VIEWS) * len(images)
    angles = np.array([view.angle for view in views])
    assert np.abs(angles).max() <= recipe.MAX_ROTATION == 10
    assert np.abs(angles).max() > 9.5
    assert abs(angles.mean()) < 1
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6
    plain = [view._replace(flip=False, angle=0.0) for view in views]
    crops, photos = (
        [view(task, i) for i in images] for view in (features.crop_view, features.photo_view)
    )
    assert plain == crops * recipe.CROP_VIEWS + photos * recipe.PHOTO_VIEWS
    assert features.training_views(task, images) == views
    assert features.training_views(replace(task, seed=34), images) != views


# --- Features -------------------------------------------------------------------------------------


def test_features_are_those_of_one_interpreter_in_order(lab):
    views = [
        view._replace(angle=angle, flip=angle < 0)
        for view in crops(lab, 20)
        for angle in (0.0, -8.5)
    ]
    run = load_file(backbone_of(lab))
    expected = [run(features.load_pixels(view, SIZE))["features"] for view in views]
    rows = extract(views, lab)
    assert rows.dtype == np.float32 and rows.std() > 0.1
    assert (rows == expected).all()


def test_each_view_passes_the_backbone_once(lab, passes):
    views = crops(lab, 20)
    rows = extract(views, lab)
    more = extract([*views[::-1], views[3], views[0]._replace(flip=True)], lab)
    assert passes == [20, 1]
    assert (more[:20] == rows[::-1]).all()
    assert (more[20] == rows[3]).all()
    assert np.abs(more[21] - rows[0]).max() > 0.01


def test_a_changed_image_is_computed_again_and_nothing_else(lab, passes):
    views = crops(lab, 18)
    rows = extract(views, lab)
    views[5].path.unlink()  # a hard link: the file of the other tests stays
    Image.new("RGB", (299, 299), "red").save(views[5].path)
    again = extract(views, lab)
    assert passes == [18, 1]
    others = np.arange(18) != 5
    assert (again[others] == rows[others]).all()
    assert np.abs(again[5] - rows[5]).max() > 0.1


def test_files_with_the_same_backbone_share_the_cache(lab, passes):
    views, backbone = crops(lab, 3), backbone_of(lab)
    rows, bare = extract(views, lab), cut_backbone(backbone.read_bytes())
    assert backbone.read_bytes() != bare, "it has facts"
    for classes in (0, 2, 5):
        arrays = [np.ones((2048, classes), np.float32), np.ones(classes, np.float32)]
        upright = [np.ones((2048, 1), np.float32), np.ones(1, np.float32)]
        means = np.ones((classes, 2048), np.float32)
        backbone.write_bytes(join_head(bare, arrays, means, upright) if classes else bare)
        assert (extract(views, lab) == rows).all()
    assert passes == [3, 0, 0, 0]


def test_another_backbone_has_a_cache_of_its_own(lab, passes):
    views, backbone = crops(lab, 3), backbone_of(lab)
    rows, bare = extract(views, lab), cut_backbone(backbone.read_bytes())
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(bare))
    weights = [buffer.data for buffer in model.buffers if buffer.data is not None]
    max(weights, key=len)[:1000] = 7
    backbone.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    assert (extract(views, lab) != rows).any()
    assert passes == [3, 3]


def small_task(data_dir):
    return dataset.Task(
        data_dir,
        FEW,
        dataset.split_images(dataset.list_images(data_dir, FEW, SIZE), recipe.SEED),
        SIZE,
    )


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_extraction_goes_on_where_it_was(lab, passes, ending):
    code = f"""
import signal, sys, time, training
from dog_breeds.learning import features
from dog_breeds import recipe
# SIGINT is ignored where the tests run in the background
signal.signal(signal.SIGINT, signal.default_int_handler)
recipe.ROWS_PER_SHARD = 16
load = features.load_pixels
features.load_pixels = lambda *view: time.sleep(0.02) or load(*view)  # else it is over too soon
words = ["--data-dir", {str(lab)!r}, "--breeds", *{FEW}, "--output-dir", {str(lab)!r}]
words += ["--backbone", {str(backbone_of(lab))!r}]
sys.argv = ["training.py", *words]
training.main()
"""
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while len(shards(lab)) < 2 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(ending)
    message = process.communicate()[1]
    if ending == signal.SIGINT:
        assert (process.returncode, message) == (
            1,
            "training.py: stopped; the same command continues from the features computed so far\n",
        )
    done = sum(len(np.load(shard)["keys"]) for shard in shards(lab))
    task = small_task(lab)
    views = features.training_views(task, task.images("train"))
    assert 32 <= done < len(views)
    rows = extract(views, lab)
    assert passes == [len(views) - done]
    shutil.rmtree(lab / "features")
    assert (extract(views, lab) == rows).all()


def test_keras_settings_of_the_user_do_not_matter(tmp_path):
    settings = {"backend": "torch", "image_data_format": "channels_first", "floatx": "float16"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = "from dog_breeds.learning.xception import keras; settings = keras.config\n"
    code += "print(keras.backend.backend(), settings.image_data_format(), settings.floatx())"
    done = run_python(code, KERAS_HOME=str(tmp_path), KERAS_BACKEND="jax")
    assert done.stdout.split() == ["tensorflow", "channels_last", "float32"], done.stderr


def test_damaged_shards_are_computed_again(lab, passes, monkeypatch):
    monkeypatch.setattr(recipe, "ROWS_PER_SHARD", 16)
    views = [view._replace(flip=flip) for view in crops(lab, 24) for flip in (False, True)]
    rows = extract(views, lab)
    first, second, third = shards(lab)
    first.write_bytes(first.read_bytes()[:5000])
    second.write_bytes(b"")
    assert (extract(views, lab) == rows).all()
    assert passes == [48, 32]
    assert len(shards(lab)) >= 2

    rng = np.random.default_rng(0)
    whole = third.read_bytes()
    for position in [
        *rng.integers(0, len(whole), 5),
        *rng.integers(0, 1000, 5),
        *-rng.integers(1, 300, 5),
    ]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        third.write_bytes(damaged)
        assert (extract(views, lab) == rows).all()


def test_a_broken_image_is_named(lab, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(crops(lab, 1)[0].path.read_bytes()[:3000])
    with pytest.raises(OSError, match=re.escape(str(broken))):
        extract([*crops(lab, 2), View(broken)], lab)


def test_a_new_backbone_says_from_what_it_was_made(small):
    task, facts = small.task, read_facts(small.task.backbone)
    views = features.calibration_views(task)
    assert facts["classes"] == [] and facts["input"]["height"] == SIZE == task.size
    calibration = facts["provenance"]["calibration"]
    assert calibration["photos"] == len(views) == 2 * len(task.images("train"))
    keys = b"".join(features.view_keys(views))
    assert calibration["sha256"] == hashlib.sha256(keys).hexdigest()
    weights = hashlib.sha256(task.weights.read_bytes()).hexdigest()
    assert facts["provenance"]["sha256"] == {task.weights.name: weights}


@pytest.mark.parametrize("length", [0, 1, 7, 999, 1000, 1001, 1999, 10_200])
def test_evenly_spaced_items_are_as_many_as_asked_for(length):
    chosen = features.evenly_spaced(range(length), 1000)
    assert len(chosen) == min(length, 1000)
    steps = set(np.diff(chosen))
    assert not steps or (max(steps) - min(steps) <= 1 and min(steps) >= 1)
    assert features.evenly_spaced(range(length), 0) == []


def test_calibration_views_are_spread_over_the_breeds(tmp_path):
    split = {f"n02000000-{breed}/{i}.jpg": "train" for breed in "abcdefghij" for i in range(100)}
    chosen = features.calibration_views(dataset.Task(tmp_path, list("abcdefghij"), split))
    assert len(chosen) == len(set(chosen)) == 2 * recipe.CALIBRATION_IMAGES
    assert {view.path.parent.name for view in chosen if view.share == 1} == set("abcdefghij")
    assert {view.share for view in chosen} == {1.0, recipe.PHOTO_SHARE}


def test_plain_sets_hold_crops_and_whole_photos_of_one_part(lab):
    names = [
        f"{path.parent.name}/{path.name}"
        for path in sorted(dataset.images_dir(lab).glob("*-Samoyed/*.jpg"))[:4]
    ]
    split = dict.fromkeys(names[:3], "test") | {names[3]: "train"}
    task = dataset.Task(lab, FEW, split, SIZE, backbone=backbone_of(lab))
    sets = features.plain_set(task, "test")
    for kind, view in (("crops", features.crop_view), ("whole_photos", features.photo_view)):
        expected = extract([view(task, name) for name in names[:3]], lab)
        assert (sets[kind].features == expected).all()
        assert sets[kind].labels.tolist() == [2, 2, 2] and sets[kind].images.tolist() == names[:3]


def test_a_turned_view_shows_the_same_pixels_a_quarter_a_half_or_three_further(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    seen = set()
    for number in range(9):
        view = View(save(tmp_path / f"{number}.png", pixels))
        turned = features.turned(view)
        (quarters,) = (
            k for k in range(4) if (features.load_pixels(turned, 40) == np.rot90(pixels, k)).all()
        )
        seen.add(quarters)
        lying = features.load_pixels(
            features.turned(view._replace(flip=True, angle=7.0)), 40
        ).astype(int)
        standing = np.rot90(
            features.load_pixels(view._replace(flip=True, angle=7.0), 40), quarters
        ).astype(int)
        assert np.abs(lying - standing)[8:-8, 8:-8].mean() < 3
    assert seen == {1, 2, 3}
