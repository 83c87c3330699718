"""JPEG files without an end marker: complete ones, as some phones and cameras write them, are told
from those that were cut off.
"""

import io
import re
import struct
import zlib
from typing import IO

from PIL import Image, ImageFile

# Where a part of a JPEG begins: what is stuffed in, fills up or restarts begins none.
PART = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
FRAMES, SCAN, END = (b"\xc0", b"\xc1", b"\xc2"), b"\xda", b"\xd9"
# Bytes that a decoder takes for pixels where pixels are missing. None of them begins a part.
FILLER = bytes((31 * i * i + 97 * i) % 255 for i in range(512))


class CutOff(OSError):
    """Raised for a JPEG whose last part is missing. The message goes on after the file's name."""


def jpeg_without_end(file: IO[bytes]) -> bytes | None:
    """Return the content of a JPEG file without its end marker; None if the marker is there."""
    file.seek(-2, io.SEEK_END)
    if file.read() == b"\xff" + END:
        return None
    file.seek(0)  # there may be more behind the marker
    data, scans, start = file.read(), 0, 2
    while part := PART.search(data, start):
        if part[1] == END and scans:
            return None
        scans += part[1] == SCAN
        start = part.end() + int.from_bytes(data[part.end() : part.end() + 2], "big")
    return data


def load_without_end(image: ImageFile.ImageFile, data: bytes) -> None:
    """Decode an opened JPEG that lacks its end marker. Raises CutOff if more than that is missing,
    and Pillow's OSError if it is damaged otherwise.

    The image is decoded twice, with two endings. Where pixels are missing, the decoder makes up
    others of each ending. Where none are missing, both results are the same. `data` is the file.
    """
    data = body(data)
    if not has_all_scans(data):
        raise CutOff("is cut off: its last part is missing")
    contents = [data + ending + b"\xff" + END for ending in (FILLER, b"")]
    file, tiles = image.fp, list(image.tile)

    def decode(content: bytes) -> Image.Image:
        """Decode the same image again, at the scale that is set."""
        image.tile, image.fp = list(tiles), io.BytesIO(content)
        image.load()
        return image

    if "progressive" in image.info:  # at a smaller scale the last scans make no difference
        whole = [
            checksum(Image.open(io.BytesIO(content), formats=["JPEG"])) for content in contents
        ]
        decode(contents[1])
    else:
        whole = [checksum(decode(content)) for content in contents]
    if image._exclusive_fp:  # Pillow has opened the file, and closes it no more
        file.close()
    if whole[0] != whole[1]:
        raise CutOff("is cut off: its last part is missing")


def checksum(image: Image.Image) -> int:
    """Return a checksum of the pixels, made in strips, which takes little memory."""
    value = 0
    for top in range(0, image.height, 256):
        strip = image.crop((0, top, image.width, min(top + 256, image.height)))
        value = zlib.crc32(strip.tobytes(), value)
    return value


def body(data: bytes) -> bytes:
    """Return a JPEG without what follows its last pixels where it has no end marker: what Samsung's
    phones append, and padding.
    """
    data = without_trailer(data)
    kept = data.rstrip(b"\0\xff")
    # 0xFF among the pixels is written as FF 00
    return kept + b"\xff\0" * data[len(kept) :].startswith(b"\xff\0")


def without_trailer(data: bytes) -> bytes:
    """Return a file without the blocks that Samsung's phones append, such as a panorama's video.

    The file ends with SEFH, version, number of blocks, 12 bytes for each (two numbers of 16 bits,
    how far before SEFH it begins, its size), the length from SEFH to here, SEFT.
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
    """Return whether every coefficient of every colour channel is in a scan, with all its bits.

    Progressive JPEG send them in many scans. One that was cut off between two of them decodes
    without an error, but blurred.
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
            if bits & 15 == 0:  # the lowest bits of the coefficients
                channels = content[1 : 1 + 2 * content[0] : 2]
                missing -= {(channel, i) for channel in channels for i in range(first, last + 1)}
    return bool(components) and not missing
