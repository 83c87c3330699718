"""Pictures from a bucket of S3: for batches, which name objects that the function's role may
read."""

import contextlib
import functools
from typing import Any

from dog_breeds.serving.limits import MAX_BYTES, RequestError


def read_object(bucket: Any, key: Any) -> bytes:
    """Return the picture in an object; RequestError if it cannot be had."""
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise RequestError("invalid_request", "bucket and key must be text")
    try:
        from botocore.exceptions import (  # like boto3, in AWS's base image
            BotoCoreError,
            ClientError,
        )

        s3 = client()
    except ImportError:
        raise RequestError(
            "download_failed", "reading from S3 needs boto3, which is in AWS's image"
        ) from None
    try:
        found = s3.get_object(Bucket=bucket, Key=key)
        with contextlib.closing(found["Body"]) as body:
            if found["ContentLength"] > MAX_BYTES:
                raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
            return body.read()
    except ClientError as error:
        raise refusal(error.response["Error"].get("Code", "")) from None
    except (
        BotoCoreError,
        OSError,
        ValueError,
    ):  # no name of a bucket, no answer in time, no credentials
        raise RequestError(
            "download_failed", "S3 did not answer as it should; check bucket, key and region"
        ) from None


@functools.cache
def client() -> Any:
    """Return the client, made at the first picture: it takes half a second."""
    import boto3
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": 3}
    return boto3.client("s3", config=Config(connect_timeout=2, read_timeout=4, retries=retries))


def refusal(code: str) -> RequestError:
    """Return the error for one of S3's own."""
    if code in ("NoSuchKey", "NoSuchBucket"):
        return RequestError("not_found", "there is no such object in the bucket, or no such bucket")
    if code in (
        "AccessDenied",
        "403",
    ):  # also what S3 says of a missing object to those who may not list
        return RequestError(
            "not_found", "there is no such object, or the function's role may not read it"
        )
    return RequestError("download_failed", f"S3 answered {code[:50]}")
