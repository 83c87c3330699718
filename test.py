"""Ask the service on this machine, or a model file, which breed a photo shows.

Reads     a photo from the web or from a file, or a folder of photos.
Writes    with --explain, an image that shows where the model looked; with --folder, a CSV table.
Example

    make serve                                        # starts the service; in another terminal
    docker run -it --rm -p 8080:8080 dog-breeds       # or starts it with Docker
    python test.py                                    # asks about a Great Pyrenees on the web
    python test.py --url URL
    python test.py --file photo.jpg                   # large photos, HEIC and AVIF become JPEGs
    python test.py --file photo.jpg --explain out.png # also shows where the model looked
    python test.py --file photo.jpg --model models/dog_breeds_120.tflite     # without a service
    python test.py --folder DIR --csv OUT.csv         # all photos of a folder, without a service

Time      About 0.1 s for a file. --folder classifies 73 photos a second on 2 cores with VNNI.
Expect    Ten breeds, likeliest first. If --folder is stopped, the same command continues."""

import argparse
import base64
import contextlib
import io
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import ModuleType

import requests

from dog_breeds import recipe
from dog_breeds.clients.bulk import classify_folder
from dog_breeds.clients.client_images import (
    SENT_SIDE,
    image_to_send,
    needs_conversion,
    shade_image,
    upright_image,
)
from dog_breeds.clients.endpoint import open_session
from dog_breeds.console import atomic_path, one_line_errors, quiet, script_parser
from dog_breeds.data.dataset import display_name
from dog_breeds.serving.cpus import why_slow
from dog_breeds.serving.limits import MAX_BYTES
from dog_breeds.workers import map_in_processes

URL = "https://images.unsplash.com/photo-1636496430627-a7b203b4cc58"  # a Great Pyrenees
ENDPOINTS = (  # asked in this order until one answers
    "http://localhost:9000/",  # make serve
    "http://localhost:8080/2015-03-31/functions/function/invocations",  # a container
)
HINT = (
    "start the service with make serve, or with Docker: docker run -it --rm -p 8080:8080 "
    f"dog-breeds; or answer without a service: --model models/{recipe.MODEL.name}"
)
BAR = 40  # characters of the bar for a probability of 100 %
SHOWN = 10  # number of breeds to print


def event_for(url: str, file: Path | None) -> dict:
    """Return the event that asks about a file or, if that is None, about a URL."""
    if file is None:
        return {"url": url}
    return {"image": base64.b64encode(image_to_send(file)).decode()}


def ask(endpoints: Sequence[str], event: dict) -> dict:
    """Return the answer of the first endpoint at which the service runs.

    Raises RuntimeError if it runs at none of them. The message says what happened at each endpoint,
    and how to start the service.
    """
    failures = []
    for endpoint in endpoints:
        try:
            with open_session(endpoint) as session:
                response = session.post(endpoint, json=event, timeout=60)
            answer = response.json()
        except requests.JSONDecodeError:  # something else answers at this address
            answer = None
        except requests.RequestException as error:
            failures.append(f"no answer from {endpoint} ({type(error).__name__})")
            continue
        if isinstance(answer, dict) and (
            "prediction" in answer or isinstance(answer.get("error"), dict)
        ):
            return answer
        failures.append(f"{endpoint} answered, but not as this service does: {response.text[:300]}")
    raise RuntimeError("; ".join([*failures, HINT]))


def ask_model(model: Path, event: dict) -> dict:
    """Load a model file in this process, and return the handler's answer to an event."""
    if not model.is_file():
        raise ValueError(f"there is no model file {model}")
    handler = load_handler(model)
    print_remark(why_slow(handler.MODEL.interpreter))
    with contextlib.redirect_stdout(io.StringIO()):  # hides the handler's log
        return handler.lambda_handler(event)


def load_handler(model: Path) -> ModuleType:
    """Return the module lambda_function, which loads a model file when it is first imported."""
    os.environ["MODEL_FILE"] = str(model)
    with quiet():  # hides what the runtime prints at its start
        import lambda_function
    return lambda_function


def print_remark(remark: str) -> None:
    """Print a remark, unless it is empty. It goes to stderr, so that stdout has only the answer."""
    if remark:
        print(remark, file=sys.stderr, flush=True)


def why_model_is_slow(model: Path) -> str:
    """Load a model file in this process, and return its `why_slow`."""
    return why_slow(load_handler(model).MODEL.interpreter)


def classify_photos(model: Path, folder: Path, names: list[str]) -> list[tuple[str, dict]]:
    """Return (name, answer) for each photo. The handler runs in this process."""
    handler = load_handler(model)

    def classify(content: bytes) -> dict:
        return handler.answer_image(content, top_k=1, explain=False, log={}, until=math.inf)

    answers = []
    for name in names:
        try:
            with open(folder / name, "rb") as file:
                content = file.read(MAX_BYTES + 1)
            # The handler refuses large files, HEIC, AVIF and TIFF, so convert these to JPEG
            if len(content) > MAX_BYTES or needs_conversion(content):
                content = image_to_send(folder / name)
            answer = classify(content)
            # A small file can have too many pixels
            if answer.get("error", {}).get("code") == "too_large":
                answer = classify(image_to_send(folder / name))
        except (OSError, ValueError):
            answer = {"error": {"code": "unreadable"}}
        answers.append((name, answer))
    return answers


def answer_folder(folder: Path, table: Path, model: Path) -> str:
    """Write the answers about the photos in a folder to a table.

    Return a summary for the terminal: remarks, then how often each breed occurs.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    if not model.is_file():
        raise ValueError(f"there is no model file {model}")
    start = time.monotonic()
    try:
        # In a process of its own, so that this process does not keep the memory of the model
        print_remark(*map_in_processes(why_model_is_slow, [(model,)]))
        counts, remarks = classify_folder(folder, table, model, classify_photos)
    except BrokenExecutor:
        raise RuntimeError(
            "a process has died, perhaps out of memory; run the same command to continue"
        ) from None
    rate = counts.total() / (time.monotonic() - start)
    summary = [*remarks, f"{table}: {counts.total():,} new photos, {rate:.1f} a second"]
    summary += [f"{number:9,}  {name}" for name, number in counts.most_common()]
    return "\n".join(summary)


def format_answer(answer: dict) -> str:
    """Return an answer as lines for the terminal: name, percentage and bar, likeliest breed first.

    Lines above this list say if the image was cropped or turned, if the breed may be unknown, and
    which breeds are candidates. Raises RuntimeError if the answer is an error.
    """
    if "error" in answer:
        raise RuntimeError(answer["error"]["message"])
    ranking = list(answer["prediction"].items())[:SHOWN]
    width = max(len(breed) for breed, _ in ranking)
    lines = []
    if "cropped" in answer:
        lines.append("The borders of the image were cut off.")
    if "turned" in answer:
        lines.append(f"The image was turned clockwise by {answer['turned']} degrees.")
    if not answer["known"]:
        best = display_name(ranking[0][0])
        lines.append(f"It looks most like {best}, but may be a breed that the model does not know.")
    elif len(answer.get("candidates", [])) > 1:
        lines.append(" or ".join(map(display_name, answer["candidates"])))
    lines += [
        f"{breed:{width}}  {probability:6.1%}  {'#' * round(probability * BAR)}".rstrip()
        for breed, probability in ranking
    ]
    return "\n".join(lines)


def save_explanation(file: Path, answer: dict, path: Path) -> None:
    """Save an image in which the parts that did not support the answer are dark."""
    image = shade_image(
        upright_image(file, SENT_SIDE), answer["explanation"], answer["explanation_share"]
    )
    with atomic_path(path) as temporary:
        image.save(temporary)


def common_parser(description: str, default: str, example: str) -> argparse.ArgumentParser:
    """Return a parser with the options of both test.py and test_cloud.py.

    `default` is the text that describes the default of --endpoint.
    """
    parser = script_parser(description, example)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", default=URL, help="address of a photo (default: %(default)s)")
    source.add_argument("--file", type=Path, help="photo on this machine")
    parser.add_argument("--endpoint", help=f"address of the service (default: {default})")
    return parser


def main() -> None:
    """Parse the arguments, ask, and print the answer or a summary."""
    parser = common_parser(
        __doc__, " or ".join(ENDPOINTS), "python test.py --file photo.jpg --explain out.png"
    )
    parser.add_argument("--model", type=Path, help="run this model file here, without a service")
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="OUT.png",
        help="write a copy of --file that shows where the model looked",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="classify all photos in this folder without a service, and write a table (--csv);"
        f" the model is --model (default: models/{recipe.MODEL.name})",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        help="table to write with --folder; photos that are already in the table are skipped",
    )
    args = parser.parse_args()
    if bool(args.folder) != bool(args.csv):
        parser.error("use --folder and --csv together")
    if args.folder and (args.file or args.explain or args.url != URL):
        parser.error("--folder cannot be combined with --file, --url or --explain")
    if (args.folder or args.model) and args.endpoint:
        parser.error("--endpoint asks a service; --folder and --model work without one")
    if args.explain and not args.file:
        parser.error("--explain needs --file")
    with one_line_errors():
        if args.folder:
            print(answer_folder(args.folder, args.csv, args.model or recipe.MODEL))
            return
        event = event_for(args.url, args.file) | ({"explain": True} if args.explain else {})
        endpoints = (args.endpoint,) if args.endpoint else ENDPOINTS
        answer = ask_model(args.model, event) if args.model else ask(endpoints, event)
        print(format_answer(answer))
        if args.explain:
            save_explanation(args.file, answer, args.explain)
            print(f"where the model looked: {args.explain}")


if __name__ == "__main__":
    main()
