"""Pictures that strangers send: read as the model sees them, or refused before they cost time or
memory.
"""

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

# Bytes that decoding a picture may take: 50 megapixels of plain RGB, and a little
MAX_MEMORY = 240_000_000
MAX_SECONDS = 1.5  # of a CPU that decoding a picture may take: 50 megapixels take half a second
# Of a JPEG with MAX_PIXELS, what encoders of progressive ones write; smaller ones may have more
MAX_SCANS = 10
# Of a picture's file: Pillow, and check_jpeg, go through them in Python, and there can be millions
MAX_PARTS = 5_000
MAX_EXIF = 2**16  # bytes that are read of EXIF data, as many as a JPEG's segment has
# The parts of a usual JPEG, each of which states its length. All others are refused: a lossless
# JPEG has ended the process, an arithmetic one has kept it busy.
USUAL = {
    bytes([marker])
    for marker in (0xC0, 0xC1, 0xC2, 0xC4, *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE)
}


def read_picture(
    data: bytes, size: int, share: float, log: dict, until: float = math.inf
) -> np.ndarray:
    """Return a picture as the model takes it: float32 RGB (size, size, 3) in 0..255. Notes in `log`
    what it was.

    Raises RequestError if it is none, or not read before `until`, a time of time.monotonic().
    """
    log["bytes"] = len(data)
    if len(data) > MAX_BYTES:
        raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
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
        raise RequestError(
            "too_large", f"the picture has more than {MAX_PIXELS:,} pixels"
        ) from None
    except MemoryError:
        raise RequestError(
            "too_large", "the picture needs too much memory; send it smaller, or as JPEG"
        ) from None
    except TooSlow:
        raise RequestError(
            "too_large", "the picture takes too long to decode; send it smaller, or as JPEG"
        ) from None
    except (CutOff, NoColours) as error:
        raise RequestError("invalid_image", f"the picture {error}") from None
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        log["detail"] = repr(error)[:200]
        raise RequestError(
            "invalid_image", "the picture is damaged, incomplete or too large to decode"
        ) from None


def check_costs(image: Image.Image, data: bytes) -> None:
    """Raise RequestError if an opened picture is going to be too much work."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise RequestError("too_large", f"the picture has more than {MAX_PIXELS:,} pixels")
    if image.format in ("JPEG", "MPO"):
        # It is decoded in blocks of 8 x 8
        check_jpeg(data, max(image.width, 8) * max(image.height, 8))
    # Pillow decodes it in Python, byte by byte
    if image.format == "BMP" and image.info.get("compression") in (1, 2):
        raise RequestError("unsupported_type", "run-length encoded BMP is not read; send a JPEG")


def check_jpeg(data: bytes, pixels: int) -> None:
    """Raise RequestError for a JPEG of an unusual kind, or of more scans than so many pixels may
    have.

    Goes from part to part as the decoder does, by the lengths that they state: what looks like a
    scan, or like the end of the picture, within a comment is none. Each scan visits all pixels.
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
    raise RequestError("too_large", "the picture has too many scans; send it as a plain JPEG")


# --- Limits ---------------------------------------------------------------------------------------


class ShortExif(Image.Exif):
    """EXIF data, of which MAX_EXIF bytes are read: longer data have taken seconds."""

    def load(self, data: bytes) -> None:
        """Read as usual, but no more."""
        super().load(data[:MAX_EXIF])


# Pillow makes one of these wherever it reads EXIF data.
Image.Exif = ShortExif  # type: ignore[misc]


class TooSlow(BaseException):
    """Decoding takes too long. No Exception: Pillow catches those here and there."""


@contextlib.contextmanager
def limited_time(until: float) -> Iterator[None]:
    """Raise TooSlow in what runs here, after MAX_SECONDS of a CPU, or at a time of
    time.monotonic().

    It ends loops of Python, as Pillow has around what it decodes; not C. Does nothing in a thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    active = True

    def stop(*_: object) -> None:
        if active:
            raise TooSlow

    left = until - time.monotonic()
    if left <= 0:
        raise TooSlow
    timers = [(signal.ITIMER_PROF, signal.SIGPROF, MAX_SECONDS)]
    if left < math.inf:
        timers.append((signal.ITIMER_REAL, signal.SIGALRM, left))
    before = [signal.signal(number, stop) for _, number, _ in timers]
    try:
        try:
            for timer, _, seconds in timers:
                # And again: what is raised in a finaliser is lost
                signal.setitimer(timer, seconds, 1)
            yield
        finally:
            # In a block of its own: whenever a signal comes, the one below is reached
            active = False
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)
        for (_, number, _), handler in zip(timers, before, strict=True):
            signal.signal(number, handler)


class CountedReads(io.BytesIO):
    """A file in memory that fails after MAX_PARTS reads, before a file of a million parts costs
    seconds.
    """

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as usual; OSError once there were too many reads."""
        self.reads += 1
        if self.reads > MAX_PARTS:
            raise OSError("too many parts")
        return super().read(size)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let the process have at most MAX_MEMORY bytes more than it has now; past that, it gets a
    MemoryError.

    Not every picture says what it will cost: WebP, for instance, takes 16 bytes a pixel. Works on
    Linux, as Lambda is, and does nothing elsewhere.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    # Lower limits, such as those of ulimit -d, stay
    lower = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    lowest = min([used + MAX_MEMORY, *lower])
    resource.setrlimit(resource.RLIMIT_DATA, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
