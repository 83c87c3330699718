"""Training: split, pixels, the cache of features, figures, search, and a whole run on drawn and on real pictures."""

import csv
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

import make_dataset
import training
from data_selection import crop_breeds, processed_dir, top_breeds
from training import View

ROOT = Path(__file__).resolve().parents[1]
MIRROR = os.environ.get("STANFORD_DOGS_MIRROR", "")
SIZE = 75  # pixels: nearly the smallest that Xception takes
FEW = ["maltese_dog", "pomeranian", "samoyed"]
TEN = [
    *("afghan_hound", "bernese_mountain_dog", "great_pyrenees", "irish_wolfhound", "leonberg"),
    *("maltese_dog", "pomeranian", "samoyed", "scottish_deerhound", "shih_tzu"),
]


@pytest.fixture(scope="module")
def cropped(demo) -> Path:
    """The demo set with its crops."""
    crop_breeds(demo, TEN)
    return demo


@pytest.fixture(scope="module")
def bench(cropped, tmp_path_factory) -> Path:
    """A data folder of these tests' own with three of the demo breeds. One for all: loading the backbone takes 4 s."""
    data_dir = tmp_path_factory.mktemp("bench")
    shutil.copytree(
        cropped, data_dir, copy_function=os.link, ignore=shutil.ignore_patterns("features"), dirs_exist_ok=True
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
    rows, load = [], training.load_backbone

    def counting(*args):
        strategy, backbone = load(*args)

        def run(batch):
            features = backbone(batch)
            rows.append(len(features))
            return features

        return strategy, run

    monkeypatch.setattr(training, "load_backbone", counting)
    return rows


def crops(data_dir, number):
    files = sorted(processed_dir(data_dir).glob("*/*.jpg"))
    return [View(file) for file in files[:: len(files) // number][:number]]


def shards(data_dir):
    return sorted((data_dir / "features").glob("*/*.npz"))


def run_python(code, **options):
    """Run code in a process of its own, from the project's folder."""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stderr=subprocess.PIPE, **options)


# ---------------------------------------------------------------- split


def names(breed, number):
    return [f"n02000000-{breed}/n02000000_{i}.jpg" for i in range(number)]


def test_split_is_stratified_seeded_and_complete():
    images = {"pug": names("pug", 200), "akita": names("akita", 60)}
    split = training.split_images(images, 33)
    assert sorted(split) == sorted(images["pug"] + images["akita"])
    for breed, (train, validation, test) in {"pug": (140, 30, 30), "akita": (42, 9, 9)}.items():
        parts = [split[image] for image in images[breed]]
        assert [parts.count(part) for part in ("train", "validation", "test")] == [train, validation, test]
    assert training.split_images(images, 33) == split
    assert training.split_images(images, 34) != split
    assert training.split_images({"pug": images["pug"]} | {"akita": images["akita"]}, 33) == split


def test_validation_images_come_from_the_train_rows_of_a_given_split():
    images = {"pug": names("pug", 100), "akita": names("akita", 40)}
    given = {image: "test" if i % 4 == 0 else "train" for breed in images.values() for i, image in enumerate(breed)}
    given["n02000000-pug/not_here.jpg"] = "train"
    del given[images["pug"][1]]
    split = training.apply_split(images, given, 33)
    assert set(split) == set(given) - {"n02000000-pug/not_here.jpg"}
    assert all((split[image] == "test") == (given[image] == "test") for image in split)
    assert [sum(split[i] == "validation" for i in images[breed] if i in split) for breed in images] == [11, 4]
    assert training.apply_split(images, given, 33) == split
    assert training.apply_split(images, split, 1) == split  # with validation rows: as given


def test_a_written_split_reads_back(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("\ufeffimage,split,remark\na/1.jpg,train,\na/2.jpg,test,x\n", encoding="utf-8")
    assert training.read_split(path) == {"a/1.jpg": "train", "a/2.jpg": "test"}


@pytest.mark.parametrize(
    "content", [b"", b"a/1.jpg,train\n", b"image,split\na/1.jpg,tarin\n", b"image,split\na/1.jpg\n", os.urandom(5000)]
)
def test_a_bad_split_file_is_named(tmp_path, content):
    path = tmp_path / "split.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        training.read_split(path)


def test_a_split_without_test_images_is_refused():
    with pytest.raises(ValueError, match="gives pug no test images"):
        training.apply_split({"pug": names("pug", 20)}, dict.fromkeys(names("pug", 20), "train"), 33)


def test_only_first_boxes_of_photos_that_have_a_crop_are_listed(tmp_path):
    photos, crops = tmp_path / "raw/Images/n02110958-pug", tmp_path / "processed/pug"
    for folder, stems in ((photos, "1 2 3"), (crops, "1 2 2_2 3_2")):
        folder.mkdir(parents=True)
        for stem in stems.split():
            (folder / f"n02110958_{stem}.jpg").touch()
    assert training.list_images(tmp_path, ["pug"]) == {"pug": [f"n02110958-pug/n02110958_{i}.jpg" for i in (1, 2)]}


# ---------------------------------------------------------------- pixels


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
    x, y = centre(training.load_pixels(View(path, angle=angle), 200)) - 100
    assert np.hypot(x, y) == pytest.approx(70, abs=0.3)
    assert np.degrees(np.arctan2(-y, x)) == pytest.approx(angle, abs=0.15)  # counter-clockwise, as Pillow has it


def test_rotation_fills_corners_with_the_mirrored_picture(tmp_path):
    white = save(tmp_path / "white.png", np.full((200, 200, 3), 255))
    assert training.load_pixels(View(white, angle=training.MAX_ROTATION), 200).min() == 255

    ramp = np.repeat(np.linspace(40, 200, 200)[:, None, None], 200, 1).repeat(3, 2)
    turned = training.load_pixels(View(save(tmp_path / "ramp.png", ramp), angle=10.0), 200)
    assert turned.min() >= 39  # the edge is 40, and mirrored it gets brighter
    assert turned.max() <= 201


def test_flip_mirrors_left_and_right(tmp_path):
    path = save(tmp_path / "noise.png", np.random.default_rng(0).integers(0, 256, (90, 90, 3)))
    plain, flipped = (training.load_pixels(View(path, flip=flip), 90) for flip in (False, True))
    assert plain.shape == (90, 90, 3)
    assert plain.dtype == np.uint8
    assert (flipped == plain[:, ::-1]).all()
    assert (flipped != plain).any()


def test_of_a_whole_photo_the_central_part_is_seen(tmp_path):
    image = "n02110958-pug/n02110958_1.jpg"
    path = tmp_path / "raw/Images" / image
    path.parent.mkdir(parents=True)
    photo = np.full((400, 800, 3), 255)
    left = round(800 * (1 - training.PHOTO_SHARE) / 2)
    top = round(400 * (1 - training.PHOTO_SHARE) / 2)
    photo[top : 400 - top, left : 800 - left] = 30
    Image.fromarray(photo.astype(np.uint8)).save(path, quality=95)
    inner = training.load_pixels(training.photo_view(tmp_path, image), 100)
    assert inner[2:-2, 2:-2].max() < 60
    assert training.load_pixels(View(path), 100)[0].min() > 200


def test_training_views_are_seeded_augmentations_of_crops_and_photos(tmp_path):
    images = names("pug", 300)
    views = training.training_views(tmp_path, images, 33)
    assert len(views) == (training.CROP_VIEWS + training.PHOTO_VIEWS) * len(images)
    angles = np.array([view.angle for view in views])
    assert np.abs(angles).max() <= training.MAX_ROTATION == 10
    assert np.abs(angles).max() > 9.5
    assert abs(angles.mean()) < 1
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6
    plain = [view._replace(flip=False, angle=0.0) for view in views]
    crops, photos = ([view(tmp_path, i) for i in images] for view in (training.crop_view, training.photo_view))
    assert plain == crops * training.CROP_VIEWS + photos * training.PHOTO_VIEWS
    assert training.training_views(tmp_path, images, 33) == views
    assert training.training_views(tmp_path, images, 34) != views


# ---------------------------------------------------------------- features


def test_features_are_those_of_keras_own_xception(lab):
    views = [view._replace(angle=angle, flip=angle < 0) for view in crops(lab, 5) for angle in (0.0, -8.5)]
    model = keras.applications.Xception(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3), pooling="avg")
    model.load_weights(make_dataset.weights_path(lab))
    pixels = np.stack([training.load_pixels(view, SIZE) for view in views]).astype(np.float32)
    expected = model.predict(keras.applications.xception.preprocess_input(pixels), verbose=0)
    assert expected.std() > 0.1
    np.testing.assert_allclose(training.extract_features(views, lab, SIZE), expected, atol=1e-4)


def test_each_view_passes_the_backbone_once(lab, passes):
    views = crops(lab, 20)
    features = training.extract_features(views, lab, SIZE)
    assert sum(passes) == 20
    more = training.extract_features([*views[::-1], views[3], views[0]._replace(flip=True)], lab, SIZE)
    assert sum(passes) == 21
    assert (more[:20] == features[::-1]).all()
    assert (more[20] == features[3]).all()
    assert np.abs(more[21] - features[0]).max() > 0.01


def test_a_changed_picture_is_computed_again_and_nothing_else(lab, passes):
    views = crops(lab, 18)
    features = training.extract_features(views, lab, SIZE)
    original = views[5].path.read_bytes()
    views[5].path.unlink()  # a hard link: leaves the demo's own file alone
    try:
        Image.new("RGB", (299, 299), "red").save(views[5].path)
        passes.clear()
        again = training.extract_features(views, lab, SIZE)
    finally:
        views[5].path.write_bytes(original)
    assert passes == [1]
    others = np.arange(18) != 5
    assert (again[others] == features[others]).all()
    assert np.abs(again[5] - features[5]).max() > 0.1


def test_features_of_two_sizes_do_not_mix(lab, passes):
    views = crops(lab, 3)
    small = training.extract_features(views, lab, SIZE)
    large = training.extract_features(views, lab, SIZE + 32)
    assert passes == [3, 3]
    assert np.abs(large - small).max() > 0.01
    assert (training.extract_features(views, lab, SIZE) == small).all()
    assert passes == [3, 3]


def test_a_killed_extraction_goes_on_where_it_was(lab, passes):
    views = crops(lab, 240)
    process = run_python(
        "import training; from pathlib import Path; training.ROWS_PER_SHARD = 16\n"
        f"training.extract_features([training.View(Path(p)) for p in {[str(v.path) for v in views]}], "
        f"Path({str(lab)!r}), {SIZE})",
        stdout=subprocess.DEVNULL,
    )
    while len(shards(lab)) < 2 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    done = sum(len(np.load(shard)["keys"]) for shard in shards(lab))
    assert 32 <= done < 240
    features = training.extract_features(views, lab, SIZE)
    assert sum(passes) == 240 - done
    shutil.rmtree(lab / "features")
    np.testing.assert_allclose(training.extract_features(views, lab, SIZE), features, atol=1e-5)


def test_damaged_shards_are_computed_again(lab, passes, monkeypatch):
    monkeypatch.setattr(training, "ROWS_PER_SHARD", 16)
    views = crops(lab, 48)
    features = training.extract_features(views, lab, SIZE)
    first, second, third = shards(lab)
    first.write_bytes(first.read_bytes()[:5000])
    second.write_bytes(b"")
    passes.clear()
    np.testing.assert_allclose(training.extract_features(views, lab, SIZE), features, atol=1e-5)
    assert sum(passes) == 32
    assert len(shards(lab)) >= 2

    rng = np.random.default_rng(0)
    whole = third.read_bytes()
    for position in [*rng.integers(0, len(whole), 5), *rng.integers(0, 1000, 5), *-rng.integers(1, 300, 5)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        third.write_bytes(damaged)
        np.testing.assert_allclose(training.extract_features(views, lab, SIZE), features, atol=1e-5)


def test_a_broken_picture_is_named(lab, tmp_path, passes):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(crops(lab, 1)[0].path.read_bytes()[:3000])
    with pytest.raises(OSError, match=re.escape(str(broken))):
        training.extract_features([*crops(lab, 2), View(broken)], lab, SIZE)
    assert sum(passes) == 0
    assert not shards(lab)


def test_two_devices_give_the_same_features(lab, tmp_path):
    """MirroredStrategy, here on two logical CPU devices; the last batch has one picture, too few for two devices."""
    views = crops(lab, 2 * training.BACKBONE_BATCH + 1)
    code = f"""
import numpy, tensorflow as tf, training
from pathlib import Path
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
views = [training.View(Path(p)) for p in {[str(view.path) for view in views]}]
assert training.load_backbone(Path({str(lab)!r}), {SIZE}, ("CPU:0", "CPU:1"))[0].num_replicas_in_sync == 2
features = training.extract_features(views, Path({str(lab)!r}), {SIZE}, ("CPU:0", "CPU:1"))
numpy.save({str(tmp_path / "two.npy")!r}, features)
"""
    process = run_python(code, stdout=subprocess.DEVNULL)
    assert process.wait() == 0, process.stderr.read()
    shutil.rmtree(lab / "features")
    one = training.extract_features(views, lab, SIZE)
    np.testing.assert_allclose(np.load(tmp_path / "two.npy"), one, atol=1e-5)


# ---------------------------------------------------------------- figures


def logits_of(confidences, classes=4):
    """Logits whose top class is 0, with these probabilities."""
    p = np.asarray(confidences)[:, None]
    return np.log(np.concatenate([p, np.repeat((1 - p) / (classes - 1), classes - 1, 1)], axis=1)) + 7


def test_calibration_error_by_hand():
    logits, labels = logits_of([0.95, 0.95, 0.65, 0.65, 0.65, 0.65]), np.array([0, 1, 0, 0, 0, 2])
    # |0.95 - 1/2| * 2/6 + |0.65 - 3/4| * 4/6
    assert training.expected_calibration_error(logits, labels) == pytest.approx(0.45 / 3 + 0.1 * 2 / 3)
    bins = training.reliability(logits, labels)
    assert bins.shape == (15, 3)
    np.testing.assert_allclose(bins[[9, 14]], [[4, 2.6, 3], [2, 1.9, 1]])
    assert bins.sum() == pytest.approx(6 + 4.5 + 4)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (95, 100), (37, 37), (317, 335)])
def test_wilson_interval_is_where_the_score_test_turns(right, n):
    low, high = training.wilson_interval(right / n, n)
    assert 0 <= low <= right / n <= high <= 1
    for end in (low, high):
        assert (right / n - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n)


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    known, unknown = rng.integers(3, 12, 40) / 2, rng.integers(0, 9, 30) / 2
    pairs = [(k > u) + (k == u) / 2 for k in known for u in unknown]
    assert training.auroc(known, unknown) == pytest.approx(np.mean(pairs))
    assert training.auroc(known, known) == 0.5


def test_temperature_undoes_overconfidence_and_large_logits_do_no_harm():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (4000, 5))
    labels = (true + rng.gumbel(size=true.shape)).argmax(axis=1)  # drawn with the probabilities softmax(true)
    assert training.fit_temperature(3 * true, labels) == pytest.approx(3, rel=0.08)
    assert (
        training.expected_calibration_error(true, labels) < 0.02 < training.expected_calibration_error(3 * true, labels)
    )
    assert training.cross_entropy(1000 + true, labels) == pytest.approx(training.cross_entropy(true, labels))
    np.testing.assert_allclose(np.exp(training.log_softmax(1000 + true)).sum(axis=1), 1)


def test_evaluation_by_hand():
    predicted, labels = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 0, 1, 1, 1, 2])
    result = training.evaluate(5.0 * np.eye(3)[predicted], labels, ["a", "b", "c"], 2.0)
    assert result["confusion_matrix"] == [[2, 0, 0], [0, 1, 2], [0, 0, 1]]
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["precision"] == pytest.approx({"a": 1, "b": 1, "c": 1 / 3})
    assert result["recall"] == pytest.approx({"a": 1, "b": 1 / 3, "c": 1})
    assert result["most_confused"] == [{"true": "b", "predicted": "c", "count": 2}]
    assert result["calibration_error_before"] > result["calibration_error"]


def test_calibration_goes_into_the_weights():
    held_out, weights = blobs(200, noise=3.0), [np.eye(8, 4) * 5, np.ones(4)]
    logits = training.apply_head(weights, held_out.features)
    calibrated, temperature = training.calibrate(weights, logits, held_out.labels)
    assert temperature > 1.5
    np.testing.assert_allclose(training.apply_head(calibrated, held_out.features), logits / temperature, 1e-5, 1e-5)


def test_the_unknown_rule_measures_the_angle_to_the_nearest_class():
    """Two classes along the axes: features between them, and of any other direction, are less similar."""
    train = training.Examples(
        np.float32([[2, 0, 0], [4, 0, 0], [0, 1, 0]]), np.array([0, 0, 1]), np.array(["a", "b", "c"])
    )
    means = training.class_means(train, 2)
    np.testing.assert_allclose(means, [[1, 0, 0], [0, 1, 0]])
    features = np.float32([[7, 0, 0], [0, 0.1, 0], [1, 1, 0], [0, 0, 5], [3, 0, 4], [0, 0, 0]])
    np.testing.assert_allclose(training.similarity(features, means), [1, 1, 0.5**0.5, 0, 0.6, 0], atol=1e-6)

    crops, photos = blobs(1000, noise=0.1, seed=2), blobs(1000, noise=0.3)  # the photos alone count
    means, threshold = training.fit_unknown_rule(blobs(400, noise=0.3, seed=1), training.join(crops, photos), 4)
    known = training.similarity(photos.features, means) >= threshold
    assert known.mean() == pytest.approx(training.KNOWN_SHARE, abs=0.01)
    others = np.eye(8)[4:].astype(np.float32)  # the corners that no class has
    assert (training.similarity(others, means) < threshold).all()


# ---------------------------------------------------------------- heads


def blobs(n, classes=4, size=8, noise=0.7, seed=0):
    """Features [n, size] around a corner of the cube for each class; two rows for each image."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    features = np.eye(classes, size)[labels] + noise * rng.normal(size=(n, size))
    images = np.array([f"{seed}_{row // 2}" for row in range(n)])
    return training.Examples(features.astype(np.float32), labels, images)


def test_a_head_is_reproducible_and_keeps_its_best_epoch(monkeypatch):
    monkeypatch.setattr(training, "MAX_EPOCHS", 12)
    train, validation = blobs(300), blobs(100, seed=1)
    trial = {"learning_rate": 0.03, "inner_size": 6, "dropout": 0.2}
    result, weights = training.train_head(train, validation, trial, 4, 33)
    losses = [epoch["val_loss"] for epoch in result["history"]]
    assert result["val_loss"] == min(losses) == losses[result["epoch"] - 1]
    logits = training.apply_head(weights, validation.features)
    p, smooth = training.log_softmax(logits), training.LABEL_SMOOTHING
    loss = -((1 - smooth) * p[np.arange(100), validation.labels] + smooth * p.mean(axis=1)).mean()
    assert loss == pytest.approx(result["val_loss"], rel=1e-4)
    assert training.accuracy(logits, validation.labels) == pytest.approx(result["val_accuracy"])

    again, same = training.train_head(train, validation, trial, 4, 33)
    assert again == result
    assert all((a == b).all() for a, b in zip(weights, same, strict=True))
    other, _ = training.train_head(train, validation, trial, 4, 34)
    assert other["val_loss"] != result["val_loss"]


def test_search_takes_the_lowest_cross_validated_loss(monkeypatch, capsys):
    monkeypatch.setattr(training, "MAX_EPOCHS", 4)
    grid = {"learning_rate": (1e-3, 1e-2, 3e-2), "inner_size": (0, 4), "dropout": (0.2,)}
    train, validation = blobs(300), blobs(60, seed=1)
    trials, finalists, weights, logits = training.search(train, validation, grid, 4, 7)

    assert len({tuple(trial[name] for name in grid) for trial in trials}) == len(trials) == 6
    assert [trial["val_loss"] for trial in trials] == sorted(trial["val_loss"] for trial in trials)
    assert {finalist["inner_size"] for finalist in finalists} == {0, 4}
    for finalist in finalists:  # the best trial of its inner size
        best = next(trial for trial in trials if trial["inner_size"] == finalist["inner_size"])
        assert all(finalist[name] == best[name] for name in ("trial", *grid))
    winner = finalists[0]
    assert winner["val_loss"] == min(finalist["val_loss"] for finalist in finalists)
    both = training.join(train, validation)
    assert training.accuracy(logits, both.labels) == pytest.approx(winner["val_accuracy"])
    again, same = training.cross_validate(both, winner, 4, 7)
    assert again["val_loss"] == winner["val_loss"] and (same == logits).all()
    assert training.accuracy(training.apply_head(weights, both.features), both.labels) >= winner["val_accuracy"] - 0.05
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(trials) + len(finalists)


def test_cross_validation_holds_out_whole_images(monkeypatch):
    """Labels that only the image tells: a head that had seen the other row of an image would know them."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(100, 200)).astype(np.float32), 2, axis=0)
    labels = np.repeat(rng.integers(0, 2, 100), 2)
    images = np.repeat([f"image_{i}" for i in range(100)], 2)
    trial = {"learning_rate": 0.01, "inner_size": 0, "dropout": 0.0}
    result, _ = training.cross_validate(training.Examples(features, labels, images), trial, 2, 0)
    assert result["val_accuracy"] < 0.7


# ---------------------------------------------------------------- whole runs


def test_a_training_run_passes_each_view_once_and_repeats_itself(lab, passes, tmp_path, capsys):
    runs = []
    for run in ("first", "second"):
        model = training.train_classifier(lab, FEW, tmp_path / run, quick=True, size=SIZE)
        runs.append((model, training.read_report(model), sum(passes)))
    (model, report, count), (again, second, recount) = runs
    images = report["images"]
    views = (training.CROP_VIEWS + training.PHOTO_VIEWS) * images["train"] + 2 * (images["validation"] + images["test"])
    other_breeds = report["test"]["unknown_breeds"]["pictures"]
    assert other_breeds == training.UNKNOWN_PHOTOS
    assert count == views + other_breeds
    assert recount == count  # the second run found everything in the cache

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

    split = training.read_split(trained.with_suffix(".csv"))
    assert report["images"] == {part: list(split.values()).count(part) for part in ("train", "validation", "test")}
    assert set(split) == {
        f"{path.parent.name}/{path.name}" for path in make_dataset.images_dir(made_demo.data_dir).glob("*/*.jpg")
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
    report, split = training.read_report(trained), training.read_split(trained.with_suffix(".csv"))
    images = training.in_split(split, "test")
    model = keras.models.load_model(trained, compile=False)
    assert model.input_shape == (None, 299, 299, 3)
    inner = [model.get_layer("inner")] if report["winner"]["inner_size"] else []
    weights = [array for layer in [*inner, model.get_layer("logits")] for array in layer.get_weights()]
    for name, view in (("crops", training.crop_view), ("whole_photos", training.photo_view)):
        pixels = np.stack([training.load_pixels(view(data_dir, image)) for image in images]).astype(np.float32)
        probabilities, similarities = model.predict(pixels, verbose=0)
        known = similarities >= report["unknown_rule"]["threshold"]
        features, labels, _ = training.plain_set(data_dir, images, report["classes"], name == "whole_photos")
        expected = np.exp(training.log_softmax(training.apply_head(weights, features)))
        np.testing.assert_allclose(probabilities, expected, atol=1e-3)
        assert (probabilities.argmax(axis=1) == labels).mean() == pytest.approx(report["test"][name]["accuracy"])
        assert known.mean() == pytest.approx(report["test"][name]["taken_as_known"])


def test_the_best_model_is_that_with_the_highest_validation_accuracy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run training\.py first"):
        training.find_best_model(tmp_path)
    for name in ("xception_v1_09_0.912.h5", "xception_v1_12_0.975.h5", "xception_v1_30_0.900.h5", "xception_v1_x.h5"):
        (tmp_path / name).touch()
    assert training.find_best_model(tmp_path).name == "xception_v1_12_0.975.h5"


# ---------------------------------------------------------------- command line


def complaint(monkeypatch, *arguments):
    """The one line with which training.py ends."""
    monkeypatch.setattr(sys, "argv", ["training.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        training.main()
    message = ending.value.code  # a text: printed to stderr, with exit status 1
    assert message.startswith("training.py: ")
    assert len(message.splitlines()) == 1
    return message


def test_mistakes_get_one_line(cropped, tmp_path, monkeypatch):
    empty, output = tmp_path / "empty", tmp_path / "output"
    bad, other = tmp_path / "bad.csv", tmp_path / "other.csv"
    bad.write_text("picture;part\n")
    other.write_text("image,split\nn02110958-pug/n02110958_1.jpg,train\n")
    unfetched = tmp_path / "unfetched"
    shutil.copytree(cropped / "raw", unfetched / "raw", copy_function=os.link)

    def said(*arguments):
        return complaint(monkeypatch, "--output-dir", output, *arguments)

    assert "run make_dataset.py first" in said("--data-dir", empty)
    assert "did you mean samoyed?" in said("--data-dir", cropped, "--breeds", "samoyd", "maltese_dog")
    assert "at least two breeds" in said("--data-dir", cropped, "--breeds", "samoyed")
    assert str(bad) in said("--data-dir", cropped, "--split-file", bad)
    assert str(tmp_path / "no.csv") in said("--data-dir", cropped, "--split-file", tmp_path / "no.csv")
    assert "gives afghan_hound no test images" in said("--data-dir", cropped, "--split-file", other)
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


# ---------------------------------------------------------------- the real pictures


def test_real_breeds_are_learned_from_few_pictures(demo, tmp_path, monkeypatch):
    if not Path(MIRROR, "images.tar").is_file():
        pytest.skip("STANFORD_DOGS_MIRROR names no folder with images.tar and annotation.tar")
    make_dataset.make_raw(tmp_path, MIRROR)
    assert top_breeds(tmp_path) == TEN

    listed = {"train": {}, "test": {}}
    with open(Path(MIRROR, "official_split.csv"), newline="") as file:
        for row in csv.DictReader(file):
            listed[row["split"]].setdefault(row["image"].split("/")[0], []).append(row["image"])
    few = {"train": 12, "test": 8}
    rows = [f"{i},{part}\n" for part in listed for breed in listed[part].values() for i in breed[: few[part]]]
    (tmp_path / "split.csv").write_text("image,split\n" + "".join(rows))
    make_dataset.weights_path(tmp_path).parent.mkdir()
    os.link(make_dataset.weights_path(demo), make_dataset.weights_path(tmp_path))

    monkeypatch.setattr(training, "UNKNOWN_PHOTOS", 20)
    model = training.train_classifier(tmp_path, ["top10"], tmp_path, tmp_path / "split.csv", quick=True)
    report = training.read_report(model)
    assert report["images"] == {"train": 100, "validation": 20, "test": 80}
    assert report["test_accuracy"] >= 0.92  # measured: 0.975
    assert report["test_accuracy_whole_photos"] >= 0.88  # measured: 0.95
    assert report["test"]["unknown_breeds"]["auroc_whole_photos"] >= 0.9
