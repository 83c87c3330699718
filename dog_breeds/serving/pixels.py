"""A picture as the model sees it: upright, RGB, its central part, squared. The same lines train and
serve.
"""

import math
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps


def read_pixels(file: str | Path | IO[bytes], size: int, share: float = 1.0) -> np.ndarray:
    """Return the central `share` of both sides of a picture: uint8 RGB [size, size, 3], 0..255.
    Raises OSError.
    """
    with Image.open(file) as image:
        return model_pixels(image, size, share)


def model_pixels(image: Image.Image, size: int, share: float = 1.0) -> np.ndarray:
    """Decode an opened picture; return it as the model sees it, as `read_pixels` does."""
    scale_down(image, math.ceil(size / share))
    image.load()
    turn_upright(image)
    return np.asarray(resize(opaque(image), size, share))


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
    for top in range(0, image.height, 256):
        strip = image.crop((0, top, image.width, min(top + 256, image.height)))
        if strip.mode.startswith("I;16"):  # the upper byte, as Pillow itself reads 16-bit RGB
            strip = strip.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        if strip.has_transparency_data:
            strip = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        whole.paste(strip.convert("RGB"), (0, top))
    return whole
