"""Read JPEG files without an end marker, and tell complete ones from those that were cut off.

Some phones and cameras write complete JPEG files without the marker.
"""

import io
import re
import struct
import zlib
from typing import IO

from PIL import Image, ImageFile

# The marker at the start of a segment. Stuffed zeros, padding and restart markers start none.
PART = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
FRAMES, SCAN, END = (b"\xc0", b"\xc1", b"\xc2"), b"\xda", b"\xd9"
# Bytes that a decoder takes for pixels where pixels are missing. They have no 0xFF, so no marker.
FILLER = bytes((31 * i * i + 97 * i) % 255 for i in range(512))


class CutOff(OSError):
    """Raised for a JPEG whose last part is missing.

    The message continues a sentence that begins with the file's name.
    """


def jpeg_without_end(file: IO[bytes]) -> bytes | None:
    """Return the content of a JPEG file that lacks its end marker, or None if it has one."""
    file.seek(-2, io.SEEK_END)
    if file.read() == b"\xff" + END:
        return None
    file.seek(0)  # the marker may also stand before other data at the end
    data, scans, start = file.read(), 0, 2
    while part := PART.search(data, start):
        if part[1] == END and scans:
            return None
        scans += part[1] == SCAN
        start = part.end() + int.from_bytes(data[part.end() : part.end() + 2], "big")
    return data


def load_without_end(image: ImageFile.ImageFile, data: bytes) -> None:
    """Decode an opened JPEG that lacks its end marker. `data` is the file's content.

    The image is decoded twice, with a different ending each time. If pixels are missing, the
    decoder makes them up from the ending, so the two results differ. If no pixel is missing, they
    are the same. Raises CutOff if pixels are missing, and Pillow's OSError for other damage.
    """
    data = body(data)
    if not has_all_scans(data):
        raise CutOff("is cut off: its last part is missing")
    contents = [data + ending + b"\xff" + END for ending in (FILLER, b"")]
    file, tiles = image.fp, list(image.tile)

    def decode(content: bytes) -> Image.Image:
        """Decode another content in place of the file, at the scale of `image`."""
        image.tile, image.fp = list(tiles), io.BytesIO(content)
        image.load()
        return image

    # At a smaller scale, the last scans of a progressive JPEG make no difference. So it is compared
    # at full scale.
    if "progressive" in image.info:
        whole = [
            checksum(Image.open(io.BytesIO(content), formats=["JPEG"])) for content in contents
        ]
        decode(contents[1])
    else:
        whole = [checksum(decode(content)) for content in contents]
    if image._exclusive_fp:  # Pillow opened the file, but no longer closes it: image.fp has changed
        file.close()
    if whole[0] != whole[1]:
        raise CutOff("is cut off: its last part is missing")


def checksum(image: Image.Image) -> int:
    """Return a checksum of the pixels. It is computed in strips, which takes little memory."""
    value = 0
    for top in range(0, image.height, 256):
        strip = image.crop((0, top, image.width, min(top + 256, image.height)))
        value = zlib.crc32(strip.tobytes(), value)
    return value


def body(data: bytes) -> bytes:
    """Return a JPEG without end marker up to its last pixels.

    Padding, and blocks that Samsung's phones append, are cut off.
    """
    data = without_trailer(data)
    kept = data.rstrip(b"\0\xff")
    # Keep FF 00, which is how a JPEG writes the byte FF among its pixels
    return kept + b"\xff\0" * data[len(kept) :].startswith(b"\xff\0")


def without_trailer(data: bytes) -> bytes:
    """Return a file without the blocks that Samsung's phones append, such as a panorama's video.

    Such a file ends with a directory: "SEFH", the version, the number of blocks, 12 bytes for each
    block, the length of the directory up to here, and "SEFT". The 12 bytes are two numbers of 16
    bits, the block's distance before SEFH, and its size.
    """
    if not data.endswith(b"SEFT") or len(data) < 20:
        return data
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if start < 0 or data[start : start + 4] != b"SEFH":
        return data
    blocks = data[start + 12 : -8]
    entries = struct.iter_unpack("<HHII", blocks[: len(blocks) // 12 * 12])
    before = max((distance for _, _, distance, _ in entries), default=0)
    return data[: max(start - before, 0)]


def has_all_scans(data: bytes) -> bool:
    """Return whether the scans contain every coefficient of every colour channel, with all bits.

    A progressive JPEG spreads the coefficients over many scans. A file that was cut off between two
    scans decodes without an error, but is blurred.
    """
    components, missing, start = b"", set(), 2
    while part := PART.search(data, start):
        length = int.from_bytes(data[part.end() : part.end() + 2], "big")
        content = data[part.end() + 2 : part.end() + length]
        start = part.end() + length
        if part[1] in FRAMES and len(content) > 5:
            components = content[6::3]
            missing = {(channel, i) for channel in components for i in range(64)}
        elif part[1] == SCAN and len(content) > 3:
            first, last, bits = content[-3:]
            if bits & 15 == 0:  # this scan has the lowest bits, and so the last ones
                channels = content[1 : 1 + 2 * content[0] : 2]
                missing -= {(channel, i) for channel in channels for i in range(first, last + 1)}
    return bool(components) and not missing
