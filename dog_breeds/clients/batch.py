"""Classify all photos of an S3 bucket in a batch, continue it, and write a table of the answers.

    python -m dog_breeds.clients.batch start --bucket BUCKET --prefix 2026/ --state-machine ARN
    python -m dog_breeds.clients.batch table --bucket BUCKET --csv answers.csv

`start` lists the photos below a prefix and leaves out those that an earlier batch has answered. It
writes the others as a list to the bucket, and starts the state machine of template.yaml on that
list. Run `start` again after a batch has failed or was stopped: it then asks about photos without
an answer.

`table` turns the result files of all batches into one CSV file with the columns of `test.py
--folder`. It ends with the exit status 1 as long as photos have no answer.

Both commands need boto3, and the credentials that the AWS CLI would use. The credentials need
rights on the bucket and, for `start`, on the state machine. Batches write only below the folder
`results` of the bucket.
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

GROUP = 10  # photos that one child execution of the state machine asks about, all at once
DOLLARS = 9.3e-6  # at most, for a photo; DEPLOY.md says why
RESULTS = "results/"  # where the batch may write
LIST = "photos.json"


class Photos(NamedTuple):
    """The objects of a bucket below a prefix."""

    keys: list[str]  # of photos
    others: int  # number of objects whose names are not those of photos


# --- Result files ---------------------------------------------------------------------------------


class Answer(NamedTuple):
    """A batch's answer about a photo."""

    key: str
    answer: dict  # the handler's; without one, an "error" whose code names the fault
    model: str
    fault: bool  # whether the handler gave no answer, so that another try makes sense


def read_results(s3: Any, bucket: str, results: str) -> Iterator[Answer]:
    """Yield the answers of all batches, the newest batch first. A photo can occur several times."""
    # Below `results`: a folder for each batch, and in it a folder for its map run
    manifests = written(s3, bucket, results, "*/*/manifest.json")
    for item in sorted(manifests, key=lambda item: item["LastModified"], reverse=True):
        manifest = json.load(s3.get_object(Bucket=bucket, Key=item["Key"])["Body"])
        # A failed group also has answers: those about its other photos
        for status in ("SUCCEEDED", "FAILED"):
            for file in manifest["ResultFiles"].get(status, ()):
                for record in read_lines(s3, bucket, file["Key"]):
                    rows = [record] if status == "SUCCEEDED" else rows_of_failure(record)
                    yield from map(answer_of, rows)


def written(s3: Any, bucket: str, results: str, pattern: str) -> list[dict]:
    """Return the objects in a folder whose path matches a pattern. A * matches no /."""
    found = objects(s3, bucket, f"{results}/")
    # Deeper folders can belong to another model
    depth = f"{results}/{pattern}".count("/")
    return [
        item
        for item in found
        if item["Key"].count("/") == depth and PurePosixPath(item["Key"]).match(pattern)
    ]


def read_lines(s3: Any, bucket: str, key: str) -> Iterator[Any]:
    """Yield the values of an object with one JSON value on each line."""
    with tempfile.TemporaryFile() as file:
        s3.download_fileobj(bucket, key, file)
        file.seek(0)
        for line in file:
            yield json.loads(line)


def rows_of_failure(record: dict) -> list[dict]:
    """Return the rows of a group that failed.

    The state machine writes the group's answers and faults into the cause of the failure. If Step
    Functions itself ended the group, the cause is another text. Then all photos of the group get a
    fault.
    """
    with contextlib.suppress(KeyError, TypeError, ValueError):
        rows = json.loads(record["Cause"])
        if rows and isinstance(rows, list) and all("file" in row for row in rows):
            return rows
    fault = record.get("Error") or record.get("Status") or "no_answer"
    try:
        keys = json.loads(record["Input"])["keys"]
    except (KeyError, TypeError, ValueError):  # Step Functions omits a long input
        return []
    return [{"file": key, "fault": fault} for key in keys]


def answer_of(row: dict) -> Answer:
    """Return the answer in a row that the state machine wrote."""
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
    """Return the photos below a prefix. The suffix of its name makes an object a photo.

    Results of batches are skipped. Folder objects, which the console of S3 makes, and texts count
    as other objects.
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
    """Write a list of photos for the state machine, in groups. Return the list's key."""
    keys = iter(keys)
    # iter() with a sentinel: groups of keys until an empty one
    groups = iter(lambda: list(itertools.islice(keys, GROUP)), [])
    text = ",\n".join(json.dumps({"keys": group}) for group in groups)
    s3.upload_fileobj(io.BytesIO(f"[{text}]".encode()), bucket, f"{place}/{LIST}")
    return f"{place}/{LIST}"


def start(args: argparse.Namespace, session: Any) -> str:
    """Start a batch about all photos without an answer. Return a summary for the terminal.

    Raises ValueError if there are no photos, and RuntimeError if another batch is running.
    """
    s3, machines = session.client("s3"), session.client("stepfunctions")
    running = machines.list_executions(
        stateMachineArn=args.state_machine, statusFilter="RUNNING", maxResults=1
    )["executions"]
    if running:
        raise RuntimeError(
            f"a batch is running: {running[0]['executionArn']}; wait until it ends, or end it with "
            f"aws stepfunctions stop-execution"
        )
    prefix = f"s3://{args.bucket}/{args.prefix}"
    photos = find_photos(s3, args.bucket, args.prefix)
    if not photos.keys:
        raise ValueError(f"there are no photos below {prefix}; name another --prefix")
    answered = {
        found.key for found in read_results(s3, args.bucket, args.results) if not found.fault
    }
    open_keys = [key for key in photos.keys if key not in answered]
    lines = [
        f"{prefix}: {len(photos.keys):,} photos, {len(photos.keys) - len(open_keys):,} of them "
        f"answered before; {photos.others:,} other objects left out",
        f"to ask: {len(open_keys):,} photos, for at most ${len(open_keys) * DOLLARS:,.2f} "
        f"(see DEPLOY.md)",
    ]
    if args.dry_run or not open_keys:
        return "\n".join([*lines, "nothing was started"])
    # A name of its own for each batch, because Step Functions never starts a name twice
    name = f"{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%S}-{secrets.token_hex(2)}"
    folder = f"{args.results}/{name}"
    machine_input = {"list": write_list(s3, args.bucket, folder, open_keys), "results": folder}
    arn = machines.start_execution(
        stateMachineArn=args.state_machine, name=name, input=json.dumps(machine_input)
    )["executionArn"]
    return "\n".join([*lines, f"started: {arn}"])


# --- Table ----------------------------------------------------------------------------------------


def listed(s3: Any, bucket: str, results: str) -> Iterator[str]:
    """Yield the photos on the lists of all batches. A photo can occur several times."""
    for item in written(s3, bucket, results, f"*/{LIST}"):
        for group in json.load(s3.get_object(Bucket=bucket, Key=item["Key"])["Body"]):
            yield from group["keys"]


def make_table(s3: Any, bucket: str, results: str, table: Path) -> tuple[Counter, int]:
    """Write a row for each photo that batches have asked about.

    Return how often each breed or error occurs, and the number of photos without an answer. The
    newest answer about a photo counts. A photo's fault gets a row only if the photo has no answer.
    Raises ValueError if there are no results.
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
        # A later batch may have answered a photo whose first try was a fault
        faults = {key: fault for key, fault in faults.items() if key not in seen}
        for fault in faults.values():
            write(fault)
        # A stopped batch has listed photos that it never asked about
        without = faults.keys() | (set(listed(s3, bucket, results)) - seen)
        if not seen and not without:
            raise ValueError(f"no batch has written to s3://{bucket}/{results}/")
    return counts, len(without)


# --- Command line ---------------------------------------------------------------------------------


@contextlib.contextmanager
def aws_errors() -> Iterator[Any]:
    """Yield a session of boto3. Raise AWS's errors as RuntimeError, in one line."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise RuntimeError("boto3 is missing; run pip install boto3") from None
    try:
        yield boto3.Session()
    except (BotoCoreError, ClientError) as error:
        raise RuntimeError(" ".join(str(error).split())) from None


def folder_name(text: str) -> str:
    """Return the name of a folder in a bucket, without slashes around it."""
    name = text.strip("/")
    if not f"{name}/".startswith(RESULTS):
        raise argparse.ArgumentTypeError("the folder must be results, or lie below results")
    return name


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
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
            help="folder of the bucket (default: results); another one, such as results/v2, "
            "asks about all photos again",
        )
        if name == "start":
            command.add_argument(
                "--prefix", default="", help="ask about keys with this prefix (default: all)"
            )
            command.add_argument(
                "--state-machine", required=True, metavar="ARN", help="BatchArn of the stack"
            )
            command.add_argument("--dry-run", action="store_true", help="only count the photos")
        else:
            command.add_argument("--csv", required=True, type=Path, help="table to write")
    return parser.parse_args()


def main() -> int:
    """Run the command, and return the exit status."""
    args = parse_args()
    with one_line_errors(), aws_errors() as session:
        if args.command == "start":
            print(start(args, session))
            return 0
        counts, without = make_table(session.client("s3"), args.bucket, args.results, args.csv)
        print(f"{args.csv}: {counts.total():,} photos")
        print("\n".join(f"{number:9,}  {name}" for name, number in counts.most_common()))
        if without:
            print(f"{without:,} photos have no answer; run start again to ask about them")
    return 1 if without else 0


if __name__ == "__main__":
    raise SystemExit(main())
