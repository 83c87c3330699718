"""List the photos in a folder, for test.py --folder, teach.py and training.py."""

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
# Folders in which operating systems and network disks keep thumbnails and deleted files
SYSTEM_FOLDERS = {
    "__macosx",  # zip files of macOS
    *("network trash folder", "temporary items"),  # shared disks of macOS
    *("@eadir", "@tmp", "#recycle", "#snapshot"),  # Synology
    *("@recycle", "@recently-snapshot", "@transcode"),  # QNAP
    *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
    "lost+found",  # Linux
    "__pycache__",
}
SYSTEM_FILES = (
    "SYNOPHOTO_",
    "SYNOFILE_THUMB_",
)  # thumbnails of Synology, also in folders copied from it
MOST_NAMES = 5  # suffixes or folders that a remark lists


class SkippedFiles:
    """Counts of the files and folders that a listing has skipped, for a report to the user."""

    def __init__(self) -> None:
        """Start with empty counts."""
        self.hidden = 0  # number of hidden files and folders
        self.folders: Counter[str] = Counter()  # names of system folders
        self.suffixes: Counter[str] = Counter()  # suffixes of files that are not photos
        self.unreadable: list[str] = []  # folders that the user has no right to list

    def note_unreadable(self, error: OSError) -> None:
        """Record a folder that cannot be listed. os.walk calls this function."""
        self.unreadable.append(str(error.filename))

    def remarks(self, folder: Path) -> list[str]:
        """Return lines that say what was skipped, or an empty list."""
        groups = []
        if self.hidden:
            noun = "files or folders" if self.hidden > 1 else "file or folder"
            groups.append(f"{self.hidden:,} hidden {noun}")
        if self.folders:
            groups.append(f"the folders {_with_counts(self.folders)}")
        if self.suffixes:
            number = self.suffixes.total()
            noun = (
                "files whose names are not those of photos"
                if number > 1
                else ("file whose name is not that of a photo")
            )
            groups.append(f"{number:,} {noun} ({_with_counts(self.suffixes)})")
        lines = [f"left out in {folder}: {'; '.join(groups)}"] if groups else []
        return lines + [f"left out: {name}, which you may not read" for name in self.unreadable]


def _with_counts(numbers: Counter[str]) -> str:
    """Return the most frequent names of a counter with their counts, as one text."""
    named = [
        f"{name} {number:,}" if number > 1 else name
        for name, number in sorted(numbers.items(), key=lambda item: (-item[1], item[0]))[
            :MOST_NAMES
        ]
    ]
    return ", ".join(named) + (" and others" if len(numbers) > MOST_NAMES else "")


def list_photos(folder: Path, skipped: SkippedFiles | None = None) -> Iterator[str]:
    """Yield the names of all photos in a folder and its sub-folders, in a fixed order.

    Names are relative to `folder`, with "/" between folders. If several links lead to one folder,
    it is listed once: at its real path if that is below `folder`. `skipped` counts what is skipped.
    """
    skipped = skipped or SkippedFiles()
    roots, seen = [folder], set()
    while roots:
        # os.walk itself does not follow links
        for place, folders, files in os.walk(roots.pop(0), onerror=skipped.note_unreadable):
            status = os.stat(place)
            # Two paths to one folder have the same device and inode
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()  # tells os.walk not to enter the sub-folders
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = photo_folders(folders, skipped)
            # Follow links last, because a link may lead to a folder that os.walk has yet to reach
            roots += [Path(place, name) for name in folders if os.path.islink(Path(place, name))]
            for name in photo_names(files, skipped):
                path = Path(place, name)
                if path.is_file():  # not a folder, a pipe or a broken link
                    yield path.relative_to(folder).as_posix()


def photo_folders(names: list[str], skipped: SkippedFiles) -> list[str]:
    """Return the names of folders that people made, sorted. Count the others in `skipped`."""
    kept = []
    for name in sorted(names):
        if name.startswith("."):
            skipped.hidden += 1
        elif name.lower() in SYSTEM_FOLDERS:
            skipped.folders[name] += 1
        else:
            kept.append(name)
    return kept


def photo_names(names: list[str], skipped: SkippedFiles) -> list[str]:
    """Return the names of photos, sorted. Count the others in `skipped`."""
    kept = []
    for name in sorted(names):
        if name.startswith((".", *SYSTEM_FILES)):
            skipped.hidden += 1
        elif not name.lower().endswith(SUFFIXES):
            skipped.suffixes[Path(name).suffix.lower() or "no ending"] += 1
        else:
            kept.append(name)
    return kept
