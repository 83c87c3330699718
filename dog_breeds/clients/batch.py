"""Classify all photos of an S3 bucket in a batch, and write a table of the answers.

    python -m dog_breeds.clients.batch start --bucket BUCKET --prefix 2026/ --state-machine ARN
    python -m dog_breeds.clients.batch table --bucket BUCKET --csv answers.csv

`start` lists the photos below a prefix and skips those that an earlier batch has answered. It
writes the list of the other photos to the bucket, and starts the state machine of template.yaml on
that list. If a batch has failed or was stopped, run `start` again: it asks only about the photos
that still have no answer.

`table` turns the result files of all batches into one CSV file with the columns of `test.py
--folder`. Its exit status is 1 as long as any photo has no answer.

Both commands need boto3, and use the credentials that the AWS CLI would use. These credentials need
rights on the bucket and, for `start`, on the state machine. A batch writes only to the folder
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

GROUP_SIZE = 10  # photos that one child execution of the state machine asks about, all at once
DOLLARS_PER_PHOTO = 9.3e-6  # an upper limit; DEPLOY.md derives it
RESULTS = "results/"  # the only folder to which template.yaml lets a batch write
LIST_NAME = "photos.json"  # name of the list of photos in a batch's folder


class Photos(NamedTuple):
    """The photos in a bucket below a prefix."""

    keys: list[str]
    others: int  # number of objects that are not photos, judged by their names


# --- Result files ---------------------------------------------------------------------------------


class Answer(NamedTuple):
    """A batch's answer about a photo."""

    key: str
    answer: dict  # from the handler; after a fault, an "error" whose code names the fault
    model: str  # digest of the model file
    fault: bool  # True if the handler gave no answer; another attempt may then succeed


def _read_results(s3: Any, bucket: str, results: str) -> Iterator[Answer]:
    """Yield the answers of all batches, newest batch first. A photo can occur several times."""
    # Paths below `results` are BATCH/MAP_RUN/manifest.json
    manifests = _matching_objects(s3, bucket, results, "*/*/manifest.json")
    for item in sorted(manifests, key=lambda item: item["LastModified"], reverse=True):
        manifest = json.load(s3.get_object(Bucket=bucket, Key=item["Key"])["Body"])
        # A group fails if one of its photos fails. Its record has the answers about the others.
        for status in ("SUCCEEDED", "FAILED"):
            for file in manifest["ResultFiles"].get(status, ()):
                for record in read_lines(s3, bucket, file["Key"]):
                    rows = [record] if status == "SUCCEEDED" else _rows_of_failure(record)
                    yield from map(_answer_of, rows)


def _matching_objects(s3: Any, bucket: str, results: str, pattern: str) -> list[dict]:
    """Return the objects in a folder whose path matches a pattern. A * does not match a /."""
    items = list_objects(s3, bucket, f"{results}/")
    # Compare the depth, because PurePath.match also accepts deeper paths. Deeper folders, such as
    # results/v2/, have results of other models.
    depth = f"{results}/{pattern}".count("/")
    return [
        item
        for item in items
        if item["Key"].count("/") == depth and PurePosixPath(item["Key"]).match(pattern)
    ]


def read_lines(s3: Any, bucket: str, key: str) -> Iterator[Any]:
    """Yield the values of an object with one JSON value on each line."""
    with tempfile.TemporaryFile() as file:
        s3.download_fileobj(bucket, key, file)
        file.seek(0)
        for line in file:
            yield json.loads(line)


def _rows_of_failure(record: dict) -> list[dict]:
    """Return the rows of a group that failed.

    The state machine writes the group's answers and faults as JSON into the cause of the failure.
    If Step Functions itself ended the group, for instance after a time-out, the cause is another
    text. All photos of the group then get a fault.
    """
    with contextlib.suppress(KeyError, TypeError, ValueError):
        rows = json.loads(record["Cause"])
        if rows and isinstance(rows, list) and all("file" in row for row in rows):
            return rows
    fault = record.get("Error") or record.get("Status") or "no_answer"
    try:
        keys = json.loads(record["Input"])["keys"]
    except (KeyError, TypeError, ValueError):  # Step Functions leaves out a long input
        return []
    return [{"file": key, "fault": fault} for key in keys]


def _answer_of(row: dict) -> Answer:
    """Return the answer in a row that the state machine wrote."""
    fault = row.get("fault")
    if error := fault or row.get("error"):
        answer = {"error": {"code": error}}
    else:
        answer = {"prediction": {row["breed"]: float(row["probability"])}, "known": row["known"]}
        answer["candidates"] = row.get("candidates")
    return Answer(row["file"], answer, row.get("model", ""), bool(fault))


# --- Start ----------------------------------------------------------------------------------------


def list_objects(s3: Any, bucket: str, prefix: str) -> Iterator[dict]:
    """Yield all objects below a prefix, each as a dict with Key and LastModified."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", ())


def _find_photos(s3: Any, bucket: str, prefix: str) -> Photos:
    """Return the photos below a prefix. An object is a photo if its key has the suffix of one.

    The results of batches are skipped. Everything else counts as another object: texts, for
    instance, and the empty objects that the S3 console creates for folders.
    """
    keys, others = [], 0
    for item in list_objects(s3, bucket, prefix):
        key = item["Key"]
        if key.startswith(RESULTS):
            continue
        if key.lower().endswith(SUFFIXES):
            keys.append(key)
        else:
            others += 1
    return Photos(keys, others)


def _write_list(s3: Any, bucket: str, folder: str, keys: Iterable[str]) -> str:
    """Write the photos of a batch to its folder, in groups of GROUP_SIZE. Return the list's key."""
    keys = iter(keys)
    # iter(function, sentinel) calls the function until it returns an empty group
    groups = iter(lambda: list(itertools.islice(keys, GROUP_SIZE)), [])
    text = ",\n".join(json.dumps({"keys": group}) for group in groups)
    list_key = f"{folder}/{LIST_NAME}"
    # Other than put_object, upload_fileobj sends a long list in parts
    s3.upload_fileobj(io.BytesIO(f"[{text}]".encode()), bucket, list_key)
    return list_key


def start(args: argparse.Namespace, session: Any) -> str:
    """Start a batch about all photos that have no answer. Return a summary for the terminal.

    Raises ValueError if there are no photos, and RuntimeError if another batch is running.
    """
    s3, machines = session.client("s3"), session.client("stepfunctions")
    running = machines.list_executions(
        stateMachineArn=args.state_machine, statusFilter="RUNNING", maxResults=1
    )["executions"]
    if running:
        raise RuntimeError(
            f"a batch is running: {running[0]['executionArn']}; wait until it ends, or stop "
            "it with aws stepfunctions stop-execution"
        )
    prefix = f"s3://{args.bucket}/{args.prefix}"
    photos = _find_photos(s3, args.bucket, args.prefix)
    if not photos.keys:
        raise ValueError(f"there are no photos below {prefix}; use another --prefix")
    answers = _read_results(s3, args.bucket, args.results)
    answered = {answer.key for answer in answers if not answer.fault}
    open_keys = [key for key in photos.keys if key not in answered]
    dollars = len(open_keys) * DOLLARS_PER_PHOTO
    summary = [
        f"{prefix}: {len(photos.keys):,} photos, {len(photos.keys) - len(open_keys):,} of them "
        f"answered before; {photos.others:,} other objects left out",
        f"to ask: {len(open_keys):,} photos, for at most ${dollars:,.2f} (see DEPLOY.md)",
    ]
    if args.dry_run or not open_keys:
        return "\n".join([*summary, "nothing was started"])
    # Step Functions refuses a name that was used before, even for an execution that has ended
    name = f"{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%S}-{secrets.token_hex(2)}"
    folder = f"{args.results}/{name}"
    machine_input = {"list": _write_list(s3, args.bucket, folder, open_keys), "results": folder}
    arn = machines.start_execution(
        stateMachineArn=args.state_machine, name=name, input=json.dumps(machine_input)
    )["executionArn"]
    return "\n".join([*summary, f"started: {arn}"])


# --- Table ----------------------------------------------------------------------------------------


def listed_photos(s3: Any, bucket: str, results: str) -> Iterator[str]:
    """Yield the keys on the lists of all batches. A key can occur several times."""
    for item in _matching_objects(s3, bucket, results, f"*/{LIST_NAME}"):
        for group in json.load(s3.get_object(Bucket=bucket, Key=item["Key"])["Body"]):
            yield from group["keys"]


def make_table(s3: Any, bucket: str, results: str, table: Path) -> tuple[Counter, int]:
    """Write a row for each photo that batches have asked about.

    Return how often each breed or error occurs, and the number of photos without an answer. If
    several batches have answered a photo, the newest answer counts. A fault gets a row only if no
    batch has answered its photo. Raises ValueError if there are no results.
    """
    counts, answered, faults = Counter(), set(), {}
    with atomic_path(table) as temporary, open(temporary, "wb") as file:

        def write(answer: Answer) -> None:
            row = row_for(answer.key, answer.answer, answer.model)
            file.write(encode([row]))
            counts[row["breed"] or row["error"]] += 1

        file.write(encode_head())
        # The newest batch comes first, so the first answer about a photo is the one that counts
        for answer in _read_results(s3, bucket, results):
            if answer.fault:
                faults.setdefault(answer.key, answer)
            elif answer.key not in answered:
                answered.add(answer.key)
                write(answer)
        # Another batch may have answered a photo that has a fault
        faults = {key: fault for key, fault in faults.items() if key not in answered}
        for fault in faults.values():
            write(fault)
        # A stopped batch leaves photos on its list that it never asked about. They get no row.
        unanswered = faults.keys() | (set(listed_photos(s3, bucket, results)) - answered)
        if not answered and not unanswered:
            raise ValueError(
                f"no batch has written to s3://{bucket}/{results}/; check --bucket and --results"
            )
    return counts, len(unanswered)


# --- Command line ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _aws_errors() -> Iterator[Any]:
    """Yield a boto3 session. Within the context, errors of AWS become one-line RuntimeErrors."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise RuntimeError("boto3 is missing; run pip install boto3") from None
    try:
        yield boto3.Session()
    except (BotoCoreError, ClientError) as error:
        raise RuntimeError(" ".join(str(error).split())) from None


def _folder_name(text: str) -> str:
    """Return the value of --results without slashes at its ends. It must be below `results`."""
    name = text.strip("/")
    if not f"{name}/".startswith(RESULTS):
        raise argparse.ArgumentTypeError("the folder must be results, or lie below results")
    return name


def _parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = script_parser(
        __doc__, "python -m dog_breeds.clients.batch table --bucket my-photos --csv answers.csv"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (
        ("start", "ask about all photos that have no answer"),
        ("table", "write a table of all answers"),
    ):
        command = commands.add_parser(name, help=purpose)
        command.add_argument("--bucket", required=True, help="the stack's output BatchBucket")
        command.add_argument(
            "--results",
            type=_folder_name,
            default="results",
            metavar="FOLDER",
            help="folder of the bucket for answers (default: results); to ask about all photos "
            "again, for instance with a new model, use another one, such as results/v2",
        )
        if name == "start":
            command.add_argument(
                "--prefix",
                default="",
                help="ask only about photos whose key begins with this (default: all photos)",
            )
            command.add_argument(
                "--state-machine", required=True, metavar="ARN", help="the stack's output BatchArn"
            )
            command.add_argument(
                "--dry-run", action="store_true", help="count the photos, but start nothing"
            )
        else:
            command.add_argument(
                "--csv", required=True, type=Path, help="table to write, as a CSV file"
            )
    return parser.parse_args()


def main() -> int:
    """Run one of the two commands, and return the exit status."""
    args = _parse_args()
    with one_line_errors(), _aws_errors() as session:
        if args.command == "start":
            print(start(args, session))
            return 0
        counts, unanswered = make_table(session.client("s3"), args.bucket, args.results, args.csv)
        print(f"{args.csv}: {counts.total():,} photos")
        print("\n".join(f"{number:9,}  {name}" for name, number in counts.most_common()))
        if unanswered:
            print(f"{unanswered:,} photos have no answer; run start again to ask about them")
    return 1 if unanswered else 0


if __name__ == "__main__":
    raise SystemExit(main())
