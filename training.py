"""Train a dog-breed classifier: a new head on Xception's frozen ImageNet backbone.

Reads     data/raw and data/weights (from make_dataset.py). Crops what data_selection.py has not.
Writes    xception_v1_{epoch}_{val_accuracy}.h5, and beside it the head (.npz), a report (.json)
          and the split (.csv); plots/; the feature cache data/features.
Example

    python training.py                 # the ten breeds with most images
    python training.py --breeds all    # all 120
    python training.py --quick         # a small search, to see that everything works
    python training.py --outside DIR   # fit the rules for answers on photos from elsewhere
    python training.py --images DIR    # your own images: what teach.py does
    python training.py --breeds all --new-backbone FILE.tflite    # on a backbone of your own

Time      Nearly all of it goes into the int8 backbone, which computes the features once. A second
          run finds the features in the cache. RESULTS.md has the seconds.
Expect    On the official test split: 97 % accuracy for ten breeds, 92 % for all 120.

All breeds share the int8 backbone inside models/dog_breeds_120.tflite. The backbone sees every
image and every augmented view once. The search then trains heads on the stored features, in NumPy.
TensorFlow, in a separate process, only writes the .h5 and converts the backbone for --new-backbone.
"""

import itertools
import json
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import teach
from data_selection import crop_breeds, describe_crops
from dog_breeds import recipe
from dog_breeds.console import (
    atomic_path,
    check_writable,
    one_line_errors,
    one_line_import_errors,
    script_parser,
    write_atomically,
)
from dog_breeds.data.dataset import (
    DATA_DIR,
    SUBSETS,
    Task,
    apply_split,
    breed_folders,
    breed_name,
    check_split,
    choose_breeds,
    list_images,
    read_split,
    split_images,
    weights_path,
)
from dog_breeds.data.duplicates import without_copies
from dog_breeds.learning.features import (
    extract_features,
    is_readable,
    make_backbone,
    photo_view,
    plain_set,
    training_set,
    upright_set,
)
from dog_breeds.learning.heads import (
    Classifier,
    Search,
    apply_head,
    fit_classifier,
    search,
    turn_rule,
)
from dog_breeds.learning.metrics import auroc, evaluate
from dog_breeds.learning.outside import (
    OutsidePhotos,
    describe_fitting,
    measure_outside,
    read_outside,
)
from dog_breeds.learning.rules import highest_logit, measure_known, rule_facts
from dog_breeds.learning.saved_models import (
    model_name,
    read_head,
    read_report,
    source_files,
    write_head,
)
from dog_breeds.learning.tflite import inspect_backbone
from dog_breeds.learning.training_summary import print_summary
from dog_breeds.workers import call_in_new_process

with one_line_import_errors(__name__):  # Matplotlib is only in the environment of make install
    from dog_breeds.learning.training_plots import save_plots

NOTE = (
    "Stanford Dogs is a part of ImageNet, on which the backbone was trained: "
    "these figures are optimistic."
)


# --- Steps, as main() and the notebook take them --------------------------------------------------


def prepare_task(
    data_dir: Path = DATA_DIR,
    breeds: Sequence[str] = ("top10",),
    split_file: Path | None = None,
    seed: int = recipe.SEED,
    backbone: Path | None = None,
    new_backbone_size: int | None = None,
) -> Task:
    """Choose the breeds, make missing crops, and split the images.

    The split is that of `split_file`, or 70/15/15 % of each breed's images. `backbone` is a model
    file (default: recipe.MODEL). If `new_backbone_size` is given, in pixels, the function makes a
    new backbone of this size and writes it to `backbone`; the file must not exist.
    """
    classes = choose_breeds(data_dir, list(breeds))
    if len(classes) < 2:
        raise ValueError("a classifier needs at least two breeds; name more with --breeds")
    weights, backbone = weights_path(data_dir), backbone or recipe.MODEL
    if not weights.is_file():
        print(f"no weights in {weights}: run make_dataset.py, else there will be no .h5")
    size = new_backbone_size or inspect_backbone(backbone).size
    summary = crop_breeds(data_dir, classes, size=size)
    if summary["done"] or summary["failed"]:
        print(describe_crops(summary))
    images = list_images(data_dir, classes, size)
    if split_file:
        given = read_split(split_file)
        check_split(split_file, given, data_dir, classes)
        split = apply_split(images, given, seed)
    else:
        split = split_images(images, seed)
    task = Task(data_dir, classes, split, size, seed, backbone)
    if new_backbone_size:
        make_backbone(task, backbone)
    return task


def train_classifier(
    task: Task,
    grid: dict[str, Sequence[float]] | None = None,
    output_dir: Path = Path(),
    outside: Path | None = None,
) -> Path:
    """Train, evaluate and save a classifier for a task; return the path of its .h5 file.

    `grid` has the values to try for each setting (default: recipe.GRID). `outside` is a folder of
    photos that are not in the training set, with a sub-folder for each breed. The rules for unknown
    breeds and candidates, and the temperature, are then fitted on half of these breeds and measured
    on the other half.
    """
    began = time.monotonic()
    check_writable(output_dir)  # fail early, before the long steps
    sizes = ", ".join(f"{len(task.images(subset)):,} {subset}" for subset in SUBSETS)
    print(f"{len(task.classes)} breeds, images: {sizes}", flush=True)

    train, validation = training_set(task), plain_set(task, "validation")
    upright = upright_set(task)
    search_began = time.monotonic()
    found = search(train, validation, grid or recipe.GRID, len(task.classes), task.seed)
    search_seconds = time.monotonic() - search_began
    photos = read_outside(outside, task) if outside else None
    fitting = (photos.fitting, describe_fitting(photos)) if photos and photos.fitting else None
    classifier = fit_classifier(train, validation, upright, found, task.seed, fitting)
    del train, validation, upright  # free memory for test features and TensorFlow
    results, outputs = measure_on_test(task, classifier)

    report = make_report(task, found, classifier, results, photos) | {
        "seconds": round(time.monotonic() - began, 1),
        "seconds_of_search": round(search_seconds, 1),
    }
    path = save_results(task, classifier, report, output_dir)
    print_summary(report)
    labels = task.labels(outputs["images"])
    with ThreadPoolExecutor(1) as pool:  # plot while TensorFlow works in its process
        h5 = pool.submit(write_h5, task, path)
        save_plots(found, classifier, results, outputs, labels, output_dir / "plots")
        h5.result()
    print(f"saved {path} with its head (.npz), its report (.json), its split (.csv) and plots/")
    return path


def measure_on_test(task: Task, classifier: Classifier) -> tuple[dict, dict]:
    """Evaluate the classifier on the test images. No other step of the training opens them.

    Copies of training and validation images are left out. Return the results for the report, and
    the outputs: "images" are the evaluated images. "crops" and "whole_photos" each hold "logits"
    [n, classes] and "scores" [n]. "unknown" holds the "scores" of photos of other breeds. Raises
    ValueError if all test images of a breed are copies.
    """
    images = without_copies(task, task.images("test"))
    outputs: dict[str, Any] = {"images": images}
    results: dict[str, Any] = {"images_left_out": sorted({*task.images("test")} - {*images})}
    missing = {*task.classes} - {breed_name(image.split("/")[0]) for image in images}
    if missing:
        raise ValueError(
            f"all test images of {min(missing)} are copies of train or validation images; "
            "choose another --seed, or a split of your own with --split-file"
        )
    for kind, examples in plain_set(task, "test").items():
        examples = examples.take(np.isin(examples.images, images))
        logits, labels = apply_head(classifier.weights, examples.features), examples.labels
        measured = evaluate(logits, labels, task.classes, classifier.temperature)
        results[kind] = measured | measure_known(logits, labels, classifier.rules)
        outputs[kind] = {"logits": logits, "scores": highest_logit(logits)}
    unknown = unknown_photos(task, recipe.UNKNOWN_PHOTOS)
    views = [photo_view(task, image) for image in unknown]
    scores = highest_logit(apply_head(classifier.weights, extract_features(views, task)))
    outputs["unknown"] = {"scores": scores}
    if unknown:
        results["unknown_breeds"] = {
            "pictures": len(unknown),
            "auroc_whole_photos": auroc(outputs["whole_photos"]["scores"], scores),
            "taken_as_known": float((scores >= classifier.threshold).mean()),
        }
    return results, outputs


def unknown_photos(task: Task, number: int) -> list[str]:
    """Return up to `number` readable images of breeds that are not among the classes.

    The task's seed determines which images are drawn.
    """
    images = [
        f"{folder}/{name}"
        for breed, folder in breed_folders(task.data_dir).items()
        if breed not in task.classes
        for name in os.listdir(task.photo(folder))
        if name.endswith(".jpg") and not name.startswith(".")
    ]
    drawn = np.random.default_rng(task.seed).permutation(sorted(images)).tolist()
    readable = (image for image in drawn if is_readable(photo_view(task, image)))
    return list(itertools.islice(readable, number))


def make_report(
    task: Task,
    found: Search,
    classifier: Classifier,
    results: dict,
    outside: OutsidePhotos | None = None,
) -> dict:
    """Return the report of a model: the training data, the search and the measured quality."""
    measured = {"outside": measure_outside(outside, classifier)} if outside else {}
    packages = ("tensorflow", "keras", "numpy", "pillow")
    return {
        "test_accuracy": results["crops"]["accuracy"],
        "test_accuracy_whole_photos": results["whole_photos"]["accuracy"],
        "note": NOTE,
        "classes": task.classes,
        "size": task.size,
        "photo_share": recipe.PHOTO_SHARE,
        "seed": task.seed,
        "images": {subset: len(task.images(subset)) for subset in SUBSETS},
        "backbone": str(task.backbone),
        "backbone_sha256": inspect_backbone(task.backbone).digest,
        "temperature": classifier.temperature,
        **rule_facts(classifier.rules),
        "turn_rule": turn_rule(classifier),
        **measured,
        "winner": found.winner,
        "finalists": found.finalists,
        "test": results,
        "trials": found.trials,
        "settings": recipe.settings(),
        "data_dir": str(task.data_dir),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in packages},
    }


def save_results(task: Task, classifier: Classifier, report: dict, output_dir: Path) -> Path:
    """Save the head, the report and the split of a model; return the path of its .h5 file.

    `write_h5` writes the .h5 later. An old .h5 with the same name is removed first. Even if this
    process is killed, no .h5 remains beside the report of another model.
    """
    winner = report["winner"]
    path = output_dir / model_name(winner["epoch"], winner["val_accuracy"])
    output_dir.mkdir(parents=True, exist_ok=True)
    rows = (f"{image},{subset}\n" for image, subset in sorted(task.split.items()))
    split = "image,split\n" + "".join(rows)
    # Never overwrite a model of other breeds, split, backbone or seed: add a 0 to the name
    while any(map(Path.exists, source_files(path))) and not is_repeated(path, report, split):
        path = path.with_stem(f"{path.stem}0")
    path.unlink(missing_ok=True)
    report = report | {"head_sha256": write_head(path, classifier)}
    write_atomically(path.with_suffix(".csv"), split)
    write_atomically(path.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    return path


def is_repeated(path: Path, report: dict, split: str) -> bool:
    """Return whether a saved model comes from the same training: same backbone, seed and split.

    `split` is the content of the split file.
    """
    try:
        same_split = path.with_suffix(".csv").read_text(encoding="utf-8") == split
        old = read_report(path)
        return same_split and all(old[key] == report[key] for key in ("backbone_sha256", "seed"))
    except (OSError, ValueError, KeyError):
        return False


def write_h5(task: Task, path: Path) -> None:
    """Write the whole model for Keras: the backbone with its Keras weights, and the saved head.

    Raises FileNotFoundError if there are no weights, and ValueError if they are damaged.
    """
    if not task.weights.is_file():
        raise FileNotFoundError(
            f"{path.name} is not written, because there are no weights in {task.weights}; all "
            "other files are saved. Run make_dataset.py, then the same command: it continues from "
            "the features computed so far"
        )
    with atomic_path(path) as temporary:
        arguments = task.weights, task.size, *read_head(path), temporary
        call_in_new_process("dog_breeds.learning.xception", "save_model", *arguments)


# --- Command line ---------------------------------------------------------------------------------


def main() -> None:
    """Parse the arguments and train."""
    parser = script_parser(__doc__, "python training.py --breeds all")
    parser.add_argument(
        "--breeds",
        nargs="+",
        default=["top10"],
        metavar="BREED",
        help="top10 (default), all, or names",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="teach your own classes, as teach.py does: a folder with a sub-folder for each class",
    )
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="default: data")
    parser.add_argument(
        "--output-dir", type=Path, default=Path(), help="folder of the model (default: this one)"
    )
    parser.add_argument(
        "--split-file", type=Path, metavar="CSV", help="use this split: rows of image,split"
    )
    backbone = parser.add_mutually_exclusive_group()
    backbone.add_argument(
        "--backbone", type=Path, metavar="FILE", help=f"default: {recipe.MODEL.name}"
    )
    backbone.add_argument(
        "--new-backbone",
        type=Path,
        metavar="FILE",
        help="make an int8 backbone with training photos, and train on it",
    )
    parser.add_argument(
        "--size", type=int, help=f"image size of a new backbone (default: {recipe.SIZE})"
    )
    parser.add_argument(
        "--outside",
        type=Path,
        metavar="DIR",
        help="photos that are not in the training set, in a sub-folder for each breed; half of "
        "these breeds fit the rules for unknown breeds and candidates, and the temperature",
    )
    parser.add_argument("--quick", action="store_true", help="a small search")
    parser.add_argument("--seed", type=int, default=recipe.SEED, help="default: %(default)s")
    args = parser.parse_args()
    if args.size and not args.new_backbone:
        parser.error("--size needs --new-backbone: an existing backbone has its own size")
    of_stanford_dogs = args.split_file, args.new_backbone, args.outside, args.quick
    if args.images and (args.breeds != ["top10"] or any(of_stanford_dogs)):
        parser.error(
            "--images goes without --breeds, --split-file, --new-backbone, --outside and --quick"
        )
    if args.outside and not args.outside.is_dir():
        parser.error(f"there is no folder {args.outside}")
    with one_line_errors("stopped; the same command continues from the features computed so far"):
        if args.images:
            output, backbone = args.output_dir / teach.OUTPUT, args.backbone or teach.BACKBONE
            teach.teach_folder(args.images, output, backbone, False, args.data_dir, args.seed)
            return
        task = prepare_task(
            args.data_dir,
            args.breeds,
            args.split_file,
            args.seed,
            args.new_backbone or args.backbone,
            (args.size or recipe.SIZE) if args.new_backbone else None,
        )
        grid = recipe.QUICK_GRID if args.quick else recipe.GRID
        train_classifier(task, grid, args.output_dir, args.outside)


if __name__ == "__main__":
    main()
