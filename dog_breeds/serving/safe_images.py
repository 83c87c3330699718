"""Read images that strangers send, or refuse them before they cost much time or memory."""

import contextlib
import io
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dog_breeds.serving.file_types import FORMATS, describe, starts_as_image
from dog_breeds.serving.jpegs import END, PART, SCAN, CutOff, without_trailer
from dog_breeds.serving.limits import MAX_BYTES, MAX_PIXELS, RequestError
from dog_breeds.serving.pixels import NoColours, model_pixels

# Bytes of memory to decode an image: enough for 50 megapixels of plain RGB
MAX_MEMORY = 240_000_000
# CPU seconds to decode an image: 50 megapixels take half a second
MAX_SECONDS = 1.5
# Scans of a JPEG with MAX_PIXELS, as many as encoders of progressive JPEGs write. A smaller JPEG
# may have more.
MAX_SCANS = 10
# Segments or chunks of an image file. Python loops go through them, and a file can have millions.
MAX_PARTS = 5_000
MAX_EXIF = 2**16  # bytes of EXIF data that are read, as many as a JPEG segment can have
# Markers of the segments of a usual JPEG, each of which states its length. All others are refused:
# a lossless JPEG has crashed the process, and an arithmetic-coded one has kept it busy.
USUAL = {
    bytes([marker])
    for marker in (0xC0, 0xC1, 0xC2, 0xC4, *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE)
}


def read_image(
    data: bytes, size: int, share: float, log: dict, until: float = math.inf
) -> np.ndarray:
    """Return an image as the model takes it: float32 RGB [size, size, 3] in 0..255.

    `share` is the central share of both sides that the model sees. Notes bytes and size of the
    image in `log`. Raises RequestError if `data` are not an image that is read, if it costs too
    much, or if it is not decoded before `until`, a time of time.monotonic().
    """
    log["bytes"] = len(data)
    if len(data) > MAX_BYTES:
        raise RequestError("too_large", f"the image has more than {MAX_BYTES:,} bytes")
    if not starts_as_image(data):
        raise RequestError("unsupported_type", describe(data))
    data = without_trailer(data)
    try:
        with limited_memory(), limited_time(until):
            image = Image.open(CountedReads(data), formats=list(FORMATS))
            log["size"] = image.size
            check_costs(image, data)
            return model_pixels(image, size, share).astype(np.float32)
    except RequestError:
        raise
    except Image.DecompressionBombError:
        raise RequestError("too_large", f"the image has more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise RequestError(
            "too_large", "the image needs too much memory; send it smaller, or as JPEG"
        ) from None
    except TooSlow:
        raise RequestError(
            "too_large", "the image takes too long to decode; send it smaller, or as JPEG"
        ) from None
    except (CutOff, NoColours) as error:
        raise RequestError("invalid_image", f"the image {error}") from None
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        log["detail"] = repr(error)[:200]
        raise RequestError(
            "invalid_image", "the image is damaged, incomplete or too large to decode"
        ) from None


def check_costs(image: Image.Image, data: bytes) -> None:
    """Raise RequestError if it would cost too much to decode an opened image."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise RequestError("too_large", f"the image has more than {MAX_PIXELS:,} pixels")
    if image.format in ("JPEG", "MPO"):
        # JPEG decodes whole blocks of 8 x 8 pixels
        check_jpeg(data, max(image.width, 8) * max(image.height, 8))
    # Pillow decodes run-length encoded BMP in Python, byte by byte
    if image.format == "BMP" and image.info.get("compression") in (1, 2):
        raise RequestError("unsupported_type", "run-length encoded BMP is not read; send a JPEG")


def check_jpeg(data: bytes, pixels: int) -> None:
    """Raise RequestError for a JPEG of an unusual type, or with too many scans.

    Each scan visits all `pixels`, so a large image may have fewer scans than a small one. The loop
    goes from segment to segment by their lengths, as the decoder does. It is therefore not misled
    by bytes inside a comment that look like a scan or like the end of the image.
    """
    scans, start = 0, 2
    for _ in range(MAX_PARTS):
        part = PART.search(data, start)
        if not part or (part[1] == END and scans):
            return
        if part[1] not in USUAL:
            raise RequestError(
                "unsupported_type", "the JPEG is damaged, or of a kind that is not read"
            )
        scans += part[1] == SCAN
        if scans * pixels > MAX_SCANS * MAX_PIXELS:
            break
        start = part.end() + int.from_bytes(data[part.end() : part.end() + 2], "big")
    raise RequestError("too_large", "the image has too many scans; send it as a plain JPEG")


# --- Limits ---------------------------------------------------------------------------------------


class ShortExif(Image.Exif):
    """EXIF data that are read up to MAX_EXIF bytes, because longer data have taken seconds."""

    def load(self, data: bytes) -> None:
        """Read the first MAX_EXIF bytes as usual."""
        super().load(data[:MAX_EXIF])


# Pillow creates an Exif object under this name wherever it reads EXIF data
Image.Exif = ShortExif  # type: ignore[misc]


class TooSlow(BaseException):
    """Raised if decoding takes too long.

    It is not an Exception, because Pillow catches all Exceptions in several places.
    """


@contextlib.contextmanager
def limited_time(until: float) -> Iterator[None]:
    """Raise TooSlow in the block after MAX_SECONDS of CPU time, or at a time of time.monotonic().

    A signal does this. It ends loops in Python, such as Pillow's loops over the parts of a file,
    but no call into C. The function does nothing outside the main thread, where Python allows no
    signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    active = True

    def stop(*_: object) -> None:
        if active:
            raise TooSlow

    remaining = until - time.monotonic()
    if remaining <= 0:
        raise TooSlow
    timers = [(signal.ITIMER_PROF, signal.SIGPROF, MAX_SECONDS)]
    if remaining < math.inf:
        timers.append((signal.ITIMER_REAL, signal.SIGALRM, remaining))
    before = [signal.signal(number, stop) for _, number, _ in timers]
    try:
        try:
            for timer, _, seconds in timers:
                # Repeat each second, because an exception raised in a finaliser is lost
                signal.setitimer(timer, seconds, 1)
            yield
        finally:
            # An inner block of its own. Wherever a late signal raises TooSlow, the outer block
            # still resets the timers.
            active = False
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)
        for (_, number, _), handler in zip(timers, before, strict=True):
            signal.signal(number, handler)


class CountedReads(io.BytesIO):
    """A file in memory that fails after MAX_PARTS reads.

    Without this limit, a file with a million parts would take seconds.
    """

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as usual. Raises OSError after too many reads."""
        self.reads += 1
        if self.reads > MAX_PARTS:
            raise OSError("too many parts")
        return super().read(size)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let the process use at most MAX_MEMORY bytes more than now, and raise MemoryError beyond.

    The header of an image does not always tell how much memory it needs: WebP, for example, takes
    16 bytes a pixel. The limit works on Linux, and so on Lambda. Elsewhere the function does
    nothing.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    # The sixth field of statm counts the pages of data and stack, which RLIMIT_DATA limits
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    # Keep a lower limit, such as one set by ulimit -d
    lower = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    lowest = min([used + MAX_MEMORY, *lower])
    resource.setrlimit(resource.RLIMIT_DATA, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
