"""Measure the size of the container image, and the time from a start to the first answer.

Example

    LAMBDA_BASE_BUILD=build.sh python benchmarks/image.py --json image.json    # about 5 minutes

Time      About 5 minutes. Needs root on Linux.
Expect    The size of our layers and their largest parts. From start to first answer, median of 10:
          with a whole CPU and with the 29 % of 512 MB; with the files in the page cache or not.
          Then the warm calls. Last, the same for the content of the original's image: the float32
          model at 150 px, pixels resized by NEAREST, on the same runtime (tflite-runtime has no
          release for this Python).

buildah builds the image on the base image that the script in LAMBDA_BASE_BUILD makes. The container
starts as on Lambda (read-only, as another user), with AWS's emulator inside."""

import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import MODEL, ROOT, Figure, command_line, report, with_units
from container import BASE, in_lambda
from cost import FULL, share_of_cpu
from handler import in_process, knowing_all, original_model, photo

IN_IMAGE = f"/var/task/{MODEL.name}"
STARTS, CALLS = 10, 20
INVOCATIONS = "/2015-03-31/functions/function/invocations"
CLIENT = """
for _ in $(seq 0 "$2"); do
    start=$EPOCHREALTIME
    exec 3<>/dev/tcp/127.0.0.1/8080
    cat "$1" >&3
    read -r status <&3; now=$EPOCHREALTIME
    case $status in *" 200 "*) ;; *) exit 1;; esac
    cat <&3 >"$3"
    echo "$(( ${now/./} - ${STARTED/./} )) $(( ${now/./} - ${start/./} ))"
done
"""
ORIGINAL = """
import base64, io
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
interpreter = Interpreter("MODEL")
interpreter.allocate_tensors()
(inputs,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
size = int(inputs["shape"][1])

def lambda_handler(event, context):
    with Image.open(io.BytesIO(base64.b64decode(event["image"]))) as image:
        image = image.convert("RGB").resize((size, size), Image.Resampling.NEAREST)
    interpreter.set_tensor(inputs["index"], np.array([np.array(image, dtype="float32")]) / 255)
    interpreter.invoke()
    return {"prediction": interpreter.get_tensor(outputs["index"])[0].tolist(), "known": True}
"""


def run(*command: object) -> str:
    """Return the output of a command."""
    return subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True
    ).stdout.strip()


def megabytes(folder: Path) -> float:
    """Return the size of all files in a folder, each counted once."""
    return int(run("du", "-s", "-B", "1", folder).split()[0]) / 1e6


def forget(folder: Path) -> None:
    """Remove a folder's files from the page cache."""
    for place, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(place, name)
            if os.path.isfile(path) and not os.path.islink(path):
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def starts(container: str, request: Path, share: float, cold: bool) -> dict[str, float]:
    """Return the median milliseconds from a container's start to its first answer, and of the calls
    after it."""
    root, first, warm = Path(run("buildah", "mount", container)), [], []
    printed, answer = request.with_name("printed"), request.with_name("answer")
    for _ in range(STARTS):
        if cold:
            forget(root)
        with share_of_cpu(share) as prefix:
            done = in_lambda(
                container,
                printed,
                ["bash", "-c", CLIENT, "-", request, CALLS, answer],
                prefix=prefix,
            )
        if done.returncode or b'"prediction"' not in answer.read_bytes():
            raise RuntimeError(printed.read_text() + done.stderr)
        (since, _), *later = [map(int, line.split()) for line in done.stdout.splitlines()]
        first.append(since / 1000)
        warm += [call / 1000 for _, call in later]
    return {"first_answer_ms": statistics.median(first), "warm_call_ms": statistics.median(warm)}


def sizes(base: Path, ours: Path) -> Iterator[Figure]:
    """Return the size that our layers add to the base image, and the four largest parts of it."""
    yield "layers_mb", megabytes(ours) - megabytes(base), "MB"
    parts = {path.name: megabytes(path) for path in (ours / "var/task").iterdir()}
    parts["numpy"] += parts.pop("numpy.libs")
    parts["PIL"] += parts.pop("pillow.libs")
    for name in sorted(parts, key=parts.get)[:-5:-1]:
        yield f"part_{name.split('.')[0]}_mb", parts[name], "MB"


def fill(ours: str, original: str, folder: Path) -> None:
    """Put a model that takes every image as known into one container, and the original's content
    into the other."""
    model, code = folder / "model.tflite", folder / "original.py"
    run("buildah", "copy", ours, knowing_all(MODEL, model), IN_IMAGE)
    in_process(original_model, 150, model)
    code.write_text(ORIGINAL.replace("MODEL", IN_IMAGE))
    run("buildah", "copy", original, model, IN_IMAGE)
    run("buildah", "copy", original, code, "/var/task/lambda_function.py")


def measure() -> Iterator[Figure]:
    """Build the image, measure its files, and start it again and again."""
    run(os.environ["LAMBDA_BASE_BUILD"], BASE)
    flags = [
        "--layers",
        "--isolation",
        "chroot",
        "--network",
        "host",
        "--build-arg",
        f"BASE_IMAGE={BASE}",
    ]
    run("buildah", "build", *flags, "-t", "localhost/dog-breeds-benchmark", ROOT)
    containers = [
        run("buildah", "from", name) for name in (BASE, *["localhost/dog-breeds-benchmark"] * 2)
    ]
    base, ours, original = containers
    try:
        with tempfile.TemporaryDirectory() as folder:
            request = Path(folder, "request")
            body = json.dumps({"image": base64.b64encode(photo(500, 375, 2)).decode()})
            head = f"POST {INVOCATIONS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            request.write_text(f"{head}Content-Length: {len(body)}\r\n\r\n{body}")
            fill(ours, original, Path(folder))
            yield from sizes(
                *(Path(run("buildah", "mount", container)) for container in (base, ours))
            )
            for name, container in (("ours", ours), ("original", original)):
                for place, share in (("full_cpu", 1.0), ("512_mb", 512 / FULL)):
                    for cache, cold in (("cached", False), ("uncached", True)):
                        yield from with_units(
                            starts(container, request, share, cold), f"{name}_{place}_{cache}_"
                        )
    finally:
        for container in containers:
            run("buildah", "rm", container)


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    args = command_line(__doc__).parse_args()
    if "LAMBDA_BASE_BUILD" not in os.environ:
        sys.exit(
            "image.py: set LAMBDA_BASE_BUILD to a script "
            "that builds a base image like AWS's with buildah"
        )
    report(measure(), args.json)


if __name__ == "__main__":
    main()
