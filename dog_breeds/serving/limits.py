"""What the service accepts at most, and the errors that say why a request gets no prediction."""

MAX_BYTES = 10_000_000  # of an image file, however it arrives
MAX_PIXELS = 50_000_000  # of an image that the handler or teach.py takes
MAX_IMAGES = 10  # in one request


class RequestError(Exception):
    """Raised where a request gets no prediction.

    RequestError(code, message): `code` is one of `http_events.STATUS`; the person who asked reads
    the message.
    """


class BucketFault(Exception):
    """Raised to the caller, not answered: the image in a bucket was not tried.

    Services that invoke the function without waiting try again, or report it, only where an
    exception ends the invocation. Step Functions reads the name of the class as `errorType`.
    """

    code = "bucket_fault"  # in the log


class PassingFault(BucketFault):
    """S3 fails now, by overload, throttling or a broken connection. Another try may succeed."""

    code = "passing_fault"


class NotAllowed(BucketFault):
    """The function's role lacks a right. Another try fails until somebody grants it."""

    code = "not_allowed"
