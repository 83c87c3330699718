"""Measure how good a model file is on photos that it was not trained on, through the handler.

Reads     a folder with a sub-folder for each breed, like the one of make_dataset.py --pets. Each
          folder is matched with a class of the file by name, display name or synonym
          (dog_breeds/data/synonyms.py). Other folders are unknown breeds.
Example

    python benchmarks/outside.py --photos data/pets
    python benchmarks/outside.py --photos data/pets --model my_classes.tflite --json outside.json
    python benchmarks/outside.py --photos data/pets --without-fitted

Expect    A table of the known breeds with top 1, top 5, photos taken as known and candidates;
          calibration; a table of the unknown breeds; the most frequent confusions.

Every photo takes one inference; a photo that seems turned takes four. --without-fitted leaves out
the known breeds on which training.py --outside fits its rules: every second breed."""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import MODEL, machine

from dog_breeds.console import one_line_errors, quiet, script_parser, with_progress
from dog_breeds.data.class_folders import list_class_images
from dog_breeds.data.dataset import display_name
from dog_breeds.data.synonyms import match_folders
from dog_breeds.learning.metrics import expected_calibration_error
from dog_breeds.serving.facts import read_facts
from dog_breeds.workers import map_in_processes

BATCH = 8  # photos per task of a process
SURE = 0.9  # wrong answers above this probability are counted separately
CONFUSIONS = 10  # confusions shown


class Answer(NamedTuple):
    """The handler's answer about a photo."""

    folder: str
    probabilities: np.ndarray  # float [N], in the order of the classes
    known: bool
    candidates: list[str]  # empty if the photo is unknown, or the file has none
    attempts: int


class Row(NamedTuple):
    """The shares of one row of the table, 0..1."""

    photos: int
    top_1: float
    top_5: float
    known: float
    held: float  # share of photos taken as known whose candidates include the true breed
    number: float  # mean number of candidates
    single: float  # share of photos taken as known with a single candidate


# --- Answers --------------------------------------------------------------------------------------


def answers_of(model: Path, photos: Sequence[tuple[str, Path]]) -> list[Answer | str]:
    """Return the handler's answer for each photo, or its message if it rejects the photo. Runs in
    this process."""
    os.environ["MODEL_FILE"] = str(model)
    with quiet():  # hides the greeting of the runtime
        import lambda_function

    answers = []
    for folder, path in photos:
        log = {}
        given = lambda_function.answer_image(path.read_bytes(), None, False, log, math.inf)
        if "error" in given:
            answers.append(f"{path}: {given['error']['message']}")
            continue
        values = [given["prediction"][name] for name in lambda_function.MODEL.classes]
        candidates = given.get("candidates", [])
        probabilities = np.array(values)
        answers.append(Answer(folder, probabilities, given["known"], candidates, log["looks"]))
    return answers


def ask_all(model: Path, images: dict[str, list[Path]]) -> list[Answer]:
    """Return the answers about all photos, using all CPUs. Print which photos are rejected."""
    photos = [(folder, path) for folder, paths in images.items() for path in paths]
    batches = [photos[start : start + BATCH] for start in range(0, len(photos), BATCH)]
    results = map_in_processes(answers_of, ((model, batch) for batch in batches))
    answers = []
    for batch in with_progress(results, "asking", len(batches), f"batches of {BATCH} photos"):
        for answer in batch:
            if isinstance(answer, str):
                print(f"left out: {answer}")
            else:
                answers.append(answer)
    return answers


# --- Figures --------------------------------------------------------------------------------------


def row_of(answers: Sequence[Answer], labels: Sequence[int], classes: Sequence[str]) -> Row:
    """Return the figures of photos with the true classes `labels`."""
    ranks = [
        (answer.probabilities > answer.probabilities[label]).sum()
        for answer, label in zip(answers, labels, strict=True)
    ]
    pairs = [
        (answer.candidates, classes[label])
        for answer, label in zip(answers, labels, strict=True)
        if answer.candidates
    ]
    numbers = [len(candidates) for candidates, _ in pairs]
    return Row(
        len(answers),
        float(np.mean(np.array(ranks) < 1)),
        float(np.mean(np.array(ranks) < 5)),
        float(np.mean([answer.known for answer in answers])),
        float(np.mean([right in candidates for candidates, right in pairs])) if pairs else math.nan,
        float(np.mean(numbers)) if pairs else math.nan,
        float(np.mean(np.array(numbers) == 1)) if pairs else math.nan,
    )


def figures_of(row: Row, answers: Sequence[Answer], labels: np.ndarray) -> dict[str, float]:
    """Return the figures of all known photos. Shares are in percent, counts are not."""
    logits = np.log(np.maximum([answer.probabilities for answer in answers], 1e-9))
    wrong = logits.argmax(axis=1) != labels
    sure = np.exp(logits.max(axis=1)) > SURE
    figures = {
        "photos": row.photos,
        "top_1": 100 * row.top_1,
        "top_5": 100 * row.top_5,
        "taken_as_known": 100 * row.known,
        "calibration_error": 100 * expected_calibration_error(logits, labels),
        "wrong_though_sure": 100 * float((wrong & sure).mean()),
    }
    if not math.isnan(row.number):
        figures |= {
            "candidates_hold_the_breed": 100 * row.held,
            "candidates": row.number,
            "single_candidate": 100 * row.single,
        }
    return figures


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as text, with the first column aligned to the left and the others to the
    right."""
    cells = [list(map(str, row)) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        f"{first:{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        for first, *rest in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def percent(share: float) -> str:
    """Return a share as the text of a cell, or "-" if there is no share."""
    return "-" if math.isnan(share) else f"{share:.1%}"


def cells(name: str, row: Row) -> list[object]:
    """Return the cells of a row of the table."""
    number = "-" if math.isnan(row.number) else f"{row.number:.2f}"
    shares = row.top_1, row.top_5, row.known, row.held
    return [name, row.photos, *map(percent, shares), number, percent(row.single)]


# --- The whole ------------------------------------------------------------------------------------


def evaluate(model: Path, folder: Path, without_fitted: bool) -> dict[str, float]:
    """Ask about all photos, print the tables and return the figures for --json."""
    classes = read_facts(model)["classes"]
    images = list_class_images(folder)
    meant = match_folders(images, classes)
    known = [name for name in images if meant[name] and images[name]]
    if not known:
        raise ValueError(f"no folder in {folder} has the name of a class of {model}")
    left_out = known[::2] if without_fitted else []
    images = {name: paths for name, paths in images.items() if name not in left_out}
    answers = ask_all(model, images)

    def labels_of(answers: Sequence[Answer]) -> np.ndarray:
        return np.array([classes.index(meant[answer.folder]) for answer in answers])

    known_answers = [answer for answer in answers if meant[answer.folder]]
    unknown_answers = [answer for answer in answers if not meant[answer.folder]]
    rows = []
    for name in dict.fromkeys(answer.folder for answer in known_answers):
        of_folder = [answer for answer in known_answers if answer.folder == name]
        rows.append(cells(name, row_of(of_folder, labels_of(of_folder), classes)))
    total = row_of(known_answers, labels_of(known_answers), classes)
    head = ["known breed", "photos", "top 1", "top 5", "known", "right held", "candidates"]
    print(table([*head, "single"], [*rows, cells("all", total)]))
    figures = figures_of(total, known_answers, labels_of(known_answers))
    print(
        f"calibration error {figures['calibration_error']:.1f}%, wrong though over {SURE:.0%} sure "
        f"{figures['wrong_though_sure']:.1f}%\n"
    )

    if unknown_answers:
        by_name: dict[str, list[Answer]] = {}
        for answer in unknown_answers:
            by_name.setdefault(answer.folder, []).append(answer)
        rows = [unknown_cells(name, of_folder, classes) for name, of_folder in by_name.items()]
        passed = float(np.mean([answer.known for answer in unknown_answers]))
        rows.append(["all", len(unknown_answers), percent(passed), ""])
        print(table(["unknown breed", "photos", "known", "taken for"], rows) + "\n")
        figures |= {"unknown_photos": len(unknown_answers), "unknown_taken_as_known": 100 * passed}
        for name, of_folder in by_name.items():
            share = 100 * float(np.mean([answer.known for answer in of_folder]))
            figures[f"unknown_{name}_taken_as_known"] = share

    wrong = Counter(
        (display_name(meant[answer.folder]), display_name(classes[guess]))
        for answer in known_answers
        if classes[guess := int(answer.probabilities.argmax())] != meant[answer.folder]
    )
    rows = [[true, "taken for", guess, n] for (true, guess), n in wrong.most_common(CONFUSIONS)]
    if rows:
        print(table(["breed", "", "", "photos"], rows))
    attempts = float(np.mean([answer.attempts for answer in known_answers]))
    figures["inferences_for_a_photo_of_a_known_breed"] = attempts
    return figures


def unknown_cells(name: str, answers: Sequence[Answer], classes: Sequence[str]) -> list[object]:
    """Return the cells of an unknown breed, with the breeds for which its accepted photos are taken
    at least twice."""
    passed = [answer for answer in answers if answer.known]
    guesses = Counter(display_name(classes[int(a.probabilities.argmax())]) for a in passed)
    most = ", ".join(f"{guess} {n}" for guess, n in guesses.most_common(2) if n > 1)
    return [name, len(answers), percent(len(passed) / len(answers)), most]


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = script_parser(__doc__, "python benchmarks/outside.py --photos data/pets")
    parser.add_argument(
        "--photos", type=Path, required=True, metavar="DIR", help="with a sub-folder a breed"
    )
    parser.add_argument(
        "--model", type=Path, default=MODEL, metavar="FILE", help=f"default: {MODEL.name}"
    )
    parser.add_argument(
        "--without-fitted",
        action="store_true",
        help="leave out the breeds on which training.py --outside fits",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to it too")
    args = parser.parse_args()
    with one_line_errors():
        print(f"# {machine()}\n# {args.model} on {args.photos}", flush=True)
        figures = evaluate(args.model, args.photos, args.without_fitted)
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
