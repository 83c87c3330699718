"""Prepare images for sending to the service, and draw which parts spoke for the answer."""

import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from dog_breeds.serving.jpegs import CutOff
from dog_breeds.serving.limits import MAX_PIXELS
from dog_breeds.serving.pixels import NoColours, load, opaque, scale_down, turn_upright

MAX_SENT = 4_000_000  # bytes of an image: Lambda takes 6 MB a request, and base64 adds a third
# Pixels of the longer side of an image that replaces a larger file; the model sees about 300
SMALLER = 2000
# MPO is a JPEG with further images behind it, as some phones write it
SENT_AS_THEY_ARE = "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP"
DARK = 0.27  # brightness of parts that did not speak for the breed


class UnreadableImage(ValueError):
    """Raised if a file cannot be read as an image. The message is shown to the user."""


def image_to_send(file: Path) -> bytes:
    """Return the bytes to send for an image file.

    Large files, and formats that the service does not read, become a JPEG. Raises UnreadableImage.
    """
    with open_image(file) as image:
        sendable = image.format in SENT_AS_THEY_ARE and image.width * image.height <= MAX_PIXELS
    if sendable and file.stat().st_size <= MAX_SENT:
        return file.read_bytes()
    buffer = io.BytesIO()
    upright_image(file, SMALLER).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def upright_image(file: Path, side: int) -> Image.Image:
    """Return an image as RGB, upright, with at most `side` pixels on its longer side.

    Raises UnreadableImage.
    """
    with open_image(file) as image:
        try:
            scale_down(image, side)
            load(image)
            turn_upright(image)
            image = opaque(image).convert("RGB")
        except (CutOff, NoColours) as error:
            raise UnreadableImage(f"{file} {error}") from None
        except Exception:  # Pillow raises many kinds of exception for a damaged file
            raise UnreadableImage(f"{file} is damaged or incomplete") from None
    image.thumbnail((side, side))
    return image


def open_image(file: Path) -> Image.Image:
    """Open an image in any format that Pillow and pillow-heif read. Raises UnreadableImage."""
    if file.is_dir():
        raise UnreadableImage(f"{file} is a folder; name an image in it")
    if not file.is_file():
        raise UnreadableImage(f"there is no file {file}")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        if is_heic(file):
            # Only clients read HEIC: the service has no decoder for it
            import pillow_heif

            pillow_heif.register_heif_opener()
        return Image.open(file)
    except ModuleNotFoundError:
        raise UnreadableImage(
            f"{file} is a HEIC photo; to read it, run pip install pillow-heif"
        ) from None
    except PermissionError:
        raise UnreadableImage(f"{file} may not be read; change its permissions") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"{file} has too many pixels; make it smaller") from None
    except UnidentifiedImageError:
        formats = "JPEG, PNG, WebP, GIF, BMP, HEIC, AVIF or TIFF"
        raise UnreadableImage(f"{file} is not an image in a known format ({formats})") from None
    except OSError:
        raise
    except Exception:  # for a damaged AVIF, Pillow raises RuntimeError
        raise UnreadableImage(f"{file} is damaged or incomplete") from None


def is_for_clients(content: bytes) -> bool:
    """Return whether a file begins like HEIC, AVIF or TIFF, which the service does not read."""
    return content[4:8] == b"ftyp" or content.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def is_heic(file: Path) -> bool:
    """Return whether a file begins like HEIC, the format of iPhones' photos."""
    with file.open("rb") as opened:
        head = opened.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in (
        b"heic",
        b"heix",
        b"heim",
        b"heis",
        b"hevc",
        b"mif1",
        b"msf1",
    )


def shade_image(image: Image.Image, explanation: list[list[float]], share: float) -> Image.Image:
    """Return an image in which the parts that did not speak for the breed are dark.

    `explanation` has rows of numbers in 0..1, one for each cell of the central `share` of both
    sides.
    """
    cells = Image.new("L", (len(explanation[0]), len(explanation)))
    cells.putdata([round(255 * value) for row in explanation for value in row])
    width, height = (round(side * share) for side in image.size)
    light = Image.new("L", image.size)
    place = ((image.width - width) // 2, (image.height - height) // 2)
    light.paste(cells.resize((width, height), Image.Resampling.BILINEAR), place)
    return Image.composite(image, image.point(lambda value: round(value * DARK)), light)
