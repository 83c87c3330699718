"""Views of images, their features from the frozen backbone, and the cache of features.

Heads are trained on the features of the int8 backbone, which is also the backbone of the service.
All breeds share the backbone in recipe.MODEL. `make_backbone` creates another one.
"""

import math
import os
import zlib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dog_breeds import recipe
from dog_breeds.console import atomic_path, check_writable, with_progress
from dog_breeds.data.dataset import Task
from dog_breeds.learning.tflite import cut_backbone, inspect_backbone, print_if_slow, run_file
from dog_breeds.serving.facts import append_facts
from dog_breeds.serving.pixels import read_pixels
from dog_breeds.workers import call_in_new_process


class View(NamedTuple):
    """An image file and the transform that makes the model input from it."""

    path: Path
    share: float = 1.0  # of the height and the width, around the centre
    flip: bool = False  # left to right
    angle: float = 0.0  # degrees of rotation


# --- Views ----------------------------------------------------------------------------------------


def photo_view(task: Task, image: str) -> View:
    """Return the view of an image's whole photo, cut to its central part (recipe.PHOTO_SHARE)."""
    return View(task.photo(image), recipe.PHOTO_SHARE)


def crop_view(task: Task, image: str) -> View:
    """Return the view of the crop that data_selection.py made from an image."""
    return View(task.crop(image))


VIEW_KINDS = {"crops": crop_view, "whole_photos": photo_view}  # the model is evaluated on both


def plain_views(task: Task, images: Sequence[str]) -> list[View]:
    """Return the views without augmentation: all crops, then all whole photos."""
    return [view(task, image) for view in VIEW_KINDS.values() for image in images]


def training_views(task: Task, images: Sequence[str]) -> list[View]:
    """Return the augmented views to train on.

    All crops come first, then all whole photos. Each group has one view for each image, in the
    order of `images`.
    """
    views = [crop_view] * recipe.CROP_VIEWS + [photo_view] * recipe.PHOTO_VIEWS
    return [
        augmented(view(task, image), task.seed, number, image)
        for number, view in enumerate(views)
        for image in images
    ]


def augmented(view: View, seed: int, number: int, image: str) -> View:
    """Return a view with a random flip and rotation.

    The result depends only on the image's name, the number of the view among the image's views, and
    the seed. The view is therefore the same in all splits, and its cached features can be reused.
    """
    rng = np.random.default_rng([seed, number, zlib.crc32(image.encode())])
    flip = bool(rng.random() < 0.5)
    return view._replace(
        flip=flip, angle=round(rng.uniform(-recipe.MAX_ROTATION, recipe.MAX_ROTATION), 2)
    )


def turned(view: View) -> View:
    """Return a view rotated by 90, 180 or 270 degrees; the file's name determines the angle."""
    quarters = 1 + zlib.crc32(os.fsencode(view.path.name)) % 3
    return view._replace(angle=view.angle + 90 * quarters)


def load_pixels(view: View, size: int) -> np.ndarray:
    """Return the pixels of a view, uint8 RGB [size, size, 3].

    After a rotation, mirrored pixels fill the empty corners. Raises OSError with the file's name if
    the image cannot be read.
    """
    try:
        pixels = read_pixels(view.path, size, view.share)
    except Exception as error:  # Pillow raises many kinds of exception for a damaged file
        raise OSError(f"{view.path}: {error}") from None
    if view.flip:
        pixels = pixels[:, ::-1]
    if view.angle:  # pad with mirrored pixels, rotate, and cut the padding off
        margin = math.ceil(recipe.ROTATION_MARGIN * size)
        padding = (margin, margin), (margin, margin), (0, 0)
        padded = Image.fromarray(np.pad(pixels, padding, "reflect"))
        rotated = np.asarray(padded.rotate(view.angle, Image.Resampling.BILINEAR))
        pixels = rotated[margin:-margin, margin:-margin]
    return pixels


def is_readable(view: View) -> bool:
    """Return whether the image file of a view can be read."""
    try:
        load_pixels(view, recipe.SIZE)
    except OSError:
        return False
    return True


# --- The backbone ---------------------------------------------------------------------------------


def make_backbone(task: Task, path: Path) -> None:
    """Convert the recipe's backbone to int8 and write it as a model file without a head.

    Training photos of the task set the int8 ranges. The same photos and weights give the same file
    on the same kind of CPU. Takes about a minute on 2 cores. Raises ValueError if the file already
    exists, FileNotFoundError if there are no weights.
    """
    if path.suffix != ".tflite" or path.exists():
        raise ValueError(f"a new backbone needs a new file that ends in .tflite, not {path}")
    if not task.weights.is_file():
        raise FileNotFoundError(f"no weights in {task.weights}; run make_dataset.py first")
    check_writable(path.parent)
    print(f"{path}: converting {recipe.BACKBONE} to int8 ...", flush=True)
    views = calibration_views(task)
    with atomic_path(path) as temporary:
        arguments = task.weights, task.size, views, temporary
        call_in_new_process("dog_breeds.learning.xception", "write_backbone", *arguments)
        temporary.write_bytes(cut_backbone(temporary.read_bytes()))
        provenance = {
            "sha256": {task.weights.name: sha256(task.weights.read_bytes()).hexdigest()},
            "calibration": {
                "photos": len(views),
                "sha256": sha256(b"".join(view_keys(views))).hexdigest(),
            },
        }
        append_facts(
            temporary, backbone_facts(task.size) | {"classes": [], "provenance": provenance}
        )


def backbone_facts(size: int) -> dict:
    """Return the facts about the backbone that every model file contains."""
    pixels = {"height": size, "width": size, "channels": 3, "dtype": "float32", "range": [0, 255]}
    return {
        "format_version": 1,
        "input": pixels | {"color": "RGB"},
        "photo_share": recipe.PHOTO_SHARE,  # the central share of a photo that the model sees
        "quantization": "int8",
    }


def calibration_views(task: Task) -> list[View]:
    """Return crops and whole photos of evenly spaced training images, to calibrate int8 ranges."""
    return plain_views(task, evenly_spaced(task.images("train"), recipe.CALIBRATION_IMAGES))


def evenly_spaced(items: Sequence, number: int) -> list:
    """Return `number` items at equal distances, or all items if there are fewer."""
    number = min(number, len(items))
    return [items[i * len(items) // number] for i in range(number)]


def extract_features(views: Sequence[View], task: Task) -> np.ndarray:
    """Return the features [n, D] of views from the task's backbone and cache, see `features_by`."""
    return features_by(task.backbone, views, task.feature_cache)


def features_by(file: Path, views: Sequence[View], cache: Path) -> np.ndarray:
    """Return the features of views from the backbone of a model file, float32 [len(views), D].

    Features that the cache has are not computed again. The cache is a folder of shards for each
    backbone. All model files with the same backbone share the folder. Each row of a shard has a
    key, see `view_keys`. Raises OSError with the file's name if an image cannot be read.
    """
    backbone = inspect_backbone(file)
    cache = cache / f"backbone-{backbone.digest[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    keys = view_keys(views)
    view_of = dict(zip(keys, views, strict=True))  # copies of a file have the same key
    rows: dict[bytes, np.ndarray] = {}
    for shard in sorted(cache.glob("[!.]*.npz")):  # without temporary files, which begin with a dot
        try:
            with np.load(shard) as arrays:
                stored = dict(zip(map(bytes, arrays["keys"]), arrays["features"], strict=True))
        except Exception:  # NumPy raises many kinds of exception for a damaged file
            print(f"features: {shard} is damaged; computing its views again", flush=True)
            shard.unlink()
            continue
        # Copies, because a row would keep the whole shard in memory
        rows |= {key: stored[key].copy() for key in stored.keys() & view_of.keys()}
    print(f"features: {len(rows):,} of {len(view_of):,} views from the cache", flush=True)

    missing, saved = [key for key in view_of if key not in rows], 0
    if missing:
        print_if_slow(file)
    todo = [view_of[key] for key in missing]
    outputs = run_file(file, todo, lambda view: load_pixels(view, backbone.size), ["features"])
    outputs = with_progress(outputs, "features", len(missing), "views")
    for done, (key, (row,)) in enumerate(zip(missing, outputs, strict=True), 1):
        rows[key] = row
        if done - saved == recipe.ROWS_PER_SHARD or done == len(missing):
            save_shard(cache, {key: rows[key] for key in missing[saved:done]})
            saved = done
    return np.array([rows[key] for key in keys], np.float32).reshape(len(views), backbone.width)


def view_keys(views: Sequence[View]) -> list[bytes]:
    """Return a SHA-256 digest for each view, of the file's content and of the transform.

    The digest does not include the version of the image decoder.
    """
    contents = {path: sha256(path.read_bytes()).digest() for path in {view.path for view in views}}
    return [
        sha256(contents[path] + repr(transform).encode()).digest() for path, *transform in views
    ]


def save_shard(cache: Path, rows: dict[bytes, np.ndarray]) -> None:
    """Write rows with their keys to a new shard of the cache.

    The shard's name is a digest of its keys, so two runs at once do not overwrite each other.
    """
    keys = b"".join(rows)
    with atomic_path(cache / f"{sha256(keys).hexdigest()[:16]}.npz") as temporary:
        digests = np.frombuffer(keys, np.uint8).reshape(-1, 32)
        np.savez(temporary, keys=digests, features=np.array([*rows.values()]))


# --- Sets of examples -----------------------------------------------------------------------------


class Examples(NamedTuple):
    """A set of views on which heads are trained or evaluated, with a row for each view."""

    features: np.ndarray  # float32 [n, D]
    labels: np.ndarray  # int [n]
    images: np.ndarray  # str [n]: the image that the view shows

    def take(self, rows: np.ndarray) -> "Examples":
        """Return selected rows. `rows` is a slice, row numbers or bool [n]."""
        return Examples(*(column[rows] for column in self))


def training_set(task: Task) -> Examples:
    """Return the features of all views of the training images."""
    images = task.images("train")
    features = extract_features(training_views(task, images), task)
    times = len(features) // len(images)  # views of each image
    return Examples(features, np.tile(task.labels(images), times), np.tile(images, times))


def plain_set(task: Task, subset: str) -> dict[str, Examples]:
    """Return the images of a subset of the split without augmentation.

    The result has the keys "crops" and "whole_photos".
    """
    images = task.images(subset)
    features = np.split(extract_features(plain_views(task, images), task), len(VIEW_KINDS))
    return {
        kind: Examples(rows, task.labels(images), np.array(images))
        for kind, rows in zip(VIEW_KINDS, features, strict=True)
    }


def upright_set(task: Task) -> Examples:
    """Return augmented whole photos of evenly spaced training images, twice.

    The first half is upright, with label 1. The second half shows the same photos turned, with
    label 0.
    """
    images = evenly_spaced(task.images("train"), recipe.TURNED_PHOTOS)
    # The number that `training_views` gives to the first whole photo of an image. The views are the
    # same, so their features are already in the cache.
    number = recipe.CROP_VIEWS
    upright = [augmented(photo_view(task, image), task.seed, number, image) for image in images]
    features = extract_features([*upright, *map(turned, upright)], task)
    return Examples(features, np.repeat([1, 0], len(images)), np.tile(images, 2))


def join(*sets: Examples) -> Examples:
    """Return the rows of several sets as one set, in order."""
    return Examples(*(np.concatenate(columns) for columns in zip(*sets, strict=True)))
