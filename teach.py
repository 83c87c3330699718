"""Teach your own classes: from a folder of pictures to a model file, in a minute, without TensorFlow.

Reads     a folder with a sub-folder a class, and a model file of this project, of which it takes the backbone.
Writes    my_classes.tflite, served like the others, and my_classes.json, a report. Cache of features: data/features.
Commands  python teach.py --images my_pictures
          python teach.py --images my_pictures --output cats.tflite --backbone dog_breeds_120.tflite
          python test.py --file photo.jpg --model my_classes.tflite       # ask the file about a picture
Five classes of 40 pictures take a quarter of a minute on 2 cores. What the report says of the classes comes from
cross-validation: each picture is judged by a head that has not seen it.
"""

import argparse
import json
import platform
import sys
import time
import unicodedata
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from dog_breeds import recipe
from dog_breeds.console import progress, write_whole, written_whole
from dog_breeds.dataset import DATA_DIR, display_name
from dog_breeds.facts import append_facts, read_facts
from dog_breeds.features import Examples, View, augmented, features_by
from dog_breeds.heads import Classifier, class_means, cross_validate, epochs_for, folds, similarity, train_head
from dog_breeds.metrics import evaluate, fit_temperature, log_softmax
from dog_breeds.tflite import join_head

OUTPUT = Path("my_classes.tflite")
BACKBONE = Path(__file__).with_name("top_10_dog_breeds.tflite")
FORMATS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".gif", ".bmp")
FEWEST = 2 * recipe.FOLDS  # pictures of a class: two in each part of the cross-validation
SURE = 0.9  # probability of another class from which a picture's own class is doubted
SHOWN = 5  # pictures named in the terminal

Pictures = dict[str, list[Path]]  # of each class; classes and paths sorted


# --- The folder ------------------------------------------------------------------------------------------------------


def list_pictures(root: Path) -> Pictures:
    """Return the pictures in a folder's sub-folders, one a class. Raises ValueError where no classes can be learned."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        inside = any(path.is_dir() for path in folders[0].iterdir()) if folders else False
        hint = f"; did you mean --images {folders[0]}?" if inside else ""
        raise ValueError(f"{root} holds {len(folders)} folders; at least two are needed, one for each class{hint}")
    pictures: Pictures = {}
    for folder in folders:
        name = unicodedata.normalize("NFC", folder.name)  # as macOS and others spell the same accents
        if not name.isprintable() or name in pictures:
            raise ValueError(f"{folder}: the name of a class must be printable, and differ from the others'")
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        nested = [path for path in files if path.is_dir()]
        if nested:
            raise ValueError(f"{nested[0]} is a folder inside a class; put the pictures directly into {folder}")
        pictures[name] = [path for path in files if path.suffix.lower() in FORMATS]
        if len(files) > len(pictures[name]):
            print(f"{folder}: {len(files) - len(pictures[name])} files that are no pictures are left out")
    return {name: pictures[name] for name in sorted(pictures)}


def readable(pictures: Pictures) -> Pictures:
    """Return the pictures that can be opened, and name the others; ValueError where a class has too few of them."""
    result: Pictures = {}
    with progress("looking at pictures", sum(map(len, pictures.values())), unit="pictures", scale=1) as show:
        seen = 0
        for name, paths in pictures.items():
            result[name] = []
            for path in paths:
                try:
                    with Image.open(path) as image:
                        image.verify()
                    result[name].append(path)
                except Exception as error:  # Pillow raises nearly anything for a damaged file
                    print(f"{path} is left out: {error or type(error).__name__}")
                seen += 1
                show(seen)
    for name, paths in result.items():
        if len(paths) < FEWEST:
            raise ValueError(f"{name!r} has {len(paths)} readable pictures; a class needs at least {FEWEST}")
    return result


# --- Teaching --------------------------------------------------------------------------------------------------------


def examples_of(pictures: Pictures, backbone: Path, data_dir: Path, seed: int) -> tuple[Examples, np.ndarray]:
    """Return a row for each picture as it is and one for it augmented, and which rows are the former."""
    facts = read_facts(backbone)
    size, share = facts["input"]["height"], facts["photo_share"]
    views, names, labels = [], [], []
    for label, (name, paths) in enumerate(pictures.items()):
        views += [View(path, share) for path in paths]
        names += [f"{name}/{path.name}" for path in paths]
        labels += [label] * len(paths)
    others = [augmented(view, seed, 0, name) for view, name in zip(views, names, strict=True)]
    features = features_by(backbone, views + others, data_dir, size)
    plain = np.arange(len(features)) < len(views)
    return Examples(features, np.tile(labels, 2), np.tile(names, 2)), plain


def teach(examples: Examples, plain: np.ndarray, classes: list[str], seed: int) -> tuple[Classifier, dict]:
    """Train a head for the classes; return it, and what cross-validation says of it.

    Temperature and threshold come from pictures while they were held out: the latter from their similarity to the
    means of the others.
    """
    _, logits = cross_validate(examples, recipe.PLAIN_TRIAL, len(classes), seed)
    logits, labels, images = logits[plain], examples.labels[plain], examples.images[plain]
    temperature = fit_temperature(logits, labels)
    result = evaluate(logits / temperature, labels, classes, temperature)
    probabilities = np.exp(log_softmax(logits / temperature))

    parts = folds(examples, seed)
    scores = np.empty(len(labels))
    for part in range(recipe.FOLDS):
        means = class_means(Examples(*(column[parts != part] for column in examples)))
        held_out = parts[plain] == part
        scores[held_out] = similarity(examples.features[plain][held_out], means)
    threshold = float(np.quantile(scores, 1 - recipe.KNOWN_SHARE))
    means = class_means(examples)
    strangers = np.concatenate(
        [
            similarity(examples.features[plain & (examples.labels == label)], np.delete(means, label, axis=0))
            for label in range(len(classes))
        ]
    )

    guesses = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    result["mistakes"] = [
        {"picture": images[i], "taken_for": classes[guesses[i]], "probability": round(float(probabilities[i].max()), 3)}
        for i in wrong[np.argsort(-probabilities[wrong].max(axis=1))]
    ]
    result["unknown_rule"] = {
        "threshold": threshold,
        "known_pictures_taken_as_known": recipe.KNOWN_SHARE,
        "pictures_of_a_class_left_out_taken_as_known": float((strangers >= threshold).mean()),
    }
    epochs = epochs_for(len(examples.labels), recipe.STEPS, recipe.EPOCHS)
    _, weights = train_head(examples, recipe.PLAIN_TRIAL, len(classes), seed, epochs)
    calibrated = [*weights[:-2], *(array / np.float32(temperature) for array in weights[-2:])]
    return Classifier(calibrated, temperature, means, threshold), result


# --- What is written -------------------------------------------------------------------------------------------------


def write_model(backbone: Path, classifier: Classifier, facts: dict, output: Path) -> None:
    """Write the backbone with the head of the classes, and its facts."""
    with written_whole(output) as part:
        part.write_bytes(join_head(backbone.read_bytes(), classifier.weights, classifier.means))
        append_facts(part, facts)


def facts_of(pictures: Pictures, backbone: Path, classifier: Classifier, result: dict, root: Path) -> dict:
    """Return what the file shall say about itself, as `convert_model.collect_facts` does."""
    kept = read_facts(backbone)
    packages = ("numpy", "pillow", "ai-edge-litert")
    return {name: kept[name] for name in ("format_version", "input", "photo_share", "quantization")} | {
        "classes": list(pictures),
        "display_names": {name: display_name(name) for name in pictures},
        "temperature": classifier.temperature,
        "unknown_rule": {"score": "similarity", "threshold": classifier.threshold},
        "cross_validation": {key: result[key] for key in ("pictures", "accuracy", "accuracy_interval_95")},
        "training_data": {"folder": root.name, "images": {name: len(paths) for name, paths in pictures.items()}},
        "provenance": {
            "sha256": {backbone.name: sha256(backbone.read_bytes()).hexdigest()},
            "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
            "taught": time.strftime("%Y-%m-%d"),
        },
    }


def describe(result: dict, classes: list[str]) -> str:
    """Return what cross-validation says, as lines for the terminal."""
    low, high = result["accuracy_interval_95"]
    rule = result["unknown_rule"]
    lines = [
        f"accuracy in cross-validation: {result['accuracy']:.1%} of {result['pictures']} pictures "
        f"(95 % interval {low:.1%} to {high:.1%}), calibration error {result['calibration_error']:.1%}",
        f"unknown pictures: of a class that it has not seen, "
        f"{rule['pictures_of_a_class_left_out_taken_as_known']:.0%} are taken as known",
    ]
    worst = sorted(classes, key=lambda name: result["recall"][name])[:SHOWN]
    lines += [f"  {name}: {result['recall'][name]:.1%} recognised" for name in worst if result["recall"][name] < 1]
    doubted = [mistake for mistake in result["mistakes"] if mistake["probability"] >= SURE]
    if doubted:
        lines.append(f"{len(doubted)} pictures look like another class; are they in the right folder?")
        lines += [f"  {m['picture']}: {m['taken_for']}, {m['probability']:.1%}" for m in doubted[:SHOWN]]
    return "\n".join(lines)


def main() -> None:
    """Read the folder, teach, write, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder with a sub-folder a class")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="model file (default: %(default)s)")
    parser.add_argument("--backbone", type=Path, default=BACKBONE, metavar="FILE", help=f"default: {BACKBONE.name}")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="of the feature cache (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=recipe.SEED, help="default: %(default)s")
    args = parser.parse_args()
    began = time.monotonic()
    try:
        pictures = readable(list_pictures(args.images))
        classes, number = list(pictures), sum(map(len, pictures.values()))
        print(f"{len(classes)} classes, {number:,} pictures", flush=True)
        examples, plain = examples_of(pictures, args.backbone, args.data_dir, args.seed)
        classifier, result = teach(examples, plain, classes, args.seed)
        facts = facts_of(pictures, args.backbone, classifier, result, args.images)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_model(args.backbone, classifier, facts, args.output)
        report = facts | {"cross_validation": result, "trial": recipe.PLAIN_TRIAL, "seed": args.seed}
        write_whole(args.output.with_suffix(".json"), json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print(describe(result, classes))
        print(f"wrote {args.output} and its report (.json), after {time.monotonic() - began:.0f} s")
        print(f"ask it: python test.py --file photo.jpg --model {args.output}")
    except (OSError, ValueError) as error:
        sys.exit(f"teach.py: {error}")
    except KeyboardInterrupt:
        sys.exit("teach.py: stopped; the same command continues from the features computed so far")


if __name__ == "__main__":
    main()
