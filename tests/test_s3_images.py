"""Images from S3: boto3 itself, against a bucket on this machine."""

import hashlib
import os

import pytest
from emulator import emulator
from handler_process import handler_process, with_bucket
from odd_images import BREED, JPEG, drawn_image, saved
from services import function_url

from dog_breeds.serving import limits

OBJECTS = {
    "photos/a dog & ü+1.jpg": JPEG,
    "photos/": b"",
    "photos/text.txt": b"a dog",
    "photos/cut.jpg": saved(drawn_image(), format="JPEG"),
    "photos/large.png": saved(drawn_image(), format="PNG") + bytes(limits.MAX_BYTES),
}


@pytest.fixture(scope="module")
def ask(colour_model):
    with handler_process(colour_model, with_bucket, OBJECTS) as function:
        yield function


def test_an_object_is_answered_as_a_photo_and_its_name_is_not_logged(ask, colour_model):
    answered = ask({"bucket": "bucket", "key": "photos/a dog & ü+1.jpg", "top_k": 1})
    digest = hashlib.sha256(colour_model.read_bytes()).hexdigest()[:8]
    assert answered.answer == {"prediction": {BREED: 1.0}, "known": True, "model": digest}
    assert (
        answered.log["source"] == "key"
        and answered.log["download_ms"] > 0
        and answered.log["outcome"] == "ok"
    )
    assert "a dog" not in answered.printed


@pytest.mark.parametrize(
    ("bucket", "key", "code"),
    [
        ("bucket", "photos/missing.jpg", "not_found"),
        ("bucket", "404 NoSuchBucket", "not_found"),
        ("bucket", "403 InvalidObjectState", "download_failed"),
        ("bucket", "400 KMS.DisabledException", "download_failed"),
        ("bucket", "photos/", "unsupported_type"),
        ("bucket", "photos/text.txt", "unsupported_type"),
        ("bucket", "photos/large.png", "too_large"),
        ("bucket", "", "download_failed"),
        ("bucket", "\ud800", "download_failed"),
        ("a/b", "photos/a.jpg", "download_failed"),
        ("", "photos/a.jpg", "download_failed"),
        (None, "photos/a.jpg", "invalid_request"),
        ("bucket", ["photos/a.jpg"], "invalid_request"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_why(ask, bucket, key, code):
    answered = ask({"bucket": bucket, "key": key})
    assert answered.raised is None
    assert answered.answer["error"]["code"] == code == answered.log["outcome"]
    assert "traceback" not in answered.log and "photos" not in answered.printed
    assert answered.peak_mb < 150, "a large object is not read"


PASSING = ["503 SlowDown", "503 ServiceUnavailable", "500 InternalError", "502 BadGateway"]
PASSING += [
    "504 GatewayTimeout",
    "429 TooManyRequests",
    "400 RequestTimeout",
    "409 OperationAborted",
]
PASSING += [
    "400 ThrottlingException",
    "400 RequestLimitExceeded",
    "photos/cut.jpg",
    "closed",
    "late",
]
FORBIDDEN = ["403 AccessDenied", "403 InvalidAccessKeyId", "403 SignatureDoesNotMatch"]
FORBIDDEN += ["400 ExpiredToken", "400 InvalidToken", "403 AllAccessDisabled"]


@pytest.mark.parametrize(
    ("key", "name", "outcome"),
    [
        *((key, "PassingFault", "passing_fault") for key in PASSING),
        *((key, "NotAllowed", "not_allowed") for key in FORBIDDEN),
    ],
)
def test_faults_that_a_retry_or_a_right_mends_are_raised(ask, key, name, outcome):
    answered = ask({"bucket": "bucket", "key": key})
    assert answered.answer is None and answered.raised.startswith(name + "(")
    assert answered.log["outcome"] == outcome
    assert "traceback" not in answered.log and "photos" not in answered.printed


def test_lambda_reports_a_passing_fault_by_the_name_that_step_functions_retries(colour_model):
    settings = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "AWS_DEFAULT_REGION": "eu-west-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}
    with emulator(colour_model, **settings) as stack:
        answer = stack.invoke({"bucket": "bucket", "key": "a.jpg"})
        assert answer["errorType"] == "PassingFault"
        assert stack.invoke({"bucket": "bucket"})["error"]["code"] == "invalid_request"


def without_credentials() -> None:
    """As for a function without a role."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
    for name in names:
        os.environ.pop(name, None)
    os.environ |= {
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
    }


def test_missing_credentials_are_a_missing_right(colour_model):
    with handler_process(colour_model, without_credentials) as ask:
        assert ask({"bucket": "bucket", "key": "a.jpg"}).raised.startswith("NotAllowed(")


def test_strangers_cannot_read_the_bucket(ask):
    body = '{"bucket": "bucket", "key": "photos/a dog & ü+1.jpg"}'
    answered = ask(function_url("POST", "/", {}, body, "application/json"))
    assert answered.answer["statusCode"] == 400 and "download_ms" not in answered.log


def without_boto3() -> None:
    """As in a small environment."""
    import sys

    sys.modules |= {"boto3": None, "botocore": None, "botocore.exceptions": None}


def test_without_boto3_it_says_so(colour_model):
    with handler_process(colour_model, without_boto3) as ask:
        error = ask({"bucket": "bucket", "key": "a.jpg"}).answer["error"]
        assert error == {
            "code": "download_failed",
            "message": "reading from S3 needs boto3, which is in AWS's image",
        }
