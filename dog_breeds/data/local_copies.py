"""Copies of Stanford Dogs in a folder, as Kaggle and others give them: unpacked, zipped, or as tars
with other folders around the two known ones.
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
from dog_breeds.data.archives import ARCHIVES, INSTEAD, MAX_MEMBER, need_space

# The last two parts of a path: n02085620-Chihuahua/n02085620_7.jpg is a photo, without .jpg it is
# an annotation. Some copies give annotations the ending .xml.
FILE = re.compile(r"(?:.*/)?(n\d{8}-[\w-]{1,99})/([\w-]{1,99})(\.jpg|\.xml|)", re.ASCII)
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")


class Entry(NamedTuple):
    """A photo or annotation in a copy."""

    name: str  # in data/raw: Images/<wnid-Name>/<id>.jpg or Annotation/<wnid-Name>/<id>
    size: int  # bytes
    read: Callable[[], bytes]  # usable until the next entry is asked for


def is_archive(path: Path) -> bool:
    """Return whether a path is that of an archive file, by its name."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def is_usual(source: Path) -> bool:
    """Return whether a folder has the two archives in their usual form, or one that is damaged."""
    for name, (top, _) in ARCHIVES.items():
        if not (source / name).is_file():
            return False
        try:
            with tarfile.open(source / name, "r:") as tar:
                first = next((member.name for member in tar if member.isreg()), "")
        except (tarfile.TarError, OSError, ValueError):
            return True  # which list_members refuses
        if FILE.fullmatch(first) and not first.removeprefix("./").startswith(f"{top}/"):
            return False
    return True


def copy_dataset(source: Path, folder: Path) -> dict:
    """Copy the photos and annotations in a folder or archive into `folder`, new and empty; return
    {"breeds": n, "images": n}.

    Photos are taken from the first place that has any, annotations too: a folder goes before the
    archives in it. Raises ValueError, before anything is written, where one is missing, is there
    twice, or does not belong to the other; FileNotFoundError where there are none.
    """
    origins: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    for place in places(source):
        for entry in entries(place):
            top = entry.name.split("/")[0]
            if origins.setdefault(top, place) != place:
                continue
            if entry.name in sizes:
                raise ValueError(
                    f"{place} has {entry.name} twice; name the folder that has it once"
                )
            if entry.size > MAX_MEMBER:
                raise ValueError(f"{place}: {entry.name} cannot be {entry.size:,} bytes")
            sizes[entry.name] = entry.size
    for name, (top, _) in ARCHIVES.items():
        if top not in origins:
            raise FileNotFoundError(
                f"{source} holds no {name}, and no folders of {top} such as "
                f"{top}/n02085620-Chihuahua; {INSTEAD}"
            )
    keys = {
        top: {name.split("/", 1)[1].removesuffix(end) for name in sizes if name.startswith(top)}
        for top, end in ARCHIVES.values()
    }
    unmatched = sorted(keys["Images"] ^ keys["Annotation"])
    if unmatched:
        raise ValueError(
            f"{source}: {len(keys['Images']):,} photos and {len(keys['Annotation']):,} annotations "
            f"do not belong together: {unmatched[0]} has one of them only"
        )
    need_space(folder, sum(4096 + size for size in sizes.values()))
    left = dict(sizes)
    for entry in with_progress(chosen(source, origins), "copying", len(sizes), "files"):
        path = folder / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            content = entry.read()
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{source} is unsound: {error}; get another copy") from None
        if len(content) != left.pop(entry.name, None):
            raise ValueError(f"{source}: {entry.name} has changed, or is cut off")
        path.write_bytes(content)
    if left:
        raise ValueError(f"{source}: {min(left)} is no longer there")
    return {
        "breeds": len({key.split("/")[0] for key in keys["Images"]}),
        "images": len(keys["Images"]),
    }


def chosen(source: Path, origins: dict[str, Path]) -> Iterator[Entry]:
    """Yield the entries that are to be copied."""
    for place in places(source):
        for entry in entries(place):
            if origins[entry.name.split("/")[0]] == place:
                yield entry


def places(source: Path) -> Iterator[Path]:
    """Yield a folder, then the archives in it and in its sub-folders; or the archive itself."""
    yield source
    if source.is_dir():
        for pattern in ("*", "*/*"):
            for path in sorted(source.glob(pattern)):
                if is_archive(path):
                    yield path


def entries(place: Path) -> Iterator[Entry]:
    """Yield the photos and annotations in a folder or archive; nothing else in it is looked at.

    Raises ValueError for a damaged archive.
    """
    try:
        if place.is_dir():
            yield from _in_folder(place)
        elif place.name.lower().endswith(".zip"):
            yield from _in_zip(place)
        else:
            yield from _in_tar(place)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{place} is unsound: {error}; get another copy") from None


def name_in_raw(path: str) -> str | None:
    """Return the name that a file gets in data/raw; None if it is no photo or annotation."""
    parts = FILE.fullmatch(path)
    if not parts:
        return None
    folder, stem, ending = parts.groups()
    return f"Images/{folder}/{stem}.jpg" if ending == ".jpg" else f"Annotation/{folder}/{stem}"


def _in_folder(root: Path) -> Iterator[Entry]:
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for file in sorted(files):
            path = Path(place, file)
            name = name_in_raw(path.relative_to(root.parent).as_posix())
            if name and path.is_file():
                yield Entry(name, path.stat().st_size, path.read_bytes)


def _in_zip(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            name = name_in_raw(member.filename)
            if name and not member.is_dir():
                if member.flag_bits & 1:
                    raise zipfile.BadZipFile("it is encrypted")
                yield Entry(name, member.file_size, partial(opened.read, member))


def _in_tar(archive: Path) -> Iterator[Entry]:
    with tarfile.open(archive) as opened:
        for member in opened:
            name = name_in_raw(member.name)
            if name and member.isreg():
                yield Entry(name, member.size, partial(_read_member, opened, member))


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return tar.extractfile(member).read()
