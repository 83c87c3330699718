"""What Xception's frozen backbone makes of the pictures: their views, their features, and the cache of these."""

import hashlib
import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dog_breeds import recipe
from dog_breeds.console import progress, quiet, written_whole
from dog_breeds.dataset import Task, breed_name, images_dir, processed_dir, weights_path
from dog_breeds.pixels import read_pixels
from dog_breeds.workers import cpu_count

with quiet():  # TensorFlow greets with remarks on its log and on missing GPUs
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    tf.config.list_physical_devices()


class View(NamedTuple):
    """A picture as the model is to see it."""

    path: Path
    share: float = 1.0  # of both sides, around the centre
    flip: bool = False  # left to right
    angle: float = 0.0  # degrees of rotation

    @property
    def picture(self) -> tuple[Path, float]:
        """What of a view a model file is given: file and share."""
        return self.path, self.share


# --- Views -----------------------------------------------------------------------------------------------------------


def photo_view(data_dir: Path, image: str) -> View:
    """Return the view of a whole photo, for an image such as `n02085936-Maltese_dog/n02085936_37.jpg`."""
    return View(images_dir(data_dir) / image, recipe.PHOTO_SHARE)


def crop_view(data_dir: Path, image: str) -> View:
    """Return the view of the crop that data_selection.py made of an image."""
    folder, file = image.split("/")
    return View(processed_dir(data_dir) / breed_name(folder) / file)


KINDS = {"crops": crop_view, "whole_photos": photo_view}  # what the model is judged on


def training_views(data_dir: Path, images: Sequence[str], seed: int) -> list[View]:
    """Return the views to train on: of each image an augmented crop, then of each an augmented whole photo.

    An image's views depend on its name and the seed alone, so that other splits find them in the cache.
    """

    def augmented(view: View, number: int, image: str) -> View:
        rng = np.random.default_rng([seed, number, zlib.crc32(image.encode())])
        return view._replace(
            flip=bool(rng.random() < 0.5), angle=round(rng.uniform(-recipe.MAX_ROTATION, recipe.MAX_ROTATION), 2)
        )

    views = [crop_view] * recipe.CROP_VIEWS + [photo_view] * recipe.PHOTO_VIEWS
    return [augmented(view(data_dir, image), number, image) for number, view in enumerate(views) for image in images]


def load_pixels(view: View, size: int = recipe.SIZE) -> np.ndarray:
    """Return a view's pixels, uint8 RGB [size, size, 3]. Corners left empty by a rotation show the mirrored edge."""
    pixels = read_pixels(view.path, size, view.share)
    if view.flip:
        pixels = pixels[:, ::-1]
    if view.angle:
        m = math.ceil(recipe.ROTATION_MARGIN * size)
        padded = Image.fromarray(np.pad(pixels, ((m, m), (m, m), (0, 0)), "reflect"))
        pixels = np.asarray(padded.rotate(view.angle, Image.Resampling.BILINEAR))[m:-m, m:-m]
    return pixels


# --- Features --------------------------------------------------------------------------------------------------------


def extract_features(
    views: Sequence[View], data_dir: Path, size: int = recipe.SIZE, devices: tuple[str, ...] = ()
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
    for shard in sorted(cache.glob("[!.]*.npz")):
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
            if waiting >= recipe.ROWS_PER_SHARD or done == len(keys):
                rows = np.concatenate(pending)
                save_shard(cache, keys[done - waiting : done], rows)
                for key, row in zip(keys[done - waiting : done], rows, strict=True):
                    features[wanted[key]] = row
                pending = []
            show(done)
    return features


def view_keys(views: Sequence[View]) -> list[bytes]:
    """Return a digest for each view, of the file's content and of what is done to the picture."""
    contents = {path: hashlib.sha256(path.read_bytes()).digest() for path in {view.path for view in views}}
    return [hashlib.sha256(contents[path] + repr(how).encode()).digest() for path, *how in views]


def save_shard(cache: Path, keys: Sequence[bytes], rows: np.ndarray) -> None:
    """Add rows to the cache. The name follows from the keys, so that two runs at once do not disturb each other."""
    path = cache / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}.npz"
    with written_whole(path) as part:
        np.savez(part, keys=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32), features=rows)


def run_backbone(
    views: Sequence[View], data_dir: Path, size: int, devices: tuple[str, ...] = ()
) -> Iterator[np.ndarray]:
    """Yield the features of the views, batch by batch in their order, while the next pictures are decoded beside it.

    Raises OSError, with the file's name, for a picture that cannot be read.
    """
    strategy, backbone = load_backbone(data_dir, size, devices)
    batch_size = recipe.BACKBONE_BATCH * strategy.num_replicas_in_sync
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

    pictures = tf.data.Dataset.range(len(views) + fill).map(load, num_parallel_calls=cpu_count(), deterministic=True)
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and its thread can take 2 s to end
    batches = strategy.experimental_distribute_dataset(pictures.batch(batch_size).prefetch(2).with_options(options))
    for start, batch in zip(itertools.count(0, batch_size), batches):
        if failures:
            raise OSError(failures[0])
        yield backbone(batch)[: len(views) - start]


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


# --- Sets of examples ------------------------------------------------------------------------------------------------


class Examples(NamedTuple):
    """What heads are trained and judged on: a row for each view."""

    features: np.ndarray  # float32 [n, 2048]
    labels: np.ndarray  # int [n]
    images: np.ndarray  # str [n]: the image that the view shows


def training_set(task: Task) -> Examples:
    """Return all views of the training images."""
    images = task.images("train")
    features = extract_features(training_views(task.data_dir, images, task.seed), task.data_dir, task.size)
    views = len(features) // len(images)
    return Examples(features, np.tile(task.labels(images), views), np.tile(images, views))


def plain_set(task: Task, part: str) -> dict[str, Examples]:
    """Return the images of a part of the split as they are: {"crops": Examples, "whole_photos": Examples}."""
    images = task.images(part)
    views = {kind: [view(task.data_dir, image) for image in images] for kind, view in KINDS.items()}
    rows = extract_features([view for kind in views.values() for view in kind], task.data_dir, task.size)
    features = dict(zip(KINDS, rows.reshape(len(KINDS), len(images), -1), strict=True))
    return {kind: Examples(features[kind], task.labels(images), np.array(images)) for kind in KINDS}


def join(*parts: Examples) -> Examples:
    """Return all rows as one."""
    return Examples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
