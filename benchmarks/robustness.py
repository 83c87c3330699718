"""Measure a model file on photos as people take and send them: tiny, dark, turned, within borders.

Reads     data/raw, made by make_dataset.py, and the test photos of a split. With --others, FOLDER
          holds folders of photos of anything else.
Example

    python benchmarks/robustness.py                             # 400 photos, 4 minutes on 2 cores
    python benchmarks/robustness.py --markdown --photos 1233    # all of the ten breeds, as a table
    python benchmarks/robustness.py --model other.tflite --split-file all.csv --others FOLDER

Time      4 minutes on 2 cores for 400 photos. Needs Linux, but not TensorFlow.
Expect    For each change of the photos: accuracy and the share taken as known, with a single
          attempt and with all attempts of the handler, lambda_function.py. For photos of other
          breeds, of two breeds side by side, for drawings and for the folders of --others: the
          share taken as known, and how sure the answers are."""

import argparse
import functools
import importlib
import io
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from common import MODEL, SPLIT_FILE, SPLIT_HELP, Figure, command_line, report
from drawings import DRAWINGS, as_jpeg
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from dog_breeds.console import progress
from dog_breeds.data.dataset import DATA_DIR, breed_folders, breed_name, images_dir, read_split
from dog_breeds.serving.facts import read_facts
from dog_breeds.workers import map_in_processes

GREY = (128, 128, 128)
SURE = 0.99  # a probability at which an answer claims to be certain


# --- Changes --------------------------------------------------------------------------------------


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """Return the image with at most the given number of pixels a side."""
    image = image.copy()
    image.thumbnail((side, side))
    return image


def in_a_corner(image: Image.Image) -> Image.Image:
    """Return a grey image of the same size with the photo in a corner, at a quarter of the area."""
    whole = Image.new("RGB", image.size, GREY)
    small = image.resize((image.width // 2, image.height // 2))
    corner = (image.width + image.height) % 4  # the corner depends on the photo
    whole.paste(
        small,
        ((whole.width - small.width) * (corner % 2), (whole.height - small.height) * (corner // 2)),
    )
    return whole


def screenshot(image: Image.Image) -> Image.Image:
    """Return an image like a telephone's screen that shows the photo, with text above and below."""
    screen = Image.new("RGB", (540, 1170), "white")
    photo = image.resize((540, min(round(540 * image.height / image.width), 800)))
    top = (screen.height - photo.height) // 2
    screen.paste(photo, (0, top))
    draw = ImageDraw.Draw(screen)
    for place, text, size in (
        ((20, 12), "12:34", 22),
        ((470, 12), "87 %", 22),
        ((20, 70), "Our dog", 34),
        ((20, top + photo.height + 30), "He likes the beach, and other dogs", 26),
        ((20, top + photo.height + 70), "too, if they are small", 26),
    ):
        draw.text(place, text, "black", font_size=size)
    for x in (50, 180, 310, 440):
        draw.ellipse((x, 1090, x + 40, 1130), outline="black", width=4)
    return screen


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg_quality_30": lambda image: Image.open(io.BytesIO(as_jpeg(image, 30))),
    "thumbnail_100_px": lambda image: thumbnail(image, 100),
    "thumbnail_64_px": lambda image: thumbnail(image, 64),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.3),
    "over_exposed": lambda image: ImageEnhance.Brightness(image).enhance(1.8),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 125)),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "turned_15": lambda image: image.rotate(
        15, Image.Resampling.BICUBIC, expand=True, fillcolor=GREY
    ),
    "turned_90": lambda image: image.transpose(Image.Transpose.ROTATE_270),  # clockwise
    "turned_180": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "turned_270": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "in_a_corner": in_a_corner,
    "screenshot": screenshot,
}


# --- Other images -------------------------------------------------------------------------------


def side_by_side(left: Path, right: Path) -> bytes:
    """Return one image of two photos side by side, scaled to the same height."""
    photos = []
    for file in (left, right):
        with Image.open(file) as photo:
            photos.append(
                photo.convert("RGB").resize((max(round(375 * photo.width / photo.height), 1), 375))
            )
    both = Image.new("RGB", (photos[0].width + photos[1].width, 375))
    both.paste(photos[0], (0, 0))
    both.paste(photos[1], (photos[0].width, 0))
    return as_jpeg(both)


# --- Answers --------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """The handler's answer about an image."""

    breed: str  # the likeliest breed
    probability: float
    known: bool
    attempts: int  # inferences that the handler took


@functools.cache
def handler(model: Path) -> ModuleType:
    """Return lambda_function with a model file that runs on one thread."""
    os.environ["MODEL_FILE"] = str(model)
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    module = importlib.import_module("lambda_function")
    os.sched_setaffinity(0, cpus)
    return module


def ask(model: Path, make: Callable[..., bytes], *arguments: object) -> tuple[Answer, Answer]:
    """Return the answer of a single attempt at an image, and the handler's answer."""
    data = make(*arguments)
    best = answer(model, data, math.inf)
    return best if best.attempts == 1 else answer(model, data, -math.inf), best


def answer(model: Path, data: bytes, until: float) -> Answer:
    """Return the handler's answer to an image. The handler may make more attempts until a time of
    time.monotonic()."""
    serving = handler(model)
    loaded = serving.MODEL
    # The handler's own steps one by one, because its decoder also stops at this time
    pixels = serving.read_image(data, loaded.size, loaded.share, {}, math.inf)
    best, attempts = serving.best_prediction(serving.run_model, pixels, loaded.threshold, until)
    answer = serving.answer_for(best, 1)
    [(breed, probability)] = answer["prediction"].items()
    return Answer(breed, probability, answer["known"], attempts)


def changed(file: Path, change: str) -> bytes:
    """Return a photo after a change, as JPEG. Without a change, return the photo as stored."""
    if not change:
        return file.read_bytes()
    with Image.open(file) as image:
        return as_jpeg(CHANGES[change](image.convert("RGB")))


# --- Images to ask about ------------------------------------------------------------------------


def sample(items: Sequence, number: int) -> list:
    """Return at most the given number of items, always the same items."""
    return random.Random(0).sample(list(items), min(number, len(items)))


def questions(args: argparse.Namespace) -> dict[str, list[tuple]]:
    """Return the sources of each group's images, as the arguments of `ask` after the model."""
    classes, folder = read_facts(args.model)["classes"], images_dir(args.data_dir)
    test = sorted(image for image, part in read_split(args.split_file).items() if part == "test")
    test = [image for image in test if breed_name(image.split("/")[0]) in classes]
    photos = [folder / image for image in sample(test, args.photos)]
    groups = {
        name or "as_they_are": [(changed, photo, name) for photo in photos]
        for name in ("", *CHANGES)
    }
    others = [
        breed_folder
        for breed, breed_folder in breed_folders(args.data_dir).items()
        if breed not in classes
    ]
    files = [file for other in others for file in sorted((folder / other).iterdir())]
    groups["other_breeds"] = [(changed, file, "") for file in sample(files, args.photos)]
    pairs = zip(photos, sample(photos, len(photos)), strict=True)
    groups["two_breeds"] = [
        (side_by_side, *pair) for pair in pairs if pair[0].parent != pair[1].parent
    ]
    groups |= {name: [(draw, number) for number in range(100)] for name, draw in DRAWINGS.items()}
    for other in sorted(args.others.iterdir()) if args.others else []:
        groups[other.name] = [(changed, file, "") for file in sorted(other.iterdir())]
    return {name: group for name, group in groups.items() if group}


def figures(
    name: str, group: list[tuple], answers: list[tuple[Answer, Answer]]
) -> dict[str, float]:
    """Return the figures of a group in percent."""
    result = {}
    for prefix, column in zip(("plain_", ""), zip(*answers, strict=True), strict=True):
        breeds, probabilities, known, looks = (
            np.array(values) for values in zip(*column, strict=True)
        )
        shares = {"known": known, "looked_at_again": looks > 1}
        if name in ("as_they_are", *CHANGES):
            shares = {
                "accuracy": breeds == [breed_name(file.parent.name) for _, file, _ in group]
            } | shares
        else:
            sure = probabilities > SURE
            shares |= {"sure": sure, "sure_but_unknown": sure & ~known}
        result |= {f"{prefix}{key}": 100 * float(flags.mean()) for key, flags in shares.items()}
    return result


def table(results: dict[str, dict[str, float]], sizes: dict[str, int]) -> str:
    """Return the figures as two Markdown tables: photos of the model's breeds, and other images."""
    lines = []
    for keys, head in (
        (
            ("plain_accuracy", "accuracy", "plain_known", "known"),
            "right, plain look | right | known, plain look | known",
        ),
        (
            ("plain_known", "known", "sure", "sure_but_unknown"),
            "known, plain look | known | sure | sure, but unknown",
        ),
    ):
        lines += [f"| % | images | {head} |", "|---|---|---|---|---|---|"]
        for name, result in results.items():
            if ("accuracy" in result) == ("accuracy" in keys):
                cells = [
                    name.replace("_", " "),
                    str(sizes[name]),
                    *(f"{result[key]:.1f}" for key in keys),
                ]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def measure(args: argparse.Namespace) -> Iterator[Figure]:
    """Ask about every group of images. At the end, print tables if requested."""
    groups = questions(args)
    answers = map_in_processes(
        ask, [(args.model, *question) for group in groups.values() for question in group]
    )
    results, sizes = {}, {name: len(group) for name, group in groups.items()}
    for name, group in groups.items():
        mine = []
        with progress(name.replace("_", " "), len(group), unit="images") as show:
            for _ in group:
                mine.append(next(answers))
                show(len(mine))
        results[name] = figures(name, group, mine)
        yield from ((f"{name}_{key}", value, "%") for key, value in results[name].items())
    if args.markdown:
        print(f"\n{table(results, sizes)}")


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="default: %(default)s")
    parser.add_argument(
        "--split-file", type=Path, default=SPLIT_FILE, metavar="CSV", help=SPLIT_HELP
    )
    parser.add_argument(
        "--photos", type=int, default=400, metavar="N", help="at most, of a kind (default: 400)"
    )
    parser.add_argument(
        "--others", type=Path, metavar="FOLDER", help="with folders of photos of anything else"
    )
    parser.add_argument("--markdown", action="store_true", help="print tables, too")
    args = parser.parse_args()
    args.model = args.model.resolve()
    report(measure(args), args.json)


if __name__ == "__main__":
    main()
