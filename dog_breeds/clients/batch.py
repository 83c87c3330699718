"""A batch over the photos of an S3 bucket: start it, go on with it, make a table of its answers.

    python -m dog_breeds.clients.batch start --bucket BUCKET --prefix 2026/ --state-machine ARN
    python -m dog_breeds.clients.batch table --bucket BUCKET --csv answers.csv

`start` lists the photos below a prefix, leaves out those that an earlier batch has answered, writes
the rest as a list to the bucket, and starts the state machine of template.yaml on that list. Run it
again after a batch that failed or was stopped: it asks only about what has no answer.

`table` turns the result files of all batches into one CSV file with the columns of `test.py
--folder`. It ends with the exit status 1 while photos have no answer.

Both need boto3, and the credentials that the AWS CLI would take, for the bucket and (start) the
state machine. Batches write only below the folder `results` of the bucket.
"""

import argparse
import contextlib
import io
import itertools
import json
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dog_breeds.clients.photo_files import SUFFIXES
from dog_breeds.clients.tables import encode, encode_head, row_for
from dog_breeds.console import atomic_path, one_line_errors, script_parser

GROUP = 10  # photos for which one child of the state machine asks the function, all at once
DOLLARS = 9.3e-6  # at most, for a photo; DEPLOY.md says why
RESULTS = "results/"  # where the batch may write
LIST = "photos.json"


class Photos(NamedTuple):
    """What a bucket holds below a prefix."""

    keys: list[str]
    others: int  # number of objects that are no photos by their names


# --- Result files ---------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a batch has found out about a photo."""

    key: str
    answer: dict  # as the handler gives it; with an "error" whose code is a fault if there is none
    model: str
    fault: bool  # whether the photo was not tried to the end, so that it is worth asking again


def read_results(s3: Any, bucket: str, results: str) -> Iterator[Answer]:
    """Yield what all batches have found out, the newest batch first; a photo may come up again."""
    manifests = written(s3, bucket, results, "*/*/manifest.json")  # of a batch and its map run
    for item in sorted(manifests, key=lambda item: item["LastModified"], reverse=True):
        manifest = json.load(s3.get_object(Bucket=bucket, Key=item["Key"])["Body"])
        for status in ("SUCCEEDED", "FAILED"):
            for file in manifest["ResultFiles"].get(status, ()):
                for record in read_lines(s3, bucket, file["Key"]):
                    rows = [record] if status == "SUCCEEDED" else rows_of_failure(record)
                    yield from map(answer_of, rows)


def written(s3: Any, bucket: str, results: str, pattern: str) -> list[dict]:
    """Return the objects in a folder whose path matches a pattern, in which no * goes over a /."""
    found = objects(s3, bucket, f"{results}/")
    depth = f"{results}/{pattern}".count("/")  # folders below may be those of another model
    return [
        item
        for item in found
        if item["Key"].count("/") == depth and PurePosixPath(item["Key"]).match(pattern)
    ]


def read_lines(s3: Any, bucket: str, key: str) -> Iterator[Any]:
    """Yield the values of an object that holds one value of JSON in each line."""
    with tempfile.TemporaryFile() as file:
        s3.download_fileobj(bucket, key, file)
        file.seek(0)
        for line in file:
            yield json.loads(line)


def rows_of_failure(record: dict) -> list[dict]:
    """Return the rows of a group that failed as a whole.

    The state machine writes the answers and faults of the group into the cause. Where Step
    Functions itself ended the group, the cause is another text, and all its photos have a fault.
    """
    with contextlib.suppress(KeyError, TypeError, ValueError):
        rows = json.loads(record["Cause"])
        if rows and isinstance(rows, list) and all("file" in row for row in rows):
            return rows
    fault = record.get("Error") or record.get("Status") or "no_answer"
    try:
        keys = json.loads(record["Input"])["keys"]
    except (KeyError, TypeError, ValueError):  # Step Functions leaves a long input out
        return []
    return [{"file": key, "fault": fault} for key in keys]


def answer_of(row: dict) -> Answer:
    """Return the answer in a row of the state machine."""
    fault = row.get("fault")
    if error := fault or row.get("error"):
        answer = {"error": {"code": error}}
    else:
        answer = {"prediction": {row["breed"]: float(row["probability"])}, "known": row["known"]}
        answer["candidates"] = row.get("candidates")
    return Answer(row["file"], answer, row.get("model", ""), bool(fault))


# --- Start ----------------------------------------------------------------------------------------


def objects(s3: Any, bucket: str, prefix: str) -> Iterator[dict]:
    """Yield all objects below a prefix, each with its Key and LastModified."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", ())


def find_photos(s3: Any, bucket: str, prefix: str) -> Photos:
    """Return the photos below a prefix, by the endings of their names.

    What batches have written is not looked at. Folders, as the console of S3 makes them, and texts
    are no photos.
    """
    keys, others = [], 0
    for item in objects(s3, bucket, prefix):
        key = item["Key"]
        if key.startswith(RESULTS):
            continue
        if key.lower().endswith(SUFFIXES):
            keys.append(key)
        else:
            others += 1
    return Photos(keys, others)


def write_list(s3: Any, bucket: str, place: str, keys: Iterable[str]) -> str:
    """Write a list of photos for the state machine, in groups; return its key."""
    keys = iter(keys)
    groups = iter(lambda: list(itertools.islice(keys, GROUP)), [])
    text = ",\n".join(json.dumps({"keys": group}) for group in groups)
    s3.upload_fileobj(io.BytesIO(f"[{text}]".encode()), bucket, f"{place}/{LIST}")
    return f"{place}/{LIST}"


def start(args: argparse.Namespace, session: Any) -> str:
    """Start a batch about all photos without an answer; return what to tell the user.

    Raises ValueError if there is nothing to ask, RuntimeError if a batch is running.
    """
    s3, machines = session.client("s3"), session.client("stepfunctions")
    running = machines.list_executions(
        stateMachineArn=args.state_machine, statusFilter="RUNNING", maxResults=1
    )["executions"]
    if running:
        raise RuntimeError(
            f"a batch is running: {running[0]['executionArn']}; wait for its end, or end it with "
            f"aws stepfunctions stop-execution"
        )
    place = f"s3://{args.bucket}/{args.prefix}"
    photos = find_photos(s3, args.bucket, args.prefix)
    if not photos.keys:
        raise ValueError(f"no photo is below {place}; name another --prefix")
    answered = {
        found.key for found in read_results(s3, args.bucket, args.results) if not found.fault
    }
    left = [key for key in photos.keys if key not in answered]
    lines = [
        f"{place}: {len(photos.keys):,} photos, {len(photos.keys) - len(left):,} of them answered "
        f"before; {photos.others:,} other objects left out",
        f"to ask: {len(left):,} photos, for at most ${len(left) * DOLLARS:,.2f} (see DEPLOY.md)",
    ]
    if args.dry_run or not left:
        return "\n".join([*lines, "nothing was started"])
    name = f"{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%S}-{secrets.token_hex(2)}"
    folder = f"{args.results}/{name}"
    given = {"list": write_list(s3, args.bucket, folder, left), "results": folder}
    arn = machines.start_execution(
        stateMachineArn=args.state_machine, name=name, input=json.dumps(given)
    )["executionArn"]
    return "\n".join([*lines, f"started: {arn}"])


# --- Table ----------------------------------------------------------------------------------------


def listed(s3: Any, bucket: str, results: str) -> Iterator[str]:
    """Yield the photos on the lists of all batches; a photo may come up again."""
    for item in written(s3, bucket, results, f"*/{LIST}"):
        for group in json.load(s3.get_object(Bucket=bucket, Key=item["Key"])["Body"]):
            yield from group["keys"]


def make_table(s3: Any, bucket: str, results: str, table: Path) -> tuple[Counter, int]:
    """Write a row for each photo that batches have asked about; return how often each breed or
    error came up, and the number of photos without an answer.

    Of several answers about a photo, the newest counts. A fault has a row only where there is no
    answer. Raises ValueError if there are no results.
    """
    counts, seen, faults = Counter(), set(), {}
    with atomic_path(table) as temporary, open(temporary, "wb") as file:

        def write(found: Answer) -> None:
            row = row_for(found.key, found.answer, found.model)
            file.write(encode([row]))
            counts[row["breed"] or row["error"]] += 1

        file.write(encode_head())
        for found in read_results(s3, bucket, results):
            if found.fault:
                faults.setdefault(found.key, found)
            elif found.key not in seen:
                seen.add(found.key)
                write(found)
        faults = {key: fault for key, fault in faults.items() if key not in seen}
        for fault in faults.values():
            write(fault)
        without = faults.keys() | (set(listed(s3, bucket, results)) - seen)
        if not seen and not without:
            raise ValueError(f"no batch has written to s3://{bucket}/{results}/")
    return counts, len(without)


# --- Command line ---------------------------------------------------------------------------------


@contextlib.contextmanager
def aws_errors() -> Iterator[Any]:
    """Yield a session of boto3; raise what goes wrong with it as RuntimeError, in one line."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise RuntimeError("this needs boto3; install it with pip install boto3") from None
    try:
        yield boto3.Session()
    except (BotoCoreError, ClientError) as error:
        raise RuntimeError(" ".join(str(error).split())) from None


def folder_name(text: str) -> str:
    """Return the name of a folder in a bucket, without slashes around it."""
    name = text.strip("/")
    if not f"{name}/".startswith(RESULTS):
        raise argparse.ArgumentTypeError("the batch may write only to results and folders below it")
    return name


def parse_args() -> argparse.Namespace:
    """Return what the command line says."""
    parser = script_parser(
        __doc__, "python -m dog_breeds.clients.batch table --bucket my-photos --csv answers.csv"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("start", "ask about all photos"), ("table", "write a table of answers")):
        command = commands.add_parser(name, help=about)
        command.add_argument("--bucket", required=True, help="BatchBucket of the stack")
        command.add_argument(
            "--results",
            type=folder_name,
            default="results",
            metavar="FOLDER",
            help="of the bucket (default: results); with another one, such as results/v2, all "
            "photos are asked about again",
        )
        if name == "start":
            command.add_argument("--prefix", default="", help="of the keys; default: all photos")
            command.add_argument(
                "--state-machine", required=True, metavar="ARN", help="BatchArn of the stack"
            )
            command.add_argument("--dry-run", action="store_true", help="count only")
        else:
            command.add_argument("--csv", required=True, type=Path, help="table to write")
    return parser.parse_args()


def main() -> int:
    """Do what the command line says; return the exit status."""
    args = parse_args()
    with one_line_errors(), aws_errors() as session:
        if args.command == "start":
            print(start(args, session))
            return 0
        counts, without = make_table(session.client("s3"), args.bucket, args.results, args.csv)
        print(f"{args.csv}: {counts.total():,} photos")
        print("\n".join(f"{number:9,}  {name}" for name, number in counts.most_common()))
        if without:
            print(f"{without:,} photos have no answer; start asks about those that are still there")
    return 1 if without else 0


if __name__ == "__main__":
    raise SystemExit(main())
