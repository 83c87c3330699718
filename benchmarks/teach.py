"""Measure teach.py on breeds, drawn shapes and digits: accuracy, time, memory and unknown classes.

Reads     a data folder with photos (make_dataset.py) and a split of them. MODEL_CARD.md explains
          all.csv. pip fetches a package for the digits.
Example

    python benchmarks/teach.py --data-dir data --json teach.json
    python benchmarks/teach.py --data-dir data --breeds all --split-file all.csv --model
    models/dog_breeds_120.tflite
    python benchmarks/teach.py --only shapes digits        # or breeds, unknown, added

Time      Ten breeds, shapes and digits: three minutes on 2 cores that do nothing else. 120 breeds:
          a quarter of an hour.
Expect    One figure a line: seconds and peak memory of teaching; accuracy in cross-validation and
          on images that were not taught; the share of images of untaught breeds that is taken as
          known; the loss of --add against teaching all classes at once.

Each file is taught in a separate process."""

import argparse
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from accuracy import accuracy_of, split_task
from common import ROOT, SPLIT_FILE, SPLIT_HELP, Figure, command_line, report
from drawn_shapes import draw_shapes
from PIL import Image

import teach
from dog_breeds.data.dataset import DATA_DIR, Task, breed_name
from dog_breeds.data.duplicates import without_copies
from dog_breeds.learning import own_classes
from dog_breeds.learning.features import VIEW_KINDS, Examples, View, features_by, photo_view
from dog_breeds.learning.heads import apply_head
from dog_breeds.learning.metrics import accuracy
from dog_breeds.learning.rules import highest_logit
from dog_breeds.serving.facts import read_facts

PARTS = ("shapes", "digits", "breeds", "unknown", "added")
KNOWN = (5, 10, 60)  # numbers of taught classes; all other breeds are unknown
DRAWS = 5  # repetitions, because a draw may leave near relatives among the unknown breeds
DIGITS = "scikit-learn==1.7.2"


def run_teach(name: str, images: Path, file: Path, data_dir: Path) -> Iterator[Figure]:
    """Teach a file in a separate process. Yield its time, memory and cross-validated accuracy."""
    began = time.monotonic()
    command = [
        sys.executable,
        ROOT / "teach.py",
        "--images",
        images,
        "--output",
        file,
        "--data-dir",
        data_dir,
    ]
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"benchmarks/teach.py: teach.py failed on {images}")
    yield f"{name}_seconds", time.monotonic() - began, "s"
    yield f"{name}_peak_memory", usage.ru_maxrss * 1024 / 1e6, "MB"
    report = json.loads(file.with_suffix(".json").read_text())
    low, high = report["cross_validation"]["accuracy_interval_95"]
    yield f"{name}_cross_validated_accuracy", 100 * report["cross_validation"]["accuracy"], "%"
    yield f"{name}_cross_validated_lowest", 100 * low, "%"
    yield f"{name}_cross_validated_highest", 100 * high, "%"


def measure_folders(name: str, learned: Path, fresh: Path, folder: Path) -> Iterator[Figure]:
    """Teach the images of one folder, and ask about the images of another folder."""
    file = folder / f"{name}.tflite"
    yield from run_teach(name, learned, file, folder / "data")
    paths = sorted(fresh.glob("*/*.png"))
    share = read_facts(file)["photo_share"]
    views, classes = [View(path, share) for path in paths], [path.parent.name for path in paths]
    yield f"{name}_accuracy", accuracy_of(file, views, classes, read_facts(file)["classes"]), "%"


def measure_shapes(folder: Path) -> Iterator[Figure]:
    """Teach five shapes with 40 images each, and ask about 40 others."""
    yield from measure_folders(
        "shapes", draw_shapes(folder / "a", 40), draw_shapes(folder / "b", 40, 1), folder
    )


def measure_digits(folder: Path) -> Iterator[Figure]:
    """Teach handwritten digits of 8 x 8 pixels (scikit-learn), 40 of each. Ask about the other
    1,397."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-qq",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        folder,
        DIGITS,
    ]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(folder.glob("scikit_learn-*.whl"))) as wheel:
        table = gzip.decompress(wheel.read("sklearn/datasets/data/digits.csv.gz")).decode()
    rows = np.array([[float(value) for value in row] for row in csv.reader(io.StringIO(table))])
    np.random.default_rng(0).shuffle(rows)  # the digits are sorted by writer
    seen = np.zeros(10, int)
    for number, (*values, digit) in enumerate(rows.astype(int)):
        place = folder / ("taught" if seen[digit] < 40 else "fresh") / f"digit_{digit}"
        place.mkdir(parents=True, exist_ok=True)
        seen[digit] += 1
        cells = Image.fromarray((np.reshape(values, (8, 8)) * 255 // 16).astype(np.uint8))
        cells.resize((299, 299), Image.Resampling.BICUBIC).save(place / f"{number}.png")
    yield from measure_folders("digits", folder / "taught", folder / "fresh", folder)


def measure_breeds(task: Task, model: Path, folder: Path) -> Iterator[Figure]:
    """Teach breeds with the whole photos of the train part. Ask about crops and whole photos of the
    test part."""
    name, file = f"breeds_{len(task.classes)}", folder / "breeds.tflite"
    for image in learned_images(task):
        link = folder / "photos" / breed_name(image.split("/")[0]) / image.split("/")[1]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(task.photo(image).resolve())
    yield from run_teach(name, folder / "photos", file, task.data_dir)
    images = asked_images(task)
    classes = [task.classes[label] for label in task.labels(images)]
    for kind, view in VIEW_KINDS.items():
        views = [view(task, image) for image in images]
        yield f"{name}_accuracy_{kind}", accuracy_of(file, views, classes, task.classes), "%"
        facts = read_facts(model)
        if facts["classes"] == task.classes and facts.get("test"):
            yield (
                f"{name}_accuracy_{kind}_of_training.py",
                100 * facts["test"][kind]["accuracy"],
                "%",
            )


def learned_images(task: Task) -> list[str]:
    """Return the images on which the head is trained."""
    return [*task.images("train"), *task.images("validation")]


def asked_images(task: Task) -> list[str]:
    """Return the images on which the head is tested."""
    return without_copies(task, task.images("test"))


def photo_examples(task: Task, images: list[str]) -> Examples:
    """Return the features of the whole photos."""
    views = [photo_view(task, image) for image in images]
    features = features_by(teach.BACKBONE, views, task.feature_cache)
    return Examples(features, task.labels(images), np.arange(len(images)))


def taught(examples: Examples, seed: int) -> own_classes.Lesson:
    """Teach classes. The score for upright images gets only a few rows, because nothing here uses
    it."""
    few = examples.take(slice(100))
    return own_classes.teach(examples, few._replace(labels=np.arange(len(few.labels)) % 2), seed)


def measure_added(task: Task) -> Iterator[Figure]:
    """Add each of ten breeds with --add. Compare the accuracy on the test part's whole photos with
    teaching all at once."""
    learned, asked = (
        photo_examples(task, learned_images(task)),
        photo_examples(task, asked_images(task)),
    )
    at_once, _, _ = taught(learned, task.seed)
    yield (
        "teach_at_once_accuracy",
        100 * accuracy(apply_head(at_once.weights, asked.features), asked.labels),
        "%",
    )
    shares = []
    for new in np.random.default_rng(task.seed).permutation(len(task.classes))[:10]:
        # The new class comes last
        place = np.arange(len(task.classes)) - (np.arange(len(task.classes)) > new)
        place[new] = len(place) - 1
        old, added = (learned.take(rows) for rows in (learned.labels != new, learned.labels == new))
        before, _, _ = taught(old._replace(labels=place[old.labels]), task.seed)
        alone = added._replace(labels=np.zeros(len(added.labels), int))
        after, _, _ = own_classes.teach_beside(alone, before, task.seed)
        right = apply_head(after.weights, asked.features).argmax(axis=1) == place[asked.labels]
        at_once_right = apply_head(at_once.weights, asked.features).argmax(axis=1) == asked.labels
        rows = asked.labels == new
        shares.append((right.mean(), right[rows].mean(), at_once_right[rows].mean()))
    names = (
        "teach_added_accuracy",
        "teach_added_accuracy_on_the_added",
        "teach_at_once_accuracy_on_the_added",
    )
    for name, share in zip(names, np.mean(shares, axis=0), strict=True):
        yield name, 100 * share, "%"


def measure_unknown(task: Task) -> Iterator[Figure]:
    """Yield the share taken as known of test photos: of taught classes, and of all other breeds."""
    features, labels, _ = photo_examples(task, learned_images(task))
    others, their_labels, _ = photo_examples(task, asked_images(task))
    rng, breeds = np.random.default_rng(task.seed), len(task.classes)
    for number in [number for number in KNOWN if number < breeds]:
        shares = []
        for _ in range(DRAWS):
            known = np.sort(rng.permutation(breeds)[:number])
            rows, asked_known = np.isin(labels, known), np.isin(their_labels, known)
            examples = Examples(
                features[rows], np.searchsorted(known, labels[rows]), np.flatnonzero(rows)
            )
            classifier, _, rules = taught(examples, task.seed)
            logits = apply_head(classifier.weights, others)
            passes = highest_logit(logits) >= classifier.threshold
            reported = rules["unknown_rule"]["pictures_of_a_class_left_out_taken_as_known"]
            shares.append((passes[asked_known].mean(), passes[~asked_known].mean(), reported))
        names = ("known_taken_as_known", "unknown_taken_as_known", "unknown_as_reported")
        for name, column in zip(names, 100 * np.transpose(shares), strict=True):
            yield f"teach_{number}_of_{breeds}_{name}", column.mean(), "%"
            if name == "unknown_taken_as_known":
                yield f"teach_{number}_of_{breeds}_{name}_highest", column.max(), "%"


def measure(args: argparse.Namespace) -> Iterator[Figure]:
    """Yield the figures of the chosen parts."""
    of_breeds = {"breeds", "unknown", "added"} & {*args.only}
    task = split_task(args.data_dir, [args.breeds], args.split_file) if of_breeds else None
    for part in args.only:
        with tempfile.TemporaryDirectory() as folder:
            if part == "breeds":
                yield from measure_breeds(task, args.model, Path(folder))
            elif part in of_breeds:
                yield from {"unknown": measure_unknown, "added": measure_added}[part](task)
            else:
                yield from {"shapes": measure_shapes, "digits": measure_digits}[part](Path(folder))


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="default: %(default)s")
    parser.add_argument(
        "--split-file", type=Path, default=SPLIT_FILE, metavar="CSV", help=SPLIT_HELP
    )
    parser.add_argument("--breeds", default="top10", help="top10 or all (default: top10)")
    parser.add_argument(
        "--model", type=Path, default=teach.BACKBONE, help="file of training.py to compare with"
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="measure these parts alone"
    )
    args = parser.parse_args()
    report(measure(args), args.json)


if __name__ == "__main__":
    main()
