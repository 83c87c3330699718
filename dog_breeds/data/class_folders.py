"""List and inspect a user's photos, which have a folder for each class.

Such folders come in many layouts: with train and test folders around the classes, with files of
operating systems, or made for object detection. Whatever is left out is printed.
"""

import os
import re
import unicodedata
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from dog_breeds.clients.client_images import UnreadableImage, open_image
from dog_breeds.clients.photo_files import SkippedFiles, list_photos, photo_folders, photo_names
from dog_breeds.console import with_progress
from dog_breeds.data.duplicates import COLUMNS, ROWS
from dog_breeds.serving.jpegs import CutOff
from dog_breeds.serving.limits import MAX_PIXELS
from dog_breeds.serving.pixels import NoColours, model_pixels
from dog_breeds.workers import map_in_threads

# Names that datasets give to the folders of a split: train, valid, seg_test, training_set
SPLIT_FOLDER = re.compile(
    r"((seg|images?|imgs?|data|dataset)_)?(train|training|valid|validation|val|test|testing|dev|eval|pred|fold_?)\d*"
    r"(_?(set|data|dataset|images|imgs|dir))?",
    re.IGNORECASE,
)
# Folders of datasets for object detection, whose labels are files of boxes
DETECTION_FOLDERS = {"images", "labels", "annotations", "masks", "jpegimages", "imagesets"}
DETECTION_FOLDERS |= {"segmentationclass", "segmentationobject"}

ClassImages = dict[str, list[Path]]  # class -> image files; both are sorted


def list_class_images(root: Path, min_classes: int = 2) -> ClassImages:
    """Return the image files in a folder that has a sub-folder for each class.

    Prints what is left out. If the folder is split (train, valid, test) and the classes are inside,
    the folders of the same class are combined. Raises FileNotFoundError if there is no such folder,
    and ValueError if its sub-folders are no classes or fewer than `min_classes`.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    skipped, images = SkippedFiles(), {}
    split_folders = _find_split_folders(root)
    if not split_folders:
        _check_class_count(root, len(_folders_with_photos(root)), min_classes)
    for place in split_folders or [root]:
        for name, paths in _read_classes(place, skipped).items():
            images.setdefault(name, []).extend(paths)
    if split_folders:
        names = ", ".join(path.relative_to(root).as_posix() for path in split_folders)
        print(f"{root} is split into {names}; the folders of the same class are combined")
    for line in skipped.remarks(root):
        print(printable(line))
    _check_class_count(root, len(images), min_classes)
    return {name: sorted(images[name]) for name in sorted(images)}


def _check_class_count(root: Path, number: int, min_classes: int) -> None:
    """Raise ValueError if a folder has fewer than `min_classes` classes."""
    if number >= min_classes:
        return
    folders, place = _folders_with_photos(root), root
    # The classes may be deeper than the user said: follow folders that hold a single folder
    while len(inner := _folders_with_photos(place)) == 1:
        (place,) = inner
    found = ", ".join(printable(path.name) for path in folders)
    found = f"only the folder {found}" if found else "no folder with photos"
    hint = f"; did you mean {place}?" if _folders_with_photos(place) and place != root else ""
    raise ValueError(
        f"{root} holds {found}; make a folder of photos for each class, at least {min_classes}"
        f"{hint}"
    )


def _folders_with_photos(place: Path) -> list[Path]:
    """Return the folders in a folder that have photos directly inside or in deeper folders."""
    return [path for path in _sub_folders(place) if any(list_photos(path))]


def _read_classes(root: Path, skipped: SkippedFiles) -> ClassImages:
    """Return the image files of each class folder in a folder. Empty folders are left out."""
    images: ClassImages = {}
    seen = set()  # device and inode of each folder
    loose = len(photo_names(_file_names(root), SkippedFiles()))
    if loose:
        photos = "photos" if loose > 1 else "photo"
        print(f"left out: {loose:,} {photos} in {root} itself, in no class")
    for folder in _sub_folders(root, skipped):
        # A link to the folder of another class is no class of its own. Links come last.
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            print(f"left out: {printable(folder)}, a link to another of these folders")
            continue
        seen.add((status.st_dev, status.st_ino))
        names = photo_names(_file_names(folder), skipped)
        nested = _folders_with_photos(folder)
        _sub_folders(folder, skipped)  # only to record the system folders in `skipped`
        if nested:
            raise ValueError(_nested_folder_message(root, folder, nested[0]))
        if not names and not any(not name.startswith(".") for name in _file_names(folder)):
            print(f"left out: {printable(folder)}, which is empty")
            continue
        name = unicodedata.normalize("NFC", folder.name)  # macOS encodes accents in another way
        if printable(name) != name:
            raise ValueError(
                f"the name of the folder {printable(name)!r} has characters that cannot be "
                "printed; rename it"
            )
        if name in images:
            raise ValueError(
                f"there are two folders {name!r}, which differ in how accents are encoded; "
                "rename one, or move its photos into the other"
            )
        images[name] = [folder / file for file in names]
    return images


def _nested_folder_message(root: Path, folder: Path, nested: Path) -> str:
    """Return the error message about a folder with photos inside a class folder."""
    siblings = [path.name for path in _sub_folders(root)]
    split_folders = [name for name in siblings if SPLIT_FOLDER.fullmatch(name)]
    if split_folders:
        other_names = ", ".join(printable(name) for name in siblings if name not in split_folders)
        return (
            f"{root} has split folders ({', '.join(split_folders)}) beside other folders "
            f"({other_names}); move the others away, or name one of the split folders"
        )
    return (
        f"{printable(nested)} is a folder inside a class; if the folders in {printable(folder)} "
        f"are the classes, name {printable(folder)}, otherwise move these photos directly into it"
    )


def _find_split_folders(root: Path) -> list[Path]:
    """Return the folders that hold the classes, if a folder is split into train, test and so on.

    Returns [] if the folder is not split. Raises ValueError if the folder is split, but its classes
    are not folders.
    """
    folders = _folders_with_photos(root)
    if folders and not any(map(_folders_with_photos, folders)) and _is_detection_dataset(folders):
        raise ValueError(_no_classes_message(root, folders))
    folders, other_folders = _select_split_folders(folders)
    if not folders or (other_folders and len(folders) < 2):
        return []
    for folder in other_folders:
        print(f"left out: {printable(folder)}, which is no part of the split")
    classes_of = {}  # split folder -> names of its class folders
    for folder in folders:
        place = folder
        # Some archives repeat a folder inside itself, such as seg_train/seg_train
        while len(inner := _folders_with_photos(place)) == 1 and _folders_with_photos(inner[0]):
            (place,) = inner
        if _is_detection_dataset(_folders_with_photos(place)):
            raise ValueError(_no_classes_message(root, folders))
        classes_of[place] = {path.name for path in _folders_with_photos(place)}
    training_classes = set().union(
        *(
            classes
            for place, classes in classes_of.items()
            if "train" in place.relative_to(root).parts[0].lower()
        )
    )
    if not any(classes_of.values()):
        raise ValueError(_no_classes_message(root, folders))
    for place, classes in list(classes_of.items()):
        # A test folder often has no labels: its photos are directly inside, or in test/unknown
        if not classes or (
            training_classes and len(classes) == 1 and not classes & training_classes
        ):
            unlabelled = place / min(classes) if classes else place
            print(f"left out: {printable(unlabelled)}, whose photos have no class")
            del classes_of[place]
    return list(classes_of)


def _select_split_folders(folders: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return the folders whose names are those of a split, and the other folders.

    All names may have the same prefix, such as asl_alphabet_train and asl_alphabet_test. If there
    are other folders, the split folders must have a class in common. Otherwise "train" is a class,
    like the folder "ship" beside it.
    """
    names = [path.name.lower() for path in folders]
    # The prefix of characters, not of path components
    shared = os.path.commonprefix(names) if len(names) > 1 else ""  # noqa: RUF071
    prefix = re.match(r"(.*[_ -])?", shared)[0]
    in_split = [bool(SPLIT_FOLDER.fullmatch(name.removeprefix(prefix))) for name in names]
    selected = [folder for folder, chosen in zip(folders, in_split, strict=True) if chosen]
    other_folders = [folder for folder, chosen in zip(folders, in_split, strict=True) if not chosen]
    if other_folders:
        classes = [{path.name for path in _folders_with_photos(folder)} for folder in selected]
        if not classes or not set.intersection(*classes):
            return [], folders
    return selected, other_folders


def _is_detection_dataset(folders: list[Path]) -> bool:
    """Return whether all folders have names of a dataset for object detection."""
    return bool(folders) and {path.name.lower() for path in folders} <= DETECTION_FOLDERS


def _no_classes_message(root: Path, folders: list[Path]) -> str:
    """Return the error message about photos whose classes are not the names of folders."""
    names = ", ".join(printable(path.name) for path in folders)
    # Roboflow exports labels as such a table
    tables = sorted({path.name for folder in folders for path in folder.glob("*_classes.csv")})
    where = f" ({tables[0]})" if tables else ""
    return (
        f"{root} holds {names}, which are no classes: the labels of the photos are in separate "
        f"files{where}, or missing. Put the photos of each class into a folder, or export the "
        f"dataset as folders for classification"
    )


def _sub_folders(place: Path, skipped: SkippedFiles | None = None) -> list[Path]:
    """Return the folders in a folder without system folders: sorted, but links last."""
    names = [path.name for path in place.iterdir() if path.is_dir()]
    folders = [place / name for name in photo_folders(names, skipped or SkippedFiles())]
    return sorted(folders, key=lambda path: (path.is_symlink(), path.name))


def _file_names(place: Path) -> list[str]:
    """Return the names of the files in a folder. Broken links count as files."""
    return [path.name for path in place.iterdir() if not path.is_dir()]


def check_class_sizes(images: Mapping[str, Collection], minimum: int, noun: str) -> None:
    """Raise ValueError if a class has fewer than `minimum` images.

    `noun` names the images in the message, such as "readable photos".
    """
    too_small = [
        f"{name!r} has {len(paths)}" for name, paths in images.items() if len(paths) < minimum
    ]
    if too_small:
        more = f" and {len(too_small) - 3} more classes have too few" if len(too_small) > 3 else ""
        raise ValueError(
            f"a class needs at least {minimum} {noun}; {', '.join(too_small[:3])}{more}"
        )


def inspect_images(images: ClassImages) -> tuple[ClassImages, np.ndarray, dict[str, str]]:
    """Decode each image at a small size, to find unreadable files before the long computation.

    Returns the readable images, their grey thumbnails, uint8 [n, ROWS, COLUMNS], and for each
    unreadable file the reason.
    """
    warnings.filterwarnings("ignore", module="PIL")  # about unusual files
    paths = [path for paths in images.values() for path in paths]
    results = map_in_threads(inspect_image, paths)
    results = list(with_progress(results, "reading photos", len(paths), "photos"))
    thumbnails = {
        path: result
        for path, result in zip(paths, results, strict=True)
        if not isinstance(result, str)
    }
    unreadable = {
        printable(path): result
        for path, result in zip(paths, results, strict=True)
        if isinstance(result, str)
    }
    readable = {
        name: [path for path in paths if path in thumbnails] for name, paths in images.items()
    }
    return readable, np.array(list(thumbnails.values()), np.uint8), unreadable


def inspect_image(path: Path) -> np.ndarray | str:
    """Return an image's grey thumbnail, uint8 [ROWS, COLUMNS], or the reason if it is unreadable.

    The thumbnail does not keep the ratio of width to height.
    """
    try:
        with open_image(path) as image:
            if image.width * image.height > MAX_PIXELS:  # known before the pixels are decoded
                millions = image.width * image.height / 1e6
                return f"it has {millions:.0f} million pixels, {MAX_PIXELS / 1e6:.0f} are allowed"
            # The same decoder as for the model, at 64 pixels, so that it rejects the same files
            pixels = model_pixels(image, 64)
    except UnreadableImage as error:
        # The caller prints the path, so the reason begins with "it"
        return printable(str(error).replace(f"{path} ", "it "))
    except (CutOff, NoColours) as error:
        return f"it {error}"
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        return f"it is damaged ({error})"
    return np.asarray(
        Image.fromarray(pixels).convert("L").resize((COLUMNS, ROWS), Image.Resampling.BOX)
    )


def printable(name: str | Path) -> str:
    """Return a file name with "?" for each character that cannot be printed or encoded."""
    return "".join(character if _is_printable(character) else "?" for character in str(name))


def _is_printable(character: str) -> bool:
    """Return whether a name may contain a character.

    str.isprintable rejects two kinds of characters that names need: the zero-width joiners of
    Persian and Hindi, and spaces other than " ".
    """
    return (
        character.isprintable()
        or character in "\u200c\u200d"
        or unicodedata.category(character) == "Zs"
    )
