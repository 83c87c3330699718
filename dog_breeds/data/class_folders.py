"""Folders of anybody's pictures, a sub-folder for each class: listed and looked at."""

import os
import re
import unicodedata
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from dog_breeds.clients.client_images import NoPicture, open_picture
from dog_breeds.clients.photo_files import LeftOut, kept_files, kept_folders, list_photos
from dog_breeds.console import with_progress
from dog_breeds.data.duplicates import COLUMNS, ROWS
from dog_breeds.serving.jpegs import CutOff
from dog_breeds.serving.limits import MAX_PIXELS
from dog_breeds.serving.pixels import NoColours, model_pixels
from dog_breeds.workers import map_in_threads

# Parts of a split, as data sets call them: train, valid, seg_test, training_set
SPLIT = re.compile(
    r"((seg|images?|imgs?|data|dataset)_)?(train|training|valid|validation|val|test|testing|dev|eval|pred|fold_?)\d*"
    r"(_?(set|data|dataset|images|imgs|dir))?",
    re.IGNORECASE,
)
# Folders of data sets for detection, whose labels are boxes in files
DETECTION = {"images", "labels", "annotations", "masks", "jpegimages", "imagesets"}
DETECTION |= {"segmentationclass", "segmentationobject"}

Pictures = dict[str, list[Path]]  # of each class; classes and paths sorted


def list_pictures(root: Path, fewest: int = 2) -> Pictures:
    """Return the pictures in a folder's sub-folders, one a class; print what is left out.

    Where the sub-folders are the parts of a split (train, valid, test) with the classes in each of
    them, the folders of a class are taken together. Raises FileNotFoundError, or ValueError where
    the folders are not one a class, or fewer than `fewest`.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    left_out, pictures = LeftOut(), {}
    parts = split_parts(root)
    if not parts:
        check_folders(root, len(with_photos(root)), fewest)
    for place in parts or [root]:
        for name, paths in classes_in(place, left_out).items():
            pictures.setdefault(name, []).extend(paths)
    if parts:
        names = ", ".join(path.relative_to(root).as_posix() for path in parts)
        print(f"{root} is split into {names}: the folders of a class are taken together")
    print_lines(left_out.remarks(root))
    check_folders(root, len(pictures), fewest)
    return {name: sorted(pictures[name]) for name in sorted(pictures)}


def check_folders(root: Path, number: int, fewest: int) -> None:
    """Raise ValueError if a folder has a smaller number of classes than are needed."""
    if number >= fewest:
        return
    folders, place = with_photos(root), root
    while len(inner := with_photos(place)) == 1:
        (place,) = inner
    found = ", ".join(printable(path.name) for path in folders)
    found = f"only the folder {found}" if found else "no folder with pictures"
    hint = f"; did you mean {place}?" if with_photos(place) and place != root else ""
    raise ValueError(
        f"{root} holds {found}; put the pictures of each class, at least {fewest}, into its own"
        f"{hint}"
    )


def with_photos(place: Path) -> list[Path]:
    """Return the folders in a folder that hold photos, or have some below."""
    return [path for path in sub_folders(place) if any(list_photos(path))]


def classes_in(root: Path, left_out: LeftOut) -> Pictures:
    """Return the pictures of the classes in a folder, as list_pictures does; folders without any
    file are left out.
    """
    pictures: Pictures = {}
    seen = set()
    loose = len(kept_files(files_in(root), LeftOut()))
    if loose:
        plural = "s that lie" if loose > 1 else " that lies"
        print(f"left out: {loose:,} picture{plural} in {root} itself, in no class")
    for folder in sub_folders(root, left_out):
        # A link to another class is no class
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            print(f"left out: {printable(folder)}, a link to another of these folders")
            continue
        seen.add((status.st_dev, status.st_ino))
        names = kept_files(files_in(folder), left_out)
        nested = with_photos(folder)
        sub_folders(folder, left_out)  # which takes up those of systems
        if nested:
            raise ValueError(nested_message(root, folder, nested[0]))
        if not names and not any(not name.startswith(".") for name in files_in(folder)):
            print(f"left out: {printable(folder)}, which is empty")
            continue
        name = unicodedata.normalize("NFC", folder.name)  # macOS spells the same accents otherwise
        if printable(name) != name:
            raise ValueError(
                f"the name of the folder {printable(name)!r} has characters that cannot be printed"
            )
        if name in pictures:
            raise ValueError(
                f"there are two folders {name!r}, which differ in how accents are encoded"
            )
        pictures[name] = [folder / file for file in names]
    return pictures


def nested_message(root: Path, folder: Path, nested: Path) -> str:
    """Return what to say of a folder with pictures that lies in a class's folder."""
    siblings = [path.name for path in sub_folders(root)]
    parts = [name for name in siblings if SPLIT.fullmatch(name)]
    if parts:
        others = ", ".join(printable(name) for name in siblings if name not in parts)
        return (
            f"{root} has parts of a split ({', '.join(parts)}) beside other folders ({others}); "
            f"move one kind away, or name one of the parts"
        )
    return (
        f"{printable(nested)} is a folder in a class; if the folders in {printable(folder)} are "
        f"the classes, name that folder, else put these pictures directly into it"
    )


def split_parts(root: Path) -> list[Path]:
    """Return the folders in which the classes lie if a folder is split into train, test and so on;
    none if it is not split.

    Raises ValueError where it is split, but the classes are no folders.
    """
    folders = with_photos(root)
    if folders and not any(map(with_photos, folders)) and only_detection(folders):
        raise ValueError(no_classes_message(root, folders))
    folders, others = parts_of_split(folders)
    if not folders or (others and len(folders) < 2):
        return []
    for folder in others:
        print(f"left out: {printable(folder)}, which is no part of the split")
    parts = {}
    for folder in folders:
        place = folder
        # Some archives have a folder within itself, such as seg_train/seg_train
        while len(inner := with_photos(place)) == 1 and with_photos(inner[0]):
            (place,) = inner
        if only_detection(with_photos(place)):
            raise ValueError(no_classes_message(root, folders))
        parts[place] = {path.name for path in with_photos(place)}
    training = set().union(
        *(parts[place] for place in parts if "train" in place.relative_to(root).parts[0].lower())
    )
    if not any(parts.values()):
        raise ValueError(no_classes_message(root, folders))
    for place, classes in list(parts.items()):
        # Such as test/unknown, or photos without labels
        if not classes or (training and len(classes) == 1 and not classes & training):
            where = place / min(classes) if classes else place
            print(f"left out: {printable(where)}, whose pictures are of no class")
            del parts[place]
    return list(parts)


def parts_of_split(folders: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return those of the folders that are named as parts of a split, and the others.

    All may have the same beginning, as asl_alphabet_train and asl_alphabet_test. Beside others, the
    parts must hold folders, and share one: train may be a class, as ship.
    """
    names = [path.name.lower() for path in folders]
    shared = os.path.commonprefix(names) if len(names) > 1 else ""  # noqa: RUF071  by characters
    beginning = re.match(r"(.*[_ -])?", shared)[0]
    named = [bool(SPLIT.fullmatch(name.removeprefix(beginning))) for name in names]
    parts = [folder for folder, is_part in zip(folders, named, strict=True) if is_part]
    others = [folder for folder, is_part in zip(folders, named, strict=True) if not is_part]
    if others:
        classes = [{path.name for path in with_photos(part)} for part in parts]
        if not classes or not set.intersection(*classes):
            return [], folders
    return parts, others


def only_detection(folders: list[Path]) -> bool:
    """Return whether folders are those of a data set for detection."""
    return bool(folders) and {path.name.lower() for path in folders} <= DETECTION


def no_classes_message(root: Path, folders: list[Path]) -> str:
    """Return what to say of pictures whose classes are written in files, not in folders' names."""
    names = ", ".join(printable(path.name) for path in folders)
    tables = sorted({path.name for folder in folders for path in folder.glob("*_classes.csv")})
    where = f" ({tables[0]})" if tables else ""
    return (
        f"{root} holds {names}, which are no classes: what the pictures show is written in files "
        f"of their own{where}, or nowhere. Put the pictures of each class into a folder of its "
        f"own, or export the dataset in the form for classification by folders"
    )


def sub_folders(place: Path, left_out: LeftOut | None = None) -> list[Path]:
    """Return the folders in a folder, without those of systems, sorted, links last."""
    names = [path.name for path in place.iterdir() if path.is_dir()]
    folders = [place / name for name in kept_folders(names, left_out or LeftOut())]
    return sorted(folders, key=lambda path: (path.is_symlink(), path.name))


def files_in(place: Path) -> list[str]:
    """Return the names of a folder's files and links that lead nowhere."""
    return [path.name for path in place.iterdir() if not path.is_dir()]


def print_lines(lines: list[str]) -> None:
    """Print lines, if there are any."""
    for line in lines:
        print(printable(line))


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
    seen = map_in_threads(thumbnail, paths)
    seen = list(with_progress(seen, "looking at pictures", len(paths), "pictures"))
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
