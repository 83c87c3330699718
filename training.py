"""Train a dog-breed classifier: a new head on Xception's frozen ImageNet backbone.

Reads     data/raw and data/weights (from make_dataset.py); crops what data_selection.py has not cropped yet.
Writes    xception_v1_{epoch}_{val_accuracy}.h5, beside it a report (.json) and the split (.csv); cache: data/features.
Commands  python training.py                # the ten breeds with most images
          python training.py --breeds all   # all 120
          python training.py --quick        # a small search, to see that everything works
The backbone, which costs nearly all the time, sees every picture and every augmented view once; the search then trains
heads on its stored features. A second run finds them in the cache.
"""

import argparse
import csv
import hashlib
import itertools
import json
import logging
import math
import os
import platform
import re
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL import __version__ as PIL_VERSION

from data_selection import (
    CROP_SIZE,
    breed_folders,
    breed_name,
    choose_breeds,
    crop_breeds,
    processed_dir,
    read_pixels,
)
from data_selection import report as report_crops
from make_dataset import DATA_DIR, images_dir, progress, quiet, weights_path

with quiet():  # TensorFlow greets with remarks on its log and on missing GPUs
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    tf.config.list_physical_devices()

SEED = 33
VALIDATION_SHARE = TEST_SHARE = 0.15

# The service is sent whole photos. Of these the model sees the central 87.5 % of both sides, ImageNet's usual frame.
# benchmarks/accuracy.py compares other shares and numbers of views.
PHOTO_SHARE = 0.875
CROP_VIEWS, PHOTO_VIEWS = 1, 1  # augmented ones of each training picture; more cost time and gain nothing
MAX_ROTATION = 10.0  # degrees
ROTATION_MARGIN = 0.1  # of the size, mirrored around a picture: a rotation by 10 degrees reaches 0.08 beyond its edges

# The search: every combination is trained, the best ones again with several seeds.
GRID = {
    "learning_rate": (2.5e-4, 5e-4, 1e-3),
    "inner_size": (0, 100, 1000),
    "dropout": (0.2, 0.5, 0.8),
}  # 0: no inner layer
QUICK_GRID = {"learning_rate": (1e-3, 2e-3), "inner_size": (0, 100), "dropout": (0.5,)}
FOLDS = 5  # of the cross-validation between the best trial of each inner size
WEIGHT_DECAY = 1.0  # times the learning rate, at each step
LABEL_SMOOTHING = 0.05
BATCH_SIZE = 512  # smaller ones are no better, and three times slower for the large inner layer
MAX_EPOCHS, PATIENCE = 60, 5
AVERAGED_EPOCHS = 5  # the weights of a head are means over so many: less noise from one epoch to the next

BACKBONE_BATCH = 16  # per device; larger ones are not faster on a CPU
ROWS_PER_SHARD = 256  # what an interrupted extraction can lose
KNOWN_SHARE = 0.98  # of the whole photos of the validation part, the share that the unknown-breed rule lets pass
UNKNOWN_PHOTOS = 100  # photos of other breeds, if there are any, to measure that rule on

MODEL_NAME = "xception_v1_{epoch:02d}_{val_accuracy:.3f}.h5"


class View(NamedTuple):
    """A picture as the model is to see it."""

    path: Path
    share: float = 1.0  # of both sides, around the centre
    flip: bool = False  # left to right
    angle: float = 0.0  # degrees of rotation


# --- Files -----------------------------------------------------------------------------------------------------------


def photo_view(data_dir: Path, image: str) -> View:
    """Return the view of a whole photo, for an image such as `n02085936-Maltese_dog/n02085936_37.jpg`."""
    return View(images_dir(data_dir) / image, PHOTO_SHARE)


def crop_view(data_dir: Path, image: str) -> View:
    """Return the view of the crop that data_selection.py made of an image."""
    folder, file = image.split("/")
    return View(processed_dir(data_dir) / breed_name(folder) / file)


def find_best_model(folder: Path = Path()) -> Path:
    """Return the saved model with the highest validation accuracy, the newest of equal ones."""
    models = [p for p in Path(folder).glob("xception_v1_*.h5") if re.fullmatch(r"xception_v1_\d+_\d\.\d+\.h5", p.name)]
    if not models:
        raise FileNotFoundError(f"no xception_v1_*.h5 in {Path(folder).resolve()}; run training.py first")
    return max(models, key=lambda p: (float(p.stem.rsplit("_", 1)[1]), p.stat().st_mtime))


def read_report(model_path: Path) -> dict:
    """Return the report that training.py wrote beside a model."""
    return json.loads(Path(model_path).with_suffix(".json").read_text())


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that nobody ever sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


# --- Split -----------------------------------------------------------------------------------------------------------


def list_images(data_dir: Path, breeds: Sequence[str]) -> dict[str, list[str]]:
    """Return, for each breed, the sorted names of the images that have a crop."""
    folders = breed_folders(data_dir)
    images = {}
    for breed in breeds:
        photos = {entry.name for entry in os.scandir(images_dir(data_dir) / folders[breed])}
        crops = {entry.name for entry in os.scandir(processed_dir(data_dir) / breed)}
        images[breed] = [f"{folders[breed]}/{name}" for name in sorted(photos & crops)]
    return images


def split_images(images: dict[str, list[str]], seed: int) -> dict[str, str]:
    """Split each breed's images 70/15/15; return image -> train, validation or test."""
    rng = np.random.default_rng(seed)
    split = {}
    for breed in sorted(images):
        shuffled = rng.permutation(images[breed]).tolist()
        validation = round(VALIDATION_SHARE * len(shuffled))
        test = round(TEST_SHARE * len(shuffled))
        names = ["validation"] * validation + ["test"] * test + ["train"] * (len(shuffled) - validation - test)
        split |= dict(zip(shuffled, names, strict=True))
    return split


def read_split(path: Path) -> dict[str, str]:
    """Read a CSV file with the columns image and split; return image -> split."""
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:  # -sig: as spreadsheets write it
        rows = csv.DictReader(file)
        if not {"image", "split"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path}: the first line must name the columns image and split")
        split = {row["image"]: row["split"] or "" for row in rows}
    wrong = sorted(set(split.values()) - {"train", "validation", "test"})
    if wrong:
        raise ValueError(f"{path}: unknown split {wrong[0]!r}; use train, validation or test")
    return split


def apply_split(images: dict[str, list[str]], given: dict[str, str], seed: int) -> dict[str, str]:
    """Split images as given; without validation rows, 15 % of each breed's train rows become validation images."""
    rng = np.random.default_rng(seed)
    draw_validation = "validation" not in given.values()
    split = {}
    for breed in sorted(images):
        listed = [image for image in images[breed] if image in given]
        split |= {image: given[image] for image in listed}
        if draw_validation:
            train = rng.permutation([image for image in listed if given[image] == "train"]).tolist()
            split |= dict.fromkeys(train[: round(VALIDATION_SHARE * len(train))], "validation")
        missing = {"train", "validation", "test"} - {split[image] for image in listed}
        if missing:
            raise ValueError(f"the split file gives {breed} no {sorted(missing)[0]} images")
    return split


# --- Views and features ----------------------------------------------------------------------------------------------


def load_pixels(view: View, size: int = CROP_SIZE) -> np.ndarray:
    """Return a view's pixels, uint8 RGB [size, size, 3]. Corners left empty by a rotation show the mirrored edge."""
    pixels = np.asarray(read_pixels(view.path, size, view.share))
    if view.flip:
        pixels = pixels[:, ::-1]
    if view.angle:
        m = math.ceil(ROTATION_MARGIN * size)
        padded = Image.fromarray(np.pad(pixels, ((m, m), (m, m), (0, 0)), "reflect"))
        pixels = np.asarray(padded.rotate(view.angle, Image.Resampling.BILINEAR))[m:-m, m:-m]
    return pixels


def training_views(data_dir: Path, images: Sequence[str], seed: int = SEED) -> list[View]:
    """Return the views to train on: of each image an augmented crop, then of each an augmented whole photo.

    An image's views depend on its name and the seed alone, so that other splits find them in the cache.
    """

    def augmented(view: View, number: int, image: str) -> View:
        rng = np.random.default_rng([seed, number, zlib.crc32(image.encode())])
        return view._replace(flip=bool(rng.random() < 0.5), angle=round(rng.uniform(-MAX_ROTATION, MAX_ROTATION), 2))

    views = [crop_view] * CROP_VIEWS + [photo_view] * PHOTO_VIEWS
    return [augmented(view(data_dir, image), number, image) for number, view in enumerate(views) for image in images]


@lru_cache(maxsize=1)
def load_backbone(data_dir: Path, size: int, devices: tuple[str, ...] = ()) -> tuple[tf.distribute.Strategy, Callable]:
    """Return a distribution strategy and a function from uint8 pixels [n, size, size, 3] to float32 features [n, 2048].

    Without `devices`, all GPUs are used, with mixed precision, or else the CPU.
    """
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    devices = devices or gpus
    strategy = tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if gpus else "float32")
    try:
        backbone = keras.applications.Xception(weights=None, include_top=False, input_shape=(size, size, 3))
    finally:
        keras.config.set_dtype_policy(policy)
    backbone.load_weights(weights_path(data_dir))

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.uint8)])
    def features(pixels: tf.Tensor) -> tf.Tensor:
        maps = backbone(tf.cast(pixels, tf.float32) / 127.5 - 1.0, training=False)
        return tf.reduce_mean(tf.cast(maps, tf.float32), axis=[1, 2])

    # With its weights as constants, TensorFlow fuses each convolution with its normalisation and activation.
    with quiet():
        frozen = convert_variables_to_constants_v2(features.get_concrete_function())

    def run(batch: tf.Tensor) -> tf.Tensor:
        return strategy.run(lambda pixels: frozen(pixels)[0], args=(batch,))

    if len(devices) > 1:
        run = tf.function(run, reduce_retracing=True)
    return strategy, lambda batch: np.concatenate([t.numpy() for t in strategy.experimental_local_results(run(batch))])


def view_keys(views: Sequence[View]) -> list[bytes]:
    """Return a digest for each view, of the file's content and of what is done to the picture."""
    contents = {path: hashlib.sha256(path.read_bytes()).digest() for path in {view.path for view in views}}
    return [hashlib.sha256(contents[path] + repr(how).encode()).digest() for path, *how in views]


def extract_features(
    views: Sequence[View], data_dir: Path = DATA_DIR, size: int = CROP_SIZE, devices: tuple[str, ...] = ()
) -> np.ndarray:
    """Return the backbone's features of the views, float32 [len(views), 2048], from the cache as far as it has them.

    The cache, data/features/, is a folder of shards for each size and weights file; a row is found by its view's key.
    """
    digest = hashlib.sha256(weights_path(data_dir).read_bytes()).hexdigest()[:12]
    cache = data_dir / "features" / f"xception-{size}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    wanted: dict[bytes, list[int]] = {}
    for row, key in enumerate(view_keys(views)):
        wanted.setdefault(key, []).append(row)

    features = np.empty((len(views), 2048), np.float32)
    missing = dict(wanted)
    for shard in sorted(cache.glob("*.npz")):
        try:
            with np.load(shard) as arrays:
                keys, rows = [bytes(key) for key in arrays["keys"]], arrays["features"]
        except Exception:  # a damaged archive makes NumPy raise nearly anything
            print(f"features: {shard} is damaged; computing its views again", flush=True)
            shard.unlink()
            continue
        for key, row in zip(keys, rows, strict=True):
            if missing.pop(key, None):
                features[wanted[key]] = row
    print(f"features: {len(wanted) - len(missing):,} of {len(wanted):,} views from the cache", flush=True)
    if not missing:
        return features

    keys = list(missing)
    todo = [views[wanted[key][0]] for key in keys]
    done, pending = 0, []
    with progress("features", len(keys), unit="views", scale=1) as show:
        for batch in run_backbone(todo, data_dir, size, devices):
            pending.append(batch)
            done += len(batch)
            waiting = sum(map(len, pending))
            if waiting >= ROWS_PER_SHARD or done == len(keys):
                rows = np.concatenate(pending)
                save_shard(cache, keys[done - waiting : done], rows)
                for key, row in zip(keys[done - waiting : done], rows, strict=True):
                    features[wanted[key]] = row
                pending = []
            show(done)
    return features


def save_shard(cache: Path, keys: Sequence[bytes], rows: np.ndarray) -> None:
    """Add rows to the cache. The name follows from the keys, so that two runs at once do not disturb each other."""
    path = cache / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}.npz"
    part = path.with_suffix(f".{os.getpid()}.part")
    with open(part, "wb") as file:
        np.savez(file, keys=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32), features=rows)
    os.replace(part, path)


def run_backbone(
    views: Sequence[View], data_dir: Path, size: int, devices: tuple[str, ...] = ()
) -> Iterator[np.ndarray]:
    """Yield the features of the views, batch by batch in their order, while the next pictures are decoded beside it.

    Raises OSError, with the file's name, for a picture that cannot be read.
    """
    strategy, backbone = load_backbone(data_dir, size, devices)
    batch_size = BACKBONE_BATCH * strategy.num_replicas_in_sync
    # Of several devices none may be left without a picture: the last view fills the last batch.
    fill = -len(views) % batch_size if strategy.num_replicas_in_sync > 1 else 0
    failures = []

    def decode(index: int) -> np.ndarray:
        view = views[min(index, len(views) - 1)]
        try:
            return load_pixels(view, size)
        except Exception as error:  # raised below: TensorFlow would wrap it in pages of its own
            failures.append(f"{view.path}: {error}")
            return np.zeros((size, size, 3), np.uint8)

    def load(index: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(decode, [index], tf.uint8), (size, size, 3))

    pictures = tf.data.Dataset.range(len(views) + fill).map(load, num_parallel_calls=os.cpu_count(), deterministic=True)
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and its thread can take 2 s to end
    batches = strategy.experimental_distribute_dataset(pictures.batch(batch_size).prefetch(2).with_options(options))
    for start, batch in zip(itertools.count(0, batch_size), batches):
        if failures:
            raise OSError(failures[0])
        yield backbone(batch)[: len(views) - start]


# --- Heads -----------------------------------------------------------------------------------------------------------


def build_head(inner_size: int, dropout: float, classes: int, feature_size: int = 2048) -> keras.Sequential:
    """Return the trainable layers: features [n, 2048] -> logits [n, classes]."""
    layers = [keras.Input((feature_size,))]
    if inner_size:
        layers.append(keras.layers.Dense(inner_size, activation="relu", name="inner"))
    layers += [keras.layers.Dropout(dropout, name="dropout"), keras.layers.Dense(classes, name="logits")]
    return keras.Sequential(layers)


class Examples(NamedTuple):
    """What heads are trained and judged on: a row for each view."""

    features: np.ndarray  # float32 [n, 2048]
    labels: np.ndarray  # int [n]
    images: np.ndarray  # str [n]: the image that the view shows


def train_head(
    train: Examples, validation: Examples | None, trial: dict, classes: int, seed: int, epochs: int | None = None
) -> tuple[dict, list[np.ndarray]]:
    """Train one head until its validation loss has not fallen for PATIENCE epochs; without one, for `epochs`.

    `trial` has learning_rate, inner_size and dropout. Returns it with its results added (of the best epoch, and the
    history of all), and the best weights, which are means over epochs (Izmailov et al. 2018, arXiv:1803.05407).
    """
    keras.utils.set_random_seed(seed)
    head = build_head(trial["inner_size"], trial["dropout"], classes, train.features.shape[1])
    optimizer = keras.optimizers.AdamW(trial["learning_rate"], weight_decay=WEIGHT_DECAY)
    optimizer.build(head.trainable_variables)
    loss_function = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=LABEL_SMOOTHING)
    features, targets = tf.constant(train.features), tf.one_hot(train.labels, classes)
    if validation:
        validation = validation._replace(features=tf.constant(validation.features))

    @tf.function
    def run_epoch(order: tf.Tensor) -> tf.Tensor:
        total = 0.0
        for start in tf.range(0, tf.size(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            with tf.GradientTape() as tape:
                loss = loss_function(tf.gather(targets, rows), head(tf.gather(features, rows), training=True))
            variables = head.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            total += loss * tf.cast(tf.size(rows), tf.float32)
        return total / tf.cast(tf.size(order), tf.float32)

    rng = np.random.default_rng(seed)
    history: list[dict] = []
    best, best_weights = {"val_loss": math.inf, "epoch": 0}, []
    recent: deque[list[tf.Tensor]] = deque(maxlen=AVERAGED_EPOCHS)
    while len(history) < (epochs or MAX_EPOCHS) and (validation is None or len(history) - best["epoch"] < PATIENCE):
        history.append({"epoch": len(history) + 1, "loss": float(run_epoch(rng.permutation(len(features))))})
        recent.append([tf.identity(variable) for variable in head.trainable_variables])
        weights = [tf.add_n(same) / len(same) for same in zip(*recent, strict=True)]
        if validation:
            logits = apply_head(weights, validation.features)
            val_loss = float(loss_function(tf.one_hot(validation.labels, classes), logits))
            history[-1] |= {"val_loss": val_loss, "val_accuracy": accuracy(logits, validation.labels)}
            if val_loss < best["val_loss"]:
                best, best_weights = history[-1], weights
    best_weights = [weight.numpy() for weight in best_weights or weights]
    return trial | best | {"seed": seed, "history": history}, best_weights


def cross_validate(examples: Examples, trial: dict, classes: int, seed: int) -> tuple[dict, np.ndarray]:
    """Train a head FOLDS times, each time without another part of the images, and judge it on that part.

    Returns the trial with the mean best epoch, val_loss (at the best temperature) and val_accuracy over all images, and
    for every row the logits [n, classes] of the head that has not seen its image.
    """
    names = np.unique(examples.images)
    parts = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    part_of_row = parts[np.searchsorted(names, examples.images)]
    logits = np.empty((len(examples.labels), classes), np.float32)
    epochs = []
    for part in range(FOLDS):
        held_out = part_of_row == part
        train, validation = (Examples(*(column[rows] for column in examples)) for rows in (~held_out, held_out))
        result, weights = train_head(train, validation, trial, classes, seed + part)
        logits[held_out] = apply_head(weights, validation.features)
        epochs.append(result["epoch"])
    temperature = fit_temperature(logits, examples.labels)
    results = {
        "epoch": round(np.mean(epochs)),
        "val_loss": cross_entropy(logits / temperature, examples.labels),
        "val_accuracy": accuracy(logits, examples.labels),
    }
    return trial | results, logits


def search(
    train: Examples, validation: Examples, grid: dict[str, Sequence[float]], classes: int, seed: int
) -> tuple[list[dict], list[dict], list[np.ndarray], np.ndarray]:
    """Train a head for every combination of the grid, and cross-validate the best of each inner size; choose by loss.

    A few hundred validation pictures are too few to tell the best trials apart: the finalists are judged on all the
    pictures of both sets. The winner is then trained on both. Returns the trials of the grid and the finalists, lowest
    validation loss first, the winner's weights, and its logits of every row while that row's image was held out.
    """
    print("learning rate  inner size  dropout  epoch  val loss  val accuracy", flush=True)

    def show(result: dict) -> dict:
        print("{learning_rate:13.1e}  {inner_size:10d}  {dropout:7.1f}".format(**result), end="  ")
        print("{epoch:5d}  {val_loss:8.4f}  {val_accuracy:12.4f}".format(**result), flush=True)
        return result

    def by_loss(result: dict) -> float:
        return result["val_loss"]

    settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    trials = [show(train_head(train, validation, trial, classes, seed)[0]) for trial in settings]
    trials = sorted(({"trial": number} | trial for number, trial in enumerate(trials)), key=by_loss)
    print(f"the best of each inner size, in {FOLDS}-fold cross-validation:", flush=True)
    both = join(train, validation)
    finalists, logits = [], {}
    for size in grid["inner_size"]:
        best = next(trial for trial in trials if trial["inner_size"] == size)
        trial = {name: best[name] for name in ("trial", *grid)}
        result, logits[size] = cross_validate(both, trial, classes, seed)
        finalists.append(show(result))
    finalists.sort(key=by_loss)
    winner = finalists[0]
    _, weights = train_head(both, None, winner, classes, seed, winner["epoch"])
    return trials, finalists, weights, logits[winner["inner_size"]]


def join(*parts: Examples) -> Examples:
    """Return all rows as one."""
    return Examples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def apply_head(weights: Sequence[np.ndarray | tf.Tensor], features: np.ndarray | tf.Tensor) -> np.ndarray:
    """Return the logits [n, classes] of features [n, 2048] for weights as `build_head` orders them.

    Not with NumPy, whose threads and TensorFlow's would get in each other's way between two epochs.
    """
    *inner, kernel, bias = weights
    if inner:
        features = tf.nn.relu(tf.matmul(features, inner[0]) + inner[1])
    return (tf.matmul(features, kernel) + bias).numpy()


# --- Pictures of no known breed ---------------------------------------------------------------------------------------


def class_means(examples: Examples, classes: int) -> np.ndarray:
    """Return the mean features of each class, scaled to length 1: float32 [classes, 2048]."""
    means = np.stack([examples.features[examples.labels == label].mean(axis=0) for label in range(classes)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def similarity(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the cosine between features [n, 2048] and the nearest class mean: [n], 0..1, low for unknown breeds.

    The nearest mean as in Mensink et al. 2013 (doi:10.1109/TPAMI.2013.83). benchmarks/accuracy.py compares it with the
    highest probability and with the energy of the logits, which tell unknown breeds less well.
    """
    return (features @ means.T).max(axis=1) / np.maximum(np.linalg.norm(features, axis=1), 1e-6)


def fit_unknown_rule(train: Examples, validation: Examples, classes: int) -> tuple[np.ndarray, float]:
    """Return the class means of the training set, and the similarity from which a picture counts as a known breed.

    KNOWN_SHARE of the whole photos, which are the second half of `validation_set`, reach it.
    """
    means = class_means(train, classes)
    photos = validation.features[len(validation.features) // 2 :]
    return means, float(np.quantile(similarity(photos, means), 1 - KNOWN_SHARE))


# --- Figures: functions of logits [n, classes] and labels [n] -------------------------------------------------------


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the true classes."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of correct top classes, 0..1."""
    return float((logits.argmax(axis=1) == labels).mean())


def wilson_interval(share: float, n: int) -> list[float]:
    """Return the 95 % interval of a share measured on n pictures (Wilson 1927)."""
    z = 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [max(centre - half, 0.0), min(centre + half, 1.0)]


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> np.ndarray:
    """Return, for equal bins of confidence, pictures, their summed confidence and the correct ones: float [bins, 3]."""
    confidence = np.exp(log_softmax(logits).max(axis=1))
    correct = logits.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return np.stack([np.bincount(bin_of, values, bins) for values in (np.ones(len(labels)), confidence, correct)], 1)


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy in equal bins (Guo et al. 2017, arXiv:1706.04599)."""
    _, confidence, correct = reliability(logits, labels, bins).T
    return float(np.abs(confidence - correct).sum() / len(labels))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the divisor of the logits that minimises the cross entropy (Guo et al. 2017), found to 0.5 %."""
    candidates = np.geomspace(0.2, 5, 645)
    return float(min(candidates, key=lambda t: cross_entropy(logits / t, labels)))


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the probability that a known picture scores higher than an unknown one, ties counted half."""
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, "left") + np.searchsorted(ordered, known, "right")
    return float(below.mean() / 2 / len(unknown))


def evaluate(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], temperature: float) -> dict:
    """Return accuracy with its interval, calibration, and per-breed figures, as they go into the report.

    `logits` are the calibrated ones; `temperature` undoes that for the calibration error before it.
    """
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    pairs = [
        {"true": classes[i], "predicted": classes[j], "count": int(confusion[i, j])}
        for i, j in zip(*np.nonzero(confusion), strict=True)
        if i != j
    ]
    correct = confusion.diagonal()
    share = accuracy(logits, labels)
    return {
        "pictures": len(labels),
        "accuracy": share,
        "accuracy_interval_95": wilson_interval(share, len(labels)),
        "cross_entropy": cross_entropy(logits, labels),
        "calibration_error": expected_calibration_error(logits, labels),
        "calibration_error_before": expected_calibration_error(logits * temperature, labels),
        "precision": dict(zip(classes, (correct / np.maximum(confusion.sum(axis=0), 1)).tolist(), strict=True)),
        "recall": dict(zip(classes, (correct / np.maximum(confusion.sum(axis=1), 1)).tolist(), strict=True)),
        "most_confused": sorted(pairs, key=lambda pair: -pair["count"])[:10],
        "confusion_matrix": confusion.tolist(),  # a row for each true breed
    }


# --- The model -------------------------------------------------------------------------------------------------------


def build_model(data_dir: Path, weights: Sequence[np.ndarray], means: np.ndarray, size: int = CROP_SIZE) -> keras.Model:
    """Return the whole classifier: RGB pixels 0..255, float32 [n, size, size, 3] -> a list of two outputs.

    These are the probabilities [n, classes], and what `similarity` gives, [n, 1], by which unknown breeds are told.
    """
    classes = len(weights[-1])
    backbone = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(size, size, 3), name="xception"
    )
    backbone.load_weights(weights_path(data_dir))
    backbone.trainable = False
    head = build_head(weights[0].shape[1] if len(weights) > 2 else 0, 0.0, classes)
    inputs = keras.Input((size, size, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(inputs)
    x = features = keras.layers.GlobalAveragePooling2D(name="features")(backbone(x))
    for layer in head.layers:
        x = layer(x)
    head.set_weights(weights)
    cosines = keras.layers.Dense(classes, use_bias=False, name="cosines")
    y = keras.layers.Reshape((classes, 1))(cosines(keras.layers.UnitNormalization()(features)))
    # A maximum, written as a layer: .h5 files hold nothing else.
    outputs = [keras.layers.Softmax(name="probabilities")(x), keras.layers.GlobalMaxPooling1D(name="similarity")(y)]
    cosines.set_weights([means.T])
    return keras.Model(inputs, outputs, name="dog_breeds")


def save_model(model: keras.Model, path: Path) -> None:
    """Write a model as .h5, atomically."""
    part = path.with_name(f".part-{path.name}")  # Keras tells the format by the ending
    logging.disable(logging.WARNING)  # Keras warns that .h5 is its older format; the file's users expect it
    model.save(part)
    logging.disable(logging.NOTSET)
    os.replace(part, path)


# --- Steps, as main() and the notebook take them --------------------------------------------------------------------


def prepare_split(data_dir: Path, breeds: Sequence[str], split_file: Path | None, seed: int) -> tuple[list[str], dict]:
    """Crop what is missing and split; return the classes in their order, and image -> train, validation or test."""
    classes = choose_breeds(data_dir, list(breeds))
    if len(classes) < 2:
        raise ValueError("a classifier needs at least two breeds; name more with --breeds")
    if not weights_path(data_dir).exists():
        raise FileNotFoundError(f"no weights in {weights_path(data_dir)}; run make_dataset.py first")
    summary = crop_breeds(data_dir, classes)
    if summary["done"] or summary["failed"]:
        print(report_crops(summary, data_dir))
    images = list_images(data_dir, classes)
    split = apply_split(images, read_split(split_file), seed) if split_file else split_images(images, seed)
    return classes, split


def in_split(split: dict[str, str], name: str) -> list[str]:
    """Return the images of one part of the split, sorted."""
    return sorted(image for image, part in split.items() if part == name)


def label_images(images: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Return the class index of each image, int [n]."""
    return np.array([classes.index(breed_name(image.split("/")[0])) for image in images])


def training_set(data_dir: Path, split: dict[str, str], classes: Sequence[str], size: int = CROP_SIZE) -> Examples:
    """Return all views of the training images."""
    images = in_split(split, "train")
    features = extract_features(training_views(data_dir, images), data_dir, size)
    views = len(features) // len(images)
    return Examples(features, np.tile(label_images(images, classes), views), np.tile(images, views))


def plain_set(
    data_dir: Path, images: Sequence[str], classes: Sequence[str], whole_photos: bool, size: int = CROP_SIZE
) -> Examples:
    """Return the images as they are: their crops, or the whole photos."""
    view = photo_view if whole_photos else crop_view
    features = extract_features([view(data_dir, image) for image in images], data_dir, size)
    return Examples(features, label_images(images, classes), np.array(images))


def validation_set(data_dir: Path, split: dict[str, str], classes: Sequence[str], size: int = CROP_SIZE) -> Examples:
    """Return the validation images, crops first, then the whole photos."""
    images = in_split(split, "validation")
    return join(*(plain_set(data_dir, images, classes, whole_photos, size) for whole_photos in (False, True)))


def calibrate(weights: Sequence[np.ndarray], logits: np.ndarray, labels: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Find the temperature on the logits [n, classes] of held-out pictures; return weights that contain it, and it."""
    temperature = fit_temperature(logits, labels)
    return [*weights[:-2], weights[-2] / temperature, weights[-1] / temperature], temperature


def unknown_photos(data_dir: Path, classes: Sequence[str], number: int, seed: int) -> list[str]:
    """Return up to `number` images of breeds that are not among the classes, drawn with the seed."""
    others = [folder for breed, folder in breed_folders(data_dir).items() if breed not in classes]
    images = [f"{folder}/{entry.name}" for folder in others for entry in os.scandir(images_dir(data_dir) / folder)]
    return np.random.default_rng(seed).permutation(sorted(images))[:number].tolist()


def measure_on_test(
    data_dir: Path,
    split: dict[str, str],
    classes: Sequence[str],
    weights: Sequence[np.ndarray],
    temperature: float,
    means: np.ndarray,
    threshold: float,
    seed: int,
    size: int = CROP_SIZE,
) -> dict:
    """Open the test images, for the first and only time, and return everything measured on them."""
    images = in_split(split, "test")
    results = {}
    for name, whole_photos in (("crops", False), ("whole_photos", True)):
        pictures = plain_set(data_dir, images, classes, whole_photos, size)
        results[name] = evaluate(apply_head(weights, pictures.features), pictures.labels, classes, temperature)
        known = similarity(pictures.features, means)
        results[name]["taken_as_known"] = float((known >= threshold).mean())
    unknown = unknown_photos(data_dir, classes, UNKNOWN_PHOTOS, seed)
    if unknown:
        views = [photo_view(data_dir, image) for image in unknown]
        scores = similarity(extract_features(views, data_dir, size), means)
        results["unknown_breeds"] = {
            "pictures": len(unknown),
            "auroc_whole_photos": auroc(known, scores),
            "taken_as_known": float((scores >= threshold).mean()),
        }
    return results


def make_report(
    data_dir: Path,
    classes: Sequence[str],
    split: dict[str, str],
    trials: Sequence[dict],
    finalists: Sequence[dict],
    temperature: float,
    threshold: float,
    results: dict,
    seed: int,
    size: int = CROP_SIZE,
) -> dict:
    """Return what is written beside the model: what it learned from, how it was chosen and what it can do."""
    return {
        "test_accuracy": results["crops"]["accuracy"],
        "test_accuracy_whole_photos": results["whole_photos"]["accuracy"],
        "note": "Stanford Dogs is a part of ImageNet, on which the backbone was trained: these figures are optimistic.",
        "classes": classes,
        "size": size,
        "photo_share": PHOTO_SHARE,
        "seed": seed,
        "images": {part: len(in_split(split, part)) for part in ("train", "validation", "test")},
        "temperature": temperature,
        "unknown_rule": {"score": "similarity", "threshold": threshold},
        "winner": finalists[0],
        "finalists": finalists,
        "test": results,
        "trials": trials,
        "settings": {
            "crop_views": CROP_VIEWS,
            "photo_views": PHOTO_VIEWS,
            "max_rotation": MAX_ROTATION,
            "weight_decay": WEIGHT_DECAY,
            "label_smoothing": LABEL_SMOOTHING,
            "batch_size": BATCH_SIZE,
            "patience": PATIENCE,
        },
        "data_dir": str(data_dir),
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}
        | {"numpy": np.__version__, "pillow": PIL_VERSION},
    }


def save_results(
    output_dir: Path,
    data_dir: Path,
    split: dict[str, str],
    weights: Sequence[np.ndarray],
    means: np.ndarray,
    report: dict,
) -> Path:
    """Save the model under the original's name pattern, beside it the report and the split. The model comes last."""
    path = output_dir / MODEL_NAME.format(**report["winner"])
    output_dir.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{image},{part}\n" for image, part in sorted(split.items()))
    write_atomically(path.with_suffix(".csv"), "image,split\n" + rows)
    write_atomically(path.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    save_model(build_model(data_dir, weights, means, report["size"]), path)
    return path


def train_classifier(
    data_dir: Path = DATA_DIR,
    breeds: Sequence[str] = ("top10",),
    output_dir: Path = Path(),
    split_file: Path | None = None,
    quick: bool = False,
    seed: int = SEED,
    size: int = CROP_SIZE,
) -> Path:
    """Take every step, from the photos to the saved model; return the model's path."""
    began = time.monotonic()
    classes, split = prepare_split(data_dir, breeds, split_file, seed)
    sizes = {part: len(in_split(split, part)) for part in ("train", "validation", "test")}
    print(f"{len(classes)} breeds, images: " + ", ".join(f"{n:,} {part}" for part, n in sizes.items()), flush=True)

    train = training_set(data_dir, split, classes, size)
    validation = validation_set(data_dir, split, classes, size)
    trials, finalists, weights, logits = search(train, validation, QUICK_GRID if quick else GRID, len(classes), seed)
    weights, temperature = calibrate(weights, logits, join(train, validation).labels)
    means, threshold = fit_unknown_rule(train, validation, len(classes))
    results = measure_on_test(data_dir, split, classes, weights, temperature, means, threshold, seed, size)

    report = make_report(data_dir, classes, split, trials, finalists, temperature, threshold, results, seed, size)
    report["seconds"] = round(time.monotonic() - began, 1)
    path = save_results(output_dir, data_dir, split, weights, means, report)
    print_summary(report, path)
    return path


def print_summary(report: dict, path: Path) -> None:
    """Print the winner and what the test images say of it."""
    winner = report["winner"]
    print(
        f"best: learning rate {winner['learning_rate']:.1e}, inner size {winner['inner_size']}, "
        f"dropout {winner['dropout']}, cross-validated accuracy {winner['val_accuracy']:.3f}"
    )
    for name in ("crops", "whole_photos"):
        result = report["test"][name]
        low, high = result["accuracy_interval_95"]
        print(
            f"test accuracy on {name.replace('_', ' ')}: {result['accuracy']:.2%} of {result['pictures']} pictures "
            f"(95 % interval {low:.1%} to {high:.1%}), calibration error {result['calibration_error']:.1%}"
        )
    if "unknown_breeds" in report["test"]:
        unknown = report["test"]["unknown_breeds"]
        share = unknown["taken_as_known"]
        print(f"photos of other breeds: AUROC {unknown['auroc_whole_photos']:.3f}, {share:.0%} taken as known")
    print(report["note"])
    print(f"saved {path} with its report (.json) and split (.csv), after {report['seconds']:.0f} s")


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--breeds", nargs="+", default=["top10"], metavar="BREED", help="top10 (default), all, or names"
    )
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="default: data")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="where the model goes (default: here)")
    parser.add_argument("--split-file", type=Path, metavar="CSV", help="use this split: rows of image,split")
    parser.add_argument("--size", type=int, default=CROP_SIZE, help="pixels a side that the model sees (default: 299)")
    parser.add_argument("--quick", action="store_true", help="a small search")
    parser.add_argument("--seed", type=int, default=SEED, help="default: 33")
    args = parser.parse_args()
    try:
        train_classifier(args.data_dir, args.breeds, args.output_dir, args.split_file, args.quick, args.seed, args.size)
    except (OSError, ValueError) as error:
        sys.exit(f"training.py: {error}")
    except KeyboardInterrupt:
        sys.exit("training.py: stopped; the same command continues from the features computed so far")


if __name__ == "__main__":
    main()
