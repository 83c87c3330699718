"""List the photos in a folder. test.py --folder, teach.py and training.py all use this list."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Suffixes of the formats that client_images reads
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".mpo"),
    *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".heic", ".heif", ".hif", ".avif", ".tif", ".tiff"),
)
# Folders of operating systems and of network storage, with thumbnails and deleted photos
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
SHOWN = 5  # suffixes or folders that a remark names


class LeftOut:
    """The files and folders that a listing has left out, to be reported to the user."""

    def __init__(self) -> None:
        """Start with empty counts."""
        self.hidden = 0  # number of hidden files and folders
        self.folders: Counter[str] = Counter()  # names of system folders
        self.suffixes: Counter[str] = Counter()  # suffixes of files that are not photos
        self.unreadable: list[str] = []  # folders that may not be listed

    def note_unreadable(self, error: OSError) -> None:
        """Note a folder that cannot be listed, for os.walk."""
        self.unreadable.append(str(error.filename))

    def remarks(self, folder: Path) -> list[str]:
        """Return lines that report what was left out, if anything was."""
        groups = []
        if self.hidden:
            noun = "files or folders" if self.hidden > 1 else "file or folder"
            groups.append(f"{self.hidden:,} hidden {noun}")
        if self.folders:
            groups.append(f"the folders {with_counts(self.folders)}")
        if self.suffixes:
            number = self.suffixes.total()
            noun = (
                "files whose names are not those of photos"
                if number > 1
                else ("file whose name is not that of a photo")
            )
            groups.append(f"{number:,} {noun} ({with_counts(self.suffixes)})")
        lines = [f"left out in {folder}: {'; '.join(groups)}"] if groups else []
        return lines + [f"left out: {name}, which may not be read" for name in self.unreadable]


def with_counts(numbers: Counter[str]) -> str:
    """Return the most frequent names of a counter as one text."""
    named = [
        f"{name} {number:,}" if number > 1 else name
        for name, number in sorted(numbers.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    ]
    return ", ".join(named) + (" and others" if len(numbers) > SHOWN else "")


def list_photos(folder: Path, left_out: LeftOut | None = None) -> Iterator[str]:
    """Yield the names of all photos in a folder and its sub-folders, in a fixed order.

    Names are relative to `folder` and have "/" between folders. A folder that several links lead to
    is listed once, at its own place if that is below `folder`. `left_out` notes what is skipped.
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
            # Follow links at the end, because a link may lead to a folder that still comes
            tops += [Path(place, name) for name in folders if os.path.islink(Path(place, name))]
            for name in kept_files(files, left_out):
                path = Path(place, name)
                if path.is_file():
                    yield path.relative_to(folder).as_posix()


def kept_folders(names: list[str], left_out: LeftOut) -> list[str]:
    """Return the names of folders that people made, sorted. Note the others in `left_out`."""
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
    """Return the names of photos, sorted. Note the others in `left_out`."""
    kept = []
    for name in sorted(names):
        if name.startswith((".", *SYSTEM_FILES)):
            left_out.hidden += 1
        elif not name.lower().endswith(SUFFIXES):
            left_out.suffixes[Path(name).suffix.lower() or "no ending"] += 1
        else:
            kept.append(name)
    return kept
