"""Read images from buckets of S3 and write answers to them, for batches and events."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from dog_breeds.serving.limits import MAX_BYTES, NotAllowed, PassingFault, RequestError

# Error codes of passing faults. Their HTTP status may be below 500 and other than 429.
PASSING_CODES = (
    "BandwidthLimitExceeded",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
)
# Error codes of missing rights. Their HTTP status may be other than 403.
RIGHTS_CODES = ("AccessDenied", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")


def read_object(bucket: Any, key: Any) -> bytes:
    """Return the bytes of an object.

    Raises RequestError if no further try can succeed, PassingFault if another try may succeed, and
    NotAllowed if the function's role may not read the object.
    """
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise RequestError("invalid_request", "bucket and key must be text")
    with s3_errors():
        found = s3_client().get_object(Bucket=bucket, Key=key)
        with contextlib.closing(found["Body"]) as body:
            if found["ContentLength"] > MAX_BYTES:
                raise RequestError("too_large", f"the image has more than {MAX_BYTES:,} bytes")
            return body.read()


def write_object(bucket: str, key: str, content: bytes) -> None:
    """Write an object with JSON content. Raises the same exceptions as read_object."""
    with s3_errors():
        s3_client().put_object(Bucket=bucket, Key=key, Body=content, ContentType="application/json")


@functools.cache
def s3_client() -> Any:
    """Return the S3 client. It is made at the first image, because this takes half a second."""
    import boto3
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": 3}
    return boto3.client("s3", config=Config(connect_timeout=2, read_timeout=4, retries=retries))


@contextlib.contextmanager
def s3_errors() -> Iterator[None]:
    """Raise the errors of S3 and of its client as RequestError, PassingFault or NotAllowed."""
    try:
        from botocore import exceptions as botocore  # like boto3, in AWS's base image
    except ImportError:
        raise RequestError(
            "download_failed", "reading from S3 needs boto3, which is in AWS's image"
        ) from None
    try:
        yield
    except botocore.ClientError as error:
        raise fault_of(error.response) from None
    except (  # no connection, a lost connection, or a time-out
        OSError,
        botocore.HTTPClientError,
        botocore.ConnectionError,
        botocore.IncompleteReadError,
        botocore.ChecksumError,
        botocore.FlexibleChecksumError,
        botocore.CapacityNotAvailableError,
        botocore.MetadataRetrievalError,
    ) as error:
        message = f"S3 did not answer as it should ({type(error).__name__}); try again"
        raise PassingFault(message) from None
    except (
        botocore.NoCredentialsError,
        botocore.PartialCredentialsError,
        botocore.CredentialRetrievalError,
    ):
        raise NotAllowed("the function has no credentials; give it a role") from None
    except (botocore.BotoCoreError, ValueError):  # an impossible bucket name, no key, no region
        raise RequestError(
            "download_failed", "the request to S3 is invalid; check bucket, key and region"
        ) from None


def fault_of(response: dict) -> Exception:
    """Return the exception for an error response of S3. `response` is botocore's."""
    code = str(response.get("Error", {}).get("Code", ""))[:50]
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 or status == 429 or code in PASSING_CODES:
        return PassingFault(f"S3 answered {code}; try again")
    if code in ("NoSuchKey", "NoSuchBucket", "404"):
        return RequestError("not_found", "there is no such object in the bucket, or no such bucket")
    if code == "InvalidObjectState":  # its status is 403, too
        return RequestError(
            "download_failed", "the object is in an archive of S3; restore it first"
        )
    if status == 403 or code in RIGHTS_CODES:
        # S3 also answers 403 if an object is missing and the role may not list the bucket
        return NotAllowed(
            f"S3 answered {code}: the function's role lacks a right on the object (s3:GetObject or"
            " s3:PutObject, and those on its KMS key), or the object is missing and the role lacks"
            " s3:ListBucket"
        )
    return RequestError("download_failed", f"S3 answered {code}")
