"""Measure results and cost of a batch over a bucket in three forms, and of a folder with Dask.

Example

    python benchmarks/batch.py --dask --json batch.json # 30 min without VNNI, on two CPUs
    python benchmarks/batch.py --photos 100 --call-ms 62

Time      30 minutes without VNNI, on two CPUs.
Expect    For each form: the calls, photos and children of a first run; the photos without an
          answer; what a second run asked; the photos lost and doubled after it; and the rows that
          differ from those of `test.py --folder`. Then dollars for a million photos without faults.
          With --dask: photos a second with Dask and with `test.py --folder`.

The forms: one child execution for each photo, with one call ("one"); one child for ten photos, with
a call for each ("ten", as in template.yaml); and one call about ten photos ("call"). Each form runs
in the tests' interpreter of state machines, with the real handler in AWS's emulator. All forms
get the same photos and faults: 1 % of the photos are throttled twice; for 1 %, S3 answers 503 until
the second call; one photo may not be read; one photo ends the function once."""

import argparse
import contextlib
import csv
import os
import re
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
from common import MODEL, ROOT, Figure, command_line, report, run_watched
from cost import PRICES
from handler import knowing_all, photo
from lambda_bridge import ALWAYS, BUCKET, World, world  # a module of the tests
from step_functions import definition

from dog_breeds.clients import batch

# Dollars in us-east-1, first tier: https://aws.amazon.com/step-functions/pricing/ and /s3/pricing/
# A child; a GB-second of its time, billed in steps of 100 ms
EXPRESS_REQUESTS, EXPRESS_GB_SECOND = 1.00e-6, 0.00001667
EXPRESS_GB = 64 / 1024  # the least memory that is billed
TRANSITION = 25e-6  # of the parent; it is unknown whether the start of a child is billed as one
S3_READ = 0.4e-6
FORMS = {"one": 1, "ten": 10, "call": 10}  # photos per child
TURNS = 3


def one_call(deployed: dict) -> dict:
    """Return the definition in which a child makes one call about all its photos."""
    group = deployed["States"]["EachGroup"]["ItemProcessor"]
    classify = group["States"]["EachPhoto"]["ItemProcessor"]["States"]["Classify"]
    payload = {"bucket": "${Bucket}", "keys": "{% $states.input.keys %}"}
    arguments = {"FunctionName": "${FunctionArn}", "Payload": payload}
    task = {name: classify[name] for name in ("Type", "Resource", "Retry", "End")}
    task |= {"Arguments": arguments, "Output": "{% $states.result.Payload %}"}
    group |= {"StartAt": "Classify", "States": {"Classify": task}}
    return deployed


def photos(number: int) -> dict[str, bytes]:
    """Return photos by key. Each photo has different bytes."""
    content = photo(500, 375, 2)
    keys = [f"photos/{index:06}.jpg" for index in range(number - 1)] + ["photos/ends once.jpg"]
    return {key: content + key.encode() for key in keys}


def plant_faults(aws: World, keys: list[str]) -> None:
    """Make some photos fail for a while, and two photos fail until the end of the run."""
    throttled_keys = keys[7::100]
    aws.faults.throttled |= dict.fromkeys(throttled_keys, 2)
    # The S3 client of the handler itself tries three times
    aws.faults.s3 |= {key: (503, "SlowDown", 3) for key in keys[31::100]}
    aws.faults.s3[keys[52]] = (403, "AccessDenied", ALWAYS)


def run_batch(aws: World, machine: str, form: str) -> None:
    """Start a batch as a user does, and wait for its end."""
    args = argparse.Namespace(bucket=BUCKET, prefix="photos/", state_machine=machine, dry_run=False)
    args.results, batch.GROUP_SIZE = f"results/{form}", FORMS[form]
    said = batch.start(args, boto3.Session())
    if "started: " in said:
        aws.wait(said.partition("started: ")[2].split()[0])


def children(aws: World, form: str) -> tuple[int, int]:
    """Return the number of groups on the lists of a form, and how many of them failed."""
    listed = len(list(batch.listed_photos(aws.s3, BUCKET, f"results/{form}")))
    files = [item["Key"] for item in batch.list_objects(aws.s3, BUCKET, f"results/{form}/")]
    failed = sum(
        1 for key in files if "/FAILED_" in key for _ in batch.read_lines(aws.s3, BUCKET, key)
    )
    return -(-listed // FORMS[form]), failed


def read_table(table: Path) -> list[dict]:
    """Return the rows of a table."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def measure_form(aws: World, form: str, keys: list[str], place: Path) -> Iterator[Figure]:
    """Return the calls and faults of a form, in a first and in a second run."""
    for name in (place / "ended").iterdir():  # once in each form
        name.rmdir()
    deployed = definition()
    machine = aws.create_machine(form, one_call(deployed) if form == "call" else deployed)
    plant_faults(aws, keys)
    aws.calls = 0
    aws.invocations.clear()
    run_batch(aws, machine, form)
    groups, failed = children(aws, form)
    table, prefix = place / f"{form}.csv", f"batch_{form}_"
    _, without = batch.make_table(aws.s3, BUCKET, f"results/{form}", table)
    yield prefix + "children", groups, ""
    yield prefix + "children_failed", failed, ""
    yield prefix + "calls", aws.calls, ""
    yield prefix + "photos_asked", aws.invocations.total(), ""
    yield prefix + "photos_without_answer", without, ""
    aws.faults.s3.clear()  # from now on the photo may be read
    before = aws.invocations.total()
    run_batch(aws, machine, form)
    batch.make_table(aws.s3, BUCKET, f"results/{form}", table)
    yield prefix + "photos_asked_by_a_second_run", aws.invocations.total() - before, ""
    names = [row["file"] for row in read_table(table)]
    yield prefix + "photos_lost", len(set(keys) - set(names)), ""
    yield prefix + "photos_doubled", len(names) - len(set(names)), ""


def differing_rows(
    place: Path, contents: dict[str, bytes], model: Path, forms: list[str]
) -> Iterator[Figure]:
    """Yield for each form how many rows differ from those of a folder with the same photos."""
    for key, content in contents.items():
        (place / "folder" / key).parent.mkdir(parents=True, exist_ok=True)
        (place / "folder" / key).write_bytes(content)
    folder(place, model, place / "folder.csv")
    expected = {row["file"]: row for row in read_table(place / "folder.csv")}
    for form in forms:
        rows = {row["file"]: row for row in read_table(place / f"{form}.csv")}
        faults = {name for name, row in rows.items() if row["error"]}
        differ = [name for name in rows.keys() - faults if rows[name] != expected[name]]
        yield f"batch_{form}_rows_unlike_those_of_a_folder", len(differ), ""


def price(form: str, call_ms: float, lambda_second: float) -> Iterator[Figure]:
    """Yield the cost of a million photos without faults, in dollars.

    One figure includes the starts of the children, the other does not."""
    group = FORMS[form]
    calls = 1e6 / (group if form == "call" else 1)
    duration = call_ms * (group if form == "call" else 1)  # ten calls of a group run at once
    steps = -(-duration // 100) * 0.1
    total = 1e6 * (call_ms / 1000 * lambda_second + S3_READ) + calls * PRICES["requests"] / 1e6
    total += 1e6 / group * (EXPRESS_REQUESTS + steps * EXPRESS_GB * EXPRESS_GB_SECOND)
    yield f"batch_{form}_usd_a_million", total, "USD"
    yield (
        f"batch_{form}_usd_a_million_if_starts_are_transitions",
        (total + 1e6 / group * TRANSITION),
        "USD",
    )


# --- Another engine -------------------------------------------------------------------------------


def folder(place: Path, model: Path, table: Path) -> float:
    """Return the seconds of test.py --folder."""
    table.unlink(missing_ok=True)
    command = [ROOT / "test.py", "--folder", place / "folder", "--csv", table, "--model", model]
    return run_watched(command)[0]


def measure_engines(place: Path, model: Path, number: int) -> Iterator[Figure]:
    """Return photos a second with the Dask lines of DEPLOY.md, and with test.py --folder."""
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "DEPLOY.md").read_text(), re.S)
    script = place / "with_dask.py"
    script.write_text(lines.replace("recipe.MODEL", f"Path({str(model)!r})"))
    os.environ["PYTHONPATH"] = str(ROOT)
    seconds = {"folder": [], "dask": []}
    for _ in range(TURNS):
        seconds["folder"].append(folder(place, model, place / "folder.csv"))
        seconds["dask"].append(run_watched([script, place / "folder", place / "dask.csv"])[0])
    for name, values in seconds.items():
        yield f"{name}_photos_per_s", number / statistics.median(values), "1/s"
    shares = [one / other for one, other in zip(*seconds.values(), strict=True)]
    yield "dask_to_folder", statistics.median(shares), ""
    same = (place / "dask.csv").read_bytes() == (place / "folder.csv").read_bytes()
    yield "dask_makes_the_same_table", same, ""


def measure(args: argparse.Namespace) -> Iterator[Figure]:
    """Measure everything in a temporary folder."""
    with contextlib.ExitStack() as running:
        place = Path(running.enter_context(tempfile.TemporaryDirectory()))
        model = knowing_all(args.model.resolve(), place / "model.tflite")
        contents = photos(args.photos)
        paths = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'benchmarks'}"
        (place / "ended").mkdir()
        aws = running.enter_context(
            world(
                [model] * args.emulators,
                "ten_keys.lambda_handler",
                PYTHONPATH=paths,
                ENDED=str(place / "ended"),
            )
        )
        os.environ |= aws.env
        aws.put(contents)
        keys = list(contents)
        for form in args.forms:
            yield from measure_form(aws, form, keys, place)
            yield from price(form, args.call_ms, PRICES[args.kind] * args.memory / 1024)
        yield from differing_rows(place, contents, model, args.forms)
        if args.dask:
            yield from measure_engines(place, model, len(keys))


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    parser.add_argument("--photos", type=int, default=900, help="default: %(default)s")
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=list(FORMS), help="default: all three"
    )
    parser.add_argument("--dask", action="store_true", help="compare Dask and test.py --folder")
    parser.add_argument("--emulators", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--call-ms",
        type=float,
        default=359,
        help="of a warm call, from benchmarks/cost.py (default: %(default)s, AVX2 alone)",
    )
    parser.add_argument("--memory", type=int, default=1024, help="MB; default: %(default)s")
    parser.add_argument("--kind", choices=("x86", "arm"), default="x86", help="of prices")
    args = parser.parse_args()
    if args.photos < 100:
        parser.error("--photos must be at least 100, for the planted faults")
    report(measure(args), args.json)


if __name__ == "__main__":
    main()
