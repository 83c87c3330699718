"""What the service accepts at most, and the error that says why a request gets no prediction."""

MAX_BYTES = 10_000_000  # of an image file, however it arrives
MAX_PIXELS = 50_000_000  # of an image that the handler or teach.py takes
MAX_IMAGES = 10  # in one request


class RequestError(Exception):
    """Raised where a request gets no prediction.

    RequestError(code, message): `code` is one of `http_events.STATUS`; the person who asked reads the message.
    """
