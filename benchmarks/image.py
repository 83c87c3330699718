"""How large the image is, and how long a container of it takes to its first answer.

Builds the image with buildah on the base image that the script in LAMBDA_BASE_BUILD makes, and starts it as Lambda does
(read-only, as another user) with AWS's emulator inside. Prints what our layers add and their largest parts; from start
to first answer, median of 10, with a whole CPU and with the 29 % of 512 MB, with the files in the page cache and not;
the warm calls after it; and the same for what the original puts into its image: the float32 model at 150 px, pixels
resized by NEAREST, on the same runtime (tflite-runtime has no release for this Python). Needs root on Linux.

    LAMBDA_BASE_BUILD=build.sh python benchmarks/image.py --json image.json            # some 5 minutes
"""

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bulk import knowing_all
from cost import FULL, share_of_cpu
from handler import ROOT, in_process, original_model, photo

sys.path.insert(0, str(ROOT / "tests"))
from container import BASE, in_lambda

MODEL = "top_10_dog_breeds.tflite"
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
interpreter = Interpreter("/var/task/top_10_dog_breeds.tflite")
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
    """Return what a command prints."""
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout.strip()


def megabytes(folder: Path) -> float:
    """Return the size of all files in a folder, each counted once."""
    return int(run("du", "-s", "-B", "1", folder).split()[0]) / 1e6


def forget(folder: Path) -> None:
    """Take a folder's files out of the page cache."""
    for place, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(place, name)
            if os.path.isfile(path) and not os.path.islink(path):
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def starts(container: str, request: Path, share: float, cold: bool) -> dict[str, float]:
    """Return milliseconds from a container's start to its first answer, and of the calls after it: medians."""
    root, first, warm = Path(run("buildah", "mount", container)), [], []
    printed, answer = request.with_name("printed"), request.with_name("answer")
    for _ in range(STARTS):
        if cold:
            forget(root)
        with share_of_cpu(share) as prefix:
            done = in_lambda(container, printed, ["bash", "-c", CLIENT, "-", request, CALLS, answer], prefix=prefix)
        if done.returncode or b'"prediction"' not in answer.read_bytes():
            raise RuntimeError(printed.read_text() + done.stderr)
        (since, _), *later = [map(int, line.split()) for line in done.stdout.splitlines()]
        first.append(since / 1000)
        warm += [call / 1000 for _, call in later]
    return {"first_answer_ms": statistics.median(first), "warm_call_ms": statistics.median(warm)}


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    if "LAMBDA_BASE_BUILD" not in os.environ:
        sys.exit("image.py: set LAMBDA_BASE_BUILD to a script that builds a base image like AWS's with buildah")
    run(os.environ["LAMBDA_BASE_BUILD"], BASE)
    results = {}

    def note(figures: dict[str, float], name: str = "") -> None:
        for key, value in figures.items():
            results[name + key] = value
            unit = key.split("_")[-1].replace("mb", "MB")
            print(f"{name}{key} = {value:.4g} {unit}", flush=True)

    flags = ["--layers", "--isolation", "chroot", "--network", "host", "--build-arg", f"BASE_IMAGE={BASE}"]
    run("buildah", "build", *flags, "-t", "localhost/dog-breeds-benchmark", ROOT)
    containers = [run("buildah", "from", name) for name in (BASE, *["localhost/dog-breeds-benchmark"] * 2)]
    base, ours, original = containers
    try:
        with tempfile.TemporaryDirectory() as folder:
            request, model, code = (Path(folder, name) for name in ("request", "model.tflite", "original.py"))
            body = json.dumps({"image": base64.b64encode(photo(500, 375, 2)).decode()})
            head = (
                "POST /2015-03-31/functions/function/invocations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            )
            request.write_text(f"{head}Content-Length: {len(body)}\r\n\r\n{body}")
            run("buildah", "copy", ours, knowing_all(ROOT / MODEL, model), f"/var/task/{MODEL}")
            in_process(original_model, 150, model)
            code.write_text(ORIGINAL)
            run("buildah", "copy", original, model, f"/var/task/{MODEL}")
            run("buildah", "copy", original, code, "/var/task/lambda_function.py")
            roots = [Path(run("buildah", "mount", container)) for container in (base, ours)]
            task = roots[1] / "var/task"
            sizes = {path.name: megabytes(path) for path in task.iterdir()}
            sizes["numpy"] += sizes.pop("numpy.libs")
            sizes["PIL"] += sizes.pop("pillow.libs")
            note({"layers_mb": megabytes(roots[1]) - megabytes(roots[0])})
            for name in sorted(sizes, key=sizes.get)[:-5:-1]:
                note({f"{name.split('.')[0]}_mb": sizes[name]}, "part_")
            for name, container in (("ours", ours), ("original", original)):
                for place, share in (("full_cpu", 1.0), ("512_mb", 512 / FULL)):
                    for cache, cold in (("cached", False), ("uncached", True)):
                        note(starts(container, request, share, cold), f"{name}_{place}_{cache}_")
    finally:
        for container in containers:
            run("buildah", "rm", container)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
