"""Events of services that wait for no answer: photos that land in a bucket of S3, as S3 notifies of
them directly or through SNS, SQS and EventBridge.

An error that is returned counts as success there: SQS deletes the message, nothing tries again, no
alarm fires. So what gets no answer is raised, or named as a failure of a batch of SQS. Where the
variable RESULTS_PREFIX is set, each answer becomes an object of the photo's bucket below that
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
Answer = Callable[[str, str, float], dict]  # of (bucket, key, time until which it may take)

# Fields that events of AWS have and requests have not
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
CREATED = ("Object Created", "Object Restore Completed")  # detail-type of EventBridge
WRITING_CALLS = ("PutObject", "CopyObject", "CompleteMultipartUpload", "PostObject")  # CloudTrail
MAX_DEPTH = 5  # of messages within messages: EventBridge or S3, within SNS, within SQS


def is_service_event(event: Any) -> bool:
    """Return whether an event comes from a service that waits for no answer."""
    if isinstance(event, list):  # as EventBridge Pipes hand over a batch
        return bool(event) and all(is_service_event(record) for record in event)
    if not isinstance(event, dict):
        return False
    test = str(event.get("Event")).startswith("s3:TestEvent")
    return test or any(field in event for field in SERVICE_FIELDS) or is_warm_up(event)


def is_warm_up(event: Any) -> bool:
    """Return whether an event asks nothing: a schedule, or the ping of a plugin that keeps the
    function warm.
    """
    if not isinstance(event, dict) or event.keys() & REQUEST_FIELDS:
        return False
    scheduled = event.get("detail-type") == "Scheduled Event"
    by_plugin = "warm" in str(event.get("source")).lower()
    return scheduled or by_plugin or any(str(name).lower() in WARM_UP_FIELDS for name in event)


def answer_service_event(event: Any, answer: Answer, log: dict, end: float) -> dict:
    """Return what the service expects, after all photos of the event are answered.

    Raises Unanswered if a photo got no answer, or, of a batch of SQS, all of them. `end` is the
    time of time.monotonic() at which Lambda ends the request. Notes in `log` what happened.
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
        except Unanswered as fault:  # the others are answered first
            faults.append(fault)
    if faults:
        log["failed"] = len(faults)
        raise faults[0]
    return {"answers": [one for one in answers if one]}


def _answer_batch(records: list[dict], answer: Answer, log: dict, end: float) -> dict:
    """Return the messages of SQS that failed, in the form of a partial batch failure, and the
    answers; raise the first fault if all failed.
    """
    answers: list[dict | None] = []
    failed: dict[str, Exception] = {}
    longest = 0.0
    ordered = str(records[0].get("eventSourceARN")).endswith(".fifo")
    for number, record in enumerate(records):
        start = time.monotonic()
        try:
            if failed and ordered:
                raise Unanswered("a message before it failed; the order of a FIFO queue is kept")
            if number and start + 2 * longest > end:
                raise Unanswered("too little time is left; the next invocation answers it")
            for bucket, key in photos_in(record):
                left = len(records) - number
                answers.append(_answer_photo(bucket, key, answer, end, left))
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
        "answers": [one for one in answers if one],
    }


def _answer_photo(bucket: str, key: str, answer: Answer, end: float, left: int) -> dict | None:
    """Return the answer to a photo, and store it where that is wanted; None for what is no photo:
    the answers themselves, and the marks of folders. `left`: photos that share the time.
    """
    prefix = os.environ.get("RESULTS_PREFIX", "")
    if key.endswith("/") or (prefix and key.startswith(prefix)):
        return None
    now = time.monotonic()
    until = now + (end - now) / left / 2 if end < math.inf else end
    result = {"bucket": bucket, "key": key} | answer(bucket, key, until)
    if prefix:
        try:
            write_object(bucket, f"{prefix}{key}.json", json.dumps(result).encode())
        except RequestError as error:
            raise Unanswered(f"the answer cannot be stored: {error.args[1]}") from None
    return result


# --- Events ---------------------------------------------------------------------------------------


def photos_in(event: Any) -> Iterator[Photo]:
    """Yield bucket and key of each photo that an event names. UnknownEvent if it is of another
    form.

    Events on objects that were removed, tagged or archived name no photo.
    """
    try:
        yield from _photos_in(event, 0)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        raise UnknownEvent(
            "the event is none of S3, SNS, SQS or EventBridge about an object of S3"
        ) from None


def _photos_in(event: Any, depth: int) -> Iterator[Photo]:
    """Yield as photos_in does, from an event, a record of one, or the JSON text of a message."""
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
    elif event.get("Type") == "Notification":  # of SNS, within a message of SQS
        yield from _photos_in(event["Message"], depth + 1)
    elif "detail-type" in event:
        yield from _photos_of_event_bus(event["source"], event["detail-type"], event["detail"])
    elif "bucket" in event and "key" in event:  # a request that somebody put into a queue
        yield _photo(event["bucket"], event["key"])
    elif event.get("Event") != "s3:TestEvent":  # which S3 sends when a notification is set up
        raise ValueError


def _photos_of_event_bus(source: str, name: str, detail: dict) -> Iterator[Photo]:
    """Yield the photo of an event of EventBridge, where keys are plain."""
    if source != "aws.s3":
        raise ValueError
    if name in CREATED:
        yield _photo(detail["bucket"]["name"], detail["object"]["key"])
    elif detail.get("eventName") in WRITING_CALLS and "errorCode" not in detail:
        call = detail["requestParameters"]
        yield _photo(call["bucketName"], call["key"])


def _photo(bucket: Any, key: Any) -> Photo:
    """Return bucket and key; ValueError unless both are text."""
    if not (isinstance(bucket, str) and isinstance(key, str) and bucket and key):
        raise ValueError
    return bucket, key
