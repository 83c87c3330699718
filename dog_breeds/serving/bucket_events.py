"""Answer events about photos that land in a bucket of S3.

S3 sends these events directly or through SNS, SQS and EventBridge. None of these services reads the
answer. If the function returned an error, the event would count as done: SQS would delete the
message, nothing would try again, and no alarm would go off. So if a photo gets no answer, the
handler raises an exception, or names the message as a failure of an SQS batch.

If the variable RESULTS_PREFIX is set, each answer is written to the photo's bucket below that
prefix.
"""

import json
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_plus

from dog_breeds.serving.limits import RequestError, Unanswered, UnknownEvent
from dog_breeds.serving.s3_images import write_object

Photo = tuple[str, str]  # bucket and key
Answer = Callable[[str, str, float], dict]  # (bucket, key, latest time) -> the answer

# Fields of AWS's events. No request has them.
SERVICE_FIELDS = (
    "Records",
    "records",
    "detail-type",
    "eventSource",
    "awslogs",
    "triggerSource",
    "deliveryStreamArn",
    "rmqMessagesByQueue",
    "invokingEvent",
    "tasks",
)
REQUEST_FIELDS = {"url", "urls", "image", "images", "key", "Records"}
WARM_UP_FIELDS = ("warmer", "warmup", "warm_up", "keep_warm", "keepwarm", "ping")
CREATED = ("Object Created", "Object Restore Completed")  # values of EventBridge's detail-type
# Calls that create objects, as CloudTrail names them
WRITING_CALLS = ("PutObject", "CopyObject", "CompleteMultipartUpload", "PostObject")
MAX_DEPTH = 5  # of nested messages, such as an S3 event inside an SNS message inside SQS


def is_service_event(event: Any) -> bool:
    """Return whether an event comes from a service that does not read the answer."""
    if isinstance(event, list):  # EventBridge Pipes send a batch as a list
        return bool(event) and all(is_service_event(record) for record in event)
    if not isinstance(event, dict):
        return False
    test = str(event.get("Event")).startswith("s3:TestEvent")
    return test or any(field in event for field in SERVICE_FIELDS) or is_warm_up(event)


def is_warm_up(event: Any) -> bool:
    """Return whether an event only keeps the function warm: a schedule, or a plugin's ping."""
    if not isinstance(event, dict) or event.keys() & REQUEST_FIELDS:
        return False
    scheduled = event.get("detail-type") == "Scheduled Event"
    by_plugin = "warm" in str(event.get("source")).lower()
    return scheduled or by_plugin or any(str(name).lower() in WARM_UP_FIELDS for name in event)


def answer_service_event(event: Any, answer: Answer, log: dict, end: float) -> dict:
    """Answer all photos of an event, and return the result that the service expects.

    `end` is the time of time.monotonic() at which Lambda ends the request. Notes in `log` what
    happened. Raises Unanswered if a photo got no answer. For an SQS batch, raises it only if all
    messages failed, because the result can name single messages.
    """
    if is_warm_up(event):
        log["source"] = "warm_up"
        return {"warm": True}
    log["source"] = "service"
    records = event.get("Records") if isinstance(event, dict) else event
    is_batch = isinstance(records, list) and all(
        isinstance(record, dict) and "messageId" in record for record in records
    )
    if is_batch and records:
        return _answer_batch(records, answer, log, end)
    answers, faults = [], []
    photos = list(photos_in(event))
    for number, (bucket, key) in enumerate(photos):
        try:
            answers.append(_answer_photo(bucket, key, answer, end, len(photos) - number))
        except Unanswered as fault:  # raised after the other photos are answered
            faults.append(fault)
    if faults:
        log["failed"] = len(faults)
        raise faults[0]
    return {"answers": [result for result in answers if result]}


def _answer_batch(records: list[dict], answer: Answer, log: dict, end: float) -> dict:
    """Answer the messages of an SQS batch.

    Return the answers, and the failed messages in the form of a partial batch failure. Raise the
    first exception if all messages failed.
    """
    answers: list[dict | None] = []
    failed: dict[str, Exception] = {}
    longest = 0.0  # seconds of the slowest message so far
    ordered = str(records[0].get("eventSourceARN")).endswith(".fifo")
    for number, record in enumerate(records):
        start = time.monotonic()
        try:
            if failed and ordered:
                raise Unanswered("a message before it failed; the order of a FIFO queue is kept")
            if number and start + 2 * longest > end:
                raise Unanswered("too little time is left; the next invocation answers it")
            for bucket, key in photos_in(record):
                remaining = len(records) - number
                answers.append(_answer_photo(bucket, key, answer, end, remaining))
        except Exception as fault:
            if not isinstance(fault, Unanswered):
                log["traceback"] = traceback.format_exc()
            failed[record["messageId"]] = fault
        longest = max(longest, time.monotonic() - start)
    if failed:
        log["failed"] = len(failed)
    if len(failed) == len(records):
        raise next(iter(failed.values()))
    return {
        "batchItemFailures": [{"itemIdentifier": name} for name in failed],
        "answers": [result for result in answers if result],
    }


def _answer_photo(bucket: str, key: str, answer: Answer, end: float, remaining: int) -> dict | None:
    """Return the answer about a photo, and store it if RESULTS_PREFIX is set.

    `remaining` photos share the time until `end`. The result is None for objects that are no
    photos: the stored answers themselves, and the markers of folders.
    """
    prefix = os.environ.get("RESULTS_PREFIX", "")
    if key.endswith("/") or (prefix and key.startswith(prefix)):
        return None
    now = time.monotonic()
    # Half of the photo's share of the time; the other half is for inference and storing
    until = now + (end - now) / remaining / 2 if end < math.inf else end
    result = {"bucket": bucket, "key": key} | answer(bucket, key, until)
    if prefix:
        try:
            write_object(bucket, f"{prefix}{key}.json", json.dumps(result).encode())
        except RequestError as error:
            raise Unanswered(f"the answer cannot be stored: {error.args[1]}") from None
    return result


# --- Events ---------------------------------------------------------------------------------------


def photos_in(event: Any) -> Iterator[Photo]:
    """Yield bucket and key of each photo that an event names.

    Events about removed, tagged or archived objects name no photo. Raises UnknownEvent if the event
    has another form.
    """
    try:
        yield from _photos_in(event, 0)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        raise UnknownEvent(
            "the event is not one of S3, SNS, SQS or EventBridge about an object in a bucket"
        ) from None


def _photos_in(event: Any, depth: int) -> Iterator[Photo]:
    """Yield the photos of an event, of one of its records, or of a message's JSON text."""
    if depth > MAX_DEPTH:
        raise ValueError
    if isinstance(event, str):
        event = json.loads(event)
    records = event if isinstance(event, list) else event.get("Records")
    if records is not None:
        if not isinstance(records, list):
            raise ValueError
        for record in records:
            yield from _photos_in(record, depth + 1)
        return
    source = str(event.get("eventSource") or event.get("EventSource") or "")
    if source.endswith(":s3"):
        name = event["eventName"]
        if "ObjectCreated" in name or "ObjectRestore:Completed" in name:
            described = event["s3"]
            yield _photo(described["bucket"]["name"], unquote_plus(described["object"]["key"]))
    elif source == "aws:sqs":
        yield from _photos_in(event.get("body") or event["Body"], depth + 1)
    elif source == "aws:sns":
        yield from _photos_in(event["Sns"]["Message"], depth + 1)
    elif event.get("Type") == "Notification":  # an SNS message inside an SQS message
        yield from _photos_in(event["Message"], depth + 1)
    elif "detail-type" in event:
        yield from _photos_of_event_bus(event["source"], event["detail-type"], event["detail"])
    elif "bucket" in event and "key" in event:  # a user put a request into a queue
        yield _photo(event["bucket"], event["key"])
    elif event.get("Event") != "s3:TestEvent":  # S3 sends a test event for each new notification
        raise ValueError


def _photos_of_event_bus(source: str, name: str, detail: dict) -> Iterator[Photo]:
    """Yield the photo of an EventBridge event, whose keys are not percent-encoded."""
    if source != "aws.s3":
        raise ValueError
    if name in CREATED:
        yield _photo(detail["bucket"]["name"], detail["object"]["key"])
    elif detail.get("eventName") in WRITING_CALLS and "errorCode" not in detail:
        call = detail["requestParameters"]
        yield _photo(call["bucketName"], call["key"])


def _photo(bucket: Any, key: Any) -> Photo:
    """Return bucket and key. Raises ValueError unless both are texts."""
    if not (isinstance(bucket, str) and isinstance(key, str) and bucket and key):
        raise ValueError
    return bucket, key
