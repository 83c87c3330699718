"""Which files in a folder are photos: one answer for test.py --folder, teach.py and training.py."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Of photos that client_images.open_picture reads
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".mpo"),
    *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".heic", ".heif", ".hif", ".avif", ".tif", ".tiff"),
)
# Folders of systems and storage boxes, in small letters. They hold thumbnails and deleted photos.
SYSTEM_FOLDERS = {
    "__macosx",  # zip files of macOS
    *("network trash folder", "temporary items"),  # shared disks of macOS
    *("@eadir", "@tmp", "#recycle", "#snapshot"),  # Synology
    *("@recycle", "@recently-snapshot", "@transcode"),  # QNAP
    *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
    "lost+found",  # Linux
    "__pycache__",
}
SYSTEM_FILES = ("SYNOPHOTO_", "SYNOFILE_THUMB_")  # thumbnails of Synology, also in copied folders
SHOWN = 5  # kinds of files that a remark names


class LeftOut:
    """What a listing has left out, to be said to the user."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.hidden = 0  # files and folders
        self.folders: Counter[str] = Counter()  # of systems, by name
        self.suffixes: Counter[str] = Counter()  # of files that are no photos by their names
        self.unreadable: list[str] = []  # folders

    def note_unreadable(self, error: OSError) -> None:
        """Take up a folder that cannot be listed."""
        self.unreadable.append(str(error.filename))

    def remarks(self, folder: Path) -> list[str]:
        """Return the lines that say what was left out; none if there was nothing."""
        parts = []
        if self.hidden:
            what = "files or folders" if self.hidden > 1 else "file or folder"
            parts.append(f"{self.hidden:,} hidden {what}")
        if self.folders:
            parts.append(f"the folders {with_counts(self.folders)}")
        if self.suffixes:
            number = self.suffixes.total()
            named = "file that is no photo by its name"
            if number > 1:
                named = "files that are no photos by their names"
            parts.append(f"{number:,} {named} ({with_counts(self.suffixes)})")
        lines = [f"left out in {folder}: {'; '.join(parts)}"] if parts else []
        return lines + [f"left out: {name} may not be read" for name in self.unreadable]


def with_counts(numbers: Counter[str]) -> str:
    """Return the most frequent names of a counter as one text."""
    named = [
        f"{name} {number:,}" if number > 1 else name
        for name, number in sorted(numbers.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    ]
    return ", ".join(named) + (" and others" if len(numbers) > SHOWN else "")


def list_photos(folder: Path, left_out: LeftOut | None = None) -> Iterator[str]:
    """Yield the names of all photos in a folder and below, relative to it and with "/", in a fixed
    order.

    A folder that several links lead to is listed once, under its own place if that is below
    `folder`. `left_out` takes up what is passed over.
    """
    left_out = left_out or LeftOut()
    tops, seen = [folder], set()
    while tops:
        for place, folders, files in os.walk(tops.pop(0), onerror=left_out.note_unreadable):
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = kept_folders(folders, left_out)
            # A link may lead to a folder that comes later: links are for the end
            tops += [Path(place, name) for name in folders if os.path.islink(Path(place, name))]
            for name in kept_files(files, left_out):
                path = Path(place, name)
                if path.is_file():
                    yield path.relative_to(folder).as_posix()


def kept_folders(names: list[str], left_out: LeftOut) -> list[str]:
    """Return those names of folders that people gave, sorted."""
    kept = []
    for name in sorted(names):
        if name.startswith("."):
            left_out.hidden += 1
        elif name.lower() in SYSTEM_FOLDERS:
            left_out.folders[name] += 1
        else:
            kept.append(name)
    return kept


def kept_files(names: list[str], left_out: LeftOut) -> list[str]:
    """Return those names of files that are photos' names, sorted."""
    kept = []
    for name in sorted(names):
        if name.startswith((".", *SYSTEM_FILES)):
            left_out.hidden += 1
        elif not name.lower().endswith(SUFFIXES):
            left_out.suffixes[Path(name).suffix.lower() or "no ending"] += 1
        else:
            kept.append(name)
    return kept
