"""Folders of anybody's pictures, a sub-folder for each class: listed and looked at."""

import unicodedata
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from dog_breeds.clients.client_images import NoPicture, open_picture
from dog_breeds.clients.photo_files import SUFFIXES
from dog_breeds.console import counted
from dog_breeds.data.duplicates import COLUMNS, ROWS
from dog_breeds.serving.jpegs import CutOff
from dog_breeds.serving.limits import MAX_PIXELS
from dog_breeds.serving.pixels import NoColours, model_pixels
from dog_breeds.workers import in_threads

Pictures = dict[str, list[Path]]  # of each class; classes and paths sorted


def list_pictures(root: Path, fewest: int = 2) -> Pictures:
    """Return the pictures in a folder's sub-folders, one a class; print what is left out.

    Hidden files and folders are passed over, symbolic links followed. Raises FileNotFoundError, or
    ValueError where the folders are not one a class, or fewer than `fewest`.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    folders = sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if len(folders) < fewest:
        inside = any(path.is_dir() for path in folders[0].iterdir()) if folders else False
        hint = f"; did you mean {folders[0]}?" if inside else ""
        found = f"only the folder {printable(folders[0].name)}" if folders else "no folder"
        raise ValueError(
            f"{root} holds {found}; put the pictures of each class, at least {fewest}, "
            f"into its own{hint}"
        )
    pictures: Pictures = {}
    for folder in folders:
        name = unicodedata.normalize("NFC", folder.name)  # macOS spells the same accents otherwise
        if printable(name) != name:
            raise ValueError(
                f"the name of the folder {printable(name)!r} has characters that cannot be printed"
            )
        if name in pictures:
            raise ValueError(
                f"there are two folders {name!r}, which differ in how accents are encoded"
            )
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        nested = next((path for path in files if path.is_dir()), None)
        if nested:
            raise ValueError(
                f"{printable(nested)} is a folder in a class; put its pictures directly into "
                f"{folder}"
            )
        pictures[name] = [path for path in files if path.suffix.lower() in SUFFIXES]
        if len(files) > len(pictures[name]):
            other = len(files) - len(pictures[name])
            print(
                f"left out: {other} of {len(files)} files in {folder}, no pictures by their names"
            )
    return {name: pictures[name] for name in sorted(pictures)}


def check_numbers(pictures: Mapping[str, Collection], fewest: int, what: str) -> None:
    """Raise ValueError where a class has fewer pictures, of a kind named `what`, than are
    needed."""
    short = [
        f"{name!r} has {len(paths)}" for name, paths in pictures.items() if len(paths) < fewest
    ]
    if short:
        more = f" and {len(short) - 3} more classes have too few" if len(short) > 3 else ""
        raise ValueError(f"a class needs at least {fewest} {what}; {', '.join(short[:3])}{more}")


def look_at(pictures: Pictures) -> tuple[Pictures, np.ndarray, dict[str, str]]:
    """Decode each picture, small, before anything that takes long.

    Returns the readable pictures, their thumbnails, grey uint8 [n, ROWS, COLUMNS], and of the
    others what is wrong.
    """
    warnings.filterwarnings("ignore", module="PIL")  # remarks on odd files
    paths = [path for paths in pictures.values() for path in paths]
    seen = list(
        counted(in_threads(thumbnail, paths), "looking at pictures", len(paths), "pictures")
    )
    thumbnails = {
        path: result
        for path, result in zip(paths, seen, strict=True)
        if not isinstance(result, str)
    }
    wrong = {
        printable(path): result
        for path, result in zip(paths, seen, strict=True)
        if isinstance(result, str)
    }
    readable = {
        name: [path for path in paths if path in thumbnails] for name, paths in pictures.items()
    }
    return readable, np.array(list(thumbnails.values()), np.uint8), wrong


def thumbnail(path: Path) -> np.ndarray | str:
    """Return a picture's thumbnail, grey uint8 [ROWS, COLUMNS], squashed, or why it cannot be
    read."""
    try:
        with open_picture(path) as image:
            if image.width * image.height > MAX_PIXELS:
                millions = image.width * image.height / 1e6
                return f"it has {millions:.0f} million pixels, {MAX_PIXELS / 1e6:.0f} are allowed"
            pixels = model_pixels(image, 64)
    except NoPicture as error:
        return printable(str(error).replace(f"{path} ", "it "))
    except (CutOff, NoColours) as error:
        return f"it {error}"
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        return f"it is damaged ({error})"
    return np.asarray(
        Image.fromarray(pixels).convert("L").resize((COLUMNS, ROWS), Image.Resampling.BOX)
    )


def printable(name: str | Path) -> str:
    """Return a file's name, which may hold any character or byte, so that it can be printed and
    encoded.
    """
    return "".join(character if can_be_printed(character) else "?" for character in str(name))


def can_be_printed(character: str) -> bool:
    """Return whether a character may stand in a name: any space, and the joiners of Persian and
    Hindi.
    """
    return (
        character.isprintable()
        or character in "\u200c\u200d"
        or unicodedata.category(character) == "Zs"
    )
