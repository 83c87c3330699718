"""A folder of photos to a table, on all CPUs, and from where it was when it is run again.

Memory: the photos are listed as they are needed. Of a table that a run goes on with, the names of
its rows are held, once.
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

# Photos that a process gets at once, half a second's work, and whose rows are written at once
BATCH = 16


def classify_folder(
    folder: Path, table: Path, model: Path, classify: Callable
) -> tuple[Counter, list[str]]:
    """Append to a table a row for each photo in a folder and below. Return how often each breed or
    error came up, and remarks for the user.

    classify(model, folder, names), called in processes of its own, gives the names of some photos
    with the handler's answers about them. Photos that have a row are left out. Rows of photos
    that are no longer in the folder stay. Raises ValueError where the table is about another
    folder, or has rows of another model.
    """
    if table.is_dir():
        raise ValueError(f"{table} is a folder; name a file")
    digest, left_out, counts = model_digest(model), LeftOut(), Counter()
    check_writable(table.parent)
    form = continue_table(table, folder, digest)
    total = done = 0
    for name in list_photos(folder, left_out):
        total += 1
        done += file_key(name) in form.files
    gone = len(form.files) - done
    if gone > done:
        raise ValueError(
            f"{table} is about another folder: {folder} lacks {gone} of its {len(form.files)} "
            f"photos; name another table"
        )
    remarks = left_out.remarks(folder)
    if gone:
        remarks.append(f"{table}: {gone:,} rows are about photos that are no longer in {folder}")
    if form.without_model:
        remarks.append(f"{table}: {form.without_model:,} rows do not say which model gave them")
    new = (name for name in list_photos(folder) if file_key(name) not in form.files)
    batches = iter(lambda: list(itertools.islice(new, BATCH)), [])
    with (
        open(table, "ab", buffering=0) as file,
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
