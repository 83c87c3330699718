"""Measure how long training takes, beside the original recipe, the bare backbone and a second run.

Reads     a data folder with photos and weights (made by make_dataset.py). Changes nothing in it.
          MODEL_CARD.md describes all.csv.
Example

    python benchmarks/training.py --json training.json    # about 8 minutes on 2 idle cores
    python benchmarks/training.py --only ours --breeds all --split-file all.csv
    python benchmarks/training.py --limit 10              # ten photos a breed: does it work?

Time      About 8 minutes on 2 idle cores.
Expect    One figure a line. peak_memory is that of all processes together, with shared memory
          counted once. With --limit the figures say nothing about speed.

Both recipes get the ten breeds with most images, split 70/15/15, and their crops. The original is
measured for two epochs, after a first epoch that also compiles. original_search is extrapolated:
the mean of these two epochs, times the 260 epochs of its whole search, which is not run. Our
training is measured completely, from an empty feature cache to the finished .tflite."""

import contextlib
import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from common import Figure, command_line, report, run_watched, timed

import training
from data_selection import crop_breeds
from dog_breeds import recipe
from dog_breeds.data.dataset import (
    DATA_DIR,
    Task,
    annotation_dir,
    breed_name,
    choose_breeds,
    images_dir,
    list_images,
    split_images,
    top_breeds,
    weights_path,
)
from dog_breeds.learning.features import View, crop_view, extract_features, load_pixels
from dog_breeds.learning.saved_models import find_best_model, read_report
from dog_breeds.learning.tflite import run_file
from dog_breeds.workers import map_in_processes

ORIGINAL_EPOCHS = 260  # epochs of its whole search, one setting after the other
ORIGINAL_SIZE = 150
EPOCHS = 2  # measured epochs, after one that is not measured
# For the comparison with the bare backbone: short turns, since a machine's speed changes within a
# minute
ROUNDS = 9
PICTURES = 256  # images in each round
BATCH = 16  # images per batch in Keras


def link_data(source: Path, data_dir: Path, limit: int | None) -> None:
    """Make a data folder that shares photos, annotations and weights with another: at most `limit`
    photos a breed."""
    for photos in sorted(images_dir(source).iterdir()):
        for folder, suffix in ((images_dir, ".jpg"), (annotation_dir, "")):
            (folder(data_dir) / photos.name).mkdir(parents=True)
            for photo in sorted(photos.glob("*.jpg"))[:limit]:
                name = f"{photos.name}/{photo.stem}{suffix}"
                (folder(data_dir) / name).symlink_to((folder(source) / name).resolve())
    weights_path(data_dir).parent.mkdir()
    weights_path(data_dir).symlink_to(weights_path(source).resolve())


# --- The original recipe --------------------------------------------------------------------------


def measure_original(data_dir: Path) -> Iterator[Figure]:
    """Yield the seconds of an epoch of the original (training and validation), and the estimate of
    its whole search."""
    from dog_breeds.learning.xception import keras

    breeds = top_breeds(data_dir)
    crop_breeds(data_dir, breeds)
    split = split_images(list_images(data_dir, breeds), recipe.SEED)
    task = Task(data_dir, breeds, split)
    for image, part in split.items():
        link = data_dir / "original" / part / breed_name(image.split("/")[0]) / image.split("/")[1]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(task.crop(image))
    train, validation = (
        keras.utils.image_dataset_from_directory(
            data_dir / "original" / part,
            image_size=(ORIGINAL_SIZE, ORIGINAL_SIZE),
            batch_size=32,
            verbose=False,
        )
        for part in ("train", "validation")
    )
    seconds = []
    started = time.perf_counter()

    def end_epoch(epoch: int, logs: dict) -> None:
        seconds.append(time.perf_counter() - started - sum(seconds))

    clock = keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)
    model = original_model(data_dir, len(breeds))
    model.fit(
        train,
        validation_data=validation,
        epochs=1 + EPOCHS,
        callbacks=[clock],
        shuffle=False,
        verbose=0,
    )
    epoch = statistics.mean(seconds[1:])
    yield "original_epoch", epoch, "s"
    yield (
        "original_images_per_second",
        sum(part != "test" for part in split.values()) / epoch,
        "images/s",
    )
    yield "original_search", epoch * ORIGINAL_EPOCHS, "s"


def original_model(data_dir: Path, classes: int) -> "keras.Model":  # noqa: F821
    """Return the original's network: wrong scaling, augmentation and the frozen backbone in every
    epoch."""
    from dog_breeds.learning.xception import keras

    shape = (ORIGINAL_SIZE, ORIGINAL_SIZE, 3)
    backbone = keras.applications.Xception(weights=None, include_top=False, input_shape=shape)
    backbone.load_weights(weights_path(data_dir))
    backbone.trainable = False
    inputs = keras.Input(shape)
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = keras.layers.RandomRotation(10 / 360)(x)
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.GlobalAveragePooling2D()(backbone(x, training=False))
    x = keras.layers.Dense(1000, activation="relu")(x)
    x = keras.layers.Dropout(0.8)(x)
    model = keras.Model(inputs, keras.layers.Dense(classes)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"])
    return model


# --- Ours -----------------------------------------------------------------------------------------


def measure_ours(data_dir: Path, breeds: list[str], split_file: Path | None) -> Iterator[Figure]:
    """Yield the seconds and memory from the crops to the finished file, and the time and
    differences of a second training."""
    crop_breeds(data_dir, choose_breeds(data_dir, breeds))
    command = ["training.py", "--data-dir", data_dir, "--breeds", *breeds]
    command += ["--split-file", split_file.resolve()] if split_file else []
    (seconds, memory), (again, _), (conversion, more) = (
        run_watched([*command, "--output-dir", data_dir / "first"]),
        # The features are in the cache
        run_watched([*command, "--output-dir", data_dir / "second"]),
        run_watched(
            [
                "convert_model.py",
                *data_dir.glob("first/*.h5"),
                "--output",
                data_dir / "model.tflite",
            ]
        ),
    )
    models = [find_best_model(data_dir / run) for run in ("first", "second")]
    report, second = map(read_report, models)
    splits = [model.with_suffix(".csv").read_text() for model in models]
    yield "training", seconds, "s"
    yield "training_with_cache", again, "s"
    yield "training_same_split", splits[0] == splits[1], ""
    yield (
        "training_same_settings",
        all(report["winner"][name] == second["winner"][name] for name in recipe.GRID),
        "",
    )
    for name in ("test_accuracy", "test_accuracy_whole_photos"):
        yield f"training_{name}", 100 * report[name], "%"
        yield f"training_{name}_change", 100 * abs(report[name] - second[name]), "points"
    yield "conversion", conversion, "s"
    yield "crops_to_tflite", seconds + conversion, "s"
    yield "search_share", 100 * report["seconds_of_search"] / (seconds + conversion), "%"
    yield "peak_memory", max(memory, more) / 1e9, "GB"


# --- The bare backbone ----------------------------------------------------------------------------


def sample_crops(data_dir: Path) -> list[View]:
    """Return the crops of PICTURES images of the ten breeds."""
    breeds = top_breeds(data_dir)
    crop_breeds(data_dir, breeds)
    images = [image for names in list_images(data_dir, breeds).values() for image in names]
    task = Task(data_dir, breeds, {})
    return [
        crop_view(task, image) for image in images[:: max(len(images) // PICTURES, 1)][:PICTURES]
    ]


def measure_extraction(data_dir: Path) -> Iterator[Figure]:
    """Yield images per second of extracting features from crops, and of the backbone file on pixels
    in memory."""
    with contextlib.redirect_stdout(io.StringIO()):
        task = training.prepare_task(data_dir)
    views = sample_crops(data_dir)
    pixels = [load_pixels(view, recipe.SIZE) for view in views]

    def extract() -> None:
        shutil.rmtree(data_dir / "features", ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()):
            extract_features(views, task)

    def run_backbone() -> None:
        list(run_file(task.backbone, pixels, np.asarray, ["features"]))

    rounds = [
        [len(views) / timed(function) for function in (extract, run_backbone)]
        for _ in range(ROUNDS)
    ]
    for name, rates in zip(
        ("extraction_rate", "backbone_rate"), zip(*rounds, strict=True), strict=True
    ):
        yield name, statistics.median(rates), "images/s"
    yield (
        "extraction_share_of_backbone",
        statistics.median(100 * ours / bare for ours, bare in rounds),
        "%",
    )


def measure_keras(data_dir: Path) -> Iterator[Figure]:
    """Yield images per second of Keras' own Xception in float32, on batches in memory."""
    from dog_breeds.learning.xception import load_xception, tf

    pixels = np.stack([load_pixels(view, recipe.SIZE) for view in sample_crops(data_dir)])
    batches = [tf.constant(pixels[i : i + BATCH], tf.float32) for i in range(0, len(pixels), BATCH)]
    model = load_xception(weights_path(data_dir), recipe.SIZE)
    compiled = tf.function(lambda x: model(x / 127.5 - 1, training=False), reduce_retracing=True)
    compiled(batches[0])
    rounds = [len(pixels) / timed(lambda: [compiled(x).numpy() for x in batches]) for _ in range(3)]
    yield "keras_rate", statistics.median(rounds), "images/s"


# --- Command line ---------------------------------------------------------------------------------

PARTS = {
    "original": measure_original,
    "ours": measure_ours,
    "extraction": measure_extraction,
    "keras": measure_keras,
}


def measure_part(part: str, *arguments: object) -> list[Figure]:
    """Return the figures of a part that loads TensorFlow, measured in a separate process."""
    return list(PARTS[part](*arguments))


def measure(
    data_dir: Path, parts: Sequence[str], limit: int | None, *ours: object
) -> Iterator[Figure]:
    """Yield the figures of the parts, each in its own data folder. `ours` holds the other arguments
    of measure_ours."""
    seconds = {}
    for part in parts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            link_data(data_dir, folder, limit)
            if part in ("original", "keras"):
                [figures] = map_in_processes(measure_part, [(part, folder)])
            else:
                figures = PARTS[part](folder, *(ours if part == "ours" else ()))
            for figure in figures:
                seconds[figure[0]] = figure[1]
                yield figure
    if {"original_search", "training"} <= seconds.keys():
        yield "speedup", seconds["original_search"] / seconds["training"], "x"


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--data-dir", type=Path, default=DATA_DIR, help="where raw/ is (default: %(default)s)"
    )
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument(
        "--breeds", nargs="+", default=["top10"], metavar="BREED", help="for ours (default: top10)"
    )
    parser.add_argument(
        "--split-file",
        type=Path,
        metavar="CSV",
        help="for ours: rows of image,split (default: none)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use only N photos of each breed")
    args = parser.parse_args()
    parts = [args.only] if args.only else list(PARTS)
    report(measure(args.data_dir, parts, args.limit, args.breeds, args.split_file), args.json)


if __name__ == "__main__":
    main()
