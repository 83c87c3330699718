"""Copies of Stanford Dogs in other forms than the official archives.

Kaggle and others give the dataset unpacked, zipped, or as tar files with other folders around the
two official ones.
"""

import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dog_breeds.console import with_progress
from dog_breeds.data.archives import ARCHIVES, MAX_FILE_BYTES, SOURCE_HINT, check_free_space

# The end of a path. n02085620-Chihuahua/n02085620_7.jpg is a photo, and the same path without .jpg
# is its annotation. Some copies give annotations the suffix .xml.
DATASET_FILE = re.compile(r"(?:.*/)?(n\d{8}-[\w-]{1,99})/([\w-]{1,99})(\.jpg|\.xml|)", re.ASCII)
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)  # of an archive


class DatasetFile(NamedTuple):
    """A photo or annotation in a copy of the dataset."""

    name: str  # in data/raw: Images/<wnid-Name>/<id>.jpg or Annotation/<wnid-Name>/<id>
    size: int  # bytes
    read: Callable[[], bytes]  # valid only until the next file is requested


def is_archive(path: Path) -> bool:
    """Return whether a path is an archive file, judged by its name."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file()


def has_official_archives(source: Path) -> bool:
    """Return whether a folder has images.tar and annotation.tar in their official form.

    Damaged archives count too, because extract_archives says what is wrong with them.
    """
    for name, (top, _) in ARCHIVES.items():
        if not (source / name).is_file():
            return False
        try:
            with tarfile.open(source / name, "r:") as tar:
                first = next((member.name for member in tar if member.isreg()), "")
        except (tarfile.TarError, OSError, ValueError):
            return True
        if DATASET_FILE.fullmatch(first) and not first.removeprefix("./").startswith(f"{top}/"):
            return False
    return True


def copy_dataset(source: Path, folder: Path) -> dict:
    """Copy the photos and annotations from a folder or archive into a new, empty folder.

    Returns {"breeds": n, "images": n}. All photos come from the first place that has photos, and
    all annotations from the first place that has annotations. A folder comes before the archives in
    it. Raises FileNotFoundError if the source has no photos or no annotations. Raises ValueError if
    a file is there twice or a photo has no annotation. Both are raised before anything is written.
    """
    origins: dict[str, Path] = {}  # of "Images" and of "Annotation"
    sizes: dict[str, int] = {}
    for place in _places(source):
        for file in _dataset_files(place):
            top = file.name.split("/")[0]
            if origins.setdefault(top, place) != place:
                continue
            if file.name in sizes:
                raise ValueError(f"{place} has {file.name} twice; name the folder that has it once")
            if file.size > MAX_FILE_BYTES:
                raise ValueError(
                    f"{place}: {file.name} has the impossible size of {file.size:,} bytes"
                )
            sizes[file.name] = file.size
    for name, (top, _) in ARCHIVES.items():
        if top not in origins:
            raise FileNotFoundError(
                f"{source} holds no {name}, and no folders of {top} such as "
                f"{top}/n02085620-Chihuahua; {SOURCE_HINT}"
            )
    # <wnid-Name>/<id>, which is the same for a photo and its annotation
    keys = {
        top: {name.split("/", 1)[1].removesuffix(suffix) for name in sizes if name.startswith(top)}
        for top, suffix in ARCHIVES.values()
    }
    unmatched = sorted(keys["Images"] ^ keys["Annotation"])
    if unmatched:
        raise ValueError(
            f"{source}: {len(keys['Images']):,} photos and {len(keys['Annotation']):,} annotations "
            f"do not belong together: only one of them has {unmatched[0]}"
        )
    # A file takes up to one disk block, usually 4096 bytes, more than its content
    check_free_space(folder, sum(4096 + size for size in sizes.values()))
    missing = dict(sizes)
    for file in with_progress(_files_to_copy(source, origins), "copying", len(sizes), "files"):
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            content = file.read()
        except DAMAGED as error:
            raise ValueError(f"{source} cannot be used: {error}; get another copy") from None
        # The source may have changed since the first pass, and a zip file can state wrong sizes
        if len(content) != missing.pop(file.name, None):
            raise ValueError(f"{source}: {file.name} has changed, or is cut off")
        path.write_bytes(content)
    if missing:
        raise ValueError(f"{source}: {min(missing)} is no longer there")
    return {
        "breeds": len({key.split("/")[0] for key in keys["Images"]}),
        "images": len(keys["Images"]),
    }


def _files_to_copy(source: Path, origins: dict[str, Path]) -> Iterator[DatasetFile]:
    """Yield the photos and annotations, each from the place in `origins`."""
    for place in _places(source):
        for file in _dataset_files(place):
            if origins[file.name.split("/")[0]] == place:
                yield file


def _places(source: Path) -> Iterator[Path]:
    """Yield the source, and if it is a folder also the archives in it and in its sub-folders."""
    yield source
    if source.is_dir():
        for pattern in ("*", "*/*"):
            for path in sorted(source.glob(pattern)):
                if is_archive(path):
                    yield path


def _dataset_files(place: Path) -> Iterator[DatasetFile]:
    """Yield the photos and annotations in a folder or archive; ignore everything else.

    Raises ValueError for a damaged archive.
    """
    try:
        if place.is_dir():
            yield from _in_folder(place)
        elif place.name.lower().endswith(".zip"):
            yield from _in_zip(place)
        else:
            yield from _in_tar(place)
    except DAMAGED as error:
        raise ValueError(f"{place} cannot be used: {error}; get another copy") from None


def _name_in_raw(path: str) -> str | None:
    """Return the name that a file gets in data/raw, or None if it is no photo or annotation.

    The name consists only of checked parts, so that no archive can write outside data/raw.
    """
    match = DATASET_FILE.fullmatch(path)
    if not match:
        return None
    folder, stem, suffix = match.groups()
    return f"Images/{folder}/{stem}.jpg" if suffix == ".jpg" else f"Annotation/{folder}/{stem}"


def _in_folder(root: Path) -> Iterator[DatasetFile]:
    for place, folders, files in os.walk(root):
        # __MACOSX holds macOS' additions to a zip file, under the names of the photos
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for file in sorted(files):
            path = Path(place, file)
            # Relative to the parent, because the root itself may be the folder of a breed
            name = _name_in_raw(path.relative_to(root.parent).as_posix())
            if name and path.is_file():
                yield DatasetFile(name, path.stat().st_size, path.read_bytes)


def _in_zip(archive: Path) -> Iterator[DatasetFile]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            name = _name_in_raw(member.filename)
            if name and not member.is_dir():
                if member.flag_bits & 1:  # the flag of encrypted members
                    raise zipfile.BadZipFile("it is encrypted")
                yield DatasetFile(name, member.file_size, partial(opened.read, member))


def _in_tar(archive: Path) -> Iterator[DatasetFile]:
    with tarfile.open(archive) as opened:
        for member in opened:
            name = _name_in_raw(member.name)
            if name and member.isreg():
                yield DatasetFile(name, member.size, partial(_read_member, opened, member))


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return tar.extractfile(member).read()
