"""Classify a folder of photos on all CPUs and write a table. A second run continues the table.

Photos are listed while they are classified, so memory hardly grows with their number: a run keeps
only the names that are already in the table.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dog_breeds.clients.photo_files import SkippedFiles, list_photos
from dog_breeds.clients.tables import continue_table, encode, file_key, row_for
from dog_breeds.console import check_writable, progress
from dog_breeds.serving.facts import model_digest
from dog_breeds.workers import map_in_processes

# Photos that a worker gets at once, about half a second of work. Their rows are written together.
BATCH_SIZE = 16


def classify_folder(
    folder: Path, table: Path, model: Path, classify: Callable
) -> tuple[Counter, list[str]]:
    """Append a row to a table for each photo in a folder and its sub-folders.

    Return how often each breed or error occurs in the new rows, and remarks for the user. Photos
    that have a row are skipped. Rows of photos that are no longer in the folder stay.

    `classify(model, folder, names)` runs in worker processes, and returns a list of (name, answer
    of the handler). Raises ValueError if the table is about another folder, or has rows of another
    model.
    """
    if table.is_dir():
        raise ValueError(f"{table} is a folder; use the name of a file")
    digest, skipped, counts = model_digest(model), SkippedFiles(), Counter()
    check_writable(table.parent)
    old_table = continue_table(table, folder, digest)
    total = done = 0
    # A first pass only counts the photos, for the progress bar and the remarks
    for name in list_photos(folder, skipped):
        total += 1
        done += file_key(name) in old_table.files
    missing = len(old_table.files) - done
    # If the folder lacks most photos of the table, the user has probably named a wrong folder
    if missing > done:
        raise ValueError(
            f"{table} is about another folder: {folder} lacks {missing} of its "
            f"{len(old_table.files)} "
            f"photos; use another table"
        )
    remarks = skipped.remarks(folder)
    if missing:
        remarks.append(f"{table}: {missing:,} rows are about photos that are no longer in {folder}")
    if old_table.without_model:
        remarks.append(f"{table}: {old_table.without_model:,} rows do not name their model")
    new = (name for name in list_photos(folder) if file_key(name) not in old_table.files)
    # iter(function, sentinel) calls the function until it returns an empty batch
    batches = iter(lambda: list(itertools.islice(new, BATCH_SIZE)), [])
    with (
        open(table, "ab", buffering=0) as file,  # unbuffered: a killed run keeps its rows
        progress(table.name, total, done, "photos") as show,
    ):
        for answered in map_in_processes(classify, ((model, folder, names) for names in batches)):
            rows = [
                dict.fromkeys(old_table.columns, "") | row_for(name, answer, digest)
                for name, answer in answered
            ]
            file.write(encode(rows, old_table.columns, old_table.delimiter))
            counts.update(row["breed"] or row["error"] for row in rows)
            done += len(rows)
            show(done)
    return counts, remarks
