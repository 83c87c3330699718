"""What the service accepts at most, and the errors that say why a request gets no prediction."""

MAX_BYTES = 10_000_000  # of an image file, however it arrives
MAX_PIXELS = 50_000_000  # of an image that the handler or teach.py takes
MAX_IMAGES = 10  # in one request


class RequestError(Exception):
    """Raised where a request gets no prediction.

    RequestError(code, message): `code` is one of `http_events.STATUS`; the person who asked reads
    the message.
    """


class Unanswered(Exception):
    """Raised to the caller in place of an answer.

    Services that invoke the function without waiting for its answer try again, or report the event,
    only where an exception ends the invocation. Step Functions reads the name of the class as
    `errorType`.
    """

    code = "unanswered"  # in the log


class PassingFault(Unanswered):
    """S3 fails now, by overload, throttling or a broken connection. Another try may succeed."""

    code = "passing_fault"


class NotAllowed(Unanswered):
    """The function's role lacks a right. Another try succeeds only after somebody grants it."""

    code = "not_allowed"


class UnknownEvent(Unanswered):
    """An event of a service that names no image in a form that is read."""

    code = "unknown_event"
