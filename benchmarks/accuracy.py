"""Measure the accuracy over several seeds, on the authors' own split and on 70/15/15 splits.

Reads     data/raw and data/weights, made by make_dataset.py, and a split. The int8 backbone of the
          first seed computes the features of each view once, 80 a second on 2 cores. They are kept
          in data/features.
Example

    python benchmarks/accuracy.py --json accuracy.json
    python benchmarks/accuracy.py --breeds all --split-file all.csv --random-splits 0
    python benchmarks/accuracy.py --compare
    python benchmarks/accuracy.py --restricted models/dog_breeds_120.tflite

Expect    One figure a line, for test crops and whole photos: accuracy, top-5 accuracy, calibration
          error and the share taken as known; and how well the score separates known breeds from
          unknown breeds and from drawings. The figures are also those of the int8 file, because
          NumPy gives the same results as its head.

--compare trains with other crop shares and numbers of views instead, and prints the accuracy on
validation images. The constants in dog_breeds/recipe.py were chosen by it. --restricted trains
nothing. It asks a file with more breeds about the test images of --breeds, and takes the likeliest
of these breeds as the answer."""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import SPLIT_FILE, SPLIT_HELP, Figure, command_line, report
from drawings import draw_non_dogs

from data_selection import crop_breeds
from dog_breeds import recipe
from dog_breeds.data.dataset import (
    DATA_DIR,
    Task,
    apply_split,
    breed_folders,
    choose_breeds,
    list_images,
    read_split,
    split_images,
)
from dog_breeds.data.duplicates import without_copies
from dog_breeds.learning.features import (
    VIEW_KINDS,
    View,
    extract_features,
    load_pixels,
    plain_set,
    training_set,
    upright_set,
)
from dog_breeds.learning.heads import (
    Classifier,
    apply_head,
    epochs_for,
    fit_classifier,
    search,
    train_head,
)
from dog_breeds.learning.metrics import auroc, log_softmax
from dog_breeds.learning.tflite import run_file
from dog_breeds.serving.facts import read_facts
from training import measure_on_test, prepare_task

SEEDS = (33, 34, 35)  # with the official split
UNKNOWN_PHOTOS = 1000  # maximum number of photos of breeds that are not among the classes


class Trained(NamedTuple):
    """A task, the classifier that was trained for it, and the chosen settings."""

    task: Task
    classifier: Classifier
    winner: dict


def train(task: Task) -> Trained:
    """Train as training.py does, but do not print the table of trials."""
    with contextlib.redirect_stdout(io.StringIO()):
        sets = training_set(task), plain_set(task, "validation")
        found = search(*sets, recipe.GRID, len(task.classes), task.seed)
        classifier = fit_classifier(*sets, upright_set(task), found, task.seed)
        return Trained(task, classifier, found.winner | {"seed": task.seed})


def measure(model: Trained) -> dict[str, dict]:
    """Return figures in percent, and the result of `scores`, for test crops and whole photos."""
    result, (results, outputs) = {}, measure_on_test(model.task, model.classifier)
    labels = model.task.labels(outputs["images"])
    for kind, figures in ((kind, results[kind]) for kind in VIEW_KINDS):
        logits = outputs[kind]["logits"]
        five = np.argsort(logits, axis=1)[:, -5:] == labels[:, None]
        shares = {
            "accuracy": figures["accuracy"],
            "top_5": five.any(axis=1).mean(),
            "ece": figures["calibration_error"],
            "ece_before": figures["calibration_error_before"],
            "taken_as_known": figures["taken_as_known"],
        }
        result[kind] = {
            "shares": {name: 100 * float(share) for name, share in shares.items()},
            "scores": scores(logits),
        }
    return result


def scores(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Return three scores for each image. Each score should be lower for unknown breeds."""
    top = logits.max(axis=1)
    return {
        "logit": top,  # the score of the model file
        "energy": top
        + np.log(np.exp(logits - top[:, None]).sum(axis=1)),  # Liu et al. 2020, arXiv:2010.03759
        "probability": log_softmax(logits).max(axis=1),
    }


def scores_of(classifier: Classifier, features: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same scores for features."""
    return scores(apply_head(classifier.weights, features))


def other_features(task: Task) -> dict[str, dict[str, np.ndarray]]:
    """Return the features of images that show none of the classes, as crops and as whole photos."""
    data_dir, others = task.data_dir, {}
    breeds = [breed for breed in breed_folders(data_dir) if breed not in task.classes]
    if breeds:
        crop_breeds(data_dir, breeds)
        images = sorted(
            image for names in list_images(data_dir, breeds).values() for image in names
        )
        images = np.random.default_rng(0).permutation(images)[:UNKNOWN_PHOTOS].tolist()
        others["unknown_breeds"] = {
            kind: extract_features([view(task, image) for image in images], task)
            for kind, view in VIEW_KINDS.items()
        }
    with tempfile.TemporaryDirectory() as folder:
        others["non_dogs"] = dict.fromkeys(
            VIEW_KINDS, extract_features(draw_non_dogs(Path(folder)), task)
        )
    return others


def compare(data_dir: Path) -> Iterator[Figure]:
    """Return the mean validation accuracy of five splits, on crops and whole photos, for other
    constants."""
    chosen = (recipe.PHOTO_SHARE, recipe.CROP_VIEWS, recipe.PHOTO_VIEWS)
    others = [(share, *chosen[1:]) for share in (1.0, 0.75)]
    others += [(chosen[0], *views) for views in ((1, 0), (0, 1), (2, 1), (2, 2))]
    with contextlib.redirect_stdout(io.StringIO()):
        first = prepare_task(data_dir)  # all seeds share its backbone
    images = list_images(data_dir, first.classes)
    for variant in (chosen, *others):
        recipe.PHOTO_SHARE, recipe.CROP_VIEWS, recipe.PHOTO_VIEWS = variant
        correct = []
        for seed in range(33, 38):
            with contextlib.redirect_stdout(io.StringIO()):
                task = replace(first, split=split_images(images, seed), seed=seed)
                validation, examples = plain_set(task, "validation"), training_set(task)
            epochs = epochs_for(len(examples.labels), recipe.STEPS, recipe.EPOCHS)
            _, weights = train_head(examples, recipe.PLAIN_TRIAL, len(task.classes), seed, epochs)
            logits = {kind: apply_head(weights, validation[kind].features) for kind in VIEW_KINDS}
            correct.append(
                [
                    (logits[kind].argmax(axis=1) == validation[kind].labels).mean()
                    for kind in VIEW_KINDS
                ]
            )
        name = "photo_share_{}_crop_views_{}_photo_views_{}".format(*variant)
        for kind, share in zip(VIEW_KINDS, np.mean(correct, axis=0), strict=True):
            yield f"{name}_validation_{kind}", 100 * share, "%"


def split_task(data_dir: Path, breeds: list[str], split_file: Path) -> Task:
    """Return the breeds and the split of their images as training.py would, and make the missing
    crops."""
    classes = choose_breeds(data_dir, breeds)
    crop_breeds(data_dir, classes)
    return Task(
        data_dir,
        classes,
        apply_split(list_images(data_dir, classes), read_split(split_file), recipe.SEED),
    )


def accuracy_of(
    file: Path, views: list[View], classes: Sequence[str], among: Sequence[str]
) -> float:
    """Return the accuracy of a file on the views, in percent.

    `classes` holds the true class of each view. The answer is the likeliest class `among` these;
    the file's other classes are ignored."""
    facts = read_facts(file)
    columns = [facts["classes"].index(name) for name in among]
    rows = run_file(
        file, views, lambda view: load_pixels(view, facts["input"]["height"]), ["probabilities"]
    )
    guesses = [among[probabilities[columns].argmax()] for (probabilities,) in rows]
    return 100 * float(
        np.mean([guess == name for guess, name in zip(guesses, classes, strict=True)])
    )


def restricted(
    data_dir: Path, breeds: list[str], split_file: Path, model: Path
) -> Iterator[Figure]:
    """Return the accuracy of a file whose answer is the likeliest of these breeds. Copies of
    training images are left out."""
    task = split_task(data_dir, breeds, split_file)
    images = without_copies(task, task.images("test"))
    classes = [task.classes[label] for label in task.labels(images)]
    yield "restricted_pictures", len(images), ""
    for kind, view in VIEW_KINDS.items():
        views = [view(task, image) for image in images]
        yield f"restricted_accuracy_{kind}", accuracy_of(model, views, classes, task.classes), "%"


def measure_all(args: argparse.Namespace) -> Iterator[Figure]:
    """Train with every seed and split, and measure."""
    with contextlib.redirect_stdout(io.StringIO()):
        first = prepare_task(args.data_dir, args.breeds, args.split_file, seed=SEEDS[0])
    images, given = list_images(args.data_dir, first.classes), read_split(args.split_file)
    runs = [("official", apply_split(images, given, seed), seed) for seed in SEEDS]
    runs += [
        ("random_split", split_images(images, 33 + number), 33 + number)
        for number in range(args.random_splits)
    ]
    models: dict[str, list[Trained]] = {}
    for protocol, split, seed in runs:
        models.setdefault(protocol, []).append(train(replace(first, split=split, seed=seed)))
    with contextlib.redirect_stdout(io.StringIO()):
        others = other_features(models["official"][0].task)
        results = {
            protocol: [measure(model) for model in trained] for protocol, trained in models.items()
        }
    for protocol, trained in models.items():
        for kind in VIEW_KINDS:
            yield from summary(protocol, kind, results[protocol])
            for other, features in others.items():
                yield from separation(
                    protocol, kind, other, features[kind], trained, results[protocol]
                )
        for model in trained:
            names = ("seed", "learning_rate", "inner_size", "dropout", "epoch")
            chosen = ", ".join(f"{name} {model.winner[name]}" for name in names)
            print(f"# {chosen}, temperature {model.classifier.temperature:.2f}")


def summary(protocol: str, kind: str, results: list[dict[str, dict]]) -> Iterator[Figure]:
    """Return the mean, the lowest and the highest of several models' shares."""
    for name in results[0][kind]["shares"]:
        values = [result[kind]["shares"][name] for result in results]
        for which, value in (
            ("mean", np.mean(values)),
            ("lowest", min(values)),
            ("highest", max(values)),
        ):
            yield f"{protocol}_{name}_{kind}_{which}", value, "%"


def separation(
    protocol: str,
    kind: str,
    other: str,
    features: np.ndarray,
    trained: list[Trained],
    results: list[dict[str, dict]],
) -> Iterator[Figure]:
    """Return how well several models separate their breeds from images with these features."""
    given = [scores_of(model.classifier, features) for model in trained]
    for score in given[0]:
        areas = [
            auroc(result[kind]["scores"][score], g[score])
            for result, g in zip(results, given, strict=True)
        ]
        yield f"{protocol}_auroc_{score}_{other}_{kind}_mean", np.mean(areas), ""
    passed = [
        (g["logit"] >= m.classifier.threshold).mean() for g, m in zip(given, trained, strict=True)
    ]
    yield f"{protocol}_taken_as_known_{other}_{kind}", 100 * np.mean(passed), "%"


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="default: %(default)s")
    parser.add_argument(
        "--breeds",
        nargs="+",
        default=["top10"],
        metavar="BREED",
        help="top10 (default), all or names",
    )
    parser.add_argument(
        "--split-file", type=Path, default=SPLIT_FILE, metavar="CSV", help=SPLIT_HELP
    )
    parser.add_argument(
        "--random-splits", type=int, default=5, metavar="N", help="of 70/15/15 (default: 5)"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--compare", action="store_true", help="compare frames and numbers of views instead"
    )
    other.add_argument(
        "--restricted",
        type=Path,
        metavar="FILE.tflite",
        help="ask this file for --breeds alone instead",
    )
    args = parser.parse_args()
    if args.compare:
        figures = compare(args.data_dir)
    elif args.restricted:
        figures = restricted(args.data_dir, args.breeds, args.split_file, args.restricted)
    else:
        figures = measure_all(args)
    report(figures, args.json)


if __name__ == "__main__":
    main()
