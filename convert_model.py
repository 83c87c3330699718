"""Convert the trained model to one small TensorFlow Lite file, and check that file against Keras.

Reads     the best xception_v1_*.h5 with its head, report and split, the model file with its
          backbone, and the test images. With --refit: a model file and your own photos by breed.
Writes    top_10_dog_breeds.tflite: the network, with labels.txt and metadata.json appended as a
          zip archive. The files in models/ change only if --output names them.
Example

    python convert_model.py                                # int8: the backbone of the training
    python convert_model.py --quantization float32
    python convert_model.py --output dog_breeds.tflite     # after training.py --breeds all
    python convert_model.py --show top_10_dog_breeds.tflite
    python convert_model.py --refit FILE --outside DIR --output new.tflite

Time      About 20 seconds on 2 cores with VNNI; minutes with --every-picture.
Expect    A comparison of the .h5 in Keras with the file in the serving runtime. A file that
          loses more than --max-loss points of accuracy, with 95 % certainty, is not written.

The int8 file consists of the head and the int8 backbone on which the head was trained. For float32,
TensorFlow converts the Keras backbone. --refit keeps the network and fits temperature, threshold
and candidates again.
"""

import contextlib
import json
import shlex
import time
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dog_breeds import recipe
from dog_breeds.console import atomic_path, one_line_errors, script_parser, with_progress
from dog_breeds.data.dataset import DATA_DIR, Task, display_name, read_split
from dog_breeds.learning.features import (
    VIEW_KINDS,
    View,
    backbone_facts,
    extract_features,
    load_pixels,
)
from dog_breeds.learning.metrics import accuracy, expected_calibration_error
from dog_breeds.learning.refit import refit_rules
from dog_breeds.learning.saved_models import (
    check_complete,
    find_best_model,
    read_head,
    read_report,
    source_files,
)
from dog_breeds.learning.tflite import inspect_backbone, join_head, run_file
from dog_breeds.learning.training_summary import print_outside
from dog_breeds.serving.facts import append_facts, read_facts
from dog_breeds.workers import call_in_new_process

OUTPUT = Path("top_10_dog_breeds.tflite")
FORMATS = ("int8", "float32")
# Number of test images that Keras predicts too, each as a crop and as a whole photo. The number is
# small because Keras is slow. A faulty conversion costs ten points of accuracy or more, and three
# lost images of 50 are enough to refuse a file. No affordable number of images shows a loss of 0.3
# points. The comparison need not show it: the head was trained on the features of the int8 file, so
# the report already has the file's accuracy on all test images.
COMPARED = 50
# Facts that are copied from the report: the results of the int8 file on all test images, and rules
TEST_FIGURES = "pictures", "accuracy", "accuracy_interval_95", "calibration_error", "taken_as_known"
RULES = "unknown_rule", "candidates", "turn_rule", "outside"

Predictions = tuple[np.ndarray, np.ndarray]  # probabilities float32 [n, N], highest logits [n]


# --- Conversion -----------------------------------------------------------------------------------


def to_tflite(task: Task, model_path: Path, quantization: str, folder: Path) -> bytes:
    """Return a saved model as a flatbuffer: its head on the backbone in the format `quantization`.

    The function writes its temporary files to `folder`.
    """
    backbone = task.backbone
    if quantization == "float32":
        backbone = folder / "backbone.tflite"
        arguments = task.weights, task.size, [], backbone
        call_in_new_process("dog_breeds.learning.xception", "write_backbone", *arguments)
    return join_head(backbone.read_bytes(), *read_head(model_path))


# --- The gate -------------------------------------------------------------------------------------


def predict_file(
    file: Path, views: dict[str, list[View]], size: int
) -> dict[str, tuple[np.ndarray, ...]]:
    """Run a model file in the serving runtime on the views of each kind (crops, whole photos).

    Return for each kind the probabilities [n, N], the highest logits [n] and the features [n, D].
    """
    names = ("probabilities", "logit", "features")
    results: dict[str, tuple[np.ndarray, ...]] = {}
    for kind, kind_views in views.items():
        label = f"{file.name}, {kind.replace('_', ' ')}"
        rows = run_file(file, kind_views, lambda view: load_pixels(view, size), names)
        rows = with_progress(rows, label, len(kind_views), "images")
        probabilities, highest, features = map(np.array, zip(*rows, strict=True))
        results[kind] = probabilities, highest[:, 0], features
    return results


def compare(keras: Predictions, tflite: Predictions, labels: np.ndarray, threshold: float) -> dict:
    """Compare the predictions of Keras with those of the model file.

    The result contains the differences, and for each of both the accuracy, the calibration error
    and the share of images taken as known, 0..1.
    """
    keras_classes, tflite_classes = keras[0].argmax(axis=1), tflite[0].argmax(axis=1)
    keras_right, tflite_right = keras_classes == labels, tflite_classes == labels
    result = {
        "pictures": len(labels),
        "lost": int((keras_right & ~tflite_right).sum()),
        "won": int((tflite_right & ~keras_right).sum()),
        "same_top_class": float((keras_classes == tflite_classes).mean()),
        "largest_change": float(np.abs(keras[0] - tflite[0]).max()),
    }
    for name, (probabilities, highest) in (("keras", keras), ("tflite", tflite)):
        logits = np.log(np.maximum(probabilities, 1e-30))  # 1e-30: float32 can round to 0
        result[name] = {
            "accuracy": accuracy(logits, labels),
            "calibration_error": expected_calibration_error(logits, labels),
            "taken_as_known": float((highest >= threshold).mean()),
        }
    return result


def loss_lower_bound(results: dict) -> float:
    """Return a lower bound, at 95 % certainty, of the accuracy that the file loses, 0..1.

    The bound is the larger one of those for crops and for whole photos. Chance alone makes a file
    lose some images and win others. Both counts are Poisson variables, so the variance of their
    difference is their sum. 1.64 standard deviations are the one-sided 95 % quantile.
    """
    return max(
        (r["lost"] - r["won"] - 1.64 * (r["lost"] + r["won"]) ** 0.5) / r["pictures"]
        for r in results.values()
    )


def describe_results(results: dict) -> str:
    """Describe the comparison in one line for the crops and one for the whole photos."""
    line = (
        "{name}: {pictures} test images, accuracy {keras[accuracy]:.2%} -> "
        "{tflite[accuracy]:.2%}, calibration error {keras[calibration_error]:.2%} -> "
        "{tflite[calibration_error]:.2%}, taken as known {keras[taken_as_known]:.1%} -> "
        "{tflite[taken_as_known]:.1%}, same top class {same_top_class:.2%}, largest change "
        "of a probability {largest_change:.3f}"
    )
    return "\n".join(
        line.format(name=name.replace("_", " "), **result) for name, result in results.items()
    )


# --- Facts about the file -------------------------------------------------------------------------


def collect_facts(model_path: Path, report: dict, quantization: str, results: dict) -> dict:
    """Return the facts about a model file, which become its metadata.json."""
    test = {
        kind: {name: report["test"][kind][name] for name in TEST_FIGURES} for kind in VIEW_KINDS
    }
    return backbone_facts(report["size"]) | {
        "classes": report["classes"],
        "display_names": {breed: display_name(breed) for breed in report["classes"]},
        "photo_share": report["photo_share"],
        "quantization": quantization,
        "temperature": report["temperature"],  # the weights already include it
        **{name: report[name] for name in RULES if name in report},
        "compared_with_keras": results,
        **({"test": test} if quantization == "int8" else {}),
        "training_data": {
            "dataset": "Stanford Dogs",
            "images": report["images"],
            "note": report["note"],
        },
        "provenance": {
            "sha256": {
                path.name: sha256(path.read_bytes()).hexdigest()
                for path in source_files(model_path)
            },
            "versions": report["versions"]
            | {name: version(name) for name in ("tensorflow", "ai-edge-litert")},
            "converted": time.strftime("%Y-%m-%d"),
        },
    }


def show_facts(file: Path) -> None:
    """Print the facts inside a .tflite file."""
    facts = read_facts(file)
    print(f"{file}: {facts['quantization']}, {file.stat().st_size / 1e6:.1f} MB")
    print(f"backbone: SHA-256 {inspect_backbone(file).digest}")
    print(
        "input: {width} x {height} {color}, {dtype} {range[0]}..{range[1]}".format(**facts["input"])
    )
    print(f"the model sees the central {facts['photo_share']:.1%} of a photo's sides")
    print(f"{len(facts['classes'])} classes: {', '.join(facts['classes']) or 'it has no head'}")
    if facts["classes"]:
        rule = facts["unknown_rule"]
        print(
            f"known class: {rule['score']} >= {rule['threshold']:.3f}, "
            f"at temperature {facts['temperature']:.3f}"
        )
        if "fitted_on" in rule:
            print(f"these rules are fitted on {rule['fitted_on']}")
    if "candidates" in facts:
        print(f"candidates: probability >= {facts['candidates']['threshold']:.3f}")
    if "compared_with_keras" in facts:
        print(describe_results(facts["compared_with_keras"]))
    if "cross_validation" in facts:  # by teach.py
        result = facts["cross_validation"]
        print("cross-validation: {accuracy:.1%} of {pictures} images".format(**result))
    for topic in ("training_data", "provenance"):
        if topic in facts:
            print(f"{topic.replace('_', ' ')}: {json.dumps(facts[topic], indent=1)}")


# --- Steps ----------------------------------------------------------------------------------------


def convert(
    model_path: Path,
    output: Path,
    quantization: str = "int8",
    max_loss: float = 0.3,
    data_dir: Path | None = None,
    compared: int = COMPARED,
) -> None:
    """Convert a model of training.py, check the new file and write it to `output`.

    Keras and the file both predict `compared` test images (0: all), as crops and as whole photos.
    Raises RuntimeError and does not change `output` if the file loses more than `max_loss` points
    of accuracy on crops or on whole photos, with 95 % certainty.
    """
    check_complete(model_path)
    report = read_report(model_path)
    task = task_of(model_path, data_dir)
    if output.suffix != ".tflite" or output.is_dir():
        raise ValueError(f"--output must be a file that ends in .tflite, not {output}")
    kernel = read_head(model_path)[0][-2]  # of the last layer
    output.parent.mkdir(parents=True, exist_ok=True)
    # Drawn at random, because the list is sorted by breed
    images = np.random.default_rng(task.seed).permutation(task.images("test")).tolist()
    images = images[: compared or None]
    views = {name: [view(task, image) for image in images] for name, view in VIEW_KINDS.items()}
    with TemporaryDirectory() as folder:
        file = Path(folder) / output.name
        file.write_bytes(to_tflite(task, model_path, quantization, Path(folder)))
        arguments = model_path, kernel, views
        keras = call_in_new_process("dog_breeds.learning.xception", "predict", *arguments)
        tflite = predict_file(file, views, task.size)
        if quantization == "int8" and any(
            (features != extract_features(views[name], task)).any()
            for name, (_, _, features) in tflite.items()
        ):
            raise RuntimeError(
                f"{output} is not written, because its features differ from those in "
                f"{task.feature_cache}, which may come from another machine or other package "
                "versions; delete that folder and run training.py again"
            )
        threshold, labels = report["unknown_rule"]["threshold"], task.labels(images)
        results = {
            name: compare(keras[name], tflite[name][:2], labels, threshold) for name in VIEW_KINDS
        }
        print(describe_results(results), flush=True)
        lost = 100 * loss_lower_bound(results)
        if lost > max_loss:
            raise RuntimeError(
                f"{output} is not written: {quantization} loses at least {lost:.2f} points of "
                f"accuracy, --max-loss is {max_loss:g}"
            )
        facts = collect_facts(model_path, report, quantization, results)
        append_facts(file, facts | {"backbone_sha256": inspect_backbone(file).digest})
        with atomic_path(output) as temporary:
            temporary.write_bytes(file.read_bytes())


def task_of(model_path: Path, data_dir: Path | None = None) -> Task:
    """Return the task of a saved model, without the copies that its test left out.

    `data_dir` replaces the folder that the report names.
    """
    report, split = read_report(model_path), read_split(model_path.with_suffix(".csv"))
    for image in report["test"]["images_left_out"]:
        split.pop(image, None)
    data_dir = data_dir or Path(report["data_dir"])
    backbone = find_backbone(report)
    return Task(data_dir, report["classes"], split, report["size"], report["seed"], backbone)


def find_backbone(report: dict) -> Path:
    """Return a file with the backbone that a model was trained on.

    The report names one file. If that file is missing or different, recipe.MODEL is tried, since
    the path of the same file differs between clones. Raises ValueError if neither has the backbone.
    """
    for file in (Path(report["backbone"]), recipe.MODEL):
        with contextlib.suppress(OSError, ValueError):
            if inspect_backbone(file).digest == report["backbone_sha256"]:
                return file
    raise ValueError(
        f"{report['backbone']} does not exist, or does not have the backbone on which the model "
        "was trained; run training.py again"
    )


def refit(file: Path, outside: Path, output: Path | None, data_dir: Path) -> None:
    """Fit the rules of a model file again, and print the results on the held-out photos."""
    if not output or output.suffix != ".tflite" or output.resolve() == file.resolve():
        raise ValueError(f"--output must name a .tflite file other than {file}")
    print_outside(refit_rules(file, outside, output, data_dir))
    print(f"wrote {output}, {output.stat().st_size / 1e6:.1f} MB")


def next_steps(file: Path) -> str:
    """Return the commands that test, serve, build and deploy a model file in this project."""
    root, file = recipe.MODEL.parents[1], file.resolve()
    inside = file.is_relative_to(root)
    path = shlex.quote(str(file.relative_to(root) if inside else file))
    name = path if inside else shlex.quote(file.name)  # after copying; a build needs it inside
    return "\n".join(
        [
            f"ask it:     make predict MODEL={path} IMAGE=photo.jpg",
            f"serve it:   make serve MODEL={path}",
            *([] if inside else [f"copy it:    cp {path} {root}"]),
            f"build it:   make image MODEL={name}",
            "or:         docker buildx build --platform linux/amd64 --provenance=false "
            f"--build-arg MODEL={name} -t dog-breeds .",
            f"deploy it:  make deploy PARAMETERS=Model={name}",
        ]
    )


def main() -> None:
    """Parse the arguments; then convert, show or refit."""
    parser = script_parser(__doc__, "python convert_model.py xception_v1_30_0.966.h5")
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        metavar="MODEL.h5",
        help="default: the best model in this folder",
    )
    parser.add_argument("--output", type=Path, help=f"default: {OUTPUT}")
    parser.add_argument(
        "--quantization", choices=FORMATS, default="int8", help="default: %(default)s"
    )
    parser.add_argument(
        "--max-loss", type=float, default=0.3, metavar="POINTS", help="of accuracy (default: 0.3)"
    )
    parser.add_argument(
        "--every-picture", action="store_true", help=f"run all test photos in Keras, not {COMPARED}"
    )
    parser.add_argument(
        "--data-dir", type=Path, help="default: the folder with which the model was trained"
    )
    parser.add_argument(
        "--show", type=Path, metavar="FILE", help="only print the facts inside a .tflite file"
    )
    parser.add_argument(
        "--refit", type=Path, metavar="FILE", help="fit the rules of a .tflite file again"
    )
    parser.add_argument("--outside", type=Path, metavar="DIR", help="photos by breed, for --refit")
    args = parser.parse_args()
    if bool(args.refit) != bool(args.outside) or (args.refit and (args.model or args.show)):
        parser.error("--refit FILE goes with --outside DIR and --output FILE, and with no model")
    with one_line_errors("stopped; nothing is written"):
        if args.refit:
            refit(args.refit, args.outside, args.output, args.data_dir or DATA_DIR)
            return
        if args.show:
            show_facts(args.show)
            return
        output = args.output or OUTPUT
        if not args.output and output.resolve().parent == recipe.MODEL.parent:
            raise ValueError(f"{output} here is a committed file; name another file with --output")
        model = args.model or find_best_model()
        print(f"converting {model}", flush=True)
        compared = 0 if args.every_picture else COMPARED
        convert(model, output, args.quantization, args.max_loss, args.data_dir, compared)
        print(f"wrote {output}, {output.stat().st_size / 1e6:.1f} MB; in the project's folder,")
        print(next_steps(output))


if __name__ == "__main__":
    main()
