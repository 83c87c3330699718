"""The limits of the service, and the exceptions for requests that get no prediction."""

MAX_BYTES = 10_000_000  # size of an image file, in a request or on the web
MAX_PIXELS = 50_000_000  # of an image that the handler or teach.py reads
MAX_IMAGES = 10  # in one request


class RequestError(Exception):
    """RequestError(code, message), raised if a request gets no prediction.

    `code` is a key of `http_events.STATUS`. The message is shown to the person who asked.
    """


class Unanswered(Exception):
    """Raised instead of an answer, so that the invocation fails.

    Some services invoke the function and do not read its answer. They try again, or report the
    event, only if an exception ends the invocation. Step Functions sees the name of the class as
    `errorType`.
    """

    code = "unanswered"  # the outcome in the log


class PassingFault(Unanswered):
    """S3 is overloaded, throttles, or loses the connection. Another try may succeed."""

    code = "passing_fault"


class NotAllowed(Unanswered):
    """The function's role lacks a right. Another try succeeds only after somebody grants it."""

    code = "not_allowed"


class UnknownEvent(Unanswered):
    """An event of a service has a form that the handler does not know."""

    code = "unknown_event"
