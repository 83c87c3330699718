"""Events that nobody waits for: what lands in a bucket, through every service that tells of it.
With moto's S3, SQS and EventBridge on this machine.
"""

import contextlib
import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote_plus

import boto3
import pytest
from conftest import THOROUGH
from emulator import ROOT, emulator, free_ports, wait_for
from handler_process import handler_process, run_python, with_bucket
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import BREED, JPEG, drawn_image, saved
from test_lambda_function import json_values
from test_template import resources  # noqa: F401  a fixture

KEY = "photos/a dog & ü+1%.jpg"
OBJECTS = {KEY: JPEG, "photos/text.txt": b"a dog", "photos/": b""}
SLOW_DOWN, DENIED = "503 SlowDown", "403 AccessDenied"


def s3(key: str = KEY, name: str = "ObjectCreated:Put", bucket: str = "bucket") -> dict:
    """A notification of S3, in which keys are encoded."""
    described = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, "/"), "size": 9}}
    record = {"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": described}
    return {"Records": [record]}


def event_bus(key: str = KEY, name: str = "Object Created", source: str = "aws.s3") -> dict:
    """An event of EventBridge, in which keys are plain."""
    detail = {"version": "0", "bucket": {"name": "bucket"}, "object": {"key": key, "size": 9}}
    return {"version": "0", "source": source, "detail-type": name, "detail": detail}


def sns(message: dict | str) -> dict:
    """What SNS hands to a function."""
    text = message if isinstance(message, str) else json.dumps(message)
    return {
        "Records": [{"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": {"Message": text}}]
    }


def envelope(message: dict) -> dict:
    """What SNS puts into a queue."""
    return {"Type": "Notification", "MessageId": "x", "Message": json.dumps(message)}


def sqs(*messages: dict | str, queue: str = "photos") -> dict:
    """A batch of a queue; the ids of messages are their numbers."""
    texts = [one if isinstance(one, str) else json.dumps(one) for one in messages]
    arn = f"arn:aws:sqs:eu-west-1:123456789012:{queue}"
    source = {"eventSource": "aws:sqs", "eventSourceARN": arn}
    return {"Records": [{"messageId": str(i), "body": t, **source} for i, t in enumerate(texts)]}


def cloud_trail(key: str = KEY) -> dict:
    """An event of EventBridge about a call that CloudTrail noted."""
    call = {"eventName": "PutObject", "requestParameters": {"bucketName": "bucket", "key": key}}
    return event_bus(name="AWS API Call via CloudTrail") | {"detail": call}


FORMS = {
    "S3": s3,
    "S3, copied": lambda key: s3(key, "ObjectCreated:Copy"),
    "S3, in parts": lambda key: s3(key, "ObjectCreated:CompleteMultipartUpload"),
    "S3, restored": lambda key: s3(key, "ObjectRestore:Completed"),
    "a store like S3": lambda key: {
        "Records": [s3(key, "s3:ObjectCreated:Put")["Records"][0] | {"eventSource": "minio:s3"}]
    },
    "SNS": lambda key: sns(s3(key)),
    "SNS of EventBridge": lambda key: sns(event_bus(key)),
    "EventBridge": event_bus,
    "EventBridge, restored": lambda key: event_bus(key, "Object Restore Completed"),
    "CloudTrail": cloud_trail,
    "SQS": lambda key: sqs(s3(key)),
    "SQS of SNS": lambda key: sqs(envelope(s3(key))),
    "SQS of SNS of EventBridge": lambda key: sqs(envelope(event_bus(key))),
    "SQS of EventBridge": lambda key: sqs(event_bus(key)),
    "a request in SQS": lambda key: sqs({"bucket": "bucket", "key": key}),
    "Pipes": lambda key: sqs(event_bus(key))["Records"],
    "Pipes of EventBridge": lambda key: [event_bus(key)],
}


@pytest.fixture(scope="module")
def ask(colour_model):
    with handler_process(colour_model, with_bucket, OBJECTS) as function:
        yield function


@pytest.mark.parametrize("form", FORMS)
def test_what_lands_in_a_bucket_is_answered(ask, form):
    answered = ask(FORMS[form](KEY))
    [answer] = answered.answer["answers"]
    assert (answer["bucket"], answer["key"], answer["known"]) == ("bucket", KEY, True)
    assert len(answer["prediction"]) == 5 and next(iter(answer["prediction"])) == BREED
    assert ("batchItemFailures" in answered.answer) == (
        form.startswith(("SQS", "a request")) or form == "Pipes"
    )
    photo, whole = answered.logs
    assert photo["photo_outcome"] == "ok" and photo["inference_ms"] > 0 < photo["download_ms"]
    assert whole == {
        "request_id": None,
        "event": "service",
        "source": "service",
        "photos": 1,
        "outcome": "ok",
    }
    assert "dog" not in answered.printed.replace(BREED, "")


@pytest.mark.parametrize("form", FORMS)
def test_faults_are_raised_in_every_form(ask, form):
    for key, name in ((SLOW_DOWN, "PassingFault"), (DENIED, "NotAllowed")):
        answered = ask(FORMS[form](key))
        assert answered.answer is None and answered.raised.startswith(f"{name}(")
        assert answered.log["outcome"] == ("passing_fault" if key == SLOW_DOWN else "not_allowed")
        assert answered.log["failed"] == 1 and "traceback" not in answered.log


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_image_is_an_answer_too(ask, form):
    for key, code in (("photos/text.txt", "unsupported_type"), ("photos/gone.jpg", "not_found")):
        answered = ask(FORMS[form](key))
        assert answered.answer["answers"][0]["error"]["code"] == code
        assert answered.logs[0]["photo_outcome"] == code and answered.logs[1]["outcome"] == "ok"


@pytest.mark.parametrize(
    "event",
    [
        s3(name="ObjectRemoved:Delete"),
        s3(name="ObjectTagging:Put"),
        s3(name="LifecycleExpiration:Delete"),
        s3("photos/"),
        sqs(s3(name="ObjectRemoved:DeleteMarkerCreated")),
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "bucket"},
        sqs({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "bucket"}),
        sns({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "bucket"}),
        sqs(envelope({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "bucket"})),
        event_bus(name="Object Deleted"),
        event_bus(name="Object Tags Added"),
        {"Records": []},
    ],
)
def test_other_events_on_objects_ask_nothing(ask, event):
    answered = ask(event)
    assert answered.answer["answers"] == [] and answered.answer.get("batchItemFailures", []) == []
    assert answered.log["outcome"] == "ok"


@pytest.mark.parametrize(
    "event",
    [
        event_bus(name="Scheduled Event", source="aws.events"),
        event_bus(name="Scheduled Event", source="aws.scheduler"),
        {"source": "serverless-plugin-warmup"},
        {"source": "warmer"},
        {"warmer": True, "concurrency": 3},
        {"warmup": True},
        {"keepWarm": 1},
        {"ping": "pong"},
    ],
)
def test_warm_ups_are_no_errors(ask, event):
    answered = ask(event)
    assert answered.answer == {"warm": True}
    assert answered.log["source"] == "warm_up" and answered.log["outcome"] == "ok"


@pytest.mark.parametrize(
    "event",
    [
        {"Records": [{"eventSource": "aws:kinesis", "kinesis": {"data": "YQ=="}}]},
        {"Records": [{"eventSource": "aws:dynamodb", "dynamodb": {"Keys": {}}}]},
        {"Records": [{"eventSource": "aws:ses", "ses": {"mail": {}}}]},
        {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}]},
        {"Records": [5]},
        {"Records": "text"},
        {"eventSource": "aws:kafka", "records": {"a-0": [{"value": "YQ=="}]}},
        {"awslogs": {"data": "H4sI"}},
        {"triggerSource": "PreSignUp_SignUp", "request": {}},
        event_bus(source="aws.ec2", name="EC2 Instance State-change Notification"),
        sns("a dog, please"),
        sns('"' + "[" * 5000),
        sqs("a dog, please"),
        sqs({"url": "https://a.example/dog.jpg"}),
        sqs({"bucket": "bucket", "key": None}),
        sqs("[" * 100_000),
        {"invocationSchemaVersion": "1.0", "tasks": [{"taskId": "a"}]},
    ],
)
def test_all_other_events_are_raised(ask, event):
    answered = ask(event)
    assert answered.answer is None and answered.raised.startswith("UnknownEvent(")
    assert answered.log["outcome"] == "unknown_event" and "traceback" not in answered.log


def test_a_batch_fails_in_parts(ask):
    answered = ask(
        sqs(s3(), event_bus(SLOW_DOWN), "text", envelope(s3()), s3(DENIED), s3("photos/text.txt"))
    )
    failed = [failure["itemIdentifier"] for failure in answered.answer["batchItemFailures"]]
    assert failed == ["1", "2", "4"]
    answers = answered.answer["answers"]
    assert ["prediction" in answer for answer in answers] == [True, True, False]
    assert answered.logs[-1]["failed"] == 3 and answered.logs[-1]["photos"] == 3


def test_a_fifo_queue_keeps_its_order(ask):
    answered = ask(sqs(s3(), s3(SLOW_DOWN), s3(), queue="photos.fifo"))
    failures = answered.answer["batchItemFailures"]
    assert [failure["itemIdentifier"] for failure in failures] == ["1", "2"]


def test_one_fault_among_records_lets_the_others_be_answered_and_is_raised(ask):
    records = [*s3(SLOW_DOWN)["Records"], *s3()["Records"]]
    answered = ask({"Records": records})
    assert answered.raised.startswith("PassingFault(")
    assert answered.logs[0]["photo_outcome"] == "ok" and answered.logs[1]["failed"] == 1


def test_a_batch_ends_before_lambda_ends_it(colour_model, tmp_path):
    """What there is no time for comes back to the queue."""
    (tmp_path / "event.json").write_text(json.dumps(sqs(*[s3()] * 5)))
    code = """
import json, pathlib, sys, time, types, lambda_function
from dog_breeds.serving import bucket_events
def slowly(log, bucket, key, until):
    time.sleep(0.2)
    return {}
lambda_function.answer_object = slowly
event, end = json.loads(pathlib.Path(sys.argv[1]).read_text()), time.monotonic() + 0.7
left = lambda: 1000 * (end - time.monotonic())
context = types.SimpleNamespace(get_remaining_time_in_millis=left)
print(json.dumps(lambda_function.lambda_handler(event, context)))
"""
    done = run_python(code, tmp_path / "event.json", MODEL_FILE=str(colour_model))
    answer = json.loads(done.stdout.splitlines()[-1])
    failed = [int(failure["itemIdentifier"]) for failure in answer["batchItemFailures"]]
    assert (
        failed
        and failed == list(range(5))[-len(failed) :]
        and len(answer["answers"]) == 5 - len(failed)
    )


def places(event: object, path: tuple = ()) -> list[tuple]:
    """All places in nested dicts and lists."""
    inner = (
        event.items()
        if isinstance(event, dict)
        else enumerate(event)
        if isinstance(event, list)
        else ()
    )
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def changed(event: object, path: tuple, value: object) -> object:
    """The event with one place in it replaced."""
    if not path:
        return value
    event = copy.copy(event)
    event[path[0]] = changed(event[path[0]], path[1:], value)
    return event


broken_events = st.sampled_from([form(KEY) for form in FORMS.values()]).flatmap(
    lambda event: st.builds(changed, st.just(event), st.sampled_from(places(event)), json_values)
)


def test_broken_events_of_services_are_answered_or_raised_as_what_they_are(ask):
    @settings(max_examples=5000 if THOROUGH else 200, derandomize=not THOROUGH, deadline=None)
    @given(broken_events)
    def check(event: object) -> None:
        answered = ask(event)
        if answered.raised:
            assert answered.raised.startswith(("UnknownEvent(", "PassingFault(", "NotAllowed("))
        assert not any("traceback" in log for log in answered.logs)

    check()


# --- Real services: moto's S3, SQS and EventBridge ------------------------------------------------

ACCOUNT = "arn:aws:sqs:eu-west-1:123456789012"


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, str]]:
    """Settings with which boto3 and the handler use moto's services."""
    [port] = free_ports()
    command = [sys.executable, "-m", "moto.server", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            yield {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_DEFAULT_REGION": "eu-west-1",
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        finally:
            process.kill()


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Let boto3 here use them."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def clients(aws):
    """Clients of S3, SQS and EventBridge, and a new bucket."""
    with environment(aws):
        clients = [boto3.client(name) for name in ("s3", "sqs", "events")]
    place = {"LocationConstraint": "eu-west-1"}
    clients[0].create_bucket(Bucket="my-photos", CreateBucketConfiguration=place)
    return clients


@pytest.fixture(scope="module")
def stack(colour_model, aws):
    with emulator(colour_model, **aws, RESULTS_PREFIX="results/") as running:
        yield running


def polled(queue: str, client) -> dict:
    """The event that Lambda makes of the messages in a queue."""
    messages, event = [], {"Records": []}
    while more := client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        messages += more
    for message in messages:
        event["Records"].append(
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
            }
            | {
                "eventSource": "aws:sqs",
                "eventSourceARN": f"{ACCOUNT}:photos",
                "awsRegion": "eu-west-1",
            }
        )
    return event


def results(client) -> dict[str, dict]:
    """The answers that lie in the bucket, by their keys."""
    found = client.list_objects_v2(Bucket="my-photos", Prefix="results/").get("Contents", [])
    keys = [one["Key"] for one in found]
    return {key: json.load(client.get_object(Bucket="my-photos", Key=key)["Body"]) for key in keys}


def test_photos_that_land_are_answered_below_results_in_the_same_bucket(stack, clients, resources):  # noqa: F811
    """With the rule of template.yaml, by the command that DEPLOY.md names."""
    bucket, queues, events = clients
    queue = queues.create_queue(QueueName="watch")["QueueUrl"]
    pattern = json.dumps(resources["WatchRule"]["Properties"]["EventPattern"])
    pattern = pattern.replace('{"Ref": "WatchBucket"}', '"my-photos"')
    events.put_rule(Name="watch", EventPattern=pattern)
    target = {"Id": "queue", "Arn": f"{ACCOUNT}:watch"}
    events.put_targets(Rule="watch", Targets=[target])
    [command] = [
        line
        for line in (ROOT / "DEPLOY.md").read_text().splitlines()
        if "EventBridgeConfiguration" in line
    ]
    configuration = json.loads(
        command.partition("--notification-configuration '")[2].partition("'")[0]
    )
    bucket.put_bucket_notification_configuration(
        Bucket="my-photos", NotificationConfiguration=configuration
    )
    polled(queue, queues)
    bucket.put_object(Bucket="my-photos", Key=KEY, Body=JPEG)
    bucket.put_object(Bucket="my-photos", Key="b.png", Body=saved(drawn_image(), format="PNG"))
    bucket.put_object(Bucket="my-photos", Key="notes.txt", Body=b"a dog")
    bucket.put_object(Bucket="my-photos", Key="results/b.png.json", Body=b"{}")
    event = polled(queue, queues)
    assert len(event["Records"]) == 3, "what lies below results/ is no photo"
    answer = stack.invoke(event)
    assert answer["batchItemFailures"] == []
    found = results(bucket)
    assert found.keys() == {f"results/{key}.json" for key in (KEY, "b.png", "notes.txt")}
    assert [found[f"results/{key}.json"] for key in (KEY, "b.png", "notes.txt")] == sorted(
        answer["answers"], key=lambda one: [KEY, "b.png", "notes.txt"].index(one["key"])
    )
    assert next(iter(found[f"results/{KEY}.json"]["prediction"])) == BREED
    assert found["results/notes.txt.json"]["error"]["code"] == "unsupported_type"
    head = bucket.head_object(Bucket="my-photos", Key="results/b.png.json")
    assert head["ContentType"] == "application/json"
    assert polled(queue, queues) == {"Records": []}, "answers are no events"


def test_notifications_of_a_bucket_through_a_queue(stack, clients):
    bucket, queues, _ = clients
    queue = queues.create_queue(QueueName="notified")["QueueUrl"]
    to = {"QueueArn": f"{ACCOUNT}:notified", "Events": ["s3:ObjectCreated:*"]}
    configuration = {"QueueConfigurations": [to]}
    bucket.put_bucket_notification_configuration(
        Bucket="my-photos", NotificationConfiguration=configuration
    )
    bucket.put_object(Bucket="my-photos", Key="new/" + KEY, Body=JPEG)
    bucket.put_object(Bucket="my-photos", Key="new/gone.jpg", Body=JPEG)
    bucket.delete_object(Bucket="my-photos", Key="new/gone.jpg")
    event = polled(queue, queues)
    event["Records"].append(event["Records"][0] | {"messageId": "broken", "body": "{"})
    answer = stack.invoke(event)
    assert answer["batchItemFailures"] == [{"itemIdentifier": "broken"}]
    found = results(bucket)
    assert found[f"results/new/{KEY}.json"]["known"] is True
    assert found["results/new/gone.jpg.json"]["error"]["code"] == "not_found"
    assert {"photos", "failed"} <= stack.log().keys()


def test_an_answer_is_no_photo_even_where_all_of_a_bucket_is_notified(stack, clients):
    before = results(clients[0])
    for event in (
        s3("results/b.png.json", bucket="my-photos"),
        sqs(s3("results/x/b.png", bucket="my-photos")),
    ):
        assert stack.invoke(event)["answers"] == []
    assert results(clients[0]) == before


def test_where_answers_cannot_be_stored_the_event_is_raised(colour_model, aws, stack, clients):
    assert stack.invoke(s3(bucket="no-such-bucket"))["errorType"] == "Unanswered"
    clients[0].put_object(Bucket="my-photos", Key="c.jpg", Body=JPEG)
    dead = aws | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    with emulator(colour_model, **dead, RESULTS_PREFIX="results/") as unreachable:
        for event in (s3("c.jpg", bucket="my-photos"), sqs(s3("c.jpg", bucket="my-photos"))):
            assert unreachable.invoke(event)["errorType"] == "PassingFault"
