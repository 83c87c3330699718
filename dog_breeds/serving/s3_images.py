"""Images from a bucket of S3: for batches and events, which name objects that the function's role
may read."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from dog_breeds.serving.limits import MAX_BYTES, NotAllowed, PassingFault, RequestError

# Faults that pass though their HTTP status is below 500 and is not 429
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
# Missing rights whose HTTP status is not 403: the role's credentials are old or wrong.
RIGHTS_CODES = ("AccessDenied", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")


def read_object(bucket: Any, key: Any) -> bytes:
    """Return the image in an object.

    Raises RequestError where this object gives no image however often it is tried, PassingFault
    where another try may succeed, NotAllowed where the function's role may not read it.
    """
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise RequestError("invalid_request", "bucket and key must be text")
    with s3_errors():
        found = s3_client().get_object(Bucket=bucket, Key=key)
        with contextlib.closing(found["Body"]) as body:
            if found["ContentLength"] > MAX_BYTES:
                raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
            return body.read()


def write_object(bucket: str, key: str, content: bytes) -> None:
    """Write a JSON object. Raises as read_object does."""
    with s3_errors():
        s3_client().put_object(Bucket=bucket, Key=key, Body=content, ContentType="application/json")


@functools.cache
def s3_client() -> Any:
    """Return the client, made at the first image: it takes half a second."""
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
    except (  # no connection, a broken one, or none in time
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
    except (botocore.BotoCoreError, ValueError):  # no name of a bucket, no key, no region
        raise RequestError(
            "download_failed", "S3 cannot be asked so; check bucket, key and region"
        ) from None


def fault_of(response: dict) -> Exception:
    """Return the exception for an error response of S3."""
    code = str(response.get("Error", {}).get("Code", ""))[:50]
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 or status == 429 or code in PASSING_CODES:
        return PassingFault(f"S3 answered {code}; try again")
    if code in ("NoSuchKey", "NoSuchBucket", "404"):
        return RequestError("not_found", "there is no such object in the bucket, or no such bucket")
    if code == "InvalidObjectState":  # also with the status 403
        return RequestError(
            "download_failed", "the object is in an archive of S3; restore it first"
        )
    if status == 403 or code in RIGHTS_CODES:
        # S3 answers so, too, where an object is missing and the role may not list the bucket.
        return NotAllowed(
            f"S3 answered {code}: the function's role lacks a right on the object (s3:GetObject or"
            " s3:PutObject, and those on its KMS key), or the object is missing and the role lacks"
            " s3:ListBucket"
        )
    return RequestError("download_failed", f"S3 answered {code}")
