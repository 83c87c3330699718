"""The batch over a bucket, as deployed: the state machine of template.yaml in an interpreter, the
real handler in AWS's emulator, S3 on this machine, and the client that starts it and makes a table.

The interpreter lacks what `step_functions.as_interpreted` takes out of the definition; what AWS
alone can show is: EXPRESS children and their five minutes, ResultWriter's own files (those here
follow AWS's documentation) and the cause of a failed child in them, and that 5 % of failed groups
are tolerated.
"""

import csv
import json
import os
import re
import subprocess
import sys
import time

import pytest
from colour_model import COLOURS
from conftest import ROOT, run
from emulator import emulator
from lambda_bridge import ALWAYS, BUCKET, world
from odd_images import drawn_image, saved
from step_functions import as_interpreted, definition

from dog_breeds.clients import batch

BREEDS = list(COLOURS)
ODD_NAMES = [
    "a dog & ü+1.jpg",
    "100%.PNG",
    'quo"te.jpeg',
    "{% $states %}.jpg",
    "~#?=.jpg",
    "Ünï/ö.jpg",
]
NOT_PHOTOS = {"": b"", "notes.txt": b"no photo", "folder.jpg/": b"", "list.json": b"[]"}


def coloured(number: int) -> bytes:
    """A photo of the breed with a number."""
    return saved(drawn_image(64, 48, BREEDS[number % 10]), format="PNG")


@pytest.fixture(scope="module")
def aws(colour_model, tmp_path_factory):
    ended = tmp_path_factory.mktemp("ended")
    with world([colour_model] * 2, "ending_handler.lambda_handler", ENDED=str(ended)) as made:
        made.machine = made.create_machine("batch", definition())
        yield made


def client(aws, *words: object) -> subprocess.CompletedProcess:
    """Run the client of the batch."""
    command = [sys.executable, "-m", "dog_breeds.clients.batch", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **aws.env}, capture_output=True, text=True
    )


def start(aws, prefix: str, *words: object) -> str:
    """Start a batch below a prefix, with results of its own; return the ARN of the execution."""
    done = client(aws, "start", *places(prefix), "--prefix", f"{prefix}/", *machine(aws), *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("started: ")[2].strip() or done.stdout


def places(prefix: str) -> list[str]:
    return ["--bucket", BUCKET, "--results", f"results/{prefix}"]


def machine(aws) -> list[str]:
    return ["--state-machine", aws.machine]


def table(aws, prefix: str, file) -> tuple[int, dict[str, dict]]:
    """Make the table of a prefix; return the exit status and the rows by the names of files."""
    done = client(aws, "table", *places(prefix), "--csv", file)
    assert not done.stderr, done.stderr
    return done.returncode, rows_by_name(file)


def rows_by_name(file) -> dict[str, dict]:
    """The rows of a table; each file has one."""
    with open(file, newline="", encoding="utf-8-sig") as text:
        rows = list(csv.DictReader(text))
    assert len({row["file"] for row in rows}) == len(rows)
    return {row["file"]: row for row in rows}


def failed_groups(aws, prefix: str) -> list[dict]:
    """The records of groups that failed, of all batches below a prefix."""
    keys = [item["Key"] for item in batch.list_objects(aws.s3, BUCKET, f"results/{prefix}/")]
    files = [key for key in keys if "/FAILED_" in key]
    return [record for key in files for record in batch.read_lines(aws.s3, BUCKET, key)]


def test_every_photo_is_asked_once_and_the_table_is_that_of_a_folder(aws, colour_model, tmp_path):
    photos = {name: coloured(number) for number, name in enumerate(ODD_NAMES)}
    photos |= {f"{number}.jpg": coloured(number) for number in range(40)}
    photos |= {"text.jpg": b"a dog", "empty.png": b"", "cut.png": coloured(1)[:90]}
    photos |= {"results/photo.jpg": coloured(3), "ends once.jpg": coloured(2)}
    aws.put({f"all/{name}": content for name, content in {**photos, **NOT_PHOTOS}.items()})
    aws.put({"results/all/old.jpg": coloured(0), "beside.jpg": coloured(0)})
    aws.faults.throttled["all/1.jpg"] = 3
    slow = (503, "SlowDown")
    # The handler's own client tries three times
    aws.faults.s3 |= {"all/2.jpg": (*slow, 1), "all/3.jpg": (*slow, 3), "all/4.jpg": (*slow, 8)}
    assert aws.wait(start(aws, "all"))["status"] == "SUCCEEDED"
    asked = {key: times for key, times in aws.invocations.items() if key.startswith("all/")}
    again = {"all/3.jpg": 2, "all/4.jpg": 3, "all/ends once.jpg": 2}
    assert asked == {f"all/{name}": 1 for name in photos} | again
    assert aws.invocations.keys() == asked.keys() and aws.faults.throttled["all/1.jpg"] < 0
    assert failed_groups(aws, "all") == []

    status, rows = table(aws, "all", tmp_path / "batch.csv")
    folder = tmp_path / "bucket"
    for name, content in photos.items():
        (folder / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "all" / name).write_bytes(content)
    done = run("test.py", "--folder", folder, "--csv", tmp_path / "x.csv", "--model", colour_model)
    assert done.returncode == 0, done.stderr
    assert status == 0 and rows == rows_by_name(tmp_path / "x.csv")
    before = dict(aws.invocations)
    assert "51 of them answered before" in start(aws, "all") and before == aws.invocations
    everything = client(aws, "start", *places("none"), *machine(aws), "--dry-run").stdout
    assert "s3://bucket/: 52 photos, 0 of them answered" in everything, "none below results/"


def test_lasting_faults_fail_their_group_and_only_they_are_asked_again(aws, tmp_path):
    photos = {f"lasting/{number}.jpg": coloured(number) for number in range(20)}
    aws.put(photos | {"lasting/ends always.jpg": coloured(0)})
    faults = {"lasting/0.jpg": "PassingFault", "lasting/1.jpg": "NotAllowed"}
    faults["lasting/ends always.jpg"] = "Runtime.ExitError"
    aws.faults.s3["lasting/0.jpg"] = (503, "SlowDown", ALWAYS)
    aws.faults.s3["lasting/1.jpg"] = (403, "AccessDenied", ALWAYS)
    aws.wait(start(aws, "lasting"))
    times = {"lasting/0.jpg": 7, "lasting/1.jpg": 1, "lasting/ends always.jpg": 3}
    assert {key: aws.invocations[key] for key in faults} == times
    groups = failed_groups(aws, "lasting")
    assert {group["Error"] for group in groups} <= set(faults.values())
    assert all(group["Status"] == "FAILED" for group in groups)
    failed = {key for group in groups for key in json.loads(group["Input"])["keys"]}
    assert faults.keys() < failed, "answers of a failed group are kept, too"

    status, rows = table(aws, "lasting", tmp_path / "lasting.csv")
    assert status == 1 and len(rows) == 21
    assert {name: row["error"] for name, row in rows.items() if row["error"]} == faults
    for key in ("lasting/0.jpg", "lasting/1.jpg"):
        del aws.faults.s3[key]
    aws.s3.delete_object(Bucket=BUCKET, Key="lasting/ends always.jpg")
    before = aws.invocations.copy()
    assert aws.wait(start(aws, "lasting"))["status"] == "SUCCEEDED"
    assert dict(aws.invocations - before) == {"lasting/0.jpg": 1, "lasting/1.jpg": 1}
    _, rows = table(aws, "lasting", tmp_path / "lasting.csv")
    assert {name: row["breed"] for name, row in rows.items() if row["breed"]} == {
        name: BREEDS[number % 10] for number, name in enumerate(photos)
    }


def test_a_batch_that_is_stopped_goes_on_without_losing_or_doubling(aws, tmp_path):
    photos = {f"stopped/{number:02}.jpg": coloured(number) for number in range(60)}
    aws.put(photos)
    execution = start(aws, "stopped")
    done = client(aws, "start", *places("stopped"), "--prefix", "stopped/", *machine(aws))
    assert done.returncode == 1 and "a batch is running" in done.stderr

    def some_answered() -> bool:
        return sum(key in aws.invocations for key in photos) > 25

    assert aws.wait(execution, until=some_answered)["status"] == "RUNNING"
    aws.machines.stop_execution(executionArn=execution)
    assert aws.wait(execution)["status"] == "ABORTED"
    status, rows = table(aws, "stopped", tmp_path / "stopped.csv")
    assert status == 1 and sum(bool(row["breed"]) for row in rows.values()) < 60
    assert aws.wait(start(aws, "stopped"))["status"] == "SUCCEEDED"
    status, rows = table(aws, "stopped", tmp_path / "stopped.csv")
    assert status == 0
    assert {name: row["breed"] for name, row in rows.items()} == {
        name: BREEDS[number % 10] for number, name in enumerate(photos)
    }


def test_a_fault_of_all_photos_fails_all_groups(aws, colour_model, tmp_path):
    keys = [f"broken/{number}.jpg" for number in range(11)]
    aws.put({key: coloured(0) for key in keys})
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(colour_model.read_bytes()[:5000])
    whole = [aws.idle.get() for _ in range(2)]
    with emulator(damaged) as stack:
        aws.idle.put(stack.endpoint)
        aws.wait(start(aws, "broken"))
        aws.idle.get()
    for endpoint in whole:
        aws.idle.put(endpoint)
    assert [group["Error"] for group in failed_groups(aws, "broken")] == ["ValueError"] * 2
    status, rows = table(aws, "broken", tmp_path / "broken.csv")
    assert status == 1 and {row["error"] for row in rows.values()} == {"ValueError"}
    assert rows.keys() == set(keys)


def test_a_batch_without_a_list_says_how_to_start_it(aws):
    execution = aws.machines.start_execution(
        stateMachineArn=aws.machine, name="prefix", input='{"prefix": "2026/"}'
    )
    ended = aws.wait(execution["executionArn"])
    assert ended["status"] == "FAILED" and ended["error"] == "MissingList"
    assert "python -m dog_breeds.clients.batch start" in ended["cause"]


# --- Result files ---------------------------------------------------------------------------------


def write_results(aws, place: str, **lines: list) -> None:
    """Write result files in the form that AWS documents."""
    files = {"PENDING": [], "SUCCEEDED": [], "FAILED": []}
    for status, records in lines.items():
        key = f"{place}/{status}_0.jsonl"
        aws.put({key: "\n".join(map(json.dumps, records)).encode()})
        files[status].append({"Key": key, "Size": 1})
    manifest = {"DestinationBucket": BUCKET, "MapRunArn": "arn:run", "ResultFiles": files}
    aws.put({f"{place}/manifest.json": json.dumps(manifest).encode()})


def answered(key: str, breed: str) -> dict:
    return {"file": key, "breed": breed, "probability": 0.5, "known": True, "model": "0123abcd"}


def failure(status: str, cause: str, *keys: str, **fields: object) -> dict:
    record = {"ExecutionArn": "arn:child", "Input": json.dumps({"keys": keys}), "Status": status}
    record |= {"InputDetails": {"Included": True}, "Name": "child", "Cause": cause}
    return record | {"StartDate": "2026-11-27T10:00:00.000Z"} | fields


def test_the_newest_answer_counts_and_a_fault_only_where_there_is_none(aws, tmp_path):
    kept = [{"file": "a.jpg", "fault": "PassingFault"}, answered("b.jpg", "maltese_dog")]
    aws.put(
        {"results/files/1/photos.json": json.dumps([{"keys": ["a.jpg", "never.jpg"]}]).encode()}
    )
    write_results(
        aws,
        "results/files/1/run",
        SUCCEEDED=[answered("c.jpg", "leonberg"), {"file": "d.jpg", "error": "too_large"}],
        FAILED=[
            failure("FAILED", json.dumps(kept), "a.jpg", "b.jpg", Error="PassingFault"),
            failure("TIMED_OUT", "", "e.jpg", "c.jpg", Error="States.Timeout"),
            failure("ABORTED", "stopped", "f.jpg"),
            failure("FAILED", "[]", InputDetails={"Included": False}, Input=None),
        ],
        PENDING=[{"Input": json.dumps({"keys": ["g.jpg"]}), "Status": "PENDING"}],
    )
    time.sleep(1.1)  # S3 keeps the time in seconds
    write_results(aws, "results/files/v2/1/run", SUCCEEDED=[answered("other.jpg", "pomeranian")])
    write_results(aws, "results/files/2/run", SUCCEEDED=[answered("c.jpg", "samoyed")])
    status, rows = table(aws, "files", tmp_path / "files.csv")
    found = {name: row["breed"] or row["error"] for name, row in rows.items()}
    faults = {"a.jpg": "PassingFault", "e.jpg": "States.Timeout", "f.jpg": "ABORTED"}
    assert found == faults | {"b.jpg": "maltese_dog", "c.jpg": "samoyed", "d.jpg": "too_large"}
    assert rows["c.jpg"] == {
        "file": "c.jpg", "breed": "samoyed", "probability": "0.5", "known": "yes",
        "candidates": "", "error": "", "model": "0123abcd",
    }  # fmt: skip
    assert status == 1, "four photos have no answer, one of which was never asked about"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table", "--bucket", "missing", "--csv", "x.csv"], "bucket does not exist"),
        (["table", *places("none"), "--csv", "x.csv"], "no batch has written to s3://bucket/"),
        (
            ["start", *places("x"), "--prefix", "none/", "--state-machine", "MACHINE"],
            "there are no photos",
        ),
        (["start", *places("x"), "--state-machine", "arn:wrong"], "Invalid"),
    ],
)
def test_wrong_arguments_are_one_line(aws, words, said):
    words = [aws.machine if word == "MACHINE" else word for word in words]
    done = client(aws, *words)
    assert done.returncode == 1 and done.stderr.startswith("batch.py: ")
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert not (ROOT / "x.csv").exists()


def test_results_are_only_where_the_batch_may_write(aws):
    done = client(aws, "table", "--bucket", BUCKET, "--results", "photos", "--csv", "x.csv")
    assert done.returncode == 2 and "must be results, or lie below results" in done.stderr


# --- The definition -------------------------------------------------------------------------------


def test_the_interpreter_gets_all_that_is_deployed_but_what_it_lacks():
    deployed, interpreted = definition(), as_interpreted(definition(), **dict.fromkeys(
        ("Bucket", "FunctionArn", "Concurrency"), "1"
    ))  # fmt: skip
    lacking = deployed["States"]["EachGroup"]
    assert lacking.pop("ToleratedFailurePercentage") == 5
    assert lacking.pop("ResultWriter")["WriterConfig"] == {
        "Transformation": "FLATTEN",
        "OutputType": "JSONL",
    }
    assert lacking["ItemProcessor"]["ProcessorConfig"].pop("ExecutionType") == "EXPRESS"
    assert json.loads(re.sub(r"\$\{\w+\}", "1", json.dumps(deployed))) == interpreted


def test_a_group_of_photos_that_fail_to_the_last_try_fits_into_the_five_minutes_of_its_child():
    each_photo = definition()["States"]["EachGroup"]["ItemProcessor"]["States"]["EachPhoto"]
    classify = each_photo["ItemProcessor"]["States"]["Classify"]
    passing = classify["Retry"][0]
    waits = sum(
        passing["IntervalSeconds"] * passing["BackoffRate"] ** n
        for n in range(passing["MaxAttempts"])
    )
    timeout = 15  # seconds, of the function
    assert "MaxConcurrency" not in each_photo, "all photos of a group at once"
    assert waits + timeout * (passing["MaxAttempts"] + 1) < 300


# --- Another engine -------------------------------------------------------------------------------


def test_the_lines_for_dask_make_the_same_table(colour_model, tmp_path):
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "DEPLOY.md").read_text(), re.S)
    assert len(lines.splitlines()) <= 20
    lines = lines.replace("recipe.MODEL", f"Path({str(colour_model)!r})")
    (tmp_path / "with_dask.py").write_text(lines)
    folder = tmp_path / "photos"
    for number, name in enumerate([*ODD_NAMES, *(f"{number}.jpg" for number in range(30))]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(coloured(number))
    (folder / "text.jpg").write_text("a dog")
    done = run(tmp_path / "with_dask.py", folder, tmp_path / "dask.csv", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    done = run("test.py", "--folder", folder, "--csv", tmp_path / "x.csv", "--model", colour_model)
    assert (tmp_path / "dask.csv").read_bytes() == (tmp_path / "x.csv").read_bytes()
