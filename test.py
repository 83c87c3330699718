"""Ask the container on this machine which breed a picture shows.

    docker run -it --rm -p 8080:8080 dog-breeds       # first, in another terminal
    python test.py                                    # about a Great Pyrenees on the web
    python test.py --url URL
    python test.py --file photo.jpg                   # sends the file itself; large ones, HEIC and AVIF as a JPEG
    python test.py --file photo.jpg --explain out.png # also draws where the model looked
    python test.py --file photo.jpg --model top_10_dog_breeds.tflite    # no container: runs the handler here

Prints the breeds, best first, after some 0.1 s for a file.
"""

import argparse
import base64
import contextlib
import io
import os
import sys
from pathlib import Path

import requests

from dog_breeds.client_pictures import SMALLER, picture_to_send, shaded, upright_picture
from dog_breeds.console import quiet, written_whole

URL = "https://images.unsplash.com/photo-1636496430627-a7b203b4cc58"  # a Great Pyrenees
ENDPOINT = "http://localhost:8080/2015-03-31/functions/function/invocations"
HINT = "start the container: docker run -it --rm -p 8080:8080 dog-breeds"
BAR = 40  # characters


def event_for(url: str, file: Path | None) -> dict:
    """Return the request about a file, or else a URL."""
    if file is None:
        return {"url": url}
    return {"image": base64.b64encode(picture_to_send(file)).decode()}


def ask(endpoint: str, event: dict, hint: str) -> dict:
    """Return the service's answer to an event; RuntimeError, with the hint, if nothing answers as the service does."""
    try:
        response = requests.post(endpoint, json=event, timeout=60)
        answer = response.json()
    except requests.RequestException as error:
        raise RuntimeError(f"no answer from {endpoint} ({type(error).__name__}); {hint}") from None
    if not isinstance(answer, dict) or not answer.keys() & {"prediction", "error"}:
        raise RuntimeError(f"not the service answers at {endpoint}, or it failed: {response.text[:300]}")
    return answer


def ask_model(model: Path, event: dict) -> dict:
    """Return the handler's answer to an event, given in this process by a model file."""
    if not model.is_file():
        raise ValueError(f"there is no model file {model}")
    os.environ["MODEL_FILE"] = str(model)
    with quiet():  # a greeting of the runtime
        from lambda_function import lambda_handler

    with contextlib.redirect_stdout(io.StringIO()):  # its log
        return lambda_handler(event)


def show(answer: dict) -> str:
    """Return a prediction as lines of breed, percentage and bar, best first; RuntimeError if it is an error."""
    if "error" in answer:
        raise RuntimeError(answer["error"]["message"])
    width = max(map(len, answer["prediction"]))
    lines = [
        f"{breed:{width}}  {probability:6.1%}  {'#' * round(probability * BAR)}".rstrip()
        for breed, probability in answer["prediction"].items()
    ]
    return "\n".join([*([] if answer["known"] else ["Probably none of these breeds. The most similar:"]), *lines])


def draw(file: Path, answer: dict, path: Path) -> None:
    """Write the picture of a file with where the model looked."""
    image = shaded(upright_picture(file, SMALLER), answer["explanation"], answer["explanation_share"])
    with written_whole(path) as part:
        image.save(part)


def arguments(description: str, endpoint: str | None) -> argparse.ArgumentParser:
    """Return the options of this script and of test_cloud.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument("--url", default=URL, help="of the picture (default: %(default)s)")
    picture.add_argument("--file", type=Path, help="with the picture")
    parser.add_argument("--endpoint", default=endpoint, help="URL of the service (default: %(default)s)")
    return parser


def main() -> None:
    """Ask, and print the answer."""
    parser = arguments(__doc__, ENDPOINT)
    parser.add_argument("--model", type=Path, help="model file to answer here, without a service")
    parser.add_argument("--explain", type=Path, metavar="OUT.png", help="draw where the model looked in --file")
    args = parser.parse_args()
    if args.explain and not args.file:
        parser.error("--explain needs --file")
    try:
        event = event_for(args.url, args.file) | ({"explain": True} if args.explain else {})
        answer = ask_model(args.model, event) if args.model else ask(args.endpoint, event, HINT)
        print(show(answer))
        if args.explain:
            draw(args.file, answer, args.explain)
            print(f"where it looked: {args.explain}")
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"test.py: {error}")


if __name__ == "__main__":
    main()
