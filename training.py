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
from dataclasses import replace
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
)
from dog_breeds.data.duplicates import without_copies
from dog_breeds.learning.features import (
    Examples,
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
    Outside,
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
    seed: int | None = None,
    backbone: Path | None = None,
    new_backbone_size: int | None = None,
) -> Task:
    """Choose the breeds, crop what is missing, and split the images as the file says or 70/15/15.

    `seed` defaults to recipe.SEED. `backbone` is a model file and defaults to recipe.MODEL. With
    `new_backbone_size`, in pixels, the function makes `backbone`: that file must not exist yet."""
    backbone = backbone or recipe.MODEL
    task = Task(data_dir, [], {}, seed=recipe.SEED if seed is None else seed, backbone=backbone)
    classes = choose_breeds(data_dir, list(breeds))
    if len(classes) < 2:
        raise ValueError("a classifier needs at least two breeds; name more with --breeds")
    if not task.weights.is_file():
        print(f"no weights in {task.weights}: run make_dataset.py, else there will be no .h5")
    size = new_backbone_size or inspect_backbone(backbone).size
    summary = crop_breeds(data_dir, classes, size=size)
    if summary["done"] or summary["failed"]:
        print(describe_crops(summary))
    images = list_images(data_dir, classes, size)
    if split_file:
        given = read_split(split_file)
        check_split(split_file, given, data_dir, classes)
        split = apply_split(images, given, task.seed)
    else:
        split = split_images(images, task.seed)
    task = replace(task, classes=classes, split=split, size=size)
    if new_backbone_size:
        make_backbone(task, backbone)
    return task


def train_classifier(
    task: Task,
    grid: dict[str, Sequence[float]] | None = None,
    output_dir: Path = Path(),
    outside: Path | None = None,
) -> Path:
    """Take every step from the split to the saved model, and return the model's path.

    `grid` holds the values to try for each setting (default: recipe.GRID). `outside` is a folder of
    photos by breed that are not in the training set. Half of its breeds then fit temperature,
    candidates and the rule for unknown breeds; the other half measures them."""
    began = time.monotonic()
    check_writable(output_dir)  # fail early, before the long steps
    sizes = ", ".join(f"{len(task.images(part)):,} {part}" for part in SUBSETS)
    print(f"{len(task.classes)} breeds, images: {sizes}", flush=True)

    train, validation, upright = (
        training_set(task),
        plain_set(task, "validation"),
        upright_set(task),
    )
    searching = time.monotonic()
    found = search(train, validation, grid or recipe.GRID, len(task.classes), task.seed)
    searched = time.monotonic() - searching
    seen = read_outside(outside, task) if outside else None
    fitting = (seen.fitting, describe_fitting(seen)) if seen and seen.fitting else None
    classifier = fit_classifier(train, validation, upright, found, task.seed, fitting)
    del train, validation, upright  # free memory for test features and TensorFlow
    results, outputs = measure_on_test(task, classifier)

    report = make_report(task, found, classifier, results, seen)
    report |= {
        "seconds": round(time.monotonic() - began, 1),
        "seconds_of_search": round(searched, 1),
    }
    path = save_results(task, classifier, report, output_dir)
    print_summary(report)
    labels, plots = task.labels(outputs["images"]), output_dir / "plots"
    with ThreadPoolExecutor(1) as pool:  # plot while TensorFlow works in its process
        h5 = pool.submit(write_h5, task, path)
        save_plots(found, classifier, results, outputs, labels, plots)
        h5.result()
    print(f"saved {path} with its head (.npz), its report (.json), its split (.csv) and plots/")
    return path


def measure_on_test(task: Task, classifier: Classifier) -> tuple[dict, dict]:
    """Evaluate the classifier on the test images, which are opened here for the first and only
    time.

    Copies of images that the classifier learned from are left out. Returns the results and the
    outputs. The outputs hold "images", those that remain; for "crops" and "whole_photos" the
    "logits" [n, classes] and "scores" [n]; and for "unknown" the "scores" of photos of other
    breeds. Raises ValueError if a breed has no test images left."""
    outputs: dict[str, Any] = {"images": without_copies(task, task.images("test"))}
    results: dict[str, Any] = {
        "images_left_out": sorted({*task.images("test")} - {*outputs["images"]})
    }
    without_images = {*task.classes} - {
        breed_name(image.split("/")[0]) for image in outputs["images"]
    }
    if without_images:
        raise ValueError(
            f"all test images of {min(without_images)} are copies of train or validation images; "
            "choose another --seed, or a split of your own with --split-file"
        )
    for kind, examples in plain_set(task, "test").items():
        is_kept = np.isin(examples.images, outputs["images"])
        examples = Examples(*(column[is_kept] for column in examples))
        logits = apply_head(classifier.weights, examples.features)
        results[kind] = evaluate(logits, examples.labels, task.classes, classifier.temperature)
        results[kind] |= measure_known(logits, examples.labels, classifier.rules)
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
    """Return up to `number` readable images of breeds outside the classes, drawn at random with the
    seed."""
    folders = breed_folders(task.data_dir)
    others = [folder for breed, folder in folders.items() if breed not in task.classes]
    images = [
        f"{folder}/{name}"
        for folder in others
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
    outside: Outside | None = None,
) -> dict:
    """Return the report beside the model: training data, search and measured quality."""
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
        "images": {part: len(task.images(part)) for part in SUBSETS},
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
    """Save the head, the report and the split of a model. Return the path of the .h5 to come.

    An older .h5 of this name is removed first. Then no model ever lies beside the report of
    another, even if this process is killed."""
    winner = report["winner"]
    path = output_dir / model_name(winner["epoch"], winner["val_accuracy"])
    output_dir.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{image},{part}\n" for image, part in sorted(task.split.items()))
    # Never overwrite a model of other breeds, split, backbone or seed: add a 0 to the name
    while any(file.exists() for file in source_files(path)) and not is_repeated(path, report, rows):
        path = path.with_stem(f"{path.stem}0")
    path.unlink(missing_ok=True)
    report = report | {"head_sha256": write_head(path, classifier)}
    write_atomically(path.with_suffix(".csv"), "image,split\n" + rows)
    write_atomically(path.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    return path


def is_repeated(path: Path, report: dict, rows: str) -> bool:
    """Return whether a saved model comes from the same training: same backbone, seed and split."""
    try:
        old, split = read_report(path), path.with_suffix(".csv").read_text(encoding="utf-8")
        return split == "image,split\n" + rows and all(
            old[key] == report[key] for key in ("backbone_sha256", "seed")
        )
    except (OSError, ValueError, KeyError):
        return False


def write_h5(task: Task, path: Path) -> None:
    """Write the whole model for Keras: the backbone with its Keras weights, and the saved head.

    Raises FileNotFoundError if there are no weights, and ValueError if they are damaged."""
    if not task.weights.is_file():
        raise FileNotFoundError(
            f"all is saved but {path.name}: there are no weights in {task.weights}. Run "
            "make_dataset.py, then the same command: it goes on from the features computed so far"
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
        help="with a sub-folder a class: teach these (teach.py)",
    )
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="default: data")
    parser.add_argument(
        "--output-dir", type=Path, default=Path(), help="where the model goes (default: here)"
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
        help="make a backbone from photos of the train part, and train on it",
    )
    parser.add_argument(
        "--size", type=int, help=f"pixels a side, of a new backbone (default: {recipe.SIZE})"
    )
    parser.add_argument(
        "--outside",
        type=Path,
        metavar="DIR",
        help="photos that are not in the training set, a sub-folder a breed: fit the rules for "
        "unknown breeds and candidates, and the temperature, on half of these breeds",
    )
    parser.add_argument("--quick", action="store_true", help="a small search")
    parser.add_argument("--seed", type=int, default=recipe.SEED, help="default: %(default)s")
    args = parser.parse_args()
    if args.size and not args.new_backbone:
        parser.error("--size goes with --new-backbone: any other backbone has its own size")
    if args.images and (
        args.breeds != ["top10"]
        or args.split_file
        or args.quick
        or args.new_backbone
        or args.outside
    ):
        parser.error(
            "--images goes without --breeds, --split-file, --new-backbone, --outside and --quick"
        )
    if args.outside and not args.outside.is_dir():
        parser.error(f"there is no folder {args.outside}")
    with one_line_errors("stopped; the same command continues from the features computed so far"):
        if args.images:
            output = args.output_dir / teach.OUTPUT
            teach.teach_folder(
                args.images,
                output,
                args.backbone or teach.BACKBONE,
                add=False,
                data_dir=args.data_dir,
                seed=args.seed,
            )
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
