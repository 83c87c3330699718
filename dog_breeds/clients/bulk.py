"""Classify a folder of photos on all CPUs and write a table. A second run continues the table.

Photos are listed as they are needed, so the memory does not grow with their number. Only the names
in the table that a run continues are kept in memory.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dog_breeds.clients.photo_files import LeftOut, list_photos
from dog_breeds.clients.tables import continue_table, encode, file_key, row_for
from dog_breeds.console import check_writable, progress
from dog_breeds.serving.facts import model_digest
from dog_breeds.workers import map_in_processes

# Photos that a process gets at once: about half a second of work. Their rows are written together.
BATCH = 16


def classify_folder(
    folder: Path, table: Path, model: Path, classify: Callable
) -> tuple[Counter, list[str]]:
    """Append a row to a table for each photo in a folder and its sub-folders.

    Return how often each breed or error occurs in the new rows, and remarks for the user.
    classify(model, folder, names) runs in other processes and returns the names of photos with the
    handler's answers. Photos with a row are skipped. Rows of photos that are no longer in the
    folder stay. Raises ValueError if the table is about another folder, or has rows of another
    model.
    """
    if table.is_dir():
        raise ValueError(f"{table} is a folder; name a file")
    digest, left_out, counts = model_digest(model), LeftOut(), Counter()
    check_writable(table.parent)
    form = continue_table(table, folder, digest)
    total = done = 0
    # A first pass counts the photos, for the progress and the remarks. It opens none of them.
    for name in list_photos(folder, left_out):
        total += 1
        done += file_key(name) in form.files
    missing = len(form.files) - done
    if missing > done:  # most photos of the table are missing, so the folder must be another one
        raise ValueError(
            f"{table} is about another folder: {folder} lacks {missing} of its {len(form.files)} "
            f"photos; name another table"
        )
    remarks = left_out.remarks(folder)
    if missing:
        remarks.append(f"{table}: {missing:,} rows are about photos that are no longer in {folder}")
    if form.without_model:
        remarks.append(f"{table}: {form.without_model:,} rows do not name their model")
    new = (name for name in list_photos(folder) if file_key(name) not in form.files)
    # iter() with a sentinel: batches of names until an empty one
    batches = iter(lambda: list(itertools.islice(new, BATCH)), [])
    with (
        open(table, "ab", buffering=0) as file,  # unbuffered, so that a killed run keeps its rows
        progress(table.name, total, done, "photos") as show,
    ):
        for answered in map_in_processes(classify, ((model, folder, names) for names in batches)):
            rows = [
                dict.fromkeys(form.columns, "") | row_for(name, answer, digest)
                for name, answer in answered
            ]
            file.write(encode(rows, form.columns, form.delimiter))
            counts.update(row["breed"] or row["error"] for row in rows)
            done += len(rows)
            show(done)
    return counts, remarks
