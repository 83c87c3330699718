"""Ask the local container (or emulator) which breed a picture shows.

    python test.py                      # a Great Pyrenees on the web
    python test.py --url URL
    python test.py --file photo.jpg     # sends the file itself

Start the container first: docker run -it --rm -p 8080:8080 dog-breeds. Prints the breeds, best first.
"""

import argparse
import base64
import io
import json
import sys
from pathlib import Path

import requests
from PIL import Image, ImageOps

URL = "https://images.unsplash.com/photo-1636496430627-a7b203b4cc58"  # a Great Pyrenees
ENDPOINT = "http://localhost:8080/2015-03-31/functions/function/invocations"
MAX_FILE = 4_000_000  # bytes: Lambda takes 6 MB a request, and base64 adds a third
BAR = 40  # characters


def picture_event(url: str | None, file: Path | None) -> dict:
    """The request for a URL or a file; a file that is too large for a request is sent at a smaller size."""
    if file is None:
        return {"url": url or URL}
    data = file.read_bytes()
    if len(data) > MAX_FILE:
        with Image.open(file) as image:
            image.draft("RGB", (2000, 2000))
            small = ImageOps.exif_transpose(image).convert("RGB")
        small.thumbnail((2000, 2000))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
    return {"image": base64.b64encode(data).decode()}


def ask(endpoint: str, event: dict, hint: str) -> dict:
    """The answer of the endpoint; RuntimeError if there is none, or if it is an error."""
    try:
        response = requests.post(endpoint, json=event, timeout=60)
        answer = response.json()
    except requests.ConnectionError:
        raise RuntimeError(f"nothing answers at {endpoint}; {hint}") from None
    except requests.RequestException as error:
        raise RuntimeError(f"no answer from {endpoint} ({type(error).__name__}); {hint}") from None
    if not isinstance(answer, dict) or "prediction" not in answer:
        error = answer.get("error") if isinstance(answer, dict) else None
        raise RuntimeError(
            error["message"] if isinstance(error, dict) else f"unexpected answer: {json.dumps(answer)[:300]}"
        )
    return answer


def show(answer: dict) -> str:
    """The answer as lines with bars."""
    lines = [] if answer["known"] else ["none of the known breeds, it seems; closest:"]
    width = max(map(len, answer["prediction"]))
    for breed, probability in answer["prediction"].items():
        lines.append(f"{breed:{width}}  {probability:6.1%}  {'#' * round(probability * BAR)}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Ask, and print the answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument("--url", help=f"picture on the web (default: {URL})")
    picture.add_argument("--file", type=Path, help="picture on this machine")
    parser.add_argument("--endpoint", default=ENDPOINT, help="default: %(default)s")
    args = parser.parse_args()
    try:
        event = picture_event(args.url, args.file)
        print(show(ask(args.endpoint, event, "start it: docker run -it --rm -p 8080:8080 dog-breeds")))
    except (OSError, RuntimeError) as error:
        sys.exit(f"test.py: {error}")


if __name__ == "__main__":
    main()
