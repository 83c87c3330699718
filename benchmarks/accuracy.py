"""Print how good the classifier is, over several seeds, on the official split and on 70/15/15 splits.

    python benchmarks/accuracy.py --data-dir data --official-split benchmarks/official_split.csv [--json FILE]
    python benchmarks/accuracy.py --data-dir data --official-split CSV --breeds all --random-splits 0
    python benchmarks/accuracy.py --data-dir data --compare

Reads data/raw and data/weights, made by make_dataset.py. All figures are those of the int8 file: features come from its
backbone, once for each view (80 a second on 2 cores), and the joined head gives what NumPy gives. --compare trains with
other frames and numbers of views instead, and prints the accuracy on validation pictures, by which the constants in
dog_breeds/recipe.py were chosen.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

sys.path.insert(0, str(Path(__file__).parent.parent))

from data_selection import crop_breeds
from dog_breeds import recipe
from dog_breeds.dataset import DATA_DIR, Task, breed_folders, list_images
from dog_breeds.features import KINDS, View, extract_features, plain_set, training_set, upright_set
from dog_breeds.heads import Classifier, apply_head, epochs_for, fit_classifier, search, similarity, train_head
from dog_breeds.metrics import auroc, log_softmax
from training import measure_on_test, prepare_task

SEEDS = (33, 34, 35)  # with the official split
UNKNOWN_PHOTOS = 1000  # at most, of breeds that are not among the classes


class Trained(NamedTuple):
    """A task, what was learned of it, and the settings that won."""

    task: Task
    classifier: Classifier
    winner: dict


def train(data_dir: Path, breeds: list[str], split_file: Path | None, seed: int) -> Trained:
    """Train as training.py does, without a table."""
    with contextlib.redirect_stdout(io.StringIO()):
        task = prepare_task(data_dir, breeds, split_file, seed=seed)
        sets = training_set(task), plain_set(task, "validation")
        found = search(*sets, recipe.GRID, len(task.classes), seed)
        return Trained(task, fit_classifier(*sets, upright_set(task), found, seed), found.winner | {"seed": seed})


def measure(model: Trained) -> dict[str, dict]:
    """Return figures in percent, and what `scores` gives, of the test crops and whole photos."""
    result, (results, outputs) = {}, measure_on_test(model.task, model.classifier)
    labels = model.task.labels(outputs["images"])
    for kind, figures in ((kind, results[kind]) for kind in KINDS):
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
            "scores": scores(logits, outputs[kind]["similarity"]),
        }
    return result


def scores(logits: np.ndarray, similarities: np.ndarray) -> dict[str, np.ndarray]:
    """Return three numbers for each picture that should be lower for unknown breeds."""
    top = logits.max(axis=1)
    return {
        "similarity": similarities,  # what the model file contains
        "energy": top + np.log(np.exp(logits - top[:, None]).sum(axis=1)),  # Liu et al. 2020, arXiv:2010.03759
        "probability": log_softmax(logits).max(axis=1),
    }


def scores_of(classifier: Classifier, features: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same for features."""
    return scores(apply_head(classifier.weights, features), similarity(features, classifier.means))


def other_features(data_dir: Path, classes: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return the features of pictures that show none of the classes, as crops and as whole photos."""
    others = {}
    breeds = [breed for breed in breed_folders(data_dir) if breed not in classes]
    if breeds:
        crop_breeds(data_dir, breeds)
        images = sorted(image for names in list_images(data_dir, breeds).values() for image in names)
        images = np.random.default_rng(0).permutation(images)[:UNKNOWN_PHOTOS].tolist()
        others["unknown_breeds"] = {
            kind: extract_features([view(data_dir, image) for image in images], data_dir)
            for kind, view in KINDS.items()
        }
    with tempfile.TemporaryDirectory() as folder:
        others["non_dogs"] = dict.fromkeys(KINDS, extract_features(draw_non_dogs(Path(folder)), data_dir))
    return others


def draw_non_dogs(folder: Path, number: int = 120) -> list[View]:
    """Draw plain pictures without dogs (plain, gradients, noise, stripes, discs, blurred); return their views."""
    rng = np.random.default_rng(0)
    views = []
    for i in range(number):
        size = (500, 375)
        colours = [tuple(map(int, rng.integers(0, 256, 3))) for _ in range(3)]
        image = Image.new("RGB", size, colours[0])
        draw = ImageDraw.Draw(image)
        kind = i % 6
        if kind == 1:
            ramp = np.linspace(0, 1, size[0])[None, :, None]
            pixels = np.array(colours[0]) * (1 - ramp) + np.array(colours[1]) * ramp
            image = Image.fromarray(np.broadcast_to(pixels, (size[1], size[0], 3)).astype(np.uint8))
        elif kind == 2:
            image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
        elif kind == 3:
            width = int(rng.integers(5, 40))
            for x in range(0, size[0], 2 * width):
                draw.rectangle((x, 0, x + width, size[1]), fill=colours[1])
        elif kind == 4:
            for _ in range(12):
                x, y, r = rng.integers(0, 500), rng.integers(0, 375), rng.integers(10, 90)
                draw.ellipse((x - r, y - r, x + r, y + r), fill=colours[int(rng.integers(3))])
        elif kind == 5:
            noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            image = noise.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(4))
        path = folder / f"{i}.png"
        image.save(path)
        views.append(View(path, recipe.PHOTO_SHARE))
    return views


def compare(data_dir: Path) -> None:
    """Print the mean validation accuracy of five splits, on crops and whole photos, for other constants."""
    chosen = (recipe.PHOTO_SHARE, recipe.CROP_VIEWS, recipe.PHOTO_VIEWS)
    others = [(share, *chosen[1:]) for share in (1.0, 0.75)]
    others += [(chosen[0], *views) for views in ((1, 0), (0, 1), (2, 1), (2, 2))]
    for variant in (chosen, *others):
        recipe.PHOTO_SHARE, recipe.CROP_VIEWS, recipe.PHOTO_VIEWS = variant
        correct = []
        for seed in range(33, 38):
            with contextlib.redirect_stdout(io.StringIO()):
                task = prepare_task(data_dir, seed=seed)
                validation, examples = plain_set(task, "validation"), training_set(task)
            epochs = epochs_for(len(examples.labels), recipe.STEPS, recipe.EPOCHS)
            _, weights = train_head(examples, recipe.PLAIN_TRIAL, len(task.classes), seed, epochs)
            logits = {kind: apply_head(weights, validation[kind].features) for kind in KINDS}
            correct.append([(logits[kind].argmax(axis=1) == validation[kind].labels).mean() for kind in KINDS])
        crops, photos = 100 * np.mean(correct, axis=0)
        name = "photo_share_{}_crop_views_{}_photo_views_{}".format(*variant)
        print(f"{name}_validation_crops = {crops:.2f} %\n{name}_validation_whole_photos = {photos:.2f} %", flush=True)


def main() -> None:
    """Train with every seed, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR)
    parser.add_argument("--breeds", nargs="+", default=["top10"], metavar="BREED", help="top10 (default), all or names")
    parser.add_argument("--official-split", type=Path, metavar="CSV", help="rows of image,split")
    parser.add_argument(
        "--compare", action="store_true", help="compare frames and numbers of views on validation pictures"
    )
    parser.add_argument("--random-splits", type=int, default=5, metavar="N", help="of 70/15/15 (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as one JSON object")
    args = parser.parse_args()
    if args.compare:
        return compare(args.data_dir)
    figures: dict[str, float] = {}

    def record(name: str, value: float, unit: str) -> None:
        figures[name] = float(value)
        print(f"{name} = {value:.4g} {unit}".rstrip(), flush=True)

    runs = [("official", args.official_split, seed) for seed in (SEEDS if args.official_split else ())]
    runs += [("random_split", None, 33 + number) for number in range(args.random_splits)]
    models: dict[str, list[Trained]] = {}
    for protocol, split_file, seed in runs:
        models.setdefault(protocol, []).append(train(args.data_dir, args.breeds, split_file, seed))
    with contextlib.redirect_stdout(io.StringIO()):
        others = other_features(args.data_dir, models[runs[0][0]][0].task.classes)
        results = {protocol: [measure(model) for model in trained] for protocol, trained in models.items()}
    for protocol, trained in models.items():
        for kind in KINDS:
            measured = [result[kind] for result in results[protocol]]
            for name in measured[0]["shares"]:
                values = [m["shares"][name] for m in measured]
                for which, value in (("mean", np.mean(values)), ("lowest", min(values)), ("highest", max(values))):
                    record(f"{protocol}_{name}_{kind}_{which}", value, "%")
            for other, features in others.items():
                given = [scores_of(model.classifier, features[kind]) for model in trained]
                for score in given[0]:
                    areas = [auroc(m["scores"][score], g[score]) for m, g in zip(measured, given, strict=True)]
                    record(f"{protocol}_auroc_{score}_{other}_{kind}_mean", np.mean(areas), "")
                passed = [
                    (g["similarity"] >= m.classifier.threshold).mean() for g, m in zip(given, trained, strict=True)
                ]
                record(f"{protocol}_taken_as_known_{other}_{kind}", 100 * np.mean(passed), "%")
        for model in trained:
            names = ("seed", "learning_rate", "inner_size", "dropout", "epoch")
            chosen = ", ".join(f"{name} {model.winner[name]}" for name in names)
            print(f"# {chosen}, temperature {model.classifier.temperature:.2f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
