"""What the frozen backbone makes of the pictures: their views, their features, and the cache of
these.

The backbone is the file that serves: it is made once, and whatever is trained is trained on what it
gives.
"""

import hashlib
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dog_breeds import recipe
from dog_breeds.console import counted, written_whole
from dog_breeds.data.dataset import Task, features_dir
from dog_breeds.learning.tflite import load_file, print_if_slow, run_file
from dog_breeds.serving.pixels import read_pixels
from dog_breeds.workers import call_elsewhere


class View(NamedTuple):
    """A picture as the model is to see it."""

    path: Path
    share: float = 1.0  # of both sides, around the centre
    flip: bool = False  # left to right
    angle: float = 0.0  # degrees of rotation


# --- Views ----------------------------------------------------------------------------------------


def photo_view(task: Task, image: str) -> View:
    """Return the view of an image's whole photo."""
    return View(task.photo(image), recipe.PHOTO_SHARE)


def crop_view(task: Task, image: str) -> View:
    """Return the view of the crop that data_selection.py made of an image."""
    return View(task.crop(image))


KINDS = {"crops": crop_view, "whole_photos": photo_view}  # the model is evaluated on both


def training_views(task: Task, images: Sequence[str]) -> list[View]:
    """Return the views to train on: first an augmented crop of each image, then an augmented whole
    photo of each.
    """
    views = [crop_view] * recipe.CROP_VIEWS + [photo_view] * recipe.PHOTO_VIEWS
    return [
        augmented(view(task, image), task.seed, number, image)
        for number, view in enumerate(views)
        for image in images
    ]


def augmented(view: View, seed: int, number: int, image: str) -> View:
    """Return a view flipped and rotated by chance.

    It depends on the image's name, its number among the image's views and the seed alone: it is the
    same in all splits.
    """
    rng = np.random.default_rng([seed, number, zlib.crc32(image.encode())])
    flip = bool(rng.random() < 0.5)
    return view._replace(
        flip=flip, angle=round(rng.uniform(-recipe.MAX_ROTATION, recipe.MAX_ROTATION), 2)
    )


def turned(view: View) -> View:
    """Return a view turned by one, two or three quarters, of which its file's name decides."""
    quarters = 1 + zlib.crc32(os.fsencode(view.path.name)) % 3
    return view._replace(angle=view.angle + 90 * quarters)


def load_pixels(view: View, size: int | None = None) -> np.ndarray:
    """Return a view's pixels, uint8 RGB [size, size, 3] (default: recipe.SIZE). Corners left empty
    by a rotation show the mirrored edge.

    Raises OSError, with the file's name, for a picture that cannot be read.
    """
    size = size or recipe.SIZE
    try:
        pixels = read_pixels(view.path, size, view.share)
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        raise OSError(f"{view.path}: {error}") from None
    if view.flip:
        pixels = pixels[:, ::-1]
    if view.angle:
        m = math.ceil(recipe.ROTATION_MARGIN * size)
        padded = Image.fromarray(np.pad(pixels, ((m, m), (m, m), (0, 0)), "reflect"))
        pixels = np.asarray(padded.rotate(view.angle, Image.Resampling.BILINEAR))[m:-m, m:-m]
    return pixels


def is_readable(view: View) -> bool:
    """Return whether a view's picture can be read."""
    try:
        load_pixels(view)
    except OSError:
        return False
    return True


# --- The backbone ---------------------------------------------------------------------------------


def make_backbone(task: Task) -> Path:
    """Return the task's backbone file, made first unless it is there: half a minute to a minute on
    2 cores.

    Its name ends in a digest of the pictures that it is calibrated on: other breeds, splits or
    pictures get another.
    """
    weights, views = task.weights, calibration_views(task)
    digest = hashlib.sha256(b"".join(view_keys(views)) + str(task.size).encode()).hexdigest()[:8]
    path = weights.with_name(f"{recipe.BACKBONE.lower()}_int8_{digest}.tflite")
    if not path.exists():
        print(f"{path}: converting {recipe.BACKBONE} to int8, once ...", flush=True)
        call_elsewhere(
            "dog_breeds.learning.xception",
            "write_backbone",
            weights,
            task.size,
            views,
            "int8",
            path,
        )
    return path


def calibration_views(task: Task) -> list[View]:
    """Return the crops and the whole photos of evenly spaced training images."""
    images = evenly_spaced(task.images("train"), recipe.CALIBRATION_IMAGES)
    return [view(task, image) for view in KINDS.values() for image in images]


def evenly_spaced(items: Sequence, number: int) -> list:
    """Return `number` of the items at equal distances, or all of them if there are fewer."""
    number = min(number, len(items))
    return [items[i * len(items) // number] for i in range(number)]


def extract_features(views: Sequence[View], task: Task) -> np.ndarray:
    """Return the features of the views by the task's backbone file, as `features_by` does."""
    return features_by(task.backbone, views, task.data_dir, task.size)


def features_by(backbone: Path, views: Sequence[View], data_dir: Path, size: int) -> np.ndarray:
    """Return the features of the views, float32 [len(views), D], from the cache as far as it has
    them.

    The cache, data/features/, is a folder of shards for each backbone file; a row is found by its
    view's key. Raises OSError, with the file's name, for a picture that cannot be read.
    """
    digest = hashlib.sha256(backbone.read_bytes()).hexdigest()[:12]
    cache = features_dir(data_dir) / f"{backbone.stem}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    wanted: dict[bytes, list[int]] = {}
    for row, key in enumerate(view_keys(views)):
        wanted.setdefault(key, []).append(row)

    one = load_file(backbone)(np.zeros((size, size, 3), np.uint8))["features"]
    features = np.empty((len(views), len(one)), np.float32)
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
    print(
        f"features: {len(wanted) - len(missing):,} of {len(wanted):,} views from the cache",
        flush=True,
    )

    if missing:
        print_if_slow(backbone)
    keys = list(missing)
    todo = [views[wanted[key][0]] for key in keys]
    saved = 0
    rows = run_file(backbone, todo, lambda view: load_pixels(view, size), ["features"])
    for done, (row,) in enumerate(counted(rows, "features", len(keys), "views"), 1):
        features[wanted[keys[done - 1]]] = row
        if done - saved == recipe.ROWS_PER_SHARD or done == len(keys):
            save_shard(
                cache, keys[saved:done], features[[wanted[key][0] for key in keys[saved:done]]]
            )
            saved = done
    return features


def view_keys(views: Sequence[View]) -> list[bytes]:
    """Return a digest for each view, of the file's content and of what is done to the picture; not
    of its decoder.
    """
    contents = {
        path: hashlib.sha256(path.read_bytes()).digest() for path in {view.path for view in views}
    }
    return [hashlib.sha256(contents[path] + repr(how).encode()).digest() for path, *how in views]


def save_shard(cache: Path, keys: Sequence[bytes], rows: np.ndarray) -> None:
    """Add rows to the cache. The name follows from the keys, so that two runs at once do not
    disturb each other.
    """
    path = cache / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}.npz"
    with written_whole(path) as part:
        np.savez(part, keys=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32), features=rows)


# --- Sets of examples -----------------------------------------------------------------------------


class Examples(NamedTuple):
    """What heads are trained and judged on: a row for each view."""

    features: np.ndarray  # float32 [n, D]
    labels: np.ndarray  # int [n]
    images: np.ndarray  # str [n]: the image that the view shows


def training_set(task: Task) -> Examples:
    """Return all views of the training images."""
    images = task.images("train")
    features = extract_features(training_views(task, images), task)
    views = len(features) // len(images)
    return Examples(features, np.tile(task.labels(images), views), np.tile(images, views))


def plain_set(task: Task, part: str) -> dict[str, Examples]:
    """Return the images of a part of the split as they are: {"crops": Examples, "whole_photos":
    Examples}.
    """
    images = task.images(part)
    views = {kind: [view(task, image) for image in images] for kind, view in KINDS.items()}
    rows = extract_features([view for kind in views.values() for view in kind], task)
    features = dict(zip(KINDS, rows.reshape(len(KINDS), len(images), -1), strict=True))
    return {kind: Examples(features[kind], task.labels(images), np.array(images)) for kind in KINDS}


def upright_set(task: Task) -> Examples:
    """Return some of the whole photos to train on, augmented: upright with label 1, and turned with
    label 0.
    """
    images = evenly_spaced(task.images("train"), recipe.TURNED_PHOTOS)
    number = (
        recipe.CROP_VIEWS
    )  # what training_views gives the first whole photo: its features are in the cache
    upright = [augmented(photo_view(task, image), task.seed, number, image) for image in images]
    features = extract_features([*upright, *map(turned, upright)], task)
    return Examples(features, np.repeat([1, 0], len(images)), np.tile(images, 2))


def join(*parts: Examples) -> Examples:
    """Return all rows as one."""
    return Examples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
