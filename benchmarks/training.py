"""How long training takes: against the original recipe, against the bare backbone, and a second time.

Reads   a data folder with photos and weights (made by make_dataset.py). Changes nothing in it.
Prints  a figure a line. Both recipes get the ten breeds with most images, split 70/15/15. The original's first epoch,
        which also compiles, is not counted, and its crops are given to it; ours begins with no crops and no features.

    python benchmarks/training.py --json training.json     # some 15 minutes on 2 cores that do nothing else
    python benchmarks/training.py --only extraction        # original, ours or extraction: one part alone
    python benchmarks/training.py --limit 10               # ten photos a breed: does it work? Its figures say nothing
"""

import argparse
import contextlib
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import training  # noqa: E402
from data_selection import crop_breeds  # noqa: E402
from dog_breeds import features, recipe  # noqa: E402
from dog_breeds.dataset import (  # noqa: E402
    DATA_DIR,
    annotation_dir,
    breed_name,
    images_dir,
    list_images,
    split_images,
    top_breeds,
    weights_path,
)
from dog_breeds.features import keras, tf  # noqa: E402

ORIGINAL_EPOCHS = 260  # of its whole search, one setting after the other
ORIGINAL_SIZE = 150
EPOCHS = 2  # measured, after one that is not
ROUNDS = 9  # of the comparison with the bare backbone: short turns, since a machine's speed changes within a minute
PICTURES = 128  # in each of these rounds

Figure = tuple[str, float, str]  # name, value, unit


def link_data(source: Path, data_dir: Path, limit: int | None) -> None:
    """Make a data folder that shares photos, annotations and weights with another; at most `limit` photos a breed."""
    for photos in sorted(images_dir(source).iterdir()):
        for folder, suffix in ((images_dir, ".jpg"), (annotation_dir, "")):
            (folder(data_dir) / photos.name).mkdir(parents=True)
            for photo in sorted(photos.glob("*.jpg"))[:limit]:
                name = f"{photos.name}/{photo.stem}{suffix}"
                (folder(data_dir) / name).symlink_to((folder(source) / name).resolve())
    weights_path(data_dir).parent.mkdir()
    weights_path(data_dir).symlink_to(weights_path(source).resolve())


# --- the original recipe ---------------------------------------------------------------------------------------------


def measure_original(data_dir: Path) -> Iterator[Figure]:
    """The seconds of an epoch of the original, training and validation, and of its whole search."""
    breeds = top_breeds(data_dir)
    crop_breeds(data_dir, breeds)
    split = split_images(list_images(data_dir, breeds), recipe.SEED)
    for image, part in split.items():
        link = data_dir / "original" / part / breed_name(image.split("/")[0]) / image.split("/")[1]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(features.crop_view(data_dir, image).path)
    train, validation = (
        keras.utils.image_dataset_from_directory(
            data_dir / "original" / part, image_size=(ORIGINAL_SIZE, ORIGINAL_SIZE), batch_size=32, verbose=False
        )
        for part in ("train", "validation")
    )
    seconds = []
    started = time.perf_counter()

    def end_epoch(epoch: int, logs: dict) -> None:
        seconds.append(time.perf_counter() - started - sum(seconds))

    clock = keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)
    model = original_model(data_dir, len(breeds))
    model.fit(train, validation_data=validation, epochs=1 + EPOCHS, callbacks=[clock], shuffle=False, verbose=0)
    epoch = statistics.mean(seconds[1:])
    yield "original_epoch", epoch, "s"
    yield "original_images_per_second", sum(part != "test" for part in split.values()) / epoch, "images/s"
    yield "original_search", epoch * ORIGINAL_EPOCHS, "s"


def original_model(data_dir: Path, classes: int) -> keras.Model:
    """The original's network: wrong scaling, augmentation and the frozen backbone in every epoch."""
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


# --- ours ------------------------------------------------------------------------------------------------------------


def measure_ours(data_dir: Path) -> Iterator[Figure]:
    """The seconds of our training from nothing to the saved model, and again; what the repetition changes."""
    for size in (recipe.SIZE, ORIGINAL_SIZE):
        first, report, split = train(data_dir, size)
        again, second, same_split = train(data_dir, size)  # the features are in the cache
        shutil.rmtree(data_dir / "processed")
        yield f"training_{size}", first, "s"
        yield f"training_{size}_with_cache", again, "s"
        yield f"training_{size}_same_split", split == same_split, ""
        yield f"training_{size}_same_settings", settings(report) == settings(second), ""
        for name in ("test_accuracy", "test_accuracy_whole_photos"):
            yield f"training_{size}_{name}", 100 * report[name], "%"
            yield f"training_{size}_{name}_change", 100 * abs(report[name] - second[name]), "points"


def train(data_dir: Path, size: int) -> tuple[float, dict, str]:
    """Run training.py with the full grid; return its seconds, its report and its split."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "training.py", "--data-dir", data_dir, "--output-dir", folder, "--size", str(size)]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        model = training.find_best_model(Path(folder))
        return seconds, training.read_report(model), model.with_suffix(".csv").read_text()


def settings(report: dict) -> list:
    """What the search chose."""
    return [report["winner"][name] for name in recipe.GRID]


# --- the bare backbone -----------------------------------------------------------------------------------------------


def measure_extraction(data_dir: Path) -> Iterator[Figure]:
    """Images per second of extracting features from crops, and of the backbone on batches that lie in memory.

    `backbone_rate` is that of the very function which extraction calls, `keras_rate` that of Keras' model as it comes.
    """
    size, breeds = recipe.SIZE, top_breeds(data_dir)
    crop_breeds(data_dir, breeds)
    images = [image for names in list_images(data_dir, breeds).values() for image in names]
    views = [features.crop_view(data_dir, image) for image in images[:: max(len(images) // PICTURES, 1)][:PICTURES]]
    batch = min(recipe.BACKBONE_BATCH, len(views))
    views = views[: len(views) // batch * batch]
    pixels = np.stack([features.load_pixels(view, size) for view in views])
    batches = [tf.constant(pixels[i : i + batch]) for i in range(0, len(pixels), batch)]

    compiled = features.load_backbone(data_dir, size, ())[1]
    model = keras.applications.Xception(weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg")
    model.load_weights(weights_path(data_dir))
    plain = tf.function(lambda x: model(tf.cast(x, tf.float32) / 127.5 - 1, training=False))

    def extract() -> None:
        shutil.rmtree(data_dir / "features", ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()):
            features.extract_features(views, data_dir, size)

    runs = {
        "extraction_rate": extract,
        "backbone_rate": lambda: [compiled(x) for x in batches],
        "keras_rate": lambda: [plain(x).numpy() for x in batches],
    }
    for warm_up in (compiled, plain):
        warm_up(batches[0])
    rounds = [{name: len(views) / timed(run) for name, run in runs.items()} for _ in range(ROUNDS)]
    for name in runs:
        yield name, statistics.median(rates[name] for rates in rounds), "images/s"
    for name in ("backbone", "keras"):
        shares = [100 * rates["extraction_rate"] / rates[f"{name}_rate"] for rates in rounds]
        yield f"extraction_share_of_{name}", statistics.median(shares), "%"


def timed(function: Callable) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# --- command line ----------------------------------------------------------------------------------------------------

PARTS = {"original": measure_original, "ours": measure_ours, "extraction": measure_extraction}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="where raw/ is (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument("--limit", type=int, metavar="N", help="use only N photos of each breed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    args = parser.parse_args()
    figures = {}

    def show(name: str, value: float, unit: str) -> None:
        figures[name] = round(float(value), 3)
        print(f"{name} = {figures[name]:g} {unit}".rstrip(), flush=True)

    for part in [args.only] if args.only else PARTS:
        with tempfile.TemporaryDirectory() as folder:
            link_data(args.data_dir, Path(folder), args.limit)
            for figure in PARTS[part](Path(folder)):
                show(*figure)
    if not args.only:
        for size in (recipe.SIZE, ORIGINAL_SIZE):
            show(f"speedup_{size}", figures["original_search"] / figures[f"training_{size}"], "x")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
