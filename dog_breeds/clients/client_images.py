"""Prepare images for the service, and shade the parts of an image that do not support an answer."""

import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from dog_breeds.serving.jpegs import CutOff
from dog_breeds.serving.limits import MAX_PIXELS
from dog_breeds.serving.pixels import NoColours, load, opaque, scale_down, turn_upright

MAX_SENT_BYTES = 4_000_000  # Lambda accepts 6 MB per request, and base64 adds a third
# Pixels of the longer side after an image was made smaller; the model itself sees about 300
SENT_SIDE = 2000
# MPO, which some phones write, is a JPEG followed by further images
SENT_UNCHANGED = "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP"
SHADE_BRIGHTNESS = 0.27  # factor for parts that did not support the breed


class UnreadableImage(ValueError):
    """Raised when a file cannot be read as an image. The message is shown to the user."""


def image_to_send(file: Path) -> bytes:
    """Return the bytes to send for an image file.

    Large files, and files in formats that the service cannot read, are converted to JPEG. Raises
    UnreadableImage.
    """
    with open_image(file) as image:
        sendable = image.format in SENT_UNCHANGED and image.width * image.height <= MAX_PIXELS
    if sendable and file.stat().st_size <= MAX_SENT_BYTES:
        return file.read_bytes()
    buffer = io.BytesIO()
    upright_image(file, SENT_SIDE).save(buffer, "JPEG", quality=90)
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
        except Exception:  # Pillow raises exceptions of many types for damaged files
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
        if _is_heic(file):
            # Imported only here, because the service has no decoder for HEIC and must not need one
            import pillow_heif

            pillow_heif.register_heif_opener()
        return Image.open(file)
    except ModuleNotFoundError:
        raise UnreadableImage(
            f"{file} is a HEIC photo; to read it, run pip install pillow-heif"
        ) from None
    except PermissionError:
        raise UnreadableImage(
            f"{file}: you may not read this file; change its permissions"
        ) from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"{file} has too many pixels; make it smaller") from None
    except UnidentifiedImageError:
        formats = "JPEG, PNG, WebP, GIF, BMP, HEIC, AVIF or TIFF"
        raise UnreadableImage(f"{file} is not an image in a known format ({formats})") from None
    except OSError:  # its text already names the file and the reason
        raise
    except Exception:  # such as RuntimeError, which Pillow raises for a damaged AVIF
        raise UnreadableImage(f"{file} is damaged or incomplete") from None


def needs_conversion(content: bytes) -> bool:
    """Return whether a file begins like HEIC, AVIF or TIFF, which the service cannot read."""
    # HEIC and AVIF: an ISO media file. TIFF and BigTIFF, each in both byte orders.
    return content[4:8] == b"ftyp" or content.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def _is_heic(file: Path) -> bool:
    """Return whether a file begins like HEIC, the format of photos of iPhones."""
    with file.open("rb") as opened:
        head = opened.read(12)
    brands = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
    return head[4:8] == b"ftyp" and head[8:12] in brands


def shade_image(image: Image.Image, explanation: list[list[float]], share: float) -> Image.Image:
    """Return an image in which the parts that did not support the breed are dark.

    `explanation` is a square grid of numbers in 0..1, as rows. The grid covers the central `share`
    of both sides of the image, which is what the model has seen.
    """
    cells = Image.new("L", (len(explanation[0]), len(explanation)))
    cells.putdata([round(255 * value) for row in explanation for value in row])
    width, height = (round(side * share) for side in image.size)
    # 0, dark, outside the central share
    mask = Image.new("L", image.size)
    corner = ((image.width - width) // 2, (image.height - height) // 2)
    mask.paste(cells.resize((width, height), Image.Resampling.BILINEAR), corner)
    shaded = image.point(lambda value: round(value * SHADE_BRIGHTNESS))
    return Image.composite(image, shaded, mask)
