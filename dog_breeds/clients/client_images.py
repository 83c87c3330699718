"""Pictures of people who ask the service: made ready to be sent, and shown with where the model
looked.
"""

import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from dog_breeds.serving.jpegs import CutOff
from dog_breeds.serving.limits import MAX_PIXELS
from dog_breeds.serving.pixels import NoColours, load, opaque, scale_down, turn_upright

MAX_SENT = 4_000_000  # of what is sent: Lambda takes 6 MB a request, and base64 adds a third
# Pixels on the longer side of what is sent instead of a larger file; the model sees some 300
SMALLER = 2000
# MPO: a JPEG with more behind it, from some phones
SENT_AS_THEY_ARE = "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP"
DARK = 0.27  # how bright what did not speak for the breed stays


class NoPicture(ValueError):
    """Of a file that cannot be read as a picture: a sentence for the user."""


def picture_to_send(file: Path) -> bytes:
    """Return a picture's file as the service takes it: as it is, or as a JPEG if it is large or of
    another format.

    Raises NoPicture if it is none.
    """
    with open_picture(file) as image:
        sendable = image.format in SENT_AS_THEY_ARE and image.width * image.height <= MAX_PIXELS
    if sendable and file.stat().st_size <= MAX_SENT:
        return file.read_bytes()
    buffer = io.BytesIO()
    upright_picture(file, SMALLER).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def upright_picture(file: Path, side: int) -> Image.Image:
    """Return a picture as RGB, upright, its longer side at most `side` pixels. Raises NoPicture."""
    with open_picture(file) as image:
        try:
            scale_down(image, side)
            load(image)
            turn_upright(image)
            image = opaque(image).convert("RGB")
        except (CutOff, NoColours) as error:
            raise NoPicture(f"{file} {error}") from None
        except Exception:  # Pillow raises nearly anything for a damaged file
            raise NoPicture(f"{file} is damaged or incomplete") from None
    image.thumbnail((side, side))
    return image


def open_picture(file: Path) -> Image.Image:
    """Open a picture of any format that Pillow and pillow-heif know. Raises NoPicture."""
    if file.is_dir():
        raise NoPicture(f"{file} is a folder; name a picture in it")
    if not file.is_file():
        raise NoPicture(f"there is no file {file}")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        if is_heic(file):
            # The clients' alone: the image of the service has no decoder of HEIC
            import pillow_heif

            pillow_heif.register_heif_opener()
        return Image.open(file)
    except ModuleNotFoundError:
        raise NoPicture(
            f"{file} is a HEIC photo, for which pip install pillow-heif is needed"
        ) from None
    except PermissionError:
        raise NoPicture(f"{file} may not be read") from None
    except Image.DecompressionBombError:
        raise NoPicture(f"{file} has too many pixels; make it smaller") from None
    except UnidentifiedImageError:
        kinds = "JPEG, PNG, WebP, GIF, BMP, HEIC, AVIF or TIFF"
        raise NoPicture(f"{file} is no picture that can be read; it must be {kinds}") from None
    except OSError:
        raise
    except Exception:  # of a damaged AVIF Pillow raises RuntimeError
        raise NoPicture(f"{file} is damaged or incomplete") from None


def is_for_clients(content: bytes) -> bool:
    """Return whether a file begins as HEIC, AVIF or TIFF, which the service does not read."""
    return content[4:8] == b"ftyp" or content.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def is_heic(file: Path) -> bool:
    """Return whether a file begins as the photos of iPhones do."""
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


def shaded(image: Image.Image, explanation: list[list[float]], share: float) -> Image.Image:
    """Return a picture with all that did not speak for the breed in the dark.

    `explanation` are rows of numbers 0..1 for equal cells of the central `share` of both sides.
    """
    cells = Image.new("L", (len(explanation[0]), len(explanation)))
    cells.putdata([round(255 * value) for row in explanation for value in row])
    width, height = (round(side * share) for side in image.size)
    light = Image.new("L", image.size)
    place = ((image.width - width) // 2, (image.height - height) // 2)
    light.paste(cells.resize((width, height), Image.Resampling.BILINEAR), place)
    return Image.composite(image, image.point(lambda value: round(value * DARK)), light)
