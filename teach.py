"""Teach your own classes: make a model file from a folder of images, without TensorFlow.

Reads     a folder with a sub-folder of images for each class, and a model file of this project,
          for its backbone.
Writes    my_classes.tflite, served like the other model files, and my_classes.json, a report.
          The feature cache is data/features.
Example

    python teach.py --images my_photos
    python teach.py --images my_photos --output cats.tflite --backbone other.tflite
    python teach.py --images more_photos --add my_classes.tflite --output more.tflite
    python test.py --file photo.jpg --model my_classes.tflite    # ask the file about an image

Time      Five classes of 40 images take 9 seconds on 2 cores.
Expect    The accuracy in cross-validation. Each image is evaluated by a head that has seen neither
          the image nor a copy of it.

Every class has the same weight, whatever its number of images. To add a class, put its folder
beside the others and run the command again: the other features are in the cache. --add does not
need the other images, but recognises the new class a little less often (about 3 in 100 for breeds).
"""

import json
import platform
import time
from collections import Counter
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dog_breeds import recipe
from dog_breeds.console import (
    atomic_path,
    check_writable,
    one_line_errors,
    quiet,
    script_parser,
    write_atomically,
)
from dog_breeds.data.class_folders import (
    ClassImages,
    check_class_sizes,
    inspect_images,
    list_class_images,
    printable,
)
from dog_breeds.data.dataset import DATA_DIR, display_name, features_dir
from dog_breeds.data.duplicates import group_copies
from dog_breeds.learning.features import Examples, View, evenly_spaced, features_by, turned
from dog_breeds.learning.heads import Classifier, turn_rule
from dog_breeds.learning.own_classes import evaluate_cross_validation, teach, teach_beside
from dog_breeds.learning.rules import SCORE, measure_known, rules_of
from dog_breeds.learning.tflite import inspect_backbone, join_head, load_file, read_head
from dog_breeds.serving.cpus import cpu_count
from dog_breeds.serving.facts import append_facts, read_facts

OUTPUT = Path("my_classes.tflite")
BACKBONE = recipe.MODEL
FEWEST = recipe.FOLDS  # different images per class: one in each fold of the cross-validation
SURE = 0.9  # doubt the folder of an image if another class is at least this probable
# Images with similar thumbnails are copies if their features are at most this far apart. The unit
# is the distance between two images of the class. Photos of dogs encoded again, scaled or
# brightened are at 0.1 to 0.33. Different images from a fixed camera do not count as copies.
NEAR = 0.5
SHOWN = 5  # entries of a list that the terminal shows
DECODING = 0.006  # seconds that a CPU takes to read a usual photo


# --- Images and features --------------------------------------------------------------------------


def seconds_per_image(backbone: Path) -> float:
    """Return the approximate seconds for one image when all CPUs work in parallel.

    Raises ValueError if the file has no backbone.
    """
    size = read_facts(backbone)["input"]["height"]
    blank = np.zeros((size, size, 3), np.uint8)
    with quiet():  # hides the greeting of the runtime
        run = load_file(backbone)
        outputs = run(blank)
    if not {"features", "map"} <= outputs.keys():
        raise ValueError(
            f"{backbone} has no output of features; convert it again with convert_model.py"
        )
    began = time.perf_counter()
    for _ in range(3):
        run(blank)
    return ((time.perf_counter() - began) / 3 + DECODING) / cpu_count()


def names_of(class_images: ClassImages) -> list[str]:
    """Return the name of each image in the report: "class/file name".

    If a class has two files of this name, the split's folder is added: "class/train/file name".
    """
    names = []
    for name, paths in class_images.items():
        numbers = Counter(path.name for path in paths)
        for path in paths:
            split = f"{path.parent.parent.name}/" if numbers[path.name] > 1 else ""
            names.append(f"{name}/{printable(split + path.name)}")
    return names


def examples_of(
    class_images: ClassImages, thumbnails: np.ndarray, backbone: Path, cache: Path, most_turned: int
) -> tuple[Examples, Examples]:
    """Return the features of all images, and the examples for `heads.fit_upright`.

    The first result has a row for each image. Its column `images` has the row number of the first
    image of which the row is a copy, or the row's own number. The second result has at most
    `most_turned` of the images, first upright, then turned. Raises ValueError if a class has too
    few different images.
    """
    facts = read_facts(backbone)
    views = [View(path, facts["photo_share"]) for paths in class_images.values() for path in paths]
    turned_rows = evenly_spaced(range(len(views)), most_turned)
    all_views = [*views, *(turned(views[row]) for row in turned_rows)]
    rows_of_all = features_by(backbone, all_views, cache)
    features, turned_features = rows_of_all[: len(views)], rows_of_all[len(views) :]
    labels = np.repeat(
        np.arange(len(class_images)), [len(paths) for paths in class_images.values()]
    )

    # The mean squared distance between two images of a class is twice their variance
    spread = np.array(
        [2 * features[labels == k].var(axis=0).sum() for k in range(len(class_images))]
    )
    first = near_copies(group_copies(thumbnails), features, NEAR**2 * spread[labels])
    check_class_sizes(
        {name: set(first[labels == k]) for k, name in enumerate(class_images)},
        FEWEST,
        "different photos",
    )
    both = np.concatenate([features[turned_rows], turned_features])
    return Examples(features, labels, first), Examples(
        both, np.repeat([1, 0], len(turned_rows)), np.tile(first[turned_rows], 2)
    )


def near_copies(first: np.ndarray, features: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return for each image the first image of which it is a copy, int [n].

    `first` groups the images with similar thumbnails, as `group_copies` returns them. A copy has a
    squared distance of at most `limits` [n] from the features of the first image.
    """
    result = np.arange(len(first))
    for group in np.unique(first[first != result]):
        rows = np.flatnonzero(first == group)
        group_features, unassigned = features[rows], np.ones(len(rows), bool)
        squares = np.square(group_features).sum(axis=1)
        # In blocks, to limit the memory: a fixed camera gives one group of thousands of images
        for start in range(0, len(rows), 256):
            block = slice(start, start + 256)
            distances = (
                squares[block, None] + squares - 2 * group_features[block] @ group_features.T
            )
            # 1e-5: because of rounding, the distance of equal features is not exactly 0
            for i, near in enumerate(distances <= limits[rows] + 1e-5 * squares, start):
                if unassigned[i]:
                    copies = unassigned & near
                    result[rows[copies]] = rows[i]
                    unassigned &= ~near
    return result


def copies_in(class_images: ClassImages, first: np.ndarray) -> list[list[str]]:
    """Return a list of names for each image that has copies: the image and its copies."""
    names = np.array(names_of(class_images))
    return [names[first == i].tolist() for i, number in enumerate(np.bincount(first)) if number > 1]


# --- Facts and report -----------------------------------------------------------------------------


def facts_of(
    class_images: ClassImages,
    kept: dict,
    backbone: Path,
    classifier: Classifier,
    result: dict,
    root: Path,
) -> dict:
    """Return the facts about the new model file, like `convert_model.collect_facts`.

    `kept` are the facts of the backbone's file. With --add, that file also has the old classes.
    """
    beside = len(classifier.means) > len(class_images)
    old = kept.get("display_names") or {name: display_name(name) for name in kept["classes"]}
    names = (old if beside else {}) | {name: display_name(name) for name in class_images}
    packages = ("numpy", "pillow", "ai-edge-litert")
    return {
        name: kept[name] for name in ("format_version", "input", "photo_share", "quantization")
    } | {
        "backbone_sha256": inspect_backbone(backbone).digest,
        "classes": list(names),
        "display_names": names,
        "temperature": classifier.temperature,  # the weights already include it
        **{name: result[name] for name in ("unknown_rule", "candidates") if name in result},
        "turn_rule": turn_rule(classifier),
        "cross_validation": {
            key: result[key] for key in ("pictures", "accuracy", "accuracy_interval_95")
        },
        "training_data": {
            "folder": printable(root.resolve().name),
            "images": {name: len(paths) for name, paths in class_images.items()},
            **({"beside": kept["training_data"]} if beside else {}),
        },
        "provenance": {
            "sha256": {backbone.name: sha256(backbone.read_bytes()).hexdigest()},
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in packages},
            "taught": time.strftime("%Y-%m-%d"),
        },
    }


def describe(report: dict) -> str:
    """Return the summary of a report as lines for the terminal."""
    result, rule = report["cross_validation"], report["unknown_rule"]
    low, high = result["accuracy_interval_95"]
    added = " added" if "beside" in report["training_data"] else ""
    lines = [
        f"accuracy in cross-validation: {result['accuracy']:.1%} of {result['pictures']:,}{added} "
        f"images (95 % interval {low:.1%} to {high:.1%})",
        f"calibration error {result['calibration_error']:.1%}",
    ]
    if "taken_as_known" in result:
        lines.append(f"taken as known: {result['taken_as_known']:.0%} of these images")
    if "candidates" in result:
        lines.append(
            f"candidates: {result['candidates']:.1f} classes on average, a single one for "
            f"{result['single_candidate']:.0%}; they include the right class for "
            f"{result['candidates_hold_the_right_class']:.0%}"
        )
    passing = rule.get("pictures_of_a_class_left_out_taken_as_known")
    if passing is not None:
        lines.append(
            f"taken as known: {passing:.0%} of the images of a class left out of the training; "
            "more if it resembles yours"
        )

    def add(title: str, items: list[str]) -> None:
        if items:
            more = [f"  and {len(items) - SHOWN} more, in the report"] if len(items) > SHOWN else []
            lines.extend([title, *(f"  {item}" for item in items[:SHOWN]), *more])

    worst = sorted((share, name) for name, share in result["recall"].items() if share < 1)
    add(
        "classes that are recognised least:",
        [f"{share:6.1%}  {truncate(name)}" for share, name in worst],
    )
    confusions = [
        f"{pair['count']} of {truncate(pair['true'], 24)} for {truncate(pair['taken_for'], 24)}: "
        + ", ".join(
            truncate(image["picture"].split("/", 1)[1], 16) for image in pair["pictures"][:2]
        )
        for pair in result["confusions"]
    ]
    add("taken for another class:", confusions)
    doubts = sorted(
        (
            -image["probability"],
            f"{truncate(image['picture'])}: {truncate(pair['taken_for'], 30)}?",
        )
        for pair in result["confusions"]
        for image in pair["pictures"]
        if image["probability"] >= SURE
    )
    add("look like another class; are they in the right folder?", [text for _, text in doubts])
    across = [
        group for group in report["copies"] if len({name.split("/")[0] for name in group}) > 1
    ]
    add(
        "the same image in two classes; keep it in one:",
        [" = ".join(map(truncate, group[:2])) for group in across],
    )
    within = sum(len(group) - 1 for group in report["copies"] if group not in across)
    if within:
        lines.append(
            f"copies within a class: {within}, in the same fold as their originals; "
            "the report names them"
        )
    return "\n".join(lines)


def truncate(name: str, most: int = 40) -> str:
    """Return a name, cut in the middle if it is long."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[1 - most // 2 :]}"


def check_facts(facts: dict, file: Path, add: bool) -> None:
    """Raise ValueError if a model file lacks a fact that teaching needs."""
    needed = ["format_version", "input", "photo_share", "quantization"]
    needed += ["turn_rule", "training_data"] if add else []
    missing = [name for name in needed if name not in facts]
    if missing:
        raise ValueError(f"{file} has no {missing[0]}; convert it again with convert_model.py")


def is_report(file: Path) -> bool:
    """Return whether a file is a report that teach.py wrote."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(report, dict) and {"classes", "cross_validation", "copies"} <= report.keys()


def teach_folder(
    images: Path, output: Path, backbone: Path, add: bool, data_dir: Path, seed: int
) -> None:
    """Teach the classes in a folder, write the model file and its report, and print a summary.

    With `add`, the new classes are added to those of the backbone's file.
    """
    began, kept = time.monotonic(), read_facts(backbone)
    check_facts(kept, backbone, add)
    report_file = output.with_suffix(".json")
    if report_file.exists() and not is_report(report_file):
        raise ValueError(
            f"{report_file} exists, but is not a report of teach.py; name another --output"
        )
    class_images = list_class_images(images, 1 if add else 2)
    twice = class_images.keys() & set(kept["classes"] if add else ())
    if twice:
        raise ValueError(f"{backbone} has a class {min(twice)!r} already; give yours another name")
    check_class_sizes(class_images, FEWEST, "photos")
    number = sum(map(len, class_images.values()))
    # With --add, the rule for turned images is the one of the old classes
    most_turned = 0 if add else recipe.TURNED_PHOTOS
    seconds = (number + min(number, most_turned)) * seconds_per_image(backbone)
    minutes = f"{seconds / 60:.0f} minutes"
    duration = minutes if seconds > 100 else f"{max(seconds, 1):.0f} seconds"
    print(
        f"{len(class_images)} classes, {number:,} images: "
        f"their features take about {duration}, once",
        flush=True,
    )
    check_writable(output.parent)

    class_images, thumbnails, unreadable = inspect_images(class_images)
    for name, reason in list(unreadable.items())[:SHOWN]:
        print(f"left out: {name}: {reason}")
    if len(unreadable) > SHOWN:
        print(f"left out: {len(unreadable) - SHOWN} more, which the report names")
    check_class_sizes(class_images, FEWEST, "readable photos")

    examples, upright = examples_of(
        class_images, thumbnails, backbone, features_dir(data_dir), most_turned
    )
    if add:
        weights, means, score = read_head(backbone)
        noticed = kept["turn_rule"]["turned_pictures_noticed"]
        old = Classifier(weights, rules_of(kept), means, score, noticed)
        classifier, logits, rules = teach_beside(examples, old, seed)
    else:
        classifier, logits, rules = teach(examples, upright, seed)
    classes = [*(kept["classes"] if add else []), *class_images]
    labels = examples.labels + len(classes) - len(class_images)
    different = len(set(examples.images))
    result = evaluate_cross_validation(
        logits, labels, names_of(class_images), classes, classifier.temperature, different
    )
    if classifier.rules.score == SCORE:
        result |= measure_known(logits, labels, classifier.rules)
    facts = facts_of(class_images, kept, backbone, classifier, result | rules, images)
    report = facts | {
        "cross_validation": result,
        "copies": copies_in(class_images, examples.images),
        "left_out": unreadable,
        "trial": recipe.PLAIN_TRIAL,
        "seed": seed,
    }
    with atomic_path(output) as temporary:
        head = classifier.weights, classifier.means, classifier.upright
        temporary.write_bytes(join_head(backbone.read_bytes(), *head))
        append_facts(temporary, facts)
        write_atomically(report_file, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(describe(report))
    print(f"wrote {output} and {report_file.name} after {time.monotonic() - began:.0f} s; ask it:")
    print(f"  python test.py --model {output} --file photo.jpg")


def main() -> None:
    """Parse the arguments and teach."""
    parser = script_parser(__doc__, "python teach.py --images my_photos --output my_classes.tflite")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="a sub-folder for each class"
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help="model file (default: %(default)s)"
    )
    parser.add_argument(
        "--backbone", type=Path, default=BACKBONE, metavar="FILE", help=f"default: {BACKBONE.name}"
    )
    parser.add_argument(
        "--add", type=Path, metavar="FILE", help="add the classes to those of this model file"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=DATA_DIR,
        help="folder of the feature cache (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=recipe.SEED, help="default: %(default)s")
    args = parser.parse_args()
    backbone = args.add or args.backbone
    with one_line_errors("stopped; the same command continues from the features computed so far"):
        if args.output.suffix != ".tflite" or args.output.resolve() == backbone.resolve():
            raise ValueError(f"--output must be a .tflite file other than {backbone}")
        teach_folder(args.images, args.output, backbone, bool(args.add), args.data_dir, args.seed)


if __name__ == "__main__":
    main()
