"""Views, the backbone's features of them, and their cache."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from data_selection import crop_breeds
from dog_breeds import dataset, features, recipe
from dog_breeds.dataset import processed_dir
from dog_breeds.features import View

ROOT = Path(__file__).resolve().parents[1]
SIZE = 75  # pixels: nearly the smallest that Xception takes
FEW = ["maltese_dog", "pomeranian", "samoyed"]


@pytest.fixture(scope="module")
def bench(demo, tmp_path_factory) -> Path:
    """A data folder of these tests' own with three of the demo breeds. One for all: loading the backbone takes 4 s."""
    crop_breeds(demo, dataset.top_breeds(demo))
    data_dir = tmp_path_factory.mktemp("bench")
    shutil.copytree(
        demo, data_dir, copy_function=os.link, ignore=shutil.ignore_patterns("features"), dirs_exist_ok=True
    )
    return data_dir


@pytest.fixture
def lab(bench) -> Path:
    """The same without any cached feature."""
    shutil.rmtree(bench / "features", ignore_errors=True)
    return bench


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Batch by batch, how many pictures have passed the backbone."""
    rows, load = [], features.load_backbone

    def counting(*args):
        strategy, backbone = load(*args)

        def run(batch):
            output = backbone(batch)
            rows.append(len(output))
            return output

        return strategy, run

    monkeypatch.setattr(features, "load_backbone", counting)
    return rows


def crops(data_dir, number):
    files = sorted(processed_dir(data_dir).glob("*/*.jpg"))
    return [View(file) for file in files[:: len(files) // number][:number]]


def shards(data_dir):
    return sorted((data_dir / "features").glob("*/*.npz"))


def run_python(code, **options):
    """Run code in a process of its own, from the project's folder."""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stderr=subprocess.PIPE, **options)


# --- Views -----------------------------------------------------------------------------------------------------------


def save(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def dot(path, x, y, size=200):
    """A picture of one bright spot around the point x, y."""
    rows, columns = np.mgrid[:size, :size]
    spot = 255 * np.exp(-((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2) / 50)
    return save(path, np.repeat(spot[..., None], 3, 2))


def centre(pixels):
    """Where that spot is."""
    weight = pixels[..., 0].astype(float)
    weight[weight < 20] = 0
    rows, columns = np.mgrid[: len(weight), : len(weight)]
    return np.array([(weight * (columns + 0.5)).sum(), (weight * (rows + 0.5)).sum()]) / weight.sum()


@pytest.mark.parametrize("angle", [-10, -3.3, 5, 10])
def test_rotation_turns_by_exactly_the_angle(tmp_path, angle):
    path = dot(tmp_path / "dot.png", 170, 100)
    x, y = centre(features.load_pixels(View(path, angle=angle), 200)) - 100
    assert np.hypot(x, y) == pytest.approx(70, abs=0.3)
    assert np.degrees(np.arctan2(-y, x)) == pytest.approx(angle, abs=0.15)  # counter-clockwise, as Pillow has it


def test_rotation_fills_corners_with_the_mirrored_picture(tmp_path):
    white = save(tmp_path / "white.png", np.full((200, 200, 3), 255))
    assert features.load_pixels(View(white, angle=recipe.MAX_ROTATION), 200).min() == 255

    ramp = np.repeat(np.linspace(40, 200, 200)[:, None, None], 200, 1).repeat(3, 2)
    turned = features.load_pixels(View(save(tmp_path / "ramp.png", ramp), angle=10.0), 200)
    assert turned.min() >= 39  # the edge is 40, and mirrored it gets brighter
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
    inner = features.load_pixels(features.photo_view(tmp_path, image), 100)
    assert inner[2:-2, 2:-2].max() < 60
    assert features.load_pixels(View(path), 100)[0].min() > 200


def test_training_views_are_seeded_augmentations_of_crops_and_photos(tmp_path):
    images = [f"n02000000-pug/n02000000_{i}.jpg" for i in range(300)]
    views = features.training_views(tmp_path, images, 33)
    assert len(views) == (recipe.CROP_VIEWS + recipe.PHOTO_VIEWS) * len(images)
    angles = np.array([view.angle for view in views])
    assert np.abs(angles).max() <= recipe.MAX_ROTATION == 10
    assert np.abs(angles).max() > 9.5
    assert abs(angles.mean()) < 1
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6
    plain = [view._replace(flip=False, angle=0.0) for view in views]
    crops, photos = ([view(tmp_path, i) for i in images] for view in (features.crop_view, features.photo_view))
    assert plain == crops * recipe.CROP_VIEWS + photos * recipe.PHOTO_VIEWS
    assert features.training_views(tmp_path, images, 33) == views
    assert features.training_views(tmp_path, images, 34) != views


# --- Features --------------------------------------------------------------------------------------------------------


def test_features_are_those_of_keras_own_xception(lab):
    views = [view._replace(angle=angle, flip=angle < 0) for view in crops(lab, 5) for angle in (0.0, -8.5)]
    model = keras.applications.Xception(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3), pooling="avg")
    model.load_weights(dataset.weights_path(lab))
    pixels = np.stack([features.load_pixels(view, SIZE) for view in views]).astype(np.float32)
    expected = model.predict(keras.applications.xception.preprocess_input(pixels), verbose=0)
    assert expected.std() > 0.1
    np.testing.assert_allclose(features.extract_features(views, lab, SIZE), expected, atol=1e-4)


def test_each_view_passes_the_backbone_once(lab, passes):
    views = crops(lab, 20)
    rows = features.extract_features(views, lab, SIZE)
    assert sum(passes) == 20
    more = features.extract_features([*views[::-1], views[3], views[0]._replace(flip=True)], lab, SIZE)
    assert sum(passes) == 21
    assert (more[:20] == rows[::-1]).all()
    assert (more[20] == rows[3]).all()
    assert np.abs(more[21] - rows[0]).max() > 0.01


def test_a_changed_picture_is_computed_again_and_nothing_else(lab, passes):
    views = crops(lab, 18)
    rows = features.extract_features(views, lab, SIZE)
    original = views[5].path.read_bytes()
    views[5].path.unlink()  # a hard link: leaves the demo's own file alone
    try:
        Image.new("RGB", (299, 299), "red").save(views[5].path)
        passes.clear()
        again = features.extract_features(views, lab, SIZE)
    finally:
        views[5].path.write_bytes(original)
    assert passes == [1]
    others = np.arange(18) != 5
    assert (again[others] == rows[others]).all()
    assert np.abs(again[5] - rows[5]).max() > 0.1


def test_features_of_two_sizes_do_not_mix(lab, passes):
    views = crops(lab, 3)
    small = features.extract_features(views, lab, SIZE)
    large = features.extract_features(views, lab, SIZE + 32)
    assert passes == [3, 3]
    assert np.abs(large - small).max() > 0.01
    assert (features.extract_features(views, lab, SIZE) == small).all()
    assert passes == [3, 3]


def test_a_killed_extraction_goes_on_where_it_was(lab, passes):
    views = crops(lab, 240)
    process = run_python(
        "from dog_breeds import features, recipe; from pathlib import Path; recipe.ROWS_PER_SHARD = 16\n"
        f"features.extract_features([features.View(Path(p)) for p in {[str(v.path) for v in views]}], "
        f"Path({str(lab)!r}), {SIZE})",
        stdout=subprocess.DEVNULL,
    )
    while len(shards(lab)) < 2 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    done = sum(len(np.load(shard)["keys"]) for shard in shards(lab))
    assert 32 <= done < 240
    rows = features.extract_features(views, lab, SIZE)
    assert sum(passes) == 240 - done
    shutil.rmtree(lab / "features")
    np.testing.assert_allclose(features.extract_features(views, lab, SIZE), rows, atol=1e-5)


def test_damaged_shards_are_computed_again(lab, passes, monkeypatch):
    monkeypatch.setattr(recipe, "ROWS_PER_SHARD", 16)
    views = crops(lab, 48)
    rows = features.extract_features(views, lab, SIZE)
    first, second, third = shards(lab)
    first.write_bytes(first.read_bytes()[:5000])
    second.write_bytes(b"")
    passes.clear()
    np.testing.assert_allclose(features.extract_features(views, lab, SIZE), rows, atol=1e-5)
    assert sum(passes) == 32
    assert len(shards(lab)) >= 2

    rng = np.random.default_rng(0)
    whole = third.read_bytes()
    for position in [*rng.integers(0, len(whole), 5), *rng.integers(0, 1000, 5), *-rng.integers(1, 300, 5)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        third.write_bytes(damaged)
        np.testing.assert_allclose(features.extract_features(views, lab, SIZE), rows, atol=1e-5)


def test_a_broken_picture_is_named(lab, tmp_path, passes):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(crops(lab, 1)[0].path.read_bytes()[:3000])
    with pytest.raises(OSError, match=re.escape(str(broken))):
        features.extract_features([*crops(lab, 2), View(broken)], lab, SIZE)
    assert sum(passes) == 0
    assert not shards(lab)


def test_two_devices_give_the_same_features(lab, tmp_path):
    """MirroredStrategy, here on two logical CPU devices; the last batch has one picture, too few for two devices."""
    views = crops(lab, 2 * recipe.BACKBONE_BATCH + 1)
    code = f"""
import numpy, tensorflow as tf
from dog_breeds import features
from pathlib import Path
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
views = [features.View(Path(p)) for p in {[str(view.path) for view in views]}]
assert features.load_backbone(Path({str(lab)!r}), {SIZE}, ("CPU:0", "CPU:1"))[0].num_replicas_in_sync == 2
rows = features.extract_features(views, Path({str(lab)!r}), {SIZE}, ("CPU:0", "CPU:1"))
numpy.save({str(tmp_path / "two.npy")!r}, rows)
"""
    process = run_python(code, stdout=subprocess.DEVNULL)
    assert process.wait() == 0, process.stderr.read()
    shutil.rmtree(lab / "features")
    one = features.extract_features(views, lab, SIZE)
    np.testing.assert_allclose(np.load(tmp_path / "two.npy"), one, atol=1e-5)


def test_plain_sets_hold_crops_and_whole_photos_of_one_part(lab):
    names = [f"{path.parent.name}/{path.name}" for path in sorted(dataset.images_dir(lab).glob("*-Samoyed/*.jpg"))[:4]]
    task = dataset.Task(lab, FEW, dict.fromkeys(names[:3], "test") | {names[3]: "train"}, SIZE)
    sets = features.plain_set(task, "test")
    for kind, view in (("crops", features.crop_view), ("whole_photos", features.photo_view)):
        expected = features.extract_features([view(lab, name) for name in names[:3]], lab, SIZE)
        assert (sets[kind].features == expected).all()
        assert sets[kind].labels.tolist() == [2, 2, 2] and sets[kind].images.tolist() == names[:3]
