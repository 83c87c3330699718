"""Pictures that strangers send: read as the model sees them, or refused before they cost time or memory."""

import contextlib
import io
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dog_breeds.http_events import RequestError
from dog_breeds.pixels import model_pixels
from dog_breeds.web_pictures import MAX_BYTES

MAX_PIXELS = 50_000_000  # of a picture, checked before it is decoded
MAX_MEMORY = 240_000_000  # bytes that decoding a picture may take: 50 megapixels of plain RGB, and a little
MAX_SCANS = 10  # of a JPEG with MAX_PIXELS, what encoders of progressive ones write; smaller ones may have more
MAX_PARTS = 5_000  # of a picture's file: Pillow, and scans_of, go through them in Python, and there can be millions
# Where a segment begins: what is stuffed in, fills up, or has no length, begins none.
SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
FORMATS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "WEBP": b"RIFF", "GIF": b"GIF8", "BMP": b"BM"}


def read_picture(data: bytes, size: int, share: float, log: dict) -> np.ndarray:
    """Return a picture as the model takes it: float32 RGB (size, size, 3) in 0..255. Notes in `log` what it was."""
    log["bytes"] = len(data)
    if len(data) > MAX_BYTES:
        raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
    if not data.startswith(tuple(FORMATS.values())):
        hint = "; send HEIC and AVIF as a JPEG" if data[4:8] == b"ftyp" else ""
        raise RequestError("unsupported_type", f"the picture is none of {', '.join(FORMATS)}{hint}")
    try:
        with limited_memory():
            image = Image.open(CountedReads(data), formats=list(FORMATS))
            log["size"] = image.size
            check_costs(image, data)
            return model_pixels(image, size, share).astype(np.float32)
    except RequestError:
        raise
    except Image.DecompressionBombError:
        raise RequestError("too_large", f"the picture has more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise RequestError("too_large", "the picture needs too much memory; send it smaller, or as JPEG") from None
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        log["detail"] = repr(error)[:200]
        raise RequestError("invalid_image", "the picture is damaged, incomplete or too large to decode") from None


def check_costs(image: Image.Image, data: bytes) -> None:
    """Raise RequestError if an opened picture is going to be too much work."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise RequestError("too_large", f"the picture has more than {MAX_PIXELS:,} pixels")
    # Each scan visits all pixels, and an empty one has a dozen bytes.
    if image.format in ("JPEG", "MPO") and scans_of(data, image.fp.tell()) * pixels > MAX_SCANS * MAX_PIXELS:
        raise RequestError("too_large", "the picture has too many scans; send it as a plain JPEG")


def scans_of(data: bytes, start: int) -> float:
    """Return the number of a JPEG's scans, counted from behind the header of the first; infinity for too many parts.

    Goes from segment to segment as the decoder does, by the lengths that they state: what looks like a scan, or like
    the end of the picture, within a comment is none.
    """
    scans = 1
    for _ in range(MAX_PARTS):
        segment = SEGMENT.search(data, start)
        if not segment or segment[1] == b"\xd9":  # the end of the picture
            return scans
        scans += segment[1] == b"\xda"
        start = segment.end() + int.from_bytes(data[segment.end() : segment.end() + 2], "big")
    return math.inf


class CountedReads(io.BytesIO):
    """A file in memory that fails after MAX_PARTS reads, before a file of a million parts costs seconds."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as usual; OSError once there were too many reads."""
        self.reads += 1
        if self.reads > MAX_PARTS:
            raise OSError("too many parts")
        return super().read(size)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let the process have at most MAX_MEMORY bytes more than it has now; past that, it gets a MemoryError.

    Not every picture says what it will cost: WebP takes 16 bytes a pixel, and 60 kB of EXIF data can take 300 MB.
    Works on Linux, as Lambda is, and does nothing elsewhere.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + MAX_MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
