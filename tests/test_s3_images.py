"""Pictures from S3: boto3 itself, against a bucket on this machine."""

import pytest
from handler_process import handler_process, with_bucket
from odd_images import BREED, JPEG, picture, saved
from services import function_url

from dog_breeds.serving import limits

OBJECTS = {
    "photos/a dog & ü+1.jpg": JPEG,
    "photos/": b"",
    "photos/text.txt": b"a dog",
    "photos/cut.jpg": saved(picture(), format="JPEG"),
    "photos/large.png": saved(picture(), format="PNG") + bytes(limits.MAX_BYTES),
}


@pytest.fixture(scope="module")
def ask(colour_model):
    with handler_process(colour_model, with_bucket, OBJECTS) as function:
        yield function


def test_an_object_is_answered_as_a_photo_and_its_name_is_not_logged(ask):
    answered = ask({"bucket": "bucket", "key": "photos/a dog & ü+1.jpg", "top_k": 1})
    assert answered.answer == {"prediction": {BREED: 1.0}, "known": True}
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
        ("bucket", "403 AccessDenied", "not_found"),
        ("bucket", "404 NoSuchBucket", "not_found"),
        ("bucket", "503 SlowDown", "download_failed"),
        ("bucket", "photos/", "unsupported_type"),
        ("bucket", "photos/text.txt", "unsupported_type"),
        ("bucket", "photos/large.png", "too_large"),
        ("bucket", "photos/cut.jpg", "download_failed"),
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
