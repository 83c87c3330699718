"""Compare the speed of test.py --folder with the bare inference of its model on all CPUs.

Example

    python benchmarks/bulk.py --json bulk.json
    python benchmarks/bulk.py --photos 400                # does it work? Its figures say little

Expect    Photos a second of --folder and of bare inference, measured in turns. Bare inference has a
          process with a one-thread interpreter for each CPU. Then the memory of all processes,
          early and at the end of the 10,000; and the rows that a run lost and doubled when it was
          killed five times.

The script draws one photo of 500 x 375 pixels, which the model is made to know. It makes 100 copies
with different lengths and gives them 10,000 names. Needs Linux."""

import csv
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import MODEL, ROOT, Figure, command_line, memory, report
from handler import knowing_all, photo

SIZE = (500, 375)
TURNS, TURN = 4, 2000  # turns of each measurement, and the photos of a turn
KILLS = 5
BARE = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
os.sched_setaffinity(0, {int(sys.argv[2])})
import lambda_function as handler, numpy
interpreter, (inputs, *outputs) = handler.MODEL.interpreter, handler.MODEL.tensors
pixels = numpy.zeros((1, handler.MODEL.size, handler.MODEL.size, 3), numpy.float32)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    interpreter.set_tensor(inputs, pixels)
    interpreter.invoke()
    for output in outputs:
        interpreter.get_tensor(output)
print("done", flush=True)
"""


def bare(model: Path, number: int) -> float:
    """Return inferences a second on all CPUs together, for a given number of inferences."""
    cpus, env = sorted(os.sched_getaffinity(0)), {**os.environ, "MODEL_FILE": str(model)}
    streams = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }
    words = [
        [sys.executable, "-c", BARE, str(ROOT), str(cpu), str(number // len(cpus))] for cpu in cpus
    ]
    processes = [subprocess.Popen(command, env=env, **streams) for command in words]
    for process in processes:
        process.stdout.readline()
    start = time.perf_counter()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.stdout.readline()
    seconds = time.perf_counter() - start
    for process in processes:
        process.communicate()
    return number // len(cpus) * len(cpus) / seconds


def bulk(
    model: Path, folder: Path, table: Path, watch: Callable[[subprocess.Popen, int], bool]
) -> float:
    """Run --folder and return photos a second between its first and its last rows.

    watch(process, rows) may end the process."""
    command = [
        sys.executable,
        ROOT / "test.py",
        "--folder",
        folder,
        "--csv",
        table,
        "--model",
        model,
    ]
    first = last = None
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **streams) as process:
        while process.poll() is None:
            rows = table.read_bytes().count(b"\n") if table.exists() else 0
            if rows > 64 and (last is None or rows > last[1]):
                last = (time.perf_counter(), rows)
                first = first or last
            if watch(process, rows):
                return 0.0
            time.sleep(0.02)
    if process.returncode:
        raise RuntimeError("test.py failed")
    return (last[1] - first[1]) / (last[0] - first[0])


def name_photos(place: Path, *counts: int) -> Iterator[Path]:
    """Yield folders with the given number of names for the same 100 files."""
    content, drawn = photo(*SIZE, 2), place / "drawn"
    drawn.mkdir()
    for number in range(100):
        (drawn / f"{number}.jpg").write_bytes(content + bytes(number))
    for turn, count in enumerate(counts):
        folder = place / f"photos_{turn}"
        folder.mkdir()
        for number in range(count):
            os.link(drawn / f"{number % 100}.jpg", folder / f"{number:06}.jpg")
        yield folder


def measure_rates(model: Path, folder: Path, place: Path) -> Iterator[Figure]:
    """Yield photos a second of bare inference and of --folder."""
    rates = {"bare_inference_per_s": [], "folder_per_s": []}
    for turn in range(TURNS):
        rates["bare_inference_per_s"].append(bare(model, len(os.listdir(folder))))
        rates["folder_per_s"].append(bulk(model, folder, place / f"{turn}.csv", lambda *_: False))
    for name, values in rates.items():
        yield name, statistics.median(values), "1/s"
    shares = [
        one / other
        for one, other in zip(rates["folder_per_s"], rates["bare_inference_per_s"], strict=True)
    ]
    yield "folder_to_bare_inference", statistics.median(shares), ""


def measure_kills(model: Path, folder: Path, table: Path) -> Iterator[Figure]:
    """Yield the rows that a repeatedly killed run loses and doubles, and the memory of its last
    part."""
    photos, used = len(os.listdir(folder)), {}
    ends = sorted(random.Random(0).sample(range(photos // 20, photos // 2), KILLS))

    def watch(process: subprocess.Popen, rows: int) -> bool:
        if ends and rows >= ends[0]:
            ends.pop(0)
            process.send_signal(signal.SIGKILL)
            return True
        if not ends and process.poll() is None:
            for name, share in (("early", 0.55), ("at_end", 0.98)):
                if rows >= share * photos and name not in used:
                    used[name] = memory(process.pid)
        return False

    while not (table.exists() and "at_end" in used):
        bulk(model, folder, table, watch)
    with open(table, newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    yield "photos", photos, ""
    yield "killed", KILLS, ""
    yield "rows_lost", photos - len(set(names)), ""
    yield "rows_doubled", len(names) - len(set(names)), ""
    for name, value in used.items():
        yield f"memory_{name}_mb", value / 1e6, "MB"
    yield "memory_growth", used["at_end"] / used["early"] - 1, ""


def measure(model: Path, photos: int) -> Iterator[Figure]:
    """Measure everything in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = knowing_all(model.resolve(), place / "model.tflite")
        turns, every = name_photos(place, min(TURN, photos), photos)
        yield from measure_rates(model, turns, place)
        yield from measure_kills(model, every, place / "every.csv")


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    parser.add_argument("--photos", type=int, default=10_000, help="default: %(default)s")
    args = parser.parse_args()
    report(measure(args.model, args.photos), args.json)


if __name__ == "__main__":
    main()
