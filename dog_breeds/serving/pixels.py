"""A picture as the model sees it: upright, RGB, its central part, squared. The same lines train and
serve.
"""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from dog_breeds.serving.jpegs import jpeg_without_end, load_without_end

# Modes of Pillow that hold colours, beside those of 16 bits a pixel, "I;16..."
COLOURS = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
BITS, PHOTOMETRIC, MAX_VALUE = 258, 262, 281  # tags of TIFF


class NoColours(ValueError):
    """Raised for an image whose numbers are no colours. The message goes on after its name."""


def read_pixels(file: str | Path | IO[bytes], size: int, share: float = 1.0) -> np.ndarray:
    """Return the central `share` of both sides of a picture: uint8 RGB [size, size, 3], 0..255.
    Raises OSError.
    """
    with Image.open(file) as image:
        return model_pixels(image, size, share)


def model_pixels(image: Image.Image, size: int, share: float = 1.0) -> np.ndarray:
    """Decode an opened picture; return it as the model sees it, as `read_pixels` does."""
    scale_down(image, math.ceil(size / share))
    load(image)
    turn_upright(image)
    return np.asarray(resize(opaque(image), size, share))


def load(image: Image.Image) -> None:
    """Decode an opened picture in full. Raises OSError if it is damaged, jpegs.CutOff if only a
    JPEG's last part is missing, NoColours.
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
    """Let an opened JPEG be decoded at a smaller scale, if it has one at which both sides have
    `side` pixels.

    `mode` "L": and in grey. A lossless JPEG keeps its scale: Pillow crashed at another.
    """
    # A lossless JPEG has no quantization tables.
    if getattr(image, "quantization", None):
        image.draft(mode, (side, side))


def resize(image: Image.Image, size: int, share: float = 1.0) -> Image.Image:
    """Return the central `share` of both sides, squashed to a square, bilinear, antialiased: the
    one resize.
    """
    left, top = image.width * (1 - share) / 2, image.height * (1 - share) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((size, size), Image.Resampling.BILINEAR, box).convert("RGB")


def turn_upright(image: Image.Image) -> None:
    """Turn a picture in place as its EXIF data say; damaged data say nothing."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:
        return


def opaque(image: Image.Image) -> Image.Image:
    """Return any picture as RGB or L, transparency over white. In strips: whole, it would take 16
    bytes a pixel.
    """
    if image.mode in ("RGB", "L") and not image.has_transparency_data:
        return image
    whole = Image.new("RGB", image.size)
    grey = grey_scale(image)
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
    """Return what makes 8 bits of an image's 16: the upper byte, as Pillow itself reads 16-bit RGB.

    A TIFF may say that its largest value is less, or that 0 is white.
    """
    tags = getattr(image, "tag_v2", {})
    (bits,) = tags.get(BITS, (16,))[:1]
    largest = tags.get(MAX_VALUE, 2**bits - 1)
    largest = largest[0] if isinstance(largest, tuple) else largest
    factor = 1 / 256 if largest >= 2**15 else 255 / max(largest, 1)
    if tags.get(PHOTOMETRIC) == 0:
        return lambda value: value * -factor + 255
    return lambda value: value * factor


# --- What Pillow reads ----------------------------------------------------------------------------


class BriefPngStream(PngImagePlugin.PngStream):
    """The parts of a PNG file, of which compressed texts and colour profiles are not unpacked:
    Pillow refuses files that have more than a megabyte of them.

    Only texts that may say how the picture is turned are read, and passed over if they are too
    long.
    """

    TEXTS = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"

    def chunk_iCCP(self, pos: int, length: int) -> bytes:
        """Return a colour profile's content, from which its checksum is made."""
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
            except ValueError:  # too long
                pass
            finally:
                self.fp = file
        return content


# Pillow makes one of these for each PNG file.
PngImagePlugin.PngStream = BriefPngStream  # type: ignore[misc]
