"""Turn an image into the model's input: upright, RGB, its central part, resized to a square.

Training and serving both use this module, so the model sees the same pixels in both.
"""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from dog_breeds.serving.jpegs import jpeg_without_end, load_without_end

# Pillow's modes of colour images. Those of 16 bits, "I;16...", are accepted too.
COLOURS = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
# TIFF tags: BitsPerSample, PhotometricInterpretation, MaxSampleValue
BITS, PHOTOMETRIC, MAX_VALUE = 258, 262, 281


class NoColours(ValueError):
    """Raised for an image whose numbers are not colours, such as depths.

    The message continues a sentence that begins with the file's name.
    """


def read_pixels(file: str | Path | IO[bytes], size: int, share: float = 1.0) -> np.ndarray:
    """Return the central `share` of both sides of an image file: uint8 RGB [size, size, 3], 0..255.

    Raises OSError if the image cannot be read. Pillow raises other exceptions for some damaged
    files.
    """
    with Image.open(file) as image:
        return model_pixels(image, size, share)


def model_pixels(image: Image.Image, size: int, share: float = 1.0) -> np.ndarray:
    """Decode an opened image and return its pixels as `read_pixels` does."""
    scale_down(image, math.ceil(size / share))
    load(image)
    turn_upright(image)
    return np.asarray(resize(opaque(image), size, share))


def load(image: Image.Image) -> None:
    """Decode an opened image completely.

    Raises OSError if it is damaged, jpegs.CutOff if the last part of a JPEG is missing, and
    NoColours if its numbers are not colours.
    """
    file = getattr(image, "fp", None)
    data = jpeg_without_end(file) if image.format == "JPEG" and file else None
    if data is None:
        image.load()
    else:
        load_without_end(image, data)
    if image.mode not in COLOURS and not image.mode.startswith("I;16"):
        raise NoColours(
            f"holds numbers of another kind than colours of 8 or 16 bits (mode {image.mode}); "
            f"save it as PNG or JPEG"
        )


def scale_down(image: Image.Image, side: int, mode: str | None = None) -> None:
    """Let an opened JPEG be decoded at a smaller scale, which is faster.

    Both sides keep at least `side` pixels. With the mode "L" the image is decoded in grey. Other
    images stay as they are.
    """
    # A lossless JPEG has no quantization tables. Pillow crashed when it was scaled down.
    if getattr(image, "quantization", None):
        image.draft(mode, (side, side))


def resize(image: Image.Image, size: int, share: float = 1.0) -> Image.Image:
    """Return the central `share` of both sides, resized to a square of `size` pixels.

    The resize is bilinear and antialiased, and it is the only one on the way to the model.
    """
    left, top = image.width * (1 - share) / 2, image.height * (1 - share) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((size, size), Image.Resampling.BILINEAR, box).convert("RGB")


def turn_upright(image: Image.Image) -> None:
    """Turn an image in place by its EXIF orientation. Damaged EXIF data are ignored."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:
        return


def opaque(image: Image.Image) -> Image.Image:
    """Return any image as RGB or L, with transparent parts over white."""
    if image.mode in ("RGB", "L") and not image.has_transparency_data:
        return image
    whole = Image.new("RGB", image.size)
    grey = grey_scale(image)
    # In strips, because the whole image would take 16 bytes a pixel
    for top in range(0, image.height, 256):
        strip = image.crop((0, top, image.width, min(top + 256, image.height)))
        if strip.mode.startswith("I;16"):
            strip = strip.convert("I").point(grey).convert("L")
        if strip.has_transparency_data:
            strip = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        whole.paste(strip.convert("RGB"), (0, top))
    return whole


def grey_scale(image: Image.Image) -> Callable:
    """Return the function that maps an image's 16-bit values to 8 bits.

    Usually it takes the upper byte, as Pillow does for 16-bit RGB. A TIFF file may state a smaller
    largest value, or that 0 is white.
    """
    tags = getattr(image, "tag_v2", {})
    (bits,) = tags.get(BITS, (16,))[:1]
    largest = tags.get(MAX_VALUE, 2**bits - 1)
    largest = largest[0] if isinstance(largest, tuple) else largest
    factor = 1 / 256 if largest >= 2**15 else 255 / max(largest, 1)
    if tags.get(PHOTOMETRIC) == 0:
        return lambda value: value * -factor + 255
    return lambda value: value * factor


# --- Changes to Pillow's PNG reader ---------------------------------------------------------------


class BriefPngStream(PngImagePlugin.PngStream):
    """A reader of PNG chunks that does not decompress texts and colour profiles.

    Pillow decompresses them, and refuses files with more than a megabyte of them. This reader only
    reads texts that may contain the orientation, and skips those that are too long.
    """

    TEXTS = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"

    def chunk_iCCP(self, pos: int, length: int) -> bytes:
        """Return a colour profile's bytes, of which Pillow then checks the CRC."""
        return ImageFile._safe_read(self.fp, length)

    def chunk_zTXt(self, pos: int, length: int) -> bytes:
        """Return a compressed text's content."""
        return self._read_text(super().chunk_zTXt, pos, length)

    def chunk_iTXt(self, pos: int, length: int) -> bytes:
        """Return the content of a text that may be compressed."""
        return self._read_text(super().chunk_iTXt, pos, length)

    def _read_text(self, read: Callable, pos: int, length: int) -> bytes:
        content, file = ImageFile._safe_read(self.fp, length), self.fp
        if content.startswith(self.TEXTS):
            self.fp = io.BytesIO(content)
            try:
                read(pos, length)
            except ValueError:  # the text is too long
                pass
            finally:
                self.fp = file
        return content


# Pillow creates a PngStream for each PNG file, under this name
PngImagePlugin.PngStream = BriefPngStream  # type: ignore[misc]
