"""Measure how much of the evidence for the predicted breed lies inside the dog's box.

Reads     data/raw, made by make_dataset.py, a model file, and a split whose test photos it asks
          about.
Example

    python benchmarks/explanation.py --json explanation.json    # 20 seconds on 2 cores
    python benchmarks/explanation.py --model models/dog_breeds_120.tflite --split-file all.csv

Time      20 seconds on 2 cores, for 300 photos.
Expect    The tenth of the cells of the class activation map that spoke most for the predicted
          breed: the share of them inside a box of the photo's XML file. Beside it the share of all
          cells inside a box, which chance would give. Then the time that an explanation adds to a
          warm call, in percent of an inference."""

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import MODEL, SPLIT_FILE, SPLIT_HELP, Figure, command_line, report

from dog_breeds.data.dataset import (
    DATA_DIR,
    annotation_dir,
    images_dir,
    read_annotation,
    read_split,
)
from dog_breeds.serving.explanation import class_activation_map
from dog_breeds.serving.pixels import read_pixels

PHOTOS = 300


def cells_in_boxes(xml: Path, share: float, cells: int) -> np.ndarray:
    """Return which cells of the central `share` of a photo have their centre in a box, bool [cells,
    cells]."""
    annotation = read_annotation(xml)
    centres = (1 - share) / 2 + share * (np.arange(cells) + 0.5) / cells
    x, y = centres * annotation["width"], centres * annotation["height"]
    inside = [
        np.outer((top <= y) & (y < bottom), (left <= x) & (x < right))
        for left, top, right, bottom in annotation["boxes"]
    ]
    return np.any(inside, axis=0)


def measure(model: Path, data_dir: Path, split_file: Path) -> Iterator[Figure]:
    """Ask about photos, and compare the evidence for the answers with the boxes."""
    os.environ["MODEL_FILE"] = str(model)
    import lambda_function as handler

    test = sorted(image for image, part in read_split(split_file).items() if part == "test")
    chosen = np.random.default_rng(0).permutation(test)[:PHOTOS].tolist()
    top, boxes, inferences, maps = [], [], [], []
    for image in chosen:
        photo = images_dir(data_dir) / image
        pixels = read_pixels(photo, handler.MODEL.size, handler.MODEL.share).astype(np.float32)
        start = time.perf_counter()
        probabilities, *_ = handler.run_model(pixels)
        inferences.append(time.perf_counter() - start)
        start = time.perf_counter()
        model, breed = handler.MODEL, int(probabilities.argmax())
        cells = np.array(class_activation_map(model.interpreter, model.explanation_tensors, breed))
        maps.append(time.perf_counter() - start)
        xml = annotation_dir(data_dir) / image.removesuffix(".jpg")
        inside = cells_in_boxes(xml, handler.MODEL.share, len(cells))
        strongest = np.argsort(cells, axis=None)[-cells.size // 10 :]
        top.append(inside.ravel()[strongest].mean())
        boxes.append(inside.mean())
    yield "explanation_strongest_tenth_in_box", 100 * np.mean(top), "%"
    yield "explanation_cells_in_box", 100 * np.mean(boxes), "%"
    yield "explanation_cost", 100 * statistics.median(maps) / statistics.median(inferences), "%"


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="default: %(default)s")
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    parser.add_argument(
        "--split-file", type=Path, default=SPLIT_FILE, metavar="CSV", help=SPLIT_HELP
    )
    args = parser.parse_args()
    report(measure(args.model, args.data_dir, args.split_file), args.json)


if __name__ == "__main__":
    main()
