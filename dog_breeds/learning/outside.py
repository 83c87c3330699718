"""Photos from outside the training set, sorted by breed, to fit and to measure the rules."""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dog_breeds import recipe
from dog_breeds.data.class_folders import list_class_images
from dog_breeds.data.dataset import Task
from dog_breeds.data.synonyms import match_folders
from dog_breeds.learning.features import Examples, View, extract_features, is_readable
from dog_breeds.learning.heads import Classifier, apply_head
from dog_breeds.learning.metrics import accuracy, expected_calibration_error
from dog_breeds.learning.rules import highest_logit, measure_known


class OutsidePhotos(NamedTuple):
    """Photos from outside the training set: those of known breeds, and features of unknown ones."""

    folder: str  # the last two parts of its path, for facts and the report
    fitting: Examples | None  # of every second known class; None for too few photos or classes
    measuring: Examples  # of the other known classes; of all if `fitting` is None
    unknown: dict[str, np.ndarray]  # features [n, D] of each folder that is not a class


def read_outside(folder: Path, task: Task) -> OutsidePhotos:
    """Return the features of all photos in the sub-folders of a folder.

    Each sub-folder has the name of a breed. Files that cannot be read as photos are left out. The
    function prints the numbers of photos and classes. Raises ValueError if no sub-folder has the
    name of a class.
    """
    class_of, views = {}, {}  # by folder name: the class or None, and the readable photos
    photos = list_class_images(folder)
    for name, breed in match_folders(photos, task.classes).items():
        folder_views = [View(path, recipe.PHOTO_SHARE) for path in photos[name]]
        folder_views = [view for view in folder_views if is_readable(view)]
        if folder_views:
            class_of[name], views[name] = breed, folder_views
    known = [name for name in views if class_of[name]]
    if not known:
        raise ValueError(
            f"no folder in {folder} has the name of a breed that the model knows; --outside needs "
            "a sub-folder for each breed"
        )
    rows = extract_features(list(itertools.chain(*views.values())), task)
    ends = np.cumsum([len(folder_views) for folder_views in views.values()])
    features = dict(zip(views, np.split(rows, ends[:-1]), strict=True))

    def examples(names: list[str]) -> Examples:
        labels = [np.full(len(views[name]), task.classes.index(class_of[name])) for name in names]
        images = [f"{name}/{view.path.name}" for name in names for view in views[name]]
        return Examples(
            np.concatenate([features[name] for name in names]),
            np.concatenate(labels),
            np.array(images),
        )

    # Every second class fits the rules, and the others measure them
    fitting = examples(known[::2])
    classes, photos = len(np.unique(fitting.labels)), len(fitting.labels)
    enough = (
        len(known) > 1 and classes >= recipe.OUTSIDE_CLASSES and photos >= recipe.OUTSIDE_PHOTOS
    )
    unknown = {name: features[name] for name in views if not class_of[name]}
    print(
        f"{folder}: {sum(len(views[name]) for name in known):,} photos of {len(known)} known "
        f"classes, {sum(map(len, unknown.values())):,} of {len(unknown)} others",
        flush=True,
    )
    if not enough:
        print(
            f"{photos} photos of {classes} known classes are too few to fit rules on (at least "
            f"{recipe.OUTSIDE_PHOTOS} of {recipe.OUTSIDE_CLASSES}): the rules are "
            "fitted on held-out photos of the training set instead",
            flush=True,
        )
    name = "/".join(folder.resolve().parts[-2:])
    measuring = examples(known[1::2] if enough else known)
    return OutsidePhotos(name, fitting if enough else None, measuring, unknown)


def describe_fitting(outside: OutsidePhotos) -> str:
    """Return a description of the photos on which the rules are fitted, for facts and report."""
    labels = outside.fitting.labels
    return (
        f"{len(labels):,} photos of {len(np.unique(labels))} classes in {outside.folder}, a folder "
        "of photos that are not in the training set"
    )


def measure_outside(outside: OutsidePhotos, classifier: Classifier) -> dict:
    """Measure the model on the photos on which its rules were not fitted; results are shares 0..1.

    "unknown_classes" has the share of photos of unknown breeds that are wrongly accepted as known.
    """
    features, labels, _ = outside.measuring
    logits = apply_head(classifier.weights, features)
    result = {
        "folder": outside.folder,
        "classes": len(np.unique(labels)),
        "pictures": len(labels),
        "accuracy": accuracy(logits, labels),
        "calibration_error": expected_calibration_error(logits, labels),
    } | measure_known(logits, labels, classifier.rules)
    accepted = {
        name: highest_logit(apply_head(classifier.weights, features)) >= classifier.threshold
        for name, features in outside.unknown.items()
    }
    if accepted:
        result["unknown_classes"] = {
            "pictures": sum(map(len, accepted.values())),
            "taken_as_known": float(np.concatenate([*accepted.values()]).mean()),
            "by_folder": {name: float(flags.mean()) for name, flags in accepted.items()},
        }
    return result
