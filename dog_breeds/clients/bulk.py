"""A folder of photos to a table, on all CPUs: in bounded memory, and from where it was when it is
run again.
"""

import csv
import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from dog_breeds.clients.client_images import SUFFIXES
from dog_breeds.console import progress
from dog_breeds.workers import in_processes

# Known: yes or no; error: a code of the handler, then no breed
HEADER = b"file,breed,probability,known,error\r\n"
# Photos that a process gets at once, half a second's work, and whose rows are written at once
BATCH = 16


def classify_folder(folder: Path, table: Path, classify: Callable, *arguments: object) -> Counter:
    """Append to a CSV file a row for each photo in a folder and below; return how often each breed
    or error came up.

    classify(*arguments, folder, names), called in processes of its own, gives the rows of some
    photos, as in HEADER. Photos that have a row are left out, and a row that a killed run left half
    is made again. Raises ValueError where the table has rows of photos that the folder lacks.
    """
    there, names, counts = names_in(table), set(photos(folder)), Counter()
    if there - names:
        raise ValueError(
            f"{table} is about another folder: {folder} has no {min(there - names)}; "
            "name another table"
        )
    left = (name for name in photos(folder) if name not in there)
    tasks = (
        (*arguments, folder, batch)
        for batch in iter(lambda: list(itertools.islice(left, BATCH)), [])
    )
    done = len(there)
    with (
        open(table, "ab", buffering=0) as file,
        progress(table.name, len(names), done, "photos", 1) as show,
    ):
        if not file.tell():
            file.write(HEADER)
        for rows in in_processes(classify, tasks):
            text = io.StringIO(newline="")
            csv.writer(text).writerows(rows)
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))
            counts.update(breed or error for _, breed, _, _, error in rows)
            done += len(rows)
            show(done)
    return counts


def photos(folder: Path) -> Iterator[str]:
    """Yield the names of all photos in a folder and below, relative to it and with "/", in a fixed
    order.
    """
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            if name.lower().endswith(SUFFIXES) and path.is_file():
                yield path.relative_to(folder).as_posix()


def names_in(table: Path) -> set[str]:
    """Return the names that have a row, having cut off a half one at the end; ValueError if the
    file is another's.
    """
    if not table.exists():
        return set()
    names, record = set(), b""
    with open(table, "r+b") as file:
        start = file.read(len(HEADER))
        if not HEADER.startswith(start):
            raise ValueError(f"{table} is there and is no table of this program; name another file")
        end = len(start) if start == HEADER else 0
        for line in file:
            record += line
            if (
                line.endswith(b"\r\n") and record.count(b'"') % 2 == 0
            ):  # else it goes on: names may have line breaks
                text = io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")
                names.update(next(csv.reader(text))[:1])  # a blank line, from an editor, has none
                end, record = end + len(record), b""
        file.truncate(end)
    return names
